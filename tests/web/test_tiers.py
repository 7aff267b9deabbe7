"""Tiers of markets on the wires: assigned by what was traded, set by hand, and after a restart."""

from pathlib import Path
from typing import Any

from tests.web.conftest import NOW, Web, serving

BOUNDS = (1000.0, 100.0, 10.0)
DAY = 86400


async def told(web: Web, query: str = "") -> dict[str, Any]:
    found = await web.json(f"/api/lightweight/markets?{query}")
    return {market["symbol"]: market["tier"] for market in found["data"]}


async def test_a_tier_follows_the_turnover_and_stays_through_a_restart(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", tier_turnover=BOUNDS, market_seconds=0) as web:
        for symbol, tier in (("GOLD", None), ("TEA", None), ("OIL", "tier1"), ("SALT", None)):
            await web.market(symbol, tier=tier)
        await web.market("007:shop:NEAR_MINT:normal:English:USD", kind="card")
        await web.trades((NOW - DAY + 600, 100.0, 9), (NOW - 60, 100.0, 1))
        await web.trades((NOW - 60, 5.0, 2), symbol="TEA")
        await web.trades((NOW - 60, 5.0, 2000), symbol="OIL")
        await web.stack.writer.flushed(web.stack.engine.committed())
        expected = {"GOLD": "tier1", "TEA": "tier3", "OIL": "tier1", "SALT": "tier4"}
        assert {**await told(web), **expected} == await told(web)
        for tier in ("tier1", "tier2", "tier3", "tier4"):
            wanted = {symbol for symbol, known in (await told(web)).items() if known == tier}
            assert {*await told(web, f"tier={tier}"), *await told(web, f"tier={tier}&sort=symbol")} == wanted, tier
        assert set(await told(web, "search=gold&tier=tier1")) == {"GOLD"}
        # GOLD sold for 80 in the last hour of what counts: of tier 2, its 80 % are enough.
        await web.trades((NOW + 300, 80.0, 1))
        await web.stack.writer.flushed(web.stack.engine.committed())
        web.clock.now = NOW + 11 * 60
        assert (await told(web))["GOLD"] == "tier2", "180 is below 80 % of 1000"
        web.clock.now = NOW + DAY + 60
        assert (await told(web))["GOLD"] == "tier2", "80 is 80 % of 100"
        await web.stack.registry.patch("GOLD", {"tier": "tier4"})
        assert (await told(web))["GOLD"] == "tier4", "set by hand"
        await web.stack.registry.patch("GOLD", {"tier": None})
    async with serving(tmp_path / "data", NOW + DAY + 90, tier_turnover=BOUNDS) as web:
        assert (await told(web))["GOLD"] == "tier2", "a market that was not of tier 2 would not become so"
