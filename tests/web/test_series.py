"""Any series from any series: what two markets come to together, indicators, volume by price."""

import itertools
import math
import random
import statistics
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from actors import series as module
from actors.export import resolution_named
from actors.reading import Window
from actors.series import Looked, Series
from storage.records import Market
from tests.web.conftest import NOW, Web, serving

MINUTE, HOUR, DAY = 60, 3600, 86400
MIDNIGHT = NOW - NOW % DAY


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    """Two markets; GOLD has a bar in each of 1,500 minutes, SILVER in two of three."""
    chance = random.Random(3)
    async with serving(tmp_path / "data") as running:
        for symbol, price, step in (("GOLD", 2000.0, 1), ("SILVER", 25.0, 3)):
            await running.market(symbol)
            trades: list[tuple[float, float, float]] = []
            for number in range(1500):
                if step == 3 and number % 3 == 2:
                    continue
                at = NOW - 1500 * MINUTE + number * MINUTE
                for second in (0, 20, 50):
                    price = round(price * chance.uniform(0.999, 1.001), 4)
                    trades.append((at + second, price, chance.randint(1, 9)))
            await running.trades(*trades, symbol=symbol)
        await running.market("BTC/USD")
        await running.trades((NOW - 30, 64000, 1), symbol="BTC/USD")
        yield running


async def bars(web: Web, symbol: str, resolution: str = "1") -> dict[int, list[float]]:
    found = await web.json(
        f"/api/tradingview/history?symbol={symbol}&resolution={resolution}&from=0&to={NOW}&countback=5000"
    )
    return {row[0]: list(row[1:]) for row in zip(*(found[name] for name in "tohlcv"), strict=True)}


async def series(web: Web, expr: str, resolution: str = "1", **more: object) -> Any:
    asked = "".join(f"&{name.rstrip('_')}={value}" for name, value in more.items())
    return await web.json(f"/api/series?expr={expr}&resolution={resolution}{asked}")


async def test_one_market_is_its_history(web: Web) -> None:
    found = await series(web, "gold", limit=5000)
    assert {row[0]: list(row[1:]) for row in zip(*(found[name] for name in "tohlcv"), strict=True)} == await bars(
        web, "GOLD"
    )
    assert (found["expr"], found["resolution"], found["next"], found["indicators"]) == ("gold", "1", None, [])
    history = await web.get(f"/api/tradingview/history?symbol=GOLD&resolution=1&from=0&to={NOW}")
    assert found["cursor"] == history.headers["X-Cursor"]


@pytest.mark.parametrize(
    ("expr", "what"),
    [
        ("GOLD/SILVER", lambda a, b: a / b),
        ("GOLD-SILVER", lambda a, b: a - b),
        ("GOLD%20%2B%20SILVER", lambda a, b: a + b),
        ("gold*silver", lambda a, b: a * b),
    ],
)
async def test_two_markets_meet_where_both_have_a_bar(web: Web, expr: str, what: Any) -> None:
    found = await series(web, expr, limit=5000)
    gold, silver = await bars(web, "GOLD"), await bars(web, "SILVER")
    assert found["t"] == sorted(gold.keys() & silver.keys())
    assert len(found["t"]) == 1000
    assert found["v"] is None
    for number, t in enumerate(found["t"]):
        parts = [what(a, b) for a, b in zip(gold[t][:4], silver[t][:4], strict=True)]
        got = [found[name][number] for name in "ohlc"]
        assert got == [pytest.approx(value, rel=1e-14) for value in (parts[0], max(parts), min(parts), parts[3])]


async def test_a_number_scales_a_market_and_a_symbol_may_hold_a_sign(web: Web) -> None:
    gold = await bars(web, "GOLD")
    found = await series(web, "2*GOLD", limit=3)
    assert found["c"] == [2 * gold[t][3] for t in found["t"]]
    assert found["v"] == [gold[t][4] for t in found["t"]]
    assert (await series(web, "BTC/USD"))["c"] == [64000]
    assert (await series(web, "BTC/USD/1000"))["c"] == [64]
    assert (await series(web, "1/BTC/USD"))["c"] == [1 / 64000]


@pytest.mark.parametrize("expr", ["1e100*DEAR", "DEAR/1e-100", "CHEAP/1e100", "-1e100*DEAR", "DEAR*DEAR", "CHEAP/DEAR"])
async def test_the_farthest_prices_and_numbers_come_to_something(web: Web, expr: str) -> None:
    for symbol, price in (("DEAR", 99_999_999_999_999_999_999), ("CHEAP", 1e-18)):
        await web.market(symbol)
        await web.trades(*((NOW - n * MINUTE, price) for n in range(30)), symbol=symbol)
    found = await series(web, expr, indicators="sma:5,bb:5,rsi:5,vwap", limit=20)
    assert len(found["t"]) == 20
    assert all(0 < abs(value) < math.inf for name in "ohlc" for value in found[name])
    assert found["next"] is not None


