"""Everyday tools over a mounted task."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.fake_api import FakeCloud
from tests.file_systems import assert_same
from tests.mounts import Mount
from tests.outputs import LONG_AGO

pytestmark = pytest.mark.mount

OUTPUTS: Final = {
    "stdout.txt": b"".join(b"%04d line\n" % number for number in range(3000, 0, -1)),
    "stderr.txt": b"",
    "log/run.log": b"all is well\nneedle in here\n" * 50,
    "vtk/deep/noise.vtk": os.urandom(300_000),
    "vtk/zeros.bin": bytes(2_000_000),
    "name with spaces and 'quotes'": b"quoted\n",
}
INPUTS: Final = {"case.json": b'{"a": 1}\n', "mesh/m.obj": b"v 1 2 3\n" * 1000}
TEXTS: Final = ("status", "machine_type", "computation_time", "output_files_info", "info.json")


def run(*command: str | Path, cwd: Path | None = None, status: int = 0, stdin: str = "") -> str:
    """Return what a command prints; fail where it does not end as it should, or complains."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        input=stdin.encode(),
        capture_output=True,
        timeout=60,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
    )
    error = done.stderr.decode(errors="replace")
    assert done.returncode == status, error
    if not status:
        assert error == ""
    return done.stdout.decode(errors="replace") + (error if status else "")


def sh(line: str, cwd: Path, status: int = 0) -> str:
    return run("bash", "-c", line, cwd=cwd, status=status)


def finished(cloud: FakeCloud) -> str:
    return cloud.add_task(outputs=OUTPUTS, inputs=INPUTS, end_time=LONG_AGO)


def kills(cloud: FakeCloud, task: str) -> list[str]:
    return [r.path for r in cloud.requests if r.path == f"/tasks/{task}/kill"]


def check_copy(copy: Path, original: Path) -> None:
    """Fail unless *copy* is what the mount shows: names, bytes, times of files."""
    for top, files in (("outputs", OUTPUTS), ("inputs", INPUTS)):
        below = [path for path in (copy / top).rglob("*") if path.is_file()]
        assert {str(path.relative_to(copy / top)) for path in below} == set(files)
        for name, content in files.items():
            assert_same((copy / top / name).read_bytes(), content)
    for name in TEXTS:
        assert (copy / name).read_bytes() == (original / name).read_bytes()
    assert (copy / "status").read_text() == "success\n"
    assert (copy / "kill").read_bytes() == b""


def test_readers_of_text(shared_mnt: Path, shared_cloud: FakeCloud) -> None:
    """S-7: cat, head, tail, less, sort, dd and Python read the same text."""
    task = shared_mnt / finished(shared_cloud)
    out = OUTPUTS["stdout.txt"].decode()
    lines = out.splitlines(keepends=True)
    stdout = task / "outputs/stdout.txt"
    assert run("cat", stdout) == out
    assert run("head", "-n", "3", stdout) == "".join(lines[:3])
    assert run("tail", "-n", "3", stdout) == "".join(lines[-3:])
    assert run("tail", "-c", "100", stdout) == out[-100:]
    assert run("less", stdout) == out
    assert run("sort", stdout) == "".join(sorted(lines))
    assert (
        run("dd", f"if={stdout}", "bs=1000", "skip=2", "count=1", "status=none") == out[2000:3000]
    )
    assert run("tac", stdout) == "".join(lines[::-1])
    for reader in ("cat", "head", "tail", "less", "sort", "tac"):
        assert run(reader, task / "status") == "success\n"
        assert run(reader, task / "kill") == ""
    assert run("tail", "-c", "4", task / "status") == "ess\n"
    program = "import sys; print(open(sys.argv[1]).read(), end='')"
    for name in TEXTS:
        assert run(sys.executable, "-c", program, task / name) == run("cat", task / name)


def test_grep_finds_and_ends_well(shared_mnt: Path, shared_cloud: FakeCloud) -> None:
    """A-5: `kill` reads as empty, so `grep -r` over a task succeeds."""
    name = finished(shared_cloud)
    task = shared_mnt / name
    found = run("grep", "-r", "-c", "needle", task / "outputs/log", task / "status", status=0)
    assert "run.log:50" in found
    assert run("grep", "-rl", "needle in", task) == f"{task}/outputs/log/run.log\n"
    assert run("find", task, "-name", "*.vtk") == f"{task}/outputs/vtk/deep/noise.vtk\n"
    assert kills(shared_cloud, name) == []


