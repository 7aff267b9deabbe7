"""The bars that a market's channels tell are those that every other door tells."""

import json
import time
from http.client import HTTPConnection
from typing import Any

from tests.pusher.conftest import Ours, trade
from tests.pusher_client import talking


def history(ours: Ours, resolution: str, time: int) -> dict[str, Any]:
    """One bar."""
    connection = HTTPConnection("127.0.0.1", ours.port, timeout=10)
    query = f"symbol=CORN&resolution={resolution}&from={time}&to={time + 1}"
    connection.request("GET", f"/api/tradingview/history?{query}")
    found = json.loads(connection.getresponse().read())
    connection.close()
    return {name: found[short][0] for name, short in zip(NAMES, "tohlcv", strict=True)}


NAMES = ("time", "open", "high", "low", "close", "volume")


async def test_prices_and_bars_are_those_of_history(ours: Ours) -> None:
    second = int(time.time()) - 1
    await trade(ours, "CORN", 5, second - 120)
    async with talking(ours.port) as client:
        await client.subscribe("market-CORN-1m")
        assert [bar["close"] for bar in (await client.hear())["data"]["data"]] == [5]
        await client.subscribe("cache-market-CORN")
        await client.hear()
        for paid in (10, 12.5, 9):
            await trade(ours, "CORN", paid, second)
        await trade(ours, "CORN", 99, second - 60)  # late: another bar, and no news of the price
        minute = second // 60 * 60
        price: dict[str, Any] = {}
        told: dict[int, dict[str, Any]] = {}
        while not (price.get("low") == 9 and told.get(minute, {}).get("low") == 9 and minute - 60 in told):
            heard = await client.hear()
            if heard["event"] == "price-update":
                assert heard["data"]["timestamp"] == second
                price = heard["data"]
            elif heard["event"] == "bar":
                told[heard["data"]["data"]["time"]] = heard["data"]["data"]
        assert {**price, "time": price["timestamp"]} == {**price, **history(ours, "1S", second)}
        for bar in (told[minute], told[minute - 60]):
            assert bar == {**bar, **history(ours, "1", bar["time"])}
