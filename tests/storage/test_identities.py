"""Who has been here before, whatever happens to memory, files and process."""

import os
import shutil
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from numpy.typing import NDArray

from storage import runs
from storage.errors import BrokenStore
from storage.hashing import mix
from storage.identities import Identities

Words = NDArray[np.uint64]
Entry = tuple[int, int]  # pos and digest


def named(*numbers: int) -> Words:
    """The identities of events with these numbers."""
    return mix(np.array(numbers, np.int64))


def entered(index: Identities, start: int, end: int, by: int = 0) -> None:
    """Add the events numbered from start to end, their pos the number and `by`, their digest twice that."""
    pos = np.arange(start, end) + by
    index.add(named(*range(start, end)), (2 * pos).astype(np.uint64), pos)


def known(index: Identities, ident: Words) -> list[Entry | None]:
    """What the index knows of each identity, asked as intake does."""
    found = index.find(ident)
    pos, digest = found.pos.copy(), found.digest.copy()
    older = np.flatnonzero(found.maybe_older)
    pos[older], digest[older] = index.find_older(ident[older])
    return [(p, d) if p >= 0 else None for p, d in zip(pos.tolist(), digest.tolist(), strict=True)]


def expected(*numbers: int, by: int = 0) -> list[Entry | None]:
    """What `known` says of events that `entered` added."""
    return [(n + by, 2 * (n + by)) for n in numbers]


def put_away(index: Identities, through: int) -> None:
    """All of memory into files, merged."""
    assert index.freeze(through)
    index.spill()
    index.merge()


def files(folder: Path) -> list[str]:
    """The names of all files, sorted."""
    return sorted(path.name for path in folder.iterdir())


def test_a_new_index_knows_nobody(tmp_path: Path) -> None:
    index = Identities.open(tmp_path / "identities")
    found = index.find(named(1, 2))
    assert (found.pos.tolist(), found.digest.tolist(), found.maybe_older.tolist()) == ([-1, -1], [0, 0], [False] * 2)
    assert (index.through, index.full, index.frozen, index.merge_due, index.broken) == (0, False, False, False, "")


def test_an_empty_question_has_an_empty_answer(tmp_path: Path) -> None:
    index = Identities.open(tmp_path)
    entered(index, 0, 10)
    put_away(index, 1)
    assert known(index, named()) == []
    assert [len(column) for column in index.find_older(named())] == [0, 0]


def test_what_was_added_is_found_in_memory(tmp_path: Path) -> None:
    index = Identities.open(tmp_path)
    entered(index, 0, 100)
    assert known(index, named(7, 100, 99)) == [*expected(7), None, *expected(99)]
    assert not index.find(named(*range(200))).maybe_older.any()


def test_memory_grows_and_keeps_what_it_has(tmp_path: Path) -> None:
    index = Identities.open(tmp_path)
    for start in range(0, 30_000, 700):
        entered(index, start, start + 700)
    assert known(index, named(*range(30_000))) == expected(*range(30_000))
    assert known(index, named(*range(40_000, 41_000))) == [None] * 1000


def test_a_later_word_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    index = Identities.open(tmp_path)
    entered(index, 0, 10)
    entered(index, 5, 6, by=100)
    assert known(index, named(4, 5)) == [*expected(4), *expected(5, by=100)]
    assert index.statistics().in_memory == 10


@pytest.mark.parametrize("spilled", [False, True])
def test_of_two_words_in_one_batch_the_later_counts(tmp_path: Path, spilled: bool) -> None:
    index = Identities.open(tmp_path)
    index.add(named(1, 2, 1), np.array([10, 20, 11], np.uint64), np.array([1, 2, 3]))
    if spilled:
        put_away(index, 1)
    assert known(index, named(1, 2)) == [(3, 11), (2, 20)]


def test_events_without_identity_are_passed_over(tmp_path: Path) -> None:
    index = Identities.open(tmp_path)
    ident = np.array([0, *named(1), 0], np.uint64)
    index.add(ident, np.array([5, 6, 7], np.uint64), np.array([1, 2, 3]))
    put_away(index, 1)
    assert index.statistics().in_files == 1
    assert not index.find(ident).maybe_older[[0, 2]].any()
    assert known(index, ident) == [None, (2, 6), None]
    assert index.find_older(ident)[0].tolist() == [-1, 2, -1]


