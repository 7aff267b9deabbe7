"""Which sealed files there are and which of their events are no more, as of one snapshot of the database."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from duckdb import DuckDBPyConnection as Connection
from msgspec import structs

from storage import schema, sealed
from storage.commits import ROW_BITS, Dead
from storage.errors import BrokenStore
from storage.events import Array
from storage.sealed import Sealed

log = logging.getLogger(__name__)

FOLDER = "raw"  # beside the database
COLUMNS = ", ".join(Sealed.__struct_fields__)
MARKS = ", ".join("?" for _ in Sealed.__struct_fields__)


def listed(db: Connection) -> list[Sealed]:
    """All sealed files, in order of their batches."""
    return [Sealed(*row) for row in db.execute(f"SELECT {COLUMNS} FROM sealed ORDER BY first").fetchall()]


def damaged(db: Connection) -> list[str]:
    """Which files cannot be read, and why."""
    rows = db.execute("SELECT file, first, last, damaged FROM sealed WHERE damaged <> '' ORDER BY first").fetchall()
    return [f"sealed events: {file} (batches {first} to {last}): {why}" for file, first, last, why in rows]


def through(db: Connection) -> int:
    """All batches up to this one are sealed, or were dropped since."""
    ((last,),) = db.execute(
        "SELECT greatest((SELECT coalesce(max(last), 0) FROM sealed), (SELECT coalesce(max(seq), 0) FROM dropped))"
    ).fetchall()
    return int(last)


def folder(db: Connection) -> Path:
    """Where the sealed files of this database lie."""
    ((path,),) = db.execute("SELECT path FROM duckdb_databases() WHERE database_name = current_database()").fetchall()
    return Path(path).parent / FOLDER


def seal(db: Connection, file: Sealed) -> None:
    """From this transaction on, the events of these batches are read from their file."""
    if file.first != through(db) + 1:
        raise BrokenStore(f"sealed events: {file.file} cannot follow batch {through(db)}")
    _put(db, [file])
    for table in schema.SHAPES:
        db.execute(
            f"DELETE FROM {table} WHERE pos >= ? AND pos < ?", [file.first << ROW_BITS, file.last + 1 << ROW_BITS]
        )


def merge(db: Connection, file: Sealed, instead: Sequence[Sealed]) -> None:
    """From this transaction on, this file is read instead of those."""
    _remove(db, instead)
    _put(db, [file])


def damage(db: Connection, file: Sealed, why: str) -> None:
    """Read this file no more; `why` is empty where it is sound."""
    if why:
        log.error("sealed events: %s (batches %d to %d): %s; the rest serves", file.file, file.first, file.last, why)
    db.execute("UPDATE sealed SET damaged = ? WHERE file = ?", [why, file.file])


def take_back(db: Connection, dead: Sequence[tuple[int, Dead]]) -> None:
    """Note that these events are no more, each with the seq that took it back: files go on holding them."""
    if not dead:
        return
    pos, market, ts, seq = (
        pa.array(column) for column in zip(*((one.pos, one.market, one.ts, seq) for seq, one in dead), strict=True)
    )
    rows = pa.table({"pos": pos, "market": market, "ts": ts, "seq": seq})  # noqa: F841 - DuckDB reads it by its name
    db.execute("INSERT INTO dead BY NAME SELECT * FROM rows")


def remember(db: Connection, dead: Sequence[tuple[int, Dead]]) -> None:
    """Note what was taken back before this database noted such things."""
    if dead:
        places = np.array([one.pos for _, one in dead], np.int64)
        alive = living(db, places)
        take_back(db, [one for one, new in zip(dead, alive.tolist(), strict=True) if new])


def living(db: Connection, places: Array) -> Array:
    """Which of these places hold an event that was not taken back, as a mask."""
    if not len(places):
        return np.ones(0, np.bool_)
    dead = db.execute(
        "SELECT pos FROM dead WHERE pos BETWEEN ? AND ?", [int(places.min()), int(places.max())]
    ).fetchnumpy()["pos"]
    return ~np.isin(places, dead)


def settle(db: Connection, root: Path, kept_from: int) -> bool:
    """Bring manifest and folder together at a start; whether a database that is rebuilt will lack something, and needs
    another epoch (`candles.adopt`).

    `kept_from` is the oldest batch that the journal has. A file that no row names was left by a crash and is removed
    if its batches are elsewhere; if they are not, as in a new database, it gets its row. Of batches that are nowhere
    there is a row, too, which says so.
    """
    known = db.execute("SELECT epoch, applied_seq FROM meta").fetchall()
    new = not known
    epoch, applied = known[0] if known else ("", 0)
    before = listed(db)
    named = {file.file for file in before}
    missed = set() if new else {file.file for file in before if file.damaged}  # a rebuild has begun without them
    for file in _found(root):
        reached = through(db)
        if file.file in named:
            continue
        if file.last <= reached or (not new and file.first >= kept_from):
            (root / file.file).unlink()
        elif file.first <= reached:
            raise BrokenStore(f"sealed events: {file.file} begins within another file; remove one of them")
        else:
            _lose(db, reached + 1, file.first - 1)
            seal(db, file)
    if new:
        _lose(db, through(db) + 1, kept_from - 1)
    for path in root.glob(f"*{sealed.NEW}"):
        path.unlink()
    for file in listed(db):
        if file.content:
            damage(db, file, sealed.check(root, file, whole=file.last > applied or bool(file.damaged)))
        else:
            damage(db, file, file.damaged)
    if any(file.damaged and file.last > applied and file.file not in missed for file in listed(db)):
        db.execute("UPDATE meta SET epoch = ''")  # kept until there is another, whatever happens before
        return True
    return not new and not epoch


def _lose(db: Connection, first: int, last: int) -> None:
    if first <= last:
        why = "it was missing when the store was rebuilt; restore it and remove the store to have it rebuilt again"
        _put(db, [Sealed(first, last, sealed.name(first, last), 0, 0, 0, 0, 0, 0, "", 0, why)])


def _found(root: Path) -> list[Sealed]:
    """The files as they say themselves, the widest of each stretch of batches first, and of those that say the same
    the one that events were dropped from."""
    files = []
    for path in root.glob("*.parquet"):
        try:
            files.append(sealed.sealed(path))
        except sealed.UNREADABLE as error:
            log.error("sealed events: %s: it cannot be read: %s", path, error)
    return sorted(files, key=lambda file: (file.first, -file.last, file.events))


def _put(db: Connection, files: Iterable[Sealed]) -> None:
    for file in files:
        db.execute(f"INSERT INTO sealed ({COLUMNS}) VALUES ({MARKS})", list(structs.astuple(file)))


def _remove(db: Connection, files: Iterable[Sealed]) -> None:
    for file in files:
        db.execute("DELETE FROM sealed WHERE file = ?", [file.file])
