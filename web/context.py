"""What a handler reaches for: the services, the question's parameters, the answer."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import msgspec
import trio
from msgspec import Struct
from quart import Response, current_app
from quart import request as quart_request
from quart_trio.wrappers import TrioRequest

from actors.archivist import Archivist
from actors.audit import Audit
from actors.backups import Backups
from actors.catch_up import CatchUp
from actors.coverage import Coverage
from actors.decode import UnsupportedMediaType
from actors.engine import Engine
from actors.hub import Hub
from actors.intake import Intake
from actors.janitor import Janitor
from actors.marks import Marker
from actors.registry import Keys, Registry
from actors.retention import Retention
from actors.sealing import Sealing
from actors.tiers import BOUNDS
from actors.traded import Day
from actors.writer import Writer
from storage.database import Database
from storage.errors import BadRequest
from storage.journal import Journal
from storage.records import Scope
from storage.state import State
from storage.store import Store
from web.outbox import WsLimits
from web.shapes import parsed

T = TypeVar("T", bound=Struct)

JSON = "application/json"
AS_JSON: Mapping[str, Callable[[bytes], Any]] = {JSON: msgspec.json.decode}
NO_STORE = "no-store"
REVALIDATE = "no-cache"
EMPTY = (204, 304)  # answers that have no body, which is another thing than one of no length
BODY_SECONDS = 120.0  # for a request's body to arrive
QUICK = 64 << 10  # bytes of a body that are read in a millisecond


class Rates(Struct, frozen=True, kw_only=True):
    """How many requests each address or key may send in a window; 0 is no limit."""

    window_ms: int = 60_000
    requests: int | None = None  # replaces all of the others
    history: int = 100
    ohlcv: int = 200
    search: int = 50
    other: int = 1_000


class WebSettings(Struct, frozen=True, kw_only=True):
    """What the web layer is told by the configuration."""

    version: str
    started: float  # on the monotonic clock
    auth: Literal["open", "token"] = "open"  # who may read charts
    demo: bool = False  # sample data; whoever is on this machine may write
    command: str = "candled"  # how a shell on this machine calls the program
    data: Path | None = None  # the data directory
    cors_origins: tuple[str, ...] = ("*",)
    max_body: int = 64 << 20  # bytes
    rates: Rates = Rates()
    udf_prefixes: tuple[str, ...] = ()  # further paths of the UDF verbs
    kept_answers: int = 64 << 20  # bytes of answers kept in memory
    hot_door: bool = True  # requests for bars go past the general HTTP server
    saved_per_user: int = 32 << 20  # bytes of layouts, templates and drawings
    saved: int = 1 << 30  # of all of them
    market_seconds: float = 60.0  # how old what lists and searches are ordered by may be
    tier_turnover: tuple[float, ...] = BOUNDS  # from which on a market is of tier 1, 2 and 3
    trusted_proxies: tuple[str, ...] = ()  # addresses or networks
    streams: WsLimits = WsLimits()
    static: Path = Path(__file__).parent / "static"  # the built page


@dataclass(frozen=True, slots=True)
class Services:
    """Everything below that a handler may ask."""

    engine: Engine
    intake: Intake
    registry: Registry
    keys: Keys
    coverage: Coverage
    marker: Marker
    writer: Writer
    journal: Journal
    database: Database
    store: Store
    hub: Hub
    archivist: Archivist
    retention: Retention
    sealing: Sealing
    janitor: Janitor
    catch_up: CatchUp
    backups: Backups
    audit: Audit
    state: State
    settings: WebSettings
    not_ready: Callable[[], str]  # why requests had better go elsewhere for now; empty when ready


class Request(TrioRequest):
    """A request, with what was found out about who sent it."""

    number: str = ""  # names this request in the log and to whoever asked
    address: str = ""  # whose request it is
    granted: frozenset[Scope] = frozenset()
    known: bool = False  # came with a key that is ours
    answer: object = None  # what is kept of the answer


EXTENSION = "candled"
DAY = "candled.day"
KEPT = "candled.kept"
THREADS = "candled.threads"
LARGE = "candled.large"


def services() -> Services:
    """The services of the app that answers this request."""
    return cast(Services, current_app.extensions[EXTENSION])


def day() -> Day:
    """Who knows what was traded lately."""
    return cast(Day, current_app.extensions[DAY])


def engine() -> Engine:
    """Who knows the bars."""
    return services().engine


async def apart(work: Callable[..., Any], *arguments: object) -> Any:
    """Run arithmetic that takes a while on one of the few threads that are for it."""
    return await trio.to_thread.run_sync(work, *arguments, limiter=current_app.extensions[THREADS])


def request() -> Request:
    """The request that is being answered."""
    return cast(Request, quart_request._get_current_object())  # type: ignore[attr-defined] # a proxy has it


def params(shape: type[T]) -> T:
    """The query as a Struct; of a parameter that is given twice, the first counts."""
    return parsed(request().args.to_dict(), shape)


async def body() -> bytes:
    """The request's body. Raises werkzeug's RequestEntityTooLarge as soon as it is known to be too large."""
    return cast(bytes, await request().get_data(cache=False))


def large() -> trio.CapacityLimiter:
    """Who holds a large body that came without a key; as a context, one of the few turns."""
    return cast(trio.CapacityLimiter, current_app.extensions[LARGE])


async def read(decode: Callable[[bytes], Any], data: bytes) -> Any:
    """What a body says; one that takes a while to read is read on a thread."""
    return decode(data) if len(data) <= QUICK else await apart(decode, data)


async def sent(expected: str, decoders: Mapping[str, Callable[[bytes], Any]] = AS_JSON) -> Any:
    """What the request's body says, by its type. Raises UnsupportedMediaType, BadRequest where it is not readable."""
    kind = request().headers.get("Content-Type", "")
    decode = decoders.get(kind.partition(";")[0].strip().lower())
    if decode is None:
        raise UnsupportedMediaType(f"Content-Type: expected {' or '.join(decoders)}, got {kind!r:.100}")
    try:
        return await read(decode, await body())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"body: expected {expected}: {error}") from None


def reply(answer: object, status: int = 200, headers: dict[str, str] | None = None, *, kind: str = JSON) -> Response:
    """An answer: bytes as they are, anything else as JSON."""
    data = answer if isinstance(answer, bytes) else msgspec.json.encode(answer)
    response = current_app.response_class(data, status, headers)
    response.headers["Content-Type"] = kind
    if status in EMPTY:
        del response.headers["Content-Type"], response.headers["Content-Length"]
    return response


TAG = re.compile(r'"[^"]*"')


def unchanged(tag: str) -> bool:
    """Whether whoever asks has the answer with this weak entity tag already."""
    return matches(request().headers.get("If-None-Match", ""), tag)


def matches(known: str, tag: str) -> bool:
    """Whether an If-None-Match names this weak entity tag."""
    return bool(known) and (known.strip() == "*" or tag.removeprefix("W/") in TAG.findall(known))


NUMBER = re.compile(r"\s*([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?)\s*")


def number(text: str) -> float | int | None:
    """What a text says as a number, exact where it is an integer; None where it is none."""
    match = NUMBER.fullmatch(text)
    if match is None or len(text) > 400:
        return None
    try:
        return int(match[1])
    except ValueError:
        value = float(match[1])
        return value if math.isfinite(value) else math.copysign(2.0**62, value)
