"""Mounts by ordinary users and in containers: one line that names the fix."""

import os
import subprocess
from pathlib import Path
from typing import Final

import pytest

from taskfs.fuse.mount_errors import explain
from tests.fake_api import FakeCloud
from tests.fork_server import COMMAND
from tests.mount.test_users import NOBODY, in_own_devices, make_home
from tests.mounts import Taskfs, is_mounted

FOREGROUND: Final[tuple[list[str], ...]] = ([], ["--foreground"])
WITHOUT_SYS_ADMIN: Final = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin")


@pytest.mark.parametrize(
    ("said", "fix"),
    [
        ("fusermount3: mount failed: Permission denied", "/etc/apparmor.d/local/fusermount3"),
        ("fusermount: mount failed: Operation not permitted", "--cap-add SYS_ADMIN"),
        ("fuse: device not found, try 'modprobe fuse' first", "sudo modprobe fuse"),
        ("fusermount: failed to open /dev/fuse: Permission denied", "chmod 0666 /dev/fuse"),
        ("fuse: failed to open /dev/fuse: Operation not permitted", "--device /dev/fuse"),
        (
            "fusermount: option allow_other only allowed if 'user_allow_other' is set in "
            "/etc/fuse.conf",
            "echo user_allow_other | sudo tee -a /etc/fuse.conf",
        ),
        ("fusermount: user has no write access to mountpoint /x", "sudo chown $USER /x"),
        ("fusermount: mountpoint /x not owned by user", "sudo chown $USER /x"),
        (
            "fusermount: too many FUSE filesystems mounted; mount_max=N can be set in fuse.conf",
            "mount_max",
        ),
        ("fuse: mountpoint is not empty", "choose an empty directory"),
        ("an unknown\nreason", "an unknown; reason"),
        ("", ""),
    ],
)
def test_what_libfuse_says_becomes_the_fix(said: str, fix: str) -> None:
    """E-6: AppArmor, a container, a missing fusermount and a missing right each name the fix."""
    line = explain(said, "/x")
    assert fix in line
    assert "\n" not in line


def test_a_mountpoint_named_like_a_reason() -> None:
    """E-6: The name of the mountpoint is no reason."""
    said = "fusermount3: failed to access mountpoint /nonempty: Permission denied"
    assert explain(said, "/nonempty") == said


def one_line(lines: list[str], fix: str) -> None:
    """Fail unless *lines* are one complaint with *fix* and the status of a failure."""
    assert len(lines) == 2, lines
    assert lines[0].startswith("taskfs: ") and fix in lines[0], lines
    assert lines[1] == "status 1"


@pytest.mark.mount
@pytest.mark.parametrize("flags", FOREGROUND)
def test_of_an_ordinary_user(public_dir: Path, cloud: FakeCloud, flags: list[str]) -> None:
    """E-6: A missing user_allow_other, and a mountpoint that is not empty or another user's, name
    the fix."""
    home = public_dir / "home"
    for name in ("mnt", "full/file", "private", "roots"):
        (home / name).mkdir(parents=True)
    for mountpoint in (home, home / "mnt", home / "full"):
        os.chown(mountpoint, NOBODY, NOBODY)
    (home / "private").chmod(0o700)
    options = " ".join(flags)
    script = f"""
    try() {{ taskfs mount {options} "$@" 2>&1; echo "status $?"; }}
    try --allow-other {home}/mnt
    try {home}/private
    try {home}/roots
    try {home}/full
    chmod 0600 /dev/fuse; try {home}/mnt; chmod 0666 /dev/fuse
    """
    environment = Taskfs(home, cloud).environment
    lines = in_own_devices(script, public_dir / "dev", "0666", **environment).splitlines()
    assert len(lines) == 10, lines
    one_line(lines[:2], "echo user_allow_other | sudo tee -a /etc/fuse.conf")
    one_line(lines[2:4], "choose another")
    one_line(lines[4:6], f"sudo chown $USER {home}/roots")
    one_line(lines[6:8], "choose an empty directory")
    one_line(lines[8:10], "sudo chmod 0666 /dev/fuse")


@pytest.mark.mount
@pytest.mark.parametrize("flags", FOREGROUND)
@pytest.mark.parametrize(
    ("change", "fix"),
    [
        ("rm", "apt-get install fuse"),
        ("chmod 0750", "join its group"),
        (
            "chmod u-s",
            "/usr/bin/fusermount is not set-uid root: sudo chmod u+s /usr/bin/fusermount",
        ),
    ],
)
def test_without_fusermount(
    public_dir: Path, cloud: FakeCloud, flags: list[str], change: str, fix: str
) -> None:
    """E-6: A fusermount that is missing, not for every user or without its set-uid bit is one line
    that names the fix, as doctor does."""
    home = make_home(public_dir)
    script = f"""
    mkdir {public_dir}/dev/upper {public_dir}/dev/work
    mount -t overlay none /usr/bin \\
        -o lowerdir=/usr/bin,upperdir={public_dir}/dev/upper,workdir={public_dir}/dev/work
    {change} /usr/bin/fusermount*
    taskfs mount {" ".join(flags)} {home}/mnt 2>&1; echo "status $?"
    """
    environment = Taskfs(home, cloud).environment
    lines = in_own_devices(script, public_dir / "dev", "0666", **environment).splitlines()
    one_line(lines, fix)


