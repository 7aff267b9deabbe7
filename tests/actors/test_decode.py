import gzip
import io
import json
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from actors import words
from actors.bodies import ARROW, JSON, MANY, NDJSON
from actors.decode import Decoded, UnsupportedMediaType, decode, decompress
from actors.words import LEAST_MS
from storage import decimals
from storage.calendar import Calendar
from storage.errors import BadRequest, TooLarge
from storage.events import EVENT_CODE, INTEGERS, PRICE_CODE, TEXTS, Events
from storage.records import KIND_CODE
from tests.test_layers import ROOT

NOW = 1_760_000_000_000_000
MS = NOW // 1000
GOLD, BTC, CARD = 1, 2, 3


class Registry:
    """GOLD, a perp on chain 137; BTC, spot, on none; CARD, which takes no events."""

    kinds = np.array([255, KIND_CODE["perp"], KIND_CODE["spot"], KIND_CODE["card"]], np.uint8)
    chains = np.array([-1, 137, -1, -1])

    def slot_of_symbol(self, symbol: str) -> int | None:
        return {"gold": GOLD, "btc": BTC, "card": CARD}.get(symbol.lower())

    def slot_of_id(self, market_id: int) -> int | None:
        return {10: GOLD, 20: BTC, 2**64 - 1: CARD}.get(market_id)

    def slot_of_contract(self, chain_id: int | None, address: str) -> int | None:
        return GOLD if address == "0xab" and chain_id in (None, 137) else None

    def calendar(self, _: int) -> Calendar:
        return Calendar.parse()


def lines(events: Sequence[Any]) -> bytes:
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


def stream(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return sink.getvalue()


def read(body: bytes, form: str, *, final: bool = True) -> Decoded:
    return decode(body, form, Registry(), NOW, final=final)


def posted(*events: Any) -> Decoded:
    """The same events in both forms of JSON; by column, so long as there are enough of them."""
    decoded = read(lines(events), NDJSON)
    assert_same(decoded, read(json.dumps(events).encode(), JSON))
    return decoded


def one(**fields: Any) -> Decoded:
    """One event alone; and the same among others, which takes the other way."""
    event = {"market_symbol": "GOLD", "timestamp": MS} | fields
    alone = posted(event)
    among = posted(*[event] * 6)
    assert len(among.rejected) == 6 * len(alone.rejected)
    if alone.events.n:
        assert_same_events(alone.events, among.events.take(np.array([3])))
    return alone


def error(**fields: Any) -> str:
    """Why an event is refused."""
    (rejected,) = one(**fields).rejected
    return rejected.error


def assert_same_events(a: Events, b: Events) -> None:
    assert a.n == b.n
    assert set(a.columns) == set(b.columns)
    for name, column in a.columns.items():
        other = b.columns[name]
        assert type(column) is type(other), name
        if isinstance(column, np.ndarray):
            assert column.dtype == other.dtype, name
            np.testing.assert_array_equal(column, other, err_msg=name)
        else:
            assert column.to_pylist() == other.to_pylist(), name


def assert_same(a: Decoded, b: Decoded) -> None:
    assert_same_events(a.events, b.events)
    assert a.index.tolist() == b.index.tolist()
    assert [(r.index, r.error, r.market_symbol) for r in a.rejected] == [
        (r.index, r.error, r.market_symbol) for r in b.rejected
    ]
    assert a.unknown == b.unknown


# What an event says


def test_a_trade_becomes_columns() -> None:
    decoded = posted(
        *[{"market_symbol": "btc", "timestamp": MS + i, "price": 10.5 + i, "size": 2, "side": "buy"} for i in range(9)]
    )
    events = decoded.events
    assert set(events.columns) == {"market", "ts", "price_type", "price", "volume", "side"}
    assert events.columns["market"].tolist() == [BTC] * 9
    assert events.columns["market"].dtype == np.int32
    assert events.columns["ts"].tolist() == [NOW + 1000 * i for i in range(9)]
    assert events.columns["price"].tolist() == [10.5 + i for i in range(9)]
    assert events.columns["volume"].tolist() == [2.0] * 9
    assert events.columns["side"].tolist() == [1] * 9
    assert events.columns["price_type"].tolist() == [PRICE_CODE["trade"]] * 9
    assert decoded.index.tolist() == list(range(9))
    assert not decoded.rejected
    assert not decoded.unknown


def test_every_field_has_its_column() -> None:
    events = one(
        event_type="PositionOpened",
        price_type="entry",
        price="1.25",
        size=3,
        volume=4,
        fee=0.5,
        is_long=False,
        user_address="0xAbC",
        position_id=17,
        leverage=10,
        pnl=-2.5,
        total_long_size=1,
        total_short_size=0,
        open_interest="7",
        funding_rate=-0.0001,
        index_price=1.5,
        bid_ask_spread=0.25,
        market_depth=100,
        block_number=5,
        transaction_hash="0xDE",
        log_index=0,
        trade_id="x-1",
    ).events
    plain = {name: column.tolist()[0] for name, column in events.columns.items() if name not in TEXTS}
    assert plain == {
        "market": GOLD,
        "ts": NOW,
        "event": EVENT_CODE["PositionOpened"],
        "price_type": PRICE_CODE["entry"],
        "side": 0,
        "chain_id": 137,
        "block_number": 5,
        "log_index": 0,
        "price": 1.25,
        "volume": 4.0,
        "size": 3.0,
        "fee": 0.5,
        "leverage": 10.0,
        "pnl": -2.5,
        "total_long_size": 1.0,
        "total_short_size": 0.0,
        "open_interest": 7.0,
        "funding_rate": -0.0001,
        "index_price": 1.5,
        "bid_ask_spread": 0.25,
        "market_depth": 100.0,
    }
    assert {name: events.texts(name).to_pylist()[0] for name in TEXTS} == {
        "user_address": "0xabc",
        "position_id": "17",
        "transaction_hash": "0xde",
        "trade_id": "x-1",
    }


def test_the_names_of_typescript_indexers_are_taken_too() -> None:
    camel = {
        "contractAddress": "0xAB",
        "chainId": 137,
        "eventType": "PositionClosed",
        "transactionHash": "0x1",
        "logIndex": 2,
        "blockNumber": 3,
        "user": "u",
        "positionId": "p",
        "isLong": True,
        "timestamp": MS,
    }
    snake = {
        "contract_address": "0xab",
        "chain_id": 137,
        "event_type": "PositionClosed",
        "transaction_hash": "0x1",
        "log_index": 2,
        "block_number": 3,
        "user_address": "u",
        "position_id": "p",
        "is_long": True,
        "timestamp": MS,
    }
    assert posted(snake).events.n == 1
    for count in (1, 7):
        assert_same(posted(*[camel] * count), posted(*[snake] * count))
    both = {"event_type": "Trade", "eventType": "PriceUpdated"}
    assert one(**both).events.columns.get("event") is None
    assert one(event_type=None, eventType="PriceUpdated").events.columns["event"][0] == EVENT_CODE["PriceUpdated"]
    mixed = posted(*[snake, {**snake, "event_type": None, "eventType": "Trade"}] * 4)
    assert mixed.events.integers("event").tolist() == [EVENT_CODE["PositionClosed"], 0] * 4


def test_a_market_is_named_by_symbol_or_number_or_contract_in_this_order() -> None:
    assert one(market_symbol="BTC", market_id=10, contract_address="0xab").events.columns["market"][0] == BTC
    assert one(market_symbol=None, market_id=20, contract_address="0xab").events.columns["market"][0] == BTC
    assert one(market_symbol=None, contract_address="0xAB", chain_id=137).events.columns["market"][0] == GOLD
    assert one(market_symbol=None, contract_address="0xAB").events.columns["market"][0] == GOLD
    assert "market_id" in error(market_symbol=None)
    assert error(market_symbol="") == 'market_symbol: expected a text of 1 to 200 characters, got ""'
    assert error(market_symbol=5).endswith("got 5")
    assert error(market_symbol="x" * 201).startswith("market_symbol: expected a text of 1 to 200")
    assert error(market_symbol=None, market_id=-1).startswith("market_id: expected an integer from 0 to 184467")
    assert error(market_symbol=None, contract_address="0xab", chain_id="x").startswith("chain_id: expected")
    assert error(market_symbol="card") == "market: expected a perp or spot market, got one of kind card"


@pytest.mark.parametrize(
    ("fields", "event", "price_type"),
    [
        ({}, "Trade", "mark"),
        ({"event_type": "PositionLiquidated"}, "PositionLiquidated", "liquidation"),
        ({"event_type": "PositionLiquidated", "price_type": "mark"}, "PositionLiquidated", "mark"),
        ({"event_type": "PriceUpdated", "price_type": "index"}, "PriceUpdated", "index"),
        ({"market_symbol": "BTC"}, "Trade", "trade"),
        ({"market_symbol": "BTC", "event_type": "PositionLiquidated"}, "PositionLiquidated", "trade"),
        ({"market_symbol": "BTC", "price_type": "mark"}, "Trade", "mark"),
    ],
)
def test_the_price_type_follows_from_market_and_event(fields: dict[str, Any], event: str, price_type: str) -> None:
    events = one(**fields).events
    assert events.integers("event").tolist() == [EVENT_CODE[event]]
    assert events.integers("price_type").tolist() == [PRICE_CODE[price_type]]


def test_names_outside_the_closed_lists_are_refused_by_name() -> None:
    assert error(event_type="Trad").startswith("event_type: expected one of Trade, PositionOpened,")
    assert error(event_type="Trad").endswith('got "Trad"')
    assert error(price_type="last").startswith("price_type: expected one of mark, index,")
    assert error(side="long") == 'side: expected one of sell, buy, got "long"'


@pytest.mark.parametrize(
    ("fields", "side"),
    [
        ({"side": "buy"}, 1),
        ({"side": "SELL"}, 0),
        ({"side": True}, 1),
        ({"is_long": True}, 1),
        ({"is_long": 0}, 0),
        ({"is_long": False, "side": "sell"}, 0),
        ({"is_long": None, "side": "buy"}, 1),
        ({"is_long": True, "side": None}, 1),
        ({}, -1),
        ({"is_long": None}, -1),
    ],
)
def test_a_long_is_a_buy(fields: dict[str, Any], side: int) -> None:
    assert one(**fields).events.integers("side").tolist() == [side]


def test_a_side_that_contradicts_itself_is_refused() -> None:
    assert error(is_long=True, side="sell").startswith("side: expected buy where is_long is true")
    assert error(is_long=2) == "is_long: expected true or false, got 2"
    assert error(is_long="yes") == 'is_long: expected true or false, got "yes"'


# Time


@pytest.mark.parametrize(
    ("sent", "micros"),
    [
        (MS, NOW),
        (MS + 0.25, NOW + 250),
        (MS + 300_000, NOW + 300_000_000),
        (LEAST_MS, LEAST_MS * 1000),
        (631_152_000_000, 631_152_000_000_000),  # 1990
        ("2025-10-09T08:53:20Z", NOW),
        ("2025-10-09T10:53:20.123456+02:00", NOW + 123_456),
        ("2025-10-09T08:53:20.5Z", NOW + 500_000),
        ("1970-01-01T00:00:00Z", 0),
    ],
)
def test_time_is_kept_to_the_microsecond(sent: Any, micros: int) -> None:
    assert one(timestamp=sent).events.integers("ts").tolist() == [micros]


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (MS // 1000, "which looks like seconds"),
        (MS / 1000, "which looks like seconds"),
        (NOW, "which looks like microseconds"),
        (NOW * 1000, "which looks like nanoseconds"),
        (float(NOW * 1000), "which looks like nanoseconds"),
        (MS + 300_001, f"at most 5 minutes ahead of the clock, got {MS + 300_001}, which is 0:05:00 ahead"),
        ("2125-10-09T08:53:20Z", "ahead of the clock"),
        (0, "expected milliseconds since 1970, or ISO 8601 with a zone, got 0"),
        (-MS, f"got -{MS}"),
        (None, "got nothing"),
        (True, "got true"),
        ("2025-10-09T08:53:20", 'with a zone, got "2025-10-09T08:53:20"'),
        ("2025-10-09", 'got "2025-10-09"'),
        (str(MS), f'got "{MS}"'),
        ("yesterday, at about half past nine", "got"),
        ("1969-12-31T23:59:59Z", "a time from 1970 on"),
        (10**30, "nanoseconds"),
        (10**400, "nanoseconds"),
        ([MS], "got [1760000000000]"),
    ],
)
def test_a_time_that_cannot_be_meant_is_refused(sent: Any, said: str) -> None:
    message = error(timestamp=sent)
    assert message.startswith("timestamp: expected")
    assert said in message


