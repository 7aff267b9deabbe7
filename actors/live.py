"""Live prices: a market that moved is looked at, worded once per wire, and told to all who follow it; nobody waits.

Whoever cannot take what is told keeps no messages: two numbers say what it has, and which markets moved since is known.
"""

import heapq
import itertools
import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

import trio

from actors.bars import Reason
from actors.hub import Hub, Sink
from actors.ticker import LastPrice, Price, Ticker
from storage.errors import CandledError
from storage.records import Market

log = logging.getLogger(__name__)

PACE = 0.25  # seconds between two looks at a market that somebody follows by name; the first after a pause is at once
SECOND = 1.0  # the same for whoever follows all markets
AGAIN = 1.0  # seconds until what could not be read is read again
ROWS = 200  # markets in one message
PIECE = 50  # markets that are looked at in a row


class Look:
    """What one market shows at one moment."""

    def __init__(self, market: Market, seq: int, tick: LastPrice | None, ticker: Ticker, now: int) -> None:
        """`ticker` is asked for more before anything else runs."""
        self.market, self.seq, self.tick = market, seq, tick
        self._ticker, self._now = ticker, now

    @cached_property
    def price(self) -> Price:
        """The last day; costs much more than the tick."""
        return self._ticker.price(self._now)


class Wire(Protocol):
    """How one wire tells live prices."""

    quiet: frozenset[str]  # fields that are told with others, and are no news by themselves

    def told(self, look: Look) -> dict[str, Any]:
        """What is told of a market; nothing where there is nothing to tell."""

    def row(self, symbol: str, seq: int, told: Mapping[str, Any], changed: Iterable[str] | None, /) -> bytes:
        """One market, with these of its fields; None: all of them."""

    def message(self, rows: Sequence[bytes], *, full: bool, more: bool) -> bytes:
        """The frame, or frames; `full`: what is there at the beginning, `more` of which follows."""


class Told:
    """What one wire tells of one market, and since which move each field is so."""

    __slots__ = ("_rows", "fields", "move", "seq", "since")

    def __init__(self) -> None:
        self.fields: dict[str, Any] = {}
        self.since: dict[str, int] = {}
        self.move = 0  # the newest; 0: nothing is told
        self.seq = 0
        self._rows: dict[int, bytes] = {}  # as bytes, by what the reader has

    def take(self, fields: dict[str, Any], seq: int, move: int, quiet: frozenset[str]) -> bool:
        """What is told from now on; whether that is news."""
        changed = {name for name, value in fields.items() if name not in self.since or self.fields[name] != value}
        if not changed - quiet:
            return False
        self.fields, self.seq, self.move = fields, seq, move
        self.since.update(dict.fromkeys(changed, move))
        self._rows.clear()
        return True

    def row(self, wire: Wire, symbol: str, base: int) -> bytes:
        """What whoever has all moves up to `base` has yet to see; from 0 on, everything."""
        found = self._rows.get(base)
        if found is None:
            changed = [name for name, move in self.since.items() if move > base] if base else None
            found = self._rows[base] = wire.row(symbol, self.seq, self.fields, changed)
        return found


class Face:
    """One market that somebody follows."""

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.symbol = ""
        self.told: dict[Wire, Told] = {}
        self.followers: set[LiveSubscription] = set()  # by name
        self.looked = -math.inf
        self.due = math.inf  # when it is to be looked at next
        self.tick: LastPrice | None = None
        self.move = 0  # the newest on any wire
        self.reading = False
        self.failed = False  # to be read, and that was said

    def see(self, look: Look, wires: Iterable[Wire], move: int) -> list[Wire]:
        """Take in what the market shows; the wires that tell something else from now on."""
        tick = look.tick
        if tick is not None and self.tick is not None and tick.time < self.tick.time:
            # What was taken back was the newest. Charts do not go back in time.
            look.tick = tick = LastPrice(self.tick.time, tick.price, 0.0)
        self.tick, self.symbol = tick, look.market.market_symbol
        moved = []
        for wire in wires:
            told = self.told.setdefault(wire, Told())
            if told.take(wire.told(look), look.seq, move, wire.quiet):
                moved.append(wire)
        return moved


