"""Ten million stored one-minute bars: the same ones for candled's store and for what it stands beside.

python -m bench.stored DATA [--markets 1000] [--days 7]     builds a data directory that `candled serve` opens
"""

import argparse
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import trio

from actors.fold import rolled
from actors.writer import SPANS
from storage import candles, decimals, markets
from storage.database import Database, Door
from storage.events import Array
from storage.journal import Journal
from storage.partials import Partials
from storage.schema import RUNGS
from storage.state import State

DAY, MINUTE = 86400, 60
MINUTES = DAY // MINUTE
FIRST_DAY = 1_767_571_200 - 30 * DAY  # days that are over, so that nothing about them depends on the clock


def symbol(market: int) -> str:
    """The name of the n-th market, from 1."""
    return f"SPOT{market:04d}"


def plain_bars(day: int, count: int) -> dict[str, Array]:
    """The one-minute bars of a day: every minute of markets 1 to `count`, market by market."""
    chance = np.random.default_rng(1000 + day)
    n = count * MINUTES
    base = np.repeat(10 ** np.random.default_rng(5).uniform(0, 4.7, count), MINUTES)
    close = np.round(base * np.exp(chance.normal(0, 0.02, n)), 4)
    open_ = np.round(close * np.exp(chance.normal(0, 0.001, n)), 4)
    times = np.arange(FIRST_DAY + day * DAY, FIRST_DAY + (day + 1) * DAY, MINUTE)
    return {
        "market": np.repeat(np.arange(1, count + 1, dtype=np.int32), MINUTES),
        "t": np.tile(times, count),
        "o": open_,
        "h": np.round(np.maximum(open_, close) * 1.001, 4),
        "l": np.round(np.minimum(open_, close) * 0.999, 4),
        "c": close,
        "v": chance.integers(1, 1_000_000, n) / 1000,
        "n": chance.integers(1, 50, n),
    }


def picks(count: int, days: int, most: int, seed: int = 3) -> Iterator[tuple[int, int, int]]:
    """Different markets, each with a whole day that is not among its newest two: market, from, to."""
    chance = np.random.default_rng(seed)
    for market in chance.permutation(np.arange(1, count + 1))[:most].tolist():
        start = FIRST_DAY + int(chance.integers(0, days - 2)) * DAY
        yield market, start, start + DAY


def partials(day: int, count: int) -> Partials:
    """The same bars as candled keeps them."""
    bars = plain_bars(day, count)
    n = len(bars["t"])
    ones = np.ones(n, np.int64)
    volume, turnover = decimals.units(bars["v"]), decimals.product(bars["c"], bars["v"])
    half = np.round(bars["v"] / 2, 3)
    columns = {
        "market": bars["market"],
        "t": bars["t"],
        "open": bars["o"],
        "open_ts": bars["t"] * 1_000_000 + 1_000,
        "open_pos": ones << 24,
        "high": bars["h"],
        "low": bars["l"],
        "close": bars["c"],
        "close_ts": bars["t"] * 1_000_000 + 59_000_000,
        "close_pos": ones << 24,
        "volume": volume,
        "trades_count": bars["n"],
        "turnover": turnover,
        "turnover_volume": volume,
        "buy_volume": decimals.units(half),
        "sell_volume": decimals.units(np.round(bars["v"] - half, 3)),
        "rev": ones,
        "born": ones,
    }
    return Partials("spot", n, columns)


def build(data: Path, count: int, days: int) -> int:
    """A data directory with these bars, summed and ordered as candled leaves them; how many of a minute."""
    data.mkdir(parents=True, exist_ok=True)
    with State.open(data / "state.db") as state:
        many = [{"market_symbol": symbol(market), "kind": "spot"} for market in range(1, count + 1)]
        markets.put_all(state, many, lambda _: False)
    return trio.run(_build, data, count, days)


async def _build(data: Path, count: int, days: int) -> int:
    database = Database.open(data / "candles.duckdb", Door())
    total = 0
    with Journal.open(data / "journal") as journal:
        await database.write(candles.adopt, journal.epoch)
        for day in range(days):
            table = partials(day, count)
            total += table.n
            await database.write(candles.put, MINUTE, table)
            for stored in (stored for stored in RUNGS if stored > MINUTE):
                table = rolled(table, partial(_bucket, stored))
                await database.write(candles.put, stored, table)
        for stored in RUNGS:
            await database.write(candles.compact, "spot", stored, SPANS[stored])
    database.close()
    return total


def _bucket(size: int, times: Array) -> Array:
    starts: Array = times - times % size
    return starts


def main() -> None:
    """Build a data directory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--markets", type=int, default=1000)
    parser.add_argument("--days", type=int, default=7)
    options = parser.parse_args()
    print(json.dumps({"bars": build(options.data, options.markets, options.days)}))


if __name__ == "__main__":
    main()
