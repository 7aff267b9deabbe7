"""Marks on charts: each kind forced by events, heartbeats and the clock, and read back as a chart does."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from actors import marks as module
from storage import notable
from tests.web.conftest import NOW, Web, decoded, serving
from tests.web.test_heartbeats import beat, said

MINUTE, HOUR, DAY = 60, 3600, 86400
UDF = "/api/tradingview"
OWN = "/api/markets/GOLD/marks"


@pytest.fixture
async def perp(web: Web) -> Web:
    """With a perpetual called BTC, and a trade in each of the last hour's minutes."""
    await web.market("BTC", kind="perp")
    await events(web, *({"second": -HOUR + MINUTE * i, "size": 1} for i in range(60)))
    return web


async def events(web: Web, *some: dict[str, Any], symbol: str = "BTC") -> None:
    """Take events, each so many seconds after NOW."""
    words = [
        {"market_symbol": symbol, "price": 100, "event_type": "PositionOpened", **one}
        | {"timestamp": (NOW + one["second"]) * 1000}
        for one in some
    ]
    answer = decoded(await web.stack.intake.submit(msgspec.json.encode(words), "application/json"))
    assert answer["rejected"] == []


async def marks(
    web: Web, symbol: str = "BTC", resolution: str = "1", start: float = -HOUR, end: float = 0, verb: str = "marks"
) -> list[dict[str, Any]]:
    answer = await web.get(f"{UDF}/{verb}?symbol={symbol}&resolution={resolution}&from={NOW + start}&to={NOW + end}")
    assert answer.status_code == 200, await answer.get_data()
    assert answer.headers["Cache-Control"] == "no-store"
    found: list[dict[str, Any]] = decoded(await answer.get_data())
    assert len({mark["id"] for mark in found}) == len(found)
    assert [mark["time"] for mark in found] == sorted(mark["time"] for mark in found)
    return found


async def told(web: Web, *more: Any, **query: Any) -> list[tuple[int, str]]:
    """The bars, in seconds after NOW, and what is said of them."""
    found = await marks(web, *more, **query)
    return [(mark["time"] - NOW, mark.get("text", "\n".join(mark.get("tooltip", [])))) for mark in found]


async def test_a_liquidation_is_marked_at_its_bar(perp: Web) -> None:
    await events(
        perp,
        {"second": -90, "event_type": "PositionLiquidated", "size": 2.5, "is_long": True, "price": 99.5},
        {"second": -1790, "event_type": "PositionLiquidated", "size": 4, "is_long": False, "price": 101},
    )
    assert await marks(perp) == [
        {
            "id": (await marks(perp))[0]["id"],
            "time": NOW - 30 * MINUTE,
            "color": "red",
            "text": "Liquidated short 4 at 101",
            "label": "L",
            "labelFontColor": "white",
            "minSize": 14,
        },
        {
            "id": (await marks(perp))[1]["id"],
            "time": NOW - 2 * MINUTE,
            "color": "red",
            "text": "Liquidated long 2.5 at 99.5",
            "label": "L",
            "labelFontColor": "white",
            "minSize": 14,
        },
    ]
    assert await told(perp, resolution="60") == [
        (-HOUR, "Liquidated short 4 at 101"),
        (-HOUR, "Liquidated long 2.5 at 99.5"),
    ]
    assert await marks(perp, verb="timescale_marks") == []


async def test_a_trade_is_large_by_the_mean_of_its_day(perp: Web) -> None:
    # With 24 units the mean of the day is 84 / 61 units, and twenty times that are 27.5; with 35 it is 31.1.
    await events(perp, {"second": -100, "size": 24, "is_long": True})
    assert await told(perp) == []
    await events(perp, {"second": -101, "size": 60, "is_long": False})
    assert await told(perp) == [(-2 * MINUTE, "Large trade: sell 60 at 100")]
    # Yesterday has a mean of its own.
    await events(perp, {"second": -DAY, "size": 59}, *({"second": -DAY + i, "size": 1} for i in range(1, 30)))
    assert [mark for mark in await told(perp, start=-2 * DAY) if "trade" in mark[1]] == [
        (-DAY, "Large trade: 59 at 100"),
        (-2 * MINUTE, "Large trade: sell 60 at 100"),
    ]