async def test_older_bars_are_asked_for_page_by_page(web: Web) -> None:
    whole = await series(web, "GOLD/SILVER", limit=5000)
    times: list[int] = []
    closes: list[float] = []
    page = await series(web, "GOLD/SILVER", limit=300)
    pages = 1
    while True:
        times, closes = page["t"] + times, page["c"] + closes
        if page["next"] is None:
            break
        page = await series(web, "GOLD/SILVER", limit=300, to=page["next"])
        pages += 1
    assert (times, closes, pages) == (whole["t"], whole["c"], 4)
    since = NOW - 100 * MINUTE
    some = await series(web, "GOLD", from_=since * 1000, to=(since + 10 * MINUTE) * 1000)
    assert (some["t"], some["next"]) == ([since + n * MINUTE for n in range(10)], None)


# --- indicators, each against its definition


def sma(values: list[float], n: int) -> list[float | None]:
    return [None if i < n - 1 else math.fsum(values[i - n + 1 : i + 1]) / n for i in range(len(values))]


def ema(values: list[float], n: int) -> list[float | None]:
    out: list[float | None] = [None] * len(values)
    for i in range(n - 1, len(values)):
        before = out[i - 1]
        out[i] = math.fsum(values[:n]) / n if before is None else before + 2 / (n + 1) * (values[i] - before)
    return out


def wilder(values: list[float], n: int) -> list[float | None]:
    out: list[float | None] = [None] * len(values)
    for i in range(n - 1, len(values)):
        before = out[i - 1]
        out[i] = math.fsum(values[:n]) / n if before is None else (before * (n - 1) + values[i]) / n
    return out


def rsi(closes: list[float], n: int) -> list[float | None]:
    moves = [b - a for a, b in itertools.pairwise(closes)]
    up, down = wilder([max(m, 0) for m in moves], n), wilder([max(-m, 0) for m in moves], n)
    return [None, *(None if u is None or d is None else 100 * u / (u + d) for u, d in zip(up, down, strict=True))]


def atr(rows: list[list[float]], n: int) -> list[float | None]:
    ranges = [
        max(high - low, abs(high - before[3]), abs(low - before[3]))
        for before, (_, high, low, _, _) in itertools.pairwise(rows)
    ]
    return [None, *wilder(ranges, n)]


def macd(closes: list[float]) -> tuple[list[float | None], list[float | None]]:
    # Both averages begin where the slow one can.
    fast = ema(closes[14:], 12)
    line = [None if f is None or s is None else f - s for f, s in zip([None] * 14 + fast, ema(closes, 26), strict=True)]
    said = [value for value in line if value is not None]
    return line, [None] * 25 + ema(said, 9)


def bollinger(closes: list[float], n: int, k: float, sign: int) -> list[float | None]:
    return [
        None
        if i < n - 1
        else math.fsum(closes[i - n + 1 : i + 1]) / n + sign * k * statistics.pstdev(closes[i - n + 1 : i + 1])
        for i in range(len(closes))
    ]


def vwap(rows: dict[int, list[float]]) -> list[float | None]:
    out: list[float | None] = []
    day, worth, volume = -1, 0.0, 0.0
    for t, (_, high, low, close, size) in rows.items():
        if t // DAY != day:
            day, worth, volume = t // DAY, 0.0, 0.0
        worth, volume = worth + (high + low + close) / 3 * size, volume + size
        out.append(worth / volume)
    return out


