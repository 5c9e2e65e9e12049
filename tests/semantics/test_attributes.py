"""The attributes that stat(2) reports."""

import itertools
import os
import stat
import subprocess
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from taskfs.demo.archives import (
    LAYOUTS,
    STORED,
    MemberSpec,
    Stamp,
    dos_stamp,
    extended_stamp,
    ntfs_stamp,
)
from taskfs.tree.nodes import inode, inode_base
from tests.conftest import in_process
from tests.fake_api import FakeCloud
from tests.file_systems import FileSystem, text, walk, write
from tests.mounts import Mount, eventually
from tests.zips import DOS_MTIME_S, Entry, build, file

EXECUTED = {
    "create_time": "2025-06-11T08:00:00.250000+00:00",
    "input_submit_time": "2025-06-11T08:00:03+00:00",
    "start_time": "2025-06-11T08:01:00+00:00",
    "computation_start_time": "2025-06-11T08:02:00+00:00",
    "computation_end_time": "2025-06-11T09:00:00+00:00",
    "end_time": "2025-06-11T09:00:05.500000+00:00",
}
SECOND = 10**9


def ns(name: str) -> int:
    """Return one of the times of `EXECUTED` in nanoseconds."""
    return round(datetime.fromisoformat(EXECUTED[name]).timestamp() * 1000) * 10**6


def executed(until: str) -> dict[str, str | None]:
    """Return the times of a task that came as far as *until*."""
    names = list(EXECUTED)
    return {n: EXECUTED[n] if names.index(n) <= names.index(until) else None for n in names}


def stored(fs: FileSystem, task: str, members: list[MemberSpec], stamp: Stamp, layout: str) -> None:
    source = LAYOUTS[layout](members, stamp)
    fs.cloud.put_object(f"{task}/output.zip", bytes(source.read(0, source.size)))


def all_paths(fs: FileSystem, task: str) -> list[str]:
    """Return every path of a task, the unlisted ones too."""
    paths = [task, f"{task}/output.zip", f"{task}/input.zip"]
    for name in fs.names(task):
        paths.append(f"{task}/{name}")
        if name in ("outputs", "inputs"):
            below = [f"{task}/{name}/{file}" for file in walk(fs, f"{task}/{name}")]
            paths += below + sorted({path.rpartition("/")[0] for path in below})
    return list(dict.fromkeys(paths))


def test_modes(fs: FileSystem) -> None:
    """A-1, A-4: Directories are 0755 and files 0644."""
    task = fs.cloud.add_task(outputs={"a/b": b"x"}, inputs={"c": b"y"})
    for path in ("", ".taskfs", ".by-status", ".by-status/success", task, f"{task}/outputs/a"):
        assert fs.stat(path).st_mode == stat.S_IFDIR | 0o755
    files = [f"{task}/{name}" for name in fs.names(task) if not name.endswith("puts")]
    for path in (*files, f"{task}/outputs/a/b", f"{task}/output.zip", ".taskfs/refresh"):
        assert fs.stat(path).st_mode == stat.S_IFREG | 0o644, path
    eventually(lambda: task in fs.names())
    assert stat.S_ISLNK(fs.stat(f".by-status/success/{task}").st_mode)
    assert stat.S_ISLNK(fs.stat(".latest").st_mode)


@pytest.mark.mount
def test_owner_links_and_options(shared_mnt: Path, shared_cloud: FakeCloud) -> None:
    """A-2, A-3, A-6: The mounting user owns all, the kernel checks permissions, and `st_nlink` is
    1."""
    task = shared_cloud.add_task(outputs={"a/b": b"x"})
    for path in (shared_mnt, shared_mnt / task, shared_mnt / task / "outputs/a"):
        reported = os.stat(path)
        assert (reported.st_uid, reported.st_gid) == (os.getuid(), os.getgid())
        directories = sum(entry.is_dir(follow_symlinks=False) for entry in os.scandir(path))
        assert reported.st_nlink in (1, directories + 2)
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    line = next(line for line in mounts if str(shared_mnt) in line)
    assert "default_permissions" in line
    assert " fuse.taskfs taskfs " in line
    assert {"nosuid", "nodev"} <= set(line.split()[5].split(","))
    assert "allow_other" not in line


