from typing import Any

import pytest

from storage.records import Market
from storage.tiers import TIERS
from tests.web.conftest import NOW, Web
from web.listing import LIVE

ALL = {
    "market_id": 18446744073709551615,
    "market_symbol": "VAMM/OIL",
    "kind": "perp",
    "contract_address": "0xAb5801a7D398351b8bE11C439e05C5B3259aeC9B",
    "chain_id": 137,
    "vault_address": "0x1",
    "oracle_address": "0x2",
    "name": "Oil Futures",
    "description": "Trade oil price movements",
    "category": "Commodities",
    "base_asset": "OIL",
    "quote_asset": "USD",
    "min_trade_size": "0.001",
    "max_leverage": "50",
    "trading_fee_rate": "0.003",
    "funding_interval": 3600,
    "is_active": True,
    "created_timestamp": 1704067200000,
    "deployment_block": 12345678,
    "creator_address": "0x3",
    "icon_url": "https://example.com/oil.png",
    "banner_url": "https://example.com/oil-banner.png",
    "website_url": "https://example.com",
    "tier": "tier1",
    "supply": "1000000",
    "price_source": ["mark", "index"],
    "session": "0930-1600",
    "timezone": "America/New_York",
    "pricescale": 100,
    "minmov": 5,
}


@pytest.fixture
async def admin(web: Web) -> Web:
    """The app, with an admin key in every request."""
    web.headers = await web.key("admin")
    return web


async def asked(web: Web, method: str, path: str, status: int, json: Any = None, **headers: str) -> Any:
    answer = await web.ask(method, path, json=json, headers=headers)
    found = await answer.get_json()
    assert answer.status_code == status, found
    return found


async def test_a_market_is_registered_with_every_column_and_told_the_same(admin: Web) -> None:
    assert set(ALL) == {*Market.__struct_fields__} - {"slot"}
    assert await asked(admin, "POST", "/api/markets", 201, ALL) == ALL
    told = await asked(admin, "GET", "/api/markets/VAMM%2FOIL", 200)
    assert {**told, **ALL} == told
    assert set(told) - set(ALL) == {*LIVE, "tier_assigned"}
    # What was told may be sent back.
    assert await asked(admin, "POST", "/api/markets", 200, told) == ALL
    # Also a tier that nobody has set: it stays so.
    gold = await asked(admin, "GET", "/api/markets/GOLD", 200)
    assert (gold["tier"], gold["tier_assigned"]) == ("tier4", True)
    assert (await asked(admin, "PATCH", "/api/markets/GOLD", 200, gold))["tier"] is None


async def test_what_is_not_said_has_a_default_and_an_id_of_its_own(admin: Web) -> None:
    made = await asked(admin, "POST", "/api/markets", 201, {"market_symbol": "TEA"})
    assert made["kind"] == "perp"
    assert made["price_source"] == ["mark"]
    assert (made["session"], made["timezone"], made["pricescale"], made["minmov"]) == ("24x7", "Etc/UTC", 1_000_000, 1)
    assert made["market_id"] != (await asked(admin, "GET", "/api/markets/GOLD", 200))["market_id"]
    assert "slot" not in made


@pytest.mark.parametrize(
    ("symbol", "path"),
    [
        ("BTC/USD", "BTC%2FUSD"),
        ("BTC/USD", "btc/usd"),
        ("A//B", "A%2F%2FB"),
        ("/LEADING", "%2FLEADING"),
        ("X:Y", "X%3AY"),
        ("50% OFF?", "50%25%20OFF%3F"),
        ("KÖLN", "k%C3%B6ln"),
    ],
)
async def test_any_symbol_has_a_path(admin: Web, symbol: str, path: str) -> None:
    await asked(admin, "POST", "/api/markets", 201, {"market_symbol": symbol})
    assert (await asked(admin, "GET", f"/api/markets/{path}", 200))["market_symbol"] == symbol
    assert (await asked(admin, "PATCH", f"/api/markets/{path}", 200, {"name": "n"}))["name"] == "n"
    assert (await asked(admin, "DELETE", f"/api/markets/{path}", 200))["is_active"] is False


async def test_exchange_and_name_mean_the_market_too(admin: Web) -> None:
    assert (await asked(admin, "GET", "/api/markets/spot:gold", 200))["market_symbol"] == "GOLD"
    await asked(admin, "GET", "/api/markets/VAMM:GOLD", 404)


