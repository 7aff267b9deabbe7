"""The SQLite file: shared by threads and processes, and honest about what is wrong with it."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from storage import state as module
from storage.errors import BrokenStore, Unavailable
from storage.state import State

ROOT = Path(__file__).parents[2]
NOTES = (("CREATE TABLE notes (n INTEGER)",),)


def noted(state: State) -> list[int]:
    with state.reading() as db:
        return [n for (n,) in db.execute("SELECT n FROM notes ORDER BY n")]


def note(state: State, n: int) -> None:
    with state.writing() as db:
        db.execute("INSERT INTO notes VALUES (?)", [n])


def in_process(source: str, path: Path) -> subprocess.Popen[str]:
    """Run a few lines with `state` open on the file."""
    script = f"from pathlib import Path\nfrom storage.state import State\nstate = State.open(Path({str(path)!r}))\n"
    return subprocess.Popen([sys.executable, "-c", script + source], cwd=ROOT, text=True, stdout=subprocess.PIPE)


def test_a_new_file_is_for_its_owner_alone_and_every_commit_waits_for_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with State.open(path) as state, state.reading() as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_was_committed_is_there_after_opening_again(tmp_path: Path) -> None:
    with State.open(tmp_path / "notes.db", NOTES) as state:
        note(state, 7)
    with State.open(tmp_path / "notes.db", NOTES) as state:
        assert noted(state) == [7]


def test_a_block_that_raises_leaves_nothing_and_the_file_usable(tmp_path: Path) -> None:
    def interrupted() -> None:
        with state.writing() as db:
            db.execute("INSERT INTO notes VALUES (1)")
            raise KeyError

    with State.open(tmp_path / "notes.db", NOTES) as state:
        with pytest.raises(KeyError):
            interrupted()
        note(state, 2)
        assert noted(state) == [2]


def test_a_reader_sees_one_view_however_much_is_written_meanwhile(tmp_path: Path) -> None:
    with State.open(tmp_path / "notes.db", NOTES) as state:
        note(state, 1)
        with state.reading() as db:
            before = db.execute("SELECT count(*) FROM notes").fetchone()
            note(state, 2)
            assert db.execute("SELECT count(*) FROM notes").fetchone() == before == (1,)
        assert noted(state) == [1, 2]


def test_threads_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    def add(state: State) -> None:
        for _ in range(20):
            with state.writing() as db:
                (n,) = db.execute("SELECT coalesce(max(n), 0) + 1 FROM notes").fetchone()
                db.execute("INSERT INTO notes VALUES (?)", [n])

    with State.open(tmp_path / "notes.db", NOTES, synchronous="NORMAL") as state:
        threads = [threading.Thread(target=add, args=[state]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert noted(state) == list(range(1, 161))


def test_processes_that_open_a_new_file_at_once_all_get_it(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    source = "from storage import keys\nfor i in range(5): keys.create(state, 'read', str(i))\nprint('done')"
    processes = [in_process(source, path) for _ in range(4)]
    assert [p.communicate()[0] for p in processes] == ["done\n"] * 4
    with State.open(path) as state, state.reading() as db:
        assert db.execute("SELECT count(*) FROM keys").fetchone() == (20,)


def test_a_killed_process_leaves_what_it_committed_and_nothing_of_what_it_had_not(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    source = """
from storage import keys
while True:
    keys.create(state, "read", "whole")
    with state.writing() as db:
        db.execute("UPDATE keys SET name = 'half' WHERE id = 1")
        print("committed one", flush=True)
        db.execute("UPDATE keys SET name = 'whole' WHERE id = 1")
