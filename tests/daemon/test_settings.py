"""Every setting changes something: what it says reaches whoever acts on it, in the process that is really run."""

import json
import shutil
import signal
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec import structs

from daemon import commands
from daemon.config import SETTINGS, Config, load
from daemon.serve import pusher_settings, stack_settings, token_settings, web_settings, ws_limits
from tests.daemons import BIN, Daemon, environment, running
from tests.ws_client import connected

# Those that the process itself acts on, each with a test below; all others are handed to a layer.
OURS = {"host", "port", "tls_cert", "tls_key", "drain_seconds", "log_format", "log_level"}
OTHER: dict[str, str] = {
    "trusted_proxies": "10.0.0.0/8",
    "cors_origins": "https://charts.example",
    "auth": "token",
    "create_markets": "perp",
    "data": "/elsewhere",
    "flush_seconds": "7",
    "flush_rows": "12345",
    "seal_seconds": "60",
    "seal_events": "20000",
    "archive_days": "30",
    "archive_quiet_seconds": "60",
    "audit_seconds": "600",
    "retention": "spot.raw=90, spot.1s=30",
    "feed_silence_seconds": "30",
    "max_body_bytes": "4096",
    "max_concurrent_queries": "3",
    "query_seconds": "4",
    "udf_prefixes": "/datafeed",
    "kept_answer_bytes": "10000",
    "hot_door": "off",
    "saved_bytes_per_user": "20000",
    "saved_bytes": "30000",
    "market_data_cache_ttl": "7",
    "tier_turnover": "3000, 200, 10",
    "rate_limit_window_ms": "5000",
    "rate_limit_requests": "6",
    "rate_limit_history": "7",
    "rate_limit_ohlcv": "8",
    "rate_limit_search": "9",
    "rate_limit_other": "11",
    "stream_connections": "12",
    "stream_subscriptions": "13",
    "stream_messages_per_second": "14",
    "stream_message_bytes": "1500",
    "stream_ingest_bytes": "1600",
    "jwt_secret": "x" * 40,
    "jwt_audience": "charts",
    "jwt_issuer": "sign-in",
    "websocket_heartbeat_interval": "16000",
    "pusher_apps": '[{"id": "1", "key": "k", "secret": "s"}]',
    "pusher_event_bytes": "20000",
    "pusher_activity_seconds": "30",
}
# Those of an app, which says nothing without all of it.
APP = {"pusher_app_id": "1", "pusher_key": "k", "pusher_secret": "s"}
OF_APP = {
    "pusher_app_id": "2",
    "pusher_key": "q",
    "pusher_secret": "t",
    "pusher_client_events": "off",
    "pusher_webhook": "http://a/",
}


def handed_on(config: Config) -> tuple[Any, ...]:
    """What the layers below are told."""
    told = structs.replace(web_settings(config, False), started=0)
    return stack_settings(config), told, ws_limits(config), pusher_settings(config), token_settings(config)


@pytest.mark.parametrize("name", OF_APP)
def test_a_layer_is_told_of_the_app(name: str) -> None:
    app = {f"CANDLED_{part.upper()}": value for part, value in APP.items()}
    changed = load({}, {**app, f"CANDLED_{name.upper()}": OF_APP[name]})
    assert handed_on(changed.config) != handed_on(load({}, app).config)
    assert not changed.without_effect()


@pytest.mark.parametrize("name", [name for name in SETTINGS if name not in {*OURS, *OF_APP}])
def test_a_layer_is_told_of_the_setting(name: str) -> None:
    changed = load({}, {f"CANDLED_{name.upper()}": OTHER[name]})
    assert changed.origins == {name: f"CANDLED_{name.upper()}"}
    assert handed_on(changed.config) != handed_on(load({}, {}).config)


# --- a real process

