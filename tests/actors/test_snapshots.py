"""Prices of cards as they are sent: what they say, why one is refused, and that both ways of reading agree."""

import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.bodies import ARROW, JSON, NDJSON
from actors.decode import SNAPSHOTS, Decoded, decode
from storage import hashing
from storage.calendar import Calendar
from storage.errors import BadRequest
from storage.events import PRICE_CODE
from storage.records import KIND_CODE
from storage.variants import CONDITIONS, LANGUAGES, Variant, variant_of
from tests.actors.test_decode import MS, NOW, assert_same, at_row, lines, pool, stream

TAKEN = Variant("taken", "tcgplayer")  # the name of a spot market


class Registry:
    """Knows all variants of the cards 1, 2 and `ab`; and one that somebody has made a spot market."""

    kinds = np.array([255, KIND_CODE["spot"], *[KIND_CODE["card"]] * 10_000], np.uint8)
    chains = np.full(10_002, -1)

    def slot_of_symbol(self, symbol: str) -> int | None:
        if symbol == TAKEN.symbol:
            return 1
        found = variant_of(symbol)
        assert found is not None
        if found.card_id not in ("1", "2", "ab"):
            return None
        return 2 + hash_of(symbol) % 10_000

    def slot_of_id(self, _: int) -> int | None:
        raise AssertionError("a price of a card names no market_id")

    def slot_of_contract(self, *_: object) -> int | None:
        raise AssertionError("a price of a card names no contract")

    def calendar(self, _: int) -> Calendar:
        raise AssertionError("a price of a card lies in no trading day")


def hash_of(symbol: str) -> int:
    return int(hashing.hash_texts(pa.array([symbol.lower()]))[0])


def read(body: bytes, form: str, *, final: bool = True) -> Decoded:
    return decode(body, form, Registry(), NOW, form=SNAPSHOTS, final=final)


def posted(*events: Any) -> Decoded:
    decoded = read(lines(events), NDJSON)
    assert_same(decoded, read(json.dumps(events).encode(), JSON))
    return decoded


def one(**fields: Any) -> Decoded:
    """One price alone, and the same among others, which takes the other way."""
    event = {"time": MS, "card_id": 1, "marketplace": "tcgplayer", "price": 1} | fields
    alone, among = posted(event), posted(*[event] * 6)
    assert [r.error for r in among.rejected] == [r.error for r in alone.rejected] * 6
    for name in alone.events.columns:
        assert at_row(among.events.take(np.array([3])), name) == at_row(alone.events, name), name
    return alone


def error(**fields: Any) -> str:
    (rejected,) = one(**fields).rejected
    return rejected.error


def slot(variant: Variant) -> int:
    found = Registry().slot_of_symbol(variant.symbol)
    assert found is not None
    return found


def test_a_price_becomes_columns() -> None:
    events = one(
        card_id="ab",
        condition="MINT",
        is_foil=True,
        language="Japanese",
        currency="JPY",
        price="1234.000000000000000001",
        price_low=1000,
        price_mid=1100.5,
        price_high=1500,
        price_market="1200",
        num_listings=7,
        total_quantity=0,
    ).events
    said = {name: at_row(events, name) for name in events.columns}
    assert said == {
        "market": slot(Variant("ab", "tcgplayer", "MINT", True, "Japanese", "JPY")),
        "ts": NOW,
        "trade_no": NOW,
        "price_type": PRICE_CODE["trade"],
        "price": 1234.0,
        "exact_price": Decimal("1234.000000000000000001"),
        "price_low": 1000.0,
        "price_mid": 1100.5,
        "price_high": 1500.0,
        "price_market": 1200.0,
        "num_listings": 7,
        "total_quantity": 0,
    }


def test_what_is_not_said_is_near_mint_in_english_for_dollars() -> None:
    assert at_row(one().events, "market") == slot(Variant("1", "tcgplayer"))
    nothing = dict.fromkeys(("condition", "is_foil", "language", "currency", "price_low", "num_listings"))
    assert one(**nothing).events.columns.keys() == one().events.columns.keys()
    assert at_row(one(**nothing).events, "market") == slot(Variant("1", "tcgplayer"))


@pytest.mark.parametrize("card", [2, "2", 2.0])
@pytest.mark.parametrize("place", [{"marketplace": 7}, {"marketplace": None, "marketplace_id": "7"}])
def test_cards_and_marketplaces_are_named_by_numbers_or_texts(card: Any, place: dict[str, Any]) -> None:
    assert at_row(one(card_id=card, **place).events, "market") == slot(Variant("2", "7"))


def test_every_condition_and_language_is_taken() -> None:
    events = [
        {"time": MS, "card_id": 1, "marketplace": "m", "price": 1, "condition": condition, "language": language}
        for condition in CONDITIONS
        for language in LANGUAGES
    ]
    expected = [slot(Variant("1", "m", c, language=spoken)) for c in CONDITIONS for spoken in LANGUAGES]
    assert posted(*events).events.integers("market").tolist() == expected


