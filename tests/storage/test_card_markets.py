"""Variants of cards as markets: registered all at once, and with them their cards and marketplaces."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from storage import markets
from storage.errors import BadRequest
from storage.state import State
from storage.variants import Variant


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with State.open(tmp_path / "state.db") as opened:
        yield opened


FOIL = Variant("sv3.5-1", "tcgplayer", is_foil=True)
YEN = Variant("sv3.5-1", "Suruga-ya", language="Japanese", currency="JPY")


def ids(state: State, table: str) -> list[str]:
    with state.reading() as db:
        return [name for (name,) in db.execute(f"SELECT id FROM {table} ORDER BY key")]


def test_variants_become_markets_with_all_that_their_names_say(state: State) -> None:
    known = markets.put(state, {"market_symbol": "GOLD", "market_id": 2}, lambda _: False)
    foil, again, yen, none = markets.found_or_created(
        state, [FOIL.symbol, FOIL.symbol.lower(), YEN.symbol, "CARD:1.x"], "card"
    )
    assert foil is not None
    assert yen is not None
    assert again == foil
    assert none is None
    assert (foil.kind, foil.type, foil.exchange, foil.pricescale) == ("card", "card", "CARDS", 100)
    assert (foil.market_symbol, foil.base_asset, foil.quote_asset) == (FOIL.symbol, "sv3.5-1", "USD")
    assert foil.name == "sv3.5-1 (Near Mint foil, English, tcgplayer, USD)"
    assert (yen.pricescale, yen.quote_asset) == (1, "JPY")
    assert len({known.market_id, foil.market_id, yen.market_id}) == len({known.slot, foil.slot, yen.slot}) == 3
    assert markets.found_or_created(state, [YEN.symbol, FOIL.symbol], "card") == [yen, foil]
    assert markets.found(state, [FOIL.symbol, foil.market_id, yen.market_id]) == [foil, foil, yen]
    assert ids(state, "cards") == ["sv3.5-1"]
    assert ids(state, "marketplaces") == ["Suruga-ya", "tcgplayer"]
    assert tuple(markets.count(state)) == (3, 3)


def test_variants_are_found_by_what_people_type(state: State) -> None:
    foil, yen = markets.found_or_created(state, [FOIL.symbol, YEN.symbol], "card")
    assert markets.search(state, "sv3") == [foil, yen]
    assert markets.search(state, "sv3 foil tcgplayer", type="card") == [foil]
    assert markets.search(state, "japanese suruga") == [yen]
    assert markets.search(state, FOIL.symbol.lower())[0] == foil
    assert markets.search(state, f"CARDS:{YEN.symbol}")[0] == yen


def test_names_that_are_taken_are_left_to_whose_they_are(state: State) -> None:
    taken = markets.put(state, {"market_symbol": f"CARDS:{YEN.symbol}", "kind": "spot"}, lambda _: False)
    foil, yen = markets.found_or_created(state, [FOIL.symbol, YEN.symbol], "card")
    assert foil is not None
    assert yen is None
    assert markets.by_symbol(state, f"CARDS:{YEN.symbol}") == taken


def test_no_other_kind_of_market_takes_the_name_of_a_variant(state: State) -> None:
    with pytest.raises(BadRequest, match=r"kind: expected card for 'CARD:sv3\.5-1\.tcgplayer"):
        markets.put(state, {"market_symbol": FOIL.symbol, "kind": "spot"}, lambda _: False)
    assert markets.found_or_created(state, [FOIL.symbol], "spot") == [None]
    made = markets.put(state, {"market_symbol": FOIL.symbol.lower(), "kind": "card"}, lambda _: False)
    assert markets.found_or_created(state, [FOIL.symbol], "card") == [made]


def test_many_variants_are_registered_in_one_go(state: State) -> None:
    many = [Variant(f"set-{i // 2}", "tcgplayer", is_foil=bool(i % 2)).symbol for i in range(3000)]
    markets.put(state, {"market_symbol": "GOLD", "market_id": 1500}, lambda _: False)
    found = [market for market in markets.found_or_created(state, many, "card") if market]
    assert [market.market_symbol for market in found] == many
    assert [market.slot for market in found] == list(range(2, 3002))
    assert [market.market_id for market in found] == list(range(1501, 4501))
    assert markets.by_slots(state, range(2, 3002)) == found
    assert len(ids(state, "cards")) == 1500
