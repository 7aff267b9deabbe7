"""Finished bars that others made: which of them stand, which of those count, and what they add to candles.

A bar counts while no event in its span sets a price and no finer bar begins there; so events win over bars, and finer
bars over coarser ones, in whatever order they come. What says something about a bar is in the ledger like any event;
the table `finished` is an index of the bars that were not taken back, which outlives their being sealed.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from duckdb import DuckDBPyConnection as Connection

from storage import decimals, ledger, schema
from storage.commits import ROW_BITS
from storage.events import INTEGERS, Array, Events
from storage.measures import MEASURES, Rule
from storage.partials import NEVER, Partials, from_arrow
from storage.records import KINDS
from storage.sealed import Within

MICROS = 1_000_000
ONE_DAY = 86400
Days = Callable[[Array, Array], Array]  # (markets, seconds) -> the label of each second's trading day


class Instants(NamedTuple):
    """Seconds in which something happened, each in a market."""

    market: Array
    second: Array


class Bars(NamedTuple):
    """Some finished bars; columns of equal length."""

    pos: Array
    kind: Array  # texts
    market: Array
    rung: Array
    begins: Array  # µs
    ends: Array
    day: Array  # the label of the trading day it begins in
    counts: Array  # whether it counted so far

    def take(self, rows: Array) -> "Bars":
        """These of them."""
        return Bars(*(column[rows] for column in self))


def rows(events: Events, kinds: Array, days: Days) -> pa.Table:
    """Events that are bars, in the columns of the table; none of them counts yet."""
    market, begins = events.integers("market"), events.integers("ts")
    columns = {
        "pos": pa.array(events.integers("pos")),
        "kind": pa.array([KINDS[code] for code in kinds[market].tolist()], pa.string()),
        "market": pa.array(market),
        "rung": pa.array(events.integers("rung")),
        "begins": pa.array(begins),
        "ends": pa.array(events.integers("ends")),
        "day": pa.array(days(market, begins // MICROS)),
        "counts": pa.array(np.zeros(events.n, np.bool_)),
    }
    for measure in schema.FINISHED:
        match measure.rule:
            case Rule.SUM if measure.name in INTEGERS:
                whole = np.maximum(events.integers(measure.name), 0).tolist()
                columns[measure.name] = decimals.arrow(decimals.from_ints([each * decimals.ONE for each in whole]))
            case Rule.SUM:
                amounts = decimals.units(events.numbers(measure.name), events.exact(measure.name))
                columns[measure.name] = decimals.arrow(amounts)
            case Rule.COUNT:
                columns[measure.name] = pa.array(events.integers(measure.name))
            case _:
                columns[measure.name] = pa.array(events.numbers(measure.name), from_pandas=True)
    return pa.table(columns)


def put(db: Connection, bars: pa.Table) -> None:
    """Add bars."""
    if bars.num_rows:
        db.execute("INSERT INTO finished BY NAME SELECT * FROM bars")


def drop(db: Connection, places: Array) -> None:
    """Take bars out."""
    gone = pa.table({"pos": pa.array(places)})  # noqa: F841 - DuckDB reads the table by its name here
    db.execute("DELETE FROM finished WHERE pos IN (SELECT pos FROM gone)")


def some(db: Connection) -> bool:
    """Whether there are any."""
    return bool(db.execute("SELECT 1 FROM finished LIMIT 1").fetchall())


def reach(db: Connection) -> list[tuple[int, int, int]]:
    """(market, begin of the first bar, end of the last one) of the markets that have any, µs."""
    return db.execute("SELECT market, min(begins), max(ends) FROM finished GROUP BY market").fetchall()


# --- which of them count


def settle(db: Connection, landed: Instants, freed: Instants, sources: Array, through: int) -> Bars:
    """Find anew which bars count, and give back those of before that do so no more, or again.

    Of events and bars up to the batch `through`, all in here by now: prices were set in the seconds `landed`, events
    and bars were taken back in the seconds `freed`. Bars of later batches than the applied one are new.
    """
    ((applied,),) = db.execute("SELECT applied_seq FROM meta").fetchall()
    first = (int(applied) + 1) << ROW_BITS
    fresh = _read(db, "pos >= ?", first)
    stirred = _joined(landed, freed, Instants(fresh.market, fresh.begins // MICROS))
    if not len(stirred.market):
        return fresh.take(np.zeros(0, np.int64))
    low, high = int(stirred.second.min()) * MICROS, (int(stirred.second.max()) + 1) * MICROS
    bars = _read(db, "begins < ? AND ends > ?", high, low, markets=stirred.market)
    bars = bars.take(np.flatnonzero(_hit(bars, stirred)))
    if not len(bars.pos):
        return bars
    beaten = _hit(bars, landed) | _finer(db, bars)
    open_ = ~beaten & ((bars.pos >= first) | _hit(bars, freed))
    if open_.any():
        maybe = bars.take(np.flatnonzero(open_))
        beaten[open_] = _hit(maybe, _priced(db, maybe, sources, through))
    changed = np.flatnonzero(bars.counts == beaten)
    judged = pa.table({"pos": pa.array(bars.pos[changed]), "now": pa.array(~beaten[changed])})  # noqa: F841 - by name
    db.execute("UPDATE finished SET counts = judged.now FROM judged WHERE finished.pos = judged.pos")
    return bars.take(changed[bars.pos[changed] < first])


def _read(db: Connection, where: str, *values: int, markets: Array | None = None) -> Bars:
    if markets is not None:
        wanted = pa.table({"market": pa.array(np.unique(markets))})  # noqa: F841 - DuckDB reads it by its name
        where += " AND market IN (SELECT market FROM wanted)"
    found = db.execute(f"SELECT {', '.join(Bars._fields)} FROM finished WHERE {where}", list(values)).fetchnumpy()
    return Bars(*(found[name] for name in Bars._fields))


def _joined(*parts: Instants) -> Instants:
    return Instants(*(np.concatenate(columns).astype(np.int64) for columns in zip(*parts, strict=True)))


def _hit(bars: Bars, instants: Instants) -> Array:
    """Which bars have one of these seconds in their span."""
    if not len(bars.pos):
        return np.zeros(0, np.bool_)
    known = np.unique(bars.market)
    rank = np.searchsorted(known, instants.market)
    rank[rank == len(known)] = 0
    mine = known[rank] == instants.market
    seconds = np.unique(rank[mine].astype(np.int64) << 40 | instants.second[mine])
    base = np.searchsorted(known, bars.market) << 40
    ends = np.searchsorted(seconds, base | bars.ends // MICROS)
    hit: Array = ends > np.searchsorted(seconds, base | bars.begins // MICROS)
    return hit


def _finer(db: Connection, bars: Bars) -> Array:
    """In which bars a finer one begins."""
    within = int(bars.rung.max()), int(bars.begins.min()), int(bars.ends.max())
    others = _read(db, "rung < ? AND begins >= ? AND begins < ?", *within, markets=bars.market)
    found = np.zeros(len(bars.pos), np.bool_)
    for rung in np.unique(bars.rung).tolist():
        mine, finer = np.flatnonzero(bars.rung == rung), others.take(np.flatnonzero(others.rung < rung))
        found[mine] = _hit(bars.take(mine), Instants(finer.market, finer.begins // MICROS))
    return found


def _priced(db: Connection, bars: Bars, sources: Array, through: int) -> Instants:
    """The seconds around these bars in which events set prices."""
    markets = np.unique(bars.market)
    low, high = int(bars.begins.min()), int(bars.ends.max())
    allowed = pa.table(  # noqa: F841 - DuckDB reads the table by its name here
        {"slot": pa.array(markets), "sources": pa.array(sources[markets])}
    )
    fresh = db.execute(
        f"SELECT DISTINCT market, ts // {MICROS} AS second FROM ledger JOIN allowed ON market = slot "
        "WHERE ts >= ? AND ts < ? AND price > 0 AND ((sources >> price_type) & 1) = 1",
        [low, high],
    ).fetchnumpy()
    parts = [Instants(fresh["market"], fresh["second"])]
    for piece in ledger.sealed_within(db, Within(markets, low, high, through)):
        market, ts, price_type = (piece.column(name).to_numpy() for name in ("market", "ts", "price_type"))
        priced = (sources[market] >> price_type) & 1 == 1
        if "price" in piece.column_names:
            priced &= pc.greater(piece.column("price"), 0).fill_null(False).to_numpy()
            parts.append(Instants(market[priced], ts[priced] // MICROS))
    return _joined(*parts)


# --- what they add


def touched(bars: Bars) -> dict[tuple[str, int], set[tuple[int, int]]]:
    """The (market, bucket) that these bars are part of, by kind and rung."""
    found: dict[tuple[str, int], set[tuple[int, int]]] = {}
    for rung in schema.RUNGS:
        mine = np.flatnonzero(bars.rung <= rung)
        label = bars.day if rung == ONE_DAY else bars.begins // (rung * MICROS) * rung
        columns = (column[mine].tolist() for column in (bars.kind, bars.market, label))
        for kind, market, t in zip(*columns, strict=True):
            found.setdefault((kind, rung), set()).add((market, t))
    return found


def deltas(db: Connection) -> list[tuple[int, Partials]]:
    """(rung, partials) of the bars of batches later than the applied one."""
    fresh = f"pos >> {ROW_BITS} > (SELECT applied_seq FROM meta)"
    kinds = db.execute(f"SELECT kind, min(rung) FROM finished WHERE {fresh} GROUP BY kind").fetchall()
    found = []
    for kind, finest in kinds:
        for rung in schema.RUNGS:
            if rung >= finest:
                relation = f"({_partials(kind, rung)} FROM finished WHERE {fresh} AND kind = '{kind}')"
                merged = schema.merge_sql(kind, f"(SELECT * FROM {relation} WHERE length <= {rung})")
                found.append((rung, from_arrow(kind, db.sql(merged).to_arrow_table())))
    return found


def among(db: Connection, kind: str, rung: int, slots: Array, begin: int, end: int) -> pa.Table:
    """What all bars add to these markets' buckets with begin ≤ t < end, as partials, not yet summed."""
    wanted = pa.table({"slot": pa.array(slots)})  # DuckDB reads the table by its name here
    assert wanted.num_rows
    where = f"rung <= {rung} AND market IN (SELECT slot FROM wanted)"
    return db.sql(
        f"SELECT * EXCLUDE (length) FROM ({_partials(kind, rung)} FROM finished WHERE {where}) "
        f"WHERE t >= {begin} AND t < {end}"
    ).to_arrow_table()


