"""What an admin has compared by a running daemon, and what health and metrics say of it."""

from contextlib import aclosing
from typing import Any

import pytest

from actors.audit import Wanted
from tests.web.conftest import NOW, Web, decoded
from tests.web.test_admin import admin

assert admin  # a fixture


async def verified(web: Web, **asked: Any) -> list[dict[str, Any]]:
    answer = await web.post("/api/admin/verify", json=asked)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    return [decoded(line) for line in (await answer.get_data()).splitlines()]


async def metrics(web: Web) -> dict[str, float]:
    text = await (await web.get("/metrics")).get_data(as_text=True)
    lines = (line.rpartition(" ") for line in text.splitlines() if line.startswith("candled_audit"))
    return {name: float(value) for name, _, value in lines if name != "candled_audit_failing"}


async def test_what_differs_is_streamed_named_by_health_until_it_is_repaired_and_counted(admin: Web) -> None:
    await admin.trades((NOW, 100), (NOW + 60, 101))
    lines = await verified(admin)
    assert [line["type"] for line in lines] == ["file", "ledger", "begin", "progress", "day", "memory", "end"]
    assert (lines[-1]["events"], lines[-1]["bars"], lines[-1]["differences"]) == (2, 8, 0)
    counted = {"candled_audits_total": 0, "candled_audited_bars_total": 8, "candled_audit_wrong": 0}
    assert await metrics(admin) == counted
    await admin.stack.database.write(lambda db: db.execute("UPDATE spot_3600_recent SET volume = 9"))
    lines = await verified(admin, **{"from": "2026-01-05", "to": "2026-01-06", "market": "gold"})
    (found,) = next(line["found"] for line in lines if line["type"] == "differences")
    assert (found["market"], found["resolution"], found["measure"]) == ("GOLD", "1h", "volume")
    answer = await admin.get("/api/charts/health")
    health = decoded(await answer.get_data())
    assert (answer.status_code, health["status"]) == (503, "degraded")
    why = "audit: spot 2026-01-05: 1 bars differ (1 of 1h); `candled verify --repair` makes them right"
    assert health["reasons"] == [why]
    assert (await metrics(admin))["candled_audit_wrong"] == 1
    assert (await verified(admin, repair=True))[-1]["repaired"] == 1
    assert (await admin.json("/api/charts/health"))["reasons"] == []
    assert (await metrics(admin))["candled_audit_wrong"] == 0


async def test_one_comparison_is_made_at_a_time(admin: Web) -> None:
    async with aclosing(admin.stack.audit.verify(Wanted())) as first:
        await anext(first)
        answer = await admin.post("/api/admin/verify", json={})
        assert answer.status_code == 409
        assert decoded(await answer.get_data())["error"] == "what is stored is being verified already; wait for that"


@pytest.mark.parametrize("asked", [{"from": "soon"}, {"days": 3}, {"repair": "yes"}, [], {"to": 5}])
async def test_a_question_that_cannot_be_understood_is_refused(admin: Web, asked: Any) -> None:
    assert (await admin.post("/api/admin/verify", json=asked)).status_code == 400


async def test_only_an_admin_may_ask_and_of_markets_that_there_are(web: Web) -> None:
    for scope, expected in ((None, 401), ("read", 403), ("ingest", 403), ("admin", 404)):
        web.headers = await web.key(scope) if scope else {}
        assert (await web.post("/api/admin/verify", json={"market": "NONE"})).status_code == expected
