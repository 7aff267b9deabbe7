"""The only task that writes to the store: one transaction per flush. It also holds what is not yet in there."""

import itertools
import logging
from collections import deque
from collections.abc import Awaitable, Callable

import trio
from msgspec import Struct
from trio import TASK_STATUS_IGNORED, TaskStatus

from actors.rounds import Round
from storage.errors import Unavailable
from storage.flush import Flush
from storage.histogram import Histogram, Times
from storage.schema import RUNGS

log = logging.getLogger(__name__)

Commit = Callable[[Flush], Awaitable[None]]
Sum = Callable[[list[Round]], Awaitable[Flush]]
Compact = Callable[[str, int, int, int], Awaitable[int]]

# Within each such span (seconds) the stored bars of a rung lie in (market, t) order.
SPANS = {1: 3600, 60: 86400, 300: 7 * 86400, 900: 7 * 86400, 3600: 92 * 86400, 86400: 36525 * 86400}


class WriterStatistics(Struct, frozen=True):
    """What was flushed, and what waits."""

    applied: int
    flushes: int
    events: int
    times: Times
    longest: float
    waiting_rounds: int
    waiting_events: int
    last: float  # when the last flush ended, Unix seconds; 0: never
    failing: str  # why the last flush did not succeed; empty when it did
    failures: int


class Writer:
    """Flushes every `seconds`, or when `events` wait, or when somebody needs it."""

    def __init__(
        self,
        commit: Commit,
        sum_up: Sum,
        compact: Compact,
        *,
        applied: int,
        now: Callable[[], float],
        kinds: tuple[str, ...],
        seconds: float = 2.0,
        events: int = 1_000_000,
        recent_rows: int = 200_000,
    ) -> None:
        """`sum_up` turns rounds into a flush on a worker thread; `recent_rows` bounds the unordered stretch on disk."""
        self._commit, self._sum_up, self._compact = commit, sum_up, compact
        self._now = now
        self._seconds, self._events, self._recent_rows = seconds, events, recent_rows
        self.applied = applied
        self._rounds: deque[Round] = deque()
        self._waiting = 0
        self._wanted = applied
        self._wake = trio.Event()
        self._done = trio.Event()
        self._draining = self._closing = False
        self._flushes = self._flushed_events = self._failures = 0
        self._longest = self._last = 0.0
        self._times = Histogram()
        self._failing = ""
        # Rows in arrival order, by kind and rung; how many a former life left is not known until they are looked at.
        self._recent = dict.fromkeys(itertools.product(kinds, RUNGS), recent_rows + 1)

    # --- from outside, on the loop

    def hold(self, round_: Round) -> None:
        """Take a round that was handed to its actors; it is flushed once all of them took it in."""
        self._rounds.append(round_)
        self._waiting += round_.count
        if self._waiting >= self._events:
            self._wake.set()

    @property
    def waiting(self) -> int:
        """Events that are in the journal but not yet in the store."""
        return self._waiting

    @property
    def rounds(self) -> deque[Round]:
        """What is not yet in the store, oldest first."""
        return self._rounds

    async def flushed(self, seq: int) -> None:
        """Return once the store reaches this seq; Unavailable where it will not before the end."""
        while self.applied < seq:
            if self._draining and self._failing:
                raise Unavailable(self._failing)
            self._wanted = max(self._wanted, seq)
            self._wake.set()
            await self._done.wait()

    def drain(self) -> None:
        """The end is near: whoever waits for a flush that the disk refuses is told, instead of waiting for room."""
        self._draining, self._failing = True, ""
        self._wake.set()

    def close(self) -> None:
        """Flush what is there, then let `run` return."""
        self._closing = True
        self._wake.set()

    def statistics(self) -> WriterStatistics:
        """Counters for metrics and health."""
        return WriterStatistics(
            self.applied,
            self._flushes,
            self._flushed_events,
            self._times.times(),
            self._longest,
            len(self._rounds),
            self._waiting,
            self._last,
            self._failing,
            self._failures,
        )

    # --- the task

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Flush until closed and empty."""
        task_status.started()
        pause = self._seconds
        while True:
            with trio.move_on_after(pause):
                await self._wake.wait()
            self._wake = trio.Event()
            try:
                flushed = await self.flush()
                self._failing, pause = "", self._seconds
            except Unavailable as error:
                # Nothing is lost: the journal has it all. What waits is bounded by what intake still takes.
                if not self._failing:
                    log.error("flush: %s; trying again", error)
                self._failures += 1
                self._failing, pause = str(error), min(pause * 2, 30.0)
                if self._closing:
                    return
                if self._draining:
                    self._tell()
                continue
            if self._closing and not (flushed and self._rounds):
                return
            if not flushed and self._wanted > self.applied:
                # An actor still has to take its slice in; it runs before this task does again.
                await trio.sleep(0.001)
                self._wake.set()
            elif flushed:
                try:
                    await self._tidy()
                except Unavailable as error:
                    log.warning("compaction: %s; bars stay as they were flushed until there is room", error)

    async def flush(self) -> bool:
        """Put everything that all actors took in into the store; False if there was nothing."""
        ready: list[Round] = []
        for round_ in self._rounds:
            if round_.waiting:
                break
            ready.append(round_)
        if not ready:
            return False
        began = trio.current_time()
        work = await self._sum_up(ready)
        await self._commit(work)
        for rung, table in work.tables:
            self._recent[table.kind, rung] += table.n
        for round_ in ready:
            self._rounds.popleft()
            self._waiting -= round_.count
            self._flushed_events += round_.count
        self.applied = ready[-1].last
        took = trio.current_time() - began
        self._flushes += 1
        self._times.observe(took)
        self._longest = max(self._longest, took)
        self._last = self._now()
        self._tell()
        return True

    def _tell(self) -> None:
        done, self._done = self._done, trio.Event()
        done.set()

    async def _tidy(self) -> None:
        """Keep the stretch of stored bars that lies in arrival order short."""
        if self._waiting >= self._events:
            return
        for (kind, rung), rows in self._recent.items():
            if rows > self._recent_rows:
                await self._compact(kind, rung, self._recent_rows, SPANS[rung])
                self._recent[kind, rung] = 0
                return  # one at a time: a flush may be due
