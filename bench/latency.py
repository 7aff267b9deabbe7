"""Tick to client: from an event's post to its bar on a WebSocket, the commit to the disk between them.

    python -m bench.latency [--quick]

A thousand events a second (100 posts of 10) over 100 markets, posted on time whether or not earlier posts were
answered, so that a stall costs every event that it holds up. Two WebSockets watch 50 of the markets, one at 1S, one at
1. Each event's price is its number: the first frame of its bar whose close is that number or a later one shows the
event. Every event of a watched market counts, also one that shared its frame with others.
"""

import json
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import trio
from msgspec import Struct
from trio_websocket import WebSocketConnection, open_websocket_url

from bench import harness
from bench.harness import BenchError, Connection, Figure, Noise, Options, Reference, Server, Watch, percentile
from bench.trades import NDJSON

SECONDS, QUICK_SECONDS = 30.0, 4.0
WARM_SECONDS = 3.0
LAST_SECONDS = 2.0  # how long frames may still come
EARLY = 0.0015  # before a post is due, the load stops sleeping and looks at nothing but the clock and its sockets
POSTS, EVENTS = 100, 10  # a second; in a post
MARKETS, WATCHED = 100, 50
CONNECTIONS = 16
SYMBOLS = tuple(f"TICK{number:03d}" for number in range(MARKETS))
RESOLUTIONS = {"1S": 1, "1": 60}
P50_MS, P99_MS = 5.0, 25.0

Key = tuple[str, str, int]  # symbol, resolution, time of the bar


class Bar(Struct):
    """What is read of a bar."""

    time: int
    close: float


class Frame(Struct):
    """What is read of a message of `/ws`."""

    type: str
    symbol: str = ""
    resolution: str = ""
    data: Bar | list[Bar] | None = None


class Board:
    """What was posted, and when it was first seen."""

    def __init__(self) -> None:
        self.waiting: dict[Key, deque[tuple[int, float]]] = {}
        self.seen: list[float] = []
        self.late: list[float] = []  # how far behind its plan each post began
        self.answered: list[float] = []
        self.frames = 0
        self.counting = False

    def post(self, symbol: str, second: int, number: int, at: float) -> None:
        """An event is about to be sent."""
        for resolution, size in RESOLUTIONS.items():
            key = symbol, resolution, second - second % size
            self.waiting.setdefault(key, deque()).append((number, at))

    def see(self, frame: Frame, at: float) -> None:
        """A frame has arrived."""
        if not isinstance(frame.data, Bar):
            return
        self.frames += 1
        waiting = self.waiting.get((frame.symbol, frame.resolution, frame.data.time))
        while waiting and waiting[0][0] <= frame.data.close:
            self.seen.append(at - waiting.popleft()[1])

    @property
    def missing(self) -> int:
        return sum(map(len, self.waiting.values()))


