"""A backup holds what there was at its seq, changes nothing that an earlier one holds, and comes back whole or not."""

import errno
import os
import random
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage import answers, backup, keys, parquet, restore, sealed
from storage.backup import Manifest, Source, Tally
from storage.commits import ROW_BITS, Answer, Commit
from storage.errors import BrokenStore, Conflict, Unavailable
from storage.journal import RECORD, SEGMENT, Journal
from storage.state import State
from tests.storage.test_ledger import batch

NOW = 1_700_000_000.0
BARS = "archive/spot/1m/2026-11-14/1-0.parquet"


class Data:
    """A data directory that is open."""

    def __init__(self, path: Path, files: ExitStack) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.journal = files.enter_context(Journal.open(path / "journal"))
        self.state = files.enter_context(State.open(path / "state.db"))
        self.answers = files.enter_context(answers.opened(path / "answers.db"))
        self.named: dict[str, int | None] = {}

    @property
    def source(self) -> Source:
        return Source(self.path, self.journal, self.state, self.answers, self.named, "1.2.3")

    def append(self, size: int = 1000) -> None:
        seq = self.journal.last_seq + 1
        self.journal.append(seq, [random.Random(seq).randbytes(size)])

    def seal(self) -> Path:
        """A sealed file of a batch."""
        events = batch(["market", "price"], [{"market": n, "price": n} for n in range(1000)], 1 << ROW_BITS)
        nothing = np.zeros(0, np.uint64)
        file = sealed.write(self.path / "raw", 1, 1, [Commit(1, events, (), nothing, ())], NOW, lambda: None)
        return self.path / "raw" / file.file

    def archive(self, path: str = BARS, rows: int = 1000, start: int = 0) -> Path:
        """A Parquet file such as the archive has."""
        file = self.path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        table = pa.table({"t": range(start, start + rows)})
        pq.write_table(table, file, compression="none", use_dictionary=False, write_page_checksum=True)
        return file


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Data]:
    """One with three batches, a key, an answer and a file in the archive."""
    with ExitStack() as files:
        found = Data(tmp_path / "data", files)
        for _ in range(3):
            found.append()
        keys.create(found.state, "admin", "me")
        answers.put(found.answers, [Answer("key", int(NOW), b"told", b"asked")], NOW)
        found.archive()
        yield found


def write(data: Data, target: Path, pause: object = None) -> tuple[Manifest, Tally]:
    tally = Tally()
    made = backup.write(data.source, target, NOW, tally, pause if callable(pause) else lambda: None)
    return made, tally


def restored(target: Path, data: Path, *, force: bool = False) -> restore.Restored:
    manifest = backup.read(target)
    restore.verify(target, manifest, lambda _: None)
    return restore.restore(target, manifest, data, lambda _: None, force=force)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def records(folder: Path) -> list[bytes]:
    with Journal.open(folder / "journal") as journal:
        return [bytes(record) for _, record in journal.since(journal.first_seq - 1)]


def test_what_is_restored_is_what_there_was_at_a_new_epoch(data: Data, tmp_path: Path) -> None:
    expected = [bytes(record) for _, record in data.journal.since(0)]
    made, tally = write(data, tmp_path / "backup")
    data.append()  # not in it
    found = restored(tmp_path / "backup", tmp_path / "new")
    assert (made.seq, made.epoch, made.missing) == (3, data.journal.epoch, [])
    assert found.before == f"{data.journal.epoch}.3"
    assert found.cursor.endswith(".3")
    assert found.cursor != found.before
    assert records(tmp_path / "new") == expected
    assert (tmp_path / "new" / BARS).read_bytes() == (data.path / BARS).read_bytes()
    with State.open(tmp_path / "new" / "state.db") as state:
        assert [key.name for key in keys.listed(state)] == ["me"]
    with answers.opened(tmp_path / "new" / "answers.db") as told:
        assert answers.find(told, "key") == Answer("key", int(NOW), b"told", b"asked")
    assert (tally.copied_files, tally.kept_files, tally.files) == (6, 0, 6)
    assert tally.copied_bytes == tally.bytes == made.bytes


