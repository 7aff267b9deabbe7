"""The WebSockets that candled serves, by their paths."""

from typing import Protocol

from actors.hub import Hub
from web import updates
from web.channels import Feeds, Names, channels
from web.ingest_stream import IngestStream, Intake
from web.listener import Endpoint, Handler
from web.outbox import WsLimits
from web.stream import BarStreams, MayRead
from web.tokens import Tokens


class Everything(Feeds, updates.Markets, Protocol):
    """What they ask of the engine."""


def sockets(
    engine: Everything,
    names: Names,
    intake: Intake,
    hub: Hub,
    limits: WsLimits,
    may_read: MayRead | None,
    may_ingest: MayRead,
    tokens: Tokens,
    *,
    demo: bool,
) -> dict[str, Handler | Endpoint]:
    """All but those of the Pusher protocol. `may_read`: see `web.stream.Guarded`; `may_ingest` judges the keys of
    producers, of whom those on this machine need none in a demo; `tokens` those of users."""
    taking = IngestStream(intake, hub, limits, may_ingest, demo=demo)
    return {
        "/ws": BarStreams(engine, hub, limits, may_read, channels(engine, names, tokens)).serve,
        "/api/lightweight/realtime": updates.Updates(updates.lightweight(), engine, hub, limits, may_read).serve,
        "/api/tradingview/stream": updates.Updates(updates.tradingview(), engine, hub, limits, may_read).serve,
        "/api/ingest/stream": Endpoint(taking.serve, message_bytes=limits.ingest_bytes),
    }
