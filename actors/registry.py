"""What memory holds of the registry: the markets in use, by every name they go by, and the keys in use."""

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
from storage.records import GRANTS, KIND_CODE, KINDS, Kind, Market, Scope

Run = Callable[..., Awaitable[Any]]  # runs a function of `storage` against the state file, on a worker thread
HasEvents = Callable[[int], Awaitable[bool]]

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
    def put(self, state: Any, fields: Mapping[str, object], has_events: Callable[[int], bool], /) -> Market: ...
    def patch(
        self, state: Any, symbol: str, fields: Mapping[str, object], has_events: Callable[[int], bool], /
    ) -> Market: ...
    def deactivate(self, state: Any, symbol: str, /) -> Market: ...
    def search(
        self, state: Any, query: str, kind: str | None, type: str | None, exchange: str | None, limit: int, /
    ) -> list[Market]: ...
    def page(self, state: Any, after: int, limit: int, query: str, kind: str | None, /) -> list[Market]: ...
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
        self._ids: dict[int, int] = {}
        self._contracts: dict[tuple[int, str], int] = {}
        self._hops = self._evicted = 0
        self._round = 0  # counts loads
        self._asked = np.zeros(0, np.uint32)  # by slot: the round that last asked for it
        self.kinds: Array = np.zeros(0, np.uint8)  # index into KINDS, or NOTHING
        self.sources: Array = np.zeros(0, np.uint8)  # bit p: PRICE_TYPES[p] moves its candles
        self.calendars: Array = np.zeros(0, np.int16)  # index into `calendar_list`
        self.chains: Array = np.zeros(0, np.int64)  # -1: on none
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
        key = folded(symbol)
        slot = self._symbols.get(key)
        if slot is None:
            kind, name = qualified(key)
            slot = self._symbols.get(name)
            if kind is None or slot is None or self.kinds[slot] != KIND_CODE[kind]:
                return None
        return self._touched(slot)

    def slot_of_id(self, market_id: int) -> int | None:
        """The slot of a loaded market by market_id."""
        return self._touched(self._ids.get(market_id))

    def slot_of_contract(self, chain_id: int, address: str) -> int | None:
        """The slot of a loaded market by its contract."""
        return self._touched(self._contracts.get((chain_id, contract_key(address))))

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

    def chain(self, slot: int) -> int:
        """The chain of a market that has been loaded; -1 where it is on none."""
        return int(self.chains[slot])

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
        absent: set[Reference] = set()
        self._round += 1
        while True:
            slots = {r: slot for r in wanted if (slot := self.slot_of(r)) is not None}
            missing = [r for r in wanted if r not in slots and r not in absent]
            if not missing:
                break
            found = await self._found(missing, create)
            absent.update(r for r, market in zip(missing, found, strict=True) if market is None)
            self._hold(market for market in found if market is not None)
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
            self._hold(found)
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
        symbol = fields.get("market_symbol")
        eventful = await self._eventful(symbol) if isinstance(symbol, str) else True
        return await self._change(self._store.put, fields, lambda _: eventful)

    async def patch(self, symbol: str, fields: Mapping[str, object]) -> Market:
        """Change the named fields of a market."""
        eventful = await self._eventful(symbol)
        return await self._change(self._store.patch, symbol, fields, lambda _: eventful)

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
    ) -> list[Market]:
        """Active markets for what somebody typed, best first."""
        found: list[Market] = await self._run(self._store.search, query, kind, type, exchange, limit)
        return found

    async def page(self, after: int = 0, limit: int = 100, query: str = "", kind: str | None = None) -> list[Market]:
        """Markets in the order of registration, from behind a slot."""
        found: list[Market] = await self._run(self._store.page, after, limit, query, kind)
        return found

    async def count(self) -> tuple[int, int]:
        """How many markets are registered, and how many of them active."""
        counts: tuple[int, int] = await self._run(self._store.count)
        return counts

    # --- within

    async def _found(self, references: list[Reference], create: Kind | None) -> list[Market | None]:
        self._hops += 1
        found: list[Market | None] = await self._run(self._store.found, references)
        missing = [i for i, market in enumerate(found) if market is None]
        if create is not None and missing:
            async with self._changing:
                self._hops += 1
                created = await self._run(self._store.found_or_created, [references[i] for i in missing], create)
            for i, market in zip(missing, created, strict=True):
                found[i] = market
        return found

    async def _eventful(self, symbol: str) -> bool:
        slots = await self.load([symbol])
        # True for one that is about to be made: nobody asks, unless another process makes it first.
        return await self._has_events(slots[symbol]) if slots else True

    async def _change(self, work: Callable[..., Market], *arguments: Any) -> Market:
        async with self._changing:  # so that memory learns of changes in the order in which they were committed
            self._hops += 1
            market: Market = await self._run(work, *arguments)
            self._keep(market)
        self._evict()
        return market

    def _touched(self, slot: int | None) -> int | None:
        if slot is not None:
            self._asked[slot] = self._round
        return slot

    def _hold(self, markets: Iterable[Market]) -> None:
        """Keep what was read, unless it is here already: by another load, or from a change that is newer."""
        for market in markets:
            if market.slot not in self._markets:
                self._keep(market)

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
        if market.chain_id is not None and market.contract_address is not None:
            names.append((self._contracts, (market.chain_id, contract_key(market.contract_address))))
        return names

    def _drop(self, names: Iterable[tuple[dict[Any, int], object]], slot: int) -> None:
        for index, name in names:
            if index.get(name) == slot:  # one that was given up may already be another's
                del index[name]

    def _forget(self, slot: int) -> None:
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

    async def scope(self, key: str) -> Scope | None:
        """The scope of a key; None where it is unknown or revoked."""
        if not (key.startswith("cdl_") and len(key) < 100 and key.isascii()):
            return None
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
