"""The whole process: opened from the disk up, live in the line that listens, drained back down."""

import gc
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog
import trio

from daemon import __version__, tls
from daemon import demo as samples
from daemon.commands import announce, first_key, make_folder
from daemon.config import Config
from daemon.recovery import Recovered
from daemon.stack import Stack, StackSettings, opening
from storage import keys
from storage.secret import kept
from web.app import create_app
from web.context import Rates, Services, WebSettings
from web.doors import sockets
from web.hot import Hot
from web.listener import Endpoint, listen
from web.outbox import WsLimits
from web.pusher.apps import PusherSettings
from web.pusher.endpoint import GOODBYES, Pusher
from web.tokens import Tokens, TokenSettings

log = structlog.get_logger("candled")
Until = Callable[[], Awaitable[None]]


async def terminated() -> None:
    """Return on SIGTERM or Ctrl-C; a second one ends the process at once."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            return


async def serve(config: Config, *, demo: bool = False, until: Until = terminated) -> None:
    """Run candled until `until` returns, then drain."""
    began = time.perf_counter()
    certificate = tls.context(config)
    make_folder(config)
    sys.setswitchinterval(0.001)  # a thread that decodes must not hold up the loop for long
    async with opening(stack_settings(config)) as stack:
        settings = web_settings(config, demo)
        stopping = trio.Event()
        limits = ws_limits(config)
        tokens = Tokens(await stack.door.run(kept, config.data / "jwt.secret"), token_settings(config))
        pusher = Pusher(pusher_settings(config), stack.engine, stack.hub, limits, tokens)
        app = create_app(services(stack, settings, lambda: "stopping" if stopping.is_set() else ""), pusher)
        channels_of_apps = Endpoint(pusher.serve, GOODBYES)

        async def told_to_stop() -> None:
            await until()
            stopping.set()

        async def readable(key: str) -> bool:
            return await stack.keys.allowed(key, "read")

        async def may_ingest(key: str) -> bool:
            return await stack.keys.allowed(key, "ingest")

        async def settle() -> None:
            await stack.catch_up.wait()
            _report(config, stack.recovered, time.perf_counter() - began)
            gc.collect()
            gc.freeze()  # what lives as long as the process need not be looked at again
            gc.set_threshold(50_000, 20, 50)

        may_read = readable if config.auth == "token" else None
        streams = sockets(
            stack.engine,
            stack.registry,
            stack.intake,
            stack.hub,
            limits,
            may_read,
            may_ingest,
            tokens,
            demo=demo,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(settle)
            nursery.start_soon(pusher.run)

            async def listening(task_status: trio.TaskStatus[tuple[str, int]]) -> None:
                await listen(
                    app,
                    {**streams, "/app/{key}": channels_of_apps, "/ws/app/{key}": channels_of_apps},
                    host=config.host,
                    port=config.port,
                    hub=stack.hub,
                    limits=limits,
                    tls=certificate,
                    origins=None if "*" in config.cors_origins else config.cors_origins,
                    until=told_to_stop,
                    # What is left is for the last flush.
                    drain_seconds=0.7 * config.drain_seconds,
                    before=Hot(app).serve if settings.hot_door else None,
                    task_status=task_status,
                )
                nursery.cancel_scope.cancel()

            # Before anybody can take their names and numbers.
            slots = await samples.registered(stack.registry) if demo else []
            address = await nursery.start(listening)
            if demo:
                nursery.start_soon(samples.run, slots, stack.intake, stack.coverage)
            with _announced(config, address, stack.keys.lend(), demo):
                if not demo and not await stack.door.run(keys.has_admin, stack.state):
                    log.warning("there is no admin key yet", make_one=first_key(config))
                await trio.sleep_forever()
    gc.unfreeze()
    log.info("stopped")


def stack_settings(config: Config) -> StackSettings:
    """The part of the configuration that the stack reads."""
    return StackSettings(
        data=config.data,
        threads=config.max_concurrent_queries,
        flush_seconds=config.flush_seconds,
        flush_events=config.flush_rows,
        max_body=config.max_body_bytes,
        create=config.create_markets,
        query_seconds=config.query_seconds,
        seal_seconds=config.seal_seconds,
        seal_events=config.seal_events,
        archive_days=config.archive_days,
        archive_quiet=config.archive_quiet_seconds,
        audit_seconds=config.audit_seconds,
        retention=config.retention,
        feed_silence=config.feed_silence_seconds,
    )


def ws_limits(config: Config) -> WsLimits:
    """The part of the configuration that WebSockets read."""
    beat = config.websocket_heartbeat_interval / 1000
    return WsLimits(
        connections=config.stream_connections,
        subscriptions=config.stream_subscriptions,
        messages_per_second=config.stream_messages_per_second,
        message_bytes=config.stream_message_bytes,
        ingest_bytes=config.stream_ingest_bytes,
        ping_seconds=beat,
        dead_seconds=2 * beat,
    )


def token_settings(config: Config) -> TokenSettings:
    """The part of the configuration that users' tokens are verified by."""
    return TokenSettings(secret=config.jwt_secret, audience=config.jwt_audience, issuer=config.jwt_issuer)


