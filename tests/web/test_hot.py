"""The second door: whatever is asked, it answers what the third one does, byte for byte."""

import logging
import re
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import h11
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from actors.hub import Hub
from tests.web.conftest import NOW, Web, decoded, serving
from tests.web.test_listener import certificate, contexts  # noqa: F401 # a fixture
from web import listener
from web.context import Rates
from web.hot import ELSEWHERE, HEAD, Hot, headers_of
from web.listener import Before, listen

DAY = 86_400
QUIET = NOW - DAY
HISTORY = "/api/tradingview/history?symbol={}&resolution={}&from={}&to={}"
CLOSED = HISTORY.format("GOLD", "1", QUIET, QUIET + 6_000)
OPEN = HISTORY.format("GOLD", "1", QUIET, NOW + 60)
OHLCV = f"/api/lightweight/ohlcv?symbol=GOLD&timeframe=1m&from={QUIET}&to={QUIET + 6_000}"
ROUTE = "/api/tradingview/history"
LAST = b"GET /api/tradingview/config HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
OURS = re.compile(rb"(?<=\r\n)(date|x-request-id): [^\r]*")


class Doors(NamedTuple):
    """An app that is served twice."""

    hot: int  # ports
    plain: int
    stop: trio.Event
    ended: trio.Event


@asynccontextmanager
async def doors(
    web: Web, *, keep_alive_seconds: float = 20.0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Doors]:
    """With the second door, and without."""
    stop, ended, hub = trio.Event(), trio.Event(), Hub()

    async def served(before: Before | None, task_status: trio.TaskStatus[tuple[str, int]]) -> None:
        until = stop.wait if before else trio.sleep_forever
        await listen(
            web.app,
            {},
            host="127.0.0.1",
            port=0,
            hub=hub,
            until=until,
            tls=tls,
            before=before,
            task_status=task_status,
        )
        ended.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(hub.run)
        hot = (await nursery.start(served, Hot(web.app, keep_alive_seconds=keep_alive_seconds).serve))[1]
        plain = (await nursery.start(served, None))[1]
        yield Doors(hot, plain, stop, ended)
        nursery.cancel_scope.cancel()


async def said(port: int, *data: bytes) -> bytes:
    """Everything that a connection is answered, until its end."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        for piece in data:
            await stream.send_all(piece)
        return OURS.sub(rb"\1: -", await rest(stream))


async def rest(stream: trio.abc.ReceiveStream) -> bytes:
    found = b""
    with trio.fail_after(10):
        while more := await stream.receive_some(1 << 20):
            found += more
    return found


class Kept:
    """A connection that is kept alive."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream, self._parser = stream, h11.Connection(h11.CLIENT)

    async def ask(self, path: str, **headers: str) -> tuple[h11.Response, bytes]:
        if self._parser.our_state is h11.DONE:
            self._parser.start_next_cycle()
        lines = [("Host", "x"), *((name.replace("_", "-"), value) for name, value in headers.items())]
        asked = h11.Request(method="GET", target=path, headers=lines), h11.EndOfMessage()
        await self._stream.send_all(b"".join(self._parser.send(part) or b"" for part in asked))
        response, body = None, b""
        with trio.fail_after(10):
            while True:
                event = self._parser.next_event()
                if event is h11.NEED_DATA:
                    self._parser.receive_data(await self._stream.receive_some(1 << 20))
                elif isinstance(event, h11.Response):
                    response = event
                elif isinstance(event, h11.Data):
                    body += event.data
                else:
                    assert response is not None
                    return response, body


@asynccontextmanager
async def kept(port: int) -> AsyncIterator[Kept]:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        yield Kept(stream)


