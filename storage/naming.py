"""Names for the rows of a file that has none: by what a row says, and by how many equal ones come before it.

So the same rows have the same names however the file is packed, named or cut, and whatever is appended to it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.events import Array
from storage.hashing import Words, hash_texts, mix, salted

BYTES = 10  # of a name: two rows of one market in 10**9 share one with a chance of 4e-7
_HEX = np.frombuffer(b"".join(b"%02x" % i for i in range(256)), np.uint8).reshape(256, 2)


class Occurrences:
    """How many equal words came before each of a stream of words, as long as equal ones may still come."""

    def __init__(self) -> None:
        self._runs: list[tuple[Words, Array, Array]] = []  # words, ascending; how often each came; its time

    def before(self, words: Words, times: Array, horizon: int) -> Array:
        """How many words equal to each were there before it. No later word has a time before `horizon`."""
        order = np.argsort(words, kind="stable")
        ordered = words[order]
        first = np.append(True, ordered[1:] != ordered[:-1]) if len(ordered) else np.zeros(0, np.bool_)
        starts = np.flatnonzero(first)
        counts = np.diff(np.append(starts, len(ordered)))
        unique = ordered[starts]
        known = np.zeros(len(unique), np.int64)
        for run, count, _ in self._runs:
            at = np.minimum(np.searchsorted(run, unique), len(run) - 1)
            same = run[at] == unique
            known[same] += count[at[same]]
        out = np.empty(len(words), np.int64)
        out[order] = np.arange(len(words)) - np.repeat(starts, counts) + np.repeat(known, counts)
        self._keep(unique, counts, times[order][starts], horizon)
        return out

    def _keep(self, words: Words, counts: Array, times: Array, horizon: int) -> None:
        runs = [*self._runs, (words, counts, times)]
        runs = [tuple(column[run[2] >= horizon] for column in run) for run in runs]  # type: ignore[misc]  # three of them
        runs = [run for run in runs if len(run[0])]
        # A run is at least twice as long as the next one, so that there are few.
        while len(runs) > 1 and len(runs[-2][0]) < 2 * len(runs[-1][0]):
            words, counts, times = (np.concatenate(pair) for pair in zip(*runs[-2:], strict=True))
            order = np.argsort(words, kind="stable")
            starts = np.flatnonzero(np.append(True, np.diff(words[order]) != 0))
            runs[-2:] = [(words[order][starts], np.add.reduceat(counts[order], starts), times[order][starts])]
        self._runs = runs


class Namer:
    """Names the rows of one file, which it is given in their order, some at a time."""

    def __init__(self) -> None:
        self._rows, self._instants = Occurrences(), Occurrences()

    def names(self, raw: Mapping[str, Any], times: Array, markets: Any | None, horizon: int) -> tuple[pa.Array, Array]:
        """What each row is called, and how many rows of its market and instant come before it.

        `raw`: all columns of the file as Arrow arrays; `times` in µs, 0 for none, and none later before `horizon`.
        """
        one, other = _said(raw, len(times), 1), _said(raw, len(times), 2)
        again = self._rows.before(one, times, horizon)
        market = hash_texts(markets.cast(pa.string())) if markets is not None else np.zeros(len(times), np.uint64)
        place = self._instants.before(mix(times, market), times, horizon)
        names = _hex(np.concatenate([one.view(np.uint8).reshape(-1, 8), other.view(np.uint8).reshape(-1, 8)], axis=1))
        if again.any():
            suffix = pc.binary_join_element_wise("", pa.array(again).cast(pa.string()), "-")
            names = pc.if_else(pa.array(again > 0), pc.binary_join_element_wise(names, suffix, ""), names)
        return names, place


def _said(raw: Mapping[str, Any], n: int, salt: int) -> Words:
    """One word for all that a row says, in whatever order the file has its columns."""
    total = np.zeros(n, np.uint64)
    for name, column in raw.items():
        total += salted(_words(column), f"{salt} {name}")
    return total


def _words(column: Any) -> Words:
    """One word a value, 0 for none."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _words(column.dictionary_decode())
    if pa.types.is_integer(kind) and kind.bit_width <= 64 and kind != pa.uint64():
        words = mix(column.fill_null(0).cast(pa.int64()).to_numpy(zero_copy_only=False))
    elif pa.types.is_float64(kind) or pa.types.is_float32(kind):
        values = column.fill_null(0.0).cast(pa.float64()).to_numpy(zero_copy_only=False)
        words = mix((values + 0.0).view(np.uint64))
    elif pa.types.is_timestamp(kind):
        words = mix(column.fill_null(0).cast(pa.int64()).to_numpy(zero_copy_only=False))
    else:
        return hash_texts(column.cast(pa.string()))
    words[column.is_null().to_numpy(zero_copy_only=False)] = 0
    return words


def _hex(data: Any) -> pa.Array:
    """Rows of bytes as texts, of which the first BYTES count."""
    texts = _HEX[data[:, -BYTES:]].reshape(len(data), 2 * BYTES)
    offsets = np.arange(len(data) + 1, dtype=np.int32) * (2 * BYTES)
    return pa.StringArray.from_buffers(len(data), pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(texts)))
