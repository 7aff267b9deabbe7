"""What is dropped is gone for good and whole; what stays does not change, live, after restarts and after losses."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from actors.archivist import Archivist
from actors.background import Background
from daemon.stack import Stack
from storage.retention import RAW, Keep
from tests.histories import Row, read
from tests.stacks import NOON, Said, flush, removed, running, say, trade

DAY = 86400
MIDNIGHT = NOON - DAY // 2
RESOLUTIONS = {1: "1S", 60: "1", 300: "5", 900: "15", 3600: "60", DAY: "1D"}
MERGED = {"10S": 1, "7": 60, "1W": DAY, "1M": DAY}  # others, and what they are merged from
RAW_ONLY = (Keep("spot", RAW, 30),)

Bars = dict[str, list[Row]]


@dataclass
class Clock:
    """The time of day, as a test has it."""

    at: float = MIDNIGHT + 4 * DAY

    def __call__(self) -> float:
        return self.at


@asynccontextmanager
async def kept(data: Path, clock: Clock, keeps: Sequence[Keep]) -> AsyncIterator[Stack]:
    async with running(data, retention=keeps, now=clock) as stack:
        yield stack


async def bars(stack: Stack, market: str = "GOLD") -> Bars:
    return {name: await read(stack, market, name) for name in (*RESOLUTIONS.values(), *MERGED)}


async def archived(stack: Stack, clock: Clock) -> None:
    """Everything that was said is sealed, and its bars are in the archive."""
    await stack.sealing.run()
    await flush(stack)
    await Archivist(stack.store, Background(rest=0), now=clock, quiet=0).run()


async def dropped(stack: Stack) -> None:
    """What may be dropped is."""
    stack.retention._next = 0
    assert stack.retention.due()
    await stack.retention.run()


def days(n: int, market: str = "GOLD", each: int = 20) -> list[Said]:
    """Trades with ids: `each` a day, from NOON on, some in one second."""
    return [
        trade(DAY * day + 97 * (i // 2), 100 + (7 * i + day) % 11, 1 + i, trade_id=1000 * day + i, market=market)
        for day in range(n)
        for i in range(each)
    ]


def above(shown: Bars, floors: dict[int, int]) -> Bars:
    """The bars that begin at their floor or later."""
    rungs = {name: rung for rung, name in RESOLUTIONS.items()} | MERGED
    return {name: [row for row in rows if row[0] >= floors.get(rungs[name], 0)] for name, rows in shown.items()}


@pytest.mark.parametrize("moved", [False, True])
async def test_bars_below_a_floor_are_gone_at_that_resolution_alone_live_restarted_and_rebuilt(
    tmp_path: Path, moved: bool
) -> None:
    clock = Clock()
    keeps = (Keep("spot", 1, 10), Keep("spot", 60, 12), Keep("perp", 60, 1))
    floors = {1: MIDNIGHT + 2 * DAY, 60: MIDNIGHT}
    async with kept(tmp_path, clock, keeps) as stack:
        await say(stack, days(3))
        before = await bars(stack)
        clock.at = MIDNIGHT + 12 * DAY + 3600
        if moved:
            await archived(stack, clock)
        await dropped(stack)
        expected = above(before, floors)
        assert 0 < len(expected["1S"]) < len(before["1S"])
        assert await bars(stack) == expected
        assert not (tmp_path / "archive/spot/1s/2023-11-15").exists()
        assert (tmp_path / "archive/spot/1s/2023-11-17").exists() == moved
        assert stack.retention.statistics().bars == (20 if moved else 0)
        await flush(stack)
        await dropped(stack)
        assert await bars(stack) == expected
        # A late event counts in the bars that are kept, and makes none below the floor.
        answer = await say(stack, trade(5, 500, 7), removed(3), trade(DAY + 97, 1, 1, trade_id=1002))
        assert (answer.accepted, answer.retracted, answer.corrected) == (1, 1, 1)
        late = await bars(stack)
        assert (late["1S"], late["10S"]) == (expected["1S"], expected["10S"])
        assert late["1"] != expected["1"]
        assert late["1D"][0][5] == before["1D"][0][5] + 7 - 4
        await flush(stack)
        assert await bars(stack) == late
    async with kept(tmp_path, clock, keeps) as stack:
        assert await bars(stack) == late
    (tmp_path / "candles.duckdb").unlink()
    async with kept(tmp_path, clock, ()) as stack:
        assert await bars(stack) == late
        assert (await say(stack, trade(7, 500, 7))).accepted == 1
        assert (await read(stack, "GOLD", "1S")) == late["1S"]
        await flush(stack)
        assert (await read(stack, "GOLD", "1S")) == late["1S"]


async def test_raw_events_go_once_their_bars_are_in_the_archive_and_bars_stay_the_same(tmp_path: Path) -> None:
    clock = Clock()
    async with kept(tmp_path, clock, RAW_ONLY) as stack:
        await say(stack, days(3), key="k")
        await say(stack, removed(5), trade(97, 3, 3, trade_id=2))
        before = await bars(stack)
        clock.at = MIDNIGHT + 40 * DAY
        await stack.sealing.run()
        await dropped(stack)
        assert stack.retention.statistics().waiting == []  # a file made today is not old
        clock.at += 31 * DAY
        await dropped(stack)
        (why,) = stack.retention.statistics().waiting
        assert why.endswith(" are not in the archive yet")
        await archived(stack, clock)
        await dropped(stack)
        told = stack.retention.statistics()
        assert (told.events, told.files, told.closed_days, told.waiting) == (61, 1, 3, [])
        assert await bars(stack) == before
        (file,) = stack.sealing.files
        assert file.events == 0
    async with kept(tmp_path, clock, RAW_ONLY) as stack:
        assert [path.name for path in (tmp_path / "raw").iterdir()] == [file.file]
        assert await bars(stack) == before
        await say(stack, trade(60 * DAY, 5, trade_id=99_000))
        await stack.sealing.run()
        await dropped(stack)
        assert stack.sealing.statistics().files == 1
        after = await bars(stack)
        assert after["1"][:-1] == before["1"]
    for folder in ("identities", ""):
        (tmp_path / "candles.duckdb").unlink()
        if folder:
            for path in (tmp_path / folder).iterdir():
                path.unlink()
        async with kept(tmp_path, clock, RAW_ONLY) as stack:
            epoch = stack.engine.epoch
            assert await bars(stack) == after
            answer = await say(stack, trade(3, 5))
            assert (answer.accepted, answer.rejected_count) == (0, 1)
            assert stack.engine.epoch == epoch
