"""What a day of bars costs in the archive, to move and to read: `python -m bench.archive [--markets 100000]`.

One market in a thousand has a bar in every minute, the others have a dozen each. Read are 300 bars of one market;
beside that stand the same bars out of DuckDB's table before the move, and DuckDB's own `read_parquet` over the files.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np
from duckdb import DuckDBPyConnection as Connection

from bench.harness import percentile
from storage import archive, candles, decimals, parquet, partitions
from storage.database import migrate
from storage.events import Array
from storage.partials import Partials

DAY, MINUTE = 86400, 60
FIRST = 1_767_571_200 - 30 * DAY
COUNT = 300
SPARSE = 12  # bars of most markets
ALL = DAY // MINUTE


def bars(markets: int) -> Partials:
    """One-minute bars of a day, as they would be flushed."""
    chance = np.random.default_rng(1)
    counts = np.where(np.arange(markets) % 1000 == 500, ALL, SPARSE)
    market = np.repeat(np.arange(markets, dtype=np.int32), counts)
    n = len(market)
    number = np.arange(n) - np.repeat(np.cumsum(counts) - counts, counts)
    t = FIRST + number * np.repeat(ALL // counts, counts) * MINUTE
    base = np.repeat(10 ** chance.uniform(0, 4.7, markets), counts)
    close = np.round(base * np.exp(chance.normal(0, 0.02, n)), 4)
    open_ = np.round(close * np.exp(chance.normal(0, 0.001, n)), 4)
    size = np.round(chance.exponential(10, n), 3)
    half = np.round(size / 2, 3)
    seq = 1 + number
    columns: dict[str, Array] = {
        "market": market,
        "t": t,
        "open": open_,
        "open_ts": t * 1_000_000 + chance.integers(0, 30_000_000, n),
        "open_idx": chance.integers(0, 10**9, n),
        "open_pos": seq << 24 | chance.integers(0, 50_000, n),
        "high": np.round(np.maximum(open_, close) * 1.001, 4),
        "low": np.round(np.minimum(open_, close) * 0.999, 4),
        "close": close,
        "close_ts": t * 1_000_000 + chance.integers(30_000_000, 60_000_000, n),
        "close_idx": chance.integers(0, 10**9, n),
        "close_pos": seq << 24 | chance.integers(0, 50_000, n),
        "volume": decimals.units(size),
        "trades_count": chance.integers(1, 50, n),
        "turnover": decimals.product(close, size),
        "turnover_volume": decimals.units(size),
        "buy_volume": decimals.units(half),
        "sell_volume": decimals.units(np.round(size - half, 3)),
        "rev": seq,
        "born": seq,
    }
    return Partials("spot", n, columns)


class Took(NamedTuple):
    """What some reads took."""

    seconds: list[float]  # each
    cpu: float  # on average


def read(db: Connection, markets: int, times: int) -> Took:
    """Some reads through candled."""

    def ask(market: int, start: int) -> int:
        return candles.between(db, "spot", MINUTE, market, start, start + COUNT * MINUTE).n

    return timed(ask, markets, times)


def timed(ask: Callable[[int, int], int], markets: int, times: int) -> Took:
    """The same reads, asked of anybody."""
    chance = np.random.default_rng(2)
    took = []
    cpu = time.process_time()
    for _ in range(times):
        market = int(chance.integers(0, markets // 1000)) * 1000 + 500
        start = FIRST + int(chance.integers(0, ALL - COUNT)) * MINUTE
        began = time.perf_counter()
        found = ask(market, start)
        took.append(time.perf_counter() - began)
        if found != COUNT:
            raise SystemExit(f"{found} bars instead of {COUNT}")
    return Took(took, (time.process_time() - cpu) / times)


def touched(db: Connection, market: int, start: int) -> tuple[int, int, int]:
    """Files, row groups and bytes that a read takes."""
    parts = partitions.among(db, "spot", MINUTE, (market, market), (start, start + COUNT * MINUTE))
    groups = size = 0
    for part in parts:
        known = parquet.groups(partitions.folder(db) / part.path, part.footer)
        mine = (known.market_low <= market) & (known.market_high >= market)
        mine &= (known.high >= start) & (known.low < start + COUNT * MINUTE)
        for number in np.flatnonzero(mine).tolist():
            group = known.meta.row_group(number)
            groups += 1
            size += sum(group.column(i).total_compressed_size for i in range(group.num_columns))
    return len(parts), groups, size


def told(what: str, took: Took, reference: Took) -> None:
    """One line."""
    middle, last = percentile(took.seconds, 50) * 1e3, percentile(took.seconds, 99) * 1e3
    print(f"{what:<58}{middle:8.2f} /{last:8.2f} ms  {took.cpu * 1e3:7.2f} ms  {took.cpu / reference.cpu:6.2f} ×")


def measure(folder: Path, markets: int, times: int) -> None:
    """All figures, on a database in this folder."""
    file = folder / "candles.duckdb"
    with duckdb.connect(str(file), config={"threads": 1}) as db:
        migrate(db)
        candles.adopt(db, "bench")
        db.execute("CHECKPOINT")
        empty = file.stat().st_size
        table = bars(markets)
        candles.put(db, MINUTE, table)
        candles.apply(db, int(table["rev"].max()))
        candles.compact(db, "spot", MINUTE, DAY)
        db.execute("CHECKPOINT")
        before = (file.stat().st_size - empty) / table.n
        stored = read(db, markets, times)
        (one,) = archive.waiting(db, 2**40)
        began, cpu = time.perf_counter(), time.process_time()
        moved = archive.write(lambda: None, lambda: nullcontext(db), one.partition, 0.0)
        written, cpu = time.perf_counter(), time.process_time() - cpu
        db.execute("BEGIN TRANSACTION")
        archive.adopt(db, moved)
        db.execute("COMMIT")
        ended = time.perf_counter()
        million = table.n / 1e6
        size = sum(part.bytes for part in moved.parts)
        print(f"{table.n} bars of {markets} markets, {len(moved.parts)} files")
        print(f"bytes a bar: {before:.0f} in DuckDB, {size / table.n:.0f} in Parquet")
        print(
            f"s per million bars: {(written - began) / million:.2f} to write and verify ({cpu / million:.2f} of CPU), ",
            end="",
        )
        print(f"{(ended - written) / million:.2f} for the transaction")
        files, groups, taken = touched(db, 500, FIRST + 3600)
        every = sum(parquet.groups(partitions.folder(db) / p.path, p.footer).meta.num_row_groups for p in moved.parts)
        print(f"a read takes {files} of {len(moved.parts)} files, {groups} of {every} row groups, {taken} bytes")
        db.execute("CHECKPOINT")
        archived = read(db, markets, times)

        def cold(market: int, start: int) -> int:
            parquet.groups.cache_clear()
            return candles.between(db, "spot", MINUTE, market, start, start + COUNT * MINUTE).n

        forgotten = timed(cold, markets, times)
        pattern = str(partitions.folder(db) / one.partition.folder / "*.parquet")

    def ask(market: int, start: int) -> int:
        found: int = (
            plain.sql(
                f"SELECT * FROM read_parquet('{pattern}') WHERE market = {market} "
                f"AND t >= {start} AND t < {start + COUNT * MINUTE}"
            )
            .to_arrow_table()
            .num_rows
        )
        return found

    plain = duckdb.connect(config={"threads": 1})
    by_duckdb = timed(ask, markets, times)
    plain.execute("SET parquet_metadata_cache = true")
    cached = timed(ask, markets, times)
    plain.close()
    print(f"\n{f'{COUNT} bars of one market':<58}     p50 /     p99         CPU  of the reference's")
    told("reference: DuckDB read_parquet over the day's files", by_duckdb, by_duckdb)
    told("the same with parquet_metadata_cache", cached, by_duckdb)
    told("candled, from the archive", archived, by_duckdb)
    told("candled, from the archive, footers not in memory", forgotten, by_duckdb)
    told("candled, from DuckDB's table before the move", stored, by_duckdb)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markets", type=int, default=100_000)
    parser.add_argument("--times", type=int, default=300)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="candled-") as folder:
        measure(Path(folder), options.markets, options.times)


if __name__ == "__main__":
    main()
