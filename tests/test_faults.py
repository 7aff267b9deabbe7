"""A full disk, a disk that fails, a clock that jumps: the real process, and counters that say that it happened."""

import errno
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

import msgspec
import trio
from prometheus_client.parser import text_string_to_metric_families

from tests.daemons import BIN, Daemon, environment, running
from tests.disks import filled, resized, small
from tests.faults import READS, SYNCS, WRITES, Faults
from tests.test_end_to_end import (
    JSON,
    SPANS,
    Answer,
    Event,
    Http,
    a_key,
    as_json,
    catch_up,
    folded,
    markets,
    printed,
    seq_of,
    shown,
    subscribed,
    talking,
    trade,
)
from tests.ws_client import Chart, connected

DAY = 86_400
MOST = 5000  # bars of an answer
# Everything that writes, as often as may be.
ALL = {
    "CANDLED_FLUSH_SECONDS": "0.2",
    "CANDLED_SEAL_SECONDS": "0.3",
    "CANDLED_ARCHIVE_DAYS": "1",
    "CANDLED_ARCHIVE_QUIET_SECONDS": "0",
    "RATE_LIMIT_REQUESTS": "0",
}
HEALTH = "/api/charts/health"


def counters(daemon: Daemon) -> dict[str, float]:
    """The metrics, those of jobs with the job's name."""
    with urlopen(f"http://127.0.0.1:{daemon.port}/metrics") as answer:
        families = text_string_to_metric_families(answer.read().decode())
    samples = [sample for family in families for sample in family.samples]
    return {sample.name.removeprefix("candled_") + "".join(sample.labels.values()): sample.value for sample in samples}


async def until(done: Callable[[], bool]) -> None:
    """Wait for what the process does by itself."""
    with trio.fail_after(60):
        while not await trio.to_thread.run_sync(done):  # noqa: ASYNC110  # another process has no event of ours
            await trio.sleep(0.05)


async def sealed(daemon: Daemon, count: int) -> None:
    """Wait until so many events were sealed since the start, or more."""
    await until(lambda: counters(daemon)["newly_sealed_events_total"] >= count)


async def healthy(http: Http) -> None:
    """Wait until all is well."""
    with trio.fail_after(60):
        while (answer := await http.ask("GET", HEALTH)).status != 200:  # noqa: ASYNC110  # as above
            await trio.sleep(0.05)
    assert answer.body["reasons"] == []


def some(first: int, count: int, day: int = 0) -> list[Event]:
    """Trades of new names, a second apart."""
    return [trade(day * DAY + n * 7 % 80_000, 100 + n % 13 / 4, n) for n in range(first, first + count)]


async def is_all_there(http: Http, events: Iterable[Event]) -> None:
    known = list(events)
    for resolution in ("1S", "1", "60", "1D"):
        bars, _ = await http.history("GOLD", resolution)
        assert bars == dict(list(folded(known, SPANS[resolution]).items())[-MOST:]), resolution


