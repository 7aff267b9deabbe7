"""Partials of every stored resolution: put, merged between, refolded from the ledger; and how far they reach."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from duckdb import DuckDBPyConnection as Connection

from storage import schema
from storage.errors import BrokenStore
from storage.events import Array
from storage.measures import MEASURES
from storage.partials import FIELDS, NEVER, Partials, concat, from_arrow, none, to_arrow

MICROS = 1_000_000
ONE_DAY = 86400


@dataclass(frozen=True, slots=True)
class Touched:
    """Buckets of one kind at one rung that must be folded again from the ledger."""

    market: Array  # int32
    t: Array  # label of the bucket, seconds
    low: Array  # its events lie at low ≤ ts < high, µs
    high: Array
    sources: Array  # uint8: the market's price types as a bit mask
    seq: Array  # the newest batch that touched it


def adopt(db: Connection, epoch: str) -> int:
    """The applied seq of this database if it belongs to the journal of this epoch; a new one begins at 0.

    Raises BrokenStore where it belongs to another journal.
    """
    rows = db.execute("SELECT epoch, applied_seq FROM meta").fetchall()
    if not rows:
        db.execute("INSERT INTO meta VALUES (?, 0)", [epoch])
        return 0
    ((known, seq),) = rows
    if known != epoch:
        raise BrokenStore(f"the database belongs to journal {known!r}, the journal beside it is {epoch!r}")
    return int(seq)


def applied(db: Connection) -> int:
    """The newest batch whose events and bars are all in here."""
    ((seq,),) = db.execute("SELECT applied_seq FROM meta").fetchall()
    return int(seq)


def apply(db: Connection, seq: int) -> None:
    """Say that everything up to this batch is in here."""
    db.execute("UPDATE meta SET applied_seq = ?", [seq])


def put(db: Connection, rung: int, table: Partials) -> None:
    """Add partials to the newest stretch of a stored resolution."""
    if table.n:
        rows = to_arrow(table)  # noqa: F841 - DuckDB reads the table by its name here
        db.execute(f"INSERT INTO {schema.recent_table(table.kind, rung)} BY NAME SELECT * FROM rows")


def between(db: Connection, kind: str, rung: int, market: int, start: int, end: int) -> Partials:
    """All rows of one market with start ≤ t < end, not yet summed; see `actors.fold.merged`."""
    return _rows(db, kind, rung, "market = ? AND t >= ? AND t < ?", [market, start, end])


def newest(db: Connection, kind: str, rung: int, market: int, before: int, count: int) -> Partials:
    """All rows of the `count` newest buckets of one market with t < before, not yet summed."""
    both = _both(kind, rung, "t", "market = ? AND t < ?")
    ((first,),) = db.execute(
        f"SELECT min(t) FROM (SELECT DISTINCT t FROM ({both}) ORDER BY t DESC LIMIT ?)",
        [market, before, market, before, count],
    ).fetchall()
    if first is None:
        return none(kind)
    return between(db, kind, rung, market, first, before)


def at(db: Connection, kind: str, rung: int, market: int, times: list[int]) -> Partials:
    """All rows of one market in these buckets, not yet summed."""
    return _rows(db, kind, rung, "market = ? AND t IN (SELECT unnest(?))", [market, times])


def changed(db: Connection, kind: str, rung: int, market: int, since: int, limit: int) -> list[int]:
    """The buckets of one market that changed after this seq, at most `limit` of them, the newest first."""
    both = _both(kind, rung, "t", "market = ? AND rev > ?")
    rows = db.execute(
        f"SELECT DISTINCT t FROM ({both}) ORDER BY t DESC LIMIT ?", [market, since, market, since, limit]
    ).fetchall()
    return [t for (t,) in rows]


def _both(kind: str, rung: int, columns: str, where: str) -> str:
    tables = (schema.candle_table(kind, rung), schema.recent_table(kind, rung))
    return " UNION ALL ".join(f"SELECT {columns} FROM {table} WHERE {where}" for table in tables)


def _rows(db: Connection, kind: str, rung: int, where: str, values: list[object]) -> Partials:
    rows = db.sql(_both(kind, rung, "*", where), params=[*values, *values])
    return from_arrow(kind, rows.to_arrow_table())


def lived(db: Connection) -> Array:
    """The slots of all markets that have ever had a stored bar."""
    both = [
        f"SELECT market FROM {table}"
        for kind in MEASURES
        for table in (schema.candle_table(kind, 86400), schema.recent_table(kind, 86400))
    ]
    rows = db.execute(f"SELECT DISTINCT market FROM ({' UNION ALL '.join(both)})").fetchnumpy()
    return rows["market"].astype(np.int64)


def refolded(db: Connection, kind: str, rung: int, touched: Touched) -> Partials:
    """Whole rows for these buckets, folded from the ledger as it is in this transaction; empty ones are gone bars.

    `rev` is at least the seq that touched the bucket; `born` stays what it was while the bar had one.
    """
    buckets = pa.table(  # noqa: F841 - DuckDB reads the table by its name here
        {
            "slot": pa.array(touched.market),
            "label": pa.array(touched.t),
            "low": pa.array(touched.low),
            "high": pa.array(touched.high),
            "sources": pa.array(touched.sources),
        }
    )
    # An equality finds the bucket of an event at once; of days, which only their span can tell, there are few.
    length = rung * MICROS
    within = "l.ts >= b.low AND l.ts < b.high" if rung == ONE_DAY else f"l.ts // {length} * {rung} = b.label"
    relation = (
        "(SELECT l.*, b.label, price > 0 AND ((b.sources >> price_type) & 1) = 1 AS priced FROM ledger l "
        f"JOIN buckets b ON l.market = b.slot AND {within} "
        f"WHERE l.ts >= {int(touched.low.min())} AND l.ts < {int(touched.high.max())})"
    )
    folded = from_arrow(kind, db.sql(schema.fold_sql(kind, relation, "label")).to_arrow_table())
    row_of = {pair: row for row, pair in enumerate(_pairs(folded["market"], folded["t"]))}
    rows = np.array([row_of.get(pair, -1) for pair in _pairs(touched.market, touched.t)])
    there, gone = rows >= 0, rows < 0
    empty = Partials(kind, int(gone.sum()), {"market": touched.market[gone], "t": touched.t[gone]})
    table = concat([folded.take(rows[there]), empty])
    columns = {**table.columns, "whole": np.ones(table.n, np.bool_)}
    columns["rev"] = np.maximum(table["rev"], np.concatenate([touched.seq[there], touched.seq[gone]]))
    columns["born"] = np.where(table["born"] < NEVER, _old_births(db, kind, rung, table), NEVER)
    return Partials(kind, table.n, columns)


def _pairs(market: Array, t: Array) -> Iterable[tuple[int, int]]:
    return zip(market.tolist(), t.tolist(), strict=True)


def _old_births(db: Connection, kind: str, rung: int, table: Partials) -> Array:
    wanted = pa.table({"slot": pa.array(table["market"]), "label": pa.array(table["t"])})  # noqa: F841 - by name
    columns = "market, t, born, rev, whole"
    relation = _both(kind, rung, columns, "(market, t) IN (SELECT slot, label FROM wanted)")
    rows = db.execute(
        f"WITH judged AS (SELECT *, max(CASE WHEN whole THEN rev ELSE -1 END) OVER (PARTITION BY market, t) AS newest "
        f"FROM ({relation})) SELECT market, t, min(born) AS born FROM judged "
        "WHERE rev > newest OR (whole AND rev = newest) GROUP BY market, t"
    ).fetchall()
    known = {(market, t): born for market, t, born in rows}
    before = np.array([known.get(pair, NEVER) for pair in _pairs(table["market"], table["t"])], np.int64)
    return np.minimum(before, table["born"])


def backlog(db: Connection, kind: str, rung: int) -> int:
    """How many rows wait in the newest stretch of a stored resolution."""
    ((found,),) = db.execute(f"SELECT count(*) FROM {schema.recent_table(kind, rung)}").fetchall()
    return int(found)


def compact(db: Connection, kind: str, rung: int, span: int) -> int:
    """Sum the newest stretch into the ordered bars, one span of time after the other; how many rows it was.

    Bars lie in (market, t) order within each span (seconds), so that reading one market touches few rows.
    """
    base, recent = schema.candle_table(kind, rung), schema.recent_table(kind, rung)
    spans = db.execute(f"SELECT DISTINCT t // {span} FROM {recent} ORDER BY 1").fetchall()
    moved = backlog(db, kind, rung)
    names = ", ".join(field.name for field in FIELDS[kind])
    for (number,) in spans:
        low, high = number * span, (number + 1) * span
        relation = f"({_both(kind, rung, '*', f't >= {low} AND t < {high}')})"
        merged = schema.merge_sql(kind, relation)
        db.execute(f"CREATE OR REPLACE TEMP TABLE compacted AS SELECT {names} FROM ({merged})")
        db.execute(f"DELETE FROM {base} WHERE t >= {low} AND t < {high}")
        # An empty whole row stays as the mark of a bar that is gone: whoever comes back asks for it by its rev.
        db.execute(f"INSERT INTO {base} SELECT * REPLACE (false AS whole) FROM compacted")
        db.execute("DROP TABLE compacted")
    db.execute(f"DELETE FROM {recent}")
    return moved
