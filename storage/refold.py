"""Bars as the ledger has them: folded by SQL from the events themselves, not from what is stored.

What is stored came about otherwise: folded by numpy, batch by batch, summed, merged, moved. So the two say something
about each other, and where what is stored is lost, this is what it must have been.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from duckdb import DuckDBPyConnection as Connection

from storage import finished, ledger, manifest, markets, schema, sealed
from storage.calendar import DAY, MICROS, ONE_DAY, Calendar
from storage.candles import FOREVER, joined
from storage.commits import ROW_BITS, TOUCH, decode
from storage.errors import BrokenStore
from storage.events import BAR, DECIMAL, PRICE_CODE, Array
from storage.journal import Journal
from storage.partials import FIELDS, NEVER, Field
from storage.records import KIND_CODE, Market
from storage.sealed import Sealed, Within
from storage.state import State

Pause = Callable[[], None]
UNKNOWN = 255  # the kind of a slot that no market has
CHUNK = 250_000  # events that are folded at a time
ASKED = 10_000  # markets that are looked up at a time


class Markets:
    """What folding needs to know of markets, by slot; looked up when they are first met."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.kinds: Array = np.full(0, UNKNOWN, np.uint8)
        self.sources: Array = np.zeros(0, np.uint8)
        self.calendars: Array = np.zeros(0, np.int16)  # index into `calendar_list`
        self.calendar_list = [Calendar.parse()]

    def damage(self) -> str:
        """What is wrong inside the file that they are in; nothing when it is sound."""
        return self._state.check()

    def learn(self, slots: Array) -> None:
        """Look up the markets in these slots."""
        most = int(slots.max(initial=0)) + 1
        if most > len(self.kinds):
            more = most + 1024 - len(self.kinds)
            self.kinds = np.concatenate([self.kinds, np.full(more, UNKNOWN, np.uint8)])
            self.sources = np.concatenate([self.sources, np.zeros(more, np.uint8)])
            self.calendars = np.concatenate([self.calendars, np.zeros(more, np.int16)])
        asked = slots[self.kinds[slots] == UNKNOWN].tolist()
        for market in self.described(asked):
            self._keep(market)

    def _keep(self, market: Market) -> None:
        calendar = Calendar.parse(market.session, market.timezone)
        if calendar not in self.calendar_list:
            self.calendar_list.append(calendar)
        self.kinds[market.slot] = KIND_CODE[market.kind]
        self.sources[market.slot] = sum(1 << PRICE_CODE[name] for name in market.price_source)
        self.calendars[market.slot] = self.calendar_list.index(calendar)

    def of_kind(self, slots: Array, kind: str) -> Array:
        """Those of these slots that have a market of this kind."""
        self.learn(slots)
        mine: Array = slots[self.kinds[slots] == KIND_CODE[kind]]
        return mine

    def calendar(self, slot: int) -> Calendar:
        """The calendar of a market that was looked up."""
        return self.calendar_list[int(self.calendars[slot])]

    def days(self, slots: Array, ts: Array) -> Array:
        """The labels of the trading days that these instants (µs) of these markets lie in."""
        codes = self.calendars[slots]
        out = np.zeros(len(ts), np.int64)
        for code in np.unique(codes).tolist():
            out[codes == code] = self.calendar_list[code].day(ts[codes == code])
        return out

    def described(self, slots: Sequence[int]) -> list[Market]:
        """The markets in these slots."""
        return [
            market
            for at in range(0, len(slots), ASKED)
            for market in markets.by_slots(self._state, slots[at : at + ASKED])
        ]


@dataclass(frozen=True, slots=True)
class View:
    """One snapshot of the database, and what goes with it."""

    db: Connection
    adder: Connection  # a database of its own, to sum in at the thread's own priority
    markets: Markets
    journal: Journal
    seq: int  # that the snapshot reaches
    files: Sequence[Sealed]  # those of its sealed files that can be read


