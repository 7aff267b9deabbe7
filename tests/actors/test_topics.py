"""Positions, slots and conflation, on a connection that takes as much as the test says."""

import json
from collections.abc import Callable

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from actors.bars import Label, Op, Reason, Start, shown
from actors.hub import Hub, Source
from actors.topics import SHORT, Subscription, Topic
from tests.memory_markets import MemoryMarkets, a_bar
from tests.ws_client import Chart, Message


class Plain:
    """One JSON text a line."""

    def __init__(self) -> None:
        self.encoded = 0

    def frame(self, label: Label, prev: int, seq: int, op: Op, text: bytes) -> bytes:
        self.encoded += 1
        head = {"type": "bar", "epoch": label.epoch, "prev_seq": prev, "seq": seq, "op": op}
        return json.dumps({**head, "data": json.loads(text)}).encode() + b"\n"

    def snapshot(self, label: Label, start: Start, reason: Reason | None) -> bytes:
        data = [json.loads(shown(bar)) for bar in start.bars]
        message = {"type": "snapshot", "epoch": label.epoch, "seq": start.seq, "data": data, "reason": reason}
        return json.dumps(message).encode() + b"\n"

    def heartbeat(self, label: Label, seq: int) -> bytes:
        return json.dumps({"type": "heartbeat", "epoch": label.epoch, "seq": seq}).encode() + b"\n"


class Pipe:
    """A connection: closed, it takes nothing, until `pump`."""

    def __init__(self, hub: Hub, most: int = 1 << 40) -> None:
        self.touched = self.ended = False
        self.open = True
        self.held = 0
        self.arrived: list[bytes] = []
        self._hub, self._most = hub, most
        self._sources: dict[Source, None] = {}

    def put(self, data: bytes) -> None:
        self.arrived.append(data)
        self._hub.touch(self)

    def ask(self, source: Source) -> None:
        self._sources[source] = None
        self._hub.touch(self)

    def charge(self, source: Source, amount: int) -> None:
        self.held += amount
        if amount > 0 and self.held > self._most:
            source.lose("lagged")

    def flush(self) -> None:
        while self.open and self._sources:
            self.pump(1000)

    def pump(self, room: int) -> None:
        for source in list(self._sources):
            data, more = source.take(room)
            if data:
                self.arrived.append(data)
            if not more:
                del self._sources[source]

    def heard(self) -> list[Message]:
        data, self.arrived = b"".join(self.arrived), []
        return [json.loads(line) for line in data.splitlines()]


class Bench:
    """Subscriptions to one stream of markets in memory."""

    def __init__(self) -> None:
        self.markets = MemoryMarkets()
        self.hub = Hub()
        self.dialect = Plain()
        self.lost: list[Subscription] = []

    @property
    def topic(self) -> Topic:
        return self.markets.stream().topic

    def join(
        self,
        *,
        resume: int | None = None,
        conflate: float = 0.0,
        limit: int = 1000,
        most: int = 1 << 40,
        bars: int = 300,
        replaces: Subscription | None = None,
    ) -> tuple[Subscription, Pipe]:
        pipe = Pipe(self.hub, most)
        subscription = Subscription(
            self.hub,
            pipe,
            self.dialect,
            Label("GOLD", "1", self.markets.epoch),
            greeting=lambda start: json.dumps({"type": "subscribed", "recovered": start.recovered}).encode() + b"\n",
            on_lost=self.lost.append,
            since=resume,
            conflate=conflate,
            limit=limit,
            replaces=replaces,
        )
        subscription.begin(self.markets.stream().start(bars, resume))
        self.topic.subscriptions.add(subscription)
        subscription.topic = self.topic
        return subscription, pipe

    def renew(self) -> None:
        while self.lost:
            self.lost.pop().begin(self.markets.stream().start(300, None))


def chain(messages: list[Message]) -> list[tuple[int, int, str, int]]:
    return [(m["prev_seq"], m["seq"], m["op"], m["data"]["time"]) for m in messages]


