"""The web app: its routes, and what holds for every one of them."""

import itertools
import logging
import re
import secrets
from time import perf_counter
from typing import Any, cast
from urllib.parse import unquote

import trio
from quart import Response
from quart.ctx import RequestContext
from quart.typing import ResponseTypes
from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGIHTTPConnection
from werkzeug.datastructures import Headers
from werkzeug.exceptions import HTTPException
from werkzeug.routing import MapAdapter

from actors.tiers import Tiers
from actors.traded import Day
from storage import traded
from storage.traded import Traded
from web import auth, coding, context, export, kept, metrics, turns, ui
from web.admin import admin
from web.cards import cards
from web.context import BODY_SECONDS, Request, Services, reply
from web.errors import answered
from web.events import events
from web.gaps import gaps
from web.health import health
from web.heartbeats import heartbeats
from web.ingest import ingest
from web.layouts import layouts
from web.lightweight import lightweight
from web.limits import Limiter
from web.markets import Symbol, markets
from web.marks import marks
from web.others import others
from web.outbox import WsLimits
from web.pictures import pictures
from web.prices import prices
from web.pusher.apps import PusherSettings
from web.pusher.endpoint import Pusher
from web.pusher.permits import permits
from web.pusher.rest import EXTENSION as PUSHER
from web.pusher.rest import rest
from web.quotes import quotes
from web.reference import reference
from web.series import combining
from web.sockets import sockets
from web.streamed import Streamed
from web.symbols import symbols
from web.udf import udf

log = logging.getLogger(__name__)

UDF = b"/api/tradingview/"
SHARED = ("/api/", "/pusher/", "/client.js", "/widgets.json")  # what pages of other origins may read
SLASHES = re.compile(rb"/{2,}")
TOKENS = re.compile(r"[\w!#$&'*+.^`|~, -]{1,1000}")
# Seconds until a request is given up; ingest takes as long as the disk does.
PATIENCE = {
    "udf.history": 25.0,
    "lightweight.ohlcv": 25.0,
    "ingest.events": None,
    "ingest.bars": None,
    "ingest.snapshots": None,
    "admin.verify": None,  # its turn comes when the job before it is done
}
USUAL_PATIENCE = 30.0
LARGE_BODIES = 8  # that come without a key at a time
LINGER = 2.0  # seconds that a body is read on after its request was refused
THREADS = turns.AT_ONCE + 1  # for arithmetic and compression: who looks at many bars leaves one to others
UPLOADING = ("POST", "PUT", "PATCH")

EXPOSED = (
    "X-Cursor, X-Request-Id, ETag, Content-Disposition, "
    "Retry-After, RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset"
)
OK, NOT_MODIFIED = 200, 304
READING = ("GET", "HEAD", "OPTIONS")
HEADERS = "Authorization, Content-Type, Content-Encoding, Idempotency-Key, If-None-Match"


