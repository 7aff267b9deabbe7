"""A data directory that lost or broke a file which is not made again: that is named, with what to do about it."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from daemon import backup, commands
from daemon.config import Config
from daemon.progress import Progress
from storage.errors import BrokenStore
from tests.stacks import flush, running, say, trade
from tests.web.conftest import decoded, serving

PAGE = 4096


async def lived(data: Path) -> None:
    async with running(data) as stack:
        await say(stack, *(trade(n, market=f"M{n:03}") for n in range(200)))
        await flush(stack)


def damage(file: Path, *pages: int) -> None:
    with file.open("r+b") as out:
        for page in pages:
            out.seek(page * PAGE)
            out.write(b"\xff" * PAGE)


@pytest.mark.parametrize("page", ["first", "within"])
async def test_a_damaged_state_file_is_named_at_the_start_with_what_to_do(tmp_path: Path, page: str) -> None:
    data = tmp_path / "data"
    await lived(data)
    state = data / "state.db"
    damage(state, 0 if page == "first" else state.stat().st_size // PAGE // 2)
    remedy = f"restore a backup: candled restore BACKUP --data {data} --force"
    with pytest.raises(BrokenStore, match=r"state\.db: damaged: .*; put it back, or ") as refused:
        async with running(data):
            pytest.fail("it started")
    assert str(refused.value).endswith(remedy)
    (problem,) = (why for why in commands.folder(Config(data=data)).problems if "state.db" in why)
    assert problem.endswith(remedy)


async def test_damage_of_the_state_file_found_while_running_is_named_by_log_and_health(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path) as web:
        for n in range(100):
            await web.market(f"M{n:03}")
        assert (await web.json("/api/charts/health"))["status"] == "ok"
    async with serving(tmp_path) as web:
        state = tmp_path / "state.db"
        pages = state.stat().st_size // PAGE
        with closing(sqlite3.connect(state)) as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            damage(state, *range(1, pages))
            db.execute(f"PRAGMA user_version = {version}")  # nobody trusts the pages in memory after that
        # Whoever runs into it is told, and so is whoever asks how the daemon is.
        assert (await web.get("/api/tradingview/symbols?symbol=M050")).status_code >= 500
        answer = await web.get("/api/charts/health")
        assert answer.status_code == 503
        (reason,) = decoded(await answer.get_data())["reasons"]
        assert reason.startswith(f"{state}: damaged: ")
        assert "restore a backup: candled restore BACKUP" in reason
        assert [one.levelname for one in caplog.records if "state.db: damaged" in one.getMessage()] == ["ERROR"]


async def test_a_journal_that_is_gone_is_named_and_not_begun_anew(tmp_path: Path) -> None:
    data = tmp_path / "data"
    await lived(data)
    shutil.rmtree(data / "journal")
    config, said = Config(data=data), f"journal: {data / 'journal'} is missing or empty"
    with pytest.raises(BrokenStore, match=said):
        async with running(data):
            pytest.fail("it started")
    with Progress() as progress, pytest.raises(BrokenStore, match=said):
        backup.made(config, tmp_path / "backup", progress)
    assert [why for why in commands.folder(config).problems if said in why and "candled restore BACKUP" in why]
    assert not (data / "journal").exists()


async def test_a_damaged_newest_record_that_the_store_knows_ends_the_start_with_what_to_restore(tmp_path: Path) -> None:
    data = tmp_path / "data"
    await lived(data)
    segment = sorted((data / "journal").glob("*.journal"))[-1]
    whole = segment.read_bytes()
    segment.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    for _ in range(2):  # also once it is cut
        with pytest.raises(BrokenStore, match=r"yet record [0-9]+ is known elsewhere") as refused:
            async with running(data):
                pytest.fail("it started")
        (kept,) = segment.parent.glob("*.cut-*")
        assert kept.name in str(refused.value)
        assert str(refused.value).endswith(f"candled restore BACKUP --data {data} --force")
    segment.write_bytes(whole)
    async with running(data) as stack:
        assert stack.engine.committed() > 0
