"""Answers to keyed requests: the first one stands, for a while."""

from pathlib import Path

from storage import answers
from storage.commits import Answer
from storage.state import State


def test_the_first_answer_to_a_key_stands(tmp_path: Path) -> None:
    first, second = Answer("k", 100, b"1", b"a" * 32), Answer("k", 101, b"2", b"b" * 32)
    with answers.opened(tmp_path / "answers.db") as state:
        answers.put(state, [first, second], 101)
        answers.put(state, [second], 102)
        assert answers.find(state, "k") == first
        assert answers.find(state, "another") is None


def test_answers_are_dropped_after_two_days(tmp_path: Path) -> None:
    old, new = Answer("old", 100, b"1", b"a" * 32), Answer("new", 101, b"2", b"b" * 32)
    with answers.opened(tmp_path / "answers.db") as state:
        answers.put(state, [old, new], 101 + answers.KEPT)
        assert answers.find(state, "old") is None
        assert answers.find(state, "new") == new


def test_a_file_from_before_requests_were_told_apart_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "answers.db"
    with State.open(path, answers.MIGRATIONS[:1]) as state, state.writing() as db:
        db.execute("INSERT INTO answers VALUES ('k', 5, x'7b7d')")
    with answers.opened(path) as state:
        assert answers.find(state, "k") == Answer("k", 5, b"{}", b"")
