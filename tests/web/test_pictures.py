"""Pictures of charts: what is in them, and what is refused."""

import io
import re
from collections.abc import AsyncIterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from tests.web.conftest import NOW, Web, serving

HOSTILE = 'A<script>"$x^2$&'
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    async with serving(tmp_path / "data") as running:
        await running.market("GOLD")
        await running.market("BTC/USD")
        await running.market(HOSTILE)
        for symbol in ("GOLD", "BTC/USD", HOSTILE):
            trades = [(NOW - 30 * n, 100 + n * n % 7) for n in range(400)]
            await running.trades(*trades, symbol=symbol)
        yield running


async def svg(web: Web, path: str) -> str:
    answer = await web.get(f"/api/charts/{path}")
    assert answer.status_code == 200, await answer.get_data()
    assert answer.headers["Content-Type"].startswith("image/svg+xml")
    text = await answer.get_data(as_text=True)
    assert ElementTree.fromstring(text).tag == f"{SVG}svg"
    return str(text)


async def test_a_png_is_as_large_as_it_was_asked_to_be_and_shows_the_bars(web: Web) -> None:
    answer = await web.get(
        "/api/charts/GOLD.png?resolution=1&bars=20&width=640&height=335&theme=dark&indicators=sma:10"
    )
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "image/png")
    image = Image.open(io.BytesIO(await answer.get_data(as_text=False))).convert("RGB")
    assert image.size == (640, 335)
    colors = {color for _, color in image.getcolors(1 << 20) or []}
    assert {(0x12, 0x16, 0x1C), (0xEF, 0x53, 0x50), (0x26, 0xA1, 0x7B), (0x58, 0xA6, 0xFF)} <= colors


async def test_an_svg_holds_a_body_for_each_bar(web: Web) -> None:
    counts = []
    for bars in (20, 50):
        text = await svg(web, f"gold.svg?resolution=1&bars={bars}")
        counts.append(sum(text.count(f'id="PatchCollection_{n}"') for n in (1, 2)))
        bodies = ElementTree.fromstring(text).findall(f".//{SVG}g[@id='PatchCollection_1']/{SVG}path")
        falling = ElementTree.fromstring(text).findall(f".//{SVG}g[@id='PatchCollection_2']/{SVG}path")
        assert len(bodies) + len(falling) == bars
    assert counts == [2, 2]


async def test_any_name_an_expression_and_every_indicator_can_be_drawn(web: Web) -> None:
    asked = "resolution=1&bars=40&indicators=sma,bb,rsi,macd,atr,vwap"
    for path in ("BTC/USD.svg", "GOLD/BTC/USD.svg", "A%3Cscript%3E%22$x%5E2$&.svg"):
        text = await svg(web, f"{path}?{asked}")
        assert "<script" not in text


def points(group: ElementTree.Element) -> list[tuple[float, float]]:
    """All points of the lines in a group, in the picture's coordinates."""
    paths = [one.get("d", "") for one in group.iterfind(f"./{SVG}g/{SVG}path")]
    numbers = [float(n) for path in paths for n in re.findall(r"-?[0-9.]+", path)]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def inside(axes: ElementTree.Element) -> tuple[float, float]:
    """Where a pane begins and ends, from the top."""
    ground = next(one for one in axes if one.get("id", "").startswith("patch_"))
    ends = [float(y) for _, y in re.findall(r"[ML] (\S+) (\S+)", str(ground[0].get("d")))]
    return min(ends), max(ends)


def by_id(root: ElementTree.Element, name: str) -> ElementTree.Element:
    return next(one for one in root.iter(f"{SVG}g") if one.get("id") == name)


async def test_every_line_lies_in_its_pane_and_the_legend_above_it(web: Web) -> None:
    text = await svg(web, "GOLD.svg?resolution=1&bars=40&indicators=bb:5:4,rsi,vwap")
    axes = by_id(ElementTree.fromstring(text), "axes_1")
    top, bottom = inside(axes)
    lines = [one for one in axes if one.get("id", "").startswith("line2d_")]
    drawn = [y for one in lines for path in one.iterfind(f"./{SVG}path") for y in heights(path)]
    assert len(drawn) > 4 * 40
    assert top <= min(drawn) < max(drawn) <= bottom
    entries = points(by_id(axes, "legend_1"))
    assert entries
    assert max(y for _, y in entries) < top


def heights(path: ElementTree.Element) -> list[float]:
    return [float(y) for _, y in re.findall(r"[ML] (\S+) (\S+)", path.get("d", ""))]


@pytest.mark.parametrize(("scale", "power"), [("*1e90", "1e92"), ("*1e-90", "1e−88")])
async def test_prices_of_very_many_digits_fit_beside_the_plot(web: Web, scale: str, power: str) -> None:
    text = await svg(web, f"GOLD{scale}.svg?resolution=1&bars=40")
    said = re.findall(r"<!-- (.*?) -->", text)
    assert power in said
    assert not [label for label in said if re.search("[0-9.]{20}", label)]


