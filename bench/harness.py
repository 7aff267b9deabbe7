"""What every figure needs: two cores, candled on one of them, requests from the other, and how a figure is reported.

Linux only: processes are pinned, and what they use is read from /proc.
"""

import argparse
import json
import math
import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Self

import msgspec
import trio
from msgspec import Struct

CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, LOAD_CORE = CORES[0], CORES[-1]
TICK = os.sysconf("SC_CLK_TCK")
START_SECONDS = 120.0
STOP_SECONDS = 60.0
FOREIGN = 0.10  # cores that others may use before a figure says so

Headers = dict[str, str]


class BenchError(Exception):
    """Something that must be so for a figure to mean anything is not."""


# --- what was measured


class Reference(Struct, frozen=True):
    """What a figure stands beside, measured in the same run on the same core."""

    name: str
    value: float
    others: float = 0.0  # cores that others used meanwhile


class Figure(Struct, frozen=True, kw_only=True):
    """One line of the report."""

    what: str
    value: float
    unit: str
    target: float | None = None
    lower: bool = False  # whether less is better
    references: list[Reference] = []
    notes: dict[str, str] = {}
    problem: str = ""  # why the figure does not mean what it should
    others: float = 0.0  # cores that others used meanwhile

    @property
    def verdict(self) -> str:
        """Whether the target is met."""
        if self.problem:
            return "void"
        if self.target is None:
            return "-"
        met = self.value <= self.target if self.lower else self.value >= self.target
        return "pass" if met else "MISS"

    @property
    def noisy(self) -> bool:
        """Whether others were busy while this or what it stands beside was measured."""
        return max(self.others, *(reference.others for reference in self.references), 0.0) > FOREIGN

    @property
    def ratios(self) -> list[float]:
        """Measured ÷ reference, for each of them."""
        return [self.value / reference.value if reference.value else float("nan") for reference in self.references]


def failed(what: str, unit: str, error: BaseException, target: float | None = None) -> Figure:
    """The line of something that could not be measured."""
    return Figure(what=what, value=float("nan"), unit=unit, target=target, problem=f"failed: {error}")


class Options(Struct, frozen=True, kw_only=True):
    """How to measure."""

    folder: Path  # where data directories are made; the disk that is measured
    quick: bool = False  # seconds instead of minutes: shows that the suite works, proves nothing

    def seconds(self, full: float, quick: float) -> float:
        """How long something is measured."""
        return quick if self.quick else full

    def count(self, full: int, quick: int) -> int:
        """How many of something are measured."""
        return quick if self.quick else full


def shown(value: float, unit: str) -> str:
    """A value with its unit, as many digits as mean something."""
    if not math.isfinite(value):
        return "-"
    places = 0 if abs(value) >= 1000 else 1 if abs(value) >= 100 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{places}f} {unit}"


def table(figures: Sequence[Figure], *, quick: bool) -> str:
    """The report: a line for each figure and reference, then what else is to be known of each."""
    rows = [("what", "measured", "target", "", "reference, same run", "its value", "ratio")]
    for figure in figures:
        first = (
            figure.what,
            shown(figure.value, figure.unit),
            "" if figure.target is None else f"{'≤' if figure.lower else '≥'} {shown(figure.target, figure.unit)}",
            ", ".join([figure.verdict, *(["quick"] if quick else []), *(["noisy"] if figure.noisy else [])]),
        )
        beside = [
            (reference.name, shown(reference.value, figure.unit), f"{ratio:.3g}" if math.isfinite(ratio) else "-")
            for reference, ratio in zip(figure.references, figure.ratios, strict=True)
        ] or [("", "", "")]
        rows += [((*first, *line) if i == 0 else ("", "", "", "", *line)) for i, line in enumerate(beside)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    right = (1, 2, 5, 6)
    lines = [
        "  ".join(cell.rjust(width) if i in right else cell.ljust(width) for i, (cell, width) in enumerate(cells))
        for cells in (zip(row, widths, strict=True) for row in rows)
    ]
    lines.insert(1, "-" * len(lines[0]))
    if any(figure.noisy for figure in figures):
        lines += [
            "",
            f"noisy: others used more than {FOREIGN:.0%} of a core meanwhile; measure again when they are quiet",
        ]
    for figure in figures:
        if figure.notes or figure.problem:
            lines += ["", figure.what]
        if figure.problem:
            lines.append("  VOID: " + figure.problem.replace("\n", "\n    "))
        lines += [f"  {name}: {text}" for name, text in figure.notes.items()]
    return "\n".join(line.rstrip() for line in lines)


def report(figures: Sequence[Figure], options: Options, *, to: Path | None = None) -> None:
    """Print the machine and the figures; as JSON too where a file is named."""
    print()
    print(machine(options.folder))
    print(
        f"candled and every reference on core {SERVER_CORE}, the load on core {LOAD_CORE}; "
        "ratio: measured ÷ reference" + ("; QUICK: too short to mean anything" if options.quick else "")
    )
    print()
    print(table(figures, quick=options.quick))
    if to is not None:
        everything = {
            "machine": machine(options.folder),
            "quick": options.quick,
            "figures": [
                {
                    **msgspec.to_builtins(figure),
                    "value": figure.value if math.isfinite(figure.value) else None,
                    "verdict": figure.verdict,
                    "noisy": figure.noisy,
                    "ratios": [ratio if math.isfinite(ratio) else None for ratio in figure.ratios],
                }
                for figure in figures
            ],
        }
        to.write_text(json.dumps(everything, indent=2, ensure_ascii=False) + "\n")


def machine(place: Path) -> str:
    """The machine and the disk, in a line."""
    processors = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ] or [platform.machine()]
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    holding = max((m for m in mounts if place.resolve().is_relative_to(m[1])), key=lambda m: len(m[1]))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return (
        f"{len(processors)} × {processors[0]}, {memory / 2**30:.0f} GiB, Linux {platform.release()}, "
        f"Python {platform.python_version()}, {holding[2]} on {holding[0]} ({_disk(holding[0])})"
    )


