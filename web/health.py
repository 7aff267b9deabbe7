"""Alive, ready, and how it goes, with the reasons where it does not go well."""

import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Literal

from msgspec import Struct
from quart import Blueprint, Response

from actors.backups import BackupStatistics
from actors.coverage import FeedState
from storage.errors import BrokenStore
from web.auth import at_home
from web.context import NO_STORE, Services, WebSettings, reply, request, services
from web.disk import used

health = Blueprint("health", __name__)

NAMED = 20  # feeds that are named


class Markets(Struct, frozen=True):
    registered: int
    active: int
    in_memory: int  # with a task


class JournalHealth(Struct, frozen=True):
    """How far the history store is behind what was acknowledged."""

    seq: int
    bytes: int
    lag: int  # batches that are not yet in the store
    lag_events: int
    torn_bytes: int  # cut off at the start and kept: a record that a crash broke off, or the newest one, damaged


class Sealed(Struct, frozen=True):
    """Events that have moved from the journal into files of their own."""

    seq: int  # all batches up to this one
    files: int
    events: int
    bytes: int
    last: str | None


class Backup(Struct, frozen=True):
    """The newest backup that was made."""

    at: str
    bytes: int
    copied_bytes: int  # the others were there already
    seconds: float


class Audited(Struct, frozen=True):
    """The newest whole comparison of what is stored with the events."""

    last: str | None  # when it was over; none was since the start: null
    days: int
    bars: int
    differences: int


class Retained(Struct, frozen=True):
    """What is dropped for its age."""

    last: str | None  # when something to drop was last looked for
    waiting: list[str]  # what should be gone, and what that waits for
    closed_days: int  # that no event can change any more


class Streams(Struct, frozen=True):
    connections: int
    subscriptions: int


class FeedHealth(Struct, frozen=True):
    """How far a feed is."""

    feed: str
    up: bool
    lag_seconds: float


class Feeds(Struct, frozen=True):
    """Who says what they have seen."""

    reporting: int
    down: int
    slowest: list[FeedHealth]


class Local(Struct, frozen=True):
    """What a shell on this machine needs to run candled's commands on this data."""

    command: str
    data: str


class Health(Struct, frozen=True, kw_only=True):
    """How the daemon is."""

    status: Literal["ok", "degraded"]
    reasons: list[str]  # for the status
    notices: list[str]  # what somebody should know although all is well
    version: str
    uptime_seconds: float
    demo: bool
    epoch: str
    cursor: str
    markets: Markets
    journal: JournalHealth
    last_flush: str | None
    last_archive: str | None  # when the newest file of bars was made
    last_backup: Backup | None  # since the start
    sealed: Sealed
    retention: Retained
    disk: dict[str, int]  # bytes by part of the data directory
    audit: Audited
    streams: Streams
    feeds: Feeds
    local: Local | None  # only for those who ask on this machine


class State(Struct, frozen=True, omit_defaults=True):
    status: str
    reasons: list[str] = []


@health.get("/healthz")
async def alive() -> Response:
    """Whether the process answers."""
    return reply(State("alive"), headers={"Cache-Control": NO_STORE})


@health.get("/readyz")
async def ready() -> Response:
    """Whether requests should be sent here."""
    reasons = unready(services())
    return reply(
        State("not ready" if reasons else "ready", reasons), 503 if reasons else 200, {"Cache-Control": NO_STORE}
    )


@health.get("/api/charts/health")
async def report() -> Response:
    """How the daemon is."""
    found = await examined(services())
    return reply(found, 200 if found.status == "ok" else 503, {"Cache-Control": NO_STORE})


def unready(services: Services) -> list[str]:
    """Why requests had better not be sent here."""
    reasons = (services.not_ready(), services.catch_up.said(), services.journal.statistics().broken)
    return [reason for reason in reasons if reason]


