"""The rules of TradingView's UDF, by what its stock adapter and the chart behind it do with each answer."""

import math
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import pairwise
from typing import Any

from daemon.doctor.asking import ORIGIN, Answer, Asking
from daemon.doctor.rules import Broken, Rules, Skipped
from storage.calendar import parse
from storage.errors import UnknownResolution

DAY = 86_400
NOBODY = "NO~SUCH~SYMBOL"
FAR = 4_102_444_800  # 2100
MOST = 5_000  # bars that an answer may have at least
STRINGS = ("name", "session", "timezone", "exchange")
MULTIPLIERS = ("intraday", "seconds", "daily", "weekly", "monthly")
REUSED = re.compile(r"\b(?:s-maxage|max-age|stale-while-revalidate)=([0-9]+)")


class Udf:
    """One datafeed, and what several rules need of it."""

    def __init__(self, asking: Asking, symbol: str = "") -> None:
        self.asking, self._wanted = asking, symbol

    @property
    def last(self) -> tuple[str, str]:
        """What was asked last, and what was answered."""
        return self.asking.last

    @cached_property
    def told_config(self) -> tuple[Answer, dict[str, Any]]:
        """The configuration."""
        answer = self.asking.get("/config")
        return answer, answer.fields()

    @cached_property
    def told_symbol(self) -> tuple[Answer, dict[str, Any]]:
        """A market that is there."""
        name = self._wanted or self._found()
        answer = self.asking.get("/symbols", symbol=name)
        found = answer.fields()
        answer.see("s" not in found, f"symbol information of {name!r}, which has no member `s`")
        return answer, found

    @property
    def config(self) -> dict[str, Any]:
        """The configuration, where it is one."""
        with needed("config"):
            return self.told_config[1]

    @property
    def symbol(self) -> dict[str, Any]:
        """What is said of a market that is there."""
        with needed("names"):
            return self.told_symbol[1]

    @property
    def ticker(self) -> str:
        """What a chart calls it in later requests."""
        info = self.symbol
        return str(info.get("ticker") or info.get("name"))

    def _found(self) -> str:
        answer = self.asking.get("/search", query="", type="", exchange="", limit=30)
        found = answer.json()
        for one in found if isinstance(found, list) else ():
            if isinstance(one, dict) and isinstance(one.get("ticker") or one.get("symbol"), str):
                return str(one.get("ticker") or one["symbol"])
        raise Skipped("a search for nothing finds no market; name one with --symbol")

    @cached_property
    def finest(self) -> str:
        """The shortest resolution in minutes that the market has, else its shortest."""
        listed = self.symbol.get("supported_resolutions") or self.config.get("supported_resolutions") or ["1D"]
        minutes = [name for name in listed if str(name).isdigit()]
        return min(minutes, key=int) if minutes else str(listed[0])

    def history(self, resolution: str | None = None, /, **query: object) -> Answer:
        """Ask for bars."""
        return self.asking.get("/history", symbol=self.ticker, resolution=resolution or self.finest, **query)

    def bars(self, answer: Answer) -> list[int]:
        """The times of an answer with bars."""
        found = answer.fields()
        answer.see(found.get("s") == "ok" and isinstance(found.get("t"), list), '`"s":"ok"` and bars')
        return [int(at) for at in found["t"]]

    @cached_property
    def recent(self) -> list[int]:
        """The times of the newest bars of the finest resolution."""
        with needed("bars"):
            answer = self.history(from_=0, to=FAR, countback=500)
            if answer.fields().get("s") == "no_data":
                raise Skipped(f"{self.ticker} has no bars at {self.finest}; name another market with --symbol")
            return self.bars(answer)

    def aligned(self, resolution: str, at: int) -> bool:
        """Whether a bar may open then; where there are sessions, they say at which minute."""
        found = parse(resolution)
        if found.unit in ("S", ""):
            length = found.seconds if self.symbol.get("session") == "24x7" else min(found.seconds, 60)
            return at % DAY % length == 0
        if found.unit == "W":
            return at % DAY == 0 and time.gmtime(at).tm_wday == 0
        return at % DAY == 0 and (found.unit != "M" or time.gmtime(at).tm_mday == 1)


rules: Rules[Udf] = Rules("udf")


@contextmanager
def needed(rule: str) -> Iterator[None]:
    """What a rule needs before it can look: where that is broken, another one tells it."""
    try:
        yield
    except Broken:
        raise Skipped(f"it needs what the rule about {rule} is about") from None