def _disk(device: str) -> str:
    name = Path(device).name
    if name.startswith(("vd", "xvd")):
        return "virtual disk"
    for block in (name, name.rstrip("0123456789"), name.rstrip("0123456789").removesuffix("p")):
        turns = Path("/sys/block") / block / "queue" / "rotational"
        if block and turns.is_file():
            return "spinning disk" if turns.read_text().strip() == "1" else "solid state"
    return "disk of unknown kind"


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` percent of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share / 100))]


# --- processes


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """What is started within runs on this core, and stays there."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def data_folder(options: Options) -> Iterator[Path]:
    """A folder of our own on the disk to be measured; gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix=".bench-", dir=options.folder))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def disk_bytes(path: Path) -> int:
    """What the files of a folder take on the disk."""
    return sum(file.stat().st_blocks * 512 for file in path.rglob("*") if file.is_file())


def in_process(module: str, *arguments: object, core: int | None = SERVER_CORE) -> dict[str, Any]:
    """Run a module of the bench in a process of its own, pinned; the JSON that it printed last.

    `others` in it is how many cores were in use by others meanwhile.
    """
    noise = Noise()
    command = [sys.executable, "-m", module, *map(str, arguments)]
    if core is None:
        command = ["taskset", "-c", ",".join(map(str, CORES)), *command]
        done = subprocess.run(command, capture_output=True, text=True)
    else:
        with on_core(core):
            done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BenchError(f"{' '.join(command)} failed with {done.returncode}:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return {**found, "others": noise.others()}


@contextmanager
def beside(module: str, *arguments: object) -> Iterator[None]:
    """A module of the bench in a process of its own on candled's core, for the length of a block."""
    with on_core(SERVER_CORE):
        process = subprocess.Popen([sys.executable, "-m", module, *map(str, arguments)], stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def rss(pid: int, *, exact: bool = False) -> int:
    """Resident bytes of a process; exactly at the price of a walk through its pages, which holds it up."""
    file, name = ("smaps_rollup", "Rss:") if exact else ("status", "VmRSS:")
    for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise BenchError(f"process {pid} has ended")


def cpu(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def machine_cpu() -> float:
    """Seconds of processor time that everything on the machine has used."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return (fields[0] + fields[1] + fields[2] + fields[5] + fields[6]) / TICK


class Noise:
    """What others make use of while we and processes of ours run, which have ended when `others` is asked for."""

    def __init__(self) -> None:
        self._began = self._now()

    def others(self) -> float:
        """Cores in use by others since then, on average."""
        seconds, everything, ours = (b - a for a, b in zip(self._began, self._now(), strict=True))
        return max(0.0, everything - ours) / seconds

    @staticmethod
    def _now() -> tuple[float, float, float]:
        used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return time.perf_counter(), machine_cpu(), sum(usage.ru_utime + usage.ru_stime for usage in used)


class Watch:
    """Who used how much of a processor while something was measured."""

    def __init__(self, server: int) -> None:
        self._server = server
        self._began = self._now()
        self.seconds = self.server = self.load = self.others = 0.0

    def stop(self) -> Self:
        """Take the shares: cores in use, on average."""
        ended = self._now()
        self.seconds = ended[0] - self._began[0]
        self.server, self.load, everything = (
            (b - a) / self.seconds for a, b in zip(self._began[1:], ended[1:], strict=True)
        )
        self.others = max(0.0, everything - self.server - self.load)
        return self

    def notes(self) -> dict[str, str]:
        """The shares, for a report."""
        text = f"server {self.server:.0%}, load {self.load:.0%}, others {self.others:.0%} of a core"
        return {"processor": text}

    def _now(self) -> tuple[float, float, float, float]:
        return time.perf_counter(), cpu(self._server), cpu(os.getpid()), machine_cpu()


# --- candled


class Server:
    """An installed `candled serve` on its own core, with default settings but for the rate limits."""

    def __init__(self, data: Path, **settings: str) -> None:
        """Start it; return once it is ready. `settings` are CANDLED_ variables without that prefix."""
        self.data = data
        self.port = free_port()
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("CANDLED_")},
            "CANDLED_RATE_LIMIT_REQUESTS": "0",
            **{f"CANDLED_{name.upper()}": value for name, value in settings.items()},
        }
        self._log = data.parent / f"{data.name}.log"
        with self._log.open("ab") as log, on_core(SERVER_CORE):
            began = time.perf_counter()
            command = [candled(), "serve", "--port", str(self.port), "--data", str(data)]
            self._process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)
        self.pid = self._process.pid
        try:
            self._await(began + START_SECONDS)
        except BaseException:
            self.kill()
            raise
        self.start_seconds = time.perf_counter() - began

    def token(self, scope: str = "admin") -> str:
        """A new key."""
        command = [candled(), "token", "create", "--scope", scope, "--data", str(self.data)]
        return subprocess.run(command, env=self._environment, check=True, capture_output=True, text=True).stdout.strip()

    def get(self, path: str) -> bytes:
        """A body, over a connection of its own."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise BenchError(f"GET {path}: {answer.status} {body[:200]!r}")
        return body

    def metrics(self) -> "Metrics":
        """Everything that it counts."""
        return Metrics(self.get("/metrics").decode())

    def backlog(self) -> int:
        """Events that are acknowledged and not yet in the history store."""
        found: int = json.loads(self.get("/api/charts/health"))["journal"]["lag_events"]
        return found

    def settle(self, seconds: float = 120.0) -> float:
        """Wait until everything is in the history store; how long that took."""
        began = time.perf_counter()
        while self.backlog():
            if time.perf_counter() - began > seconds:
                raise BenchError(f"{self.backlog()} events are still not flushed after {seconds:g} s")
            time.sleep(0.1)
        return time.perf_counter() - began

    def rss(self, *, exact: bool = False) -> int:
        """Resident bytes."""
        return rss(self.pid, exact=exact)

    def stop(self) -> None:
        """Drain and end it."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
                raise BenchError(f"candled did not stop within {STOP_SECONDS:g} s") from None
        if self._process.returncode:
            raise BenchError(f"candled ended with {self._process.returncode}:\n{self.log()}")

    @property
    def ended(self) -> bool:
        """Whether it has ended by itself."""
        try:
            self._process.wait(5.0)  # it may be on its way out
        except subprocess.TimeoutExpired:
            return False
        return True

    def log(self) -> str:
        """The end of what it said, without what DuckDB's binding says when an interpreter ends in haste."""
        lines = self._log.read_text().splitlines()
        said = [line for line in lines if not line.startswith(("nanobind", " - leaked", " - ...", "See https"))]
        return "\n".join(said[-20:])

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()

    def _await(self, until: float) -> None:
        while True:
            if self._process.poll() is not None:
                raise BenchError(f"candled did not start:\n{self.log()}")
            try:
                self.get("/readyz")
                return
            except (OSError, BenchError):
                if time.perf_counter() > until:
                    raise BenchError(f"candled is not ready after {START_SECONDS:g} s") from None
                time.sleep(0.005)


@contextmanager
def serving(data: Path, **settings: str) -> Iterator[Server]:
    """A server for the length of a block."""
    server = Server(data, **settings)
    try:
        yield server
    except BaseException as error:
        ended = server.ended
        server.kill()
        if ended:
            raise BenchError(f"candled ended while it was measured; its log:\n{server.log()}") from error
        if isinstance(error, Exception):
            raise BenchError(str(_first(error))) from error
        raise
    server.stop()


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class Metrics:
    """Prometheus text, by name."""

    def __init__(self, text: str) -> None:
        self._values: dict[str, float] = {}
        for line in text.splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                self._values[name] = float(value)

    def __getitem__(self, name: str) -> float:
        if name not in self._values:
            raise BenchError(f"/metrics has no {name}")
        return self._values[name]

    def times(self, route: str) -> "Times":
        """How long the requests of a route took: from a request's head to its answer."""
        label = f'route="{route}"'
        buckets = {}
        for name, value in self._values.items():
            if name.startswith("candled_http_request_seconds_bucket{") and label in name:
                end = name.split('le="')[1].split('"')[0]
                buckets[float(end)] = value
        total = self._values.get(f"candled_http_request_seconds_sum{{{label}}}", 0.0)
        return Times(dict(sorted(buckets.items())), total)


class Times:
    """A histogram of service times, seconds."""

    def __init__(self, buckets: dict[float, float], total: float) -> None:
        self.buckets, self.total = buckets, total

    def since(self, before: "Times") -> "Times":
        """What came after an earlier look."""
        buckets = {end: count - before.buckets.get(end, 0.0) for end, count in self.buckets.items()}
        return Times(buckets, self.total - before.total)

    @property
    def count(self) -> float:
        return max(self.buckets.values(), default=0.0)

    @property
    def mean(self) -> float:
        return self.total / self.count

    def within(self, seconds: float) -> float:
        """The share of requests that took no longer than this upper end of a bucket."""
        return self.buckets[seconds] / self.count

    def around(self, share: float) -> tuple[float, float]:
        """The ends of the bucket in which this quantile lies: between them it is certain to be."""
        low = 0.0
        for end, count in self.buckets.items():
            if count >= self.count * share / 100:
                return low, end
            low = end
        return low, float("inf")

    def quantile(self, share: float) -> float:
        """Interpolated within its bucket, as Prometheus does."""
        wanted, low, below = self.count * share / 100, 0.0, 0.0
        for end, count in self.buckets.items():
            if count >= wanted:
                if end == float("inf"):
                    return low
                return low + (end - low) * (wanted - below) / max(count - below, 1e-9)
            low, below = end, count
        return low


def candled() -> str:
    """The installed command."""
    return str(Path(sys.executable).with_name("candled"))


def free_port() -> int:
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        port: int = some.getsockname()[1]
        return port


# --- requests


class Connection:
    """A keep-alive HTTP connection, made again where the server ends it between two requests."""

    def __init__(self, port: int, token: str = "") -> None:
        self._port = port
        self._common = f"Host: 127.0.0.1:{port}\r\n" + (f"Authorization: Bearer {token}\r\n" if token else "")
        self._stream: trio.SocketStream | None = None
        self._last = False

    async def open(self) -> None:
        """Connect."""
        self._stream = await trio.open_tcp_stream("127.0.0.1", self._port)
        self._last = False

    async def close(self) -> None:
        """End it."""
        if self._stream is not None:
            await self._stream.aclose()
            self._stream = None

    async def get(self, path: str) -> tuple[int, bytes]:
        """Status and body."""
        return await self._asked(f"GET {path} HTTP/1.1\r\n{self._common}\r\n".encode(), None)

    async def post(self, path: str, kind: str, body: "bytes | bytearray | memoryview") -> tuple[int, bytes]:
        """Status and body."""
        head = (
            f"POST {path} HTTP/1.1\r\n{self._common}Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode()
        return await self._asked(head, body)

    async def _asked(self, head: bytes, body: "bytes | bytearray | memoryview | None") -> tuple[int, bytes]:
        if self._last:
            await self.close()
        if self._stream is None:
            await self.open()
        assert self._stream is not None
        if body is None or len(body) < 65536:
            await self._stream.send_all(head + (body or b""))
        else:
            await self._stream.send_all(head)
            await self._stream.send_all(body)
        return await self._answer(self._stream)

    async def _answer(self, stream: trio.SocketStream) -> tuple[int, bytes]:
        got = b""
        while b"\r\n\r\n" not in got:
            more = await stream.receive_some(262144)
            if not more:
                raise BenchError(f"the server hung up; so far it said {got[:200]!r}")
            got += more
        head, _, rest = got.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in lines[1:])
        if "content-length" not in fields:
            raise BenchError(f"an answer without its length: {lines}")
        self._last = fields.get("connection") == "close"
        parts, missing = [rest], int(fields["content-length"]) - len(rest)
        while missing > 0:
            more = await stream.receive_some(262144)
            if not more:
                raise BenchError(f"the server hung up {missing} bytes before the end of an answer")
            parts.append(more)
            missing -= len(more)
        return int(lines[0].split()[1]), b"".join(parts)


# --- each module's own command line


def options(parser: argparse.ArgumentParser, arguments: argparse.Namespace | None = None) -> Options:
    """Options out of the arguments that every module takes; the process moves to the load's core."""
    given = parser.parse_args() if arguments is None else arguments
    os.sched_setaffinity(0, {LOAD_CORE})
    return Options(folder=given.folder.resolve(), quick=given.quick)


def parser(about: str | None) -> argparse.ArgumentParser:
    """A parser with what every module takes."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--quick", action="store_true", help="short runs; shows that it works, proves nothing")
    made.add_argument("--folder", type=Path, default=Path.cwd(), help="where to write; the disk that is measured")
    made.add_argument("--json", type=Path, help="write the figures to this file too")
    return made
