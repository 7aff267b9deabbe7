"""Backups of the real process: made while it takes events, killed amid them, out of room; and what is restored."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest
import trio

from storage import backup, schema
from tests.daemons import BIN, Daemon, environment, running
from tests.disks import resized, small
from tests.test_end_to_end import (
    END_OF_TIME,
    OFTEN,
    SPANS,
    Event,
    Five,
    Http,
    arrow,
    command,
    folded,
    markets,
    printed,
    seq_of,
    subscribed,
    talking,
    trade,
)
from tests.ws_client import Chart, connected

RUNGS = {**SPANS, "15": 900}
# Everything that moves files, as often as may be.
MOVING = {
    **OFTEN,
    "CANDLED_SEAL_SECONDS": "0.5",
    "CANDLED_ARCHIVE_DAYS": "1",
    "CANDLED_ARCHIVE_QUIET_SECONDS": "0",
}
ARROW = "application/vnd.apache.arrow.stream"
Bars = dict[str, dict[int, Five]]


class Lane:
    """A producer: everything that it was told is on the disk, with the seq of each batch."""

    def __init__(self, symbol: str, seed: int) -> None:
        self.symbol = symbol
        self.said: list[tuple[int, dict[int, Event | None]]] = []
        self._chance = Random(seed)
        self._known = 0

    def batch(self, count: int) -> dict[int, Event | None]:
        """New trades, and some that change or take back what was said before."""
        chance = self._chance
        words: dict[int, Event | None] = {}
        for number in chance.sample(range(self._known), min(self._known, count // 20)):
            words[number] = self._trade(number) if chance.random() < 0.6 else None
        for number in range(self._known, self._known + count):
            words[number] = self._trade(number)
        self._known += count
        return words

    def _trade(self, number: int) -> Event:
        return trade(self._chance.randrange(86_400), 100 + self._chance.randrange(4000) / 4, number, self.symbol)

    async def say(self, http: Http, count: int) -> None:
        words = self.batch(count)
        sent = [
            {"market_symbol": self.symbol, "trade_id": number, "removed": True} if event is None else event.wire
            for number, event in words.items()
        ]
        body = json.dumps(sent).encode()
        answer = await http.ask("POST", "/api/ingest/events", body, Content_Type="application/json")
        assert answer.status == 200, answer
        self.said.append((seq_of(answer.body["cursor"]), words))

    def bars(self, through: int) -> Bars:
        """What the batches up to this seq come to."""
        live: dict[int, Event] = {}
        for seq, words in self.said:
            if seq <= through:
                for number, event in words.items():
                    if event is None:
                        live.pop(number, None)
                    else:
                        live[number] = event
        return {rung: folded(live.values(), span) for rung, span in RUNGS.items()}


async def told(home: Path, *argv: str) -> dict[str, object]:
    """What a command says of itself; it may take as long as a busy machine makes it."""
    with trio.fail_after(120):
        done = await trio.run_process(
            [BIN / "candled", *argv, "--json"],
            env=environment(home),
            check=False,
            capture_stdout=True,
            capture_stderr=True,
        )
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


async def a_key(home: Path, data: Path) -> str:
    return (
        (await printed(home, "token", "create", "--scope", "admin", "--name", "mine", "--data", str(data)))
        .decode()
        .strip()
    )


async def read(http: Http, symbol: str) -> Bars:
    """All bars at every rung, an answer at a time."""
    return {rung: await everything(http, symbol, rung) for rung in RUNGS}


async def everything(http: Http, symbol: str, rung: str) -> dict[int, Five]:
    found: dict[int, Five] = {}
    end = END_OF_TIME
    while True:
        path = f"/api/tradingview/history?symbol={symbol}&resolution={rung}&from=0&to={end}"
        answer = await http.ask("GET", path)
        assert answer.status == 200, answer
        body = answer.body
        if body["s"] == "no_data":
            return found
        assert body["s"] == "ok", body
        bars = zip(body["o"], body["h"], body["l"], body["c"], body["v"], strict=True)
        found |= dict(zip(body["t"], bars, strict=True))
        assert end > body["t"][0]
        end = body["t"][0]


async def until(true: Callable[[], object], seconds: float = 60) -> None:
    """Wait for another process."""
    with trio.fail_after(seconds):
        while not true():  # noqa: ASYNC110 - another process makes it true
            await trio.sleep(0.0005)


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file by its path: which it is, and its size."""
    return {str(path.relative_to(folder)): stat(path) for path in folder.rglob("*") if path.is_file()}


