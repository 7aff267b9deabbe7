"""Who watches one market: the streams of its resolutions, and where whoever comes back goes on."""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np
from msgspec import structs

from actors import candle
from actors.bars import Bar, Gone, Start
from actors.reading import FAR, GRACE, Reading
from actors.ring import ALWAYS, View
from actors.topics import Subscription, Topic
from storage.calendar import Resolution, rung
from storage.candles import Ended
from storage.events import Array
from storage.partitions import BrokenPartition
from storage.records import Market
from storage.retention import Floors
from storage.schema import RUNGS
from storage.store import History

REPLAY = 5000  # changed bars that a resumed stream is sent; beyond, a snapshot


class Feed:
    """A resolution that somebody watches."""

    def __init__(self, topic: Topic, resolution: Resolution) -> None:
        self.topic = topic
        self.resolution = resolution
        self.rung = rung(resolution)
        self.direct = resolution.seconds == self.rung
        self.open: dict[int, int] = {}  # bars last shown as not closed, and the second at which each is over


class Watched(Reading):
    """A market's bars, and a feed for each resolution that somebody is subscribed to."""

    def __init__(
        self,
        record: Market,
        store: History,
        epoch: str,
        *,
        seq: int,
        fresh: bool,
        applied: Callable[[], int],
        now: Callable[[], float],
        floors: Floors | None = None,
    ) -> None:
        super().__init__(record, store, seq=seq, fresh=fresh, applied=applied, now=now, floors=floors)
        self._epoch = epoch
        self._feeds: dict[Resolution, Feed] = {}
        self._next_end: float = math.inf  # when the first open bar that somebody watches is over
        self._outside = dict.fromkeys(RUNGS, seq)  # newest seq that may have changed what is not in the ring
        self._changed: int | None = 0 if fresh else None  # the newest seq that changed anything; None: the store knows

    @property
    def watched(self) -> bool:
        """Whether somebody is subscribed."""
        return bool(self._feeds)

    @property
    def due(self) -> bool:
        """Whether a bar that somebody watches is over and was not said to be closed."""
        return self._watermark() >= self._next_end

    async def subscribe(
        self, resolution: Resolution, subscription: Subscription, bars: int, since: int | None
    ) -> Topic:
        """Join the stream of a resolution."""
        feed = self._feeds.get(resolution)
        if feed is None or not feed.topic.subscriptions:  # to nobody, it was not told what changed
            await self._ring(rung(resolution))
            topic = Topic(self.record.market_symbol, resolution.name, self._epoch, await self._position())
            feed = Feed(topic, resolution)
        start = await self._opening(feed, bars, since)
        subscription.begin(start)
        if not subscription.ended:
            self._feeds[resolution] = feed  # also where the others left meanwhile, and the stream with them
            feed.topic.subscriptions.add(subscription)
        return feed.topic

    async def _position(self) -> int:
        """The seq that changed this market last."""
        if self._changed is None:
            found, _ = await self._store.last_change(self.kind, self.record.slot)
            self._changed = found
        return self._changed

    async def resnapshot(self, topic: Topic, subscription: Subscription, bars: int) -> None:
        """Begin again with the present."""
        feed = next((feed for feed in self._feeds.values() if feed.topic is topic), None)
        if feed is not None:
            subscription.begin(await self._opening(feed, bars, None))

    def unsubscribe(self, topic: Topic, subscription: Subscription) -> None:
        """Leave; a stream nobody watches ends."""
        topic.subscriptions.discard(subscription)
        if not topic.subscriptions:
            self._feeds = {resolution: feed for resolution, feed in self._feeds.items() if feed.topic is not topic}

    async def _opening(self, feed: Feed, count: int, since: int | None) -> Start:
        if since is not None:
            found = None
            with suppress(BrokenPartition):  # what changed in there cannot be told; the newest bars may lie elsewhere
                found = await self._since(feed, since)
            if found is not None:
                return found
        bars = self._shown(feed, await self._newest_bars(feed.resolution, FAR, max(count, 1)))
        newest = bars[-1].time if bars else None
        return Start(feed.topic.seq, False, bars[max(0, len(bars) - count) :] if count else [], [], newest)

    async def _since(self, feed: Feed, since: int) -> Start | None:
        """Every bar that changed after `since`, and the one that was newest then; None where that is too much, or not
        known any more."""
        if since < self._floors.of(self.kind, feed.rung).seq:
            return None
        ring = await self._ring(feed.rung)
        ended: list[Ended] = []  # bars that were taken back since, and whether they were there then
        if since >= max(self._outside[feed.rung], ring.lost):
            times = ring.changed(since)
        else:
            slot = self.record.slot
            times, applied = await self._store.changed(self.kind, feed.rung, slot, since, REPLAY + 1)
            late = [self._start(feed.rung, row[0]) for seq, row in self._unflushed if seq > max(since, applied)]
            times = sorted({*times, *late, *ring.changed(since)})
            ended, _ = await self._store.ended(feed.rung, slot, since, REPLAY + 1)
        if len(times) > REPLAY or any(was_there is None for _, was_there in ended):
            return None
        known = ring.newest_born_by(since)
        if known is None and ring.floor != ALWAYS:
            return None
        had = set(self._labels(feed, [t for t, was_there in ended if was_there]).tolist())
        taken = set(self._labels(feed, [t for t, _ in ended]).tolist())
        wanted = {*self._labels(feed, times).tolist(), *taken}
        if known is not None:
            # The bar that the client's chart ended with may have been closed meanwhile by the clock alone; so may those
            # before it that were open beside it, for stragglers.
            newest = int(self._labels(feed, [known])[0])
            stragglers = math.ceil(GRACE / feed.resolution.seconds)
            wanted.update([newest, *(self._calendar.back(feed.resolution, newest, n + 1) for n in range(stragglers))])
        shown: list[Bar] = []
        if wanted:
            low, high = min(wanted), max(wanted)
            if (high - low) // feed.resolution.seconds > 4 * REPLAY:
                return None
            stop = int(self._calendar.next(feed.resolution, np.array([high]))[0])
            bars = await self._bars(feed.resolution, low, stop)
            shown = self._shown(feed, bars.take(np.isin(bars["t"], list(wanted))))
        there = {bar.time for bar in shown}
        gone = [Gone(label, label in had) for label in sorted(taken - there)]
        # Whatever became of it meanwhile: the client has it.
        shown = [structs.replace(bar, born=min(bar.born, since)) if bar.time in had else bar for bar in shown]
        if not shown and not gone and since < feed.topic.seq:
            return None  # no frame would bring the client to this stream's position
        return Start(feed.topic.seq, True, shown, gone, shown[-1].time if shown else None)

    def _labels(self, feed: Feed, times: Sequence[int]) -> Array:
        labels = np.array(sorted(times), np.int64)
        return labels if feed.direct else self._calendar.bucket(feed.resolution, labels)

    async def _one(self, feed: Feed, label: int) -> list[Bar]:
        """The bar at this label, or none."""
        if feed.direct and label >= self._first(feed.rung):
            state = self._rings[feed.rung].state(label)
            if state is not None:
                bar = candle.shown(self._layout, state, self._mark(feed, label))
                return [bar] if bar else []
        stop = label + 1 if feed.direct else int(self._calendar.next(feed.resolution, np.array([label]))[0])
        bars = await self._bars(feed.resolution, label, stop)
        return self._shown(feed, bars.take(bars["t"] == label))

    def _shown(self, feed: Feed, bars: View) -> list[Bar]:
        times = bars["t"].tolist()
        closed = [self._mark(feed, t) for t in times]
        columns = [bars[name].tolist() for name in ("open", "high", "low", "close")]
        rest = [
            bars.volumes.tolist(),
            bars["trades_count"].tolist(),
            closed,
            bars["rev"].tolist(),
            bars["born"].tolist(),
        ]
        return [Bar(*row) for row in zip(times, *columns, *rest, strict=True)]

    def _mark(self, feed: Feed, t: int) -> bool:
        """Whether the bar is closed; one that is not is watched until it is."""
        end = self._calendar.end_instant(feed.resolution, t)
        closed = end <= self._watermark()
        if closed:
            feed.open.pop(t, None)
        else:
            feed.open[t] = end
            self._next_end = min(self._next_end, end)
        return closed

    def _over(self, feed: Feed) -> set[int]:
        """The bars last shown as not closed whose time is over."""
        return {t for t, end in feed.open.items() if end <= self._watermark()}

    async def _there(self, feed: Feed, seconds: Sequence[int]) -> set[int]:
        """The bars around these seconds that are there."""
        labels = np.unique(self._labels(feed, [self._start(feed.rung, second) for second in seconds]))
        return {bar.time for label in labels.tolist() for bar in await self._one(feed, label)}
