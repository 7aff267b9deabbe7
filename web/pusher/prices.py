"""The price stream of a market: the one-second bar that a market is in, at most once a second, when it has changed."""

import logging
import math
import secrets
from collections.abc import Callable

import msgspec
import trio

from actors.bars import Label, Op, Reason, Start, shown
from actors.hub import Hub, Source
from actors.topics import Streams, Subscription, Topic
from storage.calendar import parse
from storage.errors import Unavailable, UnknownMarket
from storage.records import Market

log = logging.getLogger(__name__)

SECOND = parse("1S")
APART = 1.0  # seconds between two messages of a market
AGAIN = 2.0  # seconds until a market that nobody knows, or that cannot be read, is looked for again
LOOKS = 1000  # of them at a time
AT_ONCE = 8  # feeds that are opened side by side
IDLE = 60.0
MOST = 100_000  # changes that may come in one go; beyond, the present is read anew

TIME, CLOSED = b'{"time":', b',"closed":'  # where the text of a bar begins and what it ends with

_encode = msgspec.json.Encoder().encode


class PriceFeed:
    """One market's stream. A sink and a dialect of the hub: what it is told are bars, what it tells is the newest."""

    open, ended = True, False

    def __init__(self, hub: Hub, tell: Callable[[str], None]) -> None:
        self.touched = False
        self.ready = trio.Event()  # it is known what the market's last price is, or that it is not to be had
        self.latest: str | None = None  # what was told last, or would have been before anybody listened
        self.over = False
        self.waited = False  # for the market to be registered: all that it has ever said is news
        self.subscription: Subscription | None = None
        self.topic: Topic | None = None
        self._hub, self._tell = hub, tell
        self._epoch, self.said = secrets.token_hex(4), 0  # how many messages; a feed's numbers begin with it
        self._symbol = b""
        self._time, self._body = -1, b""
        self._moved = self._timing = False
        self._next = -math.inf
        self._source: Source | None = None

    # --- as a dialect

    def frame(self, label: Label, prev: int, seq: int, op: Op, text: bytes) -> bytes:  # noqa: ARG002
        self._symbol = _encode(label.symbol)
        if op != "delete":
            self._take(text)
        return b""

    def snapshot(self, label: Label, start: Start, reason: Reason | None) -> bytes:
        self._symbol = _encode(label.symbol)
        if start.bars:
            self._take(shown(start.bars[-1]))
        if reason is None:
            self._moved &= self.waited  # else where it was when we came is no news
            if start.bars:
                self.latest = self._worded()
            self.ready.set()
        return b""

    def heartbeat(self, label: Label, seq: int) -> bytes:  # noqa: ARG002
        return b""

    # --- as a sink

    def put(self, _: bytes) -> None:
        if not self._moved or self._timing:
            return
        now = trio.current_time()
        if now >= self._next:
            self._say(now)
        else:
            self._timing = True
            self._hub.at(self._next, self._due)

    def ask(self, source: Source) -> None:
        self._source = source
        if not self.touched:
            self._hub.touch(self)

    def charge(self, source: Source, amount: int) -> None:
        pass

    def flush(self) -> None:
        source, self._source = self._source, None
        while source is not None and not self.over:
            data, more = source.take(1 << 20)
            self.put(data)
            if not more:
                return

    # ---

    def _take(self, text: bytes) -> None:
        """Heed a bar, unless it is older than the newest: time never goes back."""
        time = int(text[len(TIME) : text.index(b",")])
        body = text[len(TIME) : text.rindex(CLOSED)]
        if time >= self._time and body != self._body:
            self._time, self._body, self._moved = time, body, True

    def _due(self) -> None:
        self._timing = False
        if self._moved and not self.over:
            self._say(trio.current_time())

    def _say(self, now: float) -> None:
        self._moved, self._next = False, now + APART
        self.said += 1
        self.latest = self._worded()
        self._tell(self.latest)

    def _worded(self) -> str:
        told = b'{"symbol":%b,"timestamp":%b,"seq":%d,"epoch":"%b"}'
        return (told % (self._symbol, self._body, self.said, self._epoch.encode())).decode()


class Prices:
    """Opens and closes the feeds that somebody listens to."""

    def __init__(self, streams: Streams, hub: Hub) -> None:
        self._streams, self._hub = streams, hub
        self._asked, self._asking = trio.open_memory_channel[tuple[PriceFeed, str]](math.inf)
        self._unknown: list[tuple[PriceFeed, str]] = []  # no market has the name yet

    def follow(self, symbol: str, tell: Callable[[str], None]) -> PriceFeed:
        """Have `tell` called with what a market's channel says, until `leave`; the market need not be there yet."""
        feed = PriceFeed(self._hub, tell)
        self._asked.send_nowait((feed, symbol))
        return feed

    def leave(self, feed: PriceFeed) -> None:
        """Nobody listens any more."""
        feed.over = True
        feed.ready.set()
        if feed.subscription is not None:
            feed.subscription.end()
        if feed.topic is not None and feed.subscription is not None:
            self._streams.unsubscribe(feed.topic, feed.subscription)

    async def run(self) -> None:
        """Open feeds until cancelled."""
        turns = trio.CapacityLimiter(AT_ONCE)
        async with trio.open_nursery() as nursery:

            async def opened(feed: PriceFeed, symbol: str) -> None:
                async with turns:
                    if not feed.over:
                        await self._open(feed, symbol, nursery)

            nursery.start_soon(self._look_again)
            async for feed, symbol in self._asking:
                nursery.start_soon(opened, feed, symbol)

    async def _open(self, feed: PriceFeed, symbol: str, nursery: trio.Nursery) -> None:
        try:
            market = await self._streams.market(symbol)
            await self._subscribe(feed, market, nursery)
        except (UnknownMarket, Unavailable) as error:
            feed.waited |= isinstance(error, UnknownMarket)
            feed.ready.set()
            self._unknown.append((feed, symbol))
        except Exception:  # a feed that fails takes no other with it
            log.exception("no price stream of %s", symbol)
            feed.ready.set()

    async def _subscribe(self, feed: PriceFeed, market: Market, nursery: trio.Nursery) -> None:
        subscription = Subscription(
            self._hub,
            feed,
            feed,
            Label(market.market_symbol, SECOND.name, self._streams.epoch),
            greeting=lambda _: b"",
            on_lost=lambda lost: nursery.start_soon(self._renew, lost),
            bars=1,
            idle=IDLE,
            limit=MOST,
        )
        try:
            topic = await self._streams.subscribe(market, SECOND, subscription, bars=1, since=None)
        except BaseException:
            subscription.end()
            raise
        subscription.topic = topic
        feed.subscription, feed.topic = subscription, topic
        if feed.over:
            self.leave(feed)

    async def _renew(self, subscription: Subscription) -> None:
        if subscription.topic is None or subscription.ended:
            return
        try:
            await self._streams.resnapshot(subscription.topic, subscription, bars=1)
        except Exception:
            log.exception("no new price of %s", subscription.label.symbol)

    async def _look_again(self) -> None:
        """Some markets are registered only after somebody listens for them."""
        while True:
            await trio.sleep(AGAIN)
            waiting = [one for one in self._unknown if not one[0].over]
            for one in waiting[:LOOKS]:
                self._asked.send_nowait(one)
            self._unknown = waiting[LOOKS:]
