"""Who saw everything of which market, and when: kept from what feeds say of themselves, and from imports."""

import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, Protocol

import trio
from msgspec import Struct
from trio import TASK_STATUS_IGNORED, TaskStatus

from storage.coverage import Feed, Source, Standing
from storage.errors import BadRequest, Unavailable
from storage.spans import Spans, common, union, without

log = logging.getLogger(__name__)

Run = Callable[..., Awaitable[Any]]  # runs a function of `storage` against the state file, on a worker thread

MOST_FEEDS = 1_000  # that report at a time
WRITE_SECONDS = 5.0  # between two notes of how far feeds are
IMPORTS = "import"  # the feed under which imports are noted
MICROS = 1_000_000


class Ledger(Protocol):
    """What is asked of `storage.coverage`."""

    def put(self, state: Any, feeds: Sequence[Feed], /) -> None: ...
    def watch(self, state: Any, feed: Feed, markets: Collection[int] | None, at: int, /) -> None: ...
    def cover(self, state: Any, name: str, pieces: Sequence[tuple[int, int, int]], /) -> None: ...
    def sources(self, state: Any, market: int, low: int, high: int, /) -> list[Source]: ...


class FeedState(Struct, frozen=True, kw_only=True):
    """How a feed stands now."""

    name: str
    up: bool
    lag: float  # seconds from what it has seen to the clock
    outages: int  # that are over, since the start
    down_seconds: float  # how long those took


class Known(Struct, frozen=True, kw_only=True):
    """What one feed says of a market within a stretch of time; µs, no instant twice."""

    feed: str
    up: Spans  # everything is here
    down: Spans  # the feed was there and saw nothing
    pending: Spans  # not reached yet by a feed that reports


