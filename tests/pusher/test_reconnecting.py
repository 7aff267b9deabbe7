"""Both client libraries come back by themselves after the network has cut them off."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pusher
import trio

from tests.daemons import free_port
from tests.pusher.conftest import APP, Ours
from tests.pusher.node import running
from tests.pusher.test_python import paging
from tests.pusher_client import serving
from web.pusher.names import parsed


class Cable:
    """What lies between a client and the daemon."""

    def __init__(self) -> None:
        self.port = 0
        self._cut = trio.Event()

    def cut(self) -> None:
        """End every connection, without a word to either side."""
        cut, self._cut = self._cut, trio.Event()
        cut.set()

    async def run(self, to: int, *, task_status: trio.TaskStatus[None]) -> None:
        async def carry(here: trio.SocketStream) -> None:
            with suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                async with here, await trio.open_tcp_stream("127.0.0.1", to) as there, trio.open_nursery() as nursery:
                    nursery.start_soon(_pass_on, here, there, nursery.cancel_scope)
                    nursery.start_soon(_pass_on, there, here, nursery.cancel_scope)
                    await self._cut.wait()
                    nursery.cancel_scope.cancel()

        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listener.socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(carry, [listener])


async def _pass_on(one: trio.SocketStream, other: trio.SocketStream, both: trio.CancelScope) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        async for data in one:
            await other.send_all(data)
    both.cancel()


@asynccontextmanager
async def through_a_cable(ours: Ours) -> AsyncIterator[Cable]:
    cable = Cable()
    async with trio.open_nursery() as nursery:
        await nursery.start(cable.run, ours.port)
        yield cable
        nursery.cancel_scope.cancel()


async def test_pusher_js_comes_back_and_signs_itself_into_its_channels_again(ours: Ours) -> None:
    ann = {"user_id": "ann", "user_info": None}
    async with through_a_cable(ours) as cable, running("driver.cjs") as node:
        await node.do("server", options=ours.server)
        options = {**ours.client, "wsPort": cable.port}
        await node.do("connect", who="a", key=APP["key"], options=options, user=ann)
        for channel in ("cut-news", "presence-cut"):
            await node.do("subscribe", who="a", channel=channel)
            await node.told(joined=channel)
        cable.cut()
        await node.told(state="connecting")
        await node.told(state="connected")
        for channel in ("cut-news", "presence-cut"):
            await node.told(joined=channel)
        assert (await node.ask("trigger", "cut-news", "said", {"again": True}))["status"] == 200
        assert (await node.told(channel="cut-news", event="said"))["data"] == {"again": True}
        found = await node.ask(
            "get", {"path": "/channels/presence-cut", "params": {"info": "user_count,subscription_count"}}
        )
        assert found["body"] == {"occupied": True, "user_count": 1, "subscription_count": 1}


async def test_pusher_js_comes_back_to_a_process_that_was_started_again(ours: Ours) -> None:
    port = free_port()
    async with running("driver.cjs") as node:
        async with serving(port=port):
            await node.do("connect", who="a", key=APP["key"], options={**ours.client, "wsPort": port})
            await node.do("subscribe", who="a", channel="news")
            await node.told(joined="news")
        await node.told(error={"code": 4200, "message": "candled is stopping; come back"})
        async with serving(port=port) as again:
            await node.told(joined="news")
            again.channels.publish(parsed("news"), "said", "1")
            assert (await node.told(channel="news", event="said"))["data"] == 1


async def test_pysher_comes_back_and_subscribes_again(ours: Ours) -> None:
    server = pusher.Pusher(APP["id"], APP["key"], APP["secret"], host="127.0.0.1", port=ours.port, ssl=False)

    def follow(cable: Cable) -> None:
        with paging(cable.port, auto_sub=True, reconnect_interval=1) as page:
            page.subscribe("cut-py", "said")
            page.told("pusher_internal:subscription_succeeded")
            trio.from_thread.run_sync(cable.cut)
            page.told("pusher:connection_established")
            page.told("pusher_internal:subscription_succeeded")
            server.trigger("cut-py", "said", {"again": True})
            assert json.loads(page.told("said")) == {"again": True}

    async with through_a_cable(ours) as cable:
        await trio.to_thread.run_sync(follow, cable)
