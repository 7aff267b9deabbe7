"""Markets as the running stack keeps them."""

from pathlib import Path

import pytest
import trio
import trio.testing

from actors import engine, market
from daemon.stack import Stack
from storage.calendar import parse
from storage.errors import Unavailable
from storage.partials import Partials
from tests.histories import FAR, Reader, Row, StrictChart, read, rows
from tests.stacks import NOON, flush, removed, running, say, trade

WEEK = 7 * 86400
RESOLUTIONS = ("1S", "1", "5", "15", "60", "1D", "2S", "3", "45", "240", "1W", "1M")


async def following(stack: Stack, resolution: str, chart: StrictChart | None = None, symbol: str = "GOLD") -> Reader:
    """Somebody who watches."""
    reader = Reader(chart or StrictChart(symbol, resolution), stack.hub, stack.engine)
    await reader.follow(await stack.registry.named(symbol))
    return reader


async def current(stack: Stack, reader: Reader) -> list[Row]:
    """What there is to see; whoever watches has been told of it."""
    bars = await read(stack, reader.chart.symbol, reader.chart.resolution)
    stack.hub.flush()
    return bars


# --- history


async def test_what_was_traded_without_a_price_shows_in_longer_bars_only(tmp_path: Path) -> None:
    async with running(tmp_path) as stack:
        await say(stack, trade(0, 100, 1), trade(60, 0, 5), trade(120, 101, 1))
        assert [row[0] for row in await read(stack, "GOLD", "1")] == [NOON, NOON + 120]
        for state in ("unflushed", "flushed"):
            assert await read(stack, "GOLD", "3") == [(NOON, 100, 101, 100, 101, 7, 3)], state
            newest = await stack.engine.window(await stack.registry.named("GOLD"), parse("3"), 0, FAR, 1)
            assert rows(newest) == [(NOON, 100, 101, 100, 101, 7, 3)], state
            await flush(stack)


