import random
from pathlib import Path
from typing import Any

import pytest
import trio

from storage import flush
from storage.errors import Unavailable
from tests.storage.test_database import damage
from tests.web.conftest import NOW, STRANGER, Web, decoded, serving

HEALTH = "/api/charts/health"


async def report(web: Web, status: int = 200) -> Any:
    answer = await web.get(HEALTH)
    assert answer.status_code == status
    assert answer.headers["Cache-Control"] == "no-store"
    return decoded(await answer.get_data())


async def test_health_says_how_far_everything_is(web: Web) -> None:
    await web.market("TEA")
    await web.stack.registry.deactivate("TEA")
    cursor = await web.trades((NOW - 60, 10.0), (NOW - 1, 11.0))
    await web.stack.writer.flushed(1)
    found = await report(web)
    assert found["status"] == "ok"
    assert found["reasons"] == found["notices"] == []
    assert found["version"] == "1.2.3"
    assert 0 <= found["uptime_seconds"] < 60
    assert found["demo"] is False
    assert found["cursor"] == cursor
    assert found["epoch"] == cursor.partition(".")[0]
    assert found["markets"] == {"registered": 2, "active": 1, "in_memory": 1}
    assert found["journal"]["seq"] == 1
    assert found["journal"]["bytes"] == web.stack.journal.statistics().bytes
    assert (found["journal"]["lag"], found["journal"]["lag_events"]) == (0, 0)
    assert found["last_flush"] == "2026-01-05T09:00:00.000+00:00"
    assert found["streams"] == {"connections": 0, "subscriptions": 0}


async def test_a_damaged_store_is_named_and_served_as_far_as_it_goes_and_rebuilt_by_a_restart(tmp_path: Path) -> None:
    chance = random.Random(3)
    old = f"/api/tradingview/history?symbol=GOLD&resolution=1S&from={NOW - 60_000}&to={NOW - 59_000}&countback=0"
    days = f"/api/tradingview/history?symbol=GOLD&resolution=1D&from={NOW - 86_400}&to={NOW}&countback=0"
    async with serving(tmp_path) as web:
        await web.market()
        for start in range(60_000, 0, -5000):
            await web.trades(*((NOW - second, 100 + chance.random()) for second in range(start, start - 5000, -1)))
        before = await web.json(old), await web.json(days)
        await web.stack.writer.flushed(web.stack.engine.committed())
        await web.stack.store.compact("spot", 1, 0, 3600)
    damage(tmp_path / "candles.duckdb", "spot_1")
    async with serving(tmp_path) as web:
        assert await web.json(days) == before[1]
        answer = await web.get(old)
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "60"
        assert "Corrupt database file" in decoded(await answer.get_data())["errmsg"]
        found = await report(web, 503)
        assert found["status"] == "degraded"
        (reason,) = found["reasons"]
        assert reason.startswith("history store: damaged, Corrupt database file")
        await web.trades((NOW, 7.0))
        assert (await web.json(days))["l"][-1] == 7.0
    async with serving(tmp_path) as web:
        assert await web.json(old) == before[0]
        (notice,) = (await report(web))["notices"]
        assert "was set aside as candles.duckdb.broken-" in notice


