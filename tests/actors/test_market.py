"""Markets as the running stack keeps them."""

from pathlib import Path

from storage.calendar import parse
from tests.histories import FAR, Reader, StrictChart, read, rows
from tests.stacks import NOON, flush, running, say, trade

MINUTE = NOON


async def test_what_was_traded_without_a_price_shows_in_longer_bars_only(tmp_path: Path) -> None:
    async with running(tmp_path) as stack:
        await say(stack, trade(0, 100, 1), trade(60, 0, 5), trade(120, 101, 1))
        assert [row[0] for row in await read(stack, "GOLD", "1")] == [MINUTE, MINUTE + 120]
        for state in ("unflushed", "flushed"):
            assert await read(stack, "GOLD", "3") == [(MINUTE, 100, 101, 100, 101, 7, 3)], state
            newest = await stack.engine.window(await stack.registry.named("GOLD"), parse("3"), 0, FAR, 1)
            assert rows(newest) == [(MINUTE, 100, 101, 100, 101, 7, 3)], state
            await flush(stack)


async def test_an_empty_chart_that_missed_nothing_but_numbers_goes_on_without_a_gap(tmp_path: Path) -> None:
    async with running(tmp_path) as stack:
        await say(stack, trade(0, 100, market="GOLD"), trade(0, 100, market="COAL"))
        await say(stack, trade(0, 0, market="RYE"))
        chart = StrictChart("RYE", "1")
        reader = Reader(chart, stack.hub, stack.engine)
        await reader.follow(await stack.registry.named("RYE"))
        reader.leave()
        await say(stack, trade(1, 100, market="GOLD"))
    async with running(tmp_path) as stack:
        await Reader(chart, stack.hub, stack.engine).follow(await stack.registry.named("RYE"))
        await say(stack, trade(2, 7, market="RYE"))
        assert await read(stack, "RYE", "1") == chart.rows() == [(MINUTE, 7, 7, 7, 7, 2, 2)]
