"""The archive of bars: wherever a row lies, and whatever moves meanwhile, each bar is read once and whole."""

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from duckdb import DuckDBPyConnection as Connection
from hypothesis import given, settings
from hypothesis import strategies as st

from actors import fold
from storage import archive, candles, decimals, parquet, partitions
from storage.archive import Changed, Moved
from storage.database import migrate
from storage.errors import CandledError
from storage.measures import KINDS
from storage.partials import Partials, to_arrow
from storage.partitions import BrokenPartition, Partition
from tests import algebra
from tests.oracle import Candle, Place
from tests.storage.test_candles import bar_of, everything, settled, summed, written

DAY = 86400
EPOCH = "k1"
NOW = 1_800_000_000.0


def calm() -> None:
    """Between two steps: nothing."""


def opened(folder: Path) -> Connection:
    connection = duckdb.connect(str(folder / "candles.duckdb"))
    migrate(connection)
    candles.adopt(connection, EPOCH)
    return connection


def same(db: Connection) -> Callable[[], AbstractContextManager[Connection]]:
    return lambda: nullcontext(db)


def put(db: Connection, rung: int, table: Partials, seq: int) -> None:
    candles.put(db, rung, table)
    candles.apply(db, seq)


def moved(db: Connection, where: Partition) -> Moved:
    """Move a partition, all of it in the caller's transaction."""
    found = archive.write(calm, same(db), where, NOW)
    archive.adopt(db, found)
    archive.unlink(partitions.folder(db), found.old)
    return found


def everywhere(db: Connection, kind: str, rung: int) -> int:
    """Move all that can be moved; how many partitions that was."""
    found = [
        one.partition for one in archive.waiting(db, 2**40) if (one.partition.kind, one.partition.rung) == (kind, rung)
    ]
    for where in found:
        moved(db, where)
    return len(found)


# --- whatever is flushed, compacted and archived in whatever order


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    with opened(tmp_path_factory.mktemp("archive")) as connection:
        yield connection


