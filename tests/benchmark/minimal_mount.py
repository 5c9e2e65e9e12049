"""A minimal fusepy mount of one deflated member of a local file, for one sequential reader.

Run as a program: PATH START PACKED SIZE MOUNTPOINT. It has no store, no checksum, no cache and no
seeking, so its time is the lower bound for a mount.
"""

from __future__ import annotations

import ctypes
import stat
import sys
import threading
from typing import Any, Final

import fuse
from isal import isal_zlib  # type: ignore[import-not-found, import-untyped, unused-ignore]

_PIECE: Final = 256 << 10
_AHEAD: Final = 32 << 20  # bytes to decode ahead of the reader
_BEHIND: Final = 4 << 20  # bytes to keep behind the reader: the kernel reorders reads slightly


class _Member(fuse.Operations):  # type: ignore[misc]  # fusepy is untyped
    """The member; a thread starts to decode it at the first read."""

    def __init__(self, path: str, start: int, packed: int, size: int) -> None:
        self._source = path, start, packed
        self._size = size
        self._changed = threading.Condition()
        self._pieces: dict[int, bytes] = {}
        self._decoded = 0
        self._reached = 0
        self._thread = threading.Thread(target=self._decode, daemon=True)

    def _decode(self) -> None:
        path, start, packed = self._source
        decoder = isal_zlib.decompressobj(-15)
        with open(path, "rb", buffering=0) as file:
            file.seek(start)
            while packed and (packed_piece := file.read(min(_PIECE, packed))):
                packed -= len(packed_piece)
                piece = decoder.decompress(packed_piece)
                with self._changed:
                    while self._decoded - self._reached > _AHEAD:
                        self._changed.wait()
                    self._pieces[self._decoded] = piece
                    self._decoded += len(piece)
                    self._changed.notify_all()

    def getattr(self, path: str, fh: Any = None) -> dict[str, int]:
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
        return {"st_mode": stat.S_IFREG | 0o444, "st_nlink": 1, "st_size": self._size}

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        stop = min(offset + size, self._size)
        with self._changed:
            if not self._thread.ident:
                self._thread.start()
            while self._decoded < stop:
                self._changed.wait()
            self._reached = max(self._reached, offset)
            for at in [a for a, p in self._pieces.items() if a + len(p) < offset - _BEHIND]:
                del self._pieces[at]
            self._changed.notify_all()
            return b"".join(
                piece[max(0, offset - at) : stop - at]
                for at, piece in self._pieces.items()
                if at < stop and at + len(piece) > offset
            )


class _Mount(fuse.FUSE):  # type: ignore[misc]
    def read(self, path: bytes, buf: Any, size: int, offset: int, fip: Any) -> int:
        piece = self.operations("read", path.decode(), size, offset, 0)
        ctypes.memmove(buf, piece, len(piece))
        return len(piece)


if __name__ == "__main__":
    _Mount(_Member(sys.argv[1], *map(int, sys.argv[2:5])), sys.argv[5], foreground=True)
