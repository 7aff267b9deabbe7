"""The sketch of a distinct measure in memory: the smallest of the hashes it was given."""

from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np

from storage.events import Array
from storage.measures import SKETCH, distinct_count

GATHERED = 64  # as many as are looked through again for one more: a set takes ten times the memory of an array
_NONE: Array = np.zeros(0, np.uint64)


class Sketch:
    """The smallest SKETCH different hashes of those given: an ascending array, and a set of what came since."""

    __slots__ = ("_kept", "_limit", "_new")

    def __init__(self, hashes: Iterable[int] = ()) -> None:
        self._kept = _NONE
        self._limit = 0  # hashes from here on are not among the smallest; 0 while there are fewer than SKETCH
        if isinstance(hashes, Sketch):
            self._kept, self._limit = hashes._kept, hashes._limit
            hashes = iter(hashes._new)
        self._new: set[int] = set(hashes)
        if len(self._new) > GATHERED:
            self._gather()

    def __iter__(self) -> Iterator[int]:
        return chain(self._kept.tolist(), self._new)

    def add(self, hashes: Iterable[int]) -> None:
        """Take in some more."""
        if isinstance(hashes, Sketch) and not len(hashes._kept):
            hashes = hashes._new
        if self._limit:
            hashes = [number for number in hashes if number < self._limit]
        self._new.update(hashes)
        if len(self._new) > GATHERED:
            self._gather()

    def array(self) -> Array:
        """The hashes, ascending; not to be changed."""
        if self._new:
            self._gather()
        return self._kept

    def count(self) -> int:
        """How many different things it has seen: see `distinct_count`."""
        return distinct_count(self.array()) if len(self._kept) else len(self._new)

    def _gather(self) -> None:
        new = np.fromiter(self._new, np.uint64, len(self._new))
        all_ = np.concatenate((self._kept, new))
        all_.sort(kind="stable")  # makes use of what is in order already
        self._kept = all_[np.append(True, all_[1:] != all_[:-1])][:SKETCH]
        self._limit = int(self._kept[-1]) if len(self._kept) == SKETCH else 0
        self._new = set()


def smallest(hashes: Iterable[int]) -> Array:
    """The smallest SKETCH different of these hashes, ascending."""
    return (hashes if isinstance(hashes, Sketch) else Sketch(hashes)).array()
