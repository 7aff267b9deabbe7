"""A client of `/ws` that follows the client rule to the letter, for tests of whatever serves it."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

from daemon.client import Chart as Chart
from daemon.client import Gap as Gap
from daemon.client import Message as Message


class Client:
    """One connection."""

    def __init__(self, connection: WebSocketConnection) -> None:
        self.connection = connection
        self.patience = 5.0  # seconds for an answer

    async def say(self, **message: object) -> None:
        await self.connection.send_message(msgspec.json.encode(message).decode())

    async def hear(self, seconds: float | None = None) -> Message:
        with trio.fail_after(self.patience if seconds is None else seconds):
            heard: Message = msgspec.json.decode(await self.connection.get_message())
        return heard

    async def ask(self, **message: object) -> Message:
        """Say it; the next message is the answer."""
        await self.say(**message)
        return await self.hear()

    async def follow(self, chart: Chart, **more: object) -> Message:
        """Subscribe, from where the chart stands; returns the acknowledgement."""
        resume = {"resume": chart.resume} if chart.resume else {}
        answer = await self.ask(
            action="subscribe", channel="bars", symbol=chart.symbol, resolution=chart.resolution, **resume, **more
        )
        assert answer["type"] == "subscribed", answer
        chart.take(answer)
        return answer

    async def catch_up(self, chart: Chart, seq: int) -> None:
        """Apply what comes until the chart stands at `seq`."""
        while chart.seq < seq:
            chart.take(await self.hear())

    async def ending(self, seconds: float = 5.0) -> int:
        """Read whatever comes; the code of the close frame."""
        with trio.fail_after(seconds):
            while True:
                try:
                    await self.connection.get_message()
                except ConnectionClosed as closed:
                    return int(closed.reason.code) if closed.reason else 1006


@asynccontextmanager
async def connected(port: int, path: str = "/ws", **more: Any) -> AsyncIterator[Client]:
    """An open connection; cut without a word on the way out, as networks do."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    try:
        async with trio.open_nursery() as nursery:
            connection = await wrap_client_stream(nursery, stream, f"127.0.0.1:{port}", path, **more)
            try:
                yield Client(connection)
            finally:
                nursery.cancel_scope.cancel()
    finally:
        await trio.aclose_forcefully(stream)


async def a_stalled_reader(port: int, *messages: bytes, path: str = "/ws", buffer: int = 2048) -> socket.socket:
    """A socket that shakes hands, says `messages` and then reads nothing."""

    def shaken() -> socket.socket:
        peer = socket.socket()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        peer.settimeout(5)
        peer.connect(("127.0.0.1", port))
        peer.sendall(
            b"GET %b HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n" % path.encode()
        )
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += peer.recv(1)
        assert b" 101 " in answer, answer
        peer.sendall(b"".join(masked(message) for message in messages))
        return peer

    return await trio.to_thread.run_sync(shaken)


def masked(payload: bytes, opcode: int = 1) -> bytes:
    """A client's frame, masked with zeros."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return bytes([0x80 | opcode]) + length + b"\0\0\0\0" + payload


def frames(data: bytes) -> list[tuple[int, bytes]]:
    """Opcode and payload of each whole server frame in `data`."""
    found = []
    while len(data) >= 2:
        size, head = data[1], 2
        if size == 126:
            size, head = int.from_bytes(data[2:4], "big"), 4
        elif size == 127:
            size, head = int.from_bytes(data[2:10], "big"), 10
        if len(data) < head + size:
            break
        found.append((data[0] & 15, data[head : head + size]))
        data = data[head + size :]
    return found
