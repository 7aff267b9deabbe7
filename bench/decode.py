"""How many events a second are decoded and validated on one core: `python -m bench.decode [SECONDS]`."""

import io
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import trio

from actors.bodies import ARROW, JSON, NDJSON
from actors.decode import decode
from actors.registry import Registry
from storage import markets
from storage.state import State

NOW = 1_760_000_000_000_000
MARKETS = [f"MKT{i:04d}-USD" for i in range(1000)]


def registry(path: Path) -> Registry:
    """The registry with a thousand markets in memory."""
    with State.open(path) as state:
        for i, symbol in enumerate(MARKETS):
            markets.put(state, {"market_symbol": symbol, "kind": ("perp", "spot")[i % 2]}, lambda _: False)

        async def run(function: Callable[..., Any], *args: Any) -> Any:
            return function(state, *args)

        found = Registry(run, markets, lambda _: False)
        trio.run(found.load, MARKETS)
        return found


def events(n: int, rng: random.Random) -> Iterator[dict[str, object]]:
    """Trades as exchanges report them."""
    for i in range(n):
        yield {
            "market_symbol": rng.choice(MARKETS),
            "timestamp": NOW // 1000 - n + i,
            "price": round(rng.uniform(100, 70_000), 2),
            "size": round(rng.uniform(0.0001, 5), 5),
            "side": rng.choice(("buy", "sell")),
        }


def ndjson(rows: list[dict[str, object]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def arrow(rows: list[dict[str, object]], *, dictionary: bool) -> bytes:
    table = pa.Table.from_pylist(rows)
    if dictionary:
        for i, name in enumerate(table.column_names):
            if table.column(name).type == pa.string():
                table = table.set_column(i, name, table.column(name).dictionary_encode())
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def measured(named: Registry, name: str, form: str, bodies: list[bytes], size: int, seconds: float) -> None:
    """Print the rate over all bodies, again and again: sustained, and of the fastest batch."""
    done = 0
    turns = cycle(bodies)
    start = time.perf_counter()
    best = float("inf")
    while time.perf_counter() - start < seconds:
        begun = time.perf_counter()
        decoded = decode(next(turns), form, named, NOW)
        best = min(best, time.perf_counter() - begun)
        done += decoded.events.n
        assert decoded.events.n == size, decoded.rejected[:1]
    took = time.perf_counter() - start
    bytes_each = sum(map(len, bodies)) / len(bodies) / size
    print(f"{name:<44} {done / took:>12,.0f} events/s   best batch {size / best:>12,.0f}   {bytes_each:6.1f} B/event")


def main(seconds: float = 2.0) -> None:
    rng = random.Random(1)
    small = [list(events(1000, rng)) for _ in range(20)]
    large = [list(events(50_000, rng)) for _ in range(3)]

    def posts(change: Callable[[dict[str, object], int], dict[str, object]]) -> list[bytes]:
        return [ndjson([change(row, i) for i, row in enumerate(rows)]) for rows in small]

    def texts(row: dict[str, object], _: int) -> dict[str, object]:
        return {**row, "price": str(row["price"]), "size": str(row["size"])}

    def traded(row: dict[str, object], i: int) -> dict[str, object]:
        return {**row, "trade_id": i}

    def mixed(row: dict[str, object], i: int) -> dict[str, object]:
        return row if i % 3 else {**row, "event_type": "PriceUpdated", "venue": "x"}

    def one_more(row: dict[str, object], i: int) -> dict[str, object]:
        return {**row, "venue": "x"} if i != 500 else row

    def dated(row: dict[str, object], _: int) -> dict[str, object]:
        at = np.datetime64(int(str(row["timestamp"])), "ms")
        return {**row, "timestamp": f"{at}Z"}

    cases: list[tuple[str, str, list[bytes], int]] = [
        ("NDJSON, 1,000", NDJSON, posts(lambda row, _: row), 1000),
        ("NDJSON, 1,000, with integer trade_id", NDJSON, posts(traded), 1000),
        ("NDJSON, 1,000, price and size as texts", NDJSON, posts(texts), 1000),
        ("NDJSON, 1,000, ISO 8601", NDJSON, posts(dated), 1000),
        ("NDJSON, 1,000, of two shapes", NDJSON, posts(mixed), 1000),
        ("NDJSON, 1,000, with a field that is ignored", NDJSON, posts(one_more), 1000),
        ("JSON array, 1,000", JSON, [json.dumps(rows).encode() for rows in small], 1000),
        ("JSON, one event", JSON, [json.dumps(row).encode() for row in small[0]], 1),
        ("Arrow, 50,000, dictionaries", ARROW, [arrow(rows, dictionary=True) for rows in large], 50_000),
        ("Arrow, 50,000, plain strings", ARROW, [arrow(rows, dictionary=False) for rows in large], 50_000),
    ]
    with tempfile.TemporaryDirectory() as folder:
        named = registry(Path(folder) / "state.db")
    for name, form, bodies, size in cases:
        measured(named, name, form, bodies, size, seconds)


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 2.0)
