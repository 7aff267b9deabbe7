"""`/ws`: subscribe, unsubscribe, ping; one session per connection."""

import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any, Protocol

import msgspec
import trio

from actors.bars import Label, Start
from actors.hub import Hub
from actors.topics import Streams, Subscription
from storage.calendar import parse
from storage.errors import BadRequest, CandledError, Unavailable, UnknownMarket, UnknownResolution
from web.listener import Socket
from web.messages import (
    BARS,
    LONGEST_ID,
    Answer,
    Authenticate,
    Authenticated,
    Error,
    Id,
    Pong,
    Position,
    Refused,
    SubscribeBars,
    Subscribed,
    UnsubscribeBars,
    Unsubscribed,
    worded,
)
from web.outbox import WsLimits
from web.shapes import parsed, shown

log = logging.getLogger(__name__)

Key = tuple[str, str]  # symbol and resolution, both canonical
MayRead = Callable[[str], Awaitable[bool]]

KEY_NEEDED = "a key with the scope {!r} is needed: 'Authorization: Bearer KEY'"
ACTIONS = "subscribe, unsubscribe or ping"
WHERE = re.compile(r"\(byte (\d+)\)")
KEY_REVOKED = "the key was revoked"
REVOKED_SECONDS = 2.0  # between looks at the key of an open connection
KEY_SECONDS = 10.0  # for a first message with a key, where the handshake brought none


class Conversation(Protocol):
    """What is said on one connection."""

    async def run(self) -> None:
        """Until the peer or the process goes."""

    def close(self) -> None:
        """Leave nothing behind."""


class Guarded:
    """An endpoint for whoever has a key of its scope. `serve` is a handler of the listener."""

    scope = "read"

    def __init__(self, hub: Hub, limits: WsLimits, may_read: MayRead | None) -> None:
        """`may_read` judges the key of the handshake or of the first message; without it, everybody may."""
        self.hub, self.limits = hub, limits
        self._may_read = may_read

    def talk(self, socket: Socket) -> "Conversation":
        """What is said on one connection."""
        raise NotImplementedError

    def welcome(self, _socket: Socket) -> bool:
        """Whether a connection needs no key all the same."""
        return False

    async def serve(self, socket: Socket) -> None:
        """Answer one connection until it ends."""
        if self._may_read is not None and not self.welcome(socket):
            needed = KEY_NEEDED.format(self.scope)
            key = await _admitted(socket, self._may_read, needed)
            if not key:
                socket.close(1008, needed)
                return
            socket.nursery.start_soon(_hold_to, socket, self._may_read, key)
        talk = self.talk(socket)
        try:
            await talk.run()
        finally:
            talk.close()


class BarStreams(Guarded):
    """`/ws`."""

    def __init__(
        self,
        streams: Streams,
        hub: Hub,
        limits: WsLimits,
        may_read: MayRead | None = None,
        channels: Mapping[str, "Make"] = MappingProxyType({}),
    ) -> None:
        """`channels` are those beside `bars`."""
        super().__init__(hub, limits, may_read)
        self.channels: dict[str, Make] = {"bars": lambda session: BarChannel(session, streams), **channels}

    def talk(self, socket: Socket) -> "Session":
        return Session(self, socket)


async def _hold_to(socket: Socket, may_read: MayRead, key: str) -> None:
    """End a connection whose key was revoked."""
    while await may_read(key):  # noqa: ASYNC110 - a command may revoke it, in another process
        await trio.sleep(REVOKED_SECONDS)
    socket.outbox.put(worded(Error("unauthorized", KEY_REVOKED)))
    socket.close(1008, KEY_REVOKED)


