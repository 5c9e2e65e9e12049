"""`taskfs list`: which tasks it lists, in which order, and in which form."""

import csv
import io
import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

import pytest

from tests.cli.conftest import Command
from tests.fake_api import FakeCloud


def ago(**duration: float) -> str:
    return (datetime.now(timezone.utc) - timedelta(**duration)).isoformat()


@pytest.fixture
def tasks(cloud: FakeCloud) -> None:
    """Five tasks, `a` the oldest."""
    for name, age, status, simulator, project, cost in (
        ("a", 9, "success", "openfoam", "waves", 3.0),
        ("b", 5, "failed", "reef3d", "waves", None),
        ("c", 3, "killed", "openfoam", "tank", 0.5),
        ("d", 1, "computation-started", "OpenFOAM", "tank", 1.0),
        ("e", 0.1, "executer-failed", "gromacs", "tank", 0.25),
    ):
        created = ago(days=age)
        cloud.add_task(
            name,
            status=status,
            simulator=simulator,
            project=project,
            create_time=created,
            input_submit_time=created,
            estimated_computation_cost=cost,
        )


@pytest.fixture
def listed(taskfs: Command, tasks: None) -> Callable[..., str]:
    """Returns the letters of the listed tasks, in order."""

    def run(*arguments: str) -> str:
        done = taskfs("list", *arguments)
        assert done.returncode == 0, done.stderr
        return "".join(line.split()[0] for line in done.stdout.splitlines()[1:])

    return run


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", "edcba"),
        ("--simulator openfoam", "dca"),
        ("--simulator openfoam --simulator gromacs", "edca"),
        ("--failed", "eb"),
        ("--running", "d"),
        ("--since 4d", "edc"),
        ("--until 4d", "ba"),
        ("--since 6d --until 2d", "cb"),
        ("--since 2000-01-01", "edcba"),
        ("--until 2000-01-01T10:30", ""),
        ("-p tank", "edc"),
        ("-p tank --failed", "e"),
        ("--failed -n 1", "e"),
        ("--simulator openfoam -n 2", "dc"),
        ("-i a -i c", "ac"),
        ("--status success,killed", "ca"),
        ("--status Success", "a"),
        ("--status computation-started --running", "d"),
        ("--sort id", "abcde"),
        ("--sort -id", "edcba"),
        ("--sort cost", "ecdab"),  # the cost of b is unknown
        ("--sort -cost", "adceb"),
        ("--last-n 2", "ed"),
    ],
)
def test_choices(listed: Callable[..., str], arguments: str, expected: str) -> None:
    """C-49: Each choice lists the tasks that it names, in its order."""
    assert listed(*arguments.split()) == expected


@pytest.mark.parametrize("name", ["In Progress", "in progress", "IN PROGRESS"])
def test_display_names_of_statuses(listed: Callable[..., str], name: str) -> None:
    """C-49: The service's display names are understood."""
    assert listed("--status", name) == "d"
    assert listed("--status", name, "--status", "killed") == "dc"


def test_an_unknown_display_name_is_an_error(taskfs: Command, tasks: None) -> None:
    """C-49, C-36: A display name that no status has is one line."""
    done = taskfs("list", "--status", "In Progres")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "no task has this status" in done.stderr


def test_a_period_lists_more_than_ten(taskfs: Command, cloud: FakeCloud) -> None:
    """C-49: A period lists all of its tasks."""
    for _ in range(15):
        cloud.add_task()
    assert len(taskfs("list").stdout.splitlines()) == 11
    assert len(taskfs("list", "--since", "1d").stdout.splitlines()) == 16


def test_columns(taskfs: Command, tasks: None) -> None:
    """C-49: `--columns` chooses columns and their order."""
    title, line, *_ = taskfs("list", "--columns", "id,project,cost", "-n", "1").stdout.splitlines()
    assert title.split() == ["ID", "Project", "Cost", "(US$)"]
    assert line.split() == ["e", "tank", "0.25"]


