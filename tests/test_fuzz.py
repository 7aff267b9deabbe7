"""Whatever the API reference allows, and much that it does not, is done to a real daemon: nothing of that may fail it.

CANDLED_SOAK_MINUTES=60 goes on for so long, with every boundary value, from another seed each time.
"""

import re
import secrets
import sys
import time
from os import environ
from pathlib import Path
from typing import Any

import msgspec
import trio

from tests.daemons import BIN, Daemon, running
from tests.test_end_to_end import JSON, a_key, talking

MINUTES = float(environ.get("CANDLED_SOAK_MINUTES", "0"))
SEED = secrets.randbelow(2**32) if MINUTES else 1
PHASES = "examples,coverage,fuzzing" if MINUTES else "examples,fuzzing"
EACH = 200 if MINUTES else 1  # requests of each operation that are made up
CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance"),
    "response_headers_conformance",
)
OFTEN = {"RATE_LIMIT_REQUESTS": "0"}
NOW = int(time.time()) // 60 * 60


def closed(shapes: Any) -> Any:
    """Shapes that allow no member beside those that they name: what nobody has described is found."""
    if isinstance(shapes, list):
        return [closed(one) for one in shapes]
    if isinstance(shapes, dict):
        inner = {name: closed(one) for name, one in shapes.items()}
        return {**inner, "additionalProperties": False} if "properties" in shapes and "title" in shapes else inner
    return shapes


def left_out(operation: Any) -> bool:
    """Answers that go on for as long as somebody listens, and what writes wherever it is told to."""
    streams = "text/event-stream" in msgspec.json.encode(operation["responses"]).decode()
    return streams or operation["operationId"] == "admin.backup"


async def filled(daemon: Daemon, key: str) -> None:
    """A market of each kind, with some days of events."""
    sold = [
        {"market_symbol": "GOLD", "timestamp": (NOW - n * 577) * 1000, "price": 2000 + n % 31, "size": 2, "trade_id": n}
        for n in range(1500)
    ]
    kinds = ("PositionOpened", "PositionClosed", "PositionLiquidated", "FundingRateUpdated")
    traded = [
        {
            "market_symbol": "BTC",
            "event_type": kinds[n % 4],
            "timestamp": (NOW - n * 341) * 1000,
            "price": 100 - n % 7,
            "size": 1,
            "is_long": n % 3 > 0,
            "user_address": f"0x{n % 9}",
            "funding_rate": 0.01 if n % 4 == 3 else None,
            "chain_id": 1,
            "transaction_hash": f"0x{n:x}",
            "log_index": 1,
        }
        for n in range(600)
    ]
    priced = [
        {"card_id": "lea-233", "marketplace": "shop", "time": (NOW - n * 40_000) * 1000, "price": 9000 + n}
        for n in range(30)
    ]
    with talking(daemon, key) as http:
        for path, body in (
            ("markets", {"market_symbol": "GOLD", "kind": "spot"}),
            ("markets", {"market_symbol": "BTC", "kind": "perp", "supply": "21000000"}),
            ("ingest/events", sold + traded),
            ("ingest/snapshots", priced),
        ):
            answer = await http.ask("POST", f"/api/{path}", msgspec.json.encode(body), Content_Type=JSON)
            assert answer.status in (200, 201), answer
            assert not answer.body.get("rejected_count"), answer


async def test_no_request_fails_it_and_every_answer_is_as_described(tmp_path: Path) -> None:
    async with running("serve", home=tmp_path, variables=OFTEN) as daemon:
        key = await a_key(tmp_path, "admin")
        await filled(daemon, key)
        with talking(daemon) as http:
            document = (await http.ask("GET", "/api/openapi.json")).body
        document["components"]["schemas"] = closed(document["components"]["schemas"])
        for methods in document["paths"].values():
            for method in [name for name, operation in methods.items() if left_out(operation)]:
                del methods[method]
        described = tmp_path / "openapi.json"
        described.write_bytes(msgspec.json.encode(document))
        done = await trio.run_process(
            [
                *(BIN / "st", "run", described, "--url", f"http://127.0.0.1:{daemon.port}"),
                *("--header", f"Authorization: Bearer {key}", "--checks", ",".join(CHECKS), "--phases", PHASES),
                *("--max-examples", str(EACH), "--seed", str(SEED), "--no-shrink", "--continue-on-failure"),
                *("--suppress-health-check", "all", "--warnings", "off", "--request-timeout", "60"),
                *(("--max-time", str(round(60 * MINUTES))) if MINUTES else ()),
            ],
            cwd=tmp_path,
            check=False,
            capture_stdout=True,
            capture_stderr=True,
        )
        said = done.stdout.decode()
        assert done.returncode == 0, f"seed {SEED}\n{said}\n{done.stderr.decode()}"
        tried = re.search(r"([0-9]+) generated", said)
        assert tried is not None, said
        assert int(tried[1]) > 2 * len(document["paths"]), said
        if MINUTES:
            print(f"seed {SEED}: {said}", file=sys.stderr)
    failed = [line for line in daemon.log.read_text("utf-8").splitlines() if '"level": "error"' in line]
    assert failed == []
