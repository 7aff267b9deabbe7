"""Every actor's `statistics()`, and what the web layer itself counts, as Prometheus text."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector
from quart import Blueprint, Response, current_app

from storage.histogram import Histogram, Times
from web.context import NO_STORE, Services, reply, services
from web.disk import Part, used
from web.kept import kept
from web.limits import Limiter
from web.pusher.channels import ChannelsStatistics
from web.pusher.endpoint import Pusher
from web.pusher.rest import pusher

metrics = Blueprint("metrics", __name__)

# Upper ends, in seconds.
BUCKETS = (
    *(0.00025, 0.0005, 0.00075, 0.001, 0.00125, 0.0015, 0.002, 0.0025),  # most answers from memory take so long
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
EXTENSION = "candled.metrics"


class Requests:
    """How many requests each route has had, with which answers and how long they took."""

    def __init__(self) -> None:
        self._answers: dict[tuple[str, int], int] = {}
        self._times: dict[str, Histogram] = {}
        self._bytes: dict[str, int] = {}

    def observe(self, route: str, status: int, seconds: float, size: int) -> None:
        """Count one request; `size` is what its answer's body had in bytes, as it was sent."""
        self._answers[route, status] = self._answers.get((route, status), 0) + 1
        times = self._times.get(route)
        if times is None:
            times = self._times[route] = Histogram(BUCKETS)
        times.observe(seconds)
        self._bytes[route] = self._bytes.get(route, 0) + size

    def sent(self, route: str, size: int) -> None:
        """Count bytes of an answer that goes on."""
        self._bytes[route] += size

    def collect(self) -> Iterator[Metric]:
        """The counts as Prometheus sees them."""
        answers = CounterMetricFamily(
            "candled_http_requests", "Requests by route and status.", labels=["route", "status"]
        )
        for (route, status), count in self._answers.items():
            answers.add_metric([route, str(status)], count)
        yield answers
        seconds = HistogramMetricFamily(
            "candled_http_request_seconds", "From a request's head to its answer.", labels=["route"]
        )
        for route, times in self._times.items():
            told = times.times()
            seconds.add_metric([route], cumulative(told), told.seconds)
        yield seconds
        yield by("http_response_bytes", "Bytes of answers by route, without heads, as sent.", "route", self._bytes)


# Of each app of the Pusher protocol, now.
PUSHER: tuple[tuple[str, str, Callable[[ChannelsStatistics], int]], ...] = (
    ("connections", "Connections of an app.", lambda one: one.connections),
    ("channels", "Channels of an app that somebody is in.", lambda one: one.channels),
    ("subscriptions", "Subscriptions to channels.", lambda one: one.subscriptions),
    ("members", "Users in presence channels.", lambda one: one.members),
    ("cache_bytes", "Memory of the last events of cache channels.", lambda one: one.cache_bytes),
)


