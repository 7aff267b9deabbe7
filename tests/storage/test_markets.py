"""The market registry, against an obvious one that keeps a list and looks at all of it."""

import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import markets, search
from storage.errors import BadRequest, Conflict, UnknownMarket
from storage.markets import Counts
from storage.names import Reference, folded
from storage.ordering import Wanted
from storage.records import EXCHANGES, KINDS, Kind, Market, shown
from storage.search import NOBODY, Busy
from storage.state import State

GOLD: dict[str, object] = {
    "market_id": 1,
    "market_symbol": "GOLD",
    "kind": "perp",
    "contract_address": "0x1234...",
    "chain_id": 8453,
    "vault_address": "0x5678...",
    "oracle_address": "0x9abc...",
    "name": "Gold Futures",
    "description": "Trade gold price movements",
    "category": "Commodities",
    "base_asset": "GOLD",
    "quote_asset": "USD",
    "min_trade_size": "100",
    "max_leverage": "50",
    "trading_fee_rate": "0.003",
    "funding_interval": 3600,
    "is_active": True,
    "created_timestamp": 1_704_067_200_000,
    "deployment_block": 12345678,
    "creator_address": "0xabcd...",
    "icon_url": "https://example.com/gold.png",
    "banner_url": "https://example.com/gold-banner.png",
    "website_url": "https://goldmarket.com",
    "tier": "tier1",
    "supply": "50000",
    "price_source": ["mark"],
    "session": "24x7",
    "timezone": "Etc/UTC",
    "pricescale": 1000000,
    "minmov": 1,
}


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with State.open(tmp_path / "state.db") as opened:
        yield opened


def quiet(_: int) -> bool:
    return False


def busy(_: int) -> bool:
    return True


def put(state: State, symbol: str, **fields: object) -> Market:
    return markets.put(state, {"market_symbol": symbol, **fields}, quiet)


def symbols(found: Sequence[Market]) -> list[str]:
    return [market.market_symbol for market in found]


# --- registering


def test_every_column_comes_back_as_it_was_sent(state: State) -> None:
    assert shown(markets.put(state, GOLD, quiet)) == GOLD
    found = markets.by_symbol(state, "GOLD")
    assert found is not None
    assert shown(found) == GOLD


def test_a_market_that_says_only_its_name_gets_the_defaults(state: State) -> None:
    market = put(state, "BTC")
    assert (market.slot, market.market_id, market.kind, market.price_source) == (1, 1, "perp", ("mark",))
    assert (market.session, market.timezone, market.pricescale, market.minmov) == ("24x7", "Etc/UTC", 1_000_000, 1)
    assert market.is_active
    assert market.created_timestamp > 1_700_000_000_000_000
    assert [market.min_trade_size, market.tier, market.supply, market.chain_id] == [None] * 4
    assert put(state, "EUR/USD", kind="spot").price_source == ("trade",)


def test_sending_a_market_again_changes_nothing_and_a_field_alone_changes_that_field(state: State) -> None:
    first = markets.put(state, GOLD, quiet)
    assert markets.put(state, GOLD, busy) == first
    changed = markets.put(state, {"market_symbol": "GOLD", "name": "Gold"}, busy)
    assert changed.name == "Gold"
    assert shown(changed) == {**GOLD, "name": "Gold"}
    assert markets.count(state) == Counts(1, 1)


def test_null_asks_for_the_default(state: State) -> None:
    markets.put(state, GOLD, quiet)
    wiped = markets.patch(state, "GOLD", dict.fromkeys(set(GOLD) - {"market_symbol"}), quiet)
    assert [wiped.name, wiped.tier, wiped.supply, wiped.chain_id] == [None] * 4
    assert (wiped.market_id, wiped.kind, wiped.created_timestamp) == (1, "perp", 1_704_067_200_000_000)
    assert wiped.price_source == ("mark",)
    assert wiped.pricescale == 1_000_000


