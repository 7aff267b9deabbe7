"""`/api/ingest/stream`: events from producers that hold a connection, each message answered once it is on the disk."""

from collections.abc import Awaitable
from typing import Protocol

import msgspec
import trio
from msgspec import UNSET, Struct, UnsetType
from werkzeug.datastructures import Headers

from actors.bodies import ARROW, JSON
from actors.hub import Hub
from actors.intake import Entered
from storage.errors import CandledError, Unavailable
from web.auth import stranger
from web.listener import Socket
from web.outbox import WsLimits, text
from web.stream import Guarded, MayRead

FLIGHT = 64  # messages of one connection that are not answered yet
FLYING = 16 << 20  # bytes of them, beside the newest
PATIENCE = 5.0  # seconds between two looks at whether there is room

_encode = msgspec.json.Encoder().encode


class Refusal(Struct, frozen=True):
    """A message of which nothing was kept."""

    error: str
    retry_after: int | UnsetType = UNSET  # seconds, where it may be sent again as it is


class Intake(Protocol):
    """Takes events."""

    async def enter(self, body: bytes, content_type: str, *, source: str) -> Entered: ...
    def answer(self, entered: Entered) -> Awaitable[bytes]: ...


class IngestStream(Guarded):
    """The endpoint."""

    scope = "ingest"

    def __init__(self, intake: Intake, hub: Hub, limits: WsLimits, may_ingest: MayRead, *, demo: bool) -> None:
        """`demo`: this machine's own requests need no key."""
        super().__init__(hub, limits, may_ingest)
        self.intake, self._demo = intake, demo

    def welcome(self, socket: Socket) -> bool:
        headers = Headers(list(socket.head.headers.items()))
        return self._demo and "authorization" not in headers and not stranger(headers, socket.client)

    def talk(self, socket: Socket) -> "Delivery":
        return Delivery(self.intake, socket)


class Delivery:
    """One connection: messages are taken and answered in order, several at a time."""

    def __init__(self, intake: Intake, socket: Socket) -> None:
        self._intake, self._socket, self._outbox = intake, socket, socket.outbox
        self._source = f"stream {socket.client}"
        self._flying = 0  # bytes
        self._landed = trio.Event()
        self._holding = False  # the next message waits

    async def run(self) -> None:
        """Take messages until the peer or the process goes."""
        sending, waiting = trio.open_memory_channel[tuple[Entered | Refusal, int]](FLIGHT)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._answer, waiting)
            nursery.start_soon(self._excuse)
            async with sending:
                while (message := await self._socket.receive()) is not None:
                    self._holding = True
                    self._flying += len(message)
                    await sending.send((await self._enter(message), len(message)))
                    await self._room()
                    self._holding = False
            nursery.cancel_scope.cancel()

    def close(self) -> None:
        """Nothing is left behind: what was taken is committed, answered or not."""

    async def _enter(self, message: str | bytes) -> Entered | Refusal:
        body, kind = (message.encode(), JSON) if isinstance(message, str) else (bytes(message), ARROW)
        try:
            return await self._intake.enter(body, kind, source=self._source)
        except Unavailable as error:
            return Refusal(str(error), max(1, error.retry_after))
        except CandledError as error:
            return Refusal(str(error))

    async def _room(self) -> None:
        while self._flying > FLYING:
            self._landed = trio.Event()
            await self._landed.wait()

    async def _excuse(self) -> None:
        """A peer that is not read is not heard, which is no fault of its own."""
        while True:
            await trio.sleep(PATIENCE)
            if self._holding:
                self._outbox.heard = trio.current_time()

    async def _answer(self, waiting: trio.MemoryReceiveChannel[tuple[Entered | Refusal, int]]) -> None:
        async with waiting:
            async for taken, size in waiting:
                answer = taken if isinstance(taken, Refusal) else await self._told(taken)
                self._outbox.put(text(answer if isinstance(answer, bytes) else _encode(answer)))
                self._outbox.flush()
                self._flying -= size
                self._landed.set()
                if isinstance(answer, Refusal) and answer.retry_after is not UNSET:
                    # What came after it may have been taken; whoever sends all that is unanswered again loses nothing.
                    self._socket.close(1013, "there is no room for events; send what is not answered again later")
                    return
                await self._outbox.room()

    async def _told(self, taken: Entered) -> bytes | Refusal:
        try:
            return await self._intake.answer(taken)
        except Unavailable as error:
            return Refusal(str(error), max(1, error.retry_after))
        except CandledError as error:
            return Refusal(str(error))
