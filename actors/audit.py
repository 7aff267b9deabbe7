"""Compares what is stored with what the ledger comes to, for whoever asks, and by itself now and then; and repairs it.

A job of the janitor, so that no file moves meanwhile. It works through the days at low priority. Its own rounds also
rest: what a day took is a small part of the time until the next one.
"""

import logging
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import aclosing, suppress
from typing import Protocol

import trio
from msgspec import Struct, structs

from actors.background import Background, Pause
from actors.reading import Astray
from storage import archive, intact, mending, verify
from storage.archive import Moved
from storage.calendar import DAY, MICROS
from storage.errors import CandledError, Conflict, Unavailable
from storage.events import Array, Events
from storage.findings import Checked, Day, Difference, Differences, Ledger, Progress, Source, Spots, Unit
from storage.intact import Unsealed
from storage.partitions import FOLDERS, Part, Partition
from storage.records import Market
from storage.sealed import Damaged, Sealed

log = logging.getLogger(__name__)

EVER = 1 << 40  # seconds: further than any event
BUDGET = 5.0  # seconds of work on what was asked for, until the janitor's other jobs may have their turn
FIRST = 600.0  # seconds after the start until its first own round
SHARE = 0.03  # of the time that its own rounds take
STALLED = 60.0  # seconds that whoever asked may take for a line
SPOTS = 2_000  # instants in one batch that has bars folded again
REMEMBERED = 100_000  # bars that differ in the store, and need not be told of once more


class Begin(Struct, frozen=True, tag="begin"):
    """What is to be compared."""

    days: int  # of each kind one
    events: int  # about so many


class Memory(Struct, frozen=True, tag="memory"):
    """The bars in memory, compared with what is stored and what is not yet."""

    markets: int
    bars: int
    differences: int
    repaired: int = 0


class Failed(Struct, frozen=True, tag="error"):
    """Why it could not go on."""

    error: str


