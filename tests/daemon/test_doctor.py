"""The doctor finds nothing wrong with candled, and finds whatever is made wrong of what candled answers."""

import json
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from typing import Any, NamedTuple

import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketRequest, open_websocket_url, serve_websocket

from daemon.doctor import lightweight, pusher, socket, udf
from daemon.doctor.asking import Asking
from daemon.doctor.rules import Finding, Rule, Rules
from tests.daemons import BIN, environment, free_port

DAY = 86_400
DEADLINE = 60  # seconds
APP = {"PUSHER_APP_ID": "123456", "PUSHER_KEY": "my_key", "PUSHER_SECRET": "my_secret"}


class There(NamedTuple):
    """A daemon with some bars."""

    port: int
    home: Path

    def doctor(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [BIN / "candled", "doctor", *argv],
            env=environment(self.home),
            cwd=self.home,
            capture_output=True,
            text=True,
        )


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[There]:
    home, port = tmp_path_factory.mktemp("doctor"), free_port()
    variables = environment(home, RATE_LIMIT_REQUESTS="0", **APP)
    with subprocess.Popen(
        [BIN / "candled", "serve", "--port", str(port)], env=variables, cwd=home, stderr=-3
    ) as process:
        try:
            until = time.monotonic() + DEADLINE
            while asked(port, "GET", "/readyz")[0] != 200:
                assert time.monotonic() < until
                assert process.poll() is None
                threading.Event().wait(0.05)
            key = subprocess.run(
                [BIN / "candled", "token", "create", "--scope", "admin"], env=variables, cwd=home, capture_output=True
            ).stdout.decode()
            headers = {"Authorization": f"Bearer {key.strip()}", "Content-Type": "application/json"}
            status, _, body = asked(
                port, "POST", "/api/ingest/events?create=spot", json.dumps(events()).encode(), headers
            )
            assert (status, json.loads(body)["rejected_count"]) == (200, 0), body
            yield There(port, home)
        finally:
            process.send_signal(signal.SIGTERM)


def events() -> list[dict[str, object]]:
    """Trades of the last minutes, the newest in a minute that is open for a while; and one in each of some months."""
    now = int(time.time()) // 60 * 60
    at = [now + 240 - 60 * n for n in range(40) if not 10 < n < 15] + [now - 31 * DAY * n for n in range(1, 5)]
    return [
        {"market_symbol": "GOLD", "timestamp": second * 1000 + 7, "price": 2000 + n % 13, "size": 1, "trade_id": n}
        for n, second in enumerate([second + extra for second in at for extra in (0, 20)])
    ]


def asked(
    port: int, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    try:
        connection.request(method, path, body, headers or {})
        with connection.getresponse() as response:
            return response.status, dict(response.getheaders()), response.read()
    except OSError:
        return 0, {}, b""
    finally:
        connection.close()


# --- nothing is wrong with candled -----------------------------------------------------------------------------------


def test_candled_keeps_all_rules(there: There) -> None:
    done = there.doctor(f"http://127.0.0.1:{there.port}", "--json")
    found = json.loads(done.stdout)
    assert [one for one in found if one["state"] == "failed"] == []
    assert done.returncode == 0
    assert {one["protocol"] for one in found} == {"udf", "lightweight", "ws"}
    assert {one["rule"] for one in found if one["state"] == "skipped"} <= {"3 token"}
    assert len(found) == len(udf.rules.all) + len(lightweight.rules.all) + len(socket.rules.all)


def test_candled_keeps_the_rules_of_pusher(there: There) -> None:
    done = there.doctor(f"ws://127.0.0.1:{there.port}/app/{APP['PUSHER_KEY']}", "--symbol", "GOLD", "--json")
    found = json.loads(done.stdout)
    assert [one for one in found if one["state"] != "ok"] == []
    assert [one["rule"] for one in found] == [rule.name for rule in pusher.rules.all]
    assert done.returncode == 0


def test_a_wrong_answer_is_shown_with_what_was_asked_and_what_was_expected(there: There) -> None:
    def wrong(path: str, answer: Reply) -> Reply:
        return answer._replace(body=b"<html>") if "NO~SUCH" in path else answer

    with between(there, wrong) as port:
        done = there.doctor(f"http://127.0.0.1:{port}/api/tradingview")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0].startswith("failed   udf 1 json: every failure is JSON")
    assert lines[1].startswith(f"         asked     GET http://127.0.0.1:{port}/api/tradingview/symbols?symbol=NO")
    assert lines[2] == "         answered  404 <html>"
    assert lines[3] == "         expected  JSON"
    assert re.fullmatch(r"14 ok, 3 failed, 0 skipped\n", done.stderr), (done.stderr, done.stdout)


