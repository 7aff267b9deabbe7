"""Imports point one way: daemon → web → actors → storage."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ("storage", "actors", "web", "daemon")
CALLED = {"ta_lib": "talib", "pyjwt": "jwt"}  # packages that are imported by another name
# What a layer leaves to others.
FOREIGN = {
    "storage": {"quart", "quart_trio", "hypercorn", "trio_websocket", "wsproto", "h11", "socket", "asyncio"},
    "actors": {"quart", "quart_trio", "hypercorn", "trio_websocket", "wsproto", "h11", "duckdb", "sqlite3", "asyncio"},
    "web": {"duckdb", "sqlite3", "asyncio"},
    "daemon": {"duckdb", "sqlite3", "asyncio"},
}


def modules(layer: str) -> list[Path]:
    return [path for path in (ROOT / layer).rglob("*.py") if "node_modules" not in path.parts]


def imported(module: Path) -> set[str]:
    """The top-level packages that a module imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(module.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_imports_only_what_lies_below_it(layer: str) -> None:
    above = {*LAYERS[LAYERS.index(layer) + 1 :], "tests", "bench"}
    assert modules(layer)
    for module in modules(layer):
        assert not imported(module) & above, module


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_leaves_to_others_what_is_theirs(layer: str) -> None:
    for module in modules(layer):
        assert not imported(module) & FOREIGN[layer], module


def test_only_the_door_of_storage_knows_of_tasks() -> None:
    assert {path.name for path in modules("storage") if "trio" in imported(path)} <= {"database.py"}


def test_only_daemon_reads_the_environment() -> None:
    for layer in ("storage", "actors", "web"):
        for module in modules(layer):
            for node in ast.walk(ast.parse(module.read_bytes())):
                assert not (isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")), module


def test_an_import_is_seen_wherever_it_stands(tmp_path: Path) -> None:
    module = tmp_path / "sample.py"
    module.write_text("import a.b\nfrom c.d import e\ndef f():\n    import g\n    from h import i\n")
    assert imported(module) == {"a", "c", "g", "h"}


def test_every_library_that_is_imported_is_a_dependency() -> None:
    known = {*LAYERS, *sys.stdlib_module_names, *dependencies()}
    for layer in LAYERS:
        for module in modules(layer):
            assert not imported(module) - known, module


def test_every_dependency_is_imported() -> None:
    used = set().union(*(imported(module) for layer in LAYERS for module in modules(layer)))
    assert dependencies() - used <= {"tzdata"}  # zoneinfo looks for it by itself


def dependencies() -> set[str]:
    import re
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    named = (re.split(r"[^\w.-]", line)[0] for line in project["dependencies"])
    names = (name.lower().replace("-", "_") for name in named)
    return {CALLED.get(name, name) for name in names}
