"""ZIP central directory to members: what an archive holds, from its last bytes alone.

Formats are PKWARE's APPNOTE 6.3.10: central directory header (4.3.12), extra fields (4.5, 4.6) and
general purpose bits (4.4.4). Local headers are never read here: streamed ones have zeros.
"""

import calendar
import logging
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Final, NamedTuple

from taskfs.archive.end_record import CENTRAL_MAGIC, EndRecord
from taskfs.archive.member_names import has_windows_separators, normalise
from taskfs.errors import CorruptData, TaskFSError, Unsupported

log = logging.getLogger(__name__)

CENTRAL: Final = struct.Struct("<4s6H3L5H2L")

FLAG_ENCRYPTED: Final = 0x0001
FLAG_STRONG_ENCRYPTION: Final = 0x0040
EXTRA_ZIP64: Final = 0x0001
EXTRA_NTFS: Final = 0x000A
EXTRA_TIMESTAMP: Final = 0x5455
EXTRA_UNICODE_PATH: Final = 0x7075
NTFS_EPOCH_100NS: Final = 116_444_736_000_000_000  # 1601 to 1970 in units of 100 ns
NAME_MAX: Final = 255
MAX_ENTRIES: Final = 600_000  # bounds an index to some 400 MB of memory
# A name of 64 KB can make 32,000 directories. Each member allows one more than these, so that 1 MB
# cannot fill the memory.
MAX_FOLDERS: Final = 500_000
MAX_SIZE: Final = (1 << 63) - 1  # off_t
OLDEST_NS: Final = -(1 << 63)


class Member(NamedTuple):
    """One file of the archive. `path` is relative to the root that the index was made for."""

    path: str
    size: int
    compressed_size: int
    crc32: int
    method: int
    flags: int
    header_offset: int
    mtime_ns: int
    raw_name: bytes  # as the directory has it: what the local header must repeat
    number: int = 0  # its place in the directory

    @property
    def is_encrypted(self) -> bool:
        """Whether the bytes need a password (APPNOTE 4.4.4, bits 0 and 6)."""
        return bool(self.flags & (FLAG_ENCRYPTED | FLAG_STRONG_ENCRYPTION))


class Folder:
    """A directory of the archive; `children` maps a name to a `Folder` or a `Member`.

    `mtime_ns` is the time of its own entry, else the newest beneath it, None if nothing is there.
    """

    __slots__ = ("children", "mtime_ns")

    def __init__(self) -> None:
        self.children: dict[str, Folder | Member] = {}
        self.mtime_ns: int | None = None


class ArchiveIndex:
    """The files of one archive beneath one root, in archive order and as a tree. Immutable."""

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
        """Return the folder at *path*, made with those above it; a file of that name goes."""
        folder = self.root
        at = 0
        while at < len(path):
            stop = path.find("/", at)
            stop = len(path) if stop < 0 else stop
            name = path[at:stop]
            child = folder.children.get(name)
            if not isinstance(child, Folder):
                if child is not None:
                    shadowed.add(path[:stop])
                folder.children[name] = child = Folder()
                self._folder_count += 1
                if self._folder_count > self._max_folders:
                    raise Unsupported(f"the archive has more than {self._max_folders} directories")
            folder = child
            at = stop + 1
        return folder

    def _date_folders(self) -> None:
        """Date the folders without an entry of their own by the newest time beneath them."""
        folders = [self.root]
        for folder in folders:  # grows: those above come before those beneath
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
        """Return what is at *path*, the root for an empty one, None if nothing is."""
        node: Folder | Member = self.root
        if path:
            for name in path.split("/"):
                if not isinstance(node, Folder):
                    return None
                found = node.children.get(name)
                if found is None:
                    return None
                node = found
        return node


