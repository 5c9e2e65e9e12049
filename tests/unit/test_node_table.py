"""The paths that the kernel knows by number."""

import random

import pytest

from taskfs.errors import NotFound
from taskfs.fuse.kernel.node_table import NodeTable


def test_a_path_keeps_its_number_while_the_kernel_knows_it() -> None:
    """linux/fuse.h, LOOKUP: one nodeid for one file, until FORGET took back all that was told."""
    places = NodeTable()
    first = places.add_lookup("/t/outputs", "a")
    assert places.add_lookup("/t/outputs", "a") == first
    assert places.add_lookup("/t/outputs", "b") != first
    assert places.path(first) == "/t/outputs/a"
    assert places.path(1) == ""
    places.forget(first, 1)
    assert places.path(first) == "/t/outputs/a"
    places.forget(first, 1)
    with pytest.raises(NotFound):
        places.path(first)


class _Twin(str):
    """A name whose hash is that of all others."""

    def __hash__(self) -> int:
        return 7


def test_paths_of_one_hash_are_told_apart() -> None:
    """A-15: Paths with one hash get different node numbers."""
    places = NodeTable()
    numbers = [places.add_lookup("/t", _Twin(name)) for name in "abcd"]
    assert len(set(numbers)) == 4
    assert [places.path(number) for number in numbers] == ["/t/a", "/t/b", "/t/c", "/t/d"]
    places.forget(numbers[1], 1)
    assert [places.path(numbers[i]) for i in (0, 2, 3)] == ["/t/a", "/t/c", "/t/d"]


def test_nothing_is_kept_of_what_the_kernel_forgot() -> None:
    """R-20: Nothing is kept of a name that the kernel forgot."""
    places, chance = NodeTable(), random.Random(5)
    told: dict[int, int] = {}
    for _ in range(5000):
        number = places.add_lookup(f"/{chance.randrange(9)}", str(chance.randrange(50)))
        told[number] = told.get(number, 0) + 1
        if chance.random() < 0.5:
            number = chance.choice(list(told))
            count = chance.randrange(1, told[number] + 1)
            places.forget(number, count)
            told[number] -= count
            if not told[number]:
                del told[number]
    assert len(places) == len(told)
    for number, count in told.items():
        places.forget(number, count)
    assert len(places) == 0
    places.forget(places.add_lookup("", "again"), 1)  # it counts from one again
    assert len(places) == 0
