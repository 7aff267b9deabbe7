"""What each route takes and answers, in the types that its handler uses; the API reference is made of this table.

For whatever else the reference says of a route its own code is asked: path, method and the sentence above it, who may
ask and how often.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, get_type_hints

from msgspec import UNSET, Struct, UnsetType, defstruct

from actors import audit, backups
from actors.bodies import ARROW, JSON, NDJSON
from actors.export import bar_schema
from actors.intake import IngestAnswer
from actors.words import BAR_FIELDS, CARD_FIELDS, FIELDS
from storage.cards import CARD, MARKETPLACE
from storage.formats import KINDS as FILES
from storage.markets import CHECKS
from storage.records import KINDS, Market
from web import (
    admin,
    cards,
    events,
    export,
    gaps,
    health,
    heartbeats,
    ingest,
    layouts,
    lightweight,
    markets,
    marks,
    pictures,
    prices,
    quotes,
    series,
    symbols,
    udf,
)
from web.pusher import permits, rest

TEXT, HTML, CSS, SCRIPT = "text/plain", "text/html", "text/css", "application/javascript"
SOCKETS = ("ws", "lightweight", "tradingview", "ingest", "pusher", "pusher_behind")
FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One route with one method."""

    answer: Any = None  # the type of the JSON in an answer; None: it has none
    status: int = 200
    kinds: Collection[str] = (JSON,)  # media types of the answer
    query: type[Struct] | None = None
    body: Any = None  # the type of the JSON in a request, or a schema
    bodies: Collection[str] = (JSON,)  # media types that it may have
    example: Any = None  # of a body
    also: tuple[int, ...] = ()  # further statuses that the answer has
    errors: tuple[int, ...] = ()  # beside those that come with what it takes
    revalidated: bool = False  # has an ETag, where no bar of it is open
    keyed: bool = False  # heeds an Idempotency-Key


def _registered() -> list[Any]:
    """What is told of a market, as `storage.records.shown` has it."""
    hints: dict[str, Any] = {**get_type_hints(Market), "price_source": list[str]}
    return [(name, hints[name]) for name in Market.__struct_fields__ if name != "slot"]


def _described(name: str, fields: list[Any], about: str) -> Any:
    return defstruct(name, fields, namespace={"__doc__": about})


def _of(shape: Any, kind: Any) -> Any:
    return shape[kind]


Registered = _described("Market", _registered(), "A market as it is registered; null is not said.")
Listed = _described(
    "ListedMarket",
    [
        *_registered(),
        ("channel", str),
        ("tier_assigned", bool),
        *((name, float | None) for name in ("current_price", "price_24h_ago", "price_change_24h", "volume_24h")),
        ("trades_24h", int | None),
        *((name, float | None) for name in ("open_interest", "market_cap")),
        ("last_updated", int | None),
        ("spark", list[float | None] | UnsetType, UNSET),
    ],
    "A market, and what it trades at now; null is not known. `price_change_24h` is per cent, `last_updated` ms, and the"
    " newest of `spark` is the last.",
)
_MEASURES = dict.fromkeys(name for kind in KINDS for name in bar_schema(kind).names if name != "time")
Row = _described(
    "Row",
    [("time", str | int), ("timestamp", int), *((name, float | UnsetType, UNSET) for name in _MEASURES)],
    "A bar; what nobody has said is left out.",
)


def _fields(names: Collection[str], *needed: str) -> dict[str, Any]:
    return {"type": "object", "properties": {name: {} for name in sorted(names)}, "required": list(needed)}


def _many(fields: dict[str, Any]) -> dict[str, Any]:
    """One object, or an array of them."""
    return {"anyOf": [fields, {"type": "array", "items": fields}]}


MARKET = {**_fields(CHECKS), "additionalProperties": False}
SAVED = (FORM, JSON)


def _ingested(fields: dict[str, Any], example: dict[str, Any], query: type[Struct] | None = None) -> Operation:
    return Operation(
        answer=IngestAnswer,
        query=query,
        body=_many(fields),
        bodies=(JSON, NDJSON, ARROW),
        example=example,
        errors=(409, 422),
        keyed=True,
    )


