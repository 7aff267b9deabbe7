"""Corrections and retractions: random histories, cut anyhow, come to the fold of the events that survive."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from duckdb import DuckDBPyConnection as Connection
from hypothesis import given, settings
from hypothesis import strategies as st

from actors import fold, rounds
from actors.rounds import Round, flushed, made
from storage import candles, flush, ledger, manifest, sealed
from storage.calendar import MICROS, ONE_DAY, Calendar
from storage.commits import Commit, Dead, decode, encode
from storage.database import migrate
from storage.events import Array, Events
from storage.measures import KINDS, MEASURES
from storage.partials import Partials, concat
from storage.schema import RUNGS
from tests import algebra, oracle
from tests.oracle import Candle, Days, Event, Place

KIND_OF = {1: "perp", 2: "perp", 3: "spot"}
DAYS = {1: Days(), 2: Days("America/New_York", 18), 3: Days("Asia/Kolkata", 17)}
NAMES = {1: "1S", 60: "1", 300: "5", 900: "15", 3600: "60", 86400: "1D"}
CODES = np.array([0, *(KINDS.index(KIND_OF[slot]) for slot in sorted(KIND_OF))])
CALENDARS = {slot: Calendar.parse(days.session, days.zone) for slot, days in DAYS.items()}
END = 2**61


def days(markets: Array, seconds: Array) -> Array:
    found = [
        CALENDARS[m].day(np.array([s]) * MICROS)[0] for m, s in zip(markets.tolist(), seconds.tolist(), strict=True)
    ]
    return np.array(found, np.int64)


def spans(market: int, label: int) -> tuple[int, int]:
    return CALENDARS[market].span(ONE_DAY, label)


@contextmanager
def transaction(db: Connection, last: str = "COMMIT") -> Iterator[None]:
    db.execute("BEGIN TRANSACTION")
    try:
        yield
    except BaseException:
        last = "ROLLBACK"
        raise
    finally:
        db.execute(last)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    with duckdb.connect(str(tmp_path_factory.mktemp("flush") / "candles.duckdb")) as connection:
        migrate(connection)
        candles.adopt(connection, "k1")
        yield connection


# --- histories

Word = tuple[int, Event | None]  # an identity, 0 for none; and what is said of it, or that it is taken back


@dataclass
class History:
    """What producers said, resolved as the intake resolves it."""

    commits: list[Commit] = field(default_factory=list)
    alive: dict[int, Event] = field(default_factory=dict)  # by place
    ever: list[tuple[int, Event]] = field(default_factory=list)  # every event that was ever committed, with its seq
    deaths: list[tuple[int, Event]] = field(default_factory=list)  # each with the seq that took it back
    known: dict[int, int] = field(default_factory=dict)  # places by identity

    def commit(self, words: Sequence[Word]) -> None:
        """One batch; words about one identity count in the order given."""
        seq = len(self.commits) + 1
        kept: list[tuple[int, Event] | None] = []
        new: dict[int, int] = {}
        dead: list[int] = []
        for ident, event in words:
            if ident and ident in new:
                kept[new.pop(ident)] = None
            elif ident and ident in self.known:
                dead.append(self.known.pop(ident))
            if event is not None:
                if ident:
                    new[ident] = len(kept)
                kept.append((ident, event))
        stored = [one for one in kept if one is not None]
        events = [replace(event, pos=seq << 24 | row) for row, (_, event) in enumerate(stored)]
        before = [self.alive.pop(pos) for pos in dead]
        self.deaths += [(seq, event) for event in before]
        self.alive |= {event.pos: event for event in events}
        self.ever += [(seq, event) for event in events]
        self.known |= {ident: event.pos for (ident, _), event in zip(stored, events, strict=True) if ident}
        columns = Events(0, {})
        if events:
            idents = np.array([ident for ident, _ in stored], np.uint64)
            columns = algebra.columns(events).with_columns(ident=idents, digest=idents + 1)
        commit = Commit(seq, columns, [Dead(event.pos, event.market, event.ts) for event in before])
        # What the engine is given after a restart has been through the journal.
        self.commits.append(decode(seq, b"".join(bytes(part) for part in encode(commit))))


# Around the evening session of New York on a Sunday in June and on the day its clocks change, around that of Kolkata
# within an hour, and around midnight.
MOMENTS = [1717365599, 1717365600, 1717367400, 1730674799, 1730674800, 1717413300, 1717414199, 1717414200, 1717459199]
instants = st.builds(
    lambda moment, step: moment * 10**6 + step, st.sampled_from(MOMENTS), st.sampled_from([0, 1, 400_000, 999_999])
)
said = st.builds(replace, algebra.events, market=st.sampled_from([1, 2, 3]), ts=instants)
idents = st.sampled_from([0, 1, 2, 3, 4])
taken_back = st.tuples(idents, st.none())
words: Any = st.one_of(st.tuples(idents, said), st.tuples(idents, said), taken_back)
batches = st.lists(st.lists(words, min_size=1, max_size=5), min_size=1, max_size=8)


def cut(data: st.DataObject, rows: Sequence[Any]) -> list[list[Any]]:
    """The rows in some groups."""
    groups: list[list[Any]] = []
    for row in rows:
        joins: bool = data.draw(st.booleans())
        if groups and joins:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def flush_of(some: Sequence[Round]) -> flush.Flush:
    return flushed(some, CODES, algebra.BITS, days, spans)


def made_of(commits: Sequence[Commit]) -> Round:
    return made(commits, CODES, algebra.BITS)


# --- what must come of them


def label(rung: int, event: oracle.Said) -> int:
    return oracle.label(NAMES[rung], DAYS[event.market], event.ts)


def survivors(alive: Mapping[int, Event], rung: int) -> dict[Place, Candle]:
    found: dict[Place, Candle] = {}
    for market, kind in KIND_OF.items():
        mine = [event for event in alive.values() if event.market == market]
        found |= oracle.fold(kind, mine, lambda event: label(rung, event), algebra.SOURCES)
    return found


def stored(db: Connection, rung: int) -> dict[int, Partials]:
    return {slot: candles.between(db, kind, rung, slot, -END, END) for slot, kind in KIND_OF.items()}


def shown(tables: Mapping[int, Partials]) -> dict[Place, Candle]:
    found: dict[Place, Candle] = {}
    for table in tables.values():
        found |= algebra.candles(fold.merged(table))
    return found


def there(history: History, rung: int, seq: int) -> set[Place]:
    """The bars that existed when this batch was the newest."""
    died = {event.pos: at for at, event in history.deaths}
    return {
        (event.market, label(rung, event))
        for born, event in history.ever
        if sets_price(event) and born <= seq < died.get(event.pos, END)
    }


def lives(history: History, rung: int) -> dict[Place, list[tuple[int, int]]]:
    """Of each bar the times (born, died) in which it existed without a break."""
    found: dict[Place, list[tuple[int, int]]] = {}
    last = len(history.commits)
    for seq in range(1, last + 1):
        before = there(history, rung, seq - 1)
        for place in there(history, rung, seq):
            if place not in before:
                found.setdefault(place, []).append((seq, END))
            found[place][-1] = found[place][-1][0], (END if seq == last else seq + 1)
    return found


def check_lives(history: History, db: Connection, rung: int, found: Mapping[Place, Candle]) -> None:
    """Every bar's birth is when it came for good, and the times at which it existed before are noted."""
    expected = lives(history, rung)
    for place, bar in found.items():
        now = [born for born, died in expected.get(place, ()) if died == END]
        assert bar["born"] == (now[0] if now else None), place
    for seq in range(len(history.commits) + 1):
        for slot in KIND_OF:
            wanted = {
                t: any(born <= seq < died < END for born, died in times)
                for (market, t), times in expected.items()
                if market == slot and any(seq < died < END for _, died in times)
            }
            assert candles.ended(db, rung, slot, seq, 100) == sorted(wanted.items(), reverse=True)


