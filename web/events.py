"""Bars as server-sent events, for whatever cannot speak WebSocket."""

import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Annotated, Any, cast

import trio
from msgspec import UNSET, Meta, Struct
from quart import Blueprint, Response
from quart import request as quart_request

from actors.bars import Label, Start
from actors.hub import Hub
from actors.topics import Streams, Subscription
from storage.calendar import parse
from storage.errors import Unavailable
from web import auth
from web.coding import EVENTS
from web.context import NO_STORE, engine, params, request, services
from web.messages import BAR_EVENTS, LONGEST_CONFLATION, MOST_BARS, Subscribed, event, told
from web.parameters import Resolution, Symbol, said
from web.pending import Pending
from web.stream import REVOKED_SECONDS, known, renewed
from web.streamed import CUT, Streamed

events = Blueprint("events", __name__)

LAST_WORDS = 1.0  # seconds that a reader gets to take what is on its way when the process stops
COME_BACK = (1_000, 3_000)  # ms after which clients do: not all at once
CROWDED = 5  # seconds until it is worth asking again


class EventsQuery(Struct, frozen=True):
    symbol: Symbol
    resolution: Resolution
    snapshot_bars: Annotated[
        int, Meta(ge=0, le=MOST_BARS), said("How many bars the first snapshot has; 0 to 5000.")
    ] = 300
    conflate_ms: Annotated[
        int, Meta(ge=0, le=LONGEST_CONFLATION), said("Not more often than that per bar; up to 60000.")
    ] = 0
    since: Annotated[str, said("A cursor to go on from; the header `Last-Event-ID` outranks it.")] = ""


@events.get("/api/stream")
async def stream() -> Response:
    """Follow the bars of one market as server-sent events, from `Last-Event-ID` on."""
    query, hub = params(EventsQuery), services().hub
    resolution = parse(query.resolution)
    market = await engine().market(query.symbol)
    limits = services().settings.streams
    if hub.connections >= limits.connections:
        raise Unavailable(f"there are {limits.connections} connections already", retry_after=CROWDED)
    cursor = request().headers.get("Last-Event-ID", "") or query.since
    conflate_ms = max(query.conflate_ms, limits.conflate_ms)
    label = Label(market.market_symbol, resolution.name, engine().epoch)
    scope = cast(dict[str, Any], quart_request.scope)
    letters = Letters(hub, limits.pending_bytes, cut=(scope.get("state") or {}).get(CUT, lambda: None))

    def greeting(start: Start) -> bytes:
        raised = UNSET if conflate_ms == query.conflate_ms else conflate_ms
        answer = Subscribed("bars", label.symbol, label.resolution, label.epoch, start.seq, start.recovered, raised)
        return b"retry: %d\n" % random.randint(*COME_BACK) + event(told(answer))

    since = known(engine(), position(cursor))
    subscription = Subscription(
        hub,
        letters,
        BAR_EVENTS,
        label,
        greeting=greeting,
        on_lost=letters.lost.append,
        bars=query.snapshot_bars,
        since=since,
        conflate=conflate_ms / 1000,
        idle=limits.heartbeat_seconds,
        limit=limits.pending_frames,
    )
    following = Following(engine(), subscription, letters)
    try:
        subscription.topic = await engine().subscribe(
            market, resolution, subscription, bars=query.snapshot_bars, since=since
        )
    except BaseException:
        following.end()
        raise
    headers = {"Content-Type": f"{EVENTS}; charset=utf-8", "Cache-Control": NO_STORE, "X-Accel-Buffering": "no"}
    key = auth.presented(request())
    believed = services().keys.allowed
    held = (lambda: believed(key, "read")) if services().settings.auth == "token" else None
    return Streamed(b"", following.pieces(held), headers, following.end)


def position(cursor: str) -> object:
    """What a cursor says, as the position of a `resume`."""
    epoch, _, seq = cursor.rpartition(".")
    return {"epoch": epoch, "seq": int(seq)} if seq.isdecimal() and len(seq) < 20 else None


class Letters(Pending):
    """What waits for the reader of one answer."""

    def __init__(self, hub: Hub, limit: int, cut: Callable[[], None]) -> None:
        super().__init__(hub, limit)
        self.lost: list[Subscription] = []  # need a snapshot
        self._cut = cut
        self._wake = trio.Event()
        self.over = False

    def flush(self) -> None:
        self._wake.set()

    def end(self) -> None:
        """Let the answer end; cut it off where its reader does not take that."""
        self._ended = True
        self._wake.set()
        self._hub.at(trio.current_time() + LAST_WORDS, lambda: None if self.over else self._cut())

    async def next(self, patience: float) -> bytes:
        """What is to be sent now; nothing where there is none for so long."""
        with trio.move_on_after(patience):
            while not (self._chunks or self._sources or self.lost or self._ended):
                self._wake = trio.Event()
                await self._wake.wait()
        data = self._taken()
        self._hub.bytes += len(data)
        return data


class Following:
    """One answer that goes on for as long as somebody reads it."""

    def __init__(self, streams: Streams, subscription: Subscription, letters: Letters) -> None:
        self._streams, self._subscription, self._letters = streams, subscription, letters
        self._hub = subscription.hub
        self._hub.connections += 1
        self._hub.endings.add(letters.end)

    def end(self) -> None:
        """Leave the stream."""
        self._letters.over = True
        self._hub.connections -= 1
        self._hub.endings.discard(self._letters.end)
        self._subscription.end()
        if self._subscription.topic is not None:
            self._streams.unsubscribe(self._subscription.topic, self._subscription)

    async def pieces(self, held: Callable[[], Awaitable[bool]] | None) -> AsyncGenerator[bytes, None]:
        """What is sent, piece by piece; `held` says whether the key that it was asked for with still opens it."""
        looked = trio.current_time()
        while True:
            data = await self._letters.next(REVOKED_SECONDS)
            if data:
                yield data
            elif self._letters.ended:
                return
            lost, self._letters.lost[:] = list(self._letters.lost), []
            for subscription in lost:
                if not await renewed(self._streams, subscription):
                    return
            if held is not None and trio.current_time() - looked >= REVOKED_SECONDS:
                looked = trio.current_time()
                if not await held():
                    return
