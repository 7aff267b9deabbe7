"""Feeds say how far they are: what is taken, refused and kept, and what health and metrics make of it."""

from pathlib import Path
from typing import Any

import pytest

from actors import coverage as module
from actors.coverage import Coverage, Known
from tests.web.conftest import NOW, Web, decoded, serving
from tests.web.test_metrics import scraped

S = 1_000_000  # µs
BEATS = "/api/ingest/heartbeats"


async def said(web: Web, *beats: Any, path: str = BEATS) -> Any:
    """What the feeds are told."""
    answer = await web.post(path, headers=await web.key("ingest"), json=list(beats))
    assert answer.status_code == 200, await answer.get_data()
    return decoded(await answer.get_data())


async def beat(web: Web, **more: Any) -> None:
    told = await said(web, {"feed": "f", **more})
    assert told == {"accepted": 1, "rejected": [], "rejected_count": 0}


async def known(web: Web, symbol: str = "GOLD") -> list[Known]:
    slot = (await web.stack.registry.named(symbol)).slot
    return await web.stack.coverage.known(slot, 0, 2**60)


def at(seconds: float) -> int:
    """Seconds after NOW, in µs."""
    return round((NOW + seconds) * S)


async def test_beats_that_follow_each_other_are_one_span(web: Web) -> None:
    await beat(web, markets=["GOLD"])
    for web.clock.now in range(NOW + 50, NOW + 301, 50):
        await beat(web)
    web.clock.now += 10
    (f,) = await known(web)
    assert (f.feed, f.up, f.down, f.pending) == ("f", [(at(0), at(300))], [], [(at(300), at(310))])


async def test_silence_is_an_outage_until_the_feed_is_back(web: Web) -> None:
    await beat(web, markets=["GOLD"])
    web.clock.now = NOW + 60
    assert (await known(web))[0].pending == [(at(0), at(60))]
    web.clock.now = NOW + 61
    (f,) = await known(web)
    assert (f.up, f.down, f.pending) == ([], [(at(0), at(61))], [])
    await beat(web)
    web.clock.now = NOW + 90
    await beat(web)
    (f,) = await known(web)
    assert (f.up, f.down, f.pending) == ([(at(61), at(90))], [(at(0), at(61))], [])


async def test_a_feed_says_that_it_is_down_and_that_it_has_ended(web: Web) -> None:
    await beat(web, markets=["GOLD"])
    web.clock.now = NOW + 40
    await beat(web, through=(NOW + 30) * 1000, down=True)
    web.clock.now = NOW + 45
    (f,) = await known(web)
    assert (f.up, f.down) == ([(at(0), at(30))], [(at(30), at(45))])
    await beat(web)
    web.clock.now = NOW + 50
    await beat(web, ended=True)
    web.clock.now = NOW + 500
    (f,) = await known(web)
    assert (f.up, f.down, f.pending) == ([(at(0), at(30)), (at(45), at(50))], [(at(30), at(45))], [])
    assert web.stack.coverage.statistics() == []
    await beat(web, ended=True)  # once more changes nothing
    assert await said(web, {"feed": "f"}) == {
        "accepted": 0,
        "rejected": [{"index": 0, "error": "markets: needed, as no feed named 'f' is reporting"}],
        "rejected_count": 1,
    }


async def test_a_feed_that_lags_is_not_down(web: Web) -> None:
    await beat(web, markets=["GOLD"], through="2026-01-05T08:00:00Z")
    for web.clock.now in range(NOW, NOW + 200, 40):
        await beat(web, through=(web.clock.now - 3000) * 1000)
    (f,) = await known(web)
    assert (f.up, f.down, f.pending) == ([(at(-3600), at(160 - 3000))], [], [(at(160 - 3000), at(160))])


async def test_each_feed_watches_its_own_markets(web: Web) -> None:
    await web.market("TEA")
    await beat(web, markets=["GOLD", "tea"])
    web.clock.now += 10
    await beat(web, markets=["GOLD"])
    web.clock.now += 10
    await beat(web)
    assert (await known(web))[0].up == [(at(0), at(20))]
    assert (await known(web, "TEA"))[0].up == [(at(0), at(10))]
    assert (await known(web, "TEA"))[0].down == []


