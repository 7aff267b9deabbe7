"""What more than one folder of tests needs."""

from pathlib import Path

import pytest
import trio
from hypothesis import settings

from tests.histories import PLACES
from tests.stacks import running

# A machine that is busy is no failure.
settings.register_profile("candled", parent=settings(), deadline=None, max_examples=50)
settings.load_profile("candled")


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory in which the markets are registered and nothing has happened; copied, it saves the making."""
    folder = tmp_path_factory.mktemp("empty") / "data"

    async def made() -> None:
        async with running(folder) as stack:
            for symbol, place in PLACES.items():
                await stack.registry.put(place.fields(symbol))

    trio.run(made)
    return folder
