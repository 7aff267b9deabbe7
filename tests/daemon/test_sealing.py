"""Sealing, trimming, and the store made again from sealed files and journal: live, after restarts, after losses."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from duckdb import DuckDBPyConnection as Connection

from daemon.stack import Stack
from storage import ledger, manifest, schema, sealed
from storage.errors import Unavailable
from storage.measures import KINDS
from tests.histories import Row, read
from tests.stacks import NOON, Said, flush, removed, running, say, seen, trade

RESOLUTIONS = ("1S", "1", "15", "1D", "3", "1W")
Bars = dict[tuple[str, str], list[Row]]


async def bars(stack: Stack) -> Bars:
    """Everything that charts show."""
    return {(market, name): await read(stack, market, name) for market in ("GOLD", "COAL") for name in RESOLUTIONS}


async def seal(stack: Stack) -> None:
    """Have everything that was acknowledged in sealed files, and the journal empty."""
    await stack.sealing.run()
    assert stack.sealing.through == stack.journal.last_seq == stack.journal.first_seq - 1
    assert await stack.database.read(ledger.count) == 0


async def stored(stack: Stack) -> dict[str, list[tuple[object, ...]]]:
    """Every table of bars with one row for each bucket, and what has ended and is dead, in an order of its own."""
    await flush(stack)

    def work(db: Connection) -> dict[str, list[tuple[object, ...]]]:
        found: dict[str, list[tuple[object, ...]]] = {}
        for kind in KINDS:
            for rung in schema.RUNGS:
                names = (schema.candle_table(kind, rung), schema.recent_table(kind, rung))
                both = " UNION ALL ".join(f"SELECT * FROM {name}" for name in names)
                found[names[0]] = []
                if db.execute(f"SELECT 1 FROM ({both}) LIMIT 1").fetchall():  # summing takes its time
                    merged = schema.merge_sql(kind, f"({both})")
                    found[names[0]] = db.execute(f"SELECT * EXCLUDE (whole) FROM ({merged}) ORDER BY 1, 2").fetchall()
        for name in ("ended", "dead", "forgotten"):
            found[name] = db.execute(f"SELECT * FROM {name} ORDER BY ALL").fetchall()
        found["meta"] = db.execute("SELECT * FROM meta").fetchall()
        return found

    return await stack.database.read(work)


def some(first: int, n: int = 50, market: str = "GOLD") -> list[Said]:
    """Trades with ids, one a minute."""
    return [trade(60 * i, 100 + i % 7, trade_id=i, market=market) for i in range(first, first + n)]


async def past(stack: Stack) -> None:
    """Things happen, in several sealed files, with corrections, retractions and answers to keys across them."""
    await say(stack, some(0), key="k")
    await say(stack, some(0, market="COAL"))
    await seal(stack)
    await say(stack, removed(7), trade(60, 7.5, trade_id=8), some(50))
    await say(stack, trade(61, 8), trade(3, 8), key="nameless")
    await seal(stack)
    await say(stack, removed(60), removed(7, market="COAL"), trade(60 * 9, 99, trade_id=9))
    await say(stack, trade(60 * 7, 50, trade_id=7), some(100))
    await say(stack, removed(7))


@asynccontextmanager
async def lived(data: Path) -> AsyncIterator[Stack]:
    """A directory with a past."""
    async with running(data) as stack:
        await past(stack)
        yield stack


async def test_bars_are_the_same_before_and_after_everything_is_sealed_and_the_journal_is_let_go(
    tmp_path: Path,
) -> None:
    async with running(tmp_path / "plain") as plain:
        for words in (some(0), some(0, market="COAL"), [removed(7), trade(60, 7.5, trade_id=8), *some(50)]):
            await say(plain, words)
        await say(plain, trade(61, 8), trade(3, 8))
        await say(plain, removed(60), removed(7, market="COAL"), trade(60 * 9, 99, trade_id=9))
        await say(plain, trade(60 * 7, 50, trade_id=7), some(100))
        await say(plain, removed(7))
        expected = await bars(plain)
    async with lived(tmp_path / "data") as stack:
        assert await bars(stack) == expected
        before = await stored(stack)
        await seal(stack)
        assert await bars(stack) == expected
        assert await stored(stack) == before
        assert stack.sealing.statistics().files == 3
        assert stack.journal.statistics().bytes < 100
    async with seen(tmp_path / "data") as stack:
        assert await bars(stack) == expected
        assert await stored(stack) == before


async def test_sealed_events_can_be_corrected_and_taken_back_live_after_a_restart_and_after_a_rebuild(
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    async with lived(data) as stack:
        await seal(stack)
    for number, harm in enumerate(("none", "restart", "rebuild", "rebuild")):
        if harm == "rebuild":
            (data / "candles.duckdb").unlink()
        async with running(data) as stack:
            gone, corrected, known = 20 + number, 30 + number, 40 + number
            answer = await say(
                stack, removed(gone), trade(60 * corrected, 1000, trade_id=corrected), some(known, 1), removed(7)
            )
            assert (answer.retracted, answer.corrected, answer.duplicates, answer.unknown) == (1, 1, 1, 1)
            minutes = {row[0]: row for row in await read(stack, "GOLD", "1")}
            assert NOON + 60 * gone not in minutes
            assert minutes[NOON + 60 * corrected][1] == 1000
            assert NOON + 60 * known in minutes
            (day,) = await read(stack, "GOLD", "1D")
            assert day[6] == sum(row[6] for row in minutes.values())
            if number % 2:
                await seal(stack)


@pytest.mark.parametrize("all_sealed", [True, False])
async def test_a_store_that_is_lost_is_made_again_bit_for_bit(tmp_path: Path, all_sealed: bool) -> None:
    data, nobody = tmp_path / "data", tmp_path / "nobody"
    async with lived(data) as stack:
        if all_sealed:
            await seal(stack)
        before, shown, epoch = await stored(stack), await bars(stack), stack.engine.epoch
    for name in ("candles.duckdb", "answers.db"):
        (data / name).unlink()
    shutil.copytree(data, nobody)
    shutil.rmtree(nobody / "identities")
    for lost in (data, nobody):
        async with running(lost) as stack:
            assert await stored(stack) == before
            assert await bars(stack) == shown
            assert stack.engine.epoch == epoch
            assert stack.recovered.batches == stack.journal.last_seq
            assert stack.sealing.statistics().files == 2 + all_sealed
            # Everybody is known again, and so is what they were told.
            answer = await say(stack, some(0, 150))
            assert (answer.accepted, answer.corrected, answer.duplicates) == (2, 2, 146)
            assert (await say(stack, some(0), key="k")).accepted == 50
        async with seen(lost) as stack:
            assert stack.recovered.batches == 0


async def test_files_of_a_day_that_is_over_become_one_and_the_old_ones_go_when_nobody_reads_them(
    tmp_path: Path,
) -> None:
    clock = [NOON + 10_000.0]
    async with running(tmp_path, now=lambda: clock[0]) as stack:
        await past(stack)
        await seal(stack)
        before, shown = await stored(stack), await bars(stack)
        assert len(list((tmp_path / "raw").iterdir())) == 3
        clock[0] += 86400
        await stack.sealing.run()
        assert stack.sealing.statistics().merges == 1
        assert stack.sealing.statistics().files == 1
        assert len(list((tmp_path / "raw").iterdir())) == 4
        assert await stored(stack) == before
        await say(stack, removed(20))
        assert NOON + 1200 not in [row[0] for row in await read(stack, "GOLD", "1")]
        clock[0] += 3600
        await stack.sealing.run()
        assert stack.sealing.statistics().files == len(list((tmp_path / "raw").iterdir())) == 2
        after = await stored(stack)
    (tmp_path / "candles.duckdb").unlink()
    async with seen(tmp_path, now=lambda: clock[0]) as stack:
        assert await stored(stack) == after
        assert {**await bars(stack), **shown} != await bars(stack)


@pytest.mark.parametrize("merged", [False, True])
async def test_a_file_left_by_a_crash_before_its_transaction_counts_once(tmp_path: Path, merged: bool) -> None:
    data = tmp_path / "data"
    async with lived(data) as stack:
        before = await stored(stack)
        copy = tmp_path / "copy"
        if merged:
            await seal(stack)
            raw = manifest.folder
            files = await stack.database.read(manifest.listed)
            sealed.merge(await stack.database.read(raw), files, NOON, lambda: None)
        else:
            file = stack.sealing._write(lambda: None, stack.sealing.through + 1, stack.journal.last_seq)
            assert file.events
        shutil.copytree(data, copy)
        shutil.copytree(data, tmp_path / "lost")
    (tmp_path / "lost" / "candles.duckdb").unlink()
    (tmp_path / "lost" / "candles.duckdb.wal").unlink(missing_ok=True)
    for folder, files_left in ((copy, 3 if merged else 2), (tmp_path / "lost", 1 if merged else 3)):
        async with running(folder) as stack:
            assert await stored(stack) == before
            assert stack.sealing.statistics().files == files_left
            assert len(list((folder / "raw").iterdir())) == files_left
            await seal(stack)
            assert await stored(stack) == before


@pytest.mark.parametrize("harm", ["missing", "flipped"])
async def test_a_sealed_file_that_is_lost_is_named_and_the_rest_serves(tmp_path: Path, harm: str) -> None:
    data = tmp_path / "data"

    def spoil() -> None:
        file.unlink()
        if harm == "flipped":
            content = bytearray(whole)
            for at in range(60, len(whole), 60):
                content[at] ^= 1
            file.write_bytes(content)

    async with lived(data) as stack:
        await seal(stack)
        shown, epoch = await bars(stack), stack.engine.epoch
        file = min((data / "raw").iterdir())
        whole = file.read_bytes()
        spoil()
        with pytest.raises(Unavailable, match=f"{file.name} .*cannot be corrected or taken back"):
            await say(stack, removed(1))
        # What lies beside its events is folded without them.
        assert (await say(stack, removed(120), trade(20_000, trade_id=999))).retracted == 1
        assert await read(stack, "GOLD", "60") != []
        file.write_bytes(whole)
    async with running(data) as stack:
        assert stack.sealing.statistics().damaged == ()
        assert (await say(stack, trade(60 * 120, 100 + 120 % 7, trade_id=120), removed(999))).retracted == 1
        await flush(stack)
        assert await bars(stack) == shown
    spoil()
    async with running(data) as stack:
        (named,) = stack.sealing.statistics().damaged
        assert file.name in named
        assert await bars(stack) == shown
        assert (await say(stack, trade(20_000, market="COAL"))).accepted == 1
    # Whole again, it is read again.
    file.write_bytes(whole)
    async with running(data) as stack:
        assert stack.sealing.statistics().damaged == ()
        assert (await say(stack, removed(1))).retracted == 1
    # Without it, a rebuilt store lacks its events, says so, and positions of before mean nothing any more.
    file.unlink()
    (data / "candles.duckdb").unlink()
    for _ in range(2):
        async with running(data) as stack:
            (named,) = stack.sealing.statistics().damaged
            assert file.name in named
            assert stack.engine.epoch != epoch
            minutes = [row[0] for row in await read(stack, "GOLD", "1")]
            assert NOON + 60 * 20 not in minutes
            assert NOON + 60 * 120 in minutes
            await say(stack, trade(30_000))
            await stack.sealing.run()


async def test_the_janitor_seals_when_enough_has_come(tmp_path: Path) -> None:
    async with seen(tmp_path, seal_events=100, flush_seconds=0.05) as stack:
        await say(stack, some(0))
        assert not stack.sealing.due()
        await say(stack, some(50, 60))
        with trio.fail_after(20):
            while stack.sealing.statistics().files == 0 or stack.journal.first_seq < 3:
                await stack.writer.flushed(stack.engine.committed())
                await trio.sleep(0.05)
        assert stack.janitor.statistics()["sealing"].failing == ""


async def test_a_store_of_before_events_were_sealed_is_told_what_was_taken_back(tmp_path: Path) -> None:
    async with seen(tmp_path) as stack:
        await say(stack, some(0))
        await say(stack, trade(60, 7, trade_id=1), removed(2), trade(3 * 60 + 1, 5, trade_id=99))
        await flush(stack)
        before = await stored(stack)
        await stack.database.write(lambda db: db.execute("DELETE FROM dead").fetchall())
        await seal(stack)
        assert await stored(stack) == before
        await say(stack, removed(99), trade(61, 8))
        minutes = {row[0]: row for row in await read(stack, "GOLD", "1")}
        assert minutes[NOON + 60][6] == 2
        assert NOON + 120 not in minutes
        (day,) = await read(stack, "GOLD", "1D")
        assert day[6] == 50