def test_unzip_reads_the_raw_archive(
    shared_mnt: Path, shared_cloud: FakeCloud, tmp_path: Path
) -> None:
    """N-3, S-5: `cp ID/output.zip` works, and the copy unpacks."""
    task = shared_mnt / finished(shared_cloud)
    run("cp", task / "output.zip", tmp_path)
    run(sys.executable, "-m", "zipfile", "-e", tmp_path / "output.zip", tmp_path / "x")
    for name, content in OUTPUTS.items():
        assert_same((tmp_path / "x/artifacts" / name).read_bytes(), content)


def test_cp_twice(shared_mnt: Path, shared_cloud: FakeCloud, tmp_path: Path) -> None:
    """A-5, N-3, A-4: `cp -r` over a task succeeds, again over its first copy, and does not fetch an
    archive twice."""
    task = finished(shared_cloud)
    shared_cloud.clear_requests()
    for _ in range(2):
        run("cp", "-r", shared_mnt / task, tmp_path)
        check_copy(tmp_path / task, shared_mnt / task)
    assert not (tmp_path / task / "output.zip").exists()
    sizes = sum(
        stored.source.size
        for name in ("output.zip", "input.zip")
        if (stored := shared_cloud.get_object(f"{task}/{name}"))
    )
    sent = sum(r.bytes_sent for r in shared_cloud.requests if r.side == "store")
    assert sent < 1.5 * sizes + 200_000
    run("rm", "-r", tmp_path / task)
    run("cp", "-a", shared_mnt / task, tmp_path)
    for name in ("outputs/stdout.txt", "outputs/vtk", "status", "."):
        copied, original = (tmp_path / task / name).stat(), (shared_mnt / task / name).stat()
        assert copied.st_mtime_ns == original.st_mtime_ns
        assert copied.st_mode == original.st_mode
    assert kills(shared_cloud, task) == []


def test_rsync_copies_nothing_twice(
    shared_mnt: Path, shared_cloud: FakeCloud, tmp_path: Path
) -> None:
    """A-11: A second rsync copies nothing."""
    task = finished(shared_cloud)
    waiting = shared_cloud.add_task(status="submitted", inputs=INPUTS)
    for name in (task, waiting):
        first = run("rsync", "-a", "--itemize-changes", shared_mnt / name, tmp_path)
        assert f"{name}/kill" in first
        assert run("rsync", "-a", "--itemize-changes", shared_mnt / name, tmp_path) == ""
    assert run("rsync", "-a", "-c", "--itemize-changes", shared_mnt / task, tmp_path) == ""
    check_copy(tmp_path / task, shared_mnt / task)


@pytest.mark.parametrize("option", ["-c", "-cS"])
def test_tar(shared_mnt: Path, shared_cloud: FakeCloud, tmp_path: Path, option: str) -> None:
    """A-5, A-14: `tar` over a task succeeds; a file with a byte has a block, or `tar -S` would
    store zeros."""
    task = finished(shared_cloud)
    run("tar", f"{option}f", tmp_path / "x.tar", "-C", shared_mnt, task)
    run("tar", "-xf", tmp_path / "x.tar", "-C", tmp_path)
    check_copy(tmp_path / task, shared_mnt / task)


