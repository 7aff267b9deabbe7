"""Pure: which column of a file is which field of an event, guessed from names and types, as SQL over the file."""

import re
from collections import Counter
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
INTEGERS = ("block_number", "log_index", "chain_id", "market_id")
FLAGS = ("is_long", "removed")
UNITS = {"s": 1_000_000.0, "ms": 1_000.0, "us": 1.0, "ns": 0.001}  # microseconds in each
SIZES = {"s": (0, 10**11), "ms": (10**11, 10**14), "us": (10**14, 10**17), "ns": (10**17, 9 * 10**18)}  # of our times
LATEST = 9 * 10**18  # µs, which is as far as timestamps go
SAMPLE = 1_000  # values that say in which unit times are
KINDS = {"BIGINT": "a whole number", "DOUBLE": "a number", "BOOLEAN": "true or false", "DATE": "a date"}
NUMBER = re.compile(r"[+-]?[0-9]+\.?[0-9]*([eE][+-]?[0-9]+)?")


class Choice(Struct, frozen=True):
    """What one field of the events is read from."""

    field: str
    sql: str  # over the columns of the file
    origin: str  # as it is shown
    problem: str = ""  # SQL as well: why the value cannot be understood, NULL where it can


class Times(Struct, frozen=True):
    """How the times of a file are to be understood, where it does not say."""

    unit: str | None = None  # of UNITS; None: by their size
    zone: str = "UTC"  # of times without a zone
    format: str | None = None  # of texts, as strptime has it; None: ISO 8601


class Shape(Protocol):
    """What is known of a file."""

    columns: dict[str, str]  # names → DuckDB types
    exact: dict[str, str]  # columns of a file of texts → columns with these texts

    def sample(self, column: str, /) -> list[object]:
        """The first values that there are in a column, as texts where these are known."""


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
        text = f"CAST({quoted(file.exact.get(maker, maker))} AS VARCHAR)"
        sells, buys = (f"lower({text}) IN ('{word}', '{digit}')" for word, digit in (("true", 1), ("false", 0)))
        sql = f"CASE WHEN {sells} THEN 'sell' WHEN {buys} THEN 'buy' ELSE {text} END"
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
    if field == "timestamp":
        return time_of(field, source, file, times)
    if field in INTEGERS:
        return whole(field, source, file)
    if field in FLAGS and source in file.exact:
        return _flag(field, source, file)
    found = value_of(field, source, file)
    return Choice(field, _side(found.sql), source, found.problem) if field == "side" else found


def value_of(field: str, source: str, file: Shape) -> Choice:
    """A field that is read as the file has it: as texts, which lose nothing, where it has any."""
    if source in file.exact:
        return Choice(field, quoted(file.exact[source]), source)
    if source not in file.columns:
        return Choice(field, f"TRY({source})", source, either(misfits(source, file)))
    if file.columns[source] == "HUGEINT":
        return Choice(field, f"CAST({quoted(source)} AS VARCHAR)", source)  # read exactly, and refused one by one
    return Choice(field, quoted(source), source)


def whole(field: str, source: str, file: Shape) -> Choice:
    """A field that is a whole number."""
    if source not in file.exact:
        return value_of(field, source, file)
    text = quoted(file.exact[source])
    number = f"TRY_CAST({text} AS DECIMAL(38, 9))"
    sql = (
        f"CASE WHEN {number} = floor({number}) AND {number} BETWEEN 0 AND {2**63 - 1} THEN CAST({number} AS BIGINT) END"
    )
    return Choice(field, sql, source, _unless(sql, field, text, f"an integer from 0 to {2**63 - 1}"))


def _flag(field: str, source: str, file: Shape) -> Choice:
    text = quoted(file.exact[source])
    sql = f"CASE lower({text}) WHEN 'true' THEN true WHEN '1' THEN true WHEN 'false' THEN false WHEN '0' THEN false END"
    return Choice(field, sql, source, _unless(sql, field, text, "true or false"))


def _unless(sql: str, field: str, text: str, expected: str) -> str:
    """Says what is wrong with a text that comes to nothing."""
    got = f"""to_json(left(CAST({text} AS VARCHAR), 60))"""
    said = literal(f"{field}: expected {expected}, got ")
    return f"CASE WHEN {text} IS NOT NULL AND ({sql}) IS NULL THEN {said} || {got} END"


