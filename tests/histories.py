"""Random histories of what producers say, what they come to by the oracle, and readers that follow along."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

from hypothesis import strategies as st
from msgspec import Struct

from actors.bars import Label, Op, Reason, Start, shown
from actors.engine import Engine
from actors.hub import Hub, Source
from actors.reading import Window
from actors.topics import Subscription, Topic
from daemon.stack import Stack
from storage.calendar import parse
from storage.records import PRICE_SOURCES, Kind, Market
from tests import oracle
from tests.oracle import Days, Event
from tests.ws_client import Chart, Message

FAR = 2**61
COUNT_ALL = Counter({"accepted": 0, "duplicates": 0, "corrected": 0, "retracted": 0, "unknown": 0})

Identity = int | str | tuple[str, int] | None  # an exchange's number or text, a chain's transaction and log, nothing
Who = tuple[str, object]
Row = tuple[int, float, float, float, float, float, int]  # time, open, high, low, close, volume, trades


ALWAYS = Days()


@dataclass(frozen=True)
class Place:
    """A market to trade on."""

    kind: Kind = "perp"
    days: Days = ALWAYS
    sources: tuple[str, ...] = ()

    def fields(self, symbol: str) -> dict[str, object]:
        """What registers it."""
        said: dict[str, object] = {"market_symbol": symbol, "kind": self.kind}
        said |= {"session": self.days.session, "timezone": "Etc/UTC" if self.days.zone == "UTC" else self.days.zone}
        return said | ({"price_source": list(self.sources)} if self.sources else {})


PLACES = {
    "GOLD": Place(),
    "CORN": Place("spot", Days("America/New_York", 18)),
    "RYE": Place("perp", Days("Europe/Berlin"), ("mark", "index", "exit")),
}


@dataclass(frozen=True, kw_only=True)
class Word:
    """One event as a producer sends it."""

    market: str
    ts: int = 0  # µs
    identity: Identity = None
    removed: bool = False
    event: str = "Trade"
    price_type: str | None = None
    side: bool | None = None
    price: str | None = None
    size: str | None = None
    user: str | None = None
    block: int | None = None

    def sent(self) -> dict[str, object]:
        """The object that goes over the wire."""
        said: dict[str, object] = {"market_symbol": self.market}
        match self.identity:
            case (transaction, log_index):
                said |= {"chain_id": 1, "transaction_hash": transaction, "log_index": log_index}
            case int() | str():
                said["trade_id"] = self.identity
        if self.removed:
            return {**said, "removed": True}
        said |= {"timestamp": self.ts / 1000, "event_type": self.event}
        for name, value in (
            ("price_type", self.price_type),
            ("is_long", self.side),
            ("price", self.price),
            ("size", self.size),
            ("user_address", self.user),
            ("block_number", self.block),
        ):
            if value is not None:
                said[name] = value
        return said

    @property
    def who(self) -> Who | None:
        """What one event is known by."""
        match self.identity:
            case None:
                return None
            case (_, _):
                return "chain", self.identity
            case _:
                return self.market, self.identity

    def says(self) -> tuple[object, ...]:
        """Equal for two words that say the same."""
        price = Decimal(self.price) if self.price is not None else None
        size = Decimal(self.size) if self.size is not None else None
        return self.market, self.ts, self.event, self.priced_as, self.side, price or None, size, self.user, self.block

    @property
    def priced_as(self) -> str:
        """The price type, as it is where nothing is said."""
        if self.price_type is not None:
            return self.price_type
        if PLACES[self.market].kind == "spot":
            return "trade"
        return "liquidation" if self.event == "PositionLiquidated" else "mark"

    def at(self, pos: int) -> Event:
        """The event as the oracle has it."""
        transaction = isinstance(self.identity, tuple)
        return Event(
            market=0,
            ts=self.ts,
            pos=pos,
            event=self.event,
            price_type=self.priced_as,
            side=self.side,
            price=Decimal(self.price) if self.price is not None else None,
            volume=Decimal(self.size) if self.size is not None else None,
            block=self.block,
            log_index=self.identity[1] if isinstance(self.identity, tuple) else None,
            trade_no=self.identity if isinstance(self.identity, int) else None,
            trade_id=self.identity if isinstance(self.identity, str) and not transaction else None,
        )


def body(words: Iterable[Word]) -> bytes:
    """A request with these words."""
    return json.dumps([word.sent() for word in words]).encode()


class Model:
    """What has been said so far, word by word."""

    def __init__(self) -> None:
        self.seq = 0
        self._nameless: list[tuple[int, Word]] = []
        self._live: dict[Who, tuple[int, Word]] = {}
        self._bars: dict[tuple[str, str], list[Row]] = {}  # as they are now, so far as they were asked for

    def take(self, words: Sequence[Word]) -> Counter[str]:
        """Say these words in one request; how many of them were what."""
        seq = self.seq + 1
        counts = Counter(COUNT_ALL)
        kept: dict[int, Word] = {}
        live: dict[Who, int] = {}  # by identity: the number of the word in this request
        changed = False
        for number, word in enumerate(words):
            who = word.who
            if who is None:
                counts["accepted"] += 1
                kept[number] = word
                continue
            before = kept[live[who]] if who in live else self._stands(who)
            if word.removed:
                counts["unknown" if before is None else "retracted"] += 1
            elif before is None:
                counts["accepted"] += 1
            elif before.says() == word.says():
                counts["duplicates"] += 1
                continue
            else:
                counts["corrected"] += 1
            if before is not None:
                if who in live:
                    del kept[live.pop(who)]
                else:
                    del self._live[who]
                    changed = True
            if not word.removed:
                kept[number] = word
                live[who] = number
        for row, number in enumerate(sorted(kept)):
            word, pos = kept[number], seq << 24 | row
            if word.who is None:
                self._nameless.append((pos, word))
            else:
                self._live[word.who] = pos, word
        if kept or changed:
            self.seq = seq
            self._bars.clear()
        return counts

    def _stands(self, who: Who) -> Word | None:
        return self._live[who][1] if who in self._live else None

    def events(self, market: str) -> list[Event]:
        """The events of a market that stand."""
        both = [*self._nameless, *self._live.values()]
        return [word.at(pos) for pos, word in both if word.market == market]

    def bars(self, market: str, resolution: str) -> list[Row]:
        """The bars that everybody must see."""
        if (market, resolution) not in self._bars:
            self._bars[market, resolution] = self._folded(market, resolution)
        return self._bars[market, resolution]

    def _folded(self, market: str, resolution: str) -> list[Row]:
        place = PLACES[market]
        sources = place.sources or PRICE_SOURCES[place.kind]
        candles = oracle.fold(
            place.kind,
            self.events(market),
            lambda event: label(resolution, place.days, event.ts),
            {0: sources},
        )
        return [
            (
                t,
                wired(candle["open"][1]),
                wired(candle["high"]),
                wired(candle["low"]),
                wired(candle["close"][1]),
                wired(float(Fraction(candle["volume"], 10**18))),
                candle["trades_count"],
            )
            for (_, t), candle in sorted(candles.items())
            if candle["open"] is not None
        ]


def wired(value: float) -> float:
    """What wires print: at most 15 significant digits."""
    return float(f"{value:.15g}")


def label(resolution: str, days: Days, ts: int) -> int:
    """The start of an event's bucket, for every resolution that the tests use."""
    if resolution[-1] != "D" or resolution == "1D":
        return oracle.label(resolution, days, ts)
    count = int(resolution[:-1])
    traded = range(1, 8) if days.evening is None else range(1, 6)
    day = days.date(ts)
    while day.isoweekday() not in traded:
        day -= timedelta(1)
    year = [date(day.year, 1, 1) + timedelta(i) for i in range(366)]
    year = [d for d in year if d.isoweekday() in traded and d.year == day.year]
    return oracle.midnight(year[year.index(day) // count * count])


# --- random words

# A Friday evening and a Sunday on which clocks change, the end of a year.
BASES = [datetime(2024, 3, 8, 22, 59, tzinfo=UTC), datetime(2024, 3, 10, 6, 59, tzinfo=UTC)]
BASES += [datetime(2024, 3, 11, 4, 0, tzinfo=UTC), datetime(2023, 12, 31, 23, 30, tzinfo=UTC)]
STEPS = [0, 1, 999_999, 10**6, 2 * 10**6, 59_999_999, 6 * 10**7, 3 * 10**8 - 1, 9 * 10**8, 3600 * 10**6, 86_400 * 10**6]

times = st.one_of(
    st.builds(lambda base, step: int(base.timestamp()) * 10**6 + step, st.sampled_from(BASES), st.sampled_from(STEPS)),
    st.integers(0, 40).map(lambda second: int(BASES[0].timestamp()) * 10**6 + second * 10**6),
    st.integers(0, 60).map(lambda minute: int(BASES[1].timestamp()) * 10**6 + minute * 60 * 10**6),
)
# Sums of the first few are no doubles, and the last differ by less than doubles can.
prices = st.sampled_from(
    [
        *("0.1", "0.2", "0.3", "7", "100.25", "2000.5", "1999.99", "123456.789012345678", "0.000000000000000001"),
        *("1.0000000000000001", "1.00000000000000011", "99999999999999999999.999999999999999999", "0"),
    ]
)
sizes = st.sampled_from([None, "0", "0.1", "0.2", "1", "3.000000000000000001", "12345678901234567890.5"])
CHAIN = {"0xab": 7, "0xcd": 8, "0xef": 9}  # transactions, one in each block
on_chain = st.tuples(st.sampled_from(sorted(CHAIN)), st.integers(0, 1))
identities: st.SearchStrategy[Identity] = st.one_of(
    st.none(),
    st.integers(1, 6),
    st.sampled_from(["a", "b", "é"]),
    on_chain,
)
said = st.builds(
    Word,
    market=st.sampled_from(sorted(PLACES)),
    ts=times,
    identity=identities,
    event=st.sampled_from(["Trade", "Trade", *oracle.COUNTED, "PositionLiquidated", "PriceUpdated"]),
    price_type=st.sampled_from([None, None, None, "index", "mark", "trade"]),
    side=st.sampled_from([None, True, False]),
    price=st.one_of(st.none(), prices, prices, prices),
    size=sizes,
    user=st.sampled_from([None, "0xa1", "0xb2"]),
    block=st.sampled_from([None, None, 7, 8]),
)
removals = st.builds(
    Word,
    market=st.sampled_from(sorted(PLACES)),
    identity=identities.filter(lambda identity: identity is not None),
    removed=st.just(True),
)


@st.composite
def reorgs(draw: st.DrawFn) -> tuple[Word, ...]:
    """The newest blocks are orphaned: all that they may have said is taken back, and others come instead."""
    market = draw(st.sampled_from(sorted(PLACES)))
    orphaned = [each for each, block in CHAIN.items() if block >= draw(st.integers(7, 9))]
    gone = [
        Word(market=market, identity=(each, log_index), removed=True)
        for each in reversed(orphaned)
        for log_index in (1, 0)
    ]
    instead = draw(st.lists(st.builds(replace, said, identity=on_chain, block=st.integers(8, 11)), max_size=4))
    return (*gone, *instead)


class Request(Struct, frozen=True):
    """Words that come together."""

    words: tuple[Word, ...]
    look: bool  # read everything behind it, before the next one comes


@st.composite
def requests(draw: st.DrawFn) -> list[Request]:
    """Some requests; now and then one repeats, corrects or takes back words of earlier ones."""
    earlier: list[Word] = []
    found = []
    for _ in range(draw(st.integers(1, 4))):
        words: list[Word] = list(draw(reorgs())) if draw(st.integers(0, 7)) == 0 else []
        for _ in range(draw(st.integers(1, 7))):
            choice = draw(st.integers(0, 9)) if earlier else 9
            if choice == 0:
                word = draw(st.sampled_from(earlier))
            elif choice <= 2:
                old, new = draw(st.sampled_from(earlier)), draw(said)
                word = replace(new, identity=old.identity)
            elif choice <= 4:
                old = draw(st.sampled_from(earlier))
                some = old.identity is not None
                word = Word(market=old.market, identity=old.identity, removed=True) if some else draw(removals)
            else:
                word = draw(said)
            words.append(word)
            if not word.removed:
                earlier.append(word)
        found.append(Request(tuple(words), draw(st.booleans())))
    return found


# --- reading


def rows(window: Window) -> list[Row]:
    """The bars of an answer."""
    columns = (window.time, window.open, window.high, window.low, window.close, window.volume, window.trades)
    return list(zip(*columns, strict=True))


async def read(stack: Stack, market: str, resolution: str, start: int = -FAR, end: int = FAR) -> list[Row]:
    """All bars of a market, as charts are given them."""
    return rows(await stack.engine.window(await stack.registry.named(market), parse(resolution), start, end))


class Lines:
    """A dialect of one JSON object a line."""

    def frame(self, label: Label, prev: int, seq: int, op: Op, text: bytes) -> bytes:
        head = {"type": "bar", "epoch": label.epoch, "prev_seq": prev, "seq": seq, "op": op}
        return json.dumps(head)[:-1].encode() + b', "data": ' + text + b"}\n"

    def snapshot(self, label: Label, start: Start, reason: Reason | None) -> bytes:
        head = {"type": "snapshot", "epoch": label.epoch, "seq": start.seq, "reason": reason}
        return json.dumps(head)[:-1].encode() + b', "data": [' + b",".join(map(shown, start.bars)) + b"]}\n"

    def heartbeat(self, label: Label, seq: int) -> bytes:
        return json.dumps({"type": "heartbeat", "epoch": label.epoch, "seq": seq}).encode() + b"\n"


LINES = Lines()


class StrictChart(Chart):
    """A chart that accepts only what chart libraries accept."""

    def take(self, message: Message) -> None:
        if message["type"] == "bar":
            time, op = message["data"]["time"], message["op"]
            match op:
                case "upsert":
                    assert self.newest is None or time >= self.newest, f"upsert of {time} before {self.newest}"
                case "amend":
                    assert time in self.bars, f"amend of {time}, which the chart does not have"
                case "insert":
                    assert time not in self.bars, f"insert of {time}, which the chart has"
        super().take(message)

    def copy(self) -> "StrictChart":
        """The same chart, to go on by itself."""
        twin = StrictChart(self.symbol, self.resolution)
        twin.epoch, twin.seq, twin.bars = self.epoch, self.seq, dict(self.bars)
        return twin

    def rows(self) -> list[Row]:
        """The bars on it."""
        names = ("time", "open", "high", "low", "close", "volume", "trades")
        return [tuple(self.bars[time][name] for name in names) for time in sorted(self.bars)]


class Reader:
    """A connection with one stream, in the process: what arrives goes to the chart. It may be slow for a while."""

    def __init__(self, chart: StrictChart, hub: Hub, engine: Engine) -> None:
        self.chart = chart
        self.touched = False
        self.ended = False
        self.open = True
        self._hub, self._engine = hub, engine
        self._asked: list[Source] = []
        self._topic: Topic | None = None
        self.subscription: Subscription

    async def follow(self, market: Market) -> bool:
        """Subscribe, from where the chart stands; whether that worked without a snapshot."""
        since = self.chart.seq if self.chart.epoch == self._engine.epoch else None
        resolution = parse(self.chart.resolution)
        started: list[Start] = []

        def greeting(start: Start) -> bytes:
            started.append(start)
            return b""

        self.subscription = Subscription(
            self._hub,
            self,
            LINES,
            Label(market.market_symbol, resolution.name, self._engine.epoch),
            greeting=greeting,
            on_lost=lambda _: None,
            bars=5000,
            since=since,
        )
        self._topic = await self._engine.subscribe(market, resolution, self.subscription, bars=5000, since=since)
        self._hub.flush()
        return started[0].recovered

    def leave(self) -> None:
        """Hang up."""
        self.ended = True
        self.subscription.end()
        if self._topic is not None:
            self._engine.unsubscribe(self._topic, self.subscription)

    def put(self, data: bytes) -> None:
        for line in data.splitlines():
            self.chart.take(json.loads(line))

    def ask(self, source: Source) -> None:
        self._asked.append(source)
        self._hub.touch(self)

    def charge(self, source: Source, amount: int) -> None:
        """Nothing to bound here."""

    def flush(self) -> None:
        while self.open and self._asked:
            source = self._asked.pop()
            more = True
            while more:
                data, more = source.take(1000)
                self.put(data)
