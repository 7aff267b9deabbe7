"""Stored bars: what is read is the sum of what was put, whenever it was compacted."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import duckdb
import numpy as np
import pytest
from duckdb import DuckDBPyConnection as Connection
from hypothesis import given, settings
from hypothesis import strategies as st

from actors import fold
from storage import candles, ledger, schema
from storage.candles import Touched
from storage.commits import Dead
from storage.database import migrate
from storage.errors import BrokenStore
from storage.measures import KINDS, MEASURES
from storage.partials import NEVER, Partials, from_arrow, to_arrow
from tests import algebra, oracle
from tests.oracle import Candle, Event, Place

END = 2**61


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    with duckdb.connect(str(tmp_path_factory.mktemp("candles") / "candles.duckdb")) as connection:
        migrate(connection)
        yield connection


@pytest.fixture
def db(file: Connection) -> Iterator[Connection]:
    file.execute("BEGIN TRANSACTION")
    yield file
    file.execute("ROLLBACK")


def nothing(kind: str, rev: int) -> Candle:
    return oracle.empty((measure.name for measure in MEASURES[kind]), rev)


def summed(table: Partials) -> dict[Place, Candle]:
    """The bars of rows as they are read; whether they replaced something is nobody's business any more."""
    return {place: {**bar, "whole": False} for place, bar in algebra.candles(fold.merged(table)).items()}


def settled(rows: Sequence[tuple[Place, Candle]]) -> dict[Place, Candle]:
    return {place: {**bar, "whole": False} for place, bar in oracle.merged(rows).items()}


def everything(db: Connection, kind: str, rung: int) -> dict[Place, Candle]:
    found: dict[Place, Candle] = {}
    for market in (1, 2):
        found |= summed(candles.between(db, kind, rung, market, -END, END))
    return found


def written(kind: str) -> Any:
    """One row each: a bucket, what some events come to there, and whether it replaces what was there."""
    some = st.lists(algebra.events if kind in ("perp", "spot") else algebra.snapshots, max_size=2)
    return st.tuples(st.sampled_from([1, 2]), st.integers(0, 7), some, st.sampled_from([False, False, True]))


def bar_of(kind: str, events: Sequence[Any], seq: int, whole: bool) -> Candle:
    if not events:
        return {**nothing(kind, seq), "whole": whole}
    moved = [replace(event, market=1, pos=seq << 24 | row) for row, event in enumerate(events)]
    (bar,) = oracle.fold(kind, moved, lambda _: 0, {1: algebra.SOURCES[1]}).values()
    return {**bar, "whole": whole}


@pytest.mark.parametrize("kind", KINDS)
@given(st.data())
@settings(max_examples=10)
def test_every_read_is_the_sum_of_all_that_was_put_however_often_it_was_compacted(
    file: Connection, kind: str, data: st.DataObject
) -> None:
    rung, db = 60, file
    flushes = data.draw(st.lists(st.lists(written(kind), max_size=6), min_size=1, max_size=4))
    rows: list[tuple[Place, Candle]] = []
    waiting, seq = 0, 0
    db.execute("BEGIN TRANSACTION")
    try:
        for flush in flushes:
            added = []
            for market, number, events, whole in flush:
                seq += 1
                added.append(((market, 60 * number), bar_of(kind, events, seq, whole)))
            candles.put(db, rung, algebra.partials(kind, added))
            rows += added
            waiting += len(added)
            assert candles.backlog(db, kind, rung) == waiting
            if data.draw(st.booleans()):
                before = everything(db, kind, rung)
                waiting -= candles.compact(db, kind, rung, data.draw(st.sampled_from([60, 120, 86400])))
                assert candles.backlog(db, kind, rung) == waiting
                assert everything(db, kind, rung) == before
        bars = settled(rows)
        assert everything(db, kind, rung) == bars
        market = data.draw(st.sampled_from([1, 2]))
        mine = {t: bar for (owner, t), bar in bars.items() if owner == market}
        start, end = 60 * data.draw(st.integers(0, 4)), 60 * data.draw(st.integers(3, 9))
        some = candles.between(db, kind, rung, market, start, end)
        algebra.agrees(candles.shown(db, kind, rung, market, start, end), some)
        found = summed(some)
        assert found == {(market, t): bar for t, bar in mine.items() if start <= t < end}
        count = data.draw(st.integers(1, 4))
        kept = sorted(t for t in mine if t < end)[-count:]
        found = summed(candles.newest(db, kind, rung, market, end, count))
        assert found == {(market, t): mine[t] for t in kept}
        times = data.draw(st.lists(st.sampled_from([60 * n for n in range(9)]), unique=True))
        found = summed(candles.at(db, kind, rung, market, times))
        assert found == {(market, t): bar for t, bar in mine.items() if t in times}
        since = data.draw(st.integers(0, seq))
        changed = sorted((t for t, bar in mine.items() if bar["rev"] > since), reverse=True)
        assert candles.changed(db, kind, rung, market, since, 100) == changed
        assert candles.changed(db, kind, rung, market, since, 2) == changed[:2]
    finally:
        db.execute("ROLLBACK")