async def test_a_funding_rate_is_marked_where_it_changes(perp: Web) -> None:
    rates = [(-3000, 0.0001), (-2400, 0.0001), (-1800, 0.00012), (-1200, -0.00005), (-1195, None)]
    await events(
        perp, *({"second": at, "event_type": "FundingRateUpdated", "funding_rate": rate} for at, rate in rates)
    )
    expected = [
        (-3000, "Funding 0.01 %"),
        (-1800, "Funding 0.012 % (was 0.01 %)"),
        (-1200, "Funding -0.005 % (was 0.012 %)"),
    ]
    assert await told(perp) == await told(perp, verb="timescale_marks") == expected
    # Whether the first one is a change is seen from what was before.
    assert await told(perp, start=-2400, verb="timescale_marks") == expected[1:]
    found = await marks(perp, verb="timescale_marks", start=-1800, end=-1800)
    assert found == [
        {
            "id": found[0]["id"],
            "time": NOW - 1800,
            "color": "yellow",
            "label": "F",
            "tooltip": ["Funding 0.012 % (was 0.01 %)"],
        }
    ]


async def test_a_rate_is_the_same_as_hours_ago_unless_that_was_taken_back(perp: Web) -> None:
    funding = {"event_type": "FundingRateUpdated", "funding_rate": 0.0001}
    await events(
        perp,
        {"second": -14 * HOUR, **funding},
        {"second": -13 * HOUR, **funding, "funding_rate": 0.0002, "trade_id": "x"},
        {"second": -17 * HOUR, **funding, "funding_rate": 0.0003},
        {"second": -600, **funding},
    )
    assert await told(perp, verb="timescale_marks") == [(-600, "Funding 0.01 % (was 0.02 %)")]
    gone = {"market_symbol": "BTC", "trade_id": "x", "removed": True}
    await perp.stack.intake.submit(msgspec.json.encode(gone), "application/json")
    assert await told(perp, verb="timescale_marks") == []


async def test_a_gap_is_marked_at_the_bar_before_it(web: Web) -> None:
    await web.trades((NOW - 42 * MINUTE, 100), (NOW - 30 * MINUTE, 100))
    assert await told(web, "GOLD") == []  # nobody said yet what they saw
    web.clock.now = NOW - 30 * MINUTE
    await beat(web, markets=["GOLD"])
    web.clock.now = NOW
    piece = {"feed": "f", "markets": ["GOLD"], "from": (NOW - 30 * MINUTE) * 1000, "to": (NOW - 17 * MINUTE) * 1000}
    assert (await said(web, piece, path="/api/ingest/coverage"))["accepted"] == 1
    await web.trades((NOW - 10 * MINUTE, 100), (NOW - 5 * MINUTE, 100))
    await beat(web)
    piece |= {"from": (NOW - 10 * MINUTE) * 1000, "to": NOW * 1000}
    assert (await said(web, piece, path="/api/ingest/coverage"))["accepted"] == 1
    web.clock.now = NOW + 3
    expected = [
        (-42 * MINUTE, "Not imported from 2026-01-05T08:19:00Z to 2026-01-05T08:30:00Z"),
        (-30 * MINUTE, "Feed down (f) from 2026-01-05T08:43:00Z to 2026-01-05T08:50:00Z"),
        (-30 * MINUTE, "No trades (f) from 2026-01-05T08:31:00Z to 2026-01-05T08:43:00Z"),
    ]  # four minutes without a trade are nothing
    for verb in ("marks", "timescale_marks"):
        found = await told(web, "GOLD", verb=verb)
        assert sorted(found) == sorted(expected), verb
    colors = {mark["text"].split()[0]: (mark["color"], mark["labelFontColor"]) for mark in await marks(web, "GOLD")}
    assert colors == {
        "Not": ("yellow", "black"),
        "Feed": ("red", "white"),
        "No": ({"border": "#9e9e9e", "background": "#eeeeee"}, "black"),
    }
    await web.trades((NOW - 31 * MINUTE, 100), (NOW - 45 * MINUTE, 100))
    assert len(await told(web, "GOLD")) == 3
    await web.trades((NOW - 35 * MINUTE, 100))
    assert len(await told(web, "GOLD")) == 2  # what is left of it are two short ones


