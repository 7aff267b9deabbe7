"""Kill the daemon under load, start it again, and see that what was acknowledged is there, once.

Some lanes send batches, each waiting for its answer before the next. A batch has new trades, corrections and
retractions, in a market of its lane and in one that all share. When the process is killed, every lane may have one
batch on its way: it must be there whole, in both markets, or not at all.
"""

import csv
import gzip
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

import msgspec

from bench.victim import PARTS, SHORT, Marks

ROOT = Path(__file__).parent.parent
LANES = 4
SHARED = "ALL"
RESOLUTIONS = {"1S": 1, "1": 60, "5": 300, "1D": 86400}
BEGIN = 1_700_049_600_000  # ms
STEP = 37  # ms between two events
REAL = ROOT / "tests" / "data" / "crypto_bequant_2021_07.trades.csv.gz"
REBUILT = "acknowledged while a store was made again"
PATIENCE = 300.0  # seconds until a process that has not ended counts as one that answers no more

Bar = tuple[int, float, float, float, float, float, int]
Name = tuple[str, int]  # market, trade id


@dataclass(frozen=True)
class Trade:
    """An event as it stands."""

    at: int  # ms, no two alike
    price: float
    size: Decimal


@dataclass
class Batch:
    """What a lane sends at once."""

    key: str | None
    named: dict[Name, Trade | None] = field(default_factory=dict)  # None takes it back
    nameless: list[tuple[str, Trade]] = field(default_factory=list)

    def events(self) -> list[dict[str, object]]:
        """The words."""
        found: list[dict[str, object]] = []
        for (market, trade_id), trade in self.named.items():
            what = {"removed": True} if trade is None else _said(trade)
            found.append({"market_symbol": market, "trade_id": trade_id, **what})
        found += [{"market_symbol": market, **_said(trade)} for market, trade in self.nameless]
        return found


def _said(trade: Trade) -> dict[str, object]:
    return {"timestamp": trade.at, "price": trade.price, "size": str(trade.size)}


class Lane:
    """One producer: what it knows to be there, and what is on its way."""

    def __init__(self, number: int, chance: random.Random) -> None:
        self.market = f"LANE{number}"
        self.number = number
        self.live: dict[Name, Trade] = {}
        self.nameless: list[tuple[str, Trade]] = []
        self.sent: Batch | None = None
        self._chance = chance
        self._batches = self._named = 0

    def next_batch(self, clock: "Clock") -> Batch:
        """Something new to send."""
        chance = self._chance
        self._batches += 1
        # A batch whose events all have names may be sent again as it is; the others need a key for that.
        keyed = chance.random() < 0.5
        batch = Batch(f"{self.number}-{self._batches}" if keyed else None)
        known = list(self.live)
        for name in chance.sample(known, min(len(known), chance.randrange(4))):
            batch.named[name] = clock.trade(chance) if chance.random() < 0.7 else None
        for market in (self.market, SHARED):
            for _ in range(chance.randrange(1, 12)):
                self._named += 1
                batch.named[market, LANES * self._named + self.number] = clock.trade(chance)
            if keyed:
                batch.nameless += [(market, clock.trade(chance)) for _ in range(chance.randrange(4))]
        return batch

    def there(self, batch: Batch) -> None:
        """This batch is in."""
        for name, trade in batch.named.items():
            if trade is None:
                self.live.pop(name, None)
            else:
                self.live[name] = trade
        self.nameless += batch.nameless

    def trades(self, market: str, batch: Batch | None) -> list[Trade]:
        """What stands in a market, with this batch or without."""
        live = self.live if batch is None else {**self.live, **batch.named}
        named = [trade for (where, _), trade in live.items() if where == market and trade is not None]
        nameless = self.nameless if batch is None else [*self.nameless, *batch.nameless]
        return named + [trade for where, trade in nameless if where == market]


class Clock(Protocol):
    """Gives every event an instant of its own."""

    def trade(self, chance: random.Random) -> Trade:
        """A new one."""
        ...


class Invented:
    """Trades at random, a few of them late."""

    def __init__(self) -> None:
        self._events = 0

    def trade(self, chance: random.Random) -> Trade:
        """A new one."""
        self._events += 1
        late = chance.choice((0, 0, 0, 0, 20_000, 400_000))  # multiples of no step, so that no instant comes twice
        at = BEGIN + STEP * self._events - late // STEP * STEP - (7 if late == 20_000 else 11 if late else 0)
        return Trade(at, round(100 + chance.random() * 10, 2), Decimal(chance.randrange(1, 10)))


