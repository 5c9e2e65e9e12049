"""The control file `kill`."""

import errno
import os
import time
from collections.abc import Callable

import pytest

from taskfs.model import KNOWN_STATUSES
from tests.fake_api import FakeCloud
from tests.file_systems import FileSystem, answer, text, write

ONGOING = ("pending-input", "submitted", "started", "computation-started", "computation-ended")


def kills_of(cloud: FakeCloud, task: str) -> int:
    """Count the kill requests that were sent for *task*, accepted or not."""
    return sum(r.method == "POST" and r.path == f"/tasks/{task}/kill" for r in cloud.requests)


def errno_of_kill(fs: FileSystem, task: str) -> int | None:
    with pytest.raises(OSError) as caught:
        write(fs, f"{task}/kill")
    return caught.value.errno


@pytest.mark.parametrize("status", ONGOING)
def test_the_first_byte_written_sends_one_request(fs: FileSystem, status: str) -> None:
    """K-2: The first byte written sends one request, and the write returns after its answer."""
    task = fs.cloud.add_task(status=status)
    assert write(fs, f"{task}/kill", b"1\n") == 2
    assert kills_of(fs.cloud, task) == 1
    assert task in fs.cloud.killed


def test_several_writes_through_one_handle_send_one_request(fs: FileSystem) -> None:
    """K-3: Later writes through the handle send nothing."""
    task = fs.cloud.add_task(status="started")
    with fs.open(f"{task}/kill", os.O_WRONLY) as kill:
        assert [kill.write(piece) for piece in (b"y", b"es", b" please\n")] == [1, 2, 8]
    assert kills_of(fs.cloud, task) == 1


def test_opening_truncating_and_touching_do_nothing(fs: FileSystem) -> None:
    """K-1: Opening, truncating or touching `kill` does nothing."""
    task = fs.cloud.add_task(status="started")
    path = f"{task}/kill"
    for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND):
        with fs.open(path, flags):
            pass
    fs.change("truncate", path, 0)
    fs.change("utimens", path)
    fs.change("chmod", path, 0o600)
    fs.change("chown", path, os.getuid(), os.getgid())
    assert fs.read(path) == b""
    assert fs.stat(path).st_size == 0
    assert kills_of(fs.cloud, task) == 0


def test_a_terminal_task_is_no_such_process(fs: FileSystem) -> None:
    """K-5: A finished task is ESRCH."""
    for status in ("success", "failed", "killed"):
        task = fs.cloud.add_task(status=status)
        assert errno_of_kill(fs, task) == errno.ESRCH
        assert kills_of(fs.cloud, task) == 0


def test_a_later_write_gets_the_outcome_of_the_first(fs: FileSystem) -> None:
    """K-3: A later write gets the outcome of the first."""
    task = fs.cloud.add_task(status="failed")
    with fs.open(f"{task}/kill", os.O_WRONLY) as kill:
        for _ in range(2):
            with pytest.raises(ProcessLookupError):
                kill.write(b"1\n")
    assert kills_of(fs.cloud, task) == 0


def test_a_pending_kill_is_not_repeated(fs: FileSystem) -> None:
    """K-6: A task that is `pending-kill` accepts the write, and nothing is sent."""
    task = fs.cloud.add_task(status="pending-kill")
    assert write(fs, f"{task}/kill") == 2
    assert kills_of(fs.cloud, task) == 0


def test_unknown_statuses_can_be_killed(fs: FileSystem) -> None:
    """K-5, T-2: A task with an unknown status can be killed; `is_terminated` decides."""
    assert "frobnicating" not in KNOWN_STATUSES
    task = fs.cloud.add_task(status="frobnicating")
    assert text(fs, f"{task}/status") == "frobnicating\n"
    assert write(fs, f"{task}/kill") == 2
    assert kills_of(fs.cloud, task) == 1
    over = fs.cloud.add_task(status="evaporated", is_terminated=True)
    assert errno_of_kill(fs, over) == errno.ESRCH
    assert kills_of(fs.cloud, over) == 0


def test_a_read_only_mount_kills_nothing(
    new_fs: Callable[..., FileSystem], cloud: FakeCloud
) -> None:
    """K-7: With `--read-only` a write is EROFS."""
    task = cloud.add_task(status="started")
    fs = new_fs(read_only="")
    assert text(fs, f"{task}/status") == "started\n"
    assert fs.read(f"{task}/kill") == b""
    assert errno_of_kill(fs, task) == errno.EROFS
    with pytest.raises(OSError) as caught:
        fs.set_xattr(task, "user.taskfs.metadata.key", b"value")
    assert caught.value.errno == errno.EROFS
    assert not [r for r in cloud.requests if r.method != "GET"]


