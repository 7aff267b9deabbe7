"""Pure: the body of a request into columns of plain Arrow types, whatever form it was sent in."""

import codecs
import json
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from types import NoneType
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from actors.words import BAR_FIELDS, CARD_FIELDS, KNOWN, TEXT, Mask, Micros, Unreadable, iso, shown
from storage.errors import BadRequest, TooLarge
from storage.events import Array

JSON = "application/json"
NDJSON = "application/x-ndjson"
ARROW = "application/vnd.apache.arrow.stream"
MANY = 1 << 20  # events in one request
FEW = 4  # events that are read one by one, for less than the columns would cost


class UnsupportedMediaType(BadRequest):
    """A body in a form that is not taken."""


@dataclass(slots=True)
class Batch:
    """A request, parsed and not yet understood."""

    n: int
    columns: dict[str, Any]  # name → Arrow array of a plain type, null where nothing is said
    odd: Mask  # rows with a value that has no place in its column
    events: Callable[[Array], Iterable[Any]]  # the events at these rows, as Python values
    raw: Callable[[int, Any], bytes]  # one event as sent


def opened(body: bytes, form: str, limit: int, known: frozenset[str] = KNOWN) -> Batch:
    """A body as columns of the fields in `known`, whatever else it says."""
    match form:
        case "application/json":
            return _json_batch(_unmarked(body), known)
        case "application/x-ndjson":
            return _ndjson_batch(_unmarked(body), known)
        case "application/vnd.apache.arrow.stream":
            return _arrow_batch(body, limit, known)
    raise UnsupportedMediaType(f"Content-Type: expected {JSON}, {NDJSON} or {ARROW}, got {shown(form)}")


def _unmarked(body: bytes) -> bytes:
    """JSON without the byte order mark that some editors begin a file with."""
    if body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise BadRequest("body: line 1, byte 1: expected UTF-8, got UTF-16")
    return body.removeprefix(codecs.BOM_UTF8)


_ANYTHING: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
_ANY_FLOAT: msgspec.json.Decoder[Any] = msgspec.json.Decoder(float_hook=float)  # 1e400 is inf; three times slower
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_RAWS = msgspec.json.Decoder(list[msgspec.Raw])
_PARSING = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


@lru_cache(maxsize=256)
def _shape(names: tuple[str, ...]) -> tuple[msgspec.json.Decoder[Any], msgspec.json.Decoder[Any]]:
    """Decoders for one object, and for an array of objects, that have no other members than these."""
    # gc=False: what JSON holds cannot be a cycle.
    shape = msgspec.defstruct("Shape", [(name, Any, None) for name in names], gc=False, forbid_unknown_fields=True)
    return msgspec.json.Decoder(shape), msgspec.json.Decoder(list[shape])  # type: ignore[valid-type]  # made just now


def _names(first: Any, known: frozenset[str]) -> tuple[str, ...] | None:
    """The members of the first event, if all are known: most requests hold events of one shape."""
    return tuple(first) if isinstance(first, dict) and known.issuperset(first) else None


def _ndjson_batch(body: bytes, known: frozenset[str]) -> Batch:
    def raw(row: int, event: Any) -> bytes:
        if not lines:
            lines.extend(_lines(body))
        return lines[row].strip() if len(lines) == batch.n else msgspec.json.encode(event)

    lines: list[bytes] = []
    start = body[:4096].lstrip()
    try:
        names = _names(_ANYTHING.decode(start[: start.find(b"\n") % 4096]), known)
        if names is not None:
            batch = _shaped(names, _shape(names)[0].decode_lines(body), raw)
            return batch
    except _PARSING:
        pass  # events of several shapes, or trouble: the other ways will say
    batch = _loose(_ndjson_events(body), raw, known)
    return batch


def _lines(body: bytes) -> list[bytes]:
    return [line for line in body.split(b"\n") if line.strip()]


