"""An unknown project or status is an error that names the known ones."""

import json
from pathlib import Path

import pytest

from taskfs.model import KNOWN_STATUSES
from tests.cli.conftest import Command
from tests.fake_api import FakeCloud


def requests_to(cloud: FakeCloud, path: str) -> int:
    return sum(record.path == path for record in cloud.requests)


@pytest.fixture
def mountpoint(taskfs: Command) -> Path:
    mountpoint = taskfs.cwd / "mnt"
    mountpoint.mkdir()
    return mountpoint


def commands(mountpoint: Path) -> tuple[tuple[str, ...], ...]:
    return (("list",), ("list", "--json"), ("watch", "--once"), ("mount", str(mountpoint)))


def test_a_misspelt_status_names_the_known_ones(
    taskfs: Command, cloud: FakeCloud, mountpoint: Path
) -> None:
    """C-36: A status that is neither documented nor any task's is an error that names the known
    ones."""
    cloud.add_task()
    for command in commands(mountpoint):
        done = taskfs(*command, "--status", "succes")
        assert (done.returncode, done.stdout) == (1, ""), command
        assert done.stderr.startswith("taskfs: --status 'succes': ")
        assert "did you mean success" in done.stderr and done.stderr.count("\n") == 1
        assert all(status in done.stderr for status in KNOWN_STATUSES)


def test_a_service_that_shows_nothing_for_a_misspelt_status(
    taskfs: Command, cloud: FakeCloud
) -> None:
    """C-36: A misspelt status is an error also where the service sends an empty list."""
    cloud.add_task()
    cloud.faults.add("json", path="/tasks", value={"total_size": 0, "tasks": []}, times=2)
    done = taskfs("list", "--status", "succes")
    assert (done.returncode, done.stdout) == (1, "")
    assert "did you mean success" in done.stderr


def test_a_status_of_a_later_service_is_shown(taskfs: Command, cloud: FakeCloud) -> None:
    """C-36: A status that a task has is known, documented or not."""
    task = cloud.add_task()
    cloud.update_task(task, status="brand-new", is_terminated=False)
    done = taskfs("list", "--status", "brand-new")
    assert done.returncode == 0 and task in done.stdout, done.stderr
    done = taskfs("watch", "--once", "--status", "brand-new")
    assert done.returncode == 0, done.stderr


def test_a_known_status_costs_nothing_and_may_be_empty(taskfs: Command, cloud: FakeCloud) -> None:
    """C-36: A documented status that no task has shows nothing, without a request of its own."""
    cloud.add_task()
    cloud.clear_requests()
    done = taskfs("list", "--status", "zombie")
    assert (done.returncode, done.stderr) == (0, "No tasks found.\n")
    assert len(cloud.requests) == 1


def test_a_missing_project_names_those_there_are(
    taskfs: Command, cloud: FakeCloud, mountpoint: Path
) -> None:
    """C-36: A project that does not exist is an error that names the account's projects."""
    for project in ("dam-break", "heat"):
        cloud.add_task(project=project)
    for command in commands(mountpoint):
        done = taskfs(*command, "--project", "dam-brake")
        assert (done.returncode, done.stdout) == (1, ""), command
        assert done.stderr.startswith("taskfs: --project 'dam-brake': there is no such project")
        assert "did you mean dam-break" in done.stderr and "heat" in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_project_without_such_tasks_is_no_error(taskfs: Command, cloud: FakeCloud) -> None:
    """C-36: A project that exists and holds nothing shows nothing."""
    cloud.add_task(project="heat", status="success")
    done = taskfs("list", "--project", "heat", "--status", "failed")
    assert (done.returncode, done.stderr) == (0, "No tasks found.\n")
    done = taskfs("watch", "--once", "--project", "heat")
    assert (done.returncode, done.stderr) == (0, "No unfinished tasks.\n")
    cloud.clear_requests()
    assert taskfs("list", "--project", "heat").returncode == 0
    assert requests_to(cloud, "/projects") == 0


@pytest.mark.parametrize("status", (403, 404, 500))
def test_without_a_list_of_projects_any_name_is_accepted(
    taskfs: Command, cloud: FakeCloud, status: int
) -> None:
    """C-36: If the service does not tell its projects, nothing is refused."""
    cloud.faults.add("status", path="/projects", status=status, retry_after=3600, times=50)
    done = taskfs("list", "--project", "x")
    assert "there is no such project" not in done.stderr
    assert (done.returncode, done.stderr) == (0, "No tasks found.\n")


def test_many_projects_are_one_line(taskfs: Command, cloud: FakeCloud) -> None:
    """C-36, C-1: Many projects are named in one line."""
    value = [{"name": f"p{number}\n"} for number in range(100)]
    cloud.faults.add("json", path="/projects", value=value)
    done = taskfs("list", "--project", "nosuch")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "p19" in done.stderr and "p20" not in done.stderr and ", ..." in done.stderr


def test_offline_names_what_is_cached(taskfs: Command, cloud: FakeCloud, mountpoint: Path) -> None:
    """C-36, O-2: Offline the projects are those of the cached tasks, and nothing goes out."""
    from taskfs.remote.api_client import TaskClient
    from taskfs.tasks.accounts import open_database

    cloud.add_task(project="heat")
    cache = taskfs.cwd / "cache"
    client = TaskClient(cloud.api_url, cloud.api_key)
    store = open_database(cache, cloud.api_url, cloud.api_key)
    store.put(client.list_tasks())
    store.close()
    client.close()
    cloud.clear_requests()
    offline = ("list", "--offline", "--json", "--cache-dir", str(cache))
    assert len(json.loads(taskfs(*offline, "--project", "heat").stdout)) == 1
    done = taskfs(*offline, "--project", "heet")
    assert done.returncode == 1 and "did you mean heat" in done.stderr
    assert cloud.requests == []
