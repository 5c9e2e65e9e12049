"""`taskfs cache`, `pin` and `unpin`."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from taskfs.cache.eviction import cached_files, evict
from taskfs.cache.pins import change_pins, pinned_files, read_pins
from tests.caches import damage_pages
from tests.cli.conftest import Command, eventually
from tests.fake_api import FakeCloud
from tests.fork_server import COMMAND

MB = 1 << 20
BODY = os.urandom(6 * MB)
OUTPUTS = {"a/one.bin": BODY, "a/two.txt": b"two\n", "b.txt": b"b\n", ".hidden": b"h\n"}


@pytest.fixture
def task(cloud: FakeCloud) -> str:
    return cloud.add_task(outputs=OUTPUTS, inputs={"config.json": b"{}"}, project="mine")


@pytest.fixture
def root(taskfs: Command) -> Path:
    return Path(taskfs.environment["HOME"]) / ".cache/taskfs/v1"


def evict_all(root: Path) -> None:
    evict(root, 0, lambda path: None)


class TestPin:
    def test_a_pinned_task_is_there_offline_after_eviction(
        self, taskfs: Command, task: str, cloud: FakeCloud, root: Path
    ) -> None:
        """R-32: A pinned task is never evicted, and is there with --offline: all of its files."""
        done = taskfs("pin", task[:8])
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"{task} is pinned: 6.29 MB")
        evict_all(root)
        cloud.clear_requests()
        offline = taskfs("cp", "--offline", f"{task}/a/one.bin", ".")
        assert (offline.returncode, offline.stderr) == (0, "")
        assert (taskfs.cwd / "one.bin").read_bytes() == BODY
        for name, body in (
            ("a/two.txt", "two\n"),
            (".hidden", "h\n"),
            ("inputs/config.json", "{}"),
        ):
            assert taskfs("cat", "--offline", f"{task}/{name}").stdout == body
        assert taskfs("cp", "--offline", f"{task}/output.zip", ".").returncode == 0
        assert cloud.requests == []

    def test_a_pinned_path(self, taskfs: Command, task: str, cloud: FakeCloud, root: Path) -> None:
        """R-32, C-42: Only the bytes of the pinned path are fetched and kept."""
        done = taskfs("pin", f"{task}/a/two.txt", f"{task}/b.txt")
        assert done.returncode == 0
        assert sum(r.bytes_sent for r in cloud.requests if r.side == "store") < MB
        evict_all(root)
        assert taskfs("cat", "--offline", f"{task}/a/two.txt", f"{task}/b.txt").stdout == "two\nb\n"
        assert taskfs("cat", "--offline", f"{task}/a/one.bin").returncode == 1

    def test_unpinned_files_are_evicted(self, taskfs: Command, task: str, root: Path) -> None:
        """C-42: `unpin` ends the pins of a task, or one, without a request and without a key."""
        taskfs("pin", f"{task}/a", f"{task}/b.txt")
        assert taskfs("unpin", f"{task}/b.txt", INDUCTIVA_API_KEY="").returncode == 0
        assert list(read_pins(root, task)) == ["outputs/a"]
        refused = taskfs("unpin", f"{task}/b.txt")
        assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
        assert taskfs("unpin", task[:6]).returncode == 0
        evict_all(root)
        assert taskfs("cat", "--offline", f"{task}/b.txt").returncode == 1
        assert taskfs("unpin", task).returncode == 1

    def test_unpin_needs_no_key(self, taskfs: Command, task: str, root: Path) -> None:
        """C-42: `unpin` reads no key, so neither a missing key file nor a demo prevents it."""
        taskfs("pin", task)
        done = taskfs("unpin", task, TASKFS_API_KEY_FILE="missing", TASKFS_DEMO="on")
        assert (done.returncode, done.stderr) == (0, "")
        assert read_pins(root, task) == {}

    def test_unpin_takes_the_names_that_pin_takes(
        self, taskfs: Command, cloud: FakeCloud, task: str
    ) -> None:
        """C-44, C-42: `unpin latest` ends the pins of the newest task that the cache knows, without
        a request, and the beginning of several pinned ids is an error that lists them."""
        tasks = [cloud.add_task(f"ab{number}", outputs={"a": b"a"}) for number in range(2)]
        assert taskfs("pin", *tasks, "latest").returncode == 0
        cloud.clear_requests()
        refused = taskfs("unpin", "ab")
        assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
        assert "ab0, ab1" in refused.stderr
        empty = taskfs("unpin", "latest", TASKFS_CACHE_DIR=str(taskfs.cwd / "empty"))
        assert empty.stderr == "taskfs: no task is in the cache: name the id of the latest\n"
        assert taskfs("unpin", "latest").returncode == 0
        done = taskfs("unpin", "latest")
        assert done.returncode == 1 and " has no pins: see `taskfs cache`" in done.stderr
        assert cloud.requests == []

    def test_a_refresh_keeps_a_pinned_index_for_offline_mode(
        self, taskfs: Command, task: str, root: Path
    ) -> None:
        """R-32: The index that a refresh drops stays there for --offline."""
        from taskfs.cache.disk_cache import DiskCache

        taskfs("pin", f"{task}/b.txt")
        DiskCache(root.parent, 1 << 30).drop_indexes()
        assert not list((root / "index").iterdir())
        assert taskfs("cat", "--offline", f"{task}/b.txt").stdout == "b\n"

    def test_a_killed_pin_goes_on(
        self, taskfs: Command, task: str, cloud: FakeCloud, root: Path
    ) -> None:
        """R-33: A pin that is killed leaves whole pins, and goes on when it runs again."""
        cloud.faults.add("stall", side="store", times=None, skip=2)
        process = subprocess.Popen([*COMMAND, "pin", task], cwd=taskfs.cwd, env=taskfs.environment)
        eventually(lambda: bool(read_pins(root, task)))
        process.send_signal(signal.SIGKILL)
        process.wait()
        cloud.faults.clear()
        assert pinned_files(root)
        assert taskfs("pin", task).returncode == 0
        assert taskfs("cat", "--offline", f"{task}/b.txt").stdout == "b\n"

    def test_bytes_that_are_not_there_are_an_error(
        self, taskfs: Command, task: str, cloud: FakeCloud, root: Path
    ) -> None:
        """C-42: An archive that is no ZIP archive cannot be shown offline: that is an error, as is
        a store that fails."""
        broken = cloud.add_task()
        cloud.put_object(f"{broken}/output.zip", b"no archive" * 1000)
        done = taskfs("pin", f"{broken}/output.zip")
        assert (done.returncode, done.stdout) == (1, "")
        assert broken in done.stderr and not read_pins(root, broken)
        cloud.faults.add("status", side="store", times=None, skip=2, status=403)
        done = taskfs("pin", task)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)

    def test_a_bar_on_a_terminal(self, taskfs: Command, task: str) -> None:
        """C-42: On a terminal, `pin` shows a bar."""
        with taskfs.terminal("pin", task) as terminal:
            terminal.read_until("100%")
            terminal.read_until("is pinned")
            assert terminal.end() == 0

    def test_what_cannot_be_pinned(self, taskfs: Command, task: str, cloud: FakeCloud) -> None:
        """C-42: Unfinished tasks, text files and more than the cache holds are refused."""
        running = cloud.add_task(status="started", inputs={"x": b"x"})
        for arguments, text in (
            ((running,), "has not ended"),
            ((f"{task}/status",), "no files in an archive"),
            ((task, "--cache-size", "4M"), "larger --cache-size"),
            ((task, "--cache-size", "0"), "disk cache"),
        ):
            done = taskfs("pin", *arguments)
            assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), arguments
            assert text in done.stderr


class TestPins:
    def test_a_mount_with_a_smaller_cache_evicts_no_pin(self, tmp_path: Path) -> None:
        """R-32: Writes of a mount whose cache is smaller than the pins evict other files."""
        from taskfs.cache.disk_cache import DiskCache, cache_key

        blocks = {name: os.urandom(1 << 16) for name in "abc"}
        cache = DiskCache(tmp_path, 1 << 30)
        keys = {name: cache_key(name) for name in blocks}
        cache.blocks_of(keys["a"]).put(0, blocks["a"])
        with change_pins(cache.root, "t") as pins:
            pins[""] = cache.blocks_of(keys["a"]).files(0, 1)
        small = DiskCache(tmp_path, 1 << 15)
        for name in "bc":
            small.blocks_of(keys[name]).put(0, blocks[name])
        assert small.blocks_of(keys["a"]).get(0) == blocks["a"]
        assert small.blocks_of(keys["b"]).get(0) is None

    def test_two_processes_lose_no_pin(self, tmp_path: Path) -> None:
        """R-33: Pins of one task by several processes at once are all kept."""
        program = (
            "import sys; from pathlib import Path; from taskfs.cache.pins import change_pins\n"
            "for n in range(20):\n"
            "    with change_pins(Path(sys.argv[1]), 't') as pins: pins[f'{sys.argv[2]}{n}'] = []\n"
        )
        running = [
            subprocess.Popen([COMMAND[0], "-c", program, str(tmp_path), name]) for name in "ab"
        ]
        assert [process.wait() for process in running] == [0, 0]
        assert len(read_pins(tmp_path, "t")) == 40

    @pytest.mark.parametrize("content", ["", "{", "[]", '{"a": 1}', "null"])
    def test_a_damaged_file_is_no_pin(self, tmp_path: Path, content: str) -> None:
        """R-33: A damaged file of pins is no pin, and is replaced by the next."""
        (tmp_path / "pins").mkdir()
        (tmp_path / "pins/t.json").write_text(content)
        assert pinned_files(tmp_path) == set()
        with change_pins(tmp_path, "t") as pins:
            pins["x"] = ["blocks/aa/f"]
        assert pinned_files(tmp_path) == {tmp_path / "blocks/aa/f"}


class TestCache:
    def test_where_and_how_much_by_task(self, taskfs: Command, task: str, root: Path) -> None:
        """C-43: `taskfs cache` shows where the cache is and how much each task takes, offline."""
        taskfs("cp", f"{task}/a/one.bin", ".")
        taskfs("pin", f"{task}/b.txt")
        done = taskfs("cache", INDUCTIVA_API_KEY="")
        assert (done.returncode, done.stderr) == (0, "")
        first, head, row, other = done.stdout.splitlines()
        assert first.startswith(f"{root.parent}: 6.") and first.endswith("of 10.74 GB")
        assert head.split() == ["Task", "Size", "Pinned", "Project"]
        assert row.split()[0] == task and row.split()[1].startswith("6.")
        assert row.split()[-1] == "mine" and other.split()[0] == "other"
        assert taskfs("cache", task[:9]).stdout.splitlines()[1].startswith(task)

    def test_clear_one_task(self, taskfs: Command, task: str, cloud: FakeCloud, root: Path) -> None:
        """C-43: `--clear ID` removes the files of one task, but not those that are pinned."""
        other = cloud.add_task(outputs={"x": b"x\n"})
        taskfs("cp", f"{task}/a/one.bin", ".")
        taskfs("cat", f"{other}/x")
        assert taskfs("cache", "--clear", task).returncode == 0
        assert taskfs("cat", "--offline", f"{other}/x").stdout == "x\n"
        assert taskfs("cat", "--offline", f"{task}/b.txt").returncode == 1
        taskfs("pin", f"{other}")
        refused = taskfs("cache", "--clear", other)
        assert (refused.returncode, "unpin" in refused.stderr) == (1, True)
        assert taskfs("cache", task).returncode == 1

    def test_clear_all(self, taskfs: Command, task: str, cloud: FakeCloud, root: Path) -> None:
        """C-43: `--clear` removes all but pinned files, and the folders of older formats."""
        other = cloud.add_task(outputs={"x": b"x\n"})
        taskfs("cp", f"{task}/a/one.bin", ".")
        taskfs("pin", other)
        for name in ("v0/blocks", "v2", "vacation"):
            (root.parent / name).mkdir(parents=True)
        assert taskfs("cache", "--clear").returncode == 0
        assert not (root.parent / "v0").exists()
        assert (root.parent / "v2").is_dir() and (root.parent / "vacation").is_dir()
        assert taskfs("cat", "--offline", f"{other}/x").stdout == "x\n"
        assert sum(size for _, size, _ in cached_files(root)) < MB
        assert taskfs("cat", f"{task}/b.txt").stdout == "b\n"

    def test_a_damaged_index(self, taskfs: Command, cloud: FakeCloud, root: Path) -> None:
        """I-7, C-43: The cache is shown, and cleared, where the index of a large archive is
        damaged."""
        task = cloud.add_task(outputs={f"{number:06}": b"" for number in range(14_000)})
        assert taskfs("ls", f"{task}/outputs").returncode == 0
        (index,) = (root / "index").iterdir()
        damage_pages(index, slice(-1, None))
        shown = taskfs("cache")
        assert (shown.returncode, shown.stderr) == (0, "")
        assert task in shown.stdout
        assert taskfs("cache", "--clear", task).returncode == 0
        assert not index.exists()
