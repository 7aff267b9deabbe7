"""Bars and events as files over HTTP: what is in them, and what becomes of them when something goes wrong."""

import gzip
import io
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import trio
import trio.testing
import zstandard

from actors import export as reading
from storage import listing
from storage.errors import Unavailable
from tests.web.conftest import NOW, Web, decoded, serving
from web import listener
from web.export import AT_ONCE, EXTENSION, Exports
from web.listener import listen

START = NOW - 86_400


def table(kind: str, data: bytes | str) -> list[dict[str, Any]]:
    """The rows of an export, without what says nothing."""
    assert isinstance(data, bytes)
    if kind == "ndjson":
        return [json.loads(line) for line in data.splitlines()]
    if kind == "csv":
        found = pyarrow.csv.read_csv(io.BytesIO(data))
    elif kind == "arrow":
        found = pa.ipc.open_stream(data).read_all()
    else:
        found = pq.read_table(io.BytesIO(data))
    return [{name: value for name, value in row.items() if value is not None} for row in found.to_pylist()]


async def some(web: Web) -> None:
    """Two hours of trades."""
    await web.trades(*((START + 37 * n, 100 + n * 7 % 11, 0.1 * (n % 5 + 1)) for n in range(200)))


@pytest.mark.parametrize("resolution", ["1s", "1m", "7", "1h", "1D", "1W", "1M"])
async def test_exported_bars_are_those_of_history(web: Web, resolution: str) -> None:
    await some(web)
    await web.stack.writer.flushed(web.stack.engine.committed())
    await web.trades((START + 30, 250), (START + 20_000, 3))
    udf = {"1s": "1S", "1m": "1", "1h": "60"}.get(resolution, resolution)
    history = await web.json(f"/api/tradingview/history?symbol=GOLD&resolution={udf}&from=0&to={NOW}")
    names = {"t": "time", "o": "open", "h": "high", "l": "low", "c": "close", "v": "volume"}
    for kind in ("csv", "parquet", "arrow", "ndjson"):
        found = await web.get(f"/api/export/bars?symbol=GOLD&resolution={resolution}&format={kind}")
        assert found.status_code == 200
        rows = table(kind, await found.get_data())
        assert rows
        columns = {short: [row[name] for row in rows] for short, name in names.items()}
        assert columns == {short: history[short] for short in names}, kind


async def test_exported_events_are_those_that_were_sent(web: Web) -> None:
    headers = await web.key("admin")
    sent = [
        {"market_symbol": "GOLD", "timestamp": (START + 1) * 1000 + 0.25, "price": "1.000000000000000001", "size": "3"},
        {
            "market_symbol": "GOLD",
            "timestamp": START * 1000,
            "price": 7,
            "side": "sell",
            "trade_id": "007",
            "fee": "-1",
        },
    ]
    answer = await web.stack.intake.submit(json.dumps(sent).encode(), "application/json")
    assert decoded(answer)["accepted"] == 2
    found = await web.get("/api/export/events?symbol=gold&format=csv", headers=headers)
    assert found.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert found.headers["Content-Disposition"] == "attachment; filename*=UTF-8''GOLD-events.csv"
    assert found.headers["X-Cursor"] == decoded(answer)["cursor"]
    head, *lines = (await found.get_data(as_text=True)).splitlines()
    rows = [
        {name: value for name, value in zip(head.split(","), line.split(","), strict=True) if value} for line in lines
    ]
    plain = {"market_symbol": "GOLD", "event_type": "Trade", "price_type": "trade"}
    when = datetime.fromtimestamp(START, UTC).strftime("%Y-%m-%dT%H:%M:")
    assert rows == [
        {**plain, "timestamp": f"{when}00.000000Z", "side": "sell", "price": "7", "fee": "-1", "trade_id": "007"},
        {**plain, "timestamp": f"{when}01.000250Z", "price": "1.000000000000000001", "volume": "3"},
    ]
    part = await web.get(f"/api/export/events?symbol=GOLD&from={START}&to={START + 1}&format=ndjson", headers=headers)
    assert [row["trade_id"] for row in table("ndjson", await part.get_data())] == ["007"]


async def test_events_are_for_admins_and_bars_for_readers(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", auth="token") as web:
        await web.market()
        asked = "/api/export/{}?symbol=GOLD&resolution=1m"
        allowed = {
            scope: [
                (await web.get(asked.format(what), headers=await web.key(scope))).status_code
                for what in ("bars", "events")
            ]
            for scope in ("ingest", "read", "admin")
        }
        assert allowed == {"ingest": [403, 403], "read": [200, 403], "admin": [200, 200]}
        assert (await web.get(asked.format("bars"))).status_code == 401


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ("symbol=GLOD&resolution=1m", 404, "symbol: no market named 'GLOD'"),
        ("symbol=GOLD&resolution=7x", 400, "resolution: unknown timeframe '7x'"),
        ("symbol=GOLD&resolution=1m&format=xls", 400, "format: expected csv, parquet, arrow, ndjson, got 'xls'"),
        ("symbol=GOLD&resolution=1m&from=noon", 400, "from: expected ISO 8601 with a zone"),
        ("symbol=GOLD&resolution=1m&to=2024-05-01T12:00:00", 400, "to: expected ISO 8601 with a zone"),
        ("resolution=1m", 400, "symbol: needed"),
    ],
)
async def test_what_is_wrong_is_said_before_anything_is_sent(web: Web, query: str, status: int, said: str) -> None:
    found = await web.get(f"/api/export/bars?{query}")
    assert found.status_code == status
    assert decoded(await found.get_data())["error"].startswith(said)


