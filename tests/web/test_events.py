"""Bars as server-sent events, over real connections."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from storage import keys
from tests.web.conftest import NOW
from tests.web.streaming import streaming
from tests.web.test_stream import until
from tests.ws_client import Chart
from web import events as web_events
from web.pending import CHUNK

PATH = "/api/stream?symbol=GOLD&resolution=1"


class Reader:
    """An EventSource: reads events, and remembers the last id."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.head = ""
        self.id: str | None = None
        self._data = b""

    async def begin(self) -> None:
        while b"\r\n\r\n" not in self._data:
            self._data += await self._more()
        head, _, self._data = self._data.partition(b"\r\n\r\n")
        self.head = head.decode().lower()
        self._plain = bytearray()

    async def _more(self) -> bytes:
        more = bytes(await self.stream.receive_some())
        if not more:
            raise EOFError
        return more

    async def next(self, seconds: float = 5) -> dict[str, Any]:
        """The data of the next event; EOFError at the end of the answer."""
        with trio.fail_after(seconds):
            while b"\n\n" not in self._plain:
                await self._chunk()
        event, _, rest = bytes(self._plain).partition(b"\n\n")
        self._plain = bytearray(rest)
        fields = dict(line.split(": ", 1) for line in event.decode().split("\n"))
        self.id = fields.get("id", self.id)
        found: dict[str, Any] = msgspec.json.decode(fields["data"])
        return found

    async def _chunk(self) -> None:
        while b"\r\n" not in self._data:
            self._data += await self._more()
        size, _, rest = self._data.partition(b"\r\n")
        count = int(size, 16)
        while len(rest) < count + 2:
            rest += await self._more()
        if not count:
            raise EOFError
        self._plain += rest[:count]
        self._data = rest[count + 2 :]


@asynccontextmanager
async def reading(port: int, path: str = PATH, *headers: str) -> AsyncIterator[Reader]:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        head = "\r\n".join([f"GET {path} HTTP/1.1", "Host: here", "Accept-Encoding: gzip", *headers])
        await stream.send_all(head.encode() + b"\r\n\r\n")
        reader = Reader(stream)
        with trio.fail_after(10):
            await reader.begin()
        yield reader


async def to_the_end(reader: Reader) -> None:
    """Read until there is nothing more to come."""
    with suppress(EOFError):
        while True:
            await reader.next()


async def test_bars_come_as_events_whose_ids_are_cursors(tmp_path: Path) -> None:
    async with streaming(tmp_path) as served:
        await served.web.trades((NOW - 120, 1), (NOW - 60, 2))
        async with reading(served.port) as reader:
            assert " 200 " in reader.head.split("\r\n")[0]
            assert "content-type: text/event-stream" in reader.head
            assert "cache-control: no-store" in reader.head
            assert "access-control-allow-origin: *" in reader.head
            assert "content-encoding" not in reader.head
            chart = Chart()
            chart.take(await reader.next())
            assert reader.id is None, "nobody stands anywhere before there are bars"
            chart.take(await reader.next())
            assert [bar["close"] for bar in chart.bars.values()] == [1, 2]
            cursor = await served.web.trades((NOW - 1, 3))
            chart.take(await reader.next())
            assert chart.bars[NOW // 60 * 60 - 60]["close"] == 3
            assert reader.id == cursor
            assert served.stack.hub.statistics().connections == 1
        await until(lambda: served.stack.hub.statistics().subscriptions == 0)
        assert served.stack.hub.statistics().connections == 0


@pytest.mark.parametrize("way", ["header", "query", "rest"])
async def test_whoever_comes_back_goes_on_from_the_last_event(tmp_path: Path, way: str) -> None:
    async with streaming(tmp_path) as served:
        await served.web.trades((NOW - 120, 1), (NOW - 60, 2))
        chart = Chart()
        async with reading(served.port) as reader:
            for _ in range(2):
                chart.take(await reader.next())
        await served.web.trades((NOW - 119, 5), (NOW - 1, 3))
        last = reader.id
        if way == "rest":  # what a page read before it connects
            history = await served.web.get(f"/api/tradingview/history?symbol=GOLD&resolution=1&from=0&to={NOW + 60}")
            last = history.headers["X-Cursor"]
            await served.web.trades((NOW - 1, 4))
        path, headers = (PATH, [f"Last-Event-ID: {last}"]) if way != "query" else (f"{PATH}&since={last}", [])
        async with reading(served.port, path, *headers) as reader:
            answer = await reader.next()
            assert answer["recovered"]
            assert reader.id is None
            while (message := await reader.next())["seq"] < answer["seq"]:
                assert message["type"] == "bar"
                if way != "rest":
                    chart.take(message)
            if way != "rest":
                chart.take(message)
                assert [bar["close"] for bar in chart.bars.values()] == [5, 3]
            else:
                assert message["data"]["close"] == 4


@pytest.mark.parametrize("last", ["k3.", "nonsense", "other.5", "9" * 30, "epoch.-1"])
async def test_a_position_that_nobody_knows_gets_a_snapshot(tmp_path: Path, last: str) -> None:
    async with streaming(tmp_path) as served, reading(served.port, PATH, f"Last-Event-ID: {last}") as reader:
        assert not (await reader.next())["recovered"]
        assert (await reader.next())["type"] == "snapshot"


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("symbol=GLOD&resolution=1", 404),
        ("symbol=GOLD&resolution=1m", 400),
        ("symbol=GOLD", 400),
        ("symbol=GOLD&resolution=1&snapshot_bars=5001", 400),
    ],
)
async def test_what_cannot_be_followed_is_an_ordinary_error(tmp_path: Path, query: str, status: int) -> None:
    async with streaming(tmp_path) as served:
        answer = await served.web.get(f"/api/stream?{query}")
        assert answer.status_code == status
        assert served.stack.hub.statistics().connections == 0
        assert not served.stack.hub.endings


