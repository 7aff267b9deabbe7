"""What a plain request hears at the address of a WebSocket."""

from pathlib import Path

import pytest
import trio

from tests.web.conftest import Web, decoded, serving
from web.listener import listen


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_request_that_does_not_upgrade_is_told_to(web: Web, method: str) -> None:
    answer = await web.ask(method, "/ws")
    assert answer.status_code == 426
    assert answer.headers["Upgrade"] == "websocket"
    assert answer.headers["Connection"] == "Upgrade"
    assert answer.headers["Sec-WebSocket-Version"] == "13"
    said = decoded(await answer.get_data())["error"]
    assert said.startswith("/ws is a WebSocket: connect with")
    assert "'Upgrade: websocket'" in said


async def test_it_is_told_without_a_key_where_reading_needs_one(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", auth="token") as web:
        assert (await web.get("/ws")).status_code == 426


async def test_the_connection_stays_for_another_request(web: Web) -> None:
    async with trio.open_nursery() as nursery:

        async def serve(*, task_status: trio.TaskStatus[tuple[str, int]]) -> None:
            await listen(
                web.app,
                {},
                host="127.0.0.1",
                port=0,
                hub=web.stack.hub,
                until=trio.sleep_forever,
                task_status=task_status,
            )

        _, port = await nursery.start(serve)
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            with trio.fail_after(5):
                for path, status in ((b"/ws", b"426"), (b"/healthz", b"200"), (b"/ws", b"426")):
                    await stream.send_all(b"GET %b HTTP/1.1\r\nHost: here\r\n\r\n" % path)
                    answer = b""
                    while not answer.endswith(b"}"):
                        answer += await stream.receive_some()
                    assert answer.startswith(b"HTTP/1.1 %b " % status)
                    assert (b"\r\nupgrade: websocket\r\n" in answer) == (path == b"/ws")
        nursery.cancel_scope.cancel()
