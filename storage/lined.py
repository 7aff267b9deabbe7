"""Files of lines, CSV and NDJSON, as tables of texts: each row with its line, and with what is wrong with it.

A row that cannot be read has a reason instead of values and takes none of the others with it.
"""

import csv
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv

from storage.errors import BadRequest

LINE, PROBLEM = "#line", "#problem"  # the columns beside those of the file
BLOCK = 4 << 20  # bytes that are read at a time
LONGEST = 100  # lines that one quoted text may span
SAMPLE = 100  # lines at the beginning that say what a file is like
DELIMITERS = ",;\t|"
_VALUE = re.compile(r"[+-]?[0-9]+\.?[0-9]*([eE][+-]?[0-9]+)?|[0-9]{4}-[0-9]{2}-[0-9]{2}.*")  # which names no column
_NEWLINE, _RETURN, _QUOTE = b'\n\r"'


class Lined(Protocol):
    """Such a file; it can be read any number of times."""

    names: list[str]  # of its columns

    def batches(self) -> Iterator[pa.RecordBatch]: ...


def schema(names: Sequence[str]) -> pa.Schema:
    """Of the batches of a file with these columns."""
    return pa.schema([*((name, pa.string()) for name in names), (LINE, pa.int64()), (PROBLEM, pa.string())])


def opened(path: Path, kind: str) -> Lined:
    """A file, `csv` or `json`. Raises BadRequest where nothing of it can be read."""
    return _Csv(path) if kind == "csv" else _Json(path)


def _blocks(path: Path) -> Iterator[bytes]:
    """The bytes of a file, unpacked."""
    try:
        with pa.input_stream(str(path)) as file:  # which knows .gz and .zst
            first = True
            while block := bytes(file.read(BLOCK)):
                if first:
                    if block.startswith((b"\xff\xfe", b"\xfe\xff")):
                        raise BadRequest(f"{path}: expected UTF-8, got UTF-16")
                    block, first = block.removeprefix(b"\xef\xbb\xbf"), False
                yield block
    except (OSError, pa.ArrowException) as error:
        raise BadRequest(f"{path}: {str(error).strip().splitlines()[0]}") from error


def _whole_lines(path: Path) -> Iterator[bytes]:
    """The same, cut behind ends of lines."""
    rest, returns = b"", None
    for block in _blocks(path):
        if returns is None:
            returns = b"\r" in block and b"\n" not in block
        if returns:  # some old programs end lines so
            block = block.replace(b"\r", b"\n")
        cut = block.rfind(b"\n") + 1
        if not cut:
            rest += block
            continue
        yield rest + block[:cut]
        rest = block[cut:]
    if rest:
        yield rest + b"\n"


def _batch(columns: Sequence[Any], names: Sequence[str], lines: Any, problems: Any) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [*columns, pa.array(lines, pa.int64()), pa.array(problems, pa.string())], schema=schema(names)
    )


def _shown(text: str) -> str:
    said = json.dumps(text, ensure_ascii=False)
    return said if len(said) <= 60 else said[:57] + "..."


def _unlike(names: Sequence[str]) -> list[str]:
    """Names that SQL can tell apart: the later of two that differ in case alone has a number."""
    seen: set[str] = set()
    out = []
    for name in names:
        free, n = name, 0
        while free.lower() in seen:
            n += 1
            free = f"{name}_{n}"
        seen.add(free.lower())
        out.append(free)
    return out


# --- CSV


