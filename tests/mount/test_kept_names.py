"""Names, attributes and listings that the kernel keeps of one version of an archive."""

import errno
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fake_api import FakeCloud
from tests.mounts import Mount, eventually, users_of
from tests.outputs import LONG_AGO
from tests.zips import build, file

pytestmark = pytest.mark.mount

NewMount = Callable[..., Mount]
NOTIFIED_S = 20.0  # until the kernel has dropped a version, on a busy machine
ATTR_TIMEOUT_S = 1.0


def archive(files: dict[str, bytes]) -> bytes:
    return build([file(name, body) for name, body in files.items()])


def put(cloud: FakeCloud, files: dict[str, bytes], task: str = "") -> str:
    task = task or cloud.add_task(end_time=LONG_AGO)
    cloud.put_object(f"{task}/output.zip", archive(files))
    return task


def seen(top: Path) -> dict[str, bytes]:
    """Return all files beneath *top* with their bytes; each size is right."""
    found = {}
    for directory, _, names in os.walk(top):
        for name in names:
            path = Path(directory, name)
            found[str(path.relative_to(top))] = body = path.read_bytes()
            assert path.stat().st_size == len(body)
    return found


@pytest.mark.parametrize(
    "walk", [["find", ".", "-ls"], ["du", "-a", "."], ["rsync", "-nai", "./", "/nowhere/"]]
)
def test_a_second_walk_asks_next_to_nothing(
    new_mount: NewMount, cloud: FakeCloud, walk: list[str]
) -> None:
    """F-10: A second walk reads no listing and no attributes of files: it costs two operations for
    each directory, and those of the path.

    The log has them, without those of other programs that read the statistics of all mounts.
    """
    files = {f"d{number % 8}/f{number:03}": b"x" * number for number in range(400)}
    task = put(cloud, files)
    mount = new_mount(engine="kernel", log_level="debug")

    def operations() -> tuple[bytes, list[str]]:
        """Return what a walk prints, and the operations that it leads to."""
        began = len(mount.log.read_text())
        done = subprocess.run(
            walk, cwd=mount.path / task / "outputs", capture_output=True, check=True
        )
        log = mount.log.read_text()[began:]
        return done.stdout, re.findall(rf"taskfs\.fuse\.operations: (\w+) /{task}", log)

    printed, asked = operations()
    directories = 8 + 1
    assert printed.count(b"f399") and asked.count("readdir") >= directories
    for _ in range(5):  # the kernel drops names to get memory
        time.sleep(1.2 * ATTR_TIMEOUT_S)  # the names that the kernel asks for again
        again, asked = operations()
        assert again == printed
        if len(asked) <= 2 * directories + 4 and "readdir" not in asked:
            break
    else:
        pytest.fail(f"each walk asks again: {asked}")


@pytest.mark.parametrize("engine", ["kernel", "fusepy"])
def test_another_version_is_seen(new_mount: NewMount, cloud: FakeCloud, engine: str) -> None:
    """F-10, F-11, U-2: Names that came and went, sizes, and paths of another type are seen after a
    refresh, by programs that come from the root and by those that stand in a directory."""
    old = {"a": b"old", "gone": b"1", "d/b": b"2" * 9, "d/gone": b"3", "file": b"4", "dir/x": b"5"}
    new = {"a": b"newer", "d/b": b"6", "d/come": b"7", "file/y": b"8", "dir": b"9", "come": b""}
    task = put(cloud, old)
    mnt = new_mount(engine=engine).path
    outputs = mnt / task / "outputs"
    standing = os.open(outputs / "d", os.O_RDONLY | os.O_DIRECTORY)
    try:
        for _ in range(2):
            assert seen(outputs) == old
            assert sorted(os.listdir(standing)) == ["b", "gone"]
        put(cloud, new, task)
        (mnt / ".taskfs/refresh").write_text("1")
        eventually(lambda: (outputs / "a").read_bytes() == new["a"], NOTIFIED_S)
        eventually(
            lambda: _names(outputs / "file") == ["y"], NOTIFIED_S
        )  # without a stat before it
        eventually(lambda: _is_new(standing), NOTIFIED_S)
        eventually(lambda: _shows(outputs, new, engine), NOTIFIED_S)
        for name in ("gone", "d/gone", "dir/x"):
            with pytest.raises((FileNotFoundError, NotADirectoryError)):
                os.stat(outputs / name)
        assert os.stat("come", dir_fd=standing).st_size == 1
    finally:
        os.close(standing)
    assert seen(outputs) == new


