"""Kill the daemon under load again and again, and count where the kills fell.

python -m bench.soak [--kills 1000] [--seed 1] [--folder FOLDER]     two to three seconds a kill
"""

import argparse
import platform
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.kills import Invented, Killing, Real
from bench.victim import PARTS

INSTANTS = ("any", *PARTS, "any", "recovery")
EACH = 100  # kills of one data directory; then a new one, so that histories stay short enough to look at
FIGURES = ("events acknowledged", "kills", "kills on random data", "kills on real data", "bars compared")


def main() -> None:
    """Run, and end with 1 where anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--each", type=int, default=EACH, help="kills of one data directory")
    parser.add_argument("--folder", type=Path, help="where to write; by default a temporary directory")
    asked = parser.parse_args()
    print(f"{platform.platform()}, Python {platform.python_version()}, seed {asked.seed}", flush=True)
    began = time.perf_counter()
    totals: Counter[str] = Counter()
    slowest = 0.0
    with TemporaryDirectory(dir=asked.folder) as folder:
        for turn, start in enumerate(range(0, asked.kills, asked.each)):
            clock, what = ((Invented(), "random"), (Real(), "real"))[turn % 2]
            killing = Killing(Path(folder) / str(start), asked.seed + start, clock)
            for number in range(start, min(start + asked.each, asked.kills)):
                killing.kill(INSTANTS[number % len(INSTANTS)])
                if number % 50 == 49:
                    print(f"{number + 1} kills, {time.perf_counter() - began:.0f} s", flush=True)
            killing.end()
            totals += killing.counts
            totals[f"kills on {what} data"] += killing.counts["kills"]
            slowest = max(slowest, killing.slowest)
    for name in FIGURES:
        print(f"{name:28}{totals.pop(name, 0):>12,}")
    print(f"{'differences':28}{0:>12}")  # `Wrong` would have ended it
    print(f"{'slowest boot':28}{slowest:>10.2f} s")
    for name, count in sorted(totals.items()):
        print(f"  {name:26}{count:>12,}")
    missed = [part for part in PARTS if not totals[f"in {part}"]]
    if missed and asked.kills >= len(INSTANTS):
        sys.exit(f"no kill fell into: {', '.join(missed)}")
    print("nothing acknowledged was missing, and nothing was there twice")


if __name__ == "__main__":
    main()
