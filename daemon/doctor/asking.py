"""Asks over HTTP, and shows what was asked and answered."""

import http.client
import time
from collections.abc import Mapping
from contextlib import closing
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

import msgspec

from daemon.doctor.rules import Broken
from storage.errors import BadRequest

PATIENCE = 30.0  # seconds for one answer
LARGEST = 64 << 20  # bytes of one
LONGEST = 120  # seconds that a server may ask us to wait, where we come too often
TOO_MANY = 429
CONFIG = "/config"  # which may never be refused so
ORIGIN = "https://charts.example"


class Answer(NamedTuple):
    """What came back; header names are lower-case."""

    request: str
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def shown(self) -> str:
        """Status and body, for whoever is told what is wrong with them."""
        return f"{self.status} {self.body.decode('utf-8', 'backslashreplace')}"

    def json(self) -> Any:
        """The body as JSON; Broken where it is none. What JSON does not have (NaN, Infinity) is none."""
        try:
            return msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise self.broken("JSON") from None

    def fields(self) -> dict[str, Any]:
        """The body as a JSON object."""
        found = self.json()
        if not isinstance(found, dict):
            raise self.broken("a JSON object")
        return found

    def broken(self, expected: str, part: object = None) -> Broken:
        """What is wrong with it, or with a part of it."""
        answered = self.shown if part is None else f"{self.status} {_text(part)}"
        return Broken(self.request, answered, expected)

    def see(self, good: bool, expected: str, part: object = None) -> None:
        """Raise Broken unless it is good."""
        if not good:
            raise self.broken(expected, part)


def _text(part: object) -> str:
    return part if isinstance(part, str) else msgspec.json.encode(part).decode()


def _seconds(answer: Answer) -> int:
    """How long to wait before asking again; 0 where it does not say, or too long."""
    text = answer.headers.get("retry-after", "")
    return int(text) if text.isdecimal() and int(text) <= LONGEST else 0


class Asking:
    """One server."""

    def __init__(self, base: str, key: str = "") -> None:
        parts = urlsplit(base)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BadRequest(f"URL: expected something like http://127.0.0.1:8000, got {base!r:.200}")
        self.base = base.rstrip("/")
        self._host, self._port, self._secure = parts.hostname, parts.port, parts.scheme == "https"
        self._path = parts.path.rstrip("/")
        self._headers = {"Origin": ORIGIN, "User-Agent": "candled-doctor"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self.last = ("", "")  # what was asked last, and what was answered

    def get(self, path: str, /, **query: object) -> Answer:
        """GET a path below the base; a parameter that is None is left out. A trailing `_` is not part of its name."""
        named = {name.rstrip("_"): value for name, value in query.items() if value is not None}
        return self.ask("GET", f"{path}?{urlencode(named)}" if named else path)

    def ask(self, method: str, target: str, **headers: str) -> Answer:
        """Ask for what is below the base."""
        request = f"{method} {self.base}{target}"
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            status, received, body = self._asked(method, self._path + target, {**self._headers, **named})
        except (OSError, http.client.HTTPException) as error:
            raise Broken(request, f"nothing: {error or type(error).__name__}", "an answer") from None
        answer = Answer(request, status, received, body)
        if status == TOO_MANY and target != CONFIG and (wait := _seconds(answer)):
            time.sleep(wait)
            return self.ask(method, target, **headers)
        self.last = request, answer.shown
        return answer

    def _asked(self, method: str, target: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        with closing(kind(self._host, self._port, timeout=PATIENCE)) as connection:
            connection.request(method, target, headers=headers)
            with connection.getresponse() as response:
                received = {name.lower(): value for name, value in response.getheaders()}
                return response.status, received, response.read(LARGEST)
