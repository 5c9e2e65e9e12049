"""The rights of users other than root, because root passes every check."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.conftest import on_mount
from tests.fake_api import FakeCloud
from tests.mounts import OWN_MOUNTS, Mount, Taskfs, eventually
from tests.outputs import LONG_AGO

pytestmark = pytest.mark.mount

NOBODY: Final = 65534
# Python may be installed where only root can read it, so all is imported before the user changes.
AS_NOBODY: Final = """
import encodings.ascii, encodings.idna, encodings.latin_1, json, subprocess
import os, platformdirs, requests, sys
import taskfs.cli.main, taskfs.core, taskfs.fuse.mount, taskfs.fuse.engine_choice
import taskfs.fuse.preload, taskfs.support.log_file
taskfs.fuse.preload.load_rest()
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
sys.exit(taskfs.cli.main.main(sys.argv[1:]))
"""
# Devices with the modes that most machines have, in a mount namespace of their own.
PRIVATE_DEVICES: Final = """
set -e
mkdir "$1" && mount -t tmpfs none "$1"
mknod -m "$2" "$1/null" c 1 3 && mount --bind "$1/null" /dev/null
mknod -m 0666 "$1/fuse" c 10 229 && mount --bind "$1/fuse" /dev/fuse
"""


def as_nobody(*command: str | Path, status: int = 0) -> str:
    """Return what a command of an ordinary user prints."""
    if os.getuid() != 0:
        pytest.fail("only root can become another user: run these tests as root")
    switch = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--"]
    done = subprocess.run(
        [*switch, *map(str, command)],
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
    )
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


def make_home(folder: Path) -> Path:
    """Make and return a home directory of an ordinary user, with the mountpoint `mnt`."""
    home = folder / "home"
    (home / "mnt").mkdir(parents=True)
    for directory in (home, home / "mnt"):
        os.chown(directory, NOBODY, NOBODY)
    return home


@pytest.fixture(scope="module", params=["kernel", "fusepy"])
def open_mount(request: pytest.FixtureRequest, shared_cloud: FakeCloud) -> Iterator[Mount]:
    """A mount of root's that others may enter, with a folder of their own beside it.

    Not in pytest's directory, which the processes of a run share, and only root may enter.
    """
    options = {"allow_other": "", "engine": request.param}
    with tempfile.TemporaryDirectory(prefix="taskfs-test-") as name:
        home = Path(name)
        home.chmod(0o755)
        (home / "nobody").mkdir()
        os.chown(home / "nobody", NOBODY, NOBODY)
        with on_mount(shared_cloud, home, options) as mount:
            yield mount


@pytest.fixture
def mountpoint(open_mount: Mount, shared_cloud: FakeCloud) -> Iterator[Path]:
    yield open_mount.path
    shared_cloud.faults.clear()
    open_mount.check_log()


def test_others_read(mountpoint: Path, shared_cloud: FakeCloud) -> None:
    """A-3: With `--allow-other` other users read."""
    task = shared_cloud.add_task(outputs={"a/b": b"hello\n"}, end_time=LONG_AGO)
    assert as_nobody("cat", mountpoint / task / "status") == "success\n"
    assert as_nobody("cat", mountpoint / task / "outputs/a/b") == "hello\n"
    assert as_nobody("ls", mountpoint / task / "outputs") == "a\n"
    assert as_nobody("cat", mountpoint / task / "kill") == ""


def test_others_do_not_kill(mountpoint: Path, shared_cloud: FakeCloud) -> None:
    """A-3, X-7: Only the owner may write to `kill`; others get EACCES."""
    task = shared_cloud.add_task(status="started", task_metadata={"study": "old"})
    shared_cloud.clear_requests()
    kill, name = mountpoint / task / "kill", "user.taskfs.metadata.study"
    for command in (
        ["sh", "-c", f"echo 1 > {kill}"],
        ["sh", "-c", f"echo 1 >> {kill}"],
        ["sh", "-c", f": > {kill}"],
        ["touch", kill],
        ["dd", "if=/dev/zero", f"of={kill}", "count=1", "status=none"],
        ["cp", "/etc/hostname", kill],
    ):
        said = as_nobody(*command, status=2 if command[0] == "sh" else 1)
        assert "Permission denied" in said
    assert "Permission denied" in as_nobody(
        "setfattr", "-n", name, "-v", "x", mountpoint / task, status=1
    )
    assert "Permission denied" in as_nobody("setfattr", "-x", name, mountpoint / task, status=1)
    as_nobody("sh", "-c", f"echo 1 > {mountpoint}/.taskfs/refresh", status=2)
    as_nobody("mkdir", mountpoint / "new", status=1)
    as_nobody("rm", "-rf", mountpoint / task, status=1)
    as_nobody("chmod", "666", kill, status=1)
    as_nobody("test", "-w", kill, status=1)
    as_nobody("test", "-r", kill)
    assert not [r for r in shared_cloud.requests if r.method != "GET"]
    kill.write_text("1")  # and the owner does
    assert shared_cloud.statuses()[task] == "pending-kill"


def test_a_second_copy_over_the_first_and_its_removal_work(
    mountpoint: Path, open_mount: Mount, shared_cloud: FakeCloud
) -> None:
    """A-4: A second `cp -r` over a copy and its removal work for an ordinary user."""
    task = shared_cloud.add_task(
        outputs={"a/b": b"x" * 100, "c": b""}, inputs={"d/e/f": b"y"}, end_time=LONG_AGO
    )
    copies = open_mount.path.parent / "nobody"
    for option in ("-r", "-a", "-r"):
        assert as_nobody("cp", option, mountpoint / task, copies) == ""
        assert (copies / task / "outputs/a/b").read_bytes() == b"x" * 100
        assert (copies / task / "status").stat().st_uid == NOBODY
    as_nobody("rsync", "-a", "--delete", f"{mountpoint / task}/", copies / task)
    assert as_nobody("rm", "-r", copies / task) == ""
    assert not (copies / task).exists()
    as_nobody("tar", "-cf", copies / "x.tar", "-C", mountpoint, task)
    for _ in range(2):
        as_nobody("tar", "-xf", copies / "x.tar", "-C", copies)
    assert as_nobody("rm", "-r", copies / task) == ""


def test_without_allow_other_others_see_nothing(
    shared_mnt: Path, shared_cloud: FakeCloud, open_mount: Mount
) -> None:
    """Y-8: Without `--allow-other` other users may not enter."""
    said = as_nobody("ls", shared_mnt, status=2)
    assert "Permission denied" in said


def in_own_devices(script: str, mountpoint: Path, null_mode: str, **environment: str) -> str:
    """Run a shell script where an ordinary user may use /dev/fuse; return what it prints."""
    lines = (
        f'{PRIVATE_DEVICES}\nset +e\ncd /\ntaskfs() {{ "$PYTHON" -c "$AS_NOBODY" "$@"; }}\n{script}'
    )
    done = subprocess.run(
        [*OWN_MOUNTS, "bash", "-c", lines, "bash", mountpoint, null_mode],
        env={"PYTHON": sys.executable, "AS_NOBODY": AS_NOBODY, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=150,
    )
    return done.stdout + done.stderr


@pytest.mark.usefixtures("each_engine")
def test_an_ordinary_user_mounts_kills_and_unmounts(public_dir: Path, cloud: FakeCloud) -> None:
    """A-2, A-3: An ordinary user mounts, owns the files, kills and unmounts."""
    home = public_dir / "home"
    home.mkdir()
    (home / "mnt").mkdir()
    for mountpoint in (home, home / "mnt"):
        os.chown(mountpoint, NOBODY, NOBODY)
    done = cloud.add_task(outputs={"a": b"hello\n"}, end_time=LONG_AGO)
    task = cloud.add_task(status="started", end_time=LONG_AGO)
    script = f"""
    taskfs mount --log-file {home}/log {home}/mnt; echo "mount $?"
    setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups bash -c '
        cd {home}/mnt
        echo 1 > {task}/kill; echo "kill $?"
        cat {task}/status {done}/outputs/a
        stat -c "owner %u %g" . {task} {done}/outputs/a
        mkdir x; echo "mkdir $?"
    '
    ls {home}/mnt; echo "root $?"
    taskfs umount {home}/mnt; echo "umount $?"
    taskfs mount --allow-other {home}/mnt; echo "mount $?"
    """
    environment = Taskfs(home, cloud).environment
    said = in_own_devices(script, public_dir / "dev", "0666", **environment)
    lines = said.splitlines()
    assert lines[:5] == ["mount 0", "kill 0", "pending-kill", "hello", f"owner {NOBODY} {NOBODY}"]
    assert lines.count(f"owner {NOBODY} {NOBODY}") == 3
    assert "Read-only file system" in said
    assert "root 2" in lines
    assert "umount 0" in lines
    assert cloud.killed == [task]
    assert lines.count("mount 1") == 1
    assert "taskfs: --allow-other and --allow-root need the line user_allow_other" in said
    log = home / "log"
    assert log.stat().st_uid == NOBODY
    assert log.stat().st_mode & 0o777 == 0o600
    assert "Traceback" not in log.read_text()
    eventually(lambda: str(home / "mnt") not in Path("/proc/self/mountinfo").read_text())


def test_watches_of_another_user(public_dir: Path, cloud: FakeCloud) -> None:
    """V-5: A user's daemon sees the watches of this user, but not those of root, for which changes
    are asked for with `--events on` alone."""
    home, devices = public_dir / "home", public_dir / "dev"
    (home / "mnt").mkdir(parents=True)
    for folder in (home, home / "mnt"):
        os.chown(folder, NOBODY, NOBODY)
    task = cloud.add_task(status="started")
    script = f"""
    echo "user_allow_other # for the lab" > {devices}/fuse.conf
    mount --bind {devices}/fuse.conf /etc/fuse.conf
    count() {{ grep -o '"api_requests": [0-9]*' {home}/mnt/.taskfs/stats.json | tr -dc 0-9; }}
    watch() {{
        before=$(count)
        "$@" inotifywait -qq -t 6 -e modify {home}/mnt/{task}/status
        echo $(($(count) - before))
    }}
    taskfs mount --allow-other --status-cache-time 200ms {home}/mnt
    watch env
    watch setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups
    taskfs umount {home}/mnt
    taskfs mount --allow-other --status-cache-time 200ms --events on {home}/mnt
    watch env
    taskfs umount {home}/mnt
    """
    said = in_own_devices(script, devices, "0666", **Taskfs(home, cloud).environment)
    of_root, of_the_user, of_root_with_on = map(int, said.split())
    assert of_root <= 2 < 5 < of_the_user and of_root_with_on > 5


@pytest.mark.usefixtures("each_engine")
def test_an_ordinary_user_repairs_a_dead_mount(public_dir: Path, cloud: FakeCloud) -> None:
    """E-2: An ordinary user repairs a dead mount with `taskfs mount` and removes it with `taskfs
    umount`."""
    home = make_home(public_dir)
    script = f"""
    as_nobody() {{ setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups "$@"; }}
    end() {{
        as_nobody cat {home}/mnt/.taskfs/stats.json > {home}/stats
        kill -9 $(grep -o '"pid": [0-9]*' {home}/stats | tr -dc 0-9)
        while as_nobody cat {home}/mnt/.taskfs/version; do sleep 0.1; done >/dev/null 2>&1
        as_nobody cat {home}/mnt/.taskfs/version; echo "dead $?"
    }}
    taskfs mount {home}/mnt; echo "mount $?"
    end
    taskfs mount {home}/mnt; echo "repair $?"
    as_nobody cat {home}/mnt/.taskfs/version >/dev/null; echo "alive $?"
    end
    taskfs umount {home}/mnt; echo "umount $?"
    ls -A {home}/mnt; echo "empty $?"
    """
    environment = Taskfs(home, cloud).environment
    said = in_own_devices(script, public_dir / "dev", "0666", **environment)
    lines = [line for line in said.splitlines() if not line.startswith("cat: ")]
    assert lines == [
        *("mount 0", "dead 1", "repair 0", "alive 0", "dead 1", "umount 0", "empty 0"),
    ]
    assert said.count("not connected") == 2


def test_a_background_process_that_cannot_begin_says_why(
    public_dir: Path, cloud: FakeCloud
) -> None:
    """E-6: A daemon that cannot begin reports why on standard error."""
    home = make_home(public_dir)
    environment = Taskfs(home, cloud).environment
    script = f'taskfs mount {home}/mnt; echo "mount $?"'
    said = in_own_devices(script, public_dir / "dev", "0600", **environment)
    assert "mount 1" in said
    assert "/dev/null" in said
