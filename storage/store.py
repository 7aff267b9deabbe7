"""What the actors ask of the disk, as async functions: bars as of one snapshot, and one commit per flush."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from duckdb import DuckDBPyConnection as Connection
from msgspec import Struct

from storage import archive, candles, flush, ledger, manifest, partitions, recent, retention, sealed
from storage.archive import Moved, Snapshot, Waiting
from storage.candles import Ended
from storage.commits import ROW_BITS, Dead
from storage.database import Database
from storage.errors import Unavailable
from storage.events import Array, Events
from storage.flush import Flush
from storage.partials import Partials
from storage.partitions import BrokenPartition, Part, Partition
from storage.recent import Recent
from storage.retention import Floor
from storage.sealed import Sealed

log = logging.getLogger(__name__)

AGAIN = 3  # times that a file is looked for: a newer one may have taken its place meanwhile

T = TypeVar("T")


class History(Protocol):
    """Stored bars, each answer with the seq that the snapshot behind it reaches."""

    async def between(self, kind: str, rung: int, market: int, start: int, end: int) -> tuple[Partials, int]: ...
    async def shown(
        self, kind: str, rung: int, market: int, start: int, end: int
    ) -> tuple[dict[str, Array] | None, int]: ...
    async def newest(self, kind: str, rung: int, market: int, before: int, count: int) -> tuple[Partials, int]: ...
    async def at(self, kind: str, rung: int, market: int, times: list[int]) -> tuple[Partials, int]: ...
    async def changed(self, kind: str, rung: int, market: int, since: int, limit: int) -> tuple[list[int], int]: ...
    async def days(self, kind: str, market: int) -> tuple[list[int], int]: ...
    async def ended(self, rung: int, market: int, since: int, limit: int) -> tuple[list[Ended], int]: ...
    async def last_change(self, kind: str, market: int) -> tuple[int, int]: ...
    async def telling(self, market: int, since: int, price_type: int, names: Sequence[str]) -> Events: ...
    async def recent(
        self, kind: str, markets: Sequence[int], since: int, second: int, price_type: int, names: Sequence[str]
    ) -> tuple[Recent, int]: ...


class StoreStatistics(Struct, frozen=True):
    """What was asked of the store, since the start."""

    history_reads: int  # reads of bars
    flushes: int
    compactions: int


class Store:
    """The embedded store: DuckDB behind its own door."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._history_reads = self._flushes = self._compactions = 0
        self._broken: dict[Partition, str] = {}
        self._unread: dict[Sealed, str] = {}  # files that events could not be read from
        self.archive = db.path.with_name("archive")
        self.snapshot: Snapshot = db.snapshot

    async def between(self, kind: str, rung: int, market: int, start: int, end: int) -> tuple[Partials, int]:
        """The rows of one market with start ≤ t < end, not yet summed."""
        return await self._read(candles.between, kind, rung, market, start, end)

    async def shown(
        self, kind: str, rung: int, market: int, start: int, end: int
    ) -> tuple[dict[str, Array] | None, int]:
        """What charts show of the bars of one market with start ≤ t < end; None where rows have to be summed first."""
        return await self._read(candles.shown, kind, rung, market, start, end)

    async def newest(self, kind: str, rung: int, market: int, before: int, count: int) -> tuple[Partials, int]:
        """The rows of the `count` newest buckets of one market with t < before, not yet summed."""
        return await self._read(candles.newest, kind, rung, market, before, count)

    async def at(self, kind: str, rung: int, market: int, times: list[int]) -> tuple[Partials, int]:
        """The rows of one market in these buckets, not yet summed."""
        return await self._read(candles.at, kind, rung, market, times)

    async def changed(self, kind: str, rung: int, market: int, since: int, limit: int) -> tuple[list[int], int]:
        """The buckets of one market that changed after this seq, at most `limit`, the newest first."""
        return await self._read(candles.changed, kind, rung, market, since, limit)

    async def days(self, kind: str, market: int) -> tuple[list[int], int]:
        """The days of one market that have a bar, ascending; of what cannot be read, all that may have one."""
        return await self._read(candles.days, kind, market)

    async def ended(self, rung: int, market: int, since: int, limit: int) -> tuple[list[Ended], int]:
        """The buckets of one market whose bar ended after this seq, at most `limit`."""
        return await self._read(candles.ended, rung, market, since, limit)

    async def last_change(self, kind: str, market: int) -> tuple[int, int]:
        """The newest seq that changed anything of one market."""
        return await self._read(candles.last_change, kind, market)

    async def telling(self, market: int, since: int, price_type: int, names: Sequence[str]) -> Events:
        """The events of one market that say one of these numbers, or have a price of this type: see `ledger`."""
        return await self._db.read(ledger.telling, [market], since, price_type, names)

    async def recent(
        self, kind: str, markets: Sequence[int], since: int, second: int, price_type: int, names: Sequence[str]
    ) -> tuple[Recent, int]:
        """The last day of many markets in one look; see `recent.recent`."""
        return await self._read(recent.recent, kind, markets, since, second, price_type, names)

    async def _read(self, work: Callable[..., T], *arguments: Any) -> tuple[T, int]:
        self._history_reads += 1
        for tried in range(1, AGAIN + 1):
            try:
                return await self._db.read(lambda db: (work(db, *arguments), candles.applied(db)))
            except BrokenPartition as error:
                if tried == AGAIN or not error.missing:
                    self.note(error.part.partition, str(error))
                    raise
        raise AssertionError("unreachable")

    # --- the archive

    async def waiting(self, before: int) -> list[Waiting]:
        """The periods that ended before this second and have rows in DuckDB."""
        return await self._db.read(archive.waiting, before)

    async def adopt(self, moved: Moved) -> None:
        """Have new files answer for a partition; raises `archive.Changed` where they cannot."""
        await self._db.write(archive.adopt, moved)

    async def parts(self) -> list[Part]:
        """All files of the archive."""
        return await self._db.read(partitions.everything)

    def broken(self) -> dict[Partition, str]:
        """The archived partitions that cannot be read, and why."""
        return dict(self._broken)

    def note(self, where: Partition, why: str) -> None:
        """This partition cannot be read."""
        if where not in self._broken:
            log.error("archive: %s", why)
        self._broken[where] = why

    def mended(self, where: Partition) -> None:
        """This partition can be read again."""
        log.info("archive: %s can be read again", where)
        self._broken.pop(where, None)

    async def commit(self, work: Flush) -> None:
        """Put a flush into the store; all of it or nothing."""
        self._flushes += 1
        await self._db.write(flush.apply, work)

    async def events_at(self, places: Array) -> Events:
        """The events at these places; `damage` names a sealed file that they cannot be read from, until they can."""
        try:
            found = await self._db.read(ledger.at, places)
        except Unavailable as error:
            if isinstance(error.__cause__, sealed.Damaged) and not error.__cause__.file.damaged:
                damage = error.__cause__
                log.error("%s", damage)
                self._unread[damage.file] = str(damage)
            raise
        batches = places >> ROW_BITS
        for file in [file for file in self._unread if ((batches >= file.first) & (batches <= file.last)).any()]:
            del self._unread[file]
        return found

    async def compact(self, kind: str, rung: int, most: int, span: int) -> int:
        """Sum the newest stretch of a resolution into the ordered bars if it has more than `most` rows."""
        if await self._db.read(candles.backlog, kind, rung) <= most:
            return 0
        self._compactions += 1
        return await self._db.write(candles.compact, kind, rung, span)

    async def seal(self, file: Sealed) -> None:
        """Have the events of a sealed file read from there."""
        await self._db.write(manifest.seal, file)

    async def remember(self, dead: Sequence[tuple[int, Dead]]) -> None:
        """Note what was taken back, so far as that is not noted."""
        await self._db.write(manifest.remember, dead)

    async def merge(self, file: Sealed, instead: Sequence[Sealed]) -> None:
        """Have one sealed file read in place of several."""
        await self._db.write(manifest.merge, file, instead)

    # --- retention

    async def beside(self, where: Partition, seq: int) -> int:
        """How many rows of a partition, of batches up to this one, are not in the archive."""
        return await self._db.read(retention.beside, where, seq)

    async def drop_bars(self, kind: str, rung: int, floor: Floor) -> tuple[int, list[Part]]:
        """Drop all bars of a resolution below a floor: how many rows, and the files to remove."""
        return await self._db.write(retention.drop_bars, kind, rung, floor)

    async def close(self, rows: Sequence[tuple[int, bytes]], kind: str, slots: Array, seq: int) -> None:
        """These days are closed; streams of the kind that stand before this batch begin anew."""

        def work(db: Connection) -> None:
            retention.close(db, rows)
            retention.forget_ended(db, kind, slots, seq)

        await self._db.write(work)

    async def drop_events(self, kind: str, slots: Array, old: Sealed, new: Sealed | None) -> None:
        """Have a file without the events of a kind read in place of one with them."""
        await self._db.write(retention.drop_events, kind, slots, old, new)

    async def drop_batches(self, seq: int) -> None:
        """Batches up to this one are in no file any more."""
        await self._db.write(retention.drop_batches, seq)

    async def forget_identities(self, seq: int) -> None:
        """What these batches let go of is in the files of identities."""
        await self._db.write(retention.forget_identities, seq)

    async def damaged(self, file: Sealed, why: str) -> None:
        """Read a sealed file no more, or again where `why` is empty."""
        await self._db.write(manifest.damage, file, why)

    async def put_right(self, wanted: Events, unwanted: Array) -> None:
        """Have these events in the tables, and none at those places."""
        await self._db.write(ledger.put_right, wanted, unwanted)

    async def damage(self) -> list[str]:
        """What is wrong with sealed files."""
        return sorted({*await self._db.read(manifest.damaged), *self._unread.values()})

    def statistics(self) -> StoreStatistics:
        """Counters for metrics and tests."""
        return StoreStatistics(self._history_reads, self._flushes, self._compactions)
