"""`taskfs watch`: contents, requests, keys, and the restored terminal."""

import json
import os
import re
import select
import signal
import termios
import time
from collections.abc import Callable
from typing import Any, Final

import pytest

from taskfs.cli.keyboard import Keyboard
from taskfs.cli.watch_tasks import UnfinishedTasks
from taskfs.remote.api_client import TaskClient
from tests.cli.conftest import Command, Terminal, eventually
from tests.fake_api import FakeCloud
from tests.fork_server import COMMAND

LONG_AGO: Final = "2026-01-01T00:00:00+00:00"
FAST: Final = ("--status-cache-time", "500ms")
ALTERNATE: Final = ("\x1b[?1049h", "\x1b[?1049l")
UP, DOWN = "\x1b[A", "\x1bOB"


def positions_requested(cloud: FakeCloud) -> int:
    return sum(record.path.endswith("/status") for record in cloud.requests)


def listings(cloud: FakeCloud) -> int:
    return sum(record.path == "/tasks" for record in cloud.requests)


def selected(terminal: Terminal) -> str:
    """Return the id that was last drawn in reverse video."""
    found: list[str] = re.findall(r"\x1b\[7m([a-z0-9]{25})", terminal.text)
    return found[-1]


def read_terminal_until(terminal: Terminal, condition: Callable[[], bool]) -> None:
    """Read the terminal until *condition* is true."""
    eventually(lambda: condition() or not terminal.read() or condition())


