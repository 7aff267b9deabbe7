"""Whoever was cut off comes back: from any position that any frame carried, over whatever happened meanwhile."""

import json
import math
import shutil
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import pytest
import trio
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from actors import engine
from daemon.stack import Stack
from tests.histories import Reader, StrictChart, read
from tests.stacks import Said, flush, removed, running, say, trade
from tests.ws_client import Chart, Message

RESOLUTIONS = ("1S", "10S", "1", "3", "240", "1D", "1W", "1M")
EXAMPLES = settings().max_examples
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)  # making a failing history shorter would take many minutes
HOUR, DAY = 3600, 86400
# Few enough that bars are made, emptied and made again, on both sides of the ends of longer ones.
SECONDS = (0, 1, 9, 10, 59, 60, 170, 4 * HOUR - 1, 4 * HOUR, DAY, 5 * DAY, 20 * DAY)

Turn = Literal["look", "flush", "retire", "restart", "crash"]
words = st.one_of(
    st.builds(
        lambda second, price, number: trade(second, price, trade_id=number),
        st.sampled_from(SECONDS),
        st.sampled_from([1, 2, 3]),
        st.integers(1, 4),
    ),
    st.builds(removed, st.integers(1, 4)),
    st.builds(removed, st.integers(1, 4)),
    st.builds(trade, st.sampled_from(SECONDS), st.sampled_from([0, 4])),
)
# What is said in the requests of one round, each of them a commit; and what happens then.
steps = st.lists(
    st.tuples(
        st.lists(st.lists(words, min_size=1, max_size=3), min_size=1, max_size=3),
        st.sampled_from(["look", "look", "flush", "retire", "restart", "crash"]),
    ),
    min_size=2,
    max_size=7,
)


class LenientChart(StrictChart):
    """A chart that was cut off amid a burst: it may be given again what it has got, in whatever words."""

    def take(self, message: Message) -> None:
        Chart.take(self, message)


class Recorder(Reader):
    """Remembers how its chart stood after each frame."""

    def __init__(self, chart: StrictChart, stack: Stack) -> None:
        super().__init__(chart, stack.hub, stack.engine)
        self.amid: list[StrictChart] = []

    def put(self, data: bytes) -> None:
        for line in data.splitlines():
            self.chart.take(json.loads(line))
            self.amid.append(lenient(self.chart))


class Life:
    """One market with a reader at every resolution, and everything that their charts ever were."""

    def __init__(self, counts: Counter[str]) -> None:
        self.counts = counts
        self.charts: list[StrictChart] = [StrictChart("GOLD", resolution) for resolution in RESOLUTIONS]
        self.past: list[StrictChart] = []
        self.readers: list[Recorder] = []

    async def follow(self, stack: Stack) -> None:
        self.readers = [Recorder(chart, stack) for chart in self.charts]
        for reader in self.readers:
            await reader.follow(await stack.registry.named("GOLD"))

    def leave(self) -> None:
        for reader in self.readers:
            reader.leave()

    async def look(self, stack: Stack) -> None:
        """Everybody sees what there is, and so does everybody who comes back."""
        bars = {resolution: await read(stack, "GOLD", resolution) for resolution in RESOLUTIONS}
        stack.hub.flush()
        for reader in self.readers:
            assert reader.chart.rows() == bars[reader.chart.resolution], reader.chart.resolution
        for chart in self.past:
            reader = Recorder(lenient(chart) if isinstance(chart, LenientChart) else chart.copy(), stack)
            self.counts["resumed"] += 1
            self.counts["recovered"] += await reader.follow(await stack.registry.named("GOLD"))
            reader.leave()
            assert reader.chart.rows() == bars[chart.resolution], (chart.resolution, chart.seq)
        for reader in self.readers:
            self.past += [reader.chart.copy(), *reader.amid]
            reader.amid = []


def lenient(chart: StrictChart) -> LenientChart:
    twin = LenientChart(chart.symbol, chart.resolution)
    twin.epoch, twin.seq, twin.bars = chart.epoch, chart.seq, dict(chart.bars)
    return twin


async def lived(data: Path, history: list[tuple[list[list[Said]], Turn]], counts: Counter[str]) -> None:
    life = Life(counts)
    turns = iter(history)
    going = True
    while going:
        going = False
        async with running(data, create="spot") as stack:
            if not life.past:
                await say(stack, trade(-HOUR))
            await life.follow(stack)
            await life.look(stack)
            for requests, turn in turns:
                for some in requests:
                    await say(stack, some)
                await life.look(stack)
                if turn in ("flush", "retire"):
                    await flush(stack)
                if turn == "retire":
                    life.leave()
                    await trio.testing.wait_all_tasks_blocked()
                    stack.engine._retire(math.inf)
                    assert stack.engine.statistics().active == 0
                    await life.follow(stack)
                    await life.look(stack)
                if turn == "crash":
                    shutil.copytree(data, data.with_name(data.name + "c"))
                    data = data.with_name(data.name + "c")
                if turn in ("restart", "crash"):
                    going = True
                    break


async def test_a_chart_cut_off_amid_the_bars_of_a_round_misses_none_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rare_rounds(monkeypatch)
    async with running(tmp_path) as stack:
        await say(stack, trade(0))
        reader = Recorder(StrictChart("GOLD", "1"), stack)
        await reader.follow(await stack.registry.named("GOLD"))
        await say(stack, trade(120), trade(600))
        await say(stack, trade(60))
        bars = await read(stack, "GOLD", "1")
        assert [len(chart.bars) for chart in reader.amid] == [1, 2, 3, 4]
        for chart in reader.amid:
            again = Reader(chart, stack.hub, stack.engine)
            assert await again.follow(await stack.registry.named("GOLD"))
            assert chart.rows() == bars


def rare_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests wait for somebody who asks, and share a round."""
    monkeypatch.setattr(engine, "SHARE", 1e-9)
    monkeypatch.setattr(engine, "SAVED", 0.0)
    monkeypatch.setattr(engine, "BUSY", 0.0)
    monkeypatch.setattr(engine, "LONGEST", 60)


def test_whoever_comes_back_is_told_what_changed_in_the_words_of_a_chart_that_has_what_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rare_rounds(monkeypatch)

    @settings(max_examples=EXAMPLES // 16, phases=PHASES)
    @given(steps)
    def check(history: list[tuple[list[list[Said]], Turn]]) -> None:
        with TemporaryDirectory(dir=tmp_path) as folder:
            trio.run(lived, Path(folder) / "data", history, counts)

    counts: Counter[str] = Counter()
    check()
    assert counts["recovered"] > 0.5 * counts["resumed"], counts
