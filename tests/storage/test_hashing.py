"""Hashes that files and sketches rely on."""

from decimal import Decimal
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import hashing
from storage.events import DECIMAL, EXACT, INTEGERS, NUMBERS, TEXTS, Events
from storage.hashing import digest, hash_floats, hash_texts, identity, mix, stamped, trader

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
NOT_SAID = ("ident", "digest", "trader", "pos", "removed")


def stir(z: int) -> int:
    """The formula of the module's docstring, one word at a time."""
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
    return z ^ z >> 31


def text_hash(text: str | None) -> int:
    """The hash of one text by the docstring."""
    if text is None:
        return 0
    raw = text.encode()
    if len(raw) > 256:
        return int.from_bytes(blake2b(raw, digest_size=8).digest(), "little") or 1
    h = stir((len(raw) + GOLDEN) & MASK)
    for at in range(0, len(raw), 8):
        h = stir(((h ^ int.from_bytes(raw[at : at + 8], "little")) + GOLDEN) & MASK)
    return h or 1


def one(**said: Any) -> Events:
    """A batch of one event."""
    columns: dict[str, Any] = {}
    for name, value in said.items():
        if name in INTEGERS:
            columns[name] = np.array([value], INTEGERS[name][0])
        elif name in NUMBERS:
            columns[name] = np.array([value], np.float64)
        elif name in TEXTS:
            columns[name] = pa.array([value], pa.string())
        else:
            columns[name] = pa.array([None if value is None else Decimal(value)], DECIMAL)
    return Events(1, columns)


TRADE = {"market": 3, "ts": 1_700_000_000_000_000, "trade_no": 77, "price": 1.5, "volume": 2.0, "side": 1}


def said(**changes: Any) -> int:
    """The digest of a trade with something changed."""
    return int(digest(one(**{**TRADE, **changes}))[0])


def who(**columns: Any) -> int:
    """The identity of an event."""
    return int(identity(one(**columns))[0])


def test_hashes_are_the_same_in_every_version() -> None:
    texts = pa.array(["0xAbCd", "", None, "a text of more than one word", "x" * 300])
    assert hash_texts(texts).tolist() == [
        9328852805621174346,
        16294208416658607535,
        0,
        16524486670813109375,
        1533152188014638354,
    ]
    assert mix(np.array([0, 1, -1])).tolist() == [16294208416658607535, 10451216379200822465, 16490336266968443936]
    assert hash_floats(np.array([1.5, np.nan])).tolist() == [15481881892811333770, 0]
    events = one(**TRADE, fee=0.25, trade_id="t", transaction_hash="0xA", log_index=2, user_address="0xB")
    assert identity(one(**TRADE)).tolist() == [2697134277525448427]
    assert identity(events).tolist() == [11389595410172169046]
    assert digest(events).tolist() == [221591415063012338]


@given(st.lists(st.none() | st.text(max_size=40) | st.text(alphabet="aé\U0001f600", min_size=60, max_size=300)))
def test_a_text_hashes_as_the_formula_says_wherever_it_stands(texts: list[str | None]) -> None:
    column = pa.array(texts, pa.string())
    expected = [text_hash(text) for text in texts]
    assert hash_texts(column).tolist() == expected
    assert hash_texts(column[1:]).tolist() == expected[1:]
    assert hash_texts(pa.concat_arrays([column, column])[len(texts) :]).tolist() == expected


@given(st.integers(0, 300), st.integers(1, 5))
def test_texts_of_one_length_hash_like_texts_of_many(size: int, count: int) -> None:
    texts = [chr(97 + k) * size for k in range(count)]
    assert hash_texts(pa.array(texts)).tolist() == [text_hash(text) for text in texts]
    assert hash_texts(pa.array([*texts, "another"])).tolist()[:count] == [text_hash(text) for text in texts]


def test_what_lies_under_a_null_does_not_count() -> None:
    full = pa.array(["abc", "defg", "hi"])
    holes = pa.Array.from_buffers(pa.string(), 3, [pa.py_buffer(b"\x05"), *full.buffers()[1:]])
    assert hash_texts(holes).tolist() == [text_hash("abc"), 0, text_hash("hi")]


def test_lower_counts_ascii_letters_alike_and_leaves_the_rest() -> None:
    texts = ["0xAZaz[`@{", "ÄÉ", "0XDEADBEEF"]
    found = hash_texts(pa.array(texts), lower=True).tolist()
    assert found == [text_hash(text) for text in ("0xazaz[`@{", "ÄÉ", "0xdeadbeef")]


def test_columns_of_other_string_types_hash_the_same() -> None:
    texts = ["a", None, "b"]
    expected = hash_texts(pa.array(texts)).tolist()
    assert hash_texts(pa.array(texts, pa.large_string())).tolist() == expected
    assert hash_texts(pa.array(texts).dictionary_encode()).tolist() == expected
    assert hash_texts(pa.nulls(3)).tolist() == [0, 0, 0]


