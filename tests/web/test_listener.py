"""One port for the web app and for sockets, with the peers that make trouble."""

import logging
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import h11
import pytest
import trio
from quart import request
from quart_trio import QuartTrio
from trio_websocket import ConnectionClosed, connect_websocket

import web.listener
from actors.hub import Hub
from tests.ws_client import a_stalled_reader, connected, frames
from web.listener import Socket, head_of, listen
from web.outbox import WsLimits, text


class Running:
    def __init__(self, port: int, hub: Hub, stop: trio.Event, ended: trio.Event) -> None:
        self.port, self.hub, self.stop, self.ended = port, hub, stop, ended
        self.streams: list[trio.SocketStream] = []

    async def connect(self, buffer: int | None = None) -> trio.SocketStream:
        raw = trio.socket.socket()
        if buffer:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        try:
            await raw.connect(("127.0.0.1", self.port))
        except OSError:
            raw.close()
            raise
        self.streams.append(trio.SocketStream(raw))
        return self.streams[-1]

    async def drained(self) -> float:
        """Stop, and how long it took."""
        begun = trio.current_time()
        self.stop.set()
        with trio.fail_after(8):
            await self.ended.wait()
        return trio.current_time() - begun


async def echo(talk: Socket) -> None:
    while (message := await talk.receive()) is not None:
        if message == "fail":
            raise RuntimeError("asked to fail")
        if message == "leave":
            return
        answer = f"{talk.arguments}" if message == "arguments" else str(message)
        talk.outbox.put(text(answer.encode()))
        talk.outbox.flush()


async def flood(talk: Socket) -> None:
    for _ in range(1000):
        talk.outbox.put(text(b"x" * 10_000))
        talk.outbox.flush()
    await talk.receive()


class Sample(QuartTrio):
    """An app that notes what happens in it."""

    def __init__(self) -> None:
        super().__init__(__name__)
        self.events: list[str] = []
        self._seen: dict[str, trio.Event] = {}

    def note(self, event: str) -> None:
        self.events.append(event)
        self._seen.setdefault(event, trio.Event()).set()

    async def seen(self, event: str) -> None:
        with trio.fail_after(3):
            await self._seen.setdefault(event, trio.Event()).wait()


def an_app() -> Sample:
    app = Sample()

    @app.before_serving
    async def begun() -> None:
        app.note("begun")

    @app.after_serving
    async def over() -> None:
        app.note("over")

    @app.get("/hello")
    async def hello() -> str:
        return "hello"

    @app.post("/echo")
    async def post() -> bytes:
        data = await request.get_data()
        assert isinstance(data, bytes)
        return data

    @app.get("/slow")
    async def slow() -> str:
        app.note("slow")
        await trio.sleep(0.5)
        return "slow"

    @app.get("/endless")
    async def endless() -> Any:
        async def body() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"x" * 100_000
            finally:
                app.note("endless ended")

        return body()

    return app


@asynccontextmanager
async def running(app: Any = None, **options: Any) -> AsyncIterator[Running]:
    hub, stop, ended = Hub(), trio.Event(), trio.Event()
    limits = options.pop("limits", WsLimits(close_seconds=1))
    async with trio.open_nursery() as nursery:
        await nursery.start(hub.run)

        async def serve(*, task_status: Any) -> None:
            await listen(
                app or an_app(),
                {"/echo": echo, "/app/{key}": echo, "/flood": flood},
                host="127.0.0.1",
                port=0,
                hub=hub,
                until=stop.wait,
                limits=limits,
                task_status=task_status,
                **{"drain_seconds": 2, **options},
            )
            ended.set()

        _, port = await nursery.start(serve)
        server = Running(port, hub, stop, ended)
        try:
            yield server
            stop.set()
            with trio.fail_after(8):
                await ended.wait()
        finally:
            for stream in server.streams:
                stream.socket.close()
        nursery.cancel_scope.cancel()


async def everything(stream: trio.abc.ReceiveStream, seconds: float = 5) -> bytes:
    """What comes until the server closes; then closes as well."""
    data = b""
    with trio.fail_after(seconds):
        while more := await stream.receive_some():
            data += more
    await stream.aclose()
    return data


