"""Pure: one event as it was sent into what it says, or the reason why it is refused."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from storage import decimals
from storage.calendar import Calendar
from storage.errors import BadEvent, UnknownMarket
from storage.events import (
    BAR_COUNTS,
    BAR_NUMBERS,
    EVENT_CODE,
    EXACT,
    INTEGERS,
    NUMBERS,
    PRICE_CODE,
    QUOTE_NUMBERS,
    TEXTS,
    TRADE_NUMBERS,
    Array,
    Column,
    Events,
)
from storage.names import Reference
from storage.records import KINDS

AHEAD = 300_000_000  # µs that an event may be ahead of the clock
# Numbers below this are refused: as milliseconds they would lie before 3 March 1973, as seconds before the year 5139.
# ISO 8601 and Arrow's timestamps leave no doubt, and count from 1970.
LEAST_MS = 10**11
MICROSECONDS, NANOSECONDS = 10**14, 10**17  # from here on a number is no millisecond anymore
TEXT = 200  # characters of any text
DIGITS = 80  # characters of a number sent as text

# The same fields as contract indexers in TypeScript call them.
ALIASES = {
    "contract_address": "contractAddress",
    "event_type": "eventType",
    "transaction_hash": "transactionHash",
    "log_index": "logIndex",
    "block_number": "blockNumber",
    "chain_id": "chainId",
    "user_address": "user",
    "position_id": "positionId",
    "is_long": "isLong",
}
# What a producer says about an event: where he has it from, and why he cannot read it, if he cannot.
ABOUT = ("origin", "unreadable")
FIELDS = (
    *("market_symbol", "market_id", "chain_id", "contract_address", "timestamp", "event_type", "price_type"),
    *("is_long", "side", "removed", "block_number", "log_index", *TRADE_NUMBERS, *TEXTS, *ABOUT),
)
KNOWN = frozenset(FIELDS) | frozenset(ALIASES.values())
# What tells the prices of a card apart, and all that a price of a card may say.
VARIANT = ("card_id", "marketplace", "condition", "is_foil", "language", "currency")
COUNTS = ("num_listings", "total_quantity")
CARD_FIELDS = frozenset(("time", *VARIANT, "marketplace_id", "price", *QUOTE_NUMBERS, *COUNTS, "removed", *ABOUT))
BAR_FIELDS = frozenset(  # all that a finished bar may say
    (
        *("market_symbol", "market_id", "chain_id", "chainId", "contract_address", "contractAddress", "timestamp"),
        *("resolution", "removed", "volume", "funding_rate", "open_interest", "total_quantity"),
        *(*BAR_NUMBERS, *BAR_COUNTS, *ABOUT),
    )
)
NOT_NEGATIVE = frozenset(NUMBERS) - {"fee", "pnl", "funding_rate", "bid_ask_spread", "total_fees"}
NOTHING_AT_ZERO = ("price", "fee")  # 0 says the same as nothing
PLACES = ("chain_id", "block_number", "log_index")
SIDES = {"sell": 0, "buy": 1}
TRADED = ("perp", "spot")  # kinds of market that take events

Mask = NDArray[np.bool_]


class Named(Protocol):
    """What the names of markets mean, from memory only; None: not known there."""

    kinds: Array  # by slot: index into KINDS
    chains: Array  # by slot; -1: on none

    def slot_of_symbol(self, symbol: str) -> int | None:
        """Without regard to case."""

    def slot_of_id(self, market_id: int) -> int | None: ...

    def slot_of_contract(self, chain_id: int | None, address: str) -> int | None: ...

    def calendar(self, slot: int, /) -> Calendar: ...


class Micros(int):
    """An instant in µs since 1970 that was sent as a timestamp, so that there is no doubt about its unit."""


class Unknown(Exception):
    def __init__(self, reference: Reference) -> None:
        self.reference = reference


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands for an event that is JSON but holds a number, or half a character, that nobody reads."""

    reason: str
    market_symbol: object = None
    field: str = "event"


def no_market(reference: Reference) -> str:
    match reference:
        case str():
            return str(UnknownMarket(reference))
        case int():
            return f"no market with market_id {reference}"
        case (None, address):
            return f"no market with contract_address {shown(address)}"
        case (chain, address):
            return f"no market with contract_address {shown(address)} on chain {chain}"


