"""The one way in: decode, know who was here before, journal, acknowledge, hand on in order."""

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import groupby
from typing import Any, Protocol

import msgspec
import numpy as np
import trio
from msgspec import Struct
from trio import TASK_STATUS_IGNORED, TaskStatus

from actors.catch_up import CatchUp
from actors.decode import EVENTS, SNAPSHOTS, Decoded, Form, Named, Refused, Rejected, decode, decompress
from actors.gate import NOWHERE, Gate, reason
from actors.identities import Outcome, resolve
from actors.known import Index, Known
from storage import hashing
from storage.commits import TOUCH, Answer, Commit, Dead, encode, places
from storage.errors import BadRequest, CandledError, Conflict, KeyReused, Unavailable
from storage.events import Array, Events, concat
from storage.histogram import Histogram, Times
from storage.names import Reference
from storage.records import Kind, Reject
from storage.retention import Days
from storage.variants import variant_of

log = logging.getLogger(__name__)

INLINE = 256 << 10  # a body up to this size is decoded on the loop; a larger one on a thread
GROUP = 400_000  # events in one commit
LISTED = 100  # rejected events that an answer lists
LETTERS = 1000  # dead letters of one request about closed days: more of them would say the same
KEY_LENGTH = 200

Run = Callable[..., Awaitable[Any]]
Entered = trio.MemoryReceiveChannel["bytes | CandledError"]  # where the answer to a request will be
Work = tuple[bytes, str, str, Form, bool]  # body, type, encoding, what it holds, whether to refuse unknown markets


class Listed(Struct, frozen=True, omit_defaults=True):
    """A refused event as the answer lists it."""

    index: int
    error: str
    market_symbol: str | None = None


class IngestAnswer(Struct, frozen=True):
    """What a request with events is told."""

    accepted: int
    duplicates: int
    corrected: int
    retracted: int
    unknown: int
    rejected: list[Listed]
    rejected_count: int
    cursor: str


class IntakeStatistics(Struct, frozen=True):
    """What came in, since the start."""

    requests: int
    words: int  # events as sent
    accepted: int
    duplicates: int
    corrected: int
    retracted: int
    unknown: int
    rejected: int
    rejected_by: dict[str, int]  # by the field at fault
    commits: int
    commit_times: Times
    waiting: int  # requests
    failing: str  # why identities have to stay in memory; empty while they need not


class Names(Named, Protocol):
    """What intake asks of the registry."""

    async def load(self, references: Sequence[Reference], create: Kind | None = None) -> object: ...
    async def load_slots(self, slots: Sequence[int]) -> None: ...


class Taker(Protocol):
    """Who takes committed batches: the engine."""

    @property
    def epoch(self) -> str: ...
    def committed(self) -> int: ...
    def apply(self, commits: Sequence[Commit]) -> None: ...


class Backlog(Protocol):
    """How far the store lags behind: the writer."""

    applied: int

    async def flushed(self, seq: int) -> None: ...
    def statistics(self) -> Any: ...


@dataclass(slots=True)
class _Held:
    """A key whose request is under way: repeats wait."""

    asked: bytes
    done: trio.Event
    queued: bool = False  # the task answers, and lets go, whether or not anybody still waits for it


@dataclass(slots=True)
class _Request:
    words: Events
    stamped: bool
    index: Array
    rejected: list[Rejected]
    refuse: Refused
    source: str
    key: str | None
    asked: bytes  # see Answer
    reply: trio.MemorySendChannel["bytes | CandledError"]
    unlisted: int = 0  # words that were refused beside those in `rejected`
    counts: Array = field(default_factory=lambda: np.zeros(len(Outcome), np.int64))


