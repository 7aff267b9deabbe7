"""`/app/{key}` over real sockets, frame by frame."""

import json
import re
from typing import Any

import pytest
import trio

from actors.topics import SHORT
from storage.errors import Unavailable
from tests.memory_markets import a_bar
from tests.pusher_client import APP, PATH, Client, serving
from tests.ws_client import a_stalled_reader
from web.outbox import WsLimits
from web.pusher import session
from web.pusher.apps import App, auth, joining
from web.pusher.names import parsed


async def test_the_first_frame_names_the_connection() -> None:
    async with serving(activity_seconds=30) as served, served.connected() as found:
        raw = await found.connection.get_message()
    first = json.loads(raw)
    assert set(first) == {"event", "data"}
    assert first["event"] == "pusher:connection_established"
    assert isinstance(first["data"], str)
    told = json.loads(first["data"])
    assert told["activity_timeout"] == 30
    assert re.fullmatch(r"\d+\.\d+", told["socket_id"])


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/app/nobody?protocol=7", 4001),
        (f"/app/{APP.key}", 4008),
        (f"/app/{APP.key}?protocol=", 4006),
        (f"/app/{APP.key}?protocol=seven", 4006),
        (f"/app/{APP.key}?protocol=4", 4007),
        (f"/app/{APP.key}?protocol=8", 4007),
    ],
)
async def test_a_refusal_is_an_error_and_a_close_with_its_code(path: str, code: int) -> None:
    async with serving() as served, served.connected(path) as found:
        error, closed = await Client(found.connection).ending()
    assert error is not None
    assert "channel" not in error
    assert (error["data"]["code"], closed) == (code, code)
    assert error["data"]["message"]


async def test_where_there_is_no_app_it_is_said_how_there_would_be_one() -> None:
    async with serving(apps=()) as served, served.connected() as found:
        error, code = await Client(found.connection).ending()
    assert error is not None
    assert code == 4001
    assert "PUSHER_APP_ID" in error["data"]["message"]


@pytest.mark.parametrize("protocol", [5, 6, 7])
@pytest.mark.parametrize("prefix", ["", "/ws"])
async def test_protocols_5_to_7_are_served_also_behind_ws(protocol: int, prefix: str) -> None:
    async with serving() as served, served.talking(f"{prefix}/app/{APP.key}?protocol={protocol}") as client:
        assert await client.silent()


async def test_a_ping_before_anything_is_answered() -> None:
    async with serving() as served:
        peer = await a_stalled_reader(served.port, b'{"event":"pusher:ping","data":""}', path=PATH)
        received = b""
        while b"pusher:pong" not in received:
            received += await trio.to_thread.run_sync(peer.recv, 4096)
        peer.close()
    assert b'"channel"' not in received


@pytest.mark.parametrize("data", [{"channel": "news"}, '{"channel":"news"}', {"channel": "news", "auth": ""}])
async def test_public_channels_are_joined_and_left(data: Any) -> None:
    async with serving() as served, served.talking() as client:
        await client.say("pusher:subscribe", data)
        heard = json.loads(await client.connection.get_message())
        assert heard == {"event": "pusher_internal:subscription_succeeded", "data": "{}", "channel": "news"}
        served.channels.publish(parsed("news"), "said", '{"n":1}')
        assert await client.hear() == {"event": "said", "channel": "news", "data": {"n": 1}}
        twice = await client.ask("pusher:subscribe", data)
        assert twice["data"] == {"code": None, "message": "Existing subscription to channel news"}
        await client.say("pusher:unsubscribe", {"channel": "news"})
        await client.say("pusher:unsubscribe", {"channel": "news"})
        assert await client.silent()
        served.channels.publish(parsed("news"), "said", '{"n":2}')
        assert await client.silent()
        assert served.channels.statistics().channels == 0


async def test_data_that_is_no_json_travels_as_it_is() -> None:
    async with serving() as served, served.talking() as client:
        await client.subscribe("news")
        served.channels.publish(parsed("news"), "said", "plain “text”")
        assert json.loads(await client.connection.get_message())["data"] == "plain “text”"


