from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import msgspec
import trio
from prometheus_client.parser import text_string_to_metric_families

from storage.histogram import ENDS
from tests.web.conftest import NOW, Web, serving
from tests.ws_client import a_stalled_reader, connected
from web.context import Rates
from web.listener import listen
from web.metrics import BUCKETS, Requests
from web.outbox import WsLimits
from web.stream import BarStreams


async def scraped(web: Web) -> dict[str, dict[tuple[str, ...], float]]:
    """Every sample by its name and the values of its labels."""
    answer = await web.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    found: dict[str, dict[tuple[str, ...], float]] = {}
    families: list[str] = []
    for family in text_string_to_metric_families(await answer.get_data(as_text=True)):
        families.append(family.name)
        assert family.documentation
        for sample in family.samples:
            labels = tuple(value for _, value in sorted(sample.labels.items()))
            samples = found.setdefault(sample.name, {})
            assert labels not in samples, sample
            samples[labels] = sample.value
    assert len(families) == len(set(families))
    return found


async def test_answers_that_are_kept_are_counted(web: Web) -> None:
    await web.trades((NOW - 3600, 1.0))
    path = f"/api/tradingview/history?symbol=GOLD&resolution=1&from=0&to={NOW - 600}"
    size = len(await (await web.get(path)).get_data())
    await web.get(path)
    found = await scraped(web)
    assert found["candled_kept_answers"][()] == found["candled_kept_answers_given_total"][()] == 1
    assert found["candled_kept_answer_bytes"][()] > size
    await web.trades((NOW - 3600, 2.0))
    await web.get(path)
    found = await scraped(web)
    assert found["candled_kept_answers_stale_total"][()] == 1
    assert found["candled_shared_reads_total"][()] == 0


async def test_what_comes_in_is_counted_by_what_became_of_it(web: Web) -> None:
    events = [
        {"market_symbol": "GOLD", "timestamp": NOW * 1000, "price": 1, "trade_id": 1},
        {"market_symbol": "GOLD", "timestamp": NOW * 1000, "price": -1, "trade_id": 2},
        {"market_symbol": "GLOD", "timestamp": NOW * 1000, "price": 1, "trade_id": 3},
    ]
    key = await web.key("ingest")
    for _ in range(2):
        assert (await web.post("/api/ingest/events", json=events, headers=key)).status_code == 200
    await web.stack.writer.flushed(1)
    found = await scraped(web)
    assert found["candled_ingest_requests_total"][()] == 2
    assert found["candled_ingest_events_total"][()] == 6
    outcomes = found["candled_ingest_outcomes_total"]
    assert (outcomes[("accepted",)], outcomes[("duplicate",)], outcomes[("rejected",)]) == (1, 1, 4)
    assert found["candled_ingest_rejected_total"][("price",)] == 2
    assert found["candled_commit_seconds_count"][()] == 1
    assert found["candled_commit_seconds_sum"][()] > 0
    assert found["candled_journal_records"][()] == 1
    assert found["candled_journal_fsync_seconds_count"][()] >= 1
    assert found["candled_committed_seq"][()] == found["candled_applied_seq"][()] == 1
    assert found["candled_flushed_events_total"][()] == 1
    assert found["candled_flush_waiting_events"][()] == 0
    assert found["candled_flush_failing"][()] == 0
    assert found["candled_database_bytes"][()] > 0
    assert found["candled_folded_events_total"][()] == 1
    assert found["candled_markets_active"][()] == 1
    assert found["candled_ring_bytes"][()] == web.stack.engine.nbytes()
    assert (found["candled_markets_registered"][()], found["candled_markets_listed"][()]) == (1, 1)
    assert found["process_resident_memory_bytes"][()] > 1_000_000


async def test_folds_commits_syncs_and_flushes_are_told_by_how_long_they_took(web: Web) -> None:
    before = await scraped(web)
    await web.trades((NOW - 60, 1.0))
    await web.trades((NOW - 30, 2.0))
    await web.stack.writer.flushed(2)
    after = await scraped(web)
    for name, least in (("fold", 1), ("commit", 2), ("journal_fsync", 2), ("flush", 1)):
        buckets = after[f"candled_{name}_seconds_bucket"]
        counts = [buckets[(end,)] for end in (*map(str, ENDS), "+Inf")]
        assert len(counts) == len(buckets)
        assert counts == sorted(counts)
        assert counts[0] < counts[-1], f"{name}: nothing of the kind is done in {ENDS[0]} s"
        assert counts[-1] == after[f"candled_{name}_seconds_count"][()]
        assert counts[-1] >= before[f"candled_{name}_seconds_count"][()] + least
        assert 0 < after[f"candled_{name}_seconds_sum"][()] < 60


def test_what_most_answers_take_is_told_apart() -> None:
    fine = [end for end in BUCKETS if 0.0005 <= end <= 0.0025]
    assert len(fine) >= 6
    assert all(after / before <= 1.5 for before, after in pairwise(fine))


@asynccontextmanager
async def listening(web: Web, limits: WsLimits) -> AsyncIterator[int]:
    """The port on which the app and its sockets are."""
    async with trio.open_nursery() as nursery:

        async def serve(*, task_status: trio.TaskStatus[tuple[str, int]]) -> None:
            stack = web.stack
            sockets = {"/ws": BarStreams(stack.engine, stack.hub, limits).serve}
            await listen(
                web.app,
                sockets,
                host="127.0.0.1",
                port=0,
                hub=stack.hub,
                limits=limits,
                until=trio.sleep_forever,
                task_status=task_status,
            )

        _, port = await nursery.start(serve)
        yield port
        nursery.cancel_scope.cancel()


