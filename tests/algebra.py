"""Random events in both their forms, columns and plain records; and candles of the product as the oracle has them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from actors import fold
from actors.ring import charted, view
from storage import decimals
from storage.events import EVENT_CODE, EVENT_TYPES, EXACT, PRICE_CODE, PRICE_TYPES, Array, Column, Events
from storage.measures import KEY, MEASURES, Rule
from storage.partials import FIELDS, NEVER, Partials
from tests import oracle
from tests.oracle import Candle, Event, Place, Snapshot

SOURCES = {1: ("mark",), 2: ("trade",), 3: ("mark", "index", "exit")}
BITS = np.array([0, *(sum(1 << PRICE_CODE[name] for name in SOURCES[slot]) for slot in sorted(SOURCES))], np.uint8)

# Whatever sets the price of a card is a price of the type that its market takes.
QUOTED = np.full(len(BITS), 1 << PRICE_CODE["trade"], np.uint8)

# Days on which clocks change in New York and Berlin; an hour within which a session of Kolkata begins; a year's end.
BASES = [1710054000, 1711846800, 1730613600, 1717412400, 1735689600]
STEPS = [0, 1, 400_000, 999_999, 10**6, 59_999_999, 6 * 10**7, 3 * 10**8 - 1, 9 * 10**8, 3_599_999_999, 36 * 10**8]
FAR = [0, 0, 0, -1, -(10**6), 86_400 * 10**6 - 1, 86_400 * 10**6, -7 * 86_400 * 10**6]
times = st.builds(
    lambda base, step, far: base * 10**6 + step + far,
    st.sampled_from(BASES),
    st.sampled_from(STEPS),
    st.sampled_from(FAR),
)

written = st.builds(lambda m, k: Decimal(m).scaleb(-k), st.integers(0, 10**7), st.integers(0, 6))
fine = st.builds(lambda m: oracle.EXACT.scaleb(Decimal(m), -18), st.integers(0, 10**38 - 1))
few = st.sampled_from([Decimal(text) for text in ("0", "0.1", "0.2", "0.3", "7", "100.25", "1E-18")])
huge = st.sampled_from([Decimal(text) for text in ("99999999999999999999.999999999999999999", "6E19", "1E10", "1E9")])
amounts = st.one_of(st.none(), few, few, written, fine, huge)
# Where signs differ the order of sums matters at their cap: so these stay away from it.
modest = st.one_of(few, written, st.builds(lambda m: oracle.EXACT.scaleb(Decimal(m), -18), st.integers(0, 10**36)))
signed = st.builds(
    lambda number, back: number.copy_negate() if number and back else number, modest, st.sampled_from([True, False])
)
rare = st.one_of(st.none(), st.none(), signed)
places = st.builds(lambda seq, row: seq << 24 | row, st.integers(1, 5), st.integers(0, 2**24 - 1))

events = st.builds(
    Event,
    market=st.sampled_from(sorted(SOURCES)),
    ts=times,
    pos=places,
    event=st.sampled_from(EVENT_TYPES),
    price_type=st.sampled_from(["mark", "mark", "trade", "trade", *PRICE_TYPES]),
    side=st.sampled_from([None, True, False]),
    price=amounts,
    volume=amounts,
    fee=rare,
    funding_rate=rare,
    open_interest=rare,
    trader=st.sampled_from([None, 1, 2, 2**63, 2**64 - 1]),
    block=st.sampled_from([None, 0, 7, 8]),
    log_index=st.sampled_from([None, None, 0, 5]),
    trade_no=st.sampled_from([None, 0, 5, 9, 10]),
    trade_id=st.sampled_from([None, None, "", "9", "10", "a", "é", "\uffff", "😀"]),
)
# Most markets have plain trades: no columns that the general case needs.
trades = st.builds(
    Event,
    market=st.sampled_from(sorted(SOURCES)),
    ts=times,
    pos=places,
    price=amounts,
    volume=amounts,
    side=st.sampled_from([None, True, False]),
)
counts = st.one_of(st.none(), st.integers(0, 3), st.integers(0, 10**9))
snapshots = st.builds(
    Snapshot,
    market=st.sampled_from([1, 2]),
    ts=times,
    pos=places,
    card=st.sampled_from([1, 2, 3, 2**63 + 1]),
    price=amounts,
    price_market=amounts,
    price_low=amounts,
    price_high=amounts,
    num_listings=counts,
    total_quantity=counts,
)


def _gathered(found: list[Any], instants: list[int]) -> list[Any]:
    """The events as they are, or at a few instants only: most of what can go wrong is a matter of ties."""
    if not instants:
        return found
    return [replace(event, ts=instants[i * i % len(instants)]) for i, event in enumerate(found)]


def _lists(some: Any) -> Any:
    found = st.lists(some, max_size=16, unique_by=lambda event: event.pos)
    return st.builds(_gathered, found, st.lists(times, max_size=3))


histories: dict[str, Any] = {
    "perp": st.one_of(_lists(events), _lists(events), _lists(trades)),
    "spot": st.one_of(_lists(events), _lists(trades)),
    "card": _lists(snapshots),
    "index": _lists(snapshots),
}
calendars = st.sampled_from(
    [oracle.Days(), oracle.Days("America/New_York", 18), oracle.Days("Europe/Berlin"), oracle.Days("Asia/Kolkata", 17)]
)


# --- events as columns


def numbers(name: str, found: Sequence[Decimal | None]) -> dict[str, Column]:
    """A column of numbers: floats, and exact decimals where those say something else."""
    values = np.array([np.nan if x is None else float(x) for x in found], np.float64)
    odd = np.array([x is not None and Decimal(repr(float(x))) != x for x in found], np.bool_)
    if not odd.any():
        return {name: values}
    return {name: values, EXACT + name: decimals.arrow(exact(found), odd)}


def exact(found: Sequence[Decimal | None]) -> Array:
    return decimals.from_ints([oracle.units(x) for x in found])


def columns(events: Sequence[Event]) -> Events:
    """Events as a batch that has just the columns that say something."""
    n = len(events)
    out: dict[str, Column] = {
        "market": np.array([e.market for e in events], np.int32),
        "ts": np.array([e.ts for e in events], np.int64),
        "pos": np.array([e.pos for e in events], np.int64),
    }
    codes: dict[str, tuple[type, int, list[int]]] = {
        "event": (np.uint8, 0, [EVENT_CODE[e.event] for e in events]),
        "price_type": (np.uint8, 0, [PRICE_CODE[e.price_type] for e in events]),
        "side": (np.int8, -1, [-1 if e.side is None else int(e.side) for e in events]),
        "trader": (np.uint64, 0, [e.trader or 0 for e in events]),
        "block_number": (np.int64, -1, [-1 if e.block is None else e.block for e in events]),
        "log_index": (np.int64, -1, [-1 if e.log_index is None else e.log_index for e in events]),
        "trade_no": (np.int64, -1, [-1 if e.trade_no is None else e.trade_no for e in events]),
    }
    for name, (dtype, nothing, values) in codes.items():
        if any(value != nothing for value in values):
            out[name] = np.array(values, dtype)
    for name in ("price", "volume", "fee", "funding_rate", "open_interest"):
        found = [getattr(e, name) for e in events]
        if any(x is not None for x in found):
            out |= numbers(name, found)
    if any(e.trade_id is not None for e in events):
        out["trade_id"] = pa.array([e.trade_id for e in events], pa.string())
    return Events(n, out)


def snapshot_columns(events: Sequence[Snapshot]) -> Events:
    """Prices of cards as a batch that has just the columns that say something."""
    stamps = np.array([e.ts for e in events], np.int64)
    out: dict[str, Column] = {
        "market": np.array([e.market for e in events], np.int32),
        "ts": stamps,
        "pos": np.array([e.pos for e in events], np.int64),
        "price_type": np.full(len(events), PRICE_CODE["trade"], np.uint8),
        "trade_no": stamps,
    }
    for name in ("num_listings", "total_quantity"):
        found = [getattr(e, name) for e in events]
        if any(x is not None for x in found):
            out[name] = np.array([-1 if x is None else x for x in found], np.int64)
    for name in ("price", "price_market", "price_low", "price_high"):
        found = [getattr(e, name) for e in events]
        if any(x is not None for x in found):
            out |= numbers(name, found)
    return Events(len(events), out)


# --- candles as the oracle has them


def rows(table: Partials) -> list[tuple[Place, Candle]]:
    """Every row of a table of partials."""
    found: dict[str, list[Any]] = {}
    for measure in MEASURES[table.kind]:
        name, column = measure.name, table[measure.name]
        match measure.rule:
            case Rule.FIRST | Rule.LAST:
                keys = zip(*(table[f"{name}_{part}"].tolist() for part in KEY), strict=True)
                found[name] = [None if v != v else (k, v) for k, v in zip(keys, column.tolist(), strict=True)]
            case Rule.MIN | Rule.MAX:
                found[name] = [None if v != v else v for v in column.tolist()]
            case Rule.SUM:
                found[name] = [(high << 64) | low & (2**64 - 1) for low, high in column.tolist()]
            case Rule.COUNT:
                found[name] = column.tolist()
            case Rule.DISTINCT:
                found[name] = [frozenset() if s is None else frozenset(s.tolist()) for s in column]
    found["rev"] = table["rev"].tolist()
    found["born"] = [None if seq == NEVER else seq for seq in table["born"].tolist()]
    found["whole"] = table["whole"].tolist()
    places = zip(table["market"].tolist(), table["t"].tolist(), strict=True)
    return [(place, {n: found[n][i] for n in found}) for i, place in enumerate(places)]


def candles(table: Partials) -> dict[Place, Candle]:
    """The rows of a summed table, which has one for each bucket, in order."""
    found = rows(table)
    assert [place for place, _ in found] == sorted({place for place, _ in found})
    return dict(found)


def partials(kind: str, some: Iterable[tuple[Place, Candle]]) -> Partials:
    """The inverse of `rows`."""
    some = list(some)
    out: dict[str, Array] = {
        "market": np.array([market for (market, _), _ in some], np.int32),
        "t": np.array([t for (_, t), _ in some], np.int64),
        "rev": np.array([candle["rev"] for _, candle in some], np.int64),
        "born": np.array([NEVER if candle["born"] is None else candle["born"] for _, candle in some], np.int64),
        "whole": np.array([candle["whole"] for _, candle in some], np.bool_),
    }
    for measure in MEASURES[kind]:
        name = measure.name
        found = [candle[name] for _, candle in some]
        match measure.rule:
            case Rule.FIRST | Rule.LAST:
                out[name] = np.array([np.nan if v is None else v[1] for v in found], np.float64)
                for i, part in enumerate(KEY):
                    nothing: Any = "" if part == "tid" else -1
                    values = [nothing if v is None else v[0][i] for v in found]
                    out[f"{name}_{part}"] = np.array(values, object if part == "tid" else np.int64)
            case Rule.MIN | Rule.MAX:
                out[name] = np.array([np.nan if v is None else v for v in found], np.float64)
            case Rule.SUM:
                out[name] = decimals.from_ints(found)
            case Rule.COUNT:
                out[name] = np.array(found, np.int64)
            case Rule.DISTINCT:
                sketches = np.full(len(some), None, object)
                for i, hashes in enumerate(found):
                    sketches[i] = np.array(sorted(hashes), np.uint64) if hashes else None
                out[name] = sketches
    assert set(out) == {field.name for field in FIELDS[kind]}
    return Partials(kind, len(some), out)


def agrees(shown: Mapping[str, Array] | None, table: Partials) -> None:
    """What charts show of rows is what their sums come to, or None where a bucket has more than one row."""
    if shown is None:
        assert len(np.unique(table["t"])) < table.n
        return
    bars = view(fold.merged(table))
    same = charted(table.kind, shown)
    assert set(same.columns) == {"t", "open", "high", "low", "close", "trades_count", "rev"}
    for name in same.columns:
        np.testing.assert_array_equal(same[name], bars[name])
    np.testing.assert_array_equal(same.volumes, bars.volumes)
