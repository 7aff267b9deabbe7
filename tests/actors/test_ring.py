"""Rings against a dict that keeps everything."""

import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors import candle, fold, ring
from actors.candle import LAYOUTS
from actors.ring import ALWAYS, HOT, Ring, View
from actors.sketch import Sketch
from storage.measures import KINDS, MEASURES, Rule
from storage.partials import NEVER, Partials
from tests import algebra, oracle
from tests.oracle import Candle

SIZE = 5
ROOM = 8  # how many different buckets the tests use
END = 2**61


def wire(number: float) -> float:
    return float(f"{number:.15g}")


def happened(kind: str, found: Sequence[Any], seq: int) -> Candle:
    """The candle of these events, committed as the batch `seq`."""
    events = [replace(event, market=1, pos=seq << 24 | row) for row, event in enumerate(found)]
    if not events:
        return oracle.empty((measure.name for measure in MEASURES[kind]), seq)
    (one,) = oracle.fold(kind, events, lambda _: 0, {1: algebra.SOURCES[1]}).values()
    return one


def table(kind: str, bars: dict[int, Candle]) -> Partials:
    return algebra.partials(kind, [((1, t), bars[t]) for t in sorted(bars)])


def row(kind: str, t: int, bar: Candle) -> tuple[Any, ...]:
    (only,) = candle.rows(table(kind, {t: bar}))
    return only


def expected(kind: str, bars: dict[int, Candle]) -> list[dict[str, Any]]:
    """What a view shows of these bars."""
    return [shown(kind, t, bars[t]) for t in sorted(bars)]


def shown(kind: str, t: int, bar: Candle) -> dict[str, Any]:
    values: dict[str, Any] = {"t": t, "rev": bar["rev"], "born": NEVER if bar["born"] is None else bar["born"]}
    for measure in MEASURES[kind]:
        value = bar[measure.name]
        match measure.rule:
            case Rule.FIRST | Rule.LAST:
                values[measure.name] = None if value is None else wire(value[1])
            case Rule.MIN | Rule.MAX:
                values[measure.name] = None if value is None else wire(value)
            case Rule.DISTINCT:
                values[measure.name] = len(value)
            case _:
                values[measure.name] = value
    values["volume on wires"] = wire(bar["volume"] / 10**18)
    return values


def columns(bars: View) -> list[dict[str, Any]]:
    """A view as one dict for each bar."""
    found: dict[str, list[Any]] = {"volume on wires": bars.volumes.tolist()}
    for name, column in bars.columns.items():
        if column.ndim == 2:
            found[name] = [(high << 64) | low & (2**64 - 1) for low, high in column.tolist()]
        else:
            found[name] = [None if value != value else value for value in column.tolist()]
    return [{name: found[name][i] for name in found} for i in range(bars.n)]


class Everything:
    """The dict: all bars of the market, and what a ring of them must show."""

    def __init__(self, kind: str, rung: int) -> None:
        self.kind, self.rung = kind, rung
        self.bars: dict[int, Candle] = {}
        self.ring = Ring(kind, rung)
        self.ring.size = SIZE

    def add(self, t: int, bar: Candle) -> None:
        """Events come in; where the ring needs the bar's state it is brought, as the market does."""
        self.bars[t] = oracle.merge([self.bars[t], bar]) if t in self.bars else bar
        if not self.ring.add(row(self.kind, t, bar), t):
            self.put(t, self.bars[t])

    def put(self, t: int, bar: Candle) -> None:
        self.bars[t] = bar
        self.ring.put(candle.started(LAYOUTS[self.kind], row(self.kind, t, bar), t))

    def fill(self) -> None:
        """The ring is dropped and read again."""
        times = sorted(self.bars)[-SIZE:]
        floor = times[0] if len(times) == SIZE else ALWAYS
        self.ring = Ring(self.kind, self.rung)
        self.ring.size = SIZE
        self.ring.fill(table(self.kind, {t: self.bars[t] for t in times}), floor)

    def check(self) -> None:
        """Compare all that can be asked."""
        times = sorted(self.bars)
        inside = times[-SIZE:]
        here = {t: self.bars[t] for t in inside}
        assert len(self.ring) == len(inside)
        assert self.ring.times().tolist() == inside
        assert self.ring.newest == (inside[-1] if inside else None)
        assert columns(self.ring.view(self.ring.floor, END)) == expected(self.kind, here)
        assert all(t < self.ring.floor for t in times[:-SIZE])
        assert all(t >= self.ring.floor for t in inside)
        for start, end in ((0, 4), (3, 8), (5, 5), (9, 2)):
            start, end = start * self.rung, end * self.rung
            some = {t: bar for t, bar in here.items() if start <= t < end}
            assert columns(self.ring.view(start, end)) == expected(self.kind, some)
            visible = {t: bar for t, bar in some.items() if bar["open"] is not None}
            assert columns(self.ring.view(start, end).visible()) == expected(self.kind, visible)
        for seq in range(21):
            changed = [t for t in inside if self.bars[t]["rev"] > seq]
            assert self.ring.changed(seq) == changed
            born = [t for t in inside if self.bars[t]["born"] is not None and self.bars[t]["born"] <= seq]
            assert self.ring.newest_born_by(seq) == (born[-1] if born else None)
        for t in inside[-1:]:
            state = self.ring.state(t)
            assert state is not None
            again = candle.table(self.kind, 1, [state])
            assert algebra.rows(again) == [((1, t), {**self.bars[t], "whole": False})]
        assert sum(self.ring.state(t) is not None for t in inside) <= HOT[self.rung]


