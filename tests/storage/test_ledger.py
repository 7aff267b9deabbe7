"""The ledger gives back exactly what was put in, whatever an event says."""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from duckdb import DuckDBPyConnection as Connection
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import decimals, ledger, schema
from storage.commits import Dead
from storage.database import migrate
from storage.events import EVENT_TYPES, INTEGERS, NUMBERS, PRICE_TYPES, TEXTS, Array, Events, concat
from tests import algebra

SAID = {name: nothing for name, (_, nothing) in INTEGERS.items() if name != "removed"}
WORDS = st.text(st.characters(codec="utf-8"), max_size=6)
LIMITS: dict[str, tuple[int, int]] = {
    "event": (0, len(EVENT_TYPES) - 1),
    "price_type": (0, len(PRICE_TYPES) - 1),
    "side": (-1, 1),
    "chain_id": (-1, 2**63 - 1),
    "block_number": (-1, 2**63 - 1),
    "log_index": (-1, 2**63 - 1),
    "trade_no": (-1, 2**63 - 1),
    "market": (1, 2**31 - 1),
}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    with duckdb.connect(str(tmp_path_factory.mktemp("ledger") / "candles.duckdb")) as connection:
        migrate(connection)
        yield connection


@pytest.fixture
def db(file: Connection) -> Iterator[Connection]:
    file.execute("BEGIN TRANSACTION")
    yield file
    file.execute("ROLLBACK")


Row = dict[str, Any]


def rows_of(names: Sequence[str]) -> Any:
    """One event as plain values, None where nothing is said."""
    values: dict[str, Any] = {}
    for name in names:
        if name in NUMBERS:
            values[name] = st.one_of(algebra.amounts, algebra.signed)
        elif name in TEXTS:
            values[name] = st.one_of(st.none(), WORDS)
        else:
            dtype = INTEGERS[name][0]
            low, high = LIMITS.get(name, (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)))
            values[name] = st.one_of(st.integers(low, high), st.just(SAID[name]))
    return st.fixed_dictionaries(values)


def batch(names: Sequence[str], rows: Sequence[Row], first: int) -> Events:
    """The events as columns, with places from `first` on."""
    columns: dict[str, Any] = {}
    for name in names:
        found = [row[name] for row in rows]
        if name in NUMBERS:
            columns |= algebra.numbers(name, found)
        elif name in TEXTS:
            columns[name] = pa.array(found, pa.string())
        else:
            columns[name] = np.array(found, INTEGERS[name][0])
    columns.setdefault("market", np.ones(len(rows), np.int32))
    columns.setdefault("ts", np.zeros(len(rows), np.int64))
    columns["pos"] = np.arange(first, first + len(rows))
    return Events(len(rows), columns)


def said(events: Events) -> list[Row]:
    """Each event as plain values."""
    out: list[Row] = [{} for _ in range(events.n)]
    for name in SAID:
        for row, value in zip(out, events.integers(name).tolist(), strict=True):
            row[name] = value
    for name in TEXTS:
        for row, text in zip(out, events.texts(name).to_pylist(), strict=True):
            row[name] = text
    for name in NUMBERS:
        exact = events.exact(name)
        exactly: list[Decimal | None] = [None] * events.n if exact is None else exact.to_pylist()
        for row, value, number in zip(out, events.numbers(name).tolist(), exactly, strict=True):
            # The float beside an exact decimal is the nearest one, and what it says alone is its shortest text.
            assert number is None or float(number) == value
            row[name] = None if value != value else Decimal(repr(value)) if number is None else number
    return out


def bare(name: str) -> Any:
    return st.lists(rows_of([name]), min_size=1, max_size=4)


@pytest.mark.parametrize("name", [*SAID, *NUMBERS, *TEXTS])
@given(st.data())
@settings(max_examples=8)
def test_every_column_comes_back_as_it_was_put(file: Connection, name: str, data: st.DataObject) -> None:
    rows = data.draw(bare(name))
    events = batch([name] if name != "pos" else [], rows, 5)
    file.execute("BEGIN TRANSACTION")
    try:
        assert ledger.put(file, [events]) == len(rows)
        assert said(ledger.at(file, events.integers("pos"))) == said(events)
    finally:
        file.execute("ROLLBACK")


@st.composite
def batches(draw: Any) -> list[Events]:
    """Some batches, each of which says what it likes."""
    found: list[Events] = []
    for number in range(draw(st.integers(1, 4))):
        wide = [name for name in (*SAID, *NUMBERS, *TEXTS) if name != "pos"]
        of = draw(st.sampled_from([schema.LEAN, schema.TRADED, wide]))
        names = draw(st.lists(st.sampled_from([name for name in of if name != "pos"]), unique=True, max_size=5))
        rows = draw(st.lists(rows_of(names), max_size=3))
        found.append(batch(names, rows, 1000 * number))
    return found


@given(batches(), st.data())
@settings(max_examples=40)
def test_batches_of_every_shape_lie_beside_each_other_and_any_of_their_events_can_be_taken_out(
    file: Connection, some: list[Events], data: st.DataObject
) -> None:
    together = said(concat(some)) if sum(events.n for events in some) else []
    file.execute("BEGIN TRANSACTION")
    try:
        assert ledger.put(file, some) == len(together)
        assert ledger.count(file) == len(together)
        everything = np.arange(-1, 5000)
        assert said(ledger.at(file, everything)) == together
        gone = data.draw(st.lists(st.sampled_from([*(row["pos"] for row in together), 4999]), min_size=1))
        ledger.drop(file, [(9, Dead(pos, 1, 0)) for pos in gone])
        assert said(ledger.at(file, everything)) == [row for row in together if row["pos"] not in gone]
    finally:
        file.execute("ROLLBACK")


