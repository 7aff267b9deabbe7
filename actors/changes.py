"""Pure: below which second nothing of a market has changed since a seq."""

import math
from bisect import bisect_right

from msgspec import Struct

MOST = 256  # entries
NEAR = 60  # seconds: slices that go on from where the last one was share its entry


class Basis(Struct, frozen=True):
    """What an answer rests on: it stays as it is for as long as this does."""

    seq: int
    reach: int  # what happens from this second on is none of its concern
    rung: int
    floor: int  # of that rung: below it bars were dropped
    closes: float = math.inf  # when its last bar does, where that is open


class Changes:
    """For each slice that came the lowest second it touched, as far as no later one touched a lower one."""

    def __init__(self, seq: int) -> None:
        self._from = seq  # what came up to here is not known
        self._seqs: list[int] = []
        self._lows: list[int] = []  # ascending, as the seqs are

    def note(self, seq: int, low: int) -> None:
        """A slice came."""
        seqs, lows = self._seqs, self._lows
        while lows and lows[-1] >= low:
            seqs.pop()
            lows.pop()
        if lows and low < lows[-1] + NEAR:
            seqs[-1] = seq
            return
        seqs.append(seq)
        lows.append(low)
        if len(seqs) > MOST:
            self._from = seqs.pop(0)
            del lows[0]

    def untouched(self, since: int, before: int) -> bool:
        """Whether nothing before this second has changed after this seq, as far as is known."""
        if since < self._from:
            return False
        at = bisect_right(self._seqs, since)
        return at == len(self._lows) or self._lows[at] >= before