async def _admitted(socket: Socket, may_read: MayRead, needed: str) -> str:
    """The key that may: that of the handshake, or else of the first message; empty where there is none."""
    if key := _key(socket):
        return key if await may_read(key) else ""
    message: str | bytes | None = None
    with trio.move_on_after(KEY_SECONDS):
        message = await socket.receive()
    answer: Answer = Error("unauthorized", needed)
    if message is not None:
        with suppress(Refused, msgspec.ValidationError):
            said = _said(message)
            answer = Error("unauthorized", needed, id=(id := _id(said)))
            if said.get("action") == "authenticate" and await may_read(msgspec.convert(said, Authenticate).key):
                answer, key = Authenticated(id), msgspec.convert(said, Authenticate).key
    socket.outbox.put(worded(answer))
    socket.outbox.flush()
    return key


def _key(socket: Socket) -> str:
    scheme, _, key = socket.head.headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


class Flood:
    """Counts messages by the second, and the seconds on end with too many."""

    def __init__(self, limits: WsLimits) -> None:
        self._limits = limits
        self._since = trio.current_time()
        self._count = self._seconds = 0

    def rises(self) -> bool:
        """Count one message; whether it is one too many."""
        now = trio.current_time()
        if now - self._since >= 1:
            over = self._count > self._limits.messages_per_second and now - self._since < 2
            self._seconds = self._seconds + 1 if over else 0
            self._since, self._count = now, 0
        self._count += 1
        return self._count > self._limits.messages_per_second

    @property
    def first(self) -> bool:
        """Whether that was the first one too many of its second."""
        return self._count == self._limits.messages_per_second + 1

    @property
    def endless(self) -> bool:
        return self._seconds >= self._limits.flooded_seconds


class Channel(Protocol):
    """One kind of stream, as one connection follows it."""

    @property
    def count(self) -> int:
        """Subscriptions."""

    async def subscribe(self, said: dict[str, Any], id: Id | msgspec.UnsetType, /) -> None:
        """Follow what a message asks for, and acknowledge it before anything of it."""

    def unsubscribe(self, said: dict[str, Any], id: Id | msgspec.UnsetType, /) -> None:
        """Follow it no longer, and say so after everything of it."""

    def close(self) -> None:
        """Leave everything."""


Make = Callable[["Session"], Channel]


class Talk:
    """What is said on one connection, answered in order."""

    actions = ACTIONS

    def __init__(self, shared: Guarded, socket: Socket) -> None:
        self.hub, self.limits, self.nursery, self.outbox = shared.hub, shared.limits, socket.nursery, socket.outbox
        self.channel: str | msgspec.UnsetType = msgspec.UNSET  # that the message at hand names
        self._socket = socket
        self._flood = Flood(self.limits)

    async def run(self) -> None:
        """Read and answer until the peer or the process goes."""
        while (message := await self._socket.receive()) is not None:
            if self._flood.rises():
                if self._flood.first:
                    limit = self.limits.messages_per_second
                    self.answer(Error("rate_limited", f"more than {limit} messages in a second; this one was dropped"))
            elif self._flood.endless:
                self.end(1008, f"too many messages for {self.limits.flooded_seconds} seconds on end")
            elif isinstance(message, str) and len(message.encode()) > self.limits.message_bytes:
                self.end(1009, f"a message may have {self.limits.message_bytes} bytes")
            else:
                await self._take(message)
                # A client that asks without reading the answers waits for itself.
                await self._socket.outbox.room()

    def close(self) -> None:
        """Leave every stream."""

    def answer(self, answer: Answer) -> None:
        """Send it at once."""
        self.outbox.put(worded(answer))
        self.outbox.flush()

    def end(self, code: int, reason: str) -> None:
        """Close the connection."""
        self._socket.close(code, reason)

    def admit(self, subscriptions: int) -> None:
        """Raise where so many subscriptions and one more would be too many."""
        if subscriptions >= self.limits.subscriptions:
            raise Refused("too_many_subscriptions", f"a connection may have {self.limits.subscriptions} subscriptions")

    async def heed(self, action: str, said: dict[str, Any], id: Id | msgspec.UnsetType) -> None:
        """Do what a message says."""
        raise NotImplementedError

    async def _take(self, message: str | bytes) -> None:
        """Answer one message. Whatever it is, the connection stays."""
        id: Id | msgspec.UnsetType = msgspec.UNSET
        self.channel = msgspec.UNSET
        try:
            said = _said(message)
            id = _id(said)
            action = said.get("action")
            if not isinstance(action, str):
                raise Refused("invalid_message", f"action: {instead(said, 'action', self.actions)}")
            if action == "ping":
                self.answer(Pong(id))
            elif action == "authenticate":  # whoever got this far may read, with any key or none
                self.answer(Authenticated(id))
            else:
                await self.heed(action, said, id)
                self.outbox.flush()
        except Exception as error:
            self.answer(self.failed(error, id))

    def failed(self, error: Exception, id: Id | msgspec.UnsetType = msgspec.UNSET) -> Error:
        """What went wrong, as it is answered."""
        match error:
            case Refused():
                return Error(error.code, str(error), self.channel, id)
            case UnknownResolution():
                return Error("unknown_resolution", str(error), self.channel, id)
            case BadRequest():
                return Error("invalid_message", str(error), self.channel, id)
            case UnknownMarket():
                return Error("unknown_symbol", str(error), self.channel, id)
            case Unavailable():
                return Error("unavailable", str(error), self.channel, id)
            case CandledError():
                return Error("internal", str(error), self.channel, id)
        log.error("a message on a socket could not be answered", exc_info=error)
        return Error("internal", "candled failed at this; its log says why", self.channel, id)


