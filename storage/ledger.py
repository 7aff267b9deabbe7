"""The events as sent, in tables and, once they are sealed, in files: put, dropped by place, found by place and time."""

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from duckdb import DuckDBPyConnection as Connection

from storage import manifest, schema, sealed
from storage.commits import ROW_BITS, Dead
from storage.errors import Unavailable
from storage.events import Array, Events, concat
from storage.measures import INPUTS
from storage.rows import from_arrow, to_arrow
from storage.sealed import Damaged, Sealed, Within

log = logging.getLogger(__name__)

T = TypeVar("T")

# What a fold reads of an event; and what tells that it is a finished bar, which is none, and whether that has a price.
_SQL = " ".join(
    [schema.PLACE, "price_type", "rung", "open", *(sql for inputs in INPUTS.values() for sql in inputs.values())]
)
FOLDED = tuple(name for name in schema.STORED if re.search(rf"\b{name}\b", _SQL))
PIECE = 1_000_000  # sealed events that are handed out at a time


def put(db: Connection, batches: Sequence[Events]) -> int:
    """Add events that have their places; each lies in the narrowest table that holds all it says."""
    by_shape: dict[str, list[Events]] = {}
    for events in batches:
        if events.n:
            by_shape.setdefault(schema.shape_of(set(events.columns)), []).append(events)
    for shape, some in by_shape.items():
        rows = to_arrow(concat(some))  # noqa: F841 - DuckDB reads the table by its name here
        db.execute(f"INSERT INTO {shape} BY NAME SELECT * FROM rows")
    return sum(events.n for events in batches)


def drop(db: Connection, dead: Sequence[tuple[int, Dead]]) -> None:
    """Take events out, each with the seq that took it back."""
    places = np.array([event.pos for _, event in dead], np.int64)
    gone = pa.table({"pos": pa.array(places)})  # noqa: F841 - DuckDB reads the table by its name here
    for shape in schema.SHAPES:
        db.execute(
            f"DELETE FROM {shape} WHERE pos BETWEEN ? AND ? AND pos IN (SELECT pos FROM gone)",
            [int(places.min()), int(places.max())],
        )
    manifest.take_back(db, dead)


def put_right(db: Connection, wanted: Events, unwanted: Array) -> None:
    """Take out what is at these places, which nobody has taken back, and add events: a repair."""
    gone = pa.table({"pos": pa.array(unwanted)})  # noqa: F841 - DuckDB reads the table by its name here
    for shape in schema.SHAPES:
        db.execute(f"DELETE FROM {shape} WHERE pos IN (SELECT pos FROM gone)")
    put(db, [wanted])


def at(db: Connection, places: Array) -> Events:
    """The events at these places, in order of place; places that hold none are left out.

    Unavailable where one of them lies in a file that cannot be read.
    """
    places = np.unique(places)
    wanted = pa.table({"pos": pa.array(places)})  # noqa: F841 - DuckDB reads the table by its name here
    fresh = db.sql(
        "SELECT * FROM ledger WHERE pos BETWEEN ? AND ? AND pos IN (SELECT pos FROM wanted) ORDER BY pos",
        params=[int(places.min()), int(places.max())],
    ).to_arrow_table()
    try:
        older = list(_sealed_at(db, places, schema.STORED))
    except Damaged as damage:
        raise Unavailable(f"{damage}; what it holds cannot be corrected or taken back", retry_after=3600) from damage
    if not older:
        return from_arrow(fresh)
    found = from_arrow(pa.concat_tables([*older, fresh], promote_options="default"))
    return found.take(np.argsort(found.integers("pos")))


def prices_at(db: Connection, places: Array) -> pa.Table:
    """Of the events at these places, those with a price: market, ts, price_type, pos."""
    columns = ("market", "ts", "price_type", "pos", "price")
    wanted = pa.table({"pos": pa.array(places)})  # noqa: F841 - DuckDB reads the table by its name here
    low, high = (int(places.min()), int(places.max())) if len(places) else (0, -1)
    fresh = db.sql(
        f"SELECT {', '.join(columns)} FROM ledger WHERE pos BETWEEN ? AND ? AND pos IN (SELECT pos FROM wanted)",
        params=[low, high],
    ).to_arrow_table()
    older = _all(db, lambda file: list(sealed.at(manifest.folder(db), file, np.unique(places), columns)))
    found = pa.concat_tables([fresh, *(table for some in older for table in some)], promote_options="default")
    priced = pc.greater(found.column("price"), 0).fill_null(False)
    return found.filter(priced).drop_columns("price")


