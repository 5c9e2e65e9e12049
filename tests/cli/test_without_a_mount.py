"""`taskfs ls`, `cat`, `head`, `tail`, `du` and `cp`: the tree without a mount and without FUSE."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Command, eventually
from tests.fake_api import FakeCloud
from tests.outputs import LONG_AGO

LINES = b"".join(b"line %d\n" % number for number in range(100_000))
OUTPUTS = {
    "stdout.txt": b"".join(b"out %d\n" % number for number in range(100)),
    "stderr.txt": b"no newline at the end",
    "vtk/a_1.vtk": b"1" * 1000,
    "vtk/a_2.vtk": b"2" * 500,
    "vtk/deep/b_1.vtk": b"3" * 250,
    "large.log": LINES,
}


@pytest.fixture
def task(cloud: FakeCloud) -> str:
    return cloud.add_task(outputs=OUTPUTS, inputs={"config.json": b"{}"})


def listings(cloud: FakeCloud) -> int:
    return sum(record.path == "/tasks" for record in cloud.requests)


class TestLs:
    def test_without_an_argument_the_tasks_are_listed(
        self, taskfs: Command, cloud: FakeCloud
    ) -> None:
        """C-45: `ls` lists the tasks, newest first."""
        old = cloud.add_task(create_time="2026-01-01T00:00:00+00:00")
        new = cloud.add_task(create_time="2026-01-02T00:00:00+00:00")
        done = taskfs("ls")
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{new}\n{old}\n", "")

    def test_a_task(self, taskfs: Command, task: str) -> None:
        """C-45: `ls ID` lists the names in the task's directory, without `kill`."""
        names = taskfs("ls", task).stdout.split()
        assert {"status", "info.json", "outputs", "inputs"} <= set(names)
        assert "kill" not in names  # it could not be written

    def test_a_path_outside_of_the_task_s_directory_is_one_of_its_outputs(
        self, taskfs: Command, task: str
    ) -> None:
        """C-45: A path is looked up in `outputs/` too."""
        for path in ("outputs/vtk", "vtk", "vtk/"):
            assert taskfs("ls", f"{task}/{path}").stdout == "a_1.vtk\na_2.vtk\ndeep\n"

    def test_a_directory_that_cannot_be_read(
        self, taskfs: Command, task: str, cloud: FakeCloud
    ) -> None:
        """C-45: `ls -R` names the directory that cannot be read, and lists the others."""
        cloud.put_object(f"{task}/input.zip", b"no archive" * 1000)
        done = taskfs("ls", "-R", task)
        assert done.returncode == 1
        assert done.stdout.endswith(f"\n{task}/outputs/vtk/deep:\nb_1.vtk\n")
        assert "taskfs: no end record" in done.stderr

    def test_long(self, taskfs: Command, task: str) -> None:
        """C-45: `ls -l` shows sizes, times and names."""
        rows = [line.split() for line in taskfs("ls", "-l", f"{task}/vtk").stdout.splitlines()]
        assert [(row[0], row[-1]) for row in rows] == [
            *(("1000", "a_1.vtk"), ("500", "a_2.vtk"), ("-", "deep"))
        ]

    def test_recursive(self, taskfs: Command, task: str) -> None:
        """C-45: `ls -R` lists directories with what is in them."""
        shown = taskfs("ls", "-R", f"{task}/vtk").stdout
        assert shown == (
            f"{task}/outputs/vtk:\na_1.vtk\na_2.vtk\ndeep\n\n{task}/outputs/vtk/deep:\nb_1.vtk\n"
        )

    @pytest.mark.parametrize(
        ("pattern", "expected"),
        [
            ("vtk/*_1.vtk", ["vtk/a_1.vtk"]),
            ("vtk/a_[12].vtk", ["vtk/a_1.vtk", "vtk/a_2.vtk"]),
            ("**/*_1.vtk", ["vtk/a_1.vtk", "vtk/deep/b_1.vtk"]),
            ("std???.txt", ["stderr.txt", "stdout.txt"]),
        ],
    )
    def test_globs(self, taskfs: Command, task: str, pattern: str, expected: list[str]) -> None:
        """C-45: A path may be a glob; `**` stands for directories."""
        shown = taskfs("ls", f"{task}/{pattern}").stdout.splitlines()
        assert shown == [f"{task}/outputs/{path}" for path in expected]

    @pytest.mark.parametrize("path", ["nope", "*.nope", "stdout.txt/x"])
    def test_no_such_path(self, taskfs: Command, task: str, path: str) -> None:
        """C-45: A path that does not exist is one line; the others are listed."""
        done = taskfs("ls", f"{task}/{path}", f"{task}/vtk/deep")
        assert done.returncode == 1
        assert done.stderr == f"taskfs: there is no {task}/{path}: see `taskfs ls {task}`\n"
        assert "b_1.vtk" in done.stdout  # the others are listed

    def test_live_files_of_a_task_that_has_ended(self, taskfs: Command, task: str) -> None:
        """C-45, C-1: The error of a path below live/ says when there are such files."""
        done = taskfs("tail", f"{task}/live/stdout.txt")
        assert done.returncode == 1
        assert done.stderr == (
            f"taskfs: there is no {task}/live/stdout.txt (the task is success, and live/ has files "
            f"only while a task runs): see `taskfs ls {task}`\n"
        )

    def test_no_such_task(self, taskfs: Command) -> None:
        """C-45, C-1: A task that does not exist is one line that names the fix."""
        for name in ("nope", "a" * 25):
            done = taskfs("ls", name)
            assert done.returncode == 1
            assert done.stderr == f"taskfs: there is no task {name}: see `taskfs list --all`\n"

    def test_control_characters_do_not_reach_the_terminal(
        self, taskfs: Command, cloud: FakeCloud
    ) -> None:
        """Y-7: Names do not steer the terminal."""
        task = cloud.add_task(outputs={"a\x1b[31mb": b""})
        with taskfs.terminal("ls", f"{task}/outputs") as terminal:
            assert terminal.end() == 0
        assert "a\\x1b[31mb" in terminal.text and "\x1b[31m" not in terminal.text


