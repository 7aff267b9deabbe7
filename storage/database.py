"""One DuckDB file, an index that can be thrown away; and the one door through which blocking work leaves the loop."""

import errno
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import trio
from duckdb import DuckDBPyConnection as Connection
from msgspec import Struct

from storage import schema
from storage.aside import free_name
from storage.errors import BrokenStore, Damaged, FailedDisk, Unavailable

log = logging.getLogger(__name__)

T = TypeVar("T")

CHECKPOINT_BYTES = 128 << 20  # of log


class Door:
    """Files, hashing, SQLite and DuckDB go through here: a bounded number of worker threads."""

    def __init__(self, threads: int = 8) -> None:
        self._limiter = trio.CapacityLimiter(threads)
        self._failed: FailedDisk | None = None
        self._failing = trio.Event()
        self.passed = 0

    async def run(self, work: Callable[..., T], *arguments: Any) -> T:
        """Run `work(*arguments)` on a worker thread and give back what it returns or raises."""
        self.passed += 1
        try:
            return await trio.to_thread.run_sync(lambda: work(*arguments), limiter=self._limiter)
        except FailedDisk as error:
            self._failed = error
            self._failing.set()
            raise

    async def watch(self) -> None:
        """Wait until cancelled; raise FailedDisk once anything that passed did, whoever was told of it."""
        await self._failing.wait()
        assert self._failed is not None
        raise FailedDisk(str(self._failed)) from self._failed


class DatabaseStatistics(Struct, frozen=True):
    """What a database has done since it was opened."""

    reads: int
    writes: int
    read_seconds: float
    write_seconds: float
    bytes: int
    set_aside: str | None  # where a file that would not open went
    checkpoints: int
    checkpoint_seconds: float
    checkpoint_failures: int  # for want of room
    log_bytes: int  # of what was committed since the last checkpoint
    failing: str  # why no checkpoint can be made; empty while all is well


