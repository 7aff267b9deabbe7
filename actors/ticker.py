"""One market's last day as sliding windows: what it costs now, how that moved, how much was traded, and by how many.

A tick touches the bucket of its minute and that of its second, however many windows there are; reading sums at most
1,440 buckets. A window ends with the running minute: the last 24 hours are 1,440 minutes, the last hour 60 of them, the
last five minutes 300 seconds. The price of an hour ago is the newest close before its 60 minutes.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from msgspec import Struct

from actors import candle
from actors.candle import LAYOUTS, Row, T, amount
from storage import decimals
from storage.calendar import MICROS
from storage.events import Array
from storage.measures import wire
from storage.partials import Partials

MINUTE, HOUR, DAY = 60, 3600, 86400
SECONDS = 300  # the longest window that is kept by the second
TRADERS = 65_536  # more different ones within a day are sampled
EXACT = 3  # newest minutes to which a tick is added without rounding
SLACK = 600  # seconds by which events may be ahead of the clock, and more
MOST = (DAY + 4 * HOUR) // MINUTE  # buckets, before old ones are let go of

Key = tuple[Any, ...]  # an order key, or the beginning of one


class Price(Struct, frozen=True):
    """What a market's last day comes to at one second; None is "not known"."""

    time: int
    price: float | None  # the newest that the market's candles know
    price_1h_ago: float | None
    price_24h_ago: float | None
    high_24h: float | None
    low_24h: float | None
    volume_1m: float
    volume_5m: float
    volume_1h: float
    volume_24h: float
    turnover_24h: float  # in the quote currency
    trades_24h: int
    volatility_24h: float | None  # per cent
    active_traders_1h: int | None  # None: this kind of market does not know them
    active_traders_24h: int | None
    funding_rate: float | None  # this and what follows: the newest word of the last 24 hours
    open_interest: float | None
    index_price: float | None
    long_short_ratio: float | None  # total long over total short size
    bid_ask_spread: float | None
    market_depth: float | None


class Brief(Struct, frozen=True):
    """What a list shows of a market's last day; as in `Price`."""

    price: float | None
    price_24h_ago: float | None
    volume_24h: float
    trades_24h: int
    open_interest: float | None
    updated: int | None  # µs: the newest event that set the price, the funding rate or the open interest


class LastPrice(Struct, frozen=True):
    """The newest price, as tickers on a wall show it."""

    time: int  # seconds, of the event that set it
    price: float
    volume: float  # of that second so far


class Buckets:
    """Rows by their start in seconds, ascending, as columns of floats; those before a floor are let go of."""

    __slots__ = ("_columns", "_high", "_low", "_new", "_t")

    def __init__(self, new: Sequence[float]) -> None:
        """`new`: what a row holds at first."""
        self._new = np.array(new)
        self._t = np.zeros(1, np.int64)  # most markets of many have little to hold
        self._columns = np.zeros((len(new), 1))
        self._low = self._high = 0

    def __len__(self) -> int:
        return self._high - self._low

    @property
    def t(self) -> Array:
        """The starts."""
        return self._t[self._low : self._high]

    def column(self, number: int) -> Array:
        """The values of one column."""
        return self._columns[number, self._low : self._high]

    def load(self, t: Array, *columns: Array | Sequence[Array]) -> None:
        """Hold these rows instead."""
        self._t, self._columns = t.astype(np.int64), np.vstack(columns).astype(np.float64)
        self._low, self._high = 0, len(t)

    def after(self, t: int) -> int:
        """The number of the first row that begins later than t."""
        return int(np.searchsorted(self.t, t, side="right"))

    def row(self, t: int) -> tuple[Array, bool]:
        """The row that begins at t, and whether it is new; what is put into it stays."""
        at = self._high
        if at > self._low and self._t[at - 1] >= t:
            at = self._low + int(np.searchsorted(self.t, t))
            if self._t[at] == t:
                return self._columns[:, at], False
        at -= self._low
        self._make_room()
        at += self._low
        if at < self._high:
            self._t[at + 1 : self._high + 1] = self._t[at : self._high]
            self._columns[:, at + 1 : self._high + 1] = self._columns[:, at : self._high]
        self._high += 1
        self._t[at] = t
        self._columns[:, at] = self._new
        return self._columns[:, at], True

    def let_go(self, through: int) -> None:
        """Forget the rows that begin at `through` or before."""
        self._low += self.after(through)

    def nbytes(self) -> int:
        """Memory of the columns."""
        return self._t.nbytes + self._columns.nbytes

    def _make_room(self) -> None:
        if self._high < len(self._t):
            return
        used = self._high - self._low
        room = used + used // 4 + 8
        t, columns = np.zeros(room, np.int64), np.zeros((len(self._new), room))
        t[:used], columns[:, :used] = self.t, self._columns[:, self._low : self._high]
        self._t, self._columns, self._low, self._high = t, columns, 0, used


