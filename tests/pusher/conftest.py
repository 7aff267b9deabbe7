"""One daemon with two apps for all tests of this folder."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from daemon import commands
from daemon.config import Config
from tests.daemons import Daemon, running
from tests.pusher.hooks import Server
from tests.web.browser import launched

APP: dict[str, str] = {"id": "123456", "key": "your_public_key", "secret": "your_secret_key"}
JWT_SECRET = "a secret that users' tokens are signed with"
OTHER = {
    "id": "777",
    "key": "other_key",
    "secret": "other_secret",
    "subscription_counts": True,
    "client_events": False,
    "encryption_key": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
}


class Ours(msgspec.Struct):
    """The daemon, as tests reach it."""

    daemon: Daemon
    hooks: Server  # which the first app's webhooks reach
    read: str  # keys
    admin: str
    ingest: str

    @property
    def port(self) -> int:
        return self.daemon.port

    @property
    def client(self) -> dict[str, Any]:
        """Options of pusher-js."""
        return {
            "cluster": "local", "wsHost": "127.0.0.1", "wsPort": self.port, "wssPort": self.port,
            "forceTLS": False, "enabledTransports": ["ws", "wss"],
        }  # fmt: skip

    @property
    def server(self) -> dict[str, Any]:
        """Options of the server library for Node."""
        return {
            "appId": APP["id"], "key": APP["key"], "secret": APP["secret"],
            "host": "127.0.0.1", "port": self.port, "useTLS": False,
        }  # fmt: skip


@pytest.fixture(scope="session")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ours]:
    """The daemon runs in a thread of its own event loop, as it outlives each test's."""
    home = tmp_path_factory.mktemp("pusher")
    data = home / "d"
    keys = [commands.create_token(Config(data=data), scope, scope) for scope in ("read", "admin", "ingest")]
    stop = threading.Event()
    found: list[Ours] = []
    failed: list[BaseException] = []

    async def run(hooks: Server) -> None:
        async with running("serve", "--data", str(data), home=home, variables=_settings(hooks.url)) as daemon:
            found.append(Ours(daemon, hooks, *keys))
            await trio.to_thread.run_sync(stop.wait)

    def live(hooks: Server) -> None:
        try:
            trio.run(run, hooks)
        except BaseException as error:
            failed.append(error)

    with Server() as hooks:
        thread = threading.Thread(target=live, args=[hooks])
        thread.start()
        while not found and not failed:
            time.sleep(0.02)
        if found:
            yield found[0]
        stop.set()
        thread.join()
    if failed:
        raise failed[0]


def _settings(hooks: str) -> dict[str, str]:
    return {
        "PUSHER_APP_ID": APP["id"],
        "PUSHER_KEY": APP["key"],
        "PUSHER_SECRET": APP["secret"],
        "PUSHER_CLUSTER": "us2",
        "CANDLED_JWT_SECRET": JWT_SECRET,
        "CANDLED_PUSHER_WEBHOOK": hooks,
        "CANDLED_PUSHER_APPS": json.dumps([OTHER]),
        "CANDLED_CREATE_MARKETS": "spot",
        "CANDLED_FLUSH_SECONDS": "0.2",
    }


async def trade(ours: Ours, symbol: str, price: float, at: float | None = None) -> int:
    """Take a trade; its second."""
    second = int(time.time() if at is None else at)
    event = {"market_symbol": symbol, "timestamp": second * 1000, "price": price, "size": 2}
    head = f"POST /api/ingest/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {ours.ingest}\r\n"
    body = json.dumps(event)
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    async with await trio.open_tcp_stream("127.0.0.1", ours.port) as stream:
        await stream.send_all((head + body).encode())
        answer = b"".join([part async for part in stream])
    assert b'"accepted":1' in answer, answer
    return second


ROOT = Path(__file__).parent.parent.parent

chromium = pytest.fixture(scope="session")(launched)
