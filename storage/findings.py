"""What verification looks at and what it tells: sources, differences, days, files."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from duckdb import DuckDBPyConnection as Connection
from msgspec import Struct, structs

from storage import archive, candles, manifest
from storage.events import Array
from storage.journal import Journal
from storage.refold import Markets, View
from storage.sealed import Sealed

ANYTHING = {"low_market": 0, "high_market": 2**31 - 1, "low_ts": -(2**62), "high_ts": 2**62}
Snapshot = Callable[[], AbstractContextManager[Connection]]


class Difference(Struct, frozen=True):
    """One measure of one bar that is not what the ledger says, or a whole bar (`bar`)."""

    kind: str
    resolution: str
    market: str
    time: int  # of the bar, UTC seconds
    measure: str
    stored: str | None  # None: there is none
    refolded: str | None
    where: Literal["store", "memory"] = "store"


class Differences(Struct, frozen=True, tag="differences"):
    """Some differences."""

    found: list[Difference]


class Progress(Struct, frozen=True, tag="progress"):
    """So many events more were folded again."""

    events: int


class Rung(Struct, frozen=True):
    """The bars of one stored resolution in one day."""

    resolution: str
    bars: int  # by the ledger
    hash: str  # of them
    stored: str  # of those that are stored
    differences: int  # bars


class Day(Struct, frozen=True, kw_only=True, tag="day"):
    """How one day of one kind of market compared."""

    kind: str
    day: str
    seq: int  # of the snapshot
    markets: int
    rungs: list[Rung]
    differences: int  # bars, at all resolutions
    problems: list[str]  # what could not be compared because it is damaged or lost
    skipped: list[str]  # what cannot be folded again by decision: raw events that were dropped
    repaired: int = 0  # bars


class Checked(Struct, frozen=True, kw_only=True, tag="file"):
    """A file that was read again, all of it."""

    path: str
    problem: str = ""
    repaired: bool = False


class Ledger(Struct, frozen=True, kw_only=True, tag="ledger"):
    """The events of the database, compared with those of the journal: what is not sealed yet."""

    events: int
    missing: int
    extra: int
    different: int
    repaired: bool = False

    @property
    def wrong(self) -> int:
        """How many events that is."""
        return self.missing + self.extra + self.different


class Unit(NamedTuple):
    """What is compared within one snapshot, in pieces: one day, or some that have little."""

    kind: str
    days: tuple[int, ...]  # the beginnings of those that have something, UTC seconds
    events: int  # about so many


class Source(NamedTuple):
    """What is compared."""

    snapshot: Snapshot
    journal: Journal
    markets: Markets
    folder: Path  # the data directory


class Spots:
    """Instants at which something differs: markets and seconds, one for all bars that it lies in."""

    def __init__(self) -> None:
        self._markets: list[Array] = []
        self._seconds: list[Array] = []

    def add(self, markets: Array, seconds: Array) -> None:
        """Note some."""
        self._markets.append(markets.astype(np.int64))
        self._seconds.append(seconds.astype(np.int64))

    def all(self) -> list[tuple[int, int]]:
        """(market, second), each once."""
        if not self._markets:
            return []
        both = np.unique(np.stack([np.concatenate(self._markets), np.concatenate(self._seconds)]), axis=1)
        return list(zip(*both.tolist(), strict=True))


@contextmanager
def viewed(source: Source) -> Iterator[View]:
    """One snapshot of the store."""
    with source.snapshot() as db, archive.summing(source.folder / "archive") as adder:
        yield view_of(source, db, adder)


def view_of(source: Source, db: Connection, adder: Connection) -> View:
    files = [file for file in manifest.listed(db) if not file.damaged]
    return View(db, adder, source.markets, source.journal, candles.applied(db), files)


def lost_files(db: Connection) -> list[Sealed]:
    """The sealed files whose events cannot be had, though bars were made of them.

    Of what was missing when the store was rebuilt nobody knows any more what it held: it may be of anything.
    """
    lost = [file for file in manifest.listed(db) if file.damaged]
    return [file if file.content else structs.replace(file, **ANYTHING) for file in lost]
