"""The real process from outside: events in over HTTP, bars out over HTTP and `/ws`; stopped, killed, started again."""

import gzip
import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from itertools import chain, combinations
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa
import trio
import zstandard
from trio_websocket import ConnectionClosed

from tests.daemons import BIN, ENDS_WITHIN, Daemon, environment, free_port, running
from tests.ws_client import Chart, Client, Message, a_stalled_reader, connected

JSON, NDJSON, ARROW = "application/json", "application/x-ndjson", "application/vnd.apache.arrow.stream"
SPANS = {"1S": 1, "1": 60, "5": 300, "60": 3600, "1D": 86_400}  # seconds of each resolution
MONDAY = 1_767_571_200  # 2026-01-05 00:00 UTC
END_OF_TIME = 253_402_300_000
KILLS, STARTS_KILLED = 6, (1, 4)  # the latter: between two of them, once more while it starts
OFTEN = {"CANDLED_FLUSH_SECONDS": "0.2", "RATE_LIMIT_REQUESTS": "0"}

Five = tuple[float, float, float, float, float]  # open, high, low, close, volume


class Event(NamedTuple):
    """A trade of size 1."""

    symbol: str
    at: int  # µs
    price: float
    number: int | None  # its identity

    @property
    def wire(self) -> Message:
        named = {} if self.number is None else {"trade_id": self.number}
        return {"market_symbol": self.symbol, "timestamp": self.at / 1000, "price": self.price, "size": 1, **named}


def trade(second: float, price: float, number: int, symbol: str = "GOLD") -> Event:
    """A trade at that second of the Monday."""
    return Event(symbol, int((MONDAY + second) * 1_000_000), price, number)


def folded(events: Iterable[Event], span: int) -> dict[int, Five]:
    """The bars of a clean, sorted log, by the slow and obvious way."""
    bars: dict[int, Five] = {}
    for event in sorted(events, key=lambda event: (event.at, -1 if event.number is None else event.number)):
        start = event.at // 1_000_000 // span * span
        open_, high, low, _, volume = bars.get(start, (event.price, event.price, event.price, 0.0, 0.0))
        bars[start] = (open_, max(high, event.price), min(low, event.price), event.price, volume + 1)
    return bars


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]  # by lower-case name
    body: Any


class Http:
    """One connection that is kept."""

    def __init__(self, port: int, key: str = "") -> None:
        self._connection = HTTPConnection("127.0.0.1", port, timeout=30)
        self._key = key

    def close(self) -> None:
        self._connection.close()

    async def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self._key:
            sent["Authorization"] = f"Bearer {self._key}"

        def asked() -> Answer:
            self._connection.request(method, path, body, sent)
            with self._connection.getresponse() as response:
                received = {name.lower(): value for name, value in response.getheaders()}
                return Answer(response.status, received, msgspec.json.decode(response.read()))

        return await trio.to_thread.run_sync(asked)

    async def post(self, events: Iterable[Event], **headers: str) -> Answer:
        """Send trades as JSON."""
        return await self.ask("POST", "/api/ingest/events", as_json(events), Content_Type=JSON, **headers)

    async def say(self, *events: Event, removed: bool = False) -> int:
        """Have trades taken, or taken back, all of them; the seq of their batch."""
        body = msgspec.json.encode([{**event.wire, "removed": removed} for event in events])
        answer = await self.ask("POST", "/api/ingest/events", body, Content_Type=JSON)
        assert answer.status == 200, answer
        assert answer.body["rejected_count"] == 0, answer
        return seq_of(answer.body["cursor"])

    async def history(self, symbol: str, resolution: str) -> tuple[dict[int, Five], str]:
        """All bars by their time, and the cursor."""
        path = f"/api/tradingview/history?symbol={symbol}&resolution={resolution}&from=0&to={END_OF_TIME}"
        answer = await self.ask("GET", path)
        assert answer.status == 200, answer
        body = answer.body
        if body == {"s": "no_data"}:
            return {}, answer.headers["x-cursor"]
        assert body["s"] == "ok", body
        assert body["t"] == sorted(set(body["t"])), "times ascend"
        bars = zip(body["o"], body["h"], body["l"], body["c"], body["v"], strict=True)
        return dict(zip(body["t"], bars, strict=True)), answer.headers["x-cursor"]


def seq_of(cursor: str) -> int:
    return int(cursor.rpartition(".")[2])


@contextmanager
def talking(daemon: Daemon, key: str = "") -> Iterator[Http]:
    with closing(Http(daemon.port, key)) as http:
        yield http


