"""What the page says of markets, times and states other than the usual one."""

import os
from pathlib import Path

import msgspec
import trio
from playwright.sync_api import Page, Route

from tests.daemons import BIN, environment, running
from tests.test_end_to_end import Event, a_key, markets, talking
from tests.web.browser import MARKS, Chromium, now

pytestmark = MARKS

NEW_YEAR = 1_767_225_600  # 2026-01-01 00:00 UTC


async def run(home: Path, lines: list[str]) -> bytes:
    """Shell commands as they are shown, by somebody with a shell elsewhere and nothing else."""
    done = await trio.run_process(
        ["bash", "-euc", "\n".join(lines)],
        env=environment(home, PATH=os.environ["PATH"]),
        cwd="/",
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    return done.stdout or done.stderr


def commands(page: Page) -> list[str]:
    return page.locator("#chart pre, [data-testid=no-markets] pre").all_inner_texts()


async def test_the_first_event_is_posted_by_the_very_commands_that_are_shown(
    chromium: Chromium, tmp_path: Path
) -> None:
    data = tmp_path / "here, 'there'"
    async with running("serve", "--data", str(data), home=tmp_path) as daemon:
        async with chromium.looking(daemon) as tab:
            await tab.sees("[data-testid=no-markets]")
            await tab.sees("[data-testid=no-markets] pre", "/candled token")
            shown = await tab.do(commands)
            assert len(shown) == 2
            assert str(BIN) in shown[0]
            assert b'"accepted":1' in await run(tmp_path, shown)
            await tab.sees("#chart[data-state=live][data-symbol=GOLD][data-bars='1']")
        made = await trio.run_process(
            [BIN / "candled", "token", "create", "--scope", "admin", "--data", data], capture_stdout=True
        )
        await markets(daemon, made.stdout.decode().strip(), "TEA")
        async with chromium.looking(daemon, "/?symbol=TEA") as tab:
            await tab.sees("[data-testid=no-bars]")
            await tab.sees("#chart pre", "/candled token")  # which the daemon has told by then
            shown = await tab.do(commands)
            assert "--scope ingest" in shown[0]
            assert b'"accepted":1' in await run(tmp_path, shown)
            await tab.sees("#chart[data-state=live][data-symbol=TEA][data-bars='1']")


async def test_in_the_demo_the_first_event_needs_no_key(chromium: Chromium, tmp_path: Path) -> None:
    async with running("demo", home=tmp_path) as daemon:
        await markets(daemon, "", "TEA")
        async with chromium.looking(daemon, "/?symbol=TEA") as tab:
            await tab.sees("[data-testid=no-bars]")
            await tab.sees("#chart:not(:has-text('token create')) pre")  # by then the page knows where it is
            shown = await tab.do(commands)
            assert len(shown) == 1
            assert "KEY" not in shown[0]
            assert b'"accepted":1' in await run(tmp_path, shown)
            await tab.sees("#chart[data-state=live][data-symbol=TEA][data-bars='1']")


async def test_a_market_that_is_not_there_leaves_a_way_to_one_that_is(chromium: Chromium, tmp_path: Path) -> None:
    async with running("serve", home=tmp_path) as daemon:
        key = await a_key(tmp_path, "admin")
        await markets(daemon, key)
        with talking(daemon, key) as http:
            await http.say(now(10.5, 1))
        async with chromium.looking(daemon, "/?symbol=NOPE&resolution=7") as tab:
            await tab.sees("[data-testid=chart-error]", "No market named 'NOPE'")
            await tab.click("[data-testid=elsewhere]")
            await tab.sees("#chart[data-state=live][data-symbol=GOLD][data-resolution='1'][data-last*='10.5']")


async def test_what_is_shown_without_a_connection_is_marked_as_old(chromium: Chromium, tmp_path: Path) -> None:
    async with running("serve", home=tmp_path) as daemon:
        key = await a_key(tmp_path, "admin")
        await markets(daemon, key)
        with talking(daemon, key) as http:
            await http.say(now(10.5, 1))
        async with chromium.looking(daemon) as tab:
            await tab.sees("#chart[data-state=live]")
            assert await tab.count("[data-stale]") == 0
            daemon.process.kill()
            await tab.sees("[data-stale] #chart[data-last*='10.5']")
            await tab.sees("[data-testid=connection-notice]", "last known state")
            await tab.sees("[data-testid=connection-wait]", "Next attempt in")
            await tab.sees("[data-testid=connection][data-state=offline]")
            tab.complaints.clear()


async def test_a_list_that_cannot_be_had_says_so_until_it_can(chromium: Chromium, tmp_path: Path) -> None:
    async with running("serve", home=tmp_path) as daemon:
        await markets(daemon, await a_key(tmp_path, "admin"))

        def busy(route: Route) -> None:
            refused = msgspec.json.encode({"s": "error", "errmsg": "the registry is busy"})
            route.fulfill(status=503, headers={"Retry-After": "2"}, body=refused)

        async with chromium.looking(daemon) as tab:
            await tab.sees("[data-testid=no-bars]")
            await tab.do(lambda page: page.route("**/search?*", busy, times=1))
            await tab.do(lambda page: page.goto(page.url.partition("?")[0]))
            await tab.sees("[role=alert]", "The registry is busy. Trying again in")
            await tab.sees("[data-testid=market][data-symbol=GOLD]")
            assert await tab.count("[role=alert]") == 0
            assert len(tab.complaints) == 1
            tab.complaints.clear()


async def test_until_the_bars_are_there_their_shape_is(chromium: Chromium, tmp_path: Path) -> None:
    async with running("serve", home=tmp_path) as daemon:
        await markets(daemon, await a_key(tmp_path, "admin"))
        async with chromium.looking(daemon) as tab:
            await tab.sees("[data-testid=no-bars]")
            await tab.do(lambda page: page.route_web_socket("**/ws", lambda _: None))  # connects to nowhere
            await tab.do(lambda page: page.reload())
            await tab.sees("#chart[data-state=loading] [data-testid=chart-loading]")


ZONES = [
    ("America/New_York", "Wed, 31 Dec 2025 19:00 UTC−5", "UTC−5"),
    ("Australia/Darwin", "Thu, 1 Jan 2026 09:30 UTC+9:30", "UTC+9:30"),
]


async def test_times_are_the_viewers_and_name_their_zone_but_days_are_days(chromium: Chromium, tmp_path: Path) -> None:
    async with running("serve", home=tmp_path) as daemon:
        key = await a_key(tmp_path, "admin")
        await markets(daemon, key)
        with talking(daemon, key) as http:
            await http.say(Event("GOLD", NEW_YEAR * 1_000_000, 10.5, 1))
        for zone, time, short in ZONES:
            async with chromium.looking(daemon, timezone_id=zone) as tab:
                await tab.sees("[data-testid=legend]", time)
                assert await tab.text("[data-testid=zone]") == short
                assert zone in (await tab.attribute("title", "[data-testid=zone]") or "")
                await tab.do(lambda page: page.press("body", "9"))
                await tab.sees("#chart[data-resolution='1M'] [data-testid=legend]", "Thu, 1 Jan 2026")
                assert await tab.text("[data-testid=zone]") == "UTC"


async def test_prices_are_as_fine_as_the_market_says_and_volumes_short(chromium: Chromium, tmp_path: Path) -> None:
    async with running("serve", home=tmp_path) as daemon:
        key = await a_key(tmp_path, "admin")
        with talking(daemon, key) as http:
            body = msgspec.json.encode({"market_symbol": "GOLD", "kind": "spot", "pricescale": 1000})
            assert (await http.ask("POST", "/api/markets", body, Content_Type="application/json")).status == 201
            trades = [(2000.5, 1), (2002.25, 1_200_000), (1999.0, 34_567)]
            wire = [
                {"market_symbol": "GOLD", "timestamp": (NEW_YEAR + n) * 1000, "price": price, "size": size}
                for n, (price, size) in enumerate([(1990, 1), *trades][1:], 60)
            ]
            wire.append({"market_symbol": "GOLD", "timestamp": NEW_YEAR * 1000, "price": 1990, "size": 1})
            body = msgspec.json.encode(wire)
            assert (await http.ask("POST", "/api/ingest/events", body, Content_Type="application/json")).status == 200
        async with chromium.looking(daemon, timezone_id="UTC") as tab:
            await tab.sees("[data-testid=price]", "1,999.000")
            await tab.sees("[data-testid=market]", "1,999.000")
            told = " ".join((await tab.text("[data-testid=legend]")).split())
            bar = "O 2,000.500 H 2,002.250 L 1,999.000 C 1,999.000"
            assert told.startswith(f"Thu, 1 Jan 2026 00:01 UTC {bar} ▲ +9.000 (+0.45%) Vol 1.23M"), told
            await tab.do(under_the_cursor)
            await tab.sees(f"[data-testid=legend][data-time='{NEW_YEAR}']", "1,990.000")


def under_the_cursor(page: Page) -> None:
    """Point at the first of two bars, which stand in the middle."""
    box = page.locator(".plot").bounding_box()
    assert box is not None
    for share in range(20, 60):
        page.mouse.move(box["x"] + box["width"] * share / 100, box["y"] + box["height"] / 2)
        if page.get_attribute("[data-testid=legend]", "data-time") == str(NEW_YEAR):
            return
    raise AssertionError("no such bar was found")