@pytest.mark.mount
def test_umask_uid_and_gid(new_mount: Callable[..., Mount], cloud: FakeCloud) -> None:
    """A-1, A-2: `--umask`, `--uid` and `--gid` apply."""
    task = cloud.add_task(outputs={"a/b": b"x"})
    mountpoint = new_mount(umask="027", uid="1234", gid="2345").path
    for name, mode in (("", 0o750), ("outputs/a", 0o750), ("outputs/a/b", 0o640), ("kill", 0o640)):
        reported = os.stat(mountpoint / task / name)
        assert stat.S_IMODE(reported.st_mode) == mode
        assert (reported.st_uid, reported.st_gid) == (1234, 2345)


def test_members_that_the_archive_calls_executable_are_0755(fs: FileSystem) -> None:
    """A-1, A-23: A regular member with the owner's execute bit is 0755; set-uid is never shown."""
    shown = {
        "run.sh": (0o100755, 0o755),
        "mine": (0o100700, 0o755),
        "untyped": (0o000755, 0o755),
        "setuid": (0o106755, 0o755),
        "data": (0o100600, 0o644),
        "sticky": (0o107666, 0o644),
        "others": (0o100655, 0o644),
        "link": (0o120777, 0o644),
    }
    entries = [file(name, b"x", mode=mode) for name, (mode, _) in shown.items()]
    entries.append(file("windows", b"x", host=0, mode=0o100755))
    task = fs.cloud.add_task()
    fs.cloud.put_object(f"{task}/output.zip", build(entries))
    for name, expected in [("windows", 0o644), *((name, shown[name][1]) for name in shown)]:
        assert fs.stat(f"{task}/outputs/{name}").st_mode == stat.S_IFREG | expected, name


@pytest.mark.mount
def test_a_program_of_an_archive_runs(new_mount: Callable[..., Mount], cloud: FakeCloud) -> None:
    """A-23: A program in an archive can be executed."""
    task = cloud.add_task()
    script = file("run.sh", b"#!/bin/sh\necho it runs\n", mode=0o100755)
    cloud.put_object(f"{task}/output.zip", build([script]))
    path = new_mount().path / task / "outputs/run.sh"
    assert subprocess.run([path], capture_output=True, check=True).stdout == b"it runs\n"


@pytest.mark.mount
def test_file_mode_and_dir_mode(new_mount: Callable[..., Mount], cloud: FakeCloud) -> None:
    """A-24: `--file-mode` and `--dir-mode` are the permission bits of all files and directories,
    less the umask."""
    task = cloud.add_task()
    entries = [file("a/b", b"x"), file("a/run.sh", b"x", mode=0o100755)]
    cloud.put_object(f"{task}/output.zip", build(entries))
    by_flag = new_mount(file_mode="0444", dir_mode="0555").path
    less_umask = new_mount(file_mode="640", dir_mode="750", umask="010").path
    for name, flag_mode, less_mode in (
        ("", 0o555, 0o740),
        ("outputs/a", 0o555, 0o740),
        ("outputs/a/b", 0o444, 0o640),
        ("outputs/a/run.sh", 0o444, 0o640),
        ("status", 0o444, 0o640),
    ):
        assert stat.S_IMODE(os.stat(by_flag / task / name).st_mode) == flag_mode, name
        assert stat.S_IMODE(os.stat(less_umask / task / name).st_mode) == less_mode, name


def test_a_tasks_directory_has_the_time_of_its_last_change(fs: FileSystem) -> None:
    """A-7: A task directory's mtime is its last change, its ctime the creation."""
    for status, until, latest in (
        ("success", "end_time", "end_time"),
        ("computation-started", "computation_start_time", "start_time"),
        ("started", "start_time", "start_time"),
        ("submitted", "input_submit_time", "create_time"),
    ):
        task = fs.cloud.add_task(status=status, **executed(until))  # type: ignore[arg-type]
        assert fs.stat(task).st_mtime_ns == ns(latest), status
        assert fs.stat(task).st_ctime_ns == ns("create_time"), status


