"""Markets by id: opened by their first slice or reader, retired when idle, closed together."""

import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from time import monotonic, process_time, thread_time
from typing import Protocol, TypeVar

import numpy as np
import trio
from msgspec import Struct
from trio import TASK_STATUS_IGNORED, TaskStatus

from actors import candle
from actors.catch_up import CatchUp
from actors.changes import Basis
from actors.live import LivePrices, Look
from actors.market import MarketActor, Slice, Tick
from actors.reach import Reach
from actors.reading import MOST, Astray, Window
from actors.rounds import Round, made
from actors.said import INDEX, NAMES
from actors.tape import Newest, Tapes
from actors.ticker import HOUR, SECONDS, LastPrice, Price, Ticker, last_day
from actors.topics import Subscription, Topic
from actors.vamm import SECOND
from actors.writer import Writer
from storage.calendar import Resolution
from storage.commits import TOUCH, Commit
from storage.errors import CandledError, Unavailable
from storage.events import Array
from storage.histogram import Histogram, Times
from storage.partials import Partials
from storage.recent import Recent
from storage.records import Market
from storage.retention import Floors
from storage.store import History

log = logging.getLogger(__name__)

Found = TypeVar("Found")

SHARE = 0.2  # of the loop's time that rounds may cost, in the long run
SAVED = 0.05  # seconds of it that may be saved up, so that one dear round now and then delays nobody
BUSY = 0.8  # of a core's time that the process uses; below, there is no need to make rounds larger and fewer
LOOK = 0.5  # seconds between looks at that
LONGEST = 0.25  # seconds a committed event waits at most for its round to begin
MOST_EVENTS = 400_000  # in one round
IDLE = 300.0  # seconds until a market that nobody asks for retires
CROWD = 10_000  # markets at work; beyond, new ones have no rings until somebody asks, and retire sooner
SOON = 5.0  # seconds
LEAVING = 500  # markets that retire together then, which is no more than the loop can do meanwhile
BEAT = 0.25  # seconds between looks at the clock
FEW = 3  # markets that are rather read one by one
AT_ONCE = 8  # markets that are read side by side for one list


class Names(Protocol):
    """What the engine reads of the registry."""

    kinds: Array
    sources: Array

    def market(self, slot: int) -> Market: ...
    async def load_slots(self, slots: Sequence[int]) -> None: ...
    async def named(self, symbol: str) -> Market: ...
    def slot_of_symbol(self, symbol: str) -> int | None: ...


class EngineStatistics(Struct, frozen=True):
    """What the engine has done since the start."""

    active: int  # markets with a task
    rounds: int
    events: int
    slices: int
    opened: int
    retired: int
    seq: int  # the newest batch that was folded
    committed: int
    round_times: Times