@pytest.mark.parametrize(
    "message",
    ["", "no json", "[]", "1", "{}", '{"event":1}', '{"event":"nothing"}', '{"event":"pusher:subscribe"}',
     '{"event":"pusher:subscribe","data":{}}', '{"event":"pusher:subscribe","data":"no json"}',
     '{"event":"pusher:subscribe","data":{"channel":7}}', '{"event":"pusher:unsubscribe","data":[]}',
     '{"event":"pusher:signin"}', '{"event":"client-x"}', '{"event":"client-x","channel":{}}',
     '{"event":"pusher:ping","data":' + "[" * 5000 + "]" * 5000 + "}", b"\x00\xff"],
)  # fmt: skip
async def test_malformed_frames_are_survived(message: str | bytes) -> None:
    async with serving() as served, served.talking() as client:
        await client.raw(message)
        heard = await client.hear()
        assert heard["event"] in ("pusher:error", "pusher:pong")
        assert "channel" not in heard
        assert await client.silent()


async def test_a_frame_that_is_too_large_ends_the_connection() -> None:
    async with serving() as served, served.talking() as client:
        await client.raw('{"event":"pusher:ping","data":"' + "x" * 17_000 + '"}')
        assert (await client.ending())[1] == 1009


@pytest.mark.parametrize("name", ["", "a b", "a/b", "ä", "x" * 165, "#private", "private-a:b"])
async def test_names_that_no_channel_can_have_are_refused(name: str) -> None:
    async with serving() as served, served.talking() as client:
        heard = await client.subscribe(name)
        assert heard["event"] == "pusher:subscription_error"
        assert (heard["channel"], heard["data"]["status"]) == (name, 400)


@pytest.mark.parametrize("channel", ["private-me", "presence-us", "private-encrypted-me", "private-cache-me"])
async def test_only_a_signature_of_this_app_for_this_connection_opens_a_channel(channel: str) -> None:
    data = '{"user_id":"1"}' if channel.startswith("presence") else None
    other = App(id="2", key="other", secret="their secret")
    async with serving(APP, other) as served, served.talking() as client:
        good = auth(APP, joining(client.id, channel, data))
        for bad in (
            "",
            good[:-1],
            good[:-1] + ("0" if good[-1] != "0" else "1"),
            good.replace(APP.key, "other"),
            auth(other, joining(client.id, channel, data)),
            auth(APP, joining("1.1", channel, data)),
            auth(APP, joining(client.id, channel + "x", data)),
            auth(APP, joining(client.id, channel, '{"user_id":"2"}')),
            good + "é",
        ):
            heard = await client.subscribe(channel, data, auth=bad)
            assert heard["event"] == "pusher:subscription_error"
            assert heard["data"] == {"type": "AuthError", "error": "Invalid signature", "status": 401}
        served.channels.publish(parsed(channel), "secret", "{}")
        assert await client.silent()
        heard = await client.subscribe(channel, data)
        assert (heard["event"], heard["channel"]) == ("pusher_internal:subscription_succeeded", channel)


async def test_what_was_signed_is_the_text_as_it_was_sent() -> None:
    data = '{ "user_id" :\t7, "user_info": {"name": "\\u00c5sa", "x": 1e0} }'
    async with serving() as served, served.talking() as client:
        heard = await client.subscribe("presence-us", data)
        assert heard["data"] == {"presence": {"count": 1, "ids": ["7"], "hash": {"7": {"name": "Åsa", "x": 1.0}}}}
        assert (await client.subscribe("private-x", '{"anything":1}'))["event"].endswith("succeeded")


async def test_a_user_counts_once_and_is_gone_with_the_last_connection() -> None:
    async with serving() as served, served.talking() as watcher:
        assert (await watcher.enter("presence-us", "w"))["data"]["presence"]["count"] == 1
        async with served.talking() as first:
            heard = await first.enter("presence-us", "ann", name="Ann")
            assert heard["data"]["presence"]["hash"] == {"w": None, "ann": {"name": "Ann"}}
            assert await first.silent(), "the joiner is not told of itself"
            added = await watcher.hear()
            assert (added["event"], added["channel"]) == ("pusher_internal:member_added", "presence-us")
            assert added["data"] == {"user_id": "ann", "user_info": {"name": "Ann"}}
            async with served.talking() as second:
                assert (await second.enter("presence-us", "ann"))["data"]["presence"]["count"] == 2
                await second.say("pusher:unsubscribe", {"channel": "presence-us"})
                assert await second.silent()
                assert (await second.enter("presence-us", "ann"))["data"]["presence"]["ids"] == ["w", "ann"]
            assert await watcher.silent()
        removed = await watcher.hear()  # its connection was cut without a word
        assert (removed["event"], removed["data"]) == ("pusher_internal:member_removed", {"user_id": "ann"})
        assert await watcher.silent()


