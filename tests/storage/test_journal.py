"""The journal keeps what it acknowledged, cuts what it did not, and tells the two apart."""

import errno
import fcntl
import os
import random
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import journal as module
from storage.errors import BrokenStore, TooLarge, Unavailable
from storage.journal import RECORD, SEGMENT, Journal
from tests.disks import filled, mounted, small

ROOT = Path(__file__).parents[2]
KILLS = 15


def payload(seq: int, size: int) -> bytes:
    """Bytes that no other record of the test has."""
    return random.Random(seq).randbytes(size)


def put(journal: Journal, *payloads: bytes) -> None:
    for content in payloads:
        journal.append(journal.last_seq + 1, [content])


def refusal(journal: Journal, content: bytes) -> Unavailable | None:
    """Why this record was not taken, if it was not."""
    try:
        put(journal, content)
    except Unavailable as error:
        return error
    return None


def held(journal: Journal, since: int = 0) -> list[tuple[int, bytes]]:
    return [(seq, bytes(content)) for seq, content in journal.since(since)]


def contents(folder: Path, since: int = 0) -> list[bytes]:
    """What a fresh opener of the folder finds."""
    with Journal.open(folder) as journal:
        return [content for _, content in held(journal, since)]


def written(folder: Path, *payloads: bytes, segment_bytes: int = 256 << 20) -> list[Path]:
    """A closed journal of these records; its segments."""
    with Journal.open(folder, segment_bytes=segment_bytes) as journal:
        put(journal, *payloads)
    return segments(folder)


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.journal"))


# Order, content, segments


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(0, 700), max_size=25),
    segment_bytes=st.integers(1, 1500),
    reopened=st.sets(st.integers(0, 24)),
    cuts=st.lists(st.integers(0, 700), max_size=3),
)
def test_every_record_comes_back_in_order_after_any_seq_and_any_number_of_reopenings(
    sizes: list[int], segment_bytes: int, reopened: set[int], cuts: list[int]
) -> None:
    wanted = [(seq, payload(seq, size)) for seq, size in enumerate(sizes, 1)]
    with TemporaryDirectory() as folder:
        journal = Journal.open(Path(folder), segment_bytes=segment_bytes)
        epoch = journal.epoch
        for seq, content in wanted:
            if seq in reopened:
                journal.close()
                journal = Journal.open(Path(folder), segment_bytes=segment_bytes)
            ends = sorted(min(cut, len(content)) for cut in [0, *cuts, len(content)])
            journal.append(seq, [content[a:b] for a, b in zip(ends, [*ends[1:], len(content)], strict=True)])
            assert journal.last_seq == seq
        for opened_again in (False, True):
            if opened_again:
                journal.close()
                journal = Journal.open(Path(folder))
                assert journal.recovered.cut is None
            for since in range(len(wanted) + 1):
                assert held(journal, since) == wanted[since:]
            statistics = journal.statistics()
            files = segments(Path(folder))
            assert statistics.records == statistics.last_seq == len(wanted)
            assert statistics.bytes == sum(path.stat().st_size for path in files)
            assert statistics.segments == len(files)
            assert journal.epoch == epoch
        journal.close()


def test_a_record_may_come_in_more_parts_than_one_system_call_takes(tmp_path: Path) -> None:
    parts = [bytes([n % 256]) * (n % 5) for n in range(3 * module.IOV_MAX)]
    with Journal.open(tmp_path) as journal:
        journal.append(1, parts)
        assert held(journal) == [(1, b"".join(parts))]


def test_a_record_may_be_made_of_views_of_numbers(tmp_path: Path) -> None:
    numbers = memoryview(b"\1\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0").cast("q")
    with Journal.open(tmp_path) as journal:
        journal.append(1, [numbers, b"", numbers[:0], b"end"])
        assert held(journal) == [(1, numbers.tobytes() + b"end")]