async def test_a_change_names_what_it_changes_and_leaves_the_rest(admin: Web) -> None:
    await asked(admin, "POST", "/api/markets", 201, ALL)
    changed = await asked(admin, "PATCH", "/api/markets/vamm%2foil", 200, {"tier": None, "supply": 7, "minmov": 1})
    assert changed == ALL | {"tier": None, "supply": "7", "minmov": 1}
    posted = await asked(admin, "POST", "/api/markets", 200, {"market_symbol": "VAMM/OIL", "name": "Oil"})
    assert posted == changed | {"name": "Oil"}
    # Charts hear of it at once.
    assert (await admin.json("/api/tradingview/symbols?symbol=vamm%2Foil"))["description"] == "Oil"


async def test_a_deactivated_market_leaves_the_lists_and_keeps_its_history(admin: Web) -> None:
    await admin.trades((NOW - 60, 10.0))
    await asked(admin, "DELETE", "/api/markets/GOLD", 200)
    assert await admin.json("/api/tradingview/search?query=GOLD") == []
    assert (await asked(admin, "GET", "/api/markets/GOLD", 200))["is_active"] is False
    bars = await admin.json(f"/api/tradingview/history?symbol=GOLD&resolution=1&from=0&to={NOW}")
    assert bars["c"] == [10]
    assert (await asked(admin, "PATCH", "/api/markets/GOLD", 200, {"is_active": True}))["is_active"] is True
    assert len(await admin.json("/api/tradingview/search?query=GOLD")) == 1


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "market_symbol: needed"),
        ({"market_symbol": ""}, "market_symbol: expected"),
        ({"market_symbol": 7}, "market_symbol: expected"),
        ({"market_symbol": "A,B"}, "market_symbol: expected"),
        ({"market_symbol": "T", "colour": 1}, "colour: a market has no such field"),
        ({"market_symbol": "T", "slot": 1}, "slot: a market has no such field"),
        ({"market_symbol": "T", "kind": "stock"}, "kind: expected one of perp, spot, card, index"),
        ({"market_symbol": "T", "timezone": "America/NewYork"}, "America/New_York"),
        ({"market_symbol": "T", "session": "9-5"}, "session"),
        ({"market_symbol": "T", "icon_url": "javascript:alert(1)"}, "icon_url"),
        ({"market_symbol": "T", "pricescale": 0}, "pricescale"),
        ([], "body: expected a JSON object"),
        ("GOLD", "body: expected a JSON object"),
    ],
)
async def test_what_makes_no_market_is_refused_with_its_reason(admin: Web, body: Any, said: str) -> None:
    assert said in (await asked(admin, "POST", "/api/markets", 400, body))["error"]
    assert await admin.stack.registry.count() == (1, 1)


