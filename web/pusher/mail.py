"""What waits for a connection whose socket is full: events in their order, of a state only the newest."""

import itertools
from collections.abc import Callable

from actors.bars import Reason
from actors.hub import Hub, Sink

MOST = 1 << 20  # bytes that may wait

State = tuple[str, str]  # channel and event: what of several frames replaces the one before


class Mail:
    """A source of its connection's outbox."""

    def __init__(self, hub: Hub, sink: Sink, overflow: Callable[[], None]) -> None:
        """`overflow` is called when more waits than may, and nothing is kept from then on."""
        self._hub, self._sink, self._overflow = hub, sink, overflow
        self._waiting: dict[State | int, tuple[str, bytes]] = {}  # by what replaces it: channel and frame
        self._numbers = itertools.count()
        self._size = 0
        self._over = False

    def send(self, frame: bytes, channel: str, state: State | None = None) -> None:
        """Have a frame leave after those of before; one of a state that has to wait is replaced by the next of it."""
        if self._over or self._sink.ended:
            return
        if not self._waiting and self._sink.open:
            self._hub.frames += 1
            self._sink.put(frame)
            return
        before = self._size
        if state is not None and state in self._waiting:
            self._size -= len(self._waiting.pop(state)[1])
            self._hub.conflated += 1
        self._waiting[next(self._numbers) if state is None else state] = channel, frame
        self._size += len(frame)
        if self._size > MOST:
            self.lose("lagged")
            return
        self._sink.charge(self, self._size - before)
        self._sink.ask(self)

    def drop(self, channel: str) -> None:
        """Forget what waits of a channel."""
        gone = [key for key, (name, _) in self._waiting.items() if name == channel]
        size = sum(len(self._waiting.pop(key)[1]) for key in gone)
        self._size -= size
        if size:
            self._sink.charge(self, -size)

    def take(self, room: int) -> tuple[bytes, bool]:
        """About `room` bytes of what waits, and whether there is more."""
        frames: list[bytes] = []
        size = 0
        while self._waiting and size < room:
            _, frame = self._waiting.pop(next(iter(self._waiting)))
            frames.append(frame)
            size += len(frame)
        self._size -= size
        self._hub.frames += len(frames)
        if size:
            self._sink.charge(self, -size)
        return b"".join(frames), bool(self._waiting)

    def lose(self, _: Reason) -> None:
        """Give the connection up: events that are lost cannot be brought back, so its client begins anew."""
        if self._over:
            return
        self._over = True
        self._hub.lagged += 1
        self._waiting.clear()
        self._size = 0
        self._overflow()
