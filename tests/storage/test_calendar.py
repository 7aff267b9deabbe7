"""Resolutions and calendars against an oracle that asks the clock on the wall, one instant at a time."""

import itertools
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.calendar import (
    AHEAD,
    DAY,
    KNOWN,
    MICROS,
    RUNGS,
    YEAR_ONE,
    Calendar,
    Resolution,
    Seconds,
    Unit,
    parse,
    parse_short,
    rung,
)
from storage.errors import BadRequest, UnknownResolution

EPOCH = date(1970, 1, 1)
WEEKDAYS = range(5)  # Monday to Friday


class Market(NamedTuple):
    """A calendar, and its hours as a person would write them down: minutes from midnight of the trading date."""

    session: str
    timezone: str
    hours: tuple[tuple[int, int], ...]
    weekdays: tuple[int, ...] | range = range(7)

    @property
    def calendar(self) -> Calendar:
        return Calendar.parse(self.session, self.timezone)


ALL_DAY = ((0, 1440),)
MARKETS = [
    Market("24x7", "Etc/UTC", ALL_DAY),
    Market("0930-1600", "America/New_York", ((570, 960),), WEEKDAYS),
    Market("1700-1600", "America/Chicago", ((-420, 960),), WEEKDAYS),
    Market("0915-1530", "Asia/Kolkata", ((555, 930),), WEEKDAYS),
    Market("24x7", "Asia/Kolkata", ALL_DAY),
    Market("2100-0230,0900-1130,1330-1500", "Asia/Shanghai", ((-180, 150), (540, 690), (810, 900)), WEEKDAYS),
    Market("2000-2000:1234567", "Etc/UTC", ((-240, 1200),)),
    Market("1700-1600:1", "America/New_York", ((-420, 960),), (6,)),
    # Midnight is skipped, or shown twice, or belongs to a date that never was.
    Market("24x7", "America/Sao_Paulo", ALL_DAY),
    Market("24x7", "America/St_Johns", ALL_DAY),
    Market("24x7", "America/Havana", ALL_DAY),
    Market("24x7", "Africa/Cairo", ALL_DAY),
    Market("24x7", "Australia/Lord_Howe", ALL_DAY),
    Market("24x7", "Pacific/Apia", ALL_DAY),
    # The cut itself is skipped in spring, or shown twice in autumn.
    Market("0230-0200:1234567", "America/New_York", ((-1290, 120),)),
    Market("0130-0100:1234567", "America/New_York", ((-1350, 60),)),
]
markets = st.sampled_from(MARKETS)


@cache
def changes(timezone: str) -> list[int]:
    """UTC seconds of days on which the clock of this zone changed."""
    zone = ZoneInfo(timezone)
    found = []
    for day in range((date(2040, 1, 1) - EPOCH).days):
        now, then = (datetime.fromtimestamp(d * DAY, zone).utcoffset() for d in (day, day + 1))
        if now != then:
            found.append(day * DAY)
    return found or [0]


@st.composite
def instants(draw: st.DrawFn, timezone: str) -> Seconds:
    """Some µs, half of them around changes of the clock."""
    anywhere = st.integers(0, 4_000_000_000 * MICROS)
    around = st.builds(
        lambda change, minutes, micros: (change + minutes * 60) * MICROS + micros,
        st.sampled_from(changes(timezone)),
        st.integers(-3000, 4500),
        st.sampled_from((0, 0, 1, 59_999_999, 31_000_000)),
    )
    return np.array(draw(st.lists(anywhere | around, min_size=1, max_size=30)), np.int64)


def trading_date(market: Market, micros: int) -> date:
    """The trading date by the definition: of the session that the wall clock is in, or else of the wall clock."""
    zone = ZoneInfo(market.timezone)
    seconds = micros // MICROS
    now = datetime.fromtimestamp(seconds, zone)
    wall = now.replace(tzinfo=None)
    if now.fold:  # the clock was put back: a date that has begun does not end again
        before = (datetime.fromtimestamp(seconds - 60 * m, zone).replace(tzinfo=None) for m in range(1, 240))
        wall = max(wall, *before)
    for day in (wall.date(), wall.date() + timedelta(1)):
        midnight = datetime(day.year, day.month, day.day)
        for start, end in market.hours if day.weekday() in market.weekdays else ():
            if midnight + timedelta(minutes=start) <= wall < midnight + timedelta(minutes=end):
                return day
    return wall.date()


