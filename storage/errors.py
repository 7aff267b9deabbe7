"""What candled refuses, and why: one small tree, each message naming the thing and the value."""


class CandledError(Exception):
    """Anything candled says no to; the message is fit for the person who asked."""


class BadRequest(CandledError):
    """The question itself cannot be understood or is not allowed."""


class UnknownMarket(CandledError):
    """No market answers to this name."""

    def __init__(self, name: object) -> None:
        super().__init__(f"no market named {name!r}")
        self.name = name


class UnknownResolution(BadRequest):
    """A resolution that no calendar knows."""


class BadEvent(CandledError):
    """One event that cannot be taken, with the field at fault."""


class Conflict(CandledError):
    """The change contradicts what is already there."""


class KeyReused(CandledError):
    """An idempotency key that another request came with before."""


class NotAllowed(CandledError):
    """The key is missing, unknown or lacks the scope."""


class TooLarge(CandledError):
    """More bytes than the limit allows."""


class Unavailable(CandledError):
    """Cannot be done now; trying again later may succeed."""

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Damaged(Unavailable):
    """A file of the history store is damaged inside; the next start rebuilds it."""


class BrokenStore(CandledError):
    """A file of the data directory is not what it should be."""


class FailedDisk(BrokenStore):
    """The disk failed a write or a sync. What it holds now only the next start can tell, so the process ends."""
