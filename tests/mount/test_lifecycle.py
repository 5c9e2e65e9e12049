"""A mount from its start to its end, whatever ends it."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from taskfs.fuse.mount_table import mounted_device
from taskfs.fuse.mountpoint import has_ended
from tests.fake_api import FakeCloud
from tests.fork_server import COMMAND
from tests.mounts import (
    OWN_MOUNTS,
    Mount,
    Taskfs,
    eventually,
    is_mounted,
    processes_naming,
)
from tests.outputs import LONG_AGO

pytestmark = [pytest.mark.mount, pytest.mark.usefixtures("each_engine")]


@pytest.fixture
def taskfs(tmp_path: Path, cloud: FakeCloud) -> Taskfs:
    return Taskfs(tmp_path, cloud)


@pytest.fixture
def mountpoint(tmp_path: Path, taskfs: Taskfs) -> Iterator[Path]:
    """An empty directory to mount on, which is unmounted afterwards whatever happened."""
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    yield mountpoint
    if is_mounted(mountpoint):
        subprocess.run(["fusermount", "-uz", mountpoint], check=False)
    eventually(lambda: not processes_naming(mountpoint))


def refused(
    taskfs: Taskfs, mountpoint: Path, *words: str, options: tuple[str, ...] = (), **environment: str
) -> None:
    """Fail unless mounting does, as it should: one line on stderr with *words*, nothing left."""
    before = is_mounted(mountpoint)
    done = taskfs("mount", *options, mountpoint, **environment)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("taskfs: ")
    assert done.stderr.count("\n") == 1
    for word in words:
        assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert is_mounted(mountpoint) == before


def test_a_shell_gets_its_prompt_back(taskfs: Taskfs, mountpoint: Path) -> None:
    """E-6: `x=$(taskfs mount ...)` returns once the mount is live."""
    line = f'x=$("$@" mount {mountpoint} 2>&1); echo "status $? said <$x>"; ls {mountpoint}/.taskfs'
    done = subprocess.run(
        ["bash", "-c", f"{line} | cat", "bash", *COMMAND],
        env=taskfs.environment,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stdout == "status 0 said <>\nrefresh\nstats.json\nversion\n"
    assert done.stderr == ""
    eventually(lambda: len(processes_naming(mountpoint)) == 1)
    [pid] = processes_naming(mountpoint)
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    for number in (0, 1):
        assert os.readlink(f"/proc/{pid}/fd/{number}") == "/dev/null"
    assert os.getsid(pid) != os.getsid(0)
    for process in processes_naming(mountpoint):
        links = [os.readlink(link) for link in Path(f"/proc/{process}/fd").iterdir()]
        assert not [link for link in links[:3] if link.startswith("pipe:")]
    assert taskfs("umount", mountpoint).returncode == 0
    eventually(lambda: processes_naming(mountpoint) == [])


def test_the_key_is_in_no_command_line_and_no_log(new_mount: Callable[..., Mount]) -> None:
    """Y-3: The daemon's command line names the mountpoint and no key, and nor does the log."""
    mount = new_mount(log_level="debug")
    task = mount.cloud.add_task(outputs={"a": b"x"}, end_time=LONG_AGO)
    assert (mount.path / task / "outputs/a").read_bytes() == b"x"
    words = Path(f"/proc/{mount.pid}/cmdline").read_bytes().decode().split("\0")
    assert str(mount.path) in words
    assert mount.cloud.api_key not in " ".join(words)
    assert mount.log.stat().st_mode & 0o777 == 0o600
    assert "mounted on" in mount.log.read_text()


def test_a_missing_mountpoint(taskfs: Taskfs, public_dir: Path) -> None:
    """E-6, E-7: A missing mountpoint is one line, exit status 1, and nothing is mounted."""
    mountpoint = public_dir / "no"  # below the home it would be created
    refused(taskfs, mountpoint, "does not exist", "mkdir -p")
    assert not mountpoint.exists()


def test_a_file_as_mountpoint(taskfs: Taskfs, mountpoint: Path) -> None:
    """E-6, E-7: A file as mountpoint is refused by name."""
    file = mountpoint / "file"
    file.write_text("kept")
    refused(taskfs, file, "not a directory")
    assert file.read_text() == "kept"


def test_a_mountpoint_that_is_not_empty(taskfs: Taskfs, mountpoint: Path) -> None:
    """E-7: A mountpoint that is not empty is refused by name."""
    (mountpoint / "file").write_text("kept")
    refused(taskfs, mountpoint, "not empty")
    assert (mountpoint / "file").read_text() == "kept"


def test_a_busy_mountpoint(taskfs: Taskfs, mountpoint: Path) -> None:
    """E-7: A busy mountpoint is refused by name."""
    subprocess.run(["mount", "-t", "tmpfs", "none", mountpoint], check=True)
    try:
        refused(taskfs, mountpoint, "busy", "tmpfs")
    finally:
        subprocess.run(["umount", mountpoint], check=True)