@pytest.mark.parametrize(
    ("argv", "status", "said"),
    [
        (["ftp://example.org"], 2, "URL: expected something like http://127.0.0.1:8000, got 'ftp://example.org'"),
        (["http://127.0.0.1:1"], 1, "GET http://127.0.0.1:1/config: nothing: "),
        ([], 2, "the following arguments are required: URL"),
    ],
)
def test_where_there_is_nothing_to_look_at_that_is_said(there: There, argv: list[str], status: int, said: str) -> None:
    done = there.doctor(*argv)
    assert done.returncode == status
    assert said in done.stderr


def test_an_address_without_any_protocol_is_no_success(there: There) -> None:
    done = there.doctor(f"http://127.0.0.1:{there.port}/healthz")
    assert done.returncode == 1
    assert "nothing there answers as udf, lightweight, ws, pusher do" in done.stderr


# --- whatever is made wrong is found ---------------------------------------------------------------------------------


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


Wrong = Callable[[str, Reply], Reply]
Astray = Callable[[str], str]


@contextmanager
def between(there: There, wrong: Wrong, astray: Astray = lambda path: path) -> Iterator[int]:
    """A server that asks candled, perhaps for something else, and makes its answers wrong."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one(self) -> None:
            kept = {name: value for name, value in self.headers.items() if name not in ("Host", "Connection")}
            reply = wrong(self.path, Reply(*asked(there.port, self.command, astray(self.path), headers=kept)))
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                if name.lower() not in ("content-length", "connection", "date", "server", "transfer-encoding"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)

        do_GET = do_OPTIONS = handle_one

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def member(where: str, **changes: Any) -> Wrong:
    """Members of the answers of a verb, changed; a function is told what is there, and None takes it away."""

    def wrong(path: str, reply: Reply) -> Reply:
        if f"/{where}" not in path or reply.status != 200:
            return reply
        found = json.loads(reply.body)
        if not changes.keys() <= found.keys() | {"s"}:
            return reply
        for name, change in changes.items():
            value = change(found[name]) if callable(change) else change
            found = {**found, name: value} if value is not None else {k: v for k, v in found.items() if k != name}
        return reply._replace(body=json.dumps(found).encode())

    return wrong


def rows(where: str, change: Callable[[list[Any]], Any], member: str = "data") -> Wrong:
    """The rows of a list, or of its member `data`, changed where there are some."""

    def wrong(path: str, reply: Reply) -> Reply:
        if f"/{where}" not in path or reply.status != 200:
            return reply
        found = json.loads(reply.body)
        if isinstance(found, list):
            return reply._replace(body=json.dumps(change(found)).encode()) if found else reply
        return (
            reply._replace(body=json.dumps({**found, member: change(found[member])}).encode())
            if found[member]
            else reply
        )

    return wrong


def header(name: str, value: str | None) -> Wrong:
    def wrong(_path: str, reply: Reply) -> Reply:
        kept = {n: v for n, v in reply.headers.items() if n.lower() != name.lower()}
        return reply._replace(headers=kept if value is None else {**kept, name: value})

    return wrong


def refused(pattern: str, status: int = 400, body: bytes = b'{"s":"error","errmsg":"no"}') -> Wrong:
    return lambda path, reply: Reply(status, reply.headers, body) if re.search(pattern, path) else reply


def right(_path: str, reply: Reply) -> Reply:
    return reply


def later(path: str) -> str:
    return re.sub(r"\bto=([0-9]+)\b(?!\.)", lambda match: f"to={int(match[1]) + 1}", path)


def with_next_time(path: str, reply: Reply) -> Reply:
    """Every answer with bars has `nextTime`, too."""
    if "/history" not in path or reply.status != 200 or "t" not in (told := json.loads(reply.body)):
        return reply
    return reply._replace(body=json.dumps({**told, "nextTime": told["t"][0] - 60}).encode())


class Often:
    """Refuses the sixth request for the configuration, and all after it."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, path: str, reply: Reply) -> Reply:
        self.count += "/config" in path
        return Reply(429, reply.headers, b"{}") if self.count > 5 else reply


