"""Sealed files: all that a range of committed batches says, in one Parquet file that never changes.

Its rows are the events, by (market, ts, pos), in row groups small enough that those of one market's hour are read
without many others. What else the batches say (what they took back, which identities they let go of, the answers that
are still young) lies packed between the last row group and the footer, which says where, has the SHA-256 of all that
comes before it, and a checksum of itself. Readers of Parquet see a plain file of events.

A file gets its name once it is on the disk and was read again, all of it. From then on it is as good as the journal.
"""

import os
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Struct

from storage import disk, rows
from storage.answers import KEPT
from storage.commits import ROW_BITS, Answer, Commit, Dead
from storage.errors import BrokenStore
from storage.events import DECIMAL, INTEGERS, NUMBERS, Array, Events, concat

FORMAT = 1
KEY = b"candled"  # of our own words among a file's metadata
NEW = ".new"  # the end of a name that is not final yet
VERSION = re.compile(r"\.([0-9]+)\.parquet$")  # of a file that some events were dropped from
GROUP_ROWS = 65_536
STRETCH = 100_000  # events of several batches that say nothing else, handed out as one
FOOTERS = 64  # kept in memory
BLOCK = 1 << 20

ALWAYS = ("event", "price_type")  # never null where they are left out, so they are not
DELTAS = ("ts", "pos", "block_number", "log_index", "trade_no")
RANDOM = ("ident", "digest")
EMPTY = pa.schema([(name, pa.from_numpy_dtype(INTEGERS[name][0])) for name in ("market", "ts", "pos", *ALWAYS)])
SIGNATURE = re.compile(rb'"footer":"([0-9a-f]{8})"')
UNREADABLE = (OSError, pa.ArrowException, msgspec.MsgspecError, ValueError, KeyError, IndexError)

Pause = Callable[[], None]
_fsync = os.fsync  # names of our own, so that a test can make one of them fail
_rename = os.rename


class Sealed(Struct, frozen=True):
    """One sealed file: all batches from `first` to `last`."""

    first: int  # seqs
    last: int
    file: str  # its name
    events: int
    bytes: int
    low_ts: int  # of its events, µs; 0 where it has none
    high_ts: int
    low_market: int
    high_market: int
    content: str  # SHA-256 of all that comes before the footer, in hex
    made: int  # when its newest batches were sealed, Unix seconds
    damaged: str = ""  # why it cannot be read


class Damaged(BrokenStore):
    """A sealed file that is not what it should be."""

    def __init__(self, file: Sealed, why: str) -> None:
        super().__init__(f"sealed events: {file.file} (batches {file.first} to {file.last}): {why}")
        self.file = file
        self.why = why


class _Notes(Struct, frozen=True, array_like=True):
    """What a batch says beside its events."""

    seq: int
    dead: Sequence[Dead]
    forgotten: list[int]
    answers: Sequence[Answer]


class _Footer(Struct, frozen=True):
    """Our own words in the footer."""

    format: int
    first: int
    last: int
    events: int
    low_ts: int
    high_ts: int
    low_market: int
    high_market: int
    content: str
    made: int
    notes: tuple[int, int, int]  # where they begin, bytes there, bytes unpacked
    footer: str = "0" * 8  # CRC-32 of the footer with zeros in this place, in hex


class Within(NamedTuple):
    """Events to look for: of these markets (ascending), low ≤ ts < high, in batches up to `through`."""

    markets: Array
    low: int
    high: int
    through: int


# --- writing


def write(
    folder: Path,
    first: int,
    last: int,
    commits: Iterable[Commit],
    now: float,
    pause: Pause,
    made: float | None = None,
    version: int = 0,
) -> Sealed:
    """Seal the batches from `first` to `last`: batches that say nothing at all may be missing among `commits`.

    Unavailable where there is no room, FailedDisk where the disk fails, BrokenStore where what was written is not what
    is read back: then nothing is left of it. Blocks.
    """
    some: list[Events] = []
    notes: list[_Notes] = []
    for commit in commits:
        if commit.events.n:
            some.append(commit.events)
        young = [answer for answer in commit.answers if answer.at >= now - KEPT]
        if commit.dead or len(commit.forgotten) or young:
            notes.append(_Notes(commit.seq, list(commit.dead), commit.forgotten.tolist(), young))
        pause()
    table = _table(some)
    some.clear()
    pause()
    path = folder / name(first, last, version)
    new = path.with_name(path.name + NEW)
    try:
        folder.mkdir(exist_ok=True)
        footer = _put(new, table, notes, _footer(first, last, table, now if made is None else made))
        pause()
        with new.open("rb") as file:
            _fsync(file.fileno())
            _evict(file.fileno())  # what is read back comes from the disk
        found = _of(path.name, new.stat().st_size, footer)
        _verify(new, found, footer, table, notes)
        _rename(new, path)
        sync(folder)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise disk.meant(error, f"sealed events: {path}") from error
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    return found