@pytest.mark.parametrize(
    ("names", "table"),
    [
        (["side", "price", "volume"], "ledger_lean"),
        (["price", "trade_no", "ident", "digest"], "ledger_traded"),
        (["price", "user_address"], "ledger_full"),
        (["price", "log_index"], "ledger_full"),
        (["trade_no", "funding_rate"], "ledger_full"),
        (["price", "trade_no", "ident", "digest", "price_low", "total_quantity"], "ledger_quoted"),
        (["price_mid", "volume"], "ledger_full"),
    ],
)
def test_an_event_lies_in_the_narrowest_table_that_has_all_it_says(
    db: Connection, names: list[str], table: str
) -> None:
    values: Row = {
        "user_address": "0xab",
        "price": Decimal("1.000000000000000001"),
        "volume": None,
        "funding_rate": None,
    }
    row = {name: values.get(name, 1) for name in names}
    ledger.put(db, [batch(names, [row], 1)])
    for shape in schema.SHAPES:
        ((count,),) = db.execute(f"SELECT count(*) FROM {shape}").fetchall()
        assert count == (shape == table)


def test_numbers_are_kept_beyond_what_a_float_can_say(db: Connection) -> None:
    numbers = [
        Decimal("99999999999999999999.999999999999999999"),
        Decimal("0.1"),
        Decimal("0.100000000000000001"),
        None,
    ]
    ledger.put(db, [batch(["price"], [{"price": number} for number in numbers], 1)])
    assert db.execute("SELECT price FROM ledger ORDER BY pos").fetchall() == [
        (None if number is None else number.quantize(Decimal(1).scaleb(-18), context=decimals.WIDE),)
        for number in numbers
    ]
    found = ledger.at(db, np.arange(10))
    assert found.exact("price").to_pylist() == [numbers[0], None, numbers[2], None]
    assert found.numbers("price")[:3].tolist() == [1e20, 0.1, 0.1]


def test_identities_are_listed_in_order_of_place(db: Connection) -> None:
    rows = [{"ident": ident, "digest": ident * 10} for ident in (7, 0, 9, 3)]
    ledger.put(db, [batch(["ident", "digest"], rows, 10)])
    assert listed(*ledger.identities(db, -1, 99)) == [(7, 70, 10), (9, 90, 12), (3, 30, 13)]
    assert listed(*ledger.identities(db, 10, 99)) == [(9, 90, 12), (3, 30, 13)]
    assert listed(*ledger.identities(db, 13, 99)) == []
    assert listed(*ledger.identities(db, -1, 12)) == [(7, 70, 10), (9, 90, 12)]


def listed(columns: tuple[Array, Array, Array]) -> list[tuple[int, int, int]]:
    ident, digest, pos = (column.tolist() for column in columns)
    return list(zip(ident, digest, pos, strict=True))


def test_identities_that_were_let_go_are_known_by_the_batch_that_did(db: Connection) -> None:
    ledger.forget(db, 3, np.array([1, 2**64 - 1], np.uint64))
    ledger.forget(db, 5, np.array([1], np.uint64))
    assert sorted(ledger.forgotten(db, 2).tolist()) == [1, 2**64 - 1]
    assert ledger.forgotten(db, 3).tolist() == [1]
    assert ledger.forgotten(db, 5).tolist() == []


def test_a_ledger_from_before_there_were_prices_of_cards_takes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    every = schema.migrations()
    before = next(number for number, step in enumerate(every) if any("ledger_quoted" in each for each in step))
    with duckdb.connect() as old:
        with monkeypatch.context() as then:
            then.setattr(schema, "migrations", lambda: every[:before])
            migrate(old)
        full = ", ".join(name for name in schema.FULL if name not in schema.PRICES)
        old.execute("INSERT INTO ledger_full BY NAME SELECT 7 AS pos, 1 AS market, 5 AS ts, 'a' AS user_address")
        assert [row[0] for row in old.execute("DESCRIBE ledger_full").fetchall()] == full.split(", ")
        migrate(old)
        row = {"price": Decimal(3), "price_low": Decimal(2), "num_listings": 4}
        ledger.put(old, [batch(list(row), [row], 9), batch([*row, "volume"], [{**row, "volume": Decimal(1)}], 11)])
        said = old.execute("SELECT pos, user_address, price_low, num_listings, volume FROM ledger ORDER BY pos")
        assert said.fetchall() == [
            (7, "a", None, None, None),
            (9, None, Decimal(2), 4, None),
            (11, None, Decimal(2), 4, Decimal(1)),
        ]


def test_nothing_is_put_and_found_without_complaint(db: Connection) -> None:
    assert ledger.put(db, []) == 0
    assert ledger.put(db, [Events(0, {})]) == 0
    assert ledger.count(db) == 0
    assert ledger.at(db, np.array([1, 2])).n == 0
    ledger.drop(db, [(9, Dead(1, 1, 0)), (9, Dead(2, 1, 0))])
    assert ledger.at(db, np.array([1, 2])).n == 0
