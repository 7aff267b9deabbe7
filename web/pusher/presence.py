"""Who is in a presence channel: users, each of whom counts once however many connections they have."""

from typing import Any

import msgspec
from msgspec import Struct

from storage.errors import BadRequest
from web.pusher.names import LONGEST_USER

MOST = 100  # members of a channel
LONGEST_INFO = 1024  # bytes of JSON

NULL = msgspec.Raw(b"null")


class Member(Struct, frozen=True):
    """A user, as the others in the channel are told of them."""

    user_id: str
    user_info: msgspec.Raw = NULL


class _Said(Struct, frozen=True):
    user_id: str | int | float
    user_info: msgspec.Raw = NULL


class Members:
    """The users in one channel."""

    def __init__(self) -> None:
        self._members: dict[str, Member] = {}
        self._connections: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, user_id: str) -> bool:
        return user_id in self._members

    @property
    def ids(self) -> list[str]:
        return list(self._members)

    def add(self, member: Member) -> bool:
        """Count a connection of a user; whether it is their first."""
        first = member.user_id not in self._members
        self._members.setdefault(member.user_id, member)
        self._connections[member.user_id] = self._connections.get(member.user_id, 0) + 1
        return first

    def remove(self, user_id: str) -> bool:
        """Count one less; whether it was their last."""
        self._connections[user_id] -= 1
        if self._connections[user_id]:
            return False
        del self._connections[user_id], self._members[user_id]
        return True

    def told(self) -> dict[str, Any]:
        """What whoever joins is told."""
        infos = {id: member.user_info for id, member in self._members.items()}
        return {"presence": {"count": len(infos), "ids": list(infos), "hash": infos}}


def member(channel_data: str) -> Member:
    """Who somebody says, signed, that they are. Raises BadRequest."""
    try:
        said = msgspec.json.decode(channel_data, type=_Said)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BadRequest(f"channel_data: expected a JSON object with user_id: {error}") from None
    user_id = str(said.user_id)
    if not 0 < len(user_id) <= LONGEST_USER:
        raise BadRequest(f"user_id: expected 1 to {LONGEST_USER} characters, got {user_id!r:.200}")
    info = bytes(said.user_info)
    if len(info) > LONGEST_INFO:
        raise BadRequest(f"user_info: expected at most {LONGEST_INFO} bytes, got {len(info)}")
    return Member(user_id, msgspec.Raw(info))  # a copy: the view would keep the whole message
