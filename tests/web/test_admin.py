"""A backup that an admin asks a running daemon for."""

from pathlib import Path
from typing import Any

import pytest
import trio

from storage import backup
from tests.web.conftest import NOW, Web, decoded


@pytest.fixture
async def admin(web: Web) -> Web:
    """The app, with an admin key in every request."""
    web.headers = await web.key("admin")
    return web


async def begun(web: Web, directory: object) -> tuple[int, Any]:
    answer = await web.post("/api/admin/backup", json={"directory": directory})
    return answer.status_code, decoded(await answer.get_data())


async def ended(web: Web) -> Any:
    """How the backup went that was begun last."""
    with trio.fail_after(30):
        while (told := await web.json("/api/admin/backup"))["state"] in ("waiting", "running"):  # noqa: ASYNC110 - as clients do
            await trio.sleep(0.02)
    return told


async def test_a_backup_is_made_while_the_daemon_serves_and_told_of(admin: Web, tmp_path: Path) -> None:
    assert await admin.json("/api/admin/backup") is None
    cursor = await admin.trades((NOW, 100), (NOW + 1, 101))
    status, told = await begun(admin, str(tmp_path / "backup"))
    assert (status, told["state"], told["directory"]) == (202, "waiting", str(tmp_path / "backup"))
    told = await ended(admin)
    assert (told["state"], told["cursor"], told["error"], told["missing"]) == ("done", cursor, None, [])
    assert (told["copied_files"], told["kept_files"]) == (told["files"], 0)
    made = backup.read(tmp_path / "backup")
    assert (made.cursor, made.version, made.bytes) == (cursor, "0.1.0", told["copied_bytes"])
    await begun(admin, str(tmp_path / "backup"))
    told = await ended(admin)
    assert (told["copied_files"], told["kept_files"]) == (0, told["files"])


async def test_one_backup_is_made_at_a_time_and_may_be_asked_for_twice(admin: Web, tmp_path: Path) -> None:
    assert (await begun(admin, str(tmp_path / "one")))[0] == 202
    assert (await begun(admin, str(tmp_path / "one")))[0] == 202
    status, told = await begun(admin, str(tmp_path / "two"))
    assert status == 409
    assert told["error"] == f"a backup into {tmp_path / 'one'} is being made; wait for that"
    assert (await ended(admin))["state"] == "done"
    assert not (tmp_path / "two").exists()


async def test_a_backup_that_fails_says_why_and_the_next_one_need_not_wait(admin: Web, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "cat.jpg").touch()
    await begun(admin, str(tmp_path / "mine"))
    told = await ended(admin)
    assert told["state"] == "failed"
    assert "there are files that are no backup in it" in told["error"]
    with trio.fail_after(10):  # the janitor waits longer than that before it tries again what failed
        await begun(admin, str(tmp_path / "backup"))
        assert (await ended(admin))["state"] == "done"


@pytest.mark.parametrize("directory", ["relative", "", "~/backup", "/nul\0", 5, None])
async def test_a_directory_must_be_a_whole_path(admin: Web, directory: object) -> None:
    status, told = await begun(admin, directory)
    assert status == 400
    assert "directory" in told["error"]


async def test_only_an_admin_may_make_or_see_backups(web: Web, tmp_path: Path) -> None:
    for scope, expected in ((None, 401), ("read", 403), ("ingest", 403)):
        web.headers = await web.key(scope) if scope else {}
        assert (await begun(web, str(tmp_path / "backup")))[0] == expected
        assert (await web.get("/api/admin/backup")).status_code == expected
    assert not (tmp_path / "backup").exists()
