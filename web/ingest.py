"""Events posted to us."""

from hashlib import sha256
from typing import Literal

from msgspec import Struct
from quart import Blueprint, Response

from web.auth import demand
from web.context import NO_STORE, body, params, reply, request, services

ingest = Blueprint("ingest", __name__, url_prefix="/api/ingest")


class IngestQuery(Struct, frozen=True):
    create: Literal["perp", "spot"] | None = None


@ingest.post("/events")
async def events() -> Response:
    """Take events; the answer comes once they are on the disk."""
    create = params(IngestQuery).create
    if create is not None:
        demand("admin", services().settings)
    asked = request()
    answer = await services().intake.submit(
        await body(),
        asked.headers.get("Content-Type", ""),
        encoding=asked.headers.get("Content-Encoding", ""),
        create=create,
        key=asked.headers.get("Idempotency-Key"),
        owner=sha256(asked.headers.get("Authorization", "").encode()).hexdigest()[:32],
        source=f"http {asked.address}",
    )
    return reply(answer, headers={"Cache-Control": NO_STORE})