class Traders:
    """Who traded when last; of very many only those whose hashes are small, and each of them stands for several."""

    __slots__ = ("_level", "_seen")

    def __init__(self) -> None:
        self._seen: dict[int, int] = {}
        self._level = 0

    def add(self, t: int, hashes: Iterable[int]) -> None:
        """These traded in the second t."""
        seen, most = self._seen, 1 << (64 - self._level)
        for one in hashes:
            if one < most and seen.get(one, -1) < t:
                seen[one] = t

    def fill(self, times: Array, sketches: Array) -> None:
        """These traded in the minutes that begin then, in the order of time."""
        some = [row for row, hashes in enumerate(sketches) if hashes is not None and len(hashes)]
        if some:
            hashes = np.concatenate([sketches[row] for row in some])
            when = np.repeat(times[some], [len(sketches[row]) for row in some])
            self._seen = dict(zip(hashes.tolist(), when.tolist(), strict=True))  # the last of each counts
            self.tidy(-1)

    def tidy(self, through: int) -> None:
        """Forget who has not traded since this second, and bound the rest."""
        self._seen = {one: t for one, t in self._seen.items() if t > through}
        while len(self._seen) > TRADERS:
            self._level += 1
            self._seen = {one: t for one, t in self._seen.items() if one < 1 << (64 - self._level)}

    def count(self, after: int) -> int:
        """How many traded after this second."""
        return sum(t > after for t in self._seen.values()) << self._level

    def __len__(self) -> int:
        return len(self._seen)


HIGH, LOW, CLOSE, VOLUME, TURNOVER, TRADES = range(6)
NEW = (math.nan, math.nan, math.nan, 0.0, 0.0, 0.0)
SAID = ("funding_rate", "open_interest")  # measures; what candles do not tell comes through `say`
NO_KEY: Key = (-1,)  # before every order key


class _Minute:
    """One of the newest minutes: sums are integers of 1e-18."""

    __slots__ = ("close", "high", "key", "low", "trades", "turnover", "volume")

    def __init__(self) -> None:
        self.volume = self.turnover = self.trades = 0
        self.high = self.low = self.close = math.nan
        self.key = NO_KEY  # of the close


