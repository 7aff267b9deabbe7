"""Spellings that count as one."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.names import contract_key, folded, qualified, words_in

# The iota that stands below a letter changes places with other marks when Python upper-cases it: old Greek with
# further accents is left out.
TEXTS = st.text().filter(lambda text: "\u0345" not in unicodedata.normalize("NFD", text))


@settings(deadline=None)
@given(TEXTS)
def test_case_and_unicode_form_make_no_difference(text: str) -> None:
    spellings = [text.upper(), text.lower(), text.casefold(), text.title(), f" {text}\t"]
    spellings += [unicodedata.normalize(form, text) for form in ("NFC", "NFD")]
    assert {folded(spelling) for spelling in spellings} == {folded(text)}
    assert folded(folded(text)) == folded(text)


@pytest.mark.parametrize(
    ("one", "other"),
    [("gold", "GOLD"), ("Straße", "STRASSE"), ("ıstanbul", "ISTANBUL"), ("ΟΔΟΣ", "οδος"), ("é", "e\u0301"), ("ſ", "S")],
)
def test_spellings_that_are_one(one: str, other: str) -> None:
    assert folded(one) == folded(other)


@pytest.mark.parametrize(("one", "other"), [("BTC/USD", "BTC-USD"), ("e", "é"), ("O", "0"), ("A B", "AB")])
def test_spellings_that_are_not_one(one: str, other: str) -> None:
    assert folded(one) != folded(other)


def test_half_a_character_matches_no_name() -> None:
    assert folded("GO\ud83dLD").encode() != folded("GOLD").encode()
    assert contract_key("0x\udc00").encode() != b"0x"


def test_only_a_known_exchange_stands_in_front_of_a_name() -> None:
    assert qualified(folded("VAMM:Gold")) == ("perp", "gold")
    assert qualified(folded("index:usd.all: x")) == ("index", "usd.all: x")
    assert qualified(folded("NYSE:GOLD")) == (None, "nyse:gold")
    assert qualified("vamm") == (None, "vamm")


def test_hexadecimal_addresses_have_no_case_and_others_do() -> None:
    assert contract_key(" 0XabCD ") == contract_key("0xABcd") == "0xabcd"
    assert contract_key("So11111111111111111111111111111111111111112").startswith("So")


def test_the_words_of_a_text() -> None:
    assert words_in("  Gold-Futures (Gold), 24_7 Ünze ") == ["gold", "futures", "24", "7", "ünze"]
    assert words_in("—/:") == []
