"""What is stored, compared with what the ledger comes to: file by file, and day by day of each kind of market.

Everything is one snapshot at a time and in bounded pieces, some markets' day each, so that memory does not depend on
how much there is.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
from duckdb import DuckDBPyConnection as Connection
from msgspec import Struct

from storage import archive, candles, manifest, parquet, partitions, refold, retention, rows, schema, sealed
from storage.archive import Moved
from storage.calendar import DAY, MICROS, ONE_DAY
from storage.commits import ROW_BITS, decode
from storage.errors import BrokenStore, CandledError, Unavailable
from storage.events import DECIMAL, EXACT, INTEGERS, NUMBERS, TEXTS, Array, Events, concat
from storage.journal import Journal
from storage.measures import KINDS, MEASURES
from storage.partials import FIELDS
from storage.partitions import BrokenPartition, Part, Partition
from storage.refold import Markets, Pause, View
from storage.retention import Closed
from storage.sealed import Sealed

Snapshot = Callable[[], AbstractContextManager[Connection]]
PIECE = 250_000  # events and bars of one second that are compared at a time; a market's day at least
TOGETHER = 31  # days at most that are compared at once
TOLD = 1000  # differences in one line
EVER = 1 << 40


class Difference(Struct, frozen=True):
    """One measure of one bar that is not what the ledger says, or a whole bar (`bar`)."""

    kind: str
    resolution: str
    market: str
    time: int  # of the bar, UTC seconds
    measure: str
    stored: str | None  # None: there is none
    refolded: str | None
    where: Literal["store", "memory"] = "store"


class Differences(Struct, frozen=True, tag="differences"):
    """Some differences."""

    found: list[Difference]


class Progress(Struct, frozen=True, tag="progress"):
    """So many events more were folded again."""

    events: int


class Rung(Struct, frozen=True):
    """The bars of one stored resolution in one day."""

    resolution: str
    bars: int  # by the ledger
    hash: str  # of them
    stored: str  # of those that are stored
    differences: int  # bars


class Day(Struct, frozen=True, kw_only=True, tag="day"):
    """How one day of one kind of market compared."""

    kind: str
    day: str
    seq: int  # of the snapshot
    markets: int
    rungs: list[Rung]
    differences: int  # bars, at all resolutions
    problems: list[str]  # what could not be compared because it is damaged or lost
    skipped: list[str]  # what cannot be folded again by decision: raw events that were dropped
    repaired: int = 0  # bars


class Checked(Struct, frozen=True, kw_only=True, tag="file"):
    """A file that was read again, all of it."""

    path: str
    problem: str = ""
    repaired: bool = False


class Ledger(Struct, frozen=True, kw_only=True, tag="ledger"):
    """The events of the database, compared with those of the journal: what is not sealed yet."""

    events: int
    missing: int
    extra: int
    different: int
    repaired: bool = False

    @property
    def wrong(self) -> int:
        """How many events that is."""
        return self.missing + self.extra + self.different


class Unit(NamedTuple):
    """What is compared within one snapshot, in pieces: one day, or some that have little."""

    kind: str
    days: tuple[int, ...]  # the beginnings of those that have something, UTC seconds
    events: int  # about so many


class Source(NamedTuple):
    """What is compared."""

    snapshot: Snapshot
    journal: Journal
    markets: Markets
    folder: Path  # the data directory


class Spots:
    """Instants at which something differs: markets and seconds, one for all bars that it lies in."""

    def __init__(self) -> None:
        self._markets: list[Array] = []
        self._seconds: list[Array] = []

    def add(self, markets: Array, seconds: Array) -> None:
        """Note some."""
        self._markets.append(markets.astype(np.int64))
        self._seconds.append(seconds.astype(np.int64))

    def all(self) -> list[tuple[int, int]]:
        """(market, second), each once."""
        if not self._markets:
            return []
        both = np.unique(np.stack([np.concatenate(self._markets), np.concatenate(self._seconds)]), axis=1)
        return list(zip(*both.tolist(), strict=True))


@contextmanager
def viewed(source: Source) -> Iterator[View]:
    """One snapshot of the store."""
    with source.snapshot() as db, archive.summing(source.folder / "archive") as adder:
        yield _view(source, db, adder)


def _view(source: Source, db: Connection, adder: Connection) -> View:
    files = [file for file in manifest.listed(db) if not file.damaged]
    return View(db, adder, source.markets, source.journal, candles.applied(db), files)


def _lost(db: Connection) -> list[Sealed]:
    """The sealed files whose events cannot be had, though bars were made of them."""
    return [file for file in manifest.listed(db) if file.damaged and file.content]


# --- files


def files(source: Source) -> tuple[list[Sealed], list[Part]]:
    """The files of events and of bars that the store names."""
    with source.snapshot() as db:
        return manifest.listed(db), partitions.everything(db)


def wrong_events(source: Source, file: Sealed) -> str:
    """Why a sealed file is not what was written, or empty; all of it is read."""
    if not file.content:
        return file.damaged
    return sealed.check(source.folder / manifest.FOLDER, file, whole=True)


def wrong_bars(source: Source, part: Part, pause: Pause) -> str:
    """Why a file of bars is not what was written, or empty; all of it is read."""
    path = source.folder / "archive" / part.path
    try:
        size, footer = path.stat().st_size, parquet.footer_sum(path)
        if (size, footer) != (part.bytes, part.footer):
            return f"expected {part.bytes} bytes and the footer {part.footer:08x}, found {size} and {footer:08x}"
        for _ in parquet.verified(path, part.rows, part.hash):
            pause()
    except FileNotFoundError:
        return "it is missing"
    except (*parquet.BROKEN, BrokenStore) as error:
        return str(error).removeprefix(f"{path}: ")
    return ""


def wrong_journal(source: Source, pause: Pause) -> str:
    """Why the journal is not what was written, or empty; all of it is read."""
    try:
        for _ in source.journal.since(source.journal.first_seq - 1):
            pause()
    except CandledError as error:
        return str(error)
    return ""


# --- the events that are not sealed


class Unsealed(NamedTuple):
    """How the events of the database's tables differ from those of the journal."""

    told: Ledger
    wanted: Events  # those that the tables lack, or have otherwise
    unwanted: Array  # places that must not be there, or not so
    spots: Spots


