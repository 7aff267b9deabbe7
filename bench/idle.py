"""Markets at rest and markets at work: what a registered one keeps resident, what a live one with full rings does.

    python -m bench.idle [--quick] [--registry DIR]     DIR keeps the million markets, to use them again

Idle: `candled serve` is started over a registry of a million markets and over one of a single market, three times
each; the difference in resident bytes once one of the last markets was traded, found and read, and the time until it
says that it is ready. Live: `candled serve` without its doors runs in a process that counts its allocations (Python's
and numpy's; DuckDB's are not a market's), and markets get events until all their rings are full, on perps each from a
trader of its own, so that distinct counts are at their largest; amounts have 8 decimals or 18.
"""

import argparse
import gc
import json
import statistics
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import trio

from actors.ring import SIZES
from bench import harness
from bench.harness import BenchError, Connection, Figure, Noise, Options, Reference, Server
from bench.registry import a_market, register
from bench.trades import ARROW
from daemon.stack import Stack, StackSettings, opened
from storage import decimals
from storage.calendar import parse
from storage.events import Array

BYTES_EACH, START_SECONDS = 200.0, 5.0
LIVE_BYTES = 1_000_000.0
STARTS = 3
KINDS = ("spot", "perp")
PLACES = (8, 18)  # decimals of amounts: what exchanges and what contracts reckon in
NAMES = {1: "1S", 60: "1", 300: "5", 900: "15", 3600: "60", 86400: "1D"}
FAR = 2**40
MIB = 2**20


# --- registered and idle


def started(data: Path, markets: int) -> tuple[float, float, float]:
    """Seconds until ready, resident bytes then, with so many markets, medians of some starts; and others' cores."""
    seconds, resident, noise = [], [], Noise()
    for _ in range(STARTS):
        with harness.serving(data) as server:
            known = json.loads(server.get("/api/charts/health"))["markets"]["registered"]
            if known != markets:
                raise BenchError(f"candled knows {known} markets instead of {markets}")
            seconds.append(server.start_seconds)
            trio.run(_use, server, str(a_market(max(0, markets - 2))["market_symbol"]))
            server.settle()
            resident.append(server.rss(exact=True))
    return statistics.median(seconds), statistics.median(resident), noise.others()


async def _use(server: Server, symbol: str) -> None:
    """Make use of a market, so that whatever grows with the number of markets has grown."""
    connection = Connection(server.port, server.token())
    event = json.dumps({"market_symbol": symbol, "timestamp": int(time.time() * 1000), "price": 1, "size": 1})
    answers = [await connection.post("/api/ingest/events", "application/json", event.encode())]
    name = quote(symbol, safe="")
    for path in (
        f"symbols?symbol={name}",
        f"search?query={name}",
        f"history?symbol={name}&resolution=1&from=0&to={FAR}",
    ):
        answers.append(await connection.get(f"/api/tradingview/{path}"))
    await connection.close()
    if any(status != 200 for status, _ in answers):
        raise BenchError(f"{symbol} cannot be used: {answers}")


def registered(options: Options, kept: Path | None = None) -> list[Figure]:
    """A million registered markets."""
    count = options.count(1_000_000, 20_000)
    with harness.data_folder(options) as folder:
        full, one = kept or folder / "full", folder / "one"
        for data, markets in ((full, count), (one, 1)):
            data.mkdir(parents=True, exist_ok=True)
            register(data / "state.db", markets)
        plain = harness.in_process("bench.references", "objects", full, "--markets", count)
        few, many = started(one, 1), started(full, count)
        on_disk = harness.disk_bytes(full) / count
    each = (many[1] - few[1]) / count
    notes = {
        "resident": f"{many[1] / MIB:.1f} MiB with {count:,} markets, {few[1] / MIB:.1f} MiB with one",
        "start": f"{many[0]:.2f} s with {count:,} markets, {few[0]:.2f} s with one",
        "disk": f"{on_disk:.0f} bytes each",
    }
    return [
        Figure(
            what=f"{count:,} idle markets: memory each",
            value=each,
            unit="B",
            target=BYTES_EACH,
            lower=True,
            references=[Reference("an object each, in a dict", plain["bytes_each"])],
            notes=notes,
        ),
        Figure(
            what=f"{count:,} idle markets: start until ready",
            value=many[0],
            unit="s",
            target=START_SECONDS,
            lower=True,
            references=[Reference("reading each into a dict", plain["seconds"], plain["others"])],
            others=many[2],
        ),
    ]


# --- live


def filling(now: int) -> Array:
    """Event times (µs, ascending) that leave every ring of a market full."""
    seconds: set[int] = set()
    for size, bars in SIZES.items():
        last = now // size * size
        seconds.update(range(last - bars * size, last + 1, size))
    return np.array(sorted(seconds), np.int64) * 1_000_000