@pytest.mark.parametrize(
    ("data", "why"),
    [(None, "needed"), ("{}", "user_id"), ("[]", "object"), ("x", "malformed"), ('{"user_id":null}', "user_id"),
     ('{"user_id":""}', "1 to 128"), (json.dumps({"user_id": "x" * 129}), "1 to 128"),
     (json.dumps({"user_id": "1", "user_info": "x" * 1024}), "1024 bytes")],
)  # fmt: skip
async def test_a_member_who_is_none_stays_out(data: str | None, why: str) -> None:
    async with serving() as served, served.talking() as client:
        heard = await client.subscribe("presence-us", data)
        assert (heard["event"], heard["data"]["status"]) == ("pusher:subscription_error", 400)
        assert why in heard["data"]["error"]


async def test_a_presence_channel_has_a_hundred_members_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("web.pusher.presence.MOST", 2)
    async with serving() as served, served.talking() as a, served.talking() as b, served.talking() as c:
        await a.enter("presence-us", "1")
        await b.enter("presence-us", "2")
        heard = await c.enter("presence-us", "3")
        assert (heard["event"], heard["data"]["status"]) == ("pusher:subscription_error", 4004)
        assert (await c.enter("presence-us", "2"))["event"].endswith("succeeded"), "who is there already may come again"


async def test_client_events_reach_the_others_in_the_channel() -> None:
    async with serving() as served, served.talking() as ann, served.talking() as bob:
        for channel in ("private-x", "presence-x"):
            for client, user in ((ann, "ann"), (bob, "bob")):
                await (client.enter(channel, user) if channel.startswith("presence") else client.subscribe(channel))
        await ann.settle()  # of the member who joined
        await ann.say("client-move", {"x": 1, "long": 12345678901234567890}, channel="private-x")
        heard = json.loads(await bob.connection.get_message())
        assert heard == {
            "event": "client-move", "channel": "private-x", "data": '{"x": 1, "long": 12345678901234567890}'
        }  # fmt: skip
        await ann.say("client-move", "as it is", channel="presence-x")
        assert json.loads(await bob.connection.get_message()) == {
            "event": "client-move",
            "channel": "presence-x",
            "data": "as it is",
            "user_id": "ann",
        }
        assert await ann.silent(), "the sender is not told"


async def test_client_events_that_are_not_allowed_go_nowhere() -> None:
    quiet = App(id="2", key="quiet", secret="s", client_events=False)
    async with serving(APP, quiet) as served, served.talking() as ann, served.talking() as bob:
        for channel in ("news", "private-encrypted-x", "private-x"):
            await bob.subscribe(channel)
        for channel in ("news", "private-encrypted-x"):
            await ann.subscribe(channel)
        for channel in ("news", "private-encrypted-x", "private-x", "nowhere"):
            heard = await ann.ask("client-x", {}, channel=channel)
            assert (heard["event"], heard["data"]["code"]) == ("pusher:error", 4301)
        await ann.subscribe("private-x")
        codes = []
        for _ in range(session.CLIENT_EVENTS + 3):
            await ann.say("client-x", {}, channel="private-x")
        for _ in range(3):
            codes.append((await ann.hear())["data"]["code"])
        assert codes == [4301] * 3
        for _ in range(session.CLIENT_EVENTS):
            assert (await bob.hear())["event"] == "client-x"
        assert await bob.silent()
        async with served.talking(f"/app/{quiet.key}?protocol=7") as client:
            heard = await client.ask("client-x", {}, channel="private-x")
            assert "not enabled" in heard["data"]["message"]


