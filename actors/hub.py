"""The connections that a round of publishing touched are flushed once each; the timers of their streams."""

import heapq
import itertools
import math
from collections.abc import Callable
from typing import Protocol

import trio
from msgspec import Struct
from trio import TASK_STATUS_IGNORED, TaskStatus

from actors.bars import Reason


class Source(Protocol):
    """Something that has frames for a connection when the connection can take them."""

    def take(self, room: int) -> tuple[bytes, bool]:
        """About `room` bytes of frames, and whether there are more right now."""

    def lose(self, reason: Reason) -> None:
        """Forget what waits; a snapshot replaces it."""


class Sink(Protocol):
    """One connection's way out."""

    touched: bool  # the hub's mark: has something to flush

    @property
    def open(self) -> bool:
        """Takes frames at once; otherwise ask."""

    @property
    def ended(self) -> bool:
        """Takes nothing any more."""

    def put(self, data: bytes) -> None:
        """Queue bytes; never waits."""

    def ask(self, source: Source) -> None:
        """Have `source.take` called when the connection can take more."""

    def charge(self, source: Source, amount: int) -> None:
        """Count what waits outside of the connection's own queue; beyond the limit, sources lose."""

    def flush(self) -> None:
        """Write what the socket takes without waiting."""


class HubStatistics(Struct, frozen=True):
    """What is open, and what went out since the start."""

    connections: int  # now
    subscriptions: int  # now
    frames: int
    conflated: int  # states that were replaced before they were written
    lagged: int  # snapshots sent because too much was pending
    dropped: int  # connections given up because they took nothing
    bytes: int


class Hub:
    """Flushes the connections that a round of publishing touched, once each, and keeps the streams' timers."""

    def __init__(self) -> None:
        self.connections = self.subscriptions = self.frames = self.bytes = 0
        self.conflated = self.lagged = self.dropped = 0
        self.endings: set[Callable[[], None]] = set()  # of answers that go on until they are told to end
        self._touched: list[Sink] = []
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._wake = trio.Event()
        self._until = -math.inf

    def touch(self, sink: Sink) -> None:
        """Flush `sink` after whoever is publishing has finished."""
        if not sink.touched:
            sink.touched = True
            self._touched.append(sink)
            self._wake.set()

    def at(self, when: float, call: Callable[[], None]) -> None:
        """Call `call` at `when` on trio's clock."""
        heapq.heappush(self._timers, (when, next(self._order), call))
        if when < self._until:
            self._wake.set()

    def flush(self) -> None:
        """Flush every touched connection now; for callers that finish a batch and do not want to wait for `run`."""
        while self._touched:
            touched, self._touched = self._touched, []
            for sink in touched:
                sink.touched = False
                sink.flush()

    def statistics(self) -> HubStatistics:
        return HubStatistics(
            self.connections,
            self.subscriptions,
            self.frames,
            self.conflated,
            self.lagged,
            self.dropped,
            self.bytes,
        )

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Flush and time until cancelled. Trio runs every actor that a batch woke before it runs this again."""
        task_status.started()
        while True:
            self._until = self._timers[0][0] if self._timers else math.inf
            with trio.move_on_at(self._until):
                await self._wake.wait()
            self._until = -math.inf
            self._wake = trio.Event()
            now = trio.current_time()
            while self._timers and self._timers[0][0] <= now:
                heapq.heappop(self._timers)[2]()
            while self._touched:
                some, self._touched = self._touched[:200], self._touched[200:]
                for sink in some:
                    sink.touched = False
                    sink.flush()
                await trio.lowlevel.checkpoint()
