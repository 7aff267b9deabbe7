"""Work that nobody waits for: a thread of low priority, one piece at a time, that rests and can be told to stop."""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import trio

log = logging.getLogger(__name__)

T = TypeVar("T")
Pause = Callable[[], None]  # called between two steps: rests, and raises Stopped when the work is to end
REST = 1.0  # seconds of rest for each second of work: most of it holds no lock that the loop needs, some does
STEP = 0.005  # seconds of work between two rests, at least
LONGEST = 0.1  # seconds of rest at a time


class Stopped(Exception):
    """The work was told to end before it was done."""


class Background:
    """Runs one piece of work at a time beside everything else."""

    def __init__(self, rest: float = REST) -> None:
        self._rest = rest
        self._one = trio.Lock()

    async def run(self, work: Callable[..., T], *arguments: Any) -> T:
        """`work(pause, *arguments)` on a thread of its own; cancelled, it ends at the next pause and is waited for."""
        async with self._one:
            stop, done = threading.Event(), trio.Event()
            token = trio.lowlevel.current_trio_token()
            found: list[T] = []
            errors: list[BaseException] = []

            def body() -> None:
                try:
                    _step_back()
                    found.append(work(_Pauses(stop, self._rest), *arguments))
                except BaseException as error:
                    errors.append(error)
                token.run_sync_soon(done.set)

            threading.Thread(target=body, name="background", daemon=True).start()
            try:
                await done.wait()
            except trio.Cancelled:
                stop.set()
                with trio.CancelScope(shield=True):
                    await done.wait()
                raise
            if errors:
                raise errors[0]
            return found[0]


class _Pauses:
    def __init__(self, stop: threading.Event, rest: float) -> None:
        self._stop, self._rest = stop, rest
        self._since = time.perf_counter()

    def __call__(self) -> None:
        worked = time.perf_counter() - self._since
        if worked < STEP and not self._stop.is_set():
            return
        if self._stop.wait(min(worked * self._rest, LONGEST)):
            raise Stopped
        self._since = time.perf_counter()


def _step_back() -> None:
    """Let every other thread of the machine go first. A thread cannot undo this, so none is used twice."""
    if sys.platform == "linux":  # elsewhere it would be the whole process
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