def merge(folder: Path, files: Sequence[Sealed], now: float, pause: Pause) -> Sealed:
    """One file in place of several that follow each other, as if made when the last of them was; those stay. Blocks."""
    batches = (commit for file in files for commit in commits(folder, file))
    return write(folder, files[0].first, files[-1].last, batches, now, pause, files[-1].made)


def without(folder: Path, file: Sealed, markets: Array, now: float, pause: Pause) -> Sealed:
    """The same file without the events of these markets, and without what it took back of theirs; that one stays.
    Blocks."""
    mine = set(markets.tolist())

    def left(commit: Commit) -> Commit:
        events = commit.events
        if events.n:
            events = events.take(np.flatnonzero(~np.isin(events.integers("market"), markets)))
        dead = [one for one in commit.dead if one.market not in mine]
        return Commit(commit.seq, events, dead, commit.forgotten, commit.answers)

    batches = (left(commit) for commit in commits(folder, file))
    found = VERSION.search(file.file)
    version = int(found[1]) + 1 if found else 1
    return write(folder, file.first, file.last, batches, now, pause, file.made, version)


def name(first: int, last: int, version: int = 0) -> str:
    """The name of the file of these batches; without some of their events it has another one."""
    return f"{first:012}-{last:012}{f'.{version}' if version else ''}.parquet"


def sync(folder: Path) -> None:
    """Wait until the disk has the names in this folder."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _fsync(file)
    finally:
        os.close(file)


def _table(some: list[Events]) -> pa.Table:
    """All events by (market, ts, pos), with the columns that say something."""
    if not some:
        return EMPTY.empty_table()
    events = concat(some)
    events = events.with_columns(**{each: events.integers(each) for each in ("market", "ts", *ALWAYS)})
    place = np.lexsort(tuple(events.integers(each) for each in ("pos", "ts", "market")))
    table = rows.to_arrow(events.take(place))
    said = [each for each in table.column_names if table.column(each).null_count < table.num_rows]
    return table.select(said)


def _footer(first: int, last: int, table: pa.Table, made: float) -> _Footer:
    ts, market = np.zeros(1, np.int64), np.zeros(1, np.int64)
    if table.num_rows:
        ts, market = table.column("ts").to_numpy(), table.column("market").to_numpy()
    return _Footer(
        FORMAT,
        first,
        last,
        table.num_rows,
        int(ts.min()),
        int(ts.max()),
        int(market.min()),
        int(market.max()),
        content="",
        made=int(made),
        notes=(0, 0, 0),
    )


def _put(path: Path, table: pa.Table, notes: list[_Notes], footer: _Footer) -> _Footer:
    delta = [each for each in DELTAS if each in table.column_names]
    with pa.OSFile(str(path), "wb") as sink:
        writer = pq.ParquetWriter(
            sink,
            table.schema,
            compression="zstd",
            use_dictionary=[each for each in table.column_names if each not in (*DELTAS, *RANDOM)],
            column_encoding=dict.fromkeys(delta, "DELTA_BINARY_PACKED"),
            write_statistics=["market", "ts", "pos"],
            write_page_checksum=True,
            store_decimal_as_integer=True,
        )
        with writer:
            if table.num_rows:  # a row group of none would have no statistics
                writer.write_table(table, row_group_size=GROUP_ROWS)
            unpacked = msgspec.msgpack.encode(notes)
            packed = pa.compress(unpacked, codec="zstd", asbytes=True)
            begin = sink.tell()
            sink.write(packed)
            sink.flush()
            content = _hash(path, begin + len(packed))
            footer = msgspec.structs.replace(footer, content=content, notes=(begin, len(packed), len(unpacked)))
            writer.add_key_value_metadata({KEY: msgspec.json.encode(footer)})
    return _signed(path, footer)


def _signed(path: Path, footer: _Footer) -> _Footer:
    """Put the footer's checksum into it."""
    at, raw = _raw_footer(path)
    place = SIGNATURE.search(raw)
    assert place is not None
    signature = f"{zlib.crc32(raw):08x}"
    with path.open("r+b") as file:
        file.seek(at + place.start(1))
        file.write(signature.encode())
    return msgspec.structs.replace(footer, footer=signature)


