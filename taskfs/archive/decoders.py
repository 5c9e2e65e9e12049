"""Decoders of the compression methods of members (APPNOTE 4.4.5) with one protocol.

ISA-L decodes DEFLATE if it is installed, else zlib-ng does. Both can copy their state, so a member
is seekable. Members of the other methods are always decoded from their start.
"""

import bz2
import lzma
from collections.abc import Callable
from typing import Any, Final, Protocol

from zlib_ng import zlib_ng

from taskfs.archive import isal
from taskfs.errors import CorruptData, Unsupported
from taskfs.support.buffers import Buffer

_zlib: Any = zlib_ng  # its stub leaves out `copy`

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
    """A decoder that takes pieces and fills buffers. Not safe for concurrent use."""

    @property
    def reached_end(self) -> bool:
        """Whether the end mark of the compressed data was decoded."""
        ...

    @property
    def has_end_marker(self) -> bool:
        """Whether complete data always ends with an end mark."""
        ...

    @property
    def unconsumed(self) -> int:
        """The number of fed bytes that are not consumed yet."""
        ...

    def feed(self, piece: Buffer) -> None:
        """Set the next input; call this only after `decode` did not fill its buffer.

        *piece* replaces the `unconsumed` bytes; it may be a copy of them.
        """
        ...

    def decode(self, out: memoryview) -> int:
        """Fill *out*; return how many bytes of it are filled.

        Fewer than all means that more input is needed, or that the data has ended.

        Raises:
            CorruptData: the input is not valid for the method.
        """
        ...

    def snapshot(self) -> "Callable[[], Decoder] | None":
        """Return a function that makes a decoder in the present state, without `unconsumed` bytes.

        Return None where the method's library cannot copy its state.
        """
        ...


class DeflateDecoder:
    """Raw DEFLATE (RFC 1951) through zlib-ng."""

    has_end_marker = True

    def __init__(self, state: Any = None, spill: bytes = b"") -> None:
        self._state = state or _zlib.decompressobj(-15)
        self._spill = spill  # decoded but not returned yet
        self._fed: Buffer = b""

    @property
    def reached_end(self) -> bool:
        return bool(self._state.eof) and not self._spill

    @property
    def unconsumed(self) -> int:
        return len(self._fed)

    def feed(self, piece: Buffer) -> None:
        self._fed = piece

    def decode(self, out: memoryview) -> int:
        done = len(self._spill)
        if done:
            out[:done], self._spill = self._spill, b""
        while done < len(out) and not self._state.eof:
            try:
                decoded = self._state.decompress(self._fed, len(out) - done)
            except _zlib.error as exc:
                raise CorruptData(f"damaged deflate data ({exc})") from exc
            self._fed = self._state.unconsumed_tail
            if not decoded:
                break
            out[done : done + len(decoded)] = decoded
            done += len(decoded)
        return done

    def snapshot(self) -> "Callable[[], DeflateDecoder]":
        # An empty piece makes the state release its input. It may yield decoded bytes, which the
        # next `decode` returns first.
        self._spill += self._state.decompress(b"", 1) if not self._state.eof else b""
        saved, spill = self._state.copy(), self._spill
        return lambda: DeflateDecoder(saved.copy(), spill)


def decode_whole(method: int, packed: Buffer, size: int) -> memoryview:
    """Return the *size* bytes that *packed* decodes to.

    Raises:
        CorruptData: the data is invalid, or decodes to more or less than *size* bytes.
    """
    # For short data, ISA-L's decoder takes longer to make than it saves.
    decoder = DeflateDecoder() if method == DEFLATED else DECODERS[method]()
    decoder.feed(packed)
    buffer = memoryview(bytearray(size + 1))
    count = decoder.decode(buffer)
    if count < size or (count == size and decoder.has_end_marker and not decoder.reached_end):
        raise CorruptData(f"the data ends after {count} of {size} bytes, or without an end mark")
    if count > size:
        raise CorruptData(f"more data than the {size} bytes of the directory")
    return buffer[:size]


def make_deflate_decoder() -> Decoder:
    """Return a decoder of raw DEFLATE by the fastest library that is installed."""
    make = isal.make_decoder()
    return DeflateDecoder() if make is None else make()


class _BufferedDecoder:
    """A decoder whose library buffers the unused input: bzip2, LZMA, Zstandard."""

    has_end_marker = True
    unconsumed = 0

    def __init__(self, state: Any, error: type[Exception]) -> None:
        self._state = state
        self._error = error
        self._fed: Buffer = b""

    @property
    def reached_end(self) -> bool:
        return bool(self._state.eof)

    def feed(self, piece: Buffer) -> None:
        self._fed = piece

    def decode(self, out: memoryview) -> int:
        done = 0
        while done < len(out) and not self.reached_end:
            fed, self._fed = self._fed, b""
            try:
                decoded = self._state.decompress(fed, len(out) - done)
            except (self._error, EOFError, OSError, ValueError) as exc:
                raise CorruptData(f"damaged compressed data ({exc})") from exc
            if not decoded and (self._state.needs_input or not fed):
                break
            out[done : done + len(decoded)] = decoded
            done += len(decoded)
        return done

    def snapshot(self) -> None:
        return None


class LzmaDecoder(_BufferedDecoder):
    """LZMA as ZIP wraps it (APPNOTE 5.8.8): version, length of the properties, properties, data."""

    has_end_marker = False  # the end marker is optional: bit 1 of the flags (APPNOTE 4.4.4)

    def __init__(self) -> None:
        super().__init__(None, lzma.LZMAError)
        self._head = b""

    @property
    def reached_end(self) -> bool:
        return self._state is not None and super().reached_end

    def decode(self, out: memoryview) -> int:
        if self._state is None:
            self._head += self._fed
            self._fed = b""
            size = int.from_bytes(self._head[2:4], "little")
            if len(self._head) < 4 or len(self._head) < 4 + size:
                return 0
            self._fed = self._head[4 + size :]
            try:
                self._state = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[self._filter(size)])
            except (lzma.LZMAError, ValueError) as exc:
                raise CorruptData(f"damaged LZMA properties ({exc})") from exc
        return super().decode(out)

    def _filter(self, size: int) -> dict[str, int]:
        """Return the filter of the properties: lc, lp, pb and the dictionary's size."""
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
    DEFLATED: make_deflate_decoder,
    BZIP2: lambda: _BufferedDecoder(bz2.BZ2Decompressor(), OSError),
    LZMA: LzmaDecoder,
}
if (_make_zstandard := _zstandard()) is not None:
    DECODERS[ZSTANDARD] = _make_zstandard
