"""The registry of markets: list, look up, register, change, deactivate."""

from typing import Annotated, Any, Generic, TypeVar

from msgspec import UNSET, Meta, Struct, UnsetType
from quart import Blueprint, Response
from werkzeug.routing import BaseConverter

from storage.errors import BadRequest
from storage.ordering import Order, Wanted
from storage.records import Kind, shown
from web import listing
from web.context import NO_STORE, day, engine, params, reply, sent, services
from web.listing import LIVE, Spark
from web.parameters import said

R = TypeVar("R")
markets = Blueprint("markets", __name__, url_prefix="/api/markets")

LISTED = 100  # markets on a page that does not say how many
MOST_LISTED = 500


class Symbol(BaseConverter):
    """The rest of the path, slashes and all: symbols may hold them."""

    part_isolating = False
    regex = ".+"


class ListQuery(Struct, frozen=True):
    query: Annotated[str, said("Words that symbol, name or description have; nothing: all markets.")] = ""
    kind: Kind | None = None
    tier: listing.Tier = ""
    category: Annotated[str, said("Only of this category, in any case.")] = ""
    search: listing.Search = ""
    sort: Order | None = None
    spark: Annotated[str, said("Closes of so long beside each market.", enum=["", *listing.SPARKS])] = ""
    limit: Annotated[int, Meta(ge=1, le=MOST_LISTED, description="At most so many.")] = LISTED
    after: Annotated[str, said("`next` of the page before.")] = ""
    offset: Annotated[int, Meta(ge=0, le=1_000_000, description="Behind so many, with `sort` or `search`.")] = 0


class Sparks(Struct, frozen=True):
    """When the closes of sparklines are of."""

    start: int  # ms, of the first span
    seconds: int  # of each


class Page(Struct, Generic[R], frozen=True, kw_only=True):
    """Some markets; `next` continues the list as `after`."""

    markets: list[R]
    next: str | None
    more: bool
    spark: Sparks | UnsetType = UNSET


@markets.get("")
async def listed() -> Response:
    """Markets in the order of registration, deactivated ones too: `next` continues that list as `after`. With `sort` or
    `search` active ones only, by `offset`."""
    asked = params(ListQuery)
    spark = Spark.until(int(engine().now()), asked.spark) if asked.spark else None
    limit, registry, today = asked.limit, services().registry, await day().fresh()
    wanted = Wanted(listing.tier(asked.tier), asked.kind, asked.category or None)
    ordered = asked.sort is not None or bool(asked.search.strip())
    if ordered:
        found = await listing.found(asked.search, asked.sort, wanted, asked.offset, limit + 1, today)
    else:
        after = (await registry.named(asked.after)).slot if asked.after else 0
        found = await registry.page(after, limit + 1, asked.query, wanted)
    page = found[:limit]
    worth = await listing.priced(page, spark)
    rows = [listing.row(market, worth.get(market.slot), today) for market in page]
    if spark is not None:
        for market, row in zip(page, rows, strict=True):
            row["spark"] = worth[market.slot].spark if market.slot in worth else [None] * spark.spans
    answer = Page(
        markets=rows,
        next=page[-1].market_symbol if len(found) > limit and not ordered else None,
        more=len(found) > limit,
        spark=UNSET if spark is None else Sparks(spark.start * 1000, spark.seconds),
    )
    return _told(answer)


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
    market = await services().registry.named(symbol)
    worth = await listing.priced([market])
    return _told(listing.row(market, worth.get(market.slot), await day().fresh()))


@markets.patch("/<symbol:symbol>")
async def patch(symbol: str) -> Response:
    """Change the named fields of a market."""
    return _told(shown(await services().registry.patch(symbol, await _fields())))


@markets.delete("/<symbol:symbol>")
async def deactivate(symbol: str) -> Response:
    """Take a market off the lists; its history stays."""
    return _told(shown(await services().registry.deactivate(symbol)))


async def _fields() -> dict[str, Any]:
    fields = await sent("a JSON object")
    if not isinstance(fields, dict):
        raise BadRequest(f"body: expected a JSON object with the fields of one market, got {fields!r:.100}")
    # What was told may be sent back: what nobody can set is not asked for.
    if fields.get("tier_assigned") is True:
        fields["tier"] = None
    return {name: value for name, value in fields.items() if name not in (*LIVE, "tier_assigned")}


def _told(answer: object, status: int = 200) -> Response:
    return reply(answer, status, {"Cache-Control": NO_STORE})
