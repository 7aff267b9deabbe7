"""Whether files hold what was written into them, and the tables what the journal says."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from storage import candles, manifest, parquet, partitions, rows, sealed
from storage.calendar import MICROS
from storage.commits import ROW_BITS, decode
from storage.errors import BrokenStore, CandledError
from storage.events import DECIMAL, EXACT, INTEGERS, NUMBERS, TEXTS, Array, Events, concat
from storage.findings import Ledger, Source, Spots
from storage.journal import Journal
from storage.partitions import Part
from storage.refold import Pause
from storage.sealed import Sealed

# --- files


def files(source: Source) -> tuple[list[Sealed], list[Part]]:
    """The files of events and of bars that the store names."""
    with source.snapshot() as db:
        return manifest.listed(db), partitions.everything(db)


def wrong_events(source: Source, file: Sealed) -> str:
    """Why a sealed file is not what was written, or empty; all of it is read."""
    if not file.content:
        return file.damaged
    return sealed.check(source.folder / manifest.FOLDER, file, whole=True)


def wrong_bars(source: Source, part: Part, pause: Pause) -> str:
    """Why a file of bars is not what was written, or empty; all of it is read."""
    path = source.folder / "archive" / part.path
    try:
        size, footer = path.stat().st_size, parquet.footer_sum(path)
        if (size, footer) != (part.bytes, part.footer):
            return f"expected {part.bytes} bytes and the footer {part.footer:08x}, found {size} and {footer:08x}"
        for _ in parquet.verified(path, part.rows, part.hash):
            pause()
    except FileNotFoundError:
        return "it is missing"
    except (*parquet.BROKEN, BrokenStore) as error:
        return str(error).removeprefix(f"{path}: ")
    return ""


def wrong_journal(source: Source, pause: Pause) -> str:
    """Why the journal is not what was written, or empty; all of it is read."""
    try:
        for _ in source.journal.since(source.journal.first_seq - 1):
            pause()
    except CandledError as error:
        return str(error)
    return ""


# --- the events that are not sealed


class Unsealed(NamedTuple):
    """How the events of the database's tables differ from those of the journal."""

    told: Ledger
    wanted: Events  # those that the tables lack, or have otherwise
    unwanted: Array  # places that must not be there, or not so
    spots: Spots


def unsealed(source: Source, pause: Pause) -> Unsealed:
    """Compare the events that are in the database's tables with what the journal says."""
    count = 0
    wanted: list[Events] = [Events(0, {})]
    missing = different = 0
    unwanted: list[Array] = []
    spots = Spots()
    with source.snapshot() as db:
        through, applied = manifest.through(db), candles.applied(db)
        expected = through
        for some in _batches(source.journal, through, applied):
            low, high = expected + 1 << ROW_BITS, some[-1][0] + 1 << ROW_BITS
            expected = some[-1][0]
            said = concat([events for _, events in some])
            if said.n:
                said = said.take(np.flatnonzero(manifest.living(db, said.integers("pos"))))
            kept = rows.from_arrow(
                db.sql(
                    "SELECT * FROM ledger WHERE pos >= ? AND pos < ? ORDER BY pos", params=[low, high]
                ).to_arrow_table()
            )
            count += said.n
            lacking, odd, extra = _told_apart(said, kept)
            missing += len(lacking)
            different += len(odd)
            unwanted += [kept.integers("pos")[extra], said.integers("pos")[odd]]
            again = np.concatenate([lacking, odd])
            if len(again):
                wanted.append(said.take(again))
                spots.add(said.integers("market")[again], said.integers("ts")[again] // MICROS)
            if len(extra):
                spots.add(kept.integers("market")[extra], kept.integers("ts")[extra] // MICROS)
            pause()
        lost = db.execute(
            "SELECT pos, market, ts FROM ledger WHERE pos < ? OR pos >= ?",
            [through + 1 << ROW_BITS, applied + 1 << ROW_BITS],
        ).fetchnumpy()
        if len(lost["pos"]):
            unwanted.append(lost["pos"].astype(np.int64))
            spots.add(lost["market"].astype(np.int64), lost["ts"] // MICROS)
    gone = np.concatenate([np.zeros(0, np.int64), *unwanted])
    told = Ledger(events=count, missing=missing, extra=len(gone) - different, different=different)
    some_wanted = [events for events in wanted if events.n]
    return Unsealed(told, concat(some_wanted) if some_wanted else Events(0, {}), gone, spots)


def _batches(journal: Journal, after: int, through: int) -> Iterator[list[tuple[int, Events]]]:
    """The journal's batches, as many at a time as make some 100,000 events."""
    some: list[tuple[int, Events]] = []
    count = 0
    if through <= after:
        return
    for seq, record in journal.since(after):
        if seq > through:
            break
        some.append((seq, decode(seq, record).events))
        count += some[-1][1].n
        if count >= 100_000:
            yield some
            some, count = [], 0
    if some:
        yield some


def _told_apart(said: Events, kept: Events) -> tuple[Array, Array, Array]:
    """Rows of `said` that `kept` lacks, rows of `said` that it has otherwise, rows of `kept` that are not in `said`."""
    ours, theirs = said.integers("pos"), kept.integers("pos")
    lacking = np.flatnonzero(~np.isin(ours, theirs))
    extra = np.flatnonzero(~np.isin(theirs, ours))
    both = np.flatnonzero(np.isin(ours, theirs))
    if not len(both):
        return lacking, both, extra
    one = said.take(both)
    other = kept.take(np.searchsorted(theirs, ours[both]))
    odd = np.zeros(len(both), np.bool_)
    for name in INTEGERS:
        if name in one or name in other:
            odd |= one.integers(name) != other.integers(name)
    for name in (*NUMBERS, *TEXTS):
        if name in one or name in other:
            left, right = _said(one, name), _said(other, name)
            if left != right:
                odd |= np.array([a != b for a, b in zip(left.to_pylist(), right.to_pylist(), strict=True)])
    return lacking, both[odd], extra


def _said(events: Events, name: str) -> pa.ChunkedArray:
    """A column of numbers or texts as the ledger keeps it."""
    kind = DECIMAL if name in NUMBERS else pa.string()
    if name not in events:
        return pa.chunked_array([pa.nulls(events.n, kind)])
    return (
        rows.to_arrow(Events(events.n, {each: events.columns[each] for each in (name, EXACT + name) if each in events}))
        .column(name)
        .cast(kind)
    )