def test_tar_and_rsync_while_tasks_change(
    new_mount: "type[Mount]", cloud: FakeCloud, tmp_path: Path
) -> None:
    """T-10: While tasks change, rsync and tar never truncate a text whose size was reported."""
    words = ("started", "computation-started", "computation-ended", "success", "submitted")
    tasks = [cloud.add_task(status=words[n % 3]) for n in range(12)]
    # A text is kept for the attr timeout after a stat: tar reports one that changes while it reads.
    mount = new_mount(status_cache_time="0s", attr_timeout="60s")  # type: ignore[call-arg]
    mountpoint = mount.path
    for step in range(2):
        for n, task in enumerate(tasks):
            cloud.set_status(task, words[(n + step) % 3])
        copy = tmp_path / f"copy{step}"
        copy.mkdir()
        listing = tmp_path / "files"
        listing.write_text("".join(f"{task}/status\n" for task in tasks))
        run("tar", "-cf", copy / "x.tar", "-C", mountpoint, "-T", listing)
        run("tar", "-xf", copy / "x.tar", "-C", copy)
        run("rsync", "-a", f"--files-from={listing}", mountpoint, copy / "rsync")
        for task in tasks:
            assert (copy / task / "status").read_text().rstrip("\n") in words
            assert (copy / task / "status").read_text().endswith("\n")
            assert (copy / "rsync" / task / "status").read_text().rstrip("\n") in words
            assert (copy / "rsync" / task / "status").read_text().endswith("\n")


def test_du_shows_both_sizes(shared_mnt: Path, shared_cloud: FakeCloud) -> None:
    """A-14: `du` shows the stored size and `du --apparent-size` the unpacked one."""
    task = shared_mnt / finished(shared_cloud)
    stored = int(run("du", "-s", "--block-size=1", task / "outputs").split()[0])
    apparent = int(run("du", "-sb", task / "outputs").split()[0])
    assert apparent == sum(map(len, OUTPUTS.values()))
    compressed = sum(
        int(os.getxattr(task / "outputs" / name, "user.taskfs.compressed_size")) for name in OUTPUTS
    )
    assert compressed <= stored <= compressed + 512 * len(OUTPUTS)


def test_ls_lt_is_a_timeline(new_mount: "type[Mount]", cloud: FakeCloud) -> None:
    """A-7: `ls -lt` is a timeline."""
    ends = {
        cloud.add_task(end_time=f"2025-06-{day:02}T08:00:00+00:00"): day for day in (11, 9, 30, 2)
    }
    mountpoint = new_mount().path  # type: ignore[call-arg]
    assert sorted(ends, key=lambda task: -ends[task]) == run("ls", "-t", mountpoint).split()
    long = run("ls", "-l", "--time-style=full-iso", mountpoint)
    assert all(f"2025-06-{day:02} 08:00:00.000000000" in long for day in ends.values())


@pytest.mark.parametrize(
    "line",
    [
        "touch {task}/kill",
        "touch -c -d 2020-01-01 {task}/kill",
        ": > {task}/kill",
        ": >> {task}/kill",
        ": <> {task}/kill",
        "truncate -s 0 {task}/kill",
        "truncate -s 100 {task}/kill",
        "chmod 644 {task}/kill",
        "cat {task}/kill",
        "cat /dev/null > {task}/kill",
        "dd if=/dev/null of={task}/kill status=none",
        "cp /dev/null {task}/kill",
        "echo -n > {task}/kill",
        "exec 3> {task}/kill",
        'python3 -c \'open("{task}/kill", "w").close()\'',
    ],
)
def test_what_does_not_kill(shared_mnt: Path, shared_cloud: FakeCloud, line: str) -> None:
    """K-1: Opening, truncating or touching `kill` does nothing."""
    task = shared_cloud.add_task(status="started")
    sh(line.format(task=task), shared_mnt)
    assert kills(shared_cloud, task) == []
    assert (shared_mnt / task / "status").read_text() == "started\n"


@pytest.mark.parametrize(
    "line",
    [
        "echo 1 > {task}/kill",
        "echo 1 >> {task}/kill",
        "echo yes | tee {task}/kill",
        "echo yes | dd of={task}/kill status=none",
        "echo yes | dd of={task}/kill conv=notrunc status=none",
        "printf 'a\\nb\\nc\\n' > {task}/kill",
        "(echo 1; sleep 0.1; echo 2) > {task}/kill",
        'python3 -c \'open("{task}/kill", "w").write("1")\'',
        'python3 -c \'print(1, file=open("{task}/kill", "a"))\'',
        "seq 100000 > {task}/kill",
        "echo x > x && cp x {task}/kill",
    ],
)
def test_what_kills(shared_mnt: Path, shared_cloud: FakeCloud, tmp_path: Path, line: str) -> None:
    """K-2: The first byte written through a handle sends one request."""
    task = shared_cloud.add_task(status="started")
    shared_cloud.clear_requests()
    sh(line.format(task=shared_mnt / task), tmp_path)
    assert kills(shared_cloud, task) == [f"/tasks/{task}/kill"]
    assert (shared_mnt / task / "status").read_text() == "pending-kill\n"
    shared_cloud.clear_requests()