class Intake:
    """One task commits; requests wait for it. What queues during one commit goes into the next."""

    def __init__(
        self,
        names: Names,
        index: Index,
        engine: Taker,
        backlog: Backlog,
        run: Run,
        *,
        append: Callable[[int, Sequence[bytes | memoryview]], None],
        events_at: Callable[[Array], Awaitable[Events]],
        answered: Callable[[str], Answer | None],
        reject: Callable[[Sequence[Reject]], object],
        gate: Gate,
        catch_up: CatchUp,
        create: Kind | None = None,
        most: int = 2_000_000,
        limit: int = 64 << 20,
        now: Callable[[], float] = time.time,
        lasting: Callable[[], float] = time.time,
    ) -> None:
        """`append`, `answered` and `reject` block and are run through `run`; `most` events may wait for the store."""
        self._names, self._engine, self._backlog, self._run = names, engine, backlog, run
        self._append, self._answered, self._reject = append, answered, reject
        self._known = Known(index, lambda: backlog.applied, run, events_at)
        self._catch_up = catch_up
        self._gate = gate
        self._one = trio.Lock()  # what follows from the order of commits happens between two of them
        self._create, self._most, self._limit, self._now = create, most, limit, now
        self._lasting = lasting  # a clock that nobody sets: answers are kept for a while by it
        self._mailbox, self._inbox = trio.open_memory_channel[_Request](10_000)
        self._keys: dict[str, _Held] = {}
        self._answers: dict[str, Answer] = {}  # given since the start, until the index has them
        self._requests = self._words = self._commits = 0
        self._outcomes = np.zeros(len(Outcome), np.int64)
        self._rejected: dict[str, int] = {}
        self._commit_times = Histogram()
        self._waiting = 0

    async def submit(
        self,
        body: bytes,
        content_type: str,
        *,
        form: Form = EVENTS,
        encoding: str = "",
        create: Kind | None = None,
        key: str | None = None,
        owner: str = "",
        source: str = "http",
    ) -> bytes:
        """Take a request with events; the JSON answer, once all that it accepts is durable.

        The markets of cards that nobody knows are registered, those of others only as `create` says.
        Raises BadRequest, UnsupportedMediaType or TooLarge where the body cannot be taken at all, and Unavailable
        while there is no room; nothing is kept then. A repeat of a `key` by the same `owner` is given the first answer;
        with another body it is refused: KeyReused, or Conflict while the first is being worked on.
        """
        if key is None:
            return await self.answer(await self._enter(body, content_type, form, encoding, create, None, b"", source))
        if not 0 < len(key) <= KEY_LENGTH:
            raise BadRequest(f"Idempotency-Key: expected 1 to {KEY_LENGTH} characters, got {len(key)}")
        body, asked = await self._told_apart(body, encoding)
        name, key = key, f"{owner} {key}"
        while key in self._keys:
            if self._keys[key].asked != asked:
                raise Conflict(f"Idempotency-Key: a request with another body is under way with {name!r}")
            await self._keys[key].done.wait()
        held = self._keys[key] = _Held(asked, trio.Event())
        try:
            known = self._answers.get(key)
            if known is None:
                known = await self._run(self._answered, key)
            if known is None:
                return await self.answer(await self._enter(body, content_type, form, "", create, key, asked, source))
            if known.asked and known.asked != asked:
                raise KeyReused(f"Idempotency-Key: {name!r} came with another body before; give each request its own")
            return known.body
        finally:
            # A producer that hangs up once its events are queued comes back with them: until they are committed and
            # their answer is known, its repeat has to wait.
            if not held.queued:
                self._let_go(key)

    def _let_go(self, key: str) -> None:
        self._keys.pop(key).done.set()

    async def _told_apart(self, body: bytes, encoding: str) -> tuple[bytes, bytes]:
        """A body without its encoding, and what tells it from others: packers do not agree on every byte."""

        def work() -> tuple[bytes, bytes]:
            unpacked = decompress(body, encoding, self._limit)
            return unpacked, sha256(unpacked).digest()

        if len(body) > INLINE or encoding:
            found: tuple[bytes, bytes] = await self._run(work)
            return found
        return work()

    async def enter(self, body: bytes, content_type: str, *, source: str) -> Entered:
        """Take a request with events behind those that were taken before; `answer` waits for what it comes to.

        Raises as `submit` where the body cannot be taken at all."""
        return await self._enter(body, content_type, EVENTS, "", None, None, b"", source)

    async def _enter(
        self,
        body: bytes,
        content_type: str,
        form: Form,
        encoding: str,
        create: Kind | None,
        key: str | None,
        asked: bytes,
        source: str,
    ) -> Entered:
        self._requests += 1
        work = (body, content_type, encoding, form, False)
        found = await self._decoded(work)
        if found.unknown:
            await self._load(found.unknown, form, create or self._create)
            found = await self._decoded((*work[:4], True))
        self._words += found.events.n + len(found.rejected)
        if found.rejected:
            await self._run(self._reject, self._letters(found.rejected, source))
        reply, answer = trio.open_memory_channel["bytes | CandledError"](1)
        self._waiting += 1
        try:
            request = _Request(
                found.events,
                self._apart(work),
                found.index,
                found.rejected,
                found.refused,
                source,
                key,
                asked,
                reply,
            )
            await self._queue(request)
        except BaseException:
            self._waiting -= 1
            raise
        return answer

    async def answer(self, entered: Entered) -> bytes:
        """What a request that was taken comes to, once all that it accepts is durable; as `submit`."""
        try:
            told = await entered.receive()
        finally:
            self._waiting -= 1
        if isinstance(told, CandledError):
            raise told
        return told

    async def _load(self, unknown: Sequence[Reference], form: Form, create: Kind | None) -> None:
        """Have these markets in memory; those that there are not, but may be made, are registered."""
        cards = [one for one in unknown if form is not EVENTS and isinstance(one, str) and variant_of(one)]
        if cards:
            await self._names.load(cards, "card")
        if form is not SNAPSHOTS:
            await self._names.load(unknown, create)

    async def _queue(self, request: _Request) -> None:
        held = None if request.key is None else self._keys[request.key]
        if held:
            held.queued = True
        try:
            await self._mailbox.send(request)
        except BaseException:
            if held:
                held.queued = False  # it was not taken, so nobody else lets go
            raise

    async def _decoded(self, work: Work) -> Decoded:
        if self._apart(work):
            found: Decoded = await self._run(lambda: _stamped(self._decode(*work)))
            return found
        return self._decode(*work)

    def _apart(self, work: Work) -> bool:
        """Whether a body is worth a hop to a thread; its events are stamped there, those of others by the commit."""
        return len(work[0]) > INLINE or bool(work[2])

    def _decode(self, body: bytes, content_type: str, encoding: str, form: Form, final: bool) -> Decoded:
        if encoding and encoding.lower() != "identity":
            body = decompress(body, encoding, self._limit)
        now = int(self._now() * 1e6)
        return decode(body, content_type, self._names, now, form=form, final=final, limit=self._limit)

    def _letters(self, rejected: Sequence[Rejected], source: str) -> list[Reject]:
        for one in rejected:
            cause = one.error.split(":", 1)[0] if ":" in one.error else "market"
            cause = cause if cause.isidentifier() else "event"
            self._rejected[cause] = self._rejected.get(cause, 0) + 1
        return self._posted(rejected, source)

    def _posted(self, rejected: Sequence[Rejected], source: str) -> list[Reject]:
        at = int(self._now() * 1e6)
        return [
            Reject(
                at=at,
                source=source,
                market_symbol=one.market_symbol,
                error=one.error,
                event=one.raw.decode(errors="replace"),
            )
            for one in rejected
        ]

    async def close_days(self, days: Days, note: Callable[[Sequence[tuple[int, bytes]], int], Awaitable[None]]) -> int:
        """Refuse whatever would change these days of markets from now on; the newest batch that did not heed that.

        `note(days, seq)` writes it down first. Whoever was known until then is in files when this returns, if there is
        room.
        """
        async with self._one:
            seq = self._engine.committed()
            rows = self._gate.closed.joined(days)
            await note(rows, seq)
            self._gate.closed.take(rows)
            await self._known.put_all_away(seq)
        await self._known.spilled()
        return seq

    def statistics(self) -> IntakeStatistics:
        """Counters for metrics."""
        counts = {outcome.name.lower(): int(self._outcomes[outcome]) for outcome in Outcome}
        return IntakeStatistics(
            self._requests,
            self._words,
            counts["accepted"],
            counts["duplicate"],
            counts["corrected"],
            counts["retracted"],
            counts["unknown"],
            sum(self._rejected.values()),
            dict(self._rejected),
            self._commits,
            self._commit_times.times(),
            self._waiting,
            self._known.failing,
        )

    def close(self) -> None:
        """Accept nothing more; `run` commits what is queued, then returns."""
        self._mailbox.close()

    # --- the task

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Commit until closed."""
        async with self._inbox, trio.open_nursery() as nursery:
            self._known.start(nursery)
            task_status.started()
            async for first in self._inbox:
                group = [first]
                count = first.words.n
                while count < GROUP:
                    try:
                        request = self._inbox.receive_nowait()
                    except (trio.WouldBlock, trio.EndOfChannel):
                        break
                    group.append(request)
                    count += request.words.n
                try:
                    await self._room()
                    async with self._one:
                        await self._commit(group)
                except Unavailable as error:
                    for request in group:
                        request.reply.send_nowait(error)
                for request in group:
                    if request.key is not None:
                        self._let_go(request.key)

    async def _room(self) -> None:
        """Producers wait while the store is far behind, and are refused while it cannot be written or is made again."""
        while self._behind() > self._most:
            if not self._catch_up.over:
                raise self._catch_up.unavailable()
            failing = self._backlog.statistics().failing
            if failing:
                raise Unavailable(failing, retry_after=5)
            with trio.move_on_after(1.0):
                await self._backlog.flushed(self._backlog.applied + 1)

    def _behind(self) -> int:
        """How many committed events the store does not have yet."""
        for commit in self._known.flushed():
            for answer in commit.answers:
                self._answers.pop(answer.key, None)  # the index has it by now
        return self._known.unflushed

    async def _commit(self, group: Sequence[_Request]) -> None:
        began = time.perf_counter()
        seq = self._engine.committed() + 1
        words = _joined(group)
        commit, outcome, closed = await self._resolved(seq, words)
        letters = self._refused(group, outcome, closed)
        answers = self._answers_to(group, outcome, seq if commit else seq - 1)
        kept = [
            Answer(request.key, int(self._lasting()), body, request.asked)
            for request, body in zip(group, answers, strict=True)
            if request.key is not None
        ]
        if commit is None and kept:
            commit = Commit(seq, Events(0, {}))
        if commit is not None:
            commit = Commit(seq, commit.events, commit.dead, commit.forgotten, kept)
            await self._run(lambda: self._append(seq, encode(commit)))
            self._commits += 1
            self._known.remember(commit)
            await self._known.put_away(seq)
            self._engine.apply([commit])
            for answer in kept:
                self._answers[answer.key] = answer
            self._commit_times.observe(time.perf_counter() - began)
        self._outcomes += np.bincount(outcome, minlength=len(Outcome))
        if letters:
            try:
                await self._run(self._reject, letters)
            except Unavailable as error:
                log.warning("dead letters: %s", error)
        for request, body in zip(group, answers, strict=True):
            request.reply.send_nowait(body)

    async def touch(self, instants: Sequence[tuple[int, int]]) -> int:
        """Commit that the bars around these (slot, µs) are to be folded again, though nothing was said; its seq."""
        async with self._one:
            seq = self._engine.committed() + 1
            commit = Commit(seq, Events(0, {}), [Dead(TOUCH, *instant) for instant in instants])
            await self._run(lambda: self._append(seq, encode(commit)))
            self._commits += 1
            self._known.remember(commit)
            self._engine.apply([commit])
        return seq

    async def _resolved(self, seq: int, words: Events) -> tuple[Commit | None, Array, Array]:
        """What the words come to: a batch to commit, if it changes anything, the outcome of each word, and when that is
        what it would change in a closed day (µs)."""
        closed = words.integers("ts")
        here = self._gate.shut(words.integers("market"), closed)
        if "ident" not in words:
            outcome = np.where(here, Outcome.REFUSED, Outcome.ACCEPTED).astype(np.int64)
            events = words.without("removed")
            if here.any():
                events = events.take(np.flatnonzero(~here))
            if not events.n:
                return None, outcome, closed
            return Commit(seq, events.with_columns(pos=places(seq, events.n))), outcome, closed
        words, pos, digest, standing = await self._known.of(words)
        if len(self._gate.closed) and standing.n:
            await self._names.load_slots(np.unique(standing.integers("market")).tolist())
        there, closed = self._held(words, pos, digest, standing, here, closed)
        found = resolve(words, pos, digest, here, there)
        outcome = found.outcome.astype(np.int64)
        if not len(found.keep) and not len(found.dead):
            return None, outcome, closed
        dead = _dead(standing, found.dead)
        kept = words.without("removed")
        events = kept if len(found.keep) == words.n else kept.take(found.keep)
        return Commit(seq, events.with_columns(pos=places(seq, events.n)), dead, found.forget), outcome, closed

    def _held(
        self, words: Events, pos: Array, digest: Array, standing: Events, here: Array, closed: Array
    ) -> tuple[Array, Array]:
        """Which words would change an event of a closed day, or one that was dropped; and when what is closed to each
        word is."""
        there = np.zeros(words.n, np.bool_)
        rows = np.flatnonzero((pos >= 0) & ((digest != words.integers("digest")) | words.integers("removed")))
        if not len(self._gate.closed) or not len(rows):
            return there, closed
        when = np.full(len(rows), NOWHERE)
        there[rows] = True
        if standing.n:
            standing = standing.take(np.argsort(standing.integers("pos")))
            place = standing.integers("pos")
            at = np.minimum(np.searchsorted(place, pos[rows]), standing.n - 1)
            known = place[at] == pos[rows]
            when[known] = standing.integers("ts")[at[known]]
            there[rows[known]] = self._gate.shut(standing.integers("market")[at[known]], when[known])
        closed = closed.copy()
        blamed = there[rows] & ~here[rows]
        closed[rows[blamed]] = when[blamed]
        return there, closed

    def _refused(self, group: Sequence[_Request], outcome: Array, closed: Array) -> list[Reject]:
        """Have each request know which of its words were refused, and why; the dead letters about them."""
        letters: list[Reject] = []
        if not (outcome == Outcome.REFUSED).any():
            return letters
        at = 0
        for request in group:
            rows = np.flatnonzero(outcome[at : at + request.words.n] == Outcome.REFUSED)
            some = rows[:LETTERS]
            reasons = [reason(ts) for ts in closed[at + some].tolist()]
            told = request.refuse(request.index[some].tolist(), reasons)
            letters += self._posted(told, request.source)
            request.rejected = sorted([*request.rejected, *told], key=lambda one: one.index)
            request.unlisted = len(rows) - len(told)
            self._rejected["closed_day"] = self._rejected.get("closed_day", 0) + len(rows)
            at += request.words.n
        return letters

    def _answers_to(self, group: Sequence[_Request], outcome: Array, seq: int) -> list[bytes]:
        at = 0
        cursor = f"{self._engine.epoch}.{seq}"
        answers = []
        for request in group:
            counts = np.bincount(outcome[at : at + request.words.n], minlength=len(Outcome)).tolist()
            at += request.words.n
            listed = [Listed(one.index, one.error, one.market_symbol) for one in request.rejected[:LISTED]]
            answer = IngestAnswer(
                counts[Outcome.ACCEPTED],
                counts[Outcome.DUPLICATE],
                counts[Outcome.CORRECTED],
                counts[Outcome.RETRACTED],
                counts[Outcome.UNKNOWN],
                listed,
                len(request.rejected) + request.unlisted,
                cursor,
            )
            answers.append(msgspec.json.encode(answer))
        return answers


def _stamped(found: Decoded) -> Decoded:
    return found if found.unknown else replace(found, events=hashing.stamped(found.events))


def _joined(group: Sequence[_Request]) -> Events:
    """The words of all requests in order, stamped: small requests together, for most of the cost is that of a call."""
    parts = []
    for stamped, some in groupby(group, lambda request: request.stamped):
        words = concat([request.words for request in some])
        parts.append(words if stamped else hashing.stamped(words))
    return concat(parts)


def _dead(standing: Events, gone: Array) -> list[Dead]:
    """Where the events at these places lie."""
    if not len(gone):
        return []
    place = standing.integers("pos")
    rows = np.flatnonzero(np.isin(place, gone))
    columns = (column[rows].tolist() for column in (place, standing.integers("market"), standing.integers("ts")))
    return [Dead(*row) for row in sorted(set(zip(*columns, strict=True)))]
