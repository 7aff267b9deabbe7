"""The writer in the running stack: one transaction per flush, and what happens when there is none."""

from pathlib import Path

import pytest
import trio

from daemon.stack import Stack
from storage import candles, ledger
from storage.errors import BrokenStore, Unavailable
from storage.flush import Flush
from tests.histories import read
from tests.stacks import flush, removed, running, say, trade

FULL = "candles.duckdb: no space left on the disk"


class Refusing:
    """A store that has no room for flushes for a while."""

    def __init__(self, stack: Stack, monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> None:
        self.refused = 0
        self.full = True
        self._commit = stack.store.commit
        self._error = error or Unavailable(FULL, retry_after=5)
        monkeypatch.setattr(stack.store, "commit", self.commit)

    async def commit(self, work: Flush) -> None:
        if self.full:
            self.refused += 1
            raise self._error
        await self._commit(work)


async def until(stack: Stack, flushes: int) -> None:
    """Wait for the writer to come that far by itself."""
    with trio.fail_after(10):
        while stack.writer.statistics().flushes < flushes:  # noqa: ASYNC110  # nobody is told of a flush as such
            await trio.sleep(0.005)


async def test_a_flush_is_one_transaction_however_much_it_holds(tmp_path: Path) -> None:
    async with running(tmp_path) as stack:
        for second in range(50):
            await say(stack, trade(second), trade(second, market="COAL"))
        assert (await read(stack, "GOLD", "1D"))[0][5] == 50  # so that all of it is folded
        before = stack.database.statistics().writes
        await flush(stack)
        assert stack.database.statistics().writes == before + 1
        told = stack.writer.statistics()
        assert (told.applied, told.flushes, told.events, told.waiting_events, told.waiting_rounds) == (50, 1, 100, 0, 0)
        assert await stack.database.read(candles.applied) == 50
        assert await stack.database.read(ledger.count) == 100


async def test_events_are_flushed_after_a_while_by_themselves(tmp_path: Path) -> None:
    async with running(tmp_path, flush_seconds=0.01) as stack:
        await say(stack, trade(0))
        await until(stack, 1)
        assert await stack.database.read(candles.applied) == 1


async def test_many_events_are_flushed_at_once(tmp_path: Path) -> None:
    async with running(tmp_path, flush_events=100) as stack:
        await say(stack, [trade(0) for _ in range(99)])
        await read(stack, "GOLD", "1D")
        assert stack.writer.statistics().flushes == 0
        await say(stack, trade(0))
        await until(stack, 1)
        assert await stack.database.read(ledger.count) == 100


async def test_a_flush_that_finds_no_room_loses_nothing_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, flush_seconds=0.01) as stack:
        store = Refusing(stack, monkeypatch)
        for second in range(20):
            await say(stack, trade(second, 100 + second, trade_id=second))
        with trio.fail_after(10):
            while store.refused < 3:  # noqa: ASYNC110  # nobody is told of a flush that failed
                await trio.sleep(0.005)
        before = await read(stack, "GOLD", "1D")
        assert before[0][5:] == (20, 20)
        assert stack.writer.statistics().failing == FULL
        assert stack.writer.statistics().waiting_events == 20
        store.full = False
        await until(stack, 1)
        told = stack.writer.statistics()
        assert (told.failing, told.applied, told.waiting_events, told.events) == ("", 20, 0, 20)
        assert await read(stack, "GOLD", "1D") == before
        assert await stack.database.read(ledger.count) == 20
    async with running(tmp_path) as stack:
        assert stack.recovered.events == 0
        assert await read(stack, "GOLD", "1D") == before


async def test_a_correction_waits_for_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path, flush_seconds=0.01) as stack, trio.open_nursery() as nursery:
        await say(stack, trade(0, 100, trade_id=1), trade(1, 101))
        store = Refusing(stack, monkeypatch)
        await say(stack, removed(1))
        found: list[float] = []

        async def look() -> None:
            found.extend(row[1] for row in await read(stack, "GOLD", "1D"))

        nursery.start_soon(look)
        with trio.fail_after(10):
            while store.refused < 2:  # noqa: ASYNC110  # nobody is told of a flush that failed
                await trio.sleep(0.005)
        assert found == []
        store.full = False
    assert found == [101]


@pytest.mark.parametrize("waited", [False, True])
async def test_a_store_without_room_does_not_keep_the_process_from_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waited: bool
) -> None:
    with trio.fail_after(10):
        async with running(tmp_path, flush_seconds=30) as stack:
            await say(stack, trade(0, 100, trade_id=1), trade(1, 101))
            store = Refusing(stack, monkeypatch)
            await say(stack, removed(1), trade(2, 102))
            await say(stack, trade(3, 103))
            if waited:
                while not store.refused:  # noqa: ASYNC110  # nobody is told of a flush that failed
                    await trio.sleep(0.005)
    async with running(tmp_path) as stack:
        assert stack.recovered.batches == 3
        assert [row[1:6] for row in await read(stack, "GOLD", "1D")] == [(101, 103, 101, 103, 3)]
        assert await stack.database.read(ledger.count) == 3


async def test_bars_that_cannot_be_put_in_order_stay_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as stack:
        asked: list[tuple[str, int]] = []

        async def full(kind: str, rung: int, *_: int) -> int:
            asked.append((kind, rung))
            raise Unavailable(FULL)

        monkeypatch.setattr(stack.writer, "_compact", full)
        for second in range(5):
            await say(stack, trade(second))
            await flush(stack)
        assert asked
        assert (await read(stack, "GOLD", "1D"))[0][5] == 5


async def test_a_store_that_is_broken_ends_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.RaisesGroup(BrokenStore, flatten_subgroups=True):
        async with running(tmp_path) as stack:
            Refusing(stack, monkeypatch, BrokenStore("candles.duckdb: input/output error"))
            await say(stack, trade(0))
            await flush(stack)
    async with running(tmp_path) as stack:
        assert stack.recovered.events == 1
        assert (await read(stack, "GOLD", "1D"))[0][5] == 1
