"""Calendars against markets that others recorded: their daily bars, their hours, their evening opens."""

import csv
import gzip
import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow.parquet as pq
import pytest

from storage.calendar import DAY, MICROS, Calendar, parse

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "tests" / "data"
FULL = ROOT.parent / "shared" / "data"
needs_full = pytest.mark.skipif(not FULL.exists(), reason="the full recordings are not beside this checkout")

NEW_YORK = ZoneInfo("America/New_York")
EPOCH = date(1970, 1, 1)


def rows(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt", newline="") as file:
        return list(csv.DictReader(file))


def market_hours() -> dict[str, Any]:
    with gzip.open(FULL / "bars" / "market_hours.json.gz") as file:
        loaded: dict[str, Any] = json.load(file)
        return loaded


def seconds_of(day: date) -> int:
    return (day - EPOCH).days * DAY


@pytest.mark.parametrize(
    ("folder", "part", "days"),
    [
        (SAMPLE, "2013_", 252),
        pytest.param(FULL / "bars", "", 5849, marks=needs_full),
    ],
)
def test_daily_bars_from_hourly_ones_are_the_published_daily_bars(folder: Path, part: str, days: int) -> None:
    hourly = rows(folder / f"equity_spy_{part}hour.csv.gz")
    published = rows(folder / f"equity_spy_{part}daily.csv.gz")
    local = [datetime.strptime(r["local_time"], "%Y%m%d %H:%M").replace(tzinfo=NEW_YORK) for r in hourly]
    t = np.array([int(at.timestamp()) for at in local], np.int64)
    calendar = Calendar.parse("0930-1600", "America/New_York")
    daily = calendar.day(t * MICROS)

    starts = np.flatnonzero(np.diff(daily, prepend=daily[0] - 1))
    ends = np.append(starts[1:], len(daily))
    o, h, low, c = (np.array([float(r[k]) for r in hourly]) for k in ("open", "high", "low", "close"))
    volume = np.array([int(r["volume"]) for r in hourly], np.int64)
    ours = list(
        zip(
            daily[starts].tolist(),
            o[starts].tolist(),
            np.maximum.reduceat(h, starts).tolist(),
            np.minimum.reduceat(low, starts).tolist(),
            c[ends - 1].tolist(),
            np.add.reduceat(volume, starts).tolist(),
            strict=True,
        )
    )
    theirs = [
        (
            seconds_of(datetime.strptime(r["local_time"], "%Y%m%d %H:%M").date()),
            *(float(r[k]) for k in ("open", "high", "low", "close")),
            int(r["volume"]),
        )
        for r in published
    ]
    assert len(theirs) == days
    assert ours == theirs

    # The same dates in weeks and months, as Python's own calendar has them.
    dates = [EPOCH + timedelta(t // DAY) for t in daily[starts].tolist()]
    mondays = [seconds_of(d - timedelta(d.isocalendar().weekday - 1)) for d in dates]
    assert calendar.bucket(parse("1W"), daily[starts]).tolist() == mondays
    assert calendar.bucket(parse("1M"), daily[starts]).tolist() == [seconds_of(d.replace(day=1)) for d in dates]
    # Every hour falls within what its day, week and month say of themselves.
    for name in ("1D", "1W", "1M", "3D", "2W"):
        for i in range(0, len(t), 97):
            begin, end = calendar.span(parse(name), int(daily[i]))
            assert begin <= int(t[i]) * MICROS < end


@needs_full
def test_the_published_days_are_the_trading_weekdays_without_the_holidays() -> None:
    hours = market_hours()["Equity-usa-[*]"]
    holidays = {datetime.strptime(text, "%m/%d/%Y").date() for text in hours["holidays"]}
    published = [
        datetime.strptime(r["local_time"][:8], "%Y%m%d").date() for r in rows(FULL / "bars/equity_spy_daily.csv.gz")
    ]
    calendar = Calendar.parse("0930-1600", hours["exchangeTimeZone"])
    span = [published[0] + timedelta(d) for d in range((published[-1] - published[0]).days + 1)]
    assert published == [d for d in span if calendar.sessions[d.weekday()] and d not in holidays]


def open_times(hours: dict[str, Any]) -> list[tuple[int, int]]:
    """When a market is open, in minutes from Monday 00:00, hours that touch joined."""
    names = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
    found: list[tuple[int, int]] = []
    for week in (-1, 0, 1):
        for day, name in enumerate(names):
            for each in hours[name]:
                start, end = (
                    1440 if text.startswith("1.") else int(text[:2]) * 60 + int(text[3:5])
                    for text in (each["start"], each["end"])
                )
                start, end = ((week * 7 + day) * 1440 + minutes for minutes in (start, end))
                if found and found[-1][1] == start:
                    found[-1] = (found[-1][0], end)
                else:
                    found.append((start, end))
    return [(start, end) for start, end in found if 0 <= end <= 7 * 1440]


@needs_full
@pytest.mark.parametrize(
    ("market", "session"),
    [
        ("Equity-usa-[*]", "0930-1600"),
        ("Equity-usa-[*]", "0400-2000"),
        ("Forex-oanda-[*]", "1703-1658"),
        ("Cfd-oanda-XAUUSD", "1803-1658"),
        ("Cfd-oanda-DE30EUR", "0115-2200"),
        ("Future-comex-GC", "1800-1700"),
        ("Future-cme-ES", "1800-1700"),
        ("Future-eurex-[*]", "0110-2200"),
        ("Index-india-[*]", "0915-1530"),
    ],
)
def test_all_open_hours_of_an_exchange_belong_to_the_local_date_on_which_they_end(market: str, session: str) -> None:
    hours = market_hours()[market]
    zone = ZoneInfo(hours["exchangeTimeZone"])
    calendar = Calendar.parse(session, hours["exchangeTimeZone"])
    micros, expected = [], []
    for week in range(3 * 53):  # three years, with every change of the clock
        monday = datetime(2012, 1, 2) + timedelta(weeks=week)
        for start, end in open_times(hours):
            closing = monday + timedelta(minutes=end)
            for wall in (
                monday + timedelta(minutes=start),
                monday + timedelta(minutes=(start + end) // 2),
                closing - timedelta(minutes=1),
            ):
                micros.append(int(wall.replace(tzinfo=zone).timestamp()) * MICROS)
                expected.append(seconds_of((closing - timedelta(minutes=1)).date()))
    assert len(micros) >= 3 * 53 * 5 * 3
    assert calendar.day(np.array(micros, np.int64)).tolist() == expected


@needs_full
def test_eurex_bars_fall_on_the_date_of_the_file_they_were_published_in() -> None:
    bars = rows(FULL / "bars/future_eurex_fesx_1m.csv.gz")
    calendar = Calendar.parse("0110-2200", "Europe/Berlin")
    found = calendar.day(np.array([int(r["ts_us"]) for r in bars], np.int64)).tolist()
    assert found == [seconds_of(datetime.strptime(r["file"][:8], "%Y%m%d").date()) for r in bars]


@needs_full
def test_bitcoin_seconds_make_the_published_utc_days() -> None:
    seconds = [r for r in rows(FULL / "bars/crypto_coinbase_btcusd_20161007_20161008.csv.gz") if r["interval"] == "1s"]
    published = {r["local_time"][:8] for r in rows(FULL / "bars/crypto_coinbase_btcusd_daily.csv.gz")}
    found = Calendar.parse().day(np.array([int(r["ts_us"]) for r in seconds], np.int64))
    dates = {(EPOCH + timedelta(t // DAY)).strftime("%Y%m%d") for t in set(found.tolist())}
    assert dates
    assert dates <= published


@needs_full
def test_futures_trades_of_a_sunday_evening_open_monday() -> None:
    table = pq.read_table(FULL / "ticks/future_cme_es_sep2013_20130901_20130903.trades.parquet", columns=["ts_us"])
    micros = table["ts_us"].to_numpy()
    chicago = Calendar.parse("1700-1600", "America/Chicago").day(micros)
    # The same exchange as seen from New York; Chicago is an hour behind at every instant.
    assert (chicago == Calendar.parse("1800-1700", "America/New_York").day(micros)).all()
    tuesday_open = int(datetime(2013, 9, 2, 22, tzinfo=UTC).timestamp()) * MICROS  # 17:00 in Chicago
    monday, tuesday = seconds_of(date(2013, 9, 2)), seconds_of(date(2013, 9, 3))
    assert (
        datetime.fromtimestamp(int(micros[0]) // MICROS, ZoneInfo("America/Chicago")).strftime("%a %H:%M")
        == "Sun 17:00"
    )
    assert chicago[0] == monday
    wednesday_open = tuesday_open + DAY * MICROS
    expected = np.select([micros < tuesday_open, micros < wednesday_open], [monday, tuesday], tuesday + DAY)
    assert (chicago == expected).all()
    assert {monday, tuesday} <= set(chicago.tolist())
