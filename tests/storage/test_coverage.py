"""What feeds saw, as the file keeps it: merged, and of bounded size."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from storage import coverage
from storage.coverage import Feed, Source
from storage.state import State

GOLD, TEA = 1, 2


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with State.open(tmp_path / "state.db") as opened:
        yield opened


def feed(low: int, high: int, **more: object) -> Feed:
    return Feed(**{"name": "a", "low": low, "high": high, "heard": high, "standing": "up", **more})  # type: ignore[arg-type] # a test's shorthand


def source(state: State, market: int = GOLD, low: int = 0, high: int = 10**9) -> Source:
    (found,) = coverage.sources(state, market, low, high)
    return found


def test_what_a_feed_saw_grows_and_is_there_after_opening_again(tmp_path: Path) -> None:
    with State.open(tmp_path / "state.db") as state:
        coverage.watch(state, feed(10, 10), {GOLD}, 10)
        coverage.put(state, [feed(10, 20)])
        coverage.put(state, [feed(30, 40)])
        coverage.put(state, [feed(10, 15)])  # an older word takes nothing back
    with State.open(tmp_path / "state.db") as state:
        assert source(state) == Source(feed="a", watched=[(10, None)], saw=[(10, 20), (30, 40)], covered=[])
        assert source(state, low=20, high=30).saw == []
        assert coverage.reporting(state) == [feed(30, 40, heard=15)]
        assert coverage.sources(state, TEA, 0, 100) == []


def test_markets_come_and_go(state: State) -> None:
    coverage.watch(state, feed(10, 10), {GOLD, TEA}, 10)
    coverage.watch(state, feed(10, 20), {GOLD}, 20)
    coverage.watch(state, feed(10, 30), None, 30)
    assert source(state, TEA).watched == [(10, 20)]
    assert source(state, GOLD).watched == [(10, None)]
    coverage.watch(state, feed(10, 40), {GOLD, TEA}, 40)
    assert source(state, TEA).watched == [(10, 20), (40, None)]
    coverage.watch(state, feed(10, 50, standing="ended"), None, 50)
    assert source(state, TEA).watched == [(10, 20), (40, 50)]
    assert coverage.reporting(state) == []


def test_a_market_that_left_and_came_back_at_once_never_left(state: State) -> None:
    coverage.watch(state, feed(10, 20), {GOLD}, 20)
    coverage.watch(state, feed(10, 20), {TEA}, 20)
    coverage.watch(state, feed(10, 20), {GOLD}, 20)
    assert source(state, GOLD).watched == [(20, None)]


def test_imports_that_touch_are_one(state: State) -> None:
    for piece in [(10, 20), (40, 50), (20, 30), (5, 8), (15, 18)]:
        coverage.cover(state, "import", [(GOLD, *piece)])
    assert sorted(source(state).covered) == [(5, 8), (10, 30), (40, 50)]
    coverage.cover(state, "import", [(GOLD, 0, 100), (TEA, 1, 2)])
    assert source(state).covered == [(0, 100)]
    assert source(state, TEA).covered == [(1, 2)]
    assert coverage.reporting(state) == []  # nobody waits for an import to report


def test_the_oldest_is_forgotten_where_there_is_too_much(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage, "MOST_SPANS", 3)
    monkeypatch.setattr(coverage, "MOST_PIECES", 2)
    for low in range(0, 60, 10):
        coverage.watch(state, feed(low, low + 5), {GOLD}, low + 5)
    # Of the time before 30 nobody knows any more what the feed saw: so it counts as not having been there.
    assert source(state) == Source(feed="a", watched=[(30, None)], saw=[(30, 35), (40, 45), (50, 55)], covered=[])
    for low in range(0, 60, 10):
        coverage.cover(state, "import", [(TEA, low, low + 5)])
    assert source(state, TEA).covered == [(40, 45), (50, 55)]
