"""The way in, in the running stack: who is told what, what is kept, and what a repeat comes to."""

import errno
import gzip
import os
import shutil
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import trio
import trio.testing
import zstandard
from trio.testing import wait_all_tasks_blocked

from actors.bodies import UnsupportedMediaType
from actors.intake import IngestAnswer
from daemon.stack import Stack
from storage import answers, hashing, journal, ledger, rejects, runs
from storage.commits import Answer
from storage.errors import BadRequest, Conflict, KeyReused, TooLarge, Unavailable
from storage.flush import Flush
from storage.identities import Identities
from tests.histories import read
from tests.stacks import JSON, NDJSON, NOON, Said, flush, removed, running, say, trade


@contextmanager
def held_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Awaitable[None]]]:
    """A disk whose next sync takes until the block ends; what it gives waits for somebody to wait for that."""
    arrived, go_on = threading.Event(), threading.Event()

    def slow(file: int) -> None:
        arrived.set()
        go_on.wait(10)
        journal._fsync(file)

    async def waited_for() -> None:
        await trio.to_thread.run_sync(arrived.wait, 10)

    with monkeypatch.context() as patch:
        patch.setattr(journal, "_fdatasync", slow)
        try:
            yield waited_for
        finally:
            go_on.set()


async def volume(stack: Stack, symbol: str = "GOLD") -> float:
    """What was traded on the day."""
    return sum(row[5] for row in await read(stack, symbol, "1D"))


def records(stack: Stack) -> int:
    """How many batches the journal holds."""
    return stack.journal.statistics().records


# --- answers


async def test_an_answer_counts_what_every_word_came_to(tmp_path: Path) -> None:
    async with running(tmp_path) as stack:
        first = await say(stack, trade(0), trade(1, trade_id=1), trade(2, trade_id=2))
        assert (first.accepted, first.duplicates, first.corrected, first.retracted, first.unknown) == (3, 0, 0, 0, 0)
        second = await say(
            stack, trade(1, trade_id=1), trade(2, 101, trade_id=2), removed(3), trade(3, trade_id=4), removed(4)
        )
        assert (second.accepted, second.duplicates, second.corrected) == (1, 1, 1)
        assert (second.retracted, second.unknown) == (1, 1)
        told = stack.intake.statistics()
        assert (told.requests, told.words, told.commits) == (2, 8, 2)
        assert (told.accepted, told.duplicates, told.corrected, told.retracted, told.unknown) == (4, 1, 1, 1, 1)


async def test_a_retraction_that_comes_before_its_event_is_forgotten_and_the_event_stands(tmp_path: Path) -> None:
    async with running(tmp_path) as stack:
        early = await say(stack, removed(1))
        assert (early.unknown, early.retracted) == (1, 0)
        assert (await say(stack, trade(1, size=5, trade_id=1))).accepted == 1
        assert await volume(stack) == 5
        assert (await say(stack, removed(1))).retracted == 1
        assert await volume(stack) == 0


async def test_a_cursor_names_the_batch_that_the_answer_is_about(tmp_path: Path) -> None:
    async with running(tmp_path) as stack:
        epoch = stack.engine.epoch
        assert (await say(stack, trade(0, trade_id=1))).cursor == f"{epoch}.1"
        assert (await say(stack, trade(0, trade_id=1))).cursor == f"{epoch}.1"
        assert (await say(stack, removed(9))).cursor == f"{epoch}.1"
        assert (await say(stack, trade(0))).cursor == f"{epoch}.2"
        assert (await say(stack, [])).cursor == f"{epoch}.2"
        assert records(stack) == 2


async def test_what_changes_nothing_costs_no_commit(tmp_path: Path) -> None:
    async with running(tmp_path) as stack:
        await say(stack, trade(0, trade_id=1))
        before = stack.journal.statistics().fsyncs
        for _ in range(10):
            await say(stack, trade(0, trade_id=1), removed(7))
        assert stack.journal.statistics().fsyncs == before


