"""Moves bars of days and months that are over, and that nobody speaks of any more, from DuckDB to the archive."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import trio
from msgspec import Struct

from actors.background import Background
from storage import archive, partitions
from storage.archive import Changed, Held, Moved, Pause, Snapshot, Waiting
from storage.errors import BrokenStore, CandledError, FailedDisk
from storage.partitions import BrokenPartition, Part, Partition

log = logging.getLogger(__name__)

DAY = 86400
EVERY = 600.0  # seconds between two looks at what may be moved
TURN = 10.0  # seconds of moving until other jobs have their turn


class Shelf(Protocol):
    """What the archivist asks of the store."""

    snapshot: Snapshot
    archive: Path

    async def waiting(self, before: int) -> list[Waiting]: ...
    async def adopt(self, moved: Moved) -> None: ...
    async def parts(self) -> list[Part]: ...
    def broken(self) -> dict[Partition, str]: ...
    def note(self, where: Partition, why: str) -> None: ...
    def mended(self, where: Partition) -> None: ...


class ArchivistStatistics(Struct, frozen=True):
    """What was moved since the start, and what is there."""

    moved: int  # partitions
    rows: int  # rows of them
    seconds: float
    last: float  # when the newest file was made, Unix seconds; 0: there is none
    waiting: int  # partitions that could be moved once they have been quiet
    held: dict[tuple[str, str], Held]  # by kind and folder of the resolution
    broken: list[str]  # why some bars cannot be read


@dataclass(slots=True)
class _Seen:
    rev: int
    since: float


class Archivist:
    """A job of the janitor."""

    name = "archive"

    def __init__(
        self,
        shelf: Shelf,
        background: Background,
        *,
        now: Callable[[], float],
        days: int = 7,
        quiet: float = 3600.0,
        every: float = EVERY,
    ) -> None:
        """Periods are moved `days` after their end, once nothing of them has changed for `quiet` seconds."""
        self._shelf, self._background, self._now = shelf, background, now
        self._days, self._quiet, self._every = days, quiet, min(every, max(quiet / 6, 1.0))
        self._next = 0.0
        self._seen: dict[Partition, _Seen] = {}
        self._moved = self._rows = 0
        self._seconds = self._last = 0.0
        self._held: dict[tuple[str, str], Held] = {}

    def due(self) -> bool:
        """Whether it is time for another look."""
        return self._now() >= self._next

    async def run(self) -> None:
        """Move what may be moved, one partition after the other; what takes longer than a turn is due again at once."""
        self._next = self._now() + self._every
        await self._examine()
        failed: CandledError | None = None
        began = trio.current_time()
        for where in await self._ready():
            if trio.current_time() - began > TURN:
                self._next = self._now()
                break
            try:
                await self._move(where)
            except FailedDisk:
                raise
            except CandledError as error:  # the others can be moved all the same
                log.error("archive: %s: %s", where, error)
                failed = failed or error
        await self._count()
        if failed is not None:
            raise failed

    def statistics(self) -> ArchivistStatistics:
        """Counters for metrics and health."""
        return ArchivistStatistics(
            self._moved,
            self._rows,
            self._seconds,
            self._last,
            len(self._seen),
            self._held,
            sorted(self._shelf.broken().values()),
        )

    async def _ready(self) -> list[Partition]:
        """The partitions that have been quiet for long enough, the oldest first."""
        now = self._now()
        seen: dict[Partition, _Seen] = {}
        for one in await self._shelf.waiting(int(now) - self._days * DAY):
            before = self._seen.get(one.partition)
            known = before is not None and before.rev == one.rev
            seen[one.partition] = before if before is not None and known else _Seen(one.rev, now)
        self._seen = seen
        return [where for where, one in seen.items() if now - one.since >= self._quiet]

    async def _move(self, where: Partition) -> None:
        began = trio.current_time()
        try:
            moved = await self._background.run(archive.write, self._shelf.snapshot, where, self._now())
        except BrokenPartition as error:
            self._shelf.note(error.part.partition, str(error))
            return
        try:
            await self._shelf.adopt(moved)
        except Changed as error:
            log.info("%s; trying again later", error)
            await self._background.run(_unlink, self._shelf.archive, moved.parts)
            return
        await self._background.run(_unlink, self._shelf.archive, moved.old)
        del self._seen[where]
        self._moved += 1
        self._rows += sum(part.rows for part in moved.parts)
        self._seconds += trio.current_time() - began

    async def _examine(self) -> None:
        """See whether files are missing, and whether those that were are there again."""
        while True:
            parts = await self._shelf.parts()
            wrong = await self._background.run(_damage, self._shelf.archive, parts)
            if not wrong or await self._shelf.parts() == parts:
                break  # else others may have taken their place meanwhile
        for where, why in wrong.items():
            self._shelf.note(where, why)
        for where in set(self._shelf.broken()) - set(wrong):
            mine = [part for part in parts if part.partition == where]
            try:
                await self._background.run(archive.audit, self._shelf.archive, mine)
            except (BrokenStore, CandledError):
                continue
            self._shelf.mended(where)

    async def _count(self) -> None:
        held: dict[tuple[str, str], Held] = {}
        for part in await self._shelf.parts():
            key = part.kind, partitions.FOLDERS[part.rung]
            before = held.get(key, Held(0, 0, 0))
            held[key] = Held(before.files + 1, before.rows + part.rows, before.bytes + part.bytes)
            self._last = max(self._last, part.moved)
        self._held = held


def _unlink(_: Pause, root: Path, parts: list[Part]) -> None:
    archive.unlink(root, parts)


def _damage(_: Pause, root: Path, parts: list[Part]) -> dict[Partition, str]:
    return partitions.damage(root, parts)
