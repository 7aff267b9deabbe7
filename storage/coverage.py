"""Which feeds say that they saw everything of which market, and when: spans in µs since 1970, low ≤ t < high.

What a feed saw (`feed_spans`) and which markets it watched (`members`) are kept apart, so that a heartbeat costs the
same however many markets it speaks for. What was imported is known by market (`covered`).
"""

from collections.abc import Collection, Sequence
from typing import Literal

from msgspec import Struct

from storage.spans import Span
from storage.state import Connection, State

Standing = Literal["up", "down", "ended"]

MOST_SPANS = 10_000  # of one feed; the oldest are forgotten, and with them that the feed was there
MOST_PIECES = 1_000  # of one market and feed, likewise


class Feed(Struct, frozen=True, kw_only=True):
    """How a feed stands: it saw everything from `low` on and before `high`."""

    name: str
    low: int
    high: int
    heard: int  # when it last reported, by our clock
    standing: Standing


class Source(Struct, frozen=True, kw_only=True):
    """What is known of one market through one feed, within a stretch of time."""

    feed: str
    watched: Sequence[tuple[int, int | None]]  # None: goes on
    saw: Sequence[Span]  # of all that it watched
    covered: Sequence[Span]  # of this market, imported


def reporting(state: State) -> list[Feed]:
    """The feeds that have not ended."""
    with state.reading() as db:
        rows = db.execute(
            "SELECT name, max(low), high, heard, standing FROM feeds JOIN feed_spans ON feed = id "
            "WHERE standing <> 'ended' GROUP BY id"
        ).fetchall()
    return [
        Feed(name=name, low=low, high=high, heard=heard, standing=standing) for name, low, high, heard, standing in rows
    ]


def put(state: State, feeds: Sequence[Feed]) -> None:
    """Note how these feeds stand."""
    with state.writing() as db:
        for feed in feeds:
            _put(db, feed)


def watch(state: State, feed: Feed, markets: Collection[int] | None, at: int) -> None:
    """Note how a feed stands, and that from this instant on it watches these markets (slots) and no others.

    None leaves them as they are. A feed that has ended watches none.
    """
    with state.writing() as db:
        which = _put(db, feed)
        if feed.standing == "ended":
            markets = ()
        if markets is None:
            return
        old = {slot for (slot,) in db.execute("SELECT slot FROM members WHERE feed = ? AND high IS NULL", [which])}
        new = set(markets)
        db.executemany(
            "UPDATE members SET high = max(low, ?) WHERE slot = ? AND feed = ? AND high IS NULL",
            [(at, slot, which) for slot in old - new],
        )
        for slot in new - old:
            db.execute(
                "INSERT INTO members VALUES (?, ?, ?, NULL) ON CONFLICT DO UPDATE SET high = NULL", [slot, which, at]
            )
            _trim(db, "members", slot, which)


def cover(state: State, name: str, pieces: Sequence[tuple[int, int, int]]) -> None:
    """Note that what happened in a market (slot) from `low` on and before `high` is all here, for each of these."""
    with state.writing() as db:
        which = _named(db, name)
        for market, low, high in pieces:
            mine = "slot = ? AND feed = ? AND low <= ? AND high >= ?"
            touching = [market, which, high, low]
            first, last = db.execute(f"SELECT min(low), max(high) FROM covered WHERE {mine}", touching).fetchone()
            if first is not None:
                low, high = min(low, first), max(high, last)
                db.execute(f"DELETE FROM covered WHERE {mine}", touching)
            db.execute("INSERT INTO covered VALUES (?, ?, ?, ?)", [market, which, low, high])
            _trim(db, "covered", market, which)


def sources(state: State, market: int, low: int, high: int) -> list[Source]:
    """What is known of a market between two instants, by the names of the feeds."""
    with state.reading() as db:
        watched: dict[int, list[tuple[int, int | None]]] = {}
        rows = db.execute(
            "SELECT feed, low, high FROM members WHERE slot = ? AND low < ? AND coalesce(high > ?, 1)",
            [market, high, low],
        )
        for feed, first, last in rows:
            watched.setdefault(feed, []).append((first, last))
        covered: dict[int, list[Span]] = {}
        rows = db.execute(
            "SELECT feed, low, high FROM covered WHERE slot = ? AND low < ? AND high > ?", [market, high, low]
        )
        for feed, first, last in rows:
            covered.setdefault(feed, []).append((first, last))
        found = []
        for feed in watched.keys() | covered.keys():
            name, since = db.execute("SELECT name, since FROM feeds WHERE id = ?", [feed]).fetchone()
            saw = db.execute(
                "SELECT low, high FROM feed_spans WHERE feed = ? AND low < ? AND high > ? ORDER BY low",
                [feed, high, low],
            ).fetchall()
            # Of a time whose spans were forgotten nobody knows what the feed saw.
            mine = [(max(a, since), b) for a, b in watched.get(feed, []) if b is None or b > since]
            found.append(Source(feed=name, watched=mine, saw=saw, covered=covered.get(feed, [])))
    return sorted(found, key=lambda source: source.feed)


def _named(db: Connection, name: str) -> int:
    """The number of a feed; one that only imports has ended, as nobody waits for it to report."""
    db.execute(
        "INSERT INTO feeds (name, since, heard, standing) VALUES (?, 0, 0, 'ended') ON CONFLICT DO NOTHING", [name]
    )
    ((which,),) = db.execute("SELECT id FROM feeds WHERE name = ?", [name]).fetchall()
    return int(which)


def _put(db: Connection, feed: Feed) -> int:
    which = _named(db, feed.name)
    db.execute("UPDATE feeds SET heard = ?, standing = ? WHERE id = ?", [feed.heard, feed.standing, which])
    known = db.execute(
        "UPDATE feed_spans SET high = max(high, ?) WHERE feed = ? AND low = ?", [feed.high, which, feed.low]
    ).rowcount
    if not known:
        db.execute("INSERT INTO feed_spans VALUES (?, ?, ?)", [which, feed.low, feed.high])
        query = f"SELECT low FROM feed_spans WHERE feed = ? ORDER BY low DESC LIMIT 1 OFFSET {MOST_SPANS - 1}"
        for (oldest,) in db.execute(query, [which]).fetchall():
            db.execute("DELETE FROM feed_spans WHERE feed = ? AND low < ?", [which, oldest])
            db.execute("UPDATE feeds SET since = ? WHERE id = ?", [oldest, which])
    return which


def _trim(db: Connection, table: str, market: int, feed: int) -> None:
    """Forget the oldest pieces of one market and feed where they are too many."""
    query = f"SELECT low FROM {table} WHERE slot = ? AND feed = ? ORDER BY low DESC LIMIT 1 OFFSET {MOST_PIECES - 1}"
    for (oldest,) in db.execute(query, [market, feed]).fetchall():
        db.execute(f"DELETE FROM {table} WHERE slot = ? AND feed = ? AND low < ?", [market, feed, oldest])