def within(db: Connection, kind: str, rung: int, buckets: pa.Table, wanted: Within) -> Partials:
    """What all bars add to these buckets (`slot`, `label`) of a stored resolution."""
    relation = (
        f"(SELECT p.* FROM ({_partials(kind, rung)} FROM finished "
        f"WHERE rung <= {rung} AND begins >= {wanted.low} AND begins < {wanted.high} "
        f"AND pos < {wanted.through + 1 << ROW_BITS}) p JOIN buckets b ON p.market = b.slot AND p.t = b.label)"
    )
    assert buckets.num_rows  # DuckDB reads the table by its name here
    return from_arrow(kind, db.sql(schema.merge_sql(kind, relation)).to_arrow_table())


def _partials(kind: str, rung: int) -> str:
    """What selects bars as partials of this rung.

    One that does not count adds nothing but that it was there, if it has a price: then so was that of an event or of a
    finer bar.
    """
    label = "day" if rung == ONE_DAY else f"begins // {rung * MICROS} * {rung}"
    columns = ["market", f"{label} AS t", "rung AS length"]
    for measure in MEASURES[kind]:
        name = measure.name
        match measure.rule:
            case Rule.FIRST | Rule.LAST:
                at = "begins" if measure.rule is Rule.FIRST else "ends - 1"
                columns.append(f"CASE WHEN counts THEN {name} END AS {name}, {at} AS {name}_ts")
                columns.append(f"{_NONE} AS {name}_block, {_NONE} AS {name}_idx, '' AS {name}_tid, pos AS {name}_pos")
            case Rule.MIN | Rule.MAX:
                columns.append(f"CASE WHEN counts THEN {name} END AS {name}")
            case Rule.SUM | Rule.COUNT:
                columns.append(f"CASE WHEN counts THEN {name} ELSE 0 END AS {name}")
            case Rule.DISTINCT:
                columns.append(f"CAST(NULL AS UBIGINT[]) AS {name}")
    seq = f"pos >> {ROW_BITS}"
    columns.append(f"{seq} AS rev, CASE WHEN open IS NULL THEN {NEVER} ELSE {seq} END AS born, false AS whole")
    return f"SELECT {', '.join(columns)}"


_NONE = "CAST(-1 AS BIGINT)"
