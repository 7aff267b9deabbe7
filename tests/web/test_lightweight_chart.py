"""Bars of a real daemon in the npm `lightweight-charts`, whose development build checks what it is given."""

import time
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.daemons import ROOT, running
from tests.test_end_to_end import Event, a_key, markets, talking
from tests.web.browser import MARKS, Chromium

BUILDS = ROOT / "web" / "ui" / "node_modules" / "lightweight-charts" / "dist"
TIMEFRAMES = ("1s", "1m", "5m", "15m", "30m", "1h", "4h", "1d", "1w", "1M")

pytestmark = [
    *MARKS,
    pytest.mark.skipif(not BUILDS.is_dir(), reason=f"no lightweight-charts in {BUILDS}: make setup"),
]

# The recipe of docs/lightweight.md, and what the chart has then.
RECIPE = """async ([query, times]) => {
    const { createChart, CandlestickSeries, HistogramSeries, LineSeries } = LightweightCharts;
    const box = document.body.appendChild(document.createElement("div"));
    const chart = createChart(box, { width: 600, height: 300 });
    try {
        const candles = chart.addSeries(CandlestickSeries);
        const volume = chart.addSeries(HistogramSeries, { priceScaleId: "" });
        const base = "/api/lightweight";
        const answer = await (await fetch(`${base}/ohlcv?${query}`)).json();
        if (!answer.success) throw new Error(answer.error.message);
        const rows = times === "iso" ? answer.data.map((row) => ({ ...row, time: row.timestamp })) : answer.data;
        for (const _ of [1, 2]) { // a reload must do no harm
            candles.setData([]); candles.setData(rows);
            volume.setData([]); volume.setData(rows.map(({ time, volume }) => ({ time, value: volume })));
        }
        const last = rows[rows.length - 1];
        if (last !== undefined) {
            candles.update({ ...last, close: last.high });
            candles.update({ ...last, time: last.time + 60 * 60 * 24 * 40 });
        }
        return [rows.length, candles.data().length, candles.data().slice(0, 2)];
    } finally {
        chart.remove();
        box.remove();
    }
}"""


async def loaded(tab: Any, build: str) -> None:
    def load(page: Page) -> None:
        page.add_script_tag(path=BUILDS / f"lightweight-charts.standalone.{build}.js")

    await tab.do(load)


@pytest.mark.parametrize("build", ["development", "production"])
async def test_bars_go_through_the_library(chromium: Chromium, tmp_path: Path, build: str) -> None:
    start = int(time.time()) // 60 * 60
    events = [
        Event("GOLD", (start - n * 47) * 1_000_000, 2000 + (n * 37 % 100) / 4, n + 1) for n in range(400) if n % 90 < 60
    ]
    events += [Event("GOLD", (start - day * 86_400) * 1_000_000, 1900 + day, 1000 + day) for day in range(2, 70, 3)]
    async with running("serve", home=tmp_path) as daemon:
        await markets(daemon, await a_key(tmp_path, "admin"), "GOLD")
        with talking(daemon, await a_key(tmp_path, "ingest")) as http:
            await http.say(*events)
        async with chromium.looking(daemon, bypass_csp=True) as tab:
            await loaded(tab, build)

            async def drawn(query: str, times: str = "unix") -> Any:
                return await tab.do(lambda page: page.evaluate(RECIPE, [f"symbol=GOLD&{query}", times]))

            for timeframe in TIMEFRAMES:
                rows, shown, _ = await drawn(f"timeframe={timeframe}&time_format=unix&from=0")
                assert shown == rows + 1, timeframe
                assert rows > 1, timeframe
            assert (await drawn("timeframe=1m&from=0", "iso"))[:2] == (
                await drawn("timeframe=1m&from=0&time_format=unix")
            )[:2]
            counts = {}
            for fill in ("none", "flat", "null"):
                counts[fill] = (await drawn(f"timeframe=1m&time_format=unix&fill={fill}&from={start - 20_000}"))[:2]
            bars = counts["none"][0]
            # What is empty keeps its place and is no bar.
            assert counts["flat"][0] == counts["null"][0] > bars
            assert [shown - 1 for _, shown in counts.values()] == [bars, counts["flat"][0], bars]
            assert (await drawn("timeframe=1m&time_format=unix&from=0&to=1"))[:2] == [0, 0]
            rows, shown, first = await drawn("timeframe=1d&time_format=unix&from=0&fields=all")
            assert shown == rows + 1
            assert all(bar["time"] % 86_400 == 0 for bar in first)


async def test_default_rows_need_their_timestamp_as_time(chromium: Chromium, tmp_path: Path) -> None:
    async with running("serve", home=tmp_path) as daemon:
        await markets(daemon, await a_key(tmp_path, "admin"), "GOLD")
        with talking(daemon, await a_key(tmp_path, "ingest")) as http:
            await http.say(Event("GOLD", int(time.time()) * 1_000_000, 2000, 1))
        async with chromium.looking(daemon, bypass_csp=True) as tab:
            await loaded(tab, "development")
            script = RECIPE.replace("row.timestamp", "row.time")
            caught = f"(given) => ({script})(given).catch((error) => `${{error}}`)"
            found = await tab.do(lambda page: page.evaluate(caught, ["symbol=GOLD&timeframe=1m", "iso"]))
            assert "Invalid date string" in found
