"""What is exported is what there is; imported again it makes the same bars, whatever was said and wherever it lies."""

import shutil
import tracemalloc
from collections.abc import Sequence
from decimal import Decimal
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import trio
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from actors import export
from actors.bodies import ARROW
from actors.export import Exporter, bar_schema
from daemon import importing
from daemon.config import load
from daemon.importing import Plan
from daemon.stack import Stack
from storage import formats, listing, sealed
from storage.calendar import parse
from storage.formats import FORMATS, Format, encoder
from storage.mapping import Times
from tests.histories import FAR, PLACES, Model, Request, body, read, requests
from tests.stacks import JSON, NOON, Said, flush, running, say, trade
from tests.test_histories import EVERY, EXAMPLES, archived, compacted

PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
SOON = 4 * 10**15  # µs, later than any event


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
    """Exported bars are those of history; those without a price, which only longer bars show, come beside them."""
    for symbol in PLACES:
        for resolution in resolutions:
            found = await bars(stack, symbol, resolution)
            names = ("time", "open", "high", "low", "close", "volume", "trades_count")
            rows = list(zip(*(found.column(name).to_pylist() for name in names), strict=True))
            priced = [row for row in rows if row[1] is not None]
            assert priced == await read(stack, symbol, resolution), (symbol, resolution)


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


async def test_bars_carry_every_measure_and_longer_ones_what_theirs_come_to(tmp_path: Path) -> None:
    async with running(tmp_path / "data", create="perp") as stack:
        words = [
            opened(0, 10, "0xa", is_long=True, fee="0.5", funding_rate=0.01),
            opened(61, 20, "0xb", is_long=False, fee="0.25"),
            opened(62, 30, "0xa", is_long=False, size="0.1", open_interest=7),
            {**opened(65, 40, "0xc"), "event_type": "PositionLiquidated"},
        ]
        await say(stack, words[0])
        await flush(stack)
        await say(stack, words[1:])
        minutes = (await bars(stack, "GOLD", "1")).to_pylist()
        (hour,) = (await bars(stack, "GOLD", "60")).to_pylist()
    assert [bar["unique_traders"] for bar in minutes] == [1, 3]
    assert [bar["vwap"] for bar in minutes] == [10, 20.9090909090909]
    assert [bar["open_interest"] for bar in minutes] == [None, 7]
    assert hour == {
        "time": NOON,
        "open": 10,
        "high": 30,
        "low": 10,
        "close": 30,
        "volume": 2.1,
        "trades_count": 3,
        "vwap": 15.7142857142857,
        "turnover": 33,
        "turnover_volume": Decimal("2.1"),
        "buy_volume": 1,
        "sell_volume": 1.1,
        "total_fees": 0.75,
        "unique_traders": 3,
        "long_trades": 1,
        "short_trades": 2,
        "liquidation_volume": 1,
        "liquidation_count": 1,
        "funding_rate": 0.01,
        "open_interest": 7,
    }


def opened(second: int, price: float, user: str, **more: object) -> Said:
    return {**trade(second, price), "event_type": "PositionOpened", "user_address": user, **more}


async def test_memory_does_not_depend_on_how_much_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "EVENTS", 1000)
    monkeypatch.setattr(export, "DAYS", dict.fromkeys(export.DAYS, 1))
    monkeypatch.setattr(sealed, "GROUP_ROWS", 1000)
    monkeypatch.setattr(formats, "GROUP_ROWS", 1000)
    async with running(tmp_path / "data") as stack:
        rows = pa.table(
            {
                "market_symbol": pa.array(["GOLD"] * MANY),
                "timestamp": pa.array(NOON * 10**6 + 10**7 * np.arange(MANY), pa.timestamp("us", "UTC")),
                "price": pa.array(np.arange(MANY) % 977 + 1.0),
                "size": pa.array(np.arange(MANY) % 7 + 1.0),
            }
        )
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, rows.schema) as writer:
            writer.write_table(rows)
        await stack.intake.submit(sink.getvalue().to_pybytes(), ARROW)
        await flush(stack)
        await stack.sealing.run()
        end = NOON + 10 * MANY
        for what in ("events", "1S"):
            for kind in FORMATS:
                await peak(stack, what, kind, NOON, NOON + 10**4)  # as it is when it is not the first
                few = await peak(stack, what, kind, NOON, NOON + (end - NOON) // 8)
                all_ = await peak(stack, what, kind, NOON, end)
                assert all_ < few * 1.3 + 300_000, (what, kind)


MANY = 16_000


async def peak(stack: Stack, what: str, kind: Format, start: int, end: int) -> int:
    """The most bytes that Python and Arrow hold at a time beyond those before, while nobody keeps what is exported."""
    market = await stack.registry.named("GOLD")
    some = exporter(stack)
    if what == "events":
        rows, making = some.events(market, start * 10**6, end * 10**6), encoder(kind, listing.SCHEMA)
    else:
        rows, making = some.bars(market, parse(what), start, end), encoder(kind, bar_schema(market.kind))
    count = 0
    usual = pa.default_memory_pool()
    counting = pa.proxy_memory_pool(usual)
    pa.set_memory_pool(counting)
    tracemalloc.start()
    try:
        async for piece in some.encoded(rows, making):
            count += len(piece)
        python = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(usual)
    assert count > (end - NOON) // 10  # bytes
    return python + (counting.max_memory() or 0)
