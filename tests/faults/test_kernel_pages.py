"""The kernel keeps pages for a path, not for a reader."""

import contextlib
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.fake_api import FakeCloud, Fault
from tests.file_systems import assert_same
from tests.mounts import Mount
from tests.outputs import LONG_AGO
from tests.zips import DEFLATED, STORED, build, cheap_bytes, file

pytestmark = [pytest.mark.mount, pytest.mark.usefixtures("each_engine")]

BODY: Final = {STORED: random.Random(1).randbytes(3_000_000), DEFLATED: cheap_bytes(3_000_000)}
HALF: Final = 1_500_000


def put(cloud: FakeCloud, method: int) -> tuple[str, Fault]:
    """Return the path of a member, and the fault that flips a byte of its first half."""
    task = cloud.add_task(end_time=LONG_AGO)
    cloud.put_object(f"{task}/output.zip", build([file("x", BODY[method], method=method)]))
    fault = cloud.faults.add("flip", side="store", path=task, times=None, at=400_000)
    return f"{task}/outputs/x", fault


def rest_of(descriptor: int, offset: int) -> bytes:
    pieces = []
    while piece := os.pread(descriptor, 128 << 10, offset):
        pieces.append(piece)
        offset += len(piece)
    return b"".join(pieces)


@pytest.mark.parametrize("method", [STORED, DEFLATED])
def test_the_next_open_sees_no_page_of_a_damaged_read(
    new_mount: Callable[..., Mount], cloud: FakeCloud, method: int
) -> None:
    """I-5: After EIO the next open drops the kernel's pages, also while an older handle is open and
    once it is closed."""
    mount = new_mount()
    path, _ = put(cloud, method)
    file: Path = mount.path / path
    before = os.open(file, os.O_RDONLY)
    try:
        os.pread(before, HALF, 0)
        with pytest.raises(OSError):
            rest_of(before, HALF)
        cloud.faults.clear()
        # Read-ahead may have fetched the damaged bytes again: that is found out once.
        with contextlib.suppress(OSError):
            assert_same(file.read_bytes(), BODY[method])
        for _ in range(2):
            assert_same(file.read_bytes(), BODY[method])
    finally:
        os.close(before)
    for _ in range(2):
        assert_same(file.read_bytes(), BODY[method])


@pytest.mark.parametrize("method", [STORED, DEFLATED])
def test_a_refresh_drops_the_kernels_pages(
    new_mount: Callable[..., Mount], cloud: FakeCloud, method: int
) -> None:
    """N-21: A write to `.taskfs/refresh` also drops the kernel's pages."""
    mount = new_mount()
    path, _ = put(cloud, method)
    with open(mount.path / path, "rb", buffering=0) as opened:
        os.pread(opened.fileno(), HALF, 0)
    cloud.faults.clear()
    (mount.path / ".taskfs/refresh").write_text("1")
    # What the blocks in memory still hold of the damage is found out once, and dropped.
    with contextlib.suppress(OSError):
        assert_same((mount.path / path).read_bytes(), BODY[method])
    assert_same((mount.path / path).read_bytes(), BODY[method])
