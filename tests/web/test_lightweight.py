import math
import random
from datetime import UTC, datetime
from typing import Any

import pytest

from storage.calendar import Calendar, parse_short
from tests.web.conftest import NOW, Web, decoded
from web import lightweight
from web.lightweight import LARGEST, filled, grid

DAY = 86_400
HOUR = NOW - NOW % 3600
QUIET = NOW - DAY


async def asked(web: Web, status: int = 200, **query: object) -> Any:
    """What ohlcv says of GOLD; what holds for every good answer holds."""
    given = {"symbol": "GOLD", "timeframe": "1m", **{name.rstrip("_"): value for name, value in query.items()}}
    answer = await web.get("/api/lightweight/ohlcv?" + "&".join(f"{k}={v}" for k, v in given.items()))
    found = decoded(await answer.get_data())
    assert answer.status_code == status, found
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    if status == 200:
        checked(found, query)
    else:
        assert set(found) == {"success", "error"}
        assert found["success"] is False
        assert set(found["error"]) == {"code", "message"}
    return found


def checked(found: dict[str, Any], query: dict[str, object]) -> None:
    assert found["success"] is True
    rows, meta = found["data"], found["meta"]
    assert meta["count"] == len(rows)
    stamps = [row["timestamp"] for row in rows]
    assert all(type(stamp) is int for stamp in stamps)
    assert stamps == sorted(set(stamps))
    unix = query.get("time_format") == "unix"
    for row in rows:
        assert row["time"] == (row["timestamp"] if unix else iso(row["timestamp"]))
        numbers = [value for name, value in row.items() if name not in ("time", "timestamp")]
        assert all(isinstance(value, int | float) and math.isfinite(value) for value in numbers), row
        if "open" in row:
            assert row["low"] <= min(row["open"], row["close"])
            assert max(row["open"], row["close"]) <= row["high"] <= LARGEST
    if rows:
        assert "open" in rows[-1]
    assert {len(meta["from"]), len(meta["to"])} == {24}


