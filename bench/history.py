"""`history` of 1,440 one-minute bars: from memory, and cold out of ten million stored bars of a thousand markets.

    python -m bench.history [--quick] [--store DIR]     DIR keeps the ten million bars, to use them again

Over one keep-alive connection, one request after the other. Service time is the server's own: its histogram
`candled_http_request_seconds` of the route, from a request's head to its answer, in which quantiles are interpolated;
whether half of the requests took no longer than the target is exact, because the targets are ends of buckets. Beside it
stands what the client saw. Cold is a market of which the process has nothing in memory: each is asked for once, for a
day that is not among its newest. The references answer the same question in their own process, without HTTP.
"""

import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import trio

from bench import harness
from bench.harness import BenchError, Connection, Figure, Options, Reference, Server, Times, Watch, percentile
from bench.stored import DAY, MINUTES, picks, symbol
from bench.trades import ARROW
from storage.markets import count as registered
from storage.state import State

ROUTE = "/api/tradingview/history"
MEMORY_MARKETS = 100
EVENTS_A_BAR = 3
WARM = 200
MEMORY_MS, COLD_MS = 1.0, 10.0
PLACES = "duckdb-history", "clickhouse-history"

Asked = tuple[str, int, int]  # symbol, from, to


async def ask(server: Server, wanted: Sequence[Asked]) -> tuple[list[float], int]:
    """Ask one after the other: how long each answer took to arrive, ms, and their bytes together."""
    connection, took, size = Connection(server.port), [], 0
    await connection.open()
    for name, start, end in wanted:
        path = f"{ROUTE}?symbol={name}&resolution=1&from={start}&to={end}"
        began = time.perf_counter()
        status, body = await connection.get(path)
        took.append((time.perf_counter() - began) * 1e3)
        size += len(body)
        if status != 200 or len(json.loads(body).get("t", ())) != MINUTES:
            raise BenchError(f"GET {path}: expected {MINUTES} bars, got {status} {body[:200]!r}")
    await connection.close()
    return took, size


async def trivial(server: Server, count: int) -> list[float]:
    """The same for an answer of ten letters: what the way there and back costs."""
    connection, took = Connection(server.port), []
    for _ in range(count):
        began = time.perf_counter()
        status, _ = await connection.get("/api/tradingview/time")
        took.append((time.perf_counter() - began) * 1e3)
        if status != 200:
            raise BenchError(f"GET /api/tradingview/time: {status}")
    await connection.close()
    return took


async def fill(server: Server) -> list[Asked]:
    """Post a day of trades that ended a minute ago, of some markets; what may be asked for."""
    connection = Connection(server.port, server.token())
    end = int(time.time()) // 60 * 60
    minutes = np.arange(end - DAY, end, 60)
    times = (minutes[:, None] + np.arange(EVENTS_A_BAR) * 7).ravel() * 1_000_000
    chance = np.random.default_rng(9)
    names = [symbol(number + 1) for number in range(MEMORY_MARKETS)]
    market = pa.DictionaryArray.from_arrays(
        pa.array(np.tile(np.arange(MEMORY_MARKETS, dtype=np.int16), len(times))), pa.array(names)
    )
    n = len(market)
    batch = pa.RecordBatch.from_arrays(
        [
            market,
            pa.array(np.repeat(times, MEMORY_MARKETS), pa.timestamp("us", "UTC")),
            pa.array(np.round(100 * np.exp(chance.normal(0, 0.02, n)), 4)),
            pa.array(chance.integers(1, 1_000_000, n) / 1000),
        ],
        names=["market_symbol", "timestamp", "price", "size"],
    )
    for start in range(0, n, 50_000):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as stream:
            stream.write_batch(batch.slice(start, 50_000))
        body = memoryview(sink.getvalue())
        status, answer = await connection.post("/api/ingest/events?create=spot", ARROW, body)
        if status != 200 or json.loads(answer)["rejected"]:
            raise BenchError(f"a day of trades was answered with {status}: {answer[:300]!r}")
    await connection.close()
    return [(name, end - DAY, end) for name in names]


class Observed(NamedTuple):
    """What some requests came to."""

    times: Times
    notes: dict[str, str]
    reads: int  # of the history store
    others: float


def observed(server: Server, wanted: Sequence[Asked], warm: Sequence[Asked] = ()) -> Observed:
    """Ask for these, and what is to be known of it."""
    if warm:
        trio.run(ask, server, warm)
    before, used = server.metrics(), Watch(server.pid)
    took, size = trio.run(ask, server, wanted)
    used.stop()
    after = server.metrics()
    times = after.times(ROUTE).since(before.times(ROUTE))
    reads = int(after["candled_history_reads_total"] - before["candled_history_reads_total"])
    low, high = times.around(50)
    floor = trio.run(trivial, server, min(len(wanted), 300))
    notes = {
        "service time": (
            f"p50 {times.quantile(50) * 1e3:.2f} ms (interpolated; certainly {low * 1e3:g} to {high * 1e3:g} ms), "
            f"p99 {times.quantile(99) * 1e3:.2f} ms, "
            f"mean {times.mean * 1e3:.2f} ms; {times.within(0.001):.0%} within 1 ms, "
            f"{times.within(0.01):.0%} within 10 ms"
        ),
        "seen by the client": (
            f"p50 {percentile(took, 50):.2f} ms, p99 {percentile(took, 99):.2f} ms, max {max(took):.1f} ms, "
            f"{len(took):,} requests; of these the way there and back p50 {percentile(floor, 50):.2f} ms"
        ),
        "answers": f"{size / len(took) / 1000:.1f} KB each; {reads:,} reads of the history store",
        **used.notes(),
    }
    return Observed(times, notes, reads, used.others)