async def command(home: Path, *argv: str) -> subprocess.CompletedProcess[bytes]:
    """`candled ARGV`, to its end."""
    with trio.fail_after(30):
        return await trio.run_process(
            [BIN / "candled", *argv],
            env=environment(home),
            cwd=home,
            check=False,
            capture_stdout=True,
            capture_stderr=True,
        )


async def printed(home: Path, *argv: str) -> bytes:
    done = await command(home, *argv)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def a_key(home: Path, scope: str) -> str:
    return (await printed(home, "token", "create", "--scope", scope)).decode().strip()


async def markets(daemon: Daemon, key: str, *symbols: str, kind: str = "spot") -> None:
    with talking(daemon, key) as http:
        for symbol in symbols or ("GOLD",):
            body = msgspec.json.encode({"market_symbol": symbol, "kind": kind})
            answer = await http.ask("POST", "/api/markets", body, Content_Type=JSON)
            assert answer.status == 201, answer


def shown(chart: Chart) -> dict[int, Five]:
    """The chart's bars as history has them."""
    return {
        time: (bar["open"], bar["high"], bar["low"], bar["close"], bar["volume"]) for time, bar in chart.bars.items()
    }


async def catch_up(client: Client, charts: Iterable[Chart], seq: int) -> None:
    """Apply what comes to whom it is for, until all charts stand at `seq`."""
    by_name = {chart.resolution: chart for chart in charts}
    while any(chart.seq < seq for chart in by_name.values()):
        heard = await client.hear()
        by_name[heard["resolution"]].take(heard)


async def subscribed(client: Client, *charts: Chart) -> None:
    """Follow several streams on one connection, each from where its chart stands."""
    for chart in charts:
        resume = {"resume": chart.resume} if chart.resume else {}
        stream = {"channel": "bars", "symbol": chart.symbol, "resolution": chart.resolution}
        await client.say(action="subscribe", **stream, **resume, snapshot_bars=5000)
    by_name = {chart.resolution: chart for chart in charts}
    standing: dict[Chart, int] = {}
    while len(standing) < len(charts) or any(chart.seq < seq for chart, seq in standing.items()):
        heard = await client.hear()
        chart = by_name[heard["resolution"]]
        chart.take(heard)
        if heard["type"] == "subscribed":
            standing[chart] = heard["seq"]


def logged(daemon: Daemon) -> list[Message]:
    """The lines of its log, and nothing else may be there."""
    return [msgspec.json.decode(line) for line in daemon.log.read_bytes().splitlines()]


def arrow(events: Iterable[Event]) -> bytes:
    rows = [{**event.wire, "timestamp": event.at} for event in events]
    table = pa.Table.from_pylist(rows)
    table = table.set_column(1, "timestamp", table["timestamp"].cast(pa.timestamp("us")))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def as_json(events: Iterable[Event]) -> bytes:
    return msgspec.json.encode([event.wire for event in events])


def as_lines(events: Iterable[Event]) -> bytes:
    return b"".join(msgspec.json.encode(event.wire) + b"\n" for event in events)


ENCODINGS: list[tuple[str, Callable[[Iterable[Event]], bytes], str, Callable[[bytes], bytes]]] = [
    (JSON, as_json, "", bytes),
    (JSON, as_json, "gzip", gzip.compress),
    (NDJSON, as_lines, "", bytes),
    (NDJSON, as_lines, "zstd", zstandard.compress),
    (ARROW, arrow, "", bytes),
    (ARROW, arrow, "gzip", gzip.compress),
    (ARROW, arrow, "zstd", zstandard.compress),
]


async def test_events_in_every_encoding_show_in_history_and_on_a_socket_at_every_resolution(tmp_path: Path) -> None:
    chance = Random(1)
    async with running("serve", home=tmp_path, variables=OFTEN) as daemon:
        key = await a_key(tmp_path, "admin")
        await markets(daemon, key, kind="perp")
        charts = [Chart("GOLD", resolution) for resolution in SPANS]
        events: list[Event] = []
        async with connected(daemon.port) as client:
            with talking(daemon, key) as http:
                await subscribed(client, *charts)
                for number, (kind, encode, packing, pack) in enumerate(ENCODINGS):
                    # Each batch reaches over hours that others reach over too, and shares instants with itself.
                    batch = [
                        trade(chance.randrange(90_000), 2000 + chance.randrange(400) / 4, number * 100 + n)
                        for n in range(50)
                    ]
                    packed = {"Content_Encoding": packing} if packing else {}
                    body = pack(encode(batch))
                    answer = await http.ask("POST", "/api/ingest/events", body, Content_Type=kind, **packed)
                    assert answer.status == 200, (kind, packing, answer)
                    assert answer.body["accepted"] == len(batch), (kind, packing, answer)
                    events += batch
                    await catch_up(client, charts, seq_of(answer.body["cursor"]))
                for chart in charts:
                    bars, cursor = await http.history("GOLD", chart.resolution)
                    assert bars == folded(events, SPANS[chart.resolution]), chart.resolution
                    assert shown(chart) == bars, chart.resolution
                    assert (chart.epoch, chart.seq) == (cursor.partition(".")[0], seq_of(cursor))
                    assert len(chart.snapshots) == 1, "all the rest came as frames"


