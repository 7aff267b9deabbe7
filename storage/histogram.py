"""How long something took, and how often: counted in buckets, so that quantiles can be told later."""

from bisect import bisect_left

from msgspec import Struct

# Upper ends in seconds: from a fold of a few events to a disk that hangs.
ENDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0),
)


class Times(Struct, frozen=True):
    """What a histogram held at one moment."""

    ends: tuple[float, ...]  # seconds; a bucket holds what took at most so long, and longer than the end before
    counts: tuple[int, ...]  # by bucket, and behind them what took longer than every end
    seconds: float  # of all together

    @property
    def count(self) -> int:
        """How often it was done."""
        return sum(self.counts)


class Histogram:
    """Counts times. One thread observes; any may read."""

    __slots__ = ("_counts", "_ends", "_seconds")

    def __init__(self, ends: tuple[float, ...] = ENDS) -> None:
        self._ends = ends
        self._counts = [0] * (len(ends) + 1)
        self._seconds = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self._counts[bisect_left(self._ends, seconds)] += 1
        self._seconds += seconds

    def times(self) -> Times:
        """Everything so far."""
        return Times(self._ends, tuple(self._counts), self._seconds)
