"""Marks on charts: those of UDF, and those that somebody makes."""

import math
import re
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct
from quart import Blueprint, Response
from werkzeug.exceptions import NotFound

from actors.marks import Mark
from storage import calendar
from storage import marks as own
from storage.errors import BadRequest
from storage.marks import PLACES, Border
from storage.records import Market
from web.context import NO_STORE, engine, params, reply, sent, services
from web.instants import micros, millis
from web.parameters import ChartFrom, Resolution, Symbol, said
from web.shapes import parsed, shown
from web.udf import FIRST, LAST, blamed, instant

marks = Blueprint("marks", __name__)

UDF = "/api/tradingview"
OWN = "/api/markets/<symbol:symbol>/marks"
NAMES = ("red", "green", "blue", "yellow")
COLOR = re.compile(r"#[0-9a-fA-F]{3,8}|[a-z]{3,20}|rgba?\([0-9., %]{5,40}\)")
LONGEST = 500  # characters of a text
LISTED = 100
MOST_LISTED = 1_000
SIZE = 14  # pixels


class Query(Struct, frozen=True):
    symbol: Symbol
    resolution: Resolution
    start: ChartFrom = msgspec.field(name="from")
    end: Annotated[str, said("Seconds since 1970, inclusive; as `from`.", "4102444800", type="number")] = msgspec.field(
        name="to"
    )


class OnBar(Struct, frozen=True, rename={"label_color": "labelFontColor", "size": "minSize"}):
    """A mark as a chart reads it."""

    id: str
    time: int
    color: str | Border
    text: str
    label: str
    label_color: str
    size: int


class OnTimescale(Struct, frozen=True):
    """A mark below the bars, as a chart reads it."""

    id: str
    time: int
    color: str | Border
    label: str
    tooltip: list[str]


class Wanted(Struct, frozen=True, forbid_unknown_fields=True):
    """A mark that somebody makes."""

    time: int | float | str
    text: Annotated[str, Meta(min_length=1, max_length=LONGEST)]
    label: Annotated[str, Meta(min_length=1, max_length=1)] = "M"
    color: Any = "blue"
    on: str = "bars"


class Told(Struct, frozen=True):
    """A mark that somebody made."""

    id: int
    time: int | float  # ms
    text: str
    label: str
    color: str | Border
    on: own.Place


class Listed(Struct, frozen=True):
    """Marks that somebody made, the newest first; `next` continues the list as `after`."""

    marks: list[Told]
    next: int | None


class ListQuery(Struct, frozen=True):
    limit: Annotated[int, Meta(ge=1, description=f"At most so many; never more than {MOST_LISTED}.")] = LISTED
    after: Annotated[int, Meta(ge=1, description="`next` of the page before.")] | None = None


@marks.get(f"{UDF}/marks")
async def on_bars() -> Response:
    """What happened at the bars with from ≤ t ≤ to."""
    found = await services().marker.on_bars(*await _asked())
    told = [
        OnBar(mark.id, mark.time, mark.color, mark.text, mark.label, "black" if _light(mark) else "white", SIZE)
        for mark in found
    ]
    return reply(told, headers={"Cache-Control": NO_STORE})


@marks.get(f"{UDF}/timescale_marks")
async def on_timescale() -> Response:
    """The same for the scale below the bars, without trades."""
    found = await services().marker.on_timescale(*await _asked())
    told = [OnTimescale(mark.id, mark.time, mark.color, mark.label, mark.text.splitlines()) for mark in found]
    return reply(told, headers={"Cache-Control": NO_STORE})


@marks.post(OWN)
async def put(symbol: str) -> Response:
    """Make a mark."""
    market = await engine().market(symbol)
    said = parsed(await _fields(), Wanted, texts=False)
    if said.on not in PLACES:
        raise BadRequest(f"on: expected {' or '.join(PLACES)}, got {shown(said.on)}")
    place = next(one for one in PLACES if one == said.on)
    mark = own.Mark(
        id=0, at=micros("time", said.time), place=place, text=said.text, label=said.label, color=_color(said.color)
    )
    return _answer(_told(await services().marker.put(market, mark)), 201)


@marks.get(OWN)
async def listed(symbol: str) -> Response:
    """The marks that somebody made, the newest first; `next` continues the list as `after`."""
    asked = params(ListQuery)
    limit = min(asked.limit, MOST_LISTED)
    market = await engine().market(symbol)
    before = 2**62 if asked.after is None else min(asked.after, 2**62)
    found = await services().marker.page(market, before, limit + 1)
    more = found[limit - 1].id if len(found) > limit else None
    return _answer(Listed([_told(mark) for mark in found[:limit]], more))


@marks.delete(f"{OWN}/<int:which>")
async def delete(symbol: str, which: int) -> Response:
    """Delete a mark."""
    market = await engine().market(symbol)
    if which >= 2**63 or not await services().marker.delete(market, which):
        raise NotFound
    return _answer(b"", 204)


async def _asked() -> tuple[Market, calendar.Resolution, int, int, int]:
    query = params(Query)
    with blamed("resolution"):
        resolution = calendar.parse(query.resolution)
    start, end = instant("from", query.start), instant("to", query.end)
    with blamed("symbol"):
        market = await engine().market(query.symbol)
    first, last = (min(max(at, FIRST), LAST - 1) for at in (math.ceil(start), math.floor(end)))
    return market, resolution, first, last, services().coverage.micros()


async def _fields() -> dict[str, Any]:
    found = await sent("a JSON object")
    if not isinstance(found, dict):
        raise BadRequest(f"body: expected a JSON object with the fields of one mark, got {shown(found)}")
    return found


def _color(said: Any) -> str | Border:
    if said in NAMES:
        return str(said)
    if isinstance(said, dict) and said.keys() == {"border", "background"}:
        border, background = said["border"], said["background"]
        if all(isinstance(one, str) and COLOR.fullmatch(one) for one in (border, background)):
            return Border(border, background)
    raise BadRequest(
        f'color: expected {", ".join(NAMES)} or {{"border": "#rrggbb", "background": "#rrggbb"}}, got {shown(said)}'
    )


def _light(mark: Mark) -> bool:
    return mark.color == "yellow" or isinstance(mark.color, Border)


def _told(mark: own.Mark) -> Told:
    return Told(mark.id, millis(mark.at), mark.text, mark.label, mark.color, mark.place)


def _answer(answer: object, status: int = 200) -> Response:
    return reply(answer, status, {"Cache-Control": NO_STORE})
