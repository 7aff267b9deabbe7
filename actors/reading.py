"""What one market has in memory and in the store, read together: bars of any resolution, complete and at one seq."""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable
from contextlib import suppress
from operator import itemgetter
from typing import NamedTuple

import numpy as np
from msgspec import Struct

from actors import candle, fold
from actors.candle import LAYOUTS, Row
from actors.changes import Basis
from actors.ring import ALWAYS, SIZES, Ring, View, charted, grouped, joined, unlike, view
from actors.said import INDEX, NAMES, said
from actors.ticker import MINUTE, SECONDS, Ticker, last_day
from storage.calendar import MICROS, ONE_DAY, Calendar, Resolution, rung
from storage.partials import Partials
from storage.partials import concat as together
from storage.partitions import BrokenPartition
from storage.recent import Recent
from storage.records import Market
from storage.retention import Floors
from storage.schema import RUNGS
from storage.store import History

FAR = 2**61  # later than any bar
DAY = 86400
GRACE = 2.0  # seconds a bar stays open for stragglers
MOST = 5000  # bars in one answer
LATEST = 253402300800  # 10000-01-01, beyond which calendars do not go


class Window(Struct, frozen=True):
    """Bars of one market at one resolution, at one cursor; columns of equal length."""

    time: list[int]
    open: list[float]
    high: list[float]
    low: list[float]
    close: list[float]
    volume: list[float]
    trades: list[int]
    seq: int  # the market's position
    rev: int  # the newest change among these bars
    open_bar: bool  # the last bar may still change in the normal course of things
    previous: int | None  # where `time` is empty: the newest bar before what was asked
    basis: Basis | None = None  # where there are bars


class Astray(NamedTuple):
    """One measure of a bar in memory that is not what it should be, or a whole bar (`bar`)."""

    rung: int
    t: int
    measure: str
    memory: str | None
    stored: str | None


