"""What was dropped for good: bars below a floor, and the raw events of days that are closed since.

It is written down in state.db before anything goes, and again in DuckDB, in the transaction in which it goes: so a
start can finish what a crash cut off, and a database that is lost is not made again with what was dropped.
"""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
from duckdb import DuckDBPyConnection as Connection
from msgspec import Struct

from storage import manifest, partitions, schema
from storage.commits import ROW_BITS
from storage.events import Array
from storage.partitions import Part, Partition
from storage.sealed import Sealed
from storage.state import State

DAY = 86400
NEVER = -(2**61)  # before any bar
RAW = 0  # in place of a rung: the raw events
KEPT = {RAW: "raw", **partitions.FOLDERS}  # what can be kept for some time, by its name in settings


class Keep(Struct, frozen=True):
    """For how long something is kept."""

    kind: str
    rung: int  # or RAW
    days: float

    def __str__(self) -> str:
        return f"{self.kind}.{KEPT[self.rung]}={self.days:g}"


class Floor(NamedTuple):
    """What is left of a kind at one rung."""

    before: int = NEVER  # there are no bars with t < before, seconds; the beginning of a partition
    seq: int = 0  # streams that stand before it begin anew. Of RAW: batches up to it have no events of the kind


class Floors:
    """All floors, in memory; they only rise."""

    def __init__(self, known: Mapping[tuple[str, int], Floor] | None = None) -> None:
        self._known = dict(known or {})

    def of(self, kind: str, rung: int) -> Floor:
        """The floor of one resolution."""
        return self._known.get((kind, rung), Floor())

    def lift(self, kind: str, rung: int, floor: Floor) -> None:
        """Raise a floor; nothing of it falls."""
        known = self.of(kind, rung)
        self._known[kind, rung] = Floor(max(known.before, floor.before), max(known.seq, floor.seq))

    def all(self) -> dict[tuple[str, int], Floor]:
        """Every floor that was ever raised."""
        return dict(self._known)


Days = Mapping[int, Array]  # by UTC day (seconds, its beginning): slots of markets


class Closed:
    """The UTC days of markets that no event can change any more: raw events of them were dropped, or soon will be."""

    def __init__(self, packed: Iterable[tuple[int, bytes]] = ()) -> None:
        self._packed = dict(packed)
        self._open: dict[int, Array] = {}  # the days asked for last, as masks by slot

    def __len__(self) -> int:
        return len(self._packed)

    @property
    def last(self) -> int:
        """The beginning of the newest day."""
        return max(self._packed, default=NEVER)

    def days(self) -> list[int]:
        """The beginnings of the days that are closed for some market, ascending."""
        return sorted(self._packed)

    def slots(self, day: int) -> Array:
        """The markets that the day is closed for, ascending."""
        return np.flatnonzero(self._mask(day))

    def holds(self, day: int, slots: Array) -> Array:
        """Of these markets, those that the day is closed for, as a mask."""
        mask = self._mask(day)
        if not len(mask):
            return np.zeros(len(slots), np.bool_)
        return mask[np.minimum(slots, len(mask) - 1)] & (slots < len(mask))

    def joined(self, days: Days) -> list[tuple[int, bytes]]:
        """What these days come to with those of `days`, packed, to be put away and then `take`n."""
        rows = []
        for day, slots in days.items():
            mask = self._mask(day)
            wide = np.zeros(max(len(mask), int(slots.max(initial=-1)) + 1), np.bool_)
            wide[: len(mask)] = mask
            wide[slots] = True
            rows.append((day, zlib.compress(np.packbits(wide).tobytes())))
        return rows

    def take(self, rows: Iterable[tuple[int, bytes]]) -> None:
        """These are what is known of their days from now on."""
        for day, packed in rows:
            self._packed[day] = packed
            self._open.pop(day, None)

    def _mask(self, day: int) -> Array:
        mask = self._open.get(day)
        if mask is None:
            packed = self._packed.get(day)
            if packed is None:
                return np.zeros(0, np.bool_)
            mask = np.unpackbits(np.frombuffer(zlib.decompress(packed), np.uint8)).astype(np.bool_)
            while len(self._open) >= 64:
                del self._open[next(iter(self._open))]
            self._open[day] = mask
        return mask