@given(st.lists(st.tuples(st.sampled_from([3, 1, 2]), st.integers(0, 9)), min_size=1, max_size=20))
@settings(max_examples=15)
def test_compacted_bars_lie_by_market_and_time_within_each_span(file: Connection, places: list[Place]) -> None:
    file.execute("BEGIN TRANSACTION")
    try:
        rows = [((market, 60 * n), nothing("spot", seq)) for seq, (market, n) in enumerate(places, 1)]
        candles.put(file, 60, algebra.partials("spot", rows[:10]))
        candles.compact(file, "spot", 60, 180)
        candles.put(file, 60, algebra.partials("spot", rows[10:]))
        candles.compact(file, "spot", 60, 180)
        lie = file.execute("SELECT market, t FROM spot_60 ORDER BY rowid").fetchall()
        for span in range(0, 600, 180):
            inside = [place for place in lie if span <= place[1] < span + 180]
            assert inside == sorted(set(inside))
        assert set(lie) == {place for place, _ in rows}
        assert candles.backlog(file, "spot", 60) == 0
    finally:
        file.execute("ROLLBACK")


def volumes(markets: int, times: Sequence[int], seq: int) -> Partials:
    """A bar of every market at each of these times, in (market, t) order."""
    n = markets * len(times)
    market, t = np.repeat(np.arange(markets, dtype=np.int32), len(times)), np.tile(np.array(times, np.int64), markets)
    volume = np.column_stack((np.full(n, seq), np.zeros(n, np.int64)))
    return Partials("spot", n, {"market": market, "t": t, "volume": volume, "rev": np.full(n, seq)})


def shown(db: Connection) -> dict[int, list[int]]:
    """By time, the volumes of market 5 in units of 1e-18."""
    bars = fold.merged(candles.between(db, "spot", 60, 5, -END, END))
    return dict(zip(bars["t"].tolist(), bars["volume"].tolist(), strict=True))


def ordered(db: Connection) -> int:
    ((found,),) = db.execute("SELECT count(*) FROM spot_60").fetchall()
    return int(found)


