"""`candled verify`: what is stored against the events, of a data directory that nobody uses or through its daemon."""

import http.client
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Protocol
from urllib.parse import urlsplit

import msgspec
import trio
from msgspec import Struct, structs

from actors.audit import EVER, Begin, End, Failed, Line, Memory, Wanted
from actors.export import moment
from daemon import commands
from daemon.config import Config
from daemon.exporting import SILENCE
from daemon.importing import refusal, seconds_of, told
from daemon.serve import stack_settings
from daemon.stack import opened
from storage.calendar import MICROS
from storage.errors import CandledError, Unavailable
from storage.findings import Checked, Day, Difference, Differences, Ledger, Progress
from storage.verify import instant

SHOWN = 20  # differences that are listed one by one


class Asked(Struct, frozen=True, kw_only=True):
    """What the command was given."""

    start: str
    end: str
    market: str | None
    repair: bool


class Reporter(Protocol):
    """Who is told how far it is."""

    def begin(self, what: str, total: int | None, done: int, unit: str) -> None: ...
    def advance(self, count: int) -> None: ...


class Wrong(CandledError):
    """What is stored is not what the events come to."""


async def follow(config: Config, asked: Asked, take: Callable[[Line], None]) -> None:
    """Have what comes of it taken, bit by bit; the last is an End."""
    wanted = Wanted(
        start=moment("--from", asked.start, -EVER) // MICROS,
        end=-(-moment("--to", asked.end, EVER) // MICROS),
        market=asked.market,
        repair=asked.repair,
        alone=True,
    )
    commands.see_exists(config)
    if commands.in_use(config):
        async with aclosing(_through_daemon(*commands.address(config), asked)) as some:
            async for line in some:
                take(line)
        return
    async with opened(structs.replace(stack_settings(config), or_read=not asked.repair)) as stack:
        if wanted.market is not None:
            await stack.engine.market(wanted.market)
        async with aclosing(stack.audit.verify(wanted)) as some:
            async for line in some:
                take(line)


async def _through_daemon(url: str, key: str, asked: Asked) -> AsyncGenerator[Line, None]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    body = {"from": asked.start, "to": asked.end, "market": asked.market, "repair": asked.repair}
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    connection = kind(parts.hostname, parts.port, timeout=SILENCE)

    def ask() -> http.client.HTTPResponse:
        connection.request("POST", "/api/admin/verify", msgspec.json.encode(body), headers)
        return connection.getresponse()

    try:
        answer = await trio.to_thread.run_sync(ask)
        while answer.status == 429:
            await trio.to_thread.run_sync(answer.read)
            await trio.sleep(seconds_of(answer.headers["Retry-After"]))
            answer = await trio.to_thread.run_sync(ask)
        if answer.status != 200:
            problem = told(await trio.to_thread.run_sync(answer.read))
            raise refusal(answer.status, f"{url} answered {answer.status}: {problem}")
        while text := await trio.to_thread.run_sync(answer.readline):
            yield msgspec.json.decode(text, type=Line)
    except (OSError, http.client.HTTPException, msgspec.DecodeError) as error:
        raise Unavailable(f"{url}: {str(error) or 'the answer was cut'}; not everything was compared") from error
    finally:
        connection.close()


async def run(config: Config, asked: Asked, report: Reporter, *, json: bool) -> End:
    """Compare, and print what comes of it; Unavailable where it could not be ended."""
    listing = _Listing(report)
    end: End | None = None

    def take(line: Line) -> None:
        nonlocal end
        if isinstance(line, Failed):
            raise Unavailable(line.error)
        if isinstance(line, End):
            end = line
        if json:
            listing.follow(line)
            _out(msgspec.json.encode(line).decode())
        else:
            for text in listing.told(line):
                _out(text)

    await follow(config, asked, take)
    if end is None:
        raise Unavailable("the answer was cut; not everything was compared")
    return end


def _out(text: str) -> None:
    print(text, flush=True)


class _Listing:
    """What is compared as lines for people."""

    def __init__(self, report: Reporter) -> None:
        self._report = report
        self._shown = self._more = 0

    def follow(self, line: Line) -> None:
        """Tell how far it is."""
        if isinstance(line, Begin):
            self._report.begin("events", line.events, 0, "events")
        elif isinstance(line, Progress):
            self._report.advance(line.events)

    def told(self, line: Line) -> list[str]:
        """What to print of a line."""
        self.follow(line)
        match line:
            case Differences(found):
                shown = found[: max(0, SHOWN - self._shown)]
                self._shown += len(shown)
                self._more += len(found) - len(shown)
                return [f"  {_difference(one)}" for one in shown]
            case Day():
                return [_day(line), *(f"  {why}" for why in (*line.problems, *line.skipped))]
            case Checked() if line.problem:
                return [f"{line.path}: {line.problem}{'; repaired' if line.repaired else ''}"]
            case Ledger() if line.wrong:
                return [
                    f"events that are not sealed: {line.missing} are missing, {line.extra} should not be there, "
                    f"{line.different} differ{'; repaired' if line.repaired else ''}"
                ]
            case Memory() if line.differences:
                return [
                    f"in memory: {line.differences} of {line.bars} bars of {line.markets} markets differ"
                    f"{f'; {line.repaired} repaired' if line.repaired else ''}"
                ]
            case End() if self._more:
                return [f"{self._more} more differences; --json lists all"]
            case _:
                return []


def _difference(one: Difference) -> str:
    stored, refolded = ("nothing" if text is None else text for text in (one.stored, one.refolded))
    where = "stored" if one.where == "store" else "in memory"
    return (
        f"{one.market} {one.resolution} {instant(one.time)} {one.measure}: {where} {stored}, "
        f"{'by the events' if one.where == 'store' else 'stored'} {refolded}"
    )


def _day(line: Day) -> str:
    told = f"{line.day} {line.kind}, {line.markets:,} markets: " + ", ".join(
        f"{rung.bars:,} of {rung.resolution} ({rung.hash[:8]})" for rung in line.rungs
    )
    if not line.differences:
        return told
    where = ", ".join(f"{rung.differences:,} of {rung.resolution}" for rung in line.rungs if rung.differences)
    repaired = f"; {line.repaired:,} repaired" if line.repaired else ""
    return f"{told}: {line.differences:,} differ, {where}{repaired}"
