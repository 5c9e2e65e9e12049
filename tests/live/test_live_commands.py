"""The commands that look at running tasks without a mount."""

import errno
import json
import subprocess
import time
from pathlib import Path
from typing import Any

import fsspec
import pytest

from tests.cli.conftest import Command
from tests.fake_api import FakeCloud
from tests.fork_server import COMMAND, PRELUDE
from tests.live.conftest import BUSY_S
from tests.live.test_live_tree import LINES, end_task
from tests.mounts import Taskfs, eventually
from tests.outputs import put_outputs

# The command sets up a connection and imports aiortc, which may take longer on a busy machine.
PATIENT = f"""
from taskfs.cli import last_write
from taskfs.remote import live_channel
last_write.TIMEOUT_S = live_channel.HOST_ONLY_S = {BUSY_S}
"""


@pytest.fixture
def taskfs(cloud: FakeCloud, tmp_path: Path) -> Taskfs:
    return Taskfs(tmp_path, cloud)


@pytest.fixture
def patient(taskfs: Taskfs) -> Taskfs:
    """Gives the machines more time to say when they last wrote a file."""
    taskfs.environment[PRELUDE] = PATIENT
    return taskfs


def test_top(taskfs: Taskfs, cloud: FakeCloud, task: str) -> None:
    """L-12: `taskfs top ID` prints the machine's processes."""
    done = taskfs("top", task, "--timeout", "30s")
    assert (done.returncode, done.stderr) == (0, "")
    assert "PID" in done.stdout
    ended = cloud.add_task()
    done = taskfs("top", ended)
    assert done.returncode == 1
    assert done.stderr == (
        f"taskfs: task {ended} has no machine, because it does not run (success): "
        "see `taskfs list --running`\n"
    )
    eventually(lambda: cloud.machine(task).open_connections == 0)


def test_info_shows_the_last_write(patient: Taskfs, cloud: FakeCloud, task: str) -> None:
    """L-12: `info` shows how long ago the machine last wrote a file."""
    text = patient("info", task).stdout
    [line] = [line for line in text.splitlines() if line.startswith("Last write:")]
    assert line.endswith(" ago (log/solver.log)"), line
    assert "Last write" not in patient("info", cloud.add_task()).stdout
    cloud.machine(task).ignores_offers = True
    done = patient("info", task, "--timeout", "1s")
    assert done.returncode == 0
    assert "Last write" not in done.stdout


def test_files_without_a_mount(taskfs: Taskfs, cloud: FakeCloud, task: str) -> None:
    """L-12: The files of a running task are read without a mount."""
    assert taskfs("ls", f"{task}/live").stdout.split() == ["log", "stdout.txt"]
    assert taskfs("cat", f"{task}/live/stdout.txt").stdout == "one\ntwo\nthree\n"
    assert taskfs("tail", "-n", "1", f"{task}/stdout.txt").stdout == "three\n"
    cloud.machine_files(task).write("stdout.txt", LINES)
    done = taskfs("tail", "-n", "2", f"{task}/live/stdout.txt", "--timeout", "2m")
    assert done.stdout.encode() == b"".join(LINES.splitlines(keepends=True)[-2:])
    done = taskfs("cat", f"{task}/live/stdout.txt", "--timeout", "2m")
    assert (done.returncode, done.stdout) == (1, "")
    assert "only the end of this file can be read while its task runs" in done.stderr


def test_du_asks_no_machine(taskfs: Taskfs, cloud: FakeCloud, task: str) -> None:
    """C-45, L-1: `du` leaves out `live/`, whose sizes no machine reports, and asks no machine."""
    cloud.machine(task).ignores_offers = True
    done = taskfs("du", "-b", task)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"0\t{task}/inputs\n0\t{task}/outputs\n0\t{task}\n"
    done = taskfs("du", "-s", f"{task}/*")
    assert (done.returncode, done.stderr) == (0, "")
    assert "/live" not in done.stdout and f"\t{task}/outputs\n" in done.stdout
    assert not any(record.path.endswith("/offer") for record in cloud.requests)


def test_a_silent_machine_hides_no_archive(
    taskfs: Taskfs, cloud: FakeCloud, tmp_path: Path
) -> None:
    """C-45: `ls -R` and `cp -r` of a running task name `live/` if its machine is silent, and go
    on."""
    task = cloud.add_task(status="computation-started", inputs={"config.json": b"{}"})
    cloud.machine(task).ignores_offers = True
    done = taskfs("ls", "-R", task, "--timeout", "2s")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert f"{task}/outputs:\n" in done.stdout
    done = taskfs("cp", "-r", task, tmp_path / "copy", "--timeout", "2s")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert (tmp_path / "copy/inputs/config.json").read_bytes() == b"{}"
    assert (tmp_path / "copy/status").read_text() == "computation-started\n"


def test_tail_f_to_the_end(taskfs: Taskfs, cloud: FakeCloud, task: str, tmp_path: Path) -> None:
    """L-12: `taskfs tail -f ID/live/...` works without a mount, and ends with the task."""
    whole = b"one\ntwo\nthree\nfour\nthe end\n"
    copy = tmp_path / "copy"
    with copy.open("wb") as output:
        process = subprocess.Popen(
            [*COMMAND, "tail", "-n", "2", "-f", f"{task}/live/stdout.txt"],
            stdout=output,
            stderr=subprocess.PIPE,
            env=taskfs.environment,
        )
    eventually(lambda: copy.read_bytes() == b"two\nthree\n")
    cloud.machine_files(task).append("stdout.txt", b"four\n")
    eventually(lambda: copy.read_bytes() == b"two\nthree\nfour\n")
    end_task(cloud, task, None)
    time.sleep(3)
    assert process.poll() is None  # the archive is late
    put_outputs(cloud, task, {"stdout.txt": whole})
    _, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (0, b"")
    assert copy.read_bytes() == whole[4:]


