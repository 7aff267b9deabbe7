"""The API reference as an OpenAPI document, made of the routes there are and of what `web.operations` says of them."""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, cast

import msgspec
from msgspec import Struct
from werkzeug.routing import AnyConverter, IntegerConverter, Map, Rule

from web import errors, layouts, lightweight
from web.auth import wanted_of
from web.context import Rates, WebSettings
from web.limits import GROUPS
from web.operations import OPERATIONS, Operation
from web.parameters import MARKET

VERSION = "3.1.0"
REF = "#/components/schemas/{name}"
APART = "ui."  # endpoints of the page, which is no API
PACKAGES = re.compile(r"\b(?:web|actors|storage)\.")
TEXT = "text/plain"

ABOUT = """What candled answers over HTTP. Times are UTC; `X-Cursor` names what an answer has seen at least, \
`X-Request-Id` how the log calls a request.

Requests for bars are given up after 25 s, others after 30 s, with 503: ask for less, or again after `Retry-After`. \
Where bars may be revalidated they have an `ETag`. HEAD is answered wherever GET is, OPTIONS everywhere. Whoever asks \
too often gets 429 with `Retry-After` and `RateLimit-Limit`, `RateLimit-Remaining`, `RateLimit-Reset`; requests for \
`history` wait up to a second for their turn first."""

WHY = {
    201: "Made; 200 where it was there",
    304: "Unchanged since the answer with this ETag",
    400: "A parameter or the body is wrong; the message names it, what was expected and what was found",
    401: "No key, or none that is known",
    403: "The key may not do this",
    404: "What is named is not there",
    408: "The body did not arrive in time",
    409: "It contradicts what is there, or the same is being done",
    413: "The body is too large",
    415: "The body is of a type or an encoding that is not taken",
    422: "It cannot be done with what it says",
    426: "This is a WebSocket",
    429: "Too many requests",
    503: "Not now: `Retry-After` says when again",
}


class Api(NamedTuple):
    """What routes under a path have in common."""

    path: str
    name: str
    failure: type[Struct]


# The first that a path begins with.
APIS = (
    Api("/api/tradingview/config", "TradingView (UDF)", str),  # type: ignore[arg-type] # its failures are plain text
    Api("/api/tradingview/", "TradingView (UDF)", errors.UdfFailure),
    Api("/api/charts_storage/", "Saved charts", layouts.Failure),
    Api("/api/lightweight/", "Lightweight Charts", lightweight.Failure),
    Api("/api/ingest/", "Ingest", errors.Failure),
    Api("/api/markets", "Markets", errors.Failure),
    Api("/api/series", "Series and pictures", errors.Failure),
    Api("/api/stream", "Streams", errors.Failure),
    Api("/api/profile", "Series and pictures", errors.Failure),
    Api("/api/charts/{symbol}", "Series and pictures", errors.Failure),
    Api("/api/export/", "Export", errors.Failure),
    Api("/api/cards", "Cards", errors.Failure),
    Api("/api/marketplaces", "Cards", errors.Failure),
    Api("/api/admin/", "Administration", errors.Failure),
    Api("/app/", "Pusher", errors.Failure),
    Api("/ws/app/", "Pusher", errors.Failure),
    Api("/apps/", "Pusher", errors.Failure),
    Api("/users/", "Pusher", errors.Failure),
    Api("/pusher/", "Pusher", errors.Failure),
    Api("", "Health and the rest", errors.Failure),
)


