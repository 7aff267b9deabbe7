"""A disk that fails and a clock that jumps, for a daemon in a process of its own: see faults.c."""

import mmap
import os
import struct
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("faults.c")
WANTED = struct.Struct(
    "<iiqq128s"
)  # error, calls, how many fell, nanoseconds that the clock is moved, part of the path
WRITES, SYNCS, READS = 1, 2, 4
BOTH = WRITES | SYNCS


class Faults:
    """What is to go wrong in the daemon that is started with `variables`."""

    def __init__(self, folder: Path) -> None:
        library, path = folder / "faults.so", folder / "faults"
        try:
            made = subprocess.run(
                ["cc", "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"], capture_output=True, check=False
            )
        except FileNotFoundError:
            pytest.skip("no C compiler here")
        assert made.returncode == 0, made.stderr.decode()
        path.write_bytes(bytes(WANTED.size))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), WANTED.size)
        self.variables: Mapping[str, str] = {"LD_PRELOAD": str(library), "FAULTS": str(path)}

    @property
    def fell(self) -> int:
        """How many calls have failed since the beginning."""
        count: int = WANTED.unpack(self._map)[2]
        return count

    @contextmanager
    def failing(self, part: str, error: int, calls: int = BOTH) -> Iterator[None]:
        """While the block lasts, these calls fail for all files with this in their path."""
        self._fail(error, calls, part)
        try:
            yield
        finally:
            self._fail(0, 0, "")

    def _fail(self, error: int, calls: int, part: str) -> None:
        struct.pack_into("<i", self._map, 0, 0)  # off, while the rest changes
        struct.pack_into("<128s", self._map, 24, os.fsencode(part))
        struct.pack_into("<ii", self._map, 0, error, calls)

    def move_clock(self, seconds: float) -> None:
        """Have the daemon's clock be so far ahead of ours, or behind."""
        struct.pack_into("<q", self._map, 16, int(seconds * 1e9))