CHOSEN = {
    "CORS_ORIGINS": "https://charts.example",
    "RATE_LIMIT_WINDOW_MS": "3600000",
    "CANDLED_RATE_LIMIT_SEARCH": "2",
    "CANDLED_TRUSTED_PROXIES": "127.0.0.1",
    "CANDLED_CREATE_MARKETS": "spot",
    "CANDLED_MAX_BODY_BYTES": "2048",
    "CANDLED_STREAM_CONNECTIONS": "1",
    "CANDLED_STREAM_SUBSCRIPTIONS": "1",
    "CANDLED_STREAM_MESSAGE_BYTES": "300",
    "WEBSOCKET_HEARTBEAT_INTERVAL": "1000",
    "CANDLED_LOG_FORMAT": "human",
    "CLICKHOUSE_HOST": "db.example",
    "CHART_DATA_CACHE_TTL": "60",
    "NEXT_PUBLIC_PUSHER_KEY": "abc",
    "UPSTASH_REDIS_REST_TOKEN": "hush-hush",
    "CANDLED_RATE_LIMIT_OHLCV": "3",
}


async def ask(port: int, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any, Any]:
    """A request of its own connection: status, headers, body."""

    def asked() -> tuple[int, Any, Any]:
        connection = HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        with connection.getresponse() as answer:
            found = answer.status, answer.headers, json.loads(answer.read())
        connection.close()
        return found

    return await trio.to_thread.run_sync(asked)


async def test_a_process_does_what_its_settings_say(tmp_path: Path) -> None:
    async with running("serve", "--data", str(tmp_path / "d"), home=tmp_path, variables=CHOSEN) as daemon:
        await _see_requests(daemon, commands.create_token(Config(data=tmp_path / "d"), "ingest", "feeder"))
        await _see_streams(daemon)
    said = daemon.log.read_text("utf-8")
    with pytest.raises(json.JSONDecodeError):
        json.loads(said.splitlines()[0])
    assert "hush-hush" not in said
    without = [line for line in said.splitlines() if "a setting has no effect" in line]
    set_in_vain = ("CLICKHOUSE_HOST", "CHART_DATA_CACHE_TTL", "NEXT_PUBLIC_PUSHER_KEY", "UPSTASH_REDIS_REST_TOKEN")
    for name in set_in_vain:
        assert len([line for line in without if f"origin={name} " in line]) == 1, name
    assert len(without) == len(set_in_vain)


async def _see_requests(daemon: Daemon, key: str) -> None:
    search = "/api/tradingview/search?query=TEA"
    event = b'{"market_symbol": "TEA", "timestamp": 1767603600000, "price": 12.5}'
    posted = {"Authorization": f"Bearer {key}", "Content_Type": "application/json"}
    status, _, told = await ask(daemon.port, "POST", "/api/ingest/events", event, **posted)
    assert (status, told["accepted"]) == (200, 1)
    status, _, told = await ask(daemon.port, "POST", "/api/ingest/events", b" " * 2049, **posted)
    assert (status, told["error"]) == (413, "body: expected at most 2048 bytes, got more")
    for origin, allowed in (("https://charts.example", "https://charts.example"), ("https://other.example", None)):
        _, headers, _ = await ask(daemon.port, "GET", "/api/tradingview/config", Origin=origin)
        assert headers["Access-Control-Allow-Origin"] == allowed
    for address in ("203.0.113.1", "203.0.113.2"):
        answers = [await ask(daemon.port, "GET", search, X_Forwarded_For=address) for _ in range(3)]
        assert [status for status, _, _ in answers] == [200, 200, 429]
        refusal = answers[-1][1]
        assert refusal["RateLimit-Limit"] == "2"
        assert int(refusal["Retry-After"]) > 60
    ohlcv = "/api/lightweight/ohlcv?symbol=TEA&timeframe=1m"
    answers = [await ask(daemon.port, "GET", ohlcv, X_Forwarded_For="203.0.113.3") for _ in range(4)]
    assert [status for status, _, _ in answers] == [200, 200, 200, 429]


