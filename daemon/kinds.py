"""What a setting can be: how it is read from a text, what is taken, and how that is said."""

import base64
import itertools
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec
from msgspec import structs

from storage.measures import KINDS
from storage.retention import KEPT, RAW, Keep
from web.pusher.apps import App


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


def text(expected: str = "a text that is not empty", least: int = 1) -> Kind:
    """Any text of at least so many characters."""

    def take(value: object) -> str:
        if len(_is(str, value).strip()) < least or "\0" in str(value):
            raise ValueError
        return str(value)

    return Kind(expected, str, take)


def word() -> Kind:
    """A name that stands in paths; a number is its digits."""

    def take(value: object) -> str:
        found = str(_is(int, value)) if isinstance(value, int) else _is(str, value)
        if not re.fullmatch(r"[\w.-]{1,100}", found, re.ASCII):
            raise ValueError
        return str(found)

    return Kind("1 to 100 letters, digits, _ . or -", str, take)


def url() -> Kind:
    """An address of the web."""

    def take(value: object) -> str:
        found: str = _is(str, value)
        parts = urlsplit(found)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            raise ValueError
        if not found.isascii() or not found.isprintable() or " " in found:
            raise ValueError
        return found

    return Kind("an http:// or https:// address", str, take)


def pushers() -> Kind:
    """Apps of the Pusher protocol, each a table; in a variable as JSON."""
    wanted = {field.name: field for field in structs.fields(App)}
    parts: dict[str, Kind] = {"id": word(), "key": word(), "secret": text(), "webhook": url(), "encryption_key": _key()}

    def read(value: str) -> object:
        try:
            return msgspec.json.decode(value)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ValueError from error

    def one(number: int, table: object) -> App:
        place = f"pusher_apps: app {number}"
        found = _is(dict, table)
        for name in found:
            if name not in wanted:
                raise Wrong(f"{place}: nothing of an app is called {name!r:.100}; there are {', '.join(wanted)}")
        for name, field in wanted.items():
            if field.required and name not in found:
                raise Wrong(f"{place}: {name}: needed")
        return App(**{name: _part(f"{place}: {name}", parts.get(name), part) for name, part in found.items()})

    def take(value: object) -> tuple[App, ...]:
        return tuple(one(number, table) for number, table in enumerate(_is(list, value), 1))

    return Kind("tables, each with id, key and secret of an app", read, take)


def _part(place: str, kind: Kind | None, value: object) -> Any:
    """A part of an app, which is never repeated, as it may be a secret."""
    try:
        return _is(bool, value) if kind is None else kind.take(value)
    except ValueError:
        expected = "true or false" if kind is None else kind.expected
        raise Wrong(f"{place}: expected {expected}, found something else") from None


def _key() -> Kind:
    def take(value: object) -> str:
        if len(base64.b64decode(_is(str, value), validate=True)) != 32:
            raise ValueError
        return str(value)

    return Kind("32 bytes in base64", str, take)


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
