"""DDL and SQL derived from the measure table; numbered migrations, forward only, applied when the database opens."""

from collections.abc import Iterable

from storage.decimals import CAP, ONE
from storage.events import BAR_COUNTS, BAR_NUMBERS, EXACT, INTEGERS, NUMBERS, QUOTE_NUMBERS, TEXTS
from storage.measures import INPUTS, KEY, MEASURES, SKETCH, Measure, Rule
from storage.partials import FIELDS

RUNGS = (1, 60, 300, 900, 3600, 86400)  # stored resolutions, seconds

# Events of one batch mostly say the same few things, and DuckDB pays for every column that a table has: so the ledger
# is some tables, and an event lies in the first that has all it says.
LEAN = ("market", "ts", "event", "price_type", "side", "price", "volume", "pos")
TRADED = (*LEAN, "trade_no", "ident", "digest")
PRICES = ("num_listings", "total_quantity", *QUOTE_NUMBERS)  # what only prices of cards say
QUOTED = ("market", "ts", "event", "price_type", "price", "pos", "trade_no", "ident", "digest", *PRICES)
BARRED = ("rung", "ends", *BAR_COUNTS, *BAR_NUMBERS)  # what only finished bars say
STORED = tuple(name for name in (*INTEGERS, *NUMBERS, *TEXTS) if name != "removed")
FULL = (*TRADED, *(name for name in STORED if name not in (*TRADED, *BARRED)))
SHAPES = {
    "ledger_lean": LEAN,
    "ledger_traded": TRADED,
    "ledger_quoted": QUOTED,
    "ledger_full": FULL,
    "ledger_barred": (*FULL, *BARRED),
}
# What such a bar has.
FINISHED = tuple(
    {each.name: each for kind in ("perp", "card") for each in MEASURES[kind] if each.rule is not Rule.DISTINCT}.values()
)

_SQL_TYPES = {
    "int32": "INTEGER",
    "int64": "BIGINT",
    "uint8": "UTINYINT",
    "int8": "TINYINT",
    "uint64": "UBIGINT",
}


def sql_type(name: str) -> str:
    """The DuckDB type of a ledger column."""
    if name in INTEGERS:
        # A batch leaves out a column that says nothing, and then these are still numbers.
        default = " DEFAULT 0" if name in ("event", "price_type") else ""
        return _SQL_TYPES[str(INTEGERS[name][0])] + default
    return "DECIMAL(38, 18)" if name in NUMBERS else "VARCHAR"


def shape_of(names: set[str]) -> str:
    """The narrowest ledger table that has all of these columns."""
    said = {name.removeprefix(EXACT) for name in names}
    return next(table for table, columns in SHAPES.items() if said <= set(columns))


def candle_table(kind: str, rung: int) -> str:
    """The stored bars of a kind at a rung, in (market, t) order within each stretch of time."""
    return f"{kind}_{rung}"


def recent_table(kind: str, rung: int) -> str:
    """The newest partials of a kind at a rung, in the order in which they were flushed."""
    return f"{kind}_{rung}_recent"


