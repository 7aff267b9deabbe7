import gzip
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trio
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from tests.web.conftest import NOW, Web, decoded, serving
from web import coding
from web.coding import SMALL, Accepted, Coding, accepted

FIRST = NOW - 86_400
HISTORY = f"/api/tradingview/history?symbol=GOLD&resolution=1S&from={FIRST}&to={FIRST + 600}"
UNPACKED: dict[str, Callable[[bytes], bytes]] = {
    "zstd": lambda data: zstandard.ZstdDecompressor().decompress(data),
    "gzip": gzip.decompress,
}


@pytest.fixture
async def full(tmp_path: Path) -> AsyncIterator[Web]:
    """An app with a market of some hundred bars."""
    async with serving(tmp_path / "data") as web:
        await web.market()
        await web.trades(*((FIRST + n, 100 + n % 7) for n in range(300)))
        yield web


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("gzip, deflate, br, zstd", Accepted("zstd")),
        ("gzip, deflate", Accepted("gzip")),
        ("GZIP", Accepted("gzip")),
        ("x-gzip", Accepted("gzip")),
        ("zstd", Accepted("zstd")),
        ("*", Accepted("zstd")),
        ("", Accepted(None)),
        ("identity", Accepted(None)),
        ("br", Accepted(None)),
        ("gzip;q=0", Accepted(None)),
        ("gzip;q=0.000, zstd;q=0", Accepted(None)),
        ("zstd;q=0.5, gzip;q=0.8", Accepted("gzip")),
        ("zstd;q=0.8 , gzip ; q=0.8", Accepted("zstd")),
        ("zstd;q=0, *", Accepted("gzip")),
        ("gzip;q=0.001", Accepted("gzip")),
        ("gzip;q=0.5, *;q=0", Accepted("gzip", plain=False)),
        ("gzip, identity;q=0", Accepted("gzip", plain=False)),
        ("*, identity;q=0", Accepted("zstd", plain=False)),
        ("gzip;q=0.5, identity", Accepted(None)),
        ("gzip;q=0.5, identity;q=0.8", Accepted(None)),
        ("gzip;q=0.8, identity;q=0.5", Accepted("gzip")),
        ("gzip, identity", Accepted("gzip")),
        # Nothing that we have: then the answer as it is, which the client may still be able to read.
        ("identity;q=0", Accepted(None)),
        ("*;q=0", Accepted(None)),
        ("br, *;q=0", Accepted(None)),
        # What is no weight is no wish.
        ("gzip;q=2", Accepted(None)),
        ("gzip;q=high", Accepted(None)),
        ("gzip;q=-1, zstd;q=0.1", Accepted("zstd")),
        (";;,,=;q", Accepted(None)),
    ],
)
def test_the_coding_is_what_the_client_likes_best(header: str, expected: Accepted) -> None:
    assert accepted(header) == expected


@given(st.text(max_size=100))
def test_no_header_is_a_fault(header: str) -> None:
    assert accepted(header).coding in (None, "zstd", "gzip")


@pytest.mark.parametrize("header", ["zstd", "gzip"])
async def test_an_answer_is_compressed_as_asked_for(full: Web, header: str) -> None:
    for path in (HISTORY, "/metrics"):
        plain = await full.get(path)
        packed = await full.get(path, headers={"Accept-Encoding": header})
        before, data = await plain.get_data(), await packed.get_data()
        assert isinstance(data, bytes)
        assert "Content-Encoding" not in plain.headers
        assert packed.headers["Content-Encoding"] == header
        assert int(packed.headers["Content-Length"]) == len(data) < len(before) / 2
        assert packed.headers["Content-Type"] == plain.headers["Content-Type"]
        for answer in (plain, packed):
            assert answer.headers.getlist("Vary") == ["Accept-Encoding"]
        if path == HISTORY:
            assert UNPACKED[header](data) == before


async def test_a_failure_is_compressed_too(full: Web) -> None:
    path = "/api/tradingview/" + "nothing" * 400
    answer = await full.get(path, headers={"Accept-Encoding": "gzip, identity;q=0"})
    assert (answer.status_code, answer.headers["Content-Encoding"]) == (404, "gzip")
    data = await answer.get_data()
    assert isinstance(data, bytes)
    assert decoded(gzip.decompress(data))["s"] == "error"


