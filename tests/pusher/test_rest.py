"""`/apps/{id}`: signatures, limits and what is refused, request by request."""

import hashlib
import json
import time
from http.client import HTTPConnection
from typing import Any
from urllib.parse import quote

import pytest

from tests.pusher.conftest import APP, OTHER, Ours
from tests.pusher_client import talking
from web.pusher.apps import signature
from web.pusher.rest import to_sign


def ask(ours: Ours, method: str, path: str, body: Any = None, app: Any = APP, **query: str | None) -> tuple[int, Any]:
    """A signed request; parts of its query may be replaced, None takes one away."""
    sent = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    full = {
        "auth_key": app["key"],
        "auth_timestamp": str(int(time.time())),
        "auth_version": "1.0",
        **({"body_md5": hashlib.md5(sent).hexdigest()} if sent else {}),
        **query,
    }
    full = {name: value for name, value in full.items() if value is not None}
    signed = {"auth_signature": signature(app["secret"], to_sign(method, path, full)), **full}
    target = f"{path}?" + "&".join(f"{name}={quote(value)}" for name, value in signed.items())
    connection = HTTPConnection("127.0.0.1", ours.port, timeout=10)
    connection.request(method, target, sent or None)
    answer = connection.getresponse()
    found = answer.status, json.loads(answer.read())
    connection.close()
    return found


EVENT = {"name": "said", "channel": "rest", "data": "{}"}
EVENTS = f"/apps/{APP['id']}/events"


def test_a_signed_request_is_taken(ours: Ours) -> None:
    assert ask(ours, "POST", EVENTS, EVENT) == (200, {})
    assert ask(ours, "POST", EVENTS, {**EVENT, "data": {"an": ["object"]}}) == (200, {})
    assert ask(ours, "GET", f"/apps/{APP['id']}/channels", info="subscription_count,cache")[0] == 200
    assert ask(ours, "GET", f"/apps/{APP['id']}/channels", body_md5=hashlib.md5(b"").hexdigest())[0] == 200


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ({"auth_key": "nobody"}, "no app has the key"),
        ({"auth_key": None}, "no app has the key"),
        ({"auth_key": OTHER["key"]}, "not a key of app"),
        ({"auth_version": "2.0"}, "auth_version"),
        ({"auth_version": None}, "auth_version"),
        ({"auth_timestamp": "now"}, "auth_timestamp"),
        ({"auth_timestamp": None}, "auth_timestamp"),
        ({"auth_timestamp": "1700000000"}, "at most 600 seconds"),
        ({"auth_timestamp": "4000000000"}, "at most 600 seconds"),
        ({"body_md5": None}, "body_md5"),
        ({"body_md5": "0" * 32}, "body_md5"),
        ({"auth_signature": "0" * 64}, "auth_signature"),
        ({"auth_signature": ""}, "auth_signature"),
        ({"auth_signature": "é"}, "auth_signature"),
    ],
)
def test_a_request_that_is_not_signed_right_is_told_why(ours: Ours, query: dict[str, Any], why: str) -> None:
    status, told = ask(ours, "POST", EVENTS, EVENT, **query)
    assert status == 401
    assert why in told["error"]


@pytest.mark.parametrize(
    ("body", "status", "why"),
    [
        (b"no json", 400, "body"),
        ([], 400, "body"),
        ({"name": "said", "data": "{}"}, 400, "channels: expected 1 to 100"),
        ({**EVENT, "channels": []}, 400, "channels: expected 1 to 100"),
        ({**EVENT, "channels": [f"c{n}" for n in range(101)]}, 400, "channels: expected 1 to 100"),
        ({**EVENT, "channel": "not a name"}, 400, "channel"),
        ({"channel": "rest", "data": "{}"}, 400, "name"),
        ({**EVENT, "name": ""}, 400, "name"),
        ({**EVENT, "name": "x" * 201}, 400, "name"),
        ({**EVENT, "name": "pusher_internal:member_added"}, 400, "name"),
        ({"name": "said", "channel": "rest"}, 400, "data"),
        ({**EVENT, "data": "x" * 10_241}, 413, "data: expected at most 10240"),
        ({**EVENT, "data": "é" * 5_121}, 413, "data: expected at most 10240"),
        (b" " * 800_000, 413, "body: expected at most"),
    ],
)
def test_an_event_that_cannot_be_is_refused(ours: Ours, body: Any, status: int, why: str) -> None:
    found, told = ask(ours, "POST", EVENTS, body)
    assert (found, why in told["error"]) == (status, True), told