@pytest.mark.parametrize("channel", ["cache-x", "private-cache-x", "presence-cache-x", "private-encrypted-cache-x"])
async def test_cache_channels_say_what_they_said_last(channel: str) -> None:
    data = '{"user_id":"1"}' if channel.startswith("presence") else None
    async with serving() as served, served.talking() as first, served.talking() as second:
        assert (await first.subscribe(channel, data))["event"].endswith("succeeded")
        missed = json.loads(await first.connection.get_message())
        assert missed == {"event": "pusher:cache_miss", "channel": channel}
        served.channels.publish(parsed(channel), "one", "1")
        served.channels.publish(parsed(channel), "two", "2")
        assert [(await first.hear())["event"] for _ in range(2)] == ["one", "two"]
        assert (await second.subscribe(channel, data))["event"].endswith("succeeded")
        assert await second.hear() == {"event": "two", "channel": channel, "data": 2}
        assert await second.silent()


async def test_a_user_signs_in_and_is_spoken_to_on_every_connection() -> None:
    async with serving() as served, served.talking() as first, served.talking() as second, served.talking() as other:
        heard = await first.sign_in("ann", user_info={"name": "Ann"})
        assert heard["event"] == "pusher:signin_success"
        assert json.loads(heard["data"]["user_data"]) == {"id": "ann", "user_info": {"name": "Ann"}}
        await second.sign_in("ann")
        await other.sign_in("bob")
        for client in (first, second):
            assert (await client.subscribe("#server-to-user-ann"))["event"].endswith("succeeded")
        refused = await other.subscribe("#server-to-user-ann")
        assert (refused["event"], refused["data"]["status"]) == ("pusher:subscription_error", 403)
        served.channels.publish(parsed("#server-to-user-ann"), "note", '"hello"')
        for client in (first, second):
            assert (await client.hear())["data"] == "hello"
        assert await other.silent()
        joined = await first.subscribe("presence-us")
        assert joined["data"]["presence"]["hash"] == {"ann": {"name": "Ann"}}, "who signed in need not say who they are"


@pytest.mark.parametrize("user", ["{}", '{"id":1}', '{"id":""}', "no json"])
async def test_a_sign_in_without_a_user_ends_the_connection(user: str) -> None:
    async with serving() as served, served.talking() as client:
        signed = auth(APP, f"{client.id}::user::{user}")
        await client.say("pusher:signin", {"auth": signed, "user_data": user})
        error, code = await client.ending()
        assert error is not None
        assert (error["data"]["code"], code) == (4009, 4009)


async def test_a_sign_in_with_a_wrong_signature_ends_the_connection() -> None:
    async with serving() as served, served.talking() as client:
        await client.say("pusher:signin", {"auth": f"{APP.key}:00", "user_data": '{"id":"ann"}'})
        error, code = await client.ending()
        assert error is not None
        assert (error["data"]["code"], code) == (4009, 4009)


async def test_whoever_watches_a_user_is_told_when_they_come_and_go() -> None:
    async with serving() as served, served.talking() as watcher:
        await watcher.sign_in("w", watchlist=["ann", "bob"])
        assert (await watcher.hear())["data"]["events"] == [{"name": "offline", "user_ids": ["ann", "bob"]}]
        async with served.talking() as first, served.talking() as second:
            await first.sign_in("ann")
            await second.sign_in("ann")
            heard = await watcher.hear()
            assert heard["event"] == "pusher_internal:watchlist_events"
            assert heard["data"]["events"] == [{"name": "online", "user_ids": ["ann"]}]
        assert (await watcher.hear())["data"]["events"] == [{"name": "offline", "user_ids": ["ann"]}]
        async with served.talking() as late:
            heard = await late.sign_in("x", watchlist=[str(n) for n in range(101)])
            assert heard["data"]["code"] == 4302
            assert (await late.hear())["event"] == "pusher:signin_success"


async def test_subscribers_are_told_how_many_they_are_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("web.pusher.channels.COUNTING_SECONDS", 0.05)
    counting = App(id=APP.id, key=APP.key, secret=APP.secret, subscription_counts=True)
    async with serving(counting) as served, served.talking() as first, served.talking() as second:
        await first.subscribe("news")
        await second.subscribe("news")
        heard = await first.hear()
        assert heard["event"] == "pusher_internal:subscription_count"
        assert heard["data"] == {"subscription_count": 2}


