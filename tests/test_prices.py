"""What a market costs now, and how its last day went: live, after a restart, after corrections, and as SQL has it."""

import math
import random
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import pytest
import trio
from duckdb import DuckDBPyConnection as Connection
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from actors.ticker import DAY, HOUR, MINUTE, Price
from daemon.stack import Stack
from storage.measures import wire
from tests.stacks import NOON, Said, flush, removed, running, say, trade

EXAMPLES = settings().max_examples
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
TRADERS = ["0x" + f"{n:040x}" for n in range(1, 4)]


def event(second: int, price: float, size: float, number: int | None, extra: Said) -> Said:
    said = {**trade(second, price, size, event_type="PositionOpened"), **extra}
    return said if number is None else {**said, "trade_id": number}


extras = st.fixed_dictionaries(
    {},
    optional={
        "user_address": st.sampled_from(TRADERS),
        "funding_rate": st.sampled_from([0.001, -0.002]),
        "open_interest": st.sampled_from([10, 20]),
        "index_price": st.sampled_from([99.5, 101]),
        "total_long_size": st.sampled_from([6, 9]),
        "total_short_size": st.sampled_from([3, 2]),
        "bid_ask_spread": st.sampled_from([0.1, 0.2]),
        "market_depth": st.sampled_from([1000, 2000]),
    },
)
seconds = st.one_of(st.integers(-2 * DAY, 0), st.integers(-400, 0), st.sampled_from([-DAY, -DAY + 60, -HOUR, 0]))
words = st.one_of(
    st.builds(event, seconds, st.sampled_from([100, 101, 99.5, 0]), st.sampled_from([1, 0.1, 2.5]), st.none(), extras),
    st.builds(event, seconds, st.sampled_from([100, 102, 98]), st.sampled_from([1, 0.3]), st.integers(1, 5), extras),
    st.builds(removed, st.integers(1, 5)),
)
Turn = Literal["look", "flush", "retire", "restart", "crash", "later"]
steps = st.lists(
    st.tuples(
        st.lists(st.lists(words, min_size=1, max_size=6), min_size=1, max_size=3),
        st.sampled_from(["look", "look", "flush", "retire", "restart", "crash", "later"]),
    ),
    min_size=1,
    max_size=6,
)


def expected(db: Connection, now: int) -> dict[str, Any]:
    """The windows, from the ledger alone."""
    minute = now - now % MINUTE
    day, hour = minute - DAY + MINUTE, minute - HOUR + MINUTE
    db.execute(
        "CREATE OR REPLACE TEMP VIEW told AS SELECT *, ts // 1000000 AS s, "
        "struct_pack(ts := ts, block := coalesce(block_number, -1), idx := coalesce(log_index, trade_no, -1), "
        "tid := coalesce(trade_id, ''), pos := pos) AS place FROM ledger"
    )

    def one(sql: str) -> Any:
        ((found,),) = db.execute(sql).fetchall()
        return None if found is None else float(found)

    def last(column: str, where: str = "true") -> Any:
        return one(f"SELECT max_by({column}, place) FROM told WHERE {column} IS NOT NULL AND {where}")

    def traders(since: int) -> Any:
        return one(f"SELECT count(DISTINCT trader) FROM told WHERE s >= {since} AND trader > 0")

    def volume(since: int) -> Any:
        return one(f"SELECT coalesce(sum(volume), 0) FROM told WHERE s >= {since}")

    closes = db.execute(
        "SELECT max_by(price, place)::DOUBLE FROM told "
        f"WHERE price > 0 AND s >= {day} GROUP BY s // 60 ORDER BY s // 60"
    ).fetchall()
    before = last("price", f"price > 0 AND s < {day}")
    path = ([] if before is None else [before]) + [close for (close,) in closes]
    returns = [math.log(path[n + 1] / path[n]) for n in range(len(path) - 1)]
    long, short = last("total_long_size", f"s >= {day}"), last("total_short_size", f"s >= {day}")
    return {
        "price": last("price", "price > 0"),
        "price_1h_ago": last("price", f"price > 0 AND s < {hour}"),
        "price_24h_ago": before,
        "high_24h": one(f"SELECT max(price) FROM told WHERE price > 0 AND s >= {day}"),
        "low_24h": one(f"SELECT min(price) FROM told WHERE price > 0 AND s >= {day}"),
        "volume_1m": volume(now - 59),
        "volume_5m": volume(now - 299),
        "volume_1h": volume(hour),
        "volume_24h": volume(day),
        "turnover_24h": one(f"SELECT coalesce(sum(price::DOUBLE * volume::DOUBLE), 0) FROM told WHERE s >= {day}"),
        "trades_24h": one(f"SELECT count(*) FROM told WHERE s >= {day}"),
        "volatility_24h": 100 * math.sqrt(math.fsum(r * r for r in returns)) if returns else None,
        "active_traders_1h": traders(hour),
        "active_traders_24h": traders(day),
        "index_price": last("index_price", f"s >= {day}"),
        "bid_ask_spread": last("bid_ask_spread", f"s >= {day}"),
        "market_depth": last("market_depth", f"s >= {day}"),
        "long_short_ratio": long / short if long is not None and short is not None else None,
        "funding_rate": last("funding_rate", f"s >= {day}"),
        "open_interest": last("open_interest", f"s >= {day}"),
    }