def test_what_is_frozen_is_found_before_during_and_after_its_spill(tmp_path: Path) -> None:
    index = Identities.open(tmp_path)
    entered(index, 0, 100)
    assert index.freeze(7)
    entered(index, 50, 60, by=1000)
    index.forget(named(70))
    for _ in range(2):
        assert known(index, named(49, 50, 70, 100)) == [*expected(49), *expected(50, by=1000), None, None]
        index.spill()
    assert (index.frozen, index.through) == (False, 7)


def test_a_second_freeze_waits_for_the_first_spill(tmp_path: Path) -> None:
    index = Identities.open(tmp_path)
    entered(index, 0, 10)
    assert index.freeze(1)
    entered(index, 10, 20)
    assert not index.freeze(2)
    index.spill()
    assert index.freeze(2)


def test_memory_is_full_at_its_limit(tmp_path: Path) -> None:
    index = Identities.open(tmp_path, limit=10)
    entered(index, 0, 9)
    assert not index.full
    entered(index, 9, 10)
    assert index.full
    index.freeze(1)
    assert not index.full


def test_after_a_start_the_files_know_what_they_knew(tmp_path: Path) -> None:
    index = Identities.open(tmp_path)
    entered(index, 0, 5000)
    put_away(index, 41)
    again = Identities.open(tmp_path)
    assert again.through == 41
    assert known(again, named(*range(5010))) == expected(*range(5000)) + [None] * 10


def test_through_moves_on_though_nothing_had_an_identity(tmp_path: Path) -> None:
    index = Identities.open(tmp_path)
    assert not index.freeze(0)
    for through in range(1, 30):
        put_away(index, through)
    assert Identities.open(tmp_path).through == 29
    assert len(files(tmp_path)) == 1


def test_through_does_not_go_back(tmp_path: Path) -> None:
    index = Identities.open(tmp_path)
    put_away(index, 5)
    entered(index, 0, 1)
    with pytest.raises(ValueError, match="through seq 4, yet the files go through 5"):
        index.freeze(4)


def test_what_is_forgotten_is_not_found_though_older_files_know_it(tmp_path: Path) -> None:
    index = Identities.open(tmp_path)
    entered(index, 0, 100)
    put_away(index, 1)
    index.forget(named(3))
    assert known(index, named(3, 4)) == [None, *expected(4)]
    assert not index.find(named(3)).maybe_older.any()
    index.freeze(2)
    index.spill()
    for now in (index, Identities.open(tmp_path)):
        assert known(now, named(3, 4)) == [None, *expected(4)]
    entered(index, 3, 4, by=1000)
    assert known(index, named(3)) == expected(3, by=1000)


def test_what_the_files_never_knew_is_forgotten_without_a_trace(tmp_path: Path) -> None:
    index = Identities.open(tmp_path)
    entered(index, 0, 10)
    index.forget(named(3, 4))
    put_away(index, 1)
    assert index.statistics().in_files == 8


def test_a_merge_of_all_files_drops_what_is_forgotten(tmp_path: Path) -> None:
    index = Identities.open(tmp_path)
    entered(index, 0, 10)
    put_away(index, 1)
    index.forget(named(3, 4))
    entered(index, 10, 20)
    index.freeze(2)
    index.spill()
    assert index.statistics().in_files == 22
    index.merge()
    assert index.statistics().in_files == 18
    assert known(index, named(3, 4, 5, 15)) == [None, None, *expected(5, 15)]


def test_a_merge_of_newer_files_keeps_what_forgets_in_older_ones(tmp_path: Path) -> None:
    index = Identities.open(tmp_path)
    entered(index, 0, 1000)
    put_away(index, 1)
    for seq in (2, 3):
        index.forget(named(seq))
        entered(index, 1000 * seq, 1000 * seq + 10)
        put_away(index, seq)
    assert files(tmp_path) == ["0000000001-0000000001.identities", "0000000002-0000000003.identities"]
    assert known(index, named(1, 2, 3, 2005, 3005)) == [*expected(1), None, None, *expected(2005, 3005)]


