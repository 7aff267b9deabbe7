"""Why there is no bar: each reason forced by real events, heartbeats and the clock, and read back on the wire."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from actors import gaps as module
from actors.archivist import Archivist
from actors.background import Background
from actors.export import resolution_named
from storage.calendar import Calendar
from tests.web.conftest import NOW, Web, decoded, serving
from tests.web.test_heartbeats import beat, said

MINUTE = 60
DAY = 86400


async def gaps(web: Web, symbol: str = "GOLD", /, **query: Any) -> Any:
    words = "&".join(f"{name.rstrip('_')}={value}" for name, value in query.items())
    answer = await web.get(f"/api/markets/{symbol}/gaps?{words}")
    assert answer.status_code == 200, await answer.get_data()
    return decoded(await answer.get_data())


async def told(web: Web, symbol: str = "GOLD", /, **query: Any) -> list[tuple[float, float, str, list[str]]]:
    """The gaps: from and to in minutes after NOW, why, whose."""
    found = (await gaps(web, symbol, **query))["gaps"]
    return [((g["from"] / 1000 - NOW) / 60, (g["to"] / 1000 - NOW) / 60, g["kind"], g["feeds"]) for g in found]


async def reporting(web: Web, until: int, **more: Any) -> None:
    """A feed reports every 30 seconds until so many seconds after NOW."""
    while web.clock.now < NOW + until:
        web.clock.now += 30
        await web.stack.coverage.beat("f", **more)


async def test_a_minute_without_a_trade_is_quiet_down_or_not_there_yet(web: Web) -> None:
    await web.trades((NOW, 100))
    web.clock.now = NOW + 10 * MINUTE
    await beat(web, markets=["GOLD"])
    await reporting(web, 20 * MINUTE)
    web.clock.now = NOW + 30 * MINUTE
    await beat(web)  # ten minutes were silent
    await reporting(web, 32 * MINUTE)
    web.clock.now += 3
    assert await told(web) == [
        (30, 32, "no_trade", ["f"]),
        (20, 30, "feed_down", ["f"]),
        (10, 20, "no_trade", ["f"]),
        (1, 10, "not_imported", []),
    ]
    coverage = (await gaps(web))["coverage"]
    assert [(c["feed"], c["state"], c["to"] - c["from"]) for c in coverage] == [
        ("f", "up", 120_000),
        ("f", "down", 600_000),
        ("f", "up", 600_000),
    ]


async def test_a_gap_that_is_filled_later_is_gone(web: Web) -> None:
    await web.trades((NOW, 100), (NOW + 4 * MINUTE, 101))
    web.clock.now = NOW + 5 * MINUTE + 3
    assert await told(web) == [(1, 4, "not_imported", [])]
    await web.trades((NOW + 2 * MINUTE + 7, 99))
    assert await told(web) == [(3, 4, "not_imported", []), (1, 2, "not_imported", [])]
    await web.trades((NOW + 3 * MINUTE, 99), (NOW + MINUTE, 99))
    assert await told(web) == []
    assert len(await told(web, resolution="1s")) == 5


async def test_a_retracted_event_leaves_a_gap(web: Web) -> None:
    event = {"market_symbol": "GOLD", "timestamp": (NOW + 60) * 1000, "price": 1, "trade_id": 7}
    await web.trades((NOW, 100), (NOW + 2 * MINUTE, 101))
    key = await web.key("ingest")
    assert (await web.post("/api/ingest/events", json=event, headers=key)).status_code == 200
    web.clock.now = NOW + 3 * MINUTE + 3
    assert await told(web) == []
    await web.post("/api/ingest/events", json={**event, "removed": True}, headers=key)
    assert await told(web) == [(1, 2, "not_imported", [])]


async def test_only_what_is_over_can_be_a_gap(web: Web) -> None:
    assert await told(web) == []  # no bar at all
    await web.trades((NOW, 100))
    web.clock.now = NOW + 2 * MINUTE + 1.9
    assert await told(web) == []
    web.clock.now = NOW + 2 * MINUTE + 2
    assert await told(web) == [(1, 2, "not_imported", [])]
    assert await told(web, resolution="5m") == []


async def test_what_a_feed_that_reports_has_not_reached_is_no_gap_yet(web: Web) -> None:
    await web.trades((NOW, 100))
    await beat(web, markets=["GOLD"])
    web.clock.now = NOW + 50
    await beat(web)
    web.clock.now = NOW + 110
    await beat(web, through=(NOW + 60) * 1000)
    web.clock.now = NOW + 165
    assert await told(web) == []
    await beat(web, through=(NOW + 90) * 1000)
    assert await told(web) == [(1, 1.5, "no_trade", ["f"])]
    web.clock.now = NOW + 250  # it fell silent
    assert await told(web) == [(1.5, 4, "feed_down", ["f"]), (1, 1.5, "no_trade", ["f"])]


async def test_what_one_feed_missed_another_may_have_seen(web: Web) -> None:
    await web.trades((NOW, 100))
    await beat(web, markets=["GOLD"])
    await said(web, {"feed": "g", "markets": ["GOLD"]})
    await reporting(web, 4 * MINUTE)  # g says no more
    web.clock.now += 3
    assert await told(web) == [(1, 4, "no_trade", ["f"])]
    await beat(web, down=True)
    web.clock.now = NOW + 8 * MINUTE + 3
    assert await told(web) == [(4, 8, "feed_down", ["f", "g"]), (1, 4, "no_trade", ["f"])]


async def test_the_time_of_others_is_not_ours(web: Web) -> None:
    await web.market("TEA")
    await beat(web, markets=["TEA"])
    await web.trades((NOW, 100))
    await web.trades((NOW, 100), symbol="TEA")
    await reporting(web, 3 * MINUTE)
    web.clock.now += 3
    assert await told(web) == [(1, 3, "not_imported", [])]
    assert await told(web, "tea") == [(1, 3, "no_trade", ["f"])]


async def test_gaps_outlive_a_restart_and_the_archive(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as web:
        await web.market()
        await web.trades((NOW, 100), (NOW + 5 * MINUTE, 101))
        await beat(web, markets=["GOLD"])
        await reporting(web, 3 * MINUTE)
    async with serving(tmp_path / "data", now=NOW + 6 * MINUTE + 3) as web:
        before = await told(web)
        assert before == [(3, 5, "feed_down", ["f"]), (1, 3, "no_trade", ["f"])]
        web.clock.now = NOW + 30 * DAY
        await Archivist(web.stack.store, Background(rest=0), now=web.clock, quiet=0).run()
        window = {"from_": NOW * 1000, "to": (NOW + 6 * MINUTE) * 1000}
        assert await told(web, **window) == before


async def test_a_market_that_has_ended_has_no_gaps_after_its_last_bar(web: Web) -> None:
    await web.trades((NOW, 100), (NOW + 5 * MINUTE, 101))
    web.clock.now = NOW + DAY
    assert (await told(web))[0][1] == DAY / 60 - 1
    await web.market("GOLD", is_active=False)
    assert await told(web) == [(1, 5, "not_imported", [])]
    assert await told(web, to=(NOW + 3 * MINUTE) * 1000) == [(1, 3, "not_imported", [])]
    await web.market("TEA", is_active=False)
    assert await told(web, "TEA") == []


async def test_times_are_whole_milliseconds_and_spans_meet(web: Web) -> None:
    await web.trades((NOW, 100))
    for low, high in ((60.0002, 61.0007), (61.0007, 61.0009), (61.0009, 62.0004)):
        piece = {"from": (NOW + low) * 1000, "to": (NOW + high) * 1000, "feed": f"f{low}", "markets": ["GOLD"]}
        await said(web, piece, path="/api/ingest/coverage")
    web.clock.now = NOW + 5 * MINUTE
    page = await gaps(web)
    spans = [(one["from"] - NOW * 1000, one["to"] - NOW * 1000) for one in page["coverage"]]
    assert spans == [(61_000, 62_000), (60_000, 61_000)]
    assert all(isinstance(gap[end], int) for gap in page["gaps"] for end in ("from", "to"))
    assert all(older["to"] == newer["from"] for newer, older in pairwise(page["gaps"]))


async def test_closed_hours_are_no_gap(web: Web) -> None:
    await web.market("SPY", session="0930-1600", timezone="America/New_York")
    friday = NOW - 3 * DAY + 12 * 3600  # 2026-01-02 16:00 in New York
    assert await told(web, "SPY") == []
    await web.trades((friday - MINUTE, 600), symbol="SPY")
    web.clock.now = NOW + 6 * 3600  # Monday 10:00 in New York
    await web.trades((NOW + 5.75 * 3600, 601), symbol="SPY")
    web.clock.now += 2
    assert await told(web, "SPY") == [
        (345 + 1, 360, "not_imported", []),
        (330, 345, "not_imported", []),
    ]
    assert await told(web, "SPY", resolution="1d") == []


async def test_a_day_is_a_day_of_the_market(web: Web) -> None:
    await web.market("SPY", session="0930-1600", timezone="America/New_York")
    monday = NOW - 7 * DAY + 6 * 3600  # 2025-12-29 10:00 in New York
    await web.trades((monday, 600), (monday + 3 * DAY, 601), symbol="SPY")
    web.clock.now = monday + 3 * DAY + 3600
    open_, close = (monday - 1800 + DAY - NOW) / 60, (monday + 6 * 3600 + DAY - NOW) / 60
    assert await told(web, "SPY", resolution="1d") == [
        (open_ + 1440, close + 1440, "not_imported", []),
        (open_, close, "not_imported", []),
    ]


async def test_a_list_goes_on_where_it_ended(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    await web.trades(*((NOW - 60 * MINUTE + 120 * i, 100) for i in range(30)))
    await web.stack.writer.flushed(1)
    whole = (await gaps(web))["gaps"]
    assert len(whole) == 29
    monkeypatch.setattr(module, "FIRST", 4)
    monkeypatch.setattr(module, "BARS", 10)
    for limit in (1, 3, 1000):
        pages, query = [], {"limit": limit}
        while True:
            page = await gaps(web, **query)
            assert len(page["gaps"]) <= limit
            pages += page["gaps"]
            if page["next"] is None:
                break
            assert page["next"] < query.get("to", 10**14)
            query["to"] = page["next"]
        assert pages == whole


async def test_a_window_is_cut_out_of_a_gap_and_reads_no_more_than_it_must(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    await web.trades(*((NOW - 100_000 * MINUTE + 600 * i, 100) for i in range(10_000)))
    await web.stack.writer.flushed(1)
    asked: list[int] = []
    window = web.stack.engine.window

    async def counted(*more: Any) -> Any:
        asked.append(more[4])
        return await window(*more)

    monkeypatch.setattr(web.stack.engine, "window", counted)
    cut = {"from_": (NOW - 195) * 1000 + 500, "to": (NOW - 75) * 1000}
    assert await told(web, **cut) == [((-195 + 0.5) / 60, -75 / 60, "not_imported", [])]
    assert asked == [module.FIRST]
    page = await gaps(web, resolution="10m")
    assert (page["gaps"], page["next"], asked[1:]) == ([], None, [128, 512, 2048, 5000, 5000])


@pytest.mark.parametrize(
    ("query", "status", "why"),
    [
        ("resolution=1x", 400, "resolution: unknown timeframe '1x'"),
        ("limit=0", 400, "limit: expected an integer, at least 1, got '0'"),
        ("from=soon", 400, "from: expected milliseconds since 1970, or ISO 8601 with a zone, got 'soon'"),
        (f"from={NOW}", 400, f"from: expected milliseconds since 1970, or ISO 8601 with a zone, got '{NOW}', which"),
        (f"from={NOW}000&to={NOW}000", 400, f"to: expected a time after `from`, got '{NOW}000'"),
    ],
)
async def test_a_question_that_makes_no_sense_is_refused(web: Web, query: str, status: int, why: str) -> None:
    answer = await web.get(f"/api/markets/GOLD/gaps?{query}")
    assert (answer.status_code, decoded(await answer.get_data())["error"][: len(why)]) == (status, why)


async def test_nobody_knows_the_gaps_of_a_market_that_there_is_not(web: Web) -> None:
    answer = await web.get("/api/markets/GLOD/gaps")
    assert (answer.status_code, decoded(await answer.get_data())) == (404, {"error": "no market named 'GLOD'"})


@pytest.mark.parametrize("resolution", ["1s", "7s", "1m", "45m", "1h", "7h", "1d", "3d", "1w", "2w", "1M", "5M", "12M"])
async def test_gaps_and_bars_are_all_of_the_past(web: Web, resolution: str) -> None:
    await web.market("JP", timezone="Asia/Tokyo")
    await web.trades(*((NOW - 40 * DAY + (37 * i * i) % (35 * DAY), 100) for i in range(40)), symbol="JP")
    await web.trades((NOW - 400 * DAY, 100), (NOW - 800 * DAY, 100), symbol="JP")
    market, calendar = await web.stack.engine.market("JP"), Calendar.parse("24x7", "Asia/Tokyo")
    asked = resolution_named(resolution)
    bars = (await web.stack.engine.window(market, asked, NOW, NOW + DAY, 1000)).time
    page = await gaps(web, "JP", resolution=resolution, limit=1000)
    spans = [(gap["from"], gap["to"]) for gap in page["gaps"]]
    spans += [(calendar.start_instant(asked, t) * 1000, calendar.end_instant(asked, t) * 1000) for t in bars]
    spans.sort()
    assert len(bars) > 1
    assert page["next"] is None
    assert all(end == begin for (_, end), (begin, _) in pairwise(spans))
    assert all(begin < end for begin, end in spans)
    assert spans[-1][1] > (NOW - 400 * DAY if asked.unit == "M" else NOW - 16 * DAY) * 1000


async def test_an_answer_names_what_it_is_about(web: Web) -> None:
    cursor = await web.trades((NOW, 100))
    page = await gaps(web, "gold", resolution="60", from_="2026-01-05T08:00:00Z")
    assert page == {"symbol": "GOLD", "resolution": "1h", "gaps": [], "coverage": [], "next": None, "cursor": cursor}
