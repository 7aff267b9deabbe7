"""Why a market has no bars where it has none."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct
from quart import Blueprint, Response

from actors.coverage import Known
from actors.export import resolution_named
from actors.gaps import Why
from actors.gaps import gaps as found
from storage.errors import BadRequest
from storage.spans import Spans
from web.context import NO_STORE, engine, params, reply, services
from web.instants import MILLI, micros
from web.parameters import AnyResolution, From, To
from web.udf import blamed

gaps = Blueprint("gaps", __name__, url_prefix="/api/markets")

LISTED = 100  # gaps on a page that does not say how many
MOST_LISTED = 1_000
SPANS = 1_000  # of what feeds say, the newest
EVER = 253_402_300_800_000_000  # the year 10000, µs


class Query(Struct, frozen=True):
    resolution: AnyResolution = "1m"
    start: From = msgspec.field(name="from", default="")
    end: To = msgspec.field(name="to", default="")
    limit: Annotated[int, Meta(ge=1, description=f"The newest so many; never more than {MOST_LISTED}.")] = LISTED


class GapTold(Struct, frozen=True):
    """A stretch without a bar, ms."""

    start: int = msgspec.field(name="from")
    end: int = msgspec.field(name="to")
    kind: Why
    feeds: list[str]


State = Literal["up", "down"]


class SpanTold(Struct, frozen=True):
    """When a feed saw everything, or saw nothing; ms."""

    feed: str
    state: State
    start: int = msgspec.field(name="from")
    end: int = msgspec.field(name="to")


class Answer(Struct, frozen=True):
    """Gaps and what feeds say, the newest first; `next` continues the list as `to`."""

    symbol: str
    resolution: str
    gaps: list[GapTold]
    coverage: list[SpanTold]
    next: int | None
    cursor: str


@gaps.get("/<symbol:symbol>/gaps")
async def listed(symbol: str) -> Response:
    """Where a market has no bars between its first one and now, and why."""
    query = params(Query)
    with blamed("resolution"):
        resolution = resolution_named(query.resolution)
    low = micros("from", query.start) if query.start else 0
    high = micros("to", query.end) if query.end else EVER
    if low >= high:
        raise BadRequest(f"to: expected a time after `from`, got {query.end!r:.100}")
    market = await engine().market(symbol)
    ledger = services().coverage
    answer = await found(
        engine(), ledger, market, resolution, low, high, ledger.micros(), min(query.limit, MOST_LISTED)
    )
    coverage = [span for one in answer.known for span in (*_spans(one, "up", one.up), *_spans(one, "down", one.down))]
    coverage.sort(key=lambda span: (-span.start, span.feed, span.state))
    told = Answer(
        market.market_symbol,
        resolution.short,
        [GapTold(low, high, gap.why, gap.feeds) for gap in answer.gaps for low, high in _whole(gap.low, gap.high)],
        coverage[:SPANS],
        None if answer.following is None else answer.following // MILLI,
        f"{engine().epoch}.{engine().committed()}",
    )
    return reply(told, headers={"Cache-Control": NO_STORE})


def _spans(one: Known, state: State, spans: Spans) -> list[SpanTold]:
    return [SpanTold(one.feed, state, *each) for span in spans for each in _whole(*span)]


def _whole(low: int, high: int) -> Spans:
    """A span of µs in whole milliseconds, if any is left of it; spans that meet still do."""
    low, high = low // MILLI, high // MILLI
    return [(low, high)] if low < high else []
