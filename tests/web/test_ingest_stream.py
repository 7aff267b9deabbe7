"""Events from producers that hold a connection."""

import io
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest
import trio

from storage.errors import Unavailable
from tests.web.conftest import NOW
from tests.web.streaming import Streaming, streaming
from tests.web.test_stream import until
from tests.ws_client import Client
from web import ingest_stream

PATH = "/api/ingest/stream"


def trade(second: int, price: float, **more: object) -> dict[str, object]:
    return {"market_symbol": "GOLD", "timestamp": (NOW - second) * 1000, "price": price, "size": 1, **more}


async def producer(served: Streaming) -> Any:
    key = await served.web.key("ingest")
    return served.connect(PATH, extra_headers=[(b"Authorization", key["Authorization"].encode())])


async def tell(client: Client, events: object) -> None:
    await client.connection.send_message(msgspec.json.encode(events).decode())


async def closes(served: Streaming) -> list[float]:
    told = await served.web.json(f"/api/tradingview/history?symbol=GOLD&resolution=1S&from=0&to={NOW + 1}")
    found: list[float] = told["c"]
    return found


async def test_each_message_is_answered_as_a_request_is_once_it_is_on_the_disk(tmp_path: Path) -> None:
    async with streaming(tmp_path) as served, await producer(served) as client:
        await tell(client, trade(9, 1))
        answer = await client.hear()
        epoch = served.stack.engine.epoch
        assert answer == {
            "accepted": 1,
            **dict.fromkeys(("duplicates", "corrected", "retracted", "unknown", "rejected_count"), 0),
            "rejected": [],
            "cursor": f"{epoch}.{served.stack.engine.committed()}",
        }
        assert served.stack.journal.last_seq == served.stack.engine.committed()
        await tell(client, [trade(8, 2), trade(7, -3)])
        answer = await client.hear()
        assert (answer["accepted"], answer["rejected_count"]) == (1, 1)
        assert answer["rejected"][0]["index"] == 1
        assert await closes(served) == [1, 2]


async def test_a_binary_message_is_an_arrow_stream(tmp_path: Path) -> None:
    async with streaming(tmp_path) as served, await producer(served) as client:
        table = pa.table(
            {"market_symbol": ["GOLD"] * 3, "timestamp": [(NOW - n) * 1000 for n in (9, 8, 7)], "price": [1.0, 2, 3]}
        )
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        await client.connection.send_message(sink.getvalue())
        assert (await client.hear())["accepted"] == 3


async def test_messages_in_flight_are_taken_and_answered_in_order(tmp_path: Path) -> None:
    async with streaming(tmp_path) as served, await producer(served) as client:
        # Large ones are read on a thread, small ones are not: what is said last of an event still counts last.
        padding = [trade(5000 + n, 1) for n in range(3000)]
        for price in range(20):
            await tell(client, [trade(9, 100 + price, trade_id=1), *(padding if price % 2 == 0 else ())])
        answers = [await client.hear(30) for _ in range(20)]
        assert [answer["accepted"] for answer in answers] == [3001, *([0, 3000] * 10)[:19]]
        assert [answer["corrected"] for answer in answers] == [0, *[1] * 19]
        assert (await closes(served))[-1] == 119


@pytest.mark.parametrize("message", ["nonsense", b"no arrow", "[1"])
async def test_a_message_that_cannot_be_read_is_told_why_and_the_connection_stays(
    tmp_path: Path, message: str | bytes
) -> None:
    async with streaming(tmp_path) as served, await producer(served) as client:
        await client.connection.send_message(message)
        assert list(await client.hear()) == ["error"]
        await tell(client, trade(9, 1))
        assert (await client.hear())["accepted"] == 1


async def test_without_room_the_producer_is_told_to_come_again_with_what_is_unanswered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with streaming(tmp_path) as served:
        async with await producer(served) as client:

            async def full(*_: object) -> None:
                raise Unavailable("the disk is full", retry_after=7)

            monkeypatch.setattr(served.stack.intake, "_commit", full)
            await tell(client, trade(9, 1))
            assert await client.hear() == {"error": "the disk is full", "retry_after": 7}
            assert await client.ending() == 1013
        monkeypatch.undo()
        async with await producer(served) as client:
            await tell(client, trade(9, 1))
            assert (await client.hear())["accepted"] == 1


async def test_a_producer_that_is_faster_than_the_disk_is_slowed_down_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest_stream, "FLYING", 10_000)
    async with streaming(tmp_path) as served, await producer(served) as client:
        gate, commit = trio.Event(), served.stack.intake._commit

        async def slowly(*arguments: Any) -> None:
            await gate.wait()
            await commit(*arguments)

        monkeypatch.setattr(served.stack.intake, "_commit", slowly)
        sent = 0

        async def send() -> None:
            nonlocal sent
            for n in range(60):
                event = msgspec.json.encode(trade(n, 1)).decode()
                await client.connection.send_message(event + " " * 100_000)
                sent += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            before = -1
            while before < sent:  # until the sockets are full
                before = sent
                await trio.sleep(0.1)
            assert served.stack.intake.statistics().waiting <= 3
            assert sent < 60, "the kernel took all of it"
            gate.set()
            for _ in range(60):
                assert (await client.hear(30))["accepted"] == 1


async def test_a_message_may_be_larger_than_on_other_streams_but_not_of_any_size(tmp_path: Path) -> None:
    async with streaming(tmp_path, ingest_bytes=100_000) as served, await producer(served) as client:
        await tell(client, [trade(n, 1) for n in range(900)])
        assert (await client.hear())["accepted"] == 900
        await client.connection.send_message("[" + " " * 100_000 + "]")
        assert await client.ending() == 1009


async def test_more_than_a_hundred_messages_a_second_are_welcome(tmp_path: Path) -> None:
    async with streaming(tmp_path, messages_per_second=5) as served, await producer(served) as client:
        for n in range(30):
            await tell(client, trade(n, 1))
        for _ in range(30):
            assert (await client.hear())["accepted"] == 1


async def test_a_producer_needs_a_key_for_it(tmp_path: Path) -> None:
    async with streaming(tmp_path) as served:
        read = await served.web.key("read")
        for headers in (
            [],
            [(b"Authorization", b"Bearer nobody")],
            [(b"Authorization", read["Authorization"].encode())],
        ):
            async with served.connect(PATH, extra_headers=headers) as client:
                await tell(client, trade(9, 1))
                assert await client.ending() == 1008
        assert served.stack.engine.committed() == 0


async def test_in_a_demo_only_this_machine_itself_needs_none(tmp_path: Path) -> None:
    async with streaming(tmp_path, demo=True) as served:
        async with served.connect(PATH) as client:
            await tell(client, trade(9, 1))
            assert (await client.hear())["accepted"] == 1
        for header in ((b"Origin", b"https://elsewhere.example"), (b"X-Forwarded-For", b"203.0.113.7")):
            async with served.connect(PATH, extra_headers=[header]) as client:
                await tell(client, trade(8, 1))
                assert await client.ending() == 1008


async def test_a_producer_that_hangs_up_leaves_what_was_taken(tmp_path: Path) -> None:
    async with streaming(tmp_path) as served:
        async with await producer(served) as client:
            await tell(client, trade(9, 1))
            await until(lambda: served.stack.engine.committed() > 0)
        assert await closes(served) == [1]
        await until(lambda: served.stack.hub.statistics().connections == 0)
        assert served.stack.intake.statistics().waiting == 0
