"""Rows as the bytes of a file: CSV, Parquet, an Arrow stream or NDJSON, made as the rows come and never held whole."""

import io
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Literal, Protocol, get_args

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq

Format = Literal["csv", "parquet", "arrow", "ndjson"]
FORMATS: tuple[Format, ...] = get_args(Format)
BINARY: tuple[Format, ...] = ("parquet", "arrow")
KINDS: dict[Format, str] = {
    "csv": "text/csv; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
    "arrow": "application/vnd.apache.arrow.stream",
    "ndjson": "application/x-ndjson",
}
GROUP_ROWS = 100_000  # of a Parquet file that are compressed together


class Encoder(Protocol):
    """Takes rows, gives bytes; some come later than the rows that they say."""

    def add(self, rows: pa.RecordBatch) -> bytes: ...
    def end(self) -> bytes: ...


def encoder(kind: Format, schema: pa.Schema) -> Encoder:
    """A new one for rows of this schema. It may be used by one thread at a time."""
    return _ENCODERS[kind](schema)


class _Csv:
    """With a header; texts are quoted only where one of them needs it, and nothing is an empty field."""

    def __init__(self, schema: pa.Schema) -> None:
        self._head = ",".join(schema.names).encode() + b"\n"

    def add(self, rows: pa.RecordBatch) -> bytes:
        rows = worded(rows)
        head, self._head = self._head, b""
        try:
            return head + _csv(rows, "none")
        except pa.ArrowInvalid:  # a comma, a quote or the end of a line in a text
            return head + _csv(rows, "needed")

    def end(self) -> bytes:
        head, self._head = self._head, b""
        return head


def _csv(rows: pa.RecordBatch, quoting: str) -> bytes:
    sink = pa.BufferOutputStream()
    csv.write_csv(rows, sink, csv.WriteOptions(include_header=False, quoting_style=quoting))
    return bytes(sink.getvalue())


class _Ndjson:
    """What says nothing is left out; decimals are texts, as numbers of JSON are floats to most readers."""

    def __init__(self, schema: pa.Schema) -> None:
        self._row = msgspec.defstruct("Row", [(name, Any, None) for name in schema.names], omit_defaults=True, gc=False)
        self._encoder = msgspec.json.Encoder()

    def add(self, rows: pa.RecordBatch) -> bytes:
        columns = [column.to_pylist() for column in worded(rows).columns]
        return self._encoder.encode_lines(list(map(self._row, *columns)))

    def end(self) -> bytes:
        return b""


class _Pipe(io.RawIOBase):
    """A file that is only written, and whose bytes leave at once."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        part = bytes(data)
        self._parts.append(part)
        self._size += len(part)
        return len(part)

    def tell(self) -> int:
        return self._size

    def taken(self) -> bytes:
        """What was written since the last call."""
        parts, self._parts = self._parts, []
        return b"".join(parts)


class _Parquet:
    def __init__(self, schema: pa.Schema) -> None:
        self._pipe = _Pipe()
        self._schema = schema
        self._writer = pq.ParquetWriter(self._pipe, schema, compression="zstd")
        self._waiting: list[pa.RecordBatch] = []
        self._rows = 0

    def add(self, rows: pa.RecordBatch) -> bytes:
        self._waiting.append(rows)
        self._rows += rows.num_rows
        if self._rows >= GROUP_ROWS:
            self._write()
        return self._pipe.taken()

    def end(self) -> bytes:
        if self._rows:
            self._write()
        self._writer.close()
        return self._pipe.taken()

    def _write(self) -> None:
        self._writer.write_table(pa.Table.from_batches(self._waiting, self._schema), row_group_size=self._rows)
        self._waiting, self._rows = [], 0


class _Arrow:
    def __init__(self, schema: pa.Schema) -> None:
        self._pipe = _Pipe()
        self._writer = pa.ipc.new_stream(self._pipe, schema)

    def add(self, rows: pa.RecordBatch) -> bytes:
        self._writer.write_batch(rows)
        return self._pipe.taken()

    def end(self) -> bytes:
        self._writer.close()
        return self._pipe.taken()


_ENCODERS: dict[Format, Callable[[pa.Schema], Encoder]] = {
    "csv": _Csv,
    "parquet": _Parquet,
    "arrow": _Arrow,
    "ndjson": _Ndjson,
}


def worded(rows: pa.RecordBatch) -> pa.RecordBatch:
    """The rows with decimals and times as texts: every digit, and ISO 8601 in UTC."""
    columns = [_worded(column) for column in rows.columns]
    return pa.RecordBatch.from_arrays(columns, names=rows.schema.names)


def _worded(column: Any) -> Any:
    if pa.types.is_timestamp(column.type):
        return pc.replace_substring(column.cast(pa.string()), " ", "T", max_replacements=1)
    if not pa.types.is_decimal(column.type):
        return column
    texts = column.cast(pa.string())
    small = pc.match_substring(texts, "E")  # small ones have an exponent
    if pc.any(small).as_py():
        plain = pa.array([f"{Decimal(text):f}" for text in texts.filter(small).to_pylist()], pa.string())
        texts = pc.replace_with_mask(texts, small.fill_null(False), plain)
    pointed = pc.match_substring(texts, ".")
    return pc.if_else(pointed, pc.utf8_rtrim(pc.utf8_rtrim(texts, "0"), "."), texts)
