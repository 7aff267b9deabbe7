"""What a daemon that was told to stop says of itself."""

import signal
from pathlib import Path

import trio

from tests.daemons import running

HEAD = b"GET /%b HTTP/1.1\r\nHost: localhost\r\n"


async def refused(port: int) -> bool:
    try:
        await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
    except OSError:
        return True
    return False


async def everything(stream: trio.SocketStream) -> bytes:
    heard = b""
    while more := await stream.receive_some():
        heard += more
    await stream.aclose()
    return heard


async def test_a_daemon_that_drains_lives_and_is_not_ready(tmp_path: Path) -> None:
    async with running("serve", home=tmp_path) as daemon:
        asked = [await trio.open_tcp_stream("127.0.0.1", daemon.port) for _ in range(3)]
        for stream, path in zip(asked, (b"readyz", b"api/charts/health", b"healthz"), strict=True):
            await stream.send_all(HEAD % path)
        async with await trio.open_tcp_stream("127.0.0.1", daemon.port) as last:  # accepted after the others
            await last.send_all(HEAD % b"healthz" + b"Connection: close\r\n\r\n")
            assert await everything(last)
        daemon.process.send_signal(signal.SIGTERM)
        with trio.fail_after(10):
            while not await refused(daemon.port):  # noqa: ASYNC110  # another process has no event of ours
                await trio.sleep(0.01)
            for stream in asked:
                await stream.send_all(b"\r\n")
            ready, health, alive = [await everything(stream) for stream in asked]
            assert await daemon.process.wait() == 0
    assert ready.startswith(b"HTTP/1.1 503 ")
    assert ready.endswith(b'{"status":"not ready","reasons":["stopping"]}')
    assert health.startswith(b"HTTP/1.1 503 ")
    assert b'"status":"degraded","reasons":["stopping"]' in health
    assert alive.startswith(b"HTTP/1.1 200 ")
