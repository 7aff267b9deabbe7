"""A file of the archive that is gone costs the answers that need it: none of another resolution or time."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import NamedTuple

from actors.archivist import Archivist
from actors.background import Background
from actors.bars import Label, Start
from actors.export import Exporter
from actors.topics import Subscription
from daemon.stack import Stack
from storage.calendar import parse, rung
from storage.partitions import BrokenPartition, Part
from tests.histories import LINES, Reader, StrictChart
from tests.stacks import NOON, flush, running, say, trade

DAY = 86400
EVER = 2**40
DAYS = (0, 30, 39, 40, 61)
NOW = NOON + 71 * DAY
RESOLUTIONS = ("1S", "1", "3", "5", "15", "60", "240", "1D", "1W", "1M")


class Question(NamedTuple):
    """A question: from which to which second, and what answers it with the times of its bars."""

    resolution: str
    start: int
    end: int
    most: int | None  # the newest so many are enough
    times: Callable[[Stack], Awaitable[list[int]]]


async def window(name: str, start: int, end: int, count: int | None, stack: Stack) -> list[int]:
    record = await stack.registry.named("GOLD")
    return (await stack.engine.window(record, parse(name), start, end, count)).time


async def exported(name: str, start: int, end: int, stack: Stack) -> list[int]:
    exporter = Exporter(stack.engine, stack.writer, stack.store, stack.database.read)
    record = await stack.registry.named("GOLD")
    async with aclosing(exporter.bars(record, parse(name), start, end)) as stretches:
        return [t async for stretch in stretches for t in stretch.rows.column("time").to_pylist()]


async def streamed(name: str, count: int, stack: Stack) -> list[int]:
    """The newest bars as a stream begins with them."""
    record = await stack.registry.named("GOLD")
    reader = Reader(StrictChart("GOLD", name), stack.hub, stack.engine)
    label = Label("GOLD", parse(name).name, stack.engine.epoch)
    found: list[int] = []

    def greeting(start: Start) -> bytes:
        found.extend(bar.time for bar in start.bars)
        return b""

    subscription = Subscription(
        stack.hub,
        reader,
        LINES,
        label,
        greeting=greeting,
        on_lost=lambda _: None,
        bars=count,
        since=None,
    )
    topic = await stack.engine.subscribe(record, parse(name), subscription, bars=count, since=None)
    stack.engine.unsubscribe(topic, subscription)
    return found


def questions() -> dict[str, Question]:
    asked = {}
    middle, late = NOON + 40 * DAY, NOW - 12 * DAY
    for name in RESOLUTIONS:
        for what, start, end in (("all", -EVER, EVER), ("old", middle - 5 * DAY, middle), ("late", late, NOW)):
            asked[f"{name} {what}"] = Question(name, start, end, None, partial(window, name, start, end, None))
            asked[f"{name} {what} exported"] = Question(name, start, end, None, partial(exported, name, start, end))
        asked[f"{name} newest"] = Question(name, -EVER, NOW, 1, partial(window, name, late, NOW, 1))
        asked[f"{name} streamed"] = Question(name, -EVER, NOW, 1, partial(streamed, name, 1))
    return asked


async def answers(data: Path) -> Mapping[str, list[int] | BrokenPartition]:
    found: dict[str, list[int] | BrokenPartition] = {}
    async with running(data, now=lambda: NOW) as stack:
        for name, asked in questions().items():
            try:
                found[name] = await asked.times(stack)
            except BrokenPartition as error:
                found[name] = error
    return found


def needs(asked: Question, times: list[int], part: Part) -> bool:
    """Whether the bars of a file are asked for."""
    if rung(parse(asked.resolution)) != part.rung:
        return False
    if asked.most is not None:
        return min(times) < part.high
    widest = parse(asked.resolution).seconds
    return asked.start - widest < part.high and asked.end + widest > part.low


async def test_only_what_needs_a_file_that_is_gone_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path, now=lambda: NOW) as stack:
        for day in DAYS:  # a batch each, so that each file has changes of its own
            await say(stack, [trade(day * DAY + 40 * n, 10 + day + n / 100) for n in range(3)])
        await flush(stack)
        await Archivist(stack.store, Background(rest=0), now=lambda: NOON + 200.0 * DAY, quiet=0).run()
        parts = await stack.store.parts()
    whole = await answers(tmp_path)
    refused = served = 0
    for seconds in (1, 60, 3600, DAY):
        mine = [part for part in parts if part.rung == seconds]
        gone = mine[-1 if seconds == DAY else len(mine) // 2]
        path = tmp_path / "archive" / gone.path
        aside = path.rename(tmp_path / "aside")
        found = await answers(tmp_path)
        aside.rename(path)
        for name, asked in questions().items():
            was = whole[name]
            assert isinstance(was, list), (name, was)
            if isinstance(found[name], BrokenPartition):
                assert needs(asked, was, gone), (name, str(gone.path))
                refused += 1
            else:
                assert found[name] == was, (name, str(gone.path))
                served += 1
        assert isinstance(
            found[f"{'1D' if seconds == DAY else '1S' if seconds == 1 else seconds // 60} all"], Exception
        )
    assert served > 10 * refused / 2 > 0
