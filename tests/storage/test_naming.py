"""Rows are named by what they say and by how many equal ones came before."""

import random
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from storage.files import NEVER, suffix_minima
from storage.naming import BYTES, Namer, Occurrences


@pytest.mark.parametrize("ordered", [True, False])
def test_occurrences_are_counted_however_the_words_are_cut_and_no_longer_kept_than_they_must(ordered: bool) -> None:
    chance = random.Random(11)
    for _ in range(30):
        times = [chance.randrange(50) for _ in range(400)]
        if ordered:
            times.sort()
        words = [at * 10 + chance.randrange(3) for at in times]
        seen: Counter[int] = Counter()
        expected = []
        for word in words:
            expected.append(seen[word])
            seen[word] += 1
        since = [*suffix_minima(times), NEVER]
        some, found, at, most = Occurrences(), [], 0, 0
        while at < len(words):
            end = min(len(words), at + chance.randrange(1, 60))
            here = np.array(words[at:end], np.uint64)
            found += some.before(here, np.array(times[at:end], np.int64), since[end]).tolist()
            most = max(most, sum(len(run) for run, _, _ in some._runs))
            at = end
        assert found == expected
        assert not some._runs
        assert most <= (6 if ordered else 300)


def named(*columns: tuple[str, list[object]], horizon: int = 0) -> list[str]:
    raw = {name: pa.array(values) for name, values in columns}
    times = np.zeros(len(columns[0][1]), np.int64)
    names, _ = Namer().names(raw, times, None, horizon)
    found: list[str] = names.to_pylist()
    return found


def test_a_name_says_all_that_a_row_says_and_nothing_else() -> None:
    a: tuple[str, list[object]] = ("a", ["x", "x", "y", None])
    b: tuple[str, list[object]] = ("b", [1, 1, 1, 2])
    names = named(a, b)
    assert len(set(names)) == 4
    assert names[1] == f"{names[0]}-1"
    assert {len(name) for name in names} == {2 * BYTES, 2 * BYTES + 2}
    assert named(b, a) == names, "in whatever order the columns are"
    assert named(a, b, ("c", [None] * 4)) == names, "what says nothing may be there or not"
    assert not set(named(a, ("c", b[1]))) & set(names)
    # They end in what is kept for years.
    assert names == [
        *("ea210cec4a314e44ab51", "ea210cec4a314e44ab51-1"),
        *("743f4f23b47e8facc169", "e746619cf931f5432fcb"),
    ]
