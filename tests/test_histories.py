"""Whatever is said, in whatever order, cut however, and whatever happens to the process: the bars are the oracle's."""

import shutil
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import msgspec
import pytest
import trio
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from actors import ring
from actors.archivist import Archivist
from actors.background import Background
from actors.intake import IngestAnswer
from actors.writer import SPANS
from daemon.stack import Stack
from storage.calendar import parse
from storage.measures import KINDS
from storage.schema import RUNGS
from tests.histories import PLACES, Model, Reader, Request, StrictChart, body, read, requests, rows
from tests.stacks import JSON, flush, running

STORED = ("1S", "1", "5", "15", "60", "1D")
MERGED = ("2S", "45S", "3", "45", "240", "1440", "7", "2D", "3D", "1W", "1M")
EVERY = [*STORED, *MERGED]
EXAMPLES = settings().max_examples
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)  # making a failing history shorter would take many minutes

Turn = Literal["go on", "flush", "compact", "archive", "seal", "restart", "crash", "lose the store"]
History = list[tuple[list[Request], Turn]]
Cut = tuple[str, str, int, int, bool]  # symbol, resolution, first bar, count, and whether to count backwards

ALL: list[Turn] = ["go on", "flush", "compact", "archive", "seal", "restart", "crash", "lose the store"]
turns: st.SearchStrategy[Turn] = st.sampled_from(ALL)
histories = st.lists(st.tuples(requests(), turns), min_size=1, max_size=4)
symbols = st.sampled_from(sorted(PLACES))
resolutions = st.sampled_from(EVERY)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory in which the markets are registered and nothing has happened; copied, it saves the making."""
    folder = tmp_path_factory.mktemp("empty") / "data"

    async def made() -> None:
        async with running(folder) as stack:
            for symbol, place in PLACES.items():
                await stack.registry.put(place.fields(symbol))

    trio.run(made)
    return folder


class Life:
    """A history as it goes on, through restarts, with readers that follow it."""

    def __init__(self, streams: list[tuple[str, str]], slow: int) -> None:
        self.model = Model()
        self.charts = [StrictChart(*stream) for stream in streams]
        self.past: list[StrictChart] = []  # as they stood at some time
        self.slow = slow
        self.readers: list[Reader] = []

    async def follow(self, stack: Stack) -> None:
        """Subscribe everybody, from where they were."""
        self.readers = [Reader(chart, stack.hub, stack.engine) for chart in self.charts]
        for reader in self.readers:
            await reader.follow(await stack.registry.named(reader.chart.symbol))
        await self.same_charts(stack)

    async def live(self, stack: Stack, phase: list[Request]) -> None:
        """Say what is said, and see it."""
        for reader in self.readers[: self.slow]:
            reader.open = False
        for request in phase:
            expected = self.model.take(request.words)
            answer = msgspec.json.decode(await stack.intake.submit(body(request.words), JSON), type=IngestAnswer)
            assert answer.rejected == []
            assert {name: getattr(answer, name) for name in expected} == expected
            assert answer.cursor == f"{stack.engine.epoch}.{self.model.seq}"
            if request.look:
                await self.same_charts(stack)
                self.past += [chart.copy() for chart in self.charts[self.slow :]]
        for reader in self.readers:
            reader.open = True
            reader.flush()

    async def same_charts(self, stack: Stack) -> None:
        """What the stream told is what there is, for everybody who kept up."""
        for reader in self.readers:
            chart = reader.chart
            bars = self.model.bars(chart.symbol, chart.resolution)
            assert await read(stack, chart.symbol, chart.resolution) == bars, (chart.symbol, chart.resolution)
            stack.hub.flush()
            if reader.open:
                assert chart.rows() == bars, (chart.symbol, chart.resolution)

    async def look(self, stack: Stack, resolutions: list[str]) -> None:
        """Everything that can be read is the oracle's."""
        for symbol in PLACES:
            for resolution in resolutions:
                found = await read(stack, symbol, resolution)
                assert found == self.model.bars(symbol, resolution), (symbol, resolution)
        await self.same_charts(stack)

    async def parts(self, stack: Stack, cuts: list[Cut]) -> None:
        """Parts of the bars are parts of all the bars."""
        for symbol, resolution, first, count, backwards in cuts:
            bars = self.model.bars(symbol, resolution)
            times = [row[0] for row in bars]
            start = times[first % len(times)] + first % 3 - 1 if times else first
            end = times[(first + count) % len(times)] + count % 2 if times else count
            market = await stack.registry.named(symbol)
            window = await stack.engine.window(market, parse(resolution), start, end, count if backwards else None)
            if backwards:
                wanted = [row for row in bars if row[0] < end][-count:]
                inside = [row for row in bars if start <= row[0] < end]
                whole = resolution == "1M" and len(inside) == count + 1
                assert rows(window) == (inside if whole else wanted), (symbol, resolution, start, end, count)
            else:
                assert rows(window) == [row for row in bars if start <= row[0] < end], (symbol, resolution, start, end)
                older = [t for t in times if t < min(start, end)]
                assert window.previous == (older[-1] if older and not window.time else None)

    async def come_back(self, stack: Stack) -> None:
        """Whoever was cut off at any time gets to where everybody is."""
        for chart in self.past[-8:]:
            twin = chart.copy()
            reader = Reader(twin, stack.hub, stack.engine)
            await reader.follow(await stack.registry.named(twin.symbol))
            assert twin.rows() == self.model.bars(twin.symbol, twin.resolution), (twin.symbol, twin.resolution)
            reader.leave()