def read_index(directory: bytes, end: EndRecord, root: str) -> ArchiveIndex:
    """Return the index of the files beneath *root* (such as `artifacts/`).

    *directory* is the central directory, the bytes [end.start, end.stop) of the object. Names
    that cannot be shown are left out and logged; the last of two equal names wins.

    Raises:
        CorruptData: the directory is cut short or damaged.
        Unsupported: it has too many entries or directories.
    """
    # Names may hold the magic number too, but in honest archives not so often that it counts.
    is_long = len(directory) > MAX_ENTRIES * CENTRAL.size
    if is_long and directory.count(CENTRAL_MAGIC) > MAX_ENTRIES:
        raise Unsupported(f"the archive has more than {MAX_ENTRIES} members")
    members: dict[str, Member] = {}
    folder_times: dict[str, int] = {}
    showable: set[str] = set()  # folders whose names were looked at
    left_out = 0
    for member in _read_entries(directory, end, root):
        path = member.path
        folder = path[:-1] if path.endswith("/") else None
        if not path:
            folder_times[""] = member.mtime_ns
        elif not _is_showable(path if folder is None else folder, showable) or (
            member.size > MAX_SIZE or member.compressed_size > MAX_SIZE
        ):
            left_out += 1
            members.pop(path, None)  # an earlier one of its name is not the archive's last word
            if left_out <= 10:
                log.warning("archive: a member is left out for its name or size: %.300r", path)
        elif folder is not None:
            folder_times[folder] = member.mtime_ns
        else:
            members.pop(path, None)  # the last of two equal names takes the later place
            members[path] = member
    if left_out > 10:
        log.warning("archive: %d members are left out for their names or sizes", left_out)
    if not members and not folder_times:
        _log_nothing_shown(directory, root, left_out)
    return ArchiveIndex(members.values(), folder_times)


def read_or_refuse(directory: bytes, end: EndRecord, root: str) -> ArchiveIndex | TaskFSError:
    """As `read_index`, but return what it raises."""
    try:
        return read_index(directory, end, root)
    except (CorruptData, Unsupported) as exc:
        return exc


def _log_nothing_shown(directory: bytes, root: str, left_out: int) -> None:
    """Say why an archive that has members shows none: it is no empty one."""
    if left_out:
        log.warning("archive: every member beneath %s is left out", root)
    elif directory.startswith(CENTRAL_MAGIC):
        length = CENTRAL.unpack_from(directory)[10]
        first = directory[CENTRAL.size : CENTRAL.size + length]
        log.warning("archive: no member lies beneath %s, the first is %.300r", root, first)


def _is_showable(path: str, showable: set[str]) -> bool:
    """Whether every component can be a file's name; *showable* has the folders found to be."""
    above, slash, name = path.rpartition("/")
    if not _is_file_name(name):
        return False
    if slash and above not in showable:
        if not all(map(_is_file_name, above.split("/"))):
            return False
        showable.add(above)
    return True


def _is_file_name(name: str) -> bool:
    if name in ("", ".", "..") or "\0" in name:
        return False
    return len(name) <= 63 or len(name.encode("utf-8", "surrogateescape")) <= NAME_MAX


def _read_entries(directory: bytes, end: EndRecord, root: str) -> Iterator[Member]:
    """Yield the entries beneath *root*; `path` still ends in a slash for a directory."""
    is_from_windows = has_windows_separators(directory)
    at, limit, number = 0, len(directory), -1
    while at < limit:
        number += 1
        if at + CENTRAL.size > limit or not directory.startswith(CENTRAL_MAGIC, at):
            # A digital signature (4.3.13) may follow the entries; nothing else may.
            if directory.startswith(b"PK\x05\x05", at):
                return
            raise CorruptData("the archive's directory is damaged")
        fields = CENTRAL.unpack_from(directory, at)
        flags, method, dos_time, dos_date, crc, compressed, size = fields[3:10]
        name_length, extra_length, comment_length = fields[10:13]
        offset = fields[16]
        name_at = at + CENTRAL.size
        extra_at = name_at + name_length
        at = extra_at + extra_length + comment_length
        if at > limit:
            raise CorruptData("the archive's directory is cut short")
        raw_name = directory[name_at:extra_at]
        mtime_ns = None
        unicode_name = None
        if extra_length:
            for kind, value in _read_extra(directory, extra_at, extra_length):
                if kind == EXTRA_TIMESTAMP:
                    mtime_ns = _timestamp_ns(value) if mtime_ns is None else mtime_ns
                elif kind == EXTRA_ZIP64:
                    size, compressed, offset = _widen(value, size, compressed, offset)
                elif kind == EXTRA_UNICODE_PATH:
                    unicode_name = _unicode_path(value, raw_name)
            if mtime_ns is None:
                mtime_ns = _ntfs_ns(directory, extra_at, extra_length)
        if mtime_ns is None:
            mtime_ns = _dos_ns(dos_date, dos_time)
        name = unicode_name or _decode_name(raw_name)
        if is_from_windows:
            name = name.replace("\\", "/")
        if "//" in name or "/." in name or name.startswith("./"):
            name = normalise(name)
        if not name.startswith(root):
            continue
        path = name[len(root) :]
        start = offset + end.shift
        yield Member(path, size, compressed, crc, method, flags, start, mtime_ns, raw_name, number)


