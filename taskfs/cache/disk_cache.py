"""`DiskCache`: blocks and indexes on disk, shared by mounts and checked before use.

Blocks lie in segment files, indexes in sealed files. A crash, a full disk, a second
writer, a damaged byte or a renamed file causes a cache miss, and never wrong data. Two mounts
that write the same block write the same bytes. `eviction` says how much of the disk the cache may
take, and which files are evicted first.
"""

import contextlib
import hashlib
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from taskfs.cache import pins, sealed_file
from taskfs.cache.block import BLOCK
from taskfs.cache.eviction import FULL, INDEXES, RANGE_LOCKS, DiskSpace
from taskfs.cache.older_formats import mark_used
from taskfs.cache.range_locks import lock_range
from taskfs.cache.sealed_file import Content, SealedWriter
from taskfs.cache.segment_file import SEGMENT_BLOCKS, Segment
from taskfs.cache.segment_table import SegmentTable
from taskfs.support.buffers import Buffer, allocate

log = logging.getLogger(__name__)

FORMAT: Final = "v1"  # the directory of this layout; another layout has another directory
# Seconds between two updates of a segment's time of use, by which eviction orders the files.
TOUCH_S: Final = 60.0
# Seconds without writes after one failed: a full or read-only disk is not tried for each block.
PAUSE_S: Final = 60.0


