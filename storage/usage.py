"""How much of the disk each part of a data directory has."""

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
ASIDE = ".broken-"  # in the name of a database that was set aside


def used(data: Path) -> dict[str, int]:
    """Bytes by part, but for the archive, which knows its own; a database that was set aside is `aside`. Blocks."""
    found = dict.fromkeys([*PARTS.values(), "aside"], 0)
    for path in data.iterdir():
        for beginning, part in PARTS.items():
            if path.name.startswith(beginning):
                found["aside" if ASIDE in path.name else part] += _size(path)
                break
    return found


def _size(path: Path) -> int:
    try:
        if path.is_dir():
            return sum(_size(inner) for inner in path.iterdir())
        return path.stat().st_size
    except FileNotFoundError:  # it went meanwhile
        return 0
