"""Fan-out: bars to very many WebSockets, through the whole of candled, beside FastAPI and Redis.

    python -m bench.fanout [--quick]

Ten markets are followed at one second. Updates go in over `/api/ingest/stream` or HTTP, in order and on time; each is a
bar of its own, so that nothing conflates, and its price is its number. candled has one core, all of its load the other.
In the end every subscriber must have been told of every update, and the last one last.
"""

import http.client
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median

from bench import audience, harness
from bench.audience import Audience, Heard
from bench.harness import LOAD_CORE, SERVER_CORE, BenchError, Figure, Options, Reference, Server, Watch
from bench.hot import _await

TOPICS = 10
WARM_SECONDS = 1.0
LATE_MS = 100.0  # beyond, a delivered frame counts for nothing
CEILINGS = (200_000, 400_000, 600_000, 800_000, 1_000_000)  # frames a second that are asked for
LOW = (50_000, 100_000, 200_000, 400_000)  # the same of the reference
BEAT = 0.01  # seconds between two batches, where they are that many
IDLE = 2_000  # connections whose memory is measured


def symbol(n: int) -> str:
    return f"TOPIC{n % TOPICS}"


class Feeder:
    """Sends updates on time, all topics in turn, and remembers when each was sent."""

    def __init__(self, send: Callable[[Sequence[tuple[int, int]]], None], rate: float) -> None:
        """`send` takes (number, topic) pairs; `rate`: updates a second over all topics."""
        self._send, self._rate = send, rate
        self._began = time.perf_counter()
        self._sent: list[float] = []

    def due(self) -> float:
        """Send what is due; when the next is."""
        now = time.perf_counter()
        wanted = int((now - self._began) * self._rate)
        if wanted > len(self._sent):
            numbers = range(len(self._sent), wanted)
            self._send([(n + 1, n % TOPICS) for n in numbers])
            self._sent += [now] * len(numbers)
        return max(now + BEAT, self._began + (len(self._sent) + 1) / self._rate)

    def at(self, number: int) -> float:
        """When an update was sent."""
        return self._sent[number - 1] if 0 < number <= len(self._sent) else time.perf_counter()

    @property
    def count(self) -> int:
        return len(self._sent)


class Candled:
    """A running daemon with the markets, and a producer's connection."""

    name = "candled"

    def __init__(self, server: Server) -> None:
        self.port, self.pid = server.port, server.pid
        key = server.token()
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self._http = http.client.HTTPConnection("127.0.0.1", server.port)
        for n in range(TOPICS):
            self._ask("/api/markets", {"market_symbol": symbol(n), "kind": "spot"})
        self._producer = audience.opened(server.port, "/api/ingest/stream", f"Authorization: Bearer {key}")
        self._producer.setblocking(False)
        # In the past, so that there is room for a bar for every update.
        self._second = [int(time.time()) - 30 * 86400] * TOPICS

    def subscriptions(self, _: int, topics: Sequence[int]) -> list[bytes]:
        asked = {"action": "subscribe", "channel": "bars", "resolution": "1S", "snapshot_bars": 0}
        return [json.dumps({**asked, "symbol": symbol(topic)}).encode() for topic in topics]

    def _events(self, updates: Sequence[tuple[int, int]]) -> list[dict[str, object]]:
        found = []
        for number, topic in updates:
            self._second[topic] += 1
            at = self._second[topic] * 1000
            found.append({"market_symbol": symbol(topic), "timestamp": at, "price": number, "size": 1})
        return found

    def send(self, updates: Sequence[tuple[int, int]]) -> None:
        """Over the producer's connection, whose answers are read now and then."""
        self._producer.setblocking(True)
        self._producer.sendall(audience.frame(json.dumps(self._events(updates)).encode()))
        self._producer.setblocking(False)
        try:
            while self._producer.recv(65536):
                pass
        except BlockingIOError:
            pass

    def post(self, updates: Sequence[tuple[int, int]]) -> None:
        """As a request; its answer is waited for."""
        self._ask("/api/ingest/events", self._events(updates))

    def _ask(self, path: str, body: object) -> None:
        self._http.request("POST", path, json.dumps(body), self._headers)
        answer = self._http.getresponse()
        told = answer.read()
        if answer.status not in (200, 201):
            raise BenchError(f"POST {path}: {answer.status} {told[:200]!r}")


