"""The statistics of mounts, read from their `.taskfs/stats.json`."""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

from taskfs.errors import MountError
from taskfs.fuse.mount_table import FSTYPE, MountEntry, mounts, mounts_on
from taskfs.fuse.mountpoint import is_dead, read_answering

STATE_LIVE: Final = "live"
STATE_DEAD: Final = "dead"
STATE_SILENT: Final = "no answer"
STATE_FOREIGN: Final = "another user's"
THREADS: Final = 8  # mounts asked at a time: one that hangs must not delay the others


class InspectedMount(NamedTuple):
    """A mount of this machine, its state, and its statistics if it is live."""

    mountpoint: str
    state: str
    options: str
    stats: Mapping[str, Any]


def all_mounts() -> list[InspectedMount]:
    """Return the taskfs mounts of this machine, in the order of the mount table."""
    entries = [entry for entry in mounts() if entry.type == FSTYPE]
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(_inspect, entries))


def stats_of(mountpoint: Path) -> Mapping[str, Any]:
    """Return the statistics of the mount on *mountpoint*.

    Raises:
        MountError: no live taskfs of this user is mounted there.
    """
    found = mounts_on(mountpoint)
    if not found or found[-1].type != FSTYPE:
        raise MountError(f"no taskfs is mounted on {mountpoint}: see `taskfs mounts`")
    state = _inspect(found[-1])
    if state.state != STATE_LIVE:
        raise MountError(f"the mount on {mountpoint} is {state.state}: see `taskfs mounts`")
    return state.stats


def _inspect(entry: MountEntry) -> InspectedMount:
    path = Path(entry.mountpoint)
    stats: Mapping[str, Any] = {}
    try:
        text = read_answering(path / ".taskfs/stats.json")
    except PermissionError:
        state = STATE_FOREIGN
    except OSError:
        state = STATE_DEAD if is_dead(path) else STATE_SILENT
    else:
        state = STATE_SILENT if text is None else STATE_LIVE
        stats = _parse(text or "{}")
    return InspectedMount(entry.mountpoint, state, entry.options, stats)


def _parse(text: str) -> Mapping[str, Any]:
    try:
        values = json.loads(text)
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


def hit_rate(stats: Mapping[str, Any]) -> float | None:
    """Return the share of block reads that the memory or the disk answered, None without reads."""
    hits = _count(stats, "block_hits")  # those on disk are among them
    reads = hits + _count(stats, "block_misses")
    return hits / reads if reads else None


def _count(stats: Mapping[str, Any], name: str) -> int:
    value = stats.get(name)
    return value if isinstance(value, int) else 0


class Metric(NamedTuple):
    """How Prometheus sees a statistic."""

    type: str
    help: str


# Key of stats.json: its metric. Counters have the suffix `_total` in Prometheus.
METRICS: Final[Mapping[str, Metric]] = {
    "uptime_seconds": Metric("gauge", "Seconds since the mount began."),
    "open_handles": Metric("gauge", "Open files."),
    "memory_bytes": Metric("gauge", "Resident memory of the process."),
    "memory_peak_bytes": Metric("gauge", "Highest resident memory of the process."),
    "api_requests": Metric("counter", "Requests to the task API."),
    "api_retries": Metric("counter", "Repeated requests to the task API."),
    "api_bytes": Metric("counter", "Bytes received from the task API."),
    "listing_pages": Metric("gauge", "Pages received of the listing that is read now."),
    "listing_pages_total": Metric("gauge", "Pages of the listing that is read now."),
    "store_requests": Metric("counter", "Requests to the object store."),
    "store_retries": Metric("counter", "Repeated requests to the object store."),
    "store_bytes": Metric("counter", "Bytes received from the object store."),
    "served_bytes": Metric("counter", "Bytes of archives that readers received."),
    "operations": Metric("counter", "Operations that the kernel asked for."),
    "block_hits": Metric("counter", "Blocks found in memory or in the disk cache."),
    "block_misses": Metric("counter", "Blocks fetched from the object store."),
    "disk_hits": Metric("counter", "Blocks found in the disk cache."),
    "read_ahead_bytes": Metric("counter", "Bytes fetched ahead of readers."),
    "read_ahead_used_bytes": Metric("counter", "Bytes fetched ahead and then read."),
    "read_ahead_unused_bytes": Metric("gauge", "Bytes fetched ahead and not read yet."),
}


def to_prometheus(all_stats: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the lines of Prometheus' text exposition format, version 0.0.4."""
    yield "# HELP taskfs_info The version of the program that serves the mount."
    yield "# TYPE taskfs_info gauge"
    for stats in all_stats:
        yield f"taskfs_info{_labels(stats, version=str(stats.get('version', '')))} 1"
    for name, metric in METRICS.items():
        known = [stats for stats in all_stats if isinstance(stats.get(name), (int, float))]
        if not known:
            continue
        full_name = f"taskfs_{name}" + ("_total" if metric.type == "counter" else "")
        yield f"# HELP {full_name} {metric.help}"
        yield f"# TYPE {full_name} {metric.type}"
        for stats in known:
            yield f"{full_name}{_labels(stats)} {stats[name]}"


def _labels(stats: Mapping[str, Any], **others: str) -> str:
    labels = {"mountpoint": str(stats.get("mountpoint", "")), **others}
    return "{" + ",".join(f'{name}="{_escape(text)}"' for name, text in labels.items()) + "}"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
