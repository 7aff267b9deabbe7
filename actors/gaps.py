"""Stretches of a market's past without a bar, and why: nothing was traded, its feed was down, or nobody brought it yet.

They are worked out from the bars as they are and from what feeds and imports say, whenever somebody asks: so a gap that
is filled later is gone. Closed hours are no gap, and neither is what a feed that reports has not reached yet.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Literal, Protocol

import numpy as np
from msgspec import Struct

from actors.coverage import Known
from actors.reading import GRACE, MOST, Window
from storage.calendar import MICROS, Calendar, Resolution
from storage.records import Market
from storage.spans import Span, Spans, common, union, without

Why = Literal["no_trade", "feed_down", "not_imported"]

BARS = 50_000  # that one question looks at
FIRST = 128  # of them at a time; more, where there are hardly any gaps


class Gap(Struct, frozen=True):
    """A stretch without a bar, µs."""

    low: int
    high: int
    why: Why
    feeds: list[str]  # that saw nothing happen, or were down


class Gaps(Struct, frozen=True):
    """Gaps, the newest first."""

    gaps: list[Gap]
    known: list[Known]
    following: int | None  # older ones end at this instant, or before


class Bars(Protocol):
    """What is asked of the engine."""

    async def window(
        self, market: Market, resolution: Resolution, start: int, end: int, count: int | None = None
    ) -> Window: ...


class Ledger(Protocol):
    """What is asked of the ledger of feeds."""

    async def known(self, market: int, low: int, high: int) -> list[Known]: ...


async def gaps(
    bars: Bars, ledger: Ledger, market: Market, resolution: Resolution, low: int, high: int, now: int, limit: int
) -> Gaps:
    """The `limit` newest gaps of a market at a resolution with low ≤ t < high, up to the newest bar that is over (µs).

    Of a market that is no longer active they end with its last bar. It looks at `BARS` bars at most; `following` says
    where to ask on.
    """
    calendar = Calendar.parse(market.session, market.timezone)
    # The bar of this instant may still come.
    current = _label(calendar, resolution, now - round(GRACE * MICROS))
    high = min(high, calendar.start_instant(resolution, current) * MICROS)
    if not market.is_active:
        edge = int(calendar.next(resolution, np.array([current]))[0])
        last = (await bars.window(market, resolution, edge, edge, 1)).time
        high = min(high, calendar.end_instant(resolution, last[-1]) * MICROS) if last else low
    if low >= high:
        return Gaps([], [], None)
    known = await ledger.known(market.slot, low, high)
    found: list[Gap] = []
    looked = Looked(high)
    async with aclosing(_empty(bars, market, calendar, resolution, low, high, looked)) as stretches:
        async for stretch in stretches:
            for gap in _told(known, stretch):
                found.append(gap)
                if len(found) == limit:
                    return Gaps(found, known, gap.low if gap.low > low else None)
    return Gaps(found, known, looked.down_to if looked.down_to > low else None)


class Looked(Struct):
    """How far a search has come: there are no other gaps from here on (µs)."""

    down_to: int


async def _empty(
    bars: Bars, market: Market, calendar: Calendar, resolution: Resolution, low: int, high: int, looked: Looked
) -> AsyncGenerator[Span, None]:
    """The stretches of trading hours without a bar, the newest first."""
    last = _label(calendar, resolution, high - 1)
    edge = int(calendar.next(resolution, np.array([last]))[0])
    count, read = FIRST, 0
    while read < BARS:
        # Counting back from the edge costs the same whether bars are many or few and far between.
        times = np.array((await bars.window(market, resolution, edge, edge, count)).time, np.int64)
        labels = np.append(times, edge)
        for i in np.flatnonzero(calendar.next(resolution, times) < labels[1:])[::-1].tolist():
            begin = calendar.end_instant(resolution, int(labels[i])) * MICROS
            end = calendar.start_instant(resolution, int(labels[i + 1])) * MICROS
            begin, end = max(begin, low), min(end, high)
            if begin < end:
                for a, b in calendar.trading(begin // MICROS, -(-end // MICROS)):
                    yield max(a * MICROS, begin), min(b * MICROS, end)
        if len(times) < count or calendar.end_instant(resolution, int(times[0])) * MICROS <= low:
            looked.down_to = low  # what comes before the first bar is no gap
            return
        edge, read = int(times[0]), read + len(times)
        looked.down_to = calendar.start_instant(resolution, edge) * MICROS
        count = min(4 * count, MOST)


def _label(calendar: Calendar, resolution: Resolution, at: int) -> int:
    """The bar that an instant belongs to."""
    t = np.array([at // MICROS]) if resolution.intraday else calendar.day(np.array([at]))
    return int(calendar.bucket(resolution, t)[0])


def _told(known: list[Known], stretch: Span) -> list[Gap]:
    """Why there is no bar, the newest part first."""
    whole = [stretch]
    seen = common(whole, union(*(one.up for one in known)))
    rest = without(whole, seen)
    rest = without(rest, union(*(one.pending for one in known)))
    down = common(rest, union(*(one.down for one in known)))
    gaps = [Gap(low, high, "no_trade", _named(known, "up", (low, high))) for low, high in seen]
    gaps += [Gap(low, high, "feed_down", _named(known, "down", (low, high))) for low, high in down]
    gaps += [Gap(low, high, "not_imported", []) for low, high in without(rest, down)]
    return sorted(gaps, key=lambda gap: -gap.low)


def _named(known: list[Known], which: Literal["up", "down"], span: Span) -> list[str]:
    """The feeds that were up or down at some time of a span."""
    spans: dict[str, Spans] = {one.feed: one.up if which == "up" else one.down for one in known}
    return [name for name, some in spans.items() if common(some, [span])]
