"""What it costs to verify a store: `python -m bench.verify [--events 4000000] [--markets 100] [--days 4]`.

Beside it stands what folding the same events costs DuckDB alone, once, out of one table into one-minute bars.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import trio

from actors.bodies import ARROW
from daemon.stack import StackSettings, opened
from storage import schema, verify
from storage.findings import Day, Progress, Source, Spots
from storage.refold import Markets

NOON = 1_700_049_600
BATCH = 50_000
LOOK = "SELECT *, true AS priced FROM trades"


def batch(first: int, n: int, events: int, markets: int, days: int) -> pa.RecordBatch:
    """Some trades of a stretch of days, one after the other in time."""
    chance = np.random.default_rng(first)
    number = np.arange(first, first + n)
    at = NOON * 1000 + number * (days * 86_400_000 // events)
    return pa.RecordBatch.from_pydict(
        {
            "market_symbol": pa.array([f"M{slot}" for slot in chance.integers(0, markets, n).tolist()]),
            "timestamp": pa.array(at),
            "price": pa.array(np.round(100 + chance.normal(0, 5, n), 2)),
            "size": pa.array(np.round(chance.exponential(3, n), 3)),
            "trade_id": pa.array(number),
        }
    )


async def run(events: int, markets: int, days: int) -> None:
    """Fill a store, and print what it takes to verify it."""
    with tempfile.TemporaryDirectory() as folder:
        settings = StackSettings(data=Path(folder), create="spot", seal_events=events // 2)
        async with opened(settings) as stack:
            for first in range(0, events, BATCH):
                some = batch(first, min(BATCH, events - first), events, markets, days)
                sink = pa.BufferOutputStream()
                with pa.ipc.new_stream(sink, some.schema) as writer:
                    writer.write_batch(some)
                await stack.intake.submit(bytes(sink.getvalue()), ARROW)
            await stack.writer.flushed(stack.engine.committed())
            await stack.sealing.run()
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            source = Source(stack.database.snapshot, stack.journal, Markets(stack.state), Path(folder))
            began, used = time.perf_counter(), time.thread_time()
            bars = count = odd = 0
            for unit in verify.units(source, -(2**40), 2**40, None, lambda: None):
                for line in verify.compared(source, unit, None, Spots(), lambda: None):
                    if isinstance(line, Progress):
                        count += line.events
                    elif isinstance(line, Day):
                        bars += sum(rung.bars for rung in line.rungs)
                        odd += line.differences
            took, cpu = time.perf_counter() - began, time.thread_time() - used
            more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
            print(f"verified {count:,} events, {bars:,} bars, {odd} differences: {took:.1f} s, {cpu:.1f} s of one core")
            print(f"{count / cpu:,.0f} events and {bars / cpu:,.0f} bars a second of CPU; {more} MiB more at the peak")
            await trio.to_thread.run_sync(reference, events, markets, days)


def reference(events: int, markets: int, days: int) -> None:
    """One fold by DuckDB, one thread."""
    some = batch(0, min(events, 1_000_000), events, markets, days)
    named = {"market": "CAST(market_symbol[2:] AS INTEGER)", "ts": "timestamp * 1000", "pos": "trade_id << 24"}
    with duckdb.connect(config={"threads": 1}) as db:
        db.register("sent", some)
        db.execute(
            f"CREATE TABLE trades AS SELECT {', '.join(f'{sql} AS {name}' for name, sql in named.items())}, "
            "0::UTINYINT AS event, 5::UTINYINT AS price_type, NULL::TINYINT AS side, price::DECIMAL(38, 18) AS price, "
            "size::DECIMAL(38, 18) AS volume, trade_id AS trade_no, NULL::BIGINT AS block_number, "
            "NULL::BIGINT AS log_index, NULL::VARCHAR AS trade_id, NULL::UBIGINT AS trader, NULL::DECIMAL AS fee, "
            "NULL::DECIMAL AS funding_rate, NULL::DECIMAL AS open_interest FROM sent"
        )
        began = time.thread_time()
        fold = schema.fold_sql("spot", f"({LOOK})", "ts // 60000000 * 60")
        db.execute(f"CREATE TABLE folded AS {fold}")
        took = time.thread_time() - began
        print(f"reference: one resolution folded by DuckDB: {some.num_rows / took:,.0f} events a second of CPU")


def main() -> None:
    """Run as told."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=4_000_000)
    parser.add_argument("--markets", type=int, default=100)
    parser.add_argument("--days", type=int, default=4)
    arguments = parser.parse_args()
    trio.run(run, arguments.events, arguments.markets, arguments.days)


if __name__ == "__main__":
    main()
