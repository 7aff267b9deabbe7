"""The stream under a WebSocket: what is pending leaves in one send, without waiting, and within bounds."""

import fcntl
import os
import socket
import struct
import termios
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import trio
from msgspec import Struct

from actors.hub import Hub
from web.pending import CHUNK, Pending

ROOM = 256 * 1024  # pending beyond this, a connection's next request waits
TLS_CHUNK = 16 * 1024  # one TLS record: the step in which progress is seen

PING = b"\x89\x00"
CLOSE = 0x88  # first byte of a close frame
LONGEST_CLOSE = 131  # a client's: head, mask, 125 bytes


class WsLimits(Struct, frozen=True, kw_only=True):
    """What one WebSocket, and all of them together, may cost."""

    connections: int = 1000
    subscriptions: int = 50  # per connection
    messages_per_second: int = 100  # in, per connection
    flooded_seconds: int = 10  # on end beyond that rate: close 1008
    message_bytes: int = 16 * 1024
    ingest_bytes: int = 8 << 20  # of a producer's message
    ping_seconds: float = 30.0
    dead_seconds: float = 60.0  # nothing heard for so long, not even a pong: close
    stalled_seconds: float = 30.0  # the socket takes nothing for so long: close 1013
    heartbeat_seconds: float = 15.0  # a stream without a frame for so long proves that it lives
    pending_frames: int = 1000  # per stream
    pending_bytes: int = 4 * 1024 * 1024  # per connection
    conflate_ms: int = 0  # the least that a client gets, whatever it asks for
    close_seconds: float = 3.0  # what a peer gets to answer a close frame


class Transport(Protocol):
    """What an outbox needs below itself: a SocketStream or an SSLStream."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None: ...

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray: ...

    async def aclose(self) -> None: ...


def text(payload: bytes) -> bytes:
    """A server's text frame (RFC 6455, 5.2)."""
    size = len(payload)
    if size < 126:
        return b"\x81%c%b" % (size, payload)
    if size < 65536:
        return b"\x81\x7e" + struct.pack(">H", size) + payload
    return b"\x81\x7f" + struct.pack(">Q", size) + payload


def goodbye(code: int, reason: str) -> bytes:
    """A close frame; its reason has at most 123 bytes."""
    body = struct.pack(">H", code) + reason.encode()[:123]
    return b"%c%c%b" % (CLOSE, len(body), body)


def answered(tail: bytes) -> bool:
    """Whether what a client sent last looks like its close frame, after which the server hangs up (RFC 6455, 7.1.1)."""
    return any(tail[i] == CLOSE and tail[i + 1] == 0x80 | len(tail) - i - 6 for i in range(len(tail) - 5))


def boundary(frames: bytes | memoryview, sent: int) -> int:
    """The end of the frame that was cut by sending only `sent` bytes of whole frames."""
    end = 0
    while end < sent:
        size, head = frames[end + 1], 2
        if size == 126:
            size, head = struct.unpack_from(">H", frames, end + 2)[0], 4
        elif size == 127:
            size, head = struct.unpack_from(">Q", frames, end + 2)[0], 10
        end += head + size
    return end


def forsake(raw: trio.socket.SocketType) -> None:
    """Close a socket at once, and free what the kernel holds for a peer that does not read."""
    with suppress(OSError):  # the peer was faster
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw.close()