def _read_extra(directory: bytes, at: int, length: int) -> Iterator[tuple[int, bytes]]:
    stop = at + length
    while at + 4 <= stop:
        kind, size = struct.unpack_from("<HH", directory, at)
        if at + 4 + size > stop:
            return  # a damaged tail of extras loses the extras, not the member
        yield kind, directory[at + 4 : at + 4 + size]
        at += 4 + size


def _widen(value: bytes, size: int, compressed: int, offset: int) -> tuple[int, int, int]:
    """Return the ZIP64 forms of those of the three that are saturated (APPNOTE 4.5.3)."""
    wide = [int.from_bytes(value[at : at + 8], "little") for at in range(0, len(value) - 7, 8)]
    places = [size, compressed, offset]
    for place, narrow in enumerate(places):
        if narrow == 0xFFFFFFFF:
            if not wide:
                raise CorruptData("a ZIP64 field is missing from the archive's directory")
            places[place] = wide.pop(0)
    return places[0], places[1], places[2]


def _unicode_path(value: bytes, raw_name: bytes) -> str | None:
    """Return the UTF-8 name of a 0x7075 field, if it was made for this name (APPNOTE 4.6.9)."""
    if (
        len(value) < 6
        or value[0] != 1
        or int.from_bytes(value[1:5], "little") != zlib.crc32(raw_name)
    ):
        return None
    try:
        return value[5:].decode("utf-8")
    except UnicodeDecodeError:
        return None


def _decode_name(raw_name: bytes) -> str:
    # Bit 11 promises UTF-8; many writers give UTF-8 without it, DOS ones CP437. A broken promise
    # is read as CP437 too: a strange name beats a missing file.
    try:
        return raw_name.decode("utf-8")
    except UnicodeDecodeError:
        return raw_name.decode("cp437")


def _timestamp_ns(value: bytes) -> int | None:
    """Return the modification time of an extended timestamp field, seconds since 1970."""
    if len(value) < 5 or not value[0] & 1:
        return None
    return int.from_bytes(value[1:5], "little", signed=True) * 10**9


def _ntfs_ns(directory: bytes, extra_at: int, extra_length: int) -> int | None:
    """Return the modification time of an NTFS field (APPNOTE 4.5.5), 100 ns since 1601."""
    for kind, value in _read_extra(directory, extra_at, extra_length):
        if kind != EXTRA_NTFS:
            continue
        for tag, times in _read_extra(value, 4, len(value) - 4):
            if tag == 1 and len(times) >= 8:
                stamp = int.from_bytes(times[:8], "little")
                moment_ns = (stamp - NTFS_EPOCH_100NS) * 100
                return moment_ns if stamp and OLDEST_NS < moment_ns < -OLDEST_NS else None
    return None


@lru_cache(maxsize=4096)
def _dos_ns(date: int, time: int) -> int:
    """Return a DOS date and time, taken as UTC (APPNOTE 4.4.6); 1980-01-01 where it is none."""
    month, day = date >> 5 & 15, date & 31
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return 315_532_800 * 10**9
    moment = (1980 + (date >> 9), month, day, time >> 11, time >> 5 & 63, (time & 31) * 2)
    return calendar.timegm(moment) * 10**9
