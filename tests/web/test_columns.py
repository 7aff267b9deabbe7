"""Every column and every endpoint that candled was to have: what is posted is read back, known and not null."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.web.conftest import NOW, Web, serving
from tests.web.test_markets import ALL

SHARED = Path(__file__).parents[3] / "shared" / "seeds"
MINUTE = NOW - 120
USUAL = ("tier", "price_source", "session", "timezone", "pricescale", "minmov")  # what a market need not say
MARKET: dict[str, object] = {
    **{name: value for name, value in ALL.items() if name not in USUAL},
    "market_id": 7,
    "market_symbol": "OIL",
}
OPENED: dict[str, object] = {
    "contractAddress": MARKET["contract_address"],
    "chainId": 137,
    "timestamp": MINUTE * 1000 + 250,
    "blockNumber": 500,
    "transactionHash": "0xaa",
    "logIndex": 3,
    "eventType": "PositionOpened",
    "price": "80.5",
    "price_type": "mark",
    "volume": 4,
    "size": 5,
    "fee": "0.25",
    "user": "0xa1",
    "positionId": "99",
    "isLong": True,
    "leverage": 10,
    "pnl": -3,
    "total_long_size": 30,
    "total_short_size": 20,
    "open_interest": 500,
    "funding_rate": "0.0001",
    "index_price": "80.25",
    "bid_ask_spread": "0.05",
    "market_depth": 12345,
}
CLOSED = {
    **{name: OPENED[name] for name in ("contractAddress", "chainId")},
    "timestamp": MINUTE * 1000 + 900,
    "blockNumber": 501,
    "transactionHash": "0xbb",
    "logIndex": 0,
    "eventType": "PositionClosed",
    "price": 79,
    "size": 1,
    "fee": 1,
    "user": "0xa2",
    "isLong": False,
}
LIQUIDATED = {
    **{name: OPENED[name] for name in ("contractAddress", "chainId")},
    "timestamp": MINUTE * 1000 + 950,
    "blockNumber": 502,
    "transactionHash": "0xcc",
    "logIndex": 1,
    "eventType": "PositionLiquidated",
    "price": 78,
    "price_type": "liquidation",
    "size": 2,
    "user": "0xa1",
}
BEFORE = [
    {"market_symbol": "OIL", "event_type": "PositionOpened", "timestamp": (NOW - ago) * 1000, "price": price, "size": 1}
    for ago, price in ((90_000, 70), (3700, 75))
]

TRANSACTION = {
    "market_symbol": "OIL",
    "timestamp": "2026-01-05T08:58:00.250000Z",
    "block_number": 500,
    "transaction_hash": "0xaa",
    "log_index": 3,
    "price": "80.5",
    "price_type": "mark",
    "volume": "4",
    "size": "5",
    "fee": "0.25",
    "user_address": "0xa1",
    "position_id": "99",
    "side": "buy",  # is_long
    "leverage": "10",
    "pnl": "-3",
    "total_long_size": "30",
    "total_short_size": "20",
    "open_interest": "500",
    "funding_rate": "0.0001",
    "event_type": "PositionOpened",
    "chain_id": 137,
}
BAR = {
    "timestamp": MINUTE,
    "open": 80.5,
    "high": 80.5,
    "low": 79,
    "close": 79,
    "volume": 5,
    "trades_count": 2,
    "vwap": 80.2,
    "total_fees": 1.25,
    "unique_traders": 2,
    "buy_volume": 4,
    "sell_volume": 1,
    "long_trades": 1,
    "short_trades": 1,
    "liquidation_volume": 2,
    "liquidation_count": 1,
    "funding_rate": 0.0001,
    "open_interest": 500,
}
STATE = {
    "current_price": 79,
    "price_24h_ago": 70,
    "volume_24h": 6,
    "trades_24h": 3,
    "open_interest": 500,
    "market_cap": 79_000_000,
    "tier": "tier3",
    "last_updated": MINUTE * 1000 + 900,
}
PRICE = {
    "market_id": 7,
    "market_symbol": "OIL",
    "timestamp": NOW * 1000,
    "mark_price": 79,
    "index_price": 80.25,
    "funding_rate": 0.0001,
    "volume_1m": 0,
    "volume_5m": 5,
    "volume_1h": 5,
    "open_interest": 500,
    "long_short_ratio": 1.5,
    "price_change_1h": 5.33333333333333,
    "price_change_24h": 12.8571428571429,
    "volatility_24h": 8.63,
    "bid_ask_spread": 0.05,
    "market_depth": 12345,
    "active_traders_1h": 2,
    "active_traders_24h": 2,
}
# Those of the tables that go by another name, or are parts of another.
ELSEWHERE = {
    "vamm_market_transactions": {"market_id", "contract_address", "is_long", "day", "hour", "minute"},
    "vamm_ohlcv_1s": {"market_id", "market_symbol", "unix_timestamp", "day"},
    "vamm_markets": set(),
    "vamm_live_prices": set(),
}


async def told(web: Web) -> str:
    """Post everything; the cursor."""
    web.headers = await web.key("admin")
    assert (await web.post("/api/markets", json=MARKET)).status_code == 201
    answer = await web.post("/api/ingest/events", json=[OPENED, CLOSED, LIQUIDATED, *BEFORE])
    found = await answer.get_json()
    assert found["accepted"] == 5, found
    await web.stack.writer.flushed(web.stack.engine.committed())
    return str(found["cursor"])


async def rows(web: Web, path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (await (await web.get(path)).get_data(as_text=True)).splitlines()]


def holds(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert {name: found.get(name) for name in expected} == expected


@pytest.mark.parametrize("state", ["live", "sealed and restarted"])
async def test_every_column_is_read_back(tmp_path: Path, state: str) -> None:
    async with serving(tmp_path / "data", tier_turnover=(1e6, 1e5, 400.0)) as web:
        await told(web)
        if state == "live":
            await see(web)
            return
        await web.stack.sealing.run()
        (file,) = web.stack.sealing.files
        assert file.events == 5
    async with serving(tmp_path / "data", tier_turnover=(1e6, 1e5, 400.0)) as web:
        web.headers = await web.key("admin")
        ((kept,),) = await web.stack.database.read(lambda db: db.execute("SELECT count(*) FROM ledger").fetchall())
        assert kept == 0, "events are in sealed files alone"
        await see(web)


async def see(web: Web) -> None:
    (event,) = (
        row for row in await rows(web, "/api/export/events?symbol=OIL&format=ndjson") if row.get("log_index") == 3
    )
    holds(event, TRANSACTION)
    bars = await rows(web, "/api/export/bars?symbol=OIL&resolution=1s&format=ndjson")
    bar = bars[-1]
    holds({**bar, "timestamp": bar["time"]}, BAR)
    light = await web.json(f"/api/lightweight/ohlcv?symbol=OIL&timeframe=1s&from={MINUTE}&to={MINUTE + 1}&fields=all")
    holds({**light["data"][0], "timestamp": light["data"][0]["timestamp"]}, BAR)
    listed = (await web.json("/api/markets"))["markets"]
    for market in (await web.json("/api/markets/OIL"), next(one for one in listed if one["market_id"] == 7)):
        holds(market, {**MARKET, **STATE})
    price = await web.json("/api/markets/OIL/price")
    assert price.pop("volatility_24h") > 0
    holds(price, {name: value for name, value in PRICE.items() if name != "volatility_24h"})


async def test_every_endpoint_answers_with_what_was_posted(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", tier_turnover=(1e6, 1e5, 400.0)) as web:
        await told(web)
        for query in ENDPOINTS:
            found = await web.json(query)
            for path, expected in ENDPOINTS[query].items():
                value = found
                for step in path.split("."):
                    value = value[int(step) if step.lstrip("-").isdigit() else step]
                assert value == expected, (query, path)


ENDPOINTS: dict[str, dict[str, object]] = {
    "/api/charts/health": {"status": "ok"},
    "/api/tradingview/config": {"supports_search": True, "supports_time": True, "supported_resolutions.0": "1S"},
    "/api/tradingview/symbols?symbol=OIL": {"ticker": "OIL", "description": "Oil Futures", "exchange": "VAMM"},
    "/api/tradingview/search?query=OIL&limit=10": {"0.symbol": "OIL", "0.full_name": "VAMM:OIL", "0.type": "crypto"},
    f"/api/tradingview/history?symbol=OIL&resolution=1&from={MINUTE}&to={NOW}": {
        "s": "ok",
        "t": [MINUTE],
        "o": [80.5],
        "h": [80.5],
        "l": [79],
        "c": [79],
        "v": [5],
    },
    f"/api/lightweight/ohlcv?symbol=OIL&timeframe=1m&from={MINUTE}&to={NOW}": {
        "success": True,
        "meta.count": 1,
        "meta.symbol": "OIL",
        "data.0.time": "2026-01-05T08:58:00.000Z",
        **{f"data.0.{name}": BAR[name] for name in ("open", "high", "low", "close", "volume")},
    },
    "/api/lightweight/markets?tier=tier3&limit=50": {
        "success": True,
        "data.0.market_id": 7,
        "data.0.symbol": "OIL",
        "data.0.name": "Oil Futures",
        "data.0.current_price": 79,
        "data.0.price_change_24h": 12.8571428571429,
        "data.0.volume_24h": 6,
        "data.0.market_cap": 79_000_000,
        "data.0.tier": "tier3",
    },
}
SOCKETS = {"/api/tradingview/stream", "/api/lightweight/realtime"}  # their messages have tests of their own


def seeds() -> str:
    if not SHARED.is_dir():
        pytest.skip(f"no documents in {SHARED}")
    return "\n".join(file.read_text("utf-8") for file in sorted(SHARED.iterdir()))


@pytest.mark.parametrize(
    ("table", "known"),
    [
        ("vamm_market_transactions", TRANSACTION),
        ("vamm_ohlcv_1s", BAR),
        ("vamm_markets", {**MARKET, **STATE}),
        ("vamm_live_prices", PRICE),
    ],
)
def test_these_are_all_columns(table: str, known: Sequence[str]) -> None:
    found = re.search(rf"CREATE TABLE {table} \((.*?)\n\)", seeds(), re.DOTALL)
    assert found is not None
    columns = set(re.findall(r"^    (\w+) [A-Z]", found[1], re.MULTILINE))
    assert len(columns) > 15
    assert columns - ELSEWHERE[table] <= set(known)


def test_these_are_all_endpoints() -> None:
    wanted = set(re.findall(r"^(?:GET|WebSocket) (/api/[\w/]+)", seeds(), re.MULTILINE))
    assert wanted - SOCKETS <= {query.partition("?")[0] for query in ENDPOINTS}
