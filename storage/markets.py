"""The market registry: put, find by any of its names, search."""

import json
import re
import time
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from msgspec import NODEFAULT, structs

from storage.calendar import Calendar
from storage.decimals import DECIMALS, from_text
from storage.errors import BadRequest, Conflict, UnknownMarket
from storage.events import PRICE_TYPES
from storage.names import Reference, contract_key, folded, joined, qualified, words_in
from storage.ordering import ALL, Order, Wanted
from storage.ordering import slots as slots_of
from storage.records import EXCHANGES, KINDS, PRICE_SOURCES, TYPES, Kind, Market
from storage.search import NOBODY, Busy, ranked, somewhere, starting
from storage.state import Connection, State
from storage.tiers import TIERS
from storage.variants import Variant, pricescale, variant_of

HasEvents = Callable[[int], bool]  # whether the market in this slot has events

FIXED = ("kind", "price_source", "session", "timezone")  # what the first event settles
LONGEST_SYMBOL = 100
LONGEST_QUERY = 200  # what is typed behind it is not looked at
MOST_FOUND = 10_000  # markets in one answer

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

COLUMNS = Market.__struct_fields__
SELECT = f"SELECT {', '.join(COLUMNS)} FROM markets"
STORED = (*COLUMNS, "key", "contract_key", "words", "tags")
INSERT = f"INSERT INTO markets ({', '.join(STORED)}) VALUES ({', '.join('?' * len(STORED))})"
UPDATE = f"UPDATE markets SET {', '.join(f'{name} = ?' for name in STORED)} WHERE slot = ?"
ANY = "SELECT 1 FROM markets WHERE is_active AND kind = ? LIMIT 1"
MATCHING = (
    "SELECT slot FROM markets_text CROSS JOIN markets ON slot = markets_text.rowid "
    "WHERE markets_text MATCH ? AND markets_text.rowid > ? AND {} ORDER BY markets_text.rowid LIMIT ?"
)

_MARKET_ID = COLUMNS.index("market_id")
_KIND = COLUMNS.index("kind")
_IS_ACTIVE = COLUMNS.index("is_active")
_PRICE_SOURCE = COLUMNS.index("price_source")
_DEFAULTS = {f.name: f.default for f in structs.fields(Market) if f.default is not NODEFAULT}
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?")


class Counts(NamedTuple):
    """How many markets there are."""

    registered: int
    active: int


def put(state: State, fields: Mapping[str, object], has_events: HasEvents) -> Market:
    """Register a market, or change the named fields of the one with exactly this symbol."""
    return put_all(state, [fields], has_events)[0]


def put_all(state: State, many: Iterable[Mapping[str, object]], has_events: HasEvents) -> list[Market]:
    """As `put`, for many at once: all of them or, where one is refused, none."""
    cleaned = [validated(fields) for fields in many]
    with state.writing() as db:
        return [_put(db, fields, has_events) for fields in cleaned]


def patch(state: State, symbol: str, fields: Mapping[str, object], has_events: HasEvents) -> Market:
    """Change the named fields of a market; a symbol stays what it is."""
    changes = validated(fields)
    with state.writing() as db:
        market = _named(db, symbol)
        wanted = changes.get("market_symbol", market.market_symbol)
        if wanted != market.market_symbol:
            raise Conflict(f"market_symbol: {market.market_symbol!r} keeps its name; register {wanted!r} beside it")
        return _changed(db, market, changes, has_events)


def deactivate(state: State, symbol: str) -> Market:
    """Take a market off the lists; its history stays and it still answers to its name."""
    with state.writing() as db:
        return _changed(db, _named(db, symbol), {"is_active": False}, lambda _: True)


def found_or_created(state: State, references: Sequence[Reference], kind: Kind) -> list[Market | None]:
    """As `found`, registering what is missing as a market of this kind that says nothing else of itself.

    A market_id alone does not say what to call a market, and a name that no market may bear stays missing. A market
    of kind `card` is that of a variant; its card and marketplace are registered with it.
    """
    with state.writing() as db:
        if kind == "card":
            return _variants(db, [reference if isinstance(reference, str) else "" for reference in references])
        return [_found(db, reference) or _created(db, reference, kind) for reference in references]


def by_symbol(state: State, symbol: str) -> Market | None:
    """The market of this symbol or `EXCHANGE:NAME`, in any case."""
    return found(state, [symbol])[0]


