"""TradingView UDF: config, time, history."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import msgspec
from msgspec import Struct, field
from quart import Blueprint, Response

from actors.reading import MOST
from storage.calendar import parse
from storage.errors import BadRequest, UnknownMarket
from storage.records import EXCHANGES, TYPES, Kind
from web.context import NO_STORE, REVALIDATE, engine, number, params, reply, unchanged
from web.kept import headers_of, kept
from web.parameters import ChartFrom, ChartTo, Resolution, Symbol, said
from web.symbols import RESOLUTIONS

udf = Blueprint("udf", __name__, url_prefix="/api/tradingview")

# Bars lie between these: the years 1 and 10000.
FIRST, LAST = -62_135_596_800, 253_402_300_800
MOST_BARS = 1_000_000_000  # more than anybody has; what may be asked is unbounded

EXCHANGE_NAMES: dict[Kind, tuple[str, str]] = {
    "perp": ("vAMM Markets", "Virtual AMM"),
    "spot": ("Spot Markets", "Exchange trades"),
    "card": ("Trading Cards", "Prices of trading cards"),
    "index": ("Indices", "Indices of trading cards"),
}


class Named(Struct, frozen=True):
    name: str
    value: str


class Exchange(Struct, frozen=True):
    value: str
    name: str
    desc: str


class Configuration(Struct, frozen=True, kw_only=True):
    """What this datafeed can do."""

    supported_resolutions: tuple[str, ...] = RESOLUTIONS
    supports_group_request: bool = False
    supports_search: bool = True
    supports_marks: bool = True
    supports_timescale_marks: bool = True
    supports_time: bool = True
    exchanges: list[Exchange] = field(
        default_factory=lambda: [
            Exchange("", "All exchanges", ""),
            *(Exchange(EXCHANGES[kind], *names) for kind, names in EXCHANGE_NAMES.items()),
        ]
    )
    symbols_types: list[Named] = field(
        default_factory=lambda: [Named("All types", ""), *(Named(t, t) for t in dict.fromkeys(TYPES.values()))]
    )


class Bars(Struct, frozen=True, tag_field="s", tag="ok"):
    """Bars in the columns that a chart reads."""

    t: list[int]
    o: list[float]
    h: list[float]
    l: list[float]  # noqa: E741 # the wire's name
    c: list[float]
    v: list[float]


class NoData(Struct, frozen=True, omit_defaults=True, tag_field="s", tag="no_data"):
    """No bars; `next_time` is the newest bar before `from`, and before `to` where that is less: a chart keeps its `to`
    when it asks on, and never wants what lies behind it."""

    next_time: int | None = field(default=None, name="nextTime")


class HistoryQuery(Struct, frozen=True):
    symbol: Symbol
    resolution: Resolution
    start: ChartFrom = field(name="from")
    end: ChartTo = field(name="to")
    countback: Annotated[
        str,
        said(
            f"So many newest bars before `to`, whatever `from` is; never more than {MOST}. Zero or less: as without.",
            "300",
            type="integer",
        ),
    ] = ""


CONFIGURATION = msgspec.json.encode(Configuration())


@udf.get("/config")
async def config() -> Response:
    """What this datafeed can do."""
    return reply(CONFIGURATION, headers={"Cache-Control": REVALIDATE})


@udf.get("/time")
async def now() -> Response:
    """The clock, in seconds."""
    return reply(int(time.time()), headers={"Cache-Control": NO_STORE})


@udf.get("/history")
async def history() -> Response:
    """Bars of one market, in the columns that a chart reads."""
    query = params(HistoryQuery)
    with blamed("resolution"):
        resolution = parse(query.resolution)
    # Bars begin at whole seconds: those at or after 10.5 are those from 11 on.
    start, end = (
        min(max(math.ceil(instant(name, text)), FIRST), LAST)
        for name, text in (("from", query.start), ("to", query.end))
    )
    with blamed("symbol"):
        market = await engine().market(query.symbol)
    if (again := await kept().again(market)) is not None:
        return again
    window = await kept().window(market, resolution, start, end, counted(query.countback), MOST)
    headers = headers_of(window)
    if "ETag" in headers and unchanged(headers["ETag"]):
        return reply(b"", 304, headers)
    if not window.time:
        return reply(NoData(window.previous), headers=headers)
    bars = Bars(window.time, window.open, window.high, window.low, window.close, window.volume)
    body = msgspec.json.encode(bars)
    response = reply(body, headers=headers)
    kept().keep(market, response, body, window)
    return response


@contextmanager
def blamed(name: str) -> Iterator[None]:
    """What is wrong with the value of a parameter names the parameter too."""
    try:
        yield
    except (UnknownMarket, BadRequest) as error:
        error.args = (f"{name}: {error}",)
        raise


def instant(name: str, text: str) -> float | int:
    """A point in time as charts send it: seconds, with or without a fraction, of any size."""
    value = number(text)
    if value is None:
        raise BadRequest(f"{name}: expected seconds since 1970, got {text!r:.100}")
    return value


def counted(text: str) -> int | None:
    """How many bars were asked for; None where it does not say."""
    value = number(text)
    return None if value is None or value < 1 else int(min(value, MOST_BARS))