@pytest.mark.parametrize(
    ("field", "given", "kept"),
    [
        ("min_trade_size", 0.1, "0.1"),
        ("min_trade_size", 1e-18, "0.000000000000000001"),
        ("max_leverage", 100, "100"),
        ("supply", "00012.3400", "12.34"),
        ("supply", "1e3", "1000"),
        ("trading_fee_rate", "0.0", "0"),
        ("supply", "12345678901234567890.123456789012345678", "12345678901234567890.123456789012345678"),
        ("market_id", "18446744073709551615", 2**64 - 1),
        ("chain_id", 8453.0, 8453),
        ("is_active", 0, False),
        ("price_source", "trade", ("trade",)),
        ("price_source", ["trade", "mark", "trade"], ("mark", "trade")),
        ("created_timestamp", "2024-01-01T02:00:00.0019+02:00", 1_704_067_200_001_000),
        ("created_timestamp", "1704067200000", 1_704_067_200_000_000),
        ("description", "two\nlines", "two\nlines"),
        ("session", "0930-1600", "0930-1600"),
    ],
)
def test_what_is_accepted_and_how_it_is_kept(state: State, field: str, given: object, kept: object) -> None:
    assert getattr(put(state, "M", **{field: given}), field) == kept
    found = markets.by_symbol(state, "M")
    assert found is not None
    assert getattr(found, field) == kept


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("market_symbol", "", "market_symbol: expected 1 to 100 printable characters"),
        ("market_symbol", "x" * 101, "market_symbol: expected 1 to 100"),
        ("market_symbol", " GOLD", "market_symbol: expected .* without blanks around them, got ' GOLD'"),
        ("market_symbol", "GO\nLD", r"market_symbol: expected .* printable .*, got 'GO\\nLD'"),
        ("market_symbol", "A,B", "market_symbol: expected .* without a comma"),
        ("market_symbol", "..", "market_symbol: expected"),
        ("market_symbol", 5, "market_symbol: expected .*, got 5"),
        ("market_symbol", None, "market_symbol: needed"),
        ("market_id", -1, "market_id: expected an integer from 0 to 18446744073709551615, got -1"),
        ("market_id", 2**64, "market_id: expected an integer"),
        ("market_id", True, "market_id: expected an integer .*, got True"),
        ("chain_id", 1.5, "chain_id: expected an integer .*, got 1.5"),
        ("kind", "future", "kind: expected one of perp, spot, card, index, got 'future'"),
        ("kind", ["perp"], "kind: expected one of"),
        ("min_trade_size", -3, "min_trade_size: expected a decimal number ≥ 0 .*, got -3"),
        ("min_trade_size", "1,5", "min_trade_size: expected a decimal number"),
        ("min_trade_size", float("nan"), "min_trade_size: expected a decimal number .*, got nan"),
        ("supply", "0.0000000000000000001", "supply: expected a decimal number"),
        ("supply", 1e20, "supply: expected a decimal number"),
        ("supply", True, "supply: expected a decimal number"),
        ("max_leverage", "1e9999", "max_leverage: expected a decimal number"),
        ("tier", "gold", "tier: expected one of tier1, tier2, tier3, tier4"),
        ("is_active", "yes", "is_active: expected true or false, got 'yes'"),
        ("price_source", [], "price_source: expected one or more of mark, index"),
        ("price_source", ["mark", "last"], "price_source: expected one or more of"),
        ("price_source", [["mark"]], "price_source: expected one or more of"),
        ("created_timestamp", 1_704_067_200, "created_timestamp: expected milliseconds since 1970"),
        ("created_timestamp", 1_704_067_200_000_000_000, "created_timestamp: expected milliseconds since 1970"),
        ("created_timestamp", "2024-01-01T00:00:00", "created_timestamp: .* with its zone"),
        ("created_timestamp", "soon", "created_timestamp: .*, got 'soon'"),
        ("icon_url", "javascript:alert(1)", "icon_url: expected an address that begins with http"),
        ("website_url", "https://a b", "website_url: expected an address"),
        ("contract_address", "", "contract_address: expected an address of 1 to 128"),
        ("name", "a\0b", "name: expected a text of at most 200 characters"),
        ("description", "x" * 2001, "description: expected a text of at most 2000 characters"),
        ("description", "\ud800", "description: expected a text"),
        ("pricescale", 0, "pricescale: expected an integer from 1"),
        ("minmov", 0, "minmov: expected an integer from 1"),
        ("timezone", "Mars/Olympus", "Mars/Olympus"),
        ("session", "always", "always"),
        ("prize", 1, "prize: a market has no such field; it has market_id, market_symbol"),
        ("slot", 1, "slot: a market has no such field"),
    ],
)
def test_what_is_refused_and_how_it_is_said(state: State, field: str, value: object, complaint: str) -> None:
    with pytest.raises(BadRequest, match=complaint):
        markets.put(state, {"market_symbol": "M", field: value}, quiet)
    assert markets.count(state) == Counts(0, 0)


