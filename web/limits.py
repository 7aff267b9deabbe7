"""How often: a sliding window of requests for each address and each key."""

import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Literal

import trio
from msgspec import Struct

from storage.errors import CandledError
from web.auth import SIGNED, presented
from web.context import Rates, Request

Group = Literal["history", "ohlcv", "search", "other"]

# Which limit an endpoint is under: `other`, but for these. None: never limited.
GROUPS: dict[str, Group | None] = {
    "udf.config": None,
    "udf.now": None,
    "udf.history": "history",
    "symbols.search": "search",
    "lightweight.ohlcv": "ohlcv",
    **{f"rest.{name}": None for name in SIGNED},  # an app's own server
    "health.alive": None,
    "health.ready": None,
    "ui.index": None,
    "ui.asset": None,
    "ui.file": None,
}
# Seconds that a request waits for its turn before it is refused: a chart keeps an error that would have passed.
PATIENCE: dict[Group, float] = {"history": 1.0}
WAITING = 10  # requests of one sender that wait at a time: more than a page of charts sends, too few to fill memory
MOST = 20_000  # whoever is counted at a time
ROUNDING = 1e-6


class RateLimited(CandledError):
    """Too many requests in a window."""

    def __init__(self, limit: int, window: float, retry_after: int) -> None:
        super().__init__(f"more than {limit} requests in {window:g} s; again in {retry_after} s")
        self.limit = limit
        self.retry_after = retry_after


class LimiterStatistics(Struct, frozen=True):
    """Who is counted, and what came of it."""

    counted: int
    refused: Mapping[str, int]  # by group
    delayed: Mapping[str, int]
    waiting: int  # now


class _Count:
    """Requests of one sender in the window that is under way and in the one before it."""

    __slots__ = ("before", "now", "since")

    def __init__(self, since: float) -> None:
        self.since = since  # when the window under way began
        self.now = 0
        self.before = 0


class Limiter:
    """Counts the requests of each sender: those of the window under way, and as much of the last one's as the sliding
    window still covers. Two numbers per sender, however high the limit."""

    def __init__(self, rates: Rates, *, now: Callable[[], float] = trio.current_time, most: int = MOST) -> None:
        self._window = rates.window_ms / 1000
        groups: tuple[Group, ...] = ("history", "ohlcv", "search", "other")
        self._limits: dict[Group, int] = {
            group: getattr(rates, group) if rates.requests is None else rates.requests for group in groups
        }
        self._replaced = rates.requests is not None
        self._now = now
        self._most = most
        self._counts: dict[tuple[Group, str], _Count] = {}
        self._refused: dict[str, int] = dict.fromkeys(groups, 0)
        self._delayed: dict[str, int] = dict.fromkeys(groups, 0)
        self._waiting: dict[str, int] = {}  # by sender

    async def admit(self, asked: Request) -> None:
        """Count a request; raise RateLimited where it is one too many."""
        endpoint = asked.endpoint or ""
        group = GROUPS.get(endpoint, "other")
        if group is None or not self._limits[group]:
            return
        if endpoint in ("ingest.events", "ingest.bars", "ingest.snapshots") and asked.known and not self._replaced:
            return  # a feeder with a key of its own is slowed down by the journal, not by a count
        await self.turn(group, counted_as(asked.known, presented(asked), asked.address))

    def at_once(self, endpoint: str, who: str) -> bool:
        """Count a request whose turn it is; false, and not counted, where it would have to wait or be refused."""
        group = GROUPS.get(endpoint, "other")
        return group is None or not self._limits[group] or not self.taken(group, who)

    async def turn(self, group: Group, who: str) -> None:
        """Count one request of `who`; where it is one too many, wait a little for its turn, or raise RateLimited."""
        wait = self.taken(group, who)
        if not wait:
            return
        if wait <= PATIENCE.get(group, 0.0) and self._waiting.get(who, 0) < WAITING:
            self._delayed[group] += 1
            wait = await self._awaited(group, who, wait)
        if wait:
            self._refused[group] += 1
            raise RateLimited(self._limits[group], self._window, math.ceil(wait))

    async def _awaited(self, group: Group, who: str, wait: float) -> float:
        """Wait for the turn of a request that `taken` put off, as long as it may come in time; then as `taken`."""
        until = self._now() + PATIENCE[group]
        self._waiting[who] = self._waiting.get(who, 0) + 1
        try:
            while wait and self._now() + wait <= until:
                await trio.sleep(wait)
                wait = self.taken(group, who)
        finally:
            self._waiting[who] -= 1
            if not self._waiting[who]:
                del self._waiting[who]
        return wait

    def taken(self, group: Group, who: str) -> float:
        """Count one request of `who` and answer 0; or, where it is one too many, the seconds until it is not."""
        now, limit = self._now(), self._limits[group]
        count = self._count((group, who), now)
        share = 1 - (now - count.since) / self._window
        if count.before * share + count.now + 1 <= limit + ROUNDING:
            count.now += 1
            return 0.0
        if count.now + 1 <= limit:
            # As time passes, less and less of the last window is covered.
            return (share - (limit - count.now - 1) / count.before) * self._window + ROUNDING
        # Only in the next window, when this one is the last.
        return (share + 1 - (limit - 1) / count.now) * self._window + ROUNDING

    def statistics(self) -> LimiterStatistics:
        """Counters for metrics."""
        return LimiterStatistics(
            len(self._counts), dict(self._refused), dict(self._delayed), sum(self._waiting.values())
        )

    def _count(self, key: tuple[Group, str], now: float) -> _Count:
        count = self._counts.get(key)
        if count is None:
            count = self._counts[key] = _Count(now)
            self._forget(now)
            return count
        passed = (now - count.since) / self._window
        if passed < 1:
            return count
        if passed < 2:
            count.since, count.before, count.now = count.since + self._window, count.now, 0
        else:
            count.since, count.before, count.now = now, 0, 0
        # Whoever was counted least lately stands first.
        self._counts[key] = self._counts.pop(key)
        return count

    def _forget(self, now: float) -> None:
        """Drop whoever has not been heard of, and beyond the bound whoever was counted least lately."""
        if len(self._counts) <= self._most:
            return
        for key in list(self._counts):
            if len(self._counts) <= self._most * 9 // 10 and now - self._counts[key].since < 2 * self._window:
                break
            del self._counts[key]


def counted_as(known: bool, key: str, address: str) -> str:
    """Tells senders apart: keys of ours, without keeping them, and addresses."""
    return hashlib.sha256(key.encode()).hexdigest()[:32] if known else address
