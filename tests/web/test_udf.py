import math
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.web.conftest import NOW, Web, decoded, serving
from web import app as web_app
from web.symbols import RESOLUTIONS

DAY = 86_400
QUIET = NOW - DAY  # stands for 0 in the examples
Trade = tuple[float, float, float]


async def history(web: Web, start: object, end: object, **more: object) -> Any:
    """What history says, with the times of GOLD's bars counted from QUIET."""
    query = {"symbol": "GOLD", "resolution": "1", "from": start, "to": end, **more}
    answer = await web.json("/api/tradingview/history?" + "&".join(f"{k}={v}" for k, v in query.items()))
    checked(answer)
    return answer


def checked(answer: dict[str, Any]) -> None:
    """What holds for every good answer."""
    match answer["s"]:
        case "ok":
            assert set(answer) == {"s", "t", "o", "h", "l", "c", "v"}
            assert {len(answer[column]) for column in "tohlcv"} == {len(answer["t"])}
            assert answer["t"] == sorted(set(answer["t"]))
            assert answer["t"]
            assert all(type(t) is int for t in answer["t"])
            assert all(math.isfinite(x) for column in "ohlcv" for x in answer[column])
            for first, high, low, last in zip(*(answer[column] for column in "ohlc"), strict=True):
                assert low <= min(first, last)
                assert max(first, last) <= high
        case "no_data":
            assert set(answer) <= {"s", "nextTime"}
            assert type(answer.get("nextTime", 0)) is int
        case other:
            pytest.fail(f"{other}: {answer}")


# --- config, time


async def test_the_configuration_offers_search_and_no_resolution_twice(web: Web) -> None:
    found = await web.json("/api/tradingview/config")
    assert (found["supports_search"], found["supports_group_request"]) == (True, False)
    assert found["supports_time"] is True
    assert found["supported_resolutions"] == ["1S", "1", "5", "15", "30", "60", "240", "1D", "1W", "1M"]
    assert len(set(found["supported_resolutions"])) == len(found["supported_resolutions"])
    assert found["exchanges"][0] == {"value": "", "name": "All exchanges", "desc": ""}
    assert {"value": "VAMM", "name": "vAMM Markets", "desc": "Virtual AMM"} in found["exchanges"]
    assert found["symbols_types"][0] == {"name": "All types", "value": ""}
    assert {"name": "crypto", "value": "crypto"} in found["symbols_types"]


async def test_the_configuration_offers_only_verbs_that_are_served(web: Web) -> None:
    found = await web.json("/api/tradingview/config")
    for verb, offer in (("marks", "supports_marks"), ("timescale_marks", "supports_timescale_marks")):
        served = (await web.get(f"/api/tradingview/{verb}?symbol=GOLD&resolution=1&from=0&to=1")).status_code != 404
        assert found[offer] == served
    assert found["supports_group_request"] != found["supports_search"]


async def test_time_is_a_bare_integer_of_seconds(web: Web) -> None:
    answer = await web.get("/api/tradingview/time")
    text = await answer.get_data(as_text=True)
    assert text.isdigit()
    assert abs(int(text) - time.time()) < 5
    assert answer.headers["Cache-Control"] == "no-store"


async def test_repeated_slashes_and_unknown_parameters_do_no_harm(web: Web) -> None:
    plain = await web.json("/api/tradingview/config")
    assert await web.json("//api//tradingview///config?_=17&symbol=x") == plain
    await web.trades((QUIET, 1))
    assert (await history(web, QUIET, NOW, currencyCode="EUR", unitId="", firstDataRequest="true"))["s"] == "ok"


async def test_the_verbs_are_served_under_other_paths_too(web: Web) -> None:
    await web.trades((QUIET, 1))
    folder = web.stack.state.path.parent.parent / "other"
    async with serving(folder, udf_prefixes=("/datafeed", "/charts/udf")) as other:
        await other.market()
        plain = await other.json("/api/tradingview/config")
        for path in ("/datafeed/config", "//datafeed//config", "/charts/udf/config?x=1"):
            assert await other.json(path) == plain
        answer = await other.get("/datafeed/history?symbol=NOPE&resolution=1&from=0&to=1")
        assert (await answer.get_json())["s"] == "error"
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        for path in ("/datafeed", "/datafeedx/config", "/x/datafeed/config"):
            assert (await other.get(path)).status_code == 404
    assert (await web.get("/datafeed/config")).status_code == 404


