"""Events as the ledger keeps them: Arrow columns with exact decimals, null where nothing is said."""

import numpy as np
import pyarrow as pa

from storage import decimals
from storage.events import DECIMAL, EXACT, INTEGERS, NUMBERS, TEXTS, Array, Column, Events

NEVER_NULL = ("market", "ts", "event", "price_type", "pos")


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
    """The inverse of `to_arrow`: floats beside the exact decimals that are not their shortest text.

    Numbers may be decimals of any width.
    """
    table = table.combine_chunks()
    columns: dict[str, Column] = {}
    for name in table.column_names:
        chunked = table.column(name)
        column = chunked.chunk(0) if chunked.num_chunks else pa.array([], chunked.type)
        if column.null_count == len(column) and len(column):
            continue
        if name in NUMBERS:
            columns |= _numbers(name, column.cast(DECIMAL))
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
