"""The Structs."""

import msgspec

from storage.records import EXCHANGES, GRANTS, KINDS, PRICE_SOURCES, SCOPES, TYPES, Market, shown


def test_every_kind_has_its_exchange_its_type_and_its_price_source() -> None:
    assert set(EXCHANGES) == set(TYPES) == set(PRICE_SOURCES) == set(KINDS)
    assert len(set(EXCHANGES.values())) == len(KINDS)  # one exchange must not stand for two kinds


def test_admin_includes_the_others_and_ingest_does_not_read() -> None:
    assert GRANTS["admin"] == set(SCOPES)
    assert GRANTS["ingest"] == {"ingest"}
    assert GRANTS["read"] == {"read"}


def test_a_market_is_shown_without_its_slot_and_as_it_may_be_sent_back() -> None:
    market = Market(
        slot=9, market_id=2**64 - 1, market_symbol="GOLD", kind="perp", created_timestamp=1_704_067_200_000_000,
        price_source=("mark", "index"), min_trade_size="0.000000000000000001",
    )  # fmt: skip
    body = msgspec.json.decode(msgspec.json.encode(shown(market)))
    assert "slot" not in body
    assert body["created_timestamp"] == 1_704_067_200_000
    assert body["market_id"] == 2**64 - 1
    assert body["min_trade_size"] == "0.000000000000000001"
    assert body["price_source"] == ["mark", "index"]
    assert body["tier"] is None
    assert market.exchange == "VAMM"
    assert market.type == "crypto"
