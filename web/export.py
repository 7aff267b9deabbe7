"""All bars or all events of a market, as a file that is made while it is sent."""

import math
from collections.abc import AsyncGenerator
from typing import Annotated, cast
from urllib.parse import quote

import msgspec
import pyarrow as pa
from msgspec import Struct
from quart import Blueprint, Response, current_app

from actors.export import FIRST, Exporter, Stretch, bar_schema, moment, resolution_named
from actors.reading import LATEST
from storage import listing
from storage.calendar import MICROS
from storage.errors import BadRequest, Unavailable
from storage.formats import FORMATS, KINDS, Format, encoder
from web.context import NO_STORE, Services, engine, params, request
from web.parameters import AnyResolution, FileFrom, FileTo, Symbol, said
from web.streamed import Streamed
from web.udf import blamed

export = Blueprint("export", __name__, url_prefix="/api/export")

EXTENSION = "candled.export"
LACKING = "X-Lacking"  # which raw events are not there, because they were dropped
AT_ONCE = 4  # exports; each holds some stretches in memory
AGAIN = 5  # seconds until another may be asked for


class Exports:
    """Those that are under way."""

    def __init__(self, some: Services) -> None:
        self.exporter = Exporter(some.engine, some.writer, some.store, some.database.read)
        self.count = 0

    def begin(self) -> None:
        """One more; Unavailable where that would be too many."""
        if self.count >= AT_ONCE:
            raise Unavailable(f"{AT_ONCE} exports are under way, which is all at a time", retry_after=AGAIN)
        self.count += 1

    def end(self) -> None:
        """One less."""
        self.count -= 1


FileFormat = Annotated[str, said("The form of the file.", enum=list(FORMATS))]


class BarsQuery(Struct, frozen=True):
    symbol: Symbol
    resolution: AnyResolution
    start: FileFrom = msgspec.field(name="from", default="")
    end: FileTo = msgspec.field(name="to", default="")
    format: FileFormat = "csv"


class EventsQuery(Struct, frozen=True):
    symbol: Symbol
    start: FileFrom = msgspec.field(name="from", default="")
    end: FileTo = msgspec.field(name="to", default="")
    format: FileFormat = "csv"


@export.get("/bars")
async def bars() -> Response:
    """All bars of one market at one resolution with from ≤ time < to."""
    query = params(BarsQuery)
    with blamed("resolution"):
        resolution = resolution_named(query.resolution)
    kind = _format(query.format)
    start, end = (math.ceil(at / MICROS) for at in _span(query))
    with blamed("symbol"):
        market = await engine().market(query.symbol)
    rows = exports().exporter.bars(market, resolution, start, end)
    return await _answer(rows, bar_schema(market.kind), kind, f"{market.market_symbol}-{resolution.short}")


@export.get("/events")
async def events() -> Response:
    """All events of one market with from ≤ timestamp < to, as they were sent."""
    query = params(EventsQuery)
    kind = _format(query.format)
    start, end = _span(query)
    with blamed("symbol"):
        market = await engine().market(query.symbol)
    rows = exports().exporter.events(market, start, end)
    lacking = await exports().exporter.lacking(market, start, end)
    return await _answer(rows, listing.schema_of(market.kind), kind, f"{market.market_symbol}-events", lacking)


def exports() -> Exports:
    """The exports of the app that answers this request."""
    return cast(Exports, current_app.extensions[EXTENSION])


def _format(text: str) -> Format:
    if text not in FORMATS:
        raise BadRequest(f"format: expected {', '.join(FORMATS)}, got {text!r:.100}")
    return text


def _span(query: BarsQuery | EventsQuery) -> tuple[int, int]:
    return moment("from", query.start, FIRST), moment("to", query.end, LATEST)


async def _answer(
    rows: AsyncGenerator[Stretch, None], schema: pa.Schema, kind: Format, name: str, lacking: str = ""
) -> Response:
    """The answer, once its first rows were read: what is wrong until then has a status of its own."""
    headers = {
        "Content-Type": KINDS[kind],
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}.{kind}",
        "X-Cursor": f"{engine().epoch}.{engine().committed()}",
        "Cache-Control": NO_STORE,
    }
    if lacking:
        headers[LACKING] = lacking
    running = exports()
    running.begin()
    pieces = running.exporter.encoded(rows, encoder(kind, schema))
    try:
        first = b"" if request().method == "HEAD" else await anext(pieces, b"")
    except BaseException:
        running.end()
        raise
    return Streamed(first, pieces, headers, running.end)
