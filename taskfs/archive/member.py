"""`Member`: one file of an archive."""

from typing import Final, NamedTuple

FLAG_ENCRYPTED: Final = 0x0001
FLAG_STRONG_ENCRYPTION: Final = 0x0040


class Member(NamedTuple):
    """One file of an archive; `path` is relative to the root that the index was made for."""

    path: str
    size: int
    compressed_size: int
    crc32: int
    method: int
    flags: int
    header_offset: int
    mtime_ns: int
    raw_name: bytes  # the name in the central directory, which the local header must repeat
    number: int = 0  # position in the central directory
    is_executable: bool = False  # by its owner

    @property
    def is_encrypted(self) -> bool:
        """Whether the bytes need a password (APPNOTE 4.4.4, bits 0 and 6)."""
        return bool(self.flags & (FLAG_ENCRYPTED | FLAG_STRONG_ENCRYPTION))
