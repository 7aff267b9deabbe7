"""The time of day as if nobody had set the clock since the start: how old things are, and how long they are kept."""

import time
from collections.abc import Callable

# Goes on while the machine sleeps, where the system has a clock that does.
_passing = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def steady(now: Callable[[], float] = time.time) -> Callable[[], float]:
    """A clock that begins with `now()`, Unix seconds, and no jump of it can move."""
    began, since = now(), time.clock_gettime(_passing)
    return lambda: began + time.clock_gettime(_passing) - since
