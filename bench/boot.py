"""From `kill -9` under load to ready, and to the first right history, with ten thousand active markets.

    python -m bench.boot [--quick] [--markets 10000]

Every market gets a trade each second for a minute, and then one with each post, as fast as the daemon takes them, until
it is killed amid a post. What was acknowledged must all be there: all bars of some markets are looked at.
"""

import argparse
import threading
import time
from contextlib import suppress

import msgspec
import trio

from bench import harness
from bench.harness import BenchError, Connection, Figure, Noise, Options, Server, cpu

MARKETS, QUICK_MARKETS = 10_000, 1_000
SECONDS = 60  # of trades that fill the rings
LOAD_SECONDS = 5.0
READ = 20  # markets that are looked at
STARTS = 3
BOOT_SECONDS = 5.0
LINES = "application/x-ndjson"
HISTORY = "/api/tradingview/history?symbol={}&resolution=1D&from=0&to=253402300000"


class Load:
    """Trades of size 1 of all markets."""

    def __init__(self, markets: int) -> None:
        self.symbols = [f"BOOT{number:05d}" for number in range(markets)]
        self.acknowledged = 0  # trades of each market
        self.sent = 0  # in the post that is on its way, or was when the process was killed
        self._number = 0

    async def post(self, connection: Connection, second: int, query: str = "") -> None:
        """One trade of every market."""
        self._number += 1
        trades = [
            {"market_symbol": symbol, "timestamp": second * 1000, "price": 100 + self._number % 7, "size": 1}
            for symbol in self.symbols
        ]
        self.sent = 1
        body = b"\n".join(map(msgspec.json.encode, trades))
        status, answer = await connection.post(f"/api/ingest/events{query}", LINES, body)
        if status != 200 or msgspec.json.decode(answer)["accepted"] != len(trades):
            raise BenchError(f"events were answered with {status}: {answer[:300]!r}")
        self.acknowledged += 1
        self.sent = 0

    async def until_killed(self, server: Server) -> None:
        """Fill the rings, go on, and have it killed amid a post."""
        connection = Connection(server.port, server.token())
        start = int(time.time()) - SECONDS
        for second in range(SECONDS if not self.acknowledged else 1):
            await self.post(connection, start + second, "?create=spot")
        until = time.perf_counter() + LOAD_SECONDS
        while time.perf_counter() < until:
            await self.post(connection, int(time.time()))
        killer = threading.Timer(0.03, server.kill)
        killer.start()
        with suppress(BenchError, OSError, trio.BrokenResourceError):
            while True:
                await self.post(connection, int(time.time()))
        killer.join()

    async def read(self, server: Server) -> None:
        """See that what was acknowledged is there, and what was on its way in all markets or in none."""
        connection = Connection(server.port)
        step = max(1, len(self.symbols) // READ)
        found: set[float] = set()
        for symbol in self.symbols[::step]:
            status, body = await connection.get(HISTORY.format(symbol))
            if status != 200:
                raise BenchError(f"history of {symbol}: {status} {body[:200]!r}")
            found.add(sum(msgspec.json.decode(body)["v"]))
        if len(found) != 1 or not found <= {self.acknowledged, self.acknowledged + self.sent}:
            raise BenchError(f"{self.acknowledged} trades of each market were acknowledged; found {found}")
        self.acknowledged = int(found.pop())
        await connection.close()


def opened(server: Server) -> str:
    """The line of its log that says what was recovered."""
    return next(line for line in reversed(server.log().splitlines()) if '"opened"' in line)


def figures(options: Options, markets: int = MARKETS) -> list[Figure]:
    """The slowest of some starts."""
    noise = Noise()
    ready: list[float] = []
    right: list[float] = []
    used: list[float] = []
    recovered: list[str] = []
    with harness.data_folder(options) as folder:
        load = Load(markets)
        for _ in range(int(options.count(STARTS, 1))):
            server = Server(folder / "data")
            trio.run(load.until_killed, server)
            server = Server(folder / "data")
            ready.append(server.start_seconds)
            began = time.perf_counter()
            trio.run(load.read, server)
            right.append(server.start_seconds + time.perf_counter() - began)
            used.append(cpu(server.pid))
            recovered.append(f"{msgspec.json.decode(opened(server))['recovered']:,}")
            server.stop()
    notes = {
        "trades acknowledged": f"{load.acknowledged * markets:,}",
        "ready": ", ".join(f"{one:.2f} s" for one in ready),
        "processor until then": ", ".join(f"{one:.2f} s" for one in used),
        "events recovered": ", ".join(recovered),
    }
    return [
        Figure(
            what=f"kill -9 under load to the first right history, {markets:,} active markets",
            value=max(right),
            unit="s",
            target=BOOT_SECONDS,
            lower=True,
            references=[],
            notes=notes,
            problem="",
            others=noise.others(),
        )
    ]


def main() -> None:
    """Print this figure."""
    parser = harness.parser(__doc__)
    parser.add_argument("--markets", type=int, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    options = harness.options(parser, arguments)
    markets = arguments.markets or options.count(MARKETS, QUICK_MARKETS)
    harness.report(figures(options, markets), options, to=arguments.json)


if __name__ == "__main__":
    main()
