"""Prices of cards posted to a running app, and the charts that they come to."""

from typing import Any

import pytest

from storage.variants import Variant
from tests.web.conftest import NOW, Web, decoded
from tests.web.test_ingest import ANSWER, FORMS, PACKERS

SNAPSHOTS = "/api/ingest/snapshots"
CARD = Variant("sv3.5-1", "tcgplayer")


@pytest.fixture
async def feeder(web: Web) -> Web:
    """The app, with an ingest key in every request."""
    web.headers = await web.key("ingest")
    return web


def price(n: int, value: float | str | None, **more: Any) -> dict[str, Any]:
    """A price `n` seconds after the first."""
    at = (NOW - 3600 + n) * 1000
    return {"time": at, "card_id": CARD.card_id, "marketplace": CARD.marketplace, "price": value, **more}


async def told(web: Web, body: Any, kind: str = "application/json", **headers: str) -> Any:
    data = body if isinstance(body, bytes) else FORMS["application/json"](body)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = await web.post(SNAPSHOTS, data=data, headers={"Content-Type": kind, **named})
    found = decoded(await answer.get_data())
    assert answer.status_code == 200, found
    assert set(found) == ANSWER
    return found


async def bars(web: Web, variant: Variant = CARD, resolution: str = "60") -> list[tuple[float, ...]]:
    """(open, high, low, close, volume) of each bar."""
    path = f"/api/tradingview/history?symbol={variant.symbol}&resolution={resolution}&from=0&to={NOW + 60}"
    found = await web.json(path)
    return list(zip(*(found.get(name, []) for name in "ohlcv"), strict=True))


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize("kind", FORMS)
async def test_each_form_and_packing_is_taken(feeder: Web, kind: str, packing: str) -> None:
    body = PACKERS[packing](FORMS[kind]([price(n, 10 + n) for n in range(20)]))
    headers = {"Content_Encoding": packing} if packing else {}
    first = await told(feeder, body, kind, **headers)
    assert (first["accepted"], first["rejected"]) == (20, [])
    again = await told(feeder, body, kind, **headers)
    assert (again["accepted"], again["duplicates"]) == (0, 20)
    assert await bars(feeder) == [(10, 29, 10, 29, sum(range(10, 30)))]


async def test_a_variant_is_a_market_from_its_first_price_on(feeder: Web) -> None:
    foil = CARD._replace(is_foil=True, currency="JPY", language="Japanese")
    await told(feeder, [price(0, 10), price(0, 900, is_foil=True, currency="JPY", language="Japanese")])
    info = await feeder.json(f"/api/tradingview/symbols?symbol={foil.symbol}")
    assert (info["name"], info["ticker"], info["type"], info["exchange"]) == (foil.symbol, foil.symbol, "card", "CARDS")
    assert (info["pricescale"], info["minmov"], info["session"]) == (1, 1, "24x7")
    assert info["description"] == "sv3.5-1 (Near Mint foil, Japanese, tcgplayer, JPY)"
    assert (await feeder.json(f"/api/tradingview/symbols?symbol={CARD.symbol}"))["pricescale"] == 100
    assert [one["symbol"] for one in await feeder.json("/api/tradingview/search?query=sv3&type=card")] == [
        CARD.symbol,
        foil.symbol,
    ]
    assert await bars(feeder) == [(10, 10, 10, 10, 10)]
    assert await bars(feeder, foil) == [(900, 900, 900, 900, 900)]
    for resolution in ("1S", "1", "5", "15", "30", "60", "240", "1D", "1W", "1M"):
        assert await bars(feeder, foil, resolution) == [(900, 900, 900, 900, 900)], resolution


