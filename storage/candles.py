"""Partials of every stored resolution: put, merged between, refolded from the ledger; and how far they reach."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from duckdb import DuckDBPyConnection as Connection

from storage import archive, finished, ledger, partitions, schema
from storage.errors import BrokenStore
from storage.events import BAR, Array
from storage.measures import MEASURES
from storage.partials import FIELDS, NEVER, Partials, concat, from_arrow, none, to_arrow
from storage.prepared import prepared
from storage.sealed import Within

MICROS = 1_000_000
ONE_DAY = 86400
# A bucket whose bar ended, and whether it was there at some time; None: what was stored of it was wrong, so who has it
# cannot be told.
Ended = tuple[int, bool | None]
LATEST = 253_402_300_800  # the year 10000; what is asked for before a later time is all there is


@dataclass(frozen=True, slots=True)
class Touched:
    """Buckets of one kind at one rung that must be folded again from the ledger."""

    market: Array  # int32
    t: Array  # label of the bucket, seconds
    low: Array  # its events lie at low ≤ ts < high, µs
    high: Array
    sources: Array  # uint8: the market's price types as a bit mask
    seq: Array  # the newest batch that touched it

    def since(self, t: int) -> "Touched":
        """Those that begin at this second or later."""
        some = self.t >= t
        if some.all():
            return self
        return Touched(*(getattr(self, name)[some] for name in ("market", "t", "low", "high", "sources", "seq")))


def together(parts: Sequence[Touched]) -> Touched:
    """All buckets of some."""
    names = ("market", "t", "low", "high", "sources", "seq")
    return Touched(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


@dataclass(frozen=True, slots=True)
class Lives:
    """Times at which bars existed that do not exist since: at every seq with born ≤ seq < died."""

    market: Array
    t: Array
    born: Array
    died: Array


def adopt(db: Connection, epoch: str) -> int:
    """The applied seq of this database if it belongs to the journal of this epoch, or to none; a new one begins at 0.

    Raises BrokenStore where it belongs to another journal.
    """
    rows = db.execute("SELECT epoch, applied_seq FROM meta").fetchall()
    if not rows:
        db.execute("INSERT INTO meta VALUES (?, 0)", [epoch])
        return 0
    ((known, seq),) = rows
    if not known:
        db.execute("UPDATE meta SET epoch = ?", [epoch])
    elif known != epoch:
        raise BrokenStore(f"the database belongs to journal {known!r}, the journal beside it is {epoch!r}")
    return int(seq)


def applied(db: Connection) -> int:
    """The newest batch whose events and bars are all in here."""
    ((seq,),) = prepared(db, "SELECT applied_seq FROM meta").fetchall()
    return int(seq)


def apply(db: Connection, seq: int) -> None:
    """Say that everything up to this batch is in here."""
    db.execute("UPDATE meta SET applied_seq = ?", [seq])


ORDERED = 122_880  # rows of one row group of DuckDB: so many in order are as good to read as compacted ones


def put(db: Connection, rung: int, table: Partials) -> None:
    """Add partials to the newest stretch of a stored resolution.

    Of very many, which are in (market, t) order, those of times that have no bars yet go to the ordered bars at once:
    compacting them would only copy them.
    """
    if table.n >= ORDERED and "whole" not in table:
        base = schema.candle_table(table.kind, rung)
        t = table["t"]
        query = f"SELECT DISTINCT t FROM {base} WHERE t BETWEEN ? AND ?"
        seen = np.isin(t, db.execute(query, [int(t.min()), int(t.max())]).fetchnumpy()["t"])
        _insert(db, base, table.take(~seen))
        table = table.take(seen)
    _insert(db, schema.recent_table(table.kind, rung), table)


def _insert(db: Connection, name: str, table: Partials) -> None:
    if table.n:
        rows = to_arrow(table)  # noqa: F841 - DuckDB reads the table by its name here
        db.execute(f"INSERT INTO {name} BY NAME SELECT * FROM rows")


def between(db: Connection, kind: str, rung: int, market: int, start: int, end: int) -> Partials:
    """All rows of one market with start ≤ t < end, not yet summed; see `actors.fold.merged`."""
    fresh = _rows(db, kind, rung, "market = ? AND t >= ? AND t < ?", [market, start, end])
    return concat([fresh, *archive.between(db, kind, rung, market, start, end)])


def shown(db: Connection, kind: str, rung: int, market: int, start: int, end: int) -> dict[str, Array] | None:
    """What charts show of the bars of one market with start ≤ t < end, ascending: columns of SHOWN, volumes as floats.

    None where a bucket has several rows, which have to be summed first.
    """
    names = ", ".join("volume::DOUBLE AS volume" if name == "volume" else name for name in archive.SHOWN)
    both = _both(kind, rung, names, "market = $1 AND t >= $2 AND t < $3")
    rows = prepared(db, both, [market, start, end]).fetchnumpy()
    fresh = {name: np.ma.filled(column, np.nan) if np.ma.isMA(column) else column for name, column in rows.items()}
    parts = [fresh, *archive.shown(db, kind, rung, market, start, end)]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in archive.SHOWN}
    if not (columns["t"][1:] > columns["t"][:-1]).all():
        order = np.argsort(columns["t"], kind="stable")
        columns = {name: column[order] for name, column in columns.items()}
        if (columns["t"][1:] == columns["t"][:-1]).any():
            return None
    return columns


def newest(db: Connection, kind: str, rung: int, market: int, before: int, count: int) -> Partials:
    """All rows of the `count` newest buckets of one market with t < before, not yet summed."""
    if before < LATEST:
        # Bars mostly lie side by side: then those of so long a time are enough, and nobody has to look for the first.
        near = between(db, kind, rung, market, before - count * rung * 17 // 16, before)
        times = np.unique(near["t"])
        if len(times) >= count:
            late = near["t"] >= times[-count]
            return near if late.all() else near.take(late)
    both = _both(kind, rung, "t", "market = ? AND t < ?")
    known = db.execute(
        f"SELECT DISTINCT t FROM ({both}) ORDER BY t DESC LIMIT ?", [market, before, market, before, count]
    ).fetchnumpy()
    old, oldest = archive.newest(db, kind, rung, market, before, count, known["t"])
    if oldest is None:
        return none(kind)
    fresh = _rows(db, kind, rung, "market = ? AND t >= ? AND t < ?", [market, oldest, before])
    return concat([fresh, *old])


def at(db: Connection, kind: str, rung: int, market: int, times: list[int]) -> Partials:
    """All rows of one market in these buckets, not yet summed."""
    fresh = _rows(db, kind, rung, "market = ? AND t IN (SELECT unnest(?))", [market, times])
    return concat([fresh, *archive.at(db, kind, rung, market, times)])


def changed(db: Connection, kind: str, rung: int, market: int, since: int, limit: int) -> list[int]:
    """The buckets of one market that changed after this seq, at most `limit` of them, the newest first."""
    both = _both(kind, rung, "t", "market = ? AND rev > ?")
    rows = db.execute(
        f"SELECT DISTINCT t FROM ({both}) ORDER BY t DESC LIMIT ?", [market, since, market, since, limit]
    ).fetchall()
    old = archive.changed(db, kind, rung, market, since, limit)
    return sorted({*old, *(t for (t,) in rows)}, reverse=True)[:limit]


def last_change(db: Connection, kind: str, market: int) -> int:
    """The newest seq that changed anything of this market; 0 where nothing did."""
    both = _both(kind, ONE_DAY, "rev", "market = ?")
    ((found,),) = db.execute(f"SELECT max(rev) FROM ({both})", [market, market]).fetchall()
    return max(int(found or 0), archive.last_change(db, kind, market))


def days(db: Connection, kind: str, market: int) -> list[int]:
    """The days of one market that have a bar, ascending; of what cannot be read, all that may have one."""
    both = _both(kind, ONE_DAY, "t", "market = ?")
    rows = db.execute(f"SELECT DISTINCT t FROM ({both})", [market, market]).fetchnumpy()
    found: list[int] = np.union1d(rows["t"], archive.days(db, kind, market)).tolist()
    return found


def ended(db: Connection, rung: int, market: int, since: int, limit: int) -> list[Ended]:
    """The buckets of one market whose bar ended after this seq, at most `limit`."""
    return db.execute(
        "SELECT t, CASE WHEN min(born) >= 0 THEN bool_or(born <= ?) END "
        "FROM ended WHERE rung = ? AND market = ? AND died > ? "
        "GROUP BY t ORDER BY t DESC LIMIT ?",
        [since, rung, market, since, limit],
    ).fetchall()


def end(db: Connection, rung: int, lives: Lives) -> None:
    """Note that these bars of a stored resolution are no more."""
    if len(lives.t):
        columns = {"market": lives.market, "t": lives.t, "born": lives.born, "died": lives.died}
        rows = pa.table(columns)  # noqa: F841 - DuckDB reads the table by its name here
        db.execute(f"INSERT INTO ended SELECT {rung}, market, t, born, died FROM rows")


def dying(db: Connection, places: Array, seqs: Array) -> pa.Table:
    """Of the events at these places, which the batches `seqs` take back, those with a price: as `refolded` reads them.

    They must not have been dropped yet. Finished bars are among them, with their `rung`; an event's is 0.
    """
    gone = pa.table({"pos": pa.array(places), "died": pa.array(seqs)})  # noqa: F841 - by its name
    priced = ledger.prices_at(db, places)  # noqa: F841 - by its name
    return db.sql(
        "SELECT market, ts, price_type, 0 AS rung, pos >> 24 AS born, died FROM priced JOIN gone USING (pos) UNION ALL "
        "SELECT market, begins, 0, rung, pos >> 24, died FROM finished JOIN gone USING (pos) WHERE open IS NOT NULL"
    ).to_arrow_table()


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
    return np.union1d(rows["market"].astype(np.int64), archive.lived(db))


def refolded(
    db: Connection, kind: str, rung: int, touched: Touched, taken: pa.Table, through: int
) -> tuple[Partials, Lives]:
    """Whole rows for these buckets, folded from the ledger as it is in this transaction, and the bars that ended.

    Events of batches after `through` are not counted. Empty rows are gone bars. `taken` says which priced events of
    these buckets died since the last flush (`dying`). `rev` is at least the seq that touched the bucket; `born` is
    where the time began in which the bar has been there without a break.
    """
    buckets = pa.table(
        {
            "number": pa.array(np.arange(len(touched.t))),
            "slot": pa.array(touched.market),
            "label": pa.array(touched.t),
            "low": pa.array(touched.low),
            "high": pa.array(touched.high),
            "sources": pa.array(touched.sources),
        }
    )
    wanted = Within(np.unique(touched.market), int(touched.low.min()), int(touched.high.max()), through)
    folded = _folded(db, kind, rung, buckets, wanted)
    row_of = {pair: row for row, pair in enumerate(_pairs(folded["market"], folded["t"]))}
    rows = np.array([row_of.get(pair, -1) for pair in _pairs(touched.market, touched.t)])
    numbers = np.concatenate([np.flatnonzero(rows >= 0), np.flatnonzero(rows < 0)])
    empty = touched.market[rows < 0], touched.t[rows < 0]
    gone = Partials(kind, len(empty[0]), {"market": empty[0], "t": empty[1]})
    table = concat([folded.take(rows[rows >= 0]), gone])
    births = np.full(len(rows), NEVER)
    births[numbers] = table["born"]
    born, lives = _lived(db, kind, rung, touched, births, _intervals(db, rung, buckets, taken))
    columns = {**table.columns, "whole": np.ones(table.n, np.bool_)}
    columns["rev"] = np.maximum(table["rev"], touched.seq[numbers])
    columns["born"] = born[numbers]
    return Partials(kind, table.n, columns), lives


def _folded(db: Connection, kind: str, rung: int, buckets: pa.Table, wanted: Within) -> Partials:
    """The events of these buckets, those of the tables and those of sealed files, folded; and finished bars."""

    def fold(events: str, piece: pa.Table | None = None) -> Partials:
        assert buckets is not None  # both tables are read by their names
        assert piece is None or piece.num_rows
        relation = (
            f"(SELECT l.*, b.label, price > 0 AND {PRICED} AS priced FROM {events} l "
            f"JOIN buckets b ON l.market = b.slot AND {_within(rung)} "
            f"WHERE l.ts >= {wanted.low} AND l.ts < {wanted.high} AND l.event <> {BAR})"
        )
        return from_arrow(kind, db.sql(schema.fold_sql(kind, relation, "label")).to_arrow_table())

    names = ", ".join(ledger.FOLDED)
    both = f"(SELECT {names} FROM ledger UNION ALL BY NAME SELECT * FROM piece)"
    alone = f"((SELECT {names} FROM ledger LIMIT 0) UNION ALL BY NAME SELECT * FROM piece)"
    pieces = ledger.sealed_within(db, wanted)
    first = next(pieces, None)
    parts = [fold("ledger" if first is None else both, first), *(fold(alone, piece) for piece in pieces)]
    if finished.some(db):
        parts.append(finished.within(db, kind, rung, buckets, wanted))
    if len(parts) == 1:
        return parts[0]
    every = pa.concat_tables([to_arrow(part) for part in parts], promote_options="default")  # noqa: F841 - by its name
    return from_arrow(kind, db.sql(schema.merge_sql(kind, "every")).to_arrow_table())


PRICED = "((b.sources >> l.price_type) & 1) = 1"


def _within(rung: int) -> str:
    """Whether an event lies in a bucket: by an equality, but for days, which only their span can tell, and are few."""
    length = rung * MICROS
    return "l.ts >= b.low AND l.ts < b.high" if rung == ONE_DAY else f"l.ts // {length} * {rung} = b.label"


def _pairs(market: Array, t: Array) -> Iterable[tuple[int, int]]:
    return zip(market.tolist(), t.tolist(), strict=True)


def _intervals(
    db: Connection,
    rung: int,
    buckets: pa.Table,  # noqa: ARG001 - DuckDB reads the tables by their names here
    taken: pa.Table,  # noqa: ARG001
) -> tuple[Array, Array, Array]:
    """(number of the bucket, born, died) of the events that were taken back and had set a price."""
    rows = db.sql(
        f"SELECT b.number, l.born, l.died FROM taken l JOIN buckets b ON l.market = b.slot AND {_within(rung)} "
        f"WHERE l.rung <= {rung} AND ({PRICED} OR l.rung > 0)"
    ).fetchnumpy()
    return rows["number"], rows["born"], rows["died"]


def _lived(
    db: Connection, kind: str, rung: int, touched: Touched, births: Array, taken: tuple[Array, Array, Array]
) -> tuple[Array, Lives]:
    """Since when each bucket has had a bar without a break (NEVER: it has none), and the earlier times it had one.

    `births` are the first seqs of the events that stand; `taken` the spans of those that do not.
    """
    before = _old_births(db, kind, rung, touched)
    stored, standing = np.flatnonzero(before < NEVER), np.flatnonzero(births < NEVER)
    until = np.full(len(stored), applied(db) + 1)
    forever = np.full(len(standing), FOREVER)
    number = np.concatenate([stored, taken[0], standing])
    born = np.concatenate([before[stored], taken[1], births[standing]])
    number, born, died = joined(number, born, np.concatenate([until, taken[2], forever]))
    now, then = died == FOREVER, died < FOREVER
    since = np.full(len(births), NEVER)
    since[number[now]] = born[now]
    return since, Lives(touched.market[number[then]], touched.t[number[then]], born[then], died[then])


FOREVER = (1 << 40) - 1  # later than any seq


def joined(group: Array, start: Array, end: Array) -> tuple[Array, Array, Array]:
    """The spans start ≤ x < end of each group, those that meet or overlap as one, in order; group < 2**22."""
    if not len(group):
        return group, start, end
    order = np.lexsort((start, group))
    group, start, end = group[order].astype(np.int64), start[order], end[order]
    reach = np.maximum.accumulate(group << 40 | end)  # a later group reaches further than any earlier one
    first = np.flatnonzero(np.append(True, (group[1:] << 40 | start[1:]) > reach[:-1]))
    last = np.append(first[1:], len(group)) - 1
    return group[first], start[first], reach[last] & FOREVER


def _old_births(db: Connection, kind: str, rung: int, touched: Touched) -> Array:
    wanted = pa.table({"slot": pa.array(touched.market), "label": pa.array(touched.t)})  # noqa: F841 - by name
    older = archive.births(db, kind, rung, touched.market, touched.t)  # noqa: F841 - by name
    columns = "market, t, born, rev, whole"
    relation = _both(kind, rung, columns, "(market, t) IN (SELECT slot, label FROM wanted)")
    relation += " UNION ALL SELECT market, t, born, rev, false AS whole FROM older"
    rows = db.execute(
        f"WITH judged AS (SELECT *, max(CASE WHEN whole THEN rev ELSE -1 END) OVER (PARTITION BY market, t) AS newest "
        f"FROM ({relation})) SELECT market, t, min(born) AS born FROM judged "
        "WHERE rev > newest OR (whole AND rev = newest) GROUP BY market, t"
    ).fetchall()
    known = {(market, t): born for market, t, born in rows}
    return np.array([known.get(pair, NEVER) for pair in _pairs(touched.market, touched.t)], np.int64)


def backlog(db: Connection, kind: str, rung: int) -> int:
    """How many rows wait in the newest stretch of a stored resolution."""
    ((found,),) = db.execute(f"SELECT count(*) FROM {schema.recent_table(kind, rung)}").fetchall()
    return int(found)


SHARE = 8  # a span is compacted once it has one new row for so many old ones


def compact(db: Connection, kind: str, rung: int, span: int) -> int:
    """Sum the newest stretch into the ordered bars; how many rows it was.

    Compacted bars lie in (market, t) order within each span (seconds), so that reading one market touches few rows.
    What few rows add to a large span waits until they are worth writing it again.
    """
    base, recent = schema.candle_table(kind, rung), schema.recent_table(kind, rung)
    ((first, last),) = db.execute(f"SELECT min(t), max(t) FROM {recent}").fetchall()
    if first is None:
        return 0
    number = f"CAST(floor(t / {span}) AS BIGINT)"  # `//` would round times before 1970 up
    near = f"t >= {first // span * span} AND t < {(last // span + 1) * span}"
    db.execute(
        f"CREATE OR REPLACE TEMP TABLE due AS SELECT number FROM "
        f"(SELECT {number} AS number, count(*) AS fresh FROM {recent} GROUP BY ALL) "
        f"LEFT JOIN (SELECT {number} AS number, count(*) AS old FROM {base} WHERE {near} GROUP BY ALL) USING (number) "
        f"WHERE fresh * {SHARE} >= coalesce(old, 0)"
    )
    where = f"{near} AND {number} IN (SELECT number FROM due)"
    db.execute(f"CREATE OR REPLACE TEMP TABLE compacted AS SELECT * FROM {base} WHERE {where}")
    db.execute(f"DELETE FROM {base} WHERE {where}")
    ((moved,),) = db.execute(f"INSERT INTO compacted SELECT * FROM {recent} WHERE {where}").fetchall()
    db.execute(f"DELETE FROM {recent} WHERE {where}")
    names = ", ".join(field.name for field in FIELDS[kind])
    # Most buckets have one row, which is its own sum; only the others have to be summed.
    several = "(SELECT market, t FROM compacted GROUP BY market, t HAVING count(*) > 1)"
    merged = schema.merge_sql(kind, f"(SELECT * FROM compacted SEMI JOIN {several} USING (market, t))")
    # What replaces a bucket goes on doing so where the archive has rows of it.
    beside = " OR ".join(f"t >= {low} AND t < {high}" for low, high in partitions.spans(db, kind, rung)) or "false"
    # An empty whole row stays as the mark of a bar that is gone: whoever comes back asks for it by its rev.
    db.execute(
        f"INSERT INTO {base} SELECT * REPLACE (whole AND ({beside}) AS whole) FROM ("
        f"SELECT {names} FROM compacted ANTI JOIN {several} USING (market, t) UNION ALL SELECT {names} FROM ({merged})"
        f") ORDER BY {number}, market, t"
    )
    db.execute("DROP TABLE compacted")
    db.execute("DROP TABLE due")
    return int(moved)
