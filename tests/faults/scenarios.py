"""Shared set-up for tests of faults: add a finished task, read it, get the errno of a failure."""

from typing import Any, Final

from tests.fake_api import FakeCloud, Fault
from tests.file_systems import FileSystem, assert_same
from tests.outputs import add_finished_task, put_outputs
from tests.zips import STORED

# The answer of a store for a missing object, as options of the fault "body".
NO_SUCH_KEY: Final[dict[str, Any]] = {
    "content": b"<?xml version='1.0' encoding='UTF-8'?><Error><Code>NoSuchKey</Code></Error>",
    "content_type": "application/xml",
    "status": 404,
}


def finished(cloud: FakeCloud, method: int = STORED, /, **files: bytes) -> str:
    """Add a task that ended long ago, with these files; return its id."""
    return add_finished_task(cloud, files, method)


def put(cloud: FakeCloud, task: str, method: int = STORED, /, **files: bytes) -> None:
    """Store an archive of these files as the task's outputs; it replaces an earlier one."""
    put_outputs(cloud, task, files, method)


def read_whole(fs: FileSystem, path: str, expected: bytes) -> None:
    """Read the file and compare it with *expected*; a failed read raises OSError."""
    received = b""
    with fs.open(path) as opened:
        while piece := opened.read_at(len(received), 1 << 17):
            received += piece
    assert_same(received, expected)


def add_fault(cloud: FakeCloud, where: str, task: str, kind: str, **options: Any) -> Fault:
    """Add a fault for one *task*: for its `record`, the `signing` of its URL, or the `store`."""
    matching: dict[str, dict[str, Any]] = {
        "record": {"side": "api", "path": f"/tasks/{task}"},
        "signing": {
            "side": "api",
            # A request may sign the URLs of several tasks.
            "match": lambda record: f"{task}/output.zip" in record.query.get("paths", []),
        },
        "store": {"side": "store", "path": f"/{task}/"},
    }
    return cloud.faults.add(kind, **matching[where], **options)
