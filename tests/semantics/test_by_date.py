"""`.by-date`: links with names that describe their tasks."""

import time
from collections.abc import Callable

import pytest

from tests.fake_api import FakeCloud
from tests.file_systems import FileSystem
from tests.mounts import eventually


def test_names_and_order(new_fs: Callable[..., FileSystem], cloud: FakeCloud) -> None:
    """N-28: Names have the local time, the simulator, the status and 8 letters of the id."""
    old = cloud.add_task(status="failed", simulator="a/b", create_time="2026-01-02T03:04:05+00:00")
    new = cloud.add_task(simulator=None, create_time="2026-02-02T03:04:05+00:00")
    fs = new_fs()
    first = time.strftime("%Y-%m-%dT%H-%M", time.localtime(1767323045))
    second = time.strftime("%Y-%m-%dT%H-%M", time.localtime(1770001445))
    names = [f"{second}_none_success_{new[:8]}", f"{first}_a%2Fb_failed_{old[:8]}"]
    assert fs.names(".by-date") == names
    assert fs.target(f".by-date/{names[1]}") == f"../{old}"
    assert fs.read(f"{old}/status") == b"failed\n"
    with pytest.raises(FileNotFoundError):
        fs.stat(f".by-date/{first}_nope_failed_{old[:8]}")


def test_underscores_in_names(new_fs: Callable[..., FileSystem], cloud: FakeCloud) -> None:
    """N-28: Each link is found, also with underscores in the simulator and anywhere in the id."""
    ids = ["_begins-with-one", "a_b_c", "__", "ends_", "_", "_other"]
    for task_id in ids:
        cloud.add_task(task_id, simulator="my_sim")
    fs = new_fs()
    names = fs.names(".by-date")
    assert sorted(fs.target(f".by-date/{name}") for name in names) == sorted(
        f"../{task_id}" for task_id in ids
    )


def test_a_new_status_is_a_new_name(new_fs: Callable[..., FileSystem], cloud: FakeCloud) -> None:
    """N-28: The name follows the status."""
    task = cloud.add_task(status="started")
    fs = new_fs(dir_cache_time="200ms", attr_timeout="100ms", status_cache_time="100ms")
    assert [name.split("_")[2] for name in fs.names(".by-date")] == ["started"]
    cloud.set_status(task, "success")
    eventually(lambda: [name.split("_")[2] for name in fs.names(".by-date")] == ["success"])


def test_it_costs_what_the_listing_costs(
    new_fs: Callable[..., FileSystem], cloud: FakeCloud
) -> None:
    """N-28: Listing `.by-date` and following its links sends no request of its own."""
    for _ in range(20):
        cloud.add_task()
    fs = new_fs()
    fs.names()
    cloud.clear_requests()
    for name in fs.names(".by-date"):
        fs.target(f".by-date/{name}")
    assert len(cloud.requests) <= 1
