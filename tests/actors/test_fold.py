"""The algebra of candles: numpy, SQL and the oracle agree, whatever the order and the cuts."""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from duckdb import DuckDBPyConnection as Connection
from hypothesis import given, settings
from hypothesis import strategies as st

from actors import cards, fold, vamm
from actors.fold import Inputs
from storage import candles, decimals, ledger, schema
from storage.calendar import MICROS, ONE_DAY, Calendar, parse, rung
from storage.database import migrate
from storage.measures import KINDS, MEASURES, SKETCH, distinct_count
from storage.partials import Partials, concat, from_arrow, none
from storage.schema import RUNGS
from tests import algebra, oracle
from tests.oracle import Candle, Days, Event, Place, Said

NAMES = {1: "1S", 60: "1", 300: "5", 900: "15", 3600: "60", 86400: "1D"}
CUSTOM = ("10S", "7", "45", "120", "1440", "1W", "1M")
FINER = {60: 1, 300: 60, 900: 300, 3600: 900, 86400: 60}

QUOTED = ("card", "index")  # kinds of which the events are prices of cards
SHAPES = [pytest.param(kind, id=kind) for kind in KINDS]


@pytest.fixture(scope="module")
def db() -> Iterator[Connection]:
    with duckdb.connect() as connection:
        migrate(connection)
        yield connection


