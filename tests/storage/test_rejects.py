"""Dead letters."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import rejects
from storage.records import Reject
from storage.rejects import Totals
from storage.state import State


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with rejects.opened(tmp_path / "rejects.db") as opened:
        yield opened


def a_reject(n: int, event: str = "{}") -> Reject:
    return Reject(at=n, source="http", market_symbol="GOLD", error=f"price: got {n}", event=event)


def size(letter: Reject) -> int:
    return len((letter.source + (letter.market_symbol or "") + letter.error + letter.event).encode())


def test_the_newest_letters_come_first_as_they_were_put(state: State) -> None:
    letters = [a_reject(n, f'{{"price": -{n}}}') for n in range(5)]
    letters.append(Reject(at=9, source="http", error="no market named 'GLOD'", event="null"))
    rejects.put(state, letters)
    assert rejects.listed(state, 2) == letters[:3:-1]
    assert rejects.listed(state) == letters[::-1]
    assert rejects.listed(state, -1) == []


def test_letters_outlive_the_process(tmp_path: Path) -> None:
    with rejects.opened(tmp_path / "rejects.db") as state:
        rejects.put(state, [a_reject(1)])
    with rejects.opened(tmp_path / "rejects.db") as state:
        assert rejects.listed(state) == [a_reject(1)]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(st.integers(0, 300), max_size=12), max_size=8), st.integers(1, 10), st.integers(1, 2000))
def test_count_and_bytes_stay_within_their_bounds_and_every_letter_is_kept_or_counted(
    batches: list[list[int]], most: int, most_bytes: int
) -> None:
    with tempfile.TemporaryDirectory() as folder, rejects.opened(Path(folder) / "rejects.db") as state:
        put: list[Reject] = []
        for batch in batches:
            letters = [a_reject(len(put) + i, "é" * length) for i, length in enumerate(batch)]
            put += letters
            totals = rejects.put(state, letters, most, most_bytes)
            kept = rejects.listed(state, 1000)
            assert kept == put[::-1][: len(kept)]  # the newest, without a hole
            assert totals == rejects.totals(state)
            assert totals.kept == len(kept) <= most
            assert totals.kept + totals.dropped == len(put)
            assert totals.bytes == sum(map(size, kept)) <= most_bytes
            if totals.dropped and totals.kept < most:  # none was dropped without need
                assert totals.bytes + size(put[-totals.kept - 1]) > most_bytes


def test_a_long_event_is_cut_and_half_a_character_replaced(state: State) -> None:
    rejects.put(state, [a_reject(1, "x" * 100_000), a_reject(2, "\ud800")])
    second, first = rejects.listed(state)
    assert first.event == "x" * (rejects.LONGEST_EVENT - 1) + "…"
    assert second.event == "?"


def test_nothing_to_put_changes_nothing(state: State) -> None:
    assert rejects.put(state, []) == Totals(0, 0, 0)
