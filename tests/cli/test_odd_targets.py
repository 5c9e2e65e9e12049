"""`taskfs download` to mounted file systems with real-world limits."""

import contextlib
import os
import resource
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import TIMEOUT_S, Command
from tests.cli.test_download import large_task, tree
from tests.fake_api import FakeCloud
from tests.fork_server import COMMAND
from tests.mounts import eventually

LONG = "n" * 144
FILES = {
    "plain.txt": b"plain",
    "t=0:01.vtk": b"colon",
    "a:b/c.txt": b"colon above",
    LONG: b"long",
    "é.txt": b"accent",
    "d/e.txt": b"deep",
}


@contextlib.contextmanager
def odd_target(target: Path, *lacks: str) -> Iterator[None]:
    """Mount on *target* the file system of `odd_target` with the given defects."""
    source = target.with_name("source")
    source.mkdir()
    target.mkdir(parents=True)
    program = Path(__file__).with_name("odd_target.py")
    server = subprocess.Popen([sys.executable, str(program), str(source), str(target), *lacks])
    try:
        eventually(lambda: os.path.ismount(target) or server.poll() is not None)
        assert server.poll() is None
        yield
    finally:
        subprocess.run(["fusermount", "-uz", str(target)], check=True)
        server.wait(TIMEOUT_S)


@pytest.fixture
def task(cloud: FakeCloud) -> str:
    return cloud.add_task(outputs=FILES)


@pytest.mark.mount
@pytest.mark.parametrize(
    ("lack", "refused", "reason"),
    [
        ("colons", {"t=0:01.vtk", "a:b/c.txt"}, "Invalid argument"),
        ("colons_by_fuse", {"t=0:01.vtk", "a:b/c.txt"}, "Operation not permitted"),
        ("long_names", {LONG}, "File name too long"),
        ("ascii_only", {"é.txt"}, "Invalid or incomplete multibyte"),
    ],
)
def test_one_name_does_not_keep_the_others(
    taskfs: Command, task: str, tmp_path: Path, lack: str, refused: set[str], reason: str
) -> None:
    """C-38: A file whose name the target cannot hold is named, the others come, and the status is
    1."""
    target = tmp_path / "target"
    with odd_target(target, lack):
        for _ in range(2):  # in the second run the other files exist
            done = taskfs("download", task, "--output-dir", str(target))
            assert done.returncode == 1
            lines = done.stderr.splitlines()
            assert {line.split(": the file system")[0] for line in lines[:-1]} == {
                f"taskfs: {target}/{name}" for name in refused
            }
            assert all(reason in line for line in lines[:-1])
            assert f"{len(refused)} of " in lines[-1] and "not downloaded" in lines[-1]
            assert tree(target) == {k: v for k, v in FILES.items() if k not in refused}


@pytest.mark.mount
def test_names_that_differ_in_case(taskfs: Command, cloud: FakeCloud, tmp_path: Path) -> None:
    """C-40: Where `A` and `a` are one name, the second is named and the first stays."""
    task = cloud.add_task(outputs={"A.txt": b"first", "a.txt": b"the second", "b.txt": b"b"})
    target = tmp_path / "target"
    with odd_target(target, "case"):
        for _ in range(2):
            done = taskfs("download", task, "--output-dir", str(target))
            assert done.returncode == 1
            assert "differs in case" in done.stderr
            assert done.stderr.count("\n") == 2
            found = tree(target)
            assert found.pop("b.txt") == b"b"
            assert found in ({"A.txt": b"first"}, {"a.txt": b"the second"})
    assert taskfs("download", task, "--output-dir", str(tmp_path / "plain")).returncode == 0
    assert len(tree(tmp_path / "plain")) == 3


@pytest.mark.mount
def test_times_that_cannot_be_set(taskfs: Command, task: str, tmp_path: Path) -> None:
    """C-38: Where times cannot be set there is one warning, and the files are there."""
    target = tmp_path / "target"
    with odd_target(target, "times"):
        done = taskfs("download", task, "--output-dir", str(target))
        assert done.returncode == 0
        assert done.stderr.startswith("taskfs: warning: the time of 6 files could not be set (Op")
        assert tree(target) == FILES


@pytest.mark.parametrize("flags", [[], ["--archive"]])
def test_a_file_that_is_too_large_for_the_target(
    taskfs: Command, cloud: FakeCloud, flags: list[str]
) -> None:
    """C-38: A file that is too large for the target (4 GiB on FAT, EFBIG here) is named."""
    task = cloud.add_task(outputs={"large": os.urandom(200_000), "small": b"small"})
    download_with_limit(taskfs, 100_000, task, *flags)
    if not flags:
        assert tree(taskfs.cwd / "inductiva_output" / task) == {"small": b"small"}


def test_nothing_is_kept_of_a_file_that_is_too_large(taskfs: Command, cloud: FakeCloud) -> None:
    """C-39: A large file that the target cannot hold leaves no compressed bytes in it."""
    task, _ = large_task(cloud, 48 << 20, zipfile.ZIP_STORED)
    download_with_limit(taskfs, 16 << 20, task)
    assert list(tree(taskfs.cwd / "inductiva_output" / task)) == ["small.txt"]


def download_with_limit(taskfs: Command, max_bytes: int, *arguments: str) -> None:
    """Download where a file may have *max_bytes*, and expect the error for a larger one."""
    done = subprocess.run(
        [*COMMAND, "download", *arguments],
        cwd=taskfs.cwd,
        env=taskfs.environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, max_bytes)),
    )
    assert done.returncode == 1
    assert "cannot hold a file of this size" in done.stderr
    assert "Traceback" not in done.stderr
