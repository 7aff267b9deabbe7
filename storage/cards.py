"""Cards and the marketplaces that sell them: put, list. What they are called shows in the names of their markets."""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from storage import markets
from storage.errors import BadRequest
from storage.names import folded
from storage.records import Market
from storage.state import Connection, State
from storage.variants import CURRENCY, PREFIX, variant_of, why_no_card, why_no_marketplace

LONGEST = 200  # characters of a name
LAST = "\U0010ffff"  # sorts behind every character that a symbol may hold
Check = Callable[[object], bool]


def _text(longest: int) -> tuple[str, Check]:
    return (
        f"a text of at most {longest} printable characters",
        lambda value: isinstance(value, str) and len(value) <= longest and value.isprintable(),
    )


def _url(value: object) -> bool:
    # Pages make links and images of these: no other scheme may get there.
    good = isinstance(value, str) and len(value) <= 2048 and value.isprintable() and " " not in value
    return good and str(value).lower().startswith(("http://", "https://"))


_NAME = _text(LONGEST)
_WEB = ("an address that begins with http:// or https://", _url)
CARD: dict[str, tuple[str, Check]] = {
    "name": _NAME,
    "game": _NAME,
    "set_code": _NAME,
    "set_name": _NAME,
    "collector_number": _NAME,
    "rarity": _NAME,
    "formats": (
        "a list of texts such as standard and modern",
        lambda value: isinstance(value, list) and all(isinstance(one, str) and 0 < len(one) <= 50 for one in value),
    ),
    "image_url": _WEB,
}
MARKETPLACE: dict[str, tuple[str, Check]] = {
    "name": _NAME,
    "url": _WEB,
    "currency": (
        "three capital letters such as USD",
        lambda value: isinstance(value, str) and bool(CURRENCY.fullmatch(value)),
    ),
}


def put(state: State, many: Iterable[Mapping[str, object]]) -> list[Market]:
    """Register cards, or change the named fields of those that are there; all of them or, where one is refused, none.

    The markets that are called otherwise since.
    """
    cleaned = [(_id(fields, why_no_card), _clean("a card", fields, CARD)) for fields in many]
    renamed: list[Market] = []
    with state.writing() as db:
        for card_id, fields in cleaned:
            if "formats" in fields:
                fields = {**fields, "formats": json.dumps(list(dict.fromkeys(fields["formats"])))}
            _put(db, "cards", card_id, fields)
            if "name" in fields:
                renamed += _renamed(db, card_id, str(fields["name"] or card_id))
    return renamed


def known(state: State, card_id: str) -> bool:
    """Whether there is a card with this id: one that was registered, or that somebody gave a price of."""
    with state.reading() as db:
        if db.execute("SELECT 1 FROM cards WHERE key = ?", [folded(card_id)]).fetchone():
            return True
        begin = folded(f"{PREFIX}{card_id}.")
        return bool(markets.beginning(db, begin, begin + LAST))


def put_marketplaces(state: State, many: Iterable[Mapping[str, object]]) -> list[Market]:
    """As `put`, of marketplaces, which have no part in any name but by their ids."""
    cleaned = [(_id(fields, why_no_marketplace), _clean("a marketplace", fields, MARKETPLACE)) for fields in many]
    with state.writing() as db:
        for place, fields in cleaned:
            _put(db, "marketplaces", place, fields)
    return []


def marketplaces(state: State, after: str, limit: int) -> list[dict[str, Any]]:
    """Marketplaces in the order of their ids, from behind an id."""
    names = ("id", *MARKETPLACE)
    sql = f"SELECT {', '.join(names)} FROM marketplaces WHERE key > ? ORDER BY key LIMIT ?"
    with state.reading() as db:
        return [dict(zip(names, row, strict=True)) for row in db.execute(sql, [folded(after), limit])]


def _put(db: Connection, table: str, name: str, fields: Mapping[str, object]) -> None:
    columns = {"key": folded(name), "id": name, **fields}
    change = ", ".join(f"{column} = excluded.{column}" for column in fields) or "id = id"
    db.execute(
        f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))}) "
        f"ON CONFLICT (key) DO UPDATE SET {change}",
        list(columns.values()),
    )


def _renamed(db: Connection, card_id: str, name: str) -> list[Market]:
    """The markets of a card, under its new name."""
    begin = folded(f"{PREFIX}{card_id}.")
    changed = []
    for market in markets.beginning(db, begin, begin + LAST):
        variant = variant_of(market.market_symbol)
        if variant is not None and folded(variant.card_id) == folded(card_id):
            changed.append(markets.named_again(db, market, f"{name} ({variant.described})"[:LONGEST]))
    return changed


def _id(fields: Mapping[str, object], why_none: Callable[[str], str]) -> str:
    name = fields.get("id")
    text = str(name) if type(name) is int else name
    if why := why_none(text if isinstance(text, str) else ""):
        raise BadRequest(f"id: expected {why}, got {'nothing' if name is None else f'{name!r:.100}'}")
    assert isinstance(text, str)
    return text


def _clean(what: str, fields: Mapping[str, object], checks: Mapping[str, tuple[str, Check]]) -> dict[str, Any]:
    clean: dict[str, Any] = {}
    for name, value in fields.items():
        if name == "id":
            continue
        if name not in checks:
            raise BadRequest(f"{name:.60}: {what} has no such field; it has id, {', '.join(checks)}")
        expected, good = checks[name]
        if value is not None and not good(value):
            raise BadRequest(f"{name}: expected {expected}, got {value!r:.100}")
        clean[name] = ([] if name == "formats" else None) if value is None else value
    return clean
