"""Everything between the disk and the doors: opened from the disk up, recovered, run, and drained back down."""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import trio
from msgspec import Struct

from actors.archivist import Archivist
from actors.audit import Audit
from actors.background import Background
from actors.backups import Backups
from actors.catch_up import CatchUp
from actors.coverage import Coverage
from actors.engine import Engine
from actors.gate import Gate
from actors.hub import Hub
from actors.intake import Intake
from actors.janitor import Janitor
from actors.marks import Marker
from actors.reach import Reach
from actors.registry import Keys, Registry
from actors.retention import Retention
from actors.rounds import Round, flushed
from actors.sealing import Sealing
from actors.writer import Writer
from daemon import __version__
from daemon.clock import steady
from daemon.recovery import Recovered, Recovery
from storage import (
    answers,
    backup,
    candles,
    coverage,
    finished,
    keys,
    ledger,
    manifest,
    markets,
    rejects,
    retention,
    traded,
    trades,
)
from storage.calendar import DAY, MICROS, ONE_DAY
from storage.commits import Answer
from storage.database import Database, Door
from storage.errors import BrokenStore
from storage.events import Array, Events, concat
from storage.findings import Source
from storage.flush import Flush
from storage.identities import Identities
from storage.journal import Journal, lost
from storage.listing import Unflushed
from storage.measures import KINDS
from storage.records import Kind
from storage.refold import Markets
from storage.retention import Keep
from storage.state import STATE, State
from storage.store import Store

LIVELY = 5_000  # markets that whoever follows all prices is told of at the beginning, by turnover


class StackSettings(Struct, frozen=True, kw_only=True):
    """What the stack is told of the configuration."""

    data: Path
    threads: int = 10
    flush_seconds: float = 2.0
    flush_events: int = 1_000_000
    max_body: int = 64 << 20
    create: Kind | None = None
    query_seconds: float = 30.0
    seal_seconds: float = 3600.0
    seal_events: int = 1_000_000
    archive_days: int = 7
    archive_quiet: float = 3600.0
    audit_seconds: float = 0.0
    retention: tuple[Keep, ...] = ()
    feed_silence: float = 60.0
    or_read: bool = False  # where nothing can be written, open what can be read all the same


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
    coverage: Coverage
    identities: Identities
    writer: Writer
    hub: Hub
    engine: Engine
    marker: Marker
    intake: Intake
    sealing: Sealing
    archivist: Archivist
    retention: Retention
    backups: Backups
    audit: Audit
    janitor: Janitor
    recovery: Recovery

    @property
    def catch_up(self) -> CatchUp:
        """How far the store is behind the journal since the start."""
        return self.recovery.catch_up

    @property
    def recovered(self) -> Recovered:
        """What the start brought back, once it is over."""
        return self.recovery.recovered


@asynccontextmanager
async def opened(settings: StackSettings, *, now: Callable[[], float] = time.time) -> AsyncIterator[Stack]:
    """As `opening`; the block begins once the store has all that the journal knows."""
    async with opening(settings, now=now) as stack:
        await stack.catch_up.wait()
        yield stack