def _ndjson_events(body: bytes) -> list[Any]:
    mended = body
    for decoder in (_ANYTHING, _ANY_FLOAT):
        try:
            return decoder.decode_lines(body)
        except msgspec.ValidationError:
            continue
        except _PARSING as error:
            mended = _mended(body)
            if mended == body:
                raise _malformed(body, error, lines=True) from None
            break
    try:
        return [_one(line) for line in _lines(body)]
    except _PARSING as error:
        raise _malformed(mended, error, lines=True) from None


def _json_batch(body: bytes, known: frozenset[str]) -> Batch:
    def raw(row: int, _: Any) -> bytes:
        if not array:
            return body.strip()
        if not elements:
            elements.extend(_elements(body, _mended(body)))
        return elements[row].strip()

    elements: list[bytes] = []
    start = body[:4096].lstrip()
    array = start.startswith(b"[")
    if array:
        try:
            text = start[1:].decode("utf-8", "ignore").lstrip()
            names = _names(json.JSONDecoder().raw_decode(text)[0], known)
            if names is not None:
                return _shaped(names, _shape(names)[1].decode(body), raw)
        except (*_PARSING, json.JSONDecodeError):
            pass  # as above
    return _loose(_json_events(body, array), raw, known)


def _json_events(body: bytes, array: bool) -> list[Any]:
    mended = body
    for decoder in (_ANYTHING, _ANY_FLOAT):
        try:
            return _listed_events(decoder.decode(body))
        except msgspec.ValidationError:
            continue
        except _PARSING as error:
            mended = _mended(body)
            if mended == body:
                raise _malformed(body, error) from None
            break
    try:
        if array:
            return [_one(part) for part in _elements(body, mended)]
        found = _one(body)
        return [found] if isinstance(found, Unreadable) else _listed_events(found)
    except _PARSING as error:
        raise _malformed(mended, error) from None


def _listed_events(found: Any) -> list[Any]:
    if isinstance(found, dict):
        return [found]
    if not isinstance(found, list):
        raise BadRequest(f"body: expected an object or an array of objects, got {shown(found)}")
    return found


def _elements(body: bytes, mended: bytes) -> list[bytes]:
    """The elements of an array as they were sent; `mended` is the same without halves of characters."""
    elements = []
    at = body.index(b"[") + 1
    for raw in _RAWS.decode(mended):
        start = _BETWEEN.match(body, at).end()  # type: ignore[union-attr]  # matches nothing at all, too
        at = start + len(memoryview(raw))
        elements.append(body[start:at])
    return elements


def _one(part: bytes) -> Any:
    """One event; Unreadable where it is JSON, but says something that cannot be kept."""
    try:
        return _ANY_FLOAT.decode(part)
    except msgspec.ValidationError:
        return _endless(part)
    except msgspec.DecodeError:
        mended = _mended(part)
        if mended == part:
            raise
        found = _one(mended)
        return found if isinstance(found, Unreadable) else _halved(json.loads(part))


def _endless(part: bytes) -> Unreadable:
    """Says which field of an event holds an integer of so many digits that nobody reads it."""
    said: dict[str, msgspec.Raw] = {}
    with suppress(msgspec.DecodeError):
        said = _MEMBERS.decode(part)
    symbol = None
    for name, raw in said.items():
        try:
            value = _ANY_FLOAT.decode(raw)
        except msgspec.ValidationError:
            reason = f"expected an integer of at most 64 bits, got one that begins {bytes(raw)[:20].decode()}"
            # As below: nobody is to count whatever anybody makes up.
            return Unreadable(reason, symbol, name) if name in _PULL else Unreadable(f"{name[:TEXT]}: {reason}", symbol)
        symbol = value if name == "market_symbol" else symbol
    return Unreadable("integer value out of range")


