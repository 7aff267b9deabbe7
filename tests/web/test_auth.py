from pathlib import Path

import pytest

from storage import keys
from tests.web.conftest import LOCAL, NOW, STRANGER, Web, decoded, serving
from web.auth import WANTED, address_of

HISTORY = "/api/tradingview/history?symbol=GOLD&resolution=1&from=0&to=1"
EVENT = {"market_symbol": "GOLD", "timestamp": NOW * 1000, "price": 1}
MARKET = {"market_symbol": "TEA"}


@pytest.mark.parametrize(
    ("peer", "forwarded", "proxies", "expected"),
    [
        ("198.51.100.1", [], (), "198.51.100.1"),
        ("198.51.100.1", ["203.0.113.9"], (), "198.51.100.1"),
        ("198.51.100.1", ["203.0.113.9"], ("10.0.0.0/8",), "198.51.100.1"),
        ("10.0.0.1", ["203.0.113.9"], ("10.0.0.0/8",), "203.0.113.9"),
        ("10.0.0.1", ["1.1.1.1, 203.0.113.9"], ("10.0.0.0/8",), "203.0.113.9"),
        ("10.0.0.1", ["1.1.1.1, 203.0.113.9, 10.2.0.1"], ("10.0.0.0/8",), "203.0.113.9"),
        ("10.0.0.1", ["1.1.1.1", "203.0.113.9, 10.2.0.1"], ("10.0.0.0/8",), "203.0.113.9"),
        ("10.0.0.1", ["nonsense"], ("10.0.0.0/8",), "10.0.0.1"),
        ("10.0.0.1", ["10.0.0.9"], ("10.0.0.0/8",), "10.0.0.9"),
        ("::ffff:10.0.0.1", ["203.0.113.9"], ("10.0.0.1",), "203.0.113.9"),
        ("::ffff:203.0.113.9", [], (), "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", [], (), "2001:db8:1:2::/64"),
        ("<local>", [], (), "<local>"),
    ],
)
def test_an_address_is_the_peers_or_what_trusted_proxies_say(
    peer: str, forwarded: list[str], proxies: tuple[str, ...], expected: str
) -> None:
    assert address_of(peer, forwarded, proxies) == expected


async def test_reading_needs_no_key_by_default_and_writing_does(web: Web) -> None:
    assert (await web.get(HISTORY)).status_code == 200
    for method, path, body in (
        ("POST", "/api/ingest/events", [EVENT]),
        ("POST", "/api/markets", MARKET),
        ("PATCH", "/api/markets/GOLD", {"name": "x"}),
        ("DELETE", "/api/markets/GOLD", {}),
    ):
        answer = await web.ask(method, path, json=body)
        assert answer.status_code == 401, path
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert "a key with the scope" in (await answer.get_json())["error"]
    assert web.stack.engine.committed() == 0


@pytest.mark.parametrize(
    ("scope", "reads", "ingests", "changes"),
    [("read", 200, 403, 403), ("ingest", 403, 200, 403), ("admin", 200, 200, 201)],
)
async def test_a_key_opens_what_its_scope_says(
    tmp_path: Path, scope: str, reads: int, ingests: int, changes: int
) -> None:
    async with serving(tmp_path / "data", auth="token") as web:
        await web.market()
        key = await web.key(scope)
        assert (await web.get("/api/markets", headers=key)).status_code == reads
        assert (await web.post("/api/ingest/events", json=[EVENT], headers=key)).status_code == ingests
        assert (await web.post("/api/markets", json=MARKET, headers=key)).status_code == changes
        told = await web.post("/api/ingest/events?create=spot", json=[{**EVENT, "market_symbol": "NEW"}], headers=key)
        assert told.status_code == (200 if scope == "admin" else 403)


