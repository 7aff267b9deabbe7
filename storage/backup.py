"""Backups: what cannot be made again, copied as of one seq into a folder that a data directory can be made from.

The folder holds copies of files of the data directory, each with a mark of its content in its name, and
`manifest.json`, which names those that belong together. A copy is never changed. The manifest comes last and takes the
place of the one before at once: whatever happens, the folder has the older backup or the newer one, whole. Only then
what no manifest names is removed.

Parquet files are known by their footers, which hold a hash of the rest: one that was copied before is not read again.
"""

import errno
import fcntl
import io
import os
import re
import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import duckdb
import msgspec
import pyarrow.parquet as pq
from duckdb import DuckDBPyConnection as Connection
from msgspec import Struct

from storage import manifest as raw
from storage import parquet, partitions, sealed
from storage.errors import BrokenStore, Conflict, Unavailable
from storage.journal import Journal, Segment
from storage.state import State

FORMAT = 1
MANIFEST = "manifest.json"
LOCK = "backup.lock"  # held by whoever writes; says whose backups these are
NEW = ".new"  # the end of a name that is not final yet
STORED = re.compile(r".+\.[0-9a-f]{16}\.[a-z]+")
TOP = ("journal", "raw", "archive", "state.db", "answers.db")  # all that is ever in a backup
BLOCK = 1 << 20
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)

Pause = Callable[[], None]  # called between two steps: rests, and raises when the work is to end
_fsync = os.fsync  # names of our own, so that a test can make one of them fail


class Entry(Struct, frozen=True):
    """A file of a backup."""

    path: str  # in the data directory
    stored: str  # in the backup
    bytes: int
    sha256: str


class Manifest(Struct, frozen=True, kw_only=True):
    """What a backup consists of."""

    format: int = FORMAT
    version: str  # of the candled that made it
    identity: str  # of the journal: tells one daemon's backups from another's
    epoch: str
    seq: int  # all batches up to this one are in it, and none after it
    made: float  # Unix seconds
    files: list[Entry]
    missing: list[str]  # what the store names and nobody has whole any more, and why

    @property
    def cursor(self) -> str:
        """Where the data directory stood."""
        return f"{self.epoch}.{self.seq}"

    @property
    def bytes(self) -> int:
        """Of all files together."""
        return sum(entry.bytes for entry in self.files)


class _Signed(Struct):
    """`manifest.json`: the manifest and the SHA-256 of its text."""

    sha256: str
    manifest: msgspec.Raw


@dataclass(slots=True)
class Tally:
    """How far it is; another thread may look at it."""

    files: int = 0  # that belong to it
    bytes: int = 0
    copied_files: int = 0
    copied_bytes: int = 0
    kept_files: int = 0  # that an earlier backup had copied
    kept_bytes: int = 0

    @property
    def done(self) -> int:
        """Bytes that are there."""
        return self.copied_bytes + self.kept_bytes


class Source(NamedTuple):
    """A data directory that is open, and whose files nobody moves for as long as the backup takes."""

    data: Path
    journal: Journal
    state: State
    answers: State
    named: "Named"
    version: str


Named = Mapping[str, int | None]  # files that the store knows of: path in the data directory → CRC-32 of the footer


def named(db: Connection) -> Named:
    """The files that the store knows of."""
    events: dict[str, int | None] = {f"{raw.FOLDER}/{file.file}": None for file in raw.listed(db)}
    return events | {f"archive/{part.path}": part.footer for part in partitions.everything(db)}


def named_in(database: Path) -> Named:
    """The same of a database that nobody has open; nothing where it cannot be read, since it is only an index."""
    try:
        with duckdb.connect(str(database), read_only=True) as db:
            return named(db)
    except duckdb.Error:
        return {}


class Wrong(Exception):
    """A file does not hold what it should."""


