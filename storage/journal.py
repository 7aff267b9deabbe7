"""The truth about events: an append-only, checksummed record of every committed batch, durable before it is told.

The folder holds `lock`, `journal.json` (epoch and identity) and segments named after the first seq in them. A segment
is a header and records; a record is a header and its payload. Only `append` writes, and it begins a record only after
the one before is durable; `trim` takes whole segments away, the oldest first. Hence, after any crash, all that can be
half there is one record at the very end:

- A bad record with any later record behind it, or in any segment but the last, was acknowledged once. That is damage,
  raised as `BrokenStore` with file and offset.
- A bad record at the end, with nothing behind it, is a write that a crash cut off, or the newest record, damaged later:
  nothing here tells which. It is reported and cut away, and its bytes are kept in a file beside the segment.

"Behind it" is decided by record headers, which have a checksum of their own: a whole header further on proves that a
later append had begun, and so does any byte after the end that a whole header promises. All checksums start from a
value made of the journal's secret identity and the segment's first seq, so that neither the content of a payload nor
a stale block of another segment can pass for a record.
"""

import errno
import fcntl
import logging
import os
import re
import secrets
import shlex
import shutil
import struct
import sys
import threading
import time
import zlib
from base64 import b32encode
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, NoReturn, Self

import msgspec
from msgspec import Struct

from storage.aside import free_name
from storage.errors import BrokenStore, FailedDisk, TooLarge, Unavailable
from storage.histogram import Histogram, Times

log = logging.getLogger(__name__)

MAX_PAYLOAD = 1 << 30
VERSION = 1
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
IOV_MAX = os.sysconf("SC_IOV_MAX")

SEGMENT = struct.Struct("<4sIQ16sI")  # magic, version, first seq, identity, checksum of these
SEGMENT_MAGIC = b"CNDS"
SEGMENT_NAME = re.compile(r"([0-9]{20})\.journal")
CUT = "cut"  # in the names of files that hold what was cut off a segment
RECORD = struct.Struct("<3sBIQII")  # magic, version, payload bytes, seq, checksum of payload, checksum of these
RECORD_MAGIC = b"CDR" + bytes([VERSION])
CRC = struct.Struct("<I")
SEARCH_BYTES = 4 << 20  # read at once when looking for records behind a bad one, and when keeping what is cut

# Names of our own, so that a test can make one of them fail.
_pread = os.pread
_pwritev = os.pwritev
_ftruncate = os.ftruncate
if sys.platform == "darwin":

    def _fsync(file: int) -> None:
        """What fsync means elsewhere: on this system it leaves the bytes in the drive's cache."""
        fcntl.fcntl(file, fcntl.F_FULLFSYNC)

    def _evict(file: int) -> None:
        """Nothing: this system cannot be asked to forget its copy of a file."""

    _fdatasync = _fsync
else:

    def _evict(file: int) -> None:
        """Forget the kernel's copy of what has been written to the disk."""
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)

    _fsync = os.fsync
    _fdatasync = os.fdatasync


class Cut(Struct, frozen=True):
    """What opening cut off the last segment: a record that was being written, or the newest one, damaged."""

    segment: Path
    offset: int  # where it stood
    bytes: int
    reason: str
    kept: Path  # where its bytes lie now

    def __str__(self) -> str:
        return (
            f"journal: {self.segment.name}: bytes {self.offset} to {self.offset + self.bytes}, a damaged or torn record"
            f" ({self.reason}), were cut off and lie in {self.kept.name}"
        )


class Recovery(Struct, frozen=True):
    """What opening found, for the log and for health."""

    created: bool
    records: int  # in the whole journal
    bytes: int  # of all segments, after the cut
    segments: tuple[str, ...]
    checked_bytes: int  # of the last segment, read and verified
    seconds: float
    cut: Cut | None = None

    @property
    def torn_bytes(self) -> int:
        """How many bytes were cut off."""
        return 0 if self.cut is None else self.cut.bytes


