"""The central directory of a ZIP archive: its entries as `Member`s, from its bytes alone.

Formats are PKWARE's APPNOTE 6.3.10: central directory header (4.3.12), extra fields (4.5, 4.6) and
general purpose bits (4.4.4). Local headers are not read here: those of streamed members have zeros.
"""

import calendar
import mmap
import stat
import struct
import zlib
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final

from taskfs.archive.end_record import CENTRAL_MAGIC, EndRecord
from taskfs.archive.member import Member
from taskfs.archive.member_names import decode_name, normalise
from taskfs.errors import CorruptData

# The bytes of a directory: in memory, or in a mapped file. A slice of either is `bytes`.
Directory = bytes | mmap.mmap

CENTRAL: Final = struct.Struct("<4s6H3L5H2L")
SIGNATURE_MAGIC: Final = b"PK\x05\x05"  # a digital signature (4.3.13) may follow the entries

EXTRA_ZIP64: Final = 0x0001
EXTRA_NTFS: Final = 0x000A
EXTRA_TIMESTAMP: Final = 0x5455
EXTRA_UNICODE_PATH: Final = 0x7075
NTFS_EPOCH_100NS: Final = 116_444_736_000_000_000  # 1601 to 1970 in units of 100 ns
# Hosts by "version made by" (APPNOTE 4.4.2): FAT, NTFS and VFAT. Other systems allow `\` in names.
WINDOWS_HOSTS: Final = frozenset({0, 10, 14})
# The external attributes (4.4.15) of this host have the mode of stat(2) in their upper half.
UNIX_HOST: Final = 3
OLDEST_NS: Final = -(1 << 63)
DOS_EPOCH_NS: Final = 315_532_800 * 10**9  # 1980-01-01


def read_entries(
    directory: Directory, limit: int, end: EndRecord, root: str, *, is_from_windows: bool
) -> Iterator[tuple[int, Member]]:
    """Yield the entries beneath *root*, each with its place; a folder's path ends in a slash.

    The central directory, the bytes [end.start, end.stop) of the object, is the first *limit* bytes
    of *directory*.

    Raises:
        CorruptData: the directory is cut short or damaged.
    """
    at, number = 0, -1
    while at < limit:
        number += 1
        if at + CENTRAL.size > limit or directory[at : at + 4] != CENTRAL_MAGIC:
            if directory[at : min(limit, at + 4)] == SIGNATURE_MAGIC:
                return
            raise CorruptData("the archive's directory is damaged")
        fields = CENTRAL.unpack_from(directory, at)
        stop = at + CENTRAL.size + fields[10] + fields[11] + fields[12]
        if stop > limit:
            raise CorruptData("the archive's directory is cut short")
        member = _member(directory, at, fields, end.shift, root, number, is_from_windows)
        if member is not None:
            yield at, member
        at = stop


def parse_entry(
    directory: Directory, at: int, shift: int, root: str, number: int, *, is_from_windows: bool
) -> Member:
    """Return the entry at *at*, the one with this *number*, which `read_entries` yielded before.

    Raises:
        CorruptData: the directory was changed since.
    """
    fields = CENTRAL.unpack_from(directory, at)
    member = _member(directory, at, fields, shift, root, number, is_from_windows)
    if member is None:
        raise CorruptData("the index of the archive was changed while it was in use")
    return member


def _member(
    directory: Directory,
    at: int,
    fields: tuple[Any, ...],
    shift: int,
    root: str,
    number: int,
    is_from_windows: bool,
) -> Member | None:
    """Return the entry whose header has these *fields*, or None if it is not beneath *root*."""
    flags, method, dos_time, dos_date, crc, compressed, size, name_length, extra_length = fields[
        3:12
    ]
    offset = fields[16]
    extra_at = at + CENTRAL.size + name_length
    raw_name = directory[at + CENTRAL.size : extra_at]
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
    name = unicode_name or decode_name(raw_name)
    if is_from_windows:
        name = name.replace("\\", "/")
    if "//" in name or "/." in name or name.startswith("./"):
        name = normalise(name)
    if not name.startswith(root):
        return None
    path = name[len(root) :]
    start = offset + shift
    mode = fields[15] >> 16 if fields[1] >> 8 == UNIX_HOST else 0
    # A link, which is shown as a file with its target, has execute bits too.
    is_executable = bool(mode & stat.S_IXUSR) and stat.S_IFMT(mode) in (0, stat.S_IFREG)
    rest = mtime_ns, raw_name, number, is_executable
    return Member(path, size, compressed, crc, method, flags, start, *rest)


