"""The channels of one app: who is in them, and how an event reaches everyone there."""

from collections.abc import Callable, Iterator
from typing import Protocol

import trio
from msgspec import Struct

from actors.hub import Hub
from web.pusher.apps import App
from web.pusher.cache import Cache
from web.pusher.frames import Event, event, frame
from web.pusher.mail import State
from web.pusher.names import Name
from web.pusher.peers import Peer, Seat
from web.pusher.presence import Member, Members
from web.pusher.prices import PriceFeed
from web.pusher.users import Users

COUNTING_SECONDS = 1.0  # between two words about how many subscribers a channel has


class Hooks(Protocol):
    """Who tells the app's own server what happens."""

    def tell(self, name: str, channel: str, **more: str | int | None) -> None:
        """Something happened in a channel."""

    def occupied(self, channel: str) -> None:
        """A channel has its first subscriber."""

    def vacated(self, channel: str) -> None:
        """A channel has lost its last one."""


class Channel:
    """One channel that somebody is in."""

    __slots__ = ("counting", "feed", "members", "peers")

    def __init__(self) -> None:
        self.peers: set[Peer] = set()
        self.members: Members | None = None
        self.counting = False  # its number of subscribers is about to be told
        self.feed: PriceFeed | None = None  # where candled publishes a market's price here


class ChannelsStatistics(Struct, frozen=True):
    """What is open in one app, and what went through it since the start."""

    connections: int
    channels: int
    subscriptions: int
    members: int
    published: int
    client_events: int
    cache_bytes: int


class Channels:
    """The one owner of an app's channels, users and kept events."""

    def __init__(self, app: App, hub: Hub, hooks: Hooks, unfollow: Callable[[PriceFeed], None]) -> None:
        """`unfollow` is called with what a channel was told of a market when nobody is in it any more."""
        self.app = app
        self.hooks = hooks
        self.users = Users()
        self.cache = Cache(trio.current_time)
        self.published = self.client_events = 0
        self._hub, self._unfollow = hub, unfollow
        self._peers: dict[str, Peer] = {}
        self._channels: dict[str, Channel] = {}

    # --- connections

    def enter(self, peer: Peer) -> None:
        """A connection begins."""
        self._peers[peer.id] = peer

    def exit(self, peer: Peer) -> None:
        """A connection is over, however it ended."""
        for name in list(peer.seats):
            self.leave(peer, name)
        self.users.leave(peer)
        del self._peers[peer.id]

    def peer(self, socket_id: str) -> Peer | None:
        """The connection of this id."""
        return self._peers.get(socket_id)

    # --- channels

    def find(self, name: str) -> Channel | None:
        """The channel of this name, if somebody is in it."""
        return self._channels.get(name)

    def occupied(self, prefix: str = "") -> Iterator[str]:
        """The names of the channels that somebody is in."""
        return (name for name in self._channels if name.startswith(prefix))

    def join(self, peer: Peer, name: str, seat: Seat, member: Member | None = None) -> Channel:
        """Seat a connection, and tell the others of a new member."""
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = Channel()
            self.hooks.occupied(name)
        peer.seats[name] = seat
        if member is not None:
            seat.user_id = member.user_id
            channel.members = channel.members or Members()
            if channel.members.add(member):
                self._send(channel, name, event("pusher_internal:member_added", member, name))
                self.hooks.tell("member_added", name, user_id=member.user_id)
        channel.peers.add(peer)
        self._count(channel, name)
        return channel

    def leave(self, peer: Peer, name: str) -> None:
        """Take a connection out of a channel; nothing of it is sent there any more."""
        seat = peer.seats.pop(name)
        channel = self._channels[name]
        channel.peers.discard(peer)
        peer.mail.drop(name)
        if seat.user_id is not None and channel.members is not None and channel.members.remove(seat.user_id):
            told = event("pusher_internal:member_removed", {"user_id": seat.user_id}, name)
            self._send(channel, name, told)
            self.hooks.tell("member_removed", name, user_id=seat.user_id)
        if channel.peers:
            self._count(channel, name)
            return
        del self._channels[name]
        self.hooks.vacated(name)
        if channel.feed is not None:
            self._unfollow(channel.feed)

    # --- events

    def publish(self, name: Name, said: str, data: str, but: str | None = None) -> None:
        """Tell everyone in a channel, but for one connection, and remember it where the channel is one that does."""
        self.published += 1
        channel = self._channels.get(name.whole)
        if channel is None and not name.cached:
            return
        told = frame(Event(said, data, name.whole))
        if name.cached:
            self.cache.put(name.whole, told, data)
        if channel is not None:
            self._send(channel, name.whole, told, self._peers.get(but) if but else None)

    def show(self, name: str, said: str, data: str) -> None:
        """Tell everyone in a channel a state, which replaces what they were told before and have not read yet."""
        channel = self._channels.get(name)
        if channel is not None:
            self.published += 1
            self._send(channel, name, frame(Event(said, data, name)), state=(name, said))

    def relay(self, sender: Peer, name: str, said: Event) -> None:
        """Tell everyone in a channel what one of them says."""
        self.client_events += 1
        self._send(self._channels[name], name, frame(said), sender)

    def statistics(self) -> ChannelsStatistics:
        return ChannelsStatistics(
            len(self._peers),
            len(self._channels),
            sum(len(channel.peers) for channel in self._channels.values()),
            sum(len(channel.members or ()) for channel in self._channels.values()),
            self.published,
            self.client_events,
            self.cache.bytes,
        )

    def _send(
        self, channel: Channel, name: str, told: bytes, but: Peer | None = None, state: State | None = None
    ) -> None:
        for peer in channel.peers:
            if peer is not but:
                peer.mail.send(told, name, state)

    def _count(self, channel: Channel, name: str) -> None:
        """Have subscribers told soon how many they are; not at once, as many may come together."""
        if self.app.subscription_counts and channel.members is None and not channel.counting:
            channel.counting = True
            self._hub.at(trio.current_time() + COUNTING_SECONDS, lambda: self._tell_count(channel, name))

    def _tell_count(self, channel: Channel, name: str) -> None:
        channel.counting = False
        count = len(channel.peers)
        if count:
            told = event("pusher_internal:subscription_count", {"subscription_count": count}, name)
            self._send(channel, name, told, state=(name, "pusher_internal:subscription_count"))
            self.hooks.tell("subscription_count", name, subscription_count=count)
