"""Pysher and the server library for Python, both real, against a real daemon."""

import json
import queue
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pusher
import pysher
import pytest
import trio
from pusher.errors import PusherBadAuth, PusherBadRequest

from tests.pusher.conftest import APP, Ours, trade

SECONDS = 10.0


class Page:
    """A Pysher connection, and what it heard."""

    def __init__(self, port: int, **more: Any) -> None:
        self.heard: queue.Queue[tuple[str, Any]] = queue.Queue()
        self.client = pysher.Pusher(APP["key"], custom_host="127.0.0.1", port=port, secure=False, **more)
        for event in ("pusher:connection_established", "pusher:pong", "pusher:error"):
            self.client.connection.bind(event, lambda data, event=event: self.heard.put((event, data)))
        self._handed_on = self.client.connection.event_handler
        self.client.connection.event_handler = self._hear

    def _hear(self, event: str, data: Any, channel: str) -> None:
        """The answer to a subscription may come before the library has a channel that something could be bound to."""
        if event in ("pusher_internal:subscription_succeeded", "pusher:subscription_error"):
            self.heard.put((event, data))
        self._handed_on(event, data, channel)

    def subscribe(self, channel: str, *events: str) -> Any:
        joined = self.client.subscribe(channel)
        for event in events:
            joined.bind(event, lambda data, event=event: self.heard.put((event, data)))
        return joined

    def told(self, wanted: str) -> Any:
        """The data of the next such event; what comes before is let go."""
        while True:
            event, data = self.heard.get(timeout=SECONDS)
            if event == wanted:
                return data


@contextmanager
def paging(port: int, **more: Any) -> Iterator[Page]:
    page = Page(port, **more)
    page.client.connect()
    page.told("pusher:connection_established")
    try:
        yield page
    finally:
        page.client.disconnect(timeout=0.1)  # its thread would not notice for a hundred seconds


@pytest.fixture
def server(ours: Ours) -> Any:
    return pusher.Pusher(APP["id"], APP["key"], APP["secret"], host="127.0.0.1", port=ours.port, ssl=False)


def test_a_client_follows_a_market_and_its_first_ping_is_answered(ours: Ours) -> None:
    trio.run(trade, ours, "WOOL", 12)
    with paging(ours.port) as page:
        page.told("pusher:pong")
        page.subscribe("market-WOOL", "price-update")
        assert page.told("pusher_internal:subscription_succeeded") == "{}"
        trio.run(trade, ours, "WOOL", 12.5)
        told = json.loads(page.told("price-update"))
        assert (told["symbol"], told["close"]) == ("WOOL", 12.5)


def test_private_and_presence_channels_and_client_events(ours: Ours) -> None:
    ann = {"user_id": "ann", "user_info": {"name": "Ann"}}
    with (
        paging(ours.port, secret=APP["secret"], user_data=ann) as first,
        paging(ours.port, secret=APP["secret"], user_data={**ann, "user_id": "bob"}) as second,
    ):
        first.subscribe("presence-py", "pusher_internal:member_added", "client-hello")
        told = json.loads(first.told("pusher_internal:subscription_succeeded"))
        assert told["presence"]["ids"] == ["ann"]
        channel = second.subscribe("presence-py")
        told = json.loads(second.told("pusher_internal:subscription_succeeded"))
        assert told["presence"]["hash"] == {"ann": {"name": "Ann"}, "bob": {"name": "Ann"}}
        assert json.loads(first.told("pusher_internal:member_added"))["user_id"] == "bob"
        channel.trigger("client-hello", {"x": 1})
        assert json.loads(first.told("client-hello")) == {"x": 1}
    with paging(ours.port, secret="not it") as stranger:
        stranger.subscribe("private-py")
        assert json.loads(stranger.told("pusher:subscription_error"))["status"] == 401


def test_a_server_publishes_and_asks(ours: Ours, server: Any) -> None:
    with paging(ours.port, secret=APP["secret"], user_data={"user_id": "7"}) as page:
        for channel in ("py-a", "py-b", "presence-py-c"):
            page.subscribe(channel, "said")
            page.told("pusher_internal:subscription_succeeded")
        assert server.trigger(["py-a", "py-b"], "said", {"n": 1}) == {}
        assert [json.loads(page.told("said")) for _ in range(2)] == [{"n": 1}] * 2
        assert server.trigger("py-a", "said", {"n": 2}, page.client.connection.socket_id) == {}
        assert server.trigger_batch([{"channel": "py-a", "name": "said", "data": {"n": 3}}]) == {}
        assert json.loads(page.told("said")) == {"n": 3}, "the one that is excepted was not told"
        assert server.channels_info("presence-py", ["user_count"]) == {"channels": {"presence-py-c": {"user_count": 1}}}
        assert server.channel_info("presence-py-c", ["user_count", "subscription_count"]) == {
            "occupied": True,
            "user_count": 1,
            "subscription_count": 1,
        }
        assert server.users_info("presence-py-c") == {"users": [{"id": "7"}]}
        assert server.channel_info("py-nobody") == {"occupied": False}


def test_a_user_is_sent_away_by_the_path_that_this_library_has(ours: Ours, server: Any) -> None:
    with paging(ours.port) as page:
        id = page.client.connection.socket_id
        told = server.authenticate_user(id, {"id": "py-ann"})
        page.client.connection.bind("pusher:signin_success", lambda data: page.heard.put(("signed in", data)))
        page.client.connection.send_event("pusher:signin", told)
        assert json.loads(json.loads(page.told("signed in"))["user_data"]) == {"id": "py-ann"}
        page.subscribe("#server-to-user-py-ann", "note")
        page.told("pusher_internal:subscription_succeeded")
        assert server.send_to_user("py-ann", "note", {"x": 1}) == {}
        assert json.loads(page.told("note")) == {"x": 1}
        assert server.terminate_user_connections("py-ann") == {}
        assert page.told("pusher:error")["code"] == 4009


def test_what_is_wrong_is_said_in_the_librarys_own_exceptions(ours: Ours, server: Any) -> None:
    wrong = pusher.Pusher(APP["id"], APP["key"], "not it", host="127.0.0.1", port=ours.port, ssl=False)
    with pytest.raises(PusherBadAuth, match="auth_signature"):
        wrong.trigger("news", "said", {})
    other = pusher.Pusher("777", APP["key"], APP["secret"], host="127.0.0.1", port=ours.port, ssl=False)
    with pytest.raises(PusherBadAuth, match="not a key of app '777'"):
        other.trigger("news", "said", {})
    with pytest.raises(PusherBadRequest, match="presence"):
        server.users_info("news")
