"""The page without a mouse, without colours, and as an assistive tool hears it."""

from pathlib import Path

from playwright.sync_api import Page

from tests.daemons import running
from tests.test_end_to_end import a_key, markets, talking
from tests.web.browser import MARKS, Chromium, minutes, now

pytestmark = MARKS
SCHEMES = ("dark", "light")

# Every text that is in view, with its contrast against what is painted behind it (WCAG 2.2, 1.4.3).
CONTRASTS = """() => {
    const copy = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const channels = (colour) => {
        copy.clearRect(0, 0, 1, 1);
        copy.fillStyle = colour;
        copy.fillRect(0, 0, 1, 1);
        return [...copy.getImageData(0, 0, 1, 1).data].map((part) => part / 255);
    };
    const over = (top, below) => [0, 1, 2].map((n) => top[n] * top[3] + below[n] * (1 - top[3]));
    const behind = (element) => {
        if (!element) return [1, 1, 1];
        return over(channels(getComputedStyle(element).backgroundColor), behind(element.parentElement));
    };
    const light = (colour) => {
        const [r, g, b] = colour.map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const found = [];
    for (const element of document.body.querySelectorAll("*")) {
        const texts = [...element.childNodes].filter((node) => node.nodeType === 3);
        const text = texts.map((node) => node.data.trim()).join("");
        const field = element.matches("input:not([type=radio])") ? element.placeholder : "";
        if (!text && !field) continue;
        if (!element.checkVisibility({ visibilityProperty: true, opacityProperty: true })) continue;
        if (element.closest(".unseen, .plot, noscript, :disabled")) continue;
        const style = getComputedStyle(element, field ? "::placeholder" : null);
        const ground = behind(element);
        const [one, other] = [light(over(channels(style.color), ground)), light(ground)];
        found.push([text || field, (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05)]);
    }
    return found;
}"""

# What has no name, no role or the same id as another.
FAULTS = """() => {
    const faults = [];
    const name = (one) => one.ariaLabel || one.getAttribute("aria-labelledby") || one.title || one.textContent.trim()
        || [...(one.labels ?? [])].map((label) => label.textContent.trim()).join("");
    for (const one of document.querySelectorAll("button, a, input, [role], [tabindex]"))
        if (!name(one) && !["alert", "status"].includes(one.role)) faults.push(["no name", one.outerHTML]);
    for (const one of document.querySelectorAll("svg:not([aria-hidden=true]), img:not([alt])"))
        faults.push(["no alternative", one.outerHTML]);
    const ids = [...document.querySelectorAll("[id]")].map((one) => one.id);
    faults.push(...ids.filter((id, at) => ids.indexOf(id) !== at).map((id) => ["id twice", id]));
    for (const attribute of ["aria-controls", "aria-describedby", "aria-labelledby", "for"])
        for (const one of document.querySelectorAll(`[${attribute}]`))
            for (const id of one.getAttribute(attribute).split(" "))
                if (!ids.includes(id)) faults.push([attribute, id]);
    for (const mark of ["main", "nav", "header", "h1", "html[lang]", "title"])
        if (document.querySelectorAll(mark).length !== 1) faults.push(["expected one", mark]);
    return faults;
}"""
FOCUS = """() => {
    const one = document.activeElement;
    let seen = one;
    if (one.matches("[type=radio]")) seen = one.nextElementSibling;
    if (one.matches("[type=search]")) seen = one.parentElement;
    const style = getComputedStyle(seen);
    const ring = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
    return [one.getAttribute("data-testid") || one.className || one.value || one.tagName, ring];
}"""


def dull(page: Page) -> list[tuple[str, float]]:
    contrasts: list[tuple[str, float]] = page.evaluate(CONTRASTS)
    assert len(contrasts) > 5
    return [(text, contrast) for text, contrast in contrasts if contrast < 4.5]


async def test_everything_can_be_read_and_has_a_name_in_both_schemes(chromium: Chromium, tmp_path: Path) -> None:
    async with running("demo", home=tmp_path) as daemon:
        await markets(daemon, "", "TEA")
        places = {"GOLD": "[data-state=live] [data-testid=legend]", "TEA": "[data-testid=no-bars]"}
        for symbol, shown in {**places, "NOPE": "[data-testid=elsewhere]"}.items():
            for scheme in SCHEMES:
                async with chromium.looking(daemon, f"/?symbol={symbol}", color_scheme=scheme) as tab:
                    await tab.sees(shown)
                    await tab.sees("[data-testid=market][data-symbol=GOLD] .market-price")
                    assert await tab.do(dull) == []
                    assert await tab.do(lambda page: page.evaluate(FAULTS)) == []


async def test_the_sign_in_can_be_read_and_has_names(chromium: Chromium, tmp_path: Path) -> None:
    async with running("serve", "--auth", "token", home=tmp_path) as daemon:
        for scheme in SCHEMES:
            async with chromium.looking(daemon, color_scheme=scheme) as tab:
                await tab.sees("[data-testid=sign-in]")
                await tab.do(lambda page: page.fill("[data-testid=key]", "nobody"))
                await tab.do(lambda page: page.press("[data-testid=key]", "Enter"))
                await tab.sees("[data-testid=key-error]", "unknown")
                assert await tab.do(dull) == []
                faults = await tab.do(lambda page: page.evaluate(FAULTS))
                assert faults == [["expected one", "h1"]], "there is no market yet"
                tab.complaints.clear()