def write(source: Source, target: Path, now: float, tally: Tally, pause: Pause) -> Manifest:
    """Make a backup; blocks. What was copied when it fails stays, and need not be copied again.

    Raises Conflict where the folder is in use or holds something else, Unavailable where it cannot be written to or has
    no room, BrokenStore where it does not keep what is written.
    """
    with _errors(target, tally), _held(target, source) as identity:
        before = read(target) if (target / MANIFEST).exists() else None
        if before is not None and before.identity != identity:
            raise Conflict(f"backup {target}: it belongs to another candled; give another directory")
        return _Making(source, target, before, tally, pause).run(identity, now)


def read(target: Path) -> Manifest:
    """The manifest of a backup. Raises Unavailable where there is no whole one, BrokenStore where it is damaged."""
    path = target / MANIFEST
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        begun = (target / LOCK).exists()
        why = "no backup into it was ever completed" if begun else "expected a directory that `candled backup` made"
        raise Unavailable(f"backup {target}: there is no {MANIFEST}; {why}") from None
    try:
        signed = msgspec.json.decode(text, type=_Signed)
        if sha256(signed.manifest).hexdigest() != signed.sha256:
            raise ValueError("its checksum does not match")
        if (form := msgspec.json.decode(signed.manifest, type=_Format).format) != FORMAT:
            raise BrokenStore(f"backup {target}: {MANIFEST} has format {form}; this candled reads {FORMAT}")
        manifest = msgspec.json.decode(signed.manifest, type=Manifest)
        for entry in manifest.files:
            _check_path(entry.path)
            _check_path(entry.stored)
    except (msgspec.MsgspecError, ValueError) as error:
        raise BrokenStore(f"backup {target}: {MANIFEST} is damaged: {error}") from error
    return manifest


class _Format(Struct):
    format: int


def _check_path(path: str) -> None:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or parts[0].partition(".")[0] not in NAMES:
        raise ValueError(f"a file cannot lie at {path!r}")


NAMES = {name.partition(".")[0] for name in TOP}


