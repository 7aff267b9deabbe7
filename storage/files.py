"""Files of events as tables, read by DuckDB a stretch at a time: CSV, NDJSON (also gzip, zstd), Parquet and Arrow."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import duckdb
import pyarrow as pa

from storage.errors import BadRequest
from storage.mapping import TEXTS, Choice, quoted

READERS = {
    ".csv": "read_csv",
    ".tsv": "read_csv",
    ".parquet": "read_parquet",
    ".pq": "read_parquet",
    ".ndjson": "read_json",
    ".jsonl": "read_json",
    ".json": "read_json",
    ".arrow": "arrow",
    ".arrows": "arrow",
}
PACKED = (".gz", ".zst")
ARROW_FILE = b"ARROW1"  # how such a file begins; a stream does not


class File:
    """One file; `columns` are its names and DuckDB's types, `first` its first row."""

    def __init__(self, path: Path) -> None:
        self.path = path
        suffixes = [suffix.lower() for suffix in path.suffixes]
        plain = [suffix for suffix in suffixes if suffix not in PACKED]
        reader = READERS.get(plain[-1]) if plain else None
        if reader is None:
            raise BadRequest(
                f"{path}: expected a file named .csv, .parquet, .ndjson, .jsonl or .arrow; also .gz and .zst of these"
            )
        if not path.is_file():
            raise BadRequest(f"{path}: no such file")
        self._db = duckdb.connect()
        self._db.execute("SET preserve_insertion_order = true; SET TimeZone = 'UTC'")
        self.exact: dict[str, str] = {}  # columns of numbers with a fraction → the columns that hold their texts
        self._streams = reader == "arrow"
        source = f"{reader}({_text(str(path))}"
        if reader in ("read_csv", "read_json"):
            source += ", sample_size = -1"  # all of it: a type that held for some rows only would end the reading
        self._relation = "stream" if self._streams else f"{source})"
        self.columns = self._described()
        if reader == "read_csv":
            self._read_exactly(source)
        elif reader == "read_json":
            self._read_texts(source)
        rows = self._query(f"SELECT * FROM {self._relation} LIMIT 1").to_arrow_table().to_pylist()
        self.first: dict[str, object] = rows[0] if rows else {}

    def _described(self) -> dict[str, str]:
        return {row[0]: row[1] for row in self._query(f"DESCRIBE SELECT * FROM {self._relation}").fetchall()}

    def _read_exactly(self, source: str) -> None:
        """Keep numbers beside the texts that they are: a float would lose digits that a decimal keeps."""
        texts = [name for name, kind in self.columns.items() if name in TEXTS and kind != "VARCHAR"]
        floats = [name for name, kind in self.columns.items() if kind in ("DOUBLE", "FLOAT") and name not in TEXTS]
        self.exact = {name: f"{name} as text" for name in floats}
        if texts or floats:
            types = ", ".join(f"{_text(name)}: 'VARCHAR'" for name in (*texts, *floats))
            self._relation = f"{source}, types = {{{types}}})"
        if floats:
            numbers = ", ".join(f"CAST({quoted(name)} AS DOUBLE) AS {quoted(name)}" for name in floats)
            beside = ", ".join(f"{quoted(name)} AS {quoted(text)}" for name, text in self.exact.items())
            self._relation = f"(SELECT * REPLACE ({numbers}), {beside} FROM {self._relation})"
        self.columns.update(dict.fromkeys(texts, "VARCHAR"))

    def _read_texts(self, source: str) -> None:
        """Leave texts that look like dates what they are."""
        if any(name in TEXTS and kind.startswith(("DATE", "TIME", "UUID")) for name, kind in self.columns.items()):
            self.columns.update({name: "VARCHAR" for name in self.columns if name in TEXTS})
            kinds = ", ".join(f"{_text(name)}: {_text(kind)}" for name, kind in self.columns.items())
            self._relation = f"{source}, columns = {{{kinds}}})"

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

    def says(self, choices: Sequence[Choice], where: str) -> bool:
        """Whether any row says something in one of these fields."""
        said = " OR ".join(f"({choice.sql}) IS NOT NULL" for choice in choices) or "false"
        rows = self._query(f"SELECT 1 FROM (SELECT * FROM {self._relation}{_where(where)}) WHERE {said} LIMIT 1")
        return bool(rows.fetchall())

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
            if self._streams:
                self._db.register("stream", _stream(self.path))  # it is read once
            return self._db.sql(sql)
        except (duckdb.Error, pa.ArrowException) as error:
            raise BadRequest(f"{self.path}: {_first_line(error)}") from error

    def fingerprint(self) -> str:
        """Of the content: the same file under another name has the same one."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "blake2b").hexdigest()[:24]


def _stream(path: Path) -> Any:
    """The batches of an Arrow stream, or of an Arrow file, which also says where each of them is."""
    source = pa.memory_map(str(path))
    if source.read_at(len(ARROW_FILE), 0) == ARROW_FILE:
        file = pa.ipc.open_file(source)
        batches = (file.get_batch(i) for i in range(file.num_record_batches))
        return pa.RecordBatchReader.from_batches(file.schema, batches)
    return pa.ipc.open_stream(source)


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _where(condition: str) -> str:
    return f" WHERE {condition}" if condition else ""


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