async def examined(services: Services) -> Health:
    """How the daemon is, now."""
    engine, journal, writer = services.engine, services.journal.statistics(), services.writer.statistics()
    hub, recovered = services.hub.statistics(), services.journal.recovered
    registered = active = 0
    with suppress(BrokenStore):  # told below
        registered, active = await services.registry.count()
    archive, sealed = services.archivist.statistics(), services.sealing.statistics()
    reasons, notices = [*unready(services), *(f"archive: {why}" for why in archive.broken)], []
    if services.state.damaged:
        reasons.append(services.state.damaged)
    if journal.full:
        reasons.append(f"{journal.full}; events are refused")
    if why := services.intake.statistics().failing:
        reasons.append(why)
    if writer.failing:
        reasons.append(f"history store: {writer.failing}")
    if why := services.database.statistics().failing:
        reasons.append(f"history store: {why}")
    reasons += await services.store.damage()
    audit = services.audit.statistics()
    reasons += [f"audit: {why}; `candled verify --repair` makes them right" for why in audit.wrong]
    for name, job in services.janitor.statistics().items():
        if job.failing:
            reasons.append(f"{name}: {job.failing}")
    if services.database.damaged:
        reasons.append(f"history store: damaged, {services.database.damaged}; a restart rebuilds it from the journal")
    if services.database.set_aside is not None:
        what = f"history store: a file that would not open was set aside as {services.database.set_aside.name}"
        notices.append(f"{what}, and rebuilt" if services.catch_up.over else what)
    backups = services.backups.statistics()
    if backups.failing:
        notices.append(f"the last backup failed: {backups.failing}")
    if recovered.cut is not None:
        notices.append(f"{recovered.cut}; if records are missed, restore a backup")
    dropped = services.retention.statistics()
    disk: dict[str, int] = {}
    for part in await used(services):
        disk[part.name] = disk.get(part.name, 0) + part.bytes
    feeds = sorted(services.coverage.statistics(), key=lambda feed: -feed.lag)
    down = [f"feed {feed.name}: down, it saw everything until {feed.lag:.0f} s ago" for feed in feeds if not feed.up]
    notices += down[:NAMED]
    return Health(
        status="degraded" if reasons else "ok",
        reasons=reasons,
        notices=notices,
        version=services.settings.version,
        uptime_seconds=round(time.monotonic() - services.settings.started, 1),
        demo=services.settings.demo,
        epoch=engine.epoch,
        cursor=f"{engine.epoch}.{engine.committed()}",
        markets=Markets(registered, active, engine.statistics().active),
        journal=JournalHealth(
            journal.last_seq,
            journal.bytes,
            engine.committed() - writer.applied,
            writer.waiting_events,
            recovered.torn_bytes,
        ),
        last_flush=_instant(writer.last),
        last_archive=_instant(archive.last),
        last_backup=_backup(backups) if backups.last else None,
        sealed=Sealed(sealed.through, sealed.files, sealed.events, sealed.bytes, _instant(sealed.last)),
        retention=Retained(_instant(dropped.last), dropped.waiting, dropped.closed_days),
        disk=disk,
        audit=Audited(_instant(audit.last), audit.days, audit.bars, audit.differences),
        streams=Streams(hub.connections, hub.subscriptions),
        feeds=_feeds(feeds),
        local=_local(services.settings) if at_home(request()) else None,
    )


def _instant(seconds: float) -> str | None:
    return _at(seconds) if seconds else None


def _at(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _backup(told: BackupStatistics) -> Backup:
    return Backup(_at(told.last), told.bytes, told.copied_bytes, round(told.seconds, 3))


def _feeds(feeds: list[FeedState]) -> Feeds:
    slowest = [FeedHealth(feed.name, feed.up, round(feed.lag, 3)) for feed in feeds[:NAMED]]
    return Feeds(len(feeds), sum(not feed.up for feed in feeds), slowest)


def _local(settings: WebSettings) -> Local | None:
    return None if settings.data is None else Local(settings.command, str(settings.data))
