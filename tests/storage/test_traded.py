import random
from pathlib import Path

import numpy as np
import pytest

from actors.traded import Day
from storage import traded
from storage.calendar import parse
from storage.errors import Unavailable
from storage.search import BUSIEST, Busy
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
                int(slot): (volume, None if np.isnan(opened) else opened)
                for slot, volume, opened in zip(*found, strict=True)
                if volume or not np.isnan(opened)
            }
            expected = {}
            for symbol in ("GOLD", "TEA", "OIL"):
                market = await stack.registry.named(symbol)
                window = await stack.engine.window(market, MINUTE, start // 60 * 60, NOON + 200_000)
                if window.time:
                    expected[market.slot] = (sum(window.volume), window.open[0])
            assert shown == expected, start


async def test_one_look_serves_for_a_while_and_outlives_a_store_that_cannot_be_read() -> None:
    now, looks = 100_000.0, []
    broken = False

    async def look(start: int) -> traded.Traded:
        looks.append(start)
        if broken:
            raise Unavailable("later")
        return traded.Traded(np.array([2, 4]), np.array([5.0, 7.0]), np.array([1.5, np.nan]))

    day = Day(look, lambda: now, 60)
    assert ((await day.fresh()).busy.slots, day.opened(2), day.opened(4), day.opened(9)) == ([4, 2], 1.5, None, None)
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