def migrations() -> tuple[tuple[str, ...], ...]:
    """The statements of each schema version; a database at version v still needs migrations()[v:]."""
    shapes = {table: [name for name in some if name not in PRICES] for table, some in SHAPES.items()}
    del shapes["ledger_quoted"], shapes["ledger_barred"]  # which came later
    first = [
        "CREATE TABLE meta (epoch VARCHAR NOT NULL, applied_seq BIGINT NOT NULL)",
        *(_ledger_table(table, columns) for table, columns in shapes.items()),
        "CREATE TABLE forgotten (ident UBIGINT NOT NULL, seq BIGINT NOT NULL)",
        f"CREATE VIEW ledger AS {_ledger(shapes)}",
    ]
    for kind in MEASURES:
        columns = ", ".join(f"{field.name} {field.sql}" for field in FIELDS[kind])
        for rung in RUNGS:
            first.append(f"CREATE TABLE {candle_table(kind, rung)} ({columns})")
            first.append(f"CREATE TABLE {recent_table(kind, rung)} ({columns})")
    second = (
        "CREATE TABLE ended (rung INTEGER NOT NULL, market INTEGER NOT NULL, t BIGINT NOT NULL, "
        "born BIGINT NOT NULL, died BIGINT NOT NULL)"
    )
    third = (
        "CREATE TABLE archived (kind VARCHAR NOT NULL, rung INTEGER NOT NULL, low BIGINT NOT NULL, "
        "high BIGINT NOT NULL, generation INTEGER NOT NULL, part INTEGER NOT NULL, seq BIGINT NOT NULL, "
        "market_low INTEGER NOT NULL, market_high INTEGER NOT NULL, t_low BIGINT NOT NULL, t_high BIGINT NOT NULL, "
        "rev_high BIGINT NOT NULL, rows BIGINT NOT NULL, volume VARCHAR NOT NULL, trades BIGINT NOT NULL, "
        "hash VARCHAR NOT NULL, bytes BIGINT NOT NULL, footer BIGINT NOT NULL, moved DOUBLE NOT NULL)"
    )
    fourth = (
        "CREATE TABLE sealed (first BIGINT NOT NULL, last BIGINT NOT NULL, file VARCHAR NOT NULL, "
        "events BIGINT NOT NULL, bytes BIGINT NOT NULL, low_ts BIGINT NOT NULL, high_ts BIGINT NOT NULL, "
        "low_market INTEGER NOT NULL, high_market INTEGER NOT NULL, content VARCHAR NOT NULL, made BIGINT NOT NULL, "
        "damaged VARCHAR NOT NULL)",
        "CREATE TABLE dead (pos BIGINT NOT NULL, market INTEGER NOT NULL, ts BIGINT NOT NULL, seq BIGINT NOT NULL)",
    )
    fifth = (
        _ledger_table("ledger_quoted", QUOTED),
        *(f"ALTER TABLE ledger_full ADD COLUMN {name} {sql_type(name)}" for name in PRICES),
        f"CREATE OR REPLACE VIEW ledger AS {_ledger([table for table in SHAPES if table != 'ledger_barred'])}",
    )
    dropping = (
        "CREATE TABLE floors "
        "(kind VARCHAR NOT NULL, rung INTEGER NOT NULL, before BIGINT NOT NULL, seq BIGINT NOT NULL)",
        "CREATE TABLE closed (day BIGINT NOT NULL, markets BLOB NOT NULL)",
        "CREATE TABLE dropped (seq BIGINT NOT NULL)",
    )
    types = {Rule.SUM: "DECIMAL(38, 18)", Rule.COUNT: "BIGINT"}
    measures = ", ".join(f"{each.name} {types.get(each.rule, 'DOUBLE')}" for each in FINISHED)
    bars = (
        _ledger_table("ledger_barred", SHAPES["ledger_barred"]),
        f"CREATE OR REPLACE VIEW ledger AS {_ledger(SHAPES)}",
        "CREATE TABLE finished (pos BIGINT NOT NULL, kind VARCHAR NOT NULL, market INTEGER NOT NULL, "
        "rung INTEGER NOT NULL, begins BIGINT NOT NULL, ends BIGINT NOT NULL, day BIGINT NOT NULL, "
        f"counts BOOLEAN NOT NULL, {measures})",
    )
    # What only bars of cards say came later.
    carded = (
        *(f"ALTER TABLE ledger_barred ADD COLUMN IF NOT EXISTS {name} {sql_type(name)}" for name in BARRED),
        *(
            f"ALTER TABLE finished ADD COLUMN IF NOT EXISTS {each.name} {types.get(each.rule, 'DOUBLE')}"
            for each in FINISHED
        ),
        f"CREATE OR REPLACE VIEW ledger AS {_ledger(SHAPES)}",
    )
    return tuple(first), (second,), (third,), fourth, fifth, dropping, bars, carded


def _ledger_table(table: str, columns: Iterable[str]) -> str:
    return f"CREATE TABLE {table} ({', '.join(f'{name} {sql_type(name)}' for name in columns)})"


def _ledger(tables: Iterable[str]) -> str:
    """The widest first: it has the names of all columns."""
    return " UNION ALL BY NAME ".join(f"SELECT * FROM {table}" for table in reversed(list(tables)))


PLACE = (
    "market, ts, coalesce(block_number, -1) AS block, coalesce(log_index, trade_no, -1) AS idx, "
    "coalesce(trade_id, '') AS tid, pos"
)


def fold_sql(kind: str, relation: str, bucket: str, place: str = PLACE) -> str:
    """SQL that folds the events of `relation` into partials of `kind`.

    `relation` has the ledger's columns and the boolean `priced`; `bucket` is an expression over it that gives the
    start of an event's bucket in seconds; `place` names the columns of the market and of the order key.
    """
    inputs = ", ".join(f"{sql} AS in_{name}" for name, sql in INPUTS[kind].items())
    columns = ", ".join(_fold(measure) for measure in MEASURES[kind])
    born = "min(pos >> 24) FILTER (in_priced AND in_price > 0)"
    return (
        f"WITH said AS (SELECT {place}, CAST({bucket} AS BIGINT) AS t, {inputs} FROM {relation}) "
        f"SELECT market, t, {_columns(kind)}, rev, coalesce(born, {2**62}) AS born, false AS whole FROM ("
        f"SELECT market, t, {columns}, max(pos >> 24) AS rev, {born} AS born FROM said GROUP BY market, t"
        ") ORDER BY market, t"
    )


