"""Files of identities."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from storage import runs
from storage.errors import BrokenStore, Unavailable
from storage.hashing import mix
from storage.runs import ENTRY, GONE, Damaged, Probes, Run, merged, opened, written

Array = NDArray[np.void]


def entries(numbers: range, by: int = 0) -> Array:
    """Entries of events with these numbers, in order of identity."""
    out = np.zeros(len(numbers), ENTRY)
    out["ident"] = mix(np.array(numbers, np.int64))
    out["pos"] = np.array(numbers) + by
    out["digest"] = out["pos"] * 2
    return np.sort(out, order="ident")


def found(run: Run, numbers: range) -> dict[int, int]:
    """The pos of those of these events that the run knows, by number."""
    ident = mix(np.array(numbers, np.int64))
    order = np.argsort(ident)
    rows, hits = run.find(ident[order])
    return dict(zip(np.array(numbers)[order[rows]].tolist(), hits["pos"].tolist(), strict=True))


def strangers(run: Run, numbers: range) -> int:
    """How many of these events the filter lets by."""
    return len(run.may_hold(Probes(mix(np.array(numbers, np.int64)))))


def test_a_run_finds_what_it_holds_and_nothing_else(tmp_path: Path) -> None:
    run = written(tmp_path, 1, 9, entries(range(20_000)), 0)
    assert found(run, range(30_000)) == {n: n for n in range(20_000)}
    assert (run.first, run.last, run.through, run.count) == (1, 1, 9, 20_000)


def test_the_filter_knows_all_it_holds_and_turns_nearly_all_strangers_away(tmp_path: Path) -> None:
    run = written(tmp_path, 1, 9, entries(range(50_000)), 0)
    assert strangers(run, range(50_000)) == 50_000
    assert strangers(run, range(50_000, 550_000)) < 40  # 10 or so, of 500,000


def test_a_filter_asked_about_some_rows_answers_about_those(tmp_path: Path) -> None:
    run = written(tmp_path, 1, 9, entries(range(100)), 0)
    probes = Probes(mix(np.arange(200)))
    assert run.may_hold(probes, np.array([3, 50, 150, 199])).tolist() == [3, 50]


def test_a_run_may_be_empty(tmp_path: Path) -> None:
    run = written(tmp_path, 1, 9, entries(range(0)), 0)
    for now in (run, *opened(tmp_path, 0)):
        assert (now.count, now.through, found(now, range(5)), strangers(now, range(5))) == (0, 9, {}, 0)


@pytest.mark.parametrize("drop_gone", [False, True])
def test_a_merge_keeps_the_newest_word_on_each_identity(tmp_path: Path, drop_gone: bool) -> None:
    newer = entries(range(5_000, 15_000), by=100_000)
    newer["pos"][newer["pos"] < 106_000] = GONE
    old = written(tmp_path, 1, 3, entries(range(10_000)), 0)
    new = written(tmp_path, 2, 4, newer, 0)
    run = merged(tmp_path, (old, new), 0, drop_gone=drop_gone)
    expected = {n: n for n in range(5_000)} | {n: n + 100_000 for n in range(6_000, 15_000)}
    if not drop_gone:
        expected |= dict.fromkeys(range(5000, 6000), GONE)
    for now in (run, *opened(tmp_path, 0)):
        assert found(now, range(20_000)) == expected
        assert (now.first, now.last, now.through, now.count) == (1, 2, 4, len(expected))
        assert strangers(now, range(6_000, 15_000)) == 9_000


def test_identities_at_both_ends_of_their_range_are_found(tmp_path: Path) -> None:
    ident = np.array([1, 2, (1 << 32) - 1, 1 << 32, 1 << 63, (1 << 64) - 2, (1 << 64) - 1], np.uint64)
    some = np.zeros(len(ident), ENTRY)
    some["ident"] = ident
    runs_ = tuple(written(tmp_path, number, number, part, 0) for number, part in ((1, some[::2]), (2, some[1::2])))
    run = merged(tmp_path, runs_, 0, drop_gone=True)
    assert run.find(ident)[0].tolist() == run.may_hold(Probes(ident)).tolist() == list(range(len(ident)))
    assert run.find(np.array([0, 3, 1 << 62], np.uint64))[0].tolist() == []


def test_every_byte_that_changed_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "BLOCK", 16)
    path = written(tmp_path, 1, 9, entries(range(40)), 0).path
    content = path.read_bytes()
    filter_end = runs.PAGE + 32 * 5
    entries_end = filter_end + 40 * 24
    header = runs.HEADER.size + runs.CRC.size
    for at in (*range(header), *range(runs.PAGE, len(content))):
        changed = bytearray(content)
        changed[at] ^= 0x10
        path.unlink()
        path.write_bytes(changed)
        if filter_end <= at < entries_end:
            run = Run(path, 0)
            with pytest.raises(Damaged, match="block"):
                found(run, range(40))
        else:
            with pytest.raises(Damaged, match=path.name):
                Run(path, 0)


@pytest.mark.parametrize("size", [0, 10, 4095, 4096, 5000, 10_000])
def test_a_file_cut_short_is_noticed(tmp_path: Path, size: int) -> None:
    path = written(tmp_path, 1, 9, entries(range(400)), 0).path
    content = path.read_bytes()
    assert len(content) > 10_000
    path.unlink()
    path.write_bytes(content[:size])
    with pytest.raises(Damaged, match=f"{path.name} is broken: .*{size} bytes" if size < 4096 else path.name):
        Run(path, 0)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(Damaged, match="0000000001"):
        Run(tmp_path / "0000000001-0000000001.identities", 0)


def test_a_file_under_another_name_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, 1, 9, entries(range(4)), 0).path
    other = path.rename(tmp_path / "0000000001-0000000002.identities")
    with pytest.raises(Damaged, match="says of itself that it is 0000000001-0000000001"):
        Run(other, 0)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_nothing_behind_and_may_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(file: int, content: memoryview, offset: int) -> int:
        if offset > 6000:
            raise OSError(number, os.strerror(number))
        return os.pwrite(file, content[:1000], offset)

    with monkeypatch.context() as patch:
        patch.setattr(runs, "_pwrite", full)
        with pytest.raises(Unavailable, match="no room"):
            written(tmp_path, 1, 9, entries(range(1000)), 0)
    assert list(tmp_path.iterdir()) == []
    assert written(tmp_path, 1, 9, entries(range(1000)), 0).count == 1000


def test_a_disk_that_takes_little_at_a_time_gets_it_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "_pwrite", lambda file, content, offset: os.pwrite(file, content[:777], offset))
    written(tmp_path, 1, 9, entries(range(1000)), 0)
    (run,) = opened(tmp_path, 0)
    assert found(run, range(1000)) == {n: n for n in range(1000)}


def test_a_failed_sync_is_fatal_and_gives_the_file_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(file: int) -> None:
        raise OSError(errno.EIO, f"Input/output error on {file}")

    monkeypatch.setattr(runs, "_fsync", fails)
    with pytest.raises(BrokenStore, match="cannot be written"):
        written(tmp_path, 1, 9, entries(range(10)), 0)
    assert list(tmp_path.iterdir()) == []


def test_the_name_is_durable_only_after_the_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def watched(file: int) -> None:
        seen.append([path.name for path in tmp_path.iterdir()])
        os.fsync(file)

    monkeypatch.setattr(runs, "_fsync", watched)
    written(tmp_path, 1, 9, entries(range(10)), 0)
    assert seen == [["0000000001-0000000001.identities.new"], ["0000000001-0000000001.identities"]]


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    written(tmp_path, 1, 9, entries(range(10)), 0)
    assert len(opened(tmp_path, 0)) == 1
    assert (tmp_path / "notes.txt").read_text() == "mine"