"""
    process = in_process(source, path)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(20)]
    process.send_signal(signal.SIGKILL)
    process.wait()
    lines += process.stdout.readlines()
    process.stdout.close()
    with State.open(path) as state, state.reading() as db:
        names = [name for (name,) in db.execute("SELECT name FROM keys")]
        assert len(names) >= len(lines) >= 20
        assert set(names) == {"whole"}
    assert state.path == path


def test_an_older_file_is_brought_forward_and_a_newer_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    newer = (*NOTES, ("ALTER TABLE notes ADD COLUMN why TEXT", "UPDATE notes SET why = 'before'"))
    with State.open(path, NOTES) as state:
        note(state, 1)
    with State.open(path, newer) as state, state.reading() as db:
        assert db.execute("SELECT n, why FROM notes").fetchall() == [(1, "before")]
    with pytest.raises(BrokenStore, match=r"notes\.db: version 2, written by a newer candled; this one knows 1"):
        State.open(path, NOTES)


def test_a_step_forward_that_fails_is_undone_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    State.open(path, NOTES).close()
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        State.open(path, (*NOTES, ("CREATE TABLE more (n)", "INSERT INTO nowhere VALUES (1)")))
    with State.open(path, (*NOTES, ("CREATE TABLE more (n)",))) as state, state.reading() as db:
        assert db.execute("SELECT count(*) FROM more").fetchone() == (0,)


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(b"what is this? " * 1000)
    with pytest.raises(BrokenStore, match=r"state\.db: damaged: file is not a database"):
        State.open(path)


def test_a_file_of_another_program_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE bookmarks (url)")
    db.commit()
    db.close()
    before = path.read_bytes()
    with pytest.raises(BrokenStore, match=r"state\.db: an SQLite file of another program"):
        State.open(path)
    assert path.read_bytes() == before


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(BrokenStore, match=r"nowhere/state\.db: No such file or directory"):
        State.open(tmp_path / "nowhere" / "state.db")


def test_a_damaged_page_is_found_by_the_check(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    with State.open(path, NOTES) as state:
        with state.writing() as db:
            db.executemany("INSERT INTO notes VALUES (?)", [(n,) for n in range(10_000)])
        assert state.check() == ""
    with path.open("r+b") as file:
        file.seek(5 * 4096)
        file.write(b"\xff" * 4096)
    with State.open(path, NOTES) as state:
        assert "notes.db: damaged: " in state.check()
        with pytest.raises(BrokenStore, match=r"notes\.db: damaged: database disk image is malformed"):
            noted(state)


def test_a_full_disk_refuses_the_write_and_keeps_what_was_there(tmp_path: Path) -> None:
    def too_much() -> None:
        with state.writing() as db:
            db.execute("PRAGMA max_page_count = 3")  # what SQLite answers then is what it answers on a full disk
            db.executemany("INSERT INTO notes VALUES (?)", [(n,) for n in range(10_000)])

    with State.open(tmp_path / "notes.db", NOTES) as state:
        note(state, 1)
        with pytest.raises(Unavailable, match=r"notes\.db: the disk is full"):
            too_much()
        note(state, 2)
        assert noted(state) == [1, 2]


def test_another_process_that_never_stops_writing_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    path = tmp_path / "notes.db"
    with State.open(path, NOTES) as state:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match=r"notes\.db: another process has been writing for over 0\.05 s"):
            note(state, 1)
        assert noted(state) == []  # reading goes on
        other.execute("ROLLBACK")
        other.close()
        note(state, 2)
        assert noted(state) == [2]


def test_a_mistake_in_our_own_sql_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    def mistaken() -> None:
        with state.writing() as db:
            db.execute("INSERT INTO notes VALUES (1)")
            db.execute("SELEKT")

    with State.open(tmp_path / "notes.db", NOTES) as state:
        with pytest.raises(sqlite3.OperationalError, match="syntax"):
            mistaken()
        assert noted(state) == []


def test_a_backup_is_the_file_as_it_was_then(tmp_path: Path) -> None:
    with State.open(tmp_path / "notes.db", NOTES) as state:
        note(state, 1)
        state.backup(tmp_path / "copy.db")
        note(state, 2)
    with State.open(tmp_path / "copy.db", NOTES) as copy:
        assert noted(copy) == [1]
        assert copy.check() == ""


def test_after_closing_nothing_is_read_and_no_file_is_held_open(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    state = State.open(path, NOTES)
    note(state, 1)
    with state.reading() as db:
        state.close()
        assert db.execute("SELECT n FROM notes").fetchone() == (1,)  # a call under way is not cut off
    with pytest.raises(Unavailable, match=r"notes\.db: closed"):
        noted(state)
    held = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    assert not [name for name in held if str(path) in name]
