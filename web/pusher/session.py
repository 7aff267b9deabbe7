"""One connection: what its client says, and the answers."""

import logging

import msgspec
import trio
from msgspec import UNSET, Raw

from actors.hub import Hub
from storage.errors import BadRequest, Unavailable, UnknownMarket
from web.listener import Socket
from web.outbox import WsLimits
from web.pusher import frames, names, presence
from web.pusher.apps import joining, same, signature, signing_in
from web.pusher.channels import Channels
from web.pusher.following import Following
from web.pusher.frames import Event
from web.pusher.messages import Said, SignIn, Subscribe, Unsubscribe, User, Wrong, fields, read
from web.pusher.names import Name
from web.pusher.peers import Peer, Seat
from web.pusher.presence import Member
from web.pusher.users import MOST_WATCHED
from web.stream import Flood

log = logging.getLogger(__name__)

PONG_SECONDS = 30.0  # for whoever was asked whether they live
LOOK_SECONDS = 30.0  # at most, between looks at that
CLIENT_EVENTS = 10  # in a second, of one connection
EVENT_LIMITS = WsLimits(messages_per_second=CLIENT_EVENTS)
LONGEST_EVENT = 200  # characters of an event's name


class Denied(Exception):
    """A channel that a connection may not join."""

    def __init__(self, message: str, kind: str = "AuthError", status: int = 401) -> None:
        super().__init__(message)
        self.kind, self.status = kind, status


