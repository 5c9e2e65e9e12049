"""Walks over tasks: their requests to the API and the store."""

import os
import random
import subprocess
import time
from collections.abc import Callable
from typing import Final

import pytest

from taskfs.cache.block import BLOCK
from tests.fake_api import FakeCloud
from tests.file_systems import FileSystem, assert_same
from tests.mounts import Mount
from tests.outputs import LONG_AGO, add_finished_task, noise, put_outputs
from tests.ranges import Ranges, settle
from tests.zips import DEFLATED, STORED

COUNT = 60


def signings(cloud: FakeCloud) -> int:
    """Return how many requests signed URLs."""
    return sum(record.path == "/storage/signed-urls" for record in cloud.requests)


def stored(cloud: FakeCloud) -> int:
    """Return how many requests the store had."""
    return sum(record.side == "store" for record in cloud.requests)


def add_tasks(cloud: FakeCloud) -> list[str]:
    """Add tasks with one small file; return them sorted by name, as a shell lists them."""
    return sorted(add_finished_task(cloud, {"stdout.txt": f"{n}\n".encode()}) for n in range(COUNT))


def open_listed(new_fs: Callable[..., FileSystem], cloud: FakeCloud) -> FileSystem:
    """Return a surface that has listed the tasks; requests are counted from now on."""
    fs = new_fs()
    fs.names()
    cloud.clear_requests()
    return fs


def test_a_walk_signs_many_urls_at_once(
    new_fs: Callable[..., FileSystem], cloud: FakeCloud
) -> None:
    """R-29, R-30: To read one file of each task in turn takes few requests of the API."""
    tasks = add_tasks(cloud)
    fs = open_listed(new_fs, cloud)
    read = [fs.read(f"{task}/outputs/stdout.txt") for task in tasks]
    assert sorted(read) == sorted(f"{n}\n".encode() for n in range(COUNT))
    # A reader that overtakes the prefetch on a busy machine has its URL signed alone.
    assert signings(cloud) <= 4 + COUNT // 4
    assert stored(cloud) == COUNT


def test_a_walk_that_stops(new_fs: Callable[..., FileSystem], cloud: FakeCloud) -> None:
    """R-29: After a walk that stops, at most twice as many tasks were requested, and no more."""
    tasks = add_tasks(cloud)
    fs = open_listed(new_fs, cloud)
    for task in tasks[:8]:
        fs.read(f"{task}/outputs/stdout.txt")
    settle(cloud)
    assert stored(cloud) <= 8 * 3
    count = len(cloud.requests)
    time.sleep(1)
    assert len(cloud.requests) == count


def test_a_walk_through_a_view(new_fs: Callable[..., FileSystem], cloud: FakeCloud) -> None:
    """R-29, R-30: A walk through a view, whose tasks lie apart in the listing, is prefetched."""
    tasks = add_tasks(cloud)
    for _ in range(9 * COUNT):
        cloud.add_task(status="failed", end_time=LONG_AGO)
    fs = new_fs()
    assert sorted(fs.names(".by-status/success")) == tasks
    cloud.clear_requests()
    for task in tasks:
        fs.read(f"{task}/outputs/stdout.txt")  # where the link leads
    assert signings(cloud) <= 4 + COUNT // 4
    # Some are neighbours in the account by chance, so a few of the 9 * COUNT others are prefetched.
    assert stored(cloud) <= 2 * COUNT


def test_three_tasks_cause_no_request_for_others(
    new_fs: Callable[..., FileSystem], cloud: FakeCloud
) -> None:
    """R-29: A reader that picks three tasks at random pays for these."""
    tasks = add_tasks(cloud)
    fs = open_listed(new_fs, cloud)
    for task in random.Random(3).sample(tasks, 3):
        fs.read(f"{task}/outputs/stdout.txt")
    assert (signings(cloud), stored(cloud)) == (3, 3)


