"""What is exported is what there is; imported again it makes the same bars, whatever was said and wherever it lies."""

import shutil
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import trio
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from actors import export
from actors.export import Exporter, bar_schema
from daemon import importing
from daemon.config import load
from daemon.importing import Plan
from daemon.stack import Stack
from storage import listing
from storage.calendar import parse
from storage.formats import FORMATS, Format, encoder
from storage.mapping import Times
from tests.histories import FAR, PLACES, Model, Request, body, read, requests
from tests.stacks import JSON, flush, running
from tests.test_histories import EVERY, EXAMPLES, archived, compacted

PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
SOON = 4 * 10**15  # µs, later than any event


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory in which the markets are registered and nothing has happened."""
    folder = tmp_path_factory.mktemp("empty") / "data"

    async def made() -> None:
        async with running(folder) as stack:
            for symbol, place in PLACES.items():
                await stack.registry.put(place.fields(symbol))

    trio.run(made)
    return folder


def exporter(stack: Stack) -> Exporter:
    return Exporter(stack.engine, stack.writer, stack.store, stack.database.read)


async def events(stack: Stack, symbol: str, kind: Format, start: int = 0, end: int = SOON) -> bytes:
    market = await stack.registry.named(symbol)
    some = exporter(stack)
    rows = some.events(market, start, end)
    return b"".join([piece async for piece in some.encoded(rows, encoder(kind, listing.SCHEMA))])


async def bars(stack: Stack, symbol: str, resolution: str, start: int = -FAR, end: int = FAR) -> pa.Table:
    market = await stack.registry.named(symbol)
    some = exporter(stack)
    making = encoder("parquet", bar_schema(market.kind))
    rows = some.bars(market, parse(resolution), start, end)
    return pq.read_table(BytesIO(b"".join([piece async for piece in some.encoded(rows, making)])))


async def same_bars(stack: Stack, resolutions: Sequence[str]) -> None:
    """Exported bars are those of history."""
    for symbol in PLACES:
        for resolution in resolutions:
            found = await bars(stack, symbol, resolution)
            names = ("time", "open", "high", "low", "close", "volume", "trades_count")
            rows = list(zip(*(found.column(name).to_pylist() for name in names), strict=True))
            assert rows == await read(stack, symbol, resolution), (symbol, resolution)


async def lived(data: Path, phases: list[tuple[list[Request], str]], kind: Format, some: list[str]) -> None:
    model = Model()
    files = data.parent / "files"
    files.mkdir()
    async with running(data) as stack:
        for phase, turn in phases:
            for request in phase:
                model.take(request.words)
                await stack.intake.submit(body(request.words), JSON)
            if turn != "go on":
                await flush(stack)
            if turn == "compact":
                await compacted(stack)
            if turn == "seal":
                await stack.sealing.run()
            if turn == "archive":
                await archived(stack)
            await same_bars(stack, some)
        for symbol in PLACES:
            (files / f"{symbol}.{kind}").write_bytes(await events(stack, symbol, kind))
    again = data.parent / "again"
    shutil.copytree(data.parent / "empty", again)
    for file in sorted(files.iterdir()):
        if not any(event.price for event in model.events(file.stem)):
            continue  # no price, no bars
        plan = Plan(files=(file,), market="", given=(), where="", times=Times(), create=None)
        with importing.sources(plan) as sources:
            tally = await importing.run(
                load({"data": str(again)}, {}, demo=False).config, plan, sources, Quiet(), None, None
            )
        assert tally.rejected == 0, tally.errors
    async with running(again) as stack:
        for symbol in PLACES:
            for resolution in EVERY:
                assert await read(stack, symbol, resolution) == model.bars(symbol, resolution), (symbol, resolution)
        await same_bars(stack, some)


class Quiet:
    """Listens to no progress."""

    def begin(self, what: str, total: int | None, done: int, unit: str) -> None: ...
    def advance(self, count: int) -> None: ...


@pytest.mark.parametrize("kind", FORMATS)
def test_imported_events_make_the_same_bars_whatever_was_said_and_wherever_it_lies(
    empty: Path, kind: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "EVENTS", 3)
    monkeypatch.setattr(export, "DAYS", dict.fromkeys(export.DAYS, 1))
    monkeypatch.setattr(importing, "ROWS", 2)
    turns = st.sampled_from(["go on", "flush", "compact", "seal", "archive"])

    @settings(max_examples=max(2, EXAMPLES // 25), phases=PHASES)
    @given(
        phases=st.lists(st.tuples(requests(), turns), min_size=1, max_size=4),
        some=st.lists(st.sampled_from(EVERY), min_size=1, max_size=3, unique=True),
    )
    def check(phases: list[tuple[list[Request], str]], some: list[str]) -> None:
        with TemporaryDirectory(dir=empty.parent) as folder:
            data = Path(folder) / "data"
            for name in ("data", "empty"):
                shutil.copytree(empty, data.with_name(name))
            trio.run(lived, data, phases, kind, some)

    check()