async def test_what_was_brought_later_is_no_outage(web: Web) -> None:
    await beat(web, markets=["GOLD"])
    web.clock.now = NOW + 200
    await beat(web)
    piece = {"feed": "f", "markets": ["GOLD"], "from": NOW * 1000, "to": (NOW + 150) * 1000}
    assert (await said(web, piece, path="/api/ingest/coverage"))["accepted"] == 1
    (f,) = await known(web)
    assert (f.up, f.down) == ([(at(0), at(150))], [(at(150), at(200))])


async def test_what_feeds_said_outlives_a_restart(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as web:
        await web.market()
        await beat(web, markets=["GOLD"])
        web.clock.now = NOW + 30
        await beat(web)
    async with serving(tmp_path / "data", now=NOW + 70) as web:
        await beat(web)  # 40 s after its last word: nothing was missed
        (f,) = await known(web)
        assert (f.up, f.down) == ([(at(0), at(70))], [])
    async with serving(tmp_path / "data", now=NOW + 200) as web:
        (f,) = await known(web)
        assert (f.up, f.down, f.pending) == ([(at(0), at(70))], [(at(70), at(200))], [])
        await beat(web)  # it need not say its markets again
        web.clock.now = NOW + 210
        await beat(web)
        assert (await known(web))[0].up == [(at(0), at(70)), (at(200), at(210))]


async def test_a_beat_that_only_goes_on_is_not_written_at_once(web: Web) -> None:
    await beat(web, markets=["GOLD"])
    passed = web.stack.door.passed
    for _ in range(20):
        web.clock.now += 1
        await web.stack.coverage.beat("f")
    assert web.stack.door.passed == passed
    await web.stack.coverage.flush()
    await web.stack.coverage.flush()  # nothing is left to write
    assert web.stack.door.passed == passed + 1


async def test_what_is_wrong_is_named_and_the_rest_is_taken(web: Web) -> None:
    told = await said(
        web,
        {"feed": "f", "markets": ["GOLD", "GLOD"]},
        {"feed": "", "markets": ["GOLD"]},
        {"feed": "g", "markets": "GOLD"},
        {"feed": "g", "markets": ["GLOD"]},
        {"feed": "g", "markets": ["GOLD"], "through": NOW},
        {"feed": "g", "markets": ["GOLD"], "through": (NOW + 301) * 1000},
        {"markets": ["GOLD"]},
        7,
    )
    assert told["accepted"] == 1
    assert told["rejected_count"] == 8
    assert told["rejected"] == [
        {"index": 0, "error": "no market named 'GLOD'", "market_symbol": "GLOD"},
        {"index": 1, "error": "feed: expected 1 to 100 printable characters, got ''"},
        {"index": 2, "error": "markets: expected an array of symbols, got 'GOLD'"},
        {"index": 3, "error": "markets: no market is named 'GLOD', nor anything else of these 1"},
        {
            "index": 4,
            "error": "through: expected milliseconds since 1970, or ISO 8601 with a zone, got 1767603600, "
            "which looks like seconds",
        },
        {"index": 5, "error": "through: expected at most 5 minutes ahead of the clock, got 1767603901000"},
        {"index": 6, "error": "feed: needed"},
        {"index": 7, "error": "expected an object, got 7"},
    ]
    web.clock.now += 1
    assert [f.feed for f in await known(web)] == ["f"]
    backwards = {"feed": "f", "markets": ["GOLD"], "from": NOW * 1000, "to": NOW * 1000}
    told = await said(web, backwards, path="/api/ingest/coverage")
    assert told["rejected"][0]["error"] == f"to: expected a time after `from`, got {NOW}000"


async def test_a_market_that_is_registered_later_is_watched_with_the_same_list(web: Web) -> None:
    await said(web, {"feed": "f", "markets": ["GOLD", "TEA"]})
    await web.market("TEA")
    await beat(web, markets=["GOLD", "TEA"])
    web.clock.now += 10
    passed = web.stack.door.passed
    await beat(web, markets=["GOLD", "TEA"])  # the same list, all of it known: nobody looks it up or writes
    assert web.stack.door.passed == passed + 2  # both for the key
    assert (await known(web, "TEA"))[0].up == [(at(0), at(10))]


@pytest.mark.parametrize(
    ("body", "headers", "status", "why"),
    [
        (b"{", {"Content-Type": "application/json"}, 400, "body: expected a JSON object or an array of them"),
        (b"7", {"Content-Type": "application/json"}, 400, "body: expected a JSON object or an array of at most 1000"),
        (b"[" + b"{}," * 1000 + b"{}]", {"Content-Type": "application/json"}, 400, "1001 of them"),
        (b"{}", {"Content-Type": "text/plain"}, 415, "Content-Type: expected application/json"),
    ],
)
async def test_a_body_that_cannot_be_read_is_refused(
    web: Web, body: bytes, headers: dict[str, str], status: int, why: str
) -> None:
    answer = await web.post(BEATS, headers={**headers, **await web.key("ingest")}, data=body)
    assert (answer.status_code, why in decoded(await answer.get_data())["error"]) == (status, True)


async def test_only_keys_that_may_post_events_may_speak_for_feeds(web: Web) -> None:
    for path in (BEATS, "/api/ingest/coverage"):
        assert (await web.post(path, json={})).status_code == 401
        assert (await web.post(path, json={}, headers=await web.key("read"))).status_code == 403
        assert (await web.post(path, json={}, headers=await web.key("admin"))).status_code == 200


async def test_feeds_are_only_so_many(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_FEEDS", 2)
    told = await said(web, *({"feed": name, "markets": ["GOLD"]} for name in "abc"))
    assert told["rejected"] == [
        {"index": 2, "error": "feed: 2 feeds are reporting, which is all that may; end one of them"}
    ]
    assert (await said(web, {"feed": "a", "ended": True}, {"feed": "c", "markets": ["GOLD"]}))["accepted"] == 2


async def test_health_and_metrics_tell_how_feeds_stand(web: Web) -> None:
    assert (await web.json("/api/charts/health"))["feeds"] == {"reporting": 0, "down": 0, "slowest": []}
    for name in "ab":
        await said(web, {"feed": name, "markets": ["GOLD"], "through": (NOW - 5) * 1000})
    web.clock.now = NOW + 100
    await said(web, {"feed": "a"})
    health = await web.json("/api/charts/health")
    assert health["feeds"] == {
        "reporting": 2,
        "down": 1,
        "slowest": [{"feed": "b", "up": False, "lag_seconds": 105}, {"feed": "a", "up": True, "lag_seconds": 0}],
    }
    assert health["status"] == "ok"
    assert "feed b: down, it saw everything until 105 s ago" in health["notices"]
    told = await scraped(web)
    assert told["candled_feeds_reporting"][()] == 2
    assert told["candled_feeds_down"][()] == 1
    assert told["candled_feed_up"] == {("a",): 1, ("b",): 0}
    assert told["candled_feed_lag_seconds"] == {("a",): 0, ("b",): 105}
    assert told["candled_feed_outages_total"] == {("a",): 1, ("b",): 0}
    assert told["candled_feed_down_seconds_total"] == {("a",): 105, ("b",): 0}


async def test_an_outage_is_logged_once(web: Web, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    ledger: Coverage = web.stack.coverage
    await ledger.beat("f", {1})
    web.clock.now = NOW + 100
    await ledger.beat("g", {1})
    await ledger.beat("g")
    lines = [record.message for record in caplog.records if "feed f" in record.message]
    assert lines == ["feed f: silent; it saw everything until 100 s ago"]
    await ledger.beat("f")
    assert "feed f: back after 100 s" in [record.message for record in caplog.records]