async def compacted(stack: Stack) -> None:
    """Sum everything flushed so far into the ordered bars."""
    for kind in KINDS:
        for rung in RUNGS:
            await stack.store.compact(kind, rung, 0, SPANS[rung])


async def archived(stack: Stack) -> None:
    """Move everything flushed so far to the archive: it is all of days that are long over."""
    archivist = Archivist(stack.store, Background(rest=0), now=time.time, quiet=0)
    await archivist.run()
    assert await stack.store.waiting(2**40) == []
    assert archivist.statistics().broken == []


async def lived(data: Path, life: Life, history: History, some: list[str], cuts: list[Cut]) -> None:
    """A whole history, looked at in every state it comes to."""
    turns = iter(
        [*history, ([], "flush"), ([], "restart"), ([], "seal"), ([], "archive"), ([], "restart"), ([], "go on")]
    )
    left = len(history)
    going = True
    copies = 0
    while going:
        going = False
        async with running(data) as stack:
            await life.follow(stack)
            await life.come_back(stack)
            for phase, turn in turns:
                await life.live(stack, phase)
                await life.look(stack, EVERY if left == 1 or left < 0 else some)
                await life.parts(stack, cuts)
                left -= 1
                if turn in ("flush", "compact", "archive", "seal"):
                    await flush(stack)
                    if turn == "compact":
                        await compacted(stack)
                    elif turn == "archive":
                        await archived(stack)
                    elif turn == "seal":
                        await stack.sealing.run()
                        assert stack.journal.first_seq == life.model.seq + 1
                    await life.look(stack, some)
                    await life.come_back(stack)
                elif turn == "crash":
                    copies += 1
                    copy = data.with_name(f"data{copies}")
                    shutil.copytree(data, copy)
                    data = copy
                if turn not in ("go on", "flush", "compact", "archive", "seal"):
                    going = True
                    break
        if turn == "lose the store":
            (data / "candles.duckdb").unlink()


@pytest.mark.parametrize("small", [True, False], ids=["small rings", "usual rings"])
def test_bars_are_the_oracles_whatever_is_said_and_whatever_happens(
    empty: Path, small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if small:
        for rung in RUNGS:
            monkeypatch.setitem(ring.SIZES, rung, 6)

    @settings(max_examples=EXAMPLES // (8 if small else 25), phases=PHASES)
    @given(
        history=histories,
        streams=st.lists(st.tuples(symbols, resolutions), max_size=3, unique=True),
        slow=st.integers(0, 1),
        some=st.lists(resolutions, max_size=3, unique=True),
        cuts=st.lists(st.tuples(symbols, resolutions, st.integers(0, 9), st.integers(1, 9), st.booleans()), max_size=6),
    )
    def check(history: History, streams: list[tuple[str, str]], slow: int, some: list[str], cuts: list[Cut]) -> None:
        with TemporaryDirectory(dir=empty.parent) as folder:
            data = Path(folder) / "data"
            shutil.copytree(empty, data)
            trio.run(lived, data, Life(streams, slow), history, some, cuts)

    check()