def test_runs_stay_few_because_each_holds_twice_what_the_next_holds(tmp_path: Path) -> None:
    index = Identities.open(tmp_path)
    for seq in range(1, 65):
        entered(index, 10 * seq, 10 * seq + 10)
        put_away(index, seq)
        counts = [run.count for run in index._older[1]]
        assert all(older >= 2 * newer for older, newer in pairwise(counts))
        assert not index.merge_due
    said = index.statistics()
    assert (said.runs, said.in_files, said.spills) == (1, 640, 64)
    assert said.merged_entries < 640 * 6
    assert known(index, named(*range(10, 650))) == expected(*range(10, 650))


def test_what_a_crash_left_of_a_write_or_a_merge_is_cleared_away(tmp_path: Path) -> None:
    index = Identities.open(tmp_path)
    for seq in (1, 2):
        entered(index, 10 * seq, 10 * seq + 10)
        index.freeze(seq)
        index.spill()
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    index.merge()
    merged = files(tmp_path)
    for name, content in before.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "0000000003-0000000003.identities.new").write_bytes(b"half a header")
    again = Identities.open(tmp_path)
    assert files(tmp_path) == merged == ["0000000001-0000000002.identities"]
    assert known(again, named(*range(10, 30))) == expected(*range(10, 30))


def test_a_missing_file_is_missed(tmp_path: Path) -> None:
    index = Identities.open(tmp_path)
    for seq, count in ((1, 100), (2, 30), (3, 5)):
        entered(index, 1000 * seq, 1000 * seq + count)
        put_away(index, seq)
    (tmp_path / "0000000002-0000000002.identities").unlink()
    again = Identities.open(tmp_path)
    assert "spill 2" in again.broken
    assert "0000000003-0000000003.identities" in again.broken
    assert "rebuild" in again.broken
    for ask in (
        lambda: again.find(named(1)),
        lambda: again.find_older(named(1)),
        lambda: entered(again, 0, 1),
        lambda: again.freeze(9),
        again.spill,
        again.merge,
    ):
        with pytest.raises(BrokenStore, match="spill 2"):
            ask()


def test_files_written_beside_another_journal_are_refused(tmp_path: Path) -> None:
    index = Identities.open(tmp_path, epoch="k3")
    entered(index, 0, 10)
    put_away(index, 1)
    assert Identities.open(tmp_path, epoch="k3").broken == ""
    assert "another journal" in Identities.open(tmp_path, epoch="k4").broken


def test_a_block_that_went_bad_is_named_when_it_is_read_and_stops_the_index(tmp_path: Path) -> None:
    index = Identities.open(tmp_path)
    entered(index, 0, 10_000)
    put_away(index, 1)
    path = tmp_path / files(tmp_path)[0]
    content = bytearray(path.read_bytes())
    content[runs.PAGE + 32 * 1250 + 24 * 5000] ^= 4
    path.write_bytes(content)
    again = Identities.open(tmp_path)
    assert again.broken == ""
    with pytest.raises(BrokenStore, match=rf"{path.name} is broken: the checksum of its block 1 does not fit"):
        known(again, named(*range(10_000)))
    assert path.name in again.broken
    with pytest.raises(BrokenStore, match=path.name):
        again.find(named(1))


def test_a_merge_that_meets_a_bad_block_stops_the_index_and_keeps_the_files(tmp_path: Path) -> None:
    index = Identities.open(tmp_path)
    for seq in (1, 2):
        entered(index, 10 * seq, 10 * seq + 10)
        index.freeze(seq)
        index.spill()
    path = tmp_path / "0000000001-0000000001.identities"
    content = bytearray(path.read_bytes())
    content[runs.PAGE + 32 * 2 + 30] ^= 1
    path.write_bytes(content)
    again = Identities.open(tmp_path)
    with pytest.raises(BrokenStore, match="block 0"):
        again.merge()
    assert len(files(tmp_path)) == 2
    assert "block 0" in again.broken


def live(start: int, end: int, step: int) -> Iterator[tuple[Words, Words, NDArray[np.int64]]]:
    """Events in pieces, newest first."""
    for at in range(end - step, start - 1, -step):
        pos = np.arange(at, at + step)
        yield named(*pos.tolist()), (2 * pos).astype(np.uint64), pos