def sealed_within(db: Connection, wanted: Within) -> Iterator[pa.Table]:
    """What a fold reads of the sealed events that are looked for and were not taken back, some at a time.

    A file that cannot be read is marked as damaged and left out.
    """
    some: list[pa.Table] = []
    count = 0
    for file in _readable(db):
        try:
            for table in sealed.within(manifest.folder(db), file, wanted, FOLDED):
                alive = table.filter(pa.array(manifest.living(db, table.column("pos").to_numpy())))
                if alive.num_rows:
                    some.append(alive)
                    count += alive.num_rows
                if count >= PIECE:
                    yield pa.concat_tables(some, promote_options="default")
                    some, count = [], 0
        except Damaged as damage:
            manifest.damage(db, file, damage.why)
    if some:
        yield pa.concat_tables(some, promote_options="default")


def telling(db: Connection, markets: Sequence[int], since: int, price_type: int, names: Sequence[str]) -> Events:
    """The events of these markets with ts ≥ since (µs) that say one of these numbers, or have a price of this type.

    They have only what tells their order, their price and these numbers. A file that cannot be read is left out.
    """
    columns = ("market", "ts", "block_number", "log_index", "trade_no", "trade_id", "pos", "price_type", "price")
    said = f"({' OR '.join(f'{name} IS NOT NULL' for name in names)} OR (price_type = {price_type} AND price > 0))"
    wanted = Within(np.unique(markets), since, 2**62, 2**38)
    relation = f"SELECT {', '.join((*columns, *names))} FROM ledger"
    where = f"WHERE market IN ({', '.join(map(str, markets))}) AND ts >= {since} AND {said}"
    parts = [db.sql(f"{relation} {where}").to_arrow_table()]
    for file in _readable(db):
        try:
            for table in sealed.within(manifest.folder(db), file, wanted, (*columns, *names)):
                piece = table.filter(pa.array(manifest.living(db, table.column("pos").to_numpy())))
                both = f"(({relation} LIMIT 0) UNION ALL BY NAME SELECT * FROM piece)"
                assert piece is not None  # DuckDB reads it by its name
                parts.append(db.sql(f"SELECT * FROM {both} {where}").to_arrow_table())
        except Damaged as damage:
            log.error("%s; what it says of prices now is left out", damage)
    return from_arrow(pa.concat_tables(parts, promote_options="default"))


def identities(db: Connection, after: int, through: int) -> Iterator[tuple[Array, Array, Array]]:
    """(ident, digest, pos) of the events with after < place ≤ through that have an identity, some at a time."""
    folder = manifest.folder(db)
    for file in _readable(db):
        if file.last + 1 << ROW_BITS > after:
            try:
                ident, digest, pos = sealed.identities(folder, file, after)
            except Damaged as damage:
                log.error("%s; its events will not be known again", damage)
                continue
            alive = manifest.living(db, pos) & (pos <= through)
            yield ident[alive], digest[alive], pos[alive]
    rows = db.execute(
        "SELECT ident, digest, pos FROM ledger WHERE pos > ? AND pos <= ? AND ident IS NOT NULL ORDER BY pos",
        [after, through],
    ).fetchnumpy()
    yield rows["ident"].astype(np.uint64), rows["digest"].astype(np.uint64), rows["pos"].astype(np.int64)


def forget(db: Connection, seq: int, identities: Array) -> None:
    """Note that since this batch no event has these identities any more."""
    db.execute("INSERT INTO forgotten SELECT unnest(?::UBIGINT[]), ?", [identities.tolist(), seq])


def forgotten(db: Connection, after: int) -> Array:
    """The identities that some batch after this seq let go of."""
    rows = db.execute("SELECT DISTINCT ident FROM forgotten WHERE seq > ?", [after]).fetchnumpy()
    return rows["ident"].astype(np.uint64)


def count(db: Connection) -> int:
    """How many events the tables hold: those that are not sealed."""
    ((found,),) = db.execute("SELECT count(*) FROM ledger").fetchall()
    return int(found)


def _readable(db: Connection) -> list[Sealed]:
    return [file for file in manifest.listed(db) if not file.damaged]


def _sealed_at(db: Connection, places: Array, columns: Sequence[str]) -> Iterator[pa.Table]:
    for file in manifest.listed(db):
        low, high = np.searchsorted(places, [file.first << ROW_BITS, file.last + 1 << ROW_BITS])
        if low == high:
            continue
        if file.damaged:
            raise Damaged(file, file.damaged)
        for table in sealed.at(manifest.folder(db), file, places, columns):
            alive = table.filter(pa.array(manifest.living(db, table.column("pos").to_numpy())))
            if alive.num_rows:
                yield alive


def _all(db: Connection, read: Callable[[Sealed], T]) -> list[T]:
    """What `read` makes of each sealed file; one that cannot be read is marked as damaged and left out."""
    found = []
    for file in _readable(db):
        try:
            found.append(read(file))
        except Damaged as damage:
            manifest.damage(db, file, damage.why)
    return found
