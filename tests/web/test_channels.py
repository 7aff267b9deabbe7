"""`/ws`: live prices, trades, what moves in the market."""

import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from actors import live, tape
from storage.errors import Unavailable
from tests.web.conftest import NOW
from tests.web.streaming import Streaming, rows, streaming
from tests.web.test_stream import until
from tests.ws_client import Client, a_stalled_reader, frames


async def price(streaming: Streaming, symbol: str = "GOLD") -> dict[str, Any]:
    """What REST answers, as a row of the channel."""
    told = await streaming.web.json(f"/api/markets/{symbol}/price")
    for name in ("market_symbol", "cursor"):
        del told[name]
    return {"symbol": symbol, **told}


def merged(state: dict[str, dict[str, Any]], found: list[dict[str, Any]]) -> None:
    for row in found:
        state.setdefault(row["symbol"], {}).update(row)


async def hear_until(client: Client, state: dict[str, dict[str, Any]], symbol: str, field: str, value: object) -> None:
    while state.get(symbol, {}).get(field) != value:
        merged(state, await rows(client))


async def test_live_prices_begin_complete_and_go_on_with_what_changed(tmp_path: Path) -> None:
    async with streaming(tmp_path) as served, served.connect() as client:
        await served.web.market("BTC")
        await served.web.trades((NOW - 7200, 90), (NOW - 5, 100, 2))
        answer = await client.ask(action="subscribe", channel="prices", symbols=["gold", "BTC"], id=1)
        assert answer == {"type": "subscribed", "channel": "prices", "symbols": ["GOLD", "BTC"], "id": 1}
        first = await client.hear()
        assert (first["type"], first["full"]) == ("prices", True)
        state: dict[str, dict[str, Any]] = {}
        merged(state, first["data"])
        seq = {symbol: row.pop("seq") for symbol, row in state.items()}
        assert state == {"GOLD": await price(served), "BTC": await price(served, "BTC")}
        assert state["GOLD"]["mark_price"] == 100
        await served.web.trades((NOW - 3, 110, 3))
        (row,) = await rows(client)
        assert (row["symbol"], row["mark_price"], row["volume_1m"]) == ("GOLD", 110, 5)
        assert "price_1h_ago" not in row
        assert row["seq"] > seq["GOLD"]
        merged(state, [row])
        del state["GOLD"]["seq"]
        assert state["GOLD"] == await price(served)


async def test_live_prices_slide_with_the_clock_alone(tmp_path: Path) -> None:
    async with streaming(tmp_path) as served, served.connect() as client:
        await served.web.trades((NOW - 59, 100, 2))
        await client.ask(action="subscribe", channel="prices", symbols=["GOLD"])
        state: dict[str, dict[str, Any]] = {}
        merged(state, await rows(client))
        assert state["GOLD"]["volume_1m"] == 2
        served.clock.now += 5
        await hear_until(client, state, "GOLD", "volume_1m", 0)


async def test_a_trade_that_is_taken_back_takes_its_price_with_it(tmp_path: Path) -> None:
    async with streaming(tmp_path) as served, served.connect() as client:
        await served.web.trades((NOW - 59, 100, 2))
        event = {"market_symbol": "GOLD", "timestamp": (NOW - 1) * 1000, "price": 105, "size": 1, "trade_id": 7}
        await served.stack.intake.submit(msgspec.json.encode([event]), "application/json")
        await client.ask(action="subscribe", channel="prices", symbols=["GOLD"])
        state: dict[str, dict[str, Any]] = {}
        await hear_until(client, state, "GOLD", "mark_price", 105)
        await served.stack.intake.submit(msgspec.json.encode([{**event, "removed": True}]), "application/json")
        await hear_until(client, state, "GOLD", "mark_price", 100)
        state["GOLD"].pop("seq")
        assert state["GOLD"] == await price(served)