def test_whether_it_is_foil_may_be_told_in_a_text_as_tables_have_it() -> None:
    for text, is_foil in (("true", True), ("false", False)):
        assert at_row(one(is_foil=text).events, "market") == slot(Variant("1", "tcgplayer", is_foil=is_foil))


def test_a_price_of_nothing_is_taken_and_sets_no_price() -> None:
    assert "price" not in one(price=0).events
    assert "price" not in one(price="0.00").events


def test_a_time_is_what_a_price_of_a_variant_is_known_by() -> None:
    first, again, later, other = (
        hashing.identity(one(**fields).events).tolist()
        for fields in ({}, {"price": 9, "num_listings": 3}, {"time": MS + 1}, {"is_foil": True})
    )
    assert first == again
    assert len({first[0], later[0], other[0], 0}) == 4


def test_a_price_is_taken_back_by_variant_and_time() -> None:
    decoded = one(price=None, removed=True)
    assert decoded.events.integers("removed").tolist() == [True]
    assert hashing.identity(decoded.events) == hashing.identity(one().events)
    assert error(removed=True, time=None).startswith("time: expected milliseconds")


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"price": None}, "price: expected a number ≥ 0, got nothing"),
        ({"price": -1}, "price: expected a number ≥ 0, got -1"),
        ({"price_low": "x"}, 'price_low: expected a number ≥ 0, got "x"'),
        ({"price_market": -0.5}, "price_market: expected a number ≥ 0, got -0.5"),
        ({"num_listings": -1}, "num_listings: expected an integer from 0 to 9223372036854775807, got -1"),
        ({"total_quantity": 1.5}, "total_quantity: expected an integer from 0 to 9223372036854775807, got 1.5"),
        (
            {"condition": "NM"},
            "condition: expected one of MINT, NEAR_MINT, LIGHTLY_PLAYED, MODERATELY_PLAYED, HEAVILY_PLAYED, DAMAGED, "
            'got "NM"',
        ),
        (
            {"language": "Klingon"},
            "language: expected one of English, Japanese, German, French, Italian, Spanish, Portuguese, Korean, "
            'Chinese Simplified, Chinese Traditional, Russian, Phyrexian, got "Klingon"',
        ),
        ({"currency": "dollars"}, 'currency: expected three capital letters such as USD, got "dollars"'),
        ({"is_foil": "yes"}, 'is_foil: expected true or false, got "yes"'),
        (
            {"card_id": None},
            "card_id: expected 1 to 40 printable characters without blanks around them or a comma, got nothing",
        ),
        (
            {"card_id": "x,y"},
            'card_id: expected 1 to 40 printable characters without blanks around them or a comma, got "x,y"',
        ),
        (
            {"marketplace": "e.bay"},
            "marketplace: expected 1 to 20 printable characters without blanks around them or a comma, nor a point, "
            'got "e.bay"',
        ),
        ({"time": MS // 1000}, "time: expected milliseconds since 1970, or ISO 8601 with a zone, got "),
        ({"time": "yesterday"}, "time: expected milliseconds since 1970, or ISO 8601 with a zone, got"),
        ({"time": MS + 301_000}, "time: expected at most 5 minutes ahead of the clock"),
        (
            {"card_id": "taken"},
            "card_id: expected 'CARD:taken.tcgplayer.NEAR_MINT.nonfoil.en.USD' to be a market of kind card, "
            "got one of kind spot",
        ),
        ({"card_id": "new"}, "no market named 'CARD:new.tcgplayer.NEAR_MINT.nonfoil.en.USD'"),
    ],
)
def test_what_is_refused_says_which_field_and_what_was_expected(fields: dict[str, Any], why: str) -> None:
    assert error(**fields).startswith(why)


def test_markets_that_are_not_known_are_asked_for_but_not_for_what_is_refused() -> None:
    event = {"time": MS, "card_id": "x", "marketplace": "m", "price": 1}
    for n in (1, 6):
        events = [event, {**event, "card_id": "y", "price": -1}, {**event, "card_id": "z", "time": 5}] * n
        assert read(lines(events), NDJSON, final=False).unknown == [Variant("x", "m").symbol]


def test_columns_of_a_table_that_says_nothing_of_cards_are_refused() -> None:
    with pytest.raises(BadRequest, match="columns like time, card_id and price"):
        read(stream(pa.table({"timestamp": [1]})), ARROW)