def test_a_write_that_takes_only_some_of_the_bytes_is_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = []

    def pwritev(file: int, buffers: Sequence[memoryview], offset: int) -> int:
        short.append(len(buffers))
        return os.pwritev(file, [b"".join(buffers)[:7]], offset)

    parts = [payload(n, n) for n in (3, 30, 1, 8)]
    with Journal.open(tmp_path) as journal:
        monkeypatch.setattr(module, "_pwritev", pwritev)
        journal.append(1, parts)
        assert len(short) == -(-(RECORD.size + 42) // 7)
        assert held(journal) == [(1, b"".join(parts))]


def test_a_record_must_have_the_next_seq(tmp_path: Path) -> None:
    with Journal.open(tmp_path) as journal:
        for wrong in (0, 2):
            with pytest.raises(ValueError, match=f"record {wrong} cannot follow record 0"):
                journal.append(wrong, [b"x"])
        put(journal, b"x")
        assert held(journal) == [(1, b"x")]


def test_a_record_too_large_to_be_read_again_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PAYLOAD", 10)
    with Journal.open(tmp_path) as journal:
        with pytest.raises(TooLarge, match="11 bytes, at most 10"):
            put(journal, bytes(11))
        put(journal, bytes(10))
        assert held(journal) == [(1, bytes(10))]


def test_a_reader_sees_what_was_durable_when_it_asked(tmp_path: Path) -> None:
    with Journal.open(tmp_path, segment_bytes=100) as journal:
        put(journal, b"a" * 60, b"b" * 60)
        reader = journal.since(0)
        assert next(reader)[0] == 1
        put(journal, b"c" * 10, b"d" * 60)
        assert [(seq, bytes(content)) for seq, content in reader] == [(2, b"b" * 60)]
        assert [seq for seq, _ in journal.since(1)] == [2, 3, 4]


def test_a_seq_that_the_journal_never_reached_or_no_longer_has_is_not_answered_with_silence(tmp_path: Path) -> None:
    first, *_ = written(tmp_path, b"a", b"b", b"c", segment_bytes=1)
    with Journal.open(tmp_path) as journal, pytest.raises(BrokenStore, match="ends with record 3, yet record 4"):
        journal.since(4)
    first.unlink()
    with Journal.open(tmp_path) as journal:
        assert (journal.first_seq, journal.last_seq, journal.recovered.records) == (2, 3, 2)
        with pytest.raises(BrokenStore, match="begins with record 2; record 1 was asked for"):
            journal.since(0)
        assert held(journal, 1) == [(2, b"b"), (3, b"c")]


def test_the_epoch_is_short_opaque_and_different_in_each_journal(tmp_path: Path) -> None:
    epochs = set()
    for n in range(5):
        with Journal.open(tmp_path / str(n)) as journal:
            epochs.add(journal.epoch)
            assert journal.recovered.created
            assert journal.last_seq == 0
    assert len(epochs) == 5
    assert all(len(epoch) == 8 and epoch.isalnum() for epoch in epochs)


# What is durable when


def test_a_record_is_synced_before_append_returns_and_a_segment_before_its_first_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def name(file: int) -> str:
        return Path(os.readlink(f"/proc/self/fd/{file}")).name

    def pwritev(file: int, buffers: Sequence[memoryview], offset: int) -> int:
        calls.append(f"write {name(file)}")
        return os.pwritev(file, buffers, offset)

    def fsync(file: int) -> None:
        calls.append(f"fsync {name(file)}")
        os.fsync(file)

    def fdatasync(file: int) -> None:
        calls.append(f"fdatasync {name(file)}")
        os.fdatasync(file)

    with Journal.open(tmp_path, segment_bytes=160) as journal:
        monkeypatch.setattr(module, "_pwritev", pwritev)
        monkeypatch.setattr(module, "_fsync", fsync)
        monkeypatch.setattr(module, "_fdatasync", fdatasync)
        put(journal, bytes(100))
        first, second = f"{1:020}.journal", f"{2:020}.journal"
        assert calls == [f"write {first}", f"fdatasync {first}"]
        calls.clear()
        put(journal, bytes(60))
        assert calls == [
            f"write {second}.new",
            f"fsync {second}.new",
            f"fsync {tmp_path.name}",
            f"write {second}",
            f"fdatasync {second}",
        ]
        statistics = journal.statistics()
        assert statistics.fsync_times.seconds >= statistics.fsync_seconds_max > 0
        before = statistics.fsyncs
        put(journal, b"x")
        assert journal.statistics().fsyncs == before + 1
        calls.clear()

    # The newest record may be one whose sync never came: that is made up for before anyone hears of it.
    Journal.open(tmp_path).close()
    assert calls == [f"fsync {second}", f"fsync {tmp_path.name}"]


@pytest.mark.parametrize("step", range(8))
def test_a_creation_that_was_cut_off_is_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    class Cut(BaseException):
        pass

    done = 0

    def counted() -> None:
        nonlocal done
        done += 1
        if done > step:
            raise Cut

    def pwritev(file: int, buffers: Sequence[memoryview], offset: int) -> int:
        counted()
        return os.pwritev(file, buffers, offset)

    def fsync(file: int) -> None:
        counted()
        os.fsync(file)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_pwritev", pwritev)
        patch.setattr(module, "_fsync", fsync)
        with pytest.raises(Cut):
            Journal.open(tmp_path)
    with Journal.open(tmp_path) as journal:
        put(journal, b"x")
        assert held(journal) == [(1, b"x")]
    assert not list(tmp_path.glob("*.new"))


# Torn or damaged


def test_a_file_cut_at_any_byte_of_the_last_record_loses_that_record_alone(tmp_path: Path) -> None:
    file, *_ = written(tmp_path, payload(1, 40), payload(2, 50), payload(3, 60))
    whole = file.read_bytes()
    begin = len(whole) - 60 - RECORD.size
    for end in range(begin, len(whole)):
        file.write_bytes(whole[:end])
        with Journal.open(tmp_path) as journal:
            cut = journal.recovered.cut
            assert (journal.last_seq, cut.bytes if cut else 0) == (2, end - begin)
            assert cut is None or cut.kept.read_bytes() == whole[begin:end]
            assert file.stat().st_size == begin
            put(journal, payload(4, 5))
        assert contents(tmp_path) == [payload(1, 40), payload(2, 50), payload(4, 5)]


def test_a_cut_is_durable_before_anything_is_appended_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, *_ = written(tmp_path, payload(1, 40), payload(2, 50))
    os.truncate(file, file.stat().st_size - 1)
    calls: list[str] = []

    def ftruncate(number: int, size: int) -> None:
        calls.append(f"cut at {size}")
        os.ftruncate(number, size)

    def fsync(number: int) -> None:
        calls.append(f"fsync {Path(os.readlink(f'/proc/self/fd/{number}')).name}")
        os.fsync(number)

    monkeypatch.setattr(module, "_ftruncate", ftruncate)
    monkeypatch.setattr(module, "_fsync", fsync)
    Journal.open(tmp_path).close()
    assert calls[-2:] == [f"cut at {SEGMENT.size + RECORD.size + 40}", f"fsync {file.name}"]


def test_what_is_cut_is_kept_and_named_and_looked_for_when_records_are_missing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "journal"
    file, *_ = written(folder, payload(1, 40), payload(2, 50))
    cuts = []
    for _ in range(3):  # within one second
        whole = bytearray(file.read_bytes())
        whole[-1] ^= 1
        file.write_bytes(whole)
        with Journal.open(folder) as journal:
            assert journal.recovered.cut is not None
            cuts.append(journal.recovered.cut)
            put(journal, payload(2, 50))
    assert len({cut.kept for cut in cuts}) == 3
    assert all(len(cut.kept.read_bytes()) == RECORD.size + 50 for cut in cuts)
    begin = SEGMENT.size + RECORD.size + 40
    for cut, record in zip(cuts, caplog.records, strict=True):
        said = f"{file.name}: bytes {begin} to {begin + RECORD.size + 50}, a damaged or torn record"
        assert said in record.getMessage()
        assert f"lie in {cut.kept.name}" in record.getMessage()
    with Journal.open(folder) as journal, pytest.raises(BrokenStore, match="ends with record 2, yet") as refused:
        journal.since(3)
    assert all(cut.kept.name in str(refused.value) for cut in cuts)
    assert f"candled restore BACKUP --data {tmp_path} --force" in str(refused.value)


def test_a_full_disk_cuts_nothing_that_it_cannot_keep(tmp_path: Path) -> None:
    with small(tmp_path / "disk", "1m") as disk:
        file, *_ = written(disk / "journal", payload(1, 40), payload(2, 50_000))
        os.truncate(file, file.stat().st_size - 1)
        torn = file.read_bytes()
        ballast = filled(disk)
        with pytest.raises(Unavailable, match="no space left"):
            Journal.open(disk / "journal")
        assert file.read_bytes() == torn
        assert not list(file.parent.glob("*.cut-*"))
        ballast.unlink()
        with Journal.open(disk / "journal") as journal:
            assert journal.recovered.cut is not None
            assert journal.recovered.cut.kept.read_bytes() == torn[SEGMENT.size + RECORD.size + 40 :]


def test_any_flipped_bit_is_found_cut_in_the_last_record_and_refused_before_it(tmp_path: Path) -> None:
    file, *_ = written(tmp_path, payload(1, 30), payload(2, 0), payload(3, 40), payload(4, 50))
    whole = file.read_bytes()
    last = len(whole) - 50 - RECORD.size
    offsets = [SEGMENT.size]
    for size in (30, 0):
        offsets.append(offsets[-1] + RECORD.size + size)
    refused = cut = 0
    for bit in range(len(whole) * 8):
        at = bit // 8
        flipped = bytearray(whole)
        flipped[at] ^= 1 << bit % 8
        file.write_bytes(flipped)
        if at < last:
            offset = max([0, *(o for o in offsets if o <= at)])
            with pytest.raises(BrokenStore, match=f"{file.name} is damaged at {offset}:"):
                Journal.open(tmp_path)
            assert file.read_bytes() == flipped, "a refusal must not change the file"
            refused += 1
        else:
            with Journal.open(tmp_path) as journal:
                assert journal.last_seq == 3
                found = journal.recovered.cut
                assert found is not None
                assert (found.segment, found.offset, found.bytes) == (file, last, 50 + RECORD.size)
                assert found.kept.read_bytes() == flipped[last:]
                found.kept.unlink()
            cut += 1
    assert (refused, cut) == (last * 8, (50 + RECORD.size) * 8)


def test_a_flipped_bit_in_an_earlier_segment_is_refused_when_it_is_read(tmp_path: Path) -> None:
    files = written(tmp_path, *(payload(n, 40) for n in range(1, 5)), segment_bytes=180)
    assert len(files) == 2
    whole = files[0].read_bytes()
    for at in range(len(whole)):
        flipped = bytearray(whole)
        flipped[at] ^= 1
        files[0].write_bytes(flipped)
        if at < SEGMENT.size:
            with pytest.raises(BrokenStore, match=files[0].name):
                Journal.open(tmp_path)
            continue
        offset = SEGMENT.size if at < SEGMENT.size + RECORD.size + 40 else SEGMENT.size + RECORD.size + 40
        with Journal.open(tmp_path) as journal:
            with pytest.raises(BrokenStore, match=f"{files[0].name} is damaged at {offset}"):
                held(journal)
            assert held(journal, 2) == [(3, payload(3, 40)), (4, payload(4, 40))]


def test_records_missing_from_an_earlier_segment_are_noticed(tmp_path: Path) -> None:
    files = written(tmp_path, *(payload(n, 40) for n in range(1, 7)), segment_bytes=180)
    assert len(files) == 3
    whole = files[1].read_bytes()
    for records in (1, 0):
        end = SEGMENT.size + records * (RECORD.size + 40)
        files[1].write_bytes(whole[:end])
        damage = f"{files[1].name} is damaged at {end}: it ends with record {2 + records} instead of 4"
        with Journal.open(tmp_path) as journal, pytest.raises(BrokenStore, match=damage):
            held(journal)
    files[1].unlink()
    with Journal.open(tmp_path) as journal, pytest.raises(BrokenStore, match="ends with record 2 instead of 4"):
        held(journal)


def test_a_bad_record_with_the_beginning_of_another_behind_it_was_acknowledged(tmp_path: Path) -> None:
    file, *_ = written(tmp_path, payload(1, 40), payload(2, 50), payload(3, 60))
    whole = bytearray(file.read_bytes())
    whole[SEGMENT.size + 2 * RECORD.size + 40 + 7] ^= 1  # the payload of record 2
    third = len(whole) - 60 - RECORD.size
    for end in range(third + 1, len(whole)):
        file.write_bytes(whole[:end])
        with pytest.raises(BrokenStore, match=f"record 2: .* {end - third} bytes follow it"):
            Journal.open(tmp_path)
    whole[SEGMENT.size + RECORD.size + 40] ^= 1  # now its header too: only the header of record 3 can tell
    file.write_bytes(whole[: third + RECORD.size])
    with pytest.raises(BrokenStore, match=f"record 3 follows it at {third}"):
        Journal.open(tmp_path)


def test_a_record_behind_damage_is_found_wherever_the_search_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, *_ = written(tmp_path, payload(1, 40), payload(2, 50), payload(3, 1))
    whole = bytearray(file.read_bytes())
    whole[SEGMENT.size] ^= 1  # the magic of record 1
    file.write_bytes(whole)
    for step in range(1, 120):
        monkeypatch.setattr(module, "SEARCH_BYTES", step)
        with pytest.raises(BrokenStore, match=f"record 2 follows it at {SEGMENT.size + RECORD.size + 40}"):
            Journal.open(tmp_path)


@settings(deadline=None)
@given(
    before=st.lists(st.integers(0, 300), max_size=4),
    size=st.integers(0, 3000),
    sector=st.sampled_from([1, 16, 512]),
    kept=st.randoms(use_true_random=False),
    left=st.sampled_from(["zeros", "noise", "another journal", "an earlier attempt"]),
)
def test_whatever_a_power_cut_leaves_of_the_record_being_written_all_before_it_is_there(
    before: list[int], size: int, sector: int, kept: random.Random, left: str
) -> None:
    """Any subset of the sectors has reached the disk, and the file may have any length up to the record's end."""
    with TemporaryDirectory() as place:
        folder = Path(place, "journal")
        whole = [payload(n, size) for n, size in enumerate(before, 1)]
        file, *_ = written(folder, *whole)
        begin = file.stat().st_size
        other, *_ = written(Path(place, "other"), *(payload(n, 30) for n in range(1, 60)))
        # The payload itself holds a copy of a journal: it must not pass for records behind the torn one.
        last = (file.read_bytes() + other.read_bytes() + payload(99, size))[:size]
        written(folder, last)
        image = bytearray(file.read_bytes())
        stale = {
            "zeros": bytes(size + RECORD.size),
            "noise": payload(7, size + RECORD.size),
            "another journal": (other.read_bytes() * 3)[: size + RECORD.size],
            "an earlier attempt": payload(8, RECORD.size) + last[::-1],
        }[left]
        for at in range(begin, len(image), sector):
            if kept.random() < 0.5:
                image[at : at + sector] = stale[at - begin : at - begin + sector]
        file.write_bytes(image[: kept.randint(begin, len(image))])
        found = contents(folder)
        assert found in (whole, [*whole, last])
        assert contents(folder) == found


def test_a_stale_segment_of_another_journal_is_refused(tmp_path: Path) -> None:
    mine, *_ = written(tmp_path / "mine", b"a")
    other, *_ = written(tmp_path / "other", b"b")
    mine.write_bytes(other.read_bytes())
    with pytest.raises(BrokenStore, match="belongs to another journal"):
        Journal.open(tmp_path / "mine")


def test_a_segment_under_another_name_is_refused(tmp_path: Path) -> None:
    first, second = written(tmp_path, b"a", b"b", segment_bytes=1)
    second.rename(tmp_path / f"{7:020}.journal")
    with pytest.raises(BrokenStore, match="begins with record 2, not with the one it is named after"):
        Journal.open(tmp_path)
    assert first.exists()


def test_a_record_in_the_place_of_another_is_refused(tmp_path: Path) -> None:
    file, *_ = written(tmp_path, b"one", b"two", b"six")
    whole = file.read_bytes()
    size = RECORD.size + 3
    file.write_bytes(whole[: SEGMENT.size] + whole[SEGMENT.size + size :])
    with pytest.raises(BrokenStore, match=f"damaged at {SEGMENT.size}: record 1: record 2 stands in its place"):
        Journal.open(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, r"journal\.json is missing"),
        ("{", r"journal\.json is damaged"),
        ('{"format":1,"epoch":"a","identity":"00"}', "identity of 32 hex digits"),
        ('{"format":1,"epoch":"","identity":"00112233445566778899aabbccddeeff"}', "needs an epoch"),
        ('{"format":2,"epoch":"a","identity":"00"}', "says format 2; this candled reads 1"),
    ],
    ids=["gone", "cut", "short identity", "no epoch", "newer format"],
)
def test_a_journal_without_its_description_is_refused(tmp_path: Path, content: str | None, said: str) -> None:
    written(tmp_path, b"a")
    if content is None:
        (tmp_path / "journal.json").unlink()
    else:
        (tmp_path / "journal.json").write_text(content)
    with pytest.raises(BrokenStore, match=said):
        Journal.open(tmp_path)


