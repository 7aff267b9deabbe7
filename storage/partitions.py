"""Which bars lie in the archive: one row for each of its files, changed in one transaction with the rows in DuckDB.

A partition is the bars of one kind at one stored resolution in one period, a UTC day or month. It is in the archive
with everything that the batches up to its `seq` say about it, in files that divide the markets among them.
"""

import logging
import os
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pyarrow as pa
from duckdb import DuckDBPyConnection as Connection
from msgspec import Struct, structs

from storage import parquet
from storage.errors import Unavailable
from storage.prepared import prepared

log = logging.getLogger(__name__)

FOLDERS = {1: "1s", 60: "1m", 300: "5m", 900: "15m", 3600: "1h", 86400: "1d"}  # of the stored resolutions
MONTHLY = (3600, 86400)
DAY = 86400
FILE = re.compile(r"([0-9]+)-([0-9]+)\.parquet")
ASIDE = ".broken"  # the end of the name of a file that could not be read when the list was made again


class Partition(Struct, frozen=True, order=True):
    """Bars of one kind at one rung with low ≤ t < high."""

    kind: str
    rung: int
    low: int
    high: int

    @property
    def period(self) -> str:
        """2026-11-14, or 2026-11 of the coarse resolutions."""
        return datetime.fromtimestamp(self.low, UTC).strftime("%Y-%m" if self.rung in MONTHLY else "%Y-%m-%d")

    @property
    def folder(self) -> Path:
        """Where its files lie, within the archive."""
        return Path(self.kind, FOLDERS[self.rung], self.period)

    def __str__(self) -> str:
        return str(self.folder)