class TestRequests:
    def test_a_warm_cache_leaves_one_request(
        self, taskfs: Command, cloud: FakeCloud, task: str
    ) -> None:
        """C-46: With a warm cache each command asks for the task's record, and for nothing else."""
        calls = [
            ("ls", task),
            ("ls", "-l", f"{task}/outputs"),
            ("cat", f"{task}/stdout.txt"),
            ("tail", f"{task}/stdout.txt"),
            ("du", f"{task}/outputs"),
        ]
        for call in (*calls, *calls):
            cloud.clear_requests()
            assert taskfs(*call).returncode == 0
        for call in calls:
            cloud.clear_requests()
            assert taskfs(*call).returncode == 0
            assert [record.path for record in cloud.requests] == [f"/tasks/{task}"], call

    def test_each_record_is_asked_for_once(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-46: The record of each task is requested once; `latest` costs one request."""
        tasks = [cloud.add_task() for _ in range(6)]
        cloud.clear_requests()
        shown = taskfs("cat", *(f"{task}/status" for task in tasks * 2)).stdout
        assert shown == "success\n" * 12
        asked = sorted(record.path for record in cloud.requests)
        assert asked == sorted(f"/tasks/{task}" for task in tasks)
        cloud.clear_requests()
        assert taskfs("cat", "latest/status", "latest/machine_type").returncode == 0
        assert [record.path for record in cloud.requests] == ["/tasks"]
        for arguments in ((), (tasks[0][:8],), (tasks[0][:8], tasks[1])):
            cloud.clear_requests()
            assert taskfs("ls", *arguments).returncode == 0
            assert sum(record.path == "/tasks" for record in cloud.requests) == 1

    def test_the_first_request_does_not_wait_for_the_imports(
        self, taskfs: Command, cloud: FakeCloud, task: str
    ) -> None:
        """C-46: The record is requested before the modules that read archives are imported."""
        go = taskfs.cwd / "go"
        program = (  # the import of the core waits until the file is there
            "import os, sys, time\n"
            "class Wait:\n"
            "    def find_spec(self, name, path, target=None):\n"
            f"        while name == 'taskfs.core' and not os.path.exists({str(go)!r}):\n"
            "            time.sleep(0.01)\n"
            "sys.meta_path.insert(0, Wait())\n"
            "from taskfs.cli.main import main\n"
            f"sys.exit(main(['cat', '{task}/stderr.txt']))"
        )
        cloud.clear_requests()
        with subprocess.Popen(
            [sys.executable, "-c", program], env=taskfs.environment, stdout=subprocess.PIPE
        ) as process:
            eventually(lambda: any(record.path == f"/tasks/{task}" for record in cloud.requests))
            go.touch()
            assert process.stdout and process.stdout.read() == OUTPUTS["stderr.txt"]


class TestCat:
    def test_files_follow_each_other(self, taskfs: Command, task: str) -> None:
        """C-45: `cat` prints files one after another, and texts of the task."""
        done = taskfs("cat", f"{task}/stderr.txt", f"{task}/vtk/a_*.vtk", f"{task}/status")
        expected = OUTPUTS["stderr.txt"] + b"1" * 1000 + b"2" * 500 + b"success\n"
        assert done.stdout == expected.decode()
        assert (done.returncode, done.stderr) == (0, "")

    def test_bytes_are_printed_as_they_are(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-45: `cat` changes no byte."""
        content = os.urandom(3 << 20)
        task = cloud.add_task(outputs={"x.bin": content})
        done = subprocess.run(
            [sys.executable, "-m", "taskfs", "cat", f"{task}/x.bin"],
            env=taskfs.environment,
            cwd=taskfs.cwd,
            capture_output=True,
            timeout=30,
        )
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout == content

    def test_a_directory_is_an_error(self, taskfs: Command, task: str) -> None:
        """C-45, C-1: `cat` of a directory is one line that names `ls`."""
        done = taskfs("cat", f"{task}/vtk")
        assert done.returncode == 1
        assert f"{task}/outputs/vtk is a directory: see `taskfs ls" in done.stderr

    def test_a_whole_id_needs_no_listing(
        self, taskfs: Command, cloud: FakeCloud, task: str
    ) -> None:
        """C-44, C-46: `cat` of a whole id requests its record and a signed URL."""
        cloud.clear_requests()
        assert taskfs("cat", f"{task}/stderr.txt").returncode == 0
        assert listings(cloud) == 0
        assert sum(record.side == "api" for record in cloud.requests) == 2  # record and URL

    def test_the_cache_serves_the_second_time(
        self, taskfs: Command, cloud: FakeCloud, task: str
    ) -> None:
        """C-45: The second `cat` reads the cache."""
        taskfs("cat", f"{task}/stdout.txt")
        cloud.clear_requests()
        assert taskfs("cat", f"{task}/stdout.txt").stdout == OUTPUTS["stdout.txt"].decode()
        assert sum(record.bytes_sent for record in cloud.requests if record.side == "store") == 0

    def test_offline(self, taskfs: Command, cloud: FakeCloud, task: str) -> None:
        """C-45, O-3: `--offline` prints what is cached, without a request."""
        taskfs("ls")  # a listing keeps the finished tasks
        taskfs("cat", f"{task}/stdout.txt")
        cloud.clear_requests()
        done = taskfs("cat", f"{task}/stdout.txt", "--offline")
        assert (done.returncode, done.stdout) == (0, OUTPUTS["stdout.txt"].decode())
        assert cloud.requests == []

    def test_neither_fuse_nor_libfuse_is_needed(self, taskfs: Command, task: str) -> None:
        """C-45: `cat` works without fusepy and without libfuse."""
        program = (
            "import sys; sys.modules['fuse'] = None; from taskfs.cli.main import main; "
            f"sys.exit(main(['cat', '{task}/stderr.txt']))"
        )
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=taskfs.environment | {"FUSE_LIBRARY_PATH": "/nonexistent"},
            capture_output=True,
            timeout=30,
        )
        assert (done.returncode, done.stdout) == (0, OUTPUTS["stderr.txt"])