@given(st.lists(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=3, max_size=3), min_size=1))
def test_mix_is_the_formula_row_by_row(rows: list[list[int]]) -> None:
    expected = []
    for row in rows:
        h = 0
        for word in row:
            h = stir(((h ^ word & MASK) + GOLDEN) & MASK)
        expected.append(h)
    assert mix(*np.array(rows, np.int64).T).tolist() == expected


def test_numbers_in_a_row_mix_into_evenly_spread_hashes() -> None:
    n = 200_000
    hashes = mix(np.full(n, 5, np.int32), np.arange(n))
    assert len(np.unique(hashes)) == n
    ones = np.unpackbits(hashes.view(np.uint8)).reshape(n, 64).mean(axis=0)
    assert abs(ones - 0.5).max() < 0.01  # nine standard deviations
    smallest = np.sort(hashes)[4095]
    assert 4096 / (int(smallest) / 2**64) == pytest.approx(n, rel=0.08)  # five
    for bits in (8, 16):
        cells = np.bincount((hashes >> np.uint64(64 - bits)).astype(np.int64), minlength=1 << bits)
        chi = ((cells - n / len(cells)) ** 2 / (n / len(cells))).sum()
        assert abs(chi - len(cells)) < 6 * (2 * len(cells)) ** 0.5


def test_one_changed_bit_changes_half_of_the_hash() -> None:
    start = mix(np.arange(1000))
    for bit in range(63):
        changed = np.unpackbits((mix(np.arange(1000) ^ (1 << bit)) ^ start).view(np.uint8)).mean()
        assert 0.48 < changed < 0.52


def test_floats_hash_by_value() -> None:
    found = hash_floats(np.array([0.0, -0.0, 1.0, np.nan]))
    assert found[0] == found[1] != found[2]
    assert found[3] == 0
    assert hash_floats(np.array([], np.float64)).tolist() == []


def test_an_event_is_its_log_on_its_chain_in_whatever_market() -> None:
    log = {"chain_id": 1, "transaction_hash": "0xAB", "log_index": 0}
    assert who(**log, market=1) == who(**log, market=2, trade_no=5) != 0
    assert who(**log) == who(**{**log, "transaction_hash": "0xab"})
    assert len({who(**log), who(**{**log, "chain_id": 2}), who(**{**log, "log_index": 1})}) == 3
    assert len({who(**log), who(**{**log, "transaction_hash": "0xac"}), 0}) == 3


def test_an_absent_chain_is_a_chain_of_its_own() -> None:
    log = {"transaction_hash": "0xAB", "log_index": 3}
    assert who(**log) == who(**log, chain_id=-1) != who(**log, chain_id=1)


def test_without_a_place_on_a_chain_an_event_is_its_trade_in_its_market() -> None:
    assert who(market=1, trade_no=5) == who(market=1, trade_no=5, transaction_hash="0xAB", log_index=-1)
    assert who(market=1, trade_no=5) == who(market=1, trade_no=5, transaction_hash="", log_index=1)
    assert who(market=1, trade_no=5) == who(market=1, trade_no=5, transaction_hash=None, log_index=1)
    different = {
        who(market=1, trade_no=5),
        who(market=2, trade_no=5),
        who(market=1, trade_no=6),
        who(market=1, trade_no=0),
    }
    assert len(different | {who(market=1, trade_id="5"), who(market=1, trade_id="x"), who(market=2, trade_id="x")}) == 7


def test_a_text_trade_id_counts_with_its_case() -> None:
    assert who(market=1, trade_id="a") != who(market=1, trade_id="A")


@pytest.mark.parametrize(
    "columns",
    [
        {"market": 1, "price": 2.0},
        {"market": 1, "trade_no": -1},
        {"market": 1, "trade_id": None},
        {"market": 1, "trade_id": ""},
        {"market": 1, "transaction_hash": "0xAB"},
        {"market": 1, "log_index": 4},
    ],
)
def test_what_has_neither_has_no_identity(columns: dict[str, Any]) -> None:
    assert who(**columns) == 0


def test_each_row_of_a_batch_is_named_by_what_it_has() -> None:
    rows: list[dict[str, Any]] = [
        {"market": 1, "trade_no": 5},
        {"market": 1, "trade_id": "x"},
        {"market": 1, "chain_id": 1, "transaction_hash": "0xAB", "log_index": 3},
        {"market": 1},
    ]
    batch = Events(
        4,
        {
            "market": np.ones(4, np.int32),
            "trade_no": np.array([5, -1, -1, -1]),
            "trade_id": pa.array([None, "x", None, None]),
            "chain_id": np.array([-1, -1, 1, -1]),
            "log_index": np.array([-1, -1, 3, -1]),
            "transaction_hash": pa.array([None, None, "0xAB", None]),
        },
    )
    assert identity(batch).tolist() == [who(**row) for row in rows]