async def test_with_tokens_only_what_machines_ask_and_the_page_itself_are_open(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", auth="token") as web:
        await web.market()
        for path in ("/healthz", "/readyz", "/"):
            assert (await web.get(path)).status_code == 200, path
        for path in (HISTORY, "/api/markets", "/api/markets/GOLD", "/api/charts/health", "/metrics"):
            assert (await web.get(path)).status_code == 401, path
            assert (await web.get(path, headers=await web.key("read"))).status_code == 200, path
        assert decoded(await (await web.get(HISTORY)).get_data())["s"] == "error"


async def test_a_configuration_that_cannot_be_told_is_no_json(tmp_path: Path) -> None:
    # A chart would take any JSON object for the configuration.
    async with serving(tmp_path / "data", auth="token") as web:
        answer = await web.get("/api/tradingview/config")
        assert answer.status_code == 401
        assert answer.headers["Content-Type"].startswith("text/plain")
        assert not (await answer.get_data(as_text=True)).startswith(("{", "[", "<"))


@pytest.mark.parametrize("header", ["Bearer wrong", "Bearer cdl_a_wrong", "Basic YTpi", "Bearer", "Bearer cdl_a_\xe9"])
async def test_a_key_that_is_not_ours_is_refused(web: Web, header: str) -> None:
    answer = await web.post("/api/ingest/events", json=[EVENT], headers={"Authorization": header})
    assert answer.status_code == 401
    assert "unknown or revoked" in (await answer.get_json())["error"]


async def test_a_revoked_key_opens_nothing(web: Web) -> None:
    key = await web.key("ingest")
    await web.stack.door.run(keys.revoke, web.stack.state, 1)
    assert (await web.post("/api/ingest/events", json=[EVENT], headers=key)).status_code == 401


async def test_a_key_is_said_nowhere_in_an_answer(web: Web) -> None:
    key = {"Authorization": "Bearer cdl_a_secretsecret"}
    answer = await web.post("/api/markets", json=MARKET, headers=key)
    assert b"secretsecret" not in await answer.get_data()
    assert "secretsecret" not in str(answer.headers)


LOOPBACK = {"Host": "localhost:8000"}


@pytest.mark.parametrize(
    "headers",
    [
        LOOPBACK,
        {"Host": "127.0.0.1:8000"},
        {"Host": "[::1]:8000"},
        {"Host": "localhost"},
        {**LOOPBACK, "Origin": "http://localhost:8000"},
        {**LOOPBACK, "Origin": "http://localhost:8000", "Sec-Fetch-Site": "same-origin"},
    ],
)
async def test_the_demo_takes_writes_of_this_machine_without_a_key(tmp_path: Path, headers: dict[str, str]) -> None:
    async with serving(tmp_path / "data", demo=True) as web:
        made = await web.post("/api/markets", json={"market_symbol": "GOLD", "kind": "spot"}, headers=headers)
        assert made.status_code == 201
        assert (await web.post("/api/ingest/events", json=[EVENT], headers=headers)).status_code == 200
        new = {**EVENT, "market_symbol": "NEW"}
        assert (await web.post("/api/ingest/events?create=spot", json=[new], headers=headers)).status_code == 200


@pytest.mark.parametrize(
    ("headers", "client", "why"),
    [
        (LOOPBACK, STRANGER, "203.0.113.7"),
        ({"Host": "evil.example:8000"}, LOCAL, "evil.example"),
        ({"Host": "localhost.evil.example"}, LOCAL, "evil.example"),
        ({"Host": "127.0.0.1.evil.example"}, LOCAL, "evil.example"),
        ({**LOOPBACK, "Origin": "https://evil.example"}, LOCAL, "evil.example"),
        ({**LOOPBACK, "Origin": "http://localhost:3000"}, LOCAL, "localhost:3000"),
        ({**LOOPBACK, "Origin": "null"}, LOCAL, "null"),
        ({**LOOPBACK, "Sec-Fetch-Site": "cross-site"}, LOCAL, "another site"),
        ({**LOOPBACK, "X-Forwarded-For": "203.0.113.7"}, LOCAL, "proxy"),
    ],
)
async def test_the_demo_takes_no_writes_of_others_without_a_key(
    tmp_path: Path, headers: dict[str, str], client: tuple[str, int], why: str
) -> None:
    async with serving(tmp_path / "data", demo=True) as web:
        answer = await web.post("/api/markets", json=MARKET, headers=headers, client=client)
        assert answer.status_code == 403
        assert why in (await answer.get_json())["error"]
        made = await web.post("/api/markets", json=MARKET, headers={**headers, **await web.key("admin")}, client=client)
        assert made.status_code == 201


async def test_a_wrong_key_is_refused_in_the_demo_too(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", demo=True) as web:
        wrong = {**LOOPBACK, "Authorization": "Bearer cdl_a_wrong"}
        assert (await web.post("/api/markets", json=MARKET, headers=wrong)).status_code == 401


async def test_without_the_demo_this_machine_needs_a_key(web: Web) -> None:
    assert (await web.post("/api/markets", json=MARKET, headers=LOOPBACK)).status_code == 401


async def test_every_endpoint_with_a_rule_of_its_own_exists(web: Web) -> None:
    assert set(WANTED) <= set(web.app.view_functions)


# --- pages of other origins


async def test_every_origin_may_read_by_default(web: Web) -> None:
    asked = {"Origin": "https://chart.example", "Access-Control-Request-Method": "GET"}
    for path in (HISTORY, "/api/tradingview/symbols?symbol=NOPE", "/api/tradingview/nothing", "/api/markets"):
        answer = await web.get(path, headers={"Origin": "https://chart.example"})
        assert answer.headers["Access-Control-Allow-Origin"] == "*", path
        assert "Access-Control-Allow-Credentials" not in answer.headers
        before = await web.ask("OPTIONS", path, headers={**asked, "Access-Control-Request-Headers": "x-app, x-b"})
        assert before.status_code == 204
        assert await before.get_data() == b""
        assert before.headers["Access-Control-Allow-Origin"] == "*"
        assert before.headers["Access-Control-Allow-Headers"] == "x-app, x-b"
        assert "GET" in before.headers["Access-Control-Allow-Methods"]
    assert "X-Cursor" in (await web.get(HISTORY)).headers["Access-Control-Expose-Headers"]


@pytest.mark.parametrize("origins", [("*",), ("https://chart.example",)])
@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/api/ingest/events", "OPTIONS, POST"),
        ("/api/markets", "GET, HEAD, OPTIONS, POST"),
        ("/api/markets/GOLD", "DELETE, GET, HEAD, OPTIONS, PATCH"),
        ("/api/markets/BTC/USD", "DELETE, GET, HEAD, OPTIONS, PATCH"),
        (HISTORY, "GET, HEAD, OPTIONS"),
        ("/api/nothing/here", "GET, HEAD, OPTIONS"),
    ],
)
async def test_a_path_is_asked_beforehand_what_it_takes(
    tmp_path: Path, origins: tuple[str, ...], path: str, methods: str
) -> None:
    async with serving(tmp_path / "data", cors_origins=origins) as web:
        asked = {"Origin": "https://chart.example", "Access-Control-Request-Method": "POST"}
        answer = await web.ask("OPTIONS", path, headers=asked)
        assert answer.status_code == 204
        assert answer.headers["Access-Control-Allow-Methods"] == answer.headers["Allow"] == methods


