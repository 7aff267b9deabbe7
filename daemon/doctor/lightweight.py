"""The rules of `/api/lightweight`, by what the library makes of rows that it is given."""

import math
from datetime import UTC, datetime
from functools import cached_property
from itertools import pairwise
from typing import Any

from daemon.doctor.asking import ORIGIN, Answer, Asking
from daemon.doctor.rules import Broken, Rules, Skipped
from storage.calendar import parse_short

DAY = 86_400
NOBODY = "NO~SUCH~SYMBOL"
LARGEST = 9.007e13  # beyond which the library draws nothing
NUMBERS = ("open", "high", "low", "close", "volume")
TIMEFRAMES = ("1m", "1h", "1d", "1w", "1M")
FIELDS = ("current_price", "price_change_24h", "volume_24h", "market_cap")


class Lightweight:
    """One endpoint, and what several rules need of it."""

    def __init__(self, asking: Asking, symbol: str = "") -> None:
        self.asking, self._wanted = asking, symbol

    @property
    def last(self) -> tuple[str, str]:
        """What was asked last, and what was answered."""
        return self.asking.last

    @cached_property
    def symbol(self) -> str:
        """A market that is there."""
        if self._wanted:
            return self._wanted
        data = self.asking.get("/markets", limit=1).fields().get("data")
        if not data or not isinstance(data, list) or not isinstance(data[0].get("symbol"), str):
            raise Skipped("the list of markets names none; name one with --symbol")
        return str(data[0]["symbol"])

    def ohlcv(self, timeframe: str = "1m", /, **query: object) -> Answer:
        """Ask for bars."""
        return self.asking.get("/ohlcv", **{"symbol": self.symbol, "timeframe": timeframe, **query})

    def rows(self, answer: Answer) -> list[dict[str, Any]]:
        """The rows of an answer."""
        told = answer.fields()
        good = told.get("success") is True and isinstance(told.get("data"), list)
        answer.see(good and all(isinstance(row, dict) for row in told["data"]), "`success: true` and rows in `data`")
        return list(told["data"])

    @cached_property
    def recent(self) -> list[int]:
        """The times of the newest bars of a minute."""
        try:
            found = [row.get("time") for row in self.rows(self.ohlcv(from_=0, limit=500, time_format="unix"))]
        except Broken:
            raise Skipped("it needs what the rule about time is about") from None
        times = [at for at in found if type(at) is int]
        if len(times) < 3 or len(times) < len(found):
            raise Skipped(f"{self.symbol} has too few bars of a minute; name another market with --symbol")
        return times


rules: Rules[Lightweight] = Rules("lightweight")


@rules("1 time", "`time` is whole seconds with time_format=unix, and `timestamp` always")
def _(lightweight: Lightweight) -> None:
    answer = lightweight.ohlcv(from_=0, limit=100, time_format="unix")
    for row in lightweight.rows(answer):
        good = type(row.get("time")) is int and row.get("timestamp", row["time"]) == row["time"]
        answer.see(good, "`time`, an integer, and `timestamp` equal to it", row)
        answer.see(row["time"] < 10**11, "seconds, not milliseconds", row)


@rules("2 iso", "the usual `time` is ISO 8601 with milliseconds and Z, of the same instant as `timestamp`")
def _(lightweight: Lightweight) -> None:
    answer = lightweight.ohlcv(from_=0, limit=100)
    for row in lightweight.rows(answer):
        answer.see(type(row.get("timestamp")) is int, "`timestamp`, an integer", row)
        at = datetime.fromtimestamp(row["timestamp"], UTC)
        answer.see(row.get("time") == at.strftime("%Y-%m-%dT%H:%M:%S.000Z"), "`time` of the same instant", row)


@rules("3 order", "times ascend, each once, on the grid of their timeframe")
def _(lightweight: Lightweight) -> None:
    for timeframe in TIMEFRAMES:
        answer = lightweight.ohlcv(timeframe, from_=0, limit=300, time_format="unix")
        times: list[Any] = [row.get("time") for row in lightweight.rows(answer)]
        answer.see(all(type(at) is int for at in times), "integers in `time`", times)
        answer.see(all(a < b for a, b in pairwise(times)), "times that ascend, each once", times)
        off = [at for at in times if not _aligned(timeframe, at)]
        answer.see(not off, f"opening times on the grid of {timeframe}", off)


