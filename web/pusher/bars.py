"""The channels of bars: how what happens in a stream of bars is worded."""

import msgspec

from actors.bars import Label, Op, Reason, Start, shown
from web.outbox import text as text_frame

SHOWN = 100  # bars of a snapshot

_encode = msgspec.json.Encoder().encode


class BarChannel:
    """The dialect of one channel, shared by all who follow it."""

    def __init__(self, name: str) -> None:
        self._channel = _encode(name)

    def frame(self, label: Label, prev: int, seq: int, op: Op, text: bytes) -> bytes:
        told = b'{%b,"prev_seq":%d,"seq":%d,"op":"%b","data":%b}'
        return self._event(b"bar", told % (_named(label), prev, seq, op.encode(), text))

    def snapshot(self, label: Label, start: Start, reason: Reason | None) -> bytes:
        why = b',"reason":"%b"' % reason.encode() if reason else b""
        data = b",".join([shown(bar) for bar in start.bars])
        return self._event(b"bars", b'{%b,"seq":%d%b,"data":[%b]}' % (_named(label), start.seq, why, data))

    def heartbeat(self, label: Label, seq: int) -> bytes:
        return self._event(b"heartbeat", b'{%b,"seq":%d}' % (_named(label), seq))

    def _event(self, name: bytes, data: bytes) -> bytes:
        body = b'{"event":"%b","channel":%b,"data":%b}'
        return text_frame(body % (name, self._channel, _encode(data.decode())))


def _named(label: Label) -> bytes:
    names = _encode(label.symbol), _encode(label.resolution), _encode(label.epoch)
    return b'"symbol":%b,"resolution":%b,"epoch":%b' % names