def test_what_is_committed_meanwhile_is_in_all_parts_of_a_backup_or_in_none(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the daemon does it: a market, its first event, the answer; here between any two steps of the backup."""

    def commit() -> None:
        seq = data.journal.last_seq + 1
        keys.create(data.state, "read", f"{seq}")
        data.append()
        answers.put(data.answers, [Answer(f"{seq}", int(NOW), b"told", b"asked")], NOW)

    def beside(work: Callable[..., object]) -> Callable[..., object]:
        def both(*arguments: object) -> object:
            commit()
            found = work(*arguments)
            commit()
            return found

        return both

    for owner, name in ((State, "backup"), (Journal, "rotate"), (Journal, "segments"), (backup, "copied")):
        monkeypatch.setattr(owner, name, beside(getattr(owner, name)))
    made, _ = write(data, tmp_path / "backup")
    monkeypatch.undo()
    assert 3 < made.seq < data.journal.last_seq
    restored(tmp_path / "backup", tmp_path / "new")
    assert len(records(tmp_path / "new")) == made.seq
    with State.open(tmp_path / "new" / "state.db") as state:
        assert {key.name for key in keys.listed(state)} >= {f"{seq}" for seq in range(4, made.seq + 1)}
    with answers.opened(tmp_path / "new" / "answers.db") as told:
        assert answers.find(told, "4") is not None
        assert all(answers.find(told, f"{seq}") is None for seq in range(made.seq + 1, data.journal.last_seq + 1))


def test_nobody_else_can_read_a_backup_or_what_is_restored(data: Data, tmp_path: Path) -> None:
    write(data, tmp_path / "some" / "backup")
    restored(tmp_path / "some" / "backup", tmp_path / "new")
    for folder in (tmp_path / "some" / "backup", tmp_path / "new"):
        for path in (folder, *folder.rglob("*")):
            if path.name not in ("lock", "journal.json"):  # the journal makes these itself
                assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_second_backup_copies_only_what_is_new(data: Data, tmp_path: Path) -> None:
    first, _ = write(data, tmp_path / "backup")
    again, tally = write(data, tmp_path / "backup")
    assert (tally.copied_files, tally.copied_bytes, tally.kept_files) == (0, 0, 6)
    assert again.files == first.files
    data.append(5000)
    added = data.archive("archive/spot/1m/2026-11-15/1-0.parquet")
    inodes = {path: (tmp_path / "backup" / path).stat().st_ino for path in content(tmp_path / "backup")}
    _, tally = write(data, tmp_path / "backup")
    # Of the journal, the segment that has the new batch and the one after it.
    assert tally.copied_bytes == added.stat().st_size + (SEGMENT.size + RECORD.size + 5000) + SEGMENT.size
    assert tally.copied_files == 3
    for path, inode in inodes.items():
        kept = tmp_path / "backup" / path
        assert not kept.exists() or path == backup.MANIFEST or kept.stat().st_ino == inode


def test_what_no_backup_names_any_more_is_removed_and_nothing_else(data: Data, tmp_path: Path) -> None:
    target = tmp_path / "backup"
    data.archive("archive/spot/1m/2026-11-13/1-0.parquet")
    write(data, target)
    (target / "readme.txt").write_text("mine")
    old = data.path / "archive/spot/1m/2026-11-13/1-0.parquet"
    old.unlink()
    made, _ = write(data, target)
    assert {*content(target)} == {entry.stored for entry in made.files} | {backup.MANIFEST, backup.LOCK, "readme.txt"}
    assert not (target / "archive/spot/1m/2026-11-13").exists()


def test_one_that_is_cut_off_leaves_the_older_one_whole_and_need_not_copy_again(data: Data, tmp_path: Path) -> None:
    write(data, tmp_path / "backup")
    before = content(tmp_path / "backup")
    data.archive("archive/spot/1m/2026-11-15/1-0.parquet", rows=300_000)
    data.append()
    made = None
    cuts = steps = 0
    half: set[str] = set()

    def pause() -> None:
        nonlocal steps
        steps += 1
        if steps > cuts:
            half.update(path.name for path in target.rglob("*.new"))
            raise CutError

    while made is None:
        target, steps = tmp_path / f"{cuts}", 0
        shutil.copytree(tmp_path / "backup", target)
        try:
            made, _ = write(data, target, pause)
        except CutError:
            cuts += 1
            assert before.items() <= content(target).items()
            assert records_of(target, target.with_name(f"{target.name}-old")) == 3
            copied = {path for path in content(target) if path not in before and not path.endswith(".new")}
            _, tally = write(data, target)
            assert tally.kept_files == 5 + len(copied)
        assert records_of(target, target.with_name(f"{target.name}-new")) == 4
    assert cuts > 15
    assert {name.partition(".")[0] for name in half} >= {"1-0", "state", "answers", "00000000000000000004"}


def test_a_failure_at_any_sync_leaves_a_whole_backup(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(data, tmp_path / "backup")
    older = backup.read(tmp_path / "backup")
    data.append()
    data.archive("archive/spot/1m/2026-11-15/1-0.parquet")
    (data.path / BARS).unlink()
    seen: list[int] = []
    made = None
    while made is None:
        target, left = tmp_path / f"{len(seen)}", len(seen)

        def fsync(file: int) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise CutError
            os.fsync(file)

        shutil.copytree(tmp_path / "backup", target)
        with monkeypatch.context() as patch:
            patch.setattr(backup, "_fsync", fsync)
            try:
                made, _ = write(data, target)
            except CutError:
                seen.append(backup.read(target).seq)
        restore.verify(target, backup.read(target), lambda _: None)
        write(data, target)
        assert backup.read(target).seq == 4
    assert seen == sorted(seen)
    assert {*seen} == {older.seq, 4}  # the last ones had the new manifest in place
    assert len(seen) > 10


class CutError(Exception):
    """Ends a backup."""


def records_of(target: Path, data: Path) -> int:
    restored(target, data)
    return len(records(data))


def test_a_full_disk_says_so_and_what_was_copied_stays(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data.archive("archive/spot/1m/2026-11-15/1-0.parquet")
    full = 0

    def fsync(file: int) -> None:
        nonlocal full
        full += 1
        if full == 9:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(file)

    with monkeypatch.context() as patch:
        patch.setattr(backup, "_fsync", fsync)
        with pytest.raises(Unavailable, match=r"no space left after .* bytes in 6 files; make room") as raised:
            write(data, tmp_path / "backup")
    assert str(tmp_path / "backup") in str(raised.value)
    assert not list((tmp_path / "backup").rglob("*.new"))
    with pytest.raises(Unavailable, match="no backup into it was ever completed"):
        backup.read(tmp_path / "backup")
    _, tally = write(data, tmp_path / "backup")
    assert tally.kept_files == 4  # all but the snapshots of SQLite files


def test_a_disk_that_does_not_keep_what_is_written_is_named(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evict(file: int) -> None:
        os.pwrite(file, b"\xff", 20)

    monkeypatch.setattr(backup, "_evict", evict)
    with pytest.raises(BrokenStore, match="do not trust this disk"):
        write(data, tmp_path / "backup")
    assert not (tmp_path / "backup" / backup.MANIFEST).exists()


def test_a_folder_of_something_else_is_left_as_it_is(data: Data, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    (tmp_path / "file").write_bytes(b"")
    for name, said in [
        ("photos", "files that are no backup"),
        ("file", "expected a directory, found a file"),
        ("data", "inside the data directory"),
        ("data/backup", "inside the data directory"),
    ]:
        with pytest.raises(Conflict, match=said):
            write(data, tmp_path / name)
    assert content(tmp_path / "photos") == {"cat.jpg": b"cat"}
    assert not (data.path / "backup").exists()


def test_the_backups_of_another_daemon_are_left_as_they_are(data: Data, tmp_path: Path) -> None:
    write(data, tmp_path / "backup")
    before = content(tmp_path / "backup")
    with ExitStack() as files, pytest.raises(Conflict, match="belongs to another candled"):
        write(Data(tmp_path / "other", files), tmp_path / "backup")
    assert content(tmp_path / "backup") == before


def test_two_backups_into_one_folder_do_not_meet(data: Data, tmp_path: Path) -> None:
    def pause() -> None:
        with pytest.raises(Conflict, match="in use by another backup or a restore"):
            write(data, tmp_path / "backup")

    write(data, tmp_path / "backup", pause)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to_is_named(data: Data, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(Unavailable, match=r"Permission denied.*user \d+, as whom candled runs"):
        write(data, tmp_path / "closed" / "backup")


@pytest.mark.parametrize("kind", ["bars", "events"])
def test_what_the_data_directory_has_lost_stays_in_the_backup(data: Data, tmp_path: Path, kind: str) -> None:
    target, file = tmp_path / "backup", data.path / BARS if kind == "bars" else data.seal()
    path = str(file.relative_to(data.path))
    data.named = {path: parquet.footer_sum(file) if kind == "bars" else None}
    whole = file.read_bytes()
    write(data, target)
    for harm in ("missing", "cut", "body", "footer"):
        file.unlink(missing_ok=True)
        if harm != "missing":
            spot = 500 if harm == "body" else len(whole) - 30
            flipped = whole[:spot] + bytes([whole[spot] ^ 1]) + whole[spot + 1 :]
            file.write_bytes(whole[:-100] if harm == "cut" else flipped)
        made, _ = write(data, target)
        assert made.missing == [], harm
        restored(target, tmp_path / harm)
        assert (tmp_path / harm / path).read_bytes() == whole, harm


@pytest.mark.parametrize("kind", ["bars", "events"])
@pytest.mark.parametrize("harm", ["missing", "damaged"])
def test_what_nobody_has_any_more_is_said_and_the_rest_is_backed_up(
    data: Data, tmp_path: Path, harm: str, kind: str
) -> None:
    file = data.path / BARS if kind == "bars" else data.seal()
    path = str(file.relative_to(data.path))
    data.named = {path: parquet.footer_sum(file)}
    if harm == "missing":
        file.unlink()
    else:
        said = bytearray(file.read_bytes())
        said[500] ^= 1
        file.write_bytes(said)
    made, tally = write(data, tmp_path / "backup")
    (missing,) = made.missing
    assert missing.startswith(f"{path}: it")
    assert restored(tmp_path / "backup", tmp_path / "new").missing == [missing]
    assert not (tmp_path / "new" / path).exists()
    assert tally.copied_bytes == tally.bytes == made.bytes


def test_a_journal_that_is_damaged_is_not_backed_up(data: Data, tmp_path: Path) -> None:
    (segment,) = data.journal.segments()
    with segment.path.open("r+b") as file:
        file.seek(100)
        file.write(b"\0\0\0\0")
    with pytest.raises(BrokenStore, match="is damaged at"):
        write(data, tmp_path / "backup")


@pytest.mark.parametrize("harm", ["missing", "flipped", "cut"])
def test_every_harm_to_a_backup_is_named_and_nothing_is_restored(data: Data, tmp_path: Path, harm: str) -> None:
    target = tmp_path / "backup"
    made, _ = write(data, target)
    for name in [entry.stored for entry in made.files] + [backup.MANIFEST]:
        file = target / name
        before = file.read_bytes()
        if harm == "missing":
            file.unlink()
        else:
            spot = len(before) // 2
            flipped = before[:spot] + bytes([before[spot] ^ 4]) + before[spot + 1 :]
            file.write_bytes(flipped if harm == "flipped" else before[:-1])
        if harm == "cut" and name == backup.MANIFEST:  # only the line's end
            file.write_bytes(before[:-2])
        with pytest.raises((BrokenStore, Unavailable), match=name.rpartition("/")[2]):
            restored(target, tmp_path / "new")
        assert not (tmp_path / "new").exists()
        file.write_bytes(before)
    restored(target, tmp_path / "new")


def test_a_manifest_cannot_have_files_written_elsewhere(data: Data, tmp_path: Path) -> None:
    write(data, tmp_path / "backup")
    made = backup.read(tmp_path / "backup")
    for path in ("../x", "/etc/x", "raw/../../x", "candles.duckdb", ""):
        files = [msgspec.structs.replace(made.files[0], path=path)]
        text = msgspec.json.encode(msgspec.structs.replace(made, files=files))
        signed = {"sha256": sha256(text).hexdigest(), "manifest": msgspec.Raw(text)}
        (tmp_path / "backup" / backup.MANIFEST).write_bytes(msgspec.json.encode(signed))
        with pytest.raises(BrokenStore, match="a file cannot lie at"):
            backup.read(tmp_path / "backup")


def test_a_data_directory_that_is_not_empty_is_moved_aside_when_that_is_wished(data: Data, tmp_path: Path) -> None:
    write(data, tmp_path / "backup")
    place = tmp_path / "new"
    place.mkdir()
    (place / "mine").write_text("mine")
    with pytest.raises(Conflict, match=r"not empty.*--force"):
        restored(tmp_path / "backup", place)
    assert content(place) == {"mine": b"mine"}
    found = restored(tmp_path / "backup", place, force=True)
    assert found.aside is not None
    assert content(Path(found.aside)) == {"mine": b"mine"}
    assert len(records(place)) == 3


def test_a_data_directory_in_use_is_not_touched(data: Data, tmp_path: Path) -> None:
    write(data, tmp_path / "backup")
    with pytest.raises(Conflict, match="in use by a running candled"):
        restored(tmp_path / "backup", data.path, force=True)
    data.append()


def test_a_restore_that_is_killed_between_any_two_steps_is_done_by_the_next_one(data: Data, tmp_path: Path) -> None:
    made, _ = write(data, tmp_path / "backup")
    kept = [entry.path for entry in made.files]
    died, steps = 0, 0
    while died == steps:
        place = tmp_path / f"{steps}"
        steps += 1
        if (child := os.fork()) == 0:
            die_after(steps)
            with suppress(BaseException):
                restored(tmp_path / "backup", place)
                os._exit(0)
            os._exit(1)
        _, status = os.waitpid(child, 0)
        died += os.waitstatus_to_exitcode(status) == DEAD
        if restore.unfinished(place) or not (place / "journal").exists():
            restored(tmp_path / "backup", place)
        assert len(records(place)) == 3
        assert {path.name for path in place.iterdir()} - {restore.FOLDER} == {path.partition("/")[0] for path in kept}
    assert died > 15


DEAD = 77


def die_after(steps: int) -> None:
    """End this process at its nth step, as `kill -9` would."""
    left = steps

    def dying(work: Callable[..., object]) -> Callable[..., object]:
        def both(*arguments: object, **more: object) -> object:
            nonlocal left
            left -= 1
            if not left:
                os._exit(DEAD)
            return work(*arguments, **more)

        return both

    backup._fsync = dying(os.fsync)  # type: ignore[assignment] # in a process that ends here
    Path.rename = dying(Path.rename)  # type: ignore[method-assign,assignment] # likewise
    Path.rmdir = dying(Path.rmdir)  # type: ignore[method-assign,assignment] # likewise
    Path.mkdir = dying(Path.mkdir)  # type: ignore[method-assign,assignment] # likewise
    Path.unlink = dying(Path.unlink)  # type: ignore[method-assign,assignment] # likewise


def test_no_room_for_a_restore_leaves_everything_as_it_was(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(data, tmp_path / "backup")
    place = tmp_path / "new"
    place.mkdir()
    (place / "mine").write_text("mine")

    def fsync(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(backup, "_fsync", fsync)
        for data_, force in ((place, True), (tmp_path / "none", False)):
            with pytest.raises(Unavailable, match="no space left; nothing was restored"):
                restored(tmp_path / "backup", data_, force=force)
    assert content(place) == {"mine": b"mine"}
    assert not (tmp_path / "none").exists()
    assert not list(tmp_path.glob("new.before-*"))
