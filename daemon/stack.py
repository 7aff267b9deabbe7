"""Everything between the disk and the doors: opened from the disk up, recovered, run, and drained back down."""

import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import trio
from msgspec import Struct

from actors.archivist import Archivist
from actors.background import Background
from actors.engine import Engine
from actors.hub import Hub
from actors.intake import Intake, know
from actors.janitor import Janitor
from actors.registry import Keys, Registry
from actors.rounds import Round, flushed, made
from actors.writer import Writer
from storage import answers, archive, candles, keys, ledger, markets, rejects
from storage.calendar import MICROS, ONE_DAY
from storage.commits import ROW_BITS, Commit, decode
from storage.database import Database, Door
from storage.errors import Unavailable
from storage.events import Array
from storage.flush import Flush
from storage.identities import Identities
from storage.journal import Journal
from storage.measures import KINDS
from storage.records import Kind
from storage.state import State
from storage.store import Store

log = logging.getLogger(__name__)

REPLAYED = 500_000  # events that are recovered at a time


class StackSettings(Struct, frozen=True, kw_only=True):
    """What the stack is told of the configuration."""

    data: Path
    threads: int = 10
    flush_seconds: float = 2.0
    flush_events: int = 1_000_000
    max_body: int = 64 << 20
    create: Kind | None = None
    query_seconds: float = 30.0
    archive_days: int = 7
    archive_quiet: float = 3600.0


class Recovered(Struct, frozen=True):
    """What the start brought back."""

    batches: int
    events: int
    seconds: float
    torn_bytes: int
    set_aside: str | None


@dataclass(frozen=True, slots=True)
class Stack:
    """The running parts, for whoever serves them."""

    door: Door
    state: State
    rejects: State
    journal: Journal
    database: Database
    store: Store
    registry: Registry
    keys: Keys
    identities: Identities
    writer: Writer
    hub: Hub
    engine: Engine
    intake: Intake
    recovered: Recovered
    archivist: Archivist


@asynccontextmanager
async def opened(settings: StackSettings, *, now: Callable[[], float] = time.time) -> AsyncIterator[Stack]:
    """Open the data directory, recover what the journal knows and the store does not, and run until the block ends.

    Leaving the block drains: what was accepted is committed, folded and flushed, and the files close clean.
    """
    door = Door(settings.threads)
    with ExitStack() as files:
        data = settings.data
        data.mkdir(parents=True, exist_ok=True)
        journal = files.enter_context(await door.run(Journal.open, data / "journal"))
        state = files.enter_context(await door.run(State.open, data / "state.db"))
        letters = files.enter_context(await door.run(rejects.opened, data / "rejects.db"))
        told = files.enter_context(await door.run(answers.opened, data / "answers.db"))
        database = await door.run(Database.open, data / "candles.duckdb", door, settings.query_seconds)
        files.callback(database.close)
        store = Store(database)

        async def in_state(work: Callable[..., object], *arguments: object) -> object:
            return await door.run(work, state, *arguments)

        registry = Registry(in_state, markets, lambda slot: engine.has_events(slot))
        key_cache = Keys(in_state, keys)

        async def sum_up(rounds: list[Round]) -> Flush:
            return await door.run(flushed, rounds, registry.kinds, registry.sources, _days(registry), _spans(registry))

        async def commit(work: Flush) -> None:
            if work.answers:
                await door.run(answers.put, told, work.answers, now())
            await store.commit(work)

        began = time.perf_counter()
        applied = await database.write(candles.adopt, journal.epoch)
        identities = await _known(data / "identities", journal, database, door)
        batches, events = 0, 0
        cuts = await database.write(archive.restore, journal.last_seq)
        await database.read(archive.tidy)
        for commits in _chunks(journal, applied, cuts):
            round_ = await _folded(commits, registry, door)
            for one in commits:
                if one.seq > identities.through:  # what came before is in their files
                    identities.forget(one.forgotten)
                    know(identities, one.events)
            if identities.full:
                await _put_away(identities, round_.last, door)
            await commit(await sum_up([round_]))
            applied, batches, events = round_.last, batches + len(commits), events + round_.count
        recovered = Recovered(
            batches,
            events,
            time.perf_counter() - began,
            journal.recovered.torn_bytes,
            str(database.set_aside) if database.set_aside else None,
        )
        writer = Writer(
            commit,
            sum_up,
            store.compact,
            applied=applied,
            now=now,
            kinds=KINDS,
            seconds=settings.flush_seconds,
            events=settings.flush_events,
        )
        hub = Hub()
        engine = Engine(
            registry,
            store,
            writer,
            journal.epoch,
            seq=applied,
            lived=await database.read(candles.lived),
            now=now,
        )
        intake = Intake(
            registry,
            identities,
            engine,
            writer,
            door.run,
            append=journal.append,
            events_at=store.events_at,
            answered=lambda key: answers.find(told, key),
            reject=lambda some: rejects.put(letters, some),
            create=settings.create,
            most=2 * settings.flush_events,
            limit=settings.max_body,
            now=now,
        )
        archivist = Archivist(store, Background(), now=now, days=settings.archive_days, quiet=settings.archive_quiet)
        janitor = Janitor([archivist], now=now)
        stack = Stack(
            door,
            state,
            letters,
            journal,
            database,
            store,
            registry,
            key_cache,
            identities,
            writer,
            hub,
            engine,
            intake,
            recovered,
            archivist,
        )
        async with trio.open_nursery() as below:
            await below.start(hub.run)
            await below.start(key_cache.run)
            below.start_soon(database.watch)
            await below.start(janitor.run)
            async with trio.open_nursery() as store_writer:
                await store_writer.start(writer.run)
                async with trio.open_nursery() as folding:
                    await folding.start(engine.run)
                    async with trio.open_nursery() as taking:
                        await taking.start(intake.run)
                        yield stack
                        intake.close()
                    writer.drain()
                    engine.close()
                writer.close()
            await key_cache.flush()
            below.cancel_scope.cancel()


