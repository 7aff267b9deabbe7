"""`history` of 1,440 one-minute bars, asked for by 32 keep-alive connections at once: hot and cold.

    python -m bench.hot [--quick] [--store DIR]     DIR keeps ten million stored bars, to use them again

Hot: a hundred markets in turn, the same questions again and again. The reference is FastAPI on uvicorn (uvloop,
httptools) with one worker, which answers the very same bytes out of Redis; it runs on candled's core, Redis on the
load's. Cold: each question once, for a day of a market that is not among its newest, out of ten million stored bars.
Where others use the machine, requests a second show that; the processor's time for each request does so less.
"""

import os
import re
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

import trio

from bench import harness
from bench.harness import LOAD_CORE, SERVER_CORE, BenchError, Figure, Options, Reference, Watch, percentile
from bench.history import ROUTE, Asked, fill
from bench.stored import picks, symbol

CONNECTIONS = 32
TIMES, COLD_TIMES = 5.0, 3.0  # as many requests a second as the references
POSTGRES = 259.0  # requests a second of FastAPI + PostgreSQL with these bars, on the machine that was begun with
LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)


class Load(NamedTuple):
    """What some requests came to."""

    took: list[float]  # ms
    seconds: float
    cpu: float  # seconds of the server
    others: float  # cores in use by others

    @property
    def rate(self) -> float:
        return len(self.took) / self.seconds

    @property
    def each(self) -> float:
        return 1e6 * self.cpu / len(self.took)

    def told(self) -> str:
        return (
            f"{self.rate:,.0f} requests/s, p50 {percentile(self.took, 50):.2f} ms, "
            f"p99 {percentile(self.took, 99):.2f} ms, {self.each:.0f} µs of processor time each, "
            f"{len(self.took):,} requests; others {self.others:.0%} of a core"
        )


def drive(port: int, pid: int, questions: Iterator[bytes], connections: int, seconds: float) -> Load:
    """Ask on so many connections at once, each its next question when it has the answer, until none is left or time is
    over."""
    poll, into = select.epoll(), bytearray(1 << 20)
    talks: dict[int, tuple[socket.socket, float]] = {}
    missing: dict[int, int] = {}
    took: list[float] = []
    used, began = Watch(pid), time.perf_counter()
    for question in islice(questions, connections):
        talk = socket.create_connection(("127.0.0.1", port))
        talk.send(question)
        poll.register(talk, select.EPOLLIN)
        talks[talk.fileno()] = talk, time.perf_counter()
    while talks:
        for fd, _ in poll.poll():
            talk, asked = talks[fd]
            got = talk.recv_into(into)
            if fd not in missing:
                end = into.find(b"\r\n\r\n", 0, got) + 4
                length = LENGTH.search(into, 0, end)
                if not into.startswith(b"HTTP/1.1 200") or length is None:
                    raise BenchError(f"expected an answer, got {bytes(into[:got])[:300]!r}")
                missing[fd] = end + int(length[1])
            missing[fd] -= got
            if missing[fd] > 0:
                continue
            now = time.perf_counter()
            took.append((now - asked) * 1e3)
            del missing[fd]
            if now - began < seconds and (question := next(questions, b"")):
                talk.send(question)
                talks[fd] = talk, now
            else:
                poll.unregister(fd)
                talk.close()
                del talks[fd]
    used.stop()
    return Load(took, used.seconds, used.server * used.seconds, used.others)


def heads(asked: Sequence[Asked]) -> list[bytes]:
    """These questions as they are sent."""
    return [
        f"GET {ROUTE}?symbol={name}&resolution=1&from={start}&to={end} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
        for name, start, end in asked
    ]


