"""Finished bars: whatever is said and in whatever order, each bucket has what its events and bars come to."""

import json
import shutil
from collections import Counter
from collections.abc import Sequence
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
from tests.histories import COUNT_ALL, PLACES, Model, Request, Row, label, requests, times, wired
from tests.oracle import Candle, Finished
from tests.stacks import JSON
from tests.test_histories import EXAMPLES, PHASES, History, Life, lived, resolutions, symbols, turns
from tests.test_histories import empty as empty

NAMES = {1: "1s", 60: "1m", 300: "5m", 900: "15m", 3600: "1h", DAY: "1d"}


class Said(Struct, frozen=True):
    """A finished bar as a producer sends it, or takes it back."""

    market: str
    length: int
    time: int  # seconds; of a day 00:00 UTC of its date
    prices: tuple[str, str, str, str]
    volume: str
    trades: int
    removed: bool = False

    def sent(self) -> dict[str, object]:
        """The object that goes over the wire."""
        open_, high, low, close = self.prices
        return {
            "market_symbol": self.market,
            "resolution": NAMES[self.length],
            "timestamp": self.time * 1000,
            **({"removed": True} if self.removed else {}),
            "open": open_,
            "high": high,
            "low": low,
            "close": close,
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
        open_, high, low, close = (float(price) for price in self.prices)
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
            firsts={"open": open_},
            lasts={"close": close},
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

    async def live(self, stack: Stack, phase: Sequence[Any]) -> None:
        for request in phase:
            if isinstance(request, Request):
                await super().live(stack, [request])
                continue
            expected = self.model.take_bars(request.words)
            body = json.dumps([word.sent() for word in request.words]).encode()
            answer = msgspec.json.decode(await stack.intake.submit(body, JSON, form=BARS), type=IngestAnswer)
            assert answer.rejected == []
            assert {name: getattr(answer, name) for name in expected} == expected
            if request.look:
                await self.same_charts(stack)
                self.past += [chart.copy() for chart in self.charts[self.slow :]]


@st.composite
def bars(draw: st.DrawFn) -> Said:
    market = draw(st.sampled_from(sorted(PLACES)))
    length = draw(st.sampled_from(RUNGS))
    at = draw(times)
    time = label("1D", PLACES[market].days, at) if length == DAY else at // MICROS // length * length
    prices = draw(st.sampled_from([("7", "9", "5", "8"), ("0.1", "0.3", "0.1", "0.2"), ("2000.5",) * 4]))
    volume = draw(st.sampled_from(["0", "0.1", "3.000000000000000001"]))
    removed = draw(st.integers(0, 4)) == 0
    return Said(market, length, time, prices, volume, draw(st.integers(0, 2)), removed)


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

    @settings(max_examples=EXAMPLES // (8 if small else 25), phases=PHASES)
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