def steps(kind: str) -> Any:
    found = st.lists(algebra.events if kind in ("perp", "spot") else algebra.snapshots, min_size=1, max_size=2)
    how = st.sampled_from(["add", "add", "add", "add", "add", "put", "gone", "fill"])
    return st.lists(st.tuples(how, st.integers(0, ROOM - 1), found), max_size=20)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rung", [1, 60])
@given(st.data())
@settings(max_examples=40)
def test_a_ring_is_the_newest_bars_of_a_dict_whatever_happens_in_whatever_order(
    kind: str, rung: int, data: st.DataObject
) -> None:
    all_ = Everything(kind, rung)
    for seq, (how, number, found) in enumerate(data.draw(steps(kind)), 1):
        t = number * rung
        if how == "add":
            all_.add(t, happened(kind, found, seq))
        elif how == "fill":
            all_.fill()
        elif t in all_.bars:
            all_.put(t, happened(kind, [] if how == "gone" else found, seq))
        all_.check()


any_time = st.one_of(st.integers(0, 30), st.integers(0, 30), st.integers(-(2**40), 2**40)).map(lambda i: 60 * i)
any_seq = st.one_of(st.integers(1, 300), st.integers(1, 2**60))
any_amount = st.one_of(
    st.just(0),
    st.integers(0, 10**6).map(lambda m: m * 10**16),
    st.integers(0, 10**22),
    st.integers(-(10**37), 10**37),
)
any_float = st.one_of(
    st.none(),
    st.integers(1, 10**5).map(lambda m: m / 100),
    st.integers(1, 10**5).map(lambda m: m / 100),
    st.floats(-1e20, 1e20),
)
any_hashes = st.one_of(st.none(), st.sets(st.integers(1, 2**64 - 1), max_size=3))


@st.composite
def states(draw: st.DrawFn, kind: str) -> tuple[list[Any], dict[str, Any]]:
    """A state of values of any width, and what is shown of it; some are of buckets whose events were taken back."""
    layout, t, rev = LAYOUTS[kind], draw(any_time), draw(any_seq)
    state = candle.empty(kind, t, rev)
    values: dict[str, Any] = {"t": t, "rev": rev, "born": NEVER}
    gone = draw(st.integers(0, 5)) == 0
    if not gone:
        state[candle.BORN] = values["born"] = draw(st.integers(1, rev))
    for measure in MEASURES[kind]:
        at, name = layout.place[measure.name], measure.name
        match measure.rule:
            case Rule.SUM:
                state[at] = values[name] = 0 if gone else draw(any_amount)
            case Rule.COUNT:
                state[at] = values[name] = 0 if gone else draw(st.sampled_from([0, 1, 200, 10**6, 2**31, 2**40]))
            case Rule.DISTINCT:
                hashes = None if gone else draw(any_hashes)
                state[at] = None if hashes is None else Sketch(hashes)
                values[name] = len(hashes or ())
            case _:
                state[at] = number = None if gone else draw(any_float)
                values[name] = None if number is None else wire(number)
    values["volume on wires"] = wire(values["volume"] / 10**18)
    return state, values


