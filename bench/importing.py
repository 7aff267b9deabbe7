"""Importing a Parquet file of trades into every resolution, beside DuckDB's GROUP BY into the same tables.

    python -m bench.importing [--trades 10000000] [--ids] [--live 10] [--folder DIR]

The reference reads the file with DuckDB, puts its rows into the ledger's table and folds them by GROUP BY into the
tables of all six stored resolutions, every measure and order key included: once each resolution from the trades
(plain), and once each from the next finer one (chained). All of them may use both cores. candled also journals, knows
identities (with `--ids` those of the file, else those that import gives to rows without any), and ends with everything
on the disk. With `--live`, events are posted and watched meanwhile as `bench.latency` does it, for so many seconds:
first without an import, then with one.
"""

import argparse
import json
import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import trio
from duckdb import DuckDBPyConnection as Connection

from bench import harness, latency
from bench.harness import Server, percentile
from storage import schema
from storage.database import migrate

START = 1_700_000_000_000_000  # µs
DAYS = 30
MICROS = 1_000_000
FINER = {60: 1, 300: 60, 900: 300, 3600: 900, 86400: 3600}


class Took(NamedTuple):
    """What some work took."""

    wall: float  # seconds
    cpu: float


def trades(path: Path, n: int, *, ids: bool) -> None:
    """A month of one market's trades, in order, as a venue's files have them."""
    chance = np.random.default_rng(3)
    at = np.sort(chance.integers(0, DAYS * 86_400 * MICROS, n)) + START
    price = np.round(30_000 * np.exp(np.cumsum(chance.normal(0, 1e-5, n))), 2)
    size = np.maximum(np.round(np.exp(chance.normal(-3, 1.5, n)), 4), 0.0001)
    columns = {"ts_us": at, "price": price, "qty": size, "is_buyer_maker": chance.integers(0, 2, n).astype(np.bool_)}
    if ids:
        columns["trade_id"] = 10_000_000 + np.arange(n)
    pq.write_table(pa.table(columns), path, compression="zstd")


def timed(work: Callable[[], None]) -> Took:
    """The time that work in this process takes, its threads' included."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Took(time.perf_counter() - wall, time.process_time() - cpu)


def opened(path: Path) -> Connection:
    """An empty store, with the settings that candled has."""
    db = duckdb.connect(str(path), config={"threads": len(os.sched_getaffinity(0)), "checkpoint_threshold": "128MB"})
    migrate(db)
    return db


def reference(folder: Path, file: Path, *, ids: bool, chained: bool) -> Took:
    """DuckDB alone: ledger rows and bars of all resolutions."""
    places = "trade_id AS trade_no" if ids else "NULL::BIGINT AS trade_no"
    rows = (
        f"(SELECT 1 AS market, ts_us AS ts, 0 AS event, 5 AS price_type, CASE WHEN is_buyer_maker THEN 0 ELSE 1 END "
        f"AS side, price::DECIMAL(38, 18) AS price, qty::DECIMAL(38, 18) AS volume, {places}, "
        f"file_row_number AS pos FROM read_parquet('{file}', file_row_number = true))"
    )
    missing = ", ".join(
        f"NULL::{kind} AS {name}"
        for name, kind in (
            ("block_number", "BIGINT"),
            ("log_index", "BIGINT"),
            ("trade_id", "VARCHAR"),
            ("fee", "DECIMAL(38, 18)"),
            ("funding_rate", "DECIMAL(38, 18)"),
            ("open_interest", "DECIMAL(38, 18)"),
            ("trader", "UBIGINT"),
        )
    )
    events = f"(SELECT *, {missing}, price > 0 AS priced FROM {rows})"

    def work() -> None:
        db = opened(folder / f"reference{chained}.duckdb")
        db.execute(f"INSERT INTO ledger_traded BY NAME SELECT * FROM {rows}")
        for rung in schema.RUNGS:
            if chained and rung > 1:
                sql = schema.merge_sql("spot", schema.candle_table("spot", FINER[rung]), f"t - t % {rung}")
            else:
                sql = schema.fold_sql("spot", events, f"ts // {rung * MICROS} * {rung}")
            db.execute(f"INSERT INTO {schema.candle_table('spot', rung)} BY NAME {sql}")
        db.close()

    return timed(work)


def _command(file: Path, data: Path) -> list[str]:
    return [harness.candled(), "import", str(file), "--market", "M", "--create", "spot", "--data", str(data)]


def imported(folder: Path, file: Path) -> Took:
    """`candled import` into a data directory, as a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    command = _command(file, folder / "data")
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Took(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def through(folder: Path, file: Path) -> Took:
    """The same through a running daemon, until all of it is in the store."""
    folder.mkdir()
    with harness.serving(folder / "data") as server:
        used = harness.cpu(server.pid)
        took = imported(folder, file)
        began = time.perf_counter()
        while server.metrics()["candled_flush_waiting_events"] > 0:
            time.sleep(0.05)
        return Took(took.wall + time.perf_counter() - began, took.cpu + harness.cpu(server.pid) - used)


def live(folder: Path, file: Path, seconds: float) -> dict[str, dict[str, float]]:
    """Tick to client in ms, without an import and during one."""
    found = {}
    for name in ("without an import", "during an import"):
        with harness.serving(folder / name.replace(" ", "-")) as server:
            found[name] = _latency(server, file if name.startswith("during") else None, seconds)
    return found


def _latency(server: Server, file: Path | None, seconds: float) -> dict[str, float]:
    process = None
    if file is not None:
        command = _command(file, server.data)
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        board, _, _, _ = trio.run(latency.measure, server, seconds)
        within = 1.0 if process is None or process.poll() is None else 0.0
    finally:
        if process is not None:
            process.kill()
            process.wait()
    seen = [took * 1e3 for took in board.seen]
    return {"p50": percentile(seen, 50), "p99": percentile(seen, 99), "max": max(seen), "all of it within": within}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trades", type=int, default=10_000_000)
    parser.add_argument("--ids", action="store_true", help="the file has trade ids")
    parser.add_argument("--live", type=float, default=0, metavar="SECONDS", help="tick to client meanwhile, instead")
    parser.add_argument("--folder", type=Path, default=None)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        file = folder / "trades.parquet"
        trades(file, arguments.trades, ids=arguments.ids)
        if arguments.live:
            print(json.dumps(live(folder, file, arguments.live), indent=2))
            return
        print(f"{arguments.trades:,} trades, {file.stat().st_size >> 20} MiB; load {os.getloadavg()[0]:.1f}")
        plain = reference(folder, file, ids=arguments.ids, chained=False)
        chained = reference(folder, file, ids=arguments.ids, chained=True)
        ways: dict[str, Callable[[], Took]] = {
            "plain": lambda: plain,
            "chained": lambda: chained,
            "candled": lambda: imported(folder / "a", file),
            "candled, through its daemon": lambda: through(folder / "b", file),
        }
        for what, way in ways.items():
            took = way()
            print(
                f"{what:<28} {took.wall:7.1f} s, {took.cpu:7.1f} s of CPU; of plain × {took.wall / plain.wall:.2f}, "
                f"CPU × {took.cpu / plain.cpu:.2f}; of chained × {took.wall / chained.wall:.2f}, "
                f"CPU × {took.cpu / chained.cpu:.2f}; load {os.getloadavg()[0]:.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
