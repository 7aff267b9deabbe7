"""What is said on `/ws`: the Structs of requests and answers, and how the frames of a stream of bars are worded."""

from functools import lru_cache
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from actors.bars import Label, Op, Reason, Start, shown
from web.outbox import text

Code = Literal[
    "invalid_json",
    "invalid_message",
    "unknown_action",
    "unknown_channel",
    "unknown_symbol",
    "unknown_resolution",
    "invalid_card_id",
    "unknown_card",
    "unauthorized",
    "too_many_subscriptions",
    "rate_limited",
    "unavailable",
    "internal",
]
Id = str | int
LONGEST_ID = 64
MOST_BARS = 5000
LONGEST_CONFLATION = 60_000

_encode = msgspec.json.Encoder().encode


class Refused(Exception):
    """A message that gets an `error` for an answer."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code: Code = code


class SubscribeBars(Struct, frozen=True):
    """Follow the bars of one market at one resolution."""

    symbol: Annotated[str, Meta(min_length=1, max_length=256)]
    resolution: Annotated[str, Meta(min_length=1, max_length=16)]
    snapshot_bars: Annotated[int, Meta(ge=0, le=MOST_BARS)] = 300
    conflate_ms: Annotated[int, Meta(ge=0, le=LONGEST_CONFLATION)] = 0
    resume: Any = None  # whatever is not a position gets a snapshot, never an error


class UnsubscribeBars(Struct, frozen=True):
    """Follow them no longer."""

    symbol: Annotated[str, Meta(min_length=1, max_length=256)]
    resolution: Annotated[str, Meta(min_length=1, max_length=16)]


class Position(Struct, frozen=True):
    """Where a client stands in a stream."""

    epoch: str
    seq: Annotated[int, Meta(ge=0)]


class Subscribed(Struct, frozen=True, tag_field="type", tag="subscribed"):
    """The acknowledgement, before anything of the stream."""

    channel: str
    symbol: str
    resolution: str
    epoch: str
    seq: int
    recovered: bool
    conflate_ms: int | UnsetType = UNSET  # where it is not what was asked for
    id: Id | UnsetType = UNSET


class Unsubscribed(Struct, frozen=True, tag_field="type", tag="unsubscribed"):
    """Nothing of the stream follows."""

    channel: str
    symbol: str
    resolution: str
    id: Id | UnsetType = UNSET


MOST_SYMBOLS = 200
MOST_TRADES = 500
Symbol = Annotated[str, Meta(min_length=1, max_length=256)]


class SubscribePrices(Struct, frozen=True):
    """Follow the live prices of these markets too; `*`: of all."""

    symbols: Annotated[list[Symbol], Meta(min_length=1, max_length=MOST_SYMBOLS)] | Literal["*"]


class UnsubscribePrices(Struct, frozen=True):
    """Follow them no longer; without symbols: none."""

    symbols: Annotated[list[Symbol], Meta(max_length=MOST_SYMBOLS)] | Literal["*"] | None = None


class SubscribedPrices(Struct, frozen=True, tag_field="type", tag="subscribed"):
    channel: str
    symbols: list[str] | Literal["*"]
    id: Id | UnsetType = UNSET


class UnsubscribedPrices(Struct, frozen=True, tag_field="type", tag="unsubscribed"):
    channel: str
    symbols: list[str] | Literal["*"] | UnsetType = UNSET
    id: Id | UnsetType = UNSET


class SubscribeTrades(Struct, frozen=True):
    """Follow the trades of one market; first the newest."""

    symbol: Symbol
    limit: Annotated[int, Meta(ge=0, le=MOST_TRADES)] = 50


class UnsubscribeTrades(Struct, frozen=True):
    """Follow them no longer."""

    symbol: Symbol


class SubscribedTrades(Struct, frozen=True, tag_field="type", tag="subscribed"):
    channel: str
    symbol: str
    id: Id | UnsetType = UNSET


class UnsubscribedTrades(Struct, frozen=True, tag_field="type", tag="unsubscribed"):
    channel: str
    symbol: str
    id: Id | UnsetType = UNSET


class SubscribedChannel(Struct, frozen=True, tag_field="type", tag="subscribed"):
    """The answer where there is nothing to choose."""

    channel: str
    id: Id | UnsetType = UNSET


class UnsubscribedChannel(Struct, frozen=True, tag_field="type", tag="unsubscribed"):
    channel: str
    reason: str | UnsetType = UNSET
    id: Id | UnsetType = UNSET


class SubscribedCard(Struct, frozen=True, tag_field="type", tag="subscribed"):
    channel: str
    card_id: int
    id: Id | UnsetType = UNSET


class UnsubscribedCard(Struct, frozen=True, tag_field="type", tag="unsubscribed"):
    channel: str
    card_id: int
    id: Id | UnsetType = UNSET


class Authenticate(Struct, frozen=True):
    """Show a key: the first message of those who cannot send headers with a handshake, as browsers."""

    key: Annotated[str, Meta(min_length=1, max_length=256)]


class Authenticated(Struct, frozen=True, tag_field="type", tag="authenticated"):
    """The answer to an `action` of `authenticate` whose key may read here."""

    id: Id | UnsetType = UNSET


class Pong(Struct, frozen=True, tag_field="type", tag="pong"):
    """The answer to an `action` of `ping`."""

    id: Id | UnsetType = UNSET


class Error(Struct, frozen=True, tag_field="type", tag="error"):
    """Why a message had no effect; the connection stays."""

    code: Code
    message: str
    channel: str | UnsetType = UNSET
    id: Id | UnsetType = UNSET


Answer = (
    Subscribed
    | Unsubscribed
    | SubscribedPrices
    | UnsubscribedPrices
    | SubscribedTrades
    | UnsubscribedTrades
    | SubscribedCard
    | UnsubscribedCard
    | SubscribedChannel
    | UnsubscribedChannel
    | Authenticated
    | Pong
    | Error
)


def worded(answer: Answer) -> bytes:
    """An answer as a frame."""
    return text(told(answer))


@lru_cache(4096)
def _named(label: Label) -> bytes:
    """The members that name a stream, in every frame of it."""
    return b'"channel":"bars","symbol":%b,"resolution":%b,"epoch":%b' % (
        _encode(label.symbol),
        _encode(label.resolution),
        _encode(label.epoch),
    )


class Bars:
    """The dialect of `/ws`."""

    def frame(self, label: Label, prev: int, seq: int, op: Op, text_: bytes) -> bytes:
        body = b'{"type":"bar",%b,"prev_seq":%d,"seq":%d,"op":"%b","data":%b}'
        return self._sent(body % (_named(label), prev, seq, op.encode(), text_), label, seq)

    def snapshot(self, label: Label, start: Start, reason: Reason | None) -> bytes:
        why = b',"reason":"%b"' % reason.encode() if reason else b""
        data = b",".join([shown(bar) for bar in start.bars])
        body = b'{"type":"snapshot",%b,"seq":%d%b,"data":[%b]}' % (_named(label), start.seq, why, data)
        return self._sent(body, label, start.seq)

    def heartbeat(self, label: Label, seq: int) -> bytes:
        return self._sent(b'{"type":"heartbeat",%b,"seq":%d}' % (_named(label), seq), label, None)

    def _sent(self, body: bytes, _label: Label, _seq: int | None) -> bytes:
        """The message on its way; with where the client stands once it has applied it, if that is another place."""
        return text(body)


class BarEvents(Bars):
    """The same messages as server-sent events, whose ids are cursors."""

    def _sent(self, body: bytes, label: Label, seq: int | None) -> bytes:
        return event(body, None if seq is None else f"{label.epoch}.{seq}")


def event(body: bytes, id: str | None = None) -> bytes:
    """A server-sent event of one line."""
    return b"data: %b\n\n" % body if id is None else b"id: %b\ndata: %b\n\n" % (id.encode(), body)


def told(answer: Answer) -> bytes:
    """An answer as JSON."""
    return _encode(answer)


BARS, BAR_EVENTS = Bars(), BarEvents()
