"""What an error of the operating system means for whoever wanted something written."""

import errno

from storage.errors import CandledError, FailedDisk, Unavailable

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def meant(error: OSError, what: str) -> CandledError:
    """FailedDisk where the disk fails, else Unavailable: there may be room, or leave, later."""
    if error.errno == errno.EIO:
        return FailedDisk(f"{what}: {error}")
    if error.errno in NO_SPACE:
        return Unavailable(f"{what}: no space left on the disk", retry_after=5)
    return Unavailable(f"{what}: {error}")
