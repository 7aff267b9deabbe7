"""What is dropped is gone for good and whole; what stays does not change, live, after restarts and after losses."""

import inspect
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import ANY

import msgspec
import pyarrow as pa
import pytest

from actors.archivist import Archivist
from actors.background import Background
from actors.bodies import ARROW
from actors.intake import IngestAnswer
from actors.sealing import Sealing
from daemon.stack import Stack
from storage import archive, backup, rejects, restore, retention, sealed
from storage.partitions import BrokenPartition
from storage.records import Market
from storage.retention import RAW, Keep
from storage.schema import RUNGS
from storage.store import Store
from tests.histories import Reader, Row, StrictChart, read
from tests.stacks import JSON, NDJSON, NOON, Said, flush, removed, running, say, seen, trade

DAY = 86400
MIDNIGHT = NOON - DAY // 2
RESOLUTIONS = {1: "1S", 60: "1", 300: "5", 900: "15", 3600: "60", DAY: "1D"}
MERGED = {"10S": 1, "7": 60, "1W": DAY, "1M": DAY}  # others, and what they are merged from
RAW_ONLY = (Keep("spot", RAW, 30),)

Bars = dict[str, list[Row]]


@dataclass
class Clock:
    """The time of day, as a test has it."""

    at: float = MIDNIGHT + 4 * DAY

    def __call__(self) -> float:
        return self.at


@asynccontextmanager
async def kept(data: Path, clock: Clock, keeps: Sequence[Keep]) -> AsyncIterator[Stack]:
    async with running(data, retention=keeps, now=clock) as stack:
        yield stack


@asynccontextmanager
async def left(data: Path, clock: Clock, keeps: Sequence[Keep]) -> AsyncIterator[Stack]:
    """As `kept`, for the last look at a directory."""
    async with seen(data, retention=keeps, now=clock) as stack:
        yield stack


async def bars(stack: Stack, market: str = "GOLD") -> Bars:
    return {name: await read(stack, market, name) for name in (*RESOLUTIONS.values(), *MERGED)}


async def archived(stack: Stack, clock: Clock) -> None:
    """Everything that was said is sealed, and its bars are in the archive."""
    await stack.sealing.run()
    await flush(stack)
    await Archivist(stack.store, Background(rest=0), now=clock, quiet=0).run()


async def dropped(stack: Stack) -> None:
    """What may be dropped is."""
    stack.retention._next = 0
    assert stack.retention.due()
    await stack.retention.run()


