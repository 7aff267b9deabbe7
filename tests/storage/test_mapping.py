"""Which column of a file is which field of an event."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from storage.errors import BadRequest
from storage.files import File
from storage.mapping import Times, chosen

HASH = "0x" + "8f3c2b1a9d" * 6


def read(
    path: Path, given: Sequence[tuple[str, str]] = (), market: str = "GOLD", times: Times | None = None, where: str = ""
) -> list[dict[str, Any]]:
    with File(path) as file:
        choices = chosen(file, given, market, times or Times())
        return [row for batch in file.read(choices, where, 0, 1000) for row in batch.to_pylist()]


def csv(folder: Path, *lines: str) -> Path:
    path = folder / "trades.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    ("header", "row", "times"),
    [
        ("ts_us", "1700000000123456", Times()),
        ("time", "1700000000123.456", Times()),
        ("T", "1700000000.123456", Times()),
        ("timestamp", "1700000000123456000", Times()),
        ("date", "2023-11-14T22:13:20.123456Z", Times()),
        ("Trade Time", "2023-11-14T23:13:20.123456+01:00", Times()),
        ("datetime", "2023-11-14 22:13:20.123456", Times()),
        ("datetime", "2023-11-14 17:13:20.123456", Times(zone="America/New_York")),
        ("local_time", "14.11.2023 23:13:20.123456", Times(zone="Europe/Berlin", format="%d.%m.%Y %H:%M:%S.%f")),
        ("ts", "1700000000123456", Times(unit="us")),
    ],
)
def test_times_are_understood_however_they_are_written(tmp_path: Path, header: str, row: str, times: Times) -> None:
    (said,) = read(csv(tmp_path, f"{header},price", f"{row},5"), times=times)
    assert said["timestamp"].isoformat() == "2023-11-14T22:13:20.123456"


@pytest.mark.parametrize(
    ("header", "values", "expected"),
    [
        ("price,qty,side", "1.5,2,BUY", {"price": "1.5", "size": "2", "side": "buy"}),
        ("px,amount,side", "1.5,2,s", {"price": "1.5", "size": "2", "side": "sell"}),
        ("p,q,m", "1.5,2,true", {"price": "1.5", "size": "2", "side": "sell"}),
        ("price,size,is_buyer_maker", "1.5,2,false", {"price": "1.5", "size": "2", "side": "buy"}),
        ("price,volume,agg_id", "1.5,2,77", {"price": "1.5", "size": "2", "trade_id": "77"}),
        ("rate,tradeId,id", "1.5,7,8", {"price": "1.5", "trade_id": "7"}),
        ("price,blockNumber,txHash,logIndex", f"1.5,7,{HASH},3", {"block_number": 7, "transaction_hash": HASH}),
    ],
)
def test_columns_are_known_by_the_names_that_others_give_them(
    tmp_path: Path, header: str, values: str, expected: dict[str, object]
) -> None:
    (said,) = read(csv(tmp_path, f"time,{header}", f"1700000000000,{values}"))
    assert said["market_symbol"] == "GOLD"
    assert {name: said[name] for name in expected} == expected


def test_numbers_keep_every_digit(tmp_path: Path) -> None:
    (said,) = read(csv(tmp_path, "time,price,size", "1700000000000,0.123456789012345678,12345678901234567890.5"))
    assert (said["price"], said["size"]) == ("0.123456789012345678", "12345678901234567890.5")


def test_a_field_can_be_read_from_a_column_or_an_expression_that_is_named(tmp_path: Path) -> None:
    path = csv(tmp_path, "time,bid,ask,what,price", "1700000000000,1.0,2.0,sold,99", "1700000001000,3.0,4.0,sold,99")
    given = [("(bid + ask) / 2", "price"), ("replace(what, 'sold', 'sell')", "side")]
    rows = read(path, given, where="bid > 1")
    assert [(row["price"], row["side"]) for row in rows] == [(3.5, "sell")]


def test_the_market_is_a_column_where_none_is_given(tmp_path: Path) -> None:
    path = csv(tmp_path, "time,price,Symbol", "1700000000000,1,BTC/USD")
    assert read(path, market="")[0]["market_symbol"] == "BTC/USD"
    assert read(path, market="O'GOLD")[0]["market_symbol"] == "O'GOLD"


@pytest.mark.parametrize(
    ("header", "given", "market", "said"),
    [
        ("when,price", (), "GOLD", "no column looks like the timestamp: say which with --map COLUMN=timestamp"),
        ("time,open,close", (), "GOLD", "no column looks like the price.*time, open, close"),
        ("time,price", (), "", "no column names the market: give --market"),
        ("time,price", [("price", "prise")], "GOLD", "expected a field of an event .* got 'prise'"),
        ("time,price", [("(bogus", "size")], "GOLD", "trades.csv: "),
    ],
)
def test_what_cannot_be_read_is_named(
    tmp_path: Path, header: str, given: Sequence[tuple[str, str]], market: str, said: str
) -> None:
    path = csv(tmp_path, header, ",".join(["1700000000000"] * len(header.split(","))))
    with pytest.raises(BadRequest, match=said):
        read(path, given, market)


def test_times_that_cannot_be_told_ask_for_their_unit(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="time: cannot tell the unit of the times in it; give --time-unit"):
        read(csv(tmp_path, "time,price", "true,1"))
