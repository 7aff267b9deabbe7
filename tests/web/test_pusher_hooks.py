"""How often a webhook is tried, and what is kept for it meanwhile."""

from collections.abc import Mapping

import pytest
import trio
from trio.testing import MockClock

from actors.hub import Hub
from web.pusher import webhooks
from web.pusher.apps import App, signature
from web.pusher.webhooks import Hook

APP = App(id="1", key="k", secret="s", webhook="http://localhost/hooks")


class Peer:
    """Stands in for the server: answers as it is told."""

    def __init__(self, *answers: int | Exception) -> None:
        self.answers = list(answers)
        self.tried: list[float] = []
        self.bodies: list[bytes] = []

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        await trio.lowlevel.checkpoint()
        assert url == APP.webhook
        assert headers["X-Pusher-Signature"] == signature(APP.secret, body)
        self.tried.append(trio.current_time())
        self.bodies.append(body)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def hook(peer: Peer, hub: Hub) -> Hook:
    return Hook(APP, hub, trio.current_time, peer.post)


async def test_it_is_tried_with_growing_pauses_and_signed_anew(
    nursery: trio.Nursery,
    autojump_clock: MockClock,  # noqa: ARG001
) -> None:
    peer = Peer(500, OSError("no route"), trio.TooSlowError(), 302, 204)
    one = hook(peer, Hub())
    nursery.start_soon(one.run)
    one.tell("member_added", "presence-x", user_id="1")
    one.tell("cache_miss", "cache-x", user_id=None)
    await trio.sleep(60)
    pauses = [round(b - a) for a, b in zip(peer.tried, peer.tried[1:], strict=False)]
    assert pauses == [1, 2, 4, 8]
    assert len(set(peer.bodies)) == 5, "each says its own time"
    assert peer.bodies[0].endswith(
        b'"events":[{"name":"member_added","channel":"presence-x","user_id":"1"},{"name":"cache_miss","channel":"cache-x"}]}'
    )
    told = one.statistics()
    assert (told.delivered, told.attempts, told.failed, told.given_up, told.waiting) == (2, 5, 4, 0, 0)


async def test_it_is_given_up_after_five_minutes_and_the_next_goes_on(
    nursery: trio.Nursery,
    autojump_clock: MockClock,  # noqa: ARG001
) -> None:
    peer = Peer(503)
    one = hook(peer, Hub())
    nursery.start_soon(one.run)
    one.tell("cache_miss", "cache-x")
    await trio.sleep(400)
    assert 200 < peer.tried[-1] - peer.tried[0] <= webhooks.PATIENCE
    assert one.statistics().given_up == 1
    peer.answers = [200]
    one.tell("cache_miss", "cache-y")
    await trio.sleep(1)
    assert b"cache-y" in peer.bodies[-1]
    assert b"cache-x" not in peer.bodies[-1]


async def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "MOST_BYTES", 1000)
    one = hook(Peer(200), Hub())
    for n in range(100):
        one.tell("cache_miss", f"cache-{n}")
    told = one.statistics()
    assert 10 < told.waiting < 25
    assert told.dropped == 100 - told.waiting


async def test_channels_that_are_waited_for_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "MOST_LEAVING", 10)
    one = hook(Peer(200), Hub())
    for n in range(13):
        one.vacated(f"c{n}")
    assert one.statistics().waiting == 3, "which are told at once"


async def test_a_channel_is_vacated_only_when_it_stays_so(
    nursery: trio.Nursery,
    autojump_clock: MockClock,  # noqa: ARG001
) -> None:
    peer, hub = Peer(200), Hub()
    await nursery.start(hub.run)
    one = hook(peer, hub)
    nursery.start_soon(one.run)
    one.occupied("x")
    one.vacated("x")
    await trio.sleep(1)
    one.occupied("x")
    await trio.sleep(5)
    one.vacated("x")
    await trio.sleep(1)
    assert b"".join(peer.bodies).count(b"channel_") == 1
    await trio.sleep(5)
    assert b"channel_vacated" in peer.bodies[-1]
    one.occupied("x")
    await trio.sleep(1)
    assert b"channel_occupied" in peer.bodies[-1]
    nursery.cancel_scope.cancel()
