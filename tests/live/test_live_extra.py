"""The extra `live`: without it the mount works; with it, when its packages are imported."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from taskfs.fuse.preload import LOADED
from tests.fake_api import FakeCloud
from tests.faults.test_upgrade import REFUSING
from tests.file_systems import errno_of
from tests.live.test_live_tree import end_task
from tests.mounts import Mount, Taskfs, eventually

pytestmark = pytest.mark.mount
# Loads first in each process, and hides the package as if it were not installed.
HIDING = "import sys\nsys.modules['aiortc'] = None\n"


def loaded(pid: int, package: str) -> bool:
    """Whether a native library of *package* is in the process's memory."""
    return f"/{package}" in Path(f"/proc/{pid}/maps").read_text()


@pytest.fixture
def hooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for a `sitecustomize.py` that mounts import."""
    folder = tmp_path / "hooks"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


def test_without_the_extra(
    cloud: FakeCloud, task: str, hooks: Path, new_mount: Callable[..., Mount]
) -> None:
    """L-11: Without it the mount works, and looking into `live/` of a running task is
    EOPNOTSUPP, with the fix in the log."""
    (hooks / "sitecustomize.py").write_text(HIDING)
    mount = new_mount()
    assert "live" in os.listdir(mount.path / task)
    assert (mount.path / task / "status").read_text() == "computation-started\n"
    for _ in range(2):
        assert errno_of(lambda: os.listdir(mount.path / task / "live")) == errno.EOPNOTSUPP
    log = mount.log.read_text()
    assert log.count("the files of a running task need the extra `live`: ") == 1
    assert "aiortc>=1.9" in log


@pytest.mark.parametrize(("is_hidden", "requests"), [(True, 0), (False, 3)])
def test_fusepy_keeps_attributes_where_no_live_file_is_seen(
    cloud: FakeCloud, hooks: Path, new_mount: Callable[..., Mount], is_hidden: bool, requests: int
) -> None:
    """L-2, docs/architecture.md, Engines: libfuse 2 has one lifetime for all attributes, which is 0
    only where files of running tasks can be seen."""
    if is_hidden:
        (hooks / "sitecustomize.py").write_text(HIDING)
    task = cloud.add_task()
    mount = new_mount(engine="fusepy", attr_timeout="60s", log_level="debug")
    os.stat(mount.path / task)

    def count() -> int:
        return mount.log.read_text().count(f" getattr /{task}:")

    before = count()
    for _ in range(3):
        os.stat(mount.path / task)
    assert count() == before + requests


def test_doctor(cloud: FakeCloud, hooks: Path, tmp_path: Path) -> None:
    """L-11: with the fix in `doctor`."""
    taskfs = Taskfs(tmp_path, cloud)
    assert "ok   live: aiortc 1." in taskfs("doctor").stdout
    (hooks / "sitecustomize.py").write_text(
        "import importlib.metadata as m\nreal = m.version\n"
        "def version(name):\n"
        "    if name == 'aiortc': raise m.PackageNotFoundError(name)\n"
        "    return real(name)\n"
        "m.version = version\n"
    )
    path = f"{hooks}:{taskfs.environment['PYTHONPATH']}"
    done = taskfs("doctor", PYTHONPATH=path)
    assert "note live: the files of running tasks need the extra `live`: " in done.stdout


def test_aiortc_is_imported_by_the_first_look(
    cloud: FakeCloud, task: str, new_mount: Callable[..., Mount]
) -> None:
    """L-1: taskfs imports aiortc only when a program looks into `live/`."""
    mount = new_mount(log_level="debug")
    eventually(lambda: LOADED in mount.log.read_text())
    os.listdir(mount.path / task)
    assert not loaded(mount.pid, "av")
    os.listdir(mount.path / task / "live")
    assert loaded(mount.pid, "av")


def test_packages_are_gone_after_the_first_look(
    cloud: FakeCloud, task: str, hooks: Path, tmp_path: Path, new_mount: Callable[..., Mount]
) -> None:
    """L-11: A mount keeps working while its packages are upgraded or removed, `live/` from the
    first look on."""
    flag, names = tmp_path / "gone", tmp_path / "names"
    (hooks / "sitecustomize.py").write_text(REFUSING.format(flag=str(flag), names=str(names)))
    other = cloud.add_task(status="computation-ended")
    cloud.machine_files(other).write("stdout.txt", b"fine\n")
    mount = new_mount(log_level="debug", timeout="60s")
    eventually(lambda: LOADED in mount.log.read_text())
    assert os.listdir(mount.path / task / "live") == ["stdout.txt", "log"]
    flag.touch()
    assert (mount.path / other / "live/stdout.txt").read_bytes() == b"fine\n"
    with open(mount.path / task / "live/stdout.txt", "rb") as opened:
        assert opened.read() == b"one\ntwo\nthree\n"
        cloud.hang_up(task)
        cloud.machine_files(task).append("stdout.txt", b"four\n")
        eventually(lambda: opened.read() == b"four\n")
        end_task(cloud, task, {"stdout.txt": b"one\ntwo\nthree\nfour\nfive\n"})
        eventually(lambda: opened.read() == b"five\n")
    cloud.machine(other).faults.add("nonsense", text="[[1]]")
    (mount.path / ".taskfs/refresh").write_text("1")
    assert errno_of(lambda: os.listdir(mount.path / other / "live")) == errno.EIO
    assert not names.exists(), names.read_text()
