"""Pure: which column of a file is which field of an event, guessed from names and types, as SQL over the file."""

import re
from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from storage.errors import BadRequest

# What others call the fields, best first; compared without case and underscores.
NAMES: dict[str, tuple[str, ...]] = {
    "timestamp": (
        *("timestamp", "time", "ts", "datetime", "date", "timestampms", "timestampus", "tsus", "tsms", "tsns"),
        *("blocktimestamp", "eventtime", "tradetime", "transacttime", "localtime", "t"),
    ),
    "price": ("price", "px", "rate", "tradeprice", "last", "p"),
    "size": ("size", "qty", "quantity", "amount", "baseqty", "volume", "vol", "q", "v"),
    "side": ("side", "takerside", "direction"),
    "maker": ("buyerismaker", "isbuyermaker", "m"),
    "trade_id": ("tradeid", "aggid", "aggtradeid", "id", "tid"),
    "market_symbol": ("marketsymbol", "symbol", "market", "pair", "instrument"),
    "event_type": ("eventtype",),
    "price_type": ("pricetype",),
    "is_long": ("islong",),
    "fee": ("fee", "fees", "commission"),
    "user_address": ("useraddress", "user", "trader", "account"),
    "funding_rate": ("fundingrate",),
    "open_interest": ("openinterest",),
    "index_price": ("indexprice",),
    "chain_id": ("chainid",),
    "block_number": ("blocknumber",),
    "transaction_hash": ("transactionhash", "txhash"),
    "log_index": ("logindex",),
    "removed": ("removed",),
}
NEEDED = {"timestamp": (), "price": ("funding_rate", "open_interest", "index_price", "removed")}
# Taken from columns of just these names.
OTHERS = (
    *("volume", "leverage", "pnl", "position_id"),
    *("total_long_size", "total_short_size", "bid_ask_spread", "market_depth"),
)
FIELDS = (*(name for name in NAMES if name != "maker"), *OTHERS, "contract_address", "market_id")
# Texts that may look like something else: 007 is not 7 where it names a trade.
TEXTS = ("market_symbol", "trade_id", "transaction_hash", "user_address", "position_id", "card_id", "marketplace")
UNITS = {"s": 1_000_000.0, "ms": 1_000.0, "us": 1.0, "ns": 0.001}  # microseconds in each


class Choice(Struct, frozen=True):
    """What one field of the events is read from."""

    field: str
    sql: str  # over the columns of the file
    origin: str  # as it is shown


class Times(Struct, frozen=True):
    """How the times of a file are to be understood, where it does not say."""

    unit: str | None = None  # of UNITS; None: by their size
    zone: str = "UTC"  # of times without a zone
    format: str | None = None  # of texts, as strptime has it; None: ISO 8601


class Shape(Protocol):
    """What is known of a file."""

    columns: dict[str, str]  # names → DuckDB types
    exact: dict[str, str]  # columns of numbers → columns with the same numbers as texts
    first: dict[str, object]  # the first row


def chosen(file: Shape, given: Sequence[tuple[str, str]], market: str, times: Times) -> list[Choice]:
    """The fields that a file has. `given`: (column or SQL expression, field) pairs that were asked for.

    Raises BadRequest where a field that is needed cannot be found.
    """
    columns = file.columns
    asked: dict[str, str] = {}
    for source, field in given:
        if field not in FIELDS:
            raise BadRequest(
                f"--map {source}={field}: expected a field of an event ({', '.join(FIELDS)}), got {field!r}"
            )
        asked[field] = source
    found: list[Choice] = []
    for field in FIELDS:
        column = asked.get(field) or (None if field == "market_symbol" and market else _guess(columns, field))
        if column is None:
            continue
        if field == "size" and "volume" in asked and "size" not in asked:
            continue
        if field == "volume" and "volume" not in asked and _guess(columns, "size") != "size":
            continue  # it may be another's name for the size, or count another currency
        found.append(_choice(field, column, file, times))
    have = {choice.field for choice in found}
    if "side" not in have and "is_long" not in have and (maker := _guess(columns, "maker")):
        sql = f"CASE CAST({quoted(maker)} AS BOOLEAN) WHEN true THEN 'sell' WHEN false THEN 'buy' END"
        found.append(Choice("side", sql, f"{maker} (true: the taker sold)"))
    if market:
        found.insert(0, Choice("market_symbol", literal(market), f"{market}, for every row"))
    elif not have & {"market_symbol", "market_id", "contract_address"}:
        raise BadRequest("no column names the market: give --market, or --map COLUMN=market_symbol")
    for field, instead in NEEDED.items():
        if not have & {field, *instead}:
            raise BadRequest(
                f"no column looks like the {field}: say which with --map COLUMN={field}; there are {', '.join(columns)}"
            )
    return found


