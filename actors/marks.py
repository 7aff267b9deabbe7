"""What a chart marks on a market's bars: liquidations, large trades, changes of the funding rate, gaps, own marks."""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Struct, structs

from actors import gaps
from actors.gaps import Gap, Ledger, Why
from actors.reading import MOST, Window
from actors.rounds import Round
from actors.words import iso
from storage import marks, notable
from storage.calendar import DAY, MICROS, ONE_DAY, Calendar, Resolution
from storage.events import Array
from storage.listing import Unflushed
from storage.marks import Border, Place
from storage.notable import FUNDING, LIQUIDATION, Large
from storage.records import Market

What = Literal["own", "liquidation", "trade", "funding", "gap"]
ORDER: tuple[What, ...] = ("own", "liquidation", "trade", "funding", "gap")  # which go first where there are many

LARGE = 20.0  # times the mean trade of its trading day
QUIET = 10  # missing bars that are worth a mark, where no feed is down
FUNDING_INTERVAL = 28_800  # seconds, of a market that does not say
PER_BAR = 10  # marks; a chart shows no more
MOST_MARKS = 2_000  # in one answer, the newest
MOST_GAPS = 500
SIDES = {1: "buy", 0: "sell"}
POSITIONS = {1: "long", 0: "short"}
GAPS: dict[Why, tuple[str, str | Border]] = {
    "no_trade": ("No trades", Border("#9e9e9e", "#eeeeee")),
    "feed_down": ("Feed down", "red"),
    "not_imported": ("Not imported", "yellow"),
}
NAMED = 5  # feeds in a text

Read = Callable[..., Awaitable[Any]]


class Mark(Struct, frozen=True):
    """Something that happened at an instant, and the bar that it is shown at."""

    id: str
    what: What
    at: int  # µs
    text: str
    label: str
    color: str | Border
    weight: float = 0.0  # the heavier ones are shown where there are many
    time: int = 0  # of the bar, seconds


class Bars(Protocol):
    """What is asked of the engine."""

    async def window(
        self, market: Market, resolution: Resolution, start: int, end: int, count: int | None = None
    ) -> Window: ...


class Holding(Protocol):
    """What is asked of the writer."""

    @property
    def rounds(self) -> Sequence[Round]: ...