class _Csv:
    def __init__(self, path: Path) -> None:
        self._path = path
        block = next(_whole_lines(path), b"")
        lines = block.decode("utf-8", "replace").replace("\r\n", "\n").removesuffix("\n").split("\n")[:SAMPLE]
        self._delimiter = _delimiter(lines)
        rows = [self._fields(line) for line in lines]
        usual = max((len(row) for row in rows), default=0)
        # What stands above the header is a title, or an address.
        self._above = next((i for i, row in enumerate(rows) if len(row) > 1 or (usual == 1 and row)), 0)
        header = rows[self._above] if rows else []
        headed = not any(_VALUE.fullmatch(name.strip()) for name in header)
        width = len(str(max(len(header) - 1, 0)))
        numbered = [f"column{i:0{width}}" for i in range(len(header))]
        named = [name.strip() or other for name, other in zip(header, numbered, strict=True)] if headed else numbered
        for name in named:
            if named.count(name) > 1:
                raise BadRequest(f"{path}: the header has the column {name!r} twice: rename one of the two")
        self.names = _unlike(named)
        self._above += headed

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All rows."""
        line, above, rest = 1, self._above, b""
        for block in _whole_lines(self._path):
            while above and block:
                _, _, block = block.partition(b"\n")
                above, line = above - 1, line + 1
            block = rest + block
            batch, rest, passed = self._read(block, line, last=False)
            line += passed
            if batch is not None:
                yield batch
        batch, _, _ = self._read(rest, line, last=True)
        if batch is not None:
            yield batch

    def _fields(self, line: str) -> list[str]:
        return next(csv.reader([line], delimiter=self._delimiter), [])

    def _read(self, block: bytes, line: int, *, last: bool) -> tuple[pa.RecordBatch | None, bytes, int]:
        """The rows of whole lines, what belongs to the next ones, and how many lines those of the rows are."""
        if not block:
            return None, b"", 0
        if b'"' in block or not _is_utf8(block):
            return self._slowly(block, line, last=last)
        data = np.frombuffer(block, np.uint8)
        ends = np.flatnonzero(data == _NEWLINE)
        starts = np.append(0, ends[:-1] + 1)
        delimiters = np.flatnonzero(data == ord(self._delimiter))
        width = np.diff(np.searchsorted(delimiters, np.append(starts, len(data)))) + 1
        size = ends - starts - (data[ends - 1] == _RETURN)
        said = size > 0
        bad = np.flatnonzero((width != len(self.names)) & said)
        texts = [block[starts[i] : ends[i]].decode() for i in bad.tolist()]
        blank = bad[np.array([not text.strip() for text in texts], np.bool_)]
        said[blank] = False
        good = said.copy()
        good[bad] = False
        kept = block if not len(bad) else _without(block, starts, ends, bad)
        columns = self._parsed(kept, int(good.sum()))
        rows = np.flatnonzero(said)
        problems: list[str | None] | Any = pa.nulls(len(rows), pa.string())
        if len(bad) > len(blank):
            at = np.full(len(starts), -1)
            at[good] = np.arange(good.sum())
            place = pa.array(at[rows], mask=~good[rows])
            columns = [column.take(place) for column in columns]
            why = {int(i): self._ragged(int(width[i]), text) for i, text in zip(bad, texts, strict=True)}
            problems = [why.get(row) for row in rows.tolist()]
        return _batch(columns, self.names, rows + line, problems), b"", len(ends)

    def _parsed(self, block: bytes, n: int, *, quoted: bool = False) -> list[Any]:
        """The columns of n rows, one a line, that all have their fields; ArrowInvalid where they are none."""
        if not n:
            return [pa.array([], pa.string()) for _ in self.names]
        types = dict.fromkeys(self.names, pa.string())
        table = arrow_csv.read_csv(
            pa.BufferReader(block),
            arrow_csv.ReadOptions(column_names=self.names, use_threads=False, block_size=len(block) + 1),
            arrow_csv.ParseOptions(delimiter=self._delimiter, quote_char='"' if quoted else False),
            arrow_csv.ConvertOptions(column_types=types, null_values=[""], strings_can_be_null=True, check_utf8=quoted),
        )
        if table.num_rows != n:
            raise pa.ArrowInvalid(f"expected {n} rows, got {table.num_rows}")
        return [column.combine_chunks() for column in table.columns]

    def _slowly(self, block: bytes, line: int, *, last: bool) -> tuple[pa.RecordBatch | None, bytes, int]:
        """As `_read`, where texts are quoted or are none."""
        lines = block.split(b"\n")[:-1]
        if (plain := self._plainly(block, line)) is not None:
            return plain, b"", len(lines)
        texts = [_text(one) for one in lines]
        rows: list[list[str]] = []
        numbers: list[int] = []
        problems: list[str | None] = []
        i = 0
        while i < len(lines):
            if (one := texts[i]) is not None and not one.strip():
                i += 1
                continue
            found = self._record(texts, i, last) if one is not None else ([], f"not UTF-8: {lines[i][:40]!r}", i + 1)
            if found is None:
                break
            fields, problem, following = found
            numbers.append(line + i)
            problems.append(problem)
            rows.append(fields if problem is None else [""] * len(self.names))
            i = following
        rest = b"".join(one + b"\n" for one in lines[i:])
        if not rows:
            return None, rest, i
        return self._listed(rows, numbers, problems), rest, i

    def _plainly(self, block: bytes, line: int) -> pa.RecordBatch | None:
        """The rows of lines, if each is one that plainly can be read."""
        data = np.frombuffer(block, np.uint8)
        ends = np.flatnonzero(data == _NEWLINE)
        quotes = np.diff(np.searchsorted(np.flatnonzero(data == _QUOTE), np.append(0, ends)))
        if (quotes % 2).any():
            return None
        try:
            columns = self._parsed(block, len(ends), quoted=True)
        except pa.ArrowInvalid:
            return None
        return _batch(columns, self.names, range(line, line + len(ends)), pa.nulls(len(ends), pa.string()))

    def _listed(self, rows: list[list[str]], numbers: Sequence[int], problems: Any) -> pa.RecordBatch:
        columns = [pa.array([value or None for value in column], pa.string()) for column in zip(*rows, strict=True)]
        return _batch(columns, self.names, numbers, problems)

    def _record(self, texts: Sequence[str | None], i: int, last: bool) -> tuple[list[str], str | None, int] | None:
        """The fields of the row that begins in a line, or what is wrong with it, and where the next one begins; None
        where the rest of it is still to be read."""
        first = texts[i]
        assert first is not None
        n = len(self.names)
        following, text, quotes = i + 1, first, first.count('"')
        while quotes % 2 and following < min(len(texts), i + LONGEST) and (more := texts[following]) is not None:
            text, quotes, following = f"{text}\n{more}", quotes + more.count('"'), following + 1
        if quotes % 2 and following == len(texts) and following < i + LONGEST and not last:
            return None
        if quotes % 2 == 0:
            # Over several lines only what is quoted as it should be; of one line, anything that makes sense.
            rows = csv.reader(
                [f"{part}\n" for part in text.split("\n")], delimiter=self._delimiter, strict=following > i + 1
            )
            with suppress(csv.Error):
                if len(fields := next(rows)) == n:
                    return fields, None, i + rows.line_num
        # What a quote that is never closed would swallow is read by itself.
        try:
            fields = self._strictly(first)
        except csv.Error as error:
            unclosed = "unexpected end" in str(error)
            return [], f"{'a quote is opened and not closed' if unclosed else error}: {_shown(first)}", i + 1
        return (fields, None, i + 1) if len(fields) == n else ([], self._ragged(len(fields), first), i + 1)

    def _strictly(self, line: str) -> list[str]:
        """The fields of one line; csv.Error where a quote is not closed."""
        try:
            return next(csv.reader([line], delimiter=self._delimiter, strict=True))
        except csv.Error as error:
            if "expected after" not in str(error):
                raise
            return self._fields(line)  # a text goes on behind its quotes

    def _ragged(self, width: int, text: str) -> str:
        return f"expected {len(self.names)} fields, got {width}: {_shown(text.rstrip())}"


def _delimiter(lines: Sequence[str]) -> str:
    """What most of these lines have as often as others do."""

    def agreeing(delimiter: str) -> tuple[int, int]:
        widths = [len(row) for row in csv.reader(lines, delimiter=delimiter) if len(row) > 1]
        usual = max(set(widths), key=widths.count, default=1)
        return widths.count(usual), usual

    return max(DELIMITERS, key=agreeing)


def _without(block: bytes, starts: Any, ends: Any, rows: Any) -> bytes:
    """The block without these lines."""
    edges = [0, *chain.from_iterable(zip(starts[rows].tolist(), (ends[rows] + 1).tolist(), strict=True)), len(block)]
    return b"".join(block[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True))


def _is_utf8(block: bytes) -> bool:
    try:
        block.decode()
    except UnicodeDecodeError:
        return False
    return True


def _text(line: bytes) -> str | None:
    try:
        return line.removesuffix(b"\r").decode()
    except UnicodeDecodeError:
        return None


# --- NDJSON

_OBJECT = msgspec.json.Decoder(dict[str, Any], float_hook=str)  # which keeps all digits


def _members(n: int) -> list[str]:
    return [f"f{i}" for i in range(n)]


@lru_cache(maxsize=4)
def _shape(keys: tuple[str, ...]) -> msgspec.json.Decoder[Any]:
    """Decodes objects that have no other members than these, several times faster than any."""
    names = _members(len(keys))
    shape = msgspec.defstruct(
        "Shape",
        [(name, Any, None) for name in names],
        rename=dict(zip(names, keys, strict=True)),
        gc=False,
        forbid_unknown_fields=True,
    )
    return msgspec.json.Decoder(shape, float_hook=str)


_ELEMENTS = msgspec.json.Decoder(list[msgspec.Raw])
_PARSING = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_AT = re.compile(r" \(byte ([0-9]+)\)$")


class _Json:
    """One object a line, or an array of objects, of which each counts as a line."""

    def __init__(self, path: Path) -> None:
        self._path = path
        start = next(_blocks(path), b"").lstrip()
        self._array = start.startswith(b"[")
        self._keys: dict[str, None] = {}
        # All objects are looked at, as a rare one may be that which takes back others.
        for _, rows, _ in self._objects():
            if rows and isinstance(rows[0], dict):
                self._keys |= dict.fromkeys(chain.from_iterable(rows))
        self.names = _unlike(list(self._keys))

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All rows."""
        for lines, rows, problems in self._objects():
            if rows and isinstance(rows[0], dict):
                columns = [_column([row.get(key) for row in rows]) for key in self._keys]
            else:
                columns = [_column([getattr(row, name) for row in rows]) for name in _members(len(self._keys))]
            yield _batch(columns, self.names, lines, problems)

    def _objects(self) -> Iterator[tuple[list[int], list[Any], Any]]:
        """The line of each object, the objects as structs or as dicts, and why one is empty if it cannot be read."""
        line = 1
        for block in self._parts():
            lines = [(i, text) for i, text in enumerate(block, line) if text and not text.isspace()]
            line += len(block)
            numbers, body = [i for i, _ in lines], b"\n".join(text for _, text in lines)
            yield numbers, *self._decoded(body, [text for _, text in lines])

    def _decoded(self, body: bytes, lines: Sequence[bytes]) -> tuple[list[Any], Any]:
        for decoder in (_shape(tuple(self._keys)), _OBJECT):
            with suppress(*_PARSING):
                return decoder.decode_lines(body), pa.nulls(len(lines), pa.string())
        found = [_object(line) for line in lines]
        return [row for row, _ in found], [why for _, why in found]

    def _parts(self) -> Iterator[list[bytes]]:
        if not self._array:
            yield from (block.split(b"\n")[:-1] for block in _whole_lines(self._path))
            return
        try:
            elements = _ELEMENTS.decode(b"".join(_blocks(self._path)))
        except _PARSING as error:
            raise BadRequest(f"{self._path}: {error}") from error
        # An object may be written over several lines.
        yield [bytes(element).replace(b"\n", b" ") for element in elements]


