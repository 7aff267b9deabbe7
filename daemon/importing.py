"""`candled import`: files of events into a data directory, or through the daemon that runs on it."""

import http.client
import json
import os
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from functools import reduce
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol
from urllib.parse import urlsplit

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import trio
from msgspec import Struct, structs

from actors.bodies import ARROW
from actors.coverage import IMPORTS
from actors.decode import BARS, EVENTS, SNAPSHOTS, Form
from daemon import commands
from daemon.config import Config
from daemon.serve import stack_settings
from daemon.stack import Stack, opened
from storage import barring, pricing
from storage.errors import BadRequest, CandledError, Unavailable
from storage.events import Array
from storage.files import NEVER, RAW, File, Survey
from storage.lined import LINE, PROBLEM
from storage.mapping import Choice, Times, chosen
from storage.naming import Namer
from storage.records import Kind

ROWS = 50_000  # in one request
FLYING = 4  # requests under way at a time
BESIDE = 5_000, 2  # the same of requests to a daemon, which has others to serve between them
PATIENCE = 120.0  # seconds that an unreachable or full daemon is waited for
FIRST = 3  # rows of a file that are shown before it starts
SHOWN = 5  # refused rows that are listed
FORMS: dict[str, Form] = {"events": EVENTS, "bars": BARS, "snapshots": SNAPSHOTS}
CALLED = {"bars": "finished bars", "snapshots": "prices of cards"}
SPANS = 1_000  # markets in one word about what was imported
STRETCH = 50_000  # rows of which one time is kept
IDENTITIES = (("trade_id",), ("transaction_hash", "log_index"))  # fields that tell events apart
REASON = 200  # characters of what is wrong with a row
MILLI = 1_000  # µs
NAMELESS = (
    "no ids: a row is known by all that it says, and by how many equal ones come before it in its file; the same data "
    "written in another way (other columns, other digits), or had from elsewhere, would count again"
)


What = Literal["events", "bars", "snapshots"]
Spans = dict[str, tuple[int, int]]  # by market: the times (µs) of its first event, and just after its last one


class Plan(Struct, frozen=True, kw_only=True):
    """What is to be imported, and how it is to be read."""

    files: tuple[Path, ...]
    market: str
    given: tuple[tuple[str, str], ...]
    where: str
    times: Times
    create: Kind | None
    bars: str | None = None  # finished bars of this length; None: what the file looks like
    labelled: barring.Labelled = "start"  # which end of a bar its time is
    snapshots: bool = False  # prices of cards; else what the file looks like


class Tally(Struct, kw_only=True):
    """What became of the rows."""

    rows: int = 0
    accepted: int = 0
    duplicates: int = 0
    corrected: int = 0
    retracted: int = 0
    rejected: int = 0
    errors: list[str] = []  # the first few
    seconds: float = 0.0


class _Rejected(Struct):
    index: int
    error: str


class _Answer(Struct):
    accepted: int
    duplicates: int
    corrected: int
    retracted: int
    rejected: list[_Rejected]
    rejected_count: int


class Sink(Protocol):
    """Where events go: an Arrow stream in, the answer of ingest out."""

    alone: bool  # whether nobody else wants anything of it

    async def submit(self, body: bytes, what: What) -> bytes: ...
    async def cover(self, spans: Spans) -> None: ...


class Reporter(Protocol):
    """Who is told how far it is."""

    def begin(self, what: str, total: int, done: int, unit: str) -> None: ...
    def advance(self, rows: int) -> None: ...


