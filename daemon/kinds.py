"""What a setting can be: how it is read from a text, what is taken, and how that is said."""

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from storage.measures import KINDS
from storage.retention import KEPT, RAW, Keep


class Wrong(ValueError):
    """What exactly is wrong with a value of several parts."""


class Kind(NamedTuple):
    """What a setting can be."""

    expected: str
    read: Callable[[str], object]  # a flag's or a variable's text into what TOML would hold
    take: Callable[[object], Any]  # what TOML holds into the value; ValueError when it is something else


def whole(low: int, high: int = 2**53) -> Kind:
    """A whole number."""
    expected = f"a whole number from {low} to {high}" if high < 2**53 else f"a whole number from {low} up"
    return Kind(expected, int, lambda value: _within(_is(int, value), low, high))


def number(low: float, high: float = math.inf) -> Kind:
    """A number, with a fraction or without."""

    def take(value: object) -> float:
        return float(_within(value if isinstance(value, float) else _is(int, value), low, high))

    return Kind(f"a number from {low:.15g} {f'to {high:.15g}' if high < math.inf else 'up'}", float, take)


def one_of(*allowed: str, absent: str = "") -> Kind:
    """One of a few words; `absent` is the word for None."""
    words = (*([absent] if absent else []), *allowed)

    def take(value: object) -> str | None:
        if value not in words:
            raise ValueError
        return None if absent and value == absent else str(value)

    return Kind("one of " + ", ".join(words), str, take)


def text(expected: str = "a text that is not empty") -> Kind:
    """Any text."""

    def take(value: object) -> str:
        if not _is(str, value).strip() or "\0" in str(value):
            raise ValueError
        return str(value)

    return Kind(expected, str, take)


def path() -> Kind:
    """A file or a folder; `~` is the home directory."""

    def take(value: object) -> Path:
        try:
            return Path(text().take(value)).expanduser()
        except RuntimeError as error:  # ~somebody, whom this machine does not know
            raise ValueError from error

    return Kind("a path", str, take)


def texts(expected: str, check: Callable[[str], object]) -> Kind:
    """A list; in a flag or a variable with commas between."""

    def read(value: str) -> list[str]:
        return [part.strip() for part in value.split(",") if part.strip()]

    def take(value: object) -> tuple[str, ...]:
        found: list[object] = _is(list, value)
        for one in found:
            check(_is(str, one))
        return tuple(str(one) for one in found)

    return Kind(expected, read, take)


def falling(count: int) -> Kind:
    """Some numbers, each smaller than the one before; in a flag or a variable with commas between."""

    def take(value: object) -> tuple[float, ...]:
        found = [number(0).take(one) for one in _is(list, value)]
        if len(found) != count or any(later >= one for one, later in itertools.pairwise(found)):
            raise ValueError
        return tuple(found)

    return Kind(
        f"{count} numbers of which none is negative and each is smaller than the one before",
        lambda text: [float(part) for part in text.split(",")],
        take,
    )


def spans() -> Kind:
    """For how many days what is kept: by kind of market, raw events and stored resolutions."""
    rungs = {name: rung for rung, name in KEPT.items()}

    def read(value: str) -> dict[str, dict[str, float]]:
        found: dict[str, dict[str, float]] = {}
        for part in value.split(","):
            path, _, days = part.partition("=")
            kind, _, what = path.strip().partition(".")
            found.setdefault(kind, {})[what] = float(days)
        return found

    def take(value: object) -> tuple[Keep, ...]:
        keeps = []
        for kind, table in _is(dict, value).items():
            if kind not in KINDS:
                raise Wrong(f"retention.{kind}: no kind of market is called {kind!r}; there are {', '.join(KINDS)}")
            for what, days in _is(dict, table).items():
                if what not in rungs:
                    raise Wrong(f"retention.{kind}: nothing kept is called {what!r}; there are {', '.join(rungs)}")
                if isinstance(days, bool) or not isinstance(days, int | float) or not 0 < days <= 36500:
                    raise Wrong(f"retention.{kind}.{what}: expected days, more than 0 to 36500, found {days!r:.200}")
                keeps.append(Keep(kind, rungs[what], float(days)))
        _see_lengths(keeps)
        return tuple(sorted(keeps, key=lambda keep: (KINDS.index(keep.kind), keep.rung)))

    return Kind("days by kind of market and what is kept, such as spot.raw=90, spot.1s=30", read, take)


def _see_lengths(keeps: Sequence[Keep]) -> None:
    """A longer bar must not go before the shorter ones that it is made of."""
    days = {(keep.kind, keep.rung): keep.days for keep in keeps if keep.rung != RAW}
    for (kind, rung), most in days.items():
        for finer in (finer for finer in KEPT if RAW < finer < rung):
            least = days.get((kind, finer), math.inf)
            if least > most:
                kept = f"{least:g} days" if least < math.inf else "for ever"
                raise Wrong(
                    f"retention.{kind}.{KEPT[rung]}: expected at least as long as {KEPT[finer]} bars are kept, {kept}, "
                    f"found {most:g}"
                )


def _is(wanted: type, value: object) -> Any:
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        raise ValueError
    return value


def _within(value: Any, low: float, high: float) -> Any:
    if not low <= value <= high:
        raise ValueError
    return value
