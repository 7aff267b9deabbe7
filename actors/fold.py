"""Pure: a columnar batch into partial candles, and the sum of partial candles.

Both are independent of the order of their rows and of how the rows are cut into batches: first and last carry their
order keys, sums are exact integers, distinct keeps the smallest hashes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from storage import decimals
from storage.events import Array
from storage.measures import MEASURES, SKETCH, Measure, Rule
from storage.partials import FIELDS, NEVER, Partials

Bucket = Callable[[Array], Array]
KEY_PARTS = ("ts", "block", "idx", "tid", "pos")
SEQ_SHIFT = 24  # a place is seq << 24 | row


@dataclass(frozen=True, slots=True)
class Scaled:
    """Decimals as integers with one power of ten: value = mantissa / 10**places."""

    mantissa: Array  # int64
    places: int


@dataclass(frozen=True, slots=True)
class Keys:
    """Order keys of n events; parts that are the same everywhere are left out."""

    ts: Array  # µs
    pos: Array  # seq << 24 | row
    block: Array | None = None
    idx: Array | None = None
    tid: Array | None = None  # texts as numpy objects


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a fold reads of n events of one kind: see `storage.measures.INPUTS` for the names."""

    kind: str
    n: int
    market: Array
    t: Array  # start of each event's bucket, seconds
    keys: Keys
    values: Mapping[
        str, "Array | Scaled"
    ]  # float64 (NaN says nothing), sums Scaled or int64[n, 2], hashes uint64 (0: none)
    masks: Mapping[str, Array] = field(default_factory=dict)  # a mask that is left out holds everywhere


def fold(inputs: Inputs) -> Partials:
    """One partial candle per market and bucket, in (market, t) order."""
    if not inputs.n:
        return Partials(inputs.kind, 0, {"market": np.zeros(0, np.int32), "t": np.zeros(0, np.int64)})
    order = _event_order(inputs)
    market, t = inputs.market.take(order), inputs.t.take(order)
    starts = _starts(market, t)
    sorted_ = _Sorted(inputs, order, starts)
    columns = {"market": market[starts], "t": t[starts]}
    for measure in MEASURES[inputs.kind]:
        sorted_.reduce(measure, columns)
    columns["rev"], columns["born"] = sorted_.seqs()
    return Partials(inputs.kind, len(starts), columns)


def _starts(market: Array, t: Array) -> Array:
    change = np.empty(len(t), np.bool_)
    change[0] = True
    np.not_equal(t[1:], t[:-1], out=change[1:])
    change[1:] |= market[1:] != market[:-1]
    return np.flatnonzero(change)


def _event_order(inputs: Inputs) -> Array:
    """Row numbers by market and order key. Arrival order within a market is the usual case and is kept cheaply."""
    keys = inputs.keys
    order = market_order(inputs.market)
    market, ts = inputs.market.take(order), keys.ts.take(order)
    same = market[1:] == market[:-1]
    later = ts[1:] > ts[:-1]
    tie = ts[1:] == ts[:-1]
    if keys.block is None and keys.idx is None and keys.tid is None and np.all(keys.pos[1:] > keys.pos[:-1]):
        if not np.any(same & ~(later | tie)):
            return order
    elif not np.any(same & ~later):
        return order
    return key_order(keys, inputs.market)


def market_order(market: Array) -> Array:
    """Stable row numbers by market: two radix passes over 16 bits each."""
    if not len(market) or np.all(market[1:] >= market[:-1]):
        return np.arange(len(market))
    low = np.argsort((market & 0xFFFF).astype(np.uint16), kind="stable")
    high = market >> 16
    if not high.any():
        return low
    return low[np.argsort(high[low].astype(np.uint16), kind="stable")]


def key_order(keys: Keys, *groups: Array) -> Array:
    """Row numbers by these groups (the first leads), then by order key."""
    parts: list[Array] = [keys.pos]
    if keys.tid is not None:
        parts.append(_ranks(keys.tid))
    parts += [part for part in (keys.idx, keys.block) if part is not None]
    parts.append(keys.ts)
    parts += reversed(groups)
    return np.lexsort(parts)


def _ranks(texts: Array) -> Array:
    if not any(texts):
        return np.zeros(len(texts), np.int64)
    ranks: Array = np.unique(texts.astype(object), return_inverse=True)[1]
    return ranks