class Ticker:
    """The last day of one market. Its actor adds what it takes in.

    `sure` says whether all of the day is in here, and unrounded; until it is, `fill` is wanted.
    """

    def __init__(self, kind: str, *, sure: bool) -> None:
        """`sure`: the market has had no event before."""
        layout = self._layout = LAYOUTS[kind]
        self._volume, self._trades = layout.volume, layout.trades
        self._high, self._low, self._close = layout.high, layout.low, layout.close
        self._turnover, self._distinct = layout.place.get("turnover"), layout.place.get("unique_traders")
        self._telling = [(name, layout.place[name]) for name in SAID if name in layout.place]
        self._said: dict[str, tuple[float, Key]] = {}
        self._clear(sure)

    def _clear(self, sure: bool) -> None:
        self.sure = sure
        self._minutes = Buckets(NEW)
        self._newest: dict[int, _Minute] = {}  # what has yet to be written to the buckets, or may change
        self._seconds: dict[int, int] = {}  # volume in units
        self._traders = Traders()
        self._base: tuple[float, Key] | None = None  # the newest close of the minutes that were let go of
        self._kept: float = -math.inf  # what began before was let go of
        self._priced = -1  # µs: the newest event that set a price

    def add(self, row: Row) -> None:
        """Take in what a row of one second adds."""
        second = row[T]
        self._hear(row)
        at = row[self._close + 1][0]
        if at > self._priced:
            self._priced = at
        if second < self._kept:
            self._older(row)
            return
        minute = self._newest.get(second // MINUTE * MINUTE)
        if minute is None:
            minute = self._begun(second // MINUTE * MINUTE)
        self._merge(minute, row)
        self._seconds[second] = self._seconds.get(second, 0) + row[self._volume]
        if self._distinct is not None and row[self._distinct] is not None:
            self._traders.add(second, row[self._distinct])
        if len(self._minutes) > MOST or len(self._seconds) > 4 * SECONDS:
            self.tidy(int(self._minutes.t[-1]) - SLACK)

    def _merge(self, minute: _Minute, row: Row) -> None:
        minute.volume += row[self._volume]
        minute.trades += row[self._trades]
        if self._turnover is not None:
            minute.turnover += row[self._turnover]
        close = row[self._close]
        if close is None:
            return
        if not minute.high >= row[self._high]:  # NaN is not
            minute.high = row[self._high]
        if not minute.low <= row[self._low]:
            minute.low = row[self._low]
        if row[self._close + 1] > minute.key:
            minute.close, minute.key = close, row[self._close + 1]

    def _begun(self, t: int) -> _Minute:
        """A minute that is not among the newest few."""
        _, new = self._minutes.row(t)
        self.sure &= new  # else its sums were rounded already
        if len(self._newest) >= EXACT:
            oldest = min(self._newest)
            self._put(oldest, self._newest.pop(oldest))
        minute = self._newest[t] = _Minute()
        return minute

    def _write(self) -> None:
        for t, minute in self._newest.items():
            self._put(t, minute)

    def _put(self, t: int, minute: _Minute) -> None:
        row, _ = self._minutes.row(t)
        volume, turnover = amount(minute.volume), amount(minute.turnover)
        row[:] = (minute.high, minute.low, minute.close, volume, turnover, minute.trades)

    def say(self, name: str, value: float, key: Key) -> None:
        """Take in one word; the one with the greatest order key counts."""
        if name not in self._said or key > self._said[name][1]:
            self._said[name] = value, key

    def doubt(self) -> None:
        """Something was taken back, and is out of the store: `fill` tells what is left."""
        self.sure = False
        self._said.clear()

    def fill(self, minutes: Partials, seconds: Partials, older: Partials) -> None:
        """Hold these bars of the market, each whole and in the order of time, in place of what is here; what was said
        stays.

        `minutes` are those of the last day and `seconds` those of the last five minutes; `older` are bars of any
        length that ended before, for what was the case then, in any order.
        """
        self._clear(True)
        for row in candle.rows(older):
            self._hear(row)
            if row[self._close] is not None:
                self._older_close(row[self._close], row[self._close + 1])
        for name, _ in self._telling:
            told = np.flatnonzero(~np.isnan(minutes[name]))
            self._hear_all(candle.rows(minutes.take(told[-1:])))
        priced = [table["close_ts"] for table in (minutes, older)]
        self._priced = max((int(ts.max()) for ts in priced if len(ts)), default=-1)
        self._minutes.load(
            minutes["t"],
            [minutes[name] for name in ("high", "low", "close")],
            decimals.floats(minutes["volume"]),
            decimals.floats(minutes["turnover"]) if self._turnover is not None else np.zeros(minutes.n),
            minutes["trades_count"],
        )
        for row in candle.rows(minutes.take(slice(max(0, minutes.n - EXACT), None))):
            minute = self._newest[row[T]] = _Minute()
            self._merge(minute, row)
        if self._distinct is not None:
            self._traders.fill(minutes["t"], minutes["unique_traders"])
        self._seconds = dict(zip(seconds["t"].tolist(), decimals.ints(seconds["volume"]), strict=True))

    def tidy(self, now: int) -> None:
        """Let go of what no window from this second on shows."""
        self._write()
        through = now - now % MINUTE - DAY - MINUTE
        closes = self._minutes.column(CLOSE)[: self._minutes.after(through)]
        said = np.flatnonzero(~np.isnan(closes))
        if len(said):
            at = int(self._minutes.t[said[-1]])
            self._older_close(float(closes[said[-1]]), ((at + MINUTE) * MICROS - 1,))
        self._minutes.let_go(through)
        self._kept = max(self._kept, through + MINUTE)
        self._newest = {t: minute for t, minute in self._newest.items() if t > through}
        newest = self._priced // MICROS  # whose volume `tick` tells
        self._seconds = {t: units for t, units in self._seconds.items() if t > now - SECONDS or t == newest}
        self._traders.tidy(through)

    @property
    def empty(self) -> bool:
        """Whether nothing was traded within what is kept."""
        return not len(self._minutes)

    def brief(self, now: int) -> Brief:
        """The part of `price` that costs little."""
        self._write()
        minute = now - now % MINUTE
        day = self._minutes.after(minute - DAY)
        closes = self._minutes.column(CLOSE)
        told = [key[0] for name, (_, key) in self._said.items() if name in SAID]
        updated = max(self._priced, *told) if told else self._priced
        return Brief(
            self._last(closes),
            self._last(closes[:day]),
            wire(math.fsum(self._minutes.column(VOLUME)[day:])),
            int(self._minutes.column(TRADES)[day:].sum()),
            self._told("open_interest", minute - DAY + MINUTE),
            None if updated < 0 else updated,
        )

    def spread(self, now: int) -> float | None:
        """The newest word of the last day, as `price` tells it."""
        return self._told("bid_ask_spread", now - now % MINUTE - DAY + MINUTE)

    def closes(self, start: int, step: int, count: int) -> list[float | None]:
        """The last price in each of `count` spans of `step` seconds, whole minutes of the last day, from `start` on."""
        self._write()
        t, closes = self._minutes.t, self._minutes.column(CLOSE)
        some = ~np.isnan(closes) & (t >= start) & (t < start + step * count)
        found = np.full(count, np.nan)
        found[(t[some] - start) // step] = closes[some]  # of several the last stays
        return [None if close != close else wire(close) for close in found.tolist()]

    def price(self, now: int) -> Price:
        """What the windows that end at this second come to."""
        self._write()
        minute = now - now % MINUTE
        since = minute - DAY + MINUTE
        day, hour = self._minutes.after(minute - DAY), self._minutes.after(minute - HOUR)
        closes = self._minutes.column(CLOSE)
        before, an_hour_ago = self._last(closes[:day]), self._last(closes[:hour])
        price = self._last(closes)
        high, low = self._minutes.column(HIGH)[day:], self._minutes.column(LOW)[day:]
        some = not np.isnan(closes[day:]).all()
        volumes = self._minutes.column(VOLUME)
        traders = None if self._distinct is None else self._traders
        long, short = self._told("total_long_size", since), self._told("total_short_size", since)
        return Price(
            now,
            price,
            an_hour_ago,
            before,
            wire(float(np.nanmax(high))) if some else None,
            wire(float(np.nanmin(low))) if some else None,
            self._recent(now - 60),
            self._recent(now - 300),
            wire(math.fsum(volumes[hour:])),
            wire(math.fsum(volumes[day:])),
            wire(math.fsum(self._minutes.column(TURNOVER)[day:])),
            int(self._minutes.column(TRADES)[day:].sum()),
            volatility(before, closes[day:]),
            None if traders is None else traders.count(minute - HOUR + MINUTE - 1),
            None if traders is None else traders.count(minute - DAY + MINUTE - 1),
            self._told("funding_rate", since),
            self._told("open_interest", since),
            self._told("index_price", since),
            wire(long / short) if long is not None and short else None,
            self._told("bid_ask_spread", since),
            self._told("market_depth", since),
        )

    def tick(self) -> LastPrice | None:
        """The newest price; None where there is none, or it is not of the days that are kept."""
        self._write()
        price = self._last(self._minutes.column(CLOSE))
        if price is None or self._priced < 0:
            return None
        second = self._priced // MICROS
        return LastPrice(second, price, wire(amount(self._seconds.get(second, 0))))

    def moves(self, now: int) -> int:
        """The next second at which windows show something else though nothing is said."""
        recent = any(t > now - SECONDS for t in self._seconds)
        return now + 1 if recent else now - now % MINUTE + MINUTE

    def nbytes(self) -> int:
        """Memory, about."""
        return self._minutes.nbytes() + 120 * (len(self._seconds) + len(self._traders))

    def _hear_all(self, rows: Iterable[Row]) -> None:
        for row in rows:
            self._hear(row)

    def _hear(self, row: Row) -> None:
        for name, at in self._telling:
            if row[at] is not None:
                self.say(name, row[at], row[at + 1])

    def _told(self, name: str, since: int) -> float | None:
        found = self._said.get(name)
        return None if found is None or found[1][0] < since * MICROS else wire(found[0])

    def _older(self, row: Row) -> None:
        """Heed a row of before; one that may have come after what was let go of cannot be told from it."""
        if row[self._close] is not None:
            key = row[self._close + 1]
            if self._base is not None and key[0] // (MINUTE * MICROS) == self._base[1][0] // (MINUTE * MICROS):
                self.sure = False
            self._older_close(row[self._close], key)

    def _older_close(self, close: float, key: Key) -> None:
        if self._base is None or key > self._base[1]:
            self._base = close, key

    def _last(self, closes: Array) -> float | None:
        """The last of these, or the newest of those before."""
        said = np.flatnonzero(~np.isnan(closes))
        if len(said):
            return wire(float(closes[said[-1]]))
        return None if self._base is None else wire(self._base[0])

    def _recent(self, after: int) -> float:
        return wire(amount(sum(units for t, units in self._seconds.items() if t > after)))


def last_day(now: int) -> int:
    """Where the last 24 hours begin."""
    return now - now % MINUTE - DAY + MINUTE


def volatility(before: float | None, closes: Array) -> float | None:
    """Realised volatility in per cent: the root of the sum of squared log returns from each minute's close to the next.

    The closes are those of the minutes in which a price was set, and the one before them; not annualised. After
    Andersen and Bollerslev, "Answering the skeptics: yes, standard volatility models do provide accurate forecasts",
    International Economic Review 39 (1998). None with fewer than two closes.
    """
    some = closes[~np.isnan(closes)]
    if before is not None:
        some = np.append(before, some)
    if len(some) < 2:
        return None
    returns = np.diff(np.log(some))
    return wire(100 * math.sqrt(math.fsum(returns * returns)))
