from pathlib import Path

import msgspec
import pytest
import trio
from msgspec import Struct
from trio.testing import MockClock

from tests.web.conftest import STRANGER, serving
from web import layouts, lightweight
from web.context import Rates
from web.errors import Failure, UdfFailure
from web.limits import GROUPS, MOST, WAITING, Limiter, RateLimited

HISTORY = "/api/tradingview/history?symbol=GOLD&resolution=1&from=0&to=1"


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def admitted(limiter: Limiter, who: str = "a", most: int = 10_000) -> int:
    """How many requests are taken at once."""
    return next(n for n in range(most) if limiter.taken("other", who))


def test_a_burst_as_large_as_the_limit_is_taken_and_no_more() -> None:
    limiter = Limiter(Rates(other=7), now=Clock())
    assert admitted(limiter) == 7
    assert admitted(limiter) == 0


def test_each_sender_and_each_group_is_counted_apart() -> None:
    limiter = Limiter(Rates(other=3, search=2), now=Clock())
    assert admitted(limiter, "a") == 3
    assert admitted(limiter, "b") == 3
    assert [bool(limiter.taken("search", "a")) for _ in range(3)] == [False, False, True]


def test_in_no_stretch_as_long_as_the_window_are_there_many_more_than_the_limit() -> None:
    clock = Clock()
    limiter = Limiter(Rates(other=50, window_ms=10_000), now=clock)
    taken: list[float] = []
    for step in range(2_000):
        clock.now = 1_000 + step * 0.05  # 20 a second, where 5 are allowed
        if not limiter.taken("other", "a"):
            taken.append(clock.now)
    for start in taken:
        assert sum(start <= t < start + 10 for t in taken) <= 50 + 1
    assert len(taken) >= 450  # of the 500 that the limit gives in 100 s


def test_whoever_waits_as_long_as_they_are_told_is_taken() -> None:
    clock = Clock()
    for limit in (1, 2, 60):
        limiter = Limiter(Rates(other=limit, window_ms=10_000), now=clock)
        for step in range(500):
            clock.now += 0.013 * (step % 7)
            if wait := limiter.taken("other", "a"):
                assert 0 < wait <= 20.001
                clock.now += wait
                assert limiter.taken("other", "a") == 0


def test_after_two_windows_everything_is_forgotten() -> None:
    clock = Clock()
    limiter = Limiter(Rates(other=5, window_ms=10_000), now=clock)
    admitted(limiter)
    clock.now += 20
    assert admitted(limiter) == 5


def test_zero_is_no_limit_and_one_number_replaces_all() -> None:
    assert Limiter(Rates(requests=3), now=Clock())._limits == dict.fromkeys(("history", "ohlcv", "search", "other"), 3)


def test_memory_is_bounded_and_who_was_counted_lately_stays() -> None:
    clock = Clock()
    limiter = Limiter(Rates(other=2), now=clock, most=100)
    for n in range(1_000):
        clock.now += 1
        limiter.taken("other", f"flood {n}")
        limiter.taken("other", "regular")
        assert limiter.statistics().counted <= 101
    assert limiter.taken("other", "regular")


async def test_history_waits_for_its_turn_where_that_is_near(autojump_clock: MockClock) -> None:  # noqa: ARG001 # it is in force
    limiter = Limiter(Rates(history=20, window_ms=10_000))
    began = trio.current_time()
    for _ in range(20):
        await limiter.turn("history", "a")
    assert trio.current_time() == began
    await trio.sleep(10.2)  # the next window: what the last one had, counts less and less
    for _ in range(5):
        await limiter.turn("history", "a")
    assert 0.5 < trio.current_time() - began - 10.2 < 4
    assert limiter.statistics().delayed["history"] >= 3
    assert limiter.statistics().refused["history"] == 0


async def test_what_would_have_to_wait_longer_is_refused(autojump_clock: MockClock) -> None:  # noqa: ARG001 # it is in force
    limiter = Limiter(Rates(history=3, search=3, window_ms=60_000))
    for group in ("history", "search"):
        for _ in range(3):
            await limiter.turn(group, "a")
        with pytest.raises(RateLimited) as refused:
            await limiter.turn(group, "a")
        assert refused.value.limit == 3
        assert 60 <= refused.value.retry_after <= 120
    assert limiter.statistics().refused == {"history": 1, "ohlcv": 0, "search": 1, "other": 0}