async def test_one_bad_event_does_not_sink_its_batch(tmp_path: Path) -> None:
    async with running(tmp_path) as stack:
        answer = await say(stack, trade(0, size=1), trade(1, -3), trade(2, size=2), {"market_symbol": "GOLD"})
        assert (answer.accepted, answer.rejected_count) == (2, 2)
        assert [(one.index, one.market_symbol) for one in answer.rejected] == [(1, "GOLD"), (3, "GOLD")]
        assert answer.rejected[0].error == "price: expected a number ≥ 0, got -3"
        assert await volume(stack) == 3
        letters = await stack.door.run(rejects.listed, stack.rejects)
        assert sorted(letter.error.partition(":")[0] for letter in letters) == ["price", "timestamp"]
        assert stack.intake.statistics().rejected_by == {"price": 1, "timestamp": 1}


async def test_an_answer_lists_a_hundred_refused_events_and_counts_all(tmp_path: Path) -> None:
    async with running(tmp_path) as stack:
        answer = await say(stack, [trade(0, -1) for _ in range(250)], trade(0))
        assert (answer.accepted, answer.rejected_count, len(answer.rejected)) == (1, 250, 100)
        assert [one.index for one in answer.rejected] == list(range(100))


async def test_what_cannot_be_read_at_all_is_refused_whole(tmp_path: Path) -> None:
    async with running(tmp_path) as stack:
        with pytest.raises(BadRequest):
            await stack.intake.submit(b"[{]", JSON)
        with pytest.raises(UnsupportedMediaType):
            await stack.intake.submit(b"a,b", "text/csv")
        with pytest.raises(TooLarge):
            await stack.intake.submit(gzip.compress(b" " * (65 << 20), 1), JSON, encoding="gzip")
        with pytest.raises(BadRequest, match="Idempotency-Key"):
            await say(stack, trade(0), key="k" * 201)
        assert records(stack) == 0


async def test_an_unknown_market_is_refused_by_name_unless_markets_are_made(tmp_path: Path) -> None:
    async with running(tmp_path, create=None) as stack:
        answer = await say(stack, trade(0, market="GLOD"))
        assert [one.error for one in answer.rejected] == ["no market named 'GLOD'"]
        told = await stack.intake.submit(msgspec.json.encode([trade(0, market="GLOD")]), JSON, create="perp")
        assert msgspec.json.decode(told, type=IngestAnswer).accepted == 1
        assert (await stack.registry.named("glod")).kind == "perp"
        assert (await say(stack, trade(1, market="GLOD"))).accepted == 1


async def test_the_last_word_about_an_event_counts_across_requests_that_come_at_once(tmp_path: Path) -> None:
    async with running(tmp_path) as stack:
        await stack.registry.load(["GOLD"], "spot")  # whoever has to ask the disk who that is would be overtaken
        answers: dict[int, IngestAnswer] = {}

        async def one(number: int) -> None:
            word = removed(1) if number % 5 == 4 else trade(0, 100 + number, trade_id=1)
            answers[number] = await say(stack, word)

        async with trio.open_nursery() as nursery:
            for number in range(42):
                nursery.start_soon(one, number)
                await wait_all_tasks_blocked()  # so that they are queued in this order
        assert sum(answer.accepted for answer in answers.values()) == 9
        assert sum(answer.retracted for answer in answers.values()) == 8
        assert sum(answer.corrected for answer in answers.values()) == 25
        assert await read(stack, "GOLD", "1D") == [(NOON - 12 * 3600, 141, 141, 141, 141, 1, 1)]


# --- group commit


async def test_requests_that_wait_for_one_sync_share_the_next_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as stack:
        cursors: list[str] = []

        async def one(second: int) -> None:
            cursors.append((await say(stack, trade(second))).cursor)

        async with trio.open_nursery() as nursery:
            with held_disk(monkeypatch) as syncing:
                nursery.start_soon(one, 0)
                await syncing()
                for second in range(1, 31):
                    nursery.start_soon(one, second)
                await trio.testing.wait_all_tasks_blocked()
                assert stack.intake.statistics().waiting == 31
        assert records(stack) == 2
        assert sorted(set(cursors)) == [f"{stack.engine.epoch}.{seq}" for seq in (1, 2)]
        assert await volume(stack) == 31


