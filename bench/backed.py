"""Tick to client while backups are made, one after the other, each of everything into a folder of its own.

    python -m bench.backed [--quick]

The load is that of `bench.latency`; before it, the daemon is given some million events, which are sealed.
"""

import json
import shutil
import threading
import time
from pathlib import Path

import trio
from msgspec import Struct

from bench import harness, latency
from bench.harness import BenchError, Connection, Figure, Options, Reference, Server, percentile
from bench.latency import P99_MS
from bench.trades import NDJSON

EVENTS, QUICK_EVENTS = 2_000_000, 100_000
BATCH = 50_000
ADMIN = "/api/admin/backup"


class Told(Struct):
    """What is read of an answer about a backup."""

    state: str
    seconds: float = 0.0
    copied_bytes: int = 0
    error: str | None = None


async def fill(server: Server, count: int) -> None:
    """Give it events of the past."""
    connection = Connection(server.port, server.token())
    start = 1_700_000_000_000
    for first in range(0, count, BATCH):
        body = b"\n".join(
            b'{"market_symbol":"OLD%03d","timestamp":%d,"price":%d,"size":1}' % (n % 100, start + n * 50, 100 + n % 17)
            for n in range(first, first + BATCH)
        )
        status, answer = await connection.post("/api/ingest/events?create=spot", NDJSON, body)
        if status != 200:
            raise BenchError(f"events were answered with {status}: {answer[:300]!r}")
    await connection.close()


class Backups:
    """Makes one after the other on a thread, until told to stop."""

    def __init__(self, server: Server, folder: Path) -> None:
        self._server, self._folder = server, folder
        self._token = server.token()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.made: list[Told] = []
        self.problem = ""

    def __enter__(self) -> "Backups":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            target = self._folder / f"backup{len(self.made)}"
            trio.run(self._one, target)
            shutil.rmtree(target, ignore_errors=True)

    async def _one(self, target: Path) -> None:
        connection = Connection(self._server.port, self._token)
        body = json.dumps({"directory": str(target)}).encode()
        status, answer = await connection.post(ADMIN, "application/json", body)
        told = Told("waiting")
        while status in (200, 202) and told.state in ("waiting", "running"):
            await trio.sleep(0.1)
            status, answer = await connection.get(ADMIN)
            told = Told(**{name: value for name, value in json.loads(answer).items() if name in Told.__struct_fields__})
        await connection.close()
        if told.state != "done":
            self.problem = f"a backup was answered with {status}: {answer[:200]!r}"
            self._stop.set()
        self.made.append(told)


def figures(options: Options) -> list[Figure]:
    """p99, beside that of the same load without backups."""
    seconds = options.seconds(latency.SECONDS, latency.QUICK_SECONDS)
    with harness.data_folder(options) as folder, harness.serving(folder / "data", seal_seconds="3") as server:
        trio.run(fill, server, int(options.count(EVENTS, QUICK_EVENTS)))
        server.settle()
        time.sleep(6)  # sealed
        alone, _, _, _ = trio.run(latency.measure, server, seconds)
        with Backups(server, folder) as backups:
            board, used, _, _ = trio.run(latency.measure, server, seconds)
    if not board.seen or not alone.seen:
        raise BenchError("no event was seen by the client")
    seen, before = ([took * 1e3 for took in some] for some in (board.seen, alone.seen))
    done = [told for told in backups.made if told.state == "done"]
    notes = {
        "backups": f"{len(done)}, each {max((told.copied_bytes for told in done), default=0) / 2**20:.0f} MiB",
        "the longest took": f"{max((told.seconds for told in done), default=0):.1f} s",
        "p50": f"{percentile(seen, 50):.2f} ms, without backups {percentile(before, 50):.2f} ms",
        **used.notes(),
    }
    return [
        Figure(
            what="tick to client while backups are made, p99",
            value=percentile(seen, 99),
            unit="ms",
            target=P99_MS,
            lower=True,
            references=[Reference("without backups", percentile(before, 99), 0.0)],
            notes=notes,
            problem=backups.problem or ("" if done else "no backup was made"),
            others=used.others,
        )
    ]


def main() -> None:
    """Print this figure."""
    parser = harness.parser(__doc__)
    arguments = parser.parse_args()
    options = harness.options(parser, arguments)
    harness.report(figures(options), options, to=arguments.json)


if __name__ == "__main__":
    main()
