"""Names that the kernel gets before a program looks them up."""

import os
import re
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from tests.fake_api import FakeCloud
from tests.mounts import Mount, eventually
from tests.outputs import LONG_AGO
from tests.zips import build, file

pytestmark = pytest.mark.mount

NewMount = Callable[..., Mount]
COUNT = 6000
NAMES = [f"f{number:05}" for number in range(COUNT)]


@pytest.fixture
def mount(new_mount: NewMount, cloud: FakeCloud) -> Mount:
    return new_mount(engine="kernel", log_level="debug")


@pytest.fixture
def task(cloud: FakeCloud) -> str:
    task = cloud.add_task(end_time=LONG_AGO)
    cloud.put_object(
        f"{task}/output.zip", build([file(name, name[-2:].encode()) for name in NAMES])
    )
    return task


def look_up(mount: Mount, task: str, names: Sequence[str]) -> int:
    """Return how many of *names* the daemon was asked for one by one."""
    start = len(mount.log.read_text())
    assert [os.stat(mount.path / task / "outputs" / name).st_size for name in names] == [
        2 for _ in names
    ]
    log = mount.log.read_text()[start:]
    return len(re.findall(rf"operations: getattr /{task}/outputs/f", log))


def helpers(mount: Mount) -> list[int]:
    """Return the processes that read names of *mount* ahead."""
    found = []
    for children in Path(f"/proc/{mount.pid}/task").glob("*/children"):
        with suppress(OSError):  # the thread or its child has ended
            for pid in children.read_text().split():
                if b"getdents64" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(int(pid))
    return found


def test_names_come_before_they_are_asked_for(mount: Mount, task: str) -> None:
    """R-46: Few of the names that a program looks up in order cost a request, and all have the
    right attributes; a listing is whole afterwards."""
    outputs = mount.path / task / "outputs"
    look_up(mount, task, NAMES[:200])
    eventually(lambda: bool(helpers(mount)))
    asked = look_up(mount, task, NAMES[200:])
    assert asked < COUNT / 2
    inodes = [os.stat(outputs / name).st_ino for name in NAMES]
    assert inodes == list(range(inodes[0], inodes[0] + COUNT))
    assert sorted(os.listdir(outputs)) == NAMES
    assert [(outputs / name).read_bytes() for name in NAMES[::500]] == [
        name[-2:].encode() for name in NAMES[::500]
    ]


def test_other_orders_read_nothing_ahead(mount: Mount, task: str) -> None:
    """R-46: Names in another order, and few names in a row, start no helper."""
    assert look_up(mount, task, NAMES[:20]) == 20
    assert look_up(mount, task, NAMES[4000:1000:-2]) == 1500
    assert not helpers(mount)


def test_a_helper_that_ends_is_replaced(mount: Mount, task: str) -> None:
    """R-46: If the helper is killed, names are looked up as before, and another one is started. It
    ends with the mount."""
    look_up(mount, task, NAMES[:200])
    eventually(lambda: bool(helpers(mount)))
    (first,) = helpers(mount)
    os.kill(first, signal.SIGKILL)
    eventually(lambda: not Path(f"/proc/{first}").exists())  # no zombie stays
    look_up(mount, task, NAMES[200:3000])
    look_up(mount, task, NAMES[3000:4000])
    eventually(lambda: bool(helpers(mount)))
    (second,) = helpers(mount)
    assert second != first
    mount.stop()
    eventually(lambda: not Path(f"/proc/{second}").exists())
