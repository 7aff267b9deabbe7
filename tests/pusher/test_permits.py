"""`/pusher/auth` and `/pusher/user-auth`: who is signed into what."""

import base64
import hashlib
import json
import time
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlencode

import jwt
import pytest

from tests.pusher.conftest import APP, JWT_SECRET, OTHER, Ours
from tests.pusher_client import talking
from web.pusher.apps import App, auth, joining

MINE = App(id=APP["id"], key=APP["key"], secret=APP["secret"])


def token(user: str, secret: str = JWT_SECRET, seconds: float = 60) -> str:
    return jwt.encode({"sub": user, "exp": int(time.time() + seconds)}, secret, algorithm="HS256")


def ask(ours: Ours, bearer: str, path: str = "auth", **fields: str) -> tuple[int, Any]:
    connection = HTTPConnection("127.0.0.1", ours.port, timeout=10)
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Origin": "https://elsewhere.example"}
    if bearer:
        headers["Authorization"] = f"Bearer {bearer}"
    connection.request("POST", f"/pusher/{path}", urlencode(fields), headers)
    answer = connection.getresponse()
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    found = answer.status, json.loads(answer.read())
    connection.close()
    return found


MARKET, OTHERS = "private-market-GOLD", "private-anything"


@pytest.mark.parametrize(
    ("who", "allowed", "refused"),
    [
        ("admin", (MARKET, OTHERS, "presence-x", "private-user-bob"), ("news", "#server-to-user-x", "a b", "")),
        (
            "read",
            (MARKET, "private-cache-market-GOLD-1m", "presence-market-x"),
            (OTHERS, "presence-x", "private-user-ann"),
        ),
        ("ann", (MARKET, "presence-x", "private-user-ann", "private-cache-user-ann"), (OTHERS, "private-user-bob")),
        ("nobody", (), (MARKET, "presence-x")),
        ("a stranger", (), (MARKET, "presence-x", "private-user-ann")),
        ("late", (), (MARKET, "presence-x", "private-user-ann")),
    ],
)
async def test_who_is_signed_into_what(
    ours: Ours, who: str, allowed: tuple[str, ...], refused: tuple[str, ...]
) -> None:
    bearers = {
        "admin": ours.admin,
        "read": ours.read,
        "ann": token("ann"),
        "nobody": "",
        "a stranger": token("ann", "another secret that nobody here has signed with"),
        "late": token("ann", seconds=-100),
    }
    async with talking(ours.port) as client:
        for channel in allowed:
            status, told = ask(ours, bearers[who], socket_id=client.id, channel_name=channel)
            assert status == 200, told
            assert told["auth"] == auth(MINE, joining(client.id, channel, told.get("channel_data")))
            joined = await client.ask("pusher:subscribe", {"channel": channel, **told})
            assert joined["event"] == "pusher_internal:subscription_succeeded", joined
            await client.settle()
        for channel in refused:
            assert ask(ours, bearers[who], socket_id=client.id, channel_name=channel)[0] == 403, channel


async def test_a_user_is_who_their_token_says(ours: Ours) -> None:
    async with talking(ours.port) as client:
        status, told = ask(ours, token("ann"), "user-auth", socket_id=client.id)
        assert (status, json.loads(told["user_data"])) == (200, {"id": "ann"})
        assert (await client.ask("pusher:signin", told))["event"] == "pusher:signin_success"
        _, told = ask(ours, token("ann"), socket_id=client.id, channel_name="presence-x")
        assert json.loads(told["channel_data"]) == {"user_id": "ann"}
        ids = [
            json.loads(ask(ours, ours.read, "user-auth", socket_id=client.id)[1]["user_data"])["id"] for _ in range(2)
        ]
        assert ids[0] == ids[1]
        assert ids[0] not in ours.read


async def test_only_connections_that_are_open_here_are_signed_in_with_their_own_app(ours: Ours) -> None:
    assert ask(ours, ours.admin, socket_id="1.1", channel_name=MARKET)[0] == 403
    assert ask(ours, ours.admin, channel_name=MARKET)[0] == 403
    async with talking(ours.port, f"/app/{OTHER['key']}?protocol=7") as client:
        _, told = ask(ours, ours.admin, socket_id=client.id, channel_name=MARKET)
        assert told["auth"].startswith(f"{OTHER['key']}:")
        channel = "private-encrypted-x"
        _, told = ask(ours, ours.admin, socket_id=client.id, channel_name=channel)
        key = base64.b64decode(str(OTHER["encryption_key"]))
        assert base64.b64decode(told["shared_secret"]) == hashlib.sha256(channel.encode() + key).digest()
    async with talking(ours.port) as client:
        assert ask(ours, ours.admin, socket_id=client.id, channel_name=channel)[0] == 403, "its app shares no key"