async def test_words_of_small_and_large_requests_in_one_record_count_in_the_order_in_which_they_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as stack:
        await say(stack, trade(0, market="COAL"), trade(0, 90, trade_id=0))
        answers: list[IngestAnswer] = []

        async def packed(price: float) -> None:
            body = gzip.compress(msgspec.json.encode([trade(1, price, trade_id=1), trade(2, price)]))
            told = await stack.intake.submit(body, JSON, encoding="gzip")
            answers.append(msgspec.json.decode(told, type=IngestAnswer))

        async def plain(price: float) -> None:
            answers.append(await say(stack, trade(1, price, trade_id=1), trade(3, price, market="COAL")))

        async with trio.open_nursery() as nursery:
            with held_disk(monkeypatch) as syncing:
                nursery.start_soon(say, stack, trade(0))
                await syncing()
                for price, send in enumerate((plain, packed, plain, plain, packed)):
                    before = stack.intake.statistics().waiting
                    nursery.start_soon(send, 100 + price)
                    while stack.intake.statistics().waiting == before:  # noqa: ASYNC110  # a thread unpacks some
                        await trio.sleep(0.001)
        assert records(stack) == 3
        assert sum(answer.accepted for answer in answers) == 6
        assert sum(answer.corrected for answer in answers) == 4
        (bar,) = [row for row in await read(stack, "GOLD", "1S") if row[0] == NOON + 1]
        assert bar == (NOON + 1, 104, 104, 104, 104, 1, 1)


async def test_nothing_is_told_before_it_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path) as stack, trio.open_nursery() as nursery:
        await say(stack, trade(0, size=1))
        with held_disk(monkeypatch) as syncing:
            nursery.start_soon(say, stack, trade(1, size=2))
            await syncing()
            assert await volume(stack) == 1


async def test_a_full_journal_refuses_and_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    async with running(tmp_path) as stack:
        await say(stack, trade(0, trade_id=1))
        with monkeypatch.context() as patch:
            patch.setattr(journal, "_pwritev", full)
            for key in (None, "k"):
                with pytest.raises(Unavailable):
                    await say(stack, trade(1, trade_id=2), removed(1), key=key)
        assert await volume(stack) == 1
        again = await say(stack, trade(1, trade_id=2), removed(1), key="k")
        assert (again.accepted, again.retracted) == (1, 1)
        assert await volume(stack) == 1


# --- idempotency keys


@pytest.mark.parametrize("kept", ["in memory", "in the store", "after a clean restart", "after a crash"])
async def test_a_repeat_of_a_key_is_given_the_first_answer(tmp_path: Path, kept: str) -> None:
    data = tmp_path / "data"
    async with running(data) as stack:
        first = await say(stack, trade(0), trade(1, -1), key="k")
        if kept == "in the store":
            await flush(stack)
            await say(stack, trade(0, market="COAL"))  # lets go of what the store has
        if kept in ("in memory", "in the store"):
            assert await say(stack, trade(0), trade(1, -1), key="k") == first
            assert await volume(stack) == 1
            return
        if kept == "after a crash":
            shutil.copytree(data, tmp_path / "copy")
            data = tmp_path / "copy"
    async with running(data) as stack:
        assert await say(stack, trade(0), trade(1, -1), key="k") == first
        assert await volume(stack) == 1
        with pytest.raises(KeyReused, match="'k' came with another body"):
            await say(stack, trade(1), key="k")
        assert await volume(stack) == 1
        assert (await say(stack, trade(0), key="another")).accepted == 1


async def test_a_repeat_may_be_packed_another_way(tmp_path: Path) -> None:
    body, other = msgspec.json.encode([trade(0)]), msgspec.json.encode([trade(1)])
    async with running(tmp_path) as stack:
        first = await stack.intake.submit(body, JSON, key="k")
        for level in (1, 9):
            assert await stack.intake.submit(gzip.compress(body, level), JSON, encoding="gzip", key="k") == first
        assert await stack.intake.submit(zstandard.compress(body), JSON, encoding="zstd", key="k") == first
        with pytest.raises(KeyReused):
            await stack.intake.submit(gzip.compress(other), JSON, encoding="gzip", key="k")
        assert await volume(stack) == 1


async def test_an_answer_from_before_requests_were_told_apart_is_given_to_any(tmp_path: Path) -> None:
    async with running(tmp_path) as stack:
        told = msgspec.json.encode(await say(stack, trade(0)))
    with answers.opened(tmp_path / "answers.db") as state:
        answers.put(state, [Answer(" k", int(time.time()), told)], time.time())
    async with running(tmp_path) as stack:
        assert await stack.intake.submit(b"[]", JSON, key="k") == told