def first(**changes: Any) -> Callable[[list[Any]], list[Any]]:
    return lambda found: [{**found[0], **changes}, *found[1:]]


def every(change: Callable[[Any], Any]) -> Callable[[list[Any]], list[Any]]:
    return lambda found: [change(one) for one in found]


Case = tuple[str, Wrong, Astray]
STRAIGHT: Astray = lambda path: path  # noqa: E731 # a table of functions

UDF: list[Case] = [
    ("1 json", refused("NO~SUCH", 404, b"<html>"), STRAIGHT),
    ("1 json", refused("nonsense", 400, b'{"s":"error","errmsg":""}'), STRAIGHT),
    ("1 json", refused("history.*NO~SUCH", 200, b'{"s":"no_data"}'), STRAIGHT),
    ("2 cors", header("Access-Control-Allow-Origin", None), STRAIGHT),
    ("2 cors", header("Access-Control-Allow-Headers", None), STRAIGHT),
    ("3 config", member("config", supported_resolutions=["1", "1D", "1"]), STRAIGHT),
    ("3 config", member("config", supports_search=False), STRAIGHT),
    ("3 config", member("config", supports_group_request=True), STRAIGHT),
    ("3 config", Often(), STRAIGHT),
    ("4 names", member("symbols", s="ok"), STRAIGHT),
    ("4 names", member("symbols", listed_exchange=""), STRAIGHT),
    ("4 names", member("symbols", timezone=None), STRAIGHT),
    ("4 names", refused("symbol=gold", 404), STRAIGHT),
    ("4 names", refused("symbol=SPOT", 404), STRAIGHT),
    ("5 symbol", member("symbols", pricescale=0), STRAIGHT),
    ("5 symbol", member("symbols", intraday_multipliers=[1, 5, 15, 30, 60, 240]), STRAIGHT),
    ("5 symbol", member("symbols", intraday_multipliers=["60", "1"]), STRAIGHT),
    ("5 symbol", member("symbols", has_seconds=False), STRAIGHT),
    ("5 symbol", member("symbols", intraday_multipliers=["30"]), STRAIGHT),
    ("6 bars", member("history", t=every(lambda at: at * 1000)), STRAIGHT),
    ("6 bars", member("history", t=every(lambda at: at + 1)), STRAIGHT),
    ("6 bars", member("history", t=every(str)), STRAIGHT),
    ("6 bars", member("history", t=lambda times: times[::-1] if len(times) > 1 else [1]), STRAIGHT),
    ("6 bars", member("history", c=lambda column: column[:-1]), STRAIGHT),
    ("6 bars", member("history", v=every(lambda _: None)), STRAIGHT),
    ("6 bars", member("history", c=every(lambda _: float("nan"))), STRAIGHT),
    ("6 bars", member("history", h=every(lambda _: 1.0)), STRAIGHT),
    ("6 bars", member("history", o=None), STRAIGHT),
    ("7 window", right, later),
    ("7 window", refused(r"history.*from=[0-9]+\.[1-9]"), STRAIGHT),
    ("7 window", refused("history.*from=-"), STRAIGHT),
    ("8 countback", right, lambda path: path.replace("countback=3", "")),
    ("8 countback", right, lambda path: path.replace("countback=2", "")),
    ("8 countback", refused("countback=-5"), STRAIGHT),
    ("8 countback", refused("countback=0", 200, b'{"s":"no_data"}'), STRAIGHT),
    (
        "9 cap",
        lambda path, reply: reply if "countback" in path else member("history", t=lambda t: t[:-1])(path, reply),
        STRAIGHT,
    ),
    (
        "9 cap",
        lambda path, reply: reply if "countback" in path else member("history", t=lambda t: t[5:])(path, reply),
        STRAIGHT,
    ),
    ("10 nothing", member("history", nextTime=lambda at: at * 1000), STRAIGHT),
    ("10 nothing", member("history", nextTime=None), STRAIGHT),
    ("10 nothing", with_next_time, STRAIGHT),
    ("10 nothing", refused("from=-86400", 200, b'{"s":"ok","t":[],"c":[]}'), STRAIGHT),
    ("11 names of resolutions", refused("resolution=D&"), STRAIGHT),
    ("12 time", refused("/time", 200, b'"2026-01-05T09:00:00Z"'), STRAIGHT),
    ("12 time", refused("/time", 200, b"1767603600"), STRAIGHT),
    ("12 quotes", rows("quotes", every(lambda one: {**one, "n": one["n"].upper()}), "d"), STRAIGHT),
    ("12 quotes", rows("quotes", lambda found: found[:1], "d"), STRAIGHT),
    ("12 quotes", rows("quotes", every(lambda one: {**one, "v": {"lp": "1"}}), "d"), STRAIGHT),
    ("13 open bar", header("Cache-Control", "public, s-maxage=30, stale-while-revalidate=60"), STRAIGHT),
    ("13 open bar", header("Cache-Control", None), STRAIGHT),
    ("14 leniency", refused("//config", 404), STRAIGHT),
    ("14 leniency", refused("resolution=1H"), STRAIGHT),
    ("14 leniency", refused("whatever"), STRAIGHT),
    ("search", lambda path, reply: refused("/search", 200, b"{}")(path, reply) if "GOLD" in path else reply, STRAIGHT),
    ("search", rows("search", first(exchange=None)), STRAIGHT),
    (
        "search",
        lambda path, reply: rows("search", lambda _: [])(path, reply) if "query=gold" in path else reply,
        STRAIGHT,
    ),
    (
        "marks",
        lambda path, reply: Reply(200, reply.headers, b'[{"id":"1","time":1}]') if "/marks" in path else reply,
        STRAIGHT,
    ),
    (
        "marks",
        refused("/timescale_marks", 200, b'{"id":[1],"time":["x"]}'),
        STRAIGHT,
    ),
]

