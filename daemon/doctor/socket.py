"""The rules of `/ws`: what is said is answered, streams begin with a snapshot and go on without a gap."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cached_property, partial
from itertools import pairwise
from typing import Any

import msgspec
import trio
from trio_websocket import ConnectionClosed, HandshakeError, WebSocketConnection, open_websocket_url

from daemon.doctor.rules import Broken, Rules, Skipped

PATIENCE = 10.0  # seconds for an answer
NOBODY = "NO~SUCH~SYMBOL"
Message = dict[str, Any]
FINE = ("open", "high", "low", "close")


class Talk:
    """One connection, and what was said last on it."""

    def __init__(self, subject: "Socket", socket: WebSocketConnection) -> None:
        self._subject, self._socket = subject, socket

    async def say(self, message: str | bytes | Message) -> None:
        """Send a message as it is, or as JSON."""
        sent = msgspec.json.encode(message).decode() if isinstance(message, dict) else message
        self._subject.last = f"{self._subject.url}: {sent if isinstance(sent, str) else repr(sent)}", "nothing"
        await self._socket.send_message(sent)

    async def hear(self, *types: str) -> Message:
        """The next message of one of these types; what comes unasked in between is passed over."""
        with trio.move_on_after(PATIENCE):
            while True:
                try:
                    text = await self._socket.get_message()
                except ConnectionClosed as closed:
                    raise self.broken(
                        f"the connection was closed: {closed.reason}", f"a message of type {types[0]}"
                    ) from None
                self._subject.last = self._subject.last[0], str(text)
                try:
                    heard = msgspec.json.decode(text)
                except msgspec.DecodeError:
                    raise self.broken(str(text), "JSON") from None
                if not isinstance(heard, dict) or not isinstance(heard.get("type"), str):
                    raise self.broken(str(text), "an object with a text `type`")
                if heard["type"] in types:
                    return heard
                if heard["type"] in ("error", "snapshot", "subscribed", "unsubscribed"):
                    raise self.broken(str(text), f"a message of type {' or '.join(types)}")
        raise self.broken(f"nothing in {PATIENCE:g} s", f"a message of type {types[0]}")

    def broken(self, answered: object, expected: str) -> Broken:
        """What is wrong with what was heard."""
        text = answered if isinstance(answered, str) else msgspec.json.encode(answered).decode()
        return Broken(self._subject.last[0], text, expected)

    def see(self, good: bool, heard: Message, expected: str) -> None:
        """Raise Broken unless it is good."""
        if not good:
            raise self.broken(heard, expected)

    async def error(self, *codes: str) -> None:
        """Hear an error of one of these codes, and that the connection goes on."""
        heard = await self.hear("error")
        expected = f"`code` {' or '.join(codes)}, and a `message`"
        self.see(heard.get("code") in codes and isinstance(heard.get("message"), str), heard, expected)
        await self.say({"action": "ping"})
        await self.hear("pong")


class Socket:
    """One endpoint."""

    def __init__(self, url: str, symbol: str = "", key: str = "") -> None:
        self.url, self._wanted, self._key = url, symbol, key
        self.last = (url, "nothing")  # what was said last, and what was heard

    def talk(self, with_: Callable[[Talk], Awaitable[None]]) -> None:
        """Connect, and do that."""

        async def connected() -> None:
            async with self._open() as talk:
                await with_(talk)

        trio.run(connected)

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[Talk]:
        headers = [(b"Authorization", f"Bearer {self._key}".encode())] if self._key else []
        found: BaseException | None = None
        try:
            async with open_websocket_url(self.url, extra_headers=headers) as socket:
                try:
                    yield Talk(self, socket)
                except (Broken, Skipped) as error:  # a nursery would wrap it
                    found = error
        except (HandshakeError, OSError) as error:
            raise Broken(self.url, f"no WebSocket: {error or type(error).__name__}", "a WebSocket") from None
        if found is not None:
            raise found

    @cached_property
    def symbol(self) -> str:
        """A market that has bars."""
        if self._wanted:
            return self._wanted
        found: list[str] = []

        async def look(talk: Talk) -> None:
            await talk.say({"action": "subscribe", "channel": "prices", "symbols": "*"})
            try:
                await talk.hear("subscribed")
                heard = await talk.hear("prices")
            except Broken:
                raise Skipped("no list of prices names a market; name one with --symbol") from None
            found.extend(str(one["symbol"]) for one in heard.get("data", ()) if one.get("mark_price") is not None)

        self.talk(look)
        if not found:
            raise Skipped("no market has a price; name one with --symbol")
        return found[0]

    def bars(self) -> Callable[..., Message]:
        """What makes subscriptions to bars of a minute, of a market that is there."""
        return partial(dict, action="subscribe", channel="bars", symbol=self.symbol, resolution="1")


rules: Rules[Socket] = Rules("ws")


@rules("1 ping", "`ping` is answered by `pong`, with the `id` that it carried")
def _(socket: Socket) -> None:
    async def asked(talk: Talk) -> None:
        await talk.say({"action": "ping", "id": "d1", "unknown": [1]})
        heard = await talk.hear("pong")
        talk.see(heard.get("id") == "d1", heard, '`pong` with `"id":"d1"`')

    socket.talk(asked)


@rules("2 errors", "each bad message is answered by `error` with code and message, and the connection goes on")
def _(socket: Socket) -> None:
    async def asked(talk: Talk) -> None:
        for message, codes in (
            ("not JSON", ("invalid_json",)),
            ("[1]", ("invalid_message",)),
            (b"\0", ("invalid_message",)),
            ({"action": "dance"}, ("unknown_action",)),
            ({"action": "subscribe", "channel": "nonsense"}, ("unknown_channel",)),
            ({"action": "subscribe", "channel": "card", "card_id": -1}, ("invalid_card_id", "unknown_channel")),
            ({"action": "subscribe", "channel": "bars", "symbol": NOBODY, "resolution": "1"}, ("unknown_symbol",)),
        ):
            await talk.say(message)
            await talk.error(*codes)

    socket.talk(asked)


@rules("2 resolution", "a minute is `1`, and `1m` is an error")
def _(socket: Socket) -> None:
    bars = socket.bars()

    async def asked(talk: Talk) -> None:
        await talk.say(bars(resolution="1m"))
        await talk.error("unknown_resolution")

    socket.talk(asked)


@rules("3 token", "alerts need a token that is good, and no answer repeats one")
def _(socket: Socket) -> None:
    async def asked(talk: Talk) -> None:
        await talk.say({"action": "subscribe", "channel": "alerts", "token": "eyJhbGciOiJub25lIn0.e30."})
        heard = await talk.hear("error")
        if heard.get("code") == "unknown_channel":
            raise Skipped("there is no channel `alerts`")
        talk.see(heard.get("code") == "unauthorized", heard, "`code` unauthorized")
        talk.see("eyJ" not in str(heard), heard, "an answer without the token")

    socket.talk(asked)


@rules("4 order", "a subscription is acknowledged before anything of it comes, and nothing comes after its end")
def _(socket: Socket) -> None:
    bars = socket.bars()

    async def asked(talk: Talk) -> None:
        await talk.say(bars(id=7))
        heard = await talk.hear("subscribed", "bar")
        good = heard["type"] == "subscribed" and heard.get("channel") == "bars" and heard.get("id") == 7
        talk.see(good, heard, "`subscribed` first, with `channel` and the `id`")
        await talk.hear("snapshot")
        await talk.say(bars(action="unsubscribe"))
        await talk.hear("unsubscribed")
        await talk.say({"action": "ping"})
        heard = await talk.hear("pong", "bar")
        talk.see(heard["type"] == "pong", heard, "no bar after `unsubscribed`")

    socket.talk(asked)


@rules("7 snapshot", "a snapshot has epoch and seq, and whole bars that ascend; it is where live frames go on")
def _(socket: Socket) -> None:
    bars = socket.bars()

    async def asked(talk: Talk) -> None:
        await talk.say(bars(snapshot_bars=100))
        await talk.hear("subscribed")
        heard = await talk.hear("snapshot")
        good = (
            isinstance(heard.get("epoch"), str)
            and type(heard.get("seq")) is int
            and isinstance(heard.get("data"), list)
        )
        talk.see(good, heard, "`epoch`, `seq` and `data`")
        for bar in heard["data"]:
            whole = type(bar.get("time")) is int and all(type(bar.get(name)) in (int, float) for name in FINE)
            talk.see(whole, bar, "a bar with `time` in seconds and open, high, low and close")
            right = bar["low"] <= min(bar["open"], bar["close"]) and max(bar["open"], bar["close"]) <= bar["high"]
            talk.see(right, bar, "low ≤ open, close ≤ high")
        times = [bar["time"] for bar in heard["data"]]
        talk.see(all(a < b for a, b in pairwise(times)), heard, "times that ascend, each once")
        seq = heard["seq"]
        with trio.move_on_after(3):  # more there may not be
            while True:
                frame = await talk.hear("bar", "heartbeat")
                if frame["type"] == "bar":
                    good = frame.get("epoch") == heard["epoch"] and frame["prev_seq"] <= seq <= frame["seq"]
                    talk.see(good, frame, f"`prev_seq` up to {seq}, where the last frame ended, and the same epoch")
                    seq = frame["seq"]

    socket.talk(asked)


@rules("8 resume", "who resumes where the snapshot stood gets no snapshot; a position that cannot be gets one")
def _(socket: Socket) -> None:
    bars = socket.bars()

    async def asked(talk: Talk) -> None:
        await talk.say(bars(snapshot_bars=10))
        await talk.hear("subscribed")
        stood = await talk.hear("snapshot")
        await talk.say(bars(action="unsubscribe"))
        await talk.hear("unsubscribed")
        await talk.say(bars(resume={"epoch": stood["epoch"], "seq": stood["seq"]}))
        heard = await talk.hear("subscribed")
        talk.see(heard.get("recovered") is True, heard, "`recovered: true`")
        await talk.say(bars(action="unsubscribe"))
        await talk.hear("unsubscribed")
        for wrong in ({"epoch": "elsewhere", "seq": 1}, {"epoch": stood["epoch"], "seq": 2**52}):
            await talk.say(bars(resume=wrong))
            heard = await talk.hear("subscribed")
            talk.see(heard.get("recovered") is False, heard, "`recovered: false`: nobody can have been there")
            await talk.hear("snapshot")

    socket.talk(asked)
