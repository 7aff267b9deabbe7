"""One port: looks at each connection's first request head, then hands it to a WebSocket handler or to the web app."""

import logging
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import copy
from http import HTTPStatus
from urllib.parse import unquote, urlsplit

import msgspec
import trio
from hypercorn.config import Config
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import (
    ASGIFramework,
    ASGIReceiveCallable,
    ASGISendCallable,
    ASGISendEvent,
    ConnectionState,
    LifespanState,
    Scope,
)
from hypercorn.utils import wrap_app
from msgspec import Struct
from trio import TASK_STATUS_IGNORED, TaskStatus
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_server_stream

from actors.hub import Hub
from web.outbox import PING, Outbox, Transport, WsLimits, forsake
from web.streamed import CUT

log = logging.getLogger(__name__)

HEAD_BYTES = 16 * 1024
HEAD_SECONDS = 10.0  # from accept to the end of the first request head, TLS included
HTTP_STALLED_SECONDS = 30.0  # a reader that does not take `PIECE` in so long is gone
KEEP_ALIVE_SECONDS = 20.0  # between two requests
PIECE = 64 * 1024
STOPPING = "candled is stopping; come back after a random delay"
HEAD_END = re.compile(rb"\n\r?\n")


async def _stays(*_: object) -> None:
    """HTTP/1.1 stays what it is: a connection that is turned into HTTP/2 in clear text would outlive its end."""


setattr(H11Protocol, "_check_protocol", _stays)  # noqa: B010 # Hypercorn has no setting for it, and mypy no name


class Head(Struct, frozen=True):
    """A request line and its headers, read just far enough to choose the door."""

    method: str
    target: str
    headers: dict[str, str]

    @property
    def path(self) -> str:
        return urlsplit(self.target).path if "://" in self.target else self.target.partition("?")[0]

    @property
    def upgrades(self) -> bool:
        return (
            self.method == "GET"
            and "websocket" in _tokens(self.headers.get("upgrade", ""))
            and "upgrade" in _tokens(self.headers.get("connection", ""))
        )


def _tokens(value: str) -> list[str]:
    return [token.strip().lower() for token in value.split(",")]


def head_of(data: bytes) -> Head | None:
    """The head at the start of `data`; None if it is not one, which the web app's own parser will explain."""
    end = HEAD_END.search(data)
    lines = [line.strip() for line in data[: end.start() if end else 0].decode("latin-1").split("\n")]
    parts = lines[0].split(" ")
    if len(parts) != 3:
        return None
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return Head(parts[0], parts[1], headers)


class Goodbye(Struct, frozen=True):
    """How a connection is told that it ends."""

    code: int
    reason: str
    before: bytes = b""  # frames that say it in the words of a protocol

    def say(self, talk: "Socket") -> None:
        if self.before:
            talk.outbox.put(self.before)
        talk.close(self.code, self.reason)


class Goodbyes(Struct, frozen=True):
    """What the connections of an endpoint are told; None: what all others are."""

    stopping: Goodbye = Goodbye(1001, STOPPING)
    full: Goodbye | None = None
    silent: Goodbye | None = None


class Socket:
    """An accepted WebSocket, as its handler sees it."""

    def __init__(
        self,
        connection: WebSocketConnection,
        outbox: Outbox,
        nursery: trio.Nursery,
        reading: trio.CancelScope,
        head: Head,
        arguments: Mapping[str, str],
        client: str,
        goodbyes: Goodbyes,
    ) -> None:
        self.outbox = outbox
        self.goodbyes = goodbyes
        self.nursery = nursery  # for the handler's own tasks; cancelled when the handler has returned
        self.head = head
        self.arguments = arguments  # what stood for the `{names}` of the path
        self.client = client  # the peer's address
        self._connection, self._reading = connection, reading
        outbox.given_up = reading.cancel

    async def receive(self) -> str | bytes | None:
        """The next message; None when there will be no other."""
        try:
            message: str | bytes = await self._connection.get_message()
        except ConnectionClosed:
            return None
        return message

    def close(self, code: int, reason: str) -> None:
        """Say goodbye; `receive` answers None from now on."""
        self.outbox.end(code, reason)
        self._reading.cancel()


