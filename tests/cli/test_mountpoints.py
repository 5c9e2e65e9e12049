"""Where `taskfs mount` and `umount` act: missing directories, --if-needed, `mountpoint`."""

import os
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.fake_api import FakeCloud
from tests.mounts import is_mounted, unmount

pytestmark = pytest.mark.mount


@pytest.fixture
def task(cloud: FakeCloud) -> str:
    return cloud.add_task()


def test_a_missing_directory_below_the_home_is_created(
    taskfs: Command, home: Path, task: str
) -> None:
    """C-57: mount creates a missing mountpoint below the home, and nowhere else."""
    path = home / "my" / "tasks"
    assert taskfs("mount", str(path)).returncode == 0
    try:
        assert task in os.listdir(path)
    finally:
        unmount(path)
    done = taskfs("mount", str(taskfs.cwd / "elsewhere"))
    assert done.returncode == 1 and "create it with mkdir -p" in done.stderr


@pytest.mark.parametrize(
    ("command", "variable", "value"),
    [
        ("mount", "INDUCTIVA_API_KEY", "wrong"),
        ("mount", "TASKFS_TIMEOUT", "soon"),
        ("demo", "TASKFS_TIMEOUT", "soon"),
    ],
)
def test_a_failed_mount_removes_the_directories_that_it_created(
    taskfs: Command, home: Path, command: str, variable: str, value: str
) -> None:
    """C-57, E-11: If the mount fails, the directories that it created are removed, no others."""
    (home / "old").mkdir()
    for path in (home / "my" / "tasks", home / "my" / ("too-long" * 40), home / "old"):
        done = taskfs(command, str(path), **{variable: value})
        assert done.returncode == 1, done.stderr
    assert not (home / "my").exists() and (home / "old").is_dir()


def test_if_needed(taskfs: Command, home: Path, task: str) -> None:
    """C-57: With --if-needed a second mount succeeds and changes nothing."""
    path = home / "tasks"
    assert taskfs("mount", "--if-needed", str(path)).returncode == 0
    try:
        before = os.stat(path).st_dev
        assert taskfs("mount", str(path)).returncode == 1
        done = taskfs("mount", "--if-needed", str(path))
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert os.stat(path).st_dev == before
    finally:
        unmount(path)


def test_the_configured_mountpoint(taskfs: Command, home: Path, task: str) -> None:
    """C-57: mount and umount without an argument use the setting `mountpoint`."""
    path = home / "tasks"
    assert taskfs("mount", TASKFS_MOUNTPOINT=str(path)).returncode == 0
    assert task in os.listdir(path)
    assert taskfs("umount", TASKFS_MOUNTPOINT=str(path)).returncode == 0
    assert not is_mounted(path)
    for command in ("mount", "umount"):
        done = taskfs(command)
        assert done.returncode == 2 and "`mountpoint` is not configured" in done.stderr
    (taskfs.cwd / "settings.toml").write_text('mountpoint = "~/other"\n')
    assert taskfs("mount", "--config", "settings.toml").returncode == 0
    unmount(home / "other")


def test_a_terminal_gets_one_line(taskfs: Command, home: Path, task: str) -> None:
    """C-57: On a terminal, mount says where the tasks are and how to unmount them."""
    path = home / "tasks"
    with taskfs.terminal("mount", str(path)) as terminal:
        terminal.read_until(f"mounted on {path}; `taskfs umount {path}` ends it")
        unmount(path)
        assert terminal.text.count("\n") <= 1
