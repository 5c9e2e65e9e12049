"""The plan of a download: which files the target lacks, and whether the disk has room for them.

A command plans the downloads of all its tasks before it writes the first byte.
"""

import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from taskfs.archive.archive import Archive
from taskfs.download.destination import Destination
from taskfs.download.items import ArchiveDownload, MemberDownload
from taskfs.download.run import DownloadItem
from taskfs.download.selection import select_members
from taskfs.errors import NoSpace
from taskfs.support.formatting import format_size


def plan_members(archive: Archive, directory: Path, names: Sequence[str]) -> list[DownloadItem]:
    """Return a download for each member that *names* select and *directory* lacks."""
    destination, members = Destination(directory), archive.index.members
    chosen = select_members(members, names)
    # Hashes take little memory. Equal hashes of different names cost only a needless check.
    cases = Counter(hash(members[position].path.casefold()) for position in chosen)
    twins = {hashed for hashed, count in cases.items() if count > 1}
    del cases
    items: list[DownloadItem] = []
    for position in chosen:
        member = members[position]
        has_case_variant = bool(twins) and hash(member.path.casefold()) in twins
        if not destination.has(member, has_case_variant=has_case_variant):
            items.append(MemberDownload(archive, position, destination, has_case_variant))
    return items


def plan_archive(archive: Archive, directory: Path, name: str) -> list[DownloadItem]:
    """Return a download of the archive to *name* in *directory*, or none if it is there."""
    item = ArchiveDownload(archive, directory, name)
    return [] if item.is_complete() else [item]


def check_space(items: Iterable[DownloadItem]) -> None:
    """Check that each disk has room for the files that go there.

    Raises:
        NoSpace: one has less free space than its files need.
    """
    directories: dict[int, Path] = {}  # of each device, one existing directory
    needed: dict[int, int] = defaultdict(int)
    for directory, size in _sizes_by_directory(items).items():
        existing = next(path for path in (directory, *directory.parents) if path.exists())
        device = existing.stat().st_dev
        directories.setdefault(device, existing)
        needed[device] += size
    for device, existing in directories.items():
        total, _, free = shutil.disk_usage(existing)
        # Some file systems report neither size: total and free are 0.
        if needed[device] > free and total:
            raise NoSpace(
                f"{format_size(needed[device])} are needed in {existing}, "
                f"where {format_size(free)} are free: "
                "make room, or choose files with --filenames"
            )


def _sizes_by_directory(items: Iterable[DownloadItem]) -> dict[Path, int]:
    sizes: dict[Path, int] = defaultdict(int)
    for item in items:
        sizes[item.directory.absolute()] += item.remaining_bytes
    return sizes
