from hypothesis import given
from hypothesis import strategies as st

from storage.histogram import ENDS, Histogram


def test_an_end_belongs_to_the_bucket_that_it_ends() -> None:
    histogram = Histogram((0.1, 1.0))
    for seconds in (0.0, 0.1, 0.11, 1.0, 1.01, 50.0):
        histogram.observe(seconds)
    times = histogram.times()
    assert (times.ends, times.counts, times.count) == ((0.1, 1.0), (2, 2, 2), 6)
    assert times.seconds == 52.22


@given(st.lists(st.floats(0, 100)))
def test_every_time_is_in_the_one_bucket_where_it_belongs(observed: list[float]) -> None:
    histogram = Histogram()
    for seconds in observed:
        histogram.observe(seconds)
    times = histogram.times()
    assert times.count == len(observed)
    for n, end in enumerate(ENDS):
        assert sum(times.counts[: n + 1]) == sum(seconds <= end for seconds in observed)


def test_what_was_taken_before_does_not_change() -> None:
    histogram = Histogram()
    before = histogram.times()
    histogram.observe(1)
    assert (before.count, histogram.times().count) == (0, 1)