def cache_key(*parts: object) -> str:
    """Return a file name that identifies *parts*."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


class DiskCache:
    """The cache directory.

    Safe for concurrent use, by threads and by processes. No thread waits for a lock while another
    one reads or writes blocks; see also `segment_file`. What fails is a miss, and only
    `open_segment` raises. The first write that fails is logged.
    """

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self._root = directory / FORMAT
        self._segments = SegmentTable()
        # `DiskSpace` gets a method of the table and none of this cache, because a cycle of
        # references would keep the files of a dropped cache open.
        self._space = DiskSpace(self._root, max_bytes, self._segments.forget)
        self._paused_until_s = float("-inf")
        self._has_warned = False
        self._is_usable = max_bytes > 0 and self._make_directories()
        if self._is_usable:
            mark_used(self._root, self)
        self._check_reserve()

    @property
    def root(self) -> Path:
        """The directory of the cached files in this format."""
        return self._root

    def blocks_of(self, key: str) -> "DiskBlocks":
        """Return the cached blocks of one object version; *key* is a `cache_key`."""
        return DiskBlocks(self, self.blocks_directory(key), key)

    def blocks_directory(self, key: str) -> Path:
        """Return the directory of the blocks of the object version *key*."""
        return self._root / "blocks" / key[:2]

    def read_sealed(self, directory: str, key: str, kind: bytes) -> Content | None:
        """Return the content of a sealed file, or None if it is missing or damaged."""
        path = self._root / directory / key
        return sealed_file.read_sealed(path, kind) if self._is_usable else None

    def create_sealed(self, directory: str, key: str, size: int, scratch: int) -> SealedWriter:
        """Return a writer of a sealed file of about *size* bytes, with *scratch* bytes in other
        files until it is written.

        It writes to a temporary file elsewhere if the cache has no room for the file.
        """
        is_writable = self._is_usable and time.monotonic() >= self._paused_until_s
        if is_writable and self._space.fits(size) and self._space.has_space(size + scratch):
            return SealedWriter(key, self._root / directory)
        return SealedWriter()

    def publish_sealed(self, writer: SealedWriter, last_drop_ns: int) -> None:
        """Store the sealed file, an index, under its key, in place of an earlier one.

        Store none if indexes were removed after *last_drop_ns*, the time of the last removal when
        the index was requested: the archive may have been replaced before that.
        """
        if writer.is_private:
            return

        def publish() -> None:
            writer.publish()
            self._space.note_written(writer.size)

        if self.last_drop_ns() == last_drop_ns:
            self._try_write(publish, 0)
            if self.last_drop_ns() != last_drop_ns:
                self.drop_index(writer.name)
        writer.discard()

    def drop_index(self, key: str, *, is_damaged: bool = False) -> None:
        """Remove the index under *key*; move a pinned one to the pins, unless it is damaged."""
        pinned = set() if is_damaged else pins.pinned_files(self._root)
        pins.drop_index(self._root, self._root / INDEXES / key, pinned)

    def drop_indexes(self) -> None:
        """Remove all indexes; those that are being built are not stored."""
        with contextlib.suppress(OSError):  # without the file, none is being built
            os.utime(self._root / RANGE_LOCKS, ns=(time.time_ns(),) * 2)
        pinned = pins.pinned_files(self._root)
        with contextlib.suppress(OSError):
            for name in os.listdir(self._root / INDEXES):
                if not name.startswith("."):
                    pins.drop_index(self._root, self._root / INDEXES / name, pinned)

    def last_drop_ns(self) -> int:
        """Return when a process last removed all indexes, as the time of the lock file."""
        with contextlib.suppress(OSError):
            return os.stat(self._root / RANGE_LOCKS).st_mtime_ns
        return 0

    def lock_range(
        self, key: str, first: int, last: int, is_on_disk: Callable[[], bool]
    ) -> contextlib.AbstractContextManager[None]:
        """Lock a range against fetches by other processes; see `range_locks`."""
        if not self._is_usable:
            return contextlib.nullcontext()
        return lock_range(self._root / RANGE_LOCKS, key, first, last, is_on_disk)

    def lock_index(self, key: str) -> contextlib.AbstractContextManager[None]:
        """Lock the index under *key* against fetches by other processes."""
        path = self._root / INDEXES / key
        return self.lock_range(key, 0, 0, path.exists)

    def _try_write(self, write: Callable[[], None], count: int) -> None:
        """Call *write*, which writes *count* bytes, if the disk's reserve allows it.

        No caller needs the write: on OSError, log once and suspend writes for `PAUSE_S`.
        """
        if not self._is_usable or time.monotonic() < self._paused_until_s:
            return
        try:
            with self._space.reserve(count) as has_space:
                if has_space:
                    self._write(write, count)
                else:
                    self._warn_once("it would leave less than 5 % of its disk free")
        except OSError as exc:
            self._paused_until_s = time.monotonic() + PAUSE_S
            self._warn_once(exc)

    def _write(self, write: Callable[[], None], count: int) -> None:
        """Call *write*; once more with new directories, or after an eviction on a full disk.

        Raises:
            OSError: it failed.
        """
        try:
            write()
        except FileNotFoundError:  # the directory was removed while it was in use
            self._is_usable = self._make_directories()
            if self._is_usable:
                write()
        except OSError as exc:
            if exc.errno not in FULL:
                raise
            self._space.shrink(count)
            write()

    def _warn_once(self, reason: object) -> None:
        if not self._has_warned:
            self._has_warned = True
            log.warning("the cache cannot be written (%s): reads continue without it", reason)

    def _check_reserve(self) -> None:
        """Evict if the cache takes space of the disk's reserve; checked every few seconds."""
        if self._is_usable:
            self._space.check_reserve()

    def _make_directories(self) -> bool:
        try:
            for directory in (self._root.parent, self._root):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = os.lstat(self._root)
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
                raise PermissionError(f"{self._root} is a link or belongs to another user")
            os.chmod(self._root, 0o700)
            for name in ("blocks", INDEXES):
                (self._root / name).mkdir(mode=0o700, exist_ok=True)
        except OSError as exc:
            log.warning("there is no cache on disk (%s): see --cache-dir", exc)
            return False
        return True

    def open_segment(self, path: Path, *, create: bool = False) -> Segment | None:
        """Return the segment; None if there is no such file and *create* is false.

        Raises:
            OSError: it cannot be opened.
        """
        return self._segments.open(path, create=create) if self._is_usable else None

    def note_use(self, segment: Segment) -> None:
        """Mark the segment as used, so that others are evicted first."""
        self._check_reserve()
        now_s = time.monotonic()
        if now_s - segment.touched_s > TOUCH_S:
            segment.touched_s = now_s
            with contextlib.suppress(OSError):
                os.utime(segment.descriptor)

    def write_blocks(self, path: Path, first: int, run: memoryview) -> None:
        """Store *run*, whole blocks from the segment's block *first* on."""
        self._try_write(lambda: self._write_blocks(path, first, run), len(run))

    def _write_blocks(self, path: Path, first: int, run: memoryview) -> None:
        segment = self.open_segment(path, create=True)
        if segment is None:
            return
        try:
            segment.write(first, run)
        except OSError:
            if not segment.present(0, SEGMENT_BLOCKS):  # the file has no valid block
                with contextlib.suppress(OSError):
                    path.unlink()
            raise
        segment.touched_s = time.monotonic()
        self._space.note_written(len(run))


