"""`NodeTable`: nodeids, their paths and lookup counts."""

import random

import pytest

from taskfs.errors import NotFound
from taskfs.fuse.kernel.node_table import NodeTable


def test_a_path_keeps_its_nodeid_until_it_is_forgotten() -> None:
    """linux/fuse.h, LOOKUP: a file has one nodeid until FORGET has subtracted all its lookups."""
    table = NodeTable()
    first = table.add_lookup("/t/outputs", "a")
    assert table.add_lookup("/t/outputs", "a") == first
    assert table.add_lookup("/t/outputs", "b") != first
    assert table.path(first) == "/t/outputs/a"
    assert table.path(1) == ""
    table.forget(first, 1)
    assert table.path(first) == "/t/outputs/a"
    table.forget(first, 1)
    with pytest.raises(NotFound):
        table.path(first)


class _Twin(str):
    """A name whose hash is that of all others."""

    def __hash__(self) -> int:
        return 7


def test_paths_with_equal_hashes_have_different_nodeids() -> None:
    """A-15: Paths with one hash get different node numbers."""
    table = NodeTable()
    numbers = [table.add_lookup("/t", _Twin(name)) for name in "abcd"]
    assert len(set(numbers)) == 4
    assert [table.path(number) for number in numbers] == ["/t/a", "/t/b", "/t/c", "/t/d"]
    table.forget(numbers[1], 1)
    assert [table.path(numbers[i]) for i in (0, 2, 3)] == ["/t/a", "/t/c", "/t/d"]


def test_a_forgotten_nodeid_takes_no_memory() -> None:
    """R-20: Nothing is kept of a name that the kernel forgot."""
    table, chance = NodeTable(), random.Random(5)
    lookups: dict[int, int] = {}
    for _ in range(5000):
        number = table.add_lookup(f"/{chance.randrange(9)}", str(chance.randrange(50)))
        lookups[number] = lookups.get(number, 0) + 1
        if chance.random() < 0.5:
            number = chance.choice(list(lookups))
            count = chance.randrange(1, lookups[number] + 1)
            table.forget(number, count)
            lookups[number] -= count
            if not lookups[number]:
                del lookups[number]
    assert len(table) == len(lookups)
    for number, count in lookups.items():
        table.forget(number, count)
    assert len(table) == 0
    table.forget(table.add_lookup("", "again"), 1)  # it counts from one again
    assert len(table) == 0
