"""Builders of correct and wrong ZIP archives.

`zipfile` writes only correct archives. Here a test can set every field of every record. A field
that is not set gets its correct value. Section numbers are those of APPNOTE 6.3.10.
"""

import bz2
import io
import lzma
import random
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from taskfs.archive.end_record import find_end
from taskfs.archive.index import ArchiveIndex
from taskfs.archive.index_builder import read_index

ROOT: Final = "artifacts/"
STORED: Final = 0
DEFLATED: Final = 8
BZIP2: Final = 12
LZMA: Final = 14
ENCRYPTED: Final = 0x0001  # flag bit 0
UTF8: Final = 0x0800  # flag bit 11
UINT32_MAX: Final = 0xFFFFFFFF
# 2024-02-29 12:34:56 in DOS format and in seconds since 1970.
DOS_DATE: Final = (2024 - 1980) << 9 | 2 << 5 | 29
DOS_TIME: Final = 12 << 11 | 34 << 5 | 56 // 2
DOS_MTIME_S: Final = 1_709_210_096


def cheap_bytes(size: int, seed: int = 1) -> bytes:
    """Return *size* bytes without repetition that deflate to about 60 %; fast to generate."""
    words = random.Random(seed).randbytes(512 << 10).hex().encode()
    made = io.BytesIO()  # getvalue() does not copy
    number = 0
    while made.tell() < size:
        cut = number * 7919 % len(words)
        made.write(b"<%d:%d>" % (seed, number))
        made.write(words[cut:])
        made.write(words[:cut])
        number += 1
    made.truncate(size)
    return made.getvalue()


def deflate(body: bytes, level: int = 6) -> bytes:
    """Return *body* as raw DEFLATE; level 0 gives stored blocks."""
    packer = zlib.compressobj(level, zlib.DEFLATED, -15)
    return packer.compress(body) + packer.flush()


def lzma_alone(
    body: bytes, *, end_marker: bool = True, dictionary: int = 1 << 20, preset: int = 6
) -> bytes:
    """Return *body* compressed by method 14 (APPNOTE 5.8.8).

    Without an end marker, the result must be smaller than 64 KiB, because it is one LZMA2 chunk.
    """
    head = struct.pack("<BBHBL", 9, 4, 5, (2 * 5 + 0) * 9 + 3, dictionary)
    if end_marker:
        chain: list[dict[str, int]] = [
            {"id": lzma.FILTER_LZMA1, "preset": preset, "lc": 3, "lp": 0, "pb": 2}
        ]
        chain[0]["dict_size"] = dictionary
        return head + lzma.compress(body, lzma.FORMAT_RAW, filters=chain)
    chain = [{"id": lzma.FILTER_LZMA2, "lc": 3, "lp": 0, "pb": 2, "dict_size": dictionary}]
    packed = lzma.compress(body, lzma.FORMAT_RAW, filters=chain)
    assert packed[0] >= 0xE0, "the body does not compress"
    unpacked = (packed[0] & 0x1F) << 16 | packed[1] << 8 | packed[2]
    length = (packed[3] << 8 | packed[4]) + 1
    assert unpacked + 1 == len(body), "the body is too long for one chunk"
    return head + packed[6 : 6 + length]


def pack(body: bytes, method: int, level: int = 6) -> bytes:
    """Return *body* compressed by *method*; unchanged for an unknown method."""
    return _pack(body, method, level) if method in (DEFLATED, BZIP2, LZMA) else body


@lru_cache(maxsize=64)  # many tests compress the same bodies
def _pack(body: bytes, method: int, level: int) -> bytes:
    if method == DEFLATED:
        return deflate(body, level)
    return bz2.compress(body, max(1, level)) if method == BZIP2 else lzma_alone(body)


def field(kind: int, value: bytes) -> bytes:
    """Return one extra field (APPNOTE 4.5.1)."""
    return struct.pack("<HH", kind, len(value)) + value


def timestamp_field(mtime_s: int, flags: int = 1) -> bytes:
    """Return an extended timestamp (0x5455) for the central directory."""
    return field(0x5455, struct.pack("<Bi", flags, mtime_s))


def ntfs_field(mtime_100ns: int) -> bytes:
    """Return NTFS times (0x000a): modification, access, creation; in 100 ns since 1601."""
    return field(0x000A, bytes(4) + field(1, struct.pack("<3Q", mtime_100ns, 1, 2)))


def unicode_field(name: str | bytes, raw_name: bytes, *, crc: int | None = None) -> bytes:
    """Return a UTF-8 name (0x7075) that belongs to *raw_name*."""
    text = name.encode() if isinstance(name, str) else name
    name_crc = zlib.crc32(raw_name) if crc is None else crc
    return field(0x7075, struct.pack("<BL", 1, name_crc) + text)


@dataclass(frozen=True)
class Entry:
    """One member. A field that is None gets its correct value; others are written as given."""

    name: bytes
    body: bytes = b""
    method: int = DEFLATED
    level: int = 6
    flags: int = 0
    packed: bytes | None = None  # the compressed data, instead of compressing `body`
    crc: int | None = None
    size: int | None = None  # in the central directory only, like the next two
    compressed_size: int | None = None
    offset: int | None = None
    date: int = DOS_DATE
    time: int = DOS_TIME
    extra: bytes = b""
    comment: bytes = b""
    zip64: bool = False  # sizes and offset in a ZIP64 field
    is_streamed: bool = False  # zeros in the local header, a data descriptor after the data
    local_name: bytes | None = None
    local_extra: bytes = b""
    local_magic: bytes = b"PK\x03\x04"
    is_listed: bool = True
    host: int = 3  # the host system (APPNOTE 4.4.2): Unix
    mode: int = 0o100644  # the Unix mode with its type bits


