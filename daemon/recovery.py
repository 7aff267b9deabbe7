"""What a start does: first whatever taking events needs, then the store brought to where the journal is."""

import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from msgspec import Struct

from actors.catch_up import CatchUp
from actors.known import know
from actors.registry import Registry
from actors.rounds import Round, made
from storage import archive, candles, ledger, manifest, retention, sealed
from storage.commits import ROW_BITS, Answer, Commit, decode
from storage.database import Database, Door
from storage.errors import BrokenStore, Unavailable
from storage.events import Array, Events, concat
from storage.identities import Identities
from storage.journal import Journal
from storage.sealed import Sealed

log = logging.getLogger(__name__)

REPLAYED = 500_000  # events that are recovered at a time
TOLD = 5.0  # seconds between two lines about how far it is

Put = Callable[[Sequence[Answer]], Awaitable[None]]


class Recovered(Struct, frozen=True):
    """What the start brought back."""

    batches: int
    events: int
    seconds: float
    torn_bytes: int
    set_aside: str | None


class Target(Protocol):
    """What is asked of the writer."""

    def hold(self, round_: Round) -> None: ...
    async def flushed(self, seq: int) -> None: ...


class _Missing(NamedTuple):
    """What the store does not have yet."""

    files: list[Sealed]
    applied: int
    through: int  # batches that are sealed
    last: int
    cuts: list[int]  # batches up to one of these and later ones must not be flushed together


