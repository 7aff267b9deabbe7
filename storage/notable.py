"""The few events of a market that a chart marks: liquidations, large trades, funding rates."""

import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from duckdb import DuckDBPyConnection as Connection

from storage import candles, manifest, sealed
from storage.events import EVENT_CODE, Array
from storage.listing import EVER, Unflushed
from storage.rows import to_arrow
from storage.sealed import Damaged, Sealed, Within

log = logging.getLogger(__name__)

TRADES = tuple(EVENT_CODE[name] for name in ("Trade", "PositionOpened", "PositionClosed"))
LIQUIDATION = EVENT_CODE["PositionLiquidated"]
FUNDING = EVENT_CODE["FundingRateUpdated"]
COLUMNS = ("market", "ts", "pos", "event", "side", "price", "volume", "funding_rate")
SCHEMA = pa.schema(
    [
        *((name, pa.int64()) for name in ("ts", "pos", "event", "side")),
        *((name, pa.float64()) for name in ("price", "volume", "funding_rate")),
    ]
)

EVENTS = 2_000_000  # sealed events of the market that are looked through, the newest
FILES = 100  # in at most so many files
PIECE = 500_000  # about so many events of a file are read at a time


class Large(NamedTuple):
    """From which volume on a trade is large."""

    since: Array  # instants, µs, ascending
    least: Array  # from each of them on

    def at(self, ts: Array) -> Array:
        """The least volume of a large trade at each instant."""
        found: Array = self.least[np.maximum(np.searchsorted(self.since, ts, "right") - 1, 0)]
        return found


def within(db: Connection, waiting: Sequence[Unflushed], market: int, low: int, high: int, large: Large) -> pa.Table:
    """The notable events of a market (slot) with low ≤ ts < high (µs), by time and place, in the columns of SCHEMA.

    `waiting` is what was committed when the snapshot behind `db` was not there yet. Of very many events, those that are
    long past are left out; and so are those in files that cannot be read.
    """
    applied = candles.applied(db)
    waiting = [some for some in waiting if some.last > applied]
    gone = np.array([pos for some in waiting for pos in some.dead], np.int64)
    fresh = [
        to_arrow(events.take(np.flatnonzero(events.integers("market") == market)))
        for some in waiting
        for events in some.events
    ]
    kept = db.sql(
        f"SELECT {', '.join(COLUMNS)} FROM ledger WHERE market = ? AND ts >= ? AND ts < ? "
        f"AND (event IN ({LIQUIDATION}, {FUNDING}) OR volume >= ?)",
        params=[market, low, high, float(large.least.min())],
    ).to_arrow_table()
    tables = [_told(table, low, high, large) for table in (*fresh, kept, *_sealed(db, market, low, high, large))]
    found = pa.concat_tables(tables)
    found = found.filter(pa.array(~np.isin(found.column("pos").to_numpy(), gone)))
    return found.sort_by([("ts", "ascending"), ("pos", "ascending")])


def _sealed(db: Connection, market: int, low: int, high: int, large: Large) -> Iterator[pa.Table]:
    files = [
        file
        for file in manifest.listed(db)
        if not file.damaged and file.events and file.low_market <= market <= file.high_market
        if file.low_ts < high and file.high_ts >= low
    ]
    files.sort(key=lambda file: -file.high_ts)
    looked = 0
    for file in files[:FILES]:
        for begin, end in _pieces(file, low, high):
            if looked >= EVENTS:
                return
            try:
                wanted = Within(np.array([market]), begin, end, EVER)
                for table in sealed.within(manifest.folder(db), file, wanted, COLUMNS):
                    looked += table.num_rows
                    some = _told(table, begin, end, large)
                    yield some.filter(pa.array(manifest.living(db, some.column("pos").to_numpy())))
            except Damaged as damage:
                log.error("%s; its events have no marks", damage)
                break


def _pieces(file: Sealed, low: int, high: int) -> Iterator[tuple[int, int]]:
    """Stretches of a file's time, the newest first, each with so many events as are read at a time."""
    count = -(-file.events // PIECE)
    step = (file.high_ts + 1 - file.low_ts) // count + 1
    for i in reversed(range(count)):
        begin, end = max(low, file.low_ts + i * step), min(high, file.low_ts + (i + 1) * step)
        if begin < end:
            yield begin, end


def _told(table: pa.Table, low: int, high: int, large: Large) -> pa.Table:
    """What is notable of some events of one market."""
    columns = []
    for field in SCHEMA:
        if field.name not in table.column_names:
            nothing = 0 if field.name == "event" else None
            columns.append(pa.array([nothing] * table.num_rows, field.type))
            continue
        columns.append(table.column(field.name).cast(field.type))
    found = pa.Table.from_arrays(columns, schema=SCHEMA)
    ts, event = (found.column(name).to_numpy() for name in ("ts", "event"))
    volume = pc.fill_null(found.column("volume"), 0.0).to_numpy()
    rate = found.column("funding_rate").is_valid().to_numpy()
    keep = (event == LIQUIDATION) | ((event == FUNDING) & rate)
    keep |= np.isin(event, TRADES) & (volume > 0) & (volume >= large.at(ts))
    return found.filter(pa.array(keep & (ts >= low) & (ts < high)))
