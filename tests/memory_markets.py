"""Markets in memory that honour the contract of `actors.topics.Streams`, for tests of what is built on it."""

from collections.abc import Iterable

import trio

from actors.bars import Bar, Gone, Start
from actors.topics import Subscription, Topic
from storage.calendar import Resolution
from storage.errors import UnknownMarket
from storage.records import Market

MOST = 5000  # changed bars that a resumed stream replays


def a_bar(time: int, close: float = 1.0, *, closed: bool = False, rev: int = 1, born: int = 1) -> Bar:
    return Bar(time, 1.0, max(1.0, close), min(1.0, close), close, 10.0, 3, closed, rev, born)


class MemoryStream:
    """The bars of one market at one resolution."""

    def __init__(self, symbol: str, resolution: str, epoch: str, seq: int) -> None:
        self.topic = Topic(symbol, resolution, epoch, seq)
        self.bars: dict[int, Bar] = {}
        self.gone: dict[int, int] = {}  # kept when the bar comes back: who missed both has to hear both

    def start(self, bars: int, since: int | None) -> Start:
        ordered = [self.bars[time] for time in sorted(self.bars)]
        newest = ordered[-1].time if ordered else None
        if since is not None:
            changed = [bar for bar in ordered if bar.rev > since]
            if len(changed) <= MOST:
                then = [bar for bar in ordered if bar.born <= since][-1:]
                resent = sorted({*changed, *then}, key=lambda bar: bar.time)
                gone = [Gone(time, True) for time, rev in sorted(self.gone.items()) if rev > since]
                return Start(self.topic.seq, True, resent, gone, newest)
        return Start(self.topic.seq, False, ordered[-bars:] if bars else [], [], newest)


class MemoryMarkets:
    """Changes go in by `change`; every one is a commit of its own."""

    def __init__(self, *symbols: str) -> None:
        self.epoch = "k3f9"
        self.seq = 1
        self._markets: dict[str, Market] = {}
        for symbol in symbols or ("GOLD", "BTC"):
            self.add(symbol)
        self._streams: dict[tuple[str, str], MemoryStream] = {}
        self.resnapshots = self.joining = self.joined = 0
        self.failing: Exception | None = None  # what subscribing ends with
        self.gate: trio.Event | None = None  # holds subscriptions up until it is set

    def stream(self, symbol: str = "GOLD", resolution: str = "1") -> MemoryStream:
        key = symbol, resolution
        if key not in self._streams:
            self._streams[key] = MemoryStream(symbol, resolution, self.epoch, self.seq)
        return self._streams[key]

    def change(
        self, closes: dict[int, float], gone: Iterable[int] = (), symbol: str = "GOLD", resolution: str = "1"
    ) -> None:
        """One commit: bars get these closes, others go."""
        stream = self.stream(symbol, resolution)
        self.seq += 1
        bars = []
        for time, close in sorted(closes.items()):
            before = stream.bars.get(time)
            bar = a_bar(time, close, rev=self.seq, born=before.born if before else self.seq)
            stream.bars[time] = bar
            bars.append(bar)
        dropped = [time for time in gone if stream.bars.pop(time, None)]
        stream.gone.update(dict.fromkeys(dropped, self.seq))
        stream.topic.publish(self.seq, bars, dropped)

    def close(self, time: int, symbol: str = "GOLD", resolution: str = "1") -> None:
        """The clock has passed the end of this bar."""
        stream = self.stream(symbol, resolution)
        was = stream.bars[time]
        stream.bars[time] = a_bar(time, was.close, closed=True, rev=was.rev, born=was.born)
        stream.topic.close([stream.bars[time]])

    def add(self, symbol: str) -> None:
        """Register a market."""
        slot = len(self._markets) + 1
        self._markets[symbol.casefold()] = Market(
            slot=slot, market_id=slot, market_symbol=symbol, kind="perp", created_timestamp=0, price_source=("mark",)
        )

    def committed(self) -> int:
        return self.seq

    async def market(self, symbol: str) -> Market:
        await trio.lowlevel.checkpoint()
        try:
            return self._markets[symbol.casefold()]
        except KeyError:
            raise UnknownMarket(symbol) from None

    async def subscribe(
        self, market: Market, resolution: Resolution, subscription: Subscription, *, bars: int, since: int | None
    ) -> Topic:
        if self.failing is not None:
            raise self.failing
        stream = self.stream(market.market_symbol, resolution.name)
        joined = trio.Event()
        self.joining += 1

        async def join() -> None:  # as an actor does, whether or not the asker still waits
            if self.gate is not None:
                await self.gate.wait()
            subscription.begin(stream.start(bars, since))
            stream.topic.subscriptions.add(subscription)
            self.joined += 1
            joined.set()

        trio.lowlevel.spawn_system_task(join)
        await joined.wait()
        return stream.topic

    async def resnapshot(self, topic: Topic, subscription: Subscription, *, bars: int) -> None:
        await trio.lowlevel.checkpoint()
        self.resnapshots += 1
        subscription.begin(self.stream(topic.symbol, topic.resolution).start(bars, None))

    def unsubscribe(self, topic: Topic, subscription: Subscription) -> None:
        topic.subscriptions.discard(subscription)
