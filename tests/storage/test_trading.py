"""Trading hours as stretches of UTC time, against a look at the wall clock at every quarter of an hour."""

import itertools
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from storage.calendar import DAY, Calendar

STEP = 900


def is_open(calendar: Calendar, at: int) -> bool:
    wall = datetime.fromtimestamp(at, ZoneInfo(calendar.timezone))
    minute = wall.hour * 60 + wall.minute
    today, tomorrow = calendar.sessions[wall.weekday()], calendar.sessions[(wall + timedelta(1)).weekday()]
    return any(a <= minute < b for a, b in today) or any(a <= minute - 1440 < b for a, b in tomorrow)


@pytest.mark.parametrize(
    ("session", "timezone"),
    [
        ("24x7", "Etc/UTC"),
        ("24x7", "America/New_York"),
        ("0930-1600", "America/New_York"),
        ("1800-1700:23456", "America/New_York"),
        ("0900-1130,1230-1500", "Asia/Tokyo"),
        ("0000-2400", "Europe/Berlin"),
        ("0000-0100:1|2300-2400:7|0930-1600", "Europe/Berlin"),
    ],
)
@pytest.mark.parametrize("month", [3, 10])  # clocks change
def test_trading_hours_are_those_of_the_wall_clock(session: str, timezone: str, month: int) -> None:
    calendar = Calendar.parse(session, timezone)
    low = int(datetime(2025, month, 1, tzinfo=ZoneInfo("UTC")).timestamp()) + STEP
    high = low + 45 * DAY
    found = list(calendar.trading(low, high))
    assert all(a < b for a, b in found)
    assert all(later > end for (later, _), (_, end) in itertools.pairwise(found))  # newest first, apart
    known = {at for a, b in found for at in range(a, b, STEP)}
    assert known == {at for at in range(low, high, STEP) if is_open(calendar, at)}
