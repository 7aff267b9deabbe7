"""How exactly distinct traders are counted, and what it costs: sketches of real address hashes beside exact sets.

python -m bench.distinct [--seeds N]     about a minute
"""

import argparse
import os
import platform
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from actors import fold
from actors.fold import Inputs, Keys
from storage import hashing
from storage.events import Array, Events
from storage.measures import SKETCH, distinct_count
from storage.partials import Partials

TRADERS = (100, SKETCH - 1, SKETCH, 5_000, 10_000, 30_000, 100_000, 1_000_000)
LARGE = 100_000  # from here on fewer seeds do
DAY = 86_400


def addresses(seed: int, n: int) -> Array:
    """The hashes of n different addresses, as events carry them."""
    digits = np.random.default_rng(seed).bytes(20 * n).hex()
    texts = pa.array(["0x" + digits[40 * i : 40 * i + 40] for i in range(n)])
    return hashing.trader(Events(n, {"user_address": texts}))


def folded(traders: Array, t: Array) -> Partials:
    """One event of each of these traders, at these seconds."""
    n = len(traders)
    keys = Keys(t * 10**6, np.arange(1 << 24, (1 << 24) + n))
    values = {"price": np.ones(n), "trader": traders}
    return fold.fold(Inputs("perp", n, np.ones(n, np.int32), t, keys, values))


def day_of(traders: Array, seed: int) -> Array:
    """The sketch of a day on which everybody traded twice, summed up from seconds by way of minutes."""
    random = np.random.default_rng(seed)
    twice = np.tile(traders, 2)
    seconds = folded(twice, np.sort(random.integers(0, DAY, len(twice))))
    minutes = fold.rolled(seconds, lambda t: t // 60 * 60)
    (sketch,) = fold.rolled(minutes, lambda t: t // DAY * DAY)["unique_traders"]
    found: Array = sketch
    return found


def errors(seeds: int) -> None:
    """The relative error of the count of a day, against the number of different hashes."""
    print(f"{'traders':>10} {'days':>5} {'exact':>6} {'mean':>8} {'rms':>8} {'worst':>8}")
    for n in TRADERS:
        some = []
        for seed in range(seeds if n < LARGE else max(seeds // 4, 3)):
            traders = addresses(seed, n)
            some.append(distinct_count(day_of(traders, seed)) / len(set(traders.tolist())) - 1)
        found = np.array(some)
        rms = np.sqrt(np.mean(found**2))
        print(
            f"{n:>10,} {len(found):>5} {np.mean(found == 0):>6.0%} {found.mean():>8.2%} {rms:>8.2%} "
            f"{np.abs(found).max():>8.2%}"
        )
    print(f"said: exact up to {SKETCH - 1:,}; above, a standard error of {(SKETCH - 2) ** -0.5:.2%}\n")


def seconds(work: Callable[..., object], times: int, *arguments: Any) -> float:
    """The quickest of some runs."""
    best = float("inf")
    for _ in range(times):
        began = time.perf_counter()
        work(*arguments)
        best = min(best, time.perf_counter() - began)
    return best


def costs() -> None:
    """Folding with and without traders, and summing sketches beside uniting sets."""
    n = 65_536
    random = np.random.default_rng(1)
    t = np.sort(random.integers(0, 60, n))
    for people in (100, 10_000):
        traders = addresses(1, people)[random.integers(0, people, n)]
        with_ = seconds(folded, 7, traders, t)
        without = seconds(folded, 7, np.zeros(n, np.uint64), t)
        by_set = seconds(set, 7, traders.tolist())
        print(
            f"fold {n:,} events of {people:,} traders within a minute: {(with_ - without) / n * 1e9:.0f} ns an event "
            f"for the traders, {(with_ - without) / by_set:.1f} × as long as putting them into one Python set"
        )
    full = [np.sort(addresses(seed, 3 * SKETCH))[:SKETCH] for seed in range(60)]
    column = np.empty(60, object)
    for i, sketch in enumerate(full):
        column[i] = sketch
    columns: dict[str, Array] = {"market": np.ones(60, np.int32), "t": np.zeros(60, np.int64), "unique_traders": column}
    summed = seconds(fold.merged, 5, Partials("perp", 60, columns))
    sets = [set(sketch.tolist()) for sketch in full]
    united = seconds(set[int]().union, 5, *sets)
    print(f"sum 60 full sketches: {summed * 1e3:.1f} ms, {summed / united:.2f} × as long as uniting 60 Python sets")
    print(f"a full sketch: {full[0].nbytes / 1024:.0f} KB; one of 100 traders: {800 / 1024:.1f} KB")


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seeds", type=int, default=40)
    chosen = arguments.parse_args()
    print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}\n")
    errors(chosen.seeds)
    costs()


if __name__ == "__main__":
    main()