async def test_a_connection_has_so_many_subscriptions() -> None:
    async with serving(limits=WsLimits(subscriptions=2)) as served, served.talking() as client:
        for name in ("a", "b"):
            assert (await client.subscribe(name))["event"].endswith("succeeded")
        heard = await client.subscribe("c")
        assert (heard["event"], heard["data"]["status"]) == ("pusher:subscription_error", 4004)


async def test_there_are_so_many_connections() -> None:
    async with serving(limits=WsLimits(connections=1)) as served, served.talking(), served.connected() as found:
        error, code = await Client(found.connection).ending()
        assert error is not None
        assert (error["data"]["code"], code) == (4100, 4100)


async def test_too_many_messages_are_dropped_and_told() -> None:
    async with serving(limits=WsLimits(messages_per_second=5)) as served, served.talking() as client:
        for _ in range(7):
            await client.say("pusher:ping", {})
        heard = [(await client.hear())["event"] for _ in range(6)]
        assert heard == ["pusher:pong"] * 5 + ["pusher:error"]


async def test_a_silent_client_is_asked_and_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "PONG_SECONDS", 0.2)
    async with serving(activity_seconds=0.1) as served, served.talking() as client:
        for _ in range(3):
            assert (await client.hear())["event"] == "pusher:ping"
            await client.say("pusher:pong", {})
        assert (await client.hear())["event"] == "pusher:ping"
        error, code = await client.ending()
        assert error is not None
        assert (error["data"]["code"], code) == (4201, 4201)


async def test_a_peer_that_does_not_even_answer_pings_of_the_transport_is_told_the_same() -> None:
    async with serving(limits=WsLimits(ping_seconds=0.05, dead_seconds=0.2, close_seconds=0.2)) as served:
        peer = await a_stalled_reader(served.port, path=PATH)
        received = b""
        with trio.fail_after(5):
            while more := await trio.to_thread.run_sync(peer.recv, 4096):
                received += more
        peer.close()
    assert b'"code":4201' in received
    assert (4201).to_bytes(2, "big") in received.partition(b'"code":4201')[2], "the close frame"


async def test_a_stop_says_come_back() -> None:
    async with serving() as served, served.talking() as client:
        served.stop()
        error, code = await client.ending()
        assert error is not None
        assert (error["data"]["code"], code) == (4200, 4200)


# --- markets


async def test_a_market_says_what_it_costs_at_most_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("web.pusher.prices.APART", 0.2)
    async with serving() as served, served.talking() as client, served.talking() as other:
        served.markets.change({1000: 1.0}, resolution="1S")
        assert (await client.subscribe("market-GOLD"))["data"] == {}
        await other.subscribe("market-BTC=2FUSD")
        await _followed(served, 2)
        assert await client.silent(), "where it was is no news"
        served.markets.change({1001: 2.5}, resolution="1S")
        begun = trio.current_time()
        heard = json.loads(await client.connection.get_message())
        assert (heard["event"], heard["channel"]) == ("price-update", "market-GOLD")
        told = json.loads(heard["data"])
        epoch = told.pop("epoch")
        assert told == {
            "symbol": "GOLD", "timestamp": 1001, "open": 1.0, "high": 2.5, "low": 1.0, "close": 2.5,
            "volume": 10.0, "trades": 3, "seq": 1,
        }  # fmt: skip
        for close in (3.0, 4.0, 5.0):
            served.markets.change({1002: close}, resolution="1S")
        served.markets.change({1000: 9.0}, gone=[1001], resolution="1S")  # of the past: time never goes back
        served.markets.close(1002, resolution="1S")
        told = (await client.hear())["data"]
        assert trio.current_time() - begun >= 0.2
        assert (told["timestamp"], told["close"], told["seq"], told["epoch"]) == (1002, 5.0, 2, epoch)
        served.markets.change({60: 7.0}, symbol="BTC/USD", resolution="1S")
        assert (await other.hear())["data"]["symbol"] == "BTC/USD"
        await trio.sleep(0.3)
        assert await client.silent()