class _Making:
    def __init__(self, source: Source, target: Path, before: Manifest | None, tally: Tally, pause: Pause) -> None:
        self._source, self._target, self._tally, self._pause = source, target, tally, pause
        self._by_stored = {entry.stored: entry for entry in before.files} if before else {}
        self._by_path = {entry.path: entry for entry in before.files} if before else {}
        self._entries: list[Entry] = []
        self._missing: list[str] = []

    def run(self, identity: str, now: float) -> Manifest:
        source = self._source
        tables = _parquet(source.data)
        marked = {path: _stored(path, _footer(source.data / path)) for path in tables}
        # Those of an earlier try that was cut off are known again only when they are looked for.
        names = (path.name for path in (self._target / "journal").glob("*"))
        journal = {f"journal/{name}" for name in names if not name.endswith(NEW)}
        self._sweep({*self._by_stored, *marked.values(), *journal})
        # What a client was told must be in the journal's part of the backup, every market that has an event in the
        # state's: hence this order.
        answers = self._snapshot(source.answers, "answers.db")
        with suppress(Unavailable):  # there is no room for a new segment: this one is copied as far as it goes
            source.journal.rotate()
        segments = source.journal.segments()
        state = self._snapshot(source.state, "state.db")
        sizes = [(source.data / path).stat().st_size for path in tables]
        self._tally.files = len(tables) + len(segments) + 3
        self._tally.bytes = sum(sizes) + sum(one.end for one in segments)
        self._take_snapshot("answers.db", answers)
        self._take_snapshot("state.db", state)
        self._copy_journal_file()
        for segment in segments:
            self._copy_segment(segment)
        for path, size in zip(tables, sizes, strict=True):
            self._copy_parquet(path, marked[path], size)
        for path in sorted(set(source.named) - set(tables)):
            self._save(path, "it is missing")
        manifest = Manifest(
            version=source.version,
            identity=identity,
            epoch=source.journal.epoch,
            seq=segments[-1].last_seq,
            made=now,
            files=sorted(self._entries, key=lambda entry: entry.path),
            missing=self._missing,
        )
        self._complete(manifest)
        return manifest

    # --- the files

    def _snapshot(self, state: State, name: str) -> Path:
        """A copy of an SQLite file as it is now, under a name that is not final."""
        new = self._target / (name + NEW)
        new.unlink(missing_ok=True)
        os.close(os.open(new, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        try:
            state.backup(new)
        except Unavailable as error:
            # SQLite names the file that it copies, whichever disk is full.
            if getattr(error.__cause__, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(new)) from error
            raise
        sync(new)
        return new

    def _take_snapshot(self, path: str, new: Path) -> None:
        size = new.stat().st_size
        self._tally.bytes += size
        found = self._hash(new, size)
        stored = _stored(path, found)
        if self._keep(path, stored, size):
            new.unlink()
        else:
            self._tally.copied_bytes += size
            self._name(new, Entry(path, stored, size, found))

    def _copy_journal_file(self) -> None:
        file = self._source.data / "journal" / "journal.json"
        size = file.stat().st_size
        self._tally.bytes += size
        stored = _stored("journal/journal.json", self._hash(file, size))
        if not self._keep("journal/journal.json", stored, size):
            self._copy("journal/journal.json", file, stored, size)

    def _copy_segment(self, segment: Segment) -> None:
        path = f"journal/{segment.path.name}"
        stored = _stored(path, self._hash(segment.path, segment.end))
        if not self._keep(path, stored, segment.end):
            self._copy(
                path,
                segment.path,
                stored,
                segment.end,
                lambda new: self._source.journal.check(segment._replace(path=new)),
            )

    def _copy_parquet(self, path: str, stored: str, size: int) -> None:
        if self._keep(path, stored, size):
            return
        copied = self._tally.copied_bytes
        try:
            self._copy(path, self._source.data / path, stored, size, lambda new: self._check_parquet(path, new))
        except Wrong as error:
            self._tally.copied_bytes = copied
            self._save(path, str(error))

    def _check_parquet(self, path: str, new: Path) -> None:
        """Raise Wrong where a copy is damaged, as what it was made of must be then."""
        try:
            if path.startswith(raw.FOLDER) and (damage := sealed.check(new.parent, sealed.sealed(new), whole=True)):
                raise Wrong(damage)
            footer = self._source.named.get(path)
            if footer is not None and parquet.footer_sum(new) != footer:
                raise Wrong("its footer is not the one that was written")
            with pq.ParquetFile(new, page_checksum_verification=True) as file:
                for number in range(file.num_row_groups):
                    file.read_row_group(number, use_threads=False)
                    self._pause()
        except (*sealed.UNREADABLE, *parquet.BROKEN) as error:
            raise Wrong(f"it cannot be read: {error}") from error

    def _save(self, path: str, why: str) -> None:
        """What the data directory has lost stays in the backup, if it was there."""
        entry = self._by_path.get(path)
        if entry is None or not self._keep(path, entry.stored, entry.bytes):
            self._missing.append(f"{path}: {why}")

    def _keep(self, path: str, stored: str, size: int) -> bool:
        """Whether the copy is there already."""
        copy = self._target / stored
        try:
            if copy.stat().st_size != size:
                return False
        except FileNotFoundError:
            return False
        known = self._by_stored.get(stored)
        try:
            # One that no manifest names got its name when it was whole: an earlier try was cut off.
            found = known.sha256 if known is not None else self._hash(copy, size)
        except Wrong:
            return False
        self._entries.append(Entry(path, stored, size, found))
        self._tally.kept_files += 1
        self._tally.kept_bytes += size
        return True

    def _copy(self, path: str, file: Path, stored: str, size: int, check: Callable[[Path], None] | None = None) -> None:
        new = self._target / (stored + NEW)
        make_folders(self._target, new.parent)
        try:
            found = copied(file, size, new, self._step)
            if check is not None:
                check(new)
            self._name(new, Entry(path, stored, size, found))
        finally:
            new.unlink(missing_ok=True)

    def _name(self, new: Path, entry: Entry) -> None:
        new.rename(self._target / entry.stored)
        self._entries.append(entry)
        self._tally.copied_files += 1

    def _step(self, size: int) -> None:
        self._tally.copied_bytes += size
        self._pause()

    def _hash(self, file: Path, size: int) -> str:
        return hashed(file, size, lambda _: self._pause())

    # --- the end

    def _complete(self, manifest: Manifest) -> None:
        """Put the manifest in place of the one before, and remove what that one alone named."""
        self._tally.files, self._tally.bytes = len(manifest.files), manifest.bytes
        for folder in {above for entry in manifest.files for above in PurePosixPath(entry.stored).parents}:
            sync(self._target / folder)
        text = msgspec.json.encode(manifest)
        signed = msgspec.json.encode(_Signed(sha256(text).hexdigest(), msgspec.Raw(text)))
        new = self._target / (MANIFEST + NEW)
        with os.fdopen(os.open(new, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(signed + b"\n")
        sync(new)
        new.rename(self._target / MANIFEST)
        sync(self._target)
        with suppress(OSError):  # the next backup will
            self._sweep({entry.stored for entry in manifest.files})

    def _sweep(self, kept: set[str]) -> None:
        """Remove copies, and what a crash left of some, that are none of these."""
        for folder, _, names in os.walk(self._target, topdown=False):
            for name in names:
                path = Path(folder, name)
                final = name.removesuffix(NEW)
                ours = STORED.fullmatch(final) or (final != name and final in (MANIFEST, *TOP))
                if ours and str(PurePosixPath(path.relative_to(self._target))) not in kept:
                    path.unlink()
            if Path(folder) != self._target:
                with suppress(OSError):  # unless it is empty
                    os.rmdir(folder)


def copied(source: Path, size: int, target: Path, step: Callable[[int], None]) -> str:
    """Copy the first `size` bytes into a new file, for its owner alone; their SHA-256, once they are on the disk.

    Raises Wrong where the source cannot be read so far, BrokenStore where what is read back is not what was written.
    """
    found = sha256()
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        for block in _blocks(source, size):
            found.update(block)
            out.write(block)
            step(len(block))
        out.flush()
        _fsync(out.fileno())
        _evict(out.fileno())
    if hashed(target, size, lambda _: step(0)) != found.hexdigest():
        raise BrokenStore(f"{target}: what is read back is not what was written; do not trust this disk")
    return found.hexdigest()


def hashed(file: Path, size: int, step: Callable[[int], None]) -> str:
    """The SHA-256 of the first `size` bytes; raises Wrong where they cannot be read."""
    found = sha256()
    for block in _blocks(file, size):
        found.update(block)
        step(len(block))
    return found.hexdigest()


def _blocks(file: Path, size: int) -> Iterator[bytes]:
    with _readable(file) as source:
        while size:
            try:
                block = source.read(min(BLOCK, size))
            except OSError as error:
                raise Wrong(f"{file} cannot be read: {error.strerror}") from error
            if not block:
                raise Wrong(f"{file} ends {size} bytes early")
            size -= len(block)
            yield block


def _readable(file: Path) -> io.FileIO:
    try:
        return file.open("rb", buffering=0)
    except OSError as error:
        raise Wrong(f"{file} cannot be read: {error.strerror}") from error


def _parquet(data: Path) -> list[str]:
    """The files of events and of bars that have their final names, as paths in the data directory."""
    found = [path for top in ("raw", "archive") for path in (data / top).rglob("*.parquet") if path.is_file()]
    return sorted(str(PurePosixPath(path.relative_to(data))) for path in found)


def _footer(file: Path) -> str:
    """The SHA-256 of a Parquet file's footer, or of all that is there where it has none."""
    with file.open("rb") as source:
        size = source.seek(0, os.SEEK_END)
        source.seek(max(0, size - 8))
        length = int.from_bytes(source.read(4), "little")
        source.seek(max(0, size - 8 - length))
        return sha256(source.read()).hexdigest()


def _stored(path: str, mark: str) -> str:
    """Under which name a file with this mark lies in a backup."""
    place = PurePosixPath(path)
    return str(place.with_name(f"{place.stem}.{mark[:16]}{place.suffix}"))


# --- the folder


@contextmanager
def _held(target: Path, source: Source) -> Iterator[str]:
    """The folder, made if need be and locked; the identity of the journal."""
    place, data = target.resolve(), source.data.resolve()
    if place == data or data in place.parents:
        raise Conflict(f"backup {target}: it lies inside the data directory {source.data}; give a directory elsewhere")
    said = msgspec.json.decode((source.data / "journal" / "journal.json").read_bytes(), type=_Identity)
    identity = sha256(said.identity.encode()).hexdigest()[:16]
    if target.exists() and not target.is_dir():
        raise Conflict(f"backup {target}: expected a directory, found a file; give another one")
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(target.iterdir()) and not (target / LOCK).exists():
        raise Conflict(f"backup {target}: there are files that are no backup in it; give an empty or a new directory")
    with _locked(target, os.O_RDWR | os.O_CREAT, fcntl.LOCK_EX, "another backup or a restore") as lock:
        owner = os.pread(lock, 64, 0).decode(errors="replace").strip()
        if owner and owner != identity:
            raise Conflict(f"backup {target}: it belongs to another candled; give another directory")
        if not owner:
            os.pwrite(lock, identity.encode() + b"\n", 0)
            sync(target / LOCK)
            with suppress(OSError):  # the folder above may be none of ours
                sync(target.parent)
        yield identity


class _Identity(Struct):
    identity: str


@contextmanager
def reading(target: Path) -> Iterator[None]:
    """Keep backups from changing a folder while it is read."""
    if not (target / LOCK).exists():  # a copy of a backup
        yield
        return
    with _locked(target, os.O_RDONLY, fcntl.LOCK_SH, "a backup"):
        yield


@contextmanager
def _locked(target: Path, flags: int, how: int, other: str) -> Iterator[int]:
    lock = os.open(target / LOCK, flags | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, how | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"backup {target}: it is in use by {other}; wait for that") from None
        yield lock
    finally:
        os.close(lock)


@contextmanager
def _errors(target: Path, tally: Tally) -> Iterator[None]:
    """What went wrong with the folder, with a remedy."""
    try:
        yield
    except Wrong as error:
        raise BrokenStore(f"backup {target}: {error}") from error
    except OSError as error:
        what = f"backup {target}: {error.strerror or error}"
        if error.errno in NO_SPACE:
            raise Unavailable(
                f"backup {target}: no space left after {tally.copied_bytes:,} bytes in {tally.copied_files} files; "
                "make room and start it again, it goes on behind them (the backup before this one is untouched)"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            user = os.geteuid()
            raise Unavailable(
                f"{what} ({error.filename}); user {user}, as whom candled runs, must be able to write there: "
                "change its owner or give another directory"
            ) from error
        raise Unavailable(f"{what} ({error.filename})" if error.filename else what) from error


def make_folders(target: Path, folder: Path) -> None:
    """Make a folder and those above it up to the target, for their owner alone."""
    if folder != target and not folder.is_dir():
        make_folders(target, folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def sync(path: Path) -> None:
    """Wait until the disk has a file, or the names in a folder."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _fsync(file)
    finally:
        os.close(file)


if sys.platform == "linux":

    def _evict(file: int) -> None:
        """Forget the kernel's copy of what has been written to the disk."""
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
else:

    def _evict(file: int) -> None:
        """Nothing: this system cannot be asked to forget its copy of a file."""