@pytest.mark.parametrize("kind", ["perp", "index"])
@given(st.data())
@settings(max_examples=60)
def test_a_ring_holds_values_of_any_width_exactly(kind: str, data: st.DataObject) -> None:
    bars = Ring(kind, 60)
    bars.size = 2 * SIZE
    all_: dict[int, dict[str, Any]] = {}
    for state, values in data.draw(st.lists(states(kind), max_size=30)):
        if state[candle.T] >= bars.floor:
            all_[state[candle.T]] = values
        bars.put(state)
        expected_ = [all_[t] for t in sorted(all_)[-bars.size :]]
        assert columns(bars.view(bars.floor, END)) == expected_
        assert bars.times().tolist() == [bar["t"] for bar in expected_]
        middle = expected_[len(expected_) // 2]["t"]
        assert columns(bars.view(middle, END)) == [bar for bar in expected_ if bar["t"] >= middle]
        assert bars.changed(100) == [bar["t"] for bar in expected_ if bar["rev"] > 100]


def a_bar(seq: int) -> Candle:
    event = oracle.Event(market=1, ts=0, pos=seq << 24, price_type="mark", price=Decimal(seq))
    return happened("perp", [event], seq)


def test_bars_that_come_newest_first_do_not_pile_up() -> None:
    bars = Ring("perp", 60)
    for seq in range(1, 3 * bars.size):
        t = 60 * (10_000 - seq)
        assert bars.add(row("perp", t, a_bar(seq)), t)
        assert len(bars) <= bars.size
    assert bars.times().tolist() == [60 * t for t in range(10_000 - bars.size, 10_000)]
    assert bars.floor == 60 * (10_000 - bars.size)


def test_memory_grows_with_the_bars_and_stops_at_the_size() -> None:
    bars = Ring("perp", 300)
    sizes = []
    for seq in range(1, 4 * bars.size):
        bars.add(row("perp", 300 * seq, a_bar(seq)), 300 * seq)
        sizes.append(bars.nbytes())
    assert sizes[0] < sizes[30] < sizes[100] < sizes[bars.size]
    assert sizes[-1] == sizes[2 * bars.size]
    assert sizes[-1] < 1.2 * bars.size * sizes[bars.size] / (bars.size + bars.size // 16 + 16)


def test_what_left_the_ring_says_up_to_where_it_cannot_tell_what_changed() -> None:
    bars = Ring("perp", 60)
    bars.size = 3
    for seq, t in enumerate([0, 60, 120, 180, 0, 240], 1):
        bars.add(row("perp", t, a_bar(seq)), t)
    assert bars.times().tolist() == [120, 180, 240]
    assert bars.lost == 2
    bars.put(candle.started(LAYOUTS["perp"], row("perp", 120, a_bar(9)), 120))
    bars.add(row("perp", 300, a_bar(10)), 300)
    assert bars.lost == 9


@pytest.mark.parametrize("kind", KINDS)
@given(st.data())
@settings(max_examples=30)
def test_rows_and_tables_of_candles_are_two_forms_of_the_same(kind: str, data: st.DataObject) -> None:
    found = {60 * i: happened(kind, data.draw(algebra.histories[kind]), i + 1) for i in range(3)}
    states = candle.rows(table(kind, found))
    assert algebra.rows(candle.table(kind, 7, states)) == [((7, t), bar) for t, bar in found.items()]


@pytest.mark.parametrize("kind", KINDS)
@given(st.data())
@settings(max_examples=30)
def test_adding_rows_to_a_state_is_summing_their_table(kind: str, data: st.DataObject) -> None:
    found = [happened(kind, data.draw(algebra.histories[kind]), seq) for seq in (1, 2, 3)]
    first, *others = [row(kind, 60, bar) for bar in data.draw(st.permutations(found))]
    layout = LAYOUTS[kind]
    state = candle.started(layout, first, 60)
    for other in others:
        candle.absorb(layout, state, other)
    assert algebra.rows(candle.table(kind, 1, [state])) == [((1, 60), oracle.merge(found))]
    bar = candle.shown(layout, state, closed=True)
    whole = shown(kind, 60, oracle.merge(found))
    if whole["open"] is None:
        assert bar is None
    else:
        assert bar is not None
        assert (bar.time, bar.open, bar.high, bar.low, bar.close, bar.volume, bar.trades, bar.rev, bar.born) == tuple(
            whole[name]
            for name in ("t", "open", "high", "low", "close", "volume on wires", "trades_count", "rev", "born")
        )


@pytest.mark.parametrize("kind", KINDS)
@given(st.data(), st.sampled_from([120, 180, 3600, 86400]))
@settings(max_examples=30)
def test_bars_merged_into_longer_ones_are_those_that_partials_roll_up_to(
    kind: str, data: st.DataObject, length: int
) -> None:
    events = [replace(event, market=1) for event in data.draw(algebra.histories[kind])]
    minutes = oracle.fold(kind, events, lambda event: event.ts // 60_000_000 * 60, {1: algebra.SOURCES[1]})
    bars = table(kind, {t: bar for (_, t), bar in minutes.items()})
    longer = ring.grouped(ring.view(bars), bars["t"] // length * length)
    rolled = ring.view(fold.rolled(bars, lambda t: t // length * length))
    counted = {measure.name for measure in MEASURES[kind] if measure.rule is Rule.DISTINCT}
    kept = [{n: value for n, value in bar.items() if n not in counted} for bar in columns(rolled)]
    assert columns(longer) == kept


def test_an_empty_candle_shows_nothing_and_adds_nothing() -> None:
    layout = LAYOUTS["perp"]
    state = candle.empty("perp", 60, 5)
    assert candle.shown(layout, state, closed=False) is None
    candle.absorb(layout, state, row("perp", 60, a_bar(7)))
    assert algebra.rows(candle.table("perp", 1, [state])) == [((1, 60), a_bar(7))]


def test_joined_views_are_all_their_bars() -> None:
    parts = [ring.view(table("perp", {t: a_bar(t)})) for t in (1, 2, 3)]
    none = parts[0].take(slice(0, 0))
    assert columns(ring.joined([none, *parts, none])) == [bar for part in parts for bar in columns(part)]
    assert ring.joined([none, none]).n == 0
    assert parts[0].take(np.array([False])).n == 0


def test_a_ring_of_few_bars_takes_little_memory() -> None:
    tracemalloc.start()
    rings = []
    for _ in range(200):
        rings.append(Ring("perp", 60))
        rings[-1].put(candle.empty("perp", 60, 1))
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken / len(rings) < 1000
