"""A bare client of the Pusher protocol, for tests that look at every frame; and an endpoint to talk to."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

from actors.hub import Hub
from tests.memory_markets import MemoryMarkets
from tests.ws_client import connected
from web.listener import Endpoint, listen
from web.outbox import WsLimits
from web.pusher.apps import App, PusherSettings, auth, joining, signing_in
from web.pusher.channels import Channels
from web.pusher.endpoint import GOODBYES, Pusher

APP = App(id="123456", key="your_public_key", secret="your_secret_key")
PATH = f"/app/{APP.key}?protocol=7&client=js&version=8.6.0&flash=false"
Frame = dict[str, Any]


class Client:
    """One connection."""

    def __init__(self, connection: WebSocketConnection) -> None:
        self.connection = connection
        self.id = ""

    async def hear(self, seconds: float = 5.0) -> Frame:
        """The next frame; data that is a text with JSON is decoded, as clients do."""
        with trio.fail_after(seconds):
            heard: Frame = json.loads(await self.connection.get_message())
        if isinstance(heard.get("data"), str):
            heard["data"] = _decoded(heard["data"])
        return heard

    async def silent(self) -> bool:
        """Whether nothing came before the answer to a ping."""
        await self.say("pusher:ping", {})
        return bool((await self.hear())["event"] == "pusher:pong")

    async def settle(self) -> None:
        """Let go of whatever was said so far."""
        await self.say("pusher:ping", {})
        while (await self.hear())["event"] != "pusher:pong":
            pass

    async def raw(self, text: str | bytes) -> None:
        await self.connection.send_message(text)

    async def say(self, event: str, data: Any = None, **more: Any) -> None:
        await self.raw(json.dumps({"event": event, "data": data, **more}))

    async def ask(self, event: str, data: Any = None, **more: Any) -> Frame:
        await self.say(event, data, **more)
        return await self.hear()

    async def subscribe(self, channel: str, channel_data: str | None = None, **more: Any) -> Frame:
        """Subscribe, signed with the app's secret; the answer."""
        data = {"channel": channel, "auth": auth(APP, joining(self.id, channel, channel_data)), **more}
        return await self.ask(
            "pusher:subscribe", data if channel_data is None else {**data, "channel_data": channel_data}
        )

    async def enter(self, channel: str, user_id: str, **info: Any) -> Frame:
        """Join a presence channel."""
        return await self.subscribe(channel, json.dumps({"user_id": user_id, "user_info": info or None}))

    async def sign_in(self, user_id: str, **more: Any) -> Frame:
        user = json.dumps({"id": user_id, **more})
        return await self.ask("pusher:signin", {"auth": auth(APP, signing_in(self.id, user)), "user_data": user})

    async def ending(self, seconds: float = 5.0) -> tuple[Frame | None, int]:
        """Read whatever comes; the last error, and the code of the close frame."""
        last: Frame | None = None
        with trio.fail_after(seconds):
            while True:
                try:
                    heard = json.loads(await self.connection.get_message())
                except ConnectionClosed as closed:
                    return last, int(closed.reason.code) if closed.reason else 1006
                if heard["event"] == "pusher:error":
                    last = heard


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


@asynccontextmanager
async def talking(port: int, path: str = PATH, **more: Any) -> AsyncIterator[Client]:
    """A connection that heard its first frame."""
    async with connected(port, path, **more) as found:
        client = Client(found.connection)
        first = await client.hear()
        assert first["event"] == "pusher:connection_established", first
        client.id = first["data"]["socket_id"]
        yield client


class Served:
    def __init__(self, pusher: Pusher, markets: MemoryMarkets, hub: Hub, port: int, stop: Callable[[], None]) -> None:
        self.pusher, self.markets, self.hub, self.port, self.stop = pusher, markets, hub, port, stop

    @property
    def channels(self) -> Channels:
        """Those of the first app."""
        return self.pusher.channels[0]

    def talking(self, path: str = PATH, **more: Any) -> Any:
        return talking(self.port, path, **more)

    def connected(self, path: str = PATH) -> Any:
        return connected(self.port, path)


async def no_app(scope: Any, receive: Any, send: Any) -> None:
    """A web app without anything in it."""
    assert scope["type"] == "lifespan"
    while (await receive())["type"] != "lifespan.shutdown":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})


@asynccontextmanager
async def serving(*apps: App, limits: WsLimits | None = None, port: int = 0, **settings: Any) -> AsyncIterator[Served]:
    """An endpoint over markets in memory."""
    hub, markets, limits = Hub(), MemoryMarkets("GOLD", "BTC/USD", "BTC-5"), limits or WsLimits()
    pusher = Pusher(PusherSettings(**{"apps": apps or (APP,), **settings}), markets, hub, limits)
    stop = trio.Event()
    endpoint = Endpoint(pusher.serve, GOODBYES)
    async with trio.open_nursery() as nursery:
        await nursery.start(hub.run)
        nursery.start_soon(pusher.run)

        async def serve(*, task_status: Any) -> None:
            await listen(
                no_app,
                {"/app/{key}": endpoint, "/ws/app/{key}": endpoint},
                host="127.0.0.1",
                port=port,
                hub=hub,
                limits=limits,
                until=stop.wait,
                drain_seconds=2,
                task_status=task_status,
            )
            nursery.cancel_scope.cancel()

        _, at = await nursery.start(serve)
        yield Served(pusher, markets, hub, at, stop.set)
        stop.set()