async def test_corrections_retractions_and_late_events_say_what_became_of_which_bar(tmp_path: Path) -> None:
    async with running("serve", home=tmp_path, variables=OFTEN) as daemon:
        key = await a_key(tmp_path, "admin")
        await markets(daemon, key)
        chart = Chart("GOLD", "1")
        async with connected(daemon.port) as client:
            with talking(daemon, key) as http:
                await http.say(trade(0, 10, 1), trade(1, 11, 2), trade(120, 12, 3), trade(240, 13, 4))
                await subscribed(client, chart)

                async def told(seq: int) -> list[str]:
                    """What the socket said that this batch did."""
                    chart.ops.clear()
                    await catch_up(client, [chart], seq)
                    return list(chart.ops)

                corrected, late, newest = trade(0, 10.5, 1), trade(60, 9, 5), trade(300, 14, 6)
                assert await told(await http.say(corrected)) == ["amend"]
                assert await told(await http.say(late)) == ["insert"]
                assert await told(await http.say(trade(120, 12, 3), removed=True)) == ["delete"]
                assert await told(await http.say(newest)) == ["upsert"]
                # To another minute: where it was has another event, where it goes has none.
                moved = trade(150, 11.5, 2)
                assert sorted(await told(await http.say(moved))) == ["amend", "insert"]
                events = [corrected, late, trade(240, 13, 4), newest, moved]
                for resolution, span in SPANS.items():
                    bars, _ = await http.history("GOLD", resolution)
                    assert bars == folded(events, span), resolution
                assert shown(chart) == folded(events, 60)
                assert len(chart.snapshots) == 1


async def test_a_stop_says_goodbye_in_time_past_stalled_readers_and_the_next_start_goes_on(tmp_path: Path) -> None:
    events = [trade(minute * 60, 2000 + minute % 7, minute) for minute in range(3000)]
    chart, other = Chart("GOLD", "1"), Chart("GOLD", "1S")
    async with running("serve", home=tmp_path, variables=OFTEN) as daemon:
        key = await a_key(tmp_path, "admin")
        await markets(daemon, key)
        with talking(daemon, key) as http, ExitStack() as stack:
            await http.say(*events)
            stalled = [await a_stalled_watcher(daemon.port), await a_stalled_download(daemon.port)]
            for peer in stalled:
                stack.enter_context(closing(peer))
            async with connected(daemon.port) as client:
                await subscribed(client, chart, other)
                events.append(trade(3000 * 60, 1, 3000))
                await catch_up(client, [chart, other], await http.say(events[-1]))
                _, cursor = await http.history("GOLD", "1")
                events.append(trade(3000 * 60 + 1, 2, 3001))
                await http.say(events[-1])
                daemon.process.send_signal(signal.SIGTERM)
                with trio.fail_after(ENDS_WITHIN):
                    assert await client.ending() == 1001
                    assert await daemon.process.wait() == 0
            for peer in stalled:
                assert await trio.to_thread.run_sync(taken, peer) < 1 << 20, "it was in the way"
        assert [line["message"] for line in logged(daemon)][-1] == "stopped"
        said = [line["message"] for line in logged(daemon) if line["level"] != "info"]
        assert said == ["there is no admin key yet"]  # there was none when it started

    async with running("serve", home=tmp_path, variables=OFTEN) as daemon:
        opened = next(line for line in logged(daemon) if line["message"] == "opened")
        assert opened["recovered"] == 0, "what was drained needs no recovery"
        with talking(daemon, key) as http:
            for resolution in ("1S", "1", "1D"):
                bars, _ = await http.history("GOLD", resolution)
                assert bars == folded(events, SPANS[resolution])
            # Somebody who read history before the stop, and now begins to listen.
            begun = Chart("GOLD", "1")
            begun.epoch, begun.seq = cursor.partition(".")[0], seq_of(cursor)
            before = folded(events[:-1], 60)
            names = ("open", "high", "low", "close", "volume")
            begun.bars = {time: dict(zip(names, bar, strict=True)) for time, bar in before.items()}
            async with connected(daemon.port) as client, connected(daemon.port) as another:
                await subscribed(client, chart, other)
                await subscribed(another, begun)
                assert [*chart.recovered, *other.recovered] == [False, True, False, True]
                assert begun.recovered == [True]
                events.append(trade(3001 * 60, 3, 3002))
                seq = await http.say(events[-1])
                await catch_up(client, [chart, other], seq)
                await catch_up(another, [begun], seq)
            assert shown(chart) == shown(begun) == folded(events, 60)
            assert shown(other) == folded(events, 1)
            assert (len(chart.snapshots), len(other.snapshots), len(begun.snapshots)) == (1, 1, 0)


