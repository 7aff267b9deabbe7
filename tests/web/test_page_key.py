"""The page where reading needs a key."""

from pathlib import Path

import pytest
from playwright.sync_api import Page, TimeoutError

from tests import daemons
from tests.daemons import free_port, running
from tests.test_end_to_end import a_key, markets, printed, talking
from tests.web.browser import MARKS, Chromium, Tab, history, minutes, now

pytestmark = MARKS

TOKEN = ("--auth", "token")
STORED = "() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie])"
AWAY = ("status of 401", "status of 403", "net::ERR_CONNECTION_")  # of what browsers tell by themselves


async def give(tab: Tab, key: str) -> None:
    await tab.do(lambda page: page.fill("[data-testid=key]", key))
    await tab.do(lambda page: page.press("[data-testid=key]", "Enter"))


def forgive(tab: Tab) -> None:
    assert [one for one in tab.complaints if not any(known in one for known in AWAY)] == []
    tab.complaints.clear()


async def test_a_key_opens_the_page_stays_in_memory_and_lasts_over_reconnects(
    chromium: Chromium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setattr(daemons, "free_port", lambda: port)
    async with running("serve", *TOKEN, home=tmp_path) as daemon:
        admin, read, ingest = [await a_key(tmp_path, scope) for scope in ("admin", "read", "ingest")]
        await markets(daemon, admin)
        with talking(daemon, admin) as http:
            await http.say(*minutes(600))
            whole = await history(http, "GOLD", "1")
        async with chromium.looking(daemon, "/?symbol=GOLD") as tab:
            await tab.sees("[data-testid=sign-in] [data-testid=key]:focus")
            await tab.sees("[data-testid=connection][data-state=locked]")
            assert await tab.text("[data-testid=key-error]") == ""
            for wrong in ("nobody", "nöbody"):
                await give(tab, wrong)
                await tab.sees("[data-testid=key-error]", "This key is unknown or revoked.")
            await give(tab, ingest)
            await tab.sees("[data-testid=key-error]", "This key does not allow reading.")
            assert await tab.count("#chart, [data-testid=market]") == 0

            await give(tab, f" {read} ")
            await tab.sees("#chart[data-state=live][data-bars='300']")
            await tab.sees("[data-testid=market][data-symbol=GOLD]")
            assert await tab.count("[data-testid=sign-in]") == 0
            await tab.scroll_back(lambda page: page.get_attribute("#chart", "data-older") == "exhausted")
            assert (await tab.bars("GOLD", "1"))[: len(whole)] == whole
            assert read not in await tab.do(lambda page: page.evaluate(STORED) + page.url + page.content())

            daemon.process.kill()
            await tab.sees("#chart[data-state=reconnecting]")
            async with running("serve", *TOKEN, home=tmp_path) as again:
                await tab.sees("#chart[data-state=live]")
                with talking(again, admin) as http:
                    await http.say(now(2023.25, 9003))
                    await tab.sees("#chart[data-last*='2023.25']")
                await tab.do(lambda page: page.reload())
                await tab.sees("[data-testid=sign-in]")
                forgive(tab)


async def test_a_key_that_is_revoked_is_asked_for_again(chromium: Chromium, tmp_path: Path) -> None:
    async with running("serve", *TOKEN, home=tmp_path) as daemon:
        await markets(daemon, await a_key(tmp_path, "admin"))
        first, second = await a_key(tmp_path, "read"), await a_key(tmp_path, "read")
        async with chromium.looking(daemon) as tab:
            await give(tab, first)
            await tab.sees("[data-testid=no-bars]")
            await printed(tmp_path, "token", "revoke", "2")
            await tab.do(searching)
            await tab.sees("[data-testid=key-error]", "Your key is no longer taken.")
            await give(tab, second)
            await tab.sees("[data-testid=no-bars]")
            forgive(tab)


def searching(page: Page) -> None:
    """Ask the daemon for one thing after the other until it does not know the key any more."""
    for text in "abcdefghijklmnopqrstuvwxyz":
        try:
            with page.expect_response("**/search?*", timeout=5000) as found:
                page.fill("[data-testid=search]", text, timeout=2500)
            if found.value.status == 401:
                return
        except TimeoutError:
            # The page asks by itself, too, and then there is nothing to search with any more.
            if page.locator("[data-testid=sign-in]").count():
                return
    raise AssertionError("the key is still taken")
