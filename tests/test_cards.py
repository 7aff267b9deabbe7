"""Prices of cards through everything that keeps bars: the same bars as an obvious fold of them, wherever they lie."""

import json
from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import trio
from pyarrow import csv

from actors.decode import BARS, SNAPSHOTS
from actors.export import Exporter, bar_schema
from daemon.stack import Stack
from storage import listing
from storage.calendar import parse
from storage.formats import FORMATS, Format, encoder
from storage.variants import Variant
from tests.stacks import JSON, NOON, flush, running
from tests.test_histories import archived, compacted
from tests.web.test_stream import no_app
from tests.ws_client import Chart, connected
from web.listener import listen
from web.outbox import WsLimits
from web.stream import BarStreams

CARD = Variant("sv3.5-1", "tcgplayer")
FOIL = CARD._replace(is_foil=True, language="Japanese", currency="JPY", condition="DAMAGED")
SOON = 4 * 10**15  # µs, later than any event


def price(second: int, value: float | str | None, variant: Variant = CARD, **more: Any) -> dict[str, Any]:
    return {"time": (NOON + second) * 1000, **variant._asdict(), "price": value, **more}


async def say(stack: Stack, *prices: dict[str, Any]) -> None:
    answer = msgspec.json.decode(await stack.intake.submit(msgspec.json.encode(prices), JSON, form=SNAPSHOTS))
    assert answer["rejected"] == []


def exporter(stack: Stack) -> Exporter:
    return Exporter(stack.engine, stack.writer, stack.store, stack.database.read)


async def bars(stack: Stack, variant: Variant, resolution: str) -> list[dict[str, Any]]:
    """Exported bars, with all measures."""
    market = await stack.registry.named(variant.symbol)
    some = exporter(stack)
    rows = some.bars(market, parse(resolution), -(2**40), 2**40)
    file = b"".join([piece async for piece in some.encoded(rows, encoder("parquet", bar_schema("card")))])
    found: list[dict[str, Any]] = pq.read_table(BytesIO(file)).to_pylist()
    return found


async def events(stack: Stack, variant: Variant, kind: Format) -> bytes:
    market = await stack.registry.named(variant.symbol)
    some = exporter(stack)
    making = encoder(kind, listing.schema_of("card"))
    return b"".join([piece async for piece in some.encoded(some.events(market, 0, SOON), making)])


DAY = [
    price(0, "10.10", price_low=9, price_high=12, price_market="10.05", num_listings=3, total_quantity=7),
    price(60, "11.30", price_low="8.5", price_high=11, num_listings=4),
    price(120, 0, price_low=1, price_high=99, price_market=5, num_listings=50, total_quantity=60),
    price(3599, "9.20", price_market="9.15", total_quantity=0),
]
HOUR = {
    "time": NOON,
    "open": 10.1,
    "high": 11.3,
    "low": 9.2,
    "close": 9.2,
    "volume": 10.1 * 7 + 11.3 * 4,  # price × quantity, or listings where no quantity is said
    "trades_count": 3,
    "avg_price": 10.2,
    "avg_market_price": 9.6,
    "price_sum": Decimal("30.6"),
    "market_price_sum": Decimal("19.2"),
    "market_price_count": 2,
    "min_price": 8.5,
    "max_price": 12,
    "total_listings": 7,
    "total_quantity": 7,
}


async def everywhere(stack: Stack, check: Callable[[], Awaitable[None]]) -> None:
    """Check wherever events and bars may lie."""
    await check()
    await flush(stack)
    await check()
    await compacted(stack)
    await check()
    await stack.sealing.run()
    await check()
    await archived(stack)
    await check()


async def test_each_measure_of_a_card_has_its_value_wherever_it_lies(tmp_path: Path) -> None:
    async with running(tmp_path / "data") as stack:
        await say(stack, *DAY)

        async def check() -> None:
            (hour,) = await bars(stack, CARD, "60")
            assert hour == pytest.approx(HOUR)
            (day,) = await bars(stack, CARD, "1D")
            assert {**day, "time": NOON} == pytest.approx(HOUR)
            minutes = await bars(stack, CARD, "1")
            assert [minute["time"] - NOON for minute in minutes] == [0, 60, 3540], "no price, no bar"
            assert minutes[1]["avg_market_price"] is None, "nobody said one"

        await everywhere(stack, check)
    async with running(tmp_path / "data") as stack:
        (hour,) = await bars(stack, CARD, "60")
        assert hour == pytest.approx(HOUR)


async def test_corrections_and_retractions_count_wherever_the_first_word_lies(tmp_path: Path) -> None:
    wrong = [price(0, 99, price_low=1, price_high=500, num_listings=9), price(61, 5, total_quantity=1000)]
    for late in range(4):
        async with running(tmp_path / f"data{late}") as stack:
            await say(stack, *wrong)
            if late > 0:
                await flush(stack)
            if late > 1:
                await stack.sealing.run()
            if late > 2:
                await archived(stack)
            await say(stack, price(61, None, removed=True), *DAY)

            async def check(stack: Stack = stack) -> None:
                (hour,) = await bars(stack, CARD, "60")
                assert hour == pytest.approx(HOUR)
                assert [bar["time"] - NOON for bar in await bars(stack, CARD, "1S")] == [0, 60, 3599]

            await everywhere(stack, check)


