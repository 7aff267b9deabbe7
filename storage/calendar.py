"""Resolutions, their names on every wire, and where each bucket begins and ends.

Three questions are kept apart. Which trading date does an instant belong to: `Calendar.day`. Which bucket does a stored
bar belong to: `Calendar.bucket`, where an intraday bar's `t` is a UTC second and a daily bar's `t` is 00:00 UTC of its
trading date. And when is a bucket over in real time: `Calendar.end_instant`.

The intraday grid is the UTC epoch; a length that does not divide a day starts again at each UTC day. Days, weeks and
months are counted as the TradingView chart library counts them: in groups of n from the start of each year.
"""

import difflib
import functools
import itertools
import re
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final, Literal, NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from storage.errors import BadRequest, UnknownResolution

Seconds = NDArray[np.int64]
Unit = Literal["S", "", "D", "W", "M"]

DAY: Final = 86_400
MICROS: Final = 1_000_000
RUNGS: Final[tuple[int, ...]] = (1, 60, 300, 900, 3600, DAY)
"""The lengths that are stored, in seconds; the last one is the trading day, which may have 23 or 25 hours."""

# A month counts as the mean Gregorian month, where only its rough length matters.
LENGTH: Final[dict[Unit, int]] = {"S": 1, "": 60, "D": DAY, "W": 7 * DAY, "M": 2_629_746}
MOST: Final[dict[Unit, int]] = {"S": DAY, "": 1440, "D": 365, "W": 52, "M": 12}
NOUN: Final[dict[Unit, str]] = {"S": "seconds", "": "minutes", "D": "days", "W": "weeks", "M": "months"}
RANK: Final[dict[Unit, int]] = {unit: rank for rank, unit in enumerate(LENGTH)}

NAMES: Final = "'1S', '1', '5', '60', '4H', '1D', '1W' or '1M', or another multiple of these"
SHORTS: Final = "'1s', '1m', '5m', '1h', '4h', '1d', '1w' or '1M', or another multiple of these"


class Resolution(Struct, frozen=True):
    """The length of a bar; equal ones are the same stream of bars, and shorter ones sort first.

    Seconds that are whole minutes must be written as minutes, which `parse` sees to: `60S` and `1` are one stream.
    `1440` is not `1D`: the first is the UTC day, the second the market's trading day.
    """

    count: int
    unit: Unit  # "" is minutes, as in UDF

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MOST[self.unit]:
            raise UnknownResolution(
                f"unknown resolution {f'{self.count}{self.unit}'!r}: {NOUN[self.unit]} go from 1 to {MOST[self.unit]}"
            )
        if self.unit == "S" and self.count % 60 == 0:
            raise UnknownResolution(f"{self.count} seconds are written as minutes: '{self.count // 60}'")

    @property
    def name(self) -> str:
        """Its one name on UDF and `/ws`: `1S`, `1`, `240`, `1D`, `1W`, `1M`."""
        return f"{self.count}{self.unit}"

    @property
    def short(self) -> str:
        """Its one name on Lightweight and the command line: `1s`, `1m`, `4h`, `1d`, `1w`, `1M`."""
        if self.unit == "":
            return f"{self.count}m" if self.count % 60 else f"{self.count // 60}h"
        return f"{self.count}{self.unit if self.unit == 'M' else self.unit.lower()}"

    @property
    def intraday(self) -> bool:
        """Seconds and minutes, which lie on the UTC grid; the others are made of trading days."""
        return self.unit in ("S", "")

    @property
    def seconds(self) -> int:
        """Its nominal length: exact within the day, rough above it."""
        return self.count * LENGTH[self.unit]

    def __str__(self) -> str:
        return self.name

    def _order(self) -> tuple[int, int]:
        return self.seconds, RANK[self.unit]

    def __lt__(self, other: "Resolution") -> bool:
        return self._order() < other._order()

    def __le__(self, other: "Resolution") -> bool:
        return self._order() <= other._order()

    def __gt__(self, other: "Resolution") -> bool:
        return self._order() > other._order()

    def __ge__(self, other: "Resolution") -> bool:
        return self._order() >= other._order()