def inputs(kind: str, events: Sequence[Any], t: Sequence[int] | None = None) -> Inputs:
    """What a fold reads of these events; `t` are their buckets where those are not seconds."""
    seconds = np.array([e.ts // MICROS for e in events] if t is None else t, np.int64)
    if kind in QUOTED:
        found = cards.inputs(kind, algebra.snapshot_columns(events), algebra.QUOTED)
    else:
        found = vamm.inputs(kind, algebra.columns(events), algebra.BITS)
    values = (
        found.values if kind != "index" else {**found.values, "card": np.array([e.card for e in events], np.uint64)}
    )
    return Inputs(kind, found.n, found.market, seconds, found.keys, values, found.masks)


def folded(kind: str, events: Sequence[Any], t: Sequence[int] | None = None) -> Partials:
    return fold.fold(inputs(kind, events, t)) if events else none(kind)


def by_oracle(kind: str, events: Sequence[Any], name: str, days: Days) -> dict[Place, Candle]:
    return oracle.fold(kind, events, lambda event: oracle.label(name, days, event.ts), algebra.SOURCES)


def calendar_of(days: Days) -> Calendar:
    return Calendar.parse(days.session, days.zone)


def laid(table: Partials, name: str, calendar: Calendar) -> Partials:
    """One-second partials, or any finer ones that make up `name`, as buckets of `name`."""
    resolution = parse(name)
    if resolution == ONE_DAY:
        return fold.rolled(table, lambda t: calendar.day(t * MICROS))
    return fold.rolled(table, lambda t: calendar.bucket(resolution, t))


def history(kind: str) -> Any:
    return algebra.histories[kind]


def by_sql(db: Connection, kind: str, events: Sequence[Any], t: Sequence[int]) -> Partials:
    """What SQL makes of the same events, out of the ledger."""
    columns: Any = algebra.columns
    sources = algebra.BITS
    if kind in QUOTED:
        columns, sources = algebra.snapshot_columns, algebra.QUOTED
    labels = pa.table(  # noqa: F841 - DuckDB reads tables by their names here
        {
            "pos": pa.array([e.pos for e in events], pa.int64()),
            "label": pa.array(t, pa.int64()),
            "sources": pa.array([int(sources[e.market]) for e in events], pa.uint8()),
            "card": pa.array([e.card if kind in QUOTED else 0 for e in events], pa.uint64()),
        }
    )
    db.execute("BEGIN TRANSACTION")
    try:
        ledger.put(db, [columns([event]) for event in events])
        relation = (
            "(SELECT l.*, label, card, price > 0 AND ((sources >> price_type) & 1) = 1 AS priced "
            "FROM ledger l JOIN labels USING (pos))"
        )
        return from_arrow(kind, db.sql(schema.fold_sql(kind, relation, "label")).to_arrow_table())
    finally:
        db.execute("ROLLBACK")


def merged_by_sql(db: Connection, table: Partials, bucket: str = "t") -> Partials:
    """What SQL makes of rows that were stored."""
    db.execute("BEGIN TRANSACTION")
    try:
        candles.put(db, 1, table)
        relation = schema.recent_table(table.kind, 1)
        return from_arrow(table.kind, db.sql(schema.merge_sql(table.kind, relation, bucket)).to_arrow_table())
    finally:
        db.execute("ROLLBACK")


@pytest.mark.parametrize("kind", SHAPES)
@given(st.data(), algebra.calendars)
@settings(max_examples=60)
def test_every_resolution_rolled_up_from_seconds_is_the_oracles_fold_of_the_events(
    kind: str, data: st.DataObject, days: Days
) -> None:
    events = data.draw(history(kind))
    calendar = calendar_of(days)
    tables = {1: folded(kind, events)}
    for stored in RUNGS:
        if stored > 1:
            tables[stored] = laid(tables[FINER[stored]], NAMES[stored], calendar)
        assert algebra.candles(tables[stored]) == by_oracle(kind, events, NAMES[stored], days), stored
    for name in CUSTOM:
        found = laid(tables[rung(parse(name))], name, calendar)
        assert algebra.candles(found) == by_oracle(kind, events, name, days), name


@pytest.mark.parametrize("kind", SHAPES)
@given(st.data(), algebra.calendars)
@settings(max_examples=25)
def test_numpy_and_sql_fold_events_straight_into_any_bucket_as_the_oracle_does(
    db: Connection, kind: str, data: st.DataObject, days: Days
) -> None:
    events = data.draw(history(kind))
    name = data.draw(st.sampled_from([*NAMES.values(), *CUSTOM]))
    t = [oracle.label(name, days, event.ts) for event in events]
    expected = by_oracle(kind, events, name, days)
    assert algebra.candles(folded(kind, events, t)) == expected
    assert algebra.candles(by_sql(db, kind, events, t)) == expected


@pytest.mark.parametrize("kind", SHAPES)
@given(st.data())
@settings(max_examples=60)
def test_neither_the_order_of_events_nor_how_they_are_cut_into_batches_changes_a_candle(
    kind: str, data: st.DataObject
) -> None:
    events = data.draw(history(kind))
    expected = algebra.candles(folded(kind, events))
    shuffled = data.draw(st.permutations(events))
    assert algebra.candles(folded(kind, shuffled)) == expected
    cuts = sorted(data.draw(st.lists(st.integers(0, len(events)), max_size=4)))
    parts = [folded(kind, shuffled[a:b]) for a, b in zip([0, *cuts], [*cuts, len(events)], strict=True)]
    tables = data.draw(st.permutations(parts))
    assert algebra.candles(fold.merged(concat(tables))) == expected
    summed = none(kind)
    for table in tables:
        summed = fold.merged(concat([summed, table]))
    assert algebra.candles(summed) == expected


def stored_rows(kind: str) -> Any:
    """Rows as they lie on disk: what some events add to a bucket, all of a bucket, or that it is gone."""

    def made(events: Sequence[Said], whole: bool, rev: int) -> tuple[Place, Candle]:
        place = (1 + rev % 2, 60 * (rev % 3))
        if not events:
            return place, {**oracle.empty((m.name for m in MEASURES[kind]), rev), "whole": whole}
        (candle,) = oracle.fold(kind, [one_market(e) for e in events], lambda _: 0, {1: algebra.SOURCES[1]}).values()
        return place, {**candle, "rev": rev, "whole": whole}

    some = st.lists(algebra.events if kind in ("perp", "spot") else algebra.snapshots, max_size=3)
    return st.lists(
        st.builds(made, some, st.sampled_from([False, False, True]), st.integers(1, 12)),
        max_size=12,
        unique_by=lambda row: (row[1]["rev"], row[1]["whole"]),
    )


def one_market(event: Any) -> Any:
    return type(event)(**{**{name: getattr(event, name) for name in event.__dataclass_fields__}, "market": 1})


@pytest.mark.parametrize("kind", SHAPES)
@given(st.data())
@settings(max_examples=25)
def test_rows_of_a_bucket_are_summed_alike_by_numpy_sql_and_the_oracle_wholes_included(
    db: Connection, kind: str, data: st.DataObject
) -> None:
    found = data.draw(stored_rows(kind))
    table = algebra.partials(kind, found)
    assert algebra.rows(table) == found
    expected = oracle.merged(found)
    assert algebra.candles(fold.merged(table)) == expected
    assert algebra.candles(merged_by_sql(db, table)) == expected


@pytest.mark.parametrize("kind", SHAPES)
@given(st.data())
@settings(max_examples=60)
def test_summing_in_any_grouping_is_summing_at_once_when_each_flush_comes_after_the_one_before(
    kind: str, data: st.DataObject
) -> None:
    found = sorted(data.draw(stored_rows(kind)), key=lambda row: (row[1]["rev"], row[1]["whole"]))
    table = algebra.partials(kind, found)
    at_once = algebra.candles(fold.merged(table))
    cut = data.draw(st.integers(0, table.n))
    older, newer = fold.merged(table.take(slice(0, cut))), fold.merged(table.take(slice(cut, None)))
    # What was summed of the older rows is as settled as a delta: whatever comes later adds to it or replaces it.
    settled = Partials(kind, older.n, {**older.columns, "whole": np.zeros(older.n, np.bool_)})
    again = fold.merged(concat([newer, settled]))
    assert without_whole(algebra.candles(again)) == without_whole(at_once)


def without_whole(found: dict[Place, Candle]) -> dict[Place, Candle]:
    return {place: {name: value for name, value in c.items() if name != "whole"} for place, c in found.items()}


def of_volume(volume: str, pos: int, fee: str | None = None) -> Event:
    return Event(
        market=1,
        ts=10**15,
        pos=pos,
        price=Decimal(1),
        volume=Decimal(volume),
        fee=None if fee is None else Decimal(fee),
    )


MOST = "99999999999999999999.999999999999999999"


def test_sums_stop_at_their_cap_whatever_the_order(db: Connection) -> None:
    sizes = [MOST, "1", "70000000000000000000", "0.000000000000000001", MOST, "12345.678"]
    for turn in range(len(sizes)):
        events = [of_volume(size, pos) for pos, size in enumerate(sizes[turn:] + sizes[:turn], 1 << 24)]
        parts = [folded("spot", [event]) for event in events]
        by_ones = parts[0]
        for part in parts[1:]:
            by_ones = fold.merged(concat([by_ones, part]))
        for table in (
            folded("spot", events),
            by_ones,
            fold.merged(concat(parts)),
            by_sql(db, "spot", events, [e.ts // MICROS for e in events]),
            merged_by_sql(db, concat(parts)),
        ):
            assert decimals.ints(table["volume"]) == [decimals.CAP]
            assert table["trades_count"].tolist() == [len(sizes)]


def test_fees_paid_back_stop_at_the_cap_too(db: Connection) -> None:
    events = [of_volume("1", pos, fee=f"-{MOST}") for pos in range(1 << 24, (1 << 24) + 3)]
    parts = [folded("perp", [event]) for event in events]
    for table in (
        folded("perp", events),
        fold.merged(concat(parts)),
        by_sql(db, "perp", events, [0] * 3),
        merged_by_sql(db, concat(parts)),
    ):
        assert decimals.ints(table["total_fees"]) == [-decimals.CAP]


def test_a_price_and_a_volume_whose_product_is_beyond_all_amounts_are_folded_all_the_same(db: Connection) -> None:
    event = Event(market=1, ts=10**15, pos=1 << 24, price_type="mark", price=Decimal("6E19"), volume=Decimal("7E19"))
    expected = by_oracle("perp", [event], "1S", Days())
    assert algebra.candles(folded("perp", [event])) == expected
    assert algebra.candles(by_sql(db, "perp", [event], [event.ts // MICROS])) == expected


def hashes(seed: int, n: int) -> Any:
    return np.random.default_rng(seed).integers(1, 2**64, n, np.uint64, endpoint=False)


def distinct_inputs(traders: Any, t: Any, pos: int) -> Inputs:
    n = len(traders)
    keys = fold.Keys(t * MICROS, np.arange(pos, pos + n))
    return Inputs("perp", n, np.ones(n, np.int32), t, keys, {"price": np.ones(n), "trader": traders})


@pytest.mark.parametrize(("n", "exactly"), [(SKETCH - 1, True), (SKETCH, False), (3 * SKETCH, False)])
def test_traders_are_counted_exactly_below_the_size_of_a_sketch_at_every_resolution(
    db: Connection, n: int, exactly: bool
) -> None:
    traders = np.repeat(hashes(7, n), 2)  # everybody trades twice, in different minutes
    t = np.tile(np.array([0, 90]), n)
    order = np.random.default_rng(8).permutation(2 * n)
    first, second = order[: n // 3], order[n // 3 :]
    parts = [fold.fold(distinct_inputs(traders[rows], t[rows], i << 24)) for i, rows in enumerate((first, second), 1)]
    seconds = fold.merged(concat(parts))
    hour = fold.rolled(fold.rolled(seconds, lambda t: t // 60 * 60), lambda t: t // 3600 * 3600)
    sql = merged_by_sql(db, concat(parts), "t // 3600 * 3600")
    smallest = sorted(set(traders.tolist()))[:SKETCH]
    for table in (hour, sql):
        (sketch,) = table["unique_traders"]
        assert sketch.tolist() == smallest
        if exactly:
            assert distinct_count(sketch) == n
        else:
            assert distinct_count(sketch) == pytest.approx(n, rel=5 / (SKETCH - 2) ** 0.5)


@pytest.mark.parametrize("n", [5_000, 40_000, 300_000])
def test_above_it_the_relative_error_is_what_the_docstring_says(n: int) -> None:
    errors = []
    for seed in range(30):
        smallest = np.sort(hashes(seed, n))[:SKETCH]
        errors.append(distinct_count(smallest) / n - 1)
    said = (SKETCH - 2) ** -0.5
    assert np.sqrt(np.mean(np.square(errors))) < 1.4 * said  # 30 samples scatter by an eighth; this is three of them
    assert np.max(np.abs(errors)) < 5 * said
    assert abs(np.mean(errors)) < 4 * said / 30**0.5


@given(st.lists(st.integers(-(2**62), 2**62)), st.integers(0, 3))
def test_markets_are_brought_together_in_order_without_disturbing_the_rest(markets: list[int], shift: int) -> None:
    column = np.array([abs(m) % (1 << (31 - 8 * shift)) for m in markets], np.int32)
    order = fold.market_order(column)
    assert order.tolist() == sorted(range(len(markets)), key=lambda row: column[row])


@pytest.mark.parametrize("far", [1, 2**40, 2**61])
def test_buckets_are_summed_in_order_however_far_apart_they_lie(far: int) -> None:
    market = np.array([2, 1, 2, 1, 2, 2**20], np.int32)
    t = np.array([far, far, -far, -far, far, 0])
    volume = decimals.from_ints([1, 2, 4, 8, 16, 32])
    found = fold.merged(Partials("spot", 6, {"market": market, "t": t, "volume": volume}))
    places = list(zip(found["market"].tolist(), found["t"].tolist(), strict=True))
    assert places == [(1, -far), (1, far), (2, -far), (2, far), (2**20, 0)]
    assert decimals.ints(found["volume"]) == [8, 2, 4, 17, 32]


def test_no_events_are_no_candles() -> None:
    table = fold.fold(vamm.inputs("perp", algebra.columns([]), algebra.BITS))
    assert table.n == 0
    assert fold.merged(table).n == 0
