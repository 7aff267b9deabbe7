"""Content codings: answers leave compressed where that is worth it and the client takes it (RFC 9110, 12.5.3)."""

import re
import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import Literal, NamedTuple

import trio
import zstandard
from quart import Response

from web.context import EMPTY, Request
from web.streamed import Packer, Streamed

Coding = Literal["zstd", "gzip"]

SMALL = 1024  # bytes that fit into one packet anyway
LEVEL = (
    1  # a history of 1500 bars, 76 KB: zstd 19 KB in 0.1 ms, gzip 28 KB in 0.4 ms; higher levels cost more than bytes
)
INLINE: dict[Coding, int] = {"zstd": 256 << 10, "gzip": 64 << 10}  # bytes that take about 0.4 ms; more, on a thread
COMPRESSIBLE = (
    *("application/json", "text/", "application/javascript", "image/svg+xml"),
    *("application/x-ndjson", "application/vnd.apache.arrow"),
)
EVENTS = "text/event-stream"
WEIGHT = re.compile(r"q=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)", re.IGNORECASE)
LEAST = 0.0005  # below every weight but 0: that of an answer as it is, where nobody speaks of it


def _zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=LEVEL).compress(data)


def _gzip(data: bytes) -> bytes:
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


# Of codings that a client likes as much, the first is taken.
CODINGS: dict[Coding, Callable[[bytes], bytes]] = {"zstd": _zstd, "gzip": _gzip}


# For a body that comes in pieces.
STREAMS: dict[Coding, Callable[[], Packer]] = {
    "zstd": lambda: zstandard.ZstdCompressor(level=LEVEL).compressobj(),
    "gzip": lambda: zlib.compressobj(LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS),
}


class Accepted(NamedTuple):
    """What an Accept-Encoding comes to."""

    coding: Coding | None
    plain: bool = True  # whether an answer may also be left as it is


@lru_cache(256)
def accepted(header: str) -> Accepted:
    """The coding that a client likes best. One that takes nothing we have gets the answer as it is."""
    weights = {}
    for part in header.split(","):
        name, *more = (word.strip().lower() for word in part.split(";"))
        weights[name.removeprefix("x-")] = _weight(more)
    others = weights.get("*", 0.0)
    plain = weights.get("identity", weights.get("*", LEAST))
    best = max(CODINGS, key=lambda coding: weights.get(coding, others))
    weight = weights.get(best, others)
    return Accepted(best, plain > 0) if weight and weight >= plain else Accepted(None)


def wanted(header: str) -> Accepted:
    """What whoever sends this Accept-Encoding, or none, is answered in."""
    return accepted(header) if header and len(header) <= 1000 else Accepted(None)


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        match = WEIGHT.fullmatch(parameter)
        return float(match[1]) if match else 0.0
    return 1.0


async def encode(asked: Request, response: Response, threads: trio.CapacityLimiter) -> None:
    """Compress the body of an answer where its client takes that and it is large enough to be worth it."""
    response.vary.add("Accept-Encoding")
    headers = response.headers
    if response.status_code in EMPTY or "Content-Encoding" in headers:
        return
    if headers.get("Content-Type", "").startswith(EVENTS):
        return  # a packer would hold back what is to arrive at once
    coding, plain = wanted(",".join(asked.headers.getlist("Accept-Encoding")))
    if coding is None or not headers.get("Content-Type", "").startswith(COMPRESSIBLE):
        return
    if isinstance(response, Streamed):
        response.pack(STREAMS[coding](), threads)
        headers["Content-Encoding"] = coding
        return
    data = await response.get_data(as_text=False)
    if not data or (plain and len(data) < SMALL):
        return
    if len(data) <= INLINE[coding]:
        packed = CODINGS[coding](data)
    else:
        packed = await trio.to_thread.run_sync(CODINGS[coding], data, limiter=threads)
    if plain and len(packed) >= len(data):
        return
    response.set_data(packed)
    headers["Content-Encoding"] = coding
