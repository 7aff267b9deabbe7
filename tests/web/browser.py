"""A real Chromium, for tests that look at the page of a real daemon."""

import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec
import pytest
import trio
from playwright.sync_api import Browser, ConsoleMessage, Page, TimeoutError, WebSocket, sync_playwright

from tests.daemons import ROOT, Daemon
from tests.test_end_to_end import Event, Http

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
WITHOUT_SANDBOX = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
PATIENCE = 20_000  # milliseconds
NAMES = ("time", "open", "high", "low", "close", "volume")
CHART = "() => document.querySelector('#chart')?.cloneNode(false).outerHTML ?? 'no chart'"

MARKS = [
    pytest.mark.browser,
    pytest.mark.skipif(
        shutil.which(CHROMIUM) is None, reason=f"no Chromium at {CHROMIUM}; install it or name one with CHROMIUM"
    ),
]

T = TypeVar("T")
Bar = tuple[float, ...]  # in the order of NAMES


class Tab:
    """A page, looked at from the thread that its browser lives on, and what it complained of."""

    def __init__(self, thread: ThreadPoolExecutor, page: Page) -> None:
        self._thread, self._page = thread, page
        self.complaints: list[str] = []
        self.frames: list[Any] = []  # everything received on WebSockets
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("websocket", self._socket)

    async def do(self, work: Callable[[Page], T]) -> T:
        return await trio.to_thread.run_sync(lambda: self._thread.submit(work, self._page).result())

    async def sees(self, selector: str, text: str = "") -> None:
        """Wait until this is in view."""
        found = selector if not text else f"{selector}:has-text({msgspec.json.encode(text).decode()})"

        def waited(page: Page) -> str:
            try:
                page.wait_for_selector(found)
            except TimeoutError:
                chart: str = page.evaluate(CHART)
                return f"{chart}\n{page.inner_text('body')}"
            return ""

        instead = await self.do(waited)
        assert not instead, f"{found} is not seen, but {instead}\n{self.complaints}"

    async def click(self, selector: str) -> None:
        await self.do(lambda page: page.click(selector))

    async def text(self, selector: str) -> str:
        return await self.do(lambda page: page.inner_text(selector))

    async def attribute(self, name: str, selector: str = "#chart") -> str | None:
        return await self.do(lambda page: page.get_attribute(selector, name))

    async def count(self, selector: str) -> int:
        return await self.do(lambda page: page.locator(selector).count())

    async def bars(self, symbol: str, resolution: str) -> list[Bar]:
        """All bars that the page has of a stream."""
        script = """([symbol, resolution, names]) => {
            const lease = candled.lease(symbol, resolution);
            try {
                return lease.stream.bars.map((bar) => names.map((name) => bar[name]));
            } finally {
                lease.release();
            }
        }"""
        found = await self.do(lambda page: page.evaluate(script, [symbol, resolution, NAMES]))
        return [tuple(bar) for bar in found]

    async def scroll_back(self, until: Callable[[Page], bool]) -> None:
        """Into the past by the keyboard, until that is so."""

        def scroll(page: Page) -> None:
            for _ in range(300):
                if until(page):
                    return
                page.press(".plot", "Shift+ArrowLeft")
                page.wait_for_selector("#chart:not([data-older=loading])")
            raise AssertionError(f"scrolled back for long: {page.locator('#chart').get_attribute('data-older')}")

        await self.do(scroll)

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.type}: {message.text}")

    def _socket(self, socket: WebSocket) -> None:
        socket.on("framereceived", lambda data: self.frames.append(msgspec.json.decode(data)))


class Chromium:
    """A browser, and the only thread that may talk to it."""

    def __init__(self, thread: ThreadPoolExecutor, browser: Browser) -> None:
        self._thread, self._browser = thread, browser

    @asynccontextmanager
    async def looking(self, daemon: Daemon, path: str = "/", **more: Any) -> AsyncIterator[Tab]:
        """The page of a daemon, as somebody sees it who was never here; it must not complain of anything."""

        def opened() -> Tab:
            context = self._browser.new_context(**more)
            context.set_default_timeout(PATIENCE)
            return Tab(self._thread, context.new_page())

        def closed(page: Page) -> None:
            page.context.close()

        tab = await trio.to_thread.run_sync(lambda: self._thread.submit(opened).result())
        try:
            await tab.do(lambda page: page.goto(f"http://127.0.0.1:{daemon.port}{path}"))
            yield tab
        finally:
            await tab.do(closed)
        assert tab.complaints == [], tab.complaints


def launched() -> Iterator[Chromium]:
    """A fixture: one for all tests of a process; each has its own context in it."""
    assert (ROOT / "web" / "static" / "index.html").is_file(), "the page is not built: make setup"
    with ThreadPoolExecutor(1) as thread:
        driver = thread.submit(lambda: sync_playwright().start()).result()
        try:
            browser = thread.submit(
                lambda: driver.chromium.launch(executable_path=shutil.which(CHROMIUM), args=WITHOUT_SANDBOX)
            ).result()
            yield Chromium(thread, browser)
            thread.submit(browser.close).result()
        finally:
            thread.submit(driver.stop).result()


async def history(http: Http, symbol: str, resolution: str) -> list[Bar]:
    """All bars, as the page has them."""
    bars, _ = await http.history(symbol, resolution)
    return [(time, *bar) for time, bar in bars.items()]


def minutes(count: int) -> list[Event]:
    """Two trades in each of the last so many minutes that are over."""
    first = (int(time.time()) // 60 - count) * 60
    return [Event("GOLD", (first + 30 * n + 7) * 1_000_000, 2000 + (n * 37 % 100) / 4, n + 1) for n in range(2 * count)]


def now(price: float, number: int, symbol: str = "GOLD") -> Event:
    return Event(symbol, time.time_ns() // 1000, price, number)
