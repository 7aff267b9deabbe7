"""The rules of `/ws`: what is said is answered, streams begin with a snapshot and go on without a gap."""

from collections.abc import Awaitable, Callable
from functools import cached_property, partial
from itertools import pairwise

import trio

from daemon.doctor.rules import Broken, Rules, Skipped
from daemon.doctor.talking import Message, Talk, connected

ANSWERS = ("error", "snapshot", "subscribed", "unsubscribed")
NOBODY = "NO~SUCH~SYMBOL"
FINE = ("open", "high", "low", "close")


async def error(talk: Talk, *codes: str) -> None:
    """Hear an error of one of these codes, and that the connection goes on."""
    heard = await talk.hear("error")
    expected = f"`code` {' or '.join(codes)}, and a `message`"
    talk.see(heard.get("code") in codes and isinstance(heard.get("message"), str), heard, expected)
    await talk.say({"action": "ping"})
    await talk.hear("pong")


class Socket:
    """One endpoint."""

    def __init__(self, url: str, symbol: str = "", key: str = "") -> None:
        self.url, self._wanted, self._key = url, symbol, key
        self.last = (url, "nothing")  # what was said last, and what was heard

    def talk(self, with_: Callable[[Talk], Awaitable[None]]) -> None:
        """Connect, and do that."""

        async def talked() -> None:
            async with connected(self.url, self._key, "type", ANSWERS) as talk:
                await with_(talk)

        trio.run(talked)

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
            await error(talk, *codes)

    socket.talk(asked)


@rules("2 resolution", "a minute is `1`, and `1m` is an error")
def _(socket: Socket) -> None:
    bars = socket.bars()

    async def asked(talk: Talk) -> None:
        await talk.say(bars(resolution="1m"))
        await error(talk, "unknown_resolution")

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
