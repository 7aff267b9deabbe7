import gzip
from pathlib import Path

from tests.web.conftest import serving

SCRIPT = b"console.log('x');" * 200


def built(folder: Path) -> Path:
    """A page as the build leaves it, with something secret beside it."""
    (folder / "static" / "assets").mkdir(parents=True)
    (folder / "static" / "index.html").write_text("<!doctype html><title>candled</title>")
    (folder / "static" / "assets" / "index-abc123.js").write_bytes(SCRIPT)
    (folder / "static" / "robots.txt").write_text("User-agent: *")
    (folder / "state.db").write_text("secret")
    return folder / "static"


async def test_the_page_is_asked_for_again_and_its_parts_are_kept(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", static=built(tmp_path)) as web:
        page = await web.get("/")
        assert "<title>candled</title>" in await page.get_data(as_text=True)
        assert page.headers["Content-Type"] == "text/html; charset=utf-8"
        assert page.headers["Cache-Control"] == "no-cache"
        assert (await web.get("/", headers={"If-None-Match": page.headers["ETag"]})).status_code == 304
        script = await web.get("/assets/index-abc123.js")
        assert await script.get_data(as_text=False) == SCRIPT
        assert script.headers["Content-Type"] == "application/javascript; charset=utf-8"
        assert "immutable" in script.headers["Cache-Control"]
        packed = await web.get("/assets/index-abc123.js", headers={"Accept-Encoding": "gzip, br"})
        assert packed.headers["Content-Encoding"] == "gzip"
        assert "Accept-Encoding" in packed.headers["Vary"]
        data = await packed.get_data(as_text=False)
        assert gzip.decompress(bytes(data, "latin-1") if isinstance(data, str) else data) == SCRIPT
        assert (await web.get("/robots.txt")).status_code == 200


async def test_the_page_runs_nothing_from_elsewhere_and_in_nobodys_frame(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", static=built(tmp_path)) as web:
        for path in ("/", "/assets/index-abc123.js"):
            headers = (await web.get(path)).headers
            policy = headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "script-src 'self';" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert headers["X-Frame-Options"] == "DENY"
            assert headers["Referrer-Policy"] == "no-referrer"
            assert "Access-Control-Allow-Origin" not in headers


async def test_only_what_was_built_is_served(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", static=built(tmp_path)) as web:
        for path in (
            "/state.db",
            "/../state.db",
            "/assets/../../state.db",
            "/assets/%2e%2e/%2e%2e/state.db",
            "/assets/",
        ):
            answer = await web.get(path)
            assert answer.status_code == 404, path
            assert "secret" not in await answer.get_data(as_text=True)


async def test_where_no_page_was_built_one_says_so(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as web:
        page = await web.get("/")
        assert page.status_code == 200
        assert "not built" in await page.get_data(as_text=True)
        assert "Content-Security-Policy" in page.headers
