"""An archive of millions of members whose bytes are made when they are read."""

import struct
import zlib
from typing import Any, Final

import numpy as np

BODY: Final = b"x\n"  # of each member
FIELDS: Final = 100  # files of one directory
_NAME: Final = b"artifacts/d00000/f00"
_DIGITS: Final = (11, 12, 13, 14, 15, 18, 19)  # their places in a name
_SIZES: Final = zlib.crc32(BODY), len(BODY), len(BODY), len(_NAME)
_LOCAL: Final = (
    struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0x4000, 0x5ACC, *_SIZES, 0) + _NAME + BODY
)
_OFFSET_AT: Final = 42  # of the local header's offset in an entry
_ENTRY: Final = (
    struct.pack(
        *("<4s6H3L5H2L", b"PK\1\2", 0x033F, 20, 0, 0, 0x4000, 0x5ACC, *_SIZES),
        *(0, 0, 0, 0, 0o100644 << 16, 0),
    )
    + _NAME
)
_END: Final = struct.Struct("<4s4H2LH")
_END64: Final = struct.Struct("<4sQ2H2L4Q")
_LOCATOR: Final = struct.Struct("<4sLQL")


def name_of(number: int) -> str:
    directory, field = divmod(number, FIELDS)
    return f"d{directory:05}/f{field:02}"


class GeneratedArchive:
    """The bytes of an archive of *members* stored files, up to 10 million."""

    def __init__(self, members: int) -> None:
        self._members = members
        self._start = members * len(_LOCAL)
        self.directory = members * len(_ENTRY)
        stop = self._start + self.directory
        counts = 44, 45, 45, 0, 0, members, members, self.directory, self._start
        self._end = (
            _END64.pack(b"PK\6\6", *counts)
            + _LOCATOR.pack(b"PK\6\7", 0, stop, 1)
            + _END.pack(b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
        )

    @property
    def size(self) -> int:
        return self._start + self.directory + len(self._end)

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes [start, stop)."""
        end_at = self._start + self.directory
        return b"".join(
            (
                _records(_LOCAL, start, min(stop, self._start), _LOCAL.index(_NAME)),
                _records(
                    *(_ENTRY, start - self._start, min(stop, end_at) - self._start),
                    *(_ENTRY.index(_NAME), _OFFSET_AT),
                ),
                self._end[max(0, start - end_at) : max(0, stop - end_at)],
            )
        )


def _records(
    record: bytes, start: int, stop: int, name_at: int, offset_at: int | None = None
) -> bytes:
    """Return the bytes [start, stop) of numbered copies of *record*."""
    start = max(0, start)
    if start >= stop:
        return b""
    first, last = start // len(record), -(-stop // len(record))
    numbers = np.arange(first, last)
    rows = np.tile(np.frombuffer(record, np.uint8), (len(numbers), 1))
    for power, place in enumerate(reversed(_DIGITS)):
        rows[:, name_at + place] = ord("0") + numbers // 10**power % 10
    if offset_at is not None:
        offsets: np.ndarray[Any, Any] = (numbers * len(_LOCAL)).astype("<u4")
        rows[:, offset_at : offset_at + 4] = offsets.view(np.uint8).reshape(-1, 4)
    at = start - first * len(record)
    return bytes(rows.tobytes()[at : at + stop - start])
