"""Lists of markets: which of them in which order, and what each is worth now."""

from collections.abc import Sequence
from typing import Annotated, NamedTuple

from actors.ticker import Brief, Ticker
from actors.traded import Day
from storage.errors import BadRequest
from storage.ordering import Order, Wanted
from storage.records import Market, shown
from storage.tiers import TIERS
from web.context import engine, services
from web.parameters import said
from web.prices import change, market_cap
from web.pusher.names import MARKET, escaped

MOST_FOUND = 1_000  # markets that a search is ordered and paged among
SPARKS = {"1h": (60, 60), "24h": (48, 1800)}  # (closes, seconds of each)


Tier = Annotated[str, said("Only of this tier.", enum=["", *TIERS])]
Search = Annotated[str, said("What somebody typed; then the best match is first, unless `sort` says otherwise.")]


class Spark(NamedTuple):
    """Where closes lie: each is the last of its span of seconds, and the running span is the last one."""

    start: int  # of the first span
    seconds: int
    spans: int

    @classmethod
    def until(cls, now: int, text: str) -> "Spark":
        """The spans that a parameter asks for."""
        if text not in SPARKS:
            raise BadRequest(f"spark: expected {' or '.join(SPARKS)}, got {text!r:.60}")
        count, seconds = SPARKS[text]
        return cls(now - now % seconds - (count - 1) * seconds, seconds, count)


# What is told of a market beside what is registered.
LIVE = (
    *("current_price", "price_24h_ago", "price_change_24h", "volume_24h", "trades_24h", "open_interest"),
    *("market_cap", "last_updated", "channel"),
)


class Now(NamedTuple):
    """What a market trades at; `spark` has its closes, where they are wanted."""

    brief: Brief
    spark: list[float | None]


def tier(text: str) -> str | None:
    """The tier that is asked for; none: any."""
    if text and text not in TIERS:
        raise BadRequest(f"tier: expected {', '.join(TIERS[:-1])} or {TIERS[-1]}, got {text!r:.60}")
    return text or None


async def found(search: str, order: Order | None, wanted: Wanted, offset: int, limit: int, today: Day) -> list[Market]:
    """Active markets, `limit` of them behind the first `offset`; without an order what was typed is ordered by how well
    it fits, and all else by volume."""
    registry = services().registry
    if not search.strip():
        return await registry.ordered(order or "volume", wanted, offset, limit, today.busy)
    some = await registry.search(search, kind=wanted.kind, limit=MOST_FOUND, busy=today.busy)
    some = [market for market in some if _is(market, wanted, today)]
    if order is not None:
        keys = {
            "volume": lambda market: (-today.busy.volume(market.slot), market.market_id),
            "symbol": lambda market: market.market_symbol.casefold(),
            "id": lambda market: market.market_id,
        }
        some.sort(key=keys[order])
    return some[offset : offset + limit]


def _is(market: Market, wanted: Wanted, today: Day) -> bool:
    if wanted.tier is not None and today.tiers.of(market) != wanted.tier:
        return False
    return wanted.category is None or (market.category or "").lower() == wanted.category.lower()


async def priced(page: Sequence[Market], spark: Spark | None = None) -> dict[int, Now]:
    """What each of these markets trades at, by slot; without those that cannot be read."""
    now = int(engine().now())

    def look(ticker: Ticker) -> Now:
        return Now(ticker.brief(now), ticker.closes(spark.start, spark.seconds, spark.spans) if spark else [])

    return await engine().tickers(page, look)


def row(market: Market, now: Now | None, today: Day) -> dict[str, object]:
    """All that is told of a market: what is registered, and what it trades at; null is not known."""
    brief = now.brief if now else None
    price, before = (brief.price, brief.price_24h_ago) if brief else (None, None)
    return {
        **shown(market),
        "channel": MARKET + escaped(market.market_symbol),
        "tier": today.tiers.of(market),
        "tier_assigned": market.tier is None,
        "current_price": price,
        "price_24h_ago": before,
        "price_change_24h": change(before, price),
        "volume_24h": brief.volume_24h if brief else None,
        "trades_24h": brief.trades_24h if brief else None,
        "open_interest": brief.open_interest if brief else None,
        "market_cap": market_cap(market, price),
        "last_updated": brief.updated // 1000 if brief and brief.updated is not None else None,
    }