def failed(answer: Answer) -> None:
    """See that an answer says that it is none."""
    told = answer.fields()
    good = told.get("s") == "error" and isinstance(told.get("errmsg"), str) and told["errmsg"]
    answer.see(bool(good), '`{"s":"error","errmsg":"…"}` with a text that is not empty')


@rules("1 json", "every failure is JSON with `s` and `errmsg`, never a page")
def _(udf: Udf) -> None:
    ask = udf.asking
    failed(ask.get("/symbols", symbol=NOBODY))
    failed(ask.get("/history", symbol=NOBODY, resolution="1", from_=0, to=1))
    failed(udf.history("nonsense", from_=0, to=1))
    failed(udf.history("0", from_=0, to=1))
    failed(udf.history(to=1))
    failed(udf.history(from_="yesterday", to=1))


@rules("2 cors", "pages of other origins may read answers, errors too, and preflights are answered")
def _(udf: Udf) -> None:
    for answer in (udf.told_config[0], udf.asking.get("/symbols", symbol=NOBODY)):
        allowed = answer.headers.get("access-control-allow-origin", "")
        answer.see(
            allowed in ("*", ORIGIN), "Access-Control-Allow-Origin: *", f"Access-Control-Allow-Origin: {allowed}"
        )
    preflight = udf.asking.ask(
        "OPTIONS", "/config", Access_Control_Request_Method="GET", Access_Control_Request_Headers="x-asked"
    )
    preflight.see(preflight.status in (200, 204), "200 or 204 to a preflight")
    allowed = preflight.headers.get("access-control-allow-headers", "")
    expected = "Access-Control-Allow-Headers: x-asked, which was asked for"
    preflight.see("x-asked" in allowed.lower() or allowed == "*", expected, f"Access-Control-Allow-Headers: {allowed}")


@rules("3 config", "no resolution twice, and one of search and group requests; never refused for coming too often")
def _(udf: Udf) -> None:
    answer, config = udf.told_config
    listed = config.get("supported_resolutions")
    answer.see(isinstance(listed, list) and bool(listed), "`supported_resolutions`, a list that is not empty")
    assert isinstance(listed, list)
    answer.see(len(set(listed)) == len(listed), "each resolution once", listed)
    either = bool(config.get("supports_search")) != bool(config.get("supports_group_request"))
    answer.see(either, "`supports_search` or `supports_group_request`, one of them true")
    for _ in range(20):
        again = udf.asking.get("/config")
        again.see(again.status == 200, "200, however often it is asked for")


@rules("4 names", "a market is found by ticker, name, EXCHANGE:NAME and in any case, without a member `s`")
def _(udf: Udf) -> None:
    answer, info = udf.told_symbol
    for name in STRINGS:
        answer.see(isinstance(info.get(name), str) and bool(info[name]), f"`{name}`, a text that is not empty", info)
    exchange = info.get("listed_exchange")
    answer.see(bool(exchange), "`listed_exchange`, without which the chart shows `undefined:…`", info)
    ticker = udf.ticker
    for name in (ticker, info["name"], f"{exchange}:{info['name']}", ticker.lower(), ticker.upper()):
        other = udf.asking.get("/symbols", symbol=name)
        found = other.fields()
        other.see("s" not in found and found.get("ticker", found.get("name")) == ticker, f"`ticker` {ticker!r}")


@rules("5 symbol", "prices have a scale, and every listed resolution can be built from a multiplier")
def _(udf: Udf) -> None:
    with needed("names"):
        answer, info = udf.told_symbol
    for name, least in (("minmov", 1), ("pricescale", 1)):
        value = info.get(name)
        answer.see(isinstance(value, int) and value >= least, f"`{name}`, an integer from {least} on", {name: value})
    for name in MULTIPLIERS:
        told = info.get(f"{name}_multipliers")
        if told is not None:
            good = isinstance(told, list) and all(isinstance(one, str) and one.isdigit() for one in told)
            answer.see(
                good and [int(x) for x in told] == sorted({int(x) for x in told}), "digits as text, ascending", told
            )
    for name in info.get("supported_resolutions") or udf.config.get("supported_resolutions") or ():
        answer.see(_buildable(info, str(name)), f"multipliers that {name!r} can be built from, or not to list it")