class LiveSubscription:
    """The live prices of some markets, or of all, on one connection."""

    def __init__(self, hub: Hub, sink: Sink, wire: Wire, *, every: bool) -> None:
        self.hub, self.sink, self.wire, self.every = hub, sink, wire, every
        self.ended = False
        self.faces: set[Face] = set()  # by name
        self.prices: LivePrices | None = None
        self.plain = False  # has all there is, and takes shared bytes
        self._full = every  # the first frames of whoever follows all
        self._base = self._upto = 0  # has all moves up to `_base`; of those after it, what moved last up to `_upto`

    def end(self) -> None:
        """Send nothing more."""
        if not self.ended:
            self.ended = True
            if self.prices is not None:
                self.prices.leave(self)

    def tell(self, frame: bytes, count: int, base: int) -> None:
        """Something moved after `base`; `frame` is that, for whoever has everything before."""
        if self.plain and self.sink.open:
            self.sink.put(frame)
            self.hub.frames += count
        elif self.plain:
            self.plain = False
            self._base = self._upto = base
            self.sink.ask(self)
        else:
            self.hub.conflated += count

    def begin(self, base: int, frame: bytes) -> None:
        """Be at `base`, where `frame` brings whoever knows nothing; all frames together where that is empty."""
        if frame:
            self.sink.put(frame)
            self.plain = True
        else:
            self._base = self._upto = base
            self.sink.ask(self)

    def take(self, room: int) -> tuple[bytes, bool]:
        """What moved, in the order of the last moves, for about `room` bytes."""
        if self.ended or self.plain or self.prices is None:
            return b"", False
        waiting = self.prices.moved(self.wire, self._upto, None if self.every else self.faces)
        frames: list[bytes] = []
        rows: list[bytes] = []
        size = 0
        count = 0
        for face, told in waiting:
            rows.append(told.row(self.wire, face.symbol, self._base))
            size += len(rows[-1])
            count += 1
            self._upto = told.move
            if len(rows) == ROWS or size >= room:
                frames.append(self.wire.message(rows, full=self._full, more=count < len(waiting)))
                rows = []
            if size >= room:
                break
        if rows or (self._full and not count):
            frames.append(self.wire.message(rows, full=self._full, more=False))
        self.hub.frames += count
        more = count < len(waiting)
        if not more:
            self.plain, self._full = True, False
        return b"".join(frames), more

    def lose(self, reason: Reason) -> None:
        """Nothing waits here but two numbers."""