def _raw_footer(path: Path) -> tuple[int, bytes]:
    """Where a file's footer begins, and its bytes. Raises OSError or ValueError where it has none."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 8))
        tail = file.read()
        length = int.from_bytes(tail[:4], "little")
        if tail[4:] != b"PAR1" or length > size - 12:
            raise ValueError("it has no footer")
        file.seek(size - 8 - length)
        return size - 8 - length, file.read(length)


def _verify(path: Path, found: Sealed, footer: _Footer, table: pa.Table, notes: list[_Notes]) -> None:
    """See that a file says what it was made of, byte by byte and row by row."""
    wrong = ""
    try:
        if _words(path) != footer or _hash(path, sum(footer.notes[:2])) != footer.content:
            wrong = "its bytes have another hash"
        elif _notes(path, footer) != notes:
            wrong = "what it took back differs"
        else:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                start = 0
                for number in range(file.num_row_groups):
                    group = file.read_row_group(number, use_threads=False)
                    if not group.equals(table.slice(start, group.num_rows)):
                        wrong = f"row group {number} differs"
                    start += group.num_rows
                if start != table.num_rows:
                    wrong = f"it has {start} events instead of {table.num_rows}"
    except UNREADABLE as error:
        wrong = str(error)
    if wrong:
        raise Damaged(found, f"read back after it was written: {wrong}; it was removed, the journal keeps its batches")


def _hash(path: Path, end: int) -> str:
    """SHA-256 of the first `end` bytes."""
    found = sha256()
    with path.open("rb") as file:
        while end:
            block = file.read(min(BLOCK, end))
            if not block:
                break
            found.update(block)
            end -= len(block)
    return found.hexdigest()


if sys.platform == "linux":

    def _evict(file: int) -> None:
        """Forget the kernel's copy of what has been written to the disk."""
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
else:

    def _evict(file: int) -> None:
        """Nothing: this system cannot be asked to forget its copy of a file."""


# --- reading


def sealed(path: Path) -> Sealed:
    """What a file says of itself. Raises one of UNREADABLE where it is none of ours."""
    words = _words(path)
    if words.format != FORMAT:
        raise ValueError(f"it has format {words.format}; this candled reads {FORMAT}")
    return _of(path.name, path.stat().st_size, words)


def _of(file: str, size: int, words: _Footer) -> Sealed:
    said = {each: getattr(words, each) for each in Sealed.__struct_fields__ if hasattr(words, each)}
    return Sealed(file=file, bytes=size, **said)


def check(folder: Path, file: Sealed, *, whole: bool = False) -> str:
    """Why a file cannot be what the manifest says, empty where it can: by a look at its footer, or at the `whole`."""
    path = folder / file.file
    try:
        found = sealed(path)
        if found != msgspec.structs.replace(file, damaged=""):
            return "it is another file than the one that was written"
        if whole and _hash(path, sum(_words(path).notes[:2])) != file.content:
            return "its bytes have another hash than those that were written"
    except FileNotFoundError:
        return "it is missing"
    except UNREADABLE as error:
        return f"it cannot be read: {error}"
    return ""


