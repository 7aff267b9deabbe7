"""A sealed file says all that its batches said, and says so when it does not."""

import errno
import os
import random
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import sealed
from storage.commits import ROW_BITS, Answer, Commit, Dead, decode, encode, places
from storage.errors import BrokenStore, Unavailable
from storage.events import NUMBERS, TEXTS, Array, Events
from storage.sealed import Damaged, Sealed, Within
from tests.storage.test_ledger import SAID, batch, rows_of, said

NOW = 1_700_000_000
WIDE = [name for name in (*SAID, *NUMBERS, *TEXTS) if name != "pos"]


def quietly() -> None:
    """A pause that is none."""


@st.composite
def histories(draw: Any) -> list[Commit]:
    """Some batches that follow each other, each of which says what it likes."""
    first = draw(st.integers(1, 2**30))
    found: list[Commit] = []
    for seq in range(first, first + draw(st.integers(1, 5))):
        names = draw(st.lists(st.sampled_from(WIDE), unique=True, max_size=6))
        events = batch(names, draw(st.lists(rows_of(names), max_size=4)), seq << ROW_BITS)
        words = st.integers(0, 2**63 - 1)
        dead = draw(st.lists(st.builds(Dead, words, st.integers(1, 9), words), max_size=2))
        forgotten = np.array(draw(st.lists(st.integers(1, 2**64 - 1), max_size=2)), np.uint64)
        answers = draw(
            st.lists(st.builds(Answer, st.text(max_size=3), st.just(NOW), st.binary(max_size=3)), max_size=1)
        )
        commit = Commit(seq, events, dead, forgotten, answers)
        # What is sealed has been through the journal.
        found.append(decode(seq, b"".join(bytes(part) for part in encode(commit))))
    return found


def told(commits: Sequence[Commit]) -> list[tuple[object, ...]]:
    """All that batches say, as plain values."""
    return [(one.seq, said(one.events), list(one.dead), one.forgotten.tolist(), list(one.answers)) for one in commits]


@given(histories(), st.data())
@settings(max_examples=60, deadline=None)
def test_batches_come_back_as_they_were_sealed_also_after_a_merge(commits: list[Commit], data: st.DataObject) -> None:
    first, last = commits[0].seq, commits[-1].seq
    cut = data.draw(st.integers(first, last))
    after = data.draw(st.integers(first - 1, last))
    with TemporaryDirectory() as name:
        folder = Path(name)
        parts = [some for some in ([c for c in commits if c.seq < cut], [c for c in commits if c.seq >= cut]) if some]
        files = [sealed.write(folder, some[0].seq, some[-1].seq, some, NOW, quietly) for some in parts]
        again = [commit for file in files for commit in sealed.commits(folder, file, every=True)]
        assert told(again) == told(commits)
        if len(files) > 1:
            whole = sealed.merge(folder, files, NOW, quietly)
            assert told(list(sealed.commits(folder, whole, every=True))) == told(commits)
        else:
            (whole,) = files
        assert told(list(sealed.commits(folder, whole, after, every=True))) == told(commits[after - first + 1 :])
        assert (whole.first, whole.last, whole.events) == (first, last, sum(commit.events.n for commit in commits))
        assert sealed.check(folder, whole) == ""
        ends = data.draw(st.lists(st.integers(first - 2, last + 2), max_size=3))
        found = list(sealed.commits(folder, whole, after, ends=ends))
        together(found, commits[after - first + 1 :])
        assert {seq for seq in ends if after < seq <= last} <= {one.seq for one in found}


def together(found: list[Commit], commits: list[Commit]) -> None:
    """The same events in the same order, and what is said beside them under the same seq."""
    assert [row for one in found for row in said(one.events)] == [row for one in commits for row in said(one.events)]
    for name in ("dead", "forgotten", "answers"):
        assert [(one.seq, list(getattr(one, name))) for one in found if len(getattr(one, name))] == [
            (one.seq, list(getattr(one, name))) for one in commits if len(getattr(one, name))
        ]
    seqs = [one.seq for one in found]
    assert seqs == sorted(seqs)
    assert seqs[-1:] == [one.seq for one in commits][-1:]
    for one in found:
        assert not one.events.n or int(one.events.integers("pos")[-1]) >> ROW_BITS <= one.seq