async def test_indicators_are_what_their_definitions_say_from_the_first_bar_shown_on(web: Web) -> None:
    rows = await bars(web, "GOLD")
    closes = [row[3] for row in rows.values()]
    line, signal = macd(closes)
    wanted = {
        ("sma", "sma"): sma(closes, 20),
        ("ema", "ema"): ema(closes, 10),
        ("rsi", "rsi"): rsi(closes, 14),
        ("macd", "macd"): line,
        ("macd", "signal"): signal,
        ("macd", "histogram"): [None if s is None or m is None else m - s for m, s in zip(line, signal, strict=True)],
        ("bb", "upper"): bollinger(closes, 20, 2.5, 1),
        ("bb", "middle"): sma(closes, 20),
        ("bb", "lower"): bollinger(closes, 20, 2.5, -1),
        ("atr", "atr"): atr(list(rows.values()), 14),
        ("vwap", "vwap"): vwap(rows),
    }
    asked = "sma,ema:10,rsi:14,macd:12:26:9,bb:20:2.5,atr,vwap"
    for limit in (5000, 60):
        found = await series(web, "GOLD", limit=limit, indicators=asked)
        shown = {(one["name"], line["name"]): line["values"] for one in found["indicators"] for line in one["lines"]}
        assert shown.keys() == wanted.keys()
        for name, values in wanted.items():
            expected = [value if value is None else pytest.approx(value, rel=1e-8, abs=1e-8) for value in values]
            got = shown[name]
            if limit == 5000 and name[0] == "macd":
                expected, got = expected[33:], got[33:]  # which bars of the warm-up are shown is TA-Lib's choice
            assert got == expected[-len(got) :], (name, limit)
        assert [one["parameters"] for one in found["indicators"]][3] == {"fast": 12, "slow": 26, "signal": 9}


async def test_what_an_indicator_says_of_a_bar_does_not_depend_on_the_window(web: Web) -> None:
    asked = "ema:50,rsi:30,macd,atr:20,vwap,bb"
    whole = await series(web, "GOLD", limit=200, indicators=asked)
    for limit in (1, 7, 120):
        some = await series(web, "GOLD", limit=limit, indicators=asked)
        for one, other in zip(some["indicators"], whole["indicators"], strict=True):
            assert [line["values"] for line in one["lines"]] == [line["values"][-limit:] for line in other["lines"]]


@pytest.mark.parametrize(
    ("query", "status", "error"),
    [
        ("expr=GLOD", 404, "expr: no market named 'GLOD'"),
        ("expr=GOLD/GLOD", 404, "expr: no market named 'GLOD'"),
        ("expr=1/2", 400, "expr: expected a symbol on one side at least, got '1/2'"),
        *(
            (
                f"expr=GOLD{constant}",
                400,
                f"expr: expected a number from 1e-100 to 1e100, or as far below 0, got '{got}'",
            )
            for constant, got in (
                ("/0", "0"),
                ("*1e305", "1e305"),
                ("/1e-320", "1e-320"),
                ("-nan", "nan"),
                ("/-inf", "-inf"),
                ("*1.01e100", "1.01e100"),
            )
        ),
        ("", 400, "expr"),
        ("expr=GOLD&resolution=1x", 400, "resolution"),
        (
            "expr=GOLD&indicators=smma",
            400,
            "indicators: expected one of sma, ema, rsi, macd, bb, atr, vwap, got 'smma'",
        ),
        (
            "expr=GOLD&indicators=sma:0",
            400,
            "indicators: sma:PERIOD: period: expected a whole number from 2 to 500, got '0'",
        ),
        ("expr=GOLD&indicators=sma:1:2", 400, "indicators: expected sma:PERIOD at most, got 'sma:1:2'"),
        (
            "expr=GOLD&indicators=macd:26:12",
            400,
            "indicators: macd:FAST:SLOW:SIGNAL: expected FAST below SLOW, got 'macd:26:12'",
        ),
        ("expr=GOLD&indicators=bb:20:x", 400, "deviations: expected a number from 0.1 to 500, got 'x'"),
        ("expr=GOLD&indicators=" + ",".join(["sma"] * 11), 400, "indicators: expected 10 at most, got 11"),
        ("expr=GOLD&from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", 400, "to: expected a time after `from`"),
        ("expr=GOLD&limit=0", 400, "limit"),
    ],
)
async def test_what_is_wrong_is_named(web: Web, query: str, status: int, error: str) -> None:
    answer = await web.get(f"/api/series?{query}")
    assert answer.status_code == status
    assert error in (await answer.get_json())["error"], await answer.get_json()


async def test_nothing_in_the_window_is_an_empty_answer(web: Web) -> None:
    found = await series(web, "GOLD", from_="2020-01-01T00:00:00Z", to="2020-01-02T00:00:00Z", indicators="sma,vwap")
    assert (found["t"], found["c"], found["next"]) == ([], [], None)
    assert [line["values"] for one in found["indicators"] for line in one["lines"]] == [[], []]


async def test_closed_bars_are_revalidated_until_one_of_them_changes(web: Web) -> None:
    path = f"/api/series?expr=GOLD&resolution=1&limit=5&to={(NOW - 100 * MINUTE) * 1000}&indicators=sma:5"
    first = await web.get(path)
    tag = first.headers["ETag"]
    assert (await web.get(path, headers={"If-None-Match": tag})).status_code == 304
    await web.trades((NOW - 107 * MINUTE + 55, 1900, 1))  # not shown, but the first mean depends on it
    again = await web.get(path, headers={"If-None-Match": tag})
    assert again.status_code == 200
    assert (await again.get_json())["indicators"] != (await first.get_json())["indicators"]


