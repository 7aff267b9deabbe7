"""What is stored, compared with what the ledger comes to: file by file, and day by day of each kind of market.

Everything is one snapshot at a time and in bounded pieces, some markets' day each, so that memory does not depend on
how much there is.
"""

from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from duckdb import DuckDBPyConnection as Connection

from storage import manifest, parquet, partitions, refold, retention, schema, sealed
from storage.calendar import DAY, MICROS, ONE_DAY
from storage.events import Array
from storage.findings import Day, Difference, Differences, Progress, Rung, Source, Spots, Unit, lost_files, viewed
from storage.measures import KINDS, MEASURES
from storage.partials import FIELDS
from storage.partitions import BrokenPartition, Part
from storage.refold import Markets, Pause, View
from storage.retention import Closed
from storage.sealed import Sealed

PIECE = 250_000  # events and bars of one second that are compared at a time; a market's day at least
TOGETHER = 31  # days at most that are compared at once
TOLD = 1000  # differences in one line
NAMED = 3  # markets
EVER = 1 << 40


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
        for piece in pieces(view, source.folder, kind, begin, end, only, pause):
            expected = refold.bars(view, kind, piece.slots, begin, end, pause)
            hidden = _Hidden(view, kind, days)
            for rung in schema.RUNGS:
                found, unread = _stored(view, source.folder, kind, rung, begin, end, piece)
                for error in unread:
                    for each in range(max(begin, error.part.low), min(end, error.part.high), DAY):
                        if each in days:
                            days[each].problems[str(error)] = None
                have = hidden.without(_beside(found, unread), rung)
                want = _born(hidden.without(_beside(expected[rung], unread), rung), have, begin)
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
            yield tally.day(kind, each, view)


class _Tally:
    """What is known of a day."""

    def __init__(self) -> None:
        self.prints = {rung: (parquet.Fingerprint(), parquet.Fingerprint()) for rung in schema.RUNGS}
        self.bars = dict.fromkeys(schema.RUNGS, 0)
        self.odd = dict.fromkeys(schema.RUNGS, 0)
        self.problems: dict[str, None] = {}
        self.skipped: dict[str, None] = {}
        self.spoilt: dict[str, set[int]] = {}  # markets, by why nobody can tell what their bars should be
        self.markets = 0

    def add(self, rung: int, ours: bool, table: pa.Table) -> None:
        """Bars, ours or stored."""
        self.prints[rung][0 if ours else 1].add(table)
        if ours:
            self.bars[rung] += table.num_rows
            self.markets += rung == DAY and table.num_rows

    def day(self, kind: str, begin: int, view: View) -> Day:
        spoilt = [f"{_listed(view.markets, slots)} {why}" for why, slots in self.spoilt.items()]
        rungs = [
            Rung(partitions.FOLDERS[rung], self.bars[rung], ours.text(), theirs.text(), self.odd[rung])
            for rung, (ours, theirs) in self.prints.items()
        ]
        return Day(
            kind=kind,
            day=named(begin),
            seq=view.seq,
            markets=self.markets,
            rungs=rungs,
            differences=sum(self.odd.values()),
            problems=[*self.problems, *spoilt],
            skipped=list(self.skipped),
        )


def _listed(markets: Markets, slots: Collection[int]) -> str:
    """The names of some markets, the first few of many."""
    names = [market.market_symbol for market in markets.described(sorted(slots)[:NAMED])]
    return ", ".join(names) + (f" and {len(slots) - len(names)} more" if len(slots) > len(names) else "")


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


def pieces(
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
        f"SELECT market, count(*) FROM ({recent(kind, 1)}) WHERE t >= ? AND t < ? GROUP BY market", [begin, end]
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
        self._lost, self._closed = lost_files(view.db), retention.closed(view.db)

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
        if dropped(self._view.markets, self._closed, slot, day):
            tally.skipped["raw events of some markets were dropped: their bars cannot be folded again"] = None
            return False
        file = spoilt(self._view.markets, self._lost, slot, day)
        if file is not None:
            tally.spoilt.setdefault(f"cannot be folded again: raw/{file.file}: {file.damaged}", set()).add(slot)
        return file is None


def dropped(markets: Markets, closed: Closed, slot: int, day: int) -> bool:
    """Whether raw events of a market's day may have been dropped."""
    if not len(closed):
        return False
    low, high = refold.reach(markets, np.array([slot]), day, day + DAY)
    days = range(low // MICROS // DAY * DAY, -(-high // MICROS // DAY) * DAY, DAY)
    return any(closed.holds(each, np.array([slot]))[0] for each in days)


def spoilt(markets: Markets, lost: Sequence[Sealed], slot: int, day: int) -> Sealed | None:
    """Which of these files may have events of a market's day."""
    low, high = refold.reach(markets, np.array([slot]), day, day + DAY)
    for file in lost:
        if file.low_market <= slot <= file.high_market and file.low_ts < high and file.high_ts >= low:
            return file
    return None


# --- bars


def recent(kind: str, rung: int) -> str:
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


def _beside(table: pa.Table, unread: Sequence[BrokenPartition]) -> pa.Table:
    """The bars of which no row can lie in one of these files."""
    if not unread:
        return table
    market, t = table.column("market").to_numpy(), table.column("t").to_numpy()
    keep = np.ones(table.num_rows, np.bool_)
    for part in (error.part for error in unread):
        mine = (market >= part.market_low) & (market <= part.market_high)
        keep &= ~(mine & (t >= part.low) & (t < part.high))
    return table.filter(pa.array(keep))


def _stored(
    view: View, folder: Path, kind: str, rung: int, begin: int, end: int, piece: _Piece
) -> tuple[pa.Table, list[BrokenPartition]]:
    """The stored bars of some markets, summed, without `whole`; and the files of theirs that cannot be read."""
    where = "WHERE t >= ? AND t < ? AND market BETWEEN ? AND ?"
    values = [begin, end, piece.low, piece.high]
    fresh = view.db.sql(f"{refold.alike(kind)}, whole FROM ({recent(kind, rung)}) {where}", params=values)
    tables = [fresh.to_arrow_table()]
    unread: list[BrokenPartition] = []
    for part in partitions.among(view.db, kind, rung, (piece.low, piece.high), (begin, end)):
        try:
            table = _read(folder, part, None, piece)
        except BrokenPartition as error:
            unread.append(error)
            continue
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
        return single.combine_chunks(), unread
    # Most buckets have one row, which is its own sum.
    merged = refold.summed(view.adder, kind, [every.filter(pa.array(~alone))]).cast(refold.EMPTY[kind].schema)
    both = pa.concat_tables([single.filter(pa.array(alone)), merged])
    return both.take(pa.array(np.argsort(_key(both, begin, end - begin)))).combine_chunks(), unread


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
