"""One market, one task: rings of recent bars, and the streams of whoever watches. Nothing outside touches them."""

import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from time import thread_time
from typing import Any, TypeVar, TypeVarTuple, Unpack

import numpy as np
import trio
from msgspec import Struct, structs

from actors import candle, fold
from actors.candle import LAYOUTS, REV, Row, State, T
from actors.hub import Bar, Gone, Start, Subscription, Topic
from actors.ring import ALWAYS, SIZES, Ring, View, grouped, joined, view
from actors.rounds import Round
from storage.calendar import MICROS, ONE_DAY, Calendar, Resolution, rung
from storage.errors import Damaged, Unavailable
from storage.events import Array
from storage.partials import Partials
from storage.partials import concat as together
from storage.partitions import BrokenPartition
from storage.records import Market
from storage.schema import RUNGS
from storage.store import History

log = logging.getLogger(__name__)

Found = TypeVar("Found")
Given = TypeVarTuple("Given")
FAR = 2**61  # later than any bar
DAY = 86400
AGAIN = 0.2  # seconds until what the disk did not answer in time is asked again
GRACE = 2.0  # seconds a bar stays open for stragglers
REPLAY = 5000  # changed bars that a resumed stream is sent; beyond, a snapshot
MOST = 5000  # bars in one answer


@dataclass(slots=True)
class Slice:
    """What one round holds for one market."""

    round: Round
    rows: list[Row]  # one-second partials
    newest: int  # the newest event's second
    touched: list[int] = field(default_factory=list)  # seconds of events that were taken back


class Ask(Struct):
    """A question: `work` runs inside the actor, and whoever asked gets what it returns or raises."""

    work: Callable[[], Awaitable[Any]]
    reply: trio.MemorySendChannel[Any]


class Tick(Struct, frozen=True):
    """Time has passed: close what is over."""


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


class _Ending(Exception):
    """The disk is full and the process ends: the next start folds from the journal what was not flushed."""


class _Feed:
    """A resolution that somebody watches."""

    def __init__(self, topic: Topic, resolution: Resolution) -> None:
        self.topic = topic
        self.resolution = resolution
        self.rung = rung(resolution)
        self.direct = resolution.seconds == self.rung
        self.open: dict[int, int] = {}  # bars last shown as not closed, and the second at which each is over