async def _see_streams(daemon: Daemon) -> None:
    with trio.fail_after(20):
        async with connected(daemon.port) as client:
            bars = {"action": "subscribe", "channel": "bars", "symbol": "TEA"}
            assert (await client.ask(**bars, resolution="1"))["type"] == "subscribed"
            assert (await client.hear())["type"] == "snapshot"
            assert (await client.ask(**bars, resolution="5"))["code"] == "too_many_subscriptions"
            async with connected(daemon.port) as second:
                assert await second.ending() == 1013
            await client.connection.send_message("x" * 301)
            assert await client.ending() == 1009
        # Pings are answered below us: the stream is looked at as it is.
        async with await trio.open_tcp_stream("127.0.0.1", daemon.port) as stream:
            await stream.send_all(
                b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            received = b""
            with trio.fail_after(10):  # a ping comes after 1 s instead of 30
                while b"\x89" not in received.partition(b"\r\n\r\n")[2]:
                    received += await stream.receive_some()


@asynccontextmanager
async def said_address(home: Path, *flags: str, **variables: str) -> AsyncIterator[tuple[str, trio.Process]]:
    """A daemon that is only listened to: the address that it says, and its process."""
    process = await trio.lowlevel.open_process(
        [str(BIN / "candled"), "serve", "--port", "0", *flags],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment(home, **variables),
        cwd=home,
    )
    assert process.stderr is not None
    try:
        received = b""
        with trio.fail_after(60):
            while b'"listening"' not in received:
                some = await process.stderr.receive_some()
                assert some, received.decode()
                received += some
        line = next(line for line in received.splitlines() if b'"listening"' in line)
        yield json.loads(line)["address"], process
    finally:
        if process.poll() is None:
            process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def test_a_process_listens_where_and_how_it_is_told(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl command to make a certificate with")
    made = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    files = ["-keyout", "key.pem", "-out", "cert.pem", "-days", "2", "-subj", "/CN=localhost"]
    await trio.run_process([openssl, *made, *files], cwd=tmp_path, capture_stderr=True)
    flags = ["--host", "127.0.0.2", "--tls-cert", "cert.pem", "--tls-key", "key.pem"]
    async with said_address(tmp_path, *flags) as (address, _):
        scheme, host, port = address.split(":")
        assert (scheme, host) == ("https", "//127.0.0.2")
        trusting = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
        async with await trio.open_ssl_over_tcp_stream(
            "127.0.0.2", int(port), https_compatible=True, ssl_context=_for_localhost(trusting)
        ) as stream:
            await stream.send_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 ")
        with pytest.raises(OSError, match="connect"):
            await trio.open_tcp_stream("127.0.0.1", int(port))


def _for_localhost(context: ssl.SSLContext) -> ssl.SSLContext:
    context.check_hostname = False  # it is reached by its number; the certificate is checked all the same
    return context


async def test_a_stop_takes_no_longer_than_it_may(tmp_path: Path) -> None:
    variables = {"CANDLED_DRAIN_SECONDS": "0.2", "CANDLED_DATA": str(tmp_path / "d")}
    async with said_address(tmp_path, **variables) as (address, process):
        key = commands.create_token(Config(data=tmp_path / "d"), "ingest", "feeder")
        stream = await trio.open_tcp_stream("127.0.0.1", int(address.rpartition(":")[2]))
        async with stream:
            # A body that does not come is waited for as long as a stop may take: most of 10 s unless told otherwise.
            head = f"POST /api/ingest/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n"
            await stream.send_all(f"{head}Expect: 100-continue\r\nContent-Length: 9\r\n\r\n".encode())
            assert b" 100 " in await stream.receive_some()  # it is being waited for
            process.send_signal(signal.SIGTERM)
            with trio.fail_after(5):
                await process.wait()


async def test_what_is_below_the_level_is_not_said(tmp_path: Path) -> None:
    variables = {"CANDLED_LOG_LEVEL": "error", "CLICKHOUSE_HOST": "db.example"}
    async with running("serve", home=tmp_path, variables=variables) as daemon:
        pass
    assert daemon.log.read_text("utf-8") == ""
