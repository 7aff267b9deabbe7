"""A store that was lost is made again while events are taken: nothing is wrong meanwhile, and nothing afterwards."""

import random
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import trio

from actors import catch_up
from actors.intake import IngestAnswer
from daemon import recovery
from daemon.stack import Stack, StackSettings, opening
from storage.errors import Unavailable
from tests.daemon.test_sealing import stored
from tests.histories import PLACES, Model, Reader, StrictChart, Word, body, read
from tests.stacks import JSON, flush, running, seen
from tests.web.conftest import serving

PAST = 10  # requests
BEGIN = 1_700_049_600_000_000  # µs
RESOLUTIONS = ("1S", "1", "15", "60", "1D", "3", "1W")
HISTORY = "/api/tradingview/history?symbol=GOLD&resolution=1&from=1700000000&to=1700100000"


OTHERS = (
    "/api/tradingview/quotes?symbols=GOLD",
    "/api/lightweight/markets",
    "/api/markets/GOLD/price",
    "/api/export/bars?symbol=GOLD&resolution=1m",
    "/api/markets/GOLD/gaps",
)


class Producer:
    """Says random things, some about what was said long ago, and knows what they come to."""

    def __init__(self, seed: int, model: Model) -> None:
        self.model = model
        self.said: list[list[Word]] = []
        self._chance = random.Random(seed)
        self._words: list[Word] = []

    def next_words(self, n: int, again: int) -> list[Word]:
        """New trades, and words that repeat, correct or take back earlier ones."""
        chance = self._chance
        words = [self._trade() for _ in range(n)]
        for old in chance.sample(self._words, min(again, len(self._words))):
            # Only of one kind of market: folding buckets again is what takes the time of these tests.
            match chance.randrange(3) if old.market == "CORN" else 0:
                case 0:
                    words.append(old)
                case 1:
                    words.append(replace(self._trade(), market=old.market, identity=old.identity))
                case 2:
                    words.append(Word(market=old.market, identity=old.identity, removed=True))
        self._words += words[:n]
        return words

    def _trade(self) -> Word:
        chance = self._chance
        return Word(
            market=chance.choice(sorted(PLACES)),
            ts=BEGIN + chance.randrange(7200) * 1_000_000,
            identity=chance.randrange(100_000) if chance.random() < 0.5 else f"t{chance.randrange(100_000)}",
            price=str(chance.randrange(90, 110)),
            size="1",
        )

    async def say(self, stack: Stack, words: list[Word], key: str | None = None) -> IngestAnswer:
        """One request; it is answered as it must be."""
        expected = self.model.take(words)
        answer = msgspec.json.decode(await stack.intake.submit(body(words), JSON, key=key), type=IngestAnswer)
        self.said.append(words)
        assert answer.rejected == []
        assert {name: getattr(answer, name) for name in expected} == expected
        return answer


@asynccontextmanager
async def rebuilding(data: Path) -> AsyncIterator[Stack]:
    """A stack over this directory from its first moment on."""
    async with opening(StackSettings(data=data, flush_seconds=3600, create="spot")) as stack:
        yield stack


async def lived(data: Path, producer: Producer) -> None:
    """A directory with a past, most of which is sealed; of the rest, a part was flushed."""
    async with running(data) as stack:
        for symbol, place in PLACES.items():
            await stack.registry.put(place.fields(symbol))
        for number in range(PAST):
            await producer.say(stack, producer.next_words(20, 0 if number % 4 else 9), key=f"key {number}")
            if number in (3, 6):
                await stack.sealing.run()
            if number == 8:
                await flush(stack)
        shutil.copytree(data, data.with_name("killed"))