def misfits(expression: str, file: Shape) -> list[str]:
    """SQL that says what is wrong with the columns that an expression speaks of, NULL where they are all right."""
    found = []
    for name, text in file.exact.items():
        if text != name and re.search(rf"(?<!\w){re.escape(name)}(?!\w)", expression, re.IGNORECASE):
            expected = f"{KINDS.get(file.columns[name], file.columns[name])}, as in the first rows"
            found.append(_unless(quoted(name), name, quoted(text), expected))
    return found


def either(problems: Sequence[str]) -> str:
    """The first of several problems."""
    return f"coalesce({', '.join(problems)})" if problems else ""


def time_of(field: str, source: str, file: Shape, times: Times) -> Choice:
    """The field that says when, from a column or an SQL expression."""
    kind = file.columns.get(source, "")
    if source not in file.columns:
        sql = _micros(f"timezone({literal(times.zone)}, TRY(CAST(({source}) AS TIMESTAMP)))")
        return Choice(field, sql, f"{source} ({times.zone})", either(misfits(source, file)))
    value = quoted(file.exact.get(source, source))
    if times.format is not None:
        read = f"try_strptime(CAST({value} AS VARCHAR), {literal(times.format)})"
        sql = _micros(f"timezone({literal(times.zone)}, {read})")
        problem = _unless(sql, field, value, f"a time like {times.format} in {source}")
        return Choice(field, sql, f"{source} ({times.format}, {times.zone})", problem)
    if kind == "TIMESTAMP WITH TIME ZONE":
        return Choice(field, _micros(value), source)
    if source not in file.exact and kind.startswith(("TIMESTAMP", "DATE")):
        sql = _micros(f"timezone({literal(times.zone)}, TRY_CAST({value} AS TIMESTAMP))")
        return Choice(field, sql, f"{source} ({times.zone})")
    sample = file.sample(source)
    numbers = [float(str(one)) for one in sample if NUMBER.fullmatch(str(one))]
    if times.unit is not None or 2 * len(numbers) > len(sample):
        whole = "INT" in kind and source not in file.exact
        return _number_of(field, source, value, numbers, times.unit, whole=whole)
    if kind not in ("VARCHAR", "DATE", "TIMESTAMP") or not (
        any(re.search("[0-9]", str(one)) for one in sample) or not sample
    ):
        raise BadRequest(f"{source}: cannot tell the unit of the times in it; give --time-unit s, ms, us or ns")
    # A zone in the text counts; without one it is read as if it stood there. A date ends like one.
    zoned = f"regexp_matches({value}, '(Z|:.*[+-][0-9]{{2}}(:?[0-9]{{2}})?)$')"
    aware = f"TRY_CAST({value} AS TIMESTAMPTZ)"
    local = f"timezone({literal(times.zone)}, TRY_CAST({value} AS TIMESTAMP))"
    sql = _micros(f"CASE WHEN {zoned} THEN {aware} ELSE {local} END")
    problem = _unless(sql, field, value, f"a time in {source}, such as 2024-05-01T12:00:00Z")
    return Choice(field, sql, f"{source} ({times.zone} where no zone is given)", problem)


def _number_of(
    field: str, source: str, value: str, sample: Sequence[float], given: str | None, *, whole: bool
) -> Choice:
    """A time that is a number, in the unit that is given or that most of the first ones look like."""
    unit = given or Counter(map(_unit, sample)).most_common(1)[0][0]
    scale = UNITS[unit]
    low, high = SIZES[unit] if given is None else (-int(LATEST / scale), int(LATEST / scale))
    number = value if whole else f"TRY_CAST({value} AS DECIMAL(38, 9))"
    if scale >= 1:
        micros = f"{number} * {int(scale)}" if whole else f"round({number} * {int(scale)})"
    else:
        micros = f"CAST({number if whole else f'floor({number})'} AS HUGEINT) // {round(1 / scale)}"
    inside = f"{number} >= {low} AND {number} < {high}"
    sql = f"CASE WHEN {inside} THEN make_timestamp(CAST({micros} AS BIGINT)) END"
    like = "".join(
        f" WHEN {number} >= {least} AND {number} < {most} THEN ', which looks like {name}'"
        for name, (least, most) in SIZES.items()
        if name != unit and least
    )
    problem = _unless(sql, field, value, f"{unit} since 1970 in {source}{'' if given else ', as in the first rows'}")
    if given is None:
        problem = f"({problem}) || CASE{like} ELSE '' END"
    return Choice(field, sql, f"{source} ({unit} since 1970)", problem)


def _unit(number: float) -> str:
    return next((unit for unit, (_, most) in SIZES.items() if abs(number) < most), "ns")


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
