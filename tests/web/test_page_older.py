"""How the page asks for older bars: each page of them once, one at a time, and only while there are any."""

import json
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Page, Request, Route

from tests.daemons import running
from tests.test_end_to_end import a_key, markets, talking
from tests.web.browser import MARKS, Chromium, Tab, history, minutes

pytestmark = MARKS

HISTORY = "**/api/tradingview/history?*"


class Asked:
    """The questions for history that a page sends, and what they were answered."""

    def __init__(self) -> None:
        self.windows: list[tuple[int, int]] = []
        self.answers: list[dict[str, object]] = []
        self.under_way = self.most_under_way = 0

    def watch(self, page: Page) -> None:
        page.on("request", self._asked)
        page.on("requestfinished", self._answered)

    def _asked(self, request: Request) -> None:
        if "/history?" in request.url:
            query = parse_qs(urlsplit(request.url).query)
            self.windows.append((int(query["from"][0]), int(query["to"][0])))
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)

    def _answered(self, request: Request) -> None:
        if "/history?" in request.url:
            self.under_way -= 1
            response = request.response()
            assert response is not None
            self.answers.append(response.json())


def drag(page: Page, times: int = 1) -> None:
    """The chart into the past, by the mouse, over most of what is in view."""
    for _ in range(times):
        page.mouse.move(320, 400)
        page.mouse.down()
        page.mouse.move(1150, 400, steps=25)
        page.mouse.up()


async def test_dragging_back_asks_for_each_page_once_and_ends_where_history_begins(
    chromium: Chromium, tmp_path: Path
) -> None:
    async with running("serve", home=tmp_path) as daemon:
        key = await a_key(tmp_path, "admin")
        await markets(daemon, key)
        with talking(daemon, key) as http:
            await http.say(*minutes(4200))
            whole = await history(http, "GOLD", "1")
        asked = Asked()
        async with chromium.looking(daemon) as tab:
            await tab.sees("#chart[data-state=live][data-bars='300']")
            await tab.do(asked.watch)
            for _ in range(80):
                if await tab.attribute("data-older") == "exhausted":
                    break
                await tab.do(drag)
            await tab.sees("#chart[data-older=exhausted]")
            assert await tab.bars("GOLD", "1") == whole
            assert asked.most_under_way == 1
            assert len(set(asked.windows)) == len(asked.windows)
            assert len(asked.windows) == 5, "four pages of bars, and one to see that there are no others"
            assert asked.answers[-1] == {"s": "no_data"}
            await tab.do(lambda page: drag(page, 3))
            assert len(asked.windows) == 5


async def test_a_page_is_asked_for_only_when_the_one_before_is_in_view(chromium: Chromium, tmp_path: Path) -> None:
    async with running("serve", home=tmp_path) as daemon:
        key = await a_key(tmp_path, "admin")
        await markets(daemon, key)
        with talking(daemon, key) as http:
            await http.say(*minutes(4200))
        asked = Asked()
        async with chromium.looking(daemon) as tab:
            await tab.sees("#chart[data-state=live][data-bars='300']")
            await tab.do(asked.watch)
            await tab.scroll_back(lambda page: page.get_attribute("#chart", "data-bars") == "1300")
            await drawn(tab)
            assert len(asked.windows) == 1, "a thousand more than are in view"


async def drawn(tab: Tab) -> None:
    """Wait until whatever the page had to do about its bars is done."""
    await tab.do(lambda page: page.evaluate("() => new Promise((done) => setTimeout(done, 100))"))


@pytest.mark.parametrize("status", [429, 503])
async def test_a_daemon_that_wants_a_pause_gets_it_and_is_asked_again_by_itself(
    status: int, chromium: Chromium, tmp_path: Path
) -> None:
    limits = {"CANDLED_RATE_LIMIT_HISTORY": "1", "CANDLED_RATE_LIMIT_WINDOW_MS": "8000"} if status == 429 else {}
    async with running("serve", home=tmp_path, variables=limits) as daemon:
        key = await a_key(tmp_path, "admin")
        await markets(daemon, key)
        with talking(daemon, key) as http:
            await http.say(*minutes(2600))
        times: list[float] = []

        def busy(route: Route) -> None:
            times.append(route.request.frame.evaluate("() => performance.now()"))
            refused = {"s": "error", "errmsg": "the store is busy"}
            route.fulfill(status=503, headers={"Retry-After": "2"}, body=json.dumps(refused))

        async with chromium.looking(daemon) as tab:
            await tab.sees("#chart[data-state=live][data-bars='300']")
            if status == 503:
                await tab.do(lambda page: page.route(HISTORY, busy, times=1))
            await tab.do(lambda page: drag(page, 2))
            if status == 429:
                await tab.sees("#chart[data-bars='1300']")
                await tab.scroll_back(lambda page: page.get_attribute("#chart", "data-older") == "failed")
            await tab.sees("#chart[data-older=failed]")
            await tab.sees("[data-testid=older-error]", "Trying again in")
            assert await tab.count("[data-testid=older-error] button") == 0
            before = await tab.attribute("data-bars")
            await tab.do(drag)
            assert await tab.attribute("data-bars") == before
            await tab.sees(f"#chart:not([data-bars='{before}'])")
            assert await tab.count("[data-testid=older-error]") == 0
            assert [one for one in tab.complaints if f"status of {status}" not in one] == []
            assert len(tab.complaints) == 1, "it was not asked before its time"
            tab.complaints.clear()
