"""`candled export`, into files and through a daemon, and what an import makes of them again."""

import io
import json
import os
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import trio

from daemon import exporting
from storage.errors import BadRequest
from tests.daemon.test_importing import TRADES, imported, plan
from tests.daemons import BIN, Daemon, environment
from tests.daemons import running as daemon
from tests.histories import read
from tests.stacks import running

RESOLUTIONS = ("1S", "1", "5", "15", "60", "240", "1D", "1W", "1M")
FORMATS = ("csv", "parquet", "arrow", "ndjson")


def export(data: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [BIN / "candled", "export", *arguments, "--data", str(data)],
        capture_output=True,
        env=environment(data.parent, **more),
        timeout=120,
    )


async def run(work: Callable[[], subprocess.CompletedProcess[bytes]]) -> bytes:
    """Its standard output, where it was done."""
    done = await trio.to_thread.run_sync(work)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@pytest.mark.parametrize("kind", FORMATS)
async def test_recorded_trades_exported_and_imported_again_make_the_same_bars(tmp_path: Path, kind: str) -> None:
    data, again = tmp_path / "data", tmp_path / "again"
    tally = await imported(data, plan(TRADES))
    symbols = ["BTCTUSD", "EOSBTC", "ETHEURS"]
    async with running(data) as stack:
        bars = {(name, each): await read(stack, name, each) for name in symbols for each in RESOLUTIONS}
    count = 0
    for symbol in symbols:
        file = tmp_path / f"{symbol}.{kind}"
        await run(partial(export, data, "--market", symbol, "--events", "-o", str(file)))
        count += (await imported(again, plan(file))).accepted
        # Where they came from, they are all known, word for word.
        known = await imported(data, plan(file))
        assert (known.duplicates, known.corrected, known.accepted) == (known.rows, 0, 0)
    assert 0 < count < tally.rows
    async with running(again) as stack:
        assert {(name, each): await read(stack, name, each) for name in symbols for each in RESOLUTIONS} == bars
    assert not [name for name in names_in(tmp_path) if name.startswith(".")]  # nothing half done beside the files


def trade(number: int) -> dict[str, object]:
    at = 1_700_000_000_000 + 500 * number
    return {"market_symbol": "M", "timestamp": at, "price": 100 + number % 7, "size": "0.1", "trade_id": number}


async def post(running_: Daemon, key: str, events: list[dict[str, object]]) -> None:
    """Have a daemon take events."""
    stream = await trio.open_tcp_stream("127.0.0.1", running_.port)
    async with stream:
        body = msgspec.json.encode(events)
        head = f"POST /api/ingest/events HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {key}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        await stream.send_all(head.encode() + body)
        answer = b"".join([piece async for piece in stream])
    assert answer.startswith(b"HTTP/1.1 200"), answer


async def test_beside_a_running_daemon_under_load_everything_acknowledged_is_in(tmp_path: Path) -> None:
    home, data = tmp_path, tmp_path / "data"
    said = 0
    async with daemon("serve", "--data", str(data), home=home, variables={"CANDLED_CREATE_MARKETS": "spot"}) as serving:
        made = [str(BIN / "candled"), "token", "create", "--scope", "ingest", "--data", str(data)]
        key = (await trio.run_process(made, capture_stdout=True, capture_stderr=True)).stdout.decode().strip()
        await post(serving, key, [trade(number) for number in range(5000)])
        said = 5000

        async def load() -> None:
            nonlocal said
            while True:
                await post(serving, key, [trade(number) for number in range(said, said + 500)])
                said += 500

        async with trio.open_nursery() as nursery:
            nursery.start_soon(load)
            for kind in FORMATS[:2]:
                before = said
                found = await run(partial(export, data, "--market", "M", "--events", "--format", kind))
                ids = [int(row["trade_id"]) for row in rows(kind, found)]
                assert ids == list(range(len(ids)))
                assert len(ids) >= before
            for kind in FORMATS[2:]:
                before = said
                found = await run(partial(export, data, "--market", "M", "--resolution", "1m", "--format", kind))
                bars = rows(kind, found)
                assert sum(row["trades_count"] for row in bars) >= before
                assert [row["trades_count"] for row in bars[1:-1]] == [120] * (len(bars) - 2)
            assert said > 5000  # there was a load
            nursery.cancel_scope.cancel()
        # They came with no key of the list.
        listed = await trio.run_process(
            [BIN / "candled", "token", "list", "--json", "--data", str(data)], capture_stdout=True
        )
        assert [bool(each["revoked"]) for each in json.loads(listed.stdout)] == [False]


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def rows(kind: str, data: bytes) -> list[dict[str, Any]]:
    if kind == "ndjson":
        return [json.loads(line) for line in data.splitlines()]
    if kind == "csv":
        return list(pyarrow.csv.read_csv(io.BytesIO(data)).to_pylist())
    found = pa.ipc.open_stream(data).read_all() if kind == "arrow" else pq.read_table(io.BytesIO(data))
    return list(found.to_pylist())