async def test_a_key_is_refused_to_another_body_while_the_first_is_worked_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as stack, trio.open_nursery() as nursery:
        with held_disk(monkeypatch) as syncing:
            nursery.start_soon(lambda: say(stack, trade(0), key="k"))
            await syncing()
            with pytest.raises(Conflict, match="another body is under way with 'k'"):
                await say(stack, trade(1), key="k")
    async with running(tmp_path) as stack:
        assert await volume(stack) == 1


async def test_keys_belong_to_who_sent_them(tmp_path: Path) -> None:
    async with running(tmp_path) as stack:
        for owner in ("a", "b"):
            await stack.intake.submit(msgspec.json.encode([trade(0)]), JSON, key="k", owner=owner)
        assert await volume(stack) == 2


async def test_repeats_at_the_same_time_count_once(tmp_path: Path) -> None:
    async with running(tmp_path) as stack:
        answers: list[IngestAnswer] = []

        async def one() -> None:
            answers.append(await say(stack, trade(0), key="k"))

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(one)
        assert len(answers) == 50
        assert all(answer == answers[0] for answer in answers)
        assert await volume(stack) == 1


async def test_a_repeat_counts_once_also_where_the_first_request_hung_up_during_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as stack, trio.open_nursery() as nursery:
        with held_disk(monkeypatch) as syncing:
            with trio.CancelScope() as hangs_up:
                async with trio.open_nursery() as producer:
                    producer.start_soon(lambda: say(stack, trade(0), key="k"))
                    await syncing()
                    hangs_up.cancel()
            repeats: list[IngestAnswer] = []

            async def repeat() -> None:
                repeats.append(await say(stack, trade(0), key="k"))

            nursery.start_soon(repeat)
            await trio.testing.wait_all_tasks_blocked()
    assert [answer.accepted for answer in repeats] == [1]
    async with running(tmp_path) as stack:
        assert await volume(stack) == 1


async def test_a_key_whose_request_was_refused_may_be_used_again(tmp_path: Path) -> None:
    async with running(tmp_path) as stack:
        for _ in range(2):
            with pytest.raises(BadRequest):
                await stack.intake.submit(b"{", JSON, key="k")
        assert (await say(stack, trade(0), key="k")).accepted == 1


# --- the store lags behind


async def test_producers_wait_while_the_store_is_far_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path, flush_events=50) as stack:
        commit, go_on = stack.store.commit, trio.Event()

        async def slow(work: Flush) -> None:
            await go_on.wait()
            await commit(work)

        monkeypatch.setattr(stack.store, "commit", slow)
        taken = 0

        async def produce() -> None:
            nonlocal taken
            for second in range(30):
                await say(stack, [trade(second) for _ in range(10)])
                taken += 10

        async with trio.open_nursery() as nursery:
            nursery.start_soon(produce)
            with trio.move_on_after(10):
                while taken < 110:  # noqa: ASYNC110  # nobody tells of an answer
                    await trio.sleep(0.001)
            await trio.testing.wait_all_tasks_blocked(0.02)
            assert taken == 110  # as much as may wait, and the batch that saw too much only after it
            go_on.set()
        assert taken == 300
        assert await volume(stack) == 300


async def test_producers_are_refused_while_the_store_is_full_and_far_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(_: Flush) -> None:
        raise Unavailable("no space left", retry_after=5)

    async with running(tmp_path, flush_events=50) as stack:
        commit = stack.store.commit
        monkeypatch.setattr(stack.store, "commit", full)
        refused, taken = "", 0
        while not refused:
            try:
                taken += (await say(stack, [trade(0) for _ in range(10)])).accepted
            except Unavailable as error:
                refused = str(error)
        assert refused == "no space left"
        kept = await volume(stack)
        assert kept == taken == 110
        monkeypatch.setattr(stack.store, "commit", commit)
        await flush(stack)
        assert (await say(stack, trade(0))).accepted == 1
        assert await volume(stack) == kept + 1


# --- identities