class JournalStatistics(Struct, frozen=True):
    """How much the journal holds, and what making it durable has cost since it was opened."""

    records: int
    bytes: int
    segments: int
    first_seq: int
    last_seq: int
    appended_records: int
    appended_bytes: int
    fsyncs: int
    fsync_times: Times
    fsync_seconds_max: float
    refused: int  # appends that found no room
    full: str  # why the newest append was refused, as long as there is no more room; empty when it was not
    broken: str  # why nothing can be appended any more; empty while all is well


class _Description(Struct, frozen=True, forbid_unknown_fields=True):
    """`journal.json`."""

    format: int
    epoch: str
    identity: str  # never shown on any wire: checksums start from it


class Segment(NamedTuple):
    """A file of the journal, up to the end of its last whole record."""

    path: Path
    first_seq: int
    last_seq: int  # first_seq - 1 while it is empty
    end: int  # bytes


class _Bad(Exception):
    """A record that is not whole."""

    def __init__(self, offset: int, seq: int, reason: str, end: int | None = None, damage: str = "") -> None:
        super().__init__(reason)
        self.offset = offset
        self.seq = seq  # the one that should stand here
        self.reason = reason
        self.end = end  # where it would end, if its header can be trusted
        self.damage = damage  # why no crash can have done this


class Journal:
    """One writer's journal; `append` and `close` may be called from any thread, readers may run beside them."""

    epoch: str
    recovered: Recovery

    @classmethod
    def open(cls, folder: Path, *, segment_bytes: int = 256 << 20) -> "Journal":
        """Create the journal, or find its last whole record and cut what a crash left behind it.

        The last segment is read and verified whole, earlier ones when `since` reaches them.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = _locked(folder)
            try:
                return cls(folder, lock, segment_bytes)
            except BaseException:
                os.close(lock)
                raise
        except OSError as error:
            if error.errno in NO_SPACE:
                raise _no_space(folder) from error
            raise BrokenStore(f"journal: {folder} cannot be opened: {error}") from error

    def __init__(self, folder: Path, lock: int, segment_bytes: int) -> None:
        started = time.perf_counter()
        self._folder = folder
        self._lock = lock
        self._segment_bytes = segment_bytes
        self._mutex = threading.Lock()  # a close must not pull the file from under an append
        self._broken = ""
        self._fsync_times = Histogram()
        self._fsync_seconds_max = 0.0
        self._appended_records = 0
        self._appended_bytes = 0
        self._refused = 0
        self._full = ""
        self._wanted = 0  # bytes that found no room

        names = self._names()
        created = not (folder / "journal.json").exists()
        if created:
            self._create(names)
            names = self._names()
        elif not names:
            raise BrokenStore(f"journal: {folder} has its journal.json but not one segment (*.journal): restore them")
        self.epoch, self._identity = self._described()
        for leftover in folder.glob("*.new"):
            leftover.unlink()

        segments = [self._checked(folder / name) for name in names]
        sealed = tuple(segment._replace(last_seq=following.first_seq - 1) for segment, following in pairwise(segments))
        tail, cut = self._recovered(segments[-1])
        # Replaced as a whole, so that a reader in another thread sees segments and end of one moment.
        self._state = (sealed, tail)
        self._sealed_bytes = sum(segment.end for segment in sealed)
        self.recovered = Recovery(
            created=created,
            records=tail.last_seq - segments[0].first_seq + 1,
            bytes=self._sealed_bytes + tail.end,
            segments=tuple(names),
            checked_bytes=tail.end,
            seconds=time.perf_counter() - started,
            cut=cut,
        )
        self._file = os.open(tail.path, os.O_RDWR | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def first_seq(self) -> int:
        """The seq of the oldest record kept, or of the first one to come."""
        sealed, tail = self._state
        return (sealed[0] if sealed else tail).first_seq

    @property
    def last_seq(self) -> int:
        """The seq of the newest durable record; 0 when there has been none."""
        return self._state[1].last_seq

    def append(self, seq: int, parts: Sequence[bytes | memoryview]) -> None:
        """Write one record, its payload the parts joined, and return once it is durable.

        A full disk raises `Unavailable` and leaves the journal as it was. Any other failure raises `FailedDisk`, and
        `BrokenStore` ever after: what a failed sync has left on the disk can only be told by opening the journal again.
        """
        with self._mutex:
            if self._broken:
                raise BrokenStore(self._broken)
            tail = self._state[1]
            if seq != tail.last_seq + 1:
                raise ValueError(f"journal: record {seq} cannot follow record {tail.last_seq}")
            buffers = [view.cast("B") for part in parts if (view := memoryview(part)).nbytes]
            length = sum(buffer.nbytes for buffer in buffers)
            if length > MAX_PAYLOAD:
                raise TooLarge(f"journal: a record of {length} bytes, at most {MAX_PAYLOAD} fit")
            try:
                self._append(tail, seq, buffers, length)
            except Unavailable as error:
                self._refused += 1
                self._full, self._wanted = str(error), length
                raise
            except BaseException as error:
                # Whatever it was, nobody knows any more what lies behind the last record.
                self._broken = self._broken or f"journal: {self._state[1].path}: record {seq} was broken off: {error!r}"
                raise

    def since(self, seq: int) -> Iterator[tuple[int, memoryview]]:
        """The records after this seq that are durable now, oldest first, each verified: (seq, payload).

        Segments that lie before it are not opened, and records before it are passed over by their headers.
        """
        sealed, tail = self._state
        segments = (*sealed, tail)
        if seq > tail.last_seq:
            raise BrokenStore(
                f"journal: {self._folder} ends with record {tail.last_seq}, yet record {seq} is known elsewhere:"
                f" acknowledged records are missing{self._lying_aside()}. Put the journal's files back as they were, or"
                f" restore a backup: candled restore BACKUP --data {_quoted(self._folder.parent)} --force"
            )
        if seq < segments[0].first_seq - 1:
            raise BrokenStore(
                f"journal: {self._folder} begins with record {segments[0].first_seq}; record {seq + 1} was asked for"
            )
        begin = max(bisect_right(segments, seq + 1, key=lambda segment: segment.first_seq) - 1, 0)
        return self._since(segments[begin:], seq)

    def segments(self) -> tuple[Segment, ...]:
        """The files as they are now, oldest first; what they have up to their ends does not change any more."""
        sealed, tail = self._state
        return (*sealed, tail)

    def check(self, segment: Segment) -> None:
        """Read a segment, or a copy of one under another path, and see that its records are all there."""
        for _ in self._since((segment,), segment.first_seq - 1):
            pass

    def rotate(self) -> int:
        """Begin a segment, unless the last one is empty, so that all before it can be trimmed; the newest seq.

        A full disk raises `Unavailable`.
        """
        with self._mutex:
            if self._broken:
                raise BrokenStore(self._broken)
            tail = self._state[1]
            if tail.last_seq >= tail.first_seq:
                self._next_segment(tail)
            return tail.last_seq

    def trim(self, seq: int) -> int:
        """Let go of the segments that hold nothing newer than this seq, but for the last; how many bytes that was."""
        with self._mutex:
            if self._broken:
                raise BrokenStore(self._broken)
            sealed, tail = self._state
            gone = [segment for segment in sealed if segment.last_seq <= seq]
            self._state = (sealed[len(gone) :], tail)
            freed = sum(segment.end for segment in gone)
            self._sealed_bytes -= freed
        for segment in gone:
            try:
                segment.path.unlink()
                self._sync_folder()  # oldest first on the disk too: after a crash none may be missing between two
            except OSError as error:
                # It stays until the next opening, and the next trim. Nothing depends on its being gone.
                raise Unavailable(f"journal: {segment.path} cannot be removed: {error.strerror or error}") from error
        return freed

    def renew_epoch(self) -> None:
        """Begin a new epoch: the history behind the old one is not all there any more."""
        described = _Description(VERSION, _new_epoch(), self._identity.hex())
        self._put(self._folder / "journal.json", msgspec.json.encode(described) + b"\n")
        self._sync_folder()
        self.epoch = described.epoch

    def statistics(self) -> JournalStatistics:
        """Counts and times, cheap enough to ask at any moment."""
        sealed, tail = self._state
        first = (sealed[0] if sealed else tail).first_seq
        times = self._fsync_times.times()
        if self._full and shutil.disk_usage(self._folder).free > self._wanted + SEGMENT.size + RECORD.size:
            self._full = ""  # nobody may have anything to say just now
        return JournalStatistics(
            records=tail.last_seq - first + 1,
            bytes=self._sealed_bytes + tail.end,
            segments=len(sealed) + 1,
            first_seq=first,
            last_seq=tail.last_seq,
            appended_records=self._appended_records,
            appended_bytes=self._appended_bytes,
            fsyncs=times.count,
            fsync_times=times,
            fsync_seconds_max=self._fsync_seconds_max,
            refused=self._refused,
            full=self._full,
            broken=self._broken,
        )

    def close(self) -> None:
        """Give up the file and the lock. Everything appended is durable already."""
        with self._mutex:
            if self._file >= 0:
                os.close(self._file)
                os.close(self._lock)
                self._file = self._lock = -1
            self._broken = self._broken or f"journal: {self._folder} is closed"

    # Writing

    def _append(self, tail: Segment, seq: int, buffers: list[memoryview], length: int) -> None:
        size = RECORD.size + length
        if tail.last_seq >= tail.first_seq and tail.end + size > self._segment_bytes:
            tail = self._next_segment(tail)
        start = _start(self._identity, tail.first_seq)
        header = memoryview(_record_header(seq, buffers, length, start))
        try:
            self._write([header, *buffers], tail.end)
        except OSError as error:
            if error.errno not in NO_SPACE:
                self._break(f"writing record {seq} at {tail.end}", tail.path, error)
            self._cut(tail)
            raise _no_space(self._folder) from error
        try:
            self._sync(_fdatasync, self._file)
        except OSError as error:
            # Also without space (NFS tells only now): the kernel may have dropped the pages it could not write.
            self._break(f"syncing record {seq} at {tail.end}", tail.path, error)
        self._state = (self._state[0], tail._replace(last_seq=seq, end=tail.end + size))
        self._full = ""
        self._appended_records += 1
        self._appended_bytes += size

    def _write(self, buffers: list[memoryview], offset: int) -> None:
        while buffers:
            written = _pwritev(self._file, buffers[:IOV_MAX], offset)
            offset += written
            done = 0
            while done < len(buffers) and written >= buffers[done].nbytes:
                written -= buffers[done].nbytes
                done += 1
            buffers = buffers[done:]
            if written:
                buffers[0] = buffers[0][written:]

    def _cut(self, tail: Segment) -> None:
        """Take back what was written of a record. Durably: bytes behind the next record would look like damage."""
        try:
            _ftruncate(self._file, tail.end)
            self._sync(_fsync, self._file)
        except OSError as error:
            self._break(f"cutting back to {tail.end}", tail.path, error)

    def _next_segment(self, tail: Segment) -> Segment:
        try:
            path = self._make_segment(tail.last_seq + 1)
        except OSError as error:
            if error.errno in NO_SPACE:
                raise _no_space(self._folder) from error
            self._break("beginning a segment", self._folder, error)
        try:
            self._sync_folder()
            file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            self._break("beginning a segment", path, error)
        os.close(self._file)
        self._file = file
        following = Segment(path, tail.last_seq + 1, tail.last_seq, SEGMENT.size)
        self._sealed_bytes += tail.end
        self._state = ((*self._state[0], tail), following)
        return following

    def _make_segment(self, first_seq: int) -> Path:
        """Write a segment's header under another name first: a segment that has its name has a whole header."""
        header = SEGMENT.pack(SEGMENT_MAGIC, VERSION, first_seq, self._identity, 0)[: -CRC.size]
        path = self._folder / f"{first_seq:020}.journal"
        self._put(path, header + CRC.pack(zlib.crc32(header)))
        return path

    def _put(self, path: Path, content: bytes) -> None:
        """Make a small file that is there whole or not at all, once its folder is synced."""
        new = path.with_name(path.name + ".new")
        try:
            with new.open("wb", buffering=0) as file:
                if _pwritev(file.fileno(), [content], 0) < len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(new))
                self._sync(_fsync, file.fileno())
            new.rename(path)
        except OSError:
            with suppress(OSError):
                new.unlink(missing_ok=True)
            raise

    def _sync(self, sync: Callable[[int], None], file: int) -> None:
        started = time.perf_counter()
        sync(file)
        seconds = time.perf_counter() - started
        self._fsync_times.observe(seconds)
        self._fsync_seconds_max = max(self._fsync_seconds_max, seconds)

    def _sync_folder(self) -> None:
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._sync(_fsync, folder)
        finally:
            os.close(folder)

    def _break(self, doing: str, path: Path, error: OSError) -> NoReturn:
        self._broken = f"journal: {path}: {doing} failed: {error.strerror or error}"
        raise FailedDisk(self._broken) from error

    # Opening

    def _names(self) -> list[str]:
        """The segments, oldest first: names have a fixed width."""
        return sorted(path.name for path in self._folder.iterdir() if SEGMENT_NAME.fullmatch(path.name))

    def _create(self, names: list[str]) -> None:
        """Make an empty journal. `journal.json` comes last: without it, nothing can have been acknowledged."""
        for name in names:
            path = self._folder / name
            if int(path.stem) > 1 or path.stat().st_size > SEGMENT.size:
                raise BrokenStore(
                    f"journal: {path} is there, but {self._folder / 'journal.json'} is missing: restore it"
                )
            path.unlink()  # an earlier attempt to create it was cut off
        self._identity = secrets.token_bytes(16)
        self._make_segment(1)
        self._sync_folder()
        described = _Description(VERSION, _new_epoch(), self._identity.hex())
        self._put(self._folder / "journal.json", msgspec.json.encode(described) + b"\n")
        self._sync_folder()
        parent = os.open(self._folder.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._sync(_fsync, parent)
        finally:
            os.close(parent)

    def _described(self) -> tuple[str, bytes]:
        path = self._folder / "journal.json"
        try:
            described = msgspec.json.decode(path.read_bytes(), type=_Description)
            identity = bytes.fromhex(described.identity)
        except (msgspec.DecodeError, ValueError) as error:
            raise BrokenStore(f"journal: {path} is damaged: {error}") from error
        if described.format != VERSION:
            raise BrokenStore(f"journal: {path} says format {described.format}; this candled reads {VERSION}")
        if len(identity) != 16 or not described.epoch:
            raise BrokenStore(f"journal: {path} is damaged: it needs an epoch and an identity of 32 hex digits")
        return described.epoch, identity

    def _checked(self, path: Path) -> Segment:
        """A segment whose header says what its name and this journal say."""
        try:
            with path.open("rb", buffering=0) as file:
                header = file.read(SEGMENT.size)
                end = os.fstat(file.fileno()).st_size
        except OSError as error:
            raise _unreadable(path, error) from error
        first_seq = int(path.stem)
        if len(header) < SEGMENT.size:
            raise BrokenStore(f"journal: {path} is damaged at 0: its header has {len(header)} of {SEGMENT.size} bytes")
        magic, version, first, identity, crc = SEGMENT.unpack(header)
        if magic != SEGMENT_MAGIC or crc != zlib.crc32(header[: -CRC.size]):
            raise BrokenStore(f"journal: {path} is damaged at 0: the checksum of its header does not match")
        if version != VERSION:
            raise BrokenStore(f"journal: {path} has format {version}; this candled reads {VERSION}")
        if identity != self._identity:
            raise BrokenStore(f"journal: {path} belongs to another journal")
        if first != first_seq:
            raise BrokenStore(f"journal: {path} begins with record {first}, not with the one it is named after")
        return Segment(path, first_seq, first_seq - 1, end)

    def _recovered(self, tail: Segment) -> tuple[Segment, Cut | None]:
        """The last segment as far as it is whole, cut there if a crash has left half a record."""
        whole, cut = tail._replace(end=SEGMENT.size), None
        file = os.open(tail.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            # The newest record may be one whose sync never came. Nobody may hear of it before that is made up for.
            self._sync(_fsync, file)
            self._sync_folder()
            # Or its sync failed: then the kernel goes on showing what it could not write, as if it had. So look at what
            # the disk holds. (Writing the record again does not help: ext4 keeps such blocks marked as never written.)
            _evict(file)
            try:
                for offset, seq, payload in _records(tail, self._identity, 0):
                    whole = whole._replace(last_seq=seq, end=offset + RECORD.size + payload.nbytes)
            except OSError as error:
                raise _unreadable(tail.path, error) from error
            except _Bad as bad:
                self._refuse_unless_torn(tail, bad)
                kept = self._keep(tail, file, whole.end)
                _ftruncate(file, whole.end)
                self._sync(_fsync, file)
                cut = Cut(tail.path, whole.end, tail.end - whole.end, bad.reason, kept)
                log.warning("%s", cut)
        finally:
            os.close(file)
        return whole, cut

    def _keep(self, tail: Segment, file: int, begin: int) -> Path:
        """Copy what is to be cut off a segment into a file of its own, durably."""
        kept = free_name(tail.path, CUT)
        try:
            with kept.open("xb") as copy:
                while block := _read(file, SEARCH_BYTES, begin):
                    copy.write(block)
                    begin += len(block)
                copy.flush()
                self._sync(_fsync, copy.fileno())
            self._sync_folder()
        except OSError:
            with suppress(OSError):
                kept.unlink(missing_ok=True)
            raise
        return kept

    def _lying_aside(self) -> str:
        """Where to look for what is missing."""
        names = sorted(path.name for path in self._folder.glob(f"*.{CUT}-*"))
        return f" (what was cut off as damaged or torn lies in {', '.join(names)})" if names else ""

    def _refuse_unless_torn(self, tail: Segment, bad: _Bad) -> None:
        if bad.damage:
            raise _damaged(tail.path, bad, bad.damage)
        if bad.end is not None and bad.end < tail.end:
            raise _damaged(tail.path, bad, f"{tail.end - bad.end} bytes follow it, so it had been written whole")
        start = _start(self._identity, tail.first_seq)
        with tail.path.open("rb", buffering=0) as file:
            at = bad.offset + 1
            while at < tail.end:
                # A header's length more than one step, so that none is missed between two.
                block = _read(file.fileno(), SEARCH_BYTES + RECORD.size, at)
                found = block.find(RECORD_MAGIC)
                while found >= 0:
                    header = _header(block[found : found + RECORD.size], start)
                    if header is not None and header[1] > bad.seq:
                        raise _damaged(tail.path, bad, f"record {header[1]} follows it at {at + found}")
                    found = block.find(RECORD_MAGIC, found + 1)
                at += SEARCH_BYTES

    # Reading

    def _since(self, segments: tuple[Segment, ...], seq: int) -> Iterator[tuple[int, memoryview]]:
        for segment in segments:
            last = segment.first_seq - 1
            try:
                for _, last, payload in _records(segment, self._identity, seq):
                    if last > seq:
                        yield last, payload
            except _Bad as bad:
                raise _damaged(segment.path, bad, bad.damage or "it had been acknowledged") from None
            except OSError as error:
                raise _unreadable(segment.path, error) from error
            if last != segment.last_seq:
                raise BrokenStore(
                    f"journal: {segment.path} is damaged at {segment.end}:"
                    f" it ends with record {last} instead of {segment.last_seq}"
                )


def lost(data: Path) -> str:
    """Why no journal may be begun in a data directory that has none, and what to do; nothing where one may."""
    others = [name for name in ("raw", "archive", "identities", "answers.db") if (data / name).exists()]
    if not others or any((data / "journal").glob("*.journal*")):
        return ""
    return (
        f"journal: {data / 'journal'} is missing or empty, though there is {others[0]} beside it: acknowledged events"
        f" were in there. Put it back, or restore a backup: candled restore BACKUP --data {_quoted(data)} --force"
    )


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _records(segment: Segment, identity: bytes, after: int) -> Iterator[tuple[int, int, memoryview]]:
    """The records of a segment up to its end: (offset, seq, payload), the payload empty for those up to `after`."""
    start = _start(identity, segment.first_seq)
    with segment.path.open("rb", buffering=0) as file:
        number = file.fileno()
        offset, expected = SEGMENT.size, segment.first_seq
        head: bytes | memoryview = _read(number, min(RECORD.size, segment.end - offset), offset)
        while offset < segment.end:
            header = _header(head, start)
            if header is None:
                raise _Bad(offset, expected, f"its header is incomplete or damaged ({len(head)} bytes)")
            length, seq, crc = header
            begin, following = offset + RECORD.size, offset + RECORD.size + length
            if seq != expected:
                raise _Bad(offset, expected, f"record {seq} stands in its place", damage="no crash does this")
            if seq <= after and following <= segment.end:
                payload = memoryview(b"")
                head = _read(number, min(RECORD.size, segment.end - following), following)
            else:
                # With the next header, so that a record costs one system call.
                block = memoryview(_read(number, min(length + RECORD.size, segment.end - begin), begin))
                payload, head = block[:length], block[length:]
                if len(payload) < length:
                    raise _Bad(offset, seq, f"{len(payload)} of its {length} bytes are there", end=following)
                if zlib.crc32(payload, start) != crc:
                    raise _Bad(offset, seq, f"the checksum of its {length} bytes does not match", end=following)
            yield offset, seq, payload
            offset, expected = following, expected + 1


def _new_epoch() -> str:
    return b32encode(secrets.token_bytes(5)).decode().lower()


def _start(identity: bytes, first_seq: int) -> int:
    """What the checksums of a segment start from."""
    return zlib.crc32(identity + first_seq.to_bytes(8, "little"))


def _record_header(seq: int, buffers: Sequence[memoryview], length: int, start: int) -> bytes:
    crc = start
    for buffer in buffers:
        crc = zlib.crc32(buffer, crc)
    fields = RECORD.pack(RECORD_MAGIC[:3], VERSION, length, seq, crc, 0)[: -CRC.size]
    return fields + CRC.pack(zlib.crc32(fields, start))


def _header(head: bytes | memoryview, start: int) -> tuple[int, int, int] | None:
    """Payload bytes, seq and payload checksum of a record header, None if it is not whole."""
    if len(head) < RECORD.size:
        return None
    _, _, length, seq, crc, own = RECORD.unpack(head)
    if head[:4] != RECORD_MAGIC or length > MAX_PAYLOAD or own != zlib.crc32(head[: -CRC.size], start):
        return None
    return length, seq, crc


def _read(file: int, size: int, offset: int) -> bytes:
    return _pread(file, size, offset) if size > 0 else b""


def _damaged(path: Path, bad: _Bad, why: str) -> BrokenStore:
    return BrokenStore(
        f"journal: {path} is damaged at {bad.offset}: record {bad.seq}: {bad.reason}; {why}. Nothing was changed:"
        " restore this file from a backup"
    )


def _unreadable(path: Path, error: OSError) -> BrokenStore:
    return BrokenStore(f"journal: {path} cannot be read: {error.strerror or error}")


def _no_space(folder: Path) -> Unavailable:
    return Unavailable(f"journal: no space left on {folder}", retry_after=5)


def _locked(folder: Path) -> int:
    """A descriptor that keeps every other process, and every other opener in this one, out of the folder."""
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise BrokenStore(
            f"journal: another candled uses {folder}: stop it, or give this one a data directory of its own (--data)"
        ) from None
    except OSError:
        os.close(lock)
        raise
    return lock
