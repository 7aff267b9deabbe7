"""Answers with closed bars alone, as bytes: given again until something of what they rest on changes."""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import cast

import trio
from msgspec import Struct
from quart import Response, current_app

from actors.changes import Basis
from actors.reading import Window
from storage.calendar import Resolution
from storage.records import Market
from web.context import KEPT, NO_STORE, REVALIDATE, engine, reply, request, unchanged

EACH = 600  # bytes that an entry takes beside its body, about

Asked = tuple[object, ...]  # what tells one question from another


class KeptStatistics(Struct, frozen=True):
    """What is kept, and what came of it."""

    answers: int
    bytes: int
    given: int  # again
    stale: int  # found, and not good any more
    shared: int  # questions that waited for another's answer


@dataclass(slots=True)
class _Answer:
    body: bytes
    tag: str
    basis: Basis


@dataclass(slots=True)
class _Flight:
    """Bars that are being read for whoever asks meanwhile."""

    landed: trio.Event = field(default_factory=trio.Event)
    window: Window | None = None  # stays None where reading failed


class Kept:
    """At most so many bytes, those that were asked for least lately go first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._answers: OrderedDict[Asked, _Answer] = OrderedDict()
        self._flights: dict[Asked, _Flight] = {}
        self._bytes = self._given = self._stale = self._shared = 0

    async def again(self, market: Market) -> Response | None:
        """The answer to the request at hand, if it is kept and would come out the same now."""
        asked = _asked(market)
        answer = self._answers.get(asked)
        if answer is None:
            return None
        seq = await engine().still(market, answer.basis)
        if seq is None:
            self._stale += 1
            self._drop(asked)
            return None
        self._given += 1
        if asked in self._answers:
            self._answers.move_to_end(asked)
        headers = {"X-Cursor": f"{engine().epoch}.{seq}", "Cache-Control": REVALIDATE, "ETag": answer.tag}
        return reply(b"", 304, headers) if unchanged(answer.tag) else reply(answer.body, headers=headers)

    def keep(self, market: Market, response: Response, body: bytes, window: Window) -> None:
        """Remember the answer to the request at hand."""
        size = len(body) + EACH
        if window.basis is None or size > self._most // 4:
            return
        asked = _asked(market)
        self._drop(asked)
        self._answers[asked] = _Answer(body, response.headers["ETag"], window.basis)
        self._bytes += size
        while self._bytes > self._most:
            self._drop(next(iter(self._answers)))

    async def window(
        self, market: Market, resolution: Resolution, start: int, end: int, count: int | None, most: int
    ) -> Window:
        """The bars, read once for all that ask the same before anything more is committed."""
        asked: Asked = (engine().committed(), market.slot, resolution, start, end, count, most)
        flight = self._flights.get(asked)
        if flight is not None:
            self._shared += 1
            await flight.landed.wait()
            if flight.window is not None:
                return flight.window
        return await self._fly(asked, lambda: engine().window(market, resolution, start, end, count, most))

    async def _fly(self, asked: Asked, read: Callable[[], Awaitable[Window]]) -> Window:
        flight = _Flight()
        self._flights.setdefault(asked, flight)
        try:
            flight.window = await read()
            return flight.window
        finally:
            if self._flights.get(asked) is flight:
                del self._flights[asked]
            flight.landed.set()

    def statistics(self) -> KeptStatistics:
        """Counters for metrics."""
        return KeptStatistics(len(self._answers), self._bytes, self._given, self._stale, self._shared)

    def _drop(self, asked: Asked) -> None:
        answer = self._answers.pop(asked, None)
        if answer is not None:
            self._bytes -= len(answer.body) + EACH


def kept() -> Kept:
    """Those of the app that answers this request."""
    return cast(Kept, current_app.extensions[KEPT])


def headers_of(window: Window, more: str = "") -> dict[str, str]:
    """The headers of an answer: one with the open bar is not to be kept, any other may be asked about again. `more`
    tells apart answers of the same bars."""
    epoch = engine().epoch
    headers = {"X-Cursor": f"{epoch}.{window.seq}", "Cache-Control": NO_STORE}
    if not window.open_bar:
        headers |= {"Cache-Control": REVALIDATE, "ETag": entity_tag(epoch, window, more)}
    return headers


def entity_tag(epoch: str, window: Window, more: str = "") -> str:
    """Differs whenever the answer does: a bar that changed has a newer rev, one that is gone leaves other ends or
    fewer bars. Weak, as the answer may be compressed or not."""
    ends = f"{window.time[0]}-{window.time[-1]}" if window.time else f"{window.previous}"
    return f'W/"{epoch}-{window.rev}-{len(window.time)}-{ends}{more and "-" + more}"'


def _asked(market: Market) -> Asked:
    return request().path, request().query_string, market.slot