async def test_nothing_of_a_batch_is_published_that_has_something_wrong(ours: Ours) -> None:
    good = {"channel": "rest-batch", "name": "said", "data": "1"}
    path = f"/apps/{APP['id']}/batch_events"
    async with talking(ours.port) as client:
        await client.subscribe("rest-batch")
        assert ask(ours, "POST", path, {"batch": [good, {**good, "data": "x" * 10_241}]})[0] == 413
        assert ask(ours, "POST", path, {"batch": [good, {**good, "channel": "a b"}]})[0] == 400
        assert ask(ours, "POST", path, {"batch": [good] * 11})[0] == 400
        assert ask(ours, "POST", EVENTS, {**EVENT, "channel": None, "channels": ["rest-batch", "a b"]})[0] == 400
        assert await client.silent()
        status, told = ask(ours, "POST", path, {"batch": [{**good, "info": "subscription_count"}, good]})
        assert (status, told) == (200, {"batch": [{"subscription_count": 1}, {}]})
        assert [(await client.hear())["event"] for _ in range(2)] == ["said", "said"]


async def test_one_connection_may_be_left_out(ours: Ours) -> None:
    async with talking(ours.port) as first, talking(ours.port) as second:
        for client in (first, second):
            await client.subscribe("rest-but")
        for n, client in ((1, first), (2, second)):
            assert (
                ask(ours, "POST", EVENTS, {**EVENT, "channel": "rest-but", "data": f"{n}", "socket_id": client.id})[0]
                == 200
            )
        assert (await first.hear())["data"] == 2
        assert (await second.hear())["data"] == 1
        for n in range(50):
            ask(ours, "POST", EVENTS, {**EVENT, "channel": "rest-but", "data": f"{n}"})
        assert [(await first.hear())["data"] for _ in range(50)] == list(range(50))


def test_what_cannot_be_asked_of_channels_is_refused(ours: Ours) -> None:
    base = f"/apps/{APP['id']}/channels"
    assert ask(ours, "GET", base, info="user_count")[0] == 400
    assert ask(ours, "GET", base, info="user_count", filter_by_prefix="private-")[0] == 400
    assert ask(ours, "GET", base, info="user_count", filter_by_prefix="presence-")[0] == 200
    assert ask(ours, "GET", f"{base}/news", info="user_count")[0] == 400
    assert ask(ours, "GET", f"{base}/news/users")[0] == 400
    assert ask(ours, "GET", f"{base}/presence-nobody/users") == (200, {"users": []})
    assert ask(ours, "GET", f"{base}/presence-nobody", info="user_count") == (200, {"occupied": False, "user_count": 0})


async def test_apps_do_not_hear_each_other(ours: Ours) -> None:
    async with talking(ours.port) as mine, talking(ours.port, f"/app/{OTHER['key']}?protocol=7") as theirs:
        for client in (mine, theirs):
            await client.subscribe("rest-apps")
        assert ask(ours, "POST", f"/apps/{OTHER['id']}/events", {**EVENT, "channel": "rest-apps"}, OTHER)[0] == 200
        assert (await theirs.hear())["event"] == "said"
        assert await mine.silent()
        assert (await theirs.ask("client-x", {}, channel="rest-apps"))["data"]["code"] == 4301
        assert mine.id != theirs.id
        status, told = ask(ours, "GET", f"/apps/{OTHER['id']}/channels", None, OTHER)
        assert (status, told) == (200, {"channels": {"rest-apps": {}}})
