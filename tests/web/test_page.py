"""The page in a real Chromium, on a real daemon."""

import os
import re
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest
import trio
from playwright.sync_api import Page

from tests import daemons
from tests.daemons import BIN, environment, free_port, running
from tests.test_end_to_end import a_key, markets, talking
from tests.web.browser import MARKS, Chromium, history, minutes, now

RESOLUTIONS = ("1S", "1", "5", "15", "60", "240", "1D", "1W", "1M")
PHONES = ((390, 844), (320, 568))  # CSS pixels

pytestmark = MARKS


async def test_an_event_that_is_posted_changes_the_last_bar_on_the_page(chromium: Chromium, tmp_path: Path) -> None:
    async with running("serve", home=tmp_path) as daemon:
        await markets(daemon, await a_key(tmp_path, "admin"), "GOLD", "TEA")
        with talking(daemon, await a_key(tmp_path, "ingest")) as http:
            await http.say(*minutes(100), now(2001.5, 1000))
            async with chromium.looking(daemon) as tab:
                await tab.sees("#chart[data-state=live][data-symbol=GOLD][data-resolution='1']")
                await tab.sees("[data-testid=connection][data-state=live]")
                before = await tab.attribute("data-last")
                assert before is not None
                assert msgspec.json.decode(before)["close"] == 2001.5
                seq = await http.say(now(2009.25, 1001))
                await tab.sees("#chart[data-last*='2009.25']")
                await tab.sees(f"#chart[data-position$='.{seq}']")
                await tab.sees("[data-testid=price]", "2,009.25")
                await tab.sees("[data-testid=legend]", "2,009.25")
                await tab.sees("[data-testid=market][data-symbol=GOLD]", "2,009.25")
                assert await tab.bars("GOLD", "1") == await history(http, "GOLD", "1")
                assert (await tab.do(lambda page: page.title())).startswith("2,009.25 GOLD")
                await tab.do(drawn)
                assert await tab.count("[data-testid=demo]") == 0


def drawn(page: Page) -> None:
    """Wait until there are candles of both colours on the chart."""
    script = """() => {
        const style = getComputedStyle(document.documentElement);
        const copy = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
        const counts = ["--up", "--down"].map((name) => {
            copy.fillStyle = style.getPropertyValue(name).trim();
            copy.fillRect(0, 0, 1, 1);
            return { wanted: [...copy.getImageData(0, 0, 1, 1).data], seen: 0 };
        });
        for (const canvas of document.querySelectorAll("#chart .plot canvas")) {
            if (canvas.width === 0 || canvas.height === 0) continue;
            copy.canvas.width = canvas.width;
            copy.canvas.height = canvas.height;
            copy.drawImage(canvas, 0, 0);
            const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
            for (let at = 0; at < data.length; at += 4) {
                for (const count of counts) {
                    if (count.wanted.every((part, n) => part === data[at + n])) count.seen += 1;
                }
            }
        }
        return counts.every(({ seen }) => seen > 100);
    }"""
    page.wait_for_function(script, polling=100)


