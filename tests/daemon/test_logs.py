"""Log lines: one an event, JSON where nobody watches, no secrets."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from daemon import logs


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


class Terminal(io.StringIO):
    """A stream that says a person is watching."""

    def isatty(self) -> bool:
        return True


def test_a_line_is_one_json_object_where_nobody_watches() -> None:
    out = io.StringIO()
    logs.configure(stream=out)
    structlog.get_logger("candled").info("flushed", rows=12)
    line = json.loads(out.getvalue())
    assert line["message"] == "flushed"
    assert line["rows"] == 12
    assert line["level"] == "info"
    assert line["timestamp"].endswith("Z")
    assert out.getvalue().count("\n") == 1


def test_an_error_with_its_traceback_is_one_line_too() -> None:
    out = io.StringIO()
    logs.configure(stream=out)
    try:
        raise ValueError("broken")
    except ValueError:
        structlog.get_logger("candled").exception("no good")
    assert out.getvalue().count("\n") == 1
    assert "ValueError: broken" in json.loads(out.getvalue())["exception"]


def test_a_terminal_is_written_to_for_people() -> None:
    out = Terminal()
    logs.configure(stream=out)
    structlog.get_logger("candled").info("flushed", rows=12)
    assert not out.getvalue().startswith("{")
    assert "flushed" in out.getvalue()


def test_what_libraries_log_looks_the_same() -> None:
    out = io.StringIO()
    logs.configure(stream=out)
    logging.getLogger("somebody").warning("look %s", "here", extra={"rows": 12, "token": "hush"})
    line = json.loads(out.getvalue())
    assert (line["message"], line["level"], line["rows"], line["token"]) == ("look here", "warning", 12, "(secret)")


def test_below_the_level_nothing_is_written() -> None:
    out = io.StringIO()
    logs.configure(level="warning", stream=out)
    structlog.get_logger("candled").info("not worth it")
    logging.getLogger("somebody").info("nor this")
    assert out.getvalue() == ""


def test_a_member_that_is_secret_by_its_name_is_not_written() -> None:
    out = io.StringIO()
    logs.configure(stream=out)
    structlog.get_logger("candled").info("asked", token="hush", Authorization="Bearer hush", path="/")
    assert "hush" not in out.getvalue()
    assert json.loads(out.getvalue())["path"] == "/"
