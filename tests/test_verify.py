"""What is stored is compared with what the events come to: every difference is found, named and made right."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, Phase, given, settings

from actors.archivist import Archivist
from actors.audit import Audit, End, Line, Memory, Wanted
from actors.background import Background
from daemon.stack import Stack
from storage import schema
from storage.calendar import parse
from storage.findings import Checked, Day, Difference, Differences, Ledger, Source
from storage.partials import FIELDS
from storage.partitions import BrokenPartition
from storage.refold import Markets
from storage.schema import RUNGS
from tests.actors.test_retention import RAW_ONLY, Clock, closed, kept
from tests.actors.test_retention import bars as minutes
from tests.histories import Reader, Request, StrictChart, body
from tests.stacks import JSON, NOON, flush, removed, running, say, trade
from tests.test_cards import CARD, price
from tests.test_cards import say as say_prices
from tests.test_histories import Turn, compacted, histories

DAY = 86400
FOLDERS = {1: "1s", 60: "1m", 300: "5m", 900: "15m", 3600: "1h", DAY: "1d"}


def auditor(stack: Stack, **more: Any) -> Audit:
    """One that a test runs itself, so that nothing has to wait for the janitor."""
    source = Source(stack.database.snapshot, stack.journal, Markets(stack.state), stack.store.archive.parent)
    more = {"now": lambda: 0.0, "seconds": 0.0, **more}
    return Audit(source, stack.store, stack.engine, stack.intake, stack.writer.flushed, **more)


async def verified(stack: Stack, *, audit: Audit | None = None, **wanted: Any) -> list[Line]:
    """All that it says."""
    audit = audit or auditor(stack)
    lines: list[Line] = []
    async with trio.open_nursery() as nursery:

        async def working() -> None:
            while True:
                await trio.sleep(0.002)
                if audit.due():
                    await audit.run()

        nursery.start_soon(working)
        async for line in audit.verify(Wanted(alone=True, **wanted)):
            lines.append(line)
        nursery.cancel_scope.cancel()
    assert isinstance(lines[-1], End), lines[-1]
    return lines


def ended(lines: Sequence[Line]) -> End:
    end = lines[-1]
    assert isinstance(end, End)
    return end


def differences(lines: Sequence[Line]) -> list[Difference]:
    return [one for line in lines if isinstance(line, Differences) for one in line.found]


def damage(lines: Sequence[Line]) -> dict[str, str]:
    """What is wrong with files."""
    return {line.path: line.problem for line in lines if isinstance(line, Checked) and line.problem}


async def clean(stack: Stack) -> End:
    """All is as the events have it."""
    lines = await verified(stack)
    assert [line for line in lines if wrong(line)] == []
    assert ended(lines).clean
    return ended(lines)


def wrong(line: Line) -> bool:
    match line:
        case Differences() | Memory(differences=1):
            return True
        case Checked():
            return bool(line.problem)
        case Ledger():
            return bool(line.wrong)
        case Day():
            return bool(line.problems or line.skipped) or any(rung.hash != rung.stored for rung in line.rungs)
        case _:
            return False


async def mended(stack: Stack) -> End:
    """Repair, and find nothing wrong after that."""
    end = ended(await verified(stack, repair=True))
    assert end.clean, end
    await clean(stack)
    return end


async def corrupt(stack: Stack, *statements: str) -> None:
    """Change what is stored, as no candled would."""
    for sql in statements:
        await stack.database.write(lambda db, sql=sql: db.execute(sql))


async def archived(stack: Stack) -> None:
    await flush(stack)
    await Archivist(stack.store, Background(rest=0), now=lambda: NOON + 90.0 * DAY, quiet=0).run()
    assert await stack.store.waiting(2**40) == []


def files(data: Path, folder: str) -> list[Path]:
    return sorted(data.glob(f"{folder}/*.parquet"))


async def sealed(stack: Stack) -> Path:
    """The newest file of events."""
    await flush(stack)
    await stack.sealing.run()
    return files(stack.store.archive.parent, "raw")[-1]


async def bars(stack: Stack, market: str = "GOLD") -> dict[str, Any]:
    """All bars as charts are given them."""
    record = await stack.registry.named(market)
    found = {}
    for name in ("1S", "1", "5", "15", "60", "1D"):
        window = await stack.engine.window(record, parse(name), -(2**40), 2**40)
        found[name] = (window.time, window.open, window.high, window.low, window.close, window.volume, window.trades)
    return found


# --- what is in the tables


@dataclass
class Kind:
    """A market of a kind, with events in two hours."""

    name: str
    market: str
    measures: dict[int, str]  # by rung one that is changed


KINDS = [
    Kind("spot", "GOLD", dict(zip(RUNGS, ("open", "close_pos", "volume", "rev", "buy_volume", "born"), strict=True))),
    Kind(
        "perp",
        "PERP",
        dict(zip(RUNGS, ("high", "unique_traders", "low", "total_fees", "turnover", "open_interest"), strict=True)),
    ),
    Kind(
        "card",
        CARD.symbol,
        dict(zip(RUNGS, ("close", "price_sum", "trades_count", "total_quantity", "volume", "open_tid"), strict=True)),
    ),
]


async def filled(stack: Stack) -> None:
    """Something of every kind, two hours of a day, all of it flushed."""
    await stack.registry.put({"market_symbol": "PERP", "kind": "perp"})
    for hour in (0, 3600):
        await say(
            stack,
            [trade(hour + second, 100 + second % 7, 1 + second, is_long=bool(second % 2)) for second in (0, 7, 65)],
        )
        await say(
            stack,
            [
                trade(
                    hour + second,
                    50 + second,
                    2,
                    market="PERP",
                    event_type="PositionOpened",
                    user_address=f"0x{second}",
                    fee="0.5",
                    open_interest=str(second),
                )
                for second in (0, 7, 65)
            ],
        )
        await say_prices(stack, *(price(hour + second, 10 + second, total_quantity=2) for second in (0, 7, 65)))
    await flush(stack)


def bumped(kind: str, name: str) -> str:
    """Another value of this measure."""
    field = next(field for field in FIELDS[kind] if field.name == name)
    if field.sql == "UBIGINT[]":
        return f"list_append({name}[2:], 5)"
    return f"{name} || 'x'" if field.sql == "VARCHAR" else f"{name} + 1"


async def test_each_changed_missing_or_added_bar_is_named_alone_and_made_right(tmp_path: Path) -> None:
    async with running(tmp_path) as stack:
        await filled(stack)
        before = {kind.market: await bars(stack, kind.market) for kind in KINDS}
        expected: set[tuple[str, str, str, int, str, bool, bool]] = set()
        for kind in KINDS:
            for rung in RUNGS:
                table, measure = schema.recent_table(kind.name, rung), kind.measures[rung]
                first = NOON - NOON % rung
                await corrupt(stack, f"UPDATE {table} SET {measure} = {bumped(kind.name, measure)} WHERE t = {first}")
                expected.add((kind.name, FOLDERS[rung], kind.market, first, measure, True, True))
                if rung < DAY:
                    second = (NOON + 3600) // rung * rung
                    await corrupt(stack, f"DELETE FROM {table} WHERE t = {second}")
                    expected.add((kind.name, FOLDERS[rung], kind.market, second, "bar", False, True))
                    extra = first + 2 * 3600
                    await corrupt(
                        stack, f"INSERT INTO {table} SELECT * REPLACE ({extra} AS t) FROM {table} WHERE t = {first}"
                    )
                    expected.add((kind.name, FOLDERS[rung], kind.market, extra, "bar", True, False))
        lines = await verified(stack)
        found = {
            (
                one.kind,
                one.resolution,
                one.market,
                one.time,
                one.measure,
                one.stored is not None,
                one.refolded is not None,
            )
            for one in differences(lines)
            if one.where == "store"
        }
        assert found == expected
        days = [line for line in lines if isinstance(line, Day)]
        assert {line.kind: [rung.differences for rung in line.rungs] for line in days} == {
            kind.name: [3, 3, 3, 3, 3, 1] for kind in KINDS
        }
        assert ended(lines).differences == len(expected)
        end = await mended(stack)
        assert end.repaired == end.differences == len(expected)
        assert {kind.market: await bars(stack, kind.market) for kind in KINDS} == before
    (tmp_path / "candles.duckdb").unlink()
    async with running(tmp_path) as stack:
        # A store that is made again from the journal makes the same repair; where it looked and nothing was, at the
        # beginning of the day and where bars had been added, a row says that nothing is.
        assert (await clean(stack)).bars == 3 * (6 + 4 + 2 + 2 + 2 + 1) + 3 * (2 + 2 + 2 + 2 + 2)
        assert {kind.market: await bars(stack, kind.market) for kind in KINDS} == before


async def test_only_what_is_asked_for_is_compared(tmp_path: Path) -> None:
    async with running(tmp_path) as stack:
        await say(stack, trade(0), trade(0, market="TEA"), trade(3 * DAY))
        await flush(stack)
        await corrupt(stack, "UPDATE spot_60_recent SET high = high + 1")

        async def named(**wanted: Any) -> set[tuple[str, int]]:
            return {
                (one.market, one.time - NOON)
                for one in differences(await verified(stack, **wanted))
                if one.where == "store"
            }

        assert await named() == {("GOLD", 0), ("TEA", 0), ("GOLD", 3 * DAY)}
        assert await named(market="TEA") == {("TEA", 0)}
        assert await named(start=NOON + DAY) == {("GOLD", 3 * DAY)}
        assert await named(end=NOON + 60) == {("GOLD", 0), ("TEA", 0)}
        await verified(stack, repair=True, market="TEA")
        assert await named() == {("GOLD", 0), ("GOLD", 3 * DAY)}


async def test_a_flush_that_was_lost_is_made_up_for(tmp_path: Path) -> None:
    async with running(tmp_path) as stack:
        await say(stack, trade(0, 100, trade_id=1), trade(1, 101))
        await flush(stack)
        await say(stack, trade(0, 90, trade_id=2), trade(61, 95), trade(1, 80, trade_id=1))
        await flush(stack)
        before = await bars(stack)
        await corrupt(stack, *(f"DELETE FROM {table} WHERE pos >> 24 = 2" for table in schema.SHAPES))
        await corrupt(stack, *(f"DELETE FROM {schema.recent_table('spot', rung)} WHERE rev = 2" for rung in RUNGS))
        await corrupt(stack, "UPDATE ledger_traded SET price = 7 WHERE pos >> 24 = 1 AND trade_no IS NULL")
        lines = await verified(stack)
        (ledger,) = (line for line in lines if isinstance(line, Ledger))
        assert (ledger.events, ledger.missing, ledger.extra, ledger.different) == (4, 3, 0, 1)
        await mended(stack)
        assert await bars(stack) == before
    async with running(tmp_path) as stack:
        assert await bars(stack) == before


async def test_streams_and_whoever_comes_back_have_the_bars_that_were_made_right(tmp_path: Path) -> None:
    async with running(tmp_path) as stack:
        await say(stack, trade(0, 100), trade(60, 101), trade(120, 102))
        await flush(stack)
        before = (await bars(stack))["1"]
    async with running(tmp_path) as stack:
        await corrupt(stack, f"UPDATE spot_60_recent SET close = 5, high = 500 WHERE t = {NOON}")
        await corrupt(stack, f"DELETE FROM spot_60_recent WHERE t = {NOON + 60}")
        market = await stack.registry.named("GOLD")
        chart = StrictChart("GOLD", "1")
        reader = Reader(chart, stack.hub, stack.engine)
        await reader.follow(market)
        assert [row[0] for row in chart.rows()] == [NOON, NOON + 120]
        away = chart.copy()
        await mended(stack)
        stack.hub.flush()
        assert reader._topic is not None
        await stack.engine.resnapshot(reader._topic, reader.subscription, bars=5000)  # as it asks for
        for each in (chart, away):
            if each is away:
                assert not await Reader(each, stack.hub, stack.engine).follow(market)
            assert [row[0] for row in each.rows()] == before[0]
            assert [row[4] for row in each.rows()] == before[4]
        await say(stack, trade(180, 103))
        await flush(stack)
        stack.hub.flush()
        assert chart.rows()[-1][0] == NOON + 180


async def test_a_bar_in_memory_that_strayed_is_named_and_brought_back(tmp_path: Path) -> None:
    async with running(tmp_path) as stack:
        await say(stack, trade(0, 100), trade(60, 101))
        await flush(stack)
        before = await bars(stack)
        (actor,) = stack.engine._actors.values()
        actor._rings[60]._hot[0][actor._layout.place["high"]] = 400.0
        lines = await verified(stack)
        assert [(one.resolution, one.time, one.measure, one.where) for one in differences(lines)] == [
            ("1m", NOON, "high", "memory")
        ]
        assert ended(lines).differences == 1
        await mended(stack)
        assert await bars(stack) == before


# --- files


async def test_a_file_of_bars_that_is_gone_or_damaged_is_made_again_from_events(tmp_path: Path) -> None:
    async with running(tmp_path) as stack:
        await say(stack, trade(0, 100, trade_id=1), trade(60, 101, trade_id=2), trade(DAY, 102))
        await say(stack, trade(0, 99, trade_id=1), removed(2))
        before = await bars(stack)
        await sealed(stack)
        await archived(stack)
        await say(stack, trade(120, 103))
        await flush(stack)
        before = await bars(stack)
    minutes, days = (files(tmp_path, f"archive/spot/{name}/2023-11*")[0] for name in ("1m", "1d"))
    minutes.unlink()
    data = bytearray(days.read_bytes())
    data[len(data) // 2] ^= 4
    days.write_bytes(data)
    async with running(tmp_path) as stack:
        with pytest.raises(BrokenPartition):
            await bars(stack)
        found = damage(await verified(stack))
        assert set(found) == {str(path.relative_to(tmp_path)) for path in (minutes, days)}
        assert found[str(minutes.relative_to(tmp_path))] == "it is missing"
        end = await mended(stack)
        assert (end.differences, end.problems) == (0, 0)
        assert await bars(stack) == before
        assert stack.store.broken() == {}
        assert [path.name for path in files(tmp_path, "archive/spot/1m/2023-11-15")] == ["2-0.parquet"]
        await archived(stack)
        await clean(stack)
        assert await bars(stack) == before


async def test_a_file_that_is_gone_is_named_on_its_days_and_all_others_are_compared(tmp_path: Path) -> None:
    async with running(tmp_path) as stack:
        await say(stack, *(trade(day * DAY, 100 + day) for day in (0, 1)))
        await archived(stack)
        await say(stack, trade(2 * DAY, 102))
        await flush(stack)
    (gone, _) = files(tmp_path, "archive/spot/1m/2023-11*")
    gone.unlink()
    async with running(tmp_path) as stack:
        await corrupt(stack, "UPDATE spot_60_recent SET volume = volume + 1")
        lines = await verified(stack)
    assert list(damage(lines)) == [str(gone.relative_to(tmp_path))]
    first, second, third = (line for line in lines if isinstance(line, Day))
    assert [str(gone.relative_to(tmp_path)) in why for why in first.problems] == [True]
    assert (second.problems, third.problems) == ([], [])
    bars_of = [{rung.resolution: rung.bars for rung in day.rungs} for day in (first, second, third)]
    assert bars_of == [{**dict.fromkeys(FOLDERS.values(), 1), "1m": n} for n in (0, 1, 1)]
    assert (first.differences, second.differences, third.differences) == (0, 0, 1)
    assert [(one.resolution, one.time, one.measure) for one in differences(lines)] == [
        ("1m", NOON + 2 * DAY, "volume"),
    ]


async def test_bars_whose_events_are_lost_are_neither_judged_nor_touched(tmp_path: Path) -> None:
    async with running(tmp_path) as stack:
        others = [trade(0, 100, market=market) for market in ("BEAN", "CORN", "RICE", "RYE")]
        await say(stack, trade(0, 100), trade(60, 101), others)
        path = await sealed(stack)
        await say(stack, trade(5 * DAY, 102))
        await flush(stack)
        before = await bars(stack)
        aside = path.rename(tmp_path / "aside")
        data = bytearray(aside.read_bytes())
        data[40] ^= 1
        path.write_bytes(data)
        await corrupt(
            stack, f"UPDATE spot_60_recent SET high = 500 WHERE market = 1 AND t IN ({NOON}, {NOON + 5 * DAY})"
        )
        lines = await verified(stack, repair=True)
        assert list(damage(lines)) == [f"raw/{path.name}"]
        assert {one.time for one in differences(lines) if one.where == "store"} == {NOON + 5 * DAY}
        (lost, other) = (line for line in lines if isinstance(line, Day))
        (why,) = lost.problems
        assert why.startswith(f"GOLD, BEAN, CORN and 2 more cannot be folded again: raw/{path.name}: ")
        assert (lost.differences, other.problems, other.repaired) == (0, [], 1)
        assert not ended(lines).clean
        assert any(path.name in why for why in await stack.store.damage())
        path.write_bytes(aside.read_bytes())
        lines = await verified(stack, repair=True)
        assert ended(lines).clean, lines
        assert {one.time for one in differences(lines) if one.where == "store"} == {NOON}
        assert await bars(stack) == before
        assert await stack.store.damage() == []


async def test_archived_bars_outlive_their_events_and_the_store(tmp_path: Path) -> None:
    """Of what a lost file held nobody knows any more, once the store is lost as well."""
    async with running(tmp_path) as stack:
        await say(stack, trade(0, 100), trade(60, 101))
        path = await sealed(stack)
        await archived(stack)
        await say(stack, trade(90 * DAY, 102))
        before = await bars(stack)
    path.unlink()
    (tmp_path / "candles.duckdb").unlink()
    async with running(tmp_path) as stack:
        assert await bars(stack) == before
        lines = await verified(stack, repair=True)
        assert not ended(lines).clean
        assert differences(lines) == []
        assert all(path.name in why for line in lines if isinstance(line, Day) for why in line.problems)
        assert await bars(stack) == before


async def test_bars_whose_events_were_dropped_by_decision_are_left_alone(tmp_path: Path) -> None:
    clock = Clock()
    async with kept(tmp_path, clock, RAW_ONLY) as stack:
        before = await closed(clock, stack)
        await say(stack, trade(80 * DAY, 5))
        await flush(stack)
        await corrupt(stack, "UPDATE spot_60_recent SET high = high + 1")
        lines = await verified(stack, repair=True)
        days = [line for line in lines if isinstance(line, Day)]
        assert [(bool(line.skipped), line.differences, line.repaired) for line in days] == [
            *[(True, 0, 0)] * 3,
            (False, 1, 1),
        ]
        assert ended(lines).clean
        after = await minutes(stack)
        assert after["1"][:-1] == before["1"]
        assert after["1"][-1][2] == 5


async def test_a_journal_that_changed_on_the_disk_is_named(tmp_path: Path) -> None:
    async with running(tmp_path) as stack:
        await say(stack, trade(0, 100))
        await flush(stack)
        stack.journal.rotate()
        segment = stack.journal.segments()[0]
        data = bytearray(segment.path.read_bytes())
        data[-10] ^= 1
        segment.path.write_bytes(data)
        lines = await verified(stack)
        assert list(damage(lines)) == ["journal"]
        segment.path.write_bytes(bytes(data[:-10]) + bytes([data[-10] ^ 1]) + bytes(data[-9:]))
        await clean(stack)


# --- beside other work


async def test_nothing_differs_while_events_come_in_and_are_flushed_sealed_and_moved(tmp_path: Path) -> None:
    async with running(tmp_path, flush_seconds=0.01) as stack:
        await say(stack, *(trade(number, trade_id=number) for number in range(50)))
        taken = 0

        async def producing() -> None:
            nonlocal taken
            while True:
                taken += 1
                word = trade(taken % 200, 100 + taken % 9, trade_id=taken % 90)
                await say(stack, word, trade(taken * 61 % (3 * DAY), 90 + taken % 5), removed(taken % 70))
                await trio.sleep(0.02)

        inside: list[int] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(producing)
            for turn in ("flush", "seal", "archive"):
                if turn == "seal":
                    await stack.sealing.run()
                elif turn == "archive":
                    await Archivist(stack.store, Background(rest=0), now=lambda: NOON + 90.0 * DAY, quiet=0).run()
                before = stack.writer.statistics().flushes
                lines = await verified(stack)
                inside.append(stack.writer.statistics().flushes - before)
                assert [line for line in lines if wrong(line)] == []
                assert ended(lines).clean
            nursery.cancel_scope.cancel()
        assert all(inside), inside


async def test_the_daemon_finds_by_itself_what_differs_and_says_so_until_it_is_right(tmp_path: Path) -> None:
    at = float(NOON)
    async with running(tmp_path) as stack:
        await say(stack, trade(0, 100), trade(DAY, 101))
        await flush(stack)
        await corrupt(stack, f"UPDATE spot_300_recent SET low = 1 WHERE t = {NOON}")
        audit = auditor(stack, now=lambda: at, seconds=86400.0)
        assert not audit.due()
        at += 600

        async def gone_round() -> None:
            rounds = audit.statistics().rounds
            while audit.statistics().rounds == rounds:
                assert at >= audit._next
                await audit.run()

        await gone_round()
        told = audit.statistics()
        assert (told.rounds, told.days, told.differences, told.last) == (1, 2, 1, at)
        assert told.wrong == ["spot 2023-11-15: 1 bars differ (1 of 5m)"]
        assert not audit.due()
        at += 86400
        await mended(stack)
        await gone_round()
        told = audit.statistics()
        assert (told.rounds, told.differences, told.wrong) == (2, 0, [])


async def test_its_own_rounds_rest_for_most_of_the_time_and_let_whoever_asks_go_first(tmp_path: Path) -> None:
    async with running(tmp_path) as stack:
        await say(stack, trade(0, 100))
        await flush(stack)
        audit = auditor(stack, now=lambda: NOON + 1e9, seconds=1e-3)
        began = trio.current_time()
        await audit.run()
        took = trio.current_time() - began
        assert not audit.due()
        assert audit._rest_until - trio.current_time() > 20 * took
        assert ended(await verified(stack, audit=audit)).clean


# --- whatever was said, and whatever happened since


async def lived(data: Path, history: list[tuple[list[Request], Turn]]) -> None:
    """All is the same after everything, and again in a store that was made anew."""
    for anew in (False, True):
        async with running(data) as stack:
            for requests, turn in [] if anew else history:
                for request in requests:
                    await stack.intake.submit(body(request.words), JSON)
                await flush(stack)
                if turn == "compact":
                    await compacted(stack)
                elif turn == "archive":
                    await archived(stack)
                elif turn == "seal":
                    await stack.sealing.run()
            await clean(stack)
        (data / "candles.duckdb").unlink()


def test_all_is_as_the_events_have_it_after_any_history(empty: Path) -> None:
    @settings(
        max_examples=2,  # the first of them is the simplest
        phases=(Phase.explicit, Phase.reuse, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )
    @given(history=histories)
    def check(history: list[tuple[list[Request], Turn]]) -> None:
        with TemporaryDirectory(dir=empty.parent) as folder:
            data = Path(folder) / "data"
            shutil.copytree(empty, data)
            trio.run(lived, data, history)

    check()