async def a_stalled_watcher(port: int) -> socket.socket:
    """A connection that is due fifty snapshots, each of some hundred KiB, and reads nothing."""
    wanted = {"action": "subscribe", "channel": "bars", "symbol": "GOLD", "snapshot_bars": 3000}
    return await a_stalled_reader(port, *(msgspec.json.encode({**wanted, "resolution": f"{n}S"}) for n in range(1, 51)))


async def a_stalled_download(port: int) -> socket.socket:
    """A connection that asks for all of history, again and again, and reads nothing."""

    def asked() -> socket.socket:
        peer = socket.socket()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        peer.settimeout(5)
        peer.connect(("127.0.0.1", port))
        path = f"/api/tradingview/history?symbol=GOLD&resolution=1&from=0&to={END_OF_TIME}"
        peer.sendall(f"GET {path} HTTP/1.1\r\nHost: here\r\n\r\n".encode() * 60)
        return peer

    return await trio.to_thread.run_sync(asked)


def taken(stalled: socket.socket) -> int:
    """How many bytes came through to a socket that did not read, now that the other side is gone."""
    count = 0
    with suppress(ConnectionResetError):
        while data := stalled.recv(1 << 16):
            count += len(data)
    return count


async def test_ctrl_c_lets_requests_finish_and_drains_as_well(tmp_path: Path) -> None:
    async with running("serve", home=tmp_path) as daemon:
        key = await a_key(tmp_path, "admin")
        await markets(daemon, key)
        chart = Chart("GOLD", "1")
        event = trade(0, 10, 1)
        body = as_json([event])
        head = (
            f"POST /api/ingest/events HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {key}\r\n"
            f"Content-Type: {JSON}\r\nContent-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
        )
        async with connected(daemon.port) as client, await trio.open_tcp_stream("127.0.0.1", daemon.port) as request:
            await subscribed(client, chart)
            await request.send_all(head.encode())
            assert (await request.receive_some(100)).startswith(b"HTTP/1.1 100 "), "the body is being waited for"
            daemon.process.send_signal(signal.SIGINT)
            with trio.fail_after(ENDS_WITHIN):
                assert await client.ending() == 1001
                await request.send_all(body)
                answer = b"".join([data async for data in request])
                assert answer.startswith(b"HTTP/1.1 200 "), answer
                assert await daemon.process.wait() == 0
    async with running("serve", home=tmp_path) as daemon:
        with talking(daemon) as http:
            assert (await http.history("GOLD", "1"))[0] == folded([event], 60)


async def test_a_second_daemon_is_refused_in_one_line(tmp_path: Path) -> None:
    async with running("serve", home=tmp_path) as daemon:
        same = await command(tmp_path, "serve", "--port", str(free_port()))
        assert same.returncode == 1
        assert str(tmp_path / "candled") in the_line(same)
        port = await command(tmp_path, "serve", "--port", str(daemon.port), "--data", str(tmp_path / "other"))
        assert port.returncode == 1
        assert f"port {daemon.port}" in the_line(port)
        with talking(daemon) as http:
            assert (await http.ask("GET", "/readyz")).body == {"status": "ready"}, "the first one minds neither"


def the_line(done: subprocess.CompletedProcess[bytes]) -> str:
    """What a command says on standard error beside its log."""
    said = [line for line in done.stderr.decode().splitlines() if not line.startswith("{")]
    assert len(said) == 1, "\n".join(said)
    assert said[0].startswith("candled: ")
    return said[0]


