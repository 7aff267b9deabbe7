"""What one journal record holds: a committed batch of events, what it took back, and the answers that were given."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pyarrow as pa
from msgspec import Struct

from storage.events import Array, Events, from_record_batch, to_record_batch

ROW_BITS = 24  # a place is seq << ROW_BITS | row
MOST_ROWS = 1 << ROW_BITS
TOUCH = -1  # the place of nothing: see `Dead`


class Answer(Struct, frozen=True, array_like=True):
    """What the request with this idempotency key was told, and when (seconds since 1970)."""

    key: str
    at: int
    body: bytes
    asked: bytes = b""  # SHA-256 of that request, unpacked; empty in journals from before it was kept


class Dead(Struct, frozen=True, array_like=True):
    """An earlier event that no longer counts: it was taken back, or a newer word replaced it.

    With the place TOUCH it is none, and what is at that instant is only folded again: a repair (`storage.renewal`).
    """

    pos: int
    market: int
    ts: int  # µs


class _Head(Struct, frozen=True, array_like=True):
    dead: list[Dead]
    forgotten: list[int]
    answers: list[Answer]


@dataclass(frozen=True, slots=True)
class Commit:
    """One committed batch: everything that one journal record says."""

    seq: int
    events: Events  # each with its place `pos`
    dead: Sequence[Dead] = ()
    forgotten: Array = field(default_factory=lambda: np.zeros(0, np.uint64))  # identities that no event has any more
    answers: Sequence[Answer] = ()


def places(seq: int, n: int) -> Array:
    """The places of the n events of the batch `seq`."""
    return (seq << ROW_BITS) + np.arange(n, dtype=np.int64)


def encode(commit: Commit) -> list[bytes | memoryview]:
    """The parts of the journal record; the places follow from the seq and are not written."""
    head = msgspec.msgpack.encode(_Head(list(commit.dead), commit.forgotten.tolist(), list(commit.answers)))
    sink = pa.BufferOutputStream()
    batch = to_record_batch(commit.events.without("pos"))
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return [len(head).to_bytes(4, "little"), head, memoryview(sink.getvalue())]


def dead(record: bytes | memoryview) -> Sequence[Dead]:
    """What a journal record took back; its events are not looked at."""
    view = memoryview(record)
    return msgspec.msgpack.decode(view[4 : 4 + int.from_bytes(view[:4], "little")], type=_Head).dead


def decode(seq: int, record: bytes | memoryview) -> Commit:
    """The inverse of `encode`."""
    view = memoryview(record)
    size = int.from_bytes(view[:4], "little")
    head = msgspec.msgpack.decode(view[4 : 4 + size], type=_Head)
    with pa.ipc.open_stream(pa.py_buffer(view[4 + size :])) as reader:
        events = from_record_batch(reader.read_next_batch())
    return Commit(
        seq,
        events.with_columns(pos=places(seq, events.n)),
        head.dead,
        np.array(head.forgotten, np.uint64),
        head.answers,
    )
