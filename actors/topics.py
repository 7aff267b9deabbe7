"""Topics and subscriptions: a change is encoded once and shared; who cannot take it gets a key, and nobody waits."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import trio

from actors.bars import NEVER, Bar, Change, Label, Op, Reason, Start, worded
from actors.hub import Hub, Sink
from storage.calendar import Resolution
from storage.records import Market

SHORT = 100  # changes in one publish that may leave as one shared piece
SLOT = 200  # bytes that a waiting bar costs beside its text


class Dialect(Protocol):
    """How one wire words what happens in a stream of bars."""

    def frame(self, label: Label, prev: int, seq: int, op: Op, text: bytes) -> bytes: ...

    def snapshot(self, label: Label, start: Start, reason: Reason | None) -> bytes: ...

    def heartbeat(self, label: Label, seq: int) -> bytes: ...


class Slot:
    """A bar that a subscriber has yet to see, in its newest state only."""

    __slots__ = ("change", "due", "first", "had", "urgent")

    def __init__(self, change: Change, due: float) -> None:
        self.change = change
        self.first = change.first  # the earliest change not yet written
        self.had = change.had  # the client's chart has a bar there
        self.due = due
        self.urgent = False  # a closing or a deletion, which conflation does not delay


class Subscription:
    """One stream of one connection: the client's position, and the bars that wait for it."""

    __slots__ = (
        "_asked",
        "_asking",
        "_conflate",
        "_cost",
        "_greeting",
        "_idle",
        "_limit",
        "_lost",
        "_on_lost",
        "_replaces",
        "_sent",
        "_since",
        "_slots",
        "_timer",
        "bars",
        "dialect",
        "ended",
        "hub",
        "label",
        "last",
        "newest",
        "plain",
        "position",
        "seq",
        "sink",
        "topic",
    )

    def __init__(
        self,
        hub: Hub,
        sink: Sink,
        dialect: Dialect,
        label: Label,
        *,
        greeting: Callable[[Start], bytes],
        on_lost: Callable[["Subscription"], None],
        bars: int = 300,
        since: int | None = None,
        conflate: float = 0.0,
        idle: float = 15.0,
        limit: int = 1000,
        replaces: "Subscription | None" = None,
    ) -> None:
        """`greeting` words the acknowledgement; `on_lost` is called when a new snapshot is needed and could leave."""
        self.sink, self.dialect, self.label, self.bars = sink, dialect, label, bars
        self.topic: Topic | None = None
        self.position = self.seq = -1  # what the client can claim; what it is to see
        self.newest: int | None = None  # the bar that the client's chart ends with
        self.last = 0.0  # when the last frame was handed over
        self.ended = self.plain = False  # plain: nothing waits, shared bytes may go out
        self.hub, self._greeting, self._on_lost = hub, greeting, on_lost
        self._since, self._conflate, self._idle, self._limit = since, conflate, idle, limit
        self._replaces = replaces
        self._slots: dict[int, Slot] = {}
        self._sent: dict[int, float] = {}  # when a bar was last written, while that still holds it back
        self._timer = math.inf
        self._cost = 0
        self._lost: Reason | None = None
        self._asked = False  # for a snapshot
        self._asking = False  # the sink, to take what waits

    def begin(self, start: Start) -> None:
        """Greet and send the state at the moment of joining. Whatever is published later follows without a hole."""
        if self.ended:
            return
        greeting = b""
        if self.position < 0:
            self.hub.subscriptions += 1
            greeting = self._greeting(start)
            self.hub.at(trio.current_time() + self._idle, self._beat)
            if self._replaces:
                self._replaces.end()
                self._replaces = None
        reason, since = self._lost, self._since
        self._drop()
        self._lost, self._since, self._asked = None, None, False
        self.last = trio.current_time()
        self.position = self.seq = start.seq
        if start.recovered and since is not None:
            self.sink.put(greeting + self._replayed(start, since))
        else:
            self.newest = start.bars[-1].time if start.bars else start.newest
            self.sink.put(greeting + self.dialect.snapshot(self.label, start, reason))
        self.plain = not self._conflate

    def end(self) -> None:
        """Send nothing more."""
        if not self.ended:
            self.ended = True
            self._lost = None
            self._drop()
            if self.position >= 0:
                self.hub.subscriptions -= 1

    def hold(self, changes: Sequence[Change], seq: int, now: float) -> None:
        """Keep the keys of what changed until the connection can take it."""
        if self._lost or self.ended or self.sink.ended:
            return
        self.seq = max(self.seq, seq)
        self.plain = False
        before = self._cost
        for change in changes:
            slot = self._slots.get(change.time)
            if slot is None:
                slot = Slot(change, self._sent.get(change.time, -math.inf) + self._conflate)
                self._slots[change.time] = slot
                self._cost += SLOT + len(change.text)
            else:
                self.hub.conflated += 1
                self._cost += len(change.text) - len(slot.change.text)
                slot.first = min(slot.first, change.first)
                slot.change = change
            if change.closing or change.gone:
                slot.urgent = True
        self.sink.charge(self, self._cost - before)
        if len(self._slots) > self._limit:
            self.lose("lagged")
        elif not self._lost:
            self._wait(now)

    def take(self, room: int) -> tuple[bytes, bool]:
        """Frames for about `room` bytes, oldest bar first, each claiming no more than is then complete."""
        if self._lost:
            if not self._asked:
                self._asked = True
                self._on_lost(self)
            return b"", False
        now = trio.current_time()
        order = sorted(self._slots)
        ready = self._ready(order, now)
        # What the frame before `order[i]` may claim is limited by the bars from there on.
        least = [NEVER] * (len(order) + 1)
        for i in range(len(order) - 1, -1, -1):
            least[i] = min(least[i + 1], self._slots[order[i]].first)
        frames: list[bytes] = []
        size, before = 0, self._cost
        while len(frames) < ready and size < room:
            slot = self._slots.pop(order[len(frames)])
            self._cost -= SLOT + len(slot.change.text)
            claim = min(least[len(frames) + 1] - 1, self.seq)
            frame = self._frame(slot.change, slot.had, max(self.position, claim))
            size += len(frame)
            frames.append(frame)
            if self._conflate:
                self._sent[slot.change.time] = now
        if frames:
            self.last = now
            self.hub.frames += len(frames)
            self.sink.charge(self, self._cost - before)
        self._asking = len(frames) < ready
        if not self._slots:
            self.plain = not self._conflate
        elif not self._asking:
            self._wait(now)
        if len(self._sent) > 100:
            self._sent = {time: sent for time, sent in self._sent.items() if sent + self._conflate > now}
        return b"".join(frames), self._asking

    def lose(self, reason: Reason) -> None:
        """Forget what waits; a snapshot follows as soon as the socket takes data."""
        if self.ended or self._lost:
            self._lost = self._lost and reason
            return
        self.hub.lagged += reason == "lagged"
        self._drop()
        self._lost = reason
        self.sink.ask(self)

    def _drop(self) -> None:
        cost, self._cost = self._cost, 0
        self._slots.clear()
        self._sent.clear()
        self.plain = self._asking = False
        if cost:
            self.sink.charge(self, -cost)

    def _ready(self, order: Sequence[int], now: float) -> int:
        """How many of the waiting bars leave now: those that are due up to the first that is not, and whatever
        is older than a bar that may not be delayed."""
        if not self._conflate:
            return len(order)
        ready = 0
        for i, time in enumerate(order):
            slot = self._slots[time]
            if slot.urgent or (ready == i and slot.due <= now):
                ready = i + 1
        return ready

    def _wait(self, now: float) -> None:
        if self._asking:
            return
        order = sorted(self._slots) if self._conflate else ()
        if not order or self._ready(order, now):
            self._asking = True
            self.sink.ask(self)
            return
        due = self._slots[order[0]].due
        if due < self._timer:
            self._timer = due
            self.hub.at(due, self._due)

    def _due(self) -> None:
        self._timer = math.inf
        if self._slots:
            self._wait(trio.current_time())

    def _beat(self) -> None:
        """Prove that an idle stream lives, and come again when it could next be idle."""
        if self.ended:
            return
        now = trio.current_time()
        if now - self.last >= self._idle - 0.001:
            if self.sink.open and not self._lost:
                # A stream with nothing waiting stands where its topic stands.
                seq = self.position if self._slots or self.topic is None else max(self.position, self.topic.seq)
                self.sink.put(self.dialect.heartbeat(self.label, seq))
                self.last = now
            else:
                self.last = now - self._idle + 1  # look again in a second
        self.hub.at(self.last + self._idle, self._beat)

    def _frame(self, change: Change, had: bool, seq: int) -> bytes:
        op, self.newest = worded(change, had, self.newest)
        prev, self.position = self.position, seq
        return self.dialect.frame(self.label, prev, seq, op, change.text)

    def _replayed(self, start: Start, since: int) -> bytes:
        """What brings a client at `since` to the present: deletions, then older bars, then its newest bar and on."""
        floor = self.position = min(since, start.seq)
        # The newest bar that existed then is the one that the client's chart ends with.
        had = [bar.time for bar in start.bars if bar.born <= since] + [gone.time for gone in start.gone if gone.had]
        self.newest = max(had, default=None)
        changes = [Change(None, gone.time, had=True, closing=False, first=floor + 1) for gone in start.gone]
        for bar in start.bars:
            # Of a bar that it had, it may have missed any change after its position; of a younger one, all.
            first = bar.born if bar.born > since else floor + 1 if bar.rev > since else NEVER
            changes.append(Change(bar, bar.time, had=bar.born <= since, closing=False, first=first))
        least = [NEVER] * (len(changes) + 1)
        for i in range(len(changes) - 1, -1, -1):
            least[i] = min(least[i + 1], changes[i].first)
        self.hub.frames += len(changes)
        frames = [
            self._frame(change, change.had, max(floor, min(least[i + 1] - 1, start.seq)))
            for i, change in enumerate(changes)
        ]
        self.position = start.seq
        return b"".join(frames)


