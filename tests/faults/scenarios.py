"""What the tests of faults do again and again: a finished task, a read of it, and its errno."""

import random
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

import pytest

from tests.fake_api import FakeCloud, Fault
from tests.odd_zips import STORED, Odd, odd_zip
from tests.surfaces import Surface, assert_same

# What a store says of an object that is not there, as the options of the fault "body".
NO_SUCH_KEY: Final[dict[str, Any]] = {
    "content": b"<?xml version='1.0' encoding='UTF-8'?><Error><Code>NoSuchKey</Code></Error>",
    "content_type": "application/xml",
    "status": 404,
}
LONG_AGO: Final = "2025-06-11T08:00:00+00:00"


@lru_cache(maxsize=32)
def noise(seed: int, size: int) -> bytes:
    """Return bytes that no method packs, the same for the same seed."""
    return random.Random(seed).randbytes(size)


def finished(cloud: FakeCloud, method: int = STORED, /, **files: bytes) -> str:
    """Add a task that ended long ago, with these files; return its id."""
    task = cloud.add_task(end_time=LONG_AGO)
    put(cloud, task, method, **files)
    return task


def put(cloud: FakeCloud, task: str, method: int = STORED, /, **files: bytes) -> None:
    """Give the task an archive of these files, in place of the one it has."""
    members = [Odd(b"artifacts/" + name.encode(), body, method) for name, body in files.items()]
    cloud.put_object(f"{task}/output.zip", odd_zip(members))


def errno_of(ask: Callable[[], object]) -> int | None:
    """Return the errno that *ask* fails with."""
    with pytest.raises(OSError) as caught:
        ask()
    return caught.value.errno


def read_whole(surface: Surface, path: str, wanted: bytes) -> None:
    """Fail unless the file holds *wanted*; that it fails itself is an OSError."""
    received = b""
    with surface.open(path) as opened:
        while piece := opened.read_at(len(received), 1 << 17):
            received += piece
    assert_same(received, wanted)


def add_fault(cloud: FakeCloud, where: str, task: str, kind: str, **options: Any) -> Fault:
    """Add a fault to the requests of one *task*: at the `record`, the `signing` or the `store`."""
    matching: dict[str, dict[str, Any]] = {
        "record": {"side": "api", "path": f"/tasks/{task}"},
        "signing": {
            "side": "api",
            "match": lambda record: record.query.get("paths") == [f"{task}/output.zip"],
        },
        "store": {"side": "store", "path": f"/{task}/"},
    }
    return cloud.faults.add(kind, **matching[where], **options)