async def test_own_marks_are_made_shown_listed_and_deleted(perp: Web) -> None:
    key = await perp.key("ingest")

    async def made(**fields: Any) -> dict[str, Any]:
        answer = await perp.post("/api/markets/btc/marks", headers=key, json=fields)
        assert answer.status_code == 201, await answer.get_data()
        mark: dict[str, Any] = decoded(await answer.get_data())
        return mark

    first = await made(time=(NOW - 90) * 1000, text="Listing", label="N", color="green")
    second = await made(time="2026-01-05T08:30:10Z", text="Halving\nat last", on="timescale")
    third = await made(time=(NOW - 1) * 1000, text="Ours", color={"border": "#ff0000", "background": "rgb(1, 2, 3)"})
    assert first == {
        "id": first["id"],
        "time": (NOW - 90) * 1000,
        "text": "Listing",
        "label": "N",
        "color": "green",
        "on": "bars",
    }
    assert await told(perp) == [(-2 * MINUTE, "Listing"), (-MINUTE, "Ours")]
    assert await told(perp, verb="timescale_marks") == [(-30 * MINUTE, "Halving\nat last")]
    assert (await marks(perp))[1]["color"] == {"border": "#ff0000", "background": "rgb(1, 2, 3)"}
    path = "/api/markets/BTC/marks"
    assert await perp.json(path) == {"marks": [third, second, first], "next": None}
    assert await perp.json(f"{path}?limit=2") == {"marks": [third, second], "next": second["id"]}
    assert await perp.json(f"{path}?limit=2&after={second['id']}") == {"marks": [first], "next": None}
    assert await perp.json(OWN) == {"marks": [], "next": None}
    assert (await perp.ask("DELETE", f"{OWN}/{first['id']}", headers=key)).status_code == 404  # of another market
    assert (await perp.ask("DELETE", f"{path}/{first['id']}", headers=key)).status_code == 204
    assert (await perp.ask("DELETE", f"{path}/{first['id']}", headers=key)).status_code == 404
    assert await told(perp) == [(-MINUTE, "Ours")]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"text": "x"}, "time: needed"),
        ({"time": 1, "text": "x"}, "time: expected milliseconds since 1970, or ISO 8601 with a zone, got 1"),
        ({"time": NOW * 1000}, "text: needed"),
        ({"time": NOW * 1000, "text": ""}, "text: expected a text of 1 to 500 characters, got ''"),
        ({"time": NOW * 1000, "text": "x", "label": "xy"}, "label: expected a text of 1 to 1 characters, got 'xy'"),
        ({"time": NOW * 1000, "text": "x", "on": "top"}, "on: expected bars or timescale, got 'top'"),
        ({"time": NOW * 1000, "text": "x", "color": "pink"}, "color: expected red, green, blue, yellow or {"),
        (
            {"time": NOW * 1000, "text": "x", "color": {"border": "red", "background": "url(x)"}},
            "color: expected red, green, blue, yellow or {",
        ),
    ],
)
async def test_an_own_mark_that_cannot_be_shown_is_refused(web: Web, fields: dict[str, Any], why: str) -> None:
    answer = await web.post(OWN, headers=await web.key("admin"), json=fields)
    assert answer.status_code == 400
    assert decoded(await answer.get_data())["error"].startswith(why)


async def test_only_keys_that_may_write_make_marks(web: Web) -> None:
    for method, path in (("POST", OWN), ("DELETE", f"{OWN}/1")):
        assert (await web.ask(method, path, json={})).status_code == 401
        assert (await web.ask(method, path, json={}, headers=await web.key("read"))).status_code == 403
    assert (await web.post("/api/markets/GLOD/marks", headers=await web.key("ingest"), json={})).status_code == 404


async def test_marks_are_where_bars_are_and_within_what_was_asked(perp: Web) -> None:
    # At an instant without a bar: an index price moves none.
    await events(
        perp,
        {"second": -4 * HOUR, "size": 1},
        {"second": -2 * HOUR, "event_type": "PositionLiquidated", "size": 3},
        {"second": -HOUR, "event_type": "PositionLiquidated", "size": 2},
        {"second": -1, "event_type": "PositionLiquidated", "size": 1},
    )
    whole = [(-4 * HOUR, "Liquidated 3 at 100"), (-HOUR, "Liquidated 2 at 100"), (-MINUTE, "Liquidated 1 at 100")]
    liquidated = [mark for mark in await told(perp, start=-5 * HOUR) if mark[1].startswith("Liq")]
    assert liquidated == whole
    assert await told(perp, start=-HOUR, end=-HOUR) == whole[1:2]
    assert await told(perp, start=-HOUR + 0.5, end=-0.5) == whole[2:]
    assert await told(perp, start=-HOUR + 1, end=-MINUTE - 1) == []
    assert await told(perp, start=1000, end=-1000) == []
    assert await told(perp, start=-2e9, end=2e12) == await told(perp, start=-5 * HOUR, end=DAY)
    days = await told(perp, resolution="1D", start=-2 * DAY, end=DAY)
    assert [mark for mark in days if mark[1].startswith("Liq")] == [
        (-9 * HOUR, f"Liquidated {size} at 100") for size in (3, 2, 1)
    ]


