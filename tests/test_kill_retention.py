"""A process killed while it drops what is too old: the next one ends what was begun, and nothing else is gone."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests.actors.test_retention import Bars, Clock, archived, bars, days, dropped, kept
from tests.daemons import ROOT
from tests.retention_victim import INSIDE, KEEPS, NOW
from tests.stacks import say
from tests.test_verify import verified

KILLS = 5


class Left(NamedTuple):
    """What a directory is after all that may go is gone."""

    bars: Bars
    archive: list[str]
    raw: int  # events
    closed: int  # days


def files(data: Path) -> list[str]:
    return sorted(str(path.relative_to(data)) for path in (data / "archive").rglob("*.parquet"))


async def ended(data: Path) -> tuple[Bars, Left]:
    """What a start shows at once, and what is left when it has dropped all that may go."""
    async with kept(data, Clock(NOW), KEEPS) as stack:
        first = await bars(stack)
        await dropped(stack)
        lines = await verified(stack)
        assert not [line for line in lines if getattr(line, "problem", "") or getattr(line, "differences", 0)]
        assert stack.retention.statistics().waiting == []
        raw = sum(file.events for file in stack.sealing.files)
        return first, Left(await bars(stack), files(data), raw, stack.retention.statistics().closed_days)


def killed(data: Path, marks: Path, step: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.retention_victim", str(data), str(marks), str(step)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


async def test_what_a_kill_amid_retention_leaves_is_ended_by_the_next_start(tmp_path: Path) -> None:
    clock = Clock(NOW - 6 * 86400)
    async with kept(tmp_path / "data", clock, ()) as stack:
        await say(stack, days(3))
        clock.at = NOW - 5.5 * 86400
        await archived(stack, clock)
        whole = await bars(stack)
    shutil.copytree(tmp_path / "data", tmp_path / "other")
    done = killed(tmp_path / "other", tmp_path / "marks", 0)
    assert done.returncode == 0, done.stderr
    steps = int(done.stdout)
    first, wanted = await ended(tmp_path / "other")
    assert (first, wanted.raw, wanted.closed) == (wanted.bars, 0, 3)
    assert wanted.bars != whole
    assert len(wanted.archive) < len(files(tmp_path / "data"))
    assert steps > 3 * KILLS
    for number in range(KILLS):
        data = tmp_path / f"{number}"
        shutil.copytree(tmp_path / "data", data)
        done = killed(data, tmp_path / "marks", 1 + number * (steps - 1) // (KILLS - 1))
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert (tmp_path / "marks").read_text() == INSIDE
        first, found = await ended(data)
        for name, rows in first.items():
            assert rows in (whole[name], wanted.bars[name]), (number, name)
        assert found == wanted, number
