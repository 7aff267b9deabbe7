"""Finished bars: whatever is said and in whatever order, each bucket has what its events and bars come to."""

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from actors import ring
from actors.decode import BARS
from actors.intake import IngestAnswer
from daemon.stack import Stack
from storage.calendar import DAY, MICROS, ONE_DAY, Calendar, parse, rung
from storage.records import PRICE_SOURCES
from storage.schema import RUNGS
from tests import oracle
from tests.histories import COUNT_ALL, PLACES, Model, Request, Row, label, read, requests, times, wired
from tests.oracle import Candle, Finished
from tests.stacks import JSON, NOON, flush, removed, running, say, trade
from tests.test_histories import EVERY, PHASES, History, Life, lived, resolutions, symbols, turns
from tests.test_verify import clean

NAMES = {1: "1s", 60: "1m", 300: "5m", 900: "15m", 3600: "1h", DAY: "1d"}


class Said(Struct, frozen=True):
    """A finished bar as a producer sends it, or takes it back."""

    market: str
    length: int
    time: int  # seconds; of a day 00:00 UTC of its date
    prices: tuple[str, str, str, str] | None  # None: something happened, and no price was set
    volume: str
    trades: int
    removed: bool = False

    def sent(self) -> dict[str, object]:
        """The object that goes over the wire."""
        prices = () if self.prices is None else zip(("open", "high", "low", "close"), self.prices, strict=True)
        return {
            "market_symbol": self.market,
            "resolution": NAMES[self.length],
            "timestamp": self.time * 1000,
            **({"removed": True} if self.removed else {}),
            **dict(prices),
            "volume": self.volume,
            "trades_count": self.trades,
        }

    def at(self, pos: int) -> Finished:
        """The bar as the oracle has it."""
        begins, ends = self.time * MICROS, (self.time + self.length) * MICROS
        if self.length == DAY:
            days = PLACES[self.market].days
            zone = "Etc/UTC" if days.zone == "UTC" else days.zone
            begins, ends = Calendar.parse(days.session, zone).span(ONE_DAY, self.time)
        prices: tuple[float | None, ...] = (None,) * 4
        if self.prices is not None:
            prices = tuple(float(price) for price in self.prices)
        open_, high, low, close = prices
        return Finished(
            pos=pos,
            rung=self.length,
            begins=begins,
            ends=ends,
            measures={
                "high": high,
                "low": low,
                "volume": oracle.units(Decimal(self.volume)),
                "trades_count": self.trades,
            },
            firsts={} if open_ is None else {"open": open_},
            lasts={} if close is None else {"close": close},
        )


class BarRequest(Struct, frozen=True):
    """Finished bars that come together."""

    words: tuple[Said, ...]
    look: bool


class BarModel(Model):
    """What has been said so far, bars included."""

    def __init__(self) -> None:
        super().__init__()
        self._finished: dict[tuple[str, int, int], tuple[int, Said]] = {}

    def take_bars(self, words: Sequence[Said]) -> Counter[str]:
        seq = self.seq + 1
        counts = Counter(COUNT_ALL)
        stands = {who: said for who, (_, said) in self._finished.items()}
        new: dict[tuple[str, int, int], int] = {}
        kept: set[int] = set()
        gone = set()
        for number, word in enumerate(words):
            who = word.market, word.length, word.time
            before = stands.get(who)
            if word.removed:
                counts["unknown" if before is None else "retracted"] += 1
            elif before is not None and before == word:
                counts["duplicates"] += 1
                continue
            else:
                counts["accepted" if before is None else "corrected"] += 1
            if before is not None:
                gone.add(who)
                kept.discard(new.pop(who, -1))
                del stands[who]
            if not word.removed:
                stands[who] = word
                new[who] = number
                kept.add(number)
        changed = bool(kept) or any(who in self._finished for who in gone)
        for who in gone:
            self._finished.pop(who, None)
        rows = {number: row for row, number in enumerate(sorted(kept))}
        for who, number in new.items():
            self._finished[who] = seq << 24 | rows[number], words[number]
        if changed:
            self.seq = seq
        return counts

    def candles(self, market: str, resolution: str) -> dict[int, Candle]:
        """What each bucket comes to."""
        place = PLACES[market]
        sources = place.sources or PRICE_SOURCES[place.kind]
        bars = [said.at(pos) for (symbol, _, _), (pos, said) in self._finished.items() if symbol == market]
        return oracle.with_bars(
            place.kind,
            self.events(market),
            bars,
            rung(parse(resolution)),
            lambda ts: label(resolution, place.days, ts),
            sources,
        )

    def bars(self, market: str, resolution: str) -> list[Row]:
        return [
            (
                t,
                wired(candle["open"][1]),
                wired(candle["high"]),
                wired(candle["low"]),
                wired(candle["close"][1]),
                wired(float(Fraction(candle["volume"], 10**18))),
                candle["trades_count"],
            )
            for t, candle in sorted(self.candles(market, resolution).items())
            if candle["open"] is not None
        ]