def by_id(state: State, market_id: int) -> Market | None:
    """The market with this market_id."""
    return found(state, [market_id])[0]


def by_contract(state: State, chain_id: int | None, address: str) -> Market | None:
    """The market of the contract at this address of this chain."""
    return found(state, [(chain_id, address)])[0]


def found(state: State, references: Sequence[Reference]) -> list[Market | None]:
    """The market each reference means, in the same order; None where there is none."""
    with state.reading() as db:
        return [_found(db, reference) for reference in references]


def many(state: State, symbols: Sequence[str]) -> dict[str, Market]:
    """The markets of these symbols, each under the name it was asked by; unknown ones are left out."""
    return {name: market for name, market in zip(symbols, found(state, symbols), strict=True) if market}


def by_slots(state: State, slots: Sequence[int]) -> list[Market]:
    """The markets in these slots, in this order; empty slots are left out."""
    with state.reading() as db:
        return _by_slots(db, slots)


def count(state: State) -> Counts:
    """How many markets are registered, and how many of them active."""
    with state.reading() as db:
        return Counts(*db.execute("SELECT registered, active FROM market_counts").fetchone())


def page(state: State, after: int = 0, limit: int = 100, query: str = "", wanted: Wanted = ALL) -> list[Market]:
    """Markets in the order of registration, deactivated ones too, from behind the slot `after`.

    With a query, those that have each of its words: words of three letters anywhere, shorter ones at a word's start.
    """
    limit = max(0, min(limit, MOST_FOUND))
    parts = [somewhere(w) if len(w) > 2 else starting(w) for w in words_in(query[:LONGEST_QUERY])]
    if query.strip() and not parts:
        return []
    where, values = wanted.sql()
    with state.reading() as db:
        if not parts:
            rows = db.execute(f"{SELECT} WHERE slot > ? AND {where} ORDER BY slot LIMIT ?", [after, *values, limit])
            return [_market(row) for row in rows]
        slots = db.execute(MATCHING.format(where), [" AND ".join(parts), after, *values, limit])
        return _by_slots(db, [slot for (slot,) in slots])


def search(
    state: State,
    query: str,
    kind: str | None = None,
    type: str | None = None,
    exchange: str | None = None,
    limit: int = 30,
    busy: Busy = NOBODY,
) -> list[Market]:
    """Active markets for what somebody typed, best first (`ranked`), filtered by what charts call type and exchange.

    Nothing typed: every symbol begins so.
    """
    limit = max(0, min(limit, MOST_FOUND))
    query = query[:LONGEST_QUERY]
    with state.reading() as db:
        kinds = [k for k in _kinds(kind, type, exchange) if db.execute(ANY, [k]).fetchone()]
        exact = _found(db, query)
        slot = exact.slot if exact and exact.is_active and exact.kind in kinds else None
        return _by_slots(db, ranked(db, folded(query), slot, kinds, busy, limit))


def ordered(
    state: State, order: Order, wanted: Wanted = ALL, offset: int = 0, limit: int = 100, busy: Busy = NOBODY
) -> list[Market]:
    """Active markets in an order, `limit` of them behind the first `offset`."""
    with state.reading() as db:
        return _by_slots(db, slots_of(db, order, wanted, busy, offset, min(limit, MOST_FOUND)))


def validated(fields: Mapping[str, object]) -> dict[str, Any]:
    """The fields in the types of Market; BadRequest names the field, what was expected and what came.

    None asks for the default; where a market has none, it says nothing.
    """
    clean: dict[str, Any] = {}
    for name, value in fields.items():
        check = CHECKS.get(name)
        if check is None:
            raise BadRequest(f"{name:.60}: a market has no such field; it has {', '.join(CHECKS)}")
        if value is not None:
            clean[name] = check(name, value)
        elif name in _DEFAULTS:
            clean[name] = _DEFAULTS[name]
        elif name == "price_source":
            clean[name] = None
    return clean


# --- one row ---------------------------------------------------------------------------------------------------------