def _buildable(info: dict[str, Any], name: str) -> bool:
    try:
        resolution = parse(name)
    except UnknownResolution:
        return False
    unit, count = resolution.unit, resolution.count
    daily = bool(info.get("has_daily", True))
    given: dict[str, tuple[bool, str, list[str]]] = {
        "S": (bool(info.get("has_seconds")), "seconds", ["1"]),
        "": (bool(info.get("has_intraday")), "intraday", ["1", "5", "15", "30", "60"]),
        "D": (daily, "daily", ["1"]),
        "W": (daily, "weekly", ["1"]),
        "M": (daily, "monthly", ["1"]),
    }
    there, kind, usual = given[unit]
    if unit in "WM" and unit and not info.get("has_weekly_and_monthly"):
        return there  # built from days
    return there and any(count % int(one) == 0 for one in info.get(f"{kind}_multipliers", usual))


@rules("6 bars", "times are whole seconds on their grid, ascending; columns are equally long, numbers finite")
def _(udf: Udf) -> None:
    for name in dict.fromkeys((udf.finest, *udf.config.get("supported_resolutions", ()))):
        answer = udf.history(str(name), from_=0, to=FAR, countback=300)
        told = answer.fields()
        if told.get("s") == "no_data":
            continue
        answer.see(told.get("s") == "ok", "bars, or `no_data`")
        _see_bars(udf, answer, told, str(name))


def _see_bars(udf: Udf, answer: Answer, told: dict[str, Any], name: str) -> None:
    times = told.get("t")
    good = isinstance(times, list) and bool(times) and all(type(at) is int for at in times)
    answer.see(good, "`t`, a list of integers that is not empty", times)
    assert isinstance(times, list)
    answer.see(times[-1] < 10**11, "seconds, not milliseconds", times[-1])
    answer.see(all(a < b for a, b in pairwise(times)), "times that ascend, each once", times)
    off = [at for at in times if not udf.aligned(name, at)]
    answer.see(not off, f"opening times on the grid of {name}", off)
    answer.see("c" in told, "`c`, the closes")
    columns = {key: told[key] for key in "ohlcv" if key in told}
    answer.see(
        len({"o", "h", "l"} & set(columns)) in (0, 3), "`o`, `h` and `l` together, or none of them", list(columns)
    )
    for key, column in columns.items():
        long = isinstance(column, list) and len(column) == len(times)
        answer.see(long, f"`{key}` as long as `t` ({len(times)})", {key: column})
        wrong = [x for x in column if type(x) not in (int, float) or not math.isfinite(x)]
        answer.see(not wrong, f"finite numbers in `{key}`", wrong)
    if "o" in columns:
        for at, o, h, l, c in zip(times, *(columns[key] for key in "ohlc"), strict=True):  # noqa: E741 # the wire's name
            answer.see(
                l <= min(o, c) and max(o, c) <= h, "low ≤ open, close ≤ high", {"t": at, "o": o, "h": h, "l": l, "c": c}
            )


@rules("7 window", "`from` is inclusive, `to` exclusive; future, negative and fractional ends are no error")
def _(udf: Udf) -> None:
    times = udf.recent
    if len(times) < 3:
        raise Skipped(f"{udf.ticker} has only {len(times)} bars")
    first, last = times[-3], times[-1]
    answer = udf.history(from_=first, to=last)
    answer.see(udf.bars(answer) == times[-3:-1], f"the bars {times[-3:-1]}: the one at `from`, not the one at `to`")
    for query in ({"from_": first - 0.5, "to": last - 0.5}, {"from_": first, "to": last + 0.0}):
        answer = udf.history(**query)
        answer.see(udf.bars(answer) == times[-3:-1], f"the bars {times[-3:-1]}, as for whole seconds")
    answer = udf.history(from_=-10_000_000_000, to=FAR, countback=1)
    answer.see(udf.bars(answer)[-1:] >= [last], f"the newest bar, {last} or later")