def test_csv(taskfs: Command, tasks: None) -> None:
    """C-49: `--csv` prints UTC times, seconds and US dollars."""
    done = taskfs("list", "--csv", "--sort", "id")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["id"] for row in rows] == list("abcde")
    assert rows[0]["cost_usd"] == "3.0" and rows[1]["cost_usd"] == ""
    assert datetime.strptime(rows[0]["submitted"], "%Y-%m-%dT%H:%M:%SZ")
    assert float(rows[3]["computation_seconds"]) >= 0
    done = taskfs("list", "--csv", "--columns", "id,time", "-n", "1")
    assert done.stdout.splitlines()[0] == "id,computation_seconds"


def test_csv_quotes_what_needs_it(taskfs: Command, cloud: FakeCloud) -> None:
    """C-49: `--csv` quotes as RFC 4180 does."""
    cloud.add_task("x", project='a,"b"\nc')
    rows = list(csv.DictReader(io.StringIO(taskfs("list", "--csv").stdout)))
    assert rows[0]["project"] == 'a,"b"\nc'


def test_total(taskfs: Command, tasks: None) -> None:
    """C-49: `--total` counts tasks and sums costs for each project."""
    rows = {line.split()[0]: line.split() for line in taskfs("list", "--total").stdout.splitlines()}
    assert rows["waves"][1:5] == ["2", "1", "1", "0"] and rows["waves"][-1] == "3.00"
    assert rows["tank"][1:5] == ["3", "0", "2", "1"] and rows["tank"][-1] == "1.75"
    assert rows["total"][1] == "5" and rows["total"][-1] == "4.75"


def test_total_has_columns_of_its_own(taskfs: Command, tasks: None) -> None:
    """C-49, C-1: --total refuses the options that choose and order columns of tasks."""
    for option in ("--columns=id,cost", "--sort=cost"):
        done = taskfs("list", "--total", option)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert f"leave out {option.partition('=')[0]}" in done.stderr


def test_total_as_json_and_csv(taskfs: Command, tasks: None) -> None:
    """C-49, C-3: The sums come as JSON and CSV too."""
    sums = json.loads(taskfs("list", "--total", "--json").stdout)
    assert [(each["project"], each["tasks"], each["cost_usd"]) for each in sums] == [
        *(("tank", 3, 1.75), ("waves", 2, 3.0))
    ]
    rows = list(csv.DictReader(io.StringIO(taskfs("list", "--total", "--csv").stdout)))
    assert [row["project"] for row in rows] == ["tank", "waves"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("--columns id,prject", "did you mean project"),
        ("--sort nope", "'nope' is not a column"),
        ("--since yesterdy", "is no time: write 2d, 12h, 2026-11-28"),
        ("--failed --running", "exclude each other"),
        ("--json --csv", "exclude each other"),
        ("-w --json", "leave out --json"),
    ],
)
def test_wrong_choices(taskfs: Command, arguments: str, complaint: str) -> None:
    """C-49, C-1: A wrong choice is one line that names the right ones."""
    done = taskfs("list", *arguments.split())
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert complaint in done.stderr


def test_w_repeats_the_table_until_ctrl_c(taskfs: Command, cloud: FakeCloud) -> None:
    """C-49: `-w` repeats the table until Ctrl+C."""
    first = cloud.add_task()
    with taskfs.terminal("list", "-w", "200ms") as terminal:
        terminal.read_until(first)
        second = cloud.add_task()
        terminal.read_until(second)
        terminal.type("\x03")
        assert terminal.end() == 130
    assert "Traceback" not in terminal.text


def test_w_outlasts_an_outage(taskfs: Command, cloud: FakeCloud) -> None:
    """C-49: `-w` goes on after an outage of the API."""
    first = cloud.add_task()
    with taskfs.terminal("list", "-w", "200ms") as terminal:
        terminal.read_until(first)
        cloud.fail_for_long()
        terminal.read_until("; trying again")
        cloud.faults.clear()
        second = cloud.add_task()
        terminal.read_until(second)
        terminal.type("\x03")
        assert terminal.end() == 130
    cloud.fail_for_long()
    with taskfs.terminal("list", "-w", "200ms") as terminal:
        assert terminal.end() == 1


