"""`FrozenCache`: the cache directory for `--offline`, which leaves it as it is."""

import contextlib
from collections.abc import Callable
from pathlib import Path

from taskfs.cache.disk_cache import DiskBlocks, DiskCache
from taskfs.cache.pins import DIRECTORY as PINS
from taskfs.cache.sealed_file import Content, SealedWriter


class FrozenCache(DiskCache):
    """The cache directory, read only.

    Damaged blocks and dropped indexes stay on disk, because they could not be fetched again.
    """

    def __init__(self, directory: Path, max_bytes: int) -> None:
        super().__init__(directory, max_bytes)
        self._damaged: set[str] = set()  # keys of indexes

    def blocks_of(self, key: str) -> DiskBlocks:
        return _FrozenBlocks(self, self.blocks_directory(key), key)

    def read_sealed(self, directory: str, key: str, kind: bytes) -> Content | None:
        """Return the content of a sealed file, which may be the dropped one of a pinned task."""
        if key in self._damaged:
            return None
        return super().read_sealed(directory, key, kind) or super().read_sealed(PINS, key, kind)

    def create_sealed(self, directory: str, key: str, size: int, scratch: int) -> SealedWriter:
        return SealedWriter()

    def publish_sealed(self, writer: SealedWriter, last_drop_ns: int) -> None:
        writer.discard()

    def drop_index(self, key: str, *, is_damaged: bool = False) -> None:
        if is_damaged:
            self._damaged.add(key)

    def drop_indexes(self) -> None:
        pass

    def _check_reserve(self) -> None:
        pass

    def lock_range(
        self, key: str, first: int, last: int, is_on_disk: Callable[[], bool]
    ) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()  # there are no fetches to coordinate


class _FrozenBlocks(DiskBlocks):
    def put(self, first: int, run: bytes | bytearray | memoryview) -> None:
        pass

    def drop(self, first: int, last: int) -> None:
        pass