async def test_only_so_many_of_one_sender_wait_at_a_time(autojump_clock: MockClock) -> None:  # noqa: ARG001 # it is in force
    limiter = Limiter(Rates(history=1, window_ms=400))
    told: list[tuple[str, bool, float]] = []

    async def ask(who: str) -> None:
        try:
            await limiter.turn("history", who)
        except RateLimited:
            told.append((who, False, trio.current_time() - began))
        else:
            told.append((who, True, trio.current_time() - began))

    for who in ("a", "b"):
        await limiter.turn("history", who)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(WAITING + 90):
            nursery.start_soon(ask, "a")
        await trio.testing.wait_all_tasks_blocked()
        assert limiter.statistics().waiting == WAITING
        assert told == [("a", False, 0.0)] * 90
        nursery.start_soon(ask, "b")  # others wait in a room of their own
        await trio.testing.wait_all_tasks_blocked()
        assert limiter.statistics().waiting == WAITING + 1
    assert {who for who, taken, _ in told if taken} == {"a", "b"}
    assert all(waited <= 1 for _, _, waited in told)
    assert limiter.statistics().waiting == 0
    assert not limiter._waiting


async def test_whoever_hangs_up_while_waiting_makes_room(autojump_clock: MockClock) -> None:  # noqa: ARG001 # it is in force
    limiter = Limiter(Rates(history=1, window_ms=400))
    await limiter.turn("history", "a")
    async with trio.open_nursery() as nursery:
        for _ in range(WAITING):
            nursery.start_soon(limiter.turn, "history", "a")
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert limiter.statistics().waiting == 0
    await limiter.turn("history", "a")
    assert limiter.statistics().delayed["history"] == WAITING + 1


