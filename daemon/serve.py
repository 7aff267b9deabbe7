"""The whole process: opened from the disk up, live in the line that listens, drained back down."""

import gc
import signal
import ssl
import sys
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version

import structlog
import trio

from daemon import demo as samples
from daemon.config import Config
from daemon.stack import Recovered, Stack, StackSettings, opened
from web.app import create_app
from web.context import Services, WebSettings
from web.listener import listen
from web.outbox import WsLimits
from web.stream import BarStreams

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
    sys.setswitchinterval(0.001)  # a thread that decodes must not hold up the loop for long
    async with opened(stack_settings(config)) as stack:
        _report(config, stack.recovered, time.perf_counter() - began)
        gc.collect()
        gc.freeze()  # what lives as long as the process need not be looked at again
        gc.set_threshold(50_000, 20, 50)
        settings = web_settings(config, demo)
        app = create_app(services(stack, settings))
        limits = ws_limits(config)
        sockets = {"/ws": BarStreams(stack.engine, stack.hub, limits).serve}
        async with trio.open_nursery() as nursery:
            address = await nursery.start(
                lambda task_status: listen(
                    app,
                    sockets,
                    host=config.host,
                    port=config.port,
                    hub=stack.hub,
                    limits=limits,
                    tls=_tls(config),
                    origins=None if "*" in config.cors_origins else config.cors_origins,
                    until=until,
                    drain_seconds=config.drain_seconds,
                    task_status=task_status,
                )
            )
            if demo:
                nursery.start_soon(samples.run, stack.registry, stack.intake)
            _announce(config, address, demo)
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
    )


def ws_limits(config: Config) -> WsLimits:
    """The part of the configuration that WebSockets read."""
    beat = config.websocket_heartbeat_interval / 1000
    return WsLimits(
        connections=config.stream_connections,
        subscriptions=config.stream_subscriptions,
        messages_per_second=config.stream_messages_per_second,
        message_bytes=config.stream_message_bytes,
        ping_seconds=beat,
        dead_seconds=2 * beat,
    )