def _shows(top: Path, files: dict[str, bytes], engine: str) -> bool:
    try:
        return seen(top) == files
    except OSError as exc:
        # With libfuse, the kernel keeps the inode of a path that has another type now, and fails
        # once.
        if engine != "fusepy" or exc.errno != errno.EIO:
            raise
        return False


def _names(path: Path) -> list[str] | None:
    try:
        return os.listdir(path)
    except NotADirectoryError:
        return None


def _is_new(standing: int) -> bool:
    try:
        os.stat("gone", dir_fd=standing)
    except FileNotFoundError:
        return os.stat("b", dir_fd=standing).st_size == 1 and "come" in os.listdir(standing)
    return False


@pytest.mark.parametrize("engine", ["kernel", "fusepy"])
def test_a_changed_record_is_seen(new_mount: NewMount, cloud: FakeCloud, engine: str) -> None:
    """F-10, U-2: A program that looks below `outputs/` sees the archive of a record that changed,
    once a listing has shown the change."""
    task = put(cloud, {"a": b"old"})
    mnt = new_mount(engine=engine, dir_cache_time="1s").path
    outputs = mnt / task / "outputs"
    assert seen(outputs) == {"a": b"old"}
    put(cloud, {"a": b"newer", "b": b""}, task)
    cloud.update_task(task, end_time="2025-06-12T10:00:00+00:00")
    eventually(lambda: bool(os.listdir(mnt)) and os.path.exists(outputs / "b"), 3 * NOTIFIED_S)
    eventually(lambda: (outputs / "a").stat().st_size == 5, NOTIFIED_S)
    assert seen(outputs) == {"a": b"newer", "b": b""}


@pytest.mark.parametrize("engine", ["kernel", "fusepy"])
def test_a_removed_archive_is_seen(new_mount: NewMount, cloud: FakeCloud, engine: str) -> None:
    """F-10, F-12: Files of an archive that its owner removed are gone, and come back with it."""
    files = {"a": b"1", "d/b": b"2"}
    task = put(cloud, files)
    mnt = new_mount(engine=engine).path
    outputs = mnt / task / "outputs"
    assert seen(outputs) == files
    cloud.remove_object(f"{task}/output.zip")
    (mnt / ".taskfs/refresh").write_text("1")
    eventually(lambda: seen(outputs) == {}, NOTIFIED_S)
    eventually(lambda: not os.path.exists(outputs / "d/b"), NOTIFIED_S)
    put(cloud, files, task)
    eventually(lambda: seen(outputs) == files, 3 * NOTIFIED_S)


def test_changes_while_programs_walk(new_mount: NewMount, cloud: FakeCloud) -> None:
    """F-10: An answer that was on its way while the version changed is not kept."""
    task = put(cloud, {f"f{number}": b"0" for number in range(300)})
    mnt = new_mount(engine="kernel").path
    outputs = mnt / task / "outputs"
    walk = 'while :; do find "$0" -ls; done'
    walkers = [
        subprocess.Popen(["sh", "-c", walk, outputs], stdout=-3, stderr=-3, start_new_session=True)
        for _ in range(3)
    ]
    try:
        for size in range(2, 9):
            put(cloud, {f"f{number}": b"0" * size for number in range(300)}, task)
            (mnt / ".taskfs/refresh").write_text("1")
            eventually(lambda size=size: (outputs / "f0").stat().st_size == size, NOTIFIED_S)  # type: ignore[misc]
            time.sleep(0.1)
    finally:
        for walker in walkers:
            os.killpg(walker.pid, signal.SIGKILL)  # `find` too, which would use the mount
            walker.wait()
        eventually(lambda: not users_of(mnt))
    eventually(lambda: {each.stat().st_size for each in outputs.iterdir()} == {8}, NOTIFIED_S)
