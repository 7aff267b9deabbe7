"""Tiers by what was traded: when a market rises, when it falls, and that a restart knows."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import tiers
from storage.state import State

BOUNDS = (1000.0, 100.0, 10.0)
amounts = st.one_of(st.floats(0, 3000), st.sampled_from([0.0, *BOUNDS, *(0.8 * bound for bound in BOUNDS)]))


def after(turnover: float, before: int = tiers.LAST) -> int:
    return int(tiers.assigned(np.array([turnover]), np.array([before], np.uint8), BOUNDS)[0])


@pytest.mark.parametrize(
    ("turnover", "before", "tier"),
    [
        (0, 4, 4),
        (9.99, 4, 4),
        (10, 4, 3),
        (99, 4, 3),
        (100, 4, 2),
        (5000, 4, 1),
        (999, 2, 2),
        (999, 1, 1),
        (800, 1, 1),
        (799.9, 1, 2),
        (85, 1, 2),
        (79, 1, 3),
        (0, 1, 4),
    ],
)
def test_a_market_rises_at_the_bound_and_falls_below_four_fifths_of_it(turnover: float, before: int, tier: int) -> None:
    assert after(turnover, before) == tier


@given(st.lists(st.tuples(amounts, st.integers(1, 4)), max_size=8), st.integers(0, 8), st.integers(0, 8))
def test_hysteresis(some: list[tuple[float, int]], traded: int, known: int) -> None:
    turnover = np.array([amount for amount, _ in some][:traded])
    before = np.array([tier for _, tier in some][:known], np.uint8)
    found = tiers.assigned(turnover, before, BOUNDS)
    assert len(found) == max(len(turnover), len(before))
    assert found.dtype == np.uint8
    edges = (*BOUNDS, -1.0)
    for slot, tier in enumerate(found.tolist()):
        amount = float(turnover[slot]) if slot < len(turnover) else 0.0
        old = int(before[slot]) if slot < len(before) else 4
        alone = next(n for n, bound in enumerate(edges, 1) if amount >= bound)
        assert tier <= alone, "no market is worse off for its past"
        assert tier == alone if alone <= old else tier >= old, "a market rises by what it traded only"
        if alone > old:
            lenient = next(n for n, bound in enumerate(edges, 1) if amount >= 0.8 * bound)
            assert tier == max(old, lenient)
    # Looking again changes nothing.
    assert tiers.assigned(turnover, found, BOUNDS).tolist() == found.tolist()


def test_what_was_assigned_outlives_the_process_and_the_last_tier_takes_no_room(tmp_path: Path) -> None:
    with State.open(tmp_path / "s.db", synchronous="NORMAL") as state:
        assert tiers.known(state).tolist() == []
        tiers.note(state, [(2, 1), (5, 3), (6, 4)])
        tiers.note(state, [(2, 2), (4, 1)])
    with State.open(tmp_path / "s.db", synchronous="NORMAL") as state:
        assert tiers.known(state).tolist() == [4, 4, 2, 4, 1, 3]
        tiers.note(state, [(5, 4)])
        assert tiers.known(state).tolist() == [4, 4, 2, 4, 1]
        with state.reading() as db:
            assert db.execute("SELECT count(*) FROM tiers").fetchone() == (2,)
