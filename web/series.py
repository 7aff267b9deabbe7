"""Any series from any series: one market or two combined, with indicators; and volume by price."""

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta, Struct
from quart import Blueprint, Response

from actors import indicators, profile, series
from actors.export import resolution_named
from actors.indicators import Asked
from actors.series import Looked, Series
from storage.calendar import Resolution
from storage.errors import BadRequest
from storage.events import Array
from web.context import NO_STORE, REVALIDATE, apart, engine, params, reply, unchanged
from web.instants import micros
from web.parameters import AnyResolution, From, Indicators, Symbol, To, as_in
from web.turns import turn
from web.udf import blamed

combining = Blueprint("series", __name__, url_prefix="/api")

LISTED = 500  # bars in an answer that does not say how many
MOST_LISTED = 5_000
EVER = 253_402_300_800  # the year 10000
MICROS = 1_000_000


class Query(Struct, frozen=True):
    expr: Annotated[
        str,
        as_in("A market, or two operands with + - * or / between, one of which may be a number.", "GOLD", "GOLD/BTC"),
    ]
    resolution: AnyResolution = "60"
    start: From = msgspec.field(name="from", default="")
    end: To = msgspec.field(name="to", default="")
    limit: Annotated[int, Meta(ge=1, description=f"The newest so many bars; never more than {MOST_LISTED}.")] = LISTED
    indicators: Indicators = ""


class ProfileQuery(Struct, frozen=True):
    symbol: Symbol
    resolution: AnyResolution = "60"
    start: From = msgspec.field(name="from", default="")
    end: To = msgspec.field(name="to", default="")
    bins: Annotated[int, Meta(ge=1, le=profile.MOST_BINS, description="Equally high spans of price.")] = profile.BINS


class Line(Struct, frozen=True):
    """One line of an indicator; null where there are too few bars before."""

    name: str
    values: Sequence[float | None]


class Shown(Struct, frozen=True):
    """An indicator, its parameters and its lines."""

    name: str
    parameters: dict[str, float]
    lines: list[Line]


class Answer(Struct, frozen=True, kw_only=True):
    """Bars in columns, ascending; `v` is null where two markets are combined. `next` as `to` gives older ones."""

    expr: str
    resolution: str
    t: list[int]  # seconds
    o: list[float]
    h: list[float]
    l: list[float]  # noqa: E741 # as charts call it
    c: list[float]
    v: list[float] | None
    indicators: list[Shown]
    next: int | None  # ms
    cursor: str


class Profile(Struct, frozen=True, kw_only=True):
    """Volume by price: `volumes[i]` was traded between `prices[i]` and `prices[i + 1]`."""

    symbol: str
    resolution: str  # of the bars that it was counted from
    bars: int
    prices: list[float]
    volumes: list[float]
    point_of_control: float | None  # the middle of the price with the most volume
    value_area: (
        Annotated[tuple[float, ...], Meta(min_length=2, max_length=2)] | None
    )  # around it, with 70 % of the volume
    cursor: str


@combining.get("/series")
async def combined() -> Response:
    """Bars of an expression, with indicators."""
    query = params(Query)
    with blamed("resolution"):
        resolution = resolution_named(query.resolution)
    asked = indicators.parsed(query.indicators)
    start, end = _window(query.start, query.end)
    with blamed("expr"):
        expression = await series.parsed(query.expr, engine().market)
    limit = min(query.limit, MOST_LISTED)
    async with turn(series.depth(expression, resolution, limit, asked)):
        found = await series.series(engine(), expression, resolution, start, end, limit, asked)
        headers = kept(found, resolution, found.first)
        if "ETag" in headers and unchanged(headers["ETag"]):
            return reply(b"", 304, headers)
        lines: list[Shown] = await apart(_lines, asked, found)
        bars = found.bars.take(slice(found.first, None))
        answer = Answer(
            expr=query.expr.strip(),
            resolution=resolution.name,
            t=bars.time.tolist(),
            o=bars.open.tolist(),
            h=bars.high.tolist(),
            l=bars.low.tolist(),
            c=bars.close.tolist(),
            v=None if len(expression.markets) > 1 else bars.volume.tolist(),
            indicators=lines,
            next=int(bars.time[0]) * 1000 if found.more else None,
            cursor=headers["X-Cursor"],
        )
        return reply(answer, headers=headers)


@combining.get("/profile")
async def by_price() -> Response:
    """At which prices how much of a market was traded."""
    query = params(ProfileQuery)
    with blamed("resolution"):
        resolution = resolution_named(query.resolution)
    start, end = _window(query.start, query.end)
    with blamed("symbol"):
        market = await engine().market(query.symbol)
    bars = min((end - start) // resolution.seconds + 1, profile.DEEP)
    async with turn(bars):
        looked = await series.looked_at(engine(), market, resolution, start, end, profile.DEEP)
        headers = kept(looked, resolution)
        if "ETag" in headers and unchanged(headers["ETag"]):
            return reply(b"", 304, headers)
        found = await apart(profile.profile, looked.bars, query.bins)
        answer = Profile(
            symbol=market.market_symbol,
            resolution=resolution.name,
            bars=len(looked.bars.time),
            prices=found.prices,
            volumes=found.volumes,
            point_of_control=found.point_of_control,
            value_area=found.value_area,
            cursor=headers["X-Cursor"],
        )
        return reply(answer, headers=headers)


def _window(start: str, end: str) -> tuple[int, int]:
    """Seconds; bars begin at whole ones."""
    low = -(-micros("from", start) // MICROS) if start else 0
    high = -(-micros("to", end) // MICROS) if end else EVER
    if low >= high:
        raise BadRequest(f"to: expected a time after `from`, got {end!r:.100}")
    return low, high


def _lines(asked: Sequence[Asked], found: Series) -> list[Shown]:
    def told(line: Array) -> Sequence[float | None]:
        return indicators.rounded(line[found.first :])

    inputs = found.inputs()
    return [
        Shown(
            one.name,
            one.parameters,
            [Line(name, told(line)) for name, line in indicators.computed(one, inputs).items()],
        )
        for one in asked
    ]


def kept(found: Series | Looked, resolution: Resolution, first: int = 0) -> dict[str, str]:
    """As for history: bars that nothing is open in are told apart by the newest change among them. `first` is the row
    of the first that is shown."""
    headers = {"X-Cursor": f"{engine().epoch}.{found.seq}", "Cache-Control": NO_STORE}
    if not found.open_bar:
        times = found.bars.time
        ends = f"{times[0]}-{times[-1]}" if len(times) else "none"
        tag = f'W/"{engine().epoch}-{found.rev}-{len(times)}-{first}-{ends}-{resolution.name}"'
        headers |= {"Cache-Control": REVALIDATE, "ETag": tag}
    return headers