async def until_refused(http: Http, first: int) -> tuple[list[Event], Answer]:
    """Send batches until one is refused; those that were not."""
    kept: list[Event] = []
    while True:
        batch = some(first + len(kept), 500, day=len(kept) // 5000)
        answer = await http.post(batch)
        if answer.status != 200:
            return kept, answer
        kept += batch


async def test_a_full_disk_refuses_events_serves_on_and_goes_on_by_itself(tmp_path: Path) -> None:
    with small(tmp_path / "disk", "12m") as disk:
        data, chart = disk / "data", Chart("GOLD", "1")
        async with running("serve", "--data", str(data), home=tmp_path, variables=ALL) as daemon:
            key = (await printed(tmp_path, "token", "create", "--scope", "admin", "--data", str(data))).decode().strip()
            await markets(daemon, key)
            async with connected(daemon.port) as client:
                with talking(daemon, key) as http:
                    await subscribed(client, chart)
                    events, refused = await until_refused(http, 0)
                    assert refused.status == 503
                    assert int(refused.headers["retry-after"]) >= 1
                    assert "no space left" in refused.body["error"]
                    for _ in range(3):  # a smaller one may still fit
                        filled(disk)
                        more, refused = await until_refused(http, len(events))
                        events += more
                        assert "no space left" in refused.body["error"]
                    health = await http.ask("GET", HEALTH)
                    assert health.status == 503
                    assert health.body["status"] == "degraded"
                    assert any("no space left" in reason for reason in health.body["reasons"]), health.body
                    assert (await http.ask("GET", "/readyz")).status == 200
                    await is_all_there(http, events)
                    async with connected(daemon.port) as another:
                        late = Chart("GOLD", "60")
                        await subscribed(another, late)
                        assert shown(late) == folded(events, 3600)
                    counts = counters(daemon)
                    assert counts["journal_refused_total"] >= 4

                    resized(disk, "64m")
                    last = some(len(events), 100)
                    answer = await http.post(last)
                    assert answer.status == 200
                    events += last
                    await catch_up(client, [chart], seq_of(answer.body["cursor"]))
                    await sealed(daemon, len(events))
                    await until(lambda: counters(daemon)["archived_rows_total"] > 0)
                    await healthy(http)
                    await is_all_there(http, events)
        async with running("serve", "--data", str(data), home=tmp_path, variables=ALL) as daemon:
            with talking(daemon, key) as http:
                await is_all_there(http, events)


async def test_a_start_on_a_full_disk_waits_for_room_with_what_the_store_does_not_have(tmp_path: Path) -> None:
    variables = {**ALL, "CANDLED_FLUSH_SECONDS": "3600", "CANDLED_SEAL_SECONDS": "3600"}
    with small(tmp_path / "disk", "12m") as disk:
        data = str(disk / "data")
        async with running("serve", "--data", data, home=tmp_path, variables=variables) as daemon:
            key = (await printed(tmp_path, "token", "create", "--scope", "admin", "--data", data)).decode().strip()
            await markets(daemon, key)
            with talking(daemon, key) as http:
                events = some(0, 3000)
                assert (await http.post(events)).status == 200
            daemon.process.kill()
            await daemon.process.wait()
        filled(disk)
        refused: list[str] = []

        def full() -> bool:
            lines = [line for log in tmp_path.glob("*.log") for line in log.read_text().splitlines()]
            refused.extend(line for line in lines if "flush: " in line)
            return bool(refused)

        async def room() -> None:
            await until(full)
            resized(disk, "64m")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(room)
            async with running("serve", "--data", data, home=tmp_path, variables=ALL) as daemon:
                assert "no space left" in refused[0]
                with talking(daemon, key) as http:
                    await is_all_there(http, events)


async def test_whatever_finds_no_room_says_so_loses_nothing_and_is_done_once_there_is_some(tmp_path: Path) -> None:
    faults = Faults(tmp_path)
    variables = {**ALL, **faults.variables}
    async with running("serve", home=tmp_path, variables=variables) as daemon:
        key = await a_key(tmp_path, "admin")
        await markets(daemon, key)
        with talking(daemon, key) as http:
            events: list[Event] = []

            async def taken(**headers: str) -> None:
                batch = some(len(events), 50, day=len(events) // 50)
                answer = await http.post(batch, **headers)
                assert answer.status == 200, answer
                events.extend(batch)

            async def degraded(part: str) -> None:
                """Wait until health names it and says why."""
                reasons: list[str] = []
                with trio.move_on_after(30):
                    while not any(part in why and ("no space" in why or "full" in why) for why in reasons):
                        await trio.sleep(0.05)
                        reasons = (await http.ask("GET", HEALTH)).body["reasons"]
                    return
                raise AssertionError((part, reasons))

            await taken()
            # What works by itself takes in events all the while, and health says what waits.
            for part, headers in (
                ("candles.duckdb", {}),
                ("answers.db", {"Idempotency_Key": "one"}),
                ("/raw/", {}),
                ("/archive/", {}),
            ):
                before = faults.fell
                with faults.failing(part, errno.ENOSPC, WRITES):
                    await taken(**headers)
                    await degraded(part.strip("/").replace("raw", "sealed events"))
                    await taken()
                    await is_all_there(http, events)
                assert faults.fell > before, part
                await healthy(http)
                await is_all_there(http, events)
            # What somebody waits for is refused with the reason.
            body = msgspec.json.encode({"market_symbol": "NEW", "kind": "spot"})
            wrong = msgspec.json.encode([{"market_symbol": "GOLD", "timestamp": 1}])
            for part, path, sent, after in (
                ("/journal/", "/api/ingest/events", as_json(some(len(events), 1)), 200),
                ("state.db", "/api/markets", body, 201),
                ("rejects.db", "/api/ingest/events", wrong, 200),
            ):
                before = faults.fell
                with faults.failing(part, errno.ENOSPC, WRITES):
                    answer = await http.ask("POST", path, sent, Content_Type=JSON)
                    assert answer.status == 503, (part, answer)
                    assert int(answer.headers["retry-after"]) >= 1
                    assert "no space" in answer.body["error"] or "disk is full" in answer.body["error"], answer
                    await is_all_there(http, events)
                assert faults.fell > before, part
                assert (await http.ask("POST", path, sent, Content_Type=JSON)).status == after, part
                events += some(len(events), 1) if part == "/journal/" else []
            await is_all_there(http, events)
            await healthy(http)
            counts = counters(daemon)
            for counted in ("journal_refused_total", "flush_failures_total", "job_failures_totalsealing"):
                assert counts[counted] > 0, counted
            assert counts["job_failures_totalarchive"] > 0
        daemon.process.kill()
        await daemon.process.wait()
    async with running("serve", home=tmp_path, variables=variables) as daemon:
        with talking(daemon) as http:
            await is_all_there(http, events)


async def test_a_disk_that_fails_ends_the_process_with_its_reason_and_the_next_start_goes_on(tmp_path: Path) -> None:
    faults = Faults(tmp_path)
    variables = {**ALL, **faults.variables}
    key = ""
    events: list[Event] = []
    lost: list[Event] = []
    for part, calls in (
        ("/journal/", WRITES),
        ("/journal/", SYNCS),
        ("candles.duckdb", WRITES),
        ("candles.duckdb", SYNCS),
        ("state.db", WRITES),
        ("answers.db", SYNCS),
        ("/raw/", SYNCS),
        ("/archive/", WRITES),
    ):
        async with running("serve", home=tmp_path, variables=variables) as daemon:
            key = key or await a_key(tmp_path, "admin")
            with talking(daemon, key) as http:
                if not events:
                    await markets(daemon, key)
                # One whose sync failed may be there all the same: whoever got no answer comes again.
                assert (await http.post([*lost, *some(len(events) + len(lost), 20)])).status == 200
                events += [*lost, *some(len(events) + len(lost), 20)]
                await is_all_there(http, events)
                lost = some(len(events), 1)
                before = faults.fell
                with faults.failing(part, errno.EIO, calls), trio.fail_after(30):
                    with suppress(HTTPException, OSError):
                        await http.post(lost, Idempotency_Key=f"{part} {calls}")
                    body = msgspec.json.encode({"market_symbol": f"M{len(events)}", "kind": "spot"})
                    with suppress(HTTPException, OSError):
                        await http.ask("POST", "/api/markets", body, Content_Type=JSON)
                    assert await daemon.process.wait() == 1, part
                assert faults.fell > before, part
            last = daemon.log.read_text().splitlines()[-1]
            assert last.startswith("candled: "), (part, last)
            assert part.strip("/") in last.replace("sealed events", "raw"), (part, last)
            assert any(why in last for why in ("Input/output error", "disk I/O error", "fsync failed")), (part, last)
    async with running("serve", home=tmp_path, variables=variables) as daemon:
        with talking(daemon, key) as http:
            assert (await http.post(lost)).status == 200
            await is_all_there(http, [*events, *lost])


HOUR, YEAR = 3600.0, 365 * 86_400.0


async def test_a_clock_that_jumps_decides_what_is_ahead_of_it_and_nothing_else(tmp_path: Path) -> None:
    faults = Faults(tmp_path)
    variables = {**ALL, **faults.variables}
    chart = Chart("GOLD", "1")
    async with running("serve", home=tmp_path, variables=variables) as daemon:
        key, gone = await a_key(tmp_path, "admin"), await a_key(tmp_path, "admin")
        await markets(daemon, key)
        await printed(tmp_path, "token", "revoke", "2")
        async with connected(daemon.port) as client:
            with talking(daemon, key) as http, talking(daemon, gone) as revoked:
                await subscribed(client, chart)
                once = Event("GOLD", int(time.time() * 1e6), 99, None)
                first = await http.post([once], Idempotency_Key="once")
                assert first.status == 200
                events = [once]
                for ahead in (0.0, HOUR, 3 * YEAR, -HOUR, -5 * YEAR, 2 * YEAR, 0.0):
                    faults.move_clock(ahead)
                    now = time.time() + ahead
                    said = [Event("GOLD", int((now - n * 30) * 1e6), 100 + n, len(events) + n) for n in range(8)]
                    early = Event("GOLD", int((now + 400) * 1e6), 1, 10_000)
                    answer = await http.post([*said, early])
                    assert (answer.status, answer.body["accepted"], answer.body["rejected_count"]) == (200, 8, 1)
                    assert "ahead" in answer.body["rejected"][0]["error"], answer
                    events += said
                    await catch_up(client, [chart], seq_of(answer.body["cursor"]))
                    # Flushed, sealed and archived as ever, and what was answered once is answered so again.
                    await sealed(daemon, len(events))
                    assert (await http.post([once], Idempotency_Key="once")).body == first.body
                    assert (await revoked.post([once])).status in (401, 403)
                    for resolution in SPANS:
                        bars, _ = await http.history("GOLD", resolution)
                        assert bars == folded(events, SPANS[resolution]), (ahead, resolution)
                    assert shown(chart) == folded(events, 60)
                health = await http.ask("GET", HEALTH)
                assert (health.status, health.body["reasons"]) == (200, [])
                assert 0 <= health.body["uptime_seconds"] < 600
                assert counters(daemon)["ingest_rejected_totaltimestamp"] == 7
        daemon.process.kill()
        await daemon.process.wait()
    faults.move_clock(-YEAR)
    async with running("serve", home=tmp_path, variables=variables) as daemon:
        with talking(daemon, key) as http:
            for resolution in SPANS:
                assert (await http.history("GOLD", resolution))[0] == folded(events, SPANS[resolution])
            late = Event("GOLD", int((time.time() - 2 * YEAR) * 1e6), 5, 20_000)
            assert (await http.post([late])).body["accepted"] == 1
            await sealed(daemon, 1)


async def test_a_file_that_cannot_be_read_is_named_and_costs_what_lies_in_it(tmp_path: Path) -> None:
    faults = Faults(tmp_path)
    variables = {**ALL, **faults.variables}
    events = [*some(0, 60), *some(60, 60, day=1), *some(120, 60, day=2)]
    async with running("serve", home=tmp_path, variables=variables) as daemon:
        key = await a_key(tmp_path, "admin")
        await markets(daemon, key)
        with talking(daemon, key) as http:
            assert (await http.post(events)).status == 200
            await sealed(daemon, len(events))

            def archived() -> bool:
                counts = counters(daemon)
                return counts["archived_rows_total"] > 0 and not counts["archive_waiting"]

            await until(archived)
            await is_all_there(http, events)
    async with running("serve", home=tmp_path, variables=variables) as daemon:
        with talking(daemon, key) as http:

            async def bars(resolution: str) -> Answer:
                return await http.ask(
                    "GET", f"/api/tradingview/history?symbol=GOLD&resolution={resolution}&from=0&to=1900000000"
                )

            async def reasons() -> str:
                answer = await http.ask("GET", HEALTH)
                assert (answer.status, answer.body["status"]) == (503, "degraded")
                return " ".join(answer.body["reasons"])

            before = faults.fell
            with faults.failing("/archive/spot/1m/", errno.EIO, READS):
                answer = await bars("1")
                assert (answer.status, "archive/spot/1m/" in answer.body["errmsg"]) == (503, True), answer
                assert "Input/output error" in answer.body["errmsg"]
                assert (await bars("5")).status == (await bars("1D")).status == 200
                assert "archive/spot/1m/" in await reasons()
            assert faults.fell > before
            assert (await bars("1")).status == 200
            await is_all_there(http, events)
            before = faults.fell
            gone = msgspec.json.encode([{**events[3].wire, "removed": True}])
            with faults.failing("/raw/", errno.EIO, READS):
                answer = await http.ask("POST", "/api/ingest/events", gone, Content_Type=JSON)
                assert answer.status == 503, answer
                assert "sealed events: 0000" in answer.body["error"]
                assert "Input/output error; what it holds cannot be corrected" in answer.body["error"]
                await is_all_there(http, events)
                more = some(180, 1)
                assert (await http.post(more)).status == 200
                assert "sealed events: 0000" in await reasons()
            assert faults.fell > before
            assert (await http.ask("POST", "/api/ingest/events", gone, Content_Type=JSON)).status == 200
            await healthy(http)
            events = [*events[:3], *events[4:], *more]
            await is_all_there(http, events)
        daemon.process.kill()
        await daemon.process.wait()
    # What a start cannot do without ends it by name; the store is made again.
    for part in ("/journal/0", "state.db"):
        before = faults.fell
        with faults.failing(part, errno.EIO, READS):
            done = await trio.run_process(
                [BIN / "candled", "serve", "--port", "0"],
                env=environment(tmp_path, **variables),
                cwd=tmp_path,
                capture_stderr=True,
                check=False,
            )
        assert faults.fell > before, part
        last = done.stderr.decode().splitlines()[-1]
        assert (done.returncode, last.startswith("candled: "), part.strip("/") in last) == (1, True, True), last
    before = faults.fell
    with faults.failing("/candles.duckdb", errno.EIO, READS):
        async with running("serve", home=tmp_path, variables=variables) as daemon:
            with talking(daemon, key) as http:
                health = await http.ask("GET", HEALTH)
                assert any("set aside as candles.duckdb.broken-" in notice for notice in health.body["notices"])
    assert faults.fell > before
    async with running("serve", home=tmp_path, variables=variables) as daemon:
        with talking(daemon, key) as http:
            await is_all_there(http, events)
