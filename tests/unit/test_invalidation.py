"""`taskfs.fuse.kernel.invalidation`: the kernel has dropped all beneath a path before a call."""

import threading
from collections.abc import Sequence
from typing import Any, cast

import pytest

from taskfs.fuse.kernel.channel import Channel
from taskfs.fuse.kernel.invalidation import Invalidator
from taskfs.fuse.kernel.node_table import NodeTable
from taskfs.fuse.kernel.protocol import ROOT_ID
from tests.mounts import eventually
from tests.threads import no_new_threads

FILES = 20


class Kernel:
    """Takes messages once `go_on` is set; the first ones fail with `failures`."""

    def __init__(self) -> None:
        self.received = 0
        self.go_on = threading.Event()
        self.failures: list[Exception] = []

    def send(self, message: Sequence[Any]) -> None:
        assert self.go_on.wait(30)
        if self.failures:
            raise self.failures.pop()
        self.received += 1


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


@pytest.fixture
def invalidator(kernel: Kernel) -> Invalidator:
    """Invalidates `task/outputs` with a folder of `FILES` files, and `other`."""
    nodes = NodeTable()
    nodes.add_lookup(ROOT_ID, b"other", is_directory=True)
    task = nodes.add_lookup(ROOT_ID, b"task", is_directory=True)
    outputs = nodes.add_lookup(task, b"outputs", is_directory=True)
    folder = nodes.add_lookup(outputs, b"folder", is_directory=True)
    for number in range(FILES):
        nodes.add_lookup(folder, b"%d" % number)
    return Invalidator(cast(Channel, kernel), nodes, lambda path: False)


@pytest.mark.parametrize("also", ["/task/outputs", "/task/outputs/folder", "task/outputs"])
def test_a_call_waits_for_all_beneath_its_path(
    kernel: Kernel, invalidator: Invalidator, also: str
) -> None:
    """F-9, F-10: While another message is sent, a change of an archive and an answer of the time
    before wait together; the change counts as known when the kernel has dropped all."""
    received: list[int] = []
    invalidator.invalidate("other")
    invalidator.invalidate(also)
    invalidator.invalidate("task/outputs", lambda: received.append(kernel.received))
    invalidator.invalidate(also)
    kernel.go_on.set()
    eventually(lambda: bool(received))
    assert received == [1 + 2 + FILES]


def test_a_failure_is_not_taken_for_a_message(kernel: Kernel, invalidator: Invalidator) -> None:
    """F-9: A change of which the kernel was not notified does not count as known; later ones do."""
    done: list[str] = []
    kernel.failures.append(ValueError("odd"))
    invalidator.invalidate("task/outputs", lambda: done.append("first"))
    kernel.go_on.set()
    eventually(lambda: not kernel.failures)
    invalidator.invalidate("other", lambda: done.append("second"))
    eventually(lambda: bool(done))
    assert done == ["second"]


def test_no_thread_is_needed_later(
    kernel: Kernel, invalidator: Invalidator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-55, F-10: The kernel is notified of a change also while the system starts no thread."""
    kernel.go_on.set()
    done: list[str] = []
    with no_new_threads(monkeypatch):
        invalidator.invalidate("task/outputs", lambda: done.append("first"))
        eventually(lambda: bool(done))
