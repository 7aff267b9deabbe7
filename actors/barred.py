"""Pure: finished bars as they were sent into columns, or the reason why one is refused.

As with events, all rows are read at once, by column, and what that does not plainly accept is read by itself.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from actors.columns import Reading
from actors.words import (
    AHEAD,
    TRADED,
    Named,
    Unknown,
    Unreadable,
    bad,
    flag,
    integer,
    iso,
    market_of,
    moment,
    number_of,
    shown,
    slot_named,
)
from storage.calendar import DAY, MICROS, ONE_DAY, Calendar
from storage.errors import BadEvent
from storage.events import BAR, BAR_COUNTS, EXACT, INTEGERS, Array, Column
from storage.measures import MEASURES, Rule
from storage.records import KINDS

PRICES = ("open", "high", "low", "close")
KINDS_WITH = (*TRADED, "card")  # of market that take finished bars
MEASURED = {kind: [each for each in MEASURES[kind] if each.rule is not Rule.DISTINCT] for kind in KINDS_WITH}
LENGTHS = {"1s": 1, "1m": 60, "5m": 300, "15m": 900, "1h": 3600, "1d": DAY}
SHORTS = {length: name for name, length in LENGTHS.items()}
_OTHERS = {"1S": 1, "1": 60, "5": 300, "15": 900, "60": 3600, "1H": 3600, "D": DAY, "1D": DAY}  # as charts name them
_ANY = {**LENGTHS, **_OTHERS}


def understood(bar: Any, named: Named, now_us: int) -> dict[str, Any]:
    """The columns in which a finished bar says something; BadEvent says why it is refused."""
    if isinstance(bar, Unreadable):
        raise BadEvent(f"{bar.field}: {bar.reason}")
    if not isinstance(bar, dict):
        raise BadEvent(f"bar: expected an object, got {shown(bar)}")
    market = market_of(bar)
    slot = slot_named(named, market)
    if slot is None:
        raise Unknown(market)
    kind = KINDS[named.kinds[slot]]
    if kind not in KINDS_WITH:
        raise BadEvent(f"market: expected one of kind {', '.join(KINDS_WITH)}, got one of kind {kind}")
    resolution = bar.get("resolution")
    rung = _ANY.get(resolution) if isinstance(resolution, str) else None
    if rung is None:
        raise bad("resolution", f"one of {', '.join(LENGTHS)}", resolution)
    begins, ends = _span(bar.get("timestamp"), rung, named.calendar(slot), now_us)
    word: dict[str, Any] = {"market": slot, "ts": begins, "event": BAR, "rung": rung, "ends": ends}
    word["trade_id"] = f"bar {SHORTS[rung]} {begins // MICROS}"  # which is what it is known by
    if flag("removed", bar.get("removed")):
        return word | {"removed": True}
    for measure in MEASURED[kind]:
        if (value := bar.get(measure.name)) is None:
            continue
        if measure.name in INTEGERS:
            word[measure.name] = integer(measure.name, value, 1 << 63)
            continue
        word[measure.name], exact = number_of(measure.name, value)
        if exact is not None:
            word[EXACT + measure.name] = exact
    _check_prices(bar, word)
    if "turnover" in word and "turnover_volume" not in word:
        both = ("", EXACT)
        word |= {f"{some}turnover_volume": word[f"{some}volume"] for some in both if f"{some}volume" in word}
    return word


def _span(value: Any, rung: int, calendar: Calendar, now_us: int) -> tuple[int, int]:
    """When a bar begins and ends, µs."""
    time = moment("timestamp", value, now_us)
    if time % (rung * MICROS):
        raise BadEvent(f"timestamp: expected the beginning of a bar of {SHORTS[rung]} in UTC, got {iso(time)}")
    if rung == DAY:
        begins, ends = calendar.span(ONE_DAY, time // MICROS)
    else:
        begins, ends = time, time + rung * MICROS
        first, last = calendar.day(np.array([begins, ends - 1])).tolist()
        if first != last:
            raise BadEvent(f"timestamp: expected a bar within one trading day, got {SHORTS[rung]} from {iso(time)}")
    if begins < 0:
        raise BadEvent(f"timestamp: expected a bar from 1970 on, got one from {iso(begins)}")
    if ends > now_us + AHEAD:
        raise BadEvent(f"timestamp: expected a bar that is over, got one that ends at {iso(ends)}")
    return begins, ends


def _check_prices(bar: Mapping[str, Any], word: Mapping[str, Any]) -> None:
    if not any(name in word for name in PRICES):
        # Something happened, and no price was set: that is no bar, but a part of longer ones.
        if not any(word.get(each.name) for each in MEASURED["perp"] + MEASURED["card"]):
            raise bad("open", "a price > 0, or a volume or another measure of what happened without one", None)
        return
    for name in PRICES:
        if not word.get(name, 0) > 0:
            raise bad(name, "a price > 0", bar.get(name))
    inner = (word["open"], word["close"])
    if word["high"] < max(word["low"], *inner):
        raise bad("high", f"at least {max(word['low'], *inner)!r}, as the bar's other prices have it", bar["high"])
    if word["low"] > min(inner):
        raise bad("low", f"at most {min(inner)!r}, as the bar's other prices have it", bar["low"])


class BarReading(Reading):
    """Reads finished bars by column."""

    kinds = KINDS_WITH

    def columns(self) -> dict[str, Column]:
        """The columns of all rows, meaningless in slow ones; cut short by unknown markets unless `final`."""
        entry, slots = self._markets()
        market = slots[entry]
        self.slow |= market == 0
        if self.unknown and not self._final:
            return {}
        self._removed()
        begins = self._times("timestamp")
        # Of days, which are few, the calendar is asked one by one.
        codes = self._codes("resolution", {name: code for code, name in enumerate(LENGTHS)} | _CODES)
        rung = _RUNGS[np.minimum(codes, len(LENGTHS))] if codes is not None else np.zeros(self.n, np.int32)
        self.slow |= (rung == 0) | (rung == DAY)
        rung = np.where(self.slow, 1, rung).astype(np.int32)
        ends = begins + rung.astype(np.int64) * MICROS
        self._only((begins % (rung.astype(np.int64) * MICROS) == 0) & (ends <= self._now + AHEAD))
        self._within_days(market, begins, ends)
        out: dict[str, Column] = {"market": market, "ts": begins, "event": np.full(self.n, BAR, np.uint8)}
        out |= {"rung": rung, "ends": ends}
        self._measures(out, self._named.kinds[market])
        high, low = out.get("high", _NOTHING), out.get("low", _NOTHING)
        inner = out.get("open", _NOTHING), out.get("close", _NOTHING)
        self._only((low > 0) & (high >= np.maximum(*inner)) & (low <= np.minimum(*inner)) & (high >= low))
        self._turnover_volumes(out)
        seconds = pa.array(begins // MICROS).cast(pa.string())
        names = pa.array(list(LENGTHS)).take(pa.array(np.searchsorted(_RUNGS[:-1], rung)))
        out["trade_id"] = pc.binary_join_element_wise("bar", names, seconds, " ")
        return out

    def _within_days(self, market: Array, begins: Array, ends: Array) -> None:
        for slot in np.unique(market[~self.slow]).tolist():
            calendar = self._named.calendar(slot)
            rows = np.flatnonzero((market == slot) & ~self.slow)
            over = calendar.day(begins[rows]) != calendar.day(ends[rows] - 1)
            self.slow[rows[over]] = True

    def _measures(self, out: dict[str, Column], kinds: Array) -> None:
        """What bars of the first row's kind say; those of other kinds are read one by one."""
        code = kinds[int(np.argmin(self.slow))]
        self.slow |= kinds != code
        for name in (each.name for each in MEASURED.get(KINDS[code], ())):
            if name not in INTEGERS:
                out.update(self._numbers(name))
            elif (whole := self._integers(name)) is not None:
                out[name] = np.maximum(whole, 0) if name in BAR_COUNTS else whole

    def _turnover_volumes(self, out: dict[str, Column]) -> None:
        """Where a bar says what it turned over, that was its volume, unless it says otherwise."""
        if "turnover" not in out:
            return
        unsaid = ~np.isnan(out["turnover"])
        if "turnover_volume" in out:
            self.slow |= unsaid & np.isnan(out["turnover_volume"])
        elif unsaid.all():
            both = ("", EXACT)
            out |= {f"{some}turnover_volume": out[f"{some}volume"] for some in both if f"{some}volume" in out}
        else:
            self.slow |= unsaid


_NOTHING = np.array(np.nan)
_RUNGS = np.array([*LENGTHS.values(), 0], np.int32)  # by code; the last one is of what is none
_CODES = {name: list(LENGTHS.values()).index(length) for name, length in _OTHERS.items()}
