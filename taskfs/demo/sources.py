"""Sources of the bytes of stored objects: memory, files, repetitions and chains."""

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
    """The immutable bytes of one object; any thread may read them."""

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
    """A file on disk of constant size, opened for each read."""

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
    """One block repeated *count* times; it occupies the memory of one block."""

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
    """The concatenation of sources; a read copies the bytes."""

    def __init__(self, sources: Sequence[ByteSource]) -> None:
        self._sources = [source for source in sources if source.size]
        self._stops = list(accumulate(source.size for source in self._sources))

    @property
    def size(self) -> int:
        return self._stops[-1] if self._stops else 0

    def read(self, start: int, stop: int) -> bytes:
        pieces = []
        index = bisect_right(self._stops, start)
        while start < stop:
            source, base = self._sources[index], self._stops[index] - self._sources[index].size
            end = min(stop, self._stops[index])
            pieces.append(source.read(start - base, end - base))
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
