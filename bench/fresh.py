"""Prices of very many card variants that nobody knew, all at once: what the daemon has resident while every one of
them is a market at work, and what once most have retired.

    python -m bench.fresh [--variants 100000] [--wait SECONDS]

`candled serve` runs in a process of its own; each variant gets one price, in requests of 50,000.
"""

import argparse
import json
import re
import tempfile
import time
from http.client import HTTPConnection
from pathlib import Path

import pyarrow as pa

from bench import harness
from bench.harness import BenchError, Server

AT_ONCE = 50_000  # prices in one request


def body(first: int, last: int, at: int) -> bytes:
    """An Arrow stream with one price of each of these variants."""
    n = range(first, last)
    columns = {
        "time": pa.array([at] * len(n), pa.timestamp("ms", "UTC")),
        "card_id": pa.array([f"set{i // 250}-{i % 250}" for i in n]),
        "marketplace": pa.array(["tcgplayer"] * len(n)),
        "price": pa.array([f"{1 + i % 997}.{i % 90 + 10}" for i in n]),
        "num_listings": pa.array([i % 40 for i in n]),
    }
    batch = pa.RecordBatch.from_pydict(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def resident(pid: int) -> tuple[float, float]:
    """Resident now, and at most so far, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    now, most = (int(re.findall(rf"{name}:\s+(\d+)", status)[0]) / 1024 for name in ("VmRSS", "VmHWM"))
    return now, most


def post(server: Server, key: str, prices: bytes, count: int) -> None:
    """Have the daemon take so many prices."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=600)
    try:
        connection.request(
            "POST",
            "/api/ingest/snapshots",
            prices,
            {"Authorization": f"Bearer {key}", "Content-Type": "application/vnd.apache.arrow.stream"},
        )
        answer = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    if answer.get("accepted") != count:
        raise BenchError(f"expected {count} prices to be accepted, got {answer}")


def told(what: str, server: Server, began: float) -> None:
    """Print what the daemon has resident."""
    now, most = resident(server.pid)
    live = server.metrics()["candled_markets_active"]
    print(
        f"{time.perf_counter() - began:6.1f} s  {what:<28} {now:8.0f} MiB, at most {most:.0f}; {live:,.0f} at work",
        flush=True,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", type=int, default=100_000)
    parser.add_argument("--wait", type=float, default=0, metavar="SECONDS", help="look at it for so long afterwards")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, harness.serving(Path(folder)) as server:
        key = server.token("ingest")
        began = time.perf_counter()
        told("empty", server, began)
        at = int(time.time() * 1000)
        for first in range(0, arguments.variants, AT_ONCE):
            last = min(first + AT_ONCE, arguments.variants)
            post(server, key, body(first, last, at), last - first)
            told(f"{last:,} variants", server, began)
        server.settle()
        told("flushed", server, began)
        until = time.perf_counter() + arguments.wait
        while time.perf_counter() < until:
            time.sleep(min(30, arguments.wait))
            told("waiting", server, began)


if __name__ == "__main__":
    main()
