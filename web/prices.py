"""What a market costs now, and how its last day went."""

from decimal import Decimal

from msgspec import Struct
from quart import Blueprint, Response

from actors.ticker import Price
from storage.measures import wire
from storage.records import Market
from web.context import NO_STORE, engine, reply

prices = Blueprint("prices", __name__, url_prefix="/api/markets")


class LivePrice(Struct, frozen=True):
    """One market at one instant; null is "not known"."""

    market_id: int
    market_symbol: str
    timestamp: int  # ms, of the clock that the windows end by
    mark_price: float | None
    index_price: float | None
    funding_rate: float | None
    volume_1m: float  # base units, as all volumes
    volume_5m: float
    volume_1h: float
    volume_24h: float
    turnover_24h: float  # quote units
    trades_24h: int
    open_interest: float | None
    long_short_ratio: float | None
    price_1h_ago: float | None
    price_24h_ago: float | None
    price_change_1h: float | None  # per cent, as the one below
    price_change_24h: float | None
    high_24h: float | None
    low_24h: float | None
    volatility_24h: float | None  # per cent
    bid_ask_spread: float | None
    market_depth: float | None
    active_traders_1h: int | None
    active_traders_24h: int | None
    market_cap: float | None
    cursor: str


@prices.get("/<symbol:symbol>/price")
async def one(symbol: str) -> Response:
    """What a market costs now."""
    market = await engine().market(symbol)
    cursor = f"{engine().epoch}.{engine().committed()}"
    return reply(live(market, await engine().price(market), cursor), headers={"Cache-Control": NO_STORE})


def live(market: Market, found: Price, cursor: str) -> LivePrice:
    """What is told of a market's price; `cursor` says what the price has seen at least."""
    return LivePrice(
        market.market_id,
        market.market_symbol,
        found.time * 1000,
        found.price,
        found.index_price,
        found.funding_rate,
        found.volume_1m,
        found.volume_5m,
        found.volume_1h,
        found.volume_24h,
        found.turnover_24h,
        found.trades_24h,
        found.open_interest,
        found.long_short_ratio,
        found.price_1h_ago,
        found.price_24h_ago,
        change(found.price_1h_ago, found.price),
        change(found.price_24h_ago, found.price),
        found.high_24h,
        found.low_24h,
        found.volatility_24h,
        found.bid_ask_spread,
        found.market_depth,
        found.active_traders_1h,
        found.active_traders_24h,
        market_cap(market, found.price),
        cursor,
    )


def change(before: float | None, now: float | None) -> float | None:
    """From one price to another, in per cent."""
    return None if before is None or now is None else wire(100 * (now - before) / before)


def market_cap(market: Market, price: float | None) -> float | None:
    """What all there is of it costs."""
    return None if price is None or market.supply is None else wire(float(Decimal(market.supply) * Decimal(price)))
