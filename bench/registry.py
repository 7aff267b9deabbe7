"""A million registered markets: what each keeps resident, how long a start takes, how long it takes to find one.

    python -m bench.registry [--markets 1000000] [--data DIR]

A start is a fresh process that opens the registry and answers for the last market by each of its names. What markets
keep resident is its memory beside that of the same process over a registry of a single market.
"""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import trio

from actors.registry import Registry
from storage import markets
from storage.database import Door
from storage.records import Market
from storage.state import State

MOST_BYTES = 200  # resident, each
MOST_SECONDS = 5.0  # to start
CHUNK = 20_000  # markets in one transaction
BASES = ("BTC", "ETH", "SOL", "GOLD", "OIL", "WHEAT", "EUR", "JPY", "CARD", "PEPE", "DOGE", "LINK", "UNI", "AAVE")
QUOTES = ("USD", "USDT", "EUR", "ETH")
TOPICS = ("futures", "perpetual", "index fund", "stable basket", "volatility", "prediction")


def contract(i: int) -> str:
    """Where the i-th market of the bench lies."""
    return f"0x{i * 2654435761 % 2**160:040x}"


def a_market(i: int) -> dict[str, object]:
    """The i-th market of the bench, with the columns a factory contract would fill."""
    base = f"{BASES[i % len(BASES)]}{i}"
    quote = QUOTES[i // 7 % len(QUOTES)]
    return {
        "market_symbol": f"{base}/{quote}",
        "kind": ("perp", "perp", "spot", "card")[i % 4],
        "contract_address": contract(i),
        "chain_id": 8453,
        "name": f"{base} {TOPICS[i % len(TOPICS)]}",
        "base_asset": base,
        "quote_asset": quote,
        "min_trade_size": "0.001",
        "trading_fee_rate": "0.003",
        "created_timestamp": 1_700_000_000_000 + i,
    }


def register(path: Path, count: int) -> None:
    """Fill a registry with markets, as far as they are not there yet."""
    with State.open(path) as state:
        began = time.perf_counter()
        have = markets.count(state).registered
        for start in range(have, count, CHUNK):
            many = [a_market(i) for i in range(start, min(start + CHUNK, count))]
            markets.put_all(state, many, lambda _: False)
        seconds = time.perf_counter() - began
    if count - have > 1:
        print(f"registered {count - have:,} in {seconds:.1f} s, {(count - have) / seconds:,.0f} a second")


def resident() -> int:
    """Bytes of this process that are in memory and its own."""
    fields = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in fields if line.startswith("Private_"))


def started(path: Path, asked: int) -> dict[str, float]:
    """In a fresh process: open the registry and answer for one market; what that took and keeps."""
    began = time.perf_counter()
    door = Door()
    state = State.open(path)

    async def main() -> dict[str, float]:
        registry = Registry(lambda work, *arguments: door.run(work, state, *arguments), markets, lambda _: False)
        await registry.count()
        market = await registry.named(str(a_market(asked)["market_symbol"]).lower())
        assert len(await registry.load([market.market_id, (8453, market.contract_address or "")])) == 2
        return {"seconds": time.perf_counter() - began, "bytes": resident()}

    figures = trio.run(main)
    state.close()
    return figures


def in_fresh_process(path: Path, asked: int) -> dict[str, float]:
    """`started`, elsewhere; the median of five."""
    command = [sys.executable, "-m", "bench.registry", "--started", str(path), str(asked)]
    runs: list[dict[str, float]] = [json.loads(subprocess.check_output(command)) for _ in range(5)]
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def timed(what: str, times: int, work: Callable[[int], Any]) -> None:
    """Run and print the latencies."""
    took = []
    for i in range(times):
        began = time.perf_counter()
        work(i)
        took.append((time.perf_counter() - began) * 1e3)
    took.sort()
    print(f"  {what:<58} p50 {took[len(took) // 2]:8.3f} ms   p99 {took[len(took) * 99 // 100]:8.3f} ms")


def found(state: State, typed: str, _: int, type: str | None = None, exchange: str | None = None) -> list[Market]:
    """One search, as `timed` calls it."""
    return markets.search(state, typed, type=type, exchange=exchange)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--markets", type=int, default=1_000_000)
    parser.add_argument("--data", type=Path, help="keep the registry here, to use it again")
    parser.add_argument("--started", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.started:
        print(json.dumps(started(Path(options.started[0]), int(options.started[1]))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        data = options.data or Path(temporary)
        data.mkdir(parents=True, exist_ok=True)
        measure(data, options.markets)


def measure(data: Path, count: int) -> None:
    """All figures, over a registry of this many markets."""
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    one, all_ = data / "one.db", data / f"{count}.db"
    register(one, 1)
    register(all_, count)
    print(f"file: {all_.stat().st_size / count:,.0f} bytes a market")

    empty, full = in_fresh_process(one, 0), in_fresh_process(all_, count - 1)
    each = (full["bytes"] - empty["bytes"]) / count
    print(f"resident: {each:.1f} bytes a market (at most {MOST_BYTES}: {'yes' if each <= MOST_BYTES else 'NO'})")
    fine = full["seconds"] <= MOST_SECONDS
    print(
        f"start: {full['seconds'] * 1e3:.0f} ms, with one market {empty['seconds'] * 1e3:.0f} ms "
        f"(at most {MOST_SECONDS:g} s: {'yes' if fine else 'NO'})"
    )

    chance = random.Random(1)
    symbols = [str(a_market(chance.randrange(count))["market_symbol"]) for _ in range(1000)]
    with State.open(all_) as state:
        print("lookups and searches of 30, one thread:")
        timed("by symbol, lower case", 1000, lambda i: markets.by_symbol(state, symbols[i].lower()))
        timed(
            "by contract", 1000, lambda i: markets.by_contract(state, 8453, f"0x{i * 997 * 2654435761 % 2**160:040x}")
        )
        timed("1,000 symbols at once", 10, lambda _: markets.many(state, symbols))
        timed("search, a whole symbol", 300, lambda i: markets.search(state, symbols[i]))
        timed("search, its first three letters", 300, lambda i: markets.search(state, symbols[i][:3]))
        timed("search, letters four to eight", 300, lambda i: markets.search(state, symbols[i][3:8]))
        for typed in ("", "b", "bt", "btc", "futures", "fut gol", "und", "usd perp", "zzz", "qx", "xq9", "erpetua sdt"):
            timed(f"search {typed!r}", 20, partial(found, state, typed))
        timed("search 'btc', type card", 20, lambda _: markets.search(state, "btc", None, "card"))
        timed(
            "search 'futures', exchange INDEX (empty)", 20, lambda _: markets.search(state, "futures", exchange="INDEX")
        )
        timed("page of 100 behind the middle", 20, lambda _: markets.page(state, count // 2, 100))
        timed("page of 100 behind the middle, 'btc'", 20, lambda _: markets.page(state, count // 2, 100, "btc"))


if __name__ == "__main__":
    main()
