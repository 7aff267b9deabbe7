"""Talks over a WebSocket, and shows what was said and heard."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio
from trio_websocket import ConnectionClosed, HandshakeError, WebSocketConnection, open_websocket_url

from daemon.doctor.rules import ODD, Broken, Skipped

PATIENCE = 10.0  # seconds for an answer
Message = dict[str, Any]


class Talk:
    """One connection, and what was said and heard last on it."""

    def __init__(self, url: str, socket: WebSocketConnection, member: str, answers: Sequence[str]) -> None:
        """`member` names the kind of a message; `answers` are kinds that never come unasked."""
        self._url, self._socket, self._member, self._answers = url, socket, member, answers
        self.last = (url, "nothing")

    async def say(self, message: str | bytes | Message) -> None:
        """Send a message as it is, or as JSON."""
        sent = msgspec.json.encode(message).decode() if isinstance(message, dict) else message
        self.last = f"{self._url}: {sent if isinstance(sent, str) else repr(sent)}", "nothing"
        await self._socket.send_message(sent)

    async def hear(self, *kinds: str) -> Message:
        """The next message of one of these kinds; what comes unasked in between is passed over."""
        with trio.move_on_after(PATIENCE):
            while True:
                heard = await self.next(kinds[0])
                if heard[self._member] in kinds:
                    return heard
                if heard[self._member] in self._answers:
                    raise self.broken(heard, f"a message of type {' or '.join(kinds)}")
        raise self.broken(f"nothing in {PATIENCE:g} s", f"a message of type {kinds[0]}")

    async def next(self, wanted: str) -> Message:
        """The next message, whatever it is."""
        try:
            text = await self._socket.get_message()
        except ConnectionClosed as closed:
            raise self.broken(f"the connection was closed: {closed.reason}", f"a message of type {wanted}") from None
        self.last = self.last[0], str(text)
        try:
            heard = msgspec.json.decode(text)
        except msgspec.DecodeError:
            raise self.broken(str(text), "JSON") from None
        if not isinstance(heard, dict) or not isinstance(heard.get(self._member), str):
            raise self.broken(str(text), f"an object with a text `{self._member}`")
        return heard

    async def closed(self) -> int | None:
        """Hear that the connection ends; the code of that."""
        with trio.move_on_after(PATIENCE):
            try:
                while True:
                    await self._socket.get_message()
            except ConnectionClosed as closed:
                return None if closed.reason is None else int(closed.reason.code)
        raise self.broken("it stays open", "the end of the connection")

    def broken(self, answered: object, expected: str) -> Broken:
        """What is wrong with what was heard."""
        text = answered if isinstance(answered, str) else msgspec.json.encode(answered).decode()
        return Broken(self.last[0], text, expected)

    def see(self, good: bool, heard: object, expected: str) -> None:
        """Raise Broken unless it is good."""
        if not good:
            raise self.broken(heard, expected)


@asynccontextmanager
async def connected(url: str, key: str, member: str, answers: Sequence[str]) -> AsyncIterator[Talk]:
    """A connection to this address."""
    headers = [(b"Authorization", f"Bearer {key}".encode())] if key else []
    found: BaseException | None = None
    try:
        async with open_websocket_url(url, extra_headers=headers) as socket:
            talk = Talk(url, socket, member, answers)
            try:
                yield talk
            except (Broken, Skipped) as error:  # a nursery would wrap it
                found = error
            except ODD:
                found = Broken(*talk.last, "an answer of the documented shape")
    except (HandshakeError, OSError) as error:
        raise Broken(url, f"no WebSocket: {error or type(error).__name__}", "a WebSocket") from None
    if found is not None:
        raise found