async def test_another_price_for_the_same_time_is_a_correction_and_may_be_taken_back(feeder: Web) -> None:
    await told(feeder, [price(0, 10, total_quantity=3), price(60, 12, total_quantity=1)])
    assert await bars(feeder) == [(10, 12, 10, 12, 42)]
    answer = await told(feeder, [price(0, 11, total_quantity=2), price(60, 12, total_quantity=1)])
    assert (answer["corrected"], answer["duplicates"]) == (1, 1)
    assert await bars(feeder) == [(11, 12, 11, 12, 34)]
    answer = await told(feeder, [price(60, None, removed=True), price(61, None, removed=True)])
    assert (answer["retracted"], answer["unknown"]) == (1, 1)
    assert await bars(feeder) == [(11, 11, 11, 11, 22)]
    assert (await told(feeder, [price(60, 12)]))["accepted"] == 1
    assert await bars(feeder) == [(11, 12, 11, 12, 34)]


async def test_a_price_of_nothing_is_kept_and_has_no_bar(feeder: Web) -> None:
    assert (await told(feeder, [price(0, 0, price_market=5)]))["accepted"] == 1
    assert await bars(feeder) == []
    assert (await told(feeder, [price(0, 0, price_market=5)]))["duplicates"] == 1
    assert (await told(feeder, [price(0, 4)]))["corrected"] == 1
    assert await bars(feeder) == [(4, 4, 4, 4, 4)]


async def test_what_is_refused_is_listed_and_makes_no_market(feeder: Web) -> None:
    bad = [price(0, 1, condition="NM"), price(0, 1, language="Elvish"), price(0, -1, card_id="new"), price(0, 1)]
    answer = await told(feeder, bad)
    assert (answer["accepted"], answer["rejected_count"]) == (1, 3)
    assert [one["index"] for one in answer["rejected"]] == [0, 1, 2]
    said = [one["error"] for one in answer["rejected"]]
    assert said[0].startswith("condition: expected one of MINT, NEAR_MINT, ")
    assert said[1].startswith("language: expected one of English, Japanese, ")
    found = await feeder.json("/api/markets?kind=card")
    assert [market["market_symbol"] for market in found["markets"]] == [CARD.symbol]
    metrics = await (await feeder.get("/metrics")).get_data(as_text=True)
    assert 'candled_ingest_rejected_total{field="condition"} 1' in metrics


async def test_a_repeat_with_the_same_idempotency_key_is_given_the_first_answer(feeder: Web) -> None:
    first = await told(feeder, [price(0, 10)], Idempotency_Key="k")
    assert await told(feeder, [price(0, 10)], Idempotency_Key="k") == first
    answer = await feeder.post(SNAPSHOTS, json=[price(0, 11)], headers={"Idempotency-Key": "k"})
    assert answer.status_code == 422


async def test_only_those_who_may_post_events_may_post_prices(web: Web) -> None:
    body = FORMS["application/json"]([price(0, 10)])
    kind = {"Content-Type": "application/json"}
    assert (await web.post(SNAPSHOTS, data=body, headers=kind)).status_code == 401
    assert (await web.post(SNAPSHOTS, data=body, headers={**kind, **await web.key("read")})).status_code == 403
    assert (await web.post(SNAPSHOTS, data=b"{", headers={**kind, **await web.key("ingest")})).status_code == 400
    assert (await web.get(SNAPSHOTS, headers=await web.key("ingest"))).status_code == 405


async def test_events_do_not_move_the_price_of_a_card(feeder: Web) -> None:
    await told(feeder, [price(0, 10)])
    event = {"market_symbol": CARD.symbol, "timestamp": NOW * 1000, "price": 1}
    answer = await (await feeder.post("/api/ingest/events", json=[event])).get_json()
    assert answer["rejected"][0]["error"] == "market: expected a perp or spot market, got one of kind card"
    made = await feeder.post(
        "/api/ingest/events?create=spot",
        json=[{**event, "market_symbol": CARD._replace(card_id="x").symbol}],
        headers=await feeder.key("admin"),
    )
    assert (await made.get_json())["rejected"][0]["error"].startswith("no market named 'CARD:x.")
