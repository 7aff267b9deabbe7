"""The stack below the web layer, really running, and the words that tests say to it."""

import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import trio

from actors.intake import IngestAnswer
from daemon.stack import Stack, StackSettings, opened
from storage.database import Database, Door
from storage.records import Kind
from storage.retention import Keep

NOON = 1_700_049_600  # 15 November 2023, 12:00 UTC
JSON, NDJSON = "application/json", "application/x-ndjson"
Said = dict[str, object]
STORE = "candles.duckdb"


def with_tables(data: Path) -> None:
    """Put into a new directory a history store that has its tables: making them is half of a first start, and comes to
    the same every time."""
    data.mkdir(parents=True, exist_ok=True)
    if not any(data.iterdir()):
        (data / STORE).write_bytes(_blank())


@cache
def _blank() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / STORE
        Database.open(made, Door()).close()
        return made.read_bytes()


@asynccontextmanager
async def running(
    data: Path,
    *,
    flush_seconds: float = 3600,
    flush_events: int = 1_000_000,
    seal_events: int = 1_000_000,
    create: Kind | None = "spot",
    retention: Sequence[Keep] = (),
    now: Callable[[], float] = time.time,
) -> AsyncIterator[Stack]:
    """The stack over this directory; it flushes only when it must or is told to, and makes markets as they come."""
    settings = StackSettings(
        data=data,
        flush_seconds=flush_seconds,
        flush_events=flush_events,
        seal_events=seal_events,
        create=create,
        retention=tuple(retention),
    )
    with_tables(data)
    async with opened(settings, now=now) as stack:
        yield stack


@asynccontextmanager
async def seen(data: Path, **more: Any) -> AsyncIterator[Stack]:
    """As `running`, for the last look at a directory: what is not in the store at the end is not put there."""
    with trio.CancelScope() as scope:
        async with running(data, **more) as stack:
            yield stack
            scope.cancel()


def trade(second: int, price: float | str = 100, size: float | str = 1, market: str = "GOLD", **more: object) -> Said:
    """A trade, this many seconds after NOON."""
    return {"market_symbol": market, "timestamp": (NOON + second) * 1000, "price": price, "size": size, **more}


def removed(trade_id: int | str, market: str = "GOLD") -> Said:
    """Takes back a trade."""
    return {"market_symbol": market, "trade_id": trade_id, "removed": True}


async def say(stack: Stack, *words: Said | Sequence[Said], key: str | None = None) -> IngestAnswer:
    """One request with these words; its answer."""
    some = [one for word in words for one in (word if isinstance(word, list) else [word])]
    answer = await stack.intake.submit(msgspec.json.encode(some), JSON, key=key)
    return msgspec.json.decode(answer, type=IngestAnswer)


async def flush(stack: Stack) -> None:
    """Have everything that was acknowledged in the store."""
    await stack.writer.flushed(stack.engine.committed())
