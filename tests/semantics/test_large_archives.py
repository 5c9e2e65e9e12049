"""Archives with very many members: fetched, rendered and kept bytes are counted."""

import contextlib
import errno
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from taskfs.archive import listing
from taskfs.archive.index import Members
from taskfs.cache.block import BLOCK
from taskfs.demo.sources import FileSource
from taskfs.support.formatting import format_size
from taskfs.support.wait_hook import call_before_waits
from taskfs.tasks.cached_tasks import size_on_disk
from tests.caches import TreeFactory, archive_requests, cached_files, disk_use, small_disk
from tests.fake_api import FakeCloud
from tests.file_systems import text
from tests.fork_server import COMMAND
from tests.generated_archive import BODY, FIELDS, GeneratedArchive
from tests.generated_archive import name_of as generated_name
from tests.large_archives import OversizedArchive, add_large_task, body_of, name_of, write_archive
from tests.mounts import Taskfs, eventually
from tests.outputs import LONG_AGO
from tests.peaks import TRIES, peak_bytes

MEMBERS: Final = 30_000
MILLIONS: Final = 5_000_000
PIECE: Final = 4 << 20  # of a directory, for one request


@pytest.fixture
def task(cloud: FakeCloud, tmp_path: Path) -> str:
    return add_large_task(cloud, tmp_path / "large.zip", MEMBERS)