Handler = Callable[[Socket], Awaitable[None]]


class Endpoint(Struct, frozen=True):
    """A handler whose connections are told goodbye in words of its own, or may send more at a time."""

    serve: Handler
    goodbyes: Goodbyes = Goodbyes()
    message_bytes: int | None = None  # the largest message taken; None: as everywhere


class Wire:
    """A connection whose first bytes were read already.

    Hypercorn shields its sends from cancellation, so a reader that takes nothing has to be given up in here."""

    plain = True  # what is written to the socket is what the peer reads
    scheme = "http"

    def __init__(self, stream: Transport, raw: trio.socket.SocketType, ahead: bytes, patience: float) -> None:
        self.raw, self.ahead = raw, ahead
        self._stream, self._patience = stream, patience

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self.ahead:
            data, self.ahead = self.ahead, b""
            await trio.lowlevel.checkpoint()
            return data
        return await self._stream.receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        for start in range(0, len(view), PIECE):
            with trio.move_on_after(self._patience) as patience:
                await self._stream.send_all(view[start : start + PIECE])
            if patience.cancelled_caught:
                forsake(self.raw)
                raise trio.BrokenResourceError(f"the peer took nothing for {self._patience:g} s")


class Rewound(Wire):
    """Over TCP, with the parts of a SocketStream that Hypercorn uses."""

    def __init__(self, stream: trio.SocketStream, ahead: bytes, patience: float) -> None:
        super().__init__(stream, stream.socket, ahead, patience)
        self.socket = stream.socket
        self.send_eof, self.aclose = stream.send_eof, stream.aclose


class RewoundTls(Wire):
    """Over TLS, with the parts of an SSLStream that Hypercorn uses."""

    plain = False
    scheme = "https"

    def __init__(self, stream: "trio.SSLStream[trio.SocketStream]", ahead: bytes, patience: float) -> None:
        super().__init__(stream, stream.transport_stream.socket, ahead, patience)
        self.transport_stream = stream.transport_stream
        self.do_handshake, self.selected_alpn_protocol = stream.do_handshake, stream.selected_alpn_protocol

    async def aclose(self) -> None:
        with trio.move_on_after(1):
            await self._stream.aclose()
        self.raw.close()


class Drain:
    """Whether the process is stopping, and what need not be waited for then."""

    def __init__(self) -> None:
        self.begun = False
        self.silent: set[trio.CancelScope] = set()  # of connections that nobody has said anything on

    def begin(self) -> None:
        self.begun = True
        for waiting in self.silent:
            waiting.cancel()


# Answers what it can on a connection; true where the web app is to go on with it, false where it is over.
Before = Callable[[Wire, Drain], Awaitable[bool]]


class WebApp:
    """The web app as Hypercorn may run it."""

    def __init__(self, app: ASGIFramework) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if scope["type"] == "websocket":  # sockets have their own door, at the start of a connection
            await receive()
            await send({"type": "websocket.close", "code": 1000, "reason": None})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def shielded(event: ASGISendEvent) -> None:
            # quart-trio cancels the request as soon as it hears `http.disconnect`, which Hypercorn says inside of
            # the last send: unshielded, that cuts off Hypercorn's own closing of the connection.
            with trio.CancelScope(shield=True):
                await send(event)
            if event.get("more_body"):
                # To a peer that has left, sends return at once: a loop of them must still let others run.
                await trio.lowlevel.checkpoint()

        await self._app(scope, receive, shielded)