@pytest.mark.parametrize("name", [name for name in (*INTEGERS, *NUMBERS, *TEXTS) if name not in NOT_SAID])
def test_every_column_counts_and_saying_nothing_in_it_does_not(name: str) -> None:
    nothing: Any = INTEGERS[name][1] if name in INTEGERS else np.nan if name in NUMBERS else None
    without = {key: value for key, value in TRADE.items() if key != name}
    absent = int(digest(one(**without))[0])
    assert said(**{name: nothing}) == absent
    values = ("a", "b") if name in TEXTS else (3, 4)
    assert len({absent, *(said(**{name: value}) for value in values)}) == 3


@pytest.mark.parametrize("name", NOT_SAID)
def test_what_candled_itself_notes_of_an_event_is_not_what_it_says(name: str) -> None:
    assert said(**{name: 1}) == said()


def test_the_same_value_in_another_column_is_another_word() -> None:
    assert said(fee=7.0) != said(pnl=7.0)
    assert said(trade_id="a") != said(position_id="a")
    assert said(block_number=5, log_index=6) != said(block_number=6, log_index=5)


@pytest.mark.parametrize(
    "text", ["0.1", "123456.789", "-5", "0.000001", "99999999999999999999", "12345678901234567890"]
)
def test_a_float_says_the_same_as_the_decimal_it_prints_as(text: str) -> None:
    assert said(pnl=np.nan, exact_pnl=text) == said(pnl=float(text), exact_pnl=text)
    if Decimal(repr(float(text))) == Decimal(text):
        assert said(pnl=float(text)) == said(pnl=float(text), exact_pnl=text)


def test_decimals_that_share_a_float_differ() -> None:
    near = ["0.123456789012345678", "0.123456789012345679", "99999999999999999999.9", "99999999999999999999.8"]
    digests = {said(price=float(text), exact_price=text) for text in near}
    assert len(digests | {said(price=float(text)) for text in near[:2]}) == 5


def test_an_exact_decimal_speaks_for_its_row_only() -> None:
    batch = Events(2, {"price": np.array([0.1, 0.1]), EXACT + "price": pa.array([None, Decimal("0.3")], DECIMAL)})
    assert digest(batch).tolist() == [*digest(one(price=0.1)), *digest(one(price=0.3))]


def test_no_price_and_no_fee_may_be_said_as_zero() -> None:
    assert said(price=0.0, fee=0.0) == said(price=np.nan)
    assert said(exact_price="0", price=0.0) == said(price=-0.0)
    assert said(open_interest=0.0) != said()


def test_a_size_that_is_the_volume_adds_nothing() -> None:
    assert said(size=2.0) == said() != said(size=2.5)
    assert said(size=2.0, exact_size="2") == said(exact_volume="2")
    assert int(digest(one(size=2.0))[0]) != int(digest(one())[0])


def test_the_case_of_addresses_says_nothing() -> None:
    assert said(user_address="0xAB", transaction_hash="0xCD") == said(user_address="0xab", transaction_hash="0xcd")
    assert said(position_id="A") != said(position_id="a")


def test_no_digest_is_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    assert int(digest(one())[0]) == 1  # an event that says nothing at all adds up to 0
    monkeypatch.setattr(hashing, "_stir", np.zeros_like)
    assert (hash_texts(pa.array(["a", "bc"])) != 0).all()


def test_traders_are_told_apart_without_regard_to_case() -> None:
    batch = Events(4, {"user_address": pa.array(["0xAB", "0xab", "0xac", None])})
    first, same, other, nobody = trader(batch).tolist()
    assert first == same == text_hash("0xab") != other
    assert nobody == 0
    assert trader(Events(2, {})).tolist() == [0, 0]


def test_stamping_gives_what_the_three_questions_give() -> None:
    batch = Events(
        3,
        {
            "market": np.array([1, 2, 3], np.int32),
            "trade_no": np.array([7, -1, -1]),
            "trade_id": pa.array([None, "x", None]),
            "user_address": pa.array(["0xA", None, "0xB"]),
            "price": np.array([1.0, 2.0, 3.0]),
        },
    )
    stamps = stamped(batch.with_columns(digest=np.ones(3, np.uint64)))
    assert stamps.integers("ident").tolist() == identity(batch).tolist()
    assert stamps.integers("digest").tolist() == digest(batch).tolist()
    assert stamps.integers("trader").tolist() == trader(batch).tolist()


def test_stamping_leaves_out_what_would_say_nothing() -> None:
    stamps = stamped(Events(1, {"price": np.array([1.0])}))
    assert list(stamps.columns) == ["price"]


def test_no_events_have_no_hashes() -> None:
    empty = Events(
        0, {"market": np.zeros(0, np.int32), "trade_no": np.zeros(0, np.int64), "trade_id": pa.nulls(0, pa.string())}
    )
    assert (identity(empty).tolist(), digest(empty).tolist(), trader(empty).tolist()) == ([], [], [])
