"""What memory holds of the registry: the markets in use, by every name they go by, and the keys in use."""

import hmac
import math
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import trio
from msgspec import Struct
from trio import TASK_STATUS_IGNORED, TaskStatus

from storage.calendar import Calendar
from storage.errors import BrokenStore, Unavailable, UnknownMarket
from storage.events import PRICE_CODE, Array
from storage.names import Reference, contract_key, folded, qualified
from storage.ordering import ALL, Order, Wanted
from storage.records import GRANTS, KIND_CODE, KINDS, Kind, Market, Scope
from storage.search import NOBODY, Busy

Run = Callable[..., Awaitable[Any]]  # runs a function of `storage` against the state file, on a worker thread
HasEvents = Callable[[int], bool]  # whether the market in a slot has events; asked on a worker thread

CAPACITY = 200_000  # markets in memory
NOTHING = 255  # in `kinds`: never loaded
KEY_SECONDS = 1.5  # how long a key's scope is believed; revocation shows within 2 s
KEYS = 10_000  # in memory
TOUCH_SECONDS = 30.0  # between two notes of when keys were used


class Markets(Protocol):
    """What is asked of `storage.markets`."""

    def found(self, state: Any, references: Sequence[Reference], /) -> list[Market | None]: ...
    def found_or_created(self, state: Any, references: Sequence[Reference], kind: Kind, /) -> list[Market | None]: ...
    def by_slots(self, state: Any, slots: Sequence[int], /) -> list[Market]: ...
    def put(self, state: Any, fields: Mapping[str, object], has_events: HasEvents, /) -> Market: ...
    def patch(self, state: Any, symbol: str, fields: Mapping[str, object], has_events: HasEvents, /) -> Market: ...
    def deactivate(self, state: Any, symbol: str, /) -> Market: ...
    def search(
        self,
        state: Any,
        query: str,
        kind: str | None,
        type: str | None,
        exchange: str | None,
        limit: int,
        busy: Busy,
        /,
    ) -> list[Market]: ...
    def ordered(
        self, state: Any, order: Order, wanted: Wanted, offset: int, limit: int, busy: Busy, /
    ) -> list[Market]: ...
    def page(self, state: Any, after: int, limit: int, query: str, wanted: Wanted, /) -> list[Market]: ...
    def count(self, state: Any, /) -> tuple[int, int]: ...


class KeyStore(Protocol):
    """What is asked of `storage.keys`."""

    def check(self, state: Any, key: str, /) -> Scope | None: ...
    def touch(self, state: Any, used: dict[str, int], /) -> None: ...


class RegistryStatistics(Struct, frozen=True):
    """How much of the registry is in memory, and what that took."""

    loaded: int
    hops: int  # times the file was asked
    evicted: int


