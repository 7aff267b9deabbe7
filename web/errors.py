"""One table from exception to status and body."""

import logging

import trio
from msgspec import UNSET, Struct, UnsetType
from quart import Response
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound, RequestEntityTooLarge, RequestTimeout

from actors.decode import UnsupportedMediaType
from storage.errors import (
    BadRequest,
    CandledError,
    Conflict,
    KeyReused,
    NotAllowed,
    TooLarge,
    Unavailable,
    UnknownMarket,
)
from storage.layouts import UnknownLayout
from web import layouts, lightweight
from web.auth import KeyNeeded
from web.context import Request, reply, request, services
from web.limits import RateLimited
from web.sockets import UpgradeNeeded
from web.symbols import UnknownGroup

log = logging.getLogger(__name__)

UDF = "/api/tradingview/"
INTERNAL = 500

# The first class that an error is an instance of decides.
STATUS: tuple[tuple[type[BaseException], int], ...] = (
    (UnsupportedMediaType, 415),
    (BadRequest, 400),
    (UnknownMarket, 404),
    (UnknownGroup, 404),
    (UnknownLayout, 404),
    (Conflict, 409),
    (KeyReused, 422),
    (KeyNeeded, 401),
    (NotAllowed, 403),
    (TooLarge, 413),
    (lightweight.OutOfRange, 422),
    (UpgradeNeeded, 426),
    (RateLimited, 429),
    (Unavailable, 503),
    (trio.TooSlowError, 503),
    # Whoever would have answered has closed its door.
    (trio.ClosedResourceError, 503),
    (trio.BrokenResourceError, 503),
)


class Failure(Struct, frozen=True):
    """An error; `request_id` is how candled's log calls the request."""

    error: str
    request_id: str | UnsetType = UNSET


class UdfFailure(Struct, frozen=True, tag_field="s", tag="error"):
    """An error in the shape of this API."""

    errmsg: str


async def answered(error: Exception) -> Response:
    """The answer to a request that raised this."""
    asked = request()
    status = status_of(error)
    if status == INTERNAL:
        log.error("request %s (%s %r) failed", asked.number, asked.method, asked.path, exc_info=error)
    message = _message(error, asked, status)
    headers = _headers(error, asked)
    if asked.path.startswith(layouts.PREFIX):
        return reply(layouts.told(message), status, headers)
    if asked.path.startswith(lightweight.PREFIX):
        return reply(lightweight.told(error, status, message), status, headers)
    if not asked.path.startswith(UDF):
        return reply(Failure(message, asked.number if status == INTERNAL else UNSET), status, headers)
    if asked.path == UDF + "config":
        # A JSON object would be taken for the configuration, and the chart would never start.
        return reply(message.encode(), status, headers, kind="text/plain; charset=utf-8")
    if isinstance(error, UnknownMarket) and asked.path == UDF + "symbols":
        message = "unknown_symbol"
    return reply(UdfFailure(message), status, headers)


def status_of(error: BaseException) -> int:
    """The HTTP status that says what went wrong."""
    if isinstance(error, HTTPException):
        return error.code or INTERNAL
    return next((status for kind, status in STATUS if isinstance(error, kind)), INTERNAL)


def _message(error: Exception, asked: Request, status: int) -> str:
    match error:
        case NotFound():
            return f"nothing at {asked.path!r:.200}"
        case MethodNotAllowed():
            return f"{asked.method} is not allowed here; {', '.join(sorted(error.valid_methods or ()))} is"
        case RequestEntityTooLarge():
            return f"body: expected at most {services().settings.max_body} bytes, got more"
        case RequestTimeout():
            return "body: it did not arrive in time"
        case HTTPException():
            return error.description or error.name
        case trio.TooSlowError():
            return "this took too long and was given up; ask for less, or again later"
        case trio.ClosedResourceError() | trio.BrokenResourceError():
            return "candled is stopping"
        case CandledError() if status != INTERNAL and str(error):
            return str(error)
        case _:
            return f"candled failed at this; its log says why, at request {asked.number}"


def _headers(error: Exception, asked: Request) -> dict[str, str]:
    headers = {"Cache-Control": "no-store"}
    match error:
        case RateLimited():
            headers["Retry-After"] = str(error.retry_after)
            headers["RateLimit-Limit"] = str(error.limit)
            headers["RateLimit-Remaining"] = "0"
            headers["RateLimit-Reset"] = str(error.retry_after)
        case Unavailable():
            headers["Retry-After"] = str(max(1, error.retry_after))
        case trio.TooSlowError() | trio.ClosedResourceError() | trio.BrokenResourceError():
            headers["Retry-After"] = "1"
        case UpgradeNeeded() if asked.http_version != "2":  # where connections cannot change what they speak
            headers |= {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
        case KeyNeeded():
            headers["WWW-Authenticate"] = 'Bearer realm="candled"'
        case MethodNotAllowed():
            headers["Allow"] = ", ".join(sorted(error.valid_methods or ()))
        case RequestEntityTooLarge() | TooLarge() if asked.http_version != "2":
            headers["Connection"] = "close"
    return headers