LIGHTWEIGHT: list[Case] = [
    ("1 time", rows("ohlcv", first(time=1_767_603_600_000, timestamp=1_767_603_600_000)), STRAIGHT),
    ("1 time", rows("ohlcv", first(time="1767603600")), STRAIGHT),
    ("2 iso", rows("ohlcv", first(time="2026-01-05")), STRAIGHT),
    ("2 iso", rows("ohlcv", first(timestamp=None)), STRAIGHT),
    ("3 order", rows("ohlcv", lambda found: [found[0], *found]), STRAIGHT),
    ("3 order", rows("ohlcv", lambda found: [{**found[0], "time": found[0]["time"] - 1}, *found[1:]]), STRAIGHT),
    ("4 values", rows("ohlcv", first(close="12.5")), STRAIGHT),
    ("4 values", rows("ohlcv", first(high=1e14)), STRAIGHT),
    ("4 values", rows("ohlcv", first(low=1e9)), STRAIGHT),
    ("5 whitespace", rows("ohlcv", lambda found: [*found, {"time": 4_000_000_000}]), STRAIGHT),
    ("6 window", right, later),
    ("6 window", right, lambda path: path.replace("limit=2&", "limit=3&")),
    ("6 window", member("ohlcv", meta={"count": 7}), STRAIGHT),
    ("6 window", refused(r"from=[0-9-]+T"), STRAIGHT),
    ("7 nothing", refused("1971", 404, b'{"success":false,"error":{"code":"a","message":"b"}}'), STRAIGHT),
    ("7 nothing", refused("nonsense", 400, b'{"error":"no"}'), STRAIGHT),
    ("7 nothing", refused("NO~SUCH", 400, b'{"success":false,"error":{"code":"a","message":"b"}}'), STRAIGHT),
    ("cors", header("Access-Control-Allow-Origin", "https://elsewhere.example"), STRAIGHT),
    ("markets", rows("markets", first(current_price="2000")), STRAIGHT),
    ("markets", rows("markets", lambda found: found * 30), STRAIGHT),
]


