"""`taskfs.archive.decoders`: one shape for all methods, fed in pieces of any length."""

import bz2
import random
import zlib
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskfs.archive import isal as igzip
from taskfs.archive.decoders import (
    BZIP2,
    DECODERS,
    DEFLATED,
    LZMA,
    Decoder,
    DeflateDecoder,
)
from taskfs.errors import CorruptData, TaskFSError, Unsupported
from taskfs.support.checksum import crc32
from tests.peaks import takes_less
from tests.zips import cheap_bytes, deflate, lzma_alone

SEARCHING = settings(max_examples=150, deadline=None, derandomize=True)
BODY = cheap_bytes(60_000)
MAKERS: dict[str, Callable[[], Decoder]] = {
    "deflate": DECODERS[DEFLATED],
    "deflate by zlib": DeflateDecoder,
    "bzip2": DECODERS[BZIP2],
    "lzma": DECODERS[LZMA],
}
PACKED = {
    "deflate": ("deflate", deflate(BODY)),
    "deflate, stored blocks": ("deflate", deflate(BODY, 0)),
    "deflate by zlib": ("deflate by zlib", deflate(BODY)),
    "deflate by zlib, stored blocks": ("deflate by zlib", deflate(BODY, 0)),
    "bzip2": ("bzip2", bz2.compress(BODY)),
    "lzma": ("lzma", lzma_alone(BODY)),
    "lzma without an end marker": ("lzma", lzma_alone(BODY, end_marker=False)),
}


def fill(decoder: Decoder, max_bytes: int) -> bytes:
    """Return the next decoded bytes, at most *max_bytes*."""
    out = bytearray(max_bytes)
    return bytes(out[: decoder.decode(memoryview(out))])


def decoded(
    make: Callable[[], Decoder], packed: bytes, size: int, pieces: Iterator[int], max_bytes: int
) -> tuple[bytes, bool]:
    """Return the bytes decoded from *pieces*, and whether the decoder saw its end."""
    decoder = make()
    out = b""
    at = 0
    for _ in range(10 * (size + len(packed)) + 100):
        new = fill(decoder, max_bytes)
        out += new
        if len(out) >= size:
            break
        if len(new) < max_bytes and not decoder.unconsumed:
            length = next(pieces)
            if at >= len(packed):
                break
            decoder.feed(packed[at : at + length])
            at += length
    return out, decoder.reached_end


def always(length: int) -> Iterator[int]:
    while True:
        yield length


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("length", [1, 3, 997, 1 << 16])
@pytest.mark.parametrize("max_bytes", [1000, 1 << 17])
def test_pieces_of_any_length_decode_alike(name: str, length: int, max_bytes: int) -> None:
    """I-8: A member decodes to the same bytes whatever pieces it comes in."""
    method, packed = PACKED[name]
    out, _ = decoded(MAKERS[method], packed, len(BODY), always(length), max_bytes)
    assert out == BODY


@pytest.mark.parametrize("name", PACKED)
def test_decode_returns_no_more_than_the_buffer_holds(name: str) -> None:
    """Y-10: `decode` returns at most *max_bytes*, so a bomb is decoded piece by piece."""
    method, packed = PACKED[name]
    decoder = MAKERS[method]()
    decoder.feed(packed)
    out = b""
    while len(out) < len(BODY):
        room = bytearray(b"!" * 900)
        count = decoder.decode(memoryview(room)[:777])
        assert 0 < count <= 777
        assert room[777:] == b"!" * 123
        out += room[:count]
    assert out == BODY


@pytest.mark.parametrize("name", PACKED)
def test_damage_is_corrupt_data_or_other_bytes_never_another_exception(name: str) -> None:
    """style, 4: foreign exceptions are renamed where they enter."""
    method, packed = PACKED[name]
    rng = random.Random(name)
    for _ in range(60):
        damaged = bytearray(packed)
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(min(len(damaged), rng.choice([12, 1 << 20])))] ^= rng.randint(
                1, 255
            )
        try:
            out, _ = decoded(MAKERS[method], bytes(damaged), len(BODY), always(1 << 14), 1 << 17)
        except TaskFSError as exc:
            assert isinstance(exc, CorruptData | Unsupported)
        else:
            assert len(out) <= len(BODY) + (1 << 17)


