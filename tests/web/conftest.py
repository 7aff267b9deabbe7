"""The web app over a real stack: real files, real tasks, a clock that a test can set."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from quart import Response
from quart.testing.utils import sentinel

from daemon.serve import services
from daemon.stack import Stack, StackSettings, opened
from storage import keys
from tests.stacks import with_tables
from tests.web.browser import launched
from web.app import App, create_app
from web.context import Rates, WebSettings

NOW = 1_767_603_600  # 2026-01-05 09:00 UTC, a Monday
LOCAL = ("127.0.0.1", 50_000)
STRANGER = ("203.0.113.7", 50_000)

chromium = pytest.fixture(scope="session")(launched)


class Clock:
    """Unix seconds, as a test has them."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Web:
    """The app, and how a test talks to it."""

    def __init__(self, app: App, stack: Stack, clock: Clock) -> None:
        self.app, self.stack, self.clock = app, stack, clock
        self.headers: dict[str, str] = {}

    async def get(self, path: str, **more: Any) -> Response:
        return await self.ask("GET", path, **more)

    async def post(self, path: str, **more: Any) -> Response:
        return await self.ask("POST", path, **more)

    async def ask(
        self,
        method: str,
        path: str,
        *,
        headers: dict[str, str] | None = None,
        client: tuple[str, int] = LOCAL,
        json: Any = sentinel,
        data: bytes | None = None,
    ) -> Response:
        target, _, query = path.partition("?")
        scope = {"client": client, "raw_path": target.encode(), "query_string": query.encode()}
        return await self.app.test_client().open(
            target, method=method, headers={**self.headers, **(headers or {})}, scope_base=scope, json=json, data=data
        )

    async def json(self, path: str, **more: Any) -> Any:
        """What a GET answers, decoded strictly."""
        return decoded(await (await self.get(path, **more)).get_data())

    async def market(self, symbol: str = "GOLD", **fields: Any) -> None:
        await self.stack.registry.put({"market_symbol": symbol, "kind": "spot", **fields})

    async def trades(self, *trades: tuple[float, float] | tuple[float, float, float], symbol: str = "GOLD") -> str:
        """Take (second, price[, size]) trades; the cursor."""
        events = [
            {"market_symbol": symbol, "timestamp": int(trade[0] * 1000), "price": trade[1], "size": (*trade, 1)[2]}
            for trade in trades
        ]
        answer = decoded(await self.stack.intake.submit(msgspec.json.encode(events), "application/json"))
        assert answer["accepted"] == len(trades), answer
        return str(answer["cursor"])

    async def key(self, scope: str) -> dict[str, str]:
        """The header of a new key."""
        made = await self.stack.door.run(keys.create, self.stack.state, scope, "test")
        return {"Authorization": f"Bearer {made}"}


def decoded(data: bytes | str) -> Any:
    return msgspec.json.decode(data)


@asynccontextmanager
async def serving(
    folder: Path, now: float = NOW, opener: Callable[..., AbstractAsyncContextManager[Stack]] = opened, **settings: Any
) -> AsyncIterator[Web]:
    """A running app on a data directory."""
    clock = Clock(now)
    with_tables(folder)
    async with opener(StackSettings(data=folder, flush_seconds=0.05, threads=4), now=clock) as stack:
        about = {
            "version": "1.2.3",
            "started": time.monotonic(),
            "rates": Rates(requests=0),
            "static": folder / "static",
            **settings,
        }
        app = create_app(services(stack, WebSettings(**about), lambda: ""))
        yield Web(app, stack, clock)


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    """An app without limits, open to read, with one spot market called GOLD."""
    async with serving(tmp_path / "data") as running:
        await running.market()
        yield running
