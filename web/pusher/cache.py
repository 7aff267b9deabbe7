"""The last events of cache channels, for who joins later: for half an hour, and within bounds."""

from collections.abc import Callable

from msgspec import Struct

KEPT_SECONDS = 30 * 60
MOST_BYTES = 16 << 20


class Kept(Struct, frozen=True):
    """An event as it was sent."""

    frame: bytes
    data: str
    until: float  # on the clock of the cache


class Cache:
    """Of one app; beyond the bound, what was published least lately goes."""

    def __init__(self, now: Callable[[], float], *, most: int = MOST_BYTES) -> None:
        self._now, self._most = now, most
        self._kept: dict[str, Kept] = {}  # by channel, what was published last stands last
        self.bytes = 0

    def put(self, channel: str, frame: bytes, data: str) -> None:
        """Keep an event in place of the one before."""
        self._forget(channel)
        self._kept[channel] = Kept(frame, data, self._now() + KEPT_SECONDS)
        self.bytes += _size(channel, self._kept[channel])
        while self._kept and (self.bytes > self._most or self._stale(next(iter(self._kept)))):
            self._forget(next(iter(self._kept)))

    def find(self, channel: str) -> Kept | None:
        """The last event, if there is one that is not too old."""
        if channel in self._kept and self._stale(channel):
            self._forget(channel)
        return self._kept.get(channel)

    def ttl(self, kept: Kept) -> int:
        """For how many more seconds it is kept."""
        return int(kept.until - self._now())

    def _stale(self, channel: str) -> bool:
        return self._kept[channel].until <= self._now()

    def _forget(self, channel: str) -> None:
        kept = self._kept.pop(channel, None)
        if kept is not None:
            self.bytes -= _size(channel, kept)


def _size(channel: str, kept: Kept) -> int:
    return len(channel) + len(kept.frame) + len(kept.data)
