"""The engine in the running stack: who sees what, and when markets come and go."""

import math
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from actors import engine
from daemon.stack import Stack
from storage.errors import UnknownMarket
from tests.histories import Reader, StrictChart, read
from tests.stacks import NOON, flush, removed, running, say, trade


class Clock:
    """The real time, put forward."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


async def retired(stack: Stack, count: int) -> None:
    """Wait until so many markets have retired."""
    with trio.fail_after(60):
        while stack.engine.statistics().retired < count:  # noqa: ASYNC110  # nobody is told of it
            await trio.sleep(0.01)


async def test_a_request_sees_what_was_acknowledged_before_it_began(tmp_path: Path) -> None:
    async with running(tmp_path) as stack:
        seen: list[bool] = []

        async def one(number: int) -> None:
            for turn in range(5):
                second = number + 100 * turn
                symbol = f"M{number % 7}"
                words = [trade(second, 100 + number, market=symbol, trade_id=second)]
                await say(stack, words[0], *([removed(second - 100, symbol)] if turn == 4 and number < 5 else []))
                rows = await read(stack, symbol, "1S", NOON + second, NOON + second + 1)
                seen.append([row[1] for row in rows] == [100 + number])

        async with trio.open_nursery() as nursery:
            for number in range(60):
                nursery.start_soon(one, number)
        assert seen == [True] * 300


async def test_markets_that_are_not_there_are_refused_by_name(tmp_path: Path) -> None:
    async with running(tmp_path, create=None) as stack:
        with pytest.raises(UnknownMarket, match="GLOD"):
            await stack.engine.market("GLOD")


async def test_a_registered_market_has_no_task_before_somebody_asks_for_it(tmp_path: Path) -> None:
    async with running(tmp_path) as stack:
        for number in range(20):
            await stack.registry.put({"market_symbol": f"M{number}", "kind": "perp"})
        assert stack.engine.statistics().active == 0
        assert await read(stack, "M3", "1") == []
        await say(stack, trade(0, market="M4"))
        await read(stack, "M4", "1")
        assert (stack.engine.statistics().active, stack.engine.statistics().opened) == (2, 2)
        assert stack.store.statistics().history_reads == 0


async def test_an_idle_market_retires_and_comes_back_as_it_was(tmp_path: Path) -> None:
    clock = Clock()
    async with running(tmp_path, now=clock) as stack:
        await say(stack, trade(0, market="COAL"))
        await flush(stack)
        await say(stack, trade(0, 100, trade_id=1), trade(60, 101))
        before = {resolution: await read(stack, "GOLD", resolution) for resolution in ("1S", "1", "1D", "3", "1W")}
        clock.ahead += 400
        await retired(stack, 1)
        assert stack.engine.statistics().active == 1  # what is not flushed stays
        await flush(stack)
        clock.ahead += 400
        await retired(stack, 2)
        assert stack.engine.nbytes() == 0
        assert {resolution: await read(stack, "GOLD", resolution) for resolution in before} == before
        assert stack.store.statistics().history_reads > 0
        await say(stack, trade(1, 102, 1), removed(1))
        bars = await read(stack, "GOLD", "1")
        assert bars == [(NOON, 102, 102, 102, 102, 1, 1), (NOON + 60, 101, 101, 101, 101, 1, 1)]
        assert stack.engine.statistics().opened == 3


async def test_of_a_crowd_of_markets_those_that_are_idle_retire_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "CROWD", 3)
    clock = Clock()
    async with running(tmp_path, now=clock) as stack:
        names = [f"M{n}" for n in range(10)]
        await say(stack, *[trade(n, 100 + n, market=name) for n, name in enumerate(names)])
        before = [await read(stack, name, "1") for name in names]
        assert stack.engine.statistics().active == 10
        assert before[7] == [(NOON, 107, 107, 107, 107, 1, 1)], "one of those that were opened without rings"
        await flush(stack)
        clock.ahead += 20
        await say(stack, trade(60, 5, market="M0"))
        await retired(stack, 7)
        assert stack.engine.statistics().active == 3
        assert "M0" in stack.engine._slots, "which was at work just now"
        assert [await read(stack, name, "1") for name in names[1:]] == before[1:]


async def test_a_clock_that_is_set_back_keeps_no_idle_market(tmp_path: Path) -> None:
    clock = Clock()
    async with running(tmp_path, now=clock) as stack:
        clock.ahead += 1e8
        await say(stack, trade(0))
        await flush(stack)
        clock.ahead -= 1e8
        await retired(stack, 1)
        assert len(await read(stack, "GOLD", "1")) == 1


async def test_a_stream_stands_where_its_market_changed_last_also_after_it_was_closed(tmp_path: Path) -> None:
    async with running(tmp_path) as stack:
        await say(stack, trade(0))
        await say(stack, trade(60, trade_id=1))
        reader = Reader(StrictChart("GOLD", "1"), stack.hub, stack.engine)
        await reader.follow(await stack.registry.named("GOLD"))
        reader.leave()
        for second in range(5):
            await say(stack, trade(second, market="COAL"))
        await flush(stack)
        stack.engine._retire(math.inf)
        for _ in range(2):
            assert await reader.follow(await stack.registry.named("GOLD"))
            assert reader.subscription.position == reader.chart.seq == 2
            reader.leave()
    async with running(tmp_path) as stack:
        again = Reader(reader.chart, stack.hub, stack.engine)
        assert await again.follow(await stack.registry.named("GOLD"))
        assert again.subscription.position == again.chart.seq == 2
        # Each time it was told of its last bar, and of the one before, which may have been open for stragglers.
        assert again.chart.ops == 3 * ["amend", "upsert"]
        await say(stack, removed(1))
        assert await read(stack, "GOLD", "1") == again.chart.rows()
        assert again.chart.seq == stack.engine.committed() == 8


async def test_a_market_that_is_read_or_watched_does_not_retire(tmp_path: Path) -> None:
    clock = Clock()
    async with running(tmp_path, now=clock) as stack:
        await say(stack, *[trade(0, market=symbol) for symbol in ("READ", "SEEN", "IDLE")])
        await flush(stack)
        reader = Reader(StrictChart("SEEN", "1"), stack.hub, stack.engine)
        await reader.follow(await stack.registry.named("SEEN"))
        clock.ahead += 290
        await read(stack, "READ", "1")
        clock.ahead += 20
        await retired(stack, 1)
        assert stack.engine.statistics().active == 2
        await say(stack, trade(1, 7, market="SEEN"), trade(1, 7, market="IDLE"))
        assert await read(stack, "SEEN", "1") == reader.chart.rows() == [(NOON, 100, 100, 7, 7, 2, 2)]
        assert await read(stack, "IDLE", "1") == [(NOON, 100, 100, 7, 7, 2, 2)]
        assert stack.engine.statistics().opened == 4
        await flush(stack)
        reader.leave()
        clock.ahead += 400
        await retired(stack, 4)


async def test_whoever_is_cut_off_at_random_goes_on_without_a_snapshot(tmp_path: Path) -> None:
    chance = random.Random(7)
    symbols, resolutions = ("GOLD", "COAL"), ("1S", "1", "5", "3", "60", "1D", "1W")
    cuts = recovered = 0

    async def cut(stack: Stack, charts: list[StrictChart], past: list[StrictChart]) -> None:
        nonlocal cuts, recovered
        for chart in [*charts, *chance.sample(past, min(len(past), 20))]:
            reader = Reader(chart.copy(), stack.hub, stack.engine)
            cuts += 1
            recovered += await reader.follow(await stack.registry.named(chart.symbol))
            assert reader.chart.rows() == await read(stack, chart.symbol, chart.resolution)
            reader.leave()

    charts = [StrictChart(symbol, resolution) for symbol in symbols for resolution in resolutions]
    past: list[StrictChart] = []
    number = 0
    for _ in range(3):
        async with running(tmp_path) as stack:
            if number:
                await cut(stack, charts, past)
            readers = [Reader(chart, stack.hub, stack.engine) for chart in charts]
            for reader in readers:
                await reader.follow(await stack.registry.named(reader.chart.symbol)) if number else None
            for turn in range(7):
                some = []
                for _ in range(40):
                    number += 1
                    late = chance.choice((0, 0, 0, 5, 300))
                    symbol = chance.choice(symbols)
                    some.append(trade(number - late, 100 + chance.random(), 1, symbol, trade_id=number))
                    if chance.random() < 0.02:
                        some.append(removed(chance.randrange(1, number), symbol))
                await say(stack, some)
                if not readers[0].chart.epoch:
                    for reader in readers:
                        await reader.follow(await stack.registry.named(reader.chart.symbol))
                for chart in charts:
                    assert await read(stack, chart.symbol, chart.resolution) == chart.rows()
                past += [chart.copy() for chart in charts]
                if turn % 5 == 4:
                    await flush(stack)
                    await cut(stack, charts, past)
    assert cuts > 150
    assert recovered >= 0.99 * cuts


async def test_everything_acknowledged_is_flushed_at_a_clean_end(tmp_path: Path) -> None:
    async with running(tmp_path) as stack:
        for second in range(30):
            await say(stack, trade(second, trade_id=second))
        await say(stack, removed(3), removed(4))
        committed = stack.engine.committed()
    async with running(tmp_path) as stack:
        assert stack.recovered.batches == 0
        assert stack.engine.committed() == stack.writer.applied == committed == 31
        assert (await read(stack, "GOLD", "1D"))[0][5:] == (28, 28)


async def test_a_market_may_change_its_days_until_it_has_events(tmp_path: Path) -> None:
    fields = {"market_symbol": "GOLD", "kind": "spot", "timezone": "Asia/Kolkata"}
    async with running(tmp_path) as stack:
        await stack.registry.put({**fields, "timezone": "Etc/UTC"})
        assert await read(stack, "GOLD", "1D") == []
        await stack.registry.put(fields)
        await say(stack, trade(8 * 3600))  # 20:00 UTC, in Kolkata the day after
        day = NOON + 12 * 3600
        assert await read(stack, "GOLD", "1D") == [(day, 100, 100, 100, 100, 1, 1)]
        await flush(stack)
    async with running(tmp_path) as stack:
        assert await read(stack, "GOLD", "1D") == [(day, 100, 100, 100, 100, 1, 1)]


async def test_whoever_watches_a_market_without_events_sees_them_after_its_days_have_changed(tmp_path: Path) -> None:
    fields = {"market_symbol": "GOLD", "kind": "spot"}
    async with running(tmp_path) as stack:
        await stack.registry.put({**fields, "timezone": "Etc/UTC"})
        readers = [Reader(StrictChart("GOLD", resolution), stack.hub, stack.engine) for resolution in ("1", "1D", "1W")]
        for reader in readers:
            await reader.follow(await stack.registry.named("GOLD"))
        await stack.registry.put({**fields, "timezone": "Asia/Kolkata"})
        assert await read(stack, "GOLD", "1D") == []
        await say(stack, trade(8 * 3600))  # 20:00 UTC, in Kolkata the day after
        for reader in readers:
            assert await read(stack, "GOLD", reader.chart.resolution) == reader.chart.rows() != []
        assert list(readers[1].chart.bars) == [NOON + 12 * 3600]
        for reader in readers:
            reader.leave()
        assert stack.engine.statistics().opened == 1


async def test_leaving_costs_the_same_however_many_markets_are_open(tmp_path: Path) -> None:
    def steps(work: Callable[[], object]) -> int:
        """How many lines and calls it took."""
        count = 0

        def counted(*_: object) -> Any:
            nonlocal count
            count += 1
            return counted

        sys.settrace(counted)
        try:
            work()
        finally:
            sys.settrace(None)
        return count

    async with running(tmp_path) as stack:
        costs = []
        for number in range(101):
            await say(stack, trade(0, market=f"M{number}"))
            reader = Reader(StrictChart(f"M{number}", "1"), stack.hub, stack.engine)
            await reader.follow(await stack.registry.named(f"M{number}"))
            costs.append(steps(reader.leave))
        assert stack.engine.statistics().active == 101
        assert costs[100] == costs[1]


async def test_what_is_committed_between_rounds_is_folded_at_once_when_somebody_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "SHARE", 1e-9)
    monkeypatch.setattr(engine, "SAVED", 0.0)
    monkeypatch.setattr(engine, "BUSY", 0.0)
    monkeypatch.setattr(engine, "LONGEST", 60)
    async with running(tmp_path) as stack:
        await say(stack, trade(0))
        await trio.testing.wait_all_tasks_blocked()
        for second in range(50):
            await say(stack, trade(second, market=f"M{second % 3}"))
        assert (await read(stack, "M0", "1D"))[0][5] == 17
        told = stack.engine.statistics()
        assert (told.seq, told.committed, told.events, told.rounds) == (51, 51, 51, 2)
