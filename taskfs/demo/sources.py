"""Where the bytes of a stored object come from: anything with a size that reads [start, stop)."""

from __future__ import annotations

import io
import os
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Protocol


class ByteSource(Protocol):
    """The bytes of one object; never changes, and is read by any thread."""

    @property
    def size(self) -> int: ...

    def read(self, start: int, stop: int) -> bytes | memoryview:
        """Return the bytes [start, stop); 0 <= start <= stop <= size."""


class BytesSource:
    """Bytes in memory; a read copies nothing."""

    def __init__(self, content: bytes) -> None:
        self._view = memoryview(content)

    @property
    def size(self) -> int:
        return len(self._view)

    def read(self, start: int, stop: int) -> memoryview:
        return self._view[start:stop]


class FileSource:
    """A file on disk, whose size is looked up once; opened for each read, so none stays open."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._size = self._path.stat().st_size

    @property
    def size(self) -> int:
        return self._size

    def read(self, start: int, stop: int) -> bytes:
        with self._path.open("rb", buffering=0) as file:
            return os.pread(file.fileno(), stop - start, start)


@dataclass(frozen=True, slots=True)
class RepeatedSource:
    """One block, *count* times over: an object of any size that occupies one block."""

    block: bytes
    count: int

    @property
    def size(self) -> int:
        return len(self.block) * self.count

    def read(self, start: int, stop: int) -> bytes:
        first, skip = divmod(start, len(self.block))
        repeats = -(-(stop - first * len(self.block)) // len(self.block))
        return (self.block * repeats)[skip : skip + stop - start]


class ChainSource:
    """Sources one after another; a read copies what it returns."""

    def __init__(self, parts: Sequence[ByteSource]) -> None:
        self._parts = [part for part in parts if part.size]
        self._stops = list(accumulate(part.size for part in self._parts))

    @property
    def size(self) -> int:
        return self._stops[-1] if self._stops else 0

    def read(self, start: int, stop: int) -> bytes:
        pieces = []
        index = bisect_right(self._stops, start)
        while start < stop:
            part, base = self._parts[index], self._stops[index] - self._parts[index].size
            end = min(stop, self._stops[index])
            pieces.append(part.read(start - base, end - base))
            start, index = end, index + 1
        return b"".join(pieces)


class SourceFile(io.RawIOBase):
    """A source as a seekable binary file, for `zipfile`."""

    def __init__(self, source: ByteSource) -> None:
        super().__init__()
        self._source = source
        self._offset = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._offset

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._offset, os.SEEK_END: self._source.size}
        self._offset = max(0, base[whence] + offset)
        return self._offset

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        start = min(self._offset, self._source.size)
        stop = min(start + len(buffer), self._source.size)
        buffer[: stop - start] = self._source.read(start, stop)
        self._offset = stop
        return stop - start
