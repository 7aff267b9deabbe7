"""Files of finished bars: what was exported, what venues publish, and what is wrong with some."""

import csv as csv_module
import gzip
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import trio

from actors.bodies import ARROW
from actors.decode import BARS
from actors.export import Exporter, bar_schema
from actors.intake import IngestAnswer
from daemon import importing
from daemon.importing import Plan, Tally
from daemon.stack import Stack
from storage.calendar import parse
from storage.formats import FORMATS, Format, encoder
from storage.mapping import Times
from storage.records import Kind
from tests.daemon.test_importing import Told, candled, config
from tests.daemons import running as daemon
from tests.histories import FAR, read
from tests.stacks import NOON, Said, flush, running, say, trade
from tests.test_verify import clean

SHARED = Path(__file__).parent.parent.parent.parent / "shared" / "data" / "ticks"
real = pytest.mark.skipif(not SHARED.exists(), reason="the full recordings are not beside this checkout")
COARSER = ("1", "3", "5", "15", "60", "240", "1D", "1W", "1M")


def plan(*files: Path, market: str = "", create: Kind | None = "spot", bars: str | None = None, **more: Any) -> Plan:
    given = {"given": (), "where": "", **more}
    return Plan(files=files, market=market, times=Times(), create=create, bars=bars, **given)


async def imported(data: Path, wanted: Plan) -> Tally:
    with importing.sources(wanted) as some:
        return await importing.run(config(data), wanted, some, Told(), None, None)


async def exported(stack: Stack, symbol: str, resolution: str, kind: Format = "parquet") -> bytes:
    market = await stack.registry.named(symbol)
    some = Exporter(stack.engine, stack.writer, stack.store, stack.database.read)
    rows = some.bars(market, parse(resolution), -FAR, FAR)
    return b"".join([piece async for piece in some.encoded(rows, encoder(kind, bar_schema(market.kind)))])


async def tables(stack: Stack, symbol: str) -> list[pa.Table]:
    """All that bars say, but whom they do not know."""
    found = [pq.read_table(BytesIO(await exported(stack, symbol, resolution))) for resolution in COARSER]
    return [table.drop_columns([n for n in ("unique_traders",) if n in table.column_names]) for table in found]


def events(kind: Kind) -> list[Said]:
    """Two days of trades with digits enough to tell whether any is lost."""
    said = []
    for i in range(400):
        more: Said = {"side": ("buy", "sell")[i % 2], "trade_id": i}
        if kind == "perp":
            more |= {
                "event_type": ("PositionOpened", "PositionClosed", "PositionLiquidated")[i % 7 % 3],
                "fee": 0.001 * i,
            }
            # Some minutes, and some days, have events of other prices alone: no bar of theirs, but their volume.
            source = "index" if i % 5 == 2 or i > 395 else "mark"
            more |= {"funding_rate": f"0.000{i % 5}", "open_interest": 1000 + i, "price_type": source}
        said.append(trade(i * 433, f"{100 + i * 37 % 11}.{i % 7}", f"0.{i % 9 + 1}7", "M", **more))
    return said


@pytest.mark.parametrize("kind", ["spot", "perp"])
@pytest.mark.parametrize("form", FORMATS)
async def test_imported_exports_reproduce_every_bar(tmp_path: Path, kind: Kind, form: Format) -> None:
    async with running(tmp_path / "a", create=kind) as stack:
        answer = await say(stack, events(kind))
        assert answer.rejected == []
        expected = await tables(stack, "M")
        file = tmp_path / f"bars.{form}"
        file.write_bytes(await exported(stack, "M", "1", form))
    tally = await imported(tmp_path / "b", plan(file, market="M", create=kind, bars="1m"))
    assert (tally.accepted, tally.rejected) == (expected[0].num_rows, 0)
    assert tally.accepted > 350
    assert (expected[0].column("open").null_count > 50) == (kind == "perp")
    async with running(tmp_path / "b") as stack:
        for resolution, one, other in zip(COARSER, expected, await tables(stack, "M"), strict=True):
            assert one.equals(other), resolution
        again = await submitted(stack, file)
        assert again.duplicates == tally.accepted
        await flush(stack)
        await clean(stack)


async def submitted(stack: Stack, file: Path) -> IngestAnswer:
    """The same file, as if no earlier run were known of."""
    with importing.sources(plan(file, market="M", bars="1m")) as some:
        (batch,) = some[0].file.read(some[0].choices, "", 0, 50_000)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    answer = await stack.intake.submit(bytes(sink.getvalue()), ARROW, form=BARS)
    return msgspec.json.decode(answer, type=IngestAnswer)