def _object(line: bytes) -> tuple[dict[str, Any], str | None]:
    """An object, or why it is none."""
    try:
        return _OBJECT.decode(line), None
    except msgspec.ValidationError as error:
        expected = str(error).partition(" - ")[0].lower()
        return {}, f"{expected}: {_shown(line.decode(errors='replace').strip())}"
    except _PARSING as error:
        reason = str(error).removeprefix("JSON is malformed: ").removeprefix("Input data was ")
        if isinstance(error, UnicodeDecodeError):
            reason = f"not UTF-8 (byte {error.start})"
        reason = _AT.sub(lambda found: f" at byte {int(found[1]) + 1}", reason)
        return {}, f"not JSON: {reason}: {_shown(line.decode(errors='replace').strip())}"


def _column(values: list[Any]) -> Any:
    """What JSON says, as texts; an empty one says nothing."""
    kinds = set(map(type, values)) - {type(None)}
    if kinds == {int}:
        with suppress(OverflowError):
            return pa.array(values, pa.int64()).cast(pa.string())
    if kinds - {str}:
        values = [_said(value) for value in values]
    if "" in values:
        values = [value or None for value in values]
    return pa.array(values, pa.string())


def _said(value: Any) -> str | None:
    match value:
        case None | str():
            return value
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
    return msgspec.json.encode(value).decode()