class Registry:
    """The markets in use. Reading is synchronous and may happen on any thread; loading and changing is the loop's.

    `kinds`, `sources`, `calendars` and `chains` are arrays by slot for whoever works on whole columns. They grow by
    being replaced, so take them afresh for each batch; what they say of a slot outlives its place in memory.
    """

    def __init__(self, run: Run, markets: Markets, has_events: HasEvents, *, capacity: int = CAPACITY) -> None:
        self._run = run
        self._store = markets
        self._has_events = has_events
        self._capacity = capacity
        self._changing = trio.Lock()
        self._markets: dict[int, Market] = {}
        self._symbols: dict[str, int] = {}
        self._spelled: dict[str, int] = {}  # symbols exactly as somebody wrote them; emptied when any name may change
        self._ids: dict[int, int] = {}
        self._contracts: dict[tuple[int | None, str], int] = {}
        # Contracts that were asked for otherwise than their market says. What they mean hangs on all markets, so it is
        # asked anew after any change.
        self._meant: dict[tuple[int | None, str], int] = {}
        self._hops = self._evicted = 0
        self._changes = 0
        self._round = 0  # counts loads
        self._asked = np.zeros(0, np.uint32)  # by slot: the round that last asked for it
        self.kinds: Array = np.zeros(0, np.uint8)  # index into KINDS, or NOTHING
        self.sources: Array = np.zeros(0, np.uint8)  # bit p: PRICE_TYPES[p] moves its candles
        self.calendars: Array = np.zeros(0, np.int16)  # index into `calendar_list`
        self.chains: Array = np.zeros(0, np.int64)  # -1: names none
        self.calendar_list: list[Calendar] = []
        self._calendar_codes: dict[tuple[str, str], int] = {}
        self._grow(1023)

    # --- in memory, at once

    def slot_of(self, reference: Reference) -> int | None:
        """The slot of a loaded market by any of its names."""
        match reference:
            case str(symbol):
                return self.slot_of_symbol(symbol)
            case int(market_id):
                return self.slot_of_id(market_id)
            case (chain_id, address):
                return self.slot_of_contract(chain_id, address)

    def slot_of_symbol(self, symbol: str) -> int | None:
        """The slot of a loaded market by symbol or `EXCHANGE:NAME`, in any case."""
        slot = self._spelled.get(symbol)
        if slot is not None:
            self._asked[slot] = self._round
            return slot
        key = folded(symbol)
        slot = self._symbols.get(key)
        if slot is None:
            kind, name = qualified(key)
            slot = self._symbols.get(name)
            if kind is None or slot is None or self.kinds[slot] != KIND_CODE[kind]:
                return None
        if len(self._spelled) < self._capacity:
            self._spelled[symbol] = slot
        return self._touched(slot)

    def slot_of_id(self, market_id: int) -> int | None:
        """The slot of a loaded market by market_id."""
        return self._touched(self._ids.get(market_id))

    def slot_of_contract(self, chain_id: int | None, address: str) -> int | None:
        """The slot of a loaded market by its contract; see `Reference` for what no chain means."""
        place = chain_id, contract_key(address)
        slot = self._contracts.get(place)
        if slot is None:
            slot = self._meant.get(place)
            slot = slot if slot in self._markets else None
        return self._touched(slot)

    def market(self, slot: int) -> Market:
        """The loaded market in this slot."""
        market = self._markets.get(slot)
        if market is None:
            raise LookupError(f"the market in slot {slot} is not in memory: load it first")
        self._touched(slot)
        return market

    def kind(self, slot: int) -> Kind:
        """The kind of a market that has been loaded."""
        return KINDS[int(self.kinds[slot])]

    def chain(self, slot: int) -> int | None:
        """The chain of a market that has been loaded; None where it names none."""
        chain = int(self.chains[slot])
        return None if chain < 0 else chain

    def calendar(self, slot: int) -> Calendar:
        """The calendar of a market that has been loaded."""
        return self.calendar_list[int(self.calendars[slot])]

    def statistics(self) -> RegistryStatistics:
        """Counters for metrics."""
        return RegistryStatistics(len(self._markets), self._hops, self._evicted)

    # --- through the door

    async def load(self, references: Iterable[Reference], create: Kind | None = None) -> dict[Reference, int]:
        """The slots of the markets meant, each in memory when this returns; what does not exist is left out.

        With `create`, what does not exist is registered as a market of that kind. All of these stay in memory at
        least until the caller's next await, however many they are.
        """
        wanted = dict.fromkeys(references)
        read: dict[Reference, int | None] = {}
        self._round += 1
        if len(self._meant) > self._capacity:
            self._meant.clear()
        while True:
            slots = {r: slot for r in wanted if (slot := self.slot_of(r) or read.get(r)) in self._markets}
            missing = [r for r in wanted if r not in slots and read.get(r, 0) is not None]
            if not missing:
                break
            read.update(await self._read(missing, create))
        self._evict()
        return slots

    async def load_slots(self, slots: Iterable[int]) -> None:
        """As `load`, for markets that events already name by slot."""
        wanted = set(slots)
        self._round += 1
        while missing := [slot for slot in wanted if slot not in self._markets]:
            self._hops += 1
            found: list[Market] = await self._run(self._store.by_slots, missing)
            if len(found) < len(missing):
                lost = sorted(set(missing) - {market.slot for market in found})
                raise BrokenStore(f"state.db has no markets in slots {lost[:10]}, of which there are events")
            for market in found:
                if market.slot not in self._markets:  # else a change has brought it meanwhile
                    self._keep(market)
        for slot in wanted:
            self._touched(slot)
        self._evict()

    async def named(self, symbol: str) -> Market:
        """The market of this symbol or `EXCHANGE:NAME`, in any case; UnknownMarket where there is none."""
        slots = await self.load([symbol])
        if not slots:
            raise UnknownMarket(symbol)
        return self._markets[slots[symbol]]

    async def put(self, fields: Mapping[str, object]) -> Market:
        """Register a market or change the named fields of the one with exactly this symbol."""
        return await self._change(self._store.put, fields, self._has_events)

    async def patch(self, symbol: str, fields: Mapping[str, object]) -> Market:
        """Change the named fields of a market."""
        return await self._change(self._store.patch, symbol, fields, self._has_events)

    async def deactivate(self, symbol: str) -> Market:
        """Take a market off the lists."""
        return await self._change(self._store.deactivate, symbol)

    async def search(
        self,
        query: str,
        *,
        kind: str | None = None,
        type: str | None = None,
        exchange: str | None = None,
        limit: int = 30,
        busy: Busy = NOBODY,
    ) -> list[Market]:
        """Active markets for what somebody typed, best first."""
        found: list[Market] = await self._run(self._store.search, query, kind, type, exchange, limit, busy)
        return found

    async def ordered(self, order: Order, wanted: Wanted, offset: int, limit: int, busy: Busy) -> list[Market]:
        """Active markets in an order."""
        found: list[Market] = await self._run(self._store.ordered, order, wanted, offset, limit, busy)
        return found

    async def page(self, after: int = 0, limit: int = 100, query: str = "", wanted: Wanted = ALL) -> list[Market]:
        """Markets in the order of registration, from behind a slot."""
        found: list[Market] = await self._run(self._store.page, after, limit, query, wanted)
        return found

    async def count(self) -> tuple[int, int]:
        """How many markets are registered, and how many of them active."""
        counts: tuple[int, int] = await self._run(self._store.count)
        return counts

    async def change(self, work: Callable[..., list[Market]], *arguments: Any) -> None:
        """Have the file changed; `work` returns the markets that are called otherwise since."""
        async with self._changing:
            self._hops += 1
            for market in await self._run(work, *arguments):
                if market.slot in self._markets:
                    self._keep(market)
            self._changes += 1

    async def ask(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """What the file says of something that is not kept in memory."""
        return await self._run(work, *arguments)

    # --- within

    async def _read(self, references: list[Reference], create: Kind | None) -> dict[Reference, int | None]:
        """Ask the file; what is found is in memory then."""
        changes = self._changes
        self._hops += 1
        found: list[Market | None]
        if create is None:
            found = await self._run(self._store.found, references)
        else:
            async with self._changing:
                found = await self._run(self._store.found_or_created, references, create)
            changes = self._changes = self._changes + 1
            self._meant.clear()
        if changes != self._changes:
            return {}  # something changed meanwhile, so what was read may be old: it is asked again
        for reference, market in zip(references, found, strict=True):
            if market is not None:
                self._keep(market)
                if isinstance(reference, tuple) and self.slot_of(reference) is None:
                    self._meant[reference[0], contract_key(reference[1])] = market.slot
        return {r: m.slot if m is not None else None for r, m in zip(references, found, strict=True)}

    async def _change(self, work: Callable[..., Market], *arguments: Any) -> Market:
        async with self._changing:  # so that memory learns of changes in the order in which they were committed
            self._hops += 1
            market: Market = await self._run(work, *arguments)
            self._keep(market)
            self._spelled.clear()
            self._changes += 1
            self._meant.clear()
        self._evict()
        return market

    def _touched(self, slot: int | None) -> int | None:
        if slot is not None:
            self._asked[slot] = self._round
        return slot

    def _keep(self, market: Market) -> None:
        slot = market.slot
        self._grow(slot)
        old = self._markets.get(slot)
        self._markets[slot] = market
        self.kinds[slot] = KIND_CODE[market.kind]
        self.sources[slot] = sum(1 << PRICE_CODE[p] for p in market.price_source)
        self.calendars[slot] = self._calendar_code(market)
        self.chains[slot] = -1 if market.chain_id is None else market.chain_id
        self._asked[slot] = self._round
        # Names last: whoever finds a slot by one of them, on whatever thread, finds the rest in place.
        names = self._names(market)
        for index, name in names:
            index[name] = slot
        if old is not None:
            self._drop([named for named in self._names(old) if named[1] not in [name for _, name in names]], slot)

    def _names(self, market: Market) -> list[tuple[dict[Any, int], object]]:
        """Under what it is found, and where that is looked up."""
        names: list[tuple[dict[Any, int], object]] = [
            (self._symbols, folded(market.market_symbol)),
            (self._ids, market.market_id),
        ]
        if market.contract_address is not None:
            names.append((self._contracts, (market.chain_id, contract_key(market.contract_address))))
        return names

    def _drop(self, names: Iterable[tuple[dict[Any, int], object]], slot: int) -> None:
        for index, name in names:
            if index.get(name) == slot:  # one that was given up may already be another's
                del index[name]

    def _forget(self, slot: int) -> None:
        self._spelled.clear()
        self._drop(self._names(self._markets.pop(slot)), slot)
        self._evicted += 1

    def _evict(self) -> None:
        """Back to nine tenths of the capacity, without those asked for least lately; none of this round."""
        if len(self._markets) <= self._capacity:
            return
        slots = np.fromiter(self._markets, np.int64, len(self._markets))
        asked = self._asked[slots]
        spare = len(slots) - self._capacity * 9 // 10
        oldest = slots[np.argsort(asked, kind="stable")][:spare]
        for slot in oldest[self._asked[oldest] != np.uint32(self._round)].tolist():
            self._forget(slot)

    def _calendar_code(self, market: Market) -> int:
        which = (market.session, market.timezone)
        code = self._calendar_codes.get(which)
        if code is None:
            self.calendar_list.append(Calendar.parse(*which))
            code = self._calendar_codes[which] = len(self.calendar_list) - 1
        return code

    def _grow(self, slot: int) -> None:
        have = len(self.kinds)
        if slot < have:
            return
        size = max(slot + 1, have * 5 // 4)
        self._asked = _longer(self._asked, size, 0)
        self.sources = _longer(self.sources, size, 0)
        self.calendars = _longer(self.calendars, size, 0)
        self.chains = _longer(self.chains, size, -1)
        self.kinds = _longer(self.kinds, size, NOTHING)


class Keys:
    """The keys in use: a scope is believed for a moment, so that a busy producer does not cost a look into the file."""

    def __init__(self, run: Run, keys: KeyStore) -> None:
        self._run = run
        self._store = keys
        self._known: dict[str, tuple[float, Scope | None]] = {}
        self._used: dict[str, int] = {}
        self._lent = ""

    def lend(self) -> str:
        """A key that may do everything for as long as this process lives, and that is stored nowhere."""
        self._lent = f"cdl_a_{secrets.token_urlsafe(32)}"
        return self._lent

    async def scope(self, key: str) -> Scope | None:
        """The scope of a key; None where it is unknown or revoked."""
        if not (key.startswith("cdl_") and len(key) < 100 and key.isascii()):
            return None
        if hmac.compare_digest(key, self._lent):
            return "admin"
        now = trio.current_time()
        until, scope = self._known.get(key, (now, None))
        if until <= now:
            scope = await self._run(self._store.check, key)
            if len(self._known) >= KEYS:
                self._known.clear()  # a flood of wrong keys; the right ones are soon known again
            self._known[key] = (now + KEY_SECONDS, scope)
        if scope is not None:
            self._used[key] = time.time_ns() // 1000
        return scope

    def believed(self, key: str) -> Scope | None:
        """The scope of a key that was looked up a moment ago; None where the file has to be asked."""
        until, scope = self._known.get(key, (-math.inf, None))
        if scope is None or until <= trio.current_time():
            return None
        self._used[key] = time.time_ns() // 1000
        return scope

    async def allowed(self, key: str, wanted: Scope) -> bool:
        """Whether this key may do what the scope asks for."""
        held = await self.scope(key)
        return held is not None and wanted in GRANTS[held]

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Note now and then when keys were last used, until cancelled."""
        task_status.started()
        while True:
            await trio.sleep(TOUCH_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        """Note when keys were last used; on a full disk that waits."""
        used, self._used = self._used, {}
        if not used:
            return
        try:
            await self._run(self._store.touch, used)
        except Unavailable:
            self._used = {**used, **self._used}


def _longer(array: Array, size: int, filler: int) -> Array:
    longer = np.full(size, filler, array.dtype)
    longer[: len(array)] = array
    return longer
