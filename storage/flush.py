"""One transaction: ledger rows, candle partials, buckets folded again, and the seq that says how far it all reaches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from duckdb import DuckDBPyConnection as Connection

from storage import archive, candles, finished, ledger, retention
from storage.commits import Answer, Dead
from storage.events import Array, Events
from storage.finished import MICROS, ONE_DAY, Instants
from storage.partials import Partials
from storage.renewal import renewed

Spans = Callable[[int, int], tuple[int, int]]  # (market, label of a day) -> its events lie in [low, high) µs


@dataclass(frozen=True, slots=True)
class Refold:
    """Buckets of one kind at one rung to fold again from the ledger."""

    kind: str
    rung: int
    touched: candles.Touched


@dataclass(frozen=True, slots=True)
class Flush:
    """Everything that the batches up to `seq` add to the store."""

    seq: int
    events: Sequence[Events]
    dead: Sequence[tuple[int, Dead]]  # each with the seq that took it back
    tables: Sequence[tuple[int, Partials]]  # (rung, deltas): none for a bucket that is refolded
    refolds: Sequence[Refold]
    forgotten: Sequence[tuple[int, Array]] = ()  # (seq, identities that no event has any more since)
    answers: Sequence[Answer] = ()  # for their own index; not in the database
    finished: Sequence[pa.Table] = ()  # bars, in the columns of their table
    sources: Array = field(default_factory=lambda: np.zeros(0, np.uint8))  # by slot: the price types that set prices
    spans: Spans = lambda _, label: (label * MICROS, (label + ONE_DAY) * MICROS)


def apply(db: Connection, flush: Flush) -> None:
    """Put all of it into the store; runs inside one transaction."""
    ledger.put(db, flush.events)
    for bars in flush.finished:
        finished.put(db, bars)
    tables = list(flush.tables)
    refolds = flush.refolds
    places = np.array([event.pos for _, event in flush.dead], np.int64)
    known = finished.some(db)
    if flush.dead or known:
        taken = candles.dying(db, places, np.array([seq for seq, _ in flush.dead], np.int64))
    if flush.dead:
        ledger.drop(db, flush.dead)
    if known:
        finished.drop(db, places)
        refolds = _with_bars(db, flush)
        tables += finished.deltas(db)
    # Refold before the deltas go in: what a bucket was until now says when its bar was born.
    for refold in refolds:
        touched = refold.touched.since(retention.before(db, refold.kind, refold.rung))
        if not len(touched.t):
            continue
        whole, lives = candles.refolded(db, refold.kind, refold.rung, touched, taken, flush.seq)
        whole, anew = renewed(whole, touched, flush.dead)
        tables.append((refold.rung, whole))
        candles.end(db, refold.rung, lives)
        candles.end(db, refold.rung, anew)
    for rung, table in tables:
        candles.put(db, rung, archive.beyond(db, rung, table))
    for seq, identities in flush.forgotten:
        ledger.forget(db, seq, identities)
    candles.apply(db, flush.seq)


def _with_bars(db: Connection, flush: Flush) -> list[Refold]:
    """What is to be folded again, also for the sake of finished bars that count no more, or again."""
    priced = [table.take(~np.isnan(table["open"])) for rung, table in flush.tables if rung == 1]
    none = np.zeros(0, np.int64)
    landed = Instants(*(np.concatenate([none, *(table[name] for table in priced)]) for name in ("market", "t")))
    freed = Instants(
        np.array([event.market for _, event in flush.dead], np.int64),
        np.array([event.ts // MICROS for _, event in flush.dead], np.int64),
    )
    moved = finished.touched(finished.settle(db, landed, freed, flush.sources, flush.seq))
    refolds = []
    for refold in flush.refolds:
        again = moved.pop((refold.kind, refold.rung), set())
        again -= set(zip(refold.touched.market.tolist(), refold.touched.t.tolist(), strict=True))
        both = [refold.touched, _touched(refold.rung, again, flush)] if again else [refold.touched]
        refolds.append(Refold(refold.kind, refold.rung, candles.together(both)))
    return refolds + [Refold(kind, rung, _touched(rung, again, flush)) for (kind, rung), again in moved.items()]


def _touched(rung: int, buckets: set[tuple[int, int]], flush: Flush) -> candles.Touched:
    market, t = (np.array(column, np.int64) for column in zip(*sorted(buckets), strict=True))
    low, high = t * MICROS, (t + rung) * MICROS
    if rung == ONE_DAY:
        low, high = np.array([flush.spans(*bucket) for bucket in sorted(buckets)], np.int64).T
    return candles.Touched(market.astype(np.int32), t, low, high, flush.sources[market], np.zeros(len(t), np.int64))
