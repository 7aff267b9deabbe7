"""What the name of a channel says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from web.pusher.names import LONGEST, PLAIN, Name, escaped, parsed, unescaped


@pytest.mark.parametrize(
    ("name", "kind", "cached", "rest"),
    [
        ("news", "public", False, "news"),
        ("cache-x", "public", True, "x"),
        ("cachex", "public", False, "cachex"),
        ("private-x", "private", False, "x"),
        ("private-cache-x", "private", True, "x"),
        ("private-encrypted-x", "encrypted", False, "x"),
        ("private-encrypted-cache-x", "encrypted", True, "x"),
        ("presence-x", "presence", False, "x"),
        ("presence-cache-x", "presence", True, "x"),
        ("cache-private-x", "public", True, "private-x"),
        ("my-private-x", "public", False, "my-private-x"),
        ("#server-to-user-ann/1", "user", False, "ann/1"),
    ],
)
def test_prefixes_are_looked_for_in_their_order_and_only_at_the_start(
    name: str, kind: str, cached: bool, rest: str
) -> None:
    assert parsed(name) == Name(name, kind, cached, rest)  # type: ignore[arg-type] # one of the kinds


@pytest.mark.parametrize(
    ("name", "market"),
    [
        ("market-GOLD", "GOLD"),
        ("cache-market-GOLD", "GOLD"),
        ("private-cache-market-GOLD-1m", "GOLD-1m"),
        ("market-BTC=2FUSD", "BTC/USD"),
        ("market-=C3=84", "Ä"),
        ("market-a=3Db", "a=b"),
        ("market-a=b", None),  # `=` is written, too
        ("market-a=2fb", None),  # in capitals
        ("market-=41", None),  # and only where it has to be
        ("market-=C3", None),
        ("presence-market-GOLD", None),
        ("private-encrypted-market-GOLD", None),
        ("news", None),
    ],
)
def test_channels_of_markets_name_their_symbol(name: str, market: str | None) -> None:
    assert parsed(name).market == market


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_every_symbol_can_be_written_and_read_again(symbol: str) -> None:
    written = escaped(symbol)
    assert unescaped(written) == symbol
    assert not written or len(written) > LONGEST or PLAIN.fullmatch(written)
