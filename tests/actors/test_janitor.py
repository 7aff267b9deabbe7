"""Jobs run when they are due, one at a time, and a job that fails neither ends nor hurries."""

import os
import sys
import threading
from itertools import pairwise

import pytest
import trio
from trio.testing import MockClock

from actors.background import Background, Stopped
from actors.janitor import Janitor
from storage.errors import CandledError, FailedDisk, Unavailable

FULL = Unavailable("no space left", retry_after=5)


class Chore:
    """Is due whenever `seconds` have passed since it last began; fails as often as it is told."""

    def __init__(
        self, name: str, seconds: float, takes: float = 0.0, fails: int = 0, error: CandledError = FULL
    ) -> None:
        self.name = name
        self.began: list[float] = []
        self.running = False
        self._seconds, self._takes, self._fails, self._error = seconds, takes, fails, error
        self.others: list[Chore] = []

    def due(self) -> bool:
        return trio.current_time() - (self.began[-1] if self.began else 0.0) >= self._seconds

    async def run(self) -> None:
        assert not any(other.running for other in self.others)
        self.began.append(trio.current_time())
        self.running = True
        await trio.sleep(self._takes)
        self.running = False
        if self._fails:
            self._fails -= 1
            raise self._error


async def test_jobs_run_when_due_and_never_two_at_a_time(autojump_clock: MockClock) -> None:
    hourly, often = Chore("hourly", 3600, takes=100), Chore("often", 10, takes=5)
    hourly.others, often.others = [often], [hourly]
    janitor = Janitor([hourly, often])
    assert autojump_clock.rate == 0
    with trio.move_on_after(7500):
        await janitor.run()
    assert len(hourly.began) == 2
    assert len(often.began) > 400
    assert janitor.statistics()["hourly"].runs == 2
    assert janitor.statistics()["hourly"].seconds == pytest.approx(200)


async def test_a_job_that_fails_is_tried_again_after_ever_longer_pauses(autojump_clock: MockClock) -> None:
    chore = Chore("sealing", 1, fails=3, error=CandledError("no space left"))
    janitor = Janitor([chore], retry=15, now=lambda: 7.0)
    assert autojump_clock.rate == 0
    with trio.move_on_after(40):
        await janitor.run()
    told = janitor.statistics()["sealing"]
    assert (told.runs, told.failures, told.failing, told.last) == (0, 2, "no space left", 0.0)
    with trio.move_on_after(200):
        await janitor.run()
    told = janitor.statistics()["sealing"]
    assert (told.failures, told.failing, told.last) == (3, "", 7.0)
    first, second, third, fourth = chore.began[:4]
    assert second - first >= 15
    assert third - second >= 30
    assert fourth - third >= 60


async def test_what_a_full_disk_keeps_from_being_done_is_tried_every_minute(autojump_clock: MockClock) -> None:
    chore = Chore("sealing", 1, fails=20)
    janitor = Janitor([chore], retry=15)
    assert autojump_clock.rate == 0
    with trio.move_on_after(600):
        await janitor.run()
    pauses = [later - one for one, later in pairwise(chore.began)]
    assert pauses[0] <= FULL.retry_after + 1
    assert max(pauses) <= 60 + 1
    assert len(chore.began) >= 10


async def test_a_disk_that_fails_a_job_ends_all(autojump_clock: MockClock) -> None:
    janitor = Janitor([Chore("sealing", 1, fails=1, error=FailedDisk("raw: Input/output error"))])
    assert autojump_clock.rate == 0
    with trio.fail_after(60), pytest.raises(FailedDisk, match="Input/output error"):
        await janitor.run()


async def test_work_in_the_background_gives_way_to_all_else() -> None:
    niceness = await Background().run(lambda _: os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
    assert niceness == (19 if sys.platform == "linux" else os.getpriority(os.PRIO_PROCESS, 0))
    assert os.getpriority(os.PRIO_PROCESS, os.getpid()) < 19
    with pytest.raises(Unavailable, match="full"):
        await Background().run(failing)


def failing(_: object) -> None:
    raise Unavailable("full")


async def test_work_that_is_cancelled_ends_at_its_next_pause_and_is_waited_for() -> None:
    background = Background(rest=0)
    steps: list[str] = []
    begun = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def work(pause: object) -> None:
        assert callable(pause)
        token.run_sync_soon(begun.set)
        try:
            while True:
                pause()
        except Stopped:
            steps.append("stopped")
            raise

    async with trio.open_nursery() as nursery:
        nursery.start_soon(background.run, work)
        await begun.wait()
        nursery.cancel_scope.cancel()
    assert steps == ["stopped"]
    assert await background.run(lambda _: 5) == 5