class _Sorted:
    """The inputs in (market, order key) order, gathered once each, and what groups of them come to."""

    def __init__(self, inputs: Inputs, order: Array, starts: Array) -> None:
        self._inputs = inputs
        self._order = order
        self.starts = starts
        self._ends = np.append(starts[1:], len(order))
        self._gathered: dict[str, Array] = {}
        self._said: dict[tuple[str, str], tuple[Array | None, Array | None, Array | None]] = {}
        self._groups: Array | None = None

    def groups(self) -> Array:
        """The group number of each row."""
        if self._groups is None:
            self._groups = np.repeat(np.arange(len(self.starts)), self._ends - self.starts)
        return self._groups

    def key(self, part: str) -> Array:
        return self._gather("key " + part, getattr(self._inputs.keys, part))

    def _gather(self, name: str, column: Array) -> Array:
        found = self._gathered.get(name)
        if found is None:
            found = self._gathered[name] = column.take(self._order, axis=0)
        return found

    def seqs(self) -> tuple[Array, Array]:
        """Per group the newest seq, and the oldest seq that set a price."""
        pos = self._inputs.keys.pos
        first, last = int(pos.min()) >> SEQ_SHIFT, int(pos.max()) >> SEQ_SHIFT
        priced, rows, _ = self.said(MEASURES[self._inputs.kind][0])
        if first == last:
            rev = np.full(len(self.starts), last)
            return rev, rev if rows is None else np.where(rows < 0, NEVER, rev)
        seq = self.key("pos") >> SEQ_SHIFT
        born = np.where(priced, seq, NEVER) if priced is not None else seq
        return np.maximum.reduceat(seq, self.starts), np.minimum.reduceat(born, self.starts)

    def _value(self, name: str) -> Array:
        column = self._inputs.values[name]
        assert not isinstance(column, Scaled)
        return self._gather(name, column)

    def _mask(self, name: str) -> Array | None:
        column = self._inputs.masks.get(name) if name else None
        return None if column is None else self._gather("mask " + name, column)

    def said(self, measure: Measure) -> tuple[Array | None, Array | None, Array | None]:
        """(mask of rows that say something or None for all, first such row per group or None, last or None).

        A group in which nobody says anything has a first row of −1.
        """
        name = (measure.of, measure.where)
        if name in self._said:
            return self._said[name]
        mask = self._mask(measure.where)
        value = self._value(measure.of)
        missing = np.isnan(value)
        if missing.any():
            mask = ~missing if mask is None else mask & ~missing
        found: tuple[Array | None, Array | None, Array | None]
        if mask is None or mask.all():
            found = (None, None, None)
        else:
            rows = np.append(np.flatnonzero(mask), len(mask))
            at = np.searchsorted(rows, self.starts)
            first = np.where(rows[at] < self._ends, rows[at], -1)
            before = np.searchsorted(rows, self._ends) - 1
            last = np.where(first >= 0, rows[before], -1)
            found = (mask, first, last)
        self._said[name] = found
        return found

    def reduce(self, measure: Measure, columns: dict[str, Array]) -> None:
        """Add the columns of this measure; one that says nothing anywhere is left out."""
        values = self._inputs.values
        match measure.rule:
            case Rule.FIRST | Rule.LAST if measure.of in values:
                self._end(measure, columns)
            case Rule.MIN | Rule.MAX if measure.of in values:
                columns[measure.name] = self._extreme(measure)
            case Rule.SUM if measure.of in values:
                columns[measure.name] = self._sum(values[measure.of], measure)
            case Rule.COUNT:
                mask = self._mask(measure.where)
                columns[measure.name] = (
                    self._ends - self.starts if mask is None else np.add.reduceat(mask, self.starts, dtype=np.int64)
                )
            case Rule.DISTINCT if measure.of in values:
                columns[measure.name] = self._distinct(measure)

    def _end(self, measure: Measure, columns: dict[str, Array]) -> None:
        mask, first, last = self.said(measure)
        leading = measure.rule is Rule.FIRST
        rows = first if leading else last
        value = self._value(measure.of)
        if mask is None or rows is None:
            rows, missing = (self.starts if leading else self._ends - 1), None
        else:
            missing = rows < 0
        columns[measure.name] = value[rows]
        keys = self._inputs.keys
        for part in KEY_PARTS:
            column = getattr(keys, part)
            if column is not None:
                columns[f"{measure.name}_{part}"] = column[self._order[rows]]
        if missing is not None and missing.any():
            columns[measure.name][missing] = np.nan
            for part in KEY_PARTS:
                if getattr(keys, part) is not None:
                    columns[f"{measure.name}_{part}"][missing] = "" if part == "tid" else -1

    def _extreme(self, measure: Measure) -> Array:
        value, (mask, _, _) = self._value(measure.of), self.said(measure)
        if mask is not None:
            value = np.where(mask, value, np.nan)
        lowest = measure.rule is Rule.MIN
        if mask is None:
            reducer: np.ufunc = np.minimum if lowest else np.maximum
        else:
            reducer = np.fmin if lowest else np.fmax
        found: Array = reducer.reduceat(value, self.starts)
        return found

    def _sum(self, column: "Array | Scaled", measure: Measure) -> Array:
        mask = self._mask(measure.where)
        if isinstance(column, Scaled):
            values = self._gather("mantissa " + measure.of, column.mantissa)
            longest = int((self._ends - self.starts).max())
            if max(abs(int(values.max())), abs(int(values.min()))) * longest < 2**62:
                kept = values if mask is None else values * mask
                return decimals.widened(np.add.reduceat(kept, self.starts), column.places)
            wide = decimals.widened(values, column.places)
        else:
            wide = self._gather(measure.of, column)
        if mask is not None:
            wide = np.where(mask[:, None], wide, 0)
        return totals(wide, self.starts)

    def _distinct(self, measure: Measure) -> Array:
        hashes, mask = self._value(measure.of), self._mask(measure.where)
        said = hashes != 0 if mask is None else mask & (hashes != 0)
        return sketches(self.groups()[said], hashes[said], len(self.starts))


