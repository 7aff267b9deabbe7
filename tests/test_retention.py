"""Retention in a real daemon: raw events of long ago go, their candles stay, and nothing changes them any more."""

import json
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import trio

from tests.daemons import BIN, Daemon, environment, running

LONG_AGO = 1_400_000_000  # May 2014
SETTINGS = {
    "CANDLED_SEAL_SECONDS": "0.1",
    "CANDLED_ARCHIVE_QUIET_SECONDS": "0",
    "CANDLED_FLUSH_SECONDS": "0.1",
    "CANDLED_CREATE_MARKETS": "spot",
    "CANDLED_RETENTION": "spot.raw=0.00001, spot.1s=30",
}
EVENTS = [
    {"market_symbol": "GOLD", "timestamp": (LONG_AGO + 40 * i) * 1000, "price": 100 + i % 7, "trade_id": i}
    for i in range(300)
]


def told(daemon: Daemon, path: str, key: str = "", events: list[Any] | None = None) -> str:
    """What a request is answered."""
    connection = HTTPConnection("127.0.0.1", daemon.port, timeout=30)
    body = None if events is None else json.dumps(events)
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"} if key else {}
    connection.request("GET" if events is None else "POST", path, body, headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    assert answer.status in (200, 503), text
    connection.close()
    return text


def counted(daemon: Daemon, name: str) -> float:
    """A number out of /metrics."""
    lines = told(daemon, "/metrics").splitlines()
    return next((float(line.split(" ")[1]) for line in lines if line.startswith(f"{name} ")), 0.0)


async def until(true: Callable[[], bool]) -> None:
    """Look at another process until it has come so far."""
    with trio.fail_after(60):
        while not await trio.to_thread.run_sync(true):  # noqa: ASYNC110  # it has no event of ours
            await trio.sleep(0.2)


LACKING = "raw events of 2014-05-13 to 2014-05-13 (1 of these days) were dropped; their bars are kept"


async def test_raw_events_of_2014_go_and_their_candles_stay_in_a_daemon_with_small_settings(tmp_path: Path) -> None:
    query = f"/api/tradingview/history?symbol=GOLD&resolution=1&from={LONG_AGO - 3600}&to={LONG_AGO + 86400}"
    create = [str(BIN / "candled"), "token", "create", "--scope", "ingest"]
    printed = await trio.run_process(create, env=environment(tmp_path), capture_stdout=True, capture_stderr=True)
    key = printed.stdout.decode().strip()
    async with running("serve", home=tmp_path, variables=SETTINGS) as daemon:
        answer = json.loads(told(daemon, "/api/ingest/events", key, EVENTS))
        assert answer["accepted"] == len(EVENTS)
        before = told(daemon, query)
        assert len(json.loads(before)["t"]) > 150
        await until(lambda: counted(daemon, "candled_sealed_events") == len(EVENTS))
    async with running("serve", home=tmp_path, variables=SETTINGS) as daemon:
        await until(lambda: counted(daemon, "candled_dropped_events_total") == len(EVENTS))
        assert counted(daemon, "candled_sealed_events") == 0
        assert told(daemon, query) == before
        seconds = json.loads(told(daemon, query.replace("resolution=1&", "resolution=1S&")))
        assert seconds == {"s": "no_data"}
        late = [{**EVENTS[0], "trade_id": 999}, {**EVENTS[1], "price": 1}, EVENTS[2], {**EVENTS[3], "removed": True}]
        answer = json.loads(told(daemon, "/api/ingest/events", key, late))
        assert (answer["rejected_count"], answer["duplicates"], answer["accepted"]) == (3, 1, 0)
        assert answer["rejected"][0]["error"].startswith("2014-05-13: its raw events were dropped")
        assert told(daemon, query) == before
        create[-1] = "admin"
        printed = await trio.run_process(create, env=environment(tmp_path), capture_stdout=True, capture_stderr=True)
        connection = HTTPConnection("127.0.0.1", daemon.port, timeout=30)
        admin = {"Authorization": f"Bearer {printed.stdout.decode().strip()}"}
        connection.request("GET", "/api/export/events?symbol=GOLD&format=ndjson", headers=admin)
        exported = connection.getresponse()
        assert exported.read() == b""
        assert exported.headers["X-Lacking"] == LACKING
        connection.close()
        health = json.loads(told(daemon, "/api/charts/health"))
        assert health["status"] == "ok"
        assert health["retention"]["closed_days"] == 1
        assert health["disk"]["archive"] > 0
    export = [str(BIN / "candled"), "export", "--market", "GOLD", "--events", "--format", "ndjson"]
    printed = await trio.run_process(export, env=environment(tmp_path), capture_stdout=True, capture_stderr=True)
    assert printed.stdout == b""
    assert f"note: {LACKING}" in printed.stderr.decode()
