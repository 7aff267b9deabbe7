"""Pure: what events say now and then of their market and no candle has a measure for: the newest word of each."""

from typing import Any

import numpy as np

from actors import fold, vamm
from actors.fold import Keys
from storage.events import PRICE_CODE, Array, Events

NAMES = ("index_price", "total_long_size", "total_short_size", "bid_ask_spread", "market_depth")
INDEX = PRICE_CODE["index"]

Key = tuple[int, int, int, str, int]
Word = tuple[str, float, Key]  # name, value, order key of the event


def said(events: Events) -> dict[int, list[Word]]:
    """By market the newest word about each name; an index price is also the price of an event that sets one."""
    words: dict[int, list[Word]] = {}
    for name in NAMES:
        values = _index(events) if name == "index_price" else events.columns.get(name)
        if values is None:
            continue
        rows = np.flatnonzero(~np.isnan(values))
        if not len(rows):
            continue
        some = events.take(rows)
        keys, markets = vamm.keys(some), some.integers("market")
        order = fold.key_order(keys, markets)
        market = markets[order]
        for row in order[np.append(np.flatnonzero(market[1:] != market[:-1]), len(order) - 1)].tolist():
            words.setdefault(int(markets[row]), []).append((name, float(values[rows[row]]), _key(keys, row)))
    return words


def _index(events: Events) -> Array | None:
    told: Array | None = events.columns.get("index_price")
    if "price_type" not in events:
        return told
    set_ = (events.integers("price_type") == INDEX) & (events.numbers("price") > 0)
    if not set_.any():
        return told
    prices = np.where(set_, events.numbers("price"), np.nan)
    return prices if told is None else np.where(np.isnan(told), prices, told)


def _key(keys: Keys, row: int) -> Key:
    def part(column: Any, nothing: Any) -> Any:
        return nothing if column is None else column[row]

    return (
        int(keys.ts[row]),
        int(part(keys.block, -1)),
        int(part(keys.idx, -1)),
        str(part(keys.tid, "")),
        int(keys.pos[row]),
    )
