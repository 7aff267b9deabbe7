"""Queries that a connection plans once, and runs as often as it is asked."""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

from duckdb import DuckDBPyConnection as Connection

_NAMES: WeakKeyDictionary[Connection, dict[str, str]] = WeakKeyDictionary()  # of the plans that each connection has


def prepared(db: Connection, query: str, values: Sequence[int] = ()) -> Connection:
    """Run a query with these for `$1`, `$2` and so on; its rows are to be fetched from the connection.

    Planning takes longer than a small query itself. There is a plan for each text: whoever writes new ones all the
    time is better off with `execute`.
    """
    names = _NAMES.setdefault(db, {})
    name = names.get(query)
    if name is None:
        name = f"query_{len(names)}"
        db.execute(f"PREPARE {name} AS {query}")
        names[query] = name
    return db.execute(f"EXECUTE {name}({', '.join(map(str, values))})" if values else f"EXECUTE {name}")