def capped(units: int) -> int:
    """An amount as far as amounts go."""
    return units if -decimals.CAP < units < decimals.CAP else max(-decimals.CAP, min(units, decimals.CAP))


def totals(amounts: Array, starts: Array) -> Array:
    """The sum of each group, which stops at ±CAP; only where it does so and signs differ does their order matter."""
    return decimals.sum_by(amounts, starts)


def sketches(groups: Array, hashes: Array, n: int) -> Array:
    """For each of n groups its smallest SKETCH different hashes, ascending; None for a group without any."""
    out = np.full(n, None, object)
    if not len(groups):
        return out
    order = np.lexsort((hashes, groups))
    groups, hashes = groups[order], hashes[order]
    new = np.append(True, (groups[1:] != groups[:-1]) | (hashes[1:] != hashes[:-1]))
    groups, hashes = groups[new], hashes[new]
    starts = np.flatnonzero(np.append(True, groups[1:] != groups[:-1]))
    ends = np.append(starts[1:], len(groups))
    for group, start, end in zip(groups[starts].tolist(), starts.tolist(), ends.tolist(), strict=True):
        out[group] = hashes[start : min(end, start + SKETCH)]
    return out


def merged(table: Partials) -> Partials:
    """The sum of the rows of each market and bucket, in (market, t) order.

    Where a bucket has whole rows, the one with the newest `rev` replaces everything up to its own `rev`.
    """
    if table.n < 2:
        return table
    market, t = table["market"], table["t"]
    same = market[1:] == market[:-1]
    if not np.all((market[1:] > market[:-1]) | (same & (t[1:] >= t[:-1]))):
        table = table.take(_bucket_order(market, t))
    starts = _starts(table["market"], table["t"])
    if "whole" in table and table["whole"].any():
        table = table.take(_standing(table, starts))
        starts = _starts(table["market"], table["t"])
    sizes = np.diff(starts, append=table.n)
    several = np.flatnonzero(sizes > 1)
    if not len(several):
        return table
    if len(several) == len(starts):
        return _summed(table, starts)
    # A row by itself is its own sum, and where events are sparse most are.
    ends = np.cumsum(sizes[several])
    sums = _summed(table.take(np.flatnonzero(np.repeat(sizes > 1, sizes))), ends - sizes[several])
    columns = {}
    for name, column in sums.columns.items():
        columns[name] = table[name].take(starts, axis=0)
        columns[name][several] = column
    return Partials(table.kind, len(starts), columns)