def unsealed(source: Source, pause: Pause) -> Unsealed:
    """Compare the events that are in the database's tables with what the journal says."""
    count = 0
    wanted: list[Events] = [Events(0, {})]
    missing = different = 0
    unwanted: list[Array] = []
    spots = Spots()
    with source.snapshot() as db:
        through, applied = manifest.through(db), candles.applied(db)
        expected = through
        for some in _batches(source.journal, through, applied):
            low, high = expected + 1 << ROW_BITS, some[-1][0] + 1 << ROW_BITS
            expected = some[-1][0]
            said = concat([events for _, events in some])
            if said.n:
                said = said.take(np.flatnonzero(manifest.living(db, said.integers("pos"))))
            kept = rows.from_arrow(
                db.sql(
                    "SELECT * FROM ledger WHERE pos >= ? AND pos < ? ORDER BY pos", params=[low, high]
                ).to_arrow_table()
            )
            count += said.n
            lacking, odd, extra = _told_apart(said, kept)
            missing += len(lacking)
            different += len(odd)
            unwanted += [kept.integers("pos")[extra], said.integers("pos")[odd]]
            again = np.concatenate([lacking, odd])
            if len(again):
                wanted.append(said.take(again))
                spots.add(said.integers("market")[again], said.integers("ts")[again] // MICROS)
            if len(extra):
                spots.add(kept.integers("market")[extra], kept.integers("ts")[extra] // MICROS)
            pause()
        lost = db.execute(
            "SELECT pos, market, ts FROM ledger WHERE pos < ? OR pos >= ?",
            [through + 1 << ROW_BITS, applied + 1 << ROW_BITS],
        ).fetchnumpy()
        if len(lost["pos"]):
            unwanted.append(lost["pos"].astype(np.int64))
            spots.add(lost["market"].astype(np.int64), lost["ts"] // MICROS)
    gone = np.concatenate([np.zeros(0, np.int64), *unwanted])
    told = Ledger(events=count, missing=missing, extra=len(gone) - different, different=different)
    some_wanted = [events for events in wanted if events.n]
    return Unsealed(told, concat(some_wanted) if some_wanted else Events(0, {}), gone, spots)


def _batches(journal: Journal, after: int, through: int) -> Iterator[list[tuple[int, Events]]]:
    """The journal's batches, as many at a time as make some 100,000 events."""
    some: list[tuple[int, Events]] = []
    count = 0
    if through <= after:
        return
    for seq, record in journal.since(after):
        if seq > through:
            break
        some.append((seq, decode(seq, record).events))
        count += some[-1][1].n
        if count >= 100_000:
            yield some
            some, count = [], 0
    if some:
        yield some


def _told_apart(said: Events, kept: Events) -> tuple[Array, Array, Array]:
    """Rows of `said` that `kept` lacks, rows of `said` that it has otherwise, rows of `kept` that are not in `said`."""
    ours, theirs = said.integers("pos"), kept.integers("pos")
    lacking = np.flatnonzero(~np.isin(ours, theirs))
    extra = np.flatnonzero(~np.isin(theirs, ours))
    both = np.flatnonzero(np.isin(ours, theirs))
    if not len(both):
        return lacking, both, extra
    one = said.take(both)
    other = kept.take(np.searchsorted(theirs, ours[both]))
    odd = np.zeros(len(both), np.bool_)
    for name in INTEGERS:
        if name in one or name in other:
            odd |= one.integers(name) != other.integers(name)
    for name in (*NUMBERS, *TEXTS):
        if name in one or name in other:
            left, right = _said(one, name), _said(other, name)
            if left != right:
                odd |= np.array([a != b for a, b in zip(left.to_pylist(), right.to_pylist(), strict=True)])
    return lacking, both[odd], extra


def _said(events: Events, name: str) -> pa.ChunkedArray:
    """A column of numbers or texts as the ledger keeps it."""
    kind = DECIMAL if name in NUMBERS else pa.string()
    if name not in events:
        return pa.chunked_array([pa.nulls(events.n, kind)])
    return (
        rows.to_arrow(Events(events.n, {each: events.columns[each] for each in (name, EXACT + name) if each in events}))
        .column(name)
        .cast(kind)
    )


# --- days


def units(source: Source, start: int, end: int, only: Sequence[int] | None, pause: Pause) -> list[Unit]:
    """The days, of each kind, of which there are events or bars, between two instants (seconds); the oldest first."""
    found: dict[tuple[str, int], int] = {}
    low, high = (min(max(at, -EVER), EVER) * MICROS for at in (start - 2 * DAY, end + 2 * DAY))
    with viewed(source) as view:
        markets = view.markets

        def count(market: Array, ts: Array) -> None:
            if only is not None:
                mine = np.isin(market, only)
                market, ts = market[mine], ts[mine]
            markets.learn(np.unique(market))
            places = markets.kinds[market].astype(np.int64) << 40
            for days, weight in ((ts // (DAY * MICROS), 1), (markets.days(market, ts) // DAY, 0)):
                keys, counts = np.unique(places + days + BIAS, return_counts=True)
                for key, n in zip(keys.tolist(), counts.tolist(), strict=True):
                    if key >> 40 < len(KINDS):
                        unit = KINDS[key >> 40], (key % (1 << 40) - BIAS) * DAY
                        found[unit] = found.get(unit, 0) + n * weight
            pause()

        for table in ("ledger", "dead"):
            fresh = view.db.execute(f"SELECT market, ts FROM {table} WHERE ts >= ? AND ts < ?", [low, high])
            columns = fresh.fetchnumpy()
            count(columns["market"].astype(np.int64), columns["ts"].astype(np.int64))
        for file in view.files:
            try:
                for market, ts in sealed.places(source.folder / manifest.FOLDER, file, low, high):
                    count(market.astype(np.int64), ts)
            except sealed.Damaged:
                continue  # it is told of where the files are looked at
        for kind in MEASURES:
            for day in _days(view.db, source.folder, kind, only, pause):
                found.setdefault((kind, day), 0)
    days_ = [
        (kind, day) for kind, day in sorted(found, key=lambda one: (one[1], one[0])) if start < day + DAY <= end + DAY
    ]
    return _grouped(days_, found)


BIAS = 1 << 30  # makes numbers of days positive


def _grouped(days: Sequence[tuple[str, int]], events: dict[tuple[str, int], int]) -> list[Unit]:
    """Days of one kind that have little, together."""
    found: list[Unit] = []
    last: dict[str, int] = {}  # by kind: which is its last unit
    for kind, day in days:
        n = events[kind, day]
        at = last.get(kind)
        if at is not None:
            unit = found[at]
            if unit.events + n <= PIECE // 2 and day - unit.days[0] < TOGETHER * DAY:
                found[at] = Unit(kind, (*unit.days, day), unit.events + n)
                continue
        last[kind] = len(found)
        found.append(Unit(kind, (day,), n))
    return found


def _days(db: Connection, folder: Path, kind: str, only: Sequence[int] | None, pause: Pause) -> set[int]:
    """The days that have stored bars."""
    found: set[int] = set()
    for rung in schema.RUNGS:
        for table in (schema.candle_table(kind, rung), schema.recent_table(kind, rung)):
            mine = "" if only is None else f" WHERE market IN ({', '.join(map(str, only)) or 'NULL'})"
            days = db.execute(f"SELECT DISTINCT CAST(floor(t / {DAY}) AS BIGINT) FROM {table}{mine}").fetchall()
            found.update(day * DAY for (day,) in days)
    for part in partitions.everything(db):
        if part.kind != kind:
            continue
        if part.rung not in partitions.MONTHLY:
            found.add(part.low)
            continue
        try:
            table = _read(folder, part, ("market", "t"))
        except BrokenPartition:
            found.update(range(part.low, part.high, DAY))
            continue
        t = table.column("t").to_numpy()
        if only is not None:
            t = t[np.isin(table.column("market").to_numpy(), only)]
        found.update(np.unique(t // DAY * DAY).tolist())
        pause()
    return found


def compared(
    source: Source, unit: Unit, only: Sequence[int] | None, spots: Spots, pause: Pause
) -> Generator[Differences | Progress | Day, None, None]:
    """Compare some days of one kind, at one snapshot; what differs is noted in `spots`.

    Raises sealed.Damaged where a file turns out to be damaged.
    """
    kind, begin, end = unit.kind, unit.days[0], unit.days[-1] + DAY
    with viewed(source) as view:
        days = {each: _Tally() for each in unit.days}
        for piece in _pieces(view, source.folder, kind, begin, end, only, pause):
            expected = refold.bars(view, kind, piece.slots, begin, end, pause)
            hidden = _Hidden(view, kind, days)
            for rung in schema.RUNGS:
                try:
                    found = _stored(view, source.folder, kind, rung, begin, end, piece)
                except BrokenPartition as error:
                    for tally in days.values():
                        tally.problems[str(error)] = None
                    continue
                have = hidden.without(found, rung)
                want = _born(hidden.without(expected[rung], rung), have, begin)
                pause()
                odd = np.zeros(0, np.int64)
                if not want.equals(have):
                    yield from _differences(view, kind, rung, want, have)
                    odd = _noted(view, rung, begin, want, have, spots)
                for table, ours in ((want, True), (have, False)):
                    day_of = table.column("t").to_numpy() // DAY * DAY
                    for each in np.unique(day_of).tolist():
                        tally = days.setdefault(each, _Tally())
                        tally.add(rung, ours, table if len(days) == 1 else table.filter(pa.array(day_of == each)))
                for each, n in zip(*(part.tolist() for part in np.unique(odd, return_counts=True)), strict=True):
                    days.setdefault(each, _Tally()).odd[rung] += n
                pause()
            yield Progress(piece.events)
        for each, tally in sorted(days.items()):
            yield tally.day(kind, each, view.seq)


class _Tally:
    """What is known of a day."""

    def __init__(self) -> None:
        self.prints = {rung: (parquet.Fingerprint(), parquet.Fingerprint()) for rung in schema.RUNGS}
        self.bars = dict.fromkeys(schema.RUNGS, 0)
        self.odd = dict.fromkeys(schema.RUNGS, 0)
        self.problems: dict[str, None] = {}
        self.skipped: dict[str, None] = {}
        self.markets = 0

    def add(self, rung: int, ours: bool, table: pa.Table) -> None:
        """Bars, ours or stored."""
        self.prints[rung][0 if ours else 1].add(table)
        if ours:
            self.bars[rung] += table.num_rows
            self.markets += rung == DAY and table.num_rows

    def day(self, kind: str, begin: int, seq: int) -> Day:
        rungs = [
            Rung(partitions.FOLDERS[rung], self.bars[rung], ours.text(), theirs.text(), self.odd[rung])
            for rung, (ours, theirs) in self.prints.items()
        ]
        return Day(
            kind=kind,
            day=named(begin),
            seq=seq,
            markets=self.markets,
            rungs=rungs,
            differences=sum(self.odd.values()),
            problems=list(self.problems),
            skipped=list(self.skipped),
        )


def named(day: int) -> str:
    """2026-11-14."""
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=day)).strftime("%Y-%m-%d")


def instant(second: int) -> str:
    """2026-11-14T12:00:00Z."""
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=second)).strftime("%Y-%m-%dT%H:%M:%SZ")


class _Piece(NamedTuple):
    """Some markets of a day: all slots from … to …, and those of them that have events."""

    low: int
    high: int
    slots: Array
    events: int


def _pieces(
    view: View, folder: Path, kind: str, begin: int, end: int, only: Sequence[int] | None, pause: Pause
) -> Iterator[_Piece]:
    """All markets of a kind, some at a time."""
    events: dict[int, int] = {}
    weights: dict[int, int] = {}

    def count(market: Array, into: dict[int, int]) -> None:
        for slot, n in zip(*(each.tolist() for each in np.unique(market, return_counts=True)), strict=True):
            into[slot] = into.get(slot, 0) + n

    low, high = refold.reach(view.markets, np.arange(len(view.markets.calendars)), begin, end)
    for table in ("ledger", "dead"):
        found = view.db.execute(f"SELECT market FROM {table} WHERE ts >= ? AND ts < ?", [low, high]).fetchnumpy()
        count(found["market"].astype(np.int64), events)
    for file in view.files:
        for market, _ in sealed.places(folder / manifest.FOLDER, file, low, high):
            count(market.astype(np.int64), events)
            pause()
    known = view.markets.of_kind(np.array(sorted(events), np.int64), kind)
    if only is not None:
        for slot in only:
            yield _piece(slot, slot, known, events)
        return
    weights.update({slot: events[slot] for slot in known.tolist()})
    fresh = view.db.execute(
        f"SELECT market, count(*) FROM ({_fresh(kind, 1)}) WHERE t >= ? AND t < ? GROUP BY market", [begin, end]
    ).fetchall()
    for slot, n in fresh:
        weights[slot] = weights.get(slot, 0) + n
    for part in partitions.among(view.db, kind, 1, (0, EVER), (begin, end)):
        with suppress(BrokenPartition):
            count(_read(folder, part, ("market",)).column("market").to_numpy().astype(np.int64), weights)
    first, total, several = 0, 0, False
    for slot in sorted(weights):
        if several and total + weights[slot] > PIECE:
            yield _piece(first, slot - 1, known, events)
            first, total = slot, 0
        total += weights[slot]
        several = True
    yield _piece(first, 2**31 - 1, known, events)


def _piece(low: int, high: int, known: Array, events: dict[int, int]) -> _Piece:
    mine = known[(known >= low) & (known <= high)]
    return _Piece(low, high, mine, sum(events[slot] for slot in mine.tolist()))


class _Hidden:
    """Bars that cannot be compared: what they were folded from is lost, or was dropped."""

    def __init__(self, view: View, kind: str, days: dict[int, _Tally]) -> None:
        self._view, self._kind, self._days = view, kind, days
        self._lost, self._closed = _lost(view.db), retention.closed(view.db)

    def without(self, table: pa.Table, rung: int) -> pa.Table:
        """The bars without those."""
        floor = retention.before(self._view.db, self._kind, rung)
        table = table.filter(pa.array(table.column("t").to_numpy() >= floor))
        if not self._lost and not len(self._closed):
            return table
        market, t = table.column("market").to_numpy().astype(np.int64), table.column("t").to_numpy()
        pairs, number = np.unique(np.stack([market, t // DAY * DAY]), axis=1, return_inverse=True)
        self._view.markets.learn(np.unique(market))
        keep = np.array([self._whole(slot, day) for slot, day in zip(*pairs.tolist(), strict=True)], np.bool_)
        return table.filter(pa.array(keep[number.reshape(-1)])) if not keep.all() else table

    def _whole(self, slot: int, day: int) -> bool:
        tally = self._days.setdefault(day, _Tally())
        if _dropped(self._view.markets, self._closed, slot, day):
            tally.skipped["raw events of some markets were dropped: their bars cannot be folded again"] = None
            return False
        file = _spoilt(self._view.markets, self._lost, slot, day)
        if file is not None:
            why = f"markets of slots {file.low_market} to {file.high_market} cannot be folded again"
            tally.problems[f"{why}: raw/{file.file}: {file.damaged}"] = None
        return file is None


def _dropped(markets: Markets, closed: Closed, slot: int, day: int) -> bool:
    """Whether raw events of a market's day may have been dropped."""
    if not len(closed):
        return False
    low, high = refold.reach(markets, np.array([slot]), day, day + DAY)
    days = range(low // MICROS // DAY * DAY, -(-high // MICROS // DAY) * DAY, DAY)
    return any(closed.holds(each, np.array([slot]))[0] for each in days)


def _spoilt(markets: Markets, lost: Sequence[Sealed], slot: int, day: int) -> Sealed | None:
    """Which of these files may have events of a market's day."""
    low, high = refold.reach(markets, np.array([slot]), day, day + DAY)
    for file in lost:
        if file.low_market <= slot <= file.high_market and file.low_ts < high and file.high_ts >= low:
            return file
    return None


# --- bars


def _fresh(kind: str, rung: int) -> str:
    tables = (schema.candle_table(kind, rung), schema.recent_table(kind, rung))
    return " UNION ALL ".join(f"SELECT * FROM {table}" for table in tables)


def _read(folder: Path, part: Part, columns: Sequence[str] | None = None, piece: _Piece | None = None) -> pa.Table:
    """The row groups of a file that may have these markets."""
    path = folder / "archive" / part.path
    try:
        known = parquet.groups(path, part.footer)
        mine = np.full(len(known.low), True)
        if piece is not None:
            mine = (known.market_low <= piece.high) & (known.market_high >= piece.low)
        return parquet.read(path, known, np.flatnonzero(mine).tolist(), columns)
    except parquet.BROKEN as error:
        raise BrokenPartition(part, error) from error


def _stored(view: View, folder: Path, kind: str, rung: int, begin: int, end: int, piece: _Piece) -> pa.Table:
    """The stored bars of some markets, summed, without `whole`."""
    where = "WHERE t >= ? AND t < ? AND market BETWEEN ? AND ?"
    values = [begin, end, piece.low, piece.high]
    fresh = view.db.sql(f"{refold.alike(kind)}, whole FROM ({_fresh(kind, rung)}) {where}", params=values)
    tables = [fresh.to_arrow_table()]
    for part in partitions.among(view.db, kind, rung, (piece.low, piece.high), (begin, end)):
        table = _read(folder, part, None, piece)
        t, market = table.column("t").to_numpy(), table.column("market").to_numpy()
        mine = (t >= begin) & (t < end) & (market >= piece.low) & (market <= piece.high)
        tables.append(table.filter(pa.array(mine)))
    every = pa.concat_tables(tables, promote_options="permissive")
    order = np.lexsort((every.column("t").to_numpy(), every.column("market").to_numpy()))
    every = every.take(pa.array(order))
    keys = _key(every, begin, end - begin)
    alone = np.append(True, keys[1:] != keys[:-1]) & np.append(keys[1:] != keys[:-1], True)[: len(keys)]
    single = every.drop_columns("whole").cast(refold.EMPTY[kind].schema)
    if alone.all():
        return single.combine_chunks()
    # Most buckets have one row, which is its own sum.
    merged = refold.summed(view.adder, kind, [every.filter(pa.array(~alone))]).cast(refold.EMPTY[kind].schema)
    both = pa.concat_tables([single.filter(pa.array(alone)), merged])
    return both.take(pa.array(np.argsort(_key(both, begin, end - begin)))).combine_chunks()


def _key(table: pa.Table, begin: int, length: int) -> Array:
    market, t = table.column("market").to_numpy().astype(np.int64), table.column("t").to_numpy()
    key: Array = market * length + t - begin
    return key


def _born(want: pa.Table, have: pa.Table, begin: int) -> pa.Table:
    """Take `born` from what is stored where nobody can tell it any more."""
    born = want.column("born").to_numpy()
    unknown = np.flatnonzero(born == -1)
    if not len(unknown) or not have.num_rows:
        return want
    keys, wanted = _key(have, begin, WIDE), _key(want, begin, WIDE)[unknown]
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    there = keys[at] == wanted
    born = born.copy()
    born[unknown[there]] = have.column("born").to_numpy()[at[there]]
    return want.set_column(want.schema.get_field_index("born"), "born", pa.array(born))


WIDE = 1 << 31  # more seconds than any unit has


def _differences(view: View, kind: str, rung: int, want: pa.Table, have: pa.Table) -> Iterator[Differences]:
    """What differs, measure by measure."""
    view.adder.register("want", want)
    view.adder.register("have", have)
    parts = [
        f"SELECT market, t, 'bar', NULL, {_bar('want')} FROM want ANTI JOIN have USING (market, t)",
        f"SELECT market, t, 'bar', {_bar('have')}, NULL FROM have ANTI JOIN want USING (market, t)",
    ]
    for field in FIELDS[kind]:
        if field.name not in ("market", "t", "whole"):
            ours, theirs = (_text(field.sql, f"{table}.{field.name}") for table in ("have", "want"))
            parts.append(
                f"SELECT want.market, want.t, '{field.name}', {ours}, {theirs} FROM want JOIN have USING (market, t) "
                f"WHERE want.{field.name} IS DISTINCT FROM have.{field.name}"
            )
    answer = view.adder.execute(f"SELECT * FROM ({' UNION ALL '.join(parts)}) ORDER BY 1, 2")
    symbols: dict[int, str] = {}
    while some := answer.fetchmany(TOLD):
        slots = sorted({row[0] for row in some} - set(symbols))
        symbols |= {market.slot: market.market_symbol for market in view.markets.described(slots)}
        yield Differences(
            [
                Difference(
                    kind, partitions.FOLDERS[rung], symbols.get(slot, f"slot {slot}"), t, measure, stored, refolded
                )
                for slot, t, measure, stored, refolded in some
            ]
        )
    view.adder.unregister("want")
    view.adder.unregister("have")


def _bar(table: str) -> str:
    shown = ", ', ', ".join(f"coalesce({table}.{name}::VARCHAR, 'none')" for name in ("open", "high", "low", "close"))
    return f"concat({shown}, ', ', {table}.volume::VARCHAR, ', ', {table}.trades_count::VARCHAR)"


def _text(sql: str, column: str) -> str:
    if sql.endswith("[]"):
        return f"concat(coalesce(len({column}), 0), ' hashes, ', left(md5({column}::VARCHAR), 8))"
    return f"coalesce({column}::VARCHAR, 'none')"


def _noted(view: View, rung: int, begin: int, want: pa.Table, have: pa.Table, spots: Spots) -> Array:
    """Note where bars differ; the day of each."""
    ours, theirs = _key(want, begin, WIDE), _key(have, begin, WIDE)
    both, mine, other = np.intersect1d(ours, theirs, assume_unique=True, return_indices=True)
    same = np.ones(len(both), np.bool_)
    one, two = want.take(pa.array(mine)), have.take(pa.array(other))
    for name in want.column_names:
        if one.column(name) != two.column(name):
            left, right = one.column(name).to_pylist(), two.column(name).to_pylist()
            same &= np.array([a == b for a, b in zip(left, right, strict=True)])
    keys = np.concatenate([np.setxor1d(ours, theirs, assume_unique=True), both[~same]])
    markets, seconds = keys // WIDE, begin + keys % WIDE
    days: Array = seconds // DAY * DAY
    if rung == DAY:
        pairs = zip(markets.tolist(), days.tolist(), strict=True)
        seconds = np.array([view.markets.calendar(slot).span(ONE_DAY, day)[0] // MICROS for slot, day in pairs])
    spots.add(markets, seconds)
    return days


# --- repair


def rebuilt(pause: Pause, source: Source, where: Partition, now: float) -> Moved:
    """Write the files of an archived partition again, from events; nothing refers to them yet.

    Raises Unavailable where events of it are lost.
    """

    def steps(db: Connection, adder: Connection, where: Partition, _: Sequence[Part]) -> Iterator[tuple[int, pa.Table]]:
        kind, rung, low, high = where.kind, where.rung, where.low, where.high
        view = _view(source, db, adder)
        for file in _lost(db):
            if file.low_ts < (high + 2 * DAY) * MICROS and file.high_ts >= (low - 2 * DAY) * MICROS:
                raise Unavailable(f"events of it are lost: raw/{file.file}: {file.damaged}")
        if any(low - 2 * DAY < day < high + 2 * DAY for day in retention.closed(db).days()):
            raise Unavailable("raw events of it were dropped")
        for piece in _pieces(view, source.folder, kind, low, high, None, pause):
            ((count,),) = db.execute(
                f"SELECT count(*) FROM ({_fresh(kind, rung)}) WHERE t >= ? AND t < ? AND market BETWEEN ? AND ?",
                [low, high, piece.low, piece.high],
            ).fetchall()
            table = refold.bars(view, kind, piece.slots, low, high, pause, (rung,))[rung]
            born, rev = table.column("born").to_numpy(), table.column("rev").to_numpy()
            at = table.schema.get_field_index("born")
            table = table.set_column(at, "born", pa.array(np.where(born == -1, rev, born)))
            yield count, table.append_column("whole", pa.array(np.zeros(table.num_rows, np.bool_)))

    return archive.write(pause, source.snapshot, where, now, steps)


def placed(source: Source, slot: int, found: Sequence[tuple[int, int]], spots: Spots) -> None:
    """Note where bars (rung, t) of one market in memory differ."""
    source.markets.learn(np.array([slot]))
    for rung, t in found:
        second = source.markets.calendar(slot).span(ONE_DAY, t)[0] // MICROS if rung == DAY else t
        spots.add(np.array([slot]), np.array([second]))


def mendable(source: Source, spots: Spots) -> tuple[list[tuple[int, int]], int]:
    """The instants all of whose bars can be folded again, and how many cannot: events of theirs are lost."""
    good: list[tuple[int, int]] = []
    known: dict[tuple[int, int, int], bool] = {}
    left = 0
    with source.snapshot() as db:
        lost, closed = _lost(db), retention.closed(db)
    for slot, second in spots.all():
        source.markets.learn(np.array([slot]))
        label = int(source.markets.days(np.array([slot]), np.array([second * MICROS]))[0])
        key = slot, second // DAY * DAY, label
        if key not in known:
            known[key] = not any(
                _spoilt(source.markets, lost, slot, day) or _dropped(source.markets, closed, slot, day)
                for day in key[1:]
            )
        if known[key]:
            good.append((slot, second))
        else:
            left += 1
    return good, left
