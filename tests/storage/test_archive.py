"""The archive of bars: wherever a row lies, and whatever moves meanwhile, each bar is read once and whole."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import duckdb
import pytest
from duckdb import DuckDBPyConnection as Connection
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import archive, candles, parquet, partitions
from storage.archive import Moved
from storage.database import migrate
from storage.measures import KINDS
from storage.partials import Partials
from storage.partitions import Partition
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


def forgotten(db: Connection) -> None:
    """Files that a rolled back transaction has left."""
    partitions.tidy(partitions.folder(db), [])
    parquet.groups.cache_clear()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rung", [60, 3600])
@given(st.data())
@settings(max_examples=10)
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
        found = summed(candles.between(db, kind, rung, market, start, end))
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
