"""One SQLite file: the truth about everything that is acknowledged and is not an event."""

import logging
import os
import shlex
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Self

from storage.errors import BrokenStore, FailedDisk, Unavailable

log = logging.getLogger(__name__)

Connection = sqlite3.Connection
Migration = Sequence[str]  # statements that lead from one version of the file to the next

STATE = "state.db"  # the file that is not made again
APPLICATION = 0x63_64_6C_64  # "cdld": tells our files from other people's
PATIENCE = 10.0  # seconds to wait for another process that is writing
SPARE = 4  # connections kept open between calls
LONGEST_LOG = 64 << 20  # bytes the write-ahead log is cut back to after a burst

BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
BROKEN = {
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
}
DAMAGED = {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}
UNWRITABLE = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM}

# Forward only; a released entry is never edited. markets.words is what search reads: every word once, each with two
# blanks before it, so that "starts a word" is a phrase of trigrams even for one letter.
MIGRATIONS: Sequence[Migration] = (
    (
        """
        CREATE TABLE markets (
            slot INTEGER PRIMARY KEY,
            key TEXT NOT NULL UNIQUE,
            contract_key TEXT,
            words TEXT NOT NULL,
            tags TEXT NOT NULL,
            market_id INTEGER NOT NULL UNIQUE,
            market_symbol TEXT NOT NULL,
            kind TEXT NOT NULL,
            contract_address TEXT,
            chain_id INTEGER,
            vault_address TEXT,
            oracle_address TEXT,
            name TEXT,
            description TEXT,
            category TEXT,
            base_asset TEXT,
            quote_asset TEXT,
            min_trade_size TEXT,
            max_leverage TEXT,
            trading_fee_rate TEXT,
            funding_interval INTEGER,
            is_active INTEGER NOT NULL,
            created_timestamp INTEGER NOT NULL,
            deployment_block INTEGER,
            creator_address TEXT,
            icon_url TEXT,
            banner_url TEXT,
            website_url TEXT,
            tier TEXT,
            supply TEXT,
            price_source TEXT NOT NULL,
            session TEXT NOT NULL,
            timezone TEXT NOT NULL,
            pricescale INTEGER NOT NULL,
            minmov INTEGER NOT NULL
        )
        """,
        # A market that names no chain shares its contract with no other that names none.
        """
        CREATE UNIQUE INDEX markets_contract ON markets (contract_key, coalesce(chain_id, -1))
        WHERE contract_key IS NOT NULL
        """,
        "CREATE INDEX markets_listed ON markets (kind, key) WHERE is_active",
        """
        CREATE VIRTUAL TABLE markets_text USING fts5(
            words, tags, content = 'markets', content_rowid = 'slot',
            columnsize = 0, tokenize = 'trigram case_sensitive 1'
        )
        """,
        """
        CREATE TRIGGER markets_added AFTER INSERT ON markets BEGIN
            INSERT INTO markets_text (rowid, words, tags) VALUES (new.slot, new.words, new.tags);
            UPDATE market_counts SET registered = registered + 1, active = active + new.is_active;
        END
        """,
        """
        CREATE TRIGGER markets_changed AFTER UPDATE ON markets
        WHEN old.words <> new.words OR old.tags <> new.tags BEGIN
            INSERT INTO markets_text (markets_text, rowid, words, tags)
                VALUES ('delete', old.slot, old.words, old.tags);
            INSERT INTO markets_text (rowid, words, tags) VALUES (new.slot, new.words, new.tags);
            UPDATE market_counts SET active = active + new.is_active - old.is_active;
        END
        """,
        "CREATE TABLE market_counts (registered INTEGER NOT NULL, active INTEGER NOT NULL)",
        "INSERT INTO market_counts VALUES (0, 0)",
        """
        CREATE TABLE keys (
            id INTEGER PRIMARY KEY,
            hash BLOB NOT NULL UNIQUE,
            scope TEXT NOT NULL,
            name TEXT NOT NULL,
            created INTEGER NOT NULL,
            last_used INTEGER,
            revoked INTEGER
        )
        """,
    ),
    (
        "CREATE TABLE floors (kind TEXT, rung INTEGER, before INTEGER, seq INTEGER, PRIMARY KEY (kind, rung))",
        "CREATE TABLE closed (day INTEGER PRIMARY KEY, markets BLOB NOT NULL)",
        "CREATE TABLE dropped (seq INTEGER NOT NULL)",
        "CREATE TABLE frozen "
        "(kind TEXT, rung INTEGER, low INTEGER, parts BLOB NOT NULL, PRIMARY KEY (kind, rung, low))",
    ),
    (
        """
        CREATE TABLE cards (
            key TEXT PRIMARY KEY,
            id TEXT NOT NULL,
            name TEXT,
            game TEXT,
            set_code TEXT,
            set_name TEXT,
            collector_number TEXT,
            rarity TEXT,
            formats TEXT NOT NULL DEFAULT '[]',
            image_url TEXT
        ) WITHOUT ROWID
        """,
        """
        CREATE TABLE marketplaces (
            key TEXT PRIMARY KEY,
            id TEXT NOT NULL,
            name TEXT,
            url TEXT,
            currency TEXT
        ) WITHOUT ROWID
        """,
    ),
    (
        """
        CREATE TABLE feeds (
            id INTEGER PRIMARY KEY,
            name TEXT NOT NULL UNIQUE,
            since INTEGER NOT NULL,
            heard INTEGER NOT NULL,
            standing TEXT NOT NULL
        )
        """,
        """
        CREATE TABLE feed_spans (
            feed INTEGER NOT NULL, low INTEGER NOT NULL, high INTEGER NOT NULL,
            PRIMARY KEY (feed, low)
        ) WITHOUT ROWID
        """,
        """
        CREATE TABLE members (
            slot INTEGER NOT NULL, feed INTEGER NOT NULL, low INTEGER NOT NULL, high INTEGER,
            PRIMARY KEY (slot, feed, low)
        ) WITHOUT ROWID
        """,
        "CREATE INDEX members_watched ON members (feed) WHERE high IS NULL",
        """
        CREATE TABLE covered (
            slot INTEGER NOT NULL, feed INTEGER NOT NULL, low INTEGER NOT NULL, high INTEGER NOT NULL,
            PRIMARY KEY (slot, feed, low)
        ) WITHOUT ROWID
        """,
    ),
    (
        """
        CREATE TABLE marks (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            slot INTEGER NOT NULL,
            at INTEGER NOT NULL,
            place TEXT NOT NULL,
            text TEXT NOT NULL,
            label TEXT NOT NULL,
            color TEXT NOT NULL
        )
        """,
        "CREATE INDEX marks_at ON marks (slot, at)",
    ),
    (
        """
        CREATE TABLE saved (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            client TEXT NOT NULL,
            user TEXT NOT NULL,
            kind TEXT NOT NULL,
            place TEXT NOT NULL,
            name TEXT NOT NULL,
            symbol TEXT NOT NULL,
            resolution TEXT NOT NULL,
            content TEXT NOT NULL,
            bytes INTEGER NOT NULL,
            changed INTEGER NOT NULL
        )
        """,
        "CREATE INDEX saved_whose ON saved (client, user, kind, place, name, bytes)",
        "CREATE TABLE saved_bytes (bytes INTEGER NOT NULL)",
        "INSERT INTO saved_bytes VALUES (0)",
        """
        CREATE TRIGGER saved_added AFTER INSERT ON saved BEGIN
            UPDATE saved_bytes SET bytes = bytes + new.bytes;
        END
        """,
        """
        CREATE TRIGGER saved_changed AFTER UPDATE OF bytes ON saved BEGIN
            UPDATE saved_bytes SET bytes = bytes + new.bytes - old.bytes;
        END
        """,
        """
        CREATE TRIGGER saved_removed AFTER DELETE ON saved BEGIN
            UPDATE saved_bytes SET bytes = bytes - old.bytes;
        END
        """,
    ),
    (
        "CREATE TABLE tiers (slot INTEGER PRIMARY KEY, tier INTEGER NOT NULL)",
        "CREATE INDEX tiers_of ON tiers (tier)",
        "CREATE INDEX markets_tiered ON markets (tier) WHERE tier IS NOT NULL",
    ),
)


