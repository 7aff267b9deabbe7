"""Pure: which words about events are new, known, corrections or retractions. Words count in the order given."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from storage.events import INTEGERS, Array, Events


class Outcome(IntEnum):
    """What became of one word."""

    ACCEPTED = 0  # nobody knew the event, or it has no identity to be known by
    DUPLICATE = 1  # the event is known and says the same
    CORRECTED = 2  # the event is known and said otherwise: this word replaces the earlier one
    RETRACTED = 3  # takes back an event that is known
    UNKNOWN = 4  # would take back an event that nobody knows
    REFUSED = 5  # would change a day whose raw events were dropped


@dataclass(frozen=True, slots=True)
class Resolution:
    """What a batch of words does to the events that are stored."""

    outcome: NDArray[np.uint8]  # an Outcome for each word
    keep: NDArray[np.int64]  # rows of the words that become stored events, ascending
    dead: NDArray[np.int64]  # pos of events committed earlier that are no more, ascending
    forget: NDArray[np.uint64]  # identities known before the batch and no longer after it


def same(a: Events, b: Events) -> NDArray[np.bool_]:
    """Whether a row of one and the same row of the other name the same identity, by what they say, not by its hash."""
    (numbers, texts), (other_numbers, other_texts) = _said(a), _said(b)
    equal: NDArray[np.bool_] = np.all(numbers == other_numbers, axis=0)
    equal &= pc.equal(texts, other_texts).to_numpy(zero_copy_only=False)
    return equal


def _said(events: Events) -> tuple[Array, Any]:
    """What an identity consists of, as `storage.hashing.identity` reads it: which kind it is, two integers, a text."""
    transaction = pc.ascii_lower(pc.fill_null(events.texts("transaction_hash"), ""))
    log_index, number = events.integers("log_index"), events.integers("trade_no")
    chain = pc.not_equal(transaction, "").to_numpy(zero_copy_only=False) & (log_index >= 0)
    numbered = ~chain & (number != INTEGERS["trade_no"][1])
    numbers = np.stack(
        [
            np.where(chain, 0, np.where(numbered, 1, 2)),
            np.where(chain, events.integers("chain_id"), events.integers("market")),
            np.where(chain, log_index, np.where(numbered, number, 0)),
        ]
    )
    text = pc.if_else(pa.array(numbered), "", pc.fill_null(events.texts("trade_id"), ""))
    return numbers, pc.if_else(pa.array(chain), transaction, text)


def resolve(
    words: Events, found_pos: Array, found_digest: Array, here: Array | None = None, there: Array | None = None
) -> Resolution:
    """Weigh each word against what is known of its identity, earlier words of the same batch included.

    `found_pos` and `found_digest` say what was known before the batch: place and digest of the live event with the
    word's identity, −1 where there is none. Masks: no event may come `here`, where the word's own would lie; the known
    event lies `there`, where none may go.
    """
    here = np.zeros(words.n, np.bool_) if here is None else here
    there = np.zeros(words.n, np.bool_) if there is None else there
    ident, digest, removed = words.integers("ident"), words.integers("digest"), words.integers("removed")
    named = ident != 0
    known = named & (found_pos >= 0)

    # As if no identity came twice.
    outcome = np.full(words.n, Outcome.ACCEPTED, np.uint8)
    keep = ~removed
    gone = known
    same = known & (digest == found_digest) & ~removed
    if known.any():
        outcome[known] = Outcome.CORRECTED
        outcome[same] = Outcome.DUPLICATE
        keep &= ~same
        gone = known & ~same
    if removed.any():
        outcome[removed] = np.where(known[removed], Outcome.RETRACTED, Outcome.UNKNOWN)
    refused = ~same & ((known & there) | (here & ~removed))
    if refused.any():
        outcome[refused] = Outcome.REFUSED
        keep &= ~refused
        gone = gone & ~refused
    forgotten = gone & removed

    again = _repeated(ident, named)
    if len(again):
        for column in (keep, gone, forgotten):
            column[again] = False
        _replay(again, ident, digest, removed, found_pos, found_digest, here, there, outcome, keep, gone, forgotten)
    return Resolution(outcome, np.flatnonzero(keep), np.sort(found_pos[gone]).astype(np.int64), ident[forgotten])


def _repeated(ident: Array, named: Array) -> NDArray[np.int64]:
    """The rows whose identity comes more than once, ascending."""
    rows = np.arange(len(ident)) if named.all() else np.flatnonzero(named)
    # Each row leaves its number in a cell; who finds another's there shares the cell, and few do by chance.
    bits = len(rows).bit_length() + 4
    cell = (ident[rows] >> np.uint64(64 - bits)).view(np.int64)
    number = np.empty(1 << bits, np.int64)
    number[cell] = rows
    other = np.flatnonzero(number[cell] != rows)
    if not len(other):
        return other
    shared = np.zeros(1 << bits, np.bool_)
    shared[cell[other]] = True
    rows = rows[shared[cell]]
    ordered = np.sort(ident[rows])
    return rows[np.isin(ident[rows], ordered[1:][ordered[1:] == ordered[:-1]])]


def _replay(
    rows: NDArray[np.int64],
    ident: Array,
    digest: Array,
    removed: Array,
    found_pos: Array,
    found_digest: Array,
    here: Array,
    there: Array,
    outcome: Array,
    keep: Array,
    gone: Array,
    forgotten: Array,
) -> None:
    """Weigh these rows one by one. What a row found before the batch is marked gone on the identity's first row."""
    first: dict[int, int] = {}  # by identity, its first row in the batch
    newest: dict[int, tuple[int, int] | None] = {}  # by identity: digest and row of what lives now; row −1: from before
    columns = (rows, *(each[rows] for each in (ident, digest, removed, found_pos, found_digest, here, there)))
    for row, who, says, takes_back, pos, said, shut, held in zip(*(c.tolist() for c in columns), strict=True):
        if who not in first:
            first[who] = row
            newest[who] = (said, -1) if pos >= 0 else None
        lives = newest[who]
        if lives is not None and lives[0] == says and not takes_back:
            outcome[row] = Outcome.DUPLICATE
            continue
        if (shut and not takes_back) or (held and lives is not None and lives[1] < 0):
            outcome[row] = Outcome.REFUSED
            continue
        if lives is None:
            outcome[row] = Outcome.UNKNOWN if takes_back else Outcome.ACCEPTED
            if takes_back:
                continue
        elif takes_back:
            outcome[row] = Outcome.RETRACTED
        else:
            outcome[row] = Outcome.CORRECTED
        if lives is not None:
            if lives[1] < 0:
                gone[first[who]] = True
            else:
                keep[lives[1]] = False
        if takes_back:
            newest[who] = None
        else:
            newest[who] = (says, row)
            keep[row] = True
    for who, row in first.items():
        forgotten[row] = gone[row] and newest[who] is None
