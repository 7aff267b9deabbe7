import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from actors.reading import Window
from tests.web.conftest import NOW, Web, decoded, serving
from web.kept import EACH, Kept, KeptStatistics

DAY = 86_400
QUIET = NOW - DAY
HISTORY = "/api/tradingview/history?symbol=GOLD&resolution={}&from={}&to={}"
OHLCV = "/api/lightweight/ohlcv?symbol=GOLD&timeframe={}&from={}&to={}"


def statistics(web: Web) -> KeptStatistics:
    found: Kept = web.app.extensions["candled.kept"]
    return found.statistics()


async def got(web: Web, path: str) -> tuple[Any, str]:
    answer = await web.get(path)
    return decoded(await answer.get_data()), answer.headers["X-Cursor"]


async def said(web: Web, t: float, price: float, name: str, **more: Any) -> None:
    event = {"market_symbol": "GOLD", "timestamp": int(t * 1000), "price": price, "trade_id": name, **more}
    answer = await web.post("/api/ingest/events", json=event, headers=web.headers)
    assert (await answer.get_json())["rejected"] == []


@pytest.fixture
async def feeding(web: Web) -> Web:
    web.headers = await web.key("admin")
    return web


@pytest.mark.parametrize("path", [HISTORY.format("1", QUIET, QUIET + 600), OHLCV.format("1m", QUIET, QUIET + 600)])
async def test_an_answer_is_given_again_until_something_before_its_end_changes(feeding: Web, path: str) -> None:
    web = feeding
    await said(web, QUIET, 10, "a")
    first, cursor = await got(web, path)
    assert await got(web, path) == (first, cursor)
    assert statistics(web).given == 1
    # What comes behind it is none of its concern, but the market's position moves on.
    await said(web, QUIET + 600, 11, "b")
    again, moved = await got(web, path)
    assert (again, statistics(web).given) == (first, 2)
    assert int(moved.partition(".")[2]) > int(cursor.partition(".")[2])
    tag = (await web.get(path)).headers["ETag"]
    assert (await web.get(path, headers={"If-None-Match": tag})).status_code == 304
    changes: list[Callable[[], Awaitable[None]]] = [
        lambda: said(web, QUIET + 599, 12, "c"),  # late
        lambda: said(web, QUIET + 599, 13, "c"),  # corrected
        lambda: said(web, QUIET + 599, 13, "c", removed=True),
        lambda: said(web, QUIET - 60, 9, "d"),  # before: a window that counts back would have it
    ]
    for n, change in enumerate(changes, 1):
        await change()
        assert statistics(web).stale == n - 1
        changed, _ = await got(web, path)
        assert statistics(web).stale == n
        assert (changed == first) == (n > 2)
        assert await got(web, path) == (changed, (await got(web, path))[1])


async def test_answers_with_the_open_bar_are_kept_until_it_changes_or_closes(web: Web) -> None:
    await web.trades((QUIET, 1.0), (NOW, 10.0))
    for path in (HISTORY.format("1", QUIET, NOW + 60), OHLCV.format("1m", QUIET, NOW + 60)):
        first = await got(web, path)
        given = statistics(web).given
        assert await got(web, path) == first
        assert statistics(web).given == given + 1
        answer = await web.get(path)
        assert (answer.headers["Cache-Control"], "ETag" in answer.headers) == ("no-store", False)
        await web.trades((NOW + 1, 11.0 + given))
        assert await got(web, path) != first
    web.clock.now = NOW + 62
    answer = await web.get(HISTORY.format("1", QUIET, NOW + 60))
    assert (answer.headers["Cache-Control"], "ETag" in answer.headers) == ("no-cache", True)


async def test_answers_without_bars_or_up_to_now_are_not_kept(web: Web) -> None:
    await web.trades((QUIET, 1.0), (NOW - 1, 10.0))
    for path in (
        HISTORY.format("1", 0, 60),
        OHLCV.format("1m", QUIET, QUIET + 60) + "&fields=all",
        "/api/lightweight/ohlcv?symbol=GOLD&timeframe=1m",
    ):
        await got(web, path)
    assert statistics(web).answers == 0