class Everything(Collector):
    """What is told when the metrics are asked for."""

    def __init__(
        self,
        services: Services,
        requests: Requests,
        limiter: Limiter,
        markets: tuple[int, int],
        disk: Sequence[Part],
        pusher: Pusher,
    ) -> None:
        self._pusher = pusher
        self._services, self._requests, self._limiter, self._markets = services, requests, limiter, markets
        self._disk_used = disk

    def collect(self) -> Iterable[Metric]:
        yield from self._requests.collect()
        yield from self._limits()
        yield from self._intake()
        yield from self._engine()
        yield from self._store()
        yield from self._sealing()
        yield from self._archive()
        yield from self._disk()
        yield from self._retention()
        yield from self._backups()
        yield from self._audit()
        yield from self._registry()
        yield from self._kept()
        yield from self._hub()
        yield from self._apps()
        yield from self._feeds()

    def _limits(self) -> Iterator[Metric]:
        limiter = self._limiter.statistics()
        yield by("rate_limited_requests", "Requests refused as too many.", "group", limiter.refused)
        yield by("rate_delayed_requests", "Requests that waited for their turn.", "group", limiter.delayed)
        yield gauge("rate_waiting_requests", "Requests that wait for their turn now.", limiter.waiting)
        yield gauge("rate_limit_senders", "Addresses and keys that are counted.", limiter.counted)

    def _intake(self) -> Iterator[Metric]:
        intake = self._services.intake.statistics()
        yield counter("ingest_requests", "Requests with events.", intake.requests)
        yield counter("ingest_events", "Events as sent, whatever became of them.", intake.words)
        outcomes = {
            "accepted": intake.accepted,
            "duplicate": intake.duplicates,
            "corrected": intake.corrected,
            "retracted": intake.retracted,
            "unknown": intake.unknown,
            "rejected": intake.rejected,
        }
        yield by("ingest_outcomes", "What became of events.", "outcome", outcomes)
        yield by("ingest_rejected", "Events refused, by the field at fault.", "field", intake.rejected_by)
        yield histogram(
            "commit_seconds",
            "Group commits: what was waited for, from the first event to the fsync.",
            intake.commit_times,
        )
        yield gauge("ingest_waiting", "Requests that wait for their commit.", intake.waiting)

    def _engine(self) -> Iterator[Metric]:
        engine = self._services.engine.statistics()
        yield gauge("markets_active", "Markets with a task.", engine.active)
        yield counter("markets_opened", "Markets that were given a task.", engine.opened)
        yield counter("markets_retired", "Markets whose task ended for want of interest.", engine.retired)
        yield histogram("fold_seconds", "Rounds of folding, as the loop's own time.", engine.round_times)
        yield counter("folded_events", "Events folded.", engine.events)
        yield counter("slices", "Slices handed to markets.", engine.slices)
        yield gauge("committed_seq", "The newest committed batch.", engine.committed)
        yield gauge("folded_seq", "The newest folded batch.", engine.seq)
        yield gauge("ring_bytes", "Memory of the bars in use.", self._services.engine.nbytes())

    def _store(self) -> Iterator[Metric]:
        journal, writer = self._services.journal.statistics(), self._services.writer.statistics()
        yield gauge("journal_bytes", "Size of the journal.", journal.bytes)
        yield gauge("journal_segments", "Files of the journal.", journal.segments)
        yield gauge("journal_records", "Batches in the journal.", journal.records)
        yield counter("journal_appended_bytes", "Bytes made durable.", journal.appended_bytes)
        yield histogram("journal_fsync_seconds", "Times the disk was waited for.", journal.fsync_times)
        yield gauge("journal_fsync_longest_seconds", "The longest of these.", journal.fsync_seconds_max)
        yield counter("journal_refused", "Batches that found no room.", journal.refused)
        yield gauge("applied_seq", "The newest batch in the history store.", writer.applied)
        yield histogram("flush_seconds", "Flushes to the history store.", writer.times)
        yield gauge("flush_longest_seconds", "The longest of these.", writer.longest)
        yield counter("flushed_events", "Events flushed.", writer.events)
        yield gauge("flush_waiting_events", "Events that are not yet in the history store.", writer.waiting_events)
        yield counter("flush_failures", "Flushes that found no room.", writer.failures)
        yield gauge("flush_failing", "1 while flushes fail.", bool(writer.failing))
        yield gauge("last_flush_timestamp_seconds", "When the last flush ended.", writer.last)
        start = self._services.catch_up.statistics()
        yield gauge("catching_up", "1 while the store lacks what there was at the start.", not start.over)
        yield gauge("catch_up_expected_events", "Events that it had to take in since then.", start.expected)
        yield counter("caught_up_events", "Events of these that it has.", start.events)
        store, database = self._services.store.statistics(), self._services.database.statistics()
        yield counter("history_reads", "Times the history store was asked for bars.", store.history_reads)
        yield counter("compactions", "Compactions of stored bars.", store.compactions)
        yield spent("database_read_seconds", "Reads of the history store.", database.reads, database.read_seconds)
        yield spent("database_write_seconds", "Transactions of the store.", database.writes, database.write_seconds)
        yield gauge("database_bytes", "Size of the history store.", database.bytes)
        yield gauge("database_log_bytes", "Size of its log, what came since the last checkpoint.", database.log_bytes)
        yield spent("checkpoint_seconds", "Checkpoints.", database.checkpoints, database.checkpoint_seconds)
        yield counter("checkpoint_failures", "Checkpoints that found no room.", database.checkpoint_failures)

    def _archive(self) -> Iterator[Metric]:
        archive = self._services.archivist.statistics()
        labels = ["kind", "resolution"]
        files = GaugeMetricFamily("candled_archive_files", "Parquet files of bars.", labels=labels)
        rows = GaugeMetricFamily("candled_archive_rows", "Bars in them.", labels=labels)
        size = GaugeMetricFamily("candled_archive_bytes", "Size of them.", labels=labels)
        for key, held in archive.held.items():
            files.add_metric(key, held.files)
            rows.add_metric(key, held.rows)
            size.add_metric(key, held.bytes)
        yield from (files, rows, size)
        yield spent("archive_moves_seconds", "Days and months moved to Parquet.", archive.moved, archive.seconds)
        yield counter("archived_rows", "Bars moved to Parquet.", archive.rows)
        yield gauge("archive_waiting", "Days and months that move once nothing is said of them.", archive.waiting)
        yield gauge("archive_broken", "Days and months that cannot be read.", len(archive.broken))
        yield gauge("last_archive_timestamp_seconds", "When the newest file was made.", archive.last)

    def _disk(self) -> Iterator[Metric]:
        labels = ["part", "kind", "resolution"]
        size = GaugeMetricFamily("candled_disk_bytes", "What the data directory is used for.", labels=labels)
        for part in self._disk_used:
            size.add_metric([part.name, part.kind, part.resolution], part.bytes)
        yield size

    def _retention(self) -> Iterator[Metric]:
        dropped = self._services.retention.statistics()
        yield counter("dropped_bars", "Bars dropped for their age.", dropped.bars)
        yield counter("dropped_partitions", "Days and months of bars dropped from the archive.", dropped.partitions)
        yield counter("dropped_events", "Raw events dropped for their age.", dropped.events)
        yield counter("dropped_bytes", "Bytes of files that this has freed.", dropped.bytes)
        yield gauge("retention_waiting", "What should be gone and has to wait.", len(dropped.waiting))
        yield gauge("closed_days", "Days that no event can change any more.", dropped.closed_days)
        yield gauge("last_retention_timestamp_seconds", "When something to drop was last looked for.", dropped.last)

    def _sealing(self) -> Iterator[Metric]:
        sealing = self._services.sealing.statistics()
        yield gauge("sealed_files", "Files of sealed events.", sealing.files)
        yield gauge("sealed_events", "Events in them.", sealing.events)
        yield gauge("sealed_bytes", "Size of these files.", sealing.bytes)
        yield gauge("sealed_seq", "The newest sealed batch.", sealing.through)
        yield gauge("last_seal_timestamp_seconds", "When events were last sealed.", sealing.last)
        yield counter("newly_sealed_events", "Events sealed since the start.", sealing.sealed_events)
        yield counter("sealing_seconds", "Time spent sealing, rests included.", sealing.seconds)
        yield counter("sealed_merges", "Merges of the sealed files of a day.", sealing.merges)
        yield counter("journal_trimmed_bytes", "Bytes that the journal let go of.", sealing.trimmed_bytes)
        failures = {}
        for name, job in self._services.janitor.statistics().items():
            yield gauge(f"{name}_failing", f"1 while {name} fails.", bool(job.failing))
            failures[name] = float(job.failures)
        yield by("job_failures", "Times that a job could not be done.", "job", failures)

    def _backups(self) -> Iterator[Metric]:
        told = self._services.backups.statistics()
        yield counter("backups", "Backups made.", told.made)
        yield counter("backup_failures", "Backups that failed.", told.failures)
        yield gauge("last_backup_timestamp_seconds", "When the newest was made.", told.last)
        yield gauge("last_backup_seconds", "How long it took.", told.seconds)
        yield gauge("last_backup_bytes", "Size of all its files.", told.bytes)
        yield gauge("last_backup_copied_bytes", "Size of those that were not there already.", told.copied_bytes)

    def _audit(self) -> Iterator[Metric]:
        audit = self._services.audit.statistics()
        yield counter("audits", "Whole comparisons of what is stored with the events.", audit.rounds)
        yield counter("audited_bars", "Bars compared, also by `candled verify`.", audit.compared)
        yield gauge("audit_wrong", "Days with bars that are known to be wrong.", len(audit.wrong))
        yield gauge("last_audit_timestamp_seconds", "When the newest comparison was over.", audit.last)

    def _registry(self) -> Iterator[Metric]:
        registry = self._services.registry.statistics()
        yield gauge("markets_registered", "Markets that are registered.", self._markets[0])
        yield gauge("markets_listed", "Markets that are not deactivated.", self._markets[1])
        yield gauge("registry_loaded", "Markets whose record is in memory.", registry.loaded)
        yield counter("registry_reads", "Times the registry's file was asked.", registry.hops)
        yield counter("registry_evicted", "Records that left memory.", registry.evicted)

    def _kept(self) -> Iterator[Metric]:
        answers = kept().statistics()
        yield gauge("kept_answers", "Answers that are kept in memory.", answers.answers)
        yield gauge("kept_answer_bytes", "Memory that they take.", answers.bytes)
        yield counter("kept_answers_given", "Requests that were answered from there.", answers.given)
        yield counter("kept_answers_stale", "Answers that were found there and had changed.", answers.stale)
        yield counter("shared_reads", "Requests that waited for the same bars to be read for another.", answers.shared)

    def _hub(self) -> Iterator[Metric]:
        hub = self._services.hub.statistics()
        yield gauge("stream_connections", "WebSockets and event streams that are open.", hub.connections)
        yield gauge("stream_subscriptions", "Streams that somebody follows.", hub.subscriptions)
        yield counter("stream_frames", "Frames sent.", hub.frames)
        yield counter("stream_bytes", "Bytes sent.", hub.bytes)
        yield counter("stream_conflated", "States replaced by newer ones before they were sent.", hub.conflated)
        yield counter("stream_lagged", "Snapshots sent because too much was pending.", hub.lagged)
        yield counter("stream_slow_drops", "Connections given up because they took nothing.", hub.dropped)

    def _apps(self) -> Iterator[Metric]:
        apps = {channels.app.id: channels.statistics() for channels in self._pusher.channels}
        for name, about, value in PUSHER:
            yield by_label(
                GaugeMetricFamily, f"pusher_{name}", about, "app", {app: value(one) for app, one in apps.items()}
            )
        published = {app: float(one.published) for app, one in apps.items()}
        yield by("pusher_published", "Events published in channels, prices of markets included.", "app", published)
        said = {app: float(one.client_events) for app, one in apps.items()}
        yield by("pusher_client_events", "Events that pages sent to each other.", "app", said)
        hooks = self._pusher.webhooks.statistics()
        yield by_label(
            GaugeMetricFamily,
            "pusher_webhook_waiting",
            "Events that a webhook has not taken yet.",
            "app",
            {app: hook.waiting for app, hook in hooks.items()},
        )
        events = CounterMetricFamily(
            "candled_pusher_webhook_events", "What became of events for webhooks.", labels=["app", "outcome"]
        )
        tries = CounterMetricFamily(
            "candled_pusher_webhook_requests", "Requests to webhooks.", labels=["app", "outcome"]
        )
        for app, hook in hooks.items():
            for outcome in ("delivered", "given_up", "dropped"):
                events.add_metric([app, outcome], getattr(hook, outcome))
            tries.add_metric([app, "taken"], hook.attempts - hook.failed)
            tries.add_metric([app, "failed"], hook.failed)
        yield from (events, tries)

    def _feeds(self) -> Iterator[Metric]:
        feeds = self._services.coverage.statistics()
        yield gauge("feeds_reporting", "Feeds that send heartbeats and have not ended.", len(feeds))
        yield gauge("feeds_down", "Those of them that are down.", sum(not feed.up for feed in feeds))
        up = GaugeMetricFamily("candled_feed_up", "1 while a feed reports.", labels=["feed"])
        lag = GaugeMetricFamily("candled_feed_lag_seconds", "From what a feed has seen to the clock.", labels=["feed"])
        for feed in feeds:
            up.add_metric([feed.name], feed.up)
            lag.add_metric([feed.name], feed.lag)
        yield from (up, lag)
        outages = {feed.name: float(feed.outages) for feed in feeds}
        yield by("feed_outages", "Outages of a feed that are over.", "feed", outages)
        down = {feed.name: feed.down_seconds for feed in feeds}
        yield by("feed_down_seconds", "How long these took.", "feed", down)


