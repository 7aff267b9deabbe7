"""API keys: made once, shown once, kept as hashes."""

import hashlib
import hmac
import secrets
import time

from storage.errors import BadRequest
from storage.records import SCOPES, ApiKey, Scope
from storage.state import State

LONGEST_NAME = 100


def create(state: State, scope: str, name: str = "") -> str:
    """A new key of this scope; the only time it is seen."""
    wanted = next((s for s in SCOPES if s == scope), None)
    if wanted is None:
        raise BadRequest(f"scope: expected one of {', '.join(SCOPES)}, got {scope!r}")
    if len(name) > LONGEST_NAME or not name.isprintable():
        raise BadRequest(f"name: expected at most {LONGEST_NAME} printable characters, got {name!r:.120}")
    key = f"cdl_{wanted[0]}_{secrets.token_urlsafe(32)}"
    with state.writing() as db:
        db.execute(
            "INSERT INTO keys (hash, scope, name, created) VALUES (?, ?, ?, ?)", [hashed(key), wanted, name, _now()]
        )
    return key


def check(state: State, key: str) -> Scope | None:
    """The scope of a key that is known and not revoked."""
    digest = hashed(key)
    with state.reading() as db:
        row = db.execute("SELECT hash, scope FROM keys WHERE hash = ? AND revoked IS NULL", [digest]).fetchone()
    # The index compares hashes of 256 random bits, whose timing tells nothing about a key; the last word takes
    # constant time.
    if row is None or not hmac.compare_digest(bytes(row[0]), digest):
        return None
    return next(s for s in SCOPES if s == row[1])


def listed(state: State) -> list[ApiKey]:
    """All keys ever made, oldest first."""
    with state.reading() as db:
        rows = db.execute("SELECT id, scope, name, created, last_used, revoked FROM keys ORDER BY id").fetchall()
    return [
        ApiKey(id=i, scope=scope, name=name, created=created, last_used=used, revoked=revoked)
        for i, scope, name, created, used, revoked in rows
    ]


def has_admin(state: State) -> bool:
    """Whether anybody holds a key that may do everything."""
    return any(key.scope == "admin" and key.revoked is None for key in listed(state))


def revoke(state: State, which: int) -> None:
    """End a key; saying it again changes nothing."""
    with state.writing() as db:
        if db.execute("SELECT 1 FROM keys WHERE id = ?", [which]).fetchone() is None:
            raise BadRequest(f"no key {which}")
        db.execute("UPDATE keys SET revoked = ? WHERE id = ? AND revoked IS NULL", [_now(), which])


def touch(state: State, used: dict[str, int]) -> None:
    """Note when keys were last used, in µs since 1970; many at once, because each commit waits for the disk."""
    with state.writing() as db:
        db.executemany(
            "UPDATE keys SET last_used = max(coalesce(last_used, 0), ?) WHERE hash = ?",
            [(at, hashed(key)) for key, at in used.items()],
        )


def hashed(key: str) -> bytes:
    """What is stored of a key: its 256 bits are random, so one plain round is enough."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def _now() -> int:
    return time.time_ns() // 1000
