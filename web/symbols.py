"""TradingView UDF: symbols one by one, in groups, and by what somebody typed."""

from typing import Annotated

from msgspec import UNSET, Struct, UnsetType, field
from quart import Blueprint, Response

from storage.errors import BadRequest, CandledError
from storage.names import folded
from storage.records import EXCHANGES, TYPES, Kind, Market
from web.context import REVALIDATE, day, engine, number, params, reply, services
from web.parameters import Symbol, as_in, said

symbols = Blueprint("symbols", __name__, url_prefix="/api/tradingview")

SECONDS = ("1",)
MINUTES = ("1", "5", "15", "30", "60", "240")
RESOLUTIONS = (*(f"{n}S" for n in SECONDS), *MINUTES, "1D", "1W", "1M")
FOUND = 30  # results of a search that does not say how many
MOST_FOUND = 100
MOST_GROUPED = 5_000  # markets of one group in one answer, which has no pages


class SymbolInfo(Struct, frozen=True, kw_only=True):
    """A market as a chart wants to know it. A member named `s` would mean that there is none."""

    name: str
    ticker: str
    description: str
    type: str
    session: str
    timezone: str
    exchange: str
    listed_exchange: str
    currency_code: str | UnsetType = UNSET
    format: str = "price"
    minmov: int
    pricescale: int
    volume_precision: int = 8
    has_intraday: bool = True
    intraday_multipliers: tuple[str, ...] = MINUTES
    has_seconds: bool = True
    seconds_multipliers: tuple[str, ...] = SECONDS
    has_daily: bool = True
    daily_multipliers: tuple[str, ...] = ("1",)
    has_weekly_and_monthly: bool = True
    weekly_multipliers: tuple[str, ...] = ("1",)
    monthly_multipliers: tuple[str, ...] = ("1",)
    supported_resolutions: tuple[str, ...] = RESOLUTIONS
    data_status: str = "streaming"


class Found(Struct, frozen=True, kw_only=True):
    """One result of a search."""

    symbol: str
    full_name: str
    description: str
    exchange: str
    ticker: str
    type: str
    pricescale: int


class UnknownGroup(CandledError):
    """An exchange that there is not."""


class Group(Struct, frozen=True, kw_only=True):
    """All markets of an exchange as a table; what is the same for all of them is said once."""

    symbol: list[str]
    ticker: list[str]
    description: list[str]
    exchange_listed: str = field(name="exchange-listed")
    exchange_traded: str = field(name="exchange-traded")
    exchange_listed_name: str
    minmovement: list[int]
    pricescale: list[int]
    type: str
    session_regular: list[str] = field(name="session-regular")
    timezone: list[str]
    has_intraday: bool = field(name="has-intraday", default=True)
    intraday_multipliers: tuple[str, ...] = field(name="intraday-multipliers", default=MINUTES)
    has_daily: bool = field(name="has-daily", default=True)
    has_weekly_and_monthly: bool = field(name="has-weekly-and-monthly", default=True)
    supported_resolutions: tuple[str, ...] = field(name="supported-resolutions", default=RESOLUTIONS)
    volume_precision: int = field(name="volume-precision", default=8)


class SymbolQuery(Struct, frozen=True):
    symbol: Symbol


class GroupQuery(Struct, frozen=True):
    group: Annotated[str, as_in(f"An exchange: {', '.join(EXCHANGES.values())}.", "SPOT")]


class SearchQuery(Struct, frozen=True):
    query: Annotated[str, said("What somebody typed. Nothing: the busiest markets.", "GO")] = ""
    type: Annotated[str, said(f"Only of this type: {', '.join(dict.fromkeys(TYPES.values()))}.")] = ""
    exchange: Annotated[str, said(f"Only of this exchange: {', '.join(EXCHANGES.values())}.")] = ""
    limit: Annotated[
        str, said(f"At most so many, {FOUND} unless given and never more than {MOST_FOUND}.", type="integer")
    ] = ""


@symbols.get("/symbols")
async def one() -> Response:
    """One market by ticker, `EXCHANGE:NAME` or what somebody typed."""
    market = await engine().market(params(SymbolQuery).symbol)
    info = SymbolInfo(
        name=market.market_symbol,
        ticker=market.market_symbol,
        description=described(market),
        type=market.type,
        session=market.session,
        timezone=market.timezone,
        exchange=market.exchange,
        listed_exchange=market.exchange,
        currency_code=market.quote_asset or UNSET,
        minmov=market.minmov,
        pricescale=market.pricescale,
    )
    return reply(info, headers={"Cache-Control": REVALIDATE})


@symbols.get("/symbol_info")
async def group() -> Response:
    """All markets of an exchange, as a table; what is the same for all of them is said once."""
    wanted = params(GroupQuery).group
    kind = _kind(wanted)
    found = await services().registry.search("", kind=kind, limit=MOST_GROUPED + 1)
    if len(found) > MOST_GROUPED:
        raise BadRequest(f"group: {wanted!r} has more than {MOST_GROUPED} markets, too many for a table; use search")
    table = Group(
        symbol=[market.market_symbol for market in found],
        ticker=[market.market_symbol for market in found],
        description=[described(market) for market in found],
        exchange_listed=EXCHANGES[kind],
        exchange_traded=EXCHANGES[kind],
        exchange_listed_name=EXCHANGES[kind],
        minmovement=[market.minmov for market in found],
        pricescale=[market.pricescale for market in found],
        type=TYPES[kind],
        session_regular=[market.session for market in found],
        timezone=[market.timezone for market in found],
    )
    return reply(table, headers={"Cache-Control": REVALIDATE})


@symbols.get("/search")
async def search() -> Response:
    """Markets for what somebody typed, best first."""
    query = params(SearchQuery)
    wanted = number(query.limit)
    limit = FOUND if wanted is None or wanted < 0 else int(min(wanted, MOST_FOUND))
    found = await services().registry.search(
        query.query,
        type=query.type or None,
        exchange=query.exchange or None,
        limit=limit,
        busy=(await day().fresh()).busy,
    )
    results = [
        Found(
            symbol=market.market_symbol,
            full_name=f"{market.exchange}:{market.market_symbol}",
            description=described(market),
            exchange=market.exchange,
            ticker=market.market_symbol,
            type=market.type,
            pricescale=market.pricescale,
        )
        for market in found
    ]
    return reply(results, headers={"Cache-Control": REVALIDATE})


def described(market: Market) -> str:
    """What to call a market in a list; never empty."""
    return market.name or market.description or market.market_symbol


def _kind(exchange: str) -> Kind:
    for kind, name in EXCHANGES.items():
        if folded(name) == folded(exchange):
            return kind
    raise UnknownGroup(f"group: no exchange {exchange!r:.100}; there are {', '.join(EXCHANGES.values())}")
