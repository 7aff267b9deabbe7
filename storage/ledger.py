"""The events as sent: put, dropped by place, found by place."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from duckdb import DuckDBPyConnection as Connection

from storage import decimals, schema
from storage.events import EXACT, INTEGERS, NUMBERS, TEXTS, Array, Column, Events, concat

NEVER_NULL = ("market", "ts", "event", "price_type", "pos")


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


def to_arrow(events: Events) -> pa.Table:
    """The columns that are said, as the ledger keeps them: exact decimals, null for nothing."""
    names = [name for name in events.columns if not name.startswith(EXACT)]
    return pa.Table.from_arrays([_column(events, name) for name in names], names=names)


def _column(events: Events, name: str) -> pa.Array:
    if name in NUMBERS:
        values, exact = events.numbers(name), events.exact(name)
        found = decimals.scaled(values) if exact is None else None
        # DuckDB widens small decimals faster than numpy does.
        return decimals.to_arrow(values, exact) if found is None else decimals.narrow(*found, ~np.isnan(values))
    if name in TEXTS:
        return events.texts(name)
    column = events.integers(name)
    if name in NEVER_NULL:
        return pa.array(column)
    return pa.array(column, mask=column == INTEGERS[name][1])


def from_arrow(table: pa.Table) -> Events:
    """The inverse of `to_arrow`: floats beside the exact decimals that are not their shortest text."""
    table = table.combine_chunks()
    columns: dict[str, Column] = {}
    for name in table.column_names:
        chunked = table.column(name)
        column = chunked.chunk(0) if chunked.num_chunks else pa.array([], chunked.type)
        if column.null_count == len(column) and len(column):
            continue
        if name in NUMBERS:
            columns |= _numbers(name, column)
        elif name in INTEGERS:
            dtype, nothing = INTEGERS[name]
            columns[name] = column.fill_null(nothing).to_numpy(zero_copy_only=False).astype(dtype)
        elif name in TEXTS:
            columns[name] = column
    return Events(table.num_rows, columns)


def _numbers(name: str, column: pa.Array) -> dict[str, Array]:
    missing = column.is_null().to_numpy(zero_copy_only=False)
    zero = column.fill_null(pa.scalar(0, column.type))
    units = decimals.from_arrow(zero)
    values = decimals.floats(units)
    fits = decimals.fits(values)
    again = decimals.units(np.where(fits, values, 0.0))
    odd = ~missing & (~fits | (again != units).any(axis=1))
    values[missing] = np.nan
    if not odd.any():
        return {name: values}
    return {name: values, EXACT + name: decimals.arrow(units, odd)}


def drop(db: Connection, places: Array) -> None:
    """Take events out."""
    gone = pa.table({"pos": pa.array(places)})  # noqa: F841 - DuckDB reads the table by its name here
    for shape in schema.SHAPES:
        db.execute(
            f"DELETE FROM {shape} WHERE pos BETWEEN ? AND ? AND pos IN (SELECT pos FROM gone)",
            [int(places.min()), int(places.max())],
        )


def at(db: Connection, places: Array) -> Events:
    """The events at these places, in order of place; places that hold none are left out."""
    wanted = pa.table({"pos": pa.array(places)})  # noqa: F841 - DuckDB reads the table by its name here
    rows = db.sql(
        "SELECT * FROM ledger WHERE pos BETWEEN ? AND ? AND pos IN (SELECT pos FROM wanted) ORDER BY pos",
        params=[int(places.min()), int(places.max())],
    )
    return from_arrow(rows.to_arrow_table())


def identities(db: Connection, after: int) -> tuple[Array, Array, Array]:
    """(ident, digest, pos) of the events after this place that have an identity, in order of place."""
    rows = db.execute(
        "SELECT ident, digest, pos FROM ledger WHERE pos > ? AND ident IS NOT NULL ORDER BY pos", [after]
    ).fetchnumpy()
    return rows["ident"].astype(np.uint64), rows["digest"].astype(np.uint64), rows["pos"].astype(np.int64)


def forget(db: Connection, seq: int, identities: Array) -> None:
    """Note that since this batch no event has these identities any more."""
    db.execute("INSERT INTO forgotten SELECT unnest(?::UBIGINT[]), ?", [identities.tolist(), seq])


def forgotten(db: Connection, after: int) -> Array:
    """The identities that some batch after this seq let go of."""
    rows = db.execute("SELECT DISTINCT ident FROM forgotten WHERE seq > ?", [after]).fetchnumpy()
    return rows["ident"].astype(np.uint64)


def count(db: Connection) -> int:
    """How many events the ledger holds."""
    ((found,),) = db.execute("SELECT count(*) FROM ledger").fetchall()
    return int(found)