def found(rule: Rule[Any], subject: Any) -> Finding:
    """What becomes of one rule."""
    alone: Rules[Any] = Rules("alone")
    alone.all.append(rule)
    return next(alone.findings(subject))


def named(cases: list[Case]) -> list[Any]:
    return [pytest.param(*case, id=f"{case[0]}-{n}") for n, case in enumerate(cases)]


@pytest.mark.parametrize(("name", "wrong", "astray"), named(UDF))
def test_a_wrong_datafeed_is_found_out(there: There, name: str, wrong: Wrong, astray: Astray) -> None:
    rule = next(rule for rule in udf.rules.all if rule.name == name)
    with between(there, wrong, astray) as port:
        subject = udf.Udf(Asking(f"http://127.0.0.1:{port}/api/tradingview"))
        finding = found(rule, subject)
        assert finding.state == "failed", finding


@pytest.mark.parametrize(("name", "wrong", "astray"), named(LIGHTWEIGHT))
def test_wrong_rows_are_found_out(there: There, name: str, wrong: Wrong, astray: Astray) -> None:
    rule = next(rule for rule in lightweight.rules.all if rule.name == name)
    with between(there, wrong, astray) as port:
        subject = lightweight.Lightweight(Asking(f"http://127.0.0.1:{port}/api/lightweight"))
        finding = found(rule, subject)
        assert finding.state == "failed", finding


def test_who_comes_too_often_waits_as_long_as_it_is_told(there: There) -> None:
    refusals = [Reply(429, {"Retry-After": "1"}, b'{"s":"error","errmsg":"too often"}')]

    def wrong(path: str, reply: Reply) -> Reply:
        return refusals.pop() if "/time" in path and refusals else reply

    rule = next(rule for rule in udf.rules.all if rule.name == "12 time")
    with between(there, wrong) as port:
        assert found(rule, udf.Udf(Asking(f"http://127.0.0.1:{port}/api/tradingview"))).state == "ok"
    assert not refusals


def test_every_rule_has_something_that_it_finds() -> None:
    for cases, of in ((UDF, udf), (LIGHTWEIGHT, lightweight), (SOCKET, socket), (PUSHER, pusher)):
        assert {case[0] for case in cases} == {rule.name for rule in of.rules.all}


# --- sockets ---------------------------------------------------------------------------------------------------------

Message = dict[str, Any]
Twist = Callable[[Message], Message | None]


def changed(kind: str, **changes: Any) -> Twist:
    """Messages of a type with members changed; None takes a member away."""

    def twist(message: Message) -> Message | None:
        if message["type"] != kind:
            return message
        made = {name: change(message.get(name)) if callable(change) else change for name, change in changes.items()}
        return {name: value for name, value in {**message, **made}.items() if value is not None}

    return twist


SOCKET: list[tuple[str, Twist]] = [
    ("1 ping", changed("pong", id=None)),
    ("2 errors", changed("error", code="oops")),
    ("2 errors", changed("error", message=None)),
    ("2 resolution", changed("error", type="subscribed")),
    ("3 token", changed("error", code="unauthorized", message="eyJhbGciOiJub25lIn0.e30. is wrong")),
    ("3 token", changed("error", code="invalid_message")),
    ("4 order", changed("subscribed", type="bar")),
    ("4 order", changed("subscribed", id=None)),
    ("7 snapshot", changed("snapshot", epoch=None)),
    ("7 snapshot", changed("snapshot", data=lambda bars: bars[::-1])),
    ("7 snapshot", changed("snapshot", data=lambda bars: [{"time": bars[0]["time"]}])),
    ("7 snapshot", changed("snapshot", data=lambda bars: [{**bars[0], "low": 1e9}])),
    ("8 resume", changed("subscribed", recovered=False)),
    ("8 resume", changed("subscribed", recovered=True)),
]


def event(kind: str, **changes: Any) -> Twist:
    """As `changed`, of frames."""
    twist = changed(kind, **changes)

    def twisted(frame: Message) -> Message | None:
        found = twist({**frame, "type": frame["event"]})
        return None if found is None else {name: value for name, value in found.items() if name != "type"}

    return twisted