# Numbers


@pytest.mark.parametrize(
    ("sent", "price"),
    [
        (1, 1.0),
        (1.5, 1.5),
        ("1.50", 1.5),
        ("1e3", 1000.0),
        ("+2", 2.0),
        (0.1, 0.1),
        (1e-18, 1e-18),
        (99999e15, 99999e15),
    ],
)
def test_a_price_is_a_number_or_a_decimal_text(sent: Any, price: float) -> None:
    events = one(price=sent).events
    assert events.numbers("price").tolist() == [price]
    assert events.exact("price") is None


@pytest.mark.parametrize("nothing", [0, 0.0, "0", "0.000", -0.0, "-0", None])
def test_no_price_and_no_fee_are_the_same_as_zero(nothing: Any) -> None:
    events = one(price=nothing, fee=nothing).events
    assert set(events.columns) == {"market", "ts"}


@pytest.mark.parametrize(
    ("sent", "amount"),
    [
        ("0.1234567890123456789", None),  # 19 decimals
        ("0.123456789012345678", 123456789012345678),
        ("12345678901234567890.000000000000000001", 12345678901234567890000000000000000001),
        ("99999999999999999999.999999999999999999", 10**38 - 1),
        (2**53 + 1, (2**53 + 1) * 10**18),
        (10**20 - 1, (10**20 - 1) * 10**18),
        ("0.30000000000000001", 300000000000000010),
    ],
)
def test_a_decimal_that_no_float_says_is_kept_exactly(sent: Any, amount: int | None) -> None:
    if amount is None:
        assert "at most 18 decimals" in error(price=sent)
        return
    events = one(price=sent).events
    assert decimals.ints(decimals.units(events.numbers("price"), events.exact("price"))) == [amount]
    assert events.exact("price").null_count == 0


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (-3, "price: expected a number ≥ 0, got -3"),
        ("-3", 'price: expected a number ≥ 0, got "-3"'),
        (True, "price: expected a number ≥ 0, got true"),
        ("", 'price: expected a number ≥ 0, got ""'),
        ("1_000", 'price: expected a number ≥ 0, got "1_000"'),
        ("nan", 'price: expected a number ≥ 0, got "nan"'),
        ("Infinity", 'price: expected a number ≥ 0, got "Infinity"'),
        (" 1", 'price: expected a number ≥ 0, got " 1"'),
        ("٣", 'price: expected a number ≥ 0, got "٣"'),
        ([1], "price: expected a number ≥ 0, got [1]"),
        ({"a": 1}, 'price: expected a number ≥ 0, got {"a": 1}'),
        ("1" * 81, f'price: expected a number ≥ 0, as a text of at most 80 characters, got "{"1" * 56}...'),
        (1e-19, "price: expected at most 18 decimals and 20 digits before the point, got 1e-19"),
        (1e20, "price: expected at most 18 decimals and 20 digits before the point, got 1e+20"),
        (10**20, f"price: expected at most 20 digits before the point, got {10**20}"),
        (10**400, "price: expected at most 20 digits before the point, got an integer of 1329 bits"),
        ("1.5e22", 'price: expected at most 18 decimals and 20 digits before the point, got "1.5e22"'),
        (
            "400602703026650276333.41483",
            'price: expected at most 18 decimals and 20 digits before the point, got "400602703026650276333.41483"',
        ),
        ("1e99999999", 'price: expected at most 18 decimals and 20 digits before the point, got "1e99999999"'),
    ],
)
def test_a_price_that_is_none_is_refused_with_its_value(sent: Any, message: str) -> None:
    assert error(price=sent) == message


