import errno
import gzip
import io
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest
import trio
import zstandard

from storage import journal
from tests.web.conftest import NOW, Web, decoded, serving
from web import app as web_app
from web.listener import listen

EVENTS = "/api/ingest/events"
ANSWER = {"accepted", "duplicates", "corrected", "retracted", "unknown", "rejected", "rejected_count", "cursor"}


def trade(n: int, **more: Any) -> dict[str, Any]:
    return {"market_symbol": "GOLD", "timestamp": (NOW - 60 + n) * 1000, "price": 10 + n, "trade_id": n, **more}


def arrow(events: list[dict[str, Any]]) -> bytes:
    table = pa.Table.from_pylist(events)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def ndjson(events: list[dict[str, Any]]) -> bytes:
    return b"\n".join(map(msgspec.json.encode, events))


FORMS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "application/json": msgspec.json.encode,
    "application/x-ndjson": ndjson,
    "application/vnd.apache.arrow.stream": arrow,
}
PACKERS: dict[str, Callable[[bytes], bytes]] = {"": bytes, "gzip": gzip.compress, "zstd": zstandard.compress}


@pytest.fixture
async def feeder(web: Web) -> Web:
    """The app, with an ingest key in every request."""
    web.headers = await web.key("ingest")
    return web


async def post(web: Web, body: Any, kind: str = "application/json", **headers: str) -> Any:
    data = body if isinstance(body, bytes) else msgspec.json.encode(body)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await web.post(EVENTS, data=data, headers={"Content-Type": kind, **named})


async def told(web: Web, body: Any, kind: str = "application/json", **headers: str) -> Any:
    answer = await post(web, body, kind, **headers)
    found = decoded(await answer.get_data())
    assert answer.status_code == 200, found
    assert set(found) == ANSWER
    return found


async def closes(web: Web) -> list[float]:
    bars = await web.json(f"/api/tradingview/history?symbol=GOLD&resolution=1S&from=0&to={NOW + 60}")
    return list(bars.get("c", []))


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize("kind", FORMS)
async def test_each_form_and_packing_is_taken(feeder: Web, kind: str, packing: str) -> None:
    events = [trade(n) for n in range(20)]
    body = PACKERS[packing](FORMS[kind](events))
    headers = {"Content_Encoding": packing} if packing else {}
    first = await told(feeder, body, kind, **headers)
    assert (first["accepted"], first["rejected"], first["rejected_count"]) == (20, [], 0)
    again = await told(feeder, body, f"{kind}; charset=utf-8", **headers)
    assert (again["accepted"], again["duplicates"]) == (0, 20)
    assert await closes(feeder) == [10 + n for n in range(20)]


async def test_one_object_is_one_event(feeder: Web) -> None:
    assert (await told(feeder, trade(1)))["accepted"] == 1


async def test_what_is_acknowledged_is_in_the_journal_and_in_the_next_answer(feeder: Web) -> None:
    for n in range(5):
        answer = await told(feeder, trade(n))
        epoch, _, seq = answer["cursor"].partition(".")
        assert (epoch, int(seq)) == (feeder.stack.journal.epoch, feeder.stack.journal.last_seq)
        assert len(await closes(feeder)) == n + 1


async def test_one_bad_event_does_not_sink_the_others(feeder: Web) -> None:
    batch = [trade(0), trade(1, price=-3), trade(2, market_symbol="GLOD"), trade(3)]
    answer = await told(feeder, batch)
    assert (answer["accepted"], answer["rejected_count"]) == (2, 2)
    assert [one["index"] for one in answer["rejected"]] == [1, 2]
    assert answer["rejected"][0]["error"].startswith("price: expected")
    assert answer["rejected"][0]["market_symbol"] == "GOLD"
    assert "no market named 'GLOD'" in answer["rejected"][1]["error"]
    assert await closes(feeder) == [10, 13]


async def test_corrections_and_retractions_are_counted(feeder: Web) -> None:
    await told(feeder, [trade(0), trade(1)])
    answer = await told(feeder, [trade(0, price=99), trade(1, removed=True), trade(7, removed=True)])
    assert (answer["corrected"], answer["retracted"], answer["unknown"]) == (1, 1, 1)
    assert await closes(feeder) == [99]