@pytest.mark.mount
@pytest.mark.parametrize("state", ["alive", "dead"])
def test_the_mount_of_another_user(public_dir: Path, cloud: FakeCloud, state: str) -> None:
    """E-19: `taskfs umount` of another user's mount says whose it is."""
    home = public_dir / "home"
    (home / "mnt").mkdir(parents=True)
    end = "kill -9 $(cat DIR/mnt/.taskfs/stats.json | sed -n 's/.*\"pid\": \\([0-9]*\\).*/\\1/p')"
    script = f"""
    $PYTHON -m taskfs mount --allow-other {home}/mnt
    [ {state} = alive ] || {{ {end.replace("DIR", str(home))}; sleep 0.5; }}
    taskfs umount {home}/mnt 2>&1; echo "status $?"
    taskfs umount --lazy {home}/mnt 2>&1; echo "status $?"
    $PYTHON -m taskfs umount {home}/mnt; echo "root $?"
    """
    environment = Taskfs(home, cloud).environment
    lines = in_own_devices(script, public_dir / "dev", "0666", **environment).splitlines()
    for said in (lines[:2], lines[2:4]):
        one_line(said, f"{home}/mnt was mounted by another user (uid 0): only that user and root")
    assert lines[4:] == ["root 0"]


@pytest.mark.mount
def test_umount_without_mtab(public_dir: Path, cloud: FakeCloud) -> None:
    """E-19: Without /etc/mtab `taskfs umount` names the command that makes it."""
    home = make_home(public_dir)
    script = f"""
    taskfs mount {home}/mnt; echo "mount $?"
    mkdir {public_dir}/dev/upper {public_dir}/dev/work
    mount -t overlay none /etc \
        -o lowerdir=/etc,upperdir={public_dir}/dev/upper,workdir={public_dir}/dev/work
    rm /etc/mtab
    taskfs umount {home}/mnt 2>&1; echo "status $?"
    ln -s /proc/self/mounts /etc/mtab
    taskfs umount {home}/mnt 2>&1; echo "umount $?"
    """
    environment = Taskfs(home, cloud).environment
    lines = in_own_devices(script, public_dir / "dev", "0666", **environment).splitlines()
    assert lines[0] == "mount 0"
    one_line(lines[1:3], "/etc/mtab is missing: sudo ln -s /proc/self/mounts /etc/mtab")
    assert lines[3:] == ["umount 0"]


@pytest.mark.mount
def test_a_path_that_says_busy(public_dir: Path, cloud: FakeCloud) -> None:
    """E-3: A mount counts as busy if fusermount says so, not if its path does."""
    home = make_home(public_dir)
    script = f"""
    mv {home}/mnt {home}/busy
    taskfs mount {home}/busy; echo "mount $?"
    mkdir {public_dir}/dev/upper {public_dir}/dev/work
    mount -t overlay none /etc \
        -o lowerdir=/etc,upperdir={public_dir}/dev/upper,workdir={public_dir}/dev/work
    rm /etc/mtab
    touch /etc/mtab  # fusermount looks the mount up there
    taskfs umount {home}/busy 2>&1; echo "status $?"
    $PYTHON -m taskfs umount {home}/busy; echo "root $?"
    """
    environment = Taskfs(home, cloud).environment
    lines = in_own_devices(script, public_dir / "dev", "0666", **environment).splitlines()
    assert lines[0] == "mount 0"
    one_line(lines[1:3], f"entry for {home}/busy not found in /etc/mtab")
    assert lines[3:] == ["root 0"]


@pytest.mark.mount
@pytest.mark.parametrize("flags", FOREGROUND)
def test_in_a_container_without_sys_admin(
    tmp_path: Path, cloud: FakeCloud, flags: list[str]
) -> None:
    """E-6: A container that may not mount is one line with the flag that allows it."""
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    done = subprocess.run(
        [*WITHOUT_SYS_ADMIN, *COMMAND, "mount", *flags, str(mountpoint)],
        env=Taskfs(tmp_path, cloud).environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (1, "")
    one_line([*done.stderr.splitlines(), "status 1"], "--cap-add SYS_ADMIN")
    assert not is_mounted(mountpoint)