def test_a_text_files_mtime_is_when_its_content_changed(fs: FileSystem) -> None:
    """A-9: A text file's mtime is the time of its last change."""
    over = fs.cloud.add_task(**executed("end_time"))  # type: ignore[arg-type]
    for name, moment in (
        ("status", "end_time"),
        ("machine_type", "start_time"),
        ("computation_time", "computation_end_time"),
        ("error", "end_time"),
        ("info.json", "end_time"),
        ("output_files_info", "end_time"),
    ):
        assert fs.stat(f"{over}/{name}").st_mtime_ns == ns(moment), name
    for status, moment in (
        ("pending-input", "create_time"),
        ("submitted", "input_submit_time"),
        ("started", "start_time"),
        ("computation-started", "computation_start_time"),
        ("computation-ended", "computation_end_time"),
    ):
        task = fs.cloud.add_task(status=status, **executed(moment))  # type: ignore[arg-type]
        assert fs.stat(f"{task}/status").st_mtime_ns == ns(moment), status


def test_the_computation_time_of_a_running_task_changes_now(fs: FileSystem) -> None:
    """A-9: The mtime of a running task's `computation_time` is now."""
    running = executed("computation_start_time")
    task = fs.cloud.add_task(status="computation-started", **running)  # type: ignore[arg-type]
    before = time.time_ns()
    reported = fs.stat(f"{task}/computation_time").st_mtime_ns
    assert before - 2 * SECOND < reported <= time.time_ns()
    waiting = fs.cloud.add_task(status="submitted", **executed("create_time"))  # type: ignore[arg-type]
    assert fs.stat(f"{waiting}/computation_time").st_mtime_ns == ns("create_time")