def test_w_needs_a_terminal(taskfs: Command) -> None:
    """C-49, C-1: `-w` without a terminal is one line."""
    done = taskfs("list", "-w")
    assert (done.returncode, done.stderr) == (1, "taskfs: -w needs a terminal: leave it out\n")


def test_the_filters_of_the_api_save_requests(
    taskfs: Command, cloud: FakeCloud, tasks: None
) -> None:
    """C-49: The API makes the choices that it can make, so one request is enough."""
    cloud.clear_requests()
    taskfs("list", "--running", "-p", "tank")
    [query] = [record.query for record in cloud.requests if record.path == "/tasks"]
    assert (query["active"], query["project"]) == (["true"], ["tank"])


@pytest.mark.parametrize(
    "arguments", ["-n 2", "-n 2 -p tank", "-n 2 --status success", "-n 2 -p tank --status killed"]
)
def test_a_few_of_the_newest_tasks_cost_one_request(
    taskfs: Command, cloud: FakeCloud, tasks: None, arguments: str
) -> None:
    """C-61: `-n`, also with one project and one status, sends one request, whatever was cached."""
    for _ in range(2):
        cloud.clear_requests()
        assert taskfs("list", *arguments.split()).returncode == 0
        assert [record.path for record in cloud.requests] == ["/tasks"]


@pytest.mark.parametrize(
    "arguments",
    ["--simulator openfoam", "--failed", "--status success --all"],
)
def test_a_choice_among_many_tasks_asks_for_what_changed(
    taskfs: Command, cloud: FakeCloud, arguments: str
) -> None:
    """C-61: Once a listing was whole, a choice costs the newest page and the unfinished tasks."""
    # More than one page, and more than are read again when a task was removed.
    ids = [cloud.add_task(status="success", simulator="openfoam") for _ in range(2100)]
    failed = cloud.add_task(status="failed", simulator="openfoam")
    running = cloud.add_task(status="submitted", simulator="reef3d")

    def listed() -> set[str]:
        count = [] if "--all" in arguments else ["-n", "9999"]
        done = taskfs("list", *arguments.split(), *count, "--json")
        assert done.returncode == 0, done.stderr
        return {record["task_id"] for record in json.loads(done.stdout)}

    def expected() -> set[str]:
        every = {*ids, failed, running}
        return {
            "--simulator openfoam": every - {running},
            "--failed": {failed},
            "--status success --all": set(ids),
        }[arguments]

    assert listed() == expected()
    cloud.clear_requests()
    assert listed() == expected()
    assert len(cloud.requests) <= 2
    ids.append(cloud.add_task(status="success", simulator="openfoam"))
    cloud.remove_task(ids.pop(1000))
    cloud.remove_task(ids.pop(200))
    cloud.clear_requests()
    assert listed() == expected()
    assert len(cloud.requests) <= 8


def test_a_search_for_removed_tasks_ends_with_the_timeout(
    taskfs: Command, cloud: FakeCloud
) -> None:
    """C-61, X-15: A command that looks for removed tasks does not wait longer for pages that the
    API refuses, as a mount does in the background."""
    ids = [cloud.add_task(status="success") for _ in range(2100)]
    assert taskfs("list", "--all").returncode == 0
    cloud.remove_task(ids[1000])
    refused = cloud.faults.add(
        "status",
        status=429,
        retry_after=3600,
        times=None,
        match=lambda record: record.query.get("page", ["1"]) != ["1"],
    )
    done = taskfs("list", "--all", "--timeout", "30s")
    assert done.returncode == 1 and "429" in done.stderr, done.stderr
    assert 1 <= refused.hits <= 4