class Http:
    """A small HTTP client that keeps its connection."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream, self._h11 = stream, h11.Connection(h11.CLIENT)

    async def get(self, path: str) -> tuple[int, bytes]:
        if self._h11.our_state is h11.DONE:
            self._h11.start_next_cycle()
        for event in (h11.Request(method="GET", target=path, headers=[("Host", "here")]), h11.EndOfMessage()):
            await self._stream.send_all(self._h11.send(event) or b"")
        status, body = 0, b""
        with trio.fail_after(5):
            while True:
                match self._h11.next_event():
                    case h11.NEED_DATA:
                        self._h11.receive_data(bytes(await self._stream.receive_some()))
                    case h11.Response(status_code=status):
                        pass
                    case h11.Data() as piece:
                        body += bytes(piece.data)
                    case h11.EndOfMessage():
                        return status, body


UPGRADE = (
    b"GET %b HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n%b\r\n"
)


def test_a_head_is_read_just_far_enough() -> None:
    head = head_of(b"GET /a?b=c HTTP/1.1\r\nHOST: here\r\nX-One: 1\r\nx-one: 2\r\nUpgrade: WebSocket\r\n\r\nrest")
    assert head is not None
    assert (head.method, head.path, head.headers["x-one"], head.upgrades) == ("GET", "/a", "1, 2", False)
    assert head_of(b"nonsense\r\n\r\n") is None
    assert head_of(b"GET / HTTP/1.1\r\nHost: here") is None


async def test_the_app_answers_and_the_connection_stays_for_the_next_request() -> None:
    async with running() as server:
        stream = await server.connect()
        client = Http(stream)
        for _ in range(3):
            assert await client.get("/hello") == (200, b"hello")
        assert (await client.get("/nothing"))[0] == 404
        await stream.aclose()


async def test_a_client_that_wants_the_connection_closed_sees_its_end() -> None:
    async with running() as server:
        stream = await server.connect()
        await stream.send_all(b"GET /hello HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
        assert (await everything(stream)).endswith(b"hello")


async def test_a_request_in_small_pieces_with_a_body_arrives_whole() -> None:
    async with running() as server:
        stream = await server.connect()
        asked = b"POST /echo HTTP/1.1\r\nHost: here\r\nContent-Length: 11\r\nConnection: close\r\n\r\nhello world"
        for i in range(0, len(asked), 7):
            await stream.send_all(asked[i : i + 7])
            await trio.sleep(0.001)
        assert (await everything(stream)).endswith(b"hello world")


async def test_the_app_begins_before_the_first_request_and_ends_after_the_last() -> None:
    app = an_app()
    async with running(app) as server:
        assert app.events == ["begun"]
        await server.drained()
    assert app.events == ["begun", "over"]


async def test_an_idle_connection_is_closed() -> None:
    async with running(keep_alive_seconds=0.2) as server:
        stream = await server.connect()
        await Http(stream).get("/hello")
        assert await everything(stream, 2) == b""


async def test_a_head_that_does_not_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web.listener, "HEAD_SECONDS", 0.2)
    async with running() as server:
        slow, silent = await server.connect(), await server.connect()
        await slow.send_all(b"GET /hello HTTP/1.1\r\nHost: ")
        assert (await everything(slow, 2)).startswith(b"HTTP/1.1 408 ")
        assert await everything(silent, 2) == b""


async def test_a_head_that_is_too_long_is_refused() -> None:
    async with running() as server:
        stream = await server.connect()
        await stream.send_all(b"GET /hello HTTP/1.1\r\nX-Long: " + b"x" * 20_000)
        assert (await everything(stream)).startswith(b"HTTP/1.1 431 ")


async def test_a_wish_for_http_2_in_clear_text_is_passed_over_and_delays_no_stop() -> None:
    async with running() as server, await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
        await stream.send_all(
            b"GET /hello HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
            b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
        )
        answer = b""
        with trio.fail_after(5):
            while b"hello" not in answer:
                answer += await stream.receive_some()
        assert answer.startswith(b"HTTP/1.1 200")


async def test_nonsense_is_a_bad_request() -> None:
    async with running() as server:
        stream = await server.connect()
        await stream.send_all(b"\x16\x03\x01 what is this\r\n\r\n")
        assert (await everything(stream)).startswith(b"HTTP/1.1 400 ")


async def test_a_socket_talks_beside_the_app_on_the_same_port() -> None:
    async with running() as server, connected(server.port, "/echo?token=1") as client:
        for message in ("one", "x" * 5000, "é"):
            await client.connection.send_message(message)
            assert await client.connection.get_message() == message
        stream = await server.connect()
        assert await Http(stream).get("/hello") == (200, b"hello")
        await stream.aclose()


async def test_a_path_may_have_names() -> None:
    async with running() as server, connected(server.port, "/app/my%20key?v=1") as client:
        await client.connection.send_message("arguments")
        assert await client.connection.get_message() == "{'key': 'my key'}"


@pytest.mark.parametrize("path", ["/nothing", "/echo/", "/app/", "/app/a/b", "/hello"])
async def test_a_socket_that_nobody_serves_is_not_found(path: str) -> None:
    async with running() as server:
        stream = await server.connect()
        await stream.send_all(UPGRADE % (path.encode(), b""))
        answer = await everything(stream)
        assert answer.startswith(b"HTTP/1.1 404 Not Found\r\n")
        assert answer.endswith(b'{"error":"no WebSocket at \'%b\'"}' % path.encode())


async def test_a_handshake_of_another_version_is_told_which_one() -> None:
    async with running() as server:
        stream = await server.connect()
        await stream.send_all((UPGRADE % (b"/echo", b"")).replace(b"Version: 13", b"Version: 8"))
        answer = await everything(stream)
        assert answer.startswith(b"HTTP/1.1 426 ")
        assert b"Sec-WebSocket-Version: 13\r\n" in answer


async def test_a_socket_on_a_connection_that_spoke_http_before_is_refused() -> None:
    async with running() as server:
        stream = await server.connect()
        await Http(stream).get("/hello")
        await stream.send_all(UPGRADE % (b"/echo", b""))
        with trio.fail_after(5):
            assert bytes(await stream.receive_some()).startswith(b"HTTP/1.1 403 ")
        await stream.aclose()


@pytest.mark.parametrize(
    ("origins", "origin", "status"),
    [
        (None, b"https://evil.example", 101),
        (["https://good.example"], None, 101),
        (["https://good.example"], b"https://good.example", 101),
        (["https://good.example"], b"http://here", 101),
        (["*"], b"https://any.example", 101),
        (["https://good.example"], b"https://evil.example", 403),
        (["https://good.example"], b"null", 403),
        ([], b"https://good.example", 403),
    ],
)
async def test_pages_of_other_origins_connect_only_where_they_are_listed(
    origins: list[str] | None, origin: bytes | None, status: int
) -> None:
    async with running(origins=origins) as server:
        stream = await server.connect()
        await stream.send_all(UPGRADE % (b"/echo", b"Origin: %b\r\n" % origin if origin else b""))
        with trio.fail_after(5):
            assert bytes(await stream.receive_some()).startswith(b"HTTP/1.1 %d " % status)
        await stream.aclose()


async def test_a_handler_that_fails_ends_its_connection_alone(caplog: pytest.LogCaptureFixture) -> None:
    async with running() as server, connected(server.port, "/echo") as other:
        async with connected(server.port, "/echo") as client:
            await client.connection.send_message("fail")
            assert await client.ending() == 1011
        assert "asked to fail" in caplog.text
        async with connected(server.port, "/echo") as client:
            await client.connection.send_message("leave")
            assert await client.ending() == 1000
        await other.connection.send_message("still here")
        assert await other.connection.get_message() == "still here"


async def test_sockets_are_told_goodbye_when_the_process_stops() -> None:
    async with running() as server, connected(server.port, "/echo") as client:
        server.stop.set()
        assert await client.ending() == 1001
        with trio.fail_after(1):
            await server.ended.wait()


async def test_a_running_request_is_finished_and_nothing_new_is_accepted() -> None:
    app = an_app()
    async with running(app) as server:
        stream, idle = await server.connect(), await server.connect()
        await Http(idle).get("/hello")
        answers: list[tuple[int, bytes]] = []

        async def ask() -> None:
            answers.append(await Http(stream).get("/slow"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await app.seen("slow")
            server.stop.set()
            assert await everything(idle, 0.4) == b"", "idle connections do not wait for the running request"
            with pytest.raises(OSError, match="refused"):
                await server.connect()
        assert answers == [(200, b"slow")]
        with trio.fail_after(1):
            await server.ended.wait()


@pytest.mark.parametrize("secure", [False, True])
async def test_a_connection_that_nobody_has_spoken_on_delays_no_stop(
    secure: bool, request: pytest.FixtureRequest
) -> None:
    ours, theirs = contexts(request.getfixturevalue("certificate")) if secure else (None, None)
    async with running(tls=ours) as server:
        silent = await server.connect()  # without a handshake, where there is one
        shaken = trio.SSLStream(await server.connect(), theirs, https_compatible=True) if theirs else None
        if shaken:
            await shaken.do_handshake()
        await trio.testing.wait_all_tasks_blocked()
        assert await server.drained() < 1
        assert await everything(silent, 1) == b""
        if shaken:
            await trio.aclose_forcefully(shaken)


async def test_a_request_whose_head_arrives_during_the_drain_is_answered_and_is_the_last() -> None:
    async with running() as server:
        stream = await server.connect()
        await stream.send_all(b"GET /hello HTTP/1.1\r\n")
        server.stop.set()
        await trio.testing.wait_all_tasks_blocked()
        await stream.send_all(b"Host: here\r\n\r\nGET /hello HTTP/1.1\r\nHost: here\r\n\r\n")
        answer = await everything(stream, 1)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"hello")
        assert b"\r\nconnection: close\r\n" in answer.lower()
        assert answer.count(b"HTTP/1.1") == 1
        with trio.fail_after(1):
            await server.ended.wait()


@pytest.mark.parametrize("path", ["/endless", "/flood"])
async def test_a_stalled_reader_cannot_hold_the_process(path: str) -> None:
    async with running(drain_seconds=1) as server, connected(server.port, "/echo") as other:
        if path == "/flood":
            peer = await a_stalled_reader(server.port, path=path)
        else:
            peer = socket.socket()
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            peer.setblocking(False)
            with pytest.raises(BlockingIOError):
                peer.connect(("127.0.0.1", server.port))
            await trio.sleep(0.1)
            peer.send(b"GET /endless HTTP/1.1\r\nHost: here\r\n\r\n")
        await trio.sleep(0.3)
        await other.connection.send_message("not delayed")
        with trio.fail_after(0.5):
            assert await other.connection.get_message() == "not delayed"
        begun = time.monotonic()
        server.stop.set()
        assert await other.ending(0.5) == 1001
        with trio.fail_after(3):
            await server.ended.wait()
        assert time.monotonic() - begun < 2
        peer.close()


@pytest.mark.parametrize("secure", [False, True])
async def test_a_stalled_reader_of_an_answer_is_given_up(
    secure: bool, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web.listener, "HTTP_STALLED_SECONDS", 0.3)
    app = an_app()
    ours, theirs = contexts(request.getfixturevalue("certificate")) if secure else (None, None)
    async with running(app, tls=ours) as server:
        plain = await server.connect(2048)
        stream = trio.SSLStream(plain, theirs, https_compatible=True) if theirs else plain
        await stream.send_all(b"GET /endless HTTP/1.1\r\nHost: here\r\n\r\n")
        await app.seen("endless ended")
        await trio.aclose_forcefully(stream)


async def test_a_peer_that_leaves_in_the_middle_of_an_answer_stops_it_and_freezes_nobody() -> None:
    app = an_app()
    async with running(app) as server:
        stream = await server.connect()
        await stream.send_all(b"GET /endless HTTP/1.1\r\nHost: here\r\n\r\n")
        await stream.receive_some()
        await stream.aclose()
        other = await server.connect()
        assert await Http(other).get("/hello") == (200, b"hello")
        await app.seen("endless ended")
        await other.aclose()


async def test_being_cancelled_ends_at_once_with_everyone_connected() -> None:
    hub = Hub()
    with trio.fail_after(2):
        async with trio.open_nursery() as nursery:
            await nursery.start(hub.run)

            async def serve(*, task_status: Any) -> None:
                await listen(
                    an_app(),
                    {"/flood": flood},
                    host="127.0.0.1",
                    port=0,
                    hub=hub,
                    until=trio.sleep_forever,
                    task_status=task_status,
                )

            _, port = await nursery.start(serve)
            peers = [await a_stalled_reader(port, path="/flood")]
            raw = socket.create_connection(("127.0.0.1", port))
            raw.send(b"GET /endless HTTP/1.1\r\nHost: here\r\n\r\n")
            peers.append(raw)
            await trio.sleep(0.2)
            nursery.cancel_scope.cancel()
    for peer in peers:
        peer.close()


async def test_connections_that_come_and_go_leave_nothing_behind(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with running() as server:
        half = UPGRADE[:60]
        for said in (b"", b"G", half, UPGRADE % (b"/echo", b""), UPGRADE % (b"/echo", b"") + b"\xff\xff\xff"):
            for _ in range(5):
                stream = await server.connect()
                if said:
                    await stream.send_all(said)
                await stream.aclose()
        assert await server.drained() < 1
    assert not caplog.records


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl command to make a certificate with")
    made = tmp_path / "localhost.pem"
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", made, "-out", tmp_path / "only.pem", "-days", "2", "-subj", "/CN=localhost"),
        ],
        check=True,
        capture_output=True,
    )
    made.write_bytes(made.read_bytes() + (tmp_path / "only.pem").read_bytes())
    return made


def contexts(certificate: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The server's, and one of a client that trusts everybody."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    return tls, trusting


async def test_both_doors_open_behind_tls(certificate: Path) -> None:
    tls, trusting = contexts(certificate)
    async with running(tls=tls, drain_seconds=1) as server:
        stream = trio.SSLStream(await server.connect(), trusting, https_compatible=True)
        client = Http(stream)
        assert await client.get("/hello") == (200, b"hello")
        assert await client.get("/hello") == (200, b"hello")
        async with trio.open_nursery() as nursery:
            connection = await connect_websocket(nursery, "127.0.0.1", server.port, "/echo", use_ssl=trusting)
            for message in ("one", "x" * 15_000):
                await connection.send_message(message)
                assert await connection.get_message() == message
            stalled = trio.SSLStream(await server.connect(2048), trusting, https_compatible=True)
            await stalled.send_all(UPGRADE % (b"/flood", b""))
            plain = await server.connect()
            await plain.send_all(b"GET /hello HTTP/1.1\r\n\r\n")
            await everything(plain)
            await trio.sleep(0.1)
            assert await server.drained() < 2
            with pytest.raises(ConnectionClosed) as closed:
                await connection.get_message()
            assert closed.value.reason is not None
            assert closed.value.reason.code == 1001
            await trio.aclose_forcefully(connection._stream)
        await trio.aclose_forcefully(stalled)
        await trio.aclose_forcefully(stream)


async def test_frames_after_a_flood_of_pings_stay_whole() -> None:
    async with running() as server:
        peer = await a_stalled_reader(server.port, path="/flood")

        def ping_and_read() -> bytes:
            peer.sendall(b"\x89\x80\0\0\0\0" * 500)
            data = b""
            while len(data) < 2_000_000:
                data += peer.recv(65536)
            peer.close()
            return data

        told = frames(await trio.to_thread.run_sync(ping_and_read))
        assert {opcode for opcode, _ in told} <= {1, 9, 10}
        assert all(payload == b"x" * 10_000 for opcode, payload in told if opcode == 1)


def test_a_name_in_a_path_stands_for_one_segment_and_a_dot_for_itself() -> None:
    pattern: Callable[[str], Any] = web.listener._pattern("/app/{key}/x.y").fullmatch
    assert pattern("/app/1/x.y").groupdict() == {"key": "1"}
    assert pattern("/app/1/xzy") is None
