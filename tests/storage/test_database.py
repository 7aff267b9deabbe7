"""The DuckDB file and the door to the worker threads."""

import os
from pathlib import Path
from typing import Any

import duckdb
import pytest
import trio

from storage import database as module
from storage.database import Database, Door
from storage.errors import BrokenStore, Damaged, FailedDisk, Unavailable
from tests.disks import filled, resized, small

ENDLESS = "SELECT count(*) FROM range(100000000000) a, range(100000000) b"


def asked(db: Any, query: str) -> Any:
    return db.execute(query).fetchall()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "candles.duckdb"


async def test_a_write_is_kept_whole_or_not_at_all(path: Path) -> None:
    def half(db: Any) -> None:
        db.execute("INSERT INTO meta VALUES ('e', 7)")
        raise ZeroDivisionError

    database = Database.open(path, Door())
    with pytest.raises(ZeroDivisionError):
        await database.write(half)
    assert await database.read(asked, "SELECT * FROM meta") == []
    await database.write(asked, "INSERT INTO meta VALUES ('e', 8)")
    assert await database.read(asked, "SELECT * FROM meta") == [("e", 8)]
    assert (database.statistics().reads, database.statistics().writes) == (2, 2)
    database.close()


async def test_a_read_cannot_write(path: Path) -> None:
    database = Database.open(path, Door())
    with pytest.raises(duckdb.Error, match="read-only"):
        await database.read(asked, "INSERT INTO meta VALUES ('e', 7)")
    database.close()


