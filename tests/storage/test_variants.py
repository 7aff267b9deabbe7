"""What a variant of a card is called, and what its name says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.variants import CONDITIONS, LANGUAGES, Variant, pricescale, variant_of

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40).filter(
    lambda text: text.isprintable() and text == text.strip() and "," not in text
)
variants = st.builds(
    Variant,
    names,
    names.filter(lambda text: "." not in text and len(text) <= 20),
    st.sampled_from(CONDITIONS),
    st.booleans(),
    st.sampled_from(list(LANGUAGES)),
    st.sampled_from(["USD", "EUR", "JPY"]),
)


def test_a_variant_is_called_as_promised() -> None:
    assert Variant("123", "tcgplayer", is_foil=True).symbol == "CARD:123.tcgplayer.NEAR_MINT.foil.en.USD"
    whole = Variant("sv3.5-1", "cardmarket", "DAMAGED", False, "Chinese Traditional", "EUR")
    assert whole.symbol == "CARD:sv3.5-1.cardmarket.DAMAGED.nonfoil.zht.EUR"
    assert whole.described == "Damaged, Chinese Traditional, cardmarket, EUR"


@given(variants)
def test_a_name_says_what_it_is_the_name_of(variant: Variant) -> None:
    assert variant_of(variant.symbol) == variant


def test_a_name_may_be_written_in_any_case() -> None:
    assert variant_of("card:Ab.tcg.near_mint.FOIL.ZHS.eur") == Variant(
        "Ab", "tcg", "NEAR_MINT", True, "Chinese Simplified", "EUR"
    )


@pytest.mark.parametrize(
    "symbol",
    [
        "GOLD",
        "CARD:1",
        "CARD:.tcgplayer.MINT.foil.en.USD",
        "CARD:1..MINT.foil.en.USD",
        "CARD:1.tcgplayer.NEW.foil.en.USD",
        "CARD:1.tcgplayer.MINT.shiny.en.USD",
        "CARD:1.tcgplayer.MINT.foil.xx.USD",
        "CARD:1.tcgplayer.MINT.foil.en.DOLLAR",
        f"CARD:{'x' * 41}.tcgplayer.MINT.foil.en.USD",
        f"CARD:1.{'x' * 21}.MINT.foil.en.USD",
        "CARD: 1.tcgplayer.MINT.foil.en.USD",
    ],
)
def test_other_names_are_of_no_variant(symbol: str) -> None:
    assert variant_of(symbol) is None


def test_the_longest_name_is_one_that_a_market_may_have() -> None:
    longest = Variant("x" * 40, "y" * 20, "MODERATELY_PLAYED", False, "Chinese Traditional", "USD")
    assert len(longest.symbol) == 100
    assert variant_of(longest.symbol) == longest


@pytest.mark.parametrize(("currency", "scale"), [("USD", 100), ("BRL", 100), ("JPY", 1), ("KWD", 1000)])
def test_prices_are_shown_in_what_a_currency_is_divided_into(currency: str, scale: int) -> None:
    assert pricescale(currency) == scale