PUSHER: list[tuple[str, Twist]] = [
    ("1 opening", event(pusher.OPENED, data=json.loads)),
    ("1 opening", event(pusher.OPENED, data=lambda data: data.replace(".", "-"))),
    ("1 opening", event(pusher.OPENED, data=lambda data: data.replace("activity", "idle"))),
    ("1 opening", event(pusher.OPENED, channel="x")),
    ("2 refusal", event(pusher.ERROR, data='{"code":4001}')),
    ("3 channels", event(pusher.SUBSCRIBED, data=json.loads)),
    ("3 channels", event(pusher.SUBSCRIBED, event=pusher.PONG)),
    ("4 ping", event(pusher.PONG, channel="x")),
    ("5 versions", event(pusher.OPENED, event=pusher.ERROR)),
    ("6 signature", event(pusher.DENIED, event=pusher.SUBSCRIBED)),
    ("8 client events", event(pusher.ERROR, data=lambda data: {**data, "code": None})),
    ("9 cache", event(pusher.MISS, channel="other")),
    ("13 prices", event("price-update", data=lambda data: data.replace('"close":', '"close":null,"x":'))),
    ("13 prices", event("price-update", data=lambda data: data.replace('"timestamp":', '"timestamp":0.5,"x":'))),
    ("15 nonsense", event(pusher.PONG, event=7)),
]


@contextmanager
def sockets_between(port: int, path: str, twist: Twist) -> Iterator[str]:
    """The address of a server that passes on what is said, and makes what is answered wrong."""

    under_way = 0

    async def answer(request: WebSocketRequest) -> None:
        nonlocal under_way
        under_way += 1
        try:
            await between_two(request)
        finally:
            under_way -= 1

    async def between_two(request: WebSocketRequest) -> None:
        ours = await request.accept()
        async with open_websocket_url(f"ws://127.0.0.1:{port}{request.path}") as theirs, trio.open_nursery() as nursery:

            async def back() -> None:
                try:
                    while True:
                        said = twist(json.loads(await theirs.get_message()))
                        if said is not None:
                            await ours.send_message(json.dumps(said))
                except ConnectionClosed as closed:
                    if closed.reason is not None:
                        await ours.aclose(closed.reason.code, closed.reason.reason)
                nursery.cancel_scope.cancel()

            nursery.start_soon(back)
            with suppress(ConnectionClosed):
                while True:
                    await theirs.send_message(await ours.get_message())
            nursery.cancel_scope.cancel()

    ports: Queue[int] = Queue()
    stop: list[Callable[[], None]] = []

    async def serve() -> None:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve_websocket, answer, "127.0.0.1", 0, None)
            token, over = trio.lowlevel.current_trio_token(), trio.Event()
            stop.append(lambda: token.run_sync_soon(over.set))
            ports.put(server.port)
            await over.wait()
            with trio.move_on_after(5):
                while under_way:  # noqa: ASYNC110 # connections that end tell nobody
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    try:
        yield f"ws://127.0.0.1:{ports.get(timeout=DEADLINE)}{path}"
    finally:
        stop[0]()
        thread.join()


@pytest.mark.parametrize(("name", "twist"), [pytest.param(*case, id=f"{case[0]}-{n}") for n, case in enumerate(SOCKET)])
def test_a_wrong_socket_is_found_out(there: There, name: str, twist: Twist) -> None:
    rule = next(rule for rule in socket.rules.all if rule.name == name)
    with sockets_between(there.port, "/ws", twist) as url:
        finding = found(rule, socket.Socket(url, "GOLD"))
        assert finding.state == "failed", finding


# trio-websocket leaves the socket of a connection that its peer has ended to the collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("name", "twist"), [pytest.param(*case, id=f"{case[0]}-{n}") for n, case in enumerate(PUSHER)])
def test_a_wrong_pusher_is_found_out(there: There, name: str, twist: Twist) -> None:
    rule = next(rule for rule in pusher.rules.all if rule.name == name)
    with sockets_between(there.port, f"/app/{APP['PUSHER_KEY']}", twist) as url:
        finding = found(rule, pusher.Pusher(url, "GOLD"))
        assert finding.state == "failed", finding