@pytest.mark.parametrize(
    ("body", "kind", "status", "said"),
    [
        (b"{", "application/json", 400, "body"),
        (b'{"price": 1}\n{"price"', "application/x-ndjson", 400, "line 2"),
        (b"nonsense", "application/vnd.apache.arrow.stream", 400, "body"),
        (b"a,b", "text/csv", 415, "text/csv"),
        (b"[]", "", 415, "Content-Type"),
        (b"17", "application/json", 400, "body"),
    ],
)
async def test_a_body_that_cannot_be_read_is_refused_with_its_reason(
    feeder: Web, body: bytes, kind: str, status: int, said: str
) -> None:
    answer = await post(feeder, body, kind)
    assert answer.status_code == status
    assert said in (await answer.get_json())["error"]
    assert feeder.stack.engine.committed() == 0


async def test_a_packing_that_is_unknown_or_broken_is_refused(feeder: Web) -> None:
    assert (await post(feeder, [trade(0)], Content_Encoding="br")).status_code == 415
    answer = await post(feeder, b"nonsense", Content_Encoding="gzip")
    assert answer.status_code == 400
    assert "gzip" in (await answer.get_json())["error"]


async def test_a_repeat_with_the_same_idempotency_key_is_given_the_first_answer(feeder: Web) -> None:
    body = {"market_symbol": "GOLD", "timestamp": (NOW - 1) * 1000, "price": 5, "size": 2}
    first = await told(feeder, body, Idempotency_Key="k1")
    assert await told(feeder, body, Idempotency_Key="k1") == first
    assert (await told(feeder, body, Idempotency_Key="k2"))["cursor"] != first["cursor"]
    bars = await feeder.json(f"/api/tradingview/history?symbol=GOLD&resolution=1&from=0&to={NOW}")
    assert bars["v"] == [4]
    refused = await post(feeder, body, Idempotency_Key="k" * 201)
    assert refused.status_code == 400
    assert "Idempotency-Key" in (await refused.get_json())["error"]


async def test_a_key_that_came_with_another_body_is_refused(feeder: Web) -> None:
    await told(feeder, [trade(0)], Idempotency_Key="k")
    answer = await post(feeder, [trade(1)], Idempotency_Key="k")
    assert answer.status_code == 422
    assert "Idempotency-Key: 'k' came with another body" in (await answer.get_json())["error"]
    assert await closes(feeder) == [10]


async def test_an_unknown_market_is_registered_on_an_admins_word(feeder: Web) -> None:
    body = [trade(0, market_symbol="TEA")]
    assert (await told(feeder, body))["rejected_count"] == 1
    refused = await feeder.post(f"{EVENTS}?create=spot", json=body)
    assert refused.status_code == 403
    admin = await feeder.key("admin")
    made = await feeder.post(f"{EVENTS}?create=spot", json=body, headers=admin)
    assert (await made.get_json())["accepted"] == 1
    assert (await feeder.json("/api/markets/tea"))["kind"] == "spot"
    for create in ("card", "index", "SPOT", "x", ""):
        answer = await feeder.post(f"{EVENTS}?create={create}", json=body, headers=admin)
        assert answer.status_code == 400
        assert (await answer.get_json())["error"] == f"create: expected perp or spot, got {create!r}"


async def test_only_posts_are_taken(feeder: Web) -> None:
    for method in ("GET", "PUT", "DELETE"):
        answer = await feeder.ask(method, EVENTS, headers=await feeder.key("admin"))
        assert answer.status_code == 405
        assert "POST" in answer.headers["Allow"]
        assert "POST" in (await answer.get_json())["error"]


async def test_a_full_disk_refuses_until_there_is_room(feeder: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    await told(feeder, trade(0))
    with monkeypatch.context() as patched:
        patched.setattr(journal, "_pwritev", full)
        answer = await post(feeder, trade(1))
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) >= 1
        assert "no space" in (await answer.get_json())["error"]
        assert await closes(feeder) == [10]
    assert (await told(feeder, trade(1)))["accepted"] == 1
    assert await closes(feeder) == [10, 11]


