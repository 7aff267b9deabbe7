"""What an app does is counted."""

import re
from http.client import HTTPConnection

import trio

from tests.pusher.conftest import APP, Ours
from tests.pusher.test_rest import EVENT, EVENTS, ask
from tests.pusher_client import talking

Counts = dict[str, float]


def counted(ours: Ours) -> Counts:
    """The figures of the first app."""
    connection = HTTPConnection("127.0.0.1", ours.port, timeout=10)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    found = re.findall(rf'^candled_pusher_(\w+){{app="{APP["id"]}"(?:,outcome="(\w+)")?}} (\S+)$', text, re.MULTILINE)
    return {f"{name}.{outcome}".strip("."): float(value) for name, outcome, value in found}


async def test_the_figures_move(ours: Ours) -> None:
    before = counted(ours)
    async with talking(ours.port) as client:
        await client.enter("presence-cache-counted", "ann")
        assert ask(ours, "POST", EVENTS, {**EVENT, "channel": "presence-cache-counted"})[0] == 200
        await client.say("client-x", {}, channel="presence-cache-counted")
        await client.settle()
        now = counted(ours)
        for name in (
            *("connections", "channels", "subscriptions", "members", "cache_bytes"),
            *("published_total", "client_events_total"),
        ):
            assert now[name] > before[name], name
        with trio.fail_after(10):
            while counted(ours)["webhook_events_total.delivered"] < before["webhook_events_total.delivered"] + 4:  # noqa: ASYNC110
                await trio.sleep(0.05)
    assert counted(ours)["webhook_requests_total.taken"] > before["webhook_requests_total.taken"]
    assert now["webhook_events_total.given_up"] == now["webhook_events_total.dropped"] == 0
    assert {"webhook_waiting", "webhook_requests_total.failed"} <= set(now)
