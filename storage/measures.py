"""The one table: what a candle of each kind of market consists of, and how each measure merges.

A candle is a row of measures. From this table come the vectorised fold and merge (`actors/fold.py`), the columns of
a partial (`storage/partials.py`), the DuckDB tables and the SQL that folds and merges (`storage/schema.py`).
"""

import math
from enum import Enum

import numpy as np
from msgspec import Struct

from storage.events import EVENT_CODE, Array

SKETCH = 4096  # a distinct measure is exact up to this many, then an estimate: see `distinct_count`


class Rule(Enum):
    """How two values of one measure in one bucket become one."""

    FIRST = "first"  # the value with the smallest order key
    LAST = "last"  # the value with the largest order key
    MIN = "min"
    MAX = "max"
    SUM = "sum"  # exact: an integer number of 1e-18
    COUNT = "count"
    DISTINCT = "distinct"  # the smallest SKETCH different 64-bit hashes


class Measure(Struct, frozen=True):
    """One column of a candle: `rule` over the input `of`, of the events for which the input `where` holds."""

    name: str
    rule: Rule
    of: str = ""  # a name in INPUTS; empty for COUNT
    where: str = ""  # a name in INPUTS that is a mask; empty: every event that says something


class Ratio(Struct, frozen=True):
    """A number shown but not kept: one sum over another."""

    name: str
    over: str
    under: str


COUNTED = tuple(EVENT_CODE[name] for name in ("Trade", "PositionOpened", "PositionClosed"))
LIQUIDATED = EVENT_CODE["PositionLiquidated"]
_COUNTED = f"event IN ({', '.join(map(str, COUNTED))})"
LARGEST = math.nextafter(1e20, 0.0)  # what a price × a volume counts for at most: an amount has 20 digits at most
_WORTH = f"CAST(least(CAST({{price}} AS DOUBLE) * CAST({{size}} AS DOUBLE), {LARGEST!r}) AS DECIMAL(38, 18))"

# What a fold reads of an event, as SQL over a ledger relation that also has the boolean `priced`.
# `actors/vamm.py` and `actors/cards.py` say the same in numpy; a property test holds them equal.
TRADE_INPUTS = {
    "price": "CAST(price AS DOUBLE)",
    "volume": "coalesce(volume, 0)",
    "turnover": _WORTH.format(price="price", size="coalesce(volume, 0)"),
    "fee": "coalesce(fee, 0)",
    "trader": "trader",
    "funding_rate": "CAST(funding_rate AS DOUBLE)",
    "open_interest": "CAST(open_interest AS DOUBLE)",
    "priced": "priced",
    "counted": _COUNTED,
    "worth": f"{_COUNTED} AND price > 0",
    "bought": f"{_COUNTED} AND side = 1",
    "sold": f"{_COUNTED} AND side = 0",
    "liquidated": f"event = {LIQUIDATED}",
}
SNAPSHOT_INPUTS = {
    "price": "CAST(price AS DOUBLE)",
    "price_exact": "price",
    "market_price": "price_market",
    "price_low": "CAST(price_low AS DOUBLE)",
    "price_high": "CAST(price_high AS DOUBLE)",
    "listings": "CAST(coalesce(num_listings, 0) AS DECIMAL(38, 18))",
    "quantity": "CAST(coalesce(total_quantity, 0) AS DECIMAL(38, 18))",
    "worth": _WORTH.format(price="price", size="coalesce(total_quantity, num_listings, 1)"),
    "priced": "priced",
    "market_priced": "priced AND price_market IS NOT NULL",
}

_PRICES = (
    Measure("open", Rule.FIRST, "price", "priced"),
    Measure("high", Rule.MAX, "price", "priced"),
    Measure("low", Rule.MIN, "price", "priced"),
    Measure("close", Rule.LAST, "price", "priced"),
)
_TRADES = (
    *_PRICES,
    Measure("volume", Rule.SUM, "volume", "counted"),
    Measure("trades_count", Rule.COUNT, where="counted"),
    Measure("turnover", Rule.SUM, "turnover", "worth"),
    Measure("turnover_volume", Rule.SUM, "volume", "worth"),
    Measure("buy_volume", Rule.SUM, "volume", "bought"),
    Measure("sell_volume", Rule.SUM, "volume", "sold"),
)
_SNAPSHOTS = (
    *_PRICES,
    Measure("volume", Rule.SUM, "worth", "priced"),
    Measure("trades_count", Rule.COUNT, where="priced"),
    Measure("price_sum", Rule.SUM, "price_exact", "priced"),
    Measure("market_price_sum", Rule.SUM, "market_price", "market_priced"),
    Measure("market_price_count", Rule.COUNT, where="market_priced"),
    Measure("min_price", Rule.MIN, "price_low", "priced"),
    Measure("max_price", Rule.MAX, "price_high", "priced"),
    Measure("total_listings", Rule.SUM, "listings", "priced"),
    Measure("total_quantity", Rule.SUM, "quantity", "priced"),
)