class FastApi:
    """The reference, and Redis behind it."""

    name = "FastAPI + Redis"

    def __init__(self, port: int, pid: int, store: int) -> None:
        import redis

        self.port, self.pid = port, pid
        self._redis = redis.Redis(port=store)

    def subscriptions(self, _: int, topics: Sequence[int]) -> list[bytes]:
        return [json.dumps({"action": "subscribe", "symbol": symbol(topic)}).encode() for topic in topics]

    def send(self, updates: Sequence[tuple[int, int]]) -> None:
        """One message an update, of as many bytes as candled's."""
        pipe = self._redis.pipeline(transaction=False)
        for number, topic in updates:
            bar = {"time": 1_767_571_200 + number, "open": number, "high": number, "low": number, "close": number}
            data = {**bar, "volume": 1.0, "trades": 1, "closed": True}
            head = {"type": "bar", "channel": "bars", "symbol": symbol(topic), "resolution": "1S", "epoch": "hdutpeq6"}
            message = {**head, "prev_seq": number, "seq": number, "op": "upsert", "data": data}
            pipe.publish(f"bars:{symbol(topic)}", json.dumps(message, separators=(",", ":")))
        pipe.execute()


@contextmanager
def candled(options: Options, connections: int) -> Iterator[Candled]:
    """A fresh daemon."""
    with harness.data_folder(options) as folder:
        limit = str(connections + 10)
        with harness.serving(folder / "data", stream_connections=limit) as server:
            yield Candled(server)


