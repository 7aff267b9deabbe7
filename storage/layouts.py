"""What people save of their charts: layouts, templates, drawings. Opaque texts, each of one user of one client."""

import time
from collections.abc import Callable
from typing import Literal, NamedTuple

from msgspec import Struct

from storage.errors import CandledError, TooLarge
from storage.state import Connection, State

Kind = Literal["chart", "study", "tool", "drawings"]

EACH = 256  # bytes that a row takes beside its content, about


class UnknownLayout(CandledError):
    """Nothing is saved under this name or number."""


class Owner(Struct, frozen=True):
    """Whose it is, as clients say it: nobody checks."""

    client: str
    user: str


class Limits(Struct, frozen=True):
    """Bytes that may be kept."""

    user: int
    all: int


class Saved(Struct, frozen=True):
    """One saved thing. Layouts of charts are told apart by their number, the others by place and name."""

    id: int
    place: str  # the tool of a drawing template, the layout of drawings
    name: str
    symbol: str
    resolution: str
    content: str
    changed: int  # Unix seconds


class Chart(NamedTuple):
    """A layout of a chart, as it is to be saved."""

    name: str
    symbol: str
    resolution: str
    content: str


COLUMNS = "id, place, name, symbol, resolution, {}, changed"


def listed(state: State, owner: Owner, kind: Kind, place: str = "") -> list[Saved]:
    """All of a kind, without their contents, the oldest first."""
    sql = f"SELECT {COLUMNS.format(repr(''))} FROM saved WHERE client = ? AND user = ? AND kind = ? AND place = ?"
    with state.reading() as db:
        rows = db.execute(sql + " ORDER BY id", [owner.client, owner.user, kind, place])
        return [Saved(*row) for row in rows]


def numbered(state: State, owner: Owner, number: int) -> Saved:
    """The layout of a chart."""
    with state.reading() as db:
        return _numbered(db, owner, number)


def named(state: State, owner: Owner, kind: Kind, place: str, name: str) -> Saved:
    """A template, or drawings."""
    with state.reading() as db:
        found = _named(db, owner, kind, place, name)
    if found is None:
        raise UnknownLayout(f"no {WORDS[kind]} {name!r:.100}")
    return found


def save(state: State, owner: Owner, number: int | None, chart: Chart, limits: Limits) -> int:
    """Keep the layout of a chart, a new one or instead of that with this number; its number."""
    with state.writing() as db:
        old = None if number is None else _numbered(db, owner, number)
        return _put(db, owner, "chart", old, ("", *chart), limits)


def put(
    state: State,
    owner: Owner,
    kind: Kind,
    place: str,
    name: str,
    made: Callable[[str | None], str],
    limits: Limits,
) -> None:
    """Keep what `made` makes of what is kept under this name (None: nothing) instead of it."""
    with state.writing() as db:
        old = _named(db, owner, kind, place, name)
        content = made(None if old is None else old.content)
        _put(db, owner, kind, old, (place, name, "", "", content), limits)


def remove(state: State, owner: Owner, number: int) -> None:
    """Forget the layout of a chart, and the drawings that belong to it."""
    with state.writing() as db:
        _numbered(db, owner, number)
        db.execute("DELETE FROM saved WHERE id = ?", [number])
        db.execute(
            "DELETE FROM saved WHERE client = ? AND user = ? AND kind = 'drawings' AND place = ?",
            [owner.client, owner.user, str(number)],
        )


def discard(state: State, owner: Owner, kind: Kind, place: str, name: str) -> None:
    """Forget a template."""
    with state.writing() as db:
        found = _named(db, owner, kind, place, name)
        if found is None:
            raise UnknownLayout(f"no {WORDS[kind]} {name!r:.100}")
        db.execute("DELETE FROM saved WHERE id = ?", [found.id])


WORDS: dict[Kind, str] = {
    "chart": "chart",
    "study": "study template",
    "tool": "drawing template",
    "drawings": "drawings of chart",
}


def _numbered(db: Connection, owner: Owner, number: int) -> Saved:
    sql = f"SELECT {COLUMNS.format('content')} FROM saved WHERE id = ? AND client = ? AND user = ? AND kind = 'chart'"
    row = db.execute(sql, [number, owner.client, owner.user]).fetchone() if number < 2**63 else None
    if row is None:
        raise UnknownLayout(f"no chart {number}")
    return Saved(*row)


def _named(db: Connection, owner: Owner, kind: Kind, place: str, name: str) -> Saved | None:
    sql = f"SELECT {COLUMNS.format('content')} FROM saved WHERE client = ? AND user = ? AND kind = ? AND place = ?"
    row = db.execute(sql + " AND name = ?", [owner.client, owner.user, kind, place, name]).fetchone()
    return None if row is None else Saved(*row)


def _put(db: Connection, owner: Owner, kind: Kind, old: Saved | None, values: tuple[str, ...], limits: Limits) -> int:
    size = EACH + sum(len(value.encode()) for value in values)
    fields = (*values, size, int(time.time()))
    if old is None:
        columns = "client, user, kind, place, name, symbol, resolution, content, bytes, changed"
        row = [owner.client, owner.user, kind, *fields]
        number = db.execute(f"INSERT INTO saved ({columns}) VALUES ({', '.join('?' * len(row))})", row).lastrowid
    else:
        number = old.id
        sets = "place = ?, name = ?, symbol = ?, resolution = ?, content = ?, bytes = ?, changed = ?"
        db.execute(f"UPDATE saved SET {sets} WHERE id = ?", [*fields, number])
    assert number is not None
    mine = db.execute("SELECT sum(bytes) FROM saved WHERE client = ? AND user = ?", [owner.client, owner.user])
    if (used := mine.fetchone()[0]) > limits.user:
        raise TooLarge(f"user: at most {limits.user} bytes may be saved for each, this would make it {used}")
    if (used := db.execute("SELECT bytes FROM saved_bytes").fetchone()[0]) > limits.all:
        raise TooLarge(f"content: at most {limits.all} bytes may be saved in all, this would make it {used}")
    return number
