"""Who has been here before: for every live event with an identity, its place and its digest, for ever.

The newest identities are in memory, the others in runs (`storage/runs.py`), files that never change. `find` asks memory
and the runs' filters, `find_older` the runs themselves. Memory that is full is frozen, written as the newest run, and
runs are merged so that each is at least twice as large as the next newer one: there are few, however many entries.

Who calls what: `find`, `add`, `forget`, `freeze` and the properties belong to one thread; `find_older`, `spill` and
`merge` read and write files and are made for worker threads, beside the others and beside each other. A frozen memory
does not change any more and answers `find` until its run does.

After a start, what is newer than `through` has to be added and forgotten again, in the order it was committed.
"""

import threading
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from storage import runs as files
from storage.errors import BrokenStore
from storage.runs import ENTRY, GONE, Damaged, Probes, Run

Words = NDArray[np.uint64]
Places = NDArray[np.int64]
Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]
Array = NDArray[Any]

LIMIT = 1_000_000  # entries in memory


class Found(NamedTuple):
    """What memory and filters know of some identities."""

    pos: Places  # −1: not known
    digest: Words  # 0 where pos is −1
    maybe_older: Mask  # `find_older` has to be asked


class IdentitiesStatistics(Struct, frozen=True):
    """How much is remembered, and where."""

    in_memory: int
    frozen: int
    in_files: int  # retired and forgotten entries included, until a merge drops them
    runs: int
    file_bytes: int
    filter_bytes: int
    through: int
    spills: int
    merges: int
    merged_entries: int
    broken: str


