"""The sketch of a distinct measure against a set of everything it was given."""

import random

from actors.sketch import GATHERED, Sketch, smallest
from storage.measures import SKETCH, distinct_count


def test_a_sketch_is_the_smallest_of_all_hashes_it_was_given_whatever_they_came_with() -> None:
    chance = random.Random(3)
    sketch, given = Sketch(), set[int]()
    for size in (0, 1, 3, GATHERED, 5, 1000, 1, 2 * SKETCH, 7, 1, 3 * SKETCH, GATHERED + 1, 2):
        some = [chance.getrandbits(64) for _ in range(size)] + chance.sample(sorted(given), min(len(given), 9))
        sketch.add(Sketch(some) if size % 2 else some)
        given.update(some)
        expected = sorted(given)[:SKETCH]
        assert Sketch(sketch).array().tolist() == expected  # a copy, which leaves what is gathered as it is
        assert set(sketch) >= set(expected)
        assert Sketch(sketch).count() == distinct_count(smallest(given))
    assert sketch.array().tolist() == expected


def test_a_copy_is_a_sketch_of_its_own() -> None:
    first = Sketch(range(1, 10))
    second = Sketch(first)
    second.add([10, 11])
    assert (first.count(), second.count()) == (9, 11)
    assert first.array().tolist() == list(range(1, 10))


def test_what_is_smallest_of_few_hashes_is_all_of_them_in_order() -> None:
    assert smallest([5, 2**64 - 1, 3, 5]).tolist() == [3, 5, 2**64 - 1]
    assert smallest([]).tolist() == []
