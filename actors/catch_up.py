"""How far the store is behind the journal at a start, for whoever has to wait for it."""

import math
import time
from collections.abc import Callable

import trio
from msgspec import Struct

from storage.errors import Unavailable

PATIENCE = 5.0  # seconds that a question waits: charts keep an error for long, so some waiting is better than one
LONGEST = 30  # seconds until a question is worth asking again, at most


class CatchUpStatistics(Struct, frozen=True):
    """How far it is."""

    over: bool
    events: int
    expected: int  # events, all together


class CatchUp:
    """The store's way to the end of the journal: short after a kill, long where it has to be made again."""

    def __init__(self, what: str, expected: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`what` it is called, and how many events there are to take in."""
        self._what, self._expected, self._clock = what, expected, clock
        self._events = 0
        self._began = clock()
        self._over = trio.Event()

    @property
    def over(self) -> bool:
        """Whether the store has all that there was at the start."""
        return self._over.is_set()

    def add(self, events: int) -> None:
        """So many more are in the store."""
        self._events += events

    def end(self) -> None:
        """Let everybody on."""
        self._over.set()

    async def wait(self) -> None:
        """Return once it is over."""
        await self._over.wait()

    async def patiently(self) -> None:
        """Wait until it is over, but not for long; then Unavailable."""
        with trio.move_on_after(PATIENCE):
            await self._over.wait()
        if not self.over:
            raise self.unavailable()

    def unavailable(self) -> Unavailable:
        """What to tell whoever needs the store now."""
        left = self._left()
        return Unavailable(self.said(), retry_after=LONGEST if left is None else max(1, min(math.ceil(left), LONGEST)))

    def said(self) -> str:
        """How far it is, in words; empty when it is over."""
        if self.over:
            return ""
        share = min(99, 100 * self._events // max(1, self._expected))
        left = self._left()
        return f"{self._what}: {share} %" + ("" if left is None else f", about {math.ceil(left)} s left")

    def _left(self) -> float | None:
        """Seconds that are left, at the speed so far; None before there is one."""
        if not self._events:
            return None
        return max(0.0, (self._clock() - self._began) * (self._expected / self._events - 1))

    def statistics(self) -> CatchUpStatistics:
        """Counters for metrics."""
        return CatchUpStatistics(self.over, self._events, self._expected)
