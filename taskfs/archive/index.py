"""`ArchiveIndex`: the files of an archive beneath one root, in archive order and as a tree."""

import logging
from collections.abc import Iterable, Mapping
from typing import Final

from taskfs.archive.central_directory import CENTRAL, OLDEST_NS, first_raw_name, read_entries
from taskfs.archive.end_record import CENTRAL_MAGIC, EndRecord
from taskfs.archive.member import Member
from taskfs.errors import CorruptData, TaskFSError, Unsupported

log = logging.getLogger(__name__)

NAME_MAX: Final = 255  # bytes of a file name, Linux's limit
MAX_ENTRIES: Final = 600_000  # bounds the memory of an index to about 400 MB
# A name of 64 KB can make 32,000 directories, so an archive of 1 MB could fill the memory. Each
# member allows one directory more than these.
MAX_FOLDERS: Final = 500_000
MAX_SIZE: Final = (1 << 63) - 1  # off_t
MAX_WARNINGS: Final = 10  # lines in the log for the members that one archive leaves out


class Folder:
    """A directory of the archive; `children` maps a name to a `Folder` or a `Member`.

    `mtime_ns` is the time of its own entry, else the newest time beneath it, or None without any.
    """

    __slots__ = ("children", "mtime_ns")

    def __init__(self) -> None:
        self.children: dict[str, Folder | Member] = {}
        self.mtime_ns: int | None = None


class ArchiveIndex:
    """The files of one archive beneath one root. Immutable.

    Raises:
        Unsupported: there are too many directories.
    """

    def __init__(self, members: Iterable[Member], folder_times: Mapping[str, int]) -> None:
        self.root = Folder()
        self._folder_count = 0
        self.members = tuple(members)
        self._max_folders = MAX_FOLDERS + len(self.members)
        shadowed: set[str] = set()
        for path, time_ns in folder_times.items():
            self._make_folder(path, shadowed).mtime_ns = time_ns
        parent_path, parent = "", self.root
        for member in self.members:
            path, _, name = member.path.rpartition("/")
            if path != parent_path:  # neighbours mostly share their folder
                parent_path, parent = path, self._make_folder(path, shadowed)
            if isinstance(parent.children.get(name), Folder):
                shadowed.add(member.path)
            else:
                parent.children[name] = member
        if shadowed:
            log.warning("archive: %d files that are also directories are left out", len(shadowed))
            self.members = tuple(m for m in self.members if m.path not in shadowed)
        self._date_folders()

    def _make_folder(self, path: str, shadowed: set[str]) -> Folder:
        """Return the folder at *path*; make it and those above it.

        A file at the path of a folder is replaced, and its path is added to *shadowed*.
        """
        folder = self.root
        start = 0
        while start < len(path):
            stop = path.find("/", start)
            stop = len(path) if stop < 0 else stop
            name = path[start:stop]
            child = folder.children.get(name)
            if not isinstance(child, Folder):
                if child is not None:
                    shadowed.add(path[:stop])
                folder.children[name] = child = Folder()
                self._folder_count += 1
                if self._folder_count > self._max_folders:
                    raise Unsupported(f"the archive has more than {self._max_folders} directories")
            folder = child
            start = stop + 1
        return folder

    def _date_folders(self) -> None:
        """Give folders without an entry of their own the newest time beneath them."""
        folders = [self.root]
        for folder in folders:  # the list grows; parents come before their children
            folders += [child for child in folder.children.values() if isinstance(child, Folder)]
        newest: dict[int, int] = {}
        for folder in reversed(folders):
            times = [
                newest.get(id(child), OLDEST_NS) if isinstance(child, Folder) else child.mtime_ns
                for child in folder.children.values()
            ]
            newest_ns = max(times, default=OLDEST_NS)
            if folder.mtime_ns is None:
                folder.mtime_ns = newest_ns if newest_ns > OLDEST_NS else None
            newest[id(folder)] = max(
                newest_ns, OLDEST_NS if folder.mtime_ns is None else folder.mtime_ns
            )

    def lookup(self, path: str) -> Folder | Member | None:
        """Return the folder or member at *path*, or None; the root for an empty path."""
        node: Folder | Member | None = self.root
        for name in path.split("/") if path else ():
            if not isinstance(node, Folder):
                return None
            node = node.children.get(name)
        return node


def read_index(directory: bytes, end: EndRecord, root: str) -> ArchiveIndex:
    """Return the index of the files beneath *root* (such as `artifacts/`).

    *directory* is the central directory, the bytes [end.start, end.stop) of the object. Members
    whose names cannot be shown are left out and logged; of two equal names, the last one wins.

    Raises:
        CorruptData: the directory is cut short or damaged.
        Unsupported: it has too many entries or directories.
    """
    # A name may contain the magic number too, but hardly in so many members.
    is_long = len(directory) > MAX_ENTRIES * CENTRAL.size
    if is_long and directory.count(CENTRAL_MAGIC) > MAX_ENTRIES:
        raise Unsupported(f"the archive has more than {MAX_ENTRIES} members")
    members: dict[str, Member] = {}
    folder_times: dict[str, int] = {}
    showable: set[str] = set()  # paths of folders that were checked already
    left_out = 0
    for member in read_entries(directory, end, root):
        path = member.path
        folder = path[:-1] if path.endswith("/") else None
        if not path:
            folder_times[""] = member.mtime_ns
        elif not _is_showable(path if folder is None else folder, showable) or (
            member.size > MAX_SIZE or member.compressed_size > MAX_SIZE
        ):
            left_out += 1
            members.pop(path, None)  # this member replaces an earlier one of its name
            if left_out <= MAX_WARNINGS:
                log.warning("archive: a member is left out for its name or size: %.300r", path)
        elif folder is not None:
            folder_times[folder] = member.mtime_ns
        else:
            members.pop(path, None)  # of two equal names, the last one also gives the position
            members[path] = member
    if left_out > MAX_WARNINGS:
        log.warning("archive: %d members are left out for their names or sizes", left_out)
    if not members and not folder_times:
        _log_nothing_shown(directory, root, left_out)
    return ArchiveIndex(members.values(), folder_times)


def read_or_refuse(directory: bytes, end: EndRecord, root: str) -> ArchiveIndex | TaskFSError:
    """Return the index as `read_index` does, or the error that it raises."""
    try:
        return read_index(directory, end, root)
    except (CorruptData, Unsupported) as exc:
        return exc


def _log_nothing_shown(directory: bytes, root: str, left_out: int) -> None:
    """Log why an archive that has members shows none of them."""
    if left_out:
        log.warning("archive: every member beneath %s is left out", root)
    elif (first := first_raw_name(directory)) is not None:
        log.warning("archive: no member lies beneath %s, the first is %.300r", root, first)


def _is_showable(path: str, showable: set[str]) -> bool:
    """Whether every component of *path* is a valid file name.

    *showable* has the folders whose components are; their paths are added to it.
    """
    parent, slash, name = path.rpartition("/")
    if not _is_file_name(name):
        return False
    if slash and parent not in showable:
        if not all(map(_is_file_name, parent.split("/"))):
            return False
        showable.add(parent)
    return True


def _is_file_name(name: str) -> bool:
    if name in ("", ".", "..") or "\0" in name:
        return False
    return len(name) <= 63 or len(name.encode("utf-8", "surrogateescape")) <= NAME_MAX
