"""The apps that there are, and what is signed with their secrets."""

import hmac
from collections.abc import Sequence

from msgspec import Struct

DATA_BYTES = 10 * 1024  # of an event


class App(Struct, frozen=True, kw_only=True):
    """One app: what its servers and its pages call it, and what they may do."""

    id: str
    key: str
    secret: str
    client_events: bool = True  # pages may send events to each other
    subscription_counts: bool = False  # subscribers are told how many they are
    webhook: str = ""  # where its events are posted to
    encryption_key: str = ""  # base64 of 32 bytes, for `/pusher/auth` to share keys of encrypted channels

    def __repr__(self) -> str:
        """Without secrets."""
        return f"App(id={self.id!r}, key={self.key!r})"


class PusherSettings(Struct, frozen=True, kw_only=True):
    """What the Pusher endpoint is told by the configuration."""

    apps: Sequence[App] = ()
    open: bool = True  # whoever knows an app's key may follow markets
    activity_seconds: float = 120.0  # a connection that says nothing for so long is asked whether it lives
    data_bytes: int = DATA_BYTES


def signature(secret: str, text: str | bytes) -> str:
    """HMAC-SHA256 in hexadecimal digits."""
    return hmac.new(secret.encode(), text.encode() if isinstance(text, str) else text, "sha256").hexdigest()


def same(expected: str, given: str) -> bool:
    """Whether two texts are equal, in a time that does not tell how far they are."""
    return hmac.compare_digest(expected.encode(), given.encode())


def auth(app: App, text: str) -> str:
    """What joins a channel, or signs a user in: the app's key and its signature of `text`."""
    return f"{app.key}:{signature(app.secret, text)}"


def joining(socket_id: str, channel: str, channel_data: str | None) -> str:
    """What is signed to let a connection into a channel."""
    return ":".join([socket_id, channel] + ([] if channel_data is None else [channel_data]))


def signing_in(socket_id: str, user_data: str) -> str:
    """What is signed to let a connection be a user's."""
    return f"{socket_id}::user::{user_data}"