async def test_whoever_follows_all_prices_is_told_of_each_market_that_moved_once_a_second(tmp_path: Path) -> None:
    async with streaming(tmp_path) as served, served.connect() as client:
        await served.web.market("BTC")
        await served.web.trades((NOW - 5, 100))
        await served.stack.writer.flushed(served.stack.engine.committed())
        assert (await client.ask(action="subscribe", channel="prices", symbols="*"))["symbols"] == "*"
        first = await client.hear()
        assert first["full"]
        assert [row["symbol"] for row in first["data"]] == ["GOLD"]
        for n in range(20):
            await served.web.trades((NOW - 4, 101 + n), symbol="BTC")
            await served.web.trades((NOW - 4, 101 + n))
        began = trio.current_time()
        state: dict[str, dict[str, Any]] = {}
        count = 0
        while state.get("BTC", {}).get("mark_price") != 120 or state.get("GOLD", {}).get("mark_price") != 120:
            merged(state, await rows(client))
            count += 1
        assert count <= trio.current_time() - began + 2
        # A market that was not there at first came with all its fields.
        state["BTC"].pop("seq")
        assert state["BTC"] == await price(served, "BTC")
        answer = await client.ask(action="unsubscribe", channel="prices", id="x")
        assert answer == {"type": "unsubscribed", "channel": "prices", "id": "x"}
        assert served.stack.engine.live.followed == 0
        assert served.stack.hub.statistics().subscriptions == 0


async def test_one_encoding_serves_every_follower_of_a_market(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with streaming(tmp_path) as served, served.connect() as one, served.connect() as other:
        await served.web.trades((NOW - 5, 100))
        for client in (one, other):
            await client.ask(action="subscribe", channel="prices", symbols=["GOLD"])
            await rows(client)
        encoded: list[str] = []
        wires = list(served.stack.engine.live._wires)
        assert len(wires) == 1
        word = type(wires[0]).row

        def counted(self: Any, symbol: str, *more: Any) -> bytes:
            encoded.append(symbol)
            return word(self, symbol, *more)

        monkeypatch.setattr(type(wires[0]), "row", counted)
        await served.web.trades((NOW - 4, 101))
        assert await rows(one) == await rows(other)
        assert encoded == ["GOLD"]


async def test_symbols_are_added_and_left_one_by_one(tmp_path: Path) -> None:
    async with streaming(tmp_path) as served, served.connect() as client:
        await served.web.market("BTC")
        await client.ask(action="subscribe", channel="prices", symbols=["GOLD"])
        assert [row["symbol"] for row in await rows(client)] == ["GOLD"]
        await client.ask(action="subscribe", channel="prices", symbols=["BTC"])
        assert [row["symbol"] for row in await rows(client)] == ["BTC"]
        assert (await client.ask(action="unsubscribe", channel="prices", symbols=["GOLD"]))["type"] == "unsubscribed"
        await served.web.trades((NOW - 5, 100))
        await served.web.trades((NOW - 5, 100), symbol="BTC")
        assert [row["symbol"] for row in await rows(client)] == ["BTC"]
        await client.ask(action="unsubscribe", channel="prices", symbols=["BTC"])
        assert served.stack.engine.live.followed == 0


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"channel": "prices", "symbols": ["GOLD", "GLOD"]}, "unknown_symbol"),
        ({"channel": "prices", "symbols": []}, "invalid_message"),
        ({"channel": "prices"}, "invalid_message"),
        ({"channel": "prices", "symbols": "GOLD"}, "invalid_message"),
        ({"channel": "trades", "symbol": "GLOD"}, "unknown_symbol"),
        ({"channel": "trades", "symbol": "GOLD", "limit": 501}, "invalid_message"),
        ({"channel": "trades"}, "invalid_message"),
    ],
)
async def test_what_cannot_be_followed_is_an_error_and_follows_nothing(
    tmp_path: Path, message: dict[str, object], code: str
) -> None:
    async with streaming(tmp_path) as served, served.connect() as client:
        answer = await client.ask(action="subscribe", **message)
        assert (answer["type"], answer["code"]) == ("error", code), answer
        assert served.stack.hub.statistics().subscriptions == 0
        assert served.stack.engine.live.followed == 0