def check(history: History, found: Mapping[Place, Candle], rung: int) -> None:
    expected = survivors(history.alive, rung)
    ever: dict[Place, list[tuple[int, Event]]] = {}
    for seq, event in history.ever:
        ever.setdefault((event.market, label(rung, event)), []).append((seq, event))
    touches: dict[Place, list[int]] = {}
    for seq, event in history.deaths:
        touches.setdefault((event.market, label(rung, event)), []).append(seq)
    assert found.keys() == ever.keys()
    for place, bar in found.items():
        kind = KIND_OF[place[0]]
        oracles = expected.get(place) or oracle.empty((measure.name for measure in MEASURES[kind]), 0)
        for name in (measure.name for measure in MEASURES[kind]):
            assert bar[name] == oracles[name], (place, name)
        assert bar["rev"] == max([seq for seq, _ in ever[place]] + touches.get(place, []))


def sets_price(event: Event) -> bool:
    return event.price is not None and event.price > 0 and event.price_type in algebra.SOURCES[event.market]


@given(batches, st.data())
@settings(max_examples=8)
def test_stored_bars_are_the_fold_of_the_surviving_events_at_every_rung_however_history_is_cut(
    file: Connection, said_: list[list[Word]], data: st.DataObject
) -> None:
    history = History()
    for batch in said_:
        history.commit(batch)
    groups = cut(data, history.commits)
    pending = data.draw(st.integers(0, min(2, len(groups) - 1)))
    with transaction(file, "ROLLBACK"):
        for some in cut(data, groups[: len(groups) - pending]):
            flush.apply(file, flush_of([made_of(group) for group in some]))
            assert candles.applied(file) == some[-1][-1].seq
            if data.draw(st.booleans()):
                seal(file, history, data.draw(st.integers(1, some[-1][-1].seq)))
            for rung in data.draw(st.lists(st.sampled_from(RUNGS), max_size=2)):
                kind = data.draw(st.sampled_from(["perp", "spot"]))
                candles.compact(file, kind, rung, data.draw(st.sampled_from([3600, 86400 * 7])))
        # The rest is not in the store yet: what its events add is summed with what is, and what is touched waits.
        rest = [made_of(group) for group in groups[len(groups) - pending :]]
        late = {
            (event.market, label(rung, event))
            for seq, event in history.deaths
            for rung in RUNGS
            if seq > candles.applied(file)
        }
        for rung in RUNGS:
            tables = stored(file, rung)
            for round_ in rest:
                for table in round_.tables.values():
                    laid = table.at(rounds.rung_start(rung, table["market"], table["t"], days))
                    for slot in KIND_OF:
                        if KIND_OF[slot] == table.kind:
                            tables[slot] = concat([tables[slot], laid.take(laid["market"] == slot)])
            expected = survivors(history.alive, rung)
            for place, bar in shown(tables).items():
                kind = KIND_OF[place[0]]
                if place not in late:
                    oracles = expected.get(place) or oracle.empty((m.name for m in MEASURES[kind]), 0)
                    names = [measure.name for measure in MEASURES[kind]]
                    assert {name: bar[name] for name in names} == {name: oracles[name] for name in names}
        if rest:
            flush.apply(file, flush_of(rest))
        assert said_of(file, history) == history.alive.keys()
        if data.draw(st.booleans()):
            seal(file, history, len(history.commits))
            rebuilt(file, history, data)
            assert said_of(file, history) == history.alive.keys()
        for rung in RUNGS:
            bars = shown(stored(file, rung))
            check(history, bars, rung)
            check_lives(history, file, rung, bars)