class Source(NamedTuple):
    """A file, and how it is read."""

    file: File
    choices: list[Choice]
    what: What

    def lines(self, where: str) -> list[str]:
        """Its fields, and its first events."""
        width = max(len(choice.field) for choice in self.choices)
        lines = [CALLED[self.what]] if self.what in CALLED else []
        lines += [f"{choice.field:<{width}}  from {choice.origin}" for choice in self.choices]
        first = next(self.file.read(self.choices, where, 0, FIRST), None)
        for row in first.slice(0, FIRST).to_pylist() if first is not None else ():
            said = {name: value for name, value in row.items() if value is not None}
            number, problem = said.pop(LINE), said.pop(PROBLEM, None)
            shown = problem or ", ".join(f"{name} {value}" for name, value in said.items())
            lines.append(f"{self.file.counts} {number}: {shown}")
        if self.what == "events" and not _told_apart(self.choices):
            lines.append(NAMELESS)
        return lines if first is not None else [*lines, "no rows"]


@contextmanager
def sources(plan: Plan) -> Iterator[list[Source]]:
    """The files, open. Raises BadRequest where one cannot be read."""
    with ExitStack() as stack:
        files = [stack.enter_context(File(path)) for path in plan.files]
        yield [_source(file, plan) for file in files]


def _source(file: File, plan: Plan) -> Source:
    if plan.snapshots or (plan.bars is None and pricing.looks_like(file)):
        if plan.market or plan.create:
            flag = "--market" if plan.market else "--create"
            raise BadRequest(f"{flag}: the prices of cards in {file.path} name their markets themselves")
        return Source(file, pricing.chosen(file, plan.given, plan.times), "snapshots")
    if plan.bars is None and not barring.looks_like(file):
        return Source(file, chosen(file, plan.given, plan.market, plan.times), "events")
    length = plan.bars or ""
    return Source(file, barring.chosen(file, plan.given, plan.market, plan.times, length, plan.labelled), "bars")


async def run(
    config: Config, plan: Plan, some: Sequence[Source], report: Reporter, url: str | None, key: str | None
) -> Tally:
    """Import all files; rows that were taken by an earlier run that was cut off are passed over."""
    tally = Tally()
    began = time.perf_counter()
    async with _sink(config, plan.create, url, key) as sink:
        for source in some:
            await _import(config, plan, source, sink, report, tally)
    tally.seconds = time.perf_counter() - began
    return tally


async def _import(config: Config, plan: Plan, source: Source, sink: Sink, report: Reporter, tally: Tally) -> None:
    file, choices, _ = source
    path = file.path
    survey = await trio.to_thread.run_sync(_surveyed, source, plan.where)
    fingerprint = await trio.to_thread.run_sync(file.fingerprint)
    progress = _Progress(config.data / "imports", fingerprint, choices, plan.where)
    done = min(progress.done, survey.rows)
    report.begin(path.name, survey.rows, done, "rows")
    if done < survey.rows:
        await _send(source, plan.where, survey, progress, sink, report, tally)
    # What was refused is not here, so nobody can say that all is.
    if progress.spans and not progress.rejected:
        await sink.cover(progress.spans)


def _surveyed(source: Source, where: str) -> Survey:
    file, choices, what = source
    if what != "events":
        return Survey(file.count(where), True, [])  # which have identities of their own
    (time_,) = (choice for choice in choices if choice.field == "timestamp")
    told = " OR ".join(f"({each})" for each in _told_apart(choices)) or "false"
    return file.survey(time_, told, where, STRETCH)


def _told_apart(choices: Sequence[Choice]) -> list[str]:
    """SQL conditions, of which one holds for an event that says what it is known by."""
    said = {choice.field: f"({choice.sql}) IS NOT NULL" for choice in choices}
    return [" AND ".join(said[name] for name in names) for names in IDENTITIES if said.keys() >= set(names)]