def test_fsspec_reads_a_snapshot(cloud: FakeCloud, task: str, tmp_path: Path) -> None:
    """L-12: `taskfs://ID/live/...` reads a snapshot per open."""
    options = {
        "api_url": cloud.api_url,
        "api_key": cloud.api_key,
        "cache_dir": str(tmp_path / "cache"),
        "skip_instance_cache": True,
    }
    fs = fsspec.filesystem("taskfs", **options)
    path = f"{task}/live/stdout.txt"
    assert sorted(fs.find(f"{task}/live")) == [f"{task}/live/log/solver.log", path]
    with fs.open(path) as opened:
        assert opened.size == 14
        cloud.machine_files(task).append("stdout.txt", b"four\n")
        time.sleep(0.6)
        assert opened.read() == b"one\ntwo\nthree\n"
        assert opened.read() == b""
    assert fs.cat_file(path) == b"one\ntwo\nthree\nfour\n"
    assert fs.cat_file(path, start=-5) == b"four\n"
    cloud.machine_files(task).write("restart.bin", bytes(range(256)) * 20)
    time.sleep(1.1)
    with pytest.raises(OSError) as refused:
        fs.cat_file(f"{task}/live/restart.bin")
    assert refused.value.errno == errno.EOPNOTSUPP


def test_watch_shows_the_last_write(
    patient: Taskfs, cloud: FakeCloud, task: str, tmp_path: Path
) -> None:
    """L-12, L-15: `watch` shows how long ago the machine last wrote a file, of the tasks on the
    screen alone, and disconnects at its end."""
    shown = [task, *(new_running(cloud) for _ in range(2))]
    hidden = [new_running(cloud, create_time="2020-01-01T00:00:00+00:00") for _ in range(2)]
    command = Command(tmp_path, patient.environment)
    with command.terminal("watch", "--status-cache-time", "500ms", rows=8) as tty:
        tty.read_until("Last write")
        eventually(lambda: tty.text.count(" ago") >= 3 or not tty.read())
        assert [cloud.machine(each).connections for each in shown] == [1, 1, 1]
        assert [cloud.machine(each).connections for each in hidden] == [0, 0]
        tty.type("\x1b[F")  # End: the last rows are on the screen
        # A machine whose connection was not set up yet learns late that `watch` has ended.
        eventually(lambda: all(cloud.machine(each).questions for each in hidden) or not tty.read())
        assert [cloud.machine(each).connections for each in shown] == [1, 1, 1]
        tty.type("q")
        assert tty.end() == 0
    eventually(lambda: not any(cloud.machine(t).open_connections for t in shown + hidden))


def new_running(cloud: FakeCloud, name: str = "a.log", **fields: Any) -> str:
    task = cloud.add_task(status="computation-started", **fields)
    cloud.machine_files(task).write(name, b"x\n")
    return task


def test_watch_once_shows_the_last_write(patient: Taskfs, cloud: FakeCloud, task: str) -> None:
    """L-12, L-15: `watch --once` and `--json` show the last write of the tasks that they print."""
    refusing, waiting = new_running(cloud), cloud.add_task(status="submitted")
    idle = cloud.add_task(status="computation-started")
    cloud.faults.add("status", path=f"/{refusing}/offer", times=None, status=403)
    other = new_running(cloud, project="other")
    done = patient("watch", "--once", "--project", "default")
    assert (done.returncode, done.stderr) == (0, "")
    rows = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert rows["ID"].endswith("Last write")
    assert sorted(rows) == sorted(["ID", refusing, waiting, idle, task])
    assert [row for row, line in rows.items() if line.endswith(" ago")] == [task]
    records = json.loads(patient("watch", "--json").stdout)
    writes = {record["task_id"]: record["last_write"] for record in records}
    assert writes[task]["file"] == "log/solver.log" and 0 <= writes[task]["seconds_ago"] < 60
    assert (writes[refusing], writes[waiting], writes[idle]) == (None, None, None)
    assert writes[other]["file"] == "a.log"
    assert cloud.machine(other).connections == 1
    assert cloud.machine(task).connections == 2


def test_watch_once_does_not_wait_for_many_machines(taskfs: Taskfs, cloud: FakeCloud) -> None:
    """L-15: machines that are silent take 6 s at most, however many they are."""
    for _ in range(20):
        cloud.machine(new_running(cloud)).ignores_offers = True
    began_s = time.monotonic()
    printed = taskfs("watch", "--once").stdout
    assert len(printed.splitlines()) == 21 and " ago" not in printed
    assert 5.0 < time.monotonic() - began_s < 60.0  # one after the other: 120 s


def test_info_json_has_the_last_write(patient: Taskfs, cloud: FakeCloud, task: str) -> None:
    """L-12, L-15: `info --json` has `last_write` of a running task, null where nothing is known."""
    ended, silent = cloud.add_task(), new_running(cloud)
    cloud.machine(silent).ignores_offers = True
    assert json.loads(patient("info", task, "--json").stdout)["last_write"]["file"] == (
        "log/solver.log"
    )
    found = json.loads(patient("info", silent, "--json", "--timeout", "1s").stdout)
    assert found["last_write"] is None
    assert "last_write" not in json.loads(patient("info", ended, "--json").stdout)