def test_changes_that_the_record_does_not_date_are_dated_by_the_mount(
    fs: FileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A-9: A change without a date in the record has the time when this mount saw it."""
    monkeypatch.setattr("taskfs.demo.account.KILL_DURATION_S", 3600.0)
    task = fs.cloud.add_task(status="started", **executed("start_time"))  # type: ignore[arg-type]
    before = {name: fs.stat(f"{task}/{name}").st_mtime_ns for name in fs.names(task)}
    began = time.time_ns()
    write(fs, f"{task}/kill")
    assert text(fs, f"{task}/status") == "pending-kill\n"
    eventually(lambda: began - SECOND < fs.stat(f"{task}/status").st_mtime_ns <= time.time_ns())
    eventually(lambda: fs.stat(f"{task}/info.json").st_mtime_ns > began - SECOND)
    for name in ("machine_type", "error", "kill", "outputs"):
        assert fs.stat(f"{task}/{name}").st_mtime_ns == before[name], name


def test_an_error_that_changes_after_the_end_is_dated_by_the_mount(fs: FileSystem) -> None:
    """A-9: The time of `error` after the end is that of a change of its text, and no other."""
    task = fs.cloud.add_task(status="failed", **executed("end_time"))  # type: ignore[arg-type]
    assert fs.stat(f"{task}/error").st_mtime_ns == ns("end_time")
    began = time.time_ns()
    fs.cloud.update_task(task, num_retries=1)
    eventually(lambda: fs.stat(f"{task}/info.json").st_mtime_ns > began - SECOND)
    assert fs.stat(f"{task}/error").st_mtime_ns == ns("end_time")
    fs.cloud.update_task(task, error_detail="the disk was full")
    eventually(lambda: text(fs, f"{task}/error") == "the disk was full\n")
    eventually(lambda: began - SECOND < fs.stat(f"{task}/error").st_mtime_ns <= time.time_ns())


def test_nothing_else_moves_an_mtime(fs: FileSystem) -> None:
    """A-11: Reads, refreshes and kills of other tasks move no mtime."""
    over = fs.cloud.add_task(outputs={"a/b": b"x"}, inputs={"c/d": b"y"})
    waiting = fs.cloud.add_task(status="submitted", inputs={"c": b"y"})
    paths = all_paths(fs, over) + [f"{waiting}/{name}" for name in fs.names(waiting)]
    before = {path: fs.stat(path) for path in paths if not path.endswith(f"{waiting}/output.zip")}
    for path in paths:
        if not stat.S_ISDIR(before[path].st_mode):
            fs.read(path)
    fs.cloud.add_task(status="started")
    time.sleep(0.6)  # attributes, statuses and listing are old now
    for path, reported in before.items():
        now = fs.stat(path)
        assert (now.st_mtime_ns, now.st_ctime_ns) == (reported.st_mtime_ns, reported.st_ctime_ns), (
            path
        )
        assert (now.st_size, now.st_ino, now.st_mode) == (
            reported.st_size,
            reported.st_ino,
            reported.st_mode,
        )


MOMENT = 1_749_643_821.987654  # an odd second


@pytest.mark.parametrize(
    ("stamp", "layout", "reported"),
    [
        (extended_stamp, "streamed", 1_749_643_821 * SECOND),
        (extended_stamp, "zip64", 1_749_643_821 * SECOND),
        (ntfs_stamp, "streamed", 1_749_643_821_987_654_000),
        (dos_stamp, "plain", 1_749_643_820 * SECOND),
        (
            lambda mtime: (b"", ntfs_stamp(mtime + 100)[1] + extended_stamp(mtime)[1]),
            "streamed",
            1_749_643_821 * SECOND,
        ),
    ],
)
def test_members_carry_the_archives_times(
    fs: FileSystem, stamp: Stamp, layout: str, reported: int
) -> None:
    """A-8: Members carry the extended timestamp (0x5455), else the NTFS time (0x000a), else the DOS
    time as UTC."""
    task = fs.cloud.add_task()
    stored(fs, task, [MemberSpec("artifacts/x", b"x", MOMENT)], stamp, layout)
    mtime_ns = fs.stat(f"{task}/outputs/x").st_mtime_ns
    assert abs(mtime_ns - reported) < 1000  # the test's time is a float


def test_times_before_1970_and_without_a_date(fs: FileSystem) -> None:
    """A-8: Times before 1970, and members without a date, are shown."""
    task = fs.cloud.add_task()
    early = b"UT\x05\x00\x01" + (-86_400).to_bytes(4, "little", signed=True)
    members = [Entry(b"artifacts/early", extra=early), Entry(b"artifacts/dos")]
    fs.cloud.put_object(f"{task}/output.zip", build(members))
    assert fs.stat(f"{task}/outputs/early").st_mtime_ns == -86_400 * SECOND
    assert fs.stat(f"{task}/outputs/dos").st_mtime_ns == DOS_MTIME_S * SECOND


def test_directories_have_the_newest_time_beneath_them(fs: FileSystem) -> None:
    """A-10: Directories without an entry carry the newest time beneath them, else the task's."""
    task = fs.cloud.add_task(inputs=None, **executed("end_time"))  # type: ignore[arg-type]
    members = [
        MemberSpec("artifacts/a/old", b"x", 1_700_000_000),
        MemberSpec("artifacts/a/b/new", b"x", 1_700_000_500),
        MemberSpec("artifacts/own/", b"", 1_600_000_000),
        MemberSpec("artifacts/own/newer", b"x", 1_700_000_400),
        MemberSpec("artifacts/top", b"x", 1_700_000_300),
        MemberSpec("meta.json", b"x", 1_800_000_000),
    ]
    stored(fs, task, members, extended_stamp, "streamed")
    reported = {
        path: fs.stat(f"{task}/outputs/{path}").st_mtime_ns // SECOND - 1_700_000_000
        for path in ("", "a", "a/b", "a/old", "own", "own/newer")
    }
    assert reported == {
        "": 500,
        "a": 500,
        "a/b": 500,
        "a/old": 0,
        "own": -100_000_000,
        "own/newer": 400,
    }
    assert fs.stat(f"{task}/inputs").st_mtime_ns == ns("end_time")
    unfinished = fs.cloud.add_task(status="started", **executed("start_time"))  # type: ignore[arg-type]
    assert fs.stat(f"{unfinished}/outputs").st_mtime_ns == ns("start_time")


@pytest.mark.parametrize("status", ["success", "failed", "computation-started", "submitted"])
def test_st_size_is_exact_for_every_file(fs: FileSystem, status: str) -> None:
    """A-12: `st_size` equals the bytes read, for every file."""
    outputs = {"a": b"x" * 5000, "b/empty": b""} if status == "success" else None
    task = fs.cloud.add_task(
        status=status, error_detail="größer", inputs={"c": b"y"}, outputs=outputs
    )
    fs.cloud.update_task(task, project="π", executer={"vm_type": "größe", "error_detail": "é"})
    if status == "failed":
        fs.cloud.put_object(f"{task}/output.zip", build([Entry(b"artifacts/x")]))
    for path in all_paths(fs, task):
        try:
            reported = fs.stat(path)
        except FileNotFoundError:
            assert path.endswith("output.zip")
            continue
        if stat.S_ISREG(reported.st_mode):
            assert len(fs.read(path)) == reported.st_size, path
    assert fs.stat(f"{task}/kill").st_size == 0
    link = f".by-project/π/{task}"
    eventually(lambda: "π" in fs.names(".by-project") and task in fs.names(".by-project/π"))
    assert fs.stat(link).st_size == len(fs.target(link))


def test_st_blocks_is_the_compressed_size(fs: FileSystem) -> None:
    """A-14: `st_blocks` is the compressed size in units of 512 bytes, rounded up, at least 1 where
    there is a byte."""
    task = fs.cloud.add_task()
    members = [
        Entry(b"artifacts/none", b"", STORED),
        Entry(b"artifacts/one", b"x", STORED),
        Entry(b"artifacts/512", b"x" * 512, STORED),
        Entry(b"artifacts/513", b"x" * 513, STORED),
        Entry(b"artifacts/million", bytes(1_000_000)),
    ]
    fs.cloud.put_object(f"{task}/output.zip", build(members))
    reported = {
        name: fs.stat(f"{task}/outputs/{name}").st_blocks for name in fs.names(f"{task}/outputs")
    }
    compressed = int(fs.xattr(f"{task}/outputs/million", "user.taskfs.compressed_size"))
    assert 0 < compressed < 5000
    assert reported == {"none": 0, "one": 1, "512": 1, "513": 2, "million": -(-compressed // 512)}


def test_inode_numbers_are_stable_across_mounts(
    new_fs: Callable[..., FileSystem], cloud: FakeCloud, tmp_path: Path
) -> None:
    """A-15: A second mount has the same inode numbers."""
    task = cloud.add_task(project="p", outputs={"a/b": b"x", "a/c": b"x"}, inputs={"c/d": b"y"})
    fs = new_fs()
    views = [".by-project", ".by-project/p", f".by-project/p/{task}", ".latest"]
    paths = [*all_paths(fs, task), *views, ".taskfs", ".taskfs/version"]
    reported = {path: fs.stat(path).st_ino for path in paths}
    assert 0 not in reported.values()
    assert len(set(reported.values())) == len(paths)
    with in_process(cloud, tmp_path / "other", {}) as other:
        assert {path: other.stat(path).st_ino for path in paths} == reported


def test_inode_numbers_are_exact_as_doubles(fs: FileSystem) -> None:
    """A-22, A-15: Inode numbers are below 2^53 and different."""
    outputs = {f"{folder}/{number}": b"x" for folder in ("a", "b") for number in range(12)}
    task = fs.cloud.add_task(outputs=outputs, inputs={"c": b"x"}, **EXECUTED)
    paths = [
        *("", ".by-status", ".by-status/success"),
        *(".taskfs", ".taskfs/stats.json", ".taskfs/refresh", task, f"{task}/outputs"),
        *(f"{task}/{name}" for name in ("status", "kill", "info.json", "output.zip", "inputs")),
        *(f"{task}/outputs/{name}" for name in ("a", "b", *outputs)),
        f"{task}/inputs/c",
    ]
    numbers = [fs.stat(path).st_ino for path in paths]
    assert all(0 < number < 1 << 53 for number in numbers)
    assert len({float(number) for number in numbers}) == len(numbers)


def test_numbers_of_many_archives_do_not_meet() -> None:
    """A-22: The numbers of 20,000 archives of 5,000 files each differ."""
    bases = sorted(inode_base(f"task{number}/outputs") for number in range(20_000))
    assert bases[-1] + (1 << 20) <= 1 << 53
    assert min(b - a for a, b in itertools.pairwise(bases)) > 5000
    numbers = {inode(f"task{number}/status") for number in range(200_000)}
    assert len(numbers) == 200_000
    assert 0 < min(numbers) < max(numbers) < 1 << 53


@pytest.mark.mount
def test_listings_tell_the_same_inodes_and_types(shared_mnt: Path, shared_cloud: FakeCloud) -> None:
    """A-15: readdir reports the inode numbers and types that stat does."""
    task = shared_cloud.add_task(outputs={"a/b": b"x"})
    eventually(lambda: task in os.listdir(shared_mnt))
    for directory in (shared_mnt, shared_mnt / task, shared_mnt / task / "outputs"):
        for entry in os.scandir(directory):
            reported = os.lstat(entry.path)
            assert entry.inode() == reported.st_ino
            assert entry.is_dir(follow_symlinks=False) == stat.S_ISDIR(reported.st_mode)
            assert entry.is_symlink() == stat.S_ISLNK(reported.st_mode)


@pytest.mark.mount
def test_df_answers_without_the_network(mnt: Path, cloud: FakeCloud) -> None:
    """A-21: `df` answers without the network and shows free space."""
    cloud.pause()
    cloud.clear_requests()
    reported = os.statvfs(mnt)
    assert reported.f_bavail * reported.f_frsize > 10**12
    assert reported.f_bavail / reported.f_blocks > 0.1
    assert reported.f_favail > 10**6
    assert reported.f_namemax == 255
    assert cloud.requests == []
    done = subprocess.run(["df", "-P", mnt], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0
    assert int(done.stdout.splitlines()[1].split()[4].rstrip("%")) < 90


def test_a_stat_pins_the_text_whose_size_it_reported(
    new_fs: Callable[..., FileSystem], cloud: FakeCloud
) -> None:
    """T-10: An `open` within the attribute timeout serves the text whose size a `stat` reported."""
    fs = new_fs(status_cache_time="0s", attr_timeout="3s")
    is_in_time = False
    while not is_in_time:  # a busy machine may take longer than the timeout
        task = cloud.add_task(status="started")
        began = time.monotonic()
        assert fs.stat(f"{task}/status").st_size == len("started\n")
        cloud.set_status(task, "computation-started")
        shown = text(fs, f"{task}/status")
        is_in_time = time.monotonic() - began < 3
    assert shown == "started\n"
    time.sleep(3.3)
    assert text(fs, f"{task}/status") == "computation-started\n"
    assert fs.stat(f"{task}/status").st_size == len("computation-started\n")


def test_what_is_open_stays_what_it_was(
    new_fs: Callable[..., FileSystem], cloud: FakeCloud
) -> None:
    """T-9: An open text file stays the snapshot of its open."""
    task = cloud.add_task(status="started")
    fs = new_fs(status_cache_time="0s", attr_timeout="0s")
    with fs.open(f"{task}/status") as opened:
        assert opened.read_at(0, 3) == b"sta"
        cloud.set_status(task, "computation-started")
        time.sleep(0.2)
        assert fs.stat(f"{task}/status").st_size == len("computation-started\n")
        assert opened.read_at(3, 100) == b"rted\n"
        assert opened.read_at(0, 100) == b"started\n"
        assert opened.read_at(8, 100) == b""
    assert text(fs, f"{task}/status") == "computation-started\n"