async def live(folder: Path, kind: str, places: int, markets: int) -> dict[str, float]:
    """In a process of its own: the memory of so many markets with full rings."""
    now = int(time.time())
    times = filling(now - 60)
    chance = np.random.default_rng(4)
    async with opened(StackSettings(data=folder)) as stack:
        *names, first = (f"{kind.upper()}{number:03d}" for number in range(markets + 1))
        for name in (*names, first):
            await stack.registry.put({"market_symbol": name, "kind": kind})

        async def fill(some: list[str], at: Array) -> None:
            for body in _bodies(some, at, kind, places, chance):
                await _submit(stack, body)
            await _quiet(stack, some, [*_bodies(some, np.array([now * 1_000_000]), kind, places, chance)])

        await fill([first], times[::100])  # what the first of anything costs is not a market's
        tracemalloc.start()
        traced, columns = tracemalloc.get_traced_memory()[0], stack.engine.nbytes()
        await fill(names, times)
        traced, columns = tracemalloc.get_traced_memory()[0] - traced, stack.engine.nbytes() - columns
        for name in names:
            await _see_full(stack, name)
        tracemalloc.stop()
    return {"bytes_each": traced / markets, "column_bytes_each": columns / markets, "events_each": len(times)}


def _bodies(names: list[str], times: Array, kind: str, places: int, chance: np.random.Generator) -> Iterator[bytes]:
    """Arrow streams of the events of these markets, all of them in the order of time."""
    step = max(1, 20_000 // len(names))
    for start in range(0, len(times), step):
        some = np.repeat(times[start : start + step], len(names))
        n = len(some)
        codes = np.tile(np.arange(len(names), dtype=np.int16), n // len(names))
        columns = {
            "market_symbol": pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(names)),
            "timestamp": pa.array(some, pa.timestamp("us", "UTC")),
            "price": pa.array(np.round(chance.uniform(90, 110, n), 2)),
            "size": _amounts(chance.integers(10 ** (places - 3), 9 * 10**places, n), places),
            "side": pa.array(np.where(chance.integers(0, 2, n) == 1, "buy", "sell")),
        }
        if kind == "perp":
            columns["fee"] = _amounts(chance.integers(0, 10**places, n), places)
            columns["open_interest"] = pa.array(np.round(chance.uniform(0, 1e6, n), 2))
            columns["user_address"] = pa.array([f"0x{trader:040x}" for trader in chance.integers(0, 2**62, n).tolist()])
        batch = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as stream:
            stream.write_batch(batch)
        yield sink.getvalue().to_pybytes()


def _amounts(mantissa: Array, places: int) -> Any:
    return decimals.arrow(decimals.widened(mantissa, places))


async def _submit(stack: Stack, body: bytes) -> None:
    answer = json.loads(await stack.intake.submit(body, ARROW))
    if answer["rejected"]:
        raise BenchError(f"events were refused: {answer}")


async def _quiet(stack: Stack, names: list[str], last: Sequence[bytes]) -> None:
    """Everything is flushed, and a last event made each market drop what it kept for that; rings are laid."""
    for _ in range(2):
        await stack.writer.flushed(stack.engine.committed())
        for body in last:
            await _submit(stack, body)
    await stack.writer.flushed(stack.engine.committed())
    for name in names:
        await stack.engine.window(await stack.engine.market(name), parse("1"), 0, FAR, 1)
    gc.collect()


async def _see_full(stack: Stack, name: str) -> None:
    market = await stack.engine.market(name)
    for ring, size in SIZES.items():
        reads = stack.store.statistics().history_reads
        bars = await stack.engine.window(market, parse(NAMES[ring]), 0, FAR, size)
        if len(bars.time) != size or stack.store.statistics().history_reads != reads:
            raise BenchError(f"the ring of {ring} s of {name} holds {len(bars.time)} bars instead of {size}")


def plain() -> int:
    """Bytes of as many bars as all rings of a market hold, each a dict of the numbers that every chart shows."""
    names = ("time", "open", "high", "low", "close", "volume", "trades")
    chance = np.random.default_rng(6)
    tracemalloc.start()
    bars = [
        dict(zip(names, (t, *chance.random(5).tolist(), t % 1000), strict=True))
        for t in range(1_700_000_000, 1_700_000_000 + sum(SIZES.values()))
    ]
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert bars
    return size


def full_rings(options: Options) -> list[Figure]:
    """Markets of each kind that has traders or trades."""
    markets = options.count(30, 3)
    found = []
    for kind, places in product(KINDS, PLACES):
        with harness.data_folder(options) as folder:
            figures = harness.in_process("bench.idle", "--live", kind, places, markets, folder)
        found.append(
            Figure(
                what=f"live {kind} market, {places} decimals: memory, all rings full",
                value=figures["bytes_each"],
                unit="B",
                target=LIVE_BYTES,
                lower=True,
                references=[Reference("seven numbers a bar, in dicts", figures["plain_bytes"])],
                notes={
                    "of these": f"{figures['column_bytes_each']:,.0f} B columns of the rings",
                    "counted": (
                        f"allocations over {markets} markets with {figures['events_each']:,} events each; "
                        f"{sum(SIZES.values()):,} bars in {len(SIZES)} rings"
                    ),
                },
            )
        )
    return found


def main() -> None:
    """Print these figures."""
    parser = harness.parser(__doc__)
    parser.add_argument("--registry", type=Path, help="a folder with the registry; made where it is not there")
    parser.add_argument("--live", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.live:
        kind, places, markets, folder = arguments.live
        measured = trio.run(live, Path(folder), kind, int(places), int(markets))
        print(json.dumps({"plain_bytes": plain(), **measured}))
        return
    options = harness.options(parser, arguments)
    harness.report([*registered(options, arguments.registry), *full_rings(options)], options, to=arguments.json)


if __name__ == "__main__":
    main()