class Database:
    """A DuckDB file opened by this process; reads run beside each other, writes one after the other."""

    def __init__(
        self,
        connection: Connection,
        path: Path,
        door: Door,
        set_aside: Path | None,
        seconds: float = 30.0,
        checkpoint_bytes: int = CHECKPOINT_BYTES,
    ) -> None:
        self._connection = connection
        self._path = path
        self._door = door
        self._writing = trio.Lock()
        self._seconds = seconds
        self.set_aside = set_aside
        self.damaged = ""  # what in the file cannot be read, which the next start will rebuild
        self._fatal = ""  # why nothing more can be done with the database
        self._running: dict[int, tuple[float, Connection]] = {}  # reads under way: when they must end
        self._reads = self._writes = 0
        self._read_seconds = self._write_seconds = 0.0
        self._idle: list[Connection] = []  # cursors of reads that are over, with the queries they have planned
        self._cursors = 0  # in use; `_free` tells when one ends
        self._free = threading.Condition()
        self._reopening = False
        self._checkpoint_bytes = checkpoint_bytes
        self._checkpoints = self._checkpoint_failures = 0
        self._checkpoint_seconds = 0.0
        self._failing = ""

    @classmethod
    def open(
        cls, path: Path, door: Door, seconds: float = 30.0, checkpoint_bytes: int = CHECKPOINT_BYTES
    ) -> "Database":
        """Open or create; a file that will not open, or was found damaged before, is set aside under a name of its own,
        never deleted.

        A read that takes longer than `seconds` is cancelled, as long as `watch` runs. Raises Unavailable where it will
        not open for want of room, memory or permission.
        """
        mark = _mark(path)
        aside = None
        if mark.exists():
            aside = _put_aside(path)
            mark.unlink()
        try:
            return cls(_connected(path), path, door, aside, seconds, checkpoint_bytes)
        except duckdb.Error as error:
            if isinstance(error, duckdb.IOException) and "set lock on file" in str(error):
                raise BrokenStore(f"{path} is in use by another process; stop it, or name another --data") from error
            if any(reason in str(error) for reason in NOT_ITS_FAULT):
                raise Unavailable(f"{path} cannot be opened: {_first_line(error)}") from error
            aside = _put_aside(path)
            return cls(_connected(path), path, door, aside, seconds, checkpoint_bytes)

    async def read(self, work: Callable[..., T], *arguments: Any) -> T:
        """Run `work(cursor, *arguments)` in one read transaction on a worker thread.

        Raises Unavailable where it takes longer than a query may, and Damaged where the file does not hold what was
        put there.
        """
        self._reads += 1
        # Whoever asked may not wait as long as a query may take.
        until = time.perf_counter() + trio.current_effective_deadline() - trio.current_time()
        return await self._door.run(self._read, until, work, arguments)

    def _read(self, until: float, work: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        began = time.perf_counter()
        until = min(until, began + self._seconds)
        with self._cursor(again=True) as cursor:
            self._running[id(cursor)] = until, cursor
            try:
                cursor.execute("BEGIN TRANSACTION READ ONLY")
                return work(cursor, *arguments)
            except duckdb.InterruptException as error:
                raise Unavailable(f"the query took longer than {until - began:.3g} s and was cancelled") from error
            except duckdb.Error as error:
                if NO_SPACE in str(error):  # for what it puts aside, or since a checkpoint found none
                    raise self._no_space() from error
                if not self._broken(error):
                    raise
                raise Damaged(f"history store: {self.damaged}; the next start rebuilds it", retry_after=60) from error
            finally:
                del self._running[id(cursor)]
                with suppress(duckdb.Error):  # one that was interrupted may have ended already
                    cursor.execute("ROLLBACK")
                self._read_seconds += time.perf_counter() - began

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """A read transaction on the caller's thread, for work that may take long; nobody cancels it."""
        with self._cursor() as cursor:
            try:
                cursor.execute("BEGIN TRANSACTION READ ONLY")
                yield cursor
            except duckdb.Error as error:
                if NO_SPACE in str(error):
                    raise self._no_space() from error
                raise
            finally:
                with suppress(duckdb.Error):
                    cursor.execute("ROLLBACK")

    @contextmanager
    def _cursor(self, again: bool = False) -> Iterator[Connection]:
        """A cursor for one transaction; `again`: the next one may go on with it, if all went well."""
        with self._free:
            if self._reopening:
                raise self._no_space()
            cursor = self._idle.pop() if again and self._idle else self._connection.cursor()
            self._cursors += 1
        well = False
        try:
            yield cursor
            well = True
        finally:
            with self._free:
                if again and well:
                    self._idle.append(cursor)
                else:
                    cursor.close()
                self._cursors -= 1
                self._free.notify_all()

    async def watch(self) -> None:
        """Cancel reads that take too long, until cancelled; BrokenStore where the database is of no use any more."""
        while True:
            await trio.sleep(min(1.0, self._seconds / 4))
            if self._fatal:
                raise BrokenStore(f"{self._path}: {self._fatal}")
            now = time.perf_counter()
            for deadline, cursor in list(self._running.values()):
                if now > deadline:
                    cursor.interrupt()

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    async def write(self, work: Callable[..., T], *arguments: Any) -> T:
        """Run `work(cursor, *arguments)` in one transaction: all of it is kept, or nothing.

        Raises Unavailable where the disk is full, and BrokenStore where the file is damaged: what is written depends on
        what is there.
        """
        async with self._writing:
            self._writes += 1
            return await self._door.run(self._write, work, arguments)

    def _write(self, work: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        began = time.perf_counter()
        with self._cursor() as cursor:
            try:
                cursor.execute("BEGIN TRANSACTION")
                result = work(cursor, *arguments)
                cursor.execute("COMMIT")
            except BaseException as error:
                with suppress(duckdb.Error):  # a commit that failed has ended the transaction itself
                    cursor.execute("ROLLBACK")
                if isinstance(error, duckdb.Error):
                    self._refused(error)
                raise
            finally:
                self._write_seconds += time.perf_counter() - began
        if self._log_bytes() >= self._checkpoint_bytes:
            self._checkpoint()
        return result

    def _refused(self, error: duckdb.Error) -> None:
        """Raise what it means that a transaction failed with this, where it is not a mistake of ours."""
        text = str(error)
        fatal = isinstance(error, duckdb.FatalException) or "invalidated" in text
        if NO_SPACE in text and not fatal:
            raise self._no_space() from error
        if NO_SPACE in text or (FAILED in text and not fatal):
            # The file is as it was or has the transaction: only the next start can tell.
            self._fatal = f"{_first_line(error)}; the next start goes on from the last commit"
            raise FailedDisk(f"{self._path}: {self._fatal}") from error
        if self._broken(error):
            raise BrokenStore(f"{self._path}: {self._fatal or self.damaged}") from error

    # A checkpoint puts what was committed from the log into the file. DuckDB would do so within some commit, and gives
    # itself up when that finds no room: nobody could tell then whether the commit counts. So it is done between two.

    def _checkpoint(self) -> None:
        log_bytes = self._log_bytes()
        if _room(self._path.parent) < log_bytes:
            self._give_up_checkpoint(f"no room to put {log_bytes} bytes of its log into the file")
            return
        began = time.perf_counter()
        try:
            with self._cursor() as cursor:
                cursor.execute("CHECKPOINT")
        except duckdb.TransactionException:
            return  # a read is in the way; the next write asks again
        except duckdb.Error as error:
            if NO_SPACE in str(error):
                self._give_up_checkpoint("no space left on the disk for a checkpoint")
                self._reopen()
            else:
                self._broken(error)  # what was committed stays; `watch` ends the process
            return
        if self._failing:
            log.info("%s: a checkpoint succeeded again", self._path)
        self._failing = ""
        self._checkpoints += 1
        self._checkpoint_seconds += time.perf_counter() - began

    def _give_up_checkpoint(self, why: str) -> None:
        if not self._failing:
            log.error("%s: %s; trying again", self._path, why)
        self._failing = why
        self._checkpoint_failures += 1

    def _reopen(self) -> None:
        """Open the file again after DuckDB has given itself up; what was committed is in its log. Blocks.

        Whoever is reading is refused by DuckDB, and whoever comes meanwhile by us.
        """
        with self._free:
            self._reopening = True
            ended = self._free.wait_for(lambda: not self._cursors, self._seconds)
        try:
            if not ended:
                raise BrokenStore(f"a read has not ended within {self._seconds:g} s")
            self._close()
            self._connection = _connected(self._path)
        except (duckdb.Error, BrokenStore) as error:
            self._fatal = f"after a checkpoint without room it could not be opened again: {_first_line(error)}"
        finally:
            with self._free:
                self._reopening = False

    def _no_space(self) -> Unavailable:
        return Unavailable(f"{self._path}: no space left on the disk", retry_after=5)

    def _log_bytes(self) -> int:
        try:
            return self._path.with_name(self._path.name + ".wal").stat().st_size
        except FileNotFoundError:
            return 0

    def _broken(self, error: duckdb.Error) -> bool:
        """Whether this says that the file is damaged; if so, the next start is told to set it aside."""
        text = str(error)
        fatal = isinstance(error, duckdb.FatalException) or "invalidated" in text
        if not fatal and not isinstance(error, duckdb.SerializationException) and not any(s in text for s in DAMAGE):
            return False
        if fatal:
            self._fatal = f"{text}; the next start rebuilds it"
        if not self.damaged:
            self.damaged = _first_line(error)
            log.error("%s is damaged: %s; the next start sets it aside and rebuilds it", self._path, self.damaged)
            with suppress(OSError):  # a full disk: the next start finds out for itself
                _mark(self._path).write_text(text)
        return True

    def statistics(self) -> DatabaseStatistics:
        """Counters for metrics."""
        size = self._path.stat().st_size if self._path.exists() else 0
        return DatabaseStatistics(
            self._reads,
            self._writes,
            self._read_seconds,
            self._write_seconds,
            size,
            str(self.set_aside) if self.set_aside else None,
            self._checkpoints,
            self._checkpoint_seconds,
            self._checkpoint_failures,
            self._log_bytes(),
            self._failing,
        )

    def close(self) -> None:
        """Close the file, after a checkpoint if there is room and anything to put into it."""
        if self._log_bytes() and not self._fatal:
            self._checkpoint()
        self._close()

    def _close(self) -> None:
        for cursor in self._idle:
            cursor.close()
        self._idle.clear()
        self._connection.close()


DAMAGE = ("Corrupt database file", "Could not read enough bytes")  # what DuckDB says of a file that was damaged
NO_SPACE, FAILED = os.strerror(errno.ENOSPC), os.strerror(errno.EIO)  # as DuckDB says it too
NOT_ITS_FAULT = tuple(
    os.strerror(number)
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
)


def _room(folder: Path) -> int:
    """Bytes that can still be written."""
    return shutil.disk_usage(folder).free


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def _mark(path: Path) -> Path:
    """Where it says that a database was found damaged."""
    return path.with_name(path.name + ".damaged")


def _put_aside(path: Path) -> Path | None:
    """Give a database another name; None where there is none."""
    if not path.exists():
        return None
    aside = free_name(path, "broken")
    for suffix in ("", ".wal"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            os.replace(part, aside.with_name(aside.name + suffix))
    return aside


def _connected(path: Path) -> Connection:
    connection = duckdb.connect(
        str(path),
        config={
            "threads": len(os.sched_getaffinity(0)),
            "checkpoint_threshold": "1TB",  # we do it ourselves
            "memory_limit": f"{max(_memory() // 4, 512 << 20)}B",
            "preserve_insertion_order": True,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        },
    )
    try:
        connection.execute("PRAGMA disable_checkpoint_on_shutdown")
        migrate(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _memory() -> int:
    """The machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def migrate(connection: Connection) -> None:
    """Bring the tables to the newest version; each step is one transaction."""
    connection.execute("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)")
    ((found,),) = connection.execute("SELECT max(version) FROM schema_version").fetchall()
    version = found or 0
    steps = schema.migrations()
    if version > len(steps):
        raise BrokenStore(
            f"the history store was made by a newer candled: schema {version}, this one knows {len(steps)}"
        )
    for number, statements in enumerate(steps[version:], start=version + 1):
        connection.execute("BEGIN TRANSACTION")
        for statement in statements:
            connection.execute(statement)
        connection.execute("INSERT INTO schema_version VALUES (?)", [number])
        connection.execute("COMMIT")