def test_a_rebuild_begins_again_with_what_it_is_given(tmp_path: Path) -> None:
    index = Identities.open(tmp_path, limit=300)
    entered(index, 0, 500)
    put_away(index, 1)
    entered(index, 500, 600)
    (tmp_path / files(tmp_path)[0]).write_bytes(b"")
    broken = Identities.open(tmp_path, limit=300)
    broken.rebuild(live(100, 1100, 50), 77)
    for now in (broken, Identities.open(tmp_path, limit=300)):
        assert (now.broken, now.through) == ("", 77)
        assert known(now, named(99, 100, 1099, 1100)) == [None, *expected(100, 1099), None]
        assert known(now, named(*range(100, 1100))) == expected(*range(100, 1100))
    assert broken.statistics().in_memory == 0


def test_a_rebuild_of_nothing_covers_its_seq(tmp_path: Path) -> None:
    Identities.open(tmp_path).rebuild(iter(()), 12)
    assert Identities.open(tmp_path).through == 12


def test_a_rebuild_that_breaks_off_is_seen_now_and_after_a_start(tmp_path: Path) -> None:
    def breaks_off() -> Iterator[tuple[Words, Words, NDArray[np.int64]]]:
        yield from live(0, 100, 10)
        raise RuntimeError("the ledger went away")

    index = Identities.open(tmp_path, limit=20)
    entered(index, 0, 50)
    put_away(index, 30)
    with pytest.raises(RuntimeError, match="went away"):
        index.rebuild(breaks_off(), 40)
    assert "not finished" in index.broken
    assert Identities.open(tmp_path).through == 0
    index.rebuild(live(0, 100, 10), 40)
    assert known(index, named(*range(100))) == expected(*range(100))


def test_finding_and_adding_go_on_beside_spills_and_merges(tmp_path: Path) -> None:
    index = Identities.open(tmp_path, limit=500)
    frozen, done, failures = threading.Semaphore(0), threading.Event(), []

    def work() -> None:
        try:
            while True:
                frozen.acquire()
                if done.is_set():
                    return
                index.spill()
                index.merge()
        except BaseException as error:
            failures.append(error)
            raise

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for seq in range(1, 121):
            entered(index, 100 * seq, 100 * seq + 100)
            index.forget(named(100 * seq - 50))  # of the batch before
            if index.full and index.freeze(seq):
                frozen.release()
            sample = [*range(100, 100 * seq + 100, 37), 100 * seq + 100]
            gone = {100 * s - 50 for s in range(1, seq + 1)}
            wanted = [None if n in gone or n >= 100 * seq + 100 else (n, 2 * n) for n in sample]
            assert known(index, named(*sample)) == wanted
    finally:
        done.set()
        frozen.release()
        worker.join()
    assert failures == []
    assert index.statistics().spills > 0


@pytest.mark.parametrize("outer", ["spill", "merge"])
def test_a_spill_and_a_merge_that_meet_both_stay_in_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outer: str
) -> None:
    index = Identities.open(tmp_path)
    for seq in (1, 2, 3):
        entered(index, 10 * seq, 10 * seq + 10)
        index.freeze(seq)
        if seq < 3:
            index.spill()
    inner = iter([index.merge if outer == "spill" else index.spill])

    def meeting(file: int) -> None:
        for run in inner:
            run()
        os.fsync(file)

    monkeypatch.setattr(runs, "_fsync", meeting)
    getattr(index, outer)()
    assert files(tmp_path) == ["0000000001-0000000002.identities", "0000000003-0000000003.identities"]
    for now in (index, Identities.open(tmp_path)):
        assert (now.through, now.frozen, now.statistics().runs) == (3, False, 2)
        assert known(now, named(*range(45))) == [None] * 10 + expected(*range(10, 40)) + [None] * 5