_BETWEEN = re.compile(rb"[\s,]*")
_ESCAPE = re.compile(rb"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL)


def _mended(body: bytes) -> bytes:
    """JSON in which an escape that is half a surrogate pair, and so no character, is another one of the same length."""
    return _ESCAPE.sub(lambda found: b"\\ufffd" if found[1] else found[0], body)


def _halved(event: Any) -> Unreadable:
    """Says where an event holds half a surrogate pair."""
    if not isinstance(event, dict):
        return Unreadable(f"expected an object, got {json.dumps(event):.60}")
    expected = "expected Unicode, got half a surrogate pair in"
    symbol = event.get("market_symbol")
    symbol = symbol if _is_unicode(symbol) else None
    for name, value in event.items():
        if not _is_unicode(name):
            return Unreadable(f"{expected} the name {json.dumps(name):.60}", symbol)
        if not _is_unicode(value):
            if name in _PULL:  # whoever counts reasons by field is not to count whatever anybody makes up
                return Unreadable(f"{expected} {json.dumps(value):.60}", symbol, name)
            return Unreadable(f"{expected} {name[:TEXT]}: {json.dumps(value):.60}", symbol)
    return Unreadable(f"{expected} a field that is there twice", symbol)


def _is_unicode(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _malformed(body: bytes, error: Exception, *, lines: bool = False) -> BadRequest:
    """Says where a body stops being JSON: line, and byte in the line, both from 1."""
    start, end = 0, len(body)
    if lines:  # what is wrong with a line may show only in the next
        for line in body.splitlines(keepends=True) if b"\r" not in body else body.split(b"\n"):
            try:
                if line.strip():
                    _ANYTHING.decode(line)
            except msgspec.ValidationError:
                pass
            except _PARSING as found:
                error, end = found, start + len(line.rstrip())
                break
            start += len(line) + (b"\r" in body)
    if isinstance(error, RecursionError):
        return BadRequest(f"body: line {body.count(10, 0, start) + 1}: nested too deeply")
    at, reason = end, "it ends too early"
    if isinstance(error, UnicodeDecodeError):
        reason = "not UTF-8"
        try:
            body[start:end].decode()
        except UnicodeDecodeError as found:
            at = start + found.start
    elif place := re.search(r"(?:malformed: )?([^:]+) \(byte (\d+)\)$", str(error)):
        at, reason = start + int(place[2]), place[1].strip()
    line_start = body.rfind(b"\n", 0, at) + 1
    return BadRequest(f"body: line {body.count(10, 0, at) + 1}, byte {at - line_start + 1}: {reason}")


def _shaped(names: Sequence[str], events: Sequence[Any], raw: Callable[[int, Any], bytes]) -> Batch:
    values = {name: _PULL[name](events) for name in names}

    def read(rows: Array) -> Iterator[Any]:
        return ({name: column[row] for name, column in values.items()} for row in rows.tolist())

    return _listed(len(events), values, read, raw)


def _loose(events: Sequence[Any], raw: Callable[[int, Any], bytes], known: frozenset[str]) -> Batch:
    def read(rows: Array) -> Iterator[Any]:
        return (events[row] for row in rows.tolist())

    objects = events
    if not set(map(type, events)) <= {dict}:
        objects = [event if type(event) is dict else {} for event in events]  # an empty one has no market, so is slow
    names = known.intersection(set().union(*objects))
    return _listed(len(events), {name: [event.get(name) for event in objects] for name in names}, read, raw)


def _listed(
    n: int, values: Mapping[str, list[Any]], read: Callable[[Array], Iterable[Any]], raw: Callable[[int, Any], bytes]
) -> Batch:
    odd = np.zeros(n, np.bool_)
    columns: dict[str, Any] = {}
    if n > FEW:
        for name, column in values.items():
            array = _column(column, odd)
            if array is not None:
                columns[name] = array
    return Batch(n, columns, odd, read, raw)


# A comprehension over a member that is written out takes half the time of any that looks it up by name.
_PULL: dict[str, Callable[[Sequence[Any]], list[Any]]] = {
    name: eval(f"lambda events: [event.{name} for event in events]") for name in KNOWN | CARD_FIELDS | BAR_FIELDS
}
_PLAIN: dict[type, Any] = {str: pa.string(), float: pa.float64(), int: pa.int64(), bool: pa.bool_()}


def _column(values: list[Any], odd: Mask) -> Any:
    """Values as one Arrow array of a plain type; those of another type are null there, and their rows odd."""
    if type(values[0]) is str:
        try:
            return pa.array(values, pa.string())
        except pa.ArrowException:
            pass  # something else among them
    kinds = set(map(type, values))
    whole = NoneType not in kinds
    kinds.discard(NoneType)
    if not kinds:
        return None
    try:
        if len(kinds) == 1:
            (kind,) = kinds
            if kind in _PLAIN:
                return pa.array(values, _PLAIN[kind])
        elif kinds == {int, float} and whole:
            return pa.array(values, pa.float64())
    except (pa.ArrowInvalid, OverflowError):
        pass  # an integer too large: row by row
    main = next((type(value) for value in values if type(value) in _PLAIN), None)
    fits = [type(value) is main and (main is not int or -(1 << 63) <= value < 1 << 63) for value in values]
    odd |= np.array([value is not None and not fit for value, fit in zip(values, fits, strict=True)], np.bool_)
    if main is None:
        return None
    return pa.array([value if fit else None for value, fit in zip(values, fits, strict=True)], _PLAIN[main])


def _arrow_batch(body: bytes, limit: int, known: frozenset[str]) -> Batch:
    try:
        table = _arrow_table(body, limit, known)
        _refuse_inexact(table)
        columns = {name: _plain(name, table.column(name)) for name in table.column_names}
    except (pa.ArrowException, OSError, EOFError, ValueError, struct.error) as error:
        raise BadRequest(
            f"body: not an Arrow stream: {str(error).splitlines()[0] if str(error) else 'broken'}"
        ) from None
    columns = {name: column for name, column in columns.items() if column.null_count < len(column)}

    def read(rows: Array) -> Iterator[Any]:
        for start in range(0, len(rows), 1024):
            some = pa.array(rows[start : start + 1024])
            values = {name: _values(column.take(some)) for name, column in columns.items()}
            for i in range(len(some)):
                yield {name: column[i] for name, column in values.items() if column[i] is not None}

    def raw(_: int, event: Any) -> bytes:
        return msgspec.json.encode({k: iso(v) if isinstance(v, Micros) else v for k, v in event.items()})

    return Batch(table.num_rows, columns, np.zeros(table.num_rows, np.bool_), read, raw)


def _arrow_table(body: bytes, limit: int, known: frozenset[str]) -> Any:
    buffer = pa.py_buffer(body)
    if _unpacked_size(buffer, limit) > limit:
        raise TooLarge(f"body: expected at most {limit} bytes unpacked, got more")
    schema = pa.ipc.open_stream(buffer).schema
    wanted = [i for i, name in enumerate(schema.names) if name in known]
    if not wanted:
        like = "market_symbol, timestamp and price" if "timestamp" in known else "time, card_id and price"
        raise BadRequest(f"body: expected columns like {like}, got {shown(schema.names)}")
    for i in wanted:
        if schema.names.count(schema.names[i]) > 1:
            raise BadRequest(f"body: expected one column {schema.names[i]}, got several")
        _refuse_nested(schema.field(i))
    batches = []
    rows = 0
    with pa.ipc.open_stream(buffer, options=pa.ipc.IpcReadOptions(included_fields=wanted, use_threads=False)) as reader:
        for batch in reader:
            rows += batch.num_rows
            if rows > MANY:  # a column of nulls may claim any length
                raise TooLarge(f"body: expected at most {MANY} events, got more")
            batch.validate(full=True)  # offsets, indices and UTF-8 are only claims until then
            batches.append(batch)
        return pa.Table.from_batches(batches, reader.schema).unify_dictionaries()


_TEXTUAL = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view")
_NUMERIC = (
    "bool",
    "halffloat",
    "float",
    "double",
    "null",
    *(f"{sign}int{w}" for sign in ("", "u") for w in (8, 16, 32, 64)),
)


def _refuse_nested(field: Any) -> None:
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    name = str(kind)
    if not (name in _TEXTUAL or name in _NUMERIC or pa.types.is_decimal(kind) or pa.types.is_timestamp(kind)):
        raise BadRequest(f"{field.name}: expected a column of texts, numbers, booleans or timestamps, got {field.type}")


def _refuse_inexact(table: Any) -> None:
    """A float may have lost digits of what it names before it got here."""
    if "trade_id" not in table.column_names:
        return
    column = table.column("trade_id")
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    whole = pa.types.is_integer(kind) or (pa.types.is_decimal(kind) and kind.scale == 0)
    if not whole and str(kind) not in _TEXTUAL and column.null_count < len(column):
        raise BadRequest(f"trade_id: expected a column of integers or texts, got {column.type}")


def _plain(name: str, column: Any) -> Any:
    """A column as one array of one of the few types that are read whole."""
    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    kind = array.type
    if pa.types.is_dictionary(kind):
        if str(kind.value_type) in _TEXTUAL:
            return pa.DictionaryArray.from_arrays(array.indices, _cut(array.dictionary.cast(pa.string())))
        return _plain(name, pa.chunked_array([array.dictionary_decode()]))
    if str(kind) in _TEXTUAL:
        return _cut(array.cast(pa.string()))
    if pa.types.is_timestamp(kind):
        return array.cast(pa.timestamp("us", kind.tz), safe=kind.unit != "ns")  # µs are kept
    if pa.types.is_decimal(kind):
        return array.cast(pa.string())
    if pa.types.is_float16(kind) or pa.types.is_float32(kind):
        return array.cast(pa.float32()).cast(pa.string()).cast(pa.float64())  # by its own shortest text
    if pa.types.is_integer(kind):
        try:
            return array.cast(pa.int64())
        except pa.ArrowInvalid:
            return array  # unsigned, and beyond: row by row
    return array


def _cut(texts: Any) -> Any:
    """No text longer than what shows that it is too long."""
    if len(texts) and (pc.max(pc.binary_length(texts)).as_py() or 0) > 4 * TEXT:
        return pc.utf8_slice_codeunits(texts, 0, 4 * TEXT)
    return texts


def _values(column: Any) -> list[Any]:
    if pa.types.is_timestamp(column.type):
        return [None if at is None else Micros(at) for at in column.view(pa.int64()).to_pylist()]
    return list(column.to_pylist())


def _unpacked_size(buffer: Any, limit: int) -> int:
    """The bytes that a stream's compressed buffers say they unpack to; 0 where none is compressed.

    Arrow allocates what a buffer claims, so the claims are added up first. The layout is that of the flatbuffers
    Message, RecordBatch and DictionaryBatch (format/Message.fbs).
    """
    size = 0
    for message in pa.ipc.MessageReader.open_stream(buffer):
        if message.type not in ("record batch", "dictionary"):
            continue
        data = message.metadata.to_pybytes()
        header = _member(data, struct.unpack_from("<I", data, 0)[0], 2)
        batch = _follow(data, header)
        if message.type == "dictionary":
            batch = _follow(data, _member(data, batch, 1))
        if not _member(data, batch, 3):  # compression
            continue
        listed = _follow(data, _member(data, batch, 2))
        (count,) = struct.unpack_from("<I", data, listed)
        for i in range(count):
            offset, length = struct.unpack_from("<qq", data, listed + 4 + 16 * i)
            if length >= 8:
                (claimed,) = struct.unpack_from("<q", message.body, offset)
                size += length if claimed == -1 else claimed
                if claimed < -1 or size > limit:
                    return limit + 1
    return size


def _member(data: bytes, table: int, number: int) -> int:
    """Where a flatbuffers table keeps a member; 0 where it has none."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    (length,) = struct.unpack_from("<H", data, vtable)
    at = 4 + 2 * number
    offset = struct.unpack_from("<H", data, vtable + at)[0] if at + 2 <= length else 0
    return table + offset if offset else 0


def _follow(data: bytes, at: int) -> int:
    return at + int(struct.unpack_from("<I", data, at)[0])
