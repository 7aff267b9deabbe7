"""What an admin asks of a running daemon."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct
from quart import Blueprint, Response

from actors import audit
from actors.export import moment
from storage.calendar import MICROS
from storage.errors import BadRequest
from web.context import JSON, NO_STORE, reply, sent, services
from web.streamed import Streamed

T = TypeVar("T")
NDJSON = "application/x-ndjson"
admin = Blueprint("admin", __name__, url_prefix="/api/admin")


class Wanted(Struct, frozen=True, forbid_unknown_fields=True):
    directory: str


class Verified(Struct, frozen=True, forbid_unknown_fields=True):
    """Which days are to be compared with the events, of which market; see `docs/verify.md`."""

    start: str = msgspec.field(name="from", default="")
    end: str = msgspec.field(name="to", default="")
    market: str | None = None
    repair: bool = False


@admin.post("/backup")
async def backup() -> Response:
    """Begin a backup into a directory of the daemon's machine, or join the one that is being made into it."""
    wanted = await _asked(Wanted, '{"directory": "/absolute/path"}')
    if not Path(wanted.directory).is_absolute() or "\0" in wanted.directory:
        raise BadRequest(f"directory: expected an absolute path, got {wanted.directory!r:.100}")
    return _told(services().backups.begin(Path(wanted.directory)), 202)


@admin.get("/backup")
async def backup_progress() -> Response:
    """How the backup that is being made goes, or the last one went; null where there was none since the start."""
    return _told(services().backups.told())


@admin.post("/verify")
async def verify() -> Response:
    """Compare what is stored with the events, and repair it where that is asked for: a JSON object a line."""
    asked = await _asked(Verified, '{"from": "2024-05-01", "to": "2024-06-01", "market": "BTC", "repair": false}')
    market = None if asked.market is None else (await services().engine.market(asked.market)).market_symbol
    wanted = audit.Wanted(
        start=moment("from", asked.start, -audit.EVER) // MICROS,
        end=-(-moment("to", asked.end, audit.EVER) // MICROS),
        market=market,
        repair=asked.repair,
    )
    lines = _lines(services().audit.verify(wanted))
    first = await anext(lines)
    return Streamed(first, lines, {"Content-Type": NDJSON, "Cache-Control": NO_STORE}, lambda: None)


async def _lines(lines: AsyncGenerator[audit.Line, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(lines):
        async for line in lines:
            yield msgspec.json.encode(line) + b"\n"


async def _asked(shape: type[T], example: str) -> T:
    """The body of a request."""
    found: T = await sent(example, {JSON: lambda data: msgspec.json.decode(data, type=shape)})
    return found


def _told(answer: object, status: int = 200) -> Response:
    return reply(answer, status, {"Cache-Control": NO_STORE})