def shown(value: Any) -> str:
    """A value as it was sent, shortened."""
    match value:
        case Micros():
            text = iso(value)
        case Decimal():
            text = str(value)
        case int() if abs(value) >= 10**80:
            text = f"an integer of {value.bit_length()} bits"
        case _:
            text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def bad(name: str, expected: str, value: Any) -> BadEvent:
    return BadEvent(f"{name}: expected {expected}, got {'nothing' if value is None else shown(value)}")


# One event by itself.


def see_readable(event: Any) -> None:
    """Raise BadEvent where its producer could not read it."""
    if not isinstance(event, dict) or (reason := event.get("unreadable")) is None:
        return
    if not isinstance(reason, str):
        raise bad("unreadable", "a text that says why", reason)
    # Whoever counts reasons by field is not to count whatever anybody makes up.
    known = reason.partition(":")[0] in KNOWN | CARD_FIELDS | BAR_FIELDS
    raise BadEvent(reason[:TEXT] if known else f"event: {reason[:TEXT]}")


def given(event: Mapping[str, Any], name: str) -> Any:
    value = event.get(name)
    if value is None and name in ALIASES:
        value = event.get(ALIASES[name])
    return value


def understood(event: Any, named: Named, now_us: int) -> dict[str, Any]:
    """The columns in which one event says something; BadEvent says why it is refused."""
    if isinstance(event, Unreadable):
        raise BadEvent(f"{event.field}: {event.reason}")
    if not isinstance(event, dict):
        raise BadEvent(f"event: expected an object, got {shown(event)}")
    reference = market_of(event)
    slot = slot_named(named, reference)
    if slot is None:
        raise Unknown(reference)
    kind = KINDS[named.kinds[slot]]
    if kind not in TRADED:
        raise BadEvent(f"market: expected a perp or spot market, got one of kind {kind}")
    word: dict[str, Any] = {"market": slot}
    removed = flag("removed", event.get("removed"))
    if removed:
        word["removed"] = True
    if not removed or event.get("timestamp") is not None:
        word["ts"] = moment("timestamp", event.get("timestamp"), now_us)
    code = coded("event_type", given(event, "event_type"), EVENT_CODE)
    word["event"] = 0 if code is None else code
    code = coded("price_type", event.get("price_type"), PRICE_CODE)
    word["price_type"] = usual_price_type(kind, word["event"]) if code is None else code
    for name in TRADE_NUMBERS:
        if (value := event.get(name)) is not None:
            number, exact = number_of(name, value)
            if number == 0 and name in NOTHING_AT_ZERO:
                continue
            word[name] = number
            if exact is not None:
                word[EXACT + name] = exact
    _one_size(word)
    side = _side(given(event, "is_long"), event.get("side"))
    if side is not None:
        word["side"] = side
    for name in PLACES:
        if (value := given(event, name)) is not None:
            word[name] = integer(name, value, 1 << 63)
    for name in ("user_address", "position_id", "transaction_hash"):
        if (value := given(event, name)) is not None and (text := _text(name, value)):
            word[name] = text
    if "transaction_hash" in word and "chain_id" not in word and named.chains[slot] >= 0:
        word["chain_id"] = int(named.chains[slot])
    if (value := event.get("trade_id")) is not None:
        _trade_id(word, value)
    if removed and not (
        "trade_no" in word or "trade_id" in word or ("transaction_hash" in word and "log_index" in word)
    ):
        raise BadEvent("removed: expected a transaction_hash with a log_index, or a trade_id, got neither")
    return word


def market_of(event: Mapping[str, Any]) -> Reference:
    """Which market an event names, and how."""
    if (symbol := event.get("market_symbol")) is not None:
        if not isinstance(symbol, str) or not 0 < len(symbol) <= TEXT:
            raise bad("market_symbol", f"a text of 1 to {TEXT} characters", symbol)
        return symbol
    if (number := event.get("market_id")) is not None:
        return integer("market_id", number, 1 << 64)
    if (address := given(event, "contract_address")) is not None:
        text = _text("contract_address", address)
        if text:
            chain = given(event, "chain_id")
            return (None if chain is None else integer("chain_id", chain, 1 << 63), text)
    raise BadEvent("market_symbol: expected it, or a market_id, or a chain_id with a contract_address, got nothing")


