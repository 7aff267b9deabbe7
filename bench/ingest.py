"""Events acknowledged per second over HTTP: one producer, a thousand markets, candled on one core, for half a minute.

    python -m bench.ingest [--quick] [--only NAME ...]     names: ndjson arrow ndjson-id arrow-id arrow-past

The producer is one process with some keep-alive connections, each of which sends its next batch when the one before it
is answered. Its batches are made beforehand; only their times (and identities) are new each time. An event counts when
the answer that says `accepted` has arrived within the measured window.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import trio
from msgspec import Struct, structs

from bench import harness
from bench.harness import BenchError, Connection, Figure, Options, Reference, Server, Watch, percentile
from bench.trades import ARROW, FIRST_ID, MARKETS, NDJSON, SYMBOLS, Body, Clock, Trades, bodies

SECONDS, QUICK_SECONDS = 32.0, 5.0
WARM_SECONDS = 3.0
REFERENCE_SECONDS, QUICK_REFERENCE_SECONDS = 15.0, 2.0
FLUSHES = 5  # that must lie within the window
BUSY = 0.9  # of a core: then it is the producer that is measured
LOOK = 0.5  # seconds between looks at the server
MIB = 2**20


class Load(NamedTuple):
    """What is sent."""

    name: str
    what: str
    kind: str
    size: int
    identity: bool
    past: bool
    target: float | None
    connections: int
    bodies: int


LOADS = (
    Load("ndjson", "NDJSON, batches of 1,000", NDJSON, 1_000, False, False, 250_000, 8, 400),
    Load("arrow", "Arrow, batches of 50,000", ARROW, 50_000, False, False, 1_000_000, 4, 16),
    Load("ndjson-id", "NDJSON, batches of 1,000, with trade_id", NDJSON, 1_000, True, False, None, 8, 400),
    Load("arrow-id", "Arrow, batches of 50,000, with trade_id", ARROW, 50_000, True, False, None, 4, 16),
    Load("arrow-past", "Arrow, batches of 50,000, days of the past", ARROW, 50_000, False, True, None, 4, 16),
)


class Answer(Struct):
    """Of `POST /api/ingest/events`."""

    accepted: int


class Sent(NamedTuple):
    """One batch that was answered."""

    at: float  # when its answer was there
    accepted: int
    seconds: float
    body: Body


class Looks(Struct):
    """What was seen of the server from time to time."""

    rss: list[int] = []
    backlog: list[tuple[float, int]] = []
    seconds: list[float] = []  # until its health was told


class Producer:
    """Sends until told to stop, and notes what was acknowledged."""

    def __init__(self, server: Server, load: Load, made: Sequence[Body]) -> None:
        self._load = load
        token = server.token()
        self._connections = [Connection(server.port, token) for _ in range(load.connections)]
        # A body is on the wire once at a time.
        self._bodies = [made[i :: load.connections] for i in range(load.connections)]
        self._clock, self._id = Clock(past=load.past), FIRST_ID
        self.sent: list[Sent] = []
        self.stopping = False

    async def register(self) -> None:
        """Make the markets: with an event each, before everything else."""
        lines = [
            json.dumps({"market_symbol": symbol, "timestamp": "2000-01-03T00:00:00Z", "price": 1, "size": 1})
            for symbol in SYMBOLS
        ]
        body = "\n".join(lines).encode()
        status, answer = await self._connections[0].post("/api/ingest/events?create=spot", NDJSON, body)
        if status != 200 or json.loads(answer)["accepted"] != MARKETS:
            raise BenchError(f"the markets were not made: {status} {answer[:300]!r}")

    async def run(self) -> None:
        """Send over all connections."""
        async with trio.open_nursery() as nursery:
            for connection, made in zip(self._connections, self._bodies, strict=True):
                nursery.start_soon(self._send, connection, made)

    async def _send(self, connection: Connection, made: Sequence[Body]) -> None:
        turn = 0
        while not self.stopping:
            body = made[turn % len(made)]
            turn += 1
            data = body.stamped(self._clock.times(body.n), self._id)
            self._id += body.n
            began = time.perf_counter()
            status, answer = await connection.post("/api/ingest/events", body.kind, data)
            ended = time.perf_counter()
            if status != 200:
                raise BenchError(f"a batch was answered with {status}: {answer[:300]!r}")
            accepted: int = json.loads(answer)["accepted"]
            if accepted != body.n:
                raise BenchError(f"of {body.n} events {accepted} were accepted: {answer[:300]!r}")
            self.sent.append(Sent(ended, accepted, ended - began, body))
        await connection.close()


async def watch(server: Server, looks: Looks) -> None:
    """Look at the server until cancelled; little enough not to be part of the load."""
    turn = 0
    while True:
        looks.rss.append(server.rss())
        if turn % 4 == 0:
            began = time.perf_counter()
            backlog = await trio.to_thread.run_sync(server.backlog, abandon_on_cancel=True)
            looks.backlog.append((began, backlog))
            looks.seconds.append(time.perf_counter() - began)
        turn += 1
        await trio.sleep(LOOK)


async def drive(server: Server, load: Load, made: Sequence[Body], seconds: float, needed: int) -> Figure:
    """One load for so long, with so many flushes inside."""
    producer = Producer(server, load, made)
    await producer.register()
    idle, looks = server.rss(), Looks()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(producer.run)
        await trio.sleep(WARM_SECONDS)
        before = await trio.to_thread.run_sync(server.metrics)
        start, used = time.perf_counter(), Watch(server.pid)
        async with trio.open_nursery() as looking:
            looking.start_soon(watch, server, looks)
            await trio.sleep(seconds)
            looking.cancel_scope.cancel()
        end = time.perf_counter()
        used.stop()
        after = await trio.to_thread.run_sync(server.metrics)
        producer.stopping = True
    inside = [sent for sent in producer.sent if start < sent.at <= end]
    if not inside or not looks.backlog:
        raise BenchError(f"{load.what}: nothing was answered within {seconds:g} s")
    rate = sum(sent.accepted for sent in inside) / (end - start)
    flushes = after["candled_flush_seconds_count"] - before["candled_flush_seconds_count"]
    flushed = after["candled_flushed_events_total"] - before["candled_flushed_events_total"]
    waiting = [before["candled_flush_waiting_events"], after["candled_flush_waiting_events"]]
    settled = server.settle()
    _see_bars(server, sum(sent.body.first_volume for sent in producer.sent))
    best = _best_second(inside, start, end)
    took = [sent.seconds * 1e3 for sent in inside]
    waited = max(count for _, count in looks.backlog)
    problems = []
    if flushes < needed:
        problems.append(f"only {flushes:.0f} flushes in the window, at least {needed} are needed")
    if grows := _grows(looks.backlog, rate):
        problems.append(grows)
    if used.load > BUSY:
        problems.append(f"the producer was the bottleneck: {used.load:.0%} of a core")
    total = sum(sent.accepted for sent in producer.sent) + MARKETS
    notes = {
        "acknowledged": (
            f"{sum(sent.accepted for sent in inside):,} events in {end - start:.1f} s over {load.connections} "
            f"connections; best second {best:,.0f}/s"
        ),
        "batch": f"p50 {percentile(took, 50):.1f} ms, p99 {percentile(took, 99):.1f} ms, max {max(took):.1f} ms",
        "flushes": f"{flushes:.0f} in the window, {flushed / (end - start):,.0f} events/s",
        "backlog": (
            f"{waiting[0]:,.0f} events at the start, {waited:,} at most, "
            f"{waiting[1]:,.0f} at the end; in the store {settled:.1f} s after the last event"
        ),
        "server memory": (
            f"{idle / MIB:.0f} MiB idle, {looks.rss[0] / MIB:.0f} at the start, {max(looks.rss) / MIB:.0f} at most, "
            f"{looks.rss[-1] / MIB:.0f} at the end"
        ),
        "health told meanwhile": f"after {max(looks.seconds) * 1e3:.0f} ms at most",
        **used.notes(),
        "events sent": f"{total:,}",
    }
    return Figure(
        what=_title(load),
        value=rate,
        unit="events/s",
        target=load.target,
        notes=notes,
        problem="; ".join(problems),
        others=used.others,
    )


def _see_bars(server: Server, volume: int) -> None:
    """Whether the bars hold what was acknowledged: the volume of the first market, in thousandths."""
    to = int(time.time()) + 2 * 86400
    found = json.loads(server.get(f"/api/tradingview/history?symbol={SYMBOLS[0]}&resolution=1D&from=0&to={to}"))
    shown = sum(found["v"]) - 1  # the event that made it
    if abs(shown - volume / 1000) > 1e-9 * volume:
        raise BenchError(f"the bars of {SYMBOLS[0]} hold a volume of {shown:g} instead of {volume / 1000:g}")


def _title(load: Load) -> str:
    return f"ingest: {load.what}"


def _best_second(sent: Sequence[Sent], start: float, end: float) -> float:
    seconds = np.zeros(max(1, int(end - start)))
    for one in sent:
        at = int(one.at - start)
        if at < len(seconds):
            seconds[at] += one.accepted
    return float(seconds.max())


def _grows(backlog: Sequence[tuple[float, int]], rate: float) -> str:
    """Whether the backlog was still growing in the second half, by more than what two seconds bring."""
    half = len(backlog) // 2
    if half < 2:
        return ""
    first, second = (max(count for _, count in part) for part in (backlog[:half], backlog[half:]))
    if second <= first + 2 * rate:
        return ""
    return f"the backlog grew: at most {first:,} events in the first half, {second:,} in the second"


def measured(options: Options, load: Load) -> Figure:
    """One load on a server of its own."""
    seconds = options.seconds(SECONDS, QUICK_SECONDS)
    made = bodies(load.kind, Trades(load.size * load.bodies), load.size, load.bodies, identity=load.identity)
    with harness.data_folder(options) as folder:
        data = folder / "data"
        with harness.serving(data) as server:
            figure = trio.run(drive, server, load, made, seconds, options.count(FLUSHES, 1))
        events = int(figure.notes.pop("events sent").replace(",", ""))
        figure.notes["disk"] = _disk(data, events)
    return figure


def _disk(data: Path, events: int) -> str:
    each = {part: harness.disk_bytes(data / part) / events for part in (".", "journal", "identities")}
    rest = each["."] - each["journal"] - each["identities"]
    return (
        f"{each['.']:.1f} bytes an event after the stop: journal {each['journal']:.1f}, "
        f"identities {each['identities']:.1f}, the rest (bars and ledger) {rest:.1f}"
    )


class Rival(NamedTuple):
    """A reference, and for which loads it is one."""

    title: str
    name: str
    batch: int
    past: bool | None = None  # None: what the times of the events are is all the same to it
    arrow: bool = False  # for Arrow only


RIVALS = (
    Rival("ClickHouse (chdb), bars 1s…1d, by 10,000", "clickhouse-ingest", 10_000, past=False),
    Rival("ClickHouse (chdb), bars 1s…1d, by 50,000", "clickhouse-ingest", 50_000, past=False, arrow=True),
    Rival("ClickHouse (chdb), the same days, by 50,000", "clickhouse-ingest", 50_000, past=True, arrow=True),
    Rival("DuckDB, rows without bars, by 50,000", "duckdb-ingest", 50_000),
)


def reference(options: Options, rival: Rival) -> tuple[Reference, str]:
    """What a user would run instead, or what it costs to keep rows without bars."""
    seconds = options.seconds(REFERENCE_SECONDS, QUICK_REFERENCE_SECONDS)
    past = ("--past",) if rival.past else ()
    with harness.data_folder(options) as folder:
        found = harness.in_process(
            "bench.references", rival.name, folder, "--seconds", seconds, "--batch", rival.batch, *past
        )
    return Reference(rival.title, found["rows_per_second"], found["others"]), (
        f"{found['rows_per_second']:,.0f} rows/s, batch p50 {found['batch_p50_ms']:.1f} ms, p99 "
        f"{found['batch_p99_ms']:.1f} ms, {found['disk_bytes_each']:.1f} bytes on disk each, "
        f"{found['rss_end_bytes'] / MIB:.0f} MiB resident at the end"
    )


def figures(options: Options, only: Sequence[str] = ()) -> list[Figure]:
    """All loads, each beside its references."""
    known: dict[Rival, tuple[Reference, str]] = {}
    found: list[Figure] = []
    for load in LOADS:
        if only and load.name not in only:
            continue
        rivals = [
            rival for rival in RIVALS if rival.past in (None, load.past) and (load.kind == ARROW or not rival.arrow)
        ]
        fresh = [rival for rival in rivals if rival not in known]
        known.update((rival, reference(options, rival)) for rival in fresh)
        try:
            figure = measured(options, load)
        except BenchError as error:
            figure = harness.failed(_title(load), "events/s", error, load.target)
        notes = {**figure.notes, **{rival.title: known[rival][1] for rival in fresh}}
        found.append(structs.replace(figure, references=[known[rival][0] for rival in rivals], notes=notes))
    return found


def main() -> None:
    """Print these figures."""
    parser = harness.parser(__doc__)
    parser.add_argument("--only", nargs="*", default=(), choices=[load.name for load in LOADS])
    arguments = parser.parse_args()
    options = harness.options(parser, arguments)
    harness.report(figures(options, arguments.only), options, to=arguments.json)


if __name__ == "__main__":
    main()