def compare(found: Price, wanted: dict[str, Any], where: str) -> None:
    for name, value in wanted.items():
        got = getattr(found, name)
        if value is None:
            assert got is None, (where, name, got)
        else:
            assert got == pytest.approx(value, rel=1e-12, abs=1e-9), (where, name)
            assert got == wire(got), (where, name)


class Clock:
    """The time of day, as the test has it."""

    def __init__(self) -> None:
        self.now = NOON + 30.0

    def __call__(self) -> float:
        return self.now


async def look(stack: Stack, clock: Clock, where: str) -> None:
    """As it is live, and what the ledger says once it is flushed."""
    gold = await stack.registry.named("GOLD")
    live = await stack.engine.price(gold)
    await flush(stack)
    wanted = await stack.database.read(expected, int(clock()))
    compare(live, wanted, where)
    compare(await stack.engine.price(gold), wanted, f"{where}, flushed")


async def retire(stack: Stack, names: list[str]) -> None:
    """Have these markets closed."""
    await flush(stack)
    for name in names:
        await stack.engine.price(await stack.registry.named(name))  # whatever it still does is over then
    await trio.testing.wait_all_tasks_blocked()
    stack.engine._retire(math.inf)
    assert stack.engine.statistics().active == 0


async def lived(data: Path, history: list[tuple[list[list[Said]], Turn]]) -> None:
    clock = Clock()
    turns = iter(history)
    going = True
    while going:
        going = False
        async with running(data, create="perp", now=clock) as stack:
            await say(stack, trade(-3 * DAY, 97, event_type="PositionOpened"))
            for requests, turn in turns:
                for some in requests:
                    await say(stack, some)
                if turn == "later":
                    clock.now += 500  # in all less than after which events are sealed, and leave the ledger
                if turn == "look":
                    await look(stack, clock, turn)
                if turn == "flush":
                    await flush(stack)
                if turn == "retire":
                    await retire(stack, ["GOLD"])
                    await look(stack, clock, turn)
                if turn == "crash":
                    shutil.copytree(data, data.with_name(data.name + "c"))
                    data = data.with_name(data.name + "c")
                if turn in ("restart", "crash"):
                    going = True
                    break
            if not going:
                await look(stack, clock, "at the end")


