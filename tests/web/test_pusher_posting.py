"""A POST as webhooks send it, to servers that answer in all sorts of ways."""

import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import h11
import pytest
import trio

from web.pusher import posting
from web.pusher.posting import post

ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"


class Server:
    """Answers every connection with the same bytes, and keeps what it was sent."""

    def __init__(self, answer: bytes, tls: ssl.SSLContext | None) -> None:
        self.port = 0
        self.received = b""
        self._answer, self._tls = answer, tls

    async def serve(self, stream: trio.SocketStream) -> None:
        wire: trio.abc.Stream = trio.SSLStream(stream, self._tls, server_side=True) if self._tls else stream
        async with stream:
            with suppress(trio.BrokenResourceError):  # a client that does not trust us
                await self._answered(wire)

    async def _answered(self, wire: trio.abc.Stream) -> None:
        while not self.received.endswith(b"}"):
            self.received += await wire.receive_some()
        await wire.send_all(self._answer)


@asynccontextmanager
async def answering(answer: bytes, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server = Server(answer, tls)
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        server.port = listener.socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, server.serve, [listener])
        yield server
        nursery.cancel_scope.cancel()


async def test_it_is_sent_whole_with_its_headers_and_the_query_of_the_address() -> None:
    async with answering(ANSWER) as server:
        status = await post(f"http://127.0.0.1:{server.port}/hooks?x=1", b'{"a":1}', {"X-Pusher-Key": "k"})
    assert status == 204
    head, _, body = server.received.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /hooks?x=1 HTTP/1.1\r\n")
    assert f"Host: 127.0.0.1:{server.port}\r\n".encode() in head
    assert b"X-Pusher-Key: k" in head
    assert body == b'{"a":1}'


async def test_it_is_sent_through_tls_to_a_server_that_just_hangs_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl command to make a certificate with")
    made = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    await trio.run_process([openssl, *made, *names, "-keyout", "k", "-out", "c"], cwd=tmp_path, capture_stderr=True)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(tmp_path / "c", tmp_path / "k")
    async with answering(ANSWER, tls) as server:
        url = f"https://localhost:{server.port}/"
        with pytest.raises(trio.BrokenResourceError):
            await post(url, b"{}", {})
        monkeypatch.setattr(posting, "_trusting", lambda: ssl.create_default_context(cafile=str(tmp_path / "c")))
        server.received = b""
        with trio.fail_after(5):
            assert await post(url, b"{}", {}) == 204


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 2", b"SSH-2.0-OpenSSH\r\n\r\n"])
async def test_an_answer_that_is_none_is_a_failure(answer: bytes) -> None:
    async with answering(answer) as server:
        with pytest.raises(h11.RemoteProtocolError):
            await post(f"http://127.0.0.1:{server.port}", b"{}", {})
