"""What a rule is, and what became of it."""

from collections.abc import Callable, Iterator
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar

from msgspec import Struct

SHOWN = 300  # characters of an answer
ODD = (AttributeError, IndexError, KeyError, TypeError, ValueError)  # what a member of another type comes to


class Subject(Protocol):
    """What rules look at."""

    @property
    def last(self) -> tuple[str, str]:
        """What was asked last, and what was answered."""


S = TypeVar("S", bound=Subject)


class Broken(Exception):
    """An answer is not as clients need it."""

    def __init__(self, request: str, answered: str, expected: str) -> None:
        super().__init__(request, answered, expected)
        self.request, self.answered, self.expected = request, answered, expected


class Skipped(Exception):
    """A rule that nothing can be said about here, and why."""


class Finding(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What became of a rule."""

    protocol: str
    rule: str
    says: str
    state: Literal["ok", "failed", "skipped"]
    reason: str = ""  # for which it was skipped
    request: str = ""  # the others where it failed: what was asked,
    answered: str = ""  # the part of the answer that is wrong,
    expected: str = ""  # and what it should be


class Rule(NamedTuple, Generic[S]):
    """One thing that clients need; `check` raises Broken or Skipped."""

    name: str
    says: str
    check: Callable[[S], None]


class Rules(Generic[S]):
    """The rules of one protocol, in the order in which they are looked at."""

    def __init__(self, protocol: str) -> None:
        self.protocol = protocol
        self.all: list[Rule[S]] = []

    def __call__(self, name: str, says: str) -> Callable[[Callable[[S], None]], Callable[[S], None]]:
        """Add a rule: its name and what it says."""

        def added(check: Callable[[S], None]) -> Callable[[S], None]:
            self.all.append(Rule(name, says, check))
            return check

        return added

    def findings(self, subject: S) -> Iterator[Finding]:
        """What becomes of each rule."""
        for rule in self.all:
            told: dict[str, Any] = {"protocol": self.protocol, "rule": rule.name, "says": rule.says}
            try:
                rule.check(subject)
            except Skipped as skipped:
                yield Finding(**told, state="skipped", reason=str(skipped))
            except Broken as broken:
                yield failed(told, broken)
            except ODD:
                yield failed(told, Broken(*subject.last, "an answer of the documented shape"))
            else:
                yield Finding(**told, state="ok")


def failed(told: dict[str, Any], broken: Broken) -> Finding:
    """What is told of a rule that is broken."""
    parts = {"request": broken.request, "answered": cut(broken.answered), "expected": broken.expected}
    return Finding(**told, **parts, state="failed")


def cut(text: str) -> str:
    """As much of an answer as anybody wants to read."""
    return text if len(text) <= SHOWN else f"{text[: SHOWN // 2]} … {text[-SHOWN // 2 :]}"