def _put(db: Connection, fields: dict[str, Any], has_events: HasEvents) -> Market:
    symbol = fields.get("market_symbol")
    if symbol is None:
        raise BadRequest("market_symbol: needed, to register a market or to say which one to change")
    known = _where(db, "key = ?", [folded(symbol)])
    if known is None:
        return _registered(db, fields)
    if known.market_symbol != symbol:
        raise Conflict(f"market_symbol: {symbol!r} is taken by {known.market_symbol!r}; case makes no difference")
    kind = fields.get("kind", known.kind)
    if kind != known.kind and not has_events(known.slot):  # with events nothing changes it
        raise Conflict(f"kind: {symbol!r} is registered as {known.kind!r}, not {kind!r}")
    return _changed(db, known, fields, has_events)


def _registered(db: Connection, fields: dict[str, Any]) -> Market:
    if fields.get("kind", "perp") != "card" and variant_of(fields["market_symbol"]):
        raise BadRequest(f"kind: expected card for {fields['market_symbol']!r}, which names a variant of a card")
    slot = int(db.execute("SELECT coalesce(max(slot), 0) + 1 FROM markets").fetchone()[0])
    kind: Kind = fields.get("kind", "perp")
    market = Market(
        **{
            "kind": kind,
            "created_timestamp": time.time_ns() // 1_000_000 * 1000,
            **fields,
            "price_source": fields.get("price_source") or PRICE_SOURCES[kind],
            "market_id": fields["market_id"] if "market_id" in fields else _free_id(db, slot),
            "slot": slot,
        }
    )
    _see_calendar(market)
    _see_free(db, market, None)
    db.execute(INSERT, _row(market))
    return market


# Of all these names at once: there may be 100,000.
_AMONG = "IN (SELECT value FROM json_each(?))"


def _variants(db: Connection, symbols: Sequence[str]) -> list[Market | None]:
    """The markets of these variants; None where a symbol names no variant, or is taken."""
    keys = [folded(symbol) for symbol in symbols]
    full = {key: f"{folded(EXCHANGES['card'])}:{key}" for key in keys}
    rows = db.execute(f"{SELECT} WHERE key {_AMONG}", [json.dumps([*keys, *full.values()])])
    known: dict[str, Market] = {folded(market.market_symbol): market for market in map(_market, rows)}
    wanted = {
        key: variant
        for key, symbol in zip(keys, symbols, strict=True)
        if key not in known and full[key] not in known and (variant := variant_of(symbol))
    }
    if wanted:
        new = _new_variants(db, wanted.values())
        db.executemany(INSERT, [_row(market) for market in new])
        known.update(zip(wanted, new, strict=True))
    return [known.get(key) for key in keys]


def _new_variants(db: Connection, variants: Collection[Variant]) -> list[Market]:
    """Markets for these variants, not yet stored, with the slots and ids that come next; their cards are."""
    cards = {folded(variant.card_id): variant.card_id for variant in variants}
    db.executemany("INSERT OR IGNORE INTO cards (key, id) VALUES (?, ?)", list(cards.items()))
    places = {folded(variant.marketplace): variant.marketplace for variant in variants}
    db.executemany("INSERT OR IGNORE INTO marketplaces (key, id) VALUES (?, ?)", list(places.items()))
    names = dict(db.execute(f"SELECT key, coalesce(name, id) FROM cards WHERE key {_AMONG}", [json.dumps([*cards])]))
    slot = int(db.execute("SELECT coalesce(max(slot), 0) + 1 FROM markets").fetchone()[0])
    last = slot + len(variants) - 1
    taken = db.execute("SELECT 1 FROM markets WHERE market_id BETWEEN ? AND ? LIMIT 1", [slot, last]).fetchone()
    first = _free_id(db, slot) if taken is None else _highest_id(db) + 1
    now = time.time_ns() // 1_000_000 * 1000
    return [
        Market(
            slot=slot + i,
            market_id=first + i,
            market_symbol=variant.symbol,
            kind="card",
            name=f"{names[folded(variant.card_id)]} ({variant.described})"[:200],
            base_asset=variant.card_id,
            quote_asset=variant.currency,
            created_timestamp=now,
            price_source=PRICE_SOURCES["card"],
            pricescale=pricescale(variant.currency),
        )
        for i, variant in enumerate(variants)
    ]