async def test_memory_is_bounded_and_the_oldest_go_first(web: Web) -> None:
    await web.trades(*((QUIET + 60 * n, 10.0 + n) for n in range(100)))
    paths = [HISTORY.format("1", QUIET, QUIET + 600 + n) for n in range(30)]
    size = len(await (await web.get(paths[1])).get_data()) + 2 * EACH
    async with serving(web.stack.state.path.parent.parent / "small", kept_answers=6 * size) as small:
        await small.market()
        await small.trades(*((QUIET + 60 * n, 10.0 + n) for n in range(100)))
        for path in paths:
            await got(small, path)
            await got(small, paths[0])
            assert statistics(small).bytes <= 6 * size
        assert statistics(small).answers == 6
        before = statistics(small).given
        await got(small, paths[0])
        await got(small, paths[-1])
        await got(small, paths[1])
        assert statistics(small).given == before + 2
        await got(small, HISTORY.format("1", QUIET, QUIET + 6000))  # too large for its share
        assert statistics(small).answers == 6
    async with serving(web.stack.state.path.parent.parent / "none", kept_answers=0) as none:
        await none.market()
        await none.trades((QUIET, 10.0))
        for _ in range(2):
            await got(none, paths[0])
        assert (statistics(none).given, statistics(none).answers) == (0, 0)


async def test_the_same_question_is_read_once_while_it_is_being_read(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    await web.trades((QUIET, 1.0), (NOW - 1, 10.0))
    reads = 0
    read, gate = web.stack.engine.window, trio.Event()

    async def slowly(*given: Any) -> Window:
        nonlocal reads
        reads += 1
        await gate.wait()
        return await read(*given)

    monkeypatch.setattr(web.stack.engine, "window", slowly)
    answers: list[Any] = []

    async def ask(path: str) -> None:
        answers.append((await got(web, path))[0])

    path = HISTORY.format("1", QUIET, NOW)
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ask, path)
        nursery.start_soon(ask, HISTORY.format("1", QUIET + 60, NOW))
        while reads < 2 or statistics(web).shared < 4:
            await trio.lowlevel.checkpoint()
        # Whoever asks after something more was acknowledged must see it.
        await web.trades((QUIET + 60, 2.0))
        nursery.start_soon(ask, path)
        while reads < 3:
            await trio.lowlevel.checkpoint()
        gate.set()
    assert reads == 3
    assert sum(answer["t"][0] == QUIET for answer in answers) == 6


async def test_what_is_kept_is_what_is_read(tmp_path: Path) -> None:
    chance = random.Random(1)
    async with serving(tmp_path / "a") as web, serving(tmp_path / "b", kept_answers=0) as plain:
        alive: list[tuple[int, int]] = []
        for one in (web, plain):
            await one.market("GOLD", session="1800-1700", timezone="America/New_York")
            one.headers = await one.key("admin")
        questions = [
            HISTORY.format(resolution, start, start + length) + more
            for resolution in ("1S", "1", "7", "60", "1D", "1W", "1M")
            for start, length in ((QUIET - 9 * DAY, 9 * DAY), (QUIET, 7_000), (QUIET + 1_800, 3 * DAY))
            for more in ("", "&countback=3")
        ]
        for n in range(20):
            live = chance.random() < 0.5
            t = NOW - 600 + 10 * n if live else QUIET + chance.randint(-20 * DAY, 20_000)
            more: dict[str, Any] = {}
            name = n
            if alive and chance.random() < 0.3:
                name, t = chance.choice(alive)
                more = {"removed": True} if chance.random() < 0.5 else {}
            alive.append((name, t))
            price = chance.randint(1, 99)
            for one in (web, plain):
                one.clock.now = NOW + 10 * n
                await said(one, t, price, str(name), **more)
            if chance.random() < 0.2:
                await web.stack.writer.flushed(web.stack.engine.committed())
            for question in chance.sample(questions, 6):
                assert (await got(web, question))[0] == (await got(plain, question))[0], (n, question)
        assert statistics(web).given > 5