async def test_subscribers_with_nothing_pending_share_one_encoding() -> None:
    bench = Bench()
    pipes = [bench.join()[1] for _ in range(50)]
    bench.markets.change({60: 1.0})
    assert bench.dialect.encoded == 1
    assert len({pipe.arrived[-1] for pipe in pipes}) == 1
    assert bench.hub.statistics().frames == 50


async def test_subscribers_with_charts_of_their_own_get_their_own_op() -> None:
    bench = Bench()
    bench.markets.change({60: 1.0, 120: 1.0})
    _, early = bench.join()
    bench.markets.change({}, gone=[120])
    _, late = bench.join()
    early.heard(), late.heard()
    bench.markets.change({60: 2.0})
    assert [early.heard()[0]["op"], late.heard()[0]["op"]] == ["amend", "upsert"]


async def test_a_publish_of_several_bars_claims_its_seq_with_the_last() -> None:
    bench = Bench()
    _, pipe = bench.join()
    pipe.heard()
    bench.markets.seq = 6
    bench.markets.change({60: 1.0, 120: 1.0, 180: 1.0})
    assert chain(pipe.heard()) == [(1, 1, "upsert", 60), (1, 1, "upsert", 120), (1, 7, "upsert", 180)]


async def test_a_snapshot_ahead_of_its_topic_is_continued_from_where_it_stands() -> None:
    bench = Bench()
    subscription, pipe = bench.join()
    subscription.begin(Start(5, False, [], [], None))
    pipe.heard()
    bench.topic.publish(8, [a_bar(60, rev=8, born=8)])
    bench.hub.flush()
    bench.topic.publish(9, [a_bar(60, rev=9, born=8)])
    assert chain(pipe.heard()) == [(5, 8, "upsert", 60), (8, 9, "upsert", 60)]


async def test_a_topic_takes_each_seq_once() -> None:
    bench = Bench()
    bench.join()
    bench.markets.change({60: 1.0})
    with pytest.raises(ValueError, match="seq 2 published after 2"):
        bench.topic.publish(2, [a_bar(60)])


async def test_a_publish_without_changes_moves_nothing() -> None:
    bench = Bench()
    _, pipe = bench.join()
    pipe.heard()
    bench.topic.publish(9, [])
    assert (pipe.heard(), bench.topic.seq) == ([], 1)


async def test_what_a_full_connection_cannot_take_waits_as_one_state_per_bar() -> None:
    bench = Bench()
    _, pipe = bench.join()
    pipe.heard()
    pipe.open = False
    for close in range(1, 100):
        bench.markets.change({60: float(close)})
    bench.markets.change({120: 1.0})
    pipe.pump(1 << 20)
    heard = pipe.heard()
    assert chain(heard) == [(1, 100, "upsert", 60), (100, 101, "upsert", 120)]
    assert heard[0]["data"]["close"] == 99.0
    assert bench.hub.statistics().conflated == 98
    assert pipe.held == 0


async def test_a_frame_claims_less_than_the_first_unwritten_change_of_any_waiting_bar() -> None:
    bench = Bench()
    bench.markets.change({60: 1.0, 120: 1.0})  # 2
    _, pipe = bench.join()
    pipe.heard()
    pipe.open = False
    bench.markets.change({120: 2.0})  # 3
    bench.markets.change({60: 2.0})  # 4
    bench.markets.change({180: 1.0})  # 5
    bench.markets.change({120: 3.0})  # 6
    pipe.pump(1)
    assert chain(pipe.heard()) == [(2, 2, "amend", 60)]
    bench.markets.change({60: 3.0})  # 7
    pipe.pump(1)
    assert chain(pipe.heard()) == [(2, 2, "amend", 60)]
    pipe.pump(1 << 20)
    assert chain(pipe.heard()) == [(2, 4, "upsert", 120), (4, 7, "upsert", 180)]


