"""The job that moves committed events out of the journal: into files that never change, and out of the tables."""

import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import trio
from msgspec import Struct

from actors.background import Background, Pause
from storage import sealed
from storage.commits import Commit, Dead, dead, decode
from storage.sealed import Sealed

log = logging.getLogger(__name__)

DAY = 86400
MERGED = 2_000_000  # events in a file that others were merged into, at most


class Source(Protocol):
    """What is asked of the journal."""

    @property
    def first_seq(self) -> int: ...
    @property
    def last_seq(self) -> int: ...
    def since(self, seq: int) -> Iterator[tuple[int, memoryview]]: ...
    def rotate(self) -> int: ...
    def trim(self, seq: int) -> int: ...


class Target(Protocol):
    """What is asked of the store."""

    async def seal(self, file: Sealed) -> None: ...
    async def remember(self, dead: Sequence[tuple[int, Dead]]) -> None: ...
    async def merge(self, file: Sealed, instead: Sequence[Sealed]) -> None: ...


class SealingStatistics(Struct, frozen=True):
    """What is sealed, and what sealing has cost since the start."""

    files: int
    events: int
    bytes: int
    through: int  # the newest batch that is sealed
    last: float  # when the newest file was made, Unix seconds; 0: never
    sealed_events: int  # since the start, as all that follow
    seconds: float
    merges: int
    trimmed_bytes: int
    damaged: tuple[str, ...]  # what cannot be read, and why


class Sealing:
    """Seals every `seconds`, or when `events` wait for it; merges the files of days that are over."""

    name = "sealing"

    def __init__(
        self,
        folder: Path,
        files: Sequence[Sealed],
        journal: Source,
        store: Target,
        background: Background,
        *,
        taken: Callable[[], int],
        flushed: Callable[[int], Awaitable[None]],
        now: Callable[[], float],
        seconds: float = 3600.0,
        events: int = 1_000_000,
        lingers: float = 60.0,
    ) -> None:
        """`taken()` events have come to the store's tables.

        A file that was replaced stays for `lingers` seconds, longer than any read takes.
        """
        self.folder, self._journal, self._store, self._background = folder, journal, store, background
        self._files = list(files)
        self._waiting, self._taken, self._flushed, self._now = 0, taken, flushed, now
        self._seconds, self._events = seconds, events
        self._lingers = lingers
        self._began = now()
        self.still = trio.Lock()  # held, no file comes and none goes
        self._replaced: list[tuple[float, Sealed]] = []
        self._sealed_events = self._merges = self._trimmed = 0
        self._spent = 0.0

    @property
    def files(self) -> Sequence[Sealed]:
        """All of them, in order of their batches."""
        return self._files

    def replace(self, old: Sealed, new: Sealed | None) -> None:
        """Another file, or none, has taken the place of this one; it goes when nobody reads it any more."""
        at = self._files.index(old)
        self._files[at : at + 1] = [new] if new else []
        self._replaced.append((self._now(), old))

    @property
    def through(self) -> int:
        """The newest batch that is sealed."""
        return self._files[-1].last if self._files else 0

    def count(self, waiting: int) -> None:
        """So many events lie in the store's tables now."""
        self._waiting = waiting - self._taken() + self._sealed_events

    def due(self) -> bool:
        """Whether an hour has passed since the last file, or enough events have come."""
        if self._journal.last_seq <= self.through:
            return False
        last = max(self._began if not self._files else 0.0, self._files[-1].made if self._files else 0.0)
        return (
            not 0 <= self._now() - last < self._seconds
            or self._waiting + self._taken() - self._sealed_events >= self._events
        )

    async def run(self) -> None:
        """Seal all that was committed before the call, have the journal let go of it, and merge what is due."""
        async with self.still:
            began = time.perf_counter()
            try:
                await self._run()
            finally:
                self._spent += time.perf_counter() - began

    async def _run(self) -> None:
        self._let_go()
        last = await self._background.run(lambda _: self._journal.rotate())
        await self._flushed(last)
        if not self._files:
            # A store of before events were sealed has not noted which of them were taken back.
            await self._store.remember(await self._background.run(self._dead, last))
        while self.through < last:
            await self._seal(last)
        self._trimmed += await self._background.run(lambda _: self._journal.trim(self.through))
        while some := self._mergeable():
            await self._merge(some)

    async def _seal(self, last: int) -> None:
        file = await self._background.run(self._write, self.through + 1, last)
        await self._store.seal(file)
        self._files.append(file)
        self._sealed_events += file.events
        log.info("sealed %d events, batches %d to %d, %d bytes", file.events, file.first, file.last, file.bytes)

    def _dead(self, pause: Pause, last: int) -> list[tuple[int, Dead]]:
        found: list[tuple[int, Dead]] = []
        for seq, record in self._journal.since(self._journal.first_seq - 1):
            if seq > last:
                break
            found += [(seq, one) for one in dead(record)]
            pause()
        return found

    def _write(self, pause: Pause, first: int, last: int) -> Sealed:
        """One file of batches from `first` on, as many as make enough events, but none after `last`. Blocks."""
        some: list[Commit] = []
        count = 0
        for seq, record in self._journal.since(first - 1):
            some.append(decode(seq, record))
            count += some[-1].events.n
            pause()
            if seq == last or count >= self._events:
                break
        return sealed.write(self.folder, first, some[-1].seq, some, self._now(), pause)

    async def _merge(self, some: Sequence[Sealed]) -> None:
        file = await self._background.run(lambda pause: sealed.merge(self.folder, some, self._now(), pause))
        await self._store.merge(file, some)
        at = self._files.index(some[0])
        self._files[at : at + len(some)] = [file]
        self._replaced += [(self._now(), old) for old in some]
        self._merges += 1

    def _mergeable(self) -> Sequence[Sealed]:
        """Files that were made on one day, which is over, and are small enough together, if there are several."""
        today = int(self._now()) // DAY
        some: list[Sealed] = []
        for file in self._files:
            fits = some and file.made // DAY == some[0].made // DAY and sum(f.events for f in [*some, file]) <= MERGED
            if not fits and len(some) > 1:
                return some
            if file.damaged or file.made // DAY >= today:
                some = []
            elif fits:
                some.append(file)
            else:
                some = [file]
        return some if len(some) > 1 else []

    def _let_go(self) -> None:
        """Remove files that were replaced long enough ago."""
        while self._replaced and self._replaced[0][0] + self._lingers <= self._now():
            _, old = self._replaced.pop(0)
            (self.folder / old.file).unlink(missing_ok=True)

    def statistics(self) -> SealingStatistics:
        """Counters for metrics and health."""
        return SealingStatistics(
            files=len(self._files),
            events=sum(file.events for file in self._files),
            bytes=sum(file.bytes for file in self._files),
            through=self.through,
            last=self._files[-1].made if self._files else 0.0,
            sealed_events=self._sealed_events,
            seconds=self._spent,
            merges=self._merges,
            trimmed_bytes=self._trimmed,
            damaged=tuple(f"{file.file}: {file.damaged}" for file in self._files if file.damaged),
        )
