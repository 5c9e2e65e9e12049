"""Shared set-up for tests: tasks whose output archives hold given files."""

import random
from functools import lru_cache
from typing import Final

from tests.fake_api import FakeCloud
from tests.zips import DEFLATED, Entry, build

# An end time long enough ago that the archive of a task counts as final.
LONG_AGO: Final = "2025-06-11T08:00:00+00:00"
# Cache times so short that a test can wait until each of them expires.
QUICK: Final = {"attr_timeout": "100ms", "status_cache_time": "200ms", "dir_cache_time": "300ms"}
Files = dict[str, bytes]


@lru_cache(maxsize=64)
def noise(seed: object, size: int) -> bytes:
    """Return *size* bytes that do not compress, the same for the same seed."""
    return random.Random(str(seed)).randbytes(size)


def put_outputs(cloud: FakeCloud, task: str, files: Files, method: int = DEFLATED) -> None:
    """Store an archive of *files* as the task's outputs; it replaces an earlier one."""
    members = [Entry(f"artifacts/{name}".encode(), body, method) for name, body in files.items()]
    cloud.put_object(f"{task}/output.zip", build(members))


def add_finished_task(
    cloud: FakeCloud, files: Files, method: int = DEFLATED, task_id: str | None = None
) -> str:
    """Add a task that ended long ago, with *files* as its outputs; return its id."""
    task = cloud.add_task(task_id, end_time=LONG_AGO)
    put_outputs(cloud, task, files, method)
    return task
