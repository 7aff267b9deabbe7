"""Pure: one candle in memory, as a list of its measures, with all that adding to it needs.

A state is `[t, rev, born, *measures]`: a first or last value takes two places (the value or None, its order key),
every other measure one (a sum is an integer number of 1e-18, distinct a `Sketch` or None). A row is a state that
nobody may change, in which distinct may be any hashes.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from actors.bars import Bar
from actors.fold import capped
from actors.sketch import Sketch, smallest
from storage import decimals
from storage.events import Array
from storage.measures import KEY, MEASURES, Rule, wire
from storage.partials import NEVER, Partials

State = list[Any]
Row = Sequence[Any]
T, REV, BORN = 0, 1, 2


class Layout:
    """Where each measure of a kind lies in a state."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.place: dict[str, int] = {}
        self.firsts: list[int] = []
        self.lasts: list[int] = []
        self.lows: list[int] = []
        self.highs: list[int] = []
        self.adds: list[int] = []
        self.sums: list[int] = []
        self.sets: list[int] = []
        at = 3
        for measure in MEASURES[kind]:
            self.place[measure.name] = at
            match measure.rule:
                case Rule.FIRST:
                    self.firsts.append(at)
                case Rule.LAST:
                    self.lasts.append(at)
                case Rule.MIN:
                    self.lows.append(at)
                case Rule.MAX:
                    self.highs.append(at)
                case Rule.SUM:
                    self.adds.append(at)
                    self.sums.append(at)
                case Rule.COUNT:
                    self.adds.append(at)
                case Rule.DISTINCT:
                    self.sets.append(at)
            at += 2 if measure.rule in (Rule.FIRST, Rule.LAST) else 1
        self.width = at
        self.open, self.high, self.low, self.close = (self.place[n] for n in ("open", "high", "low", "close"))
        self.volume, self.trades = self.place["volume"], self.place["trades_count"]


LAYOUTS = {kind: Layout(kind) for kind in MEASURES}


def started(layout: Layout, row: Row, t: int) -> State:
    """A new candle at t that holds what one row adds."""
    state = list(row)
    state[T] = t
    for i in layout.sets:
        if state[i] is not None:
            state[i] = Sketch(state[i])
    return state


def absorb(layout: Layout, state: State, row: Row) -> None:
    """state ⊕= row."""
    if row[REV] > state[REV]:
        state[REV] = row[REV]
    if row[BORN] < state[BORN]:
        state[BORN] = row[BORN]
    for i in layout.firsts:
        if row[i] is not None and (state[i] is None or row[i + 1] < state[i + 1]):
            state[i], state[i + 1] = row[i], row[i + 1]
    for i in layout.lasts:
        if row[i] is not None and (state[i] is None or row[i + 1] > state[i + 1]):
            state[i], state[i + 1] = row[i], row[i + 1]
    for i in layout.highs:
        value = row[i]
        if value is not None and (state[i] is None or value > state[i]):
            state[i] = value
    for i in layout.lows:
        value = row[i]
        if value is not None and (state[i] is None or value < state[i]):
            state[i] = value
    for i in layout.adds:
        state[i] += row[i]
    for i in layout.sets:
        _unite(state, i, row[i])


def _unite(state: State, i: int, hashes: Iterable[int] | None) -> None:
    if hashes is None:
        return
    if state[i] is None:
        state[i] = Sketch(hashes)
    else:
        state[i].add(hashes)


def amount(units: int) -> float:
    """A sum as the float nearest to it."""
    return float(capped(units) / decimals.ONE)


def shown(layout: Layout, state: Row, closed: bool) -> Bar | None:
    """The candle as wires show it; None where no price was set in it."""
    if state[layout.open] is None:
        return None
    return Bar(
        state[T],
        wire(state[layout.open]),
        wire(state[layout.high]),
        wire(state[layout.low]),
        wire(state[layout.close]),
        wire(amount(state[layout.volume])),
        state[layout.trades],
        closed,
        state[REV],
        state[BORN],
    )


def rows(table: Partials) -> list[tuple[Any, ...]]:
    """The rows of partials as states that nobody may change."""
    columns: list[Iterable[Any]] = [table["t"].tolist(), table["rev"].tolist(), table["born"].tolist()]
    for measure in MEASURES[table.kind]:
        name = measure.name
        match measure.rule:
            case Rule.FIRST | Rule.LAST:
                columns.append(_said(table[name]) if name in table else [None] * table.n)
                columns.append(_keys(table, name))
            case Rule.MIN | Rule.MAX:
                columns.append(_said(table[name]) if name in table else [None] * table.n)
            case Rule.SUM:
                columns.append(decimals.ints(table[name]) if name in table else [0] * table.n)
            case Rule.COUNT:
                columns.append(table[name].tolist() if name in table else [0] * table.n)
            case Rule.DISTINCT:
                columns.append([None if s is None else s.tolist() for s in table[name]])
    return list(zip(*columns, strict=True))


def _said(values: Array) -> list[float | None]:
    found: list[float | None] = values.tolist()
    if np.isnan(values).any():
        return [None if value != value else value for value in found]
    return found


def _keys(table: Partials, name: str) -> list[tuple[Any, ...]]:
    parts: list[list[Any]] = []
    for part in KEY:
        column = f"{name}_{part}"
        parts.append(table[column].tolist() if column in table else ["" if part == "tid" else -1] * table.n)
    return list(zip(*parts, strict=True))


def table(kind: str, market: int, states: Sequence[Row]) -> Partials:
    """The inverse of `rows`, for one market."""
    n = len(states)
    columns: dict[str, Array] = {"market": np.full(n, market, np.int32)}
    layout = LAYOUTS[kind]
    for name, at in (("t", T), ("rev", REV), ("born", BORN)):
        columns[name] = np.array([state[at] for state in states], np.int64)
    for measure in MEASURES[kind]:
        at, name = layout.place[measure.name], measure.name
        found = [state[at] for state in states]
        match measure.rule:
            case Rule.FIRST | Rule.LAST:
                columns[name] = np.array([np.nan if v is None else v for v in found])
                for i, part in enumerate(KEY):
                    values = [state[at + 1][i] for state in states]
                    columns[f"{name}_{part}"] = np.array(values, object if part == "tid" else np.int64)
            case Rule.MIN | Rule.MAX:
                columns[name] = np.array([np.nan if v is None else v for v in found])
            case Rule.SUM:
                columns[name] = decimals.from_ints([capped(units) for units in found])
            case Rule.COUNT:
                columns[name] = np.array(found, np.int64)
            case Rule.DISTINCT:
                sketches = np.full(n, None, object)
                for i, hashes in enumerate(found):
                    if hashes is not None:
                        sketches[i] = smallest(hashes)
                columns[name] = sketches
    return Partials(kind, n, columns)


def empty(kind: str, t: int, rev: int) -> State:
    """A candle in which nothing happened."""
    layout = LAYOUTS[kind]
    state: State = [None] * layout.width
    state[T], state[REV], state[BORN] = t, rev, NEVER
    for i in (*layout.firsts, *layout.lasts):
        state[i + 1] = (-1, -1, -1, "", -1)
    for i in layout.adds:
        state[i] = 0
    return state
