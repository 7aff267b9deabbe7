"""Exact decimals at numpy speed: floats as the decimal numbers they print as, in 128-bit units of 1e-18.

A column of n amounts is an int64 array of shape (n, 2): two's complement, low half first, which is the buffer of an
Arrow decimal128(38, 18).
"""

import sys
from collections.abc import Sequence
from decimal import Context, Decimal
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from storage.events import DECIMAL

Floats = NDArray[np.float64]
Units = NDArray[np.int64]
Words = NDArray[np.uint64]

DECIMALS = 18
WIDE = Context(prec=60)  # enough for any amount: Python's default of 28 digits would round
DIGITS = 20  # before the point
LIMIT = 10.0**DIGITS
ONE = 10**DECIMALS
_CAP_TOP = 10**38 >> 96
CAP = _CAP_TOP << 96  # where sums stop growing, just below 10**38 units

# Below this at most one integer m makes m / 10**k round to a given float, so that m is the float's shortest text:
# from 2**52 on, neighbouring integers may share one float.
_SURE = 2.0**52
_POWERS = np.array([10**k for k in range(DECIMALS + 1)], np.int64)
_TENS = np.array([10.0**k for k in range(DECIMALS + 1)])  # exact up to 1e22
_HALF = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)

assert sys.byteorder == "little"  # as in Arrow's buffers


def scaled(values: Floats) -> tuple[NDArray[np.int64], int] | None:
    """The smallest k, and integers m, such that every value's shortest text is m / 10**k; None if there is none.

    NaN counts as 0. None also where an m would not stay below 2**52.
    """
    v = np.nan_to_num(values, nan=0.0, posinf=np.inf, neginf=-np.inf)
    rest = v[:64]
    k = 0
    with np.errstate(invalid="ignore", over="ignore"):
        while True:  # a few values say what k must be at least; then all are asked
            while len(rest := rest[np.rint(rest * _TENS[k]) / _TENS[k] != rest]):
                k += 1
                if k > DECIMALS:
                    return None
            m = np.rint(v * _TENS[k])
            rest = v[m / _TENS[k] != v]
            if not len(rest):
                break
            k += 1
            if k > DECIMALS:
                return None
    if len(m) and not max(m.max(), -m.min()) < _SURE:
        return None
    return m.astype(np.int64), k


def units(values: Floats, exact: Any = None) -> Units:
    """The values as 128-bit integers in units of 1e-18; NaN is 0.

    A row of `exact`, a decimal128(38, 18) array, that is not null counts instead of its float.
    ValueError where a value has more than 18 decimals or 20 digits before the point.
    """
    stated = None if exact is None else exact.is_valid().to_numpy(zero_copy_only=False)
    if stated is not None and stated.any():
        values = np.where(stated, 0.0, values)
    found = scaled(values)
    if found is not None:
        m, k = found
        out = widened(m, k)
    else:
        out = _units_by_row(values)
    if stated is not None and stated.any():
        out[stated] = from_arrow(exact)[stated]
    return out


def _units_by_row(values: Floats) -> Units:
    """As `units`, each value with a k of its own, and through text where no k will do."""
    v = np.nan_to_num(values, nan=0.0, posinf=np.inf, neginf=-np.inf)
    m = np.zeros(len(v), np.int64)
    power = np.ones(len(v), np.int64)
    with np.errstate(invalid="ignore", over="ignore"):
        rows = np.flatnonzero(v)
        for k in range(DECIMALS + 1):
            if not len(rows):
                break
            some = v[rows]
            near = np.rint(some * _TENS[k])
            good = (near / _TENS[k] == some) & (np.abs(near) < _SURE)
            m[rows[good]] = near[good].astype(np.int64)
            power[rows[good]] = _POWERS[DECIMALS - k]
            rows = rows[~good]
    out = _signed(*multiplied(np.abs(m).astype(np.uint64), power.astype(np.uint64)), m < 0)
    if len(rows):
        out[rows] = _units_by_text(v[rows])
    return out


def _units_by_text(values: Floats) -> Units:
    if fits(values).all():  # of those that do not, Arrow reads some as other numbers without a word
        return from_arrow(pa.array(values).cast(pa.string()).cast(DECIMAL))
    return from_ints([from_text(repr(value)) for value in values.tolist()])  # says which value it is


def from_text(text: str) -> int:
    """The units of 1e-18 in a decimal text; ValueError where it is none, is not finite or does not fit."""
    try:
        number = Decimal(text)
    except ArithmeticError:
        raise ValueError(f"expected a decimal number, got {text[:60]!r}") from None
    if not number.is_finite():
        raise ValueError(f"expected a finite number, got {text[:60]!r}")
    sign, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    kept = "".join(map(str, digits)).rstrip("0")
    exponent += len(digits) - len(kept)
    if not kept:
        return 0
    if len(kept) + exponent > DIGITS or -exponent > DECIMALS:
        raise ValueError(f"expected at most {DECIMALS} decimals and {DIGITS} digits before the point, got {text[:60]}")
    size = int(kept + "0" * (exponent + DECIMALS))
    return -size if sign else size


