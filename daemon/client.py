"""A client of `/ws` for Python: one stream of bars, kept right over any number of connections."""

import random
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import msgspec
import trio
from trio_websocket import ConnectionClosed, HandshakeError, WebSocketConnection, wrap_client_stream

Message = dict[str, Any]

FIRST, LONGEST = (
    0.5,
    15.0,
)  # seconds until another attempt: doubling, random so that not all return together
SILENCE = 40.0  # seconds without a word: heartbeats come every 15
OPENING = 10.0  # seconds that a connection may take


class Gap(Exception):
    """The stream said that something is missing: time to subscribe again with `resume`."""


class Chart:
    """The bars of one stream as a client holds them, over any number of connections."""

    def __init__(self, symbol: str = "GOLD", resolution: str = "1") -> None:
        self.symbol, self.resolution = symbol, resolution
        self.epoch: str | None = None
        self.seq = -1
        self.bars: dict[int, Message] = {}  # by opening time, seconds
        self.ops: list[str] = []
        self.snapshots: list[str | None] = []  # the reasons
        self.recovered: list[bool] = []

    @property
    def resume(self) -> Message | None:
        """Where to go on from; None: at the beginning."""
        return None if self.epoch is None else {"epoch": self.epoch, "seq": self.seq}

    @property
    def newest(self) -> int | None:
        """The time of the newest bar."""
        return max(self.bars, default=None)

    def take(self, message: Message) -> None:
        """Apply one message of the stream; raises Gap when it does not continue what is here."""
        match message["type"]:
            case "subscribed":
                self.recovered.append(message["recovered"])
            case "snapshot":
                self.epoch, self.seq = message["epoch"], message["seq"]
                self.bars = {bar["time"]: bar for bar in message["data"]}
                self.snapshots.append(message.get("reason"))
            case "bar":
                self._apply(message)
            case "heartbeat":
                if message["epoch"] != self.epoch or message["seq"] > self.seq:
                    raise Gap(message)

    def _apply(self, message: Message) -> None:
        if message["epoch"] != self.epoch or message["prev_seq"] > self.seq:
            raise Gap(message)
        self.ops.append(message["op"])
        time = message["data"]["time"]
        if message["op"] == "delete":
            self.bars.pop(time, None)
        else:
            self.bars[time] = message["data"]
        self.seq = max(self.seq, message["seq"])


class Refused(Exception):
    """What was asked for is not to be had, and asking again would not help."""


PASSING = ("rate_limited", "unavailable", "internal", "too_many_subscriptions")


class Follower:
    """One stream of bars over lost connections; `url` is that of `/ws`, such as `ws://localhost:8000/ws`."""

    def __init__(self, url: str, symbol: str, resolution: str, *, key: str | None = None) -> None:
        self.chart = Chart(symbol, resolution)
        self._url = url
        self._headers = [] if key is None else [(b"Authorization", f"Bearer {key}".encode())]
        self._failures = 0

    async def run(self, changed: Callable[[Chart], Awaitable[None]]) -> None:
        """Have `changed` called after each message that changed the chart, until cancelled.

        Raises Refused where there is no such stream."""
        while True:
            try:
                await self._connected(changed)
            except* (ConnectionClosed, HandshakeError, trio.TooSlowError, OSError, Gap):
                pass
            self._failures += 1
            longest = min(LONGEST, FIRST * 2 ** min(self._failures - 1, 10))
            await trio.sleep(random.uniform(longest / 2, longest))

    async def _connected(self, changed: Callable[[Chart], Awaitable[None]]) -> None:
        address = urlsplit(self._url)
        host, secure = address.hostname or "", address.scheme == "wss"
        port, resource = address.port or (443 if secure else 80), address.path or "/"
        stream: trio.abc.Stream
        with trio.fail_after(OPENING):
            if secure:
                stream = await trio.open_ssl_over_tcp_stream(host, port, https_compatible=True)
            else:
                stream = await trio.open_tcp_stream(host, port)
        try:
            async with trio.open_nursery() as nursery:
                with trio.fail_after(OPENING):
                    connection = await wrap_client_stream(
                        nursery, stream, address.netloc, resource, extra_headers=self._headers
                    )
                await self._read(connection, changed)
                nursery.cancel_scope.cancel()
        finally:
            await trio.aclose_forcefully(stream)

    async def _read(self, connection: WebSocketConnection, changed: Callable[[Chart], Awaitable[None]]) -> None:
        chart = self.chart
        asked: Message = {"action": "subscribe", "channel": "bars", "symbol": chart.symbol}
        asked |= {"resolution": chart.resolution, **({"resume": chart.resume} if chart.resume else {})}
        await connection.send_message(msgspec.json.encode(asked).decode())
        while True:
            with trio.fail_after(SILENCE):
                message: Message = msgspec.json.decode(await connection.get_message())
            if message["type"] == "error":
                if message["code"] not in PASSING:
                    raise Refused(message["message"])
                return
            chart.take(message)
            self._failures = 0
            if message["type"] in ("snapshot", "bar"):
                await changed(chart)