async def test_a_span_is_what_begins_in_it(web: Web) -> None:
    await some(web)
    for start, end in (("2026-01-04T10:00:00+01:00", "2026-01-04T09:10:00Z"), (str(START), str(START + 600))):
        query = urlencode({"symbol": "GOLD", "resolution": "1m", "format": "ndjson", "from": start, "to": end})
        rows = table("ndjson", await (await web.get(f"/api/export/bars?{query}")).get_data())
        assert [row["time"] for row in rows] == [START + 60 * n for n in range(10)]
    for span in ("from=2026-01-04&to=2026-01-05", "from=2026-01-06", "to=2026-01-04", "from=9&to=5"):
        rows = table(
            "ndjson",
            await (await web.get(f"/api/export/bars?symbol=GOLD&resolution=1D&format=ndjson&{span}")).get_data(),
        )
        assert [row["time"] for row in rows] == ([START // 86_400 * 86_400] if span.endswith("-05") else [])


@pytest.mark.parametrize("kind", ["csv", "parquet", "arrow", "ndjson"])
@pytest.mark.parametrize("coding", ["zstd", "gzip"])
async def test_a_file_is_compressed_for_whoever_takes_that_unless_it_is_already(
    web: Web, kind: str, coding: str
) -> None:
    await some(web)
    path = f"/api/export/bars?symbol=GOLD&resolution=1s&format={kind}"
    plain = await (await web.get(path)).get_data()
    found = await web.get(path, headers={"Accept-Encoding": coding})
    data = await found.get_data()
    assert isinstance(data, bytes)
    assert found.headers.get("Content-Encoding") == (None if kind == "parquet" else coding)
    if kind != "parquet":
        assert len(data) < len(plain) / 2
        unpack = gzip.decompress if coding == "gzip" else zstandard.ZstdDecompressor().decompressobj().decompress
        data = unpack(data)
    assert table(kind, data) == table(kind, plain)


async def test_a_market_without_anything_is_an_empty_file(web: Web) -> None:
    found = await web.get("/api/export/bars?symbol=GOLD&resolution=1m")
    assert (await found.get_data(as_text=True)).startswith("time,open,high,low,close,volume,trades_count,vwap,")
    for kind in ("parquet", "arrow", "ndjson"):
        found = await web.get(f"/api/export/bars?symbol=GOLD&resolution=1m&format={kind}")
        assert table(kind, await found.get_data()) == []


# --- over a real connection


class Peer:
    """A client that reads when it is told to."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.seen = bytearray()

    async def ask(self, path: str, headers: dict[str, str]) -> None:
        lines = [f"GET {path} HTTP/1.1", "Host: localhost", *(f"{name}: {value}" for name, value in headers.items())]
        await self.stream.send_all("\r\n".join([*lines, "", ""]).encode())

    async def read(self) -> bool:
        """Some more; whether there may be more yet."""
        try:
            data = await self.stream.receive_some(1 << 20)
        except trio.BrokenResourceError:
            return False
        self.seen += data
        return bool(data)

    @property
    def whole(self) -> bool:
        """Whether the chunks have come to their end."""
        return self.seen.endswith(b"\r\n0\r\n\r\n")


@asynccontextmanager
async def listening(web: Web) -> AsyncIterator[Callable[..., Awaitable[Peer]]]:
    stop = trio.Event()
    peers: list[Peer] = []
    async with trio.open_nursery() as nursery:

        async def started(task_status: trio.TaskStatus[tuple[str, int]]) -> None:
            await listen(
                web.app,
                {},
                host="127.0.0.1",
                port=0,
                hub=web.stack.hub,
                until=stop.wait,
                drain_seconds=1,
                task_status=task_status,
            )

        _, port = await nursery.start(started)

        async def asking(path: str, *, buffer: int = 0, **headers: str) -> Peer:
            raw = trio.socket.socket()
            if buffer:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            await raw.connect(("127.0.0.1", port))
            peers.append(Peer(trio.SocketStream(raw)))
            await peers[-1].ask(path, headers)
            return peers[-1]

        yield asking
        for peer in peers:
            await peer.stream.aclose()
        stop.set()


@pytest.fixture
async def long(web: Web) -> Web:
    """An app with a market of more events than any socket buffers."""
    times = START * 1_000_000 + 20_000 * np.arange(400_000)
    columns = {
        "market_symbol": pa.array(["GOLD"] * len(times)),
        "timestamp": pa.array(times, pa.timestamp("us", "UTC")),
        "price": pa.array(100 + times % 977 / 7),
        "size": pa.array(times % 13 / 10 + 1),
        "user_address": pa.array([f"0x{n:040x}" for n in range(len(times))]),
    }
    sink = pa.BufferOutputStream()
    rows = pa.RecordBatch.from_pydict(columns)
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_batch(rows)
    await web.stack.intake.submit(sink.getvalue().to_pybytes(), "application/vnd.apache.arrow.stream")
    return web


EVENTS = "/api/export/events?symbol=GOLD&format=csv"


async def test_a_long_export_comes_whole_over_a_connection_that_goes_on(long: Web) -> None:
    key = await long.key("admin")
    async with listening(long) as asking:
        peer = await asking(EVENTS, **key)
        while not peer.whole:
            assert await peer.read()
        assert peer.seen.count(b"GOLD,2026-") == 400_000
        peer.seen.clear()
        await peer.ask("/healthz", {})
        assert await peer.read()
        assert peer.seen.startswith(b"HTTP/1.1 200")
    assert exports(long).count == 0


async def test_who_stops_reading_hurts_nobody_and_is_given_up(long: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "HTTP_STALLED_SECONDS", 1.0)
    key = await long.key("admin")
    async with listening(long) as asking:
        stalled = await asking(EVENTS, buffer=4096, **key)
        await stalled.read()
        assert exports(long).count == 1
        # Another one comes whole meanwhile, and so do bars of what is taken in meanwhile.
        other = await asking(EVENTS, **key)
        while not other.whole:
            assert await other.read()
        await long.trades((START + 50_000, 77))
        bars = await asking(f"/api/export/bars?symbol=GOLD&resolution=1s&from={START + 50_000}")
        while not bars.whole:
            assert await bars.read()
        assert f"\n{START + 50_000},77,77,77,77,".encode() in bars.seen
        await until(lambda: not exports(long).count)
        while await stalled.read():
            pass
        assert not stalled.whole


async def test_who_leaves_leaves_no_work_behind(long: Web) -> None:
    key = await long.key("admin")
    async with listening(long) as asking:
        await trio.testing.wait_all_tasks_blocked()  # also the listener's own
        tasks = trio.lowlevel.current_statistics().tasks_living
        for coding in ("identity", "zstd"):
            peer = await asking(EVENTS, buffer=4096, **key, **{"Accept-Encoding": coding})
            await peer.read()
            assert exports(long).count == 1
            await peer.stream.aclose()
            await until(lambda: not exports(long).count and trio.lowlevel.current_statistics().tasks_living <= tasks)


async def test_what_cannot_be_whole_is_cut(long: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "EVENTS", 10_000)
    key = await long.key("admin")
    between, calls = listing.between, 0

    def failing(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 3:
            raise Unavailable("sealed events: a file of them is gone")
        return between(*arguments)

    monkeypatch.setattr(listing, "between", failing)
    async with listening(long) as asking:
        peer = await asking(EVENTS, **key)
        while await peer.read():
            pass
        assert peer.seen.startswith(b"HTTP/1.1 200")
        assert not peer.whole
        assert exports(long).count == 0
        # Where it fails before anything was sent, that has a status.
        peer = await asking(EVENTS, **key)
        while b"gone" not in peer.seen:
            assert await peer.read()
        assert peer.seen.startswith(b"HTTP/1.1 503")
        assert exports(long).count == 0


async def test_only_so_many_are_under_way_at_a_time(long: Web) -> None:
    key = await long.key("admin")
    async with listening(long) as asking:
        peers = [await asking(EVENTS, buffer=4096, **key) for _ in range(AT_ONCE)]
        for peer in peers:
            await peer.read()
        refused = await long.get(EVENTS, headers=key)
        assert refused.status_code == 503
        assert refused.headers["Retry-After"] == "5"
        assert "4 exports are under way" in decoded(await refused.get_data())["error"]
        head = await long.ask("HEAD", "/api/export/bars?symbol=GOLD&resolution=1m")
        assert head.status_code == 503
        await peers[0].stream.aclose()
        await until(lambda: exports(long).count < AT_ONCE)
        again = await long.ask("HEAD", "/api/export/bars?symbol=GOLD&resolution=1m")
        assert again.status_code == 200
        assert exports(long).count == AT_ONCE - 1


async def until(true: Callable[[], bool]) -> None:
    with trio.fail_after(60):
        while not true():  # noqa: ASYNC110 - counts tell nobody when they change
            await trio.sleep(0.02)


def exports(some: Web) -> Exports:
    found = some.app.extensions[EXTENSION]
    assert isinstance(found, Exports)
    return found