async def _send(
    source: Source,
    where: str,
    survey: Survey,
    progress: "_Progress",
    sink: Sink,
    report: Reporter,
    tally: Tally,
) -> None:
    """Send the rows that were not taken yet."""
    file, _, what = source
    done = progress.done
    rows, flying = (ROWS, FLYING) if sink.alone else BESIDE
    read = file.read(source.choices, where, done, rows)
    batches = read if survey.all else _named(source, where, survey, done, rows)
    send, receive = trio.open_memory_channel[tuple[int, pa.RecordBatch]](0)
    finished: dict[int, tuple[int, Spans, int]] = {}  # chunks that overtook others, by their first rows
    landed = trio.Event()

    async def sending(chunks: trio.MemoryReceiveChannel[tuple[int, pa.RecordBatch]]) -> None:
        nonlocal landed
        async with chunks:
            async for at, batch in chunks:
                body = await trio.to_thread.run_sync(_encoded, batch, f"{file.path.name} {file.counts}")
                answer = msgspec.json.decode(await sink.submit(body, what), type=_Answer)
                _count(tally, source, batch.column(LINE), answer)
                if answer.rejected_count == batch.num_rows == tally.rejected:
                    raise BadRequest(f"{tally.errors[0]}; so it is with every row looked at: nothing was imported")
                finished[at] = batch.num_rows, _spans(batch), answer.rejected_count
                while progress.done in finished:
                    progress.advance(*finished.pop(progress.done))
                landed.set()
                landed = trio.Event()
                tally.rows += batch.num_rows
                report.advance(batch.num_rows)

    async with trio.open_nursery() as nursery, send, receive:
        # Of two prices of a card for one time the last in the file counts, however far apart they are.
        for _ in range(flying if what != "snapshots" else 1):
            nursery.start_soon(sending, receive.clone())
        at, instant = done, None
        while (batch := await trio.to_thread.run_sync(next, batches, None)) is not None:
            times = batch.column("time" if what == "snapshots" else "timestamp")
            if times[0].as_py() == instant:
                # Nothing but the order of their arrival may tell these rows from those before them.
                while progress.done < at:
                    await landed.wait()
            await send.send((at, batch))
            at, instant = at + batch.num_rows, times[-1].as_py()


