"""What each market traded in the last 24 hours: what lists and searches are ordered by.

It is summed up from the store now and then, and only while somebody asks: it may be as old as `seconds`, and some
seconds more that events take to get there.
"""

from collections.abc import Awaitable, Callable

import numpy as np
import trio

from actors.tiers import Tiers
from storage.errors import Unavailable
from storage.events import Array
from storage.search import NOBODY, Busy
from storage.traded import Traded

DAY = 86400


class Day:
    """The last 24 hours of all markets, as of the last look, and the tiers that they come to."""

    def __init__(
        self, look: Callable[[int], Awaitable[Traded]], now: Callable[[], float], seconds: float, tiers: Tiers
    ) -> None:
        """`look(start)` sums up what was traded since then; a look is at most `seconds` old when it is asked for."""
        self._look, self._now, self._seconds, self.tiers = look, now, seconds, tiers
        self._looked = -np.inf
        self._looking = trio.Lock()
        self._opened: Array = np.zeros(0)
        self.busy: Busy = NOBODY

    async def fresh(self) -> "Day":
        """This, after a look where the last one is too old; the last one again where the store cannot be read."""
        if self._now() - self._looked >= self._seconds:
            async with self._looking:
                if self._now() - self._looked >= self._seconds:
                    await self._take()
        return self

    def opened(self, slot: int) -> float | None:
        """The first price of a market in these hours; None where there was none."""
        price = float(self._opened[slot]) if slot < len(self._opened) else np.nan
        return None if np.isnan(price) else price

    async def _take(self) -> None:
        now = self._now()
        try:
            found = await self._look(int(now) - DAY)
            size = int(found.market.max()) + 1 if len(found.market) else 0
            volumes, turnovers, opened = np.zeros(size), np.zeros(size), np.full(size, np.nan)
            volumes[found.market], turnovers[found.market] = found.volume, found.turnover
            await self.tiers.take(turnovers)
        except Unavailable:
            return
        opened[found.market] = found.opened
        self._opened = opened
        self.busy = Busy.of(volumes)
        self._looked = now
