"""`candled backup` and `candled restore`: of a data directory that nobody uses, or through its running daemon."""

import http.client
import time
from pathlib import Path
from typing import Protocol
from urllib.parse import SplitResult, urlsplit

import msgspec

from actors.backups import Told, told
from daemon import __version__, commands
from daemon.config import Config
from daemon.importing import refusal, seconds_of
from daemon.importing import told as reason
from storage import answers, backup, restore
from storage.backup import Source, Tally
from storage.errors import BrokenStore, CandledError, Unavailable
from storage.journal import Journal, lost
from storage.restore import Restored
from storage.state import State

BEAT = 0.25  # seconds between two questions how far it is
PATIENCE = 30.0  # seconds that a daemon may take to answer one


class Reporter(Protocol):
    """Who is told how far it is."""

    def begin(self, what: str, total: int | None, done: int, unit: str) -> None: ...
    def advance(self, count: int) -> None: ...


class Failed(CandledError):
    """The daemon could not make the backup."""


def made(config: Config, directory: Path, report: Reporter) -> Told:
    """Make a backup; what became of it."""
    commands.see_exists(config)
    directory = directory.absolute()
    if commands.in_use(config):
        return _through_daemon(*commands.address(config), directory, report)
    if why := lost(config.data):
        raise BrokenStore(why)
    began, tally, follow = time.perf_counter(), Tally(), _Following(directory, report)
    with (
        Journal.open(config.journal_folder) as journal,
        State.open(config.state_file, or_read=True) as state,
        answers.opened(config.data / "answers.db", or_read=True) as answered,
    ):
        named = backup.named_in(config.data / "candles.duckdb")
        source = Source(config.data, journal, state, answered, named, __version__)
        manifest = backup.write(source, directory, time.time(), tally, lambda: follow(tally.bytes, tally.done))
    seconds = time.perf_counter() - began
    return told(directory, "done", tally, seconds, cursor=manifest.cursor, missing=manifest.missing)


def restored(config: Config, directory: Path, report: Reporter, *, force: bool) -> Restored:
    """Make the data directory that a backup is of."""
    with backup.reading(directory):
        manifest = backup.read(directory)
        report.begin("verifying", manifest.bytes, 0, "bytes")
        restore.verify(directory, manifest, report.advance)
        report.begin("restoring", manifest.bytes, 0, "bytes")
        return restore.restore(directory, manifest, config.data, report.advance, force=force)


def _through_daemon(url: str, key: str, directory: Path, report: Reporter) -> Told:
    parts, follow = urlsplit(url), _Following(directory, report)
    found = _asked(parts, key, "POST", msgspec.json.encode({"directory": str(directory)}))
    while found is None or found.state in ("waiting", "running"):
        time.sleep(BEAT)
        found = _asked(parts, key, "GET")
        if found is None or found.directory != str(directory):
            raise Unavailable(f"{url} was restarted; the backup is not done: start it again, what was copied stays")
        follow(found.bytes, found.copied_bytes + found.kept_bytes)
    if found.error is not None:
        raise Failed(found.error)
    return found


def _asked(parts: SplitResult, key: str, method: str, body: bytes | None = None) -> Told | None:
    assert parts.hostname is not None
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname, parts.port, timeout=PATIENCE)
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    try:
        connection.request(method, "/api/admin/backup", body, headers)
        response = connection.getresponse()
        answer = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(
            f"{parts.geturl()}: {error}; the backup is not done: start it again, what was copied stays"
        ) from error
    finally:
        connection.close()
    if response.status == 429:
        time.sleep(seconds_of(response.headers["Retry-After"]))
        return _asked(parts, key, method, body)
    if response.status >= 400:
        raise refusal(response.status, f"{parts.geturl()} answered {response.status}: {reason(answer)}")
    return msgspec.json.decode(answer, type=Told | None)


class _Following:
    """Tells a reporter of totals as steps."""

    def __init__(self, directory: Path, report: Reporter) -> None:
        self._directory, self._report = directory, report
        self._total = self._done = 0

    def __call__(self, total: int, done: int) -> None:
        if not total:
            return
        if not self._total:
            self._report.begin(f"backup into {self._directory}", total, 0, "bytes")
        self._total = total
        self._report.advance(done - self._done)
        self._done = done
