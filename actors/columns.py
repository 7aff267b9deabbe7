"""Pure: all events of a request read at once, by column.

Every check runs over whole columns. What it does not plainly accept is left to `actors/words.py`, event by event, which
alone words reasons: so both ways agree.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from actors.bodies import Batch
from actors.words import (
    AHEAD,
    ALIASES,
    LEAST_MS,
    MICROSECONDS,
    NOT_NEGATIVE,
    NOTHING_AT_ZERO,
    PLACES,
    SIDES,
    TEXT,
    TRADED,
    Mask,
    Named,
    folded,
    instant,
    usual_price_type,
)
from storage import decimals
from storage.decimals import DECIMALS
from storage.events import DECIMAL, EVENT_CODE, EXACT, PRICE_CODE, TRADE_NUMBERS, Array, Column
from storage.names import Reference
from storage.records import KIND_CODE


class Reading:
    """Reads a batch by column; `slow` becomes true where a row must be read by itself."""

    kinds: ClassVar[Sequence[str]] = TRADED  # of market that are taken

    def __init__(self, batch: Batch, named: Named, now_us: int, final: bool) -> None:
        self.n = batch.n
        self.slow = batch.odd.copy()
        if (unreadable := batch.columns.get("unreadable")) is not None:
            self.slow |= valid(unreadable)
        self.unknown: dict[Reference, None] = {}
        self._given = batch.columns
        self._named = named
        self._now = now_us
        self._final = final

    def columns(self) -> dict[str, Column]:
        """The columns of all rows, meaningless in slow ones; cut short by unknown markets unless `final`."""
        out: dict[str, Column] = {}
        entry, slots = self._markets()
        out["market"] = slots[entry]
        self.slow |= out["market"] == 0
        if self.unknown and not self._final:
            return out
        self._removed()
        out["ts"] = self._times("timestamp")
        events = self._codes("event_type", EVENT_CODE)
        if events is not None:
            out["event"] = np.where(events == _NONE, 0, events).astype(np.uint8)
        out.update(self._price_types(entry, slots, out.get("event")))
        for name in TRADE_NUMBERS:
            out.update(self._numbers(name))
        self._one_size(out)
        if (side := self._sides()) is not None:
            out["side"] = side
        for name in PLACES:
            if (whole := self._integers(name)) is not None:
                out[name] = whole
        for name in ("user_address", "position_id", "transaction_hash"):
            if (text := self._texts(name)) is not None:
                out[name] = text
        if "transaction_hash" in out:
            self._chains(out, entry, slots)
        out.update(self._trade_ids())
        return out

    def _column(self, name: str) -> Any:
        """The Arrow array that says this, None where nothing does."""
        found = self._given.get(name)
        alias = self._given.get(ALIASES[name]) if name in ALIASES else None
        if found is None or alias is None:
            return alias if found is None else found
        self.slow |= ~valid(found) & valid(alias)
        return found

    def _odd(self, column: Any) -> None:
        """This column is not of a type that is read whole."""
        self.slow |= valid(column)

    def _markets(self) -> tuple[Array, Array]:
        """For every row the place of its market in a list of the slots named; slot 0 is none."""
        entry, references, slot_of = self._references()
        found = [0 if reference is None else slot_of(reference) for reference in references]
        if None in found:
            # A dictionary may hold what no row says.
            used = (np.bincount(entry, minlength=len(found)) > 0).tolist()
            absent = [r for r, slot, said in zip(references, found, used, strict=True) if slot is None and said]
            self.unknown = {r: None for r in absent if not isinstance(r, str) or 0 < len(r) <= TEXT}
            found = [slot or 0 for slot in found]
        slots = np.array(found, np.int32)
        slots[~np.isin(self._named.kinds[slots], [KIND_CODE[kind] for kind in self.kinds])] = 0
        return entry, slots

    def _references(self) -> tuple[Array, list[Any], Callable[[Any], int | None]]:
        """Each row's place in a list of markets as they are named, None for no name, and who knows them."""
        nowhere = np.zeros(self.n, np.intp), [None], self._named.slot_of_id
        if (symbol := self._column("market_symbol")) is not None:
            if not is_text(symbol):
                self._odd(symbol)
                return nowhere
            entry, texts = self._entries(symbol)
            return entry, texts, self._named.slot_of_symbol
        if (number := self._whole(self._column("market_id"))) is not None:
            if not pa.types.is_int64(number.type):
                self._odd(number)
                return nowhere
            entry, numbers = self._entries(number)
            return entry, [x if x is not None and x >= 0 else None for x in numbers], self._named.slot_of_id
        address, chain = self._column("contract_address"), self._whole(self._column("chain_id"))
        if address is None or not is_text(address) or not (chain is None or pa.types.is_int64(chain.type)):
            self.slow[:] = True
            return nowhere
        entry, texts = self._entries(address)
        texts = [folded(text) if text is not None and 0 < len(text) <= TEXT else None for text in texts]
        if chain is None:
            return entry, [None if text is None else (None, text) for text in texts], self._slot_of_contract
        rows, chains = self._entries(chain)
        pairs, entry = np.unique(entry.astype(np.int64) * len(chains) + rows, return_inverse=True)
        named = [(chains[pair % len(chains)], texts[pair // len(chains)]) for pair in pairs.tolist()]
        contracts = [None if text is None or x is None or x < 0 else (x, text) for x, text in named]
        return entry, contracts, self._slot_of_contract

    def _slot_of_contract(self, contract: tuple[int | None, str]) -> int | None:
        return self._named.slot_of_contract(*contract)

    def _entries(self, column: Any) -> tuple[Array, list[Any]]:
        """Each row's place in a list of different values; rows without a value are slow."""
        encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
        indices = encoded.indices
        if indices.null_count:
            self.slow |= ~valid(indices)
            indices = indices.fill_null(0)
        values = encoded.dictionary.to_pylist()
        return indices.to_numpy(zero_copy_only=False), values or [None]

    def _removed(self) -> None:
        column = self._column("removed")
        if column is not None:
            if pa.types.is_boolean(column.type):
                self.slow |= column.fill_null(False).to_numpy(zero_copy_only=False)
            else:
                self._odd(column)

    def _times(self, name: str) -> Array:
        column = self._column(name)
        end = self._now + AHEAD
        if column is None:
            self.slow[:] = True
            return np.zeros(self.n, np.int64)
        if column.null_count:
            self.slow |= ~valid(column)
        kind = column.type
        if pa.types.is_int64(kind):
            millis: Array = filled(column, 0)
            self._only((millis >= LEAST_MS) & (millis <= end // 1000))
            return np.asarray(millis * 1000)
        if pa.types.is_float64(kind):
            millis = filled(column, 0.0)
            self._only((millis >= LEAST_MS) & (millis < MICROSECONDS))
            # Rows that are slow hold any number: keep them from overflowing.
            micros = np.rint(np.where(self.slow, 0.0, millis) * 1000).astype(np.int64)
        elif pa.types.is_timestamp(kind):
            micros = filled(column.view(pa.int64()), -1)
        elif is_text(column):
            entry, texts = self._entries(column)
            instants = [None if text is None else instant(text) for text in texts]
            micros = np.array([-1 if at is None else at for at in instants], np.int64)[entry]
        else:
            self._odd(column)
            return np.zeros(self.n, np.int64)
        self._only((micros >= 0) & (micros <= end))
        return np.asarray(micros)

    def _only(self, good: Mask) -> None:
        if not good.all():
            self.slow |= ~good

    def _codes(self, name: str, codes: Mapping[str, int], fold: bool = False) -> Array | None:
        """The code of each row's text, _NONE where nothing is said."""
        column = self._column(name)
        if column is None:
            return None
        if not is_text(column):
            self._odd(column)
            return None
        was = self.slow
        self.slow = np.zeros(self.n, np.bool_)
        entry, texts = self._entries(column)
        absent, self.slow = self.slow, was
        found = [codes.get(text.lower() if fold else text, _WRONG) if text is not None else _NONE for text in texts]
        out = np.array(found, np.uint8)[entry]
        if _WRONG in found:
            self.slow |= (out == _WRONG) & ~absent
        if absent.any():
            out[absent] = _NONE
        return out

    def _price_types(self, entry: Array, slots: Array, events: Array | None) -> dict[str, Column]:
        said = self._codes("price_type", PRICE_CODE)
        spot = self._named.kinds[slots] == KIND_CODE["spot"]
        plain = np.where(spot, usual_price_type("spot", 0), usual_price_type("perp", 0)).astype(np.uint8)
        if events is None and said is None:
            return {"price_type": plain[entry]} if plain.any() else {}
        out = plain[entry]
        if events is not None:
            liquidated = EVENT_CODE["PositionLiquidated"]
            out[(events == liquidated) & ~spot[entry]] = usual_price_type("perp", liquidated)
        return {"price_type": out if said is None else np.where(said == _NONE, out, said).astype(np.uint8)}

    def _numbers(self, name: str) -> dict[str, Column]:
        column = self._column(name)
        if column is None:
            return {}
        exact = None
        kind = column.type
        if pa.types.is_float64(kind) or pa.types.is_int64(kind):
            if pa.types.is_int64(kind):
                column = column.cast(pa.float64(), safe=False)
            values = column.to_numpy(zero_copy_only=False)
        elif is_text(column):
            read = self._decimal_texts(column)
            if read is None:
                return {}
            values, exact = read
        else:
            self._odd(column)
            return {}
        low, high = (values.min(), values.max()) if len(values) else (0.0, 0.0)
        # From 2**53 on an integer may not be what its float says.
        if not (low >= 0.01 and high < 2.0**53):
            good = np.abs(values) < 2.0**53
            good &= decimals.fits(values)
            if name in NOT_NEGATIVE:
                good &= values >= 0
            if column.null_count:
                good |= ~valid(column)
            self._only(good)
            zero = values == 0
            if zero.any():
                values = np.where(zero, np.nan if name in NOTHING_AT_ZERO else 0.0, values)
        return {name: values} if exact is None else {name: values, EXACT + name: exact}

    def _decimal_texts(self, column: Any) -> tuple[Array, Any] | None:
        """Numbers sent as text: floats, and exact decimals where those say something else."""
        texts = self._short(column)
        amounts = _amounts(texts)
        if amounts is None:
            plain = pc.match_substring_regex(texts, r"^-?[0-9]{1,20}(\.[0-9]{1,18})?$")
            self._only(plain.fill_null(True).to_numpy(zero_copy_only=False))
            texts = pc.if_else(plain, texts, pa.scalar(None, pa.string()))
            amounts = texts.cast(DECIMAL)
        values: Array = texts.cast(pa.float64()).to_numpy(zero_copy_only=False)
        said = decimals.from_arrow(amounts)
        fit = decimals.fits(values)
        self._only(fit)
        differ = (decimals.units(np.where(fit, values, 0.0)) != said).any(axis=1) & ~np.isnan(values)
        return values, decimals.arrow(said, differ) if differ.any() else None

    def _one_size(self, out: dict[str, Column]) -> None:
        if "size" not in out:
            return
        exact = out.pop(EXACT + "size", None)
        size = out.pop("size")
        if "volume" not in out:
            out["volume"] = size
            if exact is not None:
                out[EXACT + "volume"] = exact
            return
        if exact is not None or EXACT + "volume" in out:
            self.slow |= ~np.isnan(size)
            return
        volume = out["volume"]
        out["volume"] = np.where(np.isnan(volume), size, volume)
        differ = ~np.isnan(size) & (size != out["volume"])
        if differ.any():
            out["size"] = np.where(differ, size, np.nan)

    def _sides(self) -> Array | None:
        flag, name = self._column("is_long"), self._column("side")
        by_flag, by_name = self._flags(flag), None
        if name is not None:
            by_name = self._flags(name) if pa.types.is_boolean(name.type) else self._side_codes()
        if by_flag is None or by_name is None:
            return by_name if by_flag is None else by_flag
        self.slow |= (by_flag >= 0) & (by_name >= 0) & (by_flag != by_name)
        return np.where(by_name < 0, by_flag, by_name)

    def _flags(self, column: Any) -> Array | None:
        if column is None:
            return None
        if pa.types.is_int64(column.type):
            found = filled(column, -1)
            self.slow |= ((found < 0) & valid(column)) | (found > 1)
        elif pa.types.is_boolean(column.type):
            found = filled(column.cast(pa.int8()), -1)
        else:
            self._odd(column)
            return None
        return found.astype(np.int8)

    def _side_codes(self) -> Array | None:
        codes = self._codes("side", SIDES, fold=True)
        return None if codes is None else codes.view(np.int8)  # _NONE becomes -1

    def _integers(self, name: str) -> Array | None:
        column = self._whole(self._column(name))
        if column is None:
            return None
        if not pa.types.is_int64(column.type):
            self._odd(column)
            return None
        values = filled(column, 0)
        if len(values) and values.min() < 0:
            self.slow |= values < 0
        return filled(column, -1)

    def _whole(self, column: Any) -> Any:
        """Floats that are integers, as tables with gaps have them, as integers."""
        if column is None or not pa.types.is_float64(column.type):
            return column
        try:
            whole = column.cast(pa.int64())
        except pa.ArrowInvalid:
            return column
        self.slow |= np.abs(filled(column, 0.0)) >= 2.0**53
        return whole

    def _texts(self, name: str) -> Any:
        column = self._whole(self._column(name))
        if column is None:
            return None
        if pa.types.is_int64(column.type):
            return column.cast(pa.string())
        if not is_text(column):
            self._odd(column)
            return None
        texts = self._short(column)
        if pc.any(pc.equal(texts, "")).as_py():
            texts = pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)
        if texts.null_count == len(texts):
            return None
        hexadecimal = pc.starts_with(texts, "0x", ignore_case=True)
        if pc.all(hexadecimal).as_py():
            return pc.ascii_lower(texts)
        return pc.if_else(hexadecimal, pc.ascii_lower(texts), texts)

    def _short(self, column: Any) -> Any:
        """Texts, null and slow where one is too long."""
        encoded = pa.types.is_dictionary(column.type)
        texts = column.dictionary if encoded else column
        # Bytes bound characters, and are known without looking at the text.
        if len(texts) and (pc.max(pc.binary_length(texts)).as_py() or 0) > TEXT:
            long = pc.greater(pc.utf8_length(texts), TEXT)
            texts = pc.if_else(long, pa.scalar(None, pa.string()), texts)
            if encoded:
                long = pa.array(long).take(column.indices)
            self.slow |= long.fill_null(False).to_numpy(zero_copy_only=False)
        return texts.take(column.indices) if encoded else texts

    def _chains(self, out: dict[str, Column], entry: Array, slots: Array) -> None:
        """Where an event names a transaction but no chain, it is on the chain of its market."""
        home = self._named.chains[slots][entry]
        said = out.get("chain_id", np.full(self.n, -1, np.int64))
        absent = (said == -1) & valid(out["transaction_hash"])
        out["chain_id"] = np.where(absent, home, said)

    def _trade_ids(self) -> dict[str, Column]:
        column = self._column("trade_id")
        if column is None:
            return {}
        if pa.types.is_int64(column.type):
            values = filled(column, 0)
            if len(values) and values.min() < 0:
                self.slow |= values < 0
            return {"trade_no": filled(column, -1)}
        if not is_text(column):
            self._odd(column)
            return {}
        texts = self._short(column)
        whole = pc.match_substring_regex(texts, "^(0|[1-9][0-9]{0,17})$")
        none = pa.scalar(None, pa.string())
        numbers = filled(pc.if_else(whole, texts, none).cast(pa.int64()), -1)
        if pc.all(whole).as_py():
            return {"trade_no": numbers}
        texts = pc.if_else(whole, none, texts)
        # From 19 digits on it depends on the digits whether the number fits.
        doubtful = pc.match_substring_regex(texts, "^([0-9]{19,20}|)$")
        self.slow |= doubtful.fill_null(False).to_numpy(zero_copy_only=False)
        return {"trade_no": numbers, "trade_id": texts}


_NONE, _WRONG = 255, 254


def valid(column: Any) -> Mask:
    """Which rows say something."""
    found: Mask = column.is_valid().to_numpy(zero_copy_only=False)
    return found


def filled(column: Any, nothing: float) -> Array:
    """The values, and `nothing` where there is none."""
    if column.null_count:
        column = column.fill_null(nothing)
    values: Array = column.to_numpy(zero_copy_only=False)
    return values


def _amounts(texts: Any) -> Any:
    """Texts as decimals where all are short and plain; None where they need a closer look.

    Arrow reads a text of too many digits, or with too large an exponent, as another number without a word.
    """
    data = texts.buffers()[2]
    if (pc.max(pc.binary_length(texts)).as_py() or 0) > DECIMALS or (
        data is not None and b"e" in data.to_pybytes().lower()
    ):
        return None
    try:
        return texts.cast(DECIMAL)
    except pa.ArrowInvalid:
        return None


def is_text(column: Any) -> bool:
    """Whether a column is one of texts, be they in a dictionary or not."""
    kind = column.type
    return bool(pa.types.is_string(kind) or (pa.types.is_dictionary(kind) and pa.types.is_string(kind.value_type)))
