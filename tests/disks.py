"""Disks of any size, for tests that need one to be full."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(place: Path, *command: str) -> Iterator[Path]:
    """A file system of its own; skips where this user may not mount one."""
    place.mkdir()
    done = subprocess.run(["mount", *command, str(place)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount a file system here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def small(place: Path, size: str) -> AbstractContextManager[Path]:
    """A disk in memory, such as of 8m."""
    return mounted(place, "-t", "tmpfs", "-o", f"size={size}", "tmpfs")


def resized(disk: Path, size: str) -> None:
    """Make one in memory larger, or smaller."""
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)


def filled(disk: Path, leave: int = 0) -> Path:
    """A file on it that takes all room but for so many bytes."""
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        file.write(bytes(max(0, shutil.disk_usage(disk).free - leave)))
    return ballast
