"""Indicators over columns of bars, as TA-Lib computes them, and the bars before the first that each needs."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from msgspec import Struct

from storage.errors import BadRequest
from storage.events import Array

LONGEST = 500  # bars in one period
MOST = 10  # indicators in one request
DIGITS = 10  # what warm-up leaves uncertain lies behind these
DECAYED = 24  # time constants after which an exponential average has forgotten how it began


class Bars(NamedTuple):
    """Columns of equal length, ascending; `day` says which trading day each bar belongs to."""

    open: Array
    high: Array
    low: Array
    close: Array
    volume: Array
    day: Array


class Kind(NamedTuple):
    """One indicator: its lines, its parameters with what they are when nobody says, and how it is computed."""

    lines: tuple[str, ...]
    parameters: dict[str, float]
    warm_up: Callable[..., float]  # bars before the first that is shown
    compute: Callable[..., tuple[Array, ...]]


class Asked(Struct, frozen=True):
    """An indicator with its parameters."""

    name: str
    parameters: dict[str, float]

    @property
    def warm_up(self) -> int:
        """Bars before the first that is shown which its value there depends on."""
        return int(KINDS[self.name].warm_up(*self.parameters.values()))


def parsed(text: str) -> list[Asked]:
    """`sma:20,macd:12:26:9`; raises BadRequest, which says what was expected."""
    found = [_one(piece.strip()) for piece in text.split(",") if piece.strip()]
    if len(found) > MOST:
        raise BadRequest(f"indicators: expected {MOST} at most, got {len(found)}")
    return found


def computed(asked: Asked, bars: Bars) -> dict[str, Array]:
    """The lines of an indicator, NaN where there are too few bars before. Blocks for the time of its arithmetic."""
    kind = KINDS[asked.name]
    if not len(bars.close):
        return {line: np.zeros(0) for line in kind.lines}
    lines = kind.compute(bars, *asked.parameters.values())
    return dict(zip(kind.lines, lines, strict=True))


def _one(text: str) -> Asked:
    name, *given = text.split(":")
    kind = KINDS.get(name.lower())
    if kind is None:
        raise BadRequest(f"indicators: expected one of {', '.join(KINDS)}, got {name!r:.100}")
    usual = kind.parameters
    shape = ":".join([name.lower(), *(part.upper() for part in usual)])
    if len(given) > len(usual):
        raise BadRequest(f"indicators: expected {shape} at most, got {text!r:.100}")
    values = dict(usual)
    for part, said in zip(usual, given, strict=False):
        values[part] = _number(part, said, shape)
    if name.lower() == "macd" and values["fast"] >= values["slow"]:
        raise BadRequest(f"indicators: {shape}: expected FAST below SLOW, got {text!r:.100}")
    return Asked(name.lower(), values)


def _number(part: str, said: str, shape: str) -> float:
    low, whole = (2, True) if part != "deviations" else (0.1, False)
    low = 1 if part == "signal" else low
    try:
        value = int(said) if whole else float(said)
    except ValueError:
        value = -1
    if not low <= value <= LONGEST:
        wanted = f"a whole number from {low}" if whole else f"a number from {low}"
        raise BadRequest(f"indicators: {shape}: {part}: expected {wanted} to {LONGEST}, got {said!r:.100}")
    return value


@cache
def _talib() -> Any:
    """TA-Lib takes a while to load: whoever starts the daemon does not wait for it."""
    import talib

    return talib


def _vwap(bars: Bars) -> tuple[Array, ...]:
    """The volume-weighted mean of (high + low + close) / 3 since the trading day began."""
    worth = (bars.high + bars.low + bars.close) / 3 * bars.volume
    starts = np.flatnonzero(np.append(True, bars.day[1:] != bars.day[:-1]))
    lengths = np.diff(np.append(starts, len(bars.day)))
    sums = []
    for column in (worth, bars.volume):
        total = np.cumsum(column)
        sums.append(total - np.repeat(total[starts] - column[starts], lengths))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (np.where(sums[1] > 0, sums[0] / sums[1], np.nan),)


def _exponential(period: float) -> float:
    return period + DECAYED * (period + 1) / 2


def _wilder(period: float) -> float:
    return period + DECAYED * period


KINDS: dict[str, Kind] = {
    "sma": Kind(("sma",), {"period": 20}, lambda n: n - 1, lambda b, n: (_talib().SMA(b.close, n),)),
    "ema": Kind(("ema",), {"period": 20}, _exponential, lambda b, n: (_talib().EMA(b.close, n),)),
    "rsi": Kind(("rsi",), {"period": 14}, _wilder, lambda b, n: (_talib().RSI(b.close, n),)),
    "macd": Kind(
        ("macd", "signal", "histogram"),
        {"fast": 12, "slow": 26, "signal": 9},
        lambda _, slow, signal: _exponential(slow) + _exponential(signal),
        lambda b, fast, slow, signal: _talib().MACD(b.close, fast, slow, signal),
    ),
    "bb": Kind(
        ("upper", "middle", "lower"),
        {"period": 20, "deviations": 2},
        lambda n, _: n - 1,
        lambda b, n, k: _talib().BBANDS(b.close, n, k, k),
    ),
    "atr": Kind(("atr",), {"period": 14}, _wilder, lambda b, n: (_talib().ATR(b.high, b.low, b.close, n),)),
    "vwap": Kind(("vwap",), {}, lambda: 0, _vwap),
}


def rounded(line: Array) -> Sequence[float | None]:
    """What wires show: as many digits as warm-up leaves certain."""
    return [None if value != value else float(f"{value:.{DIGITS}g}") for value in line.tolist()]