def test_a_mountpoint_that_is_mounted_already(mnt: Path, taskfs: Taskfs) -> None:
    """E-7: A second mount on one mountpoint is refused, and the first stays."""
    refused(taskfs, mnt, "mounted already", "umount")
    assert ".by-status" in os.listdir(mnt)


def test_a_wrong_key(taskfs: Taskfs, mountpoint: Path) -> None:
    """C-5, E-6: The key is checked before mounting."""
    refused(taskfs, mountpoint, "--api-key-file", INDUCTIVA_API_KEY="wrong")
    eventually(lambda: processes_naming(mountpoint) == [])


def test_no_key(tmp_path: Path, mountpoint: Path) -> None:
    """E-6, X-2: A missing key is one line on standard error."""
    refused(Taskfs(tmp_path, None), mountpoint, "no API key", "--api-key-file")


def test_an_api_that_is_not_reached(taskfs: Taskfs, mountpoint: Path, cloud: FakeCloud) -> None:
    """E-6: An API that is not reached is one line on standard error."""
    began = time.monotonic()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        refused(
            taskfs,
            mountpoint,
            "taskfs doctor",
            options=("--timeout", "500ms"),
            INDUCTIVA_API_URL=url,
        )
    cloud.fail("api")
    refused(taskfs, mountpoint, "503", options=("--timeout", "3s"))
    assert time.monotonic() - began < 20
    eventually(lambda: processes_naming(mountpoint) == [])


