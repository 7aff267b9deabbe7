"""Our four package names are common words: see that they are provided by us alone."""

from importlib import import_module
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.test_layers import LAYERS, ROOT


@pytest.mark.parametrize("name", LAYERS)
def test_the_package_is_ours(name: str) -> None:
    assert set(packages_distributions().get(name, ["candled"])) == {"candled"}
    file = import_module(name).__file__
    assert file is not None
    assert Path(file).is_relative_to(ROOT)