def commits(
    folder: Path, file: Sealed, after: int = 0, *, ends: Sequence[int] = (), every: bool = False
) -> Iterator[Commit]:
    """The batches of a file after this seq, in order; raises Damaged. Blocks.

    Unless `every` one is asked for, batches that follow each other and have events at most come as one, as the last of
    them; none goes beyond one of `ends`.
    """
    path = folder / file.file
    try:
        words = _words(path)
        if _hash(path, sum(words.notes[:2])) != file.content:
            raise Damaged(file, "its bytes have another hash than those that were written")
        notes = {each.seq: each for each in _notes(path, words)}
        with pq.ParquetFile(path, page_checksum_verification=True) as parquet:
            table = parquet.read(use_threads=False)
        place = np.argsort(table.column("pos").to_numpy())
        events = rows.from_arrow(table.take(pa.array(place)))
    except FileNotFoundError:
        raise Damaged(file, "it is missing") from None
    except UNREADABLE as error:
        raise Damaged(file, f"it cannot be read: {error}") from error
    seqs = events.integers("pos") >> ROW_BITS
    begin = int(np.searchsorted(seqs, after, "right"))
    for seq in _stops(file, seqs, after, notes, ends, every):
        end = int(np.searchsorted(seqs, seq, "right"))
        part = Events(end - begin, {each: column[begin:end] for each, column in events.columns.items()})
        note = notes.get(seq) or _Notes(seq, (), [], ())
        yield Commit(seq, part, note.dead, np.array(note.forgotten, np.uint64), note.answers)
        begin = end


def _stops(
    file: Sealed, seqs: Array, after: int, notes: dict[int, _Notes], ends: Sequence[int], every: bool
) -> Sequence[int]:
    """The seqs with which the batches that are handed out end."""
    if every:
        return range(max(file.first, after + 1), file.last + 1)
    alone = [seq for noted in notes for seq in (noted - 1, noted)]
    found = {file.last, *alone, *ends, *seqs[STRETCH - 1 :: STRETCH].tolist()}
    return sorted(seq for seq in found if max(after, file.first - 1) < seq <= file.last)


def within(folder: Path, file: Sealed, wanted: Within, columns: Sequence[str]) -> Iterator[pa.Table]:
    """The events that are looked for, some at a time, numbers as the ledger's decimals; raises Damaged. Blocks."""
    if not len(wanted.markets) or not file.events or file.first > wanted.through:
        return
    if file.low_ts >= wanted.high or file.high_ts < wanted.low:
        return

    def hit(ends: "_Ends") -> bool:
        at = int(np.searchsorted(wanted.markets, ends.low_market))
        some = at < len(wanted.markets) and wanted.markets[at] <= ends.high_market
        return bool(some) and ends.low_ts < wanted.high and ends.high_ts >= wanted.low

    for table in _groups(folder, file, hit, columns):
        market, ts, pos = (table.column(each).to_numpy() for each in ("market", "ts", "pos"))
        keep = (ts >= wanted.low) & (ts < wanted.high) & (pos < wanted.through + 1 << ROW_BITS)
        keep &= np.isin(market, wanted.markets)
        if keep.any():
            yield _widened(table.filter(pa.array(keep)))


def at(folder: Path, file: Sealed, places: Array, columns: Sequence[str]) -> Iterator[pa.Table]:
    """The events at these places (ascending), numbers as the ledger's decimals; raises Damaged. Blocks."""
    low, high = np.searchsorted(places, [file.first << ROW_BITS, file.last + 1 << ROW_BITS])
    mine = places[low:high]
    if not len(mine) or not file.events:
        return

    def hit(ends: "_Ends") -> bool:
        return bool(np.searchsorted(mine, ends.high_pos, "right") > np.searchsorted(mine, ends.low_pos))

    for table in _groups(folder, file, hit, columns, mine):
        yield _widened(table)


def places(folder: Path, file: Sealed, low: int, high: int) -> Iterator[tuple[Array, Array]]:
    """(market, ts) of all events with low ≤ ts < high, those that were taken back too; raises Damaged. Blocks."""
    if not file.events or file.low_ts >= high or file.high_ts < low:
        return
    for table in _groups(folder, file, lambda ends: ends.low_ts < high and ends.high_ts >= low, ("market", "ts")):
        market, ts = table.column("market").to_numpy(), table.column("ts").to_numpy()
        keep = (ts >= low) & (ts < high)
        yield market[keep], ts[keep]


def identities(folder: Path, file: Sealed, after: int) -> tuple[Array, Array, Array]:
    """(ident, digest, pos) of the events after this place that have an identity; raises Damaged. Blocks."""
    found = list(_groups(folder, file, lambda ends: ends.high_pos > after, ("ident", "digest", "pos")))
    if not found or "ident" not in found[0].column_names:
        return np.zeros(0, np.uint64), np.zeros(0, np.uint64), np.zeros(0, np.int64)
    table = pa.concat_tables(found)
    ident, digest = (table.column(each).combine_chunks().fill_null(0).to_numpy() for each in ("ident", "digest"))
    pos = table.column("pos").to_numpy()
    keep = (ident != 0) & (pos > after)
    return ident[keep], digest[keep], pos[keep]


