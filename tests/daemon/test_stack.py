"""Opening a data directory, in whatever state it is."""

import shutil
from pathlib import Path

import pytest
import trio

from daemon import recovery
from daemon.stack import Stack
from storage import ledger
from storage.errors import BrokenStore
from storage.identities import Identities
from tests.histories import Row, read
from tests.stacks import flush, removed, running, say, trade

RESOLUTIONS = ("1S", "1", "15", "1D", "3", "1W")
Bars = dict[tuple[str, str], list[Row]]


async def bars(stack: Stack) -> Bars:
    """Everything that charts show."""
    return {(market, name): await read(stack, market, name) for market in ("GOLD", "COAL") for name in RESOLUTIONS}


async def lived(data: Path) -> Bars:
    """A directory in which something has happened; the newest of it is not in the store."""
    async with running(data) as stack:
        await say(stack, [trade(60 * minute, 100 + minute, trade_id=minute) for minute in range(200)])
        await say(stack, trade(5, market="COAL"), key="k")
        await flush(stack)
        await say(stack, removed(7), trade(60, 7, trade_id=8), trade(300, market="COAL"))
        await flush(stack)
        await say(stack, [trade(20 * second, 90, trade_id=1000 + second) for second in range(50)])
        await say(stack, removed(9), trade(60, 7, trade_id=1), trade(12_345, 7))
        shutil.copytree(data, data.with_name("crashed"))
        return await bars(stack)


def aside(data: Path) -> list[Path]:
    """Files that would not open."""
    return sorted(data.glob("candles.duckdb.broken-*"))


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Bars]:
    """A folder with `data`, which ended clean, and `crashed`, which did not; and the bars that both must show."""
    folder = tmp_path_factory.mktemp("past")
    return folder, trio.run(lived, folder / "data")


@pytest.mark.parametrize(
    ("ending", "harm"),
    [
        *(("data", harm) for harm in ("none", "garbage", "no file but its log")),
        *(("crashed", harm) for harm in ("none", "cut", "a byte", "no file", "no file but its log", "nothing at all")),
    ],
)
async def test_the_store_is_rebuilt_from_the_journal_with_the_same_bars(
    tmp_path: Path, past: tuple[Path, Bars], ending: str, harm: str
) -> None:
    folder, before = past
    data = tmp_path / "data"
    shutil.copytree(folder / ending, data)
    file, log = data / "candles.duckdb", data / "candles.duckdb.wal"
    match harm:
        case "garbage":
            file.write_bytes(b"not what it was" * 1000)
        case "cut":
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        case "a byte":
            content = bytearray(file.read_bytes())
            content[4096 + 100] ^= 0xFF
            file.write_bytes(content)
        case "no file":
            file.unlink()
            log.unlink(missing_ok=True)
        case "no file but its log":
            file.unlink()
        case "nothing at all":
            for path in (file, log, data / "answers.db", data / "rejects.db"):
                path.unlink(missing_ok=True)
            shutil.rmtree(data / "identities")
    async with running(data) as stack:
        assert await bars(stack) == before
        assert await stack.database.read(ledger.count) == 251
        if harm in ("garbage", "cut", "a byte"):
            assert stack.recovered.set_aside == str(aside(data)[0])
        # Everybody is known again, and so is what they were told.
        answer = await say(stack, [trade(60 * minute, 100 + minute, trade_id=minute) for minute in range(20, 200)])
        assert (answer.accepted, answer.duplicates) == (0, 180)
        answer = await say(stack, removed(7), removed(1000), trade(20, 90, trade_id=1001), trade(300, trade_id=7))
        assert (answer.accepted, answer.retracted, answer.unknown, answer.duplicates) == (1, 1, 1, 1)
        assert (await say(stack, trade(5, market="COAL"), key="k")).accepted == 1
        after = await bars(stack)
        assert after["COAL", "1D"] == before["COAL", "1D"]
    async with running(data) as stack:
        assert stack.recovered.batches == 0
        assert stack.recovered.set_aside is None
        assert await bars(stack) == after


async def test_what_was_committed_after_the_newest_flush_is_recovered(tmp_path: Path, past: tuple[Path, Bars]) -> None:
    shutil.copytree(past[0] / "crashed", tmp_path / "data")
    async with running(tmp_path / "data") as stack:
        assert (stack.recovered.batches, stack.recovered.events) == (2, 52)
        assert await bars(stack) == past[1]


@pytest.mark.parametrize("files", [True, False])
async def test_everybody_is_remembered_in_little_memory_also_while_the_store_is_rebuilt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: bool
) -> None:
    monkeypatch.setitem(Identities.open.__func__.__kwdefaults__, "limit", 40)  # type: ignore[attr-defined]
    monkeypatch.setattr(recovery, "REPLAYED", 50)
    async with running(tmp_path) as stack:
        for start in range(0, 600, 30):
            await say(stack, [trade(0, trade_id=number) for number in range(start, start + 30)], removed(start))
    (tmp_path / "candles.duckdb").unlink()
    if not files:
        shutil.rmtree(tmp_path / "identities")
    async with running(tmp_path) as stack:
        assert stack.recovered.events == 600 - 20
        assert stack.identities.statistics().in_memory < 100
        assert (stack.identities.statistics().spills > 5) == (not files)
        answer = await say(stack, [trade(0, trade_id=number) for number in range(600)])
        assert (answer.accepted, answer.duplicates) == (20, 580)


async def test_a_database_of_another_journal_is_refused_by_name(tmp_path: Path) -> None:
    for name in ("one", "other"):
        async with running(tmp_path / name) as stack:
            await say(stack, trade(0))
    shutil.copy(tmp_path / "one" / "candles.duckdb", tmp_path / "other" / "candles.duckdb")
    with pytest.raises(BrokenStore, match="belongs to journal") as refused:
        async with running(tmp_path / "other"):
            pass
    assert stack.journal.epoch in str(refused.value)


@pytest.mark.parametrize("ending", ["data", "crashed"])
@pytest.mark.parametrize("store", ["there", "lost"])
async def test_markets_that_are_lost_are_no_other_markets(
    tmp_path: Path, past: tuple[Path, Bars], ending: str, store: str
) -> None:
    data = tmp_path / "data"
    shutil.copytree(past[0] / ending, data)
    for file in data.glob("state.db*"):
        file.unlink()
    if store == "lost":
        for file in data.glob("candles.duckdb*"):
            file.unlink()
    with pytest.raises(BrokenStore, match=r"state\.db has 0 markets, and there are events and bars of 2"):
        async with running(data):
            pass


async def test_identities_of_another_journal_are_made_anew(tmp_path: Path) -> None:
    for name in ("one", "other"):
        async with running(tmp_path / name) as stack:
            await say(stack, trade(0, trade_id=name))
    shutil.rmtree(tmp_path / "other" / "identities")
    shutil.copytree(tmp_path / "one" / "identities", tmp_path / "other" / "identities")
    async with running(tmp_path / "other") as stack:
        answer = await say(stack, trade(0, trade_id="one"), trade(0, trade_id="other"))
        assert (answer.accepted, answer.duplicates) == (1, 1)


async def test_two_processes_do_not_share_a_directory(tmp_path: Path) -> None:
    async with running(tmp_path):
        with pytest.raises(BrokenStore, match="another candled"):
            async with running(tmp_path):
                pass