def many(seqs: Sequence[int], n: int, markets: int = 50, seed: int = 0) -> list[Commit]:
    """Batches of n trades each, spread over markets and an hour."""
    chance = np.random.default_rng(seed)
    found = []
    for seq in seqs:
        columns = {
            "market": chance.integers(1, markets + 1, n).astype(np.int32),
            "ts": chance.integers(0, 3600 * 10**6, n),
            "price": chance.integers(1, 10**6, n) / 100,
            "ident": chance.integers(1, 2**63, n).astype(np.uint64),
            "digest": chance.integers(1, 2**63, n).astype(np.uint64),
            "pos": places(seq, n),
        }
        found.append(Commit(seq, Events(n, columns)))
    return found


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Sealed, list[Commit]]:
    """A file of several row groups."""
    folder = tmp_path_factory.mktemp("large")
    commits = many(range(5, 25), 10_000)
    return folder, sealed.write(folder, 5, 24, commits, NOW, quietly), commits


def test_events_within_a_time_are_found_in_few_row_groups(
    large: tuple[Path, Sealed, list[Commit]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, file, commits = large
    read: list[int] = []
    group = pq.ParquetFile.read_row_group

    def counted(file: pq.ParquetFile, number: int, **more: Any) -> Any:
        read.append(number)
        return group(file, number, **more)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    wanted = Within(np.array([7, 49]), 60 * 10**6, 120 * 10**6, 14)
    found = list(sealed.within(folder, file, wanted, ("market", "ts", "pos", "price")))
    expected = set()
    for commit in commits:
        market, ts, pos = (commit.events.integers(name) for name in ("market", "ts", "pos"))
        keep = np.isin(market, [7, 49]) & (ts >= 60 * 10**6) & (ts < 120 * 10**6) & (commit.seq <= 14)
        expected |= set(pos[keep].tolist())
    assert {pos for table in found for pos in table.column("pos").to_pylist()} == expected
    assert expected
    assert len(set(read)) == 2 < pq.read_metadata(folder / file.file).num_row_groups
    read.clear()
    for nothing in (wanted._replace(markets=np.array([51])), wanted._replace(low=3600 * 10**6, high=2**60)):
        assert list(sealed.within(folder, file, nothing, ("market", "ts", "pos"))) == []
    assert read == []


def test_events_are_found_by_their_places(large: tuple[Path, Sealed, list[Commit]]) -> None:
    folder, file, commits = large
    chance = random.Random(3)
    wanted = sorted({chance.randrange(3, 27) << ROW_BITS | chance.randrange(10_500) for _ in range(200)})
    tables = list(sealed.at(folder, file, np.array(wanted), ("market", "ts", "pos", "price", "no such")))
    found = {row["pos"]: (row["market"], row["ts"], float(row["price"])) for one in tables for row in one.to_pylist()}
    expected: dict[int, tuple[int, int, float]] = {}
    for commit in commits:
        columns = (commit.events.columns[name].tolist() for name in ("pos", "market", "ts", "price"))
        expected |= {pos: (market, ts, price) for pos, market, ts, price in zip(*columns, strict=True)}
    assert found == {pos: expected[pos] for pos in wanted if pos in expected}
    assert len(found) > 100


def test_identities_are_those_of_the_events_after_a_place(large: tuple[Path, Sealed, list[Commit]]) -> None:
    folder, file, commits = large
    after = (20 << ROW_BITS) + 5
    found = sealed.identities(folder, file, after)
    expected: dict[int, tuple[int, int]] = {}
    for commit in commits:
        columns = (commit.events.integers(name).tolist() for name in ("pos", "ident", "digest"))
        expected |= {pos: (ident, digest) for pos, ident, digest in zip(*columns, strict=True) if pos > after}
    columns = (column.tolist() for column in found)
    assert {pos: (ident, digest) for ident, digest, pos in zip(*columns, strict=True)} == expected
    assert len(expected) > 30_000


def test_a_short_answer_that_is_old_is_not_kept(tmp_path: Path) -> None:
    answers = [Answer("old", NOW - 49 * 3600, b"x"), Answer("young", NOW - 47 * 3600, b"y")]
    file = sealed.write(tmp_path, 1, 1, [Commit(1, Events(0, {}), answers=answers)], NOW, quietly)
    (commit,) = sealed.commits(tmp_path, file)
    assert [answer.key for answer in commit.answers] == ["young"]


def small(folder: Path) -> Sealed:
    dead = [Dead(1 << ROW_BITS, 3, 4)]
    commits = [*many([1, 2], 50), Commit(3, Events(0, {}), dead)]
    return sealed.write(folder, 1, 3, commits, NOW, quietly)


def test_a_bit_flipped_anywhere_is_noticed_before_anything_is_handed_out(tmp_path: Path) -> None:
    file = small(tmp_path)
    path = tmp_path / file.file
    whole = path.read_bytes()
    chance = random.Random(1)
    for at in range(0, len(whole), 5):
        content = bytearray(whole)
        content[at] ^= 1 << chance.randrange(8)
        path.write_bytes(content)
        with pytest.raises(Damaged, match=file.file):
            list(sealed.commits(tmp_path, file))
    path.write_bytes(whole)
    assert len(list(sealed.commits(tmp_path, file))) == 2


@pytest.mark.parametrize("harm", ["missing", "short", "another", "garbage"])
def test_a_file_that_is_not_what_was_written_is_named(tmp_path: Path, harm: str) -> None:
    file = small(tmp_path)
    path = tmp_path / file.file
    match harm:
        case "missing":
            path.unlink()
        case "short":
            path.write_bytes(path.read_bytes()[:-1])
        case "another":
            sealed.write(tmp_path, 1, 3, many([1, 2], 50, seed=9), NOW, quietly)
        case "garbage":
            path.write_bytes(b"not what it was" * 100)
    assert sealed.check(tmp_path, file) != ""
    sealed._footer_of.cache_clear()
    every = Within(np.arange(100), 0, 2**60, 9)
    readings: list[Any] = [
        lambda: list(sealed.commits(tmp_path, file)),
        lambda: list(sealed.within(tmp_path, file, every, ("market", "ts", "pos"))),
        lambda: list(sealed.at(tmp_path, file, np.array([1 << ROW_BITS]), ("pos",))),
        lambda: sealed.identities(tmp_path, file, -1),
    ]
    for reading in readings:
        with pytest.raises(Damaged, match=f"{file.file} \\(batches 1 to 3\\)"):
            reading()


def test_a_full_disk_is_told_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(sealed, "_fsync", full)
    with pytest.raises(Unavailable, match="no space left"):
        small(tmp_path / "raw")
    assert list((tmp_path / "raw").iterdir()) == []
    monkeypatch.undo()
    assert small(tmp_path / "raw").events == 100


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_file_that_does_not_read_as_it_was_written_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    def harm(_: int) -> None:
        path = next((tmp_path / "raw").iterdir())
        content = bytearray(path.read_bytes())
        content[int(len(content) * share)] ^= 1
        path.write_bytes(content)

    monkeypatch.setattr(sealed, "_evict", harm)
    with pytest.raises(BrokenStore, match="the journal keeps its batches"):
        small(tmp_path / "raw")
    assert list((tmp_path / "raw").iterdir()) == []


def test_what_says_nothing_is_a_file_too(tmp_path: Path) -> None:
    file = sealed.write(tmp_path, 4, 9, [], NOW, quietly)
    assert (file.events, file.low_ts, file.high_market) == (0, 0, 0)
    assert [commit.seq for commit in sealed.commits(tmp_path, file, every=True)] == [4, 5, 6, 7, 8, 9]
    assert [commit.seq for commit in sealed.commits(tmp_path, file, 5)] == [9]
    assert sealed.sealed(tmp_path / file.file) == file
    assert len(sealed.identities(tmp_path, file, -1)[0]) == 0


def column(commits: list[Commit], name: str) -> Array:
    return np.concatenate([commit.events.integers(name) for commit in commits])


def test_rows_lie_by_market_and_time(large: tuple[Path, Sealed, list[Commit]]) -> None:
    folder, file, commits = large
    table = pq.read_table(folder / file.file)
    found = list(zip(*(table.column(name).to_pylist() for name in ("market", "ts", "pos")), strict=True))
    assert found == sorted(zip(*(column(commits, name).tolist() for name in ("market", "ts", "pos")), strict=True))
    assert (file.low_market, file.high_market) == (1, 50)
    assert (file.low_ts, file.high_ts) == (found_ts(found, min), found_ts(found, max))


def found_ts(found: list[tuple[Any, ...]], end: Any) -> Any:
    return end(ts for _, ts, _ in found)