def stat(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_ino, found.st_size


async def test_a_backup_under_load_is_exactly_what_there_was_at_its_cursor(tmp_path: Path) -> None:
    data, target = tmp_path / "data", tmp_path / "backup"
    lanes = [Lane(f"LANE{number}", number) for number in range(2)]
    serve = ("serve", "--data", str(data))
    async with running(*serve, home=tmp_path, variables=MOVING) as daemon:
        key = await a_key(tmp_path, data)
        await markets(daemon, key, *(lane.symbol for lane in lanes))
        with talking(daemon, key) as http:
            for lane in lanes:
                await lane.say(http, 500)
    made: list[tuple[Path, dict[str, object]]] = []
    async with running(*serve, home=tmp_path, variables={**MOVING, "CANDLED_FLUSH_SECONDS": "1"}) as daemon:
        await until(lambda: len(list(data.glob("archive/spot/*/*/*.parquet"))) == len(schema.RUNGS))
        chart = Chart("LANE0", "60")
        async with connected(daemon.port) as client:
            await subscribed(client, chart)
        async with trio.open_nursery() as nursery:

            async def producing(lane: Lane) -> None:
                with talking(daemon, key) as http:
                    while len(made) < 2:
                        await lane.say(http, 20)
                        await trio.sleep(0.1)  # a load, no flood: backups are made at the lowest priority

            for lane in lanes:
                nursery.start_soon(producing, lane)
            known: dict[str, tuple[int, int]] = {}
            while len(made) < 2:
                found = await told(tmp_path, "backup", str(target), "--data", str(data))
                now = files(target)
                added = {path: size for path, (inode, size) in now.items() if known.get(path, (0, 0))[0] != inode}
                added.pop(backup.MANIFEST)
                added.pop(backup.LOCK, None)
                assert found["copied_bytes"] == sum(added.values())
                assert found["copied_files"] == len(added)
                assert found["kept_files"] == len(now) - 2 - len(added)
                known = now
                made.append((tmp_path / f"copy{len(made)}", found))
                shutil.copytree(target, made[-1][0])
    last = max(seq for lane in lanes for seq, _ in lane.said)
    for copy, found in made:
        later = [seq for lane in lanes for seq, _ in lane.said if seq > seq_of(str(found["cursor"]))]
        assert later, "nothing came after it"
        assert any(path.startswith("raw/") for path in files(copy))
        assert any(path.startswith("archive/") for path in files(copy))
    copy, found = made[-1]  # of which some files are those of the first
    cursor, new = str(found["cursor"]), tmp_path / "new"
    restored = await told(tmp_path, "restore", str(copy), "--data", str(new))
    assert restored["before"] == cursor
    async with running("serve", "--data", str(new), home=tmp_path, variables=OFTEN) as daemon:
        with talking(daemon, key) as http:
            for lane in lanes:
                assert await read(http, lane.symbol) == lane.bars(seq_of(cursor)), (lane.symbol, cursor)
            _, at = await http.history("LANE0", "60")
            assert at.partition(".")[0] == str(restored["cursor"]).partition(".")[0] != cursor.partition(".")[0]
            # Somebody who followed the original begins afresh.
            back = Chart(chart.symbol, chart.resolution)
            back.epoch, back.seq, back.bars = chart.epoch, chart.seq, dict(chart.bars)
            async with connected(daemon.port) as client:
                await subscribed(client, back)
                assert back.recovered == [False]
                assert back.epoch == at.partition(".")[0]
                assert {t: bar["close"] for t, bar in back.bars.items()} == {
                    t: bar[3] for t, bar in lanes[0].bars(seq_of(cursor))["60"].items()
                }
            # Its key is in it, too, and it goes on.
            assert await http.say(trade(5, 7, 10**6, "LANE1")) == seq_of(cursor) + 1
        listed = json.loads(await printed(tmp_path, "token", "list", "--json", "--data", str(new)))
        assert [key["name"] for key in listed if key["revoked"] is None] == ["mine"]
    assert last > 30


async def filled(daemon: Daemon, key: str, batches: int, turn: int) -> list[Event]:
    """Many trades, most of them in the journal alone; each turn has others."""
    numbers = range(turn * 10**6, turn * 10**6 + 20_000 * batches)
    events = [trade(number % 80_000, 100 + number % 97, number) for number in numbers]
    with talking(daemon, key) as http:
        for at in range(0, len(events), 20_000):
            body = arrow(events[at : at + 20_000])
            answer = await http.ask("POST", "/api/ingest/events", body, Content_Type=ARROW)
            assert answer.body["accepted"] == 20_000, answer
    return events


async def began(home: Path, *argv: str) -> trio.Process:
    return await trio.lowlevel.open_process(
        [BIN / "candled", *argv], env=environment(home), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


async def test_a_daemon_that_is_killed_amid_a_backup_leaves_the_older_one_whole(tmp_path: Path) -> None:
    data, target = tmp_path / "data", tmp_path / "backup"
    serve = ("serve", "--data", str(data))
    async with running(*serve, home=tmp_path, variables=OFTEN) as daemon:
        key = await a_key(tmp_path, data)
        await markets(daemon, key)
        events = await filled(daemon, key, 1, 0)
        await told(tmp_path, "backup", str(target), "--data", str(data))
        older, held = backup.read(target), len(events)
    inside = 0
    for attempt in range(1, 9):
        async with running(*serve, home=tmp_path, variables=OFTEN) as daemon:
            events += await filled(daemon, key, 10, attempt)
            process = await began(tmp_path, "backup", str(target), "--data", str(data))
            with trio.move_on_after(30):
                await until(lambda: list(target.glob("journal/*.new")))
            os.kill(daemon.process.pid, signal.SIGKILL)
            assert await daemon.process.wait() == -signal.SIGKILL
            assert process.stderr is not None
            said = b"".join([part async for part in process.stderr]).decode()
            if await process.wait() == 0:  # it was over before anybody saw it begin
                older, held = backup.read(target), len(events)
                continue
            inside += bool(list(target.glob("journal/*.new")))  # half a copy
            assert "start it again, what was copied stays" in said
            assert len(said.splitlines()) == 1
        assert backup.read(target) == older
        if inside:
            break
    assert inside
    assert (await told(tmp_path, "restore", str(target), "--data", str(tmp_path / "old")))["before"] == older.cursor
    async with running("serve", "--data", str(tmp_path / "old"), home=tmp_path) as daemon:
        with talking(daemon) as http:
            assert (await http.history("GOLD", "60"))[0] == folded(events[:held], 3600)
    async with running(*serve, home=tmp_path, variables=OFTEN):
        await told(tmp_path, "backup", str(target), "--data", str(data))
    assert not list(target.rglob("*.new"))
    await told(tmp_path, "restore", str(target), "--data", str(tmp_path / "new"))
    async with running("serve", "--data", str(tmp_path / "new"), home=tmp_path) as daemon:
        with talking(daemon) as http:
            assert (await http.history("GOLD", "60"))[0] == folded(events, 3600)


async def test_a_restore_that_is_killed_can_be_started_again_and_nothing_starts_before(tmp_path: Path) -> None:
    data, target, new = tmp_path / "data", tmp_path / "backup", tmp_path / "new"
    async with running("serve", "--data", str(data), home=tmp_path, variables=OFTEN) as daemon:
        key = await a_key(tmp_path, data)
        await markets(daemon, key)
        events = await filled(daemon, key, 10, 0)
    await told(tmp_path, "backup", str(target), "--data", str(data))  # nobody serves
    process = await began(tmp_path, "restore", str(target), "--data", str(new))
    await until(lambda: list(new.glob(".restore/journal/*.journal")))
    os.kill(process.pid, signal.SIGKILL)
    assert await process.wait() == -signal.SIGKILL
    assert (new / ".restore" / "lock").exists()
    assert not (new / "journal").exists()
    done = await command(tmp_path, "serve", "--data", str(new), "--port", "0")
    assert done.returncode == 1
    assert b"a restore was cut off, or is under way; start `candled restore` again" in done.stderr
    await told(tmp_path, "restore", str(target), "--data", str(new))
    assert not (new / ".restore").exists()
    async with running("serve", "--data", str(new), home=tmp_path) as daemon:
        with talking(daemon) as http:
            assert (await http.history("GOLD", "60"))[0] == folded(events, 3600)


async def test_a_backup_and_a_restore_without_room_say_so_and_go_on_when_there_is_some(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with small(tmp_path / "disk", "2500k") as disk:
        target = disk / "backup"
        async with running("serve", "--data", str(data), home=tmp_path, variables={**OFTEN, **MOVING}) as daemon:
            key = await a_key(tmp_path, data)
            await markets(daemon, key)
            events: list[Event] = []
            for turn in range(4):  # a sealed file each
                events += await filled(daemon, key, 3, turn)
                await until(lambda: not sealing(data))
            for _ in range(2):
                done = await command(tmp_path, "backup", str(target), "--data", str(data))
                assert done.returncode == 1
                assert b"no space left after" in done.stderr
                assert b"Traceback" not in done.stderr
                assert not list(target.rglob("*.new"))
            copied = [path for path in files(target) if path.startswith("raw/")]
            assert copied
            before = {path: stat(target / path) for path in copied}
            resized(disk, "64m")
            found = await told(tmp_path, "backup", str(target), "--data", str(data))
            assert {path: stat(target / path) for path in copied} == before
            assert int(str(found["kept_files"])) >= len(copied)
            with talking(daemon, key) as http:
                assert (await http.history("GOLD", "60"))[0] == folded(events, 3600)
        new = disk / "new"
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(shutil.disk_usage(disk).free - (1 << 20)))
        done = await command(tmp_path, "restore", str(target), "--data", str(new))
        assert done.returncode == 1
        assert b"no space left; nothing was restored" in done.stderr
        assert not new.exists()
        ballast.unlink()
        await told(tmp_path, "restore", str(target), "--data", str(new))
        assert len(files(new)) >= int(str(found["files"]))


def sealing(data: Path) -> bool:
    """Whether the journal still has what will be sealed."""
    with suppress(FileNotFoundError):
        return sum(path.stat().st_size for path in (data / "journal").glob("*.journal")) > 1000
    return True


@pytest.mark.parametrize("harm", ["missing", "flipped"])
async def test_a_backup_that_is_damaged_is_named_and_nothing_is_restored(tmp_path: Path, harm: str) -> None:
    data, target = tmp_path / "data", tmp_path / "backup"
    await a_key(tmp_path, data)
    async with running("serve", "--data", str(data), home=tmp_path, variables=OFTEN):
        await told(tmp_path, "backup", str(target), "--data", str(data))
    (file,) = target.glob("state.*.db")
    if harm == "missing":
        file.unlink()
    else:
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    new = tmp_path / "new"
    new.mkdir()
    done = await command(tmp_path, "restore", str(target), "--data", str(new))
    assert done.returncode == 1
    assert done.stderr.decode().count("\n") == 1
    assert str(file) in done.stderr.decode()
    assert "nothing was restored" in done.stderr.decode()
    assert not list(new.iterdir())