class Marker:
    """Finds the marks of a stretch of a chart, whatever they come from."""

    def __init__(self, engine: Bars, writer: Holding, ledger: Ledger, read: Read, in_state: Read) -> None:
        """`read(work, …)` runs `work(snapshot of the database, …)` on a thread, and so `in_state` `work(state, …)`."""
        self._engine, self._writer, self._ledger = engine, writer, ledger
        self._read, self._in_state = read, in_state

    async def on_bars(self, market: Market, resolution: Resolution, start: int, end: int, now: int) -> list[Mark]:
        """The marks of the bars with start ≤ t ≤ end (seconds), ascending; `now` is in µs.

        Where there are too many, the newest bars'.
        """
        return await self._marks(market, resolution, start, end, now, "bars")

    async def on_timescale(self, market: Market, resolution: Resolution, start: int, end: int, now: int) -> list[Mark]:
        """As `on_bars`, without what trades say."""
        return await self._marks(market, resolution, start, end, now, "timescale")

    async def put(self, market: Market, mark: marks.Mark) -> marks.Mark:
        """Keep somebody's own mark; the same with its id. Conflict where there are too many."""
        kept: marks.Mark = await self._in_state(marks.put, market.slot, mark)
        return kept

    async def delete(self, market: Market, which: int) -> bool:
        """Delete an own mark; whether there was one."""
        return bool(await self._in_state(marks.delete, market.slot, which))

    async def page(self, market: Market, before: int, limit: int) -> list[marks.Mark]:
        """The own marks that were made before this one (an id), the newest first."""
        found: list[marks.Mark] = await self._in_state(marks.page, market.slot, before, limit)
        return found

    async def _marks(
        self, market: Market, resolution: Resolution, start: int, end: int, now: int, place: Place
    ) -> list[Mark]:
        # There are no bars beyond; and calendars need not reckon with years that nobody has seen.
        end = min(end, now // MICROS + 2 * max(DAY, resolution.seconds))
        if start > end:
            return []
        window = await self._engine.window(market, resolution, start, end + 1)
        if not window.time:
            return []
        bars = Stretch(market, resolution, np.array(window.time, np.int64), end)
        events, rate = await self._events(bars)
        found = [*_funding(bars, events, rate), *await self._gaps(bars, now), *await self._own(bars, place)]
        if place == "bars":
            found += _trades(bars, events)
        return bars.chosen(found)

    async def _events(self, bars: "Stretch") -> tuple[pa.Table, float | None]:
        """The notable events of a stretch, and the funding rate before it."""
        market, calendar = bars.market, bars.calendar
        first, last = (int(calendar.day(np.array([at]))[0]) for at in (bars.low, bars.high - 1))
        days = await self._engine.window(market, ONE_DAY, first, last + 1, min(MOST, (last - first) // DAY + 1))
        mean = np.array(days.volume, np.float64) / np.maximum(np.array(days.trades, np.float64), 1.0)
        since = [calendar.start_instant(ONE_DAY, t) * MICROS for t in days.time]
        large = Large(np.array([0, *since], np.int64), np.array([np.inf, *(LARGE * mean)]))
        waiting = [
            Unflushed(some.last, some.events, [dead.pos for _, dead in some.dead]) for some in self._writer.rounds
        ]
        found: pa.Table = await self._read(notable.within, waiting, market.slot, bars.low, bars.high, large)
        rated = found.filter(pc.equal(found.column("event"), FUNDING))
        rate = None
        if rated.num_rows:  # what it was before tells whether the first one is a change
            first = rated.column("ts")[0].as_py()
            back = 2 * (market.funding_interval or FUNDING_INTERVAL) * MICROS
            rate = await self._read(notable.rate_before, waiting, market.slot, max(0, first - back), first)
        return found, rate

    async def _gaps(self, bars: "Stretch", now: int) -> list[Mark]:
        found = await gaps.gaps(
            self._engine, self._ledger, bars.market, bars.resolution, bars.low, bars.high, now, MOST_GAPS
        )
        # Where nobody says what they saw, a chart need not be full of that.
        down = [gap for gap in found.gaps if gap.why == "feed_down"]
        quiet = QUIET * bars.resolution.seconds * MICROS
        long = [gap for gap in found.gaps if gap.why != "feed_down" and gap.high - gap.low >= quiet]
        return [_gap(gap) for gap in (*down, *(long if found.known else ()))]

    async def _own(self, bars: "Stretch", place: Place) -> list[Mark]:
        found = await self._in_state(marks.between, bars.market.slot, place, bars.low, bars.high, MOST_MARKS)
        return [Mark(f"m{mark.id}", "own", mark.at, mark.text, mark.label, mark.color) for mark in found]


class Stretch:
    """Bars of a chart that are side by side, and which of them an instant belongs to."""

    def __init__(self, market: Market, resolution: Resolution, times: Array, end: int) -> None:
        """`times` are those of the bars, ascending; `end` is the last second of the stretch."""
        self.market, self.resolution = market, resolution
        self.calendar = Calendar.parse(market.session, market.timezone)
        self._times = times
        last = max(end if resolution.intraday else end // DAY * DAY, int(times[-1]))
        self.low = self.calendar.start_instant(resolution, int(times[0])) * MICROS
        self.high = self.calendar.end_instant(resolution, last) * MICROS

    def bars(self, instants: Array) -> Array:
        """The number of the newest bar that is no later than each instant (µs); -1 where there is none."""
        t = instants // MICROS if self.resolution.intraday else self.calendar.day(instants)
        labels = self.calendar.bucket(self.resolution, t)
        return np.searchsorted(self._times, labels, "right") - 1

    def chosen(self, found: list[Mark]) -> list[Mark]:
        """These marks with the times of their bars, ascending; no more of a bar than a chart shows."""
        numbers = self.bars(np.array([mark.at for mark in found], np.int64)).tolist()
        order = sorted(
            (-number, ORDER.index(mark.what), -mark.weight, mark.at, mark.id, mark)
            for number, mark in zip(numbers, found, strict=True)
            if number >= 0
        )
        kept: list[Mark] = []
        count: Counter[int] = Counter()
        for number, *_, mark in order:
            count[number] += 1
            if count[number] <= PER_BAR:
                kept.append(structs.replace(mark, time=int(self._times[-number])))
        return sorted(kept[:MOST_MARKS], key=lambda mark: mark.time)

    def heaviest(self, instants: Array, weights: Array) -> Array:
        """The places of those that may be among the chosen ones."""
        numbers = -self.bars(instants)
        order = np.lexsort((-weights, numbers))  # the newest bar first
        ordered = numbers[order]
        rank = np.arange(len(order)) - np.searchsorted(ordered, ordered)
        return order[(rank < PER_BAR) & (ordered <= 0)][:MOST_MARKS]


def _trades(bars: Stretch, events: pa.Table) -> list[Mark]:
    """Liquidations and large trades."""
    events = events.filter(pc.not_equal(events.column("event"), FUNDING))
    liquidated = pc.equal(events.column("event"), LIQUIDATION)
    return [
        *_traded(bars, events.filter(liquidated), True),
        *_traded(bars, events.filter(pc.invert(liquidated)), False),
    ]


def _traded(bars: Stretch, events: pa.Table, liquidated: bool) -> list[Mark]:
    weights = pc.fill_null(events.column("volume"), 0.0).to_numpy()
    some = events.take(pa.array(bars.heaviest(events.column("ts").to_numpy(), weights)))
    found = []
    for row in some.to_pylist():
        size = "" if row["volume"] is None else f" {row['volume']:.12g}"
        price = "" if not row["price"] else f" at {row['price']:.12g}"
        weight = row["volume"] or 0.0
        which = f"e{row['pos']}"
        if liquidated:
            side = f" {POSITIONS[row['side']]}" if row["side"] in POSITIONS else ""
            found.append(Mark(which, "liquidation", row["ts"], f"Liquidated{side}{size}{price}", "L", "red", weight))
        else:
            side = f": {SIDES[row['side']]}" if row["side"] in SIDES else ":"
            found.append(Mark(which, "trade", row["ts"], f"Large trade{side}{size}{price}", "T", "blue", weight))
    return found


def _funding(bars: Stretch, events: pa.Table, rate: float | None) -> list[Mark]:
    """Where the funding rate became another one."""
    rows = events.filter(pc.equal(events.column("event"), FUNDING))
    ts, rates, places = (rows.column(name).to_numpy() for name in ("ts", "funding_rate", "pos"))
    before = np.append(np.nan if rate is None else rate, rates)[:-1]
    changed = np.flatnonzero(rates != before)
    found = []
    for i in changed[bars.heaviest(ts[changed], ts[changed].astype(np.float64))].tolist():
        was = "" if np.isnan(before[i]) else f" (was {100 * before[i]:.6g} %)"
        text = f"Funding {100 * rates[i]:.6g} %{was}"
        found.append(Mark(f"e{places[i]}", "funding", int(ts[i]), text, "F", "yellow", float(ts[i])))
    return found


def _gap(gap: Gap) -> Mark:
    """At the bar before the gap, as in the gap there is none."""
    text, color = GAPS[gap.why]
    whose = f" ({', '.join(gap.feeds[:NAMED])})" if gap.feeds else ""
    words = f"{text}{whose} from {iso(gap.low)} to {iso(gap.high)}"
    return Mark(f"g{gap.low}", "gap", gap.low - 1, words, "G", color, float(gap.high - gap.low))
