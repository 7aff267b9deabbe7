"""Partial candles as columns: one row is what some events add to one bucket of one market, or all of that bucket."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from storage.events import DECIMAL, Array, Column
from storage.measures import KEY, MEASURES, Rule

NEVER = 2**62  # `born` of a bucket in which no price was set yet
SKETCHES = pa.list_(pa.uint64())


@dataclass(frozen=True, slots=True)
class Field:
    """One physical column of a partial."""

    name: str
    sql: str  # its DuckDB type
    nothing: object  # what a row that says nothing holds


def fields(kind: str) -> tuple[Field, ...]:
    """The columns of a partial of this kind, in their order on disk."""
    found = [Field("market", "INTEGER", 0), Field("t", "BIGINT", 0)]
    for measure in MEASURES[kind]:
        match measure.rule:
            case Rule.FIRST | Rule.LAST:
                found.append(Field(measure.name, "DOUBLE", np.nan))
                found += [key_field(measure.name, part) for part in KEY]
            case Rule.MIN | Rule.MAX:
                found.append(Field(measure.name, "DOUBLE", np.nan))
            case Rule.SUM:
                found.append(Field(measure.name, "DECIMAL(38, 18)", 0))
            case Rule.COUNT:
                found.append(Field(measure.name, "BIGINT", 0))
            case Rule.DISTINCT:
                found.append(Field(measure.name, "UBIGINT[]", None))
    found += [Field("rev", "BIGINT", 0), Field("born", "BIGINT", NEVER), Field("whole", "BOOLEAN", False)]
    return tuple(found)


def key_field(name: str, part: str) -> Field:
    """The column that holds one part of the order key of a first or last value."""
    if part == "tid":
        return Field(f"{name}_tid", "VARCHAR", "")
    return Field(f"{name}_{part}", "BIGINT", -1)


FIELDS = {kind: fields(kind) for kind in MEASURES}


@dataclass(frozen=True, slots=True)
class Partials:
    """Rows of partial candles of one kind; a column that says nothing anywhere may be left out.

    Doubles are float64 (NaN: none), counts, times and key parts int64, sums int64[n, 2] (128-bit units of 1e-18, low
    word first), text key parts numpy objects, sketches numpy objects holding sorted uint64 arrays or None.
    `rev` is the seq that last changed the bucket, `born` the seq that first set a price in it, `whole` says that the
    row replaces everything about its bucket up to and including `rev` of the moment it was made.
    """

    kind: str
    n: int
    columns: dict[str, Array]

    def __getitem__(self, name: str) -> Array:
        found = self.columns.get(name)
        if found is not None:
            return found
        for field in FIELDS[self.kind]:
            if field.name == name:
                return _nothing(field, self.n)
        raise KeyError(name)

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def take(self, rows: Array | slice) -> "Partials":
        """These rows, in this order; a slice, a mask or row numbers."""
        if isinstance(rows, slice):
            columns = {name: column[rows] for name, column in self.columns.items()}
        else:
            numbers = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
            columns = {name: column.take(numbers, axis=0) for name, column in self.columns.items()}
        return Partials(self.kind, len(columns["t"]), columns)

    def at(self, t: Array) -> "Partials":
        """The same rows laid into other buckets."""
        return Partials(self.kind, self.n, {**self.columns, "t": t})


def _nothing(field: Field, n: int) -> Array:
    if field.sql.startswith("DECIMAL"):
        return np.zeros((n, 2), np.int64)
    if field.sql == "DOUBLE":
        return np.full(n, np.nan)
    if field.sql == "BOOLEAN":
        return np.zeros(n, np.bool_)
    if field.sql in ("VARCHAR", "UBIGINT[]"):
        return np.full(n, field.nothing, object)
    return np.full(n, field.nothing, np.int32 if field.sql == "INTEGER" else np.int64)


def none(kind: str) -> Partials:
    """No rows."""
    return Partials(kind, 0, {"market": np.zeros(0, np.int32), "t": np.zeros(0, np.int64)})


def concat(tables: Sequence[Partials]) -> Partials:
    """All rows of all tables, in order."""
    if len(tables) == 1:
        return tables[0]
    names = dict.fromkeys(name for table in tables for name in table.columns)
    columns = {name: np.concatenate([table[name] for table in tables]) for name in names}
    return Partials(tables[0].kind, sum(table.n for table in tables), columns)


def to_arrow(table: Partials) -> pa.Table:
    """The rows as an Arrow table with exactly the columns of the kind that say something."""
    names, columns = [], []
    for field in FIELDS[table.kind]:
        if field.name in table:
            names.append(field.name)
            columns.append(_to_arrow(field, table[field.name]))
        elif field.sql != "UBIGINT[]":
            names.append(field.name)
            columns.append(_to_arrow(field, _nothing(field, table.n)))
    return pa.Table.from_arrays(columns, names=names)


def _to_arrow(field: Field, column: Array) -> Column:
    if field.sql.startswith("DECIMAL"):
        return pa.Array.from_buffers(DECIMAL, len(column), [None, pa.py_buffer(np.ascontiguousarray(column))])
    if field.sql == "UBIGINT[]":
        return pa.array([None if sketch is None else sketch for sketch in column], SKETCHES)
    if field.sql == "VARCHAR":
        return pa.array(column, pa.string())
    if field.sql == "DOUBLE":
        return pa.array(column, from_pandas=True)  # NaN becomes null
    return pa.array(column)


def from_arrow(kind: str, table: pa.Table) -> Partials:
    """The inverse of `to_arrow`; columns of the kind that the table lacks are left out."""
    table = table.combine_chunks()
    columns: dict[str, Array] = {}
    for field in FIELDS[kind]:
        if field.name not in table.column_names:
            continue
        column = table.column(field.name)
        chunk = column.chunk(0) if column.num_chunks else pa.array([], column.type)
        columns[field.name] = _from_arrow(field, chunk)
    return Partials(kind, table.num_rows, columns)


def _from_arrow(field: Field, column: Column) -> Array:
    if field.sql.startswith("DECIMAL"):
        return decimal_words(column)
    if field.sql == "UBIGINT[]":
        return _sketches(column)
    if field.sql == "VARCHAR":
        return np.array(column.to_pylist(), object)
    found: Array = column.to_numpy(zero_copy_only=False)
    return found


def decimal_words(column: Column) -> Array:
    """An Arrow decimal128 column as int64[n, 2], low word first; null is 0."""
    if column.null_count:
        column = column.fill_null(pa.scalar(0, column.type))
    words = np.frombuffer(column.buffers()[1], np.int64)
    return words[2 * column.offset : 2 * (column.offset + len(column))].reshape(-1, 2)


def _sketches(column: Column) -> Array:
    out = np.full(len(column), None, object)
    offsets = column.offsets.to_numpy()
    values = column.values.to_numpy()
    for i in np.flatnonzero(np.diff(offsets)):
        out[i] = values[offsets[i] : offsets[i + 1]]
    return out
