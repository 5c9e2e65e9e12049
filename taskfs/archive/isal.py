"""Raw DEFLATE (RFC 1951) through ISA-L's igzip, which is faster than zlib-ng.

The `isal` package cannot copy a decoder's state, which makes a member seekable. So this module
calls the C library in its extension module. The library's `struct inflate_state` (igzip_lib.h, the
same in all of ISA-L 2) has no pointers but those to the caller's input and output, so a copy of its
bytes is a copy of the state. A trial run checks this before the first use.
"""

import ctypes
import functools
import importlib
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from taskfs.errors import CorruptData
from taskfs.support.buffers import Buffer, address_of, addressable

STATE_SIZE: Final = 87368  # sizeof(struct inflate_state) on 64-bit machines
VALID_AT: Final = 21208  # of tmp_out_valid: how many bytes of tmp_out_buffer are valid
TMP_OUT_AT: Final = 21544  # of tmp_out_buffer, the last field: window and output to come
BLOCK_STATE_AT: Final = 21160  # of block_state: whether the decoder is in a header or in data
LAST_BLOCK_AT: Final = 21168  # of bfinal: whether the present block is the last one
HEADER_SIZE_AT: Final = 21206  # of tmp_in_size: the bytes of a block's header that were fed so far
FINISHED: Final = 5  # ISAL_BLOCK_FINISH
BEFORE_A_BLOCK: Final = (0, 1)  # ISAL_BLOCK_NEW_HDR, ISAL_BLOCK_HDR: its header is incomplete
WINDOW: Final = 32 << 10  # decoded bytes that DEFLATE refers back to, at most
# Bytes of this value follow a state, to see whether the library writes beyond it. A page of them is
# more than the state of any release has grown by.
CANARY: Final = b"\xa5"
CANARY_BYTES: Final = 4096


class _Head(ctypes.Structure):
    """The first fields of `struct inflate_state`."""

    _fields_ = (
        ("next_out", ctypes.c_void_p),
        ("avail_out", ctypes.c_uint32),
        ("total_out", ctypes.c_uint32),
        ("next_in", ctypes.c_void_p),
        ("read_in", ctypes.c_uint64),
        ("avail_in", ctypes.c_uint32),
        ("read_in_length", ctypes.c_int32),
    )


class BlockDecoder:
    """A decoder of raw DEFLATE by *library*; implements `decoders.Decoder`."""

    has_end_marker = True

    def __init__(self, library: Any, saved: bytes | None = None) -> None:
        self._library = library
        self._state = bytearray(STATE_SIZE)
        self._fed: Buffer = b""  # the library reads it in place
        self._head = _Head.from_buffer(self._state)
        self._address = ctypes.addressof(self._head)
        if saved is None:
            library.isal_inflate_init(self._address)
        else:
            memoryview(self._state)[: len(saved)] = saved
            self._head.avail_in = 0

    @property
    def reached_end(self) -> bool:
        return self._state[BLOCK_STATE_AT] == FINISHED

    @property
    def unconsumed(self) -> int:
        return int(self._head.avail_in)

    def feed(self, piece: Buffer) -> None:
        self._fed = addressable(piece)
        self._head.next_in = address_of(self._fed)
        self._head.avail_in = len(piece)

    def decode(self, out: memoryview) -> int:
        head = self._head
        head.next_out = address_of(out)
        head.avail_out = len(out)
        status = self._library.isal_inflate(self._address)
        if status < 0:
            raise CorruptData(f"damaged deflate data (igzip status {status})")
        return len(out) - int(head.avail_out)

    def snapshot(self) -> "Callable[[], BlockDecoder]":
        valid = int.from_bytes(self._state[VALID_AT : VALID_AT + 4], "little")
        state = bytes(memoryview(self._state)[: TMP_OUT_AT + valid])
        return partial(BlockDecoder, self._library, state)

    def stop_after_block(self) -> bool:
        """Let `decode` end at the end of the present block; return False if it is the last one.

        The decoder is of no other use afterwards.
        """
        is_last = self._state[LAST_BLOCK_AT] != 0
        self._state[LAST_BLOCK_AT] = 1
        return not is_last

    @property
    def is_between_blocks(self) -> bool:
        """Whether a block was decoded to its end, and the header of the next was not."""
        return self.reached_end or self._state[BLOCK_STATE_AT] in BEFORE_A_BLOCK

    @property
    def unread_bits(self) -> int:
        """The bits that were fed and are not decoded yet; those of an incomplete header count."""
        header = int.from_bytes(self._state[HEADER_SIZE_AT : HEADER_SIZE_AT + 2], "little")
        return 8 * (self.unconsumed + header) + int(self._head.read_in_length)

    @property
    def unread_head(self) -> int:
        """The first of the unread bits, up to the next whole byte."""
        return int(self._head.read_in) & (1 << self.unread_bits % 8) - 1

    def start_at_block(self, window: bytes, bits: int, count: int) -> None:
        """Set the state of a new decoder: *window* was decoded last, and a block begins.

        Its first *count* bits are *bits*; it is fed the bytes after them.
        """
        if self._library.isal_inflate_set_dict(self._address, address_of(window), len(window)):
            raise CorruptData("the window is too long")
        self._head.read_in, self._head.read_in_length = bits, count


def compress(body: bytes) -> bytes:
    """Return *body* in zlib's format. ISA-L takes a third of the time of zlib's level 1."""
    packed: bytes = importlib.import_module("isal.isal_zlib").compress(body, 1)
    return packed


@functools.cache
def make_decoder() -> "Callable[[], BlockDecoder] | None":
    """Return a function that makes a decoder; None if the library is missing or unsuitable."""
    try:
        library = ctypes.CDLL(importlib.import_module("isal.isal_zlib").__file__)
        library.isal_inflate.argtypes = library.isal_inflate_init.argtypes = (ctypes.c_void_p,)
        library.isal_inflate_init.restype = None
        library.isal_inflate_set_dict.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32)
        works = _has_layout(library) and _can_copy_states(library)
    except (ImportError, OSError, AttributeError, TypeError, CorruptData):
        return None
    return partial(BlockDecoder, library) if works else None


def _has_layout(library: Any) -> bool:
    """Whether the library writes no more than `STATE_SIZE` bytes when it makes a state."""
    buffer = bytearray(CANARY * (STATE_SIZE + CANARY_BYTES))
    library.isal_inflate_init(address_of(buffer))
    after = buffer[STATE_SIZE:]
    return ctypes.sizeof(ctypes.c_void_p) == 8 and after == CANARY * CANARY_BYTES


def _can_copy_states(library: Any) -> bool:
    """Whether data larger than the window decodes correctly, each piece from a copied state."""
    plain = b"".join(b"%d %s\n" % (number, b"x" * (number % 60)) for number in range(4000))
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    packed = packer.compress(plain) + packer.flush()
    decoder = BlockDecoder(library)
    seen = bytearray()
    for at in range(0, len(packed), 4001):
        fed = packed[at : at + 4001]
        count = -1
        while count:
            decoder.feed(fed)
            out = bytearray(20_000)
            count = decoder.decode(memoryview(out))
            seen += out[:count]
            fed = fed[len(fed) - decoder.unconsumed :]
            decoder = decoder.snapshot()()
    return seen == plain and decoder.reached_end