@pytest.mark.parametrize("name", ["size", "volume", "leverage", "total_long_size", "open_interest", "market_depth"])
def test_sizes_cannot_be_negative(name: str) -> None:
    assert error(**{name: -1}) == f"{name}: expected a number ≥ 0, got -1"


@pytest.mark.parametrize("name", ["fee", "pnl", "funding_rate", "bid_ask_spread"])
def test_rates_and_gains_can_be_negative(name: str) -> None:
    assert one(**{name: -1}).events.numbers(name).tolist() == [-1.0]
    assert one(**{name: "-0.123456789012345678"}).events.exact(name).to_pylist() == [Decimal("-0.123456789012345678")]
    assert error(**{name: "x"}) == f'{name}: expected a number, got "x"'


def test_an_infinite_number_in_json_costs_only_its_event() -> None:
    good = {"market_symbol": "GOLD", "timestamp": MS, "price": 1}
    huge = json.dumps(good).replace(": 1}", ": 1e999}").encode()
    for count in (0, 8):
        decoded = read(lines([good] * count) + huge + b"\n" + lines([good]), NDJSON)
        assert [(r.index, r.error) for r in decoded.rejected] == [
            (count, "price: expected a finite number, got Infinity")
        ]
        assert decoded.events.n == count + 1


@pytest.mark.parametrize(
    ("field", "named"), [("price", "price: "), ("block_number", "block_number: "), ("gas", "event: gas: ")]
)
def test_an_integer_too_long_to_read_costs_only_its_event_and_is_named(field: str, named: str) -> None:
    good = {"market_symbol": "GOLD", "timestamp": MS, "price": 1}
    huge = (
        json.dumps({**good, field: 7}).replace(": 7}", f": {'9' * 5000}}}").replace(": 7,", f": {'9' * 5000},").encode()
    )
    said = f"{named}expected an integer of at most 64 bits, got one that begins {'9' * 20}"
    for count in (0, 8):
        array = b"[" + b",".join([json.dumps(good).encode()] * count + [huge]) + b"]"
        for decoded in (read(lines([good] * count) + huge, NDJSON), read(array, JSON)):
            assert [(r.index, r.error, r.market_symbol) for r in decoded.rejected] == [(count, said, "GOLD")]
            assert decoded.events.n == count


def test_volume_and_size_stand_in_for_each_other() -> None:
    for fields in ({"size": 2}, {"volume": 2}, {"size": 2, "volume": "2.0"}, {"size": "2", "volume": None}):
        events = one(**fields).events
        assert events.numbers("volume").tolist() == [2.0]
        assert "size" not in events
    events = one(size=3, volume=2).events
    assert (events.numbers("size")[0], events.numbers("volume")[0]) == (3.0, 2.0)
    exact = "0.123456789012345678"
    events = one(size=exact).events
    assert events.exact("volume").to_pylist() == [Decimal(exact)]
    assert "size" not in events
    events = one(size=exact, volume=exact).events
    assert "size" not in events
    events = one(size=exact, volume=float(exact)).events
    assert events.numbers("size").tolist() == events.numbers("volume").tolist()
    assert events.exact("size").to_pylist() == [Decimal(exact)]
    assert events.exact("volume") is None


# Identity and place


@pytest.mark.parametrize(
    ("sent", "number", "text"),
    [
        (0, 0, None),
        (2**63 - 1, 2**63 - 1, None),
        (2**63, -1, str(2**63)),
        (-5, -1, "-5"),
        ("12", 12, None),
        ("007", -1, "007"),
        (str(2**63 - 1), 2**63 - 1, None),
        (str(2**63), -1, str(2**63)),
        ("12a", -1, "12a"),
        ("0xAB", -1, "0xAB"),
        ("x" * 200, -1, "x" * 200),
        (10**25, -1, str(10**25)),
        (None, -1, None),
    ],
)
def test_a_trade_id_is_a_number_where_it_can_be(sent: Any, number: int, text: str | None) -> None:
    events = one(trade_id=sent).events
    assert events.integers("trade_no").tolist() == [number]
    assert events.texts("trade_id").to_pylist() == [text]


@pytest.mark.parametrize("sent", ["", "x" * 201, 1.5, 12.0, True, [1]])
def test_a_trade_id_that_is_none_is_refused(sent: Any) -> None:
    assert error(trade_id=sent).startswith("trade_id: expected an integer, or a text of 1 to 200 characters, got ")


def test_a_float_among_trade_ids_costs_its_own_event_alone() -> None:
    event = {"market_symbol": "GOLD", "timestamp": MS}
    decoded = posted(*[event | {"trade_id": n} for n in (1, 2.0, 3, 4, None, 6, 7)])
    assert decoded.events.integers("trade_no").tolist() == [1, 3, 4, -1, 6, 7]
    (refused,) = decoded.rejected
    assert (refused.index, refused.error.rpartition(", got ")[2]) == (1, "2.0")


@pytest.mark.parametrize("name", ["block_number", "log_index", "chain_id"])
def test_a_place_on_the_chain_is_an_integer(name: str) -> None:
    assert one(**{name: 2**63 - 1}).events.integers(name).tolist() == [2**63 - 1]
    assert one(**{name: 7.0}).events.integers(name).tolist() == [7]
    assert one(**{name: "7"}).events.integers(name).tolist() == [7]
    for wrong in (-1, 2**63, 1.5, "0x7", True, "07", [7]):
        assert error(**{name: wrong}).startswith(f"{name}: expected an integer from 0 to 9223372036854775807, got ")


