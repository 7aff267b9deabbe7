"""pusher-js in a real browser, on a page of another origin, which a key of candled's signs into private channels."""

import pytest

from tests.pusher.conftest import APP, ROOT, Ours, trade
from tests.web.browser import MARKS, Chromium
from tests.web.test_pages_of_docs import served

LIBRARY = ROOT / "web" / "ui" / "node_modules" / "pusher-js" / "dist" / "web" / "pusher.min.js"
browser, with_chromium = MARKS
PAGE = """<!doctype html><title>prices</title><link rel="icon" href="data:,"><script src="/pusher.js"></script><script>
const pusher = new Pusher("KEY", {
  cluster: "local", wsHost: "127.0.0.1", wsPort: PORT, wssPort: PORT, forceTLS: false, enabledTransports: ["ws", "wss"],
  channelAuthorization: { endpoint: "http://127.0.0.1:PORT/pusher/auth", headers: { Authorization: "Bearer BEARER" } },
});
const told = {};
for (const name of ["cache-market-LINEN", "private-cache-market-LINEN"])
  pusher.subscribe(name).bind("price-update", ({ close }) => { told[name] = close; });
</script>"""


@browser
@with_chromium
@pytest.mark.skipif(not LIBRARY.is_file(), reason=f"no {LIBRARY}: make setup")
async def test_a_page_elsewhere_follows_a_market(ours: Ours, chromium: Chromium) -> None:
    await trade(ours, "LINEN", 4.5)
    html = PAGE.replace("KEY", APP["key"]).replace("PORT", str(ours.port)).replace("BEARER", ours.read)
    with served(html, {"/pusher.js": LIBRARY}) as address:
        async with chromium.looking(ours.daemon) as tab:
            await tab.do(lambda page: page.goto(address))

            async def shows(close: float) -> None:
                both = f'told["cache-market-LINEN"] === {close} && told["private-cache-market-LINEN"] === {close}'
                await tab.do(lambda page: page.wait_for_function(f"() => {both}"))

            await shows(4.5)
            await trade(ours, "LINEN", 4.75)
            await shows(4.75)
