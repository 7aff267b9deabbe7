"""The Python client: the documented example on a real daemon, and its way back over lost connections."""

import re
import textwrap
from pathlib import Path

import pytest
import trio

from daemon import client
from daemon.client import Chart, Follower, Refused
from tests.daemons import ROOT
from tests.web.conftest import NOW
from tests.web.streaming import streaming

DOCUMENT = (ROOT / "docs/streams.md").read_text("utf-8")


async def test_the_documented_example_prints_each_price(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```$", DOCUMENT, re.M | re.S)
    async with streaming(tmp_path) as served:
        await served.web.trades((NOW - 5, 7))
        code = block.replace("localhost:8000", f"127.0.0.1:{served.port}")
        names: dict[str, object] = {}
        exec(f"async def example():\n{textwrap.indent(code, '    ')}", names)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(names["example"])  # type: ignore[arg-type] # what the document defines
            printed = ""
            with trio.fail_after(10):
                while "7" not in printed:
                    await trio.sleep(0.01)
                    printed += capsys.readouterr().out
            nursery.cancel_scope.cancel()


async def test_a_lost_connection_is_made_again_and_the_chart_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "FIRST", 0.01)
    async with streaming(tmp_path) as served, trio.open_nursery() as nursery:
        await served.web.trades((NOW - 5, 1))
        sending, changes = trio.open_memory_channel[Chart](100)
        follower = Follower(f"ws://127.0.0.1:{served.port}/ws", "GOLD", "1S")
        nursery.start_soon(follower.run, sending.send)
        await changes.receive()
        for price in (2, 3, 4):
            (actor,) = served.stack.engine._actors.values()
            for feed in actor._feeds.values():
                for subscription in feed.topic.subscriptions:
                    subscription.sink.abort()  # type: ignore[attr-defined] # as a network does
            await served.web.trades((NOW - 5 + price, price))
            with trio.fail_after(10):
                while follower.chart.bars.get(NOW - 5 + price, {}).get("close") != price:
                    await changes.receive()
        assert follower.chart.snapshots == [None]
        assert follower.chart.recovered == [False, True, True, True]
        nursery.cancel_scope.cancel()


async def test_what_is_not_to_be_had_is_not_asked_for_again(tmp_path: Path) -> None:
    async with streaming(tmp_path) as served:
        with pytest.RaisesGroup(Refused, flatten_subgroups=True):
            await Follower(f"ws://127.0.0.1:{served.port}/ws", "GLOD", "1").run(nothing)


async def nothing(_: Chart) -> None:
    """Nobody looks."""