def test_of_many_all_are_registered_or_none(state: State) -> None:
    with pytest.raises(Conflict):
        markets.put_all(state, [{"market_symbol": s} for s in ("A", "B", "a")], quiet)
    assert markets.count(state) == Counts(0, 0)
    assert symbols(markets.put_all(state, [{"market_symbol": s} for s in "AB"], quiet)) == ["A", "B"]


# --- names are unique


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"market_symbol": "gold"}, "market_symbol: 'gold' is taken by 'GOLD'"),
        ({"market_symbol": "VAMM:GOLD"}, "market_symbol: 'VAMM:GOLD' would be mistaken for 'VAMM:GOLD'"),
        ({"market_symbol": "vamm:gold", "kind": "spot"}, "'vamm:gold' would be mistaken for 'VAMM:GOLD'"),
        ({"market_symbol": "USD", "kind": "index"}, "'USD' would be mistaken for 'INDEX:INDEX:USD'"),
        ({"market_symbol": "X", "market_id": 1}, "market_id: 1 is taken by 'GOLD'"),
        ({"market_symbol": "X", "chain_id": 8453, "contract_address": "0X1234..."}, "0X1234... on chain 8453 is taken"),
    ],
)
def test_a_name_that_is_taken_is_refused(state: State, fields: dict[str, object], complaint: str) -> None:
    markets.put(state, GOLD, quiet)
    put(state, "INDEX:USD", kind="index")
    with pytest.raises(Conflict, match=re.escape(complaint)):
        markets.put(state, fields, quiet)
    assert markets.count(state).registered == 2


def test_names_that_only_look_taken_are_free(state: State) -> None:
    markets.put(state, GOLD, quiet)
    put(state, "SPOT:GOLD")  # no spot market of this name
    put(state, "X", chain_id=1, contract_address="0x1234...")  # another chain
    put(state, "Y", contract_address="0x1234...")  # no chain at all
    assert markets.count(state).registered == 4
    with pytest.raises(Conflict, match=r"contract_address: 0X1234\.\.\. without a chain is taken by 'Y'"):
        put(state, "Z", contract_address="0X1234...")


def test_a_contract_means_the_market_that_says_so_or_the_only_one_that_can_be_meant(state: State) -> None:
    one = put(state, "ONE", chain_id=1, contract_address="0xA")
    assert [markets.by_contract(state, chain, "0xa") for chain in (1, 2, None)] == [one, None, one]
    two = put(state, "TWO", chain_id=2, contract_address="0xA")
    assert [markets.by_contract(state, chain, "0xa") for chain in (1, 2, 3, None)] == [one, two, None, None]
    anywhere = put(state, "ANYWHERE", contract_address="0xA")
    found = [markets.by_contract(state, chain, "0xa") for chain in (1, 2, 3, None)]
    assert found == [one, two, anywhere, anywhere]


