"""64-bit hashes of columns: who an event is, what it says, who traded; the same in every process and every version.

Everything is built from one function on 64-bit words, the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast
splittable pseudorandom number generators", 2014), its constants those of variant 13 in David Stafford's "Better bit
mixing":

    stir(z):  z ^= z >> 30;  z *= 0xbf58476d1ce4e5b9;  z ^= z >> 27;  z *= 0x94d049bb133111eb;  z ^= z >> 31

It is a bijection in which every bit of the input moves every bit of the output. From it, modulo 2**64 and with
G = 0x9e3779b97f4a7c15, the golden ratio that SplitMix64 counts in:

- words in a row, from a start h:  h = stir((h ^ word) + G), word by word; `mix` starts from 0.
- a text: h = stir(its bytes + G), then its UTF-8 bytes as little-endian words, the last one filled up with zeros.
  A text of more than 256 bytes is the first 8 bytes of its BLAKE2b-64 instead. 0 becomes 1: 0 means no text.
- a digest: the sum over all columns of stir(word ^ seed) − stir(nothing ^ seed), each column with a seed of its own.
  A column that says nothing adds 0, so it is all the same whether it is there.

The hashes end in files, so a changed formula is a changed file format; the tests hold some values fast. They are not
keyed: whoever may post events can make two events of one identity, as they can by sending one event twice.
"""

import sys
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from storage import decimals
from storage.events import BAR_COUNTS, INTEGERS, NUMBERS, TEXTS, Array, Events

Words = NDArray[np.uint64]

LONG = 256  # bytes; longer texts are hashed one by one

_FULL = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_M1 = 0xBF58476D1CE4E5B9
_M2 = 0x94D049BB133111EB
_G, _K1, _K2 = np.uint64(_GOLDEN), np.uint64(_M1), np.uint64(_M2)
_S30, _S27, _S31 = np.uint64(30), np.uint64(27), np.uint64(31)
_NAN = 0x7FF8000000000000
_KEPT = np.array([(1 << 8 * size) - 1 for size in range(8)] + [_FULL], np.uint64)  # by bytes left, in a last word

assert sys.byteorder == "little"  # as in Arrow's buffers


def _stirred(z: int) -> int:
    """`stir` of one Python integer."""
    z = ((z ^ (z >> 30)) * _M1) & _FULL
    z = ((z ^ (z >> 27)) * _M2) & _FULL
    return z ^ (z >> 31)


# Starts that keep the kinds of identity apart, and a seed for each column of a digest: each is the hash of its name.
def _seed(name: str) -> int:
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little")


_CHAIN, _TRADE_NO, _TRADE_TEXT = _seed("chain identity"), _seed("trade_no identity"), _seed("trade_id identity")
_ANOTHER = _seed("another identity")
_SMALL = ("market", "event", "price_type", "side")  # together one word
_WIDE = (
    *("ts", "chain_id", "block_number", "log_index", "trade_no", "num_listings", "total_quantity"),
    *("rung", "ends", *BAR_COUNTS),
)
_LOWERED = ("user_address", "transaction_hash")  # hexadecimal: the case of its letters says nothing
_NOTHING_SMALL = (INTEGERS["side"][1] & 0xFF) << 48  # the other three are 0
# The word of a number that says nothing. A price or a fee of 0 is none, as the wire has it.
_NOTHING = {name: 0 if name in ("price", "fee") else _NAN for name in NUMBERS}


def mix(*columns: Array) -> Words:
    """One hash a row of any number of integer columns; their order counts."""
    return _chained(0, *columns)


def another(ident: Words) -> Words:
    """The hash of an identity whose hash is another's already."""
    h = _chained(_ANOTHER, ident)
    h[h == 0] = 1
    return h


def salted(words: Words, name: str) -> Words:
    """What words add to a sum over columns, each known by its name; 0 for the word 0, which says nothing."""
    out = _stir(words ^ np.uint64(_seed(name)))
    out[words == 0] = 0
    return out


def hash_texts(texts: Any, *, lower: bool = False) -> Words:
    """One hash a text of an Arrow string array, 0 for null and for no text; `lower` makes A–Z count as a–z."""
    h = _texts(texts, lower)
    empty = h == 0
    if empty.any() and texts.null_count < len(texts):
        h[empty & texts.is_valid().to_numpy(zero_copy_only=False)] = _stirred(_GOLDEN)
    return h


def hash_floats(values: NDArray[np.float64]) -> Words:
    """One hash a number, the same for 0.0 and −0.0; 0 for NaN and for no number."""
    h = _chained(0, _bits(values, 0))
    h[h == 0] = 1
    h[np.isnan(values)] = 0
    return h


