"""Which markets somebody means by what they typed: their slots, best first, in bounded time among however many.

Of a rank with very many markets the first POOL are looked at, and the busiest of all always.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from storage.events import Array
from storage.names import qualified, words_in
from storage.records import KINDS, Kind
from storage.state import Connection

POOL = 1_500  # markets of one rank that are looked at; a thousand of them take about 3 ms
BUSIEST = 500  # markets that are looked at whatever was typed
# One or two letters inside a word are below a trigram and cost a scan; it ends here, so that it stays short.
SCANNED = 25_000
FEW = 1_000  # markets of the kinds asked for, where those of other kinds took the places in each pool
COMMON = 3_000  # markets of a word that are looked at where every word typed has more than POOL
LONGEST = 24  # letters of what may hold a typing error
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789/-. "

LISTED = "SELECT slot, key FROM markets WHERE is_active AND kind = ? AND key >= ? AND key < ? ORDER BY key LIMIT ?"
MATCHING = """
    SELECT m.slot, m.key, m.words, m.kind
    FROM (SELECT rowid AS slot FROM markets_text WHERE markets_text MATCH ? ORDER BY rowid LIMIT ?) t
    JOIN markets m ON m.slot = t.slot WHERE m.is_active ORDER BY m.slot
"""
HAVING = "SELECT rowid FROM markets_text WHERE markets_text MATCH ? ORDER BY rowid LIMIT ?"
THESE = """
    SELECT m.slot, m.key, m.words, m.kind FROM json_each(?) v CROSS JOIN markets m ON m.slot = v.value WHERE m.is_active
"""
OF_KIND = "SELECT slot, key, words, kind FROM markets WHERE is_active AND kind = ? LIMIT ?"
SCAN = "SELECT slot, key, words, kind FROM markets NOT INDEXED WHERE slot <= ? AND is_active {} ORDER BY slot LIMIT ?"
NAMED = """
    SELECT m.slot, m.key, m.words, m.kind FROM json_each(?) v CROSS JOIN markets m ON m.key = v.value WHERE m.is_active
"""
BEGINNING = """
    SELECT m.slot, m.key, m.words, m.kind FROM json_each(?) v CROSS JOIN markets m
    ON m.key >= v.value AND m.key < v.value || char(1114111) WHERE m.is_active LIMIT ?
