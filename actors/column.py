"""Columns of numbers in as little memory as their values need; what is read of one has its full width and is exact.

A column knows nothing of which of its rows are in use: `low` and `high` say it, and the caller counts them.
"""

import math
from collections.abc import Sequence

import numpy as np

from storage import decimals
from storage.events import Array

# A unit has at most these factors, so that it stays below 2**63: the decimals of an amount, twos (a product of floats
# ends in many), and some of a time.
LARGEST_UNIT = 8 * decimals.ONE
_LOW_WORD = 0xFFFFFFFFFFFFFFFF
_EXACT = 2**53  # a float holds each integer up to here
_WIRED = 10**15  # a decimal of fewer digits is what wires show of it

# (bits, dtype of the one plane or the low one, dtype of the high plane)
_SHAPES: tuple[tuple[int, type | None, type | None], ...] = (
    (0, None, None),
    (8, np.int8, None),
    (16, np.int16, None),
    (32, np.int32, None),
    (64, np.int64, None),
    (80, np.uint64, np.int16),
    (96, np.uint64, np.int32),
    (128, np.uint64, np.int64),
)


class Integers:
    """Integers within 128 bits: unit × (base + m), with all m in the narrowest shape; equal ones take no memory.

    Read as int64[n], or as int64[n, 2] (the low word first) where the column is `wide`.
    """

    __slots__ = ("_base", "_high", "_least", "_low", "_most", "_room", "_unit", "_wide", "bits")

    def __init__(self, wide: bool = False) -> None:
        self._wide = wide
        self._room = 0
        self.bits = 0  # of a row
        self._unit, self._base = 1, 0
        self._least, self._most = 0, -1  # of m; nothing fits an empty column
        self._low: Array | None = None
        self._high: Array | None = None

    @property
    def nbytes(self) -> int:
        """Memory of the rows."""
        return sum(plane.nbytes for plane in (self._low, self._high) if plane is not None)

    def fill(self, values: Array, room: int) -> None:
        """These rows in place of what is here, from 0 on, with room for so many."""
        self._room = room
        self._fit(decimals.ints(values) if self._wide else values.tolist(), 0)

    def write(self, at: int, value: int, low: int, high: int) -> None:
        """Set one row."""
        number, rest = divmod(value, self._unit)
        m = number - self._base
        if rest or not self._least <= m <= self._most:
            values = self.values(low, high)
            values[at - low] = value
            self._fit(values, low)
        elif self._high is not None:
            assert self._low is not None
            self._low[at] = m & _LOW_WORD
            self._high[at] = m >> 64
        elif self._low is not None:
            self._low[at] = m

    def shift(self, at: int, high: int) -> None:
        """Move the rows from `at` on by one, for one more."""
        for plane in (self._low, self._high):
            if plane is not None:
                plane[at + 1 : high + 1] = plane[at:high]

    def move(self, low: int, high: int, room: int) -> None:
        """Lay the rows in use to the front, with room for so many."""
        if self._low is not None:
            self._low = moved(self._low, low, high, room)
        if self._high is not None:
            self._high = moved(self._high, low, high, room)
        self._room = room

    def at(self, row: int) -> int:
        """One row."""
        m = 0
        if self._high is not None:
            m = int(self._high[row]) << 64
        if self._low is not None:
            m += int(self._low[row])
        return self._unit * (self._base + m)

    def values(self, low: int, high: int) -> list[int]:
        """These rows as Python integers."""
        if self._wide:
            return decimals.ints(self.read(low, high))
        found: list[int] = self.read(low, high).tolist()
        return found

    def read(self, low: int, high: int) -> Array:
        """These rows at their full width."""
        if self._wide:
            return self._read_wide(low, high)
        if self._low is None:
            return np.full(high - low, self._unit * self._base, np.int64)
        assert self._high is None
        out = self._low[low:high].astype(np.int64)
        if self._base:
            out += self._base
        if self._unit > 1:
            out *= self._unit
        return out

    def wired(self, low: int, high: int) -> Array | None:
        """These amounts as wires show them; None where that takes more than one division."""
        if self._high is not None:
            return None
        places = decimals.DECIMALS
        factor = self._unit
        while places and factor % 10 == 0:
            places, factor = places - 1, factor // 10
        if factor * (abs(self._base) + max(-self._least, self._most)) >= _WIRED:
            return None
        if self._low is None:
            return np.full(high - low, self._base * factor / 10**places)
        return (self._low[low:high].astype(np.int64) + self._base) * factor / 10.0**places

    def _read_wide(self, low: int, high: int) -> Array:
        """unit × (base + m) modulo 2**128, which is exact: every value fits."""
        out = np.zeros((high - low, 2), np.int64)
        words = out.view(np.uint64)
        if self._low is not None:
            m = self._low[low:high]
            out[:, 0] = m.view(np.int64) if m.dtype == np.uint64 else m
            out[:, 1] = out[:, 0] >> 63 if self._high is None else self._high[low:high]
        if self._base:
            base = np.uint64(self._base & _LOW_WORD)
            words[:, 0] += base
            words[:, 1] += np.uint64(self._base >> 64 & _LOW_WORD) + (words[:, 0] < base)
        if self._unit > 1:
            unit = np.uint64(self._unit)
            lowest, carried = decimals.multiplied(words[:, 0], unit)
            words[:, 1] *= unit
            words[:, 1] += carried
            words[:, 0] = lowest
        return out

    def _fit(self, values: Sequence[int], low: int) -> None:
        """Find the narrowest shape for these rows, and lay them into it from `low` on.

        Half of a shape's range is kept free, so that a column whose values grow is not fitted again for each.
        """
        self._unit = math.gcd(LARGEST_UNIT, *values)
        numbers = [value // self._unit for value in values] if self._unit > 1 else values
        least, most = min(numbers, default=0), max(numbers, default=0)
        shapes = _SHAPES if self._wide else _SHAPES[:5]
        self.bits, first, second = next((shape for shape in shapes if 2 * (most - least) < 1 << shape[0]), shapes[-1])
        bits = self.bits
        self._base = (least + most) // 2 if 2 * (most - least) < 1 << bits else 0
        self._least, self._most = (-(1 << bits - 1), (1 << bits - 1) - 1) if bits else (0, 0)
        self._low = None if first is None else np.empty(self._room, first)
        self._high = None if second is None else np.empty(self._room, second)
        if self._low is None:
            if not len(values):
                self._most = -1
            return
        rows = slice(low, low + len(values))
        base = self._base
        if self._high is None:
            self._low[rows] = [number - base for number in numbers]
        else:
            self._low[rows] = [number - base & _LOW_WORD for number in numbers]
            self._high[rows] = [number - base >> 64 for number in numbers]


class Floats:
    """Floats, NaN too: integers over a power of ten where 32 bits hold those, else as they are; equal ones as one."""

    __slots__ = ("_plain", "_power", "_room", "_same", "_whole")

    def __init__(self) -> None:
        self._room = 0
        self._power = 1.0
        self._same: float | None = None
        self._whole: Integers | None = None
        self._plain: Array | None = None

    @property
    def nbytes(self) -> int:
        """Memory of the rows."""
        if self._plain is not None:
            return self._plain.nbytes
        return self._whole.nbytes if self._whole is not None else 0

    def fill(self, values: Array, room: int) -> None:
        """These rows in place of what is here, from 0 on, with room for so many."""
        self._room = room
        self._fit(values, 0)

    def write(self, at: int, value: float, low: int, high: int) -> None:
        """Set one row."""
        if self._plain is not None:
            self._plain[at] = value
        elif self._whole is not None and (number := _scaled(value, self._power)) is not None:
            self._whole.write(at, number, low, high)
            if self._whole.bits > 32:
                self._fit(self.read(low, high), low)
        elif self._same is None or not _equal(value, self._same):
            values = self.read(low, high)
            values[at - low] = value
            self._fit(values, low)

    def shift(self, at: int, high: int) -> None:
        """Move the rows from `at` on by one, for one more."""
        if self._plain is not None:
            self._plain[at + 1 : high + 1] = self._plain[at:high]
        elif self._whole is not None:
            self._whole.shift(at, high)

    def move(self, low: int, high: int, room: int) -> None:
        """Lay the rows in use to the front, with room for so many."""
        if self._plain is not None:
            self._plain = moved(self._plain, low, high, room)
        elif self._whole is not None:
            self._whole.move(low, high, room)
        self._room = room

    def read(self, low: int, high: int) -> Array:
        """These rows as float64."""
        if self._plain is not None:
            return self._plain[low:high].copy()
        if self._whole is not None:
            return self._whole.read(low, high) / self._power
        return np.full(high - low, np.nan if self._same is None else self._same)

    def _fit(self, values: Array, low: int) -> None:
        """Find what holds these rows, and lay them into it from `low` on."""
        self._same, self._whole, self._plain = None, None, None
        bits = values.view(np.int64)
        if not len(values) or (bits == bits[0]).all():
            self._same = float(values[0]) if len(values) else None
            return
        if np.isfinite(values).all() and not (np.signbit(values) & (values == 0)).any():
            found = decimals.scaled(values)
            if found is not None:
                whole = Integers()
                whole._room = self._room
                whole._fit(found[0].tolist(), low)
                if whole.bits <= 32:
                    self._whole, self._power = whole, 10.0 ** found[1]
                    return
        self._plain = np.empty(self._room)
        self._plain[low : low + len(values)] = values


def _scaled(value: float, power: float) -> int | None:
    """The integer that, divided by `power`, gives the value; None where there is none, or more than one."""
    product = value * power
    if not -_EXACT < product < _EXACT:  # NaN is not
        return None
    number = round(product)
    return number if number / power == value and (number or math.copysign(1.0, value) > 0) else None


def _equal(a: float, b: float) -> bool:
    """Whether two floats are the same, NaN and the sign of zero too."""
    return (a == b and (a != 0 or math.copysign(1.0, a) == math.copysign(1.0, b))) or (a != a and b != b)


def moved(plane: Array, low: int, high: int, room: int) -> Array:
    """The rows of a plane laid to its front, or to that of a new one with another room."""
    out = plane if room == len(plane) else np.empty(room, plane.dtype)
    out[: high - low] = plane[low:high]
    return out
