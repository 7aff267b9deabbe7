"""What an import says of itself: from when to when everything is here."""

import json
import urllib.request
from pathlib import Path

import pytest
import trio

from daemon import importing
from daemon.importing import What
from storage.errors import Unavailable
from storage.spans import Spans
from tests.daemon.test_importing import candled, csv, imported, plan, trades
from tests.daemons import running as daemon
from tests.stacks import running

FIRST = 1_700_000_000_000_000  # the first trade's time, µs
LAST = FIRST + 7_200_000_000


async def covered(data: Path, symbol: str) -> list[tuple[str, Spans]]:
    async with running(data) as stack:
        slot = (await stack.registry.named(symbol)).slot
        return [(one.feed, one.up) for one in await stack.coverage.known(slot, 0, 2**60)]


async def test_an_import_covers_the_time_from_its_first_event_to_its_last(tmp_path: Path) -> None:
    rows = trades(100, ids=True)
    for half in (rows[:60], rows[60:]):
        await imported(tmp_path / "data", plan(csv(tmp_path / f"{len(half)}.csv", half), market="M"))
    before, after, last = (int(str(rows[i]["ts_ms"])) * 1000 for i in (59, 60, 99))
    assert await covered(tmp_path / "data", "M") == [("import", [(FIRST, before + 1000), (after, last + 1000)])]


async def test_each_market_of_a_file_is_covered_for_itself(tmp_path: Path) -> None:
    rows = [{**row, "symbol": "A" if i < 30 else "B"} for i, row in enumerate(trades(100, ids=True))]
    await imported(tmp_path / "data", plan(csv(tmp_path / "both.csv", rows)))
    times = [int(str(row["ts_ms"])) * 1000 for row in rows]
    assert await covered(tmp_path / "data", "A") == [("import", [(times[0], times[29] + 1000)])]
    assert await covered(tmp_path / "data", "B") == [("import", [(times[30], times[99] + 1000)])]


async def test_a_file_of_which_rows_were_refused_covers_nothing(tmp_path: Path) -> None:
    rows = trades(100, ids=True)
    rows[50]["price"] = "-1"
    tally = await imported(tmp_path / "data", plan(csv(tmp_path / "bad.csv", rows), market="M"))
    assert (tally.accepted, tally.rejected) == (99, 1)
    assert await covered(tmp_path / "data", "M") == []


@pytest.mark.parametrize("bad", [False, True])
async def test_a_run_that_goes_on_covers_what_the_one_before_it_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: bool
) -> None:
    monkeypatch.setattr(importing, "ROWS", 10)
    monkeypatch.setattr(importing, "FLYING", 1)
    rows = trades(100, ids=True)
    if bad:
        rows[3]["price"] = "-1"
    file = csv(tmp_path / "trades.csv", rows)
    submit = importing.Direct.submit
    taken = 0

    async def cut_off(self: importing.Direct, body: bytes, what: What) -> bytes:
        nonlocal taken
        taken += 1
        if taken == 6:
            raise Unavailable("the plug was pulled")
        return await submit(self, body, what)

    monkeypatch.setattr(importing.Direct, "submit", cut_off)
    with pytest.raises(ExceptionGroup):
        await imported(tmp_path / "data", plan(file, market="M"))
    assert await covered(tmp_path / "data", "M") == []
    await imported(tmp_path / "data", plan(file, market="M"))
    assert taken == 11
    end = int(str(rows[99]["ts_ms"])) * 1000 + 1000
    assert await covered(tmp_path / "data", "M") == ([] if bad else [("import", [(FIRST, end)])])


async def test_through_a_daemon_it_is_told_too(tmp_path: Path) -> None:
    home, data = tmp_path, tmp_path / "data"
    rows = trades(50, ids=True)
    del rows[20:30]
    file = csv(tmp_path / "trades.csv", rows)
    async with daemon("serve", "--data", str(data), home=home) as running_:
        done = await trio.to_thread.run_sync(lambda: candled(data, str(file), "--market", "M", "--create", "spot"))
        assert done.returncode == 0, done.stderr
        url = f"http://127.0.0.1:{running_.port}/api/markets/M/gaps?resolution=15m&to={LAST // 1000}"
        found = json.loads(await trio.to_thread.run_sync(lambda: urllib.request.urlopen(url).read()))
    ends = [int(str(row["ts_ms"])) for row in (rows[0], rows[-1])]
    assert found["coverage"] == [{"feed": "import", "state": "up", "from": ends[0], "to": ends[1] + 1}]
    assert {(gap["kind"], *gap["feeds"]) for gap in found["gaps"]} == {("no_trade", "import")}
