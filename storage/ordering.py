"""Active markets in an order: slots, by what was traded lately, by symbol or by id."""

from collections.abc import Iterator
from itertools import islice
from typing import Literal

import numpy as np

from storage import tiers
from storage.search import Busy
from storage.state import Connection

Order = Literal["volume", "symbol", "id"]

CHUNK = 500  # markets that are looked up together


def slots(db: Connection, order: Order, tier: str | None, busy: Busy, offset: int, limit: int) -> list[int]:
    """`limit` slots behind the first `offset`; volumes descend, and ids ascend among equal ones."""
    found = _by_volume(db, tier, busy) if order == "volume" else _by(db, order, tier)
    return list(islice(found, offset, offset + limit))


def _by_volume(db: Connection, tier: str | None, busy: Busy) -> Iterator[int]:
    traded = np.flatnonzero(busy.volumes > 0)
    traded = traded[np.argsort(-busy.volumes[traded], kind="stable")]
    falling = -busy.volumes[traded]
    at = 0
    while at < len(traded):
        # Equal volumes stay together: their ids decide.
        end = int(np.searchsorted(falling, falling[min(at + CHUNK, len(traded)) - 1], "right"))
        rows = _these(db, traded[at:end].tolist(), tier)
        rows.sort(key=lambda row: (-busy.volume(row[0]), row[1] % 2**64))
        yield from (slot for slot, _ in rows)
        at = end
    seen = set(traded.tolist())
    yield from (slot for slot in _by(db, "id", tier) if slot not in seen)


def _these(db: Connection, some: list[int], tier: str | None) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for at in range(0, len(some), CHUNK):
        part = some[at : at + CHUNK]
        where, values = _in(tier)
        listed = f"slot IN ({', '.join('?' * len(part))})"
        found += db.execute(f"SELECT slot, market_id FROM markets WHERE {listed} AND {where}", [*part, *values])
    return found


def _by(db: Connection, order: Order, tier: str | None) -> Iterator[int]:
    where, values = _in(tier)
    # Ids of 2**63 and more are stored as negative numbers, and come last.
    spans = ("market_id >= 0", "market_id < 0") if order == "id" else ("true",)
    for span in spans:
        by = "market_id" if order == "id" else "key"
        for (slot,) in db.execute(f"SELECT slot FROM markets WHERE {where} AND {span} ORDER BY {by}", values):
            yield slot


def _in(tier: str | None) -> tuple[str, list[str]]:
    """Active markets of a tier, or of any, as SQL with its values."""
    if tier is None:
        return "is_active", []
    where, values = tiers.of(tier)
    return f"is_active AND {where}", values
