import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors import changes
from actors.changes import MOST, NEAR, Changes


@given(st.lists(st.integers(0, 30), max_size=40), st.integers(1, 6), st.sampled_from([0, 5]))
def test_it_never_says_untouched_of_what_was_touched(lows: list[int], most: int, near: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(changes, "NEAR", near)
        exact = Changes(10)
        for n, low in enumerate(lows):
            exact.note(11 + n, low)
        patch.setattr(changes, "MOST", most)
        some = Changes(10)
        for n, low in enumerate(lows):
            some.note(11 + n, low)
            assert len(some._seqs) == len(some._lows) <= most
        for since in range(8, 12 + len(lows)):
            for before in range(32):
                truth = since >= 10 and all(low >= before for low in lows[max(0, since - 10) :])
                assert truth or not (exact.untouched(since, before) or some.untouched(since, before))
                assert exact.untouched(since, before) == truth or near


def test_what_is_live_touches_nothing_older() -> None:
    some = Changes(0)
    for n in range(1, 100_000):
        some.note(n, 1_000 + n)
    assert len(some._seqs) <= MOST
    assert some.untouched(100_000 - (MOST - 1) * NEAR, 1_000 + 100_000 - MOST * NEAR)
    assert some.untouched(99_999, 200_000)
    assert not some.untouched(99_900, 101_000)
    some.note(100_000, 50_000)  # late
    assert not some.untouched(99_999, 50_001)
    assert some.untouched(99_999, 50_000)
    assert some.untouched(100_000, 200_000)
