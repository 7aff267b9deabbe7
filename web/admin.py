"""What an admin asks of a running daemon."""

from pathlib import Path

import msgspec
from msgspec import Struct
from quart import Blueprint, Response

from actors.decode import UnsupportedMediaType
from storage.errors import BadRequest
from web.context import JSON, NO_STORE, body, reply, request, services

admin = Blueprint("admin", __name__, url_prefix="/api/admin")


class Wanted(Struct, frozen=True, forbid_unknown_fields=True):
    directory: str


@admin.post("/backup")
async def backup() -> Response:
    """Begin a backup into a directory of the daemon's machine, or join the one that is being made into it."""
    kind = request().headers.get("Content-Type", "")
    if kind.partition(";")[0].strip().lower() != JSON:
        raise UnsupportedMediaType(f"Content-Type: expected {JSON}, got {kind!r:.100}")
    try:
        wanted = msgspec.json.decode(await body(), type=Wanted)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f'body: expected {{"directory": "/absolute/path"}}: {error}') from None
    if not Path(wanted.directory).is_absolute() or "\0" in wanted.directory:
        raise BadRequest(f"directory: expected an absolute path, got {wanted.directory!r:.100}")
    return _told(services().backups.begin(Path(wanted.directory)), 202)


@admin.get("/backup")
async def backup_progress() -> Response:
    """How the backup that is being made goes, or the last one went; null where there was none since the start."""
    return _told(services().backups.told())


def _told(answer: object, status: int = 200) -> Response:
    return reply(answer, status, {"Cache-Control": NO_STORE})
