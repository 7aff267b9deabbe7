"""Which words count."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.identities import Outcome, Resolution, resolve, same
from storage import hashing
from storage.events import Events

A, D, C, R, U, X = Outcome
NOBODY: frozenset[int] = frozenset()

Named = tuple[int, int, int, str | None, int, int | None, str | None]
parts = st.tuples(
    st.integers(1, 2),  # market
    st.integers(0, 1),  # chain_id
    st.integers(-1, 1),  # log_index
    st.sampled_from([None, "", "0xAb", "0xaB", "0xcd"]),  # transaction_hash
    st.integers(-1, 1),  # trade_no
    st.none(),
    st.sampled_from([None, "", "a", "A", "é"]),  # trade_id
)


def named(rows: list[Named]) -> Events:
    """Events that say this of who they are."""
    market, chain, log_index, transaction, number, _, text = zip(*rows, strict=True)
    return Events(
        len(rows),
        {
            "market": np.array(market, np.int32),
            "chain_id": np.array(chain, np.int64),
            "log_index": np.array(log_index, np.int64),
            "transaction_hash": pa.array(transaction, pa.string()),
            "trade_no": np.array(number, np.int64),
            "trade_id": pa.array(text, pa.string()),
        },
    )


@given(st.lists(st.tuples(parts, parts), min_size=1, max_size=30))
def test_two_events_are_the_same_where_their_hashes_are(pairs: list[tuple[Named, Named]]) -> None:
    a, b = (named([pair[side] for pair in pairs]) for side in (0, 1))
    hashes = hashing.identity(a), hashing.identity(b)
    known = (hashes[0] != 0) & (hashes[1] != 0)  # of others nobody asks
    assert same(a, b)[known].tolist() == (hashes[0] == hashes[1])[known].tolist()


def words(*said: tuple[int, int, bool]) -> Events:
    """A batch from (ident, digest, removed)."""
    ident, digest, removed = zip(*said, strict=True) if said else ((), (), ())
    return Events(
        len(said),
        {
            "ident": np.array(ident, np.uint64),
            "digest": np.array(digest, np.uint64),
            "removed": np.array(removed, np.bool_),
        },
    )


def resolved(
    known: dict[int, tuple[int, int]],
    *said: tuple[int, int, bool],
    shut: frozenset[int] = NOBODY,
    held: frozenset[int] = NOBODY,
) -> Resolution:
    """What becomes of these words where `known` has the (pos, digest) of identities.

    Events with `shut` digests would lie in closed days; the known events of `held` identities do.
    """
    found = [known.get(ident, (-1, 0)) for ident, _, _ in said]
    pos = np.array([p for p, _ in found], np.int64)
    here, there = (np.array([one[column] in some for one in said], np.bool_) for column, some in ((1, shut), (0, held)))
    return resolve(words(*said), pos, np.array([d for _, d in found], np.uint64), here, there)


def plain(resolution: Resolution) -> tuple[list[int], list[int], list[int], list[int]]:
    """The resolution as lists."""
    return (
        resolution.outcome.tolist(),
        resolution.keep.tolist(),
        resolution.dead.tolist(),
        sorted(resolution.forget.tolist()),
    )


def replayed(
    known: dict[int, tuple[int, int]],
    *said: tuple[int, int, bool],
    shut: frozenset[int] = NOBODY,
    held: frozenset[int] = NOBODY,
) -> Any:
    """The same, one word after the other, in the most obvious way."""
    live: dict[int, tuple[str, int, int]] = {i: ("stored", pos, digest) for i, (pos, digest) in known.items()}
    outcome: list[Outcome] = []
    keep: set[int] = set()
    dead: set[int] = set()

    def bury(ident: int) -> None:
        kind, where, _ = live.pop(ident)
        if kind == "stored":
            dead.add(where)
        else:
            keep.remove(where)

    for row, (ident, digest, removed) in enumerate(said):
        stored = live.get(ident, ("",))[0] == "stored"
        if (removed or live.get(ident, ("", 0, 0))[2] != digest) and (
            (stored and ident in held) or (not removed and digest in shut)
        ):
            outcome.append(X)
        elif removed:
            outcome.append(R if ident in live else U)
            if ident in live:
                bury(ident)
        elif ident == 0:
            outcome.append(A)
            keep.add(row)
        elif ident in live and live[ident][2] == digest:
            outcome.append(D)
        else:
            outcome.append(C if ident in live else A)
            if ident in live:
                bury(ident)
            live[ident] = ("row", row, digest)
            keep.add(row)
    forget = sorted(i for i in known if i not in live)
    return outcome, sorted(keep), sorted(dead), forget


def test_events_that_nobody_knows_are_accepted() -> None:
    assert plain(resolved({}, (1, 10, False), (2, 20, False))) == ([A, A], [0, 1], [], [])


def test_an_empty_batch_does_nothing() -> None:
    assert plain(resolved({})) == ([], [], [], [])


def test_the_same_word_again_is_a_duplicate() -> None:
    assert plain(resolved({1: (7, 10)}, (1, 10, False))) == ([D], [], [], [])


def test_another_word_about_a_known_event_takes_its_place() -> None:
    assert plain(resolved({1: (7, 10)}, (1, 11, False))) == ([C], [0], [7], [])


def test_a_retraction_ends_the_event_and_its_identity() -> None:
    assert plain(resolved({1: (7, 10)}, (1, 0, True))) == ([R], [], [7], [1])


def test_a_retraction_of_what_nobody_knows_is_unknown() -> None:
    assert plain(resolved({}, (1, 0, True))) == ([U], [], [], [])


def test_what_lies_or_would_lie_in_a_closed_day_is_refused_and_what_follows_counts() -> None:
    found = plain(resolved({1: (7, 10)}, (1, 11, False), (1, 12, False), shut=frozenset({11})))
    assert found == ([X, C], [1], [7], [])
    found = plain(resolved({1: (7, 10)}, (1, 11, False), (1, 0, True), (1, 10, False), held=frozenset({1})))
    assert found == ([X, X, D], [], [], [])
    assert plain(resolved({}, (0, 11, False), (2, 0, True), shut=frozenset({11}))) == ([X, U], [], [], [])


def test_events_without_identity_are_all_accepted() -> None:
    assert plain(resolved({}, (0, 5, False), (0, 5, False))) == ([A, A], [0, 1], [], [])


def test_an_event_without_identity_does_not_hide_another_that_came_twice() -> None:
    assert plain(resolved({}, (0, 5, False), (3, 5, False), (3, 5, False))) == ([A, A, D], [0, 1], [], [])


def test_after_a_retraction_in_the_same_batch_the_event_is_accepted_again() -> None:
    found = plain(resolved({1: (7, 10)}, (1, 0, True), (1, 10, False), (1, 10, False)))
    assert found == ([R, A, D], [1], [7], [])


def test_of_corrections_in_one_batch_only_the_last_is_kept_and_the_committed_event_dies_once() -> None:
    found = plain(resolved({1: (7, 10)}, (1, 11, False), (1, 12, False), (1, 10, False)))
    assert found == ([C, C, C], [2], [7], [])


def test_what_a_batch_accepts_and_takes_back_leaves_no_trace() -> None:
    assert plain(resolved({}, (1, 10, False), (1, 0, True), (1, 0, True))) == ([A, R, U], [], [], [])


def test_a_batch_without_retractions_needs_no_removed_column() -> None:
    batch = words((1, 10, False), (2, 20, False)).without("removed")
    found = resolve(batch, np.array([7, -1]), np.array([11, 0], np.uint64))
    assert plain(found) == ([C, A], [0, 1], [7], [])


@pytest.mark.parametrize("idents", [5, 40])
def test_any_words_in_any_order_end_as_if_weighed_one_by_one(idents: int) -> None:
    @given(
        known=st.dictionaries(st.integers(1, idents), st.integers(1, 3)),
        said=st.lists(st.tuples(st.integers(0, idents), st.integers(1, 3), st.booleans()), max_size=30),
        shut=st.sampled_from([NOBODY, NOBODY, frozenset({3})]),
        held=st.frozensets(st.integers(1, idents), max_size=3),
    )
    def check(
        known: dict[int, int], said: list[tuple[int, int, bool]], shut: frozenset[int], held: frozenset[int]
    ) -> None:
        said = [(ident, digest, removed and ident != 0) for ident, digest, removed in said]
        places = {ident: (100 + ident, digest) for ident, digest in known.items()}
        found = plain(resolved(places, *said, shut=shut, held=held))
        assert found == replayed(places, *said, shut=shut, held=held)

    check()
