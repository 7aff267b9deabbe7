"""Cards and marketplaces, registered by hand and by their prices."""

from typing import Any

import pytest

from storage.variants import Variant
from tests.web.conftest import Web
from tests.web.test_snapshots import price, told

CARD = Variant("sv3.5-1", "tcgplayer")
CHARIZARD = {
    "id": CARD.card_id,
    "name": "Charizard",
    "game": "Pokémon",
    "set_code": "sv3.5",
    "set_name": "151",
    "collector_number": "006/165",
    "rarity": "Rare",
    "formats": ["standard", "expanded"],
    "image_url": "https://example.com/6.png",
}


@pytest.fixture
async def shop(web: Web) -> Web:
    """The app, with an admin key in every request."""
    web.headers = await web.key("admin")
    return web


async def put(web: Web, what: str, body: Any) -> tuple[int, Any]:
    answer = await web.post(f"/api/{what}", json=body)
    return answer.status_code, await answer.get_json()


async def described(web: Web, variant: Variant = CARD) -> str:
    info = await web.json(f"/api/tradingview/symbols?symbol={variant.symbol}")
    return str(info["description"])


async def test_a_card_gives_its_variants_their_names_whichever_comes_first(shop: Web) -> None:
    foil = CARD._replace(is_foil=True)
    await told(shop, price(0, 10))
    assert await described(shop) == "sv3.5-1 (Near Mint, English, tcgplayer, USD)"
    assert await put(shop, "cards", [CHARIZARD, {"id": "sv3"}]) == (200, {"upserted": 2})
    await told(shop, price(0, 12, is_foil=True))
    assert await described(shop) == "Charizard (Near Mint, English, tcgplayer, USD)"
    assert await described(shop, foil) == "Charizard (Near Mint foil, English, tcgplayer, USD)"
    assert [one["symbol"] for one in await shop.json("/api/tradingview/search?query=chari")] == [
        CARD.symbol,
        foil.symbol,
    ]
    # What is not said stays; another card whose id begins alike stays out of it.
    await told(shop, price(0, 1, card_id="sv3"))
    assert await put(shop, "cards", {"id": "SV3", "name": "Another"}) == (200, {"upserted": 1})
    assert await put(shop, "cards", {"id": CARD.card_id, "rarity": None}) == (200, {"upserted": 1})
    assert await described(shop) == "Charizard (Near Mint, English, tcgplayer, USD)"
    assert (await described(shop, CARD._replace(card_id="sv3"))).startswith("Another (")
    assert await put(shop, "cards", {"id": CARD.card_id, "name": None}) == (200, {"upserted": 1})
    assert await described(shop) == "sv3.5-1 (Near Mint, English, tcgplayer, USD)"


async def test_marketplaces_are_listed_whoever_named_them_first(shop: Web) -> None:
    await told(shop, [price(0, 10), price(0, 9, marketplace="cardmarket", currency="EUR")])
    euro = {"id": "Cardmarket", "name": "Cardmarket", "url": "https://www.cardmarket.com", "currency": "EUR"}
    assert await put(shop, "marketplaces", [euro, {"id": 7}]) == (200, {"upserted": 2})
    nothing = {"name": None, "url": None, "currency": None}
    listed = [{"id": "7", **nothing}, {**euro, "id": "cardmarket"}, {"id": "tcgplayer", **nothing}]
    assert await shop.json("/api/marketplaces") == {"items": listed, "next": None}
    first = await shop.json("/api/marketplaces?limit=2")
    assert first == {"items": listed[:2], "next": "cardmarket"}
    assert (await shop.get("/api/marketplaces?limit=501")).status_code == 400
    assert await shop.json("/api/marketplaces?limit=2&after=cardmarket") == {"items": listed[2:], "next": None}


@pytest.mark.parametrize(
    ("what", "body", "why"),
    [
        ("cards", {"name": "x"}, "id: expected 1 to 40 printable characters"),
        ("cards", {"id": "a,b"}, "id: expected 1 to 40 printable characters"),
        ("cards", {"id": 1, "colour": "x"}, "colour: a card has no such field; it has id, name, game"),
        ("cards", {"id": 1, "name": 5}, "name: expected a text of at most 200 printable characters, got 5"),
        ("cards", {"id": 1, "formats": "modern"}, "formats: expected a list of texts such as standard and modern"),
        ("cards", {"id": 1, "image_url": "javascript:alert(1)"}, "image_url: expected an address that begins with"),
        ("cards", [1], "body: expected an object, an array of objects"),
        ("marketplaces", {"id": "e.bay"}, "id: expected 1 to 20 printable characters"),
        ("marketplaces", {"id": "m", "currency": "usd"}, "currency: expected three capital letters such as USD"),
    ],
)
async def test_what_cannot_be_is_refused_and_nothing_of_it_kept(shop: Web, what: str, body: Any, why: str) -> None:
    good = {"id": "good", "name": "Good"}
    status, said = await put(shop, what, [good, body] if isinstance(body, dict) else body)
    assert status == 400
    assert said["error"].startswith(why)
    await told(shop, price(0, 1, card_id="good"))
    assert (await described(shop, CARD._replace(card_id="good"))).startswith("good (")
    assert [one["id"] for one in (await shop.json("/api/marketplaces"))["items"]] == ["tcgplayer"]


async def test_lines_are_taken_and_other_forms_are_not(shop: Web) -> None:
    lines = b'{"id":1,"name":"One"}\n{"id":2}\n'
    answer = await shop.post("/api/cards", data=lines, headers={"Content-Type": "application/x-ndjson"})
    assert await answer.get_json() == {"upserted": 2}
    assert (await shop.post("/api/cards", data=b"a", headers={"Content-Type": "text/csv"})).status_code == 415
    assert (await shop.post("/api/cards", data=b"{", headers={"Content-Type": "application/json"})).status_code == 400


async def test_only_admins_register_them(web: Web) -> None:
    for scope, status in (("read", 403), ("ingest", 403), ("admin", 200)):
        web.headers = await web.key(scope)
        for what in ("cards", "marketplaces"):
            assert (await put(web, what, [{"id": 1}]))[0] == status