class Topic:
    """One stream of bars, owned by its market's actor for as long as somebody is subscribed."""

    def __init__(self, symbol: str, resolution: str, epoch: str, seq: int) -> None:
        self.symbol, self.resolution, self.epoch, self.seq = symbol, resolution, epoch, seq
        self.subscriptions: set[Subscription] = set()
        self._open: set[int] = set()  # bars last published as not yet closed

    def publish(self, seq: int, bars: Sequence[Bar], gone: Iterable[int] = ()) -> None:
        """Tell every subscriber what `seq` changed; at most once per seq, and only where something changed."""
        if seq <= self.seq:
            raise ValueError(f"{self.symbol} {self.resolution}: seq {seq} published after {self.seq}")
        # A seq that stands for several commits may have changed a bar with the first of them.
        first = self.seq + 1
        changes = [self._changed(bar, seq, first) for bar in bars]
        missing = [Change(None, time, had=True, closing=False, first=first) for time in gone]
        if missing:
            self._open.difference_update(change.time for change in missing)
            changes = sorted(changes + missing, key=lambda change: change.time)
        if changes:
            prev, self.seq = self.seq, seq
            self._spread(prev, changes)

    def close(self, bars: Sequence[Bar]) -> None:
        """Tell that these bars became closed by the clock alone: no change, no number."""
        self._open.difference_update(bar.time for bar in bars)
        if bars:
            self._spread(self.seq, [Change(bar, bar.time, had=True, closing=True, first=NEVER) for bar in bars])

    def reset(self, epoch: str, seq: int) -> None:
        """Continuity with what was published is lost: everyone gets a new snapshot, in the new epoch."""
        self.epoch, self.seq = epoch, seq
        self._open.clear()
        for subscription in self.subscriptions:
            subscription.label = Label(self.symbol, self.resolution, epoch)
            subscription.lose("reset")

    def _changed(self, bar: Bar, seq: int, first: int) -> Change:
        closing = bar.closed and (bar.born == seq or bar.time in self._open)
        if bar.closed:
            self._open.discard(bar.time)
        else:
            self._open.add(bar.time)
        return Change(bar, bar.time, had=bar.born < seq, closing=closing, first=first)

    def _spread(self, prev: int, changes: Sequence[Change]) -> None:
        now = trio.current_time()
        seq, count = self.seq, len(changes)
        short = count <= SHORT
        shared: dict[tuple[Dialect, int | None], tuple[bytes, int | None]] = {}
        ended: list[Subscription] = []
        for subscription in self.subscriptions:
            sink = subscription.sink
            if short and subscription.plain and subscription.position == prev and sink.open:
                key = subscription.dialect, subscription.newest
                ready = shared.get(key)
                if ready is None:
                    ready = shared[key] = self._frames(prev, changes, *key)
                frames, subscription.newest = ready
                subscription.position = subscription.seq = seq
                subscription.last = now
                sink.put(frames)
                subscription.hub.frames += count
            elif subscription.ended:
                ended.append(subscription)
            else:
                subscription.hold(changes, seq, now)
        self.subscriptions.difference_update(ended)

    def _frames(
        self, prev: int, changes: Sequence[Change], dialect: Dialect, newest: int | None
    ) -> tuple[bytes, int | None]:
        """The frames for everyone who stands at `prev` with the same chart, joined."""
        label = Label(self.symbol, self.resolution, self.epoch)
        frames: list[bytes] = []
        last = len(changes) - 1
        position = prev
        for i, change in enumerate(changes):
            op, newest = worded(change, change.had, newest)
            # All of them are one change: until the last is written the client stands just before it.
            claim = self.seq if i == last else prev
            frames.append(dialect.frame(label, position, claim, op, change.text))
            position = claim
        return b"".join(frames), newest


class Streams(Protocol):
    """What a stream endpoint asks of the markets."""

    @property
    def epoch(self) -> str:
        """Changes when positions of the past mean nothing any more."""

    def committed(self) -> int:
        """The newest committed seq: no position lies beyond it."""

    async def market(self, symbol: str) -> Market:
        """The market of this name, in any case; raises UnknownMarket."""

    async def subscribe(
        self, market: Market, resolution: Resolution, subscription: Subscription, *, bars: int, since: int | None
    ) -> Topic:
        """Join: inside the actor, call `subscription.begin` and add it to the topic before the next publish."""

    async def resnapshot(self, topic: Topic, subscription: Subscription, *, bars: int) -> None:
        """Inside the actor, call `begin` with a snapshot of the present."""

    def unsubscribe(self, topic: Topic, subscription: Subscription) -> None:
        """Leave; a topic without subscriptions may go."""
