"""Walks over tasks through fsspec: their requests to the API and the store."""

import itertools
from collections.abc import Callable
from typing import Final

import dask
import pytest
from dask.bytes import read_bytes

from taskfs.cache.block import BLOCK
from taskfs.fsspec.filesystem import TaskFileSystem
from tests.fake_api import FakeCloud
from tests.file_systems import assert_same
from tests.outputs import add_finished_task, noise
from tests.ranges import Ranges, member_requests

COUNT: Final = 30
# More than the bytes that are fetched with the archive's directory, so that they do not hold it.
LARGE: Final = noise("large", 300_000)
FILES: Final = {"large.bin": LARGE, "other.bin": noise("other", 300_000)}
WORKERS: Final = 4


@pytest.fixture
def tasks(by_environment: FakeCloud) -> list[str]:
    return sorted(add_finished_task(by_environment, FILES) for _ in range(COUNT))


def signings(cloud: FakeCloud) -> int:
    return sum(record.path == "/storage/signed-urls" for record in cloud.requests)


def open_and_read(fs: TaskFileSystem, path: str) -> bytes:
    with fs.open(path) as file:
        return bytes(file.read(1000))


READS: Final[list[Callable[[TaskFileSystem, str], bytes]]] = [
    open_and_read,
    lambda fs, path: fs.cat_file(path, 0, 1000),
    lambda fs, path: fs.cat_file(path, -1000),
    lambda fs, path: fs.cat_file(path),
]


@pytest.mark.parametrize("read", READS, ids=["open", "head", "tail", "cat_file"])
def test_a_member_of_each_task_is_prefetched(
    remote: TaskFileSystem,
    by_environment: FakeCloud,
    tasks: list[str],
    read: Callable[[TaskFileSystem, str], bytes],
) -> None:
    """R-45, R-29: The same file of one task after another comes in several requests at once, with
    no more requests and bytes than the reads need."""
    remote.ls("")
    ranges = Ranges(by_environment)
    contents = [read(remote, f"{tasks[0]}/outputs/large.bin")]
    requests, used = ranges.cost()
    contents += [read(remote, f"{task}/outputs/large.bin") for task in tasks[1:]]
    ranges.settle()
    assert len(set(contents)) == 1
    assert ranges.peak >= 4
    # A reader that overtakes the prefetch of its member takes one request more.
    assert len(ranges.records()) <= (requests + 1) * COUNT
    assert ranges.bytes() <= used * COUNT


def test_dask_partitions_cost_what_they_need(
    by_environment: FakeCloud, tasks: list[str], remote: TaskFileSystem
) -> None:
    """R-45, R-29, R-30, P-16: Threads that read a partition each, the file of each task, send one
    range or two for it, fetch little more than its bytes, and have several URLs signed at once."""
    _, partitions = read_bytes(
        "taskfs://*/outputs/large.bin", blocksize=None, sample=False, delimiter=None
    )
    by_environment.clear_requests()
    parts = itertools.chain.from_iterable(partitions)
    contents = dask.compute(*parts, scheduler="threads", num_workers=WORKERS)
    assert len(contents) == COUNT
    for content in contents:
        assert_same(content, LARGE)
    assert signings(by_environment) <= 4 + COUNT // 4
    requests = member_requests(by_environment)
    assert len(requests) <= 2 * COUNT
    assert sum(record.bytes_sent for record in requests) <= COUNT * (len(LARGE) + 2 * BLOCK)


def test_cat_of_many_tasks(
    remote: TaskFileSystem, by_environment: FakeCloud, tasks: list[str]
) -> None:
    """R-29, R-30, P-6: `cat` of a pattern over all tasks fetches each file once, in parallel."""
    remote.ls("")
    by_environment.clear_requests()
    found = remote.cat("*/outputs/large.bin")
    assert sorted(found) == [f"{task}/outputs/large.bin" for task in tasks]
    for content in found.values():
        assert_same(content, LARGE)
    assert signings(by_environment) <= 4 + COUNT // 4
    assert len(member_requests(by_environment)) <= 2 * COUNT
    sent = sum(record.bytes_sent for record in member_requests(by_environment))
    assert sent <= COUNT * (len(LARGE) + 2 * BLOCK)
