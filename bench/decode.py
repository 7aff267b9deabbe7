"""How many events a second are decoded and validated on one core: `python -m bench.decode`."""

import io
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from itertools import cycle

import numpy as np
import pyarrow as pa

from actors.bodies import ARROW, JSON, NDJSON
from actors.decode import decode
from storage.names import folded

NOW = 1_760_000_000_000_000
MARKETS = [f"MKT{i:04d}-USD" for i in range(1000)]


class Registry:
    """A thousand markets in memory."""

    def __init__(self) -> None:
        self._slots = {folded(symbol): slot for slot, symbol in enumerate(MARKETS, 1)}
        self.kinds = np.arange(len(MARKETS) + 1, dtype=np.uint8) % 2
        self.chains = np.full(len(MARKETS) + 1, -1)

    def slot_of_symbol(self, symbol: str) -> int | None:
        return self._slots.get(symbol.casefold())

    def slot_of_id(self, market_id: int) -> int | None:
        return market_id if 1 <= market_id <= len(MARKETS) else None

    def slot_of_contract(self, chain_id: int | None, address: str) -> int | None:
        raise LookupError(f"no contracts here: {address} on {chain_id}")


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


def measured(name: str, form: str, bodies: list[bytes], size: int, seconds: float) -> None:
    """Print the rate over all bodies again and again, each time a fresh one."""
    registry = Registry()
    done = 0
    turns = cycle(bodies)
    start = time.perf_counter()
    best = float("inf")
    while time.perf_counter() - start < seconds:
        begun = time.perf_counter()
        decoded = decode(next(turns), form, registry, NOW)
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

    def one_bad(row: dict[str, object], i: int) -> dict[str, object]:
        return {**row, "unheard": None} if i != 500 else row

    def dated(row: dict[str, object], _: int) -> dict[str, object]:
        at = np.datetime64(int(str(row["timestamp"])), "ms")
        return {**row, "timestamp": f"{at}Z"}

    measured("NDJSON, 1,000 an event batch", NDJSON, posts(lambda row, _: row), 1000, seconds)
    measured("NDJSON, with integer trade_id", NDJSON, posts(traded), 1000, seconds)
    measured("NDJSON, price and size as texts", NDJSON, posts(texts), 1000, seconds)
    measured("NDJSON, ISO 8601", NDJSON, posts(dated), 1000, seconds)
    measured("NDJSON, of two shapes", NDJSON, posts(mixed), 1000, seconds)
    measured("NDJSON, with a field that is ignored", NDJSON, posts(one_bad), 1000, seconds)
    measured("JSON array, 1,000", JSON, [json.dumps(rows).encode() for rows in small], 1000, seconds)
    measured("JSON, one event", JSON, [json.dumps(row).encode() for row in small[0]], 1, seconds)
    measured("Arrow, 50,000, dictionaries", ARROW, [arrow(rows, dictionary=True) for rows in large], 50_000, seconds)
    measured("Arrow, 50,000, plain strings", ARROW, [arrow(rows, dictionary=False) for rows in large], 50_000, seconds)


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 2.0)
