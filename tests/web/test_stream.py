"""`/ws` over real sockets."""

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio_websocket import ConnectionClosed

from actors.hub import Hub
from storage.errors import Unavailable
from tests.memory_markets import MemoryMarkets
from tests.ws_client import Chart, Client, a_stalled_reader, connected, frames
from web.listener import listen
from web.outbox import Outbox, WsLimits
from web.pending import CHUNK
from web.stream import BarStreams

SUBSCRIBE = {"action": "subscribe", "channel": "bars", "symbol": "GOLD", "resolution": "1"}


async def no_app(scope: Any, receive: Any, send: Any) -> None:
    """A web app without anything in it."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 404, "headers": []})
    await send({"type": "http.response.body", "body": b""})


class Served:
    def __init__(self, markets: MemoryMarkets, hub: Hub, port: int) -> None:
        self.markets, self.hub, self.port = markets, hub, port

    def connect(self, **more: Any) -> Any:
        return connected(self.port, **more)


@asynccontextmanager
async def serving(markets: MemoryMarkets | None = None, **limits: Any) -> AsyncIterator[Served]:
    markets, hub = markets or MemoryMarkets(), Hub()
    limit = WsLimits(**limits)
    stop, ended = trio.Event(), trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(hub.run)

        async def serve(*, task_status: Any) -> None:
            await listen(
                no_app,
                {"/ws": BarStreams(markets, hub, limit).serve},
                host="127.0.0.1",
                port=0,
                hub=hub,
                limits=limit,
                until=stop.wait,
                drain_seconds=2,
                task_status=task_status,
            )
            ended.set()

        _, port = await nursery.start(serve)
        yield Served(markets, hub, port)
        stop.set()
        with trio.fail_after(5):
            await ended.wait()
        nursery.cancel_scope.cancel()


async def until(true: Callable[[], bool]) -> None:
    with trio.fail_after(5):
        while not true():  # noqa: ASYNC110 # what is waited for has no event
            await trio.sleep(0.005)


async def test_a_subscription_is_acknowledged_then_gets_a_snapshot_then_what_changes() -> None:
    async with serving() as served, served.connect() as client:
        served.markets.change({60: 1.0, 120: 2.0})
        assert await client.ask(**SUBSCRIBE, id="c1") == {
            "type": "subscribed",
            "channel": "bars",
            "symbol": "GOLD",
            "resolution": "1",
            "epoch": "k3f9",
            "seq": 2,
            "recovered": False,
            "id": "c1",
        }
        snapshot = await client.hear()
        served.markets.change({120: 2.5})
        assert (snapshot["type"], snapshot["seq"]) == ("snapshot", 2)
        assert [bar["time"] for bar in snapshot["data"]] == [60, 120]
        assert await client.hear() == {
            "type": "bar",
            "channel": "bars",
            "symbol": "GOLD",
            "resolution": "1",
            "epoch": "k3f9",
            "prev_seq": 2,
            "seq": 3,
            "op": "upsert",
            "data": {
                "time": 120,
                "open": 1.0,
                "high": 2.5,
                "low": 1.0,
                "close": 2.5,
                "volume": 10.0,
                "trades": 3,
                "closed": False,
            },
        }


async def test_the_past_changes_by_amend_insert_and_delete() -> None:
    async with serving() as served, served.connect() as client:
        served.markets.change({60: 1.0, 180: 2.0})
        chart = Chart()
        await client.follow(chart)
        served.markets.change({60: 1.5})
        served.markets.change({120: 1.5})
        served.markets.change({}, gone=[60])
        served.markets.change({180: 3.0, 240: 1.0})
        await client.catch_up(chart, 6)
        assert chart.ops == ["amend", "insert", "delete", "upsert", "upsert"]
        assert sorted(chart.bars) == [120, 180, 240]


async def test_a_close_by_the_clock_has_no_number_of_its_own() -> None:
    async with serving() as served, served.connect() as client:
        served.markets.change({60: 1.0})
        chart = Chart()
        await client.follow(chart)
        chart.take(await client.hear())
        served.markets.close(60)
        frame = await client.hear()
        assert (frame["prev_seq"], frame["seq"], frame["op"], frame["data"]["closed"]) == (2, 2, "upsert", True)


async def test_a_resumed_stream_gets_what_it_missed_and_no_snapshot() -> None:
    async with serving() as served:
        chart = Chart()
        served.markets.change({60: 1.0, 120: 1.0, 240: 1.0})
        async with served.connect() as client:
            await client.follow(chart)
            await client.catch_up(chart, 2)
        served.markets.change({60: 2.0, 180: 1.0})
        served.markets.change({}, gone=[120])
        served.markets.change({300: 1.0})
        async with served.connect() as client:
            answer = await client.follow(chart)
            assert (answer["recovered"], answer["seq"]) == (True, 5)
            await client.catch_up(chart, 5)
        assert chart.ops == ["delete", "amend", "insert", "upsert", "upsert"]
        assert sorted(chart.bars) == [60, 180, 240, 300]
        assert len(chart.snapshots) == 1


async def test_the_frames_of_a_resumed_stream_claim_no_more_than_is_complete() -> None:
    async with serving() as served:
        served.markets.change({60: 1.0})
        served.markets.change({60: 2.0})
        served.markets.change({120: 1.0})
        served.markets.change({180: 1.0})
        async with served.connect() as client:
            await client.say(**SUBSCRIBE, resume={"epoch": "k3f9", "seq": 2})
            assert (await client.hear())["recovered"]
            chain = [await client.hear() for _ in range(3)]
        assert [(frame["prev_seq"], frame["seq"]) for frame in chain] == [(2, 3), (3, 4), (4, 5)]


@pytest.mark.parametrize(
    "resume",
    [
        {"epoch": "gone", "seq": 2},
        {"epoch": "k3f9", "seq": 99},
        {"epoch": "k3f9", "seq": -1},
        {"epoch": "k3f9", "seq": "2"},
        {"epoch": "k3f9"},
        {"epoch": 7, "seq": 2},
        "k3f9.2",
        [],
        17,
    ],
)
async def test_a_position_that_cannot_be_trusted_gets_a_snapshot(resume: object) -> None:
    async with serving() as served, served.connect() as client:
        served.markets.change({60: 1.0})
        answer = await client.ask(**SUBSCRIBE, resume=resume)
        assert (answer["type"], answer["recovered"]) == ("subscribed", False)
        assert (await client.hear())["type"] == "snapshot"


async def test_a_position_ahead_of_the_stream_continues_at_the_streams_own() -> None:
    async with serving() as served, served.connect() as client:
        served.markets.change({60: 1.0})
        served.markets.change({60: 1.0}, symbol="BTC")
        answer = await client.ask(**SUBSCRIBE, resume={"epoch": "k3f9", "seq": 3})
        assert (answer["recovered"], answer["seq"]) == (True, 2)
        again = await client.hear()
        assert (again["prev_seq"], again["seq"], again["op"]) == (2, 2, "upsert")
        served.markets.change({60: 2.0})
        frame = await client.hear()
        assert (frame["prev_seq"], frame["seq"]) == (2, 4)


async def test_a_snapshot_has_as_many_bars_as_were_asked_for() -> None:
    async with serving() as served, served.connect() as client:
        served.markets.change({60 * i: 1.0 for i in range(1, 500)})
        for asked, given_ in ((None, 300), (0, 0), (2, 2), (5000, 499)):
            more = {} if asked is None else {"snapshot_bars": asked}
            assert (await client.ask(**SUBSCRIBE, **more))["type"] == "subscribed"
            assert len((await client.hear())["data"]) == given_
        served.markets.change({60: 2.0})
        assert (await client.hear())["op"] == "amend"


async def test_an_empty_snapshot_still_knows_which_bar_is_the_newest() -> None:
    async with serving() as served, served.connect() as client:
        served.markets.change({60: 1.0, 120: 1.0})
        await client.ask(**SUBSCRIBE, snapshot_bars=0)
        await client.hear()
        served.markets.change({60: 2.0})
        assert (await client.hear())["op"] == "amend"


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("{", "invalid_json"),
        ("", "invalid_json"),
        ("[" * 5000, "invalid_json"),
        ('{"a":1e999}', "invalid_json"),
        ("[]", "invalid_message"),
        ('"ping"', "invalid_message"),
        ("{}", "invalid_message"),
        ('{"action":5}', "invalid_message"),
        ('{"action":"dance"}', "unknown_action"),
        ('{"action":"subscribe"}', "invalid_message"),
        ('{"action":"subscribe","channel":7}', "invalid_message"),
        ('{"action":"subscribe","channel":"weather"}', "unknown_channel"),
        ('{"action":"subscribe","channel":"market"}', "unknown_channel"),
        ('{"action":"subscribe","channel":"card","card_id":1}', "unknown_channel"),
        ('{"action":"subscribe","channel":"alerts","token":"x"}', "unknown_channel"),
        ('{"action":"unsubscribe","channel":"prices"}', "unknown_channel"),
        ('{"action":"subscribe","channel":"bars"}', "invalid_message"),
        ('{"action":"subscribe","channel":"bars","symbol":"GOLD"}', "invalid_message"),
        ('{"action":"subscribe","channel":"bars","symbol":5,"resolution":"1"}', "invalid_message"),
        ('{"action":"subscribe","channel":"bars","symbol":"GLOD","resolution":"1"}', "unknown_symbol"),
        ('{"action":"subscribe","channel":"bars","symbol":"GOLD","resolution":"1m"}', "unknown_resolution"),
        ('{"action":"subscribe","channel":"bars","symbol":"GOLD","resolution":"soon"}', "unknown_resolution"),
        (
            '{"action":"subscribe","channel":"bars","symbol":"GOLD","resolution":"1","snapshot_bars":5001}',
            "invalid_message",
        ),
        (
            '{"action":"subscribe","channel":"bars","symbol":"GOLD","resolution":"1","conflate_ms":-1}',
            "invalid_message",
        ),
        ('{"action":"ping","id":[1]}', "invalid_message"),
        ('{"action":"ping","id":true}', "invalid_message"),
        ('{"action":"ping","id":"' + "x" * 65 + '"}', "invalid_message"),
        (b"\x00\x01", "invalid_message"),
    ],
)
async def test_a_bad_message_is_answered_with_its_error_and_the_connection_stays(
    message: str | bytes, code: str
) -> None:
    async with serving() as served, served.connect() as client:
        await client.connection.send_message(message)
        answer = await client.hear()
        assert (answer["type"], answer["code"]) == ("error", code)
        assert answer["message"]
        assert await client.ask(action="ping") == {"type": "pong"}


BARS = '{"action":"subscribe","channel":"bars",'


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ('{"a":x}', "message: expected a JSON object, got 7 bytes that are no JSON from byte 5 on"),
        ('{"a":1e999}', "message: expected a JSON object, got 11 bytes that are no JSON"),
        ('{"token":"secret"', "message: expected a JSON object, got 17 bytes that are no JSON"),
        ("[1]", "message: expected a JSON object, got [1]"),
        (b"{}", "message: expected a text frame, got a binary one"),
        ("{}", "action: needed, subscribe, unsubscribe or ping"),
        ('{"action":5}', "action: expected subscribe, unsubscribe or ping, got 5"),
        ('{"action":null}', "action: expected subscribe, unsubscribe or ping, got null"),
        ('{"action":"dance"}', "action: expected subscribe, unsubscribe or ping, got 'dance'"),
        ('{"action":"' + "x" * 200 + '"}', f"action: expected subscribe, unsubscribe or ping, got '{'x' * 98}…"),
        ('{"action":"subscribe"}', "channel: needed, bars"),
        ('{"action":"subscribe","channel":["bars"]}', 'channel: expected bars, got ["bars"]'),
        ('{"action":"subscribe","channel":"weather"}', "channel: expected bars, got 'weather'"),
        ('{"action":"ping","id":true}', "id: expected a text or an integer of at most 64 characters, got true"),
        (BARS + '"resolution":"1"}', "symbol: needed"),
        (BARS + '"symbol":"GOLD"}', "resolution: needed"),
        (BARS + '"symbol":5,"resolution":"1"}', "symbol: expected a text of 1 to 256 characters, got 5"),
        (BARS + '"symbol":"","resolution":"1"}', "symbol: expected a text of 1 to 256 characters, got ''"),
        (BARS + '"symbol":"GOLD","resolution":1}', "resolution: expected a text of 1 to 16 characters, got 1"),
        (
            BARS + '"symbol":"GOLD","resolution":"1","snapshot_bars":5001}',
            "snapshot_bars: expected an integer, 0 to 5000, got 5001",
        ),
        (
            BARS + '"symbol":"GOLD","resolution":"1","snapshot_bars":"300"}',
            "snapshot_bars: expected an integer, 0 to 5000, got '300'",
        ),
        (
            BARS + '"symbol":"GOLD","resolution":"1","conflate_ms":{"a":0.5}}',
            'conflate_ms: expected an integer, 0 to 60000, got {"a":0.5}',
        ),
        (
            '{"action":"unsubscribe","channel":"bars","symbol":"GOLD","resolution":{}}',
            "resolution: expected a text of 1 to 16 characters, got {}",
        ),
    ],
)
async def test_an_error_names_the_member_what_was_expected_and_what_came(message: str | bytes, said: str) -> None:
    async with serving() as served, served.connect() as client:
        await client.connection.send_message(message)
        answer = await client.hear()
        assert answer["type"] == "error"
        assert answer["message"] == said


async def test_an_error_repeats_the_channel_and_the_id() -> None:
    async with serving() as served, served.connect() as client:
        answer = await client.ask(action="subscribe", channel="weather", id=12345678901234567890123)
        assert (answer["channel"], answer["id"]) == ("weather", 12345678901234567890123)


async def test_a_failure_of_ours_is_an_internal_error_and_the_connection_stays(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving() as served, served.connect() as client:
        served.markets.failing = RuntimeError("out of order")
        assert (await client.ask(**SUBSCRIBE))["code"] == "internal"
        assert "could not be answered" in caplog.text
        served.markets.failing = None
        assert (await client.ask(**SUBSCRIBE))["type"] == "subscribed"


async def test_what_cannot_be_had_now_is_an_error_of_its_own_and_can_be_asked_for_again() -> None:
    async with serving() as served, served.connect() as client:
        served.markets.failing = Unavailable("rebuilding the store: 43 %, about 7 s left", retry_after=7)
        answer = await client.ask(**SUBSCRIBE)
        assert (answer["code"], answer["message"]) == ("unavailable", "rebuilding the store: 43 %, about 7 s left")
        served.markets.failing = None
        assert (await client.ask(**SUBSCRIBE))["type"] == "subscribed"


async def test_ping_is_answered_with_its_id() -> None:
    async with serving() as served, served.connect() as client:
        assert await client.ask(action="ping") == {"type": "pong"}
        assert await client.ask(action="ping", id=7, extra="ignored") == {"type": "pong", "id": 7}


async def test_names_are_answered_in_their_canonical_form() -> None:
    async with serving() as served, served.connect() as client:
        answer = await client.ask(action="subscribe", channel="bars", symbol="gold", resolution="D")
        assert (answer["symbol"], answer["resolution"]) == ("GOLD", "1D")
        assert (await client.hear())["resolution"] == "1D"
        answer = await client.ask(action="unsubscribe", channel="bars", symbol="Gold", resolution="1d", id=1)
        assert answer == {"type": "unsubscribed", "channel": "bars", "symbol": "GOLD", "resolution": "1D", "id": 1}


async def test_nothing_of_a_stream_follows_its_unsubscribed() -> None:
    async with serving() as served, served.connect() as client:
        await client.ask(**SUBSCRIBE)
        await client.hear()
        served.markets.change({60: 1.0})
        assert (await client.hear())["type"] == "bar"
        answer = await client.ask(**{**SUBSCRIBE, "action": "unsubscribe"})
        assert answer["type"] == "unsubscribed"
        served.markets.change({60: 2.0})
        assert await client.ask(action="ping") == {"type": "pong"}
        assert not served.markets.stream().topic.subscriptions


async def test_a_repeated_subscription_is_answered_again_and_delivers_once() -> None:
    async with serving() as served, served.connect() as client:
        for _ in range(3):
            assert (await client.ask(**SUBSCRIBE))["type"] == "subscribed"
            assert (await client.hear())["type"] == "snapshot"
            assert len(served.markets.stream().topic.subscriptions) == 1
        served.markets.change({60: 1.0})
        assert (await client.hear())["type"] == "bar"
        assert await client.ask(action="ping") == {"type": "pong"}


async def test_one_connection_may_have_fifty_subscriptions_and_renew_each() -> None:
    async with serving(subscriptions=2) as served, served.connect() as client:
        for resolution in ("1", "5"):
            await client.ask(**{**SUBSCRIBE, "resolution": resolution})
            await client.hear()
        assert (await client.ask(**{**SUBSCRIBE, "resolution": "15"}))["code"] == "too_many_subscriptions"
        assert (await client.ask(**SUBSCRIBE))["type"] == "subscribed"
        await client.hear()
        await client.ask(**{**SUBSCRIBE, "action": "unsubscribe"})
        assert (await client.ask(**{**SUBSCRIBE, "resolution": "15"}))["type"] == "subscribed"


async def test_too_many_messages_are_dropped_and_answered_once_a_second() -> None:
    async with serving(messages_per_second=10) as served, served.connect() as client:
        for _ in range(60):
            await client.say(action="ping")
        kinds = [(await client.hear())["type"] for _ in range(11)]
        assert kinds == ["pong"] * 10 + ["error"]
        await trio.sleep(1.1)
        assert await client.ask(action="ping") == {"type": "pong"}


async def test_a_flood_that_does_not_end_closes_the_connection() -> None:
    async def flood(client: Client) -> None:
        with suppress(ConnectionClosed):
            while True:
                await client.say(action="ping")
                await trio.sleep(0.05)

    async with (
        serving(messages_per_second=3, flooded_seconds=1) as served,
        served.connect() as client,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(flood, client)
        assert await client.ending() == 1008
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("message", ["x" * 16385, "x" * 200_000, "é" * 9000])
async def test_a_message_over_the_limit_closes_with_1009(message: str) -> None:
    async with serving() as served, served.connect() as client:
        await client.connection.send_message(message)
        assert await client.ending() == 1009


async def test_a_message_at_the_limit_is_read() -> None:
    async with serving() as served, served.connect() as client:
        padded = '{"action":"ping","pad":"' + "x" * (16384 - 26) + '"}'
        assert len(padded) == 16384
        await client.connection.send_message(padded)
        assert await client.hear() == {"type": "pong"}


async def test_a_connection_too_many_is_closed_after_the_upgrade() -> None:
    async with serving(connections=1) as served, served.connect() as first:
        async with served.connect() as second:
            assert await second.ending() == 1013
        assert await first.ask(action="ping") == {"type": "pong"}


async def test_a_connection_that_ends_leaves_its_streams_and_makes_room() -> None:
    async with serving(connections=1) as served:
        for _ in range(3):
            async with served.connect() as client:
                await client.ask(**SUBSCRIBE)
            await until(lambda: not served.markets.stream().topic.subscriptions)
        await until(lambda: served.hub.statistics().subscriptions == 0)
        assert served.hub.statistics().connections == 0


async def test_a_connection_cut_while_it_subscribes_leaves_nothing_behind() -> None:
    async with serving() as served:
        served.markets.gate = trio.Event()
        async with served.connect() as client:
            await client.say(**SUBSCRIBE)
            await until(lambda: served.markets.joining == 1)
        served.markets.gate.set()
        await until(lambda: served.markets.joined == 1)
        await until(lambda: not served.markets.stream().topic.subscriptions)


async def test_a_session_that_is_cancelled_while_it_subscribes_leaves_nothing_behind() -> None:
    markets = MemoryMarkets()
    markets.gate = trio.Event()
    async with serving(markets) as served, served.connect() as client:
        await client.say(**SUBSCRIBE)
        await until(lambda: markets.joining == 1)
    markets.gate.set()
    await trio.testing.wait_all_tasks_blocked()
    markets.change({60: 1.0})
    assert not markets.stream().topic.subscriptions
    assert served.hub.statistics().subscriptions == 0


async def test_an_idle_stream_proves_that_it_lives() -> None:
    async with serving(heartbeat_seconds=0.1) as served, served.connect() as client:
        chart = Chart()
        served.markets.change({60: 1.0})
        await client.follow(chart)
        chart.take(await client.hear())
        for _ in range(2):
            assert await client.hear() == {
                "type": "heartbeat",
                "channel": "bars",
                "symbol": "GOLD",
                "resolution": "1",
                "epoch": "k3f9",
                "seq": 2,
            }


async def test_a_silent_peer_is_pinged_and_kept() -> None:
    async with serving(ping_seconds=0.05, dead_seconds=1) as served, served.connect() as client:
        await trio.sleep(1.2)
        assert await client.ask(action="ping") == {"type": "pong"}


async def test_a_dead_peer_is_closed() -> None:
    async with serving(ping_seconds=0.05, dead_seconds=0.2) as served:
        peer = await a_stalled_reader(served.port)
        heard = await trio.to_thread.run_sync(lambda: read_all(peer))
    opcodes = [opcode for opcode, _ in frames(heard)]
    assert opcodes[0] == 9
    assert opcodes[-1] == 8


def read_all(peer: socket.socket) -> bytes:
    data = b""
    try:
        while more := peer.recv(65536):
            data += more
    except ConnectionResetError:
        pass
    peer.close()
    return data


async def test_conflation_spaces_the_states_of_a_bar_and_keeps_the_last() -> None:
    async with serving() as served, served.connect() as client:
        served.markets.change({60: 1.0})
        chart = Chart()
        await client.follow(chart, conflate_ms=200)
        chart.take(await client.hear())
        begun = trio.current_time()
        served.markets.change({60: 2.0})
        chart.take(await client.hear())
        assert trio.current_time() - begun < 0.15, "the first change after a pause leaves at once"
        for close in range(3, 10):
            served.markets.change({60: float(close)})
        chart.take(await client.hear())
        assert trio.current_time() - begun >= 0.19
        assert (chart.seq, chart.bars[60]["close"]) == (served.markets.seq, 9.0)
        assert len(chart.ops) == 2


async def test_a_closing_is_not_delayed_by_conflation() -> None:
    async with serving() as served, served.connect() as client:
        served.markets.change({60: 1.0})
        chart = Chart()
        await client.follow(chart, conflate_ms=60_000)
        chart.take(await client.hear())
        served.markets.change({60: 2.0})
        chart.take(await client.hear())
        served.markets.change({60: 3.0})
        served.markets.close(60)
        frame = await client.hear()
        assert (frame["seq"], frame["data"]["close"], frame["data"]["closed"]) == (4, 3.0, True)


async def test_the_server_may_raise_the_conflation_and_says_so() -> None:
    async with serving(conflate_ms=100) as served, served.connect() as client:
        assert (await client.ask(**SUBSCRIBE))["conflate_ms"] == 100
        await client.hear()
        assert "conflate_ms" not in await client.ask(**SUBSCRIBE, conflate_ms=250)


def subscribing(**more: object) -> bytes:
    return msgspec.json.encode({**SUBSCRIBE, **more})


async def test_a_stalled_reader_delays_nobody_and_comes_back_with_a_snapshot() -> None:
    async with serving(pending_frames=50) as served:
        slow = await a_stalled_reader(served.port, subscribing(snapshot_bars=5000))
        await until(lambda: served.hub.statistics().subscriptions == 1)
        async with served.connect() as client:
            chart = Chart()
            await client.follow(chart)
            for i in range(1, 2000):
                served.markets.change({60 * (i // 5): float(i), 60 * (i % 1000): 2.0})
                with trio.fail_after(1):
                    await client.catch_up(chart, served.markets.seq)
            lagged = served.hub.statistics().lagged
            # Each time that the socket took something there was a snapshot; the last one waits for it.
            assert served.markets.resnapshots == lagged - 1
            (stalled,) = (one for one in served.markets.stream().topic.subscriptions if not one.plain)
            assert isinstance(stalled.sink, Outbox)
            assert stalled.sink.pending < 4 * CHUNK
        slow.settimeout(5)
        late, data = Chart(), b""
        while late.seq < served.markets.seq:
            data += await trio.to_thread.run_sync(lambda: slow.recv(65536))
            late = Chart()
            for opcode, payload in frames(data):
                assert opcode == 1
                late.take(msgspec.json.decode(payload))
        slow.close()
        assert late.snapshots == [None, *["lagged"] * lagged]
        assert {time: bar["close"] for time, bar in late.bars.items()} == {
            time: bar.close for time, bar in served.markets.stream().bars.items()
        }


async def test_a_slow_reader_gets_each_bar_once_in_its_newest_state() -> None:
    async with serving() as served:
        served.markets.change({60: 1.0})
        slow = await a_stalled_reader(served.port, subscribing())
        await until(lambda: served.hub.statistics().subscriptions == 1)
        for i in range(1, 6000):
            served.markets.change({60 + 60 * (i // 100): float(i)})
            if i % 50 == 0:
                await trio.lowlevel.checkpoint()
                served.hub.flush()
        before = served.hub.statistics()
        assert before.conflated > 1000
        chart, data = Chart(), b""
        while chart.seq < served.markets.seq:
            data += await trio.to_thread.run_sync(lambda: slow.recv(65536))
            chart = Chart()
            for _, payload in frames(data):
                chart.take(msgspec.json.decode(payload))
        slow.close()
        assert chart.snapshots == [None]
        assert {time: bar["close"] for time, bar in chart.bars.items()} == {
            time: bar.close for time, bar in served.markets.stream().bars.items()
        }


async def test_what_waits_for_one_connection_is_bounded_over_all_its_streams() -> None:
    async with serving(MemoryMarkets(*(f"M{i}" for i in range(20))), pending_bytes=100_000) as served:
        slow = await a_stalled_reader(served.port, *(subscribing(symbol=f"M{i}") for i in range(20)))
        await until(lambda: served.hub.statistics().subscriptions == 20)
        for round in range(60):
            for i in range(20):
                served.markets.change({60 * (round * 20 + k): 1.0 for k in range(20)}, symbol=f"M{i}")
            await trio.lowlevel.checkpoint()
            served.hub.flush()
            waiting = sum(
                len(subscription._slots)
                for i in range(20)
                for subscription in served.markets.stream(f"M{i}").topic.subscriptions
            )
            assert waiting < 500
        assert served.hub.statistics().lagged >= 20
        slow.close()


async def test_a_client_that_asks_without_reading_waits_for_itself() -> None:
    async with serving(messages_per_second=1000) as served:
        served.markets.change({60 * i: 1.0 for i in range(5000)})
        greedy = await a_stalled_reader(served.port, *[subscribing(snapshot_bars=5000)] * 50)
        await until(lambda: served.hub.statistics().subscriptions == 1)
        await trio.sleep(0.2)
        (subscription,) = served.markets.stream().topic.subscriptions
        sink = subscription.sink
        assert isinstance(sink, Outbox)
        assert 0 < sink.pending < 1_000_000
        greedy.close()


async def test_a_socket_that_takes_nothing_is_closed_with_1013() -> None:
    async with serving(stalled_seconds=0.3, pending_frames=10) as served:
        served.markets.change({60 * i: 1.0 for i in range(3000)})
        slow = await a_stalled_reader(served.port, subscribing(snapshot_bars=5000))
        await until(lambda: served.hub.statistics().subscriptions == 1)
        await trio.sleep(0.8)
        heard = await trio.to_thread.run_sync(lambda: read_all(slow))
    told = frames(heard)
    assert told[-1][0] == 8
    assert int.from_bytes(told[-1][1][:2], "big") == 1013
    assert served.hub.statistics().dropped == 1


async def test_a_socket_that_never_takes_anything_is_dropped() -> None:
    async with serving(stalled_seconds=0.1, dead_seconds=60) as served:
        served.markets.change({60 * i: 1.0 for i in range(3000)})
        slow = await a_stalled_reader(served.port, subscribing(snapshot_bars=5000))
        await until(lambda: served.hub.statistics().subscriptions == 1)
        await until(lambda: not served.markets.stream().topic.subscriptions)
        slow.close()
    assert served.hub.statistics().dropped == 1


async def test_a_new_epoch_resets_every_stream() -> None:
    async with serving() as served, served.connect() as client:
        chart = Chart()
        served.markets.change({60: 1.0})
        await client.follow(chart)
        chart.take(await client.hear())
        served.markets.epoch = "next"
        served.markets.stream().topic.reset("next", 2)
        chart.take(await client.hear())
        assert (chart.epoch, chart.snapshots) == ("next", [None, "reset"])
        served.markets.change({60: 2.0})
        chart.take(await client.hear())
        assert chart.bars[60]["close"] == 2.0


async def test_a_publish_of_many_bars_at_once_arrives_whole() -> None:
    async with serving() as served, served.connect() as client:
        chart = Chart()
        await client.follow(chart)
        served.markets.change({60 * i: float(i) for i in range(900)})
        await client.catch_up(chart, served.markets.seq)
        assert len(chart.bars) == 900
        served.markets.change({60 * i: float(i) + 1 for i in range(2000)})
        await client.catch_up(chart, served.markets.seq)
        assert chart.snapshots == [None, "lagged"]


Changes = st.lists(
    st.tuples(
        st.dictionaries(st.integers(0, 12).map(lambda i: 60 * i), st.integers(1, 9).map(float), max_size=4),
        st.sets(st.integers(0, 12).map(lambda i: 60 * i), max_size=2),
        st.sampled_from(["", "", "", "cut", "read"]),
        st.booleans(),
    ),
    max_size=40,
)


@given(steps=Changes, conflate=st.sampled_from([0, 0, 5]), limit=st.sampled_from([3, 1000]))
@settings(deadline=None, max_examples=40)
async def test_whatever_happens_a_client_ends_with_the_streams_bars(
    steps: list[tuple[dict[int, float], set[int], str, bool]], conflate: int, limit: int
) -> None:
    async with serving(pending_frames=limit) as served, AsyncExit() as current:
        chart = Chart()
        served.markets.change({60: 1.0})
        await current.reconnect(served, chart, conflate)
        for closes, gone, act, pause in steps:
            gone = {time for time in gone if time in served.markets.stream().bars and time not in closes}
            if closes or gone:
                served.markets.change(closes, gone)
            if pause:
                await trio.lowlevel.checkpoint()
            if act == "read" and chart.seq < served.markets.seq:
                chart.take(await current.client.hear())
            if act == "cut":
                await current.reconnect(served, chart, conflate)
        await current.client.catch_up(chart, served.markets.seq)
        # Whoever resumes at the end of the stream finds nothing new there.
        await current.reconnect(served, chart, conflate)
        assert chart.recovered[-1]
        assert {time: bar["close"] for time, bar in chart.bars.items()} == {
            time: bar.close for time, bar in served.markets.stream().bars.items()
        }


class AsyncExit:
    """Holds the present connection of a client that is cut off again and again."""

    client: Client

    async def __aenter__(self) -> "AsyncExit":
        self._open: Any = None
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._open:
            await self._open.__aexit__(None, None, None)

    async def reconnect(self, served: Served, chart: Chart, conflate: int) -> None:
        await self.__aexit__()
        self._open = served.connect()
        self.client = await self._open.__aenter__()
        await self.client.follow(chart, conflate_ms=conflate)