def _changed(db: Connection, old: Market, fields: dict[str, Any], has_events: HasEvents) -> Market:
    if fields.get("kind", old.kind) != old.kind:
        fields = {"price_source": None, **fields}  # the old kind's default would make no sense
    if "price_source" in fields and fields["price_source"] is None:
        fields = {**fields, "price_source": PRICE_SOURCES[fields.get("kind", old.kind)]}
    new = structs.replace(old, **fields)
    if new == old:
        return old
    settled = [name for name in FIXED if getattr(new, name) != getattr(old, name)]
    if settled:
        _see_calendar(new)
        if has_events(old.slot):
            name = settled[0]
            raise Conflict(f"{name}: {old.market_symbol!r} has events, so it stays {_plain(getattr(old, name))}")
    _see_free(db, new, old)
    db.execute(UPDATE, [*_row(new), old.slot])
    return new


def _created(db: Connection, reference: Reference, kind: Kind) -> Market | None:
    match reference:
        case str(symbol):
            fields: dict[str, object] = {"market_symbol": symbol.strip()}
        case (chain, address):
            # The same address on another chain is another contract.
            taken = _found(db, address) is not None
            name = address.strip() if not taken or chain is None else f"{chain}:{address.strip()}"
            fields = {"market_symbol": name, "chain_id": chain, "contract_address": address.strip()}
        case _:
            return None
    try:
        return _registered(db, validated({**fields, "kind": kind}))
    except (BadRequest, Conflict):
        return None


def beginning(db: Connection, low: str, high: str) -> list[Market]:
    """The markets with low ≤ key < high, in order."""
    return [_market(row) for row in db.execute(f"{SELECT} WHERE key >= ? AND key < ? ORDER BY key", [low, high])]


def named_again(db: Connection, market: Market, name: str) -> Market:
    """The same market under another name, stored."""
    new = structs.replace(market, name=name)
    db.execute(UPDATE, [*_row(new), market.slot])
    return new


def _see_calendar(market: Market) -> None:
    Calendar.parse(market.session, market.timezone)


def _see_free(db: Connection, new: Market, old: Market | None) -> None:
    """Conflict where another market answers to one of the names that this one is about to take."""
    key = folded(new.market_symbol)
    if old is None or old.kind != new.kind:
        others = [_found(db, new.market_symbol), _where(db, "key = ?", [f"{folded(new.exchange)}:{key}"])]
        for other in others:
            if other and other.slot != new.slot:
                full = f"{other.exchange}:{other.market_symbol}"
                raise Conflict(f"market_symbol: {new.market_symbol!r} would be mistaken for {full!r}")
    if old is None or old.market_id != new.market_id:
        other = _found(db, new.market_id)
        if other:
            raise Conflict(f"market_id: {new.market_id} is taken by {other.market_symbol!r}")
    if new.contract_address is not None:
        other = _at(db, new.chain_id, contract_key(new.contract_address))
        if other and other.slot != new.slot:
            chain = "without a chain" if new.chain_id is None else f"on chain {new.chain_id}"
            what = f"{new.contract_address} {chain}"
            raise Conflict(f"contract_address: {what} is taken by {other.market_symbol!r}")


def _free_id(db: Connection, slot: int) -> int:
    if _found(db, slot) is None:
        return slot
    highest = _highest_id(db)
    if highest < 2**63 - 1:
        return highest + 1
    raise Conflict("market_id: none can be assigned above 9223372036854775807; give one")


def _highest_id(db: Connection) -> int:
    """Unless it is the last of them, the next id is free: those of 2**63 and more are stored as negative numbers."""
    return int(db.execute("SELECT max(market_id) FROM markets").fetchone()[0])


def _row(market: Market) -> list[object]:
    row: list[object] = list(structs.astuple(market))
    row[_MARKET_ID] = market.market_id - (market.market_id >> 63 << 64)
    row[_PRICE_SOURCE] = ",".join(market.price_source)
    address = market.contract_address
    tags = f"{market.kind} active" if market.is_active else market.kind
    return [*row, folded(market.market_symbol), address and contract_key(address), _words(market), tags]


def _market(row: Sequence[Any]) -> Market:
    columns = dict(zip(COLUMNS, row, strict=True))
    columns["market_id"] %= 2**64
    columns["is_active"] = bool(columns["is_active"])
    columns["price_source"] = _SOURCES.setdefault(row[_PRICE_SOURCE], tuple(row[_PRICE_SOURCE].split(",")))
    for name in _SHARED:
        columns[name] = _SHARED_TEXTS.setdefault(columns[name], columns[name])
    return Market(**columns)