def pusher_settings(config: Config) -> PusherSettings:
    """The part of the configuration that the Pusher endpoint reads."""
    return PusherSettings(
        apps=config.apps,
        open=config.auth == "open",
        activity_seconds=config.pusher_activity_seconds,
        data_bytes=config.pusher_event_bytes,
    )


def web_settings(config: Config, demo: bool) -> WebSettings:
    """The part of the configuration that the web layer reads."""
    return WebSettings(
        version=__version__,
        started=time.monotonic(),
        auth=config.auth,
        # Without a key, only somebody on this very machine may write.
        demo=demo,
        command=_command(),
        data=config.data.absolute(),
        cors_origins=config.cors_origins,
        max_body=config.max_body_bytes,
        rates=Rates(
            window_ms=config.rate_limit_window_ms,
            requests=config.rate_limit_requests,
            history=config.rate_limit_history,
            ohlcv=config.rate_limit_ohlcv,
            search=config.rate_limit_search,
            other=config.rate_limit_other,
        ),
        trusted_proxies=config.trusted_proxies,
        streams=ws_limits(config),
        udf_prefixes=config.udf_prefixes,
        kept_answers=config.kept_answer_bytes,
        hot_door=config.hot_door == "on",
        saved_per_user=config.saved_bytes_per_user,
        saved=config.saved_bytes,
        market_seconds=config.market_data_cache_ttl,
        tier_turnover=config.tier_turnover,
    )


def _command() -> str:
    """How a shell calls this program from anywhere."""
    beside = Path(sys.executable).with_name("candled")
    return str(beside) if beside.exists() else "candled"


def services(stack: Stack, settings: WebSettings, not_ready: Callable[[], str]) -> Services:
    """What handlers reach for."""
    return Services(
        engine=stack.engine,
        intake=stack.intake,
        registry=stack.registry,
        keys=stack.keys,
        coverage=stack.coverage,
        marker=stack.marker,
        writer=stack.writer,
        journal=stack.journal,
        database=stack.database,
        store=stack.store,
        hub=stack.hub,
        archivist=stack.archivist,
        retention=stack.retention,
        sealing=stack.sealing,
        janitor=stack.janitor,
        catch_up=stack.catch_up,
        backups=stack.backups,
        audit=stack.audit,
        state=stack.state,
        settings=settings,
        not_ready=not_ready,
    )


def _report(config: Config, found: Recovered, seconds: float) -> None:
    if found.set_aside:
        log.error("the history store would not open; rebuilt from the journal", set_aside=found.set_aside)
    log.info("opened", data=str(config.data), recovered=found.events, seconds=round(seconds, 3))


@contextmanager
def _announced(config: Config, address: tuple[str, int], key: str, demo: bool) -> Iterator[None]:
    """Say where it listens: in the log, and in a file for the commands that work through a running daemon."""
    host, port = address
    host = f"[{host}]" if ":" in host else host
    shown = "localhost" if host in ("127.0.0.1", "[::1]") else host
    scheme = "https" if config.tls else "http"
    url = f"{scheme}://{shown}:{port}"
    try:
        announce(config, url, key)
    except OSError as error:  # it is served all the same
        log.warning("commands will need --url", file=error.filename, reason=error.strerror)
    log.info("listening", address=url, data=str(config.data), demo=demo)
    try:
        yield
    finally:
        with suppress(OSError):
            announce(config, "", "")
