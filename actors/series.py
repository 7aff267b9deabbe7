"""Series made of others: one market, or two combined bar by bar, with indicators and what these need before."""

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from msgspec import Struct

from actors.indicators import Asked, Bars
from actors.reading import MOST, Window
from storage.calendar import MICROS, Calendar, Resolution
from storage.errors import BadRequest, UnknownMarket
from storage.events import Array
from storage.measures import wired
from storage.records import Market

# Of a number in an expression: prices lie between 1e-18 and 1e20, and with it no bar becomes infinite, nor its square.
LARGEST = 1e100
LONGEST = 200  # characters in an expression
SIGNS = re.compile(r"[-+*/]")
EVER = -(2**61)
DAY = 86_400
DEEP = 40_000  # bars of one market that a request may look at: what 5,000 and their indicators need
SLICE = 5_000  # of these that are looked at in one go: then others have their turn

Named = Callable[[str], Awaitable[Market]]
Operand = Market | float


class Windows(Protocol):
    """What is asked of the engine."""

    async def window(
        self, market: Market, resolution: Resolution, start: int, end: int, count: int | None = None, most: int = MOST
    ) -> Window: ...


class Expression(Struct, frozen=True):
    """One market, or two operands with a sign between; one of them may be a number."""

    left: Operand
    sign: str = ""
    right: Operand = 0.0

    @property
    def markets(self) -> list[Market]:
        """The markets in it, from the left."""
        return [operand for operand in (self.left, self.right) if isinstance(operand, Market)]


class Table(NamedTuple):
    """Bars as columns, ascending; those of an expression have the volume of their only market, or none (NaN)."""

    time: Array
    open: Array
    high: Array
    low: Array
    close: Array
    volume: Array

    def take(self, rows: slice) -> "Table":
        """These bars."""
        return Table(*(column[rows] for column in self))


class Looked(NamedTuple):
    """Bars of one market, and at which cursor: they hold what came up to `seq`, and maybe later."""

    bars: Table
    rev: int
    seq: int
    open_bar: bool  # there is one, or they are not of one moment


class Series(NamedTuple):
    """`bars` with those before `first` that the indicators need."""

    bars: Table
    day: Array  # the trading day of each bar
    first: int  # row of the first bar that is asked for
    more: bool  # there are older ones in what is asked for
    rev: int  # the newest change among all bars looked at, of both markets together: then neither's change is missed
    seq: int
    open_bar: bool

    def inputs(self) -> Bars:
        """What indicators read."""
        return Bars(*self.bars[1:], self.day)


async def parsed(text: str, named: Named) -> Expression:
    """`BTC`, `BTC/ETH`, `BTC - ETH`, `100 * BTC`; a symbol that holds a sign itself is found as it is.

    Raises BadRequest, or UnknownMarket where the text cannot be cut into names that are known.
    """
    text = text.strip()
    if not 0 < len(text) <= LONGEST:
        raise BadRequest(f"expected a symbol, or two with one of + - * / between, got {text!r:.100}")
    try:
        return Expression(await named(text))
    except UnknownMarket as error:
        unknown = error
    for match in SIGNS.finditer(text):
        sides = text[: match.start()].strip(), text[match.end() :].strip()
        if not all(sides):
            continue
        try:
            left, right = [await _operand(side, named) for side in sides]
        except UnknownMarket as error:
            unknown = error
            continue
        if isinstance(left, float) and isinstance(right, float):
            raise BadRequest(f"expected a symbol on one side at least, got {text!r:.100}")
        return Expression(left, match.group(), right)
    raise unknown


async def _operand(text: str, named: Named) -> Operand:
    try:
        value = float(text)
    except ValueError:
        return await named(text)
    if not 1 / LARGEST <= abs(value) <= LARGEST:
        raise BadRequest(f"expected a number from 1e-100 to 1e100, or as far below 0, got {text!r:.100}")
    return value


