"""What wires print, and what the table of measures promises to those who derive from it."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from storage.events import EVENT_CODE, EVENT_TYPES
from storage.measures import (
    COUNTED,
    INPUTS,
    KINDS,
    LARGEST,
    LIQUIDATED,
    MEASURES,
    RATIOS,
    SKETCH,
    Rule,
    distinct_count,
    wire,
    wired,
)

numbers = st.one_of(
    st.floats(-1e300, 1e300),
    st.builds(lambda m, k: m / 10**k, st.integers(-(10**17), 10**17), st.integers(0, 22)),
    st.builds(lambda m, k: (m + 0.5) / 10**k, st.integers(10**14, 10**15), st.integers(0, 12)),
    st.builds(
        lambda k, ulps: float(np.nextafter(10.0**k, 10.0**k * (1 + ulps))), st.integers(-20, 22), st.integers(-1, 1)
    ),
)


@given(st.lists(numbers))
@example([0.1 + 0.2, 1e15, 999999999999999.9, 99999999999999.95, 5e-324, 1e300, 0.0, 1e22, 1e-7])
def test_a_column_is_printed_like_each_of_its_numbers(values: list[float]) -> None:
    assert wired(np.array(values, np.float64)).tolist() == [wire(value) for value in values]


@given(st.lists(numbers, min_size=2, max_size=2))
def test_printing_keeps_the_order_of_numbers(values: list[float]) -> None:
    low, high = sorted(values)
    assert wire(low) <= wire(high)


@given(numbers)
def test_a_printed_number_has_at_most_fifteen_digits_and_stays_what_it_is(value: float) -> None:
    once = wire(value)
    digits = f"{once!r}".lower().split("e")[0].replace("-", "").replace(".", "").strip("0")
    assert len(digits) <= 15 or once == int(once)
    assert wire(once) == once
    assert once == pytest.approx(value, rel=1e-14, abs=1e-320)


def test_nothing_stays_nothing() -> None:
    assert np.isnan(wired(np.array([np.nan]))).all()
    assert wired(np.array([])).tolist() == []


def test_a_sketch_counts_exactly_until_it_is_full() -> None:
    assert distinct_count(np.array([], np.uint64)) == 0
    assert distinct_count(np.arange(1, SKETCH, dtype=np.uint64)) == SKETCH - 1
    even = np.arange(1, SKETCH + 1, dtype=np.float64) * (2.0**64 / 100_000)
    assert distinct_count(even.astype(np.uint64)) == pytest.approx(100_000, rel=1 / SKETCH)


@pytest.mark.parametrize("kind", KINDS)
def test_every_measure_reads_inputs_that_there_are(kind: str) -> None:
    names = [measure.name for measure in MEASURES[kind]]
    assert len(set(names)) == len(names)
    for measure in MEASURES[kind]:
        assert measure.of in INPUTS[kind] or (measure.rule is Rule.COUNT and not measure.of)
        assert measure.where in INPUTS[kind] or not measure.where
    for ratio in RATIOS[kind]:
        assert {ratio.over, ratio.under} <= set(names)


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        (
            "perp",
            "open high low close volume trades_count vwap total_fees unique_traders buy_volume sell_volume long_trades "
            "short_trades liquidation_volume liquidation_count funding_rate open_interest",
        ),
        ("spot", "open high low close volume trades_count vwap buy_volume sell_volume"),
        (
            "card",
            "open high low close volume avg_price avg_market_price min_price max_price total_listings total_quantity",
        ),
        (
            "index",
            "open high low close volume avg_price avg_market_price min_price max_price card_count total_listings "
            "total_quantity",
        ),
    ],
)
def test_a_candle_of_each_kind_has_what_was_promised(kind: str, shown: str) -> None:
    names = {measure.name for measure in MEASURES[kind]} | {ratio.name for ratio in RATIOS[kind]}
    assert set(shown.split()) <= names


def test_trades_are_counted_and_liquidations_apart() -> None:
    assert [EVENT_TYPES[code] for code in COUNTED] == ["Trade", "PositionOpened", "PositionClosed"]
    assert EVENT_CODE["PositionLiquidated"] == LIQUIDATED


def test_the_largest_worth_is_the_largest_float_that_an_amount_can_say() -> None:
    assert LARGEST < 1e20 == np.nextafter(LARGEST, np.inf)
