"""Sliding windows of one market: what they show is what a slow look at all its trades shows."""

import itertools
import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from actors import candle, fold, ticker, vamm
from actors.candle import Row
from actors.ticker import DAY, HOUR, MINUTE, SECONDS, LastPrice, Price, Ticker
from storage.calendar import MICROS
from storage.events import EVENT_CODE, PRICE_CODE, Events

NOON = 1_700_049_600
SOURCES = np.array([0, 1 << PRICE_CODE["trade"]])


class Traded(NamedTuple):
    """A trade of a perpetual, some seconds after NOON."""

    second: int
    price: float  # 0: none
    volume: float
    trader: int  # 0: nobody
    funding: float | None


def rows_of(trades: list[Traded], first: int, kind: str) -> Sequence[Row]:
    """What one commit hands to a market."""
    n = len(trades)
    events = Events(
        n,
        {
            "market": np.ones(n, np.int32),
            "ts": np.array([(NOON + one.second) * MICROS for one in trades]),
            "event": np.full(n, EVENT_CODE["Trade"], np.uint8),
            "price_type": np.full(n, PRICE_CODE["trade"], np.uint8),
            "price": np.array([one.price for one in trades]),
            "volume": np.array([one.volume for one in trades]),
            "trader": np.array([one.trader for one in trades], np.uint64),
            "funding_rate": np.array([math.nan if one.funding is None else one.funding for one in trades]),
            "pos": np.arange(first, first + n),
        },
    )
    return candle.rows(fold.fold(vamm.inputs(kind, events, SOURCES)))


def slow(trades: list[Traded], now: int) -> dict[str, Any]:
    """The windows from all trades, in the order of time and arrival."""
    some = sorted(enumerate(trades), key=lambda pair: (pair[1].second, pair[0]))
    told = [one for _, one in some]
    minute = now - now % MINUTE

    def since(start: int) -> list[Traded]:
        return [one for one in told if NOON + one.second >= start]

    def last(end: int) -> float | None:
        return next((one.price for one in reversed(told) if one.price and NOON + one.second < end), None)

    day, hour = since(minute - DAY + MINUTE), since(minute - HOUR + MINUTE)
    closes: dict[int, float] = {(NOON + one.second) // MINUTE: one.price for one in day if one.price}
    before = last(minute - DAY + MINUTE)
    path = ([] if before is None else [before]) + list(closes.values())
    returns = [math.log(b / a) for a, b in itertools.pairwise(path)]
    prices = [one.price for one in day if one.price]
    funding = [one.funding for one in day if one.funding is not None]
    return {
        "time": now,
        "price": last(2**60),
        "price_1h_ago": last(minute - HOUR + MINUTE),
        "price_24h_ago": before,
        "high_24h": max(prices, default=None),
        "low_24h": min(prices, default=None),
        "volume_1m": math.fsum(one.volume for one in since(now - 59)),
        "volume_5m": math.fsum(one.volume for one in since(now - 299)),
        "volume_1h": math.fsum(one.volume for one in hour),
        "volume_24h": math.fsum(one.volume for one in day),
        "turnover_24h": math.fsum(one.price * one.volume for one in day),
        "trades_24h": len(day),
        "volatility_24h": 100 * math.sqrt(math.fsum(r * r for r in returns)) if returns else None,
        "active_traders_1h": len({one.trader for one in hour if one.trader}),
        "active_traders_24h": len({one.trader for one in day if one.trader}),
        "funding_rate": funding[-1] if funding else None,
        "open_interest": None,
    }


def same(found: Price, expected: dict[str, Any]) -> None:
    for name, value in expected.items():
        got = getattr(found, name)
        assert got == (value if value is None else pytest.approx(value, rel=1e-12, abs=1e-9)), name


SPAN = 3 * DAY
trades = st.builds(
    Traded,
    st.one_of(st.integers(0, SPAN), st.integers(DAY - 400, DAY + 100), st.integers(0, 300).map(lambda n: n * 7)),
    st.sampled_from([0.0, 1.5, 2.0, 3.25, 100.0]),
    st.sampled_from([0.1, 0.2, 0.3, 5.0]),
    st.integers(0, 4),
    st.sampled_from([None, None, 0.01, -0.02]),
)


@given(st.lists(st.lists(trades, min_size=1, max_size=8), min_size=1, max_size=12), st.booleans(), st.data())
def test_windows_are_what_a_slow_look_at_all_trades_shows(
    commits: list[list[Traded]], ordered: bool, data: st.DataObject
) -> None:
    if ordered:
        flat = iter(sorted((one for some in commits for one in some), key=lambda one: one.second))
        commits = [[next(flat) for _ in some] for some in commits]
    live = Ticker("perp", sure=True)
    said: list[Traded] = []
    now = NOON
    for some in commits:
        for row in rows_of(some, len(said), "perp"):
            live.add(row)
        said += some
        now = max(now, NOON + max(one.second for one in said) - data.draw(st.integers(0, 300)))
        if data.draw(st.booleans()):
            live.tidy(now)
        if live.sure:
            same(live.price(now), slow(said, now))
    if ordered:
        assert live.sure
    now += data.draw(st.sampled_from([0, 1, 59, 60, 299, 300, HOUR, DAY, DAY + 60]))
    if live.sure:
        same(live.price(now), slow(said, now))
    filled = Ticker("perp", sure=False)
    fill(filled, said, now)
    assert filled.sure
    same(filled.price(now), slow(said, now))


def fill(into: Ticker, said: list[Traded], now: int) -> None:
    """As after a restart: from bars of a minute and of a second."""
    seconds = rows_of(said, 0, "perp")
    table = candle.table("perp", 1, seconds)
    minutes = fold.rolled(table, lambda t: t - t % MINUTE)
    since = ticker.last_day(now)
    into.fill(
        minutes.take(minutes["t"] >= since), table.take(table["t"] > now - 300), minutes.take(minutes["t"] < since)
    )


def test_what_is_kept_is_bounded_however_long_it_goes_on() -> None:
    live = Ticker("perp", sure=True)
    sizes = []
    for day in range(4):
        for minute in range(0, 1440, 3):
            second = day * DAY + minute * 60
            for row in rows_of(
                [Traded(second + n, 1 + n, 1, day * 5000 + minute + n, None) for n in (0, 7)], 0, "perp"
            ):
                live.add(row)
        sizes.append(live.nbytes())
    assert sizes[-1] <= sizes[1] * 1.1
    live.tidy(NOON + 5 * DAY)
    assert live.empty
    quiet = live.price(NOON + 5 * DAY)
    assert (quiet.price, quiet.price_24h_ago, quiet.volume_24h, quiet.trades_24h) == (8, 8, 0, 0)
    assert (quiet.high_24h, quiet.active_traders_24h) == (None, 0)


def test_of_very_many_traders_a_sample_stands_for_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ticker, "TRADERS", 4096)
    seen = ticker.Traders()
    chance = np.random.default_rng(5)
    hashes = chance.permutation(np.unique(chance.integers(1, 2**64 - 1, 40_000, np.uint64))).tolist()
    for t in range(0, len(hashes), 100):
        seen.add(t, hashes[t : t + 100])
        seen.tidy(-1)
    assert len(seen) <= 4096
    assert abs(seen.count(-1) / len(hashes) - 1) < 5 / math.sqrt(2048)
    assert abs(seen.count(20_000) / (len(hashes) - 20_000) - 1) < 5 / math.sqrt(1024)