def test_a_name_cannot_be_taken_by_changing_a_market(state: State) -> None:
    markets.put(state, GOLD, quiet)
    put(state, "X", market_id=7, chain_id=8453)
    for change in ({"market_id": 1}, {"contract_address": "0x1234..."}):
        with pytest.raises(Conflict, match="is taken by 'GOLD'"):
            markets.patch(state, "X", change, quiet)
    put(state, "SPOT:X")
    with pytest.raises(Conflict, match="would be mistaken"):
        markets.patch(state, "X", {"kind": "spot"}, quiet)
    with pytest.raises(Conflict, match="'X' keeps its name; register 'x' beside it"):
        markets.patch(state, "X", {"market_symbol": "x"}, quiet)
    assert markets.patch(state, "x", {"market_symbol": "X", "market_id": 9}, quiet).market_id == 9


def test_ids_are_assigned_around_those_that_were_given(state: State) -> None:
    put(state, "A", market_id=2)
    assert put(state, "B").market_id == 3  # its slot's number is taken, so behind the highest
    put(state, "C", market_id=2**64 - 1)
    assert put(state, "D").market_id == 4
    put(state, "E", market_id=2**63 - 1)
    put(state, "F", market_id=7)
    with pytest.raises(Conflict, match="market_id: none can be assigned"):
        put(state, "G")
    assert markets.by_id(state, 2**63 - 1) == markets.by_symbol(state, "E")
    assert markets.by_id(state, 2**64 - 1) == markets.by_symbol(state, "C")
    assert markets.by_id(state, -1) is markets.by_id(state, 2**64) is None


# --- what the first event settles


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"kind": "spot"}, "kind: 'GOLD' has events, so it stays 'perp'"),
        ({"price_source": ["mark", "trade"]}, "price_source: 'GOLD' has events, so it stays mark"),
        ({"session": "0930-1600"}, "session: 'GOLD' has events, so it stays '24x7'"),
        ({"timezone": "America/New_York"}, "timezone: 'GOLD' has events, so it stays 'Etc/UTC'"),
    ],
)
def test_what_candles_hang_on_cannot_change_once_there_are_events(
    state: State, change: Mapping[str, object], complaint: str
) -> None:
    gold = markets.put(state, GOLD, quiet)
    with pytest.raises(Conflict, match=complaint):
        markets.patch(state, "gold", change, lambda slot: slot == gold.slot)
    with pytest.raises(Conflict, match=complaint):
        markets.put(state, {**GOLD, **change}, lambda slot: slot == gold.slot)
    assert markets.by_symbol(state, "GOLD") == gold
    changed = markets.patch(state, "gold", change, quiet)
    assert changed == markets.by_symbol(state, "GOLD") != gold


def test_everything_else_may_change_while_there_are_events(state: State) -> None:
    markets.put(state, GOLD, quiet)
    changes: dict[str, object] = {"name": "Au", "tier": None, "supply": 5, "market_id": 8, "contract_address": "0x9"}
    changed = markets.patch(state, "GOLD", {**changes, "kind": "perp", "session": "24x7"}, busy)
    assert (changed.name, changed.tier, changed.supply, changed.market_id) == ("Au", None, "5", 8)
    assert markets.by_contract(state, 8453, "0x1234...") is None
    assert markets.by_contract(state, 8453, "0X9") == changed


def test_a_market_of_another_kind_takes_that_kinds_price_source(state: State) -> None:
    put(state, "X")
    assert markets.patch(state, "X", {"kind": "spot"}, quiet).price_source == ("trade",)
    assert markets.patch(state, "X", {"kind": "perp", "price_source": "index"}, quiet).price_source == ("index",)


def test_a_session_that_no_calendar_knows_is_refused_also_later(state: State) -> None:
    put(state, "X")
    with pytest.raises(BadRequest, match="Atlantis"):
        markets.patch(state, "X", {"timezone": "Atlantis"}, quiet)


# --- finding


def test_a_market_answers_to_its_symbol_in_any_case_and_with_its_exchange(state: State) -> None:
    gold = markets.put(state, GOLD, quiet)
    pair = put(state, "Straße/€", kind="spot")
    for name in ("GOLD", "gold", " Gold ", "VAMM:GOLD", "vamm:gold", "Vamm: gold"):
        assert markets.by_symbol(state, name) == gold
    for name in ("STRASSE/€", "spot:strasse/€"):
        assert markets.by_symbol(state, name) == pair
    for name in ("", ":", "GOL", "GOLD:", "SPOT:GOLD", "NYSE:GOLD", ":GOLD", "GO\ud800LD", "GOLD\0"):
        assert markets.by_symbol(state, name) is None