def lose(data: Path) -> None:
    """What is only an index is gone."""
    for path in data.glob("candles.duckdb*"):
        path.unlink()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rebuilds in many steps, and questions that do not wait for long."""
    monkeypatch.setattr(recovery, "REPLAYED", 40)
    monkeypatch.setattr(catch_up, "PATIENCE", 0.01)


async def same(stack: Stack, model: Model) -> None:
    for symbol in PLACES:
        for resolution in RESOLUTIONS:
            assert await read(stack, symbol, resolution) == model.bars(symbol, resolution), (symbol, resolution)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("seed", "identities"), [(1, True), (2, False)])
async def test_what_is_said_while_the_store_is_made_again_comes_to_what_it_would_have_come_to(
    tmp_path: Path, seed: int, identities: bool
) -> None:
    model = Model()
    producer = Producer(seed, model)
    await lived(tmp_path / "data", producer)
    data = tmp_path / "killed"
    shutil.copytree(data, tmp_path / "twin")
    lose(data)
    (data / "answers.db").unlink()
    if not identities:
        shutil.rmtree(data / "identities")
    past = len(producer.said)
    inside = refused = 0
    reasons: list[str] = []
    async with rebuilding(data) as stack:
        epoch = stack.engine.epoch
        while not stack.catch_up.over:
            try:
                assert await read(stack, "GOLD", "1") == model.bars("GOLD", "1")
                assert stack.catch_up.over
                break
            except Unavailable as error:
                reasons.append(str(error))
                refused += 1
            # Said before the loss; the index of answers is gone as well.
            again = await stack.intake.submit(body(producer.said[refused % PAST]), JSON, key=f"key {refused % PAST}")
            assert msgspec.json.decode(again, type=IngestAnswer).cursor == f"{epoch}.{refused % PAST + 1}"
            await producer.say(stack, producer.next_words(5, 9 if inside < 3 else 0))
            inside += not stack.catch_up.over
        assert inside >= 3, "nothing was acknowledged while the store was made again"
        assert refused >= 3
        assert all(reason.startswith("rebuilding the store: ") for reason in reasons)
        await same(stack, model)
        found = await stored(stack)
    async with running(tmp_path / "twin") as twin:
        assert twin.engine.epoch == epoch
        for words in producer.said[past:]:
            await twin.intake.submit(body(words), JSON)
        assert await stored(twin) == found
    async with seen(data) as stack:
        assert stack.recovered.batches == 0
        await same(stack, model)


@pytest.mark.usefixtures("small")
async def test_streams_go_on_from_where_they_were_once_the_store_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catch_up, "PATIENCE", 60.0)
    model = Model()
    producer = Producer(3, model)
    data = tmp_path / "data"
    await lived(data, producer)
    charts = [StrictChart("GOLD", "1"), StrictChart("CORN", "1D"), StrictChart("RYE", "3")]
    async with running(data) as stack:
        for chart in charts:
            await Reader(chart, stack.hub, stack.engine).follow(await stack.registry.named(chart.symbol))
    lose(data)
    resumed: list[bool] = []
    async with rebuilding(data) as stack, trio.open_nursery() as nursery:

        async def follow(chart: StrictChart) -> None:
            reader = Reader(chart, stack.hub, stack.engine)
            resumed.append(await reader.follow(await stack.registry.named(chart.symbol)))

        for chart in charts:
            nursery.start_soon(follow, chart)
        inside = 0
        while not stack.catch_up.over:
            assert resumed == []
            await producer.say(stack, producer.next_words(5, 9 if inside < 3 else 0))
            inside += not stack.catch_up.over
        assert inside >= 3
        await producer.say(stack, producer.next_words(5, 9))
        while len(resumed) < 3:  # noqa: ASYNC110  # they wait in the engine
            await trio.sleep(0.001)
        await producer.say(stack, producer.next_words(5, 9))
        await same(stack, model)
        stack.hub.flush()
        for chart in charts:
            assert chart.rows() == model.bars(chart.symbol, chart.resolution)
    assert resumed == [True, True, True]


@pytest.mark.usefixtures("small")
async def test_a_rebuild_that_is_stopped_goes_on_where_it_was_with_all_that_was_taken(tmp_path: Path) -> None:
    model = Model()
    producer = Producer(4, model)
    data = tmp_path / "data"
    await lived(data, producer)
    lose(data)
    inside = lives = 0
    reached: list[int] = []
    while True:
        lives += 1
        async with rebuilding(data) as stack:
            reached.append(stack.recovery.applied)
            await producer.say(stack, producer.next_words(5, 9))
            inside += not stack.catch_up.over
            if lives > 3:
                await stack.catch_up.wait()
                break
            await trio.sleep(0.2)
            # Nothing of this life is ended clean; the next one finds a copy of the files as they are now.
            copy = tmp_path / f"life{lives}"
            shutil.copytree(data, copy)
            data = copy
    assert inside >= 3
    assert reached == sorted(reached)
    async with seen(data) as stack:
        await same(stack, model)


@pytest.mark.usefixtures("small")
async def test_a_file_that_is_damaged_before_a_rebuild_goes_on_is_named_and_the_rest_serves(
    tmp_path: Path,
) -> None:
    model = Model()
    producer = Producer(6, model)
    data = tmp_path / "data"
    await lived(data, producer)
    lose(data)
    async with rebuilding(data) as stack:
        epoch = stack.engine.epoch
        await stack.writer.flushed(1)
        last = stack.sealing.files[-1]
        assert stack.writer.applied < last.first
    content = bytearray((data / "raw" / last.file).read_bytes())
    content[len(content) // 3] ^= 0xFF
    (data / "raw" / last.file).write_bytes(content)
    epochs = []
    for _ in range(2):
        async with running(data) as stack:
            epochs.append(stack.engine.epoch)
            assert [last.file in why for why in await stack.store.damage()] == [True]
            shown = await read(stack, "GOLD", "1D")
            assert 0 < sum(row[6] for row in shown) < sum(row[6] for row in model.bars("GOLD", "1D"))
            assert (await producer.say(stack, producer.next_words(5, 0))).accepted == 5
    assert epochs[0] == epochs[1] != epoch


@pytest.mark.usefixtures("small")
async def test_no_more_is_taken_than_there_is_room_for_until_the_store_is_there(tmp_path: Path) -> None:
    model = Model()
    producer = Producer(5, model)
    data = tmp_path / "data"
    await lived(data, producer)
    lose(data)
    settings = StackSettings(data=data, flush_seconds=3600, flush_events=10, create="spot")
    async with opening(settings) as stack:
        full = 0
        while not stack.catch_up.over and not full:
            words = producer.next_words(15, 0)
            if stack.engine.committed() >= PAST + 2:
                with pytest.raises(Unavailable, match="rebuilding the store"):
                    await stack.intake.submit(body(words), JSON)
                full += 1
            else:
                await producer.say(stack, words)
        assert full
        await stack.catch_up.wait()
        await same(stack, model)
        await producer.say(stack, producer.next_words(15, 10))
        await same(stack, model)


@pytest.mark.usefixtures("small")
async def test_the_wire_says_how_far_the_store_is_and_serves_once_it_is_there(tmp_path: Path) -> None:
    async with serving(tmp_path) as web:
        await web.market()
        for start in range(0, 3000, 100):
            await web.trades(*((1_700_050_000 + start + second, 10.0) for second in range(100)))
        wanted = await web.json(HISTORY)
    (tmp_path / "candles.duckdb").write_bytes(b"this is no database" * 1000)
    inside = 0
    async with serving(tmp_path, opener=opening) as web:
        headers = await web.key("admin")
        while not web.stack.catch_up.over:
            ready, health, history = [await web.get(p) for p in ("/readyz", "/api/charts/health", HISTORY)]
            others = [await web.get(p) for p in OTHERS]
            changed = await web.ask("PATCH", "/api/markets/GOLD", json={"timezone": "Asia/Tokyo"}, headers=headers)
            alive = await web.get("/healthz")
            metrics = await (await web.get("/metrics")).get_data(as_text=True)
            if web.stack.catch_up.over:
                break
            inside += 1
            assert {answer.status_code for answer in (ready, health, history, changed, *others)} == {503}
            told = msgspec.json.decode(await health.get_data())
            assert told["status"] == "degraded"
            assert told["reasons"][0].startswith("rebuilding the store: "), told
            assert "set aside as candles.duckdb.broken-" in told["notices"][0]
            assert 1 <= int(history.headers["Retry-After"]) <= 30
            assert msgspec.json.decode(await history.get_data())["errmsg"].startswith("rebuilding the store: ")
            assert alive.status_code == 200
            assert "candled_catching_up 1.0" in metrics
            assert "candled_catch_up_expected_events 3000.0" in metrics
        assert inside >= 1
        assert (await web.get("/readyz")).status_code == 200
        assert await web.json(HISTORY) == wanted
        metrics = await (await web.get("/metrics")).get_data(as_text=True)
        assert "candled_catching_up 0.0" in metrics
        assert "candled_caught_up_events_total 3000.0" in metrics
        assert (await web.json("/api/charts/health"))["status"] == "ok"
