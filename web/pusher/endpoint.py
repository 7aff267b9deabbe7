"""`/app/{key}`: the apps, their connections, and what candled publishes to them."""

import time
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

import trio

from actors.hub import Hub
from actors.topics import Streams
from web.listener import Goodbye, Goodbyes, Socket
from web.outbox import WsLimits
from web.pusher import frames
from web.pusher.apps import PusherSettings
from web.pusher.channels import Channels
from web.pusher.following import Following
from web.pusher.session import Session
from web.pusher.webhooks import Webhooks
from web.tokens import Tokens

PROTOCOLS = (5, 6, 7)
NO_APPS = "set PUSHER_APP_ID, PUSHER_KEY and PUSHER_SECRET where candled runs"


def _goodbye(code: int, reason: str) -> Goodbye:
    return Goodbye(code, reason, frames.error(code, reason))


GOODBYES = Goodbyes(
    stopping=_goodbye(frames.RECONNECT, "candled is stopping; come back"),
    full=_goodbye(frames.FULL, "there are too many connections already; come back later"),
    silent=_goodbye(frames.NO_PONG, "nothing heard for too long, not even a pong"),
)


class Pusher:
    """All apps of this process. `serve` is a handler of the listener; `run` publishes prices and sends webhooks."""

    def __init__(
        self,
        settings: PusherSettings,
        streams: Streams,
        hub: Hub,
        limits: WsLimits,
        tokens: Tokens | None = None,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`tokens` are what users show at `/pusher/auth`."""
        self.settings, self.tokens = settings, tokens
        self.webhooks = Webhooks(hub, now=now)
        self.now = now
        self._following = Following(streams, hub, limits)
        leave = self._following.prices.leave
        self.channels = [Channels(app, hub, self.webhooks.of(app), leave) for app in settings.apps]
        self._by_key = {channels.app.key: channels for channels in self.channels}
        self._hub, self._limits = hub, limits

    def by_key(self, key: str) -> Channels | None:
        """The channels of the app of this key."""
        return self._by_key.get(key)

    async def run(self) -> None:
        """Publish and post until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._following.prices.run)
            nursery.start_soon(self.webhooks.run)

    async def serve(self, socket: Socket) -> None:
        """Answer one connection until it ends."""
        channels = self.by_key(socket.arguments["key"])
        if channels is None:
            why = f"no app has the key {socket.arguments['key']!r:.60}" if self.channels else NO_APPS
            _refuse(socket, frames.NO_APP, f"Application does not exist: {why}")
            return
        wrong = _protocol(socket.head.target)
        if wrong is not None:
            _refuse(socket, *wrong)
            return
        session = Session(channels, self._following, self._hub, self._limits, socket, open=self.settings.open)
        await session.run(self.settings.activity_seconds)


def _protocol(target: str) -> tuple[int, str] | None:
    """What is wrong with the version of the protocol that somebody wants to speak."""
    said = parse_qs(urlsplit(target).query, keep_blank_values=True).get("protocol")
    if said is None:
        return frames.NO_PROTOCOL, "No protocol: expected ?protocol=7"
    if not (said[0].isascii() and said[0].isdigit() and len(said[0]) < 10):
        return frames.BAD_VERSION, f"Invalid version string: {said[0]!r:.40}"
    if int(said[0]) not in PROTOCOLS:
        return frames.UNSUPPORTED, f"Unsupported protocol version {said[0]}: expected 5, 6 or 7"
    return None


def _refuse(socket: Socket, code: int, message: str) -> None:
    socket.outbox.put(frames.error(code, message))
    socket.close(code, message)
