"""The second door: GETs about bars are answered without Hypercorn, and without the web app where the answer is kept.

Only heads that cannot be read in two ways are taken here. Any other, and any other question, is Hypercorn's, with every
byte from there on.
"""

import math
import os
import re
from collections.abc import Awaitable, Callable
from functools import lru_cache
from time import perf_counter, time
from typing import Any, NamedTuple
from wsgiref.handlers import format_date_time

import trio

from web.app import App, head_of
from web.auth import address_of, bearer, may_read
from web.coding import Accepted, wanted
from web.context import EMPTY
from web.limits import counted_as
from web.listener import HEAD_BYTES, HEAD_END, KEEP_ALIVE_SECONDS, Drain, Wire

HEAD = re.compile(
    rb"(GET|HEAD) (/api/tradingview/history|/api/lightweight/ohlcv|/healthz)(?:\?([!-~]*))? HTTP/1\.1\r\n"
    rb"((?:[-!#$%&'*+.^_`|~0-9A-Za-z]+:[\t -~]*\r\n)+)\r\n"
)
ELSEWHERE = frozenset(("content-length", "transfer-encoding", "expect", "upgrade", "http2-settings"))
AMISS = 1.0  # seconds by which the end of a silent connection may come early

Address = tuple[str, int]


class Headers(NamedTuple):
    """The headers of a request without a body."""

    lines: list[tuple[str, str]]  # names in lower case
    plain: bool  # none was said twice
    wanted: Accepted
    origin: str | None
    known: str  # If-None-Match
    key: str
    forwarded: list[str]


def headers_of(block: bytes) -> Headers | None:
    """The headers in these lines; None where it is Hypercorn's to say what they mean."""
    lines = []
    for line in block.decode("ascii").split("\r\n")[:-1]:
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip(" \t")
        if name in ELSEWHERE or (name == "connection" and value.lower() != "keep-alive"):
            return None
        lines.append((name, value))
    found = dict(lines)
    if sum(name == "host" for name, _ in lines) != 1:
        return None
    return Headers(
        lines,
        len(found) == len(lines),
        wanted(found.get("accept-encoding", "")),
        found.get("origin"),
        found.get("if-none-match", ""),
        bearer(found.get("authorization", "")),
        [found["x-forwarded-for"]] if "x-forwarded-for" in found else [],
    )


class Hot:
    """Answers the requests that a connection begins with, for as long as they are for this door."""

    def __init__(self, app: App, *, keep_alive_seconds: float = KEEP_ALIVE_SECONDS) -> None:
        self._app, self._keep_alive = app, keep_alive_seconds

    async def serve(self, wire: Wire, drain: Drain) -> bool:
        """True where Hypercorn is to go on, with what `wire` has ahead; False when the connection is over."""
        return await _Talk(self._app, wire, drain, self._keep_alive).run()