def test_a_transaction_without_a_chain_is_on_the_chain_of_its_market() -> None:
    assert one(transaction_hash="0x1").events.integers("chain_id").tolist() == [137]
    assert one(transaction_hash="0x1", chain_id=1).events.integers("chain_id").tolist() == [1]
    assert one(transaction_hash="0x1", market_symbol="BTC").events.integers("chain_id").tolist() == [-1]
    assert "chain_id" not in one(trade_id=5).events


@pytest.mark.parametrize("name", ["user_address", "position_id", "transaction_hash"])
def test_texts_have_a_length_limit_and_empty_ones_say_nothing(name: str) -> None:
    assert one(**{name: "é" * 200}).events.texts(name).to_pylist() == ["é" * 200]
    assert one(**{name: "0XAbÉ"}).events.texts(name).to_pylist() == ["0xabÉ"]
    assert one(**{name: "AbC"}).events.texts(name).to_pylist() == ["AbC"]
    assert one(**{name: ""}).events.texts(name).to_pylist() == [None]
    for wrong in ("é" * 201, 1.5, False, {"a": 1}):
        assert error(**{name: wrong}).startswith(f"{name}: expected a text of at most 200 characters, got ")


def test_a_retraction_needs_only_market_and_identity() -> None:
    events = posted({"market_symbol": "GOLD", "trade_id": 5, "removed": True}).events
    assert events.columns["removed"].tolist() == [True]
    assert events.integers("ts").tolist() == [0]
    assert one(removed=True, transaction_hash="0x1", log_index=0).events.columns["removed"].tolist() == [True]
    assert "removed" not in one(removed=False).events
    nothing = "removed: expected a transaction_hash with a log_index, or a trade_id, got neither"
    assert error(removed=True) == error(removed=True, transaction_hash="0x1") == nothing
    assert error(removed="yes", trade_id=1) == 'removed: expected true or false, got "yes"'
    assert "looks like seconds" in error(removed=True, trade_id=1, timestamp=1_700_000_000)


# Batches


def test_one_bad_event_does_not_sink_its_batch() -> None:
    events: list[Any] = [{"market_symbol": "GOLD", "timestamp": MS, "price": i + 1, "trade_id": i} for i in range(20)]
    events[7] = {**events[7], "price": -3}
    events[12] = {**events[12], "price": str(2**53 + 1)}
    events[15] = 42
    decoded = posted(*events)
    good = [i for i in range(20) if i not in (7, 15)]
    assert decoded.index.tolist() == good
    assert decoded.events.integers("trade_no").tolist() == good
    assert [(r.index, r.error, r.market_symbol) for r in decoded.rejected] == [
        (7, "price: expected a number ≥ 0, got -3", "GOLD"),
        (15, "event: expected an object, got 42", None),
    ]
    raw = read(b"\n" + lines(events), NDJSON).rejected
    assert [json.loads(r.raw) for r in raw] == [events[7], events[15]]
    raw = read(json.dumps(events).encode(), JSON).rejected
    assert [json.loads(r.raw) for r in raw] == [events[7], events[15]]


@pytest.mark.parametrize("count", [1, 8])
def test_unknown_markets_are_named_first_and_refused_then(count: int) -> None:
    good = {"market_symbol": "GOLD", "timestamp": MS}
    strange: list[dict[str, Any]] = [
        {**good, "market_symbol": "GLOD"},
        {"market_id": 9, "timestamp": MS},
        {"contract_address": "0xCD", "chain_id": 1, "timestamp": MS},
        {"contract_address": "0xCD", "timestamp": MS},
    ]
    for one_strange, reference, message in zip(
        strange,
        ["GLOD", 9, (1, "0xcd"), (None, "0xcd")],
        [
            "no market named 'GLOD'",
            "no market with market_id 9",
            'no market with contract_address "0xcd" on chain 1',
            'no market with contract_address "0xcd"',
        ],
        strict=True,
    ):
        events = [one_strange] * count
        first = read(lines(events), NDJSON, final=False)
        assert first.unknown == [reference]
        assert (first.events.n, first.rejected, len(first.index)) == (0, [], 0)
        last = read(lines(events), NDJSON)
        assert [r.error for r in last.rejected] == [message] * count
        assert last.unknown == []
    mixed = [good, *strange, good] * 3
    assert set(read(lines(mixed), NDJSON, final=False).unknown) >= {"GLOD"}
    assert read(lines(mixed), NDJSON).index.tolist() == [0, 5, 6, 11, 12, 17]


def test_unknown_fields_are_ignored() -> None:
    assert_same(one(price=1, venue="x", nested={"a": [1]}), one(price=1))


@pytest.mark.parametrize("count", [0, 1, 5, 9])
def test_events_may_have_any_mixture_of_fields(count: int) -> None:
    events = [{"market_symbol": "GOLD", "timestamp": MS}] * count
    events += [{"market_symbol": "BTC", "timestamp": MS, "price": 1.5, "event_type": "PriceUpdated"}] * count
    decoded = posted(*events)
    assert decoded.events.integers("market").tolist() == [GOLD] * count + [BTC] * count
    np.testing.assert_array_equal(decoded.events.numbers("price"), [np.nan] * count + [1.5] * count)


def test_more_events_than_one_request_may_hold_are_refused() -> None:
    with pytest.raises(TooLarge, match=f"at most {MANY} events, got {MANY + 1}"):
        read(b"1\n" * (MANY + 1), NDJSON)


def test_the_page_on_posting_events_names_every_field_and_limit() -> None:
    page = (ROOT / "docs" / "ingest.md").read_text("utf-8")
    assert set(words.FIELDS) | set(words.ALIASES.values()) <= set(re.findall(r"`([A-Za-z_]+)`", page))
    for limit in (
        f"{decimals.DIGITS} digits before the point and {decimals.DECIMALS} after it",
        f"at most {words.DIGITS} characters",
        f"Other texts have at most {words.TEXT}",
        f"at most {MANY:,} events",
    ):
        assert limit in " ".join(page.split()), limit


# Bodies