def test_many_are_found_at_once_each_under_the_name_it_was_asked_by(state: State) -> None:
    a, b = put(state, "A", market_id=70), put(state, "B", chain_id=1, contract_address="0xAB")
    assert markets.many(state, ["a", "VAMM:B", "C", "A"]) == {"a": a, "VAMM:B": b, "A": a}
    assert markets.found(state, [(1, "0xab"), "nope", 70, (2, "0xab"), (-1, "0xab"), 7]) == [
        b,
        None,
        a,
        None,
        None,
        None,
    ]
    assert markets.by_slots(state, [b.slot, 99, a.slot]) == [b, a]


def test_what_is_missing_can_be_registered_by_its_reference_alone(state: State) -> None:
    known = put(state, "KNOWN")
    references: list[Reference] = ["known", "new", (5, "0xAB"), (6, "0xab"), 77, "bad,name", "NEW", (5, "0xab")]
    found = markets.found_or_created(state, references, "spot")
    assert [market and (market.market_symbol, market.kind) for market in found] == [
        ("KNOWN", "perp"),
        ("new", "spot"),
        ("0xAB", "spot"),
        ("6:0xab", "spot"),
        None,
        None,
        ("new", "spot"),
        ("0xAB", "spot"),
    ]
    assert found[0] == known
    assert markets.found(state, references) == found


def test_a_deactivated_market_leaves_the_lists_and_still_answers(state: State) -> None:
    markets.put(state, GOLD, quiet)
    put(state, "SILVER")
    gone = markets.deactivate(state, "gold")
    assert not gone.is_active
    assert markets.deactivate(state, "gold") == gone
    assert markets.count(state) == Counts(2, 1)
    assert markets.by_symbol(state, "GOLD") == gone
    assert [symbols(markets.search(state, q)) for q in ("gold", "gol", "fut", "", "o")] == [[], [], [], ["SILVER"], []]
    assert symbols(markets.page(state)) == ["GOLD", "SILVER"]
    markets.patch(state, "GOLD", {"is_active": True}, busy)
    assert markets.count(state) == Counts(2, 2)
    assert symbols(markets.search(state, "fut")) == ["GOLD"]
    with pytest.raises(UnknownMarket, match="no market named 'GLOD'"):
        markets.deactivate(state, "GLOD")


def test_pages_follow_each_other_without_gap_or_repeat(state: State) -> None:
    markets.put_all(state, [{"market_symbol": f"M{i}", "kind": KINDS[i % 4]} for i in range(25)], quiet)
    seen: list[Market] = []
    while more := markets.page(state, seen[-1].slot if seen else 0, 10):
        seen += more
    assert symbols(seen) == [f"M{i}" for i in range(25)]
    assert symbols(markets.page(state, 3, 3, "m1")) == ["M10", "M11", "M12"]
    assert symbols(markets.page(state, 0, 3, "", Wanted(kind="spot"))) == ["M1", "M5", "M9"]
    assert (
        markets.page(state, 0, 3, "", Wanted(kind="bond"))
        == markets.page(state, 0, 3, "–")
        == markets.page(state, 0, -1)
        == []
    )


def test_the_best_match_comes_first(state: State) -> None:
    put(state, "MARIGOLD")
    put(state, "XAU", name="Bullion", description="Spot gold and golden things")
    put(state, "GOLDEN")
    put(state, "GOLD")
    put(state, "USD/GOLD", kind="spot")
    assert symbols(markets.search(state, "gold")) == ["GOLD", "GOLDEN", "XAU", "USD/GOLD", "MARIGOLD"]
    assert symbols(markets.search(state, "vamm:gold")) == ["GOLD", "GOLDEN", "XAU", "MARIGOLD"]
    assert symbols(markets.search(state, "GOLD", exchange="SPOT")) == ["USD/GOLD"]
    assert symbols(markets.search(state, "usdgold")) == ["USD/GOLD"]
    assert symbols(markets.search(state, "golden bullion")) == ["XAU"]
    assert symbols(markets.search(state, "gold", limit=2)) == ["GOLD", "GOLDEN"]
    assert markets.search(state, "gold", limit=0) == markets.search(state, "gold", exchange="NYSE") == []