def identity(events: Events) -> Words:
    """Who each event is, 0 where nothing says so.

    That is (chain_id, transaction_hash, log_index) where there are both of the latter, whichever the market; else
    (market, trade id), an integer or a text.
    """
    return _identity(events, _texts_of(events, "transaction_hash"))


def digest(events: Events) -> Words:
    """What each event says, never 0: equal for two events that differ in nothing but how they were written."""
    return _digest(events, {name: _texts_of(events, name) for name in TEXTS})


def trader(events: Events) -> Words:
    """Whose each event is, 0 where nobody is named."""
    found = _texts_of(events, "user_address")
    return np.zeros(events.n, np.uint64) if found is None else found


def stamped(events: Events) -> Events:
    """The events with their columns ident, digest and trader, which costs less than asking for each of them."""
    texts = {name: _texts_of(events, name) for name in TEXTS}
    columns: dict[str, Array] = {}
    ident = _identity(events, texts["transaction_hash"], texts["trade_id"])
    if ident.any():
        columns["ident"] = ident
        columns["digest"] = _digest(events, texts)
    if texts["user_address"] is not None:
        columns["trader"] = texts["user_address"]
    return events.without("ident", "digest", "trader").with_columns(**columns)


def _identity(events: Events, transactions: Words | None, trades: Words | None = None) -> Words:
    n = events.n
    ident = np.zeros(n, np.uint64)
    if transactions is not None and "log_index" in events:
        log_index = events.integers("log_index")
        chain = _chained(_CHAIN, events.integers("chain_id"), transactions, log_index)
        _fill(ident, chain, (transactions != 0) & (log_index >= 0))
        if ident.all():
            return ident
    if "trade_no" in events:
        number = events.integers("trade_no")
        _fill(ident, _chained(_TRADE_NO, events.integers("market"), number), number != INTEGERS["trade_no"][1])
    if "trade_id" in events and not ident.all():
        text = _texts(events.texts("trade_id"), lower=False) if trades is None else trades
        _fill(ident, _chained(_TRADE_TEXT, events.integers("market"), text), text != 0)
    return ident


def _fill(ident: Words, hashes: Words, there: NDArray[np.bool_]) -> None:
    """Give an identity to the rows that are `there` and have none yet."""
    hashes[hashes == 0] = 1
    np.copyto(ident, hashes, where=there & (ident == 0))


def _digest(events: Events, texts: dict[str, Words | None]) -> Words:
    n = events.n
    total = np.zeros(n, np.uint64)
    nothing = 0

    def add(name: str, word: Words, default: int) -> None:
        """Add a column's part to `total`; spends `word`."""
        nonlocal nothing, total
        seed = _seed(name)
        word ^= np.uint64(seed)
        total += _stir(word)
        nothing += _stirred(default ^ seed)

    if any(name in events for name in _SMALL):
        small = events.integers("market").astype(np.uint32).astype(np.uint64)
        for name, shift in (("event", 32), ("price_type", 40), ("side", 48)):
            if name in events:
                small |= events.integers(name).astype(np.uint8).astype(np.uint64) << np.uint64(shift)
            elif INTEGERS[name][1]:
                small |= np.uint64((INTEGERS[name][1] & 0xFF) << shift)
        add("small", small, _NOTHING_SMALL)
    for name in _WIDE:
        if name in events:
            add(name, _word(events.integers(name)).copy(), INTEGERS[name][1] & _FULL)
    for name in NUMBERS:
        number = _number(events, name)
        if number is not None:
            if name == "size":  # a size that is the volume says nothing of its own
                volume = _number(events, "volume")
                if volume is not None:
                    number[number == volume] = _NOTHING["size"]
            add(name, number, _NOTHING[name])
    for name, hashes in texts.items():
        if hashes is not None:
            add(name, hashes.copy(), 0)
    total -= np.uint64(nothing & _FULL)
    total[total == 0] = 1
    return total


def _number(events: Events, name: str) -> Words | None:
    """One word for each exact value of a number: the bits of its float where that says it, else a hash."""
    exact = events.exact(name)
    if name not in events and exact is None:
        return None
    word = _bits(events.numbers(name), _NOTHING[name])
    if exact is not None and exact.null_count < len(exact):
        rows = np.flatnonzero(exact.is_valid().to_numpy(zero_copy_only=False))
        amounts = decimals.from_arrow(exact)[rows]
        near = decimals.floats(amounts)
        fits = decimals.fits(near)
        same = fits & (decimals.units(np.where(fits, near, 0.0)) == amounts).all(axis=1)
        word[rows] = np.where(same, _bits(near, _NOTHING[name]), _chained(0, amounts[:, 0], amounts[:, 1]))
    return word


