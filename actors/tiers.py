"""The tier of each market: the one set by hand, or the one that its last 24 hours earned it."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np

from storage import tiers
from storage.events import Array
from storage.records import Market

BOUNDS = (10e6, 1e6, 1e5)  # from how much turnover on a market is in tier 1, 2 and 3


class Tiers:
    """What was assigned; a change is in the state file before it is told."""

    def __init__(self, run: Callable[..., Awaitable[Any]], bounds: Sequence[float] = BOUNDS) -> None:
        """`run(work, *arguments)` runs work(state, *arguments); `bounds` descend, in quote currency."""
        self._run, self._bounds = run, bounds
        self._known: Array | None = None

    async def take(self, turnover: Array) -> None:
        """Assign tiers by these turnovers of 24 hours, by slot."""
        if self._known is None:
            self._known = await self._run(tiers.known)
        found = tiers.assigned(turnover, self._known, self._bounds)
        before = np.full(len(found), tiers.LAST, np.uint8)
        before[: len(self._known)] = self._known
        changed = np.flatnonzero(found != before)
        if len(changed):
            await self._run(tiers.note, list(zip(changed.tolist(), found[changed].tolist(), strict=True)))
        self._known = found

    def of(self, market: Market) -> str:
        """The tier of a market."""
        if market.tier is not None:
            return market.tier
        if self._known is None or market.slot >= len(self._known):
            return tiers.TIERS[-1]
        return tiers.TIERS[int(self._known[market.slot]) - 1]