@pytest.mark.parametrize("requests", [1, 300])
async def test_history_inside_the_rings_asks_nothing_of_the_store(tmp_path: Path, requests: int) -> None:
    minutes = [[trade(60 * minute, 100 + minute), trade(60 * minute + 30, 99)] for minute in range(300)]
    async with running(tmp_path) as stack:
        for start in range(0, 300, 300 // requests):
            await say(stack, *minutes[start : start + 300 // requests])
        for state in ("unflushed", "flushed"):
            for resolution in RESOLUTIONS:
                assert await read(stack, "GOLD", resolution), resolution
            gold = await stack.registry.named("GOLD")
            window = await stack.engine.window(gold, parse("1"), NOON, NOON + 18_000, 300)
            assert (len(window.time), window.time[0]) == (300, NOON), state
            assert stack.store.statistics().history_reads == 0, state
            await flush(stack)
        assert stack.writer.statistics().flushes == 1


async def test_a_long_backfill_keeps_no_rings_until_somebody_looks(tmp_path: Path) -> None:
    async with running(tmp_path) as stack:
        await say(stack, trade(0, market="COAL"))
        for start in range(0, 8000, 1000):
            await say(stack, [trade(second, 100 + second % 7) for second in range(start, start + 1000)])
        await stack.engine.window(await stack.registry.named("COAL"), parse("1D"), 0, FAR)  # sees all that was said
        empty = stack.engine.nbytes()
        for state in ("unflushed", "flushed"):
            bars = await read(stack, "GOLD", "1")
            assert [row[0] for row in bars] == list(range(NOON, NOON + 8000, 60)), state
            assert sum(row[5] for row in bars) == 8000
            assert stack.engine.nbytes() > empty
            await flush(stack)
        reads = stack.store.statistics().history_reads
        await say(stack, trade(8000, 7))
        assert (await read(stack, "GOLD", "1"))[-1][3:6] == (7, 7, 21)
        assert stack.store.statistics().history_reads == reads


async def test_a_market_from_before_the_start_is_read_once_for_each_resolution(tmp_path: Path) -> None:
    async with running(tmp_path) as stack:
        await say(stack, [trade(60 * minute, 100 + minute) for minute in range(300)])
    async with running(tmp_path) as stack:
        await say(stack, trade(18_000, 7))
        before = {resolution: await read(stack, "GOLD", resolution) for resolution in RESOLUTIONS}
        reads = stack.store.statistics().history_reads
        assert reads == 6
        for second in range(18_001, 18_100):
            await say(stack, trade(second, 7, 0))
            for resolution in RESOLUTIONS[:6]:
                assert len(await read(stack, "GOLD", resolution)) >= len(before[resolution])
        assert stack.store.statistics().history_reads == reads


async def test_no_read_causes_a_flush(tmp_path: Path) -> None:
    async with running(tmp_path) as stack:
        for second in range(20):
            await say(stack, trade(second, market="GOLD"), trade(second, market="COAL"))
            for resolution in RESOLUTIONS:
                await read(stack, "GOLD", resolution)
            reader = await following(stack, "1", symbol="COAL")
            reader.leave()
        assert stack.writer.statistics().flushes == 0


async def test_more_than_a_ring_holds_is_read_across_its_edge(tmp_path: Path) -> None:
    async with running(tmp_path) as stack:
        for start in range(0, 5000, 1000):
            await say(stack, [trade(second, 100 + second) for second in range(start, start + 1000)])
        for late, state in enumerate(("unflushed", "flushed"), 1):
            found = await read(stack, "GOLD", "1S", NOON + 11, NOON + 5000)
            assert [(row[0], row[1]) for row in found] == [(NOON + i, 100 + i) for i in range(11, 5000)], state
            await say(stack, trade(10, late, 5))  # far below the ring
            assert (await read(stack, "GOLD", "1S", NOON + 10, NOON + 11))[0][3:6] == (1, late, 1 + 5 * late), state
            found = await read(stack, "GOLD", "7S")
            assert len(found) == len({(NOON + second) // 7 for second in range(5000)}), state
            assert sum(row[5] for row in found) == 5000 + 5 * late, state
            await flush(stack)


# --- streams


async def test_an_empty_chart_that_missed_nothing_but_numbers_goes_on_without_a_gap(tmp_path: Path) -> None:
    async with running(tmp_path) as stack:
        await say(stack, trade(0, 100, market="GOLD"), trade(0, 100, market="COAL"))
        await say(stack, trade(0, 0, market="RYE"))
        reader = await following(stack, "1", symbol="RYE")
        reader.leave()
        await say(stack, trade(1, 100, market="GOLD"))
    async with running(tmp_path) as stack:
        reader = await following(stack, "1", reader.chart, "RYE")
        await say(stack, trade(2, 7, market="RYE"))
        assert await current(stack, reader) == reader.chart.rows() == [(NOON, 7, 7, 7, 7, 2, 2)]


async def test_a_bar_that_came_late_is_inserted_also_where_several_commits_are_told_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as stack:
        await say(stack, trade(-8 * WEEK))
        readers = [await following(stack, resolution) for resolution in ("1", "3", "1W")]
        await say(stack, trade(0))
        for reader in readers:
            await current(stack, reader)
        # From the next round on, wait until somebody asks.
        monkeypatch.setattr(engine, "SHARE", 1e-9)
        monkeypatch.setattr(engine, "SAVED", 0.0)
        monkeypatch.setattr(engine, "BUSY", 0.0)
        monkeypatch.setattr(engine, "LONGEST", 60)
        await say(stack, trade(0, market="COAL"))
        await trio.testing.wait_all_tasks_blocked()
        rounds = stack.engine.statistics().rounds
        await say(stack, trade(-4 * WEEK))
        await say(stack, trade(1))
        for reader in readers:
            assert await current(stack, reader) == reader.chart.rows()
            assert reader.chart.ops == ["upsert", "insert", "upsert"]
        assert stack.engine.statistics().rounds == rounds + 1


@pytest.mark.parametrize("flushed", [True, False])
async def test_a_bar_that_stays_is_amended_whatever_of_it_was_corrected(tmp_path: Path, flushed: bool) -> None:
    async with running(tmp_path) as stack:
        await say(stack, trade(-9 * WEEK))
        readers = [await following(stack, resolution) for resolution in ("1", "3", "1W")]
        await say(stack, trade(-4 * WEEK, trade_id=1), trade(0))
        if flushed:
            await flush(stack)
        for word in (trade(-4 * WEEK, 101, trade_id=1), removed(1), trade(-4 * WEEK, 102, trade_id=1)):
            for reader in readers:
                assert await current(stack, reader) == reader.chart.rows()
            await say(stack, word)
        for reader in readers:
            assert await current(stack, reader) == reader.chart.rows()
            assert reader.chart.ops == ["upsert", "upsert", "amend", "delete", "insert"]


async def test_a_bar_that_came_back_is_amended_for_whoever_had_it_and_inserted_for_whoever_had_not(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as stack:
        await say(stack, trade(0, trade_id=1), trade(3600))
        first = await following(stack, "1")
        first.leave()
        await say(stack, removed(1))
        second = await following(stack, "1")
        second.leave()
        await say(stack, trade(1, 7))
        await say(stack, trade(1800, trade_id=2))
        await say(stack, removed(2))
        for chart, ops in (
            (first.chart, ["delete", "amend", "upsert"]),
            (second.chart, ["delete", "insert", "upsert"]),
        ):
            reader = await following(stack, "1", chart)
            assert await current(stack, reader) == chart.rows()
            # What came and went meanwhile is deleted too: a chart that was cut off amid a burst may have it.
            assert chart.ops == ops


async def test_a_bar_is_closed_by_the_change_that_brings_the_next_one(tmp_path: Path) -> None:
    async with running(tmp_path, now=lambda: float(NOON)) as stack:
        await say(stack, trade(0))
        reader = await following(stack, "1")
        for minute in range(1, 4):
            await say(stack, trade(60 * minute + 2))
            await current(stack, reader)
            closed = [bar["closed"] for _, bar in sorted(reader.chart.bars.items())]
            assert closed == [True] * minute + [False]
        assert reader.chart.seq == 4


async def test_a_week_whose_only_trade_moves_to_another_day_is_amended(tmp_path: Path) -> None:
    async with running(tmp_path) as stack:
        await say(stack, trade(-3 * WEEK), trade(-WEEK, trade_id=1), trade(0))
        reader = await following(stack, "1W")
        await say(stack, trade(-WEEK + 86400, 101, trade_id=1))
        assert await current(stack, reader) == reader.chart.rows()
        assert reader.chart.ops == ["amend"]


async def test_corrections_that_come_one_by_one_share_their_flushes(tmp_path: Path) -> None:
    async with running(tmp_path) as stack:
        await say(stack, [trade(second, trade_id=second) for second in range(100)])
        reader = await following(stack, "1S")
        for number in range(60):
            await say(stack, removed(number))
        assert await current(stack, reader) == reader.chart.rows()
        assert len(reader.chart.bars) == 40
        assert stack.writer.statistics().flushes < 30


async def test_a_stream_lives_on_where_one_reader_comes_while_the_last_one_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as stack:
        await say(stack, trade(0))
        early = await following(stack, "1")
        early.leave()
        await say(stack, trade(60))
    async with running(tmp_path) as stack, trio.open_nursery() as nursery:
        other = await following(stack, "1")
        changed, go_on = stack.store.changed, trio.Event()

        async def slow(kind: str, rung: int, market: int, since: int, limit: int) -> tuple[list[int], int]:
            await go_on.wait()
            return await changed(kind, rung, market, since, limit)

        monkeypatch.setattr(stack.store, "changed", slow)
        nursery.start_soon(following, stack, "1", early.chart)
        await trio.testing.wait_all_tasks_blocked()
        other.leave()
        go_on.set()
        await read(stack, "GOLD", "1")
        await say(stack, trade(120, 7))
        bars = await read(stack, "GOLD", "1")
        stack.hub.flush()
        assert early.chart.recovered == []
        assert early.chart.rows() == bars


async def test_a_bar_is_closed_once_when_its_time_is_over(tmp_path: Path) -> None:
    clock = [float(NOON + 30)]
    async with running(tmp_path, now=lambda: clock[0]) as stack:
        await say(stack, trade(0))
        reader = await following(stack, "1")
        assert [bar["closed"] for bar in reader.chart.bars.values()] == [False]
        clock[0] = NOON + 61.9
        await current(stack, reader)
        assert not reader.chart.bars[NOON]["closed"]
        clock[0] = NOON + 62.1
        with trio.fail_after(5):
            while not reader.chart.bars[NOON]["closed"]:  # noqa: ASYNC110  # the clock is not trio's
                await trio.sleep(0.01)
        seq = reader.chart.seq
        await say(stack, trade(1, 101, 0))
        await current(stack, reader)
        assert reader.chart.seq == seq + 1
        assert reader.chart.ops == ["upsert", "upsert"]
        assert reader.chart.rows() == [(NOON, 100, 101, 100, 101, 1, 2)]


async def test_a_query_that_was_cancelled_is_asked_again_where_nobody_waits_for_its_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(market, "AGAIN", 0)
    async with running(tmp_path) as stack:
        await say(stack, [trade(60 * minute, 100, trade_id=minute) for minute in range(10)])
        readers = [await following(stack, resolution) for resolution in ("1", "5")]
        at, failed = stack.store.at, 0

        async def slow(kind: str, rung: int, market: int, times: list[int]) -> tuple[Partials, int]:
            nonlocal failed
            failed += 1
            if failed % 3:
                raise Unavailable("the query took longer than 30 s and was cancelled")
            return await at(kind, rung, market, times)

        monkeypatch.setattr(stack.store, "at", slow)
        await say(stack, trade(0, 101, trade_id=0), trade(1, 99))
        await say(stack, removed(3))
        for reader in readers:
            assert await current(stack, reader) == reader.chart.rows()
        assert failed > 3
        assert readers[0].chart.bars[NOON]["low"] == 99
        assert NOON + 180 not in readers[0].chart.bars