def test_ls_l_of_a_task_costs_the_directory_alone(
    open_tree: TreeFactory,
    cloud: FakeCloud,
    task: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """R-28, A-13: `ls -l ID` costs one signed URL, the end of the archive and its directory, and
    renders no line; a second one costs nothing."""
    rendered = 0

    def count(member: object) -> bytes:
        nonlocal rendered
        rendered += 1
        return b""

    monkeypatch.setattr(listing, "render_line", count)
    with open_tree() as fs:
        fs.names()
        directory = write_archive(tmp_path / "again.zip", MEMBERS)

        def ls() -> None:
            cloud.clear_requests()
            sizes = {name: fs.stat(f"{task}/{name}").st_size for name in fs.names(task)}
            assert sizes["output_files_info"] > MEMBERS * 30

        ls()
        ranges = [each for each in cloud.requests if each.path.endswith(f"{task}/output.zip")]
        assert len(ranges) <= 2
        assert directory <= sum(each.bytes_sent for each in ranges) < 1.2 * directory
        ls()
        assert not archive_requests(cloud)
        assert not rendered


def test_the_table_is_kept_by_no_stat(open_tree: TreeFactory, task: str, cache: Path) -> None:
    """R-28: The table of a large archive takes no memory: what a read returns is made for it."""

    def takes_little() -> bool:
        with open_tree() as fs:
            fs.names(f"{task}/outputs")
            size = fs.stat(f"{task}/output_files_info").st_size

            def use() -> None:
                for _ in range(10):
                    fs.stat(f"{task}/output_files_info")
                with fs.open(f"{task}/output_files_info") as opened:
                    assert name_of(MEMBERS - 1).encode() in opened.read_at(size - 100, 100)

            return peak_bytes(use) < size // 4

    assert any(takes_little() for _ in range(TRIES))
    (index,) = cached_files(cache, "index")
    assert index.stat().st_size > 1 << 20


def test_a_listing_makes_no_member(
    open_tree: TreeFactory, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-20: A walk over names and attributes makes no object of a member."""
    with open_tree() as fs:
        fs.names(f"{task}/outputs")
        monkeypatch.setattr(Members, "__getitem__", None)
        monkeypatch.setattr("taskfs.archive.index.parse_entry", None)
        monkeypatch.setattr("taskfs.archive.directory_parser.read_member", None)
        listed = fs.operations.readdir(f"/{task}/outputs/processor0/7")
        pairs = list(listed.attributed(0))
        assert [entry.name for entry, _ in pairs] == [f"field{n:03}" for n in range(100)]
        sizes = [attrs.size for _, attrs in pairs if attrs is not None]
        assert sizes == [len(body_of(number)) for number in range(700, 800)]


def test_what_is_in_memory_needs_no_wait(open_tree: TreeFactory, task: str) -> None:
    """R-40: Names, attributes, listings and small files that are in memory are answered without a
    wait, so another thread is not woken for them; the first read of a file waits for the store."""
    waits: list[str] = []
    with open_tree() as fs:
        folder = f"{task}/outputs/processor0/7"
        fs.names(folder)
        call_before_waits(lambda: waits.append("a wait"))
        try:
            body = fs.read(f"{folder}/field007")
            assert waits
            waits.clear()
            assert fs.read(f"{folder}/field007") == body == body_of(707)
            assert len(fs.names(folder)) == FIELDS
            assert [fs.stat(f"{folder}/field{n:03}").st_size for n in range(FIELDS)] == [4] * FIELDS
            with pytest.raises(FileNotFoundError):
                fs.stat(f"{folder}/none")
            assert not waits
        finally:
            call_before_waits(lambda: None)


def test_a_batch_begins_anywhere(open_tree: TreeFactory, task: str) -> None:
    """R-11: A listing that goes on from any entry has the entries and attributes of the whole."""
    with open_tree() as fs:
        fs.names(f"{task}/outputs")
        top = f"/{task}/outputs/processor0"
        whole = list(fs.operations.readdir(top).attributed(0))
        assert len(whole) == MEMBERS // 100
        listing = fs.operations.readdir(top)
        for start in (0, 1, 255, 256, 257, 299, 300, 5, 290):
            assert list(listing.attributed(start)) == whole[start:]
        entry, attrs = whole[120]
        assert attrs == fs.operations.getattr(f"{top}/{entry.name}")


# Runs a command and prints the most memory (RSS) that it had, in KiB. A process keeps the figure of
# the program that it ran before, which must be a small one and not that of the tests.
MEASURE: Final = """
import os, sys
pid = os.fork() or os.execv(sys.argv[1], sys.argv[1:])
_, status, usage = os.wait4(pid, 0)
print(usage.ru_maxrss, file=sys.stderr)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def run_measured(home: Path, cloud: FakeCloud, *arguments: str) -> tuple[str, int]:
    """Run a command; return its output and the most memory (RSS) that it had, in bytes."""
    words = [sys.executable, "-S", "-c", MEASURE, *COMMAND, *arguments]
    environment = Taskfs(home, cloud).environment
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    return done.stdout, int(done.stderr) << 10


@pytest.mark.parametrize("place", ["the cache", "no cache", "a full disk"])
def test_the_memory_of_a_build(cloud: FakeCloud, tmp_path: Path, place: str) -> None:
    """R-27: Building the index of a large archive takes little memory, also where the index is a
    temporary file: without a cache, and with one on a disk that has no room for it."""
    few, many = 100, 400_000
    cache, tasks = tmp_path / "cache", []
    for members in (few, many):
        tasks.append(cloud.add_task(end_time=LONG_AGO, metrics={"output_total_files": members}))
        cloud.put_object(f"{tasks[-1]}/output.zip", GeneratedArchive(members))
    size = "0" if place == "no cache" else "1G"
    words = ["ls", "--cache-dir", str(cache), "--cache-size", size]
    disk = small_disk(cache, 32 << 20) if place == "a full disk" else contextlib.nullcontext()
    with disk:
        _, least = run_measured(tmp_path, cloud, *words, f"{tasks[0]}/outputs")
        shown, most = run_measured(tmp_path, cloud, *words, f"{tasks[1]}/outputs")
        assert len(shown.split()) == many // FIELDS
        assert most - least < (16 << 20) + 8 * many
        assert (len(cached_files(cache, "index")) == 2) is (place == "the cache")


@pytest.mark.timeout(600)
def test_five_million_members(cloud: FakeCloud, tmp_path: Path) -> None:
    """R-21, R-27, R-1: An archive of five million members is shown: its directory costs one request
    for each 4 MiB, and building its index 16 MiB and 8 bytes of memory for each member. Later
    commands request only bytes of files from the store."""
    archive = GeneratedArchive(MILLIONS)
    task = cloud.add_task(end_time=LONG_AGO, metrics={"output_total_files": MILLIONS})
    cloud.put_object(f"{task}/output.zip", archive)
    _, least = run_measured(tmp_path, cloud, "ls", task)
    shown, most = run_measured(tmp_path, cloud, "ls", f"{task}/outputs")
    assert shown.split() == [f"d{number:05}" for number in range(MILLIONS // FIELDS)]
    assert most - least < (16 << 20) + 8 * MILLIONS
    ranges = [record for record in cloud.requests if record.path.endswith("output.zip")]
    assert len(ranges) <= -(-archive.directory // PIECE) + 1
    cloud.clear_requests()
    last = generated_name(MILLIONS - 1)
    for path in (last, generated_name(MILLIONS // 2)):
        shown, most = run_measured(tmp_path, cloud, "ls", "-l", f"{task}/outputs/{path}")
        assert shown.split()[0] == str(len(BODY))
        assert most < least + (16 << 20)
    assert not archive_requests(cloud)
    shown, _ = run_measured(tmp_path, cloud, "cat", f"{task}/outputs/{last}")
    assert shown.encode() == BODY
    shown, _ = run_measured(tmp_path, cloud, "tail", "-n1", f"{task}/output_files_info")
    assert shown.split()[-1] == last


FIND: Final = """
import sys
import fsspec
fs = fsspec.filesystem("taskfs")
print(len(fs.find(sys.argv[1])))
"""


def test_every_surface_uses_one_index(
    open_tree: TreeFactory, cloud: FakeCloud, task: str, cache: Path, tmp_path: Path
) -> None:
    """R-13, R-27, C-46: Commands, fsspec and downloads send no request for a directory that
    a mount has indexed, and `taskfs cache` shows the index as the task's."""
    with open_tree() as fs:
        fs.names(f"{task}/outputs")
    taskfs = Taskfs(tmp_path, cloud)
    taskfs.environment["TASKFS_CACHE_DIR"] = str(cache)
    cloud.clear_requests()
    shown = taskfs("ls", "-R", f"{task}/outputs").stdout.splitlines()
    names = [line for line in shown if line.startswith("field")]
    assert len(names) == MEMBERS
    words = [sys.executable, "-c", FIND, f"{task}/outputs"]
    done = subprocess.run(words, env=taskfs.environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{MEMBERS}\n"
    assert not archive_requests(cloud)
    last = MEMBERS - 1
    assert taskfs("download", task, "--filenames", name_of(last)).returncode == 0
    (target,) = (tmp_path / "inductiva_output" / task).rglob("field099")
    assert target.read_bytes() == body_of(last)
    sent = [record.bytes_sent for record in cloud.requests if record.side == "store"]
    assert sum(sent) <= 3 * BLOCK  # the end, which tells the version, and the file
    (index,) = cached_files(cache, "index")
    shown = taskfs("cache").stdout.splitlines()
    (row,) = [line for line in shown if line.startswith(task)]
    held = [path for kind in ("index", "blocks") for path in cached_files(cache, kind)]
    assert size_on_disk([index]) > 4_000_000
    assert format_size(size_on_disk(held)) in row


def test_a_download_with_the_index_of_an_older_version(
    cloud: FakeCloud, task: str, cache: Path, tmp_path: Path
) -> None:
    """R-13, F-8, I-7: A download that finds the index of a version that was replaced, or one that
    is damaged, fetches the directory again and gets the right files."""
    taskfs = Taskfs(tmp_path, cloud)
    taskfs.environment["TASKFS_CACHE_DIR"] = str(cache)
    choice = ["--filenames", "processor0/1"]

    def check(count: int) -> None:
        done = taskfs("download", task, *choice)
        assert (done.returncode, done.stderr) == (0, "")
        found = list((tmp_path / "inductiva_output" / task).rglob("field*"))
        assert len(found) == count
        assert {path.read_bytes() for path in found} <= {body_of(n) for n in range(MEMBERS + 100)}
        assert len(cached_files(cache, "index")) == 1

    check(FIELDS)
    write_archive(tmp_path / "new.zip", MEMBERS + 100)
    cloud.put_object(f"{task}/output.zip", FileSource(tmp_path / "new.zip"))
    choice = ["--filenames", "processor0/300", "--filenames", "processor0/1"]
    check(2 * FIELDS)
    (index,) = cached_files(cache, "index")
    with index.open("r+b") as file:
        file.write(bytes(1 << 20))
    choice = ["--filenames", "processor0/2"]
    check(3 * FIELDS)


def test_a_cache_too_small_for_the_index(
    open_tree: TreeFactory, cloud: FakeCloud, task: str, cache: Path
) -> None:
    """R-27, R-14: An index that is too large for the cache serves a mount from a temporary file
    without a name, and is fetched again by the next one."""
    for _ in range(2):
        cloud.clear_requests()
        with open_tree(cache_size="8M") as fs:
            assert len(fs.names(f"{task}/outputs/processor0")) == MEMBERS // 100
            assert fs.read(f"{task}/outputs/{name_of(12_345)}") == body_of(12_345)
        assert archive_requests(cloud)
        assert not cached_files(cache, "index")
        assert disk_use(cache) <= 8 << 20


def test_a_new_version_under_an_index_in_a_file(
    open_tree: TreeFactory, cloud: FakeCloud, task: str, tmp_path: Path
) -> None:
    """F-8, X-5: An archive that is replaced while its index is read from the disk cache: bytes that
    the old index locates are ESTALE, and the next look shows the names and bytes of the new one."""
    more = MEMBERS + 2 * 100
    with open_tree() as fs:
        top = f"{task}/outputs"
        assert len(fs.names(f"{top}/processor0")) == MEMBERS // 100
        with fs.open(f"{top}/{name_of(7)}") as opened:
            assert opened.read_at(0, 100) == body_of(7)
            write_archive(tmp_path / "new.zip", more)
            cloud.put_object(f"{task}/output.zip", FileSource(tmp_path / "new.zip"))
            with pytest.raises(OSError) as caught:
                fs.read(f"{top}/{name_of(20_000)}")
            assert caught.value.errno == errno.ESTALE
            assert len(fs.names(f"{top}/processor0")) == more // 100
            for number in (20_000, more - 1, 7):
                assert fs.read(f"{top}/{name_of(number)}") == body_of(number)
            with pytest.raises(OSError) as caught:
                opened.read_at(0, 100)
            assert caught.value.errno == errno.ESTALE


def test_kill_9_while_an_index_is_written(cloud: FakeCloud, cache: Path, tmp_path: Path) -> None:
    """R-16: A command that is killed while it writes an index leaves a part that is never read, and
    that `taskfs cache --clear` removes; the next command fetches the directory again."""
    members = 200_000
    task = cloud.add_task(end_time=LONG_AGO, metrics={"output_total_files": members})
    cloud.put_object(f"{task}/output.zip", GeneratedArchive(members))
    taskfs = Taskfs(tmp_path, cloud)
    taskfs.environment["TASKFS_CACHE_DIR"] = str(cache)
    cloud.faults.add("stall", side="store", skip=3)  # the tail and two pieces arrive
    first = subprocess.Popen([*COMMAND, "ls", f"{task}/outputs"], env=taskfs.environment)
    eventually(lambda: any(path.stat().st_size > PIECE for path in cached_files(cache, "index")))
    first.kill()
    first.wait()
    cloud.faults.clear()
    (part,) = cached_files(cache, "index")
    done = taskfs("ls", f"{task}/outputs")
    assert done.stdout.split() == [f"d{number:05}" for number in range(members // FIELDS)]
    assert len(cached_files(cache, "index")) == 2
    cloud.clear_requests()
    assert taskfs("ls", f"{task}/outputs/d00099").stdout.split()[-1] == "f99"
    assert not archive_requests(cloud)
    assert taskfs("cache", "--clear").returncode == 0
    assert not part.exists() and not cached_files(cache, "index")


def test_a_directory_beyond_the_limit(open_tree: TreeFactory, cloud: FakeCloud) -> None:
    """R-21, X-6, T-12: An archive beyond the limits is EOPNOTSUPP at once, and its text says why;
    the rest of the task is shown."""
    task = cloud.add_task(end_time=LONG_AGO)
    cloud.put_object(f"{task}/output.zip", OversizedArchive())
    with open_tree() as fs:
        with pytest.raises(OSError) as caught:
            fs.names(f"{task}/outputs")
        assert caught.value.errno == errno.EOPNOTSUPP
        lines = text(fs, f"{task}/output_files_info").splitlines()
        assert len(lines) == 2 and "directory is larger than 1024 MiB" in lines[1]
        assert text(fs, f"{task}/status") == "success\n"
    sent = sum(record.bytes_sent for record in cloud.requests if record.side == "store")
    assert sent < 1 << 20
