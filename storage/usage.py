"""How much of the disk each part of a data directory has."""

from collections.abc import Iterator
from pathlib import Path

# By the beginning of a name in the data directory.
PARTS = {
    "journal": "journal",
    "raw": "raw",
    "identities": "identities",
    "candles.duckdb": "duckdb",
    "state.db": "state",
    "answers.db": "answers",
    "rejects.db": "rejects",
}
ASIDE = (".broken-", ".cut-")  # in the name of a database that was set aside, of what was cut off the journal


def used(data: Path) -> dict[str, int]:
    """Bytes by part, but for the archive, which knows its own; what was set aside is `aside`. Blocks."""
    found = dict.fromkeys([*PARTS.values(), "aside"], 0)
    for path in data.iterdir():
        for beginning, part in PARTS.items():
            if path.name.startswith(beginning):
                for name, size in _sizes(path):
                    found["aside" if any(aside in name for aside in ASIDE) else part] += size
                break
    return found


def _sizes(path: Path) -> Iterator[tuple[str, int]]:
    """The names and sizes of the files that lie there."""
    try:
        if path.is_dir():
            for inner in path.iterdir():
                yield from _sizes(inner)
        else:
            yield path.name, path.stat().st_size
    except FileNotFoundError:  # it went meanwhile
        return