def slot_named(named: Named, reference: Reference) -> int | None:
    match reference:
        case str():
            return named.slot_of_symbol(reference)
        case int():
            return named.slot_of_id(reference)
        case (chain, address):
            return named.slot_of_contract(chain, address)


def usual_price_type(kind: str, event: int) -> int:
    if kind == "spot":
        return PRICE_CODE["trade"]
    return PRICE_CODE["liquidation" if event == EVENT_CODE["PositionLiquidated"] else "mark"]


def coded(name: str, value: Any, codes: Mapping[str, int]) -> int | None:
    if value is None:
        return None
    code = codes.get(value) if isinstance(value, str) else None
    if code is None:
        raise bad(name, f"one of {', '.join(codes)}", value)
    return code


def flag(name: str, value: Any) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    if type(value) is int and value in (0, 1):
        return bool(value)
    raise bad(name, "true or false", value)


def _side(is_long: Any, side: Any) -> int | None:
    by_flag = flag("is_long", is_long)
    by_name = side if isinstance(side, bool) else coded("side", side.lower() if isinstance(side, str) else side, SIDES)
    if by_flag is None:
        return None if by_name is None else int(by_name)
    if by_name is not None and by_flag != by_name:
        raise bad("side", "buy where is_long is true and sell where it is false", side)
    return int(by_flag)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICRO = timedelta(microseconds=1)


def iso(micros: int) -> str:
    try:
        return (_EPOCH + micros * _MICRO).isoformat().replace("+00:00", "Z")
    except OverflowError:
        return f"{micros} µs"


def instant(text: str) -> int | None:
    """µs since 1970 of an ISO 8601 text with a zone; None where it is none."""
    if not 20 <= len(text) <= 40:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return None if at.tzinfo is None else (at - _EPOCH) // _MICRO


def moment(name: str, value: Any, now_us: int) -> int:
    """µs since 1970 of a time as it was sent; BadEvent where it is none, or is in the future."""
    expected = "milliseconds since 1970, or ISO 8601 with a zone"
    if isinstance(value, Micros):
        micros = int(value)
    elif isinstance(value, str):
        found = instant(value)
        if found is None:
            raise bad(name, expected, value)
        micros = found
    elif type(value) is int or (type(value) is float and abs(value) < float("inf")):
        if not LEAST_MS <= value < MICROSECONDS:
            unit = "seconds" if value < LEAST_MS else "microseconds" if value < NANOSECONDS else "nanoseconds"
            like = f", which looks like {unit}" if value >= 10**8 else ""
            raise BadEvent(f"{name}: expected {expected}, got {shown(value)}{like}")
        micros = round(value * 1000)
    else:
        raise bad(name, expected, value)
    if micros < 0:
        raise bad(name, "a time from 1970 on", value)
    if micros > now_us + AHEAD:
        raise BadEvent(
            f"{name}: expected at most 5 minutes ahead of the clock, got {shown(value)}, "
            f"which is {timedelta(seconds=(micros - now_us) // 1_000_000)} ahead"
        )
    return micros


_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def number_of(name: str, value: Any) -> tuple[float, int | None]:
    """A number as a float, and in units of 1e-18 where that is not what the float's shortest text says."""
    expected = "a number ≥ 0" if name in NOT_NEGATIVE else "a number"
    if type(value) is float:
        number, text = value, repr(value)
    elif type(value) is int and abs(value) < 10**decimals.DIGITS:
        number, text = float(value), str(value)
    elif isinstance(value, str) and len(value) <= DIGITS and _NUMBER.fullmatch(value):
        number, text = float(value), value
    elif type(value) is int:
        raise bad(name, f"at most {decimals.DIGITS} digits before the point", value)
    elif isinstance(value, str) and len(value) > DIGITS:
        raise bad(name, f"{expected}, as a text of at most {DIGITS} characters", value)
    else:
        raise bad(name, expected, value)
    if name in NOT_NEGATIVE and not number >= 0:
        raise bad(name, expected, value)
    try:
        exact = decimals.from_text(text)
    except ValueError:
        if not abs(number) < float("inf") and type(value) is float:
            raise bad(name, "a finite number", value) from None
        fits = f"at most {decimals.DECIMALS} decimals and {decimals.DIGITS} digits before the point"
        raise bad(name, fits, value) from None
    number += 0.0  # there is no other zero than 0
    return number, None if type(value) is float or _shortest(number) == exact else exact