class LivePrices:
    """The markets whose live prices somebody follows, and who."""

    def __init__(
        self,
        seen: Callable[[int], Look | None],
        read: Callable[[Sequence[int]], Awaitable[dict[int, Look]]],
        lively: Callable[[], Awaitable[Sequence[int]]],
        moves: Callable[[int], float],
    ) -> None:
        """`seen(slot)` looks at a market, None where it has to be `read`, which sees everything that was committed
        before the call; `lively` are those of the last day; `moves(slot)`: in how many seconds a market next shows
        something else though nothing is said."""
        self._seen, self._read, self._lively, self._moves = seen, read, lively, moves
        self._faces: dict[int, Face] = {}
        self._order: dict[Face, None] = {}  # in the order of the last moves
        self._wires: dict[Wire, int] = {}  # followers of each
        self._every: set[LiveSubscription] = set()
        self._told = 0  # the move up to which those have been told
        self._move = 1
        self._due: list[tuple[float, int, Face]] = []
        self._turn = itertools.count()
        self._beat = math.inf
        self._wake = trio.Event()
        self._nursery: trio.Nursery | None = None

    # --- from outside, on the loop

    def stir(self, slot: int) -> None:
        """A market moved. Called for every slice: costs nothing where nobody follows."""
        face = self._faces.get(slot)
        if face is None:
            if not self._every:
                return
            face = self._face(slot)
        self._plan(face, face.looked + (PACE if face.followers else SECOND))

    async def follow(self, subscription: LiveSubscription, slots: Sequence[int], greeting: Callable[[], bytes]) -> None:
        """Have a subscription told about these markets too; or about every one. Unavailable where they cannot be read.

        `greeting` words the acknowledgement, which comes before anything else."""
        if subscription.every:
            slots = await self._lively()
        looks = await self._read(slots)
        if subscription.ended:
            return
        if subscription.prices is None:
            subscription.prices = self
            subscription.hub.subscriptions += 1
            self._wires[subscription.wire] = self._wires.get(subscription.wire, 0) + 1
        subscription.sink.put(greeting())
        faces = [self._face(slot) for slot in slots]
        for face in faces:
            if face.slot in looks:
                self._see(face, looks[face.slot])
            # What could not be read now is told once it can be.
            self._plan(face, trio.current_time() + (self._moves(face.slot) if face.slot in looks else AGAIN))
        if subscription.every:
            if not self._every:
                self._beat, self._told = trio.current_time() + SECOND, self._move
                self._wake.set()
            self._every.add(subscription)
            subscription.begin(0, b"")
            return
        for face in faces:
            face.followers.add(subscription)
            subscription.faces.add(face)
        wire = subscription.wire
        known = [(face, told) for face in faces if (told := face.told.get(wire)) is not None and told.move]
        rows = [told.row(wire, face.symbol, 0) for face, told in known]
        frame = wire.message(rows, full=True, more=False)
        if subscription.plain or not subscription.faces - set(faces):
            subscription.begin(0, frame)
        else:
            subscription.sink.put(frame)  # what waits for others waits on

    def unfollow(self, subscription: LiveSubscription, slots: Iterable[int]) -> None:
        """Tell a subscription no more about these markets."""
        for slot in slots:
            face = self._faces.get(slot)
            if face is not None:
                subscription.faces.discard(face)
                face.followers.discard(subscription)
                self._forget(face)

    def leave(self, subscription: LiveSubscription) -> None:
        """Tell a subscription nothing more."""
        subscription.hub.subscriptions -= 1
        subscription.prices = None
        self._every.discard(subscription)
        wire = subscription.wire
        self._wires[wire] -= 1
        if not self._wires[wire]:
            del self._wires[wire]
            for face in self._faces.values():
                face.told.pop(wire, None)
        if subscription.every and not self._every:
            self._beat = math.inf
            for face in list(self._faces.values()):
                self._forget(face)
        self.unfollow(subscription, [face.slot for face in subscription.faces])

    def moved(self, wire: Wire, after: int, among: set[Face] | None) -> list[tuple[Face, Told]]:
        """What this wire tells otherwise since a move, in the order of the last moves."""
        some: list[tuple[Face, Told]] = []
        for face in reversed(self._order) if among is None else among:
            if among is None and face.move <= after:
                break
            told = face.told.get(wire)
            if told is not None and told.move > after:
                some.append((face, told))
        some.sort(key=lambda pair: pair[1].move)
        return some

    @property
    def followed(self) -> int:
        """Markets that are looked at when they move."""
        return len(self._faces)

    # --- the task

    async def run(self) -> None:
        """Look at what moved until cancelled."""
        async with trio.open_nursery() as self._nursery:
            while True:
                until = min(self._due[0][0] if self._due else math.inf, self._beat)
                with trio.move_on_at(until):
                    await self._wake.wait()
                self._wake = trio.Event()
                await self._look_round()
                if self._beat <= trio.current_time():
                    self._beat += SECOND
                    self._tell_every()

    async def _look_round(self) -> None:
        count = 0
        now = trio.current_time()
        while self._due and self._due[0][0] <= now:
            due, _, face = heapq.heappop(self._due)
            if face.due != due or face.slot not in self._faces:
                continue  # planned anew since, or followed by nobody
            face.due = math.inf
            self._look(face)
            count += 1
            if count % PIECE == 0:
                await trio.lowlevel.checkpoint()

    def _look(self, face: Face) -> None:
        look = self._seen(face.slot)
        if look is not None:
            self._see(face, look)
            self._plan(face, trio.current_time() + self._moves(face.slot))
        elif face.followers and not face.reading:
            assert self._nursery is not None
            face.reading = True
            self._nursery.start_soon(self._fetch, face)

    async def _fetch(self, face: Face) -> None:
        """Look at a market that has to be read first."""
        try:
            looks = await self._read([face.slot])
            pause = self._moves(face.slot) if looks else AGAIN
            face.failed = False
        except CandledError as error:
            if not face.failed:
                log.error("live price of %s: %s; trying again", face.symbol, error)
            face.failed = True
            looks, pause = {}, AGAIN
        face.reading = False
        if face.slot in looks and self._faces.get(face.slot) is face:
            self._see(face, looks[face.slot])
        self._plan(face, trio.current_time() + pause)

    def _see(self, face: Face, look: Look) -> None:
        face.looked = trio.current_time()
        move = self._move + 1
        moved = face.see(look, self._wires, move)
        if not moved:
            return
        before, self._move = self._move, move
        face.move = move
        self._order.pop(face, None)
        self._order[face] = None
        frames: dict[Wire, bytes] = {}
        for subscription in face.followers:
            wire = subscription.wire
            if wire in moved:
                if wire not in frames:
                    frames[wire] = wire.message(
                        [face.told[wire].row(wire, face.symbol, before)], full=False, more=False
                    )
                subscription.tell(frames[wire], 1, before)

    def _tell_every(self) -> None:
        base, self._told = self._told, self._move
        for wire in {subscription.wire for subscription in self._every}:
            some = self.moved(wire, base, None)
            if not some:
                continue
            rows = [told.row(wire, face.symbol, base) for face, told in some]
            pieces = [rows[start : start + ROWS] for start in range(0, len(rows), ROWS)]
            frame = b"".join(wire.message(piece, full=False, more=False) for piece in pieces)
            for subscription in self._every:
                if subscription.wire is wire:
                    subscription.tell(frame, len(rows), base)

    def _face(self, slot: int) -> Face:
        face = self._faces.get(slot)
        if face is None:
            face = self._faces[slot] = Face(slot)
        return face

    def _forget(self, face: Face) -> None:
        if not face.followers and not self._every:
            self._faces.pop(face.slot, None)
            self._order.pop(face, None)

    def _plan(self, face: Face, when: float) -> None:
        """Look at a face then, unless that is to be sooner."""
        if when >= face.due or face.slot not in self._faces:
            return
        if not self._due or when < self._due[0][0]:
            self._wake.set()
        face.due = when
        heapq.heappush(self._due, (when, next(self._turn), face))
