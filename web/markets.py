"""The registry of markets: list, look up, register, change, deactivate."""

from typing import Any

import msgspec
from msgspec import Struct
from quart import Blueprint, Response
from werkzeug.routing import BaseConverter

from actors.decode import UnsupportedMediaType
from storage.errors import BadRequest
from storage.records import Kind, shown
from web.context import JSON, NO_STORE, body, params, reply, request, services

markets = Blueprint("markets", __name__, url_prefix="/api/markets")

LISTED = 100  # markets on a page that does not say how many
MOST_LISTED = 500


class Symbol(BaseConverter):
    """The rest of the path, slashes and all: symbols may hold them."""

    part_isolating = False
    regex = ".+"


class ListQuery(Struct, frozen=True):
    query: str = ""
    kind: Kind | None = None
    limit: int = LISTED
    after: str = ""


@markets.get("")
async def listed() -> Response:
    """Markets in the order of registration, deactivated ones too; `next` continues the list as `after`."""
    asked = params(ListQuery)
    if asked.limit < 1:
        raise BadRequest(f"limit: expected 1 to {MOST_LISTED}, got {asked.limit}")
    limit = min(asked.limit, MOST_LISTED)
    registry = services().registry
    after = (await registry.named(asked.after)).slot if asked.after else 0
    found = await registry.page(after, limit + 1, asked.query, asked.kind)
    more = found[limit - 1].market_symbol if len(found) > limit else None
    return _told({"markets": [shown(market) for market in found[:limit]], "next": more})


@markets.post("")
async def put() -> Response:
    """Register a market, or change the named fields of the one with this symbol."""
    fields = await _fields()
    symbol = fields.get("market_symbol")
    known = isinstance(symbol, str) and bool(await services().registry.load([symbol]))
    market = await services().registry.put(fields)
    return _told(shown(market), 200 if known else 201)


@markets.get("/<symbol:symbol>")
async def one(symbol: str) -> Response:
    """One market by any name it goes by."""
    return _told(shown(await services().registry.named(symbol)))


@markets.patch("/<symbol:symbol>")
async def patch(symbol: str) -> Response:
    """Change the named fields of a market."""
    return _told(shown(await services().registry.patch(symbol, await _fields())))


@markets.delete("/<symbol:symbol>")
async def deactivate(symbol: str) -> Response:
    """Take a market off the lists; its history stays."""
    return _told(shown(await services().registry.deactivate(symbol)))


async def _fields() -> dict[str, Any]:
    kind = request().headers.get("Content-Type", "")
    if kind.partition(";")[0].strip().lower() != JSON:
        raise UnsupportedMediaType(f"Content-Type: expected {JSON}, got {kind!r:.100}")
    try:
        fields = msgspec.json.decode(await body())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"body: expected a JSON object: {error}") from None
    if not isinstance(fields, dict):
        raise BadRequest(f"body: expected a JSON object with the fields of one market, got {fields!r:.100}")
    return fields


def _told(answer: object, status: int = 200) -> Response:
    return reply(answer, status, {"Cache-Control": NO_STORE})
