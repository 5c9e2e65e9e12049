"""`taskfs completion`, in real shells and as single requests."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from taskfs.model import KNOWN_STATUSES
from tests.cli.conftest import Command, Terminal
from tests.fake_api import FakeCloud
from tests.programs import require_program

# Arguments that start each shell without its configuration, and the command that loads the script.
SHELLS: Final = {
    "bash": (["--norc", "--noprofile", "-i"], "source {script}"),
    "zsh": (["-f", "-i"], "autoload -U compinit; compinit -u; source {script}"),
    "fish": (["--no-config", "-i"], "source {script}"),
}


@pytest.fixture
def shell_path(taskfs: Command) -> str:
    """A PATH on which `taskfs` is a program."""
    return f"{taskfs.write_executable().parent}{os.pathsep}{os.defpath}"


@pytest.fixture
def complete(taskfs: Command, shell_path: str) -> Callable[..., list[str]]:
    """Sends the request of a bash completion script; the last word is incomplete."""

    def ask(*words: str, **environment: str) -> list[str]:
        done = subprocess.run(
            [str(shutil.which("taskfs", path=shell_path))],
            env={
                **taskfs.environment,
                "_TASKFS_COMPLETE": "bash_complete",
                "COMP_WORDS": " ".join(("taskfs", *words)),
                "COMP_CWORD": str(len(words)),
                "TASKFS_COMPLETION_TIMEOUT": "30s",  # this machine may be busy
                **environment,
            },
            cwd=taskfs.cwd,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.stderr == ""
        return [line.partition(",")[2] for line in done.stdout.splitlines() if line]

    return ask


@pytest.mark.parametrize("shell", SHELLS)
def test_tab_in_a_real_shell(
    taskfs: Command, cloud: FakeCloud, shell_path: str, shell: str
) -> None:
    """C-10: Tab in a real bash, zsh and fish completes commands, options and ids."""
    executable = require_program(shell)
    task = cloud.add_task("q7" + "x" * 23, status="started")
    cloud.add_task("z9" + "x" * 23, status="started")
    script = taskfs.cwd / "script"
    script.write_text(taskfs("completion", shell).stdout)
    start, source = SHELLS[shell]
    environment = {**taskfs.environment, "PATH": shell_path, "TERM": "xterm", "LC_ALL": "C.UTF-8"}
    environment["TASKFS_COMPLETION_TIMEOUT"] = "30s"  # this machine may be busy
    environment["PS1"] = "ready> "
    terminal = Terminal([executable, *start], taskfs.cwd, environment)
    try:
        terminal.type(f"{source.format(script=script)}; echo loa''ded\n")
        terminal.read_until("loaded\r\n")
        terminal.type("taskfs kill q\t")
        terminal.read_until(task[2:])
        terminal.type("\x15taskfs comp\tfi\t")
        terminal.read_until("letion")
        terminal.read_until("sh")
    finally:
        terminal.close()
    assert "Traceback" not in terminal.text


@pytest.mark.parametrize("shell", SHELLS)
def test_the_shell_takes_the_script(taskfs: Command, shell: str) -> None:
    """C-10: The shell itself finds no fault in its script."""
    executable = require_program(shell)
    done = taskfs("completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    script = taskfs.cwd / "script"
    script.write_text(done.stdout)
    checked = subprocess.run([executable, "-n", script], capture_output=True, text=True, timeout=60)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_ids(complete: Callable[..., list[str]], cloud: FakeCloud) -> None:
    """C-10: Ids are completed; a command that takes only unfinished tasks gets only those."""
    running = cloud.add_task(status="started")
    ended = cloud.add_task()
    assert complete("info", "") == [ended, running]
    assert complete("info", running[:3]) == [running]
    assert complete("download", "") == [ended, running]
    assert complete("kill", "") == [running]
    assert complete("wait", "") == [running]
    assert complete("kill", running, "") == []  # already given
    unreachable = ("--api-url", "http://127.0.0.1:1")
    assert complete("info", *unreachable, "", TASKFS_COMPLETION_TIMEOUT="1s") == []


def test_values(complete: Callable[..., list[str]], cloud: FakeCloud, taskfs: Command) -> None:
    """C-10: Commands, options and the values of options are completed."""
    cloud.add_task(project="tank")
    assert complete("li") == ["list"]
    assert "--status-cache-time" in complete("watch", "--stat")
    assert complete("list", "--status", "") == list(KNOWN_STATUSES)
    assert complete("list", "--project", "t") == ["tank"]
    assert complete("mount", "--log-level", "w") == ["warning"]
    assert complete("completion", "") == ["bash", "zsh", "fish"]


@pytest.mark.parametrize("trouble", ["no key", "wrong key", "refused", "stalled", "failing"])
def test_an_unreachable_api_completes_nothing(
    complete: Callable[..., list[str]], taskfs: Command, cloud: FakeCloud, trouble: str
) -> None:
    """C-10: If the API is unreachable, completion returns nothing, soon and silently."""
    cloud.add_task()
    environment = {
        "no key": {"INDUCTIVA_API_KEY": ""},
        "wrong key": {"INDUCTIVA_API_KEY": "wrong"},
        "refused": {"INDUCTIVA_API_URL": "http://127.0.0.1:1"},
    }.get(trouble, {})
    if trouble == "stalled":
        cloud.faults.add("stall", times=None)
    if trouble == "failing":
        cloud.fail()
    environment["TASKFS_COMPLETION_TIMEOUT"] = "1s"
    began = time.monotonic()
    assert complete("info", "", **environment) == []
    assert time.monotonic() - began < 20
    assert complete("inf", **environment) == ["info"]


def test_names_cannot_break_out(complete: Callable[..., list[str]], cloud: FakeCloud) -> None:
    """C-10, Y-11: A candidate that a shell would run or split is left out, and so is one with a
    line break."""
    for project in ("a\nplain,b", "$(reboot)", "two words", "a;b", "-rf", "`c`", "good-1.2_x"):
        cloud.add_task(project=project)
    assert complete("list", "--project", "") == ["good-1.2_x"]
    task = cloud.add_task(simulator="x\nplain,y")
    assert task in complete("info", "") and "y" not in complete("info", "")


def test_bad_requests_are_silent(taskfs: Command) -> None:
    """C-10: A malformed completion request prints nothing."""
    for request in ("bash_frobnicate", "tcsh_complete", "bash"):
        done = taskfs("list", _TASKFS_COMPLETE=request)
        assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
    done = taskfs("completion", "tcsh")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and re.search("bash.*zsh.*fish", done.stderr)


def test_mountpoints_are_directories(complete: Callable[..., list[str]], tmp_path: Path) -> None:
    """C-10: The shell completes directories itself."""
    assert complete("mount", str(tmp_path)) == [str(tmp_path)]
    assert complete("umount", "/nonexistent") == ["/nonexistent"]


def test_paths(complete: Callable[..., list[str]], cloud: FakeCloud) -> None:
    """C-59: The names in a task's directory and in its outputs are completed."""
    outputs = {"stdout.txt": b"", "vtk/a_1.vtk": b"", "vtk/a_2.vtk": b"", "log/x": b""}
    task = cloud.add_task(outputs=outputs, inputs={"config.json": b""})
    assert complete("cat", "") == [task]
    assert complete("cat", f"{task}/st") == [f"{task}/status", f"{task}/stdout.txt"]
    assert complete("ls", f"{task}/vtk/a_1") == [f"{task}/vtk/a_1.vtk"]
    # A shell adds a blank to a single candidate, so the contents of a single directory follow it.
    expected = [f"{task}/vtk/{name}" for name in ("", "a_1.vtk", "a_2.vtk")]
    assert complete("head", f"{task}/vt") == expected
    assert complete("cat", "nope/x") == []


def test_filenames(complete: Callable[..., list[str]], cloud: FakeCloud) -> None:
    """C-59: download completes the names of the task's files."""
    task = cloud.add_task(
        outputs={"stdout.txt": b"", "vtk/a_1.vtk": b""}, inputs={"config.json": b""}
    )
    assert complete("download", task, "--filenames", "s") == ["stdout.txt"]
    assert complete("download", task, "--filenames", "vtk/a") == ["vtk/a_1.vtk"]
    assert complete("download", task, "--inputs", "--filenames", "") == ["config.json"]
    assert complete("download", "--filenames", "") == []


def test_kill_completes_projects_and_statuses(
    complete: Callable[..., list[str]], cloud: FakeCloud
) -> None:
    """C-59: --project and --status of kill are completed."""
    cloud.add_task(project="tank")
    assert complete("kill", "--project", "t") == ["tank"]
    assert complete("kill", "--status", "star") == ["started"]
