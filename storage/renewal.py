"""Bars that are made anew although nothing was taken back, because what was stored of them was wrong.

A repair is a commit like any other. What it says is in journal and sealed files, so a store that is rebuilt makes the
same bars anew at the same seq: whatever was there ends, and is born again.
"""

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from storage.candles import Lives, Touched
from storage.commits import TOUCH, Dead
from storage.partials import NEVER, Partials

NOBODY_KNOWS = -1  # `born` of a bar that ended, and that charts may have or not


def renewed(whole: Partials, touched: Touched, dead: Sequence[tuple[int, Dead]]) -> tuple[Partials, Lives]:
    """Bars that were folded again, those of repairs born anew; and what ended for that."""
    spots = [(event.market, event.ts, seq) for seq, event in dead if event.pos == TOUCH]
    seqs = _buckets(touched, spots) if spots else {}
    born = whole["born"].copy()
    pairs = list(zip(whole["market"].tolist(), whole["t"].tolist(), strict=True))
    for row, pair in enumerate(pairs) if seqs else ():
        if pair in seqs and born[row] < NEVER:
            born[row] = max(int(born[row]), seqs[pair])
    both = np.array(list(seqs), np.int64).reshape(-1, 2)
    died = np.array(list(seqs.values()), np.int64)
    lives = Lives(both[:, 0], both[:, 1], np.full(len(died), NOBODY_KNOWS), died)
    return Partials(whole.kind, whole.n, {**whole.columns, "born": born}), lives


def _buckets(touched: Touched, spots: Sequence[tuple[int, int, int]]) -> dict[tuple[int, int], int]:
    """By market and bucket the newest batch that makes it anew."""
    spans: dict[int, list[tuple[int, int, int]]] = {}
    columns = (touched.market, touched.low, touched.high, touched.t)
    for market, low, high, t in zip(*(column.tolist() for column in columns), strict=True):
        spans.setdefault(market, []).append((low, high, t))
    for some in spans.values():
        some.sort()
    found: dict[tuple[int, int], int] = {}
    for market, ts, seq in spots:
        at = bisect_right(spans.get(market, []), (ts, 1 << 62, 0)) - 1
        if at >= 0:
            low, high, t = spans[market][at]
            if low <= ts < high:
                found[market, t] = max(seq, found.get((market, t), 0))
    return found
