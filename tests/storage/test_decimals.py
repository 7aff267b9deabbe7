from decimal import Decimal
from fractions import Fraction

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from storage import decimals
from storage.events import DECIMAL

ONE = 10**18


def units_of(value: float) -> int | None:
    """What the shortest text of a float is in units of 1e-18; None where it does not fit."""
    if value != value:
        return 0
    if value in (float("inf"), float("-inf")):
        return None
    exact = Fraction(Decimal(repr(value))) * ONE
    return int(exact) if exact.denominator == 1 and abs(exact) < 10**38 else None


def column(values: list[float]) -> NDArray[np.float64]:
    return np.array(values, np.float64)


# Prices as people write them: few digits, some decimals; and floats of every kind.
written = st.builds(
    lambda m, k: float(Decimal(m).scaleb(-k)), st.integers(-(10**17), 10**17), st.integers(min_value=0, max_value=18)
)
anything = st.one_of(written, st.floats(), st.floats(-1e6, 1e6), st.just(float("nan")), st.just(0.0), st.just(-0.0))
fitting = anything.filter(lambda v: units_of(v) is not None)
amounts = st.one_of(
    st.integers(-(10**38) + 1, 10**38 - 1),
    st.integers(-(2**64) - 2, 2**64 + 2),
    st.integers(-(2**53) - 2, 2**53 + 2),
    st.builds(lambda m, k: m * 10**k, st.integers(-(10**16), 10**16), st.integers(0, 21)),
    st.builds(lambda bits, near: (1 << bits) + near, st.integers(0, 125), st.integers(-3, 3)),
)


@given(st.lists(fitting))
def test_units_are_the_shortest_text_of_each_float(values: list[float]) -> None:
    assert decimals.ints(decimals.units(column(values))) == [units_of(v) for v in values]


@given(st.lists(anything, min_size=1))
def test_units_are_refused_exactly_where_a_value_does_not_fit(values: list[float]) -> None:
    fit = [units_of(v) is not None for v in values]
    assert decimals.fits(column(values)).tolist() == fit
    if all(fit):
        decimals.units(column(values))
    else:
        with pytest.raises(ValueError, match="expected"):
            decimals.units(column(values))


@pytest.mark.parametrize("value", [1.5e22, 1.5e36, 1e-18 / 3, 9.999999999999999e-42, 2.9956657640593124e-232])
def test_a_float_beyond_the_decimals_is_refused_beside_others(value: float) -> None:
    assert decimals.fits(column([0.1 + 0.2, value])).tolist() == [True, False]
    with pytest.raises(ValueError, match="18 decimals and 20 digits"):
        decimals.units(column([0.1 + 0.2, value]))


@given(st.lists(st.one_of(written, anything)))
def test_scaled_integers_are_exact_and_share_the_smallest_power(values: list[float]) -> None:
    found = decimals.scaled(column(values))
    if found is None:
        return
    m, k = found
    assert [int(x) * 10 ** (18 - k) for x in m] == [units_of(v) for v in values]
    assert k == 0 or (m % 10).any()
    assert (np.abs(m) < 2**53).all()


@given(st.lists(st.integers(-(10**15) + 1, 10**15 - 1)), st.integers(0, 18))
def test_fifteen_digits_with_a_common_power_are_always_scaled(numbers: list[int], k: int) -> None:
    found = decimals.scaled(column([float(Decimal(m).scaleb(-k)) for m in numbers]))
    assert found is not None
    assert found[1] <= k
    assert [int(x) * 10 ** (k - found[1]) for x in found[0]] == numbers


def test_a_late_value_with_more_decimals_raises_the_common_power() -> None:
    found = decimals.scaled(column([1.5] * 1000 + [2.25, float("nan")]))
    assert found is not None
    assert found[1] == 2
    assert found[0][[0, 1000, 1001]].tolist() == [150, 225, 0]


@pytest.mark.parametrize("value", [0.1 + 0.2, 1e17 + 16, float("inf"), 1e-19, 5e-324])
def test_what_needs_more_than_a_short_integer_is_not_scaled(value: float) -> None:
    assert decimals.scaled(column([1.0, value])) is None


@given(st.lists(st.tuples(fitting, st.one_of(st.none(), st.integers(-(10**38) + 1, 10**38 - 1)))), st.integers(0, 3))
def test_an_exact_decimal_counts_instead_of_its_float(rows: list[tuple[float, int | None]], skip: int) -> None:
    stated = [None if x is None else Decimal(x).scaleb(-18, decimals.WIDE) for _, x in rows]
    exact = pa.array([None] * skip + stated, DECIMAL)[skip:]
    values = [value for value, _ in rows]
    expected = [units_of(value) if x is None else x for value, x in rows]
    assert decimals.ints(decimals.units(column(values), exact)) == expected

    as_arrow = decimals.to_arrow(column(values), exact)
    as_arrow.validate(full=True)
    assert as_arrow.type == DECIMAL
    assert as_arrow.to_pylist() == [
        None if v != v else Decimal(x or 0).scaleb(-18, decimals.WIDE) for v, x in zip(values, expected, strict=True)
    ]


