"""`taskfs.support.cores`: the cores that affinity and quotas leave to this process."""

import math
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from taskfs import core
from taskfs.core import open_resources
from taskfs.support import cores
from taskfs.support.cores import quota_cores, usable_cores
from taskfs.support.interruptible_wait import Waiter
from taskfs.support.stats import Stats


def group(root: Path, path: str, **files: str) -> None:
    """Make the directory of a control group with these files; `__` stands for a dot."""
    directory = root / path
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (directory / name.replace("__", ".")).write_text(content + "\n")


def member_of(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "cgroup"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("150000 100000", 1.5),
        ("max 100000", math.inf),
        ("50000 100000", 0.5),
        ("", math.inf),
        ("1 0", math.inf),
        ("nonsense", math.inf),
    ],
)
def test_a_quota_of_version_2(tmp_path: Path, content: str, expected: float) -> None:
    """R-38: The quota of cgroup v2 counts; one that cannot be read does not."""
    group(tmp_path / "root", "a/b", cpu__max=content)
    assert quota_cores(member_of(tmp_path, "0::/a/b"), tmp_path / "root") == expected


def test_the_smallest_quota_of_all_parents_counts(tmp_path: Path) -> None:
    """R-38: A parent's quota counts, and so does that of the root, which a container sees."""
    root, member = tmp_path / "root", member_of(tmp_path, "0::/a/b")
    group(root, "a/b", cpu__max="400000 100000")
    group(root, "a", cpu__max="300000 100000")
    assert quota_cores(member, root) == 3
    group(root, "", cpu__max="200000 100000")
    assert quota_cores(member, root) == 2
    assert quota_cores(member_of(tmp_path, "0::/path/of/the/host"), root) == 2


@pytest.mark.parametrize("controllers", ["cpu", "cpu,cpuacct", "cpuacct,cpu"])
def test_a_quota_of_version_1(tmp_path: Path, controllers: str) -> None:
    """R-38: The quota of cgroup v1 counts, under the names that systems give its controllers."""
    root = tmp_path / "root"
    member = member_of(tmp_path, "3:memory:/x", f"2:{controllers}:/a", "1:name=systemd:/a", "0::/")
    group(root, f"{controllers}/a", cpu__cfs_quota_us="250000", cpu__cfs_period_us="100000")
    assert quota_cores(member, root) == 2.5
    group(root, f"{controllers}/a", cpu__cfs_quota_us="-1")
    assert quota_cores(member, root) == math.inf


def test_without_control_groups(tmp_path: Path) -> None:
    """R-38, R-26: Without control groups nothing is limited."""
    assert quota_cores(tmp_path / "none", tmp_path) == math.inf
    assert quota_cores(member_of(tmp_path, "odd", "0::/a"), tmp_path / "none") == math.inf


def test_affinity_and_quota(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """R-38: The cores are the fewer of affinity and quota, rounded up, at least one."""
    root = tmp_path / "root"
    monkeypatch.setattr(cores, "CGROUP_ROOT", root)
    monkeypatch.setattr(cores, "OWN_CGROUP", member_of(tmp_path, "0::/"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)), raising=False)
    for content, expected in (("max 1", 6), ("350000 100000", 4), ("1000 100000", 1)):
        group(root, "", cpu__max=content)
        usable_cores.cache_clear()
        assert usable_cores() == expected
    usable_cores.cache_clear()


def test_affinity_of_a_process() -> None:
    """R-38: A process that may use one core counts one."""
    program = "from taskfs.support.cores import usable_cores; print(usable_cores())"
    first = str(min(os.sched_getaffinity(0)))
    command = ["taskset", "-c", first, sys.executable, "-c", program]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "1\n"


@pytest.mark.parametrize(
    ("count", "is_mount", "workers", "threads"),
    [(1, False, 1, 2), (2, True, 1, 2), (3, True, 2, 3), (6, False, 4, 6), (64, False, 4, 8)],
)
def test_decoding_follows_the_cores(
    monkeypatch: pytest.MonkeyPatch, count: int, is_mount: bool, workers: int, threads: int
) -> None:
    """R-38: As many stretches are decoded at once as there are cores, on a mount one less. All
    members together are decoded ahead by a thread for each core."""
    monkeypatch.setattr(core, "usable_cores", lambda: count)
    resources = open_resources(Waiter(), Stats(), is_mount=is_mount)
    assert resources.max_workers == workers
    running, gate = threading.Semaphore(0), threading.Event()

    def decode() -> None:
        running.release()
        gate.wait(30)

    for _ in range(20):
        resources.decoding.submit(decode)
    for _ in range(threads):
        assert running.acquire(timeout=30)
    assert not running.acquire(timeout=0.1)
    gate.set()