class Beside(NamedTuple):
    """What batches say beside events."""

    forgotten: Array  # identities that a batch let go of
    seqs: Array  # of the batch that let go of each
    answers: list[Answer]


def beside(folder: Path, file: Sealed, after: int) -> Beside:
    """What the batches of a file after this seq say beside events, in their order; raises Damaged. Blocks."""
    path = folder / file.file
    try:
        notes = [each for each in _notes(path, _words(path)) if each.seq > after]
    except FileNotFoundError:
        raise Damaged(file, "it is missing") from None
    except UNREADABLE as error:
        raise Damaged(file, f"it cannot be read: {error}") from error
    return Beside(
        np.array([one for each in notes for one in each.forgotten], np.uint64),
        np.repeat([each.seq for each in notes], [len(each.forgotten) for each in notes]).astype(np.int64),
        [one for each in notes for one in each.answers],
    )


class _Ends(NamedTuple):
    """Between which values the rows of a row group lie."""

    low_market: int
    high_market: int
    low_ts: int
    high_ts: int
    low_pos: int
    high_pos: int


@lru_cache(FOOTERS)
def _footer_of(path: Path, size: int, content: str) -> tuple[Any, list[_Ends]]:
    """The footer of a file of this size and content, and its row groups' ends."""
    if path.stat().st_size != size:
        raise ValueError(f"it has {path.stat().st_size} bytes instead of {size}")
    if _words(path).content != content:
        raise ValueError("it is another file than the one that was written")
    meta = pq.read_metadata(path)
    number = {meta.schema.column(i).path: i for i in range(meta.num_columns)}
    ends = []
    for i in range(meta.num_row_groups):
        group = meta.row_group(i)
        told = [group.column(number[each]).statistics for each in ("market", "ts", "pos")]
        ends.append(_Ends(*(end for one in told for end in (one.min, one.max))))
    return meta, ends


def _groups(
    folder: Path,
    file: Sealed,
    hit: Callable[[_Ends], bool],
    columns: Sequence[str],
    places: Array | None = None,
) -> Iterator[pa.Table]:
    """These columns of the row groups that may hold what is looked for; with `places`, of the rows there alone."""
    path = folder / file.file
    try:
        meta, ends = _footer_of(path, file.bytes, file.content)
        numbers = [i for i, one in enumerate(ends) if hit(one)]
        if not numbers:
            return
        with pq.ParquetFile(path, metadata=meta, page_checksum_verification=True) as parquet:
            there = [each for each in columns if each in parquet.schema_arrow.names]
            for i in numbers:
                if places is None:
                    yield parquet.read_row_group(i, columns=there, use_threads=False)
                    continue
                pos = parquet.read_row_group(i, columns=["pos"], use_threads=False).column("pos").to_numpy()
                keep = np.isin(pos, places)
                if keep.any():
                    yield parquet.read_row_group(i, columns=there, use_threads=False).filter(pa.array(keep))
    except FileNotFoundError:
        raise Damaged(file, "it is missing") from None
    except UNREADABLE as error:
        raise Damaged(file, f"it cannot be read: {error}") from error


def _widened(table: pa.Table) -> pa.Table:
    fields = [pa.field(each.name, DECIMAL) if each.name in NUMBERS else each for each in table.schema]
    return table.cast(pa.schema(fields))


def _words(path: Path) -> _Footer:
    """What a file's footer says in our own words, once the whole footer is as it was written."""
    _, raw = _raw_footer(path)
    place = SIGNATURE.search(raw)
    if place is None:
        raise ValueError("its footer is not one of ours")
    plain = raw[: place.start(1)] + b"0" * 8 + raw[place.end(1) :]
    if int(place[1], 16) != zlib.crc32(plain):
        raise ValueError("the checksum of its footer does not match")
    return msgspec.json.decode((pq.read_metadata(path).metadata or {})[KEY], type=_Footer)


def _notes(path: Path, footer: _Footer) -> list[_Notes]:
    begin, size, unpacked = footer.notes
    with path.open("rb") as file:
        file.seek(begin)
        packed = file.read(size)
    return msgspec.msgpack.decode(pa.decompress(packed, unpacked, codec="zstd", asbytes=True), type=list[_Notes])