def test_an_exact_decimal_may_stand_for_a_float_that_does_not_fit() -> None:
    exact = pa.array([Decimal("12345678901234567890.123456789012345678"), None], DECIMAL)
    found = decimals.units(column([12345678901234567890.123, 1.5]), exact)
    assert decimals.ints(found) == [12345678901234567890123456789012345678, 1500000000000000000]


@given(st.lists(amounts))
def test_integers_come_back_as_they_went_in(numbers: list[int]) -> None:
    assert decimals.ints(decimals.from_ints(numbers)) == numbers


def test_an_integer_beyond_128_bits_is_refused() -> None:
    assert decimals.ints(decimals.from_ints([-(2**127), 2**127 - 1])) == [-(2**127), 2**127 - 1]
    with pytest.raises(ValueError, match=str(2**127)):
        decimals.from_ints([1, 2**127])


@given(st.lists(amounts, max_size=20))
def test_arrow_and_back_is_the_same(numbers: list[int]) -> None:
    array = decimals.arrow(decimals.from_ints(numbers))
    assert decimals.ints(decimals.from_arrow(array)) == numbers
    assert decimals.ints(decimals.from_arrow(array[1:])) == numbers[1:]


@given(st.lists(amounts))
def test_floats_are_correctly_rounded(numbers: list[int]) -> None:
    assert decimals.floats(decimals.from_ints(numbers)).tolist() == [x / ONE for x in numbers]


@given(st.integers(2**52, 2**53 - 1), st.integers(0, 14), st.integers(-1, 1), st.booleans())
def test_floats_are_correctly_rounded_in_the_middle_between_two(m: int, e: int, near: int, below: bool) -> None:
    middle = ((2 * m + 1) * ONE << e) // 2 + near
    power = (ONE << (53 + e)) - (ONE << e) // 4 + near  # next to a power of two, where the gap changes
    number = power if below else middle
    if number < 2**127:
        assert decimals.floats(decimals.from_ints([number, -number])).tolist() == [number / ONE, -number / ONE]


@given(st.lists(st.tuples(amounts, amounts)))
def test_addition_is_exact(pairs: list[tuple[int, int]]) -> None:
    a, b = (decimals.from_ints([pair[i] for pair in pairs]) for i in (0, 1))
    expected = [x + y for x, y in pairs]
    if all(-(2**127) <= x < 2**127 for x in expected):
        assert decimals.ints(decimals.add(a, b)) == expected
    else:
        with pytest.raises(ValueError, match="128 bits"):
            decimals.add(a, b)


def test_an_addition_beyond_128_bits_is_refused() -> None:
    most, least = decimals.from_ints([2**127 - 1]), decimals.from_ints([-(2**127)])
    one, minus = decimals.from_ints([1]), decimals.from_ints([-1])
    assert decimals.ints(decimals.add(most, minus)) == [2**127 - 2]
    assert decimals.ints(decimals.add(least, most)) == [-1]
    for a, b in ((most, one), (least, minus), (one, most)):
        with pytest.raises(ValueError, match="128 bits"):
            decimals.add(a, b)


near_the_cap = st.one_of(st.integers(-3, 3).map(lambda x: decimals.CAP + x), st.integers(0, 10**38 - 1))


@given(st.lists(st.lists(near_the_cap, min_size=1, max_size=6), min_size=1, max_size=4), st.sampled_from([1, -1]))
def test_a_sum_that_would_not_fit_stays_at_the_cap_however_it_is_grouped(groups: list[list[int]], sign: int) -> None:
    starts = np.cumsum([0, *(len(group) for group in groups)])[:-1]
    amounts = decimals.from_ints([sign * x for group in groups for x in group])
    sums = decimals.sum_by(amounts, starts)
    assert decimals.ints(sums) == [sign * min(sum(group), decimals.CAP) for group in groups]
    whole = sign * min(sum(x for group in groups for x in group), decimals.CAP)
    for parts in (sums, sums[::-1], amounts, amounts[::-1]):
        assert decimals.ints(decimals.sum_by(parts, np.array([0]))) == [whole]
    assert decimals.CAP < 10**38


@given(st.lists(st.lists(st.integers(-(10**38) + 1, 10**38 - 1), min_size=1, max_size=4), min_size=1, max_size=4))
def test_a_sum_of_different_signs_stops_at_the_cap_on_either_side(groups: list[list[int]]) -> None:
    starts = np.cumsum([0, *(len(group) for group in groups)])[:-1]
    found = decimals.sum_by(decimals.from_ints([x for group in groups for x in group]), starts)
    assert decimals.ints(found) == [max(-decimals.CAP, min(sum(group), decimals.CAP)) for group in groups]


