"""What figures stand beside: what a user would run instead, and floors that no design can beat.

    python -m bench.references NAME FOLDER [OPTIONS]     prints one JSON object

Each runs in a process of its own on candled's core, inside that process: no network between it and its load. ClickHouse
is the engine of PyPI's `chdb`, with one thread for a query, as there is one core; it does not wait for the disk when a
batch is in, DuckDB and candled do.
"""

import argparse
import importlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import numpy as np
import pyarrow as pa
import trio

from bench.harness import disk_bytes, percentile, rss
from bench.stored import picks, plain_bars
from bench.trades import Clock, Trades
from storage import markets
from storage.records import Market
from storage.state import State

RUNGS = (("1s", 1), ("1m", 60), ("5m", 300), ("15m", 900), ("1h", 3600), ("1d", 86400))
MICROS = 1_000_000
WARM_SECONDS = 1.0
NAMES = ("market", "t", "o", "h", "l", "c", "v", "n")

Insert = Callable[[pa.Table], None]


# --- ingest


def clickhouse_ingest(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """A MergeTree of raw trades with materialised views 1s → 1m → 5m → 15m → 1h → 1d."""
    query = _clickhouse(folder)
    query(
        "CREATE TABLE trades (market UInt32, ts DateTime64(6, 'UTC'), price Float64, size Float64, buy UInt8) "
        "ENGINE = MergeTree PARTITION BY toDate(ts) ORDER BY (market, ts)"
    )
    source = "trades"
    for name, seconds in RUNGS:
        _clickhouse_bars(query, name)
        if source == "trades":
            states = (
                "argMinState(price, s.ts) AS o, max(price) AS h, min(price) AS l, argMaxState(price, s.ts) AS c, "
                "sum(size) AS v, count() AS n, sum(price * size) AS turnover, sum(size * buy) AS bought"
            )
        else:
            states = (
                "argMinMergeState(s.o) AS o, max(s.h) AS h, min(s.l) AS l, argMaxMergeState(s.c) AS c, "
                "sum(s.v) AS v, sum(s.n) AS n, sum(s.turnover) AS turnover, sum(s.bought) AS bought"
            )
        query(
            f"CREATE MATERIALIZED VIEW into_{name} TO bars_{name} AS SELECT market, "
            f"toStartOfInterval(s.ts, INTERVAL {seconds} SECOND) AS ts, {states} FROM {source} AS s GROUP BY market, ts"
        )
        source = f"bars_{name}"

    def insert(batch: pa.Table) -> None:  # noqa: ARG001 - the query finds it by its name
        query("INSERT INTO trades SELECT market, ts, price, size, buy FROM Python(batch)")

    figures = _ingest(insert, options)
    counted = int(str(query("SELECT sum(n) FROM bars_1d")))
    if counted != figures["rows"]:
        raise SystemExit(f"the daily bars hold {counted} trades of {figures['rows']:g}")
    used = "SELECT sum(bytes_on_disk) FROM system.parts WHERE active AND database = 'bench'"
    figures["disk_bytes_each"] = int(str(query(used))) / figures["rows"]
    return figures


def duckdb_ingest(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """A bare table of raw trades: no bars, no index, a commit for each batch."""
    file = folder / "trades.duckdb"
    db = duckdb.connect(str(file), config={"threads": 1})
    db.execute("CREATE TABLE trades (market UINTEGER, ts TIMESTAMP, price DOUBLE, size DOUBLE, buy UTINYINT)")

    def insert(batch: pa.Table) -> None:  # noqa: ARG001 - the query finds it by its name
        db.execute("INSERT INTO trades SELECT market, ts, price, size, buy FROM batch")

    figures = _ingest(insert, options)
    db.execute("CHECKPOINT")
    figures["disk_bytes_each"] = file.stat().st_size / figures["rows"]
    return figures


def _ingest(insert: Insert, options: argparse.Namespace) -> dict[str, float]:
    size = options.batch
    batches = _batches(size, options.past)
    base = rss(os.getpid(), exact=True)
    rows = counted = 0
    began = time.perf_counter()
    start = None
    took = []
    while start is None or time.perf_counter() - start < options.seconds:
        batch = next(batches)
        before = time.perf_counter()
        insert(batch)
        after = time.perf_counter()
        rows += size
        if start is not None:
            counted += size
            took.append(after - before)
        elif after - began >= WARM_SECONDS:
            start = after
    return {
        "rows_per_second": counted / (time.perf_counter() - start),
        "rows": rows,
        "batch_p50_ms": percentile(took, 50) * 1e3,
        "batch_p99_ms": percentile(took, 99) * 1e3,
        "rss_start_bytes": base,
        "rss_end_bytes": rss(os.getpid(), exact=True),
    }


def _batches(size: int, past: bool) -> Iterator[pa.Table]:
    """The trades that candled gets too, at the times that it gets them for."""
    trades, clock = Trades(max(size, 800_000 // size * size)), Clock(past=past)
    columns = {
        "market": trades.market.astype(np.uint32),
        "price": trades.price,
        "size": trades.size,
        "buy": trades.buy.astype(np.uint8),
    }
    while True:
        for start in range(0, trades.n, size):
            cut = {name: column[start : start + size] for name, column in columns.items()}
            yield pa.table({**cut, "ts": pa.array(clock.times(size), pa.timestamp("us", "UTC"))})


# --- history


def duckdb_history(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """1,440 stored bars of one market as JSON, out of a plain table in (market, t) order."""
    db = duckdb.connect(str(folder / "bars.duckdb"), config={"threads": 1})
    db.execute(
        "CREATE TABLE loaded (market UINTEGER, t BIGINT, o DOUBLE, h DOUBLE, l DOUBLE, c DOUBLE, v DOUBLE, n BIGINT)"
    )
    for batch in _plain(options):
        db.register("batch", batch)
        db.execute("INSERT INTO loaded SELECT * FROM batch")
        db.unregister("batch")
    db.execute("CREATE TABLE bars AS SELECT * FROM loaded ORDER BY market, t")
    db.execute("DROP TABLE loaded")
    db.execute("CHECKPOINT")
    select = "SELECT t, o, h, l, c, v FROM bars WHERE market = ? AND t >= ? AND t < ?"

    def ask(market: int, start: int, end: int) -> bytes:
        found = db.execute(select, [market, start, end]).fetchnumpy()
        return msgspec.json.encode({"s": "ok", **{name: column.tolist() for name, column in found.items()}})

    return _history(ask, options, lambda body: len(msgspec.json.decode(body)["t"]))


def clickhouse_history(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """The same out of the table that a materialised view of one-minute bars fills."""
    query = _clickhouse(folder)
    _clickhouse_bars(query, "1m")
    query(
        "CREATE TABLE loaded (market UInt32, t DateTime('UTC'), o Float64, h Float64, l Float64, c Float64, v Float64, "
        "n UInt64) ENGINE = Null"
    )
    query(
        "CREATE MATERIALIZED VIEW into_1m TO bars_1m AS SELECT market, x.t AS ts, "
        "argMinState(x.o, toDateTime64(x.t, 6, 'UTC')) AS o, max(x.h) AS h, min(x.l) AS l, "
        "argMaxState(x.c, toDateTime64(x.t, 6, 'UTC')) AS c, sum(x.v) AS v, sum(x.n) AS n, sum(x.c * x.v) AS turnover, "
        "sum(x.v) AS bought FROM loaded AS x GROUP BY market, ts"
    )
    for batch in _plain(options):  # the query finds it by its name
        assert batch.num_rows
        query("INSERT INTO loaded SELECT market, toDateTime(t, 'UTC') AS t, o, h, l, c, v, n FROM Python(batch)")

    def ask(market: int, start: int, end: int) -> bytes:
        body: bytes = query(
            "SELECT toUnixTimestamp(ts) AS t, argMinMerge(b.o) AS o, max(b.h) AS h, min(b.l) AS l, "
            f"argMaxMerge(b.c) AS c, sum(b.v) AS v FROM bars_1m AS b WHERE market = {market} "
            f"AND ts >= toDateTime({start}, 'UTC') AND ts < toDateTime({end}, 'UTC') GROUP BY ts ORDER BY ts",
            "JSONCompactColumns",
        ).bytes()
        return body

    return _history(ask, options, lambda body: len(json.loads(body)[0]))


def _history(
    ask: Callable[[int, int, int], bytes], options: argparse.Namespace, bars: Callable[[bytes], int]
) -> dict[str, float]:
    took = []
    for market, start, end in picks(options.markets, options.days, options.count):
        began = time.perf_counter()
        body = ask(market, start, end)
        took.append(time.perf_counter() - began)
        if bars(body) != 1440:
            raise SystemExit(f"{bars(body)} bars instead of 1,440")
    return {"p50_ms": percentile(took, 50) * 1e3, "p99_ms": percentile(took, 99) * 1e3, "count": len(took)}


def _plain(options: argparse.Namespace) -> Iterator[pa.Table]:
    for day in range(options.days):
        columns = plain_bars(day, options.markets)
        yield pa.table({name: pa.array(columns[name]) for name in NAMES})


def encode(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """The floor of any history answer: 1,440 bars that are lists already, as JSON."""
    assert folder.is_dir()
    columns = plain_bars(0, 1)
    bars = {"s": "ok", **{name: columns[name].tolist() for name in ("t", "o", "h", "l", "c", "v")}}
    took = []
    for _ in range(options.count):
        began = time.perf_counter()
        msgspec.json.encode(bars)
        took.append(time.perf_counter() - began)
    return {"p50_ms": percentile(took, 50) * 1e3, "p99_ms": percentile(took, 99) * 1e3, "count": len(took)}


# --- latency


def echo(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """The floor of any tick: each message is written to a file, the disk waited for, and sent to whoever listens."""
    listeners: list[trio.SocketStream] = []

    async def serve(stream: trio.SocketStream) -> None:
        got = bytearray()
        while data := await stream.receive_some(65536):
            if data == b"LISTEN":
                listeners.append(stream)
                await stream.send_all(b"OK")
                continue
            got += data
            while len(got) >= 4 and len(got) >= 4 + (size := int.from_bytes(got[:4], "big")):
                message = bytes(got[: 4 + size])
                del got[: 4 + size]
                os.write(file, message)
                os.fdatasync(file)
                for listener in listeners:
                    await listener.send_all(message)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            (opened,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, serve, [opened])
            port = opened.socket.getsockname()[1]
            (folder / "port.new").write_text(str(port))
            os.replace(folder / "port.new", folder / "port")
            with trio.move_on_after(options.seconds):
                await trio.sleep_forever()
            nursery.cancel_scope.cancel()

    file = os.open(folder / "log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    trio.run(main)
    return {}


# --- idle markets


def objects(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """A registry without a thought: every market of the file as an object in a dict."""
    base = rss(os.getpid(), exact=True)
    began = time.perf_counter()
    registry: dict[str, Market] = {}
    with State.open(folder / "state.db") as state:
        for start in range(1, options.markets + 1, 10_000):
            for market in markets.by_slots(state, range(start, start + 10_000)):
                registry[market.market_symbol] = market
        seconds = time.perf_counter() - began
        if len(registry) != options.markets:
            raise SystemExit(f"{len(registry)} markets instead of {options.markets}")
        return {"bytes_each": (rss(os.getpid(), exact=True) - base) / options.markets, "seconds": seconds}


# --- ClickHouse


def _clickhouse(folder: Path) -> Callable[..., Any]:
    # Not in the type checker's sight: only `make bench` installs it.
    session = importlib.import_module("chdb.session").Session(str(folder / "clickhouse"))
    session.query("CREATE DATABASE bench")
    session.query("USE bench")
    session.query("SET max_threads = 1, max_insert_threads = 1")
    query: Callable[..., Any] = session.query
    return query


def _clickhouse_bars(query: Callable[..., Any], name: str) -> None:
    when = "DateTime64(6, 'UTC')"
    query(
        f"CREATE TABLE bars_{name} (market UInt32, ts DateTime('UTC'), o AggregateFunction(argMin, Float64, {when}), "
        "h SimpleAggregateFunction(max, Float64), l SimpleAggregateFunction(min, Float64), "
        f"c AggregateFunction(argMax, Float64, {when}), v SimpleAggregateFunction(sum, Float64), "
        "n SimpleAggregateFunction(sum, UInt64), turnover SimpleAggregateFunction(sum, Float64), "
        "bought SimpleAggregateFunction(sum, Float64)) ENGINE = AggregatingMergeTree "
        f"PARTITION BY {'toYYYYMM' if name == '1d' else 'toDate'}(ts) ORDER BY (market, ts)"
    )


REFERENCES: dict[str, Callable[[Path, argparse.Namespace], dict[str, float]]] = {
    "clickhouse-ingest": clickhouse_ingest,
    "duckdb-ingest": duckdb_ingest,
    "clickhouse-history": clickhouse_history,
    "duckdb-history": duckdb_history,
    "encode": encode,
    "echo": echo,
    "objects": objects,
}


def main() -> None:
    """Run one reference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=REFERENCES)
    parser.add_argument("folder", type=Path, help="where it may write")
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--batch", type=int, default=10_000)
    parser.add_argument("--past", action="store_true")
    parser.add_argument("--markets", type=int, default=1000)
    parser.add_argument("--days", type=int, default=7)
    parser.add_argument("--count", type=int, default=1000)
    options = parser.parse_args()
    figures = REFERENCES[options.name](options.folder, options)
    figures["folder_bytes"] = disk_bytes(options.folder)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
