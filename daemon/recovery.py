"""What a start does before anybody is served: the store brought to where the journal is."""

import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from msgspec import Struct

from actors.intake import know
from actors.registry import Registry
from actors.rounds import Round, made
from storage import archive, candles, ledger, manifest, sealed
from storage.commits import ROW_BITS, Commit, decode
from storage.database import Database, Door
from storage.errors import Unavailable
from storage.flush import Flush
from storage.identities import Identities
from storage.journal import Journal
from storage.sealed import Sealed

log = logging.getLogger(__name__)

REPLAYED = 500_000  # events that are recovered at a time
TOLD = 5.0  # seconds between two lines about how far it is


class Recovered(Struct, frozen=True):
    """What the start brought back."""

    batches: int
    events: int
    seconds: float
    torn_bytes: int
    set_aside: str | None


class Recovery:
    """The parts that a start works on."""

    def __init__(self, journal: Journal, database: Database, door: Door, registry: Registry) -> None:
        self._journal, self._database, self._door, self._registry = journal, database, door, registry

    async def run(
        self,
        identities_folder: Path,
        raw: Path,
        sum_up: Callable[[list[Round]], Awaitable[Flush]],
        commit: Callable[[Flush], Awaitable[None]],
    ) -> tuple[int, Identities, Recovered]:
        """Fold what sealed files and journal have and the store does not; the seq it reaches, and who is known."""
        began = time.perf_counter()
        journal, database = self._journal, self._database
        if await database.write(manifest.settle, raw, journal.first_seq):
            log.error("the store is rebuilt without some events; positions of before mean nothing any more")
            await self._door.run(journal.renew_epoch)
        applied = await database.write(candles.adopt, journal.epoch)
        cuts = await database.write(archive.restore, journal.last_seq)
        await database.read(archive.tidy)
        identities = await self._known(identities_folder)
        files = [file for file in await database.read(manifest.listed) if not file.damaged]
        sealed_through = await database.read(manifest.through)
        progress = _Progress(sum(file.events for file in files if file.last > applied))
        batches = 0
        for commits, stored in self._chunks(raw, files, applied, sealed_through, cuts):
            round_ = await self._folded(commits)
            for one in commits:
                if one.seq > identities.through:  # what came before is in their files
                    identities.forget(one.forgotten)
                    know(identities, one.events)
            if identities.full:
                await self._put_away(identities, round_.last)
            work = await sum_up([round_])
            await commit(replace(work, events=()) if stored else work)
            batches += round_.last - applied
            applied = round_.last
            progress.add(round_.count)
        recovered = Recovered(
            batches,
            progress.events,
            time.perf_counter() - began,
            journal.recovered.torn_bytes,
            str(database.set_aside) if database.set_aside else None,
        )
        return applied, identities, recovered

    def _chunks(
        self, raw: Path, files: Sequence[Sealed], applied: int, sealed_through: int, cuts: Sequence[int]
    ) -> Iterator[tuple[list[Commit], bool]]:
        """What there is after `applied`, some batches at a time, and whether their events lie in a sealed file.

        None before and after a cut come together.
        """
        for file in files:
            if file.last > applied:
                for some in _some(sealed.commits(raw, file, applied, ends=cuts), cuts):
                    yield some, True
        since = self._journal.since(max(applied, sealed_through))
        for some in _some((decode(seq, record) for seq, record in since), cuts):
            yield some, False

    async def _folded(self, commits: Sequence[Commit]) -> Round:
        slots = {event.market for commit in commits for event in commit.dead}
        for commit in commits:
            slots.update(np.unique(commit.events.integers("market")).tolist())
        await self._registry.load_slots(slots)
        return await self._door.run(made, commits, self._registry.kinds, self._registry.sources)

    async def _known(self, folder: Path) -> Identities:
        """The index of identities, with everything that the database knows of."""
        journal, database = self._journal, self._database
        last = journal.last_seq
        index = await self._door.run(lambda: Identities.open(folder, epoch=journal.epoch))
        seq = await database.read(candles.applied)
        if index.broken or index.through > last:
            log.warning("%s", index.broken or f"identities: files reach {index.through}, the journal {last}; rebuilt")
            through = (seq + 1 << ROW_BITS) - 1
            await database.read(lambda db: index.rebuild(ledger.identities(db, -1, through), seq))
        else:
            index.forget(await database.read(ledger.forgotten, index.through))
            after, through = ((one + 1 << ROW_BITS) - 1 for one in (index.through, seq))
            for some in await database.read(lambda db: list(ledger.identities(db, after, through))):
                index.add(*some)
        return index

    async def _put_away(self, identities: Identities, seq: int) -> None:
        identities.freeze(seq)
        try:
            await self._door.run(identities.spill)
            await self._door.run(identities.merge)
        except Unavailable as error:
            log.warning("%s; they stay in memory until there is room", error)


class _Progress:
    def __init__(self, expected: int) -> None:
        self.events = 0
        self._expected = expected  # of sealed files; what the journal has is not known before it is read
        self._began = self._told = time.perf_counter()

    def add(self, events: int) -> None:
        self.events += events
        now = time.perf_counter()
        if now - self._told >= TOLD:
            self._told = now
            log.info(
                "rebuilding the store: %d events of at least %d, %d a second",
                self.events,
                max(self._expected, self.events),
                self.events / (now - self._began),
            )


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