def _bits(values: NDArray[np.float64], nothing: int) -> Words:
    """The floats' bits, with one zero, and `nothing` for every NaN."""
    word = (values + 0.0).view(np.uint64)  # −0.0 + 0.0 is 0.0
    missing = np.isnan(values)
    if missing.any():
        word[missing] = nothing
    return word


def _texts_of(events: Events, name: str) -> Words | None:
    """The hashes of a text column, with 0 also for ''; None where it is left out."""
    return _texts(events.texts(name), lower=name in _LOWERED) if name in events else None


def _texts(texts: Any, lower: bool) -> Words:
    """One hash a text, 0 for null and ''."""
    if texts.type != pa.string():
        texts = texts.cast(pa.string())
    n = len(texts)
    h = np.zeros(n, np.uint64)
    if not n or texts.null_count == n:
        return h
    _, offsets_buffer, data_buffer = texts.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int32, n + 1, 4 * texts.offset)
    first, last = int(offsets[0]), int(offsets[n])
    if first == last:
        return h
    raw = np.zeros(last - first + 8, np.uint8)  # so that a word may be read at every byte
    raw[:-8] = np.frombuffer(data_buffer, np.uint8, last - first, first)
    if lower:
        raw |= ((raw - np.uint8(ord("A"))) < 26).view(np.uint8) << np.uint8(5)

    sizes = np.diff(offsets)
    if texts.null_count:
        sizes = np.where(texts.is_valid().to_numpy(zero_copy_only=False), sizes, 0)
    longest = int(sizes.max())
    if longest == sizes.min() and longest <= LONG:
        words = np.ndarray((n, (longest + 7) // 8), np.uint64, raw.data, strides=(longest, 8))
        return _rows_of_words([words[:, j] for j in range(words.shape[1])], longest, n)

    starts = offsets[:n].astype(np.int64) - first
    order = np.argsort(-sizes, kind="stable")  # so that the texts which have a j-th word come first
    ordered = sizes[order]
    long, some = (int(x) for x in np.searchsorted(-ordered, [-LONG, 0], side="left"))
    for row in order[:long].tolist():
        start = int(starts[row])
        h[row] = int.from_bytes(blake2b(raw[start : start + int(sizes[row])].data, digest_size=8).digest(), "little")
    ordered, order = ordered[long:some], order[long:some]
    at = starts[order]
    anywhere = np.ndarray((len(raw) - 7,), np.uint64, raw.data, strides=(1,))
    out = ordered.astype(np.uint64)
    out += _G
    _stir(out)
    counts = np.searchsorted(
        -ordered, -np.arange(0, min(longest, LONG), 8), side="left"
    ).tolist()  # texts longer than 8 j bytes
    for j, count in enumerate(counts):
        if not count:
            break
        word = anywhere[at[:count] + 8 * j]
        word &= _KEPT[np.minimum(ordered[:count] - 8 * j, 8)]
        _step(out[:count], word)
    h[order] = out
    h[(h == 0) & (sizes > 0)] = 1
    return h


def _rows_of_words(words: list[Words], size: int, n: int) -> Words:
    """The hashes of n texts of `size` bytes each, given as columns of words."""
    h = np.full(n, _stirred((size + _GOLDEN) & _FULL), np.uint64)
    for j, word in enumerate(words):
        left = size - 8 * j
        _step(h, word & _KEPT[left] if left < 8 else word)
    h[h == 0] = 1
    return h


def _chained(start: int, *columns: Array) -> Words:
    """The hash of one word after the other."""
    h = np.full(len(columns[0]), start, np.uint64)
    for column in columns:
        _step(h, _word(column))
    return h


def _step(h: Words, word: Words) -> None:
    h ^= word
    h += _G
    _stir(h)


def _stir(z: Words) -> Words:
    """The module's `stir`, in place."""
    shifted = z >> _S30
    z ^= shifted
    z *= _K1
    np.right_shift(z, _S27, out=shifted)
    z ^= shifted
    z *= _K2
    np.right_shift(z, _S31, out=shifted)
    z ^= shifted
    return z


def _word(column: Array) -> Words:
    """Integers as 64-bit words, signed ones as two's complement."""
    if column.dtype == np.uint64:
        return column
    return column.astype(np.int64, copy=False).view(np.uint64)