def test_the_busiest_of_those_that_match_as_well_come_first(state: State) -> None:
    for symbol, name in (("GOLDA", ""), ("GOLDB", ""), ("GOLDC", ""), ("X", "gold"), ("Y", "gold"), ("ZGOLD", "")):
        put(state, symbol, name=name)

    def found(typed: str, volumes: Mapping[str, float], **more: Any) -> list[str]:
        by_slot = np.zeros(6)
        for symbol, volume in volumes.items():
            market = markets.by_symbol(state, symbol)
            assert market is not None
            by_slot[market.slot] = volume
        return symbols(markets.search(state, typed, busy=Busy.of(by_slot), **more))

    assert found("gold", {}) == ["GOLDA", "GOLDB", "GOLDC", "X", "Y", "ZGOLD"]
    assert found("gold", {"GOLDC": 5, "GOLDB": 7, "Y": 9}) == ["GOLDB", "GOLDC", "GOLDA", "Y", "X", "ZGOLD"]
    assert found("golda", {"GOLDB": 7}) == ["GOLDA"]
    assert found("", {"Y": 9, "GOLDC": 5}) == ["Y", "GOLDC", "GOLDA", "GOLDB", "X", "ZGOLD"]
    assert found("", {"Y": 9, "GOLDC": 5}, limit=2) == ["Y", "GOLDC"]
    assert found("glod", {"GOLDC": 5}) == ["GOLDC", "GOLDA", "GOLDB"]


@pytest.mark.parametrize("typed", ["m", "x", "mar", "xtr", "ark", "mraket", "maket 1"])
def test_the_busiest_are_seen_however_many_match(state: State, typed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "POOL", 3)
    monkeypatch.setattr(search, "SCANNED", 5)
    markets.put_all(state, [{"market_symbol": f"M{i}", "name": f"market {i} xtra 1"} for i in range(40)], quiet)
    volumes = np.zeros(41)
    volumes[[37, 40]] = 1, 2
    assert symbols(markets.search(state, typed, limit=3, busy=Busy.of(volumes)))[:2] == ["M39", "M36"]


MISTYPED = [
    ("glod", "GOLD"),  # neighbours changed places
    ("ogld", "GOLD"),
    ("god", "GOLD"),  # a letter is missing
    ("old", "GOLD"),
    ("gol", "GOLD"),
    ("goldd", "GOLD"),  # one too many
    ("xgold", "GOLD"),
    ("gpld", "GOLD"),  # another one
    ("hold", "GOLD"),
    ("btc/ust", "BTC/USDT"),
    ("btx/usd", "BTC/USDT"),
    ("btc-usdt", "BTC/USDT"),
    ("bitcion", "BTC/USDT"),  # words of the name
    ("bitcin", "BTC/USDT"),
    ("vitcoin", "BTC/USDT"),
    ("perpetul", "BTC/USDT"),
    ("bitcoin perpetaul", "BTC/USDT"),
    ("bitcion perpetaul", "BTC/USDT"),
    ("vamm:glod", "GOLD"),
    ("spot:glod", None),
    ("gxxd", None),  # two errors
    ("go", "GOLD"),
    ("xo", None),  # too short to say
    ("gdlo" * 10, None),
]


@pytest.mark.parametrize("popular", [True, False])
@pytest.mark.parametrize(("typed", "symbol"), MISTYPED)
def test_one_typing_error_is_forgiven_where_nothing_else_is_found(
    state: State, typed: str, symbol: str | None, popular: bool
) -> None:
    put(state, "GOLD")
    put(state, "BTC/USDT", name="Bitcoin perpetual")
    put(state, "SPOTTY", kind="spot")
    put(state, "ETH", name="Ether")
    busy = Busy.of(np.array([0.0, 1, 1, 1, 1])) if popular else NOBODY
    assert symbols(markets.search(state, typed, busy=busy)) == ([symbol] if symbol else [])


