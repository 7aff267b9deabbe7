from tests.web.conftest import NOW, Web

ELSEWHERE = {"Origin": "https://pro.openbb.co"}


async def test_the_widgets_of_openbb_name_addresses_that_answer(web: Web) -> None:
    await web.market("TEA")
    await web.trades((NOW - 60, 12, 5), symbol="TEA")
    await web.trades((NOW - 30, 100, 500), symbol="GOLD")
    answer = await web.get("/widgets.json", headers=ELSEWHERE)
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    told = await answer.get_json()
    assert {one["type"] for one in told.values()} == {"advanced_charting", "table"}
    chart, table = told["candled_chart"], told["candled_markets"]
    assert "s" not in await web.json(f"{chart['endpoint']}/symbols?symbol={chart['data']['defaultSymbol']}")
    assert (await web.json(f"{chart['endpoint']}/config"))["supports_search"]
    rows = (await web.json(table["endpoint"]))[table["data"]["dataKey"]]
    assert {row["market_symbol"] for row in rows} == {"GOLD", "TEA"}
    assert all(column["field"] in rows[0] for column in table["data"]["table"]["columnsDefs"])


async def test_the_loader_is_a_module_that_other_pages_may_import(web: Web) -> None:
    answer = await web.get("/api/klinecharts/loader.js", headers=ELSEWHERE)
    assert answer.headers["Content-Type"].startswith("application/javascript")
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert b"export function dataLoader" in await answer.get_data(as_text=False)