async def test_small_answers_stay_as_they_are_unless_that_is_refused(full: Web) -> None:
    for path in ("/healthz", "/readyz", "/api/charts/health"):
        answer = await full.get(path, headers={"Accept-Encoding": "gzip"})
        data = await answer.get_data()
        assert len(data) < SMALL
        assert "Content-Encoding" not in answer.headers
        assert answer.headers["Vary"] == "Accept-Encoding"
        answer = await full.get(path, headers={"Accept-Encoding": "gzip, identity;q=0"})
        data = await answer.get_data()
        assert isinstance(data, bytes)
        assert answer.headers["Content-Encoding"] == "gzip"
        assert decoded(gzip.decompress(data))["status"] in ("alive", "ready", "ok")


async def test_an_answer_that_is_known_has_no_body_whatever_its_coding_was(full: Web) -> None:
    coded = {"Accept-Encoding": "zstd"}
    tag = (await full.get(HISTORY, headers=coded)).headers["ETag"]
    assert tag == (await full.get(HISTORY)).headers["ETag"]
    assert tag.startswith('W/"'), "its bytes are not those of the answer in another coding"
    for known in (tag, tag.removeprefix("W/"), f'"other", {tag}', "*"):
        for headers in (coded, {}):
            answer = await full.get(HISTORY, headers={"If-None-Match": known, **headers})
            assert (answer.status_code, await answer.get_data()) == (304, b"")
            assert answer.headers["ETag"] == tag
            assert "Content-Encoding" not in answer.headers
            assert answer.headers["Vary"] == "Accept-Encoding"
    for other in ("", tag[:-2] + '"', tag.strip('W/"')):
        assert (await full.get(HISTORY, headers={"If-None-Match": other})).status_code == 200


async def test_a_head_is_that_of_the_compressed_answer(full: Web) -> None:
    headers = {"Accept-Encoding": "gzip"}
    whole, head = await full.get(HISTORY, headers=headers), await full.ask("HEAD", HISTORY, headers=headers)
    for name in ("ETag", "Content-Length", "Content-Encoding", "Content-Type", "Vary"):
        assert head.headers[name] == whole.headers[name]


async def test_answers_differ_by_origin_and_by_coding(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", cors_origins=("https://chart.example",)) as web:
        (vary,) = (await web.get("/api/markets")).headers.getlist("Vary")
        assert {name.strip() for name in vary.split(",")} == {"Accept-Encoding", "Origin"}


@pytest.mark.parametrize("header", ["zstd", "gzip"])
async def test_a_large_answer_is_compressed_beside_the_loop(
    full: Web, header: Coding, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[bool] = []
    before = coding.CODINGS[header]

    def noted(data: bytes) -> bytes:
        threads.append(trio.lowlevel.in_trio_task())
        return before(data)

    monkeypatch.setitem(coding.CODINGS, header, noted)
    plain = await (await full.get(HISTORY)).get_data()
    for inline in (len(plain), len(plain) - 1):
        monkeypatch.setitem(coding.INLINE, header, inline)
        data = await (await full.get(HISTORY, headers={"Accept-Encoding": header})).get_data()
        assert isinstance(data, bytes)
        assert UNPACKED[header](data) == plain
    assert threads == [True, False]


async def test_what_the_page_has_packed_itself_is_not_packed_again(tmp_path: Path) -> None:
    static = tmp_path / "static"
    static.mkdir()
    (static / "index.html").write_text("<p>candled</p>" * 500)
    async with serving(tmp_path / "data", static=static) as web:
        data = await (await web.get("/", headers={"Accept-Encoding": "gzip, zstd"})).get_data()
        assert isinstance(data, bytes)
        assert gzip.decompress(data).startswith(b"<p>candled")


async def test_the_bytes_that_were_sent_are_counted(full: Web) -> None:
    sent = len(await (await full.get(HISTORY, headers={"Accept-Encoding": "zstd"})).get_data())
    await full.ask("HEAD", HISTORY)
    told = await (await full.get("/metrics")).get_data(as_text=True)
    assert f'candled_http_response_bytes_total{{route="/api/tradingview/history"}} {sent}.0' in told.splitlines()
