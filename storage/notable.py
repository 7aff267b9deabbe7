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
RATES = ("market", "ts", "pos", "event", "funding_rate")
SCHEMA = pa.schema(
    [
        *((name, pa.int64()) for name in ("ts", "pos", "event", "side")),
        *((name, pa.float64()) for name in ("price", "volume", "funding_rate")),
    ]
)

EVENTS = 2_000_000  # sealed events of the market that are looked through, the newest
FILES = 100  # in at most so many files
HOUR = 3_600_000_000  # µs
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
    waited, gone = fresh(db, waiting, market)
    kept = db.sql(
        f"SELECT {', '.join(COLUMNS)} FROM ledger WHERE market = ? AND ts >= ? AND ts < ? "
        f"AND (event IN ({LIQUIDATION}, {FUNDING}) OR volume >= ?)",
        params=[market, low, high, float(large.least.min())],
    ).to_arrow_table()
    tables = [*waited, kept, *sealed_newest_first(db, market, low, high, COLUMNS)]
    found = pa.concat_tables(_told(_notable(table, low, high, large)) for table in tables)
    found = found.filter(pa.array(~np.isin(found.column("pos").to_numpy(), gone)))
    return found.sort_by([("ts", "ascending"), ("pos", "ascending")])


def rate_before(db: Connection, waiting: Sequence[Unflushed], market: int, low: int, high: int) -> float | None:
    """The newest funding rate of a market (slot) with low ≤ ts < high (µs), as `within` finds it."""
    waited, gone = fresh(db, waiting, market)
    span = HOUR
    while low < high:
        begin = max(low, high - span)
        kept = db.sql(
            f"SELECT {', '.join(RATES)} FROM ledger WHERE market = ? AND ts >= ? AND ts < ? AND event = {FUNDING}",
            params=[market, begin, high],
        ).to_arrow_table()
        tables = [*waited, kept, *sealed_newest_first(db, market, begin, high, RATES)]
        found = pa.concat_tables(
            _told(table.filter(pa.array(_rates(table) & _between(table, begin, high)))) for table in tables
        )
        found = found.filter(pa.array(~np.isin(found.column("pos").to_numpy(), gone)))
        if found.num_rows:
            newest = found.sort_by([("ts", "descending"), ("pos", "descending")])
            return float(newest.column("funding_rate")[0].as_py())
        high, span = begin, 4 * span
    return None


def fresh(db: Connection, waiting: Sequence[Unflushed], market: int) -> tuple[list[pa.Table], Array]:
    """The market's events that the snapshot lacks, and the places of those that are no more."""
    applied = candles.applied(db)
    waiting = [some for some in waiting if some.last > applied]
    gone = np.array([pos for some in waiting for pos in some.dead], np.int64)
    tables = [
        to_arrow(events.take(np.flatnonzero(events.integers("market") == market)))
        for some in waiting
        for events in some.events
    ]
    return tables, gone


def sealed_newest_first(db: Connection, market: int, low: int, high: int, columns: Sequence[str]) -> Iterator[pa.Table]:
    """The market's sealed events, the newest pieces first."""
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
                for table in sealed.within(manifest.folder(db), file, wanted, columns):
                    looked += table.num_rows
                    yield table.filter(pa.array(manifest.living(db, table.column("pos").to_numpy())))
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


def _notable(table: pa.Table, low: int, high: int, large: Large) -> pa.Table:
    """Those of some events of one market that are notable."""
    event = _events(table)
    keep = (event == LIQUIDATION) | _rates(table)
    if "volume" in table.column_names:
        volume = pc.fill_null(table.column("volume").cast(pa.float64()), 0.0).to_numpy()
        keep |= np.isin(event, TRADES) & (volume > 0) & (volume >= large.at(table.column("ts").to_numpy()))
    return table.filter(pa.array(keep & _between(table, low, high)))


def _between(table: pa.Table, low: int, high: int) -> Array:
    ts = table.column("ts").to_numpy()
    found: Array = (ts >= low) & (ts < high)
    return found


def _rates(table: pa.Table) -> Array:
    """Which events say a funding rate."""
    if "funding_rate" not in table.column_names:
        return np.zeros(table.num_rows, np.bool_)
    found: Array = (_events(table) == FUNDING) & table.column("funding_rate").is_valid().to_numpy()
    return found


def _events(table: pa.Table) -> Array:
    if "event" not in table.column_names:
        return np.zeros(table.num_rows, np.uint8)
    found: Array = table.column("event").to_numpy()
    return found


def _told(table: pa.Table) -> pa.Table:
    """Events in the columns of SCHEMA."""
    columns = [
        table.column(field.name).cast(field.type)
        if field.name in table.column_names
        else pa.nulls(table.num_rows, field.type)
        for field in SCHEMA
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA).set_column(
        SCHEMA.get_field_index("event"), "event", pa.array(_events(table), pa.int64())
    )