async def test_ten_indicators_look_different(web: Web) -> None:
    asked = ",".join(["bb", "vwap", "ema", *(f"sma:{n}" for n in range(2, 9))])
    for theme in ("light", "dark"):
        text = await svg(web, f"GOLD.svg?resolution=1&bars=40&theme={theme}&height=700&indicators={asked}")
        legend = by_id(ElementTree.fromstring(text), "legend_1")
        styles = [path.get("style") for path in legend.iterfind(f"./{SVG}g/{SVG}path")]
        assert len(styles) == len(set(styles)) == 10


async def test_a_legend_names_what_there_is(web: Web) -> None:
    asked = "resolution=1&bars=40&indicators=sma:20,bb,vwap"
    alone, two = [await svg(web, f"{path}.svg?{asked}") for path in ("GOLD", "GOLD/BTC/USD")]
    said = [re.findall(r"<!-- ((?:sma|bb|vwap).*?) -->", text) for text in (alone, two)]
    assert said == [["sma 20", "bb 20 2", "vwap"], ["sma 20", "bb 20 2"]]  # the volume of two is not known


async def test_a_low_picture_has_no_legend_rather_than_no_room(web: Web) -> None:
    asked = "resolution=1&bars=40&width=200&height=150&indicators=sma:2,sma:3,sma:4,sma:5,sma:6,sma:7,sma:8"
    assert "legend_1" not in await svg(web, f"GOLD.svg?{asked}")


@pytest.mark.parametrize(
    ("scale", "price", "path", "said"),
    [
        ({"pricescale": 100}, 1234.5678, "X", "1,234.57"),
        ({"pricescale": 1}, 1234.5678, "X", "1,235"),
        ({"pricescale": 10_000}, 1234.5, "X", "1,234.5000"),
        ({}, 1234.5678, "X", "1,234.57"),
        ({}, 43717.9, "X", "43,717.90"),
        ({}, 0.000012345678, "X", "0.0000123457"),
        ({}, 1e-18, "X", "1e-18"),
        ({"pricescale": 100}, 17.6500534932, "X/3", "5.88335"),
        ({"pricescale": 100}, 3, "1/X", "0.333333"),
        ({"pricescale": 100}, 3, "X-3", "0.00"),
        ({"pricescale": 100}, 3, "X*1e30", "3e+30"),
    ],
)
async def test_a_title_has_the_digits_that_count(
    web: Web, scale: dict[str, int], price: float, path: str, said: str
) -> None:
    await web.market("X", **scale)
    await web.trades((NOW, price), symbol="X")
    text = await svg(web, f"{path}.svg?resolution=1")
    assert f"· 1m · {said} (" in text or f"· 1m · {said} --" in text


async def test_a_picture_is_the_same_until_a_bar_changes(web: Web) -> None:
    web.clock.now += 3600
    path = "/api/charts/GOLD.svg?resolution=1&bars=30"
    first = await web.get(path)
    again = await web.get(path)
    assert await first.get_data() == await again.get_data()
    assert (await web.get(path, headers={"If-None-Match": first.headers["ETag"]})).status_code == 304
    await web.trades((NOW - 300, 150))
    after = await web.get(path, headers={"If-None-Match": first.headers["ETag"]})
    assert after.status_code == 200
    assert await after.get_data() != await first.get_data()


async def test_nothing_to_draw_is_said_in_the_picture(web: Web) -> None:
    await web.market("EMPTY")
    assert (await web.get("/api/charts/EMPTY.png")).status_code == 200
    await svg(web, "EMPTY.svg?range=7d&indicators=rsi")
    await svg(web, "GOLD.svg?range=all")


@pytest.mark.parametrize(
    ("path", "status", "error"),
    [
        ("GLOD.svg", 404, "symbol: no market named 'GLOD'"),
        ("GOLD.gif", 404, ""),
        ("GOLD.png?width=9000", 400, "width"),
        ("GOLD.png?theme=pink", 400, "theme"),
        ("GOLD.png?range=8d", 400, "range: expected one of 1h, 6h, 1d, 7d, 30d, 90d, 1y, all, got '8d'"),
        ("GOLD.png?bars=501", 400, "bars"),
        ("GOLD.png?resolution=1m2", 400, "resolution"),
        ("GOLD.png?indicators=x", 400, "indicators"),
    ],
)
async def test_what_is_wrong_is_named(web: Web, path: str, status: int, error: str) -> None:
    answer = await web.get(f"/api/charts/{path}")
    assert answer.status_code == status
    assert error in (await answer.get_json())["error"]