def bars(
    view: View,
    kind: str,
    slots: Array,
    begin: int,
    end: int,
    pause: Pause,
    rungs: Sequence[int] = schema.RUNGS,
) -> dict[int, pa.Table]:
    """By rung the bars with begin ≤ t < end (whole UTC days, seconds), by (market, t).

    They have the columns of `partials.FIELDS` but for `whole`. A bucket all of whose events were taken back is an
    empty row. Raises Damaged where a file cannot be read.
    """
    low, high = reach(view.markets, slots, begin, end)
    dead = _dead(view, slots, low, high)
    taken = [_unsealed(view, dead)]
    sums: dict[int, pa.Table] = {}
    view.adder.register("registered", pa.table({"slot": slots, "sources": view.markets.sources[slots]}))
    for events in _chunks(view, slots, low, high, dead.column("pos").to_numpy(), taken):
        view.adder.register("events", _labelled(view.markets, events))
        pause()
        for rung in rungs:
            label = "day" if rung == DAY else _bucket(rung)
            folded = schema.fold_sql(kind, EVENTS.format(label=label, begin=begin, end=end), "label")
            table = view.adder.sql(f"{alike(kind)} FROM ({folded}) ORDER BY market, t").to_arrow_table()
            sums[rung] = summed(view.adder, kind, [sums[rung], table]) if rung in sums else table
            pause()
        view.adder.unregister("events")
    for rung in rungs if len(slots) else ():
        table = finished.among(view.db, kind, rung, slots, begin, end)
        if table.num_rows:
            sums[rung] = summed(view.adder, kind, [sums[rung], table] if rung in sums else [table])
            pause()
    view.adder.unregister("registered")
    prices = pa.concat_tables(taken, promote_options="default")
    found = {}
    for rung in rungs:
        table = sums.get(rung)
        table = EMPTY[kind] if table is None else table
        found[rung] = _dated(view, kind, rung, (begin, end), table, dead, prices)
    return found


EVENTS = (
    "(SELECT e.*, e.price > 0 AND ((r.sources >> e.price_type) & 1) = 1 AS priced, {label} AS label "
    "FROM events e JOIN registered r ON r.slot = e.market WHERE {label} >= {begin} AND {label} < {end} "
    f"AND e.event <> {BAR})"
)


def reach(markets_: Markets, slots: Array, begin: int, end: int) -> tuple[int, int]:
    """Between which instants (µs) the events of these markets' bars with begin ≤ t < end lie."""
    low, high = begin * MICROS, end * MICROS
    for code in np.unique(markets_.calendars[slots]).tolist():
        calendar = markets_.calendar_list[code]
        low = min(low, calendar.span(ONE_DAY, begin)[0])
        high = max(high, calendar.span(ONE_DAY, end - DAY)[1])
    return low, high


def _bucket(rung: int) -> str:
    length = rung * MICROS
    return f"(ts - ((ts % {length}) + {length}) % {length}) // {MICROS}"  # rounds down before 1970, too


def _labelled(markets_: Markets, events: pa.Table) -> pa.Table:
    """The events with the label of the trading day of each."""
    market, ts = events.column("market").to_numpy(), events.column("ts").to_numpy()
    return events.append_column("day", pa.array(markets_.days(market, ts)))


def alike(kind: str) -> str:
    """Selects bars so that they can be compared, whoever summed them: −0 is 0, and no hashes are none."""
    columns = []
    for field in _fields(kind):
        said = f"CASE WHEN len({field.name}) > 0 THEN {field.name} END" if field.sql.endswith("[]") else field.name
        columns.append(f"({said})::{field.sql}{' + 0.0' if field.sql == 'DOUBLE' else ''} AS {field.name}")
    return f"SELECT {', '.join(columns)}"


def summed(adder: Connection, kind: str, tables: Sequence[pa.Table]) -> pa.Table:
    """The sum of some partials, with or without `whole`, by (market, t)."""
    names = [f"part_{number}" for number in range(len(tables))]
    for name, table in zip(names, tables, strict=True):
        adder.register(name, table)
    every = " UNION ALL BY NAME ".join(
        f"SELECT *{'' if 'whole' in table.column_names else ', false AS whole'} FROM {name}"
        for name, table in zip(names, tables, strict=True)
    )
    merged = schema.merge_sql(kind, f"({every})")
    found = adder.sql(f"{alike(kind)} FROM ({merged}) ORDER BY market, t").to_arrow_table()
    for name in names:
        adder.unregister(name)
    return found


