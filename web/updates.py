"""`/api/lightweight/realtime` and `/api/tradingview/stream`: the newest price of markets, with the bar it moves."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Protocol
from urllib.parse import parse_qs

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from actors.bars import Label, Op, Reason, Start, shown
from actors.hub import Hub
from actors.live import LivePrices, LiveSubscription, Look
from actors.ticker import LastPrice, Price
from actors.topics import Streams, Subscription
from storage.calendar import Resolution, parse, parse_short
from storage.errors import CandledError
from storage.records import Market
from web.listener import Socket
from web.messages import Id, Refused
from web.outbox import WsLimits, text
from web.shapes import parsed
from web.stream import Guarded, MayRead, Talk, instead, renewed

_encode = msgspec.json.Encoder().encode
LONGEST_NAME = 256


class _Bar(Struct):
    time: int
    close: float


_bar = msgspec.json.Decoder(_Bar).decode


class Markets(Streams, Protocol):
    """What these endpoints ask of the engine."""

    live: LivePrices

    def tick(self, symbol: str) -> LastPrice | None: ...
    async def price(self, market: Market) -> Price: ...


class Seed:
    """The message of one of the two, and how it names resolutions."""

    def __init__(
        self,
        head: Callable[[str, int, float, float], bytes],
        parameter: str,
        resolution: Callable[[str], Resolution],
        name: Callable[[Resolution], str],
    ) -> None:
        """`head(symbol, time, price, volume)` is the message up to its last brace; `parameter` chooses bars."""
        self.head, self.parameter, self.resolution, self.name = head, parameter, resolution, name
        self.prices = Prices(self)
        self._bars: dict[Resolution, Bars] = {}

    def bars(self, resolution: Resolution, markets: Markets) -> "Bars":
        """The messages with bars of this resolution: one dialect, so that all who follow share what is encoded."""
        if resolution not in self._bars:
            self._bars[resolution] = Bars(self, resolution, markets)
        return self._bars[resolution]


class Prices:
    """Live prices as messages without bars."""

    quiet: frozenset[str] = frozenset()

    def __init__(self, seed: Seed) -> None:
        self._head = seed.head

    def told(self, look: Look) -> dict[str, Any]:
        tick = look.tick
        return {} if tick is None else {"time": tick.time, "price": tick.price, "volume": tick.volume}

    def row(self, symbol: str, _seq: int, told: Mapping[str, Any], _changed: Iterable[str] | None) -> bytes:
        return text(self._head(symbol, told["time"], told["price"], told["volume"]) + b"}")

    def message(self, rows: Sequence[bytes], **_: bool) -> bytes:
        return b"".join(rows)


class Bars:
    """A dialect of streams of bars: each change beside the newest price."""

    def __init__(self, seed: Seed, resolution: Resolution, markets: Markets) -> None:
        self._head = seed.head
        self._member = b'"%b":%b' % (seed.parameter.encode(), _encode(seed.name(resolution)))
        self._markets = markets
        self._last: dict[str, LastPrice] = {}  # charts do not go back in time, whatever is taken back

    def frame(self, label: Label, _prev: int, _seq: int, op: Op, text_: bytes) -> bytes:
        match op:
            case "upsert":
                return self._message(label.symbol, text_, b"upsert", _bar(text_))
            case "amend":
                return self._message(label.symbol, text_, b"amend")
            case "insert":
                return self._message(label.symbol, text_, b"reload")
            case "delete":
                return self._message(label.symbol, b"", b"reload")

    def snapshot(self, label: Label, start: Start, reason: Reason | None) -> bytes:
        if not start.bars:
            return self._message(label.symbol, b"", b"reload") if reason else b""
        bar = start.bars[-1]
        op = b"reload" if reason else b"upsert"
        return self._message(label.symbol, shown(bar), op, _Bar(bar.time, bar.close))

    def heartbeat(self, _label: Label, _seq: int) -> bytes:
        return b""  # these endpoints have none: pings tell that the connection lives

    def _message(self, symbol: str, bar: bytes, op: bytes, newest: _Bar | None = None) -> bytes:
        """`newest`: the bar, where it is the newest one."""
        tick, last = self._markets.tick(symbol), self._last.get(symbol)
        if tick is None and newest is not None:
            tick = LastPrice(newest.time, newest.close, 0.0)
        if tick is None:
            tick = last
        elif last is not None and tick.time < last.time:
            tick = LastPrice(last.time, tick.price, 0.0)
        if tick is None:
            return b""
        self._last[symbol] = tick
        shown_ = b'"bar":%b,' % bar if bar else b""
        head = self._head(symbol, tick.time, tick.price, tick.volume)
        return text(b'%b,%b%b,"op":"%b"}' % (head, shown_, self._member, op))


def _lightweight(symbol: str, time: int, price: float, volume: float) -> bytes:
    body = b'{"type":"price_update","symbol":%b,"data":{"time":%d,"price":%b,"volume":%b}'
    return body % (_encode(symbol), time, _encode(price), _encode(volume))


def _tradingview(symbol: str, time: int, price: float, volume: float) -> bytes:
    body = b'{"symbol":%b,"price":%b,"volume":%b,"time":%d'
    return body % (_encode(symbol), _encode(price), _encode(volume), time)


def lightweight() -> Seed:
    """`/api/lightweight/realtime`."""
    return Seed(_lightweight, "timeframe", parse_short, lambda resolution: resolution.short)


def tradingview() -> Seed:
    """`/api/tradingview/stream`."""
    return Seed(_tradingview, "resolution", parse, lambda resolution: resolution.name)


class Chosen(Struct, frozen=True):
    """One market, and the bars that come with its price."""

    symbol: Annotated[str, Meta(min_length=1, max_length=LONGEST_NAME)]
    timeframe: Annotated[str, Meta(min_length=1, max_length=16)] | None = None
    resolution: Annotated[str, Meta(min_length=1, max_length=16)] | None = None


class Acknowledged(Struct, frozen=True, omit_defaults=True):
    """The answer to an action."""

    type: str
    symbol: str
    timeframe: str | None = None
    resolution: str | None = None
    id: Id | UnsetType = UNSET


class Updates(Guarded):
    """One of the two endpoints."""

    def __init__(
        self, seed: Seed, markets: Markets, hub: Hub, limits: WsLimits, may_read: MayRead | None = None
    ) -> None:
        super().__init__(hub, limits, may_read)
        self.seed, self.markets = seed, markets

    def talk(self, socket: Socket) -> "UpdateTalk":
        return UpdateTalk(self, socket)


Key = tuple[str, Resolution | None]


class UpdateTalk(Talk):
    """One connection: what its address chooses, and what it says."""

    def __init__(self, shared: Updates, socket: Socket) -> None:
        super().__init__(shared, socket)
        self._seed, self._markets = shared.seed, shared.markets
        self._query = parse_qs(socket.head.target.partition("?")[2])
        self._every: LiveSubscription | None = None
        self._prices = LiveSubscription(self.hub, self.outbox, self._seed.prices, every=False)
        self._following: dict[Key, tuple[Market, Subscription | None]] = {}

    async def run(self) -> None:
        await self._begin()
        await super().run()

    async def _begin(self) -> None:
        """Follow what the address says; all markets where it says nothing."""
        symbols = [symbol for some in self._query.get("symbol", ()) for symbol in some.split(",") if symbol]
        name = self._query.get(self._seed.parameter, [""])[0]
        try:
            resolution = self._seed.resolution(name) if name else None
            if not symbols and resolution is not None:
                raise Refused("invalid_message", f"symbol: needed beside {self._seed.parameter}")
            if not symbols:
                self._every = LiveSubscription(self.hub, self.outbox, self._seed.prices, every=True)
                await self._markets.live.follow(self._every, (), bytes)
            for symbol in symbols:
                await self._follow(symbol, resolution)
        except (CandledError, Refused) as error:
            self.answer(self.failed(error))
        self.outbox.flush()

    async def heed(self, action: str, said: dict[str, Any], id: Id | UnsetType) -> None:
        if action not in ("subscribe", "unsubscribe"):
            raise Refused("unknown_action", f"action: {instead(said, 'action', self.actions)}")
        chosen = parsed(said, Chosen, texts=False)
        name = getattr(chosen, self._seed.parameter)
        resolution = None if name is None else self._seed.resolution(name)
        spelled = {} if resolution is None else {self._seed.parameter: self._seed.name(resolution)}
        if action == "subscribe":
            await self._follow(chosen.symbol, resolution, lambda symbol: self._say(symbol, spelled, id))
            return
        key = chosen.symbol.casefold(), resolution
        if key in self._following:
            symbol = self._following[key][0].market_symbol
            self._leave(key)
        else:
            symbol = chosen.symbol
        answer = Acknowledged("unsubscribed", symbol, id=id, **spelled)
        self.outbox.put(text(_encode(answer)))

    def _say(self, symbol: str, spelled: dict[str, str], id: Id | UnsetType) -> bytes:
        return text(_encode(Acknowledged("subscribed", symbol, id=id, **spelled)))

    def close(self) -> None:
        for key in list(self._following):
            self._leave(key)
        for subscription in (self._every, self._prices):
            if subscription is not None:
                subscription.end()

    async def _follow(
        self, name: str, resolution: Resolution | None, greeting: Callable[[str], bytes] = lambda _: b""
    ) -> None:
        """Follow one market; `greeting` words what comes first, with the market's name."""
        market = await self._markets.market(name)
        symbol = market.market_symbol
        key = symbol.casefold(), resolution
        if key not in self._following:
            self.admit(len(self._following))
        if self._every is not None:  # from here on the client chooses
            self._every.end()
            self._every = None
        if resolution is None:
            await self._markets.live.follow(self._prices, [market.slot], lambda: greeting(symbol))
            self._following[key] = market, None
        else:
            await self._follow_bars(key, market, resolution, greeting)

    async def _follow_bars(
        self, key: Key, market: Market, resolution: Resolution, greeting: Callable[[str], bytes]
    ) -> None:
        await self._markets.price(market)  # so that the newest price is known
        before = self._following.get(key)
        subscription = Subscription(
            self.hub,
            self.outbox,
            self._seed.bars(resolution, self._markets),
            Label(market.market_symbol, resolution.name, self._markets.epoch),
            greeting=lambda _: greeting(market.market_symbol),
            on_lost=lambda lost: self.nursery.start_soon(self._renew, lost),
            bars=1,
            conflate=self.limits.conflate_ms / 1000,
            idle=self.limits.heartbeat_seconds,
            limit=self.limits.pending_frames,
            replaces=before[1] if before else None,
        )
        try:
            subscription.topic = await self._markets.subscribe(market, resolution, subscription, bars=1, since=None)
        except BaseException:
            subscription.end()
            raise
        if before is not None:
            self._leave(key)
        self._following[key] = market, subscription

    def _leave(self, key: Key) -> None:
        market, subscription = self._following.pop(key)
        if subscription is None:
            self._markets.live.unfollow(self._prices, [market.slot])
            return
        subscription.end()
        if subscription.topic is not None:
            self._markets.unsubscribe(subscription.topic, subscription)

    async def _renew(self, subscription: Subscription) -> None:
        if not await renewed(self._markets, subscription):
            self.end(1011, "internal error")