class Reading:
    """The bars of one market: recent ones in rings, all that is flushed in the store, the rest beside both."""

    def __init__(
        self,
        record: Market,
        store: History,
        *,
        seq: int,
        fresh: bool,
        applied: Callable[[], int],
        now: Callable[[], float],
        floors: Floors | None = None,
    ) -> None:
        """`fresh`: the store holds nothing of this market. `floors` say below what bars were dropped."""
        self.record = record
        self.kind = record.kind
        self.seq = seq  # the newest slice taken in
        self._layout = LAYOUTS[record.kind]
        self._calendar = Calendar.parse(record.session, record.timezone)
        self._store = store
        self._applied, self._now = applied, now
        self._floors = floors or Floors()
        self._rings: dict[int, Ring] = {rung: Ring(record.kind, rung) for rung in RUNGS} if fresh else {}
        self._unflushed: list[tuple[int, Row]] = []  # mostly empty, and then smaller than any queue
        self._newest = -FAR  # second of the newest event seen
        self._day = (0, 0, 0)  # label of the day in use, and the seconds it spans

    def reckon(self, record: Market) -> None:
        """Reckon days as the record says; only before the first event, while no bar depends on them."""
        if (self.record.session, self.record.timezone) != (record.session, record.timezone):
            self._calendar, self._day = Calendar.parse(record.session, record.timezone), (0, 0, 0)
        self.record = record

    def nbytes(self) -> int:
        """Memory of the rings' columns."""
        return sum(ring.nbytes() for ring in self._rings.values())

    def _start(self, stored: int, second: int) -> int:
        if stored == 1:
            return second
        if stored < DAY:
            return second - second % stored
        label, low, high = self._day
        if not low <= second < high:
            label = int(self._calendar.day(np.array([second * MICROS]))[0])
            low, high = (instant // MICROS for instant in self._calendar.span(ONE_DAY, label))
            self._day = (label, low, high)
        return label

    def _first(self, stored: int) -> int:
        """There are no bars of this stored resolution before this."""
        return self._floors.of(self.kind, stored).before

    def _trim(self) -> None:
        applied, unflushed = self._applied(), self._unflushed
        if unflushed and unflushed[0][0] <= applied:
            del unflushed[: bisect_right(unflushed, applied, key=itemgetter(0))]

    async def _bring(self, ring: Ring, times: Iterable[int]) -> None:
        """Put the present states of these bars into the ring."""
        wanted = {t for t in times if t >= ring.floor}
        if not wanted:
            return
        rows, applied = await self._store.at(self.kind, ring.rung, self.record.slot, sorted(wanted))
        late = self._late(ring.rung, applied)
        late = late.take(np.array([t in wanted for t in late["t"].tolist()], np.bool_))
        for row in candle.rows(fold.merged(together([rows, late]))):
            ring.put(candle.started(self._layout, row, row[0]))

    def _late(self, stored: int, applied: int) -> Partials:
        """What has come since the store's snapshot, in buckets of a stored resolution: none that were dropped."""
        states = [row for seq, row in self._unflushed if seq > applied]
        late = candle.table(self.kind, self.record.slot, states)
        late = late.at(np.array([self._start(stored, row[0]) for row in states], np.int64))
        kept = late["t"] >= self._first(stored)
        return late if kept.all() else late.take(kept)

    async def late(self, stored: int, start: int, end: int, applied: int) -> Partials | None:
        """What has come since a snapshot of the store, in buckets with start ≤ t < end; None where the store has come
        further than that snapshot, which then has to be read again."""
        if self._applied() > applied:
            return None
        late = self._late(stored, applied)
        return late.take((late["t"] >= start) & (late["t"] < end))

    async def astray(self) -> tuple[int, list[Astray]]:
        """How many bars are in memory, and what in them is not what the store and all that came later come to."""
        count = 0
        found: list[Astray] = []
        for stored, ring in self._rings.items():
            low = max(ring.floor, self._first(stored))  # what was dropped may be here still
            rows, applied = await self._store.between(self.kind, stored, self.record.slot, max(low, -FAR), FAR)
            late = self._late(stored, applied)
            both = view(fold.merged(together([rows, late.take(late["t"] >= low)])))
            count += len(ring)
            found += [Astray(stored, *one) for one in unlike(ring.view(low, FAR), both)]
        return count, found

    async def _whole(self, stored: int, start: int, end: int) -> Partials:
        """The bars of a stored resolution with start ≤ t < end, whole, shown or not; from the store."""
        old, applied = await self._store.between(self.kind, stored, self.record.slot, start, end)
        late = self._late(stored, applied)
        late = late.take((late["t"] >= start) & (late["t"] < end))
        return fold.merged(together([old, late]))

    async def fill(self, ticker: Ticker) -> None:
        """Have the whole of the last day in the ticker."""
        now = int(self._now())
        since = last_day(now)
        minutes = await self._whole(MINUTE, since, FAR)
        seconds = await self._whole(1, now - SECONDS, FAR)
        older = await self._older(since, not np.isnan(minutes["close"]).all())
        telling = await self._store.telling(self.record.slot, since * MICROS, INDEX, NAMES)
        ticker.fill(minutes, seconds, older)
        for word in said(telling).get(self.record.slot, ()):
            ticker.say(*word)

    def lay(self, ticker: Ticker, found: Recent, applied: int) -> bool:
        """As `fill`, with what was read of many markets at once, up to this seq; whether that is enough."""
        if self._applied() > applied:
            return False
        late = self._late(MINUTE, applied)
        minutes = fold.merged(together([found.minutes, late]))
        older, priced = fold.merged(found.older), not np.isnan(minutes["close"]).all()
        if late.n and int(late["t"].min()) < found.since:
            return False
        # What came before may lie in the archive, or be known to longer bars only.
        if older.n:
            known = not np.isnan(older["close"]).any() and (found.archived or -FAR) <= int(older["t"].min())
        else:
            known = priced and found.archived is None and self._first(MINUTE) <= -FAR
        if not known:
            return False
        ticker.fill(minutes, fold.merged(together([found.seconds, self._late(1, applied)])), older)
        for word in said(found.told).get(self.record.slot, ()):
            ticker.say(*word)
        return True

    async def _older(self, since: int, priced: bool) -> Partials:
        """Bars from before this second that say what was the case then; where there is any with a price, also one of
        those. `priced`: there are some since then."""
        before, _ = await self._store.newest(self.kind, MINUTE, self.record.slot, since, 10)
        older = await self._whole(MINUTE, int(before["t"].min()) if before.n else since, since)
        if not np.isnan(older["close"]).all():
            return older
        # Nothing but words for long, or all there is are finished bars: days know the newest price of before.
        minutes = await self._whole(MINUTE, since - 4 * DAY, since)
        return together([older, minutes, await self._whole(DAY, -FAR, since - 3 * DAY if priced else FAR)])

    async def _ring(self, stored: int) -> Ring:
        """The ring of a stored resolution, filled from the store if it was not in memory."""
        ring = self._rings.get(stored)
        if ring is None:
            ring = Ring(self.kind, stored)
            slot = self.record.slot
            try:
                rows, applied = await self._store.newest(self.kind, stored, slot, FAR, ring.size)
                labels = len(np.unique(rows["t"]))
                floor = ALWAYS if labels < ring.size else int(rows["t"].min())
            except BrokenPartition as error:  # what is newer serves
                floor = error.part.high
                rows, applied = await self._store.between(self.kind, stored, slot, floor, FAR)
            both = fold.merged(together([rows, self._late(stored, applied)]))
            both = both.take(both["t"] >= floor)
            ring.fill(both, floor)
            self._rings[stored] = ring
            if both.n:
                self._newest = max(self._newest, int(both["t"].max()), int(both["close_ts"].max()) // MICROS)
        return ring

    async def _memory(self, stored: int, end: int) -> Ring:
        """The ring, or an empty one where bars before `end` are too old for it to be filled for their sake."""
        if stored not in self._rings and end <= self._now() - stored * SIZES[stored]:
            return Ring(self.kind, stored, FAR)
        return await self._ring(stored)

    async def _view(self, stored: int, start: int, end: int, charted: bool = False) -> View:
        """All bars of a stored resolution with start ≤ t < end, from memory if it has them; `charted`: nothing of them
        is needed but what charts show."""
        start = max(start, self._first(stored))
        ring = await self._memory(stored, end)
        if start >= ring.floor:
            return ring.view(start, end)
        stop = min(end, ring.floor)
        below = await self._charted(stored, start, stop) if charted else None
        if below is None:
            below = view(await self._whole(stored, start, stop))
        if end <= ring.floor:
            return below
        above = ring.view(ring.floor, end)
        return joined([below, above])

    async def _charted(self, stored: int, start: int, end: int) -> View | None:
        """What charts show of bars from the store; None where something has to be summed first."""
        columns, applied = await self._store.shown(self.kind, stored, self.record.slot, start, end)
        late = self._late(stored, applied)["t"]
        if columns is None or ((late >= start) & (late < end)).any():
            return None
        return charted(self.kind, columns)

    async def _newest_view(self, stored: int, before: int, count: int, charted: bool = False) -> View:
        """The newest bars with t < before, `count` of them shown, or all there are; complete from its first on."""
        bars = await self._newest_kept(stored, before, count, charted)
        kept = bars["t"] >= self._first(stored)  # memory may have some that were dropped
        return bars if kept.all() else bars.take(kept)

    async def _newest_kept(self, stored: int, before: int, count: int, charted: bool) -> View:
        ring = await self._memory(stored, before)
        recent = ring.view(ring.floor, before)
        wanted = count - _count(recent)
        if wanted <= 0 or ring.floor == ALWAYS:
            return recent
        edge = min(before, ring.floor)
        if charted and edge < LATEST:
            # Bars mostly lie side by side: then those of so long a time are enough.
            near = await self._charted(stored, edge - wanted * stored * 17 // 16, edge)
            if near is not None and _count(near) >= wanted:
                return joined([near, recent])
        asked = wanted
        while True:
            old, applied = await self._store.newest(self.kind, stored, self.record.slot, edge, asked)
            late = self._late(stored, applied)
            labels = len(np.unique(old["t"]))
            first = int(old["t"].min()) if labels >= asked else ALWAYS
            late = late.take((late["t"] >= first) & (late["t"] < edge))
            below = view(fold.merged(together([old, late])))
            if _count(below) >= wanted or first == ALWAYS:
                return joined([below, recent])
            asked *= 2  # buckets without a price were among them

    async def _bars(self, resolution: Resolution, start: int, end: int, charted: bool = False) -> View:
        """The shown bars of any resolution with start ≤ t < end."""
        stored = rung(resolution)
        start = max(start, self._first(stored))  # a longer bar that began before would lack a part
        if resolution.seconds == stored:
            return (await self._view(stored, start, end, charted)).visible()
        low = await self._beginning(stored) if start <= -FAR else start
        if low >= end:
            return (await self._view(stored, 0, 0)).visible()
        first = int(self._calendar.bucket(resolution, np.array([low]))[0])
        last = int(self._calendar.bucket(resolution, np.array([min(end, LATEST) - 1]))[0])
        stop = int(self._calendar.next(resolution, np.array([last]))[0])
        finer = await self._view(stored, first, max(stop, end) if end > LATEST else stop)
        if not finer.n:
            return finer
        bars = grouped(finer, self._calendar.bucket(resolution, finer["t"]))
        start = max(start, self._first(stored))  # which may have risen meanwhile
        return bars.take((bars["t"] >= start) & (bars["t"] < end)).visible()

    async def _beginning(self, stored: int) -> int:
        ring = await self._ring(stored)
        times = ring.times()
        first = int(times[0]) if len(times) else FAR
        if ring.floor == ALWAYS:
            return first
        days, applied = await self._store.days(self.kind, self.record.slot)
        days += self._late(DAY, applied)["t"].tolist()
        return min(first, min(days) - DAY) if days else first

    async def _newest_bars(self, resolution: Resolution, before: int, count: int, charted: bool = False) -> View:
        """The `count` newest shown bars with t < before, or all there are.

        Where a file cannot be read, what is newer may be enough: it was looked into for more bars than that.
        """
        try:
            return await self._newest_read(resolution, before, count, charted)
        except BrokenPartition as error:
            broken = error
        while True:
            first = int(self._calendar.bucket(resolution, np.array([broken.part.high]))[0])
            if first < broken.part.high:
                first = int(self._calendar.next(resolution, np.array([first]))[0])
            if first >= before:
                raise broken
            try:
                bars = await self._bars(resolution, first, before, charted)
            except BrokenPartition as newer:
                if newer.part.high <= broken.part.high:
                    raise
                broken = newer
                continue
            if bars.n < count:
                raise broken
            return bars.take(slice(bars.n - count, None))

    async def _newest_read(self, resolution: Resolution, before: int, count: int, charted: bool) -> View:
        stored = rung(resolution)
        if resolution.seconds == stored:
            bars = (await self._newest_view(stored, before, count, charted)).visible()
            return bars.take(slice(max(0, bars.n - count), None))
        reach = max(2, math.ceil(resolution.seconds / stored))
        wanted = count * reach
        while True:
            # Every finer bar of the last bucket belongs to it, also those at or after `before`.
            edge = before
            if before < LATEST:
                last = self._calendar.bucket(resolution, np.array([before - 1]))
                edge = int(self._calendar.next(resolution, last)[0])
            finer = await self._newest_view(stored, edge, wanted)
            if not finer.n:
                return finer
            bars = grouped(finer, self._calendar.bucket(resolution, finer["t"]))
            bars = bars.take((bars["t"] < before) & (bars["t"] >= self._first(stored))).visible()
            # The oldest may be cut: it counts only when there is nothing before it.
            complete = bars.n if _count(finer) < wanted else bars.n - 1
            if complete >= count or _count(finer) < wanted:
                return bars.take(slice(max(0, bars.n - count), None))
            wanted *= 2

    async def window(
        self, resolution: Resolution, start: int, end: int, count: int | None = None, most: int = MOST
    ) -> Window:
        """The bars with start ≤ t < end, the newest `most` of them; with `count`, the `count` newest before `end`,
        reaching back before `start`. Monthly windows of count + 1 bars are given whole."""
        previous = None
        if count is None:
            room = math.ceil((end - start) / (0.9 * resolution.seconds)) if start < end else 0
            bars = await self._within(resolution, start, end, most if room > most else 0)
            if not bars.n:  # the newest before it says where older bars are
                bars = await self._newest_bars(resolution, end, 1, charted=True)
            older = bars["t"][bars["t"] < start] if start < end else bars["t"]
            bars = bars.take(slice(len(older), None))
            previous = int(older[-1]) if len(older) and not bars.n else None
        else:
            bars = await self._newest_bars(resolution, end, min(count, most), charted=True)
            if resolution.unit == "M" and start < end:
                whole = await self._bars(resolution, start, end)
                bars = whole if whole.n == count + 1 else bars
        bars = bars.take(slice(max(0, bars.n - most), None))
        open_bar = bool(bars.n) and not self._closed(resolution, int(bars["t"][-1]))
        return Window(
            bars["t"].tolist(),
            bars["open"].tolist(),
            bars["high"].tolist(),
            bars["low"].tolist(),
            bars["close"].tolist(),
            bars.volumes.tolist(),
            bars["trades_count"].tolist(),
            self.seq,
            int(bars["rev"].max()) if bars.n else 0,
            open_bar,
            previous,
            self._basis(resolution, end, int(bars["t"][-1]), open_bar) if bars.n else None,
        )

    async def _within(self, resolution: Resolution, start: int, end: int, most: int) -> View:
        """The bars with start ≤ t < end, for charts; where `most` is given, the newest of them are enough."""
        if most:
            # Older ones that cannot be read may lie before the window.
            with suppress(BrokenPartition):
                return await self._newest_bars(resolution, end, most, charted=True)
        return await self._bars(resolution, start, end, charted=True)

    def _basis(self, resolution: Resolution, end: int, newest: int, open_bar: bool) -> Basis:
        last = self._calendar.bucket(resolution, np.array([min(end, LATEST) - 1]))
        reach = math.ceil(self._calendar.end_instant(resolution, int(last[0])))
        stored = rung(resolution)
        closes = self._calendar.end_instant(resolution, newest) if open_bar else math.inf
        return Basis(self.seq, max(reach, end), stored, self._first(stored), closes)

    def _closed(self, resolution: Resolution, t: int) -> bool:
        return self._calendar.end_instant(resolution, t) <= self._watermark()

    def _watermark(self) -> float:
        return max(self._newest, self._now()) - GRACE


def _count(bars: View) -> int:
    """How many of these bars are shown: the others count in longer ones only."""
    return int(np.count_nonzero(~np.isnan(bars["open"])))
