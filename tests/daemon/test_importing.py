"""Files of events, into a data directory and through the daemon that runs on it."""

import gzip
import json
import os
import signal
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import trio
import zstandard
from msgspec import structs

from daemon import importing
from daemon.config import Config, load
from daemon.importing import Plan, Tally, What
from storage import rejects
from storage.errors import BadRequest, Unavailable
from storage.mapping import Times
from storage.records import Kind
from tests.daemons import BIN, environment
from tests.daemons import running as daemon
from tests.histories import read
from tests.stacks import running

DATA = Path(__file__).parent.parent / "data"
TRADES, CANDLES = DATA / "crypto_bequant_2021_07.trades.csv.gz", DATA / "crypto_bequant_2021_07.candles_1m.csv.gz"
HOUR = 3600


class Told:
    """What a reporter was told."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, int, int]] = []
        self.rows = 0

    def begin(self, what: str, total: int, done: int, unit: str) -> None:
        assert unit == "rows"
        self.begun.append((what, total, done))

    def advance(self, rows: int) -> None:
        self.rows += rows


def config(data: Path) -> Config:
    return load({"data": str(data)}, {}, demo=False).config


def plan(*files: Path, market: str = "", create: Kind | None = "spot", where: str = "") -> Plan:
    return Plan(files=files, market=market, given=(), where=where, times=Times(), create=create)


async def imported(data: Path, wanted: Plan, report: Told | None = None) -> Tally:
    with importing.sources(wanted) as some:
        return await importing.run(config(data), wanted, some, report or Told(), None, None)


def candled(data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BIN / "candled", "import", *arguments, "--data", str(data)],
        capture_output=True,
        text=True,
        env=environment(data.parent),
        timeout=60,
    )


def trades(count: int, *, ids: bool) -> list[dict[str, object]]:
    """Trades of two hours, several to a second, the same second's prices in an order that counts."""
    rows: list[dict[str, object]] = []
    for i in range(count):
        at = 1_700_000_000_000 + i * 7200_000 // count // 1000 * 1000
        rows.append({"ts_ms": at, "price": f"{100 + i * 37 % 11}.{i % 7}", "qty": f"0.{i % 9 + 1}"})
        if ids:
            rows[-1]["trade_id"] = i
    return rows