@SEARCHING
@given(st.sampled_from(sorted(MAKERS)), st.binary(max_size=200), st.integers(1, 50))
def test_random_bytes_are_corrupt_data_or_end(method: str, packed: bytes, length: int) -> None:
    """style, 4: foreign exceptions are renamed where they enter."""
    try:
        decoded(MAKERS[method], packed, 10_000, always(length), 1000)
    except TaskFSError as exc:
        assert isinstance(exc, CorruptData)


@pytest.mark.parametrize("name", ["deflate", "deflate by zlib"])
@pytest.mark.parametrize("body", [BODY, cheap_bytes(400_000), bytes(300_000)])
def test_a_snapshot_of_a_deflate_decoder_continues_from_its_state(name: str, body: bytes) -> None:
    """R-8: A restored decoder goes on from its snapshot, independent of the original."""
    packed = deflate(body)
    for before in (1, 20_000, len(body) // 3, len(body) - 1):
        decoder = MAKERS[name]()
        decoder.feed(packed)
        first = b""
        while len(first) < before:
            first += fill(decoder, before - len(first))
        unconsumed = decoder.unconsumed
        restore = decoder.snapshot()
        assert restore is not None
        rest = packed[len(packed) - unconsumed :]
        decoder.feed(rest)
        copies = [decoder, restore(), restore()]
        outs = [b"", b"", b""]
        for copy in copies[1:]:
            copy.feed(rest)
        while not all(copy.reached_end for copy in copies):
            for place, copy in enumerate(copies):
                outs[place] += fill(copy, 5000 + place)
        assert first + outs[0] == body
        assert outs[0] == outs[1] == outs[2]


def test_igzip_is_used_where_it_is_installed() -> None:
    """R-8: ISA-L is used where it is installed, and its state has the expected layout."""
    assert igzip.make_decoder() is not None


@pytest.mark.parametrize("name", ["deflate", "deflate by zlib"])
def test_a_deflate_decoder_has_ended_when_the_data_is_complete(name: str) -> None:
    """I-8: Bytes behind the last DEFLATE block do not belong to the member."""
    decoder = MAKERS[name]()
    decoder.feed(deflate(b"hello") + b"trailing")
    assert (fill(decoder, 100), decoder.reached_end) == (b"hello", True)
    decoder = MAKERS[name]()
    decoder.feed(deflate(b"hello")[:-1])
    fill(decoder, 100)
    assert not decoder.reached_end


@pytest.mark.parametrize(
    "head",
    [
        b"\x09\x04\x04\x00" + bytes(4),  # four bytes of properties
        b"\x09\x04\x06\x00" + bytes(6),
        b"\x09\x04\x05\x00\xe1" + bytes(4),  # 225: lc, lp, pb out of range
        b"\x09\x04\x05\x00\xff" + bytes(4),
        b"\x09\x04\x05\x00\x2c" + bytes(4),  # lc 8, lp 4: more than a decoder keeps
    ],
)
def test_invalid_lzma_properties_are_corrupt_data(head: bytes) -> None:
    """X-4: A damaged archive is EIO."""
    with pytest.raises(CorruptData):
        decoded(DECODERS[LZMA], head + bytes(100), 1000, always(1 << 16), 1000)


def test_lzma_dictionaries_too_large_for_memory_are_not_called_damage() -> None:
    """X-6, X-4: A feature that cannot be read is EOPNOTSUPP, and damage is EIO."""
    packed = lzma_alone(BODY, dictionary=1 << 20)
    packed = packed[:5] + (128 << 20).to_bytes(4, "little") + packed[9:]
    try:
        out, _ = decoded(DECODERS[LZMA], packed, len(BODY), always(1 << 16), 1 << 17)
    except TaskFSError as exc:
        assert not isinstance(exc, CorruptData)
    else:
        assert out == BODY


def test_large_lzma_properties_allocate_nothing() -> None:
    """R-20, R-22: A header that announces a dictionary of 4 GiB costs no memory."""
    head = b"\x09\x04\x05\x00\x5d\xff\xff\xff\xff"

    def refuse() -> None:
        with pytest.raises(TaskFSError):
            decoded(DECODERS[LZMA], head + b"\xff" * 100, 1000, always(1 << 16), 1000)

    assert takes_less(refuse, 1 << 20)


@SEARCHING
@given(st.lists(st.binary(max_size=100), max_size=5))
def test_crc32_is_zlib_s(pieces: list[bytes]) -> None:
    """APPNOTE 4.4.7: the CRC-32 of ZIP, piece by piece."""
    crc = 0
    for piece in pieces:
        crc = crc32(piece, crc)
    assert crc == zlib.crc32(b"".join(pieces))
