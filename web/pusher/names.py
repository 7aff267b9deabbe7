"""What a channel's name says: who may join, whether its last event is kept, and which market it is of."""

import re
from typing import Literal, NamedTuple

from storage.errors import BadRequest

Kind = Literal["public", "private", "encrypted", "presence", "user"]

LONGEST = 164
LONGEST_USER = 128
USER = "#server-to-user-"
MARKET = "market-"
PLAIN = re.compile(rf"[A-Za-z0-9_=@,.;-]{{1,{LONGEST}}}")
ESCAPED = re.compile(r"=([0-9A-F]{2})")
# In the order in which they are looked for.
PREFIXES: tuple[tuple[str, Kind], ...] = (
    ("private-encrypted-", "encrypted"),
    ("private-", "private"),
    ("presence-", "presence"),
)
CACHED = "cache-"


class Name(NamedTuple):
    """A channel's name, taken apart."""

    whole: str
    kind: Kind
    cached: bool  # its last event is kept
    rest: str  # without what says so

    @property
    def market(self) -> str | None:
        """What follows `market-`, where candled publishes itself: a symbol, perhaps with a resolution."""
        if self.kind not in ("public", "private") or not self.rest.startswith(MARKET):
            return None
        return unescaped(self.rest.removeprefix(MARKET))


def parsed(name: str) -> Name:
    """A channel's name, taken apart. Raises BadRequest."""
    if name.startswith(USER):
        user = name.removeprefix(USER)
        if not 0 < len(user) <= LONGEST_USER or not user.isprintable():
            raise BadRequest(
                f"channel: expected {USER} and a user id of 1 to {LONGEST_USER} characters, got {name!r:.200}"
            )
        return Name(name, "user", False, user)
    if not PLAIN.fullmatch(name):
        raise BadRequest(f"channel: expected 1 to {LONGEST} of A-Z a-z 0-9 _ - = @ , . ; got {name!r:.200}")
    kind, rest = next(
        ((kind, name.removeprefix(prefix)) for prefix, kind in PREFIXES if name.startswith(prefix)), ("public", name)
    )
    return Name(name, kind, rest.startswith(CACHED), rest.removeprefix(CACHED))


def escaped(symbol: str) -> str:
    """A symbol as a channel may be called: `BTC/USD` is `BTC=2FUSD`."""
    return "".join(
        char if char != "=" and PLAIN.fullmatch(char) else "".join(f"={byte:02X}" for byte in char.encode())
        for char in symbol
    )


def unescaped(text: str) -> str | None:
    """The symbol that `escaped` has written like this; None where it writes nothing so."""
    try:
        symbol = ESCAPED.sub(lambda found: chr(int(found[1], 16)), text).encode("latin-1").decode()
    except UnicodeDecodeError:
        return None
    return symbol if escaped(symbol) == text else None