def said_of(db: Connection, history: History) -> set[int]:
    """The places of the events in the ledger, in its tables and in files."""
    ever = [event.pos for _, event in history.ever]
    return set(ledger.at(db, np.array(ever, np.int64)).integers("pos").tolist()) if ever else set()


def seal(db: Connection, history: History, last: int) -> None:
    """Have the batches up to this one in sealed files, all that were not in one file more."""
    first = manifest.through(db) + 1
    if first <= last:
        some = history.commits[first - 1 : last]
        manifest.seal(db, sealed.write(manifest.folder(db), first, last, some, 0, lambda: None))


def rebuilt(db: Connection, history: History, data: st.DataObject) -> None:
    """Everything in the database once more, from its sealed files, in whatever steps."""
    files = manifest.listed(db)
    folder = manifest.folder(db)
    tables = [name for (name,) in db.execute("SELECT table_name FROM duckdb_tables()").fetchall()]
    for table in tables:
        if table not in ("meta", "schema_version"):
            db.execute(f"DELETE FROM {table}")
    candles.apply(db, 0)
    for file in files:
        manifest.seal(db, file)
    every = [one for file in files for one in sealed.commits(folder, file, every=data.draw(st.booleans()))]
    for some in cut(data, every):
        flush.apply(db, replace(flush_of([made_of(some)]), events=()))
    assert candles.applied(db) == len(history.commits)


def opened(path: Path) -> Connection:
    connection = duckdb.connect(str(path))
    migrate(connection)
    return connection


@given(said_=batches, data=st.data())
@settings(max_examples=5)
def test_a_reopened_file_goes_on_where_it_was(
    tmp_path_factory: pytest.TempPathFactory, said_: list[list[Word]], data: st.DataObject
) -> None:
    history = History()
    for batch in said_:
        history.commit(batch)
    path = tmp_path_factory.mktemp("reopened") / "candles.duckdb"
    at = data.draw(st.integers(0, len(history.commits)))
    groups = [group for group in (history.commits[:at], history.commits[at:]) if group]
    for group in groups:
        with opened(path) as db:
            assert candles.adopt(db, "k1") == group[0].seq - 1
            with transaction(db):
                flush.apply(db, flush_of([made_of(group)]))
            with transaction(db):
                candles.compact(db, "perp", data.draw(st.sampled_from(RUNGS)), 86400)
    with opened(path) as db:
        assert candles.adopt(db, "k1") == history.commits[-1].seq
        assert said_of(db, history) == history.alive.keys()
        for rung in RUNGS:
            check(history, shown(stored(db, rung)), rung)