async def test_the_keyboard_reaches_everything_and_shows_where_it_is(chromium: Chromium, tmp_path: Path) -> None:
    async with running("serve", home=tmp_path) as daemon:
        key = await a_key(tmp_path, "admin")
        await markets(daemon, key, "GOLD", "SILVER", "TEA")
        with talking(daemon, key) as http:
            await http.say(*minutes(50), now(20.5, 2, "SILVER"), now(30.5, 3, "TEA"))
        async with chromium.looking(daemon) as tab:
            await tab.sees("#chart[data-state=live][data-symbol=GOLD]")

            async def press(*keys: str) -> None:
                for one in keys:
                    await tab.do(lambda page, one=one: page.keyboard.press(one))  # type: ignore[misc] # a default pins it

            await press("/")
            await tab.sees("[data-testid=search]:focus")
            await press("ArrowDown", "ArrowDown", "ArrowDown", "ArrowUp", "Enter")
            await tab.sees("#chart[data-state=live][data-symbol=SILVER]")
            for digit, resolution in enumerate(("1S", "1", "5", "15", "60", "240", "1D", "1W", "1M"), 1):
                await press(str(digit))
                await tab.sees(f"#chart[data-state=live][data-resolution='{resolution}']")
            await press("/", "2")
            assert await tab.do(lambda page: page.input_value("[data-testid=search]")) == "2"
            await tab.sees("#chart[data-resolution='1M']")
            await press("Escape")
            await tab.do(lambda page: page.evaluate("() => document.activeElement.blur()"))
            seen = []
            for _ in range(14):
                await press("Tab")
                seen.append(await tab.do(lambda page: page.evaluate(FOCUS)))
            names = [name for name, _ in seen]
            assert {"skip", "theme", "search", "market", "1M", "plot", "attribution"} <= set(names)
            assert [name for name, ring in seen if not ring and name != "BODY"] == []


async def test_direction_is_told_without_colours(chromium: Chromium, tmp_path: Path) -> None:
    async with running("serve", home=tmp_path) as daemon:
        key = await a_key(tmp_path, "admin")
        await markets(daemon, key, "UP", "DOWN")
        with talking(daemon, key) as http:
            for symbol, prices in (("UP", (10, 11)), ("DOWN", (11, 10))):
                await http.say(*(now(price, number, symbol) for number, price in enumerate(prices)))
        for symbol, sign in (("UP", "▲ +"), ("DOWN", "▼ −")):
            async with chromium.looking(daemon, f"/?symbol={symbol}") as tab:
                for place in ("change", "legend"):
                    await tab.sees(f"[data-testid={place}]", sign)
                await tab.sees(f"[data-testid=market][data-symbol={symbol}]", sign)
                assert await tab.do(lambda page, up=symbol == "UP": inside(page, up))  # type: ignore[misc] # a default pins it


def inside(page: Page, up: bool) -> bool:
    """Whether the only candle is full of its colour, or only drawn around where it is up."""
    script = """(up) => {
        const style = getComputedStyle(document.documentElement);
        const copy = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
        copy.fillStyle = style.getPropertyValue(up ? "--up" : "--down").trim();
        copy.fillRect(0, 0, 1, 1);
        const wanted = [...copy.getImageData(0, 0, 1, 1).data];
        let widest = 0;
        for (const canvas of document.querySelectorAll("#chart .plot canvas")) {
            if (canvas.width < 400 || canvas.height < 200) continue;
            copy.canvas.width = canvas.width;
            copy.canvas.height = canvas.height;
            copy.drawImage(canvas, 0, 0);
            const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
            for (let y = 0; y < canvas.height; y += 1) {
                let run = 0;
                for (let x = 0; x < canvas.width; x += 1) {
                    const at = 4 * (y * canvas.width + x);
                    run = wanted.every((part, n) => part === data[at + n]) ? run + 1 : 0;
                    if (run > 3) widest += 1;
                }
            }
        }
        return up ? widest > 0 && widest < 200 : widest > 500;
    }"""
    page.wait_for_function(script, arg=up, polling=100)
    return True


async def test_who_wants_no_motion_sees_none(chromium: Chromium, tmp_path: Path) -> None:
    script = "() => document.getAnimations().length"
    async with running("serve", home=tmp_path) as daemon:
        await markets(daemon, await a_key(tmp_path, "admin"))
        for motion, moving in (("no-preference", True), ("reduce", False)):
            async with chromium.looking(daemon, reduced_motion=motion) as tab:
                await tab.sees("[data-testid=no-bars]")
                await tab.do(lambda page: page.route_web_socket("**/ws", lambda _: None))  # connects to nowhere
                await tab.do(lambda page: page.reload())
                await tab.sees("[data-testid=chart-loading]")
                assert (await tab.do(lambda page: page.evaluate(script)) > 0) == moving
