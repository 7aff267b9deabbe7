"""Pure: which column of a file is which field of finished bars, guessed from names and types, as SQL over the file."""

import re
from collections.abc import Sequence
from typing import Literal

from storage.errors import BadRequest
from storage.events import BAR_COUNTS
from storage.mapping import Choice, Shape, Times, literal, quoted, time_of, value_of, whole

LENGTHS = {"1s": 1, "1m": 60, "5m": 300, "15m": 900, "1h": 3600, "1d": 86400}
PRICES = ("open", "high", "low", "close")
# What others call the fields, best first; compared without case and underscores.
NAMES: dict[str, tuple[str, ...]] = {
    "timestamp": (
        *("timestamp", "time", "ts", "tsus", "tsms", "opentime", "datetime", "date", "localtime"),
        *("starttime", "start", "begin", "unix", "t"),
    ),
    "resolution": ("resolution", "interval", "timeframe"),
    "open": ("open", "openprice", "o"),
    "high": ("high", "highprice", "h"),
    "low": ("low", "lowprice", "l"),
    "close": ("close", "closeprice", "c"),
    "volume": ("volume", "vol", "basevolume", "volumebase", "v"),
    "trades_count": ("tradescount", "trades", "numberoftrades", "numtrades", "tradecount", "count", "n"),
    "turnover": ("turnover", "quotevolume", "volumequote", "quoteassetvolume"),
    "turnover_volume": ("turnovervolume",),
    "buy_volume": ("buyvolume", "takerbuybaseassetvolume", "takerbuybasevolume", "takerbuyvolume"),
    "sell_volume": ("sellvolume",),
    "total_fees": ("totalfees",),
    "long_trades": ("longtrades",),
    "short_trades": ("shorttrades",),
    "liquidation_volume": ("liquidationvolume",),
    "liquidation_count": ("liquidationcount",),
    "funding_rate": ("fundingrate",),
    "open_interest": ("openinterest",),
    "price_sum": ("pricesum",),
    "market_price_sum": ("marketpricesum",),
    "market_price_count": ("marketpricecount",),
    "min_price": ("minprice",),
    "max_price": ("maxprice",),
    "total_listings": ("totallistings",),
    "total_quantity": ("totalquantity",),
    "market_symbol": ("marketsymbol", "symbol", "market", "pair", "instrument", "ticker"),
    "market_id": ("marketid",),
    "contract_address": ("contractaddress",),
    "chain_id": ("chainid",),
    "removed": ("removed",),
}
COUNTS = (*BAR_COUNTS, "total_quantity")
Labelled = Literal["start", "end"]  # which end of a bar its time is


def looks_like(file: Shape) -> bool:
    """Whether a file is more likely one of bars than one of events."""
    plain = _plain(file)
    return all(any(name in plain for name in NAMES[field]) for field in PRICES) and "price" not in plain


def chosen(
    file: Shape, given: Sequence[tuple[str, str]], market: str, times: Times, length: str, labelled: Labelled
) -> list[Choice]:
    """The fields that a file has. `given`: (column or SQL expression, field) pairs that were asked for; `length`: the
    resolution of all its bars, empty where a column says it.

    Raises BadRequest where a field that is needed cannot be found.
    """
    asked: dict[str, str] = {}
    for source, field in given:
        if field not in NAMES:
            raise BadRequest(f"--map {source}={field}: expected a field of a bar ({', '.join(NAMES)}), got {field!r}")
        asked[field] = source
    plain = _plain(file)
    fixed = {}
    if market:
        fixed["market_symbol"] = Choice("market_symbol", literal(market), f"{market}, for every row")
    if length:
        fixed["resolution"] = Choice("resolution", literal(length), f"{length}, for every row")
    found: list[Choice] = []
    for field, names in NAMES.items():
        read_from = asked.get(field) or next((plain[name] for name in names if name in plain), None)
        if field in fixed:
            found.append(fixed[field])
        elif read_from is not None:
            found.append(_choice(field, read_from, file, times, length, labelled))
        elif field == "turnover" and "vwap" in plain:
            found += _worth(file, plain["vwap"], asked)
    have = {choice.field for choice in found}
    if not have & {"market_symbol", "market_id", "contract_address"}:
        raise BadRequest("no column names the market: give --market, or --map COLUMN=market_symbol")
    if "resolution" not in have:
        raise BadRequest("no column says how long these bars are: give --bars 1m, or another of " + ", ".join(LENGTHS))
    for field in ("timestamp", *PRICES):
        if field not in have:
            raise BadRequest(
                f"no column looks like the {field}: say which with --map COLUMN={field}; there are "
                f"{', '.join(file.columns)}"
            )
    return found


def _plain(file: Shape) -> dict[str, str]:
    return {re.sub(r"[_\s-]", "", name).lower(): name for name in reversed(list(file.columns))}


def _choice(field: str, source: str, file: Shape, times: Times, length: str, labelled: Labelled) -> Choice:
    if field == "timestamp":
        found = time_of(field, source, file, times)
        if labelled == "start":
            return Choice(field, found.sql, f"{found.origin}: when a bar begins", found.problem)
        if not length:
            raise BadRequest("--time end: which bars are that? give --bars 1m, or another of " + ", ".join(LENGTHS))
        sql = f"({found.sql}) - INTERVAL {LENGTHS[length]} SECOND"
        return Choice(field, sql, f"{found.origin}: when a bar ends", found.problem)
    if field in COUNTS or field in ("market_id", "chain_id"):
        return whole(field, source, file)
    return value_of(field, source, file)


def _worth(file: Shape, vwap: str, asked: dict[str, str]) -> list[Choice]:
    """What a bar turned over, by its mean price."""
    plain = _plain(file)
    names = (*NAMES["turnover_volume"], *NAMES["volume"])
    volume = asked.get("volume") or next((plain[name] for name in names if name in plain), None)
    if volume is None:
        return []
    sql = quoted(volume) if volume in file.columns else f"TRY({volume})"
    return [Choice("turnover", f"TRY_CAST({quoted(vwap)} AS DOUBLE) * TRY_CAST({sql} AS DOUBLE)", f"{vwap} × {volume}")]