class Real:
    """Trades that an exchange had, in disorder, again and again, each time so much later."""

    def __init__(self) -> None:
        with gzip.open(REAL, "rt", newline="") as file:
            rows = list(csv.DictReader(file))
        times = [round(datetime.fromisoformat(row["timestamp"]).timestamp() * 1000) for row in rows]
        self._trades = [
            Trade(at, float(row["price"]), Decimal(row["quantity"])) for at, row in zip(times, rows, strict=True)
        ]
        self._again = 0
        self._every = max(times) - min(times) + 3_600_000
        self._waiting: list[Trade] = []
        self._taken: set[int] = set()

    def trade(self, chance: random.Random) -> Trade:
        """The next one, or one of the next."""
        if len(self._waiting) < 20:
            later = self._again * self._every
            self._waiting += [replace(trade, at=trade.at + later) for trade in self._trades]
            self._again += 1
        trade = self._waiting.pop(chance.choice((0, 0, 0, 0, 1, 2, 19)))
        at = trade.at
        while at in self._taken:
            at += 1
        self._taken.add(at)
        return replace(trade, at=at)


def bars(trades: Iterable[Trade], seconds: int) -> list[Bar]:
    """The candles of some trades."""
    buckets: dict[int, list[Trade]] = {}
    for trade in sorted(trades, key=lambda trade: trade.at):
        buckets.setdefault(trade.at // 1000 // seconds * seconds, []).append(trade)
    return [
        (
            t,
            some[0].price,
            max(trade.price for trade in some),
            min(trade.price for trade in some),
            some[-1].price,
            float(f"{sum(trade.size for trade in some):.15g}"),
            len(some),
        )
        for t, some in sorted(buckets.items())
    ]


class Died(Exception):
    """The process is no more, as was wanted."""


class Wrong(Exception):
    """What was acknowledged is not there, or is there twice."""


class Process:
    """One life of the daemon."""

    def __init__(self, data: Path, marks: Marks, instant: str = "") -> None:
        marks.clear()
        self.marks = marks
        self.began = time.perf_counter()
        self.errors = data.with_name("victim.log")
        with self.errors.open("ab") as errors:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "bench.victim", str(data), str(data.with_name("marks")), instant],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=ROOT,
            )
        self._asked = 0
        self._killed = False
        self._watchdog = threading.Timer(PATIENCE, self._child.kill)
        self._watchdog.start()

    def kill(self) -> None:
        """SIGKILL, now."""
        self._killed = True
        with suppress(ProcessLookupError):
            os.kill(self._child.pid, signal.SIGKILL)

    def ask(self, **asked: object) -> int:
        """Send a line; its number."""
        self._asked += 1
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(msgspec.json.encode({"n": self._asked, **asked}) + b"\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            self._gone()
        return self._asked

    def hear(self) -> dict[str, Any]:
        """The next line of the process."""
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line.endswith(b"\n"):
            self._gone()
        heard: dict[str, Any] = msgspec.json.decode(line)
        return heard

    def read(self, market: str, resolution: str) -> list[Bar]:
        """Bars; nothing else may be on its way."""
        self.ask(read=[market, resolution])
        return [(*row[:5], float(f"{row[5]:.15g}"), row[6]) for row in self.hear()["bars"]]

    def end(self) -> None:
        """Let it end by itself."""
        assert self._child.stdin is not None
        self._child.stdin.close()
        if self._child.wait() != 0:
            raise Wrong(f"ended with {self._child.returncode}: {self._last()}")
        self._watchdog.cancel()

    def gone(self) -> None:
        """Let nothing of it stay behind."""
        self._watchdog.cancel()
        if self._child.poll() is None:
            self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            assert pipe is not None
            with suppress(OSError):
                pipe.close()

    def _gone(self) -> None:
        self._child.wait()
        if not self._killed:
            raise Wrong(f"ended by itself with {self._child.returncode}: {self._last()}")
        raise Died

    def _last(self) -> str:
        return self.errors.read_text("utf-8", "replace")[-3000:]


class Killing:
    """Lives of one data directory, one after the other."""

    def __init__(self, folder: Path, seed: int, clock: Clock | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.counts: Counter[str] = Counter()
        self.slowest = 0.0  # seconds until a life that was let live had everything again
        self._data = folder / "data"
        self._marks = Marks(folder / "marks")
        self._chance = random.Random(seed)
        self._clock = clock or Invented()
        self._lanes = [Lane(number, self._chance) for number in range(LANES)]

    def kill(self, instant: str) -> None:
        """One life: start, see that all is there, go on sending, and be killed at `instant`: one of PARTS, or "any"."""
        if instant == "rebuild":
            for path in self._data.glob("candles.duckdb*"):
                path.unlink()
        process = Process(self._data, self._marks, instant)
        killer = threading.Thread(target=self._strike, args=(process, instant))
        killer.start()
        try:
            self._live(process, instant)
        except Died:
            pass
        finally:
            killer.join()
            process.gone()
        self.counts["kills"] += 1
        for part in PARTS:
            self.counts[f"in {part}"] += self._marks.inside(part)

    def end(self) -> None:
        """Two last lives that end by themselves: everything is there, also after a clean end."""
        for _ in range(2):
            process = Process(self._data, self._marks)
            try:
                process.hear()
                self._verify(process)
                self._again(process)
                self._verify(process)
                process.end()
            finally:
                process.gone()

    # --- within

    def _strike(self, process: Process, instant: str) -> None:
        chance = random.Random(self._chance.random())
        deadline = time.monotonic() + 20
        marks = self._marks
        try:
            if instant == "recovery":
                while not marks.inside("recovery") and time.monotonic() < deadline:
                    time.sleep(0.0002)
                time.sleep(chance.random() * 0.15)
                return
            if instant == "rebuild":
                enough = self.counts[REBUILT] + chance.randrange(1, 9)
                while not marks.begun("rebuild") or (marks.inside("rebuild") and self.counts[REBUILT] < enough):
                    if time.monotonic() > deadline:
                        return
                    time.sleep(0.001)
                return
            while not marks.begun("recovery") or marks.inside("recovery"):
                if time.monotonic() > deadline:
                    return
                time.sleep(0.001)
            time.sleep(chance.random() * 0.3)
            if instant in PARTS:
                wait = 0.0 if instant in SHORT else chance.random() * 0.03
                while not marks.inside(instant) and time.monotonic() < deadline:
                    time.sleep(0.0005)
                time.sleep(wait)
        finally:
            process.kill()

    def _live(self, process: Process, instant: str) -> None:
        recovered = process.hear()["recovered"]
        self.slowest = max(self.slowest, time.perf_counter() - process.began)
        self.counts["recovered batches"] += recovered["batches"]
        self.counts["torn bytes"] += recovered["torn_bytes"]
        if instant != "rebuild":  # where bars cannot be read yet
            self._verify(process)
        self._again(process)
        waiting: dict[int, Lane] = {}
        for lane in self._lanes:
            self._send(process, lane, waiting)
        while True:
            heard = process.hear()
            lane = waiting.pop(heard["n"])
            self._acknowledged(lane)
            self.counts[REBUILT] += self._marks.inside("rebuild")
            self._send(process, lane, waiting)

    def _send(self, process: Process, lane: Lane, waiting: dict[int, Lane]) -> None:
        lane.sent = lane.next_batch(self._clock)
        waiting[process.ask(events=lane.sent.events(), key=lane.sent.key)] = lane

    def _acknowledged(self, lane: Lane) -> None:
        assert lane.sent is not None
        self.counts["events acknowledged"] += len(lane.sent.named) + len(lane.sent.nameless)
        lane.there(lane.sent)
        lane.sent = None
        self.counts["acknowledged"] += 1

    def _again(self, process: Process) -> None:
        """Send what was on its way again, as producers do that got no answer."""
        for lane in self._lanes:
            if lane.sent is not None:
                process.ask(events=lane.sent.events(), key=lane.sent.key)
                process.hear()
                self._acknowledged(lane)

    def _verify(self, process: Process) -> None:
        """Every bar is what was acknowledged, with each batch that was on its way whole or not at all."""
        if not self.counts["acknowledged"]:
            return
        came: list[Batch | None] = []
        for lane in self._lanes:
            found = {resolution: process.read(lane.market, resolution) for resolution in RESOLUTIONS}
            choices = [None] if lane.sent is None else [None, lane.sent]
            fits = [batch for batch in choices if found == _all_bars(lane.trades(lane.market, batch))]
            if not fits:
                raise Wrong(_difference(lane.market, found, [_all_bars(lane.trades(lane.market, b)) for b in choices]))
            self.counts["bars compared"] += sum(map(len, found.values()))
            came.append(fits[0])
            if lane.sent is not None:
                self.counts["unanswered, there" if fits[0] else "unanswered, not there"] += 1
        found = {resolution: process.read(SHARED, resolution) for resolution in RESOLUTIONS}
        trades = [trade for lane, batch in zip(self._lanes, came, strict=True) for trade in lane.trades(SHARED, batch)]
        if found != _all_bars(trades):
            raise Wrong(_difference(SHARED, found, [_all_bars(trades)]))
        self.counts["verified"] += 1
        self.counts["bars compared"] += sum(map(len, found.values()))


def _all_bars(trades: Sequence[Trade]) -> dict[str, list[Bar]]:
    return {resolution: bars(trades, seconds) for resolution, seconds in RESOLUTIONS.items()}


def _difference(market: str, found: dict[str, list[Bar]], choices: list[dict[str, list[Bar]]]) -> str:
    lines = [f"{market}: none of {len(choices)} possible pasts"]
    for number, expected in enumerate(choices):
        for resolution, wanted in expected.items():
            odd = sorted({*wanted} ^ {*found[resolution]})
            lines.append(f"  past {number}, {resolution}: {len(odd)} bars differ: {odd[:6]}")
    return "\n".join(lines)
