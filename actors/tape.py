"""The trades of markets that somebody follows: encoded once; who is slow loses the oldest and is told how many."""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import Protocol

import msgspec
import numpy as np

from actors.bars import Reason
from actors.hub import Hub, Sink
from actors.rounds import Round
from storage import trades
from storage.errors import Unavailable
from storage.listing import Unflushed
from storage.trades import Trade

KEPT = 1000  # trades that a slow reader may be behind

Newest = Callable[[int, int, Sequence[Unflushed]], Awaitable[list[Trade]]]  # slot, count, what the store may lack

encode = msgspec.json.Encoder().encode


class Wire(Protocol):
    """How one wire tells trades."""

    def message(self, symbol: str, rows: Sequence[bytes], dropped: int) -> bytes: ...


class Tape:
    """The newest trades of one market, numbered as they come."""

    def __init__(self, symbol: str) -> None:
        self.symbol = symbol
        self.rows: deque[bytes] = deque(maxlen=KEPT)
        self.end = 0  # the number of the next one
        self.followers: set[TapeSubscription] = set()
        self.joining = 0

    def add(self, rows: Sequence[bytes]) -> None:
        """Tell these to everybody."""
        before, self.end = self.end, self.end + len(rows)
        self.rows.extend(rows)
        frames: dict[Wire, bytes] = {}
        for follower in self.followers:
            if follower.next == before and follower.sink.open and len(rows) <= KEPT:
                if follower.wire not in frames:
                    frames[follower.wire] = follower.wire.message(self.symbol, rows, 0)
                follower.sink.put(frames[follower.wire])
                follower.next = self.end
                follower.hub.frames += 1
            else:
                follower.sink.ask(follower)


class TapeSubscription:
    """The trades of one market on one connection: the number of the next one that it is to see."""

    def __init__(self, hub: Hub, sink: Sink, wire: Wire) -> None:
        self.hub, self.sink, self.wire = hub, sink, wire
        self.tape: Tape | None = None
        self.next = 0

    def take(self, room: int) -> tuple[bytes, bool]:
        """What came since, or what is left of it."""
        tape = self.tape
        if tape is None or self.next >= tape.end:
            return b"", False
        oldest = tape.end - len(tape.rows)
        dropped = max(0, oldest - self.next)
        rows: list[bytes] = []
        size = 0
        for row in islice(tape.rows, max(0, self.next - oldest), None):
            rows.append(row)
            size += len(row)
            if size >= room:
                break
        self.next += dropped + len(rows)
        self.hub.frames += 1
        self.hub.conflated += dropped
        return self.wire.message(tape.symbol, rows, dropped), self.next < tape.end

    def lose(self, reason: Reason) -> None:
        """Nothing waits here but a number."""


class Tapes:
    """The tapes that somebody follows."""

    def __init__(
        self,
        caught_up: Callable[[], Awaitable[None]],
        rounds: Callable[[], Sequence[Round]],
        newest: Newest | None,
    ) -> None:
        """`caught_up` returns when all that is committed was handed out, `rounds` are those that the store may lack."""
        self._caught_up, self._rounds, self._newest = caught_up, rounds, newest
        self._tapes: dict[int, Tape] = {}

    def feed(self, round_: Round) -> None:
        """Tell the trades of a round."""
        if not self._tapes:
            return
        followed = np.fromiter(self._tapes, np.int64, len(self._tapes))
        for events in round_.events:
            some = trades.among(events)
            some = some[np.isin(events.integers("market")[some], followed)]
            if not len(some):
                continue
            found = events.take(some)
            rows: dict[int, list[bytes]] = {}
            for market, trade in zip(found.integers("market").tolist(), trades.told(found), strict=True):
                rows.setdefault(market, []).append(encode(trade))
            for market, of_market in rows.items():
                self._tapes[market].add(of_market)

    async def follow(
        self, subscription: TapeSubscription, slot: int, symbol: str, count: int, greeting: Callable[[], bytes]
    ) -> None:
        """Have a subscription told the newest `count` trades of a market, and all that come after them.

        `greeting` words the acknowledgement, which comes first. Unavailable where the store cannot be read."""
        if self._newest is None:
            raise Unavailable("trades are not kept here")
        await self._caught_up()
        tape = self._tapes.get(slot)
        if tape is None:
            tape = self._tapes[slot] = Tape(symbol)
        end = tape.end
        tape.joining += 1
        try:
            lacking = [
                Unflushed(some.last, some.events, [dead.pos for _, dead in some.dead]) for some in self._rounds()
            ]
            found = await self._newest(slot, count, lacking) if count else []
            subscription.tape, subscription.next = tape, end
            subscription.hub.subscriptions += 1
            tape.followers.add(subscription)
            subscription.sink.put(greeting())
            if found:
                subscription.sink.put(subscription.wire.message(symbol, [encode(trade) for trade in found], 0))
            subscription.sink.ask(subscription)
        finally:
            tape.joining -= 1
            self._forget(slot)

    def leave(self, subscription: TapeSubscription, slot: int) -> None:
        """Tell a subscription nothing more."""
        if subscription.tape is not None:
            subscription.hub.subscriptions -= 1
            subscription.tape.followers.discard(subscription)
            subscription.tape = None
            self._forget(slot)

    def _forget(self, slot: int) -> None:
        tape = self._tapes.get(slot)
        if tape is not None and not (tape.followers or tape.joining):
            del self._tapes[slot]
