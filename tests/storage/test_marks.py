"""Marks that somebody made: kept, found by their time or their age, deleted, of bounded number."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from storage import marks
from storage.errors import Conflict
from storage.marks import Border, Mark, Place
from storage.state import State

GOLD, TEA = 1, 2


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with State.open(tmp_path / "state.db") as opened:
        yield opened


def put(state: State, at: int, place: Place = "bars", market: int = GOLD) -> Mark:
    mark = Mark(id=0, at=at, place=place, text=f"at {at}", label="M", color=Border("#fff", "#000"))
    kept = marks.put(state, market, mark)
    assert msgspec.structs.replace(kept, id=0) == mark
    return kept


def test_marks_are_found_by_their_time_and_by_their_age(state: State) -> None:
    late, early, other, below = put(state, 50), put(state, 10), put(state, 20, market=TEA), put(state, 30, "timescale")
    assert marks.between(state, GOLD, "bars", 10, 51, 10) == [late, early]
    assert marks.between(state, GOLD, "bars", 11, 51, 10) == [late]
    assert marks.between(state, GOLD, "bars", 10, 50, 10) == [early]
    assert marks.between(state, GOLD, "bars", 0, 100, 1) == [late]
    assert marks.between(state, GOLD, "timescale", 0, 100, 10) == [below]
    assert marks.page(state, GOLD, 2**62, 2) == [below, early]
    assert marks.page(state, GOLD, early.id, 2) == [late]
    assert marks.page(state, TEA, 2**62, 2) == [other]


def test_a_mark_is_deleted_by_its_market_alone_and_its_id_never_used_again(state: State) -> None:
    mark = put(state, 10)
    assert not marks.delete(state, TEA, mark.id)
    assert marks.delete(state, GOLD, mark.id)
    assert not marks.delete(state, GOLD, mark.id)
    assert put(state, 10).id > mark.id


def test_a_market_has_only_so_many(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marks, "MOST", 2)
    first = put(state, 1)
    put(state, 2)
    with pytest.raises(Conflict, match="this market has 2 marks, which is all that it may"):
        put(state, 3)
    put(state, 3, market=TEA)
    marks.delete(state, GOLD, first.id)
    put(state, 3)
