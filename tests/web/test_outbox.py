"""The stream under a WebSocket, over real sockets."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from actors.bars import Reason
from actors.hub import Hub
from tests.ws_client import frames, masked
from web.outbox import ROOM, Outbox, WsLimits, answered, boundary, goodbye, text
from web.pending import CHUNK


class Pair:
    """An outbox and the peer that reads from it."""

    def __init__(self, outbox: Outbox, peer: trio.SocketStream, hub: Hub) -> None:
        self.outbox, self.peer, self.hub = outbox, peer, hub

    async def read(self, size: int) -> bytes:
        data = b""
        with trio.fail_after(5):
            while len(data) < size:
                more = await self.peer.receive_some(size - len(data))
                if not more:
                    break
                data += more
        return data


@asynccontextmanager
async def paired(**limits: Any) -> AsyncIterator[Pair]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    raw = trio.socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await raw.connect(listener.socket.getsockname())
    peer, stream = trio.SocketStream(raw), await listener.accept()
    hub = Hub()
    async with trio.open_nursery() as nursery:
        outbox = Outbox(stream, stream.socket, hub, nursery, WsLimits(**limits), b"head")
        try:
            yield Pair(outbox, peer, hub)
        finally:
            outbox.abort()
            for used in (peer, listener):
                used.socket.close()


class Tap:
    """A source of numbered frames."""

    def __init__(self, count: int, size: int = 1000) -> None:
        self.left = [text(b"%06d" % i + b"x" * size) for i in range(count)]
        self.asked = 0
        self.lost: list[Reason] = []

    def take(self, room: int) -> tuple[bytes, bool]:
        self.asked += 1
        taken = b""
        while self.left and len(taken) < room:
            taken += self.left.pop(0)
        return taken, bool(self.left)

    def lose(self, reason: Reason) -> None:
        self.lost.append(reason)


def full(outbox: Outbox) -> bytes:
    """Put frames until the socket takes no more; what was put."""
    put = b""
    while outbox.open:
        frame = text(b"f" * 10_000)
        outbox.put(frame)
        outbox.flush()
        put += frame
    return put


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 100_000])
def test_a_text_frame_has_the_length_of_its_payload(size: int) -> None:
    assert frames(text(b"x" * size) + b"\x81\x00") == [(1, b"x" * size), (1, b"")]


def test_a_goodbye_has_a_code_and_a_reason_that_fits_into_a_control_frame() -> None:
    ((opcode, body),) = frames(goodbye(1013, "r" * 500))
    assert (opcode, body[:2], len(body)) == (8, b"\x03\xf5", 125)


@pytest.mark.parametrize("size", [5, 200, 70_000])
def test_the_boundary_is_the_end_of_the_frame_that_was_cut(size: int) -> None:
    one = text(b"x" * size)
    assert [boundary(one * 3, sent) for sent in (0, 1, len(one), len(one) + 1, 3 * len(one))] == [
        0,
        len(one),
        len(one),
        2 * len(one),
        3 * len(one),
    ]


@pytest.mark.parametrize("body", [b"", b"\x03\xe8", b"\x03\xe8" + b"r" * 123])
def test_the_close_frame_of_a_client_is_seen_behind_whatever_it_sent_before(body: bytes) -> None:
    answer = masked(body, 8)
    assert answered(answer)
    assert answered((b"x" * 500 + answer)[-131:])
    assert not answered(answer[:-1])
    assert not answered(masked(b"hello"))
    assert not answered(b"\x88")


async def test_what_is_put_leaves_when_flushed_and_in_order() -> None:
    async with paired() as pair:
        sent = [text(b"%d" % i) for i in range(50)]
        for frame in sent:
            pair.outbox.put(frame)
        assert pair.outbox.touched
        pair.hub.flush()
        assert not pair.outbox.touched
        assert await pair.read(len(b"".join(sent))) == b"".join(sent)
        assert pair.hub.statistics().bytes == len(b"".join(sent))


async def test_a_full_socket_takes_no_part_in_publishing_and_gets_the_rest_when_it_reads() -> None:
    async with paired() as pair:
        put = full(pair.outbox)
        assert not pair.outbox.open
        tap = Tap(300)
        expected = put + b"".join(tap.left)
        pair.outbox.ask(tap)
        pair.hub.flush()
        assert tap.asked == 0, "sources keep what they have until the socket takes it"
        assert await pair.read(len(expected)) == expected
        await trio.testing.wait_all_tasks_blocked()
        assert pair.outbox.open
        assert pair.outbox.pending == 0


async def test_waiting_sources_take_turns() -> None:
    async with paired() as pair:
        taps = [Tap(1000, 500), Tap(1000, 500)]
        for tap in taps:
            pair.outbox.ask(tap)
        pair.hub.flush()
        await pair.read(4 * CHUNK)
        assert all(tap.asked for tap in taps)


async def test_a_request_waits_while_too_much_is_pending() -> None:
    async with paired() as pair, trio.open_nursery() as nursery:
        size = 0
        while pair.outbox.pending <= ROOM:
            pair.outbox.put(text(b"x" * 50_000))
            pair.outbox.flush()
            size += len(text(b"x" * 50_000))
        entered: list[int] = []

        async def enter() -> None:
            await pair.outbox.room()
            entered.append(1)

        nursery.start_soon(enter)
        nursery.start_soon(enter)
        await trio.testing.wait_all_tasks_blocked()
        assert not entered
        await pair.read(size)
        await trio.testing.wait_all_tasks_blocked()
        assert entered == [1, 1]


async def test_a_control_frame_of_the_library_waits_for_room_but_not_after_the_end() -> None:
    async with paired() as pair, trio.open_nursery() as nursery:
        while pair.outbox.pending <= ROOM:
            pair.outbox.put(text(b"x" * 50_000))
            pair.outbox.flush()
        nursery.start_soon(pair.outbox.send_all, b"\x8a\x00")
        await trio.testing.wait_all_tasks_blocked()
        assert nursery.child_tasks
        pair.outbox.end(1001, "bye")
        await trio.testing.wait_all_tasks_blocked()
        assert not nursery.child_tasks


async def test_what_sources_hold_back_is_bounded() -> None:
    async with paired(pending_bytes=10_000) as pair:
        full(pair.outbox)
        first, second = Tap(1), Tap(1)
        pair.outbox.ask(first)
        pair.outbox.charge(first, 1)
        before = len(first.lost)
        pair.outbox.charge(second, 10_000)
        assert (len(first.lost) > before, second.lost) == (True, ["lagged"])
        pair.outbox.charge(second, -10_000)
        assert second.lost == ["lagged"]


async def test_nothing_follows_a_close_frame() -> None:
    async with paired() as pair:
        pair.outbox.put(text(b"before"))
        pair.outbox.end(1001, "bye")
        pair.outbox.put(text(b"after"))
        pair.outbox.ask(Tap(5))
        pair.outbox.end(1000, "again")
        pair.hub.flush()
        await pair.outbox.aclose()
        assert [opcode for opcode, _ in frames(await pair.read(1000))] == [1, 8]


async def test_a_close_frame_of_the_library_ends_the_outbox_too() -> None:
    async with paired() as pair:
        await pair.outbox.send_all(goodbye(1009, "too big"))
        assert pair.outbox.ended
        pair.outbox.put(text(b"after"))
        await pair.outbox.aclose()
        assert [opcode for opcode, _ in frames(await pair.read(1000))] == [8]


async def test_what_was_read_already_comes_first() -> None:
    async with paired() as pair:
        await pair.peer.send_all(b"more")
        assert await pair.outbox.receive_some(2) == b"he"
        assert await pair.outbox.receive_some(100) == b"ad"
        before = pair.outbox.heard
        assert await pair.outbox.receive_some(100) == b"more"
        assert pair.outbox.heard >= before


async def test_a_lingering_close_delivers_everything_even_with_something_unread() -> None:
    async with paired() as pair, trio.open_nursery() as nursery:
        await pair.peer.send_all(b"never read by the server" * 100)
        put = full(pair.outbox)
        pair.outbox.end(1009, "too big")
        nursery.start_soon(pair.outbox.linger, 5.0)
        with trio.fail_after(2):  # there is an end to read up to
            data = await pair.read(len(put) + 1000)
        assert data[: len(put)] == put
        assert frames(data)[-1][0] == 8
        await pair.peer.aclose()


async def test_lingering_ends_with_a_peer_that_never_closes() -> None:
    async with paired() as pair:
        full(pair.outbox)
        pair.outbox.end(1001, "bye")
        with trio.fail_after(2):
            await pair.outbox.linger(0.2)
        assert pair.outbox.closed.is_set()


async def test_a_peer_that_resets_the_connection_ends_it_quietly() -> None:
    async with paired() as pair:
        full(pair.outbox)
        pair.peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        pair.peer.socket.close()
        with trio.fail_after(5):
            await pair.outbox.closed.wait()
        pair.outbox.put(text(b"late"))
        pair.hub.flush()
        with pytest.raises(trio.ClosedResourceError):
            await pair.outbox.send_all(b"\x8a\x00")


async def test_a_slow_reader_that_reads_a_little_is_not_given_up() -> None:
    async with paired(stalled_seconds=0.3) as pair:
        size = len(full(pair.outbox))
        for _ in range(50):
            pair.outbox.put(text(b"x" * 10_000))
            size += len(text(b"x" * 10_000))
        for _ in range(8):
            assert len(await pair.read(4000)) == 4000
            await trio.sleep(0.15)
        assert pair.outbox.pending > 200_000
        assert not pair.outbox.stalled
        assert len(await pair.read(size - 32_000)) == size - 32_000
