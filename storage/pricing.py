"""Pure: which column of a file is which field of the price of a card, guessed from names and types, as SQL."""

import re
from collections.abc import Sequence

from storage.errors import BadRequest
from storage.mapping import Choice, Shape, Times, literal, time_of, value_of, whole
from storage.variants import CONDITIONS, LANGUAGES

# What others call the fields, best first; compared without case and underscores.
NAMES: dict[str, tuple[str, ...]] = {
    "time": (
        *("time", "timestamp", "ts", "tsms", "tsus", "datetime", "scrapedat", "generatedat", "updatedat"),
        *("snapshotdate", "pricedate", "date", "month"),
    ),
    "card_id": ("cardid", "productid", "tcgplayerid", "uuid", "id"),
    "marketplace": ("marketplace", "marketplaceid", "vendor"),
    "condition": ("condition",),
    "is_foil": ("isfoil", "foil", "finish", "printing"),
    "language": ("language", "lang"),
    "currency": ("currency",),
    "price": ("price", "marketprice", "pricemarket", "avgprice", "averageprice", "avg", "average"),
    "price_low": ("pricelow", "lowprice", "lowestprice", "minprice", "low"),
    "price_mid": ("pricemid", "midprice", "medianprice", "median"),
    "price_high": ("pricehigh", "highprice", "maxprice", "high"),
    "price_market": ("pricemarket", "marketprice", "market"),
    "num_listings": ("numlistings", "listings", "listingscount", "listingcount"),
    "total_quantity": ("totalquantity", "quantity"),
    "removed": ("removed",),
}
NEEDED = ("time", "card_id", "marketplace", "price")
FINISHES = {
    True: ("true", "1", "foil", "holo", "holofoil", "reverse holofoil", "etched"),
    False: ("false", "0", "nonfoil", "non-foil", "normal"),
}
SHORT = {"M": "MINT", "NM": "NEAR_MINT", "LP": "LIGHTLY_PLAYED", "MP": "MODERATELY_PLAYED"}
SHORT |= {"HP": "HEAVILY_PLAYED", "DMG": "DAMAGED"}


def looks_like(file: Shape) -> bool:
    """Whether a file says by the names of its columns that it is one of prices of cards."""
    plain = _plain(file)
    return "cardid" in plain and "price" in plain and ("marketplace" in plain or "marketplaceid" in plain)


def chosen(file: Shape, given: Sequence[tuple[str, str]], times: Times) -> list[Choice]:
    """The fields that a file has. `given`: (column or SQL expression, field) pairs that were asked for.

    Raises BadRequest where a field that is needed cannot be found.
    """
    asked: dict[str, str] = {}
    for source, field in given:
        if field not in NAMES:
            raise BadRequest(f"--map {source}={field}: expected a field of a price ({', '.join(NAMES)}), got {field!r}")
        asked[field] = source
    plain = _plain(file)
    found: list[Choice] = []
    for field, names in NAMES.items():
        columns = (plain[name] for name in names if name in plain)
        guess = next((column for column in columns if _may_be(field, file.columns[column])), None)
        read_from = asked.get(field, guess)
        if read_from is not None:
            found.append(_choice(field, read_from, file, times))
        elif field in NEEDED:
            example = "\"'tcgplayer'=marketplace\"" if field == "marketplace" else f"COLUMN={field}"
            raise BadRequest(
                f"no column looks like the {field}: say which with --map {example}; there are {', '.join(file.columns)}"
            )
    return found


def _plain(file: Shape) -> dict[str, str]:
    """The columns by their names without case and underscores."""
    return {re.sub(r"[_\s-]", "", name).lower(): name for name in reversed(list(file.columns))}


def _may_be(field: str, kind: str) -> bool:
    """Whether a column of this type can be meant: many a file has prices of foils in a column of that name."""
    return field != "is_foil" or kind in ("BOOLEAN", "VARCHAR")


def _choice(field: str, source: str, file: Shape, times: Times) -> Choice:
    if field == "time":
        return time_of(field, source, file, times)
    if field in ("num_listings", "total_quantity"):
        return whole(field, source, file)
    found = value_of(field, source, file)
    text = f"CAST({found.sql} AS VARCHAR)"
    sql = found.sql
    match field:
        case "condition":
            sql = _condition(text)
        case "language":
            sql = _language(text)
        case "is_foil":
            sql = _finish(text)
        case "card_id" | "marketplace":
            sql = text
    return Choice(field, sql, source, found.problem)


# What is not known stays as it is, and is refused by name.


def _condition(text: str) -> str:
    known = {**SHORT, **{name: name for name in CONDITIONS}}
    return _translated(f"replace(upper(trim({text})), ' ', '_')", known, text)


def _language(text: str) -> str:
    known = {code: name for name, code in LANGUAGES.items()} | {name.lower(): name for name in LANGUAGES}
    return _translated(f"lower(trim({text}))", known, text)


def _finish(text: str) -> str:
    known = {name: str(is_foil).lower() for is_foil, names in FINISHES.items() for name in names}
    return _translated(f"lower(trim({text}))", known, text)


def _translated(word: str, known: dict[str, str], otherwise: str) -> str:
    whens = " ".join(f"WHEN {literal(said)} THEN {literal(meant)}" for said, meant in known.items())
    return f"CASE {word} {whens} ELSE {otherwise} END"