@contextmanager
def fastapi() -> Iterator[FastApi]:
    """A fresh reference. BenchError where it is not installed."""
    try:
        import redis  # noqa: F401
        import uvicorn  # noqa: F401
        import websockets  # noqa: F401
    except ImportError as error:
        raise BenchError(f"{error}: `make bench` installs it") from error
    if shutil.which("redis-server") is None:
        raise BenchError("no redis-server here; Debian has one (apt-get install redis-server)")
    store, port = harness.free_port(), harness.free_port()
    environment = {**os.environ, "REDIS_URL": f"redis://127.0.0.1:{store}", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "uvicorn", "bench.stream_reference:app", "--loop", "uvloop", "--http", "httptools"]
    command += ["--ws", "websockets", "--port", str(port), "--backlog", "4096", "--log-level", "warning"]
    database = ["redis-server", "--port", str(store), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    database += ["--client-output-buffer-limit", "pubsub 0 0 0"]
    with harness.on_core(LOAD_CORE):
        broker = subprocess.Popen(database, stdout=subprocess.DEVNULL)
    try:
        _await(store)
        with harness.on_core(SERVER_CORE):
            server = subprocess.Popen(command, env=environment)
        try:
            _await(port)
            yield FastApi(port, server.pid, store)
        finally:
            server.kill()
            server.wait()
    finally:
        broker.kill()
        broker.wait()


Peer = Candled | FastApi


class Run:
    """What one run came to."""

    def __init__(self, heard: Heard, watch: Watch, asked: float, problem: str) -> None:
        self.rate = heard.frames / heard.seconds
        self.p50, self.p99 = heard.percentile(50) * 1e3, heard.percentile(99) * 1e3
        self.cpu = watch.server * watch.seconds / max(1, heard.frames) * 1e6
        self.watch, self.asked, self.problem = watch, asked, problem

    @property
    def held(self) -> bool:
        """Whether all that was asked for came in time."""
        return not self.problem and self.p99 <= LATE_MS and self.rate >= 0.97 * self.asked

    def __str__(self) -> str:
        said = f"{self.rate:,.0f}/s of {self.asked:,.0f}, p50 {self.p50:.2f} ms, p99 {self.p99:.2f} ms"
        return f"{said}{', ' + self.problem if self.problem else ''}"


def run(
    peer: Peer,
    connections: int,
    rate: float,
    seconds: float,
    *,
    each: int = 1,
    send: Callable[[Sequence[tuple[int, int]]], None] | None = None,
) -> Run:
    """`rate` updates a second to `connections`, each of which follows `each` topics."""
    crowd = Audience(peer.port, connections, lambda n: peer.subscriptions(n, [(n + k) % TOPICS for k in range(each)]))
    try:
        crowd.quiet()
        feeder = Feeder(send or peer.send, rate)
        crowd.read(WARM_SECONDS, feeder.at, feeder.due)
        watch = Watch(peer.pid)
        heard = crowd.read(seconds, feeder.at, feeder.due)
        watch.stop()
        told = sum(crowd.frames.values())
        expected = feeder.count * connections * each // TOPICS
        until = time.perf_counter() + 30
        while told < expected and time.perf_counter() < until:
            crowd.read(0.1, feeder.at)
            told = sum(crowd.frames.values())
        problems = [] if told >= expected * 0.999 else [f"{expected - told:,} of {expected:,} frames never came"]
        newest = {n % TOPICS: n + 1 for n in range(max(0, feeder.count - TOPICS), feeder.count)}
        last = crowd.last()
        wrong = sum(number not in [newest[(n + k) % TOPICS] for k in range(each)] for n, number in enumerate(last))
        if wrong:
            problems.append(f"{wrong} of {connections} subscribers do not end with the last update")
        return Run(heard, watch, rate * connections * each / TOPICS, "; ".join(problems))
    finally:
        crowd.close()


def ceiling(peer: Peer, asked: Sequence[float], connections: int, seconds: float) -> tuple[Run | None, list[Run]]:
    """The fastest run that held, and all of them."""
    runs: list[Run] = []
    for frames in asked:
        runs.append(run(peer, connections, frames * TOPICS / connections, seconds))
        if not runs[-1].held:
            break
    return next((one for one in reversed(runs) if one.held), None), runs


def middle(runs: Sequence[Run]) -> Run:
    """The run with the median p99."""
    wanted = median(sorted(one.p99 for one in runs)[: len(runs) | 1])
    return min(runs, key=lambda one: abs(one.p99 - wanted))


def references(measure: Callable[[FastApi], Run | None]) -> tuple[Run | None, str]:
    """What the reference comes to, or why not."""
    try:
        with fastapi() as peer:
            return measure(peer), ""
    except BenchError as error:
        return None, str(error)


def latencies(what: str, ours: Run, theirs: Run | None, why: str, targets: tuple[float, float]) -> list[Figure]:
    """p50 and p99 of a run."""
    beside = [] if theirs is None else [(theirs.p50, theirs.p99)]
    notes = {"candled": f"{ours}; {ours.cpu:.1f} CPU s per million frames", **ours.watch.notes()}
    if theirs is not None:
        notes["FastAPI + Redis"] = f"{theirs}; {theirs.cpu:.1f} CPU s per million frames"
    if why:
        notes["reference"] = why
    return [
        Figure(
            what=f"{what}, {share}",
            value=value,
            unit="ms",
            target=target,
            lower=True,
            references=[Reference("FastAPI + Redis", some[n], 0.0) for some in beside],
            notes=notes if n == 0 else {},
            problem=ours.problem,
            others=ours.watch.others,
        )
        for n, (share, value, target) in enumerate((("p50", ours.p50, targets[0]), ("p99", ours.p99, targets[1])))
    ]


def figures(options: Options) -> list[Figure]:
    """All of them."""
    return [*throughput(options), *steady(options), *crowded(options), *through(options), *idle(options)]


def throughput(options: Options) -> list[Figure]:
    """Frames a second that come in time."""
    connections, seconds = 1000, options.seconds(8.0, 1.0)
    with candled(options, connections) as peer:
        best, runs = ceiling(peer, CEILINGS if not options.quick else CEILINGS[:1], connections, seconds)
    theirs, why = references(lambda peer: ceiling(peer, LOW if not options.quick else LOW[:1], connections, seconds)[0])
    notes = {f"asked {one.asked:,.0f}": str(one) for one in runs}
    if why:
        notes["reference"] = why
    return [
        Figure(
            what=f"frames/s with p99 <= {LATE_MS:g} ms, {connections:,} subscribers over {TOPICS} topics",
            value=best.rate if best else 0.0,
            unit="/s",
            target=800_000,
            references=[Reference("FastAPI + Redis", theirs.rate, theirs.watch.others)] if theirs else [],
            notes=notes,
            problem="" if best else "no run held",
            others=best.watch.others if best else 0.0,
        )
    ]


def steady(options: Options) -> list[Figure]:
    """10,000 frames a second."""
    seconds, times = options.seconds(10.0, 1.0), options.count(3, 1)
    with candled(options, 1000) as peer:
        ours = middle([run(peer, 1000, 100, seconds) for _ in range(times)])
    theirs, why = references(lambda peer: middle([run(peer, 1000, 100, seconds) for _ in range(times)]))
    cpu = Figure(
        what="CPU seconds per million frames at a steady 10,000 frames/s",
        value=ours.cpu,
        unit="s",
        target=10.0,
        lower=True,
        references=[Reference("FastAPI + Redis", theirs.cpu, theirs.watch.others)] if theirs else [],
        problem=ours.problem,
        others=ours.watch.others,
    )
    return [*latencies("steady 10,000 frames/s to 1,000 connections", ours, theirs, why, (1.0, 5.0)), cpu]


def crowded(options: Options) -> list[Figure]:
    """50,000 frames a second to 5,000 connections."""
    connections, seconds = options.count(5000, 500), options.seconds(10.0, 1.0)
    with candled(options, connections) as peer:
        ours = run(peer, connections, 100, seconds)
    theirs, why = references(lambda peer: run(peer, connections, 100, seconds))
    return latencies(f"{connections:,} connections, {ours.asked:,.0f} frames/s", ours, theirs, why, (5.0, 15.0))


def through(options: Options) -> list[Figure]:
    """From an HTTP post to 1,000 sockets that follow 10 markets each."""
    connections, seconds = options.count(1000, 100), options.seconds(10.0, 1.0)
    with candled(options, connections) as peer:
        ours = run(peer, connections, 20, seconds, each=TOPICS, send=peer.post)
    return latencies(f"tick to client, {connections:,} connections x {TOPICS} markets", ours, None, "", (10.0, 40.0))


def idle(options: Options) -> list[Figure]:
    """What a connection takes that nobody speaks on."""
    count = options.count(IDLE, 200)
    with candled(options, count) as peer:
        crowd = Audience(peer.port, 50, lambda _: [b'{"action":"ping"}'])
        before = harness.rss(peer.pid, exact=True)
        more = Audience(peer.port, count - 50, lambda _: [b'{"action":"ping"}'])
        more.quiet()
        each = (harness.rss(peer.pid, exact=True) - before) / (count - 50)
        crowd.close()
        more.close()
    return [Figure(what="memory per idle connection", value=each / 1024, unit="KB", target=30.0, lower=True)]


def main() -> None:
    """Print these figures."""
    parser = harness.parser(__doc__)
    arguments = parser.parse_args()
    options = harness.options(parser, arguments)
    harness.report(figures(options), options, to=arguments.json)


if __name__ == "__main__":
    main()
