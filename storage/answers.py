"""What requests with an idempotency key were told: an index over what the journal says, kept for a while."""

from collections.abc import Sequence
from pathlib import Path

from storage.commits import Answer
from storage.state import Migration, State

KEPT = 48 * 3600  # seconds
MIGRATIONS: Sequence[Migration] = (
    (
        "CREATE TABLE answers (key TEXT PRIMARY KEY, at INTEGER NOT NULL, body BLOB NOT NULL) WITHOUT ROWID",
        "CREATE INDEX answers_by_age ON answers (at)",
    ),
    ("ALTER TABLE answers ADD COLUMN asked BLOB NOT NULL DEFAULT x''",),
)


def opened(path: Path, *, or_read: bool = False) -> State:
    """The file at `path`, made if it does not exist; `or_read` as in `State.open`."""
    return State.open(path, MIGRATIONS, or_read=or_read)


def put(state: State, answers: Sequence[Answer], now: float) -> None:
    """Keep these answers; drop those that are older than KEPT. The first answer to a key stands."""
    with state.writing() as db:
        db.executemany(
            "INSERT OR IGNORE INTO answers (key, at, body, asked) VALUES (?, ?, ?, ?)",
            [(answer.key, answer.at, answer.body, answer.asked) for answer in answers],
        )
        db.execute("DELETE FROM answers WHERE at < ?", (int(now) - KEPT,))


def find(state: State, key: str) -> Answer | None:
    """What the request with this key was told; None where it is not known."""
    with state.reading() as db:
        row = db.execute("SELECT key, at, body, asked FROM answers WHERE key = ?", (key,)).fetchone()
    return None if row is None else Answer(*row)
