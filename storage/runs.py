"""Files of identities: entries in order of identity, written once, with a filter that turns nearly every stranger away.

A file covers the spills from its first to its last number, which are its name, and says in `through` up to which seq
everything is in it and in the files before it:

    header, one page | filter | blocks of entries | first identity and checksum of each block

All integers are little-endian. Header, filter and block table are checked when the file is opened, each block when it
is first read.
"""

import errno
import mmap
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.errors import BrokenStore, FailedDisk, Unavailable

Words = NDArray[np.uint64]
Rows = NDArray[np.int64]
Array = NDArray[Any]
Part = tuple[int, int, Array]  # some blocks of a filter, from and to behind, and the entries they are made of

ENTRY = np.dtype([("ident", "<u8"), ("digest", "<u8"), ("pos", "<i8")])
GONE = -1  # the pos of an entry that says: forgotten, whatever older runs know
PAGE = 4096
BLOCK = 2730  # entries; just under 64 KiB, which one read brings in
BLOCK_HEAD = np.dtype([("ident", "<u8"), ("crc", "<u4")])

# The filter: planes of a word for each of its blocks, and each identity with three bits in its block's word of each.
# Nearly all strangers are known by the first plane, a quarter of the filter, so little memory is kept busy. Blocks are
# chosen by an identity's upper half, hence come in the order of the entries and can be made and written in pieces.
PLANES = 4
BLOCK_IDENTS = 8  # so 32 bits for each identity, and one stranger in some 45,000 gets by
STEP = 8192  # filter blocks, and with them some 65,000 entries, made at once
SCATTER = np.uint64(0x9E3779B97F4A7C15)

# Magic, version, first and last spill, through, entries, filter blocks, checksums of filter and block table, epoch;
# then a checksum of these.
HEADER = struct.Struct("<4sIQQQQQIII")
MAGIC = b"CNDI"
VERSION = 1
CRC = struct.Struct("<I")
NAME = re.compile(r"([0-9]{10})-([0-9]{10})\.identities")
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)

_32, _12_BITS = np.uint64(32), np.uint64(4095)
_PLANE_SHIFT = tuple(np.uint64(64 - 12 * (j + 1)) for j in range(PLANES))


def _masks() -> Words:
    """4,096 times three bits, some of them the same, at places in disorder."""
    g = np.arange(1, 4097, dtype=np.uint64) * SCATTER
    masks = np.zeros(4096, np.uint64)
    for shift in (58, 52, 46):
        masks |= np.uint64(1) << ((g >> np.uint64(shift)) & np.uint64(63))
    return masks


MASKS = _masks()

# Names of our own, so that a test can make one of them fail.
_fsync = os.fsync
_pwrite = os.pwrite


class Damaged(BrokenStore):
    """A file that is not what was written: only a rebuild helps."""