def document(routes: Map, views: Mapping[str, Callable[..., Any]], settings: WebSettings) -> dict[str, Any]:
    """All of it, for these settings."""
    wanted = [each for each in _operations(routes) if not each[0].endpoint.startswith(APART)]
    types = [kind for _, _, one in wanted for kind in _types(one)]
    failures = [api.failure for api in APIS]
    shapes, components = msgspec.json.schema_components([*types, *failures], ref_template=REF)
    named = dict(zip(map(_key, [*types, *failures]), shapes, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for rule, method, operation in sorted(wanted, key=lambda each: _path(each[0])):
        said = inspect.cleandoc(views[rule.endpoint].__doc__ or "")
        told = _Told(rule, method, operation, said, settings, named, components)
        paths.setdefault(_path(rule), {})[method.lower()] = told.whole()
    for query in {one.query for _, _, one in wanted if one.query is not None}:
        components.pop(named[_key(query)]["$ref"].rpartition("/")[2], None)
    whole = {
        "openapi": VERSION,
        "info": {
            "title": "candled",
            "version": settings.version,
            "description": ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name} for name in dict.fromkeys(api.name for api in APIS)],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(components.items())),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "`candled token create`"}},
        },
    }
    return cast(dict[str, Any], _renamed(whole, {name: _short(name) for name in components}))


def _short(name: str) -> str:
    """The name of a shape without the packages that it is from, and without what brackets have become."""
    return re.sub("_+", "_", PACKAGES.sub("", name)).strip("_")


def _renamed(told: Any, names: Mapping[str, str]) -> Any:
    if isinstance(told, list):
        return [_renamed(one, names) for one in told]
    if isinstance(told, dict):
        return {names.get(name, name): _renamed(one, names) for name, one in told.items()}
    if isinstance(told, str) and told.startswith(REF[:-6]):
        return REF.format(name=names[told.removeprefix(REF[:-6])])
    return told


def _operations(routes: Map) -> Iterator[tuple[Rule, str, Operation]]:
    for rule in routes.iter_rules():
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
            if rule.endpoint in OPERATIONS:
                yield rule, method, OPERATIONS[rule.endpoint]


def _types(one: Operation) -> list[Any]:
    return [kind for kind in (one.answer, one.query, one.body) if kind is not None and not isinstance(kind, dict)]


def _key(kind: Any) -> str:
    return repr(kind)


def _path(rule: Rule) -> str:
    return re.sub(r"<(?:[^<>:]+:)?(\w+)>", r"{\1}", rule.rule)


