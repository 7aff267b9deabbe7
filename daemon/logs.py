"""How a log line looks: for people on a terminal, as one JSON object a line elsewhere, always on standard error."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog
from structlog.typing import Processor, WrappedLogger

from daemon.config import LogFormat, LogLevel

# Libraries that say at `info` what our own lines say better.
QUIET = ("hypercorn.access", "hypercorn.error", "quart.app", "trio-websocket")
SECRET = ("authorization", "cookie", "key", "password", "secret", "token")


def configure(format: LogFormat = "auto", level: LogLevel = "info", stream: TextIO | None = None) -> None:
    """Let structlog and the standard library's logging write alike, one line per event."""
    out = sys.stderr if stream is None else stream
    human = out.isatty() if format == "auto" else format == "human"
    threshold = logging.getLevelNamesMapping()[level.upper()]
    alike: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if human else "iso", utc=not human),
        masked,
    ]
    shape: list[Processor] = (
        [structlog.dev.ConsoleRenderer(colors=out.isatty())]
        if human
        else [
            structlog.processors.format_exc_info,
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(),
        ]
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            # What a library adds to its record with `extra` is part of the line.
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *alike],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *shape],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(threshold)
    for name in QUIET:
        logging.getLogger(name).setLevel(max(threshold, logging.WARNING))
    structlog.configure(
        processors=[*alike, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,  # a module may ask for its logger before this has been called
    )


def masked(_: WrappedLogger, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The line without the values of members that are secret by their name."""
    for name in event:
        if name.lower() in SECRET:
            event[name] = "(secret)"
    return event
