"""Sample markets with a made-up history and a live feed, sent in by the same way as everybody's events."""

import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import trio
from numpy.typing import NDArray

from actors.coverage import Coverage
from actors.intake import Intake
from actors.registry import Registry

DAY = 86400
STEP = 5  # seconds between two events of a market in the history
SLOT = 250  # ms; in each a market has one event at most
FEED = "demo"
PAUSE = 0.4  # between two sendings of the live feed
LIVE = 0.45 * 4  # events of a market in a second of the live feed, on average
ARROW = "application/vnd.apache.arrow.stream"
TRADERS = 400
PERIODS = (2.0, 8.0, 30.0, 120.0, 600.0, 3600.0, 4 * 3600.0, DAY, 7 * DAY)  # seconds


@dataclass(frozen=True, slots=True)
class Sample:
    """A market of the demo: its columns, where its price lives, and how much it moves in a day."""

    columns: dict[str, Any]
    price: float
    daily: float  # typical move of a day, as a share of the price
    size: float  # typical size of a trade
    decimals: int


def _columns(number: int, symbol: str, addresses: tuple[str, str, str], creator: str, **rest: Any) -> dict[str, Any]:
    contract, vault, oracle = addresses
    return {
        "market_id": number,
        "market_symbol": symbol,
        "kind": "perp",
        "contract_address": contract,
        "vault_address": vault,
        "oracle_address": oracle,
        "chain_id": 137,
        "base_asset": symbol,
        "quote_asset": "USD",
        "funding_interval": 3600,
        "is_active": True,
        "created_timestamp": 1704067200000 + (number - 1) * 3_600_000,
        "deployment_block": 12345677 + number,
        "creator_address": creator,
        "tier": "tier1",
        **rest,
    }


SAMPLES = (
    Sample(
        _columns(
            1,
            "GOLD",
            ("0x1234...", "0x5678...", "0x9abc..."),
            "0xabcd...",
            name="Gold Futures",
            description="Trade gold price movements",
            category="Commodities",
            min_trade_size="100",
            max_leverage="50",
            trading_fee_rate="0.003",
            icon_url="https://example.com/gold.png",
            banner_url="https://example.com/gold-banner.png",
            website_url="https://goldmarket.com",
            supply="50000",
        ),
        price=2000.0,
        daily=0.02,
        size=400.0,
        decimals=2,
    ),
    Sample(
        _columns(
            2,
            "BTC",
            ("0x2345...", "0x6789...", "0xbcde..."),
            "0xbcde...",
            name="Bitcoin Futures",
            description="Trade Bitcoin price movements",
            category="Crypto",
            min_trade_size="0.001",
            max_leverage="100",
            trading_fee_rate="0.002",
            icon_url="https://example.com/btc.png",
            banner_url="https://example.com/btc-banner.png",
            website_url="https://bitcoin.org",
            supply="20000",
        ),
        price=45000.0,
        daily=0.04,
        size=0.8,
        decimals=1,
    ),
    Sample(
        _columns(
            3,
            "ETH",
            ("0x3456...", "0x789a...", "0xcdef..."),
            "0xcdef...",
            name="Ethereum Futures",
            description="Trade Ethereum price movements",
            category="Crypto",
            min_trade_size="0.01",
            max_leverage="75",
            trading_fee_rate="0.0025",
            icon_url="https://example.com/eth.png",
            banner_url="https://example.com/eth-banner.png",
            website_url="https://ethereum.org",
            supply="120000",
        ),
        price=2500.0,
        daily=0.05,
        size=6.0,
        decimals=2,
    ),
)


async def registered(registry: Registry) -> list[int]:
    """The slots of the samples, which are markets from here on."""
    return [(await registry.put(sample.columns)).slot for sample in SAMPLES]


async def run(slots: list[int], intake: Intake, coverage: Coverage, now: Callable[[], float] = time.time) -> None:
    """Fill the last 24 hours, then feed until cancelled. Sent again, all of it is known."""
    end = int(now())
    for start in range(end - DAY, end, 6 * 3600):
        times = np.arange(start - start % STEP, min(start + 6 * 3600, end), STEP) * 1000
        for sample in SAMPLES:
            await intake.submit(await trio.to_thread.run_sync(body, sample, times, float(STEP)), ARROW, source=FEED)
    await coverage.cover(FEED, [(slot, (end - DAY) * 1_000_000, end * 1_000_000) for slot in slots])
    told = end * 1000
    await coverage.beat(FEED, slots, through=told * 1000)
    while True:
        await trio.sleep(PAUSE)
        instant = int(now() * 1000)
        if instant <= told:
            continue
        for sample in SAMPLES:
            times = _live_times(sample, told, instant)
            if len(times):
                await intake.submit(body(sample, times, 1 / LIVE), ARROW, source=FEED)
        told = instant
        await coverage.beat(FEED, through=(told - SLOT) * 1000)


