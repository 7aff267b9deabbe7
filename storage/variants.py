"""Pure: what tells the prices of a card apart, and the name of the market that each variant is."""

import re
from typing import NamedTuple

CONDITIONS = ("MINT", "NEAR_MINT", "LIGHTLY_PLAYED", "MODERATELY_PLAYED", "HEAVILY_PLAYED", "DAMAGED")
LANGUAGES = {
    "English": "en",
    "Japanese": "ja",
    "German": "de",
    "French": "fr",
    "Italian": "it",
    "Spanish": "es",
    "Portuguese": "pt",
    "Korean": "ko",
    "Chinese Simplified": "zhs",
    "Chinese Traditional": "zht",
    "Russian": "ru",
    "Phyrexian": "ph",
}
FINISHES = {False: "nonfoil", True: "foil"}
CURRENCY = re.compile("[A-Z]{3}")
LONGEST_CARD, LONGEST_MARKETPLACE = 40, 20  # characters; so the longest symbol of a variant has 100
PREFIX = "CARD:"

# Currencies whose prices have not two decimals (ISO 4217).
_WHOLE = frozenset(
    ("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "UYI", "VND", "VUV", "XAF")
) | {"XOF", "XPF"}
_FINER = frozenset(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"))

_LANGUAGE_OF = {code: name for name, code in LANGUAGES.items()}
_IS_FOIL = {name: is_foil for is_foil, name in FINISHES.items()}


class Variant(NamedTuple):
    """One card as it is sold in one place: what a market of kind `card` is about."""

    card_id: str
    marketplace: str
    condition: str = "NEAR_MINT"  # of CONDITIONS
    is_foil: bool = False
    language: str = "English"  # of LANGUAGES
    currency: str = "USD"

    @property
    def symbol(self) -> str:
        """The name of its market."""
        finish, language = FINISHES[self.is_foil], LANGUAGES[self.language]
        return f"{PREFIX}{self.card_id}.{self.marketplace}.{self.condition}.{finish}.{language}.{self.currency}"

    @property
    def described(self) -> str:
        """All but the card, for people to read."""
        condition = self.condition.replace("_", " ").title()
        return f"{condition}{' foil' if self.is_foil else ''}, {self.language}, {self.marketplace}, {self.currency}"


def variant_of(symbol: str) -> Variant | None:
    """The variant that a symbol names, in any case; None where it names none."""
    if symbol[: len(PREFIX)].upper() != PREFIX:
        return None
    parts = symbol[len(PREFIX) :].rsplit(".", 5)  # a card may have points in its id
    if len(parts) != 6:
        return None
    card_id, marketplace, condition, finish, language, currency = parts
    is_foil, spoken = _IS_FOIL.get(finish.lower()), _LANGUAGE_OF.get(language.lower())
    condition, currency = condition.upper(), currency.upper()
    if is_foil is None or spoken is None or condition not in CONDITIONS or not CURRENCY.fullmatch(currency):
        return None
    if why_no_card(card_id) or why_no_marketplace(marketplace):
        return None
    return Variant(card_id, marketplace, condition, is_foil, spoken, currency)


def why_no_card(name: str) -> str:
    """What the id of a card is expected to be, where this text cannot be one; else empty."""
    return "" if _is_name(name, LONGEST_CARD) else f"1 to {LONGEST_CARD} {_NAMES}"


def why_no_marketplace(name: str) -> str:
    """As `why_no_card`, of a marketplace."""
    good = _is_name(name, LONGEST_MARKETPLACE) and "." not in name
    return "" if good else f"1 to {LONGEST_MARKETPLACE} {_NAMES}, nor a point"


_NAMES = "printable characters without blanks around them or a comma"


def _is_name(name: str, longest: int) -> bool:
    return 0 < len(name) <= longest and name.isprintable() and name == name.strip() and "," not in name


def pricescale(currency: str) -> int:
    """What a price is shown in: 100 are hundredths."""
    return 1 if currency in _WHOLE else 1000 if currency in _FINER else 100