async def until(true: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not true():  # noqa: ASYNC110  # nobody tells of it
            await trio.sleep(0.01)


async def test_every_number_that_somebody_watches_moves(tmp_path: Path) -> None:
    event = {"market_symbol": "GOLD", "timestamp": (NOW - 90) * 1000, "price": 1, "trade_id": "a"}
    bad = [{**event, "price": "much"}, {**event, "market_symbol": "GLOD"}, {**event, "timestamp": "noon"}]
    subscribe = {"action": "subscribe", "channel": "bars", "symbol": "GOLD", "resolution": "1"}
    limits = WsLimits(stalled_seconds=0.2, pending_frames=10)
    async with serving(tmp_path / "data", rates=Rates(search=1)) as web, listening(web, limits) as port:
        await web.market()
        hub, key = web.stack.hub, await web.key("ingest")
        for events in ([event, *bad], [event], [{**event, "price": 2}], [{**event, "removed": True}]):
            assert (await web.post("/api/ingest/events", json=events, headers=key)).status_code == 200
        await web.trades(*((NOW - 3_000 + n, 5.0) for n in range(2_900)))
        for _ in range(2):
            await web.get("/api/tradingview/search?query=")
        slow = await a_stalled_reader(
            port, msgspec.json.encode({**subscribe, "resolution": "1S", "snapshot_bars": 5000})
        )
        await until(lambda: hub.subscriptions == 1)
        async with connected(port) as client:
            await client.ask(**subscribe, conflate_ms=60_000)
            await client.hear()
            for n in range(3):  # the first at once; the third takes the place of the second
                await web.trades(*((NOW - 100 + n + 20 * late, 7.0 + n) for late in range(5)))
            assert (await client.hear())["type"] == "bar"
            during = await scraped(web)
            health = await web.json("/api/charts/health")
            await until(lambda: hub.dropped == 1)
        slow.close()
        await until(lambda: hub.connections == 0)
        await web.stack.writer.flushed(web.stack.engine.committed())
        after = await scraped(web)
    assert health["streams"] == {
        "connections": during["candled_stream_connections"][()],
        "subscriptions": during["candled_stream_subscriptions"][()],
    }
    assert (during["candled_stream_connections"][()], during["candled_stream_subscriptions"][()]) == (2, 2)
    assert (after["candled_stream_connections"][()], after["candled_stream_subscriptions"][()]) == (0, 0)
    assert after["candled_stream_slow_drops_total"][()] == 1
    for name in ("frames", "bytes", "conflated", "lagged"):
        assert after[f"candled_stream_{name}_total"][()] > 0, name
    assert after["candled_rate_limited_requests_total"][("search",)] == 1
    outcomes = after["candled_ingest_outcomes_total"]
    assert {outcome: count for (outcome,), count in outcomes.items()} == {
        "accepted": 1 + 2_900 + 15,
        "duplicate": 1,
        "corrected": 1,
        "retracted": 1,
        "unknown": 0,
        "rejected": 3,
    }
    assert after["candled_ingest_rejected_total"] == {("price",): 1, ("market",): 1, ("timestamp",): 1}
    assert after["candled_ingest_requests_total"][()] == 4 + 4
    assert after["candled_ingest_events_total"][()] == sum(outcomes.values())
    assert after["candled_http_response_bytes_total"][("/metrics",)] > 1_000
    for name in (
        "journal_bytes",
        "journal_appended_bytes_total",
        "database_bytes",
        "ring_bytes",
        "history_reads_total",
    ):
        assert after[f"candled_{name}"][()] > 0, name
    for name in ("fold", "commit", "journal_fsync", "flush"):
        assert after[f"candled_{name}_seconds_count"][()] > 0, name
    assert after["process_resident_memory_bytes"][()] > 1_000_000


async def test_requests_are_counted_by_route_and_not_by_what_was_asked(web: Web) -> None:
    history = "/api/tradingview/history"
    for path in ("?symbol=GOLD&resolution=1&from=0&to=1", "?symbol=GOLD&resolution=1&from=0&to=2", "?symbol=NOPE"):
        await web.get(history + path)
    for n in range(20):
        await web.get(f"/api/markets/M{n}")
        await web.get(f"/api/nothing/{n}")
    found = await scraped(web)
    requests = found["candled_http_requests_total"]
    assert (requests[(history, "200")], requests[(history, "400")]) == (2, 1)
    assert requests[("/api/markets/<symbol:symbol>", "404")] == 20
    assert requests[("none", "404")] == 20
    assert found["candled_http_request_seconds_count"][(history,)] == 3
    assert found["candled_http_request_seconds_bucket"][("+Inf", history)] == 3
    assert found["candled_http_request_seconds_sum"][(history,)] > 0
    assert (await scraped(web))["candled_http_requests_total"][("/metrics", "200")] == 1


def test_the_buckets_of_a_route_add_up() -> None:
    requests = Requests()
    for seconds in (0.0001, 0.0005, 0.0006, 0.3, 100):
        requests.observe("/x", 200, seconds, 7)
    (times,) = [family for family in requests.collect() if family.name == "candled_http_request_seconds"]
    buckets = {s.labels["le"]: s.value for s in times.samples if s.name.endswith("_bucket")}
    assert list(buckets) == [*map(str, BUCKETS), "+Inf"]
    assert (buckets["0.0005"], buckets["0.001"], buckets["0.25"], buckets["0.5"], buckets["+Inf"]) == (2, 3, 3, 4, 5)
    assert sum(s.value for s in times.samples if s.name.endswith("_sum")) == 100.3012
    (sizes,) = [family for family in requests.collect() if family.name == "candled_http_response_bytes"]
    assert [s.value for s in sizes.samples] == [35]
