"""Pure: what the engine makes of committed batches, and what the writer makes of that for the store."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from actors import cards, fold, vamm
from actors.said import Word, said
from storage import finished
from storage.candles import Touched
from storage.commits import Answer, Commit, Dead
from storage.events import Array, Events, concat
from storage.flush import Flush, Refold
from storage.measures import KINDS
from storage.partials import Partials
from storage.partials import concat as together
from storage.schema import RUNGS

DAY = 86400
CHUNK = 65_536  # events folded at a time
FINER = {60: 1, 300: 60, 900: 300, 3600: 900, DAY: 60}  # trading days are cut at whole minutes
# What makes a fold's inputs of events; an index is not fed with events of its own.
READERS = {"perp": vamm.inputs, "spot": vamm.inputs, "card": cards.inputs}
Days = Callable[[Array, Array], Array]  # (markets, seconds) -> the label of each second's trading day
Spans = Callable[[int, int], tuple[int, int]]  # (market, label of a day) -> its events lie in [low, high) µs


@dataclass(slots=True)
class Round:
    """Committed batches that are folded and published together."""

    first: int  # seqs
    last: int
    events: Sequence[Events]
    count: int  # of the events
    tables: dict[str, Partials]  # one-second partials by kind, in (market, t) order
    dead: Sequence[tuple[int, Dead]]  # each with the seq that took it back
    forgotten: Sequence[tuple[int, Array]] = ()
    answers: Sequence[Answer] = ()
    bars: Sequence[Events] = ()  # those of the events that are finished bars
    words: dict[int, list[Word]] = field(default_factory=dict)  # by market: what no candle has a measure for
    waiting: int = 0  # actors that have yet to take in their slice
    cost: float = 0.0  # seconds of work it took to fold and take in


def made(commits: Sequence[Commit], kinds: Array, sources: Array) -> Round:
    """Fold committed batches; `kinds` and `sources` are by slot of market."""
    parts: dict[str, list[Partials]] = {}
    bars: list[Events] = []
    words: dict[int, list[Word]] = {}
    chunks = _chunks([commit.events for commit in commits if commit.events.n])
    for chunk in chunks:
        events = chunk
        if "rung" in chunk:
            whole = chunk.integers("rung") > 0
            bars.append(chunk.take(np.flatnonzero(whole)))
            events = chunk.take(np.flatnonzero(~whole))
        for market, some_words in said(events).items():
            words.setdefault(market, []).extend(some_words)
        for kind, rows in vamm.kinds_of(events.integers("market"), kinds, KINDS).items():
            some = events if len(rows) == events.n else events.take(rows)
            parts.setdefault(kind, []).append(fold.fold(READERS[kind](kind, some, sources)))
    return Round(
        commits[0].seq,
        commits[-1].seq,
        chunks,
        sum(events.n for events in chunks),
        {kind: fold.merged(together(some)) for kind, some in parts.items()},
        [(commit.seq, event) for commit in commits for event in commit.dead],
        [(commit.seq, commit.forgotten) for commit in commits if len(commit.forgotten)],
        [answer for commit in commits for answer in commit.answers],
        bars,
        words,
    )


def _chunks(batches: Sequence[Events]) -> list[Events]:
    """Small batches together, large ones by themselves: what is folded at a time should fit the caches."""
    chunks: list[Events] = []
    some: list[Events] = []
    count = 0
    for events in batches:
        if some and count + events.n > CHUNK:
            chunks.append(concat(some))
            some, count = [], 0
        some.append(events)
        count += events.n
    return [*chunks, concat(some)] if some else chunks


def rung_start(rung: int, markets: Array, t: Array, days: Days) -> Array:
    """The buckets of a stored rung in which these seconds of these markets lie."""
    if rung == 1:
        return t
    return days(markets, t) if rung == DAY else t - t % rung


def flushed(rounds: Sequence[Round], kinds: Array, sources: Array, days: Days, spans: Spans) -> Flush:
    """What rounds come to in the store: partials of every rung, each bucket once."""
    dead = [one for round_ in rounds for one in round_.dead]
    refolds = _refolds(dead, kinds, sources, days, spans)
    tables: list[tuple[int, Partials]] = []
    for kind in KINDS:
        some = [round_.tables[kind] for round_ in rounds if kind in round_.tables]
        if not some:
            continue
        made_: dict[int, Partials] = {}
        for rung in RUNGS:
            finer = together(some) if rung == 1 else made_[FINER[rung]]
            t = rung_start(rung, finer["market"], finer["t"], days)
            made_[rung] = fold.merged(finer.at(t))
            gone = [refold.touched for refold in refolds if refold.kind == kind and refold.rung == rung]
            tables.append((rung, _without(made_[rung], gone)))
    events = [some for round_ in rounds for some in round_.events]
    answers = [answer for round_ in rounds for answer in round_.answers]
    forgotten = [one for round_ in rounds for one in round_.forgotten]
    bars = [finished.rows(some, kinds, days) for round_ in rounds for some in round_.bars]
    return Flush(rounds[-1].last, events, dead, tables, refolds, forgotten, answers, bars, sources, spans)


def _refolds(dead: Sequence[tuple[int, Dead]], kinds: Array, sources: Array, days: Days, spans: Spans) -> list[Refold]:
    found: dict[tuple[str, int], dict[tuple[int, int], int]] = {}
    for seq, event in dead:
        kind = KINDS[int(kinds[event.market])]
        second = np.array([event.ts // vamm.SECOND])
        slot = np.array([event.market], np.int32)
        for rung in RUNGS:
            label = int(rung_start(rung, slot, second, days)[0])
            buckets = found.setdefault((kind, rung), {})
            buckets[(event.market, label)] = max(seq, buckets.get((event.market, label), 0))
    refolds = []
    for (kind, rung), buckets in found.items():
        markets = np.array([market for market, _ in buckets], np.int32)
        t = np.array([label for _, label in buckets], np.int64)
        if rung == DAY:
            ends = np.array([spans(market, label) for market, label in buckets], np.int64)
            low, high = ends[:, 0], ends[:, 1]
        else:
            low, high = t * vamm.SECOND, (t + rung) * vamm.SECOND
        seqs = np.array(list(buckets.values()), np.int64)
        refolds.append(Refold(kind, rung, Touched(markets, t, low, high, sources[markets], seqs)))
    return refolds


def _without(table: Partials, touched: Sequence[Touched]) -> Partials:
    """The rows whose bucket is not folded again: a refold already holds all of them."""
    if not touched or not table.n:
        return table
    gone = {pair for some in touched for pair in zip(some.market.tolist(), some.t.tolist(), strict=True)}
    pairs = zip(table["market"].tolist(), table["t"].tolist(), strict=True)
    keep = np.array([pair not in gone for pair in pairs], np.bool_)
    return table if keep.all() else table.take(keep)