async def test_a_stop_ends_the_answers_and_waits_for_none(tmp_path: Path) -> None:
    async with streaming(tmp_path) as served:
        await served.web.trades(*((NOW - 60 * n, 1.0) for n in range(3000, 0, -1)))
        stalled = await trio.to_thread.run_sync(a_reader_that_reads_nothing, served.port)
        async with reading(served.port) as reader:
            await reader.next()
            await until(lambda: served.stack.hub.statistics().subscriptions == 2)
            began = trio.current_time()
            served.stop()
            await to_the_end(reader)
            await served.ended.wait()
            assert trio.current_time() - began < web_events.LAST_WORDS + 1
        stalled.close()


async def test_a_reader_that_takes_nothing_holds_little_delays_nobody_and_comes_back_with_a_snapshot(
    tmp_path: Path,
) -> None:
    async with streaming(tmp_path, pending_frames=400) as served:
        times = [NOW - 60 * n for n in range(300, 0, -1)]
        await served.web.trades(*((time, 1) for time in times))
        stalled = await trio.to_thread.run_sync(a_reader_that_reads_nothing, served.port)
        await until(lambda: served.stack.hub.statistics().subscriptions == 1)
        (following,) = served.stack.hub.endings
        rounds = 0
        async with reading(served.port, "/api/stream?symbol=GOLD&resolution=1W") as reader:
            chart = Chart(resolution="1W")
            for _ in range(2):
                chart.take(await reader.next())
            letters = following.__self__  # type: ignore[attr-defined] # a bound method
            while not served.stack.hub.statistics().lagged:
                rounds += 1
                assert rounds < 60, "the kernel took all of it"
                # More bars than wait for one reader, in two rounds.
                for some in (times, [time - 60 * len(times) for time in times]):
                    await served.web.trades(*((time, 1 + rounds) for time in some))
                    chart.take(await reader.next())
            assert letters.pending < 2 * CHUNK
        async with trio.SocketStream(trio.socket.from_stdlib_socket(stalled)) as stream:
            again = Reader(stream)
            await again.begin()
            while (message := await again.next()).get("reason") != "lagged":
                pass
        assert {bar["close"] for bar in message["data"]} == {1 + rounds}


def a_reader_that_reads_nothing(port: int) -> socket.socket:
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    peer.connect(("127.0.0.1", port))
    peer.sendall(f"GET {PATH}&snapshot_bars=3000 HTTP/1.1\r\nHost: here\r\n\r\n".encode())
    return peer


async def test_one_connection_too_many_is_told_to_come_again(tmp_path: Path) -> None:
    async with streaming(tmp_path, connections=1) as served, reading(served.port) as reader:
        await reader.next()
        answer = await served.web.get(PATH)
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) > 0
        async with served.connect() as client:
            assert await client.ending() == 1013


async def test_a_key_that_is_revoked_ends_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_events, "REVOKED_SECONDS", 0.05)
    async with streaming(tmp_path, auth="token") as served:
        assert (await served.web.get(PATH)).status_code == 401
        key = await served.web.key("read")
        async with reading(served.port, PATH, f"Authorization: {key['Authorization']}") as reader:
            await reader.next()
            await reader.next()
            await served.stack.door.run(keys.revoke, served.stack.state, 1)
            await to_the_end(reader)