async def test_a_bar_has_its_ten_heaviest_marks(perp: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    await events(
        perp,
        *({"second": -61 - i, "event_type": "PositionLiquidated", "size": 1 + i} for i in range(15)),
        {"second": -30, "event_type": "PositionLiquidated", "size": 50},
    )
    key = await perp.key("ingest")
    answer = await perp.post("/api/markets/BTC/marks", headers=key, json={"time": (NOW - 70) * 1000, "text": "Ours"})
    assert answer.status_code == 201
    found = await told(perp)
    assert [text for at, text in found if at == -2 * MINUTE] == [
        "Ours",
        *(f"Liquidated {size} at 100" for size in range(15, 6, -1)),
    ]
    assert found[-1] == (-MINUTE, "Liquidated 50 at 100")
    monkeypatch.setattr(module, "MOST_MARKS", 3)
    assert [text for _, text in await told(perp)] == ["Ours", "Liquidated 15 at 100", found[-1][1]]


async def eventful(web: Web) -> list[dict[str, Any]]:
    """What events are marked with."""
    return [mark for mark in await marks(web) if mark["label"] != "G"]


async def test_marks_are_the_same_unflushed_flushed_sealed_and_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notable, "PIECE", 10)  # a file is read in many pieces
    async with serving(tmp_path / "data") as web:
        await web.market("BTC", kind="perp")
        await events(web, *({"second": -HOUR + MINUTE * i, "size": 1, "trade_id": i} for i in range(60)))
        await events(
            web,
            {"second": -1200, "event_type": "PositionLiquidated", "size": 2, "trade_id": "a"},
            {"second": -600, "event_type": "PositionLiquidated", "size": 3, "trade_id": "b"},
            {"second": -900, "size": 100, "trade_id": "c"},
            {"second": -300, "event_type": "FundingRateUpdated", "funding_rate": 0.001, "trade_id": "d"},
        )
        first = await eventful(web)
        assert [mark["label"] for mark in first] == ["L", "T", "L", "F"]
        await web.stack.writer.flushed(web.stack.engine.committed())
        assert await eventful(web) == first
        sealed = web.stack.sealing
        await sealed.run()
        web.clock.now += 2 * HOUR
        await sealed.run()
        assert sealed.statistics().events == 64
        assert await eventful(web) == first
        await web.stack.intake.submit(
            msgspec.json.encode({"market_symbol": "BTC", "trade_id": "b", "removed": True}), "application/json"
        )
        left = [mark for mark in first if "Liquidated 3" not in mark["text"]]
        assert len(left) == 3
        assert await eventful(web) == left
        await web.stack.writer.flushed(web.stack.engine.committed())
        assert await eventful(web) == left
    async with serving(tmp_path / "data", now=NOW + 2 * HOUR) as web:
        assert await eventful(web) == left
        monkeypatch.setattr(notable, "EVENTS", 5)  # of very many events, those long past are not looked at
        assert [mark["label"] for mark in await eventful(web)] == ["F"]


@pytest.mark.parametrize("verb", ["marks", "timescale_marks"])
async def test_what_cannot_be_answered_is_an_error_that_a_chart_understands(web: Web, verb: str) -> None:
    for query, status, why in [
        ("symbol=GLOD&resolution=1&from=0&to=1", 404, "symbol: no market named 'GLOD'"),
        ("symbol=GOLD&resolution=1m&from=0&to=1", 400, "resolution: unknown resolution '1m'"),
        ("symbol=GOLD&resolution=1&to=1", 400, "from: needed"),
        ("symbol=GOLD&resolution=1&from=0&to=soon", 400, "to: expected seconds since 1970, got 'soon'"),
    ]:
        answer = await web.get(f"{UDF}/{verb}?{query}")
        found = decoded(await answer.get_data())
        assert (answer.status_code, found["s"], found["errmsg"][: len(why)]) == (status, "error", why)
    assert await marks(web, "GOLD", verb=verb) == []  # no bars, no marks


async def test_charts_are_told_that_there_are_marks(web: Web) -> None:
    found = await web.json(f"{UDF}/config")
    assert (found["supports_marks"], found["supports_timescale_marks"]) == (True, True)