class End(Struct, kw_only=True, tag="end"):
    """What it all came to."""

    days: int = 0  # of each kind one
    events: int = 0
    bars: int = 0
    files: int = 0
    differences: int = 0  # bars, and events that are not in the database as they are in the journal
    problems: int = 0  # files, and days that could not be compared
    repaired: int = 0
    seconds: float = 0.0

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong, or not any more."""
        return self.differences == self.repaired and not self.problems

    def add(self, line: "Line") -> None:
        """Count a line."""
        match line:
            case Progress():
                self.events += line.events
            case Day():
                self.days += 1
                self.bars += sum(rung.bars for rung in line.rungs)
                self.differences += line.differences
                self.problems += len(line.problems)
                self.repaired += line.repaired
            case Checked():
                self.files += 1
                self.problems += bool(line.problem) and not line.repaired
            case Ledger():
                self.differences += line.wrong
                self.repaired += line.wrong if line.repaired else 0
            case Memory():
                self.differences += line.differences
                self.repaired += line.repaired


class Rest(Struct, frozen=True, tag="rest"):
    """Nothing is held on to just now: files may move."""


Line = Begin | Checked | Ledger | Progress | Differences | Day | Memory | Rest | Failed | End


class Wanted(Struct, frozen=True, kw_only=True):
    """What is to be compared."""

    start: int = -EVER  # seconds; every UTC day that has something of it is compared as a whole
    end: int = EVER
    market: str | None = None
    repair: bool = False
    alone: bool = False  # nobody else needs the machine


class AuditStatistics(Struct, frozen=True):
    """How its own rounds go."""

    rounds: int
    last: float  # when one was over, Unix seconds; 0: none was
    days: int  # in that one
    bars: int
    differences: int
    compared: int  # bars, since the start, also those of whoever asked
    wrong: list[str]  # what is known to be wrong now


class Shelf(Protocol):
    """What is asked of the store."""

    async def adopt(self, moved: Moved) -> None: ...
    async def damaged(self, file: Sealed, why: str) -> None: ...
    async def put_right(self, wanted: Events, unwanted: Array) -> None: ...
    def note(self, where: Partition, why: str) -> None: ...
    def mended(self, where: Partition) -> None: ...


class Rings(Protocol):
    """What is asked of the engine."""

    async def market(self, symbol: str) -> Market: ...
    def in_memory(self) -> list[int]: ...
    async def astray(self, slot: int) -> tuple[int, list[Astray]]: ...


class Way(Protocol):
    """What is asked of intake."""

    async def touch(self, instants: Sequence[tuple[int, int]]) -> int: ...


class Audit:
    """One request at a time; its own rounds wait for those."""

    name = "audit"

    def __init__(
        self,
        source: Source,
        shelf: Shelf,
        rings: Rings,
        intake: Way,
        flushed: Callable[[int], Awaitable[None]],
        *,
        now: Callable[[], float],
        seconds: float = 86400.0,
    ) -> None:
        """Its own rounds begin every `seconds`; 0: never."""
        self._source, self._shelf, self._rings, self._intake, self._flushed = source, shelf, rings, intake, flushed
        self._now, self._every = now, seconds
        self._gentle, self._brisk = Background(), Background(rest=0)
        self._asked: tuple[Wanted, trio.MemorySendChannel[Line], AsyncGenerator[Line, None]] | None = None
        self._own: AsyncGenerator[Line, None] | None = None
        self._tally = End()
        self._began = 0.0
        self._next = now() + min(FIRST, seconds) if seconds else math.inf
        self._rest_until = -math.inf  # on the loop's clock
        self._wrong: dict[tuple[str, str], str] = {}  # by kind and day
        self._rounds = self._compared = 0
        self._last, self._found = 0.0, End()

    async def verify(self, wanted: Wanted) -> AsyncGenerator[Line, None]:
        """Compare, and repair where that is wanted; Conflict while another one is under way."""
        if self._asked is not None:
            raise Conflict("what is stored is being verified already; wait for that")
        send, receive = trio.open_memory_channel[Line](0)
        asked = self._asked = wanted, send, self._lines(wanted, self._brisk if wanted.alone else self._gentle)
        async with receive:
            try:
                async for line in receive:
                    yield line
            finally:
                if self._asked is asked:
                    send.close()

    def due(self) -> bool:
        """Whether somebody asked, or it is time for the next day of its own round."""
        if self._asked is not None:
            return True
        return self._now() >= self._next and trio.current_time() >= self._rest_until

    async def run(self) -> None:
        """Go on."""
        if self._asked is not None:
            await self._serve()
        else:
            await self._round()

    def statistics(self) -> AuditStatistics:
        """Counters for metrics and health."""
        found = self._found
        return AuditStatistics(
            self._rounds,
            self._last,
            found.days,
            found.bars,
            found.differences,
            self._compared,
            list(self._wrong.values()),
        )

    # --- at whose request

    async def _serve(self) -> None:
        assert self._asked is not None
        wanted, send, lines = asked = self._asked
        until = trio.current_time() + BUDGET
        over = True
        try:
            async for line in lines:
                self._know(line, whole=wanted.market is None)
                if not isinstance(line, Rest):
                    with trio.fail_after(STALLED):
                        await send.send(line)
                if isinstance(line, Rest) and trio.current_time() >= until:
                    over = False
                    return
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            log.info("verify: whoever asked went away")
        except (CandledError, OSError) as error:
            log.error("verify: %s", error)
            with trio.move_on_after(STALLED), suppress(trio.BrokenResourceError):
                await send.send(Failed(str(error)))
        finally:
            if over and self._asked is asked:
                self._asked = None
                send.close()
                with trio.CancelScope(shield=True):
                    await lines.aclose()

    # --- by itself

    async def _round(self) -> None:
        """One step of its own round, and a rest that is as long as its share demands."""
        began = trio.current_time()
        if self._own is None:
            self._own, self._tally = self._lines(Wanted(), self._gentle, newest_first=True), End()
            self._next = self._now() + self._every
            self._began = self._now()
        step = None
        try:
            async for step in self._own:
                self._know(step, whole=True)
                self._tally.add(step)
                if isinstance(step, (Rest, Ledger, End)):
                    break
        except BaseException:
            self._own = None
            raise
        if step is None or isinstance(step, End):
            await self._own.aclose()
            self._own = None
            self._rounds += 1
            self._last, self._found = self._now(), self._tally
        else:
            self._next = self._began  # the round goes on
        took = trio.current_time() - began
        self._rest_until = trio.current_time() + took * (1 / SHARE - 1)
        if self._own is None:
            self._next = max(self._began + self._every, self._now())

    def _know(self, line: Line, *, whole: bool) -> None:
        """Remember what is wrong, and what is not any more."""
        if not isinstance(line, Day):
            return
        self._compared += sum(rung.bars for rung in line.rungs)
        key = line.kind, line.day
        if line.differences > line.repaired:
            where = ", ".join(f"{rung.differences} of {rung.resolution}" for rung in line.rungs if rung.differences)
            self._wrong[key] = f"{line.kind} {line.day}: {line.differences - line.repaired} bars differ ({where})"
            log.error("audit: %s", self._wrong[key])
        elif whole or line.differences:
            self._wrong.pop(key, None)

    # --- what is done

    async def _lines(
        self, wanted: Wanted, background: Background, *, newest_first: bool = False
    ) -> AsyncGenerator[Line, None]:
        tally, began = End(), time.perf_counter()
        async with aclosing(self._compare(wanted, background, newest_first)) as lines:
            async for line in lines:
                tally.add(line)
                yield line
        tally.seconds = round(time.perf_counter() - began, 3)
        yield tally

    async def _compare(self, wanted: Wanted, background: Background, newest_first: bool) -> AsyncGenerator[Line, None]:
        only = None if wanted.market is None else [(await self._rings.market(wanted.market)).slot]
        journal = Checked(path="journal", problem=await background.run(_journal, self._source))
        yield journal
        if damage := await background.run(_state, self._source):
            yield Checked(path="state.db", problem=damage)
        async with aclosing(self._files(wanted, background, only)) as files:
            async for line in files:
                yield line
        if not journal.problem:
            yield await self._ledger(wanted, background)
        units = await background.run(_units, self._source, wanted.start, wanted.end, only)
        yield Begin(len(units), sum(unit.events for unit in units))
        if newest_first:
            today = int(self._now()) // DAY * DAY
            units.sort(key=lambda unit: (unit.days[-1] >= today, -unit.days[-1], unit.kind))
        told: set[tuple[str, str, int]] = set()  # bars that differ in the store
        for unit in units:
            yield Rest()
            async with aclosing(self._days(unit, only, wanted.repair, background)) as lines:
                async for one in lines:
                    if isinstance(one, Differences) and not wanted.repair and len(told) < REMEMBERED:
                        told.update((each.market, each.resolution, each.time) for each in one.found)
                    yield one
        async with aclosing(self._memory(only, wanted.repair, told, background)) as lines:
            async for one in lines:
                yield one

    async def _files(
        self, wanted: Wanted, background: Background, only: Sequence[int] | None
    ) -> AsyncGenerator[Line, None]:
        sealed_files, parts = await background.run(_files, self._source)
        for file in sealed_files:
            reach = (file.low_ts // MICROS, file.high_ts // MICROS, file.low_market, file.high_market)
            if file.content and not _near(wanted, only, *reach):
                continue
            yield await self._events(file, wanted.repair, background)
            yield Rest()
        broken: dict[Partition, list[Checked]] = {}
        for part in parts:
            if not _near(wanted, only, part.low, part.high - 1, part.market_low, part.market_high):
                continue
            line = await self._bars(part, background)
            if line.problem and wanted.repair:
                broken.setdefault(part.partition, []).append(line)
            else:
                yield line
                yield Rest()
        for where, lines in broken.items():
            why = await self._rebuilt(where, background)
            for line in lines:
                yield structs.replace(line, problem=f"{line.problem}{why}", repaired=not why)

    async def _events(self, file: Sealed, repair: bool, background: Background) -> Checked:
        why = await background.run(_wrong_events, self._source, file)
        path = f"raw/{file.file}"
        if why and not file.damaged:
            now, _ = await background.run(_files, self._source)
            if file not in now:
                return Checked(path=path)  # it was merged into another one meanwhile
            await self._shelf.damaged(file, why)
        elif file.damaged and not why:
            if repair:
                await self._shelf.damaged(file, "")
            why = f"it is whole again, but was left out: {file.damaged}"
            return Checked(path=path, problem=why, repaired=repair)
        return Checked(path=path, problem=why)

    async def _bars(self, part: Part, background: Background) -> Checked:
        why = await background.run(_wrong_bars, self._source, part)
        if why:
            _, now = await background.run(_files, self._source)
            if part not in now:
                return Checked(path=f"archive/{part.path}")  # it was written again meanwhile
            self._shelf.note(part.partition, f"archive/{part.path}: {why}")
        return Checked(path=f"archive/{part.path}", problem=why)

    async def _rebuilt(self, where: Partition, background: Background) -> str:
        """Write the files of a partition again from events; why not, or nothing."""
        try:
            moved = await background.run(mending.rebuilt, self._source, where, self._now())
            await self._shelf.adopt(moved)
        except (CandledError, OSError) as error:
            return f"; it cannot be rebuilt: {error}"
        await background.run(_unlink, self._source, moved.old)
        self._shelf.mended(where)
        return ""

    async def _ledger(self, wanted: Wanted, background: Background) -> Ledger:
        found = await background.run(_unsealed, self._source)
        if not found.told.wrong or not wanted.repair:
            return found.told
        await self._shelf.put_right(found.wanted, found.unwanted)
        await self._mend(found.spots, background)
        again = await background.run(_unsealed, self._source)
        return structs.replace(found.told, repaired=not again.told.wrong)

    async def _days(
        self, unit: Unit, only: Sequence[int] | None, repair: bool, background: Background
    ) -> AsyncGenerator[Line, None]:
        spots = Spots()
        days: list[Day] = []
        async with aclosing(self._once(unit, only, spots, background)) as lines:
            async for line in lines:
                if isinstance(line, Day):
                    days.append(line)
                else:
                    yield line
        if repair and any(line.differences for line in days):
            left = await self._mend(spots, background)
            async with aclosing(self._once(unit, only, Spots(), background)) as again:
                after = {line.day: line.differences async for line in again if isinstance(line, Day)}
            why = [f"{left} instants of these days cannot be folded again"] if left else []
            days = [
                structs.replace(
                    line,
                    repaired=line.differences - after.get(line.day, 0),
                    problems=[*line.problems, *(why if after.get(line.day, 0) else [])],
                )
                for line in days
            ]
        for line in days:
            yield line

    async def _once(
        self, unit: Unit, only: Sequence[int] | None, spots: Spots, background: Background
    ) -> AsyncGenerator[Progress | Differences | Day, None]:
        while True:
            walk = _Walk(self._source, unit, only, spots)
            try:
                while (line := await background.run(walk.step)) is not None:
                    yield line
                return
            except Damaged as damage:  # it is left out from here on
                await self._shelf.damaged(damage.file, damage.why)
            finally:
                walk.close()

    async def _memory(
        self, only: Sequence[int] | None, repair: bool, told: set[tuple[str, str, int]], background: Background
    ) -> AsyncGenerator[Line, None]:
        markets = bars = odd = left = 0
        for slot in self._rings.in_memory():
            if only is not None and slot not in only:
                continue
            try:
                count, found = await self._rings.astray(slot)
            except Unavailable as error:
                log.warning("verify: bars in memory: %s", error)
                continue
            markets += 1
            bars += count
            # Where the store is wrong, memory may well be right.
            differing = await background.run(_told, self._source, slot, found) if found else []
            differing = [one for one in differing if (one.market, one.resolution, one.time) not in told]
            if not differing:
                continue
            odd += len({(one.resolution, one.time) for one in differing})
            yield Differences(differing)
            if repair:
                spots = Spots()
                await background.run(_placed, self._source, slot, found, spots)
                await self._mend(spots, background)
                _, after = await self._rings.astray(slot)
                left += _bars_of(after)
        yield Memory(markets, bars, odd, odd - left if repair else 0)

    async def _mend(self, spots: Spots, background: Background) -> int:
        """Have the bars of all resolutions around these instants folded again from the ledger; how many could not be.

        That is a commit like any other, which takes nothing back: readers and streams hear of it, and a rebuild of
        the store does the same again.
        """
        good, left = await background.run(_mendable, self._source, spots)
        for at in range(0, len(good), SPOTS):
            some = [(slot, second * MICROS) for slot, second in good[at : at + SPOTS]]
            await self._flushed(await self._intake.touch(some))
        return left


class _Walk:
    """Steps of a comparison, each on a thread of its own."""

    def __init__(self, source: Source, unit: Unit, only: Sequence[int] | None, spots: Spots) -> None:
        self._pause: Pause = lambda: None
        self._steps: Generator[Progress | Differences | Day, None, None] = verify.compared(
            source, unit, only, spots, lambda: self._pause()
        )

    def step(self, pause: Pause) -> Progress | Differences | Day | None:
        self._pause = pause
        return next(self._steps, None)

    def close(self) -> None:
        self._steps.close()


# --- work on the background's thread


def _units(pause: Pause, source: Source, start: int, end: int, only: Sequence[int] | None) -> list[Unit]:
    return verify.units(source, start, end, only, pause)


def _files(_: Pause, source: Source) -> tuple[list[Sealed], list[Part]]:
    return intact.files(source)


def _journal(pause: Pause, source: Source) -> str:
    return intact.wrong_journal(source, pause)


def _state(_: Pause, source: Source) -> str:
    return source.markets.damage()


def _wrong_events(_: Pause, source: Source, file: Sealed) -> str:
    return intact.wrong_events(source, file)


def _wrong_bars(pause: Pause, source: Source, part: Part) -> str:
    return intact.wrong_bars(source, part, pause)


def _unsealed(pause: Pause, source: Source) -> Unsealed:
    return intact.unsealed(source, pause)


def _unlink(_: Pause, source: Source, parts: Sequence[Part]) -> None:
    archive.unlink(source.folder / "archive", parts)


def _mendable(_: Pause, source: Source, spots: Spots) -> tuple[list[tuple[int, int]], int]:
    return mending.mendable(source, spots)


def _placed(_: Pause, source: Source, slot: int, found: Sequence[Astray], spots: Spots) -> None:
    mending.placed(source, slot, [(one.rung, one.t) for one in found], spots)


def _told(_: Pause, source: Source, slot: int, found: Sequence[Astray]) -> list[Difference]:
    (market,) = source.markets.described([slot])
    return [
        Difference(
            market.kind,
            FOLDERS[one.rung],
            market.market_symbol,
            one.t,
            one.measure,
            one.memory,
            one.stored,
            "memory",
        )
        for one in found
    ]


def _bars_of(found: Sequence[Astray]) -> int:
    return len({(one.rung, one.t) for one in found})


def _near(wanted: Wanted, only: Sequence[int] | None, low: int, high: int, market_low: int, market_high: int) -> bool:
    """Whether a file may hold something of what is wanted; low ≤ second ≤ high."""
    mine = only is None or any(market_low <= slot <= market_high for slot in only)
    return mine and low < wanted.end + DAY and high >= wanted.start - DAY
