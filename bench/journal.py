"""What it costs to make a record durable: the journal beside the carriers it could have had.

    python -m bench.journal [FOLDER]     some seconds; FOLDER is where to write, by default the current one

Carriers take turns record by record, so that a busy moment of the disk hits all of them.
"""

import os
import platform
import resource
import sqlite3
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from storage.journal import Journal

PLAN = ((1_000, 300), (40_000, 300), (400_000, 150), (2_000_000, 60))  # payload bytes, records
SCAN_RECORDS = 250, 400_000
REFERENCE = "bare write + fdatasync"


class Carrier(NamedTuple):
    """One way to keep records: append one, be done."""

    name: str
    append: Callable[[int, bytes], None]
    close: Callable[[], None]


class Cost(NamedTuple):
    """Of one carrier and one payload size."""

    seconds: list[float]
    cpu: float


def journal(folder: Path, _: int) -> Carrier:
    it = Journal.open(folder)
    return Carrier("storage.journal", lambda seq, payload: it.append(seq, [payload]), it.close)


def plain(folder: Path, _: int) -> Carrier:
    return _file(REFERENCE, folder, None)


def preallocated(folder: Path, total: int) -> Carrier:
    return _file("the same, preallocated", folder, lambda file: os.posix_fallocate(file, 0, total))


def zeroed(folder: Path, total: int) -> Carrier:
    """Every block is written twice; the first time is not measured."""

    def fill(file: int) -> None:
        for at in range(0, total, 1 << 20):
            os.pwrite(file, bytes(min(1 << 20, total - at)), at)

    return _file("the same, filled with zeros", folder, fill)


def _file(name: str, folder: Path, prepare: Callable[[int], None] | None) -> Carrier:
    file = os.open(folder / "file", os.O_CREAT | os.O_RDWR)
    if prepare:
        prepare(file)
    os.fsync(file)
    end = 0

    def append(_: int, payload: bytes) -> None:
        nonlocal end
        end += os.pwrite(file, payload, end)
        os.fdatasync(file)

    return Carrier(name, append, lambda: os.close(file))


def sqlite(page: int) -> Callable[[Path, int], Carrier]:
    def carrier(folder: Path, _: int) -> Carrier:
        db = sqlite3.connect(folder / "db", isolation_level=None)
        for setting in (f"page_size={page}", "journal_mode=wal", "synchronous=full"):
            db.execute(f"PRAGMA {setting}")
        db.execute("CREATE TABLE journal (seq INTEGER PRIMARY KEY, payload BLOB) STRICT")

        def append(seq: int, payload: bytes) -> None:
            db.execute("INSERT INTO journal VALUES (?, ?)", (seq, payload))

        return Carrier(f"SQLite WAL FULL, {page >> 10} KiB pages", append, db.close)

    return carrier


CARRIERS = (journal, plain, preallocated, zeroed, sqlite(4096), sqlite(65536))


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def measured(place: Path, size: int, records: int) -> dict[str, Cost]:
    """Commit times and CPU seconds of every carrier, in turns."""
    payload = os.urandom(size)
    carriers = []
    for number, make in enumerate(CARRIERS):
        folder = place / f"{size}-{number}"
        folder.mkdir()
        carriers.append(make(folder, (size + 64) * records))
    costs = {carrier.name: Cost([], 0.0) for carrier in carriers}
    for seq in range(1, records + 1):
        for carrier in carriers:
            burnt, started = cpu(), time.perf_counter()
            carrier.append(seq, payload)
            seconds, burnt = time.perf_counter() - started, cpu() - burnt
            costs[carrier.name].seconds.append(seconds)
            costs[carrier.name] = costs[carrier.name]._replace(cpu=costs[carrier.name].cpu + burnt)
    for carrier in carriers:
        carrier.close()
    return costs


def show(size: int, records: int, costs: dict[str, Cost]) -> None:
    print(f"\n{records} records of {size / 1000:,.0f} KB")
    print(f"{'':28} {'p50 ms':>8} {'p99 ms':>8} {'max ms':>8} {'MB/s':>7} {'ratio':>6} {'CPU ms/MB':>10}")
    megabytes = size * records / 1e6
    for name, (seconds, burnt) in costs.items():
        ordered = sorted(seconds)
        row = [ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100], ordered[-1]]
        ratio = sum(seconds) / sum(costs[REFERENCE].seconds)
        print(
            f"{name:28} {row[0] * 1e3:8.2f} {row[1] * 1e3:8.2f} {row[2] * 1e3:8.2f} {megabytes / sum(seconds):7.0f}"
            f" {ratio:6.2f} {burnt / megabytes * 1e3:10.2f}"
        )


def scan(place: Path) -> None:
    """How fast a start reads the records again."""
    records, size = SCAN_RECORDS
    payload = os.urandom(size)
    log, db = place / "scan", place / "scan.db"
    with Journal.open(log) as it:
        for seq in range(1, records + 1):
            it.append(seq, [payload])
    carrier = sqlite(4096)(place, 0)
    for seq in range(1, records + 1):
        carrier.append(seq, payload)
    carrier.close()
    (place / "db").rename(db)
    megabytes = records * size / 1e6
    print(f"\n{records} records of {size / 1000:,.0f} KB read again, checksums verified")

    def line(name: str, started: float) -> None:
        seconds = time.perf_counter() - started
        print(f"{name:50} {seconds * 1e3:8.1f} ms {megabytes / seconds:7.0f} MB/s")

    started = time.perf_counter()
    with Journal.open(log) as it:
        line("Journal.open: the last segment, from the disk", started)
        started = time.perf_counter()
        assert sum(len(content) for _, content in it.since(0)) == records * size
        line("Journal.since(0), cached", started)
    for name, evict in (("SQLite, from the disk, CRC of our own", True), ("SQLite, cached, CRC of our own", False)):
        if evict:
            with db.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        started = time.perf_counter()
        for (content,) in sqlite3.connect(db).execute("SELECT payload FROM journal ORDER BY seq"):
            zlib.crc32(content)
        line(name, started)


def machine(place: Path) -> str:
    cpus = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    holding = max((m for m in mounts if place.is_relative_to(m[1])), key=lambda m: len(m[1]))
    return (
        f"{len(cpus)} × {cpus[0]}, Linux {platform.release()}, {holding[2]} on {holding[0]}, "
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    )


def main() -> None:
    within = Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    with TemporaryDirectory(dir=within, prefix=".bench-journal-") as folder:
        place = Path(folder)
        print(machine(place))
        for size, records in PLAN:
            show(size, records, measured(place, size, records))
        scan(place)


if __name__ == "__main__":
    main()