async def test_a_reader_of_prices_that_stalls_keeps_two_numbers_and_gets_the_newest_state(tmp_path: Path) -> None:
    async with streaming(tmp_path) as served, served.connect() as beside:
        await served.web.trades((NOW - 100, 1))
        follow = {"action": "subscribe", "channel": "prices", "symbols": ["GOLD"]}
        await beside.ask(**follow)
        await rows(beside)
        slow = await a_stalled_reader(served.port, msgspec.json.encode(follow))
        await until(lambda: served.stack.hub.statistics().subscriptions == 2)
        (face,) = served.stack.engine.live._faces.values()
        stalled = of(slow, face.followers)
        sink, stalled.sink = stalled.sink, Full()
        state: dict[str, dict[str, Any]] = {}
        for n in range(3):
            await served.web.trades((NOW - 50 + n, 2 + n))
            await hear_until(beside, state, "GOLD", "mark_price", 2 + n)
        stalled.sink = sink
        sink.ask(stalled)
        served.stack.hub.flush()
        told = await said(slow, 3)
        assert [message["type"] for message in told] == ["subscribed", "prices", "prices"]
        (row,) = told[2]["data"]
        assert (row["mark_price"], row["volume_1m"]) == (4, 3)
        assert "market_id" not in row
        assert served.stack.hub.statistics().conflated == 2


async def test_the_market_channel_speaks_as_documented(tmp_path: Path) -> None:
    async with streaming(tmp_path) as served, served.connect() as client:
        await served.web.trades((NOW - 2 * 86400, 80), (NOW - 5, 100, 2))
        await served.stack.writer.flushed(served.stack.engine.committed())
        assert await client.ask(action="subscribe", channel="market") == {"type": "subscribed", "channel": "market"}
        assert await client.hear() == {
            "type": "market_update",
            "data": {
                "timestamp": NOW,
                "full": True,
                "movers": [{"symbol": "GOLD", "price": 100.0, "change_24h": 25.0, "volume_24h": 2.0}],
            },
        }
        await served.web.trades((NOW - 4, 120, 1))
        assert await client.hear() == {
            "type": "market_update",
            "data": {
                "timestamp": NOW,
                "movers": [{"symbol": "GOLD", "price": 120.0, "change_24h": 50.0, "volume_24h": 3.0}],
            },
        }
        # Again: answered again, and delivered once.
        assert (await client.ask(action="subscribe", channel="market"))["type"] == "subscribed"
        assert (await client.hear())["data"]["full"]
        assert served.stack.hub.statistics().subscriptions == 1
        assert await client.ask(action="unsubscribe", channel="market") == {"type": "unsubscribed", "channel": "market"}
        await served.web.trades((NOW - 3, 130, 1))
        assert await client.ask(action="ping") == {"type": "pong"}


async def test_trades_begin_with_the_newest_and_go_on_with_each(tmp_path: Path) -> None:
    async with streaming(tmp_path) as served, served.connect() as client:
        await served.web.trades((NOW - 9, 1), (NOW - 7, 3), (NOW - 8, 2))
        await served.stack.writer.flushed(served.stack.engine.committed())
        events = [
            {"market_symbol": "GOLD", "timestamp": 1000 * (NOW - 6) + 7, "price": "4.5", "size": 2, "side": "sell"},
            {"market_symbol": "GOLD", "timestamp": 1000 * (NOW - 6), "price": 9, "event_type": "PriceUpdated"},
        ]
        await served.stack.intake.submit(
            msgspec.json.encode([{**events[0], "trade_id": "a-7"}, events[1]]), "application/json"
        )
        answer = await client.ask(action="subscribe", channel="trades", symbol="gold", limit=3, id=4)
        assert answer == {"type": "subscribed", "channel": "trades", "symbol": "GOLD", "id": 4}
        first = await client.hear()
        assert (first["type"], first["symbol"], first["dropped"]) == ("trades", "GOLD", 0)
        assert [trade["price"] for trade in first["data"]] == [2, 3, 4.5]
        assert first["data"][-1] == {
            "time": 1000 * (NOW - 6) + 7,
            "price": 4.5,
            "size": 2.0,
            "side": "sell",
            "id": "a-7",
        }
        await served.web.trades((NOW - 5, 5), (NOW - 4, 6))
        assert [trade["price"] for trade in await rows(client, "trades")] == [5, 6]
        assert (await client.ask(action="unsubscribe", channel="trades", symbol="GOLD"))["type"] == "unsubscribed"
        await served.web.trades((NOW - 3, 7))
        assert await client.ask(action="ping") == {"type": "pong"}
        assert not served.stack.engine.tapes._tapes


