"""Lightweight Charts: bars as rows that go into a series, and the markets there are."""

import math
import re
from collections.abc import Callable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
import numpy as np
import pyarrow as pa
from msgspec import Meta, Struct, field
from quart import Blueprint, Response

from actors.export import bar_schema
from actors.reading import LATEST
from actors.traded import Day
from storage.calendar import Calendar, Resolution, parse_short, rung
from storage.errors import BadRequest, CandledError, UnknownMarket, UnknownResolution
from storage.measures import wire
from storage.ordering import Order, Wanted
from storage.records import Market
from web import listing
from web.context import NO_STORE, apart, day, engine, number, params, reply, unchanged
from web.export import exports
from web.kept import headers_of, kept
from web.listing import Now
from web.parameters import Symbol, said
from web.prices import change, market_cap
from web.udf import FIRST, blamed

R = TypeVar("R")
lightweight = Blueprint("lightweight", __name__, url_prefix="/api/lightweight")

PREFIX = "/api/lightweight/"
MOST_BARS = 10_000  # rows in one answer
PERIODS = 1_000  # before `to`, where `from` is missing
LARGEST = 9.007e13  # beyond which the library draws nothing
LISTED, MOST_LISTED = 50, 500
QUICK = 2_000  # rows that take few milliseconds
COLUMNS = ("open", "high", "low", "close", "volume")
FILLS = ("none", "flat", "null")
FORMATS = ("iso", "unix")

MILLIS = re.compile(r"[+-]?\d{13}")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class BadRange(BadRequest):
    """A time that is none, or times in the wrong order."""


class OutOfRange(CandledError):
    """Numbers that the library cannot draw."""


class BarsQuery(Struct, frozen=True):
    symbol: Symbol
    timeframe: Annotated[
        str, said("`1s 1m 5m 15m 30m 1h 4h 1d 1w 1M` or another multiple; `1m` is a minute, `1M` a month.", "1m")
    ]
    start: Annotated[
        str,
        said(
            "A date (UTC), an ISO 8601 instant (UTC where it names no zone), seconds since 1970, or milliseconds of 13"
            f" digits; inclusive. Unless given: {PERIODS} periods before `to`."
        ),
    ] = field(name="from", default="")
    end: Annotated[str, said("As `from`, exclusive. Unless given: up to now, open bar included.")] = field(
        name="to", default=""
    )
    limit: Annotated[int, Meta(ge=1, description=f"The newest so many; never more than {MOST_BARS}.")] = MOST_BARS
    time_format: Annotated[
        str, said("Of `time` in each row: text, or seconds as the library takes them.", enum=list(FORMATS))
    ] = "iso"
    fill: Annotated[
        str,
        said("Periods without trades: absent, flat at the last close, or rows of nothing but time.", enum=list(FILLS)),
    ] = "none"
    fields: Annotated[str, said("Further measures in each row, between commas, or `all`.", "trades_count,vwap")] = ""


class MarketsQuery(Struct, frozen=True):
    tier: listing.Tier = ""
    search: listing.Search = ""
    sort: Order | None = None
    limit: Annotated[int, Meta(ge=1, description=f"At most so many; never more than {MOST_LISTED}.")] = LISTED
    offset: Annotated[int, Meta(ge=0, le=1_000_000, description="Behind so many.")] = 0