def seconds_of(day: date) -> int:
    return (day - EPOCH).days * DAY


def array(*values: int) -> Seconds:
    return np.array(values, np.int64)


def named(text: str) -> list[Resolution]:
    return [parse(name) for name in text.split()]


resolutions = st.one_of(
    st.builds(Resolution, st.integers(1, DAY - 1).filter(lambda n: n % 60), st.just("S")),
    st.builds(Resolution, st.integers(1, 1440), st.just("")),
    st.builds(Resolution, st.integers(1, 365), st.just("D")),
    st.builds(Resolution, st.integers(1, 52), st.just("W")),
    st.builds(Resolution, st.integers(1, 12), st.just("M")),
    st.sampled_from(named("1S 30S 1 3 5 7 15 45 60 240 1440 1D 2D 3D 1W 2W 1M 3M")),
)


# Names


@given(resolutions)
def test_every_resolution_is_found_again_by_both_of_its_names(resolution: Resolution) -> None:
    assert parse(resolution.name) == resolution
    assert parse_short(resolution.short) == resolution
    assert str(resolution) == resolution.name


@pytest.mark.parametrize(
    ("text", "name", "short"),
    [
        ("D", "1D", "1d"),
        ("1d", "1D", "1d"),
        ("W", "1W", "1w"),
        ("2w", "2W", "2w"),
        ("M", "1M", "1M"),
        ("S", "1S", "1s"),
        ("10s", "10S", "10s"),
        ("1", "1", "1m"),
        ("45", "45", "45m"),
        ("60", "60", "1h"),
        ("90", "90", "90m"),
        ("240", "240", "4h"),
        ("H", "60", "1h"),
        ("1H", "60", "1h"),
        ("4h", "240", "4h"),
        ("24H", "1440", "24h"),
        ("60S", "1", "1m"),
        ("90S", "90S", "90s"),
        ("3600S", "60", "1h"),
        ("86400S", "1440", "24h"),
    ],
)
def test_many_spellings_are_one_name(text: str, name: str, short: str) -> None:
    assert parse(text).name == name
    assert parse(text).short == short


@pytest.mark.parametrize("text", ["1s", "1m", "5m", "15m", "30m", "1h", "4h", "1d", "1w", "1M", "45m", "2d"])
def test_short_names_that_clients_use_stay_as_they_are(text: str) -> None:
    assert parse_short(text).short == text


def test_a_minute_and_a_month_differ_by_case_alone() -> None:
    assert parse_short("1m") == parse("1")
    assert parse_short("1M") == parse("1M")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("1m", "a minute is '1', a month is '1M'"),
        ("m", "a minute is '1', a month is '1M'"),
        ("5m", "5 minutes are '5', 5 months are '5M'"),
        ("0", "expected '1S'"),
        ("0D", "expected '1S'"),
        ("-5", "expected '1S'"),
        ("", "expected '1S'"),
        (" 1", "expected '1S'"),
        ("1 D", "expected '1S'"),
        ("1D\n", "expected '1S'"),
        ("1.5", "expected '1S'"),
        ("05", "expected '1S'"),
        ("١", "expected '1S'"),
        ("1T", "expected '1S'"),
        ("10R", "expected '1S'"),
        ("1Y", "expected '1S'"),
        ("1DD", "expected '1S'"),
        ("D1", "expected '1S'"),
        ("9" * 50, "expected '1S'"),
        ("1441", "minutes go from 1 to 1440"),
        ("25H", "hours go from 1 to 24"),
        ("86401S", "seconds go from 1 to 86400"),
        ("366D", "days go from 1 to 365"),
        ("53W", "weeks go from 1 to 52"),
        ("13M", "months go from 1 to 12"),
    ],
)
def test_what_names_no_resolution_is_refused_with_the_value_and_a_way_out(text: str, hint: str) -> None:
    with pytest.raises(UnknownResolution) as refused:
        parse(text)
    assert hint in str(refused.value)
    assert repr(text)[:30] in str(refused.value)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("5", "5 minutes are '5m'"),
        ("1D", "here it is '1d'"),
        ("1H", "here it is '1h'"),
        ("m", "expected '1s'"),
        ("0m", "expected '1s'"),
        ("", "expected '1s'"),
        ("1441m", "minutes go from 1 to 1440"),
        ("1y", "expected '1s'"),
    ],
)
def test_a_wrong_timeframe_is_refused_with_the_value_and_a_way_out(text: str, hint: str) -> None:
    with pytest.raises(UnknownResolution) as refused:
        parse_short(text)
    assert hint in str(refused.value)
    assert repr(text) in str(refused.value)