class Session(Talk):
    """One connection of `/ws`."""

    def __init__(self, shared: BarStreams, socket: Socket) -> None:
        super().__init__(shared, socket)
        self._makes = shared.channels
        self._channels: dict[str, Channel] = {}  # those that were spoken of

    def close(self) -> None:
        for channel in self._channels.values():
            channel.close()

    def admit_one(self) -> None:
        """Raise where one more subscription would be too many."""
        self.admit(sum(channel.count for channel in self._channels.values()))

    async def heed(self, action: str, said: dict[str, Any], id: Id | msgspec.UnsetType) -> None:
        channels = ", ".join(self._makes)
        if action not in ("subscribe", "unsubscribe"):
            raise Refused("unknown_action", f"action: {instead(said, 'action', ACTIONS)}")
        named = said.get("channel")
        if not isinstance(named, str):
            raise Refused("invalid_message", f"channel: {instead(said, 'channel', channels)}")
        if len(named) <= LONGEST_ID:
            self.channel = named
        if named not in self._makes:
            raise Refused("unknown_channel", f"channel: {instead(said, 'channel', channels)}")
        if named not in self._channels:
            self._channels[named] = self._makes[named](self)
        if action == "subscribe":
            await self._channels[named].subscribe(said, id)
        else:
            self._channels[named].unsubscribe(said, id)


