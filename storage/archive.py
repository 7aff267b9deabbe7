"""Bars of periods that are over, in Parquet: moved there from DuckDB, and read together with what DuckDB still has."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import duckdb
import msgspec
import numpy as np
import pyarrow as pa
from duckdb import DuckDBPyConnection as Connection
from msgspec import structs

from storage import decimals, disk, parquet, partitions, retention, schema
from storage.errors import CandledError, Unavailable
from storage.events import Array
from storage.measures import MEASURES, Rule
from storage.partials import FIELDS, Partials, decimal_words, from_arrow
from storage.partitions import BrokenPartition, Part, Partition, Words

log = logging.getLogger(__name__)

EVER = 2**61  # further than any bar
STEP_BYTES = 16 << 20  # of rows that are summed at a time
PART_ROWS = 400_000  # a file is finished once it has so many
DAY = 86400
SHOWN = ("t", "open", "high", "low", "close", "volume", "trades_count", "rev")  # of bars, on charts

Pause = Callable[[], None]  # called between two steps of long work; raises to end it
Snapshot = Callable[[], AbstractContextManager[Connection]]


class Changed(CandledError):
    """The partition was changed while it was written: what was written is of no use."""


# --- reading: each returns what the files add to the rows of the same transaction


def between(db: Connection, kind: str, rung: int, market: int, start: int, end: int) -> list[Partials]:
    """The archived rows of one market with start ≤ t < end."""
    found = partitions.among(db, kind, rung, (market, market), (start, end))
    root = partitions.folder(db) if found else Path()
    return [from_arrow(kind, _of_market(root, part, market, start, end)) for part in found]


def shown(db: Connection, kind: str, rung: int, market: int, start: int, end: int) -> list[dict[str, Array]]:
    """What charts show of the archived rows of one market with start ≤ t < end: columns of SHOWN, volumes as floats."""
    found = partitions.among(db, kind, rung, (market, market), (start, end))
    root = partitions.folder(db) if found else Path()
    return [_shown(_of_market(root, part, market, start, end, ("market", *SHOWN))) for part in found]


def _shown(table: pa.Table) -> dict[str, Array]:
    columns: dict[str, Array] = {}
    for name in SHOWN:
        column = table.column(name).combine_chunks()
        exact = name == "volume"
        columns[name] = decimals.floats(decimal_words(column)) if exact else column.to_numpy(zero_copy_only=False)
    return columns


def newest(
    db: Connection, kind: str, rung: int, market: int, before: int, count: int, known: Array
) -> tuple[list[Partials], int | None]:
    """The archived rows among the `count` newest buckets of one market with t < before, and where those begin.

    `known` are the buckets that the newest `count` of DuckDB's rows lie in.
    """
    times = np.unique(known)
    found = partitions.among(db, kind, rung, (market, market), (-EVER, before))
    root = partitions.folder(db) if found else Path()
    tables: list[pa.Table] = []
    for part in reversed(found):
        if len(times) >= count and part.t_high < times[-count]:
            break
        for table in _backwards(root, part, market, before):
            tables.append(table)
            times = np.union1d(times, table.column("t").to_numpy())
            if len(times) >= count and table.column("t")[0].as_py() <= times[-count]:
                break
    if not len(times):
        return [], None
    first = int(times[-count:][0])
    return [from_arrow(kind, _later(table, first)) for table in tables], first


def at(db: Connection, kind: str, rung: int, market: int, wanted: Sequence[int]) -> list[Partials]:
    """The archived rows of one market in these buckets."""
    if not wanted:
        return []
    tables = between(db, kind, rung, market, min(wanted), max(wanted) + 1)
    return [table.take(np.isin(table["t"], wanted)) for table in tables]


def changed(db: Connection, kind: str, rung: int, market: int, since: int, limit: int) -> list[int]:
    """The archived buckets of one market that changed after this seq, at most `limit` of them, the newest first."""
    times: list[int] = []
    found = [part for part in _all_of(db, kind, rung, market) if part.rev_high > since]
    root = partitions.folder(db) if found else Path()
    for part in reversed(found):
        table = _of_market(root, part, market, -EVER, EVER, ("market", "t", "rev"), since)
        later = table.column("t").to_numpy()[table.column("rev").to_numpy() > since]
        times += later[::-1].tolist()
        if len(times) >= limit:
            break
    return times[:limit]


def last_change(db: Connection, kind: str, market: int) -> int:
    """The newest seq that changed an archived daily bar of this market; 0 where there is none.

    Of a file that cannot be read it is the newest that changed anything in it.
    """
    found = sorted(_all_of(db, kind, DAY, market), key=lambda part: -part.rev_high)
    root = partitions.folder(db) if found else Path()
    newest = 0
    for part in found:
        if part.rev_high <= newest:
            break
        try:
            table = _of_market(root, part, market, -EVER, EVER, ("market", "t", "rev"))
        except BrokenPartition:
            newest = part.rev_high
        else:
            newest = max(newest, int(table.column("rev").to_numpy().max(initial=0)))
    return newest


def days(db: Connection, kind: str, market: int) -> Array:
    """The days of one market that have an archived bar; of a file that cannot be read, all that it may speak of."""
    found = _all_of(db, kind, DAY, market)
    root = partitions.folder(db) if found else Path()
    times = [np.zeros(0, np.int64)]
    for part in found:
        try:
            times.append(_of_market(root, part, market, -EVER, EVER, ("market", "t")).column("t").to_numpy())
        except BrokenPartition:
            times.append(np.arange(part.t_low, part.t_high + 1, DAY))
    return np.unique(np.concatenate(times))


def births(db: Connection, kind: str, rung: int, markets: Array, times: Array) -> pa.Table:
    """(market, t, born, rev) of these archived bars.

    Of a partition that cannot be read there are none: a flush must not wait for somebody to bring a file back.
    """
    columns = ("market", "t", "born", "rev")
    reach = (int(times.min()), int(times.max()) + 1)
    found = partitions.among(db, kind, rung, (int(markets.min()), int(markets.max())), reach)
    ((seq,),) = db.execute("SELECT applied_seq FROM meta").fetchall()
    found = [part for part in found if part.seq <= seq]  # in a rebuild there are files of later times
    root = partitions.folder(db) if found else Path()
    tables = [pa.table({name: pa.array([], pa.int32() if name == "market" else pa.int64()) for name in columns})]
    for part in found:
        wanted = (times >= part.t_low) & (times <= part.t_high)
        wanted &= (markets >= part.market_low) & (markets <= part.market_high)
        with suppress(BrokenPartition):
            tables.append(_of_buckets(root, part, markets[wanted], times[wanted], columns))
    return pa.concat_tables(tables)


def lived(db: Connection) -> Array:
    """The slots of all markets that have an archived bar; of a file that cannot be read, all that it may speak of."""
    slots = [np.zeros(0, np.int64)]
    found = [part for part in partitions.everything(db) if part.rung == DAY]
    root = partitions.folder(db) if found else Path()
    for part in found:
        try:
            table = _read(root, part, lambda known: np.full(len(known.low), True), ("market",))
        except BrokenPartition:
            slots.append(np.arange(part.market_low, part.market_high + 1))
        else:
            slots.append(np.unique(table.column("market").to_numpy()).astype(np.int64))
    return np.unique(np.concatenate(slots))


def _all_of(db: Connection, kind: str, rung: int, market: int) -> list[Part]:
    return partitions.among(db, kind, rung, (market, market), (-EVER, EVER))


def _read(
    root: Path, part: Part, choose: Callable[[parquet.Groups], Array], columns: Sequence[str] | None = None
) -> pa.Table:
    """The row groups of a file for which `choose` is true."""
    path = root / part.path
    try:
        known = parquet.groups(path, part.footer)
        return parquet.read(path, known, np.flatnonzero(choose(known)).tolist(), columns)
    except parquet.BROKEN as error:
        raise BrokenPartition(part, error) from error


def _of_market(
    root: Path,
    part: Part,
    market: int,
    start: int,
    end: int,
    columns: Sequence[str] | None = None,
    since: int = -1,
) -> pa.Table:
    """The rows of one market with start ≤ t < end, without row groups in which nothing changed after `since`."""

    def choose(known: parquet.Groups) -> Array:
        mine = (known.market_low <= market) & (known.market_high >= market)
        return mine & (known.high >= start) & (known.low < end) & (known.rev > since)

    return _cut(_read(root, part, choose, columns), market, start, end)


def _backwards(root: Path, part: Part, market: int, before: int) -> Iterator[pa.Table]:
    """The rows of one market with t < before, the newest row group first."""
    path = root / part.path
    try:
        known = parquet.groups(path, part.footer)
        mine = (known.market_low <= market) & (known.market_high >= market) & (known.low < before)
        for number in np.flatnonzero(mine)[::-1].tolist():
            table = _cut(parquet.read(path, known, [number]), market, -EVER, before)
            if table.num_rows:
                yield table
    except parquet.BROKEN as error:
        raise BrokenPartition(part, error) from error


def _of_buckets(root: Path, part: Part, markets: Array, times: Array, columns: Sequence[str]) -> pa.Table:
    def choose(known: parquet.Groups) -> Array:
        chosen = np.zeros(len(known.low), np.bool_)
        for market, t in zip(markets.tolist(), times.tolist(), strict=True):
            mine = (known.market_low <= market) & (known.market_high >= market)
            chosen |= mine & (known.low <= t) & (known.high >= t)
        return chosen

    table = _read(root, part, choose, columns)
    wanted = set(zip(markets.tolist(), times.tolist(), strict=True))
    pairs = zip(table.column("market").to_pylist(), table.column("t").to_pylist(), strict=True)
    return table.filter(pa.array([pair in wanted for pair in pairs], pa.bool_()))


def _cut(table: pa.Table, market: int, start: int, end: int) -> pa.Table:
    """The rows of one market with start ≤ t < end: they lie together."""
    markets, t = table.column("market").to_numpy(), table.column("t").to_numpy()
    rows = np.flatnonzero((markets == market) & (t >= start) & (t < end))
    return table.slice(int(rows[0]), len(rows)) if len(rows) else table.slice(0, 0)


def _later(table: pa.Table, first: int) -> pa.Table:
    return table.slice(int(np.searchsorted(table.column("t").to_numpy(), first)))


# --- moving


@dataclass(frozen=True, slots=True)
class Held:
    """What some files hold."""

    files: int
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """A partition with rows in DuckDB."""

    partition: Partition
    rows: int
    rev: int  # the newest change


@dataclass(frozen=True, slots=True)
class Moved:
    """New files of a partition, verified and under their names, and what they stand for."""

    partition: Partition
    parts: Sequence[Part]
    old: Sequence[Part]  # the files that they replace
    rows: int  # in DuckDB, that are in them
    seq: int


def waiting(db: Connection, before: int) -> list[Waiting]:
    """The partitions that ended before this second (Unix) and have rows in DuckDB, the oldest first."""
    found: dict[Partition, Waiting] = {}
    for kind in MEASURES:
        for rung in schema.RUNGS:
            rows = db.execute(
                f"SELECT t // {DAY}, count(*), max(rev) FROM ({_fresh(kind, rung)} WHERE t < ?) GROUP BY 1", [before]
            ).fetchall()
            for day, count, rev in rows:
                where = partitions.of_bar(kind, rung, day * DAY)
                if where.high <= before:
                    known = found.get(where, Waiting(where, 0, 0))
                    found[where] = Waiting(where, known.rows + count, max(known.rev, rev))
    return sorted(found.values(), key=lambda one: (one.partition.low, one.partition))


Adder = Callable[[], Connection]  # a database to sum in, which is opened where there is anything to sum
Steps = Callable[[Connection, Adder, Partition, Sequence[Part]], Iterator[tuple[int, pa.Table]]]


def write(pause: Pause, snapshot: Snapshot, where: Partition, now: float, steps: Steps | None = None) -> Moved:
    """Write new files of a partition with everything that is known of it; nothing refers to them yet.

    `steps` gives the bars of some markets at a time, and how many rows of DuckDB's they stand for; unless it is given,
    they are summed from what is stored.

    Raises BrokenPartition where its present files cannot be read, Unavailable where there is no room or no memory,
    FailedDisk where the disk fails.
    """
    writers: list[parquet.Writer] = []
    with snapshot() as db, ExitStack() as opened:
        root = partitions.folder(db)
        adder = lru_cache(1)(lambda: opened.enter_context(summing(root)))
        ((epoch, seq),) = db.execute("SELECT epoch, applied_seq FROM meta").fetchall()
        old = partitions.of(db, where)
        generation = old[0].generation + 1 if old else 1
        folder = root / where.folder
        folder.mkdir(parents=True, exist_ok=True)
        rows = 0
        sums: list[_Sums] = []
        try:
            for count, table in (steps or _present)(db, adder, where, old):
                rows += count
                if not table.num_rows:
                    continue
                if not writers or writers[-1].rows >= PART_ROWS:
                    path = folder / f"{generation}-{len(writers)}.parquet"
                    writers.append(parquet.Writer(path, table.schema))
                    sums.append(_Sums())
                writers[-1].add(table)
                sums[-1].add(table)
                pause()
            parts = []
            for number, (writer, summed) in enumerate(zip(writers, sums, strict=True)):
                part = summed.part(where, generation, number, seq, writer.hash(), now)
                writer.close(msgspec.json.encode(Words(epoch, len(writers), part)))
                _verify(writer, summed, part, pause)
                size = writer.new.stat().st_size
                parts.append(structs.replace(part, bytes=size, footer=parquet.footer_sum(writer.new)))
                pause()
            for writer in writers:
                writer.rename()
            _sync_folders(root, folder)
        except BaseException as error:
            for writer in writers:
                writer.give_up()
                writer.path.unlink(missing_ok=True)
            if isinstance(error, duckdb.OutOfMemoryException):
                raise Unavailable(f"{where} could not be summed: {error}") from error
            if isinstance(error, OSError):
                raise disk.meant(error, f"archive: {where}") from error
            raise
    return Moved(where, parts, old, rows, seq)


def adopt(db: Connection, moved: Moved) -> None:
    """Have the files answer for the partition, and drop the rows that they hold; runs inside one transaction.

    Raises Changed where the rows are not those that were written. Whatever came later has a greater rev. What was
    summed up meanwhile, old rows with each other or with later ones, leaves fewer old rows than were written.
    """
    where = moved.partition
    if partitions.of(db, where) != list(moved.old):
        raise Changed(f"archive: {where} has other files than when its move began")
    rows = 0
    for table in (schema.candle_table(where.kind, where.rung), schema.recent_table(where.kind, where.rung)):
        ((count,),) = db.execute(
            f"DELETE FROM {table} WHERE t >= ? AND t < ? AND rev <= ?", [where.low, where.high, moved.seq]
        ).fetchall()
        rows += count
    if rows != moved.rows:
        raise Changed(f"archive: {where} was compacted during its move: {rows} of {moved.rows} rows were left")
    partitions.replace(db, where, moved.parts)


def beyond(db: Connection, rung: int, table: Partials) -> Partials:
    """The rows of these that are to be kept: none below the floor, and none that the archive answers for already, as it
    may in a rebuild, where it knows of later batches."""
    floor = retention.before(db, table.kind, rung)
    spans = db.execute(
        "SELECT low, high, max(seq) FROM archived WHERE kind = ? AND rung = ? AND seq >= ? GROUP BY low, high",
        [table.kind, rung, int(table["rev"].min()) if table.n else EVER],
    ).fetchall()
    kept = table["t"] >= floor
    for low, high, seq in spans:
        kept &= (table["t"] < low) | (table["t"] >= high) | (table["rev"] > seq)
    return table if kept.all() else table.take(kept)


def restore(db: Connection, last: int, frozen: Sequence[Part] = ()) -> list[int]:
    """Have a database that was lost know of the files again, but for those below a floor; the seqs that they reach, in
    order.

    `last` is the newest batch that there is. Batches up to such a seq and later ones must not be flushed together: see
    `beyond`. `frozen` files are on the list though they are missing: what they hold cannot be folded again.
    """
    parts = partitions.everything(db)
    ((applied,),) = db.execute("SELECT applied_seq FROM meta").fetchall()
    if not parts and applied == 0:
        floors = retention.floors(db)
        parts = [
            part
            for part in _with_frozen(partitions.found(partitions.folder(db), last), frozen)
            if part.low >= floors.get((part.kind, part.rung), retention.Floor()).before
        ]
        partitions.add(db, parts)
    return sorted({part.seq for part in parts})


def _with_frozen(found: Sequence[Part], frozen: Sequence[Part]) -> list[Part]:
    """The files that were found, and in place of partitions that were not, or lack something, those that they had."""
    reached = {part.partition: part.seq for part in found}
    lost = [part for part in frozen if part.seq > reached.get(part.partition, -1)]
    instead = {part.partition for part in lost}
    return [*(part for part in found if part.partition not in instead), *lost]


def tidy(db: Connection) -> None:
    """Remove the files that a crash left between two steps."""
    gone = partitions.tidy(partitions.folder(db), partitions.everything(db))
    if gone:
        log.info("archive: %d files of moves that were not finished were removed", gone)


def audit(pause: Pause, root: Path, parts: Sequence[Part]) -> None:
    """Read files again, all of them; raises BrokenStore where they do not hold what was put there."""
    for part in parts:
        for _ in parquet.verified(root / part.path, part.rows, part.hash):
            pause()


def unlink(root: Path, parts: Sequence[Part]) -> None:
    """Remove files that are not on the list any more."""
    for part in parts:
        (root / part.path).unlink(missing_ok=True)


def _fresh(kind: str, rung: int) -> str:
    """The rows of DuckDB, as a relation to select from."""
    tables = (schema.candle_table(kind, rung), schema.recent_table(kind, rung))
    return "SELECT * FROM (" + " UNION ALL ".join(f"SELECT * FROM {table}" for table in tables) + ")"


def summing(root: Path) -> Connection:
    """A database of its own to sum in: it works on the thread that asks, and so at that thread's priority."""
    root.mkdir(exist_ok=True)
    return duckdb.connect(
        config={
            "threads": 1,
            "memory_limit": "1GB",
            "temp_directory": str(root / "spill"),
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
    )


def _present(db: Connection, adder: Adder, where: Partition, old: Sequence[Part]) -> Iterator[tuple[int, pa.Table]]:
    """What is stored, summed market by market."""
    root = partitions.folder(db)
    for low, high in _steps(db, root, where, old):
        yield _summed(db, adder, root, where, old, low, high)


def _steps(db: Connection, root: Path, where: Partition, old: Sequence[Part]) -> Iterator[tuple[int, int]]:
    """Ranges of markets, from … to, whose rows are summed at once: some STEP_BYTES, or one market."""
    weights: dict[int, float] = {}
    lists = [f"coalesce(len({m.name}), 0)" for m in MEASURES[where.kind] if m.rule is Rule.DISTINCT]
    weight = f"count(*) * {10 * len(FIELDS[where.kind])} + 8 * sum({' + '.join(lists) or '0'})"
    rows = db.execute(
        f"SELECT market, {weight} FROM ({_fresh(where.kind, where.rung)}) WHERE t >= ? AND t < ? GROUP BY market",
        [where.low, where.high],
    ).fetchall()
    for market, size in rows:
        weights[market] = float(size)
    for part in old:
        table = _read(root, part, lambda known: np.full(len(known.low), True), ("market",))
        known = parquet.groups(root / part.path, part.footer).meta
        each = sum(known.row_group(i).total_byte_size for i in range(known.num_row_groups)) / part.rows
        slots, counts = np.unique(table.column("market").to_numpy(), return_counts=True)
        for market, count in zip(slots.tolist(), counts.tolist(), strict=True):
            weights[market] = weights.get(market, 0.0) + count * each
    first, last, total = None, 0, 0.0
    for market in sorted(weights):
        if first is not None and total + weights[market] > STEP_BYTES:
            yield first, last
            first, total = None, 0.0
        first = market if first is None else first
        last = market
        total += weights[market]
    if first is not None:
        yield first, last


def _summed(
    db: Connection, adder: Adder, root: Path, where: Partition, old: Sequence[Part], low: int, high: int
) -> tuple[int, pa.Table]:
    """How many rows of these markets DuckDB has, and the sum of them with those of the present files."""
    condition = "t >= ? AND t < ? AND market BETWEEN ? AND ?"
    fresh: pa.Table = db.sql(
        f"{_fresh(where.kind, where.rung)} WHERE {condition}", params=[where.low, where.high, low, high]
    ).to_arrow_table()
    files = [part for part in old if part.market_low <= high and part.market_high >= low]
    if not files and (alone := _alone(where.kind, fresh)) is not None:
        return fresh.num_rows, alone
    sums = adder()
    sums.register("step_0", fresh)
    relations = ["SELECT * FROM step_0"]
    for part in files:
        table = _read(root, part, lambda known: (known.market_low <= high) & (known.market_high >= low))
        sums.register(f"step_{len(relations)}", table)
        relations.append(f"SELECT * FROM step_{len(relations)} WHERE market BETWEEN {low} AND {high}")
    # An empty row stays, as the mark of a bar that is gone: whoever comes back asks for it by its rev.
    names = ", ".join(
        f"{'false' if field.name == 'whole' else field.name}::{field.sql} AS {field.name}"
        for field in FIELDS[where.kind]
    )
    merged = schema.merge_sql(where.kind, f"({' UNION ALL BY NAME '.join(relations)})")
    found = sums.sql(f"SELECT {names} FROM ({merged}) ORDER BY market, t").to_arrow_table()
    for number in range(len(relations)):
        sums.unregister(f"step_{number}")
    return fresh.num_rows, found


def _alone(kind: str, fresh: pa.Table) -> pa.Table | None:
    """These rows in order, where each is all there is of its bar; None where there is anything to sum."""
    ordered = fresh.sort_by([("market", "ascending"), ("t", "ascending")])
    market, t = ordered.column("market").to_numpy(), ordered.column("t").to_numpy()
    if ((market[1:] == market[:-1]) & (t[1:] == t[:-1])).any():
        return None
    names = [field.name for field in FIELDS[kind]]
    whole = pa.chunked_array([pa.array(np.zeros(len(t), np.bool_))])
    return ordered.select(names).set_column(names.index("whole"), "whole", whole)


class _Sums:
    """What is known of a file beside its rows."""

    def __init__(self) -> None:
        self.rows = self.trades = self.volume = 0
        self.markets = self.times = (EVER, -EVER)
        self.rev = -EVER

    def add(self, table: pa.Table) -> None:
        markets, t = table.column("market").to_numpy(), table.column("t").to_numpy()
        self.rows += table.num_rows
        self.markets = min(self.markets[0], int(markets[0])), max(self.markets[1], int(markets[-1]))
        self.times = min(self.times[0], int(t.min())), max(self.times[1], int(t.max()))
        self.rev = max(self.rev, int(table.column("rev").to_numpy().max()))
        self.trades += int(table.column("trades_count").to_numpy().sum())
        self.volume += sum(_total(chunk) for chunk in table.column("volume").chunks)

    def part(self, where: Partition, generation: int, number: int, seq: int, hashed: str, now: float) -> Part:
        return Part(
            kind=where.kind,
            rung=where.rung,
            low=where.low,
            high=where.high,
            generation=generation,
            part=number,
            seq=seq,
            market_low=self.markets[0],
            market_high=self.markets[1],
            t_low=self.times[0],
            t_high=self.times[1],
            rev_high=self.rev,
            rows=self.rows,
            volume=str(self.volume),
            trades=self.trades,
            hash=hashed,
            bytes=0,
            footer=0,
            moved=now,
        )


def _total(column: pa.Array) -> int:
    """The exact sum of amounts, in units of 1e-18."""
    words = decimal_words(column)
    high, low = words[:, 1], words[:, 0].view(np.uint64)
    # By halves of words: a few of the largest amounts are more than a word holds.
    upper = (int((high >> 32).sum()) << 32) + int((high & 0xFFFFFFFF).sum())
    lower = (int((low >> np.uint64(32)).sum()) << 32) + int((low & np.uint64(0xFFFFFFFF)).sum())
    return (upper << 64) + lower


def _verify(writer: parquet.Writer, summed: _Sums, part: Part, pause: Pause) -> None:
    """Read a file back: it must hold what was summed, and say so."""
    found = _Sums()
    for table in parquet.verified(writer.new, part.rows, part.hash):
        found.add(table)
        pause()
    if vars(found) != vars(summed):
        raise CandledError(f"{writer.new}: expected {vars(summed)}, found {vars(found)}")


def _sync_folders(root: Path, folder: Path) -> None:
    """Have the names of new files and folders on the disk."""
    while True:
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            parquet.sync(opened)
        finally:
            os.close(opened)
        if folder == root:
            return
        folder = folder.parent