async def _known(folder: Path, journal: Journal, database: Database, door: Door) -> Identities:
    """The index of identities, with everything that the database knows of."""
    last = journal.last_seq
    index = await door.run(lambda: Identities.open(folder, epoch=journal.epoch))
    if index.broken or index.through > last:
        log.warning("%s", index.broken or f"identities: files reach {index.through}, the journal {last}; rebuilt")
        rows = await database.read(ledger.identities, -1)
        seq = await database.read(candles.applied)
        await door.run(index.rebuild, [rows], seq)
    else:
        index.forget(await database.read(ledger.forgotten, index.through))
        index.add(*await database.read(ledger.identities, (index.through + 1 << ROW_BITS) - 1))
    return index


async def _put_away(identities: Identities, seq: int, door: Door) -> None:
    identities.freeze(seq)
    try:
        await door.run(identities.spill)
        await door.run(identities.merge)
    except Unavailable as error:
        log.warning("%s; they stay in memory until there is room", error)


def _chunks(journal: Journal, applied: int, cuts: Sequence[int]) -> Iterator[list[Commit]]:
    """What the journal has after `applied`, some batches at a time, never one before and one after a cut."""
    some: list[Commit] = []
    count = 0
    for seq, record in journal.since(applied):
        some.append(decode(seq, record))
        count += some[-1].events.n
        if count >= REPLAYED or seq in cuts:
            yield some
            some, count = [], 0
    if some:
        yield some


async def _folded(commits: Sequence[Commit], registry: Registry, door: Door) -> Round:
    slots = {event.market for commit in commits for event in commit.dead}
    for commit in commits:
        slots.update(np.unique(commit.events.integers("market")).tolist())
    await registry.load_slots(slots)
    return await door.run(made, commits, registry.kinds, registry.sources)


def _days(registry: Registry) -> Callable[[Array, Array], Array]:
    calendars, known = registry.calendars, registry.calendar_list

    def days(markets: Array, seconds: Array) -> Array:
        codes = calendars[markets]
        present = np.unique(codes)
        if len(present) == 1:
            return known[int(present[0])].day(seconds * MICROS)
        out = np.empty(len(seconds), np.int64)
        for code in present.tolist():
            rows = codes == code
            out[rows] = known[code].day(seconds[rows] * MICROS)
        return out

    return days


def _spans(registry: Registry) -> Callable[[int, int], tuple[int, int]]:
    return lambda market, label: registry.calendar(market).span(ONE_DAY, label)