class BarChannel:
    """The streams of bars that one connection follows."""

    def __init__(self, session: Session, streams: Streams) -> None:
        self._session, self._streams = session, streams
        self._subscriptions: dict[Key, Subscription] = {}

    @property
    def count(self) -> int:
        return len(self._subscriptions)

    async def subscribe(self, said: dict[str, Any], id: Id | msgspec.UnsetType) -> None:
        asked = parsed(said, SubscribeBars, texts=False)
        session, limits = self._session, self._session.limits
        resolution = parse(asked.resolution)
        market = await self._streams.market(asked.symbol)
        key = market.market_symbol, resolution.name
        before = self._subscriptions.get(key)
        if before is None:
            session.admit_one()
        conflate_ms = max(asked.conflate_ms, limits.conflate_ms)
        label = Label(*key, self._streams.epoch)

        def greeting(start: Start) -> bytes:
            raised = msgspec.UNSET if conflate_ms == asked.conflate_ms else conflate_ms
            return worded(Subscribed("bars", *key, label.epoch, start.seq, start.recovered, raised, id))

        subscription = Subscription(
            session.hub,
            session.outbox,
            BARS,
            label,
            greeting=greeting,
            on_lost=lambda lost: session.nursery.start_soon(self._renew, lost),
            bars=asked.snapshot_bars,
            since=(since := known(self._streams, asked.resume)),
            conflate=conflate_ms / 1000,
            idle=limits.heartbeat_seconds,
            limit=limits.pending_frames,
            replaces=before,
        )
        try:
            topic = await self._streams.subscribe(
                market, resolution, subscription, bars=asked.snapshot_bars, since=since
            )
        except BaseException:
            subscription.end()  # the actor may take it in all the same; its topic drops what has ended
            raise
        subscription.topic = topic
        if before is not None:
            self._leave(before)
        self._subscriptions[key] = subscription

    def unsubscribe(self, said: dict[str, Any], id: Id | msgspec.UnsetType) -> None:
        asked = parsed(said, UnsubscribeBars, texts=False)
        resolution = parse(asked.resolution).name
        for key in self._subscriptions:
            if key[1] == resolution and key[0].casefold() == asked.symbol.casefold():
                self._leave(self._subscriptions.pop(key))
                self._session.answer(Unsubscribed("bars", *key, id))
                return
        # Silence is what was asked for, and it is there already.
        self._session.answer(Unsubscribed("bars", asked.symbol, resolution, id))

    def close(self) -> None:
        for subscription in self._subscriptions.values():
            self._leave(subscription)
        self._subscriptions.clear()

    def _leave(self, subscription: Subscription) -> None:
        subscription.end()
        if subscription.topic is not None:
            self._streams.unsubscribe(subscription.topic, subscription)

    async def _renew(self, subscription: Subscription) -> None:
        if not await renewed(self._streams, subscription):
            self._session.end(1011, "internal error")


async def renewed(streams: Streams, subscription: Subscription) -> bool:
    """Replace what a slow connection could not take; false where that failed."""
    if subscription.topic is None or subscription.ended:
        return True
    try:
        await streams.resnapshot(subscription.topic, subscription, bars=subscription.bars)
    except Exception:
        log.exception("no new snapshot of %s %s", subscription.label.symbol, subscription.label.resolution)
        return False
    return True


def known(streams: Streams, resume: Any) -> int | None:
    """The position to resume from; None where there is none that could be trusted."""
    try:
        position = msgspec.convert(resume, Position)
    except msgspec.ValidationError:
        return None
    return position.seq if position.epoch == streams.epoch and position.seq <= streams.committed() else None


def _said(message: str | bytes) -> dict[str, Any]:
    if isinstance(message, bytes):
        raise Refused("invalid_message", "message: expected a text frame, got a binary one")
    try:
        said = msgspec.json.decode(message)
    except (msgspec.DecodeError, RecursionError) as error:
        # Not what it says, which may be a token that a comma is missing behind.
        place = WHERE.search(str(error))
        where = f" from byte {place[1]} on" if place else ""
        size = len(message.encode())
        raise Refused(
            "invalid_json", f"message: expected a JSON object, got {size} bytes that are no JSON{where}"
        ) from None
    if not isinstance(said, dict):
        raise Refused("invalid_message", f"message: expected a JSON object, got {shown(said)}")
    return said


def _id(said: dict[str, Any]) -> Id | msgspec.UnsetType:
    id = said.get("id", msgspec.UNSET)
    if id is msgspec.UNSET:
        return id
    if isinstance(id, bool) or not isinstance(id, str | int) or len(str(id)) > LONGEST_ID:
        wanted = f"a text or an integer of at most {LONGEST_ID} characters"
        raise Refused("invalid_message", f"id: {instead(said, 'id', wanted)}")
    return id


def instead(said: dict[str, Any], name: str, wanted: str) -> str:
    return f"expected {wanted}, got {shown(said[name])}" if name in said else f"needed, {wanted}"
