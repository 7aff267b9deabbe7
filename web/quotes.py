"""TradingView UDF: quotes of many markets, as watch lists poll them."""

from decimal import Decimal
from typing import Annotated

import trio
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace
from quart import Blueprint, Response

from actors.reading import LATEST, Window
from storage.calendar import parse
from storage.errors import BadRequest, Unavailable
from storage.measures import wire
from storage.records import Market
from web.context import NO_STORE, engine, params, reply, services
from web.parameters import said
from web.symbols import described

quotes = Blueprint("quotes", __name__, url_prefix="/api/tradingview")

MOST = 500  # names in one request
AT_ONCE = 8  # markets that are looked at side by side
DAY = parse("1D")


class Values(Struct, frozen=True):
    """The last price, and what the newest trading day came to, beside the day before it.

    Events tell how far bid and ask are apart, and neither of them: there is no `bid` and no `ask`.
    """

    ch: float | UnsetType = UNSET
    chp: float | UnsetType = UNSET
    short_name: str | UnsetType = UNSET
    exchange: str | UnsetType = UNSET
    description: str | UnsetType = UNSET
    lp: float | UnsetType = UNSET
    spread: float | UnsetType = UNSET
    open_price: float | UnsetType = UNSET
    high_price: float | UnsetType = UNSET
    low_price: float | UnsetType = UNSET
    prev_close_price: float | UnsetType = UNSET
    volume: float | UnsetType = UNSET


class Quote(Struct, frozen=True):
    """One requested name: `s` is `error` where no market has it, or nothing is known of its price."""

    s: str
    n: str
    v: Values


class Quotes(Struct, frozen=True, tag_field="s", tag="ok"):
    d: list[Quote]


class QuotesQuery(Struct, frozen=True):
    symbols: Annotated[str, said(f"Names of markets between commas, at most {MOST}.", "GOLD,BTC")]


@quotes.get("/quotes")
async def listed() -> Response:
    """A quote for every name, in their order."""
    names = [name for name in params(QuotesQuery).symbols.split(",") if name.strip()]
    if len(names) > MOST:
        raise BadRequest(f"symbols: expected at most {MOST} names, got {len(names)}")
    registry = services().registry
    slots = await registry.load(names)
    found = {slot: registry.market(slot) for slot in set(slots.values())}
    known: dict[int, Values] = {}
    turns = trio.CapacityLimiter(AT_ONCE)

    async def look(market: Market) -> None:
        async with turns:
            try:
                known[market.slot] = valued(market, await engine().window(market, DAY, -LATEST, LATEST, 2))
            except Unavailable:
                return  # what is wrong with one market is not the others'

    await engine().caught_up()  # where that takes long, because the store is made again, none of them has a price
    async with trio.open_nursery() as looking:
        for market in found.values():
            if engine().has_events(market.slot):
                looking.start_soon(look, market)
    now = int(engine().now())
    spreads = await engine().tickers([found[slot] for slot in known], lambda ticker: ticker.spread(now))
    for slot, spread in spreads.items():
        if spread is not None and known[slot].lp is not UNSET:
            known[slot] = replace(known[slot], spread=spread)
    told = [known.get(slots.get(name, 0), Values()) for name in names]
    answer = [Quote("error" if v.lp is UNSET else "ok", name, v) for name, v in zip(names, told, strict=True)]
    return reply(Quotes(answer), headers={"Cache-Control": NO_STORE})


def valued(market: Market, days: Window) -> Values:
    """What the newest two trading days say. A market's first day is compared with its own opening."""
    if not days.time:
        return Values()
    last = days.close[-1]
    before = days.close[-2] if len(days.time) > 1 else days.open[-1]
    # As decimals: what floats differ by has digits that neither of the prices has.
    change = float(Decimal(repr(last)) - Decimal(repr(before)))
    return Values(
        ch=change,
        chp=wire(100 * change / before) if before else 0.0,
        short_name=market.market_symbol,
        exchange=market.exchange,
        description=described(market),
        lp=last,
        open_price=days.open[-1],
        high_price=days.high[-1],
        low_price=days.low[-1],
        prev_close_price=before,
        volume=days.volume[-1],
    )
