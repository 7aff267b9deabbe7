"""The API reference says what there is: no route is missing, and what it shows as an example works."""

import ast
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

import web as package
from tests.web.conftest import Web, serving
from web.context import Rates
from web.openapi import APART
from web.operations import OPERATIONS
from web.ui import POLICY

FOLDER = Path(package.__file__).parent
METHODS = ("get", "post", "put", "patch", "delete")


async def told(web: Web) -> Any:
    return await web.json("/api/openapi.json")


def operations(document: Any) -> dict[str, tuple[str, str, Any]]:
    """Path, method and description of each, by its id."""
    return {
        one["operationId"]: (path, method, one)
        for path, methods in document["paths"].items()
        for method, one in methods.items()
    }


async def test_every_route_is_in_the_reference_and_nothing_else(web: Web) -> None:
    there = {rule.endpoint for rule in web.app.url_map.iter_rules() if not rule.endpoint.startswith(APART)}
    assert set(OPERATIONS) == there == set(operations(await told(web)))


async def test_every_reference_to_a_shape_leads_to_one(web: Web) -> None:
    document = await told(web)
    named = set(re.findall(r'"#/components/schemas/([^"]+)"', msgspec.json.encode(document).decode()))
    assert named <= set(document["components"]["schemas"])
    assert {"Bars", "NoData", "UdfFailure", "LivePrice"} <= named
    assert all(re.fullmatch(r"[\w.-]+", name) for name in document["components"]["schemas"])


async def test_every_operation_says_what_it_is_for_and_what_its_parameters_mean(web: Web) -> None:
    for path, method, one in operations(await told(web)).values():
        assert one["summary"], (method, path)
        for parameter in one["parameters"]:
            plain = parameter["schema"].get("enum") or parameter["schema"].get("anyOf") or parameter["in"] == "path"
            assert parameter.get("description") or plain, (path, parameter["name"])


def asked_by_handlers() -> dict[str, str]:
    """Which Struct the query of each endpoint is read as, by what its module says."""
    found: dict[str, str] = {}
    for module in [*FOLDER.glob("*.py"), *FOLDER.glob("pusher/*.py")]:
        tree = ast.walk(ast.parse(module.read_text("utf-8")))
        functions = {node.name: node for node in tree if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        for name, node in functions.items():
            routes = [
                each.func.value.id
                for each in node.decorator_list
                if isinstance(each, ast.Call) and isinstance(each.func, ast.Attribute) and each.func.attr in METHODS
                if isinstance(each.func.value, ast.Name)
            ]
            names = [each.id for each in ast.walk(node) if isinstance(each, ast.Name)]
            called = [node, *(functions[each] for each in names if each in functions)]
            shapes = re.findall(r"\bparams\((\w+)\)", "\n".join(map(ast.unparse, called)))
            for blueprint in routes:
                found[f"{blueprint}.{name}"] = shapes[0] if shapes else ""
    return found


async def test_the_parameters_are_those_that_a_handler_reads(web: Web) -> None:
    read = asked_by_handlers()
    blueprints = {"combining": "series"}
    read = {
        f"{blueprints.get(e.partition('.')[0], e.partition('.')[0])}.{e.partition('.')[2]}": q for e, q in read.items()
    }
    for endpoint, operation in OPERATIONS.items():
        assert read[endpoint] == (operation.query.__name__ if operation.query else ""), endpoint
    assert set(OPERATIONS) <= set(web.app.view_functions)


async def test_history_is_described_with_units_defaults_limits_and_errors(web: Web) -> None:
    _, _, one = operations(await told(web))["udf.history"]
    named = {parameter["name"]: parameter for parameter in one["parameters"]}
    assert "Seconds since 1970, inclusive" in named["from"]["description"]
    assert "5000" in named["countback"]["description"]
    assert named["symbol"]["required"]
    assert not named["countback"]["required"]
    assert one["responses"]["404"]["content"]["application/json"]["schema"]["$ref"].endswith("/UdfFailure")
    assert {"200", "304", "400", "404", "429", "503"} <= set(one["responses"])


async def test_what_is_allowed_to_whom_and_how_often_is_that_of_the_settings(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", auth="token") as web:
        one = operations(await web.json("/api/openapi.json"))
        assert one["udf.history"][2]["security"] == [{"key": []}]
        assert one["udf.history"][2]["x-scope"] == "read"
        assert one["ingest.events"][2]["x-scope"] == "ingest"
        assert one["markets.patch"][2]["x-scope"] == "admin"
        assert "security" not in one["health.alive"][2]
        assert "x-rate-limit" not in one["udf.config"][2]


async def test_the_limits_are_told(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", rates=Rates(history=7, window_ms=10_000)) as web:
        one = operations(await web.json("/api/openapi.json"))["udf.history"][2]
        assert one["x-rate-limit"] == {"requests": 7, "window_seconds": 10.0}
        assert "At most 7 requests in 10 s" in one["description"]
        assert one["security"] == [{}, {"key": []}]


async def test_every_example_of_a_body_is_taken(web: Web, tmp_path: Path) -> None:
    key = await web.key("admin")
    await web.trades((1_767_603_000, 12.0))
    posted = 0
    for path, method, one in operations(await told(web)).values():
        for kind, content in one.get("requestBody", {}).get("content", {}).items():
            signed = one["operationId"].startswith("rest.")  # by an app's server, see `tests/pusher`
            if "example" not in content or kind != "application/json" or signed:
                continue
            example = content["example"]
            if "directory" in example:
                example = {"directory": str(tmp_path / "backup")}
            query = "&".join(
                f"{parameter['name']}={next(iter(parameter['examples'].values()))['value']}"
                for parameter in one["parameters"]
                if parameter["in"] == "query" and "examples" in parameter
            )
            if one["operationId"] == "layouts.save_tool":
                query += "&name=mine"
            answer = await web.ask(
                method.upper(), f"{path.replace('{symbol}', 'GOLD')}?{query}", json=example, headers=key
            )
            said = await answer.get_data(as_text=True)
            assert str(answer.status_code) in one["responses"], (path, said)
            assert answer.status_code < 300, (path, said)
            assert '"rejected_count":1' not in said, (path, said)
            posted += 1
    assert posted >= 14


@pytest.mark.parametrize("path", ["/docs", "/docs/style.css"])
async def test_the_page_loads_nothing_from_elsewhere(web: Web, path: str) -> None:
    answer = await web.get(path)
    assert answer.status_code == 200
    assert answer.headers["Content-Security-Policy"] == POLICY
    assert answer.headers["X-Frame-Options"] == "DENY"
    text = await answer.get_data(as_text=True)
    assert all(link[0] in "/#" or link == "data:," for link in re.findall(r'(?:href|src)="([^"]+)"', text))
    assert not re.search(r"<script|<style| style=|@import|url\(", text)


async def test_the_page_shows_every_operation_and_every_shape_once(web: Web) -> None:
    document, page = await told(web), await (await web.get("/docs")).get_data(as_text=True)
    anchors = re.findall(r'<details id="([^"]+)"', page)
    assert sorted(anchors) == sorted([*operations(document), *document["components"]["schemas"]])
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(anchors)
    assert "unless given: <code>500</code>" in page
    assert "<br>Example: <code>GOLD</code>, <code>GOLD/BTC</code>" in page
