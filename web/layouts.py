"""TradingView's storage of charts, version 1.1: layouts, indicator templates, drawing templates, drawings.

Each belongs to a user of a client, as both are named in the query. Nobody checks these names: whoever may read charts
may save for any of them, and read what is saved for any that they know or guess.
"""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial
from io import BytesIO
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct
from quart import Blueprint, Response
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.formparser import FormDataParser

from storage import layouts as kept
from storage.errors import BadRequest, TooLarge
from storage.layouts import Limits, Owner
from web.context import JSON, NO_STORE, QUICK, apart, large, params, read, reply, request, services
from web.parameters import said
from web.shapes import parsed

layouts = Blueprint("layouts", __name__, url_prefix="/api/charts_storage/1.1")

T = TypeVar("T", bound=Struct)
D = TypeVar("D")
PREFIX = "/api/charts_storage/"
LARGEST = 4 << 20  # characters of one content
LARGEST_BODY = 4 * LARGEST  # bytes, as forms write them
FIELDS = 100  # of a form
Name = Annotated[str, Meta(min_length=1, max_length=200)]


class Whose(Struct, frozen=True, kw_only=True):
    client: Annotated[Name, Meta(description="Which page or site.", examples=["example.org"])]
    user: Annotated[Name, Meta(description="Which of its users.", examples=["ann"])]

    @property
    def owner(self) -> Owner:
        """Whose it is."""
        return Owner(self.client, self.user)


class ChartQuery(Whose, frozen=True, kw_only=True):
    chart: Annotated[int, Meta(ge=0, description="Which layout.")] | None = None


class StudyQuery(Whose, frozen=True, kw_only=True):
    template: Annotated[str, said("The name of a template.")] = ""


class ToolQuery(Whose, frozen=True, kw_only=True):
    tool: Annotated[Name, Meta(description="Which drawing tool.", examples=["LineToolTrendLine"])]
    name: Annotated[str, said("The name of a template.")] = ""


class DrawingsQuery(Whose, frozen=True, kw_only=True):
    layout: Annotated[str, Meta(max_length=200, description="Which layout.")] = ""
    chart: Annotated[Name, Meta(description="Which chart of it.", examples=["1"])]


class Chart(Struct, frozen=True):
    name: Name
    content: str
    symbol: Annotated[str, Meta(max_length=200)] = ""
    resolution: Annotated[str, Meta(max_length=200)] = ""


class Study(Struct, frozen=True):
    name: Name
    content: str


class Tool(Struct, frozen=True):
    content: str


class Drawings(Struct, frozen=True):
    state: Any


class Ok(Struct, frozen=True):
    """Done."""

    status: Literal["ok"] = "ok"


class Told(Struct, Generic[D], frozen=True, kw_only=True):
    """What was asked for."""

    status: Literal["ok"] = "ok"
    data: D


class Number(Struct, frozen=True, kw_only=True):
    """The number of a layout that was saved."""

    status: Literal["ok"] = "ok"
    id: int


class Failure(Struct, frozen=True, kw_only=True):
    """An error in the shape of this API."""

    status: Literal["error"] = "error"
    message: str


class ListedChart(Struct, frozen=True, kw_only=True):
    """A layout of a list."""

    timestamp: int  # seconds
    id: int
    name: str
    symbol: str
    resolution: str


class WholeChart(Struct, frozen=True, kw_only=True):
    """A layout."""

    id: int
    name: str
    timestamp: int  # seconds
    content: str


class Named(Struct, frozen=True):
    """A template of a list."""

    name: str


class Template(Struct, frozen=True):
    """A template."""

    name: str
    content: str


class Drawn(Struct, frozen=True):
    """What was drawn: an object with `sources` and `groups`."""

    state: Any


@layouts.get("/charts")
async def charts() -> Response:
    """The list of layouts, or one of them."""
    asked = params(ChartQuery)
    if asked.chart is None:
        found = await _ask(kept.listed, asked.owner, "chart")
        listed = [
            ListedChart(timestamp=c.changed, id=c.id, name=c.name, symbol=c.symbol, resolution=c.resolution)
            for c in found
        ]
        return _told(listed)
    one = await _ask(kept.numbered, asked.owner, asked.chart)
    return _told(WholeChart(id=one.id, name=one.name, timestamp=one.changed, content=one.content))


@layouts.post("/charts")
async def save_chart() -> Response:
    """Keep a layout."""
    asked, said = params(ChartQuery), await _said(Chart)
    chart = kept.Chart(said.name, said.symbol, said.resolution, _short(said.content))
    number = await _ask(kept.save, asked.owner, asked.chart, chart, _limits())
    return reply(Number(id=number), headers={"Cache-Control": NO_STORE})


@layouts.delete("/charts")
async def remove_chart() -> Response:
    """Forget a layout."""
    asked = params(ChartQuery)
    if asked.chart is None:
        raise BadRequest("chart: needed")
    return _told(await _ask(kept.remove, asked.owner, asked.chart))


@layouts.get("/study_templates")
async def studies() -> Response:
    """The names of indicator templates, or one of them."""
    asked = params(StudyQuery)
    if not asked.template:
        return _told([Named(one.name) for one in await _ask(kept.listed, asked.owner, "study")])
    one = await _ask(kept.named, asked.owner, "study", "", asked.template)
    return _told(Template(one.name, one.content))


@layouts.post("/study_templates")
async def save_study() -> Response:
    """Keep an indicator template."""
    asked, said = params(StudyQuery), await _said(Study)
    content = _short(said.content)
    return _told(await _ask(kept.put, asked.owner, "study", "", said.name, lambda _: content, _limits()))


