"""The WebSockets that candled serves, by their paths."""

from typing import Protocol

from actors.hub import Hub
from web import updates
from web.channels import Feeds, Names, channels
from web.listener import Handler
from web.outbox import WsLimits
from web.stream import BarStreams, MayRead


class Everything(Feeds, updates.Markets, Protocol):
    """What they ask of the engine."""


def sockets(
    engine: Everything, names: Names, hub: Hub, limits: WsLimits, may_read: MayRead | None
) -> dict[str, Handler]:
    """All but those of the Pusher protocol. `may_read`: see `web.stream.Guarded`."""
    return {
        "/ws": BarStreams(engine, hub, limits, may_read, channels(engine, names)).serve,
        "/api/lightweight/realtime": updates.Updates(updates.lightweight(), engine, hub, limits, may_read).serve,
        "/api/tradingview/stream": updates.Updates(updates.tradingview(), engine, hub, limits, may_read).serve,
    }