# --- failures


FAILURES = [
    ("symbols", 400, "symbol"),
    ("symbols?symbol=", 400, "symbol"),
    ("symbols?symbol=NOPE", 404, "unknown_symbol"),
    ("symbols?symbol=VAMM:GOLD", 404, "unknown_symbol"),
    ("history", 400, "symbol"),
    ("history?symbol=GOLD&resolution=1&from=0", 400, "to: needed"),
    ("history?symbol=GOLD&resolution=1&to=0", 400, "from: needed"),
    ("history?symbol=GOLD&from=0&to=1", 400, "resolution: needed"),
    ("history?symbol=&resolution=1&from=0&to=1", 400, "symbol: expected a text that is not empty, got ''"),
    ("history?symbol=NOPE&resolution=1&from=0&to=1", 404, "symbol: no market named 'NOPE'"),
    ("history?symbol=GOLD&resolution=1&from=x&to=1", 400, "from: expected seconds since 1970, got 'x'"),
    ("history?symbol=GOLD&resolution=1&from=&to=1", 400, "from: expected seconds since 1970, got ''"),
    ("history?symbol=GOLD&resolution=1&from=0&to=NaN", 400, "to: expected seconds since 1970, got 'NaN'"),
    ("history?symbol=GOLD&resolution=1&from=-Infinity&to=1", 400, "from: expected seconds since 1970, got '-Infinity'"),
    (
        "history?symbol=GOLD&resolution=1&from=2026-01-01&to=1",
        400,
        "from: expected seconds since 1970, got '2026-01-01'",
    ),
    (
        "history?symbol=GOLD&resolution=1m&from=0&to=1",
        400,
        "resolution: unknown resolution '1m': a minute is '1', a month is '1M'",
    ),
    ("history?symbol=GOLD&resolution=0&from=0&to=1", 400, "resolution: unknown resolution '0'"),
    ("history?symbol=GOLD&resolution=-5&from=0&to=1", 400, "resolution: unknown resolution '-5'"),
    ("history?symbol=GOLD&resolution=&from=0&to=1", 400, "resolution: unknown resolution ''"),
    ("history?symbol=GOLD&resolution=7X&from=0&to=1", 400, "resolution: unknown resolution '7X'"),
    ("history?symbol=GOLD&resolution=1T&from=0&to=1", 400, "resolution: unknown resolution '1T'"),
    ("nothing", 404, "nothing at"),
    ("", 404, "nothing at"),
    ("quotes", 400, "symbols: needed"),
    ("quotes?symbols=" + ",".join("X" * 501), 400, "symbols: expected at most 500 names, got 501"),
    ("symbol_info", 400, "group: needed"),
    ("symbol_info?group=", 400, "group: expected a text that is not empty"),
    *(("symbol_info?group=" + name, 404, f"group: no exchange '{name}'") for name in ("NYSE", "FOREX", "AMEX")),
]


async def test_a_failure_is_an_error_object_with_its_reason(web: Web) -> None:
    for query, status, said in FAILURES:
        answer = await web.get(f"/api/tradingview/{query}")
        assert answer.status_code == status, query
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        found = decoded(await answer.get_data())
        assert set(found) == {"s", "errmsg"}
        assert found["s"] == "error"
        assert said in found["errmsg"], query


async def test_other_methods_are_refused_in_json(web: Web) -> None:
    for verb in ("symbols?symbol=GOLD", "search", "history", "time"):
        answer = await web.post(f"/api/tradingview/{verb}", headers=await web.key("admin"))
        assert answer.status_code == 405
        assert "GET" in answer.headers["Allow"]
        assert (await answer.get_json())["s"] == "error"


async def test_a_fault_of_ours_is_an_error_that_tells_nothing_but_its_number(
    web: Web, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object) -> object:
        raise RuntimeError("the secret of the house")

    monkeypatch.setattr(web.stack.engine, "window", broken)
    monkeypatch.setattr(web.stack.registry, "page", broken)
    for path, member in (
        ("/api/tradingview/history?symbol=GOLD&resolution=1&from=0&to=1", "errmsg"),
        ("/api/markets", "error"),
    ):
        answer = await web.get(path)
        assert answer.status_code == 500
        number = answer.headers["X-Request-Id"]
        text = await answer.get_data(as_text=True)
        assert number in decoded(text.encode())[member]
        assert "secret" not in text
        assert any(number in record.getMessage() and record.exc_info for record in caplog.records)