class Session:
    """One connection's place among the channels of its app."""

    def __init__(
        self, channels: Channels, following: Following, hub: Hub, limits: WsLimits, socket: Socket, *, open: bool
    ) -> None:
        """`open`: markets are for whoever knows the app's key."""
        self.peer = Peer(hub, socket.outbox, self._overflow, self.close)
        self._channels, self._following, self._hub = channels, following, hub
        self._limits, self._socket = limits, socket
        self._flood = Flood(limits)
        self._events = Flood(EVENT_LIMITS)
        self._open = open
        self._user: User | None = None
        self._heard = trio.current_time()  # when the client last said something
        self._asked = False  # whether it lives
        self._over = False

    async def run(self, activity: float) -> None:
        """Answer until the client or the process goes; one that says nothing for `activity` seconds is asked if it
        lives."""
        self._channels.enter(self.peer)
        try:
            self._answer(frames.established(self.peer.id, activity))
            self._watch(activity)
            while (message := await self._socket.receive()) is not None:
                self._heard, self._asked = trio.current_time(), False
                await self._take(message)
                # A client that asks without reading the answers waits for itself.
                await self._socket.outbox.room()
        finally:
            self._over = True
            for seat in self.peer.seats.values():
                if seat.bars is not None:
                    self._following.leave(seat.bars)
            self._channels.exit(self.peer)

    def close(self, code: int, reason: str) -> None:
        """Say goodbye, with the same code in an error and in the close frame."""
        self._socket.outbox.put(frames.error(code, reason))
        self._socket.close(code, reason)

    def _overflow(self) -> None:
        self._socket.close(frames.FULL, "the connection reads too slowly; come back and begin anew")

    def _watch(self, activity: float) -> None:
        """Ask a client that says nothing whether it lives; without an answer, give it up."""
        if self._over or self._socket.outbox.ended:
            return
        now = trio.current_time()
        due = self._heard + activity + (PONG_SECONDS if self._asked else 0)
        if now >= due and self._asked:
            self.close(frames.NO_PONG, f"no answer to a ping within {PONG_SECONDS:g} s")
            return
        if now >= due:
            self._asked = True
            self._answer(frames.PING)
            due = now + PONG_SECONDS
        self._hub.at(min(due, now + LOOK_SECONDS), lambda: self._watch(activity))

    # --- what clients say

    async def _take(self, message: str | bytes) -> None:
        """Answer one message. Whatever it is, the connection stays."""
        if self._flood.rises():
            if self._flood.first:
                limit = self._limits.messages_per_second
                self._answer(frames.error(None, f"more than {limit} messages in a second; this one was dropped"))
            elif self._flood.endless:
                self.close(frames.FULL, f"too many messages for {self._limits.flooded_seconds} seconds on end")
            return
        try:
            await self._act(read(message))
        except Wrong as error:
            self._answer(frames.error(error.code, str(error)))
        except Exception:
            log.exception("a Pusher message could not be answered")
            self._answer(frames.error(None, "candled failed at this; its log says why"))

    async def _act(self, said: Said) -> None:
        match said.event:
            case "pusher:ping":
                self._answer(frames.PONG)
            case "pusher:pong":
                pass
            case "pusher:subscribe":
                asked = fields(said, Subscribe)
                try:
                    await self._subscribe(asked)
                except Denied as error:
                    self._answer(frames.refused(asked.channel, error.kind, str(error), error.status))
            case "pusher:unsubscribe":
                self._unsubscribe(fields(said, Unsubscribe).channel)
            case "pusher:signin":
                self._sign_in(fields(said, SignIn))
            case name if name.startswith("client-"):
                self._relay(said)
            case name:
                raise Wrong(f"event: nothing is called {name!r:.200}")

    async def _subscribe(self, asked: Subscribe) -> None:
        try:
            name = names.parsed(asked.channel)
        except BadRequest as error:
            raise Denied(str(error), "InvalidChannel", 400) from None
        if name.whole in self.peer.seats:
            raise Wrong(f"Existing subscription to channel {name.whole}")
        if len(self.peer.seats) >= self._limits.subscriptions:
            most = self._limits.subscriptions
            raise Denied(f"a connection may have {most} subscriptions", "LimitReached", frames.OVER_QUOTA)
        self._authorize(name, asked)
        market = name.market
        if market is None:
            member = self._member(name, asked) if name.kind == "presence" else None
            self._join(name, member)
            return
        if not self._open and name.kind == "public":
            raise Denied(
                f"reading needs a key here: subscribe to private-{name.whole} with an authorization", status=403
            )
        try:
            stream = await self._following.bars_of(market)
            if stream is not None:
                subscription = await self._following.follow(
                    name.whole, stream, self._socket.outbox, self._socket.nursery
                )
                self._channels.join(self.peer, name.whole, Seat(name.kind, bars=subscription))
                return
        except Unavailable as error:
            raise Denied(str(error), "Unavailable", 503) from None
        except UnknownMarket as error:
            raise Denied(str(error), "UnknownMarket", 404) from None
        await self._follow_price(name, market)

    def _authorize(self, name: Name, asked: Subscribe) -> None:
        """Raise unless the app's secret says that this connection may join."""
        if name.kind == "user":
            if self._user is None or self._user.id != name.rest:
                raise Denied("only for the user of this name, who has to be signed in", status=403)
        elif name.kind != "public":
            wanted = joining(self.peer.id, name.whole, asked.channel_data)
            if not self._signed(wanted, asked.auth or ""):
                raise Denied("Invalid signature")

    def _signed(self, text: str, auth: str) -> bool:
        app = self._channels.app
        key, _, given = auth.partition(":")
        return same(app.key, key) & same(signature(app.secret, text), given)

    def _member(self, name: Name, asked: Subscribe) -> Member:
        if asked.channel_data is not None:
            try:
                member = presence.member(asked.channel_data)
            except BadRequest as error:
                raise Denied(str(error), "InvalidMember", 400) from None
        elif self._user is not None:
            member = Member(self._user.id, self._user.user_info)
        else:
            raise Denied("channel_data: needed in a presence channel", "InvalidMember", 400)
        channel = self._channels.find(name.whole)
        members = channel.members if channel is not None else None
        if members is not None and len(members) >= presence.MOST and member.user_id not in members:
            raise Denied(f"a channel has at most {presence.MOST} members", "LimitReached", frames.OVER_QUOTA)
        return member

    def _join(self, name: Name, member: Member | None = None) -> None:
        channel = self._channels.join(self.peer, name.whole, Seat(name.kind), member)
        told: object = Raw(b"{}") if channel.members is None else channel.members.told()
        self._answer(frames.succeeded(name.whole, told))
        if name.cached:
            kept = self._channels.cache.find(name.whole)
            self._recall(name, None if kept is None else kept.frame)

    async def _follow_price(self, name: Name, market: str) -> None:
        """Join a channel that says what a market costs."""
        channel = self._channels.join(self.peer, name.whole, Seat(name.kind))
        feed = channel.feed
        if feed is None:
            feed = channel.feed = self._following.prices.follow(
                market, lambda told: self._channels.show(name.whole, frames.PRICE, told)
            )
        self._answer(frames.succeeded(name.whole))
        if name.cached:
            said = feed.said
            last = await self._following.last_price(feed)
            if feed.said == said:  # else it has heard the last price as all others have
                self._recall(name, None if last is None else frames.frame(Event(frames.PRICE, last, name.whole)))

    def _recall(self, name: Name, kept: bytes | None) -> None:
        """Send what a cache channel said last, or that there is nothing."""
        if kept is None:
            self._channels.hooks.tell("cache_miss", name.whole)
            kept = frames.frame(Event("pusher:cache_miss", UNSET, name.whole))
        self.peer.mail.send(kept, name.whole)

    def _unsubscribe(self, channel: str) -> None:
        seat = self.peer.seats.get(channel)
        if seat is None:
            return
        if seat.bars is not None:
            self._following.leave(seat.bars)
        self._channels.leave(self.peer, channel)

    def _sign_in(self, asked: SignIn) -> None:
        if not self._signed(signing_in(self.peer.id, asked.user_data), asked.auth):
            self.close(frames.UNAUTHORIZED, "Invalid signature")
            return
        try:
            user = msgspec.json.decode(asked.user_data, type=User)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            self.close(frames.UNAUTHORIZED, f"user_data: expected a JSON object with an id: {error}")
            return
        if not 0 < len(user.id) <= names.LONGEST_USER:
            self.close(frames.UNAUTHORIZED, f"user_data: id: expected 1 to {names.LONGEST_USER} characters")
            return
        if self._user is not None:
            raise Wrong("this connection is signed in already")
        if len(user.watchlist) > MOST_WATCHED:
            self._answer(frames.error(frames.TOO_MANY_WATCHED, f"watchlist: expected at most {MOST_WATCHED} users"))
        self._user = msgspec.structs.replace(user, user_info=Raw(bytes(user.user_info)), watchlist=())
        self._answer(frames.event("pusher:signin_success", {"user_data": asked.user_data}))
        self._channels.users.enter(self.peer, user.id, user.watchlist if len(user.watchlist) <= MOST_WATCHED else ())

    def _relay(self, said: Said) -> None:
        """Pass on what a client says to the others in a channel."""
        if not self._channels.app.client_events:
            raise Wrong("client events are not enabled for this app", frames.BAD_CLIENT_EVENT)
        seat = self.peer.seats.get(said.channel or "")
        if seat is None or said.channel is None:
            raise Wrong(
                f"client events need a subscription to their channel {said.channel!r:.200}", frames.BAD_CLIENT_EVENT
            )
        if seat.kind not in ("private", "presence"):
            raise Wrong("client events are for private and presence channels only", frames.BAD_CLIENT_EVENT)
        if len(said.event) > LONGEST_EVENT:
            raise Wrong(f"event: expected at most {LONGEST_EVENT} characters", frames.BAD_CLIENT_EVENT)
        if self._events.rises():
            raise Wrong(f"more than {CLIENT_EVENTS} client events in a second", frames.BAD_CLIENT_EVENT)
        try:
            data = frames.text_of(said.data) if bytes(said.data) else UNSET
        except ValueError as error:
            raise Wrong(f"data: {error}", frames.BAD_CLIENT_EVENT) from None
        user_id = UNSET if seat.user_id is None else seat.user_id
        self._channels.relay(self.peer, said.channel, Event(said.event, data, said.channel, user_id))
        told = {"event": said.event, "data": None if data is UNSET else data, "socket_id": self.peer.id}
        self._channels.hooks.tell("client_event", said.channel, **told, user_id=seat.user_id)

    def _answer(self, frame: bytes) -> None:
        self._socket.outbox.put(frame)
        self._socket.outbox.flush()
