"""What happens in an app's channels, posted to its own server: signed, in order, again until it is taken."""

import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import h11
import msgspec
import trio
from msgspec import Struct

from actors.hub import Hub
from web.pusher.apps import App, signature
from web.pusher.channels import Hooks
from web.pusher.posting import post

log = logging.getLogger(__name__)

GRACE = 3.0  # seconds that a channel may be empty before that is told
MOST_LEAVING = 10_000  # channels that may be waited for at a time
GATHERING = 0.05  # seconds in which what happens goes into one request
MOST_TOGETHER = 100
MOST_BYTES = 8 << 20  # of events that wait; beyond, new ones are not told
PATIENCE = 300.0  # seconds until what is not taken is given up
ANSWER_WITHIN = 10.0
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0

Post = Callable[[str, bytes, Mapping[str, str]], Awaitable[int]]


class WebhookStatistics(Struct, frozen=True):
    """What became of the events that a server is told of."""

    delivered: int = 0
    attempts: int = 0  # requests
    failed: int = 0  # of these, not answered with 2xx
    given_up: int = 0
    dropped: int = 0  # events that found no room
    waiting: int = 0  # events


class Silent:
    """For an app that tells nobody."""

    def tell(self, name: str, channel: str, **more: str | int | None) -> None:
        pass

    def occupied(self, channel: str) -> None:
        pass

    def vacated(self, channel: str) -> None:
        pass


class Hook:
    """One app's server."""

    def __init__(self, app: App, hub: Hub, now: Callable[[], float], send: Post = post) -> None:
        self._app, self._hub, self._now, self._post = app, hub, now, send
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._wake = trio.Event()
        self._leaving: dict[str, float] = {}  # channels that are empty, and when that is told
        self._delivered = self._attempts = self._failed = self._given_up = self._dropped = 0

    def tell(self, name: str, channel: str, **more: str | int | None) -> None:
        """Have an event posted."""
        event: dict[str, Any] = {"name": name, "channel": channel}
        event.update((key, value) for key, value in more.items() if value is not None)
        text = msgspec.json.encode(event)
        if self._bytes + len(text) > MOST_BYTES:
            self._dropped += 1
            return
        self._waiting.append(text)
        self._bytes += len(text)
        self._wake.set()

    def occupied(self, channel: str) -> None:
        """A channel has its first subscriber."""
        if self._leaving.pop(channel, None) is None:
            self.tell("channel_occupied", channel)

    def vacated(self, channel: str) -> None:
        """A channel has lost its last subscriber; told when none comes back soon."""
        if len(self._leaving) >= MOST_LEAVING:
            self.tell("channel_vacated", channel)
            return
        due = self._leaving[channel] = trio.current_time() + GRACE

        def look() -> None:
            if self._leaving.get(channel) == due:
                del self._leaving[channel]
                self.tell("channel_vacated", channel)

        self._hub.at(due, look)

    async def run(self) -> None:
        """Post until cancelled."""
        while True:
            await self._wake.wait()
            await trio.sleep(GATHERING)
            some = [self._waiting.popleft() for _ in range(min(len(self._waiting), MOST_TOGETHER))]
            self._bytes -= sum(map(len, some))
            if not self._waiting:
                self._wake = trio.Event()
            await self._deliver(some)

    async def _deliver(self, events: list[bytes]) -> None:
        until, pause = trio.current_time() + PATIENCE, FIRST_PAUSE
        while True:
            trouble = await self._attempt(events)
            if not trouble:
                self._delivered += len(events)
                return
            self._failed += 1
            if trio.current_time() + pause > until:
                self._given_up += len(events)
                log.error("webhook of app %s: %s; %d events are given up", self._app.id, trouble, len(events))
                return
            log.warning("webhook of app %s: %s; again in %g s", self._app.id, trouble, pause)
            await trio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _attempt(self, events: list[bytes]) -> str:
        """Post; what went wrong, empty where nothing did."""
        self._attempts += 1
        body = b'{"time_ms":%d,"events":[%b]}' % (int(self._now() * 1000), b",".join(events))
        headers = {
            "Content-Type": "application/json",  # exactly so: one library compares it letter by letter
            "X-Pusher-Key": self._app.key,
            "X-Pusher-Signature": signature(self._app.secret, body),
        }
        try:
            with trio.fail_after(ANSWER_WITHIN):
                status = await self._post(self._app.webhook, body, headers)
        except (OSError, trio.BrokenResourceError, trio.TooSlowError, h11.RemoteProtocolError) as error:
            return f"{type(error).__name__}: {error}"
        return "" if 200 <= status < 300 else f"answered {status}"

    def statistics(self) -> WebhookStatistics:
        return WebhookStatistics(
            self._delivered, self._attempts, self._failed, self._given_up, self._dropped, len(self._waiting)
        )


class Webhooks:
    """The servers of all apps."""

    def __init__(self, hub: Hub, *, now: Callable[[], float] = time.time) -> None:
        self._hub, self._now = hub, now
        self._hooks: dict[str, Hook] = {}

    def of(self, app: App) -> Hooks:
        """Who tells this app's server."""
        if not app.webhook:
            return Silent()
        hook = self._hooks[app.id] = Hook(app, self._hub, self._now)
        return hook

    async def run(self) -> None:
        """Post until cancelled; one server that does not answer delays no other."""
        async with trio.open_nursery() as nursery:
            for hook in self._hooks.values():
                nursery.start_soon(hook.run)

    def statistics(self) -> dict[str, WebhookStatistics]:
        """By app."""
        return {app: hook.statistics() for app, hook in self._hooks.items()}