@rules("8 countback", "`countback` outranks `from`, zero or less is as none, and of n + 1 months none is dropped")
def _(udf: Udf) -> None:
    times = udf.recent
    if len(times) < 4:
        raise Skipped(f"{udf.ticker} has only {len(times)} bars")
    end = times[-1]
    answer = udf.history(from_=end - 1, to=end, countback=3)
    answer.see(
        udf.bars(answer) == times[-4:-1], f"the three bars before `to`, {times[-4:-1]}, although `from` is later"
    )
    answer = udf.history(from_=times[0], to=end, countback=2)
    answer.see(
        udf.bars(answer) == times[-3:-1], f"the two bars before `to`, {times[-3:-1]}, although `from` is earlier"
    )
    for count in (0, -5):
        answer = udf.history(from_=times[-3], to=end, countback=count)
        answer.see(udf.bars(answer) == times[-3:-1], f"the bars {times[-3:-1]}, as without `countback`")
    if "1M" in udf.config.get("supported_resolutions", ()):
        months = udf.history("1M", from_=0, to=FAR, countback=3)
        if months.fields().get("s") == "ok" and len(found := udf.bars(months)) == 3:
            answer = udf.history("1M", from_=found[0], to=found[-1] + 1, countback=2)
            answer.see(udf.bars(answer) == found, f"all three months {found}: the chart never asks for the first again")


@rules("9 cap", "whatever is left out of a long answer is the oldest")
def _(udf: Udf) -> None:
    newest = udf.bars(udf.history(from_=0, to=FAR, countback=1)) if udf.recent else []
    answer = udf.history(from_=0, to=FAR)
    times = udf.bars(answer)
    answer.see(times[-1:] >= newest, f"bars up to the newest, {newest}", times[-1:])
    if len(times) < MOST:
        older = udf.history(from_=0, to=times[0], countback=1).fields()
        answer.see(
            older.get("s") == "no_data",
            f"all bars, or the newest {MOST} at least",
            f"{len(times)} bars from {times[0]}",
        )


@rules("10 nothing", "a gap is `no_data` with `nextTime` in seconds, the start of history without; never empty `ok`")
def _(udf: Udf) -> None:
    times = udf.recent
    seconds = parse(udf.finest).seconds
    gap = next(((a, b) for a, b in pairwise(times) if b - a > seconds), None)
    low, high = gap or (times[-1], times[-1])
    start, end = (low + 1, high) if gap else (FAR - 10, FAR)
    answer = udf.history(from_=start, to=end)
    told = answer.fields()
    answer.see(told.get("s") == "no_data", "`no_data`: there is no bar in that window, and older ones exist")
    if gap:
        answer.see(told.get("nextTime") == low, f"`nextTime` {low}, the newest bar before")
    else:
        answer.see(type(told.get("nextTime")) is int and low <= told["nextTime"] < FAR, f"`nextTime` {low} or later")
    bars = udf.history(from_=times[0], to=times[-1] + 1)
    udf.bars(bars)
    bars.see("nextTime" not in bars.fields(), "bars without `nextTime`, which says that there are none")
    answer = udf.history(from_=-DAY, to=-DAY + 60)
    answer.see(answer.fields() == {"s": "no_data"}, '`{"s":"no_data"}` alone: nothing is older than 1970')


@rules("11 names of resolutions", "`D`, `W` and `M` are `1D`, `1W` and `1M`")
def _(udf: Udf) -> None:
    listed = udf.symbol.get("supported_resolutions") or udf.config.get("supported_resolutions") or ()
    alike = [letter for letter in "DWM" if letter in listed or f"1{letter}" in listed]
    for letter in alike:
        one, other = (udf.history(name, from_=0, to=FAR, countback=5) for name in (letter, f"1{letter}"))
        times = [answer.fields().get("t") for answer in (one, other)]
        one.see(times[0] == times[1], f"the same bars as of 1{letter}: {times[1]}", times[0])
    if not alike:
        raise Skipped("no days, weeks or months are listed")


@rules("12 time", "the clock is a bare integer in seconds, near ours")
def _(udf: Udf) -> None:
    if udf.config.get("supports_time") is False:
        raise Skipped("the configuration says that there is none")
    answer = udf.asking.get("/time")
    told = answer.json()
    answer.see(type(told) is int, "a bare integer")
    answer.see(abs(told - time.time()) < 60, f"about {time.time():.0f}; a wrong clock shifts every window")


