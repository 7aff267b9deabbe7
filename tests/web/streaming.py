"""A running web app with its sockets, listening on a port."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from tests.web.conftest import NOW, Web, serving
from tests.ws_client import Client, connected
from web.doors import sockets
from web.listener import listen
from web.outbox import WsLimits
from web.tokens import Tokens

SECRET = "a secret of the tests, of as many bytes as HS384 wants"


class Streaming:
    """The app, and the port that it can be reached at."""

    def __init__(self, web: Web, port: int, stop: Callable[[], None], ended: trio.Event) -> None:
        self.web, self.stack, self.clock, self.port = web, web.stack, web.clock, port
        self.stop, self.ended = stop, ended

    def connect(self, path: str = "/ws", **more: Any) -> Any:
        return connected(self.port, path, **more)


@asynccontextmanager
async def streaming(
    folder: Path, now: float = NOW, auth: str = "open", demo: bool = False, **limits: Any
) -> AsyncIterator[Streaming]:
    """A running daemon but for its process, with one spot market called GOLD."""
    limit = WsLimits(**limits)
    stop, ended = trio.Event(), trio.Event()
    async with serving(folder, now, auth=auth, streams=limit) as web, trio.open_nursery() as nursery:
        await web.market()

        async def serve(*, task_status: Any) -> None:
            await listen(
                web.app,
                sockets(
                    web.stack.engine,
                    web.stack.registry,
                    web.stack.intake,
                    web.stack.hub,
                    limit,
                    None,
                    lambda key: web.stack.keys.allowed(key, "ingest"),
                    Tokens(SECRET),
                    demo=demo,
                ),
                host="127.0.0.1",
                port=0,
                hub=web.stack.hub,
                limits=limit,
                until=stop.wait,
                drain_seconds=2,
                task_status=task_status,
            )
            ended.set()

        _, port = await nursery.start(serve)
        yield Streaming(web, port, stop.set, ended)
        stop.set()
        with trio.fail_after(10):
            await ended.wait()
        nursery.cancel_scope.cancel()


async def rows(client: Client, kind: str = "prices") -> list[dict[str, Any]]:
    """What the next message of this type holds."""
    heard = await client.hear()
    assert heard["type"] == kind, heard
    found: list[dict[str, Any]] = heard["data"]
    return found
