"""Files of events as tables, read by DuckDB a stretch at a time: CSV, NDJSON (also gzip, zstd), Parquet and Arrow.

A row that cannot be read, or has a value that cannot be understood, is read all the same: with what is wrong with it.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from storage import lined
from storage.errors import BadRequest
from storage.lined import LINE, PROBLEM
from storage.mapping import SAMPLE, Choice, misfits, quoted

LINED = {".csv": "csv", ".tsv": "csv", ".ndjson": "json", ".jsonl": "json", ".json": "json"}
PARQUET, ARROW = (".parquet", ".pq"), (".arrow", ".arrows")
PACKED = (".gz", ".zst")
ARROW_FILE = b"ARROW1"  # how such a file begins; a stream does not
TRIED = 20_000  # rows that say of what type a column is
# What texts may be; a column is of the first type that nearly all texts of its beginning fit.
FITS = {
    "BIGINT": "regexp_full_match({0}, '[+-]?[0-9]+') AND TRY_CAST({0} AS BIGINT) IS NOT NULL",
    "DOUBLE": "TRY_CAST({0} AS DOUBLE) IS NOT NULL AND NOT isnan(TRY_CAST({0} AS DOUBLE))",
    "BOOLEAN": "lower({0}) IN ('true', 'false')",
    "DATE": "regexp_full_match({0}, '[0-9-]+') AND TRY_CAST({0} AS DATE) IS NOT NULL",
    "TIMESTAMP": "TRY_CAST({0} AS TIMESTAMP) IS NOT NULL AND TRY_CAST({0} AS DATE) IS NOT NULL AND {0} LIKE '%:%'",
}
PLAIN = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "FLOAT", "DOUBLE", "TIMESTAMP", "VARCHAR")
NESTED = "STRUCT"
RAW = "="  # before the names of columns that are read as they are
NEVER = 2**62


class Survey(NamedTuple):
    """What there is to read of a file."""

    rows: int
    all: bool  # whether what was asked holds for each of them
    since: list[int]  # the least time (µs) from each stretch of rows on


class File:
    """One file; `columns` are its names and DuckDB's types, `exact` those that hold the texts that the columns were."""

    def __init__(self, path: Path) -> None:
        self.path = path
        suffixes = [suffix.lower() for suffix in path.suffixes]
        plain = [suffix for suffix in suffixes if suffix not in PACKED]
        last = plain[-1] if plain else ""
        if last not in (*LINED, *PARQUET, *ARROW):
            raise BadRequest(
                f"{path}: expected a file named .csv, .parquet, .ndjson, .jsonl or .arrow; also .gz and .zst of these"
            )
        if not path.is_file():
            raise BadRequest(f"{path}: no such file")
        self._db = duckdb.connect()
        self._db.execute("SET preserve_insertion_order = true; SET TimeZone = 'UTC'")
        self._failure: BadRequest | None = None
        self._lines = lined.opened(path, LINED[last]) if last in LINED else None
        self._streams = last not in PARQUET
        self.exact: dict[str, str] = {}
        self.counts = "line" if self._lines is not None else "row"  # what the number of a row is of
        if self._lines is not None:
            self._relation = self._typed(self._lines.names)
        elif self._streams:
            self._relation = (
                f"(SELECT *, row_number() OVER () AS {quoted(LINE)}, NULL AS {quoted(PROBLEM)} FROM stream)"
            )
        else:
            source = f"read_parquet({_text(str(path))}, file_row_number = true)"
            numbered = f"file_row_number + 1 AS {quoted(LINE)}, NULL AS {quoted(PROBLEM)}"
            self._relation = f"(SELECT * EXCLUDE (file_row_number), {numbered} FROM {source})"
        texts = {*self.exact.values(), LINE, PROBLEM} - set(self.exact)
        described = self._query(f"DESCRIBE SELECT * FROM {self._relation}").fetchall()
        self.columns = {name: kind for name, kind, *_ in described if name not in texts}
        if not self.columns:
            self._db.close()
            raise BadRequest(f"{path}: there is nothing in it; expected rows with named columns")

    def _typed(self, names: Sequence[str]) -> str:
        """The lines with each column as what it is, for expressions, and as the texts that there are."""
        sample = self._query(f"SELECT * FROM stream WHERE {quoted(PROBLEM)} IS NULL LIMIT {TRIED}").to_arrow_table()
        self._db.register("sample", sample)
        columns = []
        for name in names:
            kind, expression = self._kind(name)
            text = name if kind == "VARCHAR" else f"{name} as text"
            self.exact[name] = text
            columns.append(f"{expression} AS {quoted(name)}")
            if text != name:
                columns.append(f"{quoted(name)} AS {quoted(text)}")
        self._db.unregister("sample")
        return f"(SELECT {', '.join([*columns, quoted(LINE), quoted(PROBLEM)])} FROM stream)"

    def _kind(self, name: str) -> tuple[str, str]:
        """What the texts of a column are, and the SQL that makes that of them; nothing of what does not fit."""
        column = quoted(name)
        counts = [f"count_if({fit.format(column)})" for fit in FITS.values()]
        nested = f"count_if({column}[1] IN ('{{', '['))"
        padded = f"count_if(regexp_full_match({column}, '0[0-9]+'))"
        ((said, inner, codes, *fitting),) = self._db.execute(
            f"SELECT count({column}), {nested}, {padded}, {', '.join(counts)} FROM sample"
        ).fetchall()
        odd = max(said // 10, 1 if said > 2 else 0)
        if said and inner == said:
            ((structure,),) = self._db.execute(f"SELECT json_group_structure({column}) FROM sample").fetchall()
            return NESTED, f"TRY(from_json({column}, {_text(structure)}))"
        for kind, count in zip(FITS, fitting, strict=True):
            if codes and kind in ("BIGINT", "DOUBLE"):
                continue  # 007 is no number: it would lose its zeros
            if said and count and count >= said - odd:
                if kind == "BOOLEAN":
                    return kind, f"CASE lower({column}) WHEN 'true' THEN true WHEN 'false' THEN false END"
                return kind, f"TRY_CAST({column} AS {kind})"
        return "VARCHAR", column

    def sample(self, column: str) -> list[object]:
        """The values of a column in the first rows that say one, as texts where the file has texts."""
        name = quoted(self.exact.get(column, column))
        return [
            value
            for (value,) in self._query(
                f"SELECT {name} FROM {self._relation} WHERE {name} IS NOT NULL LIMIT {SAMPLE}"
            ).fetchall()
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    def count(self, where: str = "") -> int:
        """How many rows there are to read."""
        ((found,),) = self._query(f"SELECT count(*) FROM {self._chosen(where)}").fetchall()
        return int(found)

    def survey(self, time: Choice, asked: str, where: str, rows: int) -> Survey:
        """Look at all rows once: how many there are, whether what is `asked` (SQL) holds for each that can be read, and
        from when on what comes after each `rows` of them is."""
        holds = f"({asked}) OR {quoted(PROBLEM)} IS NOT NULL"
        found = self._query(f"SELECT epoch_us({time.sql}) AS at, {holds} AS holds FROM {self._chosen(where)}")
        count, all_hold, least = 0, True, []
        for batch in self._stretches(found, rows):
            count += batch.num_rows
            all_hold = all_hold and bool(pc.all(batch.column("holds")).as_py())
            least.append(pc.min(batch.column("at")).as_py())
        return Survey(count, all_hold, suffix_minima(least))

    def read(
        self, choices: Sequence[Choice], where: str, skip: int, rows: int, *, raw: bool = False
    ) -> Iterator[pa.RecordBatch]:
        """The chosen fields of the rows after the first `skip`, in the order of the file, `rows` at a time.

        With the number of each (LINE) and what is wrong with it (PROBLEM); `raw`: and with all that the file has.
        """
        problems = [quoted(PROBLEM), *(choice.problem for choice in choices if choice.problem)]
        fields = [
            *(f"{choice.sql} AS {quoted(choice.field)}" for choice in choices),
            quoted(LINE),
            f"CAST(coalesce({', '.join(problems)}) AS VARCHAR) AS {quoted(PROBLEM)}",
        ]
        if raw:
            fields += [f"{self._raw(name, kind)} AS {quoted(RAW + name)}" for name, kind in self.columns.items()]
        offset = f" OFFSET {skip}" if skip else ""
        found = self._query(f"SELECT {', '.join(fields)} FROM {self._chosen(where)}{offset}")
        yield from self._stretches(found, rows)

    def _raw(self, name: str, kind: str) -> str:
        """A column as the file has it, or as a text where it is of an unusual type."""
        sql = quoted(self.exact.get(name, name))
        return sql if name in self.exact or kind in PLAIN else f"CAST({sql} AS VARCHAR)"

    def _chosen(self, where: str) -> str:
        """The rows for which a condition holds, and those of which nobody can say whether it does."""
        if not where:
            return self._relation
        doubts = [f"{quoted(PROBLEM)} IS NOT NULL", *(f"{problem} IS NOT NULL" for problem in misfits(where, self))]
        return f"(SELECT * FROM {self._relation} WHERE ({where}) OR {' OR '.join(doubts)})"

    def _stretches(self, found: Any, rows: int) -> Iterator[pa.RecordBatch]:
        try:
            waiting: list[pa.RecordBatch] = []
            count = 0
            for batch in found.to_arrow_reader(rows):
                waiting.append(batch)
                count += batch.num_rows
                while count >= rows:
                    whole = _joined(waiting)
                    yield whole.slice(0, rows)
                    waiting, count = [whole.slice(rows)], count - rows
            if count:
                yield _joined(waiting)
        except (duckdb.Error, pa.ArrowException) as error:
            raise self._failed(error) from error

    def _query(self, sql: str) -> Any:
        try:
            if self._streams:
                self._db.register("stream", self._stream())  # it is read once
            return self._db.sql(sql)
        except (duckdb.Error, pa.ArrowException) as error:
            raise self._failed(error) from error

    def _stream(self) -> Any:
        if self._lines is None:
            return _stream(self.path)
        return pa.RecordBatchReader.from_batches(lined.schema(self._lines.names), self._told(self._lines.batches()))

    def _told(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The same; what ends them is remembered, as whoever reads them will say it in his own words."""
        try:
            yield from batches
        except BadRequest as error:
            self._failure = error
            raise

    def _failed(self, error: Exception) -> BadRequest:
        return self._failure or BadRequest(f"{self.path}: {_first_line(error)}")

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


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def suffix_minima(least: Sequence[int | None]) -> list[int]:
    """The least number from each place on; what says nothing is later than all."""
    out, low = [], NEVER
    for one in reversed(least):
        low = low if one is None else min(low, one)
        out.append(low)
    return out[::-1]
