"""What a market costs now, as it is told."""

from pathlib import Path

import pytest

from tests.web.conftest import NOW, Web, serving

HOUR, DAY = 3600, 86400


def said(second: int, price: float, **more: object) -> dict[str, object]:
    usual = {"market_symbol": "PERP", "event_type": "PositionOpened", "size": 2, "is_long": True}
    return {**usual, "timestamp": (NOW + second) * 1000, "price": price, **more}


EVENTS = [
    said(-2 * DAY, 80),
    said(-DAY - HOUR, 90, user_address="0x01"),
    said(-3 * HOUR, 120, user_address="0x02", funding_rate=0.0001, open_interest=500),
    said(-HOUR - 90, 110, user_address="0x03"),
    said(-200, 99, size="0.5", user_address="0x02", is_long=False),
    {
        "market_symbol": "PERP",
        "event_type": "PriceUpdated",
        "price_type": "index",
        "price": 100.25,
        "timestamp": NOW * 1000,
    },
    said(-10, 100, size=1, user_address="0x02", total_long_size=30, total_short_size=20, bid_ask_spread=0.05),
    said(-9, 100, size=1, user_address="0x02", market_depth=12345.5),
]
TOLD = {
    "market_symbol": "PERP",
    "timestamp": NOW * 1000,
    "mark_price": 100,
    "index_price": 100.25,
    "funding_rate": 0.0001,
    "volume_1m": 2,
    "volume_5m": 2.5,
    "volume_1h": 2.5,
    "volume_24h": 6.5,
    "turnover_24h": 120 * 2 + 110 * 2 + 99 * 0.5 + 200,
    "trades_24h": 5,
    "open_interest": 500,
    "long_short_ratio": 1.5,
    "price_1h_ago": 110,
    "price_24h_ago": 90,
    "price_change_1h": -9.09090909090909,
    "price_change_24h": 11.1111111111111,
    "high_24h": 120,
    "low_24h": 99,
    "volatility_24h": 31.8643691364248,
    "bid_ask_spread": 0.05,
    "market_depth": 12345.5,
    "active_traders_1h": 1,
    "active_traders_24h": 2,
    "market_cap": 2100000000,
}


@pytest.mark.parametrize("state", ["live", "restarted"])
async def test_every_column_of_a_live_price_carries_what_was_posted(tmp_path: Path, state: str) -> None:
    async with serving(tmp_path / "data") as web:
        await web.market("PERP", kind="perp", supply="21000000")
        answer = await (await web.post("/api/ingest/events", json=EVENTS, headers=await web.key("ingest"))).get_json()
        assert answer["accepted"] == len(EVENTS), answer
        found = await web.json("/api/markets/perp/price")
        assert found.pop("cursor") == answer["cursor"]
    if state == "restarted":
        async with serving(tmp_path / "data") as web:
            found = await web.json("/api/markets/perp/price")
            del found["cursor"]
    del found["market_id"]
    assert found == TOLD


async def test_a_market_without_events_has_no_price_and_says_so(web: Web) -> None:
    found = await web.json("/api/markets/GOLD/price")
    assert (
        found["mark_price"] is found["price_change_24h"] is found["market_cap"] is found["active_traders_24h"] is None
    )
    assert (found["volume_24h"], found["trades_24h"]) == (0, 0)
    assert (await web.get("/api/markets/SILVER/price")).status_code == 404


async def test_the_windows_move_with_the_clock_though_nothing_is_traded(web: Web) -> None:
    await web.trades((NOW - 30, 50, 4), (NOW - 10, 60, 1))
    assert (await web.json("/api/markets/GOLD/price"))["volume_1m"] == 5
    web.clock.now += 45
    assert (await web.json("/api/markets/GOLD/price"))["volume_1m"] == 1
    web.clock.now += 2 * HOUR
    found = await web.json("/api/markets/GOLD/price")
    assert (found["volume_1m"], found["volume_5m"], found["volume_1h"], found["volume_24h"]) == (0, 0, 0, 5)
    assert (found["price_1h_ago"], found["price_change_1h"], found["price_24h_ago"]) == (60, 0, None)
    web.clock.now += DAY
    found = await web.json("/api/markets/GOLD/price")
    assert (found["volume_24h"], found["price_24h_ago"], found["mark_price"]) == (0, 60, 60)