def get(path: str, *headers: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode("latin-1")


@pytest.fixture
async def bars(web: Web) -> Web:
    """A hundred bars of a day ago, and one that is open."""
    await web.trades(*((QUIET + 60 * n, 10.0 + n) for n in range(100)), (NOW, 5.0))
    await web.market("SILVER")
    return web


def requests(tag: str, key: str) -> Iterator[bytes]:
    for path in (
        CLOSED,
        OPEN,
        OHLCV,
        CLOSED + "&countback=3",
        HISTORY.format("gold", "60", QUIET, NOW),
        HISTORY.format("SPOT:GOLD", "1D", 0, NOW),
        HISTORY.format("SILVER", "1", 0, NOW),
        HISTORY.format("GOLD", "1", 0, 60),
        HISTORY.format("TIN", "1", 0, 60),
        HISTORY.format("GOLD", "1m", 0, 60),
        HISTORY.format("GOLD", "1", "x", 60),
        HISTORY.format("%47OLD", "1", QUIET, QUIET + 6_000),
        CLOSED + "&symbol=SILVER",
        CLOSED + "#?&",
        "/api/tradingview/history",
        "/api/tradingview/history?",
        "/api/tradingview//history?symbol=GOLD",
        "/api/tradingview/%68istory?symbol=GOLD",
        "http://x" + CLOSED,
        OHLCV + "&fields=all",
        OHLCV + "&limit=7",
        OHLCV + "&fill=flat&time_format=unix",
        "/api/lightweight/ohlcv?symbol=GOLD&timeframe=1x",
        "/healthz",
        "/healthz?x",
        "/readyz",
        "/nowhere",
    ):
        yield get(path)
    for path in (CLOSED, OPEN, OHLCV):
        for method in ("HEAD", "OPTIONS", "DELETE", "get"):
            yield get(path, method=method)
        for encoding in (
            "gzip",
            "zstd",
            "gzip, zstd;q=0.5",
            "br",
            "identity",
            "*",
            "*;q=0",
            "gzip;q=0",
            "",
            "x" * 1001,
        ):
            yield get(path, f"Accept-Encoding: {encoding}")
        for known in (tag, f'"x", {tag}', "*", '"x"', "", "junk"):
            yield get(path, f"If-None-Match: {known}")
        for origin in ("https://a.example", "https://b.example", "null"):
            yield get(path, f"Origin: {origin}", "Accept-Encoding: gzip")
            yield get(path, f"Origin: {origin}", "Access-Control-Request-Method: GET", method="OPTIONS")
    for headers in (
        [f"Authorization: Bearer {key}"],
        [f"Authorization: bearer  {key} "],
        ["Authorization: Bearer cdl_wrong"],
        ["Authorization: Basic eDp5"],
        [f"Authorization: Bearer {key}", "Authorization: Bearer cdl_wrong"],
        ["Accept-Encoding: gzip", "Accept-Encoding: zstd"],
        [f"If-None-Match: {tag}", 'If-None-Match: "x"'],
        ["X-Forwarded-For: 203.0.113.9"],
        ["Remote-Addr: 203.0.113.9"],
        ["Connection: keep-alive"],
        ["Connection: Keep-Alive, x"],
        ["Connection: close"],
        ["Content-Length: 0"],
        ["Content-Length: 5", "", "abcde"],
        ["Transfer-Encoding: chunked", "", "0"],
        ["Expect: 100-continue"],
        ["Upgrade: x"],
        ["Host: y"],
        ["X-A:\t b \t"],
        ["X-A:"],
        ["X-A: \xe4"],
        ["X-A: \x01"],
        ["X A: b"],
        ["X-A : b"],
        [": b"],
        ["X-A: b", " folded"],
        ["no colon"],
    ):
        yield get(CLOSED, *headers)
    line = f"GET {CLOSED} HTTP/1.1".encode()
    yield line + b"\r\n\r\n"  # no Host
    yield line.replace(b"1.1", b"1.0") + b"\r\nHost: x\r\n\r\n"
    yield line.replace(b"1.1", b"2.0") + b"\r\nHost: x\r\n\r\n"
    yield line.replace(b" ", b"  ") + b"\r\nHost: x\r\n\r\n"
    yield line + b"\nHost: x\n\n"
    yield b"\r\n" + get(CLOSED)
    yield get(CLOSED) * 3 + get("/readyz") + get(OPEN)
    yield get(CLOSED) + b"POST /api/ingest/events HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n[]" + get(OPEN)
    yield get(CLOSED) + b"junk\r\n\r\n"
    yield get(CLOSED, "X-Long: " + 20_000 * "x")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"cors_origins": ("https://a.example",)},
        {"auth": "token"},
        {"trusted_proxies": ("127.0.0.1",)},
        {"kept_answers": 0},
    ],
    ids=lambda settings: "-".join(settings) or "default",
)
async def test_both_doors_answer_the_same(tmp_path: Path, settings: dict[str, Any]) -> None:
    async with serving(tmp_path / "data", **settings) as web:
        await web.market("GOLD")
        await web.market("SILVER")
        await web.trades(*((QUIET + 60 * n, 10.0 + n) for n in range(100)), (NOW, 5.0))
        key = await web.key("read")
        tag = (await web.get(CLOSED, headers=key)).headers["ETag"]
        async with doors(web) as at:
            for asked in requests(tag, key["Authorization"].split()[1]):
                if settings and not re.search(rb"Origin|Authoriz|Forward|gzip", asked):
                    continue
                expected = await said(at.plain, asked + LAST)
                for _ in range(2):  # the first may have put it there
                    assert await said(at.hot, asked + LAST) == expected, asked
                    assert expected.startswith(b"HTTP/1.1 ")
        given = web.app.kept.statistics().given
        assert given == 0 if "kept_answers" in settings else given > (0 if "auth" in settings else 20)