def of_bar(kind: str, rung: int, t: int) -> Partition:
    """The partition of a bar."""
    if rung not in MONTHLY:
        return Partition(kind, rung, t // DAY * DAY, t // DAY * DAY + DAY)
    first = datetime.fromtimestamp(t // DAY * DAY, UTC).replace(day=1)
    later = first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)
    return Partition(kind, rung, int(first.timestamp()), int(later.timestamp()))


class Part(Struct, frozen=True, order=True):
    """One file of a partition: some markets' rows."""

    kind: str
    rung: int
    low: int  # of the partition's period
    high: int
    generation: int
    part: int
    seq: int  # the whole partition has everything up to this batch
    market_low: int
    market_high: int
    t_low: int
    t_high: int
    rev_high: int
    rows: int
    volume: str  # the sum of all volumes, in units of 1e-18
    trades: int  # the sum of all counts
    hash: str  # of the rows: `parquet.Fingerprint`
    bytes: int  # of the file
    footer: int  # CRC-32 of its footer
    moved: float  # when, Unix seconds

    @property
    def partition(self) -> Partition:
        """The partition that it is a part of."""
        return Partition(self.kind, self.rung, self.low, self.high)

    @property
    def path(self) -> Path:
        """Its file, within the archive."""
        return self.partition.folder / f"{self.generation}-{self.part}.parquet"


class Words(Struct, frozen=True):
    """What a file says of itself, so that the list can be made again from the files."""

    epoch: str
    parts: int  # of its generation
    part: Part  # but for what can only be known of a whole file: `bytes` and `footer`


class BrokenPartition(Unavailable):
    """Bars that cannot be read, because a file of theirs is gone or damaged; everything else can."""

    def __init__(self, part: Part, error: Exception) -> None:
        self.missing = isinstance(error, FileNotFoundError)
        why = "missing" if self.missing else str(error)
        super().__init__(f"the bars of {part.partition} cannot be read: archive/{part.path}: {why}", retry_after=60)
        self.part = part


FIELDS = Part.__struct_fields__
SELECT = f"SELECT {', '.join(FIELDS)} FROM archived"


def folder(db: Connection) -> Path:
    """The archive beside this database."""
    ((path,),) = db.execute("SELECT path FROM duckdb_databases() WHERE database_name = current_database()").fetchall()
    return Path(path).with_name("archive")


def among(db: Connection, kind: str, rung: int, markets: tuple[int, int], times: tuple[int, int]) -> list[Part]:
    """The files that may hold bars of markets from … to … with from ≤ t < to, oldest first."""
    if not prepared(db, "SELECT 1 FROM archived LIMIT 1").fetchall():
        return []  # told in a fifth of the time
    rows = db.execute(
        f"{SELECT} WHERE kind = ? AND rung = ? AND market_high >= ? AND market_low <= ? AND t_high >= ? AND t_low < ? "
        "ORDER BY low, part",
        [kind, rung, *markets, *times],
    ).fetchall()
    return [Part(*row) for row in rows]


def of(db: Connection, where: Partition) -> list[Part]:
    """The files of a partition, in order of market; none where it is not in the archive."""
    rows = db.execute(
        f"{SELECT} WHERE kind = ? AND rung = ? AND low = ? ORDER BY part", [where.kind, where.rung, where.low]
    ).fetchall()
    return [Part(*row) for row in rows]


def everything(db: Connection) -> list[Part]:
    """All files."""
    return [Part(*row) for row in db.execute(f"{SELECT} ORDER BY kind, rung, low, part").fetchall()]


def spans(db: Connection, kind: str, rung: int) -> list[tuple[int, int]]:
    """The stretches of time, from … to, whose bars of one resolution are in the archive."""
    rows = db.execute(
        "SELECT DISTINCT low, high FROM archived WHERE kind = ? AND rung = ? ORDER BY low", [kind, rung]
    ).fetchall()
    joined: list[tuple[int, int]] = []
    for low, high in rows:
        if joined and joined[-1][1] == low:
            joined[-1] = joined[-1][0], high
        else:
            joined.append((low, high))
    return joined


def replace(db: Connection, where: Partition, parts: Sequence[Part]) -> None:
    """These are the files of a partition from now on."""
    db.execute("DELETE FROM archived WHERE kind = ? AND rung = ? AND low = ?", [where.kind, where.rung, where.low])
    add(db, parts)


def add(db: Connection, parts: Sequence[Part]) -> None:
    """Put files on the list."""
    if parts:
        columns = {name: [getattr(part, name) for part in parts] for name in FIELDS}
        rows = pa.table(columns)  # noqa: F841 - DuckDB reads the table by its name here
        db.execute("INSERT INTO archived BY NAME SELECT * FROM rows")


def found(archive: Path, last: int) -> list[Part]:
    """The list as the files themselves have it: of each partition the newest generation that is complete.

    A file that cannot be read, or that knows of batches after `last`, is set aside under a name of its own.
    """
    generations: dict[tuple[Partition, int], list[Words]] = {}
    for path in sorted(archive.glob("*/*/*/*.parquet")):
        if FILE.fullmatch(path.name) is None:
            continue
        try:
            said = _words(path)
            if archive / said.part.path != path:
                raise ValueError(f"it says that it is {said.part.path}")
            if said.part.seq > last:
                raise ValueError(f"it reaches to batch {said.part.seq}, the newest is {last}")
        except (*parquet.BROKEN, KeyError, msgspec.MsgspecError) as error:
            aside = path.with_name(path.name + ASIDE)
            log.error("archive: %s was set aside as %s: %s", path, aside.name, error)
            os.replace(path, aside)
        else:
            generations.setdefault((said.part.partition, said.part.generation), []).append(said)
    newest: dict[Partition, list[Words]] = {}
    for (where, _), some in sorted(generations.items(), key=lambda item: item[0][1]):
        if len(some) == some[0].parts:
            newest[where] = some
    return [said.part for some in newest.values() for said in sorted(some, key=lambda said: said.part.part)]


def _words(path: Path) -> Words:
    said = msgspec.json.decode(parquet.words(path), type=Words)
    size, footer = path.stat().st_size, parquet.footer_sum(path)
    return structs.replace(said, part=structs.replace(said.part, bytes=size, footer=footer))


def tidy(archive: Path, known: Iterable[Part]) -> int:
    """Remove what is not on the list: what a crash left between two steps; how many files it was."""
    kept = {archive / part.path for part in known}
    gone = 0
    for path in archive.glob("*/*/*/*"):
        if path not in kept and (path.name.endswith(parquet.NEW) or FILE.fullmatch(path.name)):
            path.unlink(missing_ok=True)
            gone += 1
    return gone


def damage(archive: Path, known: Iterable[Part]) -> dict[Partition, str]:
    """The partitions with a file that is not there, or not as long as it was, and why: what a look can tell."""
    wrong = {}
    for part in known:
        try:
            size = (archive / part.path).stat().st_size
        except OSError as error:
            wrong[part.partition] = str(BrokenPartition(part, error))
        else:
            if size != part.bytes:
                why = ValueError(f"expected {part.bytes} bytes, found {size}")
                wrong[part.partition] = str(BrokenPartition(part, why))
    return wrong
