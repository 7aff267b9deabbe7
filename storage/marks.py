"""Marks that somebody made: a word about an instant of a market, to be shown on its chart."""

from typing import Any, Literal, get_args

import msgspec
from msgspec import Struct

from storage.errors import Conflict
from storage.state import Connection, State

Place = Literal["bars", "timescale"]
PLACES: tuple[Place, ...] = get_args(Place)
MOST = 10_000  # of one market


class Border(Struct, frozen=True, forbid_unknown_fields=True):
    """A color of one's own."""

    border: str
    background: str


class Mark(Struct, frozen=True, kw_only=True):
    """A mark."""

    id: int
    at: int  # µs since 1970
    place: Place  # where it is shown
    text: str
    label: str  # one character
    color: str | Border


COLUMNS = "id, at, place, text, label, color"


def put(state: State, market: int, mark: Mark) -> Mark:
    """Keep a mark of a market (slot); the same with its id. Conflict where there are too many."""
    with state.writing() as db:
        ((count,),) = db.execute("SELECT count(*) FROM marks WHERE slot = ?", [market]).fetchall()
        if count >= MOST:
            raise Conflict(f"this market has {count} marks, which is all that it may; delete some")
        row = [market, mark.at, mark.place, mark.text, mark.label, msgspec.json.encode(mark.color).decode()]
        made = db.execute("INSERT INTO marks (slot, at, place, text, label, color) VALUES (?, ?, ?, ?, ?, ?)", row)
        return msgspec.structs.replace(mark, id=made.lastrowid)


def delete(state: State, market: int, which: int) -> bool:
    """Delete a mark of a market; whether there was one."""
    with state.writing() as db:
        return bool(db.execute("DELETE FROM marks WHERE slot = ? AND id = ?", [market, which]).rowcount)


def between(state: State, market: int, place: Place, low: int, high: int, limit: int) -> list[Mark]:
    """The newest marks of a market at a place with low ≤ at < high, the newest first."""
    where = "place = ? AND at >= ? AND at < ? ORDER BY at DESC, id DESC LIMIT ?"
    with state.reading() as db:
        return _marks(db, where, [market, place, low, high, limit])


def page(state: State, market: int, before: int, limit: int) -> list[Mark]:
    """The marks of a market that were made before this one (an id), the newest first."""
    with state.reading() as db:
        return _marks(db, "id < ? ORDER BY id DESC LIMIT ?", [market, before, limit])


def _marks(db: Connection, where: str, values: list[Any]) -> list[Mark]:
    return [
        Mark(
            id=which,
            at=at,
            place=place,
            text=text,
            label=label,
            color=msgspec.json.decode(color, type=str | Border),
        )
        for which, at, place, text, label, color in db.execute(
            f"SELECT {COLUMNS} FROM marks WHERE slot = ? AND {where}", values
        )
    ]