@pytest.mark.parametrize(
    ("body", "form", "message"),
    [
        (b'{"a":1}\n{"a":1\n{"a":2}\n', NDJSON, "body: line 2, byte 7: it ends too early"),
        (b'{"a":1}\r\n{"a":1,}\r\n', NDJSON, "body: line 2, byte 8: trailing comma in object"),
        (b'{"a":1}\n\n{"a":NaN}\n', NDJSON, "body: line 3, byte 6: invalid character"),
        (b'{"a":1}\n{"a":"\xff"}\n', NDJSON, "body: line 2, byte 7: not UTF-8"),
        (b'{"a":1}\n' + b"[" * 100_000 + b"\n", NDJSON, "body: line 2: nested too deeply"),
        (b"", JSON, "body: line 1, byte 1: it ends too early"),
        (b'[{"a":1},', JSON, "body: line 1, byte 10: it ends too early"),
        (b'[{"a":1},\n {"b":x}]', JSON, "body: line 2, byte 7: invalid character"),
        (b'[{"market_id":"\xff"}]', JSON, "body: line 1, byte 16: not UTF-8"),
        (b'{"a":1}\n{"\xff":1}\n', NDJSON, "body: line 2, byte 3: not UTF-8"),
        (b'[{"a":1},\n{"\xff":1}]', JSON, "body: line 2, byte 3: not UTF-8"),
        (b'{"a":"\\ud83d"}\n{"a":"\xff"}\n', NDJSON, "body: line 2, byte 7: not UTF-8"),
        (b'[{"a":"\\ud83d"},{]', JSON, "body: line 1, byte 18: expected '\"'"),
        (b'{"a":"\\ud83d"}\n{"a":1,}\n', NDJSON, "body: line 2, byte 8: trailing comma in object"),
        (b'"\\ud83d', JSON, "body: line 1, byte 8: it ends too early"),
        ('[{"a":1}]'.encode("utf-16"), JSON, "body: line 1, byte 1: expected UTF-8, got UTF-16"),
        ('{"a":1}'.encode("utf-16"), NDJSON, "body: line 1, byte 1: expected UTF-8, got UTF-16"),
        (b'{"a":1} {"a":2}', JSON, "body: line 1, byte 10: trailing characters"),
        (b"[" * 100_000, JSON, "body: line 1: nested too deeply"),
        (b"42", JSON, "body: expected an object or an array of objects, got 42"),
        (b"null", JSON, "body: expected an object or an array of objects, got null"),
    ],
)
def test_a_body_that_is_not_json_is_refused_with_line_and_byte(body: bytes, form: str, message: str) -> None:
    with pytest.raises(BadRequest) as refused:
        read(body, form)
    assert str(refused.value) == message


GOOD = json.dumps({"market_symbol": "GOLD", "timestamp": MS, "price": 1}).encode()
HALVES = {
    rb'{"market_symbol": "GOLD", "user_address": "a\ud83dq"}': (
        "user_address",
        rb'expected Unicode, got half a surrogate pair in "a\ud83dq"',
        "GOLD",
    ),
    rb'{"market_symbol": "GO\uDC00LD"}': (
        "market_symbol",
        rb'expected Unicode, got half a surrogate pair in "GO\udc00LD"',
        None,
    ),
    rb'{"us\ud83der": 1, "market_symbol": "GOLD"}': (
        "event",
        rb'expected Unicode, got half a surrogate pair in the name "us\ud83der"',
        "GOLD",
    ),
    rb'{"venue": ["\\\udc00\\ud83d"]}': (
        "event",
        rb'expected Unicode, got half a surrogate pair in venue: ["\\\udc00\\ud83d"]',
        None,
    ),
    rb'{"trade_id": "\ud83d\ud83d\ude00", "trade_id": 1}': (
        "event",
        b"expected Unicode, got half a surrogate pair in a field that is there twice",
        None,
    ),
    rb'"\ud83d"': ("event", rb'expected an object, got "\ud83d"', None),
}


@pytest.mark.parametrize("count", [0, 1, 9])
@pytest.mark.parametrize("half", HALVES)
def test_half_a_character_costs_its_own_event_alone(half: bytes, count: int) -> None:
    field, reason, symbol = HALVES[half]
    sent = [*[GOOD] * count, half, GOOD]
    for body, form in ((b"\r\n".join(sent), NDJSON), (b" [" + b" ,\n ".join(sent) + b" ] ", JSON)):
        decoded = read(body, form)
        assert decoded.index.tolist() == [*range(count), count + 1]
        (rejected,) = decoded.rejected
        assert rejected.index == count
        assert rejected.error == f"{field}: {reason.decode()}"
        assert rejected.market_symbol == symbol
        assert rejected.raw == half


def test_half_a_character_in_the_only_event_refuses_it() -> None:
    (rejected,) = read(rb'{"side": "\ud83d"}', JSON).rejected
    assert (rejected.index, rejected.error) == (0, r'side: expected Unicode, got half a surrogate pair in "\ud83d"')


def test_a_whole_pair_is_a_character_and_an_escaped_escape_is_none() -> None:
    assert error(trade_id=1, side="\U0001f600") == 'side: expected one of sell, buy, got "\U0001f600"'
    assert error(trade_id=1, side=r"\ud83d") == r'side: expected one of sell, buy, got "\\ud83d"'


def test_a_byte_order_mark_before_json_is_no_part_of_it() -> None:
    for body, form in ((GOOD, JSON), (b"[" + GOOD + b"]", JSON), (b"\n".join([GOOD] * 7), NDJSON)):
        assert_same(read(b"\xef\xbb\xbf" + body, form), read(body, form))


def test_an_empty_batch_is_no_mistake() -> None:
    for body, form in ((b"", NDJSON), (b"\n\n", NDJSON), (b"[]", JSON), (b" [ ] ", JSON)):
        decoded = read(body, form)
        assert (decoded.events.n, decoded.events.columns, decoded.rejected) == (0, {}, [])


def test_the_content_type_may_have_parameters_and_must_be_known() -> None:
    body = lines([{"market_symbol": "GOLD", "timestamp": MS}])
    assert read(body, "Application/X-NDJSON; charset=utf-8").events.n == 1
    assert read(body, "application/json;charset=utf-8").events.n == 1
    for form in ("text/csv", ""):
        with pytest.raises(UnsupportedMediaType, match="Content-Type: expected application/json, application/x-ndjson"):
            read(body, form)


def test_lines_may_be_blank_or_end_in_carriage_returns() -> None:
    event = json.dumps({"market_symbol": "GOLD", "timestamp": MS}).encode()
    assert read(b"\r\n".join([b"", *[event] * 7, b"", b"  "]), NDJSON).events.n == 7


# Arrow

ROWS: dict[str, list[Any]] = {
    "market_symbol": ["GOLD", "btc", "GOLD", "BTC", "gold", "GOLD"],
    "timestamp": [MS + i for i in range(6)],
    "price": [1.5, 2.25, 3.0, None, 5.0, 6.5],
    "size": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
    "side": ["buy", "sell", None, "buy", "sell", "buy"],
}