def _aligned(timeframe: str, at: int) -> bool:
    found = parse_short(timeframe)
    if found.intraday:
        return at % DAY % min(found.seconds, 60) == 0
    when = datetime.fromtimestamp(at, UTC)
    return at % DAY == 0 and (found.unit != "W" or when.weekday() == 0) and (found.unit != "M" or when.day == 1)


@rules("4 values", "prices are finite numbers within ±9.007e13, low ≤ open, close ≤ high")
def _(lightweight: Lightweight) -> None:
    answer = lightweight.ohlcv(from_=0, limit=300)
    for row in lightweight.rows(answer):
        for name in NUMBERS[:4]:
            value: Any = row.get(name)
            answer.see(type(value) in (int, float) and math.isfinite(value), f"`{name}`, a finite number", row)
            answer.see(abs(value) <= LARGEST, f"`{name}` within ±{LARGEST:g}", row)
        good = row["low"] <= min(row["open"], row["close"]) and max(row["open"], row["close"]) <= row["high"]
        answer.see(good, "low ≤ open, close ≤ high", row)


@rules("5 whitespace", "the newest row is a bar, and not only the time of one")
def _(lightweight: Lightweight) -> None:
    for query in ({}, {"fill": "null"}, {"fill": "flat"}):
        answer = lightweight.ohlcv(from_=0, limit=100, **query)
        if query and answer.status == 400:
            continue  # that is an offer, no duty
        rows = lightweight.rows(answer)
        answer.see(not rows or "close" in rows[-1], "a bar in the last row", rows[-1:])


@rules("6 window", "`to` is excluded; dates, instants and seconds are taken; the count is true")
def _(lightweight: Lightweight) -> None:
    times = lightweight.recent
    first, last = times[-3], times[-1]
    iso = [datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z") for at in (first, last)]
    for start, end in ((first, last), (iso[0], iso[1]), (first * 1000, last * 1000)):
        answer = lightweight.ohlcv(from_=start, to=end, time_format="unix")
        found = [row.get("time") for row in lightweight.rows(answer)]
        answer.see(found == times[-3:-1], f"the bars {times[-3:-1]}: the one at `from`, not the one at `to`", found)
        count = answer.fields().get("meta", {}).get("count")
        answer.see(count == len(found), f"`meta.count` {len(found)}", {"count": count})
    answer = lightweight.ohlcv(from_="2000-01-01", to=last, limit=2, time_format="unix")
    found = [row.get("time") for row in lightweight.rows(answer)]
    answer.see(found == times[-3:-1], f"with limit=2 the newest two, {times[-3:-1]}", found)


@rules("7 nothing", "an empty window is a success with `[]`, an error has success false, a code and a message")
def _(lightweight: Lightweight) -> None:
    answer = lightweight.ohlcv(from_="1971-01-01", to="1971-01-02")
    answer.see(answer.status == 200 and lightweight.rows(answer) == [], "200 with `data: []`")
    for status, query in ((404, {"symbol": NOBODY}), (400, {"timeframe": "nonsense"}), (400, {"from_": "never"})):
        answer = lightweight.ohlcv(**query)
        told = answer.fields()
        error = told.get("error")
        good = told.get("success") is False and isinstance(error, dict) and error.get("code") and error.get("message")
        answer.see(bool(good), "`success: false` and `error` with `code` and `message`")
        answer.see(answer.status == status, f"status {status}")


@rules("cors", "pages of other origins may read answers")
def _(lightweight: Lightweight) -> None:
    for answer in (lightweight.ohlcv(limit=1), lightweight.ohlcv("nonsense")):
        allowed = answer.headers.get("access-control-allow-origin", "")
        expected = "Access-Control-Allow-Origin: *"
        answer.see(allowed in ("*", ORIGIN), expected, f"Access-Control-Allow-Origin: {allowed}")


@rules("markets", "markets have numbers or null, come by volume, and as many as were asked for")
def _(lightweight: Lightweight) -> None:
    answer = lightweight.asking.get("/markets", limit=20)
    rows = lightweight.rows(answer)
    answer.see(len(rows) <= 20, "at most 20", f"{len(rows)} rows")
    for row in rows:
        wrong = [name for name in FIELDS if type(row.get(name)) not in (int, float, type(None))]
        answer.see(not wrong, f"numbers or null in {', '.join(wrong)}", row)
        answer.see(isinstance(row.get("symbol"), str) and bool(row["symbol"]), "`symbol`, a text", row)
    one = lightweight.asking.get("/markets", limit=1)
    one.see(len(lightweight.rows(one)) <= 1, "at most one")