# Texts that many markets have in common are kept once; the values are few, because each is checked against a list.
_SOURCES: dict[str, tuple[str, ...]] = {}
_SHARED = ("kind", "session", "timezone", "tier")
_SHARED_TEXTS: dict[str | None, str | None] = {}


def _words(market: Market) -> str:
    """What search looks in: each word with two blanks before it."""
    symbol = words_in(market.market_symbol)
    # BTCUSD finds BTC/USD; of a variant's six words together nobody knows the order.
    whole = [] if variant_of(market.market_symbol) else [joined(market.market_symbol)]
    texts = (market.name, market.description)
    return "".join(
        f"  {w}" for w in dict.fromkeys([*symbol, *whole, *(w for t in texts if t for w in words_in(t))]) if w
    )


# --- finding ---------------------------------------------------------------------------------------------------------


def _named(db: Connection, symbol: str) -> Market:
    market = _found(db, symbol)
    if market is None:
        raise UnknownMarket(symbol)
    return market


def _found(db: Connection, reference: Reference) -> Market | None:
    match reference:
        case str(symbol):
            key = folded(symbol)
            market = _where(db, "key = ?", [key])
            kind, rest = qualified(key)
            if market is None and kind is not None:
                market = _where(db, "key = ? AND kind = ?", [rest, kind])
            return market
        case int(market_id):
            if not 0 <= market_id < 2**64:
                return None
            return _where(db, "market_id = ?", [market_id - (market_id >> 63 << 64)])
        case (chain, address):
            return _at(db, chain, contract_key(address)) or _elsewhere(db, chain, contract_key(address))


def _at(db: Connection, chain: int | None, key: str) -> Market | None:
    """The market that names exactly this contract and this chain, or none."""
    if chain is not None and not 0 <= chain < 2**63:
        return None
    return _where(db, "contract_key = ? AND coalesce(chain_id, -1) = ?", [key, -1 if chain is None else chain])


def _elsewhere(db: Connection, chain: int | None, key: str) -> Market | None:
    """The market that is meant though it does not say so; see `Reference`."""
    if chain is not None:
        return _at(db, None, key)
    rows = db.execute(f"{SELECT} WHERE contract_key = ? LIMIT 2", [key]).fetchall()
    return _market(rows[0]) if len(rows) == 1 else None


def _where(db: Connection, condition: str, values: list[object]) -> Market | None:
    row = db.execute(f"{SELECT} WHERE {condition}", values).fetchone()
    return None if row is None else _market(row)


def _by_slots(db: Connection, slots: Sequence[int]) -> list[Market]:
    return [market for slot in slots if (market := _where(db, "slot = ?", [slot]))]


def _kinds(kind: str | None, type: str | None, exchange: str | None) -> list[Kind]:
    """The kinds that pass all filters; an empty filter passes everything."""
    return [
        k
        for k in KINDS
        if (not kind or k == kind)
        and (not type or folded(TYPES[k]) == folded(type))
        and (not exchange or folded(EXCHANGES[k]) == folded(exchange))
    ]


# --- fields ----------------------------------------------------------------------------------------------------------


def _refused(name: str, expected: str, value: object) -> BadRequest:
    return BadRequest(f"{name}: expected {expected}, got {_plain(value)}")


def _plain(value: object) -> str:
    return ", ".join(value) if isinstance(value, tuple) else f"{value!r:.100}"


def _symbol(name: str, value: object) -> str:
    expected = f"1 to {LONGEST_SYMBOL} printable characters without a comma and without blanks around them"
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_SYMBOL or not value.isprintable():
        raise _refused(name, expected, value)
    # Lists of symbols in requests are joined by commas; `.` and `..` vanish from paths.
    if value != value.strip() or "," in value or value in (".", ".."):
        raise _refused(name, expected, value)
    return value


def _text(longest: int, *, lines: bool = False) -> Callable[[str, object], str]:
    def check(name: str, value: object) -> str:
        if isinstance(value, str) and len(value) <= longest:
            bare = value.replace("\n", "").replace("\t", "") if lines else value
            if not any(unicodedata.category(c) in ("Cc", "Cs") for c in bare):
                return value
        raise _refused(name, f"a text of at most {longest} characters, none of them a control character", value)

    return check


