"""`taskfs kill`, as users and scripts see it."""

from datetime import datetime, timedelta, timezone

import pytest

from tests.cli.conftest import Command
from tests.fake_api import FakeCloud


def ago(**duration: float) -> str:
    return (datetime.now(timezone.utc) - timedelta(**duration)).isoformat()


PROMPT = "Are you sure you want to proceed (y/[N])? "


@pytest.mark.parametrize("answer", ["y\n", "Y\n", "yes\n", "YES\n", " y \n", "y"])
def test_yes(taskfs: Command, cloud: FakeCloud, answer: str) -> None:
    """C-19, C-54: The prompt shows what it kills, and `y` or `yes` kills."""
    task = cloud.add_task(
        status="started", simulator="openfoam", project="waves", input_submit_time=ago(days=3.5)
    )

    done = taskfs("kill", task, stdin=answer)

    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "You are about to kill the following tasks:\n"
        f"  - {task}  started  openfoam  waves  3 d old\n{PROMPT}\n"
        f"Successfully sent kill request for task {task}.\n"
    )
    assert cloud.killed == [task]


@pytest.mark.parametrize("answer", ["n\n", "\n", "", "ye\n", "yess\n", "no y\n", "1\n"])
def test_anything_else_and_the_end_of_input_kill_nothing(
    taskfs: Command, cloud: FakeCloud, answer: str
) -> None:
    """C-19: Any other answer, and the end of input, kill nothing."""
    task = cloud.add_task(status="started")

    done = taskfs("kill", task, stdin=answer)

    assert done.returncode == 1
    why = "" if answer else ": standard input has no answer; -y kills without asking"
    assert done.stderr == f"taskfs: nothing was killed{why}\n"
    assert cloud.killed == []


@pytest.mark.parametrize(
    ("typed", "status", "is_killed"),
    [
        pytest.param("y\n", 0, True, id="yes"),
        pytest.param("\x04", 1, False, id="end of input"),
    ],
)
def test_an_answer_typed_on_a_terminal(
    taskfs: Command, cloud: FakeCloud, typed: str, status: int, is_killed: bool
) -> None:
    task = cloud.add_task(status="submitted")
    with taskfs.terminal("kill", task) as terminal:
        terminal.read_until(PROMPT)
        terminal.type(typed)
        assert terminal.end() == status
    assert cloud.killed == ([task] if is_killed else [])
    assert "Traceback" not in terminal.text


def test_ctrl_c_at_the_question_kills_nothing(taskfs: Command, cloud: FakeCloud) -> None:
    """C-19, C-1: Ctrl+C instead of an answer kills nothing."""
    task = cloud.add_task(status="submitted")
    with taskfs.terminal("kill", task) as terminal:
        terminal.read_until(PROMPT)
        assert terminal.interrupt() == 130
    assert cloud.killed == []
    assert "Traceback" not in terminal.text


def test_y_does_not_ask(taskfs: Command, cloud: FakeCloud) -> None:
    """C-19: `-y` does not ask."""
    tasks = [cloud.add_task(status="started") for _ in range(2)]
    done = taskfs("kill", "-y", *tasks, tasks[0])
    assert done.returncode == 0
    assert PROMPT not in done.stdout
    assert cloud.killed == tasks


def test_each_failure_is_reported_and_the_others_are_killed(
    taskfs: Command, cloud: FakeCloud
) -> None:
    """C-19: Each failure is reported, and the other tasks are killed."""
    running, ended = cloud.add_task(status="started"), cloud.add_task(status="success")

    done = taskfs("kill", "-y", "nope", ended, running)

    assert done.returncode == 1
    assert cloud.killed == [running]
    assert done.stderr.splitlines() == [
        "taskfs: there is no task nope: see `taskfs list --all`",
        f"taskfs: task {ended} cannot be killed: it has ended (success)",
    ]


def test_nothing_is_asked_when_there_is_nothing_to_kill(taskfs: Command, cloud: FakeCloud) -> None:
    """C-19: Without a task to kill nothing is asked."""
    done = taskfs("kill", cloud.add_task(status="killed"), stdin="y\n")
    assert (done.returncode, done.stdout) == (1, "")


def test_already_pending_is_success_and_sends_nothing(taskfs: Command, cloud: FakeCloud) -> None:
    """C-19, K-6: A pending kill is a success and sends nothing."""
    done = taskfs("kill", "-y", cloud.add_task(status="pending-kill"))
    assert done.returncode == 0
    assert cloud.killed == []


def test_wait_prints_the_outcome_of_each(taskfs: Command, cloud: FakeCloud) -> None:
    """C-19: `-w` reports the outcome of each task."""
    task = cloud.add_task(status="started")
    done = taskfs("kill", "-y", "-w", "20", task)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"Successfully killed task {task}."


