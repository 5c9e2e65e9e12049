"""Parsing a central directory while it arrives: its entries as rows, in one pass.

Entries as most writers make them become rows without a `Member`. `central_directory` reads the
others, with the same result.
"""

import contextlib
import struct
from collections.abc import Iterable, Iterator
from typing import Any, Final

from taskfs.archive.central_directory import (
    ANY_EXECUTE,
    CENTRAL,
    NTFS_EPOCH_100NS,
    WINDOWS_HOSTS,
    dos_ns,
    is_program,
    read_member,
)
from taskfs.archive.end_record import CENTRAL_MAGIC
from taskfs.errors import CorruptData
from taskfs.support.buffers import Buffer

SIGNATURE_MAGIC: Final = b"PK\x05\x05"  # a digital signature (4.3.13) may follow the entries
# Bytes of a directory that are parsed at once: much more than an entry, little memory.
STRIDE: Final = 256 << 10

# The extra fields of most entries: NTFS times (7-Zip), or a Unix time and an owner (Info-ZIP).
_NTFS: Final = struct.Struct("<4s4x4sQ16x")
_NTFS_HEADS: Final = (b"\x0a\0\x20\0", b"\x01\0\x18\0")
_UNIX: Final = struct.Struct("<4sBi4s11x")
_UNIX_HEADS: Final = (b"UT\x05\0", b"ux\x0b\0")
# NTFS times from 1917 to 2234, which have no special meaning and fit 64 bits in ns.
_USUAL_100NS: Final = range(10**17, 2 * 10**17)

# An entry beneath the root: its position and its offset in the directory; path, size, compressed
# size, offset of the local header, time in ns, and whether its owner may execute it. A folder's
# path ends in a slash.
Row = tuple[int, int, str, int, int, int, int, bool]


def split_entries(pieces: Iterable[Buffer]) -> Iterator[tuple[bytes, int, int, tuple[Any, ...]]]:
    """Yield for each entry some bytes that hold it, its offsets in them and in the directory, and
    the fields of its header. *pieces* are the central directory.

    Raises:
        CorruptData: the directory is cut short or damaged.
    """
    unpack, header = CENTRAL.unpack_from, CENTRAL.size
    part, base = b"", 0  # the bytes to parse, and the offset of the first one in the directory
    for piece in pieces:
        view = memoryview(piece)
        for start in range(0, len(view), STRIDE):
            part = b"".join((part, view[start : start + STRIDE]))
            at, last = 0, len(part) - header
            while at <= last:
                fields = unpack(part, at)
                if fields[0] != CENTRAL_MAGIC:
                    if fields[0] == SIGNATURE_MAGIC:
                        return
                    raise CorruptData("the archive's directory is damaged")
                stop = at + header + fields[10] + fields[11] + fields[12]
                if stop > len(part):
                    break
                yield part, at, base + at, fields
                at = stop
            part = part[at:]
            base += at
    if len(part) >= header:
        raise CorruptData("the archive's directory is cut short")
    if part and part[:4] != SIGNATURE_MAGIC:
        raise CorruptData("the archive's directory is damaged")


def read_rows(
    pieces: Iterable[Buffer], leading_bytes: int, root: str, *, is_from_windows: bool
) -> Iterator[Row]:
    """Yield the entries beneath *root* of the central directory *pieces*; see `split_entries`."""
    header, skip = CENTRAL.size, len(root)
    for number, (part, at, entry_at, fields) in enumerate(split_entries(pieces)):
        extra_at = at + header + fields[10]
        try:
            name = part[at + header : extra_at].decode()
        except UnicodeDecodeError:
            name = "//"  # an odd name: `read_member` decodes it
        mtime_ns: int | None
        if fields[11]:
            mtime_ns = _usual_time_ns(part[extra_at : extra_at + fields[11]])
        else:
            mtime_ns = dos_ns(fields[6], fields[5])
        is_odd = is_from_windows or "//" in name or "/." in name or name[:2] == "./"
        if mtime_ns is None or is_odd:
            member = read_member(part, at, fields, leading_bytes, root, number, is_from_windows)
            if member is not None:
                path, size, compressed, _, _, _, start, time_ns, _, _, is_executable = member
                yield number, entry_at, path, size, compressed, start, time_ns, is_executable
        elif name.startswith(root):
            is_executable = bool(fields[15] & ANY_EXECUTE and is_program(fields))
            start, compressed, size = fields[16] + leading_bytes, fields[8], fields[9]
            yield number, entry_at, name[skip:], size, compressed, start, mtime_ns, is_executable


def _usual_time_ns(extra: bytes) -> int | None:
    """Return the time in extra fields as most writers make them; None for other fields."""
    stamp: int
    if len(extra) == _NTFS.size:
        first, second, stamp = _NTFS.unpack(extra)
        if (first, second) == _NTFS_HEADS and stamp in _USUAL_100NS:
            return (stamp - NTFS_EPOCH_100NS) * 100
    elif len(extra) == _UNIX.size:
        first, flags, stamp, second = _UNIX.unpack(extra)
        if (first, second) == _UNIX_HEADS and flags & 1:
            return stamp * 10**9
    return None


def excludes_windows(pieces: Iterable[Buffer]) -> bool:
    """Whether an entry of a directory, or of its first bytes, shows that `has_windows_separators`
    is false."""
    return any(host not in WINDOWS_HOSTS or b"/" in name for host, name in _raw_names(pieces))


def has_windows_separators(pieces: Iterable[Buffer]) -> bool:
    r"""Whether `\` separates components in the names of this directory, as .NET writes them.

    It does if all members were made on Windows and no name contains a `/`.
    """
    has_backslash = False
    for host, name in _raw_names(pieces):
        if host not in WINDOWS_HOSTS or b"/" in name:
            return False
        has_backslash = has_backslash or b"\\" in name
    return has_backslash


def _raw_names(pieces: Iterable[Buffer]) -> Iterator[tuple[int, bytes]]:
    """Yield the host and the name of each entry, up to one that is cut short or damaged."""
    with contextlib.suppress(CorruptData):
        for part, at, _, fields in split_entries(pieces):
            name_at = at + CENTRAL.size
            yield fields[1] >> 8, part[name_at : name_at + fields[10]]


def first_name(pieces: Iterable[Buffer]) -> bytes | None:
    """Return the name in the first entry, or None if there is no entry."""
    return next((name for _, name in _raw_names(pieces)), None)
