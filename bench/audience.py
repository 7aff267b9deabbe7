"""Many WebSockets in one process, read with as little work as possible: counted, timed, and looked at in the end.

A message holds the number of its update as `"close":N`. The bytes that a socket has at once count as late as the oldest
update in them, so percentiles are never better than what a client saw.
"""

import base64
import os
import re
import select
import socket
import time
from collections.abc import Callable, Sequence

from msgspec import Struct

from bench.harness import BenchError

MARK = b'"close":'
NUMBER = re.compile(rb'"close":(\d+)')
PIECE = 1 << 18
TAIL = 1024  # bytes that are kept for the last look
OPENING = 60.0  # seconds for all connections


class Heard(Struct):
    """What came in a stretch of time."""

    frames: int
    seconds: float
    late: list[tuple[float, int]]  # seconds, frames

    def percentile(self, share: float) -> float:
        """Seconds that `share` percent of the frames do not exceed."""
        ordered = sorted(self.late)
        wanted, count = self.frames * share / 100, 0
        for late, frames in ordered:
            count += frames
            if count >= wanted:
                return late
        return ordered[-1][0] if ordered else float("inf")


def frame(payload: bytes, opcode: int = 1) -> bytes:
    """A client's frame, masked with zeros."""
    size = len(payload)
    if size < 126:
        head = bytes([0x80 | opcode, 0x80 | size])
    elif size < 65536:
        head = bytes([0x80 | opcode, 0xFE]) + size.to_bytes(2, "big")
    else:
        head = bytes([0x80 | opcode, 0xFF]) + size.to_bytes(8, "big")
    return head + bytes(4) + payload


def opened(port: int, path: str, *headers: str) -> socket.socket:
    """A WebSocket whose handshake is over."""
    made = socket.create_connection(("127.0.0.1", port), timeout=OPENING)
    key = base64.b64encode(os.urandom(16)).decode()
    lines = [f"GET {path} HTTP/1.1", "Host: here", "Upgrade: websocket", "Connection: Upgrade"]
    lines += [f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", *headers]
    made.sendall("\r\n".join(lines).encode() + b"\r\n\r\n")
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        more = made.recv(1)
        if not more:
            raise BenchError(f"the handshake was refused: {answer[:200]!r}")
        answer += more
    if b" 101 " not in answer:
        raise BenchError(f"the handshake was refused: {answer[:200]!r}")
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


class Audience:
    """So many connections, each with its subscriptions."""

    def __init__(self, port: int, count: int, messages: Callable[[int], Sequence[bytes]]) -> None:
        """`messages(n)` is what connection n says."""
        self._poll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self.frames: dict[int, int] = {}
        self._tails: dict[int, bytes] = {}
        for n in range(count):
            made = opened(port, "/ws")
            for message in messages(n):
                made.sendall(frame(message))
            made.setblocking(False)
            self._sockets[made.fileno()] = made
            self.frames[made.fileno()], self._tails[made.fileno()] = 0, b""
            self._poll.register(made.fileno(), select.EPOLLIN)

    def close(self) -> None:
        """Hang up."""
        for made in self._sockets.values():
            made.close()
        self._poll.close()

    def quiet(self, seconds: float = 0.5, most: float = 30.0) -> None:
        """Read until nothing has come for so long, and count nothing of it."""
        until = time.perf_counter() + most
        while self.read(seconds, lambda _: 0.0).frames and time.perf_counter() < until:
            pass
        self.frames = dict.fromkeys(self.frames, 0)

    def read(self, seconds: float, sent: Callable[[int], float], due: Callable[[], float] | None = None) -> Heard:
        """Read for so long; `sent(number)` is when an update was sent. `due` does what is due, and says when the next
        thing is; all on `time.perf_counter`."""
        began = now = time.perf_counter()
        heard = Heard(0, 0.0, [])
        while now - began < seconds:
            wait = min(began + seconds, due() if due else float("inf")) - time.perf_counter()
            for handle, _ in self._poll.poll(max(0.0, wait)):
                self._take(handle, heard, sent)
            now = time.perf_counter()
        heard.seconds = now - began
        return heard

    def _take(self, handle: int, heard: Heard, sent: Callable[[int], float]) -> None:
        data = self._sockets[handle].recv(PIECE)
        if not data:
            raise BenchError("a connection was closed")
        count = data.count(MARK)
        self._tails[handle] = data[-TAIL:] if len(data) >= TAIL else (self._tails[handle] + data)[-TAIL:]
        if count:
            self.frames[handle] += count
            heard.frames += count
            first = NUMBER.search(data)
            if first is not None:
                heard.late.append((time.perf_counter() - sent(int(first[1])), count))

    def last(self) -> list[int]:
        """The last number that each connection was told, in their order."""
        return [int((NUMBER.findall(tail) or [b"-1"])[-1]) for tail in self._tails.values()]
