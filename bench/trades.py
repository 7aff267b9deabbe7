"""The trades that ingest is measured with, as bodies whose times are set anew each time they are sent."""

import time
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa

from storage.events import Array

MARKETS = 1000
FIRST_ID = 100_000_000_000  # so that ids keep their width
SYMBOLS = tuple(f"SPOT{number:04d}" for number in range(MARKETS))
NDJSON, ARROW = "application/x-ndjson", "application/vnd.apache.arrow.stream"
TIME_DIGITS, ID_DIGITS = 13, 12

DAY = 86_400_000_000  # µs
PAST_DAYS = 400  # ago
PAST_EVENTS = 1_000_000  # in a day of the past: few enough that nearly each has a second of its own

Bytes = bytes | bytearray | memoryview


class Trades:
    """Trades of many markets, always the same ones: popularity 1/rank, the price of each a random walk."""

    def __init__(self, n: int, markets: int = MARKETS, seed: int = 7) -> None:
        chance = np.random.default_rng(seed)
        popular = 1.0 / np.arange(1, markets + 1)
        self.n = n
        self.market: Array = chance.choice(markets, size=n, p=popular / popular.sum()).astype(np.int16)
        base = 10 ** chance.uniform(-1, 4.7, markets)
        places = np.where(base > 100, 2, np.where(base > 1, 4, 6))
        order = np.argsort(self.market, kind="stable")
        walk = np.cumsum(chance.normal(0, 3e-4, n))
        firsts = np.flatnonzero(np.append(True, np.diff(self.market[order]) != 0))
        walk -= np.repeat(walk[firsts], np.diff(np.append(firsts, n)))
        price = np.empty(n)
        price[order] = base[self.market[order]] * np.exp(walk)
        scale = 10.0 ** places[self.market]
        self.price: Array = np.maximum(np.rint(price * scale), 1) / scale
        self.size: Array = np.maximum(np.rint(np.exp(chance.normal(0, 1.2, n)) * 1000), 1) / 1000
        self.buy: Array = chance.integers(0, 2, n).astype(np.bool_)

    def first_volume(self, rows: slice) -> int:
        """What these rows trade of the first market, in thousandths."""
        sizes = self.size[rows][self.market[rows] == 0]
        return int(np.rint(sizes * 1000).astype(np.int64).sum())


class Body(Protocol):
    """The body of a request; not to be stamped again before it is answered."""

    kind: str
    n: int
    first_volume: int  # of the first market, in thousandths

    def stamped(self, times: Array, first_id: int) -> Bytes:
        """The body with these times (µs) and, where it has identities, these."""
        ...


class NdjsonBody:
    """Lines whose digits are overwritten in place."""

    kind = NDJSON

    def __init__(self, trades: Trades, rows: slice, *, identity: bool) -> None:
        lines, places, ids, end = [], [], [], 0
        for market, price, size, buy in zip(
            trades.market[rows].tolist(),
            trades.price[rows].tolist(),
            trades.size[rows].tolist(),
            trades.buy[rows].tolist(),
            strict=True,
        ):
            head = f'{{"market_symbol":"{SYMBOLS[market]}","timestamp":'
            middle = f',"price":{price!r},"size":{size!r},"side":"{"buy" if buy else "sell"}"'
            places.append(end + len(head))
            line = f"{head}{'0' * TIME_DIGITS}{middle}"
            if identity:
                line += ',"trade_id":'
                ids.append(end + len(line))
                line += "0" * ID_DIGITS
            line += "}\n"
            lines.append(line)
            end += len(line)
        self.n = len(lines)
        self.first_volume = trades.first_volume(rows)
        self._bytes = bytearray("".join(lines).encode())
        self._letters = np.frombuffer(self._bytes, np.uint8)
        self._times = np.array(places)[:, None] + np.arange(TIME_DIGITS)
        self._ids = np.array(ids)[:, None] + np.arange(ID_DIGITS) if identity else None

    def stamped(self, times: Array, first_id: int) -> Bytes:
        """The lines with these times, to the millisecond."""
        self._letters[self._times] = digits(times // 1000, TIME_DIGITS)
        if self._ids is not None:
            self._letters[self._ids] = digits(np.arange(first_id, first_id + self.n), ID_DIGITS)
        return self._bytes


class ArrowBody:
    """A record batch of which one or two columns are replaced."""

    kind = ARROW

    def __init__(self, trades: Trades, rows: slice, *, identity: bool) -> None:
        market = trades.market[rows]
        self.n = len(market)
        self.first_volume = trades.first_volume(rows)
        self._identity = identity
        side = pa.array(trades.buy[rows].astype(np.int8))
        self._columns = {
            "market_symbol": pa.DictionaryArray.from_arrays(pa.array(market), pa.array(SYMBOLS)),
            "price": pa.array(trades.price[rows]),
            "size": pa.array(trades.size[rows]),
            "side": pa.DictionaryArray.from_arrays(side, pa.array(["sell", "buy"])),
        }

    def stamped(self, times: Array, first_id: int) -> Bytes:
        """An IPC stream with these times."""
        columns = {**self._columns, "timestamp": pa.array(times, pa.timestamp("us", "UTC"))}
        if self._identity:
            columns["trade_id"] = pa.array(np.arange(first_id, first_id + self.n))
        batch = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as stream:
            stream.write_batch(batch)
        return memoryview(sink.getvalue())


def bodies(kind: str, trades: Trades, size: int, count: int, *, identity: bool = False) -> Sequence[Body]:
    """So many bodies of so many trades each."""
    make = NdjsonBody if kind == NDJSON else ArrowBody
    return [make(trades, slice(i * size, (i + 1) * size), identity=identity) for i in range(count)]


def digits(numbers: Array, width: int) -> Array:
    """Each number in decimal, as ASCII letters."""
    powers = 10 ** np.arange(width - 1, -1, -1)
    return (numbers[:, None] // powers % 10 + ord("0")).astype(np.uint8)


class Clock:
    """The times of batch after batch: what has passed since the one before, or a stretch of days of the past."""

    def __init__(self, *, past: bool) -> None:
        self._past = past
        self._chance = np.random.default_rng(11)
        now = time.time_ns() // 1000
        self._last = now // DAY * DAY - PAST_DAYS * DAY if past else now

    def times(self, n: int) -> Array:
        """n ascending times, µs."""
        since = self._last
        if self._past:
            self._last = since + n * (DAY // PAST_EVENTS)
            return np.sort(self._chance.integers(since, self._last, n))
        self._last = time.time_ns() // 1000
        return np.linspace(since, self._last, n, endpoint=False).astype(np.int64)
