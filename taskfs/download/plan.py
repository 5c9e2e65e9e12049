"""Downloading a task's archive: its members as files, or the archive itself, planned first.

What is missing from the archives of all tasks, or too large for the disk, is found out before the
first byte is written; `fetching` then fetches.
"""

import errno
import fnmatch
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar, Final

from taskfs.archive.archive import Archive
from taskfs.archive.index import Member
from taskfs.core import open_engine, open_task_archive
from taskfs.download.destination import Target
from taskfs.download.fetch import ArchiveDownload, DownloadItem, MemberDownload
from taskfs.errors import NotFound, TaskFSError, Unavailable
from taskfs.model import Task, format_size
from taskfs.remote.api_client import TaskClient
from taskfs.support.interruptible_wait import Waiter
from taskfs.support.stats import Stats
from taskfs.tasks.archives import ArchiveKind

ARCHIVE_GRACE_S: Final = 60.0  # so long after a success its archive may still be on its way
POLL_S: Final = 1.0


class NoSpace(TaskFSError):
    """The disk is too small for what is to be fetched."""

    errno: ClassVar[int] = errno.ENOSPC


class ArchiveLate(Unavailable):
    """The task succeeded, but its archive did not appear in time."""


class Archives:
    """The archives of the tasks of one command: they share pools and memory."""

    def __init__(self, client: TaskClient) -> None:
        self._client = client
        self._engine = open_engine(Waiter(), Stats())

    def wait_for(
        self, task_id: str, kind: ArchiveKind, patience_s: float = ARCHIVE_GRACE_S
    ) -> Archive:
        """Return an archive of the task; one of a task that succeeded just now is waited for.

        Raises:
            NotFound: there is no archive (yet), or no such task.
            ArchiveLate: the task succeeded, but 60 s after its end, or after *patience_s*, there
                still is none.
        """
        deadline: float | None = None
        while True:
            task = self._client.get_task(task_id)
            try:
                return open_task_archive(self._client, task, kind, self._engine)
            except NotFound:
                pass
            grace_s = self._grace_s(task, kind) if deadline is None else 0.0
            if deadline is None and grace_s <= 0:
                raise NotFound(_why_no_archive(task, kind))
            deadline = deadline or time.monotonic() + min(grace_s, patience_s)
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0:
                raise ArchiveLate(
                    f"task {task_id} succeeded, but its archive did not appear in time"
                )
            time.sleep(min(POLL_S, remaining_s))

    def _grace_s(self, task: Task, kind: ArchiveKind) -> float:
        """Return for how long the archive may still be on its way, 0 or less if it is not."""
        if kind is not ArchiveKind.OUTPUT or task.status != "success":
            return 0.0
        if task.end_ns is None:
            return ARCHIVE_GRACE_S
        now_s = time.time() + (self._client.clock_offset_s or 0.0)
        return ARCHIVE_GRACE_S - max(0.0, now_s - task.end_ns / 1e9)


def _why_no_archive(task: Task, kind: ArchiveKind) -> str:
    if kind is ArchiveKind.INPUT:
        return f"task {task.id} has no input archive: it was removed, or not sent yet"
    if not task.is_terminated:
        return f"task {task.id} is {task.status}, with no outputs yet: see `taskfs wait {task.id}`"
    return f"task {task.id} ({task.status}) has no output archive: it was removed, or never made"


def select_members(members: Iterable[Member], names: Sequence[str]) -> list[Member]:
    """Return the members that *names* choose, in archive order; all of them without names.

    A name is a member's path, a directory (everything beneath it) or a glob, whose `*` crosses
    `/`. NotFound names those that choose nothing.
    """
    members = list(members)
    if not names:
        return members
    chosen: set[str] = set()
    missing = []
    for name in names:
        found = _matching(members, name)
        if not found and (other := _read_as_utf8(name)):
            found = _matching(members, other)
        chosen.update(found)
        if not found:
            missing.append(name)
    if missing:
        raise NotFound(f"not in the archive: {', '.join(missing)}")
    return [member for member in members if member.path in chosen]


def _read_as_utf8(name: str) -> str | None:
    """Return *name*, which the locale decoded, as its bytes read in UTF-8; None if they are not.

    A terminal may be UTF-8 where the locale is not.
    """
    try:
        return os.fsencode(name).decode("utf-8")
    except UnicodeError:
        return None


def _matching(members: Sequence[Member], name: str) -> set[str]:
    name = name.removeprefix("./")
    exact = {member.path for member in members if member.path == name}
    if exact:
        return exact
    folder = name.rstrip("/") + "/"
    beneath = {member.path for member in members if member.path.startswith(folder)}
    if beneath or not re.search(r"[*?\[]", name):
        return beneath
    matches = re.compile(fnmatch.translate(f"{folder}*" if name.endswith("/") else name)).match
    return {member.path for member in members if matches(member.path)}


def plan_members(archive: Archive, target: Path, names: Sequence[str]) -> list[DownloadItem]:
    """Return what has to be fetched for *names* to be in *target*; nothing is written yet."""
    place = Target(target)
    chosen = select_members(archive.index.members, names)
    cases = Counter(member.path.casefold() for member in chosen)
    fetches: list[DownloadItem] = []
    for member in chosen:
        has_twin = cases[member.path.casefold()] > 1
        if not place.has(member, has_twin=has_twin):
            fetches.append(MemberDownload(archive, member, place, has_twin))
    return fetches


def plan_archive(archive: Archive, target: Path, name: str) -> list[DownloadItem]:
    """Return what has to be fetched for the archive itself to be in *target* as *name*."""
    fetch = ArchiveDownload(archive, target, name)
    return [] if fetch.is_there() else [fetch]


def check_space(fetches: Iterable[DownloadItem]) -> None:
    """Raise NoSpace where a disk has less room than the files need that go there."""
    needed: dict[int, tuple[Path, int]] = {}
    for place, size in _sizes_by_target(fetches).items():
        existing = next(path for path in (place, *place.parents) if path.exists())
        device = existing.stat().st_dev
        needed[device] = (existing, needed.get(device, (existing, 0))[1] + size)
    for place, size in needed.values():
        total, _, free = shutil.disk_usage(place)
        if size > free and total:  # some file systems tell neither, and both are 0
            raise NoSpace(
                f"{format_size(size)} are needed in {place}, where {format_size(free)} are free: "
                "make room, or choose files with --filenames"
            )


def _sizes_by_target(fetches: Iterable[DownloadItem]) -> dict[Path, int]:
    sizes: dict[Path, int] = {}
    for fetch in fetches:
        place = fetch.target.path if isinstance(fetch, MemberDownload) else fetch.path.parent
        place = place.absolute()
        sizes[place] = sizes.get(place, 0) + fetch.size
    return sizes
