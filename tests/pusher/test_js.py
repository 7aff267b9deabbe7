"""pusher-js and the server library for Node, both real, against a real daemon."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.pusher.conftest import APP, ROOT, Ours, trade
from tests.pusher.node import Node, running

SEED = ROOT.parent / "shared" / "seeds" / "000_a2d3602b0617ccaf.txt"
ANN, BOB = ({"user_id": name, "user_info": {"name": name.title()}} for name in ("ann", "bob"))


@asynccontextmanager
async def connected(ours: Ours, *users: dict[str, Any] | None) -> AsyncIterator[Node]:
    """A process with connections called a, b, …"""
    async with running("driver.cjs") as node:
        await node.do("server", options=ours.server)
        for who, user in zip("abc", users, strict=False):
            await node.do("connect", who=who, key=APP["key"], options=ours.client, user=user)
            await node.told(who=who, state="connected")
        yield node


async def test_a_page_follows_a_market(ours: Ours) -> None:
    await trade(ours, "GOLD", 1990)
    async with connected(ours, None) as node:
        await node.do("subscribe", who="a", channel="market-GOLD")
        await node.told(joined="market-GOLD")
        second = await trade(ours, "GOLD", 2000.5)
        heard = (await node.told(channel="market-GOLD", event="price-update"))["data"]
        assert set(heard) == {
            "symbol", "timestamp", "open", "high", "low", "close", "volume", "trades", "seq", "epoch"
        }  # fmt: skip
        assert (heard["symbol"], heard["close"], heard["timestamp"]) == ("GOLD", 2000.5, second)
        await node.do("subscribe", who="a", channel="cache-market-GOLD")
        assert (await node.told(channel="cache-market-GOLD", event="price-update"))["data"]["close"] == 2000.5
        found = await node.ask("get", {"path": "/channels/cache-market-GOLD", "params": {"info": "cache"}})
        assert json.loads(found["body"]["cache"]["data"])["close"] == 2000.5
        await node.do("subscribe", who="a", channel="market-GOLD-1m")
        shown = (await node.told(channel="market-GOLD-1m", event="bars"))["data"]
        assert shown["data"][-1]["close"] == 2000.5
        await trade(ours, "GOLD", 2001)
        changed = (await node.told(channel="market-GOLD-1m", event="bar"))["data"]
        assert (changed["op"], changed["data"]["close"]) == ("upsert", 2001)
        assert changed["prev_seq"] == shown["seq"]


async def test_members_and_client_events(ours: Ours) -> None:
    async with connected(ours, ANN, BOB) as node:
        await node.do("subscribe", who="a", channel="presence-room")
        assert (await node.told(who="a", joined="presence-room"))["count"] == 1
        await node.do("subscribe", who="b", channel="presence-room")
        joined = await node.told(who="b", joined="presence-room")
        assert joined["members"] == {"ann": {"name": "Ann"}, "bob": {"name": "Bob"}}
        assert joined["me"] == {"id": "bob", "info": {"name": "Bob"}}
        added = await node.told(who="a", channel="presence-room", event="pusher:member_added")
        assert added["data"] == {"id": "bob", "info": {"name": "Bob"}}
        await node.do("trigger", who="a", channel="presence-room", event="client-move", data={"x": 1})
        assert (await node.told(who="b", channel="presence-room", event="client-move"))["data"] == {"x": 1}
        await node.told(who="b", channel="presence-room", moved="ann")
        found = await node.ask("get", {"path": "/channels/presence-room/users"})
        assert found["body"] == {"users": [{"id": "ann"}, {"id": "bob"}]}
        await node.do("disconnect", who="b")
        removed = await node.told(who="a", channel="presence-room", event="pusher:member_removed")
        assert removed["data"]["id"] == "bob"


async def test_a_signature_by_somebody_else_opens_nothing(ours: Ours) -> None:
    async with running("driver.cjs") as node:
        await node.do("server", options={**ours.server, "secret": "not it"})
        await node.do("connect", who="a", key=APP["key"], options=ours.client, user=ANN)
        await node.do("subscribe", who="a", channel="private-me")
        assert (await node.told(refused="private-me"))["status"] == 401
        answer = await node.ask("trigger", "news", "said", {})
        assert (answer["failed"], answer["status"]) == ("call", 401)


async def test_an_app_that_is_not_there_is_said_and_not_tried_again(ours: Ours) -> None:
    async with running("driver.cjs") as node:
        await node.do("connect", who="a", key="nobody", options=ours.client)
        assert (await node.told(who="a", state="disconnected"))["state"] == "disconnected"


async def test_a_server_publishes_and_asks(ours: Ours) -> None:
    async with connected(ours, ANN, BOB) as node:
        for who, channel in (("a", "news"), ("b", "news"), ("a", "private-x"), ("a", "cache-last")):
            await node.do("subscribe", who=who, channel=channel)
            await node.told(who=who, joined=channel)
        await node.told(who="a", channel="cache-last", event="pusher:cache_miss")
        answer = await node.ask("trigger", ["news", "private-x", "cache-last"], "said", {"text": "é\u2028"})
        assert (answer["status"], answer["body"]) == (200, {})
        for who, channel in (("a", "news"), ("b", "news"), ("a", "private-x"), ("a", "cache-last")):
            assert (await node.told(who=who, channel=channel, event="said"))["data"] == {"text": "é\u2028"}
        counted = await node.ask("trigger", "news", "said", 1, {"info": "subscription_count"})
        assert counted["body"] == {"channels": {"news": {"subscription_count": 2}}}
        batch = [
            {"channel": "news", "name": "one", "data": "1"},
            {"channel": "private-x", "name": "two", "data": {"n": 2}},
        ]
        assert (await node.ask("triggerBatch", batch))["body"] == {}
        assert (await node.told(who="b", channel="news", event="one"))["data"] == 1
        assert (await node.told(who="a", channel="private-x", event="two"))["data"] == {"n": 2}
        found = await node.ask("get", {"path": "/channels", "params": {"filter_by_prefix": "private-"}})
        assert found["body"] == {"channels": {"private-x": {}}}
        found = await node.ask("get", {"path": "/channels/cache-last", "params": {"info": "subscription_count,cache"}})
        ttl = found["body"]["cache"].pop("ttl")
        assert found["body"] == {"occupied": True, "subscription_count": 1, "cache": {"data": '{"text":"é\u2028"}'}}
        assert 1700 < ttl <= 1800
        await node.do("subscribe", who="b", channel="cache-last")
        assert (await node.told(who="b", channel="cache-last", event="said"))["data"] == {"text": "é\u2028"}
        failed = await node.ask("trigger", "news", "said", "x" * 10_241)
        assert failed["status"] == 413


async def test_a_user_signs_in_is_spoken_to_and_sent_away(ours: Ours) -> None:
    async with connected(ours, ANN) as node:
        await node.do("signin", who="a")
        await node.told(who="a", event="pusher:signin_success")
        # The library subscribes by itself then; the server sees when.
        while not (await node.ask("get", {"path": "/channels/%23server-to-user-ann"}))["body"]["occupied"]:
            pass
        assert (await node.ask("sendToUser", "ann", "note", {"hello": 1}))["status"] == 200
        assert (await node.told(who="a", user="note"))["data"] == {"hello": 1}
        assert (await node.ask("terminateUserConnections", "ann"))["status"] == 200
        await node.told(who="a", state="disconnected")


async def test_encrypted_channels_carry_what_the_server_cannot_read(ours: Ours) -> None:
    options = {**ours.server, "encryptionMasterKeyBase64": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="}
    async with running("driver.cjs") as node:
        await node.do("server", options=options)
        await node.do("connect", who="a", key=APP["key"], options=ours.client, user=ANN)
        await node.do("subscribe", who="a", channel="private-encrypted-x")
        await node.told(joined="private-encrypted-x")
        assert (await node.ask("trigger", "private-encrypted-x", "said", {"secret": 1}))["status"] == 200
        assert (await node.told(channel="private-encrypted-x", event="said"))["data"] == {"secret": 1}


async def test_a_page_with_a_key_of_ours_needs_no_server_of_its_own(ours: Ours) -> None:
    base = f"http://127.0.0.1:{ours.port}/pusher"
    async with running("driver.cjs") as node:
        for who, key in (("a", ours.read), ("b", ours.admin), ("c", "nonsense")):
            headers = {"Authorization": f"Bearer {key}"}
            options = {
                "channelAuthorization": {"endpoint": f"{base}/auth", "headers": headers},
                "userAuthentication": {"endpoint": f"{base}/user-auth", "headers": headers},
            }
            await node.do("connect", who=who, key=APP["key"], options={**ours.client, **options})
            await node.told(who=who, state="connected")
        await trade(ours, "TEA", 7)
        for who in "ab":
            await node.do("subscribe", who=who, channel="private-cache-market-TEA")
            assert (await node.told(who=who, channel="private-cache-market-TEA", event="price-update"))["data"][
                "close"
            ] == 7
            await node.do("subscribe", who=who, channel="presence-market-TEA")
            await node.told(who=who, joined="presence-market-TEA")
        await node.do("subscribe", who="b", channel="private-anything")
        await node.told(who="b", joined="private-anything")
        await node.do("signin", who="a")
        await node.told(who="a", event="pusher:signin_success")
        for who, channel in (("a", "private-anything"), ("b", "private-encrypted-x"), ("c", "private-market-TEA")):
            await node.do("subscribe", who=who, channel=channel)
            assert (await node.told(who=who, refused=channel))["status"] == 403


@pytest.mark.skipif(not SEED.is_file(), reason="the first design is not here")
async def test_the_first_designs_own_client_needs_only_a_host_and_a_port(ours: Ours) -> None:
    key = {"NEXT_PUBLIC_PUSHER_KEY": APP["key"], "NEXT_PUBLIC_PUSHER_CLUSTER": "us2"}
    await trade(ours, "SILK", 1)
    async with running("seed.mjs", str(SEED), "127.0.0.1", str(ours.port), "SILK", **key) as node:
        await node.hear(lambda said: said == "joined")
        second = await trade(ours, "SILK", 3.25)
        bar = await node.hear(lambda said: isinstance(said, dict))
        assert (bar["time"], bar["close"]) == (second, 3.25)
        assert set(bar) == {"time", "open", "high", "low", "close", "volume"}
        assert all(isinstance(value, int | float) for value in bar.values())