MONEY = pool([None, 0, 1, 2.5, "3.25", "0.123456789012345678"], [-1, "x", True, 1e-19, [1]])
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "time": pool([MS, MS + 0.5, "2025-10-09T08:53:20Z"], [None, 1, "x"]),
    "card_id": pool([1, 2, "ab", 1.0], [None, "", "a,b", "x" * 41, 1.5, True, "new", "taken"]),
    "marketplace": pool(["tcgplayer", "m", None, 5], ["a.b", " ", "y" * 21, False]),
    "marketplace_id": pool([None, "other", 3], ["", [1]]),
    "condition": pool([None, "MINT", "DAMAGED"], ["mint", 1]),
    "is_foil": pool([None, True, False, 1], ["foil", 2]),
    "language": pool([None, "German", "Phyrexian"], ["en", 5]),
    "currency": pool([None, "EUR", "JPY"], ["eur", "EURO", 7]),
    "price": pool([1, 2.5, "3.25", 0], [None, -1, "x", True]),
    "price_low": MONEY,
    "price_market": MONEY,
    "num_listings": pool([None, 0, 5, 3.0, "4"], [-1, 1.5, "x"]),
    "total_quantity": pool([None, 0, 2**40], [2**63, True]),
    "removed": pool([None, False], [True, "x"]),
    "unheard": st.sampled_from([None, {"a": 1}]),
}
NEEDED = ("time", "card_id", "marketplace", "price")
EVENT: st.SearchStrategy[Any] = st.fixed_dictionaries({}, optional=FIELDS) | st.sampled_from([1, None, []])
SHAPED = st.sets(st.sampled_from(sorted(FIELDS)), max_size=6).flatmap(
    lambda names: st.lists(st.fixed_dictionaries({n: FIELDS[n] for n in {*NEEDED, *names}}), max_size=12)
)


@given(st.one_of(st.lists(EVENT, max_size=12), SHAPED))
def test_prices_together_are_read_as_each_alone(events: Sequence[Any]) -> None:
    decoded = posted(*events)
    good, refused = [], []
    for i, event in enumerate(events):
        alone = read(json.dumps(event).encode() + b"\n", NDJSON)
        good += [(i, alone.events)] * alone.events.n
        refused += [(i, r.error) for r in alone.rejected]
    assert decoded.index.tolist() == [i for i, _ in good]
    assert [(r.index, r.error) for r in decoded.rejected] == refused
    for row, (_, single) in enumerate(good):
        found = decoded.events.take(np.array([row]))
        for name in dict.fromkeys([*found.columns, *single.columns]):
            a, b = at_row(found, name), at_row(single, name)
            assert a == b or (a != a and b != b), name
    unknown = read(lines(events), NDJSON, final=False).unknown
    assert bool(unknown) == any(r.error.startswith("no market") for r in decoded.rejected)


TYPED: dict[str, list[tuple[Any, list[Any]]]] = {
    "time": [(pa.int64(), [MS, MS + 1, 5, None]), (pa.string(), ["2025-10-09T08:53:20Z", "x", None])],
    "card_id": [(pa.int64(), [1, 2, 9, None]), (pa.string(), ["ab", "1", "new", "", None]), (pa.float64(), [1.0, 1.5])],
    "marketplace": [(pa.string(), ["m", "n", "a.b", None]), (pa.int64(), [3, None])],
    "marketplace_id": [(pa.string(), ["m", None])],
    "condition": [(pa.string(), ["MINT", "x", None])],
    "is_foil": [(pa.bool_(), [True, False, None]), (pa.int64(), [0, 1, 2, None]), (pa.string(), ["true", None])],
    "language": [(pa.string(), ["German", "de", None])],
    "currency": [(pa.string(), ["EUR", "eur", None])],
    "removed": [(pa.bool_(), [False, True, None])],
    "price": [(pa.float64(), [0.1, 0.0, -1.5, None]), (pa.string(), ["1.5", "0", "x", "", None])],
    "price_high": [(pa.float64(), [0.1, 0.0, -1.5, None]), (pa.int64(), [1, None])],
    "num_listings": [(pa.int64(), [0, 5, -1, None]), (pa.float64(), [3.0, 0.5, None]), (pa.string(), ["3", "x", None])],
}


@st.composite
def tables(draw: st.DrawFn) -> tuple[pa.Table, list[dict[str, Any]]]:
    n = draw(st.integers(0, 10))
    columns: dict[str, Any] = {}
    values: dict[str, list[Any]] = {}
    for name in draw(st.sets(st.sampled_from(sorted(TYPED)), max_size=6)) | set(NEEDED):
        kind, choice = draw(st.sampled_from(TYPED[name]))
        first = st.just(choice[0])
        values[name] = draw(st.lists(st.one_of(first, first, first, st.sampled_from(choice)), min_size=n, max_size=n))
        columns[name] = pa.array(values[name], kind)
        if kind == pa.string() and draw(st.booleans()):
            columns[name] = columns[name].dictionary_encode()
    return pa.table(columns), [{name: v[i] for name, v in values.items()} for i in range(n)]


@given(tables())
def test_arrow_says_what_json_says(sent: tuple[pa.Table, list[dict[str, Any]]]) -> None:
    table, events = sent
    assert_same(read(stream(table), ARROW), posted(*events))
    assert_same(read(stream(table), ARROW, final=False), read(lines(events), NDJSON, final=False))
