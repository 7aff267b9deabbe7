from typing import Any
from urllib.parse import urlencode

import pytest

from storage import layouts as kept
from tests.web.conftest import Web, decoded, serving
from web import layouts
from web.layouts import merged

BASE = "/api/charts_storage/1.1/"
ME = {"client": "example.org", "user": "ann"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
BOUNDARY = "----WebKitFormBoundary7MA4YWxkTrZu0gW"


async def asked(
    web: Web, method: str, what: str, form: dict[str, str] | None = None, status: int = 200, **query: Any
) -> Any:
    path = BASE + what + "?" + urlencode({**ME, **query})
    data = None if form is None else urlencode(form).encode()
    answer = await web.ask(method, path, data=data, headers=FORM if form else {})
    found = decoded(await answer.get_data())
    assert answer.status_code == status, found
    assert found["status"] == ("ok" if status == 200 else "error")
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert answer.headers["Cache-Control"] == "no-store"
    return found


CHART = {"name": "Mine", "content": '{"layout": "s", "charts": [1, "ü"]}', "symbol": "GOLD", "resolution": "1D"}


async def test_a_layout_is_saved_listed_loaded_rewritten_and_removed(web: Web) -> None:
    assert await asked(web, "GET", "charts") == {"status": "ok", "data": []}
    number = (await asked(web, "POST", "charts", CHART))["id"]
    other = (await asked(web, "POST", "charts", CHART))["id"]
    assert other != number  # two layouts may have one name
    (first, _) = (await asked(web, "GET", "charts"))["data"]
    assert type(first.pop("timestamp")) is int
    assert first == {"id": number, "name": "Mine", "symbol": "GOLD", "resolution": "1D"}
    loaded = (await asked(web, "GET", "charts", chart=number))["data"]
    assert type(loaded.pop("timestamp")) is int
    assert loaded == {"id": number, "name": "Mine", "content": CHART["content"]}
    again = {**CHART, "name": "Yours", "content": "2", "symbol": "BTC"}
    assert (await asked(web, "POST", "charts", again, chart=number))["id"] == number
    assert (await asked(web, "GET", "charts", chart=number))["data"]["content"] == "2"
    assert [one["name"] for one in (await asked(web, "GET", "charts"))["data"]] == ["Yours", "Mine"]
    assert await asked(web, "DELETE", "charts", chart=number) == {"status": "ok"}
    assert [one["id"] for one in (await asked(web, "GET", "charts"))["data"]] == [other]
    for method, form in (("GET", None), ("DELETE", None), ("POST", again)):
        said = await asked(web, method, "charts", form, status=404, chart=number)
        assert said["message"] == f"no chart {number}"
    assert (await asked(web, "POST", "charts", CHART))["id"] not in (number, other)  # a number is not used again


async def test_an_indicator_template_is_saved_listed_loaded_replaced_and_removed(web: Web) -> None:
    for content in ("1", "2"):
        assert await asked(web, "POST", "study_templates", {"name": "RSI & co", "content": content}) == {"status": "ok"}
    assert (await asked(web, "GET", "study_templates"))["data"] == [{"name": "RSI & co"}]
    loaded = await asked(web, "GET", "study_templates", chart=7, template="RSI & co")
    assert loaded["data"] == {"name": "RSI & co", "content": "2"}
    await asked(web, "DELETE", "study_templates", template="RSI & co")
    assert (await asked(web, "GET", "study_templates"))["data"] == []
    for method in ("GET", "DELETE"):
        said = await asked(web, method, "study_templates", status=404, template="RSI & co")
        assert said["message"] == "no study template 'RSI & co'"
    assert "template" in (await asked(web, "DELETE", "study_templates", status=400))["message"]


async def test_a_drawing_template_belongs_to_its_tool(web: Web) -> None:
    for tool, name, content in (("LineToolRay", "a", "1"), ("LineToolRay", "b", "2"), ("LineToolText", "a", "3")):
        await asked(web, "POST", "drawing_templates", {"content": content}, tool=tool, name=name)
    assert (await asked(web, "GET", "drawing_templates", tool="LineToolRay"))["data"] == ["a", "b"]
    loaded = await asked(web, "GET", "drawing_templates", chart=1, tool="LineToolText", name="a")
    assert loaded["data"] == {"name": "a", "content": "3"}
    await asked(web, "DELETE", "drawing_templates", chart=1, tool="LineToolRay", name="a")
    assert (await asked(web, "GET", "drawing_templates", tool="LineToolRay"))["data"] == ["b"]
    await asked(web, "GET", "drawing_templates", status=404, tool="LineToolRay", name="a")
    assert "name" in (await asked(web, "POST", "drawing_templates", {"content": "x"}, 400, tool="t"))["message"]
    assert "tool: needed" in (await asked(web, "GET", "drawing_templates", status=400))["message"]


async def test_drawings_take_over_changes_and_go_with_their_layout(web: Web) -> None:
    number = (await asked(web, "POST", "charts", CHART))["id"]
    where: dict[str, Any] = {"layout": number, "chart": "_shared"}
    empty: dict[str, Any] = {"sources": {}, "groups": {}}
    assert (await asked(web, "GET", "drawings", **where))["data"] == {"state": empty}
    ray = {"id": "a", "symbol": "GOLD", "state": {"points": [1, 2.5]}}
    path = BASE + "drawings?" + urlencode({**ME, **where})
    first = await web.post(path, json={"state": {"sources": {"a": ray, "b": {"id": "b"}}, "groups": {"g": ["a", "b"]}}})
    assert await first.get_json() == {"status": "ok"}
    await asked(web, "POST", "drawings", {"state": '{"sources": {"b": null, "c": {"id": "c"}}}'}, **where)
    found = (await asked(web, "GET", "drawings", **where))["data"]["state"]
    assert found == {"sources": {"a": ray, "c": {"id": "c"}}, "groups": {"g": ["a", "b"]}}
    assert (await asked(web, "GET", "drawings", layout=number, chart="2"))["data"]["state"] == empty
    await asked(web, "DELETE", "charts", chart=number)
    assert (await asked(web, "GET", "drawings", **where))["data"]["state"] == empty


def test_maps_may_come_as_pairs() -> None:
    assert merged(None, layouts._state('{"sources": [["a", {"x": 1}], ["b", null]], "groups": null}')) == {
        "sources": {"a": {"x": 1}},
        "groups": {},
    }


async def test_nobody_sees_what_another_user_or_client_saved(web: Web) -> None:
    number = (await asked(web, "POST", "charts", CHART))["id"]
    await asked(web, "POST", "study_templates", {"name": "n", "content": "c"})
    others: list[dict[str, Any]] = [{"user": "bob"}, {"client": "elsewhere"}]
    for other in others:
        assert (await asked(web, "GET", "charts", **other))["data"] == []
        assert (await asked(web, "GET", "study_templates", **other))["data"] == []
        await asked(web, "GET", "charts", status=404, chart=number, **other)
        await asked(web, "POST", "charts", CHART, 404, chart=number, **other)
        await asked(web, "DELETE", "charts", status=404, chart=number, **other)
        await asked(web, "DELETE", "study_templates", status=404, template="n", **other)


async def test_a_body_may_be_a_form_of_either_kind_or_json(web: Web) -> None:
    large = "x" * 1_000_000
    parts = "".join(
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in {**CHART, "content": large}.items()
    )
    path = BASE + "charts?" + urlencode(ME)
    kind = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    sent = await web.post(path, data=f"{parts}--{BOUNDARY}--\r\n".encode(), headers=kind)
    number = (await sent.get_json())["id"]
    assert (await asked(web, "GET", "charts", chart=number))["data"]["content"] == large
    assert (await (await web.post(path, json=CHART)).get_json())["status"] == "ok"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"name": "n"}, "content: needed"),
        ({"name": "", "content": "c"}, "name: expected a text of 1 to 200 characters, got ''"),
        ({"name": "n" * 201, "content": "c"}, "name: expected"),
        ([], "body: expected a form or a JSON object"),
        ({"name": "n", "content": {}}, "content: expected a text, got {}"),
    ],
)
async def test_what_is_no_layout_is_refused(web: Web, body: Any, said: str) -> None:
    answer = await web.post(BASE + "charts?" + urlencode(ME), json=body)
    found = await answer.get_json()
    assert (answer.status_code, found["status"]) == (400, "error")
    assert said in found["message"]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("user=a", "client: needed"),
        ("client=a", "user: needed"),
        ("client=a&user=", "user: expected a text of 1 to 200 characters, got ''"),
        ("client=a&user=b&chart=x", "chart: expected an integer"),
    ],
)
async def test_a_request_names_whose_it_is(web: Web, query: str, said: str) -> None:
    answer = await web.get(f"{BASE}charts?{query}")
    found = await answer.get_json()
    assert (answer.status_code, found["status"]) == (400, "error")
    assert said in found["message"]


