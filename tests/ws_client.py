"""A client of `/ws` that follows the client rule to the letter, for tests of whatever serves it."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, connect_websocket

Message = dict[str, Any]


class Gap(Exception):
    """The stream said that something is missing: time to subscribe again with `resume`."""


class Chart:
    """The bars of one stream as a client holds them, over any number of connections."""

    def __init__(self, symbol: str = "GOLD", resolution: str = "1") -> None:
        self.symbol, self.resolution = symbol, resolution
        self.epoch: str | None = None
        self.seq = -1
        self.bars: dict[int, Message] = {}
        self.ops: list[str] = []
        self.snapshots: list[str | None] = []  # the reasons
        self.recovered: list[bool] = []

    @property
    def resume(self) -> Message | None:
        return None if self.epoch is None else {"epoch": self.epoch, "seq": self.seq}

    @property
    def newest(self) -> int | None:
        return max(self.bars, default=None)

    def take(self, message: Message) -> None:
        """Apply one message of the stream; raises Gap when it does not continue what is here."""
        match message["type"]:
            case "subscribed":
                self.recovered.append(message["recovered"])
            case "snapshot":
                self.epoch, self.seq = message["epoch"], message["seq"]
                self.bars = {bar["time"]: bar for bar in message["data"]}
                assert list(self.bars) == sorted(self.bars), "a snapshot ascends"
                self.snapshots.append(message.get("reason"))
            case "bar":
                self._apply(message)
            case "heartbeat":
                if message["epoch"] != self.epoch or message["seq"] > self.seq:
                    raise Gap(message)

    def _apply(self, message: Message) -> None:
        if message["epoch"] != self.epoch or message["prev_seq"] > self.seq:
            raise Gap(message)
        assert message["prev_seq"] <= message["seq"], message
        self.ops.append(message["op"])
        time = message["data"]["time"]
        if message["op"] == "delete":
            self.bars.pop(time, None)
        else:
            self.bars[time] = message["data"]
        self.seq = max(self.seq, message["seq"])


class Client:
    """One connection."""

    def __init__(self, connection: WebSocketConnection) -> None:
        self.connection = connection

    async def say(self, **message: object) -> None:
        await self.connection.send_message(msgspec.json.encode(message).decode())

    async def hear(self, seconds: float = 5.0) -> Message:
        with trio.fail_after(seconds):
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
    async with trio.open_nursery() as nursery:
        connection = await connect_websocket(nursery, "127.0.0.1", port, path, use_ssl=False, **more)
        try:
            yield Client(connection)
        finally:
            nursery.cancel_scope.cancel()
            with trio.move_on_after(1, shield=True):
                await connection._stream.aclose()


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