class Memory:
    """Entries in the order they came, a table of where each is (open addressing, at most half full), and a filter."""

    def __init__(self, room: int) -> None:
        self.size = 0
        self._ident = np.empty(0, np.uint64)
        self._digest = np.empty(0, np.uint64)
        self._pos = np.empty(0, np.int64)
        self._make_room(room)

    def find(self, ident: Words, probes: Probes) -> tuple[Rows, Rows]:
        """The rows of those that have an entry, and the numbers of their entries."""
        bits = probes.bits(0) | probes.bits(1)
        row = np.flatnonzero((self._filter[probes.block(len(self._filter))] & bits) == bits)
        if not len(row):
            return row, row
        want = ident[row]
        slot = (want >> self._shift).view(np.int64)
        number = self._table[slot]
        rows, numbers = [], []
        while len(row):
            taken = np.flatnonzero(number)
            row, want, slot, number = row[taken], want[taken], slot[taken], number[taken] - 1
            same = self._ident[number] == want
            rows.append(row[same])
            numbers.append(number[same])
            other = np.flatnonzero(~same)
            row, want, slot = row[other], want[other], (slot[other] + 1) & self._last
            number = self._table[slot]
        return np.concatenate(rows), np.concatenate(numbers).astype(np.int64)

    def put(self, ident: Words, digest: Words, pos: Places) -> None:
        """Enter these, in place of what was known of them. No identity may be 0."""
        row, number = self.find(ident, Probes(ident))
        if len(row):
            self._digest[number] = digest[row]
            self._pos[number] = pos[row]
            new = np.ones(len(ident), np.bool_)
            new[row] = False
            ident, digest, pos = ident[new], digest[new], pos[new]
        start, end = self.size, self.size + len(ident)
        if end > self._room:
            self._make_room(max(end, 4 * self._room))
        self._ident[start:end] = ident
        self._digest[start:end] = digest
        self._pos[start:end] = pos
        self.size = end
        self._enter(start)

    def at(self, number: Rows) -> tuple[Places, Words]:
        """Place and digest of these entries."""
        return self._pos[number], self._digest[number]

    def ordered(self) -> Array:
        """All entries by identity, the later one where there are two."""
        order = _order(self._ident[: self.size])
        out = np.empty(self.size, ENTRY)
        out["ident"], out["digest"], out["pos"] = self._ident[order], self._digest[order], self._pos[order]
        return files.last_words(out)

    def _make_room(self, room: int) -> None:
        bits = max((2 * room - 1).bit_length(), 10)
        self._shift = np.uint64(64 - bits)
        self._last = (1 << bits) - 1
        self._table = np.zeros(1 << bits, np.int32)  # 0: free, else 1 + the entry's number
        self._room = 1 << (bits - 1)  # pages of these columns take no memory before they are used
        self._filter = np.zeros(self._room // 2, np.uint64)  # 32 bits for each entry: few strangers get by
        self._ident = _grown(self._ident, self.size, self._room)
        self._digest = _grown(self._digest, self.size, self._room)
        self._pos = _grown(self._pos, self.size, self._room)
        self._enter(0)

    def _enter(self, start: int) -> None:
        """Put the entries numbered from `start` into the table; of two with one identity the later one."""
        ident = self._ident[start : self.size]
        probes = Probes(ident)
        at, bits = probes.block(len(self._filter)), probes.bits(0) | probes.bits(1)
        while len(at):  # of several bits for one word, a round sets the last
            self._filter[at] |= bits
            left = np.flatnonzero((self._filter[at] & bits) != bits)
            at, bits = at[left], bits[left]

        slot = (ident >> self._shift).view(np.int64)
        number = np.arange(start + 1, self.size + 1, dtype=np.int32)
        while len(number):
            free = self._table[slot] == 0
            self._table[slot[free]] = number[free]  # of several for one slot, the last stays
            there = self._table[slot]
            left = np.flatnonzero(there != number)
            slot, number, there = slot[left], number[left], there[left]
            other = self._ident[there - 1] != self._ident[number - 1]  # else its later twin stands there
            slot, number = (slot[other] + 1) & self._last, number[other]


class Identities:
    """The index; see the module on which thread calls what."""

    def __init__(self, folder: Path, limit: int, epoch: int) -> None:
        self._folder = folder
        self._limit = limit
        self._epoch = epoch
        self._memory = Memory(min(limit, 4096))
        self._lock = threading.Lock()  # around each replacing of `_older`
        self._writing = threading.Lock()  # one spill at a time
        self._merging = threading.Lock()  # one merge at a time
        # Frozen memory with its through, and runs, oldest first: replaced as a whole, so that a reader sees one moment.
        self._older: tuple[tuple[Memory, int] | None, tuple[Run, ...]] = (None, ())
        self._spills = 0
        self._merges = 0
        self._merged_entries = 0
        self.broken = ""

    @classmethod
    def open(cls, folder: Path, *, limit: int = LIMIT, epoch: str = "") -> Self:
        """Open the files of this folder, made if it is not there; `limit` is how many entries memory should hold.

        Where files are broken, missing or of another epoch, `broken` says which, and all there is to do is `rebuild`.
        """
        index = cls(folder, limit, zlib.crc32(epoch.encode()))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for leftover in folder.glob("*.new"):
                leftover.unlink()
            runs = files.opened(folder, index._epoch)
        except Damaged as error:
            index.broken = f"{error}; rebuild the identities"
        except OSError as error:
            raise BrokenStore(f"identities: {folder} cannot be opened: {error}") from error
        else:
            index._older = (None, runs)
        return index

    @property
    def through(self) -> int:
        """Everything up to this seq is in files; what is newer has to be added again after a start."""
        runs = self._older[1]
        return runs[-1].through if runs else 0

    @property
    def full(self) -> bool:
        """Whether memory holds as much as it should: time to `freeze`, and to wait if a spill is still under way."""
        return self._memory.size >= self._limit

    @property
    def frozen(self) -> bool:
        """Whether a spill is waiting or under way."""
        return self._older[0] is not None

    @property
    def merge_due(self) -> bool:
        """Whether `merge` has something to do."""
        return len(_mergeable(self._older[1])) > 1

    def find(self, ident: Words) -> Found:
        """What memory knows of these identities, and which of them the files might know. 0 is nobody."""
        self._sound()
        frozen, runs = self._older
        n = len(ident)
        pos = np.full(n, -1, np.int64)
        digest = np.zeros(n, np.uint64)
        maybe = np.zeros(n, np.bool_)
        probes = Probes(ident)
        for run in runs:
            maybe[run.may_hold(probes)] = True
        for memory in (self._memory,) if frozen is None else (frozen[0], self._memory):
            row, number = memory.find(ident, probes)
            if len(row):
                pos[row], digest[row] = memory.at(number)
                maybe[row] = False
        if not ident.all():
            maybe[ident == 0] = False
        return Found(pos, digest, maybe)

    def find_older(self, ident: Words) -> tuple[Places, Words]:
        """What the files know of these identities: place and digest, −1 and 0 where nothing. Blocks."""
        self._sound()
        order = np.argsort(ident)
        ordered = ident[order]
        pos = np.full(len(ident), -1, np.int64)
        digest = np.zeros(len(ident), np.uint64)
        probes = Probes(ordered)
        left = np.flatnonzero(ordered)
        for run in reversed(self._older[1]):
            if not len(left):
                break
            asked = run.may_hold(probes, left)
            if not len(asked):
                continue
            row, entries = self._looked_up(run, ordered[asked])
            hit = asked[row]
            live = entries["pos"] != GONE
            pos[order[hit[live]]] = entries["pos"][live]
            digest[order[hit[live]]] = entries["digest"][live]
            left = left[~np.isin(left, hit)]
        return pos, digest

    def add(self, ident: Words, digest: Words, pos: Places) -> None:
        """Remember these events, in place of what was known of their identities; those without one are passed over."""
        self._sound()
        if not ident.all():
            named = np.flatnonzero(ident)
            ident, digest, pos = ident[named], digest[named], pos[named]
        if len(ident):
            self._memory.put(ident, digest, pos)

    def forget(self, ident: Words) -> None:
        """The events of these identities are no more."""
        self.add(ident, np.zeros(len(ident), np.uint64), np.full(len(ident), GONE, np.int64))

    def freeze(self, through: int) -> bool:
        """Set memory aside for `spill`; false while an earlier one waits for it, or when it would change nothing.

        `through` is a seq up to which everything has been added and forgotten.
        """
        self._sound()
        with self._lock:
            frozen, runs = self._older
            if frozen is not None or not (self._memory.size or through > self.through):
                return False
            if through < self.through:
                raise ValueError(f"identities: through seq {through}, yet the files go through {self.through}")
            self._older = ((self._memory, through), runs)
        self._memory = Memory(min(self._memory.size, self._limit))
        return True

    def spill(self) -> None:
        """Write what is frozen as the newest run; `Unavailable` where the disk is full: it stays frozen. Blocks."""
        self._sound()
        with self._writing:
            frozen, runs = self._older
            if frozen is None:
                return
            memory, through = frozen
            entries = memory.ordered()
            gone = np.flatnonzero(entries["pos"] == GONE)
            if len(gone):  # what no run can know needs no forgetting
                probes = Probes(np.ascontiguousarray(entries["ident"][gone]))
                needed = np.zeros(len(gone), np.bool_)
                for run in runs:
                    needed[run.may_hold(probes)] = True
                entries = np.delete(entries, gone[~needed])
            number = runs[-1].last + 1 if runs else 1
            run = files.written(self._folder, number, through, entries, self._epoch)
            with self._lock:
                self._older = (None, (*self._older[1], run))
            self._spills += 1

    def merge(self) -> None:
        """Make one run of the newest ones, as many as have to be; `spill` may run beside it. Blocks."""
        self._sound()
        with self._merging:
            merged = _mergeable(self._older[1])
            if len(merged) < 2:
                return
            oldest = merged[0].first == self._older[1][0].first
            try:
                run = files.merged(self._folder, merged, self._epoch, drop_gone=oldest)
            except Damaged as error:
                raise self._gave_up(error) from error
            with self._lock:
                frozen, runs = self._older
                start = runs.index(merged[0])
                self._older = (frozen, (*runs[:start], run, *runs[start + len(merged) :]))
            for old in merged:
                old.path.unlink(missing_ok=True)
            self._merges += 1
            self._merged_entries += run.count

    def rebuild(self, live: Iterable[tuple[Words, Words, Places]], through: int) -> None:
        """Forget everything and begin again with (ident, digest, pos) of every live event up to this seq. Blocks.

        The events may come in any order, in arrays of any size; nothing else may be asked meanwhile. What was started
        and not finished is seen by `through` being 0.
        """
        with self._writing, self._merging:
            self.broken = "identities: a rebuild was begun and not finished; rebuild the identities"
            for path in sorted(self._folder.glob("*.identities")):  # oldest first: what a crash leaves has a gap
                path.unlink()
            files.sync(self._folder)
            new = Identities(self._folder, self._limit, self._epoch)
            for ident, digest, pos in live:
                new.add(ident, digest, pos)
                if new.full:
                    new._put_away(0)
            new._put_away(through)
            self._memory, self._older = new._memory, new._older
            self.broken = ""

    def statistics(self) -> IdentitiesStatistics:
        """Counts, cheap enough to ask at any moment."""
        frozen, runs = self._older
        return IdentitiesStatistics(
            in_memory=self._memory.size,
            frozen=frozen[0].size if frozen else 0,
            in_files=sum(run.count for run in runs),
            runs=len(runs),
            file_bytes=sum(run.bytes for run in runs),
            filter_bytes=sum(run.planes.nbytes for run in runs),
            through=self.through,
            spills=self._spills,
            merges=self._merges,
            merged_entries=self._merged_entries,
            broken=self.broken,
        )

    def _put_away(self, through: int) -> None:
        self.freeze(through)
        self.spill()
        self.merge()

    def _sound(self) -> None:
        if self.broken:
            raise BrokenStore(self.broken)

    def _gave_up(self, damage: Damaged) -> BrokenStore:
        self.broken = f"{damage}; rebuild the identities"
        return BrokenStore(self.broken)

    def _looked_up(self, run: Run, ident: Words) -> tuple[Rows, Array]:
        try:
            return run.find(ident)
        except Damaged as error:
            raise self._gave_up(error) from error


def _grown(column: Array, size: int, room: int) -> Array:
    """The column with room for more, its first `size` values kept."""
    out = np.empty(room, column.dtype)
    out[:size] = column[:size]
    return out


def _order(ident: Words) -> Rows:
    """The stable order of many identities, five times as fast as asking for it at once.

    A stable sort of 16-bit integers is a radix sort, and one of what is nearly in order takes a single pass.
    """
    order = np.argsort((ident >> np.uint64(32)).astype(np.uint16), kind="stable")
    order = order[np.argsort((ident[order] >> np.uint64(48)).astype(np.uint16), kind="stable")]
    return order[np.argsort(ident[order], kind="stable")]


def _mergeable(runs: tuple[Run, ...]) -> tuple[Run, ...]:
    """The newest runs, as far back as the next older one is less than twice as large as these would be as one."""
    newer = 0
    start = len(runs)
    while start and (start == len(runs) or max(runs[start - 1].count, 1) < 2 * newer):
        start -= 1
        newer += max(runs[start].count, 1)
    return runs[start:]
