from typing import Any

import msgspec
import pytest

from tests.web.conftest import NOW, Web, decoded
from web import symbols

DAY = 86_400
MIDNIGHT = NOW - NOW % DAY


async def quoted(web: Web, names: str) -> list[Any]:
    found = await web.json(f"/api/tradingview/quotes?symbols={names}")
    assert found["s"] == "ok"
    assert [one["n"] for one in found["d"]] == [
        n for n in names.replace("%2C", ",").replace("%3A", ":").split(",") if n
    ]
    return list(found["d"])


# --- quotes


async def test_a_quote_is_the_newest_trading_day_beside_the_one_before(web: Web) -> None:
    await web.stack.registry.patch("GOLD", {"name": "Gold, spot"})
    await web.trades((MIDNIGHT - 3 * DAY, 50), (MIDNIGHT - DAY + 5, 2000.0), (MIDNIGHT - 9, 2000.25, 3))
    await web.trades(
        (MIDNIGHT + 1, 2000.5, 1), (MIDNIGHT + 2, 2004, 0.1), (MIDNIGHT + 3, 1998, 0.2), (MIDNIGHT + 4, 2001.5, 3)
    )
    (found,) = await quoted(web, "GOLD")
    assert found == {
        "s": "ok",
        "n": "GOLD",
        "v": {
            "ch": 1.25,
            "chp": 0.0624921884764404,
            "short_name": "GOLD",
            "exchange": "SPOT",
            "description": "Gold, spot",
            "lp": 2001.5,
            "open_price": 2000.5,
            "high_price": 2004,
            "low_price": 1998,
            "prev_close_price": 2000.25,
            "volume": 4.3,
        },
    }


async def test_a_quote_repeats_each_name_as_it_was_asked(web: Web) -> None:
    await web.market("BTC/USD", kind="perp")
    await web.trades((NOW - 60, 10.0))
    asked = "gold%2CSPOT%3AGOLD%2CNOPE%2CBTC/USD%2Cvamm%3AGOLD%2CGOLD%2CGOLD"
    found = await quoted(web, asked)
    assert [one["s"] for one in found] == ["ok", "ok", "error", "error", "error", "ok", "ok"]
    assert [one["v"] for one in found if one["s"] == "error"] == [{}, {}, {}]
    assert found[0]["v"] == found[1]["v"] == found[5]["v"]
    assert await quoted(web, "") == []


async def test_a_quote_of_the_first_day_compares_with_its_opening(web: Web) -> None:
    await web.trades((NOW - 60, 0.1), (NOW - 30, 0.3))
    (found,) = await quoted(web, "GOLD")
    assert (found["v"]["prev_close_price"], found["v"]["ch"], found["v"]["chp"]) == (0.1, 0.2, 200)


async def test_quotes_are_what_history_says(web: Web) -> None:
    await web.trades(*((NOW - n * 7_000, 10 + n % 7, 0.1) for n in range(60)))
    days = await web.json(f"/api/tradingview/history?symbol=GOLD&resolution=1D&from=0&to={NOW}&countback=2")
    (found,) = await quoted(web, "GOLD")
    told = found["v"]
    assert (told["lp"], told["prev_close_price"], told["volume"]) == (days["c"][1], days["c"][0], days["v"][1])
    assert (told["open_price"], told["high_price"], told["low_price"]) == (days["o"][1], days["h"][1], days["l"][1])


async def test_a_quote_has_the_spread_that_price_has_and_invents_neither_bid_nor_ask(web: Web) -> None:
    await web.market("PERP", kind="perp")
    said = {"market_symbol": "PERP", "event_type": "PositionOpened", "is_long": True, "size": 1}
    events = [
        {**said, "timestamp": (NOW - 60) * 1000, "price": 100, "bid_ask_spread": 0.5},
        {**said, "timestamp": (NOW - 30) * 1000, "price": 101},
    ]
    taken = decoded(await web.stack.intake.submit(msgspec.json.encode(events), "application/json"))
    assert taken["accepted"] == 2
    await web.trades((NOW - 60, 10.0))
    price = await web.json("/api/markets/PERP/price")
    perp, gold = await quoted(web, "PERP,GOLD")
    assert (perp["v"]["spread"], price["bid_ask_spread"]) == (0.5, 0.5)
    assert "spread" not in gold["v"]
    assert not {"bid", "ask"} & (perp["v"].keys() | gold["v"].keys())
    web.clock.now += DAY  # what was said a day ago is no longer known
    (perp,) = await quoted(web, "PERP")
    assert perp["v"]["lp"] == 101
    assert "spread" not in perp["v"]