class Run:
    """One file of entries, mapped into memory; it never changes."""

    def __init__(self, path: Path, epoch: int, *, fresh: bool = False) -> None:
        """Check what is small, and the filter; `Damaged` says what is wrong. What is `fresh` was written just now."""
        self.path = path
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size < PAGE:
                    raise self._broken(f"{size} bytes, expected a header of {PAGE}")
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise Damaged(f"identities: {path} cannot be read: {error}") from error
        head = self._map[: HEADER.size]
        (crc,) = CRC.unpack_from(self._map, HEADER.size)
        if zlib.crc32(head) != crc:
            raise self._broken("its header's checksum does not fit")
        magic, version, first, last, through, count, words, filter_crc, table_crc, of_epoch = HEADER.unpack(head)
        if magic != MAGIC or version != VERSION:
            raise self._broken(f"magic {magic!r} and version {version}, expected {MAGIC!r} and {VERSION}")
        if path.name != _name(first, last):
            raise self._broken(f"it says of itself that it is {_name(first, last)}")
        if of_epoch != epoch:
            raise self._broken("it was written beside another journal")
        blocks = -(-count // BLOCK)
        entries_at = PAGE + PLANES * 8 * words
        table_at = entries_at + count * ENTRY.itemsize
        expected = table_at + blocks * BLOCK_HEAD.itemsize
        if size != expected:
            raise self._broken(f"{size} bytes, expected {expected}")
        self.first, self.last, self.through, self.count, self.bytes = first, last, through, count, size
        self.entries = np.frombuffer(self._map, ENTRY, count, entries_at)
        self.planes = np.frombuffer(self._map, np.uint64, PLANES * words, PAGE).reshape(PLANES, words)
        table = np.frombuffer(self._map[table_at:], BLOCK_HEAD)
        self._fences = np.ascontiguousarray(table["ident"])
        self._checksums = table["crc"]
        self._checked = np.full(blocks, fresh)
        if fresh:
            return
        if _crc(table) != table_crc:
            raise self._broken("its block table's checksum does not fit")
        if _joined([_crc(plane) for plane in self.planes]) != filter_crc:  # this also brings it into the system's cache
            raise self._broken("its filter's checksum does not fit")

    def may_hold(self, probes: "Probes", rows: Rows | None = None) -> Rows:
        """Those of the rows, or of all rows, that the filter does not rule out."""
        at = probes.block(self.planes.shape[1])
        for j, plane in enumerate(self.planes):
            mask = probes.bits(j)
            if rows is None:
                rows = np.flatnonzero((plane[at] & mask) == mask)
            else:
                mask = mask[rows]
                rows = rows[np.flatnonzero((plane[at[rows]] & mask) == mask)]
            if not len(rows):
                break
        assert rows is not None
        return rows

    def find(self, ident: Words) -> tuple[Rows, Array]:
        """The rows of those that have an entry, ascending identities asked for, and the entries."""
        block = np.searchsorted(self._fences, ident, side="right") - 1
        rows = np.flatnonzero(block >= 0)
        block, want = block[rows], ident[rows]
        self._check(block)
        known = self.entries["ident"]
        low = block * BLOCK
        high = np.minimum(low + BLOCK, self.count)
        for _ in range(BLOCK.bit_length()):  # low ≤ the entry < high, if there is one
            middle = (low + high) >> 1
            below = known[middle] <= want
            low = np.where(below, middle, low)
            high = np.where(below, high, middle)
        same = np.flatnonzero(known[low] == want)
        return rows[same], self.entries.take(low[same])

    def between(self, start: int, end: int) -> Array:
        """The entries numbered from start to end, checked."""
        self._check(np.arange(start // BLOCK, -(-end // BLOCK)))
        return self.entries[start:end]

    def number(self, ident: int) -> int:
        """How many entries come before this identity."""
        if ident >= 1 << 64:
            return int(self.count)
        block = max(int(np.searchsorted(self._fences, np.uint64(ident), side="left")) - 1, 0)
        start = block * BLOCK
        part = np.ascontiguousarray(self.between(start, min(start + BLOCK, self.count))["ident"])
        return start + int(np.searchsorted(part, np.uint64(ident), side="left"))

    def _check(self, blocks: Rows) -> None:
        fresh = blocks[~self._checked[blocks]]
        for block in np.unique(fresh).tolist() if len(fresh) else ():
            if _crc(self.entries[block * BLOCK : (block + 1) * BLOCK]) != self._checksums[block]:
                raise self._broken(f"the checksum of its block {block} does not fit")
            self._checked[block] = True

    def _broken(self, what: str) -> BrokenStore:
        return Damaged(f"identities: {self.path} is broken: {what}")


class Probes:
    """Where some identities are looked for in filters: worked out once for all filters, and only as far as needed."""

    def __init__(self, ident: Words) -> None:
        self._upper = ident >> _32
        self._scattered = ident * SCATTER
        self._bits: list[Words] = []

    def block(self, blocks: int) -> Rows:
        """Each identity's block in a filter of so many."""
        at = self._upper * np.uint64(blocks)
        at >>= _32
        return at.view(np.int64)

    def bits(self, j: int) -> Words:
        """Its bits in its block's word of plane j; to be asked for in the order of planes."""
        if j == len(self._bits):
            self._bits.append(MASKS[((self._scattered >> _PLANE_SHIFT[j]) & _12_BITS).view(np.int64)])
        return self._bits[j]


def opened(folder: Path, epoch: int) -> tuple[Run, ...]:
    """The runs, oldest first; files that a merge has made needless are deleted."""
    files = [(int(found[1]), int(found[2]), path) for path in folder.iterdir() if (found := NAME.fullmatch(path.name))]
    runs: list[Run] = []
    needless: list[Path] = []
    following = 1
    for first, last, path in sorted(files, key=lambda file: (file[0], -file[1])):
        if last < following:
            needless.append(path)
        elif first == following:
            runs.append(Run(path, epoch))
            following = last + 1
        else:
            raise Damaged(
                f"identities: files are missing in {folder}: expected one that begins with spill {following},"
                f" found {path.name}"
            )
    for path in needless:
        path.unlink()
    return tuple(runs)


def written(folder: Path, number: int, through: int, entries: Array, epoch: int) -> Run:
    """A run of these entries, which are in order of identity and each identity's only one."""
    return _written(folder, (number, number, through, epoch), len(entries), lambda blocks: _cut(entries, blocks))


def merged(folder: Path, runs: tuple[Run, ...], epoch: int, *, drop_gone: bool) -> Run:
    """One run of neighbours, oldest first: of each identity the newest entry, of forgotten ones none if `drop_gone`.

    The merged files stay; once they are deleted, or at the next start, the new one stands for them.
    """
    head = (runs[0].first, runs[-1].last, runs[-1].through, epoch)
    return _written(folder, head, sum(run.count for run in runs), lambda blocks: _merged(runs, blocks, drop_gone))


def sync(folder: Path) -> None:
    """Make the names in a folder durable."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _fsync(file)
    finally:
        os.close(file)


def last_words(ordered: Array) -> Array:
    """Of entries in order of identity the last one of each."""
    ident = ordered["ident"]
    last = np.ones(len(ordered), np.bool_)
    np.not_equal(ident[1:], ident[:-1], out=last[:-1])
    return ordered if last.all() else ordered.take(np.flatnonzero(last))


def _name(first: int, last: int) -> str:
    return f"{first:010}-{last:010}.identities"


def _crc(values: Array, start: int = 0) -> int:
    return zlib.crc32(values.view(np.uint8).data, start)


def _joined(checksums: Iterable[int]) -> int:
    return zlib.crc32(b"".join(CRC.pack(crc) for crc in checksums))


def _steps(blocks: int) -> Iterator[tuple[int, int, int]]:
    """(first filter block, block behind the last, lowest identity behind it), so many blocks at a time."""
    for start in range(0, blocks, STEP):
        end = min(start + STEP, blocks)
        yield start, end, -((-end << 32) // blocks) << 32


def _cut(entries: Array, blocks: int) -> Iterator[Part]:
    """Entries in order of identity, by the blocks of their filter."""
    ident = np.ascontiguousarray(entries["ident"])
    done = 0
    for start, end, behind in _steps(blocks):
        until = len(entries) if end == blocks else int(np.searchsorted(ident, np.uint64(behind)))
        yield start, end, entries[done:until]
        done = until


def _merged(runs: tuple[Run, ...], blocks: int, drop_gone: bool) -> Iterator[Part]:
    """The entries of all runs by the blocks of their filter; of one identity the newest run's."""
    done = [0] * len(runs)
    for start, end, behind in _steps(blocks):
        until = [run.number(behind) for run in runs]
        parts = np.concatenate([run.between(a, b) for run, a, b in zip(runs, done, until, strict=True)])
        done = until
        # `take` is eight times as fast as an index, for entries
        parts = last_words(parts.take(np.argsort(parts["ident"], kind="stable")))
        if drop_gone and (parts["pos"] == GONE).any():
            parts = parts.take(np.flatnonzero(parts["pos"] != GONE))
        yield start, end, parts


def _filter(ident: Words, blocks: int, start: int, end: int) -> Words:
    """The planes of the filter blocks from start to end, which are those of these identities."""
    planes = np.zeros((PLANES, end - start), np.uint64)
    if len(ident):
        probes = Probes(ident)
        block = probes.block(blocks)
        first = np.flatnonzero(np.concatenate(([True], block[1:] != block[:-1])))
        at = block[first] - start
        for j in range(PLANES):
            planes[j, at] = np.bitwise_or.reduceat(probes.bits(j), first)
    return planes


def _written(folder: Path, head: tuple[int, int, int, int], most: int, parts: Callable[[int], Iterator[Part]]) -> Run:
    """Write a run beside the others, make it durable, then give it its name."""
    first, last, _, epoch = head
    path = folder / _name(first, last)
    new = path.with_name(path.name + ".new")
    try:
        file = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            words = max(-(-most // BLOCK_IDENTS), 1)
            _write(file, head, words, parts(words))
            _fsync(file)
        finally:
            os.close(file)
        new.rename(path)
        sync(folder)
    except BaseException as error:
        with suppress(OSError):
            new.unlink()
        if not isinstance(error, OSError):
            raise
        if error.errno in NO_SPACE:
            raise Unavailable(f"identities: no room in {folder}: {error}") from error
        raise FailedDisk(f"identities: {path} cannot be written: {error}") from error
    return Run(path, epoch, fresh=True)


def _write(file: int, head: tuple[int, int, int, int], words: int, parts: Iterable[Part]) -> None:
    first, last, through, epoch = head
    count = 0
    planes_crc = [0] * PLANES
    table: list[tuple[int, int]] = []
    rest = np.empty(0, ENTRY)
    entries_at = PAGE + PLANES * 8 * words

    def put(entries: Array) -> None:
        """Write whole blocks, or the last one."""
        nonlocal count
        for at in range(0, len(entries), BLOCK):
            block = entries[at : at + BLOCK]
            table.append((int(block["ident"][0]), _crc(block)))
        _put(file, entries.view(np.uint8).data, entries_at + count * ENTRY.itemsize)
        count += len(entries)

    for start, end, part in parts:
        for j, plane in enumerate(_filter(np.ascontiguousarray(part["ident"]), words, start, end)):
            planes_crc[j] = _crc(plane, planes_crc[j])
            _put(file, plane.view(np.uint8).data, PAGE + 8 * (j * words + start))
        rest = np.concatenate((rest, part))
        whole = len(rest) // BLOCK * BLOCK
        put(rest[:whole])
        rest = rest[whole:]
    put(rest)
    blocks = np.array(table, BLOCK_HEAD)
    _put(file, blocks.view(np.uint8).data, entries_at + count * ENTRY.itemsize)
    header = HEADER.pack(MAGIC, VERSION, first, last, through, count, words, _joined(planes_crc), _crc(blocks), epoch)
    _put(file, memoryview((header + CRC.pack(zlib.crc32(header))).ljust(PAGE, b"\0")), 0)


def _put(file: int, content: memoryview, offset: int) -> None:
    while content:
        written = _pwrite(file, content, offset)
        offset += written
        content = content[written:]
