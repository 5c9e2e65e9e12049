"""`taskfs mounts` and `stats`: the mounts of this machine and their counters."""

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskfs.cli.mount_stats import METRICS, STATE_SILENT
from taskfs.fuse.mountpoint import umount
from tests.cli.conftest import Command, eventually
from tests.fake_api import FakeCloud

pytestmark = pytest.mark.mount


@pytest.fixture
def mounted(taskfs: Command, cloud: FakeCloud, home: Path) -> Iterator[Path]:
    task = cloud.add_task(outputs={"a.txt": b"hello"})
    path = home / "tasks"
    assert taskfs("mount", str(path)).returncode == 0
    try:
        assert (path / task / "outputs" / "a.txt").read_bytes() == b"hello"
        yield path
    finally:
        umount(path, lazy=True)


def output_of(taskfs: Command, path: Path, *arguments: str) -> str:
    """Return what a command prints once the mount on *path*, which a busy machine may delay,
    answers in time."""
    printed = ""

    def answers() -> bool:
        nonlocal printed
        done = taskfs(*arguments)
        printed = done.stdout
        lines = (done.stdout + done.stderr).splitlines()
        return not any(str(path) in line and STATE_SILENT in line for line in lines)

    eventually(answers)
    return printed


def listed(taskfs: Command, path: Path) -> dict[str, object]:
    """Return the mount on *path* as `mounts --json` shows it once it answers in time or is dead."""
    mount: dict[str, object] = {}

    def answers() -> bool:
        nonlocal mount
        found = json.loads(taskfs("mounts", "--json").stdout)
        [mount] = [each for each in found if each["mountpoint"] == str(path)]
        return mount["state"] != STATE_SILENT

    eventually(answers)
    return mount


def test_a_live_and_a_dead_mount(taskfs: Command, mounted: Path) -> None:
    """C-58: `mounts` lists live and dead mounts with their state and counters."""
    heading, *lines = output_of(taskfs, mounted, "mounts").splitlines()
    assert re.split(r"\s{2,}", heading) == [
        *("Mountpoint", "State", "PID", "Uptime", "Requests", "Received", "Hit rate", "Options")
    ]
    [line] = [line for line in lines if line.startswith(f"{mounted} ")]
    assert re.search(r"live +\d+ +00:0\d:\d\d +\d+ +[\d.]+ \w+ ", line)
    mount = listed(taskfs, mounted)
    assert mount["state"] == "live"
    stats = mount["stats"]
    assert isinstance(stats, dict) and stats["store_requests"] >= 1
    os.kill(stats["pid"], signal.SIGKILL)
    eventually(lambda: listed(taskfs, mounted)["state"] == "dead")
    assert listed(taskfs, mounted)["stats"] == {}
    done = taskfs("stats", str(mounted))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert f"the mount on {mounted} is dead" in done.stderr


def test_stats(taskfs: Command, mounted: Path) -> None:
    """C-58: stats prints the counters of a mount, as lines or as JSON."""
    shown = output_of(taskfs, mounted, "stats", str(mounted))
    assert re.search(r"(?m)^offline: +false$", shown), shown
    assert re.search(r"(?m)^store_requests: +[1-9]\d*$", shown)
    [stats] = json.loads(output_of(taskfs, mounted, "stats", "--json", str(mounted)))
    assert stats["mountpoint"] == str(mounted)


def test_prometheus(taskfs: Command, mounted: Path) -> None:
    """C-58: --prometheus prints the text exposition format with a type for each counter."""
    shown = output_of(taskfs, mounted, "stats", "--prometheus", str(mounted))
    sample = re.compile(r'taskfs_(\w+)\{mountpoint="[^"]*"(,version="[^"]*")?\} [\d.]+')
    samples = [line for line in shown.splitlines() if not line.startswith("#")]
    assert all(sample.fullmatch(line) for line in samples)
    assert f'taskfs_store_requests_total{{mountpoint="{mounted}"}} ' in shown
    assert "# TYPE taskfs_store_requests_total counter" in shown
    assert "# TYPE taskfs_memory_bytes gauge" in shown


def test_each_counter_is_a_metric(taskfs: Command, mounted: Path) -> None:
    """C-58: Each number of stats.json is a metric of Prometheus, but for the process id."""
    stats = json.loads((mounted / ".taskfs" / "stats.json").read_text())
    numbers = {name for name, value in stats.items() if type(value) in (int, float)}
    assert numbers - {"pid"} == set(METRICS)


def test_no_mount(taskfs: Command) -> None:
    """C-58: stats of a directory that is no mount is one line."""
    done = taskfs("stats", str(taskfs.cwd))
    assert done.returncode == 1
    assert done.stderr == f"taskfs: no taskfs is mounted on {taskfs.cwd}: see `taskfs mounts`\n"