class Known(NamedTuple):
    """All that state.db says of what was dropped."""

    floors: dict[tuple[str, int], Floor]
    closed: list[tuple[int, bytes]]
    dropped: int  # batches up to this one are in no file
    frozen: list[Part]  # files that alone have the bars of closed days: they cannot be folded again


# --- in state.db: the truth


def known(state: State) -> Known:
    """What was dropped."""
    with state.reading() as db:
        floors = {(kind, rung): Floor(before, seq) for kind, rung, before, seq in db.execute("SELECT * FROM floors")}
        closed_ = list(db.execute("SELECT day, markets FROM closed ORDER BY day"))
        ((dropped_,),) = db.execute("SELECT coalesce(max(seq), 0) FROM dropped")
        frozen = [
            part
            for (parts,) in db.execute("SELECT parts FROM frozen ORDER BY kind, rung, low")
            for part in msgspec.json.decode(parts, type=list[Part])
        ]
    return Known(floors, closed_, dropped_, frozen)


def note_floors(state: State, floors: Mapping[tuple[str, int], Floor]) -> None:
    """Write down that these floors are raised; of partitions below them nothing is kept in mind."""
    rows = [(kind, rung, *floor) for (kind, rung), floor in floors.items()]
    with state.writing() as db:
        db.executemany(
            "INSERT INTO floors VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE "
            "SET before = max(before, excluded.before), seq = max(seq, excluded.seq)",
            rows,
        )
        db.executemany("DELETE FROM frozen WHERE kind = ? AND rung = ? AND low < ?", [row[:3] for row in rows])


def note_closed(state: State, rows: Sequence[tuple[int, bytes]], kind: str, seq: int) -> None:
    """Write down that these days are closed since this batch; streams of the kind that stand before it begin anew."""
    with state.writing() as db:
        db.executemany("INSERT OR REPLACE INTO closed VALUES (?, ?)", rows)
        db.executemany(
            "INSERT INTO floors VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET seq = max(seq, excluded.seq)",
            [(kind, rung, NEVER, seq) for rung in schema.RUNGS],
        )


def note_frozen(state: State, parts: Sequence[Part]) -> None:
    """Write down that these files alone have the bars of closed days: all those of the partitions that they are of."""
    by: dict[Partition, list[Part]] = {}
    for part in parts:
        by.setdefault(part.partition, []).append(part)
    with state.writing() as db:
        db.executemany(
            "INSERT OR REPLACE INTO frozen VALUES (?, ?, ?, ?)",
            [(each.kind, each.rung, each.low, msgspec.json.encode(some)) for each, some in by.items()],
        )


def note_dropped(state: State, seq: int) -> None:
    """Write down that batches up to this one are in no file any more."""
    with state.writing() as db:
        db.execute("DELETE FROM dropped")
        db.execute("INSERT INTO dropped VALUES (?)", [seq])


def slots_of(state: State, kind: str) -> Array:
    """All markets of a kind."""
    with state.reading() as db:
        rows = db.execute("SELECT slot FROM markets WHERE kind = ? ORDER BY slot", [kind]).fetchall()
    return np.array([slot for (slot,) in rows], np.int64)


# --- in DuckDB: what each snapshot knows


def floors(db: Connection) -> dict[tuple[str, int], Floor]:
    """The floors by kind and rung."""
    rows = db.execute("SELECT kind, rung, before, seq FROM floors").fetchall()
    return {(kind, rung): Floor(before, seq) for kind, rung, before, seq in rows}


def closed(db: Connection) -> Closed:
    """The days that are closed, and for which markets."""
    return Closed(db.execute("SELECT day, markets FROM closed ORDER BY day").fetchall())


def closed_for(db: Connection, market: int) -> list[int]:
    """The days (seconds, their beginnings) that are closed for a market: their raw events were dropped, or soon are."""
    known = closed(db)
    return [day for day in known.days() if known.holds(day, np.array([market]))[0]]


def dropped(db: Connection) -> int:
    """Batches up to this one are in no file any more."""
    ((seq,),) = db.execute("SELECT coalesce(max(seq), 0) FROM dropped").fetchall()
    return int(seq)


def before(db: Connection, kind: str, rung: int) -> int:
    """There are no bars of this resolution with t < this."""
    ((found,),) = db.execute(
        f"SELECT coalesce(max(before), {NEVER}) FROM floors WHERE kind = ? AND rung = ?", [kind, rung]
    ).fetchall()
    return int(found)


