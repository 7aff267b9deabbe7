"""API keys."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage import keys
from storage.errors import BadRequest
from storage.records import SCOPES, Scope
from storage.state import State


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with State.open(tmp_path / "state.db") as opened:
        yield opened


@pytest.mark.parametrize("scope", SCOPES)
def test_a_key_has_the_scope_it_was_made_with(state: State, scope: Scope) -> None:
    key = keys.create(state, scope, "robot")
    assert key.startswith(f"cdl_{scope[0]}_")
    assert len(key) == 49
    assert keys.check(state, key) == scope


def test_a_key_that_differs_in_anything_is_unknown(state: State) -> None:
    key = keys.create(state, "read")
    others = ["", key[:-1], key + "x", key.upper(), key.replace("cdl_r", "cdl_a"), f" {key}", "cdl_r_\ud800"]
    assert [keys.check(state, other) for other in others] == [None] * len(others)


def test_no_file_holds_the_key(state: State) -> None:
    key = keys.create(state, "admin", "me")
    for file in state.path.parent.iterdir():
        assert key.encode() not in file.read_bytes()
        assert key[6:].encode() not in file.read_bytes()


def test_a_revoked_key_is_unknown_and_stays_on_the_list(state: State) -> None:
    key, other = keys.create(state, "ingest", "old"), keys.create(state, "ingest", "new")
    keys.revoke(state, keys.listed(state)[0].id)
    first = keys.listed(state)[0].revoked
    keys.revoke(state, 1)
    assert keys.check(state, key) is None
    assert keys.check(state, other) == "ingest"
    old, new = keys.listed(state)
    assert (old.name, new.name, new.revoked) == ("old", "new", None)
    assert old.revoked == first is not None
    with pytest.raises(BadRequest, match="no key 77"):
        keys.revoke(state, 77)


def test_the_list_says_when_a_key_was_made_and_last_used(state: State) -> None:
    before = time.time_ns() // 1000
    key = keys.create(state, "read", "chart")
    made = keys.listed(state)[0]
    assert before <= made.created <= time.time_ns() // 1000
    assert made.last_used is None
    keys.touch(state, {key: 2_000, "cdl_r_unknown": 9_000})
    keys.touch(state, {key: 1_000})  # told late
    assert keys.listed(state)[0].last_used == 2_000


@pytest.mark.parametrize(
    ("scope", "name", "complaint"),
    [
        ("root", "", "scope: expected one of read, ingest, admin, got 'root'"),
        ("read", "a\nb", "name: expected at most 100 printable characters"),
        ("read", "x" * 101, "name: expected at most 100 printable characters"),
    ],
)
def test_a_key_that_cannot_be_made(state: State, scope: str, name: str, complaint: str) -> None:
    with pytest.raises(BadRequest, match=complaint):
        keys.create(state, scope, name)
    assert keys.listed(state) == []