def rung(resolution: Resolution) -> int:
    """The largest stored rung that `resolution` can be merged from.

    `1440` is merged from hours, not from the trading day, which may begin at another instant than the UTC day.
    """
    if not resolution.intraday:
        return DAY
    return max(r for r in RUNGS if r < DAY and resolution.seconds % r == 0)


@functools.lru_cache(maxsize=1024)
def parse(text: str) -> Resolution:
    """The resolution with this TradingView name: `D` is `1D`, `1H` is `60`, `60S` is `1`, and `1m` is refused."""
    match = re.fullmatch(r"([1-9][0-9]{0,7})?([SHDWMshdwm]?)", text)
    if match is None or not text:
        raise UnknownResolution(f"unknown resolution {_shown(text)}: expected {NAMES}")
    count, letter = match[1] or "1", match[2]
    if letter == "m":
        raise UnknownResolution(
            f"unknown resolution {_shown(text)}: "
            + (
                "a minute is '1', a month is '1M'"
                if count == "1"
                else f"{count} minutes are '{count}', {count} months are '{count}M'"
            )
        )
    return _canonical(text, int(count), letter.upper())


@functools.lru_cache(maxsize=1024)
def parse_short(text: str) -> Resolution:
    """The resolution with this short name, where case matters: `1m` is a minute and `1M` a month."""
    match = re.fullmatch(r"([1-9][0-9]{0,7})([smhdwM])", text)
    if match is None:
        hint = ""
        if re.fullmatch(r"[1-9][0-9]{0,7}", text):
            hint = f"; {text} minutes are '{text}m'"
        elif re.fullmatch(r"[1-9][0-9]{0,7}[SHDW]", text):
            hint = f"; here it is '{text.lower()}'"
        raise UnknownResolution(f"unknown timeframe {_shown(text)}: expected {SHORTS}{hint}")
    return _canonical(text, int(match[1]), "" if match[2] == "m" else match[2].upper())


def _canonical(text: str, count: int, letter: str) -> Resolution:
    """The one form of `count` times `letter`: hours are minutes, and so are seconds that are whole minutes."""
    unit: Unit
    match letter:
        case "H":
            count, unit, most, noun = count * 60, "", "24", "hours"
        case "S" | "" | "D" | "W" | "M":
            unit, most, noun = letter, str(MOST[letter]), NOUN[letter]
        case _:
            raise UnknownResolution(f"unknown resolution {_shown(text)}: expected {NAMES}")
    if count > MOST[unit]:
        raise UnknownResolution(f"unknown resolution {_shown(text)}: {noun} go from 1 to {most}")
    if unit == "S" and count % 60 == 0:
        count, unit = count // 60, ""
    return Resolution(count, unit)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:39] + "…")