async def test_a_read_that_takes_too_long_is_cancelled_and_the_next_one_is_not(path: Path) -> None:
    database = Database.open(path, Door(), seconds=0.2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(database.watch)
        with trio.fail_after(20), pytest.raises(Unavailable, match=r"longer than 0\.2 s"):
            await database.read(asked, ENDLESS)
        assert await database.read(asked, "SELECT 1") == [(1,)]
        nursery.cancel_scope.cancel()
    database.close()


async def test_a_read_is_cancelled_when_nobody_waits_for_it_any_more(path: Path) -> None:
    database = Database.open(path, Door(), seconds=3600)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(database.watch)
        with (
            trio.fail_after(20),
            trio.move_on_after(0.2) as patience,
            pytest.raises(Unavailable, match=r"longer than 0\.\d+ s"),
        ):
            await database.read(asked, ENDLESS)
        assert patience.cancel_called
        nursery.cancel_scope.cancel()
    database.close()


def test_a_file_that_will_not_open_is_set_aside_with_its_name(path: Path) -> None:
    path.write_bytes(b"not a database at all" * 1000)
    database = Database.open(path, Door())
    assert database.set_aside is not None
    assert database.set_aside.read_bytes().startswith(b"not a database")
    assert database.statistics().set_aside == str(database.set_aside)
    database.close()
    path.write_bytes(b"nor is this one" * 1000)  # within the same second
    database = Database.open(path, Door())
    kept = sorted(file.read_bytes()[:7] for file in path.parent.glob(f"{path.name}.broken-*"))
    assert kept == [b"nor is ", b"not a d"]
    database.close()


def damage(path: Path, table: str) -> None:
    """Turn some bytes over in a block of the file that holds nothing but this table."""
    with duckdb.connect(str(path)) as db:
        tables = [name for (name,) in db.execute("SELECT table_name FROM duckdb_tables()").fetchall()]
        query = "SELECT DISTINCT block_id FROM pragma_storage_info('{}') WHERE persistent AND block_id >= 0"
        blocks = {name: {block for (block,) in db.execute(query.format(name)).fetchall()} for name in tables}
    shared = set().union(*(held for name, held in blocks.items() if name != table))
    at = 3 * 4096 + min(blocks[table] - shared) * 262_144 + 100_000
    with path.open("r+b") as file:
        file.seek(at)
        some = file.read(64)
        file.seek(at)
        file.write(bytes(byte ^ 0xFF for byte in some))


async def test_a_file_that_is_damaged_inside_is_served_as_far_as_it_goes_and_set_aside_at_the_next_start(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = Database.open(path, Door())
    await first.write(asked, "CREATE TABLE many AS SELECT hash(i) AS h FROM range(1000000) r(i)")
    await first.write(asked, "INSERT INTO meta VALUES ('e', 7)")
    first.close()
    damage(path, "many")
    second = Database.open(path, Door())
    assert second.damaged == ""
    for _ in range(2):
        with pytest.raises(Damaged, match=r"Corrupt database file.*; the next start rebuilds it"):
            await second.read(asked, "SELECT sum(h % 1000) FROM many")
        assert await second.read(asked, "SELECT applied_seq FROM meta") == [(7,)]
    assert "Corrupt database file" in second.damaged
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    with pytest.raises(BrokenStore, match="Corrupt database file"):
        await second.write(asked, "UPDATE many SET h = h + 1 WHERE h % 2 = 0")
    second.close()
    third = Database.open(path, Door())
    assert third.set_aside is not None
    assert third.set_aside.exists()
    assert await third.read(asked, "SELECT * FROM meta") == []
    third.close()
    fourth = Database.open(path, Door())
    assert (fourth.set_aside, fourth.damaged) == (None, "")
    fourth.close()


async def test_a_file_that_was_cut_off_under_the_process_is_damaged(path: Path) -> None:
    first = Database.open(path, Door())
    await first.write(asked, "CREATE TABLE many AS SELECT hash(i) AS h FROM range(1000000) r(i)")
    first.close()
    second = Database.open(path, Door())
    os.truncate(path, 2_000_000)
    with pytest.raises(Damaged, match="Could not read enough bytes"):
        await second.read(asked, "SELECT sum(h % 1000) FROM many")
    second.close()


async def test_a_database_that_gave_itself_up_ends_the_process_and_is_rebuilt(path: Path) -> None:
    def gives_up(_: Any) -> None:
        raise duckdb.FatalException("FATAL Error: Failed: database has been invalidated because of an error")

    first = Database.open(path, Door(), seconds=0.1)
    with pytest.RaisesGroup(pytest.RaisesExc(BrokenStore, match="invalidated")):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first.watch)
            with pytest.raises(Damaged, match="invalidated"):
                await first.read(gives_up)
            await trio.sleep_forever()
    first.close()
    second = Database.open(path, Door())
    assert second.set_aside is not None
    second.close()


def test_a_file_of_a_newer_version_is_refused_and_left_alone(path: Path) -> None:
    Database.open(path, Door()).close()
    with duckdb.connect(str(path)) as db:
        db.execute("INSERT INTO schema_version VALUES (99)")
    with pytest.raises(BrokenStore, match="made by a newer candled: schema 99"):
        Database.open(path, Door())
    assert [file.name for file in path.parent.iterdir()] == [path.name]


async def test_what_was_written_is_there_after_opening_again(path: Path) -> None:
    first = Database.open(path, Door())
    await first.write(asked, "INSERT INTO meta VALUES ('e', 7)")
    first.close()
    second = Database.open(path, Door())
    assert await second.read(asked, "SELECT applied_seq FROM meta") == [(7,)]
    assert second.set_aside is None
    second.close()


def test_a_file_that_another_process_holds_is_refused_by_name(path: Path) -> None:
    import subprocess
    import sys

    code = f"import duckdb; db = duckdb.connect({str(path)!r}); print('held', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(BrokenStore, match="in use by another process"):
            Database.open(path, Door())
        assert holder.stdin is not None
        holder.stdin.close()
    assert path.exists()


async def test_the_door_lets_a_bounded_number_through_at_a_time() -> None:
    door = Door(2)
    inside = peak = 0

    def work() -> None:
        nonlocal inside, peak
        inside += 1
        peak = max(peak, inside)
        trio.from_thread.run(trio.lowlevel.checkpoint)
        inside -= 1

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(door.run, work)
    assert door.passed == 20
    assert 1 <= peak <= 2


# A full disk


ROWS = "INSERT INTO many SELECT i, md5(i::varchar) FROM range({}) r(i)"


async def written(database: Database, most: int = 1000, rows: int = 5000) -> int:
    """Write until that is refused; how many transactions were kept."""
    for kept in range(most):
        try:
            await database.write(asked, ROWS.format(rows))
        except Unavailable:
            return kept
    return most


async def counted(database: Database) -> int:
    return int((await database.read(asked, "SELECT count(*) FROM many"))[0][0])


async def test_a_full_disk_refuses_what_is_written_and_takes_it_once_there_is_room(tmp_path: Path) -> None:
    with small(tmp_path / "disk", "8m") as disk:
        database = Database.open(disk / "candles.duckdb", Door())
        await database.write(asked, "CREATE TABLE many (i BIGINT, h VARCHAR)")
        kept = await written(database)
        assert kept > 3
        for _ in range(3):
            with pytest.raises(Unavailable, match="no space left on the disk"):
                await database.write(asked, ROWS.format(5000))
            assert await counted(database) == kept * 5000
        # A start on the full disk, too.
        database.close()
        assert database.statistics().checkpoint_failures == 1
        database = Database.open(disk / "candles.duckdb", Door())
        assert (database.set_aside, database.damaged) == (None, "")
        assert await counted(database) == kept * 5000
        assert await written(database) == 0
        resized(disk, "64m")
        assert await written(database, most=2) == 2
        assert await counted(database) == (kept + 2) * 5000
        database.close()
        database = Database.open(disk / "candles.duckdb", Door())
        assert await counted(database) == (kept + 2) * 5000
        database.close()


async def test_a_checkpoint_waits_for_room(tmp_path: Path) -> None:
    with small(tmp_path / "disk", "16m") as disk:
        database = Database.open(disk / "candles.duckdb", Door(), checkpoint_bytes=1 << 20)
        await database.write(asked, "CREATE TABLE many (i BIGINT, h VARCHAR)")
        filled(disk, leave=1_400_000)
        kept = await written(database)
        told = database.statistics()
        assert told.checkpoints == 0 < told.checkpoint_failures
        assert "no room to put" in told.failing
        resized(disk, "64m")
        assert await written(database, most=1) == 1
        told = database.statistics()
        assert (told.checkpoints, told.failing, told.log_bytes) == (1, "", 0)
        assert await counted(database) == (kept + 1) * 5000
        database.close()


async def test_a_disk_that_fills_up_during_a_checkpoint_costs_nothing_that_was_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small(tmp_path / "disk", "8m") as disk:
        database = Database.open(disk / "candles.duckdb", Door(), seconds=10, checkpoint_bytes=1 << 20)
        await database.write(asked, "CREATE TABLE many (i BIGINT, h VARCHAR)")
        monkeypatch.setattr(module, "_room", lambda _: 1 << 40)  # as if something took it after the look

        def reads_on(db: Any) -> None:
            while True:
                asked(db, "SELECT count(*) FROM many")

        async def reader() -> None:
            with pytest.raises(Unavailable, match="no space left on the disk"):
                await database.read(reads_on)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(reader)
            kept = 0
            filled(disk, leave=1_300_000)
            while not database.statistics().checkpoint_failures:
                await database.write(asked, ROWS.format(5000))
                kept += 1
        assert await counted(database) == kept * 5000
        assert database.damaged == ""
        assert "for a checkpoint" in database.statistics().failing
        resized(disk, "64m")
        await database.write(asked, ROWS.format(5000))
        assert await counted(database) == (kept + 1) * 5000
        assert (database.statistics().checkpoints, database.statistics().failing) == (1, "")
        database.close()
        database = Database.open(disk / "candles.duckdb", Door())
        assert (database.set_aside, await counted(database)) == (None, (kept + 1) * 5000)
        database.close()


async def test_a_checkpoint_does_not_wait_for_readers(path: Path) -> None:
    database = Database.open(path, Door(), checkpoint_bytes=1 << 20)
    await database.write(asked, "CREATE TABLE many (i BIGINT, h VARCHAR)")
    with database.snapshot() as db:
        assert asked(db, "SELECT count(*) FROM many") == [(0,)]
        while not database.statistics().checkpoints:
            await written(database, most=1)
        assert asked(db, "SELECT count(*) FROM many") == [(0,)]
    database.close()
    assert database.statistics().log_bytes == 0


async def test_a_disk_that_fails_a_commit_ends_the_process_and_the_file_is_used_again(path: Path) -> None:
    def fails(_: Any) -> None:
        raise duckdb.IOException(f'Could not write file "{path}.wal": Input/output error')

    first = Database.open(path, Door())
    await first.write(asked, "INSERT INTO meta VALUES ('e', 7)")
    with pytest.raises(FailedDisk, match="Input/output error; the next start goes on from the last commit"):
        await first.write(fails)
    first.close()
    second = Database.open(path, Door())
    assert (second.set_aside, await second.read(asked, "SELECT applied_seq FROM meta")) == (None, [(7,)])
    second.close()


def test_a_database_that_cannot_be_opened_for_want_of_room_is_not_set_aside(tmp_path: Path) -> None:
    with small(tmp_path / "disk", "8m") as disk:
        filled(disk)
        with pytest.raises(Unavailable, match=r"cannot be opened: .*No space left"):
            Database.open(disk / "candles.duckdb", Door())
        assert not list(disk.glob("*.broken*"))


async def test_whatever_finds_that_the_disk_fails_ends_all() -> None:
    def fails() -> None:
        raise FailedDisk("state.db: disk I/O error")

    door = Door()
    with pytest.RaisesGroup(pytest.RaisesExc(FailedDisk, match=r"state\.db: disk I/O error")):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(door.watch)
            with pytest.raises(FailedDisk):  # as a request would, which is answered
                await door.run(fails)
            await trio.sleep_forever()