def count_entries(directory: Directory, limit: int) -> int:
    """Return how many entries there are before the end, or before damage."""
    at, count, last = 0, 0, limit - CENTRAL.size
    lengths = struct.Struct("<3H").unpack_from
    while at <= last and directory[at : at + 4] == CENTRAL_MAGIC:
        name, extra, comment = lengths(directory, at + 28)
        at += CENTRAL.size + name + extra + comment
        count += 1
    return count


def first_raw_name(directory: Directory, limit: int) -> bytes | None:
    """Return the name in the first entry of a valid directory, or None if it has no entry."""
    if limit < CENTRAL.size or directory[:4] != CENTRAL_MAGIC:
        return None
    length = CENTRAL.unpack_from(directory)[10]
    return directory[CENTRAL.size : CENTRAL.size + length]


def has_windows_separators(directory: Directory, limit: int) -> bool:
    r"""Whether `\` separates components in the names of this directory, as .NET writes them.

    It does if all members were made on Windows and no name contains a `/`.
    """
    if directory.find(b"\\", 0, limit) < 0:
        return False
    at = 0
    while at + CENTRAL.size <= limit and directory[at : at + 4] == CENTRAL_MAGIC:
        name_at = at + CENTRAL.size
        name_length, extra_length, comment_length = struct.unpack_from("<3H", directory, at + 28)
        host = directory[at + 5]  # the upper byte of "version made by"
        if host not in WINDOWS_HOSTS or directory.find(b"/", name_at, name_at + name_length) >= 0:
            return False
        at = name_at + name_length + extra_length + comment_length
    return True


def _read_extra(directory: Directory, at: int, length: int) -> Iterator[tuple[int, bytes]]:
    """Yield the kind and the value of each extra field."""
    stop = at + length
    while at + 4 <= stop:
        kind, size = struct.unpack_from("<HH", directory, at)
        if at + 4 + size > stop:
            return  # the field is damaged: the member is shown without it and those after it
        yield kind, directory[at + 4 : at + 4 + size]
        at += 4 + size


def _widen(value: bytes, size: int, compressed: int, offset: int) -> tuple[int, int, int]:
    """Return the three numbers, with 64-bit values for those of 0xFFFFFFFF (APPNOTE 4.5.3)."""
    wide = [int.from_bytes(value[at : at + 8], "little") for at in range(0, len(value) - 7, 8)]
    numbers = [size, compressed, offset]
    for n, narrow in enumerate(numbers):
        if narrow == 0xFFFFFFFF:
            if not wide:
                raise CorruptData("a ZIP64 field is missing from the archive's directory")
            numbers[n] = wide.pop(0)
    return numbers[0], numbers[1], numbers[2]


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


def _timestamp_ns(value: bytes) -> int | None:
    """Return the modification time of an extended timestamp field, seconds since 1970."""
    if len(value) < 5 or not value[0] & 1:
        return None
    return int.from_bytes(value[1:5], "little", signed=True) * 10**9


def _ntfs_ns(directory: Directory, extra_at: int, extra_length: int) -> int | None:
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
    """Return a DOS date and time, taken as UTC (APPNOTE 4.4.6); 1980-01-01 if it is invalid."""
    month, day = date >> 5 & 15, date & 31
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return DOS_EPOCH_NS
    moment = (1980 + (date >> 9), month, day, time >> 11, time >> 5 & 63, (time & 31) * 2)
    return calendar.timegm(moment) * 10**9
