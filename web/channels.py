"""The channels of `/ws` beside `bars`, as one connection follows them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from msgspec import UNSET, UnsetType

from actors.live import LivePrices, LiveSubscription, Wire
from actors.tape import Tapes, TapeSubscription
from storage import cards
from storage.errors import UnknownMarket
from storage.records import Market
from web.feeds import Movers, PriceRows, TradeRows
from web.messages import (
    Id,
    SubscribedChannel,
    SubscribedPrices,
    SubscribedTrades,
    SubscribePrices,
    SubscribeTrades,
    UnsubscribedChannel,
    UnsubscribedPrices,
    UnsubscribedTrades,
    UnsubscribePrices,
    UnsubscribeTrades,
    worded,
)
from web.shapes import parsed
from web.stream import Make, Session
from web.tokens import Tokens
from web.user_channels import AlertChannel, CardChannel

PRICES, TRADES = PriceRows(), TradeRows()


class Feeds(Protocol):
    """What these channels ask of the engine."""

    live: LivePrices
    tapes: Tapes

    def now(self) -> float: ...
    async def market(self, symbol: str) -> Market: ...


class Names(Protocol):
    """What they ask of the registry."""

    async def load(self, references: Sequence[str], /) -> dict[Any, int]: ...
    def market(self, slot: int) -> Market: ...
    async def ask(self, work: Callable[..., Any], *arguments: Any) -> Any: ...


def channels(feeds: Feeds, names: Names, tokens: Tokens) -> Mapping[str, Make]:
    """All of them."""
    movers = Movers(feeds.now)

    async def known(card: int) -> bool:
        return bool(await names.ask(cards.known, str(card)))

    return {
        "prices": lambda session: PriceChannel(session, feeds, names),
        "trades": lambda session: TradeChannel(session, feeds),
        "market": lambda session: MarketChannel(session, feeds, movers),
        "card": lambda session: CardChannel(session, known),
        "alerts": lambda session: AlertChannel(session, tokens),
    }


class PriceChannel:
    """Live prices of some markets, and of all."""

    def __init__(self, session: Session, feeds: Feeds, names: Names) -> None:
        self._session, self._feeds, self._names = session, feeds, names
        self._some: LiveSubscription | None = None
        self._symbols: dict[str, Market] = {}  # by symbol in small letters
        self._every: LiveSubscription | None = None

    @property
    def count(self) -> int:
        return (self._some is not None) + (self._every is not None)

    async def subscribe(self, said: dict[str, Any], id: Id | UnsetType) -> None:
        asked = parsed(said, SubscribePrices, texts=False)
        if asked.symbols == "*":
            await self._follow_every(id)
            return
        names = list(dict.fromkeys(asked.symbols))
        slots = await self._names.load(names)
        for name in names:
            if name not in slots:
                raise UnknownMarket(name)
        markets = {slot: self._names.market(slot) for slot in slots.values()}
        if self._some is None:
            self._session.admit_one()
            self._some = _subscription(self._session, PRICES, every=False)
        symbols = [market.market_symbol for market in markets.values()]
        try:
            greeting = worded(SubscribedPrices("prices", symbols, id))
            await self._feeds.live.follow(self._some, list(markets), lambda: greeting)
        except BaseException:
            if not self._symbols:
                self._some.end()
                self._some = None
            raise
        self._symbols.update((market.market_symbol.casefold(), market) for market in markets.values())

    async def _follow_every(self, id: Id | UnsetType) -> None:
        self._every = await _followed(
            self._session, self._feeds, self._every, PRICES, worded(SubscribedPrices("prices", "*", id))
        )

    def unsubscribe(self, said: dict[str, Any], id: Id | UnsetType) -> None:
        symbols = parsed(said, UnsubscribePrices, texts=False).symbols
        if symbols in (None, "*") and self._every is not None:
            self._every.end()
            self._every = None
        if symbols != "*" and self._some is not None:
            wanted = self._symbols if symbols is None else {symbol.casefold() for symbol in symbols}
            left = [self._symbols.pop(symbol) for symbol in list(wanted) if symbol in self._symbols]
            self._feeds.live.unfollow(self._some, [market.slot for market in left])
            if not self._symbols:
                self._some.end()
                self._some = None
        self._session.answer(UnsubscribedPrices("prices", UNSET if symbols is None else symbols, id))

    def close(self) -> None:
        for subscription in (self._some, self._every):
            if subscription is not None:
                subscription.end()


class MarketChannel:
    """What moves in all markets."""

    def __init__(self, session: Session, feeds: Feeds, movers: Movers) -> None:
        self._session, self._feeds, self._movers = session, feeds, movers
        self._every: LiveSubscription | None = None

    @property
    def count(self) -> int:
        return int(self._every is not None)

    async def subscribe(self, _said: dict[str, Any], id: Id | UnsetType) -> None:
        greeting = worded(SubscribedChannel("market", id))
        self._every = await _followed(self._session, self._feeds, self._every, self._movers, greeting)

    def unsubscribe(self, _said: dict[str, Any], id: Id | UnsetType) -> None:
        self.close()
        self._every = None
        self._session.answer(UnsubscribedChannel("market", id=id))

    def close(self) -> None:
        if self._every is not None:
            self._every.end()


class TradeChannel:
    """The trades of some markets."""

    def __init__(self, session: Session, feeds: Feeds) -> None:
        self._session, self._feeds = session, feeds
        self._tapes: dict[str, tuple[Market, TapeSubscription]] = {}  # by symbol in small letters

    @property
    def count(self) -> int:
        return len(self._tapes)

    async def subscribe(self, said: dict[str, Any], id: Id | UnsetType) -> None:
        asked = parsed(said, SubscribeTrades, texts=False)
        market = await self._feeds.market(asked.symbol)
        key = market.market_symbol.casefold()
        if key in self._tapes:
            self._leave(key)
        else:
            self._session.admit_one()
        subscription = TapeSubscription(self._session.hub, self._session.outbox, TRADES)
        greeting = worded(SubscribedTrades("trades", market.market_symbol, id))
        await self._feeds.tapes.follow(subscription, market.slot, market.market_symbol, asked.limit, lambda: greeting)
        self._tapes[key] = market, subscription

    def unsubscribe(self, said: dict[str, Any], id: Id | UnsetType) -> None:
        symbol = parsed(said, UnsubscribeTrades, texts=False).symbol
        found = self._tapes.get(symbol.casefold())
        if found is not None:
            symbol = found[0].market_symbol
            self._leave(symbol.casefold())
        self._session.answer(UnsubscribedTrades("trades", symbol, id))

    def close(self) -> None:
        for key in list(self._tapes):
            self._leave(key)

    def _leave(self, key: str) -> None:
        market, subscription = self._tapes.pop(key)
        self._feeds.tapes.leave(subscription, market.slot)


def _subscription(session: Session, wire: Wire, *, every: bool) -> LiveSubscription:
    return LiveSubscription(session.hub, session.outbox, wire, every=every)


async def _followed(
    session: Session, feeds: Feeds, before: LiveSubscription | None, wire: Wire, greeting: bytes
) -> LiveSubscription:
    """A subscription to all markets; in place of the one before."""
    if before is None:
        session.admit_one()
    subscription = _subscription(session, wire, every=True)

    def begun() -> bytes:
        if before is not None:
            before.end()
        return greeting

    try:
        await feeds.live.follow(subscription, (), begun)
    except BaseException:
        subscription.end()
        raise
    return subscription