async def test_a_page_of_another_origin_may_ask_and_writes_with_a_key_only(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", demo=True) as web:
        await web.market()
        page = {**LOOPBACK, "Origin": "https://evil.example"}
        asked = {**page, "Access-Control-Request-Method": "POST"}
        before = await web.ask("OPTIONS", "/api/ingest/events", headers=asked)
        assert "POST" in before.headers["Access-Control-Allow-Methods"]
        refused = await web.post("/api/ingest/events", json=[EVENT], headers=page)
        assert refused.status_code == 403
        assert web.stack.engine.committed() == 0
        key = await web.key("ingest")
        assert (await web.post("/api/ingest/events", json=[EVENT], headers={**page, **key})).status_code == 200


async def test_listed_origins_may_read_and_write_and_others_may_not(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", cors_origins=("https://chart.example",), auth="token") as web:
        ours = await web.ask(
            "OPTIONS",
            "/api/markets",
            headers={"Origin": "https://chart.example", "Access-Control-Request-Headers": "authorization; x"},
        )
        assert ours.status_code == 204
        assert ours.headers["Access-Control-Allow-Origin"] == "https://chart.example"
        assert "POST" in ours.headers["Access-Control-Allow-Methods"]
        assert "Authorization" in ours.headers["Access-Control-Allow-Headers"]
        assert "Origin" in ours.headers["Vary"]
        for origin in ({"Origin": "https://evil.example"}, {"Origin": "https://chart.example.evil.example"}, {}):
            other = await web.get("/api/tradingview/config", headers=origin)
            assert "Access-Control-Allow-Origin" not in other.headers
            assert "Origin" in other.headers["Vary"]


async def test_every_answer_may_be_taken_for_nothing_but_what_it_says_it_is(web: Web) -> None:
    for path in ("/", HISTORY, "/metrics", "/healthz", "/nothing"):
        answer = await web.get(path)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Request-Id"]
