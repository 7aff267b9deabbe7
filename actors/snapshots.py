"""Pure: prices of cards as they were sent into columns, or the reason why one is refused.

As with events, all rows are read at once, by column, and what that does not plainly accept is read by itself.
"""

from typing import Any

import numpy as np
import pyarrow as pa

from actors.columns import Reading, filled, is_text, valid
from actors.words import (
    COUNTS,
    VARIANT,
    Named,
    Unknown,
    Unreadable,
    bad,
    coded,
    digits,
    flag,
    integer,
    moment,
    number_of,
    shown,
)
from storage.errors import BadEvent
from storage.events import EXACT, PRICE_CODE, QUOTE_NUMBERS, Array, Column
from storage.records import KIND_CODE, KINDS
from storage.variants import CONDITIONS, CURRENCY, LANGUAGES, Variant, why_no_card, why_no_marketplace

NUMBERS = ("price", *QUOTE_NUMBERS)
DEFAULTS = Variant("", "")
FLAGS = {"true": True, "false": False}  # as tables of texts have them
PRICE_TYPE = PRICE_CODE["trade"]


def understood(event: Any, named: Named, now_us: int) -> dict[str, Any]:
    """The columns in which one price says something; BadEvent says why it is refused."""
    if isinstance(event, Unreadable):
        raise BadEvent(f"{event.field}: {event.reason}")
    if not isinstance(event, dict):
        raise BadEvent(f"price: expected an object, got {shown(event)}")
    place = event.get("marketplace")
    said = {**event, "marketplace": event.get("marketplace_id") if place is None else place}
    symbol = variant(*(said.get(name) for name in VARIANT)).symbol
    at = moment("time", event.get("time"), now_us)
    # A card has one price at a time: its time is what it is known by.
    word: dict[str, Any] = {"ts": at, "trade_no": at, "price_type": PRICE_TYPE}
    if flag("removed", event.get("removed")):
        word["removed"] = True
    elif event.get("price") is None:
        raise bad("price", "a number ≥ 0", None)
    for name in NUMBERS:
        if (value := event.get(name)) is not None:
            number, exact = number_of(name, value)
            if number == 0 and name == "price":
                continue  # nobody offers it
            word[name] = number
            if exact is not None:
                word[EXACT + name] = exact
    for name in COUNTS:
        if (value := event.get(name)) is not None:
            word[name] = integer(name, value, 1 << 63)
    slot = named.slot_of_symbol(symbol)
    if slot is None:
        raise Unknown(symbol)
    kind = KINDS[named.kinds[slot]]
    if kind != "card":
        raise BadEvent(f"card_id: expected {symbol!r} to be a market of kind card, got one of kind {kind}")
    word["market"] = slot
    return word


def variant(card_id: Any, place: Any, condition: Any, is_foil: Any, language: Any, currency: Any) -> Variant:
    """The variant that these values name, None being the default; BadEvent where one of them cannot be."""
    card_id, place = digits(card_id), digits(place)
    if why := why_no_card(card_id) if isinstance(card_id, str) else why_no_card(""):
        raise bad("card_id", why, card_id)
    if why := why_no_marketplace(place) if isinstance(place, str) else why_no_marketplace(""):
        raise bad("marketplace", why, place)
    coded("condition", condition, dict.fromkeys(CONDITIONS, 0))
    coded("language", language, dict.fromkeys(LANGUAGES, 0))
    if currency is not None and not (isinstance(currency, str) and CURRENCY.fullmatch(currency)):
        raise bad("currency", "three capital letters such as USD", currency)
    return Variant(
        card_id,
        place,
        condition or DEFAULTS.condition,
        bool(flag("is_foil", FLAGS.get(is_foil, is_foil) if isinstance(is_foil, str) else is_foil)),
        language or DEFAULTS.language,
        currency or DEFAULTS.currency,
    )


class SnapshotReading(Reading):
    """Reads prices of cards by column."""

    def columns(self) -> dict[str, Column]:
        """The columns of all rows, meaningless in slow ones; cut short by unknown markets unless `final`."""
        self._removed()
        at = self._times("time")
        out: dict[str, Column] = {"ts": at, "trade_no": at}
        out["price_type"] = np.full(self.n, PRICE_TYPE, np.uint8)
        price = self._column("price")
        self.slow |= True if price is None else ~valid(price)
        for name in NUMBERS:
            out.update(self._numbers(name))
        for name in COUNTS:
            if (whole := self._integers(name)) is not None:
                out[name] = whole
        # Last, so that what is refused for another reason brings no market into being.
        entry, symbols = self._symbols()
        found = [None if symbol is None else self._named.slot_of_symbol(symbol) for symbol in symbols]
        used = np.bincount(entry[~self.slow], minlength=len(found)) > 0
        self.unknown = {
            symbol: None
            for symbol, slot, said in zip(symbols, found, used.tolist(), strict=True)
            if symbol is not None and slot is None and said
        }
        slots = np.array([slot or 0 for slot in found], np.int32)
        slots[self._named.kinds[slots] != KIND_CODE["card"]] = 0
        out["market"] = slots[entry]
        self.slow |= out["market"] == 0
        return out

    def _symbols(self) -> tuple[Array, list[str | None]]:
        """Each row's place in a list of the symbols of all variants that are named, None for none that can be."""
        key = np.zeros(self.n, np.int64)
        values: list[list[Any]] = []
        for name in VARIANT:
            codes, found = self._encoded(name)
            values.append(found)
            if len(key) and int(key.max()) >= (1 << 62) // len(found):
                return self._one_by_one()
            key = key * len(found) + codes
        keys, entry = np.unique(key, return_inverse=True)
        symbols: list[str | None] = []
        for each in keys.tolist():
            picked = []
            for found in reversed(values):
                each, at = divmod(each, len(found))
                picked.append(found[at])
            try:
                symbols.append(variant(*reversed(picked)).symbol)
            except BadEvent:
                symbols.append(None)
        return entry, symbols

    def _one_by_one(self) -> tuple[Array, list[str | None]]:
        self.slow[:] = True
        return np.zeros(self.n, np.intp), [None]

    def _encoded(self, name: str) -> tuple[Array, list[Any]]:
        """Each row's place in a list of the values of a column; None is one of them."""
        column = self._column(name)
        if name == "marketplace":
            column = self._marketplace(column)
        if name in ("card_id", "marketplace"):
            column = self._whole(column)
        if column is None:
            return np.zeros(self.n, np.int64), [None]
        kind = column.type
        if not (is_text(column) or pa.types.is_int64(kind) or pa.types.is_boolean(kind)):
            self._odd(column)
            return np.zeros(self.n, np.int64), [None]
        encoded = column if pa.types.is_dictionary(kind) else column.dictionary_encode()
        found = [*encoded.dictionary.to_pylist(), None]
        return filled(encoded.indices, len(found) - 1).astype(np.int64), found

    def _marketplace(self, column: Any) -> Any:
        other = self._column("marketplace_id")
        if column is None or other is None:
            return other if column is None else column
        self.slow |= ~valid(column) & valid(other)
        return column