class Engine:
    """Folds what was committed, hands each market its slice, and finds markets for whoever asks."""

    def __init__(
        self,
        names: Names,
        store: History,
        writer: Writer,
        epoch: str,
        *,
        seq: int,
        catch_up: CatchUp,
        now: Callable[[], float],
        floors: Floors | None = None,
        idle: float = IDLE,
        lively: Callable[[], Awaitable[Sequence[int]]] | None = None,
        trades: Newest | None = None,
    ) -> None:
        """`lively` finds the slots that traded within a day, `trades` the newest trades of one.

        `seq` is the newest committed batch: until the store has all up to it, what is committed waits for `begin`,
        and whoever asks for bars waits for `catch_up`. `floors`: see `Reading`."""
        self._names, self._store, self._writer = names, store, writer
        self._epoch = epoch
        self._now, self._idle = now, idle
        self._floors = floors or Floors()
        self._seq = self._committed = seq
        self._catch_up = catch_up
        self._lived = np.zeros(0, np.bool_)
        self._reach = Reach()
        self._actors: dict[int, MarketActor] = {}
        self._tickers: dict[int, Ticker] = {}  # of markets that were open since the start and had events in a day
        self._slots: dict[str, int] = {}  # by symbol, of the markets with an actor
        self._pending: list[Commit] = []
        self._wake = trio.Event()
        self._hurry = trio.Event()
        self._settled = trio.Event()
        self._begun = trio.Event()
        self._closing = False
        self._nursery: trio.Nursery | None = None
        self._rounds = self._events = self._slices = self._opened = self._retired = 0
        self._round_times = Histogram()
        self._credit, self._credited = SAVED, monotonic()
        self._load = 0.0  # of a core's time, over the newest stretch of LOOK
        self._traded = lively
        self._refreshing: set[MarketActor] = set()
        self.live = LivePrices(self._seen, self._looks, self._lively, self._moves)
        self.tapes = Tapes(self.caught_up, lambda: self._writer.rounds, trades)
        self._looked, self._used = monotonic(), process_time()

    # --- from outside, on the loop

    @property
    def epoch(self) -> str:
        """Changes when positions of the past mean nothing any more."""
        return self._epoch

    def committed(self) -> int:
        """The newest committed seq."""
        return self._committed

    def now(self) -> float:
        """The clock that bars close by, Unix seconds."""
        return self._now()

    def apply(self, commits: Sequence[Commit]) -> None:
        """Take batches that are in the journal, in order."""
        self._pending += commits
        self._committed = commits[-1].seq
        self._wake.set()

    def begin(self, lived: Array, reach: Reach) -> None:
        """Fold what is committed: the store has all that came before. `lived` are the slots of which it has bars."""
        self._lived = np.zeros(max(1024, int(lived.max()) + 1 if len(lived) else 0), np.bool_)
        self._lived[lived] = True
        self._reach = reach
        self._begun.set()
        self._catch_up.end()

    async def market(self, symbol: str) -> Market:
        """The market of this name; raises UnknownMarket."""
        return await self._names.named(symbol)

    def first(self, kind: str, rung: int) -> int:
        """There are no bars of this stored resolution before this second."""
        return self._floors.of(kind, rung).before

    def has_events(self, slot: int) -> bool:
        """Whether a market has ever had an event; Unavailable while nobody knows."""
        if not self._catch_up.over:
            raise self._catch_up.unavailable()
        return slot < len(self._lived) and bool(self._lived[slot])

    async def window(
        self,
        market: Market,
        resolution: Resolution,
        start: int,
        end: int,
        count: int | None = None,
        most: int = MOST,
    ) -> Window:
        """Bars of a market; sees everything that was committed before the call. See `MarketActor.window`."""
        await self.caught_up()
        actor = self._actor(market)
        return await actor.ask(lambda: actor.window(resolution, start, end, count, most))

    async def price(self, market: Market) -> Price:
        """What the last day of a market comes to now; sees everything that was committed before the call."""
        await self.caught_up()
        actor = self._actor(market)
        return await actor.ask(lambda: actor.look(lambda ticker: ticker.price(int(self._now()))))

    async def tickers(self, markets: Sequence[Market], look: Callable[[Ticker], Found]) -> dict[int, Found]:
        """What `look` makes of the last day of each of these markets, by slot; sees everything that was committed
        before the call. Without markets whose bars cannot be read."""
        await self.caught_up()
        found: dict[int, Found] = {}
        turns = trio.CapacityLimiter(AT_ONCE)

        cold: list[Market] = []
        for market in markets:
            ticker = self._sure(market)
            if ticker is None:
                cold.append(market)
            else:
                found[market.slot] = look(ticker)
        read = await self._read_together(cold) if len(cold) > FEW else {}

        async def fetch(market: Market) -> None:
            async with turns:
                actor = self._actor(market)
                with suppress(Unavailable):  # what is wrong with one market is not the others'
                    part = read.get(market.slot)
                    found[market.slot] = await actor.ask(lambda: actor.look(look, part))

        async with trio.open_nursery() as looking:
            for market in cold:
                looking.start_soon(fetch, market)
        return found

    async def _read_together(self, markets: Sequence[Market]) -> dict[int, tuple[Recent, int]]:
        """What the store has of the last day of these markets, by slot, with the seq that it reaches."""
        found: dict[int, tuple[Recent, int]] = {}
        now = int(self._now())
        for kind in {market.kind for market in markets}:
            slots = [market.slot for market in markets if market.kind == kind]
            with suppress(Unavailable):  # each by itself then
                read, applied = await self._store.recent(kind, slots, last_day(now), now - SECONDS, INDEX, NAMES)
                found.update((slot, (read.of(slot), applied)) for slot in slots)
        return found

    def _sure(self, market: Market) -> Ticker | None:
        """The last day of a market, where all of it is in memory and no message waits."""
        if not self.has_events(market.slot):
            return Ticker(market.kind, sure=True)
        actor, ticker = self._actors.get(market.slot), self._tickers.get(market.slot)
        waits = actor is not None and actor.busy
        return ticker if ticker is not None and ticker.sure and not waits else None

    async def _looks(self, slots: Sequence[int]) -> dict[int, Look]:
        """What these markets show now, so far as they can be read; sees everything that was committed before the
        call."""
        await self.caught_up()
        await self._names.load_slots(slots)
        await self.tickers([self._names.market(slot) for slot in slots], lambda _: None)
        await self._names.load_slots(slots)
        return {slot: look for slot in slots if (look := self._seen(slot)) is not None}

    def _seen(self, slot: int) -> Look | None:
        """What a market shows now; None where it has to be read first."""
        actor, ticker = self._actors.get(slot), self._tickers.get(slot)
        try:
            market = actor.record if actor is not None else self._names.market(slot)
        except LookupError:
            return None
        if ticker is None and not self.has_events(slot):
            ticker = Ticker(market.kind, sure=True)
        if ticker is None or not ticker.sure:
            return None
        seq = actor.seq if actor is not None and actor.busy else self._seq
        return Look(market, seq, ticker.tick(), ticker, int(self._now()))

    def _moves(self, slot: int) -> float:
        ticker, now = self._tickers.get(slot), self._now()
        return math.inf if ticker is None else max(0.01, ticker.moves(int(now)) - now)

    async def _lively(self) -> list[int]:
        traded = await self._traded() if self._traded is not None else ()
        return sorted({*traded, *self._tickers})

    def tick(self, symbol: str) -> LastPrice | None:
        """The newest price of a market that somebody watches; None where it is being read, or there is none."""
        slot = self._slots.get(symbol)
        ticker = None if slot is None else self._tickers.get(slot)
        if slot is None or ticker is None:
            return None
        if not ticker.sure:
            self._refresh(self._actors[slot])
            return None
        return ticker.tick()

    def _refresh(self, actor: MarketActor) -> None:
        """Have the last day of a market read again."""
        if actor in self._refreshing or self._nursery is None:
            return
        self._refreshing.add(actor)

        async def look() -> None:
            try:
                with suppress(CandledError, trio.ClosedResourceError):
                    await actor.ask(lambda: actor.look(lambda _: None))
            finally:
                self._refreshing.discard(actor)

        self._nursery.start_soon(look)

    async def still(self, market: Market, basis: Basis) -> int | None:
        """The market's seq, if what was read of it on this basis would be read now again; sees everything that was
        committed before the call. None: it has to be read."""
        await self.caught_up()
        actor = self._actors.get(market.slot)
        if actor is not None and actor.busy:
            await actor.ask(trio.lowlevel.checkpoint)
        return actor.seq if actor is not None and actor.holds(basis) else None

    def at_once(self, symbol: str, slot: int, basis: Basis) -> int | None:
        """As `still`, without waiting: None also where nobody knows yet, or the name means another market."""
        actor = self._actors.get(slot)
        if actor is None or self._seq < self._committed or not self._catch_up.over:
            return None
        return actor.seq if self._names.slot_of_symbol(symbol) == slot and actor.holds(basis) else None

    async def late(self, market: Market, rung: int, start: int, end: int, applied: int) -> Partials | None:
        """What a market has of a stored resolution beyond a snapshot of the store. See `Reading.late`."""
        await self.caught_up()
        actor = self._actor(market)
        return await actor.ask(lambda: actor.late(rung, start, end, applied))

    async def subscribe(
        self, market: Market, resolution: Resolution, subscription: Subscription, *, bars: int, since: int | None
    ) -> Topic:
        """Join a stream of bars."""
        await self.caught_up()
        actor = self._actor(market)
        return await actor.ask(lambda: actor.subscribe(resolution, subscription, bars, since))

    async def resnapshot(self, topic: Topic, subscription: Subscription, *, bars: int) -> None:
        """Begin a stream again with a snapshot of the present."""
        actor = self._actor(await self.market(topic.symbol))
        await actor.ask(lambda: actor.resnapshot(topic, subscription, bars))

    def unsubscribe(self, topic: Topic, subscription: Subscription) -> None:
        """Leave a stream."""
        slot = self._slots.get(topic.symbol)
        if slot is not None:
            self._actors[slot].unsubscribe(topic, subscription)

    def in_memory(self) -> list[int]:
        """The slots of the markets that have bars in memory."""
        return list(self._actors)

    async def astray(self, slot: int) -> tuple[int, list[Astray]]:
        """What a market has in memory otherwise than in the store. See `Reading.astray`."""
        await self.caught_up()
        actor = self._actors.get(slot)
        return (0, []) if actor is None else await actor.ask(actor.astray)

    def close(self) -> None:
        """Take in what was committed, close the markets, and let `run` return."""
        self._closing = True
        if not self._catch_up.over:
            self._pending.clear()  # the next start folds it
        self._begun.set()
        self._wake.set()
        self._hurry.set()

    def statistics(self) -> EngineStatistics:
        """Counters for metrics and health."""
        return EngineStatistics(
            len(self._actors),
            self._rounds,
            self._events,
            self._slices,
            self._opened,
            self._retired,
            self._seq,
            self._committed,
            self._round_times.times(),
        )

    def nbytes(self) -> int:
        """Memory of all rings."""
        return sum(actor.nbytes() for actor in self._actors.values())

    # --- the task

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Fold and hand out until closed."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            async with trio.open_nursery() as beats:
                beats.start_soon(self._beat)
                beats.start_soon(self.live.run)
                task_status.started()
                await self._begun.wait()
                while not (self._closing and not self._pending):
                    await self._wake.wait()
                    self._wake = trio.Event()
                    if self._pending:
                        await self._round()
                beats.cancel_scope.cancel()
            for actor in self._actors.values():
                actor.close()

    async def _round(self) -> None:
        began = thread_time()
        commits: list[Commit] = []
        count = 0
        for commit in self._pending:
            if commits and count + commit.events.n > MOST_EVENTS:
                break
            commits.append(commit)
            count += commit.events.n
        del self._pending[: len(commits)]
        if self._pending:
            self._wake.set()
        slots = {event.market for commit in commits for event in commit.dead}
        for commit in commits:
            slots.update(np.unique(commit.events.integers("market")).tolist())
        await self._names.load_slots([slot for slot in slots if slot not in self._actors])
        round_ = made(commits, self._names.kinds, self._names.sources)
        self._rounds += 1
        self._events += count
        self._hand_out(round_)
        self._seq = round_.last
        round_.cost += thread_time() - began
        settled, self._settled = self._settled, trio.Event()
        settled.set()
        # The actors take their slices in while this task waits; what is committed meanwhile goes into the next round.
        await trio.lowlevel.checkpoint()
        self._round_times.observe(round_.cost)
        pause = self._pause(round_.cost)
        if pause > 0 and not self._closing:
            with trio.move_on_after(pause):
                await self._hurry.wait()
        if self._hurry.is_set() and not self._closing:
            self._hurry = trio.Event()

    def _pause(self, cost: float) -> float:
        """Seconds until the next round may begin: what rounds cost must come back as their share of time passes.

        None is needed as long as the process is not busy: then waiting would only make bars late.
        """
        now = monotonic()
        if now - self._looked >= LOOK:
            used = process_time()
            self._load = (used - self._used) / (now - self._looked)
            self._looked, self._used = now, used
        if self._load < BUSY:
            self._credit, self._credited = SAVED, now
            return 0.0
        earned = SHARE * (now - self._credited)
        self._credit = max(min(self._credit + earned, SAVED) - cost, -SHARE * LONGEST)
        self._credited = now
        return -self._credit / SHARE

    def _hand_out(self, round_: Round) -> None:
        touched = self._reach.stirred(round_)
        for _, event in round_.dead:
            touched.setdefault(event.market, []).append(event.ts // SECOND)
        anew = {event.market for _, event in round_.dead if event.pos == TOUCH}
        pieces: list[tuple[int, Slice]] = []
        for table in round_.tables.values():
            markets = table["market"]
            starts = np.flatnonzero(np.append(True, markets[1:] != markets[:-1]))
            ends = [*starts[1:].tolist(), table.n]
            rows = candle.rows(table)
            for slot, start, end in zip(markets[starts].tolist(), starts.tolist(), ends, strict=True):
                piece = Slice(
                    round_,
                    list(rows[start:end]),
                    int(rows[end - 1][0]),
                    touched.pop(slot, []),
                    round_.words.get(slot, ()),
                )
                pieces.append((slot, piece))
        for slot, seconds in touched.items():
            pieces.append((slot, Slice(round_, [], max(seconds), seconds)))
        round_.waiting = len(pieces)
        self._slices += len(pieces)
        # The writer knows the round before any actor does, so that an actor may wait for it to be flushed.
        self._writer.hold(round_)
        self.tapes.feed(round_)
        for slot, piece in pieces:
            piece.anew = slot in anew
            self._open(slot).tell(piece)
            if slot >= len(self._lived):
                self._lived = np.concatenate([self._lived, np.zeros(slot + 1024, np.bool_)])
            self._lived[slot] = True

    async def caught_up(self) -> None:
        """Return once everything that was committed before the call is folded and in the writer's hands.

        Unavailable where that would take long, because the store has to be rebuilt first.
        """
        if not self._catch_up.over:
            await self._catch_up.patiently()
        wanted = self._committed
        while self._seq < wanted:
            self._hurry.set()
            await self._settled.wait()

    def _actor(self, market: Market) -> MarketActor:
        actor = self._actors.get(market.slot)
        if actor is None:
            return self._opened_for(market)
        if not self.has_events(market.slot):
            actor.reckon(market)  # its days may have changed before its first event
        return actor

    def _open(self, slot: int) -> MarketActor:
        actor = self._actors.get(slot)
        if actor is None or not self.has_events(slot):
            return self._actor(self._names.market(slot))
        return actor

    def _opened_for(self, market: Market) -> MarketActor:
        assert self._nursery is not None
        actor = self._actors[market.slot] = MarketActor(
            market,
            self._store,
            self._epoch,
            seq=self._seq,
            fresh=not self.has_events(market.slot) and len(self._actors) < CROWD,
            applied=lambda: self._writer.applied,
            flushed=self._writer.flushed,
            now=self._now,
            floors=self._floors,
            ticker=self._ticker(market),
            stirred=lambda: self.live.stir(market.slot),
        )
        self._slots[market.market_symbol] = market.slot
        self._opened += 1
        self._nursery.start_soon(actor.run)
        return actor

    def _ticker(self, market: Market) -> Ticker:
        ticker = self._tickers.get(market.slot)
        if ticker is None:
            ticker = Ticker(market.kind, sure=not self.has_events(market.slot))
            self._tickers[market.slot] = ticker
        return ticker

    async def _beat(self) -> None:
        """Look at the clock: bars end without events, and markets fall idle."""
        looked = swept = self._now()
        while True:
            await trio.sleep(BEAT)
            for actor in self._actors.values():
                if actor.due:
                    actor.tell(Tick())
            if not 0 <= self._now() - looked < min(self._idle, 10.0):  # or the clock was set back
                looked = self._now()
                self._retire(looked)
            if len(self._actors) > CROWD:
                self._retire(self._now(), min(self._idle, SOON), min(LEAVING, len(self._actors) - CROWD))
            if not 0 <= self._now() - swept < HOUR:
                swept = self._now()
                self._sweep(swept)

    def _sweep(self, now: float) -> None:
        """Let go of what the tickers of closed markets do not show any more."""
        for slot, ticker in list(self._tickers.items()):
            if slot not in self._actors:
                ticker.tidy(int(now))
                if ticker.empty:
                    del self._tickers[slot]

    def _retire(self, now: float, after: float | None = None, most: int | None = None) -> None:
        """Let go of markets that were idle for so many seconds; of some of those that were opened first, if `most`."""
        after, until = self._idle if after is None else after, math.inf if most is None else self._retired + most
        for slot, actor in list(self._actors.items()):
            if self._retired >= until:
                return
            idle = not 0 <= now - actor.idle_since < after  # or the clock was set back
            if idle and not actor.watched and not actor.busy and actor.seq <= self._writer.applied:
                del self._actors[slot], self._slots[actor.record.market_symbol]
                actor.close()
                self._retired += 1