def _guess(columns: Mapping[str, str], field: str) -> str | None:
    plain = {re.sub(r"[_\s-]", "", name).lower(): name for name in reversed(list(columns))}
    if field in OTHERS:
        return field if field in columns else None
    return next((plain[name] for name in NAMES.get(field, ()) if name in plain), None)


def _choice(field: str, source: str, file: Shape, times: Times) -> Choice:
    known = source in file.columns
    kind = file.columns[source] if known else ""
    sql = quoted(source) if known else f"({source})"
    if field == "timestamp":
        return time_of(field, source, file, times)
    if source in file.exact:
        return exactly(field, source, file)
    if field == "side":
        return Choice(field, _side(sql), source)
    if kind == "HUGEINT":
        return Choice(field, f"CAST({sql} AS VARCHAR)", source)  # texts are read exactly, and refused one by one
    return Choice(field, sql, source)


def exactly(field: str, source: str, file: Shape) -> Choice:
    """A field that is read from the texts of a column of numbers."""
    return Choice(field, quoted(file.exact[source]), source)


def time_of(field: str, source: str, file: Shape, times: Times) -> Choice:
    """The field that says when, from a column or an SQL expression."""
    kind = file.columns.get(source, "")
    sql = quoted(source) if source in file.columns else f"({source})"
    if times.format is not None:
        sql = f"timezone({literal(times.zone)}, try_strptime(CAST({sql} AS VARCHAR), {literal(times.format)}))"
        return Choice(field, _micros(sql), f"{source} ({times.format}, {times.zone})")
    if kind == "TIMESTAMP WITH TIME ZONE":
        return Choice(field, _micros(sql), source)
    if kind.startswith(("TIMESTAMP", "DATE")) or not kind or kind == "VARCHAR":
        if kind == "VARCHAR":
            # A zone in the text counts; without one it is read as if it stood there.
            zoned = f"regexp_matches({sql}, '(Z|[+-][0-9]{{2}}(:?[0-9]{{2}})?)$')"
            aware = f"TRY_CAST({sql} AS TIMESTAMPTZ)"
            local = f"timezone({literal(times.zone)}, TRY_CAST({sql} AS TIMESTAMP))"
            return Choice(
                field,
                _micros(f"CASE WHEN {zoned} THEN {aware} ELSE {local} END"),
                f"{source} ({times.zone} where no zone is given)",
            )
        return Choice(
            field,
            _micros(f"timezone({literal(times.zone)}, TRY_CAST({sql} AS TIMESTAMP))"),
            f"{source} ({times.zone})",
        )
    unit = times.unit or _unit(source, file.first.get(source))
    scale = UNITS[unit]
    if "INT" in kind:
        scaled = f"{sql} * {int(scale)}" if scale >= 1 else f"{sql} // {round(1 / scale)}"
    else:
        scaled = f"round({sql} * {scale!r})"
    return Choice(field, f"make_timestamp(CAST({scaled} AS BIGINT))", f"{source} ({unit} since 1970)")


def _unit(source: str, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadRequest(f"{source}: cannot tell the unit of the times in it; give --time-unit s, ms, us or ns")
    size = abs(value)
    return "s" if size < 1e11 else "ms" if size < 1e14 else "us" if size < 1e17 else "ns"


def _micros(instant: str) -> str:
    return f"make_timestamp(epoch_us({instant}))"


def _side(sql: str) -> str:
    word = f"lower(CAST({sql} AS VARCHAR))"
    buys, sells = "('b', 'bid', 'long')", "('s', 'ask', 'short')"
    return f"CASE WHEN {word} IN {buys} THEN 'buy' WHEN {word} IN {sells} THEN 'sell' ELSE {word} END"


def quoted(name: str) -> str:
    """A column's name as SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: str) -> str:
    """A text as SQL."""
    return "'" + value.replace("'", "''") + "'"
