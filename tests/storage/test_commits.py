"""Journal records: what is written is what is read, also by who wrote it long ago."""

import msgspec
import numpy as np

from storage.commits import Answer, Commit, Dead, decode, encode, places
from storage.events import Events


def commit(*answers: Answer) -> Commit:
    events = Events(2, {"market": np.array([1, 2], np.int32), "ts": np.array([10, 20]), "price": np.array([1.5, 2.5])})
    dead = [Dead(7, 1, 5)]
    return Commit(3, events.with_columns(pos=places(3, 2)), dead, np.array([9], np.uint64), answers)


def test_a_record_says_what_was_put_into_it() -> None:
    answer = Answer("owner key", 1_700_000_000, b'{"accepted":2}', b"\x01" * 32)
    read = decode(3, b"".join(encode(commit(answer))))
    assert (read.seq, read.answers, read.dead) == (3, [answer], [Dead(7, 1, 5)])
    assert read.forgotten.tolist() == [9]
    assert read.events.integers("pos").tolist() == places(3, 2).tolist()
    assert read.events.numbers("price").tolist() == [1.5, 2.5]


def test_a_record_from_before_requests_were_told_apart_is_still_read() -> None:
    record = b"".join(encode(commit(Answer("k", 5, b"{}"))))
    size = int.from_bytes(record[:4], "little")
    head = msgspec.msgpack.decode(record[4 : 4 + size])
    assert head[2] == [["k", 5, b"{}", b""]]
    head[2][0].pop()
    old = msgspec.msgpack.encode(head)
    read = decode(3, len(old).to_bytes(4, "little") + old + record[4 + size :])
    assert read.answers == [Answer("k", 5, b"{}", b"")]
    assert read.events.n == 2


def test_a_record_of_an_answer_alone_has_no_events() -> None:
    answer = Answer("k", 5, b"{}", b"\x02" * 32)
    record = b"".join(encode(Commit(1, Events(0, {}), answers=[answer])))
    assert (decode(1, record).events.n, decode(1, record).answers) == (0, [answer])