async def test_what_is_kept_is_given_without_the_app(bars: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    web = bars
    manners = [{}, {"Accept_Encoding": "gzip"}, {"Accept_Encoding": "zstd"}, {"If_None_Match": "*"}]
    async with doors(web) as at, kept(at.hot) as client:
        first = [await client.ask(path, **manner) for path in (CLOSED, OPEN, OHLCV) for manner in manners]

        async def refused(*_: Any) -> None:
            raise AssertionError("the app was asked")

        monkeypatch.setattr(web.app, "asgi_app", refused)
        again = [await client.ask(path, **manner) for path in (CLOSED, OPEN, OHLCV) for manner in manners]
    ours = (b"date", b"x-request-id")
    for (before, body), (after, same) in zip(first, again, strict=True):
        assert (before.status_code, body) == (after.status_code, same)
        assert [one for one in before.headers if one[0] not in ours] == [
            one for one in after.headers if one[0] not in ours
        ]
    ids = {dict(answer.headers)[b"x-request-id"] for answer, _ in [*first, *again]}
    assert len(ids) == 2 * len(first)


async def test_a_request_sees_what_was_acknowledged_before_it_began(bars: Web) -> None:
    web = bars
    async with doors(web) as at, kept(at.hot) as client:
        for n in range(20):
            t = (NOW, QUIET + 3_000)[n % 2]
            cursor = await web.trades((t + n / 100, 100.0 + n, 0.5))
            for path, mine in ((OPEN, True), (CLOSED, n % 2 == 1)):
                for _ in range(2):
                    answer, body = await client.ask(path)
                    found = decoded(body)
                    at_last = int(dict(answer.headers)[b"x-cursor"].split(b".")[1])
                    assert at_last >= int(cursor.split(".")[1])
                    assert not mine or found["c"][found["t"].index(t - t % 60)] == 100.0 + n
    assert web.app.kept.statistics().given > 30


async def test_a_bar_closes_by_the_clock(bars: Web) -> None:
    web = bars
    async with doors(web) as at, kept(at.hot) as client:
        for _ in range(2):
            answer, before = await client.ask(OPEN)
            assert b"etag" not in dict(answer.headers)
        web.clock.now = NOW + 61.9
        assert b"etag" not in dict((await client.ask(OPEN))[0].headers)
        web.clock.now = NOW + 62
        for _ in range(2):
            answer, after = await client.ask(OPEN)
            assert (dict(answer.headers)[b"cache-control"], after) == (b"no-cache", before)
            assert dict(answer.headers)[b"etag"]


async def test_a_market_that_takes_over_a_name_is_answered_for(bars: Web) -> None:
    web = bars
    async with doors(web) as at, kept(at.hot) as client:
        path = HISTORY.format("SPOT:GOLD", "1", QUIET, QUIET + 6_000)
        assert (await client.ask(path))[1] == (await client.ask(path))[1]
        answer = next(iter(web.app.kept._answers.values()))
        answer.slot += 1  # as if another market had been called so when it was kept
        stale = web.app.kept.statistics().stale
        assert (await client.ask(path))[0].status_code == 200
        assert web.app.kept.statistics().stale == stale + 1


async def test_limits_hold_for_what_is_kept(tmp_path: Path) -> None:
    found = []
    for door in (0, 1):
        async with serving(tmp_path / str(door), rates=Rates(history=5, ohlcv=3)) as web:
            await web.market("GOLD")
            await web.trades(*((QUIET + 60 * n, 10.0 + n) for n in range(100)), (NOW, 5.0))
            async with doors(web) as at, kept((at.hot, at.plain)[door]) as client:
                key = await web.key("read")
                told = [
                    ((answer := await client.ask(path, **more))[0].status_code, answer[1])
                    for path in (CLOSED, OHLCV)
                    for more in ({}, key)
                    for _ in range(7)
                ]
            statistics = web.app.limiter.statistics()
            found.append((told, statistics.counted, statistics.refused, statistics.delayed))
    assert found[0] == found[1]
    assert [status for status, _ in found[0][0]].count(429) == 2 * (7 - 5) + 2 * (7 - 3)


async def test_history_waits_for_its_turn(tmp_path: Path) -> None:
    async with serving(tmp_path, rates=Rates(history=20, window_ms=2_000)) as web:
        await web.market("GOLD")
        await web.trades((QUIET, 10.0))
        async with doors(web) as at, kept(at.hot) as client:
            statuses = [(await client.ask(CLOSED))[0].status_code for _ in range(20)]
            await trio.sleep(2.1)
            statuses += [(await client.ask(CLOSED))[0].status_code for _ in range(5)]
        assert set(statuses) == {200}
        assert web.app.limiter.statistics().delayed["history"] > 0


async def test_only_who_may_read_is_given_what_is_kept(tmp_path: Path) -> None:
    async with serving(tmp_path, auth="token") as web:
        await web.market("GOLD")
        await web.trades((QUIET, 10.0))
        read, ingest = await web.key("read"), await web.key("ingest")
        async with doors(web) as at, kept(at.hot) as client:
            for more, status in ((read, 200), ({}, 401), (ingest, 403), ({"Authorization": "Bearer cdl_x"}, 401)) * 3:
                assert (await client.ask(CLOSED, **more))[0].status_code == status
        assert web.app.kept.statistics().given == 2


async def test_requests_are_counted_and_logged_alike(bars: Web, caplog: pytest.LogCaptureFixture) -> None:
    web = bars
    await web.get(CLOSED)
    counted, sent, logged = [Counter(web.app.requests._answers)], [web.app.requests._bytes[ROUTE]], []
    async with doors(web) as at:
        for port in (at.plain, at.hot):
            with caplog.at_level(logging.DEBUG, "web.app"):
                caplog.clear()
                await said(
                    port, get(CLOSED) * 3 + get(CLOSED, method="HEAD") + get(CLOSED, "If-None-Match: *") * 2 + LAST
                )
                logged.append([re.sub(r"[\d.]+ ms|[0-9a-f]{8}-\d+", "", text) for text in caplog.messages])
            counted.append(Counter(web.app.requests._answers))
            sent.append(web.app.requests._bytes[ROUTE])
    assert counted[1] - counted[0] == counted[2] - counted[1]
    assert (counted[1] - counted[0])[ROUTE, 200] == 4
    assert sent[1] - sent[0] == sent[2] - sent[1] > 10_000
    assert logged[0] == logged[1]
    assert len(logged[0]) == 7


async def test_a_reader_that_takes_nothing_is_given_up(bars: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    web = bars
    monkeypatch.setattr(listener, "HTTP_STALLED_SECONDS", 0.3)
    async with doors(web) as at:
        raw = trio.socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        await raw.connect(("127.0.0.1", at.hot))
        async with trio.SocketStream(raw) as stream:
            before = web.app.kept.statistics().given
            with trio.fail_after(10), suppress(trio.BrokenResourceError):
                while True:
                    await stream.send_all(get(CLOSED))
        # What was answered lies in the buffers of the two sockets.
        assert web.app.kept.statistics().given - before < 2_000
        assert (await said(at.hot, get(CLOSED) + LAST)).startswith(b"HTTP/1.1 200 ")


async def test_the_door_opens_behind_tls(bars: Web, certificate: Path) -> None:  # noqa: F811 # as pytest has it
    tls, trusting = contexts(certificate)
    asked = (get(CLOSED) + get(OPEN, "Accept-Encoding: zstd")) * 2 + LAST
    found = []
    async with doors(bars, tls=tls) as at:
        for port in (at.plain, at.hot):
            stream = trio.SSLStream(await trio.open_tcp_stream("127.0.0.1", port), trusting, https_compatible=True)
            await stream.send_all(asked)
            found.append(OURS.sub(rb"\1: -", await rest(stream)))
            await trio.aclose_forcefully(stream)
    assert found[0] == found[1]
    assert found[0].count(b"HTTP/1.1 200 ") == 5
    assert bars.app.kept.statistics().given >= 6


async def test_a_silent_connection_is_ended(bars: Web) -> None:
    async with doors(bars, keep_alive_seconds=0.3) as at, await trio.open_tcp_stream("127.0.0.1", at.hot) as stream:
        for _ in range(3):
            await stream.send_all(get(CLOSED))
            await trio.sleep(0.05)
        await stream.send_all(b"GET /half")
        assert (await rest(stream)).count(b"HTTP/1.1 200 ") == 3


async def test_a_stop_ends_silent_connections_and_lets_answers_finish(
    bars: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    web, asked, go = bars, trio.Event(), trio.Event()
    read = web.stack.engine.window

    async def slowly(*given: Any) -> Any:
        asked.set()
        await go.wait()
        return await read(*given)

    async with doors(web) as at, kept(at.hot) as client:
        await client.ask(CLOSED)
        monkeypatch.setattr(web.stack.engine, "window", slowly)
        async with await trio.open_tcp_stream("127.0.0.1", at.hot) as busy:
            await busy.send_all(get(OPEN))
            await asked.wait()
            at.stop.set()
            with trio.fail_after(5):
                assert not await client._stream.receive_some()
            assert not at.ended.is_set()
            go.set()
            assert (await rest(busy)).startswith(b"HTTP/1.1 200 ")
            with trio.fail_after(5):
                await at.ended.wait()


async def test_who_leaves_is_not_read_for(bars: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, left = trio.Event(), trio.Event()

    async def for_ever(*_: Any) -> None:
        asked.set()
        try:
            await trio.sleep_forever()
        finally:
            left.set()

    monkeypatch.setattr(bars.stack.engine, "window", for_ever)
    async with doors(bars) as at:
        async with await trio.open_tcp_stream("127.0.0.1", at.hot) as stream:
            await stream.send_all(get(CLOSED))
            await asked.wait()
        with trio.fail_after(5):
            await left.wait()


async def test_all_that_is_kept_is_counted(tmp_path: Path) -> None:
    async with serving(tmp_path, kept_answers=40_000) as web:
        await web.market("GOLD")
        await web.trades(*((QUIET + 60 * n, 10.0 + n) for n in range(100)), (NOW, 5.0))
        async with doors(web) as at, kept(at.hot) as client:
            for n in range(20):
                for encoding in ("identity", "gzip", "zstd"):
                    await client.ask(CLOSED + "0" * (n % 7), Accept_Encoding=encoding)
                    found = web.app.kept
                    assert found.statistics().bytes == sum(answer.nbytes for answer in found._answers.values())
                    assert found.statistics().bytes <= 40_000
        assert web.app.kept.statistics().answers < 7


NAME = st.sampled_from(["Host", "host", "X-A", "Connection", "Content-Length", "x_y", "X A", "", "é"])
VALUE = st.sampled_from(["x", "", " a\tb ", "keep-alive", "close", "0", "\x00", "\xff", "a\rb", "a\nb", "a: b"])
LINE = st.tuples(NAME, st.sampled_from([":", ": ", " : ", "", "\r\n "]), VALUE).map("".join)


@given(
    st.sampled_from(["GET", "HEAD", "GeT"]),
    st.sampled_from([CLOSED, "/healthz", "/healthz?", "/healthz?a b", "/healthz?\xff", "/healthz?#"]),
    st.lists(LINE, max_size=4),
    st.sampled_from(["\r\n", "\n"]),
)
def test_what_is_understood_is_what_h11_understands(method: str, target: str, lines: list[str], end: str) -> None:
    data = end.join([f"{method} {target} HTTP/1.1", "Host: x", *lines, "", ""]).encode("latin-1")
    head = HEAD.match(data)
    headers = headers_of(head[4]) if head else None
    if head is None or headers is None:
        return
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    asked = connection.next_event()
    assert isinstance(asked, h11.Request)
    assert (asked.method, asked.target.partition(b"?")[::2]) == (head[1], (head[2], head[3] or b""))
    assert list(asked.headers) == [(name.encode(), value.encode()) for name, value in headers.lines]
    assert isinstance(connection.next_event(), h11.EndOfMessage)
    assert connection.trailing_data == (data[head.end() :], False)
    assert not ELSEWHERE & {name for name, _ in headers.lines}
