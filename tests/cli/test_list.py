"""`taskfs list`, as users and scripts see it."""

import json

from tests.cli.conftest import Command
from tests.fake_api import FakeCloud


def test_piped_it_is_plain_and_no_id_is_cut(taskfs: Command, cloud: FakeCloud) -> None:
    """C-17, C-2: Piped, the table is plain and no id is cut."""
    tasks = [cloud.add_task(machine="c2-standard-4") for _ in range(3)]

    done = taskfs("list", COLUMNS="20")

    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert lines[0].split() == [
        *("ID", "Simulator", "Status", "Submitted", "Computation", "time", "Machine")
    ]
    assert {line.split()[0] for line in lines[1:]} == set(tasks)
    assert all(line.endswith("c2-standard-4") for line in lines[1:])
    assert "\x1b" not in done.stdout


def test_on_a_terminal_it_is_drawn(taskfs: Command, cloud: FakeCloud) -> None:
    """C-17, C-2: On a terminal the table is drawn."""
    task = cloud.add_task()
    with taskfs.terminal("list") as terminal:
        assert terminal.end() == 0
    assert task in terminal.text
    assert "\x1b[32msuccess" in terminal.text  # green


def test_no_color_is_respected(taskfs: Command, cloud: FakeCloud) -> None:
    """C-2: With NO_COLOR nothing is coloured."""
    cloud.add_task()
    with taskfs.terminal("list", NO_COLOR="1") as terminal:
        assert terminal.end() == 0
    assert "\x1b[32m" not in terminal.text


def test_newest_first_ten_by_default(taskfs: Command, cloud: FakeCloud) -> None:
    """C-17: The newest ten tasks are listed, or all with `--all`."""
    for hour in range(12):
        cloud.add_task(f"task{hour:02d}", create_time=f"2026-01-01T{hour:02d}:00:00+00:00")
    ids = [line.split()[0] for line in taskfs("list").stdout.splitlines()[1:]]
    assert ids == [f"task{hour:02d}" for hour in range(11, 1, -1)]
    assert len(taskfs("list", "-n", "3").stdout.splitlines()) == 4
    assert len(taskfs("list", "--all").stdout.splitlines()) == 13


def test_filters(taskfs: Command, cloud: FakeCloud) -> None:
    """C-6: `--project` and `--status` filter the list."""
    cloud.add_task("mine", project="mine", create_time="2026-01-01T01:00:00+00:00")
    cloud.add_task("bad", status="failed", create_time="2026-01-01T02:00:00+00:00")
    cloud.add_task("dead", status="killed", create_time="2026-01-01T03:00:00+00:00")

    def listed(*arguments: str) -> list[str]:
        lines = taskfs("list", *arguments).stdout.splitlines()[1:]
        return [line.split()[0] for line in lines]

    assert listed("--project", "mine") == ["mine"]
    assert listed("--status", "failed") == ["bad"]
    assert listed("--status", "failed", "--status", "killed") == ["dead", "bad"]
    assert listed("--status", "failed,killed,success", "-n", "2") == ["dead", "bad"]


def test_json_is_an_array_of_the_records(taskfs: Command, cloud: FakeCloud) -> None:
    """C-3: `list --json` is an array of the records."""
    task = cloud.add_task(brand_new_field={"a": 1})

    records = json.loads(taskfs("list", "--json").stdout)

    assert [record["task_id"] for record in records] == [task]
    assert records[0]["brand_new_field"] == {"a": 1}


def test_no_tasks(taskfs: Command) -> None:
    """C-17: Without tasks nothing is printed on standard output."""
    done = taskfs("list")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "No tasks found.\n")
    assert json.loads(taskfs("list", "--json").stdout) == []


def test_times_are_local(taskfs: Command, cloud: FakeCloud) -> None:
    """C-17: Times are local."""
    cloud.add_task(input_submit_time="2026-01-31T23:30:00+00:00")
    assert "2026-02-01 04:30:00" in taskfs("list", TZ="XYZ-5").stdout


def test_an_unknown_status_is_shown_as_the_api_sent_it(taskfs: Command, cloud: FakeCloud) -> None:
    """C-17, T-2: An unknown status is shown as it came."""
    cloud.add_task(status="success")
    task = cloud.add_task()
    cloud.update_task(task, status="brand-new\x1b[31m")
    assert "brand-new\\x1b[31m" in taskfs("list").stdout


def test_no_colour(taskfs: Command, cloud: FakeCloud) -> None:
    """C-2: NO_COLOR disables colours."""
    cloud.add_task(status="failed")
    for no_color, coloured in (("", True), ("1", False)):
        with taskfs.terminal("list", NO_COLOR=no_color) as terminal:
            assert terminal.end() == 0
        assert ("\x1b[31m" in terminal.text) is coloured
    assert "\x1b" not in taskfs("list", FORCE_COLOR="1").stdout