def test_an_error_about_a_long_name_stays_short() -> None:
    with pytest.raises(UnknownResolution) as refused:
        parse("x" * 100_000)
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(("count", "unit"), [(0, "D"), (-1, ""), (366, "D"), (60, "S"), (120, "S")])
def test_a_resolution_that_has_no_name_cannot_be_made(count: int, unit: Unit) -> None:
    with pytest.raises(UnknownResolution):
        Resolution(count, unit)


def test_shorter_resolutions_sort_before_longer_ones() -> None:
    order = named("1S 59S 1 61S 5 15 60 240 1440 1D 2D 1W 4W 1M 52W 365D 12M")
    assert sorted(set(order)) == order
    assert max(order) == parse("12M")
    for shorter, longer in itertools.combinations(order, 2):
        assert shorter < longer
        assert shorter <= longer
        assert longer > shorter
        assert longer >= shorter
        assert not longer <= shorter
    assert len({parse("D"), parse("1D"), parse("60S"), parse("1")}) == 2


@pytest.mark.parametrize(
    ("name", "seconds"),
    [
        ("1S", 1),
        ("30S", 1),
        ("90S", 1),
        ("1", 60),
        ("3", 60),
        ("5", 300),
        ("10", 300),
        ("15", 900),
        ("45", 900),
        ("60", 3600),
        ("90", 900),
        ("240", 3600),
        ("1440", 3600),
        ("1D", DAY),
        ("2D", DAY),
        ("1W", DAY),
        ("3M", DAY),
    ],
)
def test_a_bar_is_merged_from_the_largest_stored_rung_that_divides_it(name: str, seconds: int) -> None:
    assert rung(parse(name)) == seconds


# Days


@given(st.data())
@settings(deadline=None, max_examples=300)
def test_the_trading_date_is_what_the_wall_clock_and_the_hours_say(data: st.DataObject) -> None:
    market = data.draw(markets)
    micros = data.draw(instants(market.timezone))
    expected = [seconds_of(trading_date(market, int(m))) for m in micros]
    assert market.calendar.day(micros).tolist() == expected