@metrics.get("/metrics")
async def scraped() -> Response:
    """Everything that is counted."""
    requests, limiter = current_app.extensions[EXTENSION]
    registry = CollectorRegistry(auto_describe=False)
    found = Everything(
        services(), requests, limiter, await services().registry.count(), await used(services()), pusher()
    )
    registry.register(found)
    ProcessCollector(registry=registry)
    return reply(generate_latest(registry), headers={"Cache-Control": NO_STORE}, kind=CONTENT_TYPE_LATEST)


def counter(name: str, about: str, value: float) -> Metric:
    return CounterMetricFamily(f"candled_{name}", about, value=value)


def gauge(name: str, about: str, value: float) -> Metric:
    return GaugeMetricFamily(f"candled_{name}", about, value=value)


def spent(name: str, about: str, count: int, seconds: float) -> Metric:
    return SummaryMetricFamily(f"candled_{name}", about, count_value=count, sum_value=seconds)


def histogram(name: str, about: str, times: Times) -> Metric:
    return HistogramMetricFamily(f"candled_{name}", about, buckets=cumulative(times), sum_value=times.seconds)


def cumulative(times: Times) -> list[tuple[str, float]]:
    """How many took at most so long, for each end and for all."""
    return list(zip([*map(str, times.ends), "+Inf"], accumulate(times.counts), strict=True))


def by(name: str, about: str, label: str, values: Mapping[str, float]) -> Metric:
    return by_label(CounterMetricFamily, name, about, label, values)


def by_label(
    kind: type[CounterMetricFamily] | type[GaugeMetricFamily],
    name: str,
    about: str,
    label: str,
    values: Mapping[str, float],
) -> Metric:
    family = kind(f"candled_{name}", about, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