def test_a_walk_that_meets_tasks_without_an_archive(
    new_fs: Callable[..., FileSystem], cloud: FakeCloud
) -> None:
    """R-29, F-12: A task without an archive shows as empty, and the walk goes on."""
    tasks = add_tasks(cloud)
    empty = set(tasks[10:40:5])
    for task in empty:
        cloud.remove_object(f"{task}/output.zip")
    running = cloud.add_task(status="computation-started")
    fs = open_listed(new_fs, cloud)
    for task in sorted([*tasks, running]):
        names = [] if task in empty or task == running else ["stdout.txt"]
        assert fs.names(f"{task}/outputs") == names
    assert signings(cloud) <= 8 + COUNT // 8


def test_a_batch_that_the_api_refuses(new_fs: Callable[..., FileSystem], cloud: FakeCloud) -> None:
    """R-30, F-15: Where the API signs no batch, each archive is signed alone."""
    tasks = add_tasks(cloud)
    fs = new_fs()
    fs.names()
    cloud.faults.add(
        "status",
        status=422,
        path="/storage/signed-urls",
        times=None,
        match=lambda record: len(record.query["paths"]) > 1,
    )
    for task in tasks:
        assert fs.names(f"{task}/outputs") == ["stdout.txt"]


def test_a_warm_walk_sends_nothing(new_fs: Callable[..., FileSystem], cloud: FakeCloud) -> None:
    """R-30, A-13: Indexes on disk need no URL, however many tasks are walked over."""
    tasks = add_tasks(cloud)
    assert LONG_AGO
    fs = new_fs(dir_cache_time="1h")
    for _ in range(2):
        cloud.clear_requests()
        for task in tasks:
            fs.names(f"{task}/outputs")
    assert signings(cloud) == stored(cloud) == 0


# A member that the bytes of the archive's end do not hold: 300 KB of noise, and as much after it.
LARGE: Final = {"large.bin": noise("large", 300_000), "other.bin": noise("other", 300_000)}
Read = Callable[[FileSystem, str], object]


def read_head(fs: FileSystem, path: str) -> None:
    """Read as `head -c 1000` does."""
    with fs.open(path) as opened:
        assert_same(opened.read_at(0, 1000)[:1000], LARGE["large.bin"][:1000])


def read_tail(fs: FileSystem, path: str) -> None:
    """Read as `tail -qn1` does."""
    with fs.open(path) as opened:
        assert_same(opened.read_at(292_000, 8192), LARGE["large.bin"][292_000:])


def read_all(fs: FileSystem, path: str) -> None:
    """Read as `cat` does."""
    assert_same(fs.read(path), LARGE["large.bin"])


def add_large_tasks(cloud: FakeCloud, method: int, count: int = 30) -> list[str]:
    # Names in the order of creation: by chance, tasks that are read in the order of their random
    # names would also be neighbours in the other order, which is prefetched too.
    ids = [f"{number:025}" for number in range(count)]
    return [add_finished_task(cloud, LARGE, method, task_id) for task_id in ids]


def start_walk(new_fs: Callable[..., FileSystem], cloud: FakeCloud) -> tuple[FileSystem, Ranges]:
    """Return a surface that has listed the tasks, and the ranges that are requested from now on."""
    fs = new_fs()
    fs.names()
    return fs, Ranges(cloud)


@pytest.mark.parametrize(
    ("read", "method"),
    [(read_head, DEFLATED), (read_tail, STORED), (read_tail, DEFLATED), (read_all, DEFLATED)],
)
def test_a_member_of_each_task_is_prefetched(
    new_fs: Callable[..., FileSystem], cloud: FakeCloud, read: Read, method: int
) -> None:
    """R-45, R-29: The same member of one task after another is fetched in several at once, with no
    more requests and bytes than the reads need."""
    tasks = add_large_tasks(cloud, method)
    fs, ranges = start_walk(new_fs, cloud)
    read(fs, f"{tasks[0]}/outputs/large.bin")
    requests, used = ranges.cost()
    for task in tasks[1:]:
        read(fs, f"{task}/outputs/large.bin")
    ranges.settle()
    assert ranges.peak >= 4
    # A reader that overtakes the prefetch of its member takes one request more.
    assert len(ranges.records()) <= (requests + 1) * len(tasks)
    assert ranges.bytes() <= used * len(tasks)