@contextmanager
def reference(answers: dict[str, bytes]) -> Iterator[tuple[int, int]]:
    """FastAPI with these answers in Redis, by key: port and process. BenchError where either is not installed."""
    try:
        import redis
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise BenchError(f"{error}: `make bench` installs it") from error
    if shutil.which("redis-server") is None:
        raise BenchError("no redis-server here; Debian has one (apt-get install redis-server)")
    store, port = harness.free_port(), harness.free_port()
    environment = {**os.environ, "REDIS_URL": f"redis://127.0.0.1:{store}"}
    command = [sys.executable, "-m", "uvicorn", "bench.cache_reference:app", "--loop", "uvloop", "--http", "httptools"]
    command += ["--port", str(port), "--no-access-log", "--log-level", "warning"]
    database = ["redis-server", "--port", str(store), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with harness.on_core(LOAD_CORE):
        cache = subprocess.Popen(database, stdout=subprocess.DEVNULL)
    try:
        with harness.on_core(SERVER_CORE):
            server = subprocess.Popen(command, env=environment)
        try:
            for one in (store, port):
                _await(one)
            redis.Redis(port=store).mset(answers)
            yield port, server.pid
        finally:
            server.kill()
            server.wait()
    finally:
        cache.kill()
        cache.wait()


def _await(port: int) -> None:
    until = time.perf_counter() + harness.START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            if time.perf_counter() > until:
                raise BenchError(f"nothing listens on port {port}") from None
            time.sleep(0.01)


def hot(options: Options) -> list[Figure]:
    """The same hundred questions again and again."""
    seconds = options.seconds(10.0, 1.0)
    with harness.data_folder(options) as folder, harness.serving(folder / "data") as server:
        asked = trio.run(fill, server)
        server.settle()
        questions = heads(asked)
        answers = {
            f"history:{name}:1:{start}:{end}": server.get(f"{ROUTE}?symbol={name}&resolution=1&from={start}&to={end}")
            for name, start, end in asked
        }
        with reference(answers) as (port, pid):
            loads = []
            for at, process in ((server.port, server.pid), (port, pid)):
                drive(at, process, cycle(questions), CONNECTIONS, seconds / 5)
                loads.append(drive(at, process, cycle(questions), CONNECTIONS, seconds))
    ours, theirs = loads
    name = "FastAPI + uvicorn + Redis"
    notes = {"candled": ours.told(), name: theirs.told(), "answers": f"{len(answers.popitem()[1]) / 1000:.1f} KB each"}
    what = f"history, 1,440 bars, hot, {CONNECTIONS} connections"
    return [
        Figure(
            what=what,
            value=ours.rate,
            unit="requests/s",
            target=TIMES * theirs.rate,
            references=[Reference(name, theirs.rate, theirs.others)],
            notes=notes,
            others=ours.others,
        ),
        Figure(
            what=f"{what}: processor time each",
            value=ours.each,
            unit="µs",
            target=theirs.each / TIMES,
            lower=True,
            references=[Reference(name, theirs.each)],
        ),
        Figure(
            what=f"{what}: p99",
            value=percentile(ours.took, 99),
            unit="ms",
            target=percentile(theirs.took, 99),
            lower=True,
            references=[Reference(name, percentile(theirs.took, 99))],
        ),
    ]


def cold(options: Options, store: Path | None) -> list[Figure]:
    """Each question once, on a server that has just started."""
    markets, days = options.count(1_000, 50), 7
    found = []
    with harness.data_folder(options) as folder:
        place = store or folder / "store"
        if not (place / "candles.duckdb").exists():
            harness.in_process("bench.stored", place, "--markets", markets, "--days", days, core=None)
        for connections, seed in ((CONNECTIONS, 3), (1, 4)):
            count = options.count(3_000, 100)
            questions = heads([(symbol(m), start, end) for m, start, end in picks(markets, days, count, seed)])
            with harness.serving(place) as server:
                load = drive(server.port, server.pid, iter(questions), connections, 60.0)
            many = connections > 1
            found.append(
                Figure(
                    what=f"history, 1,440 bars, cold, {connections} connections" + ("" if many else ": p50"),
                    value=load.rate if many else percentile(load.took, 50),
                    unit="requests/s" if many else "ms",
                    target=COLD_TIMES * POSTGRES if many else 2.0,
                    lower=not many,
                    notes={"candled": load.told()},
                    others=load.others,
                )
            )
    return found


def main() -> None:
    """Print these figures."""
    parser = harness.parser(__doc__)
    parser.add_argument("--store", type=Path, help="a data directory with the stored bars; made where it is not there")
    arguments = parser.parse_args()
    options = harness.options(parser, arguments)
    harness.report([*hot(options), *cold(options, arguments.store)], options, to=arguments.json)


if __name__ == "__main__":
    main()