@layouts.delete("/study_templates")
async def remove_study() -> Response:
    """Forget an indicator template."""
    asked = params(StudyQuery)
    return _told(await _ask(kept.discard, asked.owner, "study", "", _needed("template", asked.template)))


@layouts.get("/drawing_templates")
async def tools() -> Response:
    """The names of the templates of a drawing tool, or one of them."""
    asked = params(ToolQuery)
    if not asked.name:
        return _told([one.name for one in await _ask(kept.listed, asked.owner, "tool", asked.tool)])
    one = await _ask(kept.named, asked.owner, "tool", asked.tool, asked.name)
    return _told(Template(one.name, one.content))


@layouts.post("/drawing_templates")
async def save_tool() -> Response:
    """Keep a template of a drawing tool."""
    asked, said = params(ToolQuery), await _said(Tool)
    name, content = _needed("name", asked.name), _short(said.content)
    return _told(await _ask(kept.put, asked.owner, "tool", asked.tool, name, lambda _: content, _limits()))


@layouts.delete("/drawing_templates")
async def remove_tool() -> Response:
    """Forget a template of a drawing tool."""
    asked = params(ToolQuery)
    return _told(await _ask(kept.discard, asked.owner, "tool", asked.tool, _needed("name", asked.name)))


@layouts.get("/drawings")
async def drawings() -> Response:
    """The drawings of a chart of a layout, where they are kept apart from it."""
    asked = params(DrawingsQuery)
    try:
        one = await _ask(kept.named, asked.owner, "drawings", asked.layout, asked.chart)
    except kept.UnknownLayout:  # nothing was drawn yet
        return _told(Drawn({"sources": {}, "groups": {}}))
    return _told(Drawn(msgspec.Raw(one.content.encode())))


@layouts.post("/drawings")
async def save_drawings() -> Response:
    """Take over what changed of the drawings of a chart."""
    asked, said = params(DrawingsQuery), await _said(Drawings)
    changes = await apart(_state, said.state)
    made = lambda old: _short(msgspec.json.encode(merged(old, changes)).decode())  # noqa: E731
    return _told(await _ask(kept.put, asked.owner, "drawings", asked.layout, asked.chart, made, _limits()))


def told(message: str) -> Failure:
    """An error in the shape of this API."""
    return Failure(message=message)


def merged(old: str | None, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Drawings and groups after a change: what has become null is gone, what is not named stays."""
    state: dict[str, Any] = {"sources": {}, "groups": {}} if old is None else msgspec.json.decode(old)
    for name, value in changes.items():
        if name not in ("sources", "groups"):
            state[name] = value
            continue
        state[name].update(value or {})
        state[name] = {key: one for key, one in state[name].items() if one is not None}
    return state


def _state(said: Any) -> dict[str, Any]:
    """What a client says of its drawings, as JSON or a text of JSON; maps as objects or as lists of pairs."""
    try:
        found = msgspec.json.decode(said) if isinstance(said, str) else said
        state = msgspec.convert(found, dict[str, Any])
        for name in ("sources", "groups"):
            if isinstance(state.get(name), list):
                state[name] = dict(msgspec.convert(state[name], list[tuple[str, Any]]))
            elif name in state:
                state[name] = msgspec.convert(state[name], dict[str, Any] | None)
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError) as error:
        raise BadRequest(f"state: expected an object with sources and groups: {error}") from None
    return state


async def _said(shape: type[T]) -> T:
    """The body: a form, as the library sends it, or JSON."""
    kind = request().headers.get("Content-Type", "").partition(";")[0].strip().lower()
    data = await _body()
    if kind != JSON:
        return parsed(await read(partial(_form, request().mimetype, dict(request().mimetype_params)), data), shape)
    try:
        found = await read(msgspec.json.decode, data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"body: expected a form or a JSON object: {error}") from None
    if not isinstance(found, dict):
        raise BadRequest("body: expected a form or a JSON object")
    return parsed(found, shape)


async def _body() -> bytes:
    """The body. Only some that are large arrive at a time, because anybody may save: who is slow waits with them."""
    data = bytearray()
    async with AsyncExitStack() as stack:
        async for piece in request().body:
            if len(data) <= QUICK < len(data) + len(piece):
                await stack.enter_async_context(large())
            data += piece
            if len(data) > LARGEST_BODY:
                raise RequestEntityTooLarge
    return bytes(data)


def _form(kind: str, options: dict[str, str], data: bytes) -> dict[str, str]:
    """The fields of a form of either kind."""
    parser = FormDataParser(max_form_memory_size=LARGEST_BODY, max_form_parts=FIELDS)
    _, fields, _ = parser.parse(BytesIO(data), kind, len(data), options)
    return fields.to_dict()


def _short(content: str) -> str:
    if len(content) > LARGEST:
        raise TooLarge(f"content: expected at most {LARGEST} characters, got {len(content)}")
    return content


def _needed(name: str, value: str) -> str:
    if not 0 < len(value) <= 200:
        raise BadRequest(f"{name}: expected a text of 1 to 200 characters, got {value!r:.60}")
    return value


def _limits() -> Limits:
    settings = services().settings
    return Limits(settings.saved_per_user, settings.saved)


async def _ask(work: Any, *arguments: Any) -> Any:
    return await services().registry.ask(work, *arguments)


def _told(data: Any) -> Response:
    return reply(Ok() if data is None else Told(data=data), headers={"Cache-Control": NO_STORE})