async def test_a_stopped_intake_says_so(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as web:
        await web.market()
        web.headers = await web.key("ingest")
        web.stack.intake.close()
        answer = await post(web, trade(0))
        assert answer.status_code == 503
        assert "stopping" in (await answer.get_json())["error"]


# --- size, over a real connection


@asynccontextmanager
async def listening(folder: Path, **settings: Any) -> AsyncIterator[tuple[Web, int]]:
    async with serving(folder, **settings) as web:
        await web.market()
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            _, port = await nursery.start(
                lambda task_status: listen(
                    web.app,
                    {},
                    host="127.0.0.1",
                    port=0,
                    hub=web.stack.hub,
                    until=stop.wait,
                    task_status=task_status,
                )
            )
            yield web, port
            stop.set()


async def received(stream: trio.SocketStream) -> bytes:
    """Everything until the other side closes."""
    data = b""
    while more := await stream.receive_some():
        data += more
    return data


def head(key: dict[str, str], *lines: str) -> bytes:
    return "\r\n".join(
        [
            f"POST {EVENTS} HTTP/1.1",
            "Host: localhost",
            f"Authorization: {key['Authorization']}",
            "Content-Type: application/json",
            *lines,
            "",
            "",
        ]
    ).encode()


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_is_too_large_is_refused_before_it_has_arrived(
    tmp_path: Path, chunked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_app, "LINGER", 0.1)
    async with listening(tmp_path / "data", max_body=4096) as (web, port):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            key = await web.key("ingest")
            if chunked:
                await stream.send_all(head(key, "Transfer-Encoding: chunked"))
                await stream.send_all(b"%x\r\n%s\r\n" % (5000, b" " * 5000))
            else:
                await stream.send_all(head(key, "Content-Length: 1000000000000"))
                await stream.send_all(b" " * 100)
            with trio.fail_after(5):
                answer = await received(stream)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"at most 4096 bytes" in answer


async def test_who_sends_before_reading_sees_the_refusal_too(tmp_path: Path) -> None:
    async with listening(tmp_path / "data", max_body=4096) as (web, port):
        key = await web.key("ingest")
        for path, status in ((EVENTS, b"413"), ("/nothing", b"405"), ("/api/nothing", b"404")):
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            async with stream:
                size = 8 << 20
                await stream.send_all(head(key, f"Content-Length: {size}").replace(EVENTS.encode(), path.encode()))
                await stream.send_all(b" " * size)
                with trio.fail_after(5):
                    assert (await stream.receive_some()).startswith(b"HTTP/1.1 " + status), path


async def test_a_body_within_the_limit_packed_and_beyond_it_unpacked_is_too_large(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", max_body=64 << 20) as web:
        web.headers = await web.key("ingest")
        answer = await post(web, gzip.compress(b" " * (65 << 20)), Content_Encoding="gzip")
        assert answer.status_code == 413
        assert "unpacked" in (await answer.get_json())["error"]


async def test_an_unfinished_body_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_app, "BODY_SECONDS", 0.05)
    monkeypatch.setattr(web_app, "LINGER", 0.05)
    async with listening(tmp_path / "data") as (web, port):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            await stream.send_all(head(await web.key("ingest"), "Content-Length: 100") + b"[")
            with trio.fail_after(5):
                answer = await received(stream)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"did not arrive" in answer
        assert web.stack.engine.committed() == 0


async def test_one_connection_carries_many_requests(tmp_path: Path) -> None:
    async with listening(tmp_path / "data") as (web, port):
        key = await web.key("ingest")
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            for n in range(5):
                body = msgspec.json.encode(trade(n))
                await stream.send_all(head(key, f"Content-Length: {len(body)}") + body)
                with trio.fail_after(5):
                    answer = b""
                    while b'"cursor"' not in answer or not answer.endswith(b"}"):
                        answer += await stream.receive_some()
                assert answer.startswith(b"HTTP/1.1 200 ")
                assert decoded(answer.partition(b"\r\n\r\n")[2])["accepted"] == 1