MEASURES: dict[str, tuple[Measure, ...]] = {
    "perp": (
        *_TRADES,
        Measure("total_fees", Rule.SUM, "fee", "counted"),
        Measure("unique_traders", Rule.DISTINCT, "trader"),
        Measure("long_trades", Rule.COUNT, where="bought"),
        Measure("short_trades", Rule.COUNT, where="sold"),
        Measure("liquidation_volume", Rule.SUM, "volume", "liquidated"),
        Measure("liquidation_count", Rule.COUNT, where="liquidated"),
        Measure("funding_rate", Rule.LAST, "funding_rate"),
        Measure("open_interest", Rule.LAST, "open_interest"),
    ),
    "spot": _TRADES,
    "card": _SNAPSHOTS,
    "index": (*_SNAPSHOTS, Measure("card_count", Rule.DISTINCT, "card", "priced")),
}
RATIOS: dict[str, tuple[Ratio, ...]] = {
    "perp": (Ratio("vwap", "turnover", "turnover_volume"),),
    "spot": (Ratio("vwap", "turnover", "turnover_volume"),),
    "card": (
        Ratio("avg_price", "price_sum", "trades_count"),
        Ratio("avg_market_price", "market_price_sum", "market_price_count"),
    ),
    "index": (
        Ratio("avg_price", "price_sum", "trades_count"),
        Ratio("avg_market_price", "market_price_sum", "market_price_count"),
    ),
}
INPUTS = {
    "perp": TRADE_INPUTS,
    "spot": TRADE_INPUTS,
    "card": SNAPSHOT_INPUTS,
    "index": {**SNAPSHOT_INPUTS, "card": "card"},
}
KINDS = tuple(MEASURES)
KEY = ("ts", "block", "idx", "tid", "pos")  # the order key of an event; first and last carry one


def distinct_count(sketch: Array) -> int:
    """How many different things a sketch has seen: exact below SKETCH, else the k-minimum-values estimate.

    With k the sketch's size and h the largest hash kept, as a share of the hash range, the estimate is (k − 1) / h;
    its relative standard error is 1/√(k − 2), 1.6 % (Bar-Yossef et al., "Counting distinct elements in a data
    stream", 2002; Beyer et al., "On synopses for distinct-value estimation under multiset operations", 2007).
    """
    if len(sketch) < SKETCH:
        return len(sketch)
    return round((SKETCH - 1) / (float(sketch[SKETCH - 1]) / 2.0**64))


def wire(value: float) -> float:
    """The float that every wire prints: at most 15 significant digits, so that one bar is one text everywhere."""
    return float(f"{value:.15g}")


def wired(values: Array) -> Array:
    """`wire` of every element; NaN stays NaN."""
    out = np.asarray(values, np.float64).copy()
    magnitude = np.abs(out)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        # m / 10**k is the nearest double of a 15-digit decimal when both are exact; then it is what `wire` gives.
        places = 14 - np.floor(np.log10(magnitude))
        usual = (places >= 0) & (places <= 22)
        power = 10.0 ** np.where(usual, places, 0)
        shifted = out * power
        digits = np.rint(shifted)
        size = np.abs(digits)
        # Near a half the product's own rounding could decide, and next to a power of ten log10's could.
        plain = usual & (np.abs(shifted - digits) < 0.43) & (size < 1e15) & ((size > 1e14) | (shifted == digits))
        plain &= size >= 1e14
    rounded = digits / power
    for i in np.flatnonzero(~plain & np.isfinite(out) & (out != 0)):
        rounded[i] = wire(float(out[i]))
    keep = ~np.isfinite(out) | (out == 0)
    rounded[keep] = out[keep]
    return rounded