class MarketActor:
    """Takes slices in the order of their seqs, and answers questions about everything told before."""

    def __init__(
        self,
        record: Market,
        store: History,
        epoch: str,
        *,
        seq: int,
        fresh: bool,
        applied: Callable[[], int],
        flushed: Callable[[int], Awaitable[None]],
        now: Callable[[], float],
    ) -> None:
        """`fresh`: the store holds nothing of this market. `flushed(seq)` returns once the store reaches seq."""
        self.record = record
        self._calendar = Calendar.parse(record.session, record.timezone)
        self.kind = record.kind
        self._layout = LAYOUTS[record.kind]
        self._store = store
        self._epoch = epoch
        self._applied, self._flushed, self._now = applied, flushed, now
        self._mailbox, self._inbox = trio.open_memory_channel[Slice | Ask | Tick](math.inf)
        self._rings: dict[int, Ring] = {rung: Ring(record.kind, rung) for rung in RUNGS} if fresh else {}
        self._unflushed: deque[tuple[int, Row]] = deque()
        self._second: State | None = None  # rows of one second that are not in the rings yet
        self._missing: dict[int, set[int]] = {stored: set() for stored in RUNGS}  # bars whose state must be brought
        self._parked = False  # the task waits for mail
        self._next_end: float = math.inf  # when the first open bar that somebody watches is over
        self._outside = dict.fromkeys(RUNGS, seq)  # newest seq that may have changed what is not in the ring
        self._feeds: dict[Resolution, _Feed] = {}
        self.seq = seq  # the newest slice taken in
        self._changed: int | None = 0 if fresh else None  # the newest seq that changed anything; None: the store knows
        self._newest = -FAR  # second of the newest event seen
        self._day = (0, 0, 0)  # label of the day in use, and the seconds it spans
        self.idle_since = now()

    # --- from outside

    def tell(self, message: Slice | Tick) -> None:
        """Leave a message; never waits. The number of unflushed rounds bounds how many there can be.

        A slice that nobody watches and that needs nothing from the disk is taken in at once, in the caller's turn,
        when the task has nothing else to do: waking it would cost several times what there is to be done.
        """
        if self._parked and isinstance(message, Slice) and not message.touched and not self._feeds:
            self._take_in(message)
            return
        self._parked = False
        self._mailbox.send_nowait(message)

    async def ask(self, work: Callable[[], Awaitable[Found]]) -> Found:
        """Run `work`, a method of this actor, after everything told before."""
        reply, answer = trio.open_memory_channel[Any](1)
        self._parked = False
        self.idle_since = self._now()
        self._mailbox.send_nowait(Ask(work, reply))
        found = await answer.receive()
        if isinstance(found, BaseException):
            raise found
        result: Found = found
        return result

    def reckon(self, record: Market) -> None:
        """Reckon days as the record says; only before the first event, while no bar depends on them."""
        if (self.record.session, self.record.timezone) != (record.session, record.timezone):
            self._calendar, self._day = Calendar.parse(record.session, record.timezone), (0, 0, 0)
        self.record = record

    @property
    def watched(self) -> bool:
        """Whether somebody is subscribed."""
        return bool(self._feeds)

    @property
    def due(self) -> bool:
        """Whether a bar that somebody watches is over and was not said to be closed."""
        return self._watermark() >= self._next_end

    @property
    def busy(self) -> bool:
        """Whether messages wait, or one is being worked on."""
        return not self._parked

    def close(self) -> None:
        """Accept nothing more; `run` finishes what is queued, then returns."""
        self._mailbox.close()

    def nbytes(self) -> int:
        """Memory of the rings' columns."""
        return sum(ring.nbytes() for ring in self._rings.values())

    async def run(self) -> None:
        """Live until closed."""
        async with self._inbox:
            self._parked = not self._waiting
            async for message in self._inbox:
                # What came while the task waited for the disk is one change.
                pieces: list[Slice] = []
                following: Slice | Ask | Tick | None = message
                while isinstance(following, Slice):
                    pieces.append(following)
                    following = self._inbox.receive_nowait() if self._waiting else None
                if pieces:
                    try:
                        await self._take(pieces)
                    except _Ending:
                        return
                match following:
                    case Ask(work, reply):
                        try:
                            await self._settle()
                            found: Any = await work()
                        except Exception as error:
                            found = error
                        reply.send_nowait(found)
                    case Tick():
                        await self._close_bars()
                self._parked = not self._waiting

    @property
    def _waiting(self) -> int:
        return self._mailbox.statistics().current_buffer_used

    # --- slices

    def _take_in(self, piece: Slice) -> None:
        """Add a slice to what is in memory; the rings follow when somebody looks."""
        began = thread_time()
        seq = self.seq = self._changed = piece.round.last
        self.idle_since = self._now()
        self._trim()
        for row in piece.rows:
            self._unflushed.append((seq, row))
            if self._second is not None and self._second[T] == row[T]:
                candle.absorb(self._layout, self._second, row)
            else:
                self._lay()
                self._second = candle.started(self._layout, row, row[T])
        if piece.newest > self._newest:
            self._newest = piece.newest
        piece.round.waiting -= 1
        piece.round.cost += thread_time() - began

    async def _take(self, pieces: Sequence[Slice]) -> None:
        """Take in slices that follow each other, and tell what they change as one change."""
        await self._surely(self._settle)
        seconds = [second for piece in pieces for second in piece.touched]
        had: dict[_Feed, set[int]] = {}
        for feed in list(self._feeds.values()) if seconds else ():
            try:
                had[feed] = await self._surely(self._there, feed, seconds)
            except BrokenPartition as error:
                log.error("market %s: %s", self.record.market_symbol, error)
        changed: dict[int, set[int]] = {stored: set() for stored in self._rings}
        for piece in pieces:
            self._take_in(piece)
            self._lay()
            for stored, times in changed.items():
                times.update(self._start(stored, row[T]) for row in piece.rows)
        if seconds:
            # The store folds the touched buckets again from the ledger; these rounds may be flushed from here on.
            try:
                await self._flushed(max(piece.round.last for piece in pieces if piece.touched))
            except Unavailable as error:
                raise _Ending from error
            for stored in self._rings:
                times = {self._start(stored, second) for second in seconds}
                self._missing[stored] |= times
                changed[stored] |= times
            self._outside = dict.fromkeys(RUNGS, self.seq)
        await self._surely(self._settle)
        if self._feeds:
            await self._publish(self.seq, changed, seconds, had)

    async def _surely(self, work: Callable[[Unpack[Given]], Awaitable[Found]], *given: *Given) -> Found:
        """Read what nobody can be told to ask for later: a query that was cancelled for its length is tried again.

        What is damaged ends the process: bars could not be right without it, and the next start rebuilds it.
        """
        while True:
            try:
                return await work(*given)
            except Damaged:
                raise
            except BrokenPartition:
                raise
            except Unavailable as error:
                log.error("market %s: %s; trying again", self.record.market_symbol, error)
                await trio.sleep(AGAIN)

    async def _there(self, feed: _Feed, seconds: Sequence[int]) -> set[int]:
        """The bars around these seconds that are there."""
        labels = np.unique(self._labels(feed, [self._start(feed.rung, second) for second in seconds]))
        return {bar.time for label in labels.tolist() for bar in await self._one(feed, label)}

    def _lay(self) -> None:
        """Add what has gathered of one second to the rings."""
        row, self._second = self._second, None
        if row is None:
            return
        for stored in RUNGS:
            ring = self._rings.get(stored)
            if ring is None:
                self._outside[stored] = max(self._outside[stored], row[REV])
                continue
            t = self._start(stored, row[T])
            if t < ring.floor:
                self._outside[stored] = max(self._outside[stored], row[REV])
            elif t in self._missing[stored] or not ring.add(row, t):
                self._missing[stored].add(t)

    async def _settle(self) -> None:
        """Make the rings complete."""
        self._lay()
        for stored, times in self._missing.items():
            if times:
                try:
                    await self._bring(self._rings[stored], times)
                except BrokenPartition as error:
                    log.error("market %s: %s", self.record.market_symbol, error)
                    # From here on memory has only what is newer; whoever asks for older bars is told by the store.
                    self._rings[stored] = Ring(self.kind, stored, max(self._newest, *times) + 1)
                    self._outside[stored] = self.seq
                times.clear()

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

    def _trim(self) -> None:
        applied, unflushed = self._applied(), self._unflushed
        while unflushed and unflushed[0][0] <= applied:
            unflushed.popleft()

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
        """What has come since the store's snapshot, in buckets of a stored resolution."""
        states = [row for seq, row in self._unflushed if seq > applied]
        late = candle.table(self.kind, self.record.slot, states)
        return late.at(np.array([self._start(stored, row[0]) for row in states], np.int64))

    # --- reading

    async def _ring(self, stored: int) -> Ring:
        """The ring of a stored resolution, filled from the store if it was not in memory."""
        ring = self._rings.get(stored)
        if ring is None:
            ring = Ring(self.kind, stored)
            rows, applied = await self._store.newest(self.kind, stored, self.record.slot, FAR, ring.size)
            labels = len(np.unique(rows["t"]))
            floor = ALWAYS if labels < ring.size else int(rows["t"].min())
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

    async def _view(self, stored: int, start: int, end: int) -> View:
        """All bars of a stored resolution with start ≤ t < end, from memory if it has them."""
        ring = await self._memory(stored, end)
        if start >= ring.floor:
            return ring.view(start, end)
        old, applied = await self._store.between(self.kind, stored, self.record.slot, start, min(end, ring.floor))
        late = self._late(stored, applied)
        late = late.take((late["t"] >= start) & (late["t"] < min(end, ring.floor)))
        below = view(fold.merged(together([old, late])))
        if end <= ring.floor:
            return below
        above = ring.view(ring.floor, end)
        return joined([below, above])

    async def _newest_view(self, stored: int, before: int, count: int) -> View:
        """The newest bars with t < before, `count` of them shown, or all there are; complete from its first on."""
        ring = await self._memory(stored, before)
        recent = ring.view(ring.floor, before)
        wanted = count - _count(recent)
        if wanted <= 0 or ring.floor == ALWAYS:
            return recent
        edge = min(before, ring.floor)
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

    async def _bars(self, resolution: Resolution, start: int, end: int) -> View:
        """The shown bars of any resolution with start ≤ t < end."""
        stored = rung(resolution)
        if resolution.seconds == stored:
            return (await self._view(stored, start, end)).visible()
        low = await self._beginning(stored) if start <= -FAR else start
        if low >= end:
            return (await self._view(stored, 0, 0)).visible()
        first = int(self._calendar.bucket(resolution, np.array([low]))[0])
        last = int(self._calendar.bucket(resolution, np.array([min(end, _LATEST) - 1]))[0])
        stop = int(self._calendar.next(resolution, np.array([last]))[0])
        finer = await self._view(stored, first, max(stop, end) if end > _LATEST else stop)
        if not finer.n:
            return finer
        bars = grouped(finer, self._calendar.bucket(resolution, finer["t"]))
        return bars.take((bars["t"] >= start) & (bars["t"] < end)).visible()

    async def _beginning(self, stored: int) -> int:
        ring = await self._ring(stored)
        times = ring.times()
        first = int(times[0]) if len(times) else FAR
        if ring.floor == ALWAYS:
            return first
        old, applied = await self._store.between(self.kind, DAY, self.record.slot, -FAR, FAR)
        late = self._late(DAY, applied)
        times = np.concatenate([old["t"], late["t"]])
        return min(first, int(times.min()) - DAY) if len(times) else first

    async def _newest_bars(self, resolution: Resolution, before: int, count: int) -> View:
        """The `count` newest shown bars with t < before, or all there are."""
        stored = rung(resolution)
        if resolution.seconds == stored:
            bars = (await self._newest_view(stored, before, count)).visible()
            return bars.take(slice(max(0, bars.n - count), None))
        reach = max(2, math.ceil(resolution.seconds / stored))
        wanted = count * reach
        while True:
            # Every finer bar of the last bucket belongs to it, also those at or after `before`.
            edge = before
            if before < _LATEST:
                last = self._calendar.bucket(resolution, np.array([before - 1]))
                edge = int(self._calendar.next(resolution, last)[0])
            finer = await self._newest_view(stored, edge, wanted)
            if not finer.n:
                return finer
            bars = grouped(finer, self._calendar.bucket(resolution, finer["t"]))
            bars = bars.take(bars["t"] < before).visible()
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
            # One more than the window can hold: where it is empty, that one says where older bars are.
            room = math.ceil((end - start) / (0.9 * resolution.seconds)) if start < end else 0
            bars = await self._newest_bars(resolution, end, min(room, most) + 1)
            older = bars["t"][bars["t"] < start] if start < end else bars["t"]
            bars = bars.take(slice(len(older), None))
            previous = int(older[-1]) if len(older) and not bars.n else None
        else:
            bars = await self._newest_bars(resolution, end, min(count, most))
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
        )

    # --- watching

    async def subscribe(
        self, resolution: Resolution, subscription: Subscription, bars: int, since: int | None
    ) -> Topic:
        """Join the stream of a resolution."""
        feed = self._feeds.get(resolution)
        if feed is None or not feed.topic.subscriptions:  # to nobody, it was not told what changed
            await self._ring(rung(resolution))
            topic = Topic(self.record.market_symbol, resolution.name, self._epoch, await self._position())
            feed = _Feed(topic, resolution)
        start = await self._opening(feed, bars, since)
        subscription.begin(start)
        if not subscription.ended:
            self._feeds[resolution] = feed  # also where the others left meanwhile, and the stream with them
            feed.topic.subscriptions.add(subscription)
        return feed.topic

    async def _position(self) -> int:
        """The seq that changed this market last."""
        if self._changed is None:
            found, _ = await self._store.last_change(self.kind, self.record.slot)
            self._changed = found
        return self._changed

    async def resnapshot(self, topic: Topic, subscription: Subscription, bars: int) -> None:
        """Begin again with the present."""
        feed = next((feed for feed in self._feeds.values() if feed.topic is topic), None)
        if feed is not None:
            subscription.begin(await self._opening(feed, bars, None))

    def unsubscribe(self, topic: Topic, subscription: Subscription) -> None:
        """Leave; a stream nobody watches ends."""
        topic.subscriptions.discard(subscription)
        if not topic.subscriptions:
            self._feeds = {resolution: feed for resolution, feed in self._feeds.items() if feed.topic is not topic}

    async def _opening(self, feed: _Feed, count: int, since: int | None) -> Start:
        if since is not None:
            found = await self._since(feed, since)
            if found is not None:
                return found
        bars = self._shown(feed, await self._newest_bars(feed.resolution, FAR, max(count, 1)))
        newest = bars[-1].time if bars else None
        return Start(feed.topic.seq, False, bars[max(0, len(bars) - count) :] if count else [], [], newest)

    async def _since(self, feed: _Feed, since: int) -> Start | None:
        """Every bar that changed after `since`, and the one that was newest then; None where that is too much."""
        ring = await self._ring(feed.rung)
        ended: list[tuple[int, bool]] = []  # bars that were taken back since, and whether they were there then
        if since >= max(self._outside[feed.rung], ring.lost):
            times = ring.changed(since)
        else:
            slot = self.record.slot
            times, applied = await self._store.changed(self.kind, feed.rung, slot, since, REPLAY + 1)
            late = [self._start(feed.rung, row[0]) for seq, row in self._unflushed if seq > max(since, applied)]
            times = sorted({*times, *late, *ring.changed(since)})
            ended, _ = await self._store.ended(feed.rung, slot, since, REPLAY + 1)
        if len(times) > REPLAY:
            return None
        known = ring.newest_born_by(since)
        if known is None and ring.floor != ALWAYS:
            return None
        had = set(self._labels(feed, [t for t, was_there in ended if was_there]).tolist())
        taken = set(self._labels(feed, [t for t, _ in ended]).tolist())
        wanted = {*self._labels(feed, times).tolist(), *taken}
        if known is not None:
            # The bar that the client's chart ended with may have been closed meanwhile by the clock alone; so may those
            # before it that were open beside it, for stragglers.
            newest = int(self._labels(feed, [known])[0])
            stragglers = math.ceil(GRACE / feed.resolution.seconds)
            wanted.update([newest, *(self._calendar.back(feed.resolution, newest, n + 1) for n in range(stragglers))])
        shown: list[Bar] = []
        if wanted:
            low, high = min(wanted), max(wanted)
            if (high - low) // feed.resolution.seconds > 4 * REPLAY:
                return None
            stop = int(self._calendar.next(feed.resolution, np.array([high]))[0])
            bars = await self._bars(feed.resolution, low, stop)
            shown = self._shown(feed, bars.take(np.isin(bars["t"], list(wanted))))
        there = {bar.time for bar in shown}
        gone = [Gone(label, label in had) for label in sorted(taken - there)]
        # Whatever became of it meanwhile: the client has it.
        shown = [structs.replace(bar, born=min(bar.born, since)) if bar.time in had else bar for bar in shown]
        if not shown and not gone and since < feed.topic.seq:
            return None  # no frame would bring the client to this stream's position
        return Start(feed.topic.seq, True, shown, gone, shown[-1].time if shown else None)

    def _labels(self, feed: _Feed, times: Sequence[int]) -> Array:
        labels = np.array(sorted(times), np.int64)
        return labels if feed.direct else self._calendar.bucket(feed.resolution, labels)

    async def _one(self, feed: _Feed, label: int) -> list[Bar]:
        """The bar at this label, or none."""
        if feed.direct:
            state = self._rings[feed.rung].state(label)
            if state is not None:
                bar = candle.shown(self._layout, state, self._mark(feed, label))
                return [bar] if bar else []
        stop = label + 1 if feed.direct else int(self._calendar.next(feed.resolution, np.array([label]))[0])
        bars = await self._bars(feed.resolution, label, stop)
        return self._shown(feed, bars.take(bars["t"] == label))

    def _shown(self, feed: _Feed, bars: View) -> list[Bar]:
        times = bars["t"].tolist()
        closed = [self._mark(feed, t) for t in times]
        columns = [bars[name].tolist() for name in ("open", "high", "low", "close")]
        rest = [
            bars.volumes.tolist(),
            bars["trades_count"].tolist(),
            closed,
            bars["rev"].tolist(),
            bars["born"].tolist(),
        ]
        return [Bar(*row) for row in zip(times, *columns, *rest, strict=True)]

    def _mark(self, feed: _Feed, t: int) -> bool:
        """Whether the bar is closed; one that is not is watched until it is."""
        end = self._calendar.end_instant(feed.resolution, t)
        closed = end <= self._watermark()
        if closed:
            feed.open.pop(t, None)
        else:
            feed.open[t] = end
            self._next_end = min(self._next_end, end)
        return closed

    def _closed(self, resolution: Resolution, t: int) -> bool:
        return self._calendar.end_instant(resolution, t) <= self._watermark()

    def _watermark(self) -> float:
        return max(self._newest, self._now()) - GRACE

    async def _publish(
        self, seq: int, changed: dict[int, set[int]], seconds: Sequence[int], had: dict[_Feed, set[int]]
    ) -> None:
        """Tell every stream its changed bars. Around `seconds` events were taken back; `had` is what was there then."""
        for feed in list(self._feeds.values()):
            times = changed.get(feed.rung)
            if not times or not feed.topic.subscriptions:
                continue
            lost = set(self._labels(feed, [self._start(feed.rung, second) for second in seconds]).tolist())
            there = had.get(feed, set())
            told = feed.topic.seq
            bars: list[Bar] = []
            gone: list[int] = []
            labels = set(self._labels(feed, list(times)).tolist())
            # What is over closes now: whoever has the newest bar of this seq knows the closing of all that it ended.
            over = self._over(feed) - labels
            for label in sorted(labels | over):
                for bar in await self._told(feed, label):
                    # To a stream a bar is new if it was not there when the stream last spoke; what is folded again,
                    # or merged from finer bars, may have been born later than that.
                    old = label in there if label in lost else bar.born <= told
                    bars.append(structs.replace(bar, born=told if old else seq))
                    break
                else:
                    feed.open.pop(label, None)
                    if label in there:
                        gone.append(label)
            if gone or any(bar.time in labels for bar in bars):
                feed.topic.publish(seq, bars, gone)
            else:
                feed.topic.close(bars)

    async def _close_bars(self) -> None:
        await self._surely(self._settle)
        for feed in list(self._feeds.values()):
            over = self._over(feed)
            bars = [bar for t in sorted(over) for bar in await self._told(feed, t)]
            for t in over:
                feed.open.pop(t, None)
            feed.topic.close(bars)
        self._next_end = min((end for feed in self._feeds.values() for end in feed.open.values()), default=math.inf)

    async def _told(self, feed: _Feed, label: int) -> list[Bar]:
        """The bar at this label as a stream tells it: none, where it lies in a file that cannot be read."""
        try:
            return await self._surely(self._one, feed, label)
        except BrokenPartition as error:
            log.error("market %s: %s", self.record.market_symbol, error)
            return []

    def _over(self, feed: _Feed) -> set[int]:
        """The bars last shown as not closed whose time is over."""
        return {t for t, end in feed.open.items() if end <= self._watermark()}


def _count(bars: View) -> int:
    """How many of these bars are shown: the others count in longer ones only."""
    return int(np.count_nonzero(~np.isnan(bars["open"])))


_LATEST = 253402300800  # 10000-01-01, beyond which calendars do not go