def _fields(kind: str) -> list[Field]:
    return [field for field in FIELDS[kind] if field.name != "whole"]


_ARROW = {
    "INTEGER": pa.int32(),
    "BIGINT": pa.int64(),
    "DOUBLE": pa.float64(),
    "DECIMAL(38, 18)": DECIMAL,
    "VARCHAR": pa.string(),
    "UBIGINT[]": pa.list_(pa.uint64()),
}
EMPTY = {kind: pa.schema([(field.name, _ARROW[field.sql]) for field in _fields(kind)]).empty_table() for kind in FIELDS}


# --- events


def _dead(view: View, slots: Array, low: int, high: int) -> pa.Table:
    """What was taken back of these markets and this time: pos, market, ts, seq, and the label of its day."""
    wanted = pa.table({"slot": slots})  # noqa: F841 - DuckDB reads the table by its name here
    found = view.db.sql(
        "SELECT pos, market, ts, seq FROM dead SEMI JOIN wanted ON market = slot WHERE ts >= ? AND ts < ?",
        params=[low, high],
    ).to_arrow_table()
    return _labelled(view.markets, found)


def _chunks(view: View, slots: Array, low: int, high: int, dead: Array, taken: list[pa.Table]) -> Iterator[pa.Table]:
    """The events that stand, in the ledger's columns, some CHUNK at a time; others go to `taken`."""
    if not len(slots):
        return
    some = [_kept(view.db, slots, low, high)]
    count = some[0].num_rows
    wanted = Within(slots, low, high, view.seq)
    for file in view.files:
        for table in sealed.within(manifest.folder(view.db), file, wanted, ledger.FOLDED):
            alive = ~np.isin(table.column("pos").to_numpy(), dead)
            if not alive.all():
                gone = table.filter(pa.array(~alive))
                taken.append(gone.select([name for name in TAKEN if name in gone.column_names]))
            some.append(table.filter(pa.array(alive)))
            count += some[-1].num_rows
            if count >= CHUNK:
                yield pa.concat_tables(some, promote_options="default")
                some, count = [some[0].slice(0, 0)], 0
    if count:
        yield pa.concat_tables(some, promote_options="default")


TAKEN = ("pos", "price", "price_type", "rung", "open")


def _unsealed(view: View, dead: pa.Table) -> pa.Table:
    """What events said that were taken back before they were sealed: only the journal has them."""
    pos = dead.column("pos").to_numpy()
    found = [NONE]
    for seq in np.unique(pos[pos >= manifest.through(view.db) + 1 << ROW_BITS] >> ROW_BITS).tolist():
        try:
            _, record = next(view.journal.since(seq - 1))
        except BrokenStore:  # it is told of where the journal is looked at
            continue
        events = decode(seq, record).events
        events = events.take(np.flatnonzero(np.isin(events.integers("pos"), pos)))
        # Which price it was is all the same.
        price, open_ = (
            pa.array((np.nan_to_num(events.numbers(name)) > 0).astype(np.int64)).cast(DECIMAL)
            for name in ("price", "open")
        )
        columns = [events.integers("pos"), price, events.integers("price_type"), events.integers("rung"), open_]
        found.append(pa.table(columns, schema=NONE.schema))
    return pa.concat_tables(found)


NONE = pa.schema(
    [("pos", pa.int64()), ("price", DECIMAL), ("price_type", pa.uint8()), ("rung", pa.int32()), ("open", DECIMAL)]
).empty_table()


def _kept(db: Connection, slots: Array, low: int, high: int) -> pa.Table:
    """The events that are not sealed yet."""
    wanted = pa.table({"slot": slots})  # noqa: F841 - DuckDB reads the table by its name here
    return db.sql(
        f"SELECT {', '.join(ledger.FOLDED)} FROM ledger SEMI JOIN wanted ON market = slot WHERE ts >= ? AND ts < ?",
        params=[low, high],
    ).to_arrow_table()


# --- since when


