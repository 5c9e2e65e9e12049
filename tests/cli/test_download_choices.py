"""`taskfs download`: projects, several names after one flag, where files are, Ctrl+C."""

import os
from pathlib import Path

import pytest

from tests.cli.conftest import Command, eventually
from tests.fake_api import FakeCloud, begin_of

OUTPUTS = {"stdout.txt": b"o", "stderr.txt": b"e", "vtk/a_1.vtk": b"1", "vtk/a_2.vtk": b"2"}


@pytest.fixture
def task(cloud: FakeCloud) -> str:
    return cloud.add_task(outputs=OUTPUTS, inputs={"config.json": b"{}"})


def files(target: Path) -> set[str]:
    return {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("ID --filenames stdout.txt stderr.txt", {"stdout.txt", "stderr.txt"}),
        ("ID --filenames vtk stderr.txt --no-insecure-http", {*list(OUTPUTS)[1:]}),
        ("--filenames stdout.txt ID", {"stdout.txt"}),
        ("--timeout 20s ID --filenames=stdout.txt", {"stdout.txt"}),
        ("ID --filenames stdout.txt --filenames stderr.txt", {"stdout.txt", "stderr.txt"}),
        ("--inputs ID --filenames config.json", {"inputs/config.json"}),
    ],
)
def test_several_names_after_one_flag(
    taskfs: Command, task: str, arguments: str, expected: set[str]
) -> None:
    """C-55: After an ID, --filenames takes several names, as that of the public client."""
    done = taskfs("download", *(task if word == "ID" else word for word in arguments.split()))
    assert (done.returncode, done.stderr) == (0, "")
    assert files(taskfs.cwd / "inductiva_output" / task) == expected


def test_a_project(taskfs: Command, cloud: FakeCloud) -> None:
    """C-55: --project downloads the tasks that have ended and skips those without outputs."""
    first = cloud.add_task(project="waves", outputs=OUTPUTS)
    second = cloud.add_task(project="waves", status="failed", outputs={"x": b"x"})
    bare = cloud.add_task(project="waves", status="failed")
    cloud.add_task(project="waves", status="started")
    cloud.add_task(project="tank", outputs=OUTPUTS)
    done = taskfs("download", "--project", "waves")
    assert done.returncode == 0
    assert sorted(os.listdir(taskfs.cwd / "inductiva_output")) == sorted([first, second])
    assert done.stderr.startswith(f"taskfs: skipped: task {bare} (failed) has no output archive")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("by_project", [False, True])
def test_an_archive_that_cannot_be_read(
    taskfs: Command, cloud: FakeCloud, by_project: bool
) -> None:
    """C-55, C-41: An archive that cannot be read is named, and the other tasks are downloaded."""
    tasks = [cloud.add_task(project="waves", outputs=OUTPUTS) for _ in range(2)]
    cloud.put_object(f"{tasks[1]}/output.zip", b"no archive" * 1000)
    done = taskfs("download", *(["--project", "waves"] if by_project else reversed(tasks)))
    assert done.returncode == 1
    assert f"task {tasks[1]}: " in done.stderr and "--archive" in done.stderr
    assert files(taskfs.cwd / "inductiva_output" / tasks[0]) == set(OUTPUTS)


@pytest.mark.parametrize("arguments", ["", "--filenames nope"])
def test_a_project_without_outputs(taskfs: Command, cloud: FakeCloud, arguments: str) -> None:
    """C-55, C-1: If no task of a project has such outputs, the error says so."""
    cloud.add_task(project="waves", status="started")
    if arguments:
        cloud.add_task(project="waves", outputs=OUTPUTS)
    with taskfs.terminal("download", "-p", "waves", *arguments.split(), columns=200) as terminal:
        assert terminal.end() == 1
    assert "everything is in" not in terminal.text
    assert "no ended task of waves has files to download: see `taskfs list" in terminal.text


@pytest.mark.parametrize(
    "arguments", ["", "x --project y", "--project y --output-dir z", "x --output-dir ../.."]
)
def test_wrong_usage(taskfs: Command, arguments: str) -> None:
    """C-55: Names and a project exclude each other, and paths out of the parent are refused."""
    done = taskfs("download", *arguments.split())
    assert done.returncode == 2 and done.stderr.count("\n") == 1


def test_a_path_within_the_parent(taskfs: Command, task: str) -> None:
    """C-55: Dots that stay within the parent are fine."""
    assert taskfs("download", task, "--output-dir", "a/../b").returncode == 0
    assert files(taskfs.cwd / "inductiva_output" / "b") == set(OUTPUTS)


def test_the_final_path_on_a_terminal(taskfs: Command, task: str) -> None:
    """C-55: On a terminal the last line says where the files are, in the second run too."""
    for words in ("4 files (4 B) downloaded to", "everything is in"):
        with taskfs.terminal("download", task, columns=200) as terminal:
            assert terminal.end() == 0
        assert f"{words} inductiva_output/{task}" in terminal.text


def test_ctrl_c_says_what_is_left(taskfs: Command, cloud: FakeCloud) -> None:
    """C-55: After Ctrl+C a line says how many files are there, and that a second run goes on."""
    large = os.urandom(8 << 20)
    task = cloud.add_task(outputs={"a.txt": b"small", "z.bin": large})
    target = taskfs.cwd / "inductiva_output" / task
    cloud.faults.add(
        "stall", side="store", times=None, match=lambda record: begin_of(record) > 4 << 20
    )
    with taskfs.terminal("download", task, columns=200) as terminal:
        eventually(lambda: any(target.glob("a.txt")))
        terminal.type("\x03")
        assert terminal.end() == 130
    assert f"1 of 2 files are in inductiva_output/{task}; run it again to continue" in terminal.text
    cloud.faults.clear()
    assert taskfs("download", task).returncode == 0
    assert (target / "z.bin").read_bytes() == large