class _Told:
    """One operation, in the words of OpenAPI."""

    def __init__(
        self,
        rule: Rule,
        method: str,
        operation: Operation,
        said: str,
        settings: WebSettings,
        shapes: Mapping[str, Any],
        components: Mapping[str, Any],
    ) -> None:
        self._rule, self._method, self._one, self._said = rule, method, operation, said
        self._settings, self._shapes, self._components = settings, shapes, components
        self._path = _path(rule)
        self._api = next(api for api in APIS if self._path.startswith(api.path))
        self._scope = wanted_of(rule.endpoint, method)
        self._group = GROUPS.get(rule.endpoint, "other")
        self._parameters = [*self._in_path(), *self._in_query(), *self._in_head()]

    def whole(self) -> dict[str, Any]:
        """The object of this method of a path."""
        summary, _, rest = self._said.partition("\n\n")
        told: dict[str, Any] = {
            "operationId": self._rule.endpoint,
            "tags": [self._api.name],
            "summary": " ".join(summary.split()),
            "description": " ".join([*rest.split(), *self._conditions()]),
            "parameters": self._parameters,
            "responses": self._responses(),
        }
        if self._one.body is not None:
            told["requestBody"] = self._body()
        if self._scope is not None:
            free = self._scope == "read" and self._settings.auth == "open"
            told["security"] = [*([{}] if free else []), {"key": []}]
            told["x-scope"] = self._scope
        limit = self._limit()
        if limit:
            told["x-rate-limit"] = {"requests": limit, "window_seconds": self._settings.rates.window_ms / 1000}
        return told

    def _conditions(self) -> list[str]:
        limit, seconds = self._limit(), self._settings.rates.window_ms / 1000
        often = f"At most {limit} requests in {seconds:g} s." if limit else "Never refused for coming too often."
        if self._scope is None:
            return ["Needs no key.", often]
        free = self._scope == "read" and self._settings.auth == "open"
        return ["Needs no key." if free else f"Needs a key of scope `{self._scope}`.", often]

    def _limit(self) -> int:
        rates: Rates = self._settings.rates
        if self._group is None:
            return 0
        return getattr(rates, self._group) if rates.requests is None else rates.requests

    def _in_path(self) -> Iterator[dict[str, Any]]:
        for name in re.findall(r"{(\w+)}", self._path):
            converter = self._rule._converters[name]
            schema: dict[str, Any] = {"type": "string", "minLength": 1}
            if isinstance(converter, IntegerConverter):
                schema = {"type": "integer", "minimum": 0}
            elif isinstance(converter, AnyConverter):
                schema = {"type": "string", "enum": sorted(converter.items)}
            told = {"name": name, "in": "path", "required": True, "schema": schema}
            yield {**told, "description": MARKET, "example": "GOLD"} if name == "symbol" else told

    def _in_query(self) -> Iterator[dict[str, Any]]:
        if self._one.query is None:
            return
        shape = self._components[self._shapes[_key(self._one.query)]["$ref"].rpartition("/")[2]]
        described = msgspec.inspect.type_info(self._one.query)
        assert isinstance(described, msgspec.inspect.StructType)
        for field in described.fields:
            schema = {**shape["properties"][field.encode_name]}
            if isinstance(field.type, msgspec.inspect.Metadata) and field.type.extra:
                schema.update(field.type.extra["schema"])
            told = {"name": field.encode_name, "in": "query", "required": field.required}
            if about := schema.pop("description", ""):
                told["description"] = about
            examples = schema.pop("examples", ())
            if examples:
                read = int if schema["type"] in ("number", "integer") else str
                told["examples"] = {text: {"value": read(text)} for text in examples}
            if schema.get("default", "") in ("", None):
                schema.pop("default", None)
            yield {**told, "schema": schema}

    def _in_head(self) -> Iterator[dict[str, Any]]:
        names = []
        if self._one.revalidated:
            names.append(("If-None-Match", "The `ETag` of an answer that is there already."))
        if self._one.keyed:
            names.append(("Idempotency-Key", "1 to 200 characters: the same request again gets the same answer."))
            names.append(("Content-Encoding", "`gzip` or `zstd`, where the body is packed."))
        for name, about in names:
            yield {"name": name, "in": "header", "required": False, "description": about, "schema": {"type": "string"}}

    def _body(self) -> dict[str, Any]:
        body = self._one.body
        schema = body if isinstance(body, dict) else self._shapes[_key(body)]
        content: dict[str, Any] = {}
        for kind in self._one.bodies:
            readable = (kind.endswith("json") and "ndjson" not in kind) or "form" in kind
            content[kind] = {"schema": schema, "example": self._one.example} if readable else {}
        return {"required": True, "content": content}

    def _responses(self) -> dict[str, Any]:
        one = self._one
        shown = self._shapes[_key(one.answer)] if one.answer is not None else {}
        content = {kind: {"schema": shown} if kind == "application/json" else {} for kind in one.kinds}
        good: dict[str, Any] = {"description": "Done" if one.status != 101 else "The connection is a WebSocket now"}
        if content and one.status != 204:
            good["content"] = content
        told: dict[str, Any] = {str(one.status): good}
        for status in one.also:
            told[str(status)] = {**good, "description": WHY[status]}
        if one.revalidated:
            told["304"] = {"description": WHY[304]}
        bad = self._failure()
        for status in sorted(self._failures() - set(one.also)):
            told[str(status)] = {"description": WHY[status], "content": bad}
        return told

    def _failure(self) -> dict[str, Any]:
        if self._api.failure is str:  # type: ignore[comparison-overlap] # see APIS
            return {TEXT: {"schema": {"type": "string"}}}
        return {"application/json": {"schema": self._shapes[_key(self._api.failure)]}}

    def _failures(self) -> set[int]:
        one = self._one
        found = {503, *one.errors}
        if one.query is not None or one.body is not None:
            found.add(400)
        if "{" in self._path:
            found |= {400, 404}
        if one.body is not None:
            found |= {408, 413, 415}
        if self._scope is not None:
            found |= {401, 403}
        if self._group is not None:
            found.add(429)
        return found
