"""`/api/lightweight/realtime` and `/api/tradingview/stream`."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.web.conftest import NOW, decoded
from tests.web.streaming import Streaming, streaming

LIGHTWEIGHT, TRADINGVIEW = "/api/lightweight/realtime", "/api/tradingview/stream"
MINUTE = NOW // 60 * 60


async def numbered(served: Streaming, second: int, price: float, size: float, number: int, **more: object) -> None:
    event = {"market_symbol": "GOLD", "timestamp": second * 1000, "price": price, "size": size, "trade_id": number}
    await served.stack.intake.submit(msgspec.json.encode([{**event, **more}]), "application/json")


async def test_lightweight_gets_the_documented_message(tmp_path: Path) -> None:
    async with streaming(tmp_path) as served, served.connect(f"{LIGHTWEIGHT}?symbol=GOLD") as client:
        await served.web.trades((NOW - 5, 2001.5, 600), (NOW - 5, 2001.5, 400))
        assert await client.hear() == {
            "type": "price_update",
            "symbol": "GOLD",
            "data": {"time": NOW - 5, "price": 2001.5, "volume": 1000},
        }
        await served.web.trades((NOW - 5, 2002, 1))
        assert (await client.hear())["data"] == {"time": NOW - 5, "price": 2002, "volume": 1001}
        assert await client.ask(action="ping") == {"type": "pong"}


async def test_tradingview_gets_the_documented_message(tmp_path: Path) -> None:
    async with streaming(tmp_path) as served, served.connect(f"{TRADINGVIEW}?symbol=GOLD") as client:
        await served.web.trades((NOW - 5, 2001.5, 1000))
        assert await client.hear() == {"symbol": "GOLD", "price": 2001.5, "volume": 1000, "time": NOW - 5}


async def test_the_present_price_is_there_at_once(tmp_path: Path) -> None:
    async with streaming(tmp_path) as served:
        await served.web.trades((NOW - 5, 7, 2))
        await served.web.market("BTC")
        await served.web.trades((NOW - 4, 8, 3), symbol="BTC")
        for query in ("symbol=GOLD&symbol=BTC", "symbol=gold,btc"):
            async with served.connect(f"{LIGHTWEIGHT}?{query}") as client:
                heard = [await client.hear(), await client.hear()]
                assert {message["symbol"]: message["data"]["price"] for message in heard} == {"GOLD": 7, "BTC": 8}


async def test_no_choice_means_every_market(tmp_path: Path) -> None:
    async with streaming(tmp_path) as served:
        await served.web.market("BTC")
        for path, kind in ((LIGHTWEIGHT, "price_update"), (TRADINGVIEW, None)):
            async with served.connect(path) as client:
                await served.web.trades((NOW - 4, 8, 3), symbol="BTC")
                await served.web.trades((NOW - 5, 7, 2))
                heard: list[dict[str, Any]] = []
                while {message["symbol"] for message in heard} != {"GOLD", "BTC"}:
                    heard.append(await client.hear())
                assert {message.get("type") for message in heard} == {kind}


@pytest.mark.parametrize("path", [LIGHTWEIGHT, TRADINGVIEW])
async def test_times_never_go_back_whatever_is_taken_back(tmp_path: Path, path: str) -> None:
    async with streaming(tmp_path) as served:
        await numbered(served, NOW - 60, 100, 1, 1)
        parameter = "timeframe=1m" if path == LIGHTWEIGHT else "resolution=1"
        async with (
            served.connect(f"{path}?symbol=GOLD") as bare,
            served.connect(f"{path}?symbol=GOLD&{parameter}") as bars,
        ):
            for client in (bare, bars):
                assert told(await client.hear()) == (NOW - 60, 100)
            await numbered(served, NOW - 1, 105, 1, 2)
            for client in (bare, bars):
                assert told(await client.hear()) == (NOW - 1, 105)
            await numbered(served, NOW - 1, 105, 1, 2, removed=True)
            heard = await bare.hear()
            assert told(heard) == (NOW - 1, 100)
            await bars.hear()
            await numbered(served, NOW - 30, 101, 1, 3)
            for client in (bare, bars):
                assert told(await client.hear()) == (NOW - 1, 101)


def told(message: dict[str, Any]) -> tuple[int, float]:
    data = message.get("data", message)
    return data["time"], data["price"]


async def test_with_a_timeframe_each_message_has_the_bar_and_says_what_to_do_with_it(tmp_path: Path) -> None:
    async with streaming(tmp_path) as served:
        await numbered(served, MINUTE - 300, 1, 1, 1)
        await numbered(served, MINUTE - 200, 2, 1, 2)
        await numbered(served, MINUTE - 10, 3, 1, 3)
        async with served.connect(f"{LIGHTWEIGHT}?symbol=GOLD&timeframe=1m") as client:
            first = await client.hear()
            assert first["data"] == {"time": MINUTE - 10, "price": 3, "volume": 1}
            assert (first["timeframe"], first["op"]) == ("1m", "upsert")
            wanted = {"time": MINUTE - 60, "open": 3, "high": 3, "low": 3, "close": 3, "volume": 1}
            assert {name: first["bar"][name] for name in wanted} == wanted
            assert first["bar"]["closed"] is False
            await numbered(served, MINUTE - 9, 4, 2, 4)
            heard = await client.hear()
            assert (heard["op"], heard["bar"]["time"], heard["bar"]["close"]) == ("upsert", MINUTE - 60, 4)
            await numbered(served, MINUTE - 200, 5, 2, 5)
            heard = await client.hear()
            assert (heard["op"], heard["bar"]["time"], heard["data"]["price"]) == (
                "amend",
                (MINUTE - 200) // 60 * 60,
                4,
            )
            await numbered(served, MINUTE - 130, 6, 2, 6)
            heard = await client.hear()
            assert (heard["op"], heard["bar"]["time"]) == ("reload", (MINUTE - 130) // 60 * 60)
            await numbered(served, MINUTE - 130, 6, 2, 6, removed=True)
            heard = await client.hear()
            assert heard["op"] == "reload"
            assert "bar" not in heard
            # What was taken back moved no price; and the newest is known again.
            await numbered(served, MINUTE - 1, 9, 2, 7)
            assert told(await client.hear()) == (MINUTE - 1, 9)


async def test_tradingview_gets_bars_of_a_resolution(tmp_path: Path) -> None:
    async with streaming(tmp_path) as served:
        await served.web.trades((MINUTE - 10, 3, 1))
        async with served.connect(f"{TRADINGVIEW}?symbol=GOLD&resolution=1") as client:
            heard = await client.hear()
            assert heard["resolution"] == "1"
            assert (heard["symbol"], heard["price"], heard["time"]) == ("GOLD", 3, MINUTE - 10)
            assert {"time", "open", "high", "low", "close", "volume"} <= set(heard["bar"])


async def test_lightweight_may_choose_by_messages(tmp_path: Path) -> None:
    async with streaming(tmp_path) as served, served.connect(LIGHTWEIGHT) as client:
        await served.web.market("BTC")
        await served.web.trades((NOW - 5, 7, 2))
        await client.hear()
        answer = await client.ask(action="subscribe", symbol="gold", timeframe="5m", id=3)
        assert answer == {"type": "subscribed", "symbol": "GOLD", "timeframe": "5m", "id": 3}
        assert (await client.hear())["timeframe"] == "5m"
        # Whoever chooses is not told of everything any more.
        await served.web.trades((NOW - 4, 8), symbol="BTC")
        await served.web.trades((NOW - 4, 9))
        assert (await client.hear())["data"]["price"] == 9
        answer = await client.ask(action="unsubscribe", symbol="GOLD", timeframe="5m")
        assert answer == {"type": "unsubscribed", "symbol": "GOLD", "timeframe": "5m"}
        await served.web.trades((NOW - 4, 10))
        assert await client.ask(action="ping") == {"type": "pong"}
        assert await client.ask(action="subscribe", symbol="BTC") == {"type": "subscribed", "symbol": "BTC"}
        assert (await client.hear())["data"]["price"] == 8


@pytest.mark.parametrize(
    ("path", "code"),
    [
        (f"{LIGHTWEIGHT}?symbol=GLOD", "unknown_symbol"),
        (f"{LIGHTWEIGHT}?symbol=GOLD&timeframe=1", "unknown_resolution"),
        (f"{LIGHTWEIGHT}?timeframe=1m", "invalid_message"),
        (f"{TRADINGVIEW}?symbol=GOLD&resolution=1m", "unknown_resolution"),
        (f"{LIGHTWEIGHT}?symbol=" + ",".join(["GOLD"] * 3 + ["BTC", "ETH"]), "too_many_subscriptions"),
    ],
)
async def test_a_choice_that_cannot_be_met_is_told_and_the_connection_stays(
    tmp_path: Path, path: str, code: str
) -> None:
    async with streaming(tmp_path, subscriptions=2) as served:
        await served.web.market("BTC")
        await served.web.market("ETH")
        async with served.connect(path) as client:
            answer = await client.hear()
            assert (answer["type"], answer["code"]) == ("error", code)
            assert await client.ask(action="ping") == {"type": "pong"}


@pytest.mark.parametrize("path", [LIGHTWEIGHT, TRADINGVIEW])
async def test_a_plain_request_is_told_to_upgrade(tmp_path: Path, path: str) -> None:
    async with streaming(tmp_path) as served:
        answer = await served.web.get(path)
        assert answer.status_code == 426
        told = decoded(await answer.get_data())
        assert path in str(told)
        if path == LIGHTWEIGHT:
            assert told["error"]["code"] == "upgrade_needed"


async def test_a_connection_that_ends_leaves_nothing_behind(tmp_path: Path) -> None:
    async with streaming(tmp_path) as served:
        for query in ("", "?symbol=GOLD", "?symbol=GOLD&timeframe=1m"):
            async with served.connect(LIGHTWEIGHT + query) as client:
                assert await client.ask(action="ping") == {"type": "pong"}
        async with served.connect() as client:
            await client.ask(action="ping")
            while served.stack.hub.statistics().connections > 1:
                await client.ask(action="ping")
        assert served.stack.hub.statistics().subscriptions == 0
        assert served.stack.engine.live.followed == 0
