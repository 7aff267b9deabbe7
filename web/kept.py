"""Answers with bars, as bytes: given again until something of what they rest on changes."""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import cast

import trio
from msgspec import Struct
from msgspec.structs import replace
from quart import Response, current_app

from actors.changes import Basis
from actors.engine import Engine
from actors.reading import Window
from storage.calendar import Resolution
from storage.records import Market
from web.context import KEPT, NO_STORE, REVALIDATE, engine, matches, reply, request

EACH = 600  # bytes that an entry takes beside its body, about

Asked = tuple[str, bytes]  # a path and a query
Read = tuple[object, ...]  # what tells one reading from another
Manner = tuple[object, ...]  # what of a request makes its answer leave as it does


class KeptStatistics(Struct, frozen=True):
    """What is kept, and what came of it."""

    answers: int
    bytes: int
    given: int  # again
    stale: int  # found, and not good any more
    shared: int  # questions that waited for another's answer


class Said(Struct, frozen=True):
    """An answer as it left in one manner: compressed or not, with its body or without, for a page of this origin."""

    before: str  # the head, around the cursor and the request's number, up to the date
    between: str
    after: str
    body: bytes
    status: int
    size: int  # of the body, for counting
    route: str
    endpoint: str


@dataclass(slots=True, eq=False)
class Answer:
    """What is known of an answer but for the cursor, which moves on."""

    asked: Asked
    symbol: str  # as it was asked for
    slot: int
    body: bytes
    headers: dict[str, str]
    basis: Basis
    said: dict[Manner, Said] = field(default_factory=dict)

    def known_by(self, known: str) -> bool:
        """Whether who sends this If-None-Match has it already."""
        return "ETag" in self.headers and matches(known, self.headers["ETag"])

    @property
    def nbytes(self) -> int:
        """Memory, about."""
        return len(self.body) + EACH + sum(_size(self, said) for said in self.said.values())


@dataclass(slots=True)
class _Flight:
    """Bars that are being read for whoever asks meanwhile."""

    landed: trio.Event = field(default_factory=trio.Event)
    window: Window | None = None  # stays None where reading failed


class Kept:
    """At most so many bytes, those that were asked for least lately go first."""

    def __init__(self, most: int, engine: Engine) -> None:
        self._most, self._engine = most, engine
        self._answers: OrderedDict[Asked, Answer] = OrderedDict()
        self._flights: dict[Read, _Flight] = {}
        self._bytes = self._given = self._stale = self._shared = 0

    async def again(self, market: Market) -> Response | None:
        """The answer to the request at hand, if it is kept and would come out the same now."""
        asked = request()
        answer = self.find(asked.path, asked.query_string)
        if answer is None:
            return None
        seq = await self._engine.still(market, answer.basis) if answer.slot == market.slot else None
        if seq is None:
            self._stale += 1
            self._drop(answer)
            return None
        self.given(answer)
        asked.answer = answer
        headers = {"X-Cursor": f"{self._engine.epoch}.{seq}", **answer.headers}
        known = answer.known_by(asked.headers.get("If-None-Match", ""))
        return reply(b"", 304, headers) if known else reply(answer.body, headers=headers)

    def find(self, path: str, query: bytes) -> Answer | None:
        """What is kept of the answer to a question, good or not."""
        return self._answers.get((path, query))

    def holds(self, answer: Answer) -> str | None:
        """The cursor with which an answer would come out the same now; None where it would not, or nobody knows."""
        seq = self._engine.at_once(answer.symbol, answer.slot, answer.basis)
        return None if seq is None else f"{self._engine.epoch}.{seq}"

    def given(self, answer: Answer) -> None:
        """Count that it is given again."""
        self._given += 1
        if self._answers.get(answer.asked) is answer:
            self._answers.move_to_end(answer.asked)

    def keep(self, market: Market, response: Response, body: bytes, window: Window) -> None:
        """Remember the answer to the request at hand."""
        if window.basis is None or len(body) + EACH > self._most // 4:
            return
        asked = request()
        headers = {name: response.headers[name] for name in ("Cache-Control", "ETag") if name in response.headers}
        question = asked.path, asked.query_string
        answer = Answer(question, asked.args["symbol"], market.slot, body, headers, window.basis)
        if (before := self._answers.get(question)) is not None:
            self._drop(before)
        self._answers[question] = asked.answer = answer
        self._grow(answer.nbytes)

    def say(self, answer: Answer, manner: Manner, said: Said) -> None:
        """Remember how an answer left."""
        if self._answers.get(answer.asked) is answer and manner not in answer.said:
            answer.said[manner] = said if said.body != answer.body else replace(said, body=answer.body)
            self._grow(_size(answer, answer.said[manner]))

    def _grow(self, size: int) -> None:
        self._bytes += size
        while self._bytes > self._most:
            self._drop(next(iter(self._answers.values())))

    async def window(
        self, market: Market, resolution: Resolution, start: int, end: int, count: int | None, most: int
    ) -> Window:
        """The bars, read once for all that ask the same before anything more is committed."""
        asked: Read = (self._engine.committed(), market.slot, resolution, start, end, count, most)
        flight = self._flights.get(asked)
        if flight is not None:
            self._shared += 1
            await flight.landed.wait()
            if flight.window is not None:
                return flight.window
        return await self._fly(asked, lambda: self._engine.window(market, resolution, start, end, count, most))

    async def _fly(self, asked: Read, read: Callable[[], Awaitable[Window]]) -> Window:
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

    def _drop(self, answer: Answer) -> None:
        if self._answers.get(answer.asked) is answer:
            del self._answers[answer.asked]
            self._bytes -= answer.nbytes


def _size(answer: Answer, said: Said) -> int:
    return EACH + (len(said.body) if said.body is not answer.body else 0)


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
