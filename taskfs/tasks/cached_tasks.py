"""Which files of the disk cache belong to which task.

The names of the files are hashes of the archive's path and version. They are computed from the
records of the tasks, and from the versions in the cached indexes. So nothing else has to be saved,
and nothing can be wrong after a crash. Files of archives without a cached index belong to no task:
those of unfinished tasks and of replaced versions.
"""

import contextlib
import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from taskfs.archive.index_layout import KIND, decode_head
from taskfs.cache.disk_cache import cache_key
from taskfs.cache.eviction import INDEXES
from taskfs.cache.sealed_file import read_sealed
from taskfs.errors import CacheChanged
from taskfs.model import ObjectVersion, Task
from taskfs.tasks.archive_kind import ArchiveKind


def files_by_task(root: Path, namespace: str, tasks: Iterable[Task]) -> dict[str, list[Path]]:
    """Return the cached files of those of *tasks* that have any; *namespace* is the API's URL."""
    indexes = _names(root / INDEXES)
    blocks: defaultdict[str, list[Path]] = defaultdict(list)
    for directory in _names(root / "blocks"):
        for name in _names(root / "blocks" / directory):
            blocks[name.partition("-")[0]].append(root / "blocks" / directory / name)
    found: defaultdict[str, list[Path]] = defaultdict(list)
    for task in tasks:
        for kind in ArchiveKind:
            path, identity = kind.path(task), kind.identity(task)
            key = cache_key(namespace, path, identity)
            if path is None or identity is None or key not in indexes:
                continue
            index = root / INDEXES / key
            found[task.id].append(index)
            version = _version_on_disk(index)
            if version is not None:
                found[task.id] += blocks[cache_key(namespace, path, version)]
    return dict(found)


def size_on_disk(paths: Iterable[Path]) -> int:
    """Return the bytes that the files take; a missing file takes none."""
    total = 0
    for path in paths:
        with contextlib.suppress(OSError):
            total += path.lstat().st_blocks * 512
    return total


def _names(directory: Path) -> set[str]:
    try:
        return set(os.listdir(directory))
    except OSError:
        return set()


def _version_on_disk(path: Path) -> ObjectVersion | None:
    """Return the version of the archive whose index lies at *path*; its time of use stays."""
    try:
        status = os.stat(path)
        content = read_sealed(path, KIND)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        head = decode_head(content) if content is not None else None
    except (OSError, CacheChanged):
        return None
    return head.version if head is not None else None
