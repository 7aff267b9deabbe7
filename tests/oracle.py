"""What candles should be: a slow, obvious fold and merge, straight from the design.

It shares nothing with the product but the names of the measures: plain Python, `Decimal` and sets.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Context, Decimal
from typing import Any
from zoneinfo import ZoneInfo

Key = tuple[int, int, int, str, int]
Candle = dict[str, Any]  # a measure each, and rev, born (None: no price was set yet) and whole
Place = tuple[int, int]  # market, start of the bucket

UNIT = Decimal(1).scaleb(-18)
EXACT = Context(prec=200)
CAP = 10**38 // 2**96 * 2**96  # units of 1e-18 at which sums stop
LARGEST = math.nextafter(1e20, 0)  # what a price times a volume is at most

COUNTED = ("Trade", "PositionOpened", "PositionClosed")

FIRSTS = ("open",)
LASTS = ("close", "funding_rate", "open_interest")
HIGHS = ("high", "max_price")
LOWS = ("low", "min_price")
COUNTS = ("trades_count", "long_trades", "short_trades", "liquidation_count", "market_price_count")
SETS = ("unique_traders", "card_count")
SUMS = (
    "volume",
    "turnover",
    "turnover_volume",
    "buy_volume",
    "sell_volume",
    "total_fees",
    "liquidation_volume",
    "price_sum",
    "market_price_sum",
    "total_listings",
    "total_quantity",
)


@dataclass(frozen=True, kw_only=True)
class Event:
    """A trade or a contract event; None says nothing."""

    market: int
    ts: int  # µs
    pos: int  # seq << 24 | row
    event: str = "Trade"
    price_type: str = "trade"
    side: bool | None = None  # True: a buy or a long
    price: Decimal | None = None
    volume: Decimal | None = None
    fee: Decimal | None = None
    funding_rate: Decimal | None = None
    open_interest: Decimal | None = None
    trader: int | None = None
    block: int | None = None
    log_index: int | None = None
    trade_no: int | None = None
    trade_id: str | None = None

    @property
    def key(self) -> Key:
        """Where the event stands among all events: the order of `first` and `last`."""
        index = self.log_index if self.log_index is not None else self.trade_no
        block = -1 if self.block is None else self.block
        return self.ts, block, -1 if index is None else index, self.trade_id or "", self.pos


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The price of a card at one time, as one market of kind `card` or `index` sees it."""

    market: int
    ts: int
    pos: int
    card: int
    price: Decimal | None
    price_market: Decimal | None = None
    price_low: Decimal | None = None
    price_high: Decimal | None = None
    num_listings: int | None = None
    total_quantity: int | None = None

    @property
    def key(self) -> Key:
        return self.ts, -1, self.ts, "", self.pos


Said = Event | Snapshot


# --- fold


def fold(
    kind: str, events: Iterable[Said], bucket: Callable[[Said], int], sources: Mapping[int, Iterable[str]] | None = None
) -> dict[Place, Candle]:
    """The candle of each market and bucket; `sources` are the price types that set prices, by market."""
    groups: dict[Place, list[Said]] = {}
    for event in events:
        groups.setdefault((event.market, bucket(event)), []).append(event)
    found = {}
    for place, group in groups.items():
        if kind in ("perp", "spot"):
            trades = [event for event in group if isinstance(event, Event)]
            found[place] = _traded(kind, trades, (sources or {})[place[0]])
        else:
            found[place] = _tracked(kind, [event for event in group if isinstance(event, Snapshot)])
    return found


