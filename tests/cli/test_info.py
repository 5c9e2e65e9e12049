"""`taskfs info`, as users and scripts see it."""

import json

from tests.cli.conftest import Command
from tests.fake_api import FakeCloud

ODD = "o" * 25


def test_record_and_timeline(taskfs: Command, cloud: FakeCloud) -> None:
    """C-18: `info` shows the record and the timeline."""
    task = cloud.add_task(task_metadata={"study": "waves"}, estimated_computation_cost=0.0123)

    done = taskfs("info", task)

    assert done.returncode == 0, done.stderr
    for part in (task, "success", "Timeline:", "submitted", "computation-started", "waves"):
        assert part in done.stdout
    assert "0.012" in done.stdout


def test_running(taskfs: Command, cloud: FakeCloud) -> None:
    """C-18: `info` of a running task marks what is ongoing."""
    task = cloud.add_task(status="computation-started")
    assert "(ongoing)" in taskfs("info", task).stdout


def test_json_is_the_record_of_the_api(taskfs: Command, cloud: FakeCloud) -> None:
    """C-3: `info --json` is the API's record."""
    task = cloud.add_task(brand_new_field=[1])
    record = json.loads(taskfs("info", task, "--json").stdout)
    assert record["task_id"] == task
    assert record["status_history"]
    assert record["brand_new_field"] == [1]


def test_unknown(taskfs: Command) -> None:
    """C-1: An unknown task is one line."""
    done = taskfs("info", "nope")
    assert done.returncode == 1
    assert done.stderr == "taskfs: there is no task nope: see `taskfs list --all`\n"


def test_a_record_of_nulls(taskfs: Command, cloud: FakeCloud) -> None:
    """C-18: A record of nulls is shown."""
    names = ("metrics", "executer", "status_history", "orchestration_fee", "end_time")
    record = dict.fromkeys(names) | {"task_id": ODD, "create_time": "yesterday"}
    cloud.faults.add("json", value=record | {"simulator": 7, "steps": [1]})
    done = taskfs("info", ODD)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"Task:  {ODD}\n"