def _shortest(number: float) -> int | None:
    try:
        return decimals.from_text(repr(number))
    except ValueError:
        return None


def _one_size(word: dict[str, Any]) -> None:
    """Size and volume are the same number unless both are given."""
    exact = word.get(EXACT + "size")
    if "size" in word and "volume" not in word:
        word["volume"] = word["size"]
        if exact is not None:
            word[EXACT + "volume"] = exact
    if "size" in word and word["volume"] == word["size"] and word.get(EXACT + "volume") == exact:
        del word["size"]
        word.pop(EXACT + "size", None)


_WHOLE = re.compile(r"0|[1-9][0-9]{0,19}")


def _whole(value: Any) -> int | None:
    """An integer, or what plainly is one: its digits as text, or a float without a fraction, as tables make of them."""
    if type(value) is int:
        return value
    if type(value) is float and abs(value) < 2.0**53 and value == int(value):
        return int(value)
    return int(value) if isinstance(value, str) and _WHOLE.fullmatch(value) else None


def integer(name: str, value: Any, end: int) -> int:
    number = _whole(value)
    if number is None or not 0 <= number < end:
        raise bad(name, f"an integer from 0 to {end - 1}", value)
    return number


def _text(name: str, value: Any) -> str:
    text = digits(value)
    if not isinstance(text, str) or len(text) > TEXT:
        raise bad(name, f"a text of at most {TEXT} characters", value)
    return folded(text)


def digits(value: Any) -> Any:
    """An integer as text; anything else as it is."""
    number = None if isinstance(value, str) else _whole(value)
    return value if number is None or abs(number) >= 10**TEXT else str(number)


def folded(text: str) -> str:
    """Hexadecimal is the same in either case; checksummed and plain addresses are one."""
    return text.encode().lower().decode() if text[:2] in ("0x", "0X") else text


def _trade_id(word: dict[str, Any], value: Any) -> None:
    whole = type(value) is not float  # one that looks whole may have lost its last digits
    number = _whole(value) if whole else None
    if number is not None and 0 <= number < 1 << 63:
        word["trade_no"] = number
        return
    text = digits(value)
    if not whole or not isinstance(text, str) or not 0 < len(text) <= TEXT:
        raise bad("trade_id", f"an integer, or a text of 1 to {TEXT} characters", value)
    word["trade_id"] = text


def assembled(words: Sequence[Mapping[str, Any]]) -> Events:
    columns: dict[str, Column] = {}
    for name in dict.fromkeys(name for word in words for name in word):
        if name in INTEGERS:
            dtype, nothing = INTEGERS[name]
            columns[name] = np.array([word.get(name, nothing) for word in words], dtype)
        elif name in NUMBERS:
            columns[name] = np.array([word.get(name, np.nan) for word in words], np.float64)
        elif name in TEXTS:
            columns[name] = pa.array([word.get(name) for word in words], pa.string())
        else:
            amounts = decimals.from_ints([word.get(name, 0) for word in words])
            columns[name] = decimals.arrow(amounts, np.array([name in word for word in words]))
    return Events(len(words), columns)


_ORDER = (*INTEGERS, *(column for name in NUMBERS for column in (name, EXACT + name)), *TEXTS)


def lean(columns: Mapping[str, Column]) -> dict[str, Column]:
    """The columns without those that say nothing anywhere, in one order."""
    return {name: columns[name] for name in _ORDER if name in columns and _says(name, columns[name])}


def _says(name: str, column: Column) -> bool:
    if name in INTEGERS:
        nothing = INTEGERS[name][1]
        return bool(len(column)) and bool(column[0] != nothing or (column != nothing).any())
    if name in NUMBERS:
        return bool(len(column)) and bool(column[0] == column[0] or (column == column).any())
    return bool(column.null_count < len(column))