def test_a_journal_without_its_segments_does_not_begin_anew(tmp_path: Path) -> None:
    file, *_ = written(tmp_path, b"a")
    os.truncate(file, SEGMENT.size - 1)
    with pytest.raises(BrokenStore, match=f"{file.name} is damaged at 0"):
        Journal.open(tmp_path)
    file.unlink()
    with pytest.raises(BrokenStore, match="not one segment"):
        Journal.open(tmp_path)


def test_earlier_segments_are_not_read_for_what_comes_after_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, *(payload(n, 1000) for n in range(1, 101)), segment_bytes=10_000)
    read = 0

    def pread(file: int, size: int, offset: int) -> bytes:
        nonlocal read
        found = os.pread(file, size, offset)
        read += len(found)
        return found

    with Journal.open(tmp_path) as journal:
        monkeypatch.setattr(module, "_pread", pread)
        assert len(journal.recovered.segments) > 10
        assert journal.recovered.checked_bytes < 10_100
        assert [seq for seq, _ in journal.since(100)] == []
        assert read < 10 * RECORD.size, "records before it are passed over by their headers"
        assert [seq for seq, _ in journal.since(95)] == [96, 97, 98, 99, 100]
        assert read < 7_000


# One process only


def test_a_second_opener_is_told_who_is_in_its_way(tmp_path: Path) -> None:
    with Journal.open(tmp_path) as journal:
        with pytest.raises(BrokenStore, match=f"another candled uses {tmp_path}.*--data"):
            Journal.open(tmp_path)
        opened = subprocess.run(
            [sys.executable, "-c", OPENER, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert opened.returncode == 1
        assert f"BrokenStore: journal: another candled uses {tmp_path}" in opened.stderr
        put(journal, b"x")
    assert contents(tmp_path) == [b"x"]


OPENER = "import sys, pathlib, storage.journal; storage.journal.Journal.open(pathlib.Path(sys.argv[1]))"


def test_a_journal_that_could_not_be_opened_leaves_no_lock_behind(tmp_path: Path) -> None:
    file, *_ = written(tmp_path, b"a")
    whole = file.read_bytes()
    file.write_bytes(b"?" + whole[1:])
    with pytest.raises(BrokenStore, match="damaged at 0"):
        Journal.open(tmp_path)
    file.write_bytes(whole)
    assert contents(tmp_path) == [b"a"]


def test_a_closed_journal_takes_nothing_more(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path)
    journal.close()
    journal.close()
    with pytest.raises(BrokenStore, match="is closed"):
        journal.append(1, [b"x"])


# A full disk


@contextmanager
def small_disk(place: Path, kind: str) -> Iterator[Path]:
    if kind == "tmpfs":
        with small(place / "disk", "1m") as disk:
            yield disk
    else:
        with ext4(place, place / "disk.img", megabytes=4) as disk:
            yield disk


@contextmanager
def ext4(place: Path, image: Path, megabytes: int) -> Iterator[Path]:
    with image.open("wb") as file:
        file.truncate(megabytes << 20)
    try:
        subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", str(image)], capture_output=True, check=True)
    except (FileNotFoundError, PermissionError):
        pytest.skip("no mkfs.ext4 here")
    with mounted(place / "disk", "-o", "loop,errors=continue", str(image)) as disk:
        yield disk


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
@pytest.mark.parametrize("segment_bytes", [256 << 20, 150_000], ids=["one segment", "many segments"])
def test_a_full_disk_refuses_and_takes_more_once_there_is_room(tmp_path: Path, kind: str, segment_bytes: int) -> None:
    with small_disk(tmp_path, kind) as disk:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(200_000))
        with Journal.open(disk / "journal", segment_bytes=segment_bytes) as journal:
            size, refused = 100_000, 0
            acknowledged: list[bytes] = []
            while size:  # ever smaller, until not even one byte has room
                content = payload(len(acknowledged), size)
                length = segments(disk / "journal")[-1].stat().st_size
                error = refusal(journal, content)
                if error is None:
                    acknowledged.append(content)
                    continue
                assert error.retry_after == 5
                assert str(error) == f"journal: no space left on {disk / 'journal'}"
                assert isinstance(error.__cause__, OSError)
                assert error.__cause__.errno == errno.ENOSPC
                assert segments(disk / "journal")[-1].stat().st_size in (length, SEGMENT.size)
                refused += 1
                size //= 2
            assert refused == journal.statistics().refused == 17
            assert not list((disk / "journal").glob("*.new"))
            assert [content for _, content in held(journal)] == acknowledged

        # A start on the full disk finds everything too, and serves.
        with Journal.open(disk / "journal", segment_bytes=segment_bytes) as journal:
            assert journal.recovered.cut is None
            with pytest.raises(Unavailable):
                put(journal, payload(0, 100_000))
            ballast.unlink()
            put(journal, payload(77, 100_000))
            assert [content for _, content in held(journal)] == [*acknowledged, payload(77, 100_000)]
        assert contents(disk / "journal") == [*acknowledged, payload(77, 100_000)]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_write_that_ends_in_a_full_disk_leaves_nothing_of_it_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    fell: list[int] = []

    def pwritev(file: int, buffers: Sequence[memoryview], offset: int) -> int:
        if fell:
            raise OSError(number, os.strerror(number))
        fell.append(offset)
        return os.pwritev(file, [b"".join(buffers)[:-1]], offset)

    with Journal.open(tmp_path) as journal:
        put(journal, b"first")
        with monkeypatch.context() as patch:
            patch.setattr(module, "_pwritev", pwritev)
            with pytest.raises(Unavailable):
                put(journal, payload(2, 5000))
        assert fell == [SEGMENT.size + RECORD.size + 5]
        assert segments(tmp_path)[0].stat().st_size == fell[0]
        put(journal, b"short")
        assert held(journal) == [(1, b"first"), (2, b"short")]
    assert contents(tmp_path) == [b"first", b"short"]


# A disk that fails


@pytest.mark.parametrize("call", ["_pwritev", "_fdatasync"])
def test_after_a_failed_write_or_sync_nothing_is_taken_until_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    fell = []

    def failing(file: int, *_: object) -> int:
        fell.append(file)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with Journal.open(tmp_path) as journal:
        put(journal, b"first")
        with monkeypatch.context() as patch:
            patch.setattr(module, call, failing)
            with pytest.raises(BrokenStore, match=r"record 2 at \d+ failed: Input/output error"):
                put(journal, b"lost")
        assert len(fell) == 1
        for _ in range(2):  # the disk works again, but who knows what it holds
            with pytest.raises(BrokenStore, match="Input/output error"):
                journal.append(2, [b"again"])
        assert journal.statistics().broken
        assert (journal.last_seq, held(journal)) == (1, [(1, b"first")])
    # A record that was never acknowledged may still be there, whole.
    assert contents(tmp_path) == ([b"first"] if call == "_pwritev" else [b"first", b"lost"])


def test_a_full_disk_told_by_the_sync_alone_is_fatal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Journal.open(tmp_path) as journal:
        monkeypatch.setattr(module, "_fdatasync", failing)
        with pytest.raises(BrokenStore, match="syncing record 1"):
            put(journal, b"x")


@pytest.mark.parametrize("call", ["_ftruncate", "_fsync"])
def test_a_cut_back_that_fails_is_fatal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def failing(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with Journal.open(tmp_path) as journal:
        with monkeypatch.context() as patch:
            patch.setattr(module, "_pwritev", full)
            patch.setattr(module, call, failing)
            with pytest.raises(BrokenStore, match="cutting back"):
                put(journal, b"x")
        with pytest.raises(BrokenStore, match="cutting back"):
            put(journal, b"x")


def test_a_new_segment_that_cannot_be_synced_is_fatal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with Journal.open(tmp_path, segment_bytes=1) as journal:
        put(journal, b"first")
        with monkeypatch.context() as patch:
            patch.setattr(module, "_fsync", failing)
            with pytest.raises(BrokenStore, match="beginning a segment"):
                put(journal, b"second")
        with pytest.raises(BrokenStore, match="beginning a segment"):
            put(journal, b"second")
    assert contents(tmp_path) == [b"first"]


def test_an_append_broken_off_by_anything_else_is_fatal_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    with Journal.open(tmp_path) as journal:
        with monkeypatch.context() as patch:
            patch.setattr(module, "_pwritev", interrupted)
            with pytest.raises(KeyboardInterrupt):
                put(journal, b"x")
        with pytest.raises(BrokenStore, match="record 1 was broken off"):
            put(journal, b"x")


def limit_device(device: str, size: int) -> None:
    """Let a loop device fail everything beyond this many bytes; 0 heals it."""
    get_status, set_status, sizelimit = 0x4C05, 0x4C04, 32  # LOOP_GET_STATUS64, LOOP_SET_STATUS64, a field's offset
    with open(device, "rb") as file:
        status = bytearray(fcntl.ioctl(file, get_status, bytes(232)))
        struct.pack_into("<Q", status, sizelimit, size)
        fcntl.ioctl(file, set_status, bytes(status))


def test_a_device_that_really_fails_costs_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    acknowledged = [payload(n, 100_000) for n in range(1, 6)]
    with ext4(tmp_path, image, megabytes=16) as disk:
        device = next(line.split()[0] for line in Path("/proc/mounts").read_text().splitlines() if f" {disk} " in line)
        with Journal.open(disk / "journal") as journal:
            put(journal, *acknowledged)
            limit_device(device, 1 << 19)
            with pytest.raises(BrokenStore, match=r"syncing record 6 at \d+ failed: Input/output error"):
                put(journal, payload(6, 100_000))
            limit_device(device, 0)
            with pytest.raises(BrokenStore, match="syncing record 6"):
                put(journal, payload(6, 100_000))
        # The kernel would still show record 6, although it never reached the device.
        assert segments(disk / "journal")[0].read_bytes().endswith(payload(6, 100_000))
        told = contents(disk / "journal")
        assert told == acknowledged
        with Journal.open(disk / "journal") as journal:
            put(journal, payload(7, 50_000))
    (tmp_path / "disk").rmdir()
    with mounted(tmp_path / "disk", "-o", "loop", str(image)) as disk:  # with nothing left in memory
        assert contents(disk / "journal") == [*told, payload(7, 50_000)]


# kill -9

APPENDER = """
import os, random, sys
from pathlib import Path
from storage.journal import Journal

journal = Journal.open(Path(sys.argv[1]), segment_bytes=8 << 20)
while True:
    seq = journal.last_seq + 1
    size = random.choice((1_000, 40_000, 400_000, 3_000_000))
    payload = random.Random(seq).randbytes(size)
    os.write(1, b"begin %d %d\\n" % (seq, size))
    journal.append(seq, [payload])
    os.write(1, b"done %d %d\\n" % (seq, size))
"""


def test_a_killed_process_loses_nothing_it_acknowledged(tmp_path: Path) -> None:
    chance = random.Random()
    acknowledged: dict[int, int] = {}
    kills = inside = torn = kept = 0
    while kills < KILLS or inside < KILLS // 5:
        kills += 1
        child = subprocess.Popen(
            [sys.executable, "-c", APPENDER, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, bufsize=0
        )
        assert child.stdout is not None
        lines: list[bytes] = []
        while len(lines) < chance.randrange(1, 20) or not lines[-1].startswith(b"begin"):
            lines.append(child.stdout.readline())
            assert lines[-1], "the child ended by itself"
        time.sleep(chance.choice((0, 0.0003, 0.001, 0.003)))  # not waiting for anything: any instant will do
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.read().splitlines()
        assert child.wait() == -signal.SIGKILL
        child.stdout.close()
        for line in lines:
            word, told, size = line.split()
            if word == b"done":
                acknowledged[int(told)] = int(size)
        last = lines[-1].split()
        inside += last[0] == b"begin"
        with Journal.open(tmp_path, segment_bytes=8 << 20) as journal:
            torn += journal.recovered.cut is not None
            kept += journal.last_seq > len(acknowledged)
            assert journal.last_seq in (len(acknowledged), len(acknowledged) + 1)
            if journal.last_seq > len(acknowledged):
                assert last[0] == b"begin"
                acknowledged[int(last[1])] = int(last[2])  # whole, though nobody was told
            if journal.recovered.cut is not None:
                assert last[0] == b"begin"
            for seq, content in journal.since(0):
                assert len(content) == acknowledged[seq]
                assert content[:1000] == payload(seq, acknowledged[seq])[:1000]
            assert journal.last_seq == len(acknowledged)
    print(f"{kills} kills, {inside} inside an append: {torn} left half a record, {kept} a whole one")
    assert len(acknowledged) > KILLS


# Letting go


@settings(deadline=None, max_examples=60)
@given(
    steps=st.lists(
        st.one_of(st.just("rotate"), st.just("reopen"), st.integers(0, 300), st.tuples(st.integers(0, 30))), max_size=30
    ),
    segment_bytes=st.integers(100, 1500),
)
def test_what_is_trimmed_is_gone_in_whole_segments_and_all_else_stays(
    steps: list[str | int | tuple[int]], segment_bytes: int
) -> None:
    wanted: list[tuple[int, bytes]] = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        journal = Journal.open(folder, segment_bytes=segment_bytes)
        for step in steps:
            match step:
                case "rotate":
                    assert journal.rotate() == len(wanted)
                    assert int(segments(folder)[-1].stem) == len(wanted) + 1
                case "reopen":
                    journal.close()
                    journal = Journal.open(folder, segment_bytes=segment_bytes)
                case int():
                    wanted.append((len(wanted) + 1, payload(len(wanted), step)))
                    journal.append(*wanted[-1][:1], [wanted[-1][1]])
                case (seq,):
                    before = sum(path.stat().st_size for path in segments(folder))
                    freed = journal.trim(seq)
                    assert freed == before - sum(path.stat().st_size for path in segments(folder))
                    kept = [int(path.stem) for path in segments(folder)]
                    assert journal.first_seq == kept[0] <= max(seq, journal.last_seq) + 1
                    # The first segment is kept because it is the last, or holds something newer.
                    assert len(kept) == 1 or kept[1] > seq + 1
            first = journal.first_seq
            assert held(journal, first - 1) == wanted[first - 1 :]
            statistics = journal.statistics()
            assert statistics.bytes == sum(path.stat().st_size for path in segments(folder))
            assert (statistics.records, statistics.first_seq) == (len(wanted) - first + 1, first)
        journal.close()


def test_a_rotated_and_trimmed_journal_holds_nothing_and_goes_on(tmp_path: Path) -> None:
    with Journal.open(tmp_path) as journal:
        put(journal, b"one", b"two")
        assert journal.rotate() == 2
        assert journal.trim(1) == 0
        assert journal.trim(2) > 0
        assert (journal.first_seq, journal.last_seq, held(journal, 2)) == (3, 2, [])
        assert journal.rotate() == 2
        assert len(segments(tmp_path)) == 1
    with Journal.open(tmp_path) as journal:
        assert (journal.first_seq, journal.last_seq) == (3, 2)
        put(journal, b"three")
        assert held(journal, 2) == [(3, b"three")]
        with pytest.raises(BrokenStore, match="begins with record 3; record 1 was asked for"):
            journal.since(0)


def test_a_trim_cut_off_anywhere_leaves_no_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unlink = Path.unlink
    for last in range(1, 5):
        folder = tmp_path / str(last)
        removed: list[Path] = []

        def cut_off(path: Path, removed: list[Path] = removed, last: int = last) -> None:
            if len(removed) == last:
                raise OSError(errno.EACCES, "not allowed")
            unlink(path)
            removed.append(path)

        journal = Journal.open(folder, segment_bytes=1)
        put(journal, *(payload(seq, 20) for seq in range(1, 6)))
        monkeypatch.setattr(Path, "unlink", cut_off)
        with pytest.raises(Unavailable, match="cannot be removed: not allowed") if last < 4 else nullcontext():
            journal.trim(4)
        monkeypatch.setattr(Path, "unlink", unlink)
        assert [int(path.stem) for path in removed] == list(range(1, last + 1))
        journal.close()
        with Journal.open(folder) as journal:
            assert [seq for seq, _ in held(journal, journal.first_seq - 1)] == list(range(last + 1, 6))


def test_a_new_epoch_is_there_at_the_next_opening_and_the_records_are_as_they_were(tmp_path: Path) -> None:
    with Journal.open(tmp_path) as journal:
        put(journal, b"one")
        before = journal.epoch
        journal.renew_epoch()
        after = journal.epoch
        assert before != after
        put(journal, b"two")
    with Journal.open(tmp_path) as journal:
        assert journal.epoch == after
        assert held(journal) == [(1, b"one"), (2, b"two")]