def iso(t: int) -> str:
    return datetime.fromtimestamp(t, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def stamps(found: dict[str, Any], since: int = 0) -> list[int]:
    return [row["timestamp"] - since for row in found["data"]]


# --- ohlcv


async def test_an_answer_has_the_shape_of_the_documents(web: Web) -> None:
    await web.trades((QUIET, 2000.5, 5), (QUIET + 20, 2001, 1), (QUIET + 40, 2000.25, 1), (QUIET + 59, 2001.25, 8))
    found = await asked(web, from_=QUIET, to=QUIET + 60)
    assert found == {
        "success": True,
        "data": [
            {
                "time": iso(QUIET),
                "timestamp": QUIET,
                "open": 2000.5,
                "high": 2001.25,
                "low": 2000.25,
                "close": 2001.25,
                "volume": 15,
            }
        ],
        "meta": {
            "symbol": "GOLD",
            "timeframe": "1m",
            "count": 1,
            "from": iso(QUIET),
            "to": iso(QUIET + 60),
        },
    }
    unix = await asked(web, from_=QUIET, to=QUIET + 60, time_format="unix")
    assert unix["meta"] == found["meta"]
    assert unix["data"] == [{**found["data"][0], "time": QUIET}]


async def test_a_day_of_minutes_from_midnight_to_midnight(web: Web) -> None:
    midnight = NOW // DAY * DAY - DAY
    await web.trades(*((midnight + 60 * n, 10 + n % 5) for n in range(-3, 1450)))
    day, next_day = (datetime.fromtimestamp(midnight + n * DAY, UTC).strftime("%Y-%m-%d") for n in (0, 1))
    found = await asked(web, from_=day, to=next_day)
    assert found["meta"] == {
        "symbol": "GOLD",
        "timeframe": "1m",
        "count": 1440,
        "from": f"{day}T00:00:00.000Z",
        "to": f"{next_day}T00:00:00.000Z",
    }
    assert stamps(found, midnight) == list(range(0, DAY, 60))


@pytest.mark.parametrize(
    ("text", "second"),
    [
        ("2026-01-05", 0),
        ("2026-01-05T08:30:00Z", 30_600),
        ("2026-01-05T08:30:00.000Z", 30_600),
        ("2026-01-05T08:30:00.001Z", 30_601),
        ("2026-01-05T08:30:00", 30_600),
        ("2026-01-05T08:30", 30_600),
        ("2026-01-05T10:30:00%2B02:00", 30_600),
        ("2026-01-05%2008:30:00", 30_600),
        ("1767601800", 30_600),
        ("1767601800.5", 30_601),
        ("1767601800000", 30_600),
        ("1767601800001", 30_601),
    ],
)
async def test_a_time_may_be_written_in_many_ways(web: Web, text: str, second: int) -> None:
    meta = (await asked(web, from_=text, to=NOW))["meta"]
    assert meta["from"] == iso(NOW // DAY * DAY + second)


async def test_what_an_answer_says_of_its_window_asks_for_the_same_window(web: Web) -> None:
    for start in ("0001-01-01T00:00:00Z", "-1e300", "2026-01-05"):
        for text in ("9999-12-31T23:59:59.999Z", "253402300800", "1e300", "9999-12-31T23:59:59Z"):
            meta = (await asked(web, from_=start, to=text))["meta"]
            assert datetime.fromisoformat(meta["to"]).year == 9999
            assert (await asked(web, from_=meta["from"], to=meta["to"]))["meta"] == meta
            assert (await asked(web, from_=meta["to"], to=meta["to"]))["meta"]["from"] == meta["to"]


async def test_the_window_has_its_beginning_and_not_its_end(web: Web) -> None:
    await web.trades(*((QUIET + t, 10.0) for t in (0, 60, 7200)))
    for start, end, expected in (
        (0, 60, [0]),
        (0, 61, [0, 60]),
        (60, 7200, [60]),
        (60.5, 9000, [7200]),
        (61, 7200, []),
        (60, 60, []),
        (-(10**9), 10**9, [0, 60, 7200]),
    ):
        found = await asked(web, from_=QUIET + start, to=QUIET + end)
        assert stamps(found, QUIET) == expected, (start, end)
    assert (await asked(web, from_=0, to=1))["data"] == []
    assert (await asked(web, from_="-5", to="99999999999"))["meta"]["count"] == 3


async def test_what_is_not_said_is_a_thousand_periods_up_to_now(web: Web) -> None:
    web.clock.now = NOW + 30
    await web.trades((NOW - 60_000, 9), (NOW - 59_900, 8), (NOW, 10.0), (NOW + 20, 12))
    found = await asked(web)
    assert stamps(found, NOW) == [-59_940, 0]
    assert found["data"][-1]["close"] == 12  # the open bar, so far
    assert found["meta"]["to"] == iso(NOW + 31)
    assert found["meta"]["from"] == iso(NOW + 31 - 60_000)
    assert stamps(await asked(web, to=NOW - 59_000), NOW) == [-60_000, -59_940]


@pytest.mark.parametrize("timeframe", ["1s", "1m", "5m", "15m", "30m", "1h", "4h", "1d", "1w", "1M", "7m", "2d"])
async def test_bars_are_those_of_every_other_surface(web: Web, timeframe: str) -> None:
    chance = random.Random(3)
    await web.trades(*((NOW - chance.randrange(90 * DAY), chance.randint(9, 99), chance.random()) for _ in range(200)))
    resolution = parse_short(timeframe)
    found = await asked(web, timeframe=timeframe, from_=0, to=NOW)
    bars = await web.json(f"/api/tradingview/history?symbol=GOLD&resolution={resolution.name}&from=0&to={NOW}")
    for column in ("open", "high", "low", "close", "volume"):
        assert [row[column] for row in found["data"]] == bars[column[0]]
    assert stamps(found) == bars["t"]
    days = [datetime.fromtimestamp(t, UTC) for t in bars["t"]]
    if timeframe in ("1d", "1w", "1M"):
        assert all(day == day.replace(hour=0, minute=0, second=0) for day in days)
        assert timeframe != "1w" or {day.weekday() for day in days} == {0}
        assert timeframe != "1M" or {day.day for day in days} == {1}
    assert found["meta"]["timeframe"] == timeframe


async def test_a_minute_is_no_month(web: Web) -> None:
    await web.trades((NOW - 60, 10.0))
    assert stamps(await asked(web, timeframe="1m")) != stamps(await asked(web, timeframe="1M"))


async def test_a_limit_keeps_the_newest_and_says_where_to_go_on(web: Web) -> None:
    await web.trades(*((QUIET + 60 * n, 10.0) for n in range(10)))
    found = await asked(web, from_=QUIET, to=NOW, limit=4)
    assert stamps(found, QUIET) == [360, 420, 480, 540]
    assert (found["meta"]["truncated"], found["meta"]["next_to"]) == (True, QUIET + 360)
    rest = await asked(web, from_=QUIET, to=found["meta"]["next_to"], limit=6)
    assert stamps(rest, QUIET) == [0, 60, 120, 180, 240, 300]
    assert "truncated" not in rest["meta"]
    assert "next_to" not in rest["meta"]


async def test_there_is_a_limit_that_nobody_gave(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    assert lightweight.MOST_BARS >= 10_000
    monkeypatch.setattr(lightweight, "MOST_BARS", 7)
    await web.trades(*((QUIET + n, 10.0) for n in range(10)))
    for limit in ({}, {"limit": 9}, {"limit": 10**6}):
        found = await asked(web, timeframe="1s", from_=QUIET, to=NOW, **limit)
        assert stamps(found, QUIET) == [3, 4, 5, 6, 7, 8, 9]
        assert (found["meta"]["truncated"], found["meta"]["next_to"]) == (True, QUIET + 3)


async def test_ten_thousand_rows_are_one_answer(web: Web) -> None:
    await web.trades(*((QUIET + n, 10.0) for n in range(10_003)))
    found = await asked(web, timeframe="1s", from_=QUIET, to=NOW)
    assert stamps(found, QUIET) == list(range(3, 10_003))
    assert found["meta"]["next_to"] == QUIET + 3


async def test_a_gap_is_filled_as_it_is_asked(web: Web) -> None:
    await web.trades((QUIET, 10.0, 2), (QUIET + 1, 11.0, 3), (QUIET + 180, 12.0, 4))
    window = {"from_": QUIET - 600, "to": QUIET + 900}
    none = await asked(web, **window, fill="none")
    assert none == await asked(web, **window)
    assert stamps(none, QUIET) == [0, 180]
    flat = await asked(web, **window, fill="flat")
    still = {"open": 11, "high": 11, "low": 11, "close": 11, "volume": 0}
    assert flat["data"] == [
        none["data"][0],
        *({"time": iso(QUIET + t), "timestamp": QUIET + t, **still} for t in (60, 120)),
        none["data"][1],
    ]
    null = await asked(web, **window, fill="null", time_format="unix")
    assert null["data"][1:3] == [{"time": QUIET + t, "timestamp": QUIET + t} for t in (60, 120)]
    assert stamps(await asked(web, **window, fill="flat", limit=2), QUIET) == [120, 180]
    assert (await asked(web, **window, fill="flat", limit=2))["meta"]["next_to"] == QUIET + 120
    assert (await asked(web, from_=0, to=1, fill="flat"))["data"] == []


def test_periods_are_those_of_the_calendar() -> None:
    def days(session: str, timeframe: str, *dates: str) -> list[str]:
        times = [int(datetime.fromisoformat(f"{date}T00:00Z").timestamp()) for date in dates]
        found = grid(Calendar.parse(session), parse_short(timeframe), times, 100)
        return [datetime.fromtimestamp(t, UTC).strftime("%m-%d") for t in found]

    assert days("0930-1600", "1d", "2026-01-08", "2026-01-13") == ["01-08", "01-09", "01-12", "01-13"]
    assert days("24x7", "1d", "2026-01-08", "2026-01-11") == ["01-08", "01-09", "01-10", "01-11"]
    assert days("0930-1600", "1d", "2026-01-09", "2026-01-10", "2026-01-12") == ["01-09", "01-10", "01-12"]
    assert days("0930-1600", "1w", "2026-01-05", "2026-01-26") == ["01-05", "01-12", "01-19", "01-26"]
    assert days("24x7", "1M", "2026-01-01", "2026-04-01") == ["01-01", "02-01", "03-01", "04-01"]
    for timeframe, count in (("1s", 3601), ("7m", 9), ("1h", 2)):
        resolution, calendar = parse_short(timeframe), Calendar.parse()
        first = calendar.back(resolution, NOW, 0)
        last = calendar.back(resolution, NOW + 3600, 0)
        found = grid(calendar, resolution, [first, last], 10_000)
        assert (len(found), found[0], found[-1]) == (count, first, last)
        assert found == sorted(set(found))
        assert grid(calendar, resolution, [first - 40_000_000, last], 2) == found[-2:]


def test_what_is_filled_goes_on_with_the_last_close_before_it() -> None:
    columns: dict[str, list[Any]] = {"close": [1.0, 2.0, 3.0], "volume": [5.0, 6.0, 7.0]}
    assert filled([10, 20, 40], columns, [25, 30, 35, 40], True) == (
        [25, 30, 35, 40],
        {"close": [2.0, 2.0, 2.0, 3.0], "volume": [0.0, 0.0, 0.0, 7.0]},
        True,
    )


async def test_every_measure_can_be_asked_for(web: Web) -> None:
    await web.market("OIL", kind="perp")
    key = await web.key("ingest")
    said = {"market_symbol": "OIL", "event_type": "PositionOpened", "price_type": "mark", "fee": 0.5}
    events = [
        {**said, "timestamp": (QUIET + t) * 1000, "price": p, "volume": v, "is_long": long, "user_address": user}
        for t, p, v, long, user in ((0, 10, 1, True, "0xa"), (900, 20, 3, False, "0xb"), (1800, 30, 1, True, "0xa"))
    ]
    answer = await web.post("/api/ingest/events", json=events, headers=key)
    assert (await answer.get_json())["accepted"] == 3
    # Half an hour is not stored, and traders cannot be added up.
    found = await asked(web, symbol="OIL", timeframe="30m", from_=QUIET, to=NOW, fields="all")
    (first, second) = found["data"]
    assert first == {
        "time": iso(QUIET),
        "timestamp": QUIET,
        "open": 10,
        "high": 20,
        "low": 10,
        "close": 20,
        "volume": 4,
        "trades_count": 2,
        "vwap": 17.5,
        "turnover": 70,
        "turnover_volume": 4,
        "buy_volume": 1,
        "sell_volume": 3,
        "total_fees": 1,
        "unique_traders": 2,
        "long_trades": 1,
        "short_trades": 1,
        "liquidation_volume": 0,
        "liquidation_count": 0,
    }
    assert second["unique_traders"] == 1
    some = await asked(web, symbol="OIL", timeframe="1h", from_=QUIET, to=NOW, fields="vwap,close,unique_traders")
    assert (some["data"][0]["vwap"], some["data"][0]["unique_traders"]) == (20, 2)
    assert "total_fees" not in some["data"][0]
    assert (await asked(web, symbol="OIL", fields="all", from_=0, to=1))["data"] == []
    flat = await asked(web, symbol="OIL", timeframe="5m", from_=QUIET, to=NOW, fields="vwap", fill="flat")
    assert ["vwap" in row for row in flat["data"]] == [True, False, False, True, False, False, True]


FAILURES: list[tuple[dict[str, object], int, str, str]] = [
    ({"symbol": "NOPE"}, 404, "unknown_symbol", "symbol: no market named 'NOPE'"),
    ({"symbol": ""}, 400, "bad_parameter", "symbol: expected a text that is not empty"),
    ({"timeframe": "1"}, 400, "bad_timeframe", "1 minutes are '1m'"),
    ({"timeframe": "1H"}, 400, "bad_timeframe", "here it is '1h'"),
    ({"timeframe": ""}, 400, "bad_timeframe", "unknown timeframe ''"),
    ({"timeframe": "0m"}, 400, "bad_timeframe", "unknown timeframe '0m'"),
    ({"from_": "x"}, 400, "bad_range", "from: expected a date"),
    ({"to": "2026-13-01"}, 400, "bad_range", "to: expected a date"),
    ({"to": "NaN"}, 400, "bad_range", "to: expected a date"),
    ({"from_": 20, "to": 10}, 400, "bad_range", "from: expected a time up to `to` (10), got 20"),
    ({"time_format": "ms"}, 400, "bad_parameter", "time_format: expected iso or unix, got 'ms'"),
    ({"fill": "zero"}, 400, "bad_parameter", "fill: expected none, flat or null, got 'zero'"),
    ({"limit": 0}, 400, "bad_parameter", "limit: expected an integer, at least 1, got '0'"),
    ({"limit": "many"}, 400, "bad_parameter", "limit: expected an integer"),
    ({"fields": "colour"}, 400, "bad_parameter", "fields: a spot has no 'colour'; it has trades_count, vwap"),
]


@pytest.mark.parametrize(("query", "status", "code", "said"), FAILURES)
async def test_a_failure_says_what_it_is(web: Web, query: dict[str, object], status: int, code: str, said: str) -> None:
    found = await asked(web, status, **query)
    assert found["error"]["code"] == code
    assert said in found["error"]["message"]


async def test_every_other_failure_has_the_same_shape(web: Web) -> None:
    for method, path, status, code in (
        ("GET", "ohlcv", 400, "bad_parameter"),
        ("GET", "nothing", 404, "not_found"),
        ("POST", "ohlcv", 405, "method_not_allowed"),
    ):
        answer = await web.ask(method, f"/api/lightweight/{path}", headers=await web.key("admin"))
        found = await answer.get_json()
        assert (answer.status_code, found["success"], found["error"]["code"]) == (status, False, code)


async def test_what_the_library_cannot_draw_is_refused(web: Web) -> None:
    await web.trades((QUIET, 1e14))
    found = await asked(web, 422, from_=QUIET, to=NOW)
    assert found["error"]["code"] == "out_of_range"
    assert "high: 1e+14" in found["error"]["message"]


@pytest.mark.parametrize("path", ["ohlcv?symbol=GOLD&timeframe=1m", "markets"])
async def test_a_preflight_is_answered(web: Web, path: str) -> None:
    answer = await web.ask("OPTIONS", f"/api/lightweight/{path}", headers={"Origin": "https://x.example"})
    assert answer.status_code == 204
    assert "GET" in answer.headers["Access-Control-Allow-Methods"]


async def test_an_answer_with_the_open_bar_is_not_kept_and_others_until_they_change(web: Web) -> None:
    async def got(query: str, tag: str = "") -> Any:
        headers = {"If-None-Match": tag} if tag else {}
        return await web.get(f"/api/lightweight/ohlcv?symbol=GOLD&timeframe=1m&{query}", headers=headers)

    await web.trades((QUIET, 1.0), (NOW - 1, 10.0))
    open_bar = await got("")
    assert open_bar.headers["Cache-Control"] == "no-store"
    assert "ETag" not in open_bar.headers
    past = f"from={QUIET}&to={QUIET + 600}"
    first = await got(past)
    tag = first.headers["ETag"]
    assert first.headers["Cache-Control"] == "no-cache"
    assert (await got(past, tag)).status_code == 304
    await web.trades((QUIET + 120, 2.0))
    changed = await got(past, tag)
    assert changed.status_code == 200
    assert changed.headers["ETag"] != tag
    assert (await got(f"from={QUIET}&to={QUIET + 601}", changed.headers["ETag"])).status_code == 200


async def test_measures_of_closed_bars_are_revalidated_until_one_of_them_changes(web: Web) -> None:
    await web.market("OIL", kind="perp")
    key = await web.key("ingest")
    past = f"/api/lightweight/ohlcv?symbol=OIL&timeframe=1m&from={QUIET}&to={QUIET + 600}&fields=vwap,buy_volume"

    async def happened(*events: dict[str, object]) -> None:
        said = [{"market_symbol": "OIL", "timestamp": QUIET * 1000, "price": 2, **event} for event in events]
        answer = await (await web.post("/api/ingest/events", json=said, headers=key)).get_json()
        assert answer["accepted"] == len(events), answer

    await happened({"price_type": "mark", "volume": 1}, {"price_type": "mark", "timestamp": (NOW - 1) * 1000})
    assert (await web.get(past.partition("&from")[0] + "&fields=all")).headers["Cache-Control"] == "no-store"
    first = await web.get(past)
    tag = first.headers["ETag"]
    assert first.headers["Cache-Control"] == "no-cache"
    known = await web.get(past, headers={"If-None-Match": tag})
    assert (known.status_code, known.headers["ETag"], await known.get_data()) == (304, tag, b"")
    # A minute in which something is traded and no price is set has no bar, and an answer says nothing of it.
    await happened({"price_type": "index", "timestamp": (QUIET + 120) * 1000, "volume": 3})
    assert (await web.get(past, headers={"If-None-Match": tag})).status_code == 304
    assert await (await web.get(past)).get_data() == await first.get_data()
    await happened({"price_type": "index", "volume": 3, "is_long": True})  # which moves no price of the bar
    changed = await web.get(past, headers={"If-None-Match": tag})
    assert changed.status_code == 200
    (row,) = (await changed.get_json())["data"]
    assert (row["open"], row["buy_volume"]) == (2, 3)


# --- markets


async def listed(web: Web, query: str = "") -> Any:
    found = await web.json(f"/api/lightweight/markets?{query}")
    assert found["success"] is True
    assert found["meta"]["count"] == len(found["data"])
    return found


async def test_a_list_says_what_each_market_trades_at(web: Web) -> None:
    await web.stack.registry.patch("GOLD", {"name": "Gold Futures", "supply": "1000", "tier": "tier1"})
    await web.market("TEA")
    await web.market("OIL", kind="perp", market_id=2**64 - 1)
    await web.trades((NOW - 2 * DAY, 50.0), (NOW - DAY + 90, 100.0, 2), (NOW - 60, 101.25, 3))
    await web.trades((NOW - 3 * DAY, 7.0), symbol="TEA")
    await web.stack.writer.flushed(web.stack.engine.committed())
    found = await listed(web)
    gold, tea, oil = found["data"]
    assert gold == {
        "market_id": 1,
        "symbol": "GOLD",
        "name": "Gold Futures",
        "current_price": 101.25,
        "price_change_24h": 102.5,
        "volume_24h": 5,
        "market_cap": 101250,
        "tier": "tier1",
    }
    assert tea == {
        "market_id": 2,
        "symbol": "TEA",
        "name": "TEA",
        "current_price": 7,
        "price_change_24h": 0,
        "volume_24h": 0,
        "market_cap": None,
        "tier": "tier4",
    }
    assert (oil["market_id"], oil["current_price"]) == (2**64 - 1, None)
    assert found["meta"] == {"count": 3, "offset": 0, "more": False}


async def test_a_list_is_filtered_ordered_searched_and_paged(web: Web) -> None:
    for n in range(6):
        await web.market(f"M{n}", tier="tier2" if n % 2 else None, name="even" if n % 2 == 0 else None)
        await web.trades((NOW - 60, 10.0, 6 - n if n != 3 else 9), symbol=f"M{n}")
    await web.stack.registry.deactivate("M5")
    await web.stack.writer.flushed(web.stack.engine.committed())

    async def symbols(query: str) -> list[str]:
        return [market["symbol"] for market in (await listed(web, query))["data"]]

    ranked = ["M3", "M0", "M1", "M2", "M4", "GOLD"]
    assert await symbols("") == await symbols("sort=volume") == ranked
    assert await symbols("sort=symbol") == ["GOLD", "M0", "M1", "M2", "M3", "M4"]
    assert await symbols("sort=id") == ["GOLD", "M0", "M1", "M2", "M3", "M4"]
    assert await symbols("tier=tier2") == ["M3", "M1"]
    assert await symbols("tier=tier1") == []
    assert await symbols("search=even") == ["M0", "M2", "M4"]
    assert await symbols("search=m") == ["M3", "M0", "M1", "M2", "M4"]
    assert await symbols("search=m&sort=symbol&tier=tier2") == ["M1", "M3"]
    for query in ("", "search=m&", "tier=tier2&"):
        everything = await symbols(query)
        for size in (1, 2, 4):
            pages, offset = [], 0
            while True:
                page = await listed(web, f"{query}limit={size}&offset={offset}")
                pages += [market["symbol"] for market in page["data"]]
                offset += size
                if not page["meta"]["more"]:
                    break
            assert pages == everything


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("tier=gold", "tier: expected tier1, tier2, tier3 or tier4, got 'gold'"),
        ("sort=price", "sort: expected id, symbol or volume, got 'price'"),
        ("limit=0", "limit: expected an integer, at least 1, got '0'"),
        ("offset=-1", "offset: expected an integer, 0 to 1000000, got '-1'"),
    ],
)
async def test_what_makes_no_list_is_refused(web: Web, query: str, said: str) -> None:
    answer = await web.get(f"/api/lightweight/markets?{query}")
    found = await answer.get_json()
    assert (answer.status_code, found) == (
        400,
        {"success": False, "error": {"code": "bad_parameter", "message": said}},
    )