def days(n: int, market: str = "GOLD", each: int = 20) -> list[Said]:
    """Trades with ids: `each` a day, from NOON on, some in one second."""
    return [
        trade(DAY * day + 97 * (i // 2), 100 + (7 * i + day) % 11, 1 + i, trade_id=1000 * day + i, market=market)
        for day in range(n)
        for i in range(each)
    ]


def above(shown: Bars, floors: dict[int, int]) -> Bars:
    """The bars that begin at their floor or later."""
    rungs = {name: rung for rung, name in RESOLUTIONS.items()} | MERGED
    return {name: [row for row in rows if row[0] >= floors.get(rungs[name], 0)] for name, rows in shown.items()}


@pytest.mark.parametrize("moved", [False, True])
async def test_bars_below_a_floor_are_gone_at_that_resolution_alone_live_restarted_and_rebuilt(
    tmp_path: Path, moved: bool
) -> None:
    clock = Clock()
    keeps = (Keep("spot", 1, 10), Keep("spot", 60, 12), Keep("perp", 60, 1))
    floors = {1: MIDNIGHT + 2 * DAY, 60: MIDNIGHT}
    async with kept(tmp_path, clock, keeps) as stack:
        await say(stack, days(3))
        before = await bars(stack)
        clock.at = MIDNIGHT + 12 * DAY + 3600
        if moved:
            await archived(stack, clock)
        await dropped(stack)
        expected = above(before, floors)
        assert 0 < len(expected["1S"]) < len(before["1S"])
        assert await bars(stack) == expected
        assert not (tmp_path / "archive/spot/1s/2023-11-15").exists()
        assert (tmp_path / "archive/spot/1s/2023-11-17").exists() == moved
        assert stack.retention.statistics().bars == (20 if moved else 0)
        await flush(stack)
        await dropped(stack)
        assert await bars(stack) == expected
        # What memory still holds of them is nothing that anybody is told, and no damage.
        assert await stack.engine.astray((await stack.registry.named("GOLD")).slot) == (ANY, [])
        # A late event counts in the bars that are kept, and makes none below the floor.
        answer = await say(stack, trade(5, 500, 7), removed(3), trade(DAY + 97, 1, 1, trade_id=1002))
        assert (answer.accepted, answer.retracted, answer.corrected) == (1, 1, 1)
        late = await bars(stack)
        assert (late["1S"], late["10S"]) == (expected["1S"], expected["10S"])
        assert late["1"] != expected["1"]
        assert late["1D"][0][5] == before["1D"][0][5] + 7 - 4
        await flush(stack)
        assert await bars(stack) == late
    async with kept(tmp_path, clock, keeps) as stack:
        assert await bars(stack) == late
    (tmp_path / "candles.duckdb").unlink()
    async with left(tmp_path, clock, ()) as stack:
        assert await bars(stack) == late
        assert (await say(stack, trade(7, 500, 7))).accepted == 1
        assert (await read(stack, "GOLD", "1S")) == late["1S"]
        await flush(stack)
        assert (await read(stack, "GOLD", "1S")) == late["1S"]


async def test_raw_events_go_once_their_bars_are_in_the_archive_and_bars_stay_the_same(tmp_path: Path) -> None:
    clock = Clock()
    async with kept(tmp_path, clock, RAW_ONLY) as stack:
        await say(stack, days(3), key="k")
        await say(stack, removed(5), trade(97, 3, 3, trade_id=2))
        before = await bars(stack)
        clock.at = MIDNIGHT + 40 * DAY
        await stack.sealing.run()
        await dropped(stack)
        assert stack.retention.statistics().waiting == []  # a file made today is not old
        clock.at += 31 * DAY
        await dropped(stack)
        (why,) = stack.retention.statistics().waiting
        assert why.endswith(" are not in the archive yet")
        await archived(stack, clock)
        await dropped(stack)
        told = stack.retention.statistics()
        assert (told.events, told.files, told.closed_days, told.waiting) == (61, 1, 3, [])
        assert await bars(stack) == before
        (file,) = stack.sealing.files
        assert file.events == 0
    async with kept(tmp_path, clock, RAW_ONLY) as stack:
        assert [path.name for path in (tmp_path / "raw").iterdir()] == [file.file]
        assert await bars(stack) == before
        await say(stack, trade(60 * DAY, 5, trade_id=99_000))
        await stack.sealing.run()
        await dropped(stack)
        assert stack.sealing.statistics().files == 1
        after = await bars(stack)
        assert after["1"][:-1] == before["1"]
    for folder in ("identities", ""):
        (tmp_path / "candles.duckdb").unlink()
        if folder:
            for path in (tmp_path / folder).iterdir():
                path.unlink()
        async with kept(tmp_path, clock, RAW_ONLY) as stack:
            epoch = stack.engine.epoch
            assert await bars(stack) == after
            answer = await say(stack, trade(3, 5))
            assert (answer.accepted, answer.rejected_count) == (0, 1)
            assert stack.engine.epoch == epoch


async def closed(clock: Clock, stack: Stack) -> Bars:
    """Three days of trades whose raw events were dropped; their bars."""
    await say(stack, days(3))
    before = await bars(stack)
    clock.at = MIDNIGHT + 70 * DAY
    await archived(stack, clock)
    clock.at += 31 * DAY
    await dropped(stack)
    assert [file.events for file in stack.sealing.files] == [0]
    return before


SHUT = "2023-11-15: its raw events were dropped, so candles of that day cannot change"
GONE = "the event that this would change was dropped with the raw events of its day, whose candles cannot change"


async def test_whatever_would_change_a_closed_day_is_refused_in_every_body_and_nothing_else_is(tmp_path: Path) -> None:
    clock = Clock()
    async with kept(tmp_path, clock, RAW_ONLY) as stack:
        before = await closed(clock, stack)
        here = 100 * DAY
        words = [
            trade(3, 5),  # 0: new, nameless
            trade(here, 5, trade_id=7001),
            trade(4, 5, trade_id=7002),  # 2: new
            trade(DAY, 999, trade_id=1000),  # 3: corrects within
            trade(here + 1, 6, trade_id=1001),  # 4: would move one out
            trade(5, 6, trade_id=7001),  # 5: would move one in
            removed(1002),  # 6
            removed(424242),
            days(1)[4],  # a repeat
            trade(-5 * DAY, 3, trade_id=7003),  # older than all, of a day that has nothing
            trade(7, 3, trade_id=7004, market="COAL"),  # of a market that has nothing there
        ]
        expected = {0: SHUT, 2: SHUT, 3: SHUT.replace("15", "16", 1), 4: GONE, 5: SHUT, 6: GONE}
        for form, body in (
            (JSON, msgspec.json.encode(words)),
            (NDJSON, b"\n".join(map(msgspec.json.encode, words))),
            (ARROW, stream(words)),
        ):
            raw = await stack.intake.submit(body, form, source="test")
            answer = msgspec.json.decode(raw, type=IngestAnswer)
            assert {one.index: one.error for one in answer.rejected} == expected
            assert {one.market_symbol for one in answer.rejected} == {"GOLD"}
            assert (answer.rejected_count, answer.unknown, answer.corrected, answer.retracted) == (6, 1, 0, 0)
            assert (answer.accepted, answer.duplicates) == ((3, 1) if form == JSON else (0, 4))
            letters = await stack.door.run(rejects.listed, stack.rejects, 6)
            assert sorted(letter.error for letter in letters) == sorted(expected.values())
            assert all(b"GOLD" in letter.event.encode() for letter in letters)
        assert stack.intake.statistics().rejected_by == {"closed_day": 18}
        assert stack.intake.statistics().rejected == 18
        after = await bars(stack)
        for name, rows in before.items():
            times = [row[0] for row in rows]
            if name not in ("1W", "1M"):
                assert [row for row in after[name] if row[0] in times] == rows
        assert len(await read(stack, "COAL", "1S")) == 1
        # With a key, a repeat is told the same.
        first = await say(stack, trade(3, 5), key="k")
        assert first.rejected_count == 1
        assert await say(stack, trade(3, 5), key="k") == first
    async with kept(tmp_path, clock, ()) as stack:
        assert (await say(stack, trade(3, 5), removed(1003))).rejected_count == 2
        assert await bars(stack) == after
    (tmp_path / "candles.duckdb").unlink()
    async with left(tmp_path, clock, ()) as stack:
        assert await bars(stack) == after
        assert (await say(stack, trade(3, 5), removed(1003), days(1)[4])).rejected_count == 2


async def test_an_event_that_is_still_in_a_file_but_of_a_closed_day_cannot_be_changed_either(tmp_path: Path) -> None:
    clock = Clock()
    async with left(tmp_path, clock, RAW_ONLY) as stack:
        await say(stack, days(2))
        await stack.sealing.run()
        clock.at = MIDNIGHT + 20 * DAY
        await say(
            stack, trade(11, 5, trade_id=9000), trade(20 * DAY - DAY // 2, 5, trade_id=9001)
        )  # late, and of its day
        clock.at += 26 * DAY
        await archived(stack, clock)
        await dropped(stack)
        assert [file.events for file in stack.sealing.files] == [2]
        answer = await say(stack, removed(9000), trade(12, 6, trade_id=9000), trade(19 * DAY, 7, trade_id=9001))
        assert [one.error for one in answer.rejected] == [SHUT, SHUT]
        assert answer.corrected == 1


async def test_history_of_long_ago_comes_in_like_that_of_today_and_goes_by_when_it_came(tmp_path: Path) -> None:
    clock = Clock()
    ago = -9 * 365 * DAY  # 2014
    async with left(tmp_path, clock, (*RAW_ONLY, Keep("spot", 1, 10_000))) as stack:
        words = [trade(ago + 60 * i, 100 + i, trade_id=i) for i in range(100)]
        assert (await say(stack, words)).accepted == 100
        await stack.sealing.run()
        clock.at += 20 * DAY
        await archived(stack, clock)
        await dropped(stack)
        assert stack.retention.statistics().closed_days == 0
        answer = await say(stack, trade(ago + 1, 7), trade(ago, 3, trade_id=0), removed(1))
        assert (answer.accepted, answer.corrected, answer.retracted) == (1, 1, 1)
        assert len(await read(stack, "GOLD", "1")) == 99
        await archived(stack, clock)
        clock.at += 11 * DAY
        await dropped(stack)
        assert [file.events for file in stack.sealing.files] == [2]
        assert (await say(stack, trade(ago + 2, 7))).rejected_count == 1
        assert (await say(stack, trade(ago + DAY, 7))).accepted == 1
        assert len(await read(stack, "GOLD", "1")) == 100


def stream(words: Sequence[Said]) -> bytes:
    """Words as an Arrow stream."""
    names = sorted({name for word in words for name in word})
    table = pa.table({n: [str(w[n]) if n == "trade_id" and n in w else w.get(n) for w in words] for n in names})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


# --- kills

MIXED = (Keep("spot", RAW, 30), Keep("spot", 1, 20), Keep("spot", 60, 20))
FLOORS = {1: MIDNIGHT + 50 * DAY, 60: MIDNIGHT + 50 * DAY}


FEW = ("1S", "10S", "1", "60", "1D")


async def few(stack: Stack, market: str) -> Bars:
    return {name: await read(stack, market, name) for name in FEW}


class Steps:
    """Copies the data directory after each step of what is dropped, as a kill there would leave it."""

    def __init__(self, data: Path, copies: Path, patch: pytest.MonkeyPatch) -> None:
        self._data, self._copies, self._patch = data, copies, patch
        self.taken: Counter[str] = Counter()

    def watch(self, owner: Any, name: str) -> None:
        """Take a copy after each call of this function."""
        work = getattr(owner, name)
        if inspect.iscoroutinefunction(work):

            async def asked(*arguments: Any) -> Any:
                found = await work(*arguments)
                self._copy(name)
                return found

            self._patch.setattr(owner, name, asked)
        else:

            def plain(*arguments: Any) -> Any:
                found = work(*arguments)
                self._copy(name)
                return found

            self._patch.setattr(owner, name, plain)

    def _copy(self, name: str) -> None:
        copy = self._copies / name
        self.taken[name] += 1
        shutil.rmtree(copy, ignore_errors=True)  # of those of one name the last one is kept
        shutil.copytree(self._data, copy)


async def mixed(stack: Stack, clock: Clock) -> None:
    """Events of two kinds in the same files, in days that will be old, and some of one that will not."""
    await stack.registry.put({"market_symbol": "OIL", "kind": "perp"})
    await say(stack, days(3, "COAL"), key="k")
    await stack.sealing.run()
    clock.at += DAY
    await say(stack, days(3), days(3, "OIL"))
    await say(stack, removed(6), removed(7, "OIL"), trade(97, 3, 3, trade_id=2), removed(5, "COAL"))
    await stack.sealing.run()
    clock.at += DAY
    await say(stack, trade(98, 3, 3, trade_id=4), removed(9), removed(9, "OIL"))
    await stack.sealing.run()
    clock.at = MIDNIGHT + 66 * DAY
    await say(stack, [trade(60 * DAY + i, 5 + i, trade_id=90_000 + i) for i in range(9)])
    await say(stack, [trade(i, 5 + i, trade_id=95_000 + i, market="OIL") for i in range(9)])
    await archived(stack, clock)
    clock.at = MIDNIGHT + 70 * DAY + 60


async def test_a_kill_between_any_two_steps_leaves_everything_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, data = Clock(), tmp_path / "data"
    async with kept(data, clock, MIXED) as stack:
        await mixed(stack, clock)
        before = {market: await bars(stack, market) for market in ("GOLD", "OIL", "COAL")}
        expected = {market: above(rows, {} if market == "OIL" else FLOORS) for market, rows in before.items()}
        with monkeypatch.context() as patch:
            steps = Steps(data, tmp_path / "copies", patch)
            for owner, names in (
                (retention, ["note_floors", "note_closed", "note_frozen", "note_dropped"]),
                (Store, ["drop_bars", "close", "drop_events", "drop_batches"]),
                (archive, ["unlink"]),
                (sealed, ["without"]),
                (Sealing, ["replace"]),
            ):
                for name in names:
                    steps.watch(owner, name)
            await dropped(stack)
        assert stack.retention.statistics().waiting == []
        assert [file.events for file in stack.sealing.files] == [60, 0, 18]
        assert {market: await bars(stack, market) for market in before} == expected
    assert len(steps.taken) == 11, steps.taken
    copies = sorted((tmp_path / "copies").iterdir())
    for copy in copies[::4]:
        lost = copy.with_name(f"{copy.name}, store lost")
        shutil.copytree(copy, lost)
        (lost / "candles.duckdb").unlink()
        (lost / "candles.duckdb.wal").unlink(missing_ok=True)
        copies.append(lost)
    for copy in copies:
        opened = kept if "lost" in copy.name else left
        async with opened(copy, clock, MIXED) as stack:
            for name, some in (await few(stack, "GOLD")).items():
                assert set(expected["GOLD"][name]) <= set(some) <= set(before["GOLD"][name]), (copy, name)
            await dropped(stack)
            assert stack.retention.statistics().waiting == [], copy
            for market in ("GOLD", "OIL"):
                assert await few(stack, market) == {name: expected[market][name] for name in FEW}, copy
            assert [file.events for file in stack.sealing.files] == [60, 0, 18], copy
            answer = await say(stack, trade(5, 5), removed(1001), trade(9, 9, trade_id=1003), removed(11, "OIL"))
            assert (answer.rejected_count, answer.retracted) == (3, 1)
        if "lost" in copy.name:
            async with left(copy, clock, MIXED) as stack:
                assert await few(stack, "GOLD") == {name: expected["GOLD"][name] for name in FEW}
                files = {file.file for file in stack.sealing.files}
                assert {path.name for path in (copy / "raw").iterdir()} == files
                listed = {str(part.path) for part in await stack.store.parts()}
                found = {str(path.relative_to(copy / "archive")) for path in (copy / "archive").rglob("*.parquet")}
                assert found == listed
                assert not any(name.startswith("spot/1s/2023-11") for name in listed)


# --- what else follows


async def test_no_event_changes_a_trading_day_that_is_closed_in_part(tmp_path: Path) -> None:
    clock = Clock()
    async with left(tmp_path, clock, RAW_ONLY) as stack:
        evening = {"session": "1700-1700", "timezone": "America/New_York"}  # 22:00 UTC in November
        await stack.registry.put({"market_symbol": "CORN", "kind": "spot", **evening})
        # Wednesday's trading day began on Tuesday at 22:00 UTC, and ends on Wednesday at 22:00.
        hour = 3600
        words = [
            trade(-13 * hour, 5, trade_id=1, market="CORN"),
            trade(-14 * hour - 1800, 6, trade_id=2, market="CORN"),
        ]
        assert (await say(stack, words)).accepted == 2
        before = await bars(stack, "CORN")
        assert [row[0] for row in before["1D"]] == [MIDNIGHT - DAY, MIDNIGHT]
        clock.at = MIDNIGHT + 70 * DAY
        await archived(stack, clock)
        clock.at += 31 * DAY
        await dropped(stack)
        assert stack.retention.statistics().closed_days == 1  # Tuesday, UTC
        answer = await say(
            stack,
            trade(0, 7, market="CORN"),  # on Wednesday, whose trading day has an event of Tuesday
            trade(10 * hour - 1, 7, market="CORN"),
            trade(10 * hour, 7, market="CORN"),  # Thursday's trading day
            trade(0, 7),  # another market
        )
        assert [one.index for one in answer.rejected] == [0, 1]
        assert answer.accepted == 2
        assert (await bars(stack, "CORN"))["1D"][:2] == before["1D"]
        assert (await say(stack, removed(1, market="CORN"))).rejected_count == 1


async def test_a_file_of_bars_that_is_all_there_is_is_missed_when_a_store_is_made_again(tmp_path: Path) -> None:
    clock = Clock()
    async with kept(tmp_path, clock, RAW_ONLY) as stack:
        before = await closed(clock, stack)
    (tmp_path / "candles.duckdb").unlink()
    (file,) = (tmp_path / "archive/spot/1m/2023-11-16").iterdir()
    whole = file.read_bytes()
    file.unlink()
    async with kept(tmp_path, clock, RAW_ONLY) as stack:
        with pytest.raises(BrokenPartition, match=r"spot/1m/2023-11-16.*missing"):
            await read(stack, "GOLD", "1")
        assert await read(stack, "GOLD", "5") == before["5"]
    file.write_bytes(whole)
    async with left(tmp_path, clock, RAW_ONLY) as stack:
        assert await read(stack, "GOLD", "1") == before["1"]


async def test_streams_that_stand_before_what_was_dropped_begin_anew(tmp_path: Path) -> None:
    clock = Clock()
    keeps = (*RAW_ONLY, Keep("spot", 1, 98.5))
    async with kept(tmp_path, clock, keeps) as stack:
        await say(stack, days(3))
        await say(stack, removed(2000), trade(2 * DAY + 900, 7, trade_id=8000))
        gold = await stack.registry.named("GOLD")
        charts = {name: StrictChart("GOLD", name) for name in ("1S", "1", "1D")}
        for chart in charts.values():
            await watched(stack, gold, chart)
        await say(stack, trade(2 * DAY + 901, 8, trade_id=8001))
        for chart in charts.values():
            assert await watched(stack, gold, chart.copy())
        clock.at = MIDNIGHT + 70 * DAY
        await archived(stack, clock)
        clock.at += 31 * DAY
        await dropped(stack)
        assert await stack.database.read(lambda db: db.execute("SELECT count(*) FROM ended").fetchall()) == [(0,)]
        for chart in charts.values():
            chart.seq = 1
            assert not await watched(stack, gold, chart)
            assert chart.rows() == await read(stack, "GOLD", chart.resolution)
    async with left(tmp_path, clock, keeps) as stack:
        gold = await stack.registry.named("GOLD")
        for chart in charts.values():
            again = chart.copy()
            again.seq = 1
            assert not await watched(stack, gold, again)
            await say(stack, trade(3 * DAY, 8))
            # From one second to the next day it would be too many bars.
            assert await watched(stack, gold, chart) == (chart.resolution != "1S")
            assert chart.rows() == await read(stack, "GOLD", chart.resolution)


async def watched(stack: Stack, market: Market, chart: StrictChart) -> bool:
    """Bring a chart up to date and hang up; whether it went on where it stood."""
    reader = Reader(chart, stack.hub, stack.engine)
    recovered = await reader.follow(market)
    reader.leave()
    return recovered


async def test_a_backup_of_what_is_left_is_restored_without_what_was_dropped(tmp_path: Path) -> None:
    clock, data, target = Clock(), tmp_path / "data", tmp_path / "backup"
    keeps = (*RAW_ONLY, Keep("spot", 1, 95))
    async with kept(data, clock, keeps) as stack:
        await closed(clock, stack)
        await say(stack, trade(100 * DAY, 7, trade_id=8000))
        await dropped(stack)
        shown = await bars(stack)
        assert not shown["1S"][:-1]
        stack.backups.begin(target)
        await stack.backups.run()
    made = tmp_path / "restored"
    restore.restore(target, backup.read(target), made, lambda _: None)
    async with left(made, clock, ()) as stack:
        assert await bars(stack) == shown
        answer = await say(stack, trade(3, 5), removed(1003))  # whose identity is in no backup
        assert (answer.rejected_count, answer.unknown) == (1, 1)


@pytest.mark.parametrize("seed", [1])
async def test_what_is_left_is_as_if_nothing_had_been_dropped_nor_said_of_what_was(tmp_path: Path, seed: int) -> None:
    chance = Random(seed)
    clock = Clock(MIDNIGHT + 5 * DAY)
    keeps = (Keep("spot", RAW, 12), Keep("spot", 1, 45), Keep("spot", 60, 60), Keep("perp", RAW, 20))
    markets = {"GOLD": ("spot", {}), "CORN": ("spot", NEW_YORK), "OIL": ("perp", NEW_YORK)}
    dropping, plain = tmp_path / "dropping", tmp_path / "plain"
    refused = 0

    async def said(stack: Stack, other: Stack) -> int:
        words = [word_of(chance, list(markets), clock()) for _ in range(chance.randint(5, 40))]
        answer = await say(stack, words)
        gone = {one.index for one in answer.rejected}
        assert len(gone) == answer.rejected_count
        same = await say(other, [word for i, word in enumerate(words) if i not in gone])
        assert (same.accepted, same.duplicates, same.corrected, same.retracted, same.unknown) == (
            *(answer.accepted, answer.duplicates, answer.corrected, answer.retracted, answer.unknown),
        )
        return len(gone)

    async with left(plain, clock, ()) as other:
        for name, (kind, more) in markets.items():
            await other.registry.put({"market_symbol": name, "kind": kind, **more})
        for life in range(2):
            if life:
                (dropping / "candles.duckdb").unlink()
            async with kept(dropping, clock, keeps) as stack:
                if not life:
                    for name, (kind, more) in markets.items():
                        await stack.registry.put({"market_symbol": name, "kind": kind, **more})
                for _ in range(2):
                    refused += await said(stack, other)
                    if chance.random() < 0.7:
                        await stack.sealing.run()
                    clock.at += chance.choice([13, 25, 40]) * DAY
                    refused += await said(stack, other)
                    if chance.random() < 0.9:
                        await archived(stack, clock)
                    await dropped(stack)
                    refused += await said(stack, other)
                    floors = {rung: stack.engine.first("spot", rung) for rung in RUNGS}
                    for name, (kind, _) in markets.items():
                        expected = above(await few(other, name), floors if kind == "spot" else {})
                        assert await few(stack, name) == expected
                told = stack.retention.statistics()
        assert told.closed_days > 0
        assert refused > 0


NEW_YORK = {"session": "1700-1700:1234567", "timezone": "America/New_York"}


def word_of(chance: Random, markets: Sequence[str], now: float) -> Said:
    """Something about one of few events, of days that are long over or of this one."""
    number, market = chance.randrange(60), chance.choice(markets)
    if chance.random() < 0.15:
        return removed(number, market)
    today = int(now - NOON) // DAY * DAY
    second = chance.choice([0, 1, 59, 60, 9 * 3600, 10 * 3600, 11 * 3600, 12 * 3600 - 1])
    second += chance.choice([0, DAY, 2 * DAY, today - DAY])
    named = {"trade_id": number} if chance.random() < 0.8 else {}
    return trade(second, chance.randint(1, 9), chance.randint(1, 5), market=market, price_type="mark", **named)