def test_the_shell_reports_why_a_kill_failed(shared_mnt: Path, shared_cloud: FakeCloud) -> None:
    """K-2, K-5: The shell reports ESRCH for a finished task."""
    task = finished(shared_cloud)
    shared_cloud.clear_requests()
    assert "No such process" in sh(f"echo 1 > {task}/kill", shared_mnt, status=1)
    assert "Read-only file system" in sh(f"echo 1 > {task}/status", shared_mnt, status=1)
    assert "Read-only file system" in sh("mkdir x", shared_mnt, status=1)
    assert "No such file" in sh("echo 1 > 0123456789012345678901234/kill", shared_mnt, status=1)
    assert kills(shared_cloud, task) == []


def test_copying_a_tree_back_kills_nothing(
    shared_mnt: Path, shared_cloud: FakeCloud, tmp_path: Path
) -> None:
    """A-5: Copying a tree back kills nothing."""
    task = shared_cloud.add_task(status="started", inputs=INPUTS)
    shared_cloud.clear_requests()
    run("cp", "-r", shared_mnt / task, tmp_path)
    assert "Read-only" in run("cp", "-r", tmp_path / task, shared_mnt, status=1)
    assert "Read-only" in run("rsync", "-a", tmp_path / task, shared_mnt, status=23)
    assert "Read-only" in run("rsync", "-a", "--inplace", tmp_path / task, shared_mnt, status=23)
    run("tar", "-cf", tmp_path / "x.tar", "-C", tmp_path, task)
    run("tar", "-xf", tmp_path / "x.tar", "-C", shared_mnt, status=2)
    run("tar", "-xf", tmp_path / "x.tar", "--overwrite", "-C", shared_mnt, status=2)
    assert "Read-only" in run("rm", "-rf", shared_mnt / task, status=1)
    assert "Read-only" in run("mv", tmp_path / task / "kill", shared_mnt / task, status=1)
    assert kills(shared_cloud, task) == []
    assert (shared_mnt / task / "status").read_text() == "started\n"


def test_setfattr_and_getfattr(shared_mnt: Path, shared_cloud: FakeCloud, tmp_path: Path) -> None:
    """A-18: setfattr updates the metadata remotely, and `setfattr -x` removes it."""
    task = shared_mnt / shared_cloud.add_task(status="started")
    name = "user.taskfs.metadata.study"
    run("setfattr", "-n", name, "-v", "dam break", task)
    assert f'{name}="dam break"' in run("getfattr", "--absolute-names", "-d", task)
    run("setfattr", "-x", name, task)
    assert run("getfattr", "--absolute-names", "-d", task) == ""
    assert "Invalid argument" in run("setfattr", "-n", name, task, status=1)
    run("cp", "--preserve=all", task / "status", tmp_path)


def test_the_whole_mount_can_be_walked(
    new_mount: "type[Mount]", cloud: FakeCloud, tmp_path: Path
) -> None:
    """N-7: `cp -r`, `du` and `find` walk the whole mount, because views hold links."""
    tasks = [finished(cloud), cloud.add_task(status="submitted")]
    mount = new_mount()  # type: ignore[call-arg]
    run("cp", "-r", f"{mount.path}/.", tmp_path / "all")
    assert {path.name for path in (tmp_path / "all").iterdir()} == {
        *tasks,
        *(".by-status", ".by-project", ".by-simulator", ".by-date", ".latest"),
    }
    assert os.readlink(tmp_path / "all/.latest") == tasks[1]
    assert (tmp_path / "all/.by-status/success" / tasks[0] / "status").read_text() == "success\n"
    run("du", "-s", mount.path)
    assert len(run("find", mount.path, "-type", "f").split("\n")) > 20
