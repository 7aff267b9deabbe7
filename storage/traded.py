"""What each market traded since some time, for lists that are ordered by it: one look over all markets."""

from typing import NamedTuple

import numpy as np
from duckdb import DuckDBPyConnection as Connection

from storage import schema
from storage.events import Array
from storage.measures import KEY, MEASURES

HOUR, MINUTE = 3600, 60


class Traded(NamedTuple):
    """Columns of equal length, a row for each market with bars."""

    market: Array  # slots
    volume: Array  # sums of floats: near enough for an order, and no sum of any size ends the query
    turnover: Array  # as the volumes, in the quote currency
    opened: Array  # the first price; NaN where there was none


def since(db: Connection, start: int) -> Traded:
    """What is stored of the minute in which `start` (seconds) lies, and of all that came after."""
    minute, hour = start // MINUTE * MINUTE, -(-start // HOUR) * HOUR
    parts = [db.execute(_sums(kind), [minute, hour, minute, hour, hour, hour]).fetchnumpy() for kind in MEASURES]
    market, volume, turnover, opened = (
        np.concatenate([np.ma.filled(part[name].astype(np.float64), np.nan) for part in parts])
        for name in ("market", "volume", "turnover", "opened")
    )
    return Traded(market.astype(np.int64), volume, turnover, opened)


def _sums(kind: str) -> str:
    """SQL: minutes up to the next full hour, hours from there on, heeding rows that replace their bucket."""
    key = ", ".join(f"{part} := open_{part}" for part in KEY)
    # What a price of a card is for, its candles count as volume by its worth.
    turnover = "turnover" if any(measure.name == "turnover" for measure in MEASURES[kind]) else "volume"
    names = f"market, t, rev, whole, volume, {turnover} AS turnover, open, {', '.join(f'open_{part}' for part in KEY)}"
    laid = " UNION ALL ".join(
        f"SELECT {rung} AS rung, {names} FROM {table} WHERE {where}"
        for rung, where in ((MINUTE, "t >= ? AND t < ?"), (HOUR, "t >= ?"))
        for table in (schema.candle_table(kind, rung), schema.recent_table(kind, rung))
    )
    return (
        f"WITH laid AS ({laid}), "
        "replaced AS (SELECT rung, market, t, max(rev) AS newest FROM laid WHERE whole GROUP BY ALL) "
        "SELECT market, sum(CAST(volume AS DOUBLE)) AS volume, sum(CAST(turnover AS DOUBLE)) AS turnover, "
        f"min(struct_pack(t := t, {key}, value := open)) FILTER (open IS NOT NULL).value AS opened "
        "FROM laid LEFT JOIN replaced USING (rung, market, t) "
        "WHERE newest IS NULL OR rev > newest OR (whole AND rev = newest) GROUP BY market ORDER BY market"
    )