class Outbox(Pending, trio.abc.Stream):
    """Handed to trio-websocket as its stream; streams put their frames beside the library's control frames.

    On a plain socket the first attempt is a non-blocking send by whoever flushes; a task exists only while the
    socket is full. On TLS every send is such a task."""

    def __init__(
        self,
        stream: Transport,
        raw: trio.socket.SocketType,
        hub: Hub,
        nursery: trio.Nursery,
        limits: WsLimits,
        head: bytes = b"",
    ) -> None:
        """`raw` is the socket under `stream`; `head` is what was already read from it."""
        super().__init__(hub, limits.pending_bytes)
        self.heard = trio.current_time()  # when the peer last sent anything
        self.closed = trio.Event()
        self.stalled = False  # said goodbye because it took nothing for too long
        self.given_up: Callable[[], object] = self.abort  # called when that goodbye is out
        self._stream, self._raw, self._nursery, self._limits = stream, raw, nursery, limits
        self._plain = isinstance(stream, trio.SocketStream)
        self._head = head
        self._out = b""  # whole frames on their way
        self._sent = 0  # of `_out`
        self._blocked = False
        # Events are dear where there are thousands of connections: these are made when somebody waits.
        self._room: trio.Event | None = None  # set when little is pending
        self._calm: trio.Event | None = None  # set when a full socket has taken everything; None: it is not full

    @property
    def open(self) -> bool:
        """Whether a frame put now leaves at once."""
        return not self._blocked and self._size < CHUNK

    @property
    def pending(self) -> int:
        """Bytes that wait here, and in sources on our account."""
        return self._size + self._held + len(self._out) - self._sent

    def end(self, code: int, reason: str) -> None:
        """Queue a close frame and take nothing after it."""
        self.put(goodbye(code, reason))
        self._finish()
        self.flush()

    async def room(self) -> None:
        """Wait until so little is pending that another answer may be added."""
        while self._size + len(self._out) - self._sent > ROOM and not (self._ended or self.closed.is_set()):
            if self._room is None:
                self._room = trio.Event()
            await self._room.wait()

    def flush(self) -> None:
        """Send what the socket takes without waiting; the rest gets a task."""
        if self._blocked or self.closed.is_set():
            return
        if self._plain:
            if self._push():
                return
        elif not self._gather():
            return
        self._blocked, self._calm = True, trio.Event()
        self._nursery.start_soon(self._drain if self._plain else self._encrypt)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """For trio-websocket, which sends one frame at a time."""
        if self.closed.is_set():
            raise trio.ClosedResourceError
        data = bytes(data)
        self.put(data)
        if data and data[0] == CLOSE:
            self._finish()
        self.flush()
        await trio.lowlevel.checkpoint()
        await self.room()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()
        await self.room()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self._head:
            first, self._head = self._head[:max_bytes], self._head[max_bytes or len(self._head) :]
            await trio.lowlevel.checkpoint()
            return first
        data = await self._stream.receive_some(max_bytes)
        self.heard = trio.current_time()
        return data

    async def linger(self, seconds: float) -> None:
        """Let the peer read what was sent, and close; for at most `seconds`. Nobody else may be receiving."""
        with trio.move_on_after(seconds):
            try:
                self.flush()
                if self._calm is not None:
                    await self._calm.wait()
                if self._plain:
                    self._raw.shutdown(socket.SHUT_WR)
                # A socket closed with something unread in it is reset, and the peer may lose our last words.
                tail = b"\0"
                while tail and not answered(tail):
                    tail = bytes(await self._stream.receive_some(CHUNK))[-LONGEST_CLOSE:]
                await self.aclose()
            except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
                pass
        self.abort()

    async def aclose(self) -> None:
        if not self.closed.is_set():
            self.flush()
        self._shut()
        if not self._plain:
            with trio.move_on_after(1):
                await self._stream.aclose()
        self._raw.close()
        await trio.lowlevel.checkpoint()

    def abort(self) -> None:
        """Drop the connection without a word."""
        self._shut()
        if self._raw.fileno() >= 0:
            forsake(self._raw)

    def _finish(self) -> None:
        self._ended = True
        self._sources.clear()
        self._make_room()

    def _shut(self) -> None:
        self._finish()
        self._chunks.clear()
        self._out, self._sent, self._size = b"", 0, 0
        self.closed.set()

    def _gather(self) -> bytes:
        """The next whole frames to send, empty if there are none."""
        if self._sent < len(self._out):
            return self._out
        self._out, self._sent = self._taken(), 0
        if len(self._out) <= ROOM:
            self._make_room()
        return self._out

    def _make_room(self) -> None:
        room, self._room = self._room, None
        if room is not None:
            room.set()

    def _calmed(self) -> None:
        calm, self._calm, self._blocked = self._calm, None, False
        if calm is not None:
            calm.set()

    def _push(self) -> bool:
        """Send until nothing is left (true) or the socket is full."""
        while out := self._gather():
            rest = memoryview(out)[self._sent :] if self._sent else out
            try:
                sent = os.write(self._raw.fileno(), rest)
            except BlockingIOError:
                return False
            except OSError:  # reset, or gone: the reading side notices as well
                self.abort()
                return True
            self._hub.bytes += sent
            self._sent += sent
            if self._sent < len(out):
                return False
        return True

    async def _drain(self) -> None:
        """Finish what did not fit into the socket."""
        try:
            waited, before = 0.0, self._unread()
            while not self.closed.is_set():
                step = min(1.0, self._limits.stalled_seconds)
                sent = self._sent
                with trio.move_on_after(step):
                    await trio.lowlevel.wait_writable(self._raw.fileno())
                if self.closed.is_set():
                    return
                if self._push():
                    if self.stalled:
                        self.given_up()
                    return
                left = self._unread()
                waited = waited + step if left >= before and self._sent == sent else 0.0
                before = left
                if waited >= self._limits.stalled_seconds:
                    if self._stall():
                        return
                    waited = 0.0
        except (trio.ClosedResourceError, OSError):
            self.abort()
        finally:
            self._calmed()

    async def _encrypt(self) -> None:
        """The same through TLS, where a send that does not fit can only be waited for."""
        try:
            while out := self._gather():
                with trio.move_on_after(self._limits.stalled_seconds) as patience:
                    await self._stream.send_all(out[self._sent : self._sent + TLS_CHUNK])
                if patience.cancelled_caught:
                    self.stalled = True
                    self._hub.dropped += 1
                    self.abort()
                    return
                if self.closed.is_set():
                    return
                sent = min(TLS_CHUNK, len(out) - self._sent)
                self._hub.bytes += sent
                self._sent += sent
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            self.abort()
        finally:
            self._calmed()

    def _unread(self) -> int:
        """Bytes in the kernel that the peer has not acknowledged: falls while it reads, however slowly."""
        if self._raw.fileno() < 0:
            return 0
        try:
            size: int = struct.unpack("i", fcntl.ioctl(self._raw.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))[0]
        except OSError:  # not every system tells; then only what the socket takes counts
            return 0
        return size

    def _stall(self) -> bool:
        """The peer reads nothing: keep only the frame it has begun to receive and the reason; then, nothing at all."""
        if self.stalled:
            self.abort()
            return True
        self.stalled = True
        self._hub.dropped += 1
        if self._ended and not self._chunks:
            end = len(self._out)
        else:
            end = boundary(self._out, self._sent)
            self._chunks = [goodbye(1013, "the connection takes no data")]
            self._size = len(self._chunks[0])
        self._out = self._out[:end]
        self._finish()
        return False
