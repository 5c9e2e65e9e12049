"""Names of tasks that people can type: prefixes, `latest`, `ID/`, `./ID`, paths below a mount."""

import os
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.fake_api import FakeCloud

FIRST, SECOND, OTHER = "abc" + "1" * 22, "abd" + "2" * 22, "xyz" + "3" * 22


@pytest.fixture
def tasks(cloud: FakeCloud) -> None:
    for day, task in enumerate((FIRST, SECOND, OTHER), 1):
        create_time = f"2026-01-0{day}T00:00:00+00:00"
        cloud.add_task(task, create_time=create_time, outputs={"stdout.txt": task.encode()})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("abc", FIRST),
        ("abd2", SECOND),
        ("x", OTHER),
        ("latest", OTHER),
        (f"{FIRST}/", FIRST),
        (f"./{FIRST}", FIRST),
        ("./abc/", FIRST),
    ],
)
def test_every_command_takes_them(taskfs: Command, tasks: None, name: str, expected: str) -> None:
    """C-44: A prefix, `latest`, `ID/` and `./ID` name a task."""
    assert expected in taskfs("info", name).stdout
    assert taskfs("wait", name).returncode == 0
    assert taskfs("cat", f"{name.rstrip('/')}/stdout.txt").stdout == expected
    assert taskfs("download", name).returncode == 0
    assert os.listdir(taskfs.cwd / "inductiva_output") == [expected]


@pytest.mark.parametrize("command", ["info", "kill", "wait", "download", "ls", "cat"])
def test_an_ambiguous_prefix_lists_the_candidates(
    taskfs: Command, cloud: FakeCloud, tasks: None, command: str
) -> None:
    """C-44: An ambiguous prefix is one line with the candidates; nothing is done."""
    done = taskfs(command, "ab")
    assert done.returncode == 1
    text = f"'ab' begins the ids of 2 tasks: {SECOND}, {FIRST}: type more"
    assert done.stderr == f"taskfs: {text}\n"
    assert cloud.killed == []


def test_an_id_is_no_prefix_of_itself(taskfs: Command, cloud: FakeCloud) -> None:
    """C-44: An id that begins another one names its own task."""
    cloud.add_task("run1")
    cloud.add_task("run12")
    assert "run1\n" in taskfs("info", "run1").stdout


def test_a_prefix_kills_the_task_that_the_prompt_names(taskfs: Command, cloud: FakeCloud) -> None:
    """C-44: `kill` takes a prefix, and shows the whole id."""
    task = cloud.add_task(status="started")
    done = taskfs("kill", task[:6], stdin="y\n")
    assert done.returncode == 0 and task in done.stdout
    assert cloud.killed == [task]


def test_a_whole_id_costs_no_listing(taskfs: Command, cloud: FakeCloud, tasks: None) -> None:
    """C-44: A whole id needs no listing."""
    cloud.clear_requests()
    taskfs("info", FIRST)
    assert [record.path for record in cloud.requests] == [f"/tasks/{FIRST}"]


def test_no_tasks_and_no_latest(taskfs: Command) -> None:
    """C-44: Without tasks `latest` is an error of one line."""
    done = taskfs("info", "latest")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "the account has no tasks" in done.stderr


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", f"{FIRST}/../x", ".", ".latest", ""])
def test_other_paths_are_refused(taskfs: Command, name: str) -> None:
    """C-44, C-1: A path that is no task is a wrong call of one line."""
    for command in ("info", "cat"):
        done = taskfs(command, name)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr


@pytest.mark.mount
def test_paths_below_a_mount(taskfs: Command, cloud: FakeCloud, tasks: None) -> None:
    """C-44: A path below a mount names its task, also by a view or a relative path."""
    mountpoint = taskfs.cwd / "mnt"
    mountpoint.mkdir()
    assert taskfs("mount", str(mountpoint)).returncode == 0
    try:
        for path in (
            mountpoint / FIRST,
            mountpoint / FIRST / "outputs" / "stdout.txt",
            mountpoint / ".by-status" / "success" / FIRST,
            *(
                path
                for path in (mountpoint / ".by-date").iterdir()
                if path.name.endswith(FIRST[:8])
            ),
            f"mnt/{FIRST}/",
        ):
            assert FIRST in taskfs("info", str(path)).stdout
        assert OTHER in taskfs("info", str(mountpoint / ".latest")).stdout
        path = mountpoint / FIRST / "outputs" / "stdout.txt"
        assert taskfs("cat", str(path)).stdout == FIRST
        inside = Command(mountpoint / FIRST / "outputs", taskfs.environment)
        assert inside("cat", "./stdout.txt").stdout == FIRST
        assert FIRST in inside("info", ".").stdout
        beside = Command(Path(mountpoint), taskfs.environment)
        assert beside("cat", f"{SECOND}/stdout.txt").stdout == SECOND
    finally:
        assert taskfs("umount", str(mountpoint)).returncode == 0
