"""Which column of a file is which field of the price of a card."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from storage.errors import BadRequest
from storage.files import File
from storage.lined import LINE, PROBLEM
from storage.mapping import Times
from storage.pricing import chosen
from storage.variants import CONDITIONS, LANGUAGES

NEEDED = "time,card_id,marketplace,price"
ROW = "2024-05-01T12:00:00Z,007,tcgplayer,1.5"


def read(path: Path, given: Sequence[tuple[str, str]] = (), times: Times | None = None) -> list[dict[str, Any]]:
    with File(path) as file:
        batches = list(file.read(chosen(file, given, times or Times()), "", 0, 1000))
    rows = [row for batch in batches for row in batch.to_pylist()]
    assert [(row.pop(LINE), row.pop(PROBLEM)) for row in rows] == [(n, None) for n in range(2, len(rows) + 2)]
    return rows


def csv(folder: Path, *lines: str) -> Path:
    path = folder / "prices.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def with_column(folder: Path, name: str, *values: str) -> list[Any]:
    """What becomes of a column, by the one field more that there is."""
    rows = read(csv(folder, f"{NEEDED},{name}", *(f"{ROW},{value}" for value in values)))
    (field,) = set(rows[0]) - set(NEEDED.split(","))
    return [row[field] for row in rows]


def test_the_names_that_ingest_has_are_taken_with_every_digit(tmp_path: Path) -> None:
    names = f"{NEEDED},condition,is_foil,language,currency,price_low,price_mid,price_high,price_market,num_listings"
    row = f"{ROW},MINT,true,German,EUR,0.123456789012345678,2,3,4.10,5"
    (said,) = read(csv(tmp_path, f"{names},total_quantity", f"{row},6"))
    assert said.pop("time").isoformat() == "2024-05-01T12:00:00"
    assert {name: str(value) for name, value in said.items()} == {
        "card_id": "007",
        "marketplace": "tcgplayer",
        "condition": "MINT",
        "is_foil": "true",
        "language": "German",
        "currency": "EUR",
        "price": "1.5",
        "price_low": "0.123456789012345678",
        "price_mid": "2",
        "price_high": "3",
        "price_market": "4.10",
        "num_listings": "5",
        "total_quantity": "6",
    }


def test_names_that_price_lists_have_are_known(tmp_path: Path) -> None:
    (said,) = read(
        csv(
            tmp_path,
            "scrapedAt,productId,vendor,marketPrice,lowestPrice,medianPrice,listingsCount,foil",
            "2024-05-01 12:00:00,7,m,3.5,2.5,3,9,17.5",
        )
    )
    assert said.pop("time").isoformat() == "2024-05-01T12:00:00"
    assert {name: str(value) for name, value in said.items()} == {
        "card_id": "7",
        "marketplace": "m",
        "price": "3.5",
        "price_low": "2.5",
        "price_mid": "3",
        "price_market": "3.5",
        "num_listings": "9",
    }, "a number called foil is a price"


def test_conditions_and_languages_are_known_by_the_names_that_people_give_them(tmp_path: Path) -> None:
    usual = [name.replace("_", " ").title() for name in CONDITIONS]
    assert with_column(tmp_path, "condition", *usual, "nm", "DMG", "Unopened") == [
        *CONDITIONS,
        "NEAR_MINT",
        "DAMAGED",
        "Unopened",
    ]
    spoken = [*LANGUAGES.values(), *LANGUAGES, "elvish"]
    assert with_column(tmp_path, "lang", *spoken) == [*LANGUAGES, *LANGUAGES, "elvish"]


def test_finishes_are_known_by_the_names_that_shops_give_them(tmp_path: Path) -> None:
    words = ["Normal", "Holofoil", "Reverse Holofoil", "nonfoil", "Etched", "golden"]
    assert with_column(tmp_path, "printing", *words) == ["false", "true", "true", "false", "true", "golden"]
    assert with_column(tmp_path, "foil", "true", "false") == ["true", "false"]


def test_fields_may_be_worked_out(tmp_path: Path) -> None:
    path = csv(tmp_path, "day,set,nr,holo,cost", "2024-05-01,sv1,007,1,3")
    given = [
        ("day", "time"),
        ("set || '-' || nr", "card_id"),
        ("'shop'", "marketplace"),
        ("cost / 2", "price"),
        ("holo = 1", "is_foil"),
        ("'JPY'", "currency"),
    ]
    (said,) = read(path, given, Times(zone="Asia/Tokyo"))
    assert said.pop("time").isoformat() == "2024-04-30T15:00:00"
    assert said == {
        "card_id": "sv1-007",
        "marketplace": "shop",
        "price": 1.5,
        "is_foil": "true",
        "currency": "JPY",
    }


@pytest.mark.parametrize(
    ("header", "given", "why"),
    [
        ("time,card_id,marketplace", [], "no column looks like the price: say which with --map COLUMN=price"),
        ("time,card_id,price", [], "no column looks like the marketplace: say which with --map \"'tcgplayer'=market"),
        (NEEDED, [("price", "size")], "--map price=size: expected a field of a price (time, card_id, "),
    ],
)
def test_what_is_missing_or_misnamed_is_said(
    tmp_path: Path, header: str, given: Sequence[tuple[str, str]], why: str
) -> None:
    row = ",".join(dict(zip(NEEDED.split(","), ROW.split(","), strict=True))[name] for name in header.split(","))
    with pytest.raises(BadRequest) as refused:
        read(csv(tmp_path, header, row), given)
    assert str(refused.value).startswith(why)
