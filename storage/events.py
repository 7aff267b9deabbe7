"""A batch of events as columns: what every way in decodes to, and what journal, fold and ledger read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Array = NDArray[Any]
Column = Any  # a numpy array, or an Arrow array for texts and exact decimals

EVENT_TYPES = (
    "Trade",
    "PositionOpened",
    "PositionClosed",
    "PositionLiquidated",
    "PriceUpdated",
    "FundingRateUpdated",
)
PRICE_TYPES = ("mark", "index", "entry", "exit", "liquidation", "trade")
EVENT_CODE = {name: code for code, name in enumerate(EVENT_TYPES)}
PRICE_CODE = {name: code for code, name in enumerate(PRICE_TYPES)}

BAR = 255  # what stands for the type of an event where it is none, but a finished bar
BAR_COUNTS = ("trades_count", "long_trades", "short_trades", "liquidation_count", "market_price_count")

# What an absent column, or a row that says nothing, holds.
INTEGERS: dict[str, tuple[np.dtype[Any], int]] = {
    "market": (np.dtype(np.int32), 0),  # the registry's slot
    "ts": (np.dtype(np.int64), 0),  # event time, µs since 1970 UTC
    "event": (np.dtype(np.uint8), 0),  # index into EVENT_TYPES, or BAR
    "price_type": (np.dtype(np.uint8), 0),  # index into PRICE_TYPES
    "side": (np.dtype(np.int8), -1),  # 1 a buy or long, 0 a sell or short
    "chain_id": (np.dtype(np.int64), -1),
    "block_number": (np.dtype(np.int64), -1),
    "log_index": (np.dtype(np.int64), -1),
    "trade_no": (np.dtype(np.int64), -1),  # a trade id that is an integer; of a card's price, its time
    "num_listings": (np.dtype(np.int64), -1),  # of a card
    "total_quantity": (np.dtype(np.int64), -1),
    "rung": (np.dtype(np.int32), 0),  # of a finished bar: its resolution in seconds; 0: it is an event
    "ends": (np.dtype(np.int64), 0),  # of a finished bar, µs since 1970 UTC: it begins at its `ts`
    **{name: (np.dtype(np.int64), 0) for name in BAR_COUNTS},
    "ident": (np.dtype(np.uint64), 0),  # hash of the identity; 0: the event has none
    "digest": (np.dtype(np.uint64), 0),  # hash of all that an event with an identity says
    "trader": (np.dtype(np.uint64), 0),  # hash of user_address; 0: none
    "pos": (np.dtype(np.int64), -1),  # place among all committed events: seq << 24 | row
    "removed": (np.dtype(np.bool_), 0),  # takes back the event with this identity; never stored
}
# Floats; NaN says nothing. Each is the shortest decimal text of its value, unless EXACT + name holds another decimal.
TRADE_NUMBERS = (
    "price",
    "volume",
    "size",  # only where it differs from volume
    "fee",
    "leverage",
    "pnl",
    "total_long_size",
    "total_short_size",
    "open_interest",
    "funding_rate",
    "index_price",
    "bid_ask_spread",
    "market_depth",
)
QUOTE_NUMBERS = ("price_low", "price_mid", "price_high", "price_market")  # of a card, beside its price
BAR_NUMBERS = (  # of a finished bar, beside volume, funding_rate and open_interest
    *("open", "high", "low", "close", "turnover", "turnover_volume", "buy_volume", "sell_volume"),
    *("total_fees", "liquidation_volume"),
    *("price_sum", "market_price_sum", "min_price", "max_price", "total_listings"),  # of a card, beside total_quantity
)
NUMBERS = (*TRADE_NUMBERS, *QUOTE_NUMBERS, *BAR_NUMBERS)
EXACT = "exact_"
DECIMAL = pa.decimal128(38, 18)
TEXTS = ("user_address", "position_id", "transaction_hash", "trade_id")  # trade_id: one that is no integer


@dataclass(frozen=True, slots=True)
class Events:
    """n events as columns of equal length, in the order sent; a column that says nothing anywhere is left out.

    Integers and numbers are numpy arrays, texts are Arrow string arrays with nulls, and `exact_<number>` is an
    Arrow decimal128(38, 18) array whose nulls mean "the float's shortest decimal text".
    """

    n: int
    columns: dict[str, Column]

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def integers(self, name: str) -> Array:
        """The column of this name in INTEGERS, filled with its default where it is left out."""
        found = self.columns.get(name)
        if found is None:
            dtype, nothing = INTEGERS[name]
            return np.full(self.n, nothing, dtype)
        assert isinstance(found, np.ndarray)
        return found

    def numbers(self, name: str) -> Array:
        """The column of this name in NUMBERS as float64, NaN where nothing is said."""
        found = self.columns.get(name)
        if found is None:
            return np.full(self.n, np.nan)
        assert isinstance(found, np.ndarray)
        return found

    def texts(self, name: str) -> Any:
        """The column of this name in TEXTS, null where nothing is said."""
        found = self.columns.get(name)
        return pa.nulls(self.n, pa.string()) if found is None else found

    def exact(self, name: str) -> Any:
        """The exact decimals of a number where any differs from its float's shortest text."""
        return self.columns.get(EXACT + name)

    def take(self, rows: Array) -> "Events":
        """The events at these row numbers, in this order."""
        index = pa.array(rows)
        return Events(
            len(rows),
            {name: c[rows] if isinstance(c, np.ndarray) else c.take(index) for name, c in self.columns.items()},
        )

    def with_columns(self, **columns: Column) -> "Events":
        """The same events with columns added or replaced."""
        return Events(self.n, {**self.columns, **columns})

    def without(self, *names: str) -> "Events":
        """The same events with some columns left out."""
        return Events(self.n, {name: c for name, c in self.columns.items() if name not in names})


def concat(batches: Sequence[Events]) -> Events:
    """All events of all batches, in order."""
    if len(batches) == 1:
        return batches[0]
    names = dict.fromkeys(name for b in batches for name in b.columns)
    return Events(sum(b.n for b in batches), {name: _joined(name, batches) for name in names})


def _joined(name: str, batches: Sequence[Events]) -> Column:
    if name in INTEGERS:
        return np.concatenate([b.integers(name) for b in batches])
    if name in NUMBERS:
        return np.concatenate([b.numbers(name) for b in batches])
    kind = DECIMAL if name.startswith(EXACT) else pa.string()
    return pa.concat_arrays([b.columns[name] if name in b else pa.nulls(b.n, kind) for b in batches])


def to_record_batch(events: Events) -> pa.RecordBatch:
    """The columns as one Arrow batch; numpy columns are not copied."""
    names = list(events.columns)
    return pa.RecordBatch.from_arrays([pa.array(events.columns[name]) for name in names], names=names)


def from_record_batch(batch: pa.RecordBatch) -> Events:
    """The inverse of `to_record_batch`."""
    columns: dict[str, Column] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        arrow = name in TEXTS or name.startswith(EXACT)
        columns[name] = column if arrow else column.to_numpy(zero_copy_only=False)
    return Events(batch.num_rows, columns)
