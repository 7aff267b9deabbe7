"""Points in time as candled's own APIs take them: milliseconds since 1970, or ISO 8601 with a zone."""

from actors.words import LEAST_MS, MICROSECONDS, NANOSECONDS
from actors.words import instant as iso_instant
from storage.errors import BadRequest
from web.context import number
from web.shapes import shown

MILLI = 1000  # µs
EXPECTED = "milliseconds since 1970, or ISO 8601 with a zone"


def micros(name: str, value: int | float | str) -> int:
    """The instant in µs; raises BadRequest, which names the field."""
    found = number(value) if isinstance(value, str) else value
    if found is None:
        at = iso_instant(str(value))
        if at is None or at < 0:
            raise BadRequest(f"{name}: expected {EXPECTED}, got {shown(value)}")
        return at
    if not LEAST_MS <= found < MICROSECONDS:
        unit = "seconds" if found < LEAST_MS else "microseconds" if found < NANOSECONDS else "nanoseconds"
        like = f", which looks like {unit}" if found >= 10**8 else ""
        raise BadRequest(f"{name}: expected {EXPECTED}, got {shown(value)}{like}")
    return round(found * MILLI)


def millis(at: int) -> int | float:
    """µs as milliseconds, whole where they are."""
    return at // MILLI if at % MILLI == 0 else at / MILLI
