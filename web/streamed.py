"""Answers that are made while they are sent: as fast as their reader takes them, and never held whole."""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, Protocol

import trio
from quart import Response

from storage.errors import CandledError

log = logging.getLogger(__name__)

CUT = "candled.cut"  # in an ASGI scope's state: ends the connection at once


class Packer(Protocol):
    """Compresses what comes, some of it later."""

    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


class Streamed(Response):
    """A response whose body comes in pieces."""

    def __init__(
        self, first: bytes, rest: AsyncGenerator[bytes, None], headers: dict[str, str], over: Callable[[], None]
    ) -> None:
        """`over` is called once, when nothing more will be sent, or nothing was."""
        super().__init__(b"", 200, headers)
        del self.headers["Content-Length"]
        self._first, self._rest, self._over = first, rest, over
        self._packer: Packer | None = None
        self._threads: trio.CapacityLimiter | None = None
        self.sent: Callable[[int], None] = lambda _: None  # told the size of each piece

    def pack(self, packer: Packer, threads: trio.CapacityLimiter) -> None:
        """Have the body compressed on one of these threads."""
        self._packer, self._threads = packer, threads

    async def give_up(self) -> None:
        """Let go of what is behind the pieces; again does no harm."""
        over, self._over = self._over, lambda: None
        over()
        with trio.CancelScope(shield=True):
            await self._rest.aclose()

    async def send(self, send: Callable[[Any], Awaitable[None]], scope: Mapping[str, Any]) -> None:
        """The pieces and the end. Where there is no whole to be had any more, the connection ends without one."""
        try:
            await self._put(send, await self._packed(self._first))
            async with aclosing(self._rest):
                async for piece in self._rest:
                    await self._put(send, await self._packed(piece))
            await self._put(send, b"" if self._packer is None else self._packer.flush())
        except Exception as error:
            reason: object = error if isinstance(error, CandledError) else None
            log.error("%s: the answer was cut: %s", scope["path"], reason, exc_info=None if reason else error)
            cut = (scope.get("state") or {}).get(CUT)
            if cut is None:
                raise
            cut()
        else:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _packed(self, piece: bytes) -> bytes:
        if self._packer is None:
            return piece
        return await trio.to_thread.run_sync(self._packer.compress, piece, limiter=self._threads)

    async def _put(self, send: Callable[[Any], Awaitable[None]], piece: bytes) -> None:
        if piece:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            self.sent(len(piece))