class Meanwhile:
    """The engine, with something happening after the first look."""

    def __init__(self, web: Web, *happens: tuple[str, int]) -> None:
        self._web, self._happens = web, list(happens)

    async def window(self, market: Market, *asked: Any) -> Window:
        window = await self._web.stack.engine.window(market, *asked)
        while self._happens:
            symbol, at = self._happens.pop(0)
            await self._web.trades((at, 1900, 1), symbol=symbol)
        return window


async def test_bars_that_were_not_read_at_once_are_not_taken_for_later_ones(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SLICE", 5)
    minute, end = resolution_named("1"), NOW - 100 * MINUTE
    gold = await web.stack.engine.market("GOLD")

    async def looked(*happens: tuple[str, int]) -> Looked:
        return await module.looked_at(Meanwhile(web, *happens), gold, minute, 0, end, 8)

    assert not (await looked()).open_bar
    # The newest slice has been read when both change: the older one's change says nothing of the newest's state.
    torn = await looked(("GOLD", end - 2 * MINUTE + 55), ("GOLD", end - 7 * MINUTE + 55))
    assert torn.open_bar
    assert not (await looked()).open_bar

    both = await module.parsed("GOLD/SILVER", web.stack.engine.market)

    async def combined(*happens: tuple[str, int]) -> Series:
        return await module.series(Meanwhile(web, *happens), both, minute, 0, end, 1, [])

    torn_pair = await combined(("GOLD", end - MINUTE + 55), ("SILVER", end - 2 * MINUTE + 55))
    now = await combined()
    assert torn_pair.bars.close.tolist() != now.bars.close.tolist()
    assert torn_pair.rev != now.rev


# --- volume by price


async def test_a_profile_of_closed_bars_is_revalidated_until_one_of_them_changes(web: Web) -> None:
    path = f"/api/profile?symbol=GOLD&resolution=1&from={(NOW - 90 * MINUTE) * 1000}&to={(NOW - 60 * MINUTE) * 1000}"
    first = await web.get(path)
    tag = first.headers["ETag"]
    assert first.headers["Cache-Control"] == "no-cache"
    assert (await web.get(path, headers={"If-None-Match": tag})).status_code == 304
    await web.trades((NOW - 70 * MINUTE + 55, 1900, 1))
    again = await web.get(path, headers={"If-None-Match": tag})
    assert again.status_code == 200
    assert (await again.get_json())["volumes"] != (await first.get_json())["volumes"]
    assert again.headers["ETag"] != tag
    with_the_open_bar = await web.get("/api/profile?symbol=BTC/USD&resolution=1D")
    assert with_the_open_bar.headers["Cache-Control"] == "no-store"
    assert "ETag" not in with_the_open_bar.headers


async def test_volume_by_price_is_all_of_it_where_it_was_traded(web: Web) -> None:
    await web.market("FLAT")
    await web.trades((NOW - 300, 10, 4), (NOW - 240, 12, 1), (NOW - 239, 14, 3), (NOW - 120, 12.5, 2), symbol="FLAT")
    found = await web.json("/api/profile?symbol=flat&resolution=1&bins=4")
    assert found["prices"] == [10, 11, 12, 13, 14]
    # 4 at 10; 4 spread from 12 to 14; 2 at 12.5
    assert found["volumes"] == [4, 0, 4, 2]
    assert (found["symbol"], found["bars"], found["point_of_control"]) == ("FLAT", 3, 10.5)
    assert found["value_area"] == [10, 13]
    gold = await web.json("/api/profile?symbol=GOLD&resolution=1&bins=37")
    assert math.fsum(gold["volumes"]) == pytest.approx(math.fsum(row[4] for row in (await bars(web, "GOLD")).values()))
    one = await web.json("/api/profile?symbol=BTC/USD&resolution=1")
    assert (one["prices"], one["volumes"], one["value_area"]) == ([64000, 64000], [1], [64000, 64000])
    empty = await web.json("/api/profile?symbol=GOLD&to=2020-01-01T00:00:00Z")
    assert (empty["bars"], empty["prices"], empty["point_of_control"], empty["value_area"]) == (0, [], None, None)
    assert (await web.get("/api/profile?symbol=GOLD&bins=0")).status_code == 400
    assert (await web.get("/api/profile?symbol=GLOD")).status_code == 404
