"""Who may listen on `/ws` where reading needs a key."""

from pathlib import Path

import trio

from tests.daemons import BIN, environment, running
from tests.ws_client import connected

PING = b'{"action":"ping"}'
REFUSED = (1008).to_bytes(2, "big")


async def a_key(home: Path, scope: str) -> str:
    command = [str(BIN / "candled"), "token", "create", "--scope", scope]
    made = await trio.run_process(command, capture_stdout=True, capture_stderr=True, env=environment(home))
    return made.stdout.decode().strip()


def masked(message: bytes) -> bytes:
    """A text frame of a client (RFC 6455, 5.2), masked with zeros."""
    assert len(message) < 126
    return b"\x81" + bytes([0x80 | len(message)]) + bytes(4) + message


async def answer(port: int, *headers: str, first: bytes = b"") -> bytes:
    """What comes after the handshake, up to the goodbye or the answer to a ping, which may follow a first message."""
    head = [
        "GET /ws HTTP/1.1",
        "Host: localhost",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        *headers,
    ]
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all("\r\n".join(head).encode() + b"\r\n\r\n")
        heard = b""
        while b"\r\n\r\n" not in heard:
            heard += await stream.receive_some()
        await stream.send_all((masked(first) if first else b"") + masked(PING))
        while not (REFUSED in heard or b"pong" in heard):
            more = await stream.receive_some()
            assert more, heard
            heard += more
    assert heard.startswith(b"HTTP/1.1 101"), heard
    return heard.partition(b"\r\n\r\n")[2]


async def test_where_reading_needs_a_key_so_does_the_socket(tmp_path: Path) -> None:
    async with running("serve", "--auth", "token", home=tmp_path) as daemon:
        ingest, read = await a_key(tmp_path, "ingest"), await a_key(tmp_path, "read")
        with trio.fail_after(20):
            for headers in ([], ["Authorization: Bearer nobody"], [f"Authorization: Bearer {ingest}"]):
                said = await answer(daemon.port, *headers)
                assert REFUSED in said
                assert b"scope 'read'" in said
                assert b"pong" not in said
            assert b'{"type":"pong"}' in await answer(daemon.port, f"Authorization: Bearer {read}")


async def test_the_first_message_may_bring_the_key_that_a_browser_cannot_put_into_the_handshake(tmp_path: Path) -> None:
    async with running("serve", "--auth", "token", home=tmp_path) as daemon:
        ingest, read = await a_key(tmp_path, "ingest"), await a_key(tmp_path, "read")
        with trio.fail_after(20):
            for first in (
                b'{"action":"authenticate","key":"nobody","id":7}',
                b'{"action":"authenticate","key":"%b","id":7}' % ingest.encode(),
                b'{"action":"authenticate","id":7}',
                b'{"action":"subscribe","channel":"bars","symbol":"GOLD","id":7}',
            ):
                said = await answer(daemon.port, first=first)
                assert b'"code":"unauthorized"' in said
                assert b'"id":7' in said
                assert said.index(b"unauthorized") < said.index(REFUSED)
                assert b"pong" not in said
            assert b"unauthorized" in await answer(daemon.port, first=b"nonsense")
            said = await answer(daemon.port, first=b'{"action":"authenticate","key":"%b","id":7}' % read.encode())
            assert b'{"type":"authenticated","id":7}' in said
            assert b'{"type":"pong"}' in said


async def test_a_key_is_welcome_where_none_is_needed(tmp_path: Path) -> None:
    async with running("serve", home=tmp_path) as daemon:
        with trio.fail_after(20):
            said = await answer(daemon.port, first=b'{"action":"authenticate","key":"nobody"}')
            assert b'{"type":"authenticated"}' in said
            assert b'{"type":"pong"}' in said


async def test_a_revoked_key_ends_the_sockets_that_it_opened(tmp_path: Path) -> None:
    async with running("serve", "--auth", "token", home=tmp_path) as daemon:
        mine, other = await a_key(tmp_path, "read"), await a_key(tmp_path, "read")
        with trio.fail_after(30):
            async with (
                connected(daemon.port, extra_headers=[(b"Authorization", f"Bearer {mine}".encode())]) as handshaken,
                connected(daemon.port) as browser,
                connected(daemon.port, extra_headers=[(b"Authorization", f"Bearer {other}".encode())]) as beside,
            ):
                assert await browser.ask(action="authenticate", key=mine) == {"type": "authenticated"}
                await trio.run_process([str(BIN / "candled"), "token", "revoke", "1"], env=environment(tmp_path))
                for ended in (handshaken, browser):
                    error = await ended.hear(10)
                    assert (error["code"], error["message"]) == ("unauthorized", "the key was revoked")
                    assert await ended.ending() == 1008
                assert await beside.ask(action="ping") == {"type": "pong"}
