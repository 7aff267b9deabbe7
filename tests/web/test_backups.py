"""How backups went, for whoever watches the daemon."""

from pathlib import Path

import trio

from tests.web.conftest import NOW, Web, serving
from tests.web.test_health import report
from tests.web.test_metrics import scraped


async def backed_up(web: Web, directory: Path) -> None:
    before = web.stack.backups.statistics()
    web.stack.backups.begin(directory)
    with trio.fail_after(20):
        while web.stack.backups.statistics() == before:  # noqa: ASYNC110  # nobody tells of it
            await trio.sleep(0.01)


async def test_the_last_backup_is_told_and_why_the_newest_failed(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as web:
        await web.market()
        await web.trades((NOW - 60, 10.0))
        assert (await report(web))["last_backup"] is None
        await backed_up(web, tmp_path / "backup")
        told = (await report(web))["last_backup"]
        files = [file.stat().st_size for file in (tmp_path / "backup").rglob("*") if file.name != "lock"]
        assert told["at"] == "2026-01-05T09:00:00.000+00:00"
        assert 0 < told["copied_bytes"] == told["bytes"] <= sum(files)
        assert told["seconds"] > 0
        await backed_up(web, tmp_path / "backup")
        again = (await report(web))["last_backup"]
        assert again["copied_bytes"] < again["bytes"]
        (tmp_path / "file").touch()
        await backed_up(web, tmp_path / "file")
        found = await report(web)
        assert found["last_backup"] == again
        assert [notice.partition(":")[0] for notice in found["notices"]] == ["the last backup failed"]
        metrics = await scraped(web)
        for name, value in (
            ("backups_total", 2),
            ("backup_failures_total", 1),
            ("last_backup_timestamp_seconds", NOW),
            ("last_backup_bytes", again["bytes"]),
            ("last_backup_copied_bytes", again["copied_bytes"]),
        ):
            assert metrics[f"candled_{name}"][()] == value, name
        assert metrics["candled_last_backup_seconds"][()] > 0
