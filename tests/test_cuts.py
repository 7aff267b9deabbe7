"""Connections that are cut at any moment, again and again, under late, corrected and retracted events: whoever comes
back has the bars that history has, and hardly ever needs a snapshot for it."""

import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import trio

from daemon.client import Chart
from tests.stacks import Said, removed
from tests.web.conftest import NOW
from tests.web.streaming import Streaming, streaming
from tests.ws_client import Client

CUTS = int(os.environ.get("CANDLED_SOAK_CUTS", "200"))
RESOLUTIONS = ("1S", "1", "5", "60", "1D")
MARKETS = ("GOLD", "BTC")


class Producer:
    """Says what producers say, mostly of now, sometimes of before, and takes some of it back."""

    def __init__(self, chance: random.Random, served: Streaming) -> None:
        self._chance, self._served = chance, served
        self._count = 0

    async def say(self) -> None:
        """A request with a few events."""
        words = [self._word() for _ in range(self._chance.randint(1, 5))]
        await self._served.stack.intake.submit(msgspec.json.encode(words), "application/json")

    def _word(self) -> Said:
        chance, market = self._chance, self._chance.choice(MARKETS)
        number = self._count = self._count + 1
        if chance.random() < 0.1:  # of one that was said before: a correction, or its retraction
            number = chance.randint(max(1, self._count - 200), self._count)
            if chance.random() < 0.5:
                return removed(number, market)
        back = chance.choice((0, 0, 0, 0, 0, 0, 5, 90, 4000))
        at = int(self._served.clock.now * 1000) - back * 1000 - chance.randint(0, 999)
        word: Said = {"market_symbol": market, "timestamp": at, "price": chance.randint(90, 110), "size": 1}
        return {**word, "trade_id": number}


async def history(served: Streaming, chart: Chart) -> dict[int, tuple[Any, ...]]:
    """What REST answers of the stretch that a chart shows; without the times that are none of its."""
    first = min(chart.bars, default=0)
    path = f"/api/tradingview/history?symbol={chart.symbol}&resolution={chart.resolution}"
    told = await served.web.json(f"{path}&from={first}&to={int(served.clock.now) + 1}")
    if told["s"] == "no_data":
        return {}
    rows = zip(*(told[name] for name in "tohlcv"), strict=True)
    return {row[0]: row[1:] for row in rows if row[0] >= first}


async def followed(client: Client, chart: Chart, chance: random.Random, counts: Counter[str]) -> None:
    client.patience = 60  # an actor that waits for a flush answers after it
    resumed = chart.resume is not None
    answer = await client.follow(
        chart, conflate_ms=chance.choice((0, 0, 5, 50)), snapshot_bars=chance.choice((50, 300))
    )
    counts["resumed"] += resumed
    counts["recovered"] += resumed and answer["recovered"]


async def cut_amid(served: Streaming, chart: Chart, chance: random.Random, counts: Counter[str]) -> None:
    """Read for a moment, slowly or not, and be cut off without a word."""
    with trio.move_on_after(chance.random() * 0.1):
        async with served.connect() as client:
            await followed(client, chart, chance, counts)
            while True:
                chart.take(await client.hear())
                await trio.sleep(chance.choice((0, 0, 0.01)))


async def compared(served: Streaming, chart: Chart, chance: random.Random, counts: Counter[str]) -> None:
    """Come back while nothing is said, and have the bars that history has at the same cursor."""
    async with served.connect() as client:
        await followed(client, chart, chance, counts)
        wanted = await position(served, chart)
        while chart.seq < wanted:
            chart.take(await client.hear())
        names = ("open", "high", "low", "close", "volume")
        bars = {time: tuple(bar[name] for name in names) for time, bar in chart.bars.items()}
        assert bars == await history(served, chart), (chart.symbol, chart.resolution, chart.seq)


async def position(served: Streaming, chart: Chart) -> int:
    """Where a stream stands: the seq of its market's last change."""
    await served.stack.engine.caught_up()
    market = await served.stack.engine.market(chart.symbol)
    actor = served.stack.engine._actors[market.slot]
    return await actor.ask(actor._position)


async def test_whoever_is_cut_off_comes_back_to_the_bars_of_history_mostly_without_a_snapshot(tmp_path: Path) -> None:
    chance = random.Random(int(os.environ.get("CANDLED_SOAK_SEED", "5")))
    charts = [Chart(market, resolution) for market in MARKETS for resolution in RESOLUTIONS]
    counts: Counter[str] = Counter()
    async with streaming(tmp_path, NOW, connections=100) as served:
        await served.web.market("BTC")
        for market in MARKETS:
            await served.web.trades((NOW - 5, 100), symbol=market)
        producer = Producer(chance, served)
        while counts["resumed"] < CUTS:
            async with trio.open_nursery() as nursery:
                for chart in charts:
                    nursery.start_soon(cut_amid, served, chart, chance, counts)
                for _ in range(chance.randint(1, 20)):
                    await producer.say()
                    await trio.sleep(chance.choice((0, 0, 0.01)))
            served.clock.now += chance.choice((0.1, 0.5, 1, 20))
            async with trio.open_nursery() as nursery:
                for chart in charts:
                    nursery.start_soon(compared, served, chart, chance, counts)
    assert counts["recovered"] >= 0.99 * counts["resumed"], counts


async def test_a_position_of_a_frame_or_of_a_rest_answer_goes_on_after_a_restart(tmp_path: Path) -> None:
    framed, read = Chart("GOLD", "1"), Chart("GOLD", "1")
    async with streaming(tmp_path, NOW) as served:
        await served.web.trades((NOW - 200, 1), (NOW - 100, 2))
        async with served.connect() as client:
            await client.follow(framed)
            framed.take(await client.hear())
        # Another market moves on: what REST names is ahead of the stream's own position.
        await served.web.market("BTC")
        await served.web.trades((NOW - 50, 5), symbol="BTC")
        path = f"/api/tradingview/history?symbol=GOLD&resolution=1&from=0&to={NOW + 60}"
        told = await served.web.json(path)
        epoch, _, seq = (await served.web.json("/api/markets/GOLD/price"))["cursor"].rpartition(".")
        names = ("time", "open", "high", "low", "close", "volume")
        rows = zip(*(told[name] for name in "tohlcv"), strict=True)
        read.epoch, read.seq = epoch, int(seq)
        read.bars = {row[0]: dict(zip(names, row, strict=True)) for row in rows}
        assert read.seq > framed.seq
        await served.web.trades((NOW - 190, 3))
    async with streaming(tmp_path, NOW) as served:
        await served.web.trades((NOW - 10, 4))
        for chart in (framed, read):
            async with served.connect() as client:
                answer = await client.follow(chart)
                assert answer["recovered"]
                while chart.seq < answer["seq"]:
                    chart.take(await client.hear())
                bars = {time: tuple(bar[name] for name in names[1:]) for time, bar in chart.bars.items()}
                assert bars == await history(served, chart)
                assert len(bars) == 3
        assert framed.snapshots == [None]
        assert read.snapshots == []
