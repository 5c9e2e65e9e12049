"""Walks over tasks: what they cost at the API and the store."""

import random
import time
from collections.abc import Callable

from taskfs.tasks.task_walk import MAX_AHEAD
from tests.fake_api import FakeCloud
from tests.file_systems import FileSystem
from tests.mounts import eventually
from tests.outputs import LONG_AGO, add_finished_task

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


def test_a_walk_signs_many_urls_at_once(
    new_fs: Callable[..., FileSystem], cloud: FakeCloud
) -> None:
    """R-29, R-30: To read one file of each task in turn takes few requests of the API."""
    tasks = add_tasks(cloud)
    fs = new_fs()
    fs.names()
    cloud.clear_requests()
    read = [fs.read(f"{task}/outputs/stdout.txt") for task in tasks]
    assert sorted(read) == sorted(f"{n}\n".encode() for n in range(COUNT))
    assert signings(cloud) <= 4 + COUNT // 8
    assert stored(cloud) == COUNT


def test_a_walk_that_stops(new_fs: Callable[..., FileSystem], cloud: FakeCloud) -> None:
    """R-29: After a walk that stops, at most twice as many tasks were requested, and no more."""
    tasks = add_tasks(cloud)
    fs = new_fs()
    fs.names()
    cloud.clear_requests()
    for task in tasks[:8]:
        fs.read(f"{task}/outputs/stdout.txt")
    eventually(lambda: all(record.status for record in list(cloud.requests)))
    time.sleep(0.5)
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
    assert stored(cloud) <= COUNT + MAX_AHEAD  # some may be neighbours in the account by chance


def test_three_tasks_cause_no_request_for_others(
    new_fs: Callable[..., FileSystem], cloud: FakeCloud
) -> None:
    """R-29: A reader that picks three tasks at random pays for these."""
    tasks = add_tasks(cloud)
    fs = new_fs()
    fs.names()
    cloud.clear_requests()
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
    fs = new_fs()
    fs.names()
    cloud.clear_requests()
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