async def test_a_daemon_that_ends_leaves_no_file_that_looks_whole(tmp_path: Path) -> None:
    data, to = tmp_path / "data", tmp_path / "out.csv"
    async with trio.open_nursery() as nursery:
        listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]

        async def answer() -> None:
            stream = await listener.accept()
            await stream.receive_some()
            await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ntime\r\n")
            await stream.aclose()

        nursery.start_soon(answer)
        url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        done = await trio.to_thread.run_sync(
            lambda: export(data, "--market", "M", "--resolution", "1m", "--url", url, "--key", "k", "-o", str(to))
        )
    await listener.aclose()
    assert done.returncode == 1
    assert b"nothing whole came of this" in done.stderr
    assert names_in(tmp_path) == []


async def test_whoever_reads_it_may_have_enough(tmp_path: Path) -> None:
    data = tmp_path / "data"
    await imported(data, plan(TRADES))
    command = f"set -o pipefail; '{BIN}/candled' export --market EOSBTC --events --data '{data}' | head -1"
    done = await trio.run_process(
        ["bash", "-c", command], capture_stdout=True, capture_stderr=True, env=environment(tmp_path)
    )
    assert done.stdout.startswith(b"market_symbol,timestamp,")
    assert b"Traceback" not in done.stderr


def test_what_is_wrong_is_said_before_anything_is_written(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for arguments, status, said in (
        (("--market", "M", "--resolution", "1x"), 2, "unknown timeframe '1x'"),
        (("--market", "M", "--resolution", "1m", "--from", "noon"), 2, "--from: expected ISO 8601"),
        (("--market", "M"), 2, "one of the arguments --resolution --events is required"),
        (("--market", "M", "--events"), 1, "no data directory"),
        (("--market", "M", "--events", "--url", "http://localhost:1"), 2, "--url needs a key"),
    ):
        done = export(data, *arguments, "-o", str(tmp_path / "out.csv"))
        assert (done.returncode, said in done.stderr.decode()) == (status, True), done.stderr
    assert names_in(tmp_path) == []


def test_the_format_is_what_was_asked_for_or_what_the_file_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {
        None: "csv",
        "a.csv": "csv",
        "a.parquet": "parquet",
        "a.arrow": "arrow",
        "a.jsonl": "ndjson",
        "a.txt": "csv",
    }
    for name, kind in names.items():
        assert exporting.format_of(None, Path(name) if name else None) == kind
    assert exporting.format_of("arrow", Path("a.csv")) == "arrow"
    primary, secondary = os.openpty()
    with os.fdopen(primary), os.fdopen(secondary, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr("sys.stdout", terminal)
        with pytest.raises(BadRequest, match="parquet is nothing for a terminal"):
            exporting.format_of("parquet", None)
        assert exporting.format_of("parquet", Path("a")) == "parquet"
        assert exporting.format_of("csv", None) == "csv"