async def series(
    engine: Windows,
    expression: Expression,
    resolution: Resolution,
    start: int,
    end: int,
    count: int,
    indicators: Sequence[Asked],
) -> Series:
    """The newest `count` bars with start ≤ t < end, at times at which every market of the expression has one."""
    warm_up = max((asked.warm_up for asked in indicators), default=0)
    whole_days = any(asked.name == "vwap" for asked in indicators)
    market = expression.markets[0]
    calendar = Calendar.parse(market.session, market.timezone)
    wanted = count + warm_up + 1
    while True:
        looked = [await looked_at(engine, one, resolution, EVER, end, wanted) for one in expression.markets]
        bars = combined(expression, [one.bars for one in looked])
        day = calendar.day(bars.time * MICROS) if resolution.intraday else bars.time
        first = max(int(np.searchsorted(bars.time, start)), len(bars.time) - count)
        all_there = any(len(one.bars.time) < wanted for one in looked) or wanted >= DEEP
        enough = first > warm_up and not (whole_days and first < len(day) and day[0] == day[first])
        if all_there or enough:
            break
        wanted = min(2 * wanted, DEEP)
    more = first > 0 and int(bars.time[first - 1]) >= start
    low = max(0, first - warm_up)
    if whole_days and first < len(day):
        low = min(low, int(np.searchsorted(day, day[first])))
    return Series(
        bars.take(slice(low, None)),
        day[low:],
        first - low,
        more,
        sum(one.rev for one in looked),
        max(one.seq for one in looked),
        any(one.open_bar for one in looked),
    )


def depth(expression: Expression, resolution: Resolution, count: int, indicators: Sequence[Asked]) -> int:
    """About how many bars `series` looks at."""
    each = count + max((asked.warm_up for asked in indicators), default=0)
    if resolution.intraday and any(asked.name == "vwap" for asked in indicators):
        each += DAY // resolution.seconds
    return each * len(expression.markets)


async def looked_at(
    engine: Windows, market: Market, resolution: Resolution, start: int, end: int, count: int
) -> Looked:
    """The newest `count` bars with start ≤ t < end, however many, a slice at a time from the newest on."""
    windows = [await engine.window(market, resolution, start, end, None, min(count, SLICE))]
    left = count - len(windows[0].time)
    while left > 0 and len(windows[-1].time) == SLICE:
        windows.append(await engine.window(market, resolution, start, windows[-1].time[0], None, min(left, SLICE)))
        left -= len(windows[-1].time)
    tables = [_table(window) for window in reversed(windows)]
    bars = Table(*(np.concatenate(columns) for columns in zip(*tables, strict=True)))
    newest, rev = windows[0], max(window.rev for window in windows)
    # Where older bars hold what came after the newest were read, `rev` does not say which state of these is here.
    return Looked(bars, rev, newest.seq, newest.open_bar or rev > newest.seq)


def _table(window: Window) -> Table:
    columns = (window.open, window.high, window.low, window.close, window.volume)
    return Table(np.array(window.time, np.int64), *(np.array(column, np.float64) for column in columns))


def combined(expression: Expression, tables: Sequence[Table]) -> Table:
    """The bars at the times that all of the markets have.

    Nobody knows how high two markets stood together within a bar: high and low are the largest and the smallest of
    what open, high, low and close come to.
    """
    if not expression.sign:
        return tables[0]
    time = tables[0].time
    for table in tables[1:]:
        time = np.intersect1d(time, table.time, assume_unique=True)
    some = iter([table.time.searchsorted(time) for table in tables])
    columns = iter(tables)
    sides: list[list[Array]] = []
    volume = np.full(len(time), np.nan)
    for operand in (expression.left, expression.right):
        if isinstance(operand, Market):
            rows, table = next(some), next(columns)
            sides.append([column[rows] for column in (table.open, table.high, table.low, table.close)])
            volume = table.volume[rows] if len(tables) == 1 else volume
        else:
            sides.append([np.full(len(time), operand)] * 4)
    found = [_applied(expression.sign, left, right) for left, right in zip(*sides, strict=True)]
    open_, close = found[0], found[3]
    table = Table(time, open_, np.maximum.reduce(found), np.minimum.reduce(found), close, volume)
    return Table(*(wired(column) if number else column for number, column in enumerate(table)))


def _applied(sign: str, left: Array, right: Array) -> Array:
    found: Array = {"+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide}[sign](left, right)
    return found