async def test_shared_bytes_return_when_nothing_waits_any_more() -> None:
    bench = Bench()
    _, pipe = bench.join()
    _, other = bench.join()
    pipe.open = False
    bench.markets.change({60: 1.0})
    pipe.open = True
    pipe.flush()
    before = bench.dialect.encoded
    bench.markets.change({60: 2.0})
    assert bench.dialect.encoded == before + 1
    assert pipe.heard()[-1] == other.heard()[-1]


async def test_beyond_the_bound_of_a_stream_a_snapshot_replaces_what_waited() -> None:
    bench = Bench()
    _, pipe = bench.join(limit=10)
    pipe.heard()
    pipe.open = False
    for i in range(11):
        bench.markets.change({60 * i: 1.0})
    assert pipe.held == 0
    bench.markets.change({60: 3.0})
    assert pipe.held == 0, "what the snapshot will show does not wait as well"
    assert not bench.lost, "not before the connection takes data"
    pipe.open = True
    pipe.flush()
    pipe.flush()
    assert len(bench.lost) == 1
    bench.renew()
    (snapshot,) = pipe.heard()
    assert (snapshot["reason"], snapshot["seq"], len(snapshot["data"])) == ("lagged", 13, 11)
    bench.markets.change({600: 2.0})
    assert chain(pipe.heard()) == [(13, 14, "upsert", 600)]
    assert bench.hub.statistics().lagged == 1


async def test_more_bars_at_once_than_are_shared_leave_one_by_one() -> None:
    bench = Bench()
    _, pipe = bench.join()
    pipe.heard()
    bench.markets.change({60 * i: 1.0 for i in range(SHORT + 1)})
    assert pipe.heard() == []
    bench.hub.flush()
    assert len(pipe.heard()) == SHORT + 1


async def test_a_closing_of_a_waiting_bar_rides_with_it() -> None:
    bench = Bench()
    bench.markets.change({60: 1.0})
    _, pipe = bench.join()
    pipe.heard()
    pipe.open = False
    bench.markets.change({60: 2.0})
    bench.markets.close(60)
    bench.markets.change({120: 2.0})
    pipe.pump(1 << 20)
    first, second = pipe.heard()
    assert (first["data"]["closed"], first["seq"], second["seq"]) == (True, 3, 4)


async def test_a_waiting_closing_holds_no_position_back() -> None:
    bench = Bench()
    bench.markets.change({60: 1.0})
    bench.markets.change({120: 1.0})
    _, pipe = bench.join()
    pipe.heard()
    pipe.open = False
    bench.markets.close(60)
    bench.markets.close(120)
    pipe.pump(1 << 20)
    assert chain(pipe.heard()) == [(3, 3, "amend", 60), (3, 3, "upsert", 120)]


async def test_an_ended_subscription_is_silent_and_forgotten() -> None:
    bench = Bench()
    subscription, pipe = bench.join()
    pipe.heard()
    pipe.open = False
    bench.markets.change({60: 1.0})
    subscription.end()
    pipe.pump(1 << 20)
    bench.markets.change({60: 2.0})
    assert pipe.heard() == []
    assert not bench.topic.subscriptions
    assert bench.hub.statistics().subscriptions == 0


async def test_a_replacement_silences_the_one_before_at_the_moment_it_begins() -> None:
    bench = Bench()
    before, pipe = bench.join()
    bench.join(replaces=before)
    pipe.heard()
    bench.markets.change({60: 1.0})
    assert pipe.heard() == []
    assert bench.hub.statistics().subscriptions == 1


async def test_conflation_is_per_bar_and_in_order_of_time(
    autojump_clock: MockClock,  # noqa: ARG001 # the clock of this test
) -> None:
    bench = Bench()
    async with trio.open_nursery() as nursery:
        await nursery.start(bench.hub.run)
        bench.markets.change({60: 1.0})
        _, pipe = bench.join(conflate=1.0)
        await trio.sleep(0.1)
        pipe.heard()
        bench.markets.change({60: 2.0})
        await trio.sleep(0.1)
        assert chain(pipe.heard()) == [(2, 3, "upsert", 60)]
        bench.markets.change({60: 3.0})
        bench.markets.change({120: 1.0})
        await trio.sleep(0.7)
        assert pipe.heard() == [], "a newer bar does not overtake one that waits"
        await trio.sleep(0.4)
        assert chain(pipe.heard()) == [(3, 4, "upsert", 60), (4, 5, "upsert", 120)]
        bench.markets.change({120: 2.0})
        bench.markets.close(60)
        await trio.sleep(0.1)
        assert chain(pipe.heard()) == [(5, 5, "amend", 60)]
        bench.markets.change({}, gone=[120])
        await trio.sleep(0.1)
        assert chain(pipe.heard()) == [(5, 7, "delete", 120)]
        nursery.cancel_scope.cancel()


