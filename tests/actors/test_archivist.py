"""Bars move to the archive when nobody speaks of them any more; a file that is gone costs only what lay in it."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from actors import archivist as archivist_module
from actors.archivist import Archivist
from actors.background import Background
from actors.reading import Window
from daemon.stack import Stack
from storage import archive
from storage.archive import Moved, Pause, Snapshot
from storage.calendar import parse
from storage.errors import BrokenStore
from storage.partitions import BrokenPartition, Part, Partition
from tests.stacks import NOON, flush, removed, running, say, trade

DAY, HOUR = 86400, 3600
MIDNIGHT = NOON - 12 * HOUR


@dataclass
class Clock:
    """The time of day, as a test has it."""

    at: float

    def __call__(self) -> float:
        return self.at


def archivist(stack: Stack, clock: Clock, quiet: float = HOUR) -> Archivist:
    return Archivist(stack.store, Background(rest=0), now=clock, quiet=quiet)


async def moved(stack: Stack) -> Archivist:
    """Everything that was said, in the archive."""
    await flush(stack)
    job = archivist(stack, Clock(NOON + 60 * DAY), quiet=0)
    await job.run()
    return job


async def minutes(
    stack: Stack, start: float = MIDNIGHT, end: float = MIDNIGHT + 2 * DAY, market: str = "GOLD"
) -> Window:
    return await stack.engine.window(await stack.registry.named(market), parse("1"), int(start), int(end))


def files(data: Path, name: str = "spot/1m") -> list[Path]:
    return sorted((data / "archive" / name).rglob("*.parquet"))


async def test_days_move_a_week_after_their_end_and_months_too_once_nothing_was_said_of_them_for_an_hour(
    tmp_path: Path,
) -> None:
    clock = Clock(MIDNIGHT + 8 * DAY - 1)
    async with running(tmp_path, now=clock) as stack:
        job = archivist(stack, clock)
        await say(stack, trade(0), trade(DAY))
        await flush(stack)
        await job.run()
        clock.at += 2 * HOUR
        assert job.due()
        await job.run()  # the day has been over for a week, and was not seen to be before
        assert files(tmp_path) == []
        clock.at += HOUR - 1
        await say(stack, trade(60))
        await flush(stack)
        await job.run()  # somebody spoke of it
        clock.at += HOUR - 1
        await job.run()
        assert files(tmp_path) == []
        assert job.statistics().waiting == 4
        clock.at += 1
        await job.run()
        (path,) = files(tmp_path)
        assert path.relative_to(tmp_path) == Path("archive/spot/1m/2023-11-15/1-0.parquet")
        assert not files(tmp_path, "spot/1h")
        assert not job.due()
        assert (await minutes(stack)).time == [NOON, NOON + 60, NOON + DAY]
        clock.at = MIDNIGHT + 40 * DAY
        await job.run()
        clock.at += HOUR
        await job.run()
        assert [path.name for path in files(tmp_path, "spot/1d/2023-11")] == ["1-0.parquet"]
        told = job.statistics()
        assert (told.moved, told.waiting, told.last, told.broken) == (10, 0, clock.at, [])
        assert told.held["spot", "1m"].rows == 3
        assert told.held["spot", "1m"].bytes == sum(path.stat().st_size for path in files(tmp_path))


async def test_a_long_move_is_made_in_turns_between_which_other_jobs_have_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archivist_module, "TURN", -1.0)
    async with running(tmp_path) as stack:
        await say(stack, trade(0), trade(DAY))
        await flush(stack)
        clock = Clock(NOON + 60 * DAY)
        job = archivist(stack, clock, quiet=0)
        await job.run()
        assert (job.statistics().moved, job.statistics().waiting) == (0, 10)
        assert job.due()  # without the pause that follows when all is moved
        monkeypatch.setattr(archivist_module, "TURN", 600.0)
        await job.run()
        assert job.statistics().moved == 10
        assert not job.due()


async def test_late_events_corrections_and_retractions_of_an_archived_day_show_and_are_folded_in_later(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as stack:
        await say(stack, trade(0, 100, trade_id=1), trade(20, 101, trade_id=2), trade(60, 102, trade_id=3))
        await moved(stack)
        await say(stack, trade(10, 107, 2))
        await say(stack, trade(20, 95, 5, trade_id=2), removed(3))
        await say(stack, trade(120, 99, trade_id=4))

        def seen(window: Window) -> None:
            assert window.time == [NOON, NOON + 120]
            assert (window.open[0], window.high[0], window.low[0], window.close[0]) == (100, 107, 95, 95)
            assert (window.volume, window.trades) == ([8.0, 1.0], [3, 1])

        seen(await minutes(stack))
        await flush(stack)
        seen(await minutes(stack))
        await stack.store.compact("spot", 60, 0, DAY)
        seen(await minutes(stack))
        assert [path.name for path in files(tmp_path)] == ["1-0.parquet"]
        await moved(stack)
        seen(await minutes(stack))
        assert [path.name for path in files(tmp_path)] == ["2-0.parquet"]
        assert await stack.store.waiting(2**40) == []
    async with running(tmp_path) as stack:
        seen(await minutes(stack))


async def test_a_file_that_is_gone_or_damaged_is_named_and_costs_only_what_lies_in_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path) as stack:
        await say(stack, trade(0, trade_id=1), trade(DAY), trade(0, market="CORN"))
        await moved(stack)
    (path, _) = files(tmp_path)
    aside = path.rename(tmp_path / "aside")
    async with running(tmp_path) as stack:
        job = archivist(stack, Clock(NOON + 60 * DAY), quiet=0)
        day = MIDNIGHT + DAY
        with pytest.raises(BrokenPartition, match=r"the bars of spot/1m/2023-11-15 .*1-0\.parquet: missing"):
            await minutes(stack, MIDNIGHT, day)
        assert (await minutes(stack, day, day + DAY)).time == [NOON + DAY]
        assert list(stack.store.broken()) == [Partition("spot", 60, MIDNIGHT, day)]
        assert "spot/1m/2023-11-15" in caplog.text
        # What is said about it is taken, and nothing else waits for it.
        await say(stack, trade(5, 90), removed(1), trade(DAY + 60, 80), trade(DAY, market="CORN"))
        await flush(stack)
        assert (await minutes(stack, day, day + DAY)).time == [NOON + DAY, NOON + DAY + 60]
        await job.run()
        assert len(job.statistics().broken) == 1
        aside.rename(path)
        await job.run()
        assert job.statistics().broken == []
        found = await minutes(stack)
        assert (found.time, found.open) == ([NOON, NOON + DAY, NOON + DAY + 60], [90, 100, 80])


async def test_a_market_whose_older_bars_cannot_be_read_has_its_newer_ones(tmp_path: Path) -> None:
    clock = Clock(NOON + 10 * DAY)
    async with running(tmp_path, now=clock) as stack:
        await say(stack, *(trade(day * DAY) for day in range(10)))
        await moved(stack)
    files(tmp_path)[3].unlink()
    async with running(tmp_path, now=clock) as stack:
        day = MIDNIGHT + 4 * DAY
        assert (await minutes(stack, day, clock.at)).time == [NOON + n * DAY for n in range(4, 10)]
        with pytest.raises(BrokenPartition):
            await minutes(stack, day - DAY, clock.at)
        assert (await minutes(stack, MIDNIGHT, day - DAY)).time == [NOON, NOON + DAY, NOON + 2 * DAY]


async def test_files_that_are_replaced_while_it_looks_are_not_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as stack:
        await say(stack, trade(0))
        await moved(stack)
        await say(stack, trade(1))
        await flush(stack)
        fell: list[int] = []
        look = stack.store.parts

        async def slow() -> list[Part]:
            found = await look()
            if not fell:
                fell.append(len(found))
                await moved(stack)
            return found

        job = archivist(stack, Clock(NOON))
        with monkeypatch.context() as patch:
            patch.setattr(stack.store, "parts", slow)
            await job.run()
        assert fell == [6]
        assert job.statistics().broken == []
        assert [path.name for path in files(tmp_path)] == ["2-0.parquet"]


async def test_what_cannot_be_moved_holds_nothing_else_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = archive.write

    def refused(pause: Pause, snapshot: Snapshot, where: Partition, now: float) -> Moved:
        if where.rung == 60:
            raise BrokenStore("not what was written")
        return write(pause, snapshot, where, now)

    async with running(tmp_path) as stack:
        await say(stack, trade(0))
        await flush(stack)
        job = archivist(stack, Clock(NOON + 60 * DAY), quiet=0)
        monkeypatch.setattr(archive, "write", refused)
        with pytest.raises(BrokenStore, match="not what was written"):
            await job.run()
        assert (job.statistics().moved, job.statistics().waiting) == (5, 1)
        monkeypatch.undo()
        await job.run()
        assert (job.statistics().moved, job.statistics().waiting) == (6, 0)
        assert (await minutes(stack)).time == [NOON]


async def test_what_a_stream_follows_goes_on_beside_a_file_that_is_gone(tmp_path: Path) -> None:
    async with running(tmp_path) as stack:
        await say(stack, trade(0, trade_id=1), trade(HOUR, trade_id=2))
        await minutes(stack)  # in memory from here on
        await moved(stack)
        files(tmp_path)[0].unlink()
        # These bars are in memory, but what is left of the first one only the store could tell.
        await say(stack, removed(1), trade(2 * HOUR, 105))
        await flush(stack)
        await say(stack, trade(3 * HOUR, 106))
        await flush(stack)
        with pytest.raises(BrokenPartition):
            await minutes(stack)
        hours = await stack.engine.window(await stack.registry.named("GOLD"), parse("60"), MIDNIGHT, MIDNIGHT + DAY)
        assert hours.open == [100, 105, 106]
