"""Which engine serves a mount, and what each of them needs."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.conftest import on_mount
from tests.fake_api import FakeCloud
from tests.mount.test_users import NOBODY, as_nobody, in_own_devices
from tests.mounts import Mount, Taskfs, eventually, is_mounted, processes_naming

pytestmark = pytest.mark.mount

# Runs in each process before taskfs does: a kernel engine that knows no kernel's protocol.
UNKNOWN_PROTOCOL: Final = """
import taskfs.fuse.kernel.protocol
taskfs.fuse.kernel.protocol.OLDEST_MINOR = 1000
"""


def engine_of(mount: Mount) -> str:
    return str(json.loads((mount.path / ".taskfs/stats.json").read_text())["engine"])


@pytest.fixture
def unknown_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the kernel engine refuse the kernel's first request."""
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(UNKNOWN_PROTOCOL)
    monkeypatch.setenv("PYTHONPATH", str(hooks))


@pytest.mark.parametrize(
    ("asked", "serves"), [("auto", "kernel"), ("kernel", "kernel"), ("fusepy", "fusepy")]
)
def test_the_engine_is_chosen(new_mount: Callable[..., Mount], asked: str, serves: str) -> None:
    """E-22: `auto` takes the kernel engine on Linux."""
    assert engine_of(new_mount(engine=asked)) == serves


@pytest.mark.parametrize("source", ["option", "environment", "file"])
def test_the_engine_is_a_setting_like_others(
    new_mount: Callable[..., Mount], source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """E-22: `-o engine=`, TASKFS_ENGINE and TOML name the engine too."""
    mount = Mount(new_mount().cloud, tmp_path / "mnt", tmp_path)
    mount.path.mkdir()
    del mount.taskfs.environment["TASKFS_ENGINE"]
    if source == "option":
        mount.flags += ["-o", "engine=fusepy"]
    elif source == "environment":
        mount.taskfs.environment["TASKFS_ENGINE"] = "fusepy"
    else:
        (tmp_path / "taskfs.toml").write_text('engine = "fusepy"\n')
        mount.flags += ["--config", str(tmp_path / "taskfs.toml")]
    try:
        assert engine_of(mount.start()) == "fusepy"
    finally:
        mount.stop()


def test_a_refused_protocol_falls_back(
    unknown_protocol: None, new_mount: Callable[..., Mount]
) -> None:
    """E-22: Where the kernel's first request shows a protocol that the kernel engine does not
    speak, `auto` falls back to fusepy with one line in the log."""
    mount = new_mount(engine="auto")
    assert engine_of(mount) == "fusepy"
    lines = [line for line in mount.log.read_text().splitlines() if "engine" in line]
    assert len(lines) == 1
    assert "WARNING" in lines[0] and "the kernel speaks FUSE 7." in lines[0]
    assert Path("/proc/self/mountinfo").read_text().count(str(mount.path)) == 1


def test_a_refused_protocol_without_a_fallback(
    unknown_protocol: None, tmp_path: Path, cloud: FakeCloud
) -> None:
    """E-22: An engine that is named is the only one tried."""
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    done = Taskfs(tmp_path, cloud)("mount", "--engine", "kernel", mountpoint)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "the kernel speaks FUSE 7." in done.stderr
    assert not is_mounted(mountpoint)
    eventually(lambda: processes_naming(mountpoint) == [])


def test_the_kernel_engine_loads_no_libfuse(
    new_mount: Callable[..., Mount], monkeypatch: pytest.MonkeyPatch
) -> None:
    """E-23: The kernel engine loads no libfuse."""
    mount = new_mount(engine="kernel")
    assert "libfuse" not in Path(f"/proc/{mount.pid}/maps").read_text()
    mount = new_mount(engine="fusepy")
    assert "libfuse" in Path(f"/proc/{mount.pid}/maps").read_text()


def test_with_fusermount3_alone(public_dir: Path, cloud: FakeCloud) -> None:
    """E-23: A system with fusermount3 and without libfuse 2 mounts, for an ordinary user as well;
    root needs neither."""
    home = public_dir / "home"
    (home / "mnt").mkdir(parents=True)
    for folder in (home, home / "mnt"):
        os.chown(folder, NOBODY, NOBODY)
    task = cloud.add_task()
    script = f"""
    for each in /usr/bin /usr/lib; do
        dirs={public_dir}/dev/$(basename $each)
        mkdir -p $dirs/upper $dirs/work
        mount -t overlay none $each -o lowerdir=$each,upperdir=$dirs/upper,workdir=$dirs/work
    done
    [ -e /usr/bin/fusermount3 ] || mv /usr/bin/fusermount /usr/bin/fusermount3
    rm -f /usr/bin/fusermount /usr/lib/*/libfuse* /lib/*/libfuse* 2>/dev/null
    taskfs mount --engine fusepy {home}/mnt 2>&1; echo "fusepy $?"
    taskfs mount {home}/mnt; echo "mount $?"
    setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups ls {home}/mnt
    taskfs umount {home}/mnt; echo "umount $?"
    $PYTHON -m taskfs mount {home}/mnt; echo "root $?"
    ls {home}/mnt
    rm -f /usr/bin/fusermount3
    $PYTHON -m taskfs umount {home}/mnt; echo "root's umount $?"
    """
    environment = Taskfs(home, cloud).environment | {"TASKFS_ENGINE": "auto"}
    said = in_own_devices(script, public_dir / "dev", "0666", **environment)
    lines = said.splitlines()
    assert lines[0].startswith("taskfs: libfuse") and "apt-get install libfuse2" in lines[0], said
    assert lines[1:] == [
        *("fusepy 1", "mount 0", task, "umount 0", "root 0", task, "root's umount 0")
    ], said
    assert not is_mounted(home / "mnt")


def test_the_options_of_the_mount_are_the_same_on_both(new_mount: Callable[..., Mount]) -> None:
    """E-12, E-13: A mount is nosuid and nodev, with the same source and type on both engines."""
    seen = []
    for engine in ("kernel", "fusepy"):
        mount = new_mount(engine=engine, allow_other="")
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        line = next(line for line in lines if str(mount.path) in line)
        fields, _, rest = line.partition(" - ")
        seen.append((fields.split(" ")[5], rest))
    assert seen[0] == seen[1]
    assert seen[0][0].startswith("rw,nosuid,nodev")
    assert seen[0][1].startswith("fuse.taskfs taskfs rw,user_id=0,group_id=0")
    assert "default_permissions" in seen[0][1] and "allow_other" in seen[0][1]


@pytest.mark.parametrize("engine", ["kernel", "fusepy"])
def test_allow_root_admits_no_other_user(public_dir: Path, cloud: FakeCloud, engine: str) -> None:
    """Y-8: with --allow-root only root and the user that mounted may look; the kernel itself knows
    allow_other alone."""
    task = cloud.add_task()
    with on_mount(cloud, public_dir / "home", {"engine": engine, "allow_root": ""}) as mount:
        (public_dir / "home").chmod(0o755)
        assert task in os.listdir(mount.path)
        commands: list[list[str | Path]] = [["ls", mount.path]]
        commands.append(["cat", mount.path / task / "status"])
        for command in commands:
            assert "Permission denied" in as_nobody(*command, status=2 if "ls" in command else 1)