async def _followed(served: Any, count: int) -> None:
    with trio.fail_after(5):
        while served.markets.joined < count:  # noqa: ASYNC110 # what is waited for has no event
            await trio.sleep(0.005)


async def test_a_price_survives_very_many_changes_at_once_and_the_loss_of_continuity(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("web.pusher.prices.APART", 0.05)
    async with serving() as served, served.talking() as client:
        await client.subscribe("market-GOLD")
        await _followed(served, 1)
        served.markets.change(dict.fromkeys(range(1000, 1000 + 3 * SHORT), 2.0), resolution="1S")
        told = (await client.hear())["data"]
        assert (told["timestamp"], told["close"], told["seq"]) == (1000 + 3 * SHORT - 1, 2.0, 1)
        stream = served.markets.stream("GOLD", "1S")
        stream.bars[2000] = a_bar(2000, 3.0)
        stream.topic.reset("another", 1)
        told = (await client.hear())["data"]
        assert (told["timestamp"], told["close"], told["seq"]) == (2000, 3.0, 2)
        stream.topic.reset("yet another", 1)
        with trio.fail_after(5):
            while served.markets.resnapshots < 2:  # noqa: ASYNC110
                await trio.sleep(0.005)
        assert await client.silent(), "what has not changed is not told again"
        stream.topic.publish(2, [a_bar(2000, 4.0)])
        assert (await client.hear())["data"]["close"] == 4.0


async def test_a_cache_channel_of_a_market_has_its_price_at_once() -> None:
    async with serving() as served, served.talking() as first, served.talking() as second:
        served.markets.change({1000: 1.5}, resolution="1S")
        await first.subscribe("cache-market-GOLD")
        told = (await first.hear())["data"]
        assert (told["timestamp"], told["close"], told["seq"]) == (1000, 1.5, 0)
        served.markets.change({1000: 2.5}, resolution="1S")
        assert (await first.hear())["data"]["seq"] == 1
        await second.subscribe("cache-market-GOLD")
        assert (await second.hear())["data"]["close"] == 2.5
        await second.subscribe("cache-market-BTC=2FUSD")
        assert (await second.hear())["event"] == "pusher:cache_miss"


async def test_a_market_that_is_registered_later_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("web.pusher.prices.AGAIN", 0.05)
    monkeypatch.setattr("web.pusher.prices.APART", 0.05)
    async with serving() as served, served.talking() as client:
        await client.subscribe("market-LATE")
        await client.subscribe("cache-market-LATE")
        assert (await client.hear())["event"] == "pusher:cache_miss"
        served.markets.add("LATE")
        for close in (1.0, 2.0):  # the first is there when the market is found
            served.markets.change({5: close}, symbol="LATE", resolution="1S")
            heard = [await client.hear() for _ in range(2)]
            assert {one["channel"] for one in heard} == {"market-LATE", "cache-market-LATE"}
            assert {one["data"]["close"] for one in heard} == {close}
        for name in ("market-LATE", "cache-market-LATE"):
            await client.say("pusher:unsubscribe", {"channel": name})
        assert await client.silent()
        assert not served.markets.stream("LATE", "1S").topic.subscriptions


@pytest.mark.parametrize("spelling", ["1", "1m"])
async def test_bars_come_with_the_newest_and_whatever_becomes_of_them(spelling: str) -> None:
    channel = f"market-GOLD-{spelling}"
    async with serving() as served, served.talking() as client, served.talking() as other:
        served.markets.change({60: 1.0, 120: 2.0})
        assert (await client.subscribe(channel))["event"].endswith("succeeded")
        shown = await client.hear()
        named = {"symbol": "GOLD", "resolution": "1", "epoch": "k3f9"}
        assert (shown["event"], shown["channel"]) == ("bars", channel)
        assert {**shown["data"], "data": None} == {**named, "seq": 2, "data": None}
        assert [bar["time"] for bar in shown["data"]["data"]] == [60, 120]
        await other.subscribe(channel)
        await other.hear()
        served.markets.change({60: 1.5})
        for one in (client, other):
            heard = await one.hear()
            assert heard["event"] == "bar"
            bar = {"time": 60, "open": 1.0, "high": 1.5, "low": 1.0, "close": 1.5, "volume": 10.0, "trades": 3}
            assert heard["data"] == {**named, "prev_seq": 2, "seq": 3, "op": "amend", "data": {**bar, "closed": False}}
        served.channels.publish(parsed(channel), "said", "{}")
        for one in (client, other):
            assert (await one.hear())["event"] == "said"
        await client.say("pusher:unsubscribe", {"channel": channel})
        assert await client.silent()
        served.markets.change({180: 3.0})
        assert await client.silent()
        assert (await other.hear())["data"]["op"] == "upsert"
        assert len(served.markets.stream().topic.subscriptions) == 1


async def test_a_market_whose_name_ends_like_a_resolution_is_that_market() -> None:
    async with serving() as served, served.talking() as client:
        await client.subscribe("market-BTC-5")
        await _followed(served, 1)
        served.markets.change({5: 1.0}, symbol="BTC-5", resolution="1S")
        assert (await client.hear())["data"]["symbol"] == "BTC-5"


async def test_bars_of_a_market_that_is_not_there_are_refused_and_so_is_what_cannot_be_had_now() -> None:
    async with serving() as served, served.talking() as client:
        heard = await client.subscribe("market-TEA-1m")
        assert heard["event"] == "pusher:subscription_error"
        assert (heard["data"]["status"], heard["data"]["error"]) == (404, "no market named 'TEA'")
        served.markets.failing = Unavailable("not now")
        heard = await client.subscribe("market-GOLD-1m")
        assert (heard["data"]["status"], heard["data"]["error"]) == (503, "not now")
        served.markets.failing = None
        assert (await client.subscribe("market-GOLD-1m"))["event"].endswith("succeeded")


async def test_where_reading_needs_a_key_markets_are_private() -> None:
    async with serving(open=False) as served, served.talking() as client:
        served.markets.change({1000: 1.5}, resolution="1S")
        for name in ("market-GOLD", "cache-market-GOLD", "market-GOLD-1"):
            heard = await client.subscribe(name)
            assert (heard["event"], heard["data"]["status"]) == ("pusher:subscription_error", 403)
            assert f"private-{name}" in heard["data"]["error"]
        await client.subscribe("private-cache-market-GOLD")
        assert (await client.hear())["data"]["close"] == 1.5
        await client.subscribe("private-market-GOLD-1")
        assert (await client.hear())["event"] == "bars"


# --- slow readers


async def test_a_slow_reader_gets_the_newest_price_and_is_closed_for_events_it_cannot_take() -> None:
    subscribe = b'{"event":"pusher:subscribe","data":{"channel":"%b"}}'
    async with serving() as served, served.talking() as client:
        await client.subscribe("news")
        peer = await a_stalled_reader(served.port, subscribe % b"news", path=PATH)
        with trio.fail_after(5):
            while len((served.channels.find("news") or _Nobody()).peers) < 2:  # noqa: ASYNC110
                await trio.sleep(0.005)
        # States replace each other while they wait, so they never fill anything.
        n = 0
        while served.hub.conflated < 100 and n < 3000:
            n += 1
            served.channels.show("news", "state", json.dumps({"n": n, "x": "x" * 10_000}))
            assert (await client.hear())["data"]["n"] == n
        assert served.channels.statistics().connections == 2
        for n in range(200):
            served.channels.publish(parsed("news"), "event", json.dumps({"n": n, "x": "x" * 10_000}))
            assert (await client.hear())["data"]["n"] == n
        with trio.fail_after(5):
            while served.channels.statistics().connections > 1:  # noqa: ASYNC110
                await trio.sleep(0.01)
        peer.close()


class _Nobody:
    peers: frozenset[Any] = frozenset()


async def test_a_close_frame_of_the_client_ends_its_place_in_every_channel() -> None:
    async with serving() as served:
        async with served.talking() as client:
            await client.subscribe("news")
            await client.connection.aclose()
        with trio.fail_after(5):
            while served.channels.statistics().connections:  # noqa: ASYNC110
                await trio.sleep(0.005)
        assert served.channels.statistics().subscriptions == 0
