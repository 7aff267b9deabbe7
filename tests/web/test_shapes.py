from typing import Annotated, Any, Literal

import pytest
from msgspec import Meta, Struct, field
from msgspec.structs import fields

from storage.errors import BadRequest
from web import ingest, lightweight, markets, messages, quotes, symbols, udf
from web.shapes import parsed, shown


class Shape(Struct, frozen=True):
    start: int = field(default=0, name="from")
    name: str = ""
    short: Annotated[str, Meta(max_length=3)] = ""
    some: Annotated[str, Meta(min_length=1)] = "x"
    at: Annotated[int, Meta(ge=0)] = 0
    kind: Literal["card", "perp", "spot"] | None = None
    share: float = 0.0
    whether: bool = False
    either: int | str = 0


class Strict(Struct, frozen=True, forbid_unknown_fields=True):
    time: int
    text: str = ""


@pytest.mark.parametrize("name", ["other", "x-y", "a `b` c", "", "a\nb"])
def test_a_field_that_there_is_not_is_named_with_those_that_there_are(name: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parsed({"time": 1, name: 2}, Strict, texts=False)
    assert str(refused.value) == f"{name}: there is no such field; there are time, text"


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"from": "x"}, "from: expected an integer, got 'x'"),
        ({"from": 0.5}, "from: expected an integer, got 0.5"),
        ({"name": None}, "name: expected a text, got null"),
        ({"short": "long"}, "short: expected a text of at most 3 characters, got 'long'"),
        ({"some": ""}, "some: expected a text that is not empty, got ''"),
        ({"at": -1}, "at: expected an integer, at least 0, got -1"),
        ({"kind": "x"}, "kind: expected card, perp or spot, got 'x'"),
        ({"kind": ["card"]}, 'kind: expected card, perp or spot, got ["card"]'),
        ({"share": "half"}, "share: expected a number, got 'half'"),
        ({"whether": 7}, "whether: expected true or false, got 7"),
        ({"either": []}, "either: expected an integer or a text, got []"),
    ],
)
def test_a_fault_names_the_field_what_was_expected_and_what_was_found(found: dict[str, Any], said: str) -> None:
    for texts in (True, False):
        with pytest.raises(BadRequest) as fault:
            parsed(found, Shape, texts=texts)
        assert str(fault.value) == said


def test_a_text_may_stand_for_a_number_only_where_all_is_text() -> None:
    assert parsed({"from": "17"}, Shape).start == 17
    with pytest.raises(BadRequest, match="from: expected an integer, got '17'"):
        parsed({"from": "17"}, Shape, texts=False)


def test_a_long_value_is_cut() -> None:
    assert len(shown("x" * 1000)) == len(shown(["x"] * 1000)) == 100


@pytest.mark.parametrize(
    "shape",
    [
        ingest.IngestQuery,
        markets.ListQuery,
        messages.SubscribeBars,
        messages.UnsubscribeBars,
        udf.HistoryQuery,
        lightweight.BarsQuery,
        lightweight.MarketsQuery,
        quotes.QuotesQuery,
        symbols.GroupQuery,
        symbols.SearchQuery,
        symbols.SymbolQuery,
    ],
)
def test_every_field_that_somebody_may_send_has_words(shape: type[Struct]) -> None:
    needed: dict[str, Any] = {one.encode_name: "1" for one in fields(shape) if one.required}
    for name in set(shape.__struct_encode_fields__) - {"resume"}:  # which may be anything
        with pytest.raises(BadRequest, match=rf"^{name}: expected [^`]+, got \{{\}}$"):
            parsed({**needed, name: {}}, shape)
