"""`mount -t fuse.taskfs`, with and without its link."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.fake_api import FakeCloud
from tests.fork_server import ROOT
from tests.mounts import OWN_MOUNTS
from tests.outputs import LONG_AGO

pytestmark = pytest.mark.mount

# /sbin and /usr/local/bin with nothing but what the test puts there; the machine's own stay as
# they are, and so do its mounts.
_OWN_SYSTEM: Final = """
set -e
mkdir "$HOME/keep" "$HOME/mnt" "$HOME/sbin" "$HOME/bin"
cp -L --preserve=mode /sbin/mount.fuse /sbin/ldconfig "$HOME/keep"
mount -t tmpfs none "$HOME/sbin" && cp -a "$HOME"/keep/* "$HOME/sbin"
mount -t tmpfs none "$HOME/bin"
mount --bind "$HOME/sbin" "$(realpath /sbin)"
mount --bind "$HOME/bin" /usr/local/bin
set +e
mnt=$HOME/mnt
info() { grep " $mnt " /proc/self/mountinfo; }
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """The program as pip would install it, outside of every path."""
    assert shutil.which("mount") and Path("/sbin/mount.fuse").exists()
    script = tmp_path / "venv/bin/taskfs"
    script.parent.mkdir(parents=True)
    script.write_text(
        f"#!{sys.executable} -Werror\n"
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        "from taskfs.cli.main import main\nsys.exit(main())\n"
    )
    script.chmod(0o755)
    return script


@pytest.fixture
def system(tmp_path: Path, program: Path, cloud: FakeCloud) -> Callable[[str], list[str]]:
    """Runs a shell script as root on a system of its own, where $program can be linked to."""

    def run(script: str) -> list[str]:
        home = tmp_path / "home"
        home.mkdir()
        done = subprocess.run(
            [*OWN_MOUNTS, "bash", "-c", _OWN_SYSTEM + script],
            cwd="/",  # mount(8) takes a source that is a path here for one
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(home),
                "program": str(program),
                "XDG_CACHE_HOME": str(home / "cache"),
                "XDG_STATE_HOME": str(home / "state"),
                "INDUCTIVA_API_URL": cloud.api_url,
                "INDUCTIVA_API_KEY": cloud.api_key,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=90,
        )
        assert cloud.api_key not in done.stdout + done.stderr
        return (done.stdout + done.stderr).splitlines()

    return run


LINKS: Final = {
    "with its link": 'ln -s "$program" /sbin/mount.fuse.taskfs',
    "with the link of install-helper": '"$program" install-helper >/dev/null 2>&1',
    "without": 'ln -s "$program" /usr/local/bin/taskfs',
}


@pytest.mark.parametrize("link", LINKS)
def test_mount_8(system: Callable[[str], list[str]], cloud: FakeCloud, link: str) -> None:
    """E-12: `mount -t fuse.taskfs` works with and without the link; the mount has its fsname,
    subtype, nosuid and nodev."""
    task = cloud.add_task(status="started", outputs={"a": b"x"}, end_time=LONG_AGO)
    options = "ro,allow_other,_netdev,nofail,uid=7,gid=8,umask=027,cache_dir=$HOME/blocks"
    lines = system(f"""
    {LINKS[link]}
    mount -t fuse.taskfs taskfs $mnt -o {options}; echo "mount $?"
    info
    cat $mnt/{task}/status
    stat -c "%u %g %a" $mnt/{task} $mnt/{task}/status
    echo 1 > $mnt/{task}/kill; echo "kill $?"
    ls $HOME/blocks >/dev/null && echo cached
    umount $mnt; echo "umount $?"
    """)
    assert lines[0] == "mount 0"
    fields, _, source = lines[1].partition(" - ")
    assert source.startswith("fuse.taskfs taskfs ro,")
    assert "allow_other" in source
    flags = set(fields.split()[5].split(","))
    assert flags >= {"ro", "nosuid", "nodev"}
    assert "noexec" not in flags
    assert lines[2:5] == ["started", "7 8 750", "7 8 640"]
    assert {"kill 1", "cached", "umount 0"} <= set(lines)
    assert "Read-only" in "".join(lines)
    assert cloud.killed == []


@pytest.mark.parametrize("link", ["with its link", "without"])
def test_flags_generic_options_and_the_source(
    system: Callable[[str], list[str]], link: str
) -> None:
    """E-12: Both call forms work, generic options are ignored, `fsname` is the source, and `noexec`
    counts."""
    lines = system(f"""
    {LINKS[link]}
    mount -s -n -v -t fuse.taskfs "my tasks" $mnt -o user,noatime,_netdev,x-systemd.automount
    echo "mount $?"
    info
    umount $mnt
    mount -t fuse.taskfs taskfs $mnt -o exec,suid,dev,fsname=other; echo "mount $?"
    info
    umount $mnt
    """)
    lines = [line for line in lines if not line.endswith("mounted.")]
    assert lines[0] == lines[2] == "mount 0"
    assert " - fuse.taskfs my\\040tasks rw," in lines[1]
    assert "nosuid,nodev,noexec" in lines[1]
    assert " - fuse.taskfs other rw," in lines[3]
    assert "nosuid,nodev," in lines[3] and "noexec" not in lines[3]


@pytest.mark.parametrize("link", ["with its link", "without"])
def test_fstab(system: Callable[[str], list[str]], cloud: FakeCloud, link: str) -> None:
    """E-13, E-14, C-12: `mount -a` mounts the line of `systemd-unit --fstab` once; the home comes
    from the password database."""
    task = cloud.add_task(status="started")
    lines = system(f"""
    {LINKS[link]}
    echo $INDUCTIVA_API_KEY > $HOME/key
    unset INDUCTIVA_API_KEY
    "$program" systemd-unit --fstab -o api_key_file=$HOME/key "$mnt" > $HOME/fstab
    findmnt --verify --tab-file $HOME/fstab >/dev/null 2>&1; echo "verify $?"
    mount -a -T $HOME/fstab; echo "mount $?"
    cat $mnt/{task}/status
    pid=$(grep -oE '"pid": *[0-9]+' $mnt/.taskfs/stats.json | grep -oE '[0-9]+')
    tr '\\0' '\\n' < /proc/$pid/environ | grep -E '^(PATH|INDUCTIVA_API_URL)=' | cut -d= -f1
    mount -a -T $HOME/fstab; echo "again $?"
    info | wc -l
    umount $mnt
    """)
    assert lines[:3] == ["verify 0", "mount 0", "started"]
    assert "INDUCTIVA_API_URL" in lines
    assert lines[-2:] == ["again 0", "1"]


def test_the_home_is_that_of_the_password_database(system: Callable[[str], list[str]]) -> None:
    """E-14: Without HOME the home comes from the password database."""
    lines = system("""
    home=$HOME/other
    mkdir -p $home/.inductiva && echo $INDUCTIVA_API_KEY > $home/.inductiva/api_key
    sed "s|^root:.*|root:x:0:0:root:$home:/bin/sh|" /etc/passwd > $HOME/passwd
    mount --bind $HOME/passwd /etc/passwd
    ln -s "$program" /sbin/mount.fuse.taskfs
    unset INDUCTIVA_API_KEY XDG_CACHE_HOME XDG_STATE_HOME
    mount -t fuse.taskfs taskfs $mnt; echo "mount $?"
    umount $mnt
    ls -d $home/.cache/taskfs
    """)
    assert lines[0] == "mount 0", lines
    assert lines[1].endswith("/other/.cache/taskfs")


@pytest.mark.parametrize("link", ["with its link", "without"])
def test_errors_are_one_line(
    system: Callable[[str], list[str]], cloud: FakeCloud, link: str
) -> None:
    """E-6, E-12: An error through mount(8) is one line that names the fix; nothing is mounted."""
    lines = system(f"""
    {LINKS[link]}
    try() {{ mount -t fuse.taskfs taskfs "$@"; echo "status $?"; }}
    try $mnt -o bogus 2>&1
    try $mnt/none 2>&1
    try $mnt -o remount,ro 2>&1
    INDUCTIVA_API_KEY=wrong try $mnt 2>&1
    info
    try $mnt 2>&1
    try $mnt 2>&1
    umount $mnt
    """)
    assert len(lines) == 11, lines
    said, statuses = lines[:8:2], lines[1:8:2]
    assert all(status == "status 1" for status in statuses)
    assert all(line.startswith(("taskfs: ", "mount: ")) for line in said)
    assert said[0] == "taskfs: -o: unknown option 'bogus': see `taskfs mount --help`"
    assert "mkdir -p" in said[1] or "mount point does not exist" in said[1]
    assert "remount" in said[2]
    assert "inductiva auth login" in said[3]
    assert lines[8] == "status 0"
    assert "mounted already" in lines[9] and lines[10] == "status 1"


def test_sloppy_and_fake(system: Callable[[str], list[str]]) -> None:
    """E-12: As mount(8) has it, -s tolerates unknown options and -f mounts nothing."""
    lines = system("""
    ln -s "$program" /sbin/mount.fuse.taskfs
    mount -f -n -t fuse.taskfs taskfs $mnt; echo "fake $?"
    /sbin/mount.fuse.taskfs taskfs $mnt -f -o rw; echo "fake $?"
    info
    mount -s -t fuse.taskfs taskfs $mnt -o bogus=1; echo "sloppy $?"
    umount $mnt; echo "umount $?"
    "$program" taskfs $mnt -o rw -f; echo "usage $?"
    info
    /sbin/mount.fuse.taskfs taskfs; echo "usage $?"
    /sbin/mount.fuse.taskfs taskfs $mnt -x; echo "usage $?"
    """)
    assert [line for line in lines if not line.startswith("taskfs:")] == [
        *("fake 0", "fake 0", "sloppy 0", "umount 0", "usage 2", "usage 2", "usage 2")
    ]
    assert sum("taskfs mount --foreground" in line for line in lines) == 1
    assert sum("mount.fuse.taskfs SOURCE MOUNTPOINT" in line for line in lines) == 2


def test_install_helper(system: Callable[[str], list[str]], program: Path) -> None:
    """E-15: `install-helper` makes and removes the link, says what it did, and overwrites nothing
    that is not a link."""
    lines = system("""
    say() { "$program" install-helper "$@"; echo "status $?"; }
    say --remove 2>&1
    say 2>&1
    readlink /sbin/mount.fuse.taskfs
    say 2>&1
    say --remove 2>&1
    ls /sbin/mount.fuse.taskfs 2>/dev/null
    echo mine > /sbin/mount.fuse.taskfs
    say 2>&1
    say --remove 2>&1
    cat /sbin/mount.fuse.taskfs
    """)
    lines = [line for line in lines if not line.startswith("note: ")]
    helper = "/sbin/mount.fuse.taskfs"
    assert lines == [
        *(f"there is no {helper}", "status 0"),
        *(f"{helper} is now a link to {program}", "status 0", str(program)),
        *(f"{helper} is a link to {program} already", "status 0"),
        *(f"removed {helper}", "status 0"),
        f"taskfs: {helper} exists and is not a link of taskfs: move it away first",
        "status 1",
        f"taskfs: {helper} is not a link of taskfs: remove it yourself",
        *("status 1", "mine"),
    ]