"""
_LAST = "\U0010ffff"  # sorts behind every character a symbol may hold


class Busy(NamedTuple):
    """How much was traded lately."""

    volumes: Array  # by slot; slots beyond its end had none
    slots: Sequence[int]  # those that had most, the busiest first; at most BUSIEST

    @classmethod
    def of(cls, volumes: Array) -> "Busy":
        """From volumes by slot."""
        traded = np.flatnonzero(volumes > 0)
        order = np.argsort(-volumes[traded], kind="stable")
        return cls(volumes, traded[order][:BUSIEST].tolist())

    def volume(self, slot: int) -> float:
        """What the market in this slot had."""
        return float(self.volumes[slot]) if slot < len(self.volumes) else 0.0


NOBODY = Busy(np.zeros(0), ())


class Row(NamedTuple):
    """What a search sees of a market."""

    slot: int
    key: str
    words: str  # each with two blanks before it
    kind: Kind


def ranked(db: Connection, key: str, exact: int | None, kinds: Sequence[Kind], busy: Busy, limit: int) -> list[int]:
    """Slots of active markets of these kinds for a folded query: `exact`, then symbols that begin so, then those with
    words (of symbol, name or description) that begin like each word typed, then those that have each word typed
    anywhere inside a word; where nothing is found, those that one typing error away would have been.

    Within a rank the busiest come first; of those as busy, symbols by their alphabet, the others as registered.
    """
    search = _Search(db, kinds, busy, limit)
    if exact is not None:
        search.take([exact])
    search.beginning(key)
    own, rest = qualified(key)
    if own is not None:  # an EXCHANGE: typed in front narrows, and is no word of its own
        search.kinds = [kind for kind in kinds if kind == own]
        key = rest
        search.beginning(key)
    typed = words_in(key)
    if typed:
        search.words(typed)
        if not search.found:
            search.mistyped(key, typed)
    return list(search.found)


class _Search:
    """One search under way."""

    def __init__(self, db: Connection, kinds: Sequence[Kind], busy: Busy, limit: int) -> None:
        self._db, self._busy, self._limit = db, busy, limit
        self.kinds = kinds
        self.found: dict[int, None] = {}
        self._busiest: list[Row] | None = None

    @property
    def _full(self) -> bool:
        return not self.kinds or len(self.found) >= self._limit

    def take(self, slots: Iterable[int]) -> None:
        """Add the markets of one rank, the busiest first."""
        for slot in sorted(dict.fromkeys(slots), key=self._busy.volume, reverse=True):
            if len(self.found) >= self._limit:
                return
            self.found[slot] = None

    def beginning(self, key: str) -> None:
        """Symbols that begin so."""
        if self._full:
            return
        listed = [row for kind in self.kinds for row in self._db.execute(LISTED, [kind, key, key + _LAST, self._room])]
        listed.sort(key=lambda row: row[1])
        busiest = self._popular(lambda row: row.key.startswith(key)) if len(listed) >= self._room else []
        self.take([*(row.slot for row in busiest), *(slot for slot, _ in listed)])

    def words(self, typed: list[str]) -> None:
        """Words that begin so, then words that have it inside."""
        if self._full:
            return

        def begins(row: Row) -> bool:
            return all(f"  {word}" in row.words for word in typed)

        def holds(row: Row) -> bool:
            return all(word in row.words for word in typed)

        begun, all_begun = self._together([starting(word) for word in typed])
        near = self._popular(holds)
        self.take(row.slot for row in sorted(self._wanted(filter(begins, [*near, *begun]))))
        if self._full:
            return
        pool, complete = self._having(typed)
        near += filter(holds, pool)
        if min(map(len, typed)) < 3:
            near += self._scanned(typed)
        self.take(row.slot for row in sorted(self._wanted(filter(begins, near))))
        self.take(row.slot for row in sorted(self._wanted(near)))
        if not self._full and not (complete and all_begun) and len(self.kinds) < len(KINDS):
            each = FEW // len(self.kinds)
            few = [Row._make(row) for kind in self.kinds for row in self._db.execute(OF_KIND, [kind, each])]
            few.sort()
            self.take(row.slot for row in few if begins(row))
            self.take(row.slot for row in few if holds(row))

    def _having(self, typed: list[str]) -> tuple[list[Row], bool]:
        """Markets that have each of these words, short ones at the beginning of one; whether these are all."""
        return self._together([starting(word) if len(word) < 3 else somewhere(word) for word in typed])

    def mistyped(self, key: str, typed: list[str]) -> None:
        """Symbols, then words, that begin like what was typed but for one letter: one more, less, other, or two
        neighbours that changed places."""
        if self._full or not 2 < len(key) <= LONGEST:
            return
        meant = variants(key)
        self._keyed(NAMED, [json.dumps(sorted(meant))])
        self._keyed(BEGINNING, [json.dumps(sorted(meant - {key[:-1]})), POOL])
        spellings = [_beginning_like(word) for word in typed]

        def close(row: Row) -> bool:
            words = row.words.split()
            return all(any(map(like, words)) for like in spellings)

        parts = [part for word in typed for part in _alike(word)]
        pool = [row for part in parts for row in self._matching(part, POOL // len(parts))]
        self.take(row.slot for row in [*self._popular(close), *filter(close, self._wanted(pool))])

    def _keyed(self, sql: str, values: list[object]) -> None:
        self.take(row.slot for row in self._wanted(map(Row._make, self._db.execute(sql, values))))

    @property
    def _room(self) -> int:
        return max(POOL, self._limit)

    def _wanted(self, rows: Iterable[Row]) -> list[Row]:
        return [row for row in rows if row.kind in self.kinds]

    def _popular(self, fits: Callable[[Row], bool]) -> list[Row]:
        if self._busiest is None:
            self._busiest = self._these(self._busy.slots)
        return [row for row in self._busiest if row.kind in self.kinds and fits(row)]

    def _scanned(self, typed: list[str]) -> list[Row]:
        sql = SCAN.format("AND instr(words, ?) " * len(typed))
        return [Row._make(row) for row in self._db.execute(sql, [SCANNED, *typed, self._room])]

    def _matching(self, part: str, count: int) -> list[Row]:
        return [Row._make(row) for row in self._db.execute(MATCHING, [part, count])]

    def _together(self, parts: list[str]) -> tuple[list[Row], bool]:
        """Markets that match all of these, and more; and whether these are all that do.

        Those of a part that few match are enough. Otherwise it is those among the first COMMON that match each:
        SQLite would look through all of them.
        """
        if len(parts) == 1:
            pool = self._matching(parts[0], self._room)
            return pool, len(pool) < self._room
        common: set[int] | None = None
        for part in parts:
            slots = {slot for (slot,) in self._db.execute(HAVING, [part, COMMON])}
            if len(slots) < self._room:
                return self._these(slots), True
            common = slots if common is None else common & slots
        return self._these(common or ()), False

    def _these(self, slots: Iterable[int]) -> list[Row]:
        return [Row._make(row) for row in self._db.execute(THESE, [json.dumps(sorted(slots)[: self._room])])]


def variants(text: str) -> set[str]:
    """Everything one typing error away: a letter too many, missing or wrong, or two neighbours that changed places."""
    letters = {*LETTERS, *text}
    cuts = [(text[:at], text[at:]) for at in range(len(text) + 1)]
    found = {left + right[1:] for left, right in cuts if right}
    found |= {left + right[1] + right[0] + right[2:] for left, right in cuts if len(right) > 1}
    found |= {left + letter + right[1:] for left, right in cuts if right for letter in letters}
    found |= {left + letter + right for left, right in cuts for letter in letters}
    return found - {text}


def _beginning_like(typed: str) -> Callable[[str], bool]:
    """Whether a word begins like one of the spellings of what was typed; words that are long enough have many."""
    spellings = variants(typed) | {typed} if len(typed) > 2 else {typed}
    lengths = {len(typed), len(typed) + 1, max(len(typed) - 1, 2)}
    # Most markets have the same few words.
    return lru_cache(None)(lambda word: any(word[:length] in spellings for length in lengths))


def _alike(word: str) -> list[str]:
    """One of these holds for every word that differs from this one by one letter: what stands before the error begins
    the word, what stands behind it is in it. Nothing for words so short that it would say next to nothing."""
    if len(word) < 5:
        return []
    half = min(len(word) // 2, len(word) - 4)
    return [starting(word[:half]), somewhere(word[half + 1 :])]


def starting(word: str) -> str:
    return f'words : "  {word}"'


def somewhere(word: str) -> str:
    return f'words : "{word}"'