async def measure(server: Server, seconds: float) -> tuple[Board, Watch, float, float]:
    """Post and watch for so long: what was seen, who was busy, flushes inside, commits inside."""
    token, board = server.token(), Board()
    connections = [Connection(server.port, token) for _ in range(CONNECTIONS)]
    first = [
        {"market_symbol": symbol, "timestamp": "2000-01-03T00:00:00Z", "price": 1, "size": 1} for symbol in SYMBOLS
    ]
    await _post(connections[0], first, "?create=spot")
    idle = deque(connections)
    free = trio.Semaphore(CONNECTIONS)

    async def post(events: list[dict[str, Any]], planned: float) -> None:
        async with free:
            connection = idle.popleft()
            await _post(connection, events)
            idle.append(connection)
        if board.counting:
            board.answered.append(time.perf_counter() - planned)

    async def posts(until: float) -> None:
        number = turn = 0
        start = time.perf_counter()
        async with trio.open_nursery() as nursery:
            while (planned := start + turn / POSTS) < until:
                await _until(planned)
                began = time.perf_counter()
                events = []
                micros = time.time_ns() // 1000
                for i in range(EVENTS):
                    number += 1
                    symbol = SYMBOLS[number * 37 % MARKETS]
                    at = micros - EVENTS + i
                    stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(at // 10**6))}.{at % 10**6:06d}Z"
                    events.append({"market_symbol": symbol, "timestamp": stamp, "price": number, "size": 1})
                    if board.counting and symbol in watched:
                        board.post(symbol, at // 10**6, number, planned)
                if board.counting:
                    board.late.append(began - planned)
                nursery.start_soon(post, events, planned)
                turn += 1

    watched = set(SYMBOLS[:WATCHED])
    async with trio.open_nursery() as nursery:
        for resolution in RESOLUTIONS:
            await nursery.start(_follow, server.port, sorted(watched), resolution, board)
        until = time.perf_counter() + WARM_SECONDS + seconds
        async with trio.open_nursery() as posting:
            posting.start_soon(posts, until)
            await trio.sleep(WARM_SECONDS)
            before = await trio.to_thread.run_sync(server.metrics)
            used, board.counting = Watch(server.pid), True
        used.stop()
        after = await trio.to_thread.run_sync(server.metrics)
        await trio.sleep(LAST_SECONDS)
        nursery.cancel_scope.cancel()
    flushes, commits = (
        after[f"candled_{name}_seconds_count"] - before[f"candled_{name}_seconds_count"] for name in ("flush", "commit")
    )
    return board, used, flushes, commits


async def _until(planned: float) -> None:
    """Return on time: the loop's own timer is a millisecond late, which would count as candled's."""
    if (ahead := planned - time.perf_counter() - EARLY) > 0:
        await trio.sleep(ahead)
    while time.perf_counter() < planned:
        await trio.lowlevel.checkpoint()


async def _post(connection: Connection, events: Sequence[dict[str, Any]], query: str = "") -> None:
    body = b"\n".join(msgspec.json.encode(event) for event in events)
    status, answer = await connection.post(f"/api/ingest/events{query}", NDJSON, body)
    if status != 200 or json.loads(answer)["accepted"] != len(events):
        raise BenchError(f"events were answered with {status}: {answer[:300]!r}")


async def _follow(
    port: int,
    symbols: Sequence[str],
    resolution: str,
    board: Board,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    decoder = msgspec.json.Decoder(Frame)
    async with open_websocket_url(f"ws://127.0.0.1:{port}/ws") as socket:
        for symbol in symbols:
            await _subscribed(socket, symbol, resolution)
        task_status.started()
        while True:
            message = await socket.get_message()
            at = time.perf_counter()
            board.see(decoder.decode(message), at)


async def _subscribed(socket: WebSocketConnection, symbol: str, resolution: str) -> None:
    wanted = {"action": "subscribe", "channel": "bars", "symbol": symbol, "resolution": resolution, "snapshot_bars": 0}
    await socket.send_message(json.dumps(wanted))
    while True:
        frame = json.loads(await socket.get_message())
        if frame["type"] == "error":
            raise BenchError(f"{symbol} at {resolution} cannot be watched: {frame}")
        if frame["type"] == "snapshot" and frame["symbol"] == symbol:
            return


async def floor(folder: Path, seconds: float) -> list[float]:
    """The same posts through a server that only writes them to a file, waits for the disk and sends them on."""
    with trio.fail_after(20):
        while not (folder / "port").exists():  # noqa: ASYNC110 - another process makes it
            await trio.sleep(0.01)
    port = int((folder / "port").read_text())
    listening = await trio.open_tcp_stream("127.0.0.1", port)
    await listening.send_all(b"LISTEN")
    await listening.receive_some(2)
    sending = await trio.open_tcp_stream("127.0.0.1", port)
    took: list[float] = []
    planned: deque[float] = deque()

    async def listen() -> None:
        got = bytearray()
        while True:
            got += await listening.receive_some(65536)
            at = time.perf_counter()
            while len(got) >= 4 and len(got) >= 4 + (size := int.from_bytes(got[:4], "big")):
                del got[: 4 + size]
                took.append(at - planned.popleft())

    payload = msgspec.json.encode(
        [{"market_symbol": SYMBOLS[0], "timestamp": "2026-01-05T00:00:00.000000Z", "price": 1, "size": 1}] * EVENTS
    )
    message = len(payload).to_bytes(4, "big") + payload
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        start = time.perf_counter()
        for turn in range(int(seconds * POSTS)):
            await _until(start + turn / POSTS)
            planned.append(start + turn / POSTS)
            await sending.send_all(message)
        await trio.sleep(LAST_SECONDS)
        nursery.cancel_scope.cancel()
    return took


def _floor(options: Options) -> tuple[list[float], float]:
    """Latencies of the floor, and what others used meanwhile."""
    seconds, noise = options.seconds(SECONDS, QUICK_SECONDS) / 2, Noise()
    with (
        harness.data_folder(options) as folder,
        harness.beside("bench.references", "echo", folder, "--seconds", seconds + 30),
    ):
        took = trio.run(floor, folder, seconds)
    return took, noise.others()


def figures(options: Options) -> list[Figure]:
    """p50 and p99, beside the floor."""
    echoed, others = _floor(options)
    floors = [took * 1e3 for took in echoed]
    with harness.data_folder(options) as folder, harness.serving(folder / "data") as server:
        seconds = options.seconds(SECONDS, QUICK_SECONDS)
        board, used, flushes, commits = trio.run(measure, server, seconds)
    if not board.seen:
        raise BenchError("no event was seen by the client")
    seen = [took * 1e3 for took in board.seen]
    problems = []
    if board.missing:
        problems.append(f"{board.missing} events of {len(seen) + board.missing} were never seen")
    if flushes < options.count(5, 1):
        problems.append(f"only {flushes:.0f} flushes inside")
    late, answered = ([took * 1e3 for took in some] for some in (board.late, board.answered))
    notes = {
        "events seen": f"{len(seen):,} (each at both resolutions) in {board.frames:,} frames; max {max(seen):.1f} ms",
        "post to its answer": f"p50 {percentile(answered, 50):.2f} ms, p99 {percentile(answered, 99):.2f} ms",
        "inside": f"{flushes:.0f} flushes, {commits:.0f} commits",
        "posts behind their plan": f"p50 {percentile(late, 50):.2f} ms, p99 {percentile(late, 99):.2f} ms (counted in)",
        "floor": f"p50 {percentile(floors, 50):.2f} ms, p99 {percentile(floors, 99):.2f} ms, max {max(floors):.1f} ms",
        **used.notes(),
    }
    name = "trio echo + fdatasync"
    return [
        Figure(
            what=f"tick to client, 1,000 events/s, p{share}",
            value=percentile(seen, share),
            unit="ms",
            target=target,
            lower=True,
            references=[Reference(name, percentile(floors, share), others)],
            notes=notes if share == 50 else {},
            problem="; ".join(problems),
            others=used.others,
        )
        for share, target in ((50, P50_MS), (99, P99_MS))
    ]


def main() -> None:
    """Print these figures."""
    parser = harness.parser(__doc__)
    arguments = parser.parse_args()
    options = harness.options(parser, arguments)
    harness.report(figures(options), options, to=arguments.json)


if __name__ == "__main__":
    main()