def _bucket_order(market: Array, t: Array) -> Array:
    """Stable row numbers by market and bucket: one sort where both fit one number, as they do in all but odd cases."""
    low = int(t.min())
    span = int(t.max()) - low + 1
    if int(market.max()) < 2**62 // span:
        return np.argsort(market * np.int64(span) + (t - low), kind="stable")
    return np.lexsort((t, market))


def _summed(table: Partials, starts: Array) -> Partials:
    """The sum of each group of rows that lie together."""
    ends = np.append(starts[1:], table.n)
    groups = np.repeat(np.arange(len(starts)), ends - starts)
    columns = {"market": table["market"][starts], "t": table["t"][starts]}
    for measure in MEASURES[table.kind]:
        name = measure.name
        if name not in table:
            continue
        match measure.rule:
            case Rule.FIRST | Rule.LAST:
                _merge_end(table, measure, groups, len(starts), columns)
            case Rule.MIN:
                columns[name] = np.fmin.reduceat(table[name], starts)
            case Rule.MAX:
                columns[name] = np.fmax.reduceat(table[name], starts)
            case Rule.SUM:
                columns[name] = totals(table[name], starts)
            case Rule.COUNT:
                columns[name] = np.add.reduceat(table[name], starts)
            case Rule.DISTINCT:
                columns[name] = _merge_sketches(table[name], groups, len(starts))
    columns["rev"] = np.maximum.reduceat(table["rev"], starts)
    columns["born"] = np.minimum.reduceat(table["born"], starts)
    if "whole" in table:
        columns["whole"] = np.logical_or.reduceat(table["whole"], starts)
    return Partials(table.kind, len(starts), columns)


def _standing(table: Partials, starts: Array) -> Array:
    """Which rows still count: of each bucket the newest whole row and what came after it, or all."""
    rev, whole = table["rev"], table["whole"]
    newest = np.maximum.reduceat(np.where(whole, rev, -1), starts)
    newest = np.repeat(newest, np.append(starts[1:], table.n) - starts)
    return np.flatnonzero((rev > newest) | (whole & (rev == newest)))


def _merge_end(table: Partials, measure: Measure, groups: Array, n: int, columns: dict[str, Array]) -> None:
    name = measure.name
    said = np.flatnonzero(~np.isnan(table[name]))
    parts = {part: table[f"{name}_{part}"] for part in KEY_PARTS if f"{name}_{part}" in table}
    keys = Keys(**{part: column[said] for part, column in parts.items()})
    owners = groups[said]
    order = said if _ascend(keys, owners) else said[key_order(keys, owners)]
    at = np.searchsorted(owners, np.arange(n + 1))
    rows = at[:-1] if measure.rule is Rule.FIRST else at[1:] - 1
    some = at[1:] > at[:-1]
    rows = order[rows[some]]
    for field_ in FIELDS[table.kind]:
        if field_.name == name or (field_.name.startswith(name + "_") and field_.name[len(name) + 1 :] in parts):
            column = table[field_.name]
            out = np.full(n, field_.nothing, column.dtype)
            out[some] = column[rows]
            columns[field_.name] = out


def _ascend(keys: Keys, groups: Array) -> bool:
    """Whether rows that lie group by group have ascending times in each; of equal ones more would have to be asked."""
    return bool(np.all((keys.ts[1:] > keys.ts[:-1]) | (groups[1:] != groups[:-1])))


def _merge_sketches(column: Array, groups: Array, n: int) -> Array:
    rows = [i for i, sketch in enumerate(column) if sketch is not None]
    if not rows:
        return np.full(n, None, object)
    hashes = np.concatenate([column[i] for i in rows])
    owners = np.repeat(groups[rows], [len(column[i]) for i in rows])
    return sketches(owners, hashes, n)


def rolled(table: Partials, bucket: Bucket) -> Partials:
    """The rows laid into larger buckets and summed; `bucket` maps bucket starts to larger bucket starts."""
    return merged(table.at(bucket(table["t"])))
