"""What candled publishes in market channels: prices for a channel, bars for each connection that follows them."""

import logging
from weakref import WeakValueDictionary

import trio

from actors.bars import Label, Start
from actors.export import resolution_named
from actors.hub import Hub
from actors.topics import Streams, Subscription
from storage.calendar import Resolution
from storage.errors import UnknownMarket, UnknownResolution
from storage.records import Market
from web.outbox import Outbox, WsLimits
from web.pusher import frames
from web.pusher.bars import SHOWN, BarChannel
from web.pusher.prices import PriceFeed, Prices

log = logging.getLogger(__name__)

PATIENCE = 5.0  # seconds that whoever wants the last price waits for it

Stream = tuple[Market, Resolution]


class Following:
    """The market streams of all apps."""

    def __init__(self, streams: Streams, hub: Hub, limits: WsLimits) -> None:
        self.prices = Prices(streams, hub)
        self._streams, self._hub, self._limits = streams, hub, limits
        # One dialect per channel: what is worded alike is worded once for all of its subscribers.
        self._dialects: WeakValueDictionary[str, BarChannel] = WeakValueDictionary()

    async def bars_of(self, text: str) -> Stream | None:
        """The stream of bars that a channel's name says after `market-`; None where it says a market, there already or
        not. Raises UnknownMarket where only the resolution is known."""
        symbol, dash, name = text.rpartition("-")
        try:
            resolution = resolution_named(name)
        except UnknownResolution:
            return None
        if not dash or await self._is_market(text):
            return None
        return await self._streams.market(symbol), resolution

    async def follow(self, channel: str, stream: Stream, outbox: Outbox, nursery: trio.Nursery) -> Subscription:
        """Send a connection the newest bars and whatever becomes of them, behind the word that it is subscribed."""
        market, resolution = stream

        def greeting(_: Start) -> bytes:
            return frames.succeeded(channel)

        dialect = self._dialects.get(channel)
        if dialect is None:
            dialect = self._dialects[channel] = BarChannel(channel)
        subscription = Subscription(
            self._hub,
            outbox,
            dialect,
            Label(market.market_symbol, resolution.name, self._streams.epoch),
            greeting=greeting,
            on_lost=lambda lost: nursery.start_soon(self._renew, lost),
            bars=SHOWN,
            conflate=self._limits.conflate_ms / 1000,
            idle=self._limits.heartbeat_seconds,
            limit=self._limits.pending_frames,
        )
        try:
            topic = await self._streams.subscribe(market, resolution, subscription, bars=SHOWN, since=None)
        except BaseException:
            subscription.end()
            raise
        subscription.topic = topic
        return subscription

    def leave(self, subscription: Subscription) -> None:
        """A connection follows these bars no longer."""
        subscription.end()
        if subscription.topic is not None:
            self._streams.unsubscribe(subscription.topic, subscription)

    async def last_price(self, feed: PriceFeed) -> str | None:
        """What a market's price channel said last, or would have said."""
        with trio.move_on_after(PATIENCE):
            await feed.ready.wait()
        return feed.latest

    async def _renew(self, subscription: Subscription) -> None:
        """Replace what a slow connection could not take."""
        if subscription.topic is None or subscription.ended:
            return
        try:
            await self._streams.resnapshot(subscription.topic, subscription, bars=SHOWN)
        except Exception:
            log.exception("no new snapshot of %s %s", subscription.label.symbol, subscription.label.resolution)
            subscription.end()

    async def _is_market(self, symbol: str) -> bool:
        try:
            await self._streams.market(symbol)
        except UnknownMarket:
            return False
        return True