class _Talk:
    """One connection, one request after the other."""

    def __init__(self, app: App, wire: Wire, drain: Drain, keep_alive: float) -> None:
        self._app, self._wire, self._drain, self._keep_alive = app, wire, drain, keep_alive
        self._ask: Callable[[Any, Any, Any], Awaitable[None]] = app
        self._client: Address = wire.raw.getpeername()[:2]
        self._address = ""  # whose requests these are
        self._block = b""  # the newest headers: a client sends the same ones again and again
        self._headers: Headers | None = None
        self._silence = trio.CancelScope()

    async def run(self) -> bool:
        with self._silence:
            return await self._answer()
        return False

    async def _answer(self) -> bool:
        wire = self._wire
        data, wire.ahead = wire.ahead, b""
        while True:
            head = HEAD.match(data)
            if head is None:
                if HEAD_END.search(data) or len(data) > HEAD_BYTES:
                    break
                more = await self._heard()
                if not more:
                    return False
                data = data + more if data else more
                continue
            method, path, query, block = head.groups(b"")
            if block != self._block:
                self._block, self._headers = block, headers_of(block)
                self._address = self._whose()
            if self._headers is None:
                break
            data = data[head.end() :]
            answer = self._again(method.decode(), path.decode(), query, self._headers)
            if answer is None:
                self._silence.deadline = math.inf
                exchange = _Exchange(wire, method.decode(), path, query, self._headers.lines, self._client)
                await self._ask(exchange.scope, exchange.receive, exchange.send)
                answer, data = exchange.answer, data + exchange.ahead
                if answer is None:
                    return False
            await self._send(*answer)
            if self._drain.begun:
                return False
            self._silent()
            if data:
                await trio.lowlevel.checkpoint()  # whoever asks ahead lets others have their turn
        wire.ahead = data
        return True

    def _whose(self) -> str:
        forwarded = self._headers.forwarded if self._headers is not None else []
        return address_of(self._client[0], forwarded, self._app.services.settings.trusted_proxies)

    def _silent(self) -> None:
        """End the connection when nothing comes for so long."""
        until = trio.current_time() + self._keep_alive
        if not until - AMISS <= self._silence.deadline <= until:
            self._silence.deadline = until

    async def _heard(self) -> bytes:
        """What comes next; nothing once the connection is over."""
        self._drain.silent.add(self._silence)
        try:
            if not self._wire.plain:
                return bytes(await self._wire.receive_some(HEAD_BYTES))
            while True:
                await trio.lowlevel.wait_readable(self._wire.raw)
                try:
                    return os.read(self._wire.raw.fileno(), HEAD_BYTES)
                except BlockingIOError:
                    continue
                except OSError:
                    return b""
        finally:
            self._drain.silent.discard(self._silence)

    async def _send(self, head: bytes, body: bytes) -> None:
        """Send both, without a copy where the socket has room for them."""
        sent = 0
        if self._wire.plain:
            try:
                sent = os.writev(self._wire.raw.fileno(), (head, body))
            except BlockingIOError:
                pass
            except OSError as error:
                raise trio.BrokenResourceError from error
        if sent < len(head) + len(body):
            self._silence.deadline = math.inf
            await self._wire.send_all((head + body)[sent:])

    def _again(self, method: str, path: str, query: bytes, headers: Headers) -> tuple[bytes, bytes] | None:
        """The head and body that are kept, where they hold and it is this one's turn to have them; None: the app has
        to say. Nothing is waited for, so that what is answered is what holds now."""
        began, app = perf_counter(), self._app
        answer = app.kept.find(path, query)
        if answer is None or not headers.plain:
            return None
        manner = app.manner(method, headers.wanted, headers.origin, answer.known_by(headers.known))
        said = answer.said.get(manner)
        if said is None or (cursor := app.kept.holds(answer)) is None:
            return None
        key, services = headers.key, app.services
        scope = services.keys.believed(key) if key else None
        if (key and scope is None) or not may_read(services.settings, scope):
            return None
        if not app.limiter.at_once(said.endpoint, counted_as(scope is not None, key, self._address)):
            return None
        app.kept.given(answer)
        number = app.numbered()
        head = f"{said.before}{cursor}{said.between}{number}{said.after}{_date(int(time()))}".encode("latin-1")
        app.note(method, path, said.route, said.status, perf_counter() - began, said.size, self._address, number)
        return head, said.body


class _Exchange:
    """A request that the app answers, as ASGI has it."""

    def __init__(
        self,
        wire: Wire,
        method: str,
        path: bytes,
        query: bytes,
        headers: list[tuple[str, str]],
        client: Address,
    ) -> None:
        self._wire, self._method = wire, method
        self._told = self._bare = False
        self._head = b""
        self.answer: tuple[bytes, bytes] | None = None  # None: whoever asked has left
        self.ahead = b""  # what came meanwhile
        self.scope: dict[str, Any] = {
            "type": "http",
            "http_version": "1.1",
            "asgi": {"spec_version": "2.1", "version": "3.0"},
            "method": method,
            "scheme": wire.scheme,
            "path": path.decode(),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in headers],
            "client": client,
            "server": wire.raw.getsockname()[:2],
            "state": {},
            "extensions": {},
        }

    async def receive(self) -> dict[str, Any]:
        """That there is no body; later, that whoever asked has left."""
        if not self._told:
            self._told = True
            return {"type": "http.request", "body": b"", "more_body": False}
        while len(self.ahead) <= HEAD_BYTES:
            try:
                more = await self._wire.receive_some(HEAD_BYTES)
            except trio.BrokenResourceError:
                more = b""
            if not more:
                return {"type": "http.disconnect"}
            self.ahead += more
        await trio.sleep_forever()
        raise AssertionError

    async def send(self, message: dict[str, Any]) -> None:
        """Take the answer: a head, then the body in one."""
        if message["type"] == "http.response.start":
            self._head = head_of(message["status"], message["headers"])
            self._bare = self._method == "HEAD" or message["status"] in EMPTY
        else:
            self.answer = self._head + _date(int(time())).encode(), b"" if self._bare else message["body"]


@lru_cache(2)
def _date(second: int) -> str:
    """The end of every head."""
    return f"date: {format_date_time(second)}\r\n\r\n"
