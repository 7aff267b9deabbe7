"""`candled export`: bars or events of a market as a file, from a data directory or through its running daemon."""

import http.client
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar
from urllib.parse import urlencode, urlsplit

import pyarrow as pa
import trio
from msgspec import Struct, structs

from actors.export import FIRST, Exporter, bar_schema, moment, resolution_named
from actors.reading import LATEST
from daemon import commands
from daemon.config import Config
from daemon.importing import PATIENCE, refusal, seconds_of, told
from daemon.serve import stack_settings
from daemon.stack import opened
from storage import listing
from storage.calendar import MICROS, Resolution
from storage.errors import BadRequest, Unavailable
from storage.formats import BINARY, FORMATS, Format, encoder

T = TypeVar("T")
PIECE = 256 << 10  # bytes that are read of an answer at a time
SILENCE = 600.0  # seconds that a daemon may take for the next piece


class Wanted(Struct, frozen=True, kw_only=True):
    """What is to be exported: bars of a resolution, or events where there is none."""

    market: str
    resolution: str | None
    start: str
    end: str
    format: Format
    to: Path | None  # None: standard output


class Reporter(Protocol):
    """Who is told how far it is."""

    def begin(self, what: str, total: int | None, done: int, unit: str) -> None: ...
    def advance(self, count: int) -> None: ...


class Sink(Protocol):
    """Where the bytes go."""

    def write(self, data: bytes, /) -> object: ...


def format_of(given: str | None, to: Path | None) -> Format:
    """The format that was asked for, or that the name of the file says; CSV where neither does."""
    said = given or (to.suffix.removeprefix(".").lower() if to is not None else "")
    said = {"jsonl": "ndjson", "pq": "parquet"}.get(said, said)
    found: Format = next((kind for kind in FORMATS if kind == said), "csv")
    if to is None and found in BINARY and sys.stdout is not None and sys.stdout.isatty():
        raise BadRequest(f"{found} is nothing for a terminal: give -o FILE, or send standard output elsewhere")
    return found


async def run(config: Config, wanted: Wanted, report: Reporter, url: str | None, key: str | None) -> tuple[int, float]:
    """Export; how many bytes that came to, and in how many seconds."""
    began = time.perf_counter()
    resolution = None if wanted.resolution is None else resolution_named(wanted.resolution)
    span = moment("--from", wanted.start, FIRST), moment("--to", wanted.end, LATEST)
    with _sink(wanted.to) as sink:
        if url is not None:
            if not key:
                raise BadRequest("--url needs a key: give --key, or set CANDLED_KEY")
            size = await _fetched(url, key, wanted, span, sink, report)
        else:
            commands.see_exists(config)
            if commands.in_use(config):
                size = await _fetched(*commands.address(config), wanted, span, sink, report)
            else:
                size = await _read(config, wanted, resolution, span, sink, report)
    return size, time.perf_counter() - began


async def _read(
    config: Config,
    wanted: Wanted,
    resolution: Resolution | None,
    span: tuple[int, int],
    sink: Sink,
    report: Reporter,
) -> int:
    """From the data directory, which nobody else uses."""
    size = days = 0
    async with opened(structs.replace(stack_settings(config), or_read=True)) as stack:
        exporter = Exporter(stack.engine, stack.writer, stack.store, stack.database.read)
        market = await stack.engine.market(wanted.market)
        if resolution is None:
            rows, schema = exporter.events(market, *span), listing.schema_of(market.kind)
            _note(await exporter.lacking(market, *span))
        else:
            start, end = (math.ceil(at / MICROS) for at in span)
            rows, schema = exporter.bars(market, resolution, start, end), bar_schema(market.kind)
        making = encoder(wanted.format, schema)
        async with aclosing(rows):
            async for stretch in rows:
                if not days:
                    report.begin(market.market_symbol, stretch.total, 0, "days")
                    days = 1
                size += await trio.to_thread.run_sync(_put, sink, making.add, stretch.rows)
                report.advance(max(0, stretch.days + 1 - days))
                days = max(days, stretch.days + 1)
        size += await trio.to_thread.run_sync(_put, sink, making.end)
    return size


def _note(lacking: str) -> None:
    """Say what the export has not."""
    if lacking:
        print(f"note: {lacking}", file=sys.stderr)


def _put(sink: Sink, made: Callable[..., bytes], *rows: pa.RecordBatch) -> int:
    """Write what rows come to; how much that is."""
    piece = made(*rows)
    sink.write(piece)
    return len(piece)


async def _fetched(url: str, key: str, wanted: Wanted, span: tuple[int, int], sink: Sink, report: Reporter) -> int:
    """Through a daemon."""
    parts = urlsplit(url if "//" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadRequest(f"--url: expected something like http://127.0.0.1:8000, got {url!r}")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    asked = {"symbol": wanted.market, "from": span[0] / MICROS, "to": span[1] / MICROS, "format": wanted.format}
    if wanted.resolution is not None:
        asked["resolution"] = wanted.resolution
    path = f"/api/export/{'events' if wanted.resolution is None else 'bars'}?{urlencode(asked)}"
    until = trio.current_time() + PATIENCE
    while True:
        connection = kind(parts.hostname, parts.port, timeout=SILENCE)
        try:
            answer = await _answered(url, _asked, connection, path, key)
            if answer.status == 200:
                _note(answer.headers.get("X-Lacking", ""))
                report.begin(wanted.market, None, 0, "KiB")
                return await _copied(url, answer, sink, report)
            problem = f"{url} answered {answer.status}: {told(await _answered(url, answer.read))}"
        finally:
            connection.close()
        pause = seconds_of(answer.headers.get("Retry-After"))
        if answer.status not in (429, 503) or trio.current_time() + pause > until:
            raise refusal(answer.status, problem)
        await trio.sleep(pause)


async def _answered(url: str, work: Callable[..., T], *arguments: Any) -> T:
    """What `work` gets from the daemon; Unavailable where that is no longer there, or cuts its answer."""
    try:
        return await trio.to_thread.run_sync(work, *arguments)
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(f"{url}: {str(error) or 'the answer was cut'}; nothing whole came of this") from error


def _asked(connection: http.client.HTTPConnection, path: str, key: str) -> http.client.HTTPResponse:
    connection.request("GET", path, headers={"Authorization": f"Bearer {key}"})
    return connection.getresponse()


async def _copied(url: str, answer: http.client.HTTPResponse, sink: Sink, report: Reporter) -> int:
    size = 0
    while piece := await _answered(url, answer.read, PIECE):
        await trio.to_thread.run_sync(sink.write, piece)
        report.advance((size + len(piece) >> 10) - (size >> 10))
        size += len(piece)
    return size


@contextmanager
def _sink(to: Path | None) -> Iterator[Sink]:
    """Standard output, or a file that has its name once it is whole."""
    if to is None:
        if sys.stdout is None:
            raise Unavailable("standard output is closed; give -o FILE")
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    beside = to.with_name(f".{to.name}.{os.getpid()}")
    try:
        with _named(to):
            with beside.open("wb") as file:
                yield _File(file, to)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, to)
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


class _File:
    """A file whose errors name the one that it is to become."""

    def __init__(self, file: BinaryIO, to: Path) -> None:
        self._file, self._to = file, to

    def write(self, data: bytes, /) -> int:
        """As of any file; raises Unavailable."""
        with _named(self._to):
            return self._file.write(data)


@contextmanager
def _named(to: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(f"{to} cannot be written: {error.strerror or error}") from error