def to_arrow(values: Floats, exact: Any = None) -> Any:
    """The values as an Arrow decimal128(38, 18) array, null where NaN."""
    return arrow(units(values, exact), ~np.isnan(values))


def narrow(mantissa: NDArray[np.int64], places: int, valid: NDArray[np.bool_]) -> Any:
    """mantissa / 10**places as an Arrow decimal64(18, places) array, without copying; null where not `valid`."""
    buffers = [_bitmap(valid), pa.py_buffer(np.ascontiguousarray(mantissa))]
    return pa.Array.from_buffers(pa.decimal64(DECIMALS, places), len(mantissa), buffers)


def arrow(amounts: Units, valid: NDArray[np.bool_] | None = None) -> Any:
    """Amounts as an Arrow decimal128(38, 18) array, without copying them; null where not `valid`."""
    buffers = [None if valid is None else _bitmap(valid), pa.py_buffer(np.ascontiguousarray(amounts))]
    return pa.Array.from_buffers(DECIMAL, len(amounts), buffers)


def _bitmap(valid: NDArray[np.bool_]) -> Any:
    return None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))


def from_arrow(array: Any) -> Units:
    """The amounts of an Arrow decimal128(38, 18) array, without copying them; what a null holds is not defined."""
    data = array.buffers()[1]
    if data is None or not len(array):
        return np.zeros((len(array), 2), np.int64)
    return np.frombuffer(data, np.int64, 2 * len(array), 16 * array.offset).reshape(-1, 2)


def fits(values: Floats) -> NDArray[np.bool_]:
    """Whether each value's shortest text has at most 18 decimals and 20 digits before the point; NaN does."""
    size = np.abs(values)
    good = ~(size >= LIMIT)
    # Shortest texts have at most 17 digits, so from 0.01 on they cannot reach past the 18th decimal.
    small = np.flatnonzero((size < 0.01) & (size > 0))
    if len(small):
        some = size[small]
        near = np.rint(some * _TENS[DECIMALS])
        sure = (near / _TENS[DECIMALS] == some) & (near < _SURE)
        for row in small[~sure].tolist():
            good[row] = _fits(repr(float(size[row])))
    return good


def _fits(text: str) -> bool:
    try:
        from_text(text)
    except ValueError:
        return False
    return True


def ints(amounts: Units) -> list[int]:
    """The amounts as Python integers."""
    low, high = amounts[:, 0], amounts[:, 1]
    if (high == low >> 63).all():
        return list(low.tolist())
    return [(h << 64) | x for h, x in zip(high.tolist(), low.view(np.uint64).tolist(), strict=True)]


def from_ints(numbers: Sequence[int]) -> Units:
    """The inverse of `ints`; ValueError where a number does not fit 128 bits."""
    try:
        joined = b"".join([x.to_bytes(16, "little", signed=True) for x in numbers])
    except OverflowError:
        wide = next(x for x in numbers if not -(1 << 127) <= x < 1 << 127)
        raise ValueError(f"expected an amount within 128 bits, got {wide}") from None
    return np.frombuffer(bytearray(joined), np.int64).reshape(-1, 2)


def floats(amounts: Units) -> Floats:
    """The float nearest to each amount / 1e18, correctly rounded."""
    low, high, negative = _magnitude(amounts)
    # |amount| = t3 + t2 + t1 + t0, each a double without loss; summed and divided as pairs (value, error).
    t3 = (high >> _HALF).astype(np.float64) * 2.0**96
    t2 = (high & _LOW).astype(np.float64) * 2.0**64
    t1 = (low >> _HALF).astype(np.float64) * 2.0**32
    t0 = (low & _LOW).astype(np.float64)
    top, top_error = _two_sum(t3, t2)
    end, end_error = _two_sum(t1, t0)
    total, error = _two_sum(top, end)
    total, error = _two_sum(total, error + (top_error + end_error))
    ten = float(ONE)
    first = total / ten
    back, back_error = _two_product(first, ten)
    second = (((total - back) - back_error) + error) / ten
    out, tail = _two_sum(first, second)
    # The pair is good to some 2**-100: enough to round by, unless it lies next to the middle between two floats (which
    # is nearer by half below a power of two). Those few are divided as integers.
    gap = np.spacing(out)
    tail = np.abs(tail)
    doubt = (np.abs(tail - gap / 2) < gap * 2.0**-36) | (np.abs(tail - gap / 4) < gap * 2.0**-36)
    for row in np.flatnonzero(doubt).tolist():
        out[row] = ((int(high[row]) << 64) | int(low[row])) / ONE
    return np.where(negative, -out, out)