def _traded(kind: str, events: list[Event], sources: Iterable[str]) -> Candle:
    setting = [e for e in events if e.price is not None and e.price > 0 and e.price_type in sources]
    counted = [e for e in events if e.event in COUNTED]
    worth = [e for e in counted if e.price is not None and e.price > 0]
    bought = [e for e in counted if e.side is True]
    sold = [e for e in counted if e.side is False]
    candle = {
        **_prices(events, setting),
        "volume": total(e.volume for e in counted),
        "trades_count": len(counted),
        "turnover": capped(sum(product(e.price, e.volume) for e in worth)),
        "turnover_volume": total(e.volume for e in worth),
        "buy_volume": total(e.volume for e in bought),
        "sell_volume": total(e.volume for e in sold),
    }
    if kind == "perp":
        liquidated = [e for e in events if e.event == "PositionLiquidated"]
        candle |= {
            "total_fees": total(e.fee for e in counted),
            "unique_traders": frozenset(e.trader for e in events if e.trader is not None),
            "long_trades": len(bought),
            "short_trades": len(sold),
            "liquidation_volume": total(e.volume for e in liquidated),
            "liquidation_count": len(liquidated),
            "funding_rate": max(
                ((e.key, float(e.funding_rate)) for e in events if e.funding_rate is not None), default=None
            ),
            "open_interest": max(
                ((e.key, float(e.open_interest)) for e in events if e.open_interest is not None), default=None
            ),
        }
    return candle


def _tracked(kind: str, events: list[Snapshot]) -> Candle:
    setting = [e for e in events if e.price is not None and e.price > 0]
    market = [e for e in setting if e.price_market is not None]
    candle = {
        **_prices(events, setting),
        "volume": capped(sum(product(e.price, _quantity(e)) for e in setting)),
        "trades_count": len(setting),
        "price_sum": total(e.price for e in setting),
        "market_price_sum": total(e.price_market for e in market),
        "market_price_count": len(market),
        "min_price": min((float(e.price_low) for e in setting if e.price_low is not None), default=None),
        "max_price": max((float(e.price_high) for e in setting if e.price_high is not None), default=None),
        "total_listings": total(Decimal(e.num_listings or 0) for e in setting),
        "total_quantity": total(Decimal(e.total_quantity or 0) for e in setting),
    }
    if kind == "index":
        candle["card_count"] = frozenset(e.card for e in setting)
    return candle


def _prices(events: Iterable[Said], setting: Iterable[Said]) -> Candle:
    prices = sorted((e.key, float(e.price)) for e in setting if e.price is not None)
    values = [value for _, value in prices]
    return {
        "open": prices[0] if prices else None,
        "high": max(values, default=None),
        "low": min(values, default=None),
        "close": prices[-1] if prices else None,
        "rev": max(e.pos >> 24 for e in events),
        "born": min((e.pos >> 24 for e in setting), default=None),
        "whole": False,
    }


def _quantity(event: Snapshot) -> Decimal:
    if event.total_quantity is not None:
        return Decimal(event.total_quantity)
    return Decimal(1 if event.num_listings is None else event.num_listings)


def units(number: Decimal | None) -> int:
    """A number in units of 1e-18; nothing is 0."""
    return 0 if number is None else int(EXACT.divide(number, UNIT))


def total(numbers: Iterable[Decimal | None]) -> int:
    """The exact sum, in units of 1e-18, as far as sums go."""
    return capped(sum(units(number) for number in numbers))


def capped(amount: int) -> int:
    return max(-CAP, min(CAP, amount))


def product(price: Decimal | None, volume: Decimal | None) -> int:
    """Price times volume as floats, in units of 1e-18, halves away from zero."""
    worth = min(float(price or 0) * float(volume or 0), LARGEST) * 1e18
    whole = math.trunc(worth)
    return whole + (worth - whole >= 0.5)


# --- merge


def empty(names: Iterable[str], rev: int) -> Candle:
    """A candle in which nothing happened."""
    candle: Candle = {"rev": rev, "born": None, "whole": False}
    for name in names:
        candle[name] = frozenset() if name in SETS else 0 if name in COUNTS + SUMS else None
    return candle


def merge(candles: Iterable[Candle]) -> Candle:
    """The sum of candles of one bucket: a whole replaces what is not newer than itself."""
    rows = list(candles)
    wholes = [row["rev"] for row in rows if row["whole"]]
    if wholes:
        newest = max(wholes)
        rows = [row for row in rows if row["rev"] > newest or (row["whole"] and row["rev"] == newest)]
    summed: Candle = {}
    for name in rows[0]:
        values = [row[name] for row in rows if row[name] is not None]
        if name in FIRSTS or name in LOWS or name == "born":
            summed[name] = min(values, default=None)
        elif name in LASTS or name in HIGHS or name == "rev":
            summed[name] = max(values, default=None)
        elif name in SUMS:
            summed[name] = capped(sum(values))
        elif name in COUNTS:
            summed[name] = sum(values)
        elif name in SETS:
            summed[name] = frozenset().union(*values)
        else:
            assert name == "whole", name
            summed[name] = any(values)
    return summed


