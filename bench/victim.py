"""A process to be killed: the stack below the web layer, fed by lines on stdin, that marks what it is in the middle of.

    python -m bench.victim DATA MARKS [INSTANT]

Each line is a request, `{"n": 1, "events": [...], "key": "k"}` or `{"n": 2, "read": ["GOLD", "1"]}`, and each is
answered by a line with its `n`, once its events are acknowledged. The first line out says what was recovered; the end
of stdin is a clean end. MARKS is a file of counters: how often each of PARTS was begun and how often it was ended.
INSTANT, one of PARTS, is had often.
"""

import mmap
import random
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import trio
from msgspec import structs

if TYPE_CHECKING:  # a life that is killed while it starts should be killed in candled, not in its imports
    from actors.engine import Engine
    from storage.calendar import Resolution
    from storage.records import Market

MOVES = ("archive", "rename", "adopt", "unlink")  # of bars to the archive
# Of these a kill may fall into the middle. "move" is what comes between the name of a sealed file and its transaction.
PARTS = (
    *("commit", "flush", "recovery", "rebuild", "compaction", "spill", "seal", "move", "trim", "merge", "checkpoint"),
    *MOVES,
)
SHORT = ("commit", "spill", "move", "trim", "checkpoint", "rename", "adopt", "unlink")  # over as soon as begun
LINGERS = 0.005  # seconds, before or after what a short part does, where a kill in it is wanted
CHECKPOINT_BYTES = 60_000  # of the store's log, so that there are some
COUNTERS = struct.Struct(f"<{2 * len(PARTS)}Q")


class Marks:
    """The counters, shared through a file: they outlive whoever writes them."""

    def __init__(self, path: Path, wanted: str = "") -> None:
        """Where a kill in `wanted` is looked for, this process stays in it for long enough to be found there."""
        self._lingers = wanted if wanted in SHORT else ""
        if not path.exists():
            path.write_bytes(bytes(COUNTERS.size))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), COUNTERS.size)

    def clear(self) -> None:
        """Nothing was begun."""
        self._map[:] = bytes(COUNTERS.size)

    def begun(self, part: str) -> int:
        """How often it was begun."""
        return int(COUNTERS.unpack(self._map)[2 * PARTS.index(part)])

    def inside(self, part: str) -> bool:
        """Whether it was begun and not ended."""
        at = 2 * PARTS.index(part)
        counters = COUNTERS.unpack(self._map)
        return bool(counters[at] != counters[at + 1])

    @contextmanager
    def within(self, part: str) -> Iterator[None]:
        """The block is this part."""
        when = random.choice(("before", "after", "never")) if part == self._lingers else "never"
        self._count(2 * PARTS.index(part))
        try:
            if when == "before":
                time.sleep(LINGERS)
            yield
            if when == "after":
                time.sleep(LINGERS)
        finally:
            self._count(2 * PARTS.index(part) + 1)

    def _count(self, which: int) -> None:
        (value,) = struct.unpack_from("<Q", self._map, 8 * which)
        struct.pack_into("<Q", self._map, 8 * which, value + 1)


