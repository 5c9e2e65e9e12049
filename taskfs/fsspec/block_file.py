"""`BlockFile`: an open file for fsspec's own block cache (`blockcache::`)."""

import errno
import threading
from typing import Any

from fsspec.spec import AbstractBufferedFile

from taskfs.fsspec.file import Opener, TaskFile


class BlockFile(AbstractBufferedFile):  # type: ignore[misc]  # fsspec is untyped
    """A file that is read through `cache`, which fsspec replaces by its block cache.

    All blocks belong to the version that was opened; reads fail with ESTALE once it is replaced.
    *size* is the file's size when fsspec cached its first blocks. A different size means another
    version, whose blocks must not mix with the cached ones.
    """

    def __init__(
        self, fs: Opener, path: str, block_size: int | None = None, size: int | None = None
    ) -> None:
        self._lock = threading.Lock()
        self._file = TaskFile(fs, path)
        if size not in (None, self._file.size):
            self._file.close()
            text = "the cached blocks are of another version: clear that cache"
            raise OSError(errno.ESTALE, text, path)
        super().__init__(fs, path, "rb", block_size, cache_type="none", size=self._file.size)

    @property
    def cache(self) -> Any:
        """The cache that reads go through."""
        return self._cache

    @cache.setter
    def cache(self, cache: Any) -> None:
        if hasattr(cache, "multi_fetcher"):
            # The fetcher would open the path again, and perhaps get another version.
            cache.multi_fetcher = None
        self._cache = cache

    def read(self, length: int = -1) -> bytes:
        blocks = getattr(self._cache, "blocks", None)
        if not isinstance(blocks, set):
            return bytes(super().read(length))
        stop = self.size if length < 0 else min(self.size, self.loc + length)
        numbers = range(self.loc // self.blocksize, stop // self.blocksize + 1)
        missing = [number for number in numbers if number not in blocks]
        try:
            return bytes(super().read(length))
        except BaseException:
            # fsspec marks blocks as cached before they arrive. Unless the marks are removed, the
            # missing blocks would read as zeros.
            blocks.difference_update(missing)
            raise

    def _fetch_range(self, start: int, end: int) -> bytes:
        with self._lock:
            self._file.seek(start)
            return self._file.read(end - start)

    def close(self) -> None:
        self._file.close()
        super().close()

    def __del__(self) -> None:
        pass  # that of fsspec would close the file, and so take locks
