"""Pure: the recent bars of one market at one stored resolution, complete from its floor on.

The newest few are whole states, to which anything can be added; older ones are compact columns of what they show. A
late event for one of those needs its state again: the ring says which, the market brings it.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from actors import candle
from actors.candle import BORN, LAYOUTS, REV, Row, State, T
from actors.column import Floats, Integers
from actors.fold import capped, totals
from actors.sketch import Sketch
from storage import decimals
from storage.events import Array
from storage.measures import MEASURES, Rule, distinct_count, wire, wired
from storage.partials import NEVER, Partials

ALWAYS = -(2**62)  # the floor of a ring that holds every bar its market ever had
SIZES = {1: 3600, 60: 1440, 300: 500, 900: 500, 3600: 500, 86400: 500}
HOT = {1: 4, 60: 2, 300: 2, 900: 2, 3600: 2, 86400: 2}  # an event may be some seconds late without costing a read


class Lazy(Mapping[str, Array]):
    """Columns by name, each made when it is first asked for: most readers want a few of many."""

    __slots__ = ("_made", "_make", "_names")

    def __init__(self, names: Collection[str], make: Callable[[str], Array]) -> None:
        self._names, self._make = names, make
        self._made: dict[str, Array] = {}

    def __getitem__(self, name: str) -> Array:
        found = self._made.get(name)
        if found is None:
            found = self._made[name] = self._make(name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class View:
    """Bars as columns, ascending in t: what a ring, the store or a merge of both shows."""

    __slots__ = ("_volumes", "columns", "kind", "n")

    def __init__(
        self, kind: str, n: int, columns: Mapping[str, Array], volumes: Callable[[], Array] | None = None
    ) -> None:
        """`volumes` says what the volumes are on wires, if not what `volume` comes to."""
        self.kind, self.n, self.columns = kind, n, columns
        self._volumes = volumes

    @property
    def volumes(self) -> Array:
        """The volume of each bar as wires show it."""
        return wired(decimals.floats(self.columns["volume"])) if self._volumes is None else self._volumes()

    def __getitem__(self, name: str) -> Array:
        return self.columns[name]

    def take(self, rows: "Array | slice") -> "View":
        """These bars."""
        columns = Lazy(self.columns, lambda name: self.columns[name][rows])
        return View(self.kind, len(columns["t"]), columns, lambda: self.volumes[rows])

    def visible(self) -> "View":
        """The bars in which a price was set: the others are on no wire."""
        some = ~np.isnan(self.columns["open"])
        return self if some.all() else self.take(some)


def _told(value: float | None) -> float:
    return math.nan if value is None else wire(value)


def _counted(hashes: Sketch | None) -> int:
    return 0 if hashes is None else hashes.count()


def _columns(kind: str) -> "dict[str, tuple[Rule | None, int, Callable[[Any], Any] | None]]":
    shown_ = {Rule.SUM: capped, Rule.COUNT: None, Rule.DISTINCT: _counted}
    found: dict[str, tuple[Rule | None, int, Callable[[Any], Any] | None]] = {
        "t": (None, T, None),
        "rev": (None, REV, None),
        "born": (None, BORN, None),
    }
    for measure in MEASURES[kind]:
        name, rule = measure.name, measure.rule
        found[name] = (rule, LAYOUTS[kind].place[name], shown_.get(rule, _told))
    return found


# By kind the columns of bars: how each merges, its place in a state, and what is shown of what is there.
COLUMNS = {kind: _columns(kind) for kind in MEASURES}
PLACES = {kind: [(place, show) for _, place, show in COLUMNS[kind].values()] for kind in MEASURES}
FLOATS = {Rule.FIRST, Rule.LAST, Rule.MIN, Rule.MAX}


def view(table: Partials) -> View:
    """Summed partials of one market as bars."""
    known = COLUMNS[table.kind]

    def column(name: str) -> Array:
        values, (rule, _, _) = table[name], known[name]
        if rule is Rule.DISTINCT:
            return np.array([0 if sketch is None else distinct_count(sketch) for sketch in values], np.int64)
        return wired(values) if rule in FLOATS else values

    return View(table.kind, table.n, Lazy(known, column))


def charted(kind: str, columns: Mapping[str, Array]) -> View:
    """Bars of which nothing is known but what charts show, as `candles.shown` has them."""

    def column(name: str) -> Array:
        return wired(columns[name]) if name in PRICES else columns[name]

    names = [name for name in columns if name != "volume"]  # sums of which need it exactly
    return View(kind, len(columns["t"]), Lazy(names, column), lambda: wired(columns["volume"]))


PRICES = ("open", "high", "low", "close")


def shown(kind: str, states: Sequence[State]) -> View:
    """States as bars."""
    known = COLUMNS[kind]

    def column(name: str) -> Array:
        rule, place, show = known[name]
        values = [state[place] if show is None else show(state[place]) for state in states]
        if rule is Rule.SUM:
            return decimals.from_ints(values)
        return np.array(values, np.float64 if rule in FLOATS else np.int64)

    return View(kind, len(states), Lazy(known, column))


def joined(views: Sequence[View]) -> View:
    """Bars one after the other."""
    views = [some for some in views if some.n] or list(views[:1])
    if len(views) == 1:
        return views[0]
    columns = Lazy(views[0].columns, lambda name: np.concatenate([some[name] for some in views]))
    n = sum(some.n for some in views)
    return View(views[0].kind, n, columns, lambda: np.concatenate([some.volumes for some in views]))


def unlike(one: View, other: View) -> list[tuple[int, str, str | None, str | None]]:
    """(t, measure, what it is in `one`, in `other`) wherever bars differ; `bar` where only one of the two has it."""
    both, mine, theirs = np.intersect1d(one["t"], other["t"], assume_unique=True, return_indices=True)
    found: list[tuple[int, str, str | None, str | None]] = []
    for some, only in ((one, 0), (other, 1)):
        # What is left of a bar that is gone need not be in memory.
        alone = ~np.isin(some["t"], both) & (~np.isnan(some["open"]) | (some["trades_count"] > 0))
        for row in np.flatnonzero(alone).tolist():
            text = ", ".join(str(some[name][row]) for name in ("open", "high", "low", "close", "trades_count"))
            found.append((int(some["t"][row]), "bar", None if only else text, text if only else None))
    for name in one.columns:
        left, right = one[name][mine], other[name][theirs]
        odd = (left != right) & ~(np.isnan(left) & np.isnan(right)) if left.dtype == np.float64 else left != right
        for row in np.flatnonzero(odd.any(axis=1) if odd.ndim == 2 else odd).tolist():
            found.append((int(both[row]), name, str(left[row]), str(right[row])))
    return found


class Columns(dict[str, Integers | Floats]):
    """The columns of a ring; those that its own bookkeeping reads are attributes too."""

    def __init__(self, kind: str) -> None:
        self.t, self.rev, self.born, self.volume = Integers(), Integers(), Integers(), Integers(wide=True)
        named = {"t": self.t, "rev": self.rev, "born": self.born, "volume": self.volume}
        super().__init__(
            (name, named.get(name) or (Floats() if rule in FLOATS else Integers(wide=rule is Rule.SUM)))
            for name, (rule, _, _) in COLUMNS[kind].items()
        )


# What rings have whose few bars are all whole states: most markets never have more at most resolutions.
EMPTY = {kind: Columns(kind) for kind in MEASURES}


class Ring:
    """Bars with t ≥ `floor`, at most about `SIZES[rung]` of them."""

    def __init__(self, kind: str, rung: int, floor: int = ALWAYS) -> None:
        self.kind, self.rung, self.floor = kind, rung, floor
        self.size = SIZES[rung]
        self._layout = LAYOUTS[kind]
        self._hot: list[State] = []  # ascending in t
        self._low = self._high = self._room = 0  # the rows in use, and how many there may be
        self._lay_out(EMPTY[kind])
        self._volumes: Array | None = None  # of the rows in use, where they are dear; until a row changes
        self.lost = -1  # the newest seq that changed a bar which is not here any more

    def _lay_out(self, columns: Columns) -> None:
        self._columns = columns
        self._t, self._rev, self._born, self._volume = columns.t, columns.rev, columns.born, columns.volume

    def __len__(self) -> int:
        return self._high - self._low + len(self._hot)

    @property
    def newest(self) -> int | None:
        """The newest bar's t, shown or not."""
        if self._hot:
            return int(self._hot[-1][T])
        return self._t.at(self._high - 1) if self._high > self._low else None

    def add(self, row: Row, t: int) -> bool:
        """Add what a row says to the bar at t; False where the bar's state must be brought first (`put`)."""
        hot = self._hot
        if hot and t == hot[-1][T]:
            candle.absorb(self._layout, hot[-1], row)
            return True
        if not hot or t > hot[-1][T]:
            if not hot and self._high > self._low and t <= self._t.at(self._high - 1):
                return False
            hot.append(candle.started(self._layout, row, t))
            self._grown()
            return True
        if t < self.floor:
            return True  # the store alone answers for it
        if t < hot[0][T]:
            at = self._at(t)
            if at < self._high and self._t.at(at) == t:
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
        if at < self._high and self._t.at(at) == t:
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
        self._lay_out(Columns(self.kind))
        self._low, self._high, self._room = 0, old.n, old.n + 16
        for name, column in self._columns.items():
            column.fill(shown_[name], self._room)
        self._volumes = None
        self._evict()

    def state(self, t: int) -> State | None:
        """The whole state of the bar at t, if it is one of the newest few."""
        i = bisect_left(self._hot, t, key=_time)
        return self._hot[i] if i < len(self._hot) and self._hot[i][T] == t else None

    def view(self, start: int, end: int) -> View:
        """The bars with start ≤ t < end, shown or not; to be read before the ring changes."""
        low, high = self._at(start), self._at(max(start, end))
        columns = Lazy(self._columns, lambda name: self._columns[name].read(low, high))
        old = View(self.kind, high - low, columns, lambda: self._shown_volumes(low, high))
        hot = [state for state in self._hot if start <= state[T] < end]
        return joined([old, shown(self.kind, hot)]) if hot else old

    def _shown_volumes(self, low: int, high: int) -> Array:
        found = self._volume.wired(low, high)
        if found is not None:
            return found
        if self._volumes is None:
            self._volumes = wired(decimals.floats(self._volume.read(self._low, self._high)))
        return self._volumes[low - self._low : high - self._low]

    def times(self) -> Array:
        """The t of every bar, ascending."""
        old = self._t.read(self._low, self._high)
        return np.concatenate([old, np.array([state[T] for state in self._hot], np.int64)])

    def changed(self, since: int) -> list[int]:
        """The t of bars that changed after this seq, ascending."""
        old: list[int] = self.times()[: self._high - self._low][self._rev.read(self._low, self._high) > since].tolist()
        return old + [state[T] for state in self._hot if state[REV] > since]

    def newest_born_by(self, seq: int) -> int | None:
        """The t of the newest shown bar that existed at this seq."""
        for state in reversed(self._hot):
            if state[BORN] <= seq and state[self._layout.open] is not None:
                return int(state[T])
        born = self._born.read(self._low, self._high)
        rows = np.flatnonzero((born <= seq) & (born < NEVER))
        return self._t.at(self._low + int(rows[-1])) if len(rows) else None

    def nbytes(self) -> int:
        """Memory of the columns."""
        volumes = 0 if self._volumes is None else self._volumes.nbytes
        return volumes + sum(column.nbytes for column in self._columns.values())

    def _at(self, t: int) -> int:
        """The row of the first bar from t on."""
        if t <= self.floor:
            return self._low
        if self._hot and t >= self._hot[0][T]:
            return self._high
        return self._low + int(np.searchsorted(self._t.read(self._low, self._high), t))

    def _grown(self) -> None:
        """One whole state more: the oldest of too many becomes columns, the oldest bar of too many goes."""
        if len(self._hot) > HOT[self.rung]:
            self._insert(self._high, self._hot.pop(0))
        self._evict()

    def _evict(self) -> None:
        over = len(self) - self.size
        if over > 0 and self._high - self._low >= over:
            self._volumes = None
            self.lost = max(self.lost, *(self._rev.at(row) for row in range(self._low, self._low + over)))
            self._low += over
            self.floor = self._t.at(self._low) if self._high > self._low else int(self._hot[0][T])

    def _insert(self, at: int, state: State) -> None:
        if self._columns is EMPTY[self.kind]:
            self._lay_out(Columns(self.kind))
        at -= self._low
        self._make_room()
        at += self._low
        if at < self._high:
            for column in self._columns.values():
                column.shift(at, self._high)
        self._high += 1
        self._write(at, state)
        self._evict()

    def _make_room(self) -> None:
        """One free row behind the last."""
        room = self._room
        if self._high < room:
            return
        used = self._high - self._low
        if self._low < max(16, room // 32):
            room = min(room + room // 4 + 16, max(self.size + self.size // 32 + 16, used + 16))
        for column in self._columns.values():
            column.move(self._low, self._high, room)
        self._low, self._high, self._room = 0, used, room

    def _write(self, at: int, state: State) -> None:
        self._volumes = None
        low, high = self._low, self._high
        for column, (place, show) in zip(self._columns.values(), PLACES[self.kind], strict=True):
            value = state[place]
            column.write(at, value if show is None else show(value), low, high)


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
