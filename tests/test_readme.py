"""What the README shows is done to a real daemon."""

import re
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
import trio

from tests.daemons import BIN, ROOT, environment, running

README = (ROOT / "README.md").read_text("utf-8")
MARK = "=== end of block {} ==="


class Block(NamedTuple):
    """A fenced block: what stands behind the fence, and what is in it."""

    kind: str
    text: str


def blocks(page: str) -> list[Block]:
    return [Block(kind.strip(), text) for kind, text in re.findall(r"^```(.*)\n((?s:.*?))^```$", page, re.MULTILINE)]


BLOCKS = blocks(README)


def without_cursor(answer: str) -> str:
    """An answer without the one member that is another every time."""
    return re.sub(r'"cursor":"[a-z0-9]+\.[0-9]+"', '"cursor":"…"', answer)


def test_the_readme_shows_what_posting_and_reading_print() -> None:
    shown = [before for before, after in pairwise(BLOCKS) if after.kind == "json"]
    assert [block.kind for block in shown] == ["sh demo", "sh demo"]


@pytest.mark.parametrize("command", ["demo", "serve"])
async def test_the_readme_does_what_it_says(command: str, tmp_path: Path) -> None:
    wanted = [block for block in BLOCKS if block.kind == f"sh {command}"]
    assert wanted
    async with running(command, home=tmp_path) as daemon:
        script = "set -euo pipefail\n" + "".join(
            f"{block.text}\necho '{MARK.format(index)}'\n" for index, block in enumerate(wanted)
        )
        script = script.replace("localhost:8000", f"localhost:{daemon.port}").replace(".venv/bin/", f"{BIN}/")
        done = await trio.run_process(
            ["bash", "-c", script],
            cwd=ROOT,
            env=environment(tmp_path),
            check=False,
            stdin=b"",
            capture_stdout=True,
            capture_stderr=True,
        )
        printed = done.stdout.decode()
        assert done.returncode == 0, f"{printed}\n{done.stderr.decode()}\n{daemon.log.read_text('utf-8')[-4000:]}"
        for index, block in enumerate(wanted):
            shown, printed = printed.split(MARK.format(index) + "\n")
            for before, after in pairwise(BLOCKS):
                if before is block and after.kind == "json":
                    assert without_cursor(shown).strip() == without_cursor(after.text).strip()


def test_the_first_command_starts_what_the_tests_start() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert Block("sh", "make run\n") in BLOCKS
    assert re.search(r"^run: setup .*\n\t\$\(BIN\)/candled demo --port \$\(PORT\)$", makefile, re.MULTILINE)
    assert Block("sh", ".venv/bin/candled serve\n") in BLOCKS


def test_every_make_target_that_the_readme_names_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    named = set(re.findall(r"(?:`|^)make ([a-z]+)(?:`|$)", README, re.MULTILINE))
    assert {"run", "test", "check"} <= named
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_file_that_the_readme_links_to_is_there() -> None:
    linked = [link for link in re.findall(r"\]\(([^)#]+)", README) if "://" not in link]
    assert linked
    for link in linked:
        assert (ROOT / link).exists(), link
