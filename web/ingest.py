"""Events posted to us."""

from hashlib import sha256

from msgspec import Struct
from quart import Blueprint, Response

from storage.errors import BadRequest
from storage.records import Kind
from web.auth import demand
from web.context import NO_STORE, body, params, reply, request, services

ingest = Blueprint("ingest", __name__, url_prefix="/api/ingest")


CREATED: dict[str, Kind] = {"perp": "perp", "spot": "spot"}


class IngestQuery(Struct, frozen=True):
    create: str | None = None


@ingest.post("/events")
async def events() -> Response:
    """Take events; the answer comes once they are on the disk."""
    kind = params(IngestQuery).create
    if kind is not None:
        if kind not in CREATED:
            raise BadRequest(f"create: expected perp or spot, got {kind!r:.100}")
        demand("admin", services().settings)
    asked = request()
    answer = await services().intake.submit(
        await body(),
        asked.headers.get("Content-Type", ""),
        encoding=asked.headers.get("Content-Encoding", ""),
        create=None if kind is None else CREATED[kind],
        key=asked.headers.get("Idempotency-Key"),
        owner=sha256(asked.headers.get("Authorization", "").encode()).hexdigest()[:32],
        source=f"http {asked.address}",
    )
    return reply(answer, headers={"Cache-Control": NO_STORE})
