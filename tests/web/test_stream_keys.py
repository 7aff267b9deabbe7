"""Who may listen on `/ws` where reading needs a key."""

from pathlib import Path

import trio

from tests.daemons import BIN, environment, running

PING = b'{"action":"ping"}'
MASKED_PING = b"\x81" + bytes([0x80 | len(PING)]) + bytes(4) + PING  # RFC 6455, 5.2, masked with zeros
REFUSED = (1008).to_bytes(2, "big")


async def a_key(home: Path, scope: str) -> str:
    command = [str(BIN / "candled"), "token", "create", "--scope", scope]
    made = await trio.run_process(command, capture_stdout=True, capture_stderr=True, env=environment(home))
    return made.stdout.decode().strip()


async def answer(port: int, *headers: str) -> bytes:
    """What comes after the handshake, up to the goodbye or the answer to a ping."""
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
        await stream.send_all(MASKED_PING)
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
