"""The timetable of what is done when there is time: one job after the other, each tried again when it fails."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import trio
from msgspec import Struct
from trio import TASK_STATUS_IGNORED, TaskStatus

from storage.errors import CandledError, FailedDisk, Unavailable

log = logging.getLogger(__name__)

LONGEST = 600.0  # seconds until a job that fails is tried again, at most
ROOM = 60.0  # the same where it was only not possible then, as on a full disk


class Job(Protocol):
    """What is to be done now and then."""

    @property
    def name(self) -> str: ...

    def due(self) -> bool:
        """Whether it is time; asked often, so it should cost nothing."""
        ...

    async def run(self) -> None:
        """Do it. What cannot be done now raises a CandledError or an OSError, loses nothing, and is tried again.

        FailedDisk ends the process.
        """
        ...


class JobStatistics(Struct, frozen=True):
    """How a job goes."""

    runs: int
    failures: int
    seconds: float
    last: float  # when it last succeeded, Unix seconds; 0: never
    failing: str  # why it did not succeed the last time; empty when it did


@dataclass(slots=True)
class _Kept:
    job: Job
    runs: int = 0
    failures: int = 0
    seconds: float = 0.0
    last: float = 0.0
    failing: str = ""
    pause: float = 0.0
    not_before: float = 0.0  # on the loop's clock


class Janitor:
    """Asks every `beat` seconds which job is due, and runs one at a time."""

    def __init__(
        self, jobs: Sequence[Job], *, now: Callable[[], float] = time.time, beat: float = 1.0, retry: float = 15.0
    ) -> None:
        """A job that fails is tried again after `retry` seconds, then after twice that, and so on."""
        self._jobs = [_Kept(job) for job in jobs]
        self._now, self._beat, self._retry = now, beat, retry

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Do what is due until cancelled."""
        task_status.started()
        while True:
            await trio.sleep(self._beat)
            for kept in self._jobs:
                if trio.current_time() >= kept.not_before and kept.job.due():
                    await self._do(kept)

    async def _do(self, kept: _Kept) -> None:
        began = trio.current_time()
        try:
            await kept.job.run()
        except FailedDisk:
            raise
        except (CandledError, OSError) as error:
            kept.failures += 1
            first, longest = self._retry, LONGEST
            if isinstance(error, Unavailable):
                first, longest = min(first, error.retry_after), ROOM
            kept.pause = min(kept.pause * 2 or first, longest)
            kept.not_before = trio.current_time() + kept.pause
            if kept.failing != str(error):
                log.error("%s: %s; trying again", kept.job.name, error)
            kept.failing = str(error)
        else:
            if kept.failing:
                log.info("%s: succeeded again", kept.job.name)
            kept.runs += 1
            kept.failing, kept.pause, kept.not_before = "", 0.0, 0.0
            kept.last = self._now()
        kept.seconds += trio.current_time() - began

    def statistics(self) -> dict[str, JobStatistics]:
        """Counters by job, for metrics and health."""
        return {
            kept.job.name: JobStatistics(kept.runs, kept.failures, kept.seconds, kept.last, kept.failing)
            for kept in self._jobs
        }