class Door:
    """Everything that the connections of one listener share."""

    def __init__(
        self,
        app: ASGIFramework,
        sockets: Mapping[str, Handler | Endpoint],
        hub: Hub,
        limits: WsLimits,
        tls: ssl.SSLContext | None,
        origins: Collection[str] | None,
        keep_alive_seconds: float,
        before: Before | None,
    ) -> None:
        self._before = before
        self._hub, self._limits, self._tls, self._origins = hub, limits, tls, origins
        self._routes = [
            (_pattern(path), served if isinstance(served, Endpoint) else Endpoint(served))
            for path, served in sockets.items()
        ]
        self._config = Config()
        self._config.errorlog = log
        self._config.include_server_header = False
        self._config.keep_alive_timeout = keep_alive_seconds
        self._config.shutdown_timeout = 5.0
        self._config.h11_max_incomplete_size = 2 * HEAD_BYTES
        self._context = WorkerContext(None)
        self._last = copy(self._config)  # for requests whose heads arrive during the drain: one answer, and the end
        self._last.keep_alive_max_requests = 0
        self._app = wrap_app(WebApp(app), self._config.wsgi_max_body_size, "asgi")
        self._state: LifespanState = {}
        self.lifespan = Lifespan(self._app, self._config, self._state)
        self._sockets: set[Socket] = set()
        self._raw: set[trio.socket.SocketType] = set()
        self._drain = Drain()
        self._empty = trio.Event()

    async def serve(self, stream: trio.SocketStream) -> None:
        """One connection, from accept to close; whatever goes wrong in it ends here."""
        self._raw.add(stream.socket)
        try:
            await self._serve(stream)
        except* (trio.BrokenResourceError, trio.ClosedResourceError, ConnectionClosed):
            pass  # the peer left
        except* Exception:
            log.exception("a connection failed")
        finally:
            self._raw.discard(stream.socket)
            stream.socket.close()
            if self._drain.begun and not self._raw:
                self._empty.set()

    async def drain(self) -> None:
        """Tell sockets goodbye, let requests finish; return when no connection is left."""
        self._drain.begin()
        await self._context.terminated.set()
        for open_socket in list(self._sockets):
            open_socket.goodbyes.stopping.say(open_socket)
        for end in list(self._hub.endings):
            end()
        if self._raw:
            await self._empty.wait()

    def abort(self) -> None:
        """Cut every connection; tasks that wait for a peer, shielded or not, then end."""
        for raw in list(self._raw):
            forsake(raw)

    async def _serve(self, transport: trio.SocketStream) -> None:
        raw = transport.socket
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            # Beyond our own patience, which knows better why it gives up.
            patience_ms = int(1000 * (self._limits.stalled_seconds + self._limits.dead_seconds))
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, patience_ms)
        stream: trio.SocketStream | trio.SSLStream[trio.SocketStream] = transport
        data = b""
        with trio.move_on_after(HEAD_SECONDS) as patience, self._leaving_silent(patience) as heard:
            if self._tls:
                stream = trio.SSLStream(transport, self._tls, server_side=True, https_compatible=True)
                await stream.do_handshake()
            if not (isinstance(stream, trio.SSLStream) and stream.selected_alpn_protocol() == "h2"):
                while not HEAD_END.search(data):
                    if len(data) > HEAD_BYTES:
                        await self._refuse(stream, 431, f"the head of the request has more than {HEAD_BYTES} bytes")
                        return
                    more = await stream.receive_some(HEAD_BYTES)
                    if not more:
                        return
                    heard()
                    data += more
        if patience.cancelled_caught:
            if data:
                await self._refuse(stream, 408, f"the head of the request took more than {HEAD_SECONDS:g} s")
            return
        head = head_of(data)
        if head is not None and head.upgrades:
            await self._upgrade(stream, raw, head, data)
        else:
            rewound = (
                RewoundTls(stream, data, HTTP_STALLED_SECONDS)
                if isinstance(stream, trio.SSLStream)
                else Rewound(stream, data, HTTP_STALLED_SECONDS)
            )
            if self._before is not None and not self._drain.begun and not await self._before(rewound, self._drain):
                if isinstance(rewound, RewoundTls):
                    await rewound.aclose()
                return
            state = ConnectionState({**self._state, CUT: lambda: forsake(raw)})
            # A context that has ended closes the connection before its first answer.
            config, context = (self._last, WorkerContext(None)) if self._drain.begun else (self._config, self._context)
            await TCPServer(self._app, config, context, state, rewound).run()  # type: ignore[arg-type] # has what it uses of an SSLStream

    @contextmanager
    def _leaving_silent(self, waiting: trio.CancelScope) -> Iterator[Callable[[], None]]:
        """Cancel `waiting` when the drain begins, unless something was heard by then: browsers open connections
        beforehand, and nobody should wait for those."""
        self._drain.silent.add(waiting)
        try:
            yield lambda: self._drain.silent.discard(waiting)
        finally:
            self._drain.silent.discard(waiting)

    async def _upgrade(
        self,
        stream: "trio.SocketStream | trio.SSLStream[trio.SocketStream]",
        raw: trio.socket.SocketType,
        head: Head,
        data: bytes,
    ) -> None:
        found = next(((match, served) for path, served in self._routes if (match := path.fullmatch(head.path))), None)
        if found is None:
            await self._refuse(stream, 404, f"no WebSocket at {head.path!r}")
        elif not self._welcome(head):
            await self._refuse(stream, 403, f"origin {head.headers['origin']!r} is not allowed")
        elif head.headers.get("sec-websocket-version") != "13" or not head.headers.get("sec-websocket-key"):
            await self._refuse(
                stream,
                426,
                "expected a WebSocket handshake of version 13",
                "Upgrade: websocket\r\nSec-WebSocket-Version: 13",
            )
        elif self._drain.begun:
            await self._refuse(stream, 503, "candled is stopping")
        else:
            arguments = {name: unquote(value) for name, value in found[0].groupdict().items()}
            await self._talk(stream, raw, head, data, arguments, found[1])

    def _welcome(self, head: Head) -> bool:
        """Pages of our own origin and of the listed ones may connect, and whoever is not a browser."""
        origin = head.headers.get("origin")
        if self._origins is None or origin is None or "*" in self._origins or origin in self._origins:
            return True
        return urlsplit(origin).netloc == head.headers.get("host")

    async def _talk(
        self,
        stream: "trio.SocketStream | trio.SSLStream[trio.SocketStream]",
        raw: trio.socket.SocketType,
        head: Head,
        data: bytes,
        arguments: Mapping[str, str],
        served: Endpoint,
    ) -> None:
        client = str(raw.getpeername()[0])
        async with trio.open_nursery() as nursery:
            outbox = Outbox(stream, raw, self._hub, nursery, self._limits, data)
            try:
                accepted = None
                with trio.move_on_after(HEAD_SECONDS):
                    accepted = await nursery.start(
                        self._read, outbox, served.message_bytes or self._limits.message_bytes
                    )
                if accepted is not None:
                    connection, reading = accepted
                    talk = Socket(connection, outbox, nursery, reading, head, arguments, client, served.goodbyes)
                    await self._converse(talk, served.serve)
                    reading.cancel()
                    await outbox.linger(self._limits.close_seconds)
            finally:
                outbox.abort()
                nursery.cancel_scope.cancel()

    async def _read(
        self,
        outbox: Outbox,
        message_bytes: int,
        task_status: TaskStatus[tuple[WebSocketConnection, trio.CancelScope] | None],
    ) -> None:
        """Shake hands, then read for as long as the connection lives."""
        async with trio.open_nursery() as reading:
            accepted = None
            with suppress(ConnectionClosed):
                request = await wrap_server_stream(reading, outbox, max_message_size=message_bytes)
                accepted = await request.accept(), reading.cancel_scope
            task_status.started(accepted)

    async def _converse(self, talk: Socket, handler: Handler) -> None:
        if self._drain.begun:
            talk.goodbyes.stopping.say(talk)
            return
        if self._hub.connections >= self._limits.connections:  # answers that go on count as well
            (talk.goodbyes.full or Goodbye(1013, f"there are {self._limits.connections} connections already")).say(talk)
            return
        self._sockets.add(talk)
        self._hub.connections += 1
        self._hub.at(trio.current_time() + self._limits.ping_seconds, lambda: self._beat(talk))
        try:
            await handler(talk)
            talk.close(1000, "")
        except Exception:
            log.exception("the handler of %s failed", talk.head.path)
            talk.close(1011, "internal error")
        finally:
            self._sockets.discard(talk)
            self._hub.connections -= 1

    def _beat(self, talk: Socket) -> None:
        """Ask whether the peer is still there, and give it up when it has been silent for too long."""
        if talk.outbox.ended:
            return
        now, heard = trio.current_time(), talk.outbox.heard
        if now - heard >= self._limits.dead_seconds:
            silence = f"nothing heard for {self._limits.dead_seconds:g} s, not even a pong"
            (talk.goodbyes.silent or Goodbye(1008, silence)).say(talk)
            return
        talk.outbox.put(PING)
        self._hub.at(min(now + self._limits.ping_seconds, heard + self._limits.dead_seconds), lambda: self._beat(talk))

    async def _refuse(self, stream: trio.abc.SendStream, status: int, message: str, extra: str = "") -> None:
        body = msgspec.json.encode({"error": message})
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n{extra and extra + chr(13) + chr(10)}\r\n"
        )
        with trio.move_on_after(self._limits.close_seconds):
            await stream.send_all(head.encode() + body)
            if isinstance(stream, trio.SocketStream):
                await stream.send_eof()
                while await stream.receive_some(PIECE):
                    pass


