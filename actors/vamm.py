"""Pure: contract events and exchange trades into what a fold of a `perp` or `spot` market reads."""

from collections.abc import Mapping

import numpy as np

from actors.fold import Inputs, Keys, Scaled
from storage import decimals
from storage.events import Array, Events
from storage.measures import COUNTED, LARGEST, LIQUIDATED

SECOND = 1_000_000


def keys(events: Events) -> Keys:
    """The order keys of events that were given their place (`pos`)."""
    idx = None
    if "log_index" in events or "trade_no" in events:
        log_index = events.integers("log_index")
        idx = np.where(log_index >= 0, log_index, events.integers("trade_no"))
    tid = None
    if "trade_id" in events:
        texts = events.texts("trade_id")
        if texts.null_count < events.n:
            tid = np.array(texts.fill_null("").to_pylist(), object)
    block = events.columns.get("block_number")
    return Keys(events.integers("ts"), events.integers("pos"), block, idx, tid)


def priced(events: Events, sources: Array) -> Array:
    """Which events set a price in their market: `sources` holds each market's price types as a bit mask, by slot."""
    price = events.numbers("price")
    allowed = (sources[events.integers("market")] >> events.integers("price_type")) & 1
    mask: Array = (price > 0) & (allowed == 1)
    return mask


def inputs(kind: str, events: Events, sources: Array) -> Inputs:
    """What the fold reads of trades and contract events, laid into buckets of one second."""
    price, volume = events.numbers("price"), events.numbers("volume")
    has_price = priced(events, sources)
    values: dict[str, Array | Scaled] = {"price": price}
    masks: dict[str, Array] = {}
    _keep(masks, "priced", has_price)
    event = events.integers("event")
    counted = np.isin(event, COUNTED) if event.any() else np.ones(events.n, np.bool_)
    _keep(masks, "counted", counted)
    side = events.integers("side")
    masks["bought"] = counted & (side == 1)
    masks["sold"] = counted & (side == 0)
    masks["liquidated"] = event == LIQUIDATED
    if "volume" in events:
        worth = counted & (price > 0)
        _keep(masks, "worth", worth)
        values["volume"] = amounts(events, "volume", volume)
        values["turnover"] = turnover(np.where(worth, price, 0.0), volume)
    if kind == "perp":
        if "fee" in events:
            values["fee"] = amounts(events, "fee", events.numbers("fee"))
        if "trader" in events:
            values["trader"] = events.integers("trader")
        for name in ("funding_rate", "open_interest"):
            if name in events:
                values[name] = events.numbers(name)
    t = events.integers("ts") // SECOND
    return Inputs(kind, events.n, events.integers("market"), t, keys(events), values, masks)


def turnover(price: Array, volume: Array) -> Array:
    """price × volume as amounts; what is more than an amount can be is the most that it can be."""
    with np.errstate(over="ignore"):
        beyond = price * volume > LARGEST
    if beyond.any():
        price, volume = np.where(beyond, LARGEST, price), np.where(beyond, 1.0, volume)
    return decimals.product(price, volume)


def _keep(masks: dict[str, Array], name: str, mask: Array) -> None:
    if not mask.all():
        masks[name] = mask


def amounts(events: Events, name: str, values: Array) -> "Array | Scaled":
    """A column of numbers as exact amounts; `values` are its floats."""
    exact = events.exact(name)
    if exact is None:
        found = decimals.scaled(values)
        if found is not None:
            return Scaled(*found)
    return decimals.units(values, exact)


def kinds_of(markets: Array, kinds: Array, names: tuple[str, ...]) -> Mapping[str, Array]:
    """Row numbers by kind of market, in row order; `kinds` holds each market's kind by slot."""
    codes = kinds[markets]
    present = np.unique(codes)
    if len(present) == 1:
        return {names[int(present[0])]: np.arange(len(markets))}
    return {names[int(code)]: np.flatnonzero(codes == code) for code in present}