def test_an_unknown_task_is_enoent(fs: FileSystem) -> None:
    """K-4: An unknown task is ENOENT."""
    task = fs.cloud.add_task(status="started")
    with fs.open(f"{task}/kill", os.O_WRONLY) as kill:
        fs.cloud.remove_task(task)
        with pytest.raises(FileNotFoundError):
            kill.write(b"1\n")
    with pytest.raises(FileNotFoundError):
        write(fs, f"{'0' * 25}/kill")


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_kill_is_eacces(fs: FileSystem, status: int) -> None:
    """K-8: A refusal with 401 or 403 is EACCES."""
    task = fs.cloud.add_task(status="started")
    fs.cloud.faults.add("status", status=status, path=f"{task}/kill")
    assert errno_of_kill(fs, task) == errno.EACCES
    assert fs.cloud.statuses()[task] == "started"


@pytest.mark.parametrize("status", [400, 405, 409, 422])
def test_any_other_refusal_has_the_status_read(fs: FileSystem, status: int) -> None:
    """K-11: After any other 4xx the status is read: ESRCH if terminal, else EIO."""
    task = fs.cloud.add_task(status="started")
    fs.cloud.faults.add("status", status=status, path=f"{task}/kill")
    assert errno_of_kill(fs, task) == errno.EIO
    assert kills_of(fs.cloud, task) == 1
    paths = [r.path for r in fs.cloud.requests if f"/{task}/" in r.path]
    assert paths[-1] == f"/tasks/{task}/status"


def test_a_task_that_ended_before_the_request_came_is_esrch(fs: FileSystem) -> None:
    """K-11: A task that ended before the request arrived is ESRCH."""
    task = fs.cloud.add_task(status="started")
    answers = {"status": "started", "id": task, "is_terminated": False}
    fs.cloud.faults.add("json", value=answers, path=f"{task}/status")  # read just before it ends
    assert text(fs, f"{task}/status") == "started\n"
    fs.cloud.set_status(task, "failed")
    assert errno_of_kill(fs, task) == errno.ESRCH
    assert text(fs, f"{task}/status") == "failed\n"


def test_after_a_lost_answer_the_status_is_read_first(fs: FileSystem) -> None:
    """K-9: After a lost answer the status is read before the request is repeated."""
    task = fs.cloud.add_task(status="started")
    fs.cloud.faults.add("reset", path=f"{task}/kill", acted=True)
    assert write(fs, f"{task}/kill") == 2
    assert kills_of(fs.cloud, task) == 1


def test_the_next_status_shows_the_effect(
    new_fs: Callable[..., FileSystem], cloud: FakeCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """K-12, T-11: The next `status` shows the kill's effect, because a kill ends the pin."""
    monkeypatch.setattr("taskfs.demo.account.KILL_DURATION_S", 3600.0)
    task = cloud.add_task(status="computation-started")
    fs = new_fs()
    assert fs.stat(f"{task}/status").st_size == len("computation-started\n")
    assert text(fs, f"{task}/status") == "computation-started\n"
    write(fs, f"{task}/kill")
    assert text(fs, f"{task}/status") == "pending-kill\n"
    assert cloud.killed == [task]
    assert task in fs.names(".by-status/pending-kill")


def test_a_kill_that_ends_the_task_at_once(
    new_fs: Callable[..., FileSystem], cloud: FakeCloud
) -> None:
    """K-12: The rest of the record shows the effect too."""
    task = cloud.add_task(status="computation-started", outputs={})
    fs = new_fs()
    assert text(fs, f"{task}/computation_time") != ""

    def end(record: object) -> bool:
        cloud.set_status(task, "killed")
        return True

    answer = {"id": task, "status": "killed", "is_terminated": True}
    cloud.faults.add("json", value=answer, path=f"{task}/kill", match=end)
    assert write(fs, f"{task}/kill") == 2
    assert text(fs, f"{task}/status") == "killed\n"
    assert text(fs, f"{task}/computation_time") != ""
    assert '"status": "killed"' in text(fs, f"{task}/info.json")


def test_a_failed_kill_leaves_the_mount_alive(
    new_fs: Callable[..., FileSystem], cloud: FakeCloud
) -> None:
    """K-10, X-3: After 5 tries a kill is ETIMEDOUT, and the mount goes on."""
    task = cloud.add_task(status="started")
    fs = new_fs(timeout="1s")
    assert answer(lambda: text(fs, f"{task}/status")) == "started\n"
    cloud.faults.add("stall", path=f"{task}/kill", times=None)
    began = time.monotonic()
    assert errno_of_kill(fs, task) == errno.ETIMEDOUT
    assert time.monotonic() - began < 30
    cloud.faults.clear()
    assert answer(lambda: text(fs, f"{task}/status")) == "started\n"
    assert answer(lambda: write(fs, f"{task}/kill")) == 2