def _dated(
    view: View, kind: str, rung: int, span: tuple[int, int], table: pa.Table, dead: pa.Table, prices: pa.Table
) -> pa.Table:
    """The bars with what was taken back in them: `rev`, `born`, and an empty row where nothing is left.

    `born` is −1 where that cannot be told, because the file with an event that was taken back cannot be read.
    """
    ts = dead.column("ts").to_numpy()
    t = dead.column("day").to_numpy() if rung == DAY else ts // (rung * MICROS) * rung
    mine = (t >= span[0]) & (t < span[1])
    if not mine.any():
        return table
    begin, length = span[0], span[1] - span[0]
    t = t[mine]
    pos, market, seq = (dead.column(name).to_numpy()[mine] for name in ("pos", "market", "seq"))
    low = table.column("market").to_numpy().astype(np.int64) * length + table.column("t").to_numpy() - begin
    keys, number = np.unique(np.concatenate([low, market.astype(np.int64) * length + t - begin]), return_inverse=True)
    standing, gone = number[: len(low)], number[len(low) :]
    rev = np.zeros(len(keys), np.int64)
    rev[standing] = table.column("rev").to_numpy()
    np.maximum.at(rev, gone, seq)
    touched = np.zeros(len(keys), np.int64)
    np.maximum.at(touched, gone, np.where(pos == TOUCH, seq, 0))
    births = table.column("born").to_numpy()
    known, priced = _priced(pos, market, prices, view.markets.sources, rung)
    lived = births < NEVER
    numbers = np.concatenate([standing[lived], gone[priced]])
    froms = np.concatenate([births[lived], pos[priced] >> ROW_BITS])
    untils = np.concatenate([np.full(int(lived.sum()), FOREVER), seq[priced]])
    numbers, froms, untils = joined(numbers, froms, untils)
    now = untils == FOREVER
    born = np.full(len(keys), NEVER)
    born[numbers[now]] = np.maximum(froms[now], touched[numbers[now]])
    unknown = np.zeros(len(keys), np.bool_)
    unknown[gone[~known]] = True
    born[unknown & (born < NEVER) & (born > touched)] = -1
    empty = np.setdiff1d(np.arange(len(keys)), standing)
    blank = {
        "market": pa.array((keys[empty] // length).astype(np.int32)),
        "t": pa.array(keys[empty] % length + begin),
    }
    rows = pa.concat_tables([table, _blank(kind, blank)])
    order = np.argsort(np.concatenate([standing, empty]))
    rows = rows.take(pa.array(order))
    rows = rows.set_column(rows.schema.get_field_index("rev"), "rev", pa.array(rev))
    return rows.set_column(rows.schema.get_field_index("born"), "born", pa.array(born))


def _priced(pos: Array, market: Array, prices: pa.Table, sources: Array, rung: int) -> tuple[Array, Array]:
    """Of events that were taken back: whether what they said is known, and whether they had set a price there.

    A finished bar with prices is one in the resolutions from its own on.
    """
    prices = prices.sort_by("pos")
    place = prices.column("pos").to_numpy()
    at = np.minimum(np.searchsorted(place, pos), max(len(place) - 1, 0))
    found = place[at] == pos if len(place) else np.zeros(len(pos), np.bool_)
    price = prices.column("price").fill_null(0).cast(pa.float64()).to_numpy() if len(place) else np.zeros(1)
    kind = prices.column("price_type").to_numpy() if len(place) else np.zeros(1, np.int64)
    said = found & (price[at] > 0) & ((sources[market] >> kind[at].astype(np.uint8)) & 1 == 1)
    length = prices.column("rung").fill_null(0).to_numpy() if len(place) else np.zeros(1, np.int64)
    first = prices.column("open").fill_null(0).cast(pa.float64()).to_numpy() if len(place) else np.zeros(1)
    said |= found & (first[at] > 0)
    said &= length[at] <= rung
    return found | (pos == TOUCH), said


def _blank(kind: str, keys: dict[str, pa.Array]) -> pa.Table:
    """Bars of nothing at all."""
    n = len(keys["t"])
    columns = []
    for field in EMPTY[kind].schema:
        nothing = next(each.nothing for each in _fields(kind) if each.name == field.name)
        if field.name in keys:
            columns.append(keys[field.name])
        elif nothing is None or nothing != nothing:
            columns.append(pa.nulls(n, field.type))
        else:
            columns.append(pa.array([nothing] * n).cast(field.type))
    return pa.table(columns, schema=EMPTY[kind].schema)