def _live_times(sample: Sample, after: int, until: int) -> NDArray[np.int64]:
    """The instants (ms) of a market's trades in a stretch of time: about two a second, some seconds without any."""
    slots = np.arange(after // SLOT + 1, until // SLOT + 1)
    number = int(sample.columns["market_id"])
    chosen = slots[noise(slots, 31 * number) < LIVE / 4]
    found: NDArray[np.int64] = chosen * SLOT - 1 - (noise(chosen, 37 * number) * 240).astype(np.int64)
    return found[found > after]


def noise(at: NDArray[np.int64], salt: int) -> NDArray[np.float64]:
    """A number in [0, 1) for every integer, always the same (the finaliser of SplitMix64)."""
    with np.errstate(over="ignore"):
        z = at.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(salt) * np.uint64(0xD1B54A32D192ED03)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    found: NDArray[np.float64] = (z >> np.uint64(11)).astype(np.float64) / 2.0**53
    return found


def prices(sample: Sample, times_ms: NDArray[np.int64]) -> NDArray[np.float64]:
    """The market's price at each instant: noise of many periods, so that it wanders as prices do."""
    seconds = times_ms / 1000
    move = np.zeros(len(times_ms))
    number = int(sample.columns["market_id"])
    for i, period in enumerate(PERIODS):
        at = seconds / period
        left = np.floor(at)
        part = at - left
        part = part * part * (3 - 2 * part)
        before = noise(left.astype(np.int64), 1000 * number + i) - 0.5
        after = noise(left.astype(np.int64) + 1, 1000 * number + i) - 0.5
        move += (before + (after - before) * part) * np.sqrt(period / DAY)
    return np.round(sample.price * np.exp(sample.daily * move), sample.decimals)


def body(sample: Sample, times_ms: NDArray[np.int64], each: float) -> bytes:
    """Contract events of a market at these instants, `each` seconds apart on average, as an Arrow stream."""
    number = int(sample.columns["market_id"])
    kind = noise(times_ms, number + 100)
    event = np.select(
        [kind < 0.46, kind < 0.92, kind < 0.95, kind < 0.99],
        ["PositionOpened", "PositionClosed", "PositionLiquidated", "PriceUpdated"],
        "FundingRateUpdated",
    )
    size = np.round(sample.size * each * (0.01 + 0.4 * noise(times_ms, number + 200) ** 3), 4)
    trades = np.isin(event, ["PositionOpened", "PositionClosed", "PositionLiquidated"])
    price = prices(sample, times_ms)
    fee_rate = float(sample.columns["trading_fee_rate"])
    interest = np.round(1e6 * (5 + number + np.sin(times_ms / 7.2e6)), 2)
    long_share = 0.5 + 0.1 * np.sin(times_ms / 5.1e6 + number)
    trader = (noise(times_ms, number + 300) ** 2 * TRADERS).astype(np.int64)
    table = pa.table(
        {
            "market_symbol": [sample.columns["market_symbol"]] * len(times_ms),
            "timestamp": times_ms,
            "event_type": event.tolist(),
            "price_type": ["mark"] * len(times_ms),
            "price": price,
            "size": np.where(trades, size, np.nan),
            "fee": np.where(trades, np.round(size * price * fee_rate, 6), np.nan),
            "is_long": noise(times_ms, number + 400) < 0.52,
            "user_address": [
                f"0x{one * 7919 + number:040x}" if some else None for one, some in zip(trader, trades, strict=True)
            ],
            "position_id": [str(one) for one in (times_ms // 1000).tolist()],
            "leverage": np.round(2 + 8 * noise(times_ms, number + 500), 1),
            "open_interest": interest,
            "total_long_size": np.round(interest * long_share, 2),
            "total_short_size": np.round(interest * (1 - long_share), 2),
            "index_price": np.round(price * (1 + 2e-4 * (noise(times_ms, number + 600) - 0.5)), sample.decimals),
            "funding_rate": np.where(event == "FundingRateUpdated", np.round(1e-4 * (kind - 0.985) * 100, 8), np.nan),
            "chain_id": np.full(len(times_ms), 137),
            "block_number": 12345678 + times_ms // 2000,
            "transaction_hash": [f"0x{number:02x}{one:062x}" for one in times_ms.tolist()],
            "log_index": np.full(len(times_ms), number),
        }
    )
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(_without_nan(table))
    return sink.getvalue()


def _without_nan(table: pa.Table) -> pa.Table:
    columns = [
        pa.array(column.to_numpy(), from_pandas=True) if pa.types.is_floating(column.type) else column
        for column in table.columns
    ]
    return pa.Table.from_arrays(columns, names=table.column_names)
