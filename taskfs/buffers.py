"""Bytes without copies: what the read engine hands from one part to the next."""

import ctypes

Buffer = bytes | bytearray | memoryview  # nobody changes them any more


def address_of(buffer: Buffer) -> int:
    """Return where the bytes of *buffer* are in memory, for as long as it lives; 0 for none."""
    if isinstance(buffer, memoryview) and buffer.readonly:
        raise ValueError("the address of a read-only view is not known: make bytes of it")
    if isinstance(buffer, bytes):
        return ctypes.cast(ctypes.c_char_p(buffer), ctypes.c_void_p).value or 0
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer)) if len(buffer) else 0
