"""ZIP archives that no normal writer produces (APPNOTE 6.3.10, 4.3.7 and 4.3.12)."""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

UTF8: Final = 0x0800
ENCRYPTED: Final = 0x0001
STORED: Final = 0
DEFLATED: Final = 8
_DOS_DATE: Final = (2025 - 1980) << 9 | 6 << 5 | 11
_DOS_TIME: Final = 12 << 11 | 30 << 5 | 10


@dataclass(frozen=True)
class Odd:
    """One member as it shall stand in the archive, however strange.

    *local_name*, *crc* and *size* are what the local header names and what is said to be the CRC-32
    and the size, where that is not the truth. *mode* is a Unix mode with its type bits.
    """

    name: bytes
    content: bytes = b""
    method: int = DEFLATED
    flags: int = 0
    extra: bytes = b""
    local_name: bytes | None = None
    crc: int | None = None
    size: int | None = None
    mode: int = 0o100644

    def packed(self) -> bytes:
        if self.method != DEFLATED:
            return self.content
        squeeze = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
        return squeeze.compress(self.content) + squeeze.flush()


def odd_zip(members: Sequence[Odd]) -> bytes:
    """Return the archive."""
    body, directory = b"", b""
    for member in members:
        packed = member.packed()
        crc = zlib.crc32(member.content) if member.crc is None else member.crc
        local_name = member.name if member.local_name is None else member.local_name
        about = (
            *(member.flags, member.method, _DOS_TIME, _DOS_DATE, crc),
            *(len(packed), len(member.content) if member.size is None else member.size),
        )
        local = struct.pack("<4sH4H3L2H", b"PK\x03\x04", 20, *about, len(local_name), 0)
        extra = member.extra
        central = struct.pack(
            "<4s2H4H3L5H2L",
            *(b"PK\x01\x02", 3 << 8 | 20, 20, *about, len(member.name), len(extra), 0, 0, 0),
            *(member.mode << 16, len(body)),
        )
        directory += central + member.name + extra
        body += local + local_name + packed
    count = len(members)
    end = (b"PK\x05\x06", 0, 0, count, count, len(directory), len(body), 0)
    return body + directory + struct.pack("<4s4H2LH", *end)


def extra_field(kind: int, value: bytes) -> bytes:
    """Return one extra field (4.5.1)."""
    return struct.pack("<HH", kind, len(value)) + value