async def listen(
    app: ASGIFramework,
    sockets: Mapping[str, Handler | Endpoint],
    *,
    host: str,
    port: int,
    hub: Hub,
    until: Callable[[], Awaitable[None]],
    limits: WsLimits = WsLimits(),  # noqa: B008 # frozen
    tls: ssl.SSLContext | None = None,
    origins: Collection[str] | None = None,
    drain_seconds: float = 8.0,
    keep_alive_seconds: float = KEEP_ALIVE_SECONDS,
    before: Before | None = None,
    backlog: int = 2048,
    task_status: TaskStatus[tuple[str, int]] = TASK_STATUS_IGNORED,
) -> None:
    """Serve `app`, and each of `sockets` under its path, until `until` returns; then drain, and return within
    `drain_seconds` whatever the peers do. `before` answers what it can before `app`. Starts with the address and port
    that it listens on; `hub` is to be running.
    """
    door = Door(app, sockets, hub, limits, tls, origins, keep_alive_seconds, before)
    async with trio.open_nursery() as nursery:
        await nursery.start(door.lifespan.handle_lifespan)
        await door.lifespan.wait_for_startup()
        listeners = await trio.open_tcp_listeners(port, host=host, backlog=backlog)
        if not port:  # several addresses would have several ports
            for surplus in listeners[1:]:
                await surplus.aclose()
            del listeners[1:]
        async with trio.open_nursery() as connections:

            async def accept() -> None:
                await trio.serve_listeners(door.serve, listeners, handler_nursery=connections)

            try:
                async with trio.open_nursery() as accepting:
                    accepting.start_soon(accept)
                    task_status.started(listeners[0].socket.getsockname()[:2])
                    await until()
                    accepting.cancel_scope.cancel()
                with trio.move_on_after(drain_seconds):
                    await door.drain()
            finally:
                door.abort()
                connections.cancel_scope.cancel()
        await door.lifespan.wait_for_shutdown()
        nursery.cancel_scope.cancel()


def _pattern(path: str) -> re.Pattern[str]:
    """`/app/{key}` as an expression; a name stands for one segment."""
    return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(path)))
