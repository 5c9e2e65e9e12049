"""`tasks.csv` at the root: the listing as a table."""

import csv
import errno
import io
import os
from collections.abc import Callable

import pytest

from tests.fake_api import FakeCloud
from tests.file_systems import FileSystem
from tests.mounts import eventually

COLUMNS = (
    *("id", "status", "simulator", "project", "machine"),
    *("created", "submitted", "started", "ended"),
    *("computation_seconds", "cost_usd", "output_bytes", "changed"),
)


def rows(fs: FileSystem) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(fs.read("tasks.csv").decode())))


def test_a_row_for_each_task(fs: FileSystem) -> None:
    """N-29: tasks.csv has one row per task, newest first."""
    old = fs.cloud.add_task(
        status="failed",
        simulator="openfoam",
        project='a,"b"',
        machine="c2-standard-4",
        create_time="2026-01-01T00:00:00+00:00",
        estimated_computation_cost=1.5,
    )
    new = fs.cloud.add_task(status="submitted", create_time="2026-01-02T00:00:00+00:00")
    assert fs.read("tasks.csv").decode().splitlines()[0] == ",".join(COLUMNS)
    eventually(lambda: {old, new} <= {row["id"] for row in rows(fs)})  # F-1
    found = [row for row in rows(fs) if row["id"] in (old, new)]  # other tests share the mount
    first, second = found
    assert (first["id"], second["id"]) == (new, old)
    assert (first["status"], first["computation_seconds"], first["cost_usd"]) == (
        *("submitted", "", ""),
    )
    assert second["project"] == 'a,"b"' and second["cost_usd"] == "1.5"
    assert second["created"] == "2026-01-01T00:00:00Z"


def test_it_is_found_by_name_alone(fs: FileSystem) -> None:
    """N-29: tasks.csv is not listed, has the size that stat reports, and cannot be written."""
    fs.cloud.add_task()
    assert "tasks.csv" not in fs.names()
    assert fs.stat("tasks.csv").st_size == len(fs.read("tasks.csv"))
    with pytest.raises(OSError) as refused, fs.open("tasks.csv", os.O_WRONLY):
        pass
    assert refused.value.errno == errno.EROFS


def test_it_costs_what_the_listing_costs(
    new_fs: Callable[..., FileSystem], cloud: FakeCloud
) -> None:
    """N-29: Reading tasks.csv sends a request only when the listing is out of date."""
    cloud.add_task()
    fs = new_fs(dir_cache_time="300ms", attr_timeout="100ms", status_cache_time="100ms")
    fs.names()
    cloud.clear_requests()
    fs.read("tasks.csv")
    assert len(cloud.requests) <= 1
    new = cloud.add_task()
    eventually(lambda: rows(fs)[0]["id"] == new)
    assert {record.path for record in cloud.requests} == {"/tasks"}