class Coverage:
    """The feeds that report. What begins, ends or breaks is on the disk before it is answered, how far they are a few
    seconds later; a feed's markets are on the disk alone."""

    def __init__(
        self, run: Run, ledger: Ledger, feeds: Sequence[Feed], *, now: Callable[[], float] = time.time, silence: float
    ) -> None:
        """`feeds` are those that had not ended; after `silence` seconds without a word a feed counts as down."""
        self._run, self._ledger, self._now = run, ledger, now
        self._silence = round(silence * MICROS)
        self._feeds = {feed.name: feed for feed in feeds}
        self._lists: dict[str, bytes] = {}  # what each feed's list of markets was, so that most need not be looked up
        self._outages: dict[str, tuple[int, int]] = {}  # how many are over, and how many µs they took
        self._unwritten: set[str] = set()
        self._silent: set[str] = set()  # the log was told
        self._changing = trio.Lock()

    def known_list(self, name: str, markets: Sequence[str]) -> bool:
        """Whether these are the names with which the feed said last what it watches."""
        return self._lists.get(name) == _digest(markets)

    async def beat(
        self,
        name: str,
        markets: Collection[int] | None = None,
        *,
        through: int | None = None,
        down: bool = False,
        ended: bool = False,
        listed: Sequence[str] = (),
    ) -> None:
        """A feed says that it has seen everything before `through` (µs; now, unless it is down).

        From then on it watches these markets (slots) and no others; None: the same as before. `listed` is how it named
        them, where all of them are known.
        """
        async with self._changing:
            now = self.micros()
            old = self._feeds.get(name)
            if old is None and markets is None:
                if ended:
                    return
                raise BadRequest(f"markets: needed, as no feed named {name!r} is reporting")
            if old is None and len(self._feeds) >= MOST_FEEDS:
                raise BadRequest(f"feed: {MOST_FEEDS} feeds are reporting, which is all that may; end one of them")
            reached = through if through is not None else None if down else now
            feed = self._next(old, name, now, reached, down, ended)
            steady = old is not None and old.low == feed.low and old.standing == feed.standing and markets is None
            if steady:
                self._unwritten.add(name)
            else:
                at = max(feed.high, now if reached is None else reached)
                if old is not None and name in self._unwritten:
                    await self._run(self._ledger.put, [old])  # nobody else knows how far its last span went
                await self._run(self._ledger.watch, feed, markets, at)
                self._unwritten.discard(name)
            self._keep(old, feed)
            if listed:
                self._lists[name] = _digest(listed)

    async def cover(self, name: str, pieces: Sequence[tuple[int, int, int]]) -> None:
        """What happened in a market (slot) from `low` on and before `high` (µs) is all here, for each of these."""
        await self._run(self._ledger.cover, name, pieces)

    async def known(self, market: int, low: int, high: int) -> list[Known]:
        """What feeds and imports say of a market (slot) between two instants, by name; at most until now."""
        high = min(high, self.micros())
        if low >= high:
            return []
        found: list[Source] = await self._run(self._ledger.sources, market, low, high)
        return [self._told(source, low, high) for source in found]

    def statistics(self) -> list[FeedState]:
        """The feeds that have not ended, by name."""
        now = self.micros()
        states = []
        for name, feed in sorted(self._feeds.items()):
            outages, micros = self._outages.get(name, (0, 0))
            states.append(
                FeedState(
                    name=name,
                    up=self._alive(feed, now),
                    lag=max(0, now - feed.high) / MICROS,
                    outages=outages,
                    down_seconds=micros / MICROS,
                )
            )
        return states

    def micros(self) -> int:
        """The clock, in µs since 1970."""
        return round(self._now() * MICROS)

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Note now and then how far feeds are, and say which fall silent, until cancelled."""
        task_status.started()
        while True:
            await trio.sleep(WRITE_SECONDS)
            await self.flush()
            self._look()

    async def flush(self) -> None:
        """Note how far feeds are; on a full disk that waits."""
        async with self._changing:
            feeds = [self._feeds[name] for name in self._unwritten]
            if not feeds:
                return
            try:
                await self._run(self._ledger.put, feeds)
            except Unavailable:
                return
            self._unwritten.clear()

    # --- within

    def _next(self, old: Feed | None, name: str, now: int, through: int | None, down: bool, ended: bool) -> Feed:
        """How a feed stands after its word."""
        standing: Standing = "ended" if ended else "down" if down else "up"
        if old is None:
            at = now if through is None else through
            return Feed(name=name, low=at, high=at, heard=now, standing=standing)
        low, high = old.low, old.high
        if through is not None and through > high:
            if self._alive(old, now):
                high = through
            elif not down and not ended:  # it is back: what happened meanwhile it has not seen
                low = high = through
        return Feed(name=name, low=low, high=high, heard=now, standing=standing)

    def _keep(self, old: Feed | None, feed: Feed) -> None:
        if feed.standing == "ended":
            for kept in (self._feeds, self._lists, self._outages):
                kept.pop(feed.name, None)
            self._silent.discard(feed.name)
            return
        self._feeds[feed.name] = feed
        if old is not None and old.low != feed.low:
            outages, micros = self._outages.get(feed.name, (0, 0))
            self._outages[feed.name] = (outages + 1, micros + feed.low - old.high)
            log.info("feed %s: back after %.0f s", feed.name, (feed.low - old.high) / MICROS)
        self._look()

    def _look(self) -> None:
        """Say once of each outage that there is one."""
        now = self.micros()
        for name, feed in self._feeds.items():
            if self._alive(feed, now):
                self._silent.discard(name)
            elif name not in self._silent:
                self._silent.add(name)
                why = "says that it is down" if feed.standing == "down" else "silent"
                log.warning("feed %s: %s; it saw everything until %.0f s ago", name, why, (now - feed.high) / MICROS)

    def _alive(self, feed: Feed, now: int) -> bool:
        return feed.standing == "up" and now - feed.heard <= self._silence

    def _told(self, source: Source, low: int, high: int) -> Known:
        window = [(low, high)]
        watched = common(window, union((a, high if b is None else b) for a, b in source.watched))
        feed = self._feeds.get(source.feed)
        saw, pending = union(source.saw), []
        if feed is not None:
            saw = union(saw, [(feed.low, feed.high)])
            if self._alive(feed, self.micros()):
                pending = common(watched, [(feed.high, high)])
        up = union(common(watched, saw), common(window, union(source.covered)))
        return Known(
            feed=source.feed,
            up=up,
            down=without(without(watched, up), pending),
            pending=without(pending, up),
        )


def _digest(markets: Sequence[str]) -> bytes:
    return hashlib.blake2b("\0".join(markets).encode("utf-8", "replace"), digest_size=16).digest()