def as_events(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


@pytest.mark.parametrize(
    ("name", "type"),
    [
        ("market_symbol", pa.dictionary(pa.int8(), pa.string())),
        ("market_symbol", pa.dictionary(pa.uint32(), pa.large_string())),
        ("market_symbol", pa.large_string()),
        ("market_symbol", pa.string_view()),
        ("market_symbol", pa.binary()),
        ("timestamp", pa.timestamp("ms")),
        ("timestamp", pa.timestamp("us", "UTC")),
        ("timestamp", pa.timestamp("ns", "America/New_York")),
        ("timestamp", pa.uint64()),
        ("timestamp", pa.float64()),
        ("timestamp", pa.decimal128(20, 0)),
        ("price", pa.float32()),
        ("price", pa.float16()),
        ("price", pa.decimal128(20, 6)),
        ("price", pa.decimal256(50, 3)),
        ("price", pa.dictionary(pa.int8(), pa.float64())),
        ("size", pa.int8()),
        ("size", pa.uint16()),
        ("size", pa.uint64()),
        ("side", pa.dictionary(pa.int16(), pa.string())),
    ],
)
@pytest.mark.parametrize("pieces", [1, 3])
def test_arrow_columns_may_have_any_width(name: str, type: Any, pieces: int) -> None:
    values: list[Any] = ROWS[name]
    if pa.types.is_timestamp(type):
        column = pa.array([v * (10**6 if type.unit == "ns" else 10**3 if type.unit == "us" else 1) for v in values])
        column = column.cast(type)
    elif pa.types.is_decimal(type):
        column = pa.array([None if v is None else Decimal(str(v)) for v in values], type)
    else:
        column = pa.array(values).cast(type) if not pa.types.is_dictionary(type) else pa.array(values, type)
    table = pa.table({**{key: pa.array(v) for key, v in ROWS.items()}, name: column})
    table = pa.concat_tables([table.slice(i * 6 // pieces, 6 // pieces) for i in range(pieces)])
    decoded = read(stream(table), ARROW)
    if name == "timestamp" and pa.types.is_decimal(type):
        assert len(decoded.rejected) == 6  # a text of digits is no time
        return
    assert_same(decoded, posted(*as_events(ROWS)))


def test_the_plain_columns_of_an_arrow_stream_are_not_copied() -> None:
    table = pa.table({"market_symbol": ["GOLD"] * 50, "timestamp": [MS] * 50, "price": [1.5] * 50})
    body = stream(table)
    price = read(body, ARROW).events.columns["price"]
    assert not price.flags.owndata
    start = np.frombuffer(body, np.uint8).__array_interface__["data"][0]
    assert start <= price.__array_interface__["data"][0] < start + len(body)


def test_booleans_may_say_the_side() -> None:
    for name in ("side", "is_long"):
        flags = [True, False, None, True, False, True]
        table = pa.table({**{k: v for k, v in ROWS.items() if k != "side"}, name: flags})
        assert read(stream(table), ARROW).events.integers("side").tolist() == [1, 0, -1, 1, 0, 1]
    ones = pa.table(
        {**{k: v for k, v in ROWS.items() if k != "side"}, "is_long": pa.array([1, 0, 1, 1, 0, 2], pa.uint8())}
    )
    decoded = read(stream(ones), ARROW)
    assert decoded.events.integers("side").tolist() == [1, 0, 1, 1, 0]
    assert [r.error for r in decoded.rejected] == ["is_long: expected true or false, got 2"]


def test_arrow_numbers_that_are_none_are_refused_one_by_one() -> None:
    nan, inf = float("nan"), float("inf")
    table = pa.table({**ROWS, "price": pa.array([1.0, nan, inf, -inf, -1.0, None])})
    decoded = read(stream(table), ARROW)
    assert decoded.index.tolist() == [0, 5]
    assert [r.error for r in decoded.rejected] == [
        "price: expected a number ≥ 0, got NaN",
        "price: expected a finite number, got Infinity",
        "price: expected a number ≥ 0, got -Infinity",
        "price: expected a number ≥ 0, got -1.0",
    ]
    assert [r.market_symbol for r in decoded.rejected] == ["btc", "GOLD", "BTC", "gold"]
    assert json.loads(decoded.rejected[3].raw) == {**as_events(ROWS)[4], "price": -1.0}


def test_arrow_timestamps_leave_no_doubt_about_their_unit() -> None:
    early = pa.array([0, 1, MS, MS + 300_001, -1, None], pa.timestamp("ms"))
    decoded = read(stream(pa.table({**ROWS, "timestamp": early})), ARROW)
    assert decoded.events.integers("ts").tolist() == [0, 1000, NOW]
    assert [r.error for r in decoded.rejected] == [
        "timestamp: expected at most 5 minutes ahead of the clock, got 2025-10-09T08:58:20.001000Z, "
        "which is 0:05:00 ahead",
        "timestamp: expected a time from 1970 on, got 1969-12-31T23:59:59.999000Z",
        "timestamp: expected milliseconds since 1970, or ISO 8601 with a zone, got nothing",
    ]
    fine = pa.array([MS * 10**6 + 1999] * 6, pa.timestamp("ns"))
    assert set(read(stream(pa.table({**ROWS, "timestamp": fine})), ARROW).events.integers("ts").tolist()) == {NOW + 1}


def test_arrow_integers_keep_every_digit() -> None:
    sizes = pa.array([2**53 + 1, 2**63 - 1, 1, 2, 3, None])
    decoded = read(stream(pa.table({**ROWS, "size": sizes})), ARROW)
    found = decimals.units(decoded.events.numbers("volume"), decoded.events.exact("volume"))
    assert decimals.ints(found) == [x * 10**18 for x in (2**53 + 1, 2**63 - 1, 1, 2, 3, 0)]
    sizes = pa.array([2**64 - 1, 1, 2, 3, 4, None], pa.uint64())
    decoded = read(stream(pa.table({**ROWS, "size": sizes})), ARROW)
    found = decimals.units(decoded.events.numbers("volume"), decoded.events.exact("volume"))
    assert decimals.ints(found) == [x * 10**18 for x in (2**64 - 1, 1, 2, 3, 4, 0)]


def test_integer_columns_with_gaps_may_come_as_floats() -> None:
    ids = pa.array([1.0, None, 3.0, 4.0, 2.0**53, 6.0])
    decoded = read(stream(pa.table({**ROWS, "block_number": ids})), ARROW)
    assert decoded.events.integers("block_number").tolist() == [1, -1, 3, 4, 6]
    assert [r.index for r in decoded.rejected] == [4]


@pytest.mark.parametrize(
    "kind", [pa.float64(), pa.float32(), pa.float16(), pa.bool_(), pa.decimal128(38, 2), pa.timestamp("ms")], ids=str
)
def test_trade_ids_in_a_column_that_is_neither_integers_nor_texts_are_refused(kind: Any) -> None:
    ids = pa.array([1, None, 3, 4, 5, 6], None if pa.types.is_timestamp(kind) else pa.int32()).cast(kind)
    for column in (ids, ids.dictionary_encode()):
        with pytest.raises(BadRequest) as refused:
            read(stream(pa.table({**ROWS, "trade_id": column})), ARROW)
        assert str(refused.value) == f"trade_id: expected a column of integers or texts, got {column.type}"
    assert read(stream(pa.table({**ROWS, "trade_id": pa.array([None] * 6, kind)})), ARROW).events.n == 6


@pytest.mark.parametrize(
    "kind", [pa.int8(), pa.uint64(), pa.string(), pa.large_string(), pa.decimal128(38, 0)], ids=str
)
def test_trade_ids_may_be_integers_of_any_width_and_texts(kind: Any) -> None:
    ids = pa.array([1, None, 3, 4, 5, 6], None if pa.types.is_timestamp(kind) else pa.int32()).cast(kind)
    for column in (ids, ids.dictionary_encode()):
        events = read(stream(pa.table({**ROWS, "trade_id": column})), ARROW).events
        assert events.integers("trade_no").tolist() == [1, -1, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"price": pa.array([[1.0]])}, "price: expected a column of texts, numbers, booleans or timestamps, got list"),
        ({"timestamp": pa.array([1], pa.date32())}, "timestamp: expected a column of texts, numbers"),
        ({"x": pa.array([1])}, r'body: expected columns like market_symbol, timestamp and price, got \["x"\]'),
        ({"timestamp": pa.array([2**62], pa.timestamp("s"))}, "body: not an Arrow stream: Casting from timestamp"),
        ({"market_symbol": pa.array([b"\xff"])}, "body: not an Arrow stream: "),
    ],
)
def test_arrow_columns_of_no_use_are_refused_by_name(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        read(stream(pa.table(columns)), ARROW)


def test_two_columns_of_one_name_are_refused() -> None:
    table = pa.Table.from_arrays([pa.array([1.0]), pa.array([2.0])], names=["price", "price"])
    with pytest.raises(BadRequest, match="expected one column price, got several"):
        read(stream(table), ARROW)


def test_columns_nobody_asked_for_are_not_even_read() -> None:
    table = pa.table({**ROWS, "extra": [[1, 2]] * 6, "other": [{"a": 1}] * 6})
    assert_same(read(stream(table), ARROW), read(stream(pa.table(ROWS)), ARROW))


def test_what_is_not_an_arrow_stream_is_refused() -> None:
    whole = stream(pa.table(ROWS))
    for body in (b"", b"PK\x03\x04", b"{}", whole[:100], whole[:-200], b"\xff" * 64):
        with pytest.raises(BadRequest, match="body: not an Arrow stream"):
            read(body, ARROW)


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_compressed_arrow_buffers_are_read_up_to_the_limit(codec: str) -> None:
    table = pa.table(
        {"market_symbol": ["GOLD"] * 100_000, "timestamp": pa.array([MS] * 100_000), "price": [1.5] * 100_000}
    )
    body = stream(table.set_column(0, "market_symbol", table.column(0).dictionary_encode()), compression=codec)
    assert len(body) < 100_000
    assert read(body, ARROW).events.n == 100_000
    with pytest.raises(TooLarge, match="at most 1000000 bytes unpacked"):
        decode(body, ARROW, Registry(), NOW, limit=1_000_000)


def test_a_column_of_nulls_cannot_claim_any_length() -> None:
    table = pa.table({"price": pa.Array.from_buffers(pa.null(), 2**31 - 1, [None])})
    with pytest.raises(TooLarge, match=f"at most {MANY} events"):
        read(stream(table), ARROW)


@given(st.data())
def test_a_damaged_arrow_stream_is_refused_or_read_but_never_worse(data: st.DataObject) -> None:
    table = pa.table({**ROWS, "user_address": pa.array(["a", "b", "a", None, "c", "d"]).dictionary_encode()})
    body = bytearray(stream(table, compression=data.draw(st.sampled_from([None, "lz4"]))))
    for at in data.draw(st.lists(st.integers(0, len(body) - 1), min_size=1, max_size=4)):
        body[at] = data.draw(st.integers(0, 255))
    try:
        decoded = read(bytes(body), ARROW)
    except (BadRequest, TooLarge):
        return
    assert decoded.events.n + len(decoded.rejected) <= MANY


# Both ways


def pool(good: Sequence[Any], bad: Sequence[Any]) -> st.SearchStrategy[Any]:
    """Mostly good values: an event with ten fields should have a chance."""
    return st.one_of(*[st.sampled_from(good)] * 8, st.sampled_from(bad))


NUMBER = pool(
    [None, 0, 1, 2.5, 0.1, 1e-18, "3.25", "0.123456789012345678", 2**53 + 1], [-1, "x", True, 1e-19, [1], 1e20]
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "market_symbol": pool(["GOLD", "gold", "BTC"], [None, "GLOD", "", 5, "CARD"]),
    "market_id": pool([None, 10, "20", 20.0], [-1, 99, "x", 2**70]),
    "contract_address": pool([None, "0xAB"], ["0xCD", 5, True]),
    "chain_id": pool([None, 137, "137"], [-1, 1.5]),
    "timestamp": pool([MS, MS + 0.5, "2025-10-09T08:53:20Z"], [None, 1, NOW, "x", True, 1e300]),
    "price": NUMBER,
    "size": NUMBER,
    "volume": NUMBER,
    "fee": NUMBER,
    "funding_rate": NUMBER,
    "event_type": pool([None, "Trade", "PositionLiquidated"], ["trade", 1]),
    "eventType": pool([None, "PositionOpened"], ["x"]),
    "price_type": pool([None, "mark", "trade"], ["Mark", False]),
    "side": pool([None, "buy", "SELL", True], ["long", 1]),
    "is_long": pool([None, True, False, 1], ["x", 2, 0.5]),
    "removed": pool([None, False], [True, "x", 1]),
    "transaction_hash": pool([None, "0xAB", "", "sol"], ["x" * 201, 1.5]),
    "log_index": pool([None, 0, 5, 7.0], [-1, 2**64, "x"]),
    "trade_id": pool([None, 1, "2", "a", "007", 2**63, 3.0], ["", 1.5, True, "y" * 201]),
    "user_address": pool([None, "0xAb", "0XAB", "", "é", 5], ["z" * 201, False]),
    "user": pool([None, "u"], [{}]),
    "unheard": st.sampled_from([None, 1, {"a": [1]}]),
}
EVENT: st.SearchStrategy[Any] = st.fixed_dictionaries({}, optional=FIELDS) | st.sampled_from([1, None, [], "x"])
# As a producer sends them: the same few fields in every event.
SHAPED = st.sets(st.sampled_from(sorted(FIELDS)), max_size=8).flatmap(
    lambda names: st.lists(
        st.fixed_dictionaries({n: FIELDS[n] for n in {"market_symbol", "timestamp"} | names}), max_size=12
    )
)


def each_alone(events: Sequence[Any]) -> tuple[list[Events], list[int], list[tuple[int, str]]]:
    good: list[Events] = []
    index: list[int] = []
    refused: list[tuple[int, str]] = []
    for i, event in enumerate(events):
        decoded = read(json.dumps(event).encode() + b"\n", NDJSON)
        good += [decoded.events] * decoded.events.n
        index += [i] * decoded.events.n
        refused += [(i, r.error) for r in decoded.rejected]
    return good, index, refused


def assert_as_alone(decoded: Decoded, events: Sequence[Any]) -> None:
    good, index, refused = each_alone(events)
    assert decoded.index.tolist() == index
    assert [(r.index, r.error) for r in decoded.rejected] == refused
    for row, alone in enumerate(good):
        found = decoded.events.take(np.array([row]))
        for name in dict.fromkeys([*found.columns, *alone.columns]):
            one, other = (at_row(events, name) for events in (found, alone))
            assert one == other or (one != one and other != other), name


def at_row(events: Events, name: str) -> Any:
    """What an event says in a column, whether or not the column is there."""
    if name in TEXTS or name.startswith("exact_"):
        column = events.columns.get(name)
        return None if column is None else column.to_pylist()[0]
    numbers = events.columns.get(name)
    if numbers is None:
        return INTEGERS[name][1] if name in INTEGERS else float("nan")
    return numbers.tolist()[0]


@given(st.one_of(st.lists(EVENT, max_size=12), SHAPED))
def test_events_together_are_read_as_each_alone(events: list[Any]) -> None:
    decoded = posted(*events)
    assert_as_alone(decoded, events)
    unknown = read(lines(events), NDJSON, final=False).unknown
    assert unknown == read(json.dumps(events).encode(), JSON, final=False).unknown
    assert bool(unknown) == any(r.error.startswith("no market") for r in decoded.rejected)


TYPED: dict[str, list[tuple[Any, list[Any]]]] = {
    "market_symbol": [(pa.string(), ["GOLD", "BTC", "GLOD", None, ""])],
    "market_id": [(pa.int64(), [10, 20, -1, 99, None]), (pa.float64(), [10.0, 1.5, None])],
    "contract_address": [(pa.string(), ["0xAB", "0xCD", None])],
    "chain_id": [(pa.int64(), [137, -1, None]), (pa.float64(), [137.0, 0.5, None])],
    "timestamp": [
        (pa.int64(), [MS, MS + 1, NOW, 5, None]),
        (pa.float64(), [MS + 0.125, float(NOW), None]),
        (pa.string(), ["2025-10-09T08:53:20Z", "2025-10-09", None]),
    ],
    "side": [(pa.string(), ["buy", "SELL", "x", None]), (pa.bool_(), [True, False, None])],
    "is_long": [(pa.bool_(), [True, False, None]), (pa.int64(), [0, 1, 2, None])],
    "event_type": [(pa.string(), ["Trade", "PositionLiquidated", "x", None])],
    "eventType": [(pa.string(), ["PriceUpdated", None])],
    "price_type": [(pa.string(), ["index", "x", None])],
    "removed": [(pa.bool_(), [True, False, None])],
    "trade_id": [
        (pa.int64(), [0, 5, -5, None]),
        (pa.string(), ["5", "05", "a", "", str(2**63), str(2**63 - 1), None]),
    ],
    "log_index": [(pa.int64(), [0, -1, None]), (pa.float64(), [3.0, None]), (pa.string(), ["3", "x", None])],
    "transaction_hash": [(pa.string(), ["0xAB", "sol", "", "x" * 201, None])],
    "user_address": [(pa.string(), ["0xAB", "é" * 200, "é" * 201, None]), (pa.int64(), [5, None])],
    **{
        name: [
            (pa.float64(), [0.1, 0.0, -0.0, -1.5, 1e-19, 1e20, 2.0**60, None]),
            (pa.int64(), [1, 0, -1, 2**53 + 1, None]),
            (pa.string(), ["1.5", "0.123456789012345678", "1e3", "-2", "x", "", "0", None]),
        ]
        for name in ("price", "size", "volume", "fee", "pnl")
    },
}


@st.composite
def tables(draw: st.DrawFn) -> tuple[pa.Table, list[dict[str, Any]]]:
    n = draw(st.integers(0, 10))
    columns: dict[str, Any] = {}
    values: dict[str, list[Any]] = {}
    for name in draw(st.sets(st.sampled_from(sorted(TYPED)), max_size=8)) | {"market_symbol", "timestamp"}:
        type, choice = draw(st.sampled_from(TYPED[name]))
        first = st.just(choice[0])  # mostly good
        values[name] = draw(st.lists(st.one_of(first, first, first, st.sampled_from(choice)), min_size=n, max_size=n))
        columns[name] = pa.array(values[name], type)
        if type == pa.string() and draw(st.booleans()):
            columns[name] = columns[name].dictionary_encode()
    return pa.table(columns), [{name: v[i] for name, v in values.items()} for i in range(n)]


@given(tables(), st.booleans())
def test_arrow_says_what_json_says(sent: tuple[pa.Table, list[dict[str, Any]]], halved: bool) -> None:
    table, events = sent
    if halved:
        table = pa.concat_tables([table.slice(0, 4), table.slice(4)])
    decoded = read(stream(table), ARROW)
    assert_same(decoded, posted(*events))
    assert_same(read(stream(table), ARROW, final=False), read(lines(events), NDJSON, final=False))


@given(st.text("0123456789.+-eE_ x", max_size=24))
def test_decimal_texts_mean_the_same_both_ways(text: str) -> None:
    one(price=text, pnl=text)


@given(st.text("0123456789-:.TZ+W ", min_size=18, max_size=34) | st.datetimes(timezones=st.timezones()).map(str))
def test_any_text_is_a_time_or_is_refused(text: str) -> None:
    one(timestamp=text)


# Content-Encoding


def packed(encoding: str, data: bytes) -> bytes:
    return gzip.compress(data) if encoding == "gzip" else zstandard.ZstdCompressor(write_checksum=True).compress(data)


@pytest.mark.parametrize("encoding", ["gzip", "zstd", "GZIP", " zstd "])
def test_packed_bodies_are_unpacked_up_to_the_limit(encoding: str) -> None:
    name = encoding.strip().lower()
    for data in (b"", b"x", bytes(100_000), np.random.default_rng(1).bytes(100_000)):
        body = packed(name, data)
        assert decompress(body, encoding, 100_000) == data
        assert decompress(body + body, encoding, 200_000) == data + data
        if data:
            with pytest.raises(TooLarge, match=f"at most {len(data) - 1} bytes"):
                decompress(body, encoding, len(data) - 1)
            with pytest.raises(TooLarge):
                decompress(body + body, encoding, 2 * len(data) - 1)


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_bomb_stops_at_the_limit(encoding: str) -> None:
    bomb = packed(encoding, bytes(50_000_000))
    assert len(bomb) < 60_000
    with pytest.raises(TooLarge, match="at most 1000 bytes"):
        decompress(bomb, encoding, 1000)


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_broken_packed_body_is_refused(encoding: str) -> None:
    body = packed(encoding, bytes(range(256)) * 40)
    for broken in (b"", body[:-1], body[:20], b"x" + body, body + b"trailing", b"\x00" * 50):
        with pytest.raises(BadRequest, match=f"body: not {encoding}"):
            decompress(broken, encoding, 10**6)
    corrupt = bytearray(body)
    corrupt[len(body) // 2] ^= 0xFF
    with pytest.raises(BadRequest, match=f"body: not {encoding}"):
        decompress(bytes(corrupt), encoding, 10**6)


def test_a_body_without_encoding_is_measured_too() -> None:
    assert decompress(b"abc", "", 3) == b"abc"
    assert decompress(b"abc", "identity", 3) == b"abc"
    with pytest.raises(TooLarge, match="at most 2 bytes, got 3"):
        decompress(b"abc", "", 2)


def test_other_encodings_are_refused_by_name() -> None:
    with pytest.raises(UnsupportedMediaType, match='Content-Encoding: expected gzip or zstd, got "br"'):
        decompress(b"", "br", 10)


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("timestamp: expected a time, got soon", "timestamp: expected a time, got soon"),
        ("what I call it: is bad", "event: what I call it: is bad"),
        (7, "unreadable: expected a text that says why, got 7"),
    ],
)
def test_what_its_producer_could_not_read_is_refused_for_his_reason(reason: object, said: str) -> None:
    good = {"market_symbol": "GOLD", "timestamp": MS, "price": 1, "origin": "a.csv line 7"}
    for count in (0, 8):
        decoded = read(lines([good] * count + [{**good, "unreadable": reason}]), NDJSON)
        assert [(r.index, r.error) for r in decoded.rejected] == [(count, said)]
        assert decoded.events.n == count
