"""Pure: the recent bars of one market at one stored resolution, complete from its floor on.

The newest few are whole states, to which anything can be added; older ones are compact columns of what they show. A
late event for one of those needs its state again: the ring says which, the market brings it.
"""

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

from actors import candle
from actors.candle import BORN, LAYOUTS, REV, Row, State, T
from actors.fold import capped, totals
from storage import decimals
from storage.events import Array
from storage.measures import MEASURES, Rule, distinct_count, wire, wired
from storage.partials import NEVER, Partials

ALWAYS = -(2**62)  # the floor of a ring that holds every bar its market ever had
SIZES = {1: 3600, 60: 1440, 300: 500, 900: 500, 3600: 500, 86400: 500}
HOT = {1: 4, 60: 2, 300: 2, 900: 2, 3600: 2, 86400: 2}  # an event may be some seconds late without costing a read


class View:
    """Bars as columns, ascending in t: what a ring, the store or a merge of both shows."""

    __slots__ = ("_volumes", "columns", "kind", "n")

    def __init__(self, kind: str, n: int, columns: dict[str, Array], volumes: Array | None = None) -> None:
        self.kind, self.n, self.columns = kind, n, columns
        self._volumes = volumes

    @property
    def volumes(self) -> Array:
        """The volume of each bar as wires show it."""
        if self._volumes is None:
            self._volumes = wired(decimals.floats(self.columns["volume"]))
        return self._volumes

    def __getitem__(self, name: str) -> Array:
        return self.columns[name]

    def take(self, rows: "Array | slice") -> "View":
        """These bars."""
        columns = {name: column[rows] for name, column in self.columns.items()}
        return View(self.kind, len(columns["t"]), columns, None if self._volumes is None else self._volumes[rows])

    def visible(self) -> "View":
        """The bars in which a price was set: the others are on no wire."""
        some = ~np.isnan(self.columns["open"])
        return self if some.all() else self.take(some)


def _types(kind: str) -> dict[str, tuple[type, int]]:
    types: dict[str, tuple[type, int]] = {"t": (np.int64, 1), "rev": (np.int64, 1), "born": (np.int64, 1)}
    for measure in MEASURES[kind]:
        if measure.rule is Rule.SUM:
            types[measure.name] = (np.int64, 2)
        elif measure.rule in (Rule.COUNT, Rule.DISTINCT):
            types[measure.name] = (np.int32, 1)
        else:
            types[measure.name] = (np.float64, 1)
    return types


TYPES = {kind: _types(kind) for kind in MEASURES}


def view(table: Partials) -> View:
    """Summed partials of one market as bars."""
    columns: dict[str, Array] = {"t": table["t"], "rev": table["rev"], "born": table["born"]}
    for measure in MEASURES[table.kind]:
        column = table[measure.name]
        if measure.rule is Rule.DISTINCT:
            column = np.array([0 if s is None else distinct_count(s) for s in column], np.int32)
        elif measure.rule is Rule.COUNT:
            column = column.astype(np.int32)
        elif measure.rule is not Rule.SUM:
            column = wired(column)
        columns[measure.name] = column
    return View(table.kind, table.n, columns)


def shown(kind: str, states: Sequence[Row]) -> View:
    """States as bars."""
    layout = LAYOUTS[kind]
    columns: dict[str, Array] = {}
    for name, (dtype, width) in TYPES[kind].items():
        if width == 2:
            at = layout.place[name]
            columns[name] = decimals.from_ints([capped(state[at]) for state in states])
        else:
            columns[name] = np.array([_value(layout, name, state) for state in states], dtype)
    return View(kind, len(states), columns)


def _value(layout: candle.Layout, name: str, state: Row) -> object:
    if name == "t":
        return state[T]
    if name == "rev":
        return state[REV]
    if name == "born":
        return state[BORN]
    value = state[layout.place[name]]
    if isinstance(value, float):
        return wire(value)
    if layout.place[name] in layout.sets:
        return candle.distinct(value)
    return np.nan if value is None else value


def joined(views: Sequence[View]) -> View:
    """Bars one after the other."""
    views = [some for some in views if some.n] or list(views[:1])
    if len(views) == 1:
        return views[0]
    columns = {name: np.concatenate([some.columns[name] for some in views]) for name in views[0].columns}
    volumes = np.concatenate([some.volumes for some in views])
    return View(views[0].kind, sum(some.n for some in views), columns, volumes)


