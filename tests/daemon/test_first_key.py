"""A daemon that nobody can administer yet says so, and how that changes."""

import json
import shlex
from pathlib import Path

import pytest
import trio

from daemon import commands
from daemon.config import Config
from tests.daemons import BIN, environment, running

SAID = "there is no admin key yet"


def lines(log: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in log.read_text("utf-8").splitlines()]


async def test_serve_says_what_to_type_for_the_first_admin_key_until_there_is_one(tmp_path: Path) -> None:
    data = tmp_path / "some where"
    async with running("serve", "--data", str(data), home=tmp_path) as daemon:
        pass
    (said,) = (line for line in lines(daemon.log) if line["message"] == SAID)
    typed = shlex.split(str(said["make_one"]))
    assert typed == ["candled", "token", "create", "--scope", "admin", "--data", str(data)]
    config = Config(data=data)
    commands.create_token(config, "ingest", "feeder")
    commands.create_token(config, "admin", "gone")
    commands.revoke_token(config, 2)
    async with running("serve", "--data", str(data), home=tmp_path) as daemon:
        with trio.fail_after(30):
            while SAID not in daemon.log.read_text("utf-8"):  # noqa: ASYNC110  # another process has no event of ours
                await trio.sleep(0.02)
        command = [str(BIN / typed[0]), *typed[1:]]
        await trio.run_process(command, env=environment(tmp_path), stdin=b"", capture_stdout=True, capture_stderr=True)
    async with running("serve", "--data", str(data), home=tmp_path) as daemon:
        pass
    assert SAID not in daemon.log.read_text("utf-8")


async def test_the_demo_needs_no_key_and_asks_for_none(tmp_path: Path) -> None:
    async with running("demo", home=tmp_path) as daemon:
        pass
    assert SAID not in daemon.log.read_text("utf-8")


@pytest.mark.parametrize("name", ["plain", "it's; rm -rf ~"])
def test_the_command_survives_a_shell_whatever_the_directory_is_called(tmp_path: Path, name: str) -> None:
    assert shlex.split(commands.first_key(Config(data=tmp_path / name)))[-1] == str(tmp_path / name)
