"""The index of a large archive, in a file that is damaged while it is in use and between mounts."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.caches import (
    MountFactory,
    TreeFactory,
    archive_requests,
    cached_files,
    damage_pages,
)
from tests.fake_api import FakeCloud
from tests.outputs import LONG_AGO, noise
from tests.zips import build, file

# So many members that the index stays in its file, which is read by pages.
MANY: Final = 14_000


@functools.cache
def archive_of_many() -> bytes:
    return build([file(f"d{n // 1000}/file-{n:06}", b"%d\n" % n) for n in range(MANY)])


def put_many(cloud: FakeCloud) -> str:
    """Return the outputs of a finished task with `MANY` small files."""
    task = cloud.add_task(end_time=LONG_AGO, metrics={"output_total_files": MANY})
    cloud.put_object(f"{task}/output.zip", archive_of_many())
    return f"{task}/outputs"


def long_index(cache: Path) -> Path:
    """Return the index of the outputs of `put_many`."""
    (path,) = cached_files(cache, "index")
    assert path.stat().st_size > 1 << 20
    return path


INDEX_DAMAGES: Final[dict[str, Callable[[Path], None]]] = {
    "cut": lambda path: os.truncate(path, 40_000),
    "emptied": lambda path: os.truncate(path, 0),
    "zeros": lambda path: _overwrite(path, bytes(path.stat().st_size)),
    "another": lambda path: _overwrite(path, noise(3, path.stat().st_size)),
}


# Only what reads these pages finds the damage.
PAGE_DAMAGES: Final[dict[str, Callable[[Path], None]]] = {
    "last page": lambda path: damage_pages(path, slice(-1, None)),
    "other pages": lambda path: damage_pages(path, slice(-1)),
    "all pages": lambda path: damage_pages(path, slice(None)),
}


def _overwrite(path: Path, content: bytes) -> None:
    with path.open("r+b") as opened:
        opened.write(content)


@pytest.mark.mount
@pytest.mark.parametrize("damage", INDEX_DAMAGES)
@pytest.mark.parametrize("engine", ["kernel", "fusepy"])
def test_a_program_changes_an_index_in_place_under_a_mount(
    mounted: MountFactory, cloud: FakeCloud, cache: Path, damage: str, engine: str
) -> None:
    """I-7, R-51: A program cuts or overwrites an index in place while a mount uses it: the daemon
    lives, open files go on, and every name and byte is right afterwards."""
    top = put_many(cloud)
    with mounted(engine=engine, attr_timeout="0s") as mount:
        outputs, pid = mount.path / top, mount.pid
        assert len(os.listdir(outputs)) == MANY // 1000
        with (outputs / "d3/file-003007").open("rb", buffering=0) as opened:
            for _ in range(2):
                INDEX_DAMAGES[damage](long_index(cache))
                assert opened.read(10) == b"3007\n"
                opened.seek(0)
                for number in (13_999, 1, 7_500):
                    name = f"d{number // 1000}/file-{number:06}"
                    assert (outputs / name).read_bytes() == b"%d\n" % number
                names = os.listdir(outputs / "d5")
                assert sorted(names) == [f"file-{n:06}" for n in range(5000, 6000)]
                table = (outputs.parent / "output_files_info").read_bytes()
                assert table.count(b"\n") == MANY + 3
        assert mount.pid == pid
    with mounted() as later:
        cloud.clear_requests()
        assert len(os.listdir(later.path / top / "d13")) == 1000
        assert not archive_requests(cloud)


@pytest.mark.parametrize("damage", INDEX_DAMAGES | PAGE_DAMAGES)
def test_a_long_index_that_is_damaged_between_mounts_is_a_miss(
    open_tree: TreeFactory, cloud: FakeCloud, cache: Path, damage: str
) -> None:
    """I-7: A damaged index is fetched again, without an error."""
    top = put_many(cloud)
    with open_tree() as fs:
        assert len(fs.names(f"{top}/d2")) == 1000
    for _ in range(2):
        (INDEX_DAMAGES | PAGE_DAMAGES)[damage](long_index(cache))
        with open_tree() as fs:
            assert len(fs.names(f"{top}/d2")) == 1000
            assert fs.read(f"{top}/d13/file-013999") == b"13999\n"
