"""Active markets in an order: slots, by what was traded lately, by symbol or by id."""

from collections.abc import Iterator
from itertools import islice
from typing import Literal, NamedTuple

import numpy as np

from storage import tiers
from storage.search import Busy
from storage.state import Connection

Order = Literal["volume", "symbol", "id"]

CHUNK = 500  # markets that are looked up together


class Wanted(NamedTuple):
    """Which markets; None is all of them."""

    tier: str | None = None
    kind: str | None = None
    category: str | None = None  # in any case

    def sql(self) -> tuple[str, list[str]]:
        """As a condition on rows of `markets`, and its values."""
        parts = [tiers.of(self.tier)] if self.tier else []
        parts += [("kind = ?", [self.kind])] if self.kind else []
        parts += [("category = ? COLLATE NOCASE", [self.category])] if self.category else []
        return " AND ".join(["true", *(sql for sql, _ in parts)]), [value for _, values in parts for value in values]


ALL = Wanted()


def slots(db: Connection, order: Order, wanted: Wanted, busy: Busy, offset: int, limit: int) -> list[int]:
    """`limit` slots behind the first `offset`; volumes descend, and ids ascend among equal ones."""
    found = _by_volume(db, wanted, busy) if order == "volume" else _by(db, order, wanted)
    return list(islice(found, offset, offset + limit))


def _by_volume(db: Connection, wanted: Wanted, busy: Busy) -> Iterator[int]:
    traded = np.flatnonzero(busy.volumes > 0)
    traded = traded[np.argsort(-busy.volumes[traded], kind="stable")]
    falling = -busy.volumes[traded]
    at = 0
    while at < len(traded):
        # Equal volumes stay together: their ids decide.
        end = int(np.searchsorted(falling, falling[min(at + CHUNK, len(traded)) - 1], "right"))
        rows = _these(db, traded[at:end].tolist(), wanted)
        rows.sort(key=lambda row: (-busy.volume(row[0]), row[1] % 2**64))
        yield from (slot for slot, _ in rows)
        at = end
    seen = set(traded.tolist())
    yield from (slot for slot in _by(db, "id", wanted) if slot not in seen)


def _these(db: Connection, some: list[int], wanted: Wanted) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for at in range(0, len(some), CHUNK):
        part = some[at : at + CHUNK]
        where, values = wanted.sql()
        listed = f"slot IN ({', '.join('?' * len(part))}) AND is_active"
        found += db.execute(f"SELECT slot, market_id FROM markets WHERE {listed} AND {where}", [*part, *values])
    return found


def _by(db: Connection, order: Order, wanted: Wanted) -> Iterator[int]:
    where, values = wanted.sql()
    # Ids of 2**63 and more are stored as negative numbers, and come last.
    spans = ("market_id >= 0", "market_id < 0") if order == "id" else ("true",)
    for span in spans:
        by = "market_id" if order == "id" else "key"
        for (slot,) in db.execute(
            f"SELECT slot FROM markets WHERE is_active AND {where} AND {span} ORDER BY {by}", values
        ):
            yield slot
