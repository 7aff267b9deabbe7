"""What happens in channels, as the app's own server is told of it, and as the real libraries take it."""

import json
import queue
from typing import Any

import pusher
import trio

from tests.pusher.conftest import APP, Ours
from tests.pusher.hooks import Hook
from tests.pusher.node import running
from tests.pusher_client import talking


class Heard:
    """The events of the hooks that came, in their order."""

    def __init__(self, ours: Ours, channel: str) -> None:
        self.hooks: list[Hook] = []
        self._ours, self._channel = ours, channel
        self._events: list[dict[str, Any]] = []

    async def next(self, seconds: float = 10.0) -> dict[str, Any]:
        """The next event of the channel."""
        with trio.fail_after(seconds):
            while not self._events:
                try:
                    hook = self._ours.hooks.taken.get_nowait()
                except queue.Empty:
                    await trio.sleep(0.02)
                    continue
                self.hooks.append(hook)
                self._events += [one for one in json.loads(hook.body)["events"] if one["channel"] == self._channel]
        return self._events.pop(0)


async def test_a_server_is_told_what_happens_and_told_again_until_it_takes_it(ours: Ours) -> None:
    heard = Heard(ours, "presence-cache-hooked")
    before = ours.hooks.refused
    ours.hooks.failing = 1
    async with talking(ours.port) as ann:
        await ann.enter("presence-cache-hooked", "ann")
        assert (await ann.hear())["event"] == "pusher:cache_miss"
        await ann.say("client-x", {"n": 1}, channel="presence-cache-hooked")
        assert await ann.silent()
        told = [await heard.next() for _ in range(4)]
    assert ours.hooks.refused == before + 1
    channel = {"channel": "presence-cache-hooked"}
    assert told == [
        {"name": "channel_occupied", **channel},
        {"name": "member_added", **channel, "user_id": "ann"},
        {"name": "cache_miss", **channel},
        {
            "name": "client_event",
            **channel,
            "event": "client-x",
            "data": '{"n": 1}',
            "socket_id": ann.id,
            "user_id": "ann",
        },
    ]
    assert await heard.next() == {"name": "member_removed", **channel, "user_id": "ann"}
    async with talking(ours.port) as again:  # within the grace: it was never empty
        await again.enter("presence-cache-hooked", "bob")
        assert await heard.next() == {"name": "member_added", **channel, "user_id": "bob"}
    rest = [await heard.next() for _ in range(3)]
    assert [one["name"] for one in rest] == ["cache_miss", "member_removed", "channel_vacated"]
    await _see_libraries(ours, heard.hooks)


async def _see_libraries(ours: Ours, hooks: list[Hook]) -> None:
    """Both libraries take every request for what it is, and nothing that was changed on its way."""
    server = pusher.Pusher(APP["id"], APP["key"], APP["secret"], host="127.0.0.1", port=ours.port, ssl=False)
    async with running("driver.cjs") as node:
        await node.do("server", options=ours.server)
        for hook in hooks:
            assert hook.headers["Content-Type"] == "application/json"
            key, signed = hook.headers["X-Pusher-Key"], hook.headers["X-Pusher-Signature"]
            body = hook.body.decode()
            found = server.validate_webhook(key, signed, body)
            assert found == json.loads(body)
            assert server.validate_webhook(key, signed, body.replace("channel", "chanel")) is None
            headers = {name.lower(): value for name, value in hook.headers.items()}
            await node.do("webhook", headers=headers, body=body)
            answer = await node.hear(lambda said: "answer" in said)
            assert answer["answer"] == {"events": found["events"], "time": found["time_ms"]}
            await node.do("webhook", headers=headers, body=body + " ")
            assert (await node.hear(lambda said: "answer" in said))["answer"] is None