@rules("12 quotes", "each name that was asked for has an entry, spelt as it was asked")
def _(udf: Udf) -> None:
    names = [udf.ticker, NOBODY, udf.ticker.lower()]
    answer = udf.asking.get("/quotes", symbols=",".join(names))
    if answer.status == 404:
        raise Skipped("there are no quotes")
    told = answer.fields()
    answer.see(told.get("s") == "ok" and isinstance(told.get("d"), list), '`"s":"ok"` and a list `d`')
    answer.see([one.get("n") for one in told["d"]] == names, f"entries of {names}, in that order")
    answer.see(told["d"][1].get("s") == "error", f"`error` for {NOBODY}", told["d"][1])
    one = told["d"][0]
    if one.get("s") == "ok":
        for name in ("ch", "chp", "lp", "prev_close_price"):
            answer.see(type(one.get("v", {}).get(name)) in (int, float), f"`{name}`, a number", one)


@rules("13 open bar", "an answer with the bar that is still open is never used again")
def _(udf: Udf) -> None:
    answer = udf.history(from_=0, to=FAR, countback=2)
    if not answer.fields().get("t") or udf.bars(answer)[-1] + parse(udf.finest).seconds <= time.time():
        raise Skipped(f"no bar of {udf.ticker} is open just now")
    caching = answer.headers.get("cache-control", "")
    kept = [int(seconds) for seconds in REUSED.findall(caching)]
    good = "no-store" in caching or "no-cache" in caching or (bool(kept) and not any(kept))
    answer.see(good and not any(kept), "Cache-Control: no-store", f"Cache-Control: {caching}")


@rules("14 leniency", "repeated slashes, `1H` and unknown parameters do no harm")
def _(udf: Udf) -> None:
    answer = udf.asking.get("//config")
    answer.see(answer.status == 200 and answer.fields() == udf.config, "the configuration")
    if {"60", "1H"} & set(udf.config.get("supported_resolutions", ())):
        one, other = (udf.history(name, from_=0, to=FAR, countback=5) for name in ("1H", "60"))
        one.see(one.fields().get("t") == other.fields().get("t"), "the same bars as of 60")
    answer = udf.history(from_=0, to=FAR, countback=2, currencyCode="", firstDataRequest="true", whatever=1)
    answer.see(answer.fields().get("s") in ("ok", "no_data"), "an answer as without the unknown parameters")


@rules("search", "results are a list of markets that `symbols` finds, as many as were asked for, in any case")
def _(udf: Udf) -> None:
    if not udf.config.get("supports_search"):
        raise Skipped("the configuration says that there is none")
    ticker = udf.ticker
    for query in (ticker.upper(), ticker.lower()):
        answer = udf.asking.get("/search", query=query, type="", exchange="", limit=30)
        found = answer.json()
        answer.see(isinstance(found, list), "a list")
        answer.see(len(found) <= 30, "at most 30 results", f"{len(found)} results")
        for one in found:
            wrong = [
                name for name in ("symbol", "description", "exchange", "type") if not isinstance(one.get(name), str)
            ]
            answer.see(not wrong, f"texts in {', '.join(wrong)}", one)
        names = [one.get("ticker", one["symbol"]) for one in found]
        answer.see(ticker in names, f"{ticker!r} among the results", names)
    nothing = udf.asking.get("/search", query=NOBODY, type="", exchange="", limit=30)
    nothing.see(nothing.json() == [], "`[]` where nothing fits")
    one = udf.asking.get("/search", query="", limit=1)
    one.see(isinstance(one.json(), list) and len(one.json()) <= 1, "a list of at most one")


@rules("marks", "marks are a list or a table, and each lies at a bar of the window")
def _(udf: Udf) -> None:
    verbs = [verb for verb in ("marks", "timescale_marks") if udf.config.get(f"supports_{verb}")]
    if not verbs:
        raise Skipped("the configuration says that there are none")
    times = udf.recent
    for verb in verbs:
        answer = udf.asking.get(f"/{verb}", symbol=udf.ticker, resolution=udf.finest, from_=times[0], to=times[-1])
        told = answer.json()
        if isinstance(told, list):
            at: list[Any] = [one.get("time") for one in told if isinstance(one, dict)]
            answer.see(len(at) == len(told), "objects in the list")
        else:
            at = answer.fields().get("time", [])
            answer.see(isinstance(at, list), "a list of objects, or a table with a list `time`")
        off = [one for one in at if type(one) is not int or not udf.aligned(udf.finest, one)]
        answer.see(not off, "times in seconds, each that of a bar", off)
        outside = [one for one in at if not times[0] <= one <= times[-1]]
        answer.see(not outside, "times within the window", outside)