@asynccontextmanager
async def opening(settings: StackSettings, *, now: Callable[[], float] = time.time) -> AsyncIterator[Stack]:
    """Open the data directory, recover what the journal knows and the store does not, and run until the block ends.

    Events are taken from the beginning of the block on; whoever asks for bars waits until the store is recovered.
    Leaving the block drains: what was accepted is committed, folded and flushed, and the files close clean.
    """
    door = Door(settings.threads)
    lasting = steady() if now is time.time else now  # a test's clock goes as it is told
    with ExitStack() as files:
        data = settings.data
        data.mkdir(parents=True, exist_ok=True)
        if why := await door.run(lost, data):
            raise BrokenStore(why)
        journal = files.enter_context(await door.run(Journal.open, data / "journal"))
        or_read = settings.or_read
        state = files.enter_context(await door.run(lambda: State.open(data / STATE, or_read=or_read)))
        if why := await door.run(state.check):
            raise BrokenStore(why)
        state.says_damage = True
        letters = files.enter_context(await door.run(lambda: rejects.opened(data / "rejects.db", or_read=or_read)))
        told = files.enter_context(await door.run(lambda: answers.opened(data / "answers.db", or_read=or_read)))
        database = await door.run(Database.open, data / "candles.duckdb", door, settings.query_seconds)
        files.callback(database.close)
        store = Store(database)

        async def in_state(work: Callable[..., object], *arguments: object) -> object:
            return await door.run(work, state, *arguments)

        registry = Registry(in_state, markets, lambda slot: engine.has_events(slot))
        key_cache = Keys(in_state, keys)
        reporting = await door.run(coverage.reporting, state)
        ledger_of_feeds = Coverage(in_state, coverage, reporting, now=now, silence=settings.feed_silence)

        async def sum_up(rounds: list[Round]) -> Flush:
            return await door.run(flushed, rounds, registry.kinds, registry.sources, _days(registry), _spans(registry))

        async def put(some: Sequence[Answer]) -> None:
            await door.run(answers.put, told, some, lasting())

        async def commit(work: Flush) -> None:
            if work.answers:
                await put(work.answers)
            await store.commit(work)

        async def events_at(places: Array) -> Events:
            behind = not recovery.catch_up.over
            found = await store.events_at(places)
            if not behind or found.n == len(places):
                return found
            return concat([found, await door.run(recovery.events_at, np.setdiff1d(places, found.integers("pos")))])

        dropped = await door.run(retention.known, state)
        closed = retention.Closed(dropped.closed)

        def labels(slots: Array, seconds: Array) -> Array:
            return _days(registry)(slots, seconds)

        async def lively() -> list[int]:
            found = await database.read(traded.since, int(now()) - DAY)
            most: list[int] = found.market[np.argsort(-found.turnover, kind="stable")][:LIVELY].tolist()
            return most

        async def newest_trades(slot: int, count: int, lacking: Sequence[Unflushed]) -> list[trades.Trade]:
            return await database.read(trades.newest, lacking, slot, count)

        raw = data / manifest.FOLDER
        recovery = Recovery(journal, database, door, registry, raw, dropped)
        identities = await recovery.prepare(data / "identities", put)
        writer = Writer(
            commit,
            sum_up,
            store.compact,
            applied=recovery.applied,
            now=now,
            kinds=KINDS,
            seconds=settings.flush_seconds,
            events=settings.flush_events,
        )
        hub = Hub()
        floors = retention.Floors(await database.read(retention.floors))
        if floors.all() != dropped.floors:  # a crash came between the two
            await in_state(retention.note_floors, floors.all())
        engine = Engine(
            registry,
            store,
            writer,
            journal.epoch,
            floors=floors,
            seq=recovery.last,
            catch_up=recovery.catch_up,
            now=now,
            lively=lively,
            trades=newest_trades,
        )
        intake = Intake(
            registry,
            identities,
            engine,
            writer,
            door.run,
            append=journal.append,
            events_at=events_at,
            answered=lambda key: answers.find(told, key),
            reject=lambda some: rejects.put(letters, some),
            gate=Gate(closed, labels, _spans(registry)),
            catch_up=recovery.catch_up,
            create=settings.create,
            most=2 * settings.flush_events,
            limit=settings.max_body,
            now=now,
            lasting=lasting,
        )
        sealing = Sealing(
            raw,
            await database.read(manifest.listed),
            journal,
            store,
            Background(),
            taken=lambda: writer.statistics().events,
            flushed=writer.flushed,
            now=lasting,
            seconds=settings.seal_seconds,
            events=settings.seal_events,
            lingers=2 * settings.query_seconds,
        )
        archivist = Archivist(
            store, Background(), now=lasting, days=settings.archive_days, quiet=settings.archive_quiet
        )
        source = backup.Source(data, journal, state, told, {}, __version__)
        backups = Backups(source, lambda: database.read(backup.named), Background(), now)
        dropping = Retention(
            settings.retention,
            store,
            sealing,
            intake,
            registry,
            in_state,
            Background(),
            floors=floors,
            closed=closed,
            labels=labels,
            committed=engine.committed,
            flushed=writer.flushed,
            known_through=lambda: identities.through,
            now=lasting,
        )
        audit = Audit(
            Source(database.snapshot, journal, Markets(state), data),
            store,
            engine,
            intake,
            writer.flushed,
            now=lasting,
            seconds=settings.audit_seconds,
        )
        janitor = Janitor([sealing, archivist, dropping, backups, audit], now=now)
        stack = Stack(
            door,
            state,
            letters,
            journal,
            database,
            store,
            registry,
            key_cache,
            ledger_of_feeds,
            identities,
            writer,
            hub,
            engine,
            Marker(engine, writer, ledger_of_feeds, database.read, in_state),
            intake,
            sealing,
            archivist,
            dropping,
            backups,
            audit,
            janitor,
            recovery,
        )

        async def caring(*, task_status: trio.TaskStatus[None]) -> None:
            """Bring the store to where the journal is, then do what is to be done now and then."""
            if recovery.behind:
                task_status.started()
            await recovery.run(writer)
            sealing.count(await database.read(ledger.count))
            engine.begin(await database.read(candles.lived), Reach(await database.read(finished.reach)))
            await janitor.run(task_status=trio.TASK_STATUS_IGNORED if recovery.behind else task_status)

        async with trio.open_nursery() as below:
            await below.start(hub.run)
            await below.start(key_cache.run)
            await below.start(ledger_of_feeds.run)
            below.start_soon(door.watch)
            below.start_soon(database.watch)
            async with trio.open_nursery() as store_writer:
                await store_writer.start(writer.run)
                async with trio.open_nursery() as folding:
                    await folding.start(engine.run)
                    async with trio.open_nursery() as taking:
                        await taking.start(intake.run)
                        async with trio.open_nursery() as tidying:
                            await tidying.start(caring)
                            yield stack
                            tidying.cancel_scope.cancel()
                        intake.close()
                    writer.drain()
                    engine.close()
                writer.close()
            await key_cache.flush()
            await ledger_of_feeds.flush()
            below.cancel_scope.cancel()


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