async def test_an_idle_stream_beats_after_fifteen_seconds_without_a_frame(
    autojump_clock: MockClock,  # noqa: ARG001 # the clock of this test
) -> None:
    bench = Bench()
    async with trio.open_nursery() as nursery:
        await nursery.start(bench.hub.run)
        _, pipe = bench.join()
        pipe.heard()
        await trio.sleep(14.9)
        assert pipe.heard() == []
        bench.markets.change({60: 1.0})
        await trio.sleep(14.9)
        assert [m["type"] for m in pipe.heard()] == ["bar"]
        await trio.sleep(0.2)
        assert pipe.heard() == [{"type": "heartbeat", "epoch": "k3f9", "seq": 2}]
        pipe.open = False
        await trio.sleep(20)
        assert pipe.heard() == []
        pipe.open = True
        await trio.sleep(1.1)
        assert [m["type"] for m in pipe.heard()] == ["heartbeat"]
        nursery.cancel_scope.cancel()


async def test_a_round_of_publishing_flushes_each_connection_once(
    autojump_clock: MockClock,  # noqa: ARG001 # the clock of this test
) -> None:
    flushed: list[object] = []

    class Counted(Pipe):
        def flush(self) -> None:
            flushed.append(self)

    hub = Hub()
    pipes = [Counted(hub) for _ in range(300)]
    async with trio.open_nursery() as nursery:
        await nursery.start(hub.run)
        for _ in range(3):

            async def publish() -> None:
                await trio.lowlevel.checkpoint()
                for pipe in pipes:
                    pipe.put(b"x")

            nursery.start_soon(publish)
        await trio.sleep(1)
        assert len(flushed) == 300
        nursery.cancel_scope.cancel()


async def test_timers_run_in_order_and_one_that_is_sooner_wakes_the_hub(
    autojump_clock: MockClock,  # noqa: ARG001 # the clock of this test
) -> None:
    hub, ran = Hub(), []

    def at(seconds: float) -> tuple[float, Callable[[], None]]:
        return trio.current_time() + seconds, lambda: ran.append(seconds)

    async with trio.open_nursery() as nursery:
        await nursery.start(hub.run)
        hub.at(*at(5.0))
        await trio.sleep(1)
        hub.at(*at(1.0))
        hub.at(*at(0.5))
        await trio.sleep(2)
        assert ran == [0.5, 1.0]
        await trio.sleep(3)
        assert ran == [0.5, 1.0, 5.0]
        nursery.cancel_scope.cancel()


class Oracle:
    """What every bar was after each change, to judge a client's claims."""

    def __init__(self) -> None:
        self.states: dict[int, list[tuple[int, float | None]]] = {}

    def note(self, seq: int, time: int, close: float | None) -> None:
        self.states.setdefault(time, []).append((seq, close))

    def judge(self, chart: Chart) -> None:
        """Whoever stands at a position has, of every bar, the state of then or a later one."""
        for time, states in self.states.items():
            present = chart.bars[time]["close"] if time in chart.bars else None
            then = max((i for i, (seq, _) in enumerate(states) if seq <= chart.seq), default=-1)
            allowed = [close for _, close in states[max(then, 0) :]] + [None] * (then < 0)
            assert present in allowed, (time, chart.seq, present, states)


