"""What waits for one connection: bytes, and sources that have more of them when there is room; within bounds."""

from actors.hub import Hub, Source

CHUNK = 64 * 1024  # taken from waiting sources at a time, and what may be pending where frames still leave at once


class Pending:
    """The way out of one connection, up to where bytes are written."""

    def __init__(self, hub: Hub, limit: int) -> None:
        """`limit`: bytes that may wait here and in sources."""
        self.touched = False
        self._hub, self._limit = hub, limit
        self._chunks: list[bytes] = []
        self._size = 0  # bytes in chunks
        self._held = 0  # bytes that sources hold back for us
        self._sources: dict[Source, None] = {}
        self._ended = False

    @property
    def open(self) -> bool:
        """Whether a frame put now leaves at once."""
        return self._size < CHUNK

    @property
    def ended(self) -> bool:
        """Whether nothing may follow."""
        return self._ended

    @property
    def pending(self) -> int:
        """Bytes that wait here, and in sources on our account."""
        return self._size + self._held

    def put(self, data: bytes) -> None:
        """Queue whole frames; never waits."""
        if self._ended or not data:
            return
        self._chunks.append(data)
        self._size += len(data)
        if not self.touched:
            self._hub.touch(self)

    def ask(self, source: Source) -> None:
        """Have `source.take` called when the connection can take more."""
        if not self._ended:
            self._sources[source] = None
            if not self.touched:
                self._hub.touch(self)

    def charge(self, source: Source, amount: int) -> None:
        """Count what a source holds back for us; beyond the bound everything held back is given up."""
        self._held += amount
        if amount > 0 and self.pending > self._limit:
            for loser in (*self._sources, source):
                loser.lose("lagged")

    def flush(self) -> None:
        """Write what can be written without waiting."""
        raise NotImplementedError

    def _taken(self) -> bytes:
        """The next whole frames, about one chunk; empty if there are none."""
        if not self._chunks and self._sources:
            self._pull()
        chunks = self._chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self._size = 0
        return data

    def _pull(self) -> None:
        """Take from the waiting sources, in turn, about one chunk."""
        for source in list(self._sources):
            del self._sources[source]
            data, more = source.take(CHUNK - self._size)
            if more:
                self._sources[source] = None  # behind the others
            if data:
                self._chunks.append(data)
                self._size += len(data)
            if self._size >= CHUNK:
                return
