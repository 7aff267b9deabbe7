"""The browser client as one module, as the documentation shows it, in a real Chromium."""

import re
from pathlib import Path

import msgspec

from tests.daemons import ROOT, running
from tests.test_end_to_end import a_key, markets, talking
from tests.web.browser import MARKS, Chromium, history, minutes, now

pytestmark = MARKS
DOCUMENT = (ROOT / "docs/streams.md").read_text("utf-8")

# A series of candles that is as strict as the library's.
SERIES = """
globalThis.rows = [];
globalThis.candles = {
    setData(all) {
        rows = all.map((row) => ({ ...row }));
        if (rows.some((row, i) => i && row.time <= rows[i - 1].time)) throw new Error("not ascending");
    },
    update(row, historical = false) {
        const last = rows.at(-1);
        const at = rows.findIndex(({ time }) => time === row.time);
        if (historical && at < 0) throw new Error("no such bar");
        if (!historical && last && row.time < last.time) throw new Error("cannot update oldest data");
        if (at < 0) rows.push(row); else rows[at] = row;
    },
};
"""

SHOWN = """() => new Promise((done) => {
    const look = () => (rows.at(-1)?.close === 7.5 ? done() : setTimeout(look, 20));
    look();
})"""


def example(port: int) -> str:
    """The page's script in the documentation, as a browser's console runs it."""
    (block,) = [found for found in re.findall(r"^```js\n(.*?)^```$", DOCUMENT, re.M | re.S) if "attach(" in found]
    block = block.replace("localhost:8000", f"127.0.0.1:{port}")
    block = re.sub(r'import (\{.*?\}) from (".*?");', r"const \1 = await import(\2);", block)
    return f"async () => {{ {SERIES} {block} globalThis.gold = gold; }}"


async def test_the_documented_page_shows_the_bars_and_keeps_them_right(chromium: Chromium, tmp_path: Path) -> None:
    async with running("serve", home=tmp_path) as daemon:
        await markets(daemon, await a_key(tmp_path, "admin"), "GOLD")
        with talking(daemon, await a_key(tmp_path, "ingest")) as http:
            await http.say(*minutes(50))
            async with chromium.looking(daemon) as tab:
                await tab.do(lambda page: page.evaluate(example(daemon.port)))

                await http.say(now(7.5, 1000))
                await tab.do(lambda page: page.evaluate(SHOWN))
                rows = await tab.do(lambda page: page.evaluate("JSON.stringify(rows)"))
                names = ("time", "open", "high", "low", "close", "volume")
                told = [tuple(row[name] for name in names) for row in msgspec.json.decode(rows)]
                assert told == [bar[:6] for bar in await history(http, "GOLD", "1")]
                header = """async () => (await fetch("/client.js")).headers.get("access-control-allow-origin")"""
                assert await tab.do(lambda page: page.evaluate(header)) == "*"
                await tab.do(lambda page: page.evaluate("gold.stop()"))
                assert await tab.do(lambda page: page.evaluate("gold.client.connection.state.phase")) == "connecting"
