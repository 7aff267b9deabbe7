"""A process that drops what is too old and is killed amid that: `python -m tests.retention_victim DATA MARKS STEP`.

Every write of it has a step before and a step after it. At the given one the process kills itself, as a SIGKILL from
elsewhere would; with STEP 0 it lives and says how many there are. MARKS is a file that says `inside` meanwhile.
"""

import functools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from actors.retention import Retention
from actors.sealing import Sealing
from storage import archive, retention, sealed
from storage.database import Database
from storage.retention import RAW, Keep
from tests.actors.test_retention import MIDNIGHT, dropped
from tests.stacks import running

DAY = 86400
KEEPS = (Keep("spot", 1, 58), Keep("spot", RAW, 5))
NOW = MIDNIGHT + 60 * DAY + 3600
INSIDE = "inside"


class Steps:
    """Counts what was begun and done while things are dropped."""

    def __init__(self, marks: Path, fatal: int) -> None:
        self._marks, self._fatal = marks, fatal
        self.inside = False
        self.count = 0

    def begin(self) -> None:
        self._marks.write_text(INSIDE)
        self.inside = True

    def end(self) -> None:
        self._marks.write_text("")
        self.inside = False

    def one(self) -> None:
        if self.inside:
            self.count += 1
            if self.count == self._fatal:
                os.kill(os.getpid(), signal.SIGKILL)

    def around(self, work: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(work)
        def stepped(*given: Any, **more: Any) -> Any:
            self.one()
            found = work(*given, **more)
            self.one()
            return found

        return stepped


def watch(steps: Steps) -> None:
    """Have each write that retention makes be two steps, and know when it is at work."""
    for owner, name in (
        (retention, "note_floors"),
        (retention, "note_closed"),
        (retention, "note_frozen"),
        (retention, "note_dropped"),
        (archive, "unlink"),
        (sealed, "without"),
        (Database, "_write"),
        (Sealing, "replace"),
    ):
        setattr(owner, name, steps.around(getattr(owner, name)))
    run = Retention._run

    async def marked(self: Retention) -> None:
        steps.begin()
        await run(self)
        steps.end()

    Retention._run = marked  # type: ignore[method-assign]


async def live(data: Path) -> None:
    async with running(data, retention=KEEPS, now=lambda: NOW) as stack:
        await dropped(stack)


if __name__ == "__main__":
    taken = Steps(Path(sys.argv[2]), int(sys.argv[3]))
    watch(taken)
    trio.run(live, Path(sys.argv[1]))
    print(taken.count)
