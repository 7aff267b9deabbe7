"""Search among a million registered markets: how long each way of typing takes, and how long it may.

    python -m bench.search [--markets 1000000] [--data DIR]     DIR keeps the registry, to use it again

Time is the thread's own; what passes on a busy machine says more about the others, and is printed beside it. Every
market has a volume that falls with its number, as the ranking wants it.
"""

import argparse
import gc
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.harness import percentile
from bench.registry import BASES, a_market, register
from storage import markets
from storage.search import Busy
from storage.state import State

MOST_MS = 20.0
TIMES = 200
Query = tuple[str, str | None]  # what is typed, and the type it is narrowed to


def queries(count: int) -> dict[str, Callable[[random.Random], Query]]:
    """By name, ways of typing."""

    def symbol(chance: random.Random) -> str:
        return str(a_market(chance.randrange(count))["market_symbol"]).lower()

    def swapped(text: str, chance: random.Random) -> str:
        at = chance.randrange(len(text) - 1)
        return text[:at] + text[at + 1] + text[at] + text[at + 2 :]

    def word(chance: random.Random) -> str:
        return chance.choice(("futures", "perpetual", "index", "stable", "basket", "volatility", "prediction"))

    def bare(chance: random.Random) -> str:
        return chance.choice(BASES).lower()

    return {
        "nothing": lambda _: ("", None),
        "a whole symbol": lambda chance: (symbol(chance), None),
        "one letter": lambda chance: (chance.choice("abcdefghijklmnopqrstuvwxyz0123456789"), None),
        "the first two letters": lambda chance: (symbol(chance)[:2], None),
        "the first five letters": lambda chance: (symbol(chance)[:5], None),
        "letters four to eight": lambda chance: (symbol(chance)[3:8], None),
        "a word of the name": lambda chance: (word(chance), None),
        "the inside of a word of the name": lambda chance: (word(chance)[1:-1], None),
        "two words": lambda chance: (f"{bare(chance)} {word(chance)}", None),
        "the beginnings of two words": lambda chance: (f"{word(chance)[:3]} {bare(chance)[:3]}", None),
        "three letters, of cards": lambda chance: (bare(chance)[:3], "card"),
        "a word, of cards": lambda chance: (word(chance), "card"),
        "a symbol with two letters swapped": lambda chance: (swapped(symbol(chance), chance), None),
        "a word with two letters swapped": lambda chance: (swapped(word(chance), chance), None),
        "two words, both misspelt": lambda chance: (
            f"{swapped(bare(chance), chance)} {swapped(word(chance), chance)}",
            None,
        ),
        "two letters that nothing has": lambda chance: (chance.choice("qxzjvw") + chance.choice("xzqwv"), None),
        "what nothing has": lambda chance: ("".join(chance.choices("qxzjvw", k=chance.randint(3, 12))), None),
    }


def measure(state: State, count: int) -> bool:
    """Print what each takes; whether none takes too long."""
    chance = random.Random(4)
    busy = Busy.of(1e9 / np.arange(1, count + 2)[::-1])
    fine = True
    gc.collect()
    gc.freeze()  # as the daemon does
    for name, query in queries(count).items():
        took, used, results = [], [], 0
        for _ in range(TIMES):
            typed, type_ = query(chance)
            began, began_thread = time.perf_counter(), time.thread_time()
            results += bool(markets.search(state, typed, None, type_, None, 30, busy))
            used.append((time.thread_time() - began_thread) * 1e3)
            took.append((time.perf_counter() - began) * 1e3)
        p50, p99 = percentile(used, 50), percentile(used, 99)
        fine &= p50 <= MOST_MS
        over = "" if p99 <= MOST_MS else "   over at p99" if p50 <= MOST_MS else "   OVER"
        print(
            f"  {name:<40} CPU p50 {p50:6.2f} ms  p99 {p99:6.2f} ms   passed p50 {percentile(took, 50):6.2f} ms   "
            f"found by {results / TIMES:4.0%}{over}"
        )
    return fine


def main() -> int:
    """Print the figures; 1 where a median is beyond the target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markets", type=int, default=1_000_000)
    parser.add_argument("--data", type=Path, help="keep the registry here, to use it again")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        data = options.data or Path(temporary)
        data.mkdir(parents=True, exist_ok=True)
        path = data / f"{options.markets}.db"
        register(path, options.markets)
        with State.open(path) as state:
            print(f"search of 30 among {options.markets:,} markets, one thread; at most {MOST_MS:g} ms:")
            return 0 if measure(state, options.markets) else 1


if __name__ == "__main__":
    raise SystemExit(main())