class State:
    """An SQLite file that threads and processes share: many readers, one writer at a time.

    A connection serves one call at a time and is kept for the next one, on whatever thread that runs.
    """

    def __init__(self, path: Path, synchronous: Literal["FULL", "NORMAL"]) -> None:
        self.path = path
        self._synchronous = synchronous
        self._guard = threading.Lock()  # over the two below
        self._spare: list[Connection] = []
        # Never used: when the last connection closes, SQLite's log goes, and on a full disk it could not come back.
        self._anchor: Connection | None = None
        self._closed = False
        self._writing = threading.Lock()  # our own threads queue here, not in SQLite's sleeping retries
        self._unwritable: Unavailable | None = None  # why it can only be read
        self.damaged = ""  # what was found to be damaged in it, and what to do
        self.says_damage = False  # in the log, once: whoever asks may hear of it otherwise

    @classmethod
    def open(
        cls,
        path: Path,
        migrations: Sequence[Migration] = MIGRATIONS,
        *,
        synchronous: Literal["FULL", "NORMAL"] = "FULL",
        or_read: bool = False,
    ) -> Self:
        """The file at `path`, made if it does not exist, brought to the newest version if it is older.

        `or_read`: where nothing can be written, on a full disk or in a folder that is read-only, it is opened for
        reading alone.
        """
        state = cls(path, synchronous)
        try:
            state._begin(migrations)
        except Unavailable as error:
            if not (or_read and _at_rest(path) and _written_nowhere(error)):
                raise
            state.close()
            state = cls(path, synchronous)
            state._unwritable = error
            with state._named_errors(), state._connection() as db:
                if _known(db, path, migrations) < len(migrations):
                    raise
        return state

    def _begin(self, migrations: Sequence[Migration]) -> None:
        with self._named_errors():
            created = not self.path.exists()
            if created:
                _make(self.path)
            with self._connection() as db:
                _prepare(db, self.path, migrations)
                self._anchor = self._connect()
                self._anchor.execute("SELECT 1 FROM sqlite_master").fetchall()
            if created:
                _sync_directory(self.path.parent)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One unchanging view of the file for as long as the block lasts."""
        with self._named_errors(), self._connection() as db:
            db.execute("BEGIN")
            try:
                yield db
            finally:
                db.execute("ROLLBACK")

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction: on disk when the block ends, undone when it raises."""
        if self._unwritable is not None:
            raise self._unwritable
        with self._named_errors(), self._writing, self._connection() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")

    def check(self) -> str:
        """What is wrong inside the file, read from end to end, and what to do; nothing when it is sound."""
        try:
            with self._named_errors(), self._connection() as db:
                found = [str(row[0]) for row in db.execute("PRAGMA quick_check")]
        except BrokenStore as error:  # too damaged to be read to the end
            return str(error)
        if found != ["ok"]:
            self._note(_damage(self.path, found[0]))
        return self.damaged

    def _note(self, damage: str) -> None:
        if self.says_damage and not self.damaged:
            log.error("%s", damage)
        self.damaged = damage

    def backup(self, target: Path) -> None:
        """A copy of the file as it is now, at a path that does not exist yet, while others read and write."""
        with self._named_errors(), self._connection() as db:
            db.execute("VACUUM INTO ?", [str(target)])

    def close(self) -> None:
        """Close every connection that is not in use; those in use close when their call ends."""
        with self._guard:
            self._closed = True
            spare, self._spare = self._spare, []
            if self._anchor is not None:
                spare.append(self._anchor)
        for db in spare:
            db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        with self._guard:
            if self._closed:
                raise Unavailable(f"{self.path}: closed")
            db = self._spare.pop() if self._spare else None
        if db is None:
            db = self._connect()
        keep = False
        try:
            yield db
            keep = True
        except Exception as error:
            # One whose file has failed is not trusted again; anything else is the caller's affair.
            keep = not isinstance(error, sqlite3.Error)
            raise
        finally:
            with self._guard:
                keep = keep and not self._closed and not db.in_transaction and len(self._spare) < SPARE
                if keep:
                    self._spare.append(db)
            if not keep:
                db.close()

    def _connect(self) -> Connection:
        # Any thread may use it, though only one at a time: `_connection` hands it to one caller.
        # SQLite reads a file that nobody writes to without files of its own beside it if it is told so.
        alone = self._unwritable is not None
        where = f"{self.path.absolute().as_uri()}?mode=ro&immutable=1" if alone else self.path
        db = sqlite3.connect(where, timeout=PATIENCE, isolation_level=None, check_same_thread=False, uri=alone)
        try:
            db.execute(f"PRAGMA synchronous = {self._synchronous}")
            db.execute(f"PRAGMA journal_size_limit = {LONGEST_LOG}")
        except BaseException:
            db.close()
            raise
        return db

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            meant = named(error, self.path)
            if meant is None:
                raise
            if error.sqlite_errorcode & 0xFF in DAMAGED:
                self._note(str(meant))
            raise meant from error