def _fold(measure: Measure) -> str:
    value = f"in_{measure.of}"
    where = [f"in_{measure.where}"] if measure.where else []
    name = measure.name
    match measure.rule:
        case Rule.FIRST | Rule.LAST:
            return _end(measure, value, dict(zip(KEY, KEY, strict=True)), [*where, f"{value} IS NOT NULL"])
        case Rule.MIN | Rule.MAX:
            return f"{measure.rule.value}({value}){_filter(where)} AS {name}"
        case Rule.SUM:
            return _sums(name, value, _filter(where))
        case Rule.COUNT:
            return f"count(*){_filter(where)} AS {name}"
        case Rule.DISTINCT:
            said = " AND ".join([*where, f"{value} IS NOT NULL"])
            return f"list_sort(list(DISTINCT {value}) FILTER ({said}))[1:{SKETCH}] AS {name}"


def _filter(where: list[str]) -> str:
    return f" FILTER ({' AND '.join(where)})" if where else ""


def _end(measure: Measure, value: str, key: dict[str, str], said: list[str]) -> str:
    """The value and its order key as one struct, `at_<measure>`, that sorts by the key: one aggregate, not one each."""
    parts = ", ".join(f"{part} := {column}" for part, column in key.items())
    pick = "min" if measure.rule is Rule.FIRST else "max"
    return f"{pick}(struct_pack({parts}, value := {value})){_filter(said)} AS at_{measure.name}"


# A sum of amounts stops at ±CAP, as `decimals.sum_by` does, where a plain sum() would end the statement: so of amounts
# that could take it there, the whole part is summed for itself. Of the others, which is most of them, that is 0.
_CAP = f"{CAP // ONE}.{CAP % ONE:018d}"
_MOST = 10**20 - 2
_FAR = f"NOT BETWEEN -{10**9} AND {10**9}"


def _sums(name: str, value: str, where: str) -> str:
    return (
        f"sum(CASE WHEN {value} {_FAR} THEN trunc({value}) ELSE 0 END){where} AS far_{name}, "
        f"sum(CASE WHEN {value} {_FAR} THEN {value} - trunc({value}) ELSE {value} END){where} AS near_{name}"
    )


def _columns(kind: str) -> str:
    """The columns of the measures, out of what their aggregates came to."""
    columns = []
    for measure in MEASURES[kind]:
        name = measure.name
        match measure.rule:
            case Rule.FIRST | Rule.LAST:
                columns.append(f"at_{name}.value AS {name}")
                for part in KEY:
                    nothing = "''" if part == "tid" else "-1"
                    columns.append(f"coalesce(at_{name}.{part}, {nothing}) AS {name}_{part}")
            case Rule.SUM:
                whole = f"greatest(-{_MOST}, least({_MOST}, far_{name} + trunc(near_{name})))"
                exact = f"CAST({whole} AS DECIMAL(38, 18)) + (near_{name} - trunc(near_{name}))"
                columns.append(f"greatest(-{_CAP}, least({_CAP}, coalesce({exact}, 0))) AS {name}")
            case _:
                columns.append(name)
    return ", ".join(columns)


def merge_sql(kind: str, relation: str, bucket: str = "t") -> str:
    """SQL that sums the partials of `relation` per market and bucket, heeding whole rows, in (market, t) order."""
    columns = ", ".join(_merge(measure) for measure in MEASURES[kind])
    return (
        f"WITH laid AS (SELECT * REPLACE (CAST({bucket} AS BIGINT) AS t) FROM {relation}), "
        "judged AS (SELECT *, max(CASE WHEN whole THEN rev ELSE -1 END) OVER (PARTITION BY market, t) AS newest "
        "FROM laid) "
        f"SELECT market, t, {_columns(kind)}, rev, born, whole FROM ("
        f"SELECT market, t, {columns}, max(rev) AS rev, min(born) AS born, bool_or(whole) AS whole "
        "FROM judged WHERE rev > newest OR (whole AND rev = newest) GROUP BY market, t"
        ") ORDER BY market, t"
    )


def _merge(measure: Measure) -> str:
    name = measure.name
    match measure.rule:
        case Rule.FIRST | Rule.LAST:
            return _end(measure, name, {part: f"{name}_{part}" for part in KEY}, [f"{name} IS NOT NULL"])
        case Rule.MIN | Rule.MAX:
            return f"{measure.rule.value}({name}) AS {name}"
        case Rule.SUM:
            return _sums(name, name, "")
        case Rule.COUNT:
            return f"CAST(sum({name}) AS BIGINT) AS {name}"
        case Rule.DISTINCT:
            return f"list_sort(list_distinct(flatten(list({name}) FILTER ({name} IS NOT NULL))))[1:{SKETCH}] AS {name}"