def add(a: Units, b: Units) -> Units:
    """a + b, row by row; ValueError where a sum leaves 128 bits."""
    low = a[:, 0].view(np.uint64) + b[:, 0].view(np.uint64)
    high = a[:, 1] + b[:, 1] + (low < a[:, 0].view(np.uint64))
    if (((a[:, 1] ^ high) & (b[:, 1] ^ high)) < 0).any():
        raise ValueError("a sum of amounts does not fit 128 bits")
    return np.stack((low.view(np.int64), high), axis=1)


def sum_by(amounts: Units, starts: NDArray[np.integer[Any]]) -> Units:
    """The exact sum of each contiguous group; `starts` are the ascending first rows of the groups, none empty.

    A sum stops at ±CAP. Sums of sums come to the same, however the amounts were grouped and ordered, where no amount
    is negative, or none is positive, or the sizes of all of them together stay below CAP. Where they do not and signs
    differ, no rule could see to that: a sum that was stopped does not know by how much.
    """
    if not len(starts):
        return np.zeros((0, 2), np.int64)
    limbs = np.ascontiguousarray(amounts).view(np.uint32)
    s0, s1, s2 = (np.add.reduceat(limbs[:, j], starts, dtype=np.uint64) for j in range(3))
    s3 = np.add.reduceat(limbs[:, 3].view(np.int32), starts, dtype=np.int64)
    s1 += s0 >> _HALF
    s2 += s1 >> _HALF
    s3 += (s2 >> _HALF).astype(np.int64)
    low = (s0 & _LOW) | (s1 << _HALF)
    high = (s2 & _LOW).view(np.int64) | (s3 << 32)
    for beyond, top in ((s3 >= _CAP_TOP, _CAP_TOP), (s3 < -_CAP_TOP, -_CAP_TOP)):
        if beyond.any():
            low[beyond] = 0
            high[beyond] = top << 32
    return np.stack((low.view(np.int64), high), axis=1)


def product(price: Floats, volume: Floats) -> Units:
    """float64(price × volume) × 1e18 as a float64, rounded to an integer with halves away from zero; NaN is 0.

    This is what DuckDB makes of CAST(price * volume AS DECIMAL(38, 18)) for doubles, so that SQL agrees.
    ValueError where a product reaches 1e20.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        value = np.nan_to_num(price * volume, nan=0.0, posinf=np.inf, neginf=-np.inf)
    size = np.abs(value)
    if not (size < LIMIT).all():
        row = int(np.argmin(size < LIMIT))
        raise ValueError(f"price {price[row]} × volume {volume[row]} does not fit {DIGITS} digits before the point")
    size *= _TENS[DECIMALS]
    whole = np.trunc(size)
    whole += size - whole >= 0.5
    high = np.trunc(whole * 2.0**-64)
    return _signed((whole - high * 2.0**64).astype(np.uint64), high.astype(np.uint64), value < 0)


def widened(mantissa: NDArray[np.int64], places: int) -> Units:
    """mantissa / 10**places as amounts."""
    power = np.uint64(_POWERS[DECIMALS - places])
    return _signed(*multiplied(np.abs(mantissa).astype(np.uint64), power), mantissa < 0)


def multiplied(a: Words, b: Words | np.uint64) -> tuple[Words, Words]:
    """a × b as (low, high) words, unsigned."""
    a0, a1 = a & _LOW, a >> _HALF
    b0, b1 = b & _LOW, b >> _HALF
    first = a0 * b0
    middle = a1 * b0 + (first >> _HALF)
    other = a0 * b1 + (middle & _LOW)
    return (first & _LOW) | (other << _HALF), a1 * b1 + (middle >> _HALF) + (other >> _HALF)


def _signed(low: Words, high: Words, negative: NDArray[np.bool_]) -> Units:
    out = np.empty((len(low), 2), np.int64)
    words = out.view(np.uint64)
    words[:, 0], words[:, 1] = low, high
    if negative.any():
        flipped = ~low[negative] + np.uint64(1)
        words[negative, 1] = ~high[negative] + (flipped == 0)
        words[negative, 0] = flipped
    return out


def _magnitude(amounts: Units) -> tuple[Words, Words, NDArray[np.bool_]]:
    low, high = amounts[:, 0].view(np.uint64).copy(), amounts[:, 1].view(np.uint64).copy()
    negative = amounts[:, 1] < 0
    if negative.any():
        flipped = ~low[negative] + np.uint64(1)
        high[negative] = ~high[negative] + (flipped == 0)
        low[negative] = flipped
    return low, high, negative


def _two_sum(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """a + b rounded, and what the rounding lost (Knuth)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _two_product(a: Floats, b: float) -> tuple[Floats, Floats]:
    """a × b rounded, and what the rounding lost (Dekker)."""
    whole = a * b
    a1, a2 = _split(a)
    b1, b2 = _split(b)
    return whole, ((a1 * b1 - whole) + a1 * b2 + a2 * b1) + a2 * b2


def _split(a: Any) -> tuple[Any, Any]:
    c = 134217729.0 * a  # 2**27 + 1
    high = c - (c - a)
    return high, a - high