async def test_cards_are_folded_again_beside_markets_with_finished_bars(tmp_path: Path) -> None:
    bar = {"market_symbol": "GOLD", "timestamp": NOON * 1000, "resolution": "1m", "open": 1, "high": 2, "low": 1}
    async with running(tmp_path / "data") as stack:
        await stack.registry.put({"market_symbol": "GOLD", "kind": "spot"})
        body = msgspec.json.encode([{**bar, "close": 2, "volume": 5}])
        assert b'"accepted":1' in await stack.intake.submit(body, JSON, form=BARS)
        await say(stack, price(0, 99, price_low=1), *DAY[1:])
        await flush(stack)
        await say(stack, DAY[0])
        await flush(stack)
        (hour,) = await bars(stack, CARD, "60")
        assert hour == pytest.approx(HOUR)


async def test_a_store_that_is_lost_comes_back_from_what_was_said(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with running(data) as stack:
        await say(stack, *DAY[:2], price(5, 700, FOIL))
        await flush(stack)
        await stack.sealing.run()
        await say(stack, *DAY[2:])
    (data / "candles.duckdb").unlink()
    async with running(data) as stack:
        (hour,) = await bars(stack, CARD, "60")
        assert hour == pytest.approx(HOUR)
        assert [bar["close"] for bar in await bars(stack, FOIL, "1D")] == [700]


@pytest.mark.parametrize("kind", FORMATS)
async def test_exported_prices_posted_again_make_the_same_bars(tmp_path: Path, kind: Format) -> None:
    fine = "12345678901234567890.123456789012345678"
    words = [*DAY, price(7, fine, FOIL, price_mid="0.000000000000000001"), price(9, 800, FOIL, total_quantity=2**40)]
    async with running(tmp_path / "data") as stack:
        await say(stack, *words[:3])
        await flush(stack)
        await stack.sealing.run()
        await say(stack, *words[3:5])
        await flush(stack)
        await say(stack, *words[5:])
        files = [await events(stack, variant, kind) for variant in (CARD, FOIL)]
        expected = [await bars(stack, v, resolution) for v in (CARD, FOIL) for resolution in ("1S", "5", "1D")]
    rows = [row for file in files for row in rows_of(file, kind)]
    assert len(rows) == len(words)
    async with running(tmp_path / "again") as stack:
        await say(stack, *rows)
        assert [await bars(stack, v, resolution) for v in (CARD, FOIL) for resolution in ("1S", "5", "1D")] == expected
    async with running(tmp_path / "data") as stack:
        await say(stack, *rows)
        assert stack.intake.statistics().duplicates == len(words)


def rows_of(file: bytes, kind: Format) -> Sequence[dict[str, Any]]:
    """Exported rows as they may be posted as JSON."""
    if kind == "ndjson":
        return [json.loads(line) for line in file.splitlines()]
    if kind == "csv":
        texts = {name: pa.string() for name in listing.schema_of("card").names}
        options = csv.ConvertOptions(column_types=texts, strings_can_be_null=True)
        rows = csv.read_csv(BytesIO(file), convert_options=options).to_pylist()
    else:
        table = pq.read_table(BytesIO(file)) if kind == "parquet" else pa.ipc.open_stream(file).read_all()
        rows = table.to_pylist()
    return [{name: worded(value) for name, value in row.items()} for row in rows]


def worded(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int | str) else said(value)


def said(value: Any) -> str:
    return value.isoformat() if hasattr(value, "isoformat") else f"{value:f}"


async def test_a_stream_of_a_variant_says_its_bars_and_what_corrections_make_of_them(tmp_path: Path) -> None:
    async with running(tmp_path / "data") as stack, trio.open_nursery() as nursery:
        await say(stack, *DAY[:2])
        stop = trio.Event()

        async def serve(*, task_status: Any) -> None:
            limits = WsLimits()
            await listen(
                no_app,
                {"/ws": BarStreams(stack.engine, stack.hub, limits).serve},
                host="127.0.0.1",
                port=0,
                hub=stack.hub,
                limits=limits,
                until=stop.wait,
                drain_seconds=2,
                task_status=task_status,
            )

        _, port = await nursery.start(serve)
        chart = Chart(CARD.symbol, "60")
        async with connected(port) as client:
            await client.follow(chart)
            await client.catch_up(chart, stack.engine.committed())
            assert chart.bars[NOON]["close"] == 11.3
            for words in (
                DAY[2:],
                [price(3599, 9)],
                [price(3600, 20)],
                [price(0, 30)],
                [price(3600, None, removed=True)],
            ):
                await say(stack, *words)
                await client.catch_up(chart, stack.engine.committed())
        stop.set()
    (bar,) = chart.bars.values()
    assert [bar[name] for name in ("open", "high", "low", "close", "trades")] == [30, 30, 9, 9, 3]
    assert bar["volume"] == 30 + 11.3 * 4 + 9
    assert set(chart.ops) == {"upsert", "amend", "delete"}