@pytest.mark.parametrize("command", ["cat", "head", "tail"])
def test_a_directory_among_the_matches(taskfs: Command, task: str, command: str) -> None:
    """C-45: Of the files that a glob matches, one that cannot be read does not hide the others."""
    done = taskfs(command, f"{task}/*s")
    assert done.returncode == 1
    assert f"{task}/inputs is a directory" in done.stderr
    assert "success\n" in done.stdout


class TestHeadAndTail:
    @pytest.mark.parametrize("count", [0, 1, 3, 10, 99, 100, 200])
    def test_lines(self, taskfs: Command, task: str, count: int) -> None:
        """C-45: `head` and `tail` print as many lines as asked for."""
        lines = OUTPUTS["stdout.txt"].decode().splitlines(keepends=True)
        path = f"{task}/stdout.txt"
        assert taskfs("head", "-n", str(count), path).stdout == "".join(lines[:count])
        expected = "".join(lines[-count:]) if count else ""
        assert taskfs("tail", "-n", str(count), path).stdout == expected

    def test_ten_lines_by_default(self, taskfs: Command, task: str) -> None:
        """C-45: `head` and `tail` print ten lines."""
        assert len(taskfs("head", f"{task}/stdout.txt").stdout.splitlines()) == 10
        assert len(taskfs("tail", f"{task}/stdout.txt").stdout.splitlines()) == 10

    def test_many_lines_cross_chunks(self, taskfs: Command, task: str) -> None:
        """C-45: Lines are counted across chunks."""
        lines = LINES.decode().splitlines(keepends=True)
        path = f"{task}/large.log"
        assert taskfs("head", "-n", "50000", path).stdout == "".join(lines[:50_000])
        assert taskfs("tail", "-n", "50000", path).stdout == "".join(lines[-50_000:])

    def test_a_last_line_without_a_newline(self, taskfs: Command, task: str) -> None:
        """C-45: A last line without a newline counts."""
        for command in ("head", "tail"):
            done = taskfs(command, "-n", "1", f"{task}/stderr.txt")
            assert done.stdout == OUTPUTS["stderr.txt"].decode()

    def test_several_files_have_headings(self, taskfs: Command, task: str) -> None:
        """C-45: Several files have headings, as with head(1)."""
        for command in ("head", "tail"):
            shown = taskfs(command, "-n", "1", f"{task}/std*.txt").stdout
            first = f"==> {task}/outputs/stderr.txt <==\nno newline at the end\n"
            assert shown.startswith(f"{first}==> {task}/outputs/stdout.txt <==\nout ")

    def test_following_waits_for_the_file_and_ends_with_the_task(
        self, taskfs: Command, cloud: FakeCloud
    ) -> None:
        """C-47: `tail -f` waits for the file and ends with the task."""
        task = cloud.add_task(status="started", outputs={"stdout.txt": b"a\nb\n"})
        process = taskfs.start("tail", "-f", "-n", "1", f"{task}/stdout.txt")
        eventually(lambda: any(task in record.path for record in cloud.requests))
        time.sleep(0.5)
        assert process.poll() is None
        cloud.set_status(task, "success")
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out, err) == (0, "b\n", "")

    @pytest.mark.parametrize("status", [500, 503])
    def test_following_outlasts_an_outage(
        self, taskfs: Command, cloud: FakeCloud, status: int
    ) -> None:
        """C-47: `tail -f` goes on after an outage of the API."""
        task = cloud.add_task(status="started", outputs={"stdout.txt": b"a\nb\n"})
        process = taskfs.start("tail", "-f", "--timeout", "1s", f"{task}/stdout.txt")
        eventually(lambda: any(task in record.path for record in cloud.requests))
        cloud.faults.add("status", side="api", times=None, status=status)
        assert process.stderr
        assert process.stderr.readline().endswith("; trying again\n")
        cloud.faults.clear()
        cloud.set_status(task, "success")
        assert process.communicate(timeout=30)[0] == "a\nb\n"
        assert process.returncode == 0

    def test_following_a_file_that_never_comes(self, taskfs: Command, task: str) -> None:
        """C-47: `tail -f` of a task that has ended does not wait."""
        done = taskfs("tail", "-f", f"{task}/nope")
        assert done.returncode == 1
        assert done.stderr == f"taskfs: there is no {task}/nope: see `taskfs ls {task}`\n"

    def test_following_ends_on_ctrl_c(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-47, C-1: Ctrl+C ends `tail -f` with status 130."""
        task = cloud.add_task(status="started")
        with taskfs.terminal("tail", "-f", f"{task}/stdout.txt") as terminal:
            terminal.read_until("waiting for it until the task ends")
            terminal.type("\x03")
            assert terminal.end() == 130
        assert "Traceback" not in terminal.text

    def test_one_file_is_followed(self, taskfs: Command, task: str) -> None:
        """C-47, C-1: `tail -f` of two files is a wrong call."""
        done = taskfs("tail", "-f", f"{task}/a", f"{task}/b")
        assert done.returncode == 2 and "-f follows one file" in done.stderr


class TestDu:
    def test_each_directory(self, taskfs: Command, task: str) -> None:
        """C-45: `du` sums each directory, after decompression."""
        sizes = {
            path: int(size)
            for size, path in (
                line.split("\t") for line in taskfs("du", "-b", task).stdout.splitlines()
            )
        }
        total = sum(map(len, OUTPUTS.values()))
        assert sizes == {
            f"{task}/inputs": 2,
            f"{task}/outputs/vtk/deep": 250,
            f"{task}/outputs/vtk": 1750,
            f"{task}/outputs": total,
            task: total + 2,
        }

    def test_sums_for_people(self, taskfs: Command, task: str) -> None:
        """C-45: `du -s` prints one size with a unit."""
        assert taskfs("du", "-s", f"{task}/vtk").stdout == f"1.75 KB\t{task}/outputs/vtk\n"

    def test_nothing_is_read_but_the_index(
        self, taskfs: Command, cloud: FakeCloud, task: str
    ) -> None:
        """C-45: `du` reads only the index."""
        cloud.clear_requests()
        taskfs("du", "-s", f"{task}/outputs")
        assert sum(record.side == "store" for record in cloud.requests) == 1


class TestCp:
    def test_into_a_directory(self, taskfs: Command, task: str) -> None:
        """C-45, C-48: `cp` copies several files into a directory."""
        done = taskfs("cp", f"{task}/std*.txt", f"{task}/vtk/a_1.vtk", ".")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        for name in ("stdout.txt", "stderr.txt"):
            assert (taskfs.cwd / name).read_bytes() == OUTPUTS[name]
        assert (taskfs.cwd / "a_1.vtk").read_bytes() == b"1" * 1000

    def test_to_a_file_which_is_replaced(self, taskfs: Command, task: str) -> None:
        """C-48: `cp` replaces a file."""
        (taskfs.cwd / "x").write_bytes(b"old")
        assert taskfs("cp", f"{task}/stdout.txt", "x").returncode == 0
        assert (taskfs.cwd / "x").read_bytes() == OUTPUTS["stdout.txt"]

    @pytest.mark.parametrize("kind", ["fifo", "link"])
    def test_other_files_are_not_replaced(self, taskfs: Command, task: str, kind: str) -> None:
        """C-48: A device, FIFO or link at the destination stays; the error names `taskfs cat`."""
        target = taskfs.cwd / "target"
        if kind == "fifo":
            os.mkfifo(target)
        else:
            target.symlink_to("/dev/null")
        done = taskfs("cp", f"{task}/stdout.txt", str(target))
        assert done.returncode == 1
        assert done.stderr.startswith(f"taskfs: {target} is not a regular file")
        assert f"`taskfs cat {task}/outputs/stdout.txt`" in done.stderr
        assert target.is_fifo() if kind == "fifo" else target.is_symlink()

    def test_a_directory_needs_r(self, taskfs: Command, task: str) -> None:
        """C-48: `cp` copies directories with -r."""
        done = taskfs("cp", f"{task}/vtk", ".")
        assert done.returncode == 1 and "is a directory: add -r" in done.stderr
        assert taskfs("cp", "-r", f"{task}/vtk", ".").returncode == 0
        found = {
            str(path.relative_to(taskfs.cwd)): path.read_bytes()
            for path in (taskfs.cwd / "vtk").rglob("*.vtk")
        }
        assert found == {name: c for name, c in OUTPUTS.items() if name.startswith("vtk/")}

    def test_what_cannot_be_read_does_not_hide_the_others(
        self, taskfs: Command, task: str, cloud: FakeCloud
    ) -> None:
        """C-45: `cp -r` names a directory and a file that it cannot read, and copies the others."""
        cloud.put_object(f"{task}/input.zip", b"no archive" * 1000)
        (taskfs.cwd / task / "outputs" / "stdout.txt").mkdir(parents=True)
        done = taskfs("cp", "-r", task, ".")
        assert done.returncode == 1
        assert "no end record" in done.stderr and "stdout.txt is not a regular" in done.stderr
        copied = taskfs.cwd / task
        assert (copied / "status").read_text() == "success\n"
        assert (copied / "outputs/vtk/deep/b_1.vtk").read_bytes() == b"3" * 250
        assert (copied / "outputs/stderr.txt").read_bytes() == OUTPUTS["stderr.txt"]

    def test_several_files_need_a_directory(self, taskfs: Command, task: str) -> None:
        """C-48, C-1: Several files to a file is one line that names the fix."""
        done = taskfs("cp", f"{task}/std*.txt", "nowhere")
        assert done.returncode == 1
        assert "nowhere is not a directory: create it with mkdir -p" in done.stderr

    def test_files_have_their_times(self, taskfs: Command, task: str) -> None:
        """C-48: A copy has the member's time."""
        taskfs("cp", f"{task}/stdout.txt", ".")
        shown = taskfs("ls", "-l", f"{task}/stdout.txt", TZ="UTC").stdout.split()
        copied_s = (taskfs.cwd / "stdout.txt").stat().st_mtime
        assert time.strftime("%H:%M:%S", time.gmtime(copied_s)) == shown[2]

    def test_damaged_bytes_leave_no_file(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-48, I-1: Damaged bytes leave no file."""
        task = cloud.add_task(outputs={"x.bin": os.urandom(50_000)})
        cloud.faults.add("flip", side="store", times=None, at=2000)
        done = taskfs("cp", f"{task}/x.bin", ".")
        assert done.returncode == 1 and done.stderr.count("\n") == 1
        assert not list(taskfs.cwd.glob("x.bin")) and not list(taskfs.cwd.glob(".*.part"))

    def test_ctrl_c_leaves_no_unfinished_file(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-48: Ctrl+C leaves no file."""
        task = cloud.add_task(outputs={"large.bin": os.urandom(8 << 20)})
        cloud.store.bandwidth_per_connection = 1 << 17
        with taskfs.terminal("cp", f"{task}/large.bin", ".") as terminal:
            eventually(lambda: any(Path(taskfs.cwd).glob(".*.part")))
            terminal.type("\x03")
            assert terminal.end() == 130
        assert not list(taskfs.cwd.glob(".*.part")) and not (taskfs.cwd / "large.bin").exists()


@pytest.mark.parametrize(
    "words", [("cat", "*.bin"), ("head", "*.bin"), ("tail", "*.bin"), ("cp", "*.bin", ".")]
)
def test_an_outage_ends_a_glob(taskfs: Command, cloud: FakeCloud, words: tuple[str, ...]) -> None:
    """C-45: The files of one path do not wait for the timeout one after another in an outage."""
    task = cloud.add_task(outputs={f"{n}.bin": os.urandom(300_000) for n in range(3)})
    taskfs("ls", f"{task}/outputs")
    cloud.fail("store")
    command, pattern, *rest = words
    done = taskfs(command, f"{task}/{pattern}", *rest, "--timeout", "1s")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr


@pytest.mark.parametrize("words", [("ls", "-R"), ("cp", "-r", "latest", ".")])
def test_an_outage_ends_a_recursion(
    taskfs: Command, cloud: FakeCloud, words: tuple[str, ...]
) -> None:
    """C-45: `ls -R` and `cp -r` end when the store gives no answer to one directory."""
    for _ in range(2):
        cloud.add_task(outputs=OUTPUTS, inputs=OUTPUTS)
    cloud.fail("store")
    done = taskfs(*words, "--timeout", "1s")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr


@pytest.mark.parametrize("command", ["cat", "head", "tail", "ls"])
def test_many_tasks_cost_few_requests_of_the_api(
    taskfs: Command, cloud: FakeCloud, command: str
) -> None:
    """R-29, R-30, C-45: A command that looks into many tasks has several signed at once."""
    tasks = sorted(
        cloud.add_task(outputs={"a.txt": b"%d\n" % number}, end_time=LONG_AGO)
        for number in range(40)
    )
    taskfs("ls")
    cloud.clear_requests()
    done = taskfs(command, *(f"{task}/outputs/a.txt" for task in tasks))
    assert (done.returncode, done.stderr) == (0, "")
    signings = sum(record.path == "/storage/signed-urls" for record in cloud.requests)
    assert signings <= 4 + 2 * len(tasks) // 8
    assert sum(record.side == "store" for record in cloud.requests) <= len(tasks)
