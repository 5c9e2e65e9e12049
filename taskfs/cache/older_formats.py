"""Removal of what older versions of taskfs left in the cache directory.

A format is a directory `v1`, `v2`, …, which a process locks while it uses it. The first versions
did not, so a directory in which anything changed within `IDLE_S` counts as used too. There
was no format before `v1`, so nothing is removed until there is a `v2`.
"""

import contextlib
import fcntl
import logging
import os
import re
import shutil
import stat
import threading
import time
import weakref
from pathlib import Path
from typing import Final

from taskfs.cache.eviction import EVICTION_LOCK, INDEXES, RANGE_LOCKS
from taskfs.cache.pins import DIRECTORY as PINS

log = logging.getLogger(__name__)

# Seconds without a change after which a directory that is not locked counts as unused. A mount
# updates the time of a file that it reads.
IDLE_S: Final = 86400.0
_FORMAT_NAME: Final = re.compile(r"v([0-9]{1,9})")
# The names that versions of taskfs made in such a directory. Other files stay.
_OURS: Final = frozenset({"blocks", "records", INDEXES, PINS, RANGE_LOCKS, EVICTION_LOCK})


def mark_used(root: Path, user: object) -> None:
    """Lock the directory of a format for as long as *user* exists; without locks, do nothing."""
    with contextlib.suppress(OSError):
        directory = _open_directory(root)
        weakref.finalize(user, os.close, directory)
        fcntl.flock(directory, fcntl.LOCK_SH | fcntl.LOCK_NB)


def start_removal(cache_dir: Path, current: str) -> None:
    """Remove the unused directories of formats older than *current* in a daemon thread."""
    if find_older_formats(cache_dir, current):
        threading.Thread(
            target=remove_older_formats,
            args=(cache_dir, current),
            name="taskfs-old-cache",
            daemon=True,
        ).start()


def find_older_formats(cache_dir: Path, current: str) -> list[Path]:
    """Return the directories of formats older than *current* that belong to this user."""
    found = []
    with contextlib.suppress(OSError):
        for path in cache_dir.iterdir():
            match = _FORMAT_NAME.fullmatch(path.name)
            if match and int(match[1]) < int(current.removeprefix("v")):
                status = path.lstat()
                if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
                    found.append(path)
    return found


def remove_older_formats(cache_dir: Path, current: str, *, idle_s: float = IDLE_S) -> None:
    """Remove the directories of formats older than *current* that no process uses.

    They must have been unchanged for *idle_s* seconds. Files that taskfs did not make stay, with
    their directory.
    """
    for root in find_older_formats(cache_dir, current):
        try:
            directory = _open_directory(root)
            try:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if time.time() - _changed_s(root) >= idle_s:
                    for name in sorted(_OURS):
                        _remove(root / name)
                    root.rmdir()
                    log.info("%s is removed: an older version of taskfs left it", root)
            finally:
                os.close(directory)
        except OSError as exc:
            log.debug("%s stays: %s", root, exc)


def _open_directory(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _changed_s(root: Path) -> float:
    """Return when anything beneath *root* changed last."""
    times = [root.stat().st_mtime]
    for directory, directories, names in os.walk(root):
        for name in (*directories, *names):
            with contextlib.suppress(OSError):
                times.append(os.lstat(os.path.join(directory, name)).st_mtime)
    return max(times)


def _remove(path: Path) -> None:
    """Remove a file or a tree; a link is removed and not followed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