class About(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What an answer holds; `next_to` where it lacks older bars of what was asked for."""

    symbol: str
    timeframe: str
    count: int
    start: str = field(name="from")
    end: str = field(name="to")
    truncated: bool = False
    next_to: int | None = None


class Listed(Struct, frozen=True, kw_only=True):
    """One market of a list; None is not known."""

    market_id: int
    symbol: str
    name: str
    current_price: float | None
    price_change_24h: float | None  # percent
    volume_24h: float | None
    market_cap: float | None
    tier: str


class Rows(Struct, Generic[R], frozen=True, kw_only=True):
    """Bars, ascending."""

    success: Literal[True] = True
    data: list[R]
    meta: About


class Page(Struct, frozen=True, kw_only=True):
    """Which markets an answer has of those that there are."""

    count: int
    offset: int
    more: bool


class Markets(Struct, frozen=True, kw_only=True):
    """Some markets, and what they trade at."""

    success: Literal[True] = True
    data: list[Listed]
    meta: Page


class Reason(Struct, frozen=True):
    """Why there is no answer."""

    code: str
    message: str


class Failure(Struct, frozen=True, kw_only=True):
    """An error in the shape of this API."""

    success: Literal[False] = False
    error: Reason


@lightweight.get("/ohlcv")
async def ohlcv() -> Response:
    """Bars of one market, as rows."""
    query = params(BarsQuery)
    _one_of("time_format", query.time_format, FORMATS)
    _one_of("fill", query.fill, FILLS)
    with blamed("timeframe"):
        resolution = parse_short(query.timeframe)
    start, end = span(query, resolution, engine().now())
    with blamed("symbol"):
        market = await engine().market(query.symbol)
    names = chosen(query.fields, market)
    most = min(query.limit, MOST_BARS)
    if not names and query.end and (again := await kept().again(market)) is not None:
        return again
    # One more than there may be says whether there are older ones.
    window = await kept().window(market, resolution, start, end, None, most + 1)
    headers = headers_of(window, f"{start}-{end}")
    if "ETag" in headers and unchanged(headers["ETag"]):
        return reply(b"", 304, headers)
    truncated = len(window.time) > most
    first = len(window.time) - most if truncated else 0
    time, columns = window.time[first:], {name: getattr(window, name)[first:] for name in COLUMNS}
    _see_drawable(columns)
    if names and time:
        time, columns = await _measured(market, resolution, time[0], end, names)
    if query.fill != "none":
        calendar, flat = Calendar.parse(market.session, market.timezone), query.fill == "flat"
        periods = await apart(grid, calendar, resolution, time, most)
        time, columns, cut = await heavy(filled, len(periods), time, columns, periods, flat)
        truncated |= cut
    about = About(
        symbol=market.market_symbol,
        timeframe=resolution.short,
        count=len(time),
        start=_bound(start),
        end=_bound(end),
        truncated=truncated,
        next_to=time[0] if truncated else None,
    )
    body = await heavy(_encoded, len(time), time, columns, query.time_format, about)
    response = reply(body, headers=headers)
    if not names and query.end:
        kept().keep(market, response, body, window)
    return response


@lightweight.get("/markets")
async def markets() -> Response:
    """Active markets with what they trade at now; their order is that of the last look at all of them."""
    query = params(MarketsQuery)
    limit, today = min(query.limit, MOST_LISTED), await day().fresh()
    wanted = Wanted(listing.tier(query.tier))
    found = await listing.found(query.search, query.sort, wanted, query.offset, limit + 1, today)
    page = found[:limit]
    worth = await listing.priced(page)
    data = [_listed(market, worth.get(market.slot), today) for market in page]
    meta = Page(count=len(page), offset=query.offset, more=len(found) > limit)
    return reply(Markets(data=data, meta=meta), headers={"Cache-Control": NO_STORE})


def told(error: BaseException, status: int, message: str) -> Failure:
    """An error in the shape of this API."""
    return Failure(error=Reason(_code(error, status), message))


def _code(error: BaseException, status: int) -> str:
    match error:
        case UnknownMarket():
            return "unknown_symbol"
        case UnknownResolution():
            return "bad_timeframe"
        case BadRange():
            return "bad_range"
        case OutOfRange():
            return "out_of_range"
    return CODES.get(status, "internal")


CODES = {
    400: "bad_parameter",
    401: "key_needed",
    403: "not_allowed",
    404: "not_found",
    405: "method_not_allowed",
    426: "upgrade_needed",
    429: "rate_limited",
    503: "unavailable",
}


def span(query: BarsQuery, resolution: Resolution, now: float) -> tuple[int, int]:
    """The window that is asked for, from ≤ t < to in seconds: as long as PERIODS where it does not say how long, and up
    to the bar that is open now."""
    end = instant("to", query.end) if query.end else math.floor(now) + 1
    start = instant("from", query.start) if query.start else end - PERIODS * resolution.seconds
    if query.start and query.end and start > end:
        raise BadRange(f"from: expected a time up to `to` ({query.end}), got {query.start}")
    return max(start, FIRST), max(min(end, LATEST), FIRST)


def instant(name: str, text: str) -> int:
    """A date, an ISO instant (in UTC where it names no zone), seconds, or milliseconds of thirteen digits, as the first
    whole second that is not before it."""
    value = number(text)
    if value is not None and math.isfinite(value):
        seconds = value / 1000 if MILLIS.fullmatch(text.strip()) else value
        return min(max(math.ceil(seconds), FIRST), LATEST)
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        wanted = "a date (2024-01-01), an ISO 8601 instant, seconds or milliseconds since 1970"
        raise BadRange(f"{name}: expected {wanted}, got {text!r:.100}") from None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return -((EPOCH - at) // timedelta(seconds=1))


def chosen(text: str, market: Market) -> tuple[str, ...]:
    """The measures that rows are to have beside the usual ones."""
    known = [name for name in bar_schema(market.kind).names if name not in ("time", *COLUMNS)]
    names = [name for name in text.split(",") if name]
    if names == ["all"]:
        return tuple(known)
    for name in names:
        if name not in known and name not in COLUMNS:
            raise BadRequest(f"fields: a {market.kind} has no {name!r:.60}; it has {', '.join(known)}, or all")
    return tuple(name for name in names if name in known)


async def _measured(
    market: Market, resolution: Resolution, start: int, end: int, names: Sequence[str]
) -> tuple[list[int], dict[str, list[Any]]]:
    """All bars with start ≤ t < end, with these measures too, which are not all in memory: read after the window, so
    that they are never older than its entity tag says."""
    times: list[int] = []
    columns: dict[str, list[Any]] = {name: [] for name in (*COLUMNS, *names)}
    async with aclosing(exports().exporter.bars(market, resolution, start, end)) as stretches:
        async for stretch in stretches:
            rows = _bars_of(stretch.rows)
            times += rows["time"].to_pylist()
            read = await heavy(_columns, rows.num_rows, rows, list(columns))
            for column, more in zip(columns.values(), read, strict=True):
                column += more
    return times, columns


async def heavy(work: Callable[..., Any], rows: int, *arguments: object) -> Any:
    """`work(*arguments)`, on a thread where that many rows take a while."""
    return work(*arguments) if rows <= QUICK else await apart(work, *arguments)


def _columns(rows: pa.RecordBatch, names: Sequence[str]) -> list[list[Any]]:
    return [list(map(_number, rows[name].to_pylist())) for name in names]


def _bars_of(rows: pa.RecordBatch) -> pa.RecordBatch:
    """Without what happened where no price was set: that is no bar here, and no tag says anything of it."""
    return rows.filter(rows["open"].is_valid())


def _encoded(time: Sequence[int], columns: dict[str, list[Any]], kind: str, about: About) -> bytes:
    return msgspec.json.encode(Rows(data=_rows(time, columns, kind), meta=about))


def _number(value: int | float | Decimal | None) -> int | float | None:
    """As JSON has it: what nobody has said is nothing, an exact sum a float."""
    if isinstance(value, Decimal):
        return wire(float(value))
    return None if value != value else value


def grid(calendar: Calendar, resolution: Resolution, time: Sequence[int], most: int) -> list[int]:
    """The periods from the first of these bars to the last, the newest `most` of them."""
    if not time:
        return []
    first = max(time[0], calendar.back(resolution, time[-1], most - 1))
    step = rung(resolution)
    finer = np.arange(first, time[-1] + 1, step)
    starts = np.unique(calendar.bucket(resolution, finer))
    starts = starts[starts >= first]
    if resolution.unit == "D":  # days on which nobody trades have no period of their own
        traded = np.array([bool(hours) for hours in calendar.sessions])
        starts = starts[traded[(starts // 86400 + 3) % 7] | np.isin(starts, time)]
    newest: list[int] = starts[-most:].tolist()
    return newest


def filled(
    time: Sequence[int], columns: dict[str, list[Any]], grid: Sequence[int], flat: bool
) -> tuple[list[int], dict[str, list[Any]], bool]:
    """Bars with every period between them: flat at the last close and without volume, or nothing but its time. And
    whether bars fell out at the beginning."""
    row = {t: n for n, t in enumerate(time)}
    out: dict[str, list[Any]] = {name: [] for name in columns}
    newest = max((n for n, t in enumerate(time) if grid and t <= grid[0]), default=-1)
    for t in grid:
        newest = row.get(t, newest)
        there = t in row
        for name, column in out.items():
            if there:
                column.append(columns[name][newest])
            elif flat and name in COLUMNS:
                column.append(0.0 if name == "volume" else columns["close"][newest])
            else:
                column.append(None)
    return list(grid), out, bool(grid) and grid[0] > time[0]


def _rows(time: Sequence[int], columns: dict[str, list[Any]], kind: str) -> list[dict[str, Any]]:
    shown = list(time) if kind == "unix" else _iso(time)
    names = list(columns)
    rows = []
    for at, stamp, values in zip(shown, time, zip(*columns.values(), strict=True), strict=True):
        row: dict[str, Any] = {"time": at, "timestamp": stamp}
        # What is not said is left out: a row of nothing but its time keeps the place.
        row.update((name, value) for name, value in zip(names, values, strict=True) if value is not None)
        rows.append(row)
    return rows


def _iso(seconds: Sequence[int]) -> list[str]:
    """As JavaScript writes them: milliseconds and Z."""
    texts: list[str] = np.datetime_as_string(np.array(seconds, "datetime64[s]"), "ms", timezone="UTC").tolist()
    return texts


def _bound(second: int) -> str:
    """One that `instant` reads as the same second: a year of five digits is none that everybody reads."""
    return _iso([second])[0] if second < LATEST else "9999-12-31T23:59:59.999Z"


def _see_drawable(columns: dict[str, list[float]]) -> None:
    for name in ("high", "low"):
        worst = max(columns[name], key=abs, default=0.0)
        if abs(worst) > LARGEST:
            raise OutOfRange(f"{name}: {worst:g} is more than the library can draw (±{LARGEST:g})")


def _one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise BadRequest(f"{name}: expected {', '.join(allowed[:-1])} or {allowed[-1]}, got {value!r:.60}")


def _listed(market: Market, now: Now | None, today: Day) -> Listed:
    brief = now.brief if now else None
    price, before = (brief.price, brief.price_24h_ago) if brief else (None, None)
    return Listed(
        market_id=market.market_id,
        symbol=market.market_symbol,
        name=market.name or market.market_symbol,
        current_price=price,
        price_change_24h=change(before, price),
        volume_24h=brief.volume_24h if brief else None,
        market_cap=market_cap(market, price),
        tier=today.tiers.of(market),
    )