async def test_the_newest_trades_are_found_wherever_they_lie(tmp_path: Path) -> None:
    async with streaming(tmp_path) as served, served.connect() as client:
        trades = [(NOW - 900 + n, 1 + n) for n in range(30)]
        await served.web.trades(*trades[:20])
        await served.stack.writer.flushed(served.stack.engine.committed())
        await served.stack.sealing.run()
        await served.web.trades(*trades[20:25])
        await served.stack.writer.flushed(served.stack.engine.committed())
        await served.web.trades(*trades[25:])
        await client.ask(action="subscribe", channel="trades", symbol="GOLD", limit=20)
        assert [trade["price"] for trade in await rows(client, "trades")] == [1 + n for n in range(10, 30)]


async def test_a_slow_reader_of_trades_loses_the_oldest_and_is_told_how_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tape, "KEPT", 5)
    async with streaming(tmp_path) as served, served.connect() as beside:
        follow = {"action": "subscribe", "channel": "trades", "symbol": "GOLD"}
        slow = await a_stalled_reader(served.port, msgspec.json.encode(follow))
        await until(lambda: served.stack.hub.statistics().subscriptions == 1)
        await beside.ask(**follow)
        (followed,) = served.stack.engine.tapes._tapes.values()
        stalled = of(slow, followed.followers)
        sink, stalled.sink = stalled.sink, Full()
        for n in range(8):
            await served.web.trades((NOW - 50 + n, 1 + n))
            assert [trade["price"] for trade in await rows(beside, "trades")] == [1 + n]
        stalled.sink = sink
        sink.ask(stalled)
        served.stack.hub.flush()
        told = await said(slow, 2)
        assert told[1]["dropped"] == 3
        assert [trade["price"] for trade in told[1]["data"]] == [4, 5, 6, 7, 8]


class Full:
    """A connection that takes nothing."""

    touched = open = ended = False

    def ask(self, source: object) -> None:
        """It has no room."""


def of(peer: socket.socket, followers: Iterable[Any]) -> Any:
    """The subscription of this peer's connection."""
    return next(one for one in followers if one.sink._raw.getpeername() == peer.getsockname())


async def said(peer: socket.socket, count: int) -> list[dict[str, Any]]:
    """The first messages that a peer reads."""
    peer.settimeout(5)
    data = b""
    while len(frames(data)) < count:
        data += await trio.to_thread.run_sync(peer.recv, 65536)
    peer.close()
    return [msgspec.json.decode(payload) for _, payload in frames(data)]


async def test_a_market_that_cannot_be_read_is_followed_all_the_same_and_told_once_it_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "AGAIN", 0.05)
    async with streaming(tmp_path) as served, served.connect() as client:
        await served.web.trades((NOW - 5, 100))
        real = served.stack.engine.tickers

        async def broken(*_: object) -> dict[int, object]:
            for ticker in served.stack.engine._tickers.values():
                ticker.doubt()
            raise Unavailable("a file is missing")

        await client.ask(action="subscribe", channel="prices", symbols=["GOLD"])
        state: dict[str, dict[str, Any]] = {}
        merged(state, await rows(client))
        monkeypatch.setattr(served.stack.engine, "tickers", broken)
        answer = await client.ask(action="subscribe", channel="prices", symbols=["GOLD"])
        assert answer["code"] == "unavailable"
        await served.web.trades((NOW - 4, 101))
        await until(lambda: any(face.failed for face in served.stack.engine.live._faces.values()))
        monkeypatch.setattr(served.stack.engine, "tickers", real)
        await hear_until(client, state, "GOLD", "mark_price", 101)
