"""The end records of a ZIP archive, which locate its central directory.

The formats are PKWARE's APPNOTE 6.3.10: end of central directory record (4.3.16), ZIP64 end record
(4.3.14) and its locator (4.3.15).
"""

import struct
from typing import Final, NamedTuple

from taskfs.errors import CorruptData, TaskFSError, Unsupported

EOCD: Final = struct.Struct("<4s4H2LH")
EOCD_MAGIC: Final = b"PK\x05\x06"
EOCD64_LOCATOR: Final = struct.Struct("<4sLQL")
EOCD64_LOCATOR_MAGIC: Final = b"PK\x06\x07"
EOCD64: Final = struct.Struct("<4sQ2H2L4Q")
EOCD64_MAGIC: Final = b"PK\x06\x06"
CENTRAL_MAGIC: Final = b"PK\x01\x02"
ENCRYPTION_VERSION: Final = 62  # version needed to extract an encrypted directory (4.4.3.2)
MAX_COMMENT: Final = 0xFFFF
MAX_DIRECTORY: Final = 1 << 30  # bytes; some 8 million members
# Bytes of a tail that always holds the end record with its longest comment and the ZIP64 records.
MIN_TAIL: Final = EOCD.size + MAX_COMMENT + EOCD64_LOCATOR.size + EOCD64.size


class EndRecord(NamedTuple):
    """Where the central directory lies: [start, stop) of the object.

    `leading_bytes` is the length of other data that precedes the archive in the object (such as a
    program that unpacks it): it is added to every offset that the archive states.
    """

    start: int
    stop: int
    leading_bytes: int


def find_end(tail: bytes, tail_start: int) -> EndRecord:
    """Return where the central directory lies; *tail* is the object's end, from *tail_start* on.

    An end record whose comment ends exactly with the object is preferred to one with data after
    it. If there are two such records, one is a fake in the comment of the other.

    Raises:
        CorruptData: there is no end record, or it points outside the object.
        Unsupported: the archive is split over several disks, or its directory is encrypted or too
            large.
    """
    lower = max(0, len(tail) - EOCD.size - MAX_COMMENT)
    positions = []
    at = tail.rfind(EOCD_MAGIC, lower)
    while at >= 0:
        if at + EOCD.size <= len(tail):
            positions.append(at)
        at = tail.rfind(EOCD_MAGIC, lower, at + 3) if at > lower else -1
    if not positions:
        raise CorruptData("no end record: this is not a ZIP archive, or it is cut short")

    whole = [at for at in positions if at + EOCD.size + _comment_length(tail, at) == len(tail)]
    ends: list[EndRecord] = []
    error: TaskFSError | None = None
    for at in whole or positions[:1]:
        try:
            end = _read_end(tail, tail_start, at)
        except (CorruptData, Unsupported) as exc:
            error = error or exc
            continue
        if (
            end.start < tail_start
            or end.start == end.stop
            or tail.startswith(CENTRAL_MAGIC, end.start - tail_start)
        ):
            ends.append(end)
        elif _needed_version(tail, at) >= ENCRYPTION_VERSION:
            error = error or Unsupported("the archive's directory is encrypted")
        else:
            error = error or CorruptData("the end record does not point to a directory")
    if len(ends) > 1:
        raise CorruptData("the archive has two end records: one of them is a fake")
    if not ends:
        raise error or CorruptData("there is no usable end record")
    return ends[0]


def _needed_version(tail: bytes, at: int) -> int:
    """Return the version needed by the ZIP64 end record before the one at *at*, or 0."""
    locator = at - EOCD64_LOCATOR.size
    if locator < 0 or not tail.startswith(EOCD64_LOCATOR_MAGIC, locator):
        return 0
    record = tail.rfind(EOCD64_MAGIC, 0, locator - EOCD64.size + len(EOCD64_MAGIC))
    return int(EOCD64.unpack_from(tail, record)[3]) if record >= 0 else 0


def _comment_length(tail: bytes, at: int) -> int:
    return int(EOCD.unpack_from(tail, at)[7])


def _read_end(tail: bytes, tail_start: int, at: int) -> EndRecord:
    """Parse the end record at *at* of the tail."""
    _, disk, first_disk, here, entries, size, offset, _ = EOCD.unpack_from(tail, at)
    stop = tail_start + at
    locator = at - EOCD64_LOCATOR.size
    if locator >= 0 and tail.startswith(EOCD64_LOCATOR_MAGIC, locator):
        entries, size, offset, stop = _read_zip64_end(tail, tail_start, locator)
    elif disk or first_disk or here != entries:
        raise Unsupported("the archive is split over several files")
    if entries and not size:
        raise CorruptData("the end record counts members, but gives their directory no length")
    start = stop - size
    leading_bytes = start - offset
    if start < 0 or leading_bytes < 0:
        raise CorruptData("the end record points outside the archive")
    if size > MAX_DIRECTORY:
        raise Unsupported(f"the archive's directory is larger than {MAX_DIRECTORY >> 20} MiB")
    return EndRecord(start, stop, leading_bytes)


def _read_zip64_end(tail: bytes, tail_start: int, locator: int) -> tuple[int, int, int, int]:
    """Return entries, size, offset and end of the central directory from the ZIP64 records."""
    _, disk, claimed, disks = EOCD64_LOCATOR.unpack_from(tail, locator)
    if disk or disks > 1:
        raise Unsupported("the archive is split over several files")
    # The record ends where its locator begins. Data before the archive makes the offset wrong.
    for at in (locator - EOCD64.size, claimed - tail_start):
        if 0 <= at <= locator - EOCD64.size and tail.startswith(EOCD64_MAGIC, at):
            record = EOCD64.unpack_from(tail, at)
            return record[7], record[8], record[9], tail_start + at
    raise CorruptData("the ZIP64 end record is missing")
