"""How many cores this process may use: its affinity, and the CPU quota of its control groups."""

import functools
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

CGROUP_ROOT: Final = Path("/sys/fs/cgroup")
OWN_CGROUP: Final = Path("/proc/self/cgroup")


@functools.cache
def usable_cores() -> int:
    """Return the number of cores, at least 1; looked up once."""
    try:
        cores = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # not Linux, or a sandbox
        cores = os.cpu_count() or 1
    return max(1, math.ceil(min(cores, quota_cores(OWN_CGROUP, CGROUP_ROOT))))


def quota_cores(membership: Path, root: Path) -> float:
    """Return the cores that the control groups allow; infinite without a quota.

    *membership* is /proc/self/cgroup, and *root* is where the groups are mounted. The quota of each
    parent counts as well. In a container the path of a group may be that of the host, so the root
    itself is looked at too.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return math.inf
    quotas = [math.inf]
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            quotas += [
                _quota_v2(group)
                for mounted in (root, root / "unified")
                for group in _groups(mounted, path)
            ]
        elif "cpu" in controllers.split(","):
            quotas += [
                _quota_v1(group)
                for name in dict.fromkeys((controllers, "cpu"))
                for group in _groups(root / name, path)
            ]
    return min(quotas)


def _groups(root: Path, path: str) -> Iterator[Path]:
    """Yield the directory of the group at *path*, and those of its parents up to *root*."""
    names = [name for name in path.split("/") if name not in ("", "..")]
    for count in range(len(names), -1, -1):
        yield root.joinpath(*names[:count])


def _quota_v2(group: Path) -> float:
    try:
        quota, period = (group / "cpu.max").read_text().split()
        return int(quota) / int(period) if quota != "max" else math.inf
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf


def _quota_v1(group: Path) -> float:
    try:
        quota = int((group / "cpu.cfs_quota_us").read_text())
        period = int((group / "cpu.cfs_period_us").read_text())
        return quota / period if quota > 0 else math.inf
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf
