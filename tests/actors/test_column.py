"""Columns against plain lists, and how little memory they take."""

import math
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.column import Floats, Integers
from storage import decimals
from storage.measures import wire

WIDE = (1 << 127) - 1
around = st.sampled_from([0, 1, 10**18, 1_700_000_000, 2**62, 10**37])
steps = st.sampled_from([1, 60, 10**10, 10**15, 10**18, 2**20])
sizes = st.sampled_from([3, 100, 2**15, 2**31, 2**40, 2**63])


@st.composite
def integers(draw: st.DrawFn, most: int) -> list[int]:
    """Numbers near each other, on one grid or on several, with some that are far from the others."""
    base, step, size = draw(around), draw(steps), draw(sizes)
    near = st.integers(-size, size).map(lambda m: base + m * step)
    far = st.one_of(near, near, near, st.integers(-most - 1, most), st.sampled_from([0, most, -most - 1]))
    found = draw(st.lists(draw(st.sampled_from([near, far, st.just(base)])), max_size=25))
    return [max(-most - 1, min(number, most)) for number in found]


prices = st.integers(-(10**6), 10**6).map(lambda m: m / 100)
fine = st.floats(allow_infinity=False).map(wire)
special = st.sampled_from([math.nan, 0.0, -0.0, 1e-300, 1e20, 0.1, 4503599627370.495])


@st.composite
def floats(draw: st.DrawFn) -> list[float]:
    """Prices of two decimals, or of any, or of any kind one after the other."""
    kind = draw(st.sampled_from([prices, fine, st.one_of(prices, prices, fine, special), special]))
    return draw(st.lists(kind, max_size=25))


class Rows:
    """The list, and the column with its rows as a ring keeps them."""

    def __init__(self, column: "Integers | Floats", filled: Any, values: list[Any]) -> None:
        self.column, self.values = column, values
        self.low, self.high, self.room = 0, len(values), len(values) + 2
        column.fill(filled, self.room)

    def insert(self, at: int, value: Any) -> None:
        if self.high == self.room:
            self.room += 1 if self.low else 5
            self.column.move(self.low, self.high, self.room)
            self.low, self.high = 0, self.high - self.low
        if at < len(self.values):
            self.column.shift(self.low + at, self.high)
        self.high += 1
        self.values.insert(at, value)
        self.column.write(self.low + at, value, self.low, self.high)

    def put(self, at: int, value: Any) -> None:
        self.values[at] = value
        self.column.write(self.low + at, value, self.low, self.high)

    def drop(self) -> None:
        del self.values[0]
        self.low += 1

    def run(self, data: st.DataObject, given_: list[Any], check: Any) -> None:
        check(self)
        for value in given_:
            how = data.draw(st.sampled_from(["append", "append", "insert", "put", "drop"]))
            n = len(self.values)
            if how in ("append", "insert") or not n:
                self.insert(n if how == "append" else data.draw(st.integers(0, n)), value)
            elif how == "put":
                self.put(data.draw(st.integers(0, n - 1)), value)
            else:
                self.drop()
            check(self)


@pytest.mark.parametrize("wide", [True, False])
@given(st.data())
@settings(max_examples=150)
def test_a_column_of_integers_is_the_list_of_them_whatever_their_widths(wide: bool, data: st.DataObject) -> None:
    values = data.draw(integers(WIDE if wide else 2**63 - 1))
    start = data.draw(st.integers(0, len(values)))
    first = values[:start]
    column = Integers(wide)

    def check(rows: Rows) -> None:
        assert column.values(rows.low, rows.high) == rows.values
        read = column.read(rows.low, rows.high)
        assert read.dtype == np.int64
        assert read.shape == ((len(rows.values), 2) if wide else (len(rows.values),))
        assert [column.at(rows.low + i) for i in range(len(rows.values))] == rows.values
        if (shown := column.wired(rows.low, rows.high)) is not None:
            assert shown.tolist() == [wire(value / 10**18) for value in rows.values]

    filled = decimals.from_ints(first) if wide else np.array(first, np.int64)
    Rows(column, filled, first).run(data, values[start:], check)


@given(st.data())
@settings(max_examples=150)
def test_a_column_of_floats_is_the_list_of_them_to_the_bit(data: st.DataObject) -> None:
    values = data.draw(floats())
    start = data.draw(st.integers(0, len(values)))
    first = values[:start]
    column = Floats()

    def check(rows: Rows) -> None:
        assert [repr(value) for value in column.read(rows.low, rows.high).tolist()] == [repr(v) for v in rows.values]

    Rows(column, np.array(first, np.float64), first).run(data, values[start:], check)


def appended(column: "Integers | Floats", values: list[Any]) -> int:
    """Bytes of a row, once these were added one by one."""
    column.fill(np.zeros((0, 2), np.int64) if getattr(column, "_wide", False) else np.zeros(0), len(values))
    for at, value in enumerate(values):
        column.write(at, value, 0, at + 1)
    return column.nbytes // len(values)


CHANCE = random.Random(8)
EIGHT = [CHANCE.randrange(10**9) * 10**10 for _ in range(200)]
EIGHTEEN = [CHANCE.randrange(10**22) for _ in range(200)]


@pytest.mark.parametrize(
    ("column", "values", "size"),
    [
        (Integers(), [7] * 200, 0),
        (Integers(), list(range(1_700_000_000, 1_700_000_000 + 60 * 200, 60)), 2),
        (Integers(), list(range(10**15, 10**15 + 10**8, 500_000)), 2),
        (Integers(True), [0] * 200, 0),
        (Integers(True), EIGHT, 4),
        (Integers(True), EIGHTEEN, 10),
        (Integers(True), [*EIGHTEEN, 10**37, 1], 16),
        (Floats(), [math.nan] * 200, 0),
        (Floats(), [round(CHANCE.uniform(90, 110), 2) for _ in range(200)], 2),
        (Floats(), [CHANCE.random() for _ in range(200)], 8),
        (Floats(), [*[math.nan] * 100, *[1.5] * 100], 8),
    ],
)
def test_a_row_takes_as_many_bytes_as_the_values_need(column: Any, values: list[Any], size: int) -> None:
    assert appended(column, values) == size


def test_values_that_grow_are_not_fitted_again_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    fits = 0
    fit = Integers._fit

    def counting(column: Integers, *given_: Any) -> None:
        nonlocal fits
        fits += 1
        fit(column, *given_)

    monkeypatch.setattr(Integers, "_fit", counting)
    column, low = Integers(), 0
    column.fill(np.zeros(0, np.int64), 20_000)
    for at in range(20_000):
        low = max(0, at - 500)
        column.write(at, at * 12_345, low, at + 1)
    assert fits < 100
    assert column.at(low) == low * 12_345