class Life(RuleBasedStateMachine):
    """Days in the life of an index: words, spills, merges, kills, lost and damaged files; a dict knows better."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = runs.BLOCK, runs.STEP
        runs.BLOCK, runs.STEP = 16, 4  # so that few entries make many blocks
        self.folder = Path(mkdtemp())
        self.index = Identities.open(self.folder, limit=100)
        self.model: dict[int, Entry] = {}
        self.log: list[tuple[list[tuple[int, int]], list[int]]] = []

    def teardown(self) -> None:
        runs.BLOCK, runs.STEP = self.sizes
        shutil.rmtree(self.folder)

    def apply(self, seq: int, adds: list[tuple[int, int]], gone: list[int]) -> None:
        """Tell the index what batch `seq` did."""
        digest = np.array([d for _, d in adds], np.uint64)
        self.index.forget(named(*gone))
        self.index.add(named(*(n for n, _ in adds)), digest, (seq << 24) + np.arange(len(adds)))

    def restart(self) -> None:
        """What a process does on its way up."""
        self.index = Identities.open(self.folder, limit=100)
        if self.index.broken:
            self.rebuild()
        for seq in range(self.index.through + 1, len(self.log) + 1):
            self.apply(seq, *self.log[seq - 1])

    @rule(numbers=st.lists(st.integers(0, 300), unique=True, max_size=60), gone=st.data())
    def commit(self, numbers: list[int], gone: st.DataObject) -> None:
        seq = len(self.log) + 1
        forget = gone.draw(st.lists(st.sampled_from(sorted(self.model)), unique=True)) if self.model else []
        adds = [(number, seq * 1000 + number) for number in numbers]
        self.log.append((adds, forget))
        self.apply(seq, adds, forget)
        for number in forget:
            del self.model[number]
        self.model.update({number: ((seq << 24) + row, digest) for row, (number, digest) in enumerate(adds)})

    @rule()
    def freeze(self) -> None:
        self.index.freeze(len(self.log))

    @rule()
    def spill(self) -> None:
        self.index.spill()

    @rule()
    def merge(self) -> None:
        self.index.merge()
        assert not self.index.merge_due

    @rule()
    def kill(self) -> None:
        self.restart()

    @rule(size=st.floats(0, 1))
    def kill_while_writing(self, size: float) -> None:
        for path in sorted(self.folder.glob("*.identities"))[-1:]:
            content = path.read_bytes()
            (self.folder / "0000000099-0000000099.identities.new").write_bytes(content[: int(size * len(content))])
        self.restart()

    @rule()
    def kill_after_a_merge_has_its_name(self) -> None:
        before = {path: path.read_bytes() for path in self.folder.iterdir()}
        self.index.merge()
        for path, content in before.items():
            path.write_bytes(content)
        self.restart()

    @precondition(lambda self: self.index.statistics().runs)
    @rule(which=st.integers(0, 9))
    def lose_a_file(self, which: int) -> None:
        paths = sorted(self.folder.glob("*.identities"))
        paths[which % len(paths)].unlink()
        self.restart()

    @precondition(lambda self: self.index.statistics().runs)
    @rule(which=st.integers(0, 9), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
    def damage_a_file(self, which: int, place: float, bit: int, cut: bool) -> None:
        paths = sorted(self.folder.glob("*.identities"))
        path = paths[which % len(paths)]
        content = bytearray(path.read_bytes())
        at = int(place * len(content))
        content[at] ^= 1 << bit
        self.index = Identities.open(self.folder)  # let go of the file before it changes
        path.unlink()
        path.write_bytes(content[:at] if cut else content)
        self.restart()
        try:
            self.check_everything()
        except BrokenStore:  # found out in time; what must never be is a wrong answer
            self.rebuild()

    @rule()
    def rebuild(self) -> None:
        ident = named(*self.model)
        pos = np.array([p for p, _ in self.model.values()], np.int64)
        digest = np.array([d for _, d in self.model.values()], np.uint64)
        pieces = np.array_split(np.arange(len(self.model)), 3)
        self.index.rebuild(((ident[part], digest[part], pos[part]) for part in pieces), len(self.log))

    @invariant()
    def check_everything(self) -> None:
        assert known(self.index, named(*range(302))) == [self.model.get(number) for number in range(302)]


TestLife = Life.TestCase
TestLife.settings = settings(deadline=None, max_examples=60, stateful_step_count=30)