@pytest.fixture(scope="module", params=["small files", "usual files"])
def sizes(request: pytest.FixtureRequest) -> Iterator[None]:
    """With a file for each market and row groups of two rows, or as always."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "small files":
            patch.setattr(archive, "STEP_BYTES", 1)
            patch.setattr(archive, "PART_ROWS", 1)
            patch.setattr(parquet, "GROUP_ROWS", 2)
        yield


def forgotten(db: Connection) -> None:
    """Files that a rolled back transaction has left."""
    partitions.tidy(partitions.folder(db), [])
    parquet.groups.cache_clear()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rung", [60, 3600])
@pytest.mark.usefixtures("sizes")
@given(st.data())
@settings(max_examples=3)
def test_every_read_is_the_sum_of_all_that_was_put_wherever_it_lies(
    file: Connection, kind: str, rung: int, data: st.DataObject
) -> None:
    db = file
    # Eight buckets over three days, or three months.
    labels = [n * (DAY if rung == 60 else 31 * DAY) // 3 // rung * rung for n in range(8)]
    flushes = data.draw(st.lists(st.lists(written(kind), max_size=6), min_size=1, max_size=5))
    rows: list[tuple[Place, Candle]] = []
    seq = 0
    db.execute("BEGIN TRANSACTION")
    try:
        for flush in flushes:
            added = []
            for market, number, events, whole in flush:
                seq += 1
                added.append(((market, labels[number]), bar_of(kind, events, seq, whole)))
            put(db, rung, algebra.partials(kind, added), seq)
            rows += added
            before = everything(db, kind, rung)
            for turn in data.draw(st.lists(st.sampled_from(["compact", "archive", "rewrite one"]), max_size=3)):
                if turn == "compact":
                    candles.compact(db, kind, rung, data.draw(st.sampled_from([rung, 86400, 7 * 86400])))
                elif turn == "archive":
                    everywhere(db, kind, rung)
                    assert archive.waiting(db, 2**40) == []
                elif left := archive.waiting(db, 2**40):
                    moved(db, data.draw(st.sampled_from([one.partition for one in left])))
                assert everything(db, kind, rung) == before
        bars = settled(rows)
        assert everything(db, kind, rung) == bars
        market = data.draw(st.sampled_from([1, 2]))
        mine = {t: bar for (owner, t), bar in bars.items() if owner == market}
        start, end = labels[data.draw(st.integers(0, 4))], labels[data.draw(st.integers(3, 7))] + rung
        some = candles.between(db, kind, rung, market, start, end)
        algebra.agrees(candles.shown(db, kind, rung, market, start, end), some)
        found = summed(some)
        assert found == {(market, t): bar for t, bar in mine.items() if start <= t < end}
        count = data.draw(st.integers(1, 4))
        kept = sorted(t for t in mine if t < end)[-count:]
        assert summed(candles.newest(db, kind, rung, market, end, count)) == {(market, t): mine[t] for t in kept}
        times = data.draw(st.lists(st.sampled_from([*labels, rung, 999 * rung]), unique=True))
        found = summed(candles.at(db, kind, rung, market, times))
        assert found == {(market, t): bar for t, bar in mine.items() if t in times}
        since = data.draw(st.integers(0, seq))
        changed = sorted((t for t, bar in mine.items() if bar["rev"] > since), reverse=True)
        assert candles.changed(db, kind, rung, market, since, 100) == changed
        assert candles.changed(db, kind, rung, market, since, 2) == changed[:2]
    finally:
        db.execute("ROLLBACK")
        forgotten(db)


# --- while others read, write and die


def trades(market: int, times: Sequence[int], seq: int) -> Partials:
    """A bar of one trade of size 1 in each bucket."""
    n, t = len(times), np.array(times, np.int64)
    columns: dict[str, Any] = {"market": np.full(n, market, np.int32), "t": t}
    columns |= {name: np.full(n, 100.0) for name in ("open", "high", "low", "close")}
    for name in ("open", "close"):
        columns |= {f"{name}_ts": t * 10**6 + seq, f"{name}_pos": np.full(n, seq << 24, np.int64)}
    columns |= {name: decimals.units(np.ones(n)) for name in ("volume", "turnover_volume")}
    columns["trades_count"] = np.ones(n, np.int64)
    columns |= {name: np.full(n, seq, np.int64) for name in ("rev", "born")}
    return Partials("spot", n, columns)


def volume(table: Partials) -> int:
    return sum(decimals.ints(table["volume"])) // 10**18 if table.n else 0


@contextmanager
def transaction(db: Connection, mode: str = "") -> Iterator[Connection]:
    with db.cursor() as cursor:
        cursor.execute(f"BEGIN TRANSACTION {mode}")
        try:
            yield cursor
            cursor.execute("COMMIT")
        except BaseException:
            cursor.execute("ROLLBACK")
            raise


MINUTES = [60 * n for n in range(3 * DAY // 60)]
MARKETS = 8


@pytest.fixture
def minutes(tmp_path: Path) -> Iterator[Connection]:
    """Three days of minutes of eight markets, at seq 1."""
    with opened(tmp_path) as db:
        with transaction(db) as one:
            for market in range(MARKETS):
                candles.put(one, 60, trades(market, MINUTES, 1))
            candles.apply(one, 1)
        yield db


def stepwise(db: Connection, where: Partition) -> Moved:
    """Move a partition as the daemon does: a transaction to read it, another one to drop it, then the files."""
    found = archive.write(calm, lambda: transaction(db, "READ ONLY"), where, NOW)
    with transaction(db) as one:
        archive.adopt(one, found)
    archive.unlink(partitions.folder(db), found.old)
    return found


def test_readers_see_each_bar_once_at_every_instant_of_moves_rewrites_and_compactions(minutes: Connection) -> None:
    db, done = minutes, threading.Event()
    reads: list[int] = []
    errors: list[BaseException] = []

    def read(seed: int) -> None:
        chance = random.Random(seed)
        count = 0
        try:
            while not done.is_set() or count < 5:
                market = chance.randrange(MARKETS)
                since = chance.randrange(len(MINUTES))
                try:
                    with transaction(db, "READ ONLY") as one:
                        late = candles.applied(one) - 1 if market == 0 else 0
                        everything = candles.between(one, "spot", 60, market, 0, 3 * DAY)
                        part = candles.between(one, "spot", 60, market, MINUTES[since], 3 * DAY)
                        newest = candles.newest(one, "spot", 60, market, 3 * DAY, 100)
                        at = candles.at(one, "spot", 60, market, [MINUTES[since]])
                except BrokenPartition as error:
                    if not error.missing:  # else a newer file has taken its place: the next snapshot knows
                        raise
                    continue
                # What comes late goes into the first minute.
                assert volume(everything) == len(MINUTES) + late
                assert volume(part) == len(MINUTES) - since + (late if since == 0 else 0)
                assert volume(newest) == len(np.unique(newest["t"])) == 100
                assert volume(at) == 1 + (late if since == 0 else 0)
                count += 1
        except BaseException as error:
            errors.append(error)
        reads.append(count)

    readers = [threading.Thread(target=read, args=(seed,)) for seed in range(3)]
    for reader in readers:
        reader.start()
    try:
        for turn in range(6):
            for one in archive.waiting(db, 2**40):
                stepwise(db, one.partition)
            with transaction(db) as late:
                put(late, 60, trades(0, [0], 2 + 2 * turn), 2 + 2 * turn)
            with transaction(db) as late:
                put(late, 60, trades(0, [0], 3 + 2 * turn), 3 + 2 * turn)
                candles.compact(late, "spot", 60, DAY)
    finally:
        done.set()
        for reader in readers:
            reader.join()
    assert errors == []
    assert min(reads) >= 5
    assert partitions.of(db, Partition("spot", 60, 0, DAY))[0].generation == 6


def test_what_comes_between_the_writing_of_files_and_their_transaction_stays_beside_them(minutes: Connection) -> None:
    db = minutes
    where = Partition("spot", 60, 0, DAY)
    found = archive.write(calm, lambda: transaction(db, "READ ONLY"), where, NOW)
    put(db, 60, trades(3, [0, 60], 2), 2)
    with transaction(db) as one:
        archive.adopt(one, found)
    assert found.rows == MARKETS * DAY // 60
    ((left,),) = db.execute("SELECT count(*) FROM spot_60_recent WHERE t < ?", [DAY]).fetchall()
    assert left == 2
    assert volume(candles.between(db, "spot", 60, 3, 0, DAY)) == DAY // 60 + 2


def test_what_replaces_an_archived_bar_does_so_after_any_compaction_and_rewrite(minutes: Connection) -> None:
    db = minutes
    where = Partition("spot", 60, 0, DAY)
    stepwise(db, where)
    again = trades(3, [0], 2)
    put(db, 60, Partials("spot", 1, {**again.columns, "whole": np.array([True])}), 2)
    put(db, 60, algebra.partials("spot", [((3, 60), {**bar_of("spot", [], 3, True)})]), 3)
    put(db, 60, trades(3, [0], 4), 4)

    def look() -> None:
        first, second = (candles.between(db, "spot", 60, 3, t, t + 60) for t in (0, 60))
        assert (volume(fold.merged(first)), volume(fold.merged(second))) == (2, 0)
        assert candles.changed(db, "spot", 60, 3, 1, 9) == [60, 0]

    look()
    candles.compact(db, "spot", 60, DAY)
    look()
    candles.compact(db, "spot", 60, 7 * DAY)
    put(db, 60, trades(5, [0], 5), 5)
    candles.compact(db, "spot", 60, DAY)
    look()
    stepwise(db, where)
    look()


@pytest.mark.parametrize("seq", [1, 2])
def test_a_partition_that_was_compacted_meanwhile_stays_where_it_is(minutes: Connection, seq: int) -> None:
    db = minutes
    where = Partition("spot", 60, 0, DAY)
    put(db, 60, trades(3, [0], 1), 1)
    found = archive.write(calm, lambda: transaction(db, "READ ONLY"), where, NOW)
    with transaction(db) as one:
        # The old rows of a bucket become one; or an old one and a late one, which nobody could take apart again.
        if seq == 2:
            put(one, 60, trades(5, [0], 2), 2)
        candles.compact(one, "spot", 60, DAY)
    with pytest.raises(Changed, match="was compacted"), transaction(db) as one:
        archive.adopt(one, found)
    assert partitions.everything(db) == []
    assert volume(candles.between(db, "spot", 60, 3, 0, DAY)) == DAY // 60 + 1
    assert volume(candles.between(db, "spot", 60, 5, 0, DAY)) == DAY // 60 + seq - 1


def test_what_a_crash_left_is_removed_and_what_is_known_stays(minutes: Connection) -> None:
    db = minutes
    root = partitions.folder(db)
    where = Partition("spot", 60, 0, DAY)
    kept = stepwise(db, where)
    put(db, 60, trades(3, [0], 2), 2)
    lost = archive.write(calm, lambda: transaction(db, "READ ONLY"), where, NOW)
    half = root / where.folder / f"3-0.parquet{parquet.NEW}"
    half.write_bytes(b"PAR1")
    assert {part.generation for part in lost.parts} == {2}
    archive.tidy(db)
    assert sorted(path.name for path in (root / where.folder).iterdir()) == [part.path.name for part in kept.parts]
    assert volume(candles.between(db, "spot", 60, 3, 0, DAY)) == DAY // 60 + 1


def test_files_say_enough_to_make_the_list_again_and_only_whole_generations_count(
    minutes: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "STEP_BYTES", 1)
    monkeypatch.setattr(archive, "PART_ROWS", 3000)
    db = minutes
    for one in archive.waiting(db, 2**40):
        stepwise(db, one.partition)
    known = partitions.everything(db)
    assert len(known) == 9
    put(db, 60, trades(3, [0], 2), 2)
    newer = archive.write(calm, lambda: transaction(db, "READ ONLY"), Partition("spot", 60, 0, DAY), NOW)
    root = partitions.folder(db)
    assert partitions.found(root, 2) == sorted([*newer.parts, *(part for part in known if part.low)])
    (root / newer.parts[1].path).unlink()
    assert partitions.found(root, 2) == known
    assert partitions.found(root, 0) == []
    assert len(list(root.rglob(f"*{partitions.ASIDE}"))) == 11


def test_a_lost_store_takes_from_later_batches_only_what_the_files_do_not_hold(minutes: Connection) -> None:
    db = minutes
    stepwise(db, Partition("spot", 60, DAY, 2 * DAY))
    db.execute("UPDATE meta SET applied_seq = 0")
    assert archive.restore(db, 5) == [1]
    again, later = trades(3, MINUTES, 1), trades(3, MINUTES, 2)
    assert archive.beyond(db, 60, again)["t"].tolist() == [t for t in MINUTES if not DAY <= t < 2 * DAY]
    assert archive.beyond(db, 60, later).n == len(MINUTES)
    assert archive.beyond(db, 300, again).n == len(MINUTES)


def test_no_damage_of_a_file_shows_as_a_bar(minutes: Connection) -> None:
    db = minutes
    (part,) = stepwise(db, Partition("spot", 60, 0, DAY)).parts
    path = partitions.folder(db) / part.path
    whole = path.read_bytes()
    expected = algebra.rows(candles.between(db, "spot", 60, 3, 0, DAY))
    chance = random.Random(7)
    refused: list[str] = []
    spots = [chance.randrange(len(whole)) for _ in range(150)] + [len(whole) - 1 - n for n in range(0, 3000, 60)]
    for spot in spots:
        damaged = bytearray(whole)
        damaged[spot] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        parquet.groups.cache_clear()
        try:
            assert algebra.rows(candles.between(db, "spot", 60, 3, 0, DAY)) == expected  # in what others read
        except BrokenPartition as error:
            refused.append(str(error).partition(".parquet")[0])
    assert len(refused) > 60
    assert set(refused) == {"the bars of spot/1m/1970-01-01 cannot be read: archive/spot/1m/1970-01-01/1-0"}
    path.write_bytes(whole[: len(whole) // 2])
    assert list(partitions.damage(partitions.folder(db), [part])) == [part.partition]
    path.unlink()
    with pytest.raises(BrokenPartition, match="missing") as raised:
        candles.between(db, "spot", 60, 3, 0, DAY)
    assert raised.value.missing
    assert candles.between(db, "spot", 60, 3, DAY, 2 * DAY).n == DAY // 60
    # A flush does not wait for somebody to bring the file back.
    assert archive.births(db, "spot", 60, np.array([3]), np.array([0])).num_rows == 0


def test_a_file_that_does_not_hold_what_was_written_is_never_used(
    minutes: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = minutes
    close = parquet.Writer.close

    def closed(self: parquet.Writer, words: bytes) -> None:
        close(self, words)
        data = bytearray(self.new.read_bytes())
        data[1000] ^= 1  # among the rows
        self.new.write_bytes(data)

    monkeypatch.setattr(parquet.Writer, "close", closed)
    with pytest.raises(CandledError, match=r"1-0\.parquet\.new"):
        archive.write(calm, lambda: transaction(db, "READ ONLY"), Partition("spot", 60, 0, DAY), NOW)
    assert list((partitions.folder(db) / "spot/1m/1970-01-01").iterdir()) == []


def test_reading_one_market_of_many_reads_one_or_two_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    real = parquet.read

    def counted(path: Path, known: parquet.Groups, numbers: Sequence[int], columns: Any = None) -> Any:
        read.append(len(numbers))
        return real(path, known, numbers, columns)

    monkeypatch.setattr(parquet, "read", counted)
    with opened(tmp_path) as db:
        with transaction(db) as one:
            for market in range(60):
                candles.put(one, 60, trades(market, MINUTES[: DAY // 60], 1))
            candles.apply(one, 1)
        stepwise(db, Partition("spot", 60, 0, DAY))
        read.clear()
        assert candles.between(db, "spot", 60, 31, 36000, 36000 + 300 * 60).n == 300
        assert candles.newest(db, "spot", 60, 31, DAY, 300).n == 300
        assert candles.changed(db, "spot", 60, 31, 1, 10) == []
        assert sum(read) <= 4


def test_a_fingerprint_is_the_same_however_the_rows_are_cut() -> None:
    some = [((1, 60 * n), bar_of("perp", [], n + 1, False)) for n in range(40)]
    table = to_arrow(algebra.partials("perp", some))
    whole, cut, other = parquet.Fingerprint(), parquet.Fingerprint(), parquet.Fingerprint()
    whole.add(table)
    for start in range(0, 40, 7):
        cut.add(table.slice(start, 7))
    other.add(table.slice(1))
    other.add(table.slice(0, 1))
    assert whole.text() == cut.text() != other.text()


def test_a_bar_lies_in_the_day_or_month_of_its_start() -> None:
    december = partitions.of_bar("spot", 3600, 1_703_980_800)  # 31 December 2023
    assert (december.period, december.low, december.high) == ("2023-12", 1_701_388_800, 1_704_067_200)
    assert str(partitions.of_bar("perp", 60, 1_704_067_199)) == "perp/1m/2023-12-31"
    assert partitions.of_bar("perp", 86400, -1).period == "1969-12"


@pytest.mark.parametrize("amount", [decimals.CAP, -decimals.CAP, 7, -1])
def test_the_sum_of_a_file_is_exact_however_large_its_amounts(amount: int) -> None:
    amounts = decimals.arrow(decimals.from_ints([amount] * 5 + [1]))
    assert archive._total(amounts) == 5 * amount + 1
