"""Turns: answers that look at many bars wait for each other, so that threads are left for everybody else."""

from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import NamedTuple, cast

import trio
from quart import current_app

from web.auth import presented
from web.context import request
from web.limits import counted_as

EXTENSION = "candled.turns"
AT_ONCE = 2  # answers in each lane
FEW = 2_000  # bars that an answer may look at to go past those that look at more


class Turns:
    """So many at a time. A turn that is over goes to whoever waits, one sender after the other, however many requests
    each of them has."""

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self._free = at_once
        self._waiting: OrderedDict[str, deque[trio.Event]] = OrderedDict()

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return sum(map(len, self._waiting.values()))

    @asynccontextmanager
    async def turn(self, who: str) -> AsyncIterator[None]:
        """Wait for a turn of this sender, and have it as long as the context lasts."""
        if self._free:
            self._free -= 1
        else:
            await self._called(who)
        try:
            yield
        finally:
            self._pass_on()

    async def _called(self, who: str) -> None:
        call = trio.Event()
        self._waiting.setdefault(who, deque()).append(call)
        try:
            await call.wait()
        except trio.Cancelled:  # and so not called
            self._waiting[who].remove(call)
            if not self._waiting[who]:
                del self._waiting[who]
            raise

    def _pass_on(self) -> None:
        if not self._waiting:
            self._free += 1
            return
        who, calls = self._waiting.popitem(last=False)
        calls.popleft().set()
        if calls:
            self._waiting[who] = calls  # behind all others


class Lanes(NamedTuple):
    """Who looks at few bars does not wait for who looks at many."""

    few: Turns
    many: Turns


def turn(bars: int) -> AbstractAsyncContextManager[None]:
    """A turn for the request that is being answered, which looks at about so many bars."""
    asked = request()
    lanes = cast(Lanes, current_app.extensions[EXTENSION])
    who = counted_as(asked.known, presented(asked), asked.address)
    return (lanes.few if bars <= FEW else lanes.many).turn(who)
