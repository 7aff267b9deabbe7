"""What feeds and imports say of themselves: that they have seen everything."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from msgspec import Struct
from quart import Blueprint, Response

from actors.words import AHEAD
from storage.errors import BadRequest, UnknownMarket
from web.context import NO_STORE, reply, sent, services
from web.instants import micros
from web.shapes import parsed, shown

heartbeats = Blueprint("heartbeats", __name__, url_prefix="/api/ingest")

MOST = 1_000  # objects in one request
MOST_MARKETS = 100_000  # in one object
LISTED = 100  # refused ones that an answer lists
LONGEST = 100  # characters of a feed's name


class Heartbeat(Struct, frozen=True):
    """A feed has seen everything before `through`."""

    feed: str
    markets: Any = None  # names; None: as before
    through: int | float | str | None = None
    down: bool = False
    ended: bool = False


class Covered(Struct, frozen=True):
    """What happened in these markets between two instants is all here."""

    feed: str
    markets: Any
    start: int | float | str = msgspec.field(name="from")
    end: int | float | str = msgspec.field(name="to")


class Refused(Struct, frozen=True, omit_defaults=True):
    """What was not taken, with the place of its object in the request."""

    index: int
    error: str
    market_symbol: str | None = None


class Told(Struct, frozen=True):
    """What became of the request; of an object with unknown markets, the others are taken."""

    accepted: int  # objects
    rejected: list[Refused]
    rejected_count: int


Take = Callable[[Any], Awaitable[list[str]]]


@heartbeats.post("/heartbeats")
async def beats() -> Response:
    """Feeds say how far they are."""
    return await _each(_beat)


@heartbeats.post("/coverage")
async def coverage() -> Response:
    """Somebody has brought all there is of some markets and some time."""
    return await _each(_cover)


async def _each(take: Take) -> Response:
    refused: list[Refused] = []
    accepted = 0
    for i, one in enumerate(await _objects()):
        try:
            unknown = await take(one)
        except BadRequest as error:
            refused.append(Refused(i, str(error)))
            continue
        accepted += 1
        refused += [Refused(i, str(UnknownMarket(name)), name) for name in unknown]
    return reply(Told(accepted, refused[:LISTED], len(refused)), headers={"Cache-Control": NO_STORE})


async def _beat(one: Any) -> list[str]:
    """Take one heartbeat; the markets that nobody knows."""
    said = _parsed(one, Heartbeat)
    ledger = services().coverage
    through = None if said.through is None else _past("through", said.through)
    names = None if said.markets is None else _names(said.markets)
    slots: set[int] | None = None
    unknown: list[str] = []
    if names is not None and not ledger.known_list(said.feed, names):
        slots, unknown = await _slots(names)
    listed = () if names is None or unknown else names
    await ledger.beat(said.feed, slots, through=through, down=said.down, ended=said.ended, listed=listed)
    return unknown


async def _cover(one: Any) -> list[str]:
    said = _parsed(one, Covered)
    start, end = micros("from", said.start), _past("to", said.end)
    if start >= end:
        raise BadRequest(f"to: expected a time after `from`, got {shown(said.end)}")
    slots, unknown = await _slots(_names(said.markets))
    await services().coverage.cover(said.feed, [(slot, start, end) for slot in sorted(slots)])
    return unknown


async def _objects() -> list[Any]:
    found = await sent("a JSON object or an array of them")
    if isinstance(found, dict):
        return [found]
    if not isinstance(found, list) or len(found) > MOST:
        what = f"{len(found)} of them" if isinstance(found, list) else shown(found)
        raise BadRequest(f"body: expected a JSON object or an array of at most {MOST}, got {what}")
    return found


def _parsed(one: Any, shape: Any) -> Any:
    if not isinstance(one, dict):
        raise BadRequest(f"expected an object, got {shown(one)}")
    said = parsed(one, shape, texts=False)
    if not 0 < len(said.feed) <= LONGEST or not said.feed.isprintable():
        raise BadRequest(f"feed: expected 1 to {LONGEST} printable characters, got {shown(said.feed)}")
    return said


def _names(markets: Any) -> list[str]:
    if not isinstance(markets, list) or not markets or not all(isinstance(name, str) for name in markets):
        raise BadRequest(f"markets: expected an array of symbols, got {shown(markets)}")
    if len(markets) > MOST_MARKETS:
        raise BadRequest(f"markets: expected at most {MOST_MARKETS}, got {len(markets)}")
    return markets


async def _slots(names: list[str]) -> tuple[set[int], list[str]]:
    """The markets that are known, and the names of the others."""
    found = await services().registry.load(names)
    if not found:
        raise BadRequest(f"markets: no market is named {names[0]!r:.100}, nor anything else of these {len(names)}")
    return set(found.values()), [name for name in names if name not in found]


def _past(name: str, value: int | float | str) -> int:
    at = micros(name, value)
    if at > services().coverage.micros() + AHEAD:
        raise BadRequest(f"{name}: expected at most 5 minutes ahead of the clock, got {shown(value)}")
    return at
