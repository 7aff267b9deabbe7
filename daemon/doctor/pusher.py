"""The rules of the Pusher protocol, version 7, by what its clients do with each frame."""

import re
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit, urlunsplit

import msgspec
import trio

from daemon.doctor.rules import Rules, Skipped
from daemon.doctor.talking import Message, Talk, connected

OPENED, SUBSCRIBED, ERROR = "pusher:connection_established", "pusher_internal:subscription_succeeded", "pusher:error"
DENIED, PONG, MISS = "pusher:subscription_error", "pusher:pong", "pusher:cache_miss"
ANSWERS = (OPENED, SUBSCRIBED, ERROR, DENIED, PONG)
SOCKET_ID = re.compile(r"\d+\.\d+")
FIELDS = ("timestamp", "open", "high", "low", "close", "volume", "trades")
MOVES = 15.0  # seconds in which a market that is traded moves


class Pusher:
    """One app: `ws://HOST:PORT/app/KEY`."""

    def __init__(self, url: str, symbol: str = "") -> None:
        self._parts, self.symbol = urlsplit(url), symbol
        self.last = (url, "nothing")

    def url(self, *, protocol: str | None = "7", path: str = "") -> str:
        """The address of a connection."""
        query = "client=candled-doctor&version=1" + ("" if protocol is None else f"&protocol={protocol}")
        return urlunsplit(self._parts._replace(path=path or self._parts.path, query=query))

    def talk(self, with_: Callable[[Talk], Awaitable[None]], url: str = "") -> None:
        """Connect, and do that."""

        async def talked() -> None:
            async with connected(url or self.url(), "", "event", ANSWERS) as talk:
                await with_(talk)

        trio.run(talked)


rules: Rules[Pusher] = Rules("pusher")


def subscription(channel: str, **more: object) -> Message:
    return {"event": "pusher:subscribe", "data": {"channel": channel, **more}}


async def opened(talk: Talk) -> Message:
    """What the first frame says."""
    heard = await talk.next(OPENED)
    talk.see(heard["event"] == OPENED, heard, f"`{OPENED}` first")
    talk.see(isinstance(heard.get("data"), str), heard, "`data`, a text that holds JSON")
    talk.see("channel" not in heard, heard, "no member `channel`")
    told = msgspec.json.decode(heard["data"])
    return dict(told)


async def alive(talk: Talk) -> None:
    """See that the connection goes on."""
    await talk.say({"event": "pusher:ping", "data": ""})
    heard = await talk.hear(PONG)
    talk.see("channel" not in heard, heard, "no member `channel`")


@rules("1 opening", "the first frame has, as text, a socket id and an activity timeout")
def _(pusher: Pusher) -> None:
    async def asked(talk: Talk) -> None:
        told = await opened(talk)
        good = isinstance(told.get("socket_id"), str) and SOCKET_ID.fullmatch(told["socket_id"])
        talk.see(bool(good), told, "`socket_id`, digits on both sides of a point")
        seconds = told.get("activity_timeout")
        talk.see(type(seconds) is int and seconds > 0, told, "`activity_timeout`, seconds from 1 on")

    pusher.talk(asked)


@rules("2 refusal", "an unknown key and a wrong version are refused by an error, and a close of the same code")
def _(pusher: Pusher) -> None:
    for code, url in (
        (4001, pusher.url(path="/app/no-such-key-of-the-doctor")),
        (4007, pusher.url(protocol="99")),
        (4008, pusher.url(protocol=None)),
    ):

        async def asked(talk: Talk, code: int = code) -> None:
            heard = await talk.next(ERROR)
            data = heard.get("data")
            good = heard["event"] == ERROR and isinstance(data, dict) and data.get("code") == code
            talk.see(good, heard, f"`{ERROR}` with `data`, an object with `code` {code}")
            ended = await talk.closed()
            talk.see(ended == code, f"close {ended}", f"a close with code {code}")

        pusher.talk(asked, url)


@rules("3 channels", "a subscription is answered before anything of the channel, with `data` as text")
def _(pusher: Pusher) -> None:
    async def asked(talk: Talk) -> None:
        await opened(talk)
        await talk.say(subscription("doctor-room", auth=""))
        heard = await talk.hear(SUBSCRIBED)
        good = heard.get("channel") == "doctor-room" and isinstance(heard.get("data"), str)
        talk.see(good, heard, "`channel`, and `data` as text")

    pusher.talk(asked)