def csv(path: Path, rows: list[dict[str, object]]) -> Path:
    text = "\n".join([",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]) + "\n"
    opened: Callable[[Path, bytes], object] = {
        ".gz": lambda to, said: to.write_bytes(gzip.compress(said)),
        ".zst": lambda to, said: to.write_bytes(zstandard.compress(said)),
    }.get(path.suffix, lambda to, said: to.write_bytes(said))
    opened(path, text.encode())
    return path


def parquet(path: Path, rows: list[dict[str, object]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def ndjson(path: Path, rows: list[dict[str, object]]) -> Path:
    said = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    path.write_bytes(gzip.compress(said) if path.suffix == ".gz" else said)
    return path


async def test_the_bars_of_an_imported_file_are_those_that_the_exchange_published(tmp_path: Path) -> None:
    tally = await imported(tmp_path / "data", plan(TRADES))
    with duckdb.connect() as db:
        rows = db.execute(
            "SELECT symbol, CAST(epoch(timestamp) AS BIGINT), open, high, low, close, volume "
            f"FROM read_csv('{CANDLES}') WHERE symbol IN (SELECT symbol FROM read_csv('{TRADES}')) ORDER BY 1, 2"
        ).fetchall()
        ((sent,),) = db.execute(f"SELECT count(*) FROM read_csv('{TRADES}')").fetchall()
    assert (tally.rows, tally.accepted, tally.rejected) == (sent, sent, 0)
    agreed = 0
    async with running(tmp_path / "data") as stack:
        ours = {
            (symbol, bar[0]): bar[1:6] for symbol in {row[0] for row in rows} for bar in await read(stack, symbol, "1")
        }
    for symbol, at, *published in rows:
        if (bar := ours.get((symbol, at))) is not None and bar == pytest.approx(tuple(published), rel=1e-12):
            agreed += 1
    assert agreed >= 450  # of the others the recording of trades holds a part only, as the strict gate has it


@pytest.mark.parametrize("ids", [True, False])
async def test_every_kind_of_file_gives_the_same_bars_and_again_changes_nothing(tmp_path: Path, ids: bool) -> None:
    rows = trades(500, ids=ids)
    files = [
        csv(tmp_path / "a.csv", rows),
        csv(tmp_path / "b.csv.gz", rows),
        csv(tmp_path / "c.csv.zst", rows),
        parquet(tmp_path / "d.parquet", rows),
        ndjson(tmp_path / "e.ndjson", rows),
        ndjson(tmp_path / "f.jsonl.gz", rows),
    ]
    for n, file in enumerate(files):
        tally = await imported(tmp_path / "data", plan(file, market=f"M{n}"))
        assert (tally.accepted, tally.rejected, tally.duplicates) == (500, 0, 0), file
        (tmp_path / "data" / "imports").rename(tmp_path / f"imports{n}")  # as if no earlier run were known of
        again = await imported(tmp_path / "data", plan(file, market=f"M{n}"))
        assert (again.accepted, again.duplicates) == (0, 500), file
    async with running(tmp_path / "data") as stack:
        bars = [await read(stack, f"M{n}", "1") for n in range(len(files))]
        assert len(bars[0]) == 121  # the hour began 20 s into a minute
        assert all(some == bars[0] for some in bars[1:])


async def test_rows_that_were_taken_are_passed_over_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "ROWS", 50)
    monkeypatch.setattr(importing, "FLYING", 1)
    file = csv(tmp_path / "a.csv", trades(1000, ids=True))
    submit, asked = importing.Direct.submit, 0

    async def failing(self: importing.Direct, body: bytes, what: What) -> bytes:
        nonlocal asked
        asked += 1
        if asked > 6:
            raise Unavailable("the plug was pulled")
        return await submit(self, body, what)

    with monkeypatch.context() as patch:
        patch.setattr(importing.Direct, "submit", failing)
        with pytest.raises(ExceptionGroup):
            await imported(tmp_path / "data", plan(file, market="M"))
    told = Told()
    tally = await imported(tmp_path / "data", plan(file, market="M"), told)
    ((_, total, done),) = told.begun
    assert (total, done) == (1000, 300)
    assert (tally.rows, tally.accepted, tally.duplicates) == (700, 700, 0)


async def test_killed_it_goes_on_and_nothing_is_missing_or_twice(tmp_path: Path) -> None:
    rows = trades(400_000, ids=False)
    file = parquet(tmp_path / "a.parquet", rows)
    data = tmp_path / "data"
    process = await trio.lowlevel.open_process(
        [BIN / "candled", "import", file, "--market", "M", "--create", "spot", "--data", data],
        env=environment(tmp_path),
        stderr=subprocess.DEVNULL,
    )
    progress = data / "imports"
    with trio.fail_after(60):
        while not list(progress.glob("*.json")):  # noqa: ASYNC110 - another process makes it
            await trio.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    assert await process.wait() == -signal.SIGKILL
    told = Told()
    tally = await imported(data, plan(file, market="M"), told)
    ((_, _, done),) = told.begun
    assert 0 < done < 400_000
    assert tally.rows == 400_000 - done
    async with running(data) as stack:
        assert sum(bar[6] for bar in await read(stack, "M", "60")) == 400_000


async def test_beside_a_running_daemon_it_goes_through_it(tmp_path: Path) -> None:
    home, data = tmp_path, tmp_path / "data"
    file = csv(tmp_path / "a.csv", trades(500, ids=True))
    async with daemon("serve", "--data", str(data), home=home) as running_:
        done = await trio.to_thread.run_sync(
            lambda: candled(data, str(file), "--market", "M", "--create", "spot", "--json")
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["accepted"] == 500
        url = f"http://127.0.0.1:{running_.port}/api/tradingview/history?symbol=M&resolution=60&from=0&to=1800000000"
        bars = json.loads(await trio.to_thread.run_sync(lambda: urllib.request.urlopen(url).read()))
        assert sum(bars["v"]) == pytest.approx(sum(float(str(row["qty"])) for row in trades(500, ids=True)))
        assert (data / "address").stat().st_mode & 0o777 == 0o600
        # The key it came with is nowhere else.
        listed = await trio.run_process(
            [BIN / "candled", "token", "list", "--json", "--data", str(data)], capture_stdout=True
        )
        assert json.loads(listed.stdout) == []
    assert (data / "address").read_text().split() == []


def test_a_dry_run_shows_how_it_would_be_read_and_leaves_nothing(tmp_path: Path) -> None:
    file = csv(tmp_path / "a.csv", trades(5, ids=True))
    done = candled(tmp_path / "data", str(file), "--market", "M", "--dry-run")
    assert done.returncode == 0
    assert "timestamp      from ts_ms (ms since 1970)" in done.stderr
    assert "price 100.0" in done.stderr
    assert not (tmp_path / "data").exists()


async def test_refused_rows_are_counted_and_named_by_their_line(tmp_path: Path) -> None:
    rows = trades(10, ids=True)
    rows[3]["price"] = "minus one"
    rows[7]["ts_ms"] = ""
    done = await trio.to_thread.run_sync(
        lambda: candled(tmp_path / "data", str(csv(tmp_path / "a.csv", rows)), "--market", "M", "--create", "spot")
    )
    assert done.returncode == 1
    assert "a.csv: line 5: price: expected a number" in done.stderr
    assert "a.csv: line 9: timestamp (ts_ms): expected milliseconds" in done.stderr
    assert "8 events taken" in done.stderr
    assert "2 refused" in done.stderr


async def letters(data: Path) -> list[tuple[str, str]]:
    """The dead letters, oldest first: where each event is from, and what is wrong with it."""
    async with running(data) as stack:
        found = await stack.door.run(rejects.listed, stack.rejects)
    return [(json.loads(letter.event).get("origin"), letter.error) for letter in reversed(found)]


async def test_a_bad_row_of_a_csv_file_is_refused_by_itself(tmp_path: Path) -> None:
    """Whatever is wrong with it: it is named with its line, column and value, is kept as a dead letter."""
    good = [f"{1_700_000_000_000 + i * 1000},5,{i}" for i in range(40)]
    bad = {
        7: ("yesterday,5,900", 'timestamp: expected ms since 1970 in ts_ms, as in the first rows, got "yesterday"'),
        11: ("1700000000000,5", 'event: expected 3 fields, got 2: "1700000000000,5"'),
        12: ("1700000000000,5,901,extra", 'event: expected 3 fields, got 4: "1700000000000,5,901,extra"'),
        17: ("1700000000,5,902", 'got "1700000000"'),
        18: ("1700000000000000,5,903", 'got "1700000000000000", which looks like us'),
        21: ("1700000000000,-5,904", "price: expected a number ≥ 0, got "),
        25: ("1700000000000,\xff,905", "event: not UTF-8"),
        30: ('1700000000000,"5,906', "event: a quote is opened and not closed"),
    }
    lines = ["ts_ms,price,trade_id", *good]
    for number, (line, _) in bad.items():
        lines.insert(number - 1, line)
    file = tmp_path / "a.csv"
    file.write_bytes("\n".join(lines).encode("latin-1") + b"\n")
    tally = await imported(tmp_path / "data", plan(file, market="M"))
    assert (tally.rows, tally.accepted, tally.rejected) == (48, 40, 8)
    for (number, (_, reason)), said in zip(bad.items(), tally.errors, strict=False):
        assert said.startswith(f"a.csv: line {number}: ")
        assert reason.removeprefix("timestamp: ") in said
    kept = await letters(tmp_path / "data")
    assert [origin for origin, _ in kept] == [f"a.csv line {number}" for number in bad]
    assert all(reason in error for (_, reason), (_, error) in zip(bad.values(), kept, strict=True))
    async with running(tmp_path / "data") as stack:
        assert stack.intake.statistics().rejected_by == {}
        assert sum(bar[6] for bar in await read(stack, "M", "1")) == 40


async def test_a_bad_line_of_a_json_file_is_refused_by_itself_and_named_by_its_line(tmp_path: Path) -> None:
    lines = [json.dumps(row) for row in trades(6, ids=True)]
    lines.insert(2, '{"ts_ms": 1700000000000, "price": ')
    lines.insert(4, "[1, 2]")
    lines.insert(5, "")
    lines.insert(6, json.dumps({"ts_ms": "soon", "price": 1, "trade_id": 99}))
    file = tmp_path / "a.ndjson"
    file.write_text("\n".join(lines))
    tally = await imported(tmp_path / "data", plan(file, market="M"))
    assert (tally.accepted, tally.rejected) == (6, 3)
    third, fifth, seventh = tally.errors
    assert third.startswith("a.ndjson: line 3: event: not JSON: truncated")
    assert fifth.startswith("a.ndjson: line 5: event: expected `object`, got `array`")
    assert seventh.startswith("a.ndjson: line 7: timestamp")
    assert [origin for origin, _ in await letters(tmp_path / "data")] == [f"a.ndjson line {n}" for n in (3, 5, 7)]


@pytest.mark.parametrize(("make", "where"), [(csv, "line 4"), (parquet, "row 3")])
async def test_a_time_in_another_unit_than_the_first_is_refused(
    tmp_path: Path, make: Callable[[Path, list[dict[str, object]]], Path], where: str
) -> None:
    rows = [{**row, "ts_ms": int(str(row["ts_ms"])) // 1000} for row in trades(6, ids=True)]
    rows[2]["ts_ms"] = 1_700_000_000_000_000_000
    file = make(tmp_path / f"a.{make.__name__}", rows)
    with importing.sources(plan(file, market="M")) as (source,):
        assert any("timestamp" in line and "(s since 1970)" in line for line in source.lines(""))
    tally = await imported(tmp_path / "data", plan(file, market="M"))
    assert (tally.accepted, tally.rejected) == (5, 1)
    assert f"{where}: timestamp: expected s since 1970 in ts_ms, as in the first rows, got " in tally.errors[0]
    assert "1700000000000000000" in tally.errors[0]
    assert "which looks like ns" in tally.errors[0]


async def test_a_value_that_an_expression_cannot_be_worked_out_of_is_refused(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"time": 1_700_000_000_000 + i, "bid": i, "ask": i + 2, "trade_id": i} for i in range(1, 20)
    ]
    rows[4]["bid"] = "n/a"
    file = csv(tmp_path / "a.csv", rows)
    wanted = structs.replace(plan(file, market="M", where="bid > 2"), given=(("(bid + ask) / 2", "price"),))
    tally = await imported(tmp_path / "data", wanted)
    assert (tally.accepted, tally.rejected) == (16, 1)
    assert 'line 6: event: bid: expected a whole number, as in the first rows, got "n/a"' in tally.errors[0]


async def test_rows_without_ids_are_known_again_packed_otherwise_and_with_others_behind_them(tmp_path: Path) -> None:
    """Also those that say the same: as many of them count as a file has."""
    rows = trades(60, ids=False)
    rows[30:33] = [rows[30]] * 3
    data = tmp_path / "data"
    assert (await imported(data, plan(csv(tmp_path / "a.csv", rows), market="M"))).accepted == 60
    packed = await imported(data, plan(csv(tmp_path / "b.csv.gz", rows), market="M"))
    assert (packed.accepted, packed.duplicates, packed.corrected) == (0, 60, 0)
    later = [{**row, "ts_ms": int(str(row["ts_ms"])) + 7_200_000} for row in trades(10, ids=False)]
    longer = await imported(data, plan(csv(tmp_path / "a.csv", [*rows, rows[30], *later]), market="M"))
    assert (longer.accepted, longer.duplicates, longer.corrected) == (11, 60, 0)
    cut = await imported(data, plan(csv(tmp_path / "c.csv", rows[20:40]), market="M"))
    assert (cut.accepted, cut.duplicates) == (0, 20)
    other = await imported(data, plan(csv(tmp_path / "d.csv", rows), market="N"))
    assert other.accepted == 60, "another market's"
    async with running(data) as stack:
        assert sum(bar[6] for bar in await read(stack, "M", "1")) == 71


async def test_rows_of_one_instant_without_ids_keep_their_order_when_all_is_sent_again(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"timestamp": "2023-11-15T12:00:00Z", "price": 100 + n * 7 % 31} for n in range(31)
    ]
    for name, some in (("part", rows[:20]), ("whole", rows)):
        await imported(tmp_path / "data", plan(csv(tmp_path / f"{name}.csv", some), market="M"))
    async with running(tmp_path / "data") as stack:
        ((_, first, _, _, last, _, count),) = await read(stack, "M", "1S")
    assert (first, last, count) == (rows[0]["price"], rows[-1]["price"], 31)


async def test_a_run_that_goes_on_calls_rows_what_the_one_before_would_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "ROWS", 7)
    monkeypatch.setattr(importing, "FLYING", 1)
    rows = [dict(row) for row in trades(10, ids=False) for _ in range(5)]
    submit, asked = importing.Direct.submit, 0

    async def failing(self: importing.Direct, body: bytes, what: What) -> bytes:
        nonlocal asked
        asked += 1
        if asked > 3:
            raise Unavailable("the plug was pulled")
        return await submit(self, body, what)

    file = csv(tmp_path / "a.csv", rows)
    with monkeypatch.context() as patch:
        patch.setattr(importing.Direct, "submit", failing)
        with pytest.raises(ExceptionGroup):
            await imported(tmp_path / "data", plan(file, market="M"))
    tally = await imported(tmp_path / "data", plan(file, market="M"))
    assert (tally.rows, tally.accepted, tally.duplicates) == (29, 29, 0)
    (tmp_path / "data" / "imports").rename(tmp_path / "imports")
    again = await imported(tmp_path / "data", plan(file, market="M"))
    assert (again.accepted, again.duplicates, again.corrected) == (0, 50, 0)


async def test_rows_of_which_some_have_ids_are_all_known_again(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {
            "timestamp": f"2023-11-15T12:00:0{n // 5}Z",
            "price": 100 + n,
            "trade_id": n if n % 3 == 0 else "",
            "transaction_hash": "0x" + "ab" * 32 if n % 3 == 1 else "",
        }
        for n in range(30)
    ]
    data = tmp_path / "data"
    assert (await imported(data, plan(csv(tmp_path / "a.csv", rows), market="M"))).accepted == 30
    again = await imported(data, plan(csv(tmp_path / "a.csv.gz", rows), market="M"))
    assert (again.accepted, again.duplicates, again.corrected) == (0, 30, 0)


async def test_a_file_without_ids_is_announced_as_one(tmp_path: Path) -> None:
    for ids in (True, False):
        with importing.sources(plan(csv(tmp_path / "a.csv", trades(5, ids=ids)), market="M")) as (source,):
            assert any("would count again" in line for line in source.lines("")) != ids


async def test_a_market_that_is_not_there_ends_it_at_once(tmp_path: Path) -> None:
    file = csv(tmp_path / "a.csv", trades(10, ids=True))
    with pytest.raises(ExceptionGroup) as raised:
        await imported(tmp_path / "data", plan(file, market="GLOD", create=None))
    assert raised.group_contains(BadRequest, match="no market named 'GLOD'; so it is with every row", depth=None)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.xlsx", b"x", "expected a file named .csv, .parquet, .ndjson, .jsonl or .arrow"),
        ("a.parquet", b"not parquet", "a.parquet: "),
        ("a.csv.gz", b"not gzip", "a.csv.gz: "),
        ("missing.csv", None, "missing.csv: no such file"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    done = candled(tmp_path / "data", str(tmp_path / name), "--market", "M")
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


async def test_texts_of_names_stay_what_they_are(tmp_path: Path) -> None:
    names = ["007", "7", "2024-01-01", "1e3", "123e4567-e89b-12d3-a456-426614174000"]
    for n, listed in enumerate((names, names[:2], names[2:3], names[3:4], names[4:])):
        rows: list[dict[str, object]] = [
            {"timestamp": f"2023-11-15T12:00:0{i}Z", "price": 5, "trade_id": name} for i, name in enumerate(listed)
        ]
        for file in (csv(tmp_path / f"{n}.csv", rows), ndjson(tmp_path / f"{n}.ndjson", rows)):
            with importing.sources(plan(file, market="M")) as ((read_, choices, _),):
                found = [row["trade_id"] for batch in read_.read(choices, "", 0, 10) for row in batch.to_pylist()]
            assert found == listed, file


async def test_rows_of_one_instant_count_in_their_order_however_slow_a_request_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "ROWS", 3)
    submit, waiting = importing.Direct.submit, [0.02, 0.0]

    async def slow(self: importing.Direct, body: bytes, what: What) -> bytes:
        await trio.sleep(waiting.pop() if waiting else 0.0)
        waiting.append(0.0 if waiting else 0.02)
        return await submit(self, body, what)

    monkeypatch.setattr(importing.Direct, "submit", slow)
    rows: list[dict[str, object]] = [{"timestamp": "2023-11-15T12:00:00Z", "price": 100 + n} for n in range(30)]
    # With an id for one of them, nothing but their order tells the others apart.
    rows.append({"timestamp": "2023-11-15T12:00:01Z", "price": 50, "trade_id": "x"})
    rows[0]["trade_id"] = None
    await imported(tmp_path / "data", plan(csv_of(tmp_path / "a.csv", rows), market="M"))
    async with running(tmp_path / "data") as stack:
        ((_, first, *_, last, _, count), _) = await read(stack, "M", "1S")
    assert (first, last, count) == (100, 129, 30)


def csv_of(path: Path, rows: list[dict[str, object]]) -> Path:
    """As `csv`, of rows that do not all have all columns."""
    names = dict.fromkeys(name for row in rows for name in row)
    return csv(path, [{name: "" if row.get(name) is None else row[name] for name in names} for row in rows])


async def test_a_column_of_ids_that_says_nothing_is_none(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"timestamp": f"2023-11-15T12:00:0{n}Z", "price": 5, "trade_id": "", "transaction_hash": ""} for n in range(5)
    ]
    file = csv(tmp_path / "a.csv", rows)
    assert (await imported(tmp_path / "data", plan(file, market="M"))).accepted == 5
    (tmp_path / "data" / "imports").rename(tmp_path / "imports")
    assert (await imported(tmp_path / "data", plan(file, market="M"))).duplicates == 5


@pytest.mark.parametrize("make", [pa.ipc.new_stream, pa.ipc.new_file])
async def test_arrow_is_read_as_a_stream_and_as_a_file(tmp_path: Path, make: Callable[..., Any]) -> None:
    table = pa.Table.from_pylist(trades(500, ids=True))
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, make(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=70)
    tally = await imported(tmp_path / "data", plan(tmp_path / "a.arrow", market="M"))
    assert (tally.accepted, tally.rejected) == (500, 0)
    async with running(tmp_path / "data") as stack:
        assert sum(bar[6] for bar in await read(stack, "M", "1")) == 500


async def test_an_arrow_file_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.arrow").write_bytes(b"not arrow at all")
    with pytest.raises(BadRequest, match=r"a\.arrow: "):
        await imported(tmp_path / "data", plan(tmp_path / "a.arrow", market="M"))


async def test_volume_and_size_are_both_read_from_columns_of_these_names(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"time": 1_700_000_000, "price": 5, "size": "", "volume": 3}]
    with importing.sources(plan(csv(tmp_path / "a.csv", rows), market="M")) as ((_, choices, _),):
        assert {"size", "volume"} <= {choice.field for choice in choices}
    # Another's volume may be the size, or count another currency.
    for names in (("volume",), ("qty", "volume")):
        named: dict[str, object] = dict.fromkeys(names, 3)
        with importing.sources(plan(csv(tmp_path / "b.csv", [{"time": 1, "price": 5, **named}]), market="M")) as some:
            ((_, choices, _),) = some
            assert [(each.field, each.origin) for each in choices if each.field in ("size", "volume")] == [
                ("size", names[0])
            ]
