"""A secret that is made once and kept in a file that nobody else may read."""

import os
import secrets
from contextlib import suppress
from pathlib import Path

BYTES = 48


def kept(path: Path) -> str:
    """The secret in this file; made, and on the disk, where there is none yet."""
    with suppress(FileExistsError):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_urlsafe(BYTES))
            file.flush()
            os.fsync(file.fileno())
    return path.read_text().strip()
