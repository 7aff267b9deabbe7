"""What clients say: the Structs of their messages, and how these are read."""

from typing import TypeVar

import msgspec
from msgspec import Raw, Struct

from web.pusher.presence import NULL

T = TypeVar("T", bound=Struct)


class Said(Struct, frozen=True):
    """A message of a client."""

    event: str
    data: Raw = Raw()
    channel: str | None = None


class Subscribe(Struct, frozen=True):
    channel: str
    auth: str | None = None
    channel_data: str | None = None


class Unsubscribe(Struct, frozen=True):
    channel: str


class SignIn(Struct, frozen=True):
    auth: str
    user_data: str


class User(Struct, frozen=True):
    """Who somebody says, signed, that they are."""

    id: str
    user_info: Raw = NULL
    watchlist: tuple[str, ...] = ()


class Wrong(Exception):
    """A message that has no effect; the client is told why."""

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


def read(message: str | bytes) -> Said:
    if isinstance(message, bytes):
        raise Wrong("expected a text frame, got a binary one")
    try:
        return msgspec.json.decode(message, type=Said)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise Wrong("expected a JSON object with an event") from None


def fields(said: Said, shape: type[T]) -> T:
    """A message's data, which clients send as an object or as a text that holds one."""
    try:
        data: bytes | str = bytes(said.data)
        if data[:1] == b'"':
            data = msgspec.json.decode(data, type=str)
        return msgspec.json.decode(data or b"{}", type=shape)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise Wrong(f"data of {said.event}: {error}") from None