def from_memory(options: Options) -> Observed:
    """Markets whose day is in their rings."""
    with harness.data_folder(options) as folder, harness.serving(folder / "data") as server:
        asked = trio.run(fill, server)
        server.settle()
        chance = np.random.default_rng(2)
        count = options.count(5_000, 300)
        wanted = [asked[i] for i in chance.integers(0, len(asked), count).tolist()]
        return observed(server, wanted, [*asked, *wanted[:WARM]])


def cold(options: Options, store: Path, markets: int, days: int) -> Iterator[tuple[str, Observed]]:
    """Each market once, on a server that has just started; then again, with the file out of the page cache."""
    count = options.count(1_000, 50)
    bars = f"{markets * days * MINUTES / 1e6:.1f} M"
    for what, evicted, seed in (
        (f"history, 1,440 bars, cold, of {bars}", False, 3),
        (f"history, 1,440 bars, cold, of {bars}, file not cached", True, 4),
    ):
        wanted = [(symbol(market), start, end) for market, start, end in picks(markets, days, count, seed)]
        if evicted:
            _evict(store)
        with harness.serving(store) as server:
            found = observed(server, wanted)
            found.notes["server memory"] = f"{server.rss() / 2**20:.0f} MiB after these"
        yield what, found


def _evict(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            file = os.open(path, os.O_RDONLY)
            os.fsync(file)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)


def references(options: Options, markets: int, days: int) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """The same bars in other stores, and the encoding alone."""
    found, notes = {}, {}
    for name in (*PLACES, "encode"):
        with harness.data_folder(options) as folder:
            arguments = ("--markets", markets, "--days", days, "--count", options.count(1_000, 50))
            found[name] = harness.in_process("bench.references", name, folder, *arguments)
        p50, p99 = found[name]["p50_ms"], found[name]["p99_ms"]
        notes[f"reference {name}"] = f"p50 {p50:.2f} ms, p99 {p99:.2f} ms, {found[name]['count']:,.0f} answers"
    return found, notes


def figures(options: Options, store: Path | None = None) -> list[Figure]:
    """Service times, beside stores that hold nothing but bars."""
    markets, days = options.count(1_000, 50), 7
    found, about = references(options, markets, days)
    stores = [
        Reference(title, found[name]["p50_ms"], found[name]["others"])
        for title, name in (
            ("DuckDB, stored bars, SELECT + JSON", "duckdb-history"),
            ("ClickHouse (chdb), 1m view, JSON", "clickhouse-history"),
        )
    ]
    encoding = Reference("JSON of lists that are ready", found["encode"]["p50_ms"], found["encode"]["others"])
    memory = from_memory(options)
    problem = f"the history store was read {memory.reads} times" if memory.reads else ""
    results = [_figure("history, 1,440 bars, from memory", memory, MEMORY_MS, [*stores, encoding], about, problem)]
    with harness.data_folder(options) as folder:
        place = store or folder / "store"
        if not (place / "candles.duckdb").exists():
            harness.in_process("bench.stored", place, "--markets", markets, "--days", days, core=None)
        with State.open(place / "state.db") as state:
            kept = registered(state).registered  # a store that was there may be of another size
        size = harness.disk_bytes(place) / (kept * days * MINUTES)
        disk = {"store": f"{size:.0f} bytes on disk for each one-minute bar, coarser ones included"}
        for what, seen in cold(options, place, kept, days):
            results.append(_figure(what, seen, COLD_MS, stores, disk))
    return results


def _figure(
    what: str, seen: Observed, target: float, beside: list[Reference], notes: dict[str, str], problem: str = ""
) -> Figure:
    return Figure(
        what=f"{what}: service time p50",
        value=seen.times.quantile(50) * 1e3,
        unit="ms",
        target=target,
        lower=True,
        references=beside,
        notes={**seen.notes, **notes},
        problem=problem,
        others=seen.others,
    )


def main() -> None:
    """Print these figures."""
    parser = harness.parser(__doc__)
    parser.add_argument("--store", type=Path, help="a data directory with the stored bars; made where it is not there")
    arguments = parser.parse_args()
    options = harness.options(parser, arguments)
    harness.report(figures(options, arguments.store), options, to=arguments.json)


if __name__ == "__main__":
    main()
