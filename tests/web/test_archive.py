"""What health, metrics and answers say of the archive."""

from datetime import UTC, datetime
from pathlib import Path

from actors.archivist import Archivist
from actors.background import Background
from tests.web.conftest import NOW, Web, decoded, serving
from tests.web.test_metrics import scraped

DAY = 86400
OLD = int(NOW) // DAY * DAY - 30 * DAY


async def moved(web: Web) -> None:
    await web.stack.writer.flushed(web.stack.engine.committed())
    await Archivist(web.stack.store, Background(rest=0), now=web.clock, quiet=0).run()


def history(start: int) -> str:
    return f"/api/tradingview/history?symbol=GOLD&resolution=1&from={start}&to={start + DAY}"


async def test_a_file_that_is_gone_is_named_by_health_and_by_the_queries_that_need_it(tmp_path: Path) -> None:
    async with serving(tmp_path) as web:
        await web.market()
        await web.trades((OLD, 10.0), (OLD + DAY, 11.0), (NOW - 60, 12.0))
        await moved(web)
        await web.stack.archivist.run()  # counts what there is
        told = await scraped(web)
        assert told["candled_archive_files"]["spot", "1m"] == told["candled_archive_rows"]["spot", "1m"] == 2
        file = tmp_path / "archive" / "spot" / "1m" / _date(OLD) / "1-0.parquet"
        assert told["candled_archive_bytes"]["spot", "1m"] > file.stat().st_size
        assert told["candled_archive_broken"][()] == 0
        assert told["candled_last_archive_timestamp_seconds"][()] == NOW
        health = await web.json("/api/charts/health")
        assert (health["status"], health["last_archive"]) == ("ok", "2026-01-05T09:00:00.000+00:00")
    file.unlink()
    async with serving(tmp_path) as web:  # with nothing in memory
        answer = await web.get(history(OLD))
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "60"
        why = f"the bars of spot/1m/{_date(OLD)} cannot be read: archive/spot/1m/{_date(OLD)}/1-0.parquet: missing"
        assert decoded(await answer.get_data()) == {"s": "error", "errmsg": why}
        assert (await web.json(history(OLD + DAY)))["c"] == [11.0]
        answer = await web.get("/api/charts/health")
        assert answer.status_code == 503
        assert decoded(await answer.get_data())["reasons"] == [f"archive: {why}"]
        assert (await scraped(web))["candled_archive_broken"][()] == 1


async def test_what_is_moved_is_counted(tmp_path: Path) -> None:
    async with serving(tmp_path) as web:
        await web.market()
        await web.trades((OLD, 10.0), (OLD + 61, 11.0))
        await web.stack.writer.flushed(web.stack.engine.committed())
        job = web.stack.archivist
        await job.run()
        assert (await scraped(web))["candled_archive_waiting"][()] == 4
        web.clock.now += 3600
        await job.run()
        told = await scraped(web)
        assert told["candled_archive_moves_seconds_count"][()] == 4
        assert told["candled_archived_rows_total"][()] == 2 + 2 + 1 + 1
        assert told["candled_archive_waiting"][()] == 0


def _date(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%d")
