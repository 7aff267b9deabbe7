"""What the disk is used for."""

from typing import NamedTuple

import trio

from storage import usage
from web.context import Services


class Part(NamedTuple):
    """A part of the data directory; bars by kind of market and resolution, others with neither."""

    name: str
    kind: str
    resolution: str
    bytes: int


async def used(services: Services) -> list[Part]:
    """All parts."""
    found = await trio.to_thread.run_sync(usage.used, services.database.path.parent)
    held = services.archivist.statistics().held
    return [
        *(Part(name, "", "", size) for name, size in found.items()),
        *(Part("archive", kind, resolution, one.bytes) for (kind, resolution), one in held.items()),
    ]
