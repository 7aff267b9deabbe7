"""A picture of a chart without a browser: for previews of links, mails and bots."""

from decimal import Decimal
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta, Struct
from quart import Blueprint, Response

from actors import indicators, series
from actors.export import resolution_named
from actors.indicators import Asked
from actors.series import Expression, Series
from storage.calendar import Resolution
from storage.errors import BadRequest
from web import picture
from web.context import apart, engine, params, reply, unchanged
from web.parameters import AnyResolution, Indicators, said
from web.picture import Drawing, Form, Line, Theme
from web.prices import change
from web.series import EVER, kept
from web.turns import turn
from web.udf import blamed

pictures = Blueprint("pictures", __name__, url_prefix="/api/charts")

TYPES: dict[Form, str] = {"svg": "image/svg+xml", "png": "image/png"}
MOST_BARS = 500
SIGNIFICANT = 6  # digits of a price whose market says nothing of them
UNSAID = 1_000_000  # the price scale of a market that was not given one
# How much is shown, in bars of which resolution.
RANGES = {"1h": "1", "6h": "5", "1d": "15", "7d": "60", "30d": "240", "90d": "1D", "1y": "1D", "all": "1W"}
SECONDS = {"1h": 3600, "6h": 21600, "1d": 86400, "7d": 604800, "30d": 2592000, "90d": 7776000, "1y": 31536000}


class Query(Struct, frozen=True):
    resolution: AnyResolution = ""
    span: Annotated[
        str, said("How much is shown; it chooses the resolution where none is given.", enum=["", *RANGES])
    ] = msgspec.field(name="range", default="")
    bars: Annotated[int, Meta(ge=1, le=MOST_BARS, description="The newest so many; 120 unless given.")] | None = None
    width: Annotated[int, Meta(ge=200, le=2000, description="Pixels.")] = 800
    height: Annotated[int, Meta(ge=150, le=1500, description="Pixels.")] = 418
    theme: Theme = "light"
    indicators: Indicators = ""


@pictures.get("/<symbol:symbol>.<any(svg, png):form>")
async def chart(symbol: str, form: Form) -> Response:
    """A chart of one market, or of an expression as `/api/series` takes it."""
    query = params(Query)
    if query.span and query.span not in RANGES:
        raise BadRequest(f"range: expected one of {', '.join(RANGES)}, got {query.span!r:.100}")
    with blamed("resolution"):
        resolution = resolution_named(query.resolution or RANGES.get(query.span, "60"))
    asked = indicators.parsed(query.indicators)
    with blamed("symbol"):
        expression = await series.parsed(symbol, engine().market)
    start = 0 if query.span in ("", "all") else int(engine().now()) - SECONDS[query.span]
    count = query.bars or (MOST_BARS if query.span else 120)
    async with turn(series.depth(expression, resolution, count, asked)):
        found = await series.series(engine(), expression, resolution, start, EVER, count, asked)
        headers = kept(found, resolution, found.first)
        if "ETag" in headers and unchanged(headers["ETag"]):
            return reply(b"", 304, headers)
        data: bytes = await apart(_drawn, symbol, expression, resolution, asked, found, query, form)
        return reply(data, headers=headers, kind=TYPES[form])


def _drawn(
    symbol: str,
    expression: Expression,
    resolution: Resolution,
    asked: list[Asked],
    found: Series,
    query: Query,
    form: Form,
) -> bytes:
    bars = found.bars.take(slice(found.first, None))
    lines = []
    for one in asked:
        numbers = " ".join(f"{value:g}" for value in one.parameters.values())
        for name, values in indicators.computed(one, found.inputs()).items():
            alike = one.name not in picture.PANES  # in a pane of its own each line is told apart
            label = f"{one.name} {numbers}".strip() if alike or name == one.name else f"{name} ({one.name} {numbers})"
            lines.append(Line(one.name, label, values[found.first :], name == "middle"))
    drawing = Drawing(
        _title(symbol, expression, resolution, bars.close),
        bars.time.tolist(),
        bars.open,
        bars.high,
        bars.low,
        bars.close,
        bars.volume if len(expression.markets) == 1 else None,
        lines,
        resolution.intraday,
    )
    return picture.drawn(drawing, form, query.width, query.height, query.theme)


def _title(
    symbol: str, expression: Expression, resolution: Resolution, closes: "np.ndarray[tuple[int], np.dtype[np.float64]]"
) -> str:
    name = symbol if expression.sign else expression.markets[0].market_symbol
    if not len(closes):
        return f"{name} · {resolution.short}"
    # A difference may begin at 0 or below, from which nothing is counted in per cent.
    moved = change(float(closes[0]), float(closes[-1])) if closes[0] > 0 else None
    market = None if expression.sign else expression.markets[0]
    price = _price(float(closes[-1]), market.pricescale if market else UNSAID)
    return f"{name} · {resolution.short} · {price}" + ("" if moved is None else f" ({moved:+.2f} %)")


def _price(price: float, pricescale: int) -> str:
    """With the digits that the scale of a market says; of no market, or one without a scale, those that count."""
    exact = Decimal(repr(price))
    if pricescale != UNSAID:
        return f"{exact:,.{len(str(pricescale - 1)) if pricescale > 1 else 0}f}"
    if price and not -9 <= exact.adjusted() < 15:
        return f"{price:.{SIGNIFICANT}g}"
    needed = -int(exact.normalize().as_tuple().exponent)
    return f"{exact:,.{max(2, min(needed, SIGNIFICANT - 1 - exact.adjusted()))}f}"
