"""What makes stored bars right again: archive files made anew, instants to fold again."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
from duckdb import DuckDBPyConnection as Connection

from storage import archive, refold, retention, verify
from storage.archive import Adder, Moved
from storage.calendar import DAY, MICROS, ONE_DAY
from storage.errors import Unavailable
from storage.findings import Source, Spots, lost_files, view_of
from storage.partitions import Part, Partition
from storage.refold import Pause

# --- repair


def rebuilt(pause: Pause, source: Source, where: Partition, now: float) -> Moved:
    """Write the files of an archived partition again, from events; nothing refers to them yet.

    Raises Unavailable where events of it are lost.
    """

    def steps(db: Connection, adder: Adder, where: Partition, _: Sequence[Part]) -> Iterator[tuple[int, pa.Table]]:
        kind, rung, low, high = where.kind, where.rung, where.low, where.high
        view = view_of(source, db, adder())
        for file in lost_files(db):
            if file.low_ts < (high + 2 * DAY) * MICROS and file.high_ts >= (low - 2 * DAY) * MICROS:
                raise Unavailable(f"events of it are lost: raw/{file.file}: {file.damaged}")
        if any(low - 2 * DAY < day < high + 2 * DAY for day in retention.closed(db).days()):
            raise Unavailable("raw events of it were dropped")
        for piece in verify.pieces(view, source.folder, kind, low, high, None, pause):
            ((count,),) = db.execute(
                f"SELECT count(*) FROM ({verify.recent(kind, rung)}) WHERE t >= ? AND t < ? AND market BETWEEN ? AND ?",
                [low, high, piece.low, piece.high],
            ).fetchall()
            table = refold.bars(view, kind, piece.slots, low, high, pause, (rung,))[rung]
            born, rev = table.column("born").to_numpy(), table.column("rev").to_numpy()
            at = table.schema.get_field_index("born")
            table = table.set_column(at, "born", pa.array(np.where(born == -1, rev, born)))
            yield count, table.append_column("whole", pa.array(np.zeros(table.num_rows, np.bool_)))

    return archive.write(pause, source.snapshot, where, now, steps)


def placed(source: Source, slot: int, found: Sequence[tuple[int, int]], spots: Spots) -> None:
    """Note where bars (rung, t) of one market in memory differ."""
    source.markets.learn(np.array([slot]))
    for rung, t in found:
        second = source.markets.calendar(slot).span(ONE_DAY, t)[0] // MICROS if rung == DAY else t
        spots.add(np.array([slot]), np.array([second]))


def mendable(source: Source, spots: Spots) -> tuple[list[tuple[int, int]], int]:
    """The instants all of whose bars can be folded again, and how many cannot: events of theirs are lost."""
    good: list[tuple[int, int]] = []
    known: dict[tuple[int, int, int], bool] = {}
    left = 0
    with source.snapshot() as db:
        lost, closed = lost_files(db), retention.closed(db)
    for slot, second in spots.all():
        source.markets.learn(np.array([slot]))
        label = int(source.markets.days(np.array([slot]), np.array([second * MICROS]))[0])
        key = slot, second // DAY * DAY, label
        if key not in known:
            known[key] = not any(
                verify.spoilt(source.markets, lost, slot, day) or verify.dropped(source.markets, closed, slot, day)
                for day in key[1:]
            )
        if known[key]:
            good.append((slot, second))
        else:
            left += 1
    return good, left
