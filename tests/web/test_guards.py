"""Whoever asks for the dearest there is hurts nobody else: others are answered, and nothing holds up the loop."""

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
import trio

from tests.web.conftest import LOCAL, NOW, STRANGER, Web, decoded, serving
from tests.web.streaming import Streaming, streaming
from web import app, layouts, turns
from web.context import THREADS

BARS = 45_000  # of a second: more than any answer looks at
LONGEST = 0.1  # seconds that one step of a task may compute; none takes a fifth of that where nothing is wrong
EACH = 15  # answers that others get meanwhile
LONG = 4 << 20  # bytes of a body
WORDS = "%25_*%22%20OR%20a%20".replace(" ", "") * 100

DEAR = (
    "/api/series?expr=GOLD/GOLD&resolution=1S&limit=5000&indicators=ema:500,vwap",
    "/api/profile?symbol=GOLD&resolution=1S&bins=500",
    "/api/charts/GOLD.png?resolution=1S&bars=500&indicators=ema:500,vwap&width=2000&height=1500",
    "/api/tradingview/history?symbol=GOLD&resolution=1S&from=-99999999999&to=99999999999&countback=1000000000",
    "/api/lightweight/ohlcv?symbol=GOLD&timeframe=1s&from=0&fill=flat&fields=all",
    "/api/lightweight/ohlcv?symbol=GOLD&timeframe=1s&from=0&limit=10000",
    f"/api/tradingview/search?query={WORDS}&limit=100",
    f"/api/markets?search={WORDS}&limit=500&spark=24h",
    "/api/markets/GOLD/gaps?resolution=1s&limit=1000",
    "/api/tradingview/marks?symbol=GOLD&resolution=1S&from=0&to=99999999999",
)
SMALL = ("/api/tradingview/history?symbol=TEA&resolution=1&from=0&to=99999999999&countback=10", "/healthz")


class Steps(trio.abc.Instrument):
    """How long the loop was computing between two tasks: time of its thread, not of a clock, so that what other
    processes do does not count."""

    def __init__(self) -> None:
        self.longest, self.who = 0.0, ""
        self._began = time.thread_time()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002 # as trio calls it
        self._began = time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        took = time.thread_time() - self._began
        if took > self.longest:
            self.longest, self.who = took, task.name


@contextmanager
def looking() -> Iterator[Steps]:
    """See to it that no task computes for long at a time."""
    steps = Steps()
    trio.lowlevel.add_instrument(steps)
    yield steps
    trio.lowlevel.remove_instrument(steps)
    assert steps.longest < LONGEST, steps.who


async def filled(web: Web) -> None:
    """A market with more bars than anybody may look at, and one with few."""
    times = (NOW - BARS) * 1_000_000 + 1_000_000 * np.arange(BARS)
    columns = {
        "market_symbol": pa.array(["GOLD"] * BARS),
        "timestamp": pa.array(times, pa.timestamp("us", "UTC")),
        "price": pa.array(100 + times % 977 / 7),
        "size": pa.array(times % 13 / 10 + 1),
    }
    sink = pa.BufferOutputStream()
    rows = pa.RecordBatch.from_pydict(columns)
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_batch(rows)
    await web.stack.intake.submit(sink.getvalue().to_pybytes(), "application/vnd.apache.arrow.stream")
    await web.market("TEA")
    await web.trades(*((NOW - 60 * n, 12 + n) for n in range(20)), symbol="TEA")
    for path in (*DEAR, *SMALL):  # once, so that what is made but once is made
        assert (await web.get(path)).status_code == 200, path


