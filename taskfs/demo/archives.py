"""ZIP archives in the three layouts that the service stores.

Structures are those of PKWARE's APPNOTE 6.3.10: local header 4.3.7, data descriptor 4.3.9,
central directory 4.3.12, ZIP64 records 4.3.14 to 4.3.16, extra fields 4.5.3 (ZIP64), 4.5.5 (NTFS)
and Info-ZIP's 0x5455 (extended timestamp).
"""

from __future__ import annotations

import io
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from taskfs.demo.sources import ByteSource, BytesSource, ChainSource, RepeatedSource

STORED: Final = 0
DEFLATED: Final = 8
_DESCRIPTOR_FLAG: Final = 0x0008
_UTF8_FLAG: Final = 0x0800
_MADE_BY_UNIX: Final = 3 << 8
_EMPTY_FINAL_BLOCK: Final = b"\x03\x00"  # RFC 1951, 3.2.6: an empty last block with fixed codes
_OLDEST: Final = 315_532_800.0  # 1980-01-01, the earliest DOS time
_NTFS_EPOCH_S: Final = 11_644_473_600  # from 1601-01-01 to 1970-01-01


@dataclass(frozen=True, slots=True)
class MemberSpec:
    """A file of an archive, or a directory if the name ends in `/`; *mtime* in Unix seconds."""

    name: str
    content: bytes | RepeatedSource = b""
    mtime: float = _OLDEST
    method: int = DEFLATED

    @property
    def size(self) -> int:
        return len(self.content) if isinstance(self.content, bytes) else self.content.size


Stamp = Callable[[float], tuple[bytes, bytes]]  # from an mtime to the extra fields (local, central)


@dataclass(frozen=True, slots=True)
class BuiltArchive:
    """A finished archive, and the number and bytes of its files for the API's metrics."""

    source: ByteSource
    total_files: int
    total_size: int


def streamed(members: Sequence[MemberSpec], stamp: Stamp) -> ByteSource:
    """Write as `7zz a -tzip -mx=1 -so`: sizes only in data descriptors and the directory."""
    return _write(members, stamp, zip64=False)


def zip64(members: Sequence[MemberSpec], stamp: Stamp) -> ByteSource:
    """Write as `stream-zip`: ZIP64 in every header, no entries for directories."""
    return _write([m for m in members if not m.name.endswith("/")], stamp, zip64=True)


def plain(members: Sequence[MemberSpec], stamp: Stamp) -> ByteSource:
    """Write as Python's `zipfile`: sizes in local headers, DOS times only."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for member in members:
            entry = zipfile.ZipInfo(member.name, time.gmtime(member.mtime)[:6])
            is_directory = member.name.endswith("/")
            entry.external_attr = _unix_mode(is_directory) << 16 | (0x10 if is_directory else 0)
            method = STORED if is_directory else member.method
            archive.writestr(entry, _content_bytes(member.content), method)
    return BytesSource(buffer.getvalue())


LAYOUTS: Final[dict[str, Callable[[Sequence[MemberSpec], Stamp], ByteSource]]] = {
    "streamed": streamed,
    "plain": plain,
    "zip64": zip64,
}


def extended_stamp(mtime: float) -> tuple[bytes, bytes]:
    """Return the extended timestamp (0x5455) in whole Unix seconds: local, central."""
    extra = struct.pack("<HHBi", 0x5455, 5, 1, int(mtime))
    return extra, extra


def ntfs_stamp(mtime: float) -> tuple[bytes, bytes]:
    """Return the NTFS times (0x000a) in 100 ns since 1601; like 7-Zip, only in the directory."""
    ticks = round((mtime + _NTFS_EPOCH_S) * 10_000_000)
    return b"", struct.pack("<HHIHHQQQ", 0x000A, 32, 0, 1, 24, ticks, ticks, ticks)


def dos_stamp(mtime: float) -> tuple[bytes, bytes]:
    """Return no extra fields: the entry has only its DOS time."""
    return b"", b""


def _write(members: Sequence[MemberSpec], stamp: Stamp, *, zip64: bool) -> ByteSource:
    sources: list[ByteSource] = []
    directory: list[bytes] = []
    offset = 0
    for member in members:
        written, entry = _write_member(member, stamp, offset, zip64=zip64)
        sources += written
        directory.append(entry)
        offset += sum(source.size for source in written)
    listing = b"".join(directory)
    sources.append(BytesSource(listing + _end(len(directory), len(listing), offset, zip64=zip64)))
    if any(isinstance(member.content, RepeatedSource) for member in members):
        return ChainSource(sources)
    return BytesSource(b"".join(source.read(0, source.size) for source in sources))


def _write_member(
    member: MemberSpec, stamp: Stamp, offset: int, *, zip64: bool
) -> tuple[list[ByteSource], bytes]:
    """Return the member's header, data and descriptor at *offset*, and its directory entry."""
    name, when = member.name.encode(), _dos_time(member.mtime)
    is_directory = member.name.endswith("/")
    method = STORED if is_directory else member.method
    crc, size, packed = _pack(member.content, method)
    packed_size = sum(source.size for source in packed)
    local_stamp, central_stamp = stamp(member.mtime)
    # 7-Zip writes no descriptor for a directory, whose sizes are known in advance.
    flags = 0 if is_directory else _DESCRIPTOR_FLAG
    flags |= 0 if member.name.isascii() else _UTF8_FLAG
    version = 45 if zip64 else 20
    unknown = 0xFFFFFFFF if zip64 else 0
    local_extra = (struct.pack("<HHQQ", 1, 16, 0, 0) if zip64 else b"") + local_stamp
    header = struct.pack(
        "<4s5H3I2H",
        *(b"PK\x03\x04", version, flags, method, *when),
        *(0, unknown, unknown, len(name), len(local_extra)),
    )
    descriptor = b""
    if flags & _DESCRIPTOR_FLAG:
        layout = "<4sIQQ" if zip64 else "<4sIII"
        descriptor = struct.pack(layout, b"PK\x07\x08", crc, packed_size, size)

    central_extra = central_stamp
    sizes = (packed_size, size)
    if zip64:
        central_extra = struct.pack("<HHQQQ", 1, 24, size, packed_size, offset) + central_stamp
        sizes = (0xFFFFFFFF, 0xFFFFFFFF)
    attributes = _unix_mode(is_directory) << 16 | (0x10 if is_directory else 0)
    entry = struct.pack(
        "<4s6H3I5H2I",
        *(b"PK\x01\x02", _MADE_BY_UNIX | version, version, flags, method, *when),
        *(crc, *sizes, len(name), len(central_extra), 0, 0, 0, attributes),
        0xFFFFFFFF if zip64 else offset,
    )
    head = BytesSource(header + name + local_extra)
    return [head, *packed, BytesSource(descriptor)], entry + name + central_extra


