"""What charts are told: bars, what became of them, and in which words."""

from typing import Literal

import msgspec
from msgspec import Struct

Op = Literal["upsert", "amend", "insert", "delete"]
Reason = Literal["lagged", "reset"]

NEVER = 2**63  # a change number that no commit reaches


class Bar(Struct, frozen=True):
    """One candle as charts see it; `rev` and `born` stay inside."""

    time: int  # opening time, UTC seconds
    open: float
    high: float
    low: float
    close: float
    volume: float
    trades: int
    closed: bool
    rev: int  # seq of the last change
    born: int  # seq that made it


class Gone(Struct, frozen=True):
    """A bar that no longer exists."""

    time: int
    had: bool  # it was there at the client's position; if not, a client that was cut off amid a burst may have it


class Start(Struct):
    """Where a subscription begins: a snapshot, or what changed after the client's position."""

    seq: int  # the topic's
    recovered: bool
    bars: list[Bar]  # ascending; recovered: those changed since, and the one that was newest then
    gone: list[Gone]  # recovered: those that ended since
    newest: int | None  # time of the newest bar, which an empty snapshot does not show


class Label(Struct, frozen=True):
    """What names a stream in every frame of it."""

    symbol: str
    resolution: str
    epoch: str


class _Shown(Struct):
    time: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    trades: int
    closed: bool


_encode = msgspec.json.Encoder().encode


def shown(bar: Bar) -> bytes:
    """The bar as every wire prints it."""
    return _encode(
        _Shown(bar.time, bar.open, bar.high, bar.low, bar.close, bar.volume, bar.trades, bar.closed),
    )


class Change:
    """The newest state of one bar, encoded once for whoever is to see it."""

    __slots__ = ("closing", "first", "gone", "had", "text", "time")

    def __init__(self, bar: Bar | None, time: int, *, had: bool, closing: bool, first: int) -> None:
        self.time = time
        self.gone = bar is None
        self.had = had  # it existed before this change
        self.closing = closing  # says for the first time that the bar is closed
        self.first = first  # the change's number, NEVER for a mere closing
        self.text = b'{"time":%d}' % time if bar is None else shown(bar)


def worded(change: Change, had: bool, newest: int | None) -> tuple[Op, int | None]:
    """What the change is to a chart that ends with the bar at `newest`, and what the chart ends with afterwards.

    After the deletion of its last bar the chart is taken to end there still: the bar before it may then come as an
    amendment, which charts accept for the last bar too, while an upsert before the end would be refused."""
    if change.gone:
        return "delete", newest
    if newest is None or change.time >= newest:
        return "upsert", change.time
    return ("amend" if had else "insert"), newest
