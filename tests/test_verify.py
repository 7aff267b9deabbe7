"""What is stored is compared with what the events come to: every difference is found, named and repaired."""

from collections.abc import Sequence
from pathlib import Path

import trio

from actors.audit import Audit, End, Line, Wanted
from daemon.stack import Stack
from storage import verify
from storage.refold import Markets
from storage.verify import Checked, Day, Difference, Differences, Ledger
from tests.stacks import NOON, flush, running, say, trade


def auditor(stack: Stack, seconds: float = 0.0) -> Audit:
    """One that a test runs itself, so that nothing has to wait for the janitor."""
    source = verify.Source(stack.database.snapshot, stack.journal, Markets(stack.state), stack.store.archive.parent)
    return Audit(
        source, stack.store, stack.engine, stack.intake, stack.writer.flushed, now=lambda: 0.0, seconds=seconds
    )


async def verified(stack: Stack, *, repair: bool = False, market: str | None = None) -> list[Line]:
    """All that it says."""
    audit = auditor(stack)
    lines: list[Line] = []
    async with trio.open_nursery() as nursery:

        async def working() -> None:
            while True:
                await trio.sleep(0.002)
                if audit.due():
                    await audit.run()

        nursery.start_soon(working)
        async for line in audit.verify(Wanted(repair=repair, market=market, alone=True)):
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


async def clean(stack: Stack) -> End:
    """All is as the events have it."""
    lines = await verified(stack)
    end = ended(lines)
    wrong = [line for line in lines if isinstance(line, (Differences, Checked, Ledger, Day)) and _wrong(line)]
    assert (end.differences, end.problems, wrong) == (0, 0, [])
    return end


def _wrong(line: Line) -> bool:
    match line:
        case Differences():
            return True
        case Checked():
            return bool(line.problem)
        case Ledger():
            return bool(line.wrong)
        case Day():
            return bool(line.problems) or any(rung.hash != rung.stored for rung in line.rungs)
        case _:
            return False


async def corrupt(stack: Stack, sql: str) -> None:
    """Change what is stored, as no candled would."""
    await stack.database.write(lambda db: db.execute(sql))


async def test_a_changed_measure_is_named_and_made_right(tmp_path: Path) -> None:
    async with running(tmp_path) as stack:
        await say(stack, trade(0, 100), trade(20, 101), trade(60, 102))
        await flush(stack)
        assert (await clean(stack)).bars == 3 + 2 + 4
        await corrupt(stack, "UPDATE spot_60_recent SET close = 5 WHERE t % 120 = 0")
        found = await verified(stack)
        assert differences(found) == [Difference("spot", "1m", "GOLD", NOON, "close", "5.0", "101.0")]
        assert ended(found).differences == 1
        assert not ended(found).clean
        mended = ended(await verified(stack, repair=True))
        assert (mended.differences, mended.repaired, mended.clean) == (1, 1, True)
        await clean(stack)
