"""The examples of docs/pusher.md do what they say, as they stand there."""

import sys
import tomllib
from pathlib import Path

import trio

from daemon.config import load
from tests.pusher.conftest import APP, ROOT, Ours, trade
from tests.pusher.node import HERE, MODULES, node, process_of
from tests.pusher_client import talking
from tests.test_readme import blocks

DOCS = (ROOT / "docs" / "pusher.md").read_text("utf-8")


def example(kind: str, ours: Ours) -> str:
    """The code of this kind, for the daemon of these tests."""
    (code,) = [block.text for block in blocks(DOCS) if block.kind == kind]
    for theirs, mine in (("my_key", APP["key"]), ("my_secret", APP["secret"]), ("8000", str(ours.port))):
        code = code.replace(theirs, mine)
    return code.replace("localhost", "127.0.0.1")


async def test_the_page_keeps_prices_and_bars(ours: Ours, tmp_path: Path) -> None:
    (tmp_path / "page.js").write_text(example("js page", ours))
    await trade(ours, "GOLD", 1990)
    async with process_of("run.cjs", "pusher-js", str(tmp_path / "page.js")) as process:
        assert process.stdout is not None
        said = b""
        with trio.fail_after(15):
            while not (b"price" in said and b"bars" in said):
                said += await process.stdout.receive_some()
            second = await trade(ours, "GOLD", 1991.5)
            wanted = (f"price {second} 1991.5", f"bar {second // 60 * 60} 1991.5")
            while not all(line.encode() in said for line in wanted):
                said += await process.stdout.receive_some()


async def test_the_servers_publish(ours: Ours, tmp_path: Path) -> None:
    (tmp_path / "server.js").write_text(example("js server", ours))
    (tmp_path / "server.py").write_text(example("python", ours))
    commands = (
        [node(), str(HERE / "run.cjs"), "pusher", str(tmp_path / "server.js")],
        [sys.executable, str(tmp_path / "server.py")],
    )
    async with talking(ours.port) as client:
        await client.subscribe("news")
        for command in commands:
            done = await trio.run_process(
                command, stdin=b"", capture_stdout=True, env={"NODE_PATH": str(MODULES), "PATH": "/usr/bin:/bin"}
            )
            heard = await client.hear()
            assert (heard["event"], heard["data"]) == ("said", {"text": "hello"})
            assert b"news" in done.stdout


def test_the_further_app_is_taken(tmp_path: Path) -> None:
    (code,) = [block.text for block in blocks(DOCS) if block.kind == "toml"]
    (tmp_path / "candled.toml").write_text(code)
    (app,) = load({"config": str(tmp_path / "candled.toml")}, {}).config.apps
    (said,) = tomllib.loads(code)["pusher_apps"]
    assert {name: getattr(app, name) for name in said} == said
