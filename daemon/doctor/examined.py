"""Which endpoints there are at an address, and what becomes of all rules."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from daemon.doctor import lightweight, pusher, socket, udf
from daemon.doctor.asking import Asking
from daemon.doctor.rules import Broken, Finding, Rules
from storage.errors import BadRequest, Unavailable


class Wanted(NamedTuple):
    """What is asked of the doctor."""

    url: str
    only: str = ""  # a protocol; empty: whatever is found there
    symbol: str = ""  # a market to ask for
    key: str = ""


class Protocol(NamedTuple):
    """One that there are rules for."""

    path: str  # below the address of a candled
    rules: Rules[Any]
    subject: Callable[[Wanted, str], Any]  # with its address
    there: Callable[[Wanted, str], bool]  # whether something at that address speaks it


def _speaks_udf(wanted: Wanted, url: str) -> bool:
    answer = Asking(url, wanted.key).get("/config").body.lstrip()
    return answer.startswith(b"{") and b"supports_" in answer


def _speaks_lightweight(wanted: Wanted, url: str) -> bool:
    return b'"success"' in Asking(url, wanted.key).get("/markets", limit=1).body


def _speaks_ws(wanted: Wanted, url: str) -> bool:
    if _is_app(url) or urlsplit(url).scheme in ("ws", "wss"):
        return not _is_app(url)
    return Asking(url, wanted.key).ask("GET", "").status == 426


def _is_app(url: str) -> bool:
    return "/app/" in urlsplit(url).path


def _ws(url: str) -> str:
    return "ws" + url.removeprefix("http") if url.startswith("http") else url


PROTOCOLS = {
    "udf": Protocol("/api/tradingview", udf.rules, lambda w, url: udf.Udf(Asking(url, w.key), w.symbol), _speaks_udf),
    "lightweight": Protocol(
        "/api/lightweight",
        lightweight.rules,
        lambda w, url: lightweight.Lightweight(Asking(url, w.key), w.symbol),
        _speaks_lightweight,
    ),
    "ws": Protocol("/ws", socket.rules, lambda w, url: socket.Socket(_ws(url), w.symbol, w.key), _speaks_ws),
    "pusher": Protocol("", pusher.rules, lambda w, url: pusher.Pusher(_ws(url), w.symbol), lambda _, url: _is_app(url)),
}
SOCKETS = ("ws", "pusher")


def examined(wanted: Wanted) -> Iterator[Finding]:
    """What becomes of each rule; Unavailable where nothing is found that speaks a protocol with rules."""
    url = wanted.url if "://" in wanted.url else f"http://{wanted.url}"
    if urlsplit(url).scheme not in ("http", "https", "ws", "wss") or not urlsplit(url).hostname:
        raise BadRequest(f"URL: expected something like http://127.0.0.1:8000, got {wanted.url!r:.200}")
    found = list(_found(wanted, url.rstrip("/")))
    if not found:
        raise Unavailable(f"{url}: nothing there answers as {', '.join(PROTOCOLS)} do; is it the address of an API?")
    for protocol, address in found:
        yield from protocol.rules.findings(protocol.subject(wanted, address))


def _found(wanted: Wanted, url: str) -> Iterator[tuple[Protocol, str]]:
    """Each protocol with its address: the one that was given, or the one below it where a candled has it."""
    for name, protocol in PROTOCOLS.items():
        if wanted.only not in ("", name) or (url.startswith("ws") and name not in SOCKETS):
            continue
        there = [address for address in (url, url + protocol.path) if _is(wanted, protocol, address)]
        if there or wanted.only == name:
            yield protocol, there[0] if there else url


def _is(wanted: Wanted, protocol: Protocol, url: str) -> bool:
    try:
        return protocol.there(wanted, url)
    except Broken as broken:
        raise Unavailable(f"{broken.request}: {broken.answered}") from None