class Recovery:
    """One start: `prepare`, after which events can be taken, and `run`, after which bars can be read."""

    def __init__(
        self,
        journal: Journal,
        database: Database,
        door: Door,
        registry: Registry,
        raw: Path,
        dropped: retention.Known,
    ) -> None:
        """`raw` is the folder of sealed events; `dropped` is gone for good, and must not come back."""
        self._dropped = dropped
        self._journal, self._database, self._door, self._registry = journal, database, door, registry
        self._raw = raw
        self._began = time.perf_counter()
        self._missing = _Missing([], 0, 0, 0, [])
        self.catch_up = CatchUp("", 0)
        self.recovered = Recovered(0, 0, 0.0, 0, None)

    @property
    def applied(self) -> int:
        """The newest batch that the store had when it was opened."""
        return self._missing.applied

    @property
    def last(self) -> int:
        """The newest batch that there was at the start."""
        return self._missing.last

    @property
    def behind(self) -> bool:
        """Whether there is anything that the store did not have."""
        return self.applied < self.last

    async def prepare(self, identities_folder: Path, put: Put) -> Identities:
        """Find out what there is, and everybody who is known; `put` keeps what requests with a key were told."""
        journal, database = self._journal, self._database
        await database.write(retention.settle, self._dropped)
        if await database.write(manifest.settle, self._raw, journal.first_seq):
            log.error("the store is rebuilt without some events; positions of before mean nothing any more")
            await self._door.run(journal.renew_epoch)
        applied = await database.write(candles.adopt, journal.epoch)
        cuts = await database.write(archive.restore, journal.last_seq, self._dropped.frozen)
        await database.read(archive.tidy)
        through = await database.read(manifest.through)
        files = [file for file in await database.read(manifest.listed) if not file.damaged and file.last > applied]
        self._missing = _Missing(files, applied, through, max(journal.last_seq, through, applied), cuts)
        identities = await self._known(identities_folder)
        answers, waiting, highest = await self._door.run(self._know, identities)
        await self._see_markets(highest)
        if answers:
            await put(answers)
        expected = waiting + sum(_events_after(file, applied) for file in files)
        what = "rebuilding the store" if applied < through or not applied else "taking in the end of the journal"
        self.catch_up = CatchUp(what, expected)
        return identities

    async def _see_markets(self, highest: int) -> None:
        """See that state.db has every market that anything here is of; `highest` is the last one in the journal.

        A new market would be taken for one that it has lost, and show that one's bars. Raises BrokenStore.
        """
        files = await self._database.read(manifest.listed)
        lived = await self._database.read(candles.lived)
        highest = max(highest, int(lived.max(initial=0)), *(file.high_market for file in files), 0)
        registered, _ = await self._registry.count()
        if highest > registered:
            raise BrokenStore(
                f"state.db has {registered} markets, and there are events and bars of {highest}: "
                "it was lost or is an older one; put it back, or restore a backup"
            )

    async def run(self, writer: Target) -> None:
        """Fold what sealed files and journal have and the store does not."""
        batches = events = 0
        told = time.perf_counter()
        chunks = self._chunks()
        applied = self.applied
        while (found := await self._door.run(next, chunks, None)) is not None:
            commits, stored = found
            round_ = await self._folded(commits)
            if stored:
                round_.events = ()
            writer.hold(round_)
            await writer.flushed(round_.last)
            batches += round_.last - applied
            applied = round_.last
            events += round_.count
            self.catch_up.add(round_.count)
            if time.perf_counter() - told >= TOLD:
                told = time.perf_counter()
                log.info("%s; %d events a second", self.catch_up.said(), events / (told - self._began))
        self.recovered = Recovered(
            batches,
            events,
            time.perf_counter() - self._began,
            self._journal.recovered.torn_bytes,
            str(self._database.set_aside) if self._database.set_aside else None,
        )

    def events_at(self, places: Array) -> Events:
        """The events at these places that only the journal has, while the store is behind it. Blocks."""
        wanted = np.unique(places >> ROW_BITS)
        wanted = wanted[wanted > max(self.applied, self._missing.through)]
        parts = [Events(0, {})]
        if len(wanted):
            for seq, record in self._journal.since(int(wanted[0]) - 1):
                if seq in wanted:
                    events = decode(seq, record).events
                    parts.append(events.take(np.flatnonzero(np.isin(events.integers("pos"), places))))
                if seq == wanted[-1]:
                    break
        return concat(parts)

    def _chunks(self) -> Iterator[tuple[list[Commit], bool]]:
        """What the store does not have, some batches at a time, and whether their events lie in a sealed file. Blocks.

        None before and after a cut come together.
        """
        files, applied, through, last, cuts = self._missing
        for file in files:
            for some in _some(sealed.commits(self._raw, file, applied, ends=cuts), cuts):
                yield some, True
        for some in _some((decode(*one) for one in self._unsealed(max(applied, through), last)), cuts):
            yield some, False

    def _unsealed(self, after: int, last: int) -> Iterator[tuple[int, memoryview]]:
        for seq, record in self._journal.since(after):
            if seq > last:  # taken since the start
                return
            yield seq, record

    async def _folded(self, commits: Sequence[Commit]) -> Round:
        slots = {event.market for commit in commits for event in commit.dead}
        for commit in commits:
            slots.update(np.unique(commit.events.integers("market")).tolist())
        await self._registry.load_slots(slots)
        return await self._door.run(made, commits, self._registry.kinds, self._registry.sources)

    async def _known(self, folder: Path) -> Identities:
        """The index of identities, with everything that the database knows of."""
        journal, database, seq = self._journal, self._database, self.applied
        index = await self._door.run(lambda: Identities.open(folder, epoch=journal.epoch))
        if index.broken or index.through > self.last:
            log.warning(
                "%s", index.broken or f"identities: files reach {index.through}, the journal {self.last}; rebuilt"
            )
            through = (seq + 1 << ROW_BITS) - 1
            await database.read(lambda db: index.rebuild(ledger.identities(db, -1, through), seq))
        else:
            index.forget(await database.read(ledger.forgotten, index.through))
            after, through = ((one + 1 << ROW_BITS) - 1 for one in (index.through, seq))
            for some in await database.read(lambda db: list(ledger.identities(db, after, through))):
                index.add(*some)
        return index

    def _know(self, index: Identities) -> tuple[list[Answer], int, int]:
        """Have the index know what the store does not have yet; the answers among that, how many events of it are
        not sealed, and the last market of these. Blocks."""
        files, applied, through, last, _ = self._missing
        known = max(index.through, applied)
        answers: list[Answer] = []
        for file in files:
            told = sealed.beside(self._raw, file, applied)
            answers += told.answers
            if file.last > known:
                ident, digest, pos = sealed.identities(self._raw, file, (known + 1 << ROW_BITS) - 1)
                order = np.argsort(pos)
                index.add(ident[order], digest[order], pos[order])
                gone = told.seqs > known
                forgotten, seqs = told.forgotten[gone], told.seqs[gone]
                index.forget(forgotten[index.find(forgotten).pos >> ROW_BITS < seqs])
                _put_away(index, file.last)
        waiting = highest = 0
        for seq, record in self._unsealed(max(applied, through), last):
            commit = decode(seq, record)
            highest = max(highest, int(commit.events.integers("market").max(initial=0)))
            answers += commit.answers
            waiting += commit.events.n
            if seq > known:
                index.forget(commit.forgotten)
                know(index, commit.events)
                _put_away(index, seq)
        return answers, waiting, highest


def _put_away(index: Identities, seq: int) -> None:
    if not index.full:
        return
    index.freeze(seq)
    try:
        index.spill()
        index.merge()
    except Unavailable as error:
        log.warning("%s; they stay in memory until there is room", error)


def _events_after(file: Sealed, seq: int) -> int:
    """About how many events of a file come after this seq."""
    batches = file.last - file.first + 1
    return file.events * min(batches, file.last - seq) // batches


def _some(commits: Iterator[Commit], cuts: Sequence[int]) -> Iterator[list[Commit]]:
    some: list[Commit] = []
    count = 0
    for commit in commits:
        some.append(commit)
        count += commit.events.n
        if count >= REPLAYED or commit.seq in cuts:
            yield some
            some, count = [], 0
    if some:
        yield some
