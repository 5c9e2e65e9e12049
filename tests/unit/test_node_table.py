"""`NodeTable`: nodeids, their paths and lookup counts."""

import random
import tracemalloc

import pytest

from taskfs.errors import NotFound
from taskfs.fuse.kernel import node_table
from taskfs.fuse.kernel.node_table import NodeTable
from taskfs.fuse.kernel.protocol import ROOT_ID


def test_a_path_keeps_its_nodeid_until_it_is_forgotten() -> None:
    """linux/fuse.h, LOOKUP: a file has one nodeid until FORGET has subtracted all its lookups."""
    table = NodeTable()
    task = table.add_lookup(ROOT_ID, b"task")
    outputs = table.add_lookup(task, b"outputs")
    first = table.add_lookup(outputs, b"a")
    assert table.add_lookup(outputs, b"a") == first
    assert table.add_lookup(outputs, b"b") != first
    assert table.add_lookup(task, b"a") != first
    assert table.path(first) == "/task/outputs/a"
    assert table.path(ROOT_ID) == ""
    table.forget(first, 1)
    assert table.path(first) == "/task/outputs/a"
    table.forget(first, 1)
    with pytest.raises(NotFound):
        table.path(first)
    with pytest.raises(NotFound):
        table.add_lookup(first, b"x")


def test_a_name_may_have_any_bytes() -> None:
    """N-16: A nodeid leads back to the bytes of its name."""
    table = NodeTable()
    for name in (b"\xff\n", "é".encode(), b"x" * 255, b"gone\0"):
        path = table.path(table.add_lookup(ROOT_ID, name))
        assert path.encode("utf-8", "surrogateescape") == b"/" + name


def test_a_directory_is_kept_for_its_files() -> None:
    """linux/fuse.h, FORGET: The kernel may forget a directory before a file in it, which is open;
    the file keeps its path."""
    table = NodeTable()
    task = table.add_lookup(ROOT_ID, b"task")
    file = table.add_lookup(task, b"file")
    table.forget(task, 1)
    assert table.path(file) == "/task/file"
    table.forget(file, 1)
    assert len(table) == 0
    with pytest.raises(NotFound):
        table.path(task)


def test_a_nodeid_is_used_again_under_its_new_name() -> None:
    """A-15: The path of a forgotten directory is not shown for the next one with its nodeid."""
    table = NodeTable()
    old = table.add_lookup(ROOT_ID, b"old")
    assert table.path(table.add_lookup(old, b"file")) == "/old/file"
    for nodeid in range(2, 4):
        table.forget(nodeid, 1)
    new = table.add_lookup(ROOT_ID, b"new")
    assert table.path(table.add_lookup(new, b"file")) == "/new/file"


def test_a_forgotten_nodeid_takes_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """R-20: Nothing is kept of a name that the kernel forgot, and the others keep their paths."""
    monkeypatch.setattr(node_table, "MIN_GARBAGE", 500)
    table, chance = NodeTable(), random.Random(5)
    lookups: dict[int, int] = {}
    paths: dict[int, str] = {}
    directories = [table.add_lookup(ROOT_ID, b"%d" % number) for number in range(9)]
    for _ in range(20_000):
        place, name = chance.randrange(9), chance.randrange(500)
        number = table.add_lookup(directories[place], b"%d" % name)
        lookups[number] = lookups.get(number, 0) + 1
        assert paths.setdefault(number, f"/{place}/{name}") == f"/{place}/{name}"
        if chance.random() < 0.5:
            number = chance.choice(list(lookups))
            count = chance.randrange(1, lookups[number] + 1)
            assert table.path(number) == paths[number]
            table.forget(number, count)
            lookups[number] -= count
            if not lookups[number]:
                del lookups[number], paths[number]
    assert len(table) == len(lookups) + len(directories)
    for number, count in lookups.items():
        assert table.path(number) == paths[number]
        table.forget(number, count)
    for number in directories:
        table.forget(number, 1)
    assert len(table) == 0
    table.forget(table.add_lookup(ROOT_ID, b"again"), 1)  # it counts from one again
    assert len(table) == 0


def test_forgotten_names_are_freed() -> None:
    """R-20: The names that the kernel has forgotten take a bounded part of the memory."""
    table = NodeTable()
    tracemalloc.start()
    try:
        for number in range(40_000):
            table.forget(table.add_lookup(ROOT_ID, b"%0250d" % number), 1)
        assert tracemalloc.get_traced_memory()[0] < 40_000 * 250 // 3
    finally:
        tracemalloc.stop()


def test_a_name_takes_few_bytes() -> None:
    """R-50: A name that the kernel knows takes less than 64 bytes."""
    tracemalloc.start()
    try:
        table = NodeTable()
        for number in range(50_000):
            table.add_lookup(ROOT_ID, b"file-%08d" % number)
        assert tracemalloc.get_traced_memory()[0] < 50_000 * 64
    finally:
        tracemalloc.stop()


def test_the_nodes_beneath_a_path_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """F-10: The nodes beneath a directory are found, with the directory itself, in whatever order
    the kernel looked them up."""
    monkeypatch.setattr(node_table, "BATCH", 3)
    table = NodeTable()
    forgotten = table.add_lookup(ROOT_ID, b"spare")
    task = table.add_lookup(ROOT_ID, b"task", is_directory=True)
    other = table.add_lookup(task, b"inputs", is_directory=True)
    outputs = table.add_lookup(task, b"outputs", is_directory=True)
    table.forget(forgotten, 1)
    folder = table.add_lookup(outputs, b"folder", is_directory=True)
    assert folder < outputs
    files = {table.add_lookup(folder, b"%d" % number) for number in range(20)}
    inputs_file = table.add_lookup(other, b"file")
    table.add_lookup(ROOT_ID, b"outputs")
    paths = ["task/outputs", "task/nothing/there", "task/inputs"]
    found = list(map(set, table.beneath(paths)))
    assert found == [{outputs, folder, *files}, set(), {other, inputs_file}]
    assert table.name(folder) == (outputs, b"folder")


def test_a_file_that_becomes_a_directory_is_another_node() -> None:
    """F-10: A path that was a file and is a directory has two nodes, and both are found."""
    table = NodeTable()
    file = table.add_lookup(ROOT_ID, b"a")
    folder = table.add_lookup(ROOT_ID, b"a", is_directory=True)
    assert file != folder and table.path(file) == table.path(folder) == "/a"
    assert not table.is_directory(file) and table.is_directory(folder)
    assert table.add_lookup(ROOT_ID, b"a", is_directory=True) == folder
    assert set(*table.beneath(["a"])) == {file, folder}