def watch(marks: Marks) -> None:
    """Mark what runs, and have rare parts run often: few identities in memory, bars put in order soon, short days."""
    from actors import background, sealing
    from actors.archivist import Archivist
    from actors.janitor import Janitor
    from actors.sealing import Sealing
    from actors.writer import Writer
    from storage import archive, candles, flush, parquet
    from storage.database import Database
    from storage.identities import Identities
    from storage.journal import Journal
    from storage.store import Store

    append, write, spill = Journal.append, Database._write, Identities.spill
    trim, seal, merge, moved = Journal.trim, Sealing._write, Sealing._merge, Store.seal
    checkpoint = Database._checkpoint
    known: dict[object, str] = {flush.apply: "flush", candles.compact: "compaction", archive.adopt: "adopt"}
    write_bars, rename, unlink = archive.write, parquet.Writer.rename, archive.unlink

    def marked_append(self: Journal, seq: int, parts: Sequence[bytes | memoryview]) -> None:
        with marks.within("commit"):
            append(self, seq, parts)

    def marked_write(self: Database, work: Any, arguments: Any) -> Any:
        if work not in known:
            return write(self, work, arguments)
        with marks.within(known[work]):
            return write(self, work, arguments)

    def marked_spill(self: Identities) -> None:
        with marks.within("spill"):
            spill(self)

    def marked_trim(self: Journal, seq: int) -> int:
        with marks.within("trim"):
            return trim(self, seq)

    def marked_seal(self: Sealing, pause: Any, first: int, last: int) -> Any:
        with marks.within("seal"):
            return seal(self, pause, first, last)

    def marked_checkpoint(self: Database) -> None:
        with marks.within("checkpoint"):
            checkpoint(self)

    async def marked_move(self: Store, file: Any) -> None:
        with marks.within("move"):
            await moved(self, file)

    async def marked_merge(self: Sealing, some: Any) -> None:
        with marks.within("merge"):
            await merge(self, some)

    Database._checkpoint = marked_checkpoint  # type: ignore[method-assign]
    Database.open.__func__.__defaults__ = (30.0, CHECKPOINT_BYTES)  # type: ignore[attr-defined]
    Journal.trim = marked_trim  # type: ignore[method-assign]
    Sealing._write = marked_seal  # type: ignore[method-assign]
    Sealing._merge = marked_merge  # type: ignore[method-assign]
    Store.seal = marked_move  # type: ignore[method-assign]
    sealing.DAY = 4
    background._step_back = lambda: None  # a life is too short for giving way
    assert Janitor.__init__.__kwdefaults__ is not None
    Janitor.__init__.__kwdefaults__["beat"] = 0.05

    def marked_write_bars(*given: Any) -> Any:
        with marks.within("archive"):
            return write_bars(*given)

    def marked_rename(self: parquet.Writer) -> None:
        with marks.within("rename"):
            rename(self)

    def marked_unlink(root: Path, parts: Any) -> None:
        with marks.within("unlink"):
            unlink(root, parts)

    archive.write = marked_write_bars  # type: ignore[assignment]
    parquet.Writer.rename = marked_rename  # type: ignore[method-assign]
    archive.unlink = marked_unlink
    assert Archivist.__init__.__kwdefaults__ is not None
    Archivist.__init__.__kwdefaults__["every"] = 0.2
    Journal.append = marked_append  # type: ignore[method-assign]
    Database._write = marked_write  # type: ignore[method-assign]
    Identities.spill = marked_spill  # type: ignore[method-assign]
    assert Writer.__init__.__kwdefaults__ is not None
    Writer.__init__.__kwdefaults__["recent_rows"] = 300
    Identities.open.__func__.__kwdefaults__["limit"] = 500  # type: ignore[attr-defined]


async def live(data: Path, marks: Marks, instant: str) -> None:
    """Recover, answer every line, and end with the last."""
    from daemon import recovery
    from daemon.stack import Stack, StackSettings, opening
    from storage.calendar import parse
    from storage.errors import UnknownMarket

    encode = msgspec.json.encode
    out = sys.stdout.buffer

    def say(**answer: object) -> None:
        out.write(encode(answer) + b"\n")
        out.flush()

    async def answer(stack: Stack, asked: dict[str, Any]) -> None:
        if "read" in asked:
            symbol, resolution = asked["read"]
            try:
                market = await stack.registry.named(symbol)
            except UnknownMarket:
                say(n=asked["n"], bars=[])
                return
            say(n=asked["n"], bars=await _all_bars(stack.engine, market, parse(resolution)))
        else:
            body = encode(asked["events"])
            told = await stack.intake.submit(body, "application/json", key=asked["key"])
            say(n=asked["n"], answer=msgspec.Raw(told))

    settings = StackSettings(data=data, flush_seconds=0.1, create="spot")
    # Only one of them often: each may take as long as a life.
    if instant in MOVES:
        settings = structs.replace(settings, archive_quiet=0.0)
    else:
        settings = structs.replace(settings, seal_seconds=0.2)
    starting = ExitStack()
    starting.enter_context(marks.within("recovery"))
    if instant == "rebuild":
        recovery.REPLAYED = 100  # so that it takes its time

    async def rebuilt(stack: Stack) -> None:
        with marks.within("rebuild"):
            await stack.catch_up.wait()

    async with opening(settings) as stack, trio.open_nursery() as nursery:
        if instant == "rebuild":
            nursery.start_soon(rebuilt, stack)  # events are taken meanwhile
            await trio.lowlevel.checkpoint()
        else:
            await stack.catch_up.wait()
        starting.close()
        say(recovered=stack.recovered)
        rest = b""
        stdin = trio.lowlevel.FdStream(0)
        async for chunk in stdin:
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                nursery.start_soon(answer, stack, msgspec.json.decode(line))


async def _all_bars(engine: "Engine", market: "Market", resolution: "Resolution") -> list[tuple[float, ...]]:
    """Page after page, as one answer holds so many only."""
    bars: list[tuple[float, ...]] = []
    end = 2**61
    while (page := await engine.window(market, resolution, 0, end)).time:
        columns = (page.open, page.high, page.low, page.close, page.volume, page.trades)
        bars[:0] = zip(page.time, *columns, strict=True)
        end = page.time[0]
    return bars


if __name__ == "__main__":
    chosen = sys.argv[3] if len(sys.argv) > 3 else ""
    shared = Marks(Path(sys.argv[2]), chosen)
    watch(shared)
    trio.run(live, Path(sys.argv[1]), shared, chosen)
