"""Pure: the bytes of a request into validated event columns, with a reason for every event that is refused."""

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from actors import barred, snapshots
from actors.barred import BarReading
from actors.bodies import FEW, MANY, Batch, opened
from actors.bodies import UnsupportedMediaType as UnsupportedMediaType
from actors.columns import Reading
from actors.snapshots import SnapshotReading
from actors.words import (
    BAR_FIELDS,
    CARD_FIELDS,
    KNOWN,
    TEXT,
    Unknown,
    Unreadable,
    assembled,
    lean,
    no_market,
    see_readable,
    shown,
    understood,
)
from actors.words import Named as Named
from storage.errors import BadEvent, BadRequest, TooLarge
from storage.events import Column, Events, concat
from storage.names import Reference

UNPACKED = 64 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Rejected:
    """One event that was refused, and why."""

    index: int  # its place in the request, from 0
    error: str
    market_symbol: str | None
    raw: bytes  # the event as sent, as JSON


Refused = Callable[[Sequence[int], Sequence[str]], list[Rejected]]  # (places, reasons)


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a request said."""

    events: Events  # those accepted, in the order sent; `removed` marks those that take one back
    index: NDArray[np.int64]  # the place of each in the request, from 0
    rejected: list[Rejected]
    unknown: list[Reference]  # not known in memory; then nothing else is here: look them up and decode again
    refused: Refused = lambda _, __: []  # what was taken here, by its places in the request, and refused later


@dataclass(frozen=True, slots=True)
class Form:
    """What a request holds, and how that is read: all at once, or one by one."""

    known: frozenset[str]  # the fields that count
    reading: type[Reading]
    understood: Callable[[Any, Named, int], dict[str, Any]]


EVENTS = Form(KNOWN, Reading, understood)
SNAPSHOTS = Form(CARD_FIELDS, SnapshotReading, snapshots.understood)  # prices of cards
BARS = Form(BAR_FIELDS, BarReading, barred.understood)  # finished ones


def decode(
    body: bytes,
    content_type: str,
    named: Named,
    now_us: int,
    *,
    form: Form = EVENTS,
    final: bool = False,
    limit: int = UNPACKED,
) -> Decoded:
    """The events of a body; `final` refuses those of markets that are not in memory.

    Without `final`, references to such markets are returned instead, to be looked up first. BadRequest where the body
    cannot be read at all; TooLarge where it holds more than 2**20 events, or more than `limit` bytes once unpacked.
    """
    batch = opened(body, content_type.partition(";")[0].strip().lower(), limit, form.known)
    if batch.n > MANY:
        raise TooLarge(f"body: expected at most {MANY} events, got {batch.n}")

    def refused(places: Sequence[int], errors: Sequence[str]) -> list[Rejected]:
        events = batch.events(np.array(places, np.int64))
        return [_rejected(row, error, event, batch) for row, error, event in zip(places, errors, events, strict=True)]

    unknown: dict[Reference, None] = {}
    columns: dict[str, Column] = {}
    slow = np.ones(batch.n, np.bool_)
    if batch.n > FEW:
        fast = form.reading(batch, named, now_us, final)
        columns = fast.columns()
        slow, unknown = fast.slow, fast.unknown
        if unknown and not final:
            return Decoded(Events(0, {}), np.zeros(0, np.int64), [], list(unknown))
    if not slow.any():
        return Decoded(Events(batch.n, lean(columns)), np.arange(batch.n), [], [], refused)
    rows = np.flatnonzero(slow)
    words: list[dict[str, Any]] = []
    index: list[int] = []
    rejected: list[Rejected] = []
    for row, event in zip(rows.tolist(), batch.events(rows), strict=True):
        try:
            see_readable(event)
            words.append(form.understood(event, named, now_us))
            index.append(row)
        except Unknown as error:
            if final:
                rejected.append(_rejected(row, no_market(error.reference), event, batch))
            else:
                unknown[error.reference] = None
        except BadEvent as error:
            rejected.append(_rejected(row, str(error), event, batch))
    if unknown and not final:
        return Decoded(Events(0, {}), np.zeros(0, np.int64), [], list(unknown))
    plain = np.flatnonzero(~slow)
    events = assembled(words)
    place = np.array(index, np.int64)
    if len(plain):
        place = np.concatenate([plain, place])
        order = np.argsort(place, kind="stable")
        events = concat([Events(batch.n, columns).take(plain), events]).take(order)
        place = place[order]
    return Decoded(Events(events.n, lean(events.columns)), place, rejected, [], refused)


def decompress(body: bytes, encoding: str, limit: int) -> bytes:
    """The body without its Content-Encoding; TooLarge as soon as it has more than `limit` bytes."""
    match encoding.strip().lower():
        case "" | "identity":
            out = [body]
        case "gzip" | "x-gzip":
            out = list(_bounded(_gunzipped(body, limit), limit))
        case "zstd":
            out = list(_bounded(_unzstd(body), limit))
        case _:
            raise UnsupportedMediaType(f"Content-Encoding: expected gzip or zstd, got {shown(encoding)}")
    if len(out) == 1:
        if len(out[0]) > limit:
            raise TooLarge(f"body: expected at most {limit} bytes, got {len(out[0])}")
        return out[0]
    return b"".join(out)


def _bounded(parts: Iterator[bytes], limit: int) -> Iterator[bytes]:
    size = 0
    for part in parts:
        size += len(part)
        if size > limit:
            raise TooLarge(f"body: expected at most {limit} bytes unpacked, got more")
        yield part


def _gunzipped(body: bytes, limit: int) -> Iterator[bytes]:
    rest = body
    while True:  # a gzip file may be several, one behind the other
        member = zlib.decompressobj(wbits=31)
        try:
            while rest and not member.eof:
                yield member.decompress(rest, limit + 1)
                rest = member.unconsumed_tail
        except zlib.error as error:
            raise BadRequest(f"body: not gzip: {error}") from None
        if not member.eof:
            raise BadRequest("body: not gzip: it ends too early")
        rest = member.unused_data.lstrip(b"\0")
        if not rest:
            return


def _unzstd(body: bytes) -> Iterator[bytes]:
    # 1 KiB of zstd is at most 32 MiB of bytes, which bounds what one step may cost before the limit is seen. Windows
    # above 8 MiB need not be supported (RFC 8878, 3.1.1.1.2).
    unpacker = zstandard.ZstdDecompressor(max_window_size=8 << 20)
    frame = unpacker.decompressobj()
    at = 0
    while at < len(body) or not at:
        step = body[at : at + 1024]
        at += 1024
        while True:
            try:
                yield frame.decompress(step)
            except zstandard.ZstdError as error:
                raise BadRequest(f"body: not zstd: {error}") from None
            step = frame.unused_data if frame.eof else b""
            if not step:
                break
            frame = unpacker.decompressobj()
        if frame.eof and at < len(body):
            frame = unpacker.decompressobj()
    if not frame.eof:
        raise BadRequest("body: not zstd: it ends too early")


def _rejected(row: int, error: str, event: Any, batch: Batch) -> Rejected:
    symbol = None
    if isinstance(event, Unreadable):
        symbol = event.market_symbol
    elif isinstance(event, dict):
        symbol = event.get("market_symbol")
    return Rejected(row, error, symbol[:TEXT] if isinstance(symbol, str) else None, batch.raw(row, event))