def priced(ts: int, price: int, market: int = 1) -> Event:
    return Event(market=market, ts=ts, pos=0, price_type="mark", price=Decimal(price), volume=Decimal(1))


MINUTE = 60_000_000
NOON = 1_717_243_200_000_000


def story(*said_: Sequence[Word]) -> History:
    history = History()
    for batch in said_:
        history.commit(batch)
    return history


def test_a_transaction_that_fails_leaves_nothing_behind(file: Connection) -> None:
    history = story([(1, priced(NOON, 5))], [(1, None)])
    with transaction(file, "ROLLBACK"):
        before = candles.applied(file)
    work = flush_of([made_of(history.commits)])
    bars = Partials("perp", 1, {"market": np.array([1], np.int32), "t": np.array([0])})
    broken = replace(work, tables=[*work.tables, (7, bars)])
    with pytest.raises(duckdb.Error), transaction(file):
        flush.apply(file, broken)
    assert candles.applied(file) == before
    assert said_of(file, history) == set()


def test_a_correction_moves_an_event_to_another_time_and_both_places_are_right(file: Connection) -> None:
    history = story(
        [(1, priced(NOON, 5)), (0, priced(NOON, 4))],
        [(1, priced(NOON + 90 * MINUTE, 6))],
        [(1, priced(NOON, 7, market=2))],
    )
    groups = [[commit] for commit in history.commits]
    for some in ([groups], [groups[:1], groups[1:]], [groups[:1], groups[1:2], groups[2:]]):
        with transaction(file, "ROLLBACK"):
            for one in some:
                flush.apply(file, flush_of([made_of(group) for group in one]))
            for rung in RUNGS:
                bars = shown(stored(file, rung))
                check(history, bars, rung)
                check_lives(history, file, rung, bars)


def test_a_bar_keeps_its_birth_while_it_lasts_and_is_born_anew_after_it_was_gone(file: Connection) -> None:
    history = story([(1, priced(NOON, 5))], [(2, priced(NOON, 6))], [(1, None)], [(2, None)], [(3, priced(NOON, 7))])
    births = []
    with transaction(file, "ROLLBACK"):
        for commit in history.commits:
            flush.apply(file, flush_of([made_of([commit])]))
            (bar,) = shown(stored(file, 60)).values()
            births.append((bar["born"], bar["rev"]))
    assert births == [(1, 1), (1, 2), (1, 3), (None, 4), (5, 5)]


@pytest.mark.parametrize("cut_", [[5], [1, 4], [2, 3], [3, 2], [1, 1, 1, 1, 1]])
def test_a_bar_made_corrected_removed_and_made_again_has_the_same_lives_however_it_was_flushed(
    file: Connection, cut_: list[int]
) -> None:
    history = story(
        [(1, priced(NOON, 5))], [(1, priced(NOON, 6))], [(1, None)], [(0, priced(0, 1))], [(2, priced(NOON, 7))]
    )
    commits = iter(history.commits)
    with transaction(file, "ROLLBACK"):
        for count in cut_:
            flush.apply(file, flush_of([made_of([next(commits)]) for _ in range(count)]))
        bars, noon = shown(stored(file, 60)), NOON // 10**6
        assert bars[1, noon]["born"] == 5
        found = [candles.ended(file, 60, 1, seq, 9) for seq in range(5)]
        assert found == [[(noon, False)], [(noon, True)], [(noon, True)], [], []]
        check_lives(history, file, 60, bars)


spans_of = st.tuples(st.integers(0, 2), st.integers(0, 20), st.integers(1, 6))


@given(st.lists(spans_of, max_size=12))
def test_joined_spans_cover_what_they_were_joined_of_and_do_not_meet(some: list[tuple[int, int, int]]) -> None:
    group, start, length = (np.array([one[i] for one in some], np.int64) for i in range(3))
    found = list(zip(*(column.tolist() for column in candles.joined(group, start, start + length)), strict=True))
    covered = [(g, x) for g, a, b in found for x in range(a, b)]
    assert len(covered) == len(set(covered))
    assert set(covered) == {(g, x) for g, a, n in some for x in range(a, a + n)}
    assert not {(g, b) for g, _, b in found} & set(covered)


def test_identities_that_were_let_go_are_noted(file: Connection) -> None:
    commit = Commit(4, Events(0, {}), [], np.array([7, 9], np.uint64))
    with transaction(file, "ROLLBACK"):
        flush.apply(file, flush_of([made_of([commit])]))
        assert sorted(ledger.forgotten(file, 3).tolist()) == [7, 9]
        assert candles.applied(file) == 4