async def asked(port: int, path: str) -> int:
    """The status of a GET on a connection of its own."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        head = b""
        while piece := await stream.receive_some(1 << 20):
            head = head or piece
        return int(head.split(b" ")[1])


@asynccontextmanager
async def trickling(port: int, head: str, body: bytes) -> AsyncIterator[None]:
    """A request whose body never comes to its end, or whose answer nobody reads."""
    raw = trio.socket.socket()
    raw.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
    await raw.connect(("127.0.0.1", port))
    async with trio.SocketStream(raw) as stream:
        await stream.send_all(f"{head}\r\nHost: localhost\r\n\r\n".encode() + body)
        yield


async def test_who_asks_for_the_dearest_there_is_hurts_nobody_else(tmp_path: Path) -> None:
    async with streaming(tmp_path / "data") as served:
        await filled(served.web)
        answered = dict.fromkeys((*DEAR, *SMALL), 0)
        with trio.fail_after(120), looking():
            await _beside(served, answered)
    assert [answered[path] for path in SMALL] == [EACH, EACH]
    assert all(answered[path] for path in DEAR), answered


async def _beside(served: Streaming, answered: dict[str, int]) -> None:
    """Ask for what is small until it was answered often enough, beside all that is dear; and until each of that was."""
    enough = trio.Event()

    async def again(path: str) -> None:
        while not (enough.is_set() and answered[path]):
            status = await asked(served.port, path)
            assert status in (200, 503), (status, path)
            answered[path] += status == 200

    save = "POST /api/charts_storage/1.1/charts?client=a&user=b HTTP/1.1\r\nContent-Type: application/json"
    async with trio.open_nursery() as nursery:
        for path in DEAR:
            nursery.start_soon(again, path)
        for _ in range(2):
            slow = trickling(served.port, "GET /api/export/bars?symbol=GOLD&resolution=1s&format=csv HTTP/1.1", b"")
            await nursery.start(held, slow, enough)
        for _ in range(app.LARGE_BODIES + 2):
            body = trickling(served.port, f"{save}\r\nContent-Length: {LONG}", b'{"name":"' + b"a" * (200 << 10))
            await nursery.start(held, body, enough)
        for _ in range(EACH):
            for path in SMALL:
                assert await asked(served.port, path) == 200
                answered[path] += 1
        enough.set()


async def held(what: Any, until: trio.Event, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    async with what:
        task_status.started()
        await until.wait()


@pytest.mark.parametrize(
    "kind", ["application/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
async def test_a_large_body_holds_up_nobody_while_it_is_read(web: Web, kind: str) -> None:
    content = b"7" * (3 << 20)
    bodies = {
        "a": b'{"name":"n","content":"%b"}' % content,
        "x": b"name=n&content=%b" % content.replace(b"7", b"%37", 1 << 20),
        "m": b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\nn\r\n'
        b'--x\r\nContent-Disposition: form-data; name="content"\r\n\r\n%b\r\n--x--\r\n' % content,
    }
    body = bodies["m" if kind.startswith("m") else "x" if "www" in kind else "a"]
    key = await web.key("admin")
    whose = "/api/charts_storage/1.1/charts?client=a&user=b"
    for _ in range(2):
        with looking():
            saved = await web.ask("POST", whose, headers={"Content-Type": kind, **key}, data=body)
        assert saved.status_code == 200, await saved.get_data()
    number = decoded(await saved.get_data())["id"]
    kept = (await web.json(f"{whose}&chart={number}"))["data"]["content"]
    assert kept == content.decode()


async def test_many_drawings_hold_up_nobody(web: Web) -> None:
    sources = {str(n): {"points": [n, n + 1], "state": {"color": "red"}} for n in range(30_000)}
    body = msgspec.json.encode({"state": {"sources": sources, "groups": {}}})
    where = "/api/charts_storage/1.1/drawings?client=a&user=b&chart=1"
    for _ in range(2):
        with looking():
            saved = await web.ask("POST", where, headers={"Content-Type": "application/json"}, data=body)
        assert saved.status_code == 200, await saved.get_data()
    assert (await web.json(where))["data"]["state"]["sources"] == sources


async def test_a_body_without_a_key_has_a_bound_of_its_own(web: Web) -> None:
    body = b'{"name":"n","content":"' + b"a" * layouts.LARGEST_BODY
    refused = await web.ask(
        "POST",
        "/api/charts_storage/1.1/charts?client=a&user=b",
        headers={"Content-Type": "application/json"},
        data=body,
    )
    assert refused.status_code == 413


FEW_BARS, MANY_BARS = "/api/series?expr=GOLD&limit=3&indicators=sma:5", "/api/profile?symbol=GOLD&resolution=1S"


@asynccontextmanager
async def no_turn_is_free(web: Web) -> AsyncIterator[list[AsyncExitStack]]:
    """All turns of those who look at many bars, each with a thread, in the hands of somebody who gives them back by
    closing them."""
    async with AsyncExitStack() as all_turns:
        held = [await all_turns.enter_async_context(AsyncExitStack()) for _ in range(turns.AT_ONCE)]
        for each in held:
            await each.enter_async_context(web.app.turns.many.turn("somebody"))
            threads, borrower = web.app.extensions[THREADS], object()
            await threads.acquire_on_behalf_of(borrower)
            each.callback(threads.release_on_behalf_of, borrower)
        yield held


async def test_who_looks_at_many_bars_waits_and_no_longer_than_a_request_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "USUAL_PATIENCE", 0.3)
    async with serving(tmp_path / "data") as web:
        await web.market()
        await web.trades((NOW, 12))
        async with no_turn_is_free(web):
            for path in (MANY_BARS, "/api/series?expr=GOLD&limit=5000", "/api/series?expr=GOLD&indicators=ema:500"):
                refused = await web.get(path)
                assert refused.status_code == 503, path
                assert "too long" in decoded(await refused.get_data())["error"]
            assert (await web.get("/api/tradingview/search?query=GOLD")).status_code == 200
        assert (await web.get(MANY_BARS)).status_code == 200  # who gave up holds no turn


async def test_who_looks_at_few_bars_does_not_wait_for_who_looks_at_many(web: Web) -> None:
    await web.trades((NOW, 12))
    hour = f"/api/profile?symbol=GOLD&from={(NOW - 3600) * 1000}&to={NOW * 1000}&resolution=1"
    async with no_turn_is_free(web):
        for path in (FEW_BARS, hour, "/api/charts/GOLD.svg?indicators=rsi", "/api/series?expr=GOLD&indicators=vwap"):
            with trio.fail_after(20):
                assert (await web.get(path)).status_code == 200, path


async def test_senders_have_their_turns_one_after_the_other(web: Web) -> None:
    await web.trades((NOW, 12))
    order: list[str] = []

    async def ask(who: str) -> None:
        client, headers = STRANGER if who == "other" else LOCAL, key if who == "key" else {}
        assert (await web.get(MANY_BARS, client=client, headers=headers)).status_code == 200
        order.append(who)

    key = await web.key("read")
    async with no_turn_is_free(web) as held, trio.open_nursery() as nursery:
        for number, who in enumerate(["one"] * 4 + ["other"] * 2 + ["key"], 1):
            nursery.start_soon(ask, who)
            with trio.fail_after(20):
                while web.app.turns.many.waiting < number:  # it is on its way
                    await trio.lowlevel.checkpoint()
        assert order == []
        await held[0].aclose()
    assert order == ["one", "other", "key", "one", "other", "one", "one"]