async def test_a_question_that_takes_too_long_is_given_up(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    given_up = trio.Event()

    async def endless(*_: object) -> object:
        try:
            await trio.sleep_forever()
        finally:
            given_up.set()

    monkeypatch.setattr(web.stack.engine, "window", endless)
    monkeypatch.setitem(web_app.PATIENCE, "udf.history", 0.05)
    answer = await web.get("/api/tradingview/history?symbol=GOLD&resolution=1&from=0&to=1")
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "1"
    assert "too long" in (await answer.get_json())["errmsg"]
    assert given_up.is_set()


async def test_a_head_alone_is_answered_as_the_whole_would_be(web: Web) -> None:
    await web.trades((QUIET, 1))
    path = f"/api/tradingview/history?symbol=GOLD&resolution=1&from=0&to={NOW}"
    whole, head = await web.get(path), await web.ask("HEAD", path)
    for name in ("ETag", "Content-Length", "Content-Type", "X-Cursor", "Cache-Control"):
        assert head.headers[name] == whole.headers[name]


# --- symbols, search


async def test_a_market_is_described_as_charts_want_it(web: Web) -> None:
    await web.market("BTC/USD", name="Bitcoin Futures", kind="perp", pricescale=100, minmov=5)
    answer = await web.get("/api/tradingview/symbols?symbol=BTC%2FUSD")
    found = decoded(await answer.get_data())
    assert "s" not in found
    for member in ("name", "session", "timezone", "exchange", "listed_exchange", "ticker", "description", "type"):
        assert isinstance(found[member], str)
        assert found[member]
    assert found | {"supported_resolutions": 0} == {
        "name": "BTC/USD",
        "ticker": "BTC/USD",
        "description": "Bitcoin Futures",
        "type": "crypto",
        "session": "24x7",
        "timezone": "Etc/UTC",
        "exchange": "VAMM",
        "listed_exchange": "VAMM",
        "format": "price",
        "minmov": 5,
        "pricescale": 100,
        "volume_precision": 8,
        "has_intraday": True,
        "intraday_multipliers": ["1", "5", "15", "30", "60", "240"],
        "has_seconds": True,
        "seconds_multipliers": ["1"],
        "has_daily": True,
        "daily_multipliers": ["1"],
        "has_weekly_and_monthly": True,
        "weekly_multipliers": ["1"],
        "monthly_multipliers": ["1"],
        "supported_resolutions": 0,
        "data_status": "streaming",
    }


async def test_a_market_tells_its_own_session_and_zone(web: Web) -> None:
    await web.market("SPY", session="0930-1600", timezone="America/New_York")
    found = await web.json("/api/tradingview/symbols?symbol=SPY")
    assert (found["session"], found["timezone"]) == ("0930-1600", "America/New_York")


async def test_every_resolution_offered_can_be_built(web: Web) -> None:
    found = await web.json("/api/tradingview/symbols?symbol=GOLD")
    offered = found["supported_resolutions"]
    assert offered == (await web.json("/api/tradingview/config"))["supported_resolutions"]
    kinds = {
        "S": ("has_seconds", "seconds_multipliers"),
        "D": ("has_daily", "daily_multipliers"),
        "W": ("has_weekly_and_monthly", "weekly_multipliers"),
        "M": ("has_weekly_and_monthly", "monthly_multipliers"),
    }
    for resolution in offered:
        has, multipliers = kinds.get(resolution[-1], ("has_intraday", "intraday_multipliers"))
        count = int(resolution.rstrip("SDWM"))
        numbers = [int(multiplier) for multiplier in found[multipliers]]
        assert found[has] is True
        assert numbers == sorted(numbers)
        assert any(count % number == 0 for number in numbers), resolution


async def test_a_market_answers_to_ticker_and_exchange_in_any_case(web: Web) -> None:
    await web.trades((QUIET, 1))
    for typed in ("GOLD", "gold", "GoLd", "SPOT:GOLD", "spot:gold", "Spot%3AGold", "%20gold%20"):
        assert (await web.json(f"/api/tradingview/symbols?symbol={typed}"))["ticker"] == "GOLD", typed
        bars = await web.json(f"/api/tradingview/history?symbol={typed}&resolution=1&from=0&to={NOW}")
        assert bars["s"] == "ok", typed


async def test_what_search_finds_symbols_resolves(web: Web) -> None:
    await web.market("GOLDEN", kind="perp", name="Golden Age")
    await web.market("BTC", kind="perp", name="Bitcoin in Gold")
    await web.market("ETH", kind="perp", name="Ether")
    found = await web.json("/api/tradingview/search?limit=30&query=GO&type=&exchange=")
    assert [one["symbol"] for one in found] == ["GOLD", "GOLDEN", "BTC"]
    assert found[1] == {
        "symbol": "GOLDEN",
        "full_name": "VAMM:GOLDEN",
        "description": "Golden Age",
        "exchange": "VAMM",
        "ticker": "GOLDEN",
        "type": "crypto",
        "pricescale": 1_000_000,
    }
    for one in found:
        for name in (one["full_name"], one["ticker"], one["symbol"].lower()):
            assert (await web.json(f"/api/tradingview/symbols?symbol={name}"))["ticker"] == one["ticker"]


SEARCHES = [
    ("query=GO", ["GOLD", "GOLDEN"]),
    ("query=go&limit=1", ["GOLD"]),
    ("query=go&limit=0", []),
    ("query=go&limit=x", ["GOLD", "GOLDEN"]),
    ("query=go&limit=-3", ["GOLD", "GOLDEN"]),
    ("query=go&limit=1e99", ["GOLD", "GOLDEN"]),
    ("query=go&exchange=VAMM", ["GOLDEN"]),
    ("query=go&exchange=vamm&type=crypto", ["GOLDEN"]),
    ("query=go&type=stock", []),
    ("query=go&exchange=NYSE", []),
    ("query=zzz", []),
    ("query=", ["GOLD", "GOLDEN"]),
    ("", ["GOLD", "GOLDEN"]),
    ("query=GOLDEN", ["GOLDEN"]),
    ("query=AGE", ["GOLDEN"]),
]


async def test_search_filters_and_is_never_an_error(web: Web) -> None:
    await web.market("GOLDEN", kind="perp", name="Golden Age")
    for query, symbols in SEARCHES:
        found = await web.json(f"/api/tradingview/search?{query}")
        assert [one["symbol"] for one in found] == symbols, query


async def test_search_has_a_limit_of_its_own(web: Web) -> None:
    for n in range(110):
        await web.market(f"M{n:03}")
    assert len(await web.json("/api/tradingview/search?query=M&limit=100000")) == 100
    assert len(await web.json("/api/tradingview/search?query=M")) == 30


# --- history


EXAMPLES: list[tuple[dict[str, Any], Any]] = [
    ({"start": 700, "end": 1000}, {"s": "no_data", "nextTime": 660}),
    ({"start": 700, "end": 1000, "countback": 2}, [600, 660]),
    ({"start": 660, "end": 661}, [660]),
    ({"start": 600, "end": 660}, [600]),
    ({"start": 8000, "end": 9000}, {"s": "no_data", "nextTime": 7200}),
    ({"start": 0, "end": 1}, {"s": "no_data"}),
    # `from` is inclusive and `to` exclusive, also between whole seconds
    ({"start": 600, "end": 7201}, [600, 660, 7200]),
    ({"start": 600.5, "end": 7200}, [660]),
    ({"start": 599.5, "end": 660.5}, [600, 660]),
    ({"start": 600, "end": 660.000001}, [600, 660]),
    # an empty window
    ({"start": 660, "end": 660}, {"s": "no_data", "nextTime": 600}),
    ({"start": 1000, "end": 700}, {"s": "no_data", "nextTime": 660}),
    ({"start": 600, "end": 600}, {"s": "no_data"}),
    # one that ends before it begins: `nextTime` is never at or behind `to`, where nobody asks on
    ({"start": 8000, "end": 700}, {"s": "no_data", "nextTime": 660}),
    ({"start": 7200, "end": 7200}, {"s": "no_data", "nextTime": 660}),
    ({"start": 7201, "end": 7200}, {"s": "no_data", "nextTime": 660}),
    ({"start": 8000, "end": 7200.5}, {"s": "no_data", "nextTime": 7200}),
    ({"start": 8000, "end": 600}, {"s": "no_data"}),
    ({"start": 8000, "end": -5}, {"s": "no_data"}),
    ({"start": 8000, "end": 700, "countback": 2}, [600, 660]),
    # countback outranks `from`
    ({"start": 0, "end": 9000, "countback": 2}, [660, 7200]),
    ({"start": 7200, "end": 9000, "countback": 3}, [600, 660, 7200]),
    ({"start": 8000, "end": 9000, "countback": 1}, [7200]),
    ({"start": 0, "end": 7200, "countback": 1}, [660]),
    ({"start": 0, "end": 9000, "countback": 10**30}, [600, 660, 7200]),
    ({"start": 9000, "end": 8000, "countback": 1}, [7200]),
    ({"start": 0, "end": 600, "countback": 5}, {"s": "no_data"}),
    # what is no countback
    ({"start": 600, "end": 700, "countback": 0}, [600, 660]),
    ({"start": 600, "end": 700, "countback": -1}, [600, 660]),
    ({"start": 600, "end": 700, "countback": ""}, [600, 660]),
    ({"start": 600, "end": 700, "countback": "NaN"}, [600, 660]),
    ({"start": 700, "end": 1000, "countback": "undefined"}, {"s": "no_data", "nextTime": 660}),
]


async def test_a_quiet_market(web: Web) -> None:
    await web.trades(*((QUIET + t, 10.0) for t in (600, 660, 7200)))
    for query, expected in EXAMPLES:
        answer = await history(web, **{**query, "start": query["start"] + QUIET, "end": query["end"] + QUIET})
        if isinstance(expected, list):
            assert [t - QUIET for t in answer.get("t", [])] == expected, query
        else:
            if "nextTime" in answer:
                answer["nextTime"] -= QUIET
            assert answer == expected, query


FAR: list[tuple[object, object, bool]] = [
    (0, 4102444800, True),
    (-1e12, 1e15, True),
    (-(10**40), 10**40, True),
    ("-1e300", "1e300", True),
    (-5, "%2B1e11", True),
    (-100, -50, False),
    (-(10**40), -(10**39), False),
]


@pytest.mark.parametrize("resolution", ["1S", "1", "7", "1D", "1W", "1M"])
async def test_no_end_is_too_far(web: Web, resolution: str) -> None:
    await web.trades(*((QUIET + t, 10.0) for t in (600, 1200, 7200)))
    bars = 3 if resolution in ("1S", "1", "7") else 1
    for start, end, there in FAR:
        for countback in ({}, {"countback": 5}, {"countback": 10**30}):
            answer = await history(web, start, end, resolution=resolution, **countback)
            assert len(answer.get("t", [])) == (bars if there else 0), (start, end, countback)
            assert "nextTime" not in answer
    last = await history(web, QUIET, NOW, resolution=resolution, countback=1)
    assert await history(web, 10**39, 10**40, resolution=resolution) == {"s": "no_data", "nextTime": last["t"][0]}


async def test_a_market_without_events_has_no_data_and_no_older_either(web: Web) -> None:
    for countback in ({}, {"countback": 300}):
        assert await history(web, 0, NOW, **countback) == {"s": "no_data"}


async def test_days_weeks_and_months_begin_at_midnight_of_their_first_day(web: Web) -> None:
    await web.trades(*((NOW - n * DAY, 100 + n) for n in range(40)))
    for names, weekday in ((("1D", "D", "1d", "d"), None), (("1W", "W", "1w"), 0), (("1M", "M"), None)):
        answers = [await history(web, 0, NOW + DAY, resolution=name) for name in names]
        assert all(answer == answers[0] for answer in answers)
        starts = [datetime.fromtimestamp(t, UTC) for t in answers[0]["t"]]
        assert all(start == start.replace(hour=0, minute=0, second=0) for start in starts)
        if weekday is not None:
            assert {start.weekday() for start in starts} == {weekday}
        if names[0] == "1M":
            assert {start.day for start in starts} == {1}
    assert await history(web, 0, NOW, resolution="1H") == await history(web, 0, NOW, resolution="60")


async def test_a_month_more_than_counted_is_given_whole_when_the_window_holds_it(web: Web) -> None:
    months = [int(datetime(2025, month, 1, tzinfo=UTC).timestamp()) for month in range(6, 13)]
    await web.trades(*((t + 5 * DAY, 1.0) for t in months))
    end = NOW
    cases: list[tuple[int, int, int]] = [
        (months[4], 2, 3),  # the window holds one more than was counted: all of it
        (months[3], 2, 2),  # two more: the newest two
        (months[5], 2, 2),
        (months[6], 2, 2),
        (months[0], 6, 7),
        (months[0], 5, 5),
    ]
    for start, countback, expected in cases:
        answer = await history(web, start, end, resolution="1M", countback=countback)
        assert answer["t"] == months[-expected:], (start, countback)
    weekly = await history(web, months[4], end, resolution="1W", countback=2)
    assert len(weekly["t"]) == 2


async def test_more_bars_than_fit_leave_the_newest_and_the_rest_can_be_asked_for(web: Web) -> None:
    await web.trades(*((QUIET + n, 1 + n % 7) for n in range(5_300)))
    whole = await history(web, QUIET, NOW, resolution="1S")
    assert len(whole["t"]) >= 5_000
    assert whole["t"][-1] == QUIET + 5_299
    rest = await history(web, QUIET, whole["t"][0], resolution="1S", countback=0)
    assert rest["t"] + whole["t"] == list(range(QUIET, QUIET + 5_300))
    counted = await history(web, NOW - 10, NOW, resolution="1S", countback=100_000)
    assert counted == whole


async def test_a_poll_after_a_quiet_hour_finds_the_bar_before(web: Web) -> None:
    await web.trades((NOW - 7_200, 10.0), (NOW - 1, 11.0))
    for resolution in ("1", "5", "60", "3D"):
        answer = await history(web, NOW - 600, NOW, resolution=resolution, countback=2)
        assert answer["c"][-1] == 11
        if resolution != "3D":
            assert len(answer["t"]) == 2


async def test_the_open_bar_is_there_with_its_state_so_far(web: Web) -> None:
    start = NOW - NOW % 60
    web.clock.now = start + 30
    await web.trades((start - 60, 9.0, 1), (start + 1, 10.0, 0.1), (start + 2, 12.0, 0.2), (start + 3, 11.0, 3))
    answer = await history(web, start - 60, start + 60)
    assert answer == {
        "s": "ok",
        "t": [start - 60, start],
        "o": [9, 10],
        "h": [9, 12],
        "l": [9, 10],
        "c": [9, 11],
        "v": [1, 3.3],
    }


async def test_a_second_that_begins_at_the_end_appears_one_poll_later(web: Web) -> None:
    await web.trades((NOW - 1, 10.0), (NOW, 11.0))
    assert (await history(web, NOW - 10, NOW, resolution="1S", countback=2))["t"] == [NOW - 1]
    assert (await history(web, NOW - 9, NOW + 1, resolution="1S", countback=2))["t"] == [NOW - 1, NOW]


async def test_an_answer_names_its_cursor_and_has_seen_what_was_acknowledged(web: Web) -> None:
    for n in range(20):
        cursor = await web.trades((QUIET + 60 * n, 10.0 + n))
        answer = await web.get(f"/api/tradingview/history?symbol=GOLD&resolution=1&from=0&to={NOW}")
        assert answer.headers["X-Cursor"] == cursor
        assert (await answer.get_json())["c"][-1] == 10 + n


# --- caching


async def test_an_answer_with_the_open_bar_is_not_kept(web: Web) -> None:
    await web.trades((QUIET, 1.0), (NOW - 1, 10.0))
    for query in (f"from=0&to={NOW + 60}", f"from={NOW - 600}&to={NOW}&countback=2"):
        answer = await web.get(f"/api/tradingview/history?symbol=GOLD&resolution=1&{query}")
        assert answer.headers["Cache-Control"] == "no-store"
        assert "ETag" not in answer.headers


@pytest.mark.parametrize("countback", ["", "&countback=2"])
async def test_an_answer_of_closed_bars_is_kept_until_one_of_them_changes(web: Web, countback: str) -> None:
    async def trade(t: int, price: float, name: str, **more: Any) -> None:
        event = {"market_symbol": "GOLD", "timestamp": t * 1000, "price": price, "trade_id": name, **more}
        answer = await web.post("/api/ingest/events", json=event, headers=key)
        assert (await answer.get_json())["rejected"] == []

    async def asked(tag: str = "") -> tuple[int, str, Any]:
        answer = await web.get(path, headers={"If-None-Match": tag} if tag else {})
        assert answer.headers["Cache-Control"] == "no-cache"
        assert "X-Cursor" in answer.headers
        data = await answer.get_data()
        return answer.status_code, answer.headers["ETag"], decoded(data) if data else None

    key = await web.key("ingest")
    path = f"/api/tradingview/history?symbol=GOLD&resolution=1&from={QUIET}&to={QUIET + 600}{countback}"
    changes: list[Callable[[], Any]] = [
        lambda: trade(QUIET - 120, 9, "before"),
        lambda: trade(QUIET, 10, "a"),
        lambda: trade(QUIET + 60, 11, "b"),
        lambda: trade(QUIET + 120, 12, "c"),
        lambda: trade(QUIET + 121, 13, "d"),  # a late event
        lambda: trade(QUIET + 121, 14, "d"),  # a correction
        lambda: trade(QUIET + 60, 11, "b", removed=True),  # the bar is gone
        lambda: trade(QUIET + 121, 14, "d", removed=True),
        lambda: trade(QUIET, 10, "a", removed=True),
        lambda: trade(QUIET + 120, 12, "c", removed=True),
    ]
    status, tag, before = await asked()
    assert (status, before) == (200, {"s": "no_data"})
    for change in changes:
        await change()
        status, new, after = await asked()
        assert status == 200
        assert (new == tag) == (after == before), (before, after)
        assert (await asked(tag))[0] == (304 if new == tag else 200)
        assert await asked(f'"other", {new}') == (304, new, None)
        # Elsewhere and later, nothing changed here.
        await trade(NOW - 600, 20, f"{new}")
        assert (await asked(new))[0] == 304
        tag, before = new, after


# --- against an obvious one


def bucket(resolution: str, t: int) -> int:
    at = datetime.fromtimestamp(t, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    match resolution:
        case "1S":
            return t
        case "1D":
            return int(at.timestamp())
        case "1W":
            return int((at - timedelta(at.weekday())).timestamp())
        case "1M":
            return int(at.replace(day=1).timestamp())
        case minutes:
            return t - t % (60 * int(minutes))


def obvious(trades: list[Trade], resolution: str) -> dict[int, tuple[float, float, float, float, float]]:
    bars: dict[int, tuple[float, float, float, float, float]] = {}
    for t, price, size in sorted(trades, key=lambda trade: trade[0]):
        label = bucket(resolution, int(t))
        first, high, low, _, volume = bars.get(label, (price, price, price, price, 0.0))
        bars[label] = (first, max(high, price), min(low, price), price, volume + size)
    return bars


@pytest.mark.parametrize("restarted", [False, True])
async def test_any_window_is_what_an_obvious_server_would_answer(tmp_path: Path, restarted: bool) -> None:
    chance = random.Random(7)
    trades: list[Trade] = []
    t = NOW - 100 * DAY
    while t < NOW:
        trades.append((t, chance.randint(900, 1100) / 8, chance.randint(1, 64) / 16))
        t += chance.choice((1, 1, 2, 30, 61, 400, 7_000, 90_000, 3 * DAY))
    late = trades[:]
    chance.shuffle(late)
    async with serving(tmp_path / "data") as web:
        await web.market()
        for n in range(0, len(late), 40):
            await web.trades(*late[n : n + 40])
        if not restarted:
            await compared(web, chance, trades)
    if restarted:
        async with serving(tmp_path / "data") as web:
            await compared(web, chance, trades)


async def compared(web: Web, chance: random.Random, trades: list[Trade]) -> None:
    for resolution in (*RESOLUTIONS, "3", "120"):
        bars = obvious(trades, resolution)
        times = sorted(bars)
        for _ in range(25):
            start, end = (
                chance.choice((chance.choice(times), chance.randint(times[0] - DAY, NOW + DAY)))
                + chance.choice((0, 0, 0.5))
                for _ in range(2)
            )
            count = chance.choice((None, 1, 2, 7, 300))
            window = [t for t in times if start <= t < end]
            expected = window
            if count is not None:
                expected = [t for t in times if t < end][-count:]
                if resolution == "1M" and len(window) == count + 1:
                    expected = window
            more = {} if count is None else {"countback": count}
            answer = await history(web, start, end, resolution=resolution, **more)
            asked = (resolution, start, end, count)
            if expected:
                assert answer["t"] == expected, asked
                found = list(zip(*(answer[column] for column in "ohlcv"), strict=True))
                assert found == [bars[t] for t in expected], asked
            else:
                older = [t for t in times if t < min(start, end)] if count is None else []
                assert answer == {"s": "no_data"} | ({"nextTime": older[-1]} if older else {}), asked
