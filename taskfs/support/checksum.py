"""CRC-32 as ZIP defines it (APPNOTE 4.4.7), by the fastest available library."""

import ctypes
import functools
import importlib
import zlib
from collections.abc import Callable
from typing import Any, Final

from zlib_ng import zlib_ng

from taskfs.support.buffers import Buffer, address_of, has_address

# Bytes up to which ISA-L is used. zlib-ng releases the interpreter's lock, and taking it back can
# cost more time than the checksum of a short piece.
SHORT: Final = 512 << 10


def crc32(piece: Buffer, start: int = 0) -> int:
    """Return the CRC-32 of *piece*, continued from *start*, the CRC-32 of the bytes before."""
    if len(piece) <= SHORT and has_address(piece) and (locked := _locked_crc32()):
        return locked(start, address_of(piece), len(piece))
    return int(zlib_ng.crc32(piece, start))


def crc32_combine(first: int, second: int, second_length: int) -> int:
    """Return the CRC-32 of two adjacent pieces, given their CRC-32s and the second's length."""
    return int(zlib_ng.crc32_combine(first, second, second_length))


@functools.cache
def _locked_crc32() -> "Callable[[int, int, int], int] | None":
    """Return ISA-L's CRC-32 of (start, address, length), which keeps the interpreter's lock.

    Return None if the library is missing, or if it computes another checksum.
    """
    try:
        library = ctypes.PyDLL(importlib.import_module("isal.isal_zlib").__file__)
        crc: Any = library.crc32_gzip_refl
        crc.argtypes = (ctypes.c_uint32, ctypes.c_void_p, ctypes.c_uint64)
        crc.restype = ctypes.c_uint32
    except (ImportError, OSError, AttributeError, TypeError):
        return None
    text = bytearray(b"123456789" * 100)
    expected = zlib.crc32(text, 7)
    return crc if crc(7, address_of(text), len(text)) == expected else None