def _integer(low: int, high: int) -> Callable[[str, object], int]:
    def check(name: str, value: object) -> int:
        # As text too, because a browser's numbers end at 2**53.
        digits = isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 20
        whole = isinstance(value, float) and value.is_integer()
        number = int(value) if digits or whole else value  # type: ignore[call-overload]  # one of the two, as just seen
        if isinstance(number, bool) or not isinstance(number, int) or not low <= number <= high:
            raise _refused(name, f"an integer from {low} to {high}", value)
        return number

    return check


def _decimal(name: str, value: object) -> str:
    """The decimal's plain text, without exponent, sign or closing zeros."""
    expected = "a decimal number ≥ 0 with at most 20 digits before the point and 18 behind it"
    text = value if isinstance(value, str) else repr(value) if isinstance(value, int | float) else ""
    if isinstance(value, bool) or len(text) > 100 or not _DECIMAL.fullmatch(text):
        raise _refused(name, expected, value)
    try:
        units = from_text(text)
    except ValueError:
        raise _refused(name, expected, value) from None
    if units < 0:
        raise _refused(name, expected, value)
    whole, part = divmod(units, 10**DECIMALS)
    return f"{whole}.{part:0{DECIMALS}}".rstrip("0").rstrip(".")


def _one_of(allowed: Sequence[str]) -> Callable[[str, object], str]:
    def check(name: str, value: object) -> str:
        if not isinstance(value, str) or value not in allowed:
            raise _refused(name, f"one of {', '.join(allowed)}", value)
        return value

    return check


def _truth(name: str, value: object) -> bool:
    if value not in (True, False):  # 0 and 1 are equal to them
        raise _refused(name, "true or false", value)
    return bool(value)


def _sources(name: str, value: object) -> tuple[str, ...]:
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list | tuple) or not given or any(g not in PRICE_TYPES for g in given):
        raise _refused(name, f"one or more of {', '.join(PRICE_TYPES)}", value)
    return tuple(p for p in PRICE_TYPES if p in given)


def _instant(name: str, value: object) -> int:
    """Microseconds since 1970, whole milliseconds."""
    expected = "milliseconds since 1970 or an ISO 8601 time with its zone"
    millis = value
    try:
        if isinstance(value, str) and not value.isdigit():
            at = datetime.fromisoformat(value)
            millis = (at - EPOCH) // timedelta(milliseconds=1)
        # Before: seconds that pass for milliseconds. Behind: microseconds and nanoseconds that do.
        return _integer(100_000_000_000, 10_000_000_000_000)(name, millis) * 1000
    except (ValueError, TypeError, BadRequest):  # TypeError: a time without a zone cannot be subtracted
        raise _refused(name, expected, value) from None


def _address(name: str, value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 128 or not value.isprintable() or " " in value:
        raise _refused(name, "an address of 1 to 128 printable characters without blanks", value)
    return value


def _url(name: str, value: object) -> str:
    # Pages make links and images of these: no other scheme may get there.
    ok = isinstance(value, str) and len(value) <= 2048 and value.isprintable() and " " not in value
    if not ok or not isinstance(value, str) or not value.lower().startswith(("http://", "https://")):
        raise _refused(name, "an address that begins with http:// or https://", value)
    return value


CHECKS: dict[str, Callable[[str, object], object]] = {
    "market_id": _integer(0, 2**64 - 1),
    "market_symbol": _symbol,
    "kind": _one_of(KINDS),
    "contract_address": _address,
    "chain_id": _integer(0, 2**63 - 1),
    "vault_address": _address,
    "oracle_address": _address,
    "name": _text(200),
    "description": _text(2000, lines=True),
    "category": _text(100),
    "base_asset": _text(100),
    "quote_asset": _text(100),
    "min_trade_size": _decimal,
    "max_leverage": _decimal,
    "trading_fee_rate": _decimal,
    "funding_interval": _integer(0, 2**32 - 1),
    "is_active": _truth,
    "created_timestamp": _instant,
    "deployment_block": _integer(0, 2**63 - 1),
    "creator_address": _address,
    "icon_url": _url,
    "banner_url": _url,
    "website_url": _url,
    "tier": _one_of(TIERS),
    "supply": _decimal,
    "price_source": _sources,
    "session": _text(1000),
    "timezone": _text(100),
    "pricescale": _integer(1, 10**18),
    "minmov": _integer(1, 10**9),
}