async def test_quotes_are_never_kept(web: Web) -> None:
    assert (await web.get("/api/tradingview/quotes?symbols=GOLD")).headers["Cache-Control"] == "no-store"


# --- symbol_info


def row(table: dict[str, Any], name: str, n: int) -> Any:
    """As the adapter takes a field from a table: lists of resolutions are values, other lists columns."""
    value = table[name]
    return value[n] if isinstance(value, list) and not name.endswith(("resolutions", "multipliers")) else value


async def test_a_group_is_a_table_that_says_what_each_symbol_says(web: Web) -> None:
    await web.market("SPY", session="0930-1600", timezone="America/New_York", pricescale=100, name="S&P 500")
    await web.market("OIL", kind="perp")
    await web.market("GONE")
    await web.stack.registry.deactivate("GONE")
    for group in ("SPOT", "spot"):
        table = await web.json(f"/api/tradingview/symbol_info?group={group}")
        assert table["symbol"] == ["GOLD", "SPY"]
        for n, symbol in enumerate(table["symbol"]):
            one = await web.json(f"/api/tradingview/symbols?symbol={symbol}")
            for column, member in (
                ("ticker", "ticker"),
                ("description", "description"),
                ("exchange-listed", "listed_exchange"),
                ("exchange-traded", "exchange"),
                ("minmovement", "minmov"),
                ("pricescale", "pricescale"),
                ("type", "type"),
                ("session-regular", "session"),
                ("timezone", "timezone"),
                ("has-intraday", "has_intraday"),
                ("intraday-multipliers", "intraday_multipliers"),
                ("has-daily", "has_daily"),
                ("has-weekly-and-monthly", "has_weekly_and_monthly"),
                ("supported-resolutions", "supported_resolutions"),
                ("volume-precision", "volume_precision"),
            ):
                assert row(table, column, n) == one[member], column


async def test_an_empty_group_has_no_symbols_and_one_too_large_is_refused(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await web.json("/api/tradingview/symbol_info?group=INDEX"))["symbol"] == []
    monkeypatch.setattr(symbols, "MOST_GROUPED", 1)
    assert (await web.json("/api/tradingview/symbol_info?group=SPOT"))["symbol"] == ["GOLD"]
    await web.market("TEA")
    answer = await web.get("/api/tradingview/symbol_info?group=SPOT")
    assert answer.status_code == 400
    assert "use search" in (await answer.get_json())["errmsg"]


# --- currency


async def test_a_market_names_the_currency_it_is_priced_in(web: Web) -> None:
    await web.market("BTC", quote_asset="USDT")
    assert (await web.json("/api/tradingview/symbols?symbol=BTC&currencyCode=EUR"))["currency_code"] == "USDT"
    assert "currency_code" not in await web.json("/api/tradingview/symbols?symbol=GOLD")


# --- search


async def test_search_ranks_by_what_was_traded_and_forgives_one_error(web: Web) -> None:
    for symbol in ("GOLDA", "GOLDB", "GOLDC"):
        await web.market(symbol)
    await web.trades((NOW - 60, 1.0, 5), symbol="GOLDC")
    await web.trades((NOW - 90_000, 1.0, 50), symbol="GOLDB")  # more than a day ago
    await web.stack.writer.flushed(web.stack.engine.committed())

    async def found(typed: str) -> list[str]:
        return [one["symbol"] for one in await web.json(f"/api/tradingview/search?query={typed}&limit=30")]

    assert await found("GOL") == ["GOLDC", "GOLD", "GOLDA", "GOLDB"]
    assert await found("GLOD") == ["GOLD", "GOLDC", "GOLDA", "GOLDB"]
    assert await found("") == ["GOLDC", "GOLD", "GOLDA", "GOLDB"]
    # The order is looked up now and then, not each time.
    await web.trades((NOW - 60, 1.0, 90), symbol="GOLDA")
    await web.stack.writer.flushed(web.stack.engine.committed())
    assert await found("GOL") == ["GOLDC", "GOLD", "GOLDA", "GOLDB"]
    web.clock.now += 61
    assert await found("GOL") == ["GOLDA", "GOLDC", "GOLD", "GOLDB"]
