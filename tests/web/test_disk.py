"""What the disk is used for, and what retention has dropped, in metrics and in health."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from msgspec import structs

from actors.archivist import Archivist
from actors.background import Background
from daemon.stack import Stack, StackSettings, opened
from storage.retention import RAW, Keep
from tests.web.conftest import NOW, serving
from tests.web.test_metrics import scraped

DAY = 86400


async def test_the_disk_is_told_by_part_and_what_was_dropped_is_counted(tmp_path: Path) -> None:
    keeps = (Keep("spot", RAW, 30), Keep("spot", 1, 100))

    def opening(settings: StackSettings, now: Callable[[], float]) -> AbstractAsyncContextManager[Stack]:
        return opened(structs.replace(settings, retention=keeps, create="spot"), now=now)

    async with serving(tmp_path, opener=opening) as web:
        events = [{"market_symbol": "GOLD", "timestamp": (NOW - i) * 1000, "price": 1} for i in range(100)]
        answer = await web.post("/api/ingest/events", json=events, headers=await web.key("ingest"))
        assert answer.status_code == 200
        await web.stack.sealing.run()
        web.clock.now += 70 * DAY
        await Archivist(web.stack.store, Background(rest=0), now=web.clock, quiet=0).run()
        await web.stack.archivist.run()
        before = (await scraped(web))["candled_disk_bytes"]
        assert min(before[("", part, "")] for part in ("journal", "raw", "duckdb", "state", "answers", "rejects")) > 0
        assert before[("spot", "archive", "1s")] > 0
        web.clock.now += 40 * DAY
        await web.stack.retention.run()
        await web.stack.archivist.run()
        found = await scraped(web)
        assert ("spot", "archive", "1s") not in found["candled_disk_bytes"]
        assert found["candled_disk_bytes"][("spot", "archive", "1m")] == before[("spot", "archive", "1m")]
        assert found["candled_dropped_bars_total"][()] >= 100
        assert found["candled_dropped_partitions_total"][()] >= 1
        assert found["candled_dropped_events_total"][()] == 100
        assert found["candled_dropped_bytes_total"][()] > 0
        assert found["candled_closed_days"][()] >= 1
        assert found["candled_last_retention_timestamp_seconds"][()] == web.clock()
        assert found["candled_retention_waiting"][()] == 0
        health = await (await web.get("/api/charts/health")).get_json()
        assert health["disk"]["archive"] > 0
        assert health["disk"]["raw"] > 0
        assert health["retention"]["waiting"] == []
        assert health["retention"]["closed_days"] >= 1
