"""A data directory on a disk that is full, or read-only: whatever only reads works, with a daemon and without one."""

import json
import subprocess
from contextlib import closing
from pathlib import Path

import trio

from tests.daemons import BIN, environment
from tests.daemons import running as daemon
from tests.disks import filled, mounted, small
from tests.stacks import flush, running, say, trade
from tests.test_end_to_end import Http

EVENTS = 300


def candled(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BIN / "candled", *words], env=environment(home), cwd=home, capture_output=True, text=True, check=False
    )


async def lived(data: Path) -> None:
    """A directory with some trades, which ended clean."""
    async with running(data) as stack:
        await say(stack, [trade(60 * minute, 100 + minute) for minute in range(EVENTS)], trade(0, -1))
        await flush(stack)


def everything_is_told(home: Path, data: Path, name: str) -> None:
    """Backup, export and verify, to somewhere else."""
    done = candled(home, "backup", str(home / f"{name} backup"), "--data", str(data), "--json")
    assert (done.returncode, json.loads(done.stdout)["missing"]) == (0, []), done
    for resolution, rows in (("1m", EVENTS), (None, EVENTS)):
        to = home / f"{name} {resolution}.csv"
        wanted = ["--resolution", resolution] if resolution else ["--events"]
        done = candled(home, "export", "--market", "GOLD", *wanted, "-o", str(to), "--data", str(data))
        assert (done.returncode, len(to.read_text().splitlines())) == (0, rows + 1), done
    done = candled(home, "verify", "--data", str(data))
    assert (done.returncode, "all as the events have it" in done.stderr) == (0, True), done


def test_commands_that_read_work_on_a_full_disk_without_a_daemon(tmp_path: Path) -> None:
    with small(tmp_path / "disk", "40m") as disk:
        data = disk / "data"
        trio.run(lived, data)
        filled(disk)
        everything_is_told(tmp_path, data, "stopped")
        assert candled(tmp_path, "token", "list", "--data", str(data)).returncode == 0
        assert "size" in candled(tmp_path, "rejects", "--data", str(data)).stdout
        done = candled(tmp_path, "token", "create", "--scope", "read", "--data", str(data))
        assert (done.returncode, done.stderr) == (1, f"candled: {data / 'state.db'}: the disk is full\n")


async def test_commands_that_read_work_on_a_full_disk_through_the_daemon(tmp_path: Path) -> None:
    with small(tmp_path / "disk", "40m") as disk:
        data = disk / "data"
        await lived(data)

        async def works(name: str) -> None:
            ballast = filled(disk)
            await trio.to_thread.run_sync(everything_is_told, tmp_path, data, name)
            ballast.unlink()

        async with daemon("serve", "--data", str(data), home=tmp_path):
            await works("running")
            _, key = (data / "address").read_text().split()
            assert (data / "address").stat().st_mode & 0o777 == 0o600
        async with daemon("serve", "--data", str(data), home=tmp_path) as another:
            with closing(Http(another.port, key)) as http:  # it was of that process alone
                assert (await http.ask("GET", "/api/admin/backup")).status == 401
        listed = await trio.to_thread.run_sync(candled, tmp_path, "token", "list", "--json", "--data", str(data))
        assert json.loads(listed.stdout) == []


def test_what_can_be_read_of_a_read_only_directory_is_and_what_cannot_is_named(tmp_path: Path) -> None:
    trio.run(lived, tmp_path / "data")
    with mounted(tmp_path / "mounted", "--bind", str(tmp_path / "data")) as data:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(data)], check=True)
        assert "size" in candled(tmp_path, "rejects", "--data", str(data)).stdout
        assert candled(tmp_path, "token", "list", "--data", str(data)).returncode == 0
        done = candled(tmp_path, "token", "create", "--scope", "read", "--data", str(data))
        said = f"candled: {data / 'state.db'}: nothing can be written to it or beside it, by this user or at all\n"
        assert (done.returncode, done.stderr) == (1, said)
