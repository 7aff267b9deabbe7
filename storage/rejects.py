"""Dead letters: refused events with the reason, the newest of them, in a bounded SQLite file of their own.

Apart from state.db, because a flood of bad events must neither slow down nor swell what has been acknowledged; and
without a wait for the disk, because a lost dead letter is no lost event.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from storage.records import Reject
from storage.state import Connection, Migration, State

MOST = 100_000  # letters
MOST_BYTES = 64 << 20  # of text, in UTF-8
LONGEST_EVENT = 4096  # characters kept of one
LONGEST_TEXT = 500  # characters kept of every other text

MIGRATIONS: Sequence[Migration] = (
    (
        """
        CREATE TABLE rejects (
            id INTEGER PRIMARY KEY,
            at INTEGER NOT NULL,
            source TEXT NOT NULL,
            market_symbol TEXT,
            error TEXT NOT NULL,
            event TEXT NOT NULL,
            bytes INTEGER NOT NULL
        )
        """,
        "CREATE TABLE totals (kept INTEGER NOT NULL, bytes INTEGER NOT NULL, dropped INTEGER NOT NULL)",
        "INSERT INTO totals VALUES (0, 0, 0)",
    ),
)
INSERT = "INSERT INTO rejects (at, source, market_symbol, error, event, bytes) VALUES (?, ?, ?, ?, ?, ?)"
NEWEST = "SELECT at, source, market_symbol, error, event FROM rejects ORDER BY id DESC LIMIT ?"


class Totals(NamedTuple):
    """What the file holds, and how many letters it has let go of."""

    kept: int
    bytes: int
    dropped: int


def opened(path: Path, *, or_read: bool = False) -> State:
    """The file at `path`, made if it does not exist; `or_read` as in `State.open`."""
    return State.open(path, MIGRATIONS, synchronous="NORMAL", or_read=or_read)


def put(state: State, letters: Sequence[Reject], most: int = MOST, most_bytes: int = MOST_BYTES) -> Totals:
    """Keep these, oldest first, and let go of the oldest of all that are then too many."""
    if not letters:
        return totals(state)
    newest = [_row(letter) for letter in letters[-most:]]
    with state.writing() as db:
        db.executemany(INSERT, newest)
        kept, size, dropped = db.execute("SELECT kept, bytes, dropped FROM totals").fetchone()
        kept += len(newest)
        size += sum(row[-1] for row in newest)
        gone, gone_bytes = _drop(db, kept - most, size - most_bytes)
        now = Totals(kept - gone, size - gone_bytes, dropped + gone + len(letters) - len(newest))
        db.execute("UPDATE totals SET kept = ?, bytes = ?, dropped = ?", now)
        return now


def listed(state: State, limit: int = 100) -> list[Reject]:
    """The newest letters, newest first."""
    with state.reading() as db:
        return [
            Reject(at=at, source=source, market_symbol=symbol, error=error, event=event)
            for at, source, symbol, error, event in db.execute(NEWEST, [max(0, limit)])
        ]


def totals(state: State) -> Totals:
    """What the file holds."""
    with state.reading() as db:
        return Totals(*db.execute("SELECT kept, bytes, dropped FROM totals").fetchone())


def _drop(db: Connection, too_many: int, too_big: int) -> tuple[int, int]:
    """Delete the oldest until this many letters and this many bytes are gone; says how many of both it were."""
    if too_many <= 0 and too_big <= 0:
        return 0, 0
    oldest = db.execute("SELECT id, bytes FROM rejects ORDER BY id")
    last, gone, gone_bytes = 0, 0, 0
    for which, size in oldest:
        last, gone, gone_bytes = which, gone + 1, gone_bytes + size
        if gone >= too_many and gone_bytes >= too_big:
            break
    oldest.close()
    db.execute("DELETE FROM rejects WHERE id <= ?", [last])
    return gone, gone_bytes


def _row(letter: Reject) -> tuple[int, str, str | None, str, str, int]:
    texts = [letter.source, letter.market_symbol or "", letter.error]
    source, symbol, error = (_cut(text, LONGEST_TEXT) for text in texts)
    event = _cut(letter.event, LONGEST_EVENT)
    size = sum(len(text.encode()) for text in (source, symbol, error, event))
    return letter.at, source, symbol or None, error, event, size


def _cut(text: str, longest: int) -> str:
    # What was refused may be anything, half a character included.
    whole = text.encode("utf-8", "replace").decode()
    return whole if len(whole) <= longest else whole[: longest - 1] + "…"