@real
@pytest.mark.parametrize("bars_first", [True, False])
async def test_trades_win_where_there_are_any_and_the_venues_bars_serve_elsewhere(
    tmp_path: Path, bars_first: bool
) -> None:
    bars, trades = (SHARED / f"crypto_binance_xrpeth_20191011.{name}.csv.gz" for name in ("bars_1m", "aggtrades"))
    # So that bars can be told from the trades that they were made of; and trades for every third hour only.
    double = (("volume * 2", "volume"),)
    plans = [plan(bars, market="M", bars="1m", given=double)]
    plans.insert(len(plans) if bars_first else 0, plan(trades, market="M", where="ts_ms // 3600000 % 3 = 0"))
    for each in plans:
        tally = await imported(tmp_path / "data", each)
        assert tally.rejected == 0, tally.errors
    with duckdb.connect() as db:
        published = db.execute(
            f"SELECT ts_ms // 1000, open, high, low, close, volume FROM read_csv('{bars}') ORDER BY 1"
        ).fetchall()
    async with running(tmp_path / "data") as stack:
        found = await read(stack, "M", "1")
        assert len(found) == len(published) > 2000
        hours: dict[int, float] = {}
        for bar, (at, *prices, volume) in zip(found, published, strict=True):
            traded = at // 3600 % 3 == 0
            assert bar[:5] == (at, *prices)
            assert bar[5] == (volume if traded else 2 * volume)
            assert (bar[6] > 0) == traded
            hours[at // 3600 * 3600] = hours.get(at // 3600 * 3600, 0.0) + bar[5]
        assert {row[0]: row[5] for row in await read(stack, "M", "60")} == pytest.approx(hours, rel=1e-12)


def write(path: Path, rows: Sequence[dict[str, object]]) -> Path:
    """A CSV file, packed."""
    with gzip.open(path, "wt", newline="") as file:
        writer = csv_module.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


GOOD: dict[str, object] = {"time": NOON, "open": 2, "high": 4, "low": 1, "close": 3, "volume": 5, "vwap": "2.5"}


async def test_what_a_bar_cannot_be_is_refused_with_its_reason(tmp_path: Path) -> None:
    wrong: dict[str, dict[str, object]] = {
        "low: expected at most 2.0": {"low": 2.5},
        "high: expected at least 3.0": {"high": 2.9},
        "open: expected a price > 0": {"open": 0},
        "volume: expected a number": {"volume": -1},
        "timestamp: expected the beginning of a bar of 1m": {"time": NOON + 90},
        "timestamp: expected a bar that is over": {"time": 253_000_000_020},
    }
    rows = [{**GOOD, "time": NOON + 60 * i} for i in range(9)]
    rows += [{**GOOD, "time": NOON + 3600, **change} for change in wrong.values()]
    tally = await imported(tmp_path / "data", plan(write(tmp_path / "a.csv.gz", rows), market="M", bars="1m"))
    assert (tally.accepted, tally.rejected) == (9, len(wrong))
    for reason, said in zip(list(wrong)[:5], tally.errors, strict=True):
        assert reason in said


async def test_times_may_be_those_of_the_ends(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv.gz", [GOOD])
    await imported(tmp_path / "data", plan(file, market="M", bars="5m", labelled="end"))
    async with running(tmp_path / "data") as stack:
        assert await read(stack, "M", "5") == [(NOON - 300, 2.0, 4.0, 1.0, 3.0, 5.0, 0)]
        assert await read(stack, "M", "1") == []
        assert pq.read_table(BytesIO(await exported(stack, "M", "5"))).column("vwap").to_pylist() == [2.5]


async def test_days_are_named_by_their_dates(tmp_path: Path) -> None:
    day = NOON // 86400 * 86400
    async with running(tmp_path / "data", create=None) as stack:
        said = {"market_symbol": "M", "kind": "spot", "session": "1800-1700", "timezone": "America/New_York"}
        await stack.registry.put(said)
    file = write(tmp_path / "a.csv.gz", [{**GOOD, "time": day}, {**GOOD, "time": day + 86400}])
    tally = await imported(tmp_path / "data", plan(file, market="M", bars="1d"))
    assert tally.accepted == 2
    async with running(tmp_path / "data") as stack:
        assert [row[0] for row in await read(stack, "M", "1D")] == [day, day + 86400]
        # The evening before belongs to the day, and its trades win.
        await say(stack, trade(day - NOON - 3600, 7, 1, "M"))
        await flush(stack)
        assert await read(stack, "M", "1D") == [(day, 7, 7, 7, 7, 1, 1), (day + 86400, 2, 4, 1, 3, 5, 0)]


async def test_beside_a_running_daemon_they_go_through_it(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv.gz", [{**GOOD, "time": NOON + 60 * i, "interval": "1m"} for i in range(10)])
    dry = candled(tmp_path / "data", str(file), "--market", "M", "--dry-run")
    assert dry.returncode == 0
    assert "finished bars" in dry.stderr
    assert "resolution" in dry.stderr
    data = tmp_path / "data"
    async with daemon("serve", "--data", str(data), home=tmp_path):
        done = await trio.to_thread.run_sync(lambda: candled(data, str(file), "--market", "M", "--create", "spot"))
        assert done.returncode == 0, done.stderr
    async with running(tmp_path / "data") as stack:
        assert len(await read(stack, "M", "1")) == 10
        assert len(await read(stack, "M", "5")) == 2