class BarLife(Life):
    """A history with finished bars in it."""

    def __init__(self, streams: list[tuple[str, str]], slow: int) -> None:
        super().__init__(streams, slow)
        self.model: BarModel = BarModel()

    async def say(self, stack: Stack, request: Any) -> None:
        """One request of events, or of bars; it is answered as the model says."""
        if isinstance(request, Request):
            await super().say(stack, request)
            return
        expected = self.model.take_bars(request.words)
        body = json.dumps([word.sent() for word in request.words]).encode()
        answer = msgspec.json.decode(await stack.intake.submit(body, JSON, form=BARS), type=IngestAnswer)
        assert answer.rejected == []
        assert {name: getattr(answer, name) for name in expected} == expected


async def put(stack: Stack, *bars: Mapping[str, object]) -> IngestAnswer:
    """Say finished bars of the market M; its minutes count from NOON."""
    words = [
        {"market_symbol": "M", "resolution": "1h", "timestamp": NOON * 1000, "volume": 10, **bar}
        | {name: bar.get(name, 5) for name in ("open", "high", "low", "close")}
        for bar in bars
    ]
    return msgspec.json.decode(
        await stack.intake.submit(json.dumps(words).encode(), JSON, form=BARS), type=IngestAnswer
    )


HOUR_BAR, MINUTE = (NOON, 5.0, 5.0, 5.0, 5.0, 10.0, 0), (NOON + 600) * 1000


async def test_events_win_over_bars_and_shorter_bars_over_longer_ones_until_they_are_taken_back(tmp_path: Path) -> None:
    async with running(tmp_path / "data") as stack:
        assert (await put(stack, {}, {"timestamp": (NOON + 3600) * 1000})).accepted == 2
        assert await read(stack, "M", "60") == [HOUR_BAR, (NOON + 3600, *HOUR_BAR[1:])]
        assert await read(stack, "M", "5") == []
        assert [row[5] for row in await read(stack, "M", "240")] == [20.0]
        # A shorter bar, and within that an event; what they do not cover stays as it was.
        await put(stack, {"resolution": "1m", "timestamp": MINUTE, "open": 7, "high": 7, "low": 7, "close": 7})
        assert await read(stack, "M", "1") == [(NOON + 600, 7, 7, 7, 7, 10, 0)]
        assert await read(stack, "M", "60") == [(NOON, 7, 7, 7, 7, 10, 0), (NOON + 3600, *HOUR_BAR[1:])]
        await say(stack, trade(610, 8, 2, "M", trade_id=1))
        assert await read(stack, "M", "1") == [(NOON + 600, 8, 8, 8, 8, 2, 1)]
        assert (await read(stack, "M", "60"))[0] == (NOON, 8, 8, 8, 8, 2, 1)
        assert [row[5] for row in await read(stack, "M", "240")] == [12.0]
        # Back again, one after the other.
        await say(stack, removed(1, "M"))
        assert (await read(stack, "M", "60"))[0] == (NOON, 7, 7, 7, 7, 10, 0)
        taken = await put(stack, {"resolution": "1m", "timestamp": MINUTE, "removed": True})
        assert taken.retracted == 1
        assert (await read(stack, "M", "60"))[0] == HOUR_BAR
        assert await read(stack, "M", "1") == []
        # The same bar is known; another content corrects it.
        assert (await put(stack, {})).duplicates == 1
        assert (await put(stack, {"volume": 11})).corrected == 1
        assert (await read(stack, "M", "60"))[0] == (*HOUR_BAR[:5], 11.0, 0)
        await flush(stack)
        await clean(stack)