@rules("4 ping", "`pusher:ping` is answered, also where it comes first and without data")
def _(pusher: Pusher) -> None:
    async def asked(talk: Talk) -> None:
        await talk.say({"event": "pusher:ping"})
        await opened(talk)
        await talk.hear(PONG)
        await alive(talk)

    pusher.talk(asked)


@rules("5 versions", "versions 5, 6 and 7 are served")
def _(pusher: Pusher) -> None:
    for protocol in ("5", "6", "7"):

        async def asked(talk: Talk) -> None:
            await opened(talk)

        pusher.talk(asked, pusher.url(protocol=protocol))


@rules("6 signature", "who signs wrongly does not join, and the connection goes on")
def _(pusher: Pusher) -> None:
    async def asked(talk: Talk) -> None:
        await opened(talk)
        for channel, more in (("private-doctor", {}), ("presence-doctor", {"channel_data": '{"user_id":"1"}'})):
            await talk.say(subscription(channel, auth=f"{pusher.url()}:{'0' * 64}", **more))
            heard = await talk.hear(DENIED, ERROR, SUBSCRIBED)
            talk.see(heard["event"] == DENIED, heard, f"`{DENIED}`")
            good = heard.get("channel") == channel and isinstance(heard.get("data"), str)
            talk.see(good, heard, "`channel`, and `data` as text")
        await alive(talk)

    pusher.talk(asked)


@rules("8 client events", "a client's event on a public channel is refused by 4301 as an error, never as a close")
def _(pusher: Pusher) -> None:
    async def asked(talk: Talk) -> None:
        await opened(talk)
        await talk.say(subscription("doctor-room", auth=""))
        await talk.hear(SUBSCRIBED)
        await talk.say({"event": "client-doctor", "channel": "doctor-room", "data": {}})
        heard = await talk.hear(ERROR)
        data = heard.get("data")
        talk.see(isinstance(data, dict) and data.get("code") == 4301, heard, "`data`, an object with `code` 4301")
        await alive(talk)

    pusher.talk(asked)


@rules("9 cache", "who joins a cache channel without an event is told that there is none")
def _(pusher: Pusher) -> None:
    async def asked(talk: Talk) -> None:
        await opened(talk)
        await talk.say(subscription("cache-doctor-room", auth=""))
        await talk.hear(SUBSCRIBED)
        heard = await talk.hear(MISS)
        talk.see(heard.get("channel") == "cache-doctor-room", heard, "`channel` cache-doctor-room")

    pusher.talk(asked)


@rules("13 prices", "`price-update` has eight fields as text, and a timestamp in whole seconds")
def _(pusher: Pusher) -> None:
    if not pusher.symbol:
        raise Skipped("it needs a market; name one with --symbol")

    async def asked(talk: Talk) -> None:
        await opened(talk)
        await talk.say(subscription(f"cache-market-{_channel(pusher.symbol)}", auth=""))
        await talk.hear(SUBSCRIBED)
        with trio.move_on_after(MOVES):
            heard = await talk.hear("price-update", MISS)
            while heard["event"] == MISS:
                heard = await talk.hear("price-update")
            talk.see(isinstance(heard.get("data"), str), heard, "`data` as text")
            told = msgspec.json.decode(heard["data"])
            wrong = [name for name in FIELDS if type(told.get(name)) not in (int, float)]
            talk.see(not wrong and type(told["timestamp"]) is int, told, f"numbers in {', '.join(wrong or FIELDS)}")
            talk.see(told.get("symbol") == pusher.symbol, told, f"`symbol` {pusher.symbol}")

    pusher.talk(asked)


def _channel(symbol: str) -> str:
    """A symbol as the name of a channel has it."""
    return re.sub(r"[^A-Za-z0-9_\-@,.;]", lambda found: "".join(f"={one:02X}" for one in found[0].encode()), symbol)


@rules("15 nonsense", "frames that say nothing known do no harm")
def _(pusher: Pusher) -> None:
    async def asked(talk: Talk) -> None:
        await opened(talk)
        for frame in ("nonsense", "[1]", '{"data":1}', '{"event":7}', '{"event":"pusher:dance","data":{}}'):
            await talk.say(frame)
        await talk.say({"event": "pusher:ping", "data": {}})
        heard = await talk.hear(PONG, ERROR)
        while heard["event"] == ERROR:
            heard = await talk.hear(PONG, ERROR)

    pusher.talk(asked)
