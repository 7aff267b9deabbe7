"""What further clients read to find candled: KLineChart's data loader, and the widgets of OpenBB Workspace."""

from pathlib import Path
from typing import Any

from quart import Blueprint, Response

from storage.ordering import ALL
from web.context import NO_STORE, REVALIDATE, day, reply, services
from web.listing import LIVE

others = Blueprint("others", __name__)

LOADER = (Path(__file__).parent / "klinecharts.js").read_bytes()
SCRIPT = "application/javascript; charset=utf-8"
EVERY = 10_000  # ms between two looks at what moves
COLUMNS = ("market_symbol", "name", *LIVE[:-1])


@others.get("/api/klinecharts/loader.js")
async def loader() -> Response:
    """A data loader for KLineChart 10, as a module."""
    return reply(LOADER, headers={"Cache-Control": REVALIDATE}, kind=SCRIPT)


@others.get("/widgets.json")
async def widgets() -> Response:
    """The widgets that OpenBB Workspace finds at the address of a backend: a chart, and the list of markets."""
    today = await day().fresh()
    busiest = await services().registry.ordered("volume", ALL, 0, 1, today.busy)
    chart: dict[str, Any] = {"updateFrequency": EVERY}
    if busiest:
        chart["defaultSymbol"] = busiest[0].market_symbol
    columns = [{"field": name, "headerName": name.replace("_", " ").capitalize()} for name in COLUMNS]
    told = {
        "candled_chart": {
            "name": "Candles",
            "description": "Live candles of every market, as candled's datafeed has them",
            "category": "Markets",
            "type": "advanced_charting",
            "endpoint": "/api/tradingview",
            "gridData": {"w": 40, "h": 20},
            "data": chart,
        },
        "candled_markets": {
            "name": "Markets",
            "description": "Active markets and what they trade at, the busiest first",
            "category": "Markets",
            "type": "table",
            "endpoint": "/api/markets?sort=volume",
            "refetchInterval": EVERY,
            "gridData": {"w": 40, "h": 12},
            "data": {"dataKey": "markets", "table": {"columnsDefs": columns}},
        },
    }
    return reply(told, headers={"Cache-Control": NO_STORE})
