"""Pure: prices of cards into what a fold of a `card` market reads."""

import numpy as np

from actors import vamm
from actors.fold import Inputs, Scaled
from storage.events import Array, Events


def inputs(kind: str, events: Events, sources: Array) -> Inputs:
    """What the fold reads of prices of cards, laid into buckets of one second."""
    price = events.numbers("price")
    priced = vamm.priced(events, sources)
    market_price = events.numbers("price_market")
    masks = {"priced": priced, "market_priced": priced & ~np.isnan(market_price)}
    values: dict[str, Array | Scaled] = {
        "price": price,
        "price_exact": vamm.amounts(events, "price", price),
        "worth": vamm.turnover(np.where(priced, price, 0.0), _traded(events)),
    }
    if "price_market" in events:
        values["market_price"] = vamm.amounts(events, "price_market", market_price)
    for name in ("price_low", "price_high"):
        if name in events:
            values[name] = events.numbers(name)
    for name, column in (("listings", "num_listings"), ("quantity", "total_quantity")):
        if column in events:
            values[name] = Scaled(np.maximum(events.integers(column), 0), 0)
    t = events.integers("ts") // vamm.SECOND
    return Inputs(kind, events.n, events.integers("market"), t, vamm.keys(events), values, masks)


def _traded(events: Events) -> Array:
    """How many of the card a price is for: those there are, else the offers, else one."""
    quantity, listings = events.integers("total_quantity"), events.integers("num_listings")
    found: Array = np.where(quantity >= 0, quantity, np.where(listings >= 0, listings, 1)).astype(np.float64)
    return found
