"""The events of one market as they were sent, in order of time and place, a stretch at a time."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from duckdb import DuckDBPyConnection as Connection

from storage import candles, manifest, schema, sealed
from storage.errors import Unavailable
from storage.events import BAR, DECIMAL, EVENT_TYPES, NUMBERS, PRICE_TYPES, QUOTE_NUMBERS, TRADE_NUMBERS, Array, Events
from storage.records import Market
from storage.rows import to_arrow
from storage.sealed import Damaged, Within
from storage.variants import variant_of

Place = tuple[int, int]  # an event's time in µs, and its place among all committed events

EVER = 1 << 38  # later than any batch
INTEGERS = ("chain_id", "block_number", "log_index")
TEXTS = ("user_address", "position_id", "transaction_hash")
_FIRST = ("price", "volume", "size", "fee")
SCHEMA = pa.schema(
    [
        ("market_symbol", pa.string()),
        ("timestamp", pa.timestamp("us", "UTC")),
        ("event_type", pa.string()),
        ("price_type", pa.string()),
        ("side", pa.string()),
        *((name, DECIMAL) for name in (*_FIRST, *(name for name in TRADE_NUMBERS if name not in _FIRST))),
        *((name, pa.string()) for name in TEXTS),
        *((name, pa.int64()) for name in INTEGERS),
        ("trade_id", pa.string()),
    ]
)
# Prices of cards; what a variant is, each of them says.
QUOTES = pa.schema(
    [
        ("time", pa.timestamp("us", "UTC")),
        ("card_id", pa.string()),
        ("marketplace", pa.string()),
        ("condition", pa.string()),
        ("is_foil", pa.bool_()),
        ("language", pa.string()),
        ("currency", pa.string()),
        *((name, DECIMAL) for name in ("price", *QUOTE_NUMBERS)),
        ("num_listings", pa.int64()),
        ("total_quantity", pa.int64()),
    ]
)


def schema_of(kind: str) -> pa.Schema:
    """The columns of the events of a kind of market, as its way of ingest takes them."""
    return QUOTES if kind == "card" else SCHEMA


SAID = tuple(name for name in schema.STORED if name not in schema.BARRED)  # what events say, and bars do not


class Unflushed(NamedTuple):
    """Committed batches that the store may lack."""

    last: int  # seq
    events: Sequence[Events]
    dead: Sequence[int]  # places of events that they take back


def between(
    db: Connection, waiting: Sequence[Unflushed], market: Market, after: Place, end: int, limit: int
) -> tuple[pa.RecordBatch, Place | None]:
    """The first `limit` events of a market after a place and with ts < end, in the columns of `schema_of` its kind; and
    where they end, None where there are no more.

    `waiting` is what was committed when the snapshot behind `db` was not there yet. Unavailable where events lie in a
    file that cannot be read.
    """
    applied = candles.applied(db)
    waiting = [some for some in waiting if some.last > applied]
    gone = np.unique(np.array([pos for some in waiting for pos in some.dead], np.int64))
    slot = market.slot
    tables = [_kept(db, slot, after, end, limit, gone)]
    tables += _sealed(db, slot, after, end, limit, gone)
    tables += [_left(_of_market(events, slot, end), after, gone) for some in waiting for events in some.events]
    found = _first(tables, limit)
    if found.num_rows < limit:
        return _told(found, market), None
    return _told(found, market), (found.column("ts")[-1].as_py(), found.column("pos")[-1].as_py())


def _kept(db: Connection, market: int, after: Place, end: int, limit: int, gone: Array) -> pa.Table:
    """The first events that the tables have."""
    dead = pa.table({"pos": pa.array(gone)})  # noqa: F841 - DuckDB reads the table by its name here
    where = (
        f"market = ? AND ts >= ? AND ts < ? AND (ts > ? OR pos > ?) AND event <> {BAR}"
        f"{' AND pos NOT IN (SELECT pos FROM dead)' if len(gone) else ''}"
    )
    values = [market, after[0], end, *after]
    # Sorting places alone is cheap, and says how few of the wide rows are needed.
    last = db.execute(f"SELECT ts FROM ledger WHERE {where} ORDER BY ts, pos LIMIT 1 OFFSET {limit - 1}", values)
    for (ts,) in last.fetchall():
        values[2] = ts + 1
    return db.sql(f"SELECT {', '.join(SAID)} FROM ledger WHERE {where}", params=values).to_arrow_table()


def _sealed(db: Connection, market: int, after: Place, end: int, limit: int, gone: Array) -> Iterator[pa.Table]:
    """The first events that sealed files have, and some more."""
    files = [
        file
        for file in manifest.listed(db)
        if file.events and file.low_market <= market <= file.high_market and file.high_ts >= after[0]
    ]
    folder = manifest.folder(db)
    some: list[pa.Table] = []
    count = 0
    for file in sorted(files, key=lambda file: file.low_ts):
        if file.low_ts >= end:
            continue
        if file.damaged:
            raise Unavailable(str(Damaged(file, file.damaged)), retry_after=3600)
        mine = 0
        try:
            wanted = Within(np.array([market]), after[0], end, EVER)
            for table in sealed.within(folder, file, wanted, SAID):
                alive = _left(table, after, gone)
                alive = alive.filter(pa.array(alive.column("event").to_numpy() != BAR))
                alive = alive.filter(pa.array(manifest.living(db, alive.column("pos").to_numpy())))
                some.append(alive)
                mine += alive.num_rows
                count += alive.num_rows
                if mine >= limit:
                    break  # what follows in this file is later
        except Damaged as damage:
            raise Unavailable(str(damage), retry_after=3600) from damage
        if count >= limit:
            some = [_first(some, limit)]
            count = limit
            end = some[0].column("ts")[-1].as_py() + 1
    yield from some


def _of_market(events: Events, market: int, end: int) -> pa.Table:
    """The events of one market before `end`, as the ledger keeps them."""
    mine = (events.integers("market") == market) & (events.integers("ts") < end)
    rows = np.flatnonzero(mine & (events.integers("event") != BAR))
    table = to_arrow(events.take(rows))
    return table.cast(pa.schema([pa.field(f.name, DECIMAL) if f.name in NUMBERS else f for f in table.schema]))


def _left(table: pa.Table, after: Place, gone: Array) -> pa.Table:
    """The events after a place that were not taken back."""
    ts, pos = table.column("ts").to_numpy(), table.column("pos").to_numpy()
    keep = (ts > after[0]) | ((ts == after[0]) & (pos > after[1]))
    return table.filter(pa.array(keep & ~np.isin(pos, gone)))


def _first(tables: Sequence[pa.Table], limit: int) -> pa.Table:
    """The first events of all of these, in order."""
    table = pa.concat_tables(tables, promote_options="default")
    order = np.lexsort((table.column("pos").to_numpy(), table.column("ts").to_numpy()))
    return table.take(pa.array(order[:limit]))


# --- as they were sent


def _told(table: pa.Table, market: Market) -> pa.RecordBatch:
    """Events as the ledger keeps them, in the columns that ingest takes."""
    table = table.combine_chunks()
    schema_ = schema_of(market.kind)
    if market.kind == "card":
        variant = variant_of(market.market_symbol)
        said = {} if variant is None else variant._asdict()
        columns = [_quoted(table, field, said) for field in schema_]
    else:
        columns = [_column(table, field, market.market_symbol) for field in schema_]
    return pa.RecordBatch.from_arrays(columns, schema=schema_)


def _quoted(table: pa.Table, field: pa.Field, variant: Mapping[str, object]) -> Any:
    if field.name in variant:
        return pa.repeat(pa.scalar(variant[field.name], field.type), table.num_rows)
    if field.name == "time":
        return _said(table, "ts", pa.int64()).cast(field.type)
    found = _said(table, field.name, field.type)
    # A price of nothing is kept as none, but has to be said.
    return found.fill_null(pa.scalar(0, pa.int64()).cast(field.type)) if field.name == "price" else found


def _column(table: pa.Table, field: pa.Field, symbol: str) -> Any:
    match field.name:
        case "market_symbol":
            return pa.repeat(symbol, table.num_rows)
        case "timestamp":
            return _said(table, "ts", pa.int64()).cast(field.type)
        case "event_type":
            return pa.array(EVENT_TYPES).take(_said(table, "event", pa.uint8()).fill_null(0))
        case "price_type":
            return pa.array(PRICE_TYPES).take(_said(table, "price_type", pa.uint8()).fill_null(0))
        case "side":
            return pa.array(["sell", "buy"]).take(_said(table, "side", pa.int8()))
        case "trade_id":
            numbers = _said(table, "trade_no", pa.int64()).cast(pa.string())
            return pc.coalesce(numbers, _said(table, "trade_id", pa.string()))
        case name:
            return _said(table, name, field.type)


def _said(table: pa.Table, name: str, kind: pa.DataType) -> Any:
    if name not in table.column_names:
        return pa.nulls(table.num_rows, kind)
    column = table.column(name)
    return (column.chunk(0) if column.num_chunks else pa.nulls(0, column.type)).cast(kind)
