"""`taskfs wait` for several tasks, and its actions when a task has ended."""

import json
import os
import sys
from pathlib import Path
from typing import ClassVar

import pytest

from tests.cli.conftest import Command, eventually
from tests.fake_api import FakeCloud

OUTPUTS = {"stdout.txt": b"done\n"}


@pytest.fixture
def running(cloud: FakeCloud) -> list[str]:
    return [cloud.add_task(status="started", outputs=OUTPUTS) for _ in range(3)]


def test_all(taskfs: Command, cloud: FakeCloud, running: list[str]) -> None:
    """C-51: `wait` of several tasks ends with the last of them."""
    process = taskfs.start("wait", *running)
    assert process.stdout
    lines = {process.stdout.readline() for _ in running}
    assert lines == {f"{task}: started\n" for task in running}
    for task in running:
        assert process.poll() is None
        cloud.set_status(task, "success")
        assert process.stdout.readline().startswith(f"{task}: success, 00:")
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "", "")


def test_a_failed_task_is_1(taskfs: Command, cloud: FakeCloud, running: list[str]) -> None:
    """C-51: A task that ends badly is status 1."""
    for task, status in zip(running, ("success", "failed", "success"), strict=True):
        cloud.set_status(task, status)
    done = taskfs("wait", *running)
    assert done.returncode == 1
    assert f"task {running[1]} ended as failed" in done.stderr


def test_any(taskfs: Command, cloud: FakeCloud, running: list[str]) -> None:
    """C-51: `--any` ends with the first."""
    process = taskfs.start("wait", "--any", *running)
    assert process.stdout
    process.stdout.readline()
    cloud.set_status(running[1], "success")
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    assert out.splitlines()[-1].startswith(f"{running[1]}: success")


def test_one_that_does_not_exist_is_3(taskfs: Command, running: list[str]) -> None:
    """C-51: A task that does not exist is status 3."""
    done = taskfs("wait", *running, "n" * 25)
    assert done.returncode == 3
    assert done.stderr == f"taskfs: there is no task {'n' * 25}: see `taskfs list --all`\n"


def test_several_that_time_out_are_124(
    taskfs: Command, cloud: FakeCloud, running: list[str]
) -> None:
    """C-51: After `--timeout` the status is 124; a look at several tasks is one request."""
    cloud.clear_requests()
    done = taskfs("wait", *running, "--timeout", "5s")
    assert done.returncode == 124
    assert done.stderr == "taskfs: 3 tasks have not ended after 5 s\n"
    paths = [record.path for record in cloud.requests]
    assert set(paths) == {"/tasks"} and len(paths) <= 7


def test_json_of_several_is_an_array(taskfs: Command, cloud: FakeCloud, running: list[str]) -> None:
    """C-51, C-3: `--json` of several tasks is an array."""
    for task in running:
        cloud.set_status(task, "success")
    done = taskfs("wait", "--json", *running)
    assert [record["task_id"] for record in json.loads(done.stdout)] == running


def test_on_a_terminal_one_line_counts_them(
    taskfs: Command, cloud: FakeCloud, running: list[str]
) -> None:
    """C-51: On a terminal one line counts the tasks."""
    with taskfs.terminal("wait", *running) as terminal:
        terminal.read_until("waiting for 3 tasks: 3 started")
        terminal.type("\x03")
        assert terminal.end() == 130
    assert "3 tasks continue; `taskfs kill" in terminal.text