def settle(db: Connection, said: Known) -> None:
    """Have the database know of everything that was dropped, and drop what a crash left; the list of files is not
    looked at."""
    for (kind, rung), floor in said.floors.items():
        if rung == RAW:
            lift(db, kind, rung, floor)
        else:
            drop_bars(db, kind, rung, floor)
    close(db, said.closed)
    if said.dropped > dropped(db):
        drop_batches(db, said.dropped)


def lift(db: Connection, kind: str, rung: int, floor: Floor) -> None:
    """Raise a floor."""
    old = floors(db).get((kind, rung), Floor())
    new = Floor(max(old.before, floor.before), max(old.seq, floor.seq))
    db.execute("DELETE FROM floors WHERE kind = ? AND rung = ?", [kind, rung])
    db.execute("INSERT INTO floors VALUES (?, ?, ?, ?)", [kind, rung, *new])


def drop_bars(db: Connection, kind: str, rung: int, floor: Floor) -> tuple[int, list[Part]]:
    """Raise a floor and drop all bars below it: how many rows that were in tables, and the files they were in."""
    lift(db, kind, rung, floor)
    rows = 0
    for table in (schema.candle_table(kind, rung), schema.recent_table(kind, rung)):
        ((count,),) = db.execute(f"DELETE FROM {table} WHERE t < ?", [floor.before]).fetchall()
        rows += count
    found = db.execute(
        f"{partitions.SELECT} WHERE kind = ? AND rung = ? AND high <= ? ORDER BY low, part", [kind, rung, floor.before]
    ).fetchall()
    db.execute("DELETE FROM archived WHERE kind = ? AND rung = ? AND high <= ?", [kind, rung, floor.before])
    return rows, [Part(*row) for row in found]


def close(db: Connection, rows: Sequence[tuple[int, bytes]]) -> None:
    """These days are closed."""
    if rows:
        db.execute("DELETE FROM closed WHERE day IN (SELECT unnest(?))", [[day for day, _ in rows]])
        db.executemany("INSERT INTO closed VALUES (?, ?)", [list(row) for row in rows])


def forget_ended(db: Connection, kind: str, slots: Array, seq: int) -> None:
    """Streams of the kind that stand before this batch begin anew, so nobody asks which bars ended until then."""
    mine = pa.table({"market": pa.array(slots)})  # noqa: F841 - DuckDB reads the table by its name here
    db.execute("DELETE FROM ended WHERE died <= ? AND market IN (SELECT market FROM mine)", [seq])
    for rung in schema.RUNGS:
        lift(db, kind, rung, Floor(seq=seq))


def drop_events(db: Connection, kind: str, slots: Array, old: Sealed, new: Sealed | None) -> None:
    """Have a file without the events of a kind read in place of one with them, if it is another, and raise the floor
    of its raw events. No file before it has any of them."""
    if new is not None:
        manifest.merge(db, new, [old])
    mine = pa.table({"market": pa.array(slots)})  # noqa: F841 - DuckDB reads the table by its name here
    for table in ("dead", "finished"):
        db.execute(
            f"DELETE FROM {table} WHERE pos < ? AND market IN (SELECT market FROM mine)", [old.last + 1 << ROW_BITS]
        )
    lift(db, kind, RAW, Floor(seq=old.last))


def drop_batches(db: Connection, seq: int) -> None:
    """Batches up to this one are in no file any more."""
    db.execute("DELETE FROM sealed WHERE last <= ?", [seq])
    db.execute("DELETE FROM dropped")
    db.execute("INSERT INTO dropped VALUES (?)", [seq])


def forget_identities(db: Connection, seq: int) -> None:
    """What these batches let go of is in the files of identities."""
    db.execute("DELETE FROM forgotten WHERE seq <= ?", [seq])


def beside(db: Connection, where: Partition, seq: int) -> int:
    """How many rows of a partition, of batches up to this one, lie in tables."""
    total = 0
    for table in (schema.candle_table(where.kind, where.rung), schema.recent_table(where.kind, where.rung)):
        ((count,),) = db.execute(
            f"SELECT count(*) FROM {table} WHERE t >= ? AND t < ? AND rev <= ?", [where.low, where.high, seq]
        ).fetchall()
        total += count
    return total
