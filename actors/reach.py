"""Between which instants markets have finished bars: what lands there may change which of them count."""

from collections.abc import Iterable

import numpy as np

from actors.rounds import Round
from actors.vamm import SECOND
from storage.events import Array


class Reach:
    """By slot the first and the last second of a market's finished bars; live events mostly come after all of them."""

    def __init__(self, known: Iterable[tuple[int, int, int]] = ()) -> None:
        """`known`: markets, with the begin of their first bar and the end of their last one, in µs."""
        self._low = np.zeros(0, np.int64)
        self._high = np.zeros(0, np.int64)
        for market, begins, ends in known:
            self._widen(np.array([market]), np.array([begins]), np.array([ends]))

    def stirred(self, round_: Round) -> dict[int, list[int]]:
        """The seconds of each market around which the store may have to fold bars again, once it has this round."""
        parts: list[tuple[Array, Array]] = []
        for bars in round_.bars:
            market, begins = bars.integers("market"), bars.integers("ts")
            self._widen(market, begins, bars.integers("ends"))
            parts.append((market, begins // SECOND))
        if len(self._low):
            for table in round_.tables.values():
                market, t = table["market"], table["t"]
                near = np.flatnonzero(market < len(self._low))
                near = near[(t[near] >= self._low[market[near]]) & (t[near] < self._high[market[near]])]
                parts.append((market[near], t[near]))
        found: dict[int, list[int]] = {}
        for markets, seconds in parts:
            for market in np.unique(markets).tolist():
                found.setdefault(market, []).extend(seconds[markets == market].tolist())
        return found

    def _widen(self, market: Array, begins: Array, ends: Array) -> None:
        more = int(market.max(initial=-1)) + 1 - len(self._low)
        if more > 0:
            self._low = np.concatenate([self._low, np.full(more, np.iinfo(np.int64).max)])
            self._high = np.concatenate([self._high, np.zeros(more, np.int64)])
        np.minimum.at(self._low, market, begins // SECOND)
        np.maximum.at(self._high, market, ends // SECOND)
