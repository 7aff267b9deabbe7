"""One DuckDB file, an index that can be thrown away; and the one door through which blocking work leaves the loop."""

import logging
import os
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
from storage.errors import BrokenStore, Damaged, Unavailable

log = logging.getLogger(__name__)

T = TypeVar("T")


class Door:
    """Files, hashing, SQLite and DuckDB go through here: a bounded number of worker threads."""

    def __init__(self, threads: int = 8) -> None:
        self._limiter = trio.CapacityLimiter(threads)
        self.passed = 0

    async def run(self, work: Callable[..., T], *arguments: Any) -> T:
        """Run `work(*arguments)` on a worker thread and give back what it returns or raises."""
        self.passed += 1
        return await trio.to_thread.run_sync(lambda: work(*arguments), limiter=self._limiter)


class DatabaseStatistics(Struct, frozen=True):
    """What a database has done since it was opened."""

    reads: int
    writes: int
    read_seconds: float
    write_seconds: float
    bytes: int
    set_aside: str | None  # where a file that would not open went


class Database:
    """A DuckDB file opened by this process; reads run beside each other, writes one after the other."""

    def __init__(
        self, connection: Connection, path: Path, door: Door, set_aside: Path | None, seconds: float = 30.0
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

    @classmethod
    def open(cls, path: Path, door: Door, seconds: float = 30.0) -> "Database":
        """Open or create; a file that will not open, or was found damaged before, is set aside under a name of its own,
        never deleted.

        A read that takes longer than `seconds` is cancelled, as long as `watch` runs.
        """
        mark = _mark(path)
        if mark.exists():
            aside = _put_aside(path)
            mark.unlink()
            return cls(_connected(path), path, door, aside, seconds)
        try:
            return cls(_connected(path), path, door, None, seconds)
        except duckdb.Error as error:
            if isinstance(error, duckdb.IOException) and "set lock on file" in str(error):
                raise BrokenStore(f"{path} is in use by another process; stop it, or name another --data") from error
            aside = _put_aside(path)
            return cls(_connected(path), path, door, aside, seconds)

    async def read(self, work: Callable[..., T], *arguments: Any) -> T:
        """Run `work(cursor, *arguments)` in one read transaction on a worker thread.

        Raises Unavailable where it takes longer than a query may, and Damaged where the file does not hold what was
        put there.
        """
        self._reads += 1
        return await self._door.run(self._read, work, arguments)

    def _read(self, work: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        began = time.perf_counter()
        with self._connection.cursor() as cursor:
            self._running[id(cursor)] = began + self._seconds, cursor
            cursor.execute("BEGIN TRANSACTION READ ONLY")
            try:
                return work(cursor, *arguments)
            except duckdb.InterruptException as error:
                raise Unavailable(f"the query took longer than {self._seconds:g} s and was cancelled") from error
            except duckdb.Error as error:
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
        with self._connection.cursor() as cursor:
            cursor.execute("BEGIN TRANSACTION READ ONLY")
            try:
                yield cursor
            finally:
                with suppress(duckdb.Error):
                    cursor.execute("ROLLBACK")

    async def watch(self) -> None:
        """Cancel reads that take too long, until cancelled; BrokenStore where the database is of no use any more."""
        while True:
            await trio.sleep(min(1.0, self._seconds / 4))
            if self._fatal:
                raise BrokenStore(f"{self._path}: {self._fatal}; the next start rebuilds it")
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
        with self._connection.cursor() as cursor:
            cursor.execute("BEGIN TRANSACTION")
            try:
                result = work(cursor, *arguments)
                cursor.execute("COMMIT")
            except BaseException as error:
                with suppress(duckdb.Error):  # a commit that failed has ended the transaction itself
                    cursor.execute("ROLLBACK")
                if isinstance(error, duckdb.Error) and "No space left" in str(error):
                    raise Unavailable(f"{self._path}: no space left on the disk", retry_after=5) from error
                if isinstance(error, duckdb.Error) and self._broken(error):
                    raise BrokenStore(f"{self._path}: {self.damaged}; the next start rebuilds it") from error
                raise
            finally:
                self._write_seconds += time.perf_counter() - began
            return result

    def _broken(self, error: duckdb.Error) -> bool:
        """Whether this says that the file is damaged; if so, the next start is told to set it aside."""
        text = str(error)
        fatal = isinstance(error, duckdb.FatalException) or "invalidated" in text
        if not fatal and not isinstance(error, duckdb.SerializationException) and not any(s in text for s in DAMAGE):
            return False
        if fatal:
            self._fatal = text
        if not self.damaged:
            self.damaged = text.splitlines()[0]
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
        )

    def close(self) -> None:
        """Close the file; DuckDB checkpoints it."""
        self._connection.close()


DAMAGE = ("Corrupt database file", "Could not read enough bytes")  # what DuckDB says of a file that was damaged


def _mark(path: Path) -> Path:
    """Where it says that a database was found damaged."""
    return path.with_name(path.name + ".damaged")


def _put_aside(path: Path) -> Path | None:
    """Give a database another name; None where there is none."""
    if not path.exists():
        return None
    aside = path.with_name(f"{path.name}.broken-{time.strftime('%Y%m%dT%H%M%S')}")
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
            "checkpoint_threshold": "128MB",
            "memory_limit": f"{max(_memory() // 4, 512 << 20)}B",
            "preserve_insertion_order": True,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        },
    )
    try:
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
