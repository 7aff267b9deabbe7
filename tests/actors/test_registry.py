"""The registry in memory, over a real state file on real threads."""

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors.registry import KEY_SECONDS, NOTHING, TOUCH_SECONDS, Keys, Registry
from storage import keys, markets
from storage.errors import BrokenStore, Conflict, Unavailable, UnknownMarket
from storage.events import PRICE_CODE
from storage.names import Reference
from storage.records import KIND_CODE, Market, Scope
from storage.state import State


class Desk:
    """A state file behind threads, as the daemon has it; counts the hops, and can hold answers back."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.hops = 0
        self.lived: set[int] = set()
        self.held: dict[Callable[..., Any], trio.Event] = {}
        self.waiting: dict[Callable[..., Any], trio.Event] = {}

    async def run(self, work: Callable[..., Any], *arguments: Any) -> Any:
        self.hops += 1
        answer = await trio.to_thread.run_sync(lambda: work(self.state, *arguments))
        if work in self.held:
            self.waiting[work].set()
            await self.held.pop(work).wait()
        return answer

    def hold(self, work: Callable[..., Any]) -> tuple[trio.Event, trio.Event]:
        """The next answer of `work` waits: (it is there, let it go)."""
        self.waiting[work], self.held[work] = trio.Event(), trio.Event()
        return self.waiting[work], self.held[work]

    def registry(self, capacity: int = 1000) -> Registry:
        return Registry(self.run, markets, lambda slot: slot in self.lived, capacity=capacity)

    def put(self, symbol: str, **fields: object) -> Market:
        """As another process does."""
        return markets.put(self.state, {"market_symbol": symbol, **fields}, lambda _: False)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with State.open(tmp_path / "state.db", synchronous="NORMAL") as state:
        yield Desk(state)


async def test_a_market_is_looked_up_once_and_then_known_by_every_name(desk: Desk) -> None:
    gold = desk.put("GOLD", market_id=77, chain_id=5, contract_address="0xAB")
    registry = desk.registry()
    assert registry.slot_of_symbol("GOLD") is None
    assert await registry.named("gold") == gold
    assert desk.hops == 1
    names: list[Reference] = ["GOLD", " gold", "vamm:Gold", 77, (5, "0XaB")]
    assert [registry.slot_of(name) for name in names] == [gold.slot] * 5
    assert await registry.load(names) == dict.fromkeys(names, gold.slot)
    assert [registry.slot_of(name) for name in ("SPOT:GOLD", 5, "GOL")] == [None] * 3
    assert registry.market(gold.slot) == gold
    assert desk.hops == 1


async def test_what_does_not_exist_is_left_out_and_asked_again_the_next_time(desk: Desk) -> None:
    registry = desk.registry()
    desk.put("A")
    assert await registry.load(["A", "B", 9, (1, "0x1"), (None, "0x1")]) == {"A": 1}
    assert desk.hops == 1
    with pytest.raises(UnknownMarket, match="no market named 'GLOD'"):
        await registry.named("GLOD")
    made = desk.put("B")
    assert await registry.load(["B"]) == {"B": made.slot}


async def test_the_columns_say_what_the_markets_say(desk: Desk) -> None:
    a = desk.put("A", chain_id=2**62, price_source=["mark", "trade"])
    b = desk.put("B", kind="spot", session="0930-1600", timezone="America/New_York")
    c = desk.put("C", kind="index")
    registry = desk.registry()
    await registry.load_slots([c.slot, b.slot, a.slot])
    slots = np.array([a.slot, b.slot, c.slot])
    assert registry.kinds[slots].tolist() == [KIND_CODE[m.kind] for m in (a, b, c)]
    bits = 1 << PRICE_CODE["mark"] | 1 << PRICE_CODE["trade"]
    assert registry.sources[slots].tolist() == [bits, 1 << PRICE_CODE["trade"], 1 << PRICE_CODE["trade"]]
    assert registry.chains[slots].tolist() == [2**62, -1, -1]
    assert [registry.chain(m.slot) for m in (a, b)] == [2**62, None]
    assert registry.calendars[slots].tolist() == [0, 1, 0]
    assert [registry.calendar(m.slot).timezone for m in (a, b, c)] == ["Etc/UTC", "America/New_York", "Etc/UTC"]
    assert registry.kind(b.slot) == "spot"
    assert registry.kinds[c.slot + 1] == NOTHING


async def test_the_columns_grow_as_far_as_slots_reach(desk: Desk) -> None:
    registry = desk.registry()
    many = [{"market_symbol": f"M{i}", "kind": "spot"} for i in range(3000)]
    last = markets.put_all(desk.state, many, lambda _: False)[-1]
    await registry.load_slots([1])
    await registry.load_slots([last.slot])
    assert registry.kinds[[1, last.slot]].tolist() == [KIND_CODE["spot"]] * 2
    assert registry.kinds[2] == NOTHING


async def test_events_of_a_slot_that_the_file_does_not_have_are_a_broken_store(desk: Desk) -> None:
    desk.put("A")
    with pytest.raises(BrokenStore, match=r"no markets in slots \[7\]"):
        await desk.registry().load_slots([1, 7])


async def test_a_change_is_seen_at_once_and_names_given_up_are_forgotten(desk: Desk) -> None:
    registry = desk.registry()
    gold = await registry.put({"market_symbol": "GOLD", "market_id": 5, "chain_id": 1, "contract_address": "0xA"})
    assert registry.market(gold.slot) == gold
    changed = await registry.patch("gold", {"market_id": 6, "chain_id": 2, "price_source": "index"})
    assert registry.market(gold.slot) == changed == markets.by_symbol(desk.state, "GOLD")
    assert [registry.slot_of(n) for n in (5, 6, (1, "0xA"), (2, "0xA"))] == [None, gold.slot, None, gold.slot]
    assert registry.sources[gold.slot] == 1 << PRICE_CODE["index"]
    assert not (await registry.deactivate("VAMM:GOLD")).is_active
    assert not registry.market(gold.slot).is_active
    with pytest.raises(UnknownMarket):
        await registry.patch("GLOD", {})


async def test_what_the_first_event_settles_stays(desk: Desk) -> None:
    registry = desk.registry()
    gold = await registry.put({"market_symbol": "GOLD"})
    desk.lived.add(gold.slot)
    with pytest.raises(Conflict, match="kind: 'GOLD' has events"):
        await registry.patch("GOLD", {"kind": "spot"})
    with pytest.raises(Conflict, match="timezone: 'GOLD' has events"):
        await registry.put({"market_symbol": "GOLD", "timezone": "Asia/Tokyo"})
    assert registry.market(gold.slot) == gold
    assert (await registry.put({"market_symbol": "SILVER", "kind": "spot"})).kind == "spot"


async def test_a_contract_means_something_else_once_another_market_takes_it(desk: Desk) -> None:
    registry = desk.registry()
    one = desk.put("ONE", chain_id=1, contract_address="0xA")
    assert await registry.load([(None, "0xA"), (1, "0xa"), (2, "0xA")]) == {
        (None, "0xA"): one.slot,
        (1, "0xa"): one.slot,
    }
    assert registry.slot_of_contract(None, "0Xa") == one.slot
    two = await registry.put({"market_symbol": "TWO", "chain_id": 2, "contract_address": "0xA"})
    assert await registry.load([(None, "0xA"), (2, "0xA")]) == {(2, "0xA"): two.slot}
    assert registry.slot_of_contract(None, "0xA") is None
    anywhere = await registry.put({"market_symbol": "ANYWHERE", "contract_address": "0xA"})
    expected = {(None, "0xA"): anywhere.slot, (1, "0xA"): one.slot, (9, "0xA"): anywhere.slot}
    assert await registry.load(expected) == expected


async def test_missing_markets_are_made_on_the_way_where_that_is_wanted(desk: Desk) -> None:
    registry = desk.registry()
    desk.put("OLD")
    references: list[Reference] = ["OLD", "new", "NEW", (7, "0xA"), 55, "bad,name"]
    slots = await registry.load(references, create="spot")
    assert slots == {"OLD": 1, "new": 2, "NEW": 2, (7, "0xA"): 3}
    assert [registry.kind(slot) for slot in (1, 2, 3)] == ["perp", "spot", "spot"]
    assert await registry.count() == (3, 3)
    assert await registry.load(references) == slots


async def test_memory_holds_no_more_than_its_capacity_and_what_was_used_last(desk: Desk) -> None:
    markets.put_all(desk.state, [{"market_symbol": f"M{i}"} for i in range(60)], lambda _: False)
    registry = desk.registry(capacity=20)
    for i in range(60):
        await registry.load([f"M{i}", "M0"])
        assert registry.statistics().loaded <= 20
    assert registry.slot_of_symbol("M0") == 1
    assert [registry.slot_of_symbol(f"M{i}") for i in (58, 59)] == [59, 60]
    assert registry.slot_of_symbol("M5") is registry.slot_of_id(6) is None
    assert registry.kind(6) == "perp"  # what the columns say stays
    with pytest.raises(LookupError, match="slot 6 is not in memory"):
        registry.market(6)
    assert (await registry.named("m5")).slot == 6
    assert registry.statistics().evicted >= 40


async def test_one_load_may_be_larger_than_memory(desk: Desk) -> None:
    markets.put_all(desk.state, [{"market_symbol": f"M{i}"} for i in range(60)], lambda _: False)
    registry = desk.registry(capacity=20)
    names = [f"M{i}" for i in range(60)]
    assert await registry.load(names) == {name: i + 1 for i, name in enumerate(names)}
    assert [registry.slot_of_symbol(name) for name in names] == list(range(1, 61))
    await registry.load_slots(range(1, 61))
    assert [registry.market(slot).market_symbol for slot in range(1, 61)] == names
    await registry.load(["M3"])
    assert registry.statistics().loaded <= 20


async def test_loads_that_push_each_other_out_all_end_with_everything_in_memory(desk: Desk) -> None:
    markets.put_all(desk.state, [{"market_symbol": f"M{i}"} for i in range(40)], lambda _: False)
    registry = desk.registry(capacity=10)

    async def load(start: int) -> None:
        names = [f"M{i % 40}" for i in range(start, start + 15)]
        for _ in range(5):
            assert len(await registry.load(names)) == 15
            assert None not in [registry.slot_of_symbol(name) for name in names]
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for start in range(0, 40, 10):
            nursery.start_soon(load, start)


async def test_a_look_that_comes_back_late_does_not_undo_a_change(desk: Desk, nursery: trio.Nursery) -> None:
    gold = desk.put("GOLD", name="old", chain_id=1, contract_address="0xA")
    registry = desk.registry()
    read, go_on = desk.hold(markets.found)
    found: dict[str, dict[Reference, int]] = {}

    async def look() -> None:
        found["GOLD"] = await registry.load(["GOLD", (1, "0xA")])

    nursery.start_soon(look)
    await read.wait()
    changed = await registry.patch("GOLD", {"name": "new", "contract_address": "0xB"})
    go_on.set()
    while not found:
        await trio.lowlevel.checkpoint()
    assert found["GOLD"] == {"GOLD": gold.slot}
    assert registry.market(gold.slot) == changed
    assert registry.slot_of_contract(1, "0xA") is None


async def test_what_another_process_changed_is_found_under_its_new_name(desk: Desk) -> None:
    registry = desk.registry()
    desk.put("GOLD", market_id=5)
    await registry.named("GOLD")
    desk.put("GOLD", market_id=6)
    assert await registry.load([6]) == {6: 1}
    assert registry.slot_of_id(5) is None


async def test_names_may_be_looked_up_on_another_thread_while_markets_come_and_go(desk: Desk) -> None:
    markets.put_all(desk.state, [{"market_symbol": f"M{i}"} for i in range(400)], lambda _: False)
    registry = desk.registry(capacity=50)
    await registry.named("M0")
    done = False
    wrong: list[object] = []

    def look() -> None:
        while not done:
            for i in range(400):
                slot = registry.slot_of_symbol(f"m{i}")
                if slot not in (None, i + 1) or (slot and registry.kind(slot) != "perp"):
                    wrong.append((i, slot))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, look)
        for start in range(0, 400, 20):
            await registry.load([f"M{i}" for i in range(start, start + 20)])
            await registry.patch("M7", {"name": str(start)})
        done = True
    assert wrong == []


async def test_searches_and_pages_go_to_the_file(desk: Desk) -> None:
    desk.put("GOLD", name="Bullion")
    desk.put("EUR/USD", kind="spot")
    registry = desk.registry()
    assert [m.market_symbol for m in await registry.search("bull")] == ["GOLD"]
    assert [m.market_symbol for m in await registry.search("", exchange="spot")] == ["EUR/USD"]
    assert [m.market_symbol for m in await registry.page(1)] == ["EUR/USD"]
    assert registry.statistics().loaded == 0


async def test_a_market_out_of_memory_leaves_nothing_behind(desk: Desk) -> None:
    many = [{"market_symbol": f"M{i}", "chain_id": 1, "contract_address": f"0x{i:x}"} for i in range(3000)]
    markets.put_all(desk.state, many, lambda _: False)
    registry = desk.registry(capacity=10)
    for start in range(0, 3000, 100):
        await registry.load([(1, f"0x{i:x}") for i in range(start, start + 100)])
    await registry.load(["M0"])
    gc.collect()
    indices = [value for value in vars(registry).values() if isinstance(value, dict)]
    assert len(indices) >= 5
    assert all(len(index) <= 10 for index in indices)


# --- keys


class Drawer:
    """Stands in for the file of keys, so that time can be the test's."""

    def __init__(self, **known: Scope) -> None:
        self.known = {f"cdl_{name}": scope for name, scope in known.items()}
        self.checks = 0
        self.full = False
        self.touched: dict[str, int] = {}

    def check(self, _: object, key: str) -> Scope | None:
        self.checks += 1
        return self.known.get(key)

    def touch(self, _: object, used: dict[str, int]) -> None:
        if self.full:
            raise Unavailable("the disk is full")
        self.touched.update(used)

    async def run(self, work: Callable[..., Any], *arguments: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return work(None, *arguments)


async def test_a_key_in_use_is_looked_up_now_and_then_and_its_end_shows_within_two_seconds(
    mock_clock: MockClock,
) -> None:
    drawer = Drawer(robot="ingest")
    ring = Keys(drawer.run, drawer)
    for _ in range(100):
        assert await ring.allowed("cdl_robot", "ingest")
    assert drawer.checks == 1
    del drawer.known["cdl_robot"]
    mock_clock.jump(KEY_SECONDS)
    assert KEY_SECONDS < 2
    assert not await ring.allowed("cdl_robot", "ingest")


async def test_what_each_scope_may_do() -> None:
    drawer = Drawer(reader="read", robot="ingest", boss="admin")
    ring = Keys(drawer.run, drawer)
    scopes: tuple[Scope, ...] = ("read", "ingest", "admin")
    may = {key: [await ring.allowed(f"cdl_{key}", scope) for scope in scopes] for key in ("reader", "robot", "boss")}
    assert may == {"reader": [True, False, False], "robot": [False, True, False], "boss": [True, True, True]}
    assert await ring.scope("cdl_nobody") is None


async def test_what_cannot_be_a_key_costs_no_look() -> None:
    drawer = Drawer()
    ring = Keys(drawer.run, drawer)
    for text in ("", "hello", "cdl_" + "x" * 1000, "cdl_é", "CDL_r_x"):
        assert await ring.scope(text) is None
    assert drawer.checks == 0


async def test_the_last_use_is_noted_now_and_then_and_waits_for_a_full_disk(
    mock_clock: MockClock, nursery: trio.Nursery
) -> None:
    async def later(seconds: float) -> None:
        await wait_all_tasks_blocked()
        mock_clock.jump(seconds)
        await wait_all_tasks_blocked()

    drawer = Drawer(robot="ingest")
    ring = Keys(drawer.run, drawer)
    await nursery.start(ring.run)
    drawer.full = True
    await ring.allowed("cdl_robot", "ingest")
    await ring.scope("cdl_nobody")
    await later(TOUCH_SECONDS + 1)
    assert drawer.touched == {}
    drawer.full = False
    await later(TOUCH_SECONDS)
    assert list(drawer.touched) == ["cdl_robot"]
    drawer.touched.clear()
    await later(TOUCH_SECONDS)
    await later(TOUCH_SECONDS)
    assert drawer.touched == {}  # not used since
    nursery.cancel_scope.cancel()


async def test_keys_of_the_real_file(desk: Desk) -> None:
    key = keys.create(desk.state, "admin", "me")
    ring = Keys(desk.run, keys)
    assert await ring.scope(key) == "admin"
    await ring.flush()
    assert keys.listed(desk.state)[0].last_used is not None
