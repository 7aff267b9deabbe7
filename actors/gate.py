"""Pure: which events would change a day whose raw events were dropped, and the words for it."""

from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np

from storage.calendar import MICROS
from storage.events import Array
from storage.retention import DAY, Closed

Days = Callable[[Array, Array], Array]  # (markets, seconds) -> the label of each second's trading day
Spans = Callable[[int, int], tuple[int, int]]  # (market, label of a day) -> its events lie in [low, high) µs

REACH = 2  # days from an event to the ends of its trading day, at most
NOWHERE = -(2**62)  # in place of a time: the event that would be changed is not there any more


class Gate:
    """Knows the closed days.

    A bar is folded again from all raw events in it, so no event may change one that lies in a closed day, even in part,
    as a trading day may that is no UTC day.
    """

    def __init__(self, closed: Closed, days: Days, spans: Spans) -> None:
        self.closed = closed
        self._days, self._spans = days, spans

    def shut(self, markets: Array, ts: Array) -> Array:
        """Which events of these markets at these times (µs) are of closed days, as a mask."""
        out = np.zeros(len(ts), np.bool_)
        if not len(self.closed) or not len(ts) or ts.min() >= (self.closed.last + (REACH + 1) * DAY) * MICROS:
            return out
        days = ts // (DAY * MICROS) * DAY
        near = np.zeros(len(ts), np.bool_)
        for day in np.unique(days).tolist():
            rows = np.flatnonzero(days == day)
            out[rows] = self.closed.holds(day, markets[rows])
            for step in range(-REACH, REACH + 1):
                near[rows] |= self.closed.holds(day + step * DAY, markets[rows])
        some = np.flatnonzero(near & ~out)
        if len(some):
            labels = self._days(markets[some], ts[some] // MICROS)
            pairs, which = np.unique(np.stack([markets[some], labels]), axis=1, return_inverse=True)
            verdicts = np.array([self._straddles(market, label) for market, label in pairs.T.tolist()], np.bool_)
            out[some] = verdicts[which.ravel()]
        return out

    def _straddles(self, market: int, label: int) -> bool:
        """Whether a part of this trading day is closed."""
        low, high = self._spans(market, label)
        first, last = low // MICROS // DAY * DAY, (high - 1) // MICROS // DAY * DAY
        return any(self.closed.holds(day, np.array([market]))[0] for day in range(first, last + DAY, DAY))


def reason(ts: int) -> str:
    """Why an event is refused that would change the day of this time (µs), or of one that is NOWHERE any more."""
    if ts == NOWHERE:
        return (
            "the event that this would change was dropped with the raw events of its day, whose candles cannot change"
        )
    day = datetime.fromtimestamp(ts // MICROS, UTC).date()
    return f"{day}: its raw events were dropped, so candles of that day cannot change"