async def test_commands_work_beside_the_running_daemon(tmp_path: Path) -> None:
    async with running("serve", home=tmp_path) as daemon:
        admin, key = await a_key(tmp_path, "admin"), await a_key(tmp_path, "ingest")
        await markets(daemon, admin)
        with talking(daemon, key) as http:
            answer = await http.post([trade(0, 10, 1), trade(1, 11, 2, "GLOD"), trade(2, -3, 3)])
            assert (answer.body["accepted"], answer.body["rejected_count"]) == (1, 2), answer

            report = json.loads(await printed(tmp_path, "check", "--json"))["data"]
            assert (report["in_use"], report["markets"], report["keys"], report["problems"]) == (True, 1, 2, [])
            refused = json.loads(await printed(tmp_path, "rejects", "--json"))
            assert {(one["market_symbol"], one["error"].partition(":")[0]) for one in refused} == {
                ("GLOD", "no market named 'GLOD'"),
                ("GOLD", "price"),
            }
            listed = json.loads(await printed(tmp_path, "token", "list", "--json"))
            assert [(one["id"], one["scope"], one["revoked"]) for one in listed] == [
                (1, "admin", None),
                (2, "ingest", None),
            ]
            await printed(tmp_path, "token", "revoke", "2")
            with trio.fail_after(5):
                while (await http.post([trade(0, 10, 1)])).status == 200:
                    pass  # a duplicate, while the key is still believed
            assert (await http.post([trade(3, 12, 4)])).status == 401
            bars, _ = await http.history("GOLD", "1")
            assert bars == folded([trade(0, 10, 1)], 60)
    assert json.loads(await printed(tmp_path, "check", "--json"))["data"]["in_use"] is False
    assert all(one["last_used"] for one in json.loads(await printed(tmp_path, "token", "list", "--json")))


class Request(NamedTuple):
    """Events that are acknowledged together or not at all."""

    events: list[Event]
    key: str  # protects events without identity; else empty


