"""The last day of many markets of a kind, in one look: what a list of them is told from."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from duckdb import DuckDBPyConnection as Connection

from storage import ledger, partitions, schema
from storage.events import Events
from storage.partials import Partials, from_arrow

MINUTE = 60


class Recent(NamedTuple):
    """Rows in (market, t) order, not yet summed."""

    since: int  # where the day begins, seconds
    minutes: Partials  # from `since` on
    seconds: Partials  # the newest
    older: Partials  # of each market those of its newest minute before `since`, so far as the archive has none later
    archived: int | None  # the archive has minutes up to here; None: of no time
    told: Events  # what candles have no measure for; see `ledger.telling`

    def of(self, market: int) -> "Recent":
        """What is there of one market."""
        minutes, seconds, older = (_of(table, market) for table in (self.minutes, self.seconds, self.older))
        told = self.told.take(np.flatnonzero(self.told.integers("market") == market))
        return Recent(self.since, minutes, seconds, older, self.archived, told)


def _of(table: Partials, market: int) -> Partials:
    low, high = np.searchsorted(table["market"], [market, market + 1])
    return table.take(slice(int(low), int(high)))


def recent(
    db: Connection, kind: str, markets: Sequence[int], since: int, second: int, price_type: int, names: Sequence[str]
) -> Recent:
    """What is stored of these markets (slots) since then, and of the seconds from `second` on."""
    slots = list(markets)
    spans = partitions.spans(db, kind, MINUTE)
    of = "market IN (SELECT unnest($slots)) AND"
    newest = f"SELECT market, max(t) FROM {_both(kind, MINUTE)} WHERE {of} t < $since GROUP BY market"

    def rows(rung: int, where: str, **values: object) -> Partials:
        sql = f"SELECT * FROM {_both(kind, rung)} WHERE {where} ORDER BY market, t"
        return from_arrow(kind, db.sql(sql, params={"slots": slots, **values}).to_arrow_table())

    return Recent(
        since,
        rows(MINUTE, f"{of} t >= $since", since=since),
        rows(1, f"{of} t >= $second", second=second),
        rows(MINUTE, f"(market, t) IN ({newest})", since=since),
        max((high for _, high in spans), default=None),
        ledger.telling(db, slots, since * 1_000_000, price_type, names),
    )


def _both(kind: str, rung: int) -> str:
    base, newest = schema.candle_table(kind, rung), schema.recent_table(kind, rung)
    return f"(SELECT * FROM {base} UNION ALL SELECT * FROM {newest})"
