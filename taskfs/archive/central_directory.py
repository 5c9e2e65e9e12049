"""The entries of the central directory of a ZIP archive as `Member`s, from its bytes alone.

Formats are PKWARE's APPNOTE 6.3.10: central directory header (4.3.12), extra fields (4.5, 4.6) and
general purpose bits (4.4.4). Local headers are not read here: those of streamed members have zeros.
"""

import calendar
import stat
import struct
import zlib
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final, Protocol

from taskfs.archive.member import Member
from taskfs.archive.member_names import decode_name, normalise
from taskfs.errors import CorruptData

CENTRAL: Final = struct.Struct("<4s6H3L5H2L")

EXTRA_ZIP64: Final = 0x0001
EXTRA_NTFS: Final = 0x000A
EXTRA_TIMESTAMP: Final = 0x5455
EXTRA_UNICODE_PATH: Final = 0x7075
NTFS_EPOCH_100NS: Final = 116_444_736_000_000_000  # 1601 to 1970 in units of 100 ns
# Hosts by "version made by" (APPNOTE 4.4.2): FAT, NTFS and VFAT. Other systems allow `\` in names.
WINDOWS_HOSTS: Final = frozenset({0, 10, 14})
# The external attributes (4.4.15) of this host have the mode of stat(2) in their upper half.
UNIX_HOST: Final = 3
ANY_EXECUTE: Final = stat.S_IXUSR << 16
OLDEST_NS: Final = -(1 << 63)
DOS_EPOCH_NS: Final = 315_532_800 * 10**9  # 1980-01-01
MAX_OFFSET: Final = (1 << 64) - 1  # in an index; far beyond the end of any archive
_USUAL_LENGTH: Final = 256  # bytes that hold most entries, with their names and extra fields


class Directory(Protocol):
    """The bytes of a central directory, in memory or in a file."""

    def __getitem__(self, part: slice, /) -> bytes: ...


def parse_entry(
    directory: Directory,
    at: int,
    leading_bytes: int,
    root: str,
    number: int,
    *,
    is_from_windows: bool,
) -> Member:
    """Return the entry at *at*, the one with this *number*, which is beneath *root*.

    Raises:
        CorruptData: the directory was changed since it was indexed.
    """
    entry = directory[at : at + _USUAL_LENGTH]
    fields = CENTRAL.unpack_from(entry)
    length = CENTRAL.size + fields[10] + fields[11]
    if length > len(entry):
        entry = directory[at : at + length]
    member = read_member(entry, 0, fields, leading_bytes, root, number, is_from_windows)
    if member is None:
        raise CorruptData("the index of the archive was changed while it was in use")
    return member


def entry_length(header: bytes) -> int:
    """Return the length of the entry that begins with *header*."""
    lengths: tuple[int, ...] = CENTRAL.unpack_from(header)[10:13]
    return CENTRAL.size + sum(lengths)


def read_member(
    directory: bytes,
    at: int,
    fields: tuple[Any, ...],
    leading_bytes: int,
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
        mtime_ns = dos_ns(dos_date, dos_time)
    name = unicode_name or decode_name(raw_name)
    if is_from_windows:
        name = name.replace("\\", "/")
    if "//" in name or "/." in name or name.startswith("./"):
        name = normalise(name)
    if not name.startswith(root):
        return None
    path = name[len(root) :]
    start = min(offset + leading_bytes, MAX_OFFSET)
    is_executable = bool(fields[15] & ANY_EXECUTE and is_program(fields))
    return Member(
        path, size, compressed, crc, method, flags, start, mtime_ns, raw_name, number, is_executable
    )


def is_program(fields: tuple[Any, ...]) -> bool:
    """Whether the entry whose header has these *fields* is a file that its owner may execute."""
    mode = fields[15] >> 16 if fields[1] >> 8 == UNIX_HOST else 0
    # A link, which is shown as a file with its target, has execute bits too.
    return bool(mode & stat.S_IXUSR) and stat.S_IFMT(mode) in (0, stat.S_IFREG)


def _read_extra(directory: bytes, at: int, length: int) -> Iterator[tuple[int, bytes]]:
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
def dos_ns(date: int, time: int) -> int:
    """Return a DOS date and time, taken as UTC (APPNOTE 4.4.6); 1980-01-01 if it is invalid."""
    month, day = date >> 5 & 15, date & 31
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return DOS_EPOCH_NS
    moment = (1980 + (date >> 9), month, day, time >> 11, time >> 5 & 63, (time & 31) * 2)
    return calendar.timegm(moment) * 10**9