class Producer:
    """Sends one request after the other, as fast as they are acknowledged; sends again what may have been lost."""

    SIZES = (37, 41, 43)  # so that a sum of some of them says which

    def __init__(self, number: int, chance: Random) -> None:
        self.number, self.chance = number, chance
        self.acknowledged: list[Request] = []
        self.unanswered: Request | None = None
        self._count = 0
        self._instants: set[int] = set()

    async def run(self, http: Http, begun: trio.Event) -> None:
        """Until the connection breaks; says when it has begun to be acknowledged."""
        while True:
            self.unanswered = self.unanswered or self._made()
            try:
                answer = await self.send(http, self.unanswered)
            except (OSError, HTTPException):
                return
            assert answer["accepted"] == len(self.unanswered.events), answer
            self.settle()
            begun.set()

    async def send(self, http: Http, request: Request) -> Message:
        protected = {"Idempotency_Key": request.key} if request.key else {}
        answer = await http.post(request.events, **protected)
        assert answer.status == 200, answer
        body: Message = answer.body
        return body

    def settle(self) -> None:
        """What was unanswered is acknowledged."""
        assert self.unanswered is not None
        self.acknowledged.append(self.unanswered)
        self.unanswered = None

    def _made(self) -> Request:
        self._count += 1
        keyed = self._count % 2 == 0
        events = [self._event(keyed, n) for n in range(self.SIZES[self.number])]
        return Request(events, f"{self.number}-{self._count}" if keyed else "")

    def _event(self, keyed: bool, n: int) -> Event:
        """Something that happened in the last few seconds: the newest bars are open and touched again and again."""
        symbol = self.chance.choice(("GOLD", "TEA"))
        price = 2000 + self.chance.randrange(400) / 4
        at = (time.time_ns() // 1_000_000 - self.chance.randrange(20_000)) * 1000
        if not keyed:
            return Event(symbol, at, price, (self.number * 1_000_000 + self._count) * 100 + n)
        # Nothing but their instants orders those without identity, so no two share one.
        at += 300 * self.number + 1
        while at in self._instants:
            at += 1
        self._instants.add(at)
        return Event(symbol, at, price, None)


async def followed(
    port: int,
    chart: Chart,
    heard: trio.MemorySendChannel[None],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Keep a chart until the connection breaks; says of every message that it came, to whoever waits for one."""
    async with connected(port) as client:
        await subscribed(client, chart)
        task_status.started()
        with suppress(ConnectionClosed):
            while True:
                chart.take(await client.hear(30))
                with suppress(trio.WouldBlock):
                    heard.send_nowait(None)


async def counted(http: Http) -> int:
    return int(sum([sum(bar[4] for bar in (await http.history(s, "1D"))[0].values()) for s in ("GOLD", "TEA")]))


async def settled(http: Http, producers: list[Producer]) -> None:
    """After a start: what was in flight is in whole or not at all; sent again, it is in once."""
    before = sum(len(request.events) for producer in producers for request in producer.acknowledged)
    open_ = [producer for producer in producers if producer.unanswered]
    subsets = chain.from_iterable(combinations(open_, size) for size in range(len(open_) + 1))
    landed = await counted(http) - before
    fitting = [some for some in subsets if sum(Producer.SIZES[one.number] for one in some) == landed]
    assert len(fitting) == 1, f"{landed} events beyond the {before} acknowledged, {len(open_)} requests in flight"
    _, start = await http.history("GOLD", "1D")
    for producer in open_:
        request = producer.unanswered
        assert request is not None
        answer = await producer.send(http, request)
        if request.key:  # a repeat is given the first answer
            assert answer["accepted"] == len(request.events)
            assert (seq_of(answer["cursor"]) <= seq_of(start)) == (producer in fitting[0])
        else:
            assert answer["duplicates" if producer in fitting[0] else "accepted"] == len(request.events), answer
        producer.settle()


async def complete(http: Http, producers: list[Producer]) -> None:
    """Every bar is what all acknowledged events make; those that were open during a kill began before it."""
    events = [event for one in producers for request in one.acknowledged for event in request.events]
    for symbol in ("GOLD", "TEA"):
        own = [event for event in events if event.symbol == symbol]
        for resolution in ("1S", "1", "1D"):
            bars, _ = await http.history(symbol, resolution)
            assert sum(bar[4] for bar in bars.values()) == len(own), resolution
            assert bars == folded(own, SPANS[resolution]), resolution


async def killed_while_starting(home: Path, seconds: float) -> None:
    process = await trio.lowlevel.open_process(
        [BIN / "candled", "serve", "--port", str(free_port())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(home, **OFTEN),
    )
    await trio.sleep(seconds)
    process.kill()
    await process.wait()


async def resumed(daemon: Daemon, http: Http, chart: Chart) -> None:
    """After a start, before anything is sent again: a chart that was cut off goes on from where it was, and was shown
    nothing that the kill took back."""
    async with connected(daemon.port) as client:
        await subscribed(client, chart)
    assert shown(chart) == (await http.history("GOLD", "1"))[0]
    assert chart.recovered == [False] + [True] * (len(chart.recovered) - 1)
    assert len(chart.snapshots) == 1


async def loaded(daemon: Daemon, key: str, producer: Producer, begun: trio.Event) -> None:
    with talking(daemon, key) as http:
        await producer.run(http, begun)


async def test_what_was_acknowledged_is_counted_once_however_often_the_process_is_killed(tmp_path: Path) -> None:
    chance = Random()
    producers = [Producer(number, chance) for number in range(3)]
    chart = Chart("GOLD", "1")
    key = ""
    for kill in range(KILLS):
        async with running("serve", home=tmp_path, variables=OFTEN) as daemon:
            if not key:
                key = await a_key(tmp_path, "admin")
                await markets(daemon, key, "GOLD", "TEA")
            with talking(daemon, key) as http:
                await resumed(daemon, http, chart)
                await settled(http, producers)
                await complete(http, producers)
            begun = trio.Event()
            hears, hearing = trio.open_memory_channel[None](0)
            async with trio.open_nursery() as nursery:
                await nursery.start(followed, daemon.port, chart, hears)
                for producer in producers:
                    nursery.start_soon(loaded, daemon, key, producer, begun)
                await begun.wait()
                # Not to wait for anything: this is the instant,
                await trio.sleep(chance.uniform(0.0, 0.8))
                if kill % 2:  # or when something has just been shown, which must not have been too early
                    await hearing.receive()
                daemon.process.kill()
                await daemon.process.wait()
        if kill in STARTS_KILLED:
            await killed_while_starting(tmp_path, chance.uniform(0.3, 2.0))
    async with running("serve", home=tmp_path, variables=OFTEN) as daemon:
        with talking(daemon, key) as http:
            await resumed(daemon, http, chart)
            await settled(http, producers)
            for producer in producers:
                for request in producer.acknowledged:
                    answer = await producer.send(http, request)
                    assert answer["accepted" if request.key else "duplicates"] == len(request.events), answer
            await complete(http, producers)
            await resumed(daemon, http, chart)