async def test_identities_that_find_no_room_stay_in_memory_until_there_is_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fell: list[int] = []

    def full(*_: object) -> int:
        fell.append(1)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setitem(Identities.open.__func__.__kwdefaults__, "limit", 50)  # type: ignore[attr-defined]
    batches = [[trade(n, trade_id=batch * 60 + n) for n in range(60)] for batch in range(5)]
    async with running(tmp_path) as stack:
        with monkeypatch.context() as patch:
            patch.setattr(runs, "_pwrite", full)
            for batch in batches:
                assert (await say(stack, batch)).accepted == 60
            with trio.fail_after(10):
                while not stack.intake.statistics().failing:  # noqa: ASYNC110  # nobody tells of it
                    await trio.sleep(0.01)
            assert "no room" in stack.intake.statistics().failing
            assert fell
            for batch in batches:
                assert (await say(stack, batch)).duplicates == 60
        with trio.fail_after(10):
            while stack.intake.statistics().failing:
                await say(stack, trade(100))  # whatever comes has it tried again
                await trio.sleep(0.01)
        for batch in batches:
            assert (await say(stack, batch)).duplicates == 60


@pytest.mark.parametrize("ending", ["a clean end", "a crash"])
async def test_identities_are_known_however_few_fit_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    monkeypatch.setitem(Identities.open.__func__.__kwdefaults__, "limit", 40)  # type: ignore[attr-defined]
    data = tmp_path / "data"
    async with running(data) as stack:
        for start in range(0, 600, 30):
            answer = await say(stack, [trade(0, trade_id=number) for number in range(start, start + 30)])
            assert answer.accepted == 30
            if start % 90 == 0:
                await flush(stack)
        assert stack.identities.statistics().spills > 5
        assert stack.identities.statistics().in_memory < 100
        answer = await say(stack, [removed(number) for number in range(0, 600, 100)])
        assert (answer.retracted, answer.unknown) == (6, 0)
        if ending == "a crash":
            shutil.copytree(data, tmp_path / "copy")
            data = tmp_path / "copy"
    async with running(data) as stack:
        answer = await say(stack, [trade(0, trade_id=number) for number in range(600)])
        assert (answer.accepted, answer.duplicates, answer.corrected) == (6, 594, 0)
        answer = await say(stack, [trade(0, 101, trade_id=number) for number in range(0, 600, 7)])
        assert (answer.accepted, answer.duplicates, answer.corrected) == (0, 0, 86)
        assert await volume(stack) == 600
        await flush(stack)
        assert await stack.database.read(ledger.count) == 600


@pytest.mark.parametrize("flushed", [False, True])
async def test_events_that_share_a_hash_stay_apart(
    tmp_path: Path, flushed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = hashing._identity

    def the_same(*events: Any) -> Any:
        return np.where(hashed(*events) != 0, np.uint64(7), np.uint64(0))

    monkeypatch.setattr(hashing, "_identity", the_same)

    async def told(stack: Stack, word: Said) -> list[int]:
        if flushed:
            await flush(stack)
        answer = await say(stack, word)
        return [answer.accepted, answer.duplicates, answer.corrected, answer.retracted]

    words = [trade(0, 100, trade_id=1), trade(0, 101, trade_id="a"), trade(0, 102, trade_id=2)]
    words.append(trade(0, 103, chain_id=1, transaction_hash="0xAB", log_index=1))
    async with running(tmp_path) as stack:
        for word in words:
            assert await told(stack, word) == [1, 0, 0, 0]
        for word in words:
            assert await told(stack, word) == [0, 1, 0, 0]
        assert await told(stack, {**words[1], "price": 90}) == [0, 0, 1, 0]
        assert await told(stack, {**words[3], "transaction_hash": "0xab"}) == [0, 1, 0, 0]
    async with running(tmp_path) as stack:
        for word in (words[0], {**words[1], "price": 90}, words[2], words[3]):
            assert await told(stack, word) == [0, 1, 0, 0]
        assert await told(stack, {**words[3], "removed": True}) == [0, 0, 0, 1]
        assert await told(stack, removed(2)) == [0, 0, 0, 1]
        assert await read(stack, "GOLD", "1") == [(NOON, 90, 100, 90, 100, 2, 2)]


async def test_a_body_is_the_same_in_each_form(tmp_path: Path) -> None:
    words = [trade(second, 100 + second, trade_id=second) for second in range(5)]
    async with running(tmp_path) as stack:
        await stack.intake.submit(b"\n".join(map(msgspec.json.encode, words)), NDJSON)
        assert (await say(stack, words)).duplicates == 5
        assert (await say(stack, words[0])).duplicates == 1
        answer = await stack.intake.submit(msgspec.json.encode(words[1]), JSON)
        assert msgspec.json.decode(answer, type=IngestAnswer).duplicates == 1
