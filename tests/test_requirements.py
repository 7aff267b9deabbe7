"""The locked requirements hold hashes for everything and the address of nothing."""

import re
import tomllib
from pathlib import Path

import pytest

from tests.test_layers import ROOT

LOCKS = sorted((ROOT / "requirements").glob("*.txt"))


def pinned(lock: Path) -> dict[str, str]:
    """Each requirement of a lock with everything said of it."""
    whole = lock.read_text("utf-8").replace("\\\n", " ")
    lines = [line for line in whole.splitlines() if line and not line.lstrip().startswith("#")]
    return {re.split(r"[^\w.-]", line)[0]: line for line in lines}


def test_there_is_a_lock_for_running_developing_measuring_and_building() -> None:
    assert [lock.stem for lock in LOCKS] == ["bench", "dev", "node", "run"]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_every_locked_requirement_has_an_exact_version_and_hashes(lock: Path) -> None:
    assert pinned(lock)
    for name, said in pinned(lock).items():
        assert re.match(rf"{re.escape(name)}==\S+ .*--hash=sha256:[0-9a-f]{{64}}", said), said[:200]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_no_lock_names_a_registry_or_a_place_on_a_machine(lock: Path) -> None:
    assert not re.search(r"://|--index|--extra-index|--find-links|@ |(^|\s)/", lock.read_text("utf-8"), re.MULTILINE)


def test_the_locks_hold_what_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    groups = {"run": project["project"]["dependencies"], **project["dependency-groups"]}
    for group, wanted in groups.items():
        held = pinned(ROOT / "requirements" / f"{group}.txt")
        assert {re.split(r"[^\w.-]", one)[0].lower() for one in wanted} <= set(held), group


def test_one_version_of_each_package_is_used_everywhere() -> None:
    run, dev, bench = (pinned(ROOT / "requirements" / f"{name}.txt") for name in ("run", "dev", "bench"))
    for name, said in run.items():
        assert dev[name].split()[0] == bench[name].split()[0] == said.split()[0]
