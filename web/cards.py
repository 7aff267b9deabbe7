"""The registry of cards and of the marketplaces that sell them."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct
from quart import Blueprint, Response

from storage import cards as storage
from storage.errors import BadRequest
from web.context import AS_JSON, NO_STORE, params, reply, sent, services
from web.parameters import said

cards = Blueprint("cards", __name__, url_prefix="/api")

NDJSON = "application/x-ndjson"
MOST = 100_000  # in one request
LISTED = 100  # marketplaces on a page that does not say how many
MOST_LISTED = 500


class ListQuery(Struct, frozen=True):
    limit: Annotated[int, Meta(ge=1, le=MOST_LISTED, description="At most so many.")] = LISTED
    after: Annotated[str, said("`next` of the page before.")] = ""


class Marketplace(Struct, frozen=True):
    """One that sells cards; null is not known."""

    id: str
    name: str | None
    url: str | None
    currency: str | None


class Marketplaces(Struct, frozen=True):
    """Some of them; `next` continues the list as `after`."""

    items: list[Marketplace]
    next: str | None


class Put(Struct, frozen=True):
    """How many were registered or changed."""

    upserted: int


@cards.post("/cards")
async def put() -> Response:
    """Register cards, or change the named fields of those that are there: all of them or none."""
    many = await _objects()
    await services().registry.change(storage.put, many)
    return _told(Put(len(many)))


@cards.post("/marketplaces")
async def put_marketplaces() -> Response:
    """Register marketplaces, or change the named fields of those that are there: all of them or none."""
    many = await _objects()
    await services().registry.change(storage.put_marketplaces, many)
    return _told(Put(len(many)))


@cards.get("/marketplaces")
async def marketplaces() -> Response:
    """Marketplaces in the order of their ids; `next` continues the list as `after`."""
    asked = params(ListQuery)
    found = await services().registry.ask(storage.marketplaces, asked.after, asked.limit + 1)
    items = [Marketplace(**one) for one in found[: asked.limit]]
    return _told(Marketplaces(items, items[-1].id if len(found) > asked.limit else None))


async def _objects() -> list[dict[str, Any]]:
    found = await sent(
        "an object, an array of objects or one a line", {**AS_JSON, NDJSON: msgspec.json.Decoder().decode_lines}
    )
    many = [found] if isinstance(found, dict) else found
    if not isinstance(many, list) or not all(isinstance(one, dict) for one in many):
        raise BadRequest("body: expected an object, an array of objects or one a line")
    if len(many) > MOST:
        raise BadRequest(f"body: expected at most {MOST} objects, got {len(many)}")
    return many


def _told(answer: object) -> Response:
    return reply(answer, headers={"Cache-Control": NO_STORE})
