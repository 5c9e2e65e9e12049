"""`taskfs download`: destinations, choice of files, resumption, leftovers of failures."""

import io
import os
import signal
import subprocess
import zipfile
from functools import partial
from pathlib import Path

import pytest

from tests.cli.conftest import Command, eventually, interrupt
from tests.fake_api import FakeCloud, begin_of
from tests.faults.scenarios import NO_SUCH_KEY
from tests.file_systems import assert_same
from tests.outputs import LONG_AGO

OUTPUTS = {
    "stdout.txt": b"hello\n" * 1000,
    "stderr.txt": b"",
    "vtk/a_1.vtk": os.urandom(30_000),
    "vtk/a_2.vtk": b"\0" * 50_000,
    "log/deep/er/x.log": b"x",
}
LARGE = {"large.bin": os.urandom(8 << 20), "small.txt": b"small"}


def tree(target: Path) -> dict[str, bytes]:
    """Return every file beneath, by its path."""
    files = (path for path in target.rglob("*") if path.is_file())
    return {str(path.relative_to(target)): path.read_bytes() for path in files}


def store_bytes(cloud: FakeCloud) -> int:
    return sum(record.bytes_sent for record in cloud.requests if record.side == "store")


@pytest.fixture
def task(cloud: FakeCloud) -> str:
    return cloud.add_task(outputs=OUTPUTS, inputs={"config.json": b"{}", "mesh/m.obj": b"o"})


def test_many_tasks_cost_few_requests_of_the_api(taskfs: Command, cloud: FakeCloud) -> None:
    """R-35, C-21: One request signs the URLs of many archives."""
    add = partial(cloud.add_task, end_time=LONG_AGO)
    tasks = [add(outputs={"a": b"%d" % number}) for number in range(40)]
    cloud.clear_requests()
    done = taskfs("download", *tasks)
    assert (done.returncode, done.stderr) == (0, "")
    for number, task in enumerate(tasks):
        assert tree(taskfs.cwd / "inductiva_output" / task) == {"a": b"%d" % number}
    assert sum(record.side == "api" for record in cloud.requests) == 3
    gone = tasks[7]
    cloud.remove_object(f"{gone}/output.zip")
    cloud.clear_requests()
    done = taskfs("download", "--project", "default", INDUCTIVA_OUTPUT_DIR="again")
    assert done.stderr.count("skipped: ") == 1 and gone in done.stderr
    assert len(os.listdir(taskfs.cwd / "again")) == 39
    assert sum(record.side == "api" for record in cloud.requests) <= 5


class TestWhere:
    def test_by_default(self, taskfs: Command, task: str) -> None:
        """C-21: Files go to `inductiva_output/<id>/`."""
        done = taskfs("download", task)

        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert tree(taskfs.cwd / "inductiva_output" / task) == OUTPUTS

    @pytest.mark.parametrize("parent", ["", "vault", "/absolute"])
    def test_the_parent_is_what_the_service_says(
        self, taskfs: Command, task: str, parent: str, tmp_path: Path
    ) -> None:
        """C-21: INDUCTIVA_OUTPUT_DIR names the parent."""
        parent = str(tmp_path / "absolute") if parent == "/absolute" else parent
        taskfs("download", task, INDUCTIVA_OUTPUT_DIR=parent)
        assert tree(taskfs.cwd / parent / task) == OUTPUTS

    def test_output_dir_replaces_the_id(self, taskfs: Command, task: str) -> None:
        """C-21: `--output-dir` takes the place of the id."""
        taskfs("download", task, "--output-dir", "mine")
        assert tree(taskfs.cwd / "inductiva_output" / "mine") == OUTPUTS

    def test_several(self, taskfs: Command, cloud: FakeCloud, task: str) -> None:
        """C-21: Several tasks are downloaded, each into its own directory."""
        other = cloud.add_task(outputs={"b": b"b"})
        assert taskfs("download", task, other, task).returncode == 0
        assert tree(taskfs.cwd / "inductiva_output" / other) == {"b": b"b"}
        assert tree(taskfs.cwd / "inductiva_output" / task) == OUTPUTS

    def test_inputs(self, taskfs: Command, task: str) -> None:
        """C-21: `--inputs` takes the input archive in place of the output archive."""
        assert taskfs("download", task, "--inputs").returncode == 0
        expected = {"inputs/config.json": b"{}", "inputs/mesh/m.obj": b"o"}
        assert tree(taskfs.cwd / "inductiva_output" / task) == expected


