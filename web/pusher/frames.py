"""How the frames of the protocol are worded, and what its codes are."""

import msgspec
from msgspec import UNSET, Struct, UnsetType

from web.outbox import text

PRICE = "price-update"

NO_APP = 4001
UNAUTHORIZED = 4009
OVER_QUOTA = 4004  # in a subscription_error
BAD_VERSION = 4006
UNSUPPORTED = 4007
NO_PROTOCOL = 4008
FULL = 4100
RECONNECT = 4200
NO_PONG = 4201
BAD_CLIENT_EVENT = 4301  # never closes
TOO_MANY_WATCHED = 4302  # never closes

_encode = msgspec.json.Encoder().encode


class Event(Struct, frozen=True):
    """What happened in a channel, or in a connection where there is none."""

    event: str
    data: str | UnsetType = UNSET
    channel: str | UnsetType = UNSET
    user_id: str | UnsetType = UNSET


class _Trouble(Struct, frozen=True):
    code: int | None
    message: str


class _Error(Struct, frozen=True):
    data: _Trouble
    event: str = "pusher:error"


class _Refusal(Struct, frozen=True):
    type: str
    error: str
    status: int


def frame(event: Event) -> bytes:
    """An event as a text frame."""
    return text(_encode(event))


def event(name: str, data: object, channel: str | UnsetType = UNSET) -> bytes:
    """A frame of the protocol's own: its data is a text that holds JSON."""
    return frame(Event(name, as_json(data), channel))


def text_of(data: msgspec.Raw) -> str:
    """What an event carries, as the text that travels: one stays as it is, anything else is JSON. Raises ValueError."""
    found = bytes(data)
    try:
        return msgspec.json.decode(found, type=str) if found[:1] == b'"' else found.decode()
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from None


def as_json(value: object) -> str:
    """A value as JSON."""
    return _encode(value).decode()


def error(code: int | None, message: str) -> bytes:
    """What goes wrong for a whole connection; its data is an object, which clients rely on."""
    return text(_encode(_Error(_Trouble(code, message))))


def established(socket_id: str, activity_seconds: float) -> bytes:
    """The first frame."""
    told = {"socket_id": socket_id, "activity_timeout": max(1, int(activity_seconds))}
    return event("pusher:connection_established", told)


def succeeded(channel: str, told: object = msgspec.Raw(b"{}")) -> bytes:
    """A connection is in a channel."""
    return event("pusher_internal:subscription_succeeded", told, channel)


def refused(channel: str, kind: str, message: str, status: int) -> bytes:
    """Why a connection may not join a channel."""
    return event("pusher:subscription_error", _Refusal(kind, message, status), channel)


PING = frame(Event("pusher:ping", "{}"))
PONG = frame(Event("pusher:pong", "{}"))
