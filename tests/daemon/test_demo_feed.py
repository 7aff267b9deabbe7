"""The demo's feed says that it is there, so that its quiet seconds are known as quiet."""

import json
import urllib.request
from pathlib import Path
from typing import Any

import trio

from tests.daemons import running


async def test_the_quiet_seconds_of_the_demo_are_known_as_quiet(tmp_path: Path) -> None:
    async with running("demo", home=tmp_path) as daemon:

        async def told(path: str) -> Any:
            url = f"http://127.0.0.1:{daemon.port}/api/{path}"
            return json.loads(await trio.to_thread.run_sync(lambda: urllib.request.urlopen(url).read()))

        with trio.fail_after(60):
            while not (await told("charts/health"))["feeds"]["reporting"]:  # noqa: ASYNC110 - another process
                await trio.sleep(0.1)
        found = await told("markets/GOLD/gaps?resolution=1s&limit=1000")
        assert len(found["gaps"]) == 1000
        assert {(gap["kind"], *gap["feeds"]) for gap in found["gaps"]} == {("no_trade", "demo")}
