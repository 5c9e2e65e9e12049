"""Decoders of the compression methods that members use (APPNOTE 4.4.5), one shape for all.

Deflate goes through zlib-ng where it is installed, about half as fast again as zlib; both can copy
their state, which is what makes a member seekable. The others are read from the start.
"""

import bz2
import importlib
import lzma
from collections.abc import Callable
from typing import Any, Final, Protocol

from taskfs.errors import CorruptData, Unsupported

try:
    _zlib: Any = importlib.import_module("zlib_ng.zlib_ng")
except ImportError:
    _zlib = importlib.import_module("zlib")


def crc32(piece: bytes | memoryview, start: int = 0) -> int:
    """Return the CRC-32 of what gave *start*, followed by *piece* (APPNOTE 4.4.7)."""
    return int(_zlib.crc32(piece, start))


STORED: Final = 0
DEFLATED: Final = 8
BZIP2: Final = 12
LZMA: Final = 14
ZSTANDARD: Final = 93
METHOD_NAMES: Final = {
    0: "stored",
    1: "shrunk",
    6: "imploded",
    8: "deflate",
    9: "deflate64",
    12: "bzip2",
    14: "lzma",
    20: "zstd",
    93: "zstd",
    94: "mp3",
    95: "xz",
    96: "jpeg",
    97: "wavpack",
    98: "ppmd",
    99: "aes",
}


class Decoder(Protocol):
    """A decoder that is fed pieces and gives at most so many bytes at a time."""

    @property
    def ended(self) -> bool:
        """Whether the compressed data said that it is complete."""
        ...

    @property
    def needs_input(self) -> bool:
        """Whether it has used up the pieces it was fed."""
        ...

    @property
    def marks_end(self) -> bool:
        """Whether complete data always says so; else only its size tells."""
        ...

    def decode(self, piece: bytes, max_bytes: int) -> tuple[bytes, bytes]:
        """Return at most *max_bytes* decoded ones and what of *piece* must be fed again.

        Raises:
            CorruptData: these bytes are not what the method promises.
        """
        ...

    def copy(self) -> "Decoder | None":
        """Return a decoder in the same state, None where the method's library cannot."""
        ...


class DeflateDecoder:
    """Raw DEFLATE (RFC 1951)."""

    marks_end = True
    needs_input = True  # what it did not use it gives back

    def __init__(self, state: Any = None) -> None:
        self._state = state or _zlib.decompressobj(-15)

    @property
    def ended(self) -> bool:
        return bool(self._state.eof)

    def decode(self, piece: bytes, max_bytes: int) -> tuple[bytes, bytes]:
        try:
            out = self._state.decompress(piece, max_bytes)
        except _zlib.error as exc:
            raise CorruptData(f"damaged deflate data ({exc})") from exc
        return out, self._state.unconsumed_tail

    def copy(self) -> "DeflateDecoder":
        return DeflateDecoder(self._state.copy())


class _BufferedDecoder:
    """Decoders that keep the input they have not used: bzip2, LZMA, Zstandard."""

    marks_end = True

    def __init__(self, state: Any, error: type[Exception]) -> None:
        self._state = state
        self._error = error

    @property
    def ended(self) -> bool:
        return bool(self._state.eof)

    @property
    def needs_input(self) -> bool:
        return bool(self._state.needs_input)

    def decode(self, piece: bytes, max_bytes: int) -> tuple[bytes, bytes]:
        try:
            return self._state.decompress(piece, max_bytes), b""
        except (self._error, EOFError, OSError, ValueError) as exc:
            raise CorruptData(f"damaged compressed data ({exc})") from exc

    def copy(self) -> None:
        return None


class LzmaDecoder(_BufferedDecoder):
    """LZMA as ZIP wraps it (APPNOTE 5.8.8): version, length of the properties, properties, data."""

    marks_end = False  # the end marker is optional: bit 1 of the flags (APPNOTE 4.4.4)

    def __init__(self) -> None:
        super().__init__(None, lzma.LZMAError)
        self._head = b""

    @property
    def ended(self) -> bool:
        return self._state is not None and super().ended

    @property
    def needs_input(self) -> bool:
        return self._state is None or super().needs_input

    def decode(self, piece: bytes, max_bytes: int) -> tuple[bytes, bytes]:
        if self._state is None:
            self._head += piece
            size = int.from_bytes(self._head[2:4], "little")
            if len(self._head) < 4 or len(self._head) < 4 + size:
                return b"", b""
            piece = self._head[4 + size :]
            try:
                self._state = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[self._filter(size)])
            except (lzma.LZMAError, ValueError) as exc:
                raise CorruptData(f"damaged LZMA properties ({exc})") from exc
        if self._state.eof:
            return b"", b""
        return super().decode(piece, max_bytes)

    def _filter(self, size: int) -> dict[str, int]:
        """Return the filter that the properties describe: lc, lp, pb and the dictionary's size."""
        if size != 5:
            raise ValueError(f"{size} bytes of properties instead of 5")
        packed = self._head[4]
        if packed >= 9 * 5 * 5:
            raise ValueError("properties out of range")
        dictionary = int.from_bytes(self._head[5:9], "little")
        if dictionary > 64 << 20:
            raise Unsupported("LZMA with a dictionary larger than 64 MiB")
        return {
            "id": lzma.FILTER_LZMA1,
            "dict_size": max(4096, dictionary),
            "lc": packed % 9,
            "lp": packed // 9 % 5,
            "pb": packed // 45,
        }


def _zstandard() -> Callable[[], Decoder] | None:
    try:
        from compression import zstd  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return None
    return lambda: _BufferedDecoder(zstd.ZstdDecompressor(), zstd.ZstdError)


DECODERS: Final[dict[int, Callable[[], Decoder]]] = {
    DEFLATED: DeflateDecoder,
    BZIP2: lambda: _BufferedDecoder(bz2.BZ2Decompressor(), OSError),
    LZMA: LzmaDecoder,
}
if (_make_zstandard := _zstandard()) is not None:
    DECODERS[ZSTANDARD] = _make_zstandard