@given(st.lists(st.lists(st.integers(-(10**36), 10**36), min_size=1, max_size=8)))
def test_each_group_is_summed_exactly(groups: list[list[int]]) -> None:
    starts = np.cumsum([0, *(len(group) for group in groups)])[:-1]
    found = decimals.sum_by(decimals.from_ints([x for group in groups for x in group]), starts)
    assert decimals.ints(found) == [sum(group) for group in groups]


def test_carries_of_many_summands_are_kept() -> None:
    number = -(2**96) + 2**64 - 1
    found = decimals.sum_by(decimals.from_ints([number] * 100_000), np.array([0, 1, 50_000]))
    assert decimals.ints(found) == [number, 49_999 * number, 50_000 * number]


def rounded(value: float) -> int:
    """value × 1e18 as a float, halves away from zero."""
    size = abs(value) * 1e18
    whole = int(size) + (size - int(size) >= 0.5)
    return -whole if value < 0 else whole


pairs = st.tuples(st.one_of(written, st.floats(-1e10, 1e10)), st.one_of(written, st.floats(-1e9, 1e9)))


@given(st.lists(pairs.filter(lambda pair: abs(pair[0] * pair[1]) < 1e20)))
def test_a_product_is_the_float_product_to_the_nearest_unit(rows: list[tuple[float, float]]) -> None:
    found = decimals.product(column([p for p, _ in rows]), column([v for _, v in rows]))
    assert decimals.ints(found) == [rounded(p * v) for p, v in rows]


@given(st.floats(-1e20, 1e20, exclude_min=True, exclude_max=True))
@settings(max_examples=300)
def test_any_float_below_the_limit_is_a_product(value: float) -> None:
    assert decimals.ints(decimals.product(column([value]), column([1.0]))) == [rounded(value)]


@given(st.lists(pairs.filter(lambda pair: abs(pair[0] * pair[1]) < 1e19), min_size=1))
@settings(max_examples=30)
def test_a_product_is_what_the_database_makes_of_it(rows: list[tuple[float, float]]) -> None:
    query = "SELECT CAST(p * v AS DECIMAL(38, 18)) FROM (SELECT unnest(?::DOUBLE[]) AS p, unnest(?::DOUBLE[]) AS v)"
    with duckdb.connect() as db:
        answer = db.execute(query, [[p for p, _ in rows], [v for _, v in rows]]).fetchall()
    found = decimals.product(column([p for p, _ in rows]), column([v for _, v in rows]))
    assert decimals.ints(found) == [int(x.scaleb(18, decimals.WIDE)) for (x,) in answer]


@pytest.mark.parametrize(("value", "amount"), [(2.5e-18, 3), (0.5e-18, 1), (0.49e-18, 0), (1.5, 15 * 10**17)])
def test_a_product_rounds_halves_away_from_zero(value: float, amount: int) -> None:
    assert decimals.ints(decimals.product(column([value, -value]), column([1.0, 1.0]))) == [amount, -amount]


@given(st.lists(st.integers(-(2**62), 2**62)), st.integers(0, 18))
def test_whole_numbers_of_a_power_become_amounts(numbers: list[int], places: int) -> None:
    found = decimals.widened(np.array(numbers, np.int64), places)
    assert decimals.ints(found) == [x * 10 ** (18 - places) for x in numbers]


def test_a_product_with_nothing_is_nothing() -> None:
    nan = float("nan")
    assert decimals.ints(decimals.product(column([nan, 2.0, nan]), column([2.0, nan, nan]))) == [0, 0, 0]


@pytest.mark.parametrize(("price", "volume"), [(1e10, 1e10), (1e300, 1e300), (-1e20, 1.0), (float("inf"), 1.0)])
def test_a_product_beyond_the_limit_is_refused(price: float, volume: float) -> None:
    with pytest.raises(ValueError, match="does not fit 20 digits"):
        decimals.product(column([1.0, price]), column([1.0, volume]))


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("-0.000", 0),
        ("0e99999999", 0),
        ("1e19", 10**37),
        ("1.50", 1_500_000_000_000_000_000),
        ("-1e-18", -1),
        ("99999999999999999999.999999999999999999", 10**38 - 1),
        ("1" + "0" * 19 + "." + "0" * 9000, 10**37),
    ],
)
def test_a_decimal_text_is_read_exactly(text: str, number: int) -> None:
    assert decimals.from_text(text) == number


@pytest.mark.parametrize("text", ["", "x", "nan", "inf", "1e20", "1e-19", "1e999999999999", "-100000000000000000000"])
def test_a_decimal_text_that_does_not_fit_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        decimals.from_text(text)
