"""Whatever is said, in whatever order, cut however, and whatever happens to the process: the bars are the oracle's.

`CANDLED_SOAK_MINUTES=30 pytest -s tests/test_histories.py` goes on for so long with ever new histories.
"""

import functools
import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import hypothesis
import msgspec
import pytest
import trio
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from actors import catch_up, ring
from actors.archivist import Archivist
from actors.background import Background
from actors.intake import IngestAnswer
from actors.sealing import Sealing
from actors.writer import SPANS
from daemon import recovery
from daemon.stack import Stack, StackSettings, opening
from storage import archive, parquet, sealed
from storage.calendar import parse
from storage.database import Database
from storage.identities import Identities
from storage.journal import Journal
from storage.measures import KINDS
from storage.schema import RUNGS
from tests.histories import PLACES, Model, Reader, Request, StrictChart, Word, body, read, requests, rows
from tests.real.published import SAMPLE, micros
from tests.real.published import rows as rows_of
from tests.stacks import JSON, flush

STORED = ["1S", "1", "5", "15", "60", "1D"]
MERGED = ["2S", "45S", "3", "45", "240", "1440", "7", "2D", "3D", "1W", "1M"]
EVERY = [*STORED, *MERGED]
EXAMPLES = settings().max_examples
MINUTES = float(os.environ.get("CANDLED_SOAK_MINUTES", "0"))
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)  # making a failing history shorter would take many minutes
DAY = 86400

# A number is the step of all that moves files and rows about at which the process is killed.
Turn = Literal["go on", "flush", "compact", "archive", "seal", "merge", "restart", "crash", "lose the store"] | int
History = list[tuple[list[Request], Turn]]
Cut = tuple[str, str, int, int, bool]  # symbol, resolution, first bar, count, and whether to count backwards

ALL: list[Turn] = ["go on", "flush", "compact", "archive", "seal", "merge", "restart", "crash", "lose the store"]
MOVING: tuple[Turn, ...] = ("flush", "compact", "archive", "seal", "merge")  # the process lives on
STEPS = 700  # about as many as there are
turns: st.SearchStrategy[Turn] = st.one_of(
    st.sampled_from(ALL), st.sampled_from(ALL), st.integers(1, 60) | st.integers(1, STEPS)
)
histories = st.lists(st.tuples(requests(), turns), min_size=1, max_size=4)
symbols = st.sampled_from(sorted(PLACES))
resolutions = st.sampled_from(EVERY)
counts: Counter[str] = Counter()  # of what the histories came by


class Life:
    """A history as it goes on, through restarts, with readers that follow it."""

    def __init__(self, streams: list[tuple[str, str]], slow: int) -> None:
        self.model = Model()
        self.charts = [StrictChart(*stream) for stream in streams]
        self.past: list[StrictChart] = []  # as they stood at some time
        self.slow = slow
        self.readers: list[Reader] = []
        self.later = 0.0  # seconds that the clock is ahead

    def now(self) -> float:
        """The time of this life, Unix seconds."""
        return time.time() + self.later

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
            await self.say(stack, request)
            if request.look:
                await self.same_charts(stack)
                self.past += [chart.copy() for chart in self.charts[self.slow :]]
        for reader in self.readers:
            reader.open = True
            reader.flush()

    async def say(self, stack: Stack, request: Request) -> None:
        """One request; it is answered as the model says."""
        expected = self.model.take(request.words)
        answer = msgspec.json.decode(await stack.intake.submit(body(request.words), JSON), type=IngestAnswer)
        assert answer.rejected == []
        assert {name: getattr(answer, name) for name in expected} == expected
        assert answer.cursor == f"{stack.engine.epoch}.{self.model.seq}"
        counts["requests"] += 1
        counts["requests while the store is made again"] += not stack.catch_up.over

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


async def archived(stack: Stack, now: Callable[[], float] = time.time) -> None:
    """Move everything flushed so far to the archive: it is all of days that are long over."""
    archivist = Archivist(stack.store, Background(rest=0), now=now, quiet=0)
    await archivist.run()
    assert await stack.store.waiting(2**40) == []
    assert archivist.statistics().broken == []