def test_many_bars_of_times_without_any_need_no_compaction_and_those_of_others_do(db: Connection) -> None:
    markets = candles.ORDERED // 3
    candles.put(db, 60, volumes(markets, [0, 60, 120], 1))
    assert (ordered(db), candles.backlog(db, "spot", 60)) == (3 * markets, 0)
    candles.put(db, 60, volumes(markets, [120, 180, 240], 2))
    assert (ordered(db), candles.backlog(db, "spot", 60)) == (5 * markets, markets)
    candles.put(db, 60, volumes(markets // 2, [300, 360, 420], 4))  # not so many
    assert candles.backlog(db, "spot", 60) == markets + markets // 2 * 3
    expected = {0: [1, 0], 60: [1, 0], 120: [3, 0], 180: [2, 0], 240: [2, 0]}
    expected |= {t: [4, 0] for t in (300, 360, 420)}
    assert shown(db) == expected
    assert candles.compact(db, "spot", 60, 86400) == markets + markets // 2 * 3
    assert shown(db) == expected
    lie = db.execute("SELECT market, t FROM spot_60 ORDER BY rowid").fetchnumpy()
    assert np.all(np.diff(lie["market"].astype(np.int64) * 1000 + lie["t"]) > 0)


def test_many_whole_rows_replace_what_was_there_all_the_same(db: Connection) -> None:
    table = volumes(candles.ORDERED, [0], 2)
    candles.put(db, 60, volumes(10, [0], 1))
    candles.put(db, 60, Partials("spot", table.n, {**table.columns, "whole": np.ones(table.n, np.bool_)}))
    assert shown(db) == {0: [2, 0]}
    candles.compact(db, "spot", 60, 60)
    assert shown(db) == {0: [2, 0]}


def test_a_few_late_rows_wait_until_a_large_span_is_worth_writing_again(db: Connection) -> None:
    candles.put(db, 60, volumes(100, [0, 60, 120, 180], 1))
    assert candles.compact(db, "spot", 60, 3600) == 400
    candles.put(db, 60, volumes(100, [3600], 2))
    candles.put(db, 60, volumes(40, [120], 3))
    assert candles.compact(db, "spot", 60, 3600) == 100
    assert (ordered(db), candles.backlog(db, "spot", 60)) == (500, 40)
    candles.put(db, 60, volumes(10, [180], 4))
    expected = {0: [1, 0], 60: [1, 0], 120: [4, 0], 180: [5, 0], 3600: [2, 0]}
    assert shown(db) == expected
    assert candles.compact(db, "spot", 60, 3600) == 50
    assert (ordered(db), candles.backlog(db, "spot", 60)) == (500, 0)
    assert shown(db) == expected


def test_a_trading_day_of_1969_is_compacted_like_any_other(db: Connection) -> None:
    candles.put(db, 60, volumes(6, [-86400, 0], 1))
    assert candles.compact(db, "spot", 60, 36525 * 86400) == 12
    assert shown(db) == {-86400: [1, 0], 0: [1, 0]}


@pytest.mark.parametrize("kind", KINDS)
@given(st.data())
@settings(max_examples=15)
def test_partials_that_leave_columns_out_are_the_same_on_disk(kind: str, data: st.DataObject) -> None:
    rows = [((1, 60 * i), bar_of(kind, data.draw(algebra.histories[kind]), i + 1, False)) for i in range(2)]
    table = algebra.partials(kind, rows)
    short = table
    for name in list(table.columns):
        fewer = Partials(kind, table.n, {other: column for other, column in short.columns.items() if other != name})
        if name not in ("market", "t") and algebra.rows(fewer) == rows:
            short = fewer
    arrow = to_arrow(short)
    assert algebra.rows(from_arrow(kind, arrow)) == rows
    assert algebra.rows(from_arrow(kind, arrow.slice(1))) == rows[1:]
    assert algebra.rows(from_arrow(kind, arrow.slice(0, 0))) == []


# --- folding again


def trade(pos: int, second: int, price: int, market: int = 1) -> Event:
    return Event(
        market=market,
        ts=second * 10**6,
        pos=pos << 24,
        price_type="mark",
        price=Decimal(price),
        volume=Decimal(2),
        side=True,
    )


def touched(*buckets: tuple[int, int, int], rung: int = 60) -> Touched:
    """(market, t, seq) each."""
    market, t, seq = (np.array(column, np.int64) for column in zip(*buckets, strict=True))
    sources = algebra.BITS[market]
    return Touched(market.astype(np.int32), t, t * 10**6, (t + rung) * 10**6, sources, seq)


def refolded(db: Connection, *buckets: tuple[int, int, int]) -> Partials:
    """Folded again, after nothing that anybody was told of."""
    none = np.zeros(0, np.int64)
    candles.adopt(db, "k1")
    candles.apply(db, 8)
    return candles.refolded(db, "perp", 60, touched(*buckets), candles.dying(db, none, none), 9)[0]


def by_oracle(events: Sequence[Event], place: Place, rev: int) -> Candle:
    found = oracle.fold("perp", events, lambda event: event.ts // 60_000_000 * 60, algebra.SOURCES)
    return {**found.get(place, nothing("perp", 0)), "rev": rev, "whole": True}


def test_touched_buckets_are_folded_again_from_the_ledger_and_empty_ones_are_gone(db: Connection) -> None:
    events = [trade(1, 0, 5), trade(2, 59, 7), trade(3, 60, 6), trade(4, 1, 9, market=3), trade(5, 119, 1, market=3)]
    ledger.put(db, [algebra.columns(events)])
    found = refolded(db, (1, 0, 9), (3, 60, 2), (1, 600, 8), (3, 0, 7))
    assert dict(algebra.rows(found)) == {
        (1, 0): by_oracle(events, (1, 0), 9),
        (3, 60): by_oracle(events, (3, 60), 5),  # the newest event is newer than what touched the bucket
        (1, 600): by_oracle(events, (1, 600), 8),
        (3, 0): by_oracle(events, (3, 0), 7),
    }
    assert found.n == 4


def test_only_events_within_a_bucket_and_of_its_market_are_folded_into_it(db: Connection) -> None:
    events = [trade(1, 59, 1), trade(2, 60, 2), trade(3, 119, 3), trade(4, 120, 4), trade(5, 90, 5, market=3)]
    ledger.put(db, [algebra.columns(events)])
    found = refolded(db, (1, 60, 9))
    assert dict(algebra.rows(found)) == {(1, 60): by_oracle(events, (1, 60), 9)}


def test_a_bar_that_stands_keeps_its_birth_and_one_that_was_gone_is_born_anew(db: Connection) -> None:
    ledger.put(db, [algebra.columns([trade(4, 0, 5)])])
    candles.put(db, 60, algebra.partials("perp", [((1, 0), by_oracle([trade(2, 0, 1)], (1, 0), 2) | {"whole": False})]))

    def born() -> list[int]:
        again: list[int] = refolded(db, (1, 0, 9))["born"].tolist()
        return again

    assert born() == [2]
    candles.compact(db, "perp", 60, 86400)
    assert born() == [2]
    candles.put(db, 60, algebra.partials("perp", [((1, 0), nothing("perp", 3) | {"whole": True})]))
    assert born() == [4]
    candles.compact(db, "perp", 60, 86400)
    assert born() == [4]
    ledger.drop(db, [(9, Dead(4 << 24, 1, 0))])
    assert born() == [NEVER]


def test_a_gone_bar_stays_known_as_changed_after_compaction(db: Connection) -> None:
    candles.put(db, 60, algebra.partials("perp", [((1, 0), by_oracle([trade(2, 0, 1)], (1, 0), 2) | {"whole": False})]))
    candles.put(db, 60, algebra.partials("perp", [((1, 0), nothing("perp", 7) | {"whole": True})]))
    for _ in range(2):
        assert candles.changed(db, "perp", 60, 1, 6, 10) == [0]
        assert everything(db, "perp", 60) == {(1, 0): nothing("perp", 7)}
        candles.compact(db, "perp", 60, 86400)


# --- how far the store reaches


def test_a_new_database_begins_at_the_start_of_its_journal_and_stays_with_it(db: Connection) -> None:
    assert candles.adopt(db, "k3") == 0
    candles.apply(db, 17)
    assert candles.applied(db) == 17
    assert candles.adopt(db, "k3") == 17
    with pytest.raises(BrokenStore, match="the database belongs to journal 'k3', the journal beside it is 'k4'"):
        candles.adopt(db, "k4")


def test_markets_that_ever_had_a_bar_are_listed_compacted_or_not(db: Connection) -> None:
    assert candles.lived(db).tolist() == []
    candles.put(db, 86400, algebra.partials("perp", [((5, 0), nothing("perp", 1)), ((5, 86400), nothing("perp", 1))]))
    candles.compact(db, "perp", 86400, 86400)
    candles.put(db, 86400, algebra.partials("spot", [((2, 0), nothing("spot", 1))]))
    assert sorted(candles.lived(db).tolist()) == [2, 5]


def test_every_kind_has_its_tables_at_every_stored_resolution(db: Connection) -> None:
    tables = {name for (name,) in db.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
    for kind in KINDS:
        for rung in schema.RUNGS:
            assert {schema.candle_table(kind, rung), schema.recent_table(kind, rung)} <= tables


def test_no_rows_are_no_bars(db: Connection) -> None:
    candles.put(db, 60, algebra.partials("perp", []))
    assert candles.between(db, "perp", 60, 1, 0, END).n == 0
    assert candles.newest(db, "perp", 60, 1, END, 5).n == 0
    assert candles.at(db, "perp", 60, 1, []).n == 0
    assert candles.changed(db, "perp", 60, 1, 0, 5) == []
    assert candles.compact(db, "perp", 60, 86400) == 0
