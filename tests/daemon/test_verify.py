"""`candled verify` as it is typed: of a directory that nobody uses, and through its daemon."""

import json
import subprocess
from pathlib import Path
from typing import Any

import duckdb
import trio

from tests.daemons import BIN, environment, running
from tests.test_end_to_end import MONDAY, OFTEN, a_key, markets, talking, trade


async def verify(home: Path, *more: str) -> subprocess.CompletedProcess[bytes]:
    with trio.fail_after(120):
        return await trio.run_process(
            [BIN / "candled", "verify", *more],
            env=environment(home),
            check=False,
            capture_stdout=True,
            capture_stderr=True,
        )


def lines(done: subprocess.CompletedProcess[bytes], kind: str) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, done.stdout.splitlines()) if line["type"] == kind]


def spoil(home: Path) -> None:
    """Change a stored bar behind everybody's back."""
    with duckdb.connect(str(home / "candled" / "candles.duckdb")) as db:
        for table in ("spot_60", "spot_60_recent"):
            db.execute(f"UPDATE {table} SET close = 5 WHERE t = {MONDAY}")


async def test_what_differs_is_printed_and_repaired_with_a_daemon_and_without(tmp_path: Path) -> None:
    async with running("serve", home=tmp_path, variables=OFTEN) as daemon:
        key = await a_key(tmp_path, "admin")
        await markets(daemon, key)
        with talking(daemon, key) as http:
            await http.say(trade(0, 10, 1), trade(1, 11, 2), trade(120, 12, 3))
        done = await verify(tmp_path, "--json")
        assert done.returncode == 0, done
        assert [line["differences"] for line in lines(done, "end")] == [0]
        assert b"3 events" in done.stderr
        assert b"all as the events have it" in done.stderr
    spoil(tmp_path)
    done = await verify(tmp_path)
    assert done.returncode == 1
    assert b" GOLD 1m " in done.stdout
    assert b" close: stored 5.0, by the events 11.0\n" in done.stdout
    assert b": 1 differ, 1 of 1m" in done.stdout
    assert b"1 differences" in done.stderr
    assert (await verify(tmp_path, "--repair")).returncode == 0
    assert (await verify(tmp_path)).returncode == 0
    spoil(tmp_path)
    async with running("serve", home=tmp_path, variables=OFTEN) as daemon:
        done = await verify(tmp_path, "--json", "--market", "gold")
        assert done.returncode == 1
        (found,) = lines(done, "differences")
        assert [(one["market"], one["measure"], one["stored"], one["refolded"]) for one in found["found"]] == [
            ("GOLD", "close", "5.0", "11.0")
        ]
        done = await verify(tmp_path, "--repair")
        assert done.returncode == 0, done
        assert b"1 repaired" in done.stderr
        with talking(daemon, key) as http:
            bars, _ = await http.history("GOLD", "1")
            assert [bar[3] for bar in bars.values()] == [11, 12]
            answer = await http.ask("GET", "/api/charts/health")
            assert (answer.status, answer.body["audit"]["last"]) == (200, None)


async def test_what_cannot_be_asked_is_wrong_usage(tmp_path: Path) -> None:
    async with running("serve", home=tmp_path):
        for flags in (("--from", "soon"), ("--market", "NONE"), ("--to",)):
            done = await verify(tmp_path, *flags)
            assert done.returncode in (1, 2), done
            assert done.returncode == 2 or flags[0] == "--market"
            assert done.stderr.count(b"\n") == 1
    done = await verify(tmp_path, "--data", str(tmp_path / "nowhere"))
    assert done.returncode == 1