@pytest.mark.mount
@pytest.mark.parametrize("command", ["head -qc1000", "tail -qn1", "cat"])
def test_one_command_over_all_tasks(
    new_mount: Callable[..., Mount], cloud: FakeCloud, command: str
) -> None:
    """R-45: `head`, `tail` and `cat` of the same file of all tasks wait for few round trips."""
    tasks = add_large_tasks(cloud, DEFLATED)
    mnt = new_mount().path
    paths = [mnt / task / "outputs/large.bin" for task in tasks]
    os.listdir(mnt)
    ranges = Ranges(cloud)
    subprocess.run([*command.split(), paths[0]], check=True, stdout=subprocess.DEVNULL)
    requests, used = ranges.cost()
    subprocess.run([*command.split(), *paths[1:]], check=True, stdout=subprocess.DEVNULL)
    ranges.settle()
    assert ranges.peak >= 4
    # A reader that overtakes the prefetch of its member takes one request more.
    assert len(ranges.records()) <= (requests + 1) * len(tasks)
    assert ranges.bytes() <= used * len(tasks)


@pytest.mark.parametrize("read", [read_head, read_all])
def test_a_walk_over_members_that_stops(
    new_fs: Callable[..., FileSystem], cloud: FakeCloud, read: Read
) -> None:
    """R-45: After a walk that stops, at most as many members as it has read were fetched for
    nothing, and nothing follows."""
    tasks = add_large_tasks(cloud, DEFLATED)
    fs, ranges = start_walk(new_fs, cloud)
    read(fs, f"{tasks[0]}/outputs/large.bin")
    _, used = ranges.cost()
    for task in tasks[1:10]:
        read(fs, f"{task}/outputs/large.bin")
    ranges.settle()
    # A member whose reader overtakes its prefetch on a busy machine takes two requests.
    assert len({record.path for record in ranges.records()}) <= 2 * 10
    assert ranges.bytes() <= 2 * 10 * used


def test_three_members_at_random_cause_no_request_for_others(
    new_fs: Callable[..., FileSystem], cloud: FakeCloud
) -> None:
    """R-45: A reader that picks three tasks at random pays for the members of these."""
    tasks = add_large_tasks(cloud, DEFLATED)
    fs, ranges = start_walk(new_fs, cloud)
    chosen = random.Random(3).sample(tasks, 3)
    for task in chosen:
        read_all(fs, f"{task}/outputs/large.bin")
    ranges.settle()
    assert {record.path.split("/")[2] for record in ranges.records()} == set(chosen)


def test_a_walk_that_reads_two_members_of_each_task(
    new_fs: Callable[..., FileSystem], cloud: FakeCloud
) -> None:
    """R-45: A program that reads two files of each task has both prefetched."""
    tasks = add_large_tasks(cloud, STORED)
    fs, ranges = start_walk(new_fs, cloud)
    for task in tasks:
        for name, content in LARGE.items():
            assert_same(fs.read(f"{task}/outputs/{name}"), content)
    ranges.settle()
    assert ranges.peak >= 4
    sizes = sum(len(content) for content in LARGE.values())
    assert ranges.bytes() <= len(tasks) * (sizes + 2 * BLOCK)


def test_members_that_some_tasks_do_not_have(
    new_fs: Callable[..., FileSystem], cloud: FakeCloud
) -> None:
    """R-45: A task without the file, or without an archive, is passed over."""
    tasks = add_large_tasks(cloud, DEFLATED)
    for task in tasks[12::9]:
        put_outputs(cloud, task, {"else.bin": noise("else", 300_000)})
    for task in tasks[15::9]:
        cloud.remove_object(f"{task}/output.zip")
    fs, ranges = start_walk(new_fs, cloud)
    for number, task in enumerate(tasks):
        if number < 12 or number % 9 not in (3, 6):
            read_all(fs, f"{task}/outputs/large.bin")
    ranges.settle()
    assert ranges.peak >= 4
    assert not {tasks[12], tasks[15]} & {record.path.split("/")[2] for record in ranges.records()}
