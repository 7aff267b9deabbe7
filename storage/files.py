"""Files of events as tables: CSV, Parquet and NDJSON, plain, gzip or zstd, read by DuckDB a stretch at a time."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import duckdb
import pyarrow as pa

from storage.errors import BadRequest
from storage.mapping import Choice, quoted

READERS = {
    ".csv": "read_csv",
    ".tsv": "read_csv",
    ".parquet": "read_parquet",
    ".pq": "read_parquet",
    ".ndjson": "read_json",
    ".jsonl": "read_json",
    ".json": "read_json",
}
PACKED = (".gz", ".zst")


class File:
    """One file; `columns` are its names and DuckDB's types, `first` its first row."""

    def __init__(self, path: Path) -> None:
        self.path = path
        suffixes = [suffix.lower() for suffix in path.suffixes]
        plain = [suffix for suffix in suffixes if suffix not in PACKED]
        reader = READERS.get(plain[-1]) if plain else None
        if reader is None:
            raise BadRequest(
                f"{path}: expected a file named .csv, .parquet, .ndjson or .jsonl; also .gz and .zst of these"
            )
        if not path.is_file():
            raise BadRequest(f"{path}: no such file")
        self._db = duckdb.connect()
        self._db.execute("SET preserve_insertion_order = true; SET TimeZone = 'UTC'")
        self.exact: dict[str, str] = {}  # columns of numbers with a fraction → the columns that hold their texts
        source = f"{reader}({_text(str(path))}"
        if reader == "read_parquet":
            self._relation = f"{source})"
        else:
            source += ", sample_size = -1"  # all of it: a type that held for some rows only would end the reading
            self._relation = f"{source})"
        try:
            self.columns = self._described()
            if reader == "read_csv":
                self._read_exactly(source)
            rows = self._db.sql(f"SELECT * FROM {self._relation} LIMIT 1").to_arrow_table().to_pylist()
        except duckdb.Error as error:
            raise BadRequest(f"{path}: {_first_line(error)}") from error
        self.first: dict[str, object] = rows[0] if rows else {}

    def _described(self) -> dict[str, str]:
        return {row[0]: row[1] for row in self._db.sql(f"DESCRIBE SELECT * FROM {self._relation}").fetchall()}

    def _read_exactly(self, source: str) -> None:
        """Keep numbers beside the texts that they are: a float would lose digits that a decimal keeps."""
        self.exact = {name: f"{name} as text" for name, kind in self.columns.items() if kind in ("DOUBLE", "FLOAT")}
        if self.exact:
            types = ", ".join(f"{_text(name)}: 'VARCHAR'" for name in self.exact)
            numbers = ", ".join(f"CAST({quoted(name)} AS DOUBLE) AS {quoted(name)}" for name in self.exact)
            texts = ", ".join(f"{quoted(name)} AS {quoted(text)}" for name, text in self.exact.items())
            self._relation = f"(SELECT * REPLACE ({numbers}), {texts} FROM {source}, types = {{{types}}}))"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    def count(self, where: str = "") -> int:
        """How many rows there are to read."""
        ((found,),) = self._query(f"SELECT count(*) FROM {self._relation}{_where(where)}").fetchall()
        return int(found)

    def read(self, choices: Sequence[Choice], where: str, skip: int, rows: int) -> Iterator[pa.RecordBatch]:
        """The chosen fields of the rows after the first `skip`, in the order of the file, `rows` at a time."""
        fields = ", ".join(f'{choice.sql} AS "{choice.field}"' for choice in choices)
        offset = f" OFFSET {skip}" if skip else ""
        relation = self._query(f"SELECT {fields} FROM {self._relation}{_where(where)}{offset}")
        try:
            reader: Any = relation.to_arrow_reader(rows)
            waiting: list[pa.RecordBatch] = []
            count = 0
            for batch in reader:
                waiting.append(batch)
                count += batch.num_rows
                if count >= rows:
                    yield _joined(waiting)
                    waiting, count = [], 0
            if count:
                yield _joined(waiting)
        except (duckdb.Error, pa.ArrowException) as error:
            raise BadRequest(f"{self.path}: {_first_line(error)}") from error

    def _query(self, sql: str) -> Any:
        try:
            return self._db.sql(sql)
        except duckdb.Error as error:
            raise BadRequest(f"{self.path}: {_first_line(error)}") from error

    def fingerprint(self) -> str:
        """Of the content: the same file under another name has the same one."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "blake2b").hexdigest()[:24]


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _where(condition: str) -> str:
    return f" WHERE {condition}" if condition else ""


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
