"""Spans against sets of integers."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from storage.spans import Spans, common, union, without

PAIRS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=8)


def members(spans: Spans) -> set[int]:
    return {n for low, high in spans for n in range(low, high)}


@given(PAIRS, PAIRS)
def test_spans_are_what_sets_of_their_instants_are(some: Spans, others: Spans) -> None:
    a, b = union(some), union(others)
    assert members(a) == members(some)
    assert members(union(a, b)) == members(a) | members(b)
    assert members(common(a, b)) == members(a) & members(b)
    assert members(without(a, b)) == members(a) - members(b)
    for spans in (a, b, common(a, b), without(a, b)):
        assert all(low < high for low, high in spans)
        assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))
    assert all(end < begin for (_, end), (begin, _) in pairwise(a))  # those that meet are one
