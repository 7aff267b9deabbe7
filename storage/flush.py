"""One transaction: ledger rows, candle partials, buckets folded again, and the seq that says how far it all reaches."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from duckdb import DuckDBPyConnection as Connection

from storage import archive, candles, ledger, retention
from storage.commits import Answer, Dead
from storage.events import Array, Events
from storage.partials import Partials
from storage.renewal import renewed


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


def apply(db: Connection, flush: Flush) -> None:
    """Put all of it into the store; runs inside one transaction."""
    ledger.put(db, flush.events)
    tables = list(flush.tables)
    if flush.dead:
        places = np.array([event.pos for _, event in flush.dead], np.int64)
        taken = candles.dying(db, places, np.array([seq for seq, _ in flush.dead], np.int64))
        ledger.drop(db, flush.dead)
        # Refold before the deltas go in: what a bucket was until now says when its bar was born.
        for refold in flush.refolds:
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