def test_volatility_is_the_root_of_the_sum_of_squared_returns() -> None:
    closes = [100.0, 101.0, 99.0, 99.0, 102.5]
    returns = [math.log(b / a) for a, b in itertools.pairwise(closes)]
    found = ticker.volatility(None, np.array([*closes[:2], math.nan, *closes[2:]]))
    assert found == pytest.approx(100 * math.sqrt(statistics.fmean(r * r for r in returns) * len(returns)))
    assert ticker.volatility(None, np.array([100.0])) is None
    assert ticker.volatility(100.0, np.array([100.0])) == 0


def test_the_newest_price_keeps_its_second_and_volume_while_the_windows_slide_on() -> None:
    one = Ticker("perp", sure=True)
    assert one.tick() is None
    trades = [(5, 100.0, 2.0), (5, 101.0, 3.0), (4, 99.0, 7.0), (9, 0.0, 4.0)]
    said = [Traded(*trade, 0, None) for trade in trades]
    for row in rows_of(said, 0, "perp"):
        one.add(row)
    newest = LastPrice(NOON + 5, 101, 5)
    assert one.tick() == newest
    for later in (NOON + 10, NOON + SECONDS + 10, NOON + HOUR):
        one.tidy(later)
        assert one.tick() == newest


def told(price: Price) -> Price:
    """A price without the second that it is of."""
    return structs.replace(price, time=0)


def test_windows_move_by_the_second_for_five_minutes_after_a_trade_and_by_the_minute_then() -> None:
    one = Ticker("perp", sure=True)
    assert one.moves(NOON + 7) == NOON + MINUTE
    for row in rows_of([Traded(0, 100, 2, 0, None)], 0, "perp"):
        one.add(row)
    now = NOON + 7
    while now < NOON + DAY + 2 * MINUTE:
        then = one.moves(now)
        before = one.price(now)
        for between in range(now, then, 7):
            assert told(one.price(between)) == told(before), between - NOON
        now = then
    assert one.price(now).volume_24h == 0