def merged(rows: Iterable[tuple[Place, Candle]]) -> dict[Place, Candle]:
    """The sum of the candles of each bucket."""
    groups: dict[Place, list[Candle]] = {}
    for place, candle in rows:
        groups.setdefault(place, []).append(candle)
    return {place: merge(group) for place, group in groups.items()}


# --- finished bars


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A bar that somebody else made; of every measure what it says."""

    pos: int
    rung: int  # seconds
    begins: int  # µs
    ends: int
    measures: Mapping[str, Any]
    firsts: Mapping[str, float]
    lasts: Mapping[str, float]

    def candle(self, names: Iterable[str]) -> Candle:
        """The candle that it is."""
        first, last = (self.begins, -1, -1, "", self.pos), (self.ends - 1, -1, -1, "", self.pos)
        said = {name: (first, value) for name, value in self.firsts.items()}
        said |= {name: (last, value) for name, value in self.lasts.items()}
        born = {"born": self.pos >> 24} if self.firsts else {}  # without a price it is no bar by itself
        return {**empty(names, self.pos >> 24), **born, **said, **self.measures}


def with_bars(
    kind: str,
    events: Sequence[Event],
    bars: Sequence[Finished],
    rung: int,
    label: Callable[[int], int],
    sources: Iterable[str],
) -> dict[int, Candle]:
    """What events and the bars of one market come to in buckets that are made of a stored resolution.

    A bar counts where no event sets a price, and no shorter bar begins.
    """
    priced = [e.ts for e in events if e.price is not None and e.price > 0 and e.price_type in sources]
    folded = fold(kind, events, lambda event: label(event.ts), {0: sources})
    rows = [((0, t), candle) for (_, t), candle in folded.items()]
    names = [name for name in _traded(kind, [NOBODY], ()) if name not in ("rev", "born", "whole")]
    for bar in bars:
        shorter = [other.begins for other in bars if other.rung < bar.rung]
        beaten = any(bar.begins <= ts < bar.ends for ts in (*priced, *shorter))
        if bar.rung <= rung and not beaten:
            rows.append(((0, label(bar.begins)), bar.candle(names)))
    return {t: candle for (_, t), candle in merged(rows).items()}


NOBODY = Event(market=0, ts=0, pos=0)


# --- calendars


@dataclass(frozen=True)
class Days:
    """Trading days: 24x7 (`evening` None), or from `evening` o'clock of the day before, Monday to Friday."""

    zone: str = "UTC"
    evening: int | None = None

    @property
    def session(self) -> str:
        return "24x7" if self.evening is None else f"{self.evening}00-{self.evening - 1}00"

    def date(self, ts: int) -> date:
        """The local date, or the next one where its session has begun."""
        local = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=ts)).astimezone(ZoneInfo(self.zone))
        following = local.date() + timedelta(days=1)
        evening = self.evening is not None and local.hour >= self.evening and following.isoweekday() <= 5
        return following if evening else local.date()


def midnight(day: date) -> int:
    return (day - date(1970, 1, 1)).days * 86400


def label(name: str, days: Days, ts: int) -> int:
    """The start of the bucket of an event at `ts` (µs), for resolutions as TradingView names them."""
    unit = name[-1]
    if unit in "DWM":
        day = days.date(ts)
        if unit == "W":
            day -= timedelta(days=day.isoweekday() - 1)
        return midnight(day.replace(day=1) if unit == "M" else day)
    length = int(name[:-1]) if unit == "S" else 60 * int(name)
    second = ts // 10**6
    start = 0 if 86400 % length == 0 else second // 86400 * 86400
    return start + (second - start) // length * length
