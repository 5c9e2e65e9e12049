"""Closed connections to machines leave nothing behind that adds up."""

import contextlib
import gc
from collections import Counter
from collections.abc import Iterator

import pytest

from taskfs.errors import Unavailable
from taskfs.remote.live_channel import LiveChannels
from taskfs.remote.live_messages import LS
from tests.fake_api import FakeCloud
from tests.live.conftest import BUSY_S, NewChannels
from tests.mounts import eventually


@pytest.fixture
def no_automatic_collection() -> Iterator[None]:
    """Have garbage collected where the code says so, as in a daemon, which does it rarely."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def peers() -> int:
    """Return the number of connections in memory, with those of the machines in this process."""
    return Counter(type(each).__name__ for each in gc.get_objects())["RTCPeerConnection"]


def look(channels: LiveChannels, task: str) -> None:
    """Ask a machine, and wait until the connection is closed."""
    with contextlib.suppress(Unavailable):  # as the fault wants it
        channels.machine(task).ask(LS, BUSY_S, lambda: False)
    eventually(lambda: channels.open_connections == 0)


def test_closed_connections_keep_no_memory(
    cloud: FakeCloud, new_channels: NewChannels, task: str, no_automatic_collection: None
) -> None:
    """L-14: The objects of at most 16 connections wait for the garbage collector, whichever way the
    connections ended."""
    channels = new_channels(idle_time_s=0.02, question_timeout_s=0.5)
    before = peers()
    faults = cloud.machine(task).faults
    for number in range(48):
        if number % 3:
            faults.add(("goodbye", "silence")[number % 2])
        look(channels, task)
    # Each connection has two ends in this process.
    assert peers() - before <= 2 * (16 + 2)


def test_each_task_keeps_nothing(
    cloud: FakeCloud, new_channels: NewChannels, no_automatic_collection: None
) -> None:
    """L-14: A look at many tasks, one after the other, leaves no connection in memory."""
    channels = new_channels(idle_time_s=0.02)
    before = peers()
    for _ in range(32):
        task = cloud.add_task(status="computation-started")
        cloud.machine_files(task).write("a", b"b")
        look(channels, task)
        cloud.set_status(task, "success")
        cloud.hang_up(task)
    # The machine of an ended task closes its end within a second.
    eventually(lambda: gc.collect() >= 0 and peers() - before <= 4)