class TestFailures:
    OUTPUTS: ClassVar = {
        "stderr.txt": b"".join(b"trace %d\n" % number for number in range(50)),
        "stdout.txt": b"step 1\nstep 2\x1b[31m\n",
    }

    @pytest.fixture
    def failed(self, cloud: FakeCloud) -> str:
        return cloud.add_task(
            status="failed",
            outputs=self.OUTPUTS,
            error_detail="out of memory",
            machine="c2-standard-8",
            estimated_computation_cost=1.5,
        )

    @pytest.mark.parametrize("command", ["wait", "info"])
    def test_the_end_of_the_console_output(
        self, taskfs: Command, failed: str, command: str
    ) -> None:
        """C-50: The error, the ends of both files, the machine and the cost are shown."""
        done = taskfs(command, failed)
        lines = done.stdout.splitlines()
        start = lines.index("The end of stderr.txt (440 B):")
        assert lines[start + 1 : start + 11] == [f"  trace {n}" for n in range(40, 50)]
        assert lines[start + 11] == "The end of stdout.txt (19 B):"
        assert lines[start + 12 :] == ["  step 1", "  step 2\\x1b[31m"]
        whole = done.stdout + done.stderr
        assert "out of memory" in whole and "c2-standard-8" in whole and "1.50" in whole
        if command == "wait":
            assert "Machine c2-standard-8, cost 1.50 US$\n" in whole
        assert done.returncode == (1 if command == "wait" else 0)

    def test_two_small_ranges(self, taskfs: Command, cloud: FakeCloud, failed: str) -> None:
        """C-50: This costs two small ranges beyond the directory."""
        cloud.clear_requests()
        taskfs("info", failed)
        sent = [record.bytes_sent for record in cloud.requests if record.side == "store"]
        assert len(sent) <= 3 and sum(sent) < 100_000

    def test_a_success_and_a_kill_have_none(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-50: Tasks that did not fail have no such lines."""
        for status in ("success", "killed"):
            task = cloud.add_task(status=status, outputs=self.OUTPUTS)
            assert "stderr.txt" not in taskfs("info", task).stdout
            assert "stderr.txt" not in taskfs("wait", task).stdout

    def test_a_failure_without_outputs(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-50: A failure without outputs shows its error."""
        task = cloud.add_task(status="failed", error_detail="no machine")
        done = taskfs("info", task)
        assert (done.returncode, done.stderr) == (0, "")
        assert "no machine" in done.stdout and "The end of" not in done.stdout

    def test_json_has_none(self, taskfs: Command, failed: str) -> None:
        """C-50, C-3: `--json` stays JSON; `wait` explains on standard error."""
        assert json.loads(taskfs("info", failed, "--json").stdout)["task_id"] == failed
        done = taskfs("wait", failed, "--json")
        assert json.loads(done.stdout)["task_id"] == failed
        assert "trace 49" in done.stderr

    def test_an_archive_that_cannot_be_read(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-50: An archive that cannot be read is named."""
        task = cloud.add_task(status="failed", error_detail="out of memory")
        cloud.put_object(f"{task}/output.zip", b"no archive" * 1000)
        done = taskfs("info", task)
        assert done.returncode == 0
        assert "Its outputs cannot be read: " in done.stdout


class TestNotification:
    def test_a_command_gets_the_task(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-52: `--exec` gets the task in its environment."""
        task = cloud.add_task(outputs=OUTPUTS, project="waves", simulator="openfoam")
        program = (
            "import os; print(*(os.environ['TASK_' + n] for n in 'ID STATUS PROJECT'.split()))"
        )
        done = taskfs("wait", task, "--exec", f'{sys.executable} -c "{program}"')
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines()[-1] == f"{task} success waves"

    def test_no_shell_runs_it(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-52, Y-11: `--exec` is run without a shell."""
        task = cloud.add_task(outputs=OUTPUTS)
        done = taskfs("wait", task, "--exec", "echo $TASK_ID; touch x")
        assert done.stdout.splitlines()[-1] == "$TASK_ID; touch x"
        assert not (taskfs.cwd / "x").exists()

    def test_a_command_that_fails_is_reported(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-52: A command that fails is reported, and changes no status."""
        task = cloud.add_task(outputs=OUTPUTS)
        done = taskfs("wait", task, "--exec", "false")
        assert (done.returncode, done.stderr) == (0, "taskfs: --exec: false ended with status 1\n")
        done = taskfs("wait", task, "--exec", "/nonexistent/x")
        assert done.returncode == 0
        assert "--exec: /nonexistent/x cannot be run (No such file" in done.stderr
        assert taskfs("wait", task, "--exec", "'").returncode == 2

    def test_it_runs_for_each_of_several(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-52: `--exec` runs once for each task."""
        tasks = [cloud.add_task(outputs=OUTPUTS) for _ in range(2)]
        done = taskfs("wait", *tasks, "--exec", "printenv TASK_ID")
        assert [line for line in done.stdout.splitlines() if line in tasks] == tasks

    def test_its_output_is_no_part_of_the_json(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-3: With `--json` a command of `--exec` prints to standard error."""
        task = cloud.add_task(outputs=OUTPUTS)
        done = taskfs("wait", task, "--json", "--exec", "echo done")
        assert json.loads(done.stdout)["task_id"] == task
        assert (done.returncode, done.stderr) == (0, "done\n")

    def test_a_desktop_is_notified(self, taskfs: Command, cloud: FakeCloud, tmp_path: Path) -> None:
        """C-52: `--notify` calls notify-send where there is a desktop."""
        task = cloud.add_task(outputs=OUTPUTS)
        program = tmp_path / "bin" / "notify-send"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/notified\n')
        program.chmod(0o755)
        path = f"{program.parent}{os.pathsep}{taskfs.environment['PATH']}"
        taskfs("wait", task, "--notify", PATH=path)
        assert not (tmp_path / "notified").exists()  # there is no desktop
        taskfs("wait", task, "--notify", PATH=path, DISPLAY=":99")
        assert f"{task}: success" in (tmp_path / "notified").read_text()

    def test_the_bell_rings_on_a_terminal(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-52: `--notify` rings the bell of a terminal only."""
        task = cloud.add_task(status="started", outputs=OUTPUTS)
        with taskfs.terminal("wait", task, "--notify") as terminal:
            terminal.read_until("started")
            assert "\a" not in terminal.text
            cloud.set_status(task, "success")
            assert terminal.end() == 0
        assert terminal.text.endswith("\a")
        assert "\a" not in taskfs("wait", task, "--notify").stderr


def test_a_kill_on_interrupt_kills_all(
    taskfs: Command, cloud: FakeCloud, running: list[str]
) -> None:
    """C-51: With --kill-on-interrupt, Ctrl+C kills all of the tasks."""
    with taskfs.terminal("wait", "--kill-on-interrupt", *running) as terminal:
        terminal.read_until("waiting for 3 tasks")
        terminal.type("\x03")
        assert terminal.end() == 130
    eventually(lambda: sorted(cloud.killed) == sorted(running))