class TestWhich:
    @pytest.mark.parametrize(
        ("names", "expected"),
        [
            (["stdout.txt"], {"stdout.txt"}),
            (["stdout.txt", "stderr.txt"], {"stdout.txt", "stderr.txt"}),
            (["vtk"], {"vtk/a_1.vtk", "vtk/a_2.vtk"}),
            (["vtk/"], {"vtk/a_1.vtk", "vtk/a_2.vtk"}),
            (["vtk/*_1.vtk"], {"vtk/a_1.vtk"}),
            (["*.log"], {"log/deep/er/x.log"}),
            (["./stdout.txt", "[s]tderr.*"], {"stdout.txt", "stderr.txt"}),
        ],
    )
    def test_names(self, taskfs: Command, task: str, names: list[str], expected: set[str]) -> None:
        """C-21: `--filenames` selects files, directories and patterns."""
        flags = [flag for name in names for flag in ("--filenames", name)]
        assert taskfs("download", task, *flags).returncode == 0
        assert set(tree(taskfs.cwd / "inductiva_output" / task)) == expected

    def test_a_missing_name_is_an_error_and_nothing_is_written(
        self, taskfs: Command, cloud: FakeCloud, task: str
    ) -> None:
        """C-22, C-1: A name that is not in the archive is an error, and nothing is written."""
        other = cloud.add_task(outputs={"stdout.txt": b""})
        names = ("--filenames", "stdout.txt", "--filenames", "vtk/*", "--filenames", "nope*")

        done = taskfs("download", task, other, *names)

        assert done.returncode == 1
        listing = f"taskfs ls -R {task}/outputs"
        fix = f"see `{listing}`"
        assert done.stderr == f"taskfs: task {task}: not in the archive: nope*: {fix}\n"
        assert not (taskfs.cwd / "inductiva_output").exists()

    def test_only_the_bytes_needed_are_fetched(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-21: Only the bytes of the selected files are fetched."""
        task = cloud.add_task(outputs=LARGE)
        taskfs("download", task, "--filenames", "small.txt")
        assert store_bytes(cloud) < 2 << 20

    def test_a_second_run_fetches_only_what_is_missing(
        self, taskfs: Command, cloud: FakeCloud
    ) -> None:
        """C-21: A second run fetches only what is missing."""
        task = cloud.add_task(outputs=LARGE)
        target = taskfs.cwd / "inductiva_output" / task
        taskfs("download", task)
        inode = (target / "large.bin").stat().st_ino
        (target / "small.txt").write_bytes(b"other")  # the same size, another time
        cloud.clear_requests()

        assert taskfs("download", task).returncode == 0

        assert (target / "large.bin").stat().st_ino == inode
        assert tree(target) == LARGE
        assert store_bytes(cloud) < 2 << 20

    def test_files_have_their_times(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-21, A-8: Files have the times of their members."""
        task = cloud.add_task()
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr(zipfile.ZipInfo("artifacts/old", (2001, 2, 3, 4, 5, 6)), b"old")
        cloud.put_object(f"{task}/output.zip", buffer.getvalue())

        taskfs("download", task)

        found = (taskfs.cwd / "inductiva_output" / task / "old").stat()
        assert found.st_mtime == 981173106  # the DOS time taken as UTC
        assert found.st_mode & 0o777 == 0o644


class TestArchive:
    def test_it_is_kept_as_it_is(self, taskfs: Command, cloud: FakeCloud, task: str) -> None:
        """C-21: `--archive` keeps the archive as it is."""
        done = taskfs("download", task, "--archive")
        assert (done.returncode, done.stderr) == (0, "")
        target = taskfs.cwd / "inductiva_output" / task
        assert os.listdir(target) == ["output.zip"]
        with zipfile.ZipFile(target / "output.zip") as archive:
            assert archive.read("artifacts/stdout.txt") == OUTPUTS["stdout.txt"]

        inode = (target / "output.zip").stat().st_ino
        assert taskfs("download", task, "--archive").returncode == 0
        assert (target / "output.zip").stat().st_ino == inode

    def test_inputs(self, taskfs: Command, task: str) -> None:
        """C-21: `--inputs` takes the input archive in place of the output archive."""
        taskfs("download", task, "--archive", "--inputs")
        assert zipfile.is_zipfile(taskfs.cwd / "inductiva_output" / task / "inputs" / "input.zip")

    def test_an_interrupted_one_continues(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-21: An interrupted archive continues where it stopped."""
        task = cloud.add_task(outputs=LARGE)
        target = taskfs.cwd / "inductiva_output" / task
        cloud.faults.add(
            "stall", side="store", times=None, match=lambda record: begin_of(record) > 4 << 20
        )
        process = taskfs.start("download", task, "--archive")
        eventually(lambda: any(path.stat().st_size > 1 << 20 for path in target.glob(".*.part")))
        interrupt(process)
        process.communicate(timeout=30)
        assert process.returncode == 130
        assert not (target / "output.zip").exists()
        got = next(target.glob(".output.zip.*.part")).stat().st_size
        cloud.faults.clear()
        cloud.clear_requests()

        assert taskfs("download", task, "--archive").returncode == 0

        assert os.listdir(target) == ["output.zip"]
        with zipfile.ZipFile(target / "output.zip") as archive:
            assert archive.testzip() is None
        assert store_bytes(cloud) < (8 << 20) - got + (3 << 20)


class TestProgress:
    def test_one_bar_on_a_terminal(self, taskfs: Command, cloud: FakeCloud, task: str) -> None:
        """C-2: On a terminal there is one progress bar."""
        other = cloud.add_task(outputs={"b": b"b" * 1000})
        with taskfs.terminal("download", task, other) as terminal:
            assert terminal.end() == 0
        assert "100%" in terminal.text
        assert "kB/s" in terminal.text or "MB/s" in terminal.text
        assert "6 files (87.00 KB) downloaded" in terminal.text

    def test_ctrl_c_leaves_no_unfinished_file(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-21, C-1: Ctrl+C leaves no partial file."""
        task = cloud.add_task(outputs=LARGE)
        cloud.store.bandwidth_per_connection = 1 << 17
        target = taskfs.cwd / "inductiva_output" / task
        with taskfs.terminal("download", task) as terminal:
            eventually(lambda: any(target.glob(".*.part")))
            terminal.type("\x03")
            assert terminal.end() == 130
        assert "Traceback" not in terminal.text
        assert not list(target.glob(".*.part"))
        assert not (target / "large.bin").exists()

    def test_a_termination_leaves_no_unfinished_file(
        self, taskfs: Command, cloud: FakeCloud
    ) -> None:
        """C-21: SIGTERM leaves no partial file."""
        task = cloud.add_task(outputs=LARGE)
        cloud.store.bandwidth_per_connection = 1 << 17
        target = taskfs.cwd / "inductiva_output" / task
        process = taskfs.start("download", task)
        eventually(lambda: any(target.glob(".*.part")))
        process.terminate()
        assert process.communicate(timeout=30) == ("", "")
        assert process.returncode == 128 + signal.SIGTERM
        assert not list(target.glob(".*.part"))


class TestFailures:
    def test_unknown_task(self, taskfs: Command) -> None:
        """C-1: An unknown task is one line."""
        done = taskfs("download", "nope")
        assert done.returncode == 1
        assert done.stderr == "taskfs: there is no task nope: see `taskfs list --all`\n"

    def test_running_task(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-1: A running task is one line."""
        done = taskfs("download", cloud.add_task(status="started"))
        assert done.returncode == 1
        assert "is started, with no outputs yet: see `taskfs wait" in done.stderr

    def test_a_removed_archive(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-1: A removed archive is one line."""
        task = cloud.add_task(end_time="2026-01-01T00:00:00+00:00")
        done = taskfs("download", task)
        assert done.returncode == 1
        assert done.stderr == (
            f"taskfs: task {task} (success) has no output archive: it was removed or never "
            f"uploaded: see `taskfs info {task}`\n"
        )

    def test_the_archive_of_a_fresh_success_is_waited_for(
        self, taskfs: Command, cloud: FakeCloud, task: str
    ) -> None:
        """F-13: A download waits for the archive of a fresh success."""
        missing = cloud.faults.add("body", side="store", times=2, **NO_SUCH_KEY)
        done = taskfs("download", task, "--filenames", "stdout.txt")
        assert done.returncode == 0, done.stderr
        assert missing.hits == 2

    def test_a_damaged_member_is_named_and_the_others_are_there(
        self, taskfs: Command, cloud: FakeCloud
    ) -> None:
        """C-22, I-3: A damaged member is named, and the others are written."""
        task = cloud.add_task()
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("artifacts/bad", b"The quick brown fox")
            archive.writestr("artifacts/good", b"jumps over the lazy dog")
        content = buffer.getvalue().replace(b"brown", b"black")
        cloud.put_object(f"{task}/output.zip", content)

        done = taskfs("download", task)

        assert done.returncode == 1
        assert f"{task}/bad: " in done.stderr
        assert "1 of 2 files were not downloaded" in done.stderr
        target = taskfs.cwd / "inductiva_output" / task
        assert tree(target) == {"good": b"jumps over the lazy dog"}

    def test_no_answer_leaves_no_unfinished_file(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-21: A store without an answer leaves no partial file."""
        task = cloud.add_task(outputs=LARGE)
        cloud.faults.add("status", side="store", status=503, times=None, skip=1)
        done = taskfs("download", task, "--timeout", "500ms")
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert not list((taskfs.cwd / "inductiva_output").rglob(".*.part"))

    def test_a_link_in_the_target_leads_nowhere(self, taskfs: Command, task: str) -> None:
        """C-22: A link in the target directory is refused by name and not followed."""
        target = taskfs.cwd / "inductiva_output" / task
        target.mkdir(parents=True)
        elsewhere = taskfs.cwd / "elsewhere"
        elsewhere.mkdir()
        (target / "vtk").symlink_to(elsewhere)
        (target / "stdout.txt").symlink_to(elsewhere / "stdout.txt")

        done = taskfs("download", task)

        assert done.returncode == 1
        assert "'vtk' is a link or a file" in done.stderr
        assert os.listdir(elsewhere) == []
        (target / "vtk").unlink()
        assert taskfs("download", task).returncode == 0
        assert tree(target) == OUTPUTS
        assert os.listdir(elsewhere) == []

    def test_too_little_room(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-22: Too little room on the disk is named before the transfer."""
        task = cloud.add_task()
        cloud.put_object(f"{task}/output.zip", _archive_that_claims(1 << 50))
        done = taskfs("download", task)
        assert done.returncode == 1
        assert "1.13 PB are needed in" in done.stderr and "--filenames" in done.stderr
        assert not (taskfs.cwd / "inductiva_output").exists()


def _archive_that_claims(size: int) -> bytes:
    """Return an archive whose directory claims a size that its data does not have."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("artifacts/huge", b"little")
        archive.filelist[0].file_size = size
    return buffer.getvalue()


class TestResuming:
    SIZE = 48 << 20

    def interrupted(self, taskfs: Command, cloud: FakeCloud, task: str) -> int:
        """Interrupt a download of the task; return how many bytes of its archive are kept."""
        target = taskfs.cwd / "inductiva_output" / task
        # However late the interrupt comes, the file is not complete.
        cloud.faults.add(
            "stall", side="store", times=None, match=lambda record: begin_of(record) > 24 << 20
        )
        process = taskfs.start("download", task)
        eventually(lambda: kept(target) > 12 << 20)
        interrupt(process)
        process.communicate(timeout=30)
        assert process.returncode == 130
        assert not (target / "large.bin").exists()
        assert not list(target.glob(".*.part"))
        cloud.faults.clear()
        cloud.clear_requests()
        return kept(target)

    @pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    def test_an_interrupted_large_file_continues(
        self, taskfs: Command, cloud: FakeCloud, method: int
    ) -> None:
        """C-39: An interrupted download of a large file continues where it stopped."""
        task, content = large_task(cloud, self.SIZE, method)
        got = self.interrupted(taskfs, cloud, task)

        done = taskfs("download", task)

        assert (done.returncode, done.stderr) == (0, "")
        target = taskfs.cwd / "inductiva_output" / task
        assert sorted(os.listdir(target)) == ["large.bin", "small.txt"]
        assert_same((target / "large.bin").read_bytes(), content)
        assert store_bytes(cloud) < self.SIZE - got + (6 << 20)

    @pytest.mark.mount
    def test_without_room_for_both_a_large_file_comes_all_the_same(
        self, taskfs: Command, cloud: FakeCloud
    ) -> None:
        """C-39: Where the disk has no room for both, nothing is kept beside the file."""
        task, content = large_task(cloud, self.SIZE, zipfile.ZIP_STORED)
        target = taskfs.cwd / "small"
        target.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", target], check=True)
        try:
            done = taskfs("download", task, "--output-dir", str(target))
            assert (done.returncode, done.stderr) == (0, "")
            assert sorted(os.listdir(target)) == ["large.bin", "small.txt"]
            assert_same((target / "large.bin").read_bytes(), content)
        finally:
            subprocess.run(["umount", target], check=True)

    def test_another_version_is_not_continued(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-39, F-9: A file of another version is not continued."""
        task, _ = large_task(cloud, self.SIZE, zipfile.ZIP_STORED)
        self.interrupted(taskfs, cloud, task)
        other, content = large_task(cloud, self.SIZE, zipfile.ZIP_STORED)
        stored = cloud.get_object(f"{other}/output.zip")
        assert stored is not None
        cloud.put_object(f"{task}/output.zip", stored.source)

        done = taskfs("download", task)

        assert (done.returncode, done.stderr) == (0, "")
        target = taskfs.cwd / "inductiva_output" / task
        assert_same((target / "large.bin").read_bytes(), content)
        assert sorted(os.listdir(target)) == ["large.bin", "small.txt"]

    def test_damaged_bytes_are_fetched_again(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-39, I-7: Kept bytes are checked before they are used."""
        task, content = large_task(cloud, self.SIZE, zipfile.ZIP_DEFLATED)
        self.interrupted(taskfs, cloud, task)
        target = taskfs.cwd / "inductiva_output" / task
        for path in target.glob(".taskfs-parts/*/blocks/*/*"):
            with open(path, "r+b") as file:
                for offset in range(1 << 20, os.path.getsize(path), 1 << 20):
                    file.seek(offset)
                    file.write(b"damaged")

        done = taskfs("download", task)

        assert (done.returncode, done.stderr) == (0, "")
        assert_same((target / "large.bin").read_bytes(), content)

    def test_nothing_is_kept_of_a_damaged_file(self, taskfs: Command, cloud: FakeCloud) -> None:
        """C-39: A damaged large file leaves no compressed bytes in the target."""
        task, _ = large_task(cloud, self.SIZE, zipfile.ZIP_STORED)
        stored = cloud.get_object(f"{task}/output.zip")
        assert stored is not None
        content = bytearray(stored.source.read(0, stored.source.size))
        content[self.SIZE // 2] ^= 0xFF
        cloud.put_object(f"{task}/output.zip", bytes(content))

        done = taskfs("download", task)

        assert done.returncode == 1
        assert "CRC-32" in done.stderr
        assert list(tree(taskfs.cwd / "inductiva_output" / task)) == ["small.txt"]


def kept(target: Path) -> int:
    """Return the number of archive bytes kept for the next download."""
    files = (path for path in target.glob(".taskfs-parts/*/blocks/*/*"))
    return sum(path.stat().st_blocks * 512 for path in files)


def large_task(cloud: FakeCloud, size: int, method: int) -> tuple[str, bytes]:
    """Return a task with a large file in its archive, and the file's bytes."""
    content = os.urandom(size)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method, compresslevel=1) as archive:
        archive.writestr("artifacts/large.bin", content)
        archive.writestr("artifacts/small.txt", b"small")
    task = cloud.add_task()
    cloud.put_object(f"{task}/output.zip", buffer.getvalue())
    return task, content


def test_one_file_is_singular(taskfs: Command, cloud: FakeCloud) -> None:
    """One file is "1 file", not "1 files"."""
    task = cloud.add_task(outputs={"a": b"a"})
    with taskfs.terminal("download", task) as terminal:
        assert terminal.end() == 0
    assert "1 file (1 B) downloaded" in terminal.text
