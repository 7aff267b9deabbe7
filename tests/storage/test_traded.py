import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.tiers import Tiers
from actors.traded import Day
from storage import tiers, traded
from storage.calendar import parse
from storage.errors import Unavailable
from storage.search import BUSIEST, Busy
from storage.state import State
from tests.stacks import NOON, flush, removed, running, say, trade

MINUTE = parse("1")


@pytest.mark.parametrize("flushes", [1, 5])
async def test_it_is_what_the_minutes_come_to(tmp_path: Path, flushes: int) -> None:
    chance = random.Random(flushes)
    async with running(tmp_path, now=lambda: NOON + 90_000.0) as stack:
        said = [
            trade(
                chance.randrange(0, 90_000),
                chance.randint(1, 99),
                chance.randint(1, 9),
                chance.choice(("GOLD", "TEA", "OIL")),
                trade_id=n,
            )
            for n in range(300)
        ]
        for n in range(flushes):
            await say(stack, said[n::flushes])
            await flush(stack)
        taken = chance.sample(range(300), 60)
        await say(stack, [removed(n, str(said[n]["market_symbol"])) for n in taken])
        await flush(stack)
        for start in (NOON, NOON + 1_800, NOON + 3_600, NOON + 5_432, NOON + 89_990):
            found = await stack.database.read(traded.since, start)
            shown = {
                int(slot): (volume, round(turnover, 9), None if np.isnan(opened) else opened)
                for slot, volume, turnover, opened in zip(*found, strict=True)
                if volume or not np.isnan(opened)
            }
            expected: dict[int, tuple[float, float, float | None]] = {}
            for symbol in ("GOLD", "TEA", "OIL"):
                market = await stack.registry.named(symbol)
                window = await stack.engine.window(market, MINUTE, start // 60 * 60, NOON + 200_000)
                if window.time:
                    stands = [
                        int(str(one["price"])) * int(str(one["size"]))
                        for n, one in enumerate(said)
                        if one["market_symbol"] == symbol
                        and n not in taken
                        and int(str(one["timestamp"])) >= start // 60 * 60_000
                    ]
                    expected[market.slot] = (sum(window.volume), sum(stands), window.open[0])
            assert shown == expected, start


async def test_one_look_serves_for_a_while_and_outlives_a_store_that_cannot_be_read(tmp_path: Path) -> None:
    now, looks = 100_000.0, []
    broken = False

    async def look(start: int) -> traded.Traded:
        looks.append(start)
        if broken:
            raise Unavailable("later")
        return traded.Traded(np.array([2, 4]), np.array([5.0, 7.0]), np.array([5e5, 7e7]), np.array([1.5, np.nan]))

    with State.open(tmp_path / "s.db", synchronous="NORMAL") as state:

        async def run(work: Callable[..., Any], *arguments: Any) -> Any:
            return work(state, *arguments)

        day = Day(look, lambda: now, 60, Tiers(run))
        today = await day.fresh()
        assert (today.busy.slots, day.opened(2), day.opened(4), day.opened(9)) == ([4, 2], 1.5, None, None)
        assert tiers.known(state).tolist() == [4, 4, 3, 4, 1]
        now += 59
        await day.fresh()
        assert looks == [13_600]
        now, broken = now + 1, True
        assert (await day.fresh()).busy.slots == [4, 2]
        assert looks == [13_600, 13_660]
        broken = False
        await day.fresh()
        assert len(looks) == 3


def test_the_busiest_are_few_and_in_order() -> None:
    busy = Busy.of(np.arange(BUSIEST + 10, dtype=np.float64))
    assert list(busy.slots) == list(range(BUSIEST + 9, 9, -1))
    assert (busy.volume(3), busy.volume(10**6)) == (3, 0)
