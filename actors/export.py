"""Bars and events of one market in order, a stretch at a time, however much there is of them.

Each stretch is read by itself, from the store and from what is not in there yet, so that memory does not depend on the
range. Everything that was acknowledged before the first stretch is in; what is taken in while it goes on may be.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import trio

from actors import fold
from actors.reading import FAR, LATEST
from actors.ring import View, view
from actors.rounds import Round
from storage import decimals, listing
from storage.calendar import DAY, MICROS, ONE_DAY, Calendar, Resolution, parse, parse_short, rung
from storage.errors import BadRequest, UnknownResolution
from storage.events import DECIMAL, Array
from storage.formats import Encoder
from storage.listing import Place, Unflushed
from storage.measures import MEASURES, RATIOS, Rule, wired
from storage.partials import Partials
from storage.partials import concat as together
from storage.partitions import BrokenPartition
from storage.records import Market
from storage.retention import closed_for
from storage.store import History

EVENTS = 50_000  # in one stretch
# Days with bars that are read together. Long bars are few and may hold large sketches; seconds are read by the hour.
DAYS = {1: 40, 60: 3, 300: 6, 900: 20, 3600: 40, DAY: 400}
FIRST = -62_135_596_800  # the year 1, in seconds
HOUR = 3600
THREADS = 2  # that turn rows into others, for all exports together

Read = Callable[..., Any]
T = TypeVar("T")


class Late(Protocol):
    """What an export asks of the engine."""

    async def caught_up(self) -> None: ...
    def first(self, kind: str, rung: int) -> int: ...
    async def late(self, market: Market, rung: int, start: int, end: int, applied: int) -> Partials | None: ...


class Holding(Protocol):
    """What an export asks of the writer."""

    @property
    def rounds(self) -> Sequence[Round]: ...


class Stretch(NamedTuple):
    """Some rows, and how far that is."""

    rows: pa.RecordBatch
    days: int  # that are done
    total: int  # days that have something


class Exporter:
    """Reads one market after the other, for whoever wants all of it."""

    def __init__(self, engine: Late, writer: Holding, store: History, read: Read) -> None:
        """`read(work, ...)` calls `work(snapshot of the database, ...)` on a thread."""
        self._engine, self._writer, self._store, self._read = engine, writer, store, read
        self._threads = trio.CapacityLimiter(THREADS)

    async def bars(self, market: Market, resolution: Resolution, start: int, end: int) -> AsyncGenerator[Stretch, None]:
        """All bars with start ≤ t < end (seconds), in the columns of `bar_schema`."""
        calendar = Calendar.parse(market.session, market.timezone)
        days = await self._days(market)
        if not days:
            return
        # What began before the floor would lack a part.
        start = max(start, self._engine.first(market.kind, rung(resolution)))
        # Beyond the days that there are, there is nothing that calendars would have to reckon with.
        low, high = max(start, days[0] - 2 * DAY), min(end, days[-1] + 3 * DAY)
        if low >= high:
            return
        low = _bucket(calendar, resolution, low)
        high = _next(calendar, resolution, _bucket(calendar, resolution, high - 1))
        stored = rung(resolution)
        days = [day for day in days if low - 2 * DAY <= day < high + 2 * DAY]
        for first in range(0, len(days), DAYS[stored]):
            some = days[first : first + DAYS[stored]]
            following = days[first + len(some)] if first + len(some) < len(days) else None
            begin = max(low, _bucket(calendar, resolution, _start(calendar, stored, some[0])))
            stop = high
            if following is not None:
                stop = min(high, _bucket(calendar, resolution, _start(calendar, stored, following)))
            for a, b in await self._pieces(market, stored, resolution, calendar, begin, stop, some):
                found = await self._partials(market, stored, a, b)
                start = max(start, self._engine.first(market.kind, stored))  # which may have risen meanwhile
                rows = await self._aside(_bars, found, calendar, resolution, start, end)
                if rows.num_rows:
                    yield Stretch(rows, first, len(days))

    async def events(self, market: Market, start: int, end: int) -> AsyncGenerator[Stretch, None]:
        """All events with start ≤ time < end (µs), by time and then by their places, in the columns of
        `listing.schema_of` its kind.

        Nothing is flushed for it: what the store lacks is taken from the writer.
        """
        await self._engine.caught_up()
        days = np.array(await self._days(market), np.int64)
        after: Place | None = (start, -1)
        while after is not None:
            waiting = [
                Unflushed(some.last, some.events, [dead.pos for _, dead in some.dead]) for some in self._writer.rounds
            ]
            rows, after = await self._read(listing.between, waiting, market, after, end, EVENTS)
            if rows.num_rows:
                done = len(days) if after is None else int(np.searchsorted(days, after[0] // MICROS))
                yield Stretch(rows, done, len(days))

    async def lacking(self, market: Market, start: int, end: int) -> str:
        """Which raw events with start ≤ time < end (µs) an export has not, in words; empty where it has all."""
        days: list[int] = await self._read(closed_for, market.slot)
        gone = [day for day in days if start < (day + DAY) * MICROS and day * MICROS < end]
        if not gone:
            return ""
        first, last = (datetime.fromtimestamp(day, UTC).date() for day in (gone[0], gone[-1]))
        return f"raw events of {first} to {last} ({len(gone)} of these days) were dropped; their bars are kept"

    async def encoded(self, rows: AsyncGenerator[Stretch, None], encoder: Encoder) -> AsyncGenerator[bytes, None]:
        """The file that rows come to, in pieces."""
        async with aclosing(rows):
            async for stretch in rows:
                if piece := await self._aside(encoder.add, stretch.rows):
                    yield piece
        if piece := await self._aside(encoder.end):
            yield piece

    async def _aside(self, work: Callable[..., T], *arguments: Any) -> T:
        return await trio.to_thread.run_sync(lambda: work(*arguments), limiter=self._threads)

    async def _days(self, market: Market) -> list[int]:
        """The days that have bars, ascending; where files of days cannot be read, all that may have some."""
        await self._engine.caught_up()
        while True:
            old, applied = await self._store.days(market.kind, market.slot)
            late = await self._engine.late(market, DAY, -FAR, FAR, applied)
            if late is not None:
                return sorted({*old, *late["t"].tolist()})

    async def _pieces(
        self,
        market: Market,
        stored: int,
        resolution: Resolution,
        calendar: Calendar,
        begin: int,
        stop: int,
        days: Sequence[int],
    ) -> list[tuple[int, int]]:
        """What is to be read at a time between two instants, which these days lie between."""
        if stored > 1:
            return [(begin, stop)] if begin < stop else []
        try:
            hours = np.unique((await self._partials(market, HOUR, begin - begin % HOUR, stop))["t"])
        except BrokenPartition:  # seconds can be read without the hours: all that these days may have
            hours = np.unique(np.add.outer(days, np.arange(-DAY, 2 * DAY, HOUR)))
        cuts = np.unique(np.append(np.clip(calendar.bucket(resolution, hours), begin, stop), stop))
        return list(zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True)) if len(hours) else []

    async def _partials(self, market: Market, stored: int, start: int, end: int) -> Partials:
        """The rows of a stored resolution with start ≤ t < end, not yet summed."""
        while True:
            old, applied = await self._store.between(market.kind, stored, market.slot, start, end)
            late = await self._engine.late(market, stored, start, end, applied)
            if late is not None:
                return together([old, late])


def _start(calendar: Calendar, stored: int, day: int) -> int:
    """Where the bars of a day begin: a daily bar lies at its date, a shorter one at its instant."""
    return day if stored == DAY else calendar.span(ONE_DAY, day)[0] // MICROS


def _bucket(calendar: Calendar, resolution: Resolution, t: int) -> int:
    return int(calendar.bucket(resolution, np.array([t]))[0])


def _next(calendar: Calendar, resolution: Resolution, t: int) -> int:
    return int(calendar.next(resolution, np.array([t]))[0])


# --- bars as rows


def columns(kind: str) -> dict[str, Rule | tuple[str, str]]:
    """The columns of an exported bar beside its time: how a measure merges, or which sums a ratio is of."""
    measures: dict[str, Rule | tuple[str, str]] = {each.name: each.rule for each in MEASURES[kind]}
    ratios: dict[str, Rule | tuple[str, str]] = {each.name: (each.over, each.under) for each in RATIOS[kind]}
    usual = ("open", "high", "low", "close", "volume", "trades_count")
    return {name: measures[name] for name in usual} | ratios | measures


def bar_schema(kind: str) -> pa.Schema:
    """The columns of exported bars."""
    whole = (Rule.COUNT, Rule.DISTINCT)
    fields = [(name, pa.int64() if what in whole else pa.float64()) for name, what in columns(kind).items()]
    schema = pa.schema([("time", pa.int64()), *fields])
    for name in exact(kind):
        schema = schema.set(schema.get_field_index(name), pa.field(name, DECIMAL))
    return schema


def exact(kind: str) -> tuple[str, ...]:
    """The sums that ratios are of: they have all their digits, so that the ratios of longer bars can be had of them."""
    sums = {each.name for each in MEASURES[kind] if each.rule is Rule.SUM}
    return tuple(name for each in RATIOS[kind] for name in (each.over, each.under) if name in sums)


def _bars(found: Partials, calendar: Calendar, resolution: Resolution, start: int, end: int) -> pa.RecordBatch:
    """The bars with start ≤ t < end that these partials come to, numbers as every wire has them.

    And buckets in which something happened without a price, which are part of longer bars: those have no prices.
    """
    stored = fold.merged(found)
    # What replaced a bar must not replace the longer one that it is part of.
    stored = Partials(stored.kind, stored.n, {name: each for name, each in stored.columns.items() if name != "whole"})
    bars = view(fold.rolled(stored, lambda t: calendar.bucket(resolution, t)))
    bars = bars.take((bars["t"] >= start) & (bars["t"] < end))
    bars = bars.take(_says(bars))
    schema = bar_schema(found.kind)
    out = [pa.array(bars["t"], pa.int64())]
    for name, what in columns(found.kind).items():
        if name in exact(found.kind):
            out.append(decimals.arrow(bars[name]))
            continue
        if isinstance(what, tuple):
            over, under = (_floats(bars[each]) for each in what)
            values = wired(np.divide(over, under, out=np.full(bars.n, np.nan), where=under != 0))
        else:
            values = wired(_floats(bars[name])) if what is Rule.SUM else bars[name]
        out.append(pa.array(values, schema.field(name).type, from_pandas=True))
    return pa.RecordBatch.from_arrays(out, schema=schema)


def _says(bars: View) -> Array:
    """Which buckets say anything that an import takes; who traded in one says nothing by itself."""
    out = ~np.isnan(bars["open"])
    for measure in MEASURES[bars.kind]:
        if measure.rule is Rule.SUM or measure.rule is Rule.COUNT:
            values = bars[measure.name]
            out |= values.any(axis=1) if values.ndim == 2 else values != 0
        elif measure.rule is not Rule.DISTINCT:
            out |= ~np.isnan(bars[measure.name])
    return out


def _floats(values: Array) -> Array:
    return decimals.floats(values) if values.ndim == 2 else values.astype(np.float64)


# --- what was asked for


def resolution_named(text: str) -> Resolution:
    """A resolution as the command line or a chart names it: `1m` is a minute, and so is `1`."""
    try:
        return parse_short(text)
    except UnknownResolution as error:
        try:
            return parse(text)
        except UnknownResolution:
            raise error from None


def moment(name: str, text: str, otherwise: int) -> int:
    """A point in time in µs, within the years 1 to 10000: ISO 8601 with a zone, a date (UTC) or seconds since 1970.

    An empty text means `otherwise`, in seconds.
    """
    if not text:
        return otherwise * MICROS
    try:
        seconds = float(text)
    except ValueError:
        try:
            at = datetime.fromisoformat(text)
        except ValueError:
            at = None
        if at is not None and at.tzinfo is None and len(text) == 10:
            at = at.replace(tzinfo=UTC)
        if at is None or at.tzinfo is None:
            raise BadRequest(
                f"{name}: expected ISO 8601 with a zone such as 2024-05-01T12:00:00Z, a date such as 2024-05-01 or "
                f"seconds since 1970, got {text!r:.100}"
            ) from None
        gone = at - datetime(1970, 1, 1, tzinfo=UTC)
        return (gone.days * DAY + gone.seconds) * MICROS + gone.microseconds
    if seconds != seconds:
        raise BadRequest(f"{name}: expected a time, got {text!r:.100}")
    return round(min(max(seconds, FIRST), LATEST) * MICROS)