def named(error: sqlite3.Error, path: Path) -> Unavailable | BrokenStore | None:
    """What an SQLite error means to whoever asked, naming the file; None where it is a mistake in our SQL."""
    extended: int = getattr(error, "sqlite_errorcode", 0)  # absent where the module itself objects
    code = extended & 0xFF
    if code in BUSY:
        return Unavailable(f"{path}: another process has been writing for over {PATIENCE:g} s")
    # The log's index cannot grow on a full disk either, and SQLite calls that an I/O error.
    if code == sqlite3.SQLITE_FULL or extended == sqlite3.SQLITE_IOERR_SHMSIZE:
        return Unavailable(f"{path}: the disk is full", retry_after=10)
    if code == sqlite3.SQLITE_IOERR and extended not in (sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ):
        return FailedDisk(f"{path}: {error} ({error.sqlite_errorname})")
    if code in DAMAGED:
        return BrokenStore(_damage(path, f"{error}"))
    beside = code == sqlite3.SQLITE_CANTOPEN and os.access(path, os.R_OK)  # SQLite has a log beside it
    if code in UNWRITABLE or beside:
        return Unavailable(f"{path}: nothing can be written to it or beside it, by this user or at all", retry_after=10)
    if code in BROKEN:
        return BrokenStore(f"{path}: {error} ({error.sqlite_errorname})")
    return None