@pytest.mark.parametrize("market", MARKETS, ids=lambda m: f"{m.session} {m.timezone}")
def test_the_hours_around_changes_of_the_clock_have_their_trading_date(market: Market) -> None:
    for change in [*changes(market.timezone)[-20::4], seconds_of(date(2011, 12, 30))]:
        micros = np.arange(change - DAY // 2, change + 2 * DAY, 60 * 7, dtype=np.int64) * MICROS
        expected = [seconds_of(trading_date(market, int(m))) for m in micros]
        assert market.calendar.day(micros).tolist() == expected


@given(st.data())
@settings(deadline=None)
def test_days_never_go_back_and_every_instant_is_within_its_day(data: st.DataObject) -> None:
    market = data.draw(markets)
    micros = np.sort(data.draw(instants(market.timezone)))
    days = market.calendar.day(micros)
    assert (np.diff(days) >= 0).all()
    assert (days % DAY == 0).all()
    for instant, day in zip(micros.tolist(), days.tolist(), strict=True):
        start, end = market.calendar.span(parse("1D"), day)
        assert start <= instant < end
        assert start % (60 * MICROS) == 0


@given(st.data())
@settings(deadline=None, max_examples=30)
def test_a_day_does_not_depend_on_the_company_it_is_asked_in(data: st.DataObject) -> None:
    market = data.draw(markets)
    micros = data.draw(instants(market.timezone))
    fresh = Calendar(market.session, market.timezone)
    one_by_one = [int(fresh.day(micros[i : i + 1])[0]) for i in range(len(micros))]
    assert market.calendar.day(micros).tolist() == one_by_one


@pytest.mark.parametrize("market", [MARKETS[1], MARKETS[2], MARKETS[4], MARKETS[13]], ids=lambda m: m.timezone)
@pytest.mark.parametrize("way", [-1, 1])
def test_days_are_right_where_what_was_looked_up_ends(market: Market, way: int) -> None:
    for change in changes(market.timezone)[-2:]:
        every = np.arange(change - 2 * DAY, change + 3 * DAY, 1800, dtype=np.int64) * MICROS
        expected = [seconds_of(trading_date(market, int(m))) for m in every]
        for beside in range(-4, 5):
            fresh = Calendar(market.session, market.timezone)
            fresh.day(array(change + (way * AHEAD + beside) * DAY) * MICROS)
            found = [int(fresh.day(every[i : i + 1])[0]) for i in range(len(every))[::-way]][::-way]
            assert found == expected


def test_days_of_a_zone_with_odd_seconds_are_cut_at_whole_minutes() -> None:
    monrovia = Calendar.parse("24x7", "Africa/Monrovia")  # 44 minutes and 30 seconds behind until 1972
    start, end = monrovia.span(parse("1D"), seconds_of(date(1971, 7, 1)))
    assert datetime.fromtimestamp(start // MICROS, UTC) == datetime(1971, 7, 1, 0, 44, tzinfo=UTC)
    assert end - start == DAY * MICROS


def hours(calendar: Calendar, day: date) -> float:
    start, end = calendar.span(parse("1D"), seconds_of(day))
    return (end - start) / MICROS / 3600


def test_days_of_a_zone_have_23_or_25_hours_when_its_clock_changes() -> None:
    new_york = Calendar.parse("0930-1600", "America/New_York")
    assert [hours(new_york, date(2024, 3, d)) for d in (9, 10, 11)] == [24, 23, 24]
    assert [hours(new_york, date(2024, 11, d)) for d in (2, 3, 4)] == [24, 25, 24]
    lord_howe = Calendar.parse("24x7", "Australia/Lord_Howe")
    assert [hours(lord_howe, date(2024, 4, d)) for d in (6, 7, 8)] == [24, 24.5, 24]


def test_a_date_that_a_zone_left_out_has_no_hours() -> None:
    samoa = Calendar.parse("24x7", "Pacific/Apia")
    assert [hours(samoa, date(2011, 12, d)) for d in (29, 30, 31)] == [24, 0, 24]


def test_an_overnight_session_begins_its_date_on_the_evening_before() -> None:
    futures = Calendar.parse("1700-1600", "America/Chicago")
    sunday_evening = int(datetime(2024, 7, 14, 22, 0, tzinfo=UTC).timestamp())
    monday = seconds_of(date(2024, 7, 15))
    assert futures.day(array(sunday_evening * MICROS - 1, sunday_evening * MICROS)).tolist() == [monday - DAY, monday]
    assert futures.start_instant(parse("1D"), monday) == sunday_evening
    # No session of Saturday starts on Friday evening, so Friday lasts until its own midnight.
    assert [hours(futures, date(2024, 7, d)) for d in (12, 13, 14, 15, 16)] == [31, 24, 17, 24, 24]


def test_day_specific_hours_hold_for_their_days_alone() -> None:
    calendar = Calendar.parse("0930-1600|1800-1700:2|1000-1200,1300-1500:7", "America/New_York")
    monday, tuesday, saturday, sunday = (calendar.sessions[d] for d in (0, 1, 5, 6))
    assert monday == ((-360, 1020),)
    assert tuesday == ((570, 960),)
    assert saturday == ((600, 720), (780, 900))
    assert sunday == ()
    assert [hours(calendar, date(2024, 7, d)) for d in (14, 15, 16)] == [18, 30, 24]


def test_whole_days_may_be_written_in_several_ways() -> None:
    for text in ("24x7", "24X7", "0000-0000:1234567", "0000-2400:1234567", "0000-2400|0000-0000:17"):
        assert Calendar.parse(text).sessions == (((0, 1440),),) * 7


@pytest.mark.parametrize("name", ["Etc/UTC", "UTC", "GMT", "Etc/GMT"])
def test_names_of_utc_all_take_the_fast_way_and_agree(name: str) -> None:
    micros = array(-1, 0, DAY * MICROS - 1, DAY * MICROS, 1_700_000_000_123_456)
    assert Calendar.parse("24x7", name).day(micros).tolist() == [-DAY, 0, 0, DAY, 1_699_920_000]


def test_no_instants_have_no_days_and_no_buckets() -> None:
    for market in MARKETS[:3]:
        assert market.calendar.day(array()).tolist() == []
        for name in ("7", "1D", "2D", "1W", "1M"):
            assert market.calendar.bucket(parse(name), array()).tolist() == []
            assert market.calendar.ends(parse(name), array()).tolist() == []


@pytest.mark.parametrize("market", MARKETS[:4], ids=lambda m: f"{m.session} {m.timezone}")
def test_days_go_on_where_no_zone_is_known_any_more(market: Market) -> None:
    fresh = Calendar(market.session, market.timezone)
    for known, way in zip(KNOWN, (-1, 1), strict=True):
        dates = (known + way * np.array([0, *range(AHEAD - 3, AHEAD + 4), 2 * AHEAD, 300_000])) * DAY
        starts = array(*(fresh.start_instant(parse("1D"), t) for t in dates.tolist()))
        assert fresh.day(starts * MICROS).tolist() == dates.tolist()
        assert fresh.day(starts * MICROS - 1).tolist() == (dates - DAY).tolist()


def test_equal_texts_share_one_calendar() -> None:
    assert Calendar.parse("0930-1600", "America/New_York") is Calendar.parse("0930-1600", "America/New_York")
    assert repr(Calendar.parse()) == "Calendar('24x7', 'Etc/UTC')"


@pytest.mark.parametrize(
    ("session", "why"),
    [
        ("", "'' is no pair of times"),
        ("24x5", "'24x5' is no pair of times"),
        ("0930", "'0930' is no pair of times"),
        ("930-1600", "'930-1600' is no pair of times"),
        ("09:30-16:00", "'09' is no pair of times"),
        ("0930-2500", "'0930-2500' is no pair of times"),
        ("0960-1600", "'0960-1600' is no pair of times"),
        ("0930-1600,", "'' is no pair of times"),
        ("0930-1600|", "'' is no pair of times"),
        ("0930-1600:", "'' is no list of days"),
        ("0930-1600:08", "'08' is no list of days"),
        ("0930-1600:2:3", "'2:3' is no list of days"),
        ("0930-1600:MON", "'MON' is no list of days"),
        ("0930-1600|1000-1700", "second section without days"),
        ("0930-1600:2|1000-1700:23", "day 2 has two sections"),
        ("0930-1600,1500-1700", "two sessions overlap"),
        ("1700-1600|0900-1800:2", "two sessions overlap"),
        ("0900-1800:7|1700-1600:1", "two sessions overlap"),
        ("1;0930-1600", "'1;0930-1600' is no pair of times"),
        ("1700F1-1600", "'1700F1-1600' is no pair of times"),
    ],
)
def test_a_session_that_makes_no_sense_is_refused_with_the_part_at_fault(session: str, why: str) -> None:
    with pytest.raises(BadRequest) as refused:
        Calendar.parse(session, "Etc/UTC")
    assert why in str(refused.value)
    assert f"session {session!r}" in str(refused.value)


@pytest.mark.parametrize("name", ["", "Mars/Olympus", "localtime", "../../etc/passwd", "America", "EST5EDT4", "/UTC"])
def test_a_zone_that_does_not_exist_is_refused_by_name(name: str) -> None:
    with pytest.raises(BadRequest) as refused:
        Calendar.parse("24x7", name)
    assert f"no time zone named {name!r}" in str(refused.value)


def test_a_misspelt_zone_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(BadRequest, match="did you mean 'America/New_York'"):
        Calendar.parse("24x7", "America/NewYork")


# Buckets


def intraday_bucket(resolution: Resolution, t: int) -> tuple[int, int]:
    """Start and end of an intraday bucket, by the clock."""
    now = datetime.fromtimestamp(t, UTC)
    midnight = datetime(now.year, now.month, now.day, tzinfo=UTC)
    nth = (now - midnight) // timedelta(seconds=resolution.seconds)
    start = midnight + nth * timedelta(seconds=resolution.seconds)
    end = min(start + timedelta(seconds=resolution.seconds), midnight + timedelta(1))
    return int(start.timestamp()), int(end.timestamp())


@given(resolutions.filter(lambda r: r.intraday), st.lists(st.integers(0, 4_000_000_000), min_size=1, max_size=20))
def test_intraday_buckets_lie_on_the_utc_grid_and_start_again_each_day(resolution: Resolution, t: list[int]) -> None:
    calendar = Calendar.parse("1700-1600", "America/Chicago")
    expected = [intraday_bucket(resolution, each) for each in t]
    assert calendar.bucket(resolution, array(*t)).tolist() == [start for start, _ in expected]
    assert calendar.next(resolution, array(*t)).tolist() == [end for _, end in expected]
    assert calendar.ends(resolution, array(*t)).tolist() == [end for _, end in expected]
    assert [calendar.end_instant(resolution, each) for each in t] == [end for _, end in expected]
    assert calendar.span(resolution, t[0]) == (expected[0][0] * MICROS, expected[0][1] * MICROS)


def dates_by_group(weekdays: tuple[int, ...] | range, unit: str, count: int, first: int, last: int) -> list[list[date]]:
    """Every date of some years, in groups of `count` days, weeks or months from the start of each year."""
    groups: list[list[date]] = []
    nth, year, month = -1, 0, 0
    for each in (date(first, 1, 1) + timedelta(d) for d in range((date(last, 1, 1) - date(first, 1, 1)).days)):
        match unit:
            case "D":
                begins = each.weekday() in weekdays
            case "W":
                begins = each.weekday() == 0
            case _:
                begins = each.month != month
        month = each.month
        if begins:
            nth = nth + 1 if each.year == year else 0
            year = each.year
            if nth % count == 0:
                groups.append([])
        if groups:
            groups[-1].append(each)
    return groups


@pytest.mark.parametrize("resolution", named("2D 3D 5D 7D 100D 365D 1W 2W 3W 5W 52W 1M 2M 3M 5M 7M 12M"), ids=str)
@pytest.mark.parametrize("market", [MARKETS[0], MARKETS[1], MARKETS[2], MARKETS[7]], ids=lambda m: m.session)
def test_days_weeks_and_months_are_counted_from_the_start_of_each_year(market: Market, resolution: Resolution) -> None:
    calendar = market.calendar
    # The first group may have begun before the first date, and the last may end after the last.
    groups = dates_by_group(market.weekdays, resolution.unit, resolution.count, 2007, 2030)[1:-1]
    labels = array(*(seconds_of(group[0]) for group in groups))
    dates = array(*(seconds_of(each) for group in groups for each in group))
    owners = np.repeat(np.arange(len(groups)), [len(group) for group in groups])

    assert (calendar.bucket(resolution, dates) == labels[owners]).all()
    follows = np.append(labels[1:], dates[-1] + DAY)
    assert (calendar.next(resolution, dates) == follows[owners]).all()
    # One at a time, as a live market asks, and far apart, as no shared date helps.
    few = np.random.default_rng(7).integers(0, len(dates), 40)
    for i in few.tolist():
        assert calendar.bucket(resolution, dates[i : i + 1]).tolist() == [labels[owners[i]]]
        assert calendar.end_instant(resolution, int(dates[i])) == calendar.start_instant(
            resolution, int(follows[owners[i]])
        )
        for n in {0, min(1, int(owners[i])), int(owners[i]) // 2, int(owners[i])}:
            assert calendar.back(resolution, int(dates[i]), n) == labels[owners[i] - n]


def test_two_days_of_a_weekday_market_are_trading_days() -> None:
    calendar = Calendar.parse("0930-1600", "America/New_York")
    # 2024 begins on a Monday: Monday and Tuesday, Wednesday and Thursday, Friday and the next Monday.
    week = array(*(seconds_of(date(2024, 1, d)) for d in range(1, 10)))
    days = [int(t) // DAY - (date(2024, 1, 1) - EPOCH).days + 1 for t in calendar.bucket(parse("2D"), week)]
    assert days == [1, 1, 3, 3, 5, 5, 5, 5, 9]
    # A Saturday bar exists only if somebody traded; it is its own day, and goes with Friday in longer ones.
    assert calendar.bucket(parse("1D"), week).tolist() == week.tolist()


def test_weeks_start_on_monday_and_belong_to_the_year_of_their_monday() -> None:
    calendar = Calendar.parse()
    assert calendar.bucket(parse("1W"), array(seconds_of(date(2024, 7, 21)))).tolist() == [
        seconds_of(date(2024, 7, 15))
    ]
    # 2023 begins on a Sunday: its first week is that of 2 January, and 1 January is still of 2022.
    new_year = array(*(seconds_of(date(2023, 1, d)) for d in (1, 2, 15, 16)))
    assert calendar.bucket(parse("2W"), new_year).tolist() == [
        seconds_of(d) for d in (date(2022, 12, 19), date(2023, 1, 2), date(2023, 1, 2), date(2023, 1, 16))
    ]


@given(st.data())
@settings(deadline=None)
def test_buckets_are_idempotent_monotone_and_before_what_they_hold(data: st.DataObject) -> None:
    calendar = data.draw(markets).calendar
    resolution = data.draw(resolutions)
    t = np.sort(array(*data.draw(st.lists(st.integers(-10_000_000_000, 10_000_000_000), min_size=1, max_size=50))))
    if not resolution.intraday:
        t = t // DAY * DAY
    start, following = calendar.bucket(resolution, t), calendar.next(resolution, t)
    assert (start <= t).all()
    assert (t < following).all()
    assert (np.diff(start) >= 0).all()
    assert (calendar.bucket(resolution, start) == start).all()
    assert (calendar.bucket(resolution, following) == following).all()
    assert (calendar.bucket(resolution, following - 1) == start).all()


@given(st.data())
@settings(deadline=None)
def test_each_stored_rung_lies_within_the_next_and_the_longer_ones_within_none_but_their_own(
    data: st.DataObject,
) -> None:
    calendar = data.draw(markets).calendar
    resolution = data.draw(resolutions)
    seconds = array(*data.draw(st.lists(st.integers(0, 4_000_000_000), min_size=1, max_size=50)))
    for small, large in itertools.pairwise(RUNGS[:-1]):
        within = [parse(str(n // 60)) if n >= 60 else parse(f"{n}S") for n in (small, large)]
        once, twice = (calendar.bucket(r, seconds) for r in within)
        assert (calendar.bucket(within[1], once) == twice).all()
    # What a bar is merged from gives the same bucket as the events themselves.
    if resolution.intraday:
        length = rung(resolution)
        assert (calendar.bucket(resolution, seconds // length * length) == calendar.bucket(resolution, seconds)).all()


@given(st.data())
@settings(deadline=None)
def test_an_instant_is_in_the_span_of_its_bucket_and_spans_meet(data: st.DataObject) -> None:
    market = data.draw(markets)
    calendar = market.calendar
    resolution = data.draw(resolutions)
    micros = data.draw(instants(market.timezone))
    t = micros // MICROS if resolution.intraday else calendar.day(micros)
    starts, follows, ends = (f(resolution, t) for f in (calendar.bucket, calendar.next, calendar.ends))
    for i, instant in enumerate(micros.tolist()):
        begin, end = calendar.span(resolution, int(starts[i]))
        assert begin <= instant < end
        assert end == ends[i] * MICROS == calendar.end_instant(resolution, int(t[i])) * MICROS
        assert end == calendar.start_instant(resolution, int(follows[i])) * MICROS


@given(st.data())
@settings(deadline=None)
def test_going_back_n_buckets_and_forward_again_comes_to_the_same_one(data: st.DataObject) -> None:
    calendar = data.draw(markets).calendar
    resolution = data.draw(resolutions)
    t = data.draw(st.integers(-1_000_000_000, 4_000_000_000))
    t = t if resolution.intraday else t // DAY * DAY
    n = data.draw(st.integers(0, 60))
    found = array(calendar.back(resolution, t, n))
    assert calendar.bucket(resolution, found) == found
    for _ in range(n):
        found = calendar.next(resolution, found)
    assert found == calendar.bucket(resolution, array(t))


@pytest.mark.parametrize("market", MARKETS, ids=lambda m: f"{m.session} {m.timezone}")
@pytest.mark.parametrize("resolution", named("1S 7 1D 3D 2W 1M 5M"), ids=str)
def test_asking_too_far_back_or_from_a_senseless_time_ends_at_year_one(market: Market, resolution: Resolution) -> None:
    for t in (1_700_000_000, -(10**15), 10**15):
        found = market.calendar.back(resolution, t, 10**18)
        assert YEAR_ONE * DAY <= found < (YEAR_ONE + 14) * DAY
        start, end = market.calendar.span(resolution, found)
        assert start < end
