"""Names for what is put aside: damaged files, and what was cut off one. Nothing removes them but their owner."""

import time
from itertools import count
from pathlib import Path


def free_name(path: Path, why: str) -> Path:
    """A name beside this one that nothing has, such as `candles.duckdb.broken-20261114T120000`."""
    stem = f"{path.name}.{why}-{time.strftime('%Y%m%dT%H%M%S')}"
    names = (path.with_name(stem if number == 1 else f"{stem}-{number}") for number in count(1))
    return next(name for name in names if not name.exists())
