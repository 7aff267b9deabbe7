"""What a long file of the past costs no work for is right all the same, once somebody asks."""

from pathlib import Path

from actors import ring
from tests.stacks import NOON, running, say, trade


async def test_the_last_day_is_told_after_a_backfill_that_went_by_it(tmp_path: Path) -> None:
    clock = NOON + 4 * 3600.0
    trades = [trade(i, 100 + i % 7, 2, "M") for i in range(ring.SIZES[1] + 400)]
    async with running(tmp_path / "data", now=lambda: clock) as stack:
        for at in range(0, len(trades), 500):
            await say(stack, trades[at : at + 500])
            await stack.engine.caught_up()
        market = await stack.registry.named("M")
        (ticker,) = stack.engine._tickers.values()
        assert not ticker.sure
        assert (await stack.engine.price(market)).volume_24h == 2.0 * len(trades)
        await say(stack, [trade(3 * 3600 + 3500, 9, 1, "M")])
        assert (await stack.engine.price(market)).volume_24h == 2.0 * len(trades) + 1