def _named(source: Source, where: str, survey: Survey, done: int, rows: int) -> Iterator[pa.RecordBatch]:
    """The rows of a file behind the first `done`, each without an id with a name for one.

    Those of one instant are given their order as well, as names have none. All rows are read, since what a row is
    called depends on those before it.
    """
    file, choices, _ = source
    namer, at = Namer(), 0
    for batch in file.read(choices, where, 0, rows, raw=True):
        here, at = at, at + batch.num_rows
        raw = {name: batch.column(name) for name in batch.schema.names if name.startswith(RAW)}
        times = batch.column("timestamp").cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
        markets = batch.column("market_symbol") if "market_symbol" in batch.schema.names else None
        horizon = survey.since[at // STRETCH] if at // STRETCH < len(survey.since) else NEVER
        names, place = namer.names(raw, times, markets, horizon)
        if at <= done:
            continue
        yield _with_names(batch.drop_columns(list(raw)), names, place).slice(max(0, done - here))


def _with_names(batch: pa.RecordBatch, names: pa.Array, place: Array) -> pa.RecordBatch:
    """The rows with a trade id, and their order, where they have no identity."""
    said = {name: batch.column(name).is_valid() for name in batch.schema.names}
    nobody = pa.array([False] * batch.num_rows)
    known = [reduce(pc.and_, [said.get(name, nobody) for name in fields]) for fields in IDENTITIES]
    nameless = pc.invert(reduce(pc.or_, known))
    ids = batch.column("trade_id").cast(pa.string()) if "trade_id" in said else pa.nulls(batch.num_rows, pa.string())
    if "trade_id" in said:
        batch = batch.drop_columns(["trade_id"])
    batch = batch.append_column("trade_id", pc.if_else(nameless, names, ids))
    # With a transaction a log index would be another identity.
    there = pc.and_(pc.and_not(nameless, said.get("transaction_hash", nobody)), pa.array(place > 0))
    if "log_index" not in said and pc.any(there).as_py():
        batch = batch.append_column("log_index", pc.if_else(there, pa.array(place), pa.scalar(None, pa.int64())))
    return batch


def _encoded(batch: pa.RecordBatch, origin: str) -> bytes:
    """The Arrow stream of some rows, with where each is from and why it cannot be read, if it cannot."""
    origins = pc.binary_join_element_wise(origin, batch.column(LINE).cast(pa.string()), " ")
    problems = batch.column(PROBLEM)
    batch = batch.drop_columns([LINE, PROBLEM]).append_column("origin", origins)
    if problems.null_count < len(problems):
        batch = batch.append_column("unreadable", pc.utf8_slice_codeunits(problems, 0, REASON))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def _spans(batch: pa.RecordBatch) -> Spans:
    """From when to when, in whole milliseconds, there are events of each market that is named by its symbol."""
    if not {"market_symbol", "timestamp"} <= set(batch.schema.names):
        return {}
    table = pa.table({name: batch.column(name) for name in ("market_symbol", "timestamp")})
    ends = table.group_by("market_symbol").aggregate([("timestamp", "min"), ("timestamp", "max")])
    symbols = ends.column("market_symbol").to_pylist()
    first, last = (ends.column(f"timestamp_{end}").cast(pa.int64()).to_pylist() for end in ("min", "max"))
    return {
        symbol: (low // MILLI * MILLI, (high // MILLI + 1) * MILLI)
        for symbol, low, high in zip(symbols, first, last, strict=True)
        if symbol is not None and low is not None
    }


def _count(tally: Tally, source: Source, lines: pa.Array, answer: _Answer) -> None:
    tally.accepted += answer.accepted
    tally.duplicates += answer.duplicates
    tally.corrected += answer.corrected
    tally.retracted += answer.retracted
    tally.rejected += answer.rejected_count
    columns = {choice.field: choice.origin.partition(" (")[0] for choice in source.choices}
    for one in answer.rejected[: SHOWN - len(tally.errors)]:
        field, colon, rest = one.error.partition(":")
        column = columns.get(field, field)
        error = f"{field} ({column}){colon}{rest}" if colon and column not in one.error else one.error
        tally.errors.append(f"{source.file.path.name}: {source.file.counts} {lines[one.index]}: {error}")


class _Said(Struct):
    """What the note about a file says."""

    rows: int = 0
    rejected: int = 0
    spans: Spans = {}


class _Progress:
    """How many rows of a file were taken, for a run that comes after one that was cut off."""

    def __init__(self, folder: Path, fingerprint: str, choices: Sequence[Choice], where: str) -> None:
        said = msgspec.json.encode([fingerprint, [(one.field, one.sql) for one in choices], where])
        self._path = folder / f"{blake2b(said, digest_size=12).hexdigest()}.json"
        self._said = _Said()
        with suppress(OSError, msgspec.MsgspecError):
            self._said = msgspec.json.decode(self._path.read_bytes(), type=_Said)

    @property
    def done(self) -> int:
        """Rows that are in the journal, from the first on without a gap."""
        return self._said.rows

    @property
    def spans(self) -> Spans:
        """From when to when they say something of each market."""
        return self._said.spans

    @property
    def rejected(self) -> int:
        """How many of them were refused."""
        return self._said.rejected

    def advance(self, rows: int, spans: Spans, rejected: int) -> None:
        """So many rows more are in the journal, or were refused."""
        self._said.rows += rows
        self._said.rejected += rejected
        for market, (low, high) in spans.items():
            first, last = self.spans.get(market, (low, high))
            self.spans[market] = min(first, low), max(last, high)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        beside = self._path.with_suffix(".new")
        beside.write_bytes(msgspec.json.encode(self._said))
        os.replace(beside, self._path)


@asynccontextmanager
async def _sink(config: Config, create: Kind | None, url: str | None, key: str | None) -> AsyncIterator[Sink]:
    """Into the data directory itself when nobody uses it, else through the daemon that does."""
    if url is not None:
        if not key:
            raise BadRequest("--url needs a key: give --key, or set CANDLED_KEY")
        yield Remote(url, key, create)
        return
    commands.make_folder(config)
    if not commands.in_use(config):
        async with opened(structs.replace(stack_settings(config), create=create)) as stack:
            yield Direct(stack)
        return
    yield Remote(*commands.address(config), create)


class Direct:
    """The intake of a data directory that this process has opened."""

    alone = True

    def __init__(self, stack: Stack) -> None:
        self._intake, self._registry, self._coverage = stack.intake, stack.registry, stack.coverage

    async def submit(self, body: bytes, what: What) -> bytes:
        """Take events or bars."""
        answer: bytes = await self._intake.submit(body, ARROW, form=FORMS[what], source="import")
        return answer

    async def cover(self, spans: Spans) -> None:
        """Note what was imported."""
        slots = await self._registry.load(list(spans))
        await self._coverage.cover(IMPORTS, [(slots[name], *span) for name, span in spans.items() if name in slots])


class Remote:
    """The ingest of a running daemon."""

    alone = False

    def __init__(self, url: str, key: str, create: Kind | None) -> None:
        self._url = urlsplit(url if "//" in url else f"http://{url}")
        if self._url.scheme not in ("http", "https") or not self._url.hostname:
            raise BadRequest(f"--url: expected something like http://127.0.0.1:8000, got {url!r}")
        self._query = f"?create={create}" if create else ""
        self._key = {"Authorization": f"Bearer {key}"}
        self._idle: list[http.client.HTTPConnection] = []

    async def submit(self, body: bytes, what: What) -> bytes:
        """Post events or bars."""
        return await self._taken(f"/api/ingest/{what}{self._query}", body, ARROW)

    async def cover(self, spans: Spans) -> None:
        """Say what was imported."""
        said = [
            {"feed": IMPORTS, "markets": [name], "from": low // MILLI, "to": high // MILLI}
            for name, (low, high) in spans.items()
        ]
        for i in range(0, len(said), SPANS):
            body = msgspec.json.encode(said[i : i + SPANS])
            await self._taken("/api/ingest/coverage", body, "application/json")

    async def _taken(self, path: str, body: bytes, kind: str) -> bytes:
        """The answer to what is posted; a daemon that is away, full or limits us is waited for."""
        until = trio.current_time() + PATIENCE
        while True:
            try:
                status, headers, answer = await trio.to_thread.run_sync(self._post, path, body, kind)
            except (OSError, http.client.HTTPException) as error:
                problem, pause = f"{self._url.geturl()}: {error}", 1.0
            else:
                if status == 200:
                    return answer
                problem = f"{self._url.geturl()} answered {status}: {told(answer)}"
                if status not in (429, 503):
                    raise refusal(status, problem)
                pause = seconds_of(headers.get("Retry-After"))
            if trio.current_time() + pause > until:
                raise Unavailable(f"{problem}; what was taken stays, start the same command again to go on")
            await trio.sleep(pause)

    def _post(self, path: str, body: bytes, kind: str) -> tuple[int, Any, bytes]:
        connection = self._idle.pop() if self._idle else self._connected()
        try:
            connection.request("POST", path, body, {**self._key, "Content-Type": kind})
            response = connection.getresponse()
            answer = response.read()
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)
        return response.status, response.headers, answer

    def _connected(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._url.scheme == "https" else http.client.HTTPConnection
        assert self._url.hostname is not None
        return kind(self._url.hostname, self._url.port, timeout=60)


def told(answer: bytes) -> str:
    """What a daemon says is wrong."""
    try:
        return str(json.loads(answer)["error"])
    except (ValueError, KeyError, TypeError):
        return answer[:200].decode(errors="replace")


def refusal(status: int, problem: str) -> CandledError:
    """What to raise where a daemon answered so: BadRequest for what was asked wrongly."""
    return BadRequest(problem) if status in (400, 413, 415, 422) else Unavailable(problem)


def seconds_of(text: str | None) -> float:
    """How long a Retry-After wants us to wait, within reason."""
    try:
        return min(max(float(text or 1), 0.1), 30.0)
    except ValueError:
        return 1.0
