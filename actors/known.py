"""Who was here before: the identities of all events, and the batches that the store may not have yet."""

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import numpy as np
import trio

from actors.identities import same
from storage import hashing
from storage.commits import Commit
from storage.errors import Unavailable
from storage.events import Array, Events, concat

log = logging.getLogger(__name__)

Run = Callable[..., Awaitable[Any]]


class Index(Protocol):
    """Which identities are known: see `storage.identities`."""

    def find(self, ident: Array) -> tuple[Array, Array, Array]: ...
    def find_older(self, ident: Array) -> tuple[Array, Array]: ...
    @property
    def full(self) -> bool: ...
    @property
    def frozen(self) -> bool: ...
    @property
    def merge_due(self) -> bool: ...
    def freeze(self, through: int) -> bool: ...
    def spill(self) -> None: ...
    def merge(self) -> None: ...
    def add(self, ident: Array, digest: Array, pos: Array) -> None: ...
    def forget(self, ident: Array) -> None: ...


class Known:
    """What is known of the events that came before, in memory or in files."""

    def __init__(
        self, index: Index, applied: Callable[[], int], run: Run, events_at: Callable[[Array], Awaitable[Events]]
    ) -> None:
        """`applied` says which batches the store has, `events_at` reads events of those; `index` is run through `run`
        where it blocks."""
        self._index, self._applied, self._run, self._events_at = index, applied, run, events_at
        self._recent: deque[Commit] = deque()  # what the store may not have yet
        self.unflushed = 0  # events in them
        self._spilling: trio.Event | None = None
        self.failing = ""  # why identities have to stay in memory; empty while they need not
        self._nursery: trio.Nursery

    def start(self, nursery: trio.Nursery) -> None:
        """Have a nursery in which identities are put away."""
        self._nursery = nursery

    async def of(self, words: Events) -> tuple[Events, Array, Array, Events]:
        """The words, place and digest of the event that each is about, and the events that some may change.

        Two identities may share a hash. Before a word changes an event, what both say of their identity is compared;
        a word that is about another event than its hash was taken for goes on under another hash.
        """
        ident = words.integers("ident")
        said, removed = words.integers("digest"), words.integers("removed")
        pos, digest = await self._found(ident)
        rows = np.flatnonzero((pos >= 0) & ((digest != said) | removed))
        standing = Events(0, {})
        while len(rows):
            events = await self._at(np.unique(pos[rows]))
            standing = concat([standing, events]) if standing.n else events
            places_ = events.integers("pos")
            rows = rows[np.isin(pos[rows], places_)]
            strangers = rows[~same(words.take(rows), events.take(np.searchsorted(places_, pos[rows])))]
            if not len(strangers):
                break
            ident = ident.copy()
            ident[strangers] = hashing.another(ident[strangers])
            words = words.with_columns(ident=ident)
            pos[strangers], digest[strangers] = await self._found(ident[strangers])
            rows = strangers[(pos[strangers] >= 0) & ((digest != said) | removed)[strangers]]
        return words, pos, digest, standing

    async def _found(self, ident: Array) -> tuple[Array, Array]:
        """Place and digest of the events with these identities, −1 and 0 where there is none."""
        pos, digest, maybe = self._index.find(ident)
        older = np.flatnonzero(maybe)
        if len(older):
            pos[older], digest[older] = await self._run(self._index.find_older, ident[older])
        return pos, digest

    async def _at(self, wanted: Array) -> Events:
        """The events at these places, in order of place."""
        parts = []
        for commit in self._recent:
            if commit.events.n and len(rows := np.flatnonzero(np.isin(commit.events.integers("pos"), wanted))):
                parts.append(commit.events.take(rows))
        if parts:
            wanted = np.setdiff1d(wanted, np.concatenate([part.integers("pos") for part in parts]))
        if len(wanted):
            parts.append(await self._events_at(wanted))
        events = concat(parts)
        return events.take(np.argsort(events.integers("pos")))

    def remember(self, commit: Commit) -> None:
        """Remember a batch that is in the journal."""
        if len(commit.forgotten):
            self._index.forget(commit.forgotten)
        know(self._index, commit.events)
        self._recent.append(commit)
        self.unflushed += commit.events.n

    def flushed(self) -> list[Commit]:
        """Let go of the batches that the store has by now, and say which."""
        gone = []
        applied = self._applied()
        while self._recent and self._recent[0].seq <= applied:
            gone.append(self._recent.popleft())
            self.unflushed -= gone[-1].events.n
        return gone

    async def put_away(self, seq: int) -> None:
        """Keep the identities in memory few: the older ones go to files, on a thread."""
        if self._index.full:
            await self.put_all_away(seq)

    async def put_all_away(self, seq: int) -> None:
        while self._index.frozen and self._spilling is not None:
            await self._spilling.wait()
        self._index.freeze(seq)
        if self._spilling is None:
            self._spilling = trio.Event()
            self._nursery.start_soon(self._spill)

    async def _spill(self) -> None:
        try:
            await self._run(self._index.spill)
            while self._index.merge_due:
                await self._run(self._index.merge)
            self.failing = ""
        except Unavailable as error:
            if not self.failing:
                log.error("%s; they stay in memory until there is room", error)
            self.failing = str(error)
        finally:
            done, self._spilling = self._spilling, None
            if done is not None:
                done.set()

    async def spilled(self) -> None:
        """Wait until what is to be put away is in files, if there is room."""
        while self._spilling is not None:
            await self._spilling.wait()


def know(index: Index, events: Events) -> None:
    """Add the identities of committed events to the index."""
    if "ident" not in events:
        return
    ident, digest, pos = (events.integers(name) for name in ("ident", "digest", "pos"))
    some = ident != 0
    if some.all():
        index.add(ident, digest, pos)
    elif some.any():
        index.add(ident[some], digest[some], pos[some])
