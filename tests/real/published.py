"""Recorded trades and quotes as events, beside the bars that others published of them."""

import csv
import gzip
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage.events import EVENT_CODE, PRICE_CODE, Array, Events, concat

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "tests" / "data"
FULL = ROOT.parent / "shared" / "data"

Bars = dict[str, Array]  # t, open, high, low, close, and volume in units of 1e-18 where it must be equal


@dataclass
class Recording:
    """Events of some markets in the order in which they happened, and the published bars of each."""

    kind: str
    events: Events  # without places
    bars: dict[tuple[int, int], Bars] = field(default_factory=dict)  # by market and length in seconds
    source: str = "trade"

    @property
    def sources(self) -> Array:
        """Which prices count, by slot."""
        return np.full(100, 1 << PRICE_CODE[self.source], np.uint8)

    def published(self, length: int) -> int:
        """How many bars of this length were published."""
        return sum(len(bars["t"]) for (_, seconds), bars in self.bars.items() if seconds == length)


def rows(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt", newline="") as file:
        return list(csv.DictReader(file))


def micros(text: str) -> int:
    """An instant in UTC, as a text, in µs."""
    at = datetime.fromisoformat(text.replace("Z", "")).replace(tzinfo=UTC)
    return int(at.timestamp()) * 10**6 + at.microsecond


def floats(values: Sequence[Any]) -> Array:
    return np.array([float(value) for value in values])


def amounts(texts: Sequence[str]) -> Array:
    """Decimal texts in units of 1e-18, as Python integers."""
    return np.array([int(Decimal(text) * 10**18) for text in texts], object)


def trades(market: Any, ts: Array, price: Array, **more: Any) -> Events:
    n = len(ts)
    market = np.full(n, market, np.int32) if isinstance(market, int) else market
    return Events(n, {"market": market, "ts": ts, "price_type": spread(n, "trade"), "price": price, **more})


def spread(n: int, price_type: str) -> Array:
    return np.full(n, PRICE_CODE[price_type], np.uint8)


def chosen(table: pa.Table, prefix: str, keep: Array) -> Bars:
    """The published bars of one market and length."""
    bars: Bars = {"t": table["ts_us"].to_numpy()[keep] // 10**6}
    for name in ("open", "high", "low", "close"):
        bars[name] = table[prefix + name].cast(pa.float64()).to_numpy()[keep]
    return bars


def quotes(folder: Path, stem: str) -> Recording:
    """Bid and ask of an instrument as two markets; one line of the file after the other."""
    quoted = pq.read_table(folder / f"{stem}.quotes.parquet")
    ts, seq = quoted["ts_us"].to_numpy(), quoted["seq"].to_numpy().astype(np.int64)
    sides = {1: "bid", 2: "ask"}
    both = [trades(slot, ts, quoted[name].cast(pa.float64()).to_numpy(), trade_no=seq) for slot, name in sides.items()]
    n = len(ts)
    found = Recording("spot", concat(both).take(np.arange(2 * n).reshape(2, n).T.ravel()))
    published = pq.read_table(folder / f"{stem}.bars.parquet")
    interval = np.array(published["interval"].to_pylist())
    for slot, name in sides.items():
        for text, seconds in (("1s", 1), ("1m", 60)):
            found.bars[slot, seconds] = chosen(published, name + "_", interval == text)
    return found


def forex(folder: Path) -> Recording:
    return quotes(folder, "forex_fxcm_eurusd_20140505" + ("_20140506" if folder == FULL / "ticks" else ""))


def gold(folder: Path) -> Recording:
    return quotes(folder, "cfd_oanda_xauusd_20140506" + ("_20140506" if folder == FULL / "ticks" else ""))


def futures(folder: Path) -> Recording:
    """Gold futures, each expiry a market; prints of size 0 move prices too."""
    stem = "future_comex_gc_20131007" + ("_20131008" if folder == FULL / "ticks" else "")
    printed = pq.read_table(folder / f"{stem}.trades.parquet")
    expiry = np.array(printed["contract"].to_pylist())
    expiries, slot = np.unique(expiry, return_inverse=True)
    events = trades(
        (slot + 1).astype(np.int32),
        printed["ts_us"].to_numpy(),
        printed["price"].cast(pa.float64()).to_numpy(),
        volume=printed["size"].to_numpy().astype(np.float64),
        trade_no=printed["seq"].to_numpy().astype(np.int64),
    )
    found = Recording("spot", events)
    published = pq.read_table(folder / f"{stem}.bars.parquet")
    contract = np.array(published["contract"].to_pylist())
    for number, name in enumerate(expiries.tolist(), 1):
        keep = contract == name
        found.bars[number, 60] = chosen(published, "", keep)
        size = published["volume"].to_numpy()[keep]
        found.bars[number, 60]["size"] = size.astype(object) * 10**18
    return found


def exchange(folder: Path) -> Recording:
    """Trades of ten pairs and the candles that the exchange sent beside them."""
    printed = rows(folder / "crypto_bequant_2021_07.trades.csv.gz")
    pairs = sorted({row["symbol"] for row in printed})
    events = trades(
        np.array([pairs.index(row["symbol"]) + 1 for row in printed], np.int32),
        np.array([micros(row["timestamp"]) for row in printed]),
        floats([row["price"] for row in printed]),
        volume=floats([row["quantity"] for row in printed]),
        trade_no=np.array([int(row["trade_id"]) for row in printed]),
        side=np.array([row["side"] == "buy" for row in printed], np.int8),
    )
    order = np.lexsort((events.integers("trade_no"), events.integers("ts")))
    found = Recording("spot", events.take(order))
    candles = rows(folder / "crypto_bequant_2021_07.candles_1m.csv.gz")
    for slot, pair in enumerate(pairs, 1):
        minutes = [micros(row["timestamp"]) // 60_000_000 for row in printed if row["symbol"] == pair]
        # The recording begins within a minute: of that one it lacks trades.
        kept = [r for r in candles if r["symbol"] == pair and micros(r["timestamp"]) // 60_000_000 > min(minutes)]
        found.bars[slot, 60] = texts(kept, [micros(row["timestamp"]) for row in kept])
    return found


def texts(published: Sequence[dict[str, str]], ts: Sequence[int]) -> Bars:
    """Published bars that are decimal texts."""
    bars: Bars = {"t": np.array(ts, np.int64) // 10**6}
    for name in ("open", "high", "low", "close"):
        bars[name] = floats([row[name] for row in published])
    bars["volume"] = amounts([row["volume"] for row in published])
    return bars


def swaps(folder: Path) -> Recording:
    """Swaps of a pool on a chain, many in one block, by the tick they left the price at."""
    logs = [
        r for r in rows(folder / "uniswap_v3_usdc_weth_0x88e6a0c2_20240105.decoded.csv.gz") if r["tx_type"] == "SWAP"
    ]
    n = len(logs)
    events = Events(
        n,
        {
            "market": np.ones(n, np.int32),
            "ts": np.array([micros(row["block_timestamp"]) for row in logs]),
            "event": np.full(n, EVENT_CODE["PriceUpdated"], np.uint8),
            "price": floats([row["current_tick"] for row in logs]),
            "block_number": np.array([int(row["block_number"]) for row in logs]),
            "log_index": np.array([int(row["log_index"]) for row in logs]),
        },
    )
    order = np.lexsort((events.integers("log_index"), events.integers("block_number")))
    found = Recording("perp", events.take(order), source="mark")
    minutes = np.unique(events.integers("ts") // 60_000_000 * 60).tolist()
    published = rows(folder / "uniswap_v3_usdc_weth_0x88e6a0c2_20240105.minute.csv.gz")
    # Empty minutes are published too, with the last tick.
    kept = [row for row in published if micros(row["timestamp"]) // 10**6 in set(minutes)]
    names = {"open": "openTick", "high": "highestTick", "low": "lowestTick", "close": "closeTick"}
    found.bars[1, 60] = {
        "t": np.array([micros(row["timestamp"]) // 10**6 for row in kept]),
        **{name: floats([row[column] for row in kept]) for name, column in names.items()},
    }
    return found


def seconds(folder: Path) -> Recording:
    """One-second bars as four events each, and the one-minute bars published beside them."""
    stem = "crypto_coinbase_btcusd_20161007" + ("_20161008" if folder == FULL / "bars" else "")
    published = rows(folder / f"{stem}.csv.gz")
    fine = [row for row in published if row["interval"] == "1s"]
    start = np.array([int(row["ts_us"]) for row in fine])
    parts = []
    for step, name in enumerate(("open", "high", "low", "close")):
        size = floats([row["volume"] for row in fine]) if name == "close" else np.zeros(len(fine))
        parts.append(trades(1, start + step, floats([row[name] for row in fine]), volume=size))
    n = len(fine)
    found = Recording("spot", concat(parts).take(np.arange(4 * n).reshape(4, n).T.ravel()))
    for text, length in (("1s", 1), ("1m", 60)):
        some = [row for row in published if row["interval"] == text]
        found.bars[1, length] = texts(some, [int(row["ts_us"]) for row in some])
    return found


def aggregated(folder: Path) -> Recording:
    """Aggregated trades of an exchange, and bars that somebody else made of them."""
    stem = "crypto_binance_xrpeth_20191011"
    printed = rows(folder / f"{stem}.aggtrades.csv.gz")
    events = trades(
        1,
        np.array([int(row["ts_ms"]) * 1000 for row in printed]),
        floats([row["price"] for row in printed]),
        volume=floats([row["qty"] for row in printed]),
        trade_no=np.array([int(row["agg_id"]) for row in printed]),
        side=np.array([row["buyer_is_maker"] != "True" for row in printed], np.int8),
    )
    found = Recording("spot", events)
    for length, name in ((60, "1m"), (300, "5m")):
        published = rows(folder / f"{stem}.bars_{name}.csv.gz")
        found.bars[1, length] = texts(published, [int(row["ts_ms"]) * 1000 for row in published])
    return found


Reader = Callable[[Path], Recording]