def _end(count: int, listing_size: int, listing_offset: int, *, zip64: bool) -> bytes:
    """Return the end record (4.3.16), after the ZIP64 records if there are any."""
    values = (count, count, listing_size, listing_offset)
    if zip64:
        values = (0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, *values, 0)
    return (_zip64_end(count, listing_size, listing_offset) if zip64 else b"") + end


def _zip64_end(count: int, listing_size: int, listing_offset: int) -> bytes:
    """Return the ZIP64 end record and its locator (4.3.14, 4.3.15)."""
    record = struct.pack(
        "<4sQ2H2I4Q",
        *(b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, listing_size, listing_offset),
    )
    return record + struct.pack("<4sIQI", b"PK\x06\x07", 0, listing_offset + listing_size, 1)


def _pack(content: bytes | RepeatedSource, method: int) -> tuple[int, int, list[ByteSource]]:
    """Return the CRC-32 and size of *content*, and its packed bytes."""
    if isinstance(content, RepeatedSource):
        return repeated_crc(content), content.size, _pack_repeated(content, method)
    if method == STORED:
        return zlib.crc32(content), len(content), [BytesSource(content)]
    compressor = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = compressor.compress(content) + compressor.flush()
    return zlib.crc32(content), len(content), [BytesSource(packed)]


def _pack_repeated(content: RepeatedSource, method: int) -> list[ByteSource]:
    if method == STORED:
        return [content]
    compressor = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    # A full flush ends on a byte boundary and resets the window, so the packed block can repeat.
    block = compressor.compress(content.block) + compressor.flush(zlib.Z_FULL_FLUSH)
    return [RepeatedSource(block, content.count), BytesSource(_EMPTY_FINAL_BLOCK)]


def repeated_crc(content: RepeatedSource) -> int:
    """Return the CRC-32 of a repeated block from 33 passes over one block.

    `crc32(block, crc)` is affine over GF(2) in *crc*: 32 columns and the constant
    `crc32(block, 0)` describe it.
    """
    constant = zlib.crc32(content.block)
    columns = [zlib.crc32(content.block, 1 << bit) ^ constant for bit in range(32)]
    crc = 0
    for _ in range(content.count):
        following = constant
        for bit in range(32):
            if crc >> bit & 1:
                following ^= columns[bit]
        crc = following
    return crc


def _content_bytes(content: bytes | RepeatedSource) -> bytes:
    return content if isinstance(content, bytes) else content.read(0, content.size)


def _unix_mode(is_directory: bool) -> int:
    return 0o040755 if is_directory else 0o100644


def _dos_time(mtime: float) -> tuple[int, int]:
    """Return the DOS (time, date) of 4.4.6 in UTC; the resolution is two seconds."""
    year, month, day, hour, minute, second = time.gmtime(mtime)[:6]
    return hour << 11 | minute << 5 | second // 2, (year - 1980) << 9 | month << 5 | day
