"""A connection, as the channels of its app see it."""

import secrets
from collections.abc import Callable

from msgspec import Struct

from actors.hub import Hub
from actors.topics import Subscription
from web.outbox import Outbox
from web.pusher.mail import Mail
from web.pusher.names import Kind


class Seat(Struct):
    """A connection's place in a channel."""

    kind: Kind
    user_id: str | None = None  # in a presence channel
    bars: Subscription | None = None  # in a channel of bars


class Peer:
    """A connection, as channels see it."""

    def __init__(
        self, hub: Hub, outbox: Outbox, overflow: Callable[[], None], close: Callable[[int, str], None]
    ) -> None:
        """`close` says a pusher:error and goodbye, both with this code."""
        # Whoever knows a socket id can have a signature made for it, so it must not be guessed.
        self.id = f"{secrets.randbelow(10**12)}.{secrets.randbelow(10**12)}"
        self.mail = Mail(hub, outbox, overflow)
        self.close = close
        self.seats: dict[str, Seat] = {}
        self.user: str | None = None
        self.watched: tuple[str, ...] = ()