def test_a_machine_without_the_device(taskfs: Taskfs, mountpoint: Path) -> None:
    """E-6: A missing libfuse or /dev/fuse is one line that names the package."""
    script = """
    mkdir "$0/dev" && mount -t tmpfs none "$0/dev"
    mknod -m 0666 "$0/dev/null" c 1 3
    mount --bind "$0/dev" /dev
    exec "$@"
    """
    done = subprocess.run(
        [*OWN_MOUNTS, "bash", "-c", script, str(taskfs.home), *COMMAND, "mount", str(mountpoint)],
        env=taskfs.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "/dev/fuse is missing" in done.stderr
    assert "modprobe fuse" in done.stderr


def test_a_mount_that_does_not_answer_is_left_alone(new_mount: Callable[..., Mount]) -> None:
    """E-7: A mount that does not answer may be alive, so it is left alone."""
    mount = new_mount()
    pid = mount.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        refused(mount.taskfs, mount.path, "mounted already")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert ".by-status" in os.listdir(mount.path)


def test_umount_waits_for_the_end_of_the_process(new_mount: Callable[..., Mount]) -> None:
    """E-10: `taskfs umount` waits for the daemon's end, also while the network is away."""
    mount = new_mount()
    pid = mount.pid
    mount.cloud.pause()
    done = mount.taskfs("umount", mount.path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert has_ended(pid)
    assert not is_mounted(mount.path)
    eventually(lambda: processes_naming(mount.path) == [])
    assert os.listdir(mount.path) == []
    done = mount.taskfs("umount", mount.path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"taskfs: no taskfs is mounted on {mount.path}: see `taskfs mounts`\n"


def test_umount_names_the_process_that_has_a_copy(new_mount: Callable[..., Mount]) -> None:
    """E-24: The line names the copy in another namespace, and its fix works."""
    mount = new_mount()
    pid = mount.pid
    script = """
    findmnt -rno TARGET -t fuse.taskfs | grep -vxF "$0" |
        xargs -r -n 1 umount --lazy --internal-only --no-canonicalize
    echo
    exec sleep 60
    """  # only this mount, because other tests unmount theirs at the same time
    copy = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, str(mount.path)]
    with subprocess.Popen(copy, stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None and holder.stdout.readline() == b"\n"
            done = mount.taskfs("umount", mount.path)
            assert (done.returncode, done.stderr.count("\n")) == (1, 1)
            fix = f"nsenter -t {holder.pid} -m umount {mount.path}"
            assert f"process {holder.pid} has a copy" in done.stderr
            assert f"({fix})" in done.stderr
            assert not is_mounted(mount.path) and not has_ended(pid)
            subprocess.run(fix.split(), check=True)
            eventually(lambda: has_ended(pid))
        finally:
            holder.kill()


def test_in_the_foreground(taskfs: Taskfs, mountpoint: Path) -> None:
    """E-9: `--foreground` stays, and unmounts when it is interrupted."""
    with subprocess.Popen(
        [*COMMAND, "mount", "-f", str(mountpoint)],
        env=taskfs.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        eventually(lambda: is_mounted(mountpoint) and ".by-status" in os.listdir(mountpoint))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "", "")
    assert not is_mounted(mountpoint)


def test_the_foreground_says_why_not(taskfs: Taskfs, mountpoint: Path, public_dir: Path) -> None:
    """E-6, E-9: The foreground reports a failure in the same way."""
    refused(taskfs, mountpoint, "--api-key-file", options=("-f",), INDUCTIVA_API_KEY="wrong")
    refused(taskfs, public_dir / "no", "mkdir -p", options=("-f",))


@pytest.mark.parametrize("name", ["with space, größe", "back\\slash=", "-dash\ttab"])
def test_mountpoints_of_any_name(taskfs: Taskfs, tmp_path: Path, name: str) -> None:
    """E-7: A mountpoint may have any name."""
    mountpoint = tmp_path / name
    mountpoint.mkdir()
    try:
        done = taskfs("mount", "--", mountpoint)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert ".by-status" in os.listdir(mountpoint)
        done = taskfs("umount", "--", mountpoint)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert os.listdir(mountpoint) == []
    finally:
        subprocess.run(["fusermount", "-uzq", "--", mountpoint], check=False)


def test_a_link_to_a_mountpoint(taskfs: Taskfs, mountpoint: Path, tmp_path: Path) -> None:
    """E-7: A mountpoint may be reached through a link."""
    link = tmp_path / "link"
    link.symlink_to("mnt")
    for by, back in ((link, "./link/../mnt/."), (f"{link}/", link)):
        done = taskfs("mount", by)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert ".by-status" in os.listdir(mountpoint)
        refused(taskfs, link, "mounted already")
        done = taskfs("umount", back)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert not is_mounted(mountpoint)


def test_two_mounts_do_not_know_of_each_other(new_mount: Callable[..., Mount]) -> None:
    """E-8: Two mounts do not affect each other."""
    task = None
    with contextlib.ExitStack():
        first, second = new_mount(), new_mount(read_only="")
        task = first.cloud.add_task(status="started")
        assert first.pid != second.pid
        (first.path / task / "kill").write_text("1")
        with pytest.raises(OSError, match="Read-only"):
            (second.path / task / "kill").write_text("1")
        first.stop()
        assert (second.path / task / "status").read_text() == "pending-kill\n"


def test_the_next_mount_survives_the_end_of_the_last(new_mount: Callable[..., Mount]) -> None:
    """E-8: A daemon that ends late leaves the next mount on its directory alone, also if the kernel
    gives it the device of the last one."""
    mount = new_mount()

    def try_unmount(pid: int) -> bool:
        """Unmount beside a daemon that is stopped; False while another program looks at it."""
        os.kill(pid, signal.SIGSTOP)
        # umount(8) does not wait for the daemon.
        words = ("--internal-only", "--no-canonicalize", mount.path)
        done = subprocess.run(["umount", *words], capture_output=True, text=True, timeout=30)
        assert done.returncode == 0 or "busy" in done.stderr, done.stderr
        if done.returncode:
            os.kill(pid, signal.SIGCONT)
        return done.returncode == 0

    def replace() -> bool:
        """Mount again before the daemon ends; False if another mount has taken its device."""
        pid, device = mount.pid, mounted_device(mount.path)
        try:
            eventually(lambda: try_unmount(pid))
            mount.start()
        finally:
            os.kill(pid, signal.SIGCONT)
        next_device = mounted_device(mount.path)
        eventually(lambda: has_ended(pid))
        assert is_mounted(mount.path) and mount.pid != pid
        return next_device == device

    eventually(replace)


def test_a_scope(new_mount: Callable[..., Mount], cloud: FakeCloud) -> None:
    """C-6: `--project`, `--status` (repeatable) and `--last` say which tasks are listed."""
    kept = [
        cloud.add_task(status=status, project="mine", create_time=f"2025-06-{day}T08:00:00+00:00")
        for status, day in (("failed", 12), ("success", 14), ("failed", 16), ("started", 18))
    ]
    other = cloud.add_task(project="theirs")
    listed = os.listdir(new_mount(project="mine").path)
    assert set(listed) == {
        *kept,
        ".by-status",
        ".by-project",
        ".by-simulator",
        ".by-date",
        ".latest",
    }
    mount = new_mount(project="mine", status="failed,success", last="2")
    assert [name for name in os.listdir(mount.path) if name[0] != "."] == [kept[2], kept[1]]
    assert (mount.path / other / "status").read_text() == "success\n"  # by its name all the same
    assert os.readlink(mount.path / ".latest") == kept[2]


def test_the_same_python_sees_no_libfuse_message(taskfs: Taskfs) -> None:
    """C-4: The command line loads no libfuse."""
    program = "import sys, taskfs.cli.main; sys.exit('fuse' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], env=taskfs.environment, timeout=30)
    assert done.returncode == 0
