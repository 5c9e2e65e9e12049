"""`taskfs wait`: output, exit statuses, Ctrl+C, failures."""

import json

import pytest

from tests.cli.conftest import Command, eventually, interrupt
from tests.fake_api import FakeCloud
from tests.faults.scenarios import NO_SUCH_KEY

OUTPUTS = {"stdout.txt": b"done\n"}


def statuses_requested(cloud: FakeCloud) -> int:
    return sum(record.path.endswith("/status") for record in cloud.requests)


def test_success_is_0_and_the_others_are_1(taskfs: Command, cloud: FakeCloud) -> None:
    """C-20: The exit status is 0 for `success` and 1 for any other end."""
    good = cloud.add_task(outputs=OUTPUTS)
    bad = cloud.add_task(status="executer-failed", error_detail="out of memory")

    done = taskfs("wait", good)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("success, 00:00:")
    done = taskfs("wait", bad)
    assert done.returncode == 1
    assert done.stdout.startswith("executer-failed")
    assert "out of memory" in done.stderr


def test_json(taskfs: Command, cloud: FakeCloud) -> None:
    """C-3: `wait --json` prints the record and nothing else."""
    task = cloud.add_task(status="started", outputs=OUTPUTS)
    process = taskfs.start("wait", task, "--json")
    assert process.stderr
    assert process.stderr.readline() == "started\n"
    cloud.set_status(task, "success")
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    record = json.loads(out)
    assert (record["task_id"], record["status"]) == (task, "success")


def test_piped_there_is_a_line_per_change(taskfs: Command, cloud: FakeCloud) -> None:
    """C-20: Piped, there is one line per change."""
    cloud.add_task(status="submitted", create_time="2026-01-01T00:00:00+00:00")
    task = cloud.add_task(status="submitted", outputs=OUTPUTS)
    process = taskfs.start("wait", task)
    assert process.stdout and process.stderr

    lines = [process.stdout.readline()]
    seen = statuses_requested(cloud)
    eventually(lambda: statuses_requested(cloud) > seen + 1)  # polls print no line
    cloud.set_status(task, "started")
    lines.append(process.stdout.readline())
    cloud.set_status(task, "computation-started")
    lines.append(process.stdout.readline())
    cloud.set_status(task, "success")
    out, err = process.communicate(timeout=30)

    assert lines[0].startswith("submitted, ") and "ahead in the queue" in lines[0]
    assert lines[1:] == ["started\n", "computation-started\n"]
    assert out.splitlines()[-1].startswith("success, 00:00:")
    assert "\x1b" not in "".join(lines) + out
    assert (process.returncode, err) == (0, "")


def test_on_a_terminal_one_line_is_kept_up_to_date(taskfs: Command, cloud: FakeCloud) -> None:
    """C-20: On a terminal one line is kept up to date."""
    task = cloud.add_task(status="computation-started", outputs=OUTPUTS)
    with taskfs.terminal("wait", task) as terminal:
        terminal.read_until("computation-started, 00:00:")
        before = terminal.text.count("\r\x1b[K")
        eventually(lambda: bool(terminal.read()) and terminal.text.count("\r\x1b[K") > before)
        assert "\n" not in terminal.text
        cloud.set_status(task, "success")
        assert terminal.end() == 0
    assert terminal.text.rstrip().rpartition("\x1b[K")[2].startswith("success, 00:00:")


@pytest.mark.parametrize("kill", [False, True])
def test_ctrl_c_ends_the_waiting(taskfs: Command, cloud: FakeCloud, kill: bool) -> None:
    """C-20, C-1: Ctrl+C ends the waiting."""
    task = cloud.add_task(status="computation-started")
    flags = ["--kill-on-interrupt"] if kill else []
    with taskfs.terminal("wait", task, *flags) as terminal:
        terminal.read_until("computation-started")
        terminal.type("\x03")
        assert terminal.end() == 130

    assert cloud.killed == ([task] if kill else [])
    said = f"Successfully sent kill request for task {task}." if kill else "continues"
    assert said in terminal.text
    assert "Traceback" not in terminal.text


def test_an_interrupt_while_a_request_is_under_way(taskfs: Command, cloud: FakeCloud) -> None:
    """C-20: Ctrl+C ends the waiting while a request is in flight."""
    task = cloud.add_task(status="started")
    stall = cloud.faults.add("stall", path="/status", skip=1)
    process = taskfs.start("wait", task, "--kill-on-interrupt")
    eventually(lambda: stall.hits == 1)

    interrupt(process)
    out, _ = process.communicate(timeout=30)

    assert process.returncode == 130
    assert out.splitlines()[-1] == f"Successfully sent kill request for task {task}."
    assert cloud.killed == [task]


