"""Backups on request: a job of the janitor, so that nothing is sealed, archived or trimmed while files are copied."""

import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Literal

from msgspec import Struct, structs

from actors.background import Background, Pause
from storage import backup
from storage.backup import Manifest, Named, Source, Tally
from storage.errors import CandledError, Conflict

log = logging.getLogger(__name__)


class Told(Struct, frozen=True, kw_only=True):
    """How a backup goes, or went."""

    directory: str
    state: Literal["waiting", "running", "done", "failed"]
    files: int = 0  # that belong to it
    bytes: int = 0
    copied_files: int = 0
    copied_bytes: int = 0
    kept_files: int = 0  # that an earlier backup had copied
    kept_bytes: int = 0
    seconds: float = 0.0
    cursor: str | None = None  # once it is done: where it stands
    missing: list[str] = []  # what the store names and nobody has whole any more
    error: str | None = None


class BackupStatistics(Struct, frozen=True):
    """How backups went, since the start."""

    made: int
    failures: int
    failing: str  # why the newest failed; empty when it did not
    last: float  # when the newest was made, Unix seconds; 0: never
    seconds: float  # that it took
    bytes: int  # that belong to it
    copied_bytes: int


class Backups:
    """Makes one backup at a time."""

    name = "backup"

    def __init__(
        self,
        source: Source,
        named: Callable[[], Awaitable[Named]],
        background: Background,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`named()` says which files of events and bars the store knows of."""
        self._source, self._named, self._background, self._clock = source, named, background, now
        self._told = BackupStatistics(0, 0, "", 0.0, 0.0, 0, 0)
        self._directory: Path | None = None  # of the one that was asked for or is being made
        self._began = 0.0
        self._tally: Tally | None = None
        self._last: Told | None = None

    def begin(self, directory: Path) -> Told:
        """Have a backup made; one into the same directory that is not done yet is joined.

        Raises Conflict while another one is being made.
        """
        if self._directory is not None and self._directory != directory:
            raise Conflict(f"a backup into {self._directory} is being made; wait for that")
        if self._directory is None:
            self._directory, self._tally = directory, None
        return self._now(directory)

    def told(self) -> Told | None:
        """How the one that is asked for or being made goes, else how the last one went."""
        return self._last if self._directory is None else self._now(self._directory)

    def statistics(self) -> BackupStatistics:
        """Counters for metrics and health."""
        return self._told

    def due(self) -> bool:
        """Whether one is asked for."""
        return self._directory is not None

    async def run(self) -> None:
        """Make it. One that fails is not tried again by itself: whoever asked is told why."""
        assert self._directory is not None
        self._began, self._tally = time.perf_counter(), Tally()
        log.info("backup into %s begins", self._directory)
        try:
            made: Manifest = await self._background.run(
                _write, self._source, await self._expected(), self._directory, self._clock(), self._tally
            )
        except (CandledError, OSError) as error:
            log.error("backup into %s: %s", self._directory, error)
            self._end(state="failed", error=str(error))
        else:
            self._end(state="done", cursor=made.cursor, missing=made.missing)
            log.info("backup into %s is done: %s", self._directory, made.cursor)
        finally:
            self._directory = None

    async def _expected(self) -> Named:
        try:
            return await self._named()
        except CandledError as error:  # it is only an index: all that there is can be backed up without it
            log.warning("backup: which files there should be is not known: %s", error)
            return {}

    def _now(self, directory: Path) -> Told:
        if self._tally is None:
            return Told(directory=str(directory), state="waiting")
        return told(directory, "running", self._tally, time.perf_counter() - self._began)

    def _end(self, state: Literal["done", "failed"], **more: object) -> None:
        assert self._directory is not None
        assert self._tally is not None
        seconds = time.perf_counter() - self._began
        self._last = one = told(self._directory, state, self._tally, seconds, **more)
        before = self._told
        if state == "failed":
            self._told = structs.replace(before, failures=before.failures + 1, failing=one.error or "")
        else:
            sizes = one.bytes, one.copied_bytes
            self._told = BackupStatistics(before.made + 1, before.failures, "", self._clock(), seconds, *sizes)


def told(
    directory: Path, state: Literal["running", "done", "failed"], tally: Tally, seconds: float, **more: object
) -> Told:
    """How a backup goes."""
    counts = {name: getattr(tally, name) for name in ("files", "bytes", *COUNTED)}
    return Told(directory=str(directory), state=state, seconds=round(seconds, 3), **counts, **more)  # type: ignore[arg-type] # names as above


COUNTED = ("copied_files", "copied_bytes", "kept_files", "kept_bytes")


def _write(pause: Pause, source: Source, named: Named, directory: Path, now: float, tally: Tally) -> Manifest:
    return backup.write(source._replace(named=named), directory, now, tally, pause)