async def test_a_history_waits_for_its_turn_and_a_search_does_not(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", rates=Rates(history=1, search=1, window_ms=300)) as web:
        await web.market()
        search = "/api/tradingview/search?query="
        assert [(await web.get(search)).status_code for _ in range(2)] == [200, 429]
        began = trio.current_time()
        for _ in range(3):
            assert (await web.get(HISTORY)).status_code == 200
        assert trio.current_time() - began > 0.3
        assert web.app.limiter.statistics().delayed == {"history": 2, "ohlcv": 0, "search": 0, "other": 0}


async def test_a_refusal_says_when_to_come_back_in_the_words_of_its_wire(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", rates=Rates(history=2, search=1, other=1)) as web:
        await web.market()
        for path, taken in ((HISTORY, 2), ("/api/tradingview/search?query=", 1)):
            for _ in range(taken):
                assert (await web.get(path)).status_code == 200
            refused = await web.get(path)
            assert refused.status_code == 429
            said = await refused.get_json()
            assert said["s"] == "error"
            assert "more than" in said["errmsg"]
            assert 1 <= int(refused.headers["Retry-After"]) <= 120
            assert refused.headers["RateLimit-Limit"] == str(taken)
            assert refused.headers["RateLimit-Remaining"] == "0"
            assert refused.headers["RateLimit-Reset"] == refused.headers["Retry-After"]
        assert (await web.get("/api/markets")).status_code == 200
        refused = await web.get("/api/markets")
        assert refused.status_code == 429
        assert "more than 1 requests" in (await refused.get_json())["error"]
        assert (await web.get("/api/markets", client=STRANGER)).status_code == 200


async def test_config_time_and_what_machines_ask_are_never_limited(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", rates=Rates(requests=1)) as web:
        for path in ("/api/tradingview/config", "/api/tradingview/time", "/healthz", "/readyz", "/"):
            for _ in range(3):
                assert (await web.get(path)).status_code == 200, path


async def test_a_key_has_its_own_count_and_ingest_with_a_key_has_none(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", rates=Rates(other=2)) as web:
        await web.market()
        reader, feeder = await web.key("read"), await web.key("ingest")
        for who in ({}, reader):
            assert [(await web.get("/api/markets", headers=who)).status_code for _ in range(3)] == [200, 200, 429]
        for _ in range(5):
            assert (await web.post("/api/ingest/events", json=[], headers=feeder)).status_code == 200
        wrong = {"Authorization": "Bearer cdl_i_nonsense"}
        assert [
            (await web.post("/api/ingest/events", json=[], headers=wrong, client=STRANGER)).status_code
            for _ in range(3)
        ] == [401, 401, 429]


async def test_the_one_number_limits_ingest_with_a_key_too(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", rates=Rates(requests=2)) as web:
        feeder = await web.key("ingest")
        assert [(await web.post("/api/ingest/events", json=[], headers=feeder)).status_code for _ in range(3)] == [
            200,
            200,
            429,
        ]


async def test_every_endpoint_with_a_limit_of_its_own_exists(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as web:
        assert set(GROUPS) <= set(web.app.view_functions)


async def test_the_limits_of_routes_are_as_documented_unless_somebody_sets_them(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", rates=Rates()) as web:
        document = await web.json("/api/openapi.json")
    told = {one["operationId"]: one.get("x-rate-limit") for path in document["paths"].values() for one in path.values()}
    # What is signed with the secret of an app comes from its own server.
    unlimited = {name for name, limit in told.items() if limit is None and not name.startswith("rest.")}
    assert unlimited == {"udf.config", "udf.now", "health.alive", "health.ready"}
    assert all(limit["window_seconds"] == 60 for limit in told.values() if limit)
    limits = {name: limit["requests"] for name, limit in told.items() if limit}
    assert {name: limits.pop(name) for name in ("udf.history", "lightweight.ohlcv", "symbols.search")} == {
        "udf.history": 100,
        "lightweight.ohlcv": 200,
        "symbols.search": 50,
    }
    assert set(limits.values()) == {1000}


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("/api/tradingview/history?symbol=GOLD&resolution=1&from=0&to=1", UdfFailure),
        ("/api/tradingview/search?query=", UdfFailure),
        ("/api/tradingview/quotes?symbols=GOLD", UdfFailure),
        ("/api/lightweight/ohlcv?symbol=GOLD&timeframe=1m", lightweight.Failure),
        ("/api/lightweight/markets", lightweight.Failure),
        ("/api/charts_storage/1.1/charts?client=a&user=b", layouts.Failure),
        ("/api/markets", Failure),
        ("/api/series?expr=GOLD", Failure),
        ("/api/charts/GOLD.svg", Failure),
        ("/api/export/bars?symbol=GOLD&resolution=1m", Failure),
        ("/api/openapi.json", Failure),
        ("/nothing/there", Failure),
    ],
)
async def test_a_refusal_has_the_shape_of_its_api(tmp_path: Path, path: str, shape: type[Struct]) -> None:
    async with serving(tmp_path / "data", rates=Rates(requests=1)) as web:
        await web.market()
        assert (await web.get(path)).status_code in (200, 404)
        refused = await web.get(path)
        assert refused.status_code == 429
        assert "more than 1 requests in 60 s" in str(msgspec.json.decode(await refused.get_data(), type=shape))
        assert refused.headers["Cache-Control"] == "no-store"
        assert 1 <= int(refused.headers["Retry-After"]) <= 120


async def test_who_says_to_be_somebody_else_is_believed_only_behind_a_proxy_of_ours(tmp_path: Path) -> None:
    def sent_for(address: str) -> dict[str, str]:
        return {"X-Forwarded-For": address}

    for proxies, statuses in (((), [200, 429, 429]), (("203.0.113.0/24",), [200, 200, 429])):
        async with serving(tmp_path / f"{len(proxies)}", rates=Rates(requests=1), trusted_proxies=proxies) as web:
            asked = [
                await web.get("/api/markets", client=STRANGER, headers=sent_for(address))
                for address in ("198.51.100.1", "198.51.100.2", "198.51.100.2")
            ]
            assert [answer.status_code for answer in asked] == statuses


def test_no_number_of_addresses_takes_more_memory_than_that_of_so_many() -> None:
    clock = Clock()
    limiter = Limiter(Rates(), now=clock)
    for n in range(3 * MOST):
        clock.now += 0.0005
        limiter.taken("history" if n % 2 else "other", f"2001:db8:0:{n:x}::/64")
    assert limiter.statistics().counted <= MOST + 1
