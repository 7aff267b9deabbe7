"""Drops what is older than it is to be kept: whole partitions of bars, and raw events of days that are closed for it.

Nothing goes that something else still needs. What is dropped is written down first (`storage.retention`); then one
transaction has no reader look there any more; then the files go. A crash between two of these is made good by the next
start. Raw events go file by file, oldest first, once every bar that they are part of is in the archive.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import trio
from msgspec import Struct

from actors.background import Background, Pause
from storage import archive, parquet, retention, sealed
from storage.answers import KEPT
from storage.calendar import MICROS
from storage.errors import CandledError
from storage.events import Array
from storage.partitions import FOLDERS, Part, Partition, of_bar
from storage.retention import DAY, RAW, Days, Floor, Floors, Keep
from storage.schema import RUNGS
from storage.sealed import Sealed

log = logging.getLogger(__name__)

EVERY = 600.0  # seconds between two looks at what may go
EVER = 2**62

Note = Callable[[Sequence[tuple[int, bytes]], int], Awaitable[None]]  # (days, seq)
Labels = Callable[[Array, Array], Array]  # (markets, seconds) -> the label of each second's trading day


class Shelf(Protocol):
    """What is asked of the store."""

    archive: Path

    async def parts(self) -> list[Part]: ...
    async def beside(self, where: Partition, seq: int) -> int: ...
    async def drop_bars(self, kind: str, rung: int, floor: Floor) -> tuple[int, list[Part]]: ...
    async def close(self, rows: Sequence[tuple[int, bytes]], kind: str, slots: Array, seq: int) -> None: ...
    async def drop_events(self, kind: str, slots: Array, old: Sealed, new: Sealed | None) -> None: ...
    async def drop_batches(self, seq: int) -> None: ...
    async def forget_identities(self, seq: int) -> None: ...
    def note(self, where: Partition, why: str) -> None: ...


class Files(Protocol):
    """What is asked of sealing."""

    folder: Path
    still: trio.Lock

    @property
    def files(self) -> Sequence[Sealed]: ...
    def replace(self, old: Sealed, new: Sealed | None) -> None: ...


class Gates(Protocol):
    """What is asked of intake."""

    async def close_days(self, days: Days, note: Note) -> int: ...


class Names(Protocol):
    """What is asked of the registry."""

    async def load_slots(self, slots: Sequence[int]) -> None: ...


class RetentionStatistics(Struct, frozen=True):
    """What was dropped since the start."""

    bars: int
    partitions: int
    events: int
    files: int  # of raw events, dropped or written anew without some
    bytes: int  # that the disk has again, or will have once no reader uses the files any more
    last: float  # when it was last looked for, Unix seconds; 0: never
    waiting: list[str]  # what should be gone, and what that waits for
    closed_days: int  # that no event can change any more


class _Said(NamedTuple):
    """What a file holds of one kind."""

    days: Days
    bars: Sequence[Partition]  # that its events are part of
    events: int


class Retention:
    """A job of the janitor; it does nothing where nothing is to be dropped."""

    name = "retention"

    def __init__(
        self,
        keeps: Sequence[Keep],
        store: Shelf,
        sealing: Files,
        intake: Gates,
        names: Names,
        in_state: Callable[..., Awaitable[Any]],
        background: Background,
        *,
        floors: Floors,
        closed: retention.Closed,
        labels: Labels,
        committed: Callable[[], int],
        flushed: Callable[[int], Awaitable[None]],
        known_through: Callable[[], int],
        now: Callable[[], float],
        every: float = EVERY,
    ) -> None:
        """`in_state(work, ...)` calls `work(state.db, ...)`; all identities up to `known_through()` are in files."""
        self._keeps, self._store, self._sealing, self._intake = keeps, store, sealing, intake
        self._names, self._in_state, self._background = names, in_state, background
        self._floors, self._closed, self._labels = floors, closed, labels
        self._committed, self._flushed, self._known_through, self._now = committed, flushed, known_through, now
        self._every = every
        self._next = 0.0
        self._files: dict[tuple[str, str], _Said] = {}  # by file and kind, of those that wait
        self._sound: set[Path] = set()  # files of bars that were read whole
        self._bars = self._partitions = self._events = self._dropped_files = self._bytes = 0
        self._last = 0.0
        self._waiting: list[str] = []

    def due(self) -> bool:
        """Whether something is to be dropped at times, and it is time for another look."""
        return bool(self._keeps) and self._now() >= self._next

    async def run(self) -> None:
        """Drop what may be dropped."""
        async with self._sealing.still:
            await self._run()

    async def _run(self) -> None:
        self._next = self._now() + self._every
        self._waiting = []
        for keep in self._keeps:
            if keep.rung == RAW:
                await self._drop_raw(keep)
            else:
                await self._drop_bars(keep)
        if any(keep.rung == RAW for keep in self._keeps):
            await self._drop_empty()
            await self._store.forget_identities(self._known_through())
        self._last = self._now()

    def statistics(self) -> RetentionStatistics:
        """Counters for metrics and health."""
        return RetentionStatistics(
            self._bars,
            self._partitions,
            self._events,
            self._dropped_files,
            self._bytes,
            self._last,
            list(self._waiting),
            len(self._closed),
        )

    # --- bars

    async def _drop_bars(self, keep: Keep) -> None:
        before = of_bar(keep.kind, keep.rung, int(self._now() - keep.days * DAY)).low
        if before <= self._floors.of(keep.kind, keep.rung).before:
            return
        floor = Floor(before, self._committed())
        await self._lift({(keep.kind, keep.rung): floor})
        rows, parts = await self._store.drop_bars(keep.kind, keep.rung, floor)
        await self._background.run(_unlink, self._store.archive, parts)
        self._bars += rows + sum(part.rows for part in parts)
        self._bytes += sum(part.bytes for part in parts)
        self._partitions += len({part.partition for part in parts})
        if rows or parts:
            log.info("retention: %s bars of %s before %d were dropped", keep.kind, FOLDERS[keep.rung], before)

    async def _lift(self, floors: Mapping[tuple[str, int], Floor]) -> None:
        """Raise floors: nobody is shown anything below them from here on."""
        await self._in_state(retention.note_floors, floors)
        for (kind, rung), floor in floors.items():
            self._floors.lift(kind, rung, floor)

    # --- raw events

    async def _drop_raw(self, keep: Keep) -> None:
        slots: Array = await self._in_state(retention.slots_of, keep.kind)
        for file in list(self._sealing.files):
            if file.last <= self._floors.of(keep.kind, RAW).seq:
                continue
            if file.made + keep.days * DAY > self._now():
                return
            if why := await self._drop_file(keep.kind, slots, file):
                self._waiting.append(f"{keep.kind} events of raw/{file.file}: {why}")
                return

    async def _drop_file(self, kind: str, slots: Array, file: Sealed) -> str:
        """Drop the events of a kind from a file; what that has to wait for, if it cannot be done."""
        if file.damaged:
            return file.damaged
        said = await self._said(kind, slots, file)
        new = None
        if said.events:
            if why := await self._not_kept(said.bars, EVER):
                return why
            seq = await self._close(kind, slots, said.days)
            await self._flushed(seq)
            if why := await self._not_kept(said.bars, seq):
                return why
            parts = await self._store.parts()
            mine = set(said.bars)
            await self._in_state(retention.note_frozen, [part for part in parts if part.partition in mine])
            new = await self._background.run(_without, self._sealing.folder, file, slots, self._now())
        await self._store.drop_events(kind, slots, file, new)
        await self._lift({(kind, RAW): Floor(seq=file.last)})
        self._files.pop((file.file, kind), None)
        if new is not None:
            self._sealing.replace(file, new)
            self._events += said.events
            self._dropped_files += 1
            self._bytes += file.bytes - new.bytes
            log.info("retention: %d %s events of raw/%s were dropped", said.events, kind, file.file)
        return ""

    async def _said(self, kind: str, slots: Array, file: Sealed) -> _Said:
        key = file.file, kind
        if key not in self._files:
            markets, ts = await self._background.run(_events, self._sealing.folder, file, slots)
            await self._names.load_slots(np.unique(markets).tolist())
            self._files[key] = await self._background.run(_summed, kind, markets, ts, self._labels)
        return self._files[key]

    async def _not_kept(self, bars: Sequence[Partition], seq: int) -> str:
        """Which of these partitions has a bar of a batch up to this one that is not in the archive, if one has."""
        parts = await self._store.parts()
        for where in bars:
            if where.high <= self._floors.of(where.kind, where.rung).before:
                continue
            if await self._store.beside(where, seq):
                return f"bars of {where} are not in the archive yet"
            mine = [part for part in parts if part.partition == where and part.path not in self._sound]
            try:  # these will be all there is
                await self._background.run(archive.audit, self._store.archive, mine)
            except (CandledError, *parquet.BROKEN) as error:
                self._store.note(where, f"archive/{where}: {error}")
                return f"bars of {where} cannot be read"
            self._sound |= {part.path for part in mine}
        return ""

    async def _close(self, kind: str, slots: Array, days: Days) -> int:
        """Have no event change these days any more; the newest batch that did not have to heed that."""
        opened = {}
        for day, markets in days.items():
            left = markets[~self._closed.holds(day, markets)]
            if len(left):
                opened[day] = left
        if not opened:
            return self._floors.of(kind, DAY).seq
        noted: list[Sequence[tuple[int, bytes]]] = []

        def note(rows: Sequence[tuple[int, bytes]], seq: int) -> Awaitable[None]:
            noted.append(rows)
            return self._in_state(retention.note_closed, rows, kind, seq)

        seq: int = await self._intake.close_days(opened, note)
        for rung in RUNGS:
            self._floors.lift(kind, rung, Floor(seq=seq))
        await self._store.close(noted[0], kind, slots, seq)
        return seq

    async def _drop_empty(self) -> None:
        """Let go of the files at the beginning that hold no event any more, but never of the newest one."""
        files = list(self._sealing.files)
        empty = 0
        for file in files[:-1]:
            # Repeats of requests are answered out of them for some time.
            if file.events or file.damaged or file.made + KEPT > self._now():
                break
            empty += 1
        if empty:
            seq = files[empty - 1].last
            await self._in_state(retention.note_dropped, seq)
            await self._store.drop_batches(seq)
            for file in files[:empty]:
                self._sealing.replace(file, None)
                self._bytes += file.bytes


def _unlink(_: Pause, root: Path, parts: Sequence[Part]) -> None:
    archive.unlink(root, parts)
    for folder in {root / part.partition.folder for part in parts}:
        try:
            folder.rmdir()
        except OSError:  # something of another's lies there, or it is gone
            continue


def _events(pause: Pause, folder: Path, file: Sealed, slots: Array) -> tuple[Array, Array]:
    """(market, ts) of the events of these markets."""
    markets, times = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for market, ts in sealed.places(folder, file, -EVER, EVER):
        mine = np.isin(market, slots)
        markets.append(market[mine].astype(np.int64))
        times.append(ts[mine])
        pause()
    return np.concatenate(markets), np.concatenate(times)


def _summed(_: Pause, kind: str, markets: Array, ts: Array, labels: Labels) -> _Said:
    days = ts // (DAY * MICROS) * DAY
    found = {day: np.unique(markets[days == day]) for day in np.unique(days).tolist()}
    bars = {of_bar(kind, rung, day) for day in found for rung in RUNGS if rung < DAY}
    if len(markets):
        bars |= {of_bar(kind, DAY, label) for label in np.unique(labels(markets, ts // MICROS)).tolist()}
    return _Said(found, sorted(bars), len(ts))


def _without(pause: Pause, folder: Path, file: Sealed, slots: Array, now: float) -> Sealed:
    return sealed.without(folder, file, slots, now, pause)
