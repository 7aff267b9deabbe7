"""Serves the built page, from memory."""

import gzip
import hashlib
import mimetypes
from pathlib import Path
from typing import NamedTuple, cast

from quart import Blueprint, Response, current_app
from werkzeug.exceptions import NotFound

from web.context import REVALIDATE, reply, request

ui = Blueprint("ui", __name__)

EXTENSION = "candled.page"
INDEX = "index.html"
ASSETS = "assets/"  # their names change with their content
FOREVER = "public, max-age=31536000, immutable"
SMALL = 1024  # bytes that are not worth packing
PACKED = ("text/", "application/javascript", "application/json", "image/svg+xml")

# Nothing from elsewhere, nothing inline, in nobody's frame; sockets of our own origin count as `self`.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "font-src 'self'",
        "connect-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
PAGE_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
MISSING = b"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>candled</title></head><body>
<h1>candled is running; its page is not built</h1>
<p>Run <code>make setup</code> in the source folder and start candled again.</p>
<p>Everything else works: <a href="/api/charts/health">health</a>, <a href="/api/markets">markets</a>,
<a href="/metrics">metrics</a>.</p>
</body></html>
"""


class File(NamedTuple):
    """One file of the page."""

    data: bytes
    packed: bytes | None  # gzip
    kind: str
    tag: str


Page = dict[str, File]


def loaded(folder: Path) -> Page:
    """The files of a built page by their paths; none where there is no index."""
    if not (folder / INDEX).is_file():
        return {}
    return {
        path.relative_to(folder).as_posix(): _file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def _file(path: Path) -> File:
    data = path.read_bytes()
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    if kind == "text/javascript":
        kind = "application/javascript"
    packable = kind.startswith(PACKED) and len(data) > SMALL
    if kind.startswith(("text/", "application/javascript")):
        kind += "; charset=utf-8"
    tag = hashlib.sha256(data).hexdigest()[:24]
    return File(data, gzip.compress(data, mtime=0) if packable else None, kind, f'W/"{tag}"')


@ui.get("/")
async def index() -> Response:
    """The page."""
    page = _page()
    if INDEX in page:
        return _sent(page[INDEX], REVALIDATE)
    return reply(MISSING, headers={**PAGE_HEADERS, "Cache-Control": "no-store"}, kind="text/html; charset=utf-8")


@ui.get(f"/{ASSETS}<path:name>")
async def asset(name: str) -> Response:
    """What the page consists of."""
    return _sent(_found(ASSETS + name), FOREVER)


@ui.get("/<name>")
async def file(name: str) -> Response:
    """What lies beside the page."""
    return _sent(_found(name), REVALIDATE)


def _found(path: str) -> File:
    found = _page().get(path)
    if found is None:
        raise NotFound
    return found


def _page() -> Page:
    return cast(Page, current_app.extensions[EXTENSION])


def _sent(found: File, caching: str) -> Response:
    headers = {**PAGE_HEADERS, "Cache-Control": caching, "ETag": found.tag, "Vary": "Accept-Encoding"}
    asked = request().headers
    if found.tag in asked.get("If-None-Match", ""):
        return reply(b"", 304, headers, kind=found.kind)
    if found.packed is not None and "gzip" in asked.get("Accept-Encoding", ""):
        return reply(found.packed, headers={**headers, "Content-Encoding": "gzip"}, kind=found.kind)
    return reply(found.data, headers=headers, kind=found.kind)
