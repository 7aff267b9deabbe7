"""What a plain request hears at the address of a WebSocket; sockets themselves have their own door, the listener."""

from quart import Blueprint, Response

from storage.errors import CandledError
from web.context import request

sockets = Blueprint("sockets", __name__)


class UpgradeNeeded(CandledError):
    """A plain request where only a WebSocket is served."""


@sockets.get("/ws")
async def ws() -> Response:
    """Nothing but how to come again."""
    raise _needed()


@sockets.get("/api/lightweight/realtime")
async def lightweight() -> Response:
    """Nothing but how to come again."""
    raise _needed()


@sockets.get("/api/tradingview/stream")
async def tradingview() -> Response:
    """Nothing but how to come again."""
    raise _needed()


@sockets.get("/api/ingest/stream")
async def ingest() -> Response:
    """Nothing but how to come again."""
    raise _needed()


@sockets.get("/app/<key>")
async def pusher(key: str) -> Response:  # noqa: ARG001
    """Nothing but how to come again."""
    raise _needed()


@sockets.get("/ws/app/<key>")
async def pusher_behind(key: str) -> Response:  # noqa: ARG001
    """Nothing but how to come again."""
    raise _needed()


def _needed() -> UpgradeNeeded:
    path = request().path
    return UpgradeNeeded(
        f'{path} is a WebSocket: connect with `new WebSocket("ws://HOST:PORT{path}")`, or any client that sends'
        " 'Connection: Upgrade', 'Upgrade: websocket' and 'Sec-WebSocket-Version: 13'"
    )