class Calendar:
    """A market's trading days: which instants belong to which date, and how dates make weeks, months and groups.

    A trading date is the local date of the session's end. Sessions cut days and drop nothing: what happens outside
    every session belongs to its local date. Each date therefore lasts from its *cut*, which is its local midnight or
    the evening before, when its overnight session starts, to the cut of the next date. A cut that a clock change
    skips is the instant of the change, one that it shows twice is the first of the two.
    """

    __slots__ = ("_cuts", "_offsets", "_plain", "_table", "_traded", "_zone", "session", "sessions", "timezone")

    def __init__(self, session: str, timezone: str) -> None:
        self.session = session
        self.timezone = timezone
        self.sessions = _sessions(session)
        """Per weekday, Monday first, the (start, end) minutes of its sessions; a start before midnight is negative."""
        self._zone = _zone(timezone)
        self._cuts = tuple(min((0, *(start for start, _ in day))) for day in self.sessions)
        self._plain = self._zone is UTC and not any(self._cuts)
        self._traded = tuple(day for day in range(7) if self.sessions[day])
        self._offsets = np.array(self._traded, np.int64)
        self._table = _Table(0, np.empty(0, np.int64))

    @staticmethod
    def parse(session: str = "24x7", timezone: str = "Etc/UTC") -> "Calendar":
        """The calendar of a session in TradingView's notation and an IANA time zone; equal texts share one.

        Sessions: `24x7`, `0930-1600` (Monday to Friday), `0930-1600:23456` (1 is Sunday), several hours of a day with
        `,`, several groups of days with `|`. Hours that end no later than they start began the evening before.
        """
        return _calendar(session, timezone)

    def __repr__(self) -> str:
        return f"Calendar({self.session!r}, {self.timezone!r})"

    # Instants and dates

    def day(self, times_us: Seconds) -> Seconds:
        """The daily bar that each instant, in µs, belongs to: 00:00 UTC of its trading date, in seconds."""
        if self._plain:
            return times_us // (DAY * MICROS) * DAY
        return self._dates(times_us // MICROS) * DAY

    def _dates(self, seconds: Seconds) -> Seconds:
        """The trading date, as days since 1970, of each UTC second."""
        if not len(seconds):
            return seconds
        low, high = int(seconds.min()), int(seconds.max())
        # A date begins at most 38 hours before and 12 hours after its 00:00 UTC, and the next one is needed too.
        first, cuts = self._covering(low // DAY - 1, high // DAY + 3)
        if low < cuts[0] or high >= cuts[-1]:
            inside = np.clip(seconds, cuts[0], cuts[-1])
            found = first + np.searchsorted(cuts, inside, "right") - 1
            return np.asarray(found + (seconds - inside) // DAY, np.int64)
        # Most batches lie within one day, and few touch many.
        start, end = (int(i) for i in np.searchsorted(cuts, (low, high), "right"))
        if start == end:
            return np.full(len(seconds), first + start - 1, np.int64)
        return np.asarray(first + start - 1 + np.searchsorted(cuts[start:end], seconds, "right"), np.int64)

    def _begins(self, dates: Seconds) -> Seconds:
        """The UTC second at which each trading date, as days since 1970, begins."""
        if self._plain or not len(dates):
            return dates * DAY
        first, cuts = self._covering(int(dates.min()), int(dates.max()))
        inside = np.clip(dates, first, first + len(cuts) - 1)
        return np.asarray(cuts[inside - first] + (dates - inside) * DAY, np.int64)

    def _covering(self, low: int, high: int) -> "_Table":
        """The cuts of at least the dates `low` to `high`, as far as zones are known; beyond, days have 24 hours."""
        table = self._table
        low, high = (min(max(date, KNOWN[0]), KNOWN[1]) for date in (low, high))
        if not len(table.cuts):
            table = self._table = _Table(low - AHEAD, self._computed(low - AHEAD, high + AHEAD))
        elif low < table.first or high >= table.first + len(table.cuts):
            # Another thread may do the same; each stores a whole table, and any of them will do.
            start, end = table.first, table.first + len(table.cuts)
            before = self._computed(low - AHEAD, start) if low < start else table.cuts[:0]
            after = self._computed(end, high + AHEAD) if high >= end else table.cuts[:0]
            table = self._table = _Table(start - len(before), np.concatenate((before, table.cuts, after)))
        return table

    def _computed(self, low: int, end: int) -> Seconds:
        midnight = datetime(1970, 1, 1, tzinfo=self._zone) + timedelta(low)
        found = np.empty(max(end - low, 0), np.int64)
        for i in range(end - low):
            minutes = self._cuts[(low + i + 3) % 7]  # 1970-01-01 was a Thursday
            found[i] = _reached(midnight + timedelta(i, 0, 0, 0, minutes), (low + i) * DAY + minutes * 60)
        # Old zones have odd seconds; whole minutes keep every bar below the day within one day.
        return found // 60 * 60

    # Buckets

    def bucket(self, resolution: Resolution, t: Seconds) -> Seconds:
        """The start of the bucket that the bar at each `t` belongs to.

        For seconds and minutes `t` is a UTC second; for days, weeks and months it is the `t` of a daily bar. `1W`
        begins on Monday and belongs to the year of that Monday; `nW` counts weeks from the year's first Monday, `nM`
        months from January, `nD` the weekdays on which the market trades from 1 January. A date on which it does not
        trade stands alone as `1D` and belongs with the trading day before it as `nD`.
        """
        if resolution.intraday:
            length = resolution.seconds
            if DAY % length == 0:
                return t // length * length
            midnight = t // DAY * DAY
            return midnight + (t - midnight) // length * length
        return self._grouped(resolution, t // DAY)[0] * DAY

    def next(self, resolution: Resolution, t: Seconds) -> Seconds:
        """The start of the bucket after the one that each `t` belongs to."""
        if resolution.intraday:
            length = resolution.seconds
            if DAY % length == 0:
                return (t // length + 1) * length
            midnight = t // DAY * DAY
            return np.minimum(midnight + ((t - midnight) // length + 1) * length, midnight + DAY)
        return self._grouped(resolution, t // DAY)[1] * DAY

    def back(self, resolution: Resolution, t: int, n: int) -> int:
        """The start of the bucket `n` before the one that `t` belongs to, as if none were empty; at least year 1."""
        if resolution.intraday:
            length = resolution.seconds
            daily = -(-DAY // length)
            date, within = divmod(t, DAY)
            date, nth = divmod(date * daily + within // length - n, daily)
            return max(date * DAY + nth * length, YEAR_ONE * DAY)
        date = min(max(t // DAY, YEAR_ONE + 7), YEAR_LAST)
        if resolution == ONE_DAY:
            return max(date - n, YEAR_ONE) * DAY
        unit, count = resolution.unit, resolution.count
        # Years differ in their number of groups, so count them from year one to the year of `t`, and back again.
        number = int(self._number(unit, np.array([date]))[0])
        year = int(self._date(unit, np.array([number])).view("M8[D]").astype("M8[Y]").astype(np.int64)[0])
        firsts = self._first(unit, np.arange(1 - 1970, year + 2))
        groups = np.concatenate(([0], np.cumsum(-(-np.diff(firsts) // count))))
        wanted = max(int(groups[-2]) + (number - int(firsts[-2])) // count - n, 0)
        place = min(int(np.searchsorted(groups, wanted, "right")) - 1, len(firsts) - 2)
        found = firsts[place] + (wanted - groups[place]) * count
        return int(self._date(unit, np.array([found]))[0]) * DAY

    def ends(self, resolution: Resolution, t: Seconds) -> Seconds:
        """The UTC second at which each bucket is over; of a day, week or month by the market's own clock."""
        following = self.next(resolution, t)
        return following if resolution.intraday else self._begins(following // DAY)

    def start_instant(self, resolution: Resolution, t: int) -> int:
        """The UTC second at which the bucket that `t` belongs to begins."""
        start = self.bucket(resolution, np.array([t]))
        return int((start if resolution.intraday else self._begins(start // DAY))[0])

    def end_instant(self, resolution: Resolution, t: int) -> int:
        """The UTC second at which the bucket that `t` belongs to is over; events before it may still fall in."""
        if resolution.intraday:
            length = resolution.seconds
            midnight = t // DAY * DAY
            return min(midnight + ((t - midnight) // length + 1) * length, midnight + DAY)
        return int(self.ends(resolution, np.array([t]))[0])

    def span(self, resolution: Resolution, t: int) -> tuple[int, int]:
        """From when (inclusive) until when (exclusive), in µs, events fall into the bucket that `t` belongs to."""
        return self.start_instant(resolution, t) * MICROS, self.end_instant(resolution, t) * MICROS

    def trading(self, low: int, high: int) -> Iterator[tuple[int, int]]:
        """When the market trades between two UTC seconds: stretches (from, to), the newest first; those that meet are
        one."""
        if all(day == ((0, 1440),) for day in self.sessions):
            yield low, high
            return
        open_from = open_to = 0
        for date in range(high // DAY + 2, low // DAY - 3, -1):
            midnight = datetime(1970, 1, 1, tzinfo=self._zone) + timedelta(date)
            for session in sorted(self.sessions[(date + 3) % 7], reverse=True):  # 1970-01-01 was a Thursday
                begin, end = (
                    _reached(midnight + timedelta(0, 0, 0, 0, minutes), date * DAY + minutes * 60)
                    for minutes in session
                )
                begin, end = max(begin, low), min(end, high)
                if begin >= end:
                    continue
                if end < open_from and open_from < open_to:
                    yield open_from, open_to
                    open_to = end
                open_from, open_to = begin, max(open_to, end)
        if open_from < open_to:
            yield open_from, open_to

    # Days, weeks and months are numbered without a break; each has a date, and each year a first one.

    def _grouped(self, resolution: Resolution, dates: Seconds) -> tuple[Seconds, Seconds]:
        """The first date of the group that each date is in, and of the group after it."""
        if resolution == ONE_DAY or not len(dates):
            return dates, dates + 1
        low, high = int(dates.min()), int(dates.max())
        if high - low < len(dates) // 2:  # calendars are slow, so ask once for each date
            firsts, follows = self._grouped(resolution, np.arange(low, high + 1))
            return firsts[dates - low], follows[dates - low]
        unit, count = resolution.unit, resolution.count
        number = self._number(unit, dates)
        if count == 1:
            return self._date(unit, number), self._date(unit, number + 1)
        # A week that began last year, or a weekend after its last trading day, is still last year's.
        year = self._date(unit, number).view("M8[D]").astype("M8[Y]").astype(np.int64)
        first = self._first(unit, year)
        start = first + (number - first) // count * count
        return self._date(unit, start), self._date(unit, np.minimum(start + count, self._first(unit, year + 1)))

    def _number(self, unit: Unit, dates: Seconds) -> Seconds:
        """The number of the trading day, week or month that each date is, or comes after."""
        if unit == "M":
            return dates.view("M8[D]").astype("M8[M]").astype(np.int64)
        week = (dates + 3) // 7  # 1970-01-01 was a Thursday
        if unit == "W":
            return week
        if len(self._traded) == 7:
            return dates
        passed = np.searchsorted(self._offsets, dates + 3 - week * 7, "right")
        return np.asarray(week * len(self._traded) + passed - 1, np.int64)

    def _date(self, unit: Unit, numbers: Seconds) -> Seconds:
        """The first date of each trading day, week or month."""
        if unit == "M":
            return numbers.view("M8[M]").astype("M8[D]").astype(np.int64)
        if unit == "W":
            return numbers * 7 - 3
        if len(self._traded) == 7:
            return numbers
        week = numbers // len(self._traded)
        return np.asarray(week * 7 - 3 + self._offsets[numbers - week * len(self._traded)], np.int64)

    def _first(self, unit: Unit, years: Seconds) -> Seconds:
        """The number of the first trading day, week or month that begins in each year, counted from 1970."""
        if unit == "M":
            return years * 12
        # The last one before 1 January, and one more.
        return self._number(unit, years.view("M8[Y]").astype("M8[D]").astype(np.int64) - 1) + 1


class _Table(NamedTuple):
    """The cuts, in UTC seconds, of consecutive dates from `first`, as days since 1970."""

    first: int
    cuts: Seconds


ONE_DAY: Final = Resolution(1, "D")

# Days since 1970. Between the first two the clock changes of zones count; the others bound what a date can be.
KNOWN: Final = tuple((datetime(year, 1, 1) - datetime(1970, 1, 1)).days for year in (1900, 2200))
YEAR_ONE: Final = (datetime(1, 1, 1) - datetime(1970, 1, 1)).days
YEAR_LAST: Final = (datetime(9999, 12, 31) - datetime(1970, 1, 1)).days

AHEAD: Final = 400
"""How many more dates than asked for are looked up at once, so that asking day by day is cheap."""

UTC_NAMES: Final = frozenset({"Etc/UTC", "UTC", "Etc/UCT", "UCT", "Etc/Zulu", "Zulu", "Etc/GMT", "GMT"})
MONDAY_TO_FRIDAY: Final = "23456"
SUNDAY_TO_SATURDAY: Final = "1234567"


@functools.lru_cache(maxsize=4096)
def _calendar(session: str, timezone: str) -> Calendar:
    return Calendar(session, timezone)


def _reached(wall: datetime, naive: int) -> int:
    """The first UTC second at which its zone's clock has come to `wall`; `naive` is that reading as seconds."""
    first, second = _offset(wall), _offset(wall.replace(fold=1))
    if second <= first:  # shown once, or twice: the first time
        return naive - first
    # Skipped: the clock jumped from before `wall` to after it somewhere between these two.
    before, after = naive - second, naive - first
    while after - before > 1:
        middle = (before + after) // 2
        if datetime.fromtimestamp(middle, wall.tzinfo).replace(tzinfo=None) >= wall.replace(tzinfo=None):
            after = middle
        else:
            before = middle
    return after


def _offset(wall: datetime) -> int:
    offset = wall.utcoffset()
    return offset.days * DAY + offset.seconds if offset else 0


@functools.lru_cache(maxsize=1)
def _zone_names() -> frozenset[str]:
    # A name is looked up among these, because the system may also hold files such as `localtime` that name no zone.
    return frozenset(zoneinfo.available_timezones() - {"localtime", "Factory", "posixrules"})


def _zone(name: str) -> tzinfo:
    if name in UTC_NAMES:  # needs no zone files
        return UTC
    if name not in _zone_names():
        near = difflib.get_close_matches(name[:40], _zone_names(), 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise BadRequest(f"no time zone named {_shown(name)}: expected an IANA name such as 'America/New_York'{hint}")
    return zoneinfo.ZoneInfo(name)


Hours = tuple[int, int]  # minutes from midnight of the trading date


def _sessions(text: str) -> tuple[tuple[Hours, ...], ...]:
    """The sessions of each weekday, Monday first, as TradingView's notation says."""
    if text.lower() == "24x7":
        return (((0, 1440),),) * 7
    usual: tuple[Hours, ...] | None = None
    special: dict[int, tuple[Hours, ...]] = {}
    for section in text.split("|"):
        hours, colon, days = section.partition(":")
        found = tuple(sorted(_hours(text, piece) for piece in hours.split(",")))
        if not colon:
            if usual is not None:
                raise _bad(text, f"{_shown(section)} is a second section without days")
            usual = found
            continue
        if not days or not set(days) <= set(SUNDAY_TO_SATURDAY):
            raise _bad(text, f"{_shown(days)} is no list of days from 1 (Sunday) to 7 (Saturday)")
        for digit in sorted(set(days)):
            if special.setdefault(_weekday(digit), found) is not found:
                raise _bad(text, f"day {digit} has two sections")
    if usual is not None:
        special = {_weekday(digit): usual for digit in MONDAY_TO_FRIDAY} | special
    # One week on a line, and its first session again a week later.
    line = sorted((day * 1440 + start, day * 1440 + end) for day, found in special.items() for start, end in found)
    line.append((line[0][0] + 7 * 1440, line[0][1] + 7 * 1440))
    for (_, end), (start, _) in itertools.pairwise(line):
        if start < end:
            raise _bad(text, "two sessions overlap, so an instant would belong to two dates")
    return tuple(special.get(day, ()) for day in range(7))


def _weekday(digit: str) -> int:
    return (int(digit) + 5) % 7  # TradingView's 1 is Sunday, our 0 is Monday


def _hours(text: str, piece: str) -> Hours:
    match = re.fullmatch(r"([01][0-9]|2[0-3])([0-5][0-9])-(?:([01][0-9]|2[0-3])([0-5][0-9])|2400)", piece)
    if match is None:
        raise _bad(text, f"{_shown(piece)} is no pair of times such as 0930-1600")
    start = int(match[1]) * 60 + int(match[2])
    end = int(match[3] or 24) * 60 + int(match[4] or 0)
    end = end or 1440  # midnight at the end of the day
    return (start, end) if start < end else (start - 1440, end)


def _bad(text: str, why: str) -> BadRequest:
    return BadRequest(f"session {_shown(text)}: {why}; expected '24x7', '0930-1600', '0930-1600:23456' or '1800-1700'")