Times = st.integers(0, 6).map(lambda i: 60 * i)
Step = st.one_of(
    st.tuples(st.just("change"), st.dictionaries(Times, st.none(), min_size=1, max_size=3)),
    st.tuples(st.just("change"), st.dictionaries(Times, st.none(), min_size=1, max_size=3)),
    st.tuples(st.just("delete"), st.sets(Times, min_size=1, max_size=2)),
    st.tuples(st.just("close"), Times),
    st.tuples(st.just("block"), st.none()),
    st.tuples(st.just("pump"), st.sampled_from([1, 1, 300, 10_000])),
    st.tuples(st.just("open"), st.none()),
    st.tuples(st.just("wait"), st.sampled_from([0.3, 1.5])),
    st.tuples(st.just("read"), st.integers(1, 3)),
    st.tuples(st.just("cut"), st.none()),
)


@given(
    steps=st.lists(Step, max_size=60),
    conflate=st.sampled_from([0.0, 0.0, 1.0]),
    limit=st.sampled_from([3, 1000]),
    most=st.sampled_from([1500, 1 << 40]),
)
@settings(deadline=None, max_examples=300)
def test_no_claim_is_ever_more_than_the_client_has_and_all_arrives_in_the_end(
    steps: list[tuple[str, object]], conflate: float, limit: int, most: int
) -> None:
    clock = MockClock()

    async def run() -> None:
        bench, chart, oracle = Bench(), Chart(), Oracle()
        closes = iter(range(1, 10_000))
        unread: list[Message] = []
        cut = False
        subscription, pipe = bench.join(conflate=conflate, limit=limit, most=most)

        def pass_on() -> None:
            bench.hub.flush()
            unread.extend(pipe.heard())
            if bench.lost:
                bench.renew()
                unread.extend(pipe.heard())

        def read(count: int) -> None:
            for message in unread[:count]:
                strict = message["type"] == "bar" and not cut
                newest, known = chart.newest, message.get("data") and message["type"] == "bar"
                if strict and known:
                    time, op = message["data"]["time"], message["op"]
                    assert op != "upsert" or newest is None or time >= newest, message
                    assert op != "amend" or time in chart.bars, message
                    assert op != "insert" or time not in chart.bars, message
                chart.take(message)
                oracle.judge(chart)
            del unread[:count]

        async with trio.open_nursery() as nursery:
            await nursery.start(bench.hub.run)
            for kind, what in steps:
                match kind, what:
                    case "change", dict():
                        new = {time: float(next(closes)) for time in what}
                        bench.markets.change(new)
                        for time, close in new.items():
                            oracle.note(bench.markets.seq, time, close)
                    case "delete", set():
                        there = [time for time in what if time in bench.markets.stream().bars]
                        if there:
                            bench.markets.change({}, there)
                            for time in there:
                                oracle.note(bench.markets.seq, time, None)
                    case "close", int():
                        if what in bench.markets.stream().bars:
                            bench.markets.close(what)
                    case "block", _:
                        pipe.open = False
                    case "pump", int():
                        pipe.pump(what)
                    case "open", _:
                        pipe.open = True
                        pipe.flush()
                    case "wait", float():
                        clock.jump(what)
                        await trio.testing.wait_all_tasks_blocked()
                    case "read", int():
                        pass_on()
                        read(what)
                    case "cut", _:
                        subscription.end()
                        bench.lost.clear()
                        unread.clear()
                        cut = True
                        resume = None if chart.epoch is None else chart.seq
                        subscription, pipe = bench.join(resume=resume, conflate=conflate, limit=limit, most=most)
            pipe.open = True
            pipe.flush()
            for _ in range(4):
                pass_on()
                clock.jump(1.5)
                await trio.testing.wait_all_tasks_blocked()
            pass_on()
            read(len(unread))
            nursery.cancel_scope.cancel()
        assert chart.seq == bench.topic.seq
        assert pipe.held == 0
        assert {time: bar["close"] for time, bar in chart.bars.items()} == {
            time: bar.close for time, bar in bench.markets.stream().bars.items()
        }

    trio.run(run, clock=clock)
