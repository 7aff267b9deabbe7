"""A data directory made from a backup, at a new epoch: the history that clients followed may have gone on after it.

Every file of the backup is read before anything is written. The new files lie in a folder within the data directory
until they are all there, and until they are in place, no daemon starts.
"""

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from msgspec import Struct

from storage import backup
from storage.backup import NO_SPACE, TOP, Manifest, Wrong
from storage.errors import BrokenStore, Conflict, Unavailable
from storage.journal import Journal

FOLDER = ".restore"  # within the data directory
LOCK = "lock"  # within that folder; exists from before the first file until after the last, and is held meanwhile

Step = Callable[[int], None]  # so many bytes more were read


class Restored(Struct, frozen=True):
    """What is in the data directory now."""

    data: str
    made: float  # when the backup was, Unix seconds
    before: str  # the cursor of the backup
    cursor: str  # the same, in the new epoch
    files: int
    bytes: int
    aside: str | None  # where what was there went
    missing: list[str]  # what the backup had no copy of


def unfinished(data: Path) -> bool:
    """Whether a restore into the data directory is under way, or was cut off."""
    return (data / FOLDER / LOCK).exists()


def verify(target: Path, manifest: Manifest, step: Step) -> None:
    """Read every file of a backup; raises BrokenStore where one is missing or damaged."""
    for entry in manifest.files:
        path = target / entry.stored
        try:
            size = path.stat().st_size
            if size != entry.bytes:
                raise Wrong(f"{path} has {size} bytes instead of {entry.bytes}")
            if backup.hashed(path, size, step) != entry.sha256:
                raise Wrong(f"{path} is damaged: its SHA-256 is not the one that {backup.MANIFEST} has")
        except FileNotFoundError:
            raise _unusable(target, f"{path} is missing") from None
        except (OSError, Wrong) as error:
            raise _unusable(target, str(error)) from error


def restore(target: Path, manifest: Manifest, data: Path, step: Step, *, force: bool = False) -> Restored:
    """Make the data directory that a verified backup is of; what is there is moved aside with `force`, never removed.

    Raises Conflict where something is there, Unavailable where there is no room. Blocks.
    """
    made = not data.exists()
    aside = _vacated(data, force)
    try:
        with _errors(data), _staged(data) as folder:
            for entry in manifest.files:
                path = folder / entry.path
                backup.make_folders(folder, path.parent)
                if backup.copied(target / entry.stored, entry.bytes, path, step) != entry.sha256:
                    raise _unusable(target, f"{target / entry.stored} has changed since it was verified")
            epoch = _renewed(target, folder / "journal", manifest)
            for path in folder.rglob("*"):
                if path.is_dir():
                    backup.sync(path)
            backup.sync(folder)
            for name in TOP:
                if (folder / name).exists():
                    (folder / name).rename(data / name)
            backup.sync(data)
    except BaseException:
        if aside is not None or made:
            with suppress(OSError):  # another restore is at work in it
                data.rmdir()
        if aside is not None and not data.exists():
            aside.rename(data)
        raise
    return Restored(
        data=str(data),
        made=manifest.made,
        before=manifest.cursor,
        cursor=f"{epoch}.{manifest.seq}",
        files=len(manifest.files),
        bytes=manifest.bytes,
        aside=None if aside is None else str(aside),
        missing=manifest.missing,
    )


def _renewed(target: Path, folder: Path, manifest: Manifest) -> str:
    """See that the journal is all there, and begin a new epoch: its name."""
    with Journal.open(folder) as journal:
        if journal.last_seq != manifest.seq:
            raise _unusable(target, f"its journal ends with batch {journal.last_seq} instead of {manifest.seq}")
        journal.renew_epoch()
        return journal.epoch


def _vacated(data: Path, force: bool) -> Path | None:
    """See that the data directory is there and empty, or a restore was cut off in it; where its content went."""
    if not data.exists():
        with _errors(data):
            data.mkdir(mode=0o700, parents=True)
        return None
    if not data.is_dir():
        raise Conflict(f"data directory {data}: expected a directory, found a file; give another with --data")
    if unfinished(data) or all(path.name == FOLDER for path in data.iterdir()):
        return None
    with _unused(data):
        if not force:
            raise Conflict(
                f"data directory {data} is not empty; give another with --data, or --force, which moves it aside"
            )
        aside = data.with_name(f"{data.name}.before-{time.strftime('%Y%m%dT%H%M%S')}")
        try:
            data.rename(aside)
            data.mkdir(mode=0o700)
        except OSError as error:
            raise Unavailable(
                f"data directory {data}: it cannot be moved aside ({error.strerror}); empty it, or give another with "
                "--data"
            ) from error
        return aside


@contextmanager
def _unused(data: Path) -> Iterator[None]:
    """Keep daemons from the data directory; raises Conflict where one is there."""
    try:
        lock = os.open(data / "journal" / "lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        yield
        return
    try:
        if not _locked(lock):
            raise Conflict(
                f"data directory {data} is in use by a running candled; stop it, or give another with --data"
            )
        yield
    finally:
        os.close(lock)


@contextmanager
def _staged(data: Path) -> Iterator[Path]:
    """The folder for new files, empty; when the block ends, it is gone, and when it raises, so is all that was made."""
    folder = data / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not _locked(lock):
            raise Conflict(f"data directory {data}: another restore is at work in it; wait for that")
        try:
            _clear(data, folder)
            backup.sync(folder)
            backup.sync(data)  # before there is anything that a daemon could take for its own
            yield folder
        except BaseException:
            _clear(data, folder)
            raise
        finally:
            (folder / LOCK).unlink()
            folder.rmdir()
        backup.sync(data)
    finally:
        os.close(lock)


def _clear(data: Path, folder: Path) -> None:
    """Remove what a restore has made so far."""
    for place in (data, folder):
        for name in TOP:
            path = place / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _unusable(target: Path, why: str) -> BrokenStore:
    return BrokenStore(f"backup {target}: {why}; nothing was restored")


@contextmanager
def _errors(data: Path) -> Iterator[None]:
    try:
        yield
    except Wrong as error:
        raise BrokenStore(f"{error}; nothing was restored") from error
    except OSError as error:
        if error.errno in NO_SPACE:
            raise Unavailable(
                f"data directory {data}: no space left; nothing was restored: make room, or give another with --data"
            ) from error
        where = error.filename or data
        raise Unavailable(f"{where}: {error.strerror or error}; nothing was restored") from error