def test_a_kill_on_interrupt_is_no_part_of_the_json(taskfs: Command, cloud: FakeCloud) -> None:
    """C-3: With `--json` the outcome of a kill on interrupt goes to standard error."""
    task = cloud.add_task(status="started")
    process = taskfs.start("wait", task, "--json", "--kill-on-interrupt")
    assert process.stderr
    assert process.stderr.readline() == "started\n"
    interrupt(process)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert err == f"Successfully sent kill request for task {task}.\n"


def test_a_failed_kill_is_reported(taskfs: Command, cloud: FakeCloud) -> None:
    """C-20: A kill on interrupt that fails is reported."""
    task = cloud.add_task(status="started")
    # The wait itself must not meet the wrong key.
    stall = cloud.faults.add("stall", path="/status", skip=1)
    process = taskfs.start("wait", task, "--kill-on-interrupt")
    eventually(lambda: stall.hits == 1)
    cloud.rotate_key()

    interrupt(process)
    _, err = process.communicate(timeout=30)

    assert process.returncode == 130
    assert f"the kill request for task {task} failed" in err


def test_the_timeout_of_the_user(taskfs: Command, cloud: FakeCloud) -> None:
    """C-20: The waiting ends with the user's timeout."""
    task = cloud.add_task(status="started")
    done = taskfs("wait", task, "--timeout", "4.5s")
    assert done.returncode == 124
    assert done.stderr == f"taskfs: task {task} is still started after 4.5 s\n"
    assert cloud.killed == []


def test_transient_failures_do_not_end_it(taskfs: Command, cloud: FakeCloud) -> None:
    """C-20, X-11: Transient failures do not end the waiting."""
    task = cloud.add_task(status="started", outputs=OUTPUTS)
    process = taskfs.start("wait", task, TASKFS_TIMEOUT="4s")
    assert process.stdout and process.stderr
    assert process.stdout.readline() == "started\n"

    cloud.pause()
    assert "trying again" in process.stderr.readline()
    cloud.resume()
    cloud.fail_for_long("api")
    assert "trying again" in process.stderr.readline()
    cloud.faults.clear()
    cloud.set_status(task, "success")
    process.communicate(timeout=30)

    assert process.returncode == 0


@pytest.mark.parametrize("reason", ["unknown", "key"])
def test_final_failures_end_it(taskfs: Command, cloud: FakeCloud, reason: str) -> None:
    """C-20: A final failure ends the waiting."""
    task = "nope" if reason == "unknown" else cloud.add_task(status="started")
    key = "wrong" if reason == "key" else cloud.api_key
    done = taskfs("wait", task, INDUCTIVA_API_KEY=key)
    assert done.returncode == (3 if reason == "unknown" else 1)
    assert done.stderr.count("\n") == 1
    assert ("no task nope" if reason == "unknown" else "inductiva auth login") in done.stderr


def test_success_waits_for_the_archive(taskfs: Command, cloud: FakeCloud) -> None:
    """F-13, C-20: `wait` returns when the archive of a success is there."""
    task = cloud.add_task(status="started", outputs=OUTPUTS)
    cloud.set_status(task, "success")
    missing = cloud.faults.add("body", side="store", times=3, **NO_SUCH_KEY)

    done = taskfs("wait", task)

    assert done.returncode == 0, done.stderr
    assert missing.hits == 3


def test_an_archive_that_does_not_come_is_a_failure(taskfs: Command, cloud: FakeCloud) -> None:
    """F-13, C-20: An archive that does not come is a failure."""
    task = cloud.add_task(status="success")
    done = taskfs("wait", task, "--timeout", "5")
    assert done.returncode == 124
    assert "its archive did not appear in time" in done.stderr


def test_an_archive_removed_long_ago_is_not_waited_for(taskfs: Command, cloud: FakeCloud) -> None:
    """F-13, C-20: The archive of a task that ended long ago is not waited for."""
    task = cloud.add_task(status="success", end_time="2026-01-01T00:00:00+00:00")
    done = taskfs("wait", task)
    assert done.returncode == 0
    assert "no output archive" in done.stderr
