"""The API reference: as a document for programs, and as a page without a script."""

from html import escape
from typing import Any, cast

import msgspec
from quart import Blueprint, Response, current_app

from web import openapi
from web.context import REVALIDATE, apart, reply, services
from web.ui import PAGE_HEADERS

reference = Blueprint("reference", __name__)

EXTENSION = "candled.reference"
STYLE = b"""
:root { color-scheme: light dark; --line: light-dark(#d8dade, #33363d); --dim: light-dark(#5b616b, #9aa1ac); }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; font: 16px/1.5 system-ui, sans-serif;
  color: light-dark(#16181d, #e4e6ea); background: light-dark(#fff, #121419); overflow-wrap: anywhere; }
a { color: light-dark(#0b57c4, #8ab4ff); }
code, pre, summary b, summary span { font-family: ui-monospace, monospace; font-size: .9em; }
pre { overflow: auto; padding: .75rem; border: 1px solid var(--line); border-radius: 6px; }
details { border-top: 1px solid var(--line); padding: .5rem 0; }
summary { cursor: pointer; padding: .25rem 0; }
summary b { display: inline-block; min-width: 4.5em; }
summary i { display: block; padding-left: 1.2rem; font-style: normal; color: var(--dim); }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0; border-top: 1px solid var(--line);
  overflow-wrap: normal; }
td:nth-child(2) { overflow-wrap: anywhere; width: 60%; }
"""


async def _document() -> dict[str, Any]:
    """The document of this app, which never changes."""
    kept = current_app.extensions.get(EXTENSION)
    if kept is None:
        app = current_app
        kept = await apart(openapi.document, app.url_map, app.view_functions, services().settings)
        app.extensions[EXTENSION] = kept
    return cast(dict[str, Any], kept)


@reference.get("/api/openapi.json")
async def document() -> Response:
    """This reference as an OpenAPI document."""
    return reply(await _document(), headers={"Cache-Control": REVALIDATE})


@reference.get("/docs")
async def page() -> Response:
    """This reference as a page."""
    html = await apart(_page, await _document())
    return reply(html, headers={**PAGE_HEADERS, "Cache-Control": REVALIDATE}, kind="text/html; charset=utf-8")


@reference.get("/docs/style.css")
async def style() -> Response:
    """How that page looks."""
    return reply(STYLE, headers={**PAGE_HEADERS, "Cache-Control": REVALIDATE}, kind="text/css; charset=utf-8")


def _page(told: dict[str, Any]) -> bytes:
    info, parts = told["info"], []
    for tag in told["tags"]:
        found = [
            _operation(path, method, one)
            for path, methods in told["paths"].items()
            for method, one in methods.items()
            if tag["name"] in one["tags"]
        ]
        parts.append(f"<h2>{escape(tag['name'])}</h2>{''.join(found)}")
    shapes = [
        f'<details id="{escape(name)}"><summary><span>{escape(name)}</span>'
        f"<i>{_prose(shape.get('description', ''))}</i></summary>{_json(shape)}</details>"
        for name, shape in told["components"]["schemas"].items()
    ]
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>API of candled</title><link rel="stylesheet" href="/docs/style.css"><link rel="icon" href="data:,"></head><body>
<h1>API of candled {escape(info["version"])}</h1>
{"".join(f"<p>{_prose(text)}</p>" for text in info["description"].split(chr(10) * 2))}
<p>The same for programs: <a href="/api/openapi.json">/api/openapi.json</a>. WebSockets are at <code>/ws</code>.</p>
{"".join(parts)}<h2>Shapes</h2>{"".join(shapes)}
</body></html>
""".encode()


def _operation(path: str, method: str, one: dict[str, Any]) -> str:
    body = one.get("requestBody")
    return (
        f'<details id="{escape(one["operationId"])}"><summary><b>{method.upper()}</b> <span>{escape(path)}</span>'
        f"<i>{_prose(one['summary'])}</i></summary><p>{_prose(one['description'])}</p>"
        f"{_parameters(one['parameters'])}{_body(body) if body else ''}{_answers(one['responses'])}</details>"
    )


def _parameters(told: list[dict[str, Any]]) -> str:
    rows = [
        f"<tr><td><code>{escape(one['name'])}</code><br>{one['in']}{', needed' if one['required'] else ''}</td>"
        f"<td>{_prose(one.get('description', ''))}{_examples(one)}</td><td>{_limits(one['schema'])}</td></tr>"
        for one in told
    ]
    return f"<table><tr><th>Parameter</th><th></th><th></th></tr>{''.join(rows)}</table>" if rows else ""


def _examples(one: dict[str, Any]) -> str:
    told = ", ".join(f"<code>{escape(name)}</code>" for name in one.get("examples", ()))
    return f"<br>Example: {told}" if told else ""


def _limits(schema: dict[str, Any]) -> str:
    """What a value must be, in a line each."""
    for other in schema.get("anyOf", ()):
        if other.get("type") != "null":
            schema = {**other, **schema}
    words = [str(schema.get("type", ""))]
    if "enum" in schema:
        words = [", ".join(f"<code>{escape(str(value))}</code>" for value in schema["enum"] if value is not None)]
    for name, said in (("minimum", "at least"), ("maximum", "at most"), ("maxLength", "characters, at most")):
        if name in schema:
            words.append(f"{said} {schema[name]}")
    if "default" in schema:
        words.append(f"unless given: <code>{escape(str(schema['default']))}</code>")
    return "<br>".join(words)


def _body(told: dict[str, Any]) -> str:
    first = next(iter(told["content"].values()))
    return (
        f"<p>Body: {', '.join(f'<code>{escape(kind)}</code>' for kind in told['content'])}</p>"
        f"{_json(first['example'])}{_shape(first['schema'])}"
    )


def _answers(told: dict[str, Any]) -> str:
    rows = []
    for status, one in told.items():
        kinds = one.get("content", {})
        shape = next((_shape(content["schema"]) for content in kinds.values() if "schema" in content), "")
        named = ", ".join(f"<code>{escape(kind)}</code>" for kind in kinds)
        rows.append(f"<tr><td>{status}</td><td>{_prose(one['description'])}</td><td>{named} {shape}</td></tr>")
    return f"<table><tr><th>Answer</th><th></th><th></th></tr>{''.join(rows)}</table>"


def _shape(schema: dict[str, Any]) -> str:
    """The names of the shapes in a schema, each leading to what it is."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(_shape(one) for one in schema["anyOf"])
    if schema.get("type") == "array":
        return f"array of {_shape(schema['items'])}"
    return escape(str(schema.get("type", "")))


def _prose(text: str) -> str:
    """Text with what stands between backticks as code."""
    return "".join(
        f"<code>{escape(part)}</code>" if number % 2 else escape(part) for number, part in enumerate(text.split("`"))
    )


def _json(value: object) -> str:
    return f"<pre>{escape(msgspec.json.format(msgspec.json.encode(value)).decode())}</pre>"