class TestWithoutATerminal:
    def test_it_says_what_to_do(self, taskfs: Command) -> None:
        """C-7, C-1: Where there is no terminal, `watch` ends with one line that names the fix."""
        done = taskfs("watch")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("taskfs: watch needs a terminal: --once")
        assert done.stderr.count("\n") == 1

    def test_a_dumb_terminal_gets_plain_output(self, taskfs: Command) -> None:
        """C-7: A terminal that cannot move its cursor is not used."""
        with taskfs.terminal("watch", term="dumb") as terminal:
            assert terminal.end() == 1
        assert "needs a terminal" in terminal.text and "\x1b" not in terminal.text

    def test_once(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-7: `--once` shows status, queue position, computation time, machine and cost."""
        first = cloud.add_task(status="submitted", create_time="2026-01-01T00:00:00+00:00")
        second = cloud.add_task(status="submitted", create_time="2026-01-02T00:00:00+00:00")
        running = cloud.add_task(status="computation-started", estimated_computation_cost=0.0123)
        ended = cloud.add_task()
        done = taskfs("watch", "--once", NO_COLOR="1")
        assert (done.returncode, done.stderr) == (0, "")
        rows = {line.split()[0]: line for line in done.stdout.splitlines()}
        assert list(rows) == ["ID", running, second, first] and ended not in rows
        assert "0 ahead" in rows[first] and "1 ahead" in rows[second]
        assert re.search(r"computation-started +00:00:\d\d +c2-standard-4 +0.012$", rows[running])

    def test_json(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-3: `watch --json` prints JSON and nothing else."""
        task = cloud.add_task(status="submitted")
        cloud.add_task()
        other = cloud.add_task(status="started")
        records = json.loads(taskfs("watch", "--json").stdout)
        assert [record["task_id"] for record in records] == [other, task]
        assert records[0]["position_in_queue"] is None
        assert records[1]["position_in_queue"] == {"tasks_ahead": 0}

    def test_no_tasks(self, taskfs: Command) -> None:
        """C-7: Without unfinished tasks nothing is printed on standard output; the status is 0."""
        done = taskfs("watch", "--once")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "No unfinished tasks.\n")
        assert json.loads(taskfs("watch", "--json").stdout) == []

    def test_the_scope(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-6: `--project` and `--status` say which tasks are shown."""
        mine = cloud.add_task(status="started", project="mine")
        cloud.add_task(status="submitted", project="mine")
        cloud.add_task(status="started", project="theirs")
        done = taskfs("watch", "--json", "--project", "mine", "--status", "started")
        assert [record["task_id"] for record in json.loads(done.stdout)] == [mine]


class TestOnATerminal:
    @pytest.mark.parametrize("key", ["q", "\x03"])
    def test_it_follows_and_leaves_the_terminal_as_it_was(
        self, taskfs: Command, cloud: FakeCloud, key: str
    ) -> None:
        """C-7: The table follows the tasks, and the terminal is restored after `q` and Ctrl+C."""
        task = cloud.add_task(status="submitted")
        with taskfs.terminal("watch", *FAST) as terminal:
            before = termios.tcgetattr(terminal.screen)
            terminal.read_until("x kill")
            assert task in terminal.text and "0 ahead" in terminal.text
            assert termios.tcgetattr(terminal.screen)[3] & termios.ICANON == 0
            cloud.set_status(task, "computation-started")
            terminal.read_until("computation-started")
            time_shown = re.compile(r"00:00:(?!00)\d\d")  # a busy machine may not show each second
            began = len(terminal.text)
            read_terminal_until(terminal, lambda: bool(time_shown.search(terminal.text, began)))
            cloud.set_status(task, "success")
            terminal.read_until(f"{task} ended as success")
            assert task in terminal.text.rpartition("\x1b[H")[2]  # it stays, with its result
            terminal.type(key)
            # Not `end`, which reads until the slave side is closed: termios needs it open.
            terminal.read_until(ALTERNATE[1])
            eventually(lambda: terminal.process.poll() is not None)
            assert terminal.process.returncode == (0 if key == "q" else 130)
            assert termios.tcgetattr(terminal.screen) == before
        assert terminal.text.index(ALTERNATE[0]) < terminal.text.index(ALTERNATE[1])
        assert "\x1b[?25h" in terminal.text.rpartition("\x1b[?25l")[2]  # the cursor is back
        assert "Traceback" not in terminal.text

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
    def test_a_signal_leaves_the_terminal_as_it_was(
        self, taskfs: Command, cloud: FakeCloud, number: signal.Signals
    ) -> None:
        """C-7: A signal leaves the terminal as it was."""
        with taskfs.terminal("watch") as terminal:
            before = termios.tcgetattr(terminal.screen)
            terminal.read_until("x kill")
            terminal.process.send_signal(number)
            terminal.read_until(ALTERNATE[1])
            eventually(lambda: terminal.process.poll() is not None)
            assert terminal.process.returncode == 128 + number
            assert termios.tcgetattr(terminal.screen) == before

    def test_a_failure_at_the_start_is_one_line(self, taskfs: Command) -> None:
        """C-1: A failure at the start is one line that names the fix."""
        with taskfs.terminal("watch", INDUCTIVA_API_KEY="wrong") as terminal:
            assert terminal.end() == 1
        assert "inductiva auth login" in terminal.text
        assert terminal.text.count("\n") == 1 and "\x1b" not in terminal.text

    def test_x_asks_and_kills(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-8: The arrow keys choose a row, and `x` asks and kills its task."""
        tasks = [
            cloud.add_task(status="started", create_time=f"2026-01-0{day}T00:00:00+00:00")
            for day in (3, 2, 1)
        ]
        with taskfs.terminal("watch", *FAST) as terminal:
            terminal.read_until("x kill")
            assert selected(terminal) == tasks[0]
            terminal.type(DOWN + DOWN + UP)
            read_terminal_until(terminal, lambda: selected(terminal) == tasks[1])
            terminal.type("x")
            terminal.read_until(f"Kill {tasks[1]} (started)?")
            terminal.type("n")
            terminal.read_until("nothing was killed")
            terminal.type("xy")
            sent = f"Successfully sent kill request for task {tasks[1]}."
            terminal.read_until(sent)
            terminal.read_until("pending-kill")
            terminal.type("q")
            assert terminal.end() == 0
        assert cloud.killed == [tasks[1]]
        assert sent in terminal.text.rpartition(ALTERNATE[1])[2]  # after the screen

    def test_a_kill_that_is_refused(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-8: The outcome of a refused kill is shown."""
        task = cloud.add_task(status="started")
        cloud.faults.add("status", method="POST", status=403)
        with taskfs.terminal("watch") as terminal:
            terminal.read_until("x kill")
            terminal.type("xy")
            terminal.read_until(f"task {task} was not killed")
            terminal.type("q")
            assert terminal.end() == 0
        assert cloud.killed == []

    def test_the_api_goes_away_and_comes_back(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-7: While the API is away, what was known stays and the failure is shown."""
        task = cloud.add_task(status="started")
        with taskfs.terminal("watch", *FAST) as terminal:
            terminal.read_until("x kill")
            cloud.fail_for_long("api")
            terminal.read_until("not up to date, trying again")
            assert task in terminal.text.rpartition("\x1b[H")[2]
            cloud.faults.clear()
            cloud.set_status(task, "computation-started")
            terminal.read_until("computation-started")
            terminal.type("q")
            assert terminal.end() == 0

    def test_q_does_not_wait_for_the_api(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-8: `q` leaves at once, also while a request is in flight."""
        cloud.add_task(status="started")
        with taskfs.terminal("watch", *FAST) as terminal:
            terminal.read_until("x kill")
            stall = cloud.faults.add("stall", side="api", times=None)
            eventually(lambda: stall.hits > 0)
            began = time.monotonic()
            terminal.type("q")
            assert terminal.end() == 0
        assert time.monotonic() - began < 25

    def test_ended_tasks_stay_dimmed_and_cannot_be_killed(
        self, taskfs: Command, cloud: FakeCloud
    ) -> None:
        """C-53: Tasks that end while the screen is shown stay, dimmed, with their result."""
        task = cloud.add_task(status="started")
        other = cloud.add_task(status="started")
        with taskfs.terminal("watch", *FAST) as terminal:
            terminal.read_until("x kill")
            cloud.set_status(task, "failed")
            terminal.read_until(f"{task} ended as failed")
            screen = terminal.text.rpartition("\x1b[H")[2]
            assert re.search(rf"\x1b\[2m{task}", screen) and "failed" in screen
            assert "1 unfinished task " in screen and screen.index(other) < screen.index(task)
            terminal.type("jx")
            terminal.read_until(f"{task} has ended (failed)")
            terminal.type("q")
            assert terminal.end() == 0

    def test_enter_shows_info(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-53: Enter shows the lines of `taskfs info`; another key returns to the table."""
        cloud.add_task(status="started", task_metadata={"study": "waves"})
        with taskfs.terminal("watch") as terminal:
            terminal.read_until("x kill")
            terminal.type("\r")
            terminal.read_until("study:")
            terminal.read_until("Timeline:")
            shown = terminal.text.count("x kill")
            terminal.type("b")
            read_terminal_until(terminal, lambda: terminal.text.count("x kill") > shown)
            terminal.type("q")
            assert terminal.end() == 0

    def test_k_and_j_move(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-53: `j` and `k` move down and up, as in vi; `k` kills nothing."""
        days = ("2026-01-02T00:00:00+00:00", "2026-01-01T00:00:00+00:00")
        first, second = (cloud.add_task(status="started", create_time=day) for day in days)
        with taskfs.terminal("watch") as terminal:
            terminal.read_until("x kill")
            terminal.type("j")
            read_terminal_until(terminal, lambda: selected(terminal) == second)
            terminal.type("k")
            read_terminal_until(terminal, lambda: selected(terminal) == first)
            terminal.type("yq")
            assert terminal.end() == 0
        assert cloud.killed == []

    def test_ctrl_z_suspends_and_fg_goes_on(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-53: Ctrl+Z gives the terminal back to the shell; fg draws the screen again."""
        cloud.add_task(status="started")
        environment = {**taskfs.environment, "TERM": "xterm", "PS1": "ready> "}
        command = " ".join((*COMMAND, "watch"))
        terminal = Terminal(["/bin/bash", "--norc", "--noprofile", "-i"], taskfs.cwd, environment)
        try:
            terminal.read_until("ready> ")
            terminal.type(f"{command}\n")
            terminal.read_until("x kill")
            terminal.type("\x1a")
            terminal.read_until("Stopped")
            assert terminal.text.rpartition(ALTERNATE[1])[2].count("Stopped") == 1
            terminal.type("echo ag''ain\n")
            terminal.read_until("again\r\n")
            shown = terminal.text.count("x kill")
            terminal.type("fg\n")
            read_terminal_until(terminal, lambda: terminal.text.count("x kill") > shown)
            terminal.type("q")
            read_terminal_until(terminal, lambda: terminal.text.endswith("ready> "))
            assert terminal.text.count(ALTERNATE[0]) == terminal.text.count(ALTERNATE[1]) == 2
        finally:
            terminal.close()

    def test_no_colour(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-2: With NO_COLOR the table is not coloured."""
        cloud.add_task(status="pending-kill")
        cloud.add_task(status="started")
        shown = {}
        for no_color in ("", "1"):
            with taskfs.terminal("watch", NO_COLOR=no_color) as terminal:
                terminal.read_until("x kill")
                terminal.type("q")
                assert terminal.end() == 0
            shown[no_color] = re.findall(r"\x1b\[[0-9;]*m", terminal.text)
        assert "\x1b[33m" in shown[""]
        assert not [code for code in shown["1"] if re.search(r"\b[34][0-7]\b", code)]
        assert "\x1b[7m" in shown["1"]  # reverse video is no colour

    def test_names_do_not_steer_the_terminal(self, taskfs: Command, cloud: FakeCloud) -> None:
        """Y-7: A name with control characters does not steer the terminal."""
        cloud.add_task(status="started", simulator="evil\x1b]0;title\x07")
        with taskfs.terminal("watch") as terminal:
            terminal.read_until("x kill")
            terminal.type("q")
            assert terminal.end() == 0
        assert "evil\\x1b]0;title\\x07" in terminal.text
        assert "\x1b]0" not in terminal.text


class TestRequests:
    @pytest.fixture
    def client(self, cloud: FakeCloud) -> TaskClient:
        return TaskClient(cloud.api_url, cloud.api_key, timeout_s=10)

    def test_an_update_is_one_request(self, cloud: FakeCloud, client: TaskClient) -> None:
        """C-9: An update is one request; places are asked for when a task joins or leaves the
        queue, and after 30 s."""
        now = 0.0
        queued = [cloud.add_task(status="submitted") for _ in range(3)]
        running = [cloud.add_task(status="computation-started") for _ in range(20)]
        tasks = UnfinishedTasks(client, clock=lambda: now)
        assert len(tasks.update().tasks) == 23
        assert (listings(cloud), positions_requested(cloud)) == (1, 3)
        for _ in range(5):
            tasks.update()
        assert (listings(cloud), positions_requested(cloud)) == (6, 3)
        cloud.set_status(running[0], "pending-kill")
        tasks.update()
        assert positions_requested(cloud) == 3
        cloud.set_status(queued[0], "started")
        snapshot = tasks.update()
        assert positions_requested(cloud) == 5
        assert sorted(snapshot.tasks_ahead.values()) == [0, 1]
        now = 31.0
        tasks.update()
        assert positions_requested(cloud) == 7
        cloud.clear_requests()
        cloud.set_status(running[1], "success")
        assert [task.id for task in tasks.update().ended] == [running[1]]
        assert len(cloud.requests) == 2
        client.close()

    def test_many_that_end_at_once(self, cloud: FakeCloud, client: TaskClient) -> None:
        """C-53: All tasks that ended are shown, if many end at once and if a request fails."""
        running = {cloud.add_task(status="started") for _ in range(33)}
        tasks = UnfinishedTasks(client)
        tasks.update()
        for task in running:
            cloud.set_status(task, "killed")
        failing = min(running)
        cloud.faults.add("status", path=failing, times=None, status=418)
        ended = [task.id for _ in range(4) for task in tasks.update().ended]
        assert sorted([*ended, failing]) == sorted(running)
        cloud.faults.clear()
        assert [task.id for task in tasks.update().ended] == [failing]
        assert not tasks.update().ended
        client.close()

    def test_records_that_stay_unknown(self, cloud: FakeCloud, client: TaskClient) -> None:
        """C-53, C-9: Ended tasks whose records fail at every request hide no later end, and are not
        asked for any more after some tries."""
        running = [cloud.add_task(status="started") for _ in range(17)]
        tasks = UnfinishedTasks(client)
        tasks.update()
        for task in running[:16]:
            cloud.faults.add("status", path=f"/tasks/{task}", times=None, status=418)
            cloud.set_status(task, "killed")
        assert not tasks.update().ended
        cloud.set_status(running[16], "killed")
        assert [task.id for _ in range(2) for task in tasks.update().ended] == [running[16]]
        for _ in range(4):
            tasks.update()
        cloud.clear_requests()
        tasks.update()
        assert [record.path for record in cloud.requests] == ["/tasks"]
        client.close()

    def test_a_long_queue(self, cloud: FakeCloud, client: TaskClient) -> None:
        """C-9: In a long queue only a few places are asked for per update."""
        for _ in range(32):
            cloud.add_task(status="submitted")
        tasks = UnfinishedTasks(client)
        known = [len(tasks.update().tasks_ahead) for _ in range(5)]
        assert 0 < known[0] <= 16 and known[-1] == 32
        assert positions_requested(cloud) == 32
        client.close()


@pytest.mark.parametrize(
    ("typed", "keys"),
    [
        ([b"q"], ["q"]),
        ([b"\x1b[A\x1bOBk"], ["up", "down", "k"]),
        ([b"\x1b", b"[A"], ["up"]),
        ([b"\x1b[", b"5", b"~y"], ["page up", "y"]),
        ([b"\x1b"], ["escape"]),
        ([b"\x1bq"], ["escape", "q"]),
        ([b"\x1b[I\x1b[?1;2c\x1b[1;5Dx"], ["x"]),
        (["ä".encode()], ["ä"]),
    ],
)
def test_keys(typed: list[bytes], keys: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """C-8: Arrow keys work in both forms that terminals send; other sequences do nothing."""
    reading, writing = os.pipe()
    pieces = iter(typed)

    wait = select.select

    def type_next(reading: list[int], *others: Any) -> Any:
        os.write(writing, next(pieces, b""))
        return wait(reading, [], [], 0)

    monkeypatch.setattr(select, "select", type_next)
    try:
        assert Keyboard(reading).read(0) == keys
    finally:
        os.close(reading)
        os.close(writing)