# By endpoint; those of the page, which is no API, are left out.
OPERATIONS: dict[str, Operation] = {
    "udf.config": Operation(answer=udf.Configuration),
    "udf.now": Operation(answer=int),
    "udf.history": Operation(answer=udf.Bars | udf.NoData, query=udf.HistoryQuery, errors=(404,), revalidated=True),
    "symbols.one": Operation(answer=symbols.SymbolInfo, query=symbols.SymbolQuery, errors=(404,)),
    "symbols.group": Operation(answer=symbols.Group, query=symbols.GroupQuery, errors=(404,)),
    "symbols.search": Operation(answer=list[symbols.Found], query=symbols.SearchQuery),
    "quotes.listed": Operation(answer=quotes.Quotes, query=quotes.QuotesQuery),
    "marks.on_bars": Operation(answer=list[marks.OnBar], query=marks.Query, errors=(404,)),
    "marks.on_timescale": Operation(answer=list[marks.OnTimescale], query=marks.Query, errors=(404,)),
    "lightweight.ohlcv": Operation(
        answer=_of(lightweight.Rows, Row), query=lightweight.BarsQuery, errors=(404, 422), revalidated=True
    ),
    "lightweight.markets": Operation(answer=lightweight.Markets, query=lightweight.MarketsQuery),
    "markets.listed": Operation(answer=_of(markets.Page, Listed), query=markets.ListQuery, errors=(404,)),
    "markets.put": Operation(
        answer=Registered,
        also=(201,),
        body={**MARKET, "required": ["market_symbol"]},
        example={"market_symbol": "TEA", "kind": "spot", "name": "A pound of tea"},
        errors=(409,),
    ),
    "markets.one": Operation(answer=Listed),
    "markets.patch": Operation(answer=Registered, body=MARKET, example={"name": "Tea"}, errors=(409,)),
    "markets.deactivate": Operation(answer=Registered),
    "prices.one": Operation(answer=prices.LivePrice),
    "gaps.listed": Operation(answer=gaps.Answer, query=gaps.Query),
    "marks.listed": Operation(answer=marks.Listed, query=marks.ListQuery),
    "marks.put": Operation(
        answer=marks.Told,
        status=201,
        body=marks.Wanted,
        example={"time": 1767603600000, "text": "Listed", "label": "N", "color": "green"},
        errors=(413,),
    ),
    "marks.delete": Operation(status=204),
    "series.combined": Operation(answer=series.Answer, query=series.Query, errors=(404,), revalidated=True),
    "series.by_price": Operation(answer=series.Profile, query=series.ProfileQuery, errors=(404,), revalidated=True),
    "pictures.chart": Operation(kinds=tuple(pictures.TYPES.values()), query=pictures.Query, revalidated=True),
    "export.bars": Operation(kinds=tuple(FILES.values()), query=export.BarsQuery, errors=(404,)),
    "export.events": Operation(kinds=tuple(FILES.values()), query=export.EventsQuery, errors=(404,)),
    "layouts.charts": Operation(
        answer=layouts.Told[list[layouts.ListedChart] | layouts.WholeChart], query=layouts.ChartQuery, errors=(404,)
    ),
    "layouts.save_chart": Operation(
        answer=layouts.Number,
        query=layouts.ChartQuery,
        body=layouts.Chart,
        bodies=SAVED,
        example={"name": "Mine", "content": "{}", "symbol": "GOLD", "resolution": "60"},
        errors=(404,),
    ),
    "layouts.remove_chart": Operation(answer=layouts.Ok, query=layouts.ChartQuery, errors=(404,)),
    "layouts.studies": Operation(
        answer=layouts.Told[list[layouts.Named] | layouts.Template], query=layouts.StudyQuery, errors=(404,)
    ),
    "layouts.save_study": Operation(
        answer=layouts.Ok,
        query=layouts.StudyQuery,
        body=layouts.Study,
        bodies=SAVED,
        example={"name": "Averages", "content": "{}"},
    ),
    "layouts.remove_study": Operation(answer=layouts.Ok, query=layouts.StudyQuery, errors=(404,)),
    "layouts.tools": Operation(
        answer=layouts.Told[list[str] | layouts.Template], query=layouts.ToolQuery, errors=(404,)
    ),
    "layouts.save_tool": Operation(
        answer=layouts.Ok,
        query=layouts.ToolQuery,
        body=layouts.Tool,
        bodies=SAVED,
        example={"content": "{}"},
    ),
    "layouts.remove_tool": Operation(answer=layouts.Ok, query=layouts.ToolQuery, errors=(404,)),
    "layouts.drawings": Operation(answer=layouts.Told[layouts.Drawn], query=layouts.DrawingsQuery),
    "layouts.save_drawings": Operation(
        answer=layouts.Ok,
        query=layouts.DrawingsQuery,
        body=layouts.Drawings,
        bodies=SAVED,
        example={"state": {"sources": {"a": {"points": []}}, "groups": {}}},
    ),
    "cards.put": Operation(
        answer=cards.Put,
        body=_many({**_fields(("id", *CARD), "id"), "additionalProperties": False}),
        bodies=(JSON, NDJSON),
        example={"id": "lea-233", "name": "Black Lotus", "set_code": "LEA"},
    ),
    "cards.put_marketplaces": Operation(
        answer=cards.Put,
        body=_many({**_fields(("id", *MARKETPLACE), "id"), "additionalProperties": False}),
        bodies=(JSON, NDJSON),
        example={"id": "cardmarket", "currency": "EUR"},
    ),
    "cards.marketplaces": Operation(answer=cards.Marketplaces, query=cards.ListQuery),
    "ingest.events": _ingested(
        _fields(FIELDS, "timestamp"),
        {"market_symbol": "GOLD", "timestamp": 1767603600000, "price": "12.5", "size": "2", "trade_id": 1},
        ingest.IngestQuery,
    ),
    "ingest.bars": _ingested(
        _fields(BAR_FIELDS, "timestamp", "resolution"),
        {
            "market_symbol": "GOLD",
            "timestamp": 1767600000000,
            "resolution": "1m",
            "open": 12,
            "high": 13,
            "low": 11.5,
            "close": 12.5,
            "volume": 40,
        },
        ingest.IngestQuery,
    ),
    "ingest.snapshots": _ingested(
        _fields(CARD_FIELDS, "card_id"),
        {"card_id": "lea-233", "marketplace": "cardmarket", "time": 1767603600000, "price": 9000},
    ),
    "heartbeats.beats": Operation(
        answer=heartbeats.Told,
        body=_many(_fields(heartbeats.Heartbeat.__struct_encode_fields__, "feed")),
        example={"feed": "exchange", "markets": ["GOLD"], "through": 1767603600000},
    ),
    "heartbeats.coverage": Operation(
        answer=heartbeats.Told,
        body=_many(_fields(heartbeats.Covered.__struct_encode_fields__, "feed", "markets", "from", "to")),
        example={"feed": "backfill", "markets": ["GOLD"], "from": 1767600000000, "to": 1767603600000},
    ),
    "health.alive": Operation(answer=health.State),
    "health.ready": Operation(answer=health.State, also=(503,)),
    "health.report": Operation(answer=health.Health, also=(503,)),
    "metrics.scraped": Operation(kinds=(TEXT,)),
    "admin.backup": Operation(
        answer=backups.Told,
        status=202,
        body=admin.Wanted,
        example={"directory": "/var/backups/candled"},
        errors=(409,),
    ),
    "admin.backup_progress": Operation(answer=backups.Told | None),
    "admin.verify": Operation(kinds=(NDJSON,), answer=audit.Line, body=admin.Verified, example={}, errors=(404, 409)),
    "events.stream": Operation(kinds=("text/event-stream",), query=events.EventsQuery, errors=(503,)),
    "rest.events": Operation(
        answer=dict[str, Any],
        query=rest.Signature,
        body=rest.Trigger,
        example={"name": "said", "channels": ["news"], "data": "{}"},
        errors=(401,),
    ),
    "rest.batch_events": Operation(
        answer=dict[str, Any],
        query=rest.Signature,
        body=rest.Batch,
        example={"batch": [{"channel": "news", "name": "said", "data": "{}"}]},
        errors=(401,),
    ),
    "rest.occupied": Operation(answer=dict[str, Any], query=rest.ChannelsQuery, errors=(401,)),
    "rest.channel": Operation(answer=dict[str, Any], query=rest.ChannelQuery, errors=(401,)),
    "rest.users": Operation(answer=dict[str, Any], query=rest.Signature, errors=(401,)),
    "rest.terminate": Operation(answer=dict[str, Any], query=rest.Signature, body={}, example={}, errors=(401,)),
    "rest.terminate_by_key": Operation(answer=dict[str, Any], query=rest.Signature, body={}, example={}, errors=(401,)),
    "permits.channel": Operation(
        answer=permits.Permit,
        body=permits.Form,
        bodies=(FORM,),
        example={"socket_id": "1.1", "channel_name": "private-market-GOLD"},
        errors=(403,),
    ),
    "permits.user": Operation(
        answer=permits.Permit, body=permits.Form, bodies=(FORM,), example={"socket_id": "1.1"}, errors=(403,)
    ),
    **{f"sockets.{name}": Operation(status=101, kinds=(), errors=(426,)) for name in SOCKETS},
    "reference.document": Operation(answer=dict[str, Any]),
    "reference.page": Operation(kinds=(HTML,)),
    "reference.style": Operation(kinds=(CSS,)),
    "others.loader": Operation(kinds=(SCRIPT,)),
    "others.widgets": Operation(answer=dict[str, Any]),
}