async def test_a_body_that_is_no_json_is_refused(admin: Web) -> None:
    for data in (b"", b"{", b"\xff", b'{"market_symbol": "' + b"[" * 5000):
        answer = await admin.post("/api/markets", data=data, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400
        assert "body" in (await answer.get_json())["error"]
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = await admin.post("/api/markets", data=b'{"market_symbol": "T"}', headers=form)
    assert answer.status_code == 415


async def test_names_are_unique_without_regard_to_case(admin: Web) -> None:
    said = await asked(admin, "POST", "/api/markets", 409, {"market_symbol": "gold"})
    assert "'gold' is taken by 'GOLD'" in said["error"]
    await asked(admin, "POST", "/api/markets", 409, {"market_symbol": "TEA", "market_id": 1})
    await asked(admin, "PATCH", "/api/markets/GOLD", 409, {"market_symbol": "SILVER"})


async def test_a_second_registration_does_not_change_what_kind_a_market_is(admin: Web) -> None:
    await asked(admin, "POST", "/api/markets", 201, {"market_symbol": "TEA", "kind": "spot"})
    said = await asked(admin, "POST", "/api/markets", 409, {"market_symbol": "TEA", "kind": "perp", "name": "Tea"})
    assert said["error"] == "kind: 'TEA' is registered as 'spot', not 'perp'"
    kept = await asked(admin, "POST", "/api/markets", 200, {"market_symbol": "TEA", "kind": "spot"})
    assert (kept["kind"], kept["name"]) == ("spot", None)
    # Whoever says that it is a change may change it, as long as no event has settled it.
    assert (await asked(admin, "PATCH", "/api/markets/TEA", 200, {"kind": "perp"}))["kind"] == "perp"


async def test_what_the_first_event_settles_cannot_change_after_it(admin: Web) -> None:
    await asked(admin, "PATCH", "/api/markets/GOLD", 200, {"timezone": "America/New_York"})
    await admin.trades((NOW - 60, 10.0))
    for change in ({"timezone": "Etc/UTC"}, {"session": "0930-1600"}, {"price_source": ["index"]}, {"kind": "perp"}):
        said = await asked(admin, "PATCH", "/api/markets/GOLD", 409, change)
        assert "GOLD' has events" in said["error"]
    await asked(admin, "PATCH", "/api/markets/GOLD", 200, {"timezone": "America/New_York", "name": "x"})


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
async def test_an_unknown_market_is_not_found(admin: Web, method: str) -> None:
    assert (await asked(admin, method, "/api/markets/GLOD", 404, {}))["error"] == "no market named 'GLOD'"


async def test_the_list_is_read_page_by_page(admin: Web) -> None:
    for n in range(9):
        await admin.market(f"M{n}", kind="perp" if n % 2 else "spot", name="an even one" if n % 2 == 0 else None)
    await asked(admin, "DELETE", "/api/markets/M3", 200)

    async def read(query: str, limit: int) -> list[str]:
        symbols: list[str] = []
        after = ""
        while True:
            page = await asked(admin, "GET", f"/api/markets?limit={limit}&after={after}{query}", 200)
            assert len(page["markets"]) <= limit
            symbols += [market["market_symbol"] for market in page["markets"]]
            after = page["next"]
            if after is None:
                return symbols

    for limit in (1, 2, 3, 10, 100):
        assert await read("", limit) == ["GOLD", *(f"M{n}" for n in range(9))]
        assert await read("&query=even", limit) == ["M0", "M2", "M4", "M6", "M8"]
        assert await read("&kind=perp", limit) == ["M1", "M3", "M5", "M7"]
    assert await read("&query=nothing", 5) == []
    await asked(admin, "GET", "/api/markets?after=NOPE", 404)
    for limit_said in ("0", "501", "1e5", "x"):
        refused = await asked(admin, "GET", f"/api/markets?limit={limit_said}", 400)
        assert refused["error"] == f"limit: expected an integer, 1 to 500, got {limit_said!r}"
    assert "kind" in (await asked(admin, "GET", "/api/markets?kind=stock", 400))["error"]


DAY = 86400


async def test_a_market_carries_what_it_trades_at(admin: Web) -> None:
    await asked(admin, "POST", "/api/markets", 201, {"market_symbol": "OIL", "supply": "1000"})
    told = [
        {"timestamp": (NOW - DAY - 600) * 1000, "price": 20, "size": 5},
        {"timestamp": (NOW - 600) * 1000, "price": 30, "size": 2, "open_interest": 700},
        {"timestamp": (NOW - 60) * 1000 + 250, "price": 25, "size": 1},
    ]
    events = [{"market_symbol": "OIL", "event_type": "PositionOpened", **one} for one in told]
    await asked(admin, "POST", "/api/ingest/events", 200, events)
    expected = {
        "current_price": 25,
        "price_24h_ago": 20,
        "price_change_24h": 25,
        "volume_24h": 3,
        "trades_24h": 2,
        "open_interest": 700,
        "market_cap": 25000,
        "last_updated": (NOW - 60) * 1000 + 250,
        "channel": "market-OIL",
    }
    assert set(expected) == set(LIVE)
    one = await asked(admin, "GET", "/api/markets/oil", 200)
    assert {**one, **expected} == one
    listed = (await asked(admin, "GET", "/api/markets", 200))["markets"]
    assert {market["market_symbol"]: market for market in listed}["OIL"] == one
    gold = next(market for market in listed if market["market_symbol"] == "GOLD")
    nothing = {**dict.fromkeys(LIVE), "volume_24h": 0, "trades_24h": 0, "channel": "market-GOLD"}
    assert {name: gold[name] for name in LIVE} == nothing
    price = await admin.json("/api/markets/oil/price")
    light = (await admin.json("/api/lightweight/markets?search=oil"))["data"][0]
    for name in ("price_change_24h", "volume_24h", "market_cap"):
        assert one[name] == price[name] == light[name], name
    assert one["current_price"] == price["mark_price"] == light["current_price"]
    # What moves neither price, funding nor open interest is no news of them.
    later = {"market_symbol": "OIL", "price_type": "index", "price": 24, "timestamp": NOW * 1000}
    await asked(admin, "POST", "/api/ingest/events", 200, [{**later, "event_type": "PriceUpdated"}])
    assert (await asked(admin, "GET", "/api/markets/oil", 200))["last_updated"] == expected["last_updated"]
    funding = {"market_symbol": "OIL", "event_type": "FundingRateUpdated", "funding_rate": 0.1}
    await asked(admin, "POST", "/api/ingest/events", 200, [{**funding, "timestamp": NOW * 1000 + 1}])
    assert (await asked(admin, "GET", "/api/markets/oil", 200))["last_updated"] == NOW * 1000 + 1


async def test_the_list_is_filtered_ordered_and_searched(admin: Web) -> None:
    for n in range(9):
        await admin.market(f"M{n}", kind="perp" if n % 2 else "spot", tier=f"tier{n % 3 + 1}", category="Abc"[n % 3])
    await asked(admin, "DELETE", "/api/markets/M3", 200)
    await admin.trades((NOW - 60, 10.0, 4), symbol="M4")
    await admin.trades((NOW - 60, 10.0, 5), symbol="M7")
    await admin.stack.writer.flushed(admin.stack.engine.committed())

    async def symbols(query: str) -> list[str]:
        return [market["market_symbol"] for market in (await admin.json(f"/api/markets?{query}"))["markets"]]

    assert await symbols("tier=tier1") == ["M0", "M3", "M6"]
    assert await symbols("tier=tier1&sort=id") == ["M0", "M6"]
    assert await symbols("tier=tier4") == ["GOLD"]
    assert await symbols("category=B") == ["M1", "M4", "M7"]
    assert await symbols("category=b&query=m&kind=spot") == ["M4"]
    assert await symbols("tier=tier1&query=m") == ["M0", "M3", "M6"]
    assert await symbols("sort=volume&limit=3") == ["M7", "M4", "GOLD"]
    assert await symbols("sort=volume&kind=spot") == ["M4", "GOLD", "M0", "M2", "M6", "M8"]
    assert await symbols("sort=symbol&limit=3&offset=1") == ["M0", "M1", "M2"]
    assert await symbols("search=m&tier=tier2&sort=volume") == ["M7", "M4", "M1"]
    assert await symbols("search=m&category=c&kind=perp") == ["M5"]
    first = await admin.json("/api/markets?sort=symbol&limit=7")
    assert (first["more"], first["next"]) == (True, None)
    assert (await admin.json("/api/markets?sort=symbol&limit=7&offset=7"))["more"] is False
    for query, said in (
        ("tier=gold", f"tier: expected {', '.join(TIERS[:3])} or tier4, got 'gold'"),
        ("sort=price", "sort: expected id, symbol or volume, got 'price'"),
        ("spark=2d", "spark: expected 1h or 24h, got '2d'"),
        ("offset=-1", "offset: expected an integer, 0 to 1000000, got '-1'"),
    ):
        assert (await asked(admin, "GET", f"/api/markets?{query}", 400))["error"] == said


@pytest.mark.parametrize(("spark", "resolution", "seconds", "count"), [("24h", "30", 1800, 48), ("1h", "1", 60, 60)])
async def test_sparklines_are_closes_and_nothing_where_there_was_none(
    admin: Web, spark: str, resolution: str, seconds: int, count: int
) -> None:
    admin.clock.now = NOW + 700
    times = [NOW - 25 * 3600, NOW - 86_400 + 1900, NOW - 50_000, NOW - 49_990, NOW - 2800, NOW - 2799, NOW + 690]
    await admin.trades(*((t, 10.0 + n) for n, t in enumerate(times)))
    await admin.market("TEA")
    found = await admin.json(f"/api/markets?spark={spark}")
    assert found["spark"]["seconds"] == seconds
    start = found["spark"]["start"] // 1000
    assert start + count * seconds == (NOW + 700) // seconds * seconds + seconds
    gold, tea = found["markets"]
    bars = await admin.json(
        f"/api/tradingview/history?symbol=GOLD&resolution={resolution}&from={start}&to={NOW + 3600}"
    )
    closes = dict(zip(bars["t"], bars["c"], strict=True))
    assert len(closes) > 1
    assert gold["spark"] == [closes.get(start + n * seconds) for n in range(count)]
    assert tea["spark"] == [None] * count
