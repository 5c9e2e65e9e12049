"""A write that counts sends one request. A lost answer is looked up before the request is repeated.
Refusals reach the shell.

The statuses that can be killed: tests/semantics/test_control.py. The programs that write to `kill`,
and those that only seem to: tests/mount/test_tools.py.
"""

import subprocess
import time
from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.fake_api import FakeCloud
from tests.faults.scenarios import add_fault
from tests.file_systems import Mounted


def kills(cloud: FakeCloud, task: str) -> int:
    """Count the kill requests that were sent for *task*, accepted or not."""
    return sum(r.path == f"/tasks/{task}/kill" and r.method == "POST" for r in cloud.requests)


def shell(fs: Mounted, task: str, line: str = "echo 1 > kill") -> "tuple[int, str]":
    """Run a line in the task's directory; return its exit status and what it said."""
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=fs.path / task,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stderr


@pytest.fixture
def task(patient: Mounted) -> Iterator[str]:
    task = patient.cloud.add_task(status="computation-started")
    assert (patient.path / task / "status").read_text() == "computation-started\n"
    yield task


LOST: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "reset": ("reset", {"acted": True}),
    "502": ("status", {"status": 502, "acted": True}),
    "504": ("status", {"status": 504, "acted": True}),
    "body cut": ("short", {"after_bytes": 4}),
    "stall": ("stall", {"acted": True}),
    "stall within the body": ("stall", {"after_bytes": 4}),
}
NEVER_ARRIVED: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "reset": ("reset", {}),
    "429": ("status", {"status": 429, "retry_after": 1}),
    "503": ("status", {"status": 503}),
    "HTML": ("html", {}),
    "an HTML page that says 404": ("html", {"status": 404}),
}


@pytest.mark.parametrize("fault", LOST)
def test_a_lost_answer_is_looked_up_before_it_is_repeated(
    patient: Mounted, task: str, fault: str
) -> None:
    """K-9: The kill had its effect although its answer was lost: one request was sent, and the
    write succeeds."""
    kind, options = LOST[fault]
    script = patient.cloud.faults.add(kind, path=f"{task}/kill", **options)
    assert shell(patient, task) == (0, "")
    assert script.hits == 1
    assert kills(patient.cloud, task) == 1
    assert patient.cloud.killed.count(task) == 1
    assert (patient.path / task / "status").read_text() in ("pending-kill\n", "killed\n")


@pytest.mark.parametrize("fault", NEVER_ARRIVED)
def test_a_request_that_never_arrived_is_repeated(patient: Mounted, task: str, fault: str) -> None:
    """K-9: The status shows no effect, so the request is sent again and accepted once."""
    kind, options = NEVER_ARRIVED[fault]
    patient.cloud.faults.add(kind, path=f"{task}/kill", times=2, **options)
    assert shell(patient, task) == (0, "")
    assert kills(patient.cloud, task) == 3
    assert patient.cloud.killed.count(task) == 1


def test_reading_the_status_may_fail_for_a_while(patient: Mounted, task: str) -> None:
    """K-9, X-11: A lost answer, then a status that cannot be read at first, still ends well."""
    patient.cloud.faults.add("reset", path=f"{task}/kill", acted=True)
    patient.cloud.faults.add("status", path=f"{task}/status", status=503, times=2, skip=1)
    assert shell(patient, task) == (0, "")
    assert kills(patient.cloud, task) == 1


REFUSED: Final[dict[str, tuple[str, dict[str, Any], str]]] = {
    "401": ("status", {"status": 401}, "Permission denied"),
    "403": ("status", {"status": 403}, "Permission denied"),
    "404": ("status", {"status": 404}, "No such file or directory"),
    "409": ("status", {"status": 409}, "Input/output error"),
    "redirected to another page": ("redirect", {"to": "/version"}, "Input/output error"),
    "redirected to the status": ("redirect", {"to": "status"}, "Input/output error"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_a_refusal_reaches_the_shell(patient: Mounted, task: str, fault: str) -> None:
    """K-2, K-8: A refusal reaches the shell. Only an acceptance counts as one, and the answer of a
    page to which the kill was redirected does not."""
    kind, options, message = REFUSED[fault]
    add_fault(patient.cloud, "record", f"{task}/kill", kind, times=None, **options)
    status, error = shell(patient, task)
    assert status != 0
    assert message in error
    assert task not in patient.cloud.killed
    patient.cloud.faults.clear()
    assert shell(patient, task) == (0, "")


def test_a_redirect_that_keeps_the_method_is_followed(patient: Mounted, task: str) -> None:
    """K-2: A 307 sends the kill on as a POST (RFC 9110, 15.4.8)."""
    path = f"/tasks/{task}/kill"
    patient.cloud.faults.add("redirect", path=path, status=307, to=f"{patient.cloud.api_url}{path}")
    assert shell(patient, task) == (0, "")
    assert patient.cloud.killed.count(task) == 1


def test_a_finished_task_is_no_such_process(patient: Mounted) -> None:
    """K-5: The shell reports ESRCH for a finished task."""
    task = patient.cloud.add_task(status="failed")
    status, error = shell(patient, task)
    assert status != 0
    assert "No such process" in error
    assert kills(patient.cloud, task) == 0


def test_an_api_that_does_not_answer_is_timed_out_in_time(hasty: Mounted) -> None:
    """K-10, X-15: All tries of a kill together end within `--timeout`."""
    task = hasty.cloud.add_task(status="started")
    assert (hasty.path / task / "status").read_text() == "started\n"
    hasty.cloud.faults.add("stall", path=f"{task}/", times=None)
    began = time.monotonic()
    status, error = shell(hasty, task)
    assert status != 0
    assert "timed out" in error
    assert time.monotonic() - began < 30
    hasty.cloud.faults.clear()
    assert (hasty.path / task / "status").read_text() == "started\n"
    assert shell(hasty, task) == (0, "")
    assert hasty.cloud.killed.count(task) == 1


ACCIDENTS: Final = (
    "touch kill",
    ": > kill",
    "truncate -s 0 kill",
    "sed -i s/a/b/ kill",
    "vim -u NONE -es -c 'wq' kill",
    "vim -u NONE -es -c 'set backup writebackup' -c 'q!' kill",
    "cp --remove-destination /etc/hostname kill",
    "cp --backup=numbered /etc/hostname kill~",
    "install -m 644 /etc/hostname kill",
    "ln -f /etc/hostname kill",
    "mv -f /etc/hostname kill",
    "rm -f kill",
    "echo 1 > .kill.swp",
    "echo 1 > kill~",
    "echo 1 > '#kill#'",
    "cp -a . /tmp/taskfs-never-there-$$ && cp -a /tmp/taskfs-never-there-$$/. .; "
    "rm -rf /tmp/taskfs-never-there-$$",
    "find . -type f -exec chmod u+w {} +",
    "tar -cf - . | tar -xf - ",
)


@pytest.mark.parametrize("line", ACCIDENTS)
def test_only_a_written_byte_kills(patient: Mounted, line: str) -> None:
    """K-1, A-5: `touch`, truncation, copying a tree back and editors' swap files send no kill."""
    task = patient.cloud.add_task(status="started")
    shell(patient, task, line)
    assert kills(patient.cloud, task) == 0
    assert (patient.path / task / "status").read_text() == "started\n"
