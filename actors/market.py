"""One market, one task: rings of recent bars, and the streams of whoever watches. Nothing outside touches them."""

import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from time import thread_time
from typing import Any, TypeVar, TypeVarTuple, Unpack

import trio
from msgspec import Struct, structs

from actors import candle
from actors.bars import Bar
from actors.candle import REV, Row, State, T
from actors.changes import Basis, Changes
from actors.reading import FAR
from actors.ring import SIZES, Ring
from actors.rounds import Round
from actors.said import Word
from actors.ticker import Ticker
from actors.watching import Feed, Watched
from storage.errors import Damaged, Unavailable
from storage.partitions import BrokenPartition
from storage.recent import Recent
from storage.records import Market
from storage.retention import Floors
from storage.schema import RUNGS
from storage.store import History

log = logging.getLogger(__name__)

Found = TypeVar("Found")
Given = TypeVarTuple("Given")
UNREAD = SIZES[1]  # bars of the past that are kept up in memory though nobody has asked for any
PAST = 3600  # seconds: what is older than this comes from no live feed
AGAIN = 0.2  # seconds until what the disk did not answer in time is asked again


@dataclass(slots=True)
class Slice:
    """What one round holds for one market."""

    round: Round
    rows: list[Row]  # one-second partials
    newest: int  # the newest event's second
    touched: list[int] = field(default_factory=list)  # seconds of events that were taken back
    words: Sequence[Word] = ()  # what no candle has a measure for
    anew: bool = False  # what is there was wrong: nobody knows which bars of it charts have

    @property
    def lowest(self) -> int:
        """The first second of which it says anything."""
        if self.anew or not (self.rows or self.touched):
            return -FAR
        return min([*(int(row[T]) for row in self.rows[:1]), *self.touched])


class Ask(Struct):
    """A question: `work` runs inside the actor, and whoever asked gets what it returns or raises."""

    work: Callable[[], Awaitable[Any]]
    reply: trio.MemorySendChannel[Any]


class Tick(Struct, frozen=True):
    """Time has passed: close what is over."""


class _Ending(Exception):
    """The disk is full and the process ends: the next start folds from the journal what was not flushed."""


class MarketActor(Watched):
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
        floors: Floors | None = None,
        ticker: Ticker | None = None,
        stirred: Callable[[], None] = lambda: None,
    ) -> None:
        """`fresh`: the store holds nothing of this market. `flushed(seq)` returns once the store reaches seq.

        The actor keeps the `ticker` while it lives, and calls `stirred` whenever that may show something else."""
        super().__init__(record, store, epoch, seq=seq, fresh=fresh, applied=applied, now=now, floors=floors)
        self._flushed, self._stirred = flushed, stirred
        self._ticker = ticker or Ticker(record.kind, sure=fresh)
        self._mailbox, self._inbox = trio.open_memory_channel[Slice | Ask | Tick](math.inf)
        self._second: State | None = None  # rows of one second that are not in the rings yet
        self._missing: dict[int, set[int]] = {}  # bars whose state must be brought
        self._parked = False  # the task waits for mail
        self._changes = Changes(seq)
        self._unread = 0  # bars of a second taken in since somebody asked for something
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
        self._unread = 0
        self._mailbox.send_nowait(Ask(work, reply))
        found = await answer.receive()
        if isinstance(found, BaseException):
            raise found
        result: Found = found
        return result

    def holds(self, basis: Basis) -> bool:
        """Whether an answer is still what it would be now; not known while messages wait."""
        if self.busy or self._first(basis.rung) != basis.floor or self._watermark() >= basis.closes:
            return False
        if not self._changes.untouched(basis.seq, basis.reach):
            return False
        self.idle_since = self._now()
        return True

    @property
    def busy(self) -> bool:
        """Whether messages wait, or one is being worked on."""
        return not self._parked

    def close(self) -> None:
        """Accept nothing more; `run` finishes what is queued, then returns."""
        self._mailbox.close()

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

    async def look(self, work: Callable[[Ticker], Found], read: tuple[Recent, int] | None = None) -> Found:
        """What `work` makes of the last day, as it is now; `read`: what `Store.recent` has of it."""
        if not self._ticker.sure and (read is None or not self.lay(self._ticker, *read)):
            await self.fill(self._ticker)
        return work(self._ticker)

    # --- slices

    def _take_in(self, piece: Slice) -> None:
        """Add a slice to what is in memory; the rings follow when somebody looks."""
        began = thread_time()
        seq = self.seq = self._changed = piece.round.last
        self.idle_since = self._now()
        self._changes.note(seq, piece.lowest)
        self._trim()
        self._unread += len(piece.rows)
        past = self._unread > UNREAD and piece.newest < self._now() - PAST and not self._feeds
        if past:
            self._drop_rings(seq)
            self._ticker.sure = False
        self._unflushed.extend((seq, row) for row in piece.rows)
        for row in piece.rows if self._rings else ():
            if self._second is not None and self._second[T] == row[T]:
                candle.absorb(self._layout, self._second, row)
            else:
                self._lay()
                self._second = candle.started(self._layout, row, row[T])
        if not self._rings:
            self._outside = dict.fromkeys(RUNGS, seq)
        if piece.newest > self._newest:
            self._newest = piece.newest
        for row in () if past else piece.rows:
            self._ticker.add(row)
        for word in piece.words:
            self._ticker.say(*word)
        self._stirred()
        piece.round.waiting -= 1
        piece.round.cost += thread_time() - began

    def _drop_rings(self, seq: int) -> None:
        """Have the next reader fill rings and ticker from the store: in a backfill that costs less than each bar."""
        self._rings.clear()
        self._second = None
        self._missing.clear()
        self._outside = dict.fromkeys(RUNGS, seq)

    async def _take(self, pieces: Sequence[Slice]) -> None:
        """Take in slices that follow each other, and tell what they change as one change."""
        await self._surely(self._settle)
        seconds = [second for piece in pieces for second in piece.touched]
        had: dict[Feed, set[int]] = {}
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
            # What was said up to here is read again from the store; what came after is not there yet.
            self._ticker.doubt()
            last = max(number for number, piece in enumerate(pieces) if piece.touched)
            for word in (word for piece in pieces[last + 1 :] for word in piece.words):
                self._ticker.say(*word)
            if len(seconds) > UNREAD and not self._feeds:
                self._drop_rings(self.seq)
            for stored in self._rings:
                times = {self._start(stored, second) for second in seconds}
                self._missing.setdefault(stored, set()).update(times)
                changed[stored] |= times
            self._outside = dict.fromkeys(RUNGS, self.seq)
            self._stirred()
        await self._surely(self._settle)
        if any(piece.anew for piece in pieces):
            for feed in self._feeds.values():
                feed.topic.reset(self._epoch, self.seq)
        elif self._feeds:
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
            elif t in self._missing.get(stored, ()) or not ring.add(row, t):
                self._missing.setdefault(stored, set()).add(t)

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

    async def _publish(
        self, seq: int, changed: dict[int, set[int]], seconds: Sequence[int], had: dict[Feed, set[int]]
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

    async def _told(self, feed: Feed, label: int) -> list[Bar]:
        """The bar at this label as a stream tells it: none, where it lies in a file that cannot be read."""
        try:
            return await self._surely(self._one, feed, label)
        except BrokenPartition as error:
            log.error("market %s: %s", self.record.market_symbol, error)
            return []