def test_a_failure_does_not_end_the_wait_for_the_others(taskfs: Command, cloud: FakeCloud) -> None:
    """C-19: If the status of one task is refused, `-w` reports it and waits for the others."""
    tasks = [cloud.add_task(status="started") for _ in range(2)]
    cloud.faults.add("status", path=f"{tasks[0]}/status", skip=1, times=None, status=403)
    done = taskfs("kill", "-y", "-w", "20", *tasks)
    assert done.returncode == 1
    assert done.stderr.startswith(f"taskfs: task {tasks[0]}: ") and done.stderr.count("\n") == 1
    assert done.stdout.splitlines()[-1] == f"Successfully killed task {tasks[1]}."


def test_wait_ends_at_its_limit(taskfs: Command, cloud: FakeCloud) -> None:
    """C-19: `-w` ends when its time is up."""
    task = cloud.add_task(status="pending-kill")
    done = taskfs("kill", "-y", "-w", "1s", task)
    assert done.returncode == 1
    assert f"task {task} is still pending-kill after 1 s" in done.stderr


def test_a_refused_request(taskfs: Command, cloud: FakeCloud) -> None:
    """C-19, K-8: A refused kill is reported."""
    task = cloud.add_task(status="started")
    cloud.faults.add("status", method="POST", status=403)
    done = taskfs("kill", "-y", task)
    assert done.returncode == 1
    assert task in done.stderr and "Success" not in done.stdout
    assert done.stderr.count("\n") == 1


def test_a_lost_answer_is_not_a_second_kill(taskfs: Command, cloud: FakeCloud) -> None:
    """K-9: A lost answer does not cause a second kill."""
    task = cloud.add_task(status="started")
    cloud.faults.add("reset", method="POST", acted=True)
    assert taskfs("kill", "-y", task).returncode == 0
    assert cloud.killed == [task]


class TestChoices:
    @pytest.fixture
    def tasks(self, cloud: FakeCloud) -> dict[str, str]:
        return {
            name: cloud.add_task(status=status, project=project)
            for name, status, project in (
                ("a", "started", "waves"),
                ("b", "submitted", "waves"),
                ("c", "success", "waves"),
                ("d", "started", "tank"),
            )
        }

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            ("--project waves", "ab"),
            ("--status submitted", "b"),
            ("--status started,submitted -p waves", "ab"),
            ("-p tank", "d"),
            ("--all", "abd"),
        ],
    )
    def test_they_are_listed_and_killed(
        self,
        taskfs: Command,
        cloud: FakeCloud,
        tasks: dict[str, str],
        arguments: str,
        expected: str,
    ) -> None:
        """C-54: --project, --status and --all list unfinished tasks, ask and kill."""
        done = taskfs("kill", *arguments.split(), stdin="n\n")
        assert (done.returncode, cloud.killed) == (1, [])
        chosen = {tasks[name] for name in expected}
        listed = {line.split()[1] for line in done.stdout.splitlines() if "  - " in line}
        assert listed == chosen
        done = taskfs("kill", *arguments.split(), stdin="y\n")
        assert (done.returncode, set(cloud.killed)) == (0, chosen)

    def test_yes_lists_them_too(
        self, taskfs: Command, cloud: FakeCloud, tasks: dict[str, str]
    ) -> None:
        """C-54: With -y the chosen tasks are listed and killed without a question."""
        done = taskfs("kill", "--all", "-y")
        assert done.returncode == 0 and PROMPT not in done.stdout
        assert f"  - {tasks['a']}" in done.stdout and len(cloud.killed) == 3

    def test_nothing_matches(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-54: If no unfinished task matches, nothing is asked."""
        cloud.add_task(project="waves")
        for arguments in (("--all",), ("-p", "waves")):
            done = taskfs("kill", *arguments, stdin="y\n")
            assert (done.returncode, done.stdout) == (1, "")
            assert "no unfinished task matches" in done.stderr

    @pytest.mark.parametrize("arguments", [(), ("x", "--all"), ("--all", "-p", "x")])
    def test_wrong_usage(self, taskfs: Command, arguments: tuple[str, ...]) -> None:
        """C-54: Names and choices exclude each other."""
        done = taskfs("kill", *arguments)
        assert done.returncode == 2 and done.stderr.count("\n") == 1

    def test_the_configured_project_is_no_choice(
        self, taskfs: Command, cloud: FakeCloud, tasks: dict[str, str]
    ) -> None:
        """C-54: TASKFS_PROJECT chooses nothing to kill."""
        assert taskfs("kill", stdin="y\n", TASKFS_PROJECT="waves").returncode == 2
        assert cloud.killed == []