@pytest.mark.parametrize("state", ["", "[]", "{", '{"sources": 1}', '{"sources": [[1]]}'])
async def test_what_are_no_drawings_is_refused(web: Web, state: str) -> None:
    said = await asked(web, "POST", "drawings", {"state": state}, 400, chart="1")
    assert "state: expected an object with sources and groups" in said["message"]


async def test_what_is_saved_has_bounds(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(web.stack.state.path.parent.parent / "other", saved_per_user=2000, saved=3500) as small:
        number = (await asked(small, "POST", "charts", {**CHART, "content": "x" * 1200}))["id"]
        said = await asked(small, "POST", "charts", {**CHART, "content": "y" * 1200}, 413)
        assert said["message"].startswith("user: at most 2000 bytes may be saved for each, this would make it 2")
        assert len((await asked(small, "GET", "charts"))["data"]) == 1
        await asked(small, "POST", "charts", {**CHART, "content": "y" * 1400}, chart=number)
        await asked(small, "POST", "charts", {**CHART, "content": "x" * 1200}, user="bob")
        said = await asked(small, "POST", "charts", {**CHART, "content": "x" * 1200}, 413, user="eve")
        assert said["message"].startswith("content: at most 3500 bytes may be saved in all")
        await asked(small, "DELETE", "charts", chart=number)  # makes room
        await asked(small, "POST", "charts", {**CHART, "content": "x" * 1200}, user="eve")
        with small.stack.state.reading() as db:
            assert (
                db.execute("SELECT sum(bytes) FROM saved").fetchone()
                == db.execute("SELECT bytes FROM saved_bytes").fetchone()
            )
    monkeypatch.setattr(layouts, "LARGEST", 100)
    said = await asked(web, "POST", "charts", {**CHART, "content": "x" * 101}, 413)
    assert said["message"] == "content: expected at most 100 characters, got 101"


async def test_what_is_saved_is_there_after_a_restart(web: Web) -> None:
    folder = web.stack.state.path.parent.parent / "again"
    async with serving(folder) as before:
        number = (await asked(before, "POST", "charts", CHART))["id"]
    async with serving(folder) as after:
        assert (await asked(after, "GET", "charts", chart=number))["data"]["content"] == CHART["content"]


async def test_where_reading_needs_a_key_so_does_saving(web: Web) -> None:
    folder = web.stack.state.path.parent.parent / "locked"
    async with serving(folder, auth="token") as locked:
        for method, what, form in (
            ("GET", "charts", None),
            ("POST", "charts", CHART),
            ("DELETE", "charts", None),
            ("POST", "study_templates", CHART),
            ("DELETE", "study_templates", None),
            ("POST", "drawing_templates", CHART),
            ("DELETE", "drawing_templates", None),
            ("POST", "drawings", {"state": "{}"}),
        ):
            assert "key" in (await asked(locked, method, what, form, 401))["message"]
        locked.headers = await locked.key("read")
        number = (await asked(locked, "POST", "charts", CHART))["id"]
        await asked(locked, "DELETE", "charts", chart=number)
        locked.headers = await locked.key("ingest")
        await asked(locked, "POST", "charts", CHART, 403)


async def test_a_page_of_another_origin_may_ask(web: Web) -> None:
    answer = await web.ask("OPTIONS", BASE + "charts?client=a&user=b", headers={"Origin": "https://x.example"})
    assert answer.status_code == 204
    allowed = set(answer.headers["Access-Control-Allow-Methods"].split(", "))
    assert {"GET", "POST", "DELETE"} <= allowed


async def test_every_other_failure_has_the_same_shape(web: Web) -> None:
    for method, path, status in (("GET", "nothing", 404), ("PUT", "charts", 405)):
        answer = await web.ask(method, BASE + path, headers=await web.key("admin"))
        assert (answer.status_code, (await answer.get_json())["status"]) == (status, "error")


def test_each_kind_has_words() -> None:
    assert set(kept.WORDS) == {"chart", "study", "tool", "drawings"}