async def test_events_that_set_no_price_leave_bars_what_they_are(tmp_path: Path) -> None:
    async with running(tmp_path / "data", create="perp") as stack:
        await say(stack, trade(1, 3, 1, "M"))
        await put(stack, {"timestamp": (NOON + 3600) * 1000})
        await say(
            stack, {**trade(3700, 1, 1, "M"), "event_type": "FundingRateUpdated", "price": None, "funding_rate": 1}
        )
        assert (await read(stack, "M", "60"))[1] == (NOON + 3600, *HOUR_BAR[1:])


async def test_a_bar_without_prices_is_none_and_counts_in_longer_ones(tmp_path: Path) -> None:
    nothing = dict.fromkeys(("open", "high", "low", "close"))
    async with running(tmp_path / "data") as stack:
        await put(stack, {"resolution": "1m"}, {"resolution": "1m", "timestamp": MINUTE, "volume": 3, **nothing})
        assert await read(stack, "M", "1") == [HOUR_BAR]
        assert await read(stack, "M", "60") == [(*HOUR_BAR[:5], 13.0, 0)]
        await put(stack, {"resolution": "1m", "timestamp": MINUTE, "removed": True})
        assert await read(stack, "M", "60") == [HOUR_BAR]
        wrong = await put(
            stack,
            {"resolution": "1m", "timestamp": MINUTE, **nothing, "volume": 0},
            {"resolution": "1m", "timestamp": MINUTE, **nothing, "open": 5},
        )
        assert [one.error for one in wrong.rejected] == [
            "open: expected a price > 0, or a volume or another measure of what happened without one, got nothing",
            "high: expected a price > 0, got nothing",
        ]
        await flush(stack)
        await clean(stack)


async def test_what_is_sealed_and_made_again_says_the_same(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with running(data) as stack:
        await put(stack, *({"timestamp": (NOON + 3600 * i) * 1000, "volume": i} for i in range(50)))
        await say(stack, [trade(3600 * i + 5, i + 1, 1, "M", trade_id=i) for i in range(0, 50, 3)])
        await put(stack, *({"timestamp": (NOON + 3600 * i) * 1000, "volume": 7} for i in range(0, 50, 7)))
        await say(stack, [removed(i, "M") for i in range(0, 50, 9)])
        await flush(stack)
        await stack.sealing.run()
        expected = [await read(stack, "M", each) for each in EVERY]
        await clean(stack)
    (data / "candles.duckdb").unlink()
    async with running(data) as stack:
        assert [await read(stack, "M", each) for each in EVERY] == expected
        await clean(stack)


@st.composite
def bars(draw: st.DrawFn) -> Said:
    market = draw(st.sampled_from(sorted(PLACES)))
    length = draw(st.sampled_from(RUNGS))
    at = draw(times)
    time = label("1D", PLACES[market].days, at) if length == DAY else at // MICROS // length * length
    prices = draw(st.sampled_from([("7", "9", "5", "8"), ("0.1", "0.3", "0.1", "0.2"), ("2000.5",) * 4, None]))
    volume = draw(st.sampled_from(["0", "0.1", "3.000000000000000001"]))
    removed = draw(st.integers(0, 4)) == 0
    trades = draw(st.integers(0 if prices is not None or volume != "0" else 1, 2))
    return Said(market, length, time, prices, volume, trades, removed)


phases = st.lists(
    st.one_of(
        requests(),
        st.builds(
            lambda words, look: [BarRequest(tuple(words), look)],
            st.lists(bars(), min_size=1, max_size=6),
            st.booleans(),
        ),
    ),
    min_size=1,
    max_size=3,
).map(lambda some: [request for each in some for request in each])


@pytest.mark.parametrize("small", [True, False], ids=["small rings", "usual rings"])
def test_bars_are_the_oracles_whatever_is_said_and_whatever_happens(
    empty: Path, small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if small:
        for each in RUNGS:
            monkeypatch.setitem(ring.SIZES, each, 6)

    @settings(max_examples=2, phases=PHASES)  # the first of them is the simplest
    @given(
        history=st.lists(st.tuples(phases, turns), min_size=1, max_size=4),
        streams=st.lists(st.tuples(symbols, resolutions), max_size=3, unique=True),
        some=st.lists(resolutions, max_size=3, unique=True),
    )
    def check(history: History, streams: list[tuple[str, str]], some: list[str]) -> None:
        with TemporaryDirectory(dir=empty.parent) as folder:
            data = Path(folder) / "data"
            shutil.copytree(empty, data)
            trio.run(lived, data, BarLife(streams, 0), history, some, [])

    check()
