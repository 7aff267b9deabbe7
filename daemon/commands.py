"""The commands that are not `serve`: what they do, apart from how they are typed and printed."""

import fcntl
import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from daemon.config import Config
from storage import keys, markets, rejects, restore
from storage.errors import CandledError, Unavailable
from storage.journal import lost
from storage.records import ApiKey, Reject
from storage.state import State

ADDRESS = "address"  # the file in the data directory that says where its daemon listens, and has a key for commands
ADDRESS_BYTES = 512
LITTLE_SPACE = 1 << 30  # bytes; below, `check` says so


class NotThere(CandledError):
    """What the command is about does not exist."""


class Folder(Struct, frozen=True, kw_only=True):
    """What `check` finds in the data directory."""

    path: str
    exists: bool
    usable: bool = True
    in_use: bool = False  # by a running daemon
    bytes: int = 0
    free_bytes: int = 0  # on its disk
    markets: int = 0
    keys: int = 0  # not revoked
    admin_key: bool = False  # whether one of them is an admin's
    problems: list[str] = []


def create_token(config: Config, scope: str, name: str) -> str:
    """A new key; the only time it is seen."""
    make_folder(config)
    with State.open(config.state_file) as state:
        return keys.create(state, scope, name)


def first_key(config: Config) -> str:
    """What to type for a key that may do everything."""
    return f"candled token create --scope admin --data {shlex.quote(str(config.data))}"


def tokens(config: Config) -> list[ApiKey]:
    """All keys ever made, oldest first."""
    see_exists(config)
    with State.open(config.state_file, or_read=True) as state:
        return keys.listed(state)


def revoke_token(config: Config, which: int) -> None:
    """End a key."""
    with _existing_state(config) as state:
        if all(key.id != which for key in keys.listed(state)):
            raise NotThere(f"no key {which}; `candled token list` shows those that there are")
        keys.revoke(state, which)


def refused_events(config: Config, limit: int) -> list[Reject]:
    """The newest dead letters, newest first."""
    if not config.rejects_file.exists():
        see_exists(config)
        return []
    with rejects.opened(config.rejects_file, or_read=True) as state:
        return rejects.listed(state, limit)


def folder(config: Config) -> Folder:
    """The data directory as it is, whether a daemon runs on it or not."""
    path = config.data
    nearest = next(p for p in (path, *path.parents) if p.exists())
    problems = []
    usable = False
    if not nearest.is_dir():
        problems.append(f"{nearest}: expected a directory, found a file; give another one with --data")
    elif not os.access(nearest, os.W_OK | os.X_OK):
        problems.append(f"{nearest}: not writable by this user; change its owner or give another one with --data")
    else:
        usable = True
    free = shutil.disk_usage(nearest).free
    if free < LITTLE_SPACE:
        problems.append(f"{nearest}: {free >> 20} MiB free on its disk; candled refuses events when that is used up")
    if not path.is_dir():
        return Folder(path=str(path), exists=False, usable=usable, free_bytes=free, problems=problems)
    if why := lost(path):
        problems.append(why)
    registered = alive = 0
    admin = False
    if config.state_file.exists():
        try:
            with State.open(config.state_file, or_read=True) as state:
                if damage := state.check():
                    problems.append(damage)
                registered = markets.count(state).registered
                alive = sum(key.revoked is None for key in keys.listed(state))
                admin = keys.has_admin(state)
        except CandledError as error:
            problems.append(str(error))
    return Folder(
        path=str(path),
        exists=True,
        usable=usable,
        in_use=in_use(config),
        bytes=sum(size for _, size in _files(path)),
        free_bytes=free,
        markets=registered,
        keys=alive,
        admin_key=admin,
        problems=problems,
    )


def make_folder(config: Config) -> None:
    """Make the data directory, for its owner alone, unless it exists."""
    _see_no_file(config)
    if restore.unfinished(config.data):
        raise Unavailable(
            f"data directory {config.data}: a restore was cut off, or is under way; start `candled restore` again"
        )
    try:
        config.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise Unavailable(
            f"data directory {config.data}: cannot be made: {error.strerror}; give another one with --data"
        ) from error


def _existing_state(config: Config) -> State:
    see_exists(config)
    return State.open(config.state_file)


def see_exists(config: Config) -> None:
    """Raise NotThere where no candled has used the data directory."""
    _see_no_file(config)
    if not config.data.is_dir():
        raise NotThere(f"no data directory {config.data}; give the daemon's with --data")
    if not config.state_file.exists():
        raise NotThere(f"no candled has used {config.data} yet; give the daemon's data directory with --data")


def _see_no_file(config: Config) -> None:
    if config.data.exists() and not config.data.is_dir():
        raise NotThere(f"data directory {config.data}: expected a directory, found a file; give another with --data")


def _files(path: Path) -> Iterator[tuple[Path, int]]:
    for file in path.rglob("*"):
        try:
            if file.is_file():
                yield file, file.stat().st_size
        except FileNotFoundError:  # a running daemon has just renamed or dropped it
            continue


def in_use(config: Config) -> bool:
    """Whether a process has the data directory open."""
    try:
        with (config.journal_folder / "lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def announce(config: Config, url: str, key: str) -> None:
    """Say where the daemon listens, and with which key commands of the directory's owner ask it; nothing, once it ends.

    The file keeps its room for the next start, which may find the disk full. Raises OSError.
    """
    file = os.open(config.data / ADDRESS, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(file, 0o600)
        os.pwrite(file, f"{url}\n{key}\n".encode().ljust(ADDRESS_BYTES), 0)
    finally:
        os.close(file)


def address(config: Config) -> tuple[str, str]:
    """Where the daemon that uses the data directory listens, and a key for it."""
    try:
        url, key = (config.data / ADDRESS).read_text().split()
    except PermissionError as error:
        raise Unavailable(f"{error.filename}: only the daemon's own user may ask it without --url and --key") from None
    except (OSError, ValueError):
        raise Unavailable(
            f"{config.data} is in use, but not by a daemon that says where it listens; give its address with --url"
        ) from None
    return url, key