def _damage(path: Path, what: str) -> str:
    """That a file is damaged, and what to do."""
    if path.name == STATE:
        data = shlex.quote(str(path.parent))
        remedy = f"put it back, or restore a backup: candled restore BACKUP --data {data} --force"
    else:
        remedy = "move it away, and a new one is made"
    return f"{path}: damaged: {' '.join(what.split())}; {remedy}"


def _prepare(db: Connection, path: Path, migrations: Sequence[Migration]) -> None:
    """See that the file is ours and of a version we know, and bring it forward."""
    known = _known(db, path, migrations)
    _keep_a_log(db, path)
    if known == len(migrations):
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        # Read again: another process may have done it meanwhile.
        for statements in migrations[_version(db, path, migrations) :]:
            for statement in statements:
                db.execute(statement)
        db.execute(f"PRAGMA application_id = {APPLICATION}")
        db.execute(f"PRAGMA user_version = {len(migrations)}")
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")


def _known(db: Connection, path: Path, migrations: Sequence[Migration]) -> int:
    """The version of a file that is ours, or empty."""
    ours = db.execute("PRAGMA application_id").fetchone()[0]
    tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if ours != APPLICATION and tables:
        raise BrokenStore(f"{path}: an SQLite file of another program (application id {ours})")
    return _version(db, path, migrations)


def _at_rest(path: Path) -> bool:
    """Whether all that was written to a file is in it: nothing is in a log beside it."""
    log = path.with_name(path.name + "-wal")
    return path.exists() and (not log.exists() or not log.stat().st_size)


def _written_nowhere(error: Unavailable) -> bool:
    """Whether an error says that nothing can be written beside a file."""
    cause = error.__cause__
    return isinstance(cause, sqlite3.Error) and cause.sqlite_errorcode & 0xFF not in BUSY


def _make(path: Path) -> None:
    try:
        # Hashes of keys are nobody else's business.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise BrokenStore(f"{path}: {error.strerror}") from error


def _version(db: Connection, path: Path, migrations: Sequence[Migration]) -> int:
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    if version > len(migrations):
        raise BrokenStore(f"{path}: version {version}, written by a newer candled; this one knows {len(migrations)}")
    return version


def _keep_a_log(db: Connection, path: Path) -> None:
    """Switch the file to write-ahead logging; SQLite does not wait here when another process does the same."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            mode = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
            continue
        if mode != "wal":
            raise BrokenStore(f"{path}: the file system cannot carry a write-ahead log (SQLite answered {mode!r})")
        return


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