async def test_after_kills_the_page_catches_up_by_itself_with_no_hole(
    chromium: Chromium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, hidden = free_port(), free_port()
    ports = [seen, hidden, seen]
    monkeypatch.setattr(daemons, "free_port", lambda: ports.pop(0))
    events = minutes(4000)
    late = [events.pop(-400), events.pop(-399)]
    corrected, retracted, unseen, moved = events[-200], events[-100:-98], events[100], events[-20]
    async with AsyncExitStack() as looking:
        async with running("serve", home=tmp_path) as daemon:
            key = await a_key(tmp_path, "admin")
            await markets(daemon, key)
            with talking(daemon, key) as http:
                await http.say(*events)
            tab = await looking.enter_async_context(chromium.looking(daemon))
            await tab.sees("#chart[data-state=live][data-bars='300']")
            await tab.scroll_back(lambda page: page.locator("#chart:not([data-bars='300'])").count() > 0)
            daemon.process.kill()
            await tab.sees("#chart[data-state=reconnecting]")
            await tab.sees("[data-testid=connection][data-state=reconnecting]")
            await tab.sees("[data-testid=connection-notice]")
        async with running("serve", home=tmp_path) as daemon:  # where the page does not look
            with talking(daemon, key) as http:
                await http.say(corrected._replace(price=2222.25), unseen._replace(price=1111.25))
                await http.say(*retracted, removed=True)
                await http.say(*late, moved._replace(at=moved.at + 60_000_000))
                await http.say(now(2020.25, 9001), now(2021.25, 9002))
            daemon.process.kill()
            await daemon.process.wait()
        async with running("serve", home=tmp_path) as daemon:
            with talking(daemon, key) as http:
                _, cursor = await http.history("GOLD", "1")
                await tab.sees(f"#chart[data-state=live][data-position='{cursor}']")
                await tab.sees("[data-testid=connection][data-state=live]")
                assert await tab.count("[data-testid=connection-notice]") == 0
                assert tab.complaints, "browsers tell of what they cannot reach"
                away = ("net::ERR_CONNECTION_", "status of 503")  # not there, or not ready yet
                assert [one for one in tab.complaints if not any(known in one for known in away)] == []
                tab.complaints.clear()

                whole = await history(http, "GOLD", "1")
                bars = await tab.bars("GOLD", "1")
                assert len(bars) >= 1299, "those that it had are still there"
                assert bars == whole[-len(bars) :]
                times = {bar[0] for bar in bars}
                assert late[0].at // 60_000_000 * 60 in times
                assert retracted[0].at // 60_000_000 * 60 not in times
                chart = [frame for frame in tab.frames if frame.get("resolution") == "1"]
                assert [frame["recovered"] for frame in chart if frame["type"] == "subscribed"] == [False, True]
                assert [frame["type"] for frame in chart].count("snapshot") == 1

                await http.say(now(2023.25, 9003))
                await tab.sees("#chart[data-last*='2023.25']")
                await tab.scroll_back(lambda page: page.get_attribute("#chart", "data-older") == "exhausted")
                assert await tab.bars("GOLD", "1") == await history(http, "GOLD", "1")
            await looking.aclose()


async def test_older_bars_come_while_scrolling_back_at_every_resolution(chromium: Chromium, tmp_path: Path) -> None:
    async with running("serve", home=tmp_path) as daemon:
        key = await a_key(tmp_path, "admin")
        await markets(daemon, key)
        with talking(daemon, key) as http:
            await http.say(*minutes(2600))
            async with chromium.looking(daemon) as tab:
                await tab.sees("#chart[data-state=live][data-bars='300']")
                whole = await history(http, "GOLD", "1")
                assert await tab.bars("GOLD", "1") == whole[-300:]

                await tab.do(dragged)
                await tab.sees("#chart:not([data-bars='300']):not([data-older=loading])")
                bars = await tab.bars("GOLD", "1")
                assert bars == whole[-len(bars) :]
                await tab.scroll_back(lambda page: page.get_attribute("#chart", "data-older") == "exhausted")
                assert await tab.bars("GOLD", "1") == whole
                assert await tab.attribute("data-first") == str(int(whole[0][0]))

                for resolution in RESOLUTIONS:
                    await tab.click(f"[data-testid=resolution][data-resolution='{resolution}']")
                    await tab.sees(f"#chart[data-state=live][data-resolution='{resolution}']")
                    assert await tab.do(lambda page: page.is_checked("[data-testid=resolution] input:checked"))
                    bars, whole = await tab.bars("GOLD", resolution), await history(http, "GOLD", resolution)
                    assert bars == whole[-len(bars) :], resolution
                    assert len(bars) >= min(300, len(whole)), resolution
                await tab.do(lambda page: page.go_back())
                await tab.sees("#chart[data-state=live][data-resolution='1W']")


def dragged(page: Page) -> None:
    """The chart by the mouse, three times over most of what is in view."""
    for _ in range(3):
        page.mouse.move(400, 400)
        page.mouse.down()
        page.mouse.move(1100, 400, steps=10)
        page.mouse.up()


async def test_the_search_finds_markets_and_says_when_there_are_none(chromium: Chromium, tmp_path: Path) -> None:
    async with running("serve", home=tmp_path) as daemon:
        key = await a_key(tmp_path, "admin")
        await markets(daemon, key, "GOLD", "SILVER", "TEA/CUP:1")
        with talking(daemon, key) as http:
            await http.say(now(10.5, 1, "GOLD"), now(20.5, 2, "SILVER"), now(30.5, 3, "TEA/CUP:1"))
        async with chromium.looking(daemon) as tab:

            async def type_(text: str) -> None:
                await tab.do(lambda page: page.fill("[data-testid=search]", text))

            await tab.sees("#chart[data-state=live][data-symbol=GOLD]")
            assert await tab.count("[data-testid=market]") == 3
            await tab.do(lambda page: page.press("body", "/"))
            await tab.sees("[data-testid=search]:focus")
            await type_("sil")
            await tab.sees("[data-testid=markets]:not(:has([data-symbol=GOLD])) [data-symbol=SILVER]")
            await tab.do(lambda page: page.press("[data-testid=search]", "Enter"))
            await tab.sees("#chart[data-state=live][data-symbol=SILVER][data-last*='20.5']")
            await type_("nothing like it")
            await tab.sees("[data-testid=no-matches]", "nothing like it")
            await tab.do(lambda page: page.press("[data-testid=search]", "Escape"))
            await tab.click("[data-testid=market][data-symbol='TEA/CUP:1']")
            await tab.sees("#chart[data-state=live][data-symbol='TEA/CUP:1'][data-last*='30.5']")
            await tab.do(lambda page: page.reload())
            await tab.sees("#chart[data-state=live][data-symbol='TEA/CUP:1'][data-last*='30.5']")


async def test_an_empty_daemon_shows_how_to_post_and_what_it_shows_works(chromium: Chromium, tmp_path: Path) -> None:
    async with running("serve", home=tmp_path) as daemon, chromium.looking(daemon) as tab:
        await tab.sees("[data-testid=no-markets]", "No markets yet")
        shown = await tab.do(lambda page: page.locator("[data-testid=no-markets] pre").all_inner_texts())
        path = f"{BIN}:{os.environ['PATH']}"
        done = await trio.run_process(
            ["bash", "-euc", "\n".join(shown)],
            env=environment(tmp_path, PATH=path),
            cwd=tmp_path,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
        assert b'"accepted":1' in done.stdout, (shown, done)
        await tab.sees("#chart[data-state=live][data-symbol=GOLD][data-bars='1'][data-last*='2001.5']")

        await markets(daemon, await a_key(tmp_path, "admin"), "TEA")
        await tab.do(lambda page: page.goto(f"{page.url.partition('?')[0]}?symbol=TEA"))
        await tab.sees("[data-testid=no-bars]", "TEA")


async def test_a_market_that_is_not_there_is_an_error_with_a_way_out(chromium: Chromium, tmp_path: Path) -> None:
    async with running("serve", home=tmp_path) as daemon:
        key = await a_key(tmp_path, "admin")
        await markets(daemon, key)
        with talking(daemon, key) as http:
            await http.say(now(10.5, 1))
            async with chromium.looking(daemon, "/?symbol=TEA") as tab:
                await tab.sees("#chart[data-state=error]")
                await tab.sees("[data-testid=chart-error]", "No market named 'TEA'")
                await markets(daemon, key, "TEA")
                await http.say(now(20.5, 1, "TEA"))
                await tab.click("[data-testid=chart-error] button")
                await tab.sees("#chart[data-state=live][data-symbol=TEA][data-last*='20.5']")
                assert await tab.count("[data-testid=chart-error]") == 0
                await tab.click("[data-testid=market][data-symbol=GOLD]")
                await tab.sees("#chart[data-state=live][data-symbol=GOLD][data-last*='10.5']")


async def test_the_demo_says_that_it_is_one_moves_and_fits_a_phone(chromium: Chromium, tmp_path: Path) -> None:
    async with running("demo", home=tmp_path) as daemon:
        async with chromium.looking(daemon) as tab:
            await tab.sees("[data-testid=demo]", "Demo")
            await tab.sees("#chart[data-state=live]")
            assert await tab.count("[data-testid=market]") == 3
            last = await tab.attribute("data-last")
            await tab.sees(f"#chart[data-last]:not([data-last={msgspec.json.encode(last).decode()}])")
        for width, height in PHONES:
            size = {"width": width, "height": height}
            async with chromium.looking(daemon, viewport=size, is_mobile=True, has_touch=True) as tab:
                await tab.sees("#chart[data-state=live]")
                assert await tab.do(overflowing) == []
                await tab.do(lambda page: page.tap("[data-testid=open-markets]"))
                await tab.sees("[data-testid=market][data-symbol=ETH]")
                assert await tab.do(overflowing) == []
                await tab.do(lambda page: page.tap("[data-testid=market][data-symbol=ETH]"))
                await tab.sees("#chart[data-state=live][data-symbol=ETH]")
                await tab.do(drawn)
                assert await tab.do(overflowing) == []


def overflowing(page: Page) -> list[str]:
    """What makes the page wider than the screen."""
    script = """() => {
        const width = document.documentElement.clientWidth;
        if (document.documentElement.scrollWidth <= width && innerWidth <= screen.width) return [];
        const wide = [...document.querySelectorAll("*")].filter((one) => one.getBoundingClientRect().right > width);
        return ["page", ...wide.map((one) => `${one.tagName}.${one.className}`)];
    }"""
    found: list[str] = page.evaluate(script)
    return found


async def test_the_theme_is_the_systems_until_one_is_chosen_which_stays(chromium: Chromium, tmp_path: Path) -> None:
    schemes = ("dark", "light")
    async with running("serve", home=tmp_path) as daemon:
        for system, other in (schemes, schemes[::-1]):
            async with chromium.looking(daemon, color_scheme=system) as tab:
                await tab.sees(f"html[data-theme={system}]")
                before = await tab.do(background)
                await tab.click("[data-testid=theme]")
                await tab.sees(f"html[data-theme={other}]")
                after = await tab.do(background)
                assert (before < after) == (system == "dark"), "the page itself is darker or lighter"
                await tab.do(lambda page: page.reload())
                await tab.sees(f"html[data-theme={other}]")
                assert await tab.do(background) == after
                await tab.click("[data-testid=theme]")
                await tab.sees(f"html[data-theme={system}]")


def background(page: Page) -> int:
    """How light it is."""
    colour = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    return sum(int(part) for part in re.findall(r"[0-9]+", colour)[:3])
