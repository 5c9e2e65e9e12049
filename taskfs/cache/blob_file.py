"""Blob files: a head and a body in one checked, compressed file that is replaced as a whole."""

import contextlib
import os
import threading
import zlib
from pathlib import Path
from typing import Final

from taskfs.cache.eviction import open_private

MAGIC: Final = b"taskfs index 1\n"
_SUM_BYTES: Final = 4  # CRC-32 of the file's name and of the compressed bytes
_LENGTH_BYTES: Final = 4  # the head's length


def read_blob(path: Path) -> tuple[bytes, bytes] | None:
    """Return the head and the body, or None if the file is missing or damaged; mark it as used."""
    try:
        with open(path, "rb", opener=open_private) as file:
            packed = file.read()
    except OSError:
        return None
    start = len(MAGIC) + _SUM_BYTES
    magic, checksum, compressed = packed[: len(MAGIC)], packed[len(MAGIC) : start], packed[start:]
    if magic != MAGIC or _checksum(path, compressed) != checksum:
        return None
    try:
        content = zlib.decompress(compressed)
    except zlib.error:
        return None
    with contextlib.suppress(OSError):
        os.utime(path)
    stop = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")
    return content[_LENGTH_BYTES:stop], content[stop:]


def pack_blob(path: Path, head: bytes, body: bytes) -> bytes:
    """Return the bytes of the file at *path*."""
    length = len(head).to_bytes(_LENGTH_BYTES, "little")
    compressed = zlib.compress(length + head + body, 1)
    return MAGIC + _checksum(path, compressed) + compressed


def write_blob(path: Path, packed: bytes) -> None:
    """Write or replace the file; readers see the old content or the new, never a part of it.

    Raises:
        OSError: the file cannot be written; it is unchanged.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        with open(temporary, "wb", opener=open_private) as file:
            file.write(packed)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _checksum(path: Path, compressed: bytes) -> bytes:
    value = zlib.crc32(compressed, zlib.crc32(path.name.encode()))
    return value.to_bytes(_SUM_BYTES, "little")