async def test_a_price_of_long_ago_outlives_a_restart_whatever_was_said_since(tmp_path: Path) -> None:
    index = {"market_symbol": "GOLD", "event_type": "PriceUpdated", "price_type": "index", "price": 99}
    clock = Clock()
    for part in range(3):
        async with running(tmp_path, create="perp", now=clock) as stack:
            if part == 0:
                await say(stack, trade(-9 * DAY, 90), trade(-6 * DAY, 97, event_type="PositionOpened"))
            for n in range(12):  # an oracle, and nobody who trades
                await say(stack, {**index, "timestamp": (NOON - (6 - 2 * part) * DAY + n * 60 + 60) * 1000})
            gold = await stack.registry.named("GOLD")
            found = await stack.engine.price(gold)
            assert (found.price, found.price_24h_ago, found.trades_24h) == (97, 97, 0)
            briefs = await stack.engine.tickers([gold], lambda ticker: ticker.brief(int(clock())))
            assert briefs[gold.slot].updated == (NOON - 6 * DAY) * 1_000_000
            await flush(stack)


async def test_a_list_of_markets_says_what_each_of_them_would(tmp_path: Path) -> None:
    clock = Clock()
    names = [f"M{n}" for n in range(20)]
    for _ in range(2):
        async with running(tmp_path, create="perp", now=clock) as stack:
            await say(stack, [trade(-n * 9000, 10 + n, 1 + n, name, open_interest=n) for n, name in enumerate(names)])
            for state in ("at once", "with messages", "closed"):
                if state == "with messages":
                    await say(stack, [trade(10, 20 + n, 2, name, trade_id=n) for n, name in enumerate(names)])
                    await say(stack, [removed(n, name) for n, name in enumerate(names) if n % 2])
                if state == "closed":
                    await retire(stack, names)
                markets = [await stack.registry.named(name) for name in names]
                found = await stack.engine.tickers(markets, lambda ticker: ticker.brief(int(clock())))
                assert state != "closed" or stack.engine.statistics().active == 0, "what is in memory is read there"
                for market in markets:
                    price, brief = await stack.engine.price(market), found[market.slot]
                    for name in ("price", "price_24h_ago", "volume_24h", "trades_24h", "open_interest"):
                        assert getattr(brief, name) == getattr(price, name), (state, market.market_symbol, name)


async def test_many_markets_are_read_at_once_as_each_by_itself(tmp_path: Path) -> None:
    chance = random.Random(7)
    clock = Clock()
    names = [f"M{n}" for n in range(24)]
    async with running(tmp_path, create="perp", now=clock) as stack:
        for n, name in enumerate(names):
            begins = chance.choice([-3 * DAY, -DAY - 100, -DAY + 100, -500])
            some = [
                trade(chance.randint(begins, 0), chance.randint(1, 99), chance.randint(1, 9), name, trade_id=k)
                | {"user_address": chance.choice(TRADERS), "event_type": "PositionOpened"}
                | chance.choice([{}, {"open_interest": k}, {"index_price": k + 1, "market_depth": k}])
                for k in range(chance.randint(1, 40))
            ]
            await say(stack, some)
            if n % 4 == 0:
                await flush(stack)
                await say(stack, [removed(k, name) for k in range(0, len(some), 3)])

    async def prices(together: bool) -> tuple[list[Price], int]:
        async with running(tmp_path, create="perp", now=clock) as stack:
            markets = [await stack.registry.named(name) for name in names]
            before = stack.store.statistics().history_reads
            if together:
                found = await stack.engine.tickers(markets, lambda ticker: ticker.price(int(clock())))
                return [found[market.slot] for market in markets], stack.store.statistics().history_reads - before
            return [await stack.engine.price(market) for market in markets], 0

    at_once, reads = await prices(together=True)
    assert at_once == (await prices(together=False))[0]
    assert reads < len(names), "only few have to be read by themselves"


def test_windows_are_what_sql_over_the_ledger_gives_whatever_is_said_and_whatever_happens(tmp_path: Path) -> None:
    @settings(max_examples=EXAMPLES // 12, phases=PHASES)
    @given(steps)
    def check(history: list[tuple[list[list[Said]], Turn]]) -> None:
        with TemporaryDirectory(dir=tmp_path) as folder:
            trio.run(lived, Path(folder) / "data", history)

    check()