@given(st.text("abc1/", min_size=1, max_size=5))
def test_variants_are_what_one_error_makes(text: str) -> None:
    made = search.variants(text)
    assert all(distance(text, some) == 1 for some in made)
    for some in (text[1:], text + "z", "q" + text, text[::-1] if len(text) == 2 else text + "7"):
        assert some == text or (some in made) == (distance(text, some) == 1)


def distance(a: str, b: str) -> int:
    """Optimal string alignment, as it is defined."""
    table = [[max(i, j) for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            cost = a[i - 1] != b[j - 1]
            table[i][j] = min(table[i - 1][j] + 1, table[i][j - 1] + 1, table[i - 1][j - 1] + cost)
            if i > 1 and j > 1 and a[i - 1] == b[j - 2] and a[i - 2] == b[j - 1]:
                table[i][j] = min(table[i][j], table[i - 2][j - 2] + 1)
    return table[len(a)][len(b)]


def test_one_letter_inside_a_word_is_looked_for_among_the_first_markets_only(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "SCANNED", 2)
    for symbol in ("AXA", "BBB", "CXC"):
        put(state, symbol)
    assert symbols(markets.search(state, "x")) == ["AXA"]
    assert symbols(markets.search(state, "cxc")) == symbols(markets.search(state, "c")) == ["CXC"]


def test_what_a_search_looks_in_follows_the_market(state: State) -> None:
    put(state, "X", name="Old name")
    markets.patch(state, "X", {"name": "Fresh title"}, busy)
    assert markets.search(state, "old") == []
    assert symbols(markets.search(state, "fresh")) == ["X"]
    with state.writing() as db:  # what the index holds is what the table says
        db.execute("INSERT INTO markets_text (markets_text) VALUES ('integrity-check')")


@pytest.mark.parametrize(
    "typed", ['"', "'", "*", "a AND b", 'words : "x', "(", "%", "_", "\0", "\ud800", "x" * 10_000, "^z", "-"]
)
def test_whatever_is_typed_is_only_text(state: State, typed: str) -> None:
    put(state, "A/B", name="and")
    assert symbols(markets.search(state, typed)) == (["A/B"] if typed == "a AND b" else [])
    assert markets.page(state, query=typed) == (markets.page(state) if typed == "a AND b" else [])


# --- search against an obvious one

ALPHABET = "abAB12 /:-ßé"
TEXT = st.text(ALPHABET, max_size=8)
SYMBOL = st.text(ALPHABET, min_size=1, max_size=6).filter(lambda s: s == s.strip() and s.isprintable())


def word_list(text: str) -> list[str]:
    return "".join(c if c.isalnum() else " " for c in folded(text)).split()


def rank(market: Market, typed: str) -> int | None:
    """0 exact, 1 prefix, 2 words, 3 inside words, None not at all."""
    key, symbol = folded(typed), folded(market.market_symbol)
    exchange = folded(EXCHANGES[market.kind]) + ":"
    bare = key
    for other in EXCHANGES.values():
        if key.startswith(folded(other) + ":"):
            bare = key[len(other) + 1 :].strip()
            if exchange[:-1] != folded(other):
                return 1 if symbol.startswith(key) else None
    if symbol in (key, bare):
        return 0
    if symbol.startswith((key, bare)):
        return 1
    words = word_list(f"{market.market_symbol} {market.name} {market.description}")
    words.append("".join(word_list(market.market_symbol)))
    wanted = word_list(bare)
    if wanted and all(any(word.startswith(w) for word in words) for w in wanted):
        return 2
    if wanted and all(any(w in word for word in words) for w in wanted):
        return 3
    return None


@st.composite
def registries(draw: st.DrawFn) -> list[tuple[str, Kind, str, str, bool]]:
    some = draw(st.lists(SYMBOL, max_size=12, unique_by=folded))
    return [
        (s, draw(st.sampled_from(KINDS)), draw(TEXT), draw(TEXT), draw(st.integers(0, 4)) > 0)
        for s in some
        if not any(folded(s).startswith(folded(e)) for e in EXCHANGES.values())
    ]


@settings(deadline=None, max_examples=80)
@given(
    registries(),
    st.lists(st.one_of(TEXT, st.tuples(st.sampled_from([*EXCHANGES.values()]), TEXT).map(":".join)), max_size=6),
    st.sampled_from([None, *KINDS]),
    st.integers(1, 12),
)
def test_search_ranks_as_an_obvious_one_does(
    registered: list[tuple[str, Kind, str, str, bool]], asked: list[str], kind: Kind | None, limit: int
) -> None:
    with tempfile.TemporaryDirectory() as folder, State.open(Path(folder) / "s.db", synchronous="NORMAL") as state:
        all_ = markets.put_all(
            state,
            [
                {"market_symbol": s, "kind": k, "name": n, "description": d, "is_active": active}
                for s, k, n, d, active in registered
            ],
            quiet,
        )
        for typed in [*asked, "", *(s for s, *_ in registered[:3])]:
            ranked = [
                (r, folded(m.market_symbol) if r == 1 else m.slot, m)
                for m in all_
                if m.is_active and kind in (None, m.kind) and (r := rank(m, typed)) is not None
            ]
            expected = [m for _, _, m in sorted(ranked, key=lambda entry: entry[:2])]
            found = symbols(markets.search(state, typed, kind, limit=limit))
            if expected:
                assert found == symbols(expected)[:limit], typed
            elif found:  # with a typing error in each word, or one in the symbol
                assert len(folded(typed)) > 2, typed


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.text(st.characters(categories=["L", "N", "P"], exclude_characters=","), min_size=1, max_size=4), max_size=8
    )
)
def test_symbols_that_differ_in_case_alone_never_coexist(typed: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder, State.open(Path(folder) / "s.db", synchronous="NORMAL") as state:
        held: dict[str, Market] = {}
        for symbol in (s for t in typed for s in (t, t.swapcase(), t.upper()) if s not in (".", "..")):
            if folded(symbol) in held and held[folded(symbol)].market_symbol != symbol:
                with pytest.raises(Conflict):
                    put(state, symbol)
            else:
                held[folded(symbol)] = put(state, symbol)
            assert markets.by_symbol(state, symbol) == held[folded(symbol)]
        assert markets.count(state).registered == len(held)


DECIMALS = st.decimals(min_value=0, max_value=10**19, places=18).map(lambda d: format(d, "f"))
FIELDS = st.fixed_dictionaries(
    {"market_symbol": SYMBOL},
    optional={
        "market_id": st.integers(0, 2**64 - 1),
        "kind": st.sampled_from(KINDS),
        "chain_id": st.integers(0, 2**63 - 1),
        "contract_address": st.text("0xabAB", min_size=1, max_size=5),
        "name": st.one_of(st.none(), st.text(st.characters(categories=["L", "So", "Zs"]), max_size=5)),
        "supply": st.one_of(st.none(), DECIMALS, st.floats(0, 1e15).map(lambda x: round(x, 3))),
        "deployment_block": st.integers(0, 2**63 - 1),
        "price_source": st.lists(st.sampled_from(["mark", "trade", "index"]), min_size=1),
        "created_timestamp": st.integers(100_000_000_000, 10_000_000_000_000),
        "is_active": st.booleans(),
    },
)


@settings(deadline=None, max_examples=100)
@given(FIELDS)
def test_what_is_shown_of_a_market_registers_the_same_market(fields: dict[str, object]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        with State.open(Path(folder) / "a.db", synchronous="NORMAL") as state:
            first = markets.put(state, fields, quiet)
            assert markets.by_id(state, first.market_id) == first
        with State.open(Path(folder) / "b.db", synchronous="NORMAL") as state:
            assert markets.put(state, json.loads(json.dumps(shown(first))), quiet) == first