class Ring:
    """Bars with t ≥ `floor`, at most about `SIZES[rung]` of them."""

    def __init__(self, kind: str, rung: int, floor: int = ALWAYS) -> None:
        self.kind, self.rung, self.floor = kind, rung, floor
        self.size = SIZES[rung]
        self._layout = LAYOUTS[kind]
        self._hot: list[State] = []  # ascending in t
        self._low = self._high = 0  # the rows in use
        self._volumes: Array | None = None
        self._columns = NO_COLUMNS[kind]
        self.lost = -1  # the newest seq that changed a bar which is not here any more

    def __len__(self) -> int:
        return self._high - self._low + len(self._hot)

    @property
    def newest(self) -> int | None:
        """The newest bar's t, shown or not."""
        if self._hot:
            return int(self._hot[-1][T])
        return int(self._columns["t"][self._high - 1]) if self._high > self._low else None

    def add(self, row: Row, t: int) -> bool:
        """Add what a row says to the bar at t; False where the bar's state must be brought first (`put`)."""
        hot = self._hot
        if hot and t == hot[-1][T]:
            candle.absorb(self._layout, hot[-1], row)
            return True
        if not hot or t > hot[-1][T]:
            if not hot and self._high > self._low and t <= self._columns["t"][self._high - 1]:
                return False
            hot.append(candle.started(self._layout, row, t))
            self._grown()
            return True
        if t < self.floor:
            return True  # the store alone answers for it
        if t < hot[0][T]:
            at = self._at(t)
            if at < self._high and self._columns["t"][at] == t:
                return False
            self._insert(at, candle.started(self._layout, row, t))
            return True
        i = bisect_left(hot, t, key=_time)
        if hot[i][T] == t:
            candle.absorb(self._layout, hot[i], row)
        else:
            hot.insert(i, candle.started(self._layout, row, t))
            self._grown()
        return True

    def put(self, state: State) -> None:
        """Replace the bar at the state's t, or put it where it belongs."""
        t = state[T]
        if t < self.floor:
            return
        i = bisect_left(self._hot, t, key=_time)
        if i < len(self._hot) and self._hot[i][T] == t:
            self._hot[i] = state
            return
        at = self._at(t)
        if at < self._high and self._columns["t"][at] == t:
            self._write(at, state)
        elif i or (self._hot and t > self._hot[0][T]) or (not self._hot and at == self._high):
            self._hot.insert(i, state)
            self._grown()
        else:
            self._insert(at, state)

    def fill(self, bars: Partials, floor: int) -> None:
        """Take the newest summed partials of the market, complete from `floor` on, in place of what is here."""
        self.floor = floor
        hot = min(HOT[self.rung], bars.n)
        old = bars.take(slice(0, bars.n - hot))
        self._hot = [
            candle.started(self._layout, row, row[T]) for row in candle.rows(bars.take(slice(bars.n - hot, None)))
        ]
        shown_ = view(old)
        room = max(16, old.n + 16)
        self._columns = {name: _column(room, *shape) for name, shape in TYPES[self.kind].items()}
        for name, column in self._columns.items():
            column[: old.n] = shown_[name]
        self._low, self._high = 0, old.n
        self._volumes = None
        self._evict()

    def state(self, t: int) -> State | None:
        """The whole state of the bar at t, if it is one of the newest few."""
        i = bisect_left(self._hot, t, key=_time)
        return self._hot[i] if i < len(self._hot) and self._hot[i][T] == t else None

    def view(self, start: int, end: int) -> View:
        """The bars with start ≤ t < end, shown or not."""
        low, high = self._at(start), self._at(end)
        columns = {name: column[low:high] for name, column in self._columns.items()}
        parts = [View(self.kind, high - low, columns, self._shown_volumes()[low:high])]
        hot = [state for state in self._hot if start <= state[T] < end]
        if hot:
            parts.append(shown(self.kind, hot))
        return joined(parts)

    def _shown_volumes(self) -> Array:
        """By row of the columns; kept until a row changes."""
        if self._volumes is None:
            self._volumes = wired(decimals.floats(self._columns["volume"]))
        return self._volumes

    def times(self) -> Array:
        """The t of every bar, ascending."""
        old = self._columns["t"][self._low : self._high]
        return np.concatenate([old, np.array([state[T] for state in self._hot], np.int64)])

    def changed(self, since: int) -> list[int]:
        """The t of bars that changed after this seq, ascending."""
        rows = np.flatnonzero(self._columns["rev"][self._low : self._high] > since) + self._low
        old: list[int] = self._columns["t"][rows].tolist()
        return old + [state[T] for state in self._hot if state[REV] > since]

    def newest_born_by(self, seq: int) -> int | None:
        """The t of the newest shown bar that existed at this seq."""
        for state in reversed(self._hot):
            if state[BORN] <= seq and state[self._layout.open] is not None:
                return int(state[T])
        born = self._columns["born"][self._low : self._high]
        rows = np.flatnonzero((born <= seq) & (born < NEVER))
        return int(self._columns["t"][self._low + rows[-1]]) if len(rows) else None

    def nbytes(self) -> int:
        """Memory of the columns."""
        return sum(column.nbytes for column in self._columns.values())

    def _at(self, t: int) -> int:
        return self._low + int(np.searchsorted(self._columns["t"][self._low : self._high], t))

    def _grown(self) -> None:
        """One whole state more: the oldest of too many becomes columns, the oldest bar of too many goes."""
        if len(self._hot) > HOT[self.rung]:
            self._insert(self._high, self._hot.pop(0))
        self._evict()

    def _evict(self) -> None:
        over = len(self) - self.size
        if over > 0 and self._high - self._low >= over:
            self.lost = max(self.lost, int(self._columns["rev"][self._low : self._low + over].max()))
            self._low += over
            self.floor = int(self._columns["t"][self._low]) if self._high > self._low else int(self._hot[0][T])

    def _insert(self, at: int, state: State) -> None:
        at -= self._low
        self._make_room()
        at += self._low
        if at < self._high:
            for column in self._columns.values():
                column[at + 1 : self._high + 1] = column[at : self._high]
        self._high += 1
        self._write(at, state)
        self._evict()

    def _make_room(self) -> None:
        """One free row behind the last."""
        room = len(self._columns["t"])
        if self._high < room:
            return
        used = self._high - self._low
        if self._low >= max(16, room // 16):
            for column in self._columns.values():
                column[:used] = column[self._low : self._high].copy()
        else:
            room = min(max(room * 2, 16), max(self.size + self.size // 16 + 16, used + 16))
            columns = {name: _column(room, *shape) for name, shape in TYPES[self.kind].items()}
            for name, grown in columns.items():
                grown[:used] = self._columns[name][self._low : self._high]
            self._columns = columns
        self._low, self._high = 0, used

    def _write(self, at: int, state: State) -> None:
        layout = self._layout
        self._volumes = None
        for name, column in self._columns.items():
            if column.ndim == 2:
                units = capped(state[layout.place[name]])
                low = units & 0xFFFFFFFFFFFFFFFF
                column[at, 0] = low - (1 << 64) if low >> 63 else low
                column[at, 1] = units >> 64
            else:
                column[at] = _value(layout, name, state)


def _column(room: int, dtype: type, width: int) -> Array:
    return np.zeros((room, 2), dtype) if width == 2 else np.zeros(room, dtype)


NO_COLUMNS = {kind: {name: _column(0, *shape) for name, shape in TYPES[kind].items()} for kind in TYPES}


def _time(state: State) -> int:
    return int(state[T])


def grouped(bars: View, labels: Array) -> View:
    """Bars of a stored resolution merged into longer ones; `labels` gives each bar's bucket, ascending."""
    if not bars.n:
        return bars
    starts = np.flatnonzero(np.append(True, labels[1:] != labels[:-1]))
    ends = np.append(starts[1:], bars.n)
    columns: dict[str, Array] = {"t": labels[starts]}
    columns["rev"] = np.maximum.reduceat(bars["rev"], starts)
    columns["born"] = np.minimum.reduceat(bars["born"], starts)
    for measure in MEASURES[bars.kind]:
        values = bars[measure.name]
        match measure.rule:
            case Rule.FIRST | Rule.LAST:
                columns[measure.name] = _end(values, starts, ends, measure.rule is Rule.FIRST)
            case Rule.MIN:
                columns[measure.name] = np.fmin.reduceat(values, starts)
            case Rule.MAX:
                columns[measure.name] = np.fmax.reduceat(values, starts)
            case Rule.SUM:
                columns[measure.name] = totals(values, starts)
            case Rule.COUNT:
                columns[measure.name] = np.add.reduceat(values, starts)
    return View(bars.kind, len(starts), columns)


def _end(values: Array, starts: Array, ends: Array, leading: bool) -> Array:
    said = np.append(np.flatnonzero(~np.isnan(values)), len(values))
    if leading:
        at = said[np.searchsorted(said, starts)]
        found = at < ends
    else:
        before = np.searchsorted(said, ends) - 1
        at = said[np.maximum(before, 0)]
        found = (before >= 0) & (at >= starts)
    out = np.full(len(starts), np.nan)
    out[found] = values[at[found]]
    return out
