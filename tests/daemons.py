"""A real candled in a process of its own, for tests that look at it from outside."""

import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from os import environ
from pathlib import Path

import trio
from msgspec import Struct

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent  # where `make setup` puts `candled`
STARTS_WITHIN = 60  # seconds
ENDS_WITHIN = 10


class Daemon(Struct, frozen=True):
    """A daemon that has said it is ready."""

    port: int
    process: trio.Process
    log: Path


def environment(home: Path, **more: str) -> dict[str, str]:
    """Ours without anybody's settings, and with `home` for all data that is not put elsewhere."""
    kept = {name: value for name, value in environ.items() if not name.startswith("CANDLED_") and name != "PORT"}
    return {**kept, "XDG_DATA_HOME": str(home), **more}


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@asynccontextmanager
async def running(
    command: str, *flags: str, home: Path, variables: Mapping[str, str] | None = None
) -> AsyncIterator[Daemon]:
    """`candled COMMAND FLAGS` until the block ends; it must then stop cleanly on SIGTERM, if it still runs."""
    port = free_port()
    log = home / f"{command}-{port}.log"
    with log.open("wb") as out:
        process = await trio.lowlevel.open_process(
            [BIN / "candled", command, "--port", str(port), *flags],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=environment(home, **(variables or {})),
            cwd=home,
        )
    try:
        with trio.move_on_after(STARTS_WITHIN) as patience:
            while not await _ready(port) and process.poll() is None:  # noqa: ASYNC110  # another process has no event of ours
                await trio.sleep(0.05)
        assert not patience.cancelled_caught, f"not ready after {STARTS_WITHIN} s: {_last(log)}"
        assert process.returncode is None, f"ended with {process.returncode}: {_last(log)}"
        yield Daemon(port, process, log)
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            with trio.move_on_after(ENDS_WITHIN):
                await process.wait()
            assert process.returncode == 0, f"after SIGTERM: {process.returncode}: {_last(log)}"
    finally:
        if process.poll() is None:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


async def _ready(port: int) -> bool:
    try:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return (await stream.receive_some(1024)).split(b" ")[1:2] == [b"200"]
    except (OSError, trio.BrokenResourceError):
        return False


def _last(log: Path) -> str:
    return log.read_text("utf-8", "replace")[-4000:]