def file(name: str, body: bytes = b"", **fields: Any) -> Entry:
    """Return the entry of a file below the root."""
    return Entry((ROOT + name).encode(), body, **fields)


def folder(name: str, **fields: Any) -> Entry:
    """Return the entry of a directory below the root; of the root for an empty name."""
    return Entry((ROOT + name + "/" * bool(name)).encode(), method=STORED, **fields)


def build(
    entries: Sequence[Entry],
    *,
    prepended: bytes = b"",
    shifted: bool = False,
    gap: bytes = b"",
    comment: bytes = b"",
    trailing: bytes = b"",
    zip64: bool = False,
    zip64_extensible: bytes = b"",
    end: dict[str, int] | None = None,
    end64: dict[str, int] | None = None,
    locator: dict[str, int] | None = None,
) -> bytes:
    """Return an archive.

    With *shifted*, offsets count from the end of the prepended bytes instead of from their start.
    *gap* is written before the directory. *end*, *end64* and *locator* replace fields by name.
    """
    out = bytearray(prepended)
    base = len(prepended) if shifted else 0
    directory = bytearray()
    for entry in entries:
        packed = entry.packed
        if packed is None:
            packed = pack(entry.body, entry.method, entry.level)
        crc = zlib.crc32(entry.body) if entry.crc is None else entry.crc
        true_sizes = (len(entry.body), len(packed))
        offset = len(out) - base if entry.offset is None else entry.offset
        out += _local_header(entry, crc, *true_sizes)
        out += packed
        if entry.is_streamed:
            wide = "<4sLQQ" if entry.zip64 else "<4sLLL"
            out += struct.pack(wide, b"PK\x07\x08", crc, true_sizes[1], true_sizes[0])
        if entry.is_listed:
            size = true_sizes[0] if entry.size is None else entry.size
            compressed = true_sizes[1] if entry.compressed_size is None else entry.compressed_size
            directory += _central_header(entry, crc, size, compressed, offset)
    out += gap
    start = len(out) - base
    out += directory
    listed = sum(entry.is_listed for entry in entries)
    if zip64:
        out += _zip64_end(
            len(out) - base, listed, len(directory), start, zip64_extensible, end64, locator
        )
    fields = {"disk": 0, "first_disk": 0, "here": listed, "entries": listed}
    fields |= {"size": len(directory), "offset": start, "comment": len(comment)}
    if zip64:
        fields |= {"here": 0xFFFF, "entries": 0xFFFF, "size": UINT32_MAX, "offset": UINT32_MAX}
    fields |= end or {}
    out += struct.pack("<4s4H2LH", b"PK\x05\x06", *fields.values()) + comment
    return bytes(out + trailing)


def _local_header(entry: Entry, crc: int, size: int, compressed: int) -> bytes:
    name = entry.name if entry.local_name is None else entry.local_name
    extra = entry.local_extra
    flags = entry.flags
    if entry.is_streamed:
        flags |= 0x0008
        crc = size = compressed = 0
    elif entry.zip64:
        extra += field(1, struct.pack("<QQ", size, compressed))
        size = compressed = UINT32_MAX
    lengths = (len(name), len(extra))
    header = struct.pack(
        "<4s5H3L2H",
        *(entry.local_magic, 20, flags, entry.method, entry.time, entry.date),
        *(crc, compressed, size, *lengths),
    )
    return header + name + extra


def _central_header(entry: Entry, crc: int, size: int, compressed: int, offset: int) -> bytes:
    extra = entry.extra
    if entry.zip64:
        extra = field(1, struct.pack("<QQQ", size, compressed, offset)) + extra
        size = compressed = offset = UINT32_MAX
    flags = entry.flags | (0x0008 if entry.is_streamed else 0)
    lengths = (len(entry.name), len(extra), len(entry.comment))
    header = struct.pack(
        "<4s6H3L5H2L",
        *(b"PK\x01\x02", entry.host << 8 | 20, 45 if entry.zip64 else 20, flags),
        *(entry.method, entry.time, entry.date, crc, compressed, size, *lengths),
        *(0, 0, entry.mode << 16, offset),
    )
    return header + entry.name + extra + entry.comment


def _zip64_end(
    at: int,
    listed: int,
    size: int,
    start: int,
    extensible: bytes,
    end64: dict[str, int] | None,
    locator: dict[str, int] | None,
) -> bytes:
    record = {"record": 44 + len(extensible), "made_by": 45, "needed": 45, "disk": 0}
    record |= {"first_disk": 0, "here": listed, "entries": listed, "size": size, "offset": start}
    record |= end64 or {}
    locator_fields = {"disk": 0, "at": at, "disks": 1} | (locator or {})
    return (
        struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", *record.values())
        + extensible
        + struct.pack("<4sLQL", b"PK\x06\x07", *locator_fields.values())
    )


def flipped(body: bytes, at: int, mask: int = 0x01) -> bytes:
    """Return *body* with the bits *mask* of one byte inverted."""
    out = bytearray(body)
    out[at] ^= mask
    return bytes(out)


def plain_name(name: str) -> str:
    """Return *name* as unzip and 7-Zip read it: without `.` and empty components."""
    kept = [component for component in name.split("/") if component not in ("", ".")]
    is_folder = name.endswith(("/", "/.")) and kept
    return "/" * name.startswith("/") + "/".join(kept) + "/" * bool(is_folder)


def index_of(body: bytes, root: str = ROOT, tail_length: int | None = None) -> ArchiveIndex:
    """Return the index of an archive in memory, as `open_archive` reads it."""
    tail_start = 0 if tail_length is None else max(0, len(body) - tail_length)
    end = find_end(body[tail_start:], tail_start)
    return read_index(body[end.start : end.stop], end, root)
