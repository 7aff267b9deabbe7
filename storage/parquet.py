"""Immutable Parquet files of rows in order of market and time: written in steps, read back, read by row groups.

A row group is small, so that the bars of one market are read without those of many others. Every page has a checksum;
the footer has none in Parquet, so whoever keeps a list of the files keeps one (`footer_sum`).
"""

import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.errors import BrokenStore
from storage.events import Array, Column
from storage.partials import decimal_words

GROUP_ROWS = 6_000
GROUP_BYTES = 8 << 20  # of a row group in memory: rows with large sketches make smaller groups
KEPT = 32  # footers in memory; one takes about a megabyte
KEY = b"candled"  # of our own words among a file's metadata
NEW = ".new"  # the end of a name that is not final yet

# What a file that is damaged makes the library raise.
BROKEN = (OSError, pa.ArrowException, ValueError)


def sync(file: int) -> None:
    """Wait until the disk has an open file or folder."""
    os.fsync(file)


class Fingerprint:
    """A hash of rows in their order, the same however they are cut into tables."""

    def __init__(self) -> None:
        self._streams: dict[str, Any] = {}

    def add(self, table: pa.Table) -> None:
        """Go on with these rows."""
        for name in table.column_names:
            for chunk in table.column(name).chunks:
                for stream, part in _streams(name, chunk):
                    if stream not in self._streams:
                        self._streams[stream] = blake2b(digest_size=16)
                    self._streams[stream].update(part)

    def text(self) -> str:
        """The hash so far, in hexadecimal digits."""
        whole = blake2b(digest_size=16)
        for stream in sorted(self._streams):
            whole.update(stream.encode() + b"\0" + self._streams[stream].digest())
        return whole.hexdigest()


def _streams(name: str, column: Column) -> Iterator[tuple[str, Any]]:
    """A column as streams of bytes that can be cut anywhere: which rows say something, lengths, values."""
    yield f"{name} said", column.is_valid().to_numpy(zero_copy_only=False).astype(np.uint8)
    kind = column.type
    if pa.types.is_list(kind):
        yield f"{name} lengths", pc.list_value_length(column).fill_null(0).to_numpy().astype("<i4")
        yield from _streams(f"{name} values", column.flatten())
    elif pa.types.is_string(kind):
        column = column.fill_null("")
        offsets = np.frombuffer(column.buffers()[1], np.int32)[column.offset : column.offset + len(column) + 1]
        yield f"{name} lengths", np.diff(offsets).astype("<i4")
        if offsets[-1] > offsets[0]:
            yield f"{name} text", memoryview(column.buffers()[2])[offsets[0] : offsets[-1]]
    elif pa.types.is_decimal(kind):
        yield f"{name} values", np.ascontiguousarray(decimal_words(column))
    else:
        column = column.fill_null(pa.scalar(0).cast(kind)) if column.null_count else column
        yield f"{name} values", np.ascontiguousarray(column.to_numpy(zero_copy_only=False))


class Writer:
    """A new file beside its final name, until it is whole, on the disk and renamed."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        """Raises OSError where there is no room."""
        self.path = path
        self.new = path.with_name(path.name + NEW)
        self.rows = 0
        self._print = Fingerprint()
        texts = [field.name for field in schema if pa.types.is_string(field.type)]
        whole = [field.name for field in schema if pa.types.is_integer(field.type) and field.type != pa.uint8()]
        self._writer = pq.ParquetWriter(
            self.new,
            schema,
            compression="zstd",
            use_dictionary=texts,
            column_encoding=dict.fromkeys(whole, "DELTA_BINARY_PACKED"),
            write_statistics=[name for name in ("market", "t", "ts", "rev", "pos") if name in schema.names],
            write_page_checksum=True,
            write_page_index=False,
        )

    def add(self, table: pa.Table) -> None:
        """Rows that come after those before."""
        size = min(GROUP_ROWS, max(1, GROUP_BYTES * table.num_rows // max(table.nbytes, 1)))
        self._print.add(table)
        self._writer.write_table(table, row_group_size=size)
        self.rows += table.num_rows

    def hash(self) -> str:
        """The fingerprint of what was added."""
        return self._print.text()

    def close(self, words: bytes) -> None:
        """Finish the file, with these words in its footer, and wait for the disk; then it can be verified."""
        self._writer.add_key_value_metadata({KEY: words})
        self._writer.close()
        with self.new.open("rb") as file:
            sync(file.fileno())

    def rename(self) -> None:
        """Give it its name; the folder is not synced."""
        os.replace(self.new, self.path)

    def give_up(self) -> None:
        """Leave nothing behind."""
        with suppress(*BROKEN):
            self._writer.close()
        self.new.unlink(missing_ok=True)


def verified(path: Path, rows: int, hashed: str) -> Iterator[pa.Table]:
    """All rows of a file, read again; raises BrokenStore at the end where they are not what was written."""
    found = Fingerprint()
    count = 0
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for number in range(file.num_row_groups):
                table = file.read_row_group(number, use_threads=False)
                count += table.num_rows
                found.add(table)
                yield table
    except BROKEN as error:
        raise BrokenStore(f"{path}: cannot be read: {error}") from error
    if (count, found.text()) != (rows, hashed):
        raise BrokenStore(f"{path}: expected {rows} rows with the hash {hashed}, found {count} with {found.text()}")


def words(path: Path) -> bytes:
    """What was put into the footer; raises one of BROKEN, or KeyError where it is no file of ours."""
    metadata = pq.read_metadata(path).metadata
    found: bytes = (metadata or {})[KEY]
    return found


def footer_sum(path: Path) -> int:
    """The CRC-32 of a file's footer; raises OSError, ValueError where it has none."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 8))
        tail = file.read()
        length = int.from_bytes(tail[:4], "little")
        if tail[4:] != b"PAR1" or length > size - 12:
            raise ValueError("it has no footer")
        file.seek(size - 8 - length)
        return zlib.crc32(file.read(length))


@dataclass(frozen=True, slots=True)
class Groups:
    """The row groups of a file: between which markets and times the rows of each lie, and the newest change."""

    meta: Any
    market_low: Array
    market_high: Array
    low: Array
    high: Array
    rev: Array


@lru_cache(KEPT)
def groups(path: Path, footer: int, time: str = "t", change: str = "rev") -> Groups:
    """The row groups of a file whose footer has this checksum; raises one of BROKEN."""
    found = footer_sum(path)
    if found != footer:
        raise ValueError(f"its footer has the checksum {found:08x}, expected {footer:08x}")
    meta = pq.read_metadata(path)
    place = {meta.schema.column(i).path: i for i in range(meta.num_columns)}
    columns = [place["market"], place["market"], place[time], place[time], place[change]]
    out = np.empty((5, meta.num_row_groups), np.int64)
    for number in range(meta.num_row_groups):
        group = meta.row_group(number)
        told = [group.column(i).statistics for i in columns]
        out[:, number] = [told[0].min, told[1].max, told[2].min, told[3].max, told[4].max]
    return Groups(meta, *out)


def read(path: Path, known: Groups, numbers: Sequence[int], columns: Sequence[str] | None = None) -> pa.Table:
    """These row groups, in their order; raises one of BROKEN."""
    with pq.ParquetFile(path, metadata=known.meta, page_checksum_verification=True) as file:
        return file.read_row_groups(numbers, columns=columns, use_threads=False)
