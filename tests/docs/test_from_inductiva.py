"""docs/from-inductiva.md: each command of its tables is run as it is printed."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from taskfs.fuse.mountpoint import umount
from tests.docs.transcript import install_command
from tests.fake_api import FakeCloud
from tests.fork_server import ROOT
from tests.mounts import NO_TURN_SERVER, is_mounted

DOCUMENT: Final = (ROOT / "taskfs/docs/from-inductiva.md").read_text()
OUTPUTS: Final = {"a": b"A\n", "b": b"B\n", "stdout.txt": b"first\nlast\n", "stderr.txt": b""}
# What the commands of a row print. All others print, write or kill something.
SHOWN: Final = {
    "tasks info ID": "success",
    "logs ID": "first\nlast",
    "tasks list-files ID": "stdout.txt",
    "task.wait()": "success",
    "storage list": "stdout.txt",
}
# Commands that end with a key, or with the task, and what a script runs in their place.
IN_A_SCRIPT: Final = {
    "taskfs watch": "taskfs watch --once",
    "taskfs list -w": "taskfs list",
    "taskfs tail -f RUN/live/stdout.txt": (
        "exec 3< <(exec taskfs tail -f RUN/live/stdout.txt); head -n1 <&3; kill $!"
    ),
}
_SPAN: Final = re.compile(r"`((?:[^`\\]|\\.)+)`")


class Command(NamedTuple):
    """One command of the document: the public client's, ours, and whether it needs a mount."""

    theirs: str
    ours: str
    is_on_a_mount: bool


def commands() -> Iterator[Command]:
    """Yield the commands of both tables; those of one cell are divided by semicolons."""
    for line in DOCUMENT.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 3 and not cells[0].startswith("---") and "…" not in cells[0]:
            for number, cell in enumerate(cells[1:]):
                for span in _SPAN.findall(cell):
                    if span not in ("auth login", "in Python"):
                        theirs = _SPAN.findall(cells[0])[0]
                        yield Command(theirs, span.replace("\\|", "|"), number == 0)


class Place(NamedTuple):
    """A home directory with the command `taskfs`, and an account."""

    home: Path
    environment: dict[str, str]
    names: dict[str, str]

    def run(self, command: str, cwd: Path) -> str:
        """Run *command* in bash with the names of tasks in it; return what it prints."""
        for name, task in self.names.items():
            command = re.sub(rf"\b{name}\b", task, command)
        environment = dict(self.environment)
        key = environment.pop("INDUCTIVA_API_KEY") if "login" in command else None
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=cwd,
            env=environment,
            input="y\n" if key is None else f"{key}\n",
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, ""), f"$ {command}\n{done.stderr}"
        return done.stdout


@pytest.fixture
def place(tmp_path: Path, cloud: FakeCloud) -> Iterator[Place]:
    programs = install_command(tmp_path)
    for name in ("results", "tasks"):
        (tmp_path / name).mkdir()
    environment = {
        "HOME": str(tmp_path),
        "LC_ALL": "C.UTF-8",
        "PATH": os.pathsep.join((str(programs), os.environ["PATH"])),
        "PYTHONPATH": str(ROOT),
        "INDUCTIVA_API_URL": cloud.api_url,
        "INDUCTIVA_API_KEY": cloud.api_key,
        "INDUCTIVA_TURN_SERVER_URL": NO_TURN_SERVER,
    }
    names = {
        "ID": cloud.add_task(project="waves", outputs=OUTPUTS, inputs={"config.json": b"{}"}),
        "RUN": add_running(cloud),
        "NAME": "waves",
    }
    yield Place(tmp_path, environment, names)
    if is_mounted(tmp_path / "tasks"):
        umount(tmp_path / "tasks", lazy=True)


def test_the_tables_are_read() -> None:
    """C-60: The document's tables have the commands, most of them in both ways."""
    found = list(commands())
    assert len({command.theirs for command in found}) >= 30
    assert sum(command.is_on_a_mount for command in found) >= 25
    assert sum(command.ours.startswith(("taskfs", "INDUCTIVA")) for command in found) >= 35


@pytest.mark.mount
@pytest.mark.parametrize("on_a_mount", [True, False], ids=["mount", "commands"])
def test_each_command_does_what_the_document_says(
    place: Place, cloud: FakeCloud, on_a_mount: bool
) -> None:
    """C-60: Each command of the tables works, in the order of the document."""
    if on_a_mount:
        place.run("taskfs mount ~/tasks", place.home)
    for theirs, ours, is_on_a_mount in commands():
        if is_on_a_mount is not on_a_mount:
            continue
        if cloud.statuses()[place.names["RUN"]] != "computation-started":
            place.names["RUN"] = add_running(cloud)
            place.run("echo 1 > ~/tasks/.taskfs/refresh" if on_a_mount else "true", place.home)
        shutil.rmtree(place.home / "inductiva_output", ignore_errors=True)
        kills, files = len(cloud.killed), files_in(place.home)
        command = IN_A_SCRIPT.get(ours, ours)
        shown = place.run(command, place.home / "tasks" if on_a_mount else place.home)
        assert shown or files != files_in(place.home) or len(cloud.killed) > kills, command
        assert SHOWN.get(theirs, "") in shown
        assert ("kill" in theirs) == (len(cloud.killed) > kills), command


def add_running(cloud: FakeCloud) -> str:
    """Add a task whose machine has a file; return its id."""
    task = cloud.add_task(status="computation-started")
    cloud.machine_files(task).write("stdout.txt", b"step 1\n")
    return task


def files_in(home: Path) -> dict[str, int]:
    """Return the files outside of the mount, and when they were written."""
    return {
        str(path): path.stat().st_ctime_ns
        for folder in ("results", "inductiva_output", "x")
        for path in (*(home / folder).rglob("*"), *home.glob("*.zip"), *home.glob("*/stdout.txt"))
    }
