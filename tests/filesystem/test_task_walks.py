"""Walks over tasks through fsspec: their requests to the API and the store."""

import itertools
from collections.abc import Callable
from typing import Any, Final

import dask
import pytest
from dask.bytes import read_bytes

from taskfs.cache.block import BLOCK
from taskfs.fsspec.filesystem import TaskFileSystem
from tests.fake_api import FakeCloud
from tests.file_systems import assert_same
from tests.outputs import add_finished_task, noise

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


def ranges(cloud: FakeCloud) -> list[Any]:
    """Return the requests of members, without those of the archives' ends."""
    store = (record for record in list(cloud.requests) if record.side == "store")
    return [record for record in store if not str(record.range).startswith("bytes=-")]


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
    cloud, peak = by_environment, 0

    def measure(record: Any) -> bool:
        nonlocal peak
        peak = max(peak, sum(not each.status for each in ranges(cloud)))
        return True

    remote.ls("")
    cloud.clear_requests()
    cloud.faults.add("stall", side="store", times=None, seconds=0.05, match=measure)
    contents = [read(remote, f"{tasks[0]}/outputs/large.bin")]
    requests, used = len(ranges(cloud)), sum(record.bytes_sent for record in ranges(cloud))
    contents += [read(remote, f"{task}/outputs/large.bin") for task in tasks[1:]]
    assert len(set(contents)) == 1
    assert peak >= 4
    assert len(ranges(cloud)) <= requests * COUNT
    assert sum(record.bytes_sent for record in ranges(cloud)) <= used * COUNT


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
    requests = ranges(by_environment)
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
    assert len(ranges(by_environment)) <= 2 * COUNT
    sent = sum(record.bytes_sent for record in ranges(by_environment))
    assert sent <= COUNT * (len(LARGE) + 2 * BLOCK)
