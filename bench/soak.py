"""Kill the daemon under load again and again, and count where the kills fell.

python -m bench.soak [--kills 1000] [--seed 1] [--folder FOLDER]     two to three seconds a kill
"""

import argparse
import platform
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.kills import Killing
from bench.victim import PARTS

INSTANTS = ("any", "commit", "any", "flush", "recovery", "any", "compaction", "commit", "spill", "recovery")
EACH = 250  # kills of one data directory; then a new one, so that histories stay short enough to look at


def main() -> None:
    """Run, and end with 1 where anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where to write; by default a temporary directory")
    asked = parser.parse_args()
    print(f"{platform.platform()}, Python {platform.python_version()}, seed {asked.seed}", flush=True)
    began = time.perf_counter()
    totals: dict[str, int] = {}
    with TemporaryDirectory(dir=asked.folder) as folder:
        for start in range(0, asked.kills, EACH):
            killing = Killing(Path(folder) / str(start), asked.seed + start)
            for number in range(start, min(start + EACH, asked.kills)):
                killing.kill(INSTANTS[number % len(INSTANTS)])
                if number % 50 == 49:
                    print(
                        f"{number + 1} kills, {time.perf_counter() - began:.0f} s: {dict(killing.counts)}", flush=True
                    )
            killing.end()
            for name, count in killing.counts.items():
                totals[name] = totals.get(name, 0) + count
    for name, count in totals.items():
        print(f"{name:24}{count:>10,}")
    missed = [part for part in PARTS if not totals.get(f"in {part}")]
    if missed:
        sys.exit(f"no kill fell into: {', '.join(missed)}")
    print("nothing acknowledged was missing, and nothing was there twice")


if __name__ == "__main__":
    main()