async def merged(stack: Stack, life: Life) -> None:
    """Seal everything, have a day pass, and make one of all files that were sealed in it."""
    await stack.sealing.run()
    life.later += DAY
    await stack.sealing.run()
    days = [file.made // DAY for file in stack.sealing.files]
    assert len(set(days)) == len(days)


async def turned(stack: Stack, life: Life, turn: Turn) -> None:
    """Do what moves rows and files about."""
    await flush(stack)
    match turn:
        case "compact":
            await compacted(stack)
        case "archive":
            await archived(stack, life.now)
        case "seal":
            await stack.sealing.run()
            assert stack.journal.first_seq == life.model.seq + 1
        case "merge":
            await merged(stack, life)


class Steps:
    """Counts what is done to files and tables, and copies the directory at one step: what a kill there would leave."""

    PARTS: tuple[tuple[Any, str], ...] = (
        (Database, "_write"),
        (Journal, "rotate"),
        (Journal, "trim"),
        (Identities, "spill"),
        (Identities, "merge"),
        (Sealing, "_let_go"),
        (sealed, "_fsync"),
        (sealed, "_rename"),
        (sealed, "sync"),
        (parquet, "sync"),
        (parquet.Writer, "rename"),
        (archive, "_sync_folders"),
        (archive, "unlink"),
    )

    def __init__(self, data: Path, at: int) -> None:
        self._data, self._at = data, at
        self.count = 0
        self.copy: Path | None = None

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count while the block runs."""
        with pytest.MonkeyPatch.context() as patch:
            for owner, name in self.PARTS:
                patch.setattr(owner, name, self._around(name, getattr(owner, name)))
            yield

    def _around(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(work)
        def stepped(*arguments: Any) -> Any:
            self._step(f"before {name}")
            found = work(*arguments)
            self._step(f"after {name}")
            return found

        return stepped

    def _step(self, what: str) -> None:
        self.count += 1
        if self.count == self._at:
            self.copy = self._data.with_name(f"{self._data.name}k")
            shutil.copytree(self._data, self.copy)
            counts[f"killed {what}"] += 1


async def killed(stack: Stack, life: Life, data: Path, at: int) -> Path:
    """Move everything about, and be killed amid it; the directory of the next life."""
    steps = Steps(data, at)
    with steps.counted():
        for turn in MOVING:
            await turned(stack, life, turn)
    counts["not killed"] += steps.copy is None
    counts["most steps"] = max(counts["most steps"], steps.count)
    return steps.copy or data


def looked_at(turn: int, last: int, some: list[str]) -> list[str]:
    """The resolutions to read in this turn after the last that is at random; `last` is the last of all."""
    if turn < 0:
        return some
    # Those in between differ in where the bars lie, which tells on what others are merged from.
    return EVERY if MINUTES or turn in (0, last) else STORED


async def lived(data: Path, life: Life, history: History, some: list[str], cuts: list[Cut]) -> None:
    """A whole history, looked at in every state it comes to."""
    last: History = [([], "flush"), ([], "restart"), ([], "seal"), ([], "archive"), ([], "restart"), ([], "go on")]
    turns = [*history, *last]
    number = 0
    lost = False
    while number < len(turns):
        phase, turn = turns[number]
        async with opening(StackSettings(data=data, flush_seconds=3600), now=life.now) as stack:
            if lost:  # the first things that were said are said again, too
                for request in [*history[0][0], *phase]:
                    await life.say(stack, request)
                phase = []
            await stack.catch_up.wait()
            await life.follow(stack)
            await life.come_back(stack)
            going = True
            while going:
                counts[f"turn {turn}" if isinstance(turn, str) else "turn to be killed"] += 1
                await life.live(stack, phase)
                await life.look(stack, looked_at(number - len(history) + 1, len(last), some))
                await life.parts(stack, cuts)
                if turn in MOVING:
                    await turned(stack, life, turn)
                    await life.look(stack, some)
                    await life.come_back(stack)
                elif isinstance(turn, int):
                    data = await killed(stack, life, data, turn)
                elif turn == "crash":
                    copy = data.with_name(f"{data.name}c")
                    shutil.copytree(data, copy)
                    data = copy
                number += 1
                going = number < len(turns) and (turn in MOVING or turn == "go on")
                if going:
                    phase, turn = turns[number]
        lost = turn == "lose the store"
        if lost:
            (data / "candles.duckdb").unlink()


@pytest.mark.parametrize("small", [True, False], ids=["small rings", "usual rings"])
def test_bars_are_the_oracles_whatever_is_said_and_whatever_happens(
    empty: Path, small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catch_up, "PATIENCE", 300.0)
    if small:
        monkeypatch.setattr(recovery, "REPLAYED", 25)
        for rung in RUNGS:
            monkeypatch.setitem(ring.SIZES, rung, 6)

    @settings(max_examples=3 if small else 2, phases=PHASES)  # the first of them is the simplest
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
            counts["histories"] += 1
            trio.run(lived, data, Life(streams, slow), history, some, cuts)

    check()
    until = time.monotonic() + 30 * MINUTES  # each of both has half of them
    while time.monotonic() < until:
        seed = time.time_ns()
        print(f"seed {seed}: {dict(sorted(counts.items()))}", flush=True)
        hypothesis.seed(seed)(check)()
    print(dict(sorted(counts.items())), flush=True)


def reorganised(count: int, seed: int) -> History:
    """The first `count` swaps of a pool on a real chain, in requests of some blocks each.

    Now and then some of the newest blocks come with other events first, which are all taken back before the true ones
    come; some requests come twice, and some late.
    """
    chance = random.Random(seed)
    blocks: dict[int, list[Word]] = {}
    for row in rows_of(SAMPLE / "uniswap_v3_usdc_weth_0x88e6a0c2_20240105.decoded.csv.gz"):
        if row["tx_type"] == "SWAP" and count:
            block, ts = int(row["block_number"]), micros(row["block_timestamp"])
            word = Word(market="GOLD", ts=ts, event="PriceUpdated", price=row["current_tick"], block=block)
            word = replace(word, identity=(f"0x{block:064x}", int(row["log_index"])))
            blocks.setdefault(block, []).append(word)
            count -= 1
    numbers = sorted(blocks)
    said: list[Request] = []
    late: list[Word] = []
    while numbers:
        some = numbers[: chance.randrange(1, 40)]
        numbers = numbers[len(some) :]
        if chance.random() < 0.15:
            orphaned = [_orphan(word, chance) for block in some[-chance.randrange(1, 9) :] for word in blocks[block]]
            said.append(Request(tuple(orphaned), True))
            taken = [Word(market="GOLD", identity=word.identity, removed=True) for word in reversed(orphaned)]
            said.append(Request(tuple(taken), chance.random() < 0.5))
        words = [word for block in some for word in blocks[block]]
        chance.shuffle(words)
        if chance.random() < 0.2:
            late += words
        else:
            said.append(Request(tuple(words), False))
        if chance.random() < 0.2:
            said.append(Request(tuple(words), False))
    said.append(Request(tuple(late), True))
    cut = max(1, len(said) // 8)
    return [(said[at : at + cut], chance.choice([*ALL, chance.randrange(1, STEPS)])) for at in range(0, len(said), cut)]


def _orphan(word: Word, chance: random.Random) -> Word:
    """What another branch of the chain says in this place."""
    price = str(Decimal(word.price or 0) + chance.randrange(-40, 40))
    ts = word.ts + chance.randrange(0, 13) * 1_000_000
    if chance.random() < 0.5:
        return replace(word, price=price, ts=ts)  # the same log, with other content
    return replace(word, price=price, ts=ts, identity=(f"0x{(word.block or 0) + 2**64:064x}", chance.randrange(9)))


def test_a_real_chain_that_is_reorganised_gives_the_bars_that_were_published(
    empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catch_up, "PATIENCE", 300.0)
    count = 6046 if MINUTES else 300
    life = Life([("GOLD", "1"), ("GOLD", "1D")], 0)
    history = reorganised(count, seed=1)
    data = empty.parent / "chain"
    shutil.copytree(empty, data)
    trio.run(lived, data, life, history, ["1", "15"], [])
    shown = {row[0]: row[1:5] for row in life.model.bars("GOLD", "1")}
    published = {
        micros(row["timestamp"]) // 10**6: tuple(
            float(row[name]) for name in ("openTick", "highestTick", "lowestTick", "closeTick")
        )
        for row in rows_of(SAMPLE / "uniswap_v3_usdc_weth_0x88e6a0c2_20240105.minute.csv.gz")
    }
    whole = sorted(shown)[:-1]  # of the last minute only a part may have been said
    assert len(whole) > 40
    assert {t: shown[t] for t in whole} == {t: published[t] for t in whole}