class DiskBlocks:
    """The blocks of one object version on disk; implements `PersistentBlocks`.

    Safe for concurrent use.
    """

    def __init__(self, cache: DiskCache, directory: Path, key: str) -> None:
        self._cache = cache
        self._directory = directory
        self._key = key

    def _split(self, first: int, stop: int) -> Iterator[tuple[Path, int, int, int]]:
        """Split the blocks [first, stop) by segment file.

        Yield the path, the half-open range of block numbers in the file, and the number of the
        first of these blocks in the object.
        """
        index = first
        while index < stop:
            number, begin = divmod(index, SEGMENT_BLOCKS)
            end = min(SEGMENT_BLOCKS, begin + stop - index)
            yield self._directory / f"{self._key}-{number:x}", begin, end, index
            index += end - begin

    def present(self, first: int, stop: int) -> list[int]:
        """Return which of the blocks [first, stop) seem to be on disk; no block is read."""
        found: list[int] = []
        for path, begin, end, index in self._split(first, stop):
            with contextlib.suppress(OSError):
                segment = self._cache.open_segment(path)
                if segment is not None:
                    found += [index + n - begin for n in segment.present(begin, end)]
        return found

    def get(self, first: int, count: int = 1) -> Buffer | None:
        """Return up to *count* adjacent valid blocks from *first* on, or None."""
        buffer = allocate(count * BLOCK)
        filled = 0
        for path, begin, end, index in self._split(first, first + count):
            start, length = (index - first) * BLOCK, (end - begin) * BLOCK
            try:
                segment = self._cache.open_segment(path)
                if segment is None:
                    break
                read, is_next_damaged = segment.read(begin, buffer[start : start + length])
            except OSError:
                break
            if is_next_damaged:
                damaged = index + read // BLOCK
                self.drop(damaged, damaged)
            if read:
                self._cache.note_use(segment)
            filled += read
            if read < length:
                break
        # A copy of a short result, because a view would hold the whole buffer in memory.
        is_long = filled > len(buffer) // 2
        return (buffer[:filled] if is_long else bytes(buffer[:filled])) or None

    def put(self, first: int, run: Buffer) -> None:
        """Store *run*, whole blocks from *first* on; the object's last block may be short."""
        view = memoryview(run)
        for path, begin, end, index in self._split(first, first + -(-len(run) // BLOCK)):
            start = (index - first) * BLOCK
            self._cache.write_blocks(path, begin, view[start : start + (end - begin) * BLOCK])

    def files(self, first: int, stop: int) -> list[str]:
        """Return the files for the blocks [first, stop), relative to the cache's directory."""
        paths = [path for path, *_ in self._split(first, stop)]
        return [str(path.relative_to(self._cache.root)) for path in paths]

    def lock_range(self, first: int, last: int) -> contextlib.AbstractContextManager[None]:
        """Lock the blocks [first, last] against fetches by other processes."""
        return self._cache.lock_range(
            self._key, first, last, lambda: len(self.present(first, last + 1)) > last - first
        )

    def drop(self, first: int, last: int) -> None:
        """Remove the blocks [first, last]."""
        for path, begin, end, _ in self._split(first, last + 1):
            with contextlib.suppress(OSError):
                segment = self._cache.open_segment(path)
                if segment is not None:
                    segment.clear(begin, end)
