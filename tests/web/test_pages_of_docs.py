"""The pages that docs/ shows, as they stand there, in a real browser beside a real daemon.

Of the page for TradingView the library itself is not run, because it is not public: in its place stands a small client
of UDF that asks what the stock adapter and the chart ask, in their order, and of their storage of charts.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trio

from tests.daemons import BIN, ROOT, Daemon, environment, running
from tests.test_end_to_end import Event, a_key, markets, talking
from tests.test_readme import blocks
from tests.web.browser import MARKS, Chromium, minutes, now

MODULES = ROOT / "web" / "ui" / "node_modules"
DIST = MODULES / "lightweight-charts" / "dist"
KLINECHARTS = MODULES / "klinecharts" / "dist" / "umd" / "klinecharts.min.js"
browser, with_chromium = MARKS
STAND_IN = ROOT / "tests" / "data" / "tradingview.js"


def page_of(name: str, daemon: Daemon) -> str:
    (html,) = [block.text for block in blocks((ROOT / "docs" / name).read_text("utf-8")) if block.kind == "html page"]
    return html.replace("localhost:8000", f"127.0.0.1:{daemon.port}")


@contextmanager
def served(html: str, scripts: dict[str, Path]) -> Iterator[str]:
    """The address of a page, whose scripts are these, by the ends of their addresses, and otherwise empty."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            script = next((found.read_bytes() for end, found in scripts.items() if self.path.endswith(end)), b"")
            kind, body = ("text/html", html.encode()) if self.path == "/" else ("text/javascript", script)
            self.send_response(200)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://localhost:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()


@browser
@with_chromium
@pytest.mark.skipif(not DIST.is_dir(), reason=f"no lightweight-charts in {DIST}: make setup")
async def test_the_page_for_lightweight_charts_is_live(chromium: Chromium, tmp_path: Path) -> None:
    async with running("serve", home=tmp_path) as daemon:
        await markets(daemon, await a_key(tmp_path, "admin"), "GOLD")
        with talking(daemon, await a_key(tmp_path, "ingest")) as http:
            await http.say(*minutes(50))
            html = page_of("lightweight-charts.md", daemon).replace("https://unpkg.com", "")
            library = DIST / "lightweight-charts.standalone.development.js"  # which checks what it is given
            with served(html, {"standalone.production.js": library}) as address:
                async with chromium.looking(daemon) as tab:
                    await tab.do(lambda page: page.goto(address))

                    async def shows(what: str) -> None:
                        await tab.do(lambda page: page.wait_for_function(f"() => {{ {what} }}"))

                    last = "const bar = candles.data().at(-1);"
                    await shows("return candles.data().length === 50 && volume.data().length === 50 && !held")
                    await http.say(now(2222.25, 1001))
                    await shows(f"{last} return bar?.close === 2222.25 && volume.data().at(-1).value >= 1")
                    await http.say(now(2333.5, 1002))
                    await shows(f"{last} return bar.high >= 2333.5 && candles.data().length >= 51")
                    # An older bar changes, and one appears where there was none.
                    start = int(time.time()) // 60 * 60
                    await http.say(Event("GOLD", (start - 20 * 60 + 1) * 1_000_000, 2999, 1003))
                    await shows("return candles.data().some((bar) => bar.high === 2999)")
                    count = await tab.do(lambda page: page.evaluate("candles.data().length"))
                    await http.say(Event("GOLD", (start - 70 * 60) * 1_000_000, 1999, 1004))
                    await shows(f"return candles.data().length > {count} && candles.data()[0].low === 1999")


@browser
@with_chromium
@pytest.mark.skipif(not KLINECHARTS.is_file(), reason=f"no {KLINECHARTS}: make setup")
async def test_the_page_for_klinecharts_is_live(chromium: Chromium, tmp_path: Path) -> None:
    async with running("serve", home=tmp_path) as daemon:
        await markets(daemon, await a_key(tmp_path, "admin"), "GOLD")
        with talking(daemon, await a_key(tmp_path, "ingest")) as http:
            await http.say(*minutes(700))
            html = page_of("other-clients.md", daemon).replace("https://unpkg.com", "")
            with served(html, {"klinecharts.min.js": KLINECHARTS}) as address:
                async with chromium.looking(daemon) as tab:
                    await tab.do(lambda page: page.goto(address))

                    async def shows(what: str) -> None:
                        script = f"() => {{ const bars = globalThis.chart?.getDataList() ?? []; return {what}; }}"
                        await tab.do(lambda page: page.wait_for_function(script))

                    await shows("bars.length >= 500")
                    await http.say(now(2222.25, 2001))
                    await shows("bars.at(-1).close === 2222.25")
                    await tab.do(lambda page: page.evaluate("chart.scrollToDataIndex(0)"))
                    await shows(
                        "bars.length >= 700 && bars.every((bar, n) => !n || bar.timestamp > bars[n - 1].timestamp)"
                    )
                    start = int(time.time()) // 60 * 60
                    await http.say(Event("GOLD", (start - 20 * 60 + 1) * 1_000_000, 2999, 2003))
                    await shows("bars.some((bar) => bar.high === 2999)")


@browser
@with_chromium
async def test_the_page_for_tradingview_asks_what_is_answered(chromium: Chromium, tmp_path: Path) -> None:
    async with running("serve", home=tmp_path) as daemon:
        await markets(daemon, await a_key(tmp_path, "admin"), "GOLD")
        with talking(daemon, await a_key(tmp_path, "ingest")) as http:
            await http.say(*minutes(400))
        with served(page_of("tradingview.md", daemon), {"bundle.js": STAND_IN}) as address:
            async with chromium.looking(daemon) as tab:
                await tab.do(lambda page: page.goto(address))
                told = await tab.do(lambda page: page.evaluate("globalThis.asked"))
        assert told["config"]["supports_search"]
        assert told["info"]["ticker"] == "GOLD"
        assert [len(told[name]["t"]) for name in ("first", "older", "polled")] == [300, 100, 2]
        assert told["older"]["t"][-1] < told["first"]["t"][0]
        assert told["polled"]["t"] == told["first"]["t"][-2:]
        assert [one["ticker"] for one in told["found"]] == ["GOLD"]
        assert (told["marks"], told["scale"]) == ([], [])
        assert told["saved"]["status"] == told["listed"]["status"] == "ok"
        assert [one["name"] for one in told["listed"]["data"]] == ["Mine"]
        assert told["every"] == 2000
        assert told["response"] == {"maxResponseLength": 5000, "expectedOrder": "latestFirst"}


async def test_the_commands_for_tradingview_work(tmp_path: Path) -> None:
    wanted = [block.text for block in blocks((ROOT / "docs" / "tradingview.md").read_text("utf-8"))[1:]]
    assert len(wanted) == 2
    async with running("demo", home=tmp_path) as daemon:
        script = "set -euo pipefail\n" + "\n".join(wanted)
        script = script.replace("localhost:8000", f"localhost:{daemon.port}").replace(".venv/bin/", f"{BIN}/")
        done = await trio.run_process(
            ["bash", "-c", script],
            env=environment(tmp_path),
            cwd=tmp_path,
            check=False,
            capture_stdout=True,
            capture_stderr=True,
        )
    assert done.returncode == 0, f"{done.stdout.decode()}\n{done.stderr.decode()}"
    assert b'"s":"ok","t":[' in done.stdout
