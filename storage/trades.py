"""The newest trades of one market, as they were sent."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from duckdb import DuckDBPyConnection as Connection
from msgspec import Struct

from storage import notable
from storage.events import Array, Events, concat
from storage.listing import Unflushed
from storage.measures import wire
from storage.notable import TRADES
from storage.rows import from_arrow

LATEST = 1 << 62  # µs: later than any event
COLUMNS = (
    *("market", "ts", "pos", "event", "side", "price", "volume"),
    *("trade_no", "trade_id", "transaction_hash", "log_index"),
)
SIDES = {1: "buy", 0: "sell"}


class Trade(Struct, frozen=True):
    """One trade as streams tell it."""

    time: int  # ms
    price: float
    size: float
    side: str | None
    id: int | str | None  # of the exchange, or `transaction:log` of a chain


def newest(db: Connection, waiting: Sequence[Unflushed], market: int, count: int) -> list[Trade]:
    """The newest `count` trades of a market (slot), the newest last.

    `waiting` is what was committed when the snapshot behind `db` was not there yet. Trades in files that cannot be read
    are left out."""
    waited, gone = notable.fresh(db, waiting, market)
    kept = db.sql(
        f"SELECT {', '.join(COLUMNS)} FROM ledger WHERE market = ? AND event IN {TRADES} AND price > 0 AND volume > 0 "
        "ORDER BY ts DESC, pos DESC LIMIT ?",
        params=[market, count + len(gone)],
    ).to_arrow_table()
    parts = [_alive(table, gone) for table in (*waited, kept)]
    for table in notable.sealed_newest_first(db, market, 0, LATEST, COLUMNS):
        if sum(part.n for part in parts) >= count:
            break
        parts.append(_alive(table, gone))
    found = concat(parts)
    order = np.lexsort((found.integers("pos"), found.integers("ts")))[-count:]
    return told(found.take(order))


def among(events: Events) -> Array:
    """The rows that are trades."""
    some = np.isin(events.integers("event"), TRADES) & (events.numbers("price") > 0) & (events.numbers("volume") > 0)
    return np.flatnonzero(some)


def told(events: Events) -> list[Trade]:
    """Trades as they are told, in their order."""
    columns = [events.integers(name).tolist() for name in ("ts", "side", "trade_no", "log_index")]
    numbers = [events.numbers(name).tolist() for name in ("price", "volume")]
    texts = [events.texts(name).to_pylist() for name in ("trade_id", "transaction_hash")]
    return [
        Trade(ts // 1000, wire(price), wire(size), SIDES.get(side), _id(number, text, transaction, log))
        for ts, side, number, log, price, size, text, transaction in zip(*columns, *numbers, *texts, strict=True)
    ]


def _id(number: int, text: str | None, transaction: str | None, log: int) -> int | str | None:
    if number >= 0:
        return int(number)
    return text if transaction is None else f"{transaction}:{log}"


def _alive(table: pa.Table, gone: Array) -> Events:
    """Those trades among some events that were not taken back."""
    names = [name for name in COLUMNS if name in table.column_names]
    events = from_arrow(table.select(names))
    rows = among(events)
    return events.take(rows[~np.isin(events.integers("pos")[rows], gone)])
