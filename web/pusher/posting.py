"""One HTTP POST, as webhooks need it."""

import ssl
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import urlsplit

import h11
import trio

PIECE = 16 * 1024


async def post(url: str, body: bytes, headers: Mapping[str, str]) -> int:
    """Send a body; the status of the answer. Raises OSError, trio.BrokenResourceError or h11.RemoteProtocolError."""
    parts = urlsplit(url)
    host, tls = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if tls else 80)
    stream: trio.abc.Stream
    if tls:
        stream = await trio.open_ssl_over_tcp_stream(host, port, https_compatible=True, ssl_context=_trusting())
    else:
        stream = await trio.open_tcp_stream(host, port)
    async with stream:
        connection = h11.Connection(h11.CLIENT)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        fields = {"Host": parts.netloc.rpartition("@")[2], "Connection": "close", "Content-Length": str(len(body))}
        request = h11.Request(method="POST", target=target, headers=list({**fields, **headers}.items()))
        sent = [connection.send(request), connection.send(h11.Data(data=body)), connection.send(h11.EndOfMessage())]
        await stream.send_all(b"".join(part for part in sent if part))
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(bytes(await stream.receive_some(PIECE)))
            elif isinstance(event, h11.Response):
                return event.status_code


@lru_cache(1)
def _trusting() -> ssl.SSLContext:
    return ssl.create_default_context()