async def test_only_a_shell_on_this_machine_is_told_where_the_data_is(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", data=tmp_path / "data", command="/opt/bin/candled") as web:
        assert (await report(web))["local"] == {"command": "/opt/bin/candled", "data": str(tmp_path / "data")}
        elsewhere = [
            await web.get(HEALTH, client=STRANGER),
            await web.get(HEALTH, headers={"Host": "charts.example.org"}),
            await web.get(HEALTH, headers={"Origin": "https://example.org"}),
            await web.get(HEALTH, headers={"Sec-Fetch-Site": "cross-site"}),
            await web.get(HEALTH, headers={"X-Forwarded-For": "203.0.113.7"}),
        ]
        for answer in elsewhere:
            assert answer.status_code == 200
            assert (await answer.get_json())["local"] is None


async def test_health_says_that_the_data_is_made_up(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", demo=True) as web:
        assert (await report(web))["demo"] is True


async def test_a_store_that_cannot_be_written_degrades_until_it_can(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise Unavailable("candles.duckdb: no space left on the disk")

    with monkeypatch.context() as patched:
        patched.setattr(flush, "apply", full)
        await web.trades((NOW - 60, 10.0))
        with trio.fail_after(5):
            while not web.stack.writer.statistics().failing:  # noqa: ASYNC110 # nobody tells of it
                await trio.sleep(0.01)
        found = await report(web, 503)
        assert found["status"] == "degraded"
        assert found["reasons"] == ["history store: candles.duckdb: no space left on the disk"]
        assert found["journal"]["lag"] == 1
        # It is served on, so nobody should be sent elsewhere.
        assert (await web.get("/readyz")).status_code == 200
        bars = await web.json(f"/api/tradingview/history?symbol=GOLD&resolution=1&from=0&to={NOW}")
        assert bars["c"] == [10]
    with trio.fail_after(10):
        await web.stack.writer.flushed(1)
    assert (await report(web))["status"] == "ok"


async def test_a_broken_journal_is_no_place_to_be_sent_to(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web.stack.journal, "_broken", "journal: syncing record 7: Input/output error")
    assert (await report(web, 503))["reasons"] == ["journal: syncing record 7: Input/output error"]
    answer = await web.get("/readyz")
    assert answer.status_code == 503
    assert await answer.get_json() == {
        "status": "not ready",
        "reasons": ["journal: syncing record 7: Input/output error"],
    }
    assert (await web.get("/healthz")).status_code == 200


async def test_a_store_that_was_set_aside_and_rebuilt_is_told_by_its_name(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as web:
        await web.market()
        await web.trades((NOW - 60, 10.0))
    (tmp_path / "data" / "candles.duckdb").write_bytes(b"this is no database" * 1000)
    async with serving(tmp_path / "data") as web:
        found = await report(web)
        assert found["status"] == "ok"
        (aside,) = (tmp_path / "data").glob("candles.duckdb.broken-*")
        assert [aside.name in notice for notice in found["notices"]] == [True]
        bars = await web.json(f"/api/tradingview/history?symbol=GOLD&resolution=1&from=0&to={NOW}")
        assert bars["c"] == [10]


async def test_a_record_that_a_crash_broke_off_is_told_and_does_no_harm(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as web:
        await web.market()
        await web.trades((NOW - 60, 10.0))
        before = (await report(web))["journal"]
    (segment,) = (tmp_path / "data" / "journal").glob("*.journal")
    with segment.open("ab") as file:
        file.write(b"CDR")
    async with serving(tmp_path / "data") as web:
        found = await report(web)
        assert found["status"] == "ok"
        assert found["journal"] == before | {"torn_bytes": 3, "lag": 0, "lag_events": 0}
        (kept,) = segment.parent.glob("*.cut-*")
        end = segment.stat().st_size
        assert f"{segment.name}: bytes {end} to {end + 3}, a damaged or torn record" in found["notices"][0]
        assert kept.name in found["notices"][0]
        assert kept.read_bytes() == b"CDR"
        assert found["disk"]["aside"] == 3


async def test_alive_and_ready_are_one_word_each(web: Web) -> None:
    assert await web.json("/healthz") == {"status": "alive"}
    assert await web.json("/readyz") == {"status": "ready"}


async def test_what_is_sealed_is_told_and_a_sealed_file_that_is_missing_is_named(tmp_path: Path) -> None:
    async with serving(tmp_path) as web:
        await web.market()
        await web.trades((NOW - 60, 10.0), (NOW - 1, 11.0))
        await web.stack.sealing.run()
        found = await report(web)
        (file,) = (tmp_path / "raw").iterdir()
        assert found["status"] == "ok"
        assert found["sealed"] == {
            "seq": 1,
            "files": 1,
            "events": 2,
            "bytes": file.stat().st_size,
            "last": "2026-01-05T09:00:00.000+00:00",
        }
        assert found["journal"]["bytes"] < 100
        metrics = await (await web.get("/metrics")).get_data(as_text=True)
        assert "candled_sealed_events 2.0" in metrics
        assert f"candled_sealed_bytes {float(file.stat().st_size)}" in metrics
        assert "candled_sealing_failing 0.0" in metrics
    file.unlink()
    async with serving(tmp_path) as web:
        found = await report(web, 503)
        assert found["reasons"] == [f"sealed events: {file.name} (batches 1 to 1): it is missing"]
        assert await web.json(f"/api/tradingview/history?symbol=GOLD&resolution=1&from={NOW - 600}&to={NOW}") != {}
