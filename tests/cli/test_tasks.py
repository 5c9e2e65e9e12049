"""`taskfs list`, `info` and `kill`, as users and scripts see them."""

import json

import pytest

from tests.cli.conftest import Command
from tests.fake_api import FakeCloud

PROMPT = "Are you sure you want to proceed (y/[N])? "


class TestList:
    def test_piped_it_is_plain_and_no_id_is_cut(self, taskfs: Command, cloud: FakeCloud) -> None:
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

    def test_on_a_terminal_it_is_drawn(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-17, C-2: On a terminal the table is drawn."""
        task = cloud.add_task()
        with taskfs.terminal("list") as terminal:
            assert terminal.end() == 0
        assert task in terminal.text
        assert "\x1b[32msuccess" in terminal.text  # green

    def test_no_color_is_respected(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-2: With NO_COLOR nothing is coloured."""
        cloud.add_task()
        with taskfs.terminal("list", NO_COLOR="1") as terminal:
            assert terminal.end() == 0
        assert "\x1b[32m" not in terminal.text

    def test_newest_first_ten_by_default(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-17: The newest ten tasks are listed, or all with `--all`."""
        for hour in range(12):
            cloud.add_task(f"task{hour:02d}", create_time=f"2026-01-01T{hour:02d}:00:00+00:00")
        ids = [line.split()[0] for line in taskfs("list").stdout.splitlines()[1:]]
        assert ids == [f"task{hour:02d}" for hour in range(11, 1, -1)]
        assert len(taskfs("list", "-n", "3").stdout.splitlines()) == 4
        assert len(taskfs("list", "--all").stdout.splitlines()) == 13

    def test_filters(self, taskfs: Command, cloud: FakeCloud) -> None:
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

    def test_json_is_an_array_of_the_records(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-3: `list --json` is an array of the records."""
        task = cloud.add_task(brand_new_field={"a": 1})

        records = json.loads(taskfs("list", "--json").stdout)

        assert [record["task_id"] for record in records] == [task]
        assert records[0]["brand_new_field"] == {"a": 1}

    def test_no_tasks(self, taskfs: Command) -> None:
        """C-17: Without tasks nothing is printed on standard output."""
        done = taskfs("list")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "No tasks found.\n")
        assert json.loads(taskfs("list", "--json").stdout) == []

    def test_times_are_local(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-17: Times are local."""
        cloud.add_task(input_submit_time="2026-01-31T23:30:00+00:00")
        assert "2026-02-01 04:30:00" in taskfs("list", TZ="XYZ-5").stdout

    def test_an_unknown_status_is_shown_as_it_came(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-17, T-2: An unknown status is shown as it came."""
        cloud.add_task(status="success")
        task = cloud.add_task()
        cloud.update_task(task, status="brand-new\x1b[31m")
        assert "brand-new\\x1b[31m" in taskfs("list").stdout


class TestInfo:
    def test_record_and_timeline(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-18: `info` shows the record and the timeline."""
        task = cloud.add_task(task_metadata={"study": "waves"}, estimated_computation_cost=0.0123)

        done = taskfs("info", task)

        assert done.returncode == 0, done.stderr
        for part in (task, "success", "Timeline:", "submitted", "computation-started", "waves"):
            assert part in done.stdout
        assert "0.012" in done.stdout

    def test_running(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-18: `info` of a running task marks what is ongoing."""
        task = cloud.add_task(status="computation-started")
        assert "(ongoing)" in taskfs("info", task).stdout

    def test_json_is_what_the_api_gave(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-3: `info --json` is the API's record."""
        task = cloud.add_task(brand_new_field=[1])
        record = json.loads(taskfs("info", task, "--json").stdout)
        assert record["task_id"] == task
        assert record["status_history"]
        assert record["brand_new_field"] == [1]

    def test_unknown(self, taskfs: Command) -> None:
        """C-1: An unknown task is one line."""
        done = taskfs("info", "nope")
        assert done.returncode == 1
        assert done.stderr == "taskfs: there is no task nope: see `taskfs list --all`\n"

    def test_a_record_of_nulls(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-18: A record of nulls is shown."""
        names = ("metrics", "executer", "status_history", "orchestration_fee", "end_time")
        record = dict.fromkeys(names) | {"task_id": "odd", "create_time": "yesterday"}
        cloud.faults.add("json", value=record | {"simulator": 7, "steps": [1]})
        done = taskfs("info", "odd")
        assert done.returncode == 0, done.stderr
        assert done.stdout == "Task:  odd\n"


class TestKill:
    @pytest.mark.parametrize("answer", ["y\n", "Y\n", "yes\n", "YES\n", " y \n", "y"])
    def test_yes(self, taskfs: Command, cloud: FakeCloud, answer: str) -> None:
        """C-19: `y` or `yes` at the prompt kills."""
        task = cloud.add_task(status="started")

        done = taskfs("kill", task, stdin=answer)

        assert done.returncode == 0, done.stderr
        assert done.stdout == (
            f"You are about to kill the following tasks:\n  - {task}\n{PROMPT}\n"
            f"Successfully sent kill request for task {task}.\n"
        )
        assert cloud.killed == [task]

    @pytest.mark.parametrize("answer", ["n\n", "\n", "", "ye\n", "yess\n", "no y\n", "1\n"])
    def test_anything_else_and_the_end_of_input_kill_nothing(
        self, taskfs: Command, cloud: FakeCloud, answer: str
    ) -> None:
        """C-19: Any other answer, and the end of input, kill nothing."""
        task = cloud.add_task(status="started")

        done = taskfs("kill", task, stdin=answer)

        assert done.returncode == 1
        assert done.stderr == "taskfs: nothing was killed\n"
        assert cloud.killed == []

    def test_yes_typed_on_a_terminal(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-19: `y` typed on a terminal kills."""
        task = cloud.add_task(status="submitted")
        with taskfs.terminal("kill", task) as terminal:
            terminal.read_until(PROMPT)
            terminal.type("y\n")
            assert terminal.end() == 0
        assert cloud.killed == [task]

    def test_end_of_input_typed_on_a_terminal(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-19: Ctrl+D on a terminal kills nothing."""
        task = cloud.add_task(status="submitted")
        with taskfs.terminal("kill", task) as terminal:
            terminal.read_until(PROMPT)
            terminal.type("\x04")
            assert terminal.end() == 1
        assert cloud.killed == []

    def test_ctrl_c_at_the_prompt(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-19, C-1: Ctrl+C at the prompt kills nothing; the status is 130."""
        task = cloud.add_task(status="submitted")
        with taskfs.terminal("kill", task) as terminal:
            terminal.read_until(PROMPT)
            terminal.type("\x03")
            assert terminal.end() == 130
        assert cloud.killed == []
        assert "Traceback" not in terminal.text

    def test_y_does_not_ask(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-19: `-y` does not ask."""
        tasks = [cloud.add_task(status="started") for _ in range(2)]
        done = taskfs("kill", "-y", *tasks, tasks[0])
        assert done.returncode == 0
        assert PROMPT not in done.stdout
        assert cloud.killed == tasks

    def test_each_failure_is_reported_and_the_others_are_killed(
        self, taskfs: Command, cloud: FakeCloud
    ) -> None:
        """C-19: Each failure is reported, and the other tasks are killed."""
        running, ended = cloud.add_task(status="started"), cloud.add_task(status="success")

        done = taskfs("kill", "-y", "nope", ended, running)

        assert done.returncode == 1
        assert cloud.killed == [running]
        assert done.stderr.splitlines() == [
            "taskfs: there is no task nope: see `taskfs list --all`",
            f"taskfs: task {ended} has ended: it is success, and cannot be killed",
        ]

    def test_nothing_is_asked_when_there_is_nothing_to_kill(
        self, taskfs: Command, cloud: FakeCloud
    ) -> None:
        """C-19: Without a task to kill nothing is asked."""
        done = taskfs("kill", cloud.add_task(status="killed"), stdin="y\n")
        assert (done.returncode, done.stdout) == (1, "")

    def test_already_pending_is_success_and_sends_nothing(
        self, taskfs: Command, cloud: FakeCloud
    ) -> None:
        """C-19, K-6: A pending kill is a success and sends nothing."""
        done = taskfs("kill", "-y", cloud.add_task(status="pending-kill"))
        assert done.returncode == 0
        assert cloud.killed == []

    def test_waiting_says_what_became_of_each(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-19: `-w` reports the outcome of each task."""
        task = cloud.add_task(status="started")
        done = taskfs("kill", "-y", "-w", "20", task)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == f"Successfully killed task {task}."

    def test_waiting_ends_when_the_time_is_up(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-19: `-w` ends when its time is up."""
        task = cloud.add_task(status="pending-kill")
        done = taskfs("kill", "-y", "-w", "1s", task)
        assert done.returncode == 1
        assert f"task {task} is still pending-kill after 1 s" in done.stderr

    def test_a_refused_request(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-19, K-8: A refused kill is reported."""
        task = cloud.add_task(status="started")
        cloud.faults.add("status", method="POST", status=403)
        done = taskfs("kill", "-y", task)
        assert done.returncode == 1
        assert task in done.stderr and "Success" not in done.stdout
        assert done.stderr.count("\n") == 1

    def test_a_lost_answer_is_not_a_second_kill(self, taskfs: Command, cloud: FakeCloud) -> None:
        """K-9: A lost answer does not cause a second kill."""
        task = cloud.add_task(status="started")
        cloud.faults.add("reset", method="POST", acted=True)
        assert taskfs("kill", "-y", task).returncode == 0
        assert cloud.killed == [task]


def test_no_colour(taskfs: Command, cloud: FakeCloud) -> None:
    """C-2: With NO_COLOR nothing is coloured."""
    cloud.add_task(status="failed")
    for no_color, coloured in (("", True), ("1", False)):
        with taskfs.terminal("list", NO_COLOR=no_color) as terminal:
            assert terminal.end() == 0
        assert ("\x1b[31m" in terminal.text) is coloured
    assert "\x1b" not in taskfs("list", FORCE_COLOR="1").stdout
