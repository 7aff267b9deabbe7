"""Events, finished bars and prices of cards posted to us."""

from hashlib import sha256
from typing import Annotated

from msgspec import Struct
from quart import Blueprint, Response

from actors.decode import BARS, EVENTS, SNAPSHOTS, Form
from storage.errors import BadRequest
from storage.records import Kind
from web.auth import demand
from web.context import NO_STORE, body, params, reply, request, services
from web.parameters import said

ingest = Blueprint("ingest", __name__, url_prefix="/api/ingest")


CREATED: dict[str, Kind] = {"perp": "perp", "spot": "spot"}


class IngestQuery(Struct, frozen=True):
    create: Annotated[
        str | None,
        said("Register markets that nobody knows as one of these; needs an admin key.", enum=list(CREATED)),
    ] = None


@ingest.post("/events")
async def events() -> Response:
    """Take events; the answer comes once they are on the disk."""
    return await _taken(EVENTS, _created())


@ingest.post("/bars")
async def bars() -> Response:
    """Take finished bars."""
    return await _taken(BARS, _created())


@ingest.post("/snapshots")
async def snapshots() -> Response:
    """Take prices of cards; variants that nobody knows are registered."""
    return await _taken(SNAPSHOTS)


def _created() -> Kind | None:
    """What markets that nobody knows are to be registered as."""
    kind = params(IngestQuery).create
    if kind is None:
        return None
    if kind not in CREATED:
        raise BadRequest(f"create: expected perp or spot, got {kind!r:.100}")
    demand("admin", services().settings)
    return CREATED[kind]


async def _taken(form: Form, create: Kind | None = None) -> Response:
    asked = request()
    answer = await services().intake.submit(
        await body(),
        asked.headers.get("Content-Type", ""),
        form=form,
        encoding=asked.headers.get("Content-Encoding", ""),
        create=create,
        key=asked.headers.get("Idempotency-Key"),
        owner=sha256(asked.headers.get("Authorization", "").encode()).hexdigest()[:32],
        source=f"http {asked.address}",
    )
    return reply(answer, headers={"Cache-Control": NO_STORE})
