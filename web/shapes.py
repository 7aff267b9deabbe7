"""What somebody sent as a Struct; where it is none, what was expected instead, in words of our own."""

import re
from typing import Any, TypeVar

import msgspec
from msgspec import Struct, inspect

from storage.errors import BadRequest

T = TypeVar("T", bound=Struct)

SHOWN = 100  # characters of a value that a message repeats
PLACE = re.compile(r" - at `\$\.(\w+)")
MISSING = re.compile(r"missing required field `(\w+)`")
UNKNOWN = re.compile(r"unknown field `(.*)`", re.DOTALL)


def parsed(found: dict[str, Any], shape: type[T], *, texts: bool = True) -> T:
    """Fields as a Struct; with `texts`, as in a query, what is written may stand for what it says. Raises BadRequest,
    which names the field, what was expected and what was found."""
    try:
        return msgspec.convert(found, shape, strict=not texts)
    except msgspec.ValidationError as error:
        if missing := MISSING.search(str(error)):
            raise BadRequest(f"{missing[1]}: needed") from None
        if unknown := UNKNOWN.search(str(error)):
            names = ", ".join(shape.__struct_encode_fields__)
            raise BadRequest(f"{unknown[1]:.60}: there is no such field; there are {names}") from None
        place = PLACE.search(str(error))
        if place is None:
            raise  # no shape of ours gets here: they are flat
        name = place[1]
        raise BadRequest(f"{name}: expected {_wanted(shape, name)}, got {shown(found[name])}") from None


def shown(value: object) -> str:
    """A value as a message repeats it."""
    text = repr(value) if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def _wanted(shape: type[Struct], name: str) -> str:
    described = inspect.type_info(shape)
    assert isinstance(described, inspect.StructType)
    return _worded(next(field.type for field in described.fields if field.encode_name == name))


def _worded(kind: inspect.Type) -> str:
    match kind:
        case inspect.Metadata(type=bare):
            return _worded(bare)
        case inspect.UnionType(types):
            return " or ".join(_worded(one) for one in types if not isinstance(one, inspect.NoneType))
        case inspect.LiteralType(values):
            *others, last = map(str, values)
            return f"{', '.join(others)} or {last}" if others else last
        case inspect.StrType(min_length=1, max_length=None):
            return "a text that is not empty"
        case inspect.StrType(min_length=least, max_length=most):
            return f"a text of {_span(least, most)} characters" if least or most else "a text"
        case inspect.ListType(item_type=inspect.StrType(), min_length=least, max_length=most):
            return f"a list of {_span(least, most)} texts" if least or most else "a list of texts"
        case inspect.IntType(ge=least, le=most):
            return f"an integer, {_span(least, most)}" if least is not None or most is not None else "an integer"
        case inspect.FloatType():
            return "a number"
        case inspect.BoolType():
            return "true or false"
    raise TypeError(f"nobody has said in words what {kind} is")


def _span(least: int | None, most: int | None) -> str:
    if most is None:
        return f"at least {least}"
    return f"at most {most}" if least is None else f"{least} to {most}"