def encoded(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Headers as they are sent."""
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]


def head_of(status: int, headers: list[tuple[bytes, bytes]]) -> bytes:
    """The head of an answer as Hypercorn writes it, up to the date."""
    return b"".join([b"HTTP/1.1 %d \r\n" % status, *(b"%b: %b\r\n" % header for header in headers)])


class Connection(TrioASGIHTTPConnection):
    """One request and its answer."""

    async def __call__(self, receive: Any, send: Any) -> None:
        if self.scope["method"] not in UPLOADING:
            await super().__call__(receive, send)
            return
        arrived = trio.Event()

        async def received() -> Any:
            message = await receive()
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                arrived.set()
            return message

        async def sent(message: Any) -> None:
            if message["type"] != "http.response.body" or message.get("more_body", False) or arrived.is_set():
                await send(message)
                return
            # Ending the answer closes the connection. Somebody who is still sending would find it reset, and might
            # never see the answer: they have all of it, and a moment to read it.
            await send({**message, "more_body": True})
            with trio.move_on_after(LINGER):
                await arrived.wait()
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        await super().__call__(received, sent)

    async def _send_response(self, send: Any, response: ResponseTypes) -> None:
        """The head, and the body with its end in one."""
        assert isinstance(response, Response)  # as `full_dispatch_request` has it
        try:
            await self._send(send, response)
        finally:
            if isinstance(response, Streamed):
                await response.give_up()

    async def _send(self, send: Any, response: Response) -> None:
        headers = encoded(response.headers)
        await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
        if isinstance(response, Streamed) and self.scope["method"] != "HEAD":
            await response.send(send, self.scope)
            return
        data = await response.get_data(as_text=False)
        await send({"type": "http.response.body", "body": data, "more_body": False})


class App(QuartTrio):
    """Every request passes here: who is it, how often, then its handler; headers, counting and the log after."""

    asgi_http_class = Connection
    request_class = Request

    def __init__(self, services: Services, pusher: Pusher) -> None:
        super().__init__(__name__, static_folder=None)
        self.services = services
        self.limiter = Limiter(services.settings.rates)
        self._udf_prefixes = [f"{prefix}/".encode() for prefix in services.settings.udf_prefixes]
        self.requests = metrics.Requests()
        self._threads = trio.CapacityLimiter(THREADS)
        self.extensions[context.EXTENSION] = services
        self.extensions[PUSHER] = pusher
        self.extensions[context.THREADS] = self._threads
        self.extensions[context.LARGE] = trio.CapacityLimiter(LARGE_BODIES)
        self.extensions[turns.EXTENSION] = self.turns = turns.Lanes(turns.Turns(), turns.Turns())
        self.kept = self.extensions[context.KEPT] = kept.Kept(services.settings.kept_answers, services.engine)
        settings = services.settings
        tiers = Tiers(services.registry.ask, settings.tier_turnover)
        self.extensions[context.DAY] = Day(self._traded, services.engine.now, settings.market_seconds, tiers)
        self.extensions[metrics.EXTENSION] = self.requests, self.limiter
        self.extensions[ui.EXTENSION] = ui.loaded(services.settings.static)
        self.config["MAX_CONTENT_LENGTH"] = services.settings.max_body
        self.config["BODY_TIMEOUT"] = BODY_SECONDS
        self.config["RESPONSE_TIMEOUT"] = None
        self.url_map.strict_slashes = self.url_map.merge_slashes = False
        self.url_map.converters["symbol"] = Symbol
        self.extensions[export.EXTENSION] = export.Exports(services)
        for blueprint in (
            udf,
            symbols,
            quotes,
            lightweight,
            layouts,
            ingest,
            heartbeats,
            export.export,
            gaps,
            marks,
            prices,
            pictures,
            combining,
            markets,
            cards,
            health,
            metrics.metrics,
            reference,
            others,
            sockets,
            events,
            rest,
            permits,
            admin,
            ui.ui,
        ):
            self.register_blueprint(blueprint)
        self.register_error_handler(Exception, answered)
        self.register_error_handler(HTTPException, answered)
        start = secrets.token_hex(4)  # so that numbers of different runs differ
        self._numbers = (f"{start}-{n}" for n in itertools.count(1))

    async def _traded(self, start: int) -> Traded:
        """What was traded since then (Unix seconds); Unavailable while the store does not have all of it."""
        if not self.services.catch_up.over:
            raise self.services.catch_up.unavailable()
        return await self.services.database.read(traded.since, start)

    async def asgi_app(self, scope: Any, receive: Any, send: Any) -> None:
        """A base address that ends in a slash makes `//config`; what is encoded in a symbol stays as it is."""
        if scope["type"] == "http" and scope["raw_path"].startswith(b"/"):
            path = SLASHES.sub(b"/", scope["raw_path"])
            for prefix in self._udf_prefixes:
                if path.startswith(prefix):
                    path = UDF + path.removeprefix(prefix)
            if path != scope["raw_path"]:
                scope = {**scope, "raw_path": path, "path": unquote(path.decode("ascii"))}
        await super().asgi_app(scope, receive, send)

    def create_url_adapter(self, request: Any) -> MapAdapter | None:
        """Routes do not depend on the Host header, which may be anything."""
        if request is None:
            return None
        return self.url_map.bind("candled", default_method=request.method, path_info=request.path)

    async def full_dispatch_request(self, request_context: RequestContext | None = None) -> Response:
        """Answer a request, whatever happens."""
        assert request_context is not None
        asked = cast(Request, request_context.request)
        began = perf_counter()
        asked.number = self.numbered()
        response = cast(Response, await super().full_dispatch_request(request_context))
        await coding.encode(asked, response, self._threads)
        self._finish(asked, response, perf_counter() - began)
        if isinstance(asked.answer, kept.Answer):
            await self._remember(asked.answer, asked, response)
        return response

    def numbered(self) -> str:
        """What the next request is called."""
        return next(self._numbers)

    def manner(self, method: str, wanted: coding.Accepted, origin: str | None, known: bool) -> kept.Manner:
        """What of a request makes an answer that is kept leave as it does."""
        allowed = self.services.settings.cors_origins
        return method, wanted, origin if origin in allowed and "*" not in allowed else None, known

    async def _remember(self, answer: kept.Answer, asked: Request, response: Response) -> None:
        assert asked.url_rule is not None
        assert asked.endpoint is not None
        wanted = coding.wanted(",".join(asked.headers.getlist("Accept-Encoding")))
        known = response.status_code == NOT_MODIFIED
        manner = self.manner(asked.method, wanted, asked.headers.get("Origin"), known)
        if manner in answer.said or response.status_code not in (OK, NOT_MODIFIED):
            return
        body = b"" if known or asked.method == "HEAD" else await response.get_data(as_text=False)
        headers = [
            (name, {"x-cursor": b"\0", "x-request-id": b"\1"}.get(name.decode(), value))
            for name, value in encoded(response.headers)
        ]
        before, _, rest = head_of(response.status_code, headers).decode("latin-1").partition("\0")
        between, _, after = rest.partition("\1")
        said = kept.Said(
            before, between, after, body, response.status_code, len(body), asked.url_rule.rule, asked.endpoint
        )
        self.kept.say(answer, manner, said)

    async def preprocess_request(self, request_context: RequestContext | None = None) -> Response | None:
        """Who is it, may they, and is it their turn?"""
        assert request_context is not None
        asked = cast(Request, request_context.request)
        if asked.method == "OPTIONS":
            return reply(b"", 204, {"Allow": self._methods(asked)})
        await auth.identify(self.services, asked)
        await self.limiter.admit(asked)
        auth.allow(self.services.settings, asked)
        return None

    async def dispatch_request(self, request_context: RequestContext | None = None) -> Any:
        """Run the handler, for as long as somebody may be expected to wait."""
        assert request_context is not None
        endpoint = request_context.request.endpoint or ""
        patience = PATIENCE.get(endpoint, USUAL_PATIENCE)
        if patience is None:
            return await super().dispatch_request(request_context)
        with trio.fail_after(patience):
            return await super().dispatch_request(request_context)

    def _methods(self, asked: Request) -> str:
        """What the path of a request takes; where there is nothing, a page may read just that."""
        adapter = self.create_url_adapter(asked)
        assert adapter is not None
        return ", ".join(sorted(adapter.allowed_methods() or READING))

    def _finish(self, asked: Request, response: Response, seconds: float) -> None:
        headers = response.headers
        headers["X-Content-Type-Options"] = "nosniff"
        headers["X-Request-Id"] = asked.number
        if asked.path.startswith(SHARED):
            self._share(asked, response)
        route = asked.url_rule.rule if asked.url_rule is not None else "none"
        status = response.status_code
        size = 0 if asked.method == "HEAD" else response.content_length or 0
        if isinstance(response, Streamed):
            response.sent = lambda count: self.requests.sent(route, count)
        self.note(asked.method, asked.path, route, status, seconds, size, asked.address, asked.number)

    def note(
        self, method: str, path: str, route: str, status: int, seconds: float, size: int, address: str, number: str
    ) -> None:
        """Count a request that was answered, and write it into the log."""
        self.requests.observe(route, status, seconds, size)
        level = logging.DEBUG if status < 400 else logging.INFO if status < 500 else logging.WARNING
        if log.isEnabledFor(level):
            took = f"{1000 * seconds:.1f} ms"
            log.log(level, "%s %r: %d in %s, %s, %s", method, path, status, took, address, number)

    def _share(self, asked: Request, response: Response) -> None:
        """Let the pages of other origins read the answer, where the settings do."""
        headers, allowed = response.headers, self.services.settings.cors_origins
        if "*" in allowed:
            headers["Access-Control-Allow-Origin"] = "*"
        else:
            response.vary.add("Origin")
            origin = asked.headers.get("Origin")
            if origin is None or origin not in allowed:
                return
            headers["Access-Control-Allow-Origin"] = origin
        if asked.method == "OPTIONS":
            wanted = asked.headers.get("Access-Control-Request-Headers", "")
            headers["Access-Control-Allow-Methods"] = self._methods(asked)
            # Cookies are not used, so there is no header that a page could do harm with, and no method: what a page
            # may write is a matter of the key that it sends, and without one of its origin (`auth.identify`).
            headers["Access-Control-Allow-Headers"] = wanted if TOKENS.fullmatch(wanted) else HEADERS
            headers["Access-Control-Max-Age"] = "600"
        else:
            headers["Access-Control-Expose-Headers"] = EXPOSED


def create_app(services: Services, pusher: Pusher | None = None) -> App:
    """The app that answers for these services; `pusher` has the apps of the Pusher protocol, if there are any."""
    return App(services, pusher or Pusher(PusherSettings(), services.engine, services.hub, WsLimits()))
