"""What it costs to ask who has been here before: `python -m bench.identities [--files 20000000] [--memory 1000000]`.

Each figure stands beside a reference measured in the same run: a Python dict of what is in memory, and one sorted
array in memory of everything that is in files, searched with numpy's `searchsorted`.
"""

import argparse
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from actors.identities import resolve
from storage.events import Events, concat
from storage.hashing import digest, identity, mix, stamped
from storage.identities import Identities

Words = NDArray[np.uint64]


def seconds(work: Callable[[], object], times: int = 9) -> float:
    """The middle one of several runs."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return sorted(taken)[times // 2]


def resident() -> float:
    """Anonymous memory of this process in MB: what the system cannot take back by dropping cached pages of files."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def numbered(start: int, end: int) -> Words:
    """The identities of events number start to end."""
    return mix(np.arange(start, end, dtype=np.int64))


def told(name: str, took: float, n: int, reference: str = "", ratio: float = 0.0) -> None:
    """One line."""
    beside = f"   {ratio:6.2f} × {reference}" if reference else ""
    print(f"{name:<62}{took / n * 1e9:9.1f} ns an event{beside}")


def hashing(n: int = 50_000) -> None:
    """Stamping a batch, and resolving it."""
    random = np.random.default_rng(1)
    lean = {
        "market": random.integers(1, 1000, n).astype(np.int32),
        "ts": random.integers(1, 1 << 50, n),
        "side": random.integers(0, 2, n).astype(np.int8),
        "price": np.round(random.random(n) * 100, 4),
        "volume": np.round(random.random(n), 5),
    }
    trades = Events(n, {**lean, "trade_no": np.arange(n)})
    chain = Events(
        n,
        {
            **lean,
            "chain_id": np.full(n, 1),
            "block_number": random.integers(1, 1 << 30, n),
            "log_index": random.integers(0, 300, n),
            "transaction_hash": pa.array(["0x" + random.bytes(32).hex() for _ in range(n)]),
            "user_address": pa.array(["0x" + random.bytes(20).hex() for _ in range(n)]),
        },
    )
    text = chain.texts("transaction_hash").to_pylist()
    python = seconds(lambda: [hash(t) for t in text])
    for name, events in (("integer trade ids, lean columns", trades), ("transaction hashes and addresses", chain)):
        took = seconds(lambda events=events: (identity(events), digest(events)))  # type: ignore[misc]  # bound at once
        told(f"identity + digest, {name}", took, n, "Python's hash() of the transaction hash alone", took / python)
        told(f"stamped, {name}", seconds(lambda events=events: stamped(events)), n)  # type: ignore[misc]  # bound at once
    requests = [trades.take(np.arange(at, at + 100)) for at in range(0, 6_400, 100)]
    apart = seconds(lambda: concat([stamped(one) for one in requests]))
    together = seconds(lambda: stamped(concat(requests)))
    told("stamped, 64 requests of 100, together", together, 6_400, "each by itself", together / apart)
    words = stamped(trades)
    nowhere, nothing = np.full(n, -1), np.zeros(n, np.uint64)
    told("resolve, all new", seconds(lambda: resolve(words, nowhere, nothing)), n)
    told("resolve, all duplicates", seconds(lambda: resolve(words, np.arange(n), words.integers("digest"))), n)


def index(folder: Path, in_files: int, in_memory: int) -> None:
    """Finding what is new and what is known, with files behind."""
    before = resident()
    known = Identities.open(folder)
    spilling, merging, slowest, at = 0.0, 0.0, 0.0, 0
    step = 50_000
    start = time.perf_counter()
    total = in_files + in_memory
    while at < total:
        end = min(at + step, total)
        pos = np.arange(at, end)
        add = time.perf_counter()
        known.add(numbered(at, end), pos.astype(np.uint64), pos)
        slowest = max(slowest, time.perf_counter() - add)
        at = end
        if at <= in_files and (known.full or at == in_files):
            began = time.perf_counter()
            known.freeze(at)
            known.spill()
            spilling += time.perf_counter() - began
            began = time.perf_counter()
            known.merge()
            merging += time.perf_counter() - began
    took = time.perf_counter() - start
    said = known.statistics()
    print(
        f"\n{said.in_memory:,} in memory, {said.in_files:,} in {said.runs} runs of {said.file_bytes / 1e6:,.0f} MB,"
        f" filters {said.filter_bytes / 1e6:,.0f} MB of them; memory {resident() - before:,.0f} MB"
    )
    told("adding them all, spills and merges included", took, total)
    told("  of that spilling, on a worker thread", spilling, total)
    told(f"  of that merging, on a worker thread ({said.merged_entries:,} entries)", merging, total)
    print(f"  slowest add of {step:,}: {slowest * 1e3:.1f} ms")

    began = time.perf_counter()
    Identities.open(folder)
    print(f"opening the files: {(time.perf_counter() - began) * 1e3:.0f} ms")

    recent = dict(zip(numbered(in_files, total).tolist(), range(in_files, total), strict=True))
    everything = np.sort(numbered(0, total))
    for n, times in ((1_000, 201), (10_000, 31), (50_000, 15)):
        batches = [numbered(total + k * n, total + (k + 1) * n) for k in range(times)]
        asked, listed = iter(batches), iter([batch.tolist() for batch in batches])
        new = seconds(lambda asked=asked: known.find(next(asked)), times)  # type: ignore[misc]  # bound at once
        reference = seconds(
            lambda listed=listed: [recent.get(i) for i in next(listed)],  # type: ignore[misc]  # bound at once
            times,
        )
        told(f"find, {n:,} new ones", new, n, "dict of memory's entries only", new / reference)
    strangers = numbered(total, total + 1_000_000)
    share = known.find(strangers).maybe_older.mean()
    print(f"new ones that the files have to be asked about: {share:.5%}")
    n = 50_000
    newest = numbered(total - n, total)
    newest_listed = newest.tolist()
    reference = seconds(lambda: [recent.get(i) for i in newest_listed])
    hit = seconds(lambda: known.find(newest))
    told(f"find, {n:,} that are in memory", hit, n, "dict of memory's entries", hit / reference)
    random = np.random.default_rng(2)
    for name, number in (
        (f"{n:,} at random in files", random.integers(0, in_files, n)),
        (f"{n:,} in a row in files", np.arange(n)),
        ("100 at random in files", random.integers(0, in_files, 100)),
    ):
        old = mix(number)
        first = time.perf_counter()
        places, _ = known.find_older(old)
        first = time.perf_counter() - first
        assert (places == number).all()
        told(f"find_older, {name}, blocks checked the first time", first, len(old))
        hit = seconds(lambda old=old: known.find_older(old), 5)  # type: ignore[misc]  # bound at once
        reference = seconds(lambda old=old: everything.searchsorted(old), 5)  # type: ignore[misc]  # bound at once
        told(f"find_older, {name}", hit, len(old), "searchsorted in memory", hit / reference)


def main() -> None:
    """Run it all."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--files", type=int, default=20_000_000)
    arguments.add_argument("--memory", type=int, default=999_000)
    arguments.add_argument("--folder", type=Path)
    chosen = arguments.parse_args()
    print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}\n")
    hashing()
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        index(Path(folder), chosen.files, chosen.memory)


if __name__ == "__main__":
    main()
